//! The task of one child: kill switch, panic capture, and an end that is seen once.
//!
//! Invariants: the child's future, and with it the socket, is dropped before
//! its end is told (E2); the end is told exactly once, also when the runtime
//! drops the task (E3); nothing that a callback does leaves this file as a panic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;

use crate::connection::CleanExit;
use crate::control::{Control, Stage};
use crate::end::End;
use crate::error::BoxError;
use crate::id::ChildId;
use crate::life::{Host, Outcome, Succession};
use crate::listener::Listener;
use crate::report::Failure;
use crate::sync::{guarded, wake};

pub(crate) struct ChildTask<L: Listener> {
    host: Arc<dyn Host<L>>,
    id: ChildId,
    control: Arc<Control>,
    body: Body,
    registered: Option<Waker>,
}

enum Body {
    Acceptor(BoxFuture<'static, Outcome>),
    /// `Begun::No` until `serve` was polled once: only then could it have trapped the stop.
    Connection(BoxFuture<'static, Result<(), BoxError>>, Begun),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    Yes,
}

impl<L: Listener> ChildTask<L> {
    pub(crate) fn new(
        host: Arc<dyn Host<L>>,
        id: ChildId,
        control: Arc<Control>,
        life: BoxFuture<'static, Outcome>,
    ) -> Self {
        Self {
            host,
            id,
            control,
            body: Body::Acceptor(life),
            registered: None,
        }
    }

    fn register(&mut self, waker: &Waker) {
        let known = |registered: &Waker| registered.will_wake(waker);
        if !self.registered.as_ref().is_some_and(known) {
            self.control.register(waker);
            self.registered = Some(waker.clone());
        }
    }

    /// What the commands say to a child that is about to be polled, or is pending.
    fn told_to_end(&self) -> Option<End> {
        let commands = self.control.commands();
        if commands.kill() {
            return Some(End::Killed);
        }
        let dropped = match &self.body {
            Body::Acceptor(_) => match self.control.stage() {
                Stage::Init => commands.ending().is_some() || commands.stop(),
                // It begins to terminate first, and is dropped where that suspends (B7, S3).
                Stage::Waiting => false,
                Stage::Terminating | Stage::Serving => commands.stop(),
            },
            Body::Connection(_, begun) => *begun == Begun::Yes && commands.stop(),
            Body::Ended => false,
        };
        dropped.then_some(End::Stopped)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Some(end) = self.told_to_end() {
                return Poll::Ready(end);
            }
            match &mut self.body {
                Body::Acceptor(life) => match guarded(|| life.as_mut().poll(cx)) {
                    Ok(Poll::Pending) => break,
                    Ok(Poll::Ready(Outcome::Ended(end))) => return Poll::Ready(end),
                    Ok(Poll::Ready(Outcome::Serves(serve, succession))) => {
                        // The wait is over: its memory is not the connection's to hold.
                        let wait =
                            std::mem::replace(&mut self.body, Body::Connection(serve, Begun::No));
                        if let Err(message) = guarded(move || drop(wait)) {
                            return Poll::Ready(End::Panic(message));
                        }
                        if succession == Succession::Spawned {
                            // A runtime may keep what was spawned last for the thread that spawned it, out of
                            // the other threads' reach: `serve` must not block before the replacement waits (B5).
                            wake(cx.waker().clone());
                            return Poll::Pending;
                        }
                    }
                    Err(message) => {
                        return Poll::Ready(match self.control.stage() {
                            Stage::Init | Stage::Waiting => {
                                End::StartError(Failure::Panic(message))
                            }
                            Stage::Terminating | Stage::Serving => End::Panic(message),
                        });
                    }
                },
                Body::Connection(serve, begun) => {
                    *begun = Begun::Yes;
                    match guarded(|| serve.as_mut().poll(cx)) {
                        Ok(Poll::Pending) => break,
                        Ok(Poll::Ready(Ok(()))) => return Poll::Ready(End::Normal),
                        Ok(Poll::Ready(Err(error))) if error.is::<CleanExit>() => {
                            return Poll::Ready(End::Clean);
                        }
                        Ok(Poll::Ready(Err(error))) => {
                            return Poll::Ready(End::Error(Arc::from(error)));
                        }
                        Err(message) => return Poll::Ready(End::Panic(message)),
                    }
                }
                Body::Ended => return Poll::Pending,
            }
        }
        // Told while it was polled: this is its suspension point.
        match self.told_to_end() {
            Some(end) => Poll::Ready(end),
            None => Poll::Pending,
        }
    }

    /// Drops what the child held, then tells its end.
    fn finish(&mut self, end: End) {
        let body = std::mem::replace(&mut self.body, Body::Ended);
        if matches!(body, Body::Ended) {
            return;
        }
        let end = match (guarded(move || drop(body)), end) {
            (Ok(()), end) => end,
            // What went wrong first is what is told.
            (Err(_), end @ (End::StartError(_) | End::Panic(_))) => end,
            (Err(message), _) => End::Panic(message),
        };
        self.control.unregister();
        self.registered = None;
        Arc::clone(&self.host).ended(self.id, end);
    }
}

impl<L: Listener> Future for ChildTask<L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.register(cx.waker());
        match this.poll_body(cx) {
            Poll::Ready(end) => {
                this.finish(end);
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<L: Listener> Drop for ChildTask<L> {
    fn drop(&mut self) {
        self.finish(End::Lost);
    }
}
