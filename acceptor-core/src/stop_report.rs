//! How a stop went: its reason, its phases, how the children ended (S1, S7).

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::time::Duration;

use crate::id::ChildId;
use crate::text::{EscapedDebug, write_counts};

/// The phases of a stop, in their order (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Everything goes on as before, but the pool shows that it is about to stop (S2).
    LameDuck,
    /// The listeners close, and then connections are left alone for the time of the grace; no child is asked to stop (S3, S4).
    Grace,
    /// Children that trapped the stop are signalled, the others are dropped (S5).
    Stop,
    /// What is left is killed (S6, S8).
    Kill,
}

impl Phase {
    /// All phases, in their order.
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

/// Why a pool stopped; the first reason counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// `stop` or `kill` was called.
    Requested,
    /// More counted failures within the period than the intensity allows (I1).
    Intensity,
    /// The owner was dropped (S9).
    OwnerDropped,
    /// The runtime dropped the pool's own task.
    RuntimeGone,
    /// The last listener failed, and the spec says that the pool ends with it (L9).
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

/// How a child ended, as far as counting goes (section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndKind {
    /// `serve` returned `Ok`; for an acceptor: ignored, or terminated by its accept timeout.
    Normal,
    /// `serve` returned [`Exit::clean`](crate::Exit::clean).
    Clean,
    /// `serve` returned an error that means that its peer is gone (E5), or [`Exit::disconnected`](crate::Exit::disconnected).
    Disconnected,
    /// The handshake failed, or took too long (H4).
    HandshakeFailed,
    /// `serve` or `init` returned another error.
    Error,
    /// A callback panicked, or what it owned did when it was dropped.
    Panic,
    /// Killed, through the handle or by the stop.
    Killed,
    /// Stopped through the handle, or dropped at the stop phase; for an acceptor: terminated because its listener closed or failed or the pool stops.
    Stopped,
    /// Its runtime dropped the task.
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

/// How many children ended in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends([usize; 9]);

impl Ends {
    /// How many ended in this way.
    pub fn of(&self, kind: EndKind) -> usize {
        self.0[kind as usize]
    }

    /// How many ended.
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

/// The result of a pool: why it stopped, how its last children ended, how long it took (S7).
///
/// Counted are the ends from the moment the stop began.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport<A = SocketAddr> {
    /// Why the pool stopped.
    pub reason: StopReason,
    /// From the call that began the stop to the end of the last child, or the close of the last socket if that came
    /// later; to the end of the kill timeout, if a child is stuck.
    pub elapsed: Duration,
    /// Children that did not suspend after the kill and were left (S8).
    ///
    /// Each still blocks a thread of its runtime. To drop the runtime, which a return from `main` does, would wait for it:
    /// leave by [`std::process::exit`] if this is not 0.
    pub stuck: usize,
    /// Reports that no observer got: those that found the outbox full, and those that were not delivered within a kill
    /// timeout after the last child had ended (O2).
    pub undelivered: u64,
    /// Connections that ended after the grace, or not at all: at most 16 of them, the oldest first. If the stop took long, it
    /// was because of these. With a grace of zero each connection that was open is late.
    pub late: Vec<LateConnection<A>>,
    pub(crate) connections: [Ends; 4],
    pub(crate) acceptors: [Ends; 4],
}

/// A connection that ended after the grace of a stop (S7).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateConnection<A = SocketAddr> {
    /// The connection.
    pub id: ChildId,
    /// Its peer.
    pub peer_addr: A,
    /// How old it was when it ended, or was given up.
    pub age: Duration,
    /// The phase in which it ended, or was given up.
    pub phase: Phase,
    /// How it ended; `None` if it was given up as stuck.
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
    /// How the connections ended that ended in this phase.
    pub fn connections(&self, phase: Phase) -> Ends {
        self.connections[phase as usize]
    }

    /// How the acceptors ended that ended in this phase.
    pub fn acceptors(&self, phase: Phase) -> Ends {
        self.acceptors[phase as usize]
    }

    /// How the connections ended, all phases together.
    pub fn all_connections(&self) -> Ends {
        sum(&self.connections)
    }

    /// How the acceptors ended, all phases together.
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
    fn every_reason_phase_and_kind_has_its_word() {
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
