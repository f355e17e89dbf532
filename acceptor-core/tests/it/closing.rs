//! Closing listeners: the clients they still accept, the calls that wait for them, and the last one of a pool (L7 to L9).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::support::*;
use acceptor_core::*;

type TestPool = Pool<Manual, MemoryListener>;

const MS: Duration = Duration::from_millis(1);

/// Serves its clients indefinitely, and keeps their latches.
#[derive(Clone)]
struct Serves {
    runtime: Manual,
    /// How long `init` takes, except for the first acceptors.
    init_time: Duration,
    first: usize,
    closed: Arc<Mutex<Vec<Latch>>>,
    draining: Arc<Mutex<Vec<Latch>>>,
    terminated: Arc<Mutex<Vec<String>>>,
}

impl Acceptor<MemoryListener> for Serves {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        let begun = {
            let mut closed = self.closed.lock().unwrap();
            closed.push(listener.closed.clone());
            closed.len()
        };
        if begun > self.first {
            let ends = self.runtime.now() + self.init_time;
            self.runtime.sleep_until(ends).await;
        }
        Ok(Init::Accept(()))
    }

    async fn serve(
        &self,
        connection: Connection<MemoryStream, Address>,
        (): (),
    ) -> Result<(), BoxError> {
        connection.stream.serve();
        let draining = connection.lifecycle.draining().clone();
        self.draining.lock().unwrap().push(draining);
        pending().await
    }

    async fn terminate(&self, reason: &Terminate, (): ()) {
        self.terminated.lock().unwrap().push(reason.to_string());
    }
}

struct Bench {
    runtime: Manual,
    history: History,
    faults: Faults,
    port: Port,
    serves: Serves,
    pool: TestPool,
    listener: ListenerId,
    reports: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new(
        acceptors: usize,
        init_time: Duration,
        change: impl FnOnce(Spec<Serves, Address>) -> Spec<Serves, Address>,
    ) -> Self {
        let faults = Faults::default();
        let (runtime, history) = (Manual::new(&faults), History::default());
        let serves = Serves {
            runtime: runtime.clone(),
            init_time,
            first: acceptors,
            closed: Arc::default(),
            draining: Arc::default(),
            terminated: Arc::default(),
        };
        let reports = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&reports);
        let observer = move |report: &Report<Address>| {
            seen.lock().unwrap().push(report.to_string());
        };
        let spec = Spec::new("closing", serves.clone()).observer(observer_fn(observer));
        let pool = Pool::start(runtime.clone(), change(spec)).unwrap();
        let port = Port::new(1, &history, &faults);
        let listener = pool.add_listener(port.listen(), acceptors).unwrap();
        runtime.settle();
        Self {
            runtime,
            history,
            faults,
            port,
            serves,
            pool,
            listener,
            reports,
        }
    }

    fn plain() -> Self {
        Self::new(2, Duration::ZERO, |spec| spec)
    }

    fn queue(&self, clients: usize) {
        for _ in 0..clients {
            self.port.connect().unwrap();
        }
    }

    fn served(&self) -> usize {
        self.history.all().iter().map(|made| made.served).sum()
    }

    fn advance(&self, time: Duration) {
        self.runtime.settle();
        self.runtime.advance(time);
        self.runtime.settle();
    }

    /// Advances a millisecond at a time until the socket is closed; returns how long that took.
    #[track_caller]
    fn close_time(&self) -> Duration {
        let began = self.runtime.now();
        self.runtime.settle();
        while self.port.is_open() {
            self.advance(MS);
            assert!(self.runtime.now() < began + 60 * CLOSE_LIMIT, "it hangs");
        }
        self.runtime.now() - began
    }

    fn state(&self) -> ListenerState {
        self.pool.listeners().unwrap()[0].state
    }

    fn reports(&self) -> Vec<String> {
        self.reports.lock().unwrap().clone()
    }
}

/// Closes the listener with these clients queued: `served` of them are served, and the close takes `time`.
#[track_caller]
fn check_taken(bench: &Bench, queued: usize, served: usize, time: Duration) {
    bench.queue(queued);
    let closing = bench.pool.close_listener(bench.listener);
    assert_eq!(bench.close_time(), time);
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
    assert_eq!(bench.served(), served);
    assert_eq!(bench.port.waiting(), queued - served);
    assert_eq!(bench.port.connect(), Err(Refused));
    assert_eq!(bench.reports(), [""; 0]);
    assert_eq!(bench.pool.counts().unwrap().connections, served);
    assert_eq!(bench.pool.counts().unwrap().children(), served);
}

#[test]
fn close_serves_queued_clients() {
    check_taken(&Bench::plain(), 0, 0, CLOSE_DELAY);
    check_taken(&Bench::plain(), 1, 1, CLOSE_DELAY);
    check_taken(&Bench::plain(), 100, 100, CLOSE_DELAY);
}

#[test]
fn close_takes_at_most_4096_clients() {
    check_taken(&Bench::plain(), 4095, 4095, CLOSE_DELAY);
    check_taken(&Bench::plain(), 4096, 4096, Duration::ZERO);
    check_taken(&Bench::plain(), 5000, 4096, Duration::ZERO);
}

#[test]
fn close_waits_at_most_1_s_for_starts() {
    let slow = |init_ms| Bench::new(1, Duration::from_millis(init_ms), |spec| spec);
    // One immediately, then one every 300 ms.
    check_taken(&slow(300), 10, 4, CLOSE_LIMIT);
    check_taken(&slow(300), 3, 3, Duration::from_millis(900));
    check_taken(&slow(5000), 2, 1, CLOSE_LIMIT);
}

#[test]
fn client_arriving_during_close_is_served() {
    let bench = Bench::plain();
    let closing = bench.pool.close_listener(bench.listener);
    bench.advance(CLOSE_DELAY / 2);
    assert_eq!(bench.state(), ListenerState::Closing);
    bench.queue(1);
    bench.advance(CLOSE_DELAY / 2);
    assert_eq!(bench.served(), 1);
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
    assert_eq!(bench.port.connect(), Err(Refused));
}

/// A closing listener accepts a client, gets this error, and has another client queued.
#[track_caller]
fn check_ends_with(error: io::Error) {
    let bench = Bench::plain();
    bench.queue(1);
    bench.port.fail(error);
    bench.queue(1);
    let closing = bench.pool.close_listener(bench.listener);
    assert_eq!(bench.close_time(), Duration::ZERO);
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
    assert_eq!((bench.served(), bench.port.waiting()), (1, 1));
    // It was closing anyway: it neither fails nor pauses. The replacement of the first acceptor has no state yet.
    assert_eq!(bench.reports(), [""; 0]);
    assert_eq!(
        *bench.serves.terminated.lock().unwrap(),
        ["listener closed"]
    );
}

#[test]
fn resource_or_listener_error_ends_close() {
    check_ends_with(io::ErrorKind::OutOfMemory.into());
    check_ends_with(listener_error());
}

#[test]
fn connection_error_does_not_end_close() {
    let bench = Bench::plain();
    bench.port.fail(io::ErrorKind::ConnectionAborted.into());
    check_taken(&bench, 3, 3, CLOSE_DELAY);
}

#[test]
fn paused_listener_closes_at_once() {
    let bench = Bench::plain();
    bench.port.fail(io::ErrorKind::OutOfMemory.into());
    bench.queue(1);
    bench.runtime.settle();
    assert_eq!(bench.state(), ListenerState::Resources);
    drop(bench.pool.close_listener(bench.listener));
    assert_eq!(bench.close_time(), Duration::ZERO);
    assert_eq!(bench.served(), 0);
}

/// Its acceptors time out after a millisecond, and their `terminate` never returns.
struct Terminates;

impl Acceptor<MemoryListener> for Terminates {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::AcceptWithin((), MS))
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) -> Result<(), BoxError> {
        Ok(())
    }

    async fn terminate(&self, _: &Terminate, (): ()) {
        pending().await
    }
}

#[test]
fn listener_without_acceptor_closes_at_once() {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let pool = Pool::start(runtime.clone(), Spec::new("ends", Terminates)).unwrap();
    let listener = pool.add_listener(port.listen(), 2).unwrap();
    runtime.settle();
    runtime.advance(MS);
    runtime.settle();
    let closing = pool.close_listener(listener);
    runtime.settle();
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
    assert!(!port.is_open());
}

/// Ends a pool, or one of its listeners, without accepting the queued clients.
#[track_caller]
fn check_not_drained(
    change: impl FnOnce(Spec<Serves, Address>) -> Spec<Serves, Address>,
    end: impl FnOnce(TestPool),
) {
    let bench = Bench::new(2, Duration::ZERO, change);
    bench.queue(3);
    let Bench {
        runtime,
        port,
        history,
        pool,
        ..
    } = bench;
    end(pool);
    runtime.settle();
    assert!(!port.is_open());
    assert_eq!((history.all()[0].accepted, port.waiting()), (0, 3));
}

#[test]
fn kill_takes_no_queued_client() {
    check_not_drained(|spec| spec, drop);
    check_not_drained(|spec| spec, |pool| drop(pool.kill()));
    check_not_drained(
        |spec| spec.shutdown(Shutdown::Kill),
        |pool| drop(pool.stop()),
    );
    // The kill overtakes a graceful close and a graceful stop.
    check_not_drained(
        |spec| spec,
        |pool| {
            drop(pool.close_listener(pool.listeners().unwrap()[0].id));
            drop(pool.kill());
        },
    );
    check_not_drained(
        |spec| spec.grace(MS),
        |pool| {
            drop(pool.stop());
            drop(pool.kill());
        },
    );
}

#[test]
fn brutal_stop_in_grace_takes_queued() {
    let bench = Bench::new(2, Duration::ZERO, |spec| {
        spec.grace(MS).shutdown(Shutdown::Kill)
    });
    bench.queue(3);
    drop(bench.pool.stop());
    assert_eq!(bench.close_time(), CLOSE_DELAY);
    assert_eq!(bench.served(), 3);
}

#[test]
fn close_sets_draining_then_closed() {
    let bench = Bench::plain();
    bench.queue(1);
    bench.runtime.settle();
    let all = |latches: &Mutex<Vec<Latch>>, set: bool| {
        latches.lock().unwrap().iter().all(|s| s.is_set() == set)
    };
    let Serves {
        closed, draining, ..
    } = &bench.serves;
    assert!(all(draining, false) && all(closed, false));
    let waits = bench.serves.draining.lock().unwrap()[0].wait();
    drop(bench.pool.close_listener(bench.listener));
    assert!(all(draining, true) && all(closed, false));
    assert!(poll_once(waits).is_ready());
    // The same in a connection that began during the close.
    bench.queue(1);
    bench.runtime.settle();
    assert_eq!(draining.lock().unwrap().len(), 2);
    assert!(all(draining, true) && all(closed, false));
    bench.advance(CLOSE_DELAY);
    assert!(all(closed, true));
}

#[test]
fn grace_begins_with_last_close() {
    let bench = Bench::new(1, Duration::from_millis(300), |spec| {
        spec.grace(Duration::from_millis(10)).shutdown(MS)
    });
    bench.queue(3);
    let mut stopping = pin!(bench.pool.stop());
    // Two clients wait for an acceptor, 300 ms each; the next acceptor finds the queue empty.
    assert_eq!(bench.close_time(), Duration::from_millis(900));
    let state = || bench.pool.status().unwrap().state;
    bench.advance(Duration::from_millis(9));
    assert_eq!(state(), PoolState::Stopping(Phase::Grace));
    assert_eq!(bench.pool.counts().unwrap().connections, 3);
    bench.advance(MS);
    let Poll::Ready(report) = poll_once(stopping.as_mut()) else {
        panic!("the stop hangs");
    };
    assert_eq!(report.elapsed, Duration::from_millis(910));
    assert_eq!(report.connections(Phase::Stop).of(EndKind::Stopped), 3);
}

#[test]
fn grace_begins_within_1_s() {
    let bench = Bench::new(1, Duration::from_secs(60), |spec| {
        spec.grace(Duration::from_millis(10))
    });
    bench.queue(2);
    let stopping = bench.pool.stop();
    assert_eq!(bench.close_time(), CLOSE_LIMIT);
    bench.advance(Duration::from_millis(10));
    let Poll::Ready(report) = poll_once(stopping) else {
        panic!("the stop hangs");
    };
    assert_eq!(report.elapsed, CLOSE_LIMIT + Duration::from_millis(10));
}

#[test]
fn second_close_waits_for_the_first() {
    let bench = Bench::plain();
    let close = || Box::pin(bench.pool.close_listener(bench.listener));
    let (mut first, mut second) = (close(), close());
    bench.runtime.settle();
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    // Dropping one future ends neither the close nor the wait of another.
    drop(first);
    let mut third = close();
    assert!(poll_once(third.as_mut()).is_pending());
    assert!(bench.port.is_open());
    assert_eq!(bench.state(), ListenerState::Closing);
    bench.advance(CLOSE_DELAY);
    assert!(!bench.port.is_open());
    assert_eq!(poll_once(second), Poll::Ready(Ok(())));
    assert_eq!(poll_once(third), Poll::Ready(Ok(())));
    assert_eq!(bench.pool.listeners().unwrap(), []);
    let unknown = Err(CloseError::UnknownListener(bench.listener));
    assert_eq!(poll_once(close()), Poll::Ready(unknown));
}

#[test]
fn close_during_stop_waits_for_it() {
    let bench = Bench::new(2, Duration::ZERO, |spec| spec.grace(MS));
    drop(bench.pool.stop());
    let mut closing = Box::pin(bench.pool.close_listener(bench.listener));
    bench.runtime.settle();
    assert!(poll_once(closing.as_mut()).is_pending());
    bench.advance(CLOSE_DELAY);
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
}

/// Lets all other tasks run before it closes its socket.
struct Lingers {
    listener: MemoryListener,
    runtime: Manual,
}

impl Listener for Lingers {
    type Io = MemoryStream;
    type Addr = Address;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(MemoryStream, Address)> {
        self.listener.accept().await
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
}

impl Drop for Lingers {
    fn drop(&mut self) {
        self.runtime.settle();
    }
}

#[test]
fn listener_failure_is_reported_after_close() {
    let faults = Faults::default();
    let runtime = Manual::new(&faults);
    let history = History::default();
    let ports = [1, 2].map(|number| Port::new(number, &history, &faults));
    let seen = Arc::<Mutex<Vec<(bool, usize, usize)>>>::default();
    let (noted, watched) = (Arc::clone(&seen), ports.clone());
    let handle = Arc::<OnceLock<PoolHandle<Manual, Lingers>>>::default();
    let inside = Arc::clone(&handle);
    let observer = move |report: &Report<Address>| {
        if let Event::ListenerFailed {
            local_addr,
            listeners_left,
            ..
        } = &report.event
        {
            let open = watched[usize::from(local_addr.0) - 1].is_open();
            let listed = inside.get().unwrap().listeners().unwrap().len();
            noted.lock().unwrap().push((open, *listeners_left, listed));
        }
    };
    let serve = acceptor_fn(|_| async { Ok(()) });
    let spec = Spec::new("failing", serve).observer(observer_fn(observer));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    for port in &ports {
        let listener = Lingers {
            listener: port.listen(),
            runtime: runtime.clone(),
        };
        pool.add_listener(listener, 2).unwrap();
    }
    for port in &ports {
        port.fail(listener_error());
        runtime.settle();
    }
    assert_eq!(*seen.lock().unwrap(), [(false, 1, 1), (false, 0, 0)]);
}

#[test]
fn pool_outlives_its_last_listener() {
    let bench = Bench::plain();
    bench.queue(1);
    bench.runtime.settle();
    bench.port.fail(listener_error());
    bench.runtime.settle();
    let os = listener_error();
    let words =
        format!("pool closing: listener 1 on (1, None) failed, and no listener is left: {os}");
    assert_eq!(bench.reports(), [words]);
    let status = bench.pool.status().unwrap();
    assert_eq!(
        (status.state, status.counts.connections),
        (PoolState::Running, 1)
    );
    let next = Port::new(2, &bench.history, &bench.faults);
    bench.pool.add_listener(next.listen(), 1).unwrap();
    next.connect().unwrap();
    bench.runtime.settle();
    assert_eq!(bench.served(), 2);
}

/// Closes or fails the first of two listeners, then fails the second, and checks whether the pool stops.
#[track_caller]
fn check_last_listener(
    first: impl FnOnce(&Bench),
    second: impl FnOnce(&Bench, &Port),
    stops: bool,
) {
    let bench = Bench::new(1, Duration::ZERO, |spec| {
        spec.last_listener(LastListener::Stop)
    });
    let other = Port::new(2, &bench.history, &bench.faults);
    bench.pool.add_listener(other.listen(), 1).unwrap();
    bench.runtime.settle();
    first(&bench);
    bench.advance(CLOSE_DELAY);
    let running = |bench: &Bench| bench.pool.status().map(|status| status.state);
    assert_eq!(running(&bench), Ok(PoolState::Running));
    second(&bench, &other);
    let joined = bench.pool.join();
    bench.advance(CLOSE_DELAY);
    assert!(!other.is_open());
    if !stops {
        assert_eq!(running(&bench), Ok(PoolState::Running));
        return;
    }
    let Poll::Ready(report) = poll_once(joined) else {
        panic!("the pool does not stop");
    };
    assert_eq!(report.reason, StopReason::ListenersFailed);
    let last = bench.reports().pop();
    assert_eq!(last.unwrap(), "pool closing: stops: last listener failed");
}

#[test]
fn last_listener_failure_can_stop_pool() {
    let fails = |bench: &Bench| bench.port.fail(listener_error());
    let closes = |bench: &Bench| drop(bench.pool.close_listener(bench.listener));
    let last_fails = |_: &Bench, other: &Port| other.fail(listener_error());
    let last_closes = |bench: &Bench, _: &Port| {
        let last = bench.pool.listeners().unwrap()[0].id;
        drop(bench.pool.close_listener(last));
    };
    check_last_listener(fails, last_fails, true);
    check_last_listener(closes, last_fails, true);
    check_last_listener(fails, last_closes, false);
    check_last_listener(closes, last_closes, false);
}

/// Its `init` fails.
struct FailsToStart;

impl Acceptor<MemoryListener> for FailsToStart {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Err("no luck".into())
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) {}
}

/// The pool stops while a replaced acceptor is still in `init`: it has no successor when it is dropped (R1, L7).
#[test]
fn close_ignores_replaced_acceptors() {
    let bench = Bench::new(1, 10 * MS, |spec| spec.grace(Grace::Unlimited).intensity(0));
    let before = bench.runtime.spawned();
    bench.queue(1);
    bench.runtime.settle();
    // The replacement's `init` is spawned before the connection is (B5).
    let init = before;
    let spec = Spec::new("fails", FailsToStart)
        .grace(Grace::Unlimited)
        .intensity(0);
    bench
        .pool
        .reconfigure(spec, WaitingAcceptors::Replace)
        .unwrap();
    bench.runtime.settle_without(init);
    let state = bench.pool.status().unwrap().state;
    assert_eq!(state, PoolState::Stopping(Phase::Grace));
    assert!(
        bench.port.is_open(),
        "the close did not wait for the starting acceptor"
    );
    bench.runtime.step_first(init);
    bench.runtime.settle();
    assert!(!bench.port.is_open());
}

/// A runtime whose first delays of a close are over at their first poll: its timer is early.
#[derive(Clone)]
struct Hasty {
    runtime: Manual,
    left: Arc<Mutex<usize>>,
}

impl Runtime for Hasty {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        let is_hasty = deadline < self.now() + CLOSE_DELAY && {
            let mut left = self.left.lock().unwrap();
            let before = *left;
            *left = before.saturating_sub(1);
            before > 0
        };
        if !is_hasty {
            self.runtime.sleep_until(deadline).await;
        }
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

/// Checks the time that a close takes with this many hasty delays.
#[track_caller]
fn check_hasty(delays: usize, time: Duration) {
    let (faults, history) = (Faults::default(), History::default());
    let runtime = Manual::new(&faults);
    let hasty = Hasty {
        runtime: runtime.clone(),
        left: Arc::new(Mutex::new(delays)),
    };
    let spec = Spec::new("hasty", acceptor_fn(|_| async { Ok(()) }));
    let pool = Pool::start(hasty, spec).unwrap();
    let port = Port::new(1, &history, &faults);
    let listener = pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle();
    let (closing, began) = (pool.close_listener(listener), runtime.now());
    runtime.settle();
    while port.is_open() {
        runtime.advance(CLOSE_DELAY / 4);
        runtime.settle();
        assert!(runtime.now() < began + CLOSE_LIMIT, "it hangs");
    }
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
    assert_eq!(runtime.now() - began, time, "{delays}");
}

/// Up to three hasty delays leave the time for the sockets to be polled (L7); then the timer counts as it is.
#[test]
fn hasty_delays_do_not_hasten_the_close() {
    for delays in 0..=3 {
        check_hasty(delays, CLOSE_DELAY);
    }
    check_hasty(4, CLOSE_DELAY / 2);
    check_hasty(5, Duration::ZERO);
}

/// The runtime drops the driver, which is the first task, after it has woken the first 256 children.
#[test]
fn dropped_driver_wakes_the_rest() {
    const DRIVER: usize = 0;
    let bench = Bench::plain();
    bench.queue(300);
    bench.runtime.settle();
    assert_eq!(bench.served(), 300);
    let killed = bench.pool.kill();
    bench.runtime.step_first(DRIVER);
    assert!(bench.runtime.has(DRIVER));
    bench.runtime.drop_task(DRIVER);
    bench.runtime.settle();
    assert_eq!(bench.history.alive(), 0);
    let Poll::Ready(report) = poll_once(killed) else {
        panic!("a child is left");
    };
    assert_eq!(report.stuck, 0);
}

/// From the begin of the stop on, whatever follows (S2).
#[test]
fn stopping_is_set_in_the_lame_duck() {
    let bench = Bench::new(1, Duration::ZERO, |spec| spec.lame_duck(10 * MS));
    let stopping = bench.pool.stopping();
    assert!(!stopping.is_set());
    drop(bench.pool.stop());
    assert!(stopping.is_set());
    let state = bench.pool.status().unwrap().state;
    assert_eq!(state, PoolState::Stopping(Phase::LameDuck));
}
