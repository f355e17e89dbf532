//! Rules about the runtime alone, without a pool: a failure here is the adapter's, or its runtime's.
//!
//! They give up by the clock of a thread of their own, for the runtime's is in question too.

use std::cell::Cell;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::Runtime;
use futures::channel::oneshot;
use futures::future::{Either, join_all, select};

use crate::boxed::Boxed;
use crate::patience::Patience;
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::{World, play};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Waits until there are so many entries.
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

/// Runs code on a thread that the runtime does not know.
pub(super) async fn elsewhere<T: Send + 'static>(
    patience: Patience,
    code: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Broken> {
    let what = "a call from another thread returns";
    let (tell, told) = oneshot::channel();
    thread::spawn(move || tell.send(code()));
    let done = patience.wait_outside(what, told).await?;
    done.map_err(|_| Broken::new(what, "it panicked"))
}

/// Lets the other tasks run.
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

/// A waker that records its wakes.
struct Woken(Record<()>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.push(());
    }
}

/// Polls once, with a waker that records its wakes.
pub(super) fn poll_once<F: Future + ?Sized>(
    future: Pin<&mut F>,
    woken: &Record<()>,
) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Woken(woken.clone())));
    future.poll(&mut Context::from_waker(&waker))
}

/// How a task ended, as it saw it itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// It was dropped before it was done: it need not be waited for.
    Dropped,
}

/// Is kept by a task, and records how that ends.
struct Fate(Option<Record<Ended>>);

impl Fate {
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

impl Drop for Fate {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            ended.push(Ended::Dropped);
        }
    }
}

/// Waits until a task has ended, and expects that it was done.
async fn done(patience: Patience, what: &str, ended: &Record<Ended>) -> Verdict {
    let first = ended.first(|ended| Some(*ended));
    same(what, Ended::Done, patience.wait_outside(what, first).await?)
}

/// Waits until a task that is spawned now is done: all that comes of what was done before has had its turn.
async fn another_task(patience: Patience, runtime: &impl Runtime) -> Verdict {
    let (fate, ended) = Fate::new();
    runtime.spawn(async move {
        let fate = fate;
        turn().await;
        fate.done();
    });
    done(patience, "another task is done", &ended).await
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
    elsewhere(patience, move || spawn(&spawning, &seeing)).await?;
    entries(patience, "the tasks are polled", &seen, 3).await?;
    let inline = seen.look(|seen| seen.iter().filter(|inline| **inline).count());
    let check = "does `spawn` poll the future itself? It may only hand it to the executor";
    same("tasks that were polled within `spawn`", 0, inline).map_err(|broken| broken.check(check))
}

/// A task that was left behind, and goes on when it is told to.
struct Left {
    by: &'static str,
    go: oneshot::Sender<()>,
    ended: Record<Ended>,
}

impl Left {
    /// Spawns it by one value; it sleeps by another, so that it does not hold the one.
    fn spawn<R: Runtime>(by: &'static str, runtime: &R, other: &R) -> Self {
        let (go, gone) = oneshot::channel();
        let (fate, ended) = Fate::new();
        let sleeping = other.clone();
        runtime.spawn(async move {
            let fate = fate;
            let _ = gone.await;
            sleeping.sleep_until(sleeping.now() + MILLISECOND).await;
            turn().await;
            fate.done();
        });
        Self { by, go, ended }
    }

    async fn finishes(self, patience: Patience) -> Verdict {
        let what = format!("a task finishes though {} that spawned it is gone", self.by);
        let _ = self.go.send(());
        let done = done(patience, &what, &self.ended).await;
        done.map_err(|broken| broken.check(DETACHED))
    }
}

/// In two runs, for what is left behind by the first is to go on in the second.
pub(super) fn t2_a_task_is_detached(world: &Arc<Boxed>) -> Verdict {
    let stage = Arc::clone(world);
    let by_a_run = play(world, async move {
        let (patience, other) = (stage.patience(), stage.runtime());
        let mut left = Vec::new();

        let value = stage.runtime();
        left.push(Left::spawn("the value", &value, &other));
        drop(value);

        let (spawning, sleeping) = (other.clone(), other.clone());
        let (tell, told) = oneshot::channel();
        let over = Record::default();
        let spawner = Counted(over.clone());
        other.spawn(async move {
            let _spawner = spawner;
            let _ = tell.send(Left::spawn("the task", &spawning, &sleeping));
        });
        entries(patience, "a task that spawns another is over", &over, 1).await?;
        let by_a_task = patience.wait_outside("a task spawns another", told).await?;
        let dropped = |_| Broken::new("a task spawns another", "it was dropped").check(DETACHED);
        left.push(by_a_task.map_err(dropped)?);

        let (spawning, sleeping) = (other.clone(), other.clone());
        let spawn = move || Left::spawn("the thread", &spawning, &sleeping);
        let by_a_thread = elsewhere(patience, || thread::spawn(spawn).join()).await?;
        let panicked = |_| Broken::new("`spawn` is called from a thread", "it panicked");
        left.push(by_a_thread.map_err(panicked)?);

        let another = another_task(patience, &other).await;
        another.map_err(|broken| broken.check(DETACHED))?;
        for task in left {
            task.finishes(patience).await?;
        }
        Ok::<_, Broken>(Left::spawn("the run", &other, &stage.runtime()))
    })?;
    play(world, by_a_run.finishes(world.patience()))
}

const DETACHED: &str = "is the task cancelled when its handle is dropped? `spawn` has to detach it (async-task: `detach()`). Does a value, or the end of a run, take its tasks along?";

pub(super) async fn t3_a_panic_ends_its_own_task_only(world: Arc<Boxed>) -> Verdict {
    const PANICS: usize = 8;
    let (patience, runtime) = (world.patience(), world.runtime());
    let (go, gone) = oneshot::channel::<()>();
    let (fate, unharmed) = Fate::new();
    runtime.spawn(async move {
        let fate = fate;
        if gone.await.is_ok() {
            fate.done();
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
            panic!("as told");
        });
    }
    entries(patience, "the tasks that panic end", &panicked, PANICS).await?;
    let check = "does a panic unwind through the executor's loop, or end its thread?";
    let _ = go.send(());
    let after = async {
        done(
            patience,
            "a task from before the panics finishes",
            &unharmed,
        )
        .await?;
        another_task(patience, &runtime).await?;
        let sleep = runtime.sleep_until(runtime.now() + MILLISECOND);
        patience
            .wait_outside("a sleep after the panics is done", sleep)
            .await
    };
    after.await.map_err(|broken| broken.check(check))
}

/// Records that it is dropped.
struct Counted(Record<()>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.push(());
    }
}

/// Who wakes a task.
#[derive(Debug, Clone, Copy)]
enum By {
    /// Itself, while it is polled.
    Itself,
    /// A thread, while it is polled.
    AThreadMeanwhile,
    /// A thread, so long after the task was polled.
    AThreadAfter(Duration),
}

/// Spawns a task that is pending once and is to be woken, and waits for its second poll.
async fn woken_by(patience: Patience, runtime: &impl Runtime, by: By) -> Verdict {
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
            By::Itself => waker.wake(),
            By::AThreadMeanwhile => {
                let _ = thread::spawn(move || waker.wake()).join();
            }
            By::AThreadAfter(time) => {
                thread::spawn(move || {
                    // A wake that comes when the task has been pending for a while.
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

pub(super) async fn t4_a_wake_while_polled_is_not_lost(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    for by in [By::Itself, By::AThreadMeanwhile].repeat(20) {
        let woken = woken_by(patience, &runtime, by).await;
        woken.map_err(|broken| {
            broken.check("is the flag that a task was woken cleared after the poll? It has to be cleared before")
        })?;
    }
    Ok(())
}

pub(super) async fn t5_a_wake_from_another_thread_arrives(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    // While it is polled, just after, and when the runtime has long come to rest.
    let moments = (0..40).map(|step| Duration::from_micros(step * 10));
    let at_rest = [5 * MILLISECOND, 20 * MILLISECOND];
    for time in moments.chain(at_rest) {
        let woken = woken_by(patience, &runtime, By::AThreadAfter(time)).await;
        woken.map_err(|broken| {
            broken.check(
                "does a wake from a foreign thread wake the thread that runs the tasks, or only put the task in the queue?",
            )
        })?;
    }
    Ok(())
}

const TIMER: &str = "does the timer round down, or wake early? It must not be done before its deadline by the clock of `now`";

pub(super) async fn t6_a_sleep_is_never_early_and_at_once_for_the_past(
    world: Arc<Boxed>,
) -> Verdict {
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
            .wait_outside("the sleeps are done", join_all(sleeps))
            .await;
        for (length, deadline, now) in slept.map_err(|broken| broken.check(ONE_CLOCK))? {
            not_early(&format!("a sleep of {length:?}"), deadline, now)?;
        }
    }
    let now = runtime.now();
    for past in [Some(now), now.checked_sub(Duration::from_secs(1))] {
        let past = pin!(runtime.sleep_until(past.unwrap_or(now)));
        // Nothing but time tells: no two sleeps are bound to end in the order of their deadlines.
        let long = patience.length() / 2;
        let later = pin!(runtime.sleep_until(now + long));
        // Should both be due the first is told.
        let first = patience
            .wait_outside("one of two sleeps is done", select(past, later))
            .await?;
        if let Either::Right(_) = first {
            let expected = "a sleep until a time in the past is done at once";
            return Err(
                Broken::new(expected, format!("a sleep of {long:?} is done before"))
                    .check("is a deadline in the past taken for one far away?"),
            );
        }
    }
    Ok(())
}

fn not_early(what: &str, deadline: Instant, now: Instant) -> Verdict {
    let early = deadline.saturating_duration_since(now);
    if early.is_zero() {
        return Ok(());
    }
    let expected = format!("{what} is done when `now` has reached its deadline");
    Err(Broken::new(expected, format!("it is done {early:?} before")).check(TIMER))
}

pub(super) async fn t7_dropping_a_sleep_is_harmless(world: Arc<Boxed>) -> Verdict {
    const EACH: usize = 40;
    let (patience, runtime) = (world.patience(), world.runtime());
    // Those of an hour are dropped in any case.
    for dropped in [10 * MILLISECOND, Duration::from_secs(3600)] {
        let start = runtime.now();
        let sleeps = |length| -> Vec<_> {
            (0..EACH)
                .map(|_| Box::pin(runtime.sleep_until(start + length)))
                .collect()
        };
        let mut go = sleeps(dropped);
        // Half of them wait already.
        for sleep in go.iter_mut().step_by(2) {
            let _ = poll_once(sleep.as_mut(), &Record::default());
        }
        let mut stay = pin!(join_all(sleeps(10 * MILLISECOND)));
        let mut go = Some(go);
        let stay = poll_fn(|cx| {
            let polled = stay.as_mut().poll(cx);
            // Now those that stay wait as well.
            drop(go.take());
            polled
        });
        let what = format!("sleeps of 10 ms, beside dropped ones of {dropped:?}, are done");
        let done = patience.wait_outside(&what, stay).await;
        done.map_err(|broken| {
            broken.check("does dropping a sleep take away another, of the same deadline perhaps?")
        })?;
        not_early(&what, start + 10 * MILLISECOND, runtime.now())?;
    }
    Ok(())
}

const ONE_CLOCK: &str = "is `now` the clock that the timer goes by, wherever it is asked? With a paused or scaled clock override it";

pub(super) async fn t8_now_and_sleep_keep_one_clock(world: Arc<Boxed>) -> Verdict {
    async fn sleep(runtime: &impl Runtime, started: Instant) -> (Instant, Instant) {
        let deadline = started + 10 * MILLISECOND;
        runtime.sleep_until(deadline).await;
        (deadline, runtime.now())
    }

    let (patience, runtime) = (world.patience(), world.runtime());
    // What is told elsewhere lies between what is told here before and after, however slow the machine.
    let before = runtime.now();
    let (tell, told) = oneshot::channel();
    let asked = runtime.clone();
    runtime.spawn(async move {
        let _ = tell.send(asked.now());
    });
    let in_a_task = patience.wait_outside("a task asks the time", told).await?;
    let dropped = |_| Broken::new("a task asks the time", "it was dropped, or panicked");
    let in_a_task = in_a_task.map_err(dropped)?;
    let between = runtime.now();
    let asked = runtime.clone();
    let on_a_thread = elsewhere(patience, move || asked.now()).await?;
    let after = runtime.now();
    for (place, from, told, to) in [
        ("in a task", before, in_a_task, between),
        ("on another thread", between, on_a_thread, after),
    ] {
        let off = if told < from {
            Some(format!("it is {:?} before the first", from - told))
        } else if told > to {
            Some(format!("it is {:?} after the second", told - to))
        } else {
            None
        };
        if let Some(off) = off {
            let expected = format!("`now` {place} lies between two times that are told here");
            return Err(Broken::new(expected, off).check(ONE_CLOCK));
        }
    }

    let slept = sleep(&runtime, runtime.now());
    let from_here = patience.wait_outside("a sleep of the test is done", slept);
    let from_here = from_here.await;
    let (tell, told) = oneshot::channel();
    let sleeping = runtime.clone();
    runtime.spawn(async move {
        let _ = tell.send(sleep(&sleeping, sleeping.now()).await);
    });
    let what = "a sleep of a task is done";
    let from_task = patience.wait_outside(what, told).await;
    let from_task = from_task
        .and_then(|told| told.map_err(|_| Broken::new(what, "the task was dropped, or panicked")));
    let slept = sleep(&runtime, on_a_thread);
    let from_thread = patience.wait_outside("a sleep by the time of another thread is done", slept);
    for slept in [from_here, from_task, from_thread.await] {
        let (deadline, now) = slept.map_err(|broken| broken.check(ONE_CLOCK))?;
        if now < deadline {
            let expected = "when a sleep is done `now` has reached its deadline";
            let seen = format!("`now` is {:?} before it", deadline - now);
            return Err(Broken::new(expected, seen).check(ONE_CLOCK));
        }
    }
    Ok(())
}

pub(super) async fn t9_now_never_goes_backwards(world: Arc<Boxed>) -> Verdict {
    const ASKING: usize = 4;
    /// Asks the time, when nobody else does; how far it went back.
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
    entries(patience, "all have asked the time", &back, 2 * ASKING).await?;
    let most = back.all().into_iter().max().unwrap_or_default();
    same("how far `now` went back", Duration::ZERO, most)
        .map_err(|broken| broken.check("is `now` kept by each thread for itself?"))
}

pub(super) async fn t10_each_task_gets_its_turn(world: Arc<Boxed>) -> Verdict {
    const MANY: usize = 300;
    let (patience, runtime) = (world.patience(), world.runtime());
    let over = Arc::new(AtomicBool::new(false));
    // Two that are always ready, until all others are done.
    for _ in 0..2 {
        let over = Arc::clone(&over);
        runtime.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                turn().await;
            }
        });
    }
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
    let others = async {
        entries(
            patience,
            "many tasks, each, beside two that are always ready, are done",
            &done,
            MANY,
        )
        .await?;
        entries(
            patience,
            "a task that sleeps, beside two that are always ready, is done",
            &slept,
            1,
        )
        .await
    };
    // A count of the polls of those two would not tell: they may have a thread for themselves, and the others' stands still.
    let others = others.await;
    over.store(true, Ordering::SeqCst);
    others.map_err(|broken| {
        broken.check("does a task that wakes itself go to the end of the queue, and does the timer get a turn in between?")
    })
}

pub(super) async fn t11_spawn_works_from_anywhere(world: Arc<Boxed>) -> Verdict {
    fn spawn(runtime: &impl Runtime, fate: Fate) {
        let sleeping = runtime.clone();
        runtime.spawn(async move {
            let fate = fate;
            sleeping.sleep_until(sleeping.now()).await;
            fate.done();
        });
    }

    let (patience, runtime) = (world.patience(), world.runtime());
    let (from_here, here) = Fate::new();
    spawn(&runtime, from_here);
    let (from_a_task, in_a_task) = Fate::new();
    let spawning = runtime.clone();
    runtime.spawn(async move { spawn(&spawning, from_a_task) });
    let (from_a_thread, on_a_thread) = Fate::new();
    let spawning = runtime.clone();
    elsewhere(patience, move || spawn(&spawning, from_a_thread)).await?;
    for (place, ended) in [
        ("the test", here),
        ("a task", in_a_task),
        ("another thread", on_a_thread),
    ] {
        let what = format!("a task that is spawned from {place} runs");
        let done = done(patience, &what, &ended).await;
        done.map_err(|broken| {
            broken.check("does `spawn` go by the thread that calls it? It has to go by the value")
        })?;
    }
    Ok(())
}

/// Records its polls and its drop; keeps its waker for the test.
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
            Ends::InAPanic => panic!("as told"),
        }
    }
}

pub(super) async fn t12_a_future_is_dropped_with_its_end_once(world: Arc<Boxed>) -> Verdict {
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
            "the future of a task that ended ({ends:?}) is dropped, though its waker is kept"
        );
        let dropped = entries(patience, &what, &drops, 1).await;
        dropped.map_err(|broken| {
            broken.check(
                "does the future live as long as its wakers? It has to go as soon as it is done",
            )
        })?;
        let late = waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(late) = late {
            late.wake_by_ref();
            late.wake();
        }
        // Had it been put in the queue it would have had its turn by now; on another thread perhaps later, and unseen.
        another_task(patience, &runtime).await?;
        let seen = (polls.count(), drops.count());
        same(
            &format!("polls and drops of a task that ended ({ends:?}) and is woken late"),
            (1, 1),
            seen,
        )
        .map_err(|broken| {
            broken.check("is a task that is done put in the queue again by a late wake?")
        })?;
    }
    Ok(())
}

pub(super) async fn t13_a_deadline_far_away_is_waited_for(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    let year = Duration::from_secs(365 * 24 * 3600);
    for years in [1, 30, 1_000, 1_000_000_000] {
        let Some(deadline) = runtime.now().checked_add(year * years) else {
            continue;
        };
        let (tell, told) = oneshot::channel();
        let sleeping = runtime.clone();
        runtime.spawn(async move {
            let sleep = pin!(sleeping.sleep_until(deadline));
            let soon = pin!(sleeping.sleep_until(sleeping.now() + 2 * MILLISECOND));
            let _ = tell.send(matches!(select(sleep, soon).await, Either::Right(_)));
        });
        let what = format!("a sleep of {years} years is waited for");
        let waited = patience
            .wait_outside("a sleep of 2 ms is done", told)
            .await?;
        let check = "does the timer add to, or cut, the deadline? What is too far away may be waited for in pieces";
        match waited {
            Ok(true) => {}
            Ok(false) => return Err(Broken::new(what, "it is done at once").check(check)),
            Err(_) => return Err(Broken::new(what, "the task panicked").check(check)),
        }
    }
    Ok(())
}

pub(super) async fn t14_a_sleep_wakes_who_polled_it_last(world: Arc<Boxed>) -> Verdict {
    let (patience, runtime) = (world.patience(), world.runtime());
    let mut length = 20 * MILLISECOND;
    // Until the machine is quick enough to poll a sleep twice. One that is never pending breaks another rule (T6).
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

/// Whether a future was pending when each of two polled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    Twice,
    /// It was done by then, and had nobody to wake.
    TooLate,
}

/// Polls with one waker, then with another, which is the one to be woken.
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
    let what = format!("{what} wakes who polled it last");
    let woken = entries(patience, &what, last, 1).await;
    woken.map_err(|broken| {
        broken.check("is the waker of the first poll kept? Each poll may bring another")
    })?;
    Ok(Polled::Twice)
}
