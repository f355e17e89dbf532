//! The runtime value: on which tokio runtime tasks run, its required drivers, its shutdown, and its clock.

#[cfg(unix)]
#[path = "../shared/descriptors.rs"]
mod descriptors;
#[path = "../shared/no_panic.rs"]
mod no_panic;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE, Reports, client, connect, echo, echo_spec, eventually, gone, listen, listen_on,
    loopback, ping, runtime, soon,
};
#[cfg(unix)]
use acceptor_tokio as adapter;
use acceptor_tokio::{
    AcceptErrorKind, Acceptor, BoxError, Connection, EndKind, Event, Failure, Init, ListenOptions,
    Listener, ListenerInfo, Phase, Pool, RuntimeError, Spec, StartError, StopReason, StopReport,
    TcpListener, Terminate, TokioRuntime, acceptor_fn,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

#[cfg(unix)]
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

const HOUR: Duration = Duration::from_secs(3600);

/// A runtime whose threads have this name.
fn named(name: &str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).thread_name(name).enable_all();
    builder.build().expect("a runtime can be built")
}

fn of(runtime: &Runtime) -> TokioRuntime {
    TokioRuntime::from_handle(runtime.handle().clone())
}

#[test]
fn current_outside_a_runtime_fails() {
    let error = TokioRuntime::current().unwrap_err();
    assert_eq!(error, RuntimeError::NoRuntime);
    assert_eq!(
        error.to_string(),
        "not within a tokio runtime: call it from `#[tokio::main]` or a task, or use `TokioRuntime::from_handle`"
    );
}

/// Checks that the code panics with tokio's message.
#[track_caller]
fn check_panics<T>(code: impl FnOnce() -> T, says: &str) {
    let made = catch_unwind(AssertUnwindSafe(code));
    let panic = made.map(|_| ()).unwrap_err();
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    let message = message.expect("the panic has a message");
    assert!(message.contains(says), "{message}");
}

/// The panic comes before a task of the pool could panic, whose message would be lost.
#[test]
fn runtime_without_timer_panics() {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let timeless = builder.worker_threads(1).enable_io().build().unwrap();
        let handle = timeless.handle().clone();
        check_panics(|| TokioRuntime::from_handle(handle), "enable_time");
        check_panics(
            || timeless.block_on(async { TokioRuntime::current() }),
            "enable_time",
        );
    }
}

#[test]
fn listener_without_io_driver_panics() {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let deaf = builder.worker_threads(1).enable_time().build().unwrap();
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let runtime = of(&deaf);
        check_panics(|| TcpListener::from_std(socket, &runtime), "enable_io");
    }
}

#[cfg(unix)]
fn from_std(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(socket, &of(&named("refuses")))
}

#[cfg(unix)]
fn from_runtime(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    let runtime = named("refuses");
    let _context = runtime.enter();
    socket.set_nonblocking(true)?;
    TcpListener::try_from(tokio::net::TcpListener::from_std(socket)?)
}

/// The blocking mode is shared with every duplicate, perhaps in another process.
#[cfg(unix)]
#[test]
fn refused_descriptor_keeps_blocking_mode() {
    let listener = std::net::TcpListener::bind(loopback()).unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let copy = std::os::fd::OwnedFd::from(client.try_clone().unwrap());
    from_std(copy.into()).unwrap_err();
    let nonblocking = socket2::SockRef::from(&client).nonblocking().unwrap();
    assert!(!nonblocking);
}

/// Checks `accept` on a listener of a runtime that has ended, polled on another runtime.
#[track_caller]
fn check_accept_after(theirs: Runtime, end: impl FnOnce(Runtime)) {
    let socket = ListenOptions::new(loopback()).bind().unwrap();
    let listener = TcpListener::from_std(socket, &of(&theirs)).unwrap();
    let ours = named("ours");
    let mut waiting = pin!(listener.accept());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    end(theirs);
    for accept in [waiting, pin!(listener.accept())] {
        let accepted = ours.block_on(soon("accept fails", accept));
        let error = accepted.unwrap_err();
        let kind = listener.classify(&error);
        assert_eq!(kind, Some(AcceptErrorKind::Listener), "{error}");
    }
}

#[test]
fn runtime_end_is_a_listener_error() {
    let current_thread = Builder::new_current_thread().enable_all().build().unwrap();
    check_accept_after(current_thread, drop);
    check_accept_after(named("theirs"), drop);
    check_accept_after(named("theirs"), Runtime::shutdown_background);
}

#[tokio::test]
async fn other_errors_are_unclassified() {
    let socket = ListenOptions::new(loopback()).bind().unwrap();
    let listener = TcpListener::from_std(socket, &runtime()).unwrap();
    for error in [
        io::Error::other("unknown"),
        io::ErrorKind::ConnectionAborted.into(),
        io::Error::from_raw_os_error(22),
    ] {
        assert_eq!(listener.classify(&error), None, "{error}");
    }
}

#[tokio::test]
async fn blocking_std_listener_is_accepted() {
    let runtime = runtime();
    let pool = Pool::start(runtime.clone(), echo_spec()).unwrap();
    let socket = std::net::TcpListener::bind(loopback()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, &runtime).unwrap();
    pool.add_listener(listener, 1).unwrap();
    // On the only thread: a blocking accept would block the client as well.
    let mut first = client(address).await;
    let mut second = client(address).await;
    ping(&mut first).await;
    ping(&mut second).await;
}

#[test]
fn pool_runs_on_current_thread_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::start(crate::support::runtime(), echo_spec()).unwrap();
        let (_, address) = listen(&pool, 3);
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(client(address).await);
        }
        for client in &mut clients {
            ping(client).await;
        }
        let report = soon("the stop ends", pool.stop()).await;
        assert_eq!(
            report.connections(Phase::Stop).of(EndKind::Stopped),
            10,
            "{report}"
        );
        assert_eq!(report.all_acceptors().of(EndKind::Stopped), 3, "{report}");
    });
}

/// Sends the name of the thread on which each callback runs.
struct RecordsThread(mpsc::UnboundedSender<(&'static str, String)>);

impl RecordsThread {
    fn record(&self, callback: &'static str) {
        let thread = std::thread::current()
            .name()
            .unwrap_or("unnamed")
            .to_owned();
        let _ = self.0.send((callback, thread));
    }
}

impl Acceptor<TcpListener> for RecordsThread {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        self.record("init");
        Ok(Init::Accept(()))
    }

    async fn serve(&self, mut connection: Connection, _state: ()) -> Result<(), BoxError> {
        self.record("serve");
        // The timer of that runtime works, too.
        tokio::time::sleep(Duration::from_millis(1)).await;
        echo(&mut connection.stream).await?;
        self.record("served");
        Ok(())
    }

    async fn terminate(&self, _reason: &Terminate, _state: ()) {
        self.record("terminate");
    }
}

/// Checks that the callbacks run on the pool's runtime, whatever the calling thread.
async fn check_tasks_on(name: &str, theirs: TokioRuntime) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let pool = Pool::start(theirs.clone(), Spec::new("where", RecordsThread(sender))).unwrap();
    let (id, address) = listen_on(&pool, &theirs, loopback(), 1);
    drop(client(address).await);
    eventually("the client has left", || {
        pool.counts().unwrap().connections == 0
    })
    .await;
    soon("the listener closes", pool.close_listener(id))
        .await
        .unwrap();
    soon("the stop ends", pool.stop()).await;
    drop(pool);
    let mut seen = Vec::new();
    while let Some((callback, thread)) = soon("the pool drops its acceptor", receiver.recv()).await
    {
        assert_eq!(thread, name, "{callback} ran elsewhere");
        seen.push(callback);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["init", "init", "serve", "served", "terminate"]);
}

#[test]
fn tasks_run_on_the_given_runtime() {
    let (theirs, ours) = (named("theirs"), named("ours"));
    ours.block_on(check_tasks_on("theirs", of(&theirs)));
    let on_a_worker = ours.spawn(check_tasks_on_theirs(of(&theirs)));
    ours.block_on(on_a_worker).unwrap();
}

async fn check_tasks_on_theirs(theirs: TokioRuntime) {
    check_tasks_on("theirs", theirs).await;
}

#[test]
fn tasks_run_on_the_runtime_from_any_thread() {
    let theirs = named("theirs");
    let runtime = of(&theirs);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let pool = Pool::start(runtime.clone(), Spec::new("where", RecordsThread(sender))).unwrap();
    let (id, address) = listen_on(&pool, &runtime, loopback(), 1);
    let client = std::net::TcpStream::connect(address).unwrap();
    let (mut seen, mut next) = (Vec::new(), || {
        theirs
            .block_on(soon("a callback runs", receiver.recv()))
            .expect("the pool runs")
    });
    while seen.len() < 3 {
        seen.push(next());
    }
    drop(pool.close_listener(id));
    seen.push(next());
    drop(client);
    seen.push(next());
    drop(pool);
    for (callback, thread) in seen {
        assert_eq!(thread, "theirs", "{callback} ran elsewhere");
    }
}

/// Drops the runtime of a pool with a connection and acceptors, and gets the result on another thread.
fn drop_under_a_pool(runtime: Runtime, drop_it: impl FnOnce(Runtime)) -> (StopReport, Reports) {
    let reports = Reports::default();
    let pool = {
        let (of_it, reports) = (of(&runtime), &reports);
        runtime.block_on(async move {
            let spec = echo_spec().shutdown(HOUR).observer(reports.observer());
            let pool = Pool::start(of_it.clone(), spec).unwrap();
            let (_, address) = listen_on(&pool, &of_it, loopback(), 3);
            // The client uses the standard library: it outlives the runtime.
            let client = client(address).await.into_std().unwrap();
            (pool, client, address)
        })
    };
    let (pool, _client, address) = pool;
    let (send, result) = std::sync::mpsc::channel();
    let joining = pool.join();
    let joins = std::thread::spawn(move || {
        let waiting = Builder::new_current_thread().build().unwrap();
        send.send(waiting.block_on(joining))
            .expect("the test waits");
    });
    drop_it(runtime);
    let report = result
        .recv_timeout(PATIENCE)
        .expect("the pool ends with its runtime");
    joins.join().expect("the waiting thread does not panic");
    assert!(pool.counts().is_err(), "the pool has stopped");
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "the listener is closed"
    );
    (report, reports)
}

fn check_dropped((report, reports): (StopReport, Reports)) {
    assert_eq!(report.reason, StopReason::RuntimeGone, "{report}");
    assert_eq!(report.stuck, 0, "{report}");
    let stopped = |event: &Event<_>| {
        matches!(
            event,
            Event::PoolStopped {
                reason: StopReason::RuntimeGone,
                ..
            }
        )
    };
    assert_eq!(reports.count(stopped), 1, "{:?}", reports.all());
}

#[test]
fn pool_ends_with_its_runtime() {
    check_dropped(drop_under_a_pool(named("doomed"), drop));
}

#[test]
fn pool_ends_with_current_thread_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    check_dropped(drop_under_a_pool(runtime, drop));
}

#[test]
fn pool_ends_with_background_shutdown() {
    check_dropped(drop_under_a_pool(
        named("doomed"),
        Runtime::shutdown_background,
    ));
}

#[test]
fn dropped_connection_is_reported_once() {
    for _ in 0..20 {
        let (report, reports) = drop_under_a_pool(named("doomed"), drop);
        let lost = |event: &Event<_>| {
            matches!(
                event,
                Event::ConnectionFailed {
                    failure: Failure::Lost,
                    ..
                }
            )
        };
        let ended = report.all_connections();
        let seen_before = reports.count(lost).saturating_sub(ended.of(EndKind::Lost));
        assert_eq!(
            ended.total() + seen_before,
            1,
            "{report} {:?}",
            reports.all()
        );
    }
}

#[test]
fn pool_does_not_start_on_ended_runtime() {
    let runtime = named("gone");
    let of_it = of(&runtime);
    drop(runtime);
    let refused = Pool::<TcpListener>::start(of_it, echo_spec()).unwrap_err();
    assert!(matches!(refused, StartError::RuntimeGone), "{refused:?}");
}

/// Waits for an hour, then terminates.
struct Patient(mpsc::UnboundedSender<tokio::time::Instant>);

impl Acceptor<TcpListener> for Patient {
    type State = tokio::time::Instant;
    type Exit = Result<(), BoxError>;

    async fn init(
        &self,
        _listener: &ListenerInfo<SocketAddr>,
    ) -> Result<Init<Self::State>, BoxError> {
        Ok(Init::AcceptWithin(tokio::time::Instant::now(), HOUR))
    }

    async fn serve(&self, _connection: Connection, _state: Self::State) -> Result<(), BoxError> {
        Ok(())
    }

    async fn terminate(&self, reason: &Terminate, since: Self::State) {
        if matches!(reason, Terminate::Timeout) {
            let _ = self.0.send(since);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn accept_timeout_follows_paused_clock() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let pool = Pool::start(runtime(), Spec::new("patient", Patient(sender))).unwrap();
    listen(&pool, 1);
    let began = Instant::now();
    for _ in 0..3 {
        let since = receiver.recv().await.expect("the pool runs");
        assert!(
            since.elapsed() >= HOUR,
            "the acceptor waited {:?}",
            since.elapsed()
        );
        assert!(
            since.elapsed() < HOUR + Duration::from_secs(1),
            "{:?}",
            since.elapsed()
        );
    }
    assert!(
        began.elapsed() < PATIENCE,
        "an hour passed on the virtual clock only"
    );
    assert_eq!(pool.listeners().unwrap()[0].acceptors, 1);
}

/// Checks how long a stop with an hour of grace takes on the paused clock.
fn check_an_hour(report: &StopReport) {
    assert!(report.elapsed >= HOUR, "{report}");
    assert!(report.elapsed < HOUR + Duration::from_secs(1), "{report}");
    assert_eq!(
        report.connections(Phase::Stop).of(EndKind::Stopped),
        1,
        "{report}"
    );
}

/// A pool on a paused clock, with an hour of grace and a connection that never ends.
async fn in_paused_time() -> (Pool, std::net::TcpStream) {
    let serve = |_connection: Connection| std::future::pending::<Result<(), _>>();
    let spec = Spec::new("stays", acceptor_fn(serve))
        .grace(HOUR)
        .shutdown(HOUR);
    let pool = Pool::start(runtime(), spec).unwrap();
    let (_, address) = listen(&pool, 1);
    let client = std::net::TcpStream::connect(address).unwrap();
    // No timeout here: with nothing else to do, paused time advances to it immediately.
    while pool.counts().unwrap().connections == 0 {
        tokio::task::yield_now().await;
    }
    (pool, client)
}

#[tokio::test(start_paused = true)]
async fn grace_follows_the_paused_clock() {
    let (pool, _client) = in_paused_time().await;
    let (began, before) = (Instant::now(), tokio::time::Instant::now());
    let report = pool.stop().await;
    check_an_hour(&report);
    assert!(before.elapsed() >= HOUR);
    assert!(
        began.elapsed() < PATIENCE,
        "an hour passed on the virtual clock only"
    );
}

#[tokio::test(start_paused = true)]
async fn grace_follows_paused_clock_from_any_thread() {
    let (pool, _client) = in_paused_time().await;
    // Far from the standard clock, which the caller's thread uses.
    tokio::time::advance(10 * HOUR).await;
    let handle = pool.handle();
    let stopping = std::thread::spawn(move || handle.stop()).join().unwrap();
    check_an_hour(&stopping.await);
}

/// Connects to a wildcard listener through each of the addresses: each connection has its own local address.
async fn check_wildcard(wildcard: SocketAddr, addresses: &[std::net::IpAddr]) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let serve = move |mut connection: Connection| {
        let _ = sender.send((connection.local_addr, connection.peer_addr));
        async move { echo(&mut connection.stream).await }
    };
    let runtime = runtime();
    let pool = Pool::start(runtime.clone(), Spec::new("wildcard", acceptor_fn(serve))).unwrap();
    let (_, bound) = listen_on(&pool, &runtime, wildcard, 2);
    assert!(bound.ip().is_unspecified());
    assert_eq!(pool.listeners().unwrap()[0].local_addr, bound);
    for &address in addresses {
        let client = client(SocketAddr::new(address, bound.port())).await;
        let (local, peer) = soon("the client is served", receiver.recv()).await.unwrap();
        assert_eq!(canonical(local), client.peer_addr().unwrap());
        assert_eq!(canonical(peer), client.local_addr().unwrap());
        assert_eq!(
            local.ip().is_ipv6(),
            wildcard.is_ipv6(),
            "the address is unchanged"
        );
        let records = pool.connections().unwrap();
        let record = records.last().expect("the connection is listed");
        assert_eq!((record.local_addr, record.peer_addr), (local, peer));
        drop(client);
        eventually("the client has left", || {
            pool.counts().unwrap().connections == 0
        })
        .await;
    }
}

/// Without the IPv6 prefix of an IPv4-mapped address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[tokio::test]
async fn ipv4_wildcard_has_own_local_address() {
    let mut addresses = vec![Ipv4Addr::LOCALHOST.into()];
    if cfg!(target_os = "linux") {
        addresses.push(Ipv4Addr::new(127, 0, 0, 2).into());
    }
    check_wildcard((Ipv4Addr::UNSPECIFIED, 0).into(), &addresses).await;
}

#[tokio::test]
async fn ipv6_wildcard_has_own_local_address() {
    let mut addresses = vec![Ipv6Addr::LOCALHOST.into()];
    if cfg!(target_os = "linux") {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    check_wildcard((Ipv6Addr::UNSPECIFIED, 0).into(), &addresses).await;
}

#[tokio::test]
async fn bound_address_is_the_local_address() {
    let pool = Pool::start(runtime(), echo_spec()).unwrap();
    let (_, address) = listen(&pool, 1);
    let client = client(address).await;
    let record = &pool.connections().unwrap()[0];
    assert_eq!(record.local_addr, address);
    assert_eq!(record.peer_addr, client.local_addr().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_can_be_rebound_after_close() {
    let runtime = runtime();
    let pool = Pool::start(runtime.clone(), echo_spec()).unwrap();
    let (mut id, address) = listen(&pool, 3);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(client(address).await);
        soon("the listener closes", pool.close_listener(id))
            .await
            .unwrap();
        // The default options share the address with no other listener: this fails if the old one is still open.
        let bound = ListenOptions::new(address).bind();
        let listener = TcpListener::from_std(bound.expect("the address is free"), &runtime);
        id = pool.add_listener(listener.unwrap(), 3).unwrap();
    }
    for client in &mut clients {
        ping(client).await;
    }
    assert_eq!(pool.counts().unwrap().connections, 100);
    assert_eq!(pool.listeners().unwrap().len(), 1);
}

/// A listener converted from the runtime's own type works as well.
#[tokio::test]
async fn tokio_listener_keeps_its_streams() {
    let served = Arc::new(AtomicUsize::new(0));
    let serve = {
        let served = Arc::clone(&served);
        move |connection: Connection| {
            let served = Arc::clone(&served);
            async move {
                let mut stream: TcpStream = connection.stream;
                assert_eq!(stream.peer_addr()?, connection.peer_addr);
                assert_eq!(stream.local_addr()?, connection.local_addr);
                let byte = stream.read_u8().await?;
                stream.write_u8(byte).await?;
                served.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }
    };
    let spec = Spec::new("own", acceptor_fn(serve));
    let pool = Pool::start(runtime(), spec).unwrap();
    let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TcpListener::try_from(listener).unwrap();
    pool.add_listener(listener, 1).unwrap();
    let mut client = connect(address).await;
    ping(&mut client).await;
    gone(&mut client).await;
    assert_eq!(served.load(Ordering::SeqCst), 1);
}
