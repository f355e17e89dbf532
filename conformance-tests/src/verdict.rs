//! What a check comes to: what was expected and what was seen.

use std::error::Error;
use std::fmt;

/// A check holds, or tells how not.
pub type Verdict = Result<(), Broken>;

/// A check that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broken {
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// Where the cause may lie.
    pub check: Option<&'static str>,
}

/// Where the cause lies if an event had come, and the waker that waited for it was not called.
pub(crate) const LOST_WAKE: &str =
    "does the runtime, the listener or the stream forget to wake who waits, or wake another?";

impl Broken {
    /// Something else was seen than was expected.
    pub fn new(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            seen: seen.into(),
            check: None,
        }
    }

    /// Says where the cause may lie, unless it is known: that who waited was not woken.
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

/// Compares what was seen with what was expected of `what`.
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
