//! The verdict of a check: what was expected and what was seen.

use std::error::Error;
use std::fmt;

use crate::assertion::{self, Site};

/// The result of a check.
pub type Verdict = Result<(), Broken>;

/// A check that does not hold.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Broken {
    /// The expectation.
    pub expected: String,
    /// The observation.
    pub seen: String,
    /// Where the cause may be.
    pub check: Option<&'static str>,
    site: Site,
}

impl PartialEq for Broken {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            expected,
            seen,
            check,
            site: _,
        } = self;
        (expected, seen, check) == (&other.expected, &other.seen, &other.check)
    }
}

impl Eq for Broken {}

/// The hint for an event that occurred without waking the task that waits for it.
pub(crate) const LOST_WAKE: &str = "does the runtime, the listener or the stream wake the task that waits? Does it wake another one?";

impl Broken {
    /// Creates an error from what was expected and what was seen.
    #[track_caller]
    pub fn new(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            seen: seen.into(),
            check: None,
            site: Site::caller(),
        }
    }

    /// Returns the place of the assertion that failed.
    #[doc(hidden)]
    pub fn site(&self) -> Site {
        self.site
    }

    /// Attributes the failure to another assertion.
    pub(crate) fn at(self, site: Site) -> Self {
        Self { site, ..self }
    }

    /// Adds a hint at the cause, unless the cause is already known to be a lost wake.
    pub fn check(mut self, check: &'static str) -> Self {
        if self.check != Some(LOST_WAKE) {
            self.check = Some(check);
        }
        self
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected: {}\nseen:     {}", self.expected, self.seen)?;
        match self.check {
            Some(check) => write!(f, "\ncheck:    {check}"),
            None => Ok(()),
        }
    }
}

impl Error for Broken {}

/// Compares the expected and the seen value of `what`.
///
/// # Errors
///
/// [`Broken`] if they differ.
#[track_caller]
pub fn same<T: PartialEq + fmt::Debug>(what: &str, expected: T, seen: T) -> Verdict {
    if expected == seen || assertion::is_off(Site::caller()) {
        return Ok(());
    }
    Err(Broken::new(
        format!("{what}: {expected:?}"),
        format!("{what}: {seen:?}"),
    ))
}
