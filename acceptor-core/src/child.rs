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

use crate::end::{End, Role, Waited};
use crate::id::ChildId;
use crate::inner::{Inner, Starting};
use crate::listener::Listener;
use crate::runtime::Runtime;
use crate::seat::Child;
use crate::sync::{guarded, wake};

pub(crate) struct ChildTask<R: Runtime, L: Listener> {
    inner: Arc<Inner<R, L>>,
    id: ChildId,
    seat: Arc<dyn Child<L>>,
    body: Option<BoxFuture<'static, End>>,
    /// Is started first (B5).
    replacement: Option<Starting<L>>,
    /// A connection in `serve`, or an acceptor in `terminate`.
    role: Role,
    waited: Waited,
    begun: Begun,
}

/// Whether the child was polled: only then could it have trapped the stop, or begun to terminate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    Yes,
}

impl<R: Runtime, L: Listener> ChildTask<R, L> {
    pub(crate) fn serve(
        inner: Arc<Inner<R, L>>,
        id: ChildId,
        seat: Arc<dyn Child<L>>,
        body: BoxFuture<'static, End>,
        replacement: Option<Starting<L>>,
    ) -> Self {
        Self {
            inner,
            id,
            seat,
            body: Some(body),
            replacement,
            role: Role::Connection,
            waited: Waited::AWhile,
            begun: Begun::No,
        }
    }

    pub(crate) fn terminate(
        inner: Arc<Inner<R, L>>,
        id: ChildId,
        seat: Arc<dyn Child<L>>,
        body: BoxFuture<'static, End>,
        waited: Waited,
    ) -> Self {
        Self {
            inner,
            id,
            seat,
            body: Some(body),
            replacement: None,
            role: Role::Acceptor,
            waited,
            begun: Begun::No,
        }
    }

    /// What the commands say to a child that is about to be polled, or is pending.
    fn told_to_end(&self) -> Option<End> {
        let commands = self.seat.control().commands();
        if commands.kill() {
            Some(End::Killed)
        } else if self.begun == Begun::Yes && commands.stop(self.role) {
            Some(End::Stopped)
        } else {
            None
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.seat.control().register(cx.waker());
        if let Some(end) = self.told_to_end() {
            return Poll::Ready(end);
        }
        self.begun = Begun::Yes;
        let Some(body) = &mut self.body else {
            return Poll::Pending;
        };
        match body.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            // Told while it was polled: this is its suspension point.
            Poll::Pending => match self.told_to_end() {
                Some(end) => Poll::Ready(end),
                None => Poll::Pending,
            },
        }
    }

    /// Drops what the child held, then tells its end.
    fn finish(&mut self, end: End) {
        let Some(body) = self.body.take() else {
            return;
        };
        let end = match (guarded(move || drop(body)), end) {
            (Ok(()), end) => end,
            // What went wrong first is what is told.
            (Err(_), end @ End::Panic(..)) => end,
            (Err(message), _) => End::Panic(message, self.waited),
        };
        self.seat.control().unregister();
        self.inner.ended(self.id, end);
    }
}

impl<R: Runtime, L: Listener> Future for ChildTask<R, L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some(replacement) = this.replacement.take() {
            if this.inner.begin(replacement, cx).is_pending() {
                // A runtime may keep what was spawned here for this thread: `serve`, which may block, comes
                // after it, not before (B5).
                wake(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let end = match guarded(|| this.poll_body(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(end)) => end,
            Err(message) => End::Panic(message, this.waited),
        };
        this.finish(end);
        Poll::Ready(())
    }
}

impl<R: Runtime, L: Listener> Drop for ChildTask<R, L> {
    fn drop(&mut self) {
        if let Some(replacement) = self.replacement.take() {
            self.inner.ended(replacement.child, End::Lost);
        }
        self.finish(End::Lost);
    }
}
