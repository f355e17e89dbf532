//! The listening socket of an adapter: accept, addresses, and a handshake.
//!
//! A listener is separate from the runtime, so that Unix sockets, in-memory pipes and listeners
//! with a handshake need no change to the core.

use std::fmt::Debug;
use std::future::Future;
use std::io;

use crate::accept_error::AcceptErrorKind;
use crate::handshake::{Handshake, StreamOf, Then};
use crate::policy::Refusal;

/// A listening socket of some runtime.
///
/// The pool calls `accept` from one task at a time ([L5](crate::guide::rules#l5)). Dropping the
/// listener closes the socket. Implement it for sockets that the adapters do not cover; the example
/// `unix` of acceptor-tokio is a complete implementation. This one uses the standard library's
/// socket:
///
/// ```
/// use std::io;
/// use std::net::{SocketAddr, TcpListener, TcpStream};
/// use acceptor_core::{Listener, NoHandshake};
///
/// /// Shows the shape only: `accept` blocks the thread, where a real listener must suspend.
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
///
/// let listener = Blocking(TcpListener::bind("127.0.0.1:0")?);
/// assert_ne!(listener.local_addr()?.port(), 0);
/// # Ok::<_, io::Error>(())
/// ```
#[doc(alias = "accept loop")]
#[doc(alias = "TcpListener")]
#[doc(alias = "Incoming")]
#[diagnostic::on_unimplemented(
    message = "a pool cannot accept from `{Self}`",
    label = "`{Self}` is not a `Listener`",
    note = "use the `TcpListener` of the adapter crate: its `bind(..)` opens one, its `from_std(..)` and `try_from(..)` convert another listener"
)]
pub trait Listener: Send + Sync + 'static {
    /// The stream that the system's `accept` returns: the runtime's own type, which the pool passes
    /// on unchanged ([B10](crate::guide::rules#b10)).
    type Io: Send + 'static;

    /// The address type of both ends and of the listener: [`SocketAddr`](std::net::SocketAddr), or
    /// another family's. Lists and reports show it with `Debug`. Its `Clone` and `Debug` must not
    /// call the pool.
    type Addr: Clone + Debug + Send + Sync + 'static;

    /// The handshake of its connections: [`NoHandshake`](crate::NoHandshake) for a plain socket.
    type Handshake: Handshake<Self::Io, Self::Addr>;

    /// Waits for the next connection.
    ///
    /// The first poll returns a connection that is known to be queued: a pool that closes takes a
    /// pending call as an empty queue ([L7](crate::guide::rules#l7)). Where `accept` starts an
    /// operation that completes later, as on io_uring, it first tries without waiting.
    ///
    /// # Errors
    ///
    /// Return the system's errors unchanged: the pool decides what they mean
    /// ([A1](crate::guide::rules#a1) to [A6](crate::guide::rules#a6)). If a step of your own fails
    /// for one connection, such as reading the credentials of its peer, return an error of kind
    /// `ConnectionAborted`: only that connection is skipped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future must not lose a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Self::Addr)>> + Send;

    /// Returns the address that the listener is bound to, with its port resolved.
    fn local_addr(&self) -> io::Result<Self::Addr>;

    /// Returns the local address of one accepted connection. The pool calls it only if
    /// [`asks_local_addr`](Listener::asks_local_addr) returns true, because it costs a system call.
    fn io_local_addr(io: &Self::Io) -> io::Result<Self::Addr>;

    /// Returns the handshake of the listener's connections. The pool calls it once, when the
    /// listener is added, because handshakes may continue after the socket is closed.
    fn handshake(&self) -> Self::Handshake;

    /// Returns whether connections may have another local address than the listener
    /// ([B10](crate::guide::rules#b10)): if it is bound to a wildcard address, or proxies
    /// transparently. The pool calls it once, when the listener is added.
    ///
    /// The default returns `true`, which is always correct and costs one system call for each
    /// connection.
    fn asks_local_addr(&self) -> bool {
        true
    }

    /// Classifies an error of `accept` that only the listener understands, before the pool's own
    /// table is used ([A6](crate::guide::rules#a6)).
    ///
    /// `None`, which the default always returns, leaves the error to [`AcceptErrorKind::classify`]
    /// or to the function of the spec. Implement it for errors of the runtime, which neither of
    /// them can know. If the listener's runtime has ended, return [`AcceptErrorKind::Listener`]: it
    /// will never accept again.
    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        let _ = error;
        None
    }

    /// Closes a connection that is refused because a limit is reached
    /// ([C2](crate::guide::rules#c2)), without waiting. Whatever cannot be done is left out.
    ///
    /// The default drops it, whatever the refusal asks for.
    fn refuse(io: Self::Io, how: &Refusal) {
        let _ = how;
        drop(io);
    }

    /// Adds a handshake, which runs after those that the listener already has:
    /// `listener.with(proxy_protocol).with(tls)`.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// use std::net::{SocketAddr, TcpStream};
    ///
    /// /// Rejects clients of other machines.
    /// #[derive(Clone)]
    /// struct LocalOnly;
    ///
    /// impl Handshake<TcpStream, SocketAddr> for LocalOnly {
    ///     type Stream = TcpStream;
    ///
    ///     async fn run(
    ///         &self,
    ///         incoming: Incoming<TcpStream, SocketAddr>,
    ///     ) -> Result<Incoming<TcpStream, SocketAddr>, HandshakeError> {
    ///         match incoming.peer_addr().ip().is_loopback() {
    ///             true => Ok(incoming),
    ///             false => Err(HandshakeError::from_cause("remote")),
    ///         }
    ///     }
    /// }
    ///
    /// let listener = Tcp::bind()?.with(LocalOnly);
    /// assert_eq!(listener.local_addr()?, listener.get_ref().local_addr()?);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "layer")]
    #[doc(alias = "tls")]
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

/// A listener with an additional handshake, built by [`Listener::with`].
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::Tcp;
/// use acceptor_core::{Listener, NoHandshake};
///
/// let listener = Tcp::bind()?.with(NoHandshake);
/// assert_eq!(listener.local_addr()?, listener.into_inner().local_addr()?);
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct With<L, H> {
    listener: L,
    handshake: H,
}

impl<L, H> With<L, H> {
    /// Returns the listener without the handshake.
    pub fn get_ref(&self) -> &L {
        &self.listener
    }

    /// Removes the handshake, and returns the listener.
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

    fn refuse(io: Self::Io, how: &Refusal) {
        L::refuse(io, how);
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
    use crate::handshake::{HandshakeError, NoHandshake};
    use crate::incoming::Incoming;

    #[test]
    fn errors_are_unclassified_by_default() {
        for error in [io::Error::other("gone"), io::Error::from_raw_os_error(22)] {
            assert_eq!(Nowhere.classify(&error), None, "{error}");
        }
    }

    #[test]
    fn local_addr_is_asked_by_default() {
        assert!(Nowhere.asks_local_addr());
    }

    /// Passes the stream through.
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
    fn with_delegates_to_its_listener() {
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

    /// A listener with answers of its own, other than the defaults.
    struct Answers;

    impl Listener for Answers {
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

        fn asks_local_addr(&self) -> bool {
            false
        }

        fn classify(&self, _: &io::Error) -> Option<AcceptErrorKind> {
            Some(AcceptErrorKind::Connection)
        }
    }

    #[test]
    fn with_keeps_the_listeners_answers() {
        let with = Answers.with(Passes);
        assert!(!with.asks_local_addr());
        let kind = with.classify(&io::Error::other("gone"));
        assert_eq!(kind, Some(AcceptErrorKind::Connection));
    }
}
