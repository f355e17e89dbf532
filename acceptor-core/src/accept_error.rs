//! Classification of accept errors: of one connection, of resources, or of the listener (A1 to A4,
//! A6).

use std::io::{self, ErrorKind};

/// The cause of an accept error, which decides how the pool reacts.
#[doc(alias = "EMFILE")]
#[doc(alias = "too many open files")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AcceptErrorKind {
    /// Only the connection being accepted has failed. It is skipped and counted, and the same
    /// acceptor keeps waiting ([A1](crate::guide::rules#a1)).
    Connection,
    /// Descriptors or memory have run out. The listener pauses, for 5 ms doubling to 1 s, and
    /// resumes earlier if a connection of the pool ends ([A2](crate::guide::rules#a2)).
    Resources,
    /// The listener itself has failed. It is closed and reported ([A3](crate::guide::rules#a3),
    /// [L4](crate::guide::rules#l4)).
    Listener,
}

impl AcceptErrorKind {
    /// Classifies an error of `accept` by the pool's own table.
    ///
    /// The system's error number decides, if the error has one ([A6](crate::guide::rules#a6)).
    /// Without one, `InvalidInput` is an error of the connection: some systems return a connection
    /// that was reset with an empty address, which the standard library reports in this way. An
    /// unknown error is one of resources, so it pauses the listener and does not close it.
    ///
    /// ```
    /// use std::io::{Error, ErrorKind};
    /// use acceptor_core::AcceptErrorKind;
    ///
    /// let aborted = Error::from(ErrorKind::ConnectionAborted);
    /// assert_eq!(AcceptErrorKind::classify(&aborted), AcceptErrorKind::Connection);
    /// let unknown = Error::other("unknown");
    /// assert_eq!(AcceptErrorKind::classify(&unknown), AcceptErrorKind::Resources);
    /// ```
    pub fn classify(error: &io::Error) -> Self {
        let number = error.raw_os_error();
        let known = number.and_then(by_number);
        known.unwrap_or_else(|| by_kind(error.kind(), number))
    }
}

fn by_kind(kind: ErrorKind, number: Option<i32>) -> AcceptErrorKind {
    match kind {
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
        | ErrorKind::TimedOut => AcceptErrorKind::Connection,
        ErrorKind::InvalidInput if number.is_none() => AcceptErrorKind::Connection,
        ErrorKind::InvalidInput => AcceptErrorKind::Listener,
        _ => AcceptErrorKind::Resources,
    }
}

/// Classifies errors for which the standard library has no kind, or too general a kind.
///
/// Resource errors need no entry: they are the default.
fn by_number(number: i32) -> Option<AcceptErrorKind> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        on_linux(number)
    } else if cfg!(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "openbsd",
        target_os = "netbsd",
        target_os = "dragonfly"
    )) {
        on_the_bsds(number)
    } else if cfg!(windows) {
        on_windows(number)
    } else {
        None
    }
}

fn on_linux(number: i32) -> Option<AcceptErrorKind> {
    const EPERM: i32 = 1;
    const EBADF: i32 = 9;
    const EFAULT: i32 = 14;
    const EINVAL: i32 = 22;
    const ENONET: i32 = 64;
    const EPROTO: i32 = 71;
    const ENOTSOCK: i32 = 88;
    const ENOPROTOOPT: i32 = 92;
    const EOPNOTSUPP: i32 = 95;
    const EHOSTDOWN: i32 = 112;
    match number {
        EPERM | ENONET | EPROTO | ENOPROTOOPT | EHOSTDOWN => Some(AcceptErrorKind::Connection),
        // accept(2) lists it twice: as an error of a new connection, and for a socket that can
        // never accept. The constructors of listeners refuse the latter (V4).
        EOPNOTSUPP => Some(AcceptErrorKind::Connection),
        EBADF | EFAULT | EINVAL | ENOTSOCK => Some(AcceptErrorKind::Listener),
        _ => None,
    }
}

/// Classifies the error numbers of the BSD family, which differ.
fn on_the_bsds(number: i32) -> Option<AcceptErrorKind> {
    const EPERM: i32 = 1;
    const EBADF: i32 = 9;
    const EFAULT: i32 = 14;
    const EINVAL: i32 = 22;
    const ENOTSOCK: i32 = 38;
    const ENOPROTOOPT: i32 = 42;
    const EOPNOTSUPP: i32 = 45;
    const EHOSTDOWN: i32 = 64;
    match number {
        EPERM | ENOPROTOOPT | EOPNOTSUPP | EHOSTDOWN => Some(AcceptErrorKind::Connection),
        EBADF | EFAULT | EINVAL | ENOTSOCK => Some(AcceptErrorKind::Listener),
        _ => None,
    }
}

/// Classifies Winsock's numbers. The standard library has no kinds for them, except for an invalid
/// argument.
fn on_windows(number: i32) -> Option<AcceptErrorKind> {
    const WSAEBADF: i32 = 10009;
    const WSAEFAULT: i32 = 10014;
    const WSAEINVAL: i32 = 10022;
    const WSAENOTSOCK: i32 = 10038;
    const WSAEOPNOTSUPP: i32 = 10045;
    match number {
        WSAEBADF | WSAEFAULT | WSAEINVAL | WSAENOTSOCK | WSAEOPNOTSUPP => {
            Some(AcceptErrorKind::Listener)
        }
        _ => None,
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use AcceptErrorKind::{Connection, Listener, Resources};

    #[track_caller]
    fn check(error: &io::Error, expected: AcceptErrorKind) {
        assert_eq!(AcceptErrorKind::classify(error), expected, "{error:?}");
    }

    /// Every error that accept(2) lists, by its number on Linux.
    #[cfg(target_os = "linux")]
    #[test]
    fn listed_errors_are_classified() {
        for (number, name, kind) in [
            (1, "EPERM", Connection),
            (4, "EINTR", Connection),
            (9, "EBADF", Listener),
            (11, "EAGAIN", Resources),
            (12, "ENOMEM", Resources),
            (14, "EFAULT", Listener),
            (22, "EINVAL", Listener),
            (23, "ENFILE", Resources),
            (24, "EMFILE", Resources),
            (64, "ENONET", Connection),
            (71, "EPROTO", Connection),
            (88, "ENOTSOCK", Listener),
            (92, "ENOPROTOOPT", Connection),
            (95, "EOPNOTSUPP", Connection),
            (100, "ENETDOWN", Connection),
            (101, "ENETUNREACH", Connection),
            (103, "ECONNABORTED", Connection),
            (104, "ECONNRESET", Connection),
            (105, "ENOBUFS", Resources),
            (110, "ETIMEDOUT", Connection),
            (111, "ECONNREFUSED", Connection),
            (112, "EHOSTDOWN", Connection),
            (113, "EHOSTUNREACH", Connection),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(AcceptErrorKind::classify(&error), kind, "{name}: {error}");
        }
    }

    /// By number only: the error kinds depend on the system that runs the test.
    #[test]
    fn bsd_errno_values_are_known() {
        for (number, name, kind) in [
            (1, "EPERM", Some(Connection)),
            (9, "EBADF", Some(Listener)),
            (12, "ENOMEM", None),
            (14, "EFAULT", Some(Listener)),
            (22, "EINVAL", Some(Listener)),
            (23, "ENFILE", None),
            (24, "EMFILE", None),
            (38, "ENOTSOCK", Some(Listener)),
            (42, "ENOPROTOOPT", Some(Connection)),
            (45, "EOPNOTSUPP", Some(Connection)),
            (55, "ENOBUFS", None),
            (64, "EHOSTDOWN", Some(Connection)),
        ] {
            assert_eq!(on_the_bsds(number), kind, "{name}");
        }
    }

    #[test]
    fn windows_bad_socket_is_listener_error() {
        for (number, name, kind) in [
            (10009, "WSAEBADF", Some(Listener)),
            (10014, "WSAEFAULT", Some(Listener)),
            (10022, "WSAEINVAL", Some(Listener)),
            (10024, "WSAEMFILE", None),
            (10038, "WSAENOTSOCK", Some(Listener)),
            (10045, "WSAEOPNOTSUPP", Some(Listener)),
            (10054, "WSAECONNRESET", None),
            (10055, "WSAENOBUFS", None),
        ] {
            assert_eq!(on_windows(number), kind, "{name}");
        }
    }

    /// Without a number the error is a connection with an empty address.
    #[test]
    fn invalid_input_is_judged_by_errno() {
        assert_eq!(by_kind(ErrorKind::InvalidInput, Some(22)), Listener);
        assert_eq!(by_kind(ErrorKind::InvalidInput, None), Connection);
        let unreadable = io::Error::new(ErrorKind::InvalidInput, "invalid argument");
        check(&unreadable, Connection);
        check(&ErrorKind::InvalidInput.into(), Connection);
        if cfg!(unix) {
            check(&io::Error::from_raw_os_error(22), Listener);
        }
    }

    #[test]
    fn every_io_error_kind_is_classified() {
        for (kind, expected) in [
            (ErrorKind::ConnectionAborted, Connection),
            (ErrorKind::ConnectionReset, Connection),
            (ErrorKind::ConnectionRefused, Connection),
            (ErrorKind::NotConnected, Connection),
            (ErrorKind::HostUnreachable, Connection),
            (ErrorKind::NetworkUnreachable, Connection),
            (ErrorKind::NetworkDown, Connection),
            (ErrorKind::PermissionDenied, Connection),
            (ErrorKind::Interrupted, Connection),
            (ErrorKind::BrokenPipe, Connection),
            (ErrorKind::TimedOut, Connection),
            (ErrorKind::InvalidInput, Connection),
            (ErrorKind::OutOfMemory, Resources),
            (ErrorKind::WouldBlock, Resources),
            (ErrorKind::Unsupported, Resources),
            (ErrorKind::UnexpectedEof, Resources),
            (ErrorKind::Other, Resources),
        ] {
            check(&io::Error::from(kind), expected);
            check(&io::Error::new(kind, "in words"), expected);
        }
    }

    #[test]
    fn unknown_error_is_resource_error() {
        check(&io::Error::other("unheard of"), Resources);
        for number in [0, -1, i32::MIN, i32::MAX, 4095] {
            check(&io::Error::from_raw_os_error(number), Resources);
        }
    }
}
