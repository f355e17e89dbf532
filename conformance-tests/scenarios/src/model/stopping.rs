//! The stop of the model: phases that may end at a time, and how many children ended how in each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildId, ConnectionRecord, EndKind, Grace, Phase, PoolState, Shutdown, StopReason, StopReport,
};

use super::children::{Child, Stage};
use super::listeners::Ending;
use super::outbox::{Expected, Reporter, Sort};
use super::{Key, Model, SECOND, Seen, breach, same};
use crate::SpecSetting;
use crate::event::Holder;

/// A stop, under way or over.
pub(super) struct Stop {
    reason: StopReason,
    began: Instant,
    plan: SpecSetting,
    pub(super) phase: Phase,
    /// Grace has not begun: listeners take what is queued, since then (L7).
    closing: Option<Instant>,
    /// When the phase may end; never, if there is none.
    pub(super) deadline: Option<Instant>,
    pub(super) finished: Option<Instant>,
    connections: [[usize; KINDS]; 4],
    acceptors: [[usize; KINDS]; 4],
    stuck: usize,
    /// How many of them were given up while others were waited for.
    abandoned: usize,
    /// The connections that ended after the grace, or were given up.
    late: Vec<LateEnd>,
    /// When the kill began.
    killed: Instant,
    /// When a child was polled last, or ended, by its runtime; in the kill phase.
    moved: BTreeMap<u64, Instant>,
    /// When the clock jumped last.
    jumped: Instant,
}

/// A connection that the result names: the time when it was accepted, its id, and its peer, age, phase and end.
type LateEnd = (
    Instant,
    ChildId,
    (SocketAddr, Duration, Phase, Option<EndKind>),
);

/// The result names so many of them, the oldest (S7).
const MOST_NAMED: usize = 16;

const KINDS: usize = ALL.len();
const ALL: [EndKind; 9] = [
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

/// Grace begins this long after the listeners were to close, at the latest (L7).
const CLOSE_LIMIT: Duration = SECOND;

fn position(kind: EndKind) -> usize {
    let position = ALL.iter().position(|other| *other == kind);
    position.expect("these are all kinds")
}

impl SpecSetting {
    /// Whether a stop first takes the connections that are queued (L7).
    fn drains(&self) -> bool {
        self.grace() != Grace::Within(Duration::ZERO) || self.shutdown() != Shutdown::Kill
    }
}

impl Stop {
    pub(super) fn drains(&self) -> bool {
        self.plan.drains()
    }

    pub(super) fn count(&mut self, sort: Sort, kind: EndKind) {
        if self.finished.is_some() {
            return;
        }
        let phases = match sort {
            Sort::Connection => &mut self.connections,
            Sort::Acceptor | Sort::StartError => &mut self.acceptors,
        };
        phases[self.phase as usize][position(kind)] += 1;
    }

    /// A connection has ended in this way, or was given up, if the grace is over.
    pub(super) fn is_late(&mut self, child: &Child, kind: Option<EndKind>, now: Instant) {
        let link = child.connection.as_ref();
        if let (Some(id), Some(link), Phase::Stop | Phase::Kill) = (child.id, link, self.phase) {
            let ended = (link.peer, now - link.since, self.phase, kind);
            self.late.push((link.since, id, ended));
        }
    }

    /// A child was polled, or has ended (S8).
    pub(super) fn moves(&mut self, runtime: u64, now: Instant) {
        self.moved.insert(runtime, now);
    }

    /// Grace begins, whether or not all sockets are closed.
    fn begin_grace(&mut self, now: Instant) {
        self.closing = None;
        self.deadline = match self.plan.grace() {
            Grace::Within(time) => now.checked_add(time),
            Grace::Unlimited => None,
        };
    }

    /// Holds the connections that are named in the result against those that ended late.
    fn names(&self, report: &StopReport) -> Seen {
        let mut late: Vec<_> = self.late.iter().collect();
        late.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        let late = late.into_iter().take(MOST_NAMED);
        let expected: Vec<_> = late.map(|(_, id, ended)| (*id, *ended)).collect();
        let named = report.late.iter();
        let named: Vec<_> = named
            .map(|late| (late.id, (late.peer_addr, late.age, late.phase, late.kind)))
            .collect();
        same("S7", "the connections that ended late", expected, named)
    }

    /// When this child is given up, if it does not end, at the earliest and at the latest (S8). A guard that is held is like a
    /// poll that does not end; any other child may be waiting for its turn.
    fn gives_up(&self, child: Option<(&Child, u64)>) -> (Instant, Instant) {
        let kill_timeout = self.plan.patience();
        let late = kill_timeout + kill_timeout / 4;
        let moved = |runtime| self.moved.get(&runtime).copied().unwrap_or(self.killed);
        let since = match child {
            Some((child, runtime)) => match child.guard() {
                Some((since, _)) => self.killed.max(since),
                None => moved(runtime),
            },
            None => self.moved.values().copied().fold(self.killed, Instant::max),
        };
        (since + kill_timeout, since.max(self.jumped) + late)
    }
}

impl Model {
    /// The pool is to stop; a stop under way stays as it is.
    pub(crate) fn stops(&mut self, reason: StopReason) {
        if self.stop.is_some() {
            return;
        }
        self.begins_stop(reason);
        self.phases_go_on();
    }

    /// Phases whose time is over end with whatever happens next.
    pub(super) fn phases_go_on(&mut self) {
        loop {
            let sockets = self.sockets();
            let now = self.now;
            let Some(stop) = self.stop.as_mut().filter(|stop| stop.finished.is_none()) else {
                return;
            };
            let due = stop.deadline.is_some_and(|deadline| deadline <= now);
            if stop.closing.is_some() && (sockets == 0 || due) {
                stop.begin_grace(now);
                continue;
            }
            if !due || stop.phase == Phase::Kill {
                return;
            }
            self.next_phase();
        }
    }

    /// The pool is to end at once.
    pub(crate) fn kills(&mut self, reason: StopReason) {
        if self.stop.is_none() {
            self.begins_stop(reason);
        }
        if let PoolState::Stopping(Phase::LameDuck | Phase::Grace | Phase::Stop) = self.state() {
            self.enter(Phase::Kill);
        }
    }

    pub(super) fn begins_stop(&mut self, reason: StopReason) {
        if self.stop.is_some() {
            return;
        }
        match reason {
            StopReason::Requested | StopReason::OwnerDropped => {}
            _ => self.reports(Expected::PoolStopped(reason)),
        }
        // The pool's own task, because it has a timer to set.
        self.wakes.driver += 1;
        self.stop = Some(Stop {
            reason,
            began: self.now,
            plan: self.spec,
            phase: Phase::LameDuck,
            closing: None,
            deadline: self.now.checked_add(self.spec.lame_duck()),
            finished: None,
            connections: Default::default(),
            acceptors: Default::default(),
            stuck: 0,
            abandoned: 0,
            late: Vec::new(),
            killed: self.now,
            moved: BTreeMap::new(),
            jumped: self.now,
        });
    }

    fn next_phase(&mut self) {
        let Some(stop) = &self.stop else { return };
        let next = match (stop.phase, stop.plan.shutdown()) {
            (Phase::LameDuck, _) => Phase::Grace,
            // Brutal: no stop phase.
            (Phase::Grace, Shutdown::Kill) => Phase::Kill,
            (Phase::Grace, _) => Phase::Stop,
            (Phase::Stop | Phase::Kill, _) => Phase::Kill,
        };
        self.enter(next);
    }

    fn enter(&mut self, phase: Phase) {
        let (now, batch) = (self.now, self.batch);
        let children = self.children.len() as u64;
        let Some(stop) = &mut self.stop else { return };
        stop.phase = phase;
        stop.closing = None;
        stop.killed = now;
        stop.moved.clear();
        let (drains, plan) = (stop.drains(), stop.plan);
        // The pool's own task; from the stop phase on, each child.
        self.wakes.driver += 1;
        if phase >= Phase::Stop {
            self.wakes.children += children;
        }
        match phase {
            Phase::LameDuck => {}
            Phase::Grace => {
                stop.closing = drains.then_some(now);
                stop.deadline = Some(now + CLOSE_LIMIT);
                if !drains {
                    stop.begin_grace(now);
                }
                for number in 0..self.listeners.len() {
                    self.closes(number, Ending::Stopped, drains);
                }
            }
            Phase::Stop => {
                stop.deadline = match plan.shutdown() {
                    Shutdown::Within(time) => now.checked_add(time),
                    Shutdown::Kill | Shutdown::Unlimited => None,
                };
                for listening in &mut self.listeners {
                    listening.stopped.get_or_insert(batch);
                }
            }
            Phase::Kill => {
                stop.deadline = None;
                self.commanded = true;
                for listening in &mut self.listeners {
                    listening.killed.get_or_insert(batch);
                }
                for number in 0..self.listeners.len() {
                    self.closes(number, Ending::Stopped, false);
                }
            }
        }
    }

    /// Holds the pool's state against the model's, after a poll or a call.
    pub(crate) fn observe(&mut self, state: PoolState) -> Seen {
        let Some(stop) = &self.stop else {
            return same("I1", "the pool's state", PoolState::Running, state);
        };
        if stop.finished.is_some() {
            return same("S1", "the pool's state", PoolState::Stopped, state);
        }
        match state {
            PoolState::Stopping(phase) => {
                if phase < stop.phase {
                    let expected = format!("phase {}, or a later one", stop.phase);
                    return breach("S1", expected, phase.to_string());
                }
                while self.phase().is_some_and(|known| known < phase) {
                    self.goes_on()?;
                }
                Ok(())
            }
            PoolState::Stopped => self.finishes(),
            _ => breach("S1", format!("{}", self.state()), state.to_string()),
        }
    }

    /// A phase is over: it must be at its time.
    fn goes_on(&mut self) -> Seen {
        let (now, before) = (self.now, self.phase());
        self.phases_go_on();
        let Some(stop) = self.stop.as_ref().filter(|stop| Some(stop.phase) == before) else {
            return Ok(());
        };
        let rule = match stop.phase {
            Phase::LameDuck => "S2",
            Phase::Grace if stop.closing.is_some() => "L7",
            Phase::Grace => "S4",
            Phase::Stop => "S5",
            Phase::Kill => "S8",
        };
        let expected = match stop.deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(now);
                format!("phase {} for {left:?} more", stop.phase)
            }
            None => format!("phase {} until the last child ends", stop.phase),
        };
        breach(rule, expected, "it is over")
    }

    /// Whether children that do not end may be given up by now (S8).
    pub(super) fn may_give_up(&self) -> bool {
        let stop = self.stop.as_ref();
        let stop = stop.filter(|stop| stop.phase == Phase::Kill);
        stop.is_some_and(|stop| self.gives_up(stop).0 <= self.now)
    }

    /// When all children that do not end are given up, at the earliest and at the latest.
    fn gives_up(&self, stop: &Stop) -> (Instant, Instant) {
        let each = self
            .children
            .iter()
            .map(|(key, child)| stop.gives_up(Some((child, self.listeners[key.listener].runtime))));
        let last = each.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)));
        last.unwrap_or_else(|| stop.gives_up(None))
    }

    /// How many connections were given up, and have their streams.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned.len()
    }

    /// Whether connections that a guard keeps may be given up by now, while others are waited for (S8).
    pub(crate) fn may_abandon(&self) -> bool {
        let stop = self.stop.as_ref();
        let stop = stop.filter(|stop| stop.phase == Phase::Kill && stop.finished.is_none());
        let due = |key: &Key, child: &Child, stop: &Stop| {
            let runtime = self.listeners[key.listener].runtime;
            child.guard().is_some() && stop.gives_up(Some((child, runtime))).0 <= self.now
        };
        let mut children = self.children.iter();
        stop.is_some_and(|stop| children.any(|(key, child)| due(key, child, stop)))
    }

    /// Sees which connections were given up: those that a guard keeps, and that are not listed any longer.
    pub(crate) fn abandons(&mut self, listed: &[ConnectionRecord]) -> Seen {
        let mut gone: BTreeSet<_> = self.connections().map(|(key, _)| *key).collect();
        for record in listed {
            gone.remove(&self.key(record.id)?);
        }
        for key in gone {
            let (Some(stop), Some(child)) = (&mut self.stop, self.children.get(&key)) else {
                continue;
            };
            let runtime = self.listeners[key.listener].runtime;
            if child.guard().is_none() || stop.gives_up(Some((child, runtime))).0 > self.now {
                return breach("S8", format!("{key} is not given up"), "it is not listed");
            }
            stop.abandoned += 1;
            stop.is_late(child, None, self.now);
            self.remove(key);
            self.abandoned.insert(key);
        }
        Ok(())
    }

    fn finishes(&mut self) -> Seen {
        let now = self.now;
        let (left, sockets) = (self.children.len(), self.sockets());
        if left + sockets > 0 {
            self.phases_go_on();
            if !self.may_give_up() {
                let expected = format!("the pool waits for {left} children and {sockets} sockets");
                return breach("S8", expected, "it has stopped");
            }
        }
        let Some(stop) = &mut self.stop else {
            return Ok(());
        };
        stop.finished = Some(now);
        let stuck = left + stop.abandoned;
        stop.stuck = stuck;
        for child in self.children.values() {
            stop.is_late(child, None, now);
        }
        let kill = Phase::Kill as usize;
        let killed = stop.connections[kill][position(EndKind::Killed)]
            + stop.acceptors[kill][position(EndKind::Killed)];
        let reports = stop.plan.shutdown() != Shutdown::Kill;
        if killed > 0 && reports {
            self.reports(Expected::KilledWhileStopping(killed));
        }
        if stuck > 0 {
            self.reports(Expected::Stuck(stuck));
        }
        // The task that delivers reports has the result to give, and wakes the pool's own task with it.
        self.wakes.reporter += 2;
        self.wakes.driver += 2;
        Ok(())
    }

    /// A wait for the result is over.
    pub(super) fn joined(&mut self, report: &StopReport) -> Seen {
        self.wakes.others += 1;
        if self.joins == 0 {
            return breach("S1", "each wait for the result returns once", "once more");
        }
        self.joins -= 1;
        if let Some(result) = &self.result {
            return same("S1", "all get the same result", result, report);
        }
        self.result = Some(report.clone());
        let Some(stop) = &self.stop else {
            return breach("S1", "no result while the pool runs", report.to_string());
        };
        same("S7", "the reason", stop.reason, report.reason)?;
        self.result_is(report)
    }

    /// Holds the result against what was seen.
    pub(crate) fn result_is(&mut self, report: &StopReport) -> Seen {
        let Some(stop) = &self.stop else {
            return Ok(());
        };
        let Some(finished) = stop.finished else {
            let expected = "no result before the pool has stopped";
            return breach("S1", expected, report.to_string());
        };
        if !self.outbox.closed && !self.delivery_is_over(finished) {
            let expected = "the result comes after the last report, or a kill timeout later";
            return breach("O2", expected, report.to_string());
        }
        self.outbox.closed = true;
        same(
            "O2",
            "reports that are not delivered",
            self.outbox.undelivered(),
            report.undelivered,
        )?;
        let took = finished - stop.began;
        same("S7", "how long it took", took, report.elapsed)?;
        same("S8", "left stuck", stop.stuck, report.stuck)?;
        stop.names(report)?;
        for &phase in Phase::ALL {
            for kind in ALL {
                let expected = stop.connections[phase as usize][position(kind)];
                let seen = report.connections(phase).of(kind);
                same(
                    "S7",
                    format_args!("connections that ended {kind} in phase {phase}"),
                    expected,
                    seen,
                )?;
                let expected = stop.acceptors[phase as usize][position(kind)];
                let seen = report.acceptors(phase).of(kind);
                same(
                    "S7",
                    format_args!("acceptors that ended {kind} in phase {phase}"),
                    expected,
                    seen,
                )?;
            }
        }
        Ok(())
    }

    /// How long a stop waits for children that were killed, whether it is under way or to come.
    pub(crate) fn kill_timeout(&self) -> Duration {
        let plan = self.stop.as_ref().map_or(self.spec, |stop| stop.plan);
        plan.patience()
    }

    /// A task of a child was polled (S8), on this runtime.
    pub(crate) fn child_was_polled(&mut self, runtime: u64) {
        self.runtime = Some(runtime);
        if let Some(stop) = &mut self.stop {
            stop.moves(runtime, self.now);
        }
    }

    /// The clock jumped to this moment: timers that were due on the way fire now.
    pub(crate) fn jumped(&mut self, now: Instant) {
        if let Some(stop) = &mut self.stop {
            stop.jumped = now;
        }
        for listening in &mut self.listeners {
            if let Some(closing) = &mut listening.closing {
                closing.jumped = Some(now);
            }
        }
    }

    /// Nothing is ready: the result was given, unless the task that delivers reports is held, and its time is not over.
    pub(super) fn result_is_given(&mut self) {
        let stop = self.stop.as_ref();
        let Some(finished) = stop.and_then(|stop| stop.finished) else {
            return;
        };
        let by_time = self.now >= finished + self.kill_timeout() && !self.timeless;
        let delivered = self.outbox.reporter != Reporter::Held && self.outbox.is_empty();
        self.outbox.closed |= delivered || by_time;
    }

    /// Nothing is ready: the stop has gone as far as it may by now.
    pub(super) fn stop_goes_on(&self) -> Seen {
        let Some(stop) = &self.stop else {
            return Ok(());
        };
        if stop.finished.is_some() {
            if self.outbox.closed && self.joins > 0 {
                let seen = format!("{} wait on", self.joins);
                return breach("S1", "all that wait for the result get it", seen);
            }
            return Ok(());
        }
        if self.children.is_empty() && self.sockets() == 0 && stop.phase > Phase::LameDuck {
            let expected = "the pool has stopped, because nothing is left";
            return breach("S7", expected, format!("phase {}", stop.phase));
        }
        let overdue = match stop.phase {
            Phase::Kill => self.gives_up(stop).1 <= self.now && !self.timeless,
            _ => stop.deadline.is_some_and(|deadline| deadline <= self.now),
        };
        if overdue {
            return breach("S7", format!("phase {} is over", stop.phase), "it goes on");
        }
        Ok(())
    }

    /// Whether the pool has ended, and what is left of it was given up.
    pub(super) fn is_given_up(&self) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| stop.finished.is_some())
    }

    /// Nothing is ready: what was to be dropped is gone, and what was to go on has.
    pub(super) fn children_went_on(&self) -> Seen {
        for (key, child) in &self.children {
            let commands = self.commands(*key, child);
            // Of an acceptor that was given up before its `init` began nothing can be seen.
            let unseen = self.is_given_up() && child.stage == Stage::Starting;
            // Nor is one whose stream is kept.
            let kept = matches!(child.guard(), Some((_, Holder::Kept)));
            if child.is_to_be_dropped(&commands) && !unseen && !kept {
                let expected = format!("{key} is gone: {commands:?}");
                return breach("E4", expected, format!("it is {:?}", child.stage));
            }
            if child.handshake_is_late(self.now) {
                let expected = format!("{key} is gone, because its handshake took too long");
                return breach("H3", expected, "it is there");
            }
            if child.stage == Stage::Connection && child.begun.is_none() {
                return breach("B5", format!("{key} serves"), "it was not polled");
            }
            if child.stage == Stage::Waiting && self.may_leave(*key, child) {
                let overdue = child.deadline.is_some_and(|(at, _)| at <= self.now);
                let rule = if overdue { "B6" } else { "B7" };
                return breach(rule, format!("{key} terminates: {commands:?}"), "it waits");
            }
        }
        Ok(())
    }
}
