//! The waker of a task. It is foreign code: panics of its `wake` and its `Drop` are contained.

use std::task::Waker;

use super::catch_panic::{drop_catching, wake};

/// A waker, or none yet.
#[derive(Clone, Default)]
pub(crate) struct TaskWaker(Option<Waker>);

/// Identifies the task of a waker. While that waker is kept, no other task's can have the same
/// identity. The id is taken from the kept clone, not from the waker of a poll, whose borrowed data
/// may later belong to another task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WakerId {
    data: usize,
    vtable: usize,
}

impl WakerId {
    pub(crate) fn of(waker: &Waker) -> Self {
        Self {
            data: waker.data().addr(),
            vtable: std::ptr::from_ref(waker.vtable()).addr(),
        }
    }
}

impl TaskWaker {
    pub(crate) fn new(waker: &Waker) -> Self {
        Self(Some(waker.clone()))
    }

    /// Stores a waker, unless one of the same task is stored. Returns the previous one, to be
    /// dropped outside of any lock.
    #[must_use]
    pub(crate) fn register(&mut self, waker: &Waker) -> Self {
        match &self.0 {
            Some(known) if known.will_wake(waker) => Self(None),
            _ => std::mem::replace(self, Self::new(waker)),
        }
    }

    /// Returns the identity of the stored waker.
    pub(crate) fn id(&self) -> Option<WakerId> {
        self.0.as_ref().map(WakerId::of)
    }

    #[must_use]
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(crate) fn wake(mut self) {
        if let Some(waker) = self.0.take() {
            wake(waker);
        }
    }
}

impl Drop for TaskWaker {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            drop_catching(waker);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;
    use crate::sync::testing::WakeCounter;

    #[test]
    fn latest_waker_is_woken() {
        let (first, second) = (WakeCounter::new(), WakeCounter::new());
        let mut task = TaskWaker::default();
        task.clone().wake();
        assert!(task.register(first.waker()).0.is_none());
        assert!(
            task.register(first.waker()).0.is_none(),
            "the waker is the same"
        );
        let before = task.register(second.waker());
        let is_first = |waker: &Waker| waker.will_wake(first.waker());
        assert!(before.0.as_ref().is_some_and(is_first));
        task.clone().wake();
        task.take().wake();
        task.wake();
        assert_eq!((first.wakes(), second.wakes()), (0, 2));
    }

    /// Panics when it is woken, and when it is dropped.
    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            std::mem::forget(self);
            std::panic::resume_unwind(Box::new("woken"));
        }
    }

    impl Drop for Panics {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }

    #[test]
    fn waker_panics_are_contained() {
        let panics = || TaskWaker(Some(Waker::from(Arc::new(Panics))));
        panics().wake();
        drop(panics());
        let mut task = panics();
        drop(task.register(Waker::noop()));
    }
}
