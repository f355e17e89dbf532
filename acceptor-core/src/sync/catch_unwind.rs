//! A task of the pool's own that never panics outwards, neither in a poll nor in its drop.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use super::catch_panic::drop_catching;
use crate::sync::catch_panic;

pub(crate) struct CatchUnwind {
    task: Option<BoxFuture<'static, ()>>,
}

impl CatchUnwind {
    pub(crate) fn new(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            task: Some(Box::pin(task)),
        }
    }
}

impl Future for CatchUnwind {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &mut self.task else {
            return Poll::Ready(());
        };
        match catch_panic(|| task.as_mut().poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) | Err(_) => {
                drop_catching(self.task.take());
                Poll::Ready(())
            }
        }
    }
}

impl Drop for CatchUnwind {
    fn drop(&mut self) {
        drop_catching(self.task.take());
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use futures::FutureExt;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn task_panic_is_contained() {
        assert_eq!(
            CatchUnwind::new(async { panic!("polled") }).now_or_never(),
            Some(())
        );
        let mut task = CatchUnwind::new(async {
            let _held = PanicsWhenDropped;
            std::future::pending::<()>().await;
        });
        // The task holds the value from its first poll on.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(task.poll_unpin(&mut cx).is_pending());
        drop(task);
        let task = CatchUnwind::new(async {
            let _held = PanicsWhenDropped;
        });
        assert_eq!(task.now_or_never(), Some(()));
    }

    #[test]
    fn finished_task_is_not_polled() {
        let mut task = CatchUnwind::new(std::future::ready(()));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(task.poll_unpin(&mut cx).is_ready());
        assert!(task.poll_unpin(&mut cx).is_ready());
    }
}
