//! Panics while pools are checked: those of children belong to the checks and are not printed; one that ends a check is told.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics are not printed, in the whole process.
///
/// Many rules are about children that panic. A panic that ends a check is told as its failure, with its place.
pub fn silence_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|location| format!(" at {location}"));
        // A thread that is at its end has no place to keep it.
        let _ = PLACE.try_with(|kept| kept.replace(place));
    }));
}

/// Runs it; if it panics, what is to be told of that.
pub fn caught<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let place = PLACE.take().unwrap_or_default();
        format!("it panicked{place}: {}", message(&*payload))
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with something that is no text")
}
