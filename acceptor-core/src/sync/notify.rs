//! Wakes a task of the pool's own: a notification is seen once, whether it comes before or after
//! the task waits.

use std::task::{Context, Poll};

use crate::sync::{Mutex, TaskWaker, lock};

#[derive(Default)]
pub(crate) struct Notify {
    state: Mutex<NotifyState>,
}

#[derive(Default)]
struct NotifyState {
    notified: bool,
    waker: TaskWaker,
}

impl Notify {
    pub(crate) fn notify(&self) {
        let waker = {
            let mut state = lock(&self.state);
            state.notified = true;
            state.waker.take()
        };
        waker.wake();
    }

    /// Makes the waiting task be polled once, without a notification.
    pub(crate) fn wake_task(&self) {
        let waker = lock(&self.state).waker.clone();
        waker.wake();
    }

    /// Ready if it was notified since it was last ready, however often.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = TaskWaker::new(cx.waker());
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.notified) {
            return Poll::Ready(());
        }
        let _replaced = std::mem::replace(&mut state.waker, waker);
        drop(state);
        Poll::Pending
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::sync::testing::WakeCounter;

    #[test]
    fn notification_is_seen_once() {
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
    fn wake_task_sends_no_notification() {
        let (notify, counter) = (Notify::default(), WakeCounter::new());
        let cx = Context::from_waker(counter.waker());
        notify.wake_task();
        assert!(notify.poll(&cx).is_pending());
        for wakes in 1..3 {
            notify.wake_task();
            assert_eq!(counter.wakes(), wakes);
            assert!(notify.poll(&cx).is_pending());
        }
        notify.notify();
        assert!(notify.poll(&cx).is_ready());
    }
}
