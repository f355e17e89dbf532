//! Waiting acceptors: how long they wait, which tasks run for them, and commands that reach them just before they wait.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::future::{Future, pending};
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

type TestPool = Pool<Manual, MemoryListener>;
type Handle = PoolHandle<Manual, MemoryListener>;
type Init = acceptor_core::Init<()>;
type InitFuture = Pin<Box<dyn Future<Output = Init> + Send>>;

/// An acceptor with the given `init`. Its connections end immediately; it records why it terminates.
struct Given<I> {
    init: I,
    terminated: Arc<Mutex<Vec<String>>>,
}

impl<I: Fn(ChildId) -> InitFuture + Send + Sync + 'static> Acceptor<MemoryListener> for Given<I> {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init, BoxError> {
        Ok((self.init)(listener.child).await)
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, _: ()) -> Result<(), BoxError> {
        Ok(())
    }

    async fn terminate(&self, reason: &Terminate, _: ()) {
        self.terminated.lock().unwrap().push(reason.to_string());
    }
}

/// The number of an acceptor within its listener.
fn number(child: ChildId) -> u64 {
    let shown = child.to_string();
    let (_, number) = shown
        .split_once('.')
        .expect("an id is displayed as two numbers");
    number.parse().expect("the parts of an id are numbers")
}

struct Bench {
    runtime: Manual,
    port: Port,
    pool: TestPool,
    terminated: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    /// A pool with this many acceptors, before any task has run.
    fn new(acceptors: usize, init: impl Fn(ChildId) -> InitFuture + Send + Sync + 'static) -> Self {
        let faults = Faults::default();
        let runtime = Manual::new(&faults);
        let terminated = Arc::default();
        let given = Given {
            init,
            terminated: Arc::clone(&terminated),
        };
        let bench = Self {
            port: Port::new(1, &History::default(), &faults),
            pool: Pool::start(runtime.clone(), Spec::new("waiting", given)).unwrap(),
            runtime,
            terminated,
        };
        let listener = bench.port.listen();
        bench.pool.add_listener(listener, acceptors).unwrap();
        bench
    }

    /// Runs all tasks until they sleep; returns them in the order of their polls.
    fn polled(&self) -> Vec<usize> {
        std::iter::from_fn(|| self.runtime.step()).collect()
    }

    fn terminating(&self) -> usize {
        let acceptors = self.pool.acceptors().unwrap();
        let terminates = |a: &&AcceptorRecord| a.state == AcceptorState::Terminating;
        acceptors.iter().filter(terminates).count()
    }

    fn terminated(&self) -> Vec<String> {
        self.terminated.lock().unwrap().clone()
    }
}

#[test]
fn accept_timeout_of_1_ms_is_not_spaced() {
    let inits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&inits);
    let bench = Bench::new(1, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Init::AcceptWithin((), Duration::from_millis(1)) })
    });
    for _ in 0..100 {
        bench.runtime.settle();
        bench.runtime.advance(Duration::from_millis(1));
    }
    assert_eq!(inits.load(Ordering::SeqCst), 100);
}

/// The tasks of a pool whose first listener has two acceptors, in spawn order.
const DRIVER: usize = 0;
const REPORTER: usize = 1;
const ACCEPT_LOOP: usize = 2;
/// The last task of each call that wakes or spawns others: it does nothing.
const DECOY: usize = 3;
const FIRST_ACCEPTOR: usize = 4;
const SECOND_ACCEPTOR: usize = 5;
const REPLACEMENT: usize = 6;
const CONNECTION: usize = 7;

#[test]
fn second_waiter_wakes_no_task() {
    let begun = AtomicUsize::new(0);
    let bench = Bench::new(2, move |_| {
        let turn = begun.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            for _ in 0..turn * 5 {
                yield_now().await;
            }
            Init::Accept(())
        })
    });
    let polled = bench.polled();
    assert_eq!(polled.last(), Some(&SECOND_ACCEPTOR), "{polled:?}");
    assert_eq!(bench.pool.counts().unwrap().children(), 2);
}

/// Accepts immediately, and counts its calls.
fn counting(inits: &Arc<AtomicUsize>) -> impl Fn(ChildId) -> InitFuture + Send + Sync + 'static {
    let inits = Arc::clone(inits);
    move |_| {
        inits.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Init::Accept(()) })
    }
}

/// The accept loop polls no `init`; the replacement's task is spawned before the connection's (B5).
#[track_caller]
fn check_replacement_has_its_own_task(acceptors: usize) {
    let inits = Arc::default();
    let bench = Bench::new(acceptors, counting(&inits));
    bench.runtime.settle();
    let replacement = FIRST_ACCEPTOR + acceptors;
    bench.port.connect().unwrap();
    assert_eq!(bench.runtime.step(), Some(ACCEPT_LOOP));
    let begun = || inits.load(Ordering::SeqCst) - acceptors;
    assert_eq!(begun(), 0);
    assert_eq!(bench.pool.connections().unwrap().len(), 1);
    assert_eq!(bench.runtime.step(), Some(replacement));
    assert_eq!(begun(), 1);
    assert_eq!(bench.runtime.step(), Some(replacement + 1));
    assert_eq!(bench.pool.connections().unwrap(), []);
}

#[test]
fn replacement_init_is_spawned_first() {
    check_replacement_has_its_own_task(1);
    check_replacement_has_its_own_task(2);
    check_replacement_has_its_own_task(3);
}

#[test]
fn replacement_without_init_has_no_task() {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let serve = acceptor_fn(|_| async { Ok(()) });
    let pool = Pool::start(runtime.clone(), Spec::new("plain", serve)).unwrap();
    pool.add_listener(port.listen(), 2).unwrap();
    for _ in 0..10 {
        port.connect().unwrap();
    }
    runtime.settle();
    // The pool's own two tasks, the accept loop with its decoy, and ten connections.
    assert_eq!(runtime.spawned(), 14);
}

/// If the connection blocks this thread, another one can take a task (B5): the `init`, or else the driver.
#[test]
fn connection_has_a_companion_task() {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    bench.port.connect().unwrap();
    assert_eq!(bench.polled(), [ACCEPT_LOOP, REPLACEMENT, CONNECTION]);

    let serve = acceptor_fn(|_| async { Ok(()) });
    bench
        .pool
        .reconfigure(Spec::new("plain", serve), WaitingAcceptors::Keep)
        .unwrap();
    let next = CONNECTION + 1;
    bench.port.connect().unwrap();
    assert_eq!(bench.polled(), [ACCEPT_LOOP, next, DRIVER]);
    for _ in 0..2 {
        bench.port.connect().unwrap();
    }
    assert_eq!(bench.polled(), [ACCEPT_LOOP, next + 1, next + 2, DRIVER]);
    // Not without a connection.
    bench.port.fail(io::ErrorKind::ConnectionAborted.into());
    assert_eq!(bench.polled(), [ACCEPT_LOOP]);
}

/// Each `init`, `terminate` and report that starts without a connection: it, too, may block this thread (O1, B5).
#[test]
fn driver_is_woken_after_user_tasks() {
    let timeout = Duration::from_millis(10);
    let within =
        move |_| -> InitFuture { Box::pin(async move { Init::AcceptWithin((), timeout) }) };
    let bench = Bench::new(1, within);
    bench.runtime.settle();
    bench.runtime.advance(timeout);
    let (terminate, replacement) = (FIRST_ACCEPTOR + 1, FIRST_ACCEPTOR + 2);
    assert_eq!(bench.runtime.step(), Some(ACCEPT_LOOP));
    assert_eq!(bench.runtime.last_woken(), Some(DRIVER));
    bench.runtime.step_first(DRIVER);
    assert_eq!(bench.runtime.step(), Some(terminate));
    assert!(bench.runtime.has(replacement));
    assert_eq!(bench.runtime.last_woken(), Some(DRIVER));
    bench.runtime.settle();

    let serve = acceptor_fn(|_| async { Err::<(), _>("failed".into()) });
    bench
        .pool
        .reconfigure(Spec::new("fails", serve), WaitingAcceptors::Keep)
        .unwrap();
    // The waiting acceptor is one of the earlier ones.
    bench.port.connect().unwrap();
    bench.runtime.settle();
    bench.port.connect().unwrap();
    let connection = replacement + 2;
    assert_eq!(bench.runtime.step(), Some(ACCEPT_LOOP));
    bench.runtime.step_first(DRIVER);
    assert_eq!(bench.runtime.step(), Some(connection));
    assert_eq!(bench.polled(), [REPORTER, DRIVER]);
}

/// The task that a call wakes last may be kept by the calling thread, which the caller may block: it is a decoy.
#[track_caller]
fn check_last_is_a_decoy(call: impl FnOnce(&TestPool)) {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    let decoy = bench.runtime.spawned();
    call(&bench.pool);
    assert_eq!(bench.runtime.last_woken(), Some(decoy));
    bench.runtime.step_first(decoy);
    assert!(!bench.runtime.has(decoy));
}

#[test]
fn last_woken_task_is_the_decoy() {
    let listener = |pool: &TestPool| pool.listeners().unwrap()[0].id;
    let acceptor = |pool: &TestPool| pool.acceptors().unwrap()[0].id;
    check_last_is_a_decoy(|pool| drop(pool.close_listener(listener(pool))));
    check_last_is_a_decoy(|pool| drop(pool.stop()));
    check_last_is_a_decoy(|pool| drop(pool.kill()));
    check_last_is_a_decoy(|pool| pool.stop_child(acceptor(pool)).unwrap());
    check_last_is_a_decoy(|pool| pool.kill_child(acceptor(pool)).unwrap());
    let bench = Bench::new(2, counting(&Arc::default()));
    assert_eq!(bench.runtime.last_woken(), Some(DECOY));
    let decoy = bench.runtime.spawned();
    let Bench { runtime, pool, .. } = bench;
    drop(pool);
    assert_eq!(runtime.last_woken(), Some(decoy));
}

/// How often the driver is polled for a change, until all tasks sleep, and again after a close has waited for its queue.
#[track_caller]
fn check_driver_polls(change: impl FnOnce(&TestPool), expected: (usize, usize)) {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    change(&bench.pool);
    let driver_polls = || {
        let polled = bench.polled();
        polled.iter().filter(|task| **task == DRIVER).count()
    };
    let at_once = driver_polls();
    bench.runtime.advance(CLOSE_DELAY);
    assert_eq!((at_once, driver_polls()), expected);
}

#[test]
fn driver_is_polled_only_for_changes() {
    check_driver_polls(|_| {}, (0, 0));
    // For *draining*, and for the commands sent when the socket has closed.
    let close = |pool: &TestPool| drop(pool.close_listener(pool.listeners().unwrap()[0].id));
    check_driver_polls(close, (1, 1));
    check_driver_polls(|pool| drop(pool.kill()), (2, 0));
}

#[test]
fn driver_sleeps_between_its_looks() {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    drop(bench.pool.kill());
    bench.runtime.step_first(DRIVER);
    // For the closed socket, and for the end; the killed acceptors end in their own tasks.
    let decoy = SECOND_ACCEPTOR + 1;
    let (first, second) = (decoy + 1, decoy + 2);
    assert_eq!(
        bench.polled(),
        [ACCEPT_LOOP, decoy, DRIVER, first, second, REPORTER, DRIVER]
    );
    assert_eq!(bench.runtime.tasks(), 0);
}

#[test]
fn accept_yields_after_32_errors() {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    for _ in 0..99 {
        bench.port.fail(io::ErrorKind::ConnectionAborted.into());
    }
    let mut skipped = Vec::new();
    while let Some(polled) = bench.runtime.step() {
        assert_eq!(polled, ACCEPT_LOOP);
        skipped.push(bench.pool.listeners().unwrap()[0].skipped);
    }
    assert_eq!(skipped, [32, 64, 96, 99]);
}

#[test]
fn accept_errors_delay_no_timeout() {
    let bench = Bench::new(1, |_| {
        Box::pin(async { Init::AcceptWithin((), Duration::from_millis(10)) })
    });
    bench.runtime.settle();
    let flood = || {
        for _ in 0..100 {
            bench.port.fail(io::ErrorKind::ConnectionAborted.into());
        }
        assert_eq!(bench.runtime.step(), Some(ACCEPT_LOOP));
    };
    bench.runtime.advance(Duration::from_millis(9));
    flood();
    bench.runtime.advance(Duration::from_millis(1));
    // When other tasks run next, the timeout is noticed and the acceptor dismissed.
    for _ in 0..2 {
        assert_eq!(bench.terminated(), [""; 0]);
        flood();
    }
    assert!(bench.pool.listeners().unwrap()[0].skipped < 99);
    // It terminates in its own task.
    bench.runtime.step_first(FIRST_ACCEPTOR + 1);
    assert_eq!(bench.terminated(), ["accept timeout"]);
}

/// Has a client at every `accept`, and counts those that came while this many acceptors were overdue.
struct Busy {
    overdue: Arc<dyn Fn() -> usize + Send + Sync>,
    accepted_while_overdue: Arc<AtomicUsize>,
}

impl Listener for Busy {
    type Io = ();
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<((), ())> {
        let overdue = (self.overdue)();
        let accepted = usize::from(overdue > 0);
        self.accepted_while_overdue
            .fetch_add(accepted, Ordering::SeqCst);
        Ok(((), ()))
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

const TIMEOUT: Duration = Duration::from_millis(10);

/// The acceptors with these numbers have an accept timeout.
struct Timed(RangeInclusive<u64>);

impl Acceptor<Busy> for Timed {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<()>) -> Result<Init, BoxError> {
        Ok(if self.0.contains(&number(listener.child)) {
            Init::AcceptWithin((), TIMEOUT)
        } else {
            Init::Accept(())
        })
    }

    async fn serve(&self, _: Connection<(), ()>, (): ()) -> Result<(), BoxError> {
        pending().await
    }
}

/// Of 300 acceptors these time out under continuous load: all are dismissed before 64 more clients are accepted (B6).
#[track_caller]
fn check_dismissed_under_load(timed: RangeInclusive<u64>) {
    let runtime = Manual::new(&Faults::default());
    let spec = Spec::new("busy", Timed(timed.clone()));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let began = runtime.now();
    let (handle, clock) = (pool.handle(), runtime.clone());
    let overdue: Arc<dyn Fn() -> usize + Send + Sync> = Arc::new(move || {
        if clock.now() < began + TIMEOUT {
            return 0;
        }
        let overdue = |a: &&AcceptorRecord| {
            a.state == AcceptorState::Waiting && timed.contains(&number(a.id))
        };
        handle.acceptors().unwrap().iter().filter(overdue).count()
    });
    let accepted = Arc::new(AtomicUsize::new(0));
    let listener = Busy {
        overdue: Arc::clone(&overdue),
        accepted_while_overdue: Arc::clone(&accepted),
    };
    pool.add_listener(listener, 300).unwrap();
    // All 300 acceptors wait before the first client is accepted.
    let starts = 300_usize.div_ceil(64);
    for _ in 0..starts {
        assert_eq!(pool.listeners().unwrap()[0].accepted, 0);
        runtime.step_first(ACCEPT_LOOP);
    }
    for acceptor in 0..300 {
        runtime.step_first(FIRST_ACCEPTOR + acceptor);
    }
    runtime.step_first(ACCEPT_LOOP);
    runtime.advance(TIMEOUT);
    for _ in 0..4 {
        runtime.step_first(ACCEPT_LOOP);
    }
    assert_eq!(overdue(), 0);
    let accepted = accepted.load(Ordering::SeqCst);
    assert!((1..64).contains(&accepted), "{accepted} were accepted");
}

#[test]
fn expired_acceptors_leave_within_64_accepts() {
    check_dismissed_under_load(1..=300);
    check_dismissed_under_load(200..=300);
    check_dismissed_under_load(300..=300);
}

#[test]
fn zero_timeout_takes_queued_connection() {
    let bench = Bench::new(20, |_| {
        Box::pin(async { Init::AcceptWithin((), Duration::ZERO) })
    });
    for _ in 0..20 {
        bench.port.connect().unwrap();
    }
    bench.runtime.step_first(ACCEPT_LOOP);
    for acceptor in 0..20 {
        bench.runtime.step_first(FIRST_ACCEPTOR + acceptor);
    }
    bench.runtime.step_first(ACCEPT_LOOP);
    assert_eq!(bench.pool.listeners().unwrap()[0].accepted, 20);
    assert_eq!(bench.terminating(), 0);
}

/// Its first acceptor waits for a millisecond, and its `terminate` never returns; the others stay in `init`.
struct Lingers;

impl Acceptor<MemoryListener> for Lingers {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init, BoxError> {
        if listener.child.to_string() != "1.1" {
            pending::<()>().await;
        }
        Ok(Init::AcceptWithin((), Duration::from_millis(1)))
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) -> Result<(), BoxError> {
        Ok(())
    }

    async fn terminate(&self, _: &Terminate, (): ()) {
        pending().await
    }
}

#[test]
fn pause_ends_without_waiting_acceptor() {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let pool = Pool::start(runtime.clone(), Spec::new("lingers", Lingers)).unwrap();
    pool.add_listener(port.listen(), 1).unwrap();
    port.fail(io::ErrorKind::OutOfMemory.into());
    runtime.settle();
    let state = || pool.listeners().unwrap()[0].state;
    for (wait_ms, expected) in [
        (0, ListenerState::Resources),
        (4, ListenerState::Resources),
        (1, ListenerState::Starting),
    ] {
        runtime.advance(Duration::from_millis(wait_ms));
        runtime.settle();
        assert_eq!(state(), expected, "{wait_ms} ms later");
    }
    let states: Vec<_> = pool.acceptors().unwrap().iter().map(|a| a.state).collect();
    assert_eq!(states, [AcceptorState::Terminating]);
}

/// Stops its acceptor, and lets all other tasks run, as late as possible.
struct StopsWhenDropped {
    pool: Arc<OnceLock<Handle>>,
    runtime: Arc<OnceLock<Manual>>,
    child: ChildId,
}

impl Drop for StopsWhenDropped {
    fn drop(&mut self) {
        let Some(pool) = self.pool.get() else { return };
        assert_eq!(pool.stop_child(self.child), Ok(()));
        self.runtime.get().unwrap().settle();
    }
}

#[test]
fn stop_before_wait_prevents_the_wait() {
    let pool = Arc::<OnceLock<Handle>>::default();
    let runtime = Arc::<OnceLock<Manual>>::default();
    let first = AtomicUsize::new(0);
    let (pool_inside, runtime_inside) = (Arc::clone(&pool), Arc::clone(&runtime));
    let bench = Bench::new(1, move |child| {
        let stops = (first.fetch_add(1, Ordering::SeqCst) == 0).then(|| StopsWhenDropped {
            pool: Arc::clone(&pool_inside),
            runtime: Arc::clone(&runtime_inside),
            child,
        });
        Box::pin(async move {
            // Dropped in the same poll in which `init` finishes.
            let _stops = stops;
            Init::Accept(())
        })
    });
    assert!(pool.set(bench.pool.handle()).is_ok());
    assert!(runtime.set(bench.runtime.clone()).is_ok());
    bench.runtime.settle();
    assert_eq!(bench.terminated(), ["stopped"]);
    assert_eq!(bench.pool.counts().unwrap().children(), 1);
}

/// Those that wait, and those in `init` (R1).
#[test]
fn replaced_acceptors_need_no_client() {
    let bench = Bench::new(3, |child| match number(child) {
        3 => Box::pin(pending()),
        _ => Box::pin(async { Init::Accept(()) }),
    });
    bench.runtime.settle();
    let new = Spec::new("new", acceptor_fn(|_| async { Ok(()) }));
    bench
        .pool
        .reconfigure(new, WaitingAcceptors::Replace)
        .unwrap();
    bench.runtime.settle();
    assert_eq!(bench.terminated(), ["replaced by another acceptor"; 2]);
    let acceptors = bench.pool.acceptors().unwrap();
    let states = acceptors.iter().map(|acceptor| acceptor.state);
    assert_eq!(states.collect::<Vec<_>>(), [AcceptorState::Waiting; 3]);
}

/// However many there are (B1), and although none of them is ready.
#[test]
fn all_acceptors_run_init_at_once() {
    const MANY: usize = 200;
    let inits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&inits);
    let bench = Bench::new(MANY, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(pending())
    });
    bench.runtime.settle();
    assert_eq!(inits.load(Ordering::SeqCst), MANY);
}

/// Counts its wake-ups.
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The driver wakes those that wait for *stopping* in batches of 256, and lets other tasks run in between.
#[test]
fn driver_wakes_256_tasks_at_a_time() {
    let bench = Bench::new(1, counting(&Arc::default()));
    bench.runtime.settle();
    let (stopping, woken) = (bench.pool.stopping(), Arc::new(Counts(AtomicUsize::new(0))));
    let waker = Waker::from(Arc::clone(&woken));
    let mut waits: Vec<_> = (0..600).map(|_| stopping.wait()).collect();
    for wait in &mut waits {
        let polled = Pin::new(wait).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    drop(bench.pool.stop());
    for expected in [256, 512, 600] {
        bench.runtime.step_first(DRIVER);
        assert_eq!(woken.0.load(Ordering::SeqCst), expected);
    }
}

/// And likewise spaced acceptors whose time has come together (B3).
#[test]
fn driver_starts_256_acceptors_at_a_time() {
    const ACCEPTORS: usize = 600;
    let begun = AtomicUsize::new(0);
    let bench = Bench::new(ACCEPTORS, move |_| {
        // The first restart is immediate, the second comes after a millisecond.
        let ignores = begun.fetch_add(1, Ordering::SeqCst) < 2 * ACCEPTORS;
        Box::pin(async move {
            if !ignores {
                pending::<()>().await;
            }
            Init::Ignore
        })
    });
    bench.runtime.settle();
    bench.runtime.advance(Duration::from_millis(1));
    let before = bench.runtime.spawned();
    for expected in [256, 512, ACCEPTORS] {
        bench.runtime.step_first(DRIVER);
        assert_eq!(bench.runtime.spawned() - before, expected);
    }
}
