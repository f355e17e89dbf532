//! Runtimes with flaws.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::Runtime;
use futures::FutureExt;
use futures::future::{BoxFuture, select};

use super::Flaw;
use conformance_tests::Record;
use conformance_tests::tamper::Tamper;

/// The flaw of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeFlaw {
    /// A task is polled inside `spawn`.
    PollsInline,
    /// The handle dropped by `spawn` cancels the task after one poll.
    CancelsWithHandle,
    /// Dropping the runtime value drops the tasks that it spawned.
    EndsWithValue,
    /// The end of a run drops the tasks spawned in it, as in a runtime that shuts down with its main task.
    EndsWithRun,
    /// A wake during the task's poll is lost.
    LosesWakes,
    /// After a panic in one task no other task is polled.
    StopsAfterPanic,
    /// A panic in one task ends all existing tasks.
    PanicsEndAll,
    /// A wake from a thread outside the runtime is lost, unless the task is being polled.
    IgnoresForeignWakes,
    /// A task that is spawned by a task is dropped.
    DropsTasksOfTasks,
    /// The future of a task lives as long as its wakers.
    KeepsWithWaker,
    /// A task that wakes itself is polled again at once: the others starve.
    Starves,
    /// The last of the ready tasks is polled first.
    LastReadyFirst,
    /// A task that wakes itself is polled again at once, by one of four threads.
    StarvesOnFourThreads,
    /// Sleeps are checked only when no task is ready.
    SleepsWhenIdle,
    /// A task that does not fit in the queue is dropped.
    DropsOverflow,
    /// A panic in a task ends the thread that polls it.
    PanicsEndThreads,
    /// Spawning a task does not wake an idle thread.
    SpawnDoesNotWake,
    /// Spawning a task on a thread outside the runtime does not wake an idle thread.
    ForeignSpawnDoesNotWake,
    /// A sleep is rounded down to 50 ms, which shows even on a slow machine.
    RoundsDown,
    /// A deadline far in the past is never reached.
    PastIsNeverReached,
    /// A deadline more than ten years away is treated as one in the past.
    TruncatesFarDeadlines,
    /// Dropping a pending sleep drops all others with the same deadline.
    DropsTakeOthers,
    /// A sleep wakes no task: it completes only when it is polled again.
    SleepsDoNotWake,
    /// A sleep until a time in the past completes when it is polled again, without a wake.
    PastSleepsDoNotWake,
    /// The length of a sleep is counted from its first poll.
    CountsFromFirstPoll,
    /// Each poll of a sleep restarts it.
    RestartsAtEachPoll,
    /// The length of a sleep is truncated to 32 bits of milliseconds.
    Milliseconds32,
    /// The length of a sleep is truncated to 64 bits of nanoseconds.
    Nanoseconds64,
    /// A sleep of more than a second completes after a second.
    OneSecondAtMost,
    /// A sleep of more than a second never completes.
    LongSleepsNeverEnd,
    /// An earlier sleep does not interrupt the timer thread's wait.
    TimerIsNotInterrupted,
    /// A sleep wakes the task that polled it first.
    WakesFirstPoller,
    /// The clock is an hour ahead of the timer's.
    ClockAhead,
    /// The clock is an hour behind the timer's.
    ClockBehind,
    /// The clock is an hour ahead inside tasks.
    ClockAheadInTasks,
    /// The clock stands still.
    ClockStopped,
    /// Every other reading of the clock is 5 ms old.
    ClockGoesBackwards,
    /// The clock runs twice as fast as the timer's.
    ClockFast,
    /// The clock runs half as fast as the timer's.
    ClockSlow,
    /// The clock advances every 20 ms.
    ClockTicks,
}

/// A runtime with a flaw.
pub struct WrongRuntime<R> {
    runtime: R,
    flaw: Flaw,
    shared: Arc<Shared>,
    /// Distinguishes this value from its clones.
    number: usize,
}

/// The event that drops tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Value(usize),
    Run(usize),
}

struct Shared {
    values: AtomicUsize,
    runs: AtomicUsize,
    gone: Record<Gone>,
    spawned: AtomicUsize,
    ended: AtomicUsize,
    panicked: AtomicBool,
    asked: AtomicUsize,
    dropped: Mutex<HashSet<Instant>>,
    began: Instant,
    workers: OnceLock<Arc<Workers>>,
    timer: OnceLock<Arc<Timer>>,
}

/// A deadline older than this was already in the past when the sleep was made.
const LONG_PAST: Duration = Duration::from_millis(500);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl<R: Runtime> WrongRuntime<R> {
    pub(super) fn new(runtime: R, flaw: Flaw) -> Self {
        let shared = Shared {
            values: AtomicUsize::new(1),
            runs: AtomicUsize::new(0),
            gone: Record::default(),
            spawned: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            dropped: Mutex::default(),
            began: runtime.now(),
            workers: OnceLock::new(),
            timer: OnceLock::new(),
        };
        Self {
            runtime,
            flaw,
            shared: Arc::new(shared),
            number: 0,
        }
    }

    /// Returns the same runtime without a flaw.
    pub(super) fn sound(&self) -> Self {
        let mut sound = self.clone();
        sound.flaw = Flaw::Pool(Arc::default());
        sound
    }

    /// Marks a run of the world as ended.
    pub(super) fn run_is_over(&self) {
        let run = self.shared.runs.fetch_add(1, Ordering::SeqCst);
        self.shared.gone.push(Gone::Run(run));
    }

    /// Spawns a task that is dropped with the value or the run.
    fn spawn_with(&self, with: Gone, task: BoxFuture<'static, ()>) {
        let gone = self.shared.gone.clone();
        self.runtime.spawn(async move {
            let gone = pin!(gone.first(|gone| (*gone == with).then_some(())));
            select(gone, task).await;
        });
    }

    pub(super) fn tamper(&self) -> Option<Arc<Tamper>> {
        match &self.flaw {
            Flaw::Pool(tamper) => Some(Arc::clone(tamper)),
            Flaw::Runtime(_) | Flaw::Listener(_) | Flaw::Stream(_) => None,
        }
    }

    fn flaw(&self) -> Option<RuntimeFlaw> {
        match self.flaw {
            Flaw::Runtime(flaw) => Some(flaw),
            Flaw::Listener(_) | Flaw::Stream(_) | Flaw::Pool(_) => None,
        }
    }

    /// Polls a task, and marks a panic for all others.
    fn poll_or_die(&self, task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.panicked.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        catch_unwind(AssertUnwindSafe(|| task.poll_unpin(cx))).unwrap_or_else(|panic| {
            self.shared.panicked.store(true, Ordering::SeqCst);
            resume_unwind(panic)
        })
    }

    /// Polls a task, unless another has panicked since it was spawned.
    fn poll_or_end(
        &self,
        number: usize,
        task: &mut BoxFuture<'static, ()>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if number <= self.shared.ended.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        let polled = catch_unwind(AssertUnwindSafe(|| task.poll_unpin(cx)));
        polled.unwrap_or_else(|_| {
            let spawned = self.shared.spawned.load(Ordering::SeqCst);
            self.shared.ended.fetch_max(spawned, Ordering::SeqCst);
            Poll::Ready(())
        })
    }
}

impl<R: Clone> Clone for WrongRuntime<R> {
    fn clone(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            flaw: self.flaw.clone(),
            shared: Arc::clone(&self.shared),
            number: self.shared.values.fetch_add(1, Ordering::SeqCst),
        }
    }
}

impl<R> Drop for WrongRuntime<R> {
    fn drop(&mut self) {
        if matches!(self.flaw, Flaw::Runtime(RuntimeFlaw::EndsWithValue)) {
            self.shared.gone.push(Gone::Value(self.number));
        }
    }
}

impl<R> fmt::Debug for WrongRuntime<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrongRuntime")
            .field("flaw", &self.flaw)
            .finish_non_exhaustive()
    }
}

/// Ignores wakes during its task's poll.
struct IgnoresDuringPoll {
    waker: Waker,
    polling: AtomicBool,
}

impl Wake for IgnoresDuringPoll {
    fn wake(self: Arc<Self>) {
        if !self.polling.load(Ordering::SeqCst) {
            self.waker.wake_by_ref();
        }
    }
}

thread_local! {
    /// Whether this thread has ever polled a task.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is polling a task.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Accepts wakes from the runtime's own threads, and from others only during its task's poll.
struct IgnoresForeign {
    waker: Waker,
    polling: AtomicBool,
}

impl Wake for IgnoresForeign {
    fn wake(self: Arc<Self>) {
        if IS_WORKER.get() || self.polling.load(Ordering::SeqCst) {
            self.waker.wake_by_ref();
        }
    }
}

fn poll_on_worker(task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
    IS_WORKER.set(true);
    let shy = Arc::new(IgnoresForeign {
        waker: cx.waker().clone(),
        polling: AtomicBool::new(true),
    });
    let polled = task.poll_unpin(&mut Context::from_waker(&Waker::from(Arc::clone(&shy))));
    shy.polling.store(false, Ordering::SeqCst);
    polled
}

fn poll_inside(task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
    IN_TASK.set(true);
    let polled = catch_unwind(AssertUnwindSafe(|| task.poll_unpin(cx)));
    IN_TASK.set(false);
    polled.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Keeps a task's future alive for its wakers.
struct Keeps {
    _task: Arc<Mutex<BoxFuture<'static, ()>>>,
    waker: Waker,
}

impl Wake for Keeps {
    fn wake(self: Arc<Self>) {
        self.waker.wake_by_ref();
    }
}

fn poll_kept(kept: &Arc<Mutex<BoxFuture<'static, ()>>>, cx: &mut Context<'_>) -> Poll<()> {
    let waker = Waker::from(Arc::new(Keeps {
        _task: Arc::clone(kept),
        waker: cx.waker().clone(),
    }));
    let mut task = kept.lock().unwrap_or_else(PoisonError::into_inner);
    task.poll_unpin(&mut Context::from_waker(&waker))
}

/// When a pending sleep is dropped, marks the others with its deadline as dropped.
struct TakesOthers<'a> {
    dropped: &'a Mutex<HashSet<Instant>>,
    deadline: Option<Instant>,
}

impl TakesOthers<'_> {
    fn dropped(&self) -> MutexGuard<'_, HashSet<Instant>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TakesOthers<'_> {
    fn drop(&mut self) {
        if let Some(deadline) = self.deadline {
            self.dropped().insert(deadline);
        }
    }
}

/// Polls with the waker of the first poll.
pub(super) async fn woken_first<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut first = None;
    poll_fn(|cx| {
        let waker = first.get_or_insert_with(|| cx.waker().clone());
        future.as_mut().poll(&mut Context::from_waker(waker))
    })
    .await
}

/// Records that it was called.
struct Called(AtomicBool, Waker);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        self.1.wake_by_ref();
    }
}

fn poll_ignoring_wakes(task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
    let deaf = Arc::new(IgnoresDuringPoll {
        waker: cx.waker().clone(),
        polling: AtomicBool::new(true),
    });
    let polled = task.poll_unpin(&mut Context::from_waker(&Waker::from(Arc::clone(&deaf))));
    deaf.polling.store(false, Ordering::SeqCst);
    polled
}

fn poll_greedily(task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let called = Arc::new(Called(AtomicBool::new(false), cx.waker().clone()));
        let waker = Waker::from(Arc::clone(&called));
        let polled = task.poll_unpin(&mut Context::from_waker(&waker));
        if polled.is_ready() || !called.0.load(Ordering::SeqCst) {
            return polled;
        }
    }
}

/// The number of worker threads.
const WORKERS: usize = 4;

/// The capacity of the bounded queue.
const ROOM: usize = 512;

/// The world's own worker threads. They go idle when the world is dropped.
struct Workers {
    flaw: RuntimeFlaw,
    ready: Mutex<VecDeque<Arc<Work>>>,
    more: Condvar,
    /// The number of idle threads, changed under the lock of `ready`.
    resting: AtomicUsize,
    /// Sleepers that no other timer wakes.
    sleepers: Mutex<Vec<Waker>>,
}

/// A task of the worker threads.
struct Work {
    workers: Arc<Workers>,
    queued: AtomicBool,
    /// Whether a thread is polling it and continues if it was woken meanwhile.
    greedy: AtomicBool,
    again: AtomicBool,
    task: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Wake for Work {
    fn wake(self: Arc<Self>) {
        if self.greedy.load(Ordering::SeqCst) {
            self.again.store(true, Ordering::SeqCst);
            return;
        }
        if self.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let workers = Arc::clone(&self.workers);
        workers.push(self);
        workers.more.notify_one();
    }
}

impl Workers {
    fn begin(flaw: RuntimeFlaw) -> Arc<Self> {
        let workers = Arc::new(Self {
            flaw,
            ready: Mutex::default(),
            more: Condvar::new(),
            resting: AtomicUsize::new(0),
            sleepers: Mutex::default(),
        });
        for _ in 0..WORKERS {
            let working = Arc::clone(&workers);
            thread::spawn(move || {
                IS_WORKER.set(true);
                loop {
                    working.work();
                }
            });
        }
        // Waits until all threads are idle, so that a missing wake shows.
        while workers.resting_now() < WORKERS {
            thread::yield_now();
        }
        workers
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Arc<Work>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resting_now(&self) -> usize {
        let _unchanged = self.ready();
        self.resting.load(Ordering::SeqCst)
    }

    fn sleepers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the deadline has passed and no task is ready.
    async fn sleep_until(&self, deadline: Instant) {
        poll_fn(|cx| {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.sleepers().push(cx.waker().clone());
            // A thread that checks the sleepers holds the lock until it waits.
            drop(self.ready());
            self.more.notify_one();
            Poll::Pending
        })
        .await;
    }

    /// Queues a task, or returns it if the queue is full.
    fn push(&self, work: Arc<Work>) -> Option<Arc<Work>> {
        let mut ready = self.ready();
        if self.flaw == RuntimeFlaw::DropsOverflow && ready.len() >= ROOM {
            return Some(work);
        }
        ready.push_back(work);
        None
    }

    fn spawn(self: &Arc<Self>, task: BoxFuture<'static, ()>) {
        let refused = self.push(Arc::new(Work {
            workers: Arc::clone(self),
            queued: AtomicBool::new(true),
            greedy: AtomicBool::new(false),
            again: AtomicBool::new(false),
            task: Mutex::new(Some(task)),
        }));
        drop(refused);
        match self.flaw {
            RuntimeFlaw::SpawnDoesNotWake => {}
            RuntimeFlaw::ForeignSpawnDoesNotWake if !IS_WORKER.get() => {}
            _ => self.more.notify_one(),
        }
    }

    /// Polls one task once one is ready.
    fn work(&self) {
        let mut ready = self.ready();
        let work = loop {
            let next = match self.flaw {
                RuntimeFlaw::LastReadyFirst => ready.pop_back(),
                _ => ready.pop_front(),
            };
            match next {
                Some(work) => break work,
                None if !self.sleepers().is_empty() => {
                    let (guard, waited) = self
                        .more
                        .wait_timeout(ready, Duration::from_millis(1))
                        .unwrap_or_else(PoisonError::into_inner);
                    drop(guard);
                    if waited.timed_out() {
                        let sleepers = std::mem::take(&mut *self.sleepers());
                        sleepers.into_iter().for_each(Waker::wake);
                    }
                    ready = self.ready();
                }
                None => {
                    self.resting.fetch_add(1, Ordering::SeqCst);
                    let waited = self.more.wait(ready);
                    ready = waited.unwrap_or_else(PoisonError::into_inner);
                    self.resting.fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        drop(ready);
        work.queued.store(false, Ordering::SeqCst);
        let mut kept = work.task.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut task) = kept.take() else { return };
        let waker = Waker::from(Arc::clone(&work));
        let mut cx = Context::from_waker(&waker);
        if self.flaw == RuntimeFlaw::PanicsEndThreads {
            if task.poll_unpin(&mut cx).is_pending() {
                *kept = Some(task);
            }
            return;
        }
        let greedy = self.flaw == RuntimeFlaw::StarvesOnFourThreads;
        work.greedy.store(greedy, Ordering::SeqCst);
        loop {
            let polled = catch_unwind(AssertUnwindSafe(|| task.poll_unpin(&mut cx)));
            if polled.unwrap_or(Poll::Ready(())).is_ready() {
                return;
            }
            if work.again.swap(false, Ordering::SeqCst) {
                continue;
            }
            work.greedy.store(false, Ordering::SeqCst);
            // It may have been woken just before.
            if !work.again.swap(false, Ordering::SeqCst) {
                break;
            }
            work.greedy.store(greedy, Ordering::SeqCst);
        }
        *kept = Some(task);
    }
}

/// A timer thread that is not interrupted while it waits.
#[derive(Default)]
struct Timer {
    sleepers: Mutex<BTreeMap<(Instant, usize), Waker>>,
    first: Condvar,
    ever: AtomicUsize,
}

impl Timer {
    fn begin() -> Arc<Self> {
        let timer = Arc::new(Self::default());
        let keeping = Arc::clone(&timer);
        thread::spawn(move || {
            loop {
                keeping.keep();
            }
        });
        timer
    }

    fn sleepers(&self) -> MutexGuard<'_, BTreeMap<(Instant, usize), Waker>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self) {
        let sleepers = self.sleepers();
        let Some((&place, _)) = sleepers.first_key_value() else {
            drop(self.first.wait(sleepers));
            return;
        };
        drop(sleepers);
        thread::sleep(place.0.saturating_duration_since(Instant::now()));
        let waker = self.sleepers().remove(&place);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn sleep_until(&self, deadline: Instant) {
        let number = self.ever.fetch_add(1, Ordering::SeqCst);
        poll_fn(|cx| {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            let before = self.sleepers().insert((deadline, number), waker);
            drop(before);
            self.first.notify_one();
            Poll::Pending
        })
        .await;
    }
}

impl<R: Runtime> WrongRuntime<R> {
    fn workers(&self, flaw: RuntimeFlaw) -> &Arc<Workers> {
        self.shared.workers.get_or_init(|| Workers::begin(flaw))
    }

    /// A sleep that restarts at each poll before it completes.
    async fn sleep_again_and_again(&self, length: Duration) {
        let begin = || Box::pin(self.runtime.sleep_until(self.runtime.now() + length));
        let mut sleep = begin();
        poll_fn(|cx| {
            if sleep
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
            {
                return Poll::Ready(());
            }
            sleep = begin();
            sleep.as_mut().poll(cx)
        })
        .await;
    }
}

/// Returns when a sleep with a truncated length completes.
fn cut(flaw: Option<RuntimeFlaw>, now: Instant, deadline: Instant) -> Instant {
    let length = deadline.saturating_duration_since(now);
    let length = match flaw {
        Some(RuntimeFlaw::Milliseconds32) => {
            let whole = (length.as_millis() & u128::from(u32::MAX)) as u64;
            let rest = length.subsec_nanos() % 1_000_000;
            Duration::from_millis(whole) + Duration::from_nanos(rest.into())
        }
        Some(RuntimeFlaw::Nanoseconds64) => {
            Duration::from_nanos((length.as_nanos() & u128::from(u64::MAX)) as u64)
        }
        Some(RuntimeFlaw::OneSecondAtMost) => length.min(Duration::from_secs(1)),
        _ => return deadline,
    };
    now + length
}

impl<R: Runtime> Runtime for WrongRuntime<R> {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(flaw) = self.flaw() else {
            return self.runtime.spawn(task);
        };
        let mut task: BoxFuture<'static, ()> = Box::pin(task);
        let wrong = self.clone();
        match flaw {
            RuntimeFlaw::PollsInline => {
                let polled = task.poll_unpin(&mut Context::from_waker(Waker::noop()));
                if polled.is_pending() {
                    self.runtime.spawn(task);
                }
            }
            RuntimeFlaw::CancelsWithHandle => self.runtime.spawn(async move {
                let _ = poll_fn(|cx| Poll::Ready(task.poll_unpin(cx))).await;
            }),
            RuntimeFlaw::EndsWithValue => self.spawn_with(Gone::Value(self.number), task),
            RuntimeFlaw::EndsWithRun => {
                let run = self.shared.runs.load(Ordering::SeqCst);
                self.spawn_with(Gone::Run(run), task);
            }
            RuntimeFlaw::LosesWakes => {
                self.runtime
                    .spawn(poll_fn(move |cx| poll_ignoring_wakes(&mut task, cx)));
            }
            RuntimeFlaw::StopsAfterPanic => {
                self.runtime
                    .spawn(poll_fn(move |cx| wrong.poll_or_die(&mut task, cx)));
            }
            RuntimeFlaw::PanicsEndAll => {
                let number = self.shared.spawned.fetch_add(1, Ordering::SeqCst) + 1;
                self.runtime
                    .spawn(poll_fn(move |cx| wrong.poll_or_end(number, &mut task, cx)));
            }
            RuntimeFlaw::IgnoresForeignWakes => {
                self.runtime
                    .spawn(poll_fn(move |cx| poll_on_worker(&mut task, cx)));
            }
            RuntimeFlaw::ClockAheadInTasks => {
                self.runtime
                    .spawn(poll_fn(move |cx| poll_inside(&mut task, cx)));
            }
            RuntimeFlaw::DropsTasksOfTasks => {
                if !IN_TASK.get() {
                    self.runtime
                        .spawn(poll_fn(move |cx| poll_inside(&mut task, cx)));
                }
            }
            RuntimeFlaw::KeepsWithWaker => {
                let kept = Arc::new(Mutex::new(task));
                self.runtime.spawn(poll_fn(move |cx| poll_kept(&kept, cx)));
            }
            RuntimeFlaw::Starves => {
                self.runtime
                    .spawn(poll_fn(move |cx| poll_greedily(&mut task, cx)));
            }
            RuntimeFlaw::LastReadyFirst
            | RuntimeFlaw::StarvesOnFourThreads
            | RuntimeFlaw::SleepsWhenIdle
            | RuntimeFlaw::DropsOverflow
            | RuntimeFlaw::PanicsEndThreads
            | RuntimeFlaw::SpawnDoesNotWake
            | RuntimeFlaw::ForeignSpawnDoesNotWake => {
                self.workers(flaw).spawn(task);
            }
            _ => self.runtime.spawn(task),
        }
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        let made = self.runtime.now();
        self.sleep_made(made, deadline)
    }

    fn now(&self) -> Instant {
        let now = self.runtime.now();
        let since = now.saturating_duration_since(self.shared.began);
        match self.flaw() {
            Some(RuntimeFlaw::ClockFast) => now + since,
            Some(RuntimeFlaw::ClockSlow) => self.shared.began + since / 2,
            Some(RuntimeFlaw::ClockTicks) => {
                let ticks = since.as_millis() / 20;
                self.shared.began + Duration::from_millis(20) * ticks as u32
            }
            Some(RuntimeFlaw::ClockAhead) => now + HOUR,
            Some(RuntimeFlaw::ClockBehind) => now.checked_sub(HOUR).unwrap_or(self.shared.began),
            Some(RuntimeFlaw::ClockAheadInTasks) if IN_TASK.get() => now + HOUR,
            Some(RuntimeFlaw::ClockStopped) => self.shared.began,
            Some(RuntimeFlaw::ClockGoesBackwards) => {
                let old = self.shared.asked.fetch_add(1, Ordering::SeqCst) % 2 == 1;
                let back = if old { 5 } else { 0 };
                now.checked_sub(Duration::from_millis(back)).unwrap_or(now)
            }
            _ => now,
        }
    }
}

impl<R: Runtime> WrongRuntime<R> {
    /// Sleeps from the time at which the sleep was made; called at its first poll.
    async fn sleep_made(&self, made: Instant, deadline: Instant) {
        let length = deadline.saturating_duration_since(made);
        let now = self.runtime.now();
        let deadline = match self.flaw() {
            Some(RuntimeFlaw::RoundsDown) => {
                let whole = deadline.saturating_duration_since(now).as_millis() / 50 * 50;
                now + Duration::from_millis(u64::try_from(whole).unwrap_or(u64::MAX))
            }
            Some(RuntimeFlaw::PastIsNeverReached) if now.duration_since(deadline) > LONG_PAST => {
                pending().await
            }
            Some(RuntimeFlaw::TruncatesFarDeadlines) if deadline - now > 10 * YEAR => now,
            Some(RuntimeFlaw::LongSleepsNeverEnd) if length > Duration::from_secs(1) => {
                pending().await
            }
            Some(RuntimeFlaw::CountsFromFirstPoll) => now + length,
            flaw => cut(flaw, now, deadline),
        };
        let sleep = self.runtime.sleep_until(deadline);
        match self.flaw() {
            Some(RuntimeFlaw::SleepsDoNotWake) => {
                let mut sleep = pin!(sleep);
                poll_fn(|_| sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()))).await;
            }
            Some(RuntimeFlaw::WakesFirstPoller) => woken_first(sleep).await,
            Some(RuntimeFlaw::PastSleepsDoNotWake) if deadline <= now => {
                let mut past = Poll::Pending;
                poll_fn(|_| std::mem::replace(&mut past, Poll::Ready(()))).await;
            }
            Some(RuntimeFlaw::RestartsAtEachPoll) => self.sleep_again_and_again(length).await,
            Some(flaw @ RuntimeFlaw::SleepsWhenIdle) => {
                self.workers(flaw).sleep_until(deadline).await;
            }
            Some(RuntimeFlaw::TimerIsNotInterrupted) => {
                let timer = self.shared.timer.get_or_init(Timer::begin);
                timer.sleep_until(deadline).await;
            }
            Some(RuntimeFlaw::DropsTakeOthers) => {
                let mut takes = TakesOthers {
                    dropped: &self.shared.dropped,
                    deadline: Some(deadline),
                };
                sleep.await;
                takes.deadline = None;
                if takes.dropped().contains(&deadline) {
                    pending::<()>().await;
                }
            }
            _ => sleep.await,
        }
    }
}
