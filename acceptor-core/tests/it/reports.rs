//! Reports that the observer takes late or never: they are bounded and counted, and delay nothing (O1 to O4).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;
use futures::FutureExt;
use futures::channel::oneshot;
use tracing::level_filters::LevelFilter;

type TestPool = Pool<Manual, MemoryListener>;
type TestReport = Report<Address>;

/// The pool's second task, in spawn order.
const REPORTER: usize = 1;

const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest number of queued reports, besides the one that the observer handles.
const PLACES: usize = 1024;

/// The error of a connection; counts its live instances.
struct Counted(#[allow(dead_code, reason = "counts until it is dropped")] Arc<()>);

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client is gone")
    }
}

impl std::error::Error for Counted {}

/// An observer that takes each report only when the test permits, and records what it has taken.
struct Gate {
    open: Mutex<mpsc::Receiver<()>>,
    taken: Arc<Mutex<Vec<Taken>>>,
    entered: mpsc::Sender<()>,
}

/// A report, without its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Of(EventKind, Option<ListenerId>),
    Lost(Losses),
}

impl Observer<Address> for Gate {
    fn report(&self, report: &TestReport) {
        let _ = self.entered.send(());
        // Fails once the sender is dropped: the gate is open.
        let _ = self.open.lock().unwrap().recv();
        self.taken.lock().unwrap().push(match &report.event {
            Event::ReportsLost { lost, .. } => Taken::Lost(*lost),
            Event::ListenerFailed { listener, .. } => {
                Taken::Of(report.event.kind(), Some(*listener))
            }
            event => Taken::Of(event.kind(), None),
        });
    }
}

/// A pool whose observer blocks its own thread, while this thread polls all other tasks.
struct Bench {
    runtime: Manual,
    history: History,
    faults: Faults,
    pool: TestPool,
    errors: Arc<()>,
    taken: Arc<Mutex<Vec<Taken>>>,
    entered: mpsc::Receiver<()>,
    /// Opens the gate when dropped.
    gate: Option<mpsc::Sender<()>>,
    reporter: Option<JoinHandle<()>>,
}

impl Bench {
    /// Each connection fails immediately.
    fn new(change: impl FnOnce(Spec<(), Address>) -> Spec<(), Address>) -> Self {
        let faults = Faults::default();
        let runtime = Manual::new(&faults);
        let errors = Arc::new(());
        let error = Arc::clone(&errors);
        let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
            connection.stream.serve();
            let error = Counted(Arc::clone(&error));
            async move { Err::<(), _>(error.into()) }
        });
        let (gate, open) = mpsc::channel();
        let (enter, entered) = mpsc::channel();
        let taken = Arc::default();
        let observer = Gate {
            open: Mutex::new(open),
            taken: Arc::clone(&taken),
            entered: enter,
        };
        let settings = change(Spec::new("blocked", ()).observer(observer)).settings;
        let spec = Spec::from_settings(settings, serve);
        Self {
            pool: Pool::start(runtime.clone(), spec).unwrap(),
            runtime,
            history: History::default(),
            faults,
            errors,
            taken,
            entered,
            gate: Some(gate),
            reporter: None,
        }
    }

    fn listen(&self, acceptors: usize) -> (Port, ListenerId) {
        let number = 1 + self.pool.listeners().unwrap().len();
        let port = Port::new(u16::try_from(number).unwrap(), &self.history, &self.faults);
        let id = self.pool.add_listener(port.listen(), acceptors).unwrap();
        self.runtime.settle();
        (port, id)
    }

    /// Opens this many connections, which fail.
    fn fail(&self, port: &Port, connections: usize) {
        for number in 1..=connections {
            port.connect().unwrap();
            if number % 1000 == 0 || number == connections {
                self.runtime.settle();
            }
        }
        assert_eq!(port.waiting(), 0);
    }

    /// The first failure reaches the observer, which blocks its thread from here on.
    fn block(&mut self, port: &Port) {
        port.connect().unwrap();
        self.runtime.settle_without(REPORTER);
        let runtime = self.runtime.clone();
        let reporter = thread::spawn(move || runtime.step_first(REPORTER));
        self.reporter = Some(reporter);
        let patience = Duration::from_secs(60);
        self.entered
            .recv_timeout(patience)
            .expect("the observer is called");
        self.runtime.settle();
    }

    /// Opens the gate, and waits for the poll of the reporter.
    fn release(&mut self) {
        drop(self.gate.take());
        let reporter = self.reporter.take().expect("the observer is blocked");
        reporter.join().unwrap();
        self.runtime.settle();
    }

    /// The number of connection errors that are still alive: those of queued reports.
    fn errors_alive(&self) -> usize {
        // One for this handle, one for the acceptor, which an ended pool has dropped.
        Arc::strong_count(&self.errors).saturating_sub(2)
    }

    fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    /// The result, and how long it took by the runtime's clock.
    #[track_caller]
    fn wait<T>(&self, future: impl Future<Output = T>) -> (T, Duration) {
        let mut future = pin!(future);
        let mut waited = Duration::ZERO;
        loop {
            self.runtime.settle();
            if let Poll::Ready(value) = poll_once(future.as_mut()) {
                return (value, waited);
            }
            assert!(waited < Duration::from_secs(60), "it hangs");
            self.runtime.advance(CLOSE_DELAY);
            waited += CLOSE_DELAY;
        }
    }
}

const FAILED: Taken = Taken::Of(EventKind::ConnectionFailed, None);

#[test]
fn blocked_observer_delays_nothing() {
    const MANY: usize = 100_000;
    let mut bench = Bench::new(|spec| spec);
    let listeners: Vec<_> = (1..=4).map(|acceptors| bench.listen(acceptors)).collect();
    bench.block(&listeners[0].0);
    for round in 0..MANY / 400 {
        for (port, _) in &listeners {
            bench.fail(port, 100);
        }
        assert!(bench.errors_alive() <= PLACES + 1, "{round}");
    }
    assert_eq!(bench.errors_alive(), PLACES + 1);
    assert_eq!(bench.pool.connections().unwrap(), []);
    for (_, id) in &listeners[1..] {
        let (closed, waited) = bench.wait(bench.pool.close_listener(*id));
        assert_eq!((closed, waited), (Ok(()), CLOSE_DELAY));
    }
    let (report, waited) = bench.wait(bench.pool.kill());
    assert_eq!(waited, KILL_TIMEOUT);
    assert_eq!((report.stuck, report.elapsed), (0, Duration::ZERO));
    // All but the one that the observer handles, and that of the killed acceptor.
    assert_eq!(report.all_acceptors().of(EndKind::Killed), 1);
    assert_eq!(report.undelivered, MANY as u64 + 1);
    assert_eq!(bench.errors_alive(), 0);
    bench.release();
    assert_eq!(bench.taken(), [FAILED]);
    assert_eq!(bench.runtime.tasks(), 0);
}

/// Checks the losses after this many failures while the observer was blocked.
#[track_caller]
fn check_losses(failures: usize) {
    let mut bench = Bench::new(|spec| spec);
    let (port, _) = bench.listen(2);
    bench.block(&port);
    bench.fail(&port, failures);
    bench.release();
    // A later report follows the losses.
    bench.fail(&port, 1);
    let lost = failures.saturating_sub(PLACES);
    let mut taken = bench.taken();
    assert_eq!(taken.pop(), Some(FAILED));
    if lost > 0 {
        let Some(Taken::Lost(losses)) = taken.pop() else {
            panic!("the losses do not come right before the later report");
        };
        let of_connections = losses.of(EventKind::ConnectionFailed);
        assert_eq!((of_connections, losses.total()), (lost as u64, lost as u64));
    }
    assert_eq!(taken, vec![FAILED; 1 + failures - lost]);
    let (report, _) = bench.wait(bench.pool.stop());
    assert_eq!(report.undelivered, lost as u64);
}

#[test]
fn losses_take_the_first_lost_position() {
    check_losses(0);
    check_losses(PLACES);
    check_losses(PLACES + 1);
    check_losses(100_000);
}

#[test]
fn full_outbox_keeps_listener_failures() {
    let mut bench = Bench::new(|spec| spec.last_listener(LastListener::Stop));
    let (first, first_id) = bench.listen(1);
    let (second, second_id) = bench.listen(1);
    bench.block(&first);
    bench.fail(&first, 2 * PLACES);
    for port in [&second, &first] {
        port.fail(listener_error());
        bench.runtime.settle();
    }
    bench.release();
    let (report, _) = bench.wait(bench.pool.join());
    assert_eq!(report.reason, StopReason::ListenersFailed);
    assert_eq!(report.undelivered, PLACES as u64);
    let taken = bench.taken();
    let (failed, last) = taken.split_at(1 + PLACES);
    assert_eq!(failed, [FAILED; 1 + PLACES]);
    let listener = |id| Taken::Of(EventKind::ListenerFailed, Some(id));
    let [Taken::Lost(lost), rest @ ..] = last else {
        panic!("{last:?}");
    };
    assert_eq!(lost.total(), PLACES as u64);
    let stopped = Taken::Of(EventKind::PoolStopped, None);
    assert_eq!(rest, [listener(second_id), listener(first_id), stopped]);
}

#[test]
fn lost_begins_and_ends_count_apart() {
    const MANY: usize = 3000;
    let mut bench = Bench::new(|spec| spec.connection_reports(ConnectionReports::All));
    let (port, _) = bench.listen(2);
    bench.block(&port);
    bench.fail(&port, MANY);
    bench.release();
    let taken = bench.taken();
    for kind in [EventKind::ConnectionBegan, EventKind::ConnectionFailed] {
        let delivered = taken.iter().filter(|t| **t == Taken::Of(kind, None));
        let lost = taken.iter().map(|taken| match taken {
            Taken::Lost(lost) => lost.of(kind),
            Taken::Of(..) => 0,
        });
        let all = delivered.count() as u64 + lost.sum::<u64>();
        assert_eq!(all, 1 + MANY as u64, "{kind}");
    }
}

/// Checks an observer that blocks its thread until this call returns.
#[track_caller]
fn check_waits_inside<F>(call: fn(&PoolHandle<Manual, MemoryListener>) -> F, close: Duration)
where
    F: Future<Output = StopReport<Address>> + Send + 'static,
{
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let handle = Arc::<OnceLock<PoolHandle<Manual, MemoryListener>>>::default();
    let (inside, waits) = (Arc::clone(&handle), Arc::new(AtomicBool::new(false)));
    let (waits_inside, (results, result)) = (Arc::clone(&waits), mpsc::channel());
    let results = Mutex::new(results);
    let observer = move |_: &TestReport| {
        let result = call(inside.get().expect("the handle is set first"));
        waits_inside.store(true, Ordering::SeqCst);
        let _ = results.lock().unwrap().send(block_on(result));
    };
    let spec = Spec::new(
        "waits",
        acceptor_fn(|_| async { Err::<(), _>("failed".into()) }),
    );
    let pool = Pool::start(runtime.clone(), spec.observer(observer_fn(observer))).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle_without(REPORTER);
    port.connect().unwrap();
    runtime.settle_without(REPORTER);
    let stepping = runtime.clone();
    let reporter = thread::spawn(move || stepping.step_first(REPORTER));
    while !waits.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    // Another call stops the pool, in case this one only waits.
    drop(pool.stop());
    let mut waited = Duration::ZERO;
    let mut joined = pin!(pool.join());
    let report = loop {
        runtime.settle();
        if let Poll::Ready(report) = poll_once(joined.as_mut()) {
            break report;
        }
        assert!(waited < KILL_TIMEOUT + close, "the pool waits for itself");
        runtime.advance(CLOSE_DELAY);
        waited += CLOSE_DELAY;
    };
    assert_eq!(waited, KILL_TIMEOUT + close);
    let patience = Duration::from_secs(60);
    let inside = result.recv_timeout(patience);
    assert_eq!(inside.expect("the observer has returned"), report);
    reporter.join().unwrap();
    runtime.settle();
    assert_eq!(runtime.tasks(), 0);
}

#[test]
fn observer_may_wait_for_its_pool() {
    check_waits_inside(|pool| pool.stop(), CLOSE_DELAY);
    check_waits_inside(|pool| pool.kill(), Duration::ZERO);
    check_waits_inside(|pool| pool.join(), CLOSE_DELAY);
}

#[test]
fn reports_follow_the_order_of_ends() {
    let runtime = Manual::new(&Faults::default());
    let (history, faults) = (History::default(), Faults::default());
    let ports = [1, 2, 3].map(|number| Port::new(number, &history, &faults));
    let (ends, reports) = (
        Arc::<Mutex<Vec<ChildId>>>::default(),
        Arc::<Mutex<Vec<ChildId>>>::default(),
    );
    let (ended, reported) = (Arc::clone(&ends), Arc::clone(&reports));
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        let ended = Arc::clone(&ended);
        async move {
            // Each connection lasts for a different time.
            for _ in 0..connection.stream.number * 7 % 5 {
                yield_now().await;
            }
            ended.lock().unwrap().push(connection.id);
            Err::<(), _>("failed".into())
        }
    });
    let observer = move |report: &TestReport| {
        if let Event::ConnectionFailed { child, .. } = &report.event {
            reported.lock().unwrap().push(*child);
        }
    };
    let spec = Spec::new("order", serve).observer(observer_fn(observer));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    for port in &ports {
        pool.add_listener(port.listen(), 2).unwrap();
        for _ in 0..20 {
            port.connect().unwrap();
        }
    }
    runtime.settle();
    let ends = ends.lock().unwrap().clone();
    assert_eq!(ends.len(), 60);
    assert!(
        !ends.is_sorted(),
        "the connections end in the order in which they began"
    );
    assert_eq!(*reports.lock().unwrap(), ends);
}

#[test]
fn reports_are_serial_without_reporter() {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let handle = Arc::<OnceLock<PoolHandle<Manual, MemoryListener>>>::default();
    let (depth, most) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::<Mutex<Vec<_>>>::default(),
    );
    let (inside, seen) = (Arc::clone(&handle), Arc::clone(&most));
    let observer = move |report: &TestReport| {
        let calls = depth.fetch_add(1, Ordering::SeqCst);
        seen.lock().unwrap().push((report.event.kind(), calls));
        // A call with effects, on a pool whose last child has ended.
        let acceptor = acceptor_fn(|_| async { Ok(()) });
        let pool = inside.get().expect("the handle is set first");
        let refused = pool.reconfigure(Spec::new("late", acceptor), WaitingAcceptors::Keep);
        assert!(matches!(refused, Err(ReconfigureError::Stopped)));
        depth.fetch_sub(1, Ordering::SeqCst);
    };
    let spec = Spec::new(
        "left",
        acceptor_fn(|_| async { Err::<(), _>("failed".into()) }),
    );
    let pool = Pool::start(runtime.clone(), spec.observer(observer_fn(observer))).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    pool.add_listener(port.listen(), 1).unwrap();
    runtime.drop_task(REPORTER);
    for _ in 0..3 {
        port.connect().unwrap();
    }
    runtime.settle();
    assert_eq!(
        *most.lock().unwrap(),
        [],
        "no connection waits for the observer"
    );
    let killed = pool.kill();
    runtime.settle();
    assert!(poll_once(killed).is_ready());
    let failed = (EventKind::ConnectionFailed, 0);
    let killed = (EventKind::KilledWhileStopping, 0);
    assert_eq!(*most.lock().unwrap(), [failed, failed, failed, killed]);
}

/// One field of each event that is traced.
#[derive(Clone, Default)]
struct Tracer(
    Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>,
    /// The most verbose level, if there is one.
    Option<LevelFilter>,
);

struct Fields(BTreeMap<&'static str, String>);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl tracing::Subscriber for Tracer {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.1
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Tracer {
    /// The name of each event, with the number of suppressed ones.
    fn take(&self) -> Vec<(String, String)> {
        let events = std::mem::take(&mut *self.0.lock().unwrap());
        let field = |event: &BTreeMap<_, String>, name| event.get(name).cloned();
        let pair = |event: BTreeMap<_, String>| {
            let suppressed = field(&event, "suppressed").or(field(&event, "count"));
            (
                field(&event, "event").unwrap_or_default(),
                suppressed.unwrap_or_default(),
            )
        };
        events.into_iter().map(pair).collect()
    }
}

#[test]
fn tracing_is_limited_observer_is_not() {
    let mut bench = Bench::new(|spec| spec);
    drop(bench.gate.take());
    let tracer = Tracer::default();
    // With a single subscriber, an event first emitted on another test's thread would be disabled for this one too.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _guard = tracing::subscriber::set_default(tracer.clone());
    let (first, second) = (bench.listen(1), bench.listen(1));
    let failed = |suppressed: &str| (r#""connection_failed""#.to_owned(), suppressed.to_owned());
    bench.fail(&first.0, 100);
    bench.fail(&second.0, 3);
    let mut expected = vec![failed("0"); 13];
    assert_eq!(tracer.take(), expected);
    // The tenth event of the last second was at its beginning.
    bench.runtime.advance(Duration::from_secs(1));
    bench.fail(&first.0, 15);
    expected = vec![failed("90")];
    expected.extend(vec![failed("0"); 9]);
    assert_eq!(tracer.take(), expected);
    let (_, _) = bench.wait(bench.pool.stop());
    let suppressed = (r#""events_suppressed""#.to_owned(), "5".to_owned());
    assert_eq!(tracer.take(), [suppressed]);
    assert_eq!(bench.taken(), vec![FAILED; 118]);
}

/// The kill timeout never ends, and with it the time in which reports may be delivered.
#[test]
fn infinite_kill_timeout_delivers_reports() {
    const FAILURES: usize = 100;
    let mut bench = Bench::new(|spec| spec.kill_timeout(Duration::MAX));
    let (port, _) = bench.listen(1);
    bench.block(&port);
    bench.fail(&port, FAILURES);
    let mut killed = Box::pin(bench.pool.kill());
    bench.runtime.settle();
    bench.runtime.advance(KILL_TIMEOUT);
    bench.runtime.settle();
    assert!(poll_once(killed.as_mut()).is_pending());
    bench.release();
    let Poll::Ready(report) = poll_once(killed) else {
        panic!("the reports are not all delivered");
    };
    assert_eq!(report.undelivered, 0);
    let last = Taken::Of(EventKind::KilledWhileStopping, None);
    let mut expected = vec![FAILED; FAILURES + 1];
    expected.push(last);
    assert_eq!(bench.taken(), expected);
}

/// The end of each connection whose begin was reported is reported too, whatever the settings are by then (O4).
#[test]
fn update_hides_no_end_of_a_known_begin() {
    let (faults, history) = (Faults::default(), History::default());
    let runtime = Manual::new(&faults);
    let (leave, left) = oneshot::channel::<()>();
    let left = left.shared();
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        let left = left.clone();
        async move {
            let _ = left.await;
            Ok(match connection.stream.number % 2 {
                0 => Exit::disconnected("no heartbeat"),
                _ => Exit::clean("quit"),
            })
        }
    });
    let seen = Arc::<Mutex<Vec<(EventKind, Option<String>)>>>::default();
    let reported = Arc::clone(&seen);
    let observer = move |report: &TestReport| {
        let reason = match &report.event {
            Event::ConnectionEnded { reason, .. } => reason.as_deref().map(str::to_owned),
            _ => None,
        };
        let kind = report.event.kind();
        reported.lock().unwrap().push((kind, reason));
    };
    let spec = Spec::new("known", serve)
        .connection_reports(ConnectionReports::All)
        .observer(observer_fn(observer));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 2).unwrap();
    let connect = || {
        for _ in 0..2 {
            port.connect().unwrap();
        }
        runtime.settle();
    };
    connect();
    pool.update(|settings| settings.connection_reports = ConnectionReports::Failures)
        .unwrap();
    connect();
    assert_eq!(pool.counts().unwrap().connections, 4);
    drop(leave);
    runtime.settle();
    assert_eq!(pool.counts().unwrap().connections, 0);
    let expected = [
        (EventKind::ConnectionBegan, None),
        (EventKind::ConnectionBegan, None),
        (EventKind::Disconnected, None),
        (EventKind::ConnectionEnded, Some("quit".to_owned())),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

/// Checks what is traced, up to this level, of disconnects that the observer does not get.
#[track_caller]
fn check_debug_events(level: LevelFilter) {
    let (faults, history) = (Faults::default(), History::default());
    let runtime = Manual::new(&faults);
    let serve = acceptor_fn(|_| async { Ok(Exit::disconnected("no heartbeat")) });
    let observed = Arc::<AtomicUsize>::default();
    let counts = Arc::clone(&observed);
    let observer = observer_fn(move |_: &TestReport| {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    let spec = Spec::new("debug", serve).observer(observer);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 1).unwrap();
    let tracer = Tracer(Arc::default(), Some(level));
    // As in `tracing_is_limited_observer_is_not`, but at this level: `NoSubscriber` has the most verbose one.
    let _second = tracing::Dispatch::new(Tracer(Arc::default(), Some(level)));
    let _guard = tracing::subscriber::set_default(tracer.clone());
    let connect = |clients| {
        for _ in 0..clients {
            port.connect().unwrap();
            runtime.settle();
        }
        tracer.take()
    };
    let gone = |suppressed: &str| (r#""disconnected""#.to_owned(), suppressed.to_owned());
    assert_eq!(connect(15), vec![gone("0"); 10]);
    runtime.advance(Duration::from_secs(1));
    assert_eq!(connect(1), [gone("5")]);
    assert_eq!(observed.load(Ordering::SeqCst), 0);
}

#[test]
fn debug_events_are_limited_too() {
    check_debug_events(LevelFilter::DEBUG);
    check_debug_events(LevelFilter::TRACE);
}
