//! Interleavings made deterministic: listeners and runtimes with hooks that run between two steps of a pool, or block it there.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::support::*;
use acceptor_core::*;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

/// The points at which a listener calls its hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Called,
    Polled,
    /// `accept` has returned, which the pool does not know yet.
    Through,
    Dropped,
}

type Hook = Arc<dyn Fn(When) + Send + Sync>;

/// Calls its hook at each point of an `accept`.
struct HookedListener {
    listener: MemoryListener,
    hook: Hook,
}

/// One call of `accept`.
struct Call<'a>(&'a Hook);

impl Call<'_> {
    /// A method, so that the future captures the whole call and not only its field.
    fn hook(&self, when: When) {
        (self.0)(when);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.hook(When::Dropped);
    }
}

impl Listener for HookedListener {
    type Io = MemoryStream;
    type Addr = Address;
    type Handshake = NoHandshake;

    fn accept(&self) -> impl Future<Output = io::Result<(MemoryStream, Address)>> + Send {
        (self.hook)(When::Called);
        let call = Call(&self.hook);
        let mut accept = Box::pin(self.listener.accept());
        poll_fn(move |cx| {
            call.hook(When::Polled);
            let accepted = accept.as_mut().poll(cx);
            if accepted.is_ready() {
                call.hook(When::Through);
            }
            accepted
        })
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.listener.local_addr()
    }

    fn io_local_addr(stream: &MemoryStream) -> io::Result<Address> {
        MemoryListener::io_local_addr(stream)
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn asks_local_addr(&self) -> bool {
        self.listener.asks_local_addr()
    }
}

/// A runtime, a port, and the reports of a pool there.
struct Bench {
    runtime: Manual,
    history: History,
    port: Port,
    reports: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new() -> Self {
        let faults = Faults::default();
        let history = History::default();
        Self {
            runtime: Manual::new(&faults),
            port: Port::new(1, &history, &faults),
            history,
            reports: Arc::default(),
        }
    }

    fn observed<Acc>(&self, spec: Spec<Acc, Address>) -> Spec<Acc, Address> {
        let reports = Arc::clone(&self.reports);
        spec.observer(observer_fn(move |report: &Report<Address>| {
            reports.lock().unwrap().push(report.to_string());
        }))
    }

    fn reports(&self) -> Vec<String> {
        self.reports.lock().unwrap().clone()
    }
}

/// An acceptor that needs its `init`, and serves indefinitely.
struct NeedsInit;

impl Acceptor<HookedListener> for NeedsInit {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) -> Result<(), BoxError> {
        pending().await
    }
}

/// The first tasks of a pool, in spawn order; those of the acceptors follow a decoy.
const ACCEPT_LOOP: usize = 2;
const FIRST_ACCEPTOR: usize = 4;

#[test]
fn arrival_during_accept_precedes_replacement() {
    let bench = Bench::new();
    let pool = Pool::start(bench.runtime.clone(), Spec::new("order", NeedsInit)).unwrap();
    let runtime = bench.runtime.clone();
    let hook: Hook = Arc::new(move |when| {
        if when == When::Through {
            runtime.settle();
        }
    });
    let listener = bench.port.listen();
    pool.add_listener(HookedListener { listener, hook }, 2)
        .unwrap();
    bench.runtime.step_first(ACCEPT_LOOP);
    bench.runtime.step_first(FIRST_ACCEPTOR);
    // The replacement needs no `init`: it waits as soon as the connection exists.
    let plain = acceptor_fn(|connection: Connection<MemoryStream, Address>| async move {
        let _connection = connection;
        pending::<Result<(), _>>().await
    });
    pool.reconfigure(Spec::new("plain", plain), WaitingAcceptors::Keep)
        .unwrap();
    bench.port.connect().unwrap();
    // The second acceptor arrives from within this `accept`.
    bench.runtime.step_first(ACCEPT_LOOP);
    bench.runtime.settle();
    bench.port.connect().unwrap();
    bench.runtime.settle();
    let connections = pool.connections().unwrap();
    let ids: Vec<_> = connections.iter().map(|c| c.id.to_string()).collect();
    assert_eq!(ids, ["1.1", "1.2"]);
}

#[test]
fn accept_panic_is_reported() {
    for panics in [When::Called, When::Polled, When::Through, When::Dropped] {
        let bench = Bench::new();
        let spec = Spec::new("panics", acceptor_fn(|_| async { Ok(()) }));
        let pool = Pool::start(bench.runtime.clone(), bench.observed(spec)).unwrap();
        let hook: Hook = Arc::new(move |when| {
            if when == panics {
                resume_unwind(Box::new("in accept"));
            }
        });
        let listener = bench.port.listen();
        pool.add_listener(HookedListener { listener, hook }, 1)
            .unwrap();
        bench.runtime.settle();
        bench.port.fail(io::ErrorKind::ConnectionAborted.into());
        bench.runtime.settle();
        let reports = bench.reports();
        assert_eq!(reports.len(), 1, "{panics:?}: {reports:?}");
        let words = "accept panicked: in accept";
        assert!(reports[0].contains(words), "{panics:?}: {reports:?}");
        assert!(!bench.port.is_open(), "{panics:?}");
        assert_eq!(bench.runtime.panics(), 0, "{panics:?}");
        assert_eq!(pool.counts().unwrap().children(), 0, "{panics:?}");
    }
}

/// The pool is killed after a connection was accepted, and before a child has it.
#[test]
fn kill_between_accept_and_child_ends() {
    for acceptors in [1, 2] {
        let bench = Bench::new();
        let pool = Pool::start(bench.runtime.clone(), Spec::new("killed", NeedsInit)).unwrap();
        let handle = pool.handle();
        let hook: Hook = Arc::new(move |when| {
            if when == When::Through {
                drop(handle.kill());
            }
        });
        let listener = bench.port.listen();
        pool.add_listener(HookedListener { listener, hook }, acceptors)
            .unwrap();
        bench.runtime.settle();
        bench.port.connect().unwrap();
        bench.runtime.settle();
        let Poll::Ready(report) = poll_once(pool.join()) else {
            panic!("{acceptors}: the kill hangs");
        };
        let killed = report.acceptors(Phase::Kill).of(EndKind::Killed);
        assert_eq!((report.stuck, killed), (0, acceptors), "{report}");
        assert_eq!(report.all_connections().total(), 0, "{report}");
        assert_eq!((bench.history.alive(), bench.runtime.tasks()), (0, 0));
    }
}

#[test]
fn stopped_pool_reports_nothing() {
    let bench = Bench::new();
    let spec = Spec::new("late", acceptor_fn(|_| async { Ok(()) }));
    let look = Duration::from_millis(1);
    let spec = bench.observed(spec.kill_timeout(4 * look));
    let pool = Pool::start(bench.runtime.clone(), spec).unwrap();
    let handle = pool.handle();
    let runtime = bench.runtime.clone();
    let stopped = Arc::new(AtomicBool::new(false));
    let stops = Arc::clone(&stopped);
    // The pool stops without this listener, which fails later.
    let hook: Hook = Arc::new(move |when| {
        if when == When::Through {
            drop(handle.kill());
            // Looks at the remaining children until none has made progress for a kill timeout (S8).
            for _ in 0..4 {
                runtime.settle();
                assert!(handle.counts().is_ok());
                runtime.advance(look);
            }
            runtime.settle();
            stops.store(handle.counts() == Err(Stopped), Ordering::SeqCst);
        }
    });
    let listener = bench.port.listen();
    pool.add_listener(HookedListener { listener, hook }, 1)
        .unwrap();
    bench.runtime.settle();
    bench.port.fail(io::ErrorKind::OutOfMemory.into());
    let traced = traced(|| bench.runtime.settle());
    assert!(stopped.load(Ordering::SeqCst));
    let words = "pool late: 1 child did not suspend after the kill and was left";
    assert_eq!(bench.reports(), [words]);
    assert_eq!(traced, 1);
}

/// Counts the reports that were traced during a call.
fn traced(run: impl FnOnce()) -> usize {
    struct Counts(Arc<Mutex<usize>>);

    impl tracing::Subscriber for Counts {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            *self.0.lock().unwrap() += 1;
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    let count = Arc::<Mutex<usize>>::default();
    // With a single subscriber, an event first emitted on another test's thread would be disabled for this one too.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    tracing::subscriber::with_default(Counts(Arc::clone(&count)), run);
    *count.lock().unwrap()
}

#[test]
fn blocked_thread_leaves_others_not_stuck() {
    let bench = Bench::new();
    let handle = Arc::<OnceLock<PoolHandle<Manual, MemoryListener>>>::default();
    let (inside, runtime) = (Arc::clone(&handle), bench.runtime.clone());
    let spec = Spec::new(
        "held up",
        acceptor_fn(move |_: Connection<MemoryStream, Address>| {
            // Blocks the only thread for longer than the kill timeout, while the pool is killed; then returns.
            drop(inside.get().unwrap().kill());
            runtime.advance(Duration::from_secs(2));
            async { Ok(()) }
        }),
    );
    let pool = Pool::start(bench.runtime.clone(), spec).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    pool.add_listener(bench.port.listen(), 3).unwrap();
    bench.runtime.settle();
    bench.port.connect().unwrap();
    let mut join = Box::pin(pool.join());
    let mut cx = Context::from_waker(Waker::noop());
    let report = loop {
        bench.runtime.step().expect("a task is ready");
        if let Poll::Ready(report) = join.as_mut().poll(&mut cx) {
            break report;
        }
    };
    assert_eq!(report.stuck, 0, "{report}");
    assert!(!bench.port.is_open());
    assert_eq!(bench.history.alive(), 0);
}

/// Its timers round up, and panic when the result is out of range.
#[derive(Clone)]
struct RoundsUp(Manual);

impl Runtime for RoundsUp {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        let rounded = deadline.checked_add(Duration::from_millis(1));
        self.0
            .sleep_until(rounded.expect("the rounded deadline is in range"))
            .await;
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

/// The longest representable time from now, to the nanosecond.
fn longest(now: Instant) -> Duration {
    let (mut longest, mut step) = (Duration::ZERO, Duration::MAX / 2);
    while step > Duration::ZERO {
        if longest
            .checked_add(step)
            .is_some_and(|time| now.checked_add(time).is_some())
        {
            longest += step;
        } else {
            step /= 2;
        }
    }
    longest
}

#[test]
fn deadline_at_end_of_time_never_expires() {
    let bench = Bench::new();
    let longest = longest(bench.runtime.now());
    struct Patient(Duration);
    impl Acceptor<MemoryListener> for Patient {
        type State = ();
        type Exit = Result<(), BoxError>;

        async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
            Ok(Init::AcceptWithin((), self.0))
        }

        async fn serve(
            &self,
            _: Connection<MemoryStream, Address>,
            (): (),
        ) -> Result<(), BoxError> {
            pending().await
        }
    }
    let spec = bench.observed(Spec::new("patient", Patient(longest)).lame_duck(longest));
    let pool = Pool::start(RoundsUp(bench.runtime.clone()), spec).unwrap();
    pool.add_listener(bench.port.listen(), 1).unwrap();
    bench.runtime.settle();
    drop(pool.stop());
    bench.runtime.settle();
    bench.port.connect().unwrap();
    bench.runtime.settle();
    let status = pool.status().unwrap();
    assert_eq!(status.state, PoolState::Stopping(Phase::LameDuck));
    assert_eq!(status.counts.connections, 1);
    assert_eq!(bench.reports(), [""; 0]);
}

/// A runtime that calls a hook once, when its clock is read.
#[derive(Clone)]
struct Clock {
    runtime: Manual,
    once: Once,
}

type Once = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl Runtime for Clock {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.runtime.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        let once = self.once.lock().unwrap().take();
        if let Some(once) = once {
            once();
        }
        self.runtime.now()
    }
}

/// Records its name when its `init` runs.
struct Named(&'static str, Arc<Mutex<Vec<&'static str>>>);

impl Acceptor<MemoryListener> for Named {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        self.1.lock().unwrap().push(self.0);
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) -> Result<(), BoxError> {
        pending().await
    }
}

#[test]
fn replacement_uses_concurrent_spec() {
    let bench = Bench::new();
    let (inits, once) = (Arc::<Mutex<Vec<_>>>::default(), Once::default());
    let runtime = Clock {
        runtime: bench.runtime.clone(),
        once: Arc::clone(&once),
    };
    let named = |name| Spec::new(name, Named(name, Arc::clone(&inits)));
    let pool = Pool::start(runtime, named("old")).unwrap();
    pool.add_listener(bench.port.listen(), 1).unwrap();
    bench.runtime.settle();
    let (handle, new) = (pool.handle(), named("new"));
    // The accept loop reads the clock after it has made the replacement, and before it uses it.
    let reconfigures = move || handle.reconfigure(new, WaitingAcceptors::Keep).unwrap();
    *once.lock().unwrap() = Some(Box::new(reconfigures));
    bench.port.connect().unwrap();
    bench.runtime.settle();
    assert!(once.lock().unwrap().is_none());
    assert_eq!(*inits.lock().unwrap(), ["old", "new"]);
    assert_eq!(pool.counts().unwrap().children(), 2);
}

/// Prepares a state at once, or when the test permits; records the outcome of each.
struct Prepares {
    name: &'static str,
    at_once: bool,
    prepared: Prepared,
    outcomes: Outcomes,
}

/// Is ready once the test permits acceptors to be prepared.
type Prepared = Shared<oneshot::Receiver<()>>;
type Outcomes = Arc<Mutex<Vec<String>>>;

impl Prepares {
    fn note(&self, outcome: &str) {
        let entry = format!("{}: {outcome}", self.name);
        self.outcomes.lock().unwrap().push(entry);
    }
}

impl Acceptor<HookedListener> for Prepares {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        self.prepared.clone().await?;
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        self.at_once.then_some(())
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        connection.stream.serve();
        self.note(&format!("serves {}", connection.stream.number));
        pending().await
    }

    async fn terminate(&self, reason: &Terminate, (): ()) {
        self.note(&reason.to_string());
    }
}

/// When the acceptors are replaced, with respect to the first connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaced {
    /// As soon as it is accepted.
    Accepted,
    /// Once the next acceptor is made, and has its state.
    Followed,
}

/// A pool whose acceptors are replaced just as one of them gets the first connection, and their outcomes.
struct Replacing {
    bench: Bench,
    pool: Pool<Clock, HookedListener>,
    prepares: oneshot::Sender<()>,
    outcomes: Outcomes,
    listener: ListenerId,
}

impl Replacing {
    fn new(acceptors: usize, replaced: Replaced) -> Self {
        let (bench, outcomes) = (Bench::new(), Outcomes::default());
        let (prepares, prepared) = oneshot::channel();
        let spec = |name, at_once, prepared: oneshot::Receiver<()>| {
            let (prepared, outcomes) = (prepared.shared(), Arc::clone(&outcomes));
            let acceptor = Prepares {
                name,
                at_once,
                prepared,
                outcomes,
            };
            bench.observed(Spec::new(name, acceptor))
        };
        let (lets, let_through) = oneshot::channel();
        lets.send(()).unwrap();
        let old = spec("old", replaced == Replaced::Followed, let_through);
        let once = Once::default();
        let clock = Clock {
            runtime: bench.runtime.clone(),
            once: Arc::clone(&once),
        };
        let pool = Pool::start(clock, old).unwrap();
        let accepted = Once::default();
        let hook: Hook = {
            let accepted = Arc::clone(&accepted);
            Arc::new(move |when| {
                if when == When::Through {
                    let once = accepted.lock().unwrap().take();
                    once.into_iter().for_each(|once| once());
                }
            })
        };
        let listener = bench.port.listen();
        let listener = pool.add_listener(HookedListener { listener, hook }, acceptors);
        let listener = listener.unwrap();
        bench.runtime.settle();
        let (handle, new) = (pool.handle(), spec("new", false, prepared));
        let replaces = move || handle.reconfigure(new, WaitingAcceptors::Replace).unwrap();
        let moment = match replaced {
            Replaced::Accepted => &accepted,
            // The accept loop reads the clock after it has made the next acceptor.
            Replaced::Followed => &once,
        };
        *moment.lock().unwrap() = Some(Box::new(replaces));
        bench.port.connect().unwrap();
        bench.port.connect().unwrap();
        bench.runtime.settle();
        Self {
            bench,
            pool,
            prepares,
            outcomes,
            listener,
        }
    }
}

/// The outcomes of the acceptors since the last call.
fn sorted(outcomes: &Outcomes) -> Vec<String> {
    let mut outcomes = std::mem::take(&mut *outcomes.lock().unwrap());
    outcomes.sort();
    outcomes
}

const REPLACED: &str = "old: replaced by another acceptor";

/// Checks how many acceptors terminate: the next one too, if it has its state.
#[track_caller]
fn check_held(acceptors: usize, replaced: Replaced, terminate: usize) {
    let Replacing {
        bench,
        pool,
        prepares,
        outcomes,
        ..
    } = Replacing::new(acceptors, replaced);
    assert_eq!(sorted(&outcomes), vec![REPLACED; terminate]);
    // The accept loop holds one accepted client, the other is in the system's queue.
    assert_eq!((bench.history.alive(), bench.port.waiting()), (1, 1));
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (0, acceptors));
    prepares.send(()).unwrap();
    bench.runtime.settle();
    assert_eq!(sorted(&outcomes), ["new: serves 0", "new: serves 1"]);
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (2, acceptors));
    assert_eq!(bench.reports(), [""; 0]);
}

/// It was accepted for an acceptor that has been replaced since (R1, B7).
#[test]
fn accepted_connection_waits_for_new_acceptor() {
    check_held(1, Replaced::Accepted, 1);
    check_held(3, Replaced::Accepted, 3);
    check_held(1, Replaced::Followed, 2);
    check_held(3, Replaced::Followed, 4);
}

#[test]
fn accepted_connection_closes_with_listener() {
    let replacing = Replacing::new(2, Replaced::Accepted);
    let bench = &replacing.bench;
    let mut closing = Box::pin(replacing.pool.close_listener(replacing.listener));
    bench.runtime.settle();
    // The close waits up to a second for a starting acceptor (L7).
    assert!(poll_once(closing.as_mut()).is_pending());
    assert_eq!((bench.history.alive(), bench.port.waiting()), (1, 1));
    bench.runtime.advance(CLOSE_LIMIT);
    bench.runtime.settle();
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
    assert_eq!((bench.history.alive(), bench.port.is_open()), (0, false));
    let counts = replacing.pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (0, 0));
    assert_eq!(sorted(&replacing.outcomes), vec![REPLACED; 2]);
}

/// Has its state at once, until `init_now` fails.
struct AtOnce {
    name: &'static str,
    fails: Arc<AtomicBool>,
    outcomes: Outcomes,
}

impl AtOnce {
    fn note(&self, outcome: &str) {
        let entry = format!("{}: {outcome}", self.name);
        self.outcomes.lock().unwrap().push(entry);
    }
}

impl Acceptor<HookedListener> for AtOnce {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        if self.fails.load(Ordering::SeqCst) {
            resume_unwind(Box::new("failed"));
        }
        Some(())
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        connection.stream.serve();
        self.note(&format!("serves {}", connection.stream.number));
        pending().await
    }

    async fn terminate(&self, reason: &Terminate, (): ()) {
        self.note(&reason.to_string());
    }
}

/// A pool whose acceptors have their states at once, and are replaced as soon as the first connection is accepted.
struct ReplacedAtOnce {
    bench: Bench,
    pool: Pool<Manual, HookedListener>,
    outcomes: Outcomes,
    fails: Arc<AtomicBool>,
}

impl ReplacedAtOnce {
    fn spec(&self, name: &'static str) -> Spec<AtOnce, Address> {
        spec_at_once(&self.bench, name, &self.fails, &self.outcomes)
    }

    fn new(acceptors: usize) -> Self {
        let (bench, outcomes, fails) = (Bench::new(), Outcomes::default(), Arc::default());
        let old = spec_at_once(&bench, "old", &fails, &outcomes);
        let pool = Pool::start(bench.runtime.clone(), old).unwrap();
        let accepted = Once::default();
        let hook: Hook = {
            let accepted = Arc::clone(&accepted);
            Arc::new(move |when| {
                if when == When::Through {
                    let once = accepted.lock().unwrap().take();
                    once.into_iter().for_each(|once| once());
                }
            })
        };
        let listener = bench.port.listen();
        let listener = HookedListener { listener, hook };
        pool.add_listener(listener, acceptors).unwrap();
        bench.runtime.settle();
        let (handle, new) = (
            pool.handle(),
            spec_at_once(&bench, "new", &fails, &outcomes),
        );
        let replaces = move || handle.reconfigure(new, WaitingAcceptors::Replace).unwrap();
        *accepted.lock().unwrap() = Some(Box::new(replaces));
        Self {
            bench,
            pool,
            outcomes,
            fails,
        }
    }
}

fn spec_at_once(
    bench: &Bench,
    name: &'static str,
    fails: &Arc<AtomicBool>,
    outcomes: &Outcomes,
) -> Spec<AtOnce, Address> {
    let acceptor = AtOnce {
        name,
        fails: Arc::clone(fails),
        outcomes: Arc::clone(outcomes),
    };
    bench.observed(Spec::new(name, acceptor).intensity(100))
}

/// The listener keeps its number of acceptors (L1, R1).
#[test]
fn replacement_on_accept_keeps_the_number() {
    for acceptors in [1, 3] {
        let replaced = ReplacedAtOnce::new(acceptors);
        let bench = &replaced.bench;
        bench.port.connect().unwrap();
        bench.runtime.settle();
        let mut expected = vec![REPLACED; acceptors];
        expected.insert(0, "new: serves 0");
        assert_eq!(sorted(&replaced.outcomes), expected);
        let counts = replaced.pool.counts().unwrap();
        assert_eq!((counts.connections, counts.acceptors), (1, acceptors));
    }
}

/// A start error of the next acceptor counts for the new acceptor, which is retried as usual (B4).
#[test]
fn failed_successor_counts_once() {
    let replaced = ReplacedAtOnce::new(1);
    let bench = &replaced.bench;
    replaced.fails.store(true, Ordering::SeqCst);
    bench.port.connect().unwrap();
    bench.runtime.settle();
    replaced.fails.store(false, Ordering::SeqCst);
    bench.runtime.advance(Duration::from_secs(5));
    bench.runtime.settle();
    assert_eq!(sorted(&replaced.outcomes), ["new: serves 0", REPLACED]);
    let counts = replaced.pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (1, 1));
}

/// After this race the pool can be reconfigured again, even while no acceptor has begun (V3).
#[test]
fn reconfigure_in_outage_after_replacement() {
    let replaced = ReplacedAtOnce::new(1);
    let bench = &replaced.bench;
    bench.port.connect().unwrap();
    bench.runtime.settle();
    // Each waiting acceptor gets a connection, and has no successor.
    replaced.fails.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        bench.port.connect().unwrap();
        bench.runtime.settle();
    }
    let newest = replaced.spec("newest");
    replaced
        .pool
        .reconfigure(newest, WaitingAcceptors::Replace)
        .unwrap();
    bench.runtime.settle();
    replaced.fails.store(false, Ordering::SeqCst);
    bench.runtime.advance(Duration::from_secs(5));
    bench.runtime.settle();
    let counts = replaced.pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (3, 1));
}

/// Has its state at once unless that fails: its `init` never needs to run.
struct NeverInits(Arc<AtomicBool>, Arc<AtomicBool>);

impl Acceptor<HookedListener> for NeverInits {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        self.1.store(true, Ordering::SeqCst);
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        if self.0.load(Ordering::SeqCst) {
            resume_unwind(Box::new("failed"));
        }
        Some(())
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) {
        pending().await
    }
}

/// An outage ends on another thread just as an acceptor gets a connection (B4): the next acceptor, too, is asked for its
/// state (B5).
#[test]
fn successor_at_outage_end_is_asked_for_state() {
    let bench = Bench::new();
    let (fails, inits) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let once = Once::default();
    let clock = Clock {
        runtime: bench.runtime.clone(),
        once: Arc::clone(&once),
    };
    let acceptor = NeverInits(Arc::clone(&fails), Arc::clone(&inits));
    let pool = Pool::start(clock, Spec::new("never", acceptor).intensity(100)).unwrap();
    let accepted = Arc::new(Mutex::new(0));
    let hook: Hook = {
        let (fails, once, runtime) = (Arc::clone(&fails), Arc::clone(&once), bench.runtime.clone());
        Arc::new(move |when| {
            if when != When::Through {
                return;
            }
            let mut accepted = accepted.lock().unwrap();
            *accepted += 1;
            if *accepted == 2 {
                let (fails, runtime) = (Arc::clone(&fails), runtime.clone());
                // Runs after the next acceptor was asked for its state.
                *once.lock().unwrap() = Some(Box::new(move || {
                    fails.store(false, Ordering::SeqCst);
                    runtime.settle();
                }));
            }
        })
    };
    let listener = bench.port.listen();
    pool.add_listener(HookedListener { listener, hook }, 2)
        .unwrap();
    bench.runtime.settle();
    fails.store(true, Ordering::SeqCst);
    bench.port.connect().unwrap();
    bench.port.connect().unwrap();
    bench.runtime.settle();
    assert!(once.lock().unwrap().is_none());
    assert!(!fails.load(Ordering::SeqCst));
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (2, 2));
    assert!(!inits.load(Ordering::SeqCst), "its `init` ran");
}

/// The runtime drops the task of a listener whose pending `accept` panics when dropped.
#[test]
fn dropped_accept_panic_is_contained() {
    let bench = Bench::new();
    let spec = Spec::new("panics", acceptor_fn(|_| async { Ok(()) }));
    let pool = Pool::start(bench.runtime.clone(), bench.observed(spec)).unwrap();
    let hook: Hook = Arc::new(move |when| {
        if when == When::Dropped {
            resume_unwind(Box::new("in accept"));
        }
    });
    let listener = bench.port.listen();
    pool.add_listener(HookedListener { listener, hook }, 1)
        .unwrap();
    bench.runtime.settle();
    bench.runtime.drop_task(ACCEPT_LOOP);
    bench.runtime.settle();
    assert!(!bench.port.is_open());
    assert_eq!(pool.counts().unwrap().children(), 0);
    assert_eq!(bench.runtime.panics(), 0);
}

/// Checks an update during which the pool is changed in another way: it begins again, and both changes last.
#[track_caller]
fn check_outrun(change: impl Fn(&PoolHandle<Manual, MemoryListener>)) {
    let spec = |id| Spec::new(id, acceptor_fn(|_| async { Ok(()) }));
    let pool = Pool::start(Manual::new(&Faults::default()), spec("outrun")).unwrap();
    let (handle, mut calls) = (pool.handle(), 0);
    let updated = pool.update(|settings| {
        calls += 1;
        if calls == 1 {
            change(&handle);
        }
        settings.period = Duration::from_secs(9);
    });
    assert!(updated.is_ok());
    let settings = pool.settings().unwrap();
    let changed = (settings.intensity, settings.period, calls);
    assert_eq!(changed, (7, Duration::from_secs(9), 2));
}

#[test]
fn outrun_update_begins_again() {
    check_outrun(|pool| pool.update(|settings| settings.intensity = 7).unwrap());
    check_outrun(|pool| {
        let spec = Spec::new("other", acceptor_fn(|_| async { Ok(()) })).intensity(7);
        pool.reconfigure(spec, WaitingAcceptors::Keep).unwrap();
    });
}
