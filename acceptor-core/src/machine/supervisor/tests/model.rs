//! The model of a pool: plain data, and the answers that follow from it.

use std::collections::{BTreeMap, BTreeSet};

use super::world::Child;
use super::*;
use crate::machine::effects::Order;
use crate::machine::stuck::RuntimeKey;
use crate::status::AcceptorState;
use crate::stop_report::{Ends, StopReport};

/// The task that starts a spaced acceptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartedBy {
    AcceptLoop,
    /// The accept loop, once the outage is over.
    AcceptLoopLater,
    Driver,
}

/// A child, as the model knows it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) control: Child,
    /// `None` for a connection.
    pub(super) state: Option<AcceptorState>,
    pub(super) since: Instant,
    /// Its begin as a connection was reported, so its end will be.
    pub(super) reported: bool,
    pub(super) started_by: StartedBy,
    /// The number of consecutive starts without success.
    pub(super) spaced: u32,
    /// Its poll count at each look.
    pub(super) looks: Vec<u32>,
    /// The generation of its acceptor.
    pub(super) generation: u64,
    /// It has been replaced (R1).
    pub(super) replaced: bool,
}

impl Known {
    pub(super) fn role(&self) -> Role {
        match self.state {
            Some(_) => Role::Acceptor,
            None => Role::Connection,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) retries: u32,
    pub(super) probe: Option<ChildId>,
}

/// A listener, as the model knows it.
#[derive(Debug, Clone)]
pub(super) struct KnownListener {
    pub(super) runtime: RuntimeKey,
    pub(super) acceptors: usize,
    pub(super) accepted: u64,
    /// The number of rows it has ever had.
    pub(super) numbers: u64,
    pub(super) owed: usize,
    /// The generation of the acceptor for new children.
    pub(super) generation: u64,
    pub(super) outage: Option<Outage>,
    pub(super) socket: SocketState,
    pub(super) killed: bool,
    /// Abandoned with all its children.
    pub(super) forgotten: bool,
}

impl KnownListener {
    pub(super) fn is_open(&self) -> bool {
        self.socket != SocketState::Closed && !self.killed
    }

    /// Whether the pool waits for its socket.
    pub(super) fn has_socket(&self) -> bool {
        self.socket != SocketState::Closed && !self.forgotten
    }
}

/// A stop, as the model knows it.
#[derive(Debug, Clone)]
pub(super) struct KnownStop {
    pub(super) plan: StopPlan,
    pub(super) reason: StopReason,
    pub(super) began: Instant,
    pub(super) phase: Phase,
    /// In the grace phase: the sockets are not closed yet, and grace has not begun.
    pub(super) closing: bool,
    /// When the current phase began; once the sockets are closed, when grace began.
    pub(super) since: Instant,
    pub(super) ends: Vec<(Role, Phase, EndKind)>,
    pub(super) looked: Option<Instant>,
    /// The runtimes that made progress since the last look.
    pub(super) moved: BTreeSet<RuntimeKey>,
    /// For each round of looks, whether a runtime made progress.
    pub(super) rounds: BTreeMap<RuntimeKey, Vec<bool>>,
    pub(super) stuck: usize,
    pub(super) finished: bool,
}

impl KnownStop {
    pub(super) fn count(&self, role: Role, phase: Phase, kind: EndKind) -> usize {
        let same = |end: &&(Role, Phase, EndKind)| **end == (role, phase, kind);
        self.ends.iter().filter(same).count()
    }

    pub(super) fn queued(&self) -> Queued {
        match (self.plan.grace, self.plan.shutdown) {
            (Grace::Within(Duration::ZERO), Shutdown::Kill) => Queued::Reset,
            _ => Queued::Accepted,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.phase, self.plan.grace, self.plan.shutdown) {
            _ if self.finished => None,
            (Phase::LameDuck, ..) => Some(self.since + self.plan.lame_duck),
            (Phase::Grace, ..) if self.closing => Some(self.since + ms(1000)),
            (Phase::Grace, Grace::Within(time), _) => Some(self.since + time),
            (Phase::Stop, _, Shutdown::Within(time)) => Some(self.since + time),
            (Phase::Grace | Phase::Stop, ..) => None,
            (Phase::Kill, ..) => Some(match self.looked {
                None => self.since,
                Some(at) => at + self.plan.kill_timeout / 4,
            }),
        }
    }

    pub(super) fn report(&self, now: Instant) -> StopReport<()> {
        const PHASES: [Phase; 4] = [Phase::LameDuck, Phase::Grace, Phase::Stop, Phase::Kill];
        let ends = |role| {
            PHASES.map(|phase| {
                let mut ends = Ends::default();
                let of_phase = |end: &&(Role, Phase, EndKind)| (end.0, end.1) == (role, phase);
                let of_phase = self.ends.iter().filter(of_phase);
                of_phase.for_each(|(_, _, kind)| ends.count(*kind, 1));
                ends
            })
        };
        StopReport {
            reason: self.reason,
            elapsed: now - self.began,
            stuck: self.stuck,
            undelivered: 0,
            late: Vec::new(),
            connections: ends(Role::Connection),
            acceptors: ends(Role::Acceptor),
        }
    }
}

/// The expected effects of an event.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) orders: Vec<Order>,
    pub(super) close: Vec<(ListenerId, Close)>,
    pub(super) start: Option<(ListenerId, ChildId)>,
    pub(super) start_later: Option<(ListenerId, ChildId, Duration)>,
    /// A closing listener that has one acceptor less.
    pub(super) fewer: Option<ListenerId>,
    pub(super) reports: Vec<Reported>,
    pub(super) debug: Option<Reported>,
    /// A connection that ended after the grace, with its age.
    pub(super) late: Option<(ChildId, EndKind, Phase, Duration)>,
    pub(super) finished: Option<StopReport<()>>,
    pub(super) wakes_driver: bool,
    pub(super) gone: Option<ChildId>,
    pub(super) unseen: bool,
}

/// The delay of the n-th consecutive start without success.
pub(super) fn delay(starts: u32) -> Duration {
    match starts {
        0 => Duration::ZERO,
        starts => ms(2_u64.pow(starts.min(11) - 1)).min(ms(1000)),
    }
}
