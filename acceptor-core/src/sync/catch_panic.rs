//! Containment of user code: a panic is returned as a message, also one from a `Drop`.

use std::any::Any;
use std::mem::needs_drop;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::thread::panicking;

/// Runs user code. Returns the message if it panics.
#[inline]
pub(crate) fn catch_panic<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(panic_message)
}

/// Drops a value that may hold user values, whose `Drop` may panic.
pub(super) fn drop_catching<T>(value: T) {
    let _ = catch_panic(move || drop(value));
}

/// Owns a user value and contains the panics of its `Drop`, wherever it is dropped.
pub(crate) struct DropCatching<T>(Option<T>);

/// A shared user value: the last owner may drop it anywhere.
pub(crate) type Shared<T> = DropCatching<Arc<T>>;

/// Owns a user value until a callback takes it. A panic of its `Drop` propagates, to become part of
/// the child's end, unless another one is unwinding: two at once would abort the process.
pub(crate) struct DropResuming<T>(Option<T>);

impl<T> DropResuming<T> {
    #[inline]
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    #[inline]
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect(OWNED)
    }
}

impl<T> Drop for DropResuming<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else {
            return;
        };
        if let Err(message) = catch_panic(move || drop(value)) {
            if !panicking() {
                // Resumed as it came, because the panic hook has run already.
                resume_unwind(Box::new(message));
            }
        }
    }
}

impl<T> DropCatching<T> {
    #[inline]
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Takes the value, if it was not taken before. An owner without a value can only be dropped.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<T> {
        self.0.take()
    }

    #[inline]
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect(OWNED)
    }
}

const OWNED: &str = "the value is taken by nothing but a call that consumes its owner";

impl<T: Clone> Clone for DropCatching<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for DropCatching<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(OWNED)
    }
}

impl<T> Drop for DropCatching<T> {
    fn drop(&mut self) {
        // Otherwise no user code runs.
        if needs_drop::<T>() {
            if let Some(value) = self.0.take() {
                drop_catching(value);
            }
        }
    }
}

/// Wakes a task. A waker is foreign code: one that panics must not keep others from being woken.
pub(crate) fn wake(waker: Waker) {
    let _ = catch_panic(move || waker.wake());
}

/// Returns the message of a panic. Drops the payload with care, because its `Drop` may panic too.
pub(crate) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let message = if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is not text".to_owned()
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // Payloads whose drop panics with another such payload could go on without end.
        std::mem::forget(second);
    }
    message
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
    fn panic_message_is_returned() {
        assert_eq!(
            catch_panic(|| panic!("plain")),
            Err::<(), _>("plain".into())
        );
        assert_eq!(
            catch_panic(|| panic!("a {}", 1)),
            Err::<(), _>("a 1".into())
        );
        let odd = catch_panic(|| std::panic::panic_any(PanicsWhenDropped));
        assert_eq!(
            odd,
            Err::<(), _>("a panic whose payload is not text".into())
        );
    }

    #[test]
    fn payload_drop_panic_is_contained() {
        /// Its drop panics with another of its kind, endlessly.
        struct PanicsRepeatedly;

        impl Drop for PanicsRepeatedly {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new(PanicsRepeatedly));
            }
        }

        let odd = catch_panic(|| std::panic::resume_unwind(Box::new(PanicsRepeatedly)));
        assert_eq!(
            odd,
            Err::<(), _>("a panic whose payload is not text".into())
        );
    }

    #[test]
    fn drop_panic_is_contained() {
        drop(DropCatching::new(PanicsWhenDropped));
        drop(Shared::new(Arc::new(PanicsWhenDropped)));
    }

    #[test]
    fn drop_panic_while_unwinding_is_contained() {
        let message = catch_panic(|| {
            let _owned = DropCatching::new(PanicsWhenDropped);
            panic!("first");
        });
        assert_eq!(message, Err::<(), _>("first".into()));
    }

    #[test]
    fn drop_panic_propagates_unless_unwinding() {
        let message = catch_panic(|| drop(DropResuming::new(PanicsWhenDropped)));
        assert_eq!(message, Err("dropped".into()));
        let message = catch_panic(|| {
            drop((
                DropResuming::new(PanicsWhenDropped),
                DropResuming::new(PanicsWhenDropped),
            ))
        });
        assert_eq!(message, Err("dropped".into()));
        let message = catch_panic(|| {
            let _owned = DropResuming::new(PanicsWhenDropped);
            panic!("first");
        });
        assert_eq!(message, Err::<(), _>("first".into()));
        let taken = DropResuming::new(vec![1, 2]).into_inner();
        assert_eq!(taken, [1, 2]);
    }

    #[test]
    fn owner_derefs_to_its_value() {
        let owner = DropCatching::new(vec![1, 2]);
        assert_eq!(*owner, [1, 2]);
        assert_eq!(*owner.clone(), [1, 2]);
        assert_eq!(owner.into_inner(), [1, 2]);
    }

    #[test]
    fn value_is_dropped_with_its_last_owner() {
        let (value, shared) = (Arc::new(()), Shared::new(Arc::new(Arc::new(()))));
        let owner = DropCatching::new(Arc::clone(&value));
        assert_eq!(Arc::strong_count(&value), 2);
        drop(owner);
        assert_eq!(Arc::strong_count(&value), 1);
        let inside = Arc::clone(&**shared);
        drop(shared.clone());
        assert_eq!(Arc::strong_count(&inside), 2);
        drop(shared);
        assert_eq!(Arc::strong_count(&inside), 1);
    }
}
