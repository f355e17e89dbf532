//! The few synchronisation primitives that the core uses, in one place, and the helpers that keep user code from doing harm.
//!
//! Invariant: no lock of the core is poisoned for good. What a lock protects is
//! consistent at every point where user code may run, so a poisoned lock is opened.

use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

#[cfg(all(test, loom))]
mod modelled;

#[cfg(all(test, loom))]
use modelled as primitives;

#[cfg(not(all(test, loom)))]
mod primitives {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
    pub(crate) use std::sync::{Mutex, MutexGuard};
}

pub(crate) use std::sync::PoisonError;
pub(crate) use std::sync::atomic::Ordering;

pub(crate) use primitives::{AtomicBool, AtomicU8, AtomicU64, Mutex, MutexGuard};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs user code; a panic comes back as its message.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(panic_message)
}

/// Drops what may hold user values, whose `Drop` may panic.
pub(crate) fn drop_guarded<T>(value: T) {
    let _ = guarded(move || drop(value));
}

/// A value of the user's, shared. Its `Drop` may panic, wherever the last of them goes.
pub(crate) struct Shared<T: ?Sized>(Option<Arc<T>>);

impl<T: ?Sized> Shared<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self(Some(value))
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().expect("it is there until it is dropped")
    }
}

impl<T: ?Sized> Drop for Shared<T> {
    fn drop(&mut self) {
        drop_guarded(self.0.take());
    }
}

/// A waker is the runtime's code: one that panics must not keep others asleep.
pub(crate) fn wake(waker: Waker) {
    let _ = guarded(move || waker.wake());
}

/// The message of a panic; drops the payload with care, for its `Drop` may panic too.
pub(crate) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let message = if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is not text".to_owned()
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // A payload whose drop panics with a payload whose drop panics could go on for ever.
        std::mem::forget(second);
    }
    message
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    /// A waker that counts how often it was woken.
    pub(crate) struct WakeCounter {
        count: Arc<Count>,
        waker: Waker,
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl WakeCounter {
        pub(crate) fn new() -> Self {
            let count = Arc::new(Count(AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&count));
            Self { count, waker }
        }

        pub(crate) fn waker(&self) -> &Waker {
            &self.waker
        }

        pub(crate) fn wakes(&self) -> usize {
            self.count.0.load(Ordering::SeqCst)
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn a_panic_comes_back_as_its_message_whatever_its_payload() {
        assert_eq!(guarded(|| panic!("plain")), Err::<(), _>("plain".into()));
        assert_eq!(guarded(|| panic!("a {}", 1)), Err::<(), _>("a 1".into()));
        let odd = guarded(|| std::panic::panic_any(PanicsWhenDropped));
        assert_eq!(
            odd,
            Err::<(), _>("a panic whose payload is not text".into())
        );
    }

    #[test]
    fn a_value_whose_drop_panics_does_no_harm() {
        drop_guarded(PanicsWhenDropped);
    }

    #[test]
    fn a_poisoned_lock_is_opened() {
        let mutex = Mutex::new(1);
        let _ = guarded(|| {
            let _guard = mutex.lock();
            panic!("while locked");
        });
        assert!(mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 1);
    }
}
