//! What an adapter supplies of its sockets: accept, and two addresses.
//!
//! A listener is separate from the runtime, so that Unix sockets, in-memory
//! pipes, TLS- or PROXY-reading listeners need no change to the core.

use std::any::Any;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use crate::accept_error::AcceptErrorKind;

/// A listening socket of some runtime.
///
/// Dropping the listener closes the socket. The pool calls `accept` from one
/// task at a time (rule L5).
pub trait Listener: Send + Sync + 'static {
    /// The runtime's own stream; the pool asks nothing of it and hands it over untouched (rule B10).
    type Stream: Send + 'static;

    /// [`SocketAddr`], or the address type of another family. Plain data: its `Clone` and `Debug` must not call the pool.
    type Addr: Clone + Debug + Send + Sync + 'static;

    /// Waits for the next connection.
    ///
    /// Dropping the future must lose no connection. Errors come through
    /// unchanged: the pool decides what they mean (rules A1 to A4).
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Addr)>> + Send;

    /// The address that the listener is bound to, with its port resolved.
    fn local_addr(&self) -> io::Result<Self::Addr>;

    /// The local address of one accepted connection. Asked only when the
    /// listener is bound to a wildcard, because that costs a system call.
    fn stream_local_addr(stream: &Self::Stream) -> io::Result<Self::Addr>;

    /// Classifies an error of `accept` that only the listener knows, before the pool's table is asked (rule A6).
    ///
    /// `None`, which the default always returns, leaves it to the table:
    /// [`AcceptErrorKind::of`], or the one of the spec. A runtime's own errors
    /// belong here, because neither table can name a runtime. That the
    /// listener's runtime has ended is [`AcceptErrorKind::Listener`]: it will never accept again.
    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        let _ = error;
        None
    }

    /// Tells whether connections may have another local address than the
    /// listener. The default knows it of [`SocketAddr`]: `0.0.0.0`, `::`, and
    /// `0.0.0.0` as an IPv6 address.
    fn is_wildcard(address: &Self::Addr) -> bool {
        (address as &dyn Any)
            .downcast_ref::<SocketAddr>()
            .is_some_and(|address| address.ip().to_canonical().is_unspecified())
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use super::*;

    /// A listener to name in types.
    pub(crate) struct Nowhere;

    impl Listener for Nowhere {
        type Stream = ();
        type Addr = SocketAddr;

        async fn accept(&self) -> io::Result<((), SocketAddr)> {
            std::future::pending().await
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn stream_local_addr(_stream: &()) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::testing::Nowhere;
    use super::*;

    #[test]
    fn errors_are_left_to_the_table_by_default() {
        for error in [io::Error::other("gone"), io::Error::from_raw_os_error(22)] {
            assert_eq!(Nowhere.classify(&error), None, "{error}");
        }
    }

    #[test]
    fn a_wildcard_is_an_unspecified_address_of_either_family() {
        for (address, wildcard) in [
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("[::ffff:0.0.0.0]:1", true),
            ("127.0.0.1:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("[::1]:1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(Nowhere::is_wildcard(&address), wildcard, "{address}");
        }
    }
}
