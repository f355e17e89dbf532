//! The pool's own task: waits with the timer of the phases, and sleeps while there is none.
//!
//! Invariant: if the runtime drops this task the pool can keep no time, so it is
//! killed as a whole; nothing waits for a timer that will not come (S8). A child
//! that the runtime dropped is started again from here, spaced by the timer
//! here: a runtime that drops whatever is spawned would not wait in the child.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use crate::end::End;
use crate::inner::{Inner, Starting};
use crate::listener::Listener;
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::stop::StopReason;

/// Kills the pool when it is dropped with the task; does nothing for a pool that has stopped.
struct Guard<R: Runtime, L: Listener> {
    inner: Arc<Inner<R, L>>,
    /// To be started, and when.
    spaced: Vec<(Instant, Starting<L>)>,
}

impl<R: Runtime, L: Listener> Guard<R, L> {
    /// Starts who is due, or told to end: that one must see it, not wait for its start.
    fn start(&mut self, now: Instant) {
        let (due, spaced): (Vec<_>, Vec<_>) = std::mem::take(&mut self.spaced)
            .into_iter()
            .partition(|(at, start)| {
                *at <= now || start.control.control().commands().end_waiting()
            });
        self.spaced = spaced;
        for (_, start) in due {
            self.inner.start(start);
        }
    }
}

impl<R: Runtime, L: Listener> Drop for Guard<R, L> {
    fn drop(&mut self) {
        self.inner.kill(StopReason::RuntimeGone);
        // Nobody is left to start them. Each tells its end as it is dropped, and none is replaced.
        let later = self
            .inner
            .bring(|state, _| std::mem::take(&mut state.later));
        let spaced = self.spaced.drain(..).map(|(_, start)| start);
        for start in spaced.chain(later) {
            self.inner.ended(start.child, End::Lost);
        }
    }
}

pub(crate) fn drive<R: Runtime, L: Listener>(
    inner: Arc<Inner<R, L>>,
) -> impl Future<Output = ()> + Send {
    // Made here, not in the task: a task that is dropped before its first poll counts as well.
    let mut guard = Guard {
        inner,
        spaced: Vec::new(),
    };
    async move {
        let mut reached = None;
        loop {
            // A timer that is a little early is believed: to ask it again at once would be a busy loop.
            let now = guard.inner.time();
            let now = reached.map_or(now, |reached| now.max(reached));
            let (state, deadline, later) = guard.inner.bring(|state, effects| {
                state.machine.tick(now, effects);
                let later = std::mem::take(&mut state.later);
                (state.machine.state(), state.machine.deadline(), later)
            });
            guard.spaced.extend(later.into_iter().map(|mut start| {
                let delay = std::mem::take(&mut start.delay);
                (now.checked_add(delay).unwrap_or(now), start)
            }));
            guard.start(now);
            if state == PoolState::Stopped {
                return;
            }
            let next = guard.spaced.iter().map(|(at, _)| *at).min();
            let deadline = [deadline, next].into_iter().flatten().min();
            reached = wait(&guard.inner, deadline).await;
        }
    }
}

/// Until the deadline, which it then returns, or until something has changed.
async fn wait<R: Runtime, L: Listener>(
    inner: &Inner<R, L>,
    deadline: Option<Instant>,
) -> Option<Instant> {
    let Some(deadline) = deadline else {
        poll_fn(|cx| inner.bell.poll(cx)).await;
        return None;
    };
    let mut sleep = pin!(inner.runtime.sleep_until(deadline));
    poll_fn(|cx| match inner.bell.poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| Some(deadline)),
    })
    .await
}
