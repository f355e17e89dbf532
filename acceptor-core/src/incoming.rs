//! A connection between `accept` and `serve`: the stream, and the addresses, which a handshake may
//! replace (H5).

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::text::EscapedDebug;

/// An accepted stream with its addresses: the argument and the result of a
/// [`Handshake`](crate::Handshake).
///
/// ```
/// use acceptor_core::Incoming;
///
/// // What a handshake for the PROXY protocol does with the addresses that it reads:
/// let mut incoming = Incoming::new("stream", "proxy", "server");
/// incoming.set_addrs("client", "service");
/// assert_eq!(incoming.peer_addr(), &"client");
/// assert_eq!(incoming.transport_addrs(), (&"proxy", &"server"));
/// ```
#[non_exhaustive]
pub struct Incoming<S, A> {
    /// The stream.
    pub stream: S,
    peer_addr: A,
    local_addr: A,
    /// The addresses of the transport, if a handshake has replaced any.
    transport: Option<Box<Transport<A>>>,
    /// The list entry of the connection, while it is in its handshake.
    listed: Option<Arc<dyn Listed<A>>>,
}

/// The list entry of a connection in its handshake.
pub(crate) trait Listed<A>: Send + Sync {
    /// Records replaced addresses (H5).
    fn readdressed(&self, peer_addr: &A, local_addr: &A, transport: &Transport<A>);

    /// Records that the handshake is complete.
    fn handshaken(&self);
}

impl<S: Debug, A: Debug> Debug for Incoming<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("stream", &self.stream)
            .field("peer_addr", &self.peer_addr)
            .field("local_addr", &self.local_addr)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// The addresses of the transport, usually a proxy's, of a connection whose handshake has replaced
/// them ([H5](crate::guide::rules#h5)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transport<A> {
    /// The peer's address.
    pub peer_addr: A,
    /// The local address.
    pub local_addr: A,
}

/// Writes the peer of a connection.
pub(crate) struct PeerText<'a, A> {
    peer_addr: &'a A,
    transport: Option<&'a Transport<A>>,
}

impl<'a, A> PeerText<'a, A> {
    pub(crate) fn new(peer_addr: &'a A, transport: Option<&'a Transport<A>>) -> Self {
        Self {
            peer_addr,
            transport,
        }
    }
}

impl<A: Debug> fmt::Display for PeerText<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        EscapedDebug(self.peer_addr).fmt(f)?;
        match self.transport {
            Some(transport) => write!(f, " through {}", EscapedDebug(&transport.peer_addr)),
            None => Ok(()),
        }
    }
}

impl<S, A> Incoming<S, A> {
    /// Creates a value from a stream and its addresses, as the pool does. Use it to test a
    /// handshake.
    pub fn new(stream: S, peer_addr: A, local_addr: A) -> Self {
        Self {
            stream,
            peer_addr,
            local_addr,
            transport: None,
            listed: None,
        }
    }

    /// Returns the peer's address: the transport's, unless a handshake has replaced it.
    pub fn peer_addr(&self) -> &A {
        &self.peer_addr
    }

    /// Returns the local address: the transport's, unless a handshake has replaced it.
    pub fn local_addr(&self) -> &A {
        &self.local_addr
    }

    /// Returns the peer's and the local address of the transport, regardless of replacements.
    pub fn transport_addrs(&self) -> (&A, &A) {
        match &self.transport {
            Some(transport) => (&transport.peer_addr, &transport.local_addr),
            None => (&self.peer_addr, &self.local_addr),
        }
    }

    /// Replaces the peer's and the local address. Lists and reports show them from now on
    /// ([H5](crate::guide::rules#h5)).
    pub fn set_addrs(&mut self, peer_addr: A, local_addr: A) {
        let before = Transport {
            peer_addr: std::mem::replace(&mut self.peer_addr, peer_addr),
            local_addr: std::mem::replace(&mut self.local_addr, local_addr),
        };
        let transport = self.transport.get_or_insert_with(|| Box::new(before));
        if let Some(listed) = &self.listed {
            listed.readdressed(&self.peer_addr, &self.local_addr, transport);
        }
    }

    /// Replaces the stream with the result of a function.
    ///
    /// ```
    /// use acceptor_core::Incoming;
    ///
    /// let incoming = Incoming::new("stream", "client", "server").map_stream(str::len);
    /// assert_eq!(incoming.stream, 6);
    /// ```
    pub fn map_stream<T>(self, map: impl FnOnce(S) -> T) -> Incoming<T, A> {
        let (stream, incoming) = self.take_stream();
        incoming.with_stream(map(stream))
    }

    /// Takes the stream out. [`with_stream`](Incoming::with_stream) puts another one in its place.
    ///
    /// ```
    /// use acceptor_core::Incoming;
    ///
    /// let (stream, incoming) = Incoming::new("stream", "client", "server").take_stream();
    /// let incoming = incoming.with_stream(stream.len());
    /// assert_eq!(incoming.stream, 6);
    /// ```
    pub fn take_stream(self) -> (S, Incoming<(), A>) {
        let Self {
            stream,
            peer_addr,
            local_addr,
            transport,
            listed,
        } = self;
        let incoming = Incoming {
            stream: (),
            peer_addr,
            local_addr,
            transport,
            listed,
        };
        (stream, incoming)
    }

    #[inline]
    pub(crate) fn into_parts(self) -> (S, A, A, Option<Box<Transport<A>>>) {
        (self.stream, self.peer_addr, self.local_addr, self.transport)
    }

    /// Sets the list entry that shows addresses replaced from now on.
    pub(crate) fn is_listed(&mut self, listed: Arc<dyn Listed<A>>) {
        self.listed = Some(listed);
    }
}

impl<A> Incoming<(), A> {
    /// Puts a stream in the place of the one that was taken out.
    pub fn with_stream<T>(self, stream: T) -> Incoming<T, A> {
        let Self {
            stream: (),
            peer_addr,
            local_addr,
            transport,
            listed,
        } = self;
        Incoming {
            stream,
            peer_addr,
            local_addr,
            transport,
            listed,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn transport_addresses_are_kept() {
        let mut incoming = Incoming::new((), 1, 2);
        assert_eq!(incoming.transport_addrs(), (&1, &2));
        for addrs in [(3, 4), (5, 6)] {
            incoming.set_addrs(addrs.0, addrs.1);
            assert_eq!((*incoming.peer_addr(), *incoming.local_addr()), addrs);
            assert_eq!(incoming.transport_addrs(), (&1, &2));
        }
        let incoming = incoming.with_stream("stream");
        assert_eq!(incoming.transport_addrs(), (&1, &2));
    }

    #[test]
    fn debug_shows_stream_and_addresses() {
        let mut incoming = Incoming::new("stream", 1, 2);
        let words =
            r#"Incoming { stream: "stream", peer_addr: 1, local_addr: 2, transport: None, .. }"#;
        assert_eq!(format!("{incoming:?}"), words);
        incoming.set_addrs(3, 4);
        let words = r#"Incoming { stream: "stream", peer_addr: 3, local_addr: 4, transport: Some(Transport { peer_addr: 1, local_addr: 2 }), .. }"#;
        assert_eq!(format!("{incoming:?}"), words);
    }
}
