//! What the test files share: a pool's listeners, clients, the reports that came, and waiting with patience.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::future::Future;
use std::net::SocketAddr;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acceptor_tokio::{
    Acceptor, BoxError, Connection, Event, ListenOptions, ListenerId, Observer, PoolHandle, Report,
    Spec, TcpListener, TokioRuntime, observer_fn,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a test waits for what must happen. Only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a stop may take beyond its phases, on a noisy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(5);

/// Waits for something that must happen.
#[track_caller]
pub(crate) fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: within {PATIENCE:?} this did not happen: {what}"),
        }
    }
}

/// Waits until something that gives no signal has come true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) -> impl Future<Output = ()> {
    soon(what, async move {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// The runtime that the test runs in.
pub(crate) fn runtime() -> TokioRuntime {
    TokioRuntime::current().expect("the test runs in a runtime with a timer")
}

/// A loopback address whose port the system chooses.
pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Binds an address and adds the listener to the pool.
pub(crate) fn listen_on(
    pool: &impl AsRef<PoolHandle>,
    runtime: &TokioRuntime,
    address: SocketAddr,
    acceptors: usize,
) -> (ListenerId, SocketAddr) {
    let socket = ListenOptions::new(address).bind();
    let socket = socket.expect("the address is free");
    let address = socket.local_addr().expect("a bound socket has an address");
    let listener = TcpListener::from_std(socket, runtime).expect("the runtime has I/O");
    let id = pool.as_ref().add_listener(listener, acceptors);
    (id.expect("the pool runs"), address)
}

/// Adds a listener on loopback, in the runtime that the test runs in.
pub(crate) fn listen(pool: &impl AsRef<PoolHandle>, acceptors: usize) -> (ListenerId, SocketAddr) {
    listen_on(pool, &runtime(), loopback(), acceptors)
}

/// A connected client.
#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> impl Future<Output = TcpStream> {
    let connecting = soon("a client connects", TcpStream::connect(address));
    async move { connecting.await.expect("the listener is open") }
}

/// Sends one byte and waits for it to come back: from then on the connection is served.
#[track_caller]
pub(crate) fn ping(client: &mut TcpStream) -> impl Future<Output = ()> {
    soon("a byte comes back", async {
        client.write_all(&[7]).await.expect("the server reads");
        let back = client.read_u8().await.expect("the server answers");
        assert_eq!(back, 7);
    })
}

/// A client that is served.
#[track_caller]
pub(crate) fn client(address: SocketAddr) -> impl Future<Output = TcpStream> {
    let connecting = connect(address);
    async move {
        let mut client = connecting.await;
        ping(&mut client).await;
        client
    }
}

/// Waits until the server has let the connection go, be it by closing or by resetting it.
#[track_caller]
pub(crate) fn gone(client: &mut TcpStream) -> impl Future<Output = ()> {
    soon("the server closes", async {
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert_eq!(rest, b"", "nothing was on the way");
    })
}

/// Sends back what comes, until the client closes.
pub(crate) async fn echo(stream: &mut TcpStream) -> Result<(), BoxError> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}

/// A spec of a pool that echoes.
pub(crate) fn echo_spec() -> Spec<impl Acceptor<TcpListener>> {
    let serve = |mut connection: Connection| async move { echo(&mut connection.stream).await };
    Spec::new("echo", acceptor_tokio::acceptor_fn(serve))
}

/// The reports that a pool has sent so far.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<Vec<Event<SocketAddr>>>>);

impl Reports {
    pub(crate) fn observer(&self) -> impl Observer<SocketAddr> + use<> {
        let reports = self.clone();
        observer_fn(move |report: &Report| reports.lock().push(report.event.clone()))
    }

    /// How many reports are as described.
    pub(crate) fn count(&self, is: impl Fn(&Event<SocketAddr>) -> bool) -> usize {
        self.lock().iter().filter(|event| is(event)).count()
    }

    /// All reports, for a message or to see that there was none.
    pub(crate) fn all(&self) -> Vec<Event<SocketAddr>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event<SocketAddr>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
