//! How a pool supervises and stops, as its spec says it: plain data, which the machines go by.

use std::time::Duration;

/// Which ends of a connection count towards restart intensity (section 2).
///
/// Start errors count in both. A connection is never restarted in either. The children that a runtime loses as it ends count
/// in neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Restart {
    /// Only start errors count. The default.
    #[default]
    Temporary,
    /// Errors, panics and kills of children count too.
    Transient,
}

/// The kind of the children, which decides the default shutdown and how they are counted (Q2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChildType {
    /// Connections do their work themselves. The default.
    #[default]
    Worker,
    /// Connections supervise others in turn: by default the stop waits for them without a limit.
    Supervisor,
}

/// How long connections are left alone after the listeners closed (S4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grace {
    /// At most this long. Zero, the default, is no grace.
    Within(Duration),
    /// Until the last child has ended.
    Unlimited,
}

impl From<Duration> for Grace {
    fn from(grace: Duration) -> Self {
        Grace::Within(grace)
    }
}

/// The treatment of the children that grace left over (S5, S6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// They are killed: there is no stop phase.
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

/// Which connections are reported (O4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ConnectionReports {
    /// Those that fail. The default.
    #[default]
    Failures,
    /// Also those whose peer is gone, and those whose [handshake](crate::Handshake) failed, with its cause.
    Disconnects,
    /// The beginning and the end of each connection.
    All,
}

/// What becomes of the acceptors that wait for a connection when the pool gets another spec (R1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitingAcceptors {
    /// They serve the one connection that each waits for, with what they started with. A client may meet the old acceptor
    /// long after the change.
    Keep,
    /// They terminate, with [`Terminate::Replaced`](crate::Terminate::Replaced), and no connection is accepted with the
    /// old acceptor from then on. Until one of the new ones is ready, clients wait in the system's queue.
    Replace,
}

/// The reaction of a pool when its last listener has failed (L9). A close is no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LastListener {
    /// The pool goes on without a listener. The default.
    #[default]
    Continue,
    /// The pool stops, with [`StopReason::ListenersFailed`](crate::StopReason::ListenersFailed).
    Stop,
}

/// The part of a spec that the supervision goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) restart: Restart,
    pub(crate) intensity: u32,
    pub(crate) period: Duration,
    pub(crate) child_type: ChildType,
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) connection_reports: ConnectionReports,
    pub(crate) last_listener: LastListener,
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
            plan: StopPlan {
                lame_duck: Duration::ZERO,
                grace: Grace::Within(Duration::ZERO),
                shutdown: Shutdown::Within(Duration::from_secs(5)),
                kill_timeout: Duration::from_secs(1),
            },
        }
    }
}

/// The bounds of the phases, taken from the spec when the stop begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopPlan {
    pub(crate) lame_duck: Duration,
    pub(crate) grace: Grace,
    pub(crate) shutdown: Shutdown,
    pub(crate) kill_timeout: Duration,
}
