//! A listener inside a pool: its children, its inbox, its signals, its statistics.
//!
//! Invariant: *closed* is set after the listener's own value was dropped, so after its socket was
//! closed, and after it has left the list.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::acceptor::{ListenerInfo, Terminate};
use crate::child::control::{Seats, Signals};
use crate::id::{ChildId, ListenerId};
use crate::incoming::{Listed, Transport};
use crate::latch::Latch;
use crate::listener::Listener;
use crate::machine::child_end::ChildEnd;
use crate::machine::command::{CloseReason, EndWaiting};
use crate::machine::row::{OwnAddrs, Peer, Slot};
use crate::machine::table::Table;
use crate::policy::{AtLimit, ConnectionReports, Rules, WaitingAcceptors};
use crate::pool::capacity::{Capacity, PoolLimit, Scope, Scopes};
use crate::pool::host::Host;
use crate::pool::inbox::Inbox;
use crate::pool::lane::{Arrival, Factory};
use crate::runtime::Runtime;
use crate::settings::ListenerSettings;
use crate::sync::{
    AtomicBool, AtomicU64, DropCatching, Mutex, Ordering, Shared, catch_panic, lock,
};

pub(crate) struct ListenerShared<R: Runtime, L: Listener> {
    pub(crate) id: ListenerId,
    /// The runtime of its tasks.
    pub(crate) host: Host<R>,
    pub(crate) tag: Option<Arc<str>>,
    pub(crate) local_addr: L::Addr,
    pub(crate) addresses: LocalAddrSource,
    pub(crate) inbox: Inbox<Arrival<R, L>>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) closed: Latch,
    pub(crate) children: Mutex<Children<R, L>>,
    pub(crate) capacity: Capacity<R, L>,
    /// What it does at a limit, unless that is left to the pool.
    pub(crate) at_limit: Option<AtLimit>,
    /// The table's generation, by which the accept loop notices that its cached data is stale.
    generation: AtomicU64,
    /// The error with which it failed; its acceptors terminate with it.
    failure: Mutex<Option<Shared<io::Error>>>,
    paused: AtomicBool,
    skipped: AtomicU64,
    pauses: AtomicU64,
}

type ChildTable<L> = Table<Arc<Seats>, <L as Listener>::Addr>;

/// The children of a listener, and the factory of new ones.
pub(crate) struct Children<R: Runtime, L: Listener> {
    pub(crate) table: ChildTable<L>,
    pub(crate) factory: Shared<dyn Factory<R, L>>,
    pub(crate) reports: ConnectionReports,
    pub(crate) handshake_timeout: Option<Duration>,
    /// The limits in which each connection has a slot.
    pub(crate) limits: Scopes,
}

/// Whether connections have the listener's local address, or must be asked for their own (B10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalAddrSource {
    Listener,
    Stream,
}

impl<R: Runtime, L: Listener> Children<R, L> {
    /// Copies the rules that it needs.
    fn set_rules(&mut self, rules: &Rules) {
        self.reports = rules.connection_reports;
        self.handshake_timeout = rules.handshake_timeout;
        let all = rules.connection_reports == ConnectionReports::All;
        self.table.watch_ends(all);
    }

    /// Removes a connection whose end has no consequences. `None`, without any change, if it may
    /// have some.
    pub(crate) fn left(
        &mut self,
        id: ChildId,
        end: &ChildEnd,
    ) -> Option<(DropCatching<Peer<L::Addr>>, Scopes)> {
        let reported = match end {
            ChildEnd::Normal | ChildEnd::Clean(_) => false,
            _ => self.reports != ConnectionReports::Failures,
        };
        if reported {
            return None;
        }
        let (peer, slot) = self.table.left(id)?;
        Some((peer, self.slots(slot)))
    }

    /// Returns the slots that a connection gives back as it ends (C5).
    #[inline]
    pub(crate) fn slots(&self, slot: Slot) -> Scopes {
        match slot {
            Slot::Held => self.limits,
            Slot::Released => Scopes::NONE,
        }
    }
}

/// A connection in its handshake.
pub(crate) struct Handshaking<R: Runtime, L: Listener> {
    pub(crate) listener: Arc<ListenerShared<R, L>>,
    pub(crate) id: ChildId,
}

impl<R: Runtime, L: Listener> Listed<L::Addr> for Handshaking<R, L> {
    fn readdressed(
        &self,
        peer_addr: &L::Addr,
        local_addr: &L::Addr,
        transport: &Transport<L::Addr>,
    ) {
        let peer = Peer {
            peer_addr: peer_addr.clone(),
            own: Some(Box::new(OwnAddrs {
                local_addr: local_addr.clone(),
                transport: Some(Box::new(transport.clone())),
            })),
        };
        let _before = lock(&self.listener.children)
            .table
            .readdressed(self.id, peer);
    }

    fn handshaken(&self) {
        lock(&self.listener.children).table.handshaken(self.id);
    }
}

impl LocalAddrSource {
    /// Returns the address of a listener, and the source of its connections' addresses.
    pub(crate) fn of<L: Listener>(listener: &L) -> io::Result<(L::Addr, Self)> {
        let asked = catch_panic(|| {
            let addresses = match listener.asks_local_addr() {
                true => Self::Stream,
                false => Self::Listener,
            };
            Ok((listener.local_addr()?, addresses))
        });
        asked.unwrap_or_else(|message| Err(io::Error::other(message)))
    }
}

impl<R: Runtime, L: Listener> ListenerShared<R, L> {
    pub(crate) fn new(
        id: ListenerId,
        host: Host<R>,
        (local_addr, addresses): (L::Addr, LocalAddrSource),
        settings: ListenerSettings,
        factory: Shared<dyn Factory<R, L>>,
        rules: &Rules,
        pool: Arc<PoolLimit<R, L>>,
    ) -> Self {
        let signals = Signals::new();
        let mut children = Children {
            table: Table::new(id, settings.acceptors, Arc::clone(&signals)),
            factory,
            reports: rules.connection_reports,
            handshake_timeout: None,
            limits: Scopes::NONE,
        };
        children.set_rules(rules);
        let listener = Self {
            id,
            host,
            tag: settings.tag,
            local_addr,
            addresses,
            inbox: Inbox::new(),
            signals,
            closed: Latch::new(),
            children: Mutex::new(children),
            capacity: Capacity::new(settings.max_connections, pool),
            at_limit: settings.at_limit,
            generation: AtomicU64::new(0),
            failure: Mutex::new(None),
            paused: AtomicBool::new(false),
            skipped: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
        };
        if settings.max_connections.is_some() {
            listener.apply_limit(Scope::Listener);
        }
        if rules.max_connections.is_some() {
            listener.apply_limit(Scope::Pool);
        }
        listener
    }

    pub(crate) fn info(&self, child: ChildId) -> ListenerInfo<L::Addr> {
        ListenerInfo {
            id: self.id,
            child,
            tag: self.tag.clone(),
            local_addr: self.local_addr.clone(),
            closed: self.closed.clone(),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes another factory the one of later children. Returns the previous factory, to be dropped
    /// outside of any lock, and whether children must be woken because they are replaced.
    pub(crate) fn reconfigure(
        &self,
        factory: Shared<dyn Factory<R, L>>,
        rules: &Rules,
        waiting: WaitingAcceptors,
    ) -> (Shared<dyn Factory<R, L>>, bool) {
        let mut children = lock(&self.children);
        let replaces = children.table.reconfigure(waiting);
        let generation = children.table.generation();
        if replaces {
            self.signals.level.replace(generation);
        }
        self.generation.store(generation, Ordering::Release);
        children.set_rules(rules);
        let before = std::mem::replace(&mut children.factory, factory);
        (before, replaces)
    }

    pub(crate) fn set_rules(&self, rules: &Rules) {
        lock(&self.children).set_rules(rules);
    }

    pub(crate) fn fail(&self, error: Shared<io::Error>) {
        lock(&self.failure).get_or_insert(error);
    }

    /// Returns the reason for which an acceptor that was commanded to end terminates.
    pub(crate) fn terminate_reason(&self, reason: EndWaiting) -> Terminate {
        let reason = match reason {
            EndWaiting::Closed(reason) => reason,
            EndWaiting::Replaced => return Terminate::Replaced,
        };
        match reason {
            CloseReason::Closed => Terminate::Closed,
            CloseReason::Stopped => Terminate::Stopped,
            CloseReason::Failed => {
                let error = lock(&self.failure).as_deref().cloned();
                Terminate::Io(error.unwrap_or_else(|| Arc::new(io::ErrorKind::Other.into())))
            }
        }
    }

    pub(crate) fn count_skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        self.paused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use std::net::SocketAddr;

    use super::*;
    use crate::acceptor::acceptor_fn;
    use crate::id::PoolId;
    use crate::machine::stuck::RuntimeKey;
    use crate::runtime::testing::Tasks;

    /// A listener that owes this many acceptors, which need no `init`.
    pub(crate) fn listener<L: Listener<Addr = SocketAddr>>(
        acceptors: usize,
    ) -> Arc<ListenerShared<Tasks, L>> {
        with_factory(acceptors, Arc::new(acceptor_fn(|_| async { Ok(()) })))
    }

    pub(crate) fn with_factory<L: Listener<Addr = SocketAddr>>(
        acceptors: usize,
        factory: Arc<dyn Factory<Tasks, L>>,
    ) -> Arc<ListenerShared<Tasks, L>> {
        let id = ListenerId {
            sequence: 1,
            pool: PoolId::ANY,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(ListenerShared::new(
            id,
            Host::new(Tasks::new(), RuntimeKey::OF_THE_POOL),
            (address, LocalAddrSource::Listener),
            acceptors.into(),
            Shared::new(factory),
            &Rules::testing(),
            Arc::new(PoolLimit::new(None)),
        ))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::SocketAddr;

    use super::testing::listener;
    use super::*;
    use crate::acceptor::acceptor_fn;
    use crate::handshake::NoHandshake;
    use crate::listener::testing::Nowhere;
    use crate::runtime::testing::Tasks;

    #[test]
    fn first_listener_error_terminates() {
        let listener = listener::<Nowhere>(1);
        let terminated = |reason| listener.terminate_reason(reason).to_string();
        let reason = |reason| terminated(EndWaiting::Closed(reason));
        assert_eq!(
            terminated(EndWaiting::Replaced),
            "replaced by another acceptor"
        );
        assert_eq!(reason(CloseReason::Closed), "listener closed");
        assert_eq!(reason(CloseReason::Stopped), "stopped");
        for error in ["first", "second"] {
            listener.fail(Shared::new(Arc::new(io::Error::other(error))));
        }
        assert_eq!(reason(CloseReason::Failed), "listener failed: first");
        assert_eq!(reason(CloseReason::Closed), "listener closed");
    }

    #[test]
    fn pauses_and_skips_are_counted() {
        let listener = listener::<Nowhere>(1);
        assert!(!listener.is_paused());
        for pauses in 1..3 {
            listener.pause();
            assert!(listener.is_paused());
            listener.resume();
            assert!(!listener.is_paused());
            assert_eq!((listener.pauses(), listener.skipped()), (pauses, 0));
        }
        listener.count_skipped();
        assert_eq!((listener.pauses(), listener.skipped()), (2, 1));
    }

    #[test]
    fn new_listener_is_open_owing_acceptors() {
        let listener = listener::<Nowhere>(3);
        assert!(!listener.closed.is_set() && !listener.signals.draining.is_set());
        let table = &lock(&listener.children).table;
        assert_eq!((table.tally().starting(), table.is_open()), (3, true));
    }

    #[test]
    fn info_names_acceptor_and_shares_closed() {
        let listener = listener::<Nowhere>(1);
        let id = ChildId::new(listener.id, 7, 0);
        let info = listener.info(id);
        assert_eq!((info.id, info.child), (listener.id, id));
        assert_eq!(info.local_addr, listener.local_addr);
        listener.closed.set();
        assert!(info.closed.is_set());
    }

    #[test]
    fn reconfigure_renews_factory_and_generation() {
        let listener = listener::<Nowhere>(1);
        let factory =
            || -> Arc<dyn Factory<Tasks, Nowhere>> { Arc::new(acceptor_fn(|_| async { Ok(()) })) };
        let (first, second) = (factory(), factory());
        let replace = |factory: &Arc<dyn Factory<Tasks, Nowhere>>, connection_reports| {
            let generation = listener.generation();
            let rules = Rules {
                connection_reports,
                handshake_timeout: None,
                ..Rules::testing()
            };
            let factory_given = Shared::new(Arc::clone(factory));
            let keep = WaitingAcceptors::Keep;
            let (before, replaces) = listener.reconfigure(factory_given, &rules, keep);
            assert!(!replaces);
            assert_ne!(listener.generation(), generation);
            let children = lock(&listener.children);
            assert_eq!(children.reports, connection_reports);
            assert_eq!(children.handshake_timeout, None);
            assert!(Arc::ptr_eq(&children.factory, factory));
            before
        };
        replace(&first, ConnectionReports::All);
        let before = replace(&second, ConnectionReports::Failures);
        assert!(Arc::ptr_eq(&before, &first));
    }

    /// A listener whose address is a value, an error or a panic.
    struct At(fn() -> io::Result<SocketAddr>);

    impl Listener for At {
        type Io = ();
        type Addr = SocketAddr;
        type Handshake = NoHandshake;

        async fn accept(&self) -> io::Result<((), SocketAddr)> {
            std::future::pending().await
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            (self.0)()
        }

        fn asks_local_addr(&self) -> bool {
            (self.0)().is_ok_and(|address| address.ip().is_unspecified())
        }

        fn io_local_addr(_stream: &()) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn handshake(&self) -> NoHandshake {
            NoHandshake
        }
    }

    #[track_caller]
    fn check_address(
        address: fn() -> io::Result<SocketAddr>,
        expected: Result<LocalAddrSource, &str>,
    ) {
        let found = LocalAddrSource::of(&At(address));
        let found = found.map(|(address, source)| (address.port(), source));
        let found = found.map_err(|error| error.to_string());
        assert_eq!(
            found,
            expected.map(|source| (1, source)).map_err(str::to_owned)
        );
    }

    #[test]
    fn wildcard_uses_the_streams_address() {
        let specific = || Ok(SocketAddr::from(([127, 0, 0, 1], 1)));
        check_address(specific, Ok(LocalAddrSource::Listener));
        let wildcard = || Ok(SocketAddr::from(([0, 0, 0, 0], 1)));
        check_address(wildcard, Ok(LocalAddrSource::Stream));
        check_address(|| Err(io::Error::other("no address")), Err("no address"));
        check_address(|| panic!("no address at all"), Err("no address at all"));
    }
}
