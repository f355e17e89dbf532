//! A single-threaded executor: a seed chooses the task that is polled next, and the clock advances only on request.
//!
//! Invariants: no lock is held while a task is polled, dropped or woken; a task is queued at most once, however often
//! it is woken; the same calls in the same order make the same choices, whatever the machine.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use acceptor_core::Runtime;
use fastrand::Rng;
use futures::future::BoxFuture;

use super::fault_injection::FaultInjection;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The id of a task of a [`Simulation`]. Ids count up from 1 in the order of spawning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimulatedTask {
    number: u64,
    runtime: u64,
}

impl SimulatedTask {
    /// Returns the [number](SimulatedRuntime::number) of the task's runtime.
    pub fn runtime(self) -> u64 {
        self.runtime
    }

    pub(super) fn number(self) -> u64 {
        self.number
    }
}

impl fmt::Display for SimulatedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// A single-threaded runtime with a virtual clock, and its driver.
///
/// Clones share it. Nothing runs until the driver polls: see [`poll_next`](Self::poll_next).
#[derive(Clone)]
pub struct Simulation {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    /// Nanoseconds since `began`.
    elapsed: AtomicU64,
    state: Mutex<State>,
    /// Whether timers are firing at this moment.
    firing: AtomicBool,
    /// Notified when something became ready, possibly by a thread outside this world.
    stirred: Condvar,
}

struct State {
    random: Rng,
    spurious: Spurious,
    ready: Vec<Arc<Task>>,
    live: Vec<Arc<Task>>,
    timers: BTreeMap<(u64, u64), Waker>,
    tasks_ever: u64,
    timers_ever: u64,
    current: Option<Arc<Task>>,
    statistics: Statistics,
    tallies: BTreeMap<&'static str, Tally>,
    panics: u64,
    closed: bool,
    /// How many runtimes were created beside the first, and which of them have ended.
    runtimes_ever: u64,
    ended: BTreeSet<u64>,
    /// Whether a thread waits until something becomes ready.
    waiting: bool,
    /// The faults of an exploration, with their own random numbers.
    injection: Option<Arc<FaultInjection>>,
    first_panic: Option<Panicked>,
}

/// The first panic that left a task.
#[derive(Debug, Clone)]
pub(super) struct Panicked {
    pub(super) task: SimulatedTask,
    pub(super) kind: &'static str,
    pub(super) message: String,
}

/// How often a task is polled without a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spurious {
    /// Never.
    Never,
    /// In one of this many polls.
    OneIn(u32),
}

/// Counters of a [`Simulation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Polls of tasks that were woken or just spawned.
    pub polls: u64,
    /// Polls of tasks that were not woken.
    pub spurious: u64,
    /// Spawned tasks.
    pub tasks: u64,
    /// Timers that fired.
    pub timers: u64,
}

/// Counters for the tasks of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Tally {
    /// Tasks that have not completed.
    pub live: u64,
    /// Spawned tasks.
    pub spawned: u64,
    /// Polls of tasks that were woken or just spawned.
    pub polls: u64,
    /// Wakes by timers.
    pub timers: u64,
}

struct Task {
    id: SimulatedTask,
    kind: Mutex<&'static str>,
    shared: Weak<Shared>,
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    waits: Mutex<Vec<Wait>>,
    // These are read and written under the lock of the state.
    queued: AtomicBool,
    held: AtomicBool,
    /// Whether its wake is delayed until a timer fires.
    delayed: AtomicBool,
    position: AtomicUsize,
}

/// The duration of a poll by the clock of [`Simulation::run_until`].
pub(super) const POLL: Duration = Duration::from_micros(1);

/// The position of a completed task.
const GONE: usize = usize::MAX;

/// The latest wait of a pending task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Timer(u64),
    Accept(std::net::SocketAddr),
    Read(std::net::SocketAddr),
    Write(std::net::SocketAddr),
    Connect(std::net::SocketAddr),
    End(SimulatedTask),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Timer(at) => write!(f, "the clock to reach {:?}", Duration::from_nanos(*at)),
            Wait::Accept(at) => write!(f, "a client of {at}"),
            Wait::Read(peer) => write!(f, "bytes from {peer}"),
            Wait::Write(peer) => write!(f, "{peer} to read"),
            Wait::Connect(to) => write!(f, "room in the backlog of {to}"),
            Wait::End(task) => write!(f, "the end of task {task}"),
        }
    }
}

/// A snapshot of a task that has not completed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TaskRecord {
    /// Its id.
    pub id: SimulatedTask,
    /// The task's type, or the name that it was given.
    pub kind: &'static str,
    /// The events that it waits for, as far as this world knows.
    pub waits_for: String,
}

impl fmt::Display for TaskRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "task {} ({}) waits for {}",
            self.id, self.kind, self.waits_for
        )
    }
}

/// The tasks stayed ready without the clock advancing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Restless {
    /// The number of polls.
    pub polls: usize,
    /// The tasks polled last, the latest last.
    pub last: Vec<TaskRecord>,
}

impl Simulation {
    /// Creates a world. The seed makes its choices.
    pub fn new(seed: u64, spurious: Spurious) -> Self {
        Self {
            shared: Arc::new(Shared {
                began: Instant::now(),
                elapsed: AtomicU64::new(0),
                state: Mutex::new(State {
                    random: Rng::with_seed(seed),
                    spurious,
                    ready: Vec::new(),
                    live: Vec::new(),
                    timers: BTreeMap::new(),
                    tasks_ever: 0,
                    timers_ever: 0,
                    current: None,
                    statistics: Statistics::default(),
                    tallies: BTreeMap::new(),
                    panics: 0,
                    closed: false,
                    runtimes_ever: 0,
                    ended: BTreeSet::new(),
                    waiting: false,
                    injection: None,
                    first_panic: None,
                }),
                firing: AtomicBool::new(false),
                stirred: Condvar::new(),
            }),
        }
    }

    /// Returns the runtime with which pools are started.
    pub fn runtime(&self) -> SimulatedRuntime {
        SimulatedRuntime {
            simulation: self.clone(),
            number: 0,
        }
    }

    /// Creates another runtime with the same clock, whose tasks are interleaved with those of the others.
    pub fn another_runtime(&self) -> SimulatedRuntime {
        let mut state = lock(&self.shared.state);
        state.runtimes_ever += 1;
        SimulatedRuntime {
            simulation: self.clone(),
            number: state.runtimes_ever,
        }
    }

    /// Drops every task that is spawned on a runtime from now on, as a runtime does that is shut down. Returns the
    /// tasks that it has, oldest first; the caller [drops](Self::drop_task) them in any order.
    pub fn end_runtime(&self, runtime: &SimulatedRuntime) -> Vec<(SimulatedTask, &'static str)> {
        let number = runtime.number;
        lock(&self.shared.state).ended.insert(number);
        self.tasks_where(|task| task.id.runtime == number)
    }

    /// Sets the seed of the choices from now on.
    pub fn reseed(&self, seed: u64) {
        lock(&self.shared.state).random = Rng::with_seed(seed);
    }

    /// Sets how often tasks are polled without a wake from now on.
    pub fn set_spurious(&self, spurious: Spurious) {
        lock(&self.shared.state).spurious = spurious;
    }

    /// Returns the current time.
    pub fn now(&self) -> Instant {
        self.shared.now()
    }

    /// Returns the time since the world was created.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.shared.elapsed.load(Ordering::Relaxed))
    }

    /// Returns the counters.
    pub fn statistics(&self) -> Statistics {
        lock(&self.shared.state).statistics
    }

    /// Returns the counters for the tasks of this kind.
    pub fn tally(&self, kind: &str) -> Tally {
        let state = lock(&self.shared.state);
        state.tallies.get(kind).copied().unwrap_or_default()
    }

    /// Returns the number of panics that have left a task, in a poll or in its drop.
    pub fn panics(&self) -> u64 {
        lock(&self.shared.state).panics
    }

    /// Returns the first panic that has left a task.
    pub(super) fn first_panic(&self) -> Option<Panicked> {
        lock(&self.shared.state).first_panic.clone()
    }

    /// Sets the faults from now on, which apply if [`Spurious`] is *never*.
    pub(super) fn set_fault_injection(&self, injection: Option<Arc<FaultInjection>>) {
        let before = std::mem::replace(&mut lock(&self.shared.state).injection, injection);
        drop(before);
    }

    /// Polls a randomly chosen ready task, and occasionally one that is not ready. Returns the task and its kind, or
    /// `None` if no task is ready.
    pub fn poll_next(&self) -> Option<(SimulatedTask, &'static str)> {
        let task = {
            let mut state = lock(&self.shared.state);
            let task = state.choose()?;
            state.current = Some(Arc::clone(&task));
            task
        };
        let Some(mut future) = lock(&task.future).take() else {
            lock(&self.shared.state).current = None;
            return Some((task.id, task.kind()));
        };
        lock(&task.waits).clear();
        let waker = Waker::from(Arc::clone(&task));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        lock(&self.shared.state).current = None;
        if let Ok(Poll::Pending) = polled {
            *lock(&task.future) = Some(future);
        } else {
            // A panic concerns the task only, not the caller.
            let polled = polled.err().map(panic_message);
            let dropped = drop_catching(future);
            let mut state = lock(&self.shared.state);
            if let Some(message) = polled.or(dropped) {
                state.panicked(&task, message);
            }
            state.remove(&task);
        }
        Some((task.id, task.kind()))
    }

    /// Polls until no task is ready.
    ///
    /// # Errors
    ///
    /// [`Restless`] after `limit` polls.
    pub fn settle(&self, limit: usize) -> Result<usize, Restless> {
        let mut polls = 0;
        while let Some((task, _)) = self.poll_next() {
            polls += 1;
            if polls >= limit {
                return Err(self.restless(polls, task));
            }
        }
        Ok(polls)
    }

    pub(super) fn restless(&self, polls: usize, last: SimulatedTask) -> Restless {
        let mut last = vec![last];
        for _ in 0..20 {
            last.extend(self.poll_next().map(|(task, _)| task));
        }
        let known = self.tasks();
        let find = |id: &SimulatedTask| known.iter().find(|task| task.id == *id).cloned();
        Restless {
            polls,
            last: last.iter().filter_map(find).collect(),
        }
    }

    /// Returns when the next timer fires.
    pub fn next_timer(&self) -> Option<Instant> {
        let state = lock(&self.shared.state);
        let ((at, _), _) = state.timers.first_key_value()?;
        Some(self.shared.began + Duration::from_nanos(*at))
    }

    /// Advances the clock and fires the timers that are due. The clock never goes backwards.
    pub fn advance_to(&self, time: Instant) {
        let to = self.shared.offset(time);
        let due = {
            let mut state = lock(&self.shared.state);
            let now = self.shared.elapsed.fetch_max(to, Ordering::Relaxed).max(to);
            let later = state.timers.split_off(&(now.saturating_add(1), 0));
            let due = std::mem::replace(&mut state.timers, later);
            state.statistics.timers += due.len() as u64;
            due
        };
        self.shared.firing.store(true, Ordering::Relaxed);
        for waker in due.into_values() {
            waker.wake();
        }
        self.shared.firing.store(false, Ordering::Relaxed);
    }

    /// Returns the tasks that have not completed, oldest first.
    pub fn tasks(&self) -> Vec<TaskRecord> {
        let mut tasks = lock(&self.shared.state).live.clone();
        tasks.sort_unstable_by_key(|task| task.id);
        tasks.iter().map(|task| task.record()).collect()
    }

    /// Returns the tasks of these kinds that have not completed, oldest first.
    pub fn tasks_of(&self, kinds: &[&str]) -> Vec<(SimulatedTask, &'static str)> {
        self.tasks_where(|task| kinds.contains(&task.kind()))
    }

    fn tasks_where(&self, wanted: impl Fn(&Task) -> bool) -> Vec<(SimulatedTask, &'static str)> {
        let state = lock(&self.shared.state);
        let live = state.live.iter();
        let wanted = live.filter(|task| wanted(task));
        let mut tasks: Vec<_> = wanted.map(|task| (task.id, task.kind())).collect();
        drop(state);
        tasks.sort_unstable();
        tasks
    }

    /// Changes a task's kind, under which it is counted. Does nothing if the task has completed.
    pub fn set_kind(&self, id: SimulatedTask, kind: &'static str) {
        if let Some(task) = self.find(id) {
            let before = std::mem::replace(&mut *lock(&task.kind), kind);
            let mut state = lock(&self.shared.state);
            for (kind, change) in [(before, -1), (kind, 1)] {
                let tally = state.tally(kind);
                tally.live = tally.live.saturating_add_signed(change);
                tally.spawned = tally.spawned.saturating_add_signed(change);
            }
        }
    }

    /// Returns the number of tasks that have not completed.
    pub fn task_count(&self) -> usize {
        lock(&self.shared.state).live.len()
    }

    /// Returns the number of pending timers.
    pub fn timer_count(&self) -> usize {
        lock(&self.shared.state).timers.len()
    }

    /// Drops a task, as a runtime does that is shut down. Does nothing if the task has completed.
    pub fn drop_task(&self, id: SimulatedTask) {
        let task = self.find(id);
        if let Some(task) = task {
            let future = lock(&task.future).take();
            lock(&self.shared.state).remove(&task);
            if let Some(message) = drop_catching(future) {
                lock(&self.shared.state).panicked(&task, message);
            }
        }
    }

    /// Stops polling a task, as if its last poll never returned.
    pub fn hold(&self, id: SimulatedTask) {
        if let Some(task) = self.find(id) {
            let mut state = lock(&self.shared.state);
            task.held.store(true, Ordering::Relaxed);
            state.ready.retain(|other| other.id != id);
        }
    }

    /// Resumes polling a held task.
    pub fn release(&self, id: SimulatedTask) {
        if let Some(task) = self.find(id) {
            let mut state = lock(&self.shared.state);
            let was_held = task.held.swap(false, Ordering::Relaxed);
            let is_late = task.delayed.load(Ordering::Relaxed);
            if was_held && task.queued.load(Ordering::Relaxed) && !is_late {
                state.ready.push(task);
            }
        }
    }

    /// Drops all tasks, and every task that is spawned from now on, as a runtime does that is shut down.
    pub fn close(&self) {
        lock(&self.shared.state).closed = true;
        loop {
            let last = lock(&self.shared.state).live.last().cloned();
            match last {
                Some(task) => self.drop_task(task.id),
                None => return,
            }
        }
    }

    /// Polls until `done` returns true. The clock advances a little with each poll, and to the next timer if no task is
    /// ready.
    ///
    /// If no task is ready and no timer is pending, waits for a thread outside this world to wake a task.
    ///
    /// # Panics
    ///
    /// If no wake arrives within `outside` by the machine's clock, with the tasks and the events that they wait for.
    pub fn run_until(&self, outside: Duration, done: impl Fn() -> bool) {
        while !done() {
            if self.poll_next().is_some() {
                // Timers must fire even if a task is always ready.
                self.advance_to(self.now() + POLL);
                continue;
            }
            if let Some(time) = self.next_timer() {
                self.advance_to(time);
                continue;
            }
            let mut state = lock(&self.shared.state);
            state.waiting = true;
            let idle = |state: &mut State| state.ready.is_empty();
            let waited = self
                .shared
                .stirred
                .wait_timeout_while(state, outside, idle)
                .unwrap_or_else(PoisonError::into_inner);
            let (mut state, waited) = waited;
            state.waiting = false;
            let idle = waited.timed_out() && state.ready.is_empty();
            drop(state);
            if idle && !done() {
                let waiting: Vec<_> = self.tasks().iter().map(ToString::to_string).collect();
                panic!(
                    "nothing is ready, no timer is set, and it is not over:\n{}",
                    waiting.join("\n")
                );
            }
        }
    }

    /// Records the wait of the task that is being polled.
    pub(super) fn waits_for(&self, wait: Wait) {
        let state = lock(&self.shared.state);
        if let Some(task) = &state.current {
            lock(&task.waits).push(wait);
        }
    }

    fn find(&self, id: SimulatedTask) -> Option<Arc<Task>> {
        let state = lock(&self.shared.state);
        state.live.iter().find(|task| task.id == id).cloned()
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("elapsed", &self.elapsed())
            .field("tasks", &self.task_count())
            .finish_non_exhaustive()
    }
}

/// Drops a value whose `Drop` may panic, and returns the message of the panic.
fn drop_catching<T>(value: T) -> Option<String> {
    catch_unwind(AssertUnwindSafe(|| drop(value)))
        .err()
        .map(panic_message)
}

/// Returns the message of a panic and drops the payload, whose `Drop` may panic in turn.
pub(super) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    text.unwrap_or_else(|| "a payload that is not text".to_owned())
}

impl Shared {
    fn now(&self) -> Instant {
        self.began + Duration::from_nanos(self.elapsed.load(Ordering::Relaxed))
    }

    /// Converts an instant to nanoseconds since the world was created, saturating.
    fn offset(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.began);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl State {
    fn choose(&mut self) -> Option<Arc<Task>> {
        if self.ready.is_empty() {
            return None;
        }
        let spurious = match self.spurious {
            Spurious::OneIn(many) => self.random.u32(..many.max(1)) == 0,
            Spurious::Never => self
                .injection
                .as_ref()
                .is_some_and(|injection| injection.polls()),
        };
        if spurious {
            let task = &self.live[self.random.usize(..self.live.len())];
            if !task.queued.load(Ordering::Relaxed) && !task.held.load(Ordering::Relaxed) {
                self.statistics.spurious += 1;
                return Some(Arc::clone(task));
            }
        }
        let chosen = self.random.usize(..self.ready.len());
        let task = self.ready.swap_remove(chosen);
        // Cleared before the poll: a wake from here on requests another poll.
        task.queued.store(false, Ordering::Relaxed);
        self.statistics.polls += 1;
        self.tally(task.kind()).polls += 1;
        Some(task)
    }

    fn panicked(&mut self, task: &Task, message: String) {
        self.panics += 1;
        self.first_panic.get_or_insert_with(|| Panicked {
            task: task.id,
            kind: task.kind(),
            message,
        });
    }

    fn tally(&mut self, kind: &'static str) -> &mut Tally {
        self.tallies.entry(kind).or_default()
    }

    fn remove(&mut self, task: &Arc<Task>) {
        let position = task.position.swap(GONE, Ordering::Relaxed);
        if position == GONE {
            return;
        }
        self.tally(task.kind()).live -= 1;
        self.live.swap_remove(position);
        if let Some(moved) = self.live.get(position) {
            moved.position.store(position, Ordering::Relaxed);
        }
        if task.queued.load(Ordering::Relaxed) {
            self.ready.retain(|other| other.id != task.id);
        }
    }
}

impl Task {
    fn kind(&self) -> &'static str {
        *lock(&self.kind)
    }

    fn record(&self) -> TaskRecord {
        let waits = lock(&self.waits);
        let mut waits: Vec<_> = waits.iter().map(ToString::to_string).collect();
        if self.held.load(Ordering::Relaxed) {
            waits.push("its next poll, which is withheld".to_owned());
        }
        if waits.is_empty() {
            waits.push("a wake".to_owned());
        }
        TaskRecord {
            id: self.id,
            kind: self.kind(),
            waits_for: waits.join(", or "),
        }
    }
}

/// Returns a type's name without its parameters and its path.
fn short(name: &'static str) -> &'static str {
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::")
        .find(|part| *part != "{{closure}}")
        .unwrap_or(name)
}

/// Returns the role of a pool's task in the user's terms, and the short type name of any other task.
fn plain(name: &'static str) -> &'static str {
    let Some(name_in_core) = name.strip_prefix("acceptor_core::") else {
        return short(name);
    };
    if name_in_core.starts_with("pool::init_task::") {
        "init"
    } else if !name_in_core.starts_with("pool::child_task::") {
        "the pool"
    } else if name_in_core.contains("pool::child_task::Serve<") {
        "serve"
    } else {
        "terminate"
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut state = lock(&shared.state);
        let gone = self.position.load(Ordering::Relaxed) == GONE;
        if gone || self.queued.swap(true, Ordering::Relaxed) {
            return;
        }
        if shared.firing.load(Ordering::Relaxed) {
            state.tally(self.kind()).timers += 1;
        }
        if self.held.load(Ordering::Relaxed) {
            return;
        }
        if let Some(delay) = state
            .injection
            .as_ref()
            .and_then(|injection| injection.delays())
        {
            self.delayed.store(true, Ordering::Relaxed);
            let at = shared.elapsed.load(Ordering::Relaxed).saturating_add(delay);
            state.timers_ever += 1;
            let timer = (at, state.timers_ever);
            let late = Waker::from(Arc::new(Late(Arc::clone(self))));
            state.timers.insert(timer, late);
            return;
        }
        state.ready.push(Arc::clone(self));
        if state.waiting {
            drop(state);
            shared.stirred.notify_all();
        }
    }
}

/// A delayed wake of a task.
struct Late(Arc<Task>);

impl Wake for Late {
    fn wake(self: Arc<Self>) {
        let task = &self.0;
        let Some(shared) = task.shared.upgrade() else {
            return;
        };
        let mut state = lock(&shared.state);
        task.delayed.store(false, Ordering::Relaxed);
        let gone = task.position.load(Ordering::Relaxed) == GONE;
        if !gone && !task.held.load(Ordering::Relaxed) {
            state.ready.push(Arc::clone(task));
        }
    }
}

/// A runtime of a [`Simulation`].
#[derive(Debug, Clone)]
pub struct SimulatedRuntime {
    simulation: Simulation,
    number: u64,
}

impl SimulatedRuntime {
    /// Returns its driver.
    pub fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    /// Returns its number, counted up from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Spawns a task of this kind. If the runtime has ended, drops the task and returns `None`.
    pub(super) fn spawn_as(
        &self,
        kind: &'static str,
        future: BoxFuture<'static, ()>,
    ) -> Option<SimulatedTask> {
        let shared = &self.simulation.shared;
        let mut state = lock(&shared.state);
        if state.closed || state.ended.contains(&self.number) {
            drop(state);
            if drop_catching(future).is_some() {
                lock(&shared.state).panics += 1;
            }
            return None;
        }
        state.tasks_ever += 1;
        state.statistics.tasks += 1;
        let tally = state.tally(kind);
        tally.spawned += 1;
        tally.live += 1;
        let id = SimulatedTask {
            number: state.tasks_ever,
            runtime: self.number,
        };
        let task = Arc::new(Task {
            id,
            kind: Mutex::new(kind),
            shared: Arc::downgrade(shared),
            future: Mutex::new(Some(future)),
            waits: Mutex::default(),
            queued: AtomicBool::new(true),
            held: AtomicBool::new(false),
            delayed: AtomicBool::new(false),
            position: AtomicUsize::new(state.live.len()),
        });
        state.live.push(Arc::clone(&task));
        state.ready.push(task);
        if state.waiting {
            drop(state);
            shared.stirred.notify_all();
        }
        Some(id)
    }
}

impl Runtime for SimulatedRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        fn name<T>(_task: &T) -> &'static str {
            std::any::type_name::<T>()
        }

        let name = name(&task);
        let is_explored = lock(&self.simulation.shared.state).injection.is_some();
        let kind = if is_explored {
            plain(name)
        } else {
            short(name)
        };
        self.spawn_as(kind, Box::pin(task));
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        Sleep {
            simulation: self.simulation.clone(),
            deadline: self.simulation.shared.offset(deadline),
            timer: None,
        }
    }

    fn now(&self) -> Instant {
        self.simulation.now()
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.simulation.shared, &other.simulation.shared)
            && self.number == other.number
    }
}

/// Waits for a deadline.
struct Sleep {
    simulation: Simulation,
    deadline: u64,
    /// The number of its timer, if one was set.
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.simulation.shared);
        let waker = cx.waker().clone();
        let mut state = lock(&shared.state);
        if shared.elapsed.load(Ordering::Relaxed) >= self.deadline {
            return Poll::Ready(());
        }
        let timer = *self.timer.get_or_insert_with(|| {
            state.timers_ever += 1;
            state.timers_ever
        });
        let replaced = state.timers.insert((self.deadline, timer), waker);
        if let Some(task) = &state.current {
            lock(&task.waits).push(Wait::Timer(self.deadline));
        }
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let mut state = lock(&self.simulation.shared.state);
            let waker = state.timers.remove(&(self.deadline, timer));
            drop(state);
            drop(waker);
        }
    }
}
