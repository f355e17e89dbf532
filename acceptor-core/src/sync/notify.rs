//! Wakes the pool's own task: notified before or after it listens, it is heard once.

use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, drop_catching, lock, wake};

#[derive(Default)]
pub(crate) struct Notify {
    state: Mutex<NotifyState>,
}

#[derive(Default)]
struct NotifyState {
    notified: bool,
    waker: Option<Waker>,
}

impl Notify {
    pub(crate) fn notify(&self) {
        let waker = {
            let mut state = lock(&self.state);
            state.notified = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Has the task that listens polled once, though it hears nothing.
    pub(crate) fn wake_task(&self) {
        let waker = lock(&self.state).waker.clone();
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Ready once for each time it was notified since it was last ready, several rings being one.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.notified) {
            return Poll::Ready(());
        }
        let replaced = state.waker.replace(waker);
        drop(state);
        drop_catching(replaced);
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
        let (notify, counter) = (Notify::default(), WakeCounter::new());
        let cx = Context::from_waker(counter.waker());
        notify.notify();
        notify.notify();
        assert!(notify.poll(&cx).is_ready());
        assert!(notify.poll(&cx).is_pending());
        notify.notify();
        assert_eq!(counter.wakes(), 1);
        assert!(notify.poll(&cx).is_ready());
    }

    #[test]
    fn a_nudge_wakes_who_listens_and_says_nothing() {
        let (notify, counter) = (Notify::default(), WakeCounter::new());
        let cx = Context::from_waker(counter.waker());
        notify.wake_task();
        assert!(notify.poll(&cx).is_pending());
        for nudges in 1..3 {
            notify.wake_task();
            assert_eq!(counter.wakes(), nudges);
            assert!(notify.poll(&cx).is_pending());
        }
        notify.notify();
        assert!(notify.poll(&cx).is_ready());
    }
}
