//! A pool against values, runtimes and timings that mean it harm: no listener deaf, no connection lost, no call without an end.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;
use acceptor_core::*;

type TestPool = Pool<Manual, MemoryListener>;

/// Notes which acceptors were in `init`, and how each ended; serves until it is stopped.
#[derive(Clone, Default)]
struct Noting {
    begun: Arc<Mutex<Vec<ChildId>>>,
    terminated: Arc<Mutex<Vec<(ChildId, String)>>>,
}

impl Noting {
    fn last_begun(&self) -> ChildId {
        *self.begun.lock().unwrap().last().expect("one has begun")
    }
}

impl<L: Listener<Io = MemoryStream, Addr = Address, Handshake = NoHandshake>> Acceptor<L>
    for Noting
{
    type State = ChildId;
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init<ChildId>, BoxError> {
        self.begun.lock().unwrap().push(listener.child);
        Ok(Init::Accept(listener.child))
    }

    async fn serve(
        &self,
        connection: Connection<MemoryStream, Address>,
        _: ChildId,
    ) -> Result<(), BoxError> {
        connection.stream.serve();
        std::future::pending().await
    }

    async fn terminate(&self, reason: &Terminate, child: ChildId) {
        let ended = (child, reason.to_string());
        self.terminated.lock().unwrap().push(ended);
    }
}

struct Bench {
    runtime: Manual,
    ledger: Ledger,
    port: Port,
    noting: Noting,
    pool: TestPool,
}

impl Bench {
    fn new(change: impl FnOnce(Spec<Noting, Address>) -> Spec<Noting, Address>) -> Self {
        let faults = Faults::default();
        let (runtime, ledger) = (Manual::new(&faults), Ledger::default());
        let noting = Noting::default();
        let spec = change(Spec::new("hostile", noting.clone()));
        Self {
            port: Port::new(1, &ledger, &faults),
            pool: Pool::start(runtime.clone(), spec).unwrap(),
            runtime,
            ledger,
            noting,
        }
    }

    fn served(&self) -> usize {
        self.ledger.all().iter().map(|made| made.served).sum()
    }
}

/// Ends the only acceptor after so many polls from when its listener was added: before its accept loop ran, or later.
#[track_caller]
fn check_hears_again(end: impl Fn(&TestPool, ChildId) -> Result<(), ChildError>) {
    let mut ended = 0;
    for polls in 1..9 {
        let bench = Bench::new(|spec| spec);
        bench.pool.add_listener(bench.port.listen(), 1).unwrap();
        for _ in 0..polls {
            bench.runtime.step();
        }
        if bench.noting.begun.lock().unwrap().is_empty() {
            continue;
        }
        assert_eq!(end(&bench.pool, bench.noting.last_begun()), Ok(()));
        ended += 1;
        bench.runtime.settle();
        assert_eq!(bench.noting.begun.lock().unwrap().len(), 2, "{polls}");
        bench.port.connect().unwrap();
        bench.runtime.settle();
        assert_eq!(
            bench.served(),
            1,
            "after {polls} polls the listener is deaf"
        );
    }
    assert!(ended > 3, "{ended}");
}

#[test]
fn ended_only_acceptor_is_replaced() {
    check_hears_again(|pool, id| pool.stop_child(id));
    check_hears_again(|pool, id| pool.kill_child(id));
}

/// A listener that does something of its own with each connection before the pool gets it.
struct Meddler {
    listener: MemoryListener,
    meddle: Box<dyn Fn() + Send + Sync>,
}

impl Listener for Meddler {
    type Io = MemoryStream;
    type Addr = Address;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(MemoryStream, Address)> {
        let accepted = self.listener.accept().await;
        (self.meddle)();
        accepted
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

type MeddledHandle = PoolHandle<Manual, Meddler>;

/// Ends the acceptor between the accept and its becoming the connection; what the report then says of it.
#[track_caller]
fn check_commanded_as_it_becomes(end: impl Fn(&MeddledHandle, ChildId) + Send + Sync + 'static) {
    let faults = Faults::default();
    let (runtime, ledger) = (Manual::new(&faults), Ledger::default());
    let (port, noting) = (Port::new(1, &ledger, &faults), Noting::default());
    let handle = Arc::new(OnceLock::<MeddledHandle>::new());
    let (pool_inside, noting_inside) = (Arc::clone(&handle), noting.clone());
    let once = Mutex::new(Some(end));
    let meddle = move || {
        if let Some(end) = once.lock().unwrap().take() {
            end(pool_inside.get().unwrap(), noting_inside.last_begun());
        }
    };
    let pool = Pool::start(runtime.clone(), Spec::new("meddled", noting.clone())).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    let listener = Meddler {
        listener: port.listen(),
        meddle: Box::new(meddle),
    };
    pool.add_listener(listener, 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(pool.connections().unwrap(), [], "it was commanded to end");
    assert_eq!(pool.counts().unwrap().children(), 1);
    assert_eq!(ledger.alive(), 0);
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(pool.counts().unwrap().connections, 1, "the next is served");
}

#[test]
fn command_on_accept_ends_the_connection() {
    check_commanded_as_it_becomes(|pool, id| assert_eq!(pool.stop_child(id), Ok(())));
    check_commanded_as_it_becomes(|pool, id| assert_eq!(pool.kill_child(id), Ok(())));
}

/// A runtime whose every sleep is over a little early.
#[derive(Clone)]
struct Hasty {
    runtime: Manual,
    sleeps: Arc<AtomicUsize>,
}

impl Runtime for Hasty {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        let sleeps = self.sleeps.fetch_add(1, Ordering::SeqCst);
        assert!(sleeps < 100, "it is asked again and again");
        self.runtime.sleep_until(deadline - EARLY).await;
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

/// A runtime that is so busy that the next short sleep is over when it is first polled.
#[derive(Clone)]
struct Starved {
    runtime: Manual,
    busy: Arc<AtomicBool>,
}

impl Runtime for Starved {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        let short = deadline <= self.now() + EARLY;
        if !short || !self.busy.swap(false, Ordering::SeqCst) {
            self.runtime.sleep_until(deadline).await;
        }
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

/// Such a runtime has not looked at the sockets: that `accept` is pending says nothing of the queue (L7).
#[test]
fn close_waits_for_a_starved_runtime() {
    let (manual, busy) = (
        Manual::new(&Faults::default()),
        Arc::<AtomicBool>::default(),
    );
    let runtime = Starved {
        runtime: manual.clone(),
        busy: Arc::clone(&busy),
    };
    let ledger = Ledger::default();
    let pool = Pool::start(runtime, Spec::new("starved", Noting::default())).unwrap();
    let port = Port::new(1, &ledger, &Faults::default());
    let id = pool.add_listener(port.listen(), 1).unwrap();
    manual.settle();
    busy.store(true, Ordering::SeqCst);
    let closed = pool.close_listener(id);
    manual.settle();
    assert!(port.is_open());
    port.connect().unwrap();
    manual.settle();
    manual.advance(EARLY);
    manual.settle();
    assert!(poll_once(closed).is_ready());
    assert_eq!(ledger.all()[0].served, 1);
}

const EARLY: Duration = Duration::from_millis(1);

#[test]
fn early_timer_causes_no_busy_loop() {
    let runtime = Hasty {
        runtime: Manual::new(&Faults::default()),
        sleeps: Arc::default(),
    };
    let second = Duration::from_secs(1);
    let spec = Spec::new("hasty", Noting::default())
        .lame_duck(second)
        .grace(second)
        .shutdown(second);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &Ledger::default(), &Faults::default());
    pool.add_listener(port.listen(), 1).unwrap();
    port.connect().unwrap();
    runtime.runtime.settle();
    let stopping = pool.stop();
    for phase in [Phase::LameDuck, Phase::Grace] {
        runtime.runtime.settle();
        assert_eq!(pool.status().unwrap().state, PoolState::Stopping(phase));
        runtime.runtime.advance(second - EARLY);
        runtime.runtime.settle();
        runtime.runtime.advance(EARLY);
    }
    let Poll::Ready(report) = poll_once(stopping) else {
        panic!("the stop hangs");
    };
    assert_eq!(report.reason, StopReason::Requested);
    assert_eq!(report.connections(Phase::Stop).of(EndKind::Stopped), 1);
}

/// Panics whenever it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

/// Accepts the given connections, and has no address for any of them.
struct Bomber(Mutex<VecDeque<io::Result<Bomb>>>);

impl Listener for Bomber {
    type Io = Bomb;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Bomb, ())> {
        let next = self.0.lock().unwrap().pop_front();
        match next {
            Some(accepted) => accepted.map(|bomb| (bomb, ())),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr(_: &Bomb) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

#[test]
fn skipped_connection_panics_are_contained() {
    let runtime = Manual::new(&Faults::default());
    let error = |kind| Err(io::Error::new(kind, Bomb));
    let accepted = VecDeque::from([
        Ok(Bomb),
        error(io::ErrorKind::ConnectionAborted),
        error(io::ErrorKind::OutOfMemory),
        error(io::ErrorKind::OutOfMemory),
    ]);
    let serve = acceptor_fn(|_| async { Ok(()) });
    let pool: Pool<_, Bomber> = Pool::start(runtime.clone(), Spec::new("bombed", serve)).unwrap();
    pool.add_listener(Bomber(Mutex::new(accepted)), 2).unwrap();
    for _ in 0..2 {
        runtime.settle();
        runtime.advance(Duration::from_secs(1));
    }
    runtime.settle();
    let listeners = pool.listeners().unwrap();
    assert_eq!(listeners.len(), 1, "it lives");
    assert_eq!((listeners[0].skipped, listeners[0].pauses), (2, 2));
    assert_eq!(listeners[0].state, ListenerState::Accepting);
}

#[test]
fn dropped_listener_closes_before_report() {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &Ledger::default(), &Faults::default());
    let reports = Arc::new(Mutex::new(Vec::new()));
    let (seen, port_inside) = (Arc::clone(&reports), port.clone());
    let spec = Spec::new("dropped", Noting::default()).observer(observer_fn(
        move |report: &Report<Address>| {
            let failed = matches!(report.event, Event::ListenerFailed { .. });
            seen.lock().unwrap().push((failed, port_inside.is_open()));
        },
    ));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    // After the pool's own two tasks.
    runtime.drop_as_spawned(2..3);
    pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle();
    assert_eq!(*reports.lock().unwrap(), [(true, false)]);
}

type Answer = fn() -> Result<Configure<Noting, Address>, BoxError>;

#[test]
fn init_function_drop_panic_is_contained() {
    let answers: [Answer; 4] = [
        || Ok(Configure::Use(Spec::new("good", Noting::default()))),
        || Ok(Configure::Use(Spec::new("", Noting::default()))),
        || Ok(Configure::Ignore),
        || Err("no".into()),
    ];
    let started = answers.map(|answer| {
        let bomb = Bomb;
        let runtime = Manual::new(&Faults::default());
        let pool = TestPool::start_with(runtime.clone(), move || {
            let _held = &bomb;
            answer()
        });
        let Ok(Some(pool)) = pool else {
            return false;
        };
        let handle = pool.handle();
        drop(pool);
        drop(handle);
        runtime.settle();
        true
    });
    assert_eq!(started, [true, false, false, false]);
}

/// The end of a pool whose only connection shuts its runtime down, then stays in that poll until the pool has ended; at
/// least a kill timeout later.
#[track_caller]
fn check_left_alone(
    kill_timeout: Duration,
    before: fn(&Manual, &PoolHandle<Manual, MemoryListener>),
) -> StopReport<Address> {
    let runtime = Manual::new(&Faults::default());
    let handle = Arc::new(OnceLock::<PoolHandle<Manual, MemoryListener>>::new());
    let (results, result) = mpsc::channel();
    let (inside, pool_inside) = (runtime.clone(), Arc::clone(&handle));
    let serve = acceptor_fn(move |_| {
        let pool = pool_inside.get().unwrap().clone();
        let (inside, results) = (inside.clone(), results.clone());
        async move {
            let began = Instant::now();
            before(&inside, &pool);
            inside.shut_down(Order::OldestFirst);
            let report = block_on(pool.join());
            results.send((report, began.elapsed()))?;
            Ok(())
        }
    });
    let spec = Spec::new("left alone", serve).kill_timeout(kill_timeout);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    let port = Port::new(1, &Ledger::default(), &Faults::default());
    pool.add_listener(port.listen(), 1).unwrap();
    port.connect().unwrap();
    let served = thread::spawn(move || runtime.settle());
    let waited = result.recv_timeout(Duration::from_secs(30));
    let (report, took) = waited.expect("the pool ends without its child");
    served.join().unwrap();
    assert_eq!(report.stuck, 1);
    assert!(took >= kill_timeout, "{took:?}");
    report
}

#[test]
fn ended_runtime_has_no_stuck_children() {
    let report = check_left_alone(Duration::from_millis(20), |_, _| ());
    assert_eq!(report.reason, StopReason::RuntimeGone);
}

/// The pool's own task looks at it once before the runtime shuts down.
#[test]
fn child_is_not_stuck_before_kill_timeout() {
    check_left_alone(Duration::from_millis(400), |runtime, pool| {
        drop(pool.kill());
        runtime.settle();
    });
}

/// Calls the pool whenever it is used or dropped: a lock that is held meanwhile would never be released.
#[derive(Clone)]
struct Nosy {
    pool: Arc<OnceLock<NosyHandle>>,
    calls: Arc<AtomicUsize>,
}

type NosyHandle = PoolHandle<NosyRuntime, NosyListener>;

impl Nosy {
    fn ask(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        // A call asks the clock, which is user code as well.
        let (Some(pool), false) = (self.pool.get(), ASKS.replace(true)) else {
            return;
        };
        let _ = (pool.status(), pool.acceptors());
        let _ = format!("{pool:?}");
        ASKS.set(false);
    }
}

thread_local! {
    static ASKS: Cell<bool> = const { Cell::new(false) };
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.ask();
    }
}

impl fmt::Debug for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ask();
        f.write_str("Nosy")
    }
}

impl fmt::Display for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Nosy {}

#[derive(Clone)]
struct NosyRuntime {
    runtime: Manual,
    nosy: Nosy,
}

impl Runtime for NosyRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.nosy.ask();
        let (nosy, mut task) = (self.nosy.clone(), Box::pin(task));
        // Its wakers call the pool as they wake.
        self.runtime.spawn(poll_fn(move |cx| {
            let waker = Waker::from(Arc::new(NosyWaker(nosy.clone(), cx.waker().clone())));
            task.as_mut().poll(&mut Context::from_waker(&waker))
        }));
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.nosy.ask();
        self.runtime.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        self.nosy.ask();
        self.runtime.now()
    }
}

struct NosyWaker(Nosy, Waker);

impl Wake for NosyWaker {
    fn wake(self: Arc<Self>) {
        self.0.ask();
        self.1.wake_by_ref();
    }
}

/// What `accept` returns, in this order.
type Backlog = Arc<Mutex<VecDeque<io::Result<Nosy>>>>;

struct NosyListener {
    nosy: Nosy,
    accepted: Backlog,
}

impl NosyListener {
    /// Each a connection or, by its kind, an error.
    fn new(nosy: &Nosy, accepted: impl IntoIterator<Item = Option<io::ErrorKind>>) -> Self {
        let accept = |error: Option<io::ErrorKind>| match error {
            None => Ok(nosy.clone()),
            Some(kind) => Err(io::Error::new(kind, nosy.clone())),
        };
        Self {
            nosy: nosy.clone(),
            accepted: Arc::new(Mutex::new(accepted.into_iter().map(accept).collect())),
        }
    }
}

impl Listener for NosyListener {
    type Io = Nosy;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Nosy, ())> {
        self.nosy.ask();
        // Whenever it is polled: nothing wakes it for a client that comes later.
        let next = || self.accepted.lock().unwrap().pop_front();
        let accepted = poll_fn(|_| next().map_or(Poll::Pending, Poll::Ready)).await;
        accepted.map(|stream| (stream, ()))
    }

    fn local_addr(&self) -> io::Result<()> {
        self.nosy.ask();
        Ok(())
    }

    fn io_local_addr(stream: &Nosy) -> io::Result<()> {
        stream.ask();
        Ok(())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        let _ = format!("{error}");
        None
    }
}

/// Its acceptors wait a second, its connections fail.
struct NosyAcceptor(Nosy);

impl Acceptor<NosyListener> for NosyAcceptor {
    type State = Nosy;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<()>) -> Result<Init<Nosy>, BoxError> {
        self.0.ask();
        Ok(Init::AcceptWithin(self.0.clone(), Duration::from_secs(1)))
    }

    async fn serve(&self, _: Connection<Nosy, ()>, state: Nosy) -> Result<(), BoxError> {
        Err(state.into())
    }

    async fn terminate(&self, _: &Terminate, state: Nosy) {
        state.ask();
    }
}

fn nosy_spec(nosy: &Nosy) -> Spec<NosyAcceptor, ()> {
    let (observer, table) = (nosy.clone(), nosy.clone());
    Spec::new("nosy", NosyAcceptor(nosy.clone()))
        .intensity(u32::MAX)
        .connection_reports(ConnectionReports::All)
        .grace(Duration::from_millis(1))
        .observer(observer_fn(move |report: &Report<()>| {
            let _ = format!("{observer} {report} {report:?}");
        }))
        .accept_errors(move |error| {
            table.ask();
            match error.kind() {
                io::ErrorKind::InvalidInput => AcceptErrorKind::Listener,
                _ => AcceptErrorKind::classify(error),
            }
        })
}

#[test]
fn user_code_runs_outside_all_locks() {
    let (done, over) = mpsc::channel();
    let play = move || {
        let nosy = Nosy {
            pool: Arc::default(),
            calls: Arc::default(),
        };
        let manual = Manual::new(&Faults::default());
        let runtime = NosyRuntime {
            runtime: manual.clone(),
            nosy: nosy.clone(),
        };
        let init = nosy.clone();
        let started = Pool::start_with(runtime, move || {
            init.ask();
            Ok(Configure::Use(nosy_spec(&init)))
        });
        let pool = started.unwrap().unwrap();
        assert!(nosy.pool.set(pool.handle()).is_ok());
        let skipped = Some(io::ErrorKind::ConnectionAborted);
        let paused = Some(io::ErrorKind::OutOfMemory);
        let failed = Some(io::ErrorKind::InvalidInput);
        let listeners = [
            vec![None, skipped, None, paused, paused, None],
            vec![None, failed],
            vec![],
        ];
        let mut backlogs = Vec::new();
        for accepted in listeners {
            let listener = NosyListener::new(&nosy, accepted);
            backlogs.push(Arc::clone(&listener.accepted));
            pool.add_listener(listener, 2).unwrap();
        }
        drop(pool.add_listener(NosyListener::new(&nosy, []), 0));
        for _ in 0..3 {
            manual.settle();
            manual.advance(Duration::from_secs(1));
        }
        pool.reload(WaitingAcceptors::Keep).unwrap();
        let open = pool.listeners().unwrap();
        assert_eq!(open.len(), 2);
        // A client comes while the listener closes, and another while the pool stops.
        let queue = |backlog: &Backlog| backlog.lock().unwrap().push_back(Ok(nosy.clone()));
        let closing = pool.close_listener(open[1].id);
        queue(&backlogs[2]);
        manual.settle();
        manual.advance(CLOSE_DELAY);
        manual.settle();
        assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
        let stopping = pool.stop();
        queue(&backlogs[0]);
        manual.settle();
        manual.advance(CLOSE_DELAY);
        manual.settle();
        assert!(poll_once(stopping).is_ready());
        assert!(
            backlogs
                .iter()
                .all(|backlog| backlog.lock().unwrap().is_empty())
        );
        assert_eq!((manual.tasks(), manual.panics()), (0, 0));
        let calls = nosy.calls.load(Ordering::SeqCst);
        done.send(calls).unwrap();
    };
    thread::spawn(play);
    let calls = over.recv_timeout(Duration::from_secs(30));
    let calls = calls.expect("user code runs under a lock, or a check failed");
    assert!(calls > 100, "{calls}");
}

/// Has one connection, which is a bomb.
struct Bombs(Mutex<Option<Bomb>>);

impl Listener for Bombs {
    type Io = Bomb;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Bomb, ())> {
        let bomb = self.0.lock().unwrap().take();
        match bomb {
            Some(bomb) => Ok((bomb, ())),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr(_: &Bomb) -> io::Result<()> {
        Ok(())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

struct HoldsBombs;

impl Acceptor<Bombs> for HoldsBombs {
    type State = Bomb;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<()>) -> Result<Init<Bomb>, BoxError> {
        Ok(Init::Accept(Bomb))
    }

    async fn serve(&self, _: Connection<Bomb, ()>, _: Bomb) -> Result<(), BoxError> {
        pending().await
    }
}

#[test]
fn panicking_stream_and_state_end_once() {
    let runtime = Manual::new(&Faults::default());
    let pool = Pool::start(runtime.clone(), Spec::new("bombs", HoldsBombs)).unwrap();
    pool.add_listener(Bombs(Mutex::new(Some(Bomb))), 1).unwrap();
    while pool.connections().unwrap().is_empty() {
        assert!(runtime.step().is_some(), "nothing is accepted");
    }
    let killed = pool.kill();
    runtime.settle();
    let Poll::Ready(report) = poll_once(killed) else {
        panic!("the pool waits for a connection that is gone");
    };
    let connections = report.connections(Phase::Kill);
    assert_eq!(connections.of(EndKind::Panic), 1, "{report}");
}

/// A value of the user's, in each place where a pool keeps one; whether all are gone.
#[track_caller]
fn check_nothing_is_kept(end: impl FnOnce(TestPool, &Manual)) {
    let (held, runtime) = (Arc::new(()), Manual::new(&Faults::default()));
    let inside = Arc::clone(&held);
    let init = move || {
        let (serving, observing, classifying) = (inside.clone(), inside.clone(), inside.clone());
        let serve = acceptor_fn(move |_| {
            let _held = &serving;
            pending::<Result<(), _>>()
        });
        let spec = Spec::new("kept", serve)
            .observer(observer_fn(move |_: &Report<Address>| {
                drop(observing.clone())
            }))
            .accept_errors(move |error| {
                let _held = &classifying;
                AcceptErrorKind::classify(error)
            });
        Ok(Configure::Use(spec))
    };
    let pool = Pool::start_with(runtime.clone(), init).unwrap().unwrap();
    let port = Port::new(1, &Ledger::default(), &Faults::default());
    pool.add_listener(port.listen(), 1).unwrap();
    port.connect().unwrap();
    runtime.settle();
    let handle = pool.handle();
    end(pool, &runtime);
    runtime.settle();
    assert_eq!(handle.counts(), Err(Stopped));
    assert_eq!(Arc::strong_count(&held), 1);
    let reload = handle.reload(WaitingAcceptors::Keep);
    assert!(matches!(reload, Err(ReconfigureError::Stopped)));
}

#[test]
fn ended_pool_handle_keeps_no_user_value() {
    check_nothing_is_kept(|pool, _| drop(pool));
    check_nothing_is_kept(|pool, runtime| {
        drop(pool.kill());
        runtime.settle();
    });
    check_nothing_is_kept(|_, runtime| runtime.shut_down(Order::OldestFirst));
}

#[test]
fn listener_outliving_pool_is_dropped() {
    const PATIENCE: Duration = Duration::from_secs(1);
    let (held, runtime) = (Arc::new(()), Manual::new(&Faults::default()));
    let inside = Arc::clone(&held);
    let serve = acceptor_fn(move |_: Connection<MemoryStream, Address>| {
        let _held = &inside;
        pending::<Result<(), _>>()
    });
    let handle = Arc::new(OnceLock::<MeddledHandle>::new());
    let (world, pool_inside) = (runtime.clone(), Arc::clone(&handle));
    // An accept that does not suspend before the pool has ended without it.
    let meddle = move || {
        let killed = pool_inside.get().unwrap().kill();
        for _ in 0..5 {
            world.settle();
            world.advance(PATIENCE / 4);
        }
        world.settle();
        assert!(poll_once(killed).is_ready());
    };
    let spec = Spec::new("late", serve).kill_timeout(PATIENCE);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    let port = Port::new(1, &Ledger::default(), &Faults::default());
    let listener = Meddler {
        listener: port.listen(),
        meddle: Box::new(meddle),
    };
    pool.add_listener(listener, 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!((runtime.tasks(), port.is_open()), (0, false));
    assert_eq!(Arc::strong_count(&held), 1);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A task of the user's that waits for *draining*, beside the pool; the pool ends before its own task has woken anything.
#[test]
fn draining_waiter_wakes_when_pool_ends() {
    const DRIVER: usize = 0;
    let runtime = Manual::new(&Faults::default());
    let draining = Arc::new(OnceLock::new());
    let inside = Arc::clone(&draining);
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        let _ = inside.set(connection.lifecycle.draining().clone());
        async { Ok(()) }
    });
    let pool = Pool::start(runtime.clone(), Spec::new("drains", serve)).unwrap();
    let port = Port::new(1, &Ledger::default(), &Faults::default());
    pool.add_listener(port.listen(), 1).unwrap();
    port.connect().unwrap();
    runtime.settle();
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut waits = Box::pin(draining.get().unwrap().wait());
    let mut cx = Context::from_waker(&waker);
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    let killed = pool.kill();
    runtime.settle_without(DRIVER);
    assert!(poll_once(killed).is_ready());
    runtime.settle();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(waits.as_mut().poll(&mut cx).is_ready());
}
