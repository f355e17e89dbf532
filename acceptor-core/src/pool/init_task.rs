//! A child before it waits: spacing, then `init`, then into the line.
//!
//! It is a task of its own, or polled once by the task that made it necessary:
//! most are through `init` in one poll. Invariant: it joins the line, or tells its end, exactly once.

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
use crate::machine::effects::Start;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::{PoolShared, PoolStart};
use crate::pool::wait_queue::{DismissReason, Waiter};
use crate::report::Failure;
use crate::runtime::Runtime;
use crate::sync::catch_panic;

pub(crate) struct InitTask<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    socket: Arc<ListenerShared<L>>,
    child: Arc<dyn ErasedChild<L>>,
    id: ChildId,
    step: InitStep,
}

enum InitStep {
    Spaced(BoxFuture<'static, ()>),
    Init(BoxFuture<'static, InitOutcome>),
    Done,
}

/// An accept time-out below this would make a busy loop of restarts (B6).
const MIN_ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);

impl<R: Runtime, L: Listener> InitTask<R, L> {
    pub(crate) fn new(shared: Arc<PoolShared<R, L>>, start: PoolStart<L>) -> Self {
        let Start {
            child: id,
            control: child,
            socket,
            delay,
        } = start;
        let step = if delay.is_zero() {
            InitStep::Init(Arc::clone(&child).init(socket.info(id)))
        } else {
            InitStep::Spaced(shared.sleep(delay))
        };
        Self {
            shared,
            socket,
            child,
            id,
            step,
        }
    }

    /// Polls once in another's task. What is pending then has to be spawned: nothing told to it wakes anybody before.
    pub(crate) fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_step(cx).map(|begun| self.finish(begun))
    }

    fn told_to_end(&self) -> Option<ChildEnd> {
        let commands = self.child.control().commands();
        if commands.kill() {
            Some(ChildEnd::Killed)
        } else if commands.ending().is_some() {
            // It has no state to terminate with (L3, S3).
            Some(ChildEnd::Stopped)
        } else {
            None
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<InitOutcome> {
        loop {
            if let Some(end) = self.told_to_end() {
                return Poll::Ready(InitOutcome::Ended(end));
            }
            let panicked =
                |message| InitOutcome::Ended(ChildEnd::StartError(Failure::Panic(message)));
            match &mut self.step {
                InitStep::Spaced(sleep) => match catch_panic(|| sleep.as_mut().poll(cx)) {
                    Ok(Poll::Ready(())) => {
                        let info = self.socket.info(self.id);
                        self.step = InitStep::Init(Arc::clone(&self.child).init(info));
                    }
                    Ok(Poll::Pending) => break,
                    Err(message) => return Poll::Ready(panicked(message)),
                },
                InitStep::Init(init) => match catch_panic(|| init.as_mut().poll(cx)) {
                    Ok(Poll::Ready(begun)) => return Poll::Ready(begun),
                    Ok(Poll::Pending) => break,
                    Err(message) => return Poll::Ready(panicked(message)),
                },
                InitStep::Done => return Poll::Pending,
            }
        }
        // Commanded while it was polled: this is its suspension point.
        match self.told_to_end() {
            Some(end) => Poll::Ready(InitOutcome::Ended(end)),
            None => Poll::Pending,
        }
    }

    /// Drops what `init` held; then waits, or tells its end.
    fn finish(&mut self, begun: InitOutcome) {
        let step = std::mem::replace(&mut self.step, InitStep::Done);
        let dropped = catch_panic(move || drop(step));
        self.child.control().unregister();
        let end = match (begun, dropped) {
            (InitOutcome::Waits(timeout), Ok(())) => return self.wait(timeout),
            (InitOutcome::Waits(_), Err(message)) => {
                let _ = self.child.discard();
                ChildEnd::StartError(Failure::Panic(message))
            }
            // What went wrong first is what is told.
            (InitOutcome::Ended(end @ ChildEnd::StartError(_)), _)
            | (InitOutcome::Ended(end), Ok(())) => end,
            (InitOutcome::Ended(_), Err(message)) => ChildEnd::Panic(message, WaitTime::Long),
        };
        self.shared.ended(self.id, end);
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
        let waiting = Waiter {
            id: self.id,
            child: Arc::clone(&self.child),
            deadline,
        };
        match self.socket.line.join(waiting, deadline.map(|(at, _)| at)) {
            // Commanded between its last read and its joining: the watcher may have looked already.
            Ok(()) if self.child.control().commands().end_waiting() => self.socket.line.poke(),
            Ok(()) => {}
            Err(waiting) => self
                .shared
                .dismiss(&self.socket, waiting, DismissReason::Commanded),
        }
    }
}

impl<R: Runtime, L: Listener> Future for InitTask<R, L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let registered = catch_panic(|| this.child.control().register(cx.waker()));
        match registered.map(|()| this.poll_step(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(begun)) => {
                this.finish(begun);
                Poll::Ready(())
            }
            Err(message) => {
                this.finish(InitOutcome::Ended(ChildEnd::StartError(Failure::Panic(
                    message,
                ))));
                Poll::Ready(())
            }
        }
    }
}

impl<R: Runtime, L: Listener> Drop for InitTask<R, L> {
    fn drop(&mut self) {
        if !matches!(self.step, InitStep::Done) {
            self.finish(InitOutcome::Ended(ChildEnd::Lost));
        }
    }
}
