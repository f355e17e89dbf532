//! Acceptors whose `init` fails: starts are spaced, one at a time, and the documented intensity survives them (B4).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::*;
use acceptor_core::*;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

type TestPool = Pool<Manual, MemoryListener>;

/// The behaviour of `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Accepts,
    Ignores,
    Fails,
    /// Waits until the behaviour changes.
    Waits,
}

/// An acceptor whose `init` behaves as the test says; records when each began.
#[derive(Clone)]
struct Starts {
    runtime: Manual,
    began: Instant,
    does: Arc<Mutex<Does>>,
    runs_ms: Arc<Mutex<Vec<u128>>>,
}

impl Acceptor<MemoryListener> for Starts {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        let now = self.runtime.now() - self.began;
        self.runs_ms.lock().unwrap().push(now.as_millis());
        loop {
            let does = *self.does.lock().unwrap();
            match does {
                Does::Accepts => return Ok(Init::Accept(())),
                Does::Ignores => return Ok(Init::Ignore),
                Does::Fails => return Err("the database is down".into()),
                Does::Waits => self.runtime.sleep_until(self.runtime.now() + MS).await,
            }
        }
    }

    async fn serve(
        &self,
        connection: Connection<MemoryStream, Address>,
        (): (),
    ) -> Result<(), BoxError> {
        connection.stream.serve();
        Ok(())
    }
}

const MS: Duration = Duration::from_millis(1);

struct Bench {
    runtime: Manual,
    history: History,
    port: Port,
    starts: Starts,
    pool: TestPool,
}

impl Bench {
    fn new(
        does: Does,
        change: impl FnOnce(Spec<Starts, Address>) -> Spec<Starts, Address>,
    ) -> Self {
        let faults = Faults::default();
        let (runtime, history) = (Manual::new(&faults), History::default());
        let starts = Starts {
            began: runtime.now(),
            runtime: runtime.clone(),
            does: Arc::new(Mutex::new(does)),
            runs_ms: Arc::default(),
        };
        let spec = Spec::new("starts", starts.clone()).intensity(u32::MAX);
        Self {
            port: Port::new(1, &history, &faults),
            pool: Pool::start(runtime.clone(), change(spec)).unwrap(),
            runtime,
            history,
            starts,
        }
    }

    fn failing(acceptors: usize) -> Self {
        let bench = Self::new(Does::Fails, |spec| spec);
        bench
            .pool
            .add_listener(bench.port.listen(), acceptors)
            .unwrap();
        bench.runtime.settle();
        bench
    }

    fn now_does(&self, does: Does) {
        *self.starts.does.lock().unwrap() = does;
    }

    /// Advances a millisecond at a time.
    fn pass(&self, time_ms: u64) {
        for _ in 0..time_ms {
            self.runtime.advance(MS);
            self.runtime.settle();
        }
    }

    fn runs_ms(&self) -> Vec<u128> {
        self.starts.runs_ms.lock().unwrap().clone()
    }

    fn states(&self) -> Vec<AcceptorState> {
        let acceptors = self.pool.acceptors().unwrap();
        acceptors.iter().map(|acceptor| acceptor.state).collect()
    }

    fn listener_state(&self) -> ListenerState {
        self.pool.listeners().unwrap()[0].state
    }
}

/// When one acceptor at a time retries, in milliseconds after the first failure.
const RETRIES_MS: [u128; 12] = [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2023];

#[track_caller]
fn check_runs_of_two_seconds(acceptors: usize) {
    let bench = Bench::failing(acceptors);
    bench.pass(2000);
    let runs_ms = bench.runs_ms();
    let mut expected = vec![0; acceptors];
    expected.extend(RETRIES_MS.iter().filter(|ms| **ms <= 2000));
    assert_eq!(runs_ms, expected);
    assert!(runs_ms.len() < 40);
    assert_eq!(bench.pool.counts().unwrap().children(), acceptors);
    assert_eq!(bench.states(), vec![AcceptorState::Spaced; acceptors]);
    assert_eq!(bench.listener_state(), ListenerState::Starting);
}

#[test]
fn outage_retries_one_acceptor_at_a_time() {
    check_runs_of_two_seconds(1);
    check_runs_of_two_seconds(10);
}

/// The formula in the documentation of `Spec::intensity`.
fn documented_intensity(acceptors: usize, listeners: usize, period: Duration) -> u32 {
    let seconds = period.as_secs_f64().ceil() as usize;
    u32::try_from(acceptors + listeners * (9 + seconds)).unwrap()
}

/// Whether a pool with this intensity survives an outage of its listeners, which have these numbers of acceptors.
fn outlives(acceptors: &[usize], period: Duration, intensity: u32, outage_ms: u64) -> bool {
    let bench = Bench::new(Does::Fails, |spec| spec.intensity(intensity).period(period));
    let faults = Faults::default();
    for (number, acceptors) in acceptors.iter().enumerate() {
        let number = u16::try_from(number).unwrap();
        let port = Port::new(number, &bench.history, &faults);
        bench.pool.add_listener(port.listen(), *acceptors).unwrap();
    }
    bench.runtime.settle();
    bench.pass(outage_ms);
    bench.now_does(Does::Accepts);
    bench.pass(1000);
    let Ok(status) = bench.pool.status() else {
        return false;
    };
    let accepting = |l: &ListenerRecord<Address>| l.state == ListenerState::Accepting;
    assert!(status.listeners.iter().all(accepting), "{status}");
    assert_eq!(bench.states().len(), acceptors.iter().sum());
    true
}

/// With the documented intensity it survives; with one less it does not, if the outage is long enough and the period is in
/// whole seconds.
#[track_caller]
fn check_outlives(acceptors: &[usize], period: Duration) {
    let all = acceptors.iter().sum();
    let intensity = documented_intensity(all, acceptors.len(), period);
    assert!(outlives(acceptors, period, intensity, 1000));
    let long = u64::try_from(period.as_millis()).unwrap() + 3000;
    assert!(outlives(acceptors, period, intensity, long));
    let whole = period.subsec_nanos() == 0;
    let needed = !outlives(acceptors, period, intensity - 1, long);
    assert!(needed || !whole, "{intensity} is more than necessary");
}

#[test]
fn documented_intensity_survives_outage() {
    check_outlives(&[1], Duration::from_secs(1));
    check_outlives(&[10], Duration::from_secs(1));
    check_outlives(&[1], Duration::from_secs(5));
    check_outlives(&[10], Duration::from_secs(5));
    check_outlives(&[3, 4], Duration::from_secs(2));
    check_outlives(&[2], Duration::from_millis(500));
    check_outlives(&[2], Duration::from_millis(1500));
}

#[test]
fn held_acceptors_start_after_success() {
    let bench = Bench::failing(10);
    bench.port.connect().unwrap();
    bench.pass(1000);
    bench.now_does(Does::Accepts);
    let before = bench.runs_ms().len();
    bench.pass(22);
    assert_eq!(bench.runs_ms().len(), before);
    assert_eq!(bench.port.waiting(), 1);
    bench.pass(1);
    // The retry, nine held acceptors, and the replacement of the connection.
    assert_eq!(bench.runs_ms()[before..], [1023; 11]);
    assert_eq!(bench.states(), [AcceptorState::Waiting; 10]);
    assert_eq!(bench.listener_state(), ListenerState::Accepting);
    assert_eq!(bench.history.all()[0].served, 1);
}

#[test]
fn next_outage_restarts_the_backoff() {
    let bench = Bench::failing(1);
    bench.pass(600);
    bench.now_does(Does::Accepts);
    bench.pass(423);
    assert_eq!(bench.states(), [AcceptorState::Waiting]);
    bench.now_does(Does::Fails);
    let before = bench.runs_ms().len();
    bench.port.connect().unwrap();
    bench.runtime.settle();
    bench.pass(20);
    let runs_ms = bench.runs_ms();
    // The replacement of the connection, then the retries.
    let expected = [0, 0, 1, 3, 7, 15].map(|ms| 1023 + ms);
    assert_eq!(runs_ms[before..], expected);
}

#[test]
fn init_before_outage_can_end_it() {
    let bench = Bench::new(Does::Waits, |spec| spec);
    bench.pool.add_listener(bench.port.listen(), 3).unwrap();
    bench.runtime.settle();
    let first = bench.pool.acceptors().unwrap()[0].id;
    assert_eq!(bench.states(), [AcceptorState::Init; 3]);
    // The replacement fails, and the outage begins.
    bench.now_does(Does::Fails);
    bench.pool.kill_child(first).unwrap();
    bench.runtime.settle();
    bench.pass(0);
    assert_eq!(
        bench.states(),
        [
            AcceptorState::Init,
            AcceptorState::Init,
            AcceptorState::Spaced
        ]
    );
    bench.now_does(Does::Accepts);
    bench.pass(1);
    assert_eq!(bench.states(), [AcceptorState::Waiting; 3]);
}

/// The acceptor that retries is ended while it waits for its time: another retries instead.
#[track_caller]
fn check_retried_by_another(end: impl Fn(&TestPool, ChildId) -> Result<(), ChildError>) {
    let bench = Bench::failing(3);
    bench.pass(300);
    let mut last = Vec::new();
    for acceptor in bench.pool.acceptors().unwrap() {
        assert_eq!(acceptor.state, AcceptorState::Spaced);
        assert_eq!(end(&bench.pool, acceptor.id), Ok(()));
        last.push(acceptor.id);
    }
    bench.runtime.settle();
    let acceptors = bench.pool.acceptors().unwrap();
    assert_eq!(acceptors.len(), 3);
    assert!(
        acceptors
            .iter()
            .all(|acceptor| !last.contains(&acceptor.id))
    );
    bench.now_does(Does::Accepts);
    bench.pass(1000);
    assert_eq!(bench.states(), [AcceptorState::Waiting; 3]);
}

#[test]
fn ended_retry_is_taken_over() {
    check_retried_by_another(|pool, id| pool.stop_child(id));
    check_retried_by_another(|pool, id| pool.kill_child(id));
}

#[test]
fn ignore_during_outage_keeps_backoff() {
    let bench = Bench::failing(2);
    bench.pass(15);
    bench.now_does(Does::Ignores);
    let before = bench.runs_ms().len();
    bench.pass(300);
    assert_eq!(bench.runs_ms()[before..], [31, 63, 127, 255]);
}

#[test]
fn outage_is_per_listener() {
    let bench = Bench::failing(2);
    bench.pass(600);
    bench.now_does(Does::Accepts);
    let (history, faults) = (History::default(), Faults::default());
    let other = Port::new(2, &history, &faults);
    bench.pool.add_listener(other.listen(), 2).unwrap();
    other.connect().unwrap();
    bench.runtime.settle();
    assert_eq!(history.all()[0].served, 1);
    assert_eq!(bench.listener_state(), ListenerState::Starting);
}

#[test]
fn connections_in_outage_are_replaced_later() {
    let bench = Bench::new(Does::Accepts, |spec| spec);
    bench.pool.add_listener(bench.port.listen(), 4).unwrap();
    bench.runtime.settle();
    bench.now_does(Does::Fails);
    for _ in 0..2 {
        bench.port.connect().unwrap();
        bench.runtime.settle();
    }
    assert_eq!(bench.history.all().len(), 2);
    // The first replacement retries; the second is held without a run of `init`.
    assert_eq!(bench.runs_ms(), [0; 6]);
    bench.pass(1);
    assert_eq!(bench.runs_ms(), [0, 0, 0, 0, 0, 0, 1]);
    let (waiting, spaced) = (AcceptorState::Waiting, AcceptorState::Spaced);
    assert_eq!(bench.states(), [waiting, waiting, spaced, spaced]);
    bench.now_does(Does::Accepts);
    bench.pass(2);
    assert_eq!(bench.states(), [waiting; 4]);
}

#[test]
fn each_start_error_is_reported() {
    let reports = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&reports);
    let bench = Bench::new(Does::Fails, |spec| {
        spec.observer(observer_fn(move |report: &Report<Address>| {
            seen.lock().unwrap().push(report.to_string());
        }))
    });
    bench.pool.add_listener(bench.port.listen(), 2).unwrap();
    bench.runtime.settle();
    bench.pass(100);
    let words = "pool starts: start error on listener 1: the database is down";
    assert_eq!(*reports.lock().unwrap(), vec![words; bench.runs_ms().len()]);
    assert_eq!(bench.pool.status().unwrap().failures, bench.runs_ms().len());
}

#[test]
fn stop_during_outage_ends_acceptors() {
    let bench = Bench::failing(10);
    bench.pass(600);
    let stop = bench.pool.stop();
    bench.runtime.settle();
    bench.runtime.advance(CLOSE_LIMIT);
    bench.runtime.settle();
    let std::task::Poll::Ready(report) = poll_once(stop) else {
        panic!("the stop hangs");
    };
    // The retry came within that second.
    let acceptors = report.all_acceptors();
    assert_eq!(acceptors.of(EndKind::Stopped), 10);
    assert_eq!(acceptors.total(), 10 + acceptors.of(EndKind::Error));
    assert_eq!(bench.runtime.tasks(), 0);
}

/// Has its state at once, or panics when asked for it; counts the calls.
#[derive(Clone)]
struct AtOnce {
    does: Arc<Mutex<Does>>,
    asked: Arc<Mutex<usize>>,
}

impl Acceptor<MemoryListener> for AtOnce {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        unreachable!("the state is available at once")
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        *self.asked.lock().unwrap() += 1;
        let does = *self.does.lock().unwrap();
        assert_eq!(does, Does::Accepts);
        Some(())
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        connection.stream.serve();
        std::future::pending().await
    }
}

/// The replacement of each connection that comes during an outage is held, whether or not it has an `init` (B4).
#[test]
fn init_now_is_called_one_at_a_time() {
    let (faults, history) = (Faults::default(), History::default());
    let runtime = Manual::new(&faults);
    let acceptor = AtOnce {
        does: Arc::new(Mutex::new(Does::Accepts)),
        asked: Arc::default(),
    };
    let asked = || *acceptor.asked.lock().unwrap();
    let spec = Spec::new("at once", acceptor.clone()).intensity(u32::MAX);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 5).unwrap();
    runtime.settle();
    assert_eq!(asked(), 5);
    *acceptor.does.lock().unwrap() = Does::Fails;
    for _ in 0..4 {
        port.connect().unwrap();
        runtime.settle();
    }
    // The first replacement, and the first retry, which is immediate.
    assert_eq!(asked(), 7);
    assert_eq!(pool.status().unwrap().failures, 2);
    assert_eq!(pool.counts().unwrap().connections, 4);
    *acceptor.does.lock().unwrap() = Does::Accepts;
    runtime.advance(MS);
    runtime.settle();
    // The retry after a millisecond, and with it the held acceptors.
    assert_eq!(asked(), 11);
    let waiting = pool.acceptors().unwrap();
    assert_eq!(waiting.len(), 5);
    assert!(
        waiting
            .iter()
            .all(|acceptor| acceptor.state == AcceptorState::Waiting)
    );
}

/// The waiting acceptor keeps its spec; the next one has the new acceptor (R1).
#[test]
fn init_now_is_the_current_acceptors() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let served = Arc::<Mutex<Vec<u32>>>::default();
    let spec = |number| {
        let served = Arc::clone(&served);
        let serve = move |connection: Connection<MemoryStream, Address>| {
            connection.stream.serve();
            served.lock().unwrap().push(number);
            async { Ok(()) }
        };
        Spec::new("at once", acceptor_fn(serve))
    };
    let pool = Pool::start(runtime.clone(), spec(1)).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 1).unwrap();
    let connects = |times| {
        for _ in 0..times {
            port.connect().unwrap();
            runtime.settle();
        }
        std::mem::take(&mut *served.lock().unwrap())
    };
    assert_eq!(connects(2), [1, 1]);
    pool.reconfigure(spec(2), WaitingAcceptors::Keep).unwrap();
    assert_eq!(connects(3), [1, 2, 2]);
    pool.reconfigure(spec(3), WaitingAcceptors::Replace)
        .unwrap();
    assert_eq!(connects(2), [3, 3]);
}

/// The first acceptor, and its successor, have their state at once. The `init` of the two beside it fails while
/// the successor is asked for its state, as on other threads.
struct Overtaken {
    asked: AtomicUsize,
    begun: AtomicUsize,
    fails: Shared<oneshot::Receiver<()>>,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Acceptor<MemoryListener> for Overtaken {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        if self.begun.fetch_add(1, Ordering::SeqCst) >= 2 {
            std::future::pending::<()>().await;
        }
        let _ = self.fails.clone().await;
        Err("the database is down".into())
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        if asked == 3 {
            let meanwhile = self.meanwhile.lock().unwrap().take();
            meanwhile.into_iter().for_each(|meanwhile| meanwhile());
        }
        matches!(asked, 0 | 3).then_some(())
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) {}
}

/// An outage that begins while an acceptor gets its state ends with it, and the held acceptors start (B4).
#[test]
fn outage_during_init_now_holds_none() {
    let (faults, history) = (Faults::default(), History::default());
    let runtime = Manual::new(&faults);
    let (fail, fails) = oneshot::channel::<()>();
    let others = runtime.clone();
    let acceptor = Overtaken {
        asked: AtomicUsize::new(0),
        begun: AtomicUsize::new(0),
        fails: fails.shared(),
        meanwhile: Mutex::new(Some(Box::new(move || {
            drop(fail);
            others.settle();
        }))),
    };
    let spec = Spec::new("overtaken", acceptor).intensity(u32::MAX);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 3).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(pool.status().unwrap().failures, 2);
    let acceptors = pool.acceptors().unwrap();
    let states = acceptors.iter().map(|acceptor| acceptor.state);
    let (waiting, init) = (AcceptorState::Waiting, AcceptorState::Init);
    assert_eq!(states.collect::<Vec<_>>(), [waiting, init, init]);
}
