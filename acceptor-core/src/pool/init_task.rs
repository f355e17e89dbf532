//! The task of a child in `init`: ends with the child waiting, or with its end.
//!
//! Invariant: the child waits, or its end is reported, exactly once, also when the runtime drops the task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::child::erased::{ErasedChild, InitOutcome};
use crate::id::ChildId;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::PoolShared;
use crate::report::Failure;
use crate::runtime::Runtime;
use crate::sync::catch_panic;

pub(crate) struct InitTask<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    listener: Arc<ListenerShared<R, L>>,
    child: Arc<dyn ErasedChild<L>>,
    id: ChildId,
    /// `None` once it is over.
    init: Option<BoxFuture<'static, InitOutcome>>,
}

/// A shorter accept timeout would make a busy loop of restarts (B6).
const MIN_ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);

impl<R: Runtime, L: Listener> InitTask<R, L> {
    pub(crate) fn new(
        shared: Arc<PoolShared<R, L>>,
        listener: Arc<ListenerShared<R, L>>,
        id: ChildId,
        child: Arc<dyn ErasedChild<L>>,
    ) -> Self {
        let init = Arc::clone(&child).init(listener.info(id));
        Self {
            shared,
            listener,
            child,
            id,
            init: Some(init),
        }
    }

    fn commanded(&self) -> Option<ChildEnd> {
        let commands = self.child.control().commands();
        if commands.kill() {
            Some(ChildEnd::Killed)
        } else if commands.end_waiting().is_some() {
            // It has no state to terminate with (L3, S3).
            Some(ChildEnd::Stopped)
        } else {
            None
        }
    }

    fn poll_init(&mut self, cx: &mut Context<'_>) -> Poll<InitOutcome> {
        self.child.control().register(cx.waker());
        if let Some(end) = self.commanded() {
            return Poll::Ready(InitOutcome::Ended(end));
        }
        let Some(init) = &mut self.init else {
            return Poll::Pending;
        };
        match init.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            // Commanded while it was polled: this is its suspension point.
            Poll::Pending => match self.commanded() {
                Some(end) => Poll::Ready(InitOutcome::Ended(end)),
                None => Poll::Pending,
            },
        }
    }

    /// Drops what `init` held; then the child waits, or ends. Ends the poll that was counted.
    fn finish(&mut self, outcome: InitOutcome) {
        let init = self.init.take();
        let dropped = catch_panic(move || drop(init));
        self.child.control().unregister();
        let end = match (outcome, dropped) {
            (InitOutcome::Waits(timeout), Ok(())) => {
                // First: another thread may poll the child as soon as it waits, and no two count at a time.
                self.child.control().count_poll();
                return self.wait(timeout);
            }
            (InitOutcome::Waits(_), Err(message)) => {
                self.child.discard();
                ChildEnd::StartError(Failure::Panic(message))
            }
            // The first failure is the one that counts.
            (InitOutcome::Ended(end @ ChildEnd::StartError(_)), _)
            | (InitOutcome::Ended(end), Ok(())) => end,
            (InitOutcome::Ended(_), Err(message)) => ChildEnd::Panic(message, WaitTime::Long),
        };
        self.shared.ended(&self.listener, self.id, end);
        self.child.control().count_poll();
    }

    fn wait(&self, timeout: Option<Duration>) {
        let deadline = timeout.and_then(|timeout| {
            let wait_time = if timeout < MIN_ACCEPT_TIMEOUT {
                WaitTime::Short
            } else {
                WaitTime::Long
            };
            Some((self.shared.time().checked_add(timeout)?, wait_time))
        });
        let child = Arc::clone(&self.child);
        self.shared.waits(&self.listener, self.id, child, deadline);
    }
}

impl<R: Runtime, L: Listener> Future for InitTask<R, L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.child.control().count_poll();
        let outcome = match catch_panic(|| this.poll_init(cx)) {
            Ok(Poll::Pending) => {
                this.child.control().count_poll();
                return Poll::Pending;
            }
            Ok(Poll::Ready(outcome)) => outcome,
            Err(message) => InitOutcome::Ended(ChildEnd::StartError(Failure::Panic(message))),
        };
        this.finish(outcome);
        Poll::Ready(())
    }
}

impl<R: Runtime, L: Listener> Drop for InitTask<R, L> {
    fn drop(&mut self) {
        if self.init.is_some() {
            self.child.control().count_poll();
            self.finish(InitOutcome::Ended(ChildEnd::Lost));
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::task::{Wake, Waker};

    use futures::FutureExt;

    use super::*;
    use crate::acceptor::{Acceptor, Init, ListenerInfo};
    use crate::connection::Connection;
    use crate::error::BoxError;
    use crate::listener::testing::Nowhere;
    use crate::machine::stuck::Marked;
    use crate::pool::listener_shared::testing::with_factory;
    use crate::pool::spec::ErasedSpec;
    use crate::runtime::testing::Tasks;
    use crate::spec::Spec;
    use crate::sync::lock;

    struct Ready;

    impl Acceptor<Nowhere> for Ready {
        type State = ();
        type Exit = Result<(), BoxError>;

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
            Ok(Init::Accept(()))
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, (): ()) -> Result<(), BoxError> {
            Ok(())
        }
    }

    /// Stands for the accept loop: reads the polls of a child when the child begins to wait.
    struct Reads {
        child: Arc<dyn ErasedChild<Nowhere>>,
        polls: Mutex<Vec<u32>>,
    }

    impl Wake for Reads {
        fn wake(self: Arc<Self>) {
            lock(&self.polls).push(self.child.control().mark());
        }
    }

    /// Another thread may poll it from then on, and no two may count its polls at a time (S8).
    #[test]
    fn child_that_waits_is_inside_no_poll() {
        let spec = ErasedSpec::checked(Spec::new("test", Ready)).expect("it is allowed");
        let shared = PoolShared::new(Tasks::new(), spec);
        let listener = with_factory(1, Arc::new(Ready));
        let start = {
            let children = &mut *lock(&listener.children);
            let mut starts = children.take_starts(&listener.level, 1, shared.time());
            starts.starts.remove(0)
        };
        let reads = Arc::new(Reads {
            child: Arc::clone(&start.control),
            polls: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&reads));
        listener
            .inbox
            .collect(&mut VecDeque::new(), false, None, &waker);
        let task = InitTask::new(shared, Arc::clone(&listener), start.child, start.control);
        assert_eq!(task.now_or_never(), Some(()));
        assert_eq!(*lock(&reads.polls), [2]);
        assert_eq!(lock(&listener.children).table.tally().waiting, 1);
    }
}
