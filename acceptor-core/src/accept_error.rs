//! What an error of `accept` means: of one connection, of resources, or of the listener (A1 to A4).

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::sync::guarded;

/// What an accept error is about, and so what the pool does on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AcceptErrorKind {
    /// Of one connection: skipped and counted; the same acceptor waits on (A1).
    Connection,
    /// Of resources: the listener pauses, 5 ms doubling to 1 s (A2).
    Resources,
    /// Of the listener: it is closed as failed (A3).
    Listener,
}

impl AcceptErrorKind {
    /// The pool's own table. What it does not know is treated as resources.
    ///
    /// ```
    /// use std::io::{Error, ErrorKind};
    /// use acceptor_core::AcceptErrorKind;
    ///
    /// let aborted = Error::from(ErrorKind::ConnectionAborted);
    /// assert_eq!(AcceptErrorKind::of(&aborted), AcceptErrorKind::Connection);
    /// let unheard_of = Error::other("unheard of");
    /// assert_eq!(AcceptErrorKind::of(&unheard_of), AcceptErrorKind::Resources);
    /// ```
    pub fn of(error: &io::Error) -> Self {
        if let Some(kind) = error.raw_os_error().and_then(by_number) {
            return kind;
        }
        match error.kind() {
            ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::NotConnected
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied
            | ErrorKind::Interrupted
            | ErrorKind::BrokenPipe
            | ErrorKind::TimedOut => Self::Connection,
            ErrorKind::InvalidInput => Self::Listener,
            _ => Self::Resources,
        }
    }
}

/// The errors that accept(2) lists and the standard library has no kind for.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn by_number(number: i32) -> Option<AcceptErrorKind> {
    const EPERM: i32 = 1;
    const EBADF: i32 = 9;
    const ENOMEM: i32 = 12;
    const EFAULT: i32 = 14;
    const EINVAL: i32 = 22;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENONET: i32 = 64;
    const EPROTO: i32 = 71;
    const ENOTSOCK: i32 = 88;
    const ENOPROTOOPT: i32 = 92;
    const EOPNOTSUPP: i32 = 95;
    const ENOBUFS: i32 = 105;
    const EHOSTDOWN: i32 = 112;
    match number {
        EPERM | ENONET | EPROTO | ENOPROTOOPT | EHOSTDOWN => Some(AcceptErrorKind::Connection),
        // accept(2) lists it twice: among the errors of a new connection, and for a socket that can
        // never accept. The standard library's listeners are never of the second sort.
        EOPNOTSUPP => Some(AcceptErrorKind::Connection),
        ENOMEM | ENFILE | EMFILE | ENOBUFS => Some(AcceptErrorKind::Resources),
        EBADF | EFAULT | EINVAL | ENOTSOCK => Some(AcceptErrorKind::Listener),
        _ => None,
    }
}

/// The same for the BSD family, whose numbers differ.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly"
))]
fn by_number(number: i32) -> Option<AcceptErrorKind> {
    const EPERM: i32 = 1;
    const EBADF: i32 = 9;
    const ENOMEM: i32 = 12;
    const EFAULT: i32 = 14;
    const EINVAL: i32 = 22;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOTSOCK: i32 = 38;
    const ENOPROTOOPT: i32 = 42;
    const EOPNOTSUPP: i32 = 45;
    const ENOBUFS: i32 = 55;
    const EHOSTDOWN: i32 = 64;
    match number {
        EPERM | ENOPROTOOPT | EOPNOTSUPP | EHOSTDOWN => Some(AcceptErrorKind::Connection),
        ENOMEM | ENFILE | EMFILE | ENOBUFS => Some(AcceptErrorKind::Resources),
        EBADF | EFAULT | EINVAL | ENOTSOCK => Some(AcceptErrorKind::Listener),
        _ => None,
    }
}

/// Elsewhere the standard library's kinds decide.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly"
)))]
fn by_number(_number: i32) -> Option<AcceptErrorKind> {
    None
}

/// The table of one pool: the pool's own, or the user's (A4).
#[derive(Clone)]
pub(crate) struct AcceptErrors {
    table: Arc<dyn Fn(&io::Error) -> AcceptErrorKind + Send + Sync>,
}

impl AcceptErrors {
    pub(crate) fn new(
        table: impl Fn(&io::Error) -> AcceptErrorKind + Send + Sync + 'static,
    ) -> Self {
        Self {
            table: Arc::new(table),
        }
    }

    /// A table that panics does not know.
    pub(crate) fn kind(&self, error: &io::Error) -> AcceptErrorKind {
        guarded(|| (self.table)(error)).unwrap_or(AcceptErrorKind::Resources)
    }
}

impl fmt::Debug for AcceptErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptErrors").finish_non_exhaustive()
    }
}
