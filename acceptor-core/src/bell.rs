//! Wakes the pool's own task: rung before or after it listens, it is heard once.

use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, drop_guarded, lock, wake};

#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rung: bool,
    waker: Option<Waker>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        let waker = {
            let mut state = lock(&self.state);
            state.rung = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Has the task that listens polled once, though it hears nothing.
    pub(crate) fn nudge(&self) {
        let waker = lock(&self.state).waker.clone();
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Ready once for each time it was rung since it was last ready, several rings being one.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.rung) {
            return Poll::Ready(());
        }
        let replaced = state.waker.replace(waker);
        drop(state);
        drop_guarded(replaced);
        Poll::Pending
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::sync::testing::WakeCounter;

    #[test]
    fn it_is_heard_once_whether_rung_before_or_after() {
        let (bell, counter) = (Bell::default(), WakeCounter::new());
        let cx = Context::from_waker(counter.waker());
        bell.ring();
        bell.ring();
        assert!(bell.poll(&cx).is_ready());
        assert!(bell.poll(&cx).is_pending());
        bell.ring();
        assert_eq!(counter.wakes(), 1);
        assert!(bell.poll(&cx).is_ready());
    }

    #[test]
    fn a_nudge_wakes_who_listens_and_says_nothing() {
        let (bell, counter) = (Bell::default(), WakeCounter::new());
        let cx = Context::from_waker(counter.waker());
        bell.nudge();
        assert!(bell.poll(&cx).is_pending());
        for nudges in 1..3 {
            bell.nudge();
            assert_eq!(counter.wakes(), nudges);
            assert!(bell.poll(&cx).is_pending());
        }
        bell.ring();
        assert!(bell.poll(&cx).is_ready());
    }
}
