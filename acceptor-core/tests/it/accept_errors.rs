//! Persistent errors of `accept`: they cause no busy loop, and a pause ends when a connection ends (A2, A5).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
#[cfg(target_os = "linux")]
const EOPNOTSUPP: i32 = 95;

type Accept = dyn Fn(usize) -> Poll<io::Result<((), ())>> + Send + Sync;

/// Answers the n-th poll of `accept`, counted from 0.
struct Answers {
    polls: Arc<AtomicUsize>,
    answer: Arc<Accept>,
}

impl Listener for Answers {
    type Io = ();
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<((), ())> {
        std::future::poll_fn(|_| (self.answer)(self.polls.fetch_add(1, Ordering::SeqCst))).await
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr((): &()) -> io::Result<()> {
        Ok(())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

fn error<T>(number: i32) -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::from_raw_os_error(number)))
}

/// A pool with two listeners on one thread; only the second has clients.
struct Bench {
    runtime: Manual,
    polls: Arc<AtomicUsize>,
    pool: Pool<Manual, Answers>,
    clients: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
    reports: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new(answer: impl Fn(usize) -> Poll<io::Result<((), ())>> + Send + Sync + 'static) -> Self {
        let runtime = Manual::new(&Faults::default());
        let (clients, served) = (Arc::default(), Arc::<AtomicUsize>::default());
        let (serves, reports) = (Arc::clone(&served), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&reports);
        let serve = acceptor_fn(move |_: Connection<(), ()>| {
            serves.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        });
        let spec = Spec::new("errors", serve).observer(observer_fn(move |report: &Report<()>| {
            seen.lock().unwrap().push(report.to_string());
        }));
        let pool = Pool::start(runtime.clone(), spec).unwrap();
        let polls = Arc::default();
        let left: Arc<AtomicUsize> = Arc::clone(&clients);
        let listeners = [
            Answers {
                polls: Arc::clone(&polls),
                answer: Arc::new(answer),
            },
            Answers {
                polls: Arc::default(),
                answer: Arc::new(move |_| {
                    let one_less = |left: usize| left.checked_sub(1);
                    let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
                    match left.fetch_update(set, fetch, one_less) {
                        Ok(_) => Poll::Ready(Ok(((), ()))),
                        Err(_) => Poll::Pending,
                    }
                }),
            },
        ];
        for listener in listeners {
            pool.add_listener(listener, 1).unwrap();
        }
        Self {
            runtime,
            polls,
            pool,
            clients,
            served,
            reports,
        }
    }

    fn accept_calls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }

    fn state(&self) -> ListenerState {
        self.pool.listeners().unwrap()[0].state
    }
}

/// After 100 errors in a row the listener pauses, for 5 ms doubling to a second.
#[track_caller]
fn check_no_busy_loop(number: i32) {
    let bench = Bench::new(move |_| error(number));
    // The other listener gets its turn before the failing one pauses.
    bench.clients.store(20, Ordering::SeqCst);
    while bench.served.load(Ordering::SeqCst) < 20 {
        assert!(bench.runtime.step().is_some(), "the clients are not served");
        assert!(bench.accept_calls() <= 100, "{}", bench.accept_calls());
    }
    bench.runtime.settle();
    assert_eq!(bench.accept_calls(), 100);
    assert_eq!(bench.state(), ListenerState::Resources);
    for _ in 0..2000 {
        // The end of a connection frees none of the resources that are exhausted.
        bench.clients.fetch_add(1, Ordering::SeqCst);
        let second = bench.pool.acceptors().unwrap()[1].id;
        bench.pool.stop_child(second).unwrap();
        bench.runtime.advance(Duration::from_millis(1));
        bench.runtime.settle();
    }
    assert_eq!(bench.served.load(Ordering::SeqCst), 2020);
    // At 5, 15, 35, … 1275 ms.
    assert_eq!(bench.accept_calls(), 108);
    let record = &bench.pool.listeners().unwrap()[0];
    assert_eq!((record.skipped, record.pauses), (99, 9));
    let os = io::Error::from_raw_os_error(number);
    let paused = |length: &str, before: u64| {
        format!(
            "pool errors: listener 1 on () pauses {length} (pauses not reported before: {before}): {os}"
        )
    };
    let expected = [paused("5ms", 0), paused("1s", 7)];
    assert_eq!(*bench.reports.lock().unwrap(), expected);
}

#[test]
fn repeated_connection_error_pauses() {
    check_no_busy_loop(EPERM);
    check_no_busy_loop(EACCES);
    #[cfg(target_os = "linux")]
    check_no_busy_loop(EOPNOTSUPP);
}

/// 99 errors in a row, then something else, repeatedly: the listener never pauses.
#[track_caller]
fn check_never_paused(between: impl Fn() -> Poll<io::Result<((), ())>> + Send + Sync + 'static) {
    let bench = Bench::new(move |poll| match poll % 100 {
        99 => between(),
        _ if poll >= 1000 => Poll::Pending,
        _ => error(EPERM),
    });
    for _ in 0..20 {
        bench.runtime.settle();
        // `accept` was pending for long enough: the queue is empty.
        bench.runtime.advance(Duration::from_millis(1));
        // Only a change wakes a pending `accept`: here, another acceptor.
        let first = bench.pool.acceptors().unwrap()[0].id;
        bench.pool.stop_child(first).unwrap();
    }
    bench.runtime.settle();
    assert!(bench.accept_calls() > 1000);
    let record = &bench.pool.listeners().unwrap()[0];
    assert_eq!((record.skipped, record.pauses), (990, 0));
    assert_eq!(*bench.reports.lock().unwrap(), [""; 0]);
}

#[test]
fn sporadic_connection_errors_are_skipped() {
    check_never_paused(|| Poll::Ready(Ok(((), ()))));
    check_never_paused(|| Poll::Pending);
}

/// Counts the calls of `accept`; each is pending once before it completes.
struct Yields {
    calls: Arc<AtomicUsize>,
    /// Whether `accept` fails; otherwise it returns a connection without a local address.
    fails: bool,
}

impl Listener for Yields {
    type Io = ();
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<((), ())> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut yielded = false;
        let yields = |cx: &mut Context<'_>| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        };
        std::future::poll_fn(yields).await;
        if self.fails {
            return Err(io::Error::from_raw_os_error(EPERM));
        }
        Ok(((), ()))
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr((): &()) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(EPERM))
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// After 100 errors in a row the listener pauses, even though `accept` was pending before each.
#[track_caller]
fn check_yields_make_no_busy_loop(fails: bool) {
    let runtime = Manual::new(&Faults::default());
    let reports = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&reports);
    let spec = Spec::new("yields", acceptor_fn(|_| async { Ok(()) }));
    let spec = spec.observer(observer_fn(move |report: &Report<()>| {
        seen.lock().unwrap().push(report.to_string());
    }));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let calls = Arc::<AtomicUsize>::default();
    let listener = Yields {
        calls: Arc::clone(&calls),
        fails,
    };
    pool.add_listener(listener, 1).unwrap();
    let pauses = || pool.listeners().unwrap()[0].pauses;
    for _ in 0..1000 {
        if pauses() > 0 {
            break;
        }
        runtime.step();
    }
    assert!(pauses() > 0, "{} calls", calls.load(Ordering::SeqCst));
    runtime.settle();
    assert_eq!(calls.load(Ordering::SeqCst), 100);
    let record = &pool.listeners().unwrap()[0];
    let (skipped, pauses) = (record.skipped, record.pauses);
    assert_eq!(
        (record.state, skipped, pauses),
        (ListenerState::Resources, 99, 1)
    );
    let error = io::Error::from_raw_os_error(EPERM);
    let paused = "listener 1 on () pauses 5ms (pauses not reported before: 0)";
    let expected = format!("pool yields: {paused}: {error}");
    assert_eq!(*reports.lock().unwrap(), [expected]);
}

#[test]
fn yielding_accept_errors_are_paused() {
    check_yields_make_no_busy_loop(true);
}

#[test]
fn missing_local_address_is_paused() {
    check_yields_make_no_busy_loop(false);
}

/// A pool that has run out of descriptors, whose listener pauses for a second.
struct Exhausted {
    runtime: Manual,
    port: Port,
    history: History,
    pool: Pool<Manual, MemoryListener>,
}

impl Exhausted {
    /// Opens connections on the listener and on another one.
    fn new() -> Self {
        let (history, faults) = (History::default(), Faults::default());
        let runtime = Manual::new(&faults);
        let serve = acceptor_fn(|connection: Connection<MemoryStream, Address>| async move {
            connection.stream.serve();
            pending::<Result<(), _>>().await
        });
        let spec = Spec::new("exhausted", serve);
        let pool = Pool::start(runtime.clone(), spec).unwrap();
        let ports = [1, 2].map(|number| Port::new(number, &history, &faults));
        for port in &ports {
            pool.add_listener(port.listen(), 2).unwrap();
            port.connect().unwrap();
        }
        runtime.settle();
        let [port, _] = ports;
        for _ in 0..9 {
            port.fail(io::Error::from_raw_os_error(EMFILE));
        }
        port.connect().unwrap();
        runtime.settle();
        for pause_ms in [5, 10, 20, 40, 80, 160, 320, 640] {
            runtime.advance(Duration::from_millis(pause_ms));
            runtime.settle();
        }
        Self {
            runtime,
            port,
            history,
            pool,
        }
    }

    #[track_caller]
    fn check_paused(&self, pauses: u64) {
        let record = &self.pool.listeners().unwrap()[0];
        assert_eq!(record.state, ListenerState::Resources);
        assert_eq!((record.pauses, self.port.waiting()), (pauses, 1));
    }

    #[track_caller]
    fn check_accepted(&self) {
        let record = &self.pool.listeners().unwrap()[0];
        assert_eq!(record.state, ListenerState::Accepting);
        assert_eq!(self.port.waiting(), 0);
        assert_eq!(self.history.all().last().unwrap().served, 1);
    }
}

#[test]
fn pause_of_1_s_ends_on_time() {
    let exhausted = Exhausted::new();
    exhausted.runtime.advance(Duration::from_millis(999));
    exhausted.runtime.settle();
    exhausted.check_paused(9);
    exhausted.runtime.advance(Duration::from_millis(1));
    exhausted.runtime.settle();
    exhausted.check_accepted();
}

#[test]
fn any_connection_end_ends_the_pause() {
    for connection in [0, 1] {
        let exhausted = Exhausted::new();
        exhausted.check_paused(9);
        let open = exhausted.pool.connections().unwrap();
        exhausted.pool.stop_child(open[connection].id).unwrap();
        exhausted.runtime.settle();
        exhausted.check_accepted();
    }
}

#[test]
fn early_resume_keeps_the_pause_length() {
    let exhausted = Exhausted::new();
    // The descriptor that the connection frees is taken by something else.
    exhausted
        .port
        .fail_first(io::Error::from_raw_os_error(EMFILE));
    let open = exhausted.pool.connections().unwrap();
    exhausted.pool.stop_child(open[0].id).unwrap();
    exhausted.runtime.settle();
    exhausted.check_paused(10);
    exhausted.runtime.advance(Duration::from_millis(999));
    exhausted.runtime.settle();
    exhausted.check_paused(10);
    exhausted.runtime.advance(Duration::from_millis(1));
    exhausted.runtime.settle();
    exhausted.check_accepted();
}

/// Otherwise a connection that ends after `accept` has failed, but before the pause begins, would end no pause.
#[test]
fn connection_end_during_accept_allows_retry() {
    let ends = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&ends);
    let bench = Arc::new(std::sync::OnceLock::<(Manual, PoolHandle<Manual, Answers>)>::new());
    let inside = Arc::clone(&bench);
    let listeners = Bench::new(move |poll| match poll {
        0 => Poll::Ready(Ok(((), ()))),
        1 => error(EMFILE),
        2 => {
            let (runtime, pool) = inside.get().unwrap();
            let open = pool.connections().unwrap();
            pool.kill_child(open[0].id).unwrap();
            runtime.settle();
            ended.store(pool.connections().unwrap().is_empty(), Ordering::SeqCst);
            error(EMFILE)
        }
        _ => Poll::Pending,
    });
    let known = (listeners.runtime.clone(), listeners.pool.handle());
    assert!(bench.set(known).is_ok());
    listeners
        .pool
        .reconfigure(
            Spec::new("serves", acceptor_fn(|_| pending::<Result<(), _>>())),
            WaitingAcceptors::Keep,
        )
        .unwrap();
    listeners.runtime.settle();
    assert_eq!(listeners.accept_calls(), 2);
    listeners.runtime.advance(Duration::from_millis(5));
    listeners.runtime.settle();
    assert!(ends.load(Ordering::SeqCst));
    assert!(listeners.accept_calls() >= 4, "the third pauses");
    let record = &listeners.pool.listeners().unwrap()[0];
    assert_eq!((record.state, record.pauses), (ListenerState::Accepting, 1));
}

/// Its acceptors have an accept timeout of 2 ms.
struct Impatient;

impl Acceptor<Answers> for Impatient {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<()>) -> Result<Init<()>, BoxError> {
        Ok(Init::AcceptWithin((), Duration::from_millis(2)))
    }

    async fn serve(&self, _: Connection<(), ()>, (): ()) -> Result<(), BoxError> {
        pending().await
    }
}

#[test]
fn acceptor_end_keeps_the_pause() {
    let (runtime, polls) = (Manual::new(&Faults::default()), Arc::default());
    let listener = Answers {
        polls: Arc::clone(&polls),
        answer: Arc::new(|_| error(EMFILE)),
    };
    let pool = Pool::start(runtime.clone(), Spec::new("impatient", Impatient)).unwrap();
    pool.add_listener(listener, 2).unwrap();
    for _ in 0..2000 {
        runtime.settle();
        runtime.advance(Duration::from_millis(1));
    }
    // At 0, 5, 15, 35, … 1275 ms; an acceptor is waiting at each of these times, or a millisecond later.
    assert_eq!(polls.load(Ordering::SeqCst), 9);
    assert_eq!(pool.listeners().unwrap()[0].pauses, 9);
}

/// A listener that accepts again is not woken by the ends of connections.
#[test]
fn ends_after_the_pause_wake_no_listener() {
    let bench = Bench::new(|poll| match poll {
        0 => error(EMFILE),
        1 => Poll::Ready(Ok(((), ()))),
        _ => Poll::Pending,
    });
    bench.runtime.settle();
    assert_eq!(bench.state(), ListenerState::Resources);
    bench.runtime.advance(Duration::from_millis(5));
    bench.runtime.settle();
    assert_eq!(bench.state(), ListenerState::Accepting);
    let (calls, served) = (bench.accept_calls(), bench.served.load(Ordering::SeqCst));
    bench.clients.store(1, Ordering::SeqCst);
    let second = bench.pool.acceptors().unwrap()[1].id;
    bench.pool.stop_child(second).unwrap();
    bench.runtime.settle();
    assert_eq!(bench.served.load(Ordering::SeqCst), served + 1);
    assert_eq!(bench.accept_calls(), calls);
}
