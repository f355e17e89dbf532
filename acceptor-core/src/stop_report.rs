//! The result of a stop: its reason, its phases, and how the children ended
//! ([S1](crate::guide::rules#s1), [S7](crate::guide::rules#s7)).

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::time::Duration;

use crate::id::ChildId;
use crate::text::{EscapedDebug, write_counts};

/// The phases of a stop, in order.
///
/// ```
/// use acceptor_core::Phase;
///
/// assert!(Phase::Grace < Phase::Stop);
/// assert_eq!(Phase::ALL.len(), 4);
/// ```
#[doc(alias = "graceful shutdown")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The pool still accepts and serves, but shows that it is about to stop
    /// ([S2](crate::guide::rules#s2)).
    LameDuck,
    /// The listeners close. Connections are then left undisturbed for the grace; no child is asked
    /// to stop ([S3](crate::guide::rules#s3), [S4](crate::guide::rules#s4)).
    Grace,
    /// Children that trapped the stop are signalled, the others are dropped
    /// ([S5](crate::guide::rules#s5)).
    Stop,
    /// The remaining children are killed ([S6](crate::guide::rules#s6),
    /// [S8](crate::guide::rules#s8)).
    Kill,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: &[Phase] = &[Phase::LameDuck, Phase::Grace, Phase::Stop, Phase::Kill];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::LameDuck => "lame duck",
            Phase::Grace => "grace",
            Phase::Stop => "stop",
            Phase::Kill => "kill",
        })
    }
}

/// The reason for which a pool stopped. If there are several, the first counts.
///
/// ```
/// use acceptor_core::StopReason;
///
/// assert_eq!(StopReason::Intensity.to_string(), "restart intensity exceeded");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// `stop` or `kill` was called.
    Requested,
    /// More counted failures within the period than the intensity allows
    /// ([I1](crate::guide::rules#i1)).
    Intensity,
    /// The `Pool` was dropped ([S9](crate::guide::rules#s9)).
    OwnerDropped,
    /// The runtime dropped the pool's own task.
    RuntimeGone,
    /// The last listener failed, and the spec says that the pool stops then
    /// ([L9](crate::guide::rules#l9)).
    ListenersFailed,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StopReason::Requested => "requested",
            StopReason::Intensity => "restart intensity exceeded",
            StopReason::OwnerDropped => "owner dropped",
            StopReason::RuntimeGone => "runtime gone",
            StopReason::ListenersFailed => "last listener failed",
        })
    }
}

/// How a child ended (the table of ends, [E1](crate::guide::rules#e1)).
///
/// ```
/// use acceptor_core::{EndKind, Exit};
///
/// assert_eq!(Exit::clean("quit").kind(), EndKind::Clean);
/// assert_eq!(EndKind::HandshakeFailed.to_string(), "handshake failed");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndKind {
    /// `serve` returned successfully. For an acceptor: `init` returned *ignore*, or its accept
    /// timeout expired.
    Normal,
    /// `serve` returned [`Exit::clean`](crate::Exit::clean).
    Clean,
    /// `serve` returned an error that means that the peer is gone ([E5](crate::guide::rules#e5)),
    /// or [`Exit::disconnected`](crate::Exit::disconnected).
    Disconnected,
    /// The handshake failed or exceeded its deadline ([H4](crate::guide::rules#h4)).
    HandshakeFailed,
    /// `serve` or `init` returned another error.
    Error,
    /// A callback panicked, or the `Drop` of a value that it owned.
    Panic,
    /// It was killed, through the handle or by the stop.
    Killed,
    /// It was stopped through the handle, or dropped at the stop phase. For an acceptor: it
    /// terminated because its listener closed or failed or the pool stops.
    Stopped,
    /// Its runtime dropped its task.
    Lost,
}

impl EndKind {
    /// All kinds.
    pub const ALL: &[EndKind] = &[
        EndKind::Normal,
        EndKind::Clean,
        EndKind::Disconnected,
        EndKind::HandshakeFailed,
        EndKind::Error,
        EndKind::Panic,
        EndKind::Killed,
        EndKind::Stopped,
        EndKind::Lost,
    ];
}

impl fmt::Display for EndKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            EndKind::Normal => "normal",
            EndKind::Clean => "clean",
            EndKind::Disconnected => "disconnected",
            EndKind::HandshakeFailed => "handshake failed",
            EndKind::Error => "error",
            EndKind::Panic => "panic",
            EndKind::Killed => "killed",
            EndKind::Stopped => "stopped",
            EndKind::Lost => "lost",
        })
    }
}

/// The numbers of children that ended, by [`EndKind`].
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let report = echo_pool()?.stop().await;
/// let ends = report.all_acceptors();
/// assert_eq!((ends.of(EndKind::Stopped), ends.total()), (10, 10));
/// assert_eq!(ends.to_string(), "10 stopped");
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends([usize; 9]);

impl Ends {
    /// Returns the number of children that ended in this way.
    pub fn of(&self, kind: EndKind) -> usize {
        self.0[kind as usize]
    }

    /// Returns the number of children that ended in any way.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, kind: EndKind, count: usize) {
        self.0[kind as usize] += count;
    }

    fn add(&mut self, other: &Ends) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_counts(f, EndKind::ALL.iter().map(|kind| (self.of(*kind), kind)))
    }
}

/// The result of a pool: why it stopped, how its last children ended, and how long the stop took
/// ([S7](crate::guide::rules#s7)).
///
/// It counts the ends from the moment the stop began. [`Pool::stop`](crate::Pool::stop) and
/// [`Pool::join`](crate::Pool::join) return it.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let report = echo_pool()?.stop().await;
/// assert_eq!(report.reason, StopReason::Requested);
/// assert_eq!(report.stuck, 0);
/// assert!(report.to_string().starts_with("pool stopped (requested) in "));
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[doc(alias = "graceful shutdown")]
#[doc(alias = "exit status")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport<A = SocketAddr> {
    /// Why the pool stopped.
    pub reason: StopReason,
    /// The time from the call that began the stop to the end of the last child, or to the close of
    /// the last socket if that was later. If a child is stuck, it ends with the kill timeout.
    pub elapsed: Duration,
    /// The number of children that did not suspend after the kill and were abandoned
    /// ([S8](crate::guide::rules#s8)).
    ///
    /// Each still blocks a thread of its runtime. Dropping the runtime, as a return from `main`
    /// does, would wait for that thread: if this is not 0, leave with [`std::process::exit`].
    pub stuck: usize,
    /// The number of reports that the observer did not get: those that did not fit into the outbox,
    /// and those not delivered within a kill timeout after the last child had ended
    /// ([O2](crate::guide::rules#o2)).
    pub undelivered: u64,
    /// Connections that ended after the grace, or not at all: at most 16, oldest first. They are
    /// the reason if the stop took long. With a grace of zero, every connection that was open is
    /// late.
    pub late: Vec<LateConnection<A>>,
    pub(crate) connections: [Ends; 4],
    pub(crate) acceptors: [Ends; 4],
}

/// A connection that ended after the grace of a stop ([S7](crate::guide::rules#s7)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let pool = echo_pool()?; // its grace is zero
/// let client = connect(&pool)?;
/// let report = pool.stop().await;
/// assert_eq!(report.late[0].peer_addr, client.local_addr()?);
/// assert_eq!(report.late[0].kind, Some(EndKind::Stopped));
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateConnection<A = SocketAddr> {
    /// The id of the connection.
    pub id: ChildId,
    /// The peer's address.
    pub peer_addr: A,
    /// Its age when it ended or was abandoned.
    pub age: Duration,
    /// The phase in which it ended or was abandoned.
    pub phase: Phase,
    /// How it ended; `None` if it was abandoned as stuck.
    pub kind: Option<EndKind>,
}

impl<A: Debug> fmt::Display for LateConnection<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, peer, age, phase) = (self.id, EscapedDebug(&self.peer_addr), self.age, self.phase);
        write!(f, "connection {id} from {peer}, {age:.3?} old: ")?;
        match self.kind {
            Some(kind) => write!(f, "{kind} in phase {phase}"),
            None => write!(f, "stuck in phase {phase}"),
        }
    }
}

impl<A> StopReport<A> {
    /// Returns how the connections ended that ended in this phase.
    pub fn connections(&self, phase: Phase) -> Ends {
        self.connections[phase as usize]
    }

    /// Returns how the acceptors ended that ended in this phase.
    pub fn acceptors(&self, phase: Phase) -> Ends {
        self.acceptors[phase as usize]
    }

    /// Returns how the connections ended, over all phases.
    pub fn all_connections(&self) -> Ends {
        sum(&self.connections)
    }

    /// Returns how the acceptors ended, over all phases.
    pub fn all_acceptors(&self) -> Ends {
        sum(&self.acceptors)
    }
}

fn sum(phases: &[Ends; 4]) -> Ends {
    let mut all = Ends::default();
    for ends in phases {
        all.add(ends);
    }
    all
}

impl<A: Debug> fmt::Display for StopReport<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool stopped ({}) in {:.3?}", self.reason, self.elapsed)?;
        for &phase in Phase::ALL {
            let (connections, acceptors) = (self.connections(phase), self.acceptors(phase));
            if connections.total() + acceptors.total() > 0 {
                write!(
                    f,
                    "\n  {phase:<9}  connections: {connections}; acceptors: {acceptors}"
                )?;
            }
        }
        if self.stuck > 0 {
            write!(f, "\n  left stuck: {}", self.stuck)?;
        }
        if self.undelivered > 0 {
            write!(f, "\n  reports not delivered: {}", self.undelivered)?;
        }
        for late in &self.late {
            write!(f, "\n  {late}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn report() -> StopReport {
        StopReport {
            reason: StopReason::Requested,
            elapsed: Duration::from_millis(1500),
            stuck: 0,
            undelivered: 0,
            late: Vec::new(),
            connections: Default::default(),
            acceptors: Default::default(),
        }
    }

    #[track_caller]
    fn check(report: &StopReport, expected: &str) {
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn report_in_words() {
        let mut report = report();
        check(&report, "pool stopped (requested) in 1.500s");
        report.reason = StopReason::Intensity;
        report.acceptors[Phase::Grace as usize].count(EndKind::Stopped, 1);
        report.acceptors[Phase::Grace as usize].count(EndKind::Stopped, 1);
        report.connections[Phase::LameDuck as usize].count(EndKind::Normal, 1);
        report.connections[Phase::Stop as usize].count(EndKind::Stopped, 1);
        report.connections[Phase::Stop as usize].count(EndKind::Clean, 1);
        report.connections[Phase::Kill as usize].count(EndKind::Killed, 1);
        report.stuck = 3;
        report.undelivered = 5;
        let peer_addr = SocketAddr::from(([127, 0, 0, 1], 1));
        for (kind, number) in [(Some(EndKind::Stopped), 1), (None, 2)] {
            report.late.push(LateConnection {
                id: format!("3.{number}").parse().unwrap(),
                peer_addr,
                age: Duration::from_secs(number),
                phase: Phase::Kill,
                kind,
            });
        }
        check(
            &report,
            "pool stopped (restart intensity exceeded) in 1.500s\n  \
             lame duck  connections: 1 normal; acceptors: none\n  \
             grace      connections: none; acceptors: 2 stopped\n  \
             stop       connections: 1 clean, 1 stopped; acceptors: none\n  \
             kill       connections: 1 killed; acceptors: none\n  \
             left stuck: 3\n  \
             reports not delivered: 5\n  \
             connection 3.1 from 127.0.0.1:1, 1.000s old: stopped in phase kill\n  \
             connection 3.2 from 127.0.0.1:1, 2.000s old: stuck in phase kill",
        );
        assert_eq!(report.all_connections().total(), 4);
        assert_eq!(report.all_connections().of(EndKind::Stopped), 1);
        assert_eq!(report.all_acceptors().of(EndKind::Stopped), 2);
        assert_eq!(report.connections(Phase::Stop).total(), 2);
    }

    #[test]
    fn reasons_phases_and_kinds_display() {
        let reasons = [
            StopReason::Requested,
            StopReason::Intensity,
            StopReason::OwnerDropped,
            StopReason::RuntimeGone,
            StopReason::ListenersFailed,
        ];
        assert_eq!(
            reasons.map(|reason| reason.to_string()),
            [
                "requested",
                "restart intensity exceeded",
                "owner dropped",
                "runtime gone",
                "last listener failed"
            ]
        );
        assert_eq!(
            Phase::ALL.iter().map(Phase::to_string).collect::<Vec<_>>(),
            ["lame duck", "grace", "stop", "kill"]
        );
        let mut ends = Ends::default();
        assert_eq!(ends.to_string(), "none");
        for (count, &kind) in EndKind::ALL.iter().enumerate() {
            for _ in 0..=count {
                ends.count(kind, 1);
            }
        }
        assert_eq!(
            ends.to_string(),
            "1 normal, 2 clean, 3 disconnected, 4 handshake failed, 5 error, 6 panic, 7 killed, 8 stopped, 9 lost"
        );
        assert_eq!(ends.total(), 45);
    }
}
