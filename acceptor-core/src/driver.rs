//! The pool's own task: waits with the timer of the phases, and sleeps while there is none.
//!
//! Invariant: if the runtime drops this task the pool can keep no time, so it is
//! killed as a whole; nothing waits for a timer that will not come (S8).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use crate::end::End;
use crate::inner::Inner;
use crate::listener::Listener;
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::stop::StopReason;

/// Kills the pool when it is dropped with the task; does nothing for a pool that has stopped.
struct Guard<R: Runtime, L: Listener>(Arc<Inner<R, L>>);

impl<R: Runtime, L: Listener> Drop for Guard<R, L> {
    fn drop(&mut self) {
        self.0.kill(StopReason::RuntimeGone);
        // Nobody is left to start them. Each tells its end as it is dropped, and none is replaced.
        let never_started = self.0.bring(|state, _| std::mem::take(&mut state.later));
        for start in never_started {
            self.0.ended(start.child, End::Lost);
        }
    }
}

pub(crate) fn drive<R: Runtime, L: Listener>(
    inner: Arc<Inner<R, L>>,
) -> impl Future<Output = ()> + Send {
    // Made here, not in the task: a task that is dropped before its first poll counts as well.
    let guard = Guard(inner);
    async move {
        let inner = &guard.0;
        loop {
            let now = inner.time();
            let (state, deadline, starts) = inner.bring(|state, effects| {
                state.machine.tick(now, effects);
                let starts = std::mem::take(&mut state.later);
                (state.machine.state(), state.machine.deadline(), starts)
            });
            for start in starts {
                inner.start(start);
            }
            if state == PoolState::Stopped {
                return;
            }
            wait(inner, deadline).await;
        }
    }
}

/// Until the deadline, or until something has changed.
async fn wait<R: Runtime, L: Listener>(inner: &Inner<R, L>, deadline: Option<Instant>) {
    match deadline {
        None => poll_fn(|cx| inner.bell.poll(cx)).await,
        Some(deadline) => {
            let mut sleep = pin!(inner.runtime.sleep_until(deadline));
            poll_fn(|cx| match inner.bell.poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => sleep.as_mut().poll(cx),
            })
            .await;
        }
    }
}
