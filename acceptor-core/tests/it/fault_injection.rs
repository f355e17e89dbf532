//! Fault injection: one busy scenario, disturbed at every possible point, by tasks that the runtime drops, panics in all code
//! outside the pool, a runtime that shuts down, a dropped owner or handle future, a stop or a kill.
//! After each disturbance no connection is lost, no child is left, every begin and every end is reported once, and
//! nothing hangs.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;
use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest};

type TestPool = Pool<Manual, MemoryListener>;
type Handle = PoolHandle<Manual, MemoryListener>;
type TestReport = Report<Address>;

/// A disturbance of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    None,
    /// A callback or a `Drop` panics at the n-th time.
    Panic(Site, usize),
    /// The runtime drops the n-th task before its first poll.
    DropAsSpawned(usize),
    /// This act follows the k-th poll of any task.
    AfterPoll(usize, Act),
    /// Two acts, after two polls.
    AfterPolls([(usize, Act); 2]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The runtime drops the task that was just polled.
    DropTask,
    /// The runtime drops the reporter, whether or not reports are queued.
    DropReporter,
    /// The runtime drops all its tasks.
    ShutDown(Order),
    DropOwner,
    Stop,
    Kill,
    /// The future is dropped without a poll: the call takes effect anyway.
    StopAndForget,
    CloseListenerAndForget,
    /// The future is polled once and dropped, with no effect.
    JoinAndForget,
    KillEveryChild,
    StopEveryChild,
    Reconfigure,
    /// Lists the acceptors, which gives ids to those that are about to start.
    ListAcceptors,
}

/// The pool's own tasks, by the order of their spawns.
const DRIVER: usize = 0;
const REPORTER: usize = 1;

/// Its `Drop` is an injection site.
#[derive(Debug)]
struct ServeError(#[allow(dead_code, reason = "is there to be dropped")] Guard);

struct Guard(PanicsOnDrop);

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.1, f)
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("serve failed")
    }
}

impl std::error::Error for ServeError {}

/// An acceptor that exercises every behaviour, chosen by the number of its connection.
struct Busy {
    faults: Faults,
    outage: Arc<AtomicUsize>,
    _gone: PanicsOnDrop,
}

impl Busy {
    fn new(faults: &Faults, outage: &Arc<AtomicUsize>) -> Self {
        Self {
            faults: faults.clone(),
            outage: Arc::clone(outage),
            _gone: PanicsOnDrop(faults.clone(), Site::DropAcceptor),
        }
    }

    /// Whether this `init` is one of those that fail.
    fn fails(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        self.outage.fetch_update(set, fetch, one_less).is_ok()
    }

    fn guard(&self, site: Site) -> PanicsOnDrop {
        PanicsOnDrop(self.faults.clone(), site)
    }
}

const ACCEPT_TIMEOUT: Duration = Duration::from_millis(100);

impl Acceptor<MemoryListener> for Busy {
    type State = PanicsOnDrop;
    type Exit = Result<Exit, BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<PanicsOnDrop>, BoxError> {
        self.faults.pass(Site::InitBefore);
        yield_now().await;
        self.faults.pass(Site::InitAfter);
        if self.fails() {
            return Err("no such service".into());
        }
        Ok(Init::AcceptWithin(
            self.guard(Site::DropState),
            ACCEPT_TIMEOUT,
        ))
    }

    async fn serve(
        &self,
        connection: Connection<MemoryStream, Address>,
        state: PanicsOnDrop,
    ) -> Result<Exit, BoxError> {
        let _serve = self.guard(Site::DropServe);
        let Connection {
            stream, lifecycle, ..
        } = connection;
        stream.serve();
        self.faults.pass(Site::ServeBefore);
        yield_now().await;
        self.faults.pass(Site::ServeAfter);
        drop(state);
        match stream.number % 4 {
            0 => Ok(Exit::normal()),
            1 => Err(ServeError(Guard(self.guard(Site::DropError))).into()),
            2 => {
                lifecycle.trap_stop().wait().await;
                Ok(Exit::clean("asked to stop"))
            }
            _ => std::future::pending().await,
        }
    }

    async fn terminate(&self, _: &Terminate, state: PanicsOnDrop) {
        self.faults.pass(Site::TerminateBefore);
        yield_now().await;
        self.faults.pass(Site::TerminateAfter);
        drop(state);
    }
}

/// A report without its values: keeping the report would keep its error alive.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Noted {
    Began(ChildId),
    Ended(ChildId, How),
    ListenerFailed,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// A clean end.
    Well,
    Error,
    Panic(String),
    Killed,
    Lost,
}

type Notes = Arc<Mutex<Vec<Noted>>>;

fn note(report: &TestReport) -> Noted {
    match &report.event {
        Event::ConnectionBegan { child, .. } => Noted::Began(*child),
        Event::ConnectionEnded { child, .. } => Noted::Ended(*child, How::Well),
        Event::StartError { child, failure, .. }
        | Event::AcceptorFailed { child, failure, .. }
        | Event::ConnectionFailed { child, failure, .. } => Noted::Ended(
            *child,
            match failure {
                Failure::Panic(message) => How::Panic(message.clone()),
                Failure::Killed => How::Killed,
                Failure::Lost => How::Lost,
                _ => How::Error,
            },
        ),
        Event::ListenerFailed { .. } => Noted::ListenerFailed,
        _ => Noted::Other,
    }
}

struct Recorder {
    faults: Faults,
    reports: Notes,
    /// The handle, since an observer may call the pool.
    pool: Arc<OnceLock<Handle>>,
    _gone: PanicsOnDrop,
}

impl Observer<Address> for Recorder {
    fn report(&self, report: &TestReport) {
        self.reports.lock().unwrap().push(note(report));
        if let Some(pool) = self.pool.get() {
            let _ = pool.status();
        }
        self.faults.pass(Site::Observer);
    }
}

struct Scenario {
    disturbance: Disturbance,
    disturbed: usize,
    /// Clients that a closing listener does not accept, because it is out of resources (L7).
    reset: usize,
    /// The decoy tasks, one after each call.
    decoys: Vec<usize>,
    runtime: Manual,
    faults: Faults,
    history: History,
    reports: Notes,
    /// How many more runs of `init` fail.
    outage: Arc<AtomicUsize>,
    ports: [Port; 3],
    owner: Option<TestPool>,
    pool: Handle,
    observed: Arc<OnceLock<Handle>>,
    listeners: Vec<ListenerId>,
}

fn spec(
    faults: &Faults,
    outage: &Arc<AtomicUsize>,
    reports: &Notes,
    pool: &Arc<OnceLock<Handle>>,
) -> Spec<Busy, Address> {
    let table = PanicsOnDrop(faults.clone(), Site::DropAcceptErrors);
    Spec::new("busy", Busy::new(faults, outage))
        .restart(Restart::Transient)
        .intensity(u32::MAX)
        .connection_reports(ConnectionReports::All)
        .lame_duck(Duration::from_millis(10))
        .grace(Duration::from_millis(10))
        .observer(Recorder {
            faults: faults.clone(),
            reports: Arc::clone(reports),
            pool: Arc::clone(pool),
            _gone: PanicsOnDrop(faults.clone(), Site::DropObserver),
        })
        .accept_errors(move |error| {
            table.0.pass(Site::AcceptErrors);
            AcceptErrorKind::classify(error)
        })
}

impl Scenario {
    /// `None` if the disturbance prevented the start.
    fn begin(disturbance: Disturbance) -> Option<Self> {
        let faults = Faults::default();
        let runtime = Manual::new(&faults);
        match disturbance {
            Disturbance::Panic(site, occurrence) => faults.arm(site, occurrence),
            Disturbance::DropAsSpawned(spawn) => runtime.drop_as_spawned(spawn..spawn + 1),
            Disturbance::None | Disturbance::AfterPoll(..) | Disturbance::AfterPolls(_) => {}
        }
        let history = History::default();
        let reports = Notes::default();
        let (outage, observed) = (Arc::default(), Arc::default());
        let spec = spec(&faults, &outage, &reports, &observed);
        let owner = match Pool::start(runtime.clone(), spec) {
            Ok(owner) => owner,
            Err(StartError::RuntimeGone) => {
                assert_eq!(runtime.tasks(), 0, "the failed start leaves tasks behind");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let pool = owner.handle();
        assert!(observed.set(pool.clone()).is_ok());
        Some(Self {
            disturbance,
            disturbed: 0,
            reset: 0,
            decoys: Vec::new(),
            ports: [0, 1, 2].map(|number| Port::new(number, &history, &faults)),
            runtime,
            faults,
            history,
            reports,
            outage,
            owner: Some(owner),
            pool,
            observed,
            listeners: Vec::new(),
        })
    }

    /// Runs all tasks until they sleep; the disturbance follows its poll.
    #[track_caller]
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(task) = self.runtime.step() else {
                return self.check_at_rest();
            };
            let acts = match self.disturbance {
                Disturbance::AfterPoll(poll, act) => vec![(poll, act)],
                Disturbance::AfterPolls(acts) => acts.to_vec(),
                Disturbance::None | Disturbance::Panic(..) | Disturbance::DropAsSpawned(_) => {
                    Vec::new()
                }
            };
            for (poll, act) in acts {
                if self.runtime.polls() == poll {
                    self.act(act, task);
                }
            }
        }
        panic!("{:?}: the tasks never come to rest", self.disturbance);
    }

    fn act(&mut self, act: Act, task: usize) {
        self.disturbed += 1;
        match act {
            Act::DropTask => self.runtime.drop_task(task),
            Act::DropReporter => self.runtime.drop_task(REPORTER),
            Act::ShutDown(order) => self.runtime.shut_down(order),
            Act::DropOwner => drop(self.owner.take()),
            Act::Stop => drop(poll_once(self.pool.stop())),
            Act::Kill => drop(poll_once(self.pool.kill())),
            Act::StopAndForget => drop(self.pool.stop()),
            Act::CloseListenerAndForget => {
                for listener in self.pool.listeners().unwrap_or_default() {
                    if listener.state == ListenerState::Resources {
                        self.reset += self.ports[usize::from(listener.local_addr.0)].waiting();
                    }
                }
                for id in &self.listeners {
                    drop(self.pool.close_listener(*id));
                }
            }
            Act::JoinAndForget => drop(poll_once(self.pool.join())),
            Act::KillEveryChild | Act::StopEveryChild => {
                for record in self.pool.connections().unwrap_or_default() {
                    // Nothing runs between the list and the call, so each child still exists.
                    let known = match act {
                        Act::KillEveryChild => self.pool.kill_child(record.id),
                        _ => self.pool.stop_child(record.id),
                    };
                    assert_eq!(known, Ok(()));
                }
            }
            Act::Reconfigure => self.reconfigure(),
            Act::ListAcceptors => drop(self.pool.acceptors()),
        }
    }

    /// Is refused once the pool is stopping.
    fn reconfigure(&self) {
        let spec = spec(&self.faults, &self.outage, &self.reports, &self.observed);
        let _ = self.pool.reconfigure(spec, WaitingAcceptors::Keep);
    }

    /// The number of the pool's own tasks: two, unless one was dropped.
    fn own_tasks(&self) -> usize {
        if self.disturbance == Disturbance::Panic(Site::Spawn, REPORTER) {
            return 1;
        }
        [DRIVER, REPORTER]
            .into_iter()
            .filter(|task| self.runtime.has(*task))
            .count()
    }

    /// The counts match the tasks and the connections that exist.
    #[track_caller]
    fn check_at_rest(&self) {
        let d = self.disturbance;
        assert_eq!(
            self.runtime.panics(),
            0,
            "{d:?}: a task of the pool panicked"
        );
        let Ok(status) = self.pool.status() else {
            return;
        };
        let counts = status.counts;
        assert_eq!(counts.connections, status.connections.len(), "{d:?}");
        assert_eq!(
            counts.connections,
            self.history.alive(),
            "{d:?}: connections"
        );
        // A waiting or spaced acceptor has no task, but its listener has.
        let acceptors: usize = status.listeners.iter().map(|l| l.acceptors).sum();
        assert_eq!(
            counts.children(),
            counts.connections + acceptors,
            "{d:?}: children"
        );
        let tasks = self.own_tasks() + status.listeners.len() + counts.connections;
        assert_eq!(self.runtime.tasks(), tasks, "{d:?}: tasks");
        let states: Vec<_> = self.pool.acceptors().unwrap();
        let at_rest = [AcceptorState::Spaced, AcceptorState::Waiting];
        assert_eq!(states.len(), acceptors, "{d:?}");
        assert!(states.iter().all(|a| at_rest.contains(&a.state)), "{d:?}");
        for listener in &status.listeners {
            let expected = ACCEPTORS[usize::from(listener.local_addr.0)];
            assert_eq!(listener.acceptors, expected, "{d:?}: acceptors");
            let port = &self.ports[usize::from(listener.local_addr.0)];
            assert!(port.is_open(), "{d:?}: a listed listener is closed");
            let waits =
                |a: &AcceptorRecord| a.listener == listener.id && a.state == AcceptorState::Waiting;
            let expected = match listener.state {
                ListenerState::Starting => 0..=0,
                ListenerState::Accepting => 1..=usize::MAX,
                _ => 0..=usize::MAX,
            };
            let waiting = states.iter().filter(|a| waits(a)).count();
            assert!(expected.contains(&waiting), "{d:?}: {listener}");
            if listener.state == ListenerState::Accepting {
                assert_eq!(port.waiting(), 0, "{d:?}: a connection is left waiting");
            }
        }
    }

    fn add_listener(&mut self, number: usize) {
        let added = self
            .pool
            .add_listener(self.ports[number].listen(), ACCEPTORS[number]);
        self.decoys.push(self.runtime.spawned() - 1);
        self.listeners.extend(added.ok());
    }

    #[track_caller]
    fn connect(&mut self, number: usize, clients: usize) {
        for _ in 0..clients {
            // Refused once the port is closed: then no connection was made.
            let _ = self.ports[number].connect();
        }
        self.settle();
    }

    #[track_caller]
    fn advance(&mut self, time: Duration) {
        self.runtime.advance(time);
        self.settle();
    }

    /// Runs the scenario up to its stop.
    #[track_caller]
    fn perform(&mut self) {
        for number in [0, 1, 2] {
            self.add_listener(number);
        }
        self.settle();
        self.connect(0, 3);
        self.connect(1, 5);
        self.advance(ACCEPT_TIMEOUT);
        self.ports[1].fail(io::ErrorKind::ConnectionAborted.into());
        self.connect(1, 1);
        self.ports[0].fail(io::Error::from_raw_os_error(24));
        let listeners = self.pool.listeners().unwrap_or_default();
        let closing = |l: &&ListenerRecord<Address>| l.state == ListenerState::Closing;
        self.reset += listeners
            .iter()
            .filter(closing)
            .filter(|l| l.local_addr.0 == 0)
            .count();
        self.connect(0, 1);
        self.advance(Duration::from_millis(5));
        self.reconfigure();
        self.connect(0, 2);
        self.connect(2, 1);
        self.ports[2].fail(listener_error());
        self.settle();
        // Refused if the listener has failed.
        self.connect(2, 1);
        // Three replacements fail, and the retries at 0, 1 and 3 ms; the retry at 7 ms succeeds, and the other two start.
        self.outage.store(6, Ordering::SeqCst);
        self.connect(1, 3);
        for wait_ms in [1, 2, 4] {
            self.advance(Duration::from_millis(wait_ms));
        }
        if let Some(first) = self.listeners.first() {
            let mut closing = pin!(self.pool.close_listener(*first));
            self.decoys.push(self.runtime.spawned() - 1);
            self.settle();
            // Queued at the listener that closes.
            self.connect(0, 1);
            // Long enough for acceptors that are about to start, in case a disturbance has ended the waiting ones.
            let mut waits = [CLOSE_DELAY, CLOSE_LIMIT - CLOSE_DELAY].into_iter();
            while poll_once(closing.as_mut()).is_pending() {
                let wait = waits.next();
                let wait =
                    wait.unwrap_or_else(|| panic!("{:?}: the close hangs", self.disturbance));
                self.advance(wait);
            }
        }
        self.connect(1, 2);
        self.advance(ACCEPT_TIMEOUT);
        self.connect(1, 1);
        // Starts that are spaced after a panic get a second to happen.
        for _ in 0..4 {
            self.advance(Duration::from_millis(300));
        }
    }

    /// Stops the pool, and checks what is left and what was reported.
    #[track_caller]
    fn end(mut self) -> Ended {
        let d = self.disturbance;
        let running = self
            .pool
            .status()
            .is_ok_and(|s| s.state == PoolState::Running);
        let before = self.pool.counts().ok();
        let mut stop = pin!(self.pool.stop());
        self.decoys.push(self.runtime.spawned() - 1);
        let mut patience = 0;
        let report = loop {
            self.settle();
            match stop.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(report) => break report,
                Poll::Pending => self.runtime.advance(Duration::from_millis(500)),
            }
            patience += 1;
            assert!(patience < 100, "{d:?}: the stop hangs");
        };
        self.settle();
        assert_eq!(poll_once(self.pool.join()), Poll::Ready(report.clone()));
        assert_eq!(self.runtime.tasks(), 0, "{d:?}: tasks are left");
        assert_eq!(report.stuck, 0, "{d:?}");
        assert_eq!(self.history.alive(), 0, "{d:?}: streams are left");
        assert!(
            self.ports.iter().all(|port| !port.is_open()),
            "{d:?}: a port is left open"
        );
        assert!(self.pool.counts().is_err());
        if let (true, Some(before)) = (running, before) {
            // A lame duck continues to accept: there are at least as many ends as there were children.
            let connections = report.all_connections().total();
            let acceptors = report.all_acceptors().total();
            assert!(
                connections + acceptors >= before.children(),
                "{d:?}: {report}"
            );
            if self.runtime.polls() == 0 {
                assert_eq!(connections, before.connections);
            }
        }
        // A panicking clock is replaced by the standard one, which is behind the virtual one: the delivery timeout may
        // expire immediately.
        let clock_jumps = matches!(d, Disturbance::Panic(Site::Now, _));
        assert!(report.undelivered == 0 || clock_jumps, "{d:?}: {report:?}");
        let reports = self.reports.lock().unwrap().clone();
        let (mut began, mut ended) = (HashSet::new(), HashSet::new());
        for report in &reports {
            match report {
                Noted::Began(child) => {
                    assert!(began.insert(child), "{d:?}: {child} began twice");
                    assert!(!ended.contains(child), "{d:?}: {child} began after its end");
                }
                Noted::Ended(child, how) => {
                    assert!(ended.insert(child), "{d:?}: {child} ended twice");
                    let known = *how != How::Well || began.contains(child);
                    assert!(known, "{d:?}: {child} did not begin");
                }
                Noted::ListenerFailed | Noted::Other => {}
            }
        }
        assert!(
            began.is_subset(&ended) || report.undelivered > 0,
            "{d:?}: the end of a connection is missing"
        );
        for made in self.history.all() {
            assert!(made.served <= 1, "{d:?}: served twice");
            assert!(made.accepted <= 1, "{d:?}: accepted twice");
            assert_eq!(made.accepted, made.dropped, "{d:?}: leaked");
        }
        let made = self.history.all();
        let count = |which: &dyn Fn(&Made) -> bool| made.iter().filter(|made| which(made)).count();
        Ended {
            polls: self.runtime.polls(),
            spawned: self.runtime.spawned(),
            decoys: self.decoys,
            fired: self.faults.fired(),
            disturbed: self.disturbed,
            unserved: count(&|made| made.served == 0),
            reset: self.reset,
            taken_along: count(&|made| made.served < made.accepted),
            reports,
            report,
        }
    }
}

/// The number of acceptors of each listener.
const ACCEPTORS: [usize; 3] = [2, 3, 1];

#[derive(Debug)]
struct Ended {
    polls: usize,
    spawned: usize,
    decoys: Vec<usize>,
    fired: bool,
    disturbed: usize,
    unserved: usize,
    reset: usize,
    /// Accepted, but not served.
    taken_along: usize,
    reports: Vec<Noted>,
    report: StopReport<Address>,
}

impl Ended {
    fn lost(&self) -> usize {
        self.ends(&How::Lost)
    }

    fn injected(&self) -> usize {
        self.ends(&How::Panic(INJECTED.to_owned()))
    }

    /// The reports, without ids, which differ between pools.
    fn shown(&self) -> String {
        format!("{:?}", self.reports)
    }

    fn ends(&self, expected: &How) -> usize {
        let ended = |noted: &&Noted| matches!(noted, Noted::Ended(_, how) if how == expected);
        self.reports.iter().filter(ended).count()
    }

    fn listeners_failed(&self) -> usize {
        let failed = |noted: &&Noted| **noted == Noted::ListenerFailed;
        self.reports.iter().filter(failed).count()
    }
}

/// Runs the scenario to its end; `None` if the pool could not start.
#[track_caller]
fn run(disturbance: Disturbance) -> Option<Ended> {
    let mut scenario = Scenario::begin(disturbance)?;
    scenario.perform();
    Some(scenario.end())
}

/// The scenario without a disturbance.
#[track_caller]
fn undisturbed() -> Ended {
    run(Disturbance::None).expect("a pool on a running runtime starts")
}

/// Disturbs the scenario at each of its points in turn, until it ends before the point is reached.
#[track_caller]
fn everywhere(act: Act, check: impl Fn(usize, Ended)) {
    let mut points = 0;
    for poll in 1.. {
        let ended = run(Disturbance::AfterPoll(poll, act)).expect("the pool starts");
        if ended.disturbed == 0 {
            break;
        }
        points += 1;
        check(poll, ended);
    }
    assert!(points > 100, "{act:?}: only {points} points");
}

#[test]
fn undisturbed_scenario_serves_all() {
    let ended = undisturbed();
    assert_eq!(ended.unserved, 0);
    assert_eq!(
        (ended.lost(), ended.injected(), ended.listeners_failed()),
        (0, 0, 1)
    );
    assert_eq!(ended.report.reason, StopReason::Requested);
}

/// A task was dropped: a child with its values, a listener with its queued clients, or the reporter.
#[track_caller]
fn check_dropped(ended: &Ended) {
    let listeners = ended.listeners_failed() - 1;
    assert!(listeners <= 1 && ended.lost() <= 1, "{ended:?}");
    assert!(listeners == 0 || ended.lost() == 0, "{ended:?}");
    assert!(ended.taken_along <= ended.lost(), "{ended:?}");
    assert!(
        listeners == 1 || ended.unserved == ended.taken_along,
        "{ended:?}"
    );
    assert_eq!(ended.report.reason, StopReason::Requested);
}

#[test]
fn dropped_task_loses_only_its_connection() {
    everywhere(Act::DropTask, |_, ended| {
        // Without the driver nothing continues.
        if ended.report.reason != StopReason::RuntimeGone {
            check_dropped(&ended);
        }
    });
}

#[test]
fn task_dropped_at_spawn_is_detected() {
    assert!(run(Disturbance::DropAsSpawned(DRIVER)).is_none());
    let undisturbed = undisturbed();
    for spawn in REPORTER..undisturbed.spawned {
        let ended = run(Disturbance::DropAsSpawned(spawn)).expect("the pool starts");
        check_dropped(&ended);
        // Without a reporter all reports are delivered, though late.
        let same = ended.shown() == undisturbed.shown();
        let harmless = spawn == REPORTER || undisturbed.decoys.contains(&spawn);
        assert_eq!(same, harmless, "spawn {spawn}");
    }
}

/// Panics at every occurrence of a site; returns how many there were.
#[track_caller]
fn panic_everywhere(site: Site, check: impl Fn(usize, &Ended)) {
    let mut points = 0;
    for occurrence in 0.. {
        let disturbance = Disturbance::Panic(site, occurrence);
        let Some(ended) = run(disturbance) else {
            assert_eq!((site, occurrence), (Site::Spawn, DRIVER));
            continue;
        };
        if !ended.fired {
            break;
        }
        points += 1;
        assert_eq!(
            ended.report.reason,
            StopReason::Requested,
            "{disturbance:?}"
        );
        check(occurrence, &ended);
    }
    assert!(points > 0, "{site:?} is never reached");
}

/// The panic ends one child and is reported once; all other connections are served.
#[track_caller]
fn check_child_panics(site: Site) {
    panic_everywhere(site, |occurrence, ended| {
        assert_eq!(ended.injected(), 1, "{site:?} {occurrence}: {ended:?}");
        assert_eq!(ended.lost(), 0, "{site:?} {occurrence}");
        assert!(ended.unserved <= 1, "{site:?} {occurrence}: {ended:?}");
    });
}

/// The panic ends no child.
#[track_caller]
fn check_harmless_panics(site: Site) {
    panic_everywhere(site, |occurrence, ended| {
        assert_eq!(ended.injected(), 0, "{site:?} {occurrence}: {ended:?}");
        assert_eq!(ended.lost(), 0, "{site:?} {occurrence}");
        assert_eq!(ended.unserved, 0, "{site:?} {occurrence}: {ended:?}");
    });
}

#[test]
fn callback_panic_ends_one_child() {
    for site in [
        Site::InitBefore,
        Site::InitAfter,
        Site::ServeBefore,
        Site::ServeAfter,
        Site::TerminateBefore,
        Site::TerminateAfter,
    ] {
        check_child_panics(site);
    }
}

#[test]
fn child_drop_panic_ends_that_child() {
    for site in [Site::DropState, Site::DropStream, Site::DropServe] {
        check_child_panics(site);
    }
}

#[test]
fn spec_drop_panic_ends_no_child() {
    check_harmless_panics(Site::DropError);
    check_harmless_panics(Site::DropAcceptErrors);
    check_harmless_panics(Site::DropObserver);
    check_harmless_panics(Site::DropAcceptor);
}

#[test]
fn observer_panic_ends_no_child() {
    check_harmless_panics(Site::Observer);
    check_harmless_panics(Site::AcceptErrors);
    check_harmless_panics(Site::Classify);
}

#[test]
fn listener_panic_ends_that_listener() {
    panic_everywhere(Site::Accept, |occurrence, ended| {
        assert_eq!((ended.injected(), ended.lost()), (0, 0), "{occurrence}");
        assert!((1..=2).contains(&ended.listeners_failed()), "{occurrence}");
    });
    check_harmless_panics(Site::LocalAddr);
    check_harmless_panics(Site::DropListener);
    // A connection without a local address is skipped (A1).
    panic_everywhere(Site::StreamLocalAddr, |occurrence, ended| {
        assert_eq!((ended.injected(), ended.lost()), (0, 0), "{occurrence}");
        assert_eq!(ended.unserved, 1, "{occurrence}");
    });
}

#[test]
fn waker_or_clock_panic_ends_no_child() {
    check_harmless_panics(Site::Wake);
    check_harmless_panics(Site::Now);
}

#[test]
fn spawn_panic_is_a_dropped_task() {
    panic_everywhere(Site::Spawn, |_, ended| check_dropped(ended));
}

#[test]
fn runtime_shutdown_ends_the_pool() {
    for order in [Order::OldestFirst, Order::NewestFirst] {
        everywhere(Act::ShutDown(order), |poll, ended| {
            let over = ended.report.reason == StopReason::Requested;
            assert!(
                over || ended.report.reason == StopReason::RuntimeGone,
                "poll {poll}: {ended:?}"
            );
            assert_eq!(ended.polls, poll, "{order:?}");
        });
    }
}

#[test]
fn shut_down_runtime_starts_no_pool() {
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mut scenario = Scenario::begin(Disturbance::None).unwrap();
        scenario.perform();
        let mut join = pin!(scenario.pool.join());
        assert!(poll_once(join.as_mut()).is_pending());
        let alive = scenario.history.alive();
        assert!(alive > 0);
        let workers = scenario.pool.counts().unwrap().children();
        scenario.runtime.shut_down(order);
        let Poll::Ready(report) = poll_once(join) else {
            panic!("{order:?}: join hangs");
        };
        assert_eq!(report.reason, StopReason::RuntimeGone);
        let ends = report.all_connections().total() + report.all_acceptors().total();
        assert!(ends <= workers, "{order:?}: {report}");
        assert_eq!(scenario.history.alive(), 0);
        let again = Pool::start(
            scenario.runtime.clone(),
            spec(
                &scenario.faults,
                &scenario.outage,
                &scenario.reports,
                &Arc::default(),
            ),
        );
        assert!(matches!(again, Err(StartError::RuntimeGone)), "{again:?}");
    }
}

#[test]
fn owner_drop_at_any_point_ends_all() {
    everywhere(Act::DropOwner, |poll, ended| {
        let reason = ended.report.reason;
        let expected = [StopReason::OwnerDropped, StopReason::Requested];
        assert!(expected.contains(&reason), "poll {poll}: {ended:?}");
    });
}

#[test]
fn stop_or_kill_at_any_point_ends_all() {
    for act in [Act::Stop, Act::StopAndForget, Act::Kill] {
        everywhere(act, |poll, ended| {
            assert_eq!(ended.report.reason, StopReason::Requested, "poll {poll}");
            assert_eq!((ended.lost(), ended.injected()), (0, 0), "poll {poll}");
        });
    }
}

#[test]
fn close_at_any_point_loses_no_client() {
    everywhere(Act::CloseListenerAndForget, |poll, ended| {
        assert_eq!((ended.lost(), ended.injected()), (0, 0), "poll {poll}");
        assert_eq!(ended.unserved, ended.reset, "poll {poll}");
    });
}

#[test]
fn read_only_calls_change_nothing() {
    let undisturbed = undisturbed();
    for act in [Act::JoinAndForget, Act::ListAcceptors] {
        everywhere(act, |poll, ended| {
            assert_eq!(ended.polls, undisturbed.polls, "poll {poll}");
            assert_eq!(ended.report, undisturbed.report, "poll {poll}");
            assert_eq!(ended.shown(), undisturbed.shown(), "poll {poll}");
        });
    }
}

/// Only the time of the reports may change, as with a reporter that is dropped at its spawn.
#[test]
fn dropped_reporter_loses_no_report() {
    let undisturbed = undisturbed();
    everywhere(Act::DropReporter, |poll, ended| {
        assert_eq!(ended.report, undisturbed.report, "poll {poll}");
        assert_eq!(ended.shown(), undisturbed.shown(), "poll {poll}");
    });
}

#[test]
fn child_commands_touch_no_other_child() {
    everywhere(Act::KillEveryChild, |poll, ended| {
        assert_eq!((ended.lost(), ended.injected()), (0, 0), "poll {poll}");
    });
    everywhere(Act::StopEveryChild, |poll, ended| {
        assert_eq!((ended.lost(), ended.injected()), (0, 0), "poll {poll}");
        assert_eq!(
            ended.unserved, 0,
            "poll {poll}: one child was dropped before it ran"
        );
    });
}

#[test]
fn reconfigure_at_any_point_loses_nothing() {
    everywhere(Act::Reconfigure, |poll, ended| {
        assert_eq!((ended.lost(), ended.unserved), (0, 0), "poll {poll}");
    });
}

fn any_act() -> impl Strategy<Value = Act> {
    proptest::sample::select(
        [
            Act::DropTask,
            Act::DropReporter,
            Act::ShutDown(Order::OldestFirst),
            Act::ShutDown(Order::NewestFirst),
            Act::DropOwner,
            Act::Stop,
            Act::Kill,
            Act::StopAndForget,
            Act::CloseListenerAndForget,
            Act::KillEveryChild,
            Act::StopEveryChild,
            Act::Reconfigure,
            Act::ListAcceptors,
        ]
        .as_slice(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The scenario's invariants hold after any two acts, as after any one.
    #[test]
    fn two_disturbances_keep_the_invariants(
        first in (1..336_usize, any_act()),
        after in (0..30_usize, any_act()),
    ) {
        let second = (first.0 + after.0, after.1);
        let ended = run(Disturbance::AfterPolls([first, second])).expect("the pool starts");
        prop_assert_eq!(ended.injected(), 0);
    }
}

/// An acceptor made of closures.
struct Parts<I, S> {
    init: I,
    serve: S,
    _gone: Option<AlwaysPanics>,
}

/// Panics whenever it is dropped: two dropped in one unwind would abort.
#[derive(Debug)]
struct AlwaysPanics;

impl Drop for AlwaysPanics {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new(INJECTED));
    }
}

impl fmt::Display for AlwaysPanics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("always panics")
    }
}

impl std::error::Error for AlwaysPanics {}

impl<I, S> Acceptor<MemoryListener> for Parts<I, S>
where
    I: Fn() -> Init<()> + Send + Sync + 'static,
    S: Fn() -> Result<(), BoxError> + Send + Sync + 'static,
{
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok((self.init)())
    }

    async fn serve(
        &self,
        connection: Connection<MemoryStream, Address>,
        _: (),
    ) -> Result<(), BoxError> {
        connection.stream.serve();
        (self.serve)()
    }

    async fn terminate(&self, reason: &Terminate, _: ()) {
        if matches!(reason, Terminate::Timeout) {
            std::panic::resume_unwind(Box::new(INJECTED));
        }
    }
}

fn served() -> Result<(), BoxError> {
    Ok(())
}

#[test]
fn drop_panics_escape_no_call() {
    let spec = |id: &str| {
        let (observer, table) = (AlwaysPanics, AlwaysPanics);
        Spec::new(
            id,
            Parts {
                init: || Init::Accept(()),
                serve: served,
                _gone: Some(AlwaysPanics),
            },
        )
        .observer(observer_fn(move |_: &TestReport| {
            let _ = &observer;
        }))
        .accept_errors(move |error| {
            let _ = &table;
            AcceptErrorKind::classify(error)
        })
    };
    let runtime = Manual::new(&Faults::default());
    let refused = Pool::start(runtime.clone(), spec(""));
    assert!(matches!(
        refused,
        Err(StartError::Spec(SpecError::Id { .. }))
    ));
    let pool = Pool::start(runtime.clone(), spec("first")).unwrap();
    let refused = pool.reconfigure(spec(""), WaitingAcceptors::Keep);
    assert!(matches!(
        refused,
        Err(ReconfigureError::Spec(SpecError::Id { .. }))
    ));
    assert!(
        pool.reconfigure(spec("second"), WaitingAcceptors::Keep)
            .is_ok()
    );
    drop(pool.stop());
    runtime.settle();
    assert!(poll_once(pool.join()).is_ready());
    assert!(matches!(
        pool.reconfigure(spec("third"), WaitingAcceptors::Keep),
        Err(ReconfigureError::Stopped)
    ));
    drop(pool);
    assert_eq!((runtime.panics(), runtime.tasks()), (0, 0));
}

#[test]
fn runtime_dropping_all_tasks_backs_off() {
    let runtime = Manual::new(&Faults::default());
    let (history, faults) = (History::default(), Faults::default());
    let port = Port::new(1, &history, &faults);
    let acceptor = Parts {
        init: || Init::AcceptWithin((), ACCEPT_TIMEOUT),
        serve: served,
        _gone: None,
    };
    let pool = Pool::start(runtime.clone(), Spec::new("echo", acceptor)).unwrap();
    let first = pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle();
    let before = runtime.spawned();
    runtime.drop_as_spawned(before..1000);
    for _ in 0..3100 {
        runtime.advance(Duration::from_millis(1));
        runtime.settle();
    }
    // `terminate` at 100 ms, then starts at 0, 1, 3, 7, … 511, 1023, 2023 ms after.
    let tried = runtime.spawned() - before;
    assert!((12..=14).contains(&tried), "{tried} tries");
    assert_eq!(pool.counts().unwrap().children(), 1);

    // A spaced acceptor delays a close no longer than its limit.
    let closing = pool.close_listener(first);
    runtime.settle();
    runtime.advance(CLOSE_LIMIT);
    runtime.settle();
    assert_eq!(poll_once(closing), Poll::Ready(Ok(())));
    assert_eq!(pool.counts().unwrap().children(), 0);

    // Once the runtime runs tasks again, they are started.
    runtime.drop_as_spawned(0..0);
    pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle();
    runtime.drop_as_spawned(0..1000);
    runtime.advance(ACCEPT_TIMEOUT);
    runtime.settle();
    runtime.advance(Duration::from_millis(1));
    runtime.settle();
    runtime.drop_as_spawned(0..0);
    runtime.advance(Duration::from_millis(2));
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(history.all()[0].served, 1);

    // Nor does it delay a stop.
    runtime.drop_as_spawned(0..1000);
    runtime.advance(ACCEPT_TIMEOUT);
    runtime.settle();
    runtime.advance(Duration::from_millis(1));
    runtime.settle();
    assert_eq!(pool.counts().unwrap().children(), 1);
    let stop = pool.stop();
    runtime.settle();
    runtime.advance(CLOSE_LIMIT);
    runtime.settle();
    assert!(poll_once(stop).is_ready());
    assert_eq!(runtime.tasks(), 0);
}

/// Checks how many acceptors start within ten seconds if each ends immediately.
#[track_caller]
fn check_spaced(answer: Init<()>) {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let inits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&inits);
    let init = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        answer.clone()
    };
    let acceptor = Parts {
        init,
        serve: served,
        _gone: None,
    };
    let pool = Pool::start(runtime.clone(), Spec::new("spaced", acceptor)).unwrap();
    pool.add_listener(port.listen(), 1).unwrap();
    for _ in 0..10_000 {
        runtime.settle();
        runtime.advance(Duration::from_millis(1));
    }
    runtime.settle();
    // At 0, 0, 1, 3, 7, … 511, 1023, 2023, … 9023 ms.
    let inits = inits.load(Ordering::SeqCst);
    assert!((19..=21).contains(&inits), "{inits} starts in ten seconds");
    assert_eq!(pool.counts().unwrap().children(), 1);
}

#[test]
fn acceptors_ending_at_once_back_off() {
    check_spaced(Init::Ignore);
    // Their `terminate` panics, which never counts in a temporary pool.
    check_spaced(Init::AcceptWithin((), Duration::ZERO));
    check_spaced(Init::AcceptWithin((), Duration::from_nanos(1)));
}

#[test]
fn stuck_child_may_end_late() {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let handle: Arc<OnceLock<Handle>> = Arc::default();
    let (inside, pool_inside) = (runtime.clone(), Arc::clone(&handle));
    // During its poll the pool is killed, and the kill timeout passes.
    let serve = move || -> Result<(), BoxError> {
        let pool = pool_inside
            .get()
            .expect("the handle is set before the connection is made");
        drop(pool.kill());
        // The driver looks four times, a quarter of the kill timeout apart, and finds no progress (S8).
        for _ in 0..4 {
            inside.settle();
            assert!(poll_once(pool.join()).is_pending());
            inside.advance(Duration::from_millis(250));
        }
        inside.settle();
        assert!(poll_once(pool.join()).is_ready());
        Err(AlwaysPanics.into())
    };
    let acceptor = Parts {
        init: || Init::Accept(()),
        serve,
        _gone: None,
    };
    let pool = Pool::start(runtime.clone(), Spec::new("stuck", acceptor)).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    let Poll::Ready(report) = poll_once(pool.join()) else {
        panic!("join hangs");
    };
    assert_eq!((report.stuck, report.all_connections().total()), (1, 0));
    assert_eq!((runtime.tasks(), runtime.panics()), (0, 0));
}

/// An acceptor whose `init` never finishes.
struct Slow;

impl Acceptor<MemoryListener> for Slow {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        std::future::pending().await
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, _: ()) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn sockets_are_closed_before_the_result() {
    for act in [Act::Stop, Act::Kill, Act::DropOwner] {
        let runtime = Manual::new(&Faults::default());
        let port = Port::new(1, &History::default(), &Faults::default());
        let pool = Pool::start(runtime.clone(), Spec::new("slow", Slow)).unwrap();
        pool.add_listener(port.listen(), 2).unwrap();
        runtime.settle();
        let mut join = Box::pin(pool.join());
        match act {
            Act::Stop => drop(pool.stop()),
            Act::Kill => drop(pool.kill()),
            _ => drop(pool),
        }
        let mut waited = Duration::ZERO;
        while poll_once(join.as_mut()).is_pending() {
            if runtime.step().is_none() {
                assert!(waited < CLOSE_LIMIT, "{act:?}: join hangs");
                runtime.advance(CLOSE_DELAY);
                waited += CLOSE_DELAY;
            }
        }
        // A graceful stop waits for acceptors that are about to start.
        let expected = match act {
            Act::Stop => CLOSE_LIMIT,
            _ => Duration::ZERO,
        };
        assert_eq!(waited, expected, "{act:?}");
        assert!(!port.is_open(), "{act:?}");
    }
}

/// The n-th acceptor takes its time for `init`, and then waits with the given accept timeout.
struct InTurn {
    waits: [Option<Duration>; 3],
    begun: AtomicUsize,
    timed_out: Arc<Mutex<Vec<ChildId>>>,
}

impl Acceptor<MemoryListener> for InTurn {
    type State = ChildId;
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init<ChildId>, BoxError> {
        let turn = self.begun.fetch_add(1, Ordering::SeqCst);
        for _ in 0..turn * 5 {
            yield_now().await;
        }
        Ok(match self.waits.get(turn).copied().flatten() {
            Some(time) => Init::AcceptWithin(listener.child, time),
            None => Init::Accept(listener.child),
        })
    }

    async fn serve(
        &self,
        _: Connection<MemoryStream, Address>,
        _: ChildId,
    ) -> Result<(), BoxError> {
        Ok(())
    }

    async fn terminate(&self, _: &Terminate, child: ChildId) {
        self.timed_out.lock().unwrap().push(child);
    }
}

/// Checks which accept timeouts have expired after each millisecond.
#[track_caller]
fn check_timeouts(waits_ms: [Option<u64>; 3], expected: &[(u64, &str)]) {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let timed_out = Arc::<Mutex<Vec<ChildId>>>::default();
    let acceptor = InTurn {
        waits: waits_ms.map(|time| time.map(Duration::from_millis)),
        begun: AtomicUsize::new(0),
        timed_out: Arc::clone(&timed_out),
    };
    let pool = Pool::start(runtime.clone(), Spec::new("in turn", acceptor)).unwrap();
    pool.add_listener(port.listen(), 3).unwrap();
    let mut seen = Vec::new();
    for now in 0..50 {
        runtime.settle();
        for child in timed_out.lock().unwrap().drain(..) {
            seen.push((now, child.to_string()));
        }
        runtime.advance(Duration::from_millis(1));
    }
    let seen: Vec<_> = seen.iter().map(|(now, id)| (*now, id.as_str())).collect();
    assert_eq!(seen, expected);
}

#[test]
fn accept_timeouts_expire_when_due() {
    check_timeouts([None, Some(10), None], &[(10, "1.2")]);
    check_timeouts([None, Some(10), Some(5)], &[(5, "1.3"), (10, "1.2")]);
    check_timeouts(
        [Some(30), Some(10), Some(20)],
        &[(10, "1.2"), (20, "1.3"), (30, "1.1")],
    );
    check_timeouts(
        [Some(10), Some(10), Some(10)],
        &[(10, "1.1"), (10, "1.2"), (10, "1.3")],
    );
}

/// Replaces the spec, and with it itself, while it handles a report.
struct Replaces {
    pool: Arc<OnceLock<Handle>>,
    _gone: AlwaysPanics,
}

impl Observer<Address> for Replaces {
    fn report(&self, _: &TestReport) {
        let pool = self.pool.get().expect("the handle is set first");
        let acceptor = acceptor_fn(|_| async { Ok(()) });
        assert!(
            pool.reconfigure(Spec::new("replaced", acceptor), WaitingAcceptors::Keep)
                .is_ok()
        );
    }
}

#[test]
fn observer_may_replace_itself() {
    let runtime = Manual::new(&Faults::default());
    let port = Port::new(1, &History::default(), &Faults::default());
    let handle: Arc<OnceLock<Handle>> = Arc::default();
    let spec = Spec::new("first", acceptor_fn(|_| async { Ok(()) })).observer(Replaces {
        pool: Arc::clone(&handle),
        _gone: AlwaysPanics,
    });
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle();
    port.fail(listener_error());
    runtime.settle();
    assert_eq!(&*pool.status().unwrap().spec, "replaced");
    drop(pool.stop());
    runtime.settle();
    assert!(poll_once(pool.join()).is_ready());
    assert_eq!((runtime.tasks(), runtime.panics()), (0, 0));
}
