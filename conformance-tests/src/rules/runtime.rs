//! The runtime alone, without a pool: rules T1 to T17. A failure here is caused by the adapter or its runtime.
//!
//! Timeouts use the clock of a separate thread, because the runtime's clock is being checked too.

use std::cell::Cell;
use std::fmt::{self, Debug, Display};
use std::future::{Future, poll_fn};
use std::num::NonZero;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{Listener, Runtime};
use futures::channel::oneshot;
use futures::future::{Either, join_all, select};

use crate::boxed::Boxed;
use crate::patience::Patience;
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::{World, run_in};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Waits until there are this many entries.
async fn entries<T: Send + 'static>(
    patience: Patience,
    what: &str,
    record: &Record<T>,
    count: usize,
) -> Verdict {
    let enough = record.when(|entries| (entries.len() >= count).then_some(()));
    let waited = patience.wait_outside(what, enough).await;
    waited.map_err(|mut broken| {
        broken.seen = format!("{}, {} of {count}", broken.seen, record.count());
        broken
    })
}

/// Runs code on a thread that is unknown to the runtime.
pub(super) async fn elsewhere<T: Send + 'static>(
    patience: Patience,
    code: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Broken> {
    let what = "a call from another thread returns";
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || sender.send(code()));
    let done = patience.wait_outside(what, receiver).await?;
    done.map_err(|_| Broken::new(what, "it panicked"))
}

/// Yields once to the other tasks.
async fn turn() {
    let mut turn = Turn::Awaited;
    poll_fn(|cx| match std::mem::replace(&mut turn, Turn::Over) {
        Turn::Over => Poll::Ready(()),
        Turn::Awaited => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

enum Turn {
    Awaited,
    Over,
}

/// A waker that records its calls.
struct Woken(Record<()>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.push(());
    }
}

/// Polls once, with a waker that records its calls.
pub(super) fn poll_once<F: Future + ?Sized>(
    future: Pin<&mut F>,
    woken: &Record<()>,
) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Woken(woken.clone())));
    future.poll(&mut Context::from_waker(&waker))
}

/// How a task ended, from its own point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// It was dropped before it completed, so waiting for it is pointless.
    Dropped,
}

/// Held by a task, and records how the task ends.
struct EndRecorder(Option<Record<Ended>>);

impl EndRecorder {
    fn new() -> (Self, Record<Ended>) {
        let ended = Record::default();
        (Self(Some(ended.clone())), ended)
    }

    fn done(mut self) {
        if let Some(ended) = self.0.take() {
            ended.push(Ended::Done);
        }
    }
}

impl Drop for EndRecorder {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            ended.push(Ended::Dropped);
        }
    }
}

/// Waits until a task has ended, and expects that it completed.
async fn done(patience: Patience, what: &str, ended: &Record<Ended>) -> Verdict {
    let first = ended.first(|ended| Some(*ended));
    same(what, Ended::Done, patience.wait_outside(what, first).await?)
}

/// Waits for a task that is spawned now, after which every task that was ready before has been polled.
async fn another_task(patience: Patience, runtime: &impl Runtime) -> Verdict {
    let (end_recorder, ended) = EndRecorder::new();
    runtime.spawn(async move {
        let end_recorder = end_recorder;
        turn().await;
        end_recorder.done();
    });
    done(patience, "another task completes", &ended).await
}

thread_local! {
    static SPAWNING: Cell<bool> = const { Cell::new(false) };
}

pub(super) async fn t1_spawn_does_not_poll(world: Arc<Boxed>) -> Verdict {
    fn spawn(runtime: &impl Runtime, seen: &Record<bool>) {
        let seen = seen.clone();
        SPAWNING.set(true);
        runtime.spawn(async move { seen.push(SPAWNING.get()) });
        SPAWNING.set(false);
    }

    let (patience, runtime) = (world.patience(), world.runtime());
    let seen = Record::default();
    spawn(&runtime, &seen);
    let (spawning, seeing) = (runtime.clone(), seen.clone());
    runtime.spawn(async move { spawn(&spawning, &seeing) });
    let (spawning, seeing) = (runtime.clone(), seen.clone());
    let at_rest = move || {
        thread::sleep(20 * MILLISECOND);
        spawn(&spawning, &seeing);
    };
    elsewhere(patience, at_rest).await?;
    let polled = entries(patience, "the tasks are polled", &seen, 3).await;
    polled.map_err(|broken| broken.check(RESTS))?;
    let inline = seen.look(|seen| seen.iter().filter(|inline| **inline).count());
    let check = "does `spawn` poll the future itself? It may only pass it to the executor";
    same("tasks that were polled within `spawn`", 0, inline).map_err(|broken| broken.check(check))
}

const RESTS: &str =
    "does `spawn` wake an idle thread? Queueing the task is not enough, whichever thread spawns it";

/// A task that was left behind and continues on request.
struct LeftBehind {
    by: &'static str,
    go: oneshot::Sender<()>,
    ended: Record<Ended>,
}

impl LeftBehind {
    /// Spawns the task through one value; it sleeps through the other, so it does not hold the first.
    fn spawn<R: Runtime>(by: &'static str, runtime: &R, other: &R) -> Self {
        let (go, gone) = oneshot::channel();
        let (end_recorder, ended) = EndRecorder::new();
        let sleeping = other.clone();
        runtime.spawn(async move {
            let end_recorder = end_recorder;
            let _ = gone.await;
            sleeping.sleep_until(sleeping.now() + MILLISECOND).await;
            turn().await;
            end_recorder.done();
        });
        Self { by, go, ended }
    }

    async fn finishes(self, patience: Patience) -> Verdict {
        let what = format!(
            "a task completes although {} that spawned it is gone",
            self.by
        );
        let _ = self.go.send(());
        let done = done(patience, &what, &self.ended).await;
        done.map_err(|broken| broken.check(DETACHED))
    }
}

/// Uses two runs, because what the first leaves behind has to continue in the second.
pub(super) fn t2_task_is_detached(world: &Arc<Boxed>) -> Verdict {
    let fixture = Arc::clone(world);
    let by_a_run = run_in(world, async move {
        let (patience, other) = (fixture.patience(), fixture.runtime());
        let mut left = Vec::new();

        let value = fixture.runtime();
        left.push(LeftBehind::spawn("the value", &value, &other));
        drop(value);

        let (spawning, sleeping) = (other.clone(), other.clone());
        let (sender, receiver) = oneshot::channel();
        let over = Record::default();
        let spawner = Counted(over.clone());
        other.spawn(async move {
            let _spawner = spawner;
            let _ = sender.send(LeftBehind::spawn("the task", &spawning, &sleeping));
        });
        entries(patience, "a task that spawns another completes", &over, 1).await?;
        let by_a_task = patience
            .wait_outside("a task spawns another", receiver)
            .await?;
        let dropped = |_| Broken::new("a task spawns another", "it was dropped").check(DETACHED);
        left.push(by_a_task.map_err(dropped)?);

        let (spawning, sleeping) = (other.clone(), other.clone());
        let spawn = move || LeftBehind::spawn("the thread", &spawning, &sleeping);
        let by_a_thread = elsewhere(patience, || thread::spawn(spawn).join()).await?;
        let panicked = |_| Broken::new("`spawn` is called from a thread", "it panicked");
        left.push(by_a_thread.map_err(panicked)?);

        let another = another_task(patience, &other).await;
        another.map_err(|broken| broken.check(DETACHED))?;
        for task in left {
            task.finishes(patience).await?;
        }
        Ok::<_, Broken>(LeftBehind::spawn("the run", &other, &fixture.runtime()))
    })?;
    run_in(world, by_a_run.finishes(world.patience()))
}

const DETACHED: &str = "is the task cancelled when its handle is dropped? `spawn` has to detach it (async-task: `detach()`). Does dropping a runtime value, or the end of a run, cancel tasks?";

pub(super) async fn t3_panic_ends_one_task(world: Arc<Boxed>) -> Verdict {
    const PANICS: usize = 8;
    let (patience, runtime) = (world.patience(), world.runtime());
    let (go, gone) = oneshot::channel::<()>();
    let (end_recorder, unharmed) = EndRecorder::new();
    runtime.spawn(async move {
        let end_recorder = end_recorder;
        if gone.await.is_ok() {
            end_recorder.done();
        }
    });
    let panicked = Record::default();
    for number in 0..PANICS {
        let telling = Counted(panicked.clone());
        runtime.spawn(async move {
            let _telling = telling;
            if number % 2 == 0 {
                turn().await;
            }
            panic!("scripted");
        });
    }
    let check = "does a panic unwind through the executor's loop, or end its thread? It has to be caught around each poll";
    let all = entries(patience, "the tasks that panic end", &panicked, PANICS).await;
    all.map_err(|broken| broken.check(check))?;
    let _ = go.send(());
    let after = async {
        done(
            patience,
            "a task spawned before the panics completes",
            &unharmed,
        )
        .await?;
        another_task(patience, &runtime).await?;
        let sleep = runtime.sleep_until(runtime.now() + MILLISECOND);
        patience
            .wait_outside("a sleep after the panics completes", sleep)
            .await
    };
    after.await.map_err(|broken| broken.check(check))
}

/// Records its drop.
struct Counted(Record<()>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.push(());
    }
}

/// The source of a wake.
#[derive(Debug, Clone, Copy)]
enum WokenBy {
    /// The task itself, during its poll.
    Itself,
    /// A thread, during the task's poll.
    ThreadDuringPoll,
    /// A thread, this long after the task's poll.
    ThreadAfter(Duration),
}

/// Spawns a task that is pending once, wakes it, and waits for its second poll.
async fn woken_by(patience: Patience, runtime: &impl Runtime, by: WokenBy) -> Verdict {
    let polled = Record::default();
    let telling = polled.clone();
    let mut polls = 0;
    runtime.spawn(poll_fn(move |cx| {
        polls += 1;
        telling.push(());
        if polls == 2 {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        match by {
            WokenBy::Itself => waker.wake(),
            WokenBy::ThreadDuringPoll => {
                let _ = thread::spawn(move || waker.wake()).join();
            }
            WokenBy::ThreadAfter(time) => {
                thread::spawn(move || {
                    // A wake that arrives when the task has been pending for a while.
                    thread::sleep(time);
                    waker.wake();
                });
            }
        }
        Poll::Pending
    }));
    let what = format!("a task that was woken by {by:?} is polled again");
    entries(patience, &what, &polled, 2).await
}

pub(super) async fn t4_wake_during_a_poll_is_kept(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    for by in [WokenBy::Itself, WokenBy::ThreadDuringPoll].repeat(20) {
        let woken = woken_by(patience, &runtime, by).await;
        woken.map_err(|broken| {
            broken.check("is the flag that a task was woken cleared after the poll? It has to be cleared before the poll")
        })?;
    }
    Ok(())
}

pub(super) async fn t5_wake_from_another_thread(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    // During the poll, just after it, and when the runtime has long been idle.
    let moments = (0..40).map(|step| Duration::from_micros(step * 10));
    let at_rest = [5 * MILLISECOND, 20 * MILLISECOND];
    for time in moments.chain(at_rest) {
        let woken = woken_by(patience, &runtime, WokenBy::ThreadAfter(time)).await;
        woken.map_err(|broken| {
            broken.check(
                "does a wake from a foreign thread wake the thread that runs the tasks, or only queue the task?",
            )
        })?;
    }
    Ok(())
}

const PAST: &str = "a sleep until a time in the past completes at once";
const FAR_AWAY: &str =
    "is a deadline in the past mistaken for one far away, or never checked again?";

const TIMER: &str = "does the timer round down, or wake early? A sleep must not complete before its deadline by the clock of `now`";

pub(super) async fn t6_sleep_is_never_early(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    let micros = [
        1, 300, 700, 999, 1_000, 1_001, 1_500, 1_999, 2_999, 10_700, 49_900,
    ];
    for _ in 0..5 {
        let sleeps = micros.map(|micros| {
            let runtime = runtime.clone();
            async move {
                let length = Duration::from_micros(micros);
                let deadline = runtime.now() + length;
                runtime.sleep_until(deadline).await;
                (length, deadline, runtime.now())
            }
        });
        let slept = patience
            .wait_outside("the sleeps complete", join_all(sleeps))
            .await;
        for (length, deadline, now) in slept.map_err(|broken| broken.check(ONE_CLOCK))? {
            not_early(&format!("a sleep of {length:?}"), deadline, now)?;
        }
    }
    let now = runtime.now();
    let pasts = [Duration::ZERO, Duration::from_secs(1), HOUR, 1_000 * HOUR];
    for past in pasts.map(|ago| now.checked_sub(ago)) {
        let alone = runtime.sleep_until(past.unwrap_or(now));
        let done = patience.wait_outside(PAST, alone).await;
        done.map_err(|broken| broken.check(FAR_AWAY))?;
        let past = pin!(runtime.sleep_until(past.unwrap_or(now)));
        // Only the clock is reliable: two sleeps need not complete in the order of their deadlines.
        let long = patience.length() / 2;
        let later = pin!(runtime.sleep_until(now + long));
        // If both are due, the first one wins.
        let first = patience
            .wait_outside("one of two sleeps completes", select(past, later))
            .await?;
        if let Either::Right(_) = first {
            let seen = format!("a sleep of {long:?} completes first");
            return Err(Broken::new(PAST, seen).check(FAR_AWAY));
        }
    }
    Ok(())
}

fn not_early(what: &str, deadline: Instant, now: Instant) -> Verdict {
    let early = deadline.saturating_duration_since(now);
    if early.is_zero() {
        return Ok(());
    }
    let expected = format!("{what} completes when `now` has reached its deadline");
    Err(Broken::new(expected, format!("it completes {early:?} before")).check(TIMER))
}

pub(super) async fn t7_dropped_sleep_is_harmless(world: Arc<Boxed>) -> Verdict {
    const EACH: usize = 40;
    let (patience, runtime) = (world.patience(), world.runtime());
    // Sleeps of an hour are dropped in any case.
    for dropped in [10 * MILLISECOND, HOUR] {
        let start = runtime.now();
        let sleeps = |length| -> Vec<_> {
            (0..EACH)
                .map(|_| Box::pin(runtime.sleep_until(start + length)))
                .collect()
        };
        let mut go = sleeps(dropped);
        // Half of them already wait.
        for sleep in go.iter_mut().step_by(2) {
            let _ = poll_once(sleep.as_mut(), &Record::default());
        }
        let mut stay = pin!(join_all(sleeps(10 * MILLISECOND)));
        let mut go = Some(go);
        let stay = poll_fn(|cx| {
            let polled = stay.as_mut().poll(cx);
            // Now the remaining ones wait too.
            drop(go.take());
            polled
        });
        let what = format!("sleeps of 10 ms, beside dropped ones of {dropped:?}, complete");
        let done = patience.wait_outside(&what, stay).await;
        done.map_err(|broken| {
            broken.check("does dropping a sleep remove another one of the same deadline? Or does the timer wait for the dropped one?")
        })?;
        not_early(&what, start + 10 * MILLISECOND, runtime.now())?;
    }
    Ok(())
}

const ONE_CLOCK: &str = "is `now` the clock of the timer, wherever it is called? Override it if the clock is paused or scaled";

pub(super) async fn t8_now_and_sleep_share_a_clock(world: Arc<Boxed>) -> Verdict {
    async fn sleep(runtime: &impl Runtime, started: Instant) -> (Instant, Instant) {
        let deadline = started + 10 * MILLISECOND;
        runtime.sleep_until(deadline).await;
        (deadline, runtime.now())
    }

    let (patience, runtime) = (world.patience(), world.runtime());
    // A reading elsewhere lies between two readings here, however slow the machine.
    let before = runtime.now();
    let (sender, receiver) = oneshot::channel();
    let asked = runtime.clone();
    runtime.spawn(async move {
        let _ = sender.send(asked.now());
    });
    let in_a_task = patience
        .wait_outside("a task reads the clock", receiver)
        .await?;
    let dropped = |_| Broken::new("a task reads the clock", "it was dropped, or panicked");
    let in_a_task = in_a_task.map_err(dropped)?;
    let between = runtime.now();
    let asked = runtime.clone();
    let on_a_thread = elsewhere(patience, move || asked.now()).await?;
    let after = runtime.now();
    for (place, from, reading, to) in [
        ("in a task", before, in_a_task, between),
        ("on another thread", between, on_a_thread, after),
    ] {
        let off = if reading < from {
            Some(format!("it is {:?} before the first", from - reading))
        } else if reading > to {
            Some(format!("it is {:?} after the second", reading - to))
        } else {
            None
        };
        if let Some(off) = off {
            let expected = format!("`now` {place} lies between two readings of the test");
            return Err(Broken::new(expected, off).check(ONE_CLOCK));
        }
    }

    let slept = sleep(&runtime, runtime.now());
    let from_here = patience.wait_outside("a sleep of the test completes", slept);
    let from_here = from_here.await;
    let (sender, receiver) = oneshot::channel();
    let sleeping = runtime.clone();
    runtime.spawn(async move {
        let _ = sender.send(sleep(&sleeping, sleeping.now()).await);
    });
    let what = "a sleep of a task completes";
    let from_task = patience.wait_outside(what, receiver).await;
    let from_task = from_task.and_then(|result| {
        result.map_err(|_| Broken::new(what, "the task was dropped, or panicked"))
    });
    let slept = sleep(&runtime, on_a_thread);
    let from_thread = patience.wait_outside(
        "a sleep until a deadline read on another thread completes",
        slept,
    );
    for slept in [from_here, from_task, from_thread.await] {
        let (deadline, now) = slept.map_err(|broken| broken.check(ONE_CLOCK))?;
        if now < deadline {
            let expected = "when a sleep completes, `now` has reached its deadline";
            let seen = format!("`now` is {:?} before it", deadline - now);
            return Err(Broken::new(expected, seen).check(ONE_CLOCK));
        }
    }
    Ok(())
}

pub(super) async fn t9_now_never_goes_backwards(world: Arc<Boxed>) -> Verdict {
    const ASKING: usize = 4;
    /// Reads the clock while no other task does, and returns how far it went back.
    fn ask(runtime: &impl Runtime, last: &Mutex<Instant>) -> Duration {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = runtime.now();
        let back = last.saturating_duration_since(now);
        *last = now;
        back
    }

    let (patience, runtime) = (world.patience(), world.runtime());
    let last = Arc::new(Mutex::new(runtime.now()));
    let back = Record::default();
    for _ in 0..ASKING {
        let (asked, known, telling) = (runtime.clone(), Arc::clone(&last), back.clone());
        runtime.spawn(async move {
            let mut most = Duration::ZERO;
            for _ in 0..100 {
                most = most.max(ask(&asked, &known));
                turn().await;
            }
            telling.push(most);
        });
        let (asked, known, telling) = (runtime.clone(), Arc::clone(&last), back.clone());
        thread::spawn(move || {
            let most = (0..100).map(|_| ask(&asked, &known)).max();
            telling.push(most.unwrap_or_default());
        });
    }
    entries(patience, "all tasks have read the clock", &back, 2 * ASKING).await?;
    let most = back.all().into_iter().max().unwrap_or_default();
    same("how far `now` went back", Duration::ZERO, most)
        .map_err(|broken| broken.check("does each thread keep its own `now`?"))
}

thread_local! {
    /// The index of the always-ready task that this thread polled last.
    static POLLED_LAST: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Spawns tasks that are always ready until `over` is set: more than the runtime has threads.
fn always_ready(runtime: &impl Runtime, over: &Arc<AtomicBool>) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    for _ in 0..(2 * threads).max(64) {
        let over = Arc::clone(over);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        runtime.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                turn().await;
                // The task has a thread to itself: the system schedules it, which is not what is checked.
                if POLLED_LAST.replace(Some(number)) == Some(number) {
                    thread::yield_now();
                }
            }
        });
    }
}

pub(super) async fn t10_every_task_is_polled(world: Arc<Boxed>) -> Verdict {
    const MANY: usize = 300;
    const TURN: &str = "does a task that becomes ready go to the end of the queue? It must not be polled again at once, nor before tasks that are already ready";
    const BETWEEN: &str =
        "are the timer and the sockets polled while tasks are ready, or only when none is?";
    let (patience, runtime) = (world.patience(), world.runtime());
    let bound = world.listen();
    let (listener, address) =
        bound.map_err(|error| Broken::new("a listener is bound", error.to_string()))?;
    let over = Arc::new(AtomicBool::new(false));
    // Before the other tasks and after them, so that some have priority whatever the runtime prefers.
    always_ready(&runtime, &over);
    let done = Record::default();
    for _ in 0..MANY {
        let done = done.clone();
        runtime.spawn(async move {
            for _ in 0..10 {
                turn().await;
            }
            done.push(());
        });
    }
    let slept = Record::default();
    let (sleeping, telling) = (runtime.clone(), slept.clone());
    runtime.spawn(async move {
        sleeping.sleep_until(sleeping.now() + 2 * MILLISECOND).await;
        telling.push(());
    });
    let accepted = Record::default();
    let telling = accepted.clone();
    runtime.spawn(async move {
        let _accepted = listener.accept().await;
        telling.push(());
    });
    always_ready(&runtime, &over);
    let others = async {
        let what = "each of many tasks completes beside some that are always ready";
        let done = entries(patience, what, &done, MANY).await;
        done.map_err(|broken| broken.check(TURN))?;
        let what = "a task that sleeps completes beside some that are always ready";
        let slept = entries(patience, what, &slept, 1).await;
        slept.map_err(|broken| broken.check(BETWEEN))?;
        let connecting = world.connect(address);
        let connected = patience
            .wait_outside("a client connects", connecting)
            .await?;
        let _client =
            connected.map_err(|error| Broken::new("a client connects", error.to_string()))?;
        let what = "a task that accepts completes beside some that are always ready";
        let accepted = entries(patience, what, &accepted, 1).await;
        accepted.map_err(|broken| broken.check(BETWEEN))
    };
    // Counting polls of the ready tasks would prove nothing: they may have a thread to themselves while the others'
    // thread is suspended.
    let others = others.await;
    over.store(true, Ordering::SeqCst);
    others
}

pub(super) async fn t11_spawn_works_from_anywhere(world: Arc<Boxed>) -> Verdict {
    fn spawn(runtime: &impl Runtime, end_recorder: EndRecorder) {
        let sleeping = runtime.clone();
        runtime.spawn(async move {
            let end_recorder = end_recorder;
            sleeping.sleep_until(sleeping.now()).await;
            end_recorder.done();
        });
    }

    let (patience, runtime) = (world.patience(), world.runtime());
    for place in [SpawnSite::Here, SpawnSite::Task, SpawnSite::Thread] {
        // Right after the previous task, and when the runtime is idle.
        for rest in [Duration::ZERO, 20 * MILLISECOND] {
            elsewhere(patience, move || thread::sleep(rest)).await?;
            let (end_recorder, ended) = EndRecorder::new();
            let spawning = runtime.clone();
            match place {
                SpawnSite::Here => spawn(&runtime, end_recorder),
                SpawnSite::Task => runtime.spawn(async move { spawn(&spawning, end_recorder) }),
                SpawnSite::Thread => {
                    elsewhere(patience, move || spawn(&spawning, end_recorder)).await?
                }
            }
            let what = format!("a task that is spawned from {place} runs");
            let done = done(patience, &what, &ended).await;
            done.map_err(|broken| {
                broken.check("does `spawn` depend on the calling thread? It has to depend on the runtime value. Does it wake an idle thread?")
            })?;
        }
    }
    Ok(())
}

/// Where `spawn` is called.
#[derive(Debug, Clone, Copy)]
enum SpawnSite {
    Here,
    Task,
    Thread,
}

impl Display for SpawnSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpawnSite::Here => "the test",
            SpawnSite::Task => "a task",
            SpawnSite::Thread => "another thread",
        })
    }
}

/// Records its polls and its drop, and passes its waker to the test.
struct Observed {
    polls: Record<()>,
    waker: Arc<Mutex<Option<Waker>>>,
    ends: Ends,
    _dropped: Counted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Well,
    InAPanic,
}

impl Future for Observed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
        self.polls.push(());
        match self.ends {
            Ends::Well => Poll::Ready(()),
            Ends::InAPanic => panic!("scripted"),
        }
    }
}

pub(super) async fn t12_future_is_dropped_once(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    for ends in [Ends::Well, Ends::InAPanic] {
        let (polls, drops) = (Record::default(), Record::default());
        let waker = Arc::default();
        runtime.spawn(Observed {
            polls: polls.clone(),
            waker: Arc::clone(&waker),
            ends,
            _dropped: Counted(drops.clone()),
        });
        let what = format!(
            "the future of a task that ended ({ends:?}) is dropped although its waker is kept"
        );
        let dropped = entries(patience, &what, &drops, 1).await;
        dropped.map_err(|broken| {
            broken.check(
                "does the future live as long as its wakers? It has to be dropped as soon as it completes",
            )
        })?;
        let late = waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(late) = late {
            late.wake_by_ref();
            late.wake();
        }
        // A queued task would have been polled by now (or, on another thread, later and unseen).
        another_task(patience, &runtime).await?;
        let seen = (polls.count(), drops.count());
        same(
            &format!("polls and drops of a task that ended ({ends:?}) and is woken late"),
            (1, 1),
            seen,
        )
        .map_err(|broken| broken.check("does a late wake queue a completed task again?"))?;
    }
    Ok(())
}

/// Returns lengths that overflow a too-small integer to a short or negative remainder.
fn beyond_numbers() -> impl Iterator<Item = (String, Duration)> {
    let units = [
        ("ns", 1),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000_u128),
    ];
    let bits = [31, 32, 63, 64];
    units.into_iter().flat_map(move |(name, nanos)| {
        bits.into_iter().filter_map(move |bits| {
            let nanos = nanos << bits;
            let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
            let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
            // Some time passes before a sleep is created.
            let length = Duration::new(seconds, rest) + 10 * MILLISECOND;
            Some((format!("2^{bits} {name} and 10 ms"), length))
        })
    })
}

pub(super) async fn t13_distant_deadline_is_awaited(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    let years = [1, 30, 1_000, 1_000_000_000];
    let year = Duration::from_secs(365 * 24 * 3600);
    let years = years.map(|years| (format!("{years} years"), year * years));
    let mut waits = Vec::new();
    for (length, long) in years.into_iter().chain(beyond_numbers()) {
        let (sender, receiver) = oneshot::channel();
        let sleeping = runtime.clone();
        runtime.spawn(async move {
            // The deadline may be unrepresentable.
            let Some(deadline) = sleeping.now().checked_add(long) else {
                let _ = sender.send(false);
                return;
            };
            let sleep = pin!(sleeping.sleep_until(deadline));
            let soon = pin!(sleeping.sleep_until(sleeping.now() + 20 * MILLISECOND));
            let first = select(sleep, soon).await;
            // The shortest of them lasts some seconds.
            let early = matches!(first, Either::Left(_)) && sleeping.now() < deadline;
            let _ = sender.send(early);
        });
        waits.push((format!("a sleep of {length} lasts"), receiver));
    }
    for (what, receiver) in waits {
        let soon = patience.wait_outside("a sleep of 20 ms completes", receiver);
        let early = soon.await.map_err(|broken| broken.check(INTERRUPTS))?;
        let check = "does the timer overflow or truncate the deadline? It may wait for a distant deadline in steps";
        match early {
            Ok(false) => {}
            Ok(true) => return Err(Broken::new(what, "it completes at once").check(check)),
            Err(_) => return Err(Broken::new(what, "the task panicked").check(check)),
        }
    }
    Ok(())
}

const INTERRUPTS: &str =
    "does the timer thread wait for a later sleep without being interrupted by an earlier one?";

pub(super) async fn t14_sleep_wakes_the_last_poller(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    let mut length = 20 * MILLISECOND;
    // Until the machine is fast enough to poll a sleep twice. A sleep that is never pending breaks rule T6.
    while length < patience.out_of_reach() {
        let (before, last) = (Record::default(), Record::default());
        let mut sleep = Box::pin(runtime.sleep_until(runtime.now() + length));
        match last_woken(patience, "a sleep", sleep.as_mut(), &before, &last).await? {
            Polled::Twice => break,
            Polled::TooLate => length *= 2,
        }
    }
    Ok(())
}

/// When a sleep is polled before it is awaited, in quarters of its length.
struct SleepCase {
    how: &'static str,
    quarters: &'static [u32],
    check: &'static str,
}

const SLEEP_CASES: [SleepCase; 3] = [
    SleepCase {
        how: "that is awaited at once",
        quarters: &[],
        check: "does `now` run faster than the clock of the timer?",
    },
    SleepCase {
        how: "that is polled again and again",
        quarters: &[0, 1, 2, 3],
        check: "does each poll restart the sleep? A sleep completes at its deadline, however often it is polled",
    },
    SleepCase {
        how: "that is first polled after half of its length",
        quarters: &[2],
        check: "is the length counted from the first poll? A sleep completes at its deadline, whenever it is polled",
    },
];

impl SleepCase {
    /// Returns how long after its deadline a sleep of this length completes.
    async fn late(
        &self,
        patience: Patience,
        runtime: &impl Runtime,
        length: Duration,
    ) -> Result<Duration, Broken> {
        let start = runtime.now();
        let deadline = start + length;
        let mut sleep = Box::pin(runtime.sleep_until(deadline));
        let mut polled = Poll::Pending;
        for quarter in self.quarters {
            if *quarter > 0 {
                let until = runtime.sleep_until(start + length * *quarter / 4);
                patience.wait_outside("a sleep completes", until).await?;
            }
            if polled.is_pending() {
                polled = poll_once(sleep.as_mut(), &Record::default());
            }
        }
        let what = format!("a sleep of {length:?} {}", self.how);
        if polled.is_pending() {
            let end = format!("{what} completes");
            let done = patience.wait_outside(&end, sleep).await;
            done.map_err(|broken| broken.check(self.check))?;
        }
        let now = runtime.now();
        not_early(&what, deadline, now)?;
        Ok(now.saturating_duration_since(deadline))
    }

    /// Tries longer and longer sleeps until one completes less than half of its length late. A slow machine delays a
    /// long sleep as much as a short one, so one of them passes; it fails only if the delay grows with the length.
    async fn ends(&self, patience: Patience, runtime: &impl Runtime) -> Verdict {
        let mut length = 20 * MILLISECOND;
        loop {
            let late = self.late(patience, runtime, length).await?;
            if late < length / 2 {
                return Ok(());
            }
            if length > patience.length() / 4 {
                let expected = format!(
                    "a sleep of {length:?} {} completes at its deadline",
                    self.how
                );
                let seen =
                    format!("it completes {late:?} after it, and each shorter one is late too");
                return Err(Broken::new(expected, seen).check(self.check));
            }
            length *= 2;
        }
    }
}

pub(super) async fn t15_sleep_completes_at_its_deadline(world: Arc<Boxed>) -> Verdict {
    const MORE: &str =
        "is the capacity of the timer limited, for example to a wheel that turns once a second?";
    let (patience, runtime) = (world.patience(), world.runtime());
    let slept = Record::default();
    let more_than_a_second = [1_001, 1_200].map(Duration::from_millis);
    for length in more_than_a_second {
        let (sleeping, telling) = (runtime.clone(), slept.clone());
        runtime.spawn(async move {
            let deadline = sleeping.now() + length;
            sleeping.sleep_until(deadline).await;
            telling.push((length, deadline, sleeping.now()));
        });
    }
    for handled in SLEEP_CASES {
        handled.ends(patience, &runtime).await?;
    }
    let what = "sleeps of more than a second complete";
    let done = entries(patience, what, &slept, more_than_a_second.len()).await;
    done.map_err(|broken| broken.check(MORE))?;
    for (length, deadline, now) in slept.all() {
        let early = not_early(&format!("a sleep of {length:?}"), deadline, now);
        early.map_err(|broken| broken.check(MORE))?;
    }
    Ok(())
}

pub(super) async fn t16_sleep_beside_a_later_one_completes(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    let mut later = pin!(runtime.sleep_until(runtime.now() + patience.out_of_reach()));
    let pending = poll_once(later.as_mut(), &Record::default()).is_pending();
    same("a sleep of more than an hour waits", true, pending)?;
    // At once, and when the timer has long been idle.
    for rest in [0, 1, 5, 20] {
        elsewhere(patience, move || thread::sleep(rest * MILLISECOND)).await?;
        let (sleeping, slept) = (runtime.clone(), Record::default());
        let telling = slept.clone();
        runtime.spawn(async move {
            sleeping.sleep_until(sleeping.now() + 2 * MILLISECOND).await;
            telling.push(());
        });
        let what = "a sleep of 2 ms completes beside one of an hour that already waits";
        let done = entries(patience, what, &slept, 1).await;
        done.map_err(|broken| broken.check(INTERRUPTS))?;
    }
    Ok(())
}

/// Counts how tasks end, and signals when all have ended.
#[derive(Default)]
struct Count {
    ended: AtomicUsize,
    dropped: AtomicUsize,
    all: Record<()>,
}

/// Held by one of many tasks.
struct OneOf {
    many: usize,
    count: Arc<Count>,
    ended: Ended,
}

impl OneOf {
    fn done(mut self) {
        self.ended = Ended::Done;
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        if self.ended == Ended::Dropped {
            self.count.dropped.fetch_add(1, Ordering::SeqCst);
        }
        if self.count.ended.fetch_add(1, Ordering::SeqCst) + 1 == self.many {
            self.count.all.push(());
        }
    }
}

pub(super) async fn t17_many_tasks_spawned_at_once_run(world: Arc<Boxed>) -> Verdict {
    const MANY: usize = 12_000;
    const ROOM: &str = "is the queue of tasks bounded? A task that does not fit must not be dropped, and `spawn` must not block";
    fn spawn(runtime: &impl Runtime, count: &Arc<Count>) {
        for _ in 0..MANY / 2 {
            let one = OneOf {
                many: MANY,
                count: Arc::clone(count),
                ended: Ended::Dropped,
            };
            runtime.spawn(async move {
                turn().await;
                one.done();
            });
        }
    }

    let (patience, runtime) = (world.patience(), world.runtime());
    let count = Arc::<Count>::default();
    // Also from a task, which on a single thread keeps the others from being polled.
    let (spawning, counting) = (runtime.clone(), Arc::clone(&count));
    runtime.spawn(async move { spawn(&spawning, &counting) });
    spawn(&runtime, &count);
    let what = format!("{MANY} tasks that are spawned at once end");
    let all = entries(patience, &what, &count.all, 1).await;
    all.map_err(|mut broken| {
        broken.seen = format!("{} do", count.ended.load(Ordering::SeqCst));
        broken.check(ROOM)
    })?;
    let dropped = count.dropped.load(Ordering::SeqCst);
    let what = format!("tasks dropped before they complete, of {MANY} spawned at once");
    same(&what, 0, dropped).map_err(|broken| broken.check(ROOM))
}

/// Whether a future was pending in each of two polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    Twice,
    /// It had already completed, so it had no task to wake.
    TooLate,
}

/// Polls with one waker, then with another, which has to be the one that is woken.
pub(super) async fn last_woken<F: Future + ?Sized>(
    patience: Patience,
    what: &str,
    mut future: Pin<&mut F>,
    before: &Record<()>,
    last: &Record<()>,
) -> Result<Polled, Broken>
where
    F::Output: Debug,
{
    let pending = poll_once(future.as_mut(), before).is_pending();
    if !pending || poll_once(future, last).is_ready() {
        return Ok(Polled::TooLate);
    }
    let what = format!("{what} wakes the task that polled it last");
    let woken = entries(patience, &what, last, 1).await;
    woken.map_err(|broken| {
        broken.check("is the waker of the first poll kept? Each poll may have a different one")
    })?;
    Ok(Polled::Twice)
}
