//! The runtime value and the listener on smol: where tasks run, and the effect of an executor's end.

#[path = "../../../acceptor-tokio/tests/shared/adapter.rs"]
mod shared;

#[cfg(unix)]
#[path = "../../../acceptor-tokio/tests/shared/descriptors.rs"]
mod descriptors;
#[path = "../../../acceptor-tokio/tests/shared/no_panic.rs"]
mod no_panic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use acceptor_smol as adapter;
use acceptor_smol::{
    Acceptor, BoxError, Connection, Event, Init, ListenOptions, ListenerInfo, Pool, Report,
    Runtime, SmolRuntime, Spec, StartError, StopReason, TcpListener, Terminate, observer_fn,
};
use shared::{PATIENCE, client, echo_spec, listen, loopback, ping, soon};
use smol::Executor;
use smol::future::{pending, poll_once};
use smol::net::{TcpListener as RuntimeListener, TcpStream as RuntimeStream};

#[cfg(unix)]
fn block_on<T>(future: impl Future<Output = T>) -> T {
    smol::block_on(future)
}

fn runtime() -> SmolRuntime {
    SmolRuntime::current()
}

#[cfg(unix)]
fn from_std(socket: std::net::TcpListener) -> std::io::Result<TcpListener> {
    TcpListener::from_std(socket, &runtime())
}

#[cfg(unix)]
fn from_runtime(socket: std::net::TcpListener) -> std::io::Result<TcpListener> {
    TcpListener::try_from(RuntimeListener::try_from(socket)?)
}

/// Sends the name of the thread on which each callback runs.
struct RecordsThread(Sender<(&'static str, Option<String>)>);

impl RecordsThread {
    fn record(&self, callback: &'static str) {
        let name = thread::current().name().map(str::to_owned);
        let _ = self.0.send((callback, name));
    }
}

impl Acceptor<TcpListener> for RecordsThread {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        self.record("init");
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _connection: Connection, _state: ()) -> Result<(), BoxError> {
        self.record("serve");
        Ok(())
    }

    async fn terminate(&self, _reason: &Terminate, _state: ()) {
        self.record("terminate");
    }
}

#[test]
fn tasks_run_on_the_given_executor() {
    let executor = Arc::new(Executor::new());
    let theirs = Arc::clone(&executor);
    let runs = move || smol::block_on(theirs.run(pending::<()>()));
    thread::Builder::new()
        .name("theirs".to_owned())
        .spawn(runs)
        .unwrap();
    check_where(SmolRuntime::with_executor(executor), "theirs");
}

#[test]
fn tasks_run_on_the_global_executor() {
    check_where(SmolRuntime::current(), "smol-");
}

#[track_caller]
fn check_where(runtime: SmolRuntime, threads: &str) {
    let (sender, receiver) = channel();
    let pool = Pool::start(runtime, Spec::new("where", RecordsThread(sender))).unwrap();
    let (_, address) = listen(&pool, loopback(), 1);
    let mut seen = vec![receiver.recv_timeout(PATIENCE).unwrap()];
    drop(client(address));
    for _ in 0..2 {
        seen.push(receiver.recv_timeout(PATIENCE).unwrap());
    }
    soon(pool.stop());
    seen.push(receiver.recv_timeout(PATIENCE).unwrap());
    let callbacks: Vec<_> = seen.iter().map(|(callback, _)| *callback).collect();
    assert_eq!(callbacks[0], "init");
    assert_eq!(callbacks[3], "terminate");
    for (callback, thread) in seen {
        let thread = thread.unwrap_or_default();
        assert!(thread.starts_with(threads), "{callback} ran on {thread:?}");
    }
}

#[test]
fn runtime_identity_is_its_executor() {
    let (one, other) = (Arc::new(Executor::new()), Arc::new(Executor::new()));
    let given =
        |executor: &Arc<Executor<'static>>| SmolRuntime::with_executor(Arc::clone(executor));
    assert!(given(&one).is_same(&given(&one)));
    assert!(!given(&one).is_same(&given(&other)));
    let global = SmolRuntime::current();
    assert!(global.is_same(&SmolRuntime::current()));
    assert!(!global.is_same(&given(&one)) && !given(&one).is_same(&global));
}

/// The pool is on the global executor, and continues.
#[test]
fn listener_fails_with_its_own_executor() {
    let (sender, receiver) = channel();
    let observer = move |report: &Report| {
        let _ = sender.send(report.event.clone());
    };
    let spec = echo_spec().observer(observer_fn(observer));
    let pool = Pool::start(SmolRuntime::current(), spec).unwrap();
    let (staying, address) = listen(&pool, loopback(), 1);
    let executor = Arc::new(Executor::new());
    let own = SmolRuntime::with_executor(Arc::clone(&executor));
    let listener = TcpListener::bind(ListenOptions::new(loopback()), &own).unwrap();
    let id = pool.add_listener_on(&own, listener, 1).unwrap();
    drop(executor);
    let failed = receiver.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(failed, Event::ListenerFailed { listener, .. } if listener == id));
    let left = pool.listeners().unwrap();
    assert_eq!(left.iter().map(|one| one.id).collect::<Vec<_>>(), [staying]);
    ping(&mut client(address));
}

#[test]
fn pool_ends_with_its_executor() {
    let executor = Arc::new(Executor::new());
    let (sender, receiver) = channel();
    let observer = move |report: &Report| {
        let _ = sender.send(report.event.clone());
    };
    let spec = echo_spec()
        .shutdown(Duration::from_secs(3600))
        .observer(observer_fn(observer));
    let pool = Pool::start(SmolRuntime::with_executor(Arc::clone(&executor)), spec).unwrap();
    let (_, address) = listen(&pool, loopback(), 3);
    let talks = smol::unblock(move || {
        let mut client = client(address);
        ping(&mut client);
        client
    });
    let _client = smol::block_on(executor.run(talks));
    drop(executor);
    let report = soon(pool.join());
    assert_eq!(report.reason, StopReason::RuntimeGone, "{report}");
    assert_eq!(report.stuck, 0, "{report}");
    assert!(pool.counts().is_err(), "the pool has stopped");
    let refused = std::net::TcpStream::connect(address);
    assert!(refused.is_err(), "the listener is closed");
    let says_so = |event| {
        let reason = StopReason::RuntimeGone;
        matches!(event, Event::PoolStopped { reason: is, .. } if is == reason)
    };
    assert_eq!(
        receiver
            .try_iter()
            .filter(|event| says_so(event.clone()))
            .count(),
        1
    );
}

#[test]
fn pool_does_not_start_on_ended_executor() {
    let runtime = SmolRuntime::with_executor(Arc::new(Executor::new()));
    let error = Pool::start(runtime, echo_spec()).unwrap_err();
    assert!(matches!(error, StartError::RuntimeGone), "{error}");
}

#[test]
fn pool_waits_for_an_idle_executor() {
    let executor = Arc::new(Executor::new());
    let runtime = SmolRuntime::with_executor(Arc::clone(&executor));
    let pool = Pool::<TcpListener>::start(runtime, echo_spec()).unwrap();
    listen(&pool, loopback(), 1);
    let mut stopped = Box::pin(pool.stop());
    assert!(smol::block_on(poll_once(&mut stopped)).is_none());
    let report = smol::block_on(executor.run(stopped));
    assert_eq!(report.reason, StopReason::Requested);
}
