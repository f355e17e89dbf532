//! Guards, which keep a connection in the pool after `serve` has returned (E6).
//!
//! Invariants: a guard is counted as long as it exists, and released once; no future that it owns
//! is polled once the connection is killed; a stream is dropped before its guard (E2).

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

/// Keeps a connection in its pool: it has not ended until `serve` has returned and every guard
/// taken from it is dropped ([E6](crate::guide::rules#e6)).
///
/// Use it for protocols that hand their stream on to a task of their own, such as a WebSocket or a
/// tunnel. The connection stays listed, as *guarded* once `serve` has returned, and stays counted.
/// A stop gives it its grace, signals it and kills it like any other connection.
/// [`Lifecycle::guard`](crate::Lifecycle::guard) returns a guard, and a clone is another one.
///
/// Taking a guard traps the stop ([N2](crate::guide::rules#n2)). The holder must watch
/// [`Lifecycle::trap_stop`](crate::Lifecycle::trap_stop); otherwise the connection is killed when
/// the shutdown timeout is over. From the kill on, the adapters' `GuardedStream` fails. Any other
/// holder must watch [`killed`](Guard::killed) and drop the guard. If a guard is still held a kill
/// timeout after the kill, the connection is stuck ([S8](crate::guide::rules#s8)): the pool ends
/// without it. Dropping the guard later is harmless.
///
/// A connection that is killed while it is guarded ends as *killed*; otherwise its end is that of
/// `serve`. The pool does not see a panic of a task that merely holds a guard. To attribute a panic
/// to the connection, [run](Guard::run) the future under the guard.
///
/// ```
/// use acceptor_core::Connection;
/// # use futures::FutureExt;
///
/// # async {
/// let (connection, signals) = Connection::for_test("stream", "client", "server");
/// let guard = connection.lifecycle.guard();
/// assert!(signals.is_stop_trapped());
/// assert_eq!(signals.guards(), 1);
///
/// // Spawn this on the runtime: it is dropped at its next suspension point after a kill.
/// let tunnel = guard.run(async { "bytes copied" });
/// assert_eq!(tunnel.await, Some("bytes copied"));
/// assert_eq!(signals.guards(), 0);
/// # }.now_or_never().unwrap();
/// ```
#[doc(alias = "TaskTracker")]
#[doc(alias = "WebSocket")]
#[doc(alias = "upgrade")]
pub struct Guard {
    /// `None` if the connection had already ended.
    control: Option<ControlOfConnection>,
    killed: Latch,
    /// The message of the first panic of a subtask.
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

    /// Returns whether the connection was killed, or had ended before this guard was taken.
    pub fn is_killed(&self) -> bool {
        self.control
            .as_ref()
            .is_none_or(|control| control.control.is_killed(control.key))
    }

    /// Returns the latch that is set once the connection is killed. Drop the guard then, and
    /// everything that belongs to the connection.
    ///
    /// ```
    /// use acceptor_core::Connection;
    ///
    /// let (connection, signals) = Connection::for_test("stream", "client", "server");
    /// let guard = connection.lifecycle.guard();
    /// assert!(!guard.killed().is_set());
    /// signals.kill();
    /// assert!(guard.killed().is_set());
    /// ```
    pub fn killed(&self) -> &Latch {
        &self.killed
    }

    /// Runs a future as a subtask of the connection.
    ///
    /// The future is dropped at its next suspension point after a kill, and its panic is the
    /// connection's. Spawn the returned future, or await it. Its output is `None` if the future was
    /// dropped or panicked; the guard is released then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops the subtask, then releases the guard.
    ///
    /// ```
    /// use acceptor_core::Connection;
    /// # use futures::FutureExt;
    ///
    /// # async {
    /// let (connection, signals) = Connection::for_test("stream", "client", "server");
    /// let copies_bytes = connection.lifecycle.guard().run(std::future::pending::<()>());
    /// signals.kill();
    /// assert_eq!(copies_bytes.await, None);
    /// # }.now_or_never().unwrap();
    /// ```
    #[doc(alias = "JoinSet")]
    #[doc(alias = "spawn")]
    #[doc(alias = "TaskTracker")]
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

/// The future returned by [`Guard::run`].
#[must_use = "futures do nothing unless polled"]
pub struct Subtask<T> {
    /// Declared before the guard: its contents are dropped before the connection ends (E2).
    future: Option<BoxFuture<'static, T>>,
    killed: LatchWait,
    /// Present until the future is dropped.
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
    /// Drops the future, then releases the guard.
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
