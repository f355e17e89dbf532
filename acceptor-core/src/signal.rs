//! A level signal: once set it stays set, and whoever asks late still sees it (N1).
//!
//! Invariants: wakers are woken, cloned into place and dropped without the
//! lock's guard alive wherever that is user code; a waiter that registered
//! before `set` took the list is in that list.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::sync::{AtomicBool, Mutex, Ordering, drop_catching, lock, wake};

/// Tells that something has happened, for ever after it happened.
///
/// A pool hands out three of them: *draining* and *stop* to a connection
/// (rules N1 and N2) and *closed* to an acceptor in `init` (rule B1). A signal
/// is a level, not an edge: asking late still sees it. Clones share the level.
///
/// ```
/// # fn check(draining: acceptor_core::Signal) {
/// if draining.is_set() {
///     // the listener is closed, or the pool began to stop
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Signal {
    shared: Arc<LatchState>,
}

struct LatchState {
    set: AtomicBool,
    waiters: Mutex<Slab<Waker>>,
}

impl Signal {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(LatchState {
                set: AtomicBool::new(false),
                waiters: Mutex::new(Slab::new()),
            }),
        }
    }

    pub(crate) fn set(&self) {
        self.shared.set.store(true, Ordering::SeqCst);
        let waiters = std::mem::take(&mut *lock(&self.shared.waiters));
        for (_, waiter) in waiters {
            wake(waiter);
        }
    }

    /// Tells whether it has happened.
    pub fn is_set(&self) -> bool {
        self.shared.set.load(Ordering::SeqCst)
    }

    /// Waits until it has happened; at once if it already has.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the level stays.
    pub fn wait(&self) -> SignalWait {
        SignalWait {
            signal: self.clone(),
            key: None,
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal")
            .field("set", &self.is_set())
            .finish_non_exhaustive()
    }
}

/// The future of [`Signal::wait`].
#[must_use = "futures do nothing unless awaited"]
pub struct SignalWait {
    signal: Signal,
    key: Option<usize>,
}

impl Future for SignalWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.signal.is_set() {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let shared = Arc::clone(&self.signal.shared);
        let mut waiters = lock(&shared.waiters);
        // Looked at again under the lock: `set` stores before it takes the list.
        if self.signal.is_set() {
            return Poll::Ready(());
        }
        let replaced = match self.key {
            Some(key) => Some(std::mem::replace(&mut waiters[key], waker)),
            None => {
                self.key = Some(waiters.insert(waker));
                None
            }
        };
        drop(waiters);
        drop_catching(replaced);
        Poll::Pending
    }
}

impl Drop for SignalWait {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            // Once set, the list was taken as a whole and the key means nothing.
            let removed = lock(&self.signal.shared.waiters).try_remove(key);
            drop_catching(removed);
        }
    }
}

impl fmt::Debug for SignalWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalWait")
            .field("set", &self.signal.is_set())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn asking_late_still_sees_it() {
        let signal = Signal::new();
        signal.set();
        assert!(signal.is_set());
        assert_eq!(signal.wait().now_or_never(), Some(()));
    }

    #[test]
    fn it_shows_whether_it_is_set() {
        let signal = Signal::new();
        assert_eq!(format!("{signal:?}"), "Signal { set: false, .. }");
        signal.set();
        assert_eq!(format!("{signal:?}"), "Signal { set: true, .. }");
        let shown = format!("{:?}", signal.wait());
        assert_eq!(shown, "SignalWait { set: true, .. }");
    }

    #[test]
    fn every_waiter_is_woken_once_and_dropped_waiters_leave_nothing() {
        let signal = Signal::new();
        let counter = crate::sync::testing::WakeCounter::new();
        let mut cx = Context::from_waker(counter.waker());
        let mut first = signal.wait();
        let mut second = signal.wait();
        assert!(first.poll_unpin(&mut cx).is_pending());
        assert!(second.poll_unpin(&mut cx).is_pending());
        assert!(second.poll_unpin(&mut cx).is_pending());
        let mut third = signal.wait();
        assert!(third.poll_unpin(&mut cx).is_pending());
        drop(third);
        assert_eq!(lock(&signal.shared.waiters).len(), 2);
        signal.set();
        assert_eq!(counter.wakes(), 2);
        assert!(first.poll_unpin(&mut cx).is_ready());
        assert!(second.poll_unpin(&mut cx).is_ready());
    }
}
