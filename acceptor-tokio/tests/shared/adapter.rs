//! Tests shared by the adapters whose streams implement `futures-io`; each includes this file.
//!
//! The including file defines `runtime()`, and the adapter's own `RuntimeStream` and `RuntimeListener`.
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};

use super::adapter::{
    Acceptor, BoxError, Connection, EndKind, ListenError, ListenOptions, ListenerId, Phase, Pool,
    Runtime, Spec, TcpListener, acceptor_fn,
};
use super::{RuntimeListener, RuntimeStream, runtime};

/// How long a test waits for an event. Only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn echo(mut stream: RuntimeStream) -> Result<(), BoxError> {
    let mut buffer = [0; 64];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}

pub(crate) fn echo_spec() -> Spec<impl Acceptor<TcpListener>> {
    Spec::new(
        "echo",
        acceptor_fn(|connection: Connection| echo(connection.stream)),
    )
}

pub(crate) fn listen(
    pool: &Pool,
    address: SocketAddr,
    acceptors: usize,
) -> (ListenerId, SocketAddr) {
    let socket = ListenOptions::new(address).bind().unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, &runtime()).unwrap();
    (pool.add_listener(listener, acceptors).unwrap(), address)
}

/// A connected blocking client, independent of the runtime.
#[track_caller]
pub(crate) fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[track_caller]
pub(crate) fn ping(client: &mut TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

/// Waits for the future on a separate thread, so that the test can time out.
#[track_caller]
pub(crate) fn soon<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, result) = channel();
    std::thread::spawn(move || sender.send(block_on(future)));
    result
        .recv_timeout(PATIENCE)
        .expect("the future is ready in time")
}

#[test]
fn clients_are_echoed_until_the_stop() {
    let pool = Pool::start(runtime(), echo_spec()).unwrap();
    let (_, address) = listen(&pool, loopback(), 3);
    let mut clients: Vec<_> = (0..20).map(|_| client(address)).collect();
    clients.iter_mut().for_each(ping);
    let report = soon(pool.stop());
    let stopped = report.connections(Phase::Stop).of(EndKind::Stopped);
    assert_eq!(stopped, 20, "{report}");
    let acceptors = report.all_acceptors().of(EndKind::Stopped);
    assert_eq!((acceptors, report.stuck), (3, 0), "{report}");
    for mut client in clients {
        assert_eq!(
            client.read(&mut [0]).unwrap_or(0),
            0,
            "the socket is closed"
        );
    }
}

#[test]
fn address_can_be_rebound_after_close() {
    let pool = Pool::start(runtime(), echo_spec()).unwrap();
    let (mut id, address) = listen(&pool, loopback(), 3);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = client(address);
        ping(&mut client);
        clients.push(client);
        soon(pool.close_listener(id)).unwrap();
        // The default options share the address with no other listener: this fails if the old one is still open.
        (id, _) = listen(&pool, address, 3);
    }
    clients.iter_mut().for_each(ping);
    assert_eq!(pool.counts().unwrap().connections, 20);
}

#[cfg(unix)]
#[test]
fn listener_into_std_keeps_its_queue() {
    use std::os::fd::AsFd;
    let runtime = runtime();
    let listener = TcpListener::bind(ListenOptions::new(loopback()), &runtime).unwrap();
    let address = listener.local_addr().unwrap();
    let queued = client(address);
    let same = socket2::SockRef::from(&listener.as_fd())
        .local_addr()
        .unwrap();
    assert_eq!(same.as_socket(), Some(address));
    let standard = listener.into_std().unwrap();
    assert_eq!(standard.local_addr().unwrap(), address);
    standard.set_nonblocking(false).unwrap();
    let (_, peer) = standard.accept().unwrap();
    assert_eq!(peer, queued.local_addr().unwrap());
    // And back again.
    let again = TcpListener::from_std(standard, &runtime).unwrap();
    assert_eq!(again.local_addr().unwrap(), address);
}

#[test]
fn address_in_use_is_a_listen_error() {
    let runtime = runtime();
    let listener = TcpListener::bind(ListenOptions::new(loopback()), &runtime).unwrap();
    let options = ListenOptions::new(listener.local_addr().unwrap());
    let error = TcpListener::bind(options.clone(), &runtime).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let inside = error
        .get_ref()
        .and_then(|inside| inside.downcast_ref::<ListenError>());
    assert_eq!(
        inside.unwrap().to_string(),
        options.bind().unwrap_err().to_string()
    );
}

#[test]
fn blocking_std_listener_is_accepted() {
    let pool = Pool::start(runtime(), echo_spec()).unwrap();
    let socket = std::net::TcpListener::bind(loopback()).unwrap();
    let address = socket.local_addr().unwrap();
    pool.add_listener(TcpListener::from_std(socket, &runtime()).unwrap(), 1)
        .unwrap();
    ping(&mut client(address));
    ping(&mut client(address));
    assert_eq!(soon(pool.stop()).stuck, 0, "no thread is blocked");
}

/// Converts a listener of the runtime's own type, whose streams are the runtime's own.
#[test]
fn runtime_listener_keeps_its_streams() {
    let (sender, receiver) = channel();
    let serve = move |connection: Connection| {
        let stream: RuntimeStream = connection.stream;
        let addresses = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        assert_eq!(addresses, (connection.local_addr, connection.peer_addr));
        sender.send(addresses).unwrap();
        echo(stream)
    };
    let spec = Spec::new("own", acceptor_fn(serve));
    let pool = Pool::start(runtime(), spec).unwrap();
    let listener = block_on(RuntimeListener::bind(loopback())).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TcpListener::try_from(listener).unwrap();
    pool.add_listener(listener, 1).unwrap();
    let mut client = client(address);
    ping(&mut client);
    let served = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(served, (address, client.local_addr().unwrap()));
}

#[test]
fn ipv4_wildcard_has_own_local_address() {
    check_wildcard((Ipv4Addr::UNSPECIFIED, 0), Ipv4Addr::LOCALHOST.into());
}

#[test]
fn ipv6_wildcard_has_own_local_address() {
    check_wildcard((Ipv6Addr::UNSPECIFIED, 0), Ipv6Addr::LOCALHOST.into());
}

#[track_caller]
fn check_wildcard(wildcard: impl Into<SocketAddr>, address: std::net::IpAddr) {
    let (sender, receiver) = channel();
    let serve = move |connection: Connection| {
        sender.send(connection.local_addr).unwrap();
        echo(connection.stream)
    };
    let pool = Pool::start(runtime(), Spec::new("wildcard", acceptor_fn(serve))).unwrap();
    let (_, bound) = listen(&pool, wildcard.into(), 2);
    let client = client(SocketAddr::new(address, bound.port()));
    let local = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(local, client.peer_addr().unwrap());
    assert_eq!(pool.connections().unwrap()[0].local_addr, local);
}

#[test]
fn sleep_is_never_early() {
    let runtime = runtime();
    for micros in [1, 100, 1_500, 20_000, 50_000] {
        let (runtime, deadline) = (
            runtime.clone(),
            runtime.now() + Duration::from_micros(micros),
        );
        let woke = soon(async move {
            runtime.sleep_until(deadline).await;
            runtime.now()
        });
        assert!(woke >= deadline, "{:?} early", deadline - woke);
    }
}

#[test]
fn past_sleep_is_ready_century_is_not() {
    let runtime = runtime();
    let mut cx = Context::from_waker(Waker::noop());
    let now = Instant::now();
    let past = pin!(runtime.sleep_until(now - Duration::from_millis(1)));
    assert_eq!(past.poll(&mut cx), Poll::Ready(()));
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    let later = pin!(runtime.sleep_until(now + century));
    assert_eq!(later.poll(&mut cx), Poll::Pending);
}

/// A spawned task continues without a handle to it.
#[test]
fn task_is_detached() {
    let (sender, receiver): (_, Receiver<()>) = channel();
    let sleeps = runtime();
    runtime().spawn(async move {
        sleeps
            .sleep_until(Instant::now() + Duration::from_millis(20))
            .await;
        sender.send(()).unwrap();
    });
    receiver.recv_timeout(PATIENCE).expect("the task runs");
}
