//! The state of a pool as it can be read: counts, lists, and all of it as one value.

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{ChildId, ListenerId};
use crate::incoming::{PeerText, Transport};
use crate::policy::ChildType;
use crate::stop_report::Phase;
use crate::text::{EscapedDebug, Tag};

/// The numbers of a pool's children by kind, exact at every moment ([Q3](crate::guide::rules#q3)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let pool = echo_pool()?;
/// let _client = connect(&pool)?;
/// let counts = pool.counts()?;
/// assert_eq!((counts.connections, counts.acceptors), (1, 10));
/// assert_eq!(counts.children(), 11);
/// assert_eq!(counts.to_string(), "connections 1, handshaking 0, acceptors 10");
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[doc(alias = "count_children")]
#[doc(alias = "active connections")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Connections, including those in their handshake.
    pub connections: usize,
    /// Connections in their handshake.
    pub handshaking: usize,
    /// Acceptors in any state.
    pub acceptors: usize,
}

impl Counts {
    /// Returns the number of connections and acceptors.
    pub fn children(&self) -> usize {
        self.connections + self.acceptors
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections {}, handshaking {}, acceptors {}",
            self.connections, self.handshaking, self.acceptors
        )
    }
}

/// The numbers of a pool's children in the form of Erlang's `count_children`
/// ([Q2](crate::guide::rules#q2)).
///
/// [`Pool::count_children`](crate::Pool::count_children) returns it.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let children = echo_pool()?.count_children()?;
/// assert_eq!(children.to_string(), "specs 1, active 0, workers 10, supervisors 0");
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[doc(alias = "count_children")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildCounts {
    /// Always 1, because a pool has one spec.
    pub specs: usize,
    /// Connections.
    pub active: usize,
    /// Connections and acceptors, unless the spec's children are supervisors.
    pub workers: usize,
    /// Connections and acceptors, if the spec's children are supervisors.
    pub supervisors: usize,
}

impl ChildCounts {
    pub(crate) fn new(counts: Counts, child_type: ChildType) -> Self {
        let children = counts.children();
        let (workers, supervisors) = match child_type {
            ChildType::Worker => (children, 0),
            ChildType::Supervisor => (0, children),
        };
        Self {
            specs: 1,
            active: counts.connections,
            workers,
            supervisors,
        }
    }
}

impl fmt::Display for ChildCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "specs {}, active {}, workers {}, supervisors {}",
            self.specs, self.active, self.workers, self.supervisors
        )
    }
}

/// The state of a pool.
///
/// ```
/// use acceptor_core::{Phase, PoolState};
///
/// assert_eq!(PoolState::Stopping(Phase::Grace).to_string(), "stopping, phase grace");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolState {
    /// The pool accepts and serves.
    Running,
    /// The pool is stopping, and is in this phase.
    Stopping(Phase),
    /// The pool has stopped.
    Stopped,
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolState::Running => f.write_str("running"),
            PoolState::Stopping(phase) => write!(f, "stopping, phase {phase}"),
            PoolState::Stopped => f.write_str("stopped"),
        }
    }
}

/// The state of a listener ([Q5](crate::guide::rules#q5)).
///
/// ```
/// use acceptor_core::ListenerState;
///
/// assert_eq!(ListenerState::Accepting.to_string(), "accepting");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenerState {
    /// No acceptor waits yet, so nothing is accepted.
    Starting,
    /// Connections are accepted.
    Accepting,
    /// A limit on connections is reached ([C2](crate::guide::rules#c2)): clients wait until a slot
    /// is free, or are refused.
    Full,
    /// Accepting is paused for lack of resources ([A2](crate::guide::rules#a2)).
    Resources,
    /// It was asked to close, or the pool is stopping, and its socket is still open: it accepts the
    /// connections that the system has queued ([L7](crate::guide::rules#l7)).
    Closing,
}

impl fmt::Display for ListenerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ListenerState::Starting => "starting",
            ListenerState::Accepting => "accepting",
            ListenerState::Full => "full",
            ListenerState::Resources => "paused for want of resources",
            ListenerState::Closing => "closing",
        })
    }
}

/// The state of an acceptor ([Q5](crate::guide::rules#q5)).
///
/// ```
/// use acceptor_core::AcceptorState;
///
/// assert_eq!(AcceptorState::Init.to_string(), "in init");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptorState {
    /// Its start is delayed: starts are spaced ([B3](crate::guide::rules#b3),
    /// [B4](crate::guide::rules#b4), [B6](crate::guide::rules#b6)), or it is one of many that are
    /// about to start.
    Spaced,
    /// It is in `init`.
    Init,
    /// It waits for a connection.
    Waiting,
    /// It is in `terminate`.
    Terminating,
}

impl fmt::Display for AcceptorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AcceptorState::Spaced => "spaced",
            AcceptorState::Init => "in init",
            AcceptorState::Waiting => "waiting",
            AcceptorState::Terminating => "terminating",
        })
    }
}

/// An entry of the list of acceptors ([Q5](crate::guide::rules#q5)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let acceptors = echo_pool()?.acceptors()?;
/// assert_eq!(acceptors.len(), 10);
/// assert_eq!(acceptors[0].id.to_string(), "1.1");
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptorRecord {
    /// The id of the acceptor. The connection that it becomes keeps it.
    pub id: ChildId,
    /// The listener that it waits on.
    pub listener: ListenerId,
    /// The [tag](crate::ListenerSettings::tag) of that listener, if it has one.
    pub tag: Option<Arc<str>>,
    /// Its state.
    pub state: AcceptorState,
    /// The time since it was created.
    pub age: Duration,
}

impl fmt::Display for AcceptorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acceptor {} of listener {}{}: {}, {:.3?} old",
            self.id,
            self.listener,
            Tag(self.tag.as_deref()),
            self.state,
            self.age
        )
    }
}

/// An entry of the list of listeners: one whose socket is open ([Q1](crate::guide::rules#q1)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let pool = echo_pool()?;
/// let listener = &pool.listeners()?[0];
/// assert_eq!((listener.acceptors, listener.connections), (10, 0));
/// assert!(listener.to_string().starts_with("listener 1 on 127.0.0.1:"));
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerRecord<A = SocketAddr> {
    /// The id of the listener.
    pub id: ListenerId,
    /// Its [tag](crate::ListenerSettings::tag), if it has one.
    pub tag: Option<Arc<str>>,
    /// The id of the pool's current spec ([R1](crate::guide::rules#r1)).
    pub spec: Arc<str>,
    /// The address that it is bound to, with its port resolved.
    pub local_addr: A,
    /// The number of its acceptors.
    pub acceptors: usize,
    /// The number of open connections that it accepted.
    pub connections: usize,
    /// Its own limit on connections ([C1](crate::guide::rules#c1)), if it has one.
    pub max_connections: Option<usize>,
    /// Its state.
    pub state: ListenerState,
    /// The total number of connections that it accepted.
    pub accepted: u64,
    /// The total number of connections that were refused because a limit was reached
    /// ([C2](crate::guide::rules#c2)). They are not among those accepted.
    pub refused: u64,
    /// The total number of connections that were gone before they could be accepted
    /// ([A1](crate::guide::rules#a1)).
    pub skipped: u64,
    /// The total number of its pauses for lack of resources ([A2](crate::guide::rules#a2)).
    pub pauses: u64,
}

impl<A: Debug> fmt::Display for ListenerRecord<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "listener {}{} on {}: {}, {} acceptors, {} connections, {} accepted, {} refused, {} skipped, {} pauses",
            self.id,
            Tag(self.tag.as_deref()),
            EscapedDebug(&self.local_addr),
            self.state,
            self.acceptors,
            self.connections,
            self.accepted,
            self.refused,
            self.skipped,
            self.pauses
        )
    }
}

/// The state of a connection ([Q1](crate::guide::rules#q1)).
///
/// ```
/// use acceptor_core::ConnectionState;
///
/// assert_eq!(ConnectionState::Handshaking.to_string(), "handshaking");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// It is in its handshake.
    Handshaking,
    /// It is in `serve`.
    Serving,
    /// `serve` has returned, and a [`Guard`](crate::Guard) keeps the connection
    /// ([E6](crate::guide::rules#e6)).
    Guarded,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ConnectionState::Handshaking => "handshaking",
            ConnectionState::Serving => "serving",
            ConnectionState::Guarded => "guarded",
        })
    }
}

/// An entry of the list of open connections ([Q1](crate::guide::rules#q1)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let pool = echo_pool()?;
/// let client = connect(&pool)?;
/// let connection = &pool.connections()?[0];
/// assert_eq!(connection.peer_addr, client.local_addr()?);
/// assert_eq!(connection.state, ConnectionState::Serving);
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[doc(alias = "which_children")]
#[doc(alias = "connection list")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionRecord<A = SocketAddr> {
    /// The id of the connection.
    pub id: ChildId,
    /// The id of the pool's current spec ([R1](crate::guide::rules#r1)).
    pub spec: Arc<str>,
    /// The listener that accepted it.
    pub listener: ListenerId,
    /// The [tag](crate::ListenerSettings::tag) of that listener, if it has one.
    pub tag: Option<Arc<str>>,
    /// The peer's address.
    pub peer_addr: A,
    /// The local address.
    pub local_addr: A,
    /// The addresses of the transport, if its handshake has replaced them
    /// ([H5](crate::guide::rules#h5)).
    pub transport: Option<Transport<A>>,
    /// Its state.
    pub state: ConnectionState,
    /// Whether it fills the limits on connections: not once it has
    /// [given its slot back](crate::Lifecycle::release_slot) ([C7](crate::guide::rules#c7)).
    pub holds_slot: bool,
    /// The time since it was accepted.
    pub age: Duration,
}

impl<A: Debug> fmt::Display for ConnectionRecord<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connection {} from {} to {} on listener {}{}: {}, {:.3?} old",
            self.id,
            PeerText::new(&self.peer_addr, self.transport.as_ref()),
            EscapedDebug(&self.local_addr),
            self.listener,
            Tag(self.tag.as_deref()),
            self.state,
            self.age
        )
    }
}

/// The state of a whole pool as one value ([Q4](crate::guide::rules#q4)).
///
/// Its `Display` is a line for the pool, and one for each listener and connection.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let status = echo_pool()?.status()?;
/// assert_eq!(status.state, PoolState::Running);
/// assert_eq!(status.listeners[0].acceptors, status.counts.acceptors);
/// assert!(status.to_string().starts_with("pool echo: running; connections 0"));
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[doc(alias = "health")]
#[doc(alias = "introspection")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status<A = SocketAddr> {
    /// The id of the pool's current spec ([R1](crate::guide::rules#r1)).
    pub spec: Arc<str>,
    /// The state of the pool.
    pub state: PoolState,
    /// The numbers of its children.
    pub counts: Counts,
    /// The number of counted failures within the period.
    pub failures: usize,
    /// The number of failures that the pool survives.
    pub intensity: u32,
    /// The time over which failures are counted.
    pub period: Duration,
    /// The open listeners, oldest first.
    pub listeners: Vec<ListenerRecord<A>>,
    /// The open connections, oldest first.
    pub connections: Vec<ConnectionRecord<A>>,
}

impl<A> Status<A> {
    /// Returns the phase of the stop, if the pool is stopping.
    pub fn phase(&self) -> Option<Phase> {
        match self.state {
            PoolState::Stopping(phase) => Some(phase),
            PoolState::Running | PoolState::Stopped => None,
        }
    }
}

impl<A: Debug> fmt::Display for Status<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pool {}: {}; {}; {} failures within {:?} of {} allowed",
            self.spec, self.state, self.counts, self.failures, self.period, self.intensity
        )?;
        for listener in &self.listeners {
            write!(f, "\n  {listener}")?;
        }
        for connection in &self.connections {
            write!(f, "\n  {connection}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::id::PoolId;

    const LISTENER: ListenerId = ListenerId {
        sequence: 2,
        pool: PoolId::ANY,
    };
    const CHILD: ChildId = ChildId {
        listener: 2,
        number: 7,
        slot: 0,
        pool: PoolId::ANY,
    };

    fn status<A: Clone>(here: A, there: A) -> Status<A> {
        let spec = Arc::from("echo");
        let listener = ListenerRecord {
            id: LISTENER,
            tag: Some(Arc::from("web")),
            spec: Arc::clone(&spec),
            local_addr: here.clone(),
            acceptors: 3,
            connections: 1,
            state: ListenerState::Accepting,
            accepted: 4,
            max_connections: None,
            refused: 4,
            skipped: 5,
            pauses: 6,
        };
        let connection = ConnectionRecord {
            id: CHILD,
            spec: Arc::clone(&spec),
            listener: LISTENER,
            tag: Some(Arc::from("web")),
            peer_addr: there,
            local_addr: here,
            transport: None,
            state: ConnectionState::Serving,
            holds_slot: true,
            age: Duration::from_millis(1500),
        };
        Status {
            spec,
            state: PoolState::Running,
            counts: Counts {
                connections: 1,
                handshaking: 0,
                acceptors: 3,
            },
            failures: 0,
            intensity: 1,
            period: Duration::from_secs(5),
            listeners: vec![listener],
            connections: vec![connection],
        }
    }

    #[test]
    fn status_in_words() {
        assert_eq!(
            status("here", "there").to_string(),
            "pool echo: running; connections 1, handshaking 0, acceptors 3; \
             0 failures within 5s of 1 allowed\n  \
             listener 2 (web) on \"here\": accepting, 3 acceptors, 1 connections, 4 accepted, 4 refused, 5 skipped, 6 pauses\n  \
             connection 2.7 from \"there\" to \"here\" on listener 2 (web): serving, 1.500s old"
        );
    }

    #[test]
    fn connection_words_name_the_transport() {
        let mut connection = status("here", "there").connections.remove(0);
        connection.transport = Some(Transport {
            peer_addr: "proxy",
            local_addr: "here",
        });
        let words = r#"connection 2.7 from "there" through "proxy" to "here" on listener 2 (web): serving, 1.500s old"#;
        assert_eq!(connection.to_string(), words);
    }

    /// An address whose `Debug` escapes nothing.
    #[derive(Clone)]
    struct Raw(String);

    impl Debug for Raw {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    #[test]
    fn addresses_are_escaped_and_cut() {
        let (here, there) = (Raw("h\n".to_owned()), Raw("\x1b".repeat(1_000_000)));
        let there_safe = format!("{}…", r"\u{1b}".repeat(170));
        let status = status(here, there);
        assert_eq!(
            status.listeners[0].to_string(),
            r"listener 2 (web) on h\n: accepting, 3 acceptors, 1 connections, 4 accepted, 4 refused, 5 skipped, 6 pauses"
        );
        assert_eq!(
            status.connections[0].to_string(),
            format!(
                r"connection 2.7 from {there_safe} to h\n on listener 2 (web): serving, 1.500s old"
            )
        );
    }

    #[test]
    fn states_display() {
        let pool = [
            PoolState::Running,
            PoolState::Stopping(Phase::LameDuck),
            PoolState::Stopped,
        ];
        assert_eq!(
            pool.map(|state| state.to_string()),
            ["running", "stopping, phase lame duck", "stopped"]
        );
        let listener = [
            ListenerState::Starting,
            ListenerState::Accepting,
            ListenerState::Resources,
            ListenerState::Closing,
        ];
        assert_eq!(
            listener.map(|state| state.to_string()),
            [
                "starting",
                "accepting",
                "paused for want of resources",
                "closing"
            ]
        );
        let connection = [
            ConnectionState::Handshaking,
            ConnectionState::Serving,
            ConnectionState::Guarded,
        ];
        assert_eq!(
            connection.map(|state| state.to_string()),
            ["handshaking", "serving", "guarded"]
        );
        let acceptor = [
            AcceptorState::Spaced,
            AcceptorState::Init,
            AcceptorState::Waiting,
            AcceptorState::Terminating,
        ];
        assert_eq!(
            acceptor.map(|state| state.to_string()),
            ["spaced", "in init", "waiting", "terminating"]
        );
    }

    #[test]
    fn acceptor_record_in_words() {
        let record = AcceptorRecord {
            id: CHILD,
            listener: LISTENER,
            tag: None,
            state: AcceptorState::Init,
            age: Duration::from_millis(1500),
        };
        let words = "acceptor 2.7 of listener 2: in init, 1.500s old";
        assert_eq!(record.to_string(), words);
    }

    #[test]
    fn children_are_counted_by_type() {
        let counts = Counts {
            connections: 2,
            handshaking: 1,
            acceptors: 3,
        };
        let workers = ChildCounts::new(counts, ChildType::Worker);
        let words = "specs 1, active 2, workers 5, supervisors 0";
        assert_eq!(workers.to_string(), words);
        let supervisors = ChildCounts::new(counts, ChildType::Supervisor);
        let words = "specs 1, active 2, workers 0, supervisors 5";
        assert_eq!(supervisors.to_string(), words);
    }

    #[test]
    fn only_a_stopping_pool_has_a_phase() {
        let phase = |state| {
            Status {
                state,
                ..status(1, 2)
            }
            .phase()
        };
        assert_eq!(phase(PoolState::Running), None);
        let stopping = PoolState::Stopping(Phase::LameDuck);
        assert_eq!(phase(stopping), Some(Phase::LameDuck));
        assert_eq!(phase(PoolState::Stopped), None);
    }
}
