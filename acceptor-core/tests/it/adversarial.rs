//! A pool against adversarial values, runtimes and timings: no listener stops accepting, no connection is lost, no call hangs.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

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

/// Records which acceptors ran `init`, and how each ended; serves until it is stopped.
#[derive(Clone, Default)]
struct Noting {
    begun: Arc<Mutex<Vec<ChildId>>>,
    terminated: Arc<Mutex<Vec<(ChildId, String)>>>,
}

impl Noting {
    fn last_begun(&self) -> ChildId {
        *self
            .begun
            .lock()
            .unwrap()
            .last()
            .expect("an acceptor has begun")
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
    history: History,
    port: Port,
    noting: Noting,
    pool: TestPool,
}

impl Bench {
    fn new(change: impl FnOnce(Spec<Noting, Address>) -> Spec<Noting, Address>) -> Self {
        let faults = Faults::default();
        let (runtime, history) = (Manual::new(&faults), History::default());
        let noting = Noting::default();
        let spec = change(Spec::new("hostile", noting.clone()));
        Self {
            port: Port::new(1, &history, &faults),
            pool: Pool::start(runtime.clone(), spec).unwrap(),
            runtime,
            history,
            noting,
        }
    }

    fn served(&self) -> usize {
        self.history.all().iter().map(|made| made.served).sum()
    }
}

/// Ends the only acceptor after every number of polls since its listener was added: before its accept loop ran, or later.
#[track_caller]
fn check_replaced_when_ended(end: impl Fn(&TestPool, ChildId) -> Result<(), ChildError>) {
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
            "after {polls} polls the listener accepts nothing"
        );
    }
    assert!(ended > 3, "{ended}");
}

#[test]
fn ended_only_acceptor_is_replaced() {
    check_replaced_when_ended(|pool, id| pool.stop_child(id));
    check_replaced_when_ended(|pool, id| pool.kill_child(id));
}

/// A listener that calls a hook for each connection before the pool gets it.
struct HookedListener {
    listener: MemoryListener,
    hook: Box<dyn Fn() + Send + Sync>,
}

impl Listener for HookedListener {
    type Io = MemoryStream;
    type Addr = Address;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(MemoryStream, Address)> {
        let accepted = self.listener.accept().await;
        (self.hook)();
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

type HookedHandle = PoolHandle<Manual, HookedListener>;

/// Ends the acceptor after the accept, before it becomes the connection.
#[track_caller]
fn check_commanded_on_accept(end: impl Fn(&HookedHandle, ChildId) + Send + Sync + 'static) {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let (port, noting) = (Port::new(1, &history, &faults), Noting::default());
    let handle = Arc::new(OnceLock::<HookedHandle>::new());
    let (pool_inside, noting_inside) = (Arc::clone(&handle), noting.clone());
    let once = Mutex::new(Some(end));
    let hook = move || {
        if let Some(end) = once.lock().unwrap().take() {
            end(pool_inside.get().unwrap(), noting_inside.last_begun());
        }
    };
    let pool = Pool::start(runtime.clone(), Spec::new("hooked", noting.clone())).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    let listener = HookedListener {
        listener: port.listen(),
        hook: Box::new(hook),
    };
    pool.add_listener(listener, 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(
        pool.connections().unwrap(),
        [],
        "the connection ended as commanded"
    );
    assert_eq!(pool.counts().unwrap().children(), 1);
    assert_eq!(history.alive(), 0);
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(
        pool.counts().unwrap().connections,
        1,
        "the next client is served"
    );
}

#[test]
fn command_on_accept_ends_the_connection() {
    check_commanded_on_accept(|pool, id| assert_eq!(pool.stop_child(id), Ok(())));
    check_commanded_on_accept(|pool, id| assert_eq!(pool.kill_child(id), Ok(())));
}

/// A runtime whose sleeps all end a little early.
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
        assert!(sleeps < 100, "the pool sleeps in a busy loop");
        self.runtime.sleep_until(deadline - EARLY).await;
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

/// A runtime so busy that the next short sleep is over when it is first polled.
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

/// Such a runtime has not polled the sockets: a pending `accept` says nothing about the queue (L7).
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
    let history = History::default();
    let pool = Pool::start(runtime, Spec::new("starved", Noting::default())).unwrap();
    let port = Port::new(1, &history, &Faults::default());
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
    assert_eq!(history.all()[0].served, 1);
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
    let port = Port::new(1, &History::default(), &Faults::default());
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
struct AlwaysPanics;

impl Drop for AlwaysPanics {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

impl fmt::Display for AlwaysPanics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("always panics")
    }
}

impl std::error::Error for AlwaysPanics {}

/// Accepts the given connections, none of which has a local address.
struct PanickingStreams(Mutex<VecDeque<io::Result<AlwaysPanics>>>);

impl Listener for PanickingStreams {
    type Io = AlwaysPanics;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(AlwaysPanics, ())> {
        let next = self.0.lock().unwrap().pop_front();
        match next {
            Some(accepted) => accepted.map(|panicking| (panicking, ())),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr(_: &AlwaysPanics) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

#[test]
fn skipped_connection_panics_are_contained() {
    let runtime = Manual::new(&Faults::default());
    let error = |kind| Err(io::Error::new(kind, AlwaysPanics));
    let accepted = VecDeque::from([
        Ok(AlwaysPanics),
        error(io::ErrorKind::ConnectionAborted),
        error(io::ErrorKind::OutOfMemory),
        error(io::ErrorKind::OutOfMemory),
    ]);
    let serve = acceptor_fn(|_| async { Ok(()) });
    let pool: Pool<_, PanickingStreams> =
        Pool::start(runtime.clone(), Spec::new("panicking", serve)).unwrap();
    pool.add_listener(PanickingStreams(Mutex::new(accepted)), 2)
        .unwrap();
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
    let port = Port::new(1, &History::default(), &Faults::default());
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
        let panicking = AlwaysPanics;
        let runtime = Manual::new(&Faults::default());
        let pool = TestPool::start_with(runtime.clone(), move || {
            let _held = &panicking;
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

/// Checks the end of a pool whose only connection shuts down its runtime, and stays in that poll until the pool has ended,
/// at least a kill timeout later.
#[track_caller]
fn check_stuck_after_shutdown(
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
    let spec = Spec::new("shuts down", serve).kill_timeout(kill_timeout);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    let port = Port::new(1, &History::default(), &Faults::default());
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
    let report = check_stuck_after_shutdown(Duration::from_millis(20), |_, _| ());
    assert_eq!(report.reason, StopReason::RuntimeGone);
}

/// The driver looks at it once before the runtime shuts down.
#[test]
fn child_is_not_stuck_before_kill_timeout() {
    check_stuck_after_shutdown(Duration::from_millis(400), |runtime, pool| {
        drop(pool.kill());
        runtime.settle();
    });
}

/// Calls the pool whenever it is used or dropped: a lock held during that call would deadlock.
#[derive(Clone)]
struct Reentrant {
    pool: Arc<OnceLock<ReentrantHandle>>,
    calls: Arc<AtomicUsize>,
}

type ReentrantHandle = PoolHandle<ReentrantRuntime, ReentrantListener>;

impl Reentrant {
    fn ask(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        // A call reads the clock, which is user code as well.
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

impl Drop for Reentrant {
    fn drop(&mut self) {
        self.ask();
    }
}

impl fmt::Debug for Reentrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ask();
        f.write_str("Reentrant")
    }
}

impl fmt::Display for Reentrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Reentrant {}

#[derive(Clone)]
struct ReentrantRuntime {
    runtime: Manual,
    reentrant: Reentrant,
}

impl Runtime for ReentrantRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.reentrant.ask();
        let (reentrant, mut task) = (self.reentrant.clone(), Box::pin(task));
        // Its wakers call the pool when they wake.
        self.runtime.spawn(poll_fn(move |cx| {
            let waker = Waker::from(Arc::new(ReentrantWaker(
                reentrant.clone(),
                cx.waker().clone(),
            )));
            task.as_mut().poll(&mut Context::from_waker(&waker))
        }));
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.reentrant.ask();
        self.runtime.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        self.reentrant.ask();
        self.runtime.now()
    }
}

struct ReentrantWaker(Reentrant, Waker);

impl Wake for ReentrantWaker {
    fn wake(self: Arc<Self>) {
        self.0.ask();
        self.1.wake_by_ref();
    }
}

/// The results of `accept`, in order.
type Backlog = Arc<Mutex<VecDeque<io::Result<Reentrant>>>>;

struct ReentrantListener {
    reentrant: Reentrant,
    accepted: Backlog,
}

impl ReentrantListener {
    /// Each is a connection or, by its kind, an error.
    fn new(
        reentrant: &Reentrant,
        accepted: impl IntoIterator<Item = Option<io::ErrorKind>>,
    ) -> Self {
        let accept = |error: Option<io::ErrorKind>| match error {
            None => Ok(reentrant.clone()),
            Some(kind) => Err(io::Error::new(kind, reentrant.clone())),
        };
        Self {
            reentrant: reentrant.clone(),
            accepted: Arc::new(Mutex::new(accepted.into_iter().map(accept).collect())),
        }
    }
}

impl Listener for ReentrantListener {
    type Io = Reentrant;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Reentrant, ())> {
        self.reentrant.ask();
        // Wakes itself whenever it is polled: nothing else wakes it for a later client.
        let next = || self.accepted.lock().unwrap().pop_front();
        let accepted = poll_fn(|_| next().map_or(Poll::Pending, Poll::Ready)).await;
        accepted.map(|stream| (stream, ()))
    }

    fn local_addr(&self) -> io::Result<()> {
        self.reentrant.ask();
        Ok(())
    }

    fn io_local_addr(stream: &Reentrant) -> io::Result<()> {
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

/// Its acceptors have an accept timeout of a second; its connections fail.
struct ReentrantAcceptor(Reentrant);

impl Acceptor<ReentrantListener> for ReentrantAcceptor {
    type State = Reentrant;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<()>) -> Result<Init<Reentrant>, BoxError> {
        self.0.ask();
        Ok(Init::AcceptWithin(self.0.clone(), Duration::from_secs(1)))
    }

    async fn serve(&self, _: Connection<Reentrant, ()>, state: Reentrant) -> Result<(), BoxError> {
        Err(state.into())
    }

    async fn terminate(&self, _: &Terminate, state: Reentrant) {
        state.ask();
    }
}

fn reentrant_spec(reentrant: &Reentrant) -> Spec<ReentrantAcceptor, ()> {
    let (observer, table) = (reentrant.clone(), reentrant.clone());
    Spec::new("reentrant", ReentrantAcceptor(reentrant.clone()))
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
        let reentrant = Reentrant {
            pool: Arc::default(),
            calls: Arc::default(),
        };
        let manual = Manual::new(&Faults::default());
        let runtime = ReentrantRuntime {
            runtime: manual.clone(),
            reentrant: reentrant.clone(),
        };
        let init = reentrant.clone();
        let started = Pool::start_with(runtime, move || {
            init.ask();
            Ok(Configure::Use(reentrant_spec(&init)))
        });
        let pool = started.unwrap().unwrap();
        assert!(reentrant.pool.set(pool.handle()).is_ok());
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
            let listener = ReentrantListener::new(&reentrant, accepted);
            backlogs.push(Arc::clone(&listener.accepted));
            pool.add_listener(listener, 2).unwrap();
        }
        drop(pool.add_listener(ReentrantListener::new(&reentrant, []), 0));
        for _ in 0..3 {
            manual.settle();
            manual.advance(Duration::from_secs(1));
        }
        pool.reload(WaitingAcceptors::Keep).unwrap();
        let open = pool.listeners().unwrap();
        assert_eq!(open.len(), 2);
        // One client comes while the listener closes, and another while the pool stops.
        let queue = |backlog: &Backlog| backlog.lock().unwrap().push_back(Ok(reentrant.clone()));
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
        let calls = reentrant.calls.load(Ordering::SeqCst);
        done.send(calls).unwrap();
    };
    thread::spawn(play);
    let calls = over.recv_timeout(Duration::from_secs(30));
    let calls = calls.expect("user code runs under a lock, or a check failed");
    assert!(calls > 100, "{calls}");
}

/// Accepts one connection, whose stream panics when dropped.
struct OnePanickingStream(Mutex<Option<AlwaysPanics>>);

impl Listener for OnePanickingStream {
    type Io = AlwaysPanics;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(AlwaysPanics, ())> {
        let panicking = self.0.lock().unwrap().take();
        match panicking {
            Some(panicking) => Ok((panicking, ())),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr(_: &AlwaysPanics) -> io::Result<()> {
        Ok(())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

struct HoldsPanicking;

impl Acceptor<OnePanickingStream> for HoldsPanicking {
    type State = AlwaysPanics;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<()>) -> Result<Init<AlwaysPanics>, BoxError> {
        Ok(Init::Accept(AlwaysPanics))
    }

    async fn serve(
        &self,
        _: Connection<AlwaysPanics, ()>,
        _: AlwaysPanics,
    ) -> Result<(), BoxError> {
        pending().await
    }
}

#[test]
fn panicking_stream_and_state_end_once() {
    let runtime = Manual::new(&Faults::default());
    let pool = Pool::start(runtime.clone(), Spec::new("panicking", HoldsPanicking)).unwrap();
    pool.add_listener(OnePanickingStream(Mutex::new(Some(AlwaysPanics))), 1)
        .unwrap();
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

/// Puts a user value wherever a pool keeps one, and checks that all of them are dropped.
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
    let port = Port::new(1, &History::default(), &Faults::default());
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
    let handle = Arc::new(OnceLock::<HookedHandle>::new());
    let (world, pool_inside) = (runtime.clone(), Arc::clone(&handle));
    // The poll of this `accept` outlasts the pool.
    let hook = move || {
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
    let port = Port::new(1, &History::default(), &Faults::default());
    let listener = HookedListener {
        listener: port.listen(),
        hook: Box::new(hook),
    };
    pool.add_listener(listener, 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!((runtime.tasks(), port.is_open()), (0, false));
    assert_eq!(Arc::strong_count(&held), 1);
}

/// Counts its wake-ups.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A user task outside the pool waits for *draining*; the pool ends before its driver has woken any waiter.
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
    let port = Port::new(1, &History::default(), &Faults::default());
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
