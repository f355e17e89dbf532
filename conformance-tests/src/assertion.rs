//! The assertions of the suite by their place in its source. To measure the suite, a comparison can be switched off.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::panic::Location;

use crate::verdict::Broken;

/// The place of an assertion in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site(&'static Location<'static>);

impl Site {
    /// Returns the place of the caller.
    #[track_caller]
    pub(crate) fn caller() -> Self {
        Self(Location::caller())
    }

    /// Returns the file as the compiler names it, the line and the column, both counted from 1.
    pub fn place(self) -> (&'static str, u32, u32) {
        (self.0.file(), self.0.line(), self.0.column())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

thread_local! {
    static OFF: Cell<Option<Site>> = const { Cell::new(None) };
}

/// Calls the closure with one comparison switched off: on this thread it holds for any value.
///
/// Any other assertion ends the check when it fails, so the check holds without it.
pub fn without<T>(comparison: Site, checks: impl FnOnce() -> T) -> T {
    struct SwitchedOff;
    // Also when the closure panics: later checks on this thread need the comparison.
    impl Drop for SwitchedOff {
        fn drop(&mut self) {
            OFF.set(None);
        }
    }
    OFF.set(Some(comparison));
    let _switched_off = SwitchedOff;
    checks()
}

/// Returns whether a comparison is switched off. Called only when the comparison has failed.
pub(crate) fn is_off(comparison: Site) -> bool {
    OFF.get() == Some(comparison)
}

/// Attributes the failures of a check to the caller.
#[track_caller]
pub(crate) fn at_caller<T>(
    check: impl Future<Output = Result<T, Broken>>,
) -> impl Future<Output = Result<T, Broken>> {
    let site = Site::caller();
    async move { check.await.map_err(|broken| broken.at(site)) }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::verdict::{Verdict, same};

    #[test]
    fn comparison_is_on_after_a_panic() {
        fn compare() -> Verdict {
            same("a number", 1, 2)
        }
        let site = compare().expect_err("the numbers differ").site();
        assert_eq!(without(site, compare), Ok(()));
        let panicked = catch_unwind(|| without(site, || std::panic::resume_unwind(Box::new(()))));
        assert!(panicked.is_err());
        assert!(compare().is_err());
    }
}
