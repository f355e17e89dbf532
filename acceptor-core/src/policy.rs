//! The policies of a spec: plain data that the machines read.

use std::sync::Arc;
use std::time::Duration;

/// Which ends of a connection count towards restart intensity (the table of ends,
/// [E1](crate::guide::rules#e1)).
///
/// Start errors count with both. A connection is never restarted with either. Children that a
/// runtime loses as it ends never count.
///
/// ```
/// use acceptor_core::{Restart, Settings};
///
/// let settings: Settings = Settings::new("echo");
/// assert_eq!(settings.restart, Restart::Temporary);
/// ```
#[doc(alias = "restart strategy")]
#[doc(alias = "transient")]
#[doc(alias = "temporary")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Restart {
    /// Only start errors count. This is the default.
    #[default]
    Temporary,
    /// Errors, panics and kills of children count as well.
    Transient,
}

/// The kind of the children, which decides the default shutdown and how they are counted
/// ([Q2](crate::guide::rules#q2)).
///
/// ```
/// use acceptor_core::ChildType;
///
/// assert_eq!(ChildType::default(), ChildType::Worker);
/// ```
#[doc(alias = "supervisor")]
#[doc(alias = "worker")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChildType {
    /// Connections do their work themselves. This is the default.
    #[default]
    Worker,
    /// Connections supervise tasks of their own: by default a stop waits for them without a limit.
    Supervisor,
}

/// How long a stop leaves connections undisturbed after the listeners have closed
/// ([S4](crate::guide::rules#s4)).
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::Grace;
///
/// assert_eq!(Grace::from(Duration::from_secs(30)), Grace::Within(Duration::from_secs(30)));
/// ```
#[doc(alias = "graceful shutdown")]
#[doc(alias = "drain")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grace {
    /// At most this long. Zero, the default, means no grace.
    Within(Duration),
    /// Until the last child has ended.
    Unlimited,
}

impl From<Duration> for Grace {
    fn from(grace: Duration) -> Self {
        Grace::Within(grace)
    }
}

/// How a stop treats the children that are left after the grace ([S5](crate::guide::rules#s5),
/// [S6](crate::guide::rules#s6)).
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::Shutdown;
///
/// assert_eq!(Shutdown::from(Duration::from_secs(5)), Shutdown::Within(Duration::from_secs(5)));
/// ```
#[doc(alias = "graceful shutdown")]
#[doc(alias = "brutal_kill")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// They are killed at once: there is no stop phase.
    Kill,
    /// They are asked to stop, and killed after this time. The default for workers, with 5 s.
    Within(Duration),
    /// They are asked to stop and never killed. The default for supervisors.
    Unlimited,
}

impl From<Duration> for Shutdown {
    fn from(time: Duration) -> Self {
        Shutdown::Within(time)
    }
}

/// Which connections are reported to the observer ([O4](crate::guide::rules#o4)).
///
/// ```
/// use acceptor_core::ConnectionReports;
///
/// assert_eq!(ConnectionReports::default(), ConnectionReports::Failures);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ConnectionReports {
    /// Connections that fail. This is the default.
    #[default]
    Failures,
    /// Also connections whose peer is gone, and those whose [handshake](crate::Handshake) failed,
    /// with the cause.
    Disconnects,
    /// The start and the end of every connection.
    All,
}

/// The treatment of waiting acceptors when a pool is reconfigured ([R1](crate::guide::rules#r1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitingAcceptors {
    /// They keep waiting, and serve their one connection with the acceptor that they started with.
    /// A client may get the old acceptor long after the change.
    Keep,
    /// They terminate, with [`Terminate::Replaced`](crate::Terminate::Replaced), and no connection
    /// is accepted with the old acceptor from then on. Until one of the new ones is ready, clients
    /// wait in the system's queue.
    Replace,
}

/// The reaction of a pool when its last listener has failed ([L9](crate::guide::rules#l9)). Closing
/// a listener is not a failure.
///
/// ```
/// use acceptor_core::LastListener;
///
/// assert_eq!(LastListener::default(), LastListener::Continue);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LastListener {
    /// The pool continues without a listener. This is the default.
    #[default]
    Continue,
    /// The pool stops, with [`StopReason::ListenersFailed`](crate::StopReason::ListenersFailed).
    Stop,
}

/// What a listener does with a client while a limit on connections is reached
/// ([C2](crate::guide::rules#c2)).
///
/// ```
/// use acceptor_core::{AtLimit, Refusal};
///
/// assert_eq!(AtLimit::default(), AtLimit::Wait);
/// let busy = Refusal::farewell("-ERR too many connections\r\n");
/// assert_ne!(AtLimit::Refuse(busy), AtLimit::Wait);
/// ```
#[doc(alias = "backpressure")]
#[doc(alias = "connection limit")]
#[doc(alias = "load shedding")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AtLimit {
    /// Nothing is accepted until a slot is free; the system's queue holds the clients. This is the
    /// default.
    #[default]
    Wait,
    /// It is accepted and closed at once, in this way, and counted as
    /// [refused](crate::ListenerRecord::refused). This needs no acceptor.
    Refuse(Refusal),
}

/// How a client is refused ([C2](crate::guide::rules#c2)).
///
/// ```
/// use acceptor_core::Refusal;
///
/// let farewell = Refusal::farewell("server is full\r\n");
/// assert_eq!(farewell, Refusal::Farewell(b"server is full\r\n".as_slice().into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Its connection is closed.
    Close,
    /// Its connection is reset, where the listener can.
    Reset,
    /// It is sent these bytes, as many as the system takes without waiting, and its connection is
    /// closed. On a listener with a handshake they are sent without one.
    Farewell(Arc<[u8]>),
}

impl Refusal {
    /// Returns a refusal with these bytes.
    pub fn farewell(bytes: impl AsRef<[u8]>) -> Self {
        Self::Farewell(bytes.as_ref().into())
    }
}

/// The part of a spec that supervision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) restart: Restart,
    pub(crate) intensity: u32,
    pub(crate) period: Duration,
    pub(crate) child_type: ChildType,
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) connection_reports: ConnectionReports,
    pub(crate) last_listener: LastListener,
    pub(crate) max_connections: Option<usize>,
    pub(crate) plan: StopPlan,
}

#[cfg(all(test, not(loom)))]
impl Rules {
    /// Rules for tests that are not about them.
    pub(crate) fn testing() -> Self {
        Self {
            restart: Restart::default(),
            intensity: 1,
            period: Duration::from_secs(5),
            child_type: ChildType::default(),
            handshake_timeout: Some(Duration::from_secs(10)),
            connection_reports: ConnectionReports::default(),
            last_listener: LastListener::default(),
            max_connections: None,
            plan: StopPlan {
                lame_duck: Duration::ZERO,
                grace: Grace::Within(Duration::ZERO),
                shutdown: Shutdown::Within(Duration::from_secs(5)),
                kill_timeout: Duration::from_secs(1),
            },
        }
    }
}

/// The limits of the phases, read from the spec when the stop begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopPlan {
    pub(crate) lame_duck: Duration,
    pub(crate) grace: Grace,
    pub(crate) shutdown: Shutdown,
    pub(crate) kill_timeout: Duration,
}
