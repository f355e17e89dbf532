//! Guards: what keeps a connection in the pool after `serve` has returned (E6).
//!
//! Invariants: a guard is counted as long as it exists, and given back once; nothing that it owns is polled once the
//! connection is killed; a stream is dropped before its guard (E2).

mod guarded_stream;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::connection::ControlOfConnection;
use crate::latch::{Latch, LatchWait};
use crate::sync::catch_panic;

pub use guarded_stream::GuardedStream;

/// Keeps a connection in its pool: it has not ended until `serve` has returned and every guard taken from it is dropped (E6).
///
/// For protocols that hand their stream on to a task of their own: a WebSocket, a tunnel. The connection stays listed, as
/// *guarded* once `serve` has returned, and counted; a stop gives it its grace, signals it and kills it like any other.
/// [`Lifecycle::guard`](crate::Lifecycle::guard) gives one, and a clone is one more.
///
/// Taking a guard traps the stop (N2): who holds one watches [`Lifecycle::trap_stop`](crate::Lifecycle::trap_stop), or is
/// killed when the time to stop is over. The adapters' `GuardedStream` fails from the kill on; whatever else holds a guard
/// watches [`killed`](Guard::killed), and drops the guard. One that is still held a kill timeout after the kill is stuck (S8);
/// the pool ends without it, and to drop it later is harmless.
///
/// A connection that is killed while it is guarded ends as *killed*; any other ends as `serve` did. A panic of a task that
/// merely holds a guard is that task's, and the pool does not see it: what [runs](Guard::run) under the guard is watched.
///
/// ```
/// # use acceptor_core::{Connection, Exit};
/// # async fn tunnel<S>(stream: S) {}
/// # fn spawn(future: impl Future<Output = ()> + Send + 'static) {}
/// # use std::future::Future;
/// async fn serve<S: Send + 'static, A>(connection: Connection<S, A>) -> Exit {
///     let guard = connection.lifecycle.guard();
///     let stream = connection.stream;
///     spawn(async move {
///         // Dropped where it next suspends after a kill.
///         guard.run(tunnel(stream)).await;
///     });
///     Exit::normal()
/// }
/// ```
pub struct Guard {
    /// `None` for a guard of a connection that has ended.
    control: Option<ControlOfConnection>,
    killed: Latch,
    /// What the first panic of a subtask said.
    panicked: Option<String>,
}

impl Guard {
    pub(crate) fn take(control: &ControlOfConnection) -> Self {
        match control.control.take_guard(control.key) {
            Some(killed) => Self {
                control: Some(control.clone()),
                killed,
                panicked: None,
            },
            None => {
                let killed = Latch::new();
                killed.raise();
                Self {
                    control: None,
                    killed,
                    panicked: None,
                }
            }
        }
    }

    /// Tells whether the connection was killed, or had ended before this guard was taken.
    pub fn is_killed(&self) -> bool {
        self.control
            .as_ref()
            .is_none_or(|control| control.control.is_killed(control.key))
    }

    /// The signal that is set once the connection is killed: drop the guard, and all that belongs to the connection.
    pub fn killed(&self) -> &Latch {
        &self.killed
    }

    /// Runs a future as a part of the connection: it is dropped where it next suspends after a kill, and its panic is the
    /// connection's.
    ///
    /// Spawn what this returns, or await it. It gives `None` if the future was dropped or has panicked, and then the guard is
    /// given back.
    pub fn run<F>(self, future: F) -> Subtask<F::Output>
    where
        F: Future + Send + 'static,
    {
        Subtask {
            future: Some(future.boxed()),
            killed: self.killed.wait(),
            guard: Some(self),
        }
    }
}

impl Clone for Guard {
    fn clone(&self) -> Self {
        match &self.control {
            Some(control) => Self::take(control),
            None => Self {
                control: None,
                killed: self.killed.clone(),
                panicked: None,
            },
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(control) = &self.control {
            let panicked = self.panicked.take();
            control.control.give_guard(control.key, panicked);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("killed", &self.is_killed())
            .finish_non_exhaustive()
    }
}

/// The future of [`Guard::run`].
#[must_use = "futures do nothing unless polled"]
pub struct Subtask<T> {
    /// Before the guard: what it holds is dropped before the connection ends (E2).
    future: Option<BoxFuture<'static, T>>,
    killed: LatchWait,
    /// Until the future is gone.
    guard: Option<Guard>,
}

impl<T> Future for Subtask<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        let (Some(future), Some(guard)) = (&mut this.future, &mut this.guard) else {
            return Poll::Ready(None);
        };
        if guard.is_killed() {
            this.end();
            return Poll::Ready(None);
        }
        let done = match catch_panic(|| future.poll_unpin(cx)) {
            Ok(Poll::Ready(value)) => Some(value),
            Ok(Poll::Pending) if this.killed.poll_unpin(cx).is_pending() => return Poll::Pending,
            // Killed while it was polled: this is its suspension point.
            Ok(Poll::Pending) => None,
            Err(message) => {
                guard.panicked.get_or_insert(message);
                None
            }
        };
        this.end();
        Poll::Ready(done)
    }
}

impl<T> Subtask<T> {
    /// Drops the future, then gives the guard back.
    fn end(&mut self) {
        let (Some(future), Some(mut guard)) = (self.future.take(), self.guard.take()) else {
            return;
        };
        if let Err(message) = catch_panic(move || drop(future)) {
            guard.panicked.get_or_insert(message);
        }
    }
}

impl<T> Drop for Subtask<T> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<T> fmt::Debug for Subtask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subtask")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}
