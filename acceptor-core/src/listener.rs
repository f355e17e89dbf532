//! The sockets of an adapter: accept, two addresses, and a handshake.
//!
//! A listener is separate from the runtime, so that Unix sockets, in-memory
//! pipes, TLS- or PROXY-reading listeners need no change to the core.

use std::fmt::Debug;
use std::future::Future;
use std::io;

use crate::accept_error::AcceptErrorKind;
use crate::handshake::{Handshake, StreamOf, Then};

/// A listening socket of some runtime.
///
/// Dropping the listener closes the socket. The pool calls `accept` from one
/// task at a time (rule L5).
///
/// A listener of one's own, for Unix sockets or pipes, says what it accepts and of which address. The example `unix` of
/// acceptor-tokio is a whole one; here the socket is the standard library's:
///
/// ```
/// use std::io;
/// use std::net::{SocketAddr, TcpListener, TcpStream};
/// use acceptor_core::{Listener, NoHandshake};
///
/// /// Only to show the shape: its `accept` blocks the thread, and a listener must suspend instead.
/// struct Blocking(TcpListener);
///
/// impl Listener for Blocking {
///     type Io = TcpStream;
///     type Addr = SocketAddr;
///     type Handshake = NoHandshake;
///
///     async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
///         self.0.accept()
///     }
///
///     fn local_addr(&self) -> io::Result<SocketAddr> {
///         self.0.local_addr()
///     }
///
///     fn io_local_addr(io: &TcpStream) -> io::Result<SocketAddr> {
///         io.local_addr()
///     }
///
///     fn handshake(&self) -> NoHandshake {
///         NoHandshake
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a pool cannot accept from `{Self}`",
    label = "`{Self}` is not a `Listener`",
    note = "use the `TcpListener` of the adapter crate: its `bind(..)` opens one, its `from_std(..)` and `try_from(..)` make one of another listener"
)]
pub trait Listener: Send + Sync + 'static {
    /// The stream that the system's `accept` returns: the runtime's own, which the pool hands over untouched (rule B10).
    type Io: Send + 'static;

    /// [`SocketAddr`](std::net::SocketAddr), or the address type of another family: of both ends, and of the listener. Lists
    /// and reports show it by `Debug`. Plain data: its `Clone` and `Debug` must not call the pool.
    type Addr: Clone + Debug + Send + Sync + 'static;

    /// What is done with a stream before `serve` gets it: [`NoHandshake`](crate::NoHandshake) for a plain socket.
    type Handshake: Handshake<Self::Io, Self::Addr>;

    /// Waits for the next connection.
    ///
    /// Dropping the future must lose no connection. Errors of the system come through
    /// unchanged: the pool decides what they mean (rules A1 to A6). If a step of your own fails for one connection, to read the
    /// credentials of its peer for example, return an error of the kind `ConnectionAborted`: only that one is skipped.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Self::Addr)>> + Send;

    /// The address that the listener is bound to, with its port resolved.
    fn local_addr(&self) -> io::Result<Self::Addr>;

    /// The local address of one accepted connection. Asked only if the listener
    /// [says so](Listener::asks_local_addr), because that costs a system call.
    fn io_local_addr(io: &Self::Io) -> io::Result<Self::Addr>;

    /// The handshake of the listener's connections. Asked once, when the listener is added: handshakes may go on after the
    /// socket is closed.
    fn handshake(&self) -> Self::Handshake;

    /// Tells whether connections may have another local address than the listener (rule B10): if it is bound to a wildcard,
    /// or proxies transparently. Asked once, when the listener is added.
    ///
    /// The default returns `true`, which is always right, and costs a system call for each connection.
    fn asks_local_addr(&self) -> bool {
        true
    }

    /// Classifies an error of `accept` that only the listener knows, before the pool's table is asked (rule A6).
    ///
    /// `None`, which the default always returns, leaves it to the table:
    /// [`AcceptErrorKind::classify`], or that of the spec. A runtime's own errors
    /// belong here, because neither table can name a runtime. That the
    /// listener's runtime has ended is [`AcceptErrorKind::Listener`]: it will never accept again.
    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        let _ = error;
        None
    }

    /// The same listener with one more handshake, after those that it has:
    /// `listener.with(proxy_protocol).with(tls)`.
    fn with<H>(self, handshake: H) -> With<Self, H>
    where
        Self: Sized,
        H: Handshake<StreamOf<Self>, Self::Addr>,
    {
        With {
            listener: self,
            handshake,
        }
    }
}

/// A listener with one more handshake: what [`Listener::with`] returns.
#[derive(Debug, Clone)]
pub struct With<L, H> {
    listener: L,
    handshake: H,
}

impl<L, H> With<L, H> {
    /// The listener without the handshake.
    pub fn get_ref(&self) -> &L {
        &self.listener
    }

    /// Takes the handshake off again.
    pub fn into_inner(self) -> L {
        self.listener
    }
}

impl<L, H> Listener for With<L, H>
where
    L: Listener,
    H: Handshake<StreamOf<L>, L::Addr>,
{
    type Io = L::Io;
    type Addr = L::Addr;
    type Handshake = Then<L::Handshake, H>;

    fn accept(&self) -> impl Future<Output = io::Result<(L::Io, L::Addr)>> + Send {
        self.listener.accept()
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }

    fn io_local_addr(io: &L::Io) -> io::Result<L::Addr> {
        L::io_local_addr(io)
    }

    fn handshake(&self) -> Self::Handshake {
        Then {
            first: self.listener.handshake(),
            second: self.handshake.clone(),
        }
    }

    fn asks_local_addr(&self) -> bool {
        self.listener.asks_local_addr()
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        self.listener.classify(error)
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use std::net::SocketAddr;

    use super::*;
    use crate::handshake::NoHandshake;

    /// A listener to name in types.
    pub(crate) struct Nowhere;

    impl Listener for Nowhere {
        type Io = ();
        type Addr = SocketAddr;
        type Handshake = NoHandshake;

        async fn accept(&self) -> io::Result<((), SocketAddr)> {
            std::future::pending().await
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn io_local_addr(_stream: &()) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn handshake(&self) -> NoHandshake {
            NoHandshake
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::SocketAddr;

    use super::testing::Nowhere;
    use super::*;
    use crate::handshake::HandshakeError;
    use crate::incoming::Incoming;

    #[test]
    fn errors_are_left_to_the_table_by_default() {
        for error in [io::Error::other("gone"), io::Error::from_raw_os_error(22)] {
            assert_eq!(Nowhere.classify(&error), None, "{error}");
        }
    }

    #[test]
    fn local_address_is_asked_for_by_default() {
        assert!(Nowhere.asks_local_addr());
    }

    /// Passes the stream on.
    #[derive(Clone)]
    struct Passes;

    impl Handshake<(), SocketAddr> for Passes {
        type Stream = ();

        async fn run(
            &self,
            incoming: Incoming<(), SocketAddr>,
        ) -> Result<Incoming<(), SocketAddr>, HandshakeError> {
            Ok(incoming)
        }
    }

    #[test]
    fn listener_with_a_handshake_is_the_listener() {
        let with = Nowhere.with(Passes);
        assert!(with.asks_local_addr());
        assert_eq!(
            with.local_addr().unwrap_err().kind(),
            io::ErrorKind::Unsupported
        );
        let error = With::<Nowhere, Passes>::io_local_addr(&()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(with.classify(&io::Error::other("gone")), None);
        let Nowhere = with.get_ref();
        let Nowhere = with.into_inner();
    }
}
