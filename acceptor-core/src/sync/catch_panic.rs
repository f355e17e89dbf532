//! Keeps user code from doing harm: a panic in it comes back as a message, also that of a `Drop`.

use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

/// Runs user code; a panic comes back as its message.
pub(crate) fn catch_panic<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(panic_message)
}

/// Drops what may hold user values, whose `Drop` may panic.
pub(crate) fn drop_catching<T>(value: T) {
    let _ = catch_panic(move || drop(value));
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
        drop_catching(self.0.take());
    }
}

/// A waker is the runtime's code: one that panics must not keep others asleep.
pub(crate) fn wake(waker: Waker) {
    let _ = catch_panic(move || waker.wake());
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
    fn a_value_whose_drop_panics_does_no_harm() {
        drop_catching(PanicsWhenDropped);
    }
}
