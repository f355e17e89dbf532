//! Panics while pools are checked: those of children are part of the checks and are not printed; one that ends a check
//! is its failure.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Stops printing panics in the whole process.
///
/// Many rules are about children that panic. A panic that ends a check is reported as its failure, with the location.
pub fn silence_panics() {
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(|location| format!(" at {location}"));
        // The thread-local is gone once the thread is being destroyed.
        let _ = LOCATION.try_with(|kept| kept.replace(location));
    }));
}

/// Runs code, and returns the message and location of its panic as the error.
pub fn caught<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let location = LOCATION.take().unwrap_or_default();
        format!("it panicked{location}: {}", message(&*payload))
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with a payload that is not text")
}
