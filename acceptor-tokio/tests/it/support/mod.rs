//! Shared by the tests: listeners of a pool, clients, recorded reports, and waits with a timeout.

// Each test program is a crate and uses a part of this.
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

/// How long a test waits for an event. Only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How much longer than its phases a stop may take on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(5);

/// Waits for an event, up to `PATIENCE`.
#[track_caller]
pub(crate) fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: timed out after {PATIENCE:?}: {what}"),
        }
    }
}

/// Polls a condition that has no notification until it is true.
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

/// Connects a client.
#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> impl Future<Output = TcpStream> {
    let connecting = soon("a client connects", TcpStream::connect(address));
    async move { connecting.await.expect("the listener is open") }
}

/// Sends one byte and waits for its echo: from then on the connection is being served.
#[track_caller]
pub(crate) fn ping(client: &mut TcpStream) -> impl Future<Output = ()> {
    soon("a byte comes back", async {
        client.write_all(&[7]).await.expect("the server reads");
        let back = client.read_u8().await.expect("the server answers");
        assert_eq!(back, 7);
    })
}

/// Connects a client, and waits until it is served.
#[track_caller]
pub(crate) fn client(address: SocketAddr) -> impl Future<Output = TcpStream> {
    let connecting = connect(address);
    async move {
        let mut client = connecting.await;
        ping(&mut client).await;
        client
    }
}

/// Waits until the server has closed or reset the connection.
#[track_caller]
pub(crate) fn gone(client: &mut TcpStream) -> impl Future<Output = ()> {
    soon("the server closes", async {
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert_eq!(rest, b"", "no bytes were in flight");
    })
}

/// Echoes until the client closes.
pub(crate) async fn echo(stream: &mut TcpStream) -> Result<(), BoxError> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}

/// The spec of an echo pool.
pub(crate) fn echo_spec() -> Spec<impl Acceptor<TcpListener>> {
    let serve = |mut connection: Connection| async move { echo(&mut connection.stream).await };
    Spec::new("echo", acceptor_tokio::acceptor_fn(serve))
}

/// The reports of a pool so far.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<Vec<Event<SocketAddr>>>>);

impl Reports {
    pub(crate) fn observer(&self) -> impl Observer<SocketAddr> + use<> {
        let reports = self.clone();
        observer_fn(move |report: &Report| reports.lock().push(report.event.clone()))
    }

    /// The number of matching reports.
    pub(crate) fn count(&self, is: impl Fn(&Event<SocketAddr>) -> bool) -> usize {
        self.lock().iter().filter(|event| is(event)).count()
    }

    /// All reports, for a message or to check that there was none.
    pub(crate) fn all(&self) -> Vec<Event<SocketAddr>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event<SocketAddr>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
