//! The pool's own task: waits with the timer of the phases, and sleeps while there is none.
//!
//! Invariant: if the runtime drops this task the pool can keep no time, so it is
//! killed as a whole; nothing waits for a timer that will not come (S8): for
//! who does not suspend then a thread keeps the patience. A child
//! that the runtime dropped is started again from here, spaced by the timer
//! here: a runtime that drops whatever is spawned would not wait in the child.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::listener::Listener;
use crate::machine::child_end::ChildEnd;
use crate::pool::shared::{PoolShared, PoolStart, is_never};
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::stop_report::{Phase, StopReason};
use crate::sync::{catch_panic, wake};

/// Kills the pool when it is dropped with the task; does nothing for a pool that has stopped.
struct DriverGuard<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    /// To be started, and when.
    spaced: Vec<(Instant, PoolStart<L>)>,
}

impl<R: Runtime, L: Listener> DriverGuard<R, L> {
    /// Starts who is due, or told to end: that one must see it, not wait for its start.
    fn start(&mut self, now: Instant) {
        let (due, spaced): (Vec<_>, Vec<_>) = std::mem::take(&mut self.spaced)
            .into_iter()
            .partition(|(at, start)| {
                *at <= now || start.control.control().commands().end_waiting()
            });
        self.spaced = spaced;
        for (_, start) in due {
            self.shared.start(start);
        }
    }
}

impl<R: Runtime, L: Listener> Drop for DriverGuard<R, L> {
    fn drop(&mut self) {
        self.shared.kill(StopReason::RuntimeGone);
        // Nobody is left to start them. Each tells its end as it is dropped, and none is replaced.
        let later = self
            .shared
            .handle_event(|state, _| std::mem::take(&mut state.later));
        let spaced = self.spaced.drain(..).map(|(_, start)| start);
        for start in spaced.chain(later) {
            self.shared.ended(start.child, ChildEnd::Lost);
        }
        keep_patience(&self.shared);
    }
}

/// Ends a pool that has children left and no task of its own any more, when its patience ends (S8).
fn keep_patience<R: Runtime, L: Listener>(shared: &Arc<PoolShared<R, L>>) {
    let Some(deadline) = shared.read(|state| state.machine.deadline()) else {
        return;
    };
    let patience = deadline.saturating_duration_since(shared.time());
    let shared = Arc::clone(shared);
    let keep = move || {
        // Most are dropped by their runtime in the meantime, and this is over at once.
        if wait_on_this_thread(shared.done.wait(), patience) == ParkOutcome::TimedOut {
            shared.handle_event(|state, effects| state.machine.tick(deadline, effects));
        }
    };
    // Where there are no threads there is nobody else to run a child that does not suspend either.
    let name = "acceptor-pool".to_owned();
    let _ = catch_panic(|| thread::Builder::new().name(name).spawn(keep));
}

/// Whether what was waited for has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParkOutcome {
    Done,
    TimedOut,
}

struct Unparks(Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait_on_this_thread(future: impl Future<Output = ()>, patience: Duration) -> ParkOutcome {
    let began = Instant::now();
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let mut future = pin!(future);
    while future
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
        .is_pending()
    {
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            return ParkOutcome::TimedOut;
        }
        thread::park_timeout(left);
    }
    ParkOutcome::Done
}

pub(crate) fn run<R: Runtime, L: Listener>(
    shared: Arc<PoolShared<R, L>>,
) -> impl Future<Output = ()> + Send {
    // Made here, not in the task: a task that is dropped before its first poll counts as well.
    let mut driver = DriverGuard {
        shared,
        spaced: Vec::new(),
    };
    async move {
        let mut reached = None;
        loop {
            // A timer that is a little early is believed: to ask it again at once would be a busy loop.
            let now = driver.shared.time();
            let now = reached.map_or(now, |reached| now.max(reached));
            if gives_up(&driver.shared, now) {
                // Somebody may have held this thread since the kill: who has had no turn since then is not stuck.
                last_turns().await;
            }
            let (state, deadline, later) = driver.shared.handle_event(|state, effects| {
                state.machine.tick(now, effects);
                let later = std::mem::take(&mut state.later);
                (state.machine.state(), state.machine.deadline(), later)
            });
            driver.spaced.extend(later.into_iter().map(|mut start| {
                let delay = std::mem::take(&mut start.delay);
                (now.checked_add(delay).unwrap_or(now), start)
            }));
            driver.start(now);
            if state == PoolState::Stopped {
                return;
            }
            let next = driver.spaced.iter().map(|(at, _)| *at).min();
            let deadline = [deadline, next].into_iter().flatten().min();
            reached = wait(&driver.shared, deadline).await;
        }
    }
}

/// How often others have their turn before they are given up: who is woken, and whom that one wakes.
const LAST_TURNS: u32 = 2;

/// Whether the patience is over, and somebody left (S8).
fn gives_up<R: Runtime, L: Listener>(shared: &PoolShared<R, L>, now: Instant) -> bool {
    shared.read(|state| {
        let killing = state.machine.state() == PoolState::Stopping(Phase::Kill);
        let deadline = state.machine.deadline();
        killing && deadline.is_some_and(|deadline| deadline <= now)
    })
}

async fn last_turns() {
    let mut turns = LAST_TURNS;
    poll_fn(|cx| {
        if turns == 0 {
            return Poll::Ready(());
        }
        turns -= 1;
        wake(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Until the deadline, which it then returns, or until something has changed.
async fn wait<R: Runtime, L: Listener>(
    shared: &PoolShared<R, L>,
    deadline: Option<Instant>,
) -> Option<Instant> {
    let Some(deadline) = deadline.filter(|deadline| !is_never(*deadline)) else {
        poll_fn(|cx| shared.notify.poll(cx)).await;
        return None;
    };
    let mut sleep = pin!(shared.runtime.sleep_until(deadline));
    poll_fn(|cx| match shared.notify.poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| Some(deadline)),
    })
    .await
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::signal::Signal;
    use futures::FutureExt;

    #[test]
    fn a_thread_that_waits_is_through_as_soon_as_it_is_woken() {
        let (began, patience) = (Instant::now(), Duration::from_secs(30));
        let signal = Signal::new();
        let mut waits = signal.wait();
        let mut sets = Some(move || signal.set());
        let future = poll_fn(move |cx| {
            let polled = waits.poll_unpin(cx);
            // Not before somebody waits for it.
            if let Some(sets) = sets.take() {
                thread::spawn(sets);
            }
            polled
        });
        assert_eq!(wait_on_this_thread(future, patience), ParkOutcome::Done);
        assert!(began.elapsed() < patience);
    }

    #[test]
    fn a_thread_waits_in_vain_for_no_longer_than_its_patience() {
        let (began, patience) = (Instant::now(), Duration::from_millis(1));
        let waited = wait_on_this_thread(std::future::pending(), patience);
        assert_eq!(waited, ParkOutcome::TimedOut);
        assert!(began.elapsed() >= patience);
    }
}
