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

use crate::end::{End, Waited};
use crate::id::ChildId;
use crate::inner::{Inner, Starting};
use crate::line::{Leaving, Waiting};
use crate::listener::Listener;
use crate::report::Failure;
use crate::runtime::Runtime;
use crate::seat::{Begun, Child};
use crate::socket::Socket;
use crate::supervisor::Start;
use crate::sync::guarded;

pub(crate) struct Beginning<R: Runtime, L: Listener> {
    inner: Arc<Inner<R, L>>,
    socket: Arc<Socket<L>>,
    seat: Arc<dyn Child<L>>,
    id: ChildId,
    step: Step,
}

enum Step {
    Spaced(BoxFuture<'static, ()>),
    Init(BoxFuture<'static, Begun>),
    Done,
}

/// An accept time-out below this would make a busy loop of restarts (B6).
const HARDLY: Duration = Duration::from_millis(1);

impl<R: Runtime, L: Listener> Beginning<R, L> {
    pub(crate) fn new(inner: Arc<Inner<R, L>>, start: Starting<L>) -> Self {
        let Start {
            child: id,
            control: seat,
            socket,
            delay,
        } = start;
        let step = if delay.is_zero() {
            Step::Init(Arc::clone(&seat).init(socket.info(id)))
        } else {
            Step::Spaced(inner.sleep(delay))
        };
        Self {
            inner,
            socket,
            seat,
            id,
            step,
        }
    }

    /// Polls once in another's task. What is pending then has to be spawned: nothing told to it wakes anybody before.
    pub(crate) fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_step(cx).map(|begun| self.finish(begun))
    }

    fn told_to_end(&self) -> Option<End> {
        let commands = self.seat.control().commands();
        if commands.kill() {
            Some(End::Killed)
        } else if commands.ending().is_some() {
            // It has no state to terminate with (L3, S3).
            Some(End::Stopped)
        } else {
            None
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Begun> {
        loop {
            if let Some(end) = self.told_to_end() {
                return Poll::Ready(Begun::Ended(end));
            }
            let panicked = |message| Begun::Ended(End::StartError(Failure::Panic(message)));
            match &mut self.step {
                Step::Spaced(sleep) => match guarded(|| sleep.as_mut().poll(cx)) {
                    Ok(Poll::Ready(())) => {
                        let info = self.socket.info(self.id);
                        self.step = Step::Init(Arc::clone(&self.seat).init(info));
                    }
                    Ok(Poll::Pending) => break,
                    Err(message) => return Poll::Ready(panicked(message)),
                },
                Step::Init(init) => match guarded(|| init.as_mut().poll(cx)) {
                    Ok(Poll::Ready(begun)) => return Poll::Ready(begun),
                    Ok(Poll::Pending) => break,
                    Err(message) => return Poll::Ready(panicked(message)),
                },
                Step::Done => return Poll::Pending,
            }
        }
        // Told while it was polled: this is its suspension point.
        match self.told_to_end() {
            Some(end) => Poll::Ready(Begun::Ended(end)),
            None => Poll::Pending,
        }
    }

    /// Drops what `init` held; then waits, or tells its end.
    fn finish(&mut self, begun: Begun) {
        let step = std::mem::replace(&mut self.step, Step::Done);
        let dropped = guarded(move || drop(step));
        self.seat.control().unregister();
        let end = match (begun, dropped) {
            (Begun::Waits(timeout), Ok(())) => return self.wait(timeout),
            (Begun::Waits(_), Err(message)) => {
                let _ = self.seat.discard();
                End::StartError(Failure::Panic(message))
            }
            // What went wrong first is what is told.
            (Begun::Ended(end @ End::StartError(_)), _) | (Begun::Ended(end), Ok(())) => end,
            (Begun::Ended(_), Err(message)) => End::Panic(message, Waited::AWhile),
        };
        self.inner.ended(self.id, end);
    }

    fn wait(&self, timeout: Option<Duration>) {
        let deadline = timeout.and_then(|timeout| {
            let waited = if timeout < HARDLY {
                Waited::Hardly
            } else {
                Waited::AWhile
            };
            Some((self.inner.time().checked_add(timeout)?, waited))
        });
        let waiting = Waiting {
            id: self.id,
            seat: Arc::clone(&self.seat),
            deadline,
        };
        match self.socket.line.join(waiting, deadline.map(|(at, _)| at)) {
            // Told between its last look and its joining: the watcher may have looked already.
            Ok(()) if self.seat.control().commands().end_waiting() => self.socket.line.poke(),
            Ok(()) => {}
            Err(waiting) => self.inner.leave_line(&self.socket, waiting, Leaving::Told),
        }
    }
}

impl<R: Runtime, L: Listener> Future for Beginning<R, L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let registered = guarded(|| this.seat.control().register(cx.waker()));
        match registered.map(|()| this.poll_step(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(begun)) => {
                this.finish(begun);
                Poll::Ready(())
            }
            Err(message) => {
                this.finish(Begun::Ended(End::StartError(Failure::Panic(message))));
                Poll::Ready(())
            }
        }
    }
}

impl<R: Runtime, L: Listener> Drop for Beginning<R, L> {
    fn drop(&mut self) {
        if !matches!(self.step, Step::Done) {
            self.finish(Begun::Ended(End::Lost));
        }
    }
}
