//! Connections without a pool, to test a `serve` with.

use std::fmt;
use std::sync::Arc;

use crate::connection::{ChildKey, Connection, ConnectionControl, ControlOfConnection, Lifecycle};
use crate::id::{ChildId, ListenerId, PoolId};
use crate::incoming::Incoming;
use crate::latch::Latch;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

impl<S, A> Connection<S, A> {
    /// Creates a connection without a pool, to test a `serve` with, and the source of its signals.
    ///
    /// Its id is `1.1`, and its listener's id `1`. Its other fields are public and can be set.
    ///
    /// ```
    /// use acceptor_core::{Connection, Exit};
    ///
    /// /// Serves until the pool stops.
    /// async fn serve(connection: Connection<Vec<u8>, &'static str>) -> Exit {
    ///     connection.lifecycle.trap_stop().wait().await;
    ///     Exit::clean("stopped")
    /// }
    ///
    /// # use futures::FutureExt;
    /// # async {
    /// let (connection, signals) = Connection::for_test(Vec::new(), "client", "server");
    /// signals.stop();
    /// assert_eq!(serve(connection).await.reason(), Some("stopped"));
    /// assert!(signals.is_stop_trapped());
    /// # }.now_or_never().unwrap();
    /// ```
    pub fn for_test(stream: S, peer_addr: A, local_addr: A) -> (Self, TestSignals) {
        let signals = TestSignals {
            control: Arc::new(TestControl {
                draining: Latch::new(),
                stop: Latch::new(),
                killed: Latch::new(),
                trapped: AtomicBool::new(false),
                guards: AtomicU64::new(0),
                released: AtomicBool::new(false),
            }),
        };
        let lifecycle = Lifecycle {
            control: ControlOfConnection {
                control: Arc::<TestControl>::clone(&signals.control),
                key: ChildKey {
                    number: 1,
                    slot: ChildId::NO_SLOT,
                },
            },
        };
        let listener = ListenerId {
            sequence: 1,
            pool: PoolId::ANY,
        };
        let id = ChildId::new(listener, 1, ChildId::NO_SLOT);
        let incoming = Incoming::new(stream, peer_addr, local_addr);
        (
            Self::new(incoming, id, (listener, None), lifecycle),
            signals,
        )
    }
}

/// Sends a [`Connection::for_test`] its signals, in place of a pool.
///
/// ```
/// use acceptor_core::Connection;
///
/// let (connection, signals) = Connection::for_test("stream", "client", "server");
/// let guard = connection.lifecycle.guard();
/// assert_eq!(signals.guards(), 1);
/// signals.kill();
/// assert!(guard.is_killed());
/// ```
#[doc(alias = "mock")]
pub struct TestSignals {
    control: Arc<TestControl>,
}

struct TestControl {
    draining: Latch,
    stop: Latch,
    killed: Latch,
    trapped: AtomicBool,
    guards: AtomicU64,
    released: AtomicBool,
}

impl TestSignals {
    /// Signals *draining*: the connection's listener begins to close
    /// ([N1](crate::guide::rules#n1)).
    pub fn drain(&self) {
        self.control.draining.set();
    }

    /// Signals the stop phase ([N2](crate::guide::rules#n2)). A pool would drop a `serve` that has
    /// not [trapped](TestSignals::is_stop_trapped) the stop.
    pub fn stop(&self) {
        self.control.stop.set();
    }

    /// Signals the kill ([E4](crate::guide::rules#e4)). A pool would drop `serve`; the holders of
    /// guards see [`Guard::killed`](crate::Guard::killed) ([E6](crate::guide::rules#e6)).
    pub fn kill(&self) {
        self.control.killed.set();
    }

    /// Returns whether the connection has trapped the stop, by its signal or by a guard.
    pub fn is_stop_trapped(&self) -> bool {
        self.control.trapped.load(Ordering::SeqCst)
    }

    /// Returns whether the connection has given its slot back ([C7](crate::guide::rules#c7)).
    pub fn is_slot_released(&self) -> bool {
        self.control.released.load(Ordering::SeqCst)
    }

    /// Returns the number of guards of the connection that are held ([E6](crate::guide::rules#e6)).
    pub fn guards(&self) -> u64 {
        self.control.guards.load(Ordering::SeqCst)
    }
}

impl ConnectionControl for TestControl {
    fn draining(&self) -> &Latch {
        &self.draining
    }

    fn trap_stop(&self, _key: ChildKey) -> Latch {
        self.trapped.store(true, Ordering::SeqCst);
        self.stop.clone()
    }

    fn take_guard(&self, _key: ChildKey) -> Option<Latch> {
        self.trapped.store(true, Ordering::SeqCst);
        self.guards.fetch_add(1, Ordering::SeqCst);
        Some(self.killed.clone())
    }

    fn give_guard(&self, _key: ChildKey, _panicked: Option<String>) {
        self.guards.fetch_sub(1, Ordering::SeqCst);
    }

    fn release_slot(&self, _key: ChildKey) {
        self.released.store(true, Ordering::SeqCst);
    }

    fn is_killed(&self, _key: ChildKey) -> bool {
        self.killed.is_set()
    }
}

impl fmt::Debug for TestSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSignals")
            .field("draining", &self.control.draining.is_set())
            .field("stop", &self.control.stop.is_set())
            .field("killed", &self.control.killed.is_set())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn signals_arrive_as_sent() {
        let (connection, signals) = Connection::for_test("stream", 1, 2);
        assert_eq!((connection.stream, connection.peer_addr), ("stream", 1));
        assert_eq!(connection.local_addr, 2);
        let ids = (connection.id.to_string(), connection.listener.to_string());
        assert_eq!(ids, ("1.1".to_owned(), "1".to_owned()));
        let lifecycle = connection.lifecycle;
        assert!(!lifecycle.draining().is_set() && !signals.is_stop_trapped());
        signals.drain();
        assert!(lifecycle.draining().is_set());
        let stop = lifecycle.trap_stop();
        assert!(signals.is_stop_trapped() && !stop.is_set());
        signals.stop();
        assert!(stop.is_set());
        let shown = "TestSignals { draining: true, stop: true, killed: false, .. }";
        assert_eq!(format!("{signals:?}"), shown);
    }

    #[test]
    fn guards_are_counted_and_killed() {
        let (connection, signals) = Connection::for_test((), 1, 2);
        let guard = connection.lifecycle.guard();
        assert!(signals.is_stop_trapped(), "a guard traps the stop");
        let another = guard.clone();
        assert_eq!(signals.guards(), 2);
        drop(guard);
        assert_eq!(signals.guards(), 1);
        assert!(!another.is_killed());
        signals.kill();
        assert!(another.is_killed());
        assert_eq!(another.run(async {}).now_or_never(), Some(None));
        assert_eq!(signals.guards(), 0);
    }
}
