//! A level-triggered latch: once set it stays set, and a task that asks late still sees it (N1).
//!
//! Invariants: no lock is held while a waker, which is foreign code, is cloned, woken or dropped; a
//! waiter that registered before `set` took the list is in that list.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::sync::{AtomicBool, Mutex, Ordering, TaskWaker, lock};

/// A flag that is set once and stays set, and that tasks can wait for.
///
/// A pool hands out four kinds: [*stopping*](crate::Pool::stopping) to any task
/// ([S2](crate::guide::rules#s2)), *draining* and *stop* to a connection
/// ([N1](crate::guide::rules#n1), [N2](crate::guide::rules#n2)) and *closed* to an acceptor in
/// `init` ([B1](crate::guide::rules#b1)). A latch is level-triggered: a task that asks late still
/// sees it. Clones share the flag.
///
/// ```
/// use acceptor_core::Connection;
/// # use futures::FutureExt;
///
/// # async {
/// let (connection, signals) = Connection::for_test("stream", "client", "server");
/// let draining = connection.lifecycle.draining();
/// assert!(!draining.is_set());
///
/// signals.drain();
/// assert!(draining.is_set());
/// draining.wait().await; // returns at once
/// # }.now_or_never().unwrap();
/// ```
#[doc(alias = "CancellationToken")]
#[doc(alias = "Notify")]
#[doc(alias = "watch")]
#[doc(alias = "event")]
#[derive(Clone)]
pub struct Latch {
    shared: Arc<LatchState>,
}

struct LatchState {
    set: AtomicBool,
    waiters: Mutex<Waiting>,
}

/// A map rather than a list, because each connection may wait: it releases the memory of waiters
/// that are gone (Q6).
#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, TaskWaker>,
    /// How many waiters there have been.
    ever: u64,
}

impl Latch {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(LatchState {
                set: AtomicBool::new(false),
                waiters: Mutex::default(),
            }),
        }
    }

    pub(crate) fn set(&self) {
        self.raise();
        self.take_waiters().for_each(TaskWaker::wake);
    }

    /// Sets the flag without waking the waiters: the caller must wake the wakers of `take_waiters`.
    pub(crate) fn raise(&self) {
        self.shared.set.store(true, Ordering::SeqCst);
    }

    /// Takes the wakers of all waiters, once the flag is set.
    pub(crate) fn take_waiters(&self) -> Waiters {
        let waiters = std::mem::take(&mut lock(&self.shared.waiters).wakers);
        Waiters(waiters.into_values())
    }

    /// Returns whether the latch is set.
    pub fn is_set(&self) -> bool {
        self.shared.set.load(Ordering::SeqCst)
    }

    /// Waits until the latch is set; returns at once if it already is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the latch stays set.
    ///
    /// ```
    /// use acceptor_core::Connection;
    /// # use futures::FutureExt;
    ///
    /// # async {
    /// let (connection, signals) = Connection::for_test("stream", "client", "server");
    /// let stop = connection.lifecycle.trap_stop();
    /// signals.stop();
    /// stop.wait().await;
    /// stop.wait().await; // it stays set
    /// # }.now_or_never().unwrap();
    /// ```
    #[doc(alias = "cancelled")]
    pub fn wait(&self) -> LatchWait {
        LatchWait {
            latch: self.clone(),
            key: None,
        }
    }
}

/// The wakers of a latch that is set. Dropping it wakes those that are left.
pub(crate) struct Waiters(btree_map::IntoValues<u64, TaskWaker>);

impl Iterator for Waiters {
    type Item = TaskWaker;

    fn next(&mut self) -> Option<TaskWaker> {
        self.0.next()
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        self.for_each(TaskWaker::wake);
    }
}

impl fmt::Debug for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latch")
            .field("set", &self.is_set())
            .finish_non_exhaustive()
    }
}

/// The future returned by [`Latch::wait`].
#[must_use = "futures do nothing unless awaited"]
pub struct LatchWait {
    latch: Latch,
    key: Option<u64>,
}

impl Future for LatchWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.latch.is_set() {
            return Poll::Ready(());
        }
        let waker = TaskWaker::new(cx.waker());
        let shared = Arc::clone(&self.latch.shared);
        let mut waiters = lock(&shared.waiters);
        // Checked again under the lock: `set` stores before it takes the list.
        if self.latch.is_set() {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| {
            waiters.ever += 1;
            waiters.ever
        });
        self.key = Some(key);
        let _replaced = waiters.wakers.insert(key, waker);
        drop(waiters);
        Poll::Pending
    }
}

impl Drop for LatchWait {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            // If the latch is set, the list was taken as a whole and the key is unknown.
            let _removed = lock(&self.latch.shared.waiters).wakers.remove(&key);
        }
    }
}

impl fmt::Debug for LatchWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatchWait")
            .field("set", &self.latch.is_set())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::sync::testing::WakeCounter;
    use futures::FutureExt;

    #[test]
    fn late_waiter_sees_the_level() {
        let latch = Latch::new();
        latch.set();
        assert!(latch.is_set());
        assert_eq!(latch.wait().now_or_never(), Some(()));
    }

    #[test]
    fn debug_shows_the_level() {
        let latch = Latch::new();
        assert_eq!(format!("{latch:?}"), "Latch { set: false, .. }");
        latch.set();
        assert_eq!(format!("{latch:?}"), "Latch { set: true, .. }");
        let shown = format!("{:?}", latch.wait());
        assert_eq!(shown, "LatchWait { set: true, .. }");
    }

    /// A latch with waiters of one task, which counts its wake-ups.
    fn with_waiters(count: usize) -> (Latch, WakeCounter, Vec<LatchWait>) {
        let (latch, counter) = (Latch::new(), WakeCounter::new());
        let mut cx = Context::from_waker(counter.waker());
        let mut waits: Vec<_> = (0..count).map(|_| latch.wait()).collect();
        for wait in &mut waits {
            assert!(wait.poll_unpin(&mut cx).is_pending());
        }
        (latch, counter, waits)
    }

    fn is_ready(wait: &mut LatchWait) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        wait.poll_unpin(&mut cx).is_ready()
    }

    #[test]
    fn waiters_are_woken_once_or_removed() {
        let (latch, counter, mut waits) = with_waiters(3);
        let mut cx = Context::from_waker(counter.waker());
        assert!(waits[1].poll_unpin(&mut cx).is_pending());
        drop(waits.pop());
        assert_eq!(lock(&latch.shared.waiters).wakers.len(), 2);
        latch.set();
        assert_eq!(counter.wakes(), 2);
        assert!(waits.iter_mut().all(is_ready));
    }

    #[test]
    fn waiter_is_woken_by_latest_waker() {
        let (latch, before, mut waits) = with_waiters(1);
        let after = WakeCounter::new();
        let mut cx = Context::from_waker(after.waker());
        assert!(waits[0].poll_unpin(&mut cx).is_pending());
        latch.set();
        assert_eq!((before.wakes(), after.wakes()), (0, 1));
    }

    #[test]
    fn raise_wakes_no_waiter() {
        let (latch, counter, mut waits) = with_waiters(2);
        latch.raise();
        assert!(latch.is_set());
        assert!(is_ready(&mut waits[0]));
        assert_eq!(counter.wakes(), 0);
        // This includes waiters that saw the level by themselves, and are dropped at any time.
        assert_eq!(latch.take_waiters().count(), 2);
        assert_eq!(latch.take_waiters().count(), 0);
        drop(waits);
        assert_eq!(latch.wait().now_or_never(), Some(()));
    }

    #[test]
    fn waiter_dropped_after_raise_is_gone() {
        let (latch, _, mut waits) = with_waiters(3);
        latch.raise();
        drop(waits.remove(1));
        assert_eq!(latch.take_waiters().count(), 2);
        // Waiters dropped after the list was taken remove no other waiter.
        drop(waits);
    }

    #[test]
    fn take_waiters_leaves_the_level() {
        let (latch, _, mut waits) = with_waiters(1);
        latch.raise();
        for waiter in latch.take_waiters() {
            waiter.wake();
        }
        assert!(is_ready(&mut waits[0]));
    }

    #[test]
    fn waker_panic_spares_other_waiters() {
        struct Panics;

        impl std::task::Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::resume_unwind(Box::new("woken"));
            }
        }

        let latch = Latch::new();
        let (panics, counter) = (Waker::from(Arc::new(Panics)), WakeCounter::new());
        let mut waits = [(); 3].map(|()| latch.wait());
        for (wait, waker) in waits
            .iter_mut()
            .zip([counter.waker(), &panics, counter.waker()])
        {
            assert!(
                wait.poll_unpin(&mut Context::from_waker(waker))
                    .is_pending()
            );
        }
        latch.set();
        assert_eq!(counter.wakes(), 2);
    }

    #[test]
    fn dropped_waiters_are_woken() {
        let (latch, counter, _waits) = with_waiters(3);
        latch.raise();
        let mut waiters = latch.take_waiters();
        assert!(waiters.next().is_some());
        assert_eq!(counter.wakes(), 0);
        drop(waiters);
        assert_eq!(counter.wakes(), 2);
    }
}
