//! Listeners that pause for lack of resources resume when a connection of the pool ends (A2).
//!
//! Invariant: while no listener is short of resources, the end of a connection costs one load.

use std::sync::Arc;

use crate::listener::Listener;
use crate::pool::listener_shared::ListenerShared;
use crate::runtime::Runtime;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

pub(crate) struct Exhaustion<R: Runtime, L: Listener> {
    /// The number of listeners that are short of resources.
    short: AtomicUsize,
    /// Counts the connections that ended while any was short.
    ends: AtomicU64,
    listeners: Mutex<Vec<Arc<ListenerShared<R, L>>>>,
}

impl<R: Runtime, L: Listener> Exhaustion<R, L> {
    pub(crate) fn new() -> Self {
        Self {
            short: AtomicUsize::new(0),
            ends: AtomicU64::new(0),
            listeners: Mutex::new(Vec::new()),
        }
    }

    /// Records that a listener is short of resources, until [`leave`](Self::leave).
    pub(crate) fn enter(&self, listener: &Arc<ListenerShared<R, L>>) {
        lock(&self.listeners).push(Arc::clone(listener));
        self.short.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self, listener: &Arc<ListenerShared<R, L>>) {
        let left = {
            let mut listeners = lock(&self.listeners);
            let at = listeners
                .iter()
                .position(|known| Arc::ptr_eq(known, listener));
            at.map(|at| listeners.swap_remove(at))
        };
        if left.is_some() {
            self.short.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Returns a number that changes with each end. An accept loop that reads it before it calls
    /// `accept` can see whether a connection ended meanwhile.
    pub(crate) fn ends(&self) -> u64 {
        self.ends.load(Ordering::SeqCst)
    }

    /// Records that a connection has ended and its contents are dropped.
    pub(crate) fn connection_ended(&self) {
        if self.short.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.ends.fetch_add(1, Ordering::SeqCst);
        let listeners = lock(&self.listeners).clone();
        for listener in listeners {
            listener.inbox.resume();
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;
    use crate::listener::testing::Nowhere;
    use crate::pool::listener_shared::testing::listener;
    use crate::runtime::testing::Tasks;

    type Short = Arc<ListenerShared<Tasks, Nowhere>>;

    /// Whether the accept loop of a listener has to resume.
    fn resumes(listener: &Short) -> bool {
        let inbox = &listener.inbox;
        let news = inbox.collect(&mut VecDeque::new(), false, None, Waker::noop());
        news.resume
    }

    /// Checks which listeners resume when a connection ends, and whether the end is counted.
    #[track_caller]
    fn check_end(exhaustion: &Exhaustion<Tasks, Nowhere>, listeners: &[&Short], expected: &[bool]) {
        let ends = exhaustion.ends();
        exhaustion.connection_ended();
        let resumed: Vec<_> = listeners.iter().map(|listener| resumes(listener)).collect();
        assert_eq!(resumed, expected);
        let counted = expected.contains(&true);
        assert_eq!(exhaustion.ends() != ends, counted);
    }

    #[test]
    fn connection_end_resumes_listeners() {
        let (one, other) = (listener(1), listener(1));
        let (exhaustion, both) = (Exhaustion::new(), [&one, &other]);
        check_end(&exhaustion, &both, &[false, false]);
        exhaustion.enter(&one);
        check_end(&exhaustion, &both, &[true, false]);
        check_end(&exhaustion, &both, &[true, false]);
        exhaustion.enter(&other);
        check_end(&exhaustion, &both, &[true, true]);
        exhaustion.leave(&one);
        check_end(&exhaustion, &both, &[false, true]);
        exhaustion.leave(&other);
        check_end(&exhaustion, &both, &[false, false]);
    }

    #[test]
    fn unpaused_listener_leaves_nothing() {
        let (one, other) = (listener(1), listener(1));
        let exhaustion = Exhaustion::new();
        exhaustion.leave(&one);
        exhaustion.enter(&other);
        exhaustion.leave(&one);
        check_end(&exhaustion, &[&one, &other], &[false, true]);
        exhaustion.leave(&other);
        exhaustion.leave(&other);
        check_end(&exhaustion, &[&one, &other], &[false, false]);
        assert_eq!(Arc::strong_count(&one) + Arc::strong_count(&other), 2);
    }
}
