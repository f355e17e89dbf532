//! Listeners on runtimes of their own (B11, S8), and their tags.

#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

use std::future::{Future, pending};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{
    Address, CLOSE_DELAY, Faults, History, Manual, MemoryListener, MemoryStream, Order, Port,
    listener_error, poll_once,
};
use acceptor_core::{
    Acceptor, AddListenerReason, BoxError, Connection, Event, Failure, Init, ListenerId,
    ListenerInfo, ListenerSettings, Pool, Report, Runtime, Spec, StopReport, Terminate,
    WaitingAcceptors, acceptor_fn, observer_fn,
};

type TestPool = Pool<Manual, MemoryListener>;

/// The tags that the callbacks saw.
#[derive(Default)]
struct Seen {
    inits: Vec<Option<Arc<str>>>,
    serves: Vec<Option<Arc<str>>>,
    terminates: usize,
}

/// Waits in `serve` indefinitely.
struct Waits(Arc<Mutex<Seen>>);

impl Acceptor<MemoryListener> for Waits {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        self.0.lock().unwrap().inits.push(listener.tag.clone());
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) -> Self::Exit {
        self.0.lock().unwrap().serves.push(connection.tag.clone());
        pending().await
    }

    async fn terminate(&self, _: &Terminate, (): ()) {
        self.0.lock().unwrap().terminates += 1;
    }
}

const KILL_TIMEOUT: Duration = Duration::from_millis(400);
const LOOK: Duration = Duration::from_millis(100);

struct Bench {
    faults: Faults,
    history: History,
    /// The runtime of the pool's own tasks.
    pools: Manual,
    pool: TestPool,
    seen: Arc<Mutex<Seen>>,
    reports: Arc<Mutex<Vec<Report<Address>>>>,
}

impl Bench {
    fn new() -> Self {
        let (faults, history) = (Faults::default(), History::default());
        let (pools, seen) = (Manual::new(&faults), Arc::<Mutex<Seen>>::default());
        let reports = Arc::<Mutex<Vec<Report<Address>>>>::default();
        let reported = Arc::clone(&reports);
        let spec = Spec::new("runtimes", Waits(Arc::clone(&seen)))
            .kill_timeout(KILL_TIMEOUT)
            .observer(observer_fn(move |report: &Report<Address>| {
                reported.lock().unwrap().push(report.clone());
            }));
        let pool = Pool::start(pools.clone(), spec).unwrap();
        pools.settle();
        Self {
            faults,
            history,
            pools,
            pool,
            seen,
            reports,
        }
    }

    /// Another runtime with the same time.
    fn runtime(&self) -> Manual {
        self.pools.beside()
    }

    /// A listener with one acceptor.
    fn listen_on(&self, runtime: &Manual, number: u16) -> (ListenerId, Port) {
        let port = Port::new(number, &self.history, &self.faults);
        let added = self.pool.add_listener_on(runtime, port.listen(), 1);
        (added.unwrap(), port)
    }

    #[track_caller]
    fn counts(&self, connections: usize, acceptors: usize) {
        let counts = self.pool.counts().unwrap();
        assert_eq!(
            (counts.connections, counts.acceptors),
            (connections, acceptors)
        );
    }

    fn inits(&self) -> usize {
        self.seen.lock().unwrap().inits.len()
    }

    fn serves(&self) -> usize {
        self.seen.lock().unwrap().serves.len()
    }

    fn terminates(&self) -> usize {
        self.seen.lock().unwrap().terminates
    }

    fn stopped(&self) -> Option<StopReport<Address>> {
        match poll_once(self.pool.join()) {
            std::task::Poll::Ready(report) => Some(report),
            std::task::Poll::Pending => None,
        }
    }
}

#[test]
fn listener_tasks_run_on_its_runtime() {
    let bench = Bench::new();
    let other = bench.runtime();
    let (id, port) = bench.listen_on(&other, 1);
    bench.pools.settle();
    assert_eq!(bench.inits(), 0);
    other.settle();
    assert_eq!(bench.inits(), 1);
    port.connect().unwrap();
    bench.pools.settle();
    bench.counts(0, 1);
    other.settle();
    bench.counts(1, 1);
    assert_eq!((bench.inits(), bench.serves()), (2, 1));

    drop(bench.pool.close_listener(id));
    bench.pools.settle();
    assert!(port.is_open());
    for _ in 0..2 {
        other.settle();
        // The pool's runtime gives the time, the listener's the timers.
        bench.pools.advance(CLOSE_DELAY);
        bench.pools.settle();
        assert_eq!(other.step(), None);
        assert!(port.is_open());
        other.advance(CLOSE_DELAY);
    }
    other.settle();
    assert!(!port.is_open());
    bench.pools.settle();
    assert_eq!(bench.terminates(), 1);
    bench.counts(1, 0);

    drop(bench.pool.kill());
    bench.pools.settle();
    bench.counts(1, 0);
    other.settle();
    bench.pools.settle();
    assert_eq!(bench.stopped().unwrap().stuck, 0);
    drop(bench);
    other.settle();
    assert_eq!((other.tasks(), other.panics()), (0, 0));
}

/// The task woken or spawned last on a runtime may be kept by the thread that did it (O1, B5).
#[test]
fn companion_is_woken_after_user_tasks() {
    const ACCEPT_LOOP: usize = 0;
    const COMPANION: usize = 1;
    let bench = Bench::new();
    let other = bench.runtime();
    let (id, port) = bench.listen_on(&other, 1);
    assert_eq!(other.last_woken(), Some(COMPANION));
    other.settle();
    let serve = acceptor_fn(|_| async { Ok(()) });
    let spec = Spec::new("without init", serve);
    let kept = bench.pool.reconfigure(spec, WaitingAcceptors::Keep);
    kept.unwrap();
    // The waiting acceptor becomes the connection, and its replacement needs no `init`.
    port.connect().unwrap();
    assert_eq!(other.step(), Some(ACCEPT_LOOP));
    assert_eq!(other.last_woken(), Some(COMPANION));
    other.settle();
    let acceptor = bench.pool.acceptors().unwrap()[0].id;
    bench.pool.stop_child(acceptor).unwrap();
    assert_eq!(other.last_woken(), Some(COMPANION));
    other.step_first(COMPANION);
    assert_eq!(other.step(), Some(ACCEPT_LOOP));
    assert_eq!(other.last_woken(), Some(COMPANION));
    other.settle();
    drop(bench.pool.close_listener(id));
    assert_eq!(other.last_woken(), Some(COMPANION));
}

#[test]
fn pool_runtime_needs_no_companion() {
    let (one, other) = (Bench::new(), Bench::new());
    let port = Port::new(1, &one.history, &one.faults);
    one.pool.add_listener(port.listen(), 1).unwrap();
    let same = other.pools.clone();
    other.listen_on(&same, 1);
    one.pools.settle();
    other.pools.settle();
    assert_eq!(one.pools.tasks(), other.pools.tasks());
}

/// The listener fails (L4), its children are lost and none terminates; the rest of the pool continues.
#[track_caller]
fn check_end_of_a_runtime(order: Order) {
    let bench = Bench::new();
    let (ending, other) = (bench.runtime(), bench.runtime());
    let (id, port) = bench.listen_on(&ending, 1);
    let (_, staying) = bench.listen_on(&other, 2);
    for (runtime, port) in [(&ending, &port), (&other, &staying)] {
        runtime.settle();
        port.connect().unwrap();
        runtime.settle();
    }
    bench.counts(2, 2);
    ending.shut_down(order);
    bench.pools.settle();
    bench.counts(1, 1);
    assert_eq!((port.is_open(), bench.terminates()), (false, 0));
    assert_eq!(bench.history.alive(), 1);
    let reports = bench.reports.lock().unwrap();
    let failed = |report: &&Report<Address>| matches!(&report.event, Event::ListenerFailed { listener, listeners_left: 1, .. } if *listener == id);
    assert_eq!(reports.iter().filter(failed).count(), 1);
    let lost = |report: &&Report<Address>| matches!(&report.event, Event::ConnectionFailed { failure: Failure::Lost, listener, .. } if *listener == id);
    assert_eq!(reports.iter().filter(lost).count(), 1);
    drop(reports);

    staying.connect().unwrap();
    other.settle();
    bench.counts(2, 1);
    let third = bench.runtime();
    let (_, added) = bench.listen_on(&third, 3);
    third.settle();
    added.connect().unwrap();
    third.settle();
    bench.counts(3, 2);
    assert_eq!(ending.panics(), 0);
}

#[test]
fn runtime_end_fails_only_its_listener() {
    check_end_of_a_runtime(Order::OldestFirst);
    check_end_of_a_runtime(Order::NewestFirst);
}

#[test]
fn listener_on_ended_runtime_fails() {
    let bench = Bench::new();
    let ended = bench.runtime();
    ended.shut_down(Order::OldestFirst);
    let (id, port) = bench.listen_on(&ended, 1);
    bench.pools.settle();
    assert!(!port.is_open());
    let failed = &bench.reports.lock().unwrap()[0].event;
    assert!(matches!(failed, Event::ListenerFailed { listener, .. } if *listener == id));
    assert_eq!(bench.pool.listeners().unwrap(), []);
}

/// The pool waits for children that merely await a poll, as long as their runtime polls tasks of the pool (S8).
#[test]
fn only_blocked_runtime_has_stuck_children() {
    let bench = Bench::new();
    let (busy, blocked) = (bench.runtime(), bench.runtime());
    let (_, many) = bench.listen_on(&busy, 1);
    let (_, behind) = bench.listen_on(&busy, 2);
    let (_, alone) = bench.listen_on(&blocked, 3);
    for (runtime, port, clients) in [
        (&busy, &many, 40),
        (&busy, &behind, 1),
        (&blocked, &alone, 1),
    ] {
        runtime.settle();
        for _ in 0..clients {
            port.connect().unwrap();
            runtime.settle();
        }
    }
    bench.counts(42, 3);
    drop(bench.pool.kill());
    bench.pools.settle();
    for _ in 0..8 {
        // At least one child ends.
        let connections = bench.pool.counts().unwrap().connections;
        while bench.pool.counts().unwrap().connections == connections {
            busy.step().unwrap();
        }
        bench.pools.advance(LOOK);
        bench.pools.settle();
    }
    let left = bench.pool.connections().unwrap();
    let of = |number: u64| {
        left.iter()
            .filter(|one| one.listener.to_string() == number.to_string())
            .count()
    };
    assert_eq!((of(2), of(3)), (1, 0));
    assert!(of(1) > 0);
    busy.settle();
    bench.pools.settle();
    // The connection and the acceptor of the blocked runtime.
    assert_eq!(bench.stopped().unwrap().stuck, 2);
    blocked.settle();
    assert_eq!(blocked.panics(), 0);
}

#[test]
fn tag_reaches_callbacks_and_reports() {
    let bench = Bench::new();
    let port = Port::new(1, &bench.history, &bench.faults);
    let settings = ListenerSettings::new(1).tag("admin");
    bench.pool.add_listener(port.listen(), settings).unwrap();
    bench.pools.settle();
    port.connect().unwrap();
    bench.pools.settle();
    let admin = Some(Arc::from("admin"));
    {
        let seen = bench.seen.lock().unwrap();
        assert_eq!(seen.inits, [admin.clone(), admin.clone()]);
        assert_eq!(seen.serves, std::slice::from_ref(&admin));
    }
    assert_eq!(bench.pool.listeners().unwrap()[0].tag, admin);
    assert_eq!(bench.pool.acceptors().unwrap()[0].tag, admin);
    let connection = bench.pool.connections().unwrap().remove(0);
    assert_eq!(connection.tag, admin);

    bench.pool.kill_child(connection.id).unwrap();
    port.fail(listener_error());
    bench.pools.settle();
    let reports = bench.reports.lock().unwrap();
    let tags: Vec<_> = reports.iter().map(|report| report.tag.clone()).collect();
    assert_eq!(tags, [admin.clone(), admin]);
}

#[test]
fn tag_is_1_to_255_printable_bytes() {
    let bench = Bench::new();
    let add = |tag: &str| {
        let port = Port::new(1, &bench.history, &bench.faults);
        let settings = ListenerSettings::new(1).tag(tag);
        bench.pool.add_listener(port.listen(), settings)
    };
    for tag in ["a", "ü", &"x".repeat(255)] {
        add(tag).unwrap();
    }
    for tag in ["", "a\nb", &"x".repeat(256)] {
        let refused = add(tag).unwrap_err();
        let AddListenerReason::Tag { value } = refused.reason else {
            panic!("{:?} is not the reason to refuse {tag:?}", refused.reason);
        };
        assert_eq!(&*value, tag);
    }
    let error = add("a\nb").unwrap_err().to_string();
    let expected =
        r#"listener not added: `tag` is "a\nb": give 1 to 255 bytes without control characters"#;
    assert_eq!(error, expected);
}

/// Counts how often its clock is read as in a task of its own.
#[derive(Clone)]
struct Clocked {
    manual: Manual,
    read_in_task: Arc<AtomicUsize>,
}

impl Runtime for Clocked {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.manual.spawn(task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.manual.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        self.manual.now()
    }

    fn now_in_task(&self) -> Instant {
        self.read_in_task.fetch_add(1, Ordering::SeqCst);
        self.now()
    }
}

/// A connection on another runtime begins outside of the pool's.
#[test]
fn clock_in_task_is_read_on_its_runtime() {
    let (faults, history) = (Faults::default(), History::default());
    let pools = Clocked {
        manual: Manual::new(&faults),
        read_in_task: Arc::default(),
    };
    let other = Clocked {
        manual: pools.manual.beside(),
        read_in_task: Arc::default(),
    };
    let spec = Spec::new("clocked", acceptor_fn(|_| async { Ok(()) }));
    let pool = Pool::start(pools.clone(), spec).unwrap();
    let ports = [1, 2].map(|number| Port::new(number, &history, &faults));
    pool.add_listener(ports[0].listen(), 1).unwrap();
    pool.add_listener_on(&other, ports[1].listen(), 1).unwrap();
    for (port, expected) in ports.iter().zip([1, 1]) {
        port.connect().unwrap();
        pools.manual.settle();
        other.manual.settle();
        assert_eq!(port.waiting(), 0);
        assert_eq!(pools.read_in_task.load(Ordering::SeqCst), expected);
        assert_eq!(other.read_in_task.load(Ordering::SeqCst), 0);
    }
}
