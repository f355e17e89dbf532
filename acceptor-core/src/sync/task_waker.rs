//! The waker of a task. It is the runtime's code: no panic of its `wake` or its `Drop` gets out.

use std::task::Waker;

use super::catch_panic::{drop_catching, wake};

/// A waker, or none yet.
#[derive(Clone, Default)]
pub(crate) struct TaskWaker(Option<Waker>);

/// Which task a waker is of. As long as that waker is kept no other task's can have the same. The waker of a poll is not the one
/// to ask for it, since what it borrows may be another's later, unlike what its clone owns.
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

    /// Keeps a waker, unless it has one of the same task. Returns the one before, to be dropped outside of any lock.
    #[must_use]
    pub(crate) fn register(&mut self, waker: &Waker) -> Self {
        match &self.0 {
            Some(known) if known.will_wake(waker) => Self(None),
            _ => std::mem::replace(self, Self::new(waker)),
        }
    }

    /// That of the waker that is kept.
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
    fn waker_that_was_registered_last_is_woken() {
        let (first, second) = (WakeCounter::new(), WakeCounter::new());
        let mut task = TaskWaker::default();
        task.clone().wake();
        assert!(task.register(first.waker()).0.is_none());
        assert!(task.register(first.waker()).0.is_none(), "it is the same");
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
    fn panics_of_a_waker_are_contained() {
        let panics = || TaskWaker(Some(Waker::from(Arc::new(Panics))));
        panics().wake();
        drop(panics());
        let mut task = panics();
        drop(task.register(Waker::noop()));
    }
}
