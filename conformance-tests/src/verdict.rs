//! The verdict of a check: what was expected and what was seen.

use std::error::Error;
use std::fmt;

/// The result of a check.
pub type Verdict = Result<(), Broken>;

/// A check that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broken {
    /// The expectation.
    pub expected: String,
    /// The observation.
    pub seen: String,
    /// Where the cause may be.
    pub check: Option<&'static str>,
}

/// The hint for an event that occurred without waking the task that waits for it.
pub(crate) const LOST_WAKE: &str = "does the runtime, the listener or the stream wake the task that waits? Does it wake another one?";

impl Broken {
    /// Creates an error from what was expected and what was seen.
    pub fn new(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            seen: seen.into(),
            check: None,
        }
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
pub fn same<T: PartialEq + fmt::Debug>(what: &str, expected: T, seen: T) -> Verdict {
    if expected == seen {
        return Ok(());
    }
    Err(Broken::new(
        format!("{what}: {expected:?}"),
        format!("{what}: {seen:?}"),
    ))
}
