//! The task of a child in `serve` or `terminate`: kill switch, panic capture, and an end that is seen once.
//!
//! Invariants: the child's future, and with it the socket, is dropped before
//! its end is told (E2); the end is told exactly once, also when the runtime
//! drops the task (E3); nothing that a callback does leaves this file as a panic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use crate::child::erased::ErasedChild;
use crate::id::ChildId;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, Role, WaitTime};
use crate::pool::shared::{PoolShared, PoolStart};
use crate::runtime::Runtime;
use crate::sync::{catch_panic, wake};

pub(crate) struct ChildTask<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    id: ChildId,
    child: Arc<dyn ErasedChild<L>>,
    body: Option<BoxFuture<'static, ChildEnd>>,
    /// Is started first (B5).
    replacement: Option<PoolStart<L>>,
    /// A connection in `serve`, or an acceptor in `terminate`.
    role: Role,
    wait_time: WaitTime,
    polled: Polled,
}

/// Whether the child was polled: only then could it have trapped the stop, or polled to terminate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Polled {
    No,
    Yes,
}

impl<R: Runtime, L: Listener> ChildTask<R, L> {
    pub(crate) fn serve(
        shared: Arc<PoolShared<R, L>>,
        id: ChildId,
        child: Arc<dyn ErasedChild<L>>,
        body: BoxFuture<'static, ChildEnd>,
        replacement: Option<PoolStart<L>>,
    ) -> Self {
        Self {
            shared,
            id,
            child,
            body: Some(body),
            replacement,
            role: Role::Connection,
            wait_time: WaitTime::Long,
            polled: Polled::No,
        }
    }

    pub(crate) fn terminate(
        shared: Arc<PoolShared<R, L>>,
        id: ChildId,
        child: Arc<dyn ErasedChild<L>>,
        body: BoxFuture<'static, ChildEnd>,
        wait_time: WaitTime,
    ) -> Self {
        Self {
            shared,
            id,
            child,
            body: Some(body),
            replacement: None,
            role: Role::Acceptor,
            wait_time,
            polled: Polled::No,
        }
    }

    /// What the commands say to a child that is about to be polled, or is pending.
    fn told_to_end(&self) -> Option<ChildEnd> {
        let commands = self.child.control().commands();
        if commands.kill() {
            Some(ChildEnd::Killed)
        } else if self.polled == Polled::Yes && commands.stop(self.role) {
            Some(ChildEnd::Stopped)
        } else {
            None
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<ChildEnd> {
        self.child.control().register(cx.waker());
        if let Some(end) = self.told_to_end() {
            return Poll::Ready(end);
        }
        self.polled = Polled::Yes;
        let Some(body) = &mut self.body else {
            return Poll::Pending;
        };
        match body.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            // Commanded while it was polled: this is its suspension point.
            Poll::Pending => match self.told_to_end() {
                Some(end) => Poll::Ready(end),
                None => Poll::Pending,
            },
        }
    }

    /// Drops what the child held, then tells its end.
    fn finish(&mut self, end: ChildEnd) {
        let Some(body) = self.body.take() else {
            return;
        };
        let end = match (catch_panic(move || drop(body)), end) {
            (Ok(()), end) => end,
            // What went wrong first is what is told.
            (Err(_), end @ ChildEnd::Panic(..)) => end,
            (Err(message), _) => ChildEnd::Panic(message, self.wait_time),
        };
        self.child.control().unregister();
        self.shared.ended(self.id, end);
    }
}

impl<R: Runtime, L: Listener> Future for ChildTask<R, L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some(replacement) = this.replacement.take() {
            if this.shared.begin(replacement, cx).is_pending() {
                // A runtime may keep what was spawned here for this thread: `serve`, which may block, comes
                // after it, not before (B5).
                wake(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let end = match catch_panic(|| this.poll_body(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(end)) => end,
            Err(message) => ChildEnd::Panic(message, this.wait_time),
        };
        this.finish(end);
        Poll::Ready(())
    }
}

impl<R: Runtime, L: Listener> Drop for ChildTask<R, L> {
    fn drop(&mut self) {
        if let Some(replacement) = self.replacement.take() {
            self.shared.ended(replacement.child, ChildEnd::Lost);
        }
        self.finish(ChildEnd::Lost);
    }
}
