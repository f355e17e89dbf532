//! Fault injection for `accept`, and errors that a listener classifies itself.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use acceptor_core::AcceptErrorKind;

use super::lock;

/// Returns the error of `accept` on a socket that does not listen: EINVAL, or WSAEINVAL. With that number it is an
/// error of the listener; `InvalidInput` without a number is an error of one connection (A6).
pub fn not_listening() -> io::Error {
    io::Error::from_raw_os_error(if cfg!(windows) { 10022 } else { 22 })
}

/// An error that the listener classifies itself, as an adapter does for its runtime's own errors (A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeError(pub AcceptErrorKind);

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an error of the runtime's own, of kind {:?}", self.0)
    }
}

impl Error for RuntimeError {}

/// The injected errors that one listener has yet to return. Clones share them.
#[derive(Clone, Default)]
pub struct Faults {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    errors: VecDeque<io::Error>,
    waker: Option<Waker>,
}

impl Faults {
    /// Makes the listener return this error before it accepts another connection.
    pub fn inject(&self, error: io::Error) {
        self.inject_all([error]);
    }

    /// Makes the listener return these errors in turn before it accepts another connection.
    pub fn inject_all(&self, errors: impl IntoIterator<Item = io::Error>) {
        let waker = {
            let mut shared = lock(&self.shared);
            shared.errors.extend(errors);
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns how many injected errors are left.
    pub fn pending(&self) -> usize {
        lock(&self.shared).errors.len()
    }

    pub(super) fn next(&self, waker: &Waker) -> Option<io::Error> {
        let mut shared = lock(&self.shared);
        let error = shared.errors.pop_front();
        if error.is_none() {
            shared.waker = Some(waker.clone());
        }
        error
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}
