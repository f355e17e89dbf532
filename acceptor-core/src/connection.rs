//! The argument of `serve`: the stream, the addresses of both ends, and the pool's signals.

use std::fmt;
use std::sync::Arc;

use crate::guard::Guard;
use crate::id::{ChildId, ListenerId};
use crate::incoming::{Incoming, Transport};
use crate::latch::Latch;

/// A connection to serve: its stream, its addresses and its link to the pool
/// ([B10](crate::guide::rules#b10)).
///
/// Take it apart to own the stream and keep the rest:
///
/// ```
/// use acceptor_core::Connection;
///
/// let (connection, _signals) = Connection::for_test("stream", "client", "server");
/// assert_eq!(connection.id.to_string(), "1.1");
/// let Connection { stream, peer_addr, lifecycle, .. } = connection;
/// assert_eq!((stream, peer_addr), ("stream", "client"));
/// assert!(!lifecycle.draining().is_set());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection<S, A> {
    /// The runtime's own stream, unchanged, or the stream that the listener's handshake made of it.
    pub stream: S,
    /// The peer's address.
    pub peer_addr: A,
    /// The local address of this connection, even if the listener is bound to a wildcard.
    pub local_addr: A,
    /// The addresses of the transport, usually a proxy's, if a handshake has replaced them
    /// ([H5](crate::guide::rules#h5)).
    pub transport: Option<Box<Transport<A>>>,
    /// The id by which the pool lists, stops and kills this connection.
    pub id: ChildId,
    /// The listener that accepted it.
    pub listener: ListenerId,
    /// The [tag](crate::ListenerSettings::tag) of that listener, if it has one.
    pub tag: Option<Arc<str>>,
    /// The pool's signals to the connection, and its guards.
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

    /// Replaces the stream with the result of a function.
    ///
    /// ```
    /// use acceptor_core::Connection;
    ///
    /// let (connection, _signals) = Connection::for_test("stream".to_owned(), "client", "server");
    /// let connection = connection.map_stream(String::into_bytes);
    /// assert_eq!(connection.stream, b"stream");
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

/// The pool's signals to a connection, *draining* ([N1](crate::guide::rules#n1)) and *stop*
/// ([N2](crate::guide::rules#n2)), and its guards ([E6](crate::guide::rules#e6)).
///
/// Clones refer to the same connection.
///
/// ```
/// use acceptor_core::{Connection, Exit};
/// use futures::future::{Either, select};
/// # use futures::FutureExt;
/// # async fn serve_next_request(_stream: &mut String) { std::future::pending().await }
///
/// async fn serve(mut connection: Connection<String, &'static str>) -> Exit {
///     let stop = connection.lifecycle.trap_stop();
///     while !connection.lifecycle.draining().is_set() {
///         let request = std::pin::pin!(serve_next_request(&mut connection.stream));
///         if let Either::Right(_) = select(request, stop.wait()).await {
///             return Exit::clean("stopped");
///         }
///     }
///     Exit::normal()
/// }
///
/// # async {
/// let (connection, signals) = Connection::for_test(String::new(), "client", "server");
/// signals.stop();
/// assert_eq!(serve(connection).await.reason(), Some("stopped"));
/// # }.now_or_never().unwrap();
/// ```
#[doc(alias = "CancellationToken")]
#[doc(alias = "shutdown signal")]
#[derive(Clone)]
pub struct Lifecycle {
    pub(crate) control: ControlOfConnection,
}

impl Lifecycle {
    /// Returns the latch that is set when the connection's listener begins to close, or has failed
    /// ([N1](crate::guide::rules#n1)).
    ///
    /// Finish the work in progress and start nothing new. A stop sets it after the lame duck, if
    /// there is one ([S2](crate::guide::rules#s2)). For up to a second from then on, the listener
    /// still takes the clients that the system has queued ([L7](crate::guide::rules#l7)); the grace
    /// of a stop begins afterwards. To wait until the listener's address is free, use
    /// [`close_listener`](crate::Pool::close_listener).
    ///
    /// ```
    /// use acceptor_core::Connection;
    ///
    /// let (connection, signals) = Connection::for_test("stream", "client", "server");
    /// assert!(!connection.lifecycle.draining().is_set());
    /// signals.drain();
    /// assert!(connection.lifecycle.draining().is_set());
    /// ```
    #[doc(alias = "drain")]
    #[doc(alias = "graceful shutdown")]
    #[doc(alias = "GOAWAY")]
    pub fn draining(&self) -> &Latch {
        self.control.control.draining()
    }

    /// Traps the stop, and returns the latch that is set at the stop phase
    /// ([N2](crate::guide::rules#n2)).
    ///
    /// A connection that trapped the stop may continue until the
    /// [shutdown](crate::Settings::shutdown) timeout, and should end as soon as it can. One that
    /// did not is dropped at the stop phase.
    ///
    /// Another call returns the same latch. A late call still counts, even in the very poll in
    /// which the stop phase begins. Once the connection has ended, the latch that is returned is
    /// set.
    ///
    /// ```
    /// use acceptor_core::Connection;
    ///
    /// let (connection, signals) = Connection::for_test("stream", "client", "server");
    /// let stop = connection.lifecycle.trap_stop();
    /// assert!(signals.is_stop_trapped());
    /// signals.stop();
    /// assert!(stop.is_set());
    /// ```
    #[doc(alias = "trap_exit")]
    #[doc(alias = "graceful shutdown")]
    #[doc(alias = "CancellationToken")]
    #[doc(alias = "cancellation")]
    pub fn trap_stop(&self) -> Latch {
        self.control.control.trap_stop(self.control.key)
    }

    /// Takes a guard: the connection has not ended until `serve` has returned and every guard is
    /// dropped ([E6](crate::guide::rules#e6)).
    ///
    /// This traps the stop. A guard taken after the connection has ended is harmless, and counts as
    /// killed. See [`Guard`].
    ///
    /// ```
    /// use acceptor_core::Connection;
    ///
    /// let (connection, signals) = Connection::for_test("stream", "client", "server");
    /// let guard = connection.lifecycle.guard();
    /// assert_eq!(signals.guards(), 1);
    /// drop(guard);
    /// assert_eq!(signals.guards(), 0);
    /// ```
    #[doc(alias = "upgrade")]
    #[doc(alias = "WebSocket")]
    #[doc(alias = "spawn")]
    pub fn guard(&self) -> Guard {
        Guard::take(&self.control)
    }

    /// Gives the connection's slot back, so that it no longer fills the limits of the pool and of
    /// its listener ([C7](crate::guide::rules#c7)).
    ///
    /// The connection stays in lists, counts and totals, and is supervised as before. Meant for
    /// connections that last long and cost little, such as a WebSocket. A second call changes
    /// nothing, and neither does one without a limit.
    ///
    /// ```
    /// use acceptor_core::Connection;
    ///
    /// let (connection, signals) = Connection::for_test("stream", "client", "server");
    /// connection.lifecycle.release_slot();
    /// assert!(signals.is_slot_released());
    /// ```
    #[doc(alias = "upgrade")]
    #[doc(alias = "permit")]
    pub fn release_slot(&self) {
        self.control.control.release_slot(self.control.key);
    }
}

/// The link from a connection to its pool.
#[derive(Clone)]
pub(crate) struct ControlOfConnection {
    /// Shared by many connections: the key says which one this is.
    pub(crate) control: Arc<dyn ConnectionControl>,
    pub(crate) key: ChildKey,
}

/// A child among those of its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildKey {
    pub(crate) number: u64,
    pub(crate) slot: u32,
}

/// The services of a pool to its connections.
pub(crate) trait ConnectionControl: Send + Sync {
    fn draining(&self) -> &Latch;

    fn trap_stop(&self, key: ChildKey) -> Latch;

    /// Counts one more guard. Returns the latch that is set once the connection is killed, or
    /// `None` if it has ended.
    fn take_guard(&self, key: ChildKey) -> Option<Latch>;

    /// Counts one guard less, with the panic of the future that ran under it.
    fn give_guard(&self, key: ChildKey, panicked: Option<String>);

    /// Gives back the slot of the connection.
    fn release_slot(&self, key: ChildKey);

    /// Returns whether the connection was killed, or has ended.
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

        fn release_slot(&self, _key: ChildKey) {}

        fn is_killed(&self, _key: ChildKey) -> bool {
            false
        }
    }

    #[test]
    fn lifecycle_debug_shows_draining() {
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
