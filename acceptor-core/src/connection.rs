//! The argument of `serve`: the stream, the addresses of its ends, and the state of the pool that concerns it.

use std::fmt;
use std::sync::Arc;

use crate::guard::Guard;
use crate::id::{ChildId, ListenerId};
use crate::incoming::{Incoming, Transport};
use crate::latch::Latch;

/// A connection, as `serve` gets it (rule B10).
///
/// Take it apart to own the stream and keep the rest:
///
/// ```
/// # async fn check(connection: acceptor_core::Connection<String, std::net::SocketAddr>) {
/// let acceptor_core::Connection { stream, lifecycle, .. } = connection;
/// let stop = lifecycle.trap_stop();
/// # drop((stream, stop));
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection<S, A> {
    /// The runtime's own stream, untouched; or what the handshake of the listener made of it.
    pub stream: S,
    /// The other end's address.
    pub peer_addr: A,
    /// This end's address, that of this connection also when the listener is bound to a wildcard.
    pub local_addr: A,
    /// The addresses of the transport, if a handshake has replaced them (H5): those of the proxy.
    pub transport: Option<Box<Transport<A>>>,
    /// The id under which the pool lists, stops and kills this connection.
    pub id: ChildId,
    /// The listener that it came from.
    pub listener: ListenerId,
    /// The tag of that listener, if it has one: what `ListenerSettings::tag` said when it was added.
    pub tag: Option<Arc<str>>,
    /// The signals of the pool to it.
    pub lifecycle: Lifecycle,
}

impl<S, A> Connection<S, A> {
    #[inline]
    pub(crate) fn new(
        incoming: Incoming<S, A>,
        id: ChildId,
        (listener, tag): (ListenerId, Option<Arc<str>>),
        lifecycle: Lifecycle,
    ) -> Self {
        let (stream, peer_addr, local_addr, transport) = incoming.into_parts();
        Self {
            stream,
            peer_addr,
            local_addr,
            transport,
            id,
            listener,
            tag,
            lifecycle,
        }
    }

    /// Replaces the stream by what is made of it.
    ///
    /// ```
    /// # fn check(connection: acceptor_core::Connection<String, ()>) {
    /// let connection = connection.map_stream(String::into_bytes);
    /// # let _: Vec<u8> = connection.stream;
    /// # }
    /// ```
    pub fn map_stream<T>(self, map: impl FnOnce(S) -> T) -> Connection<T, A> {
        Connection {
            stream: map(self.stream),
            peer_addr: self.peer_addr,
            local_addr: self.local_addr,
            transport: self.transport,
            id: self.id,
            listener: self.listener,
            tag: self.tag,
            lifecycle: self.lifecycle,
        }
    }
}

/// The signals of the pool to a connection: *draining* and *stop* (rules N1 and N2).
#[derive(Clone)]
pub struct Lifecycle {
    pub(crate) control: ControlOfConnection,
}

impl Lifecycle {
    /// The signal that is set as soon as the connection's listener begins to close, or has failed (rule N1): finish what is in
    /// flight, begin nothing new. A stop begins with it, after the lame duck if there is one (rule S2).
    ///
    /// For up to a second from then on the listener takes the clients that the system has queued (L7), and the grace of a stop
    /// begins after that. To know that its address is free, wait for [`close_listener`](crate::Pool::close_listener).
    pub fn draining(&self) -> &Latch {
        self.control.control.draining()
    }

    /// Takes the stop signal, and with it the duty to leave.
    ///
    /// A connection that took it is signalled at the stop phase and may go on until
    /// the shutdown timeout. One that did not is dropped at the stop phase.
    /// Taking it again gives the same signal; taking it late, in the very poll
    /// in which the stop phase came, still counts. Once the connection has ended there is nothing to wait for: a signal that is
    /// taken then is set.
    pub fn trap_stop(&self) -> Latch {
        self.control.control.trap_stop(self.control.key)
    }

    /// Takes a guard: the connection has not ended until `serve` has returned and every guard is dropped (E6).
    ///
    /// Traps the stop. A guard that is taken once the connection has ended is harmless; it counts as killed.
    pub fn guard(&self) -> Guard {
        Guard::take(&self.control)
    }
}

/// The way from a connection to its pool.
#[derive(Clone)]
pub(crate) struct ControlOfConnection {
    /// That of many connections: a connection is told by its key.
    pub(crate) control: Arc<dyn ConnectionControl>,
    pub(crate) key: ChildKey,
}

/// A child among those of its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildKey {
    pub(crate) number: u64,
    pub(crate) slot: u32,
}

/// What a connection may ask of its pool.
pub(crate) trait ConnectionControl: Send + Sync {
    fn draining(&self) -> &Latch;

    fn trap_stop(&self, key: ChildKey) -> Latch;

    /// One guard more; gives what is set once the connection is killed. `None` if it has ended.
    fn take_guard(&self, key: ChildKey) -> Option<Latch>;

    /// One guard less, with the panic of what it ran.
    fn give_guard(&self, key: ChildKey, panicked: Option<String>);

    /// Whether it was killed, or has ended.
    fn is_killed(&self, key: ChildKey) -> bool;
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle")
            .field("draining", &self.draining().is_set())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    struct Untrapped(Latch);

    impl ConnectionControl for Untrapped {
        fn draining(&self) -> &Latch {
            &self.0
        }

        fn trap_stop(&self, _key: ChildKey) -> Latch {
            Latch::new()
        }

        fn take_guard(&self, _key: ChildKey) -> Option<Latch> {
            None
        }

        fn give_guard(&self, _key: ChildKey, _panicked: Option<String>) {}

        fn is_killed(&self, _key: ChildKey) -> bool {
            false
        }
    }

    #[test]
    fn signals_show_whether_they_drain() {
        let lifecycle = Lifecycle {
            control: ControlOfConnection {
                control: Arc::new(Untrapped(Latch::new())),
                key: ChildKey { number: 1, slot: 0 },
            },
        };
        assert_eq!(
            format!("{lifecycle:?}"),
            "Lifecycle { draining: false, .. }"
        );
        lifecycle.draining().clone().set();
        assert_eq!(format!("{lifecycle:?}"), "Lifecycle { draining: true, .. }");
    }
}
