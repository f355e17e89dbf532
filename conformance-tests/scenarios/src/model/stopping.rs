//! The stop of the model: its phases, and the ends of children in each phase.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildId, ConnectionRecord, EndKind, EventKind, Grace, Phase, PoolState, Shutdown, StopReason,
    StopReport,
};

use super::children::{Child, Stage};
use super::listeners::{CLOSE_LIMIT, EndReason};
use super::outbox::{Expected, Reporter, Role};
use super::{Check, Key, Model, same, violation};
use crate::SpecSetting;
use crate::event::GuardHolder;

/// A stop, in progress or finished.
pub(super) struct Stop {
    reason: StopReason,
    began: Instant,
    plan: SpecSetting,
    pub(super) phase: Phase,
    /// Grace has not begun: since this time listeners accept queued connections (L7).
    closing: Option<Instant>,
    /// The time at which the phase may end; without one it has no limit.
    pub(super) deadline: Option<Instant>,
    pub(super) finished: Option<Instant>,
    /// How many connections, and how many acceptors, ended in each phase in each way.
    ends: HashMap<(Role, Phase, EndKind), usize>,
    stuck: usize,
    /// How many children were given up before the end of the kill phase.
    abandoned: usize,
    /// The connections that ended after the grace, or were given up.
    late: Vec<LateEnd>,
    /// The beginning of the kill phase.
    killed: Instant,
    /// For each runtime, when it last polled a child, or a child ended, in the kill phase.
    progress: BTreeMap<u64, Instant>,
    /// The last jump of the clock.
    jumped: Instant,
}

/// A connection in the result: the time of its accept, its id, and its peer, age, phase and end.
type LateEnd = (
    Instant,
    ChildId,
    (SocketAddr, Duration, Phase, Option<EndKind>),
);

/// The result has at most this many of them, the oldest ones (S7).
const MAX_LATE: usize = 16;

impl SpecSetting {
    /// Whether a stop first accepts queued connections (L7).
    fn drains(&self) -> bool {
        self.grace() != Grace::Within(Duration::ZERO) || self.shutdown() != Shutdown::Kill
    }
}

impl Stop {
    pub(super) fn drains(&self) -> bool {
        self.plan.drains()
    }

    pub(super) fn count(&mut self, role: Role, kind: EndKind) {
        if self.finished.is_some() {
            return;
        }
        let role = match role {
            Role::Connection => role,
            Role::Acceptor | Role::StartError => Role::Acceptor,
        };
        *self.ends.entry((role, self.phase, kind)).or_default() += 1;
    }

    fn ended(&self, role: Role, phase: Phase, kind: EndKind) -> usize {
        let count = self.ends.get(&(role, phase, kind));
        count.copied().unwrap_or_default()
    }

    /// Records a connection that ended, or was given up, after the grace.
    pub(super) fn record_late(&mut self, child: &Child, kind: Option<EndKind>, now: Instant) {
        let link = child.connection.as_ref();
        if let (Some(id), Some(link), Phase::Stop | Phase::Kill) = (child.id, link, self.phase) {
            let ended = (link.peer, now - link.since, self.phase, kind);
            self.late.push((link.since, id, ended));
        }
    }

    /// A child was polled, or has ended (S8).
    pub(super) fn record_progress(&mut self, runtime: u64, now: Instant) {
        self.progress.insert(runtime, now);
    }

    /// Grace begins, whether or not all sockets are closed.
    fn begin_grace(&mut self, now: Instant) {
        self.closing = None;
        self.deadline = match self.plan.grace() {
            Grace::Within(time) => now.checked_add(time),
            Grace::Unlimited => None,
        };
    }

    /// Checks the late connections in the result.
    fn check_late(&self, report: &StopReport) -> Check {
        let mut late: Vec<_> = self.late.iter().collect();
        late.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        let late = late.into_iter().take(MAX_LATE);
        let expected: Vec<_> = late.map(|(_, id, ended)| (*id, *ended)).collect();
        let named = report.late.iter().map(|late| {
            let ended = (late.peer_addr, late.age, late.phase, late.kind);
            (late.id, ended)
        });
        same("S7", "late connections", expected, named.collect())
    }

    /// The earliest and the latest time at which the pool gives up this child (S8). A guard that is held is like a poll that
    /// does not return; any other child may still wait for its poll.
    fn times_of_giving_up(&self, child: Option<(&Child, u64)>) -> (Instant, Instant) {
        let kill_timeout = self.plan.kill_timeout();
        let late = kill_timeout + kill_timeout / 4;
        let moved = |runtime| self.progress.get(&runtime).copied().unwrap_or(self.killed);
        let since = match child {
            Some((child, runtime)) => match child.guard() {
                Some((since, _)) => self.killed.max(since),
                None => moved(runtime),
            },
            None => self
                .progress
                .values()
                .fold(self.killed, |last, at| last.max(*at)),
        };
        (since + kill_timeout, since.max(self.jumped) + late)
    }
}

impl Model {
    /// The pool is stopped; a stop in progress does not change.
    pub(crate) fn stops(&mut self, reason: StopReason) {
        if self.stop.is_some() {
            return;
        }
        self.begins_stop(reason);
        self.phases_go_on();
    }

    /// Ends all phases whose time has passed.
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

    /// The pool is killed.
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
            _ => self.reports(Expected::new(EventKind::PoolStopped, reason.to_string())),
        }
        // The pool's own task, because it sets a timer.
        self.wakes.driver += 1;
        self.stop = Some(Stop {
            reason,
            began: self.now,
            plan: self.spec,
            phase: Phase::LameDuck,
            closing: None,
            deadline: self.now.checked_add(self.spec.lame_duck()),
            finished: None,
            ends: HashMap::new(),
            stuck: 0,
            abandoned: 0,
            late: Vec::new(),
            killed: self.now,
            progress: BTreeMap::new(),
            jumped: self.now,
        });
    }

    fn next_phase(&mut self) {
        let Some(stop) = &self.stop else { return };
        let next = match (stop.phase, stop.plan.shutdown()) {
            (Phase::LameDuck, _) => Phase::Grace,
            // There is no stop phase.
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
        stop.progress.clear();
        let (drains, plan) = (stop.drains(), stop.plan);
        // The pool's own task, and from the stop phase on each child.
        self.wakes.driver += 1;
        if phase >= Phase::Stop {
            self.wakes.children += children;
        }
        match phase {
            Phase::LameDuck => {}
            Phase::Grace => {
                stop.closing = drains.then_some(now);
                // Grace begins even if the listeners still close (L7).
                stop.deadline = Some(now + CLOSE_LIMIT);
                if !drains {
                    stop.begin_grace(now);
                }
                for number in 0..self.listeners.len() {
                    self.closes(number, EndReason::Stopped, drains);
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
                    self.closes(number, EndReason::Stopped, false);
                }
            }
        }
    }

    /// Checks the pool's state after a poll or a call.
    pub(crate) fn observe(&mut self, state: PoolState) -> Check {
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
                    return violation("S1", expected, phase.to_string());
                }
                while self.phase().is_some_and(|known| known < phase) {
                    self.goes_on()?;
                }
                Ok(())
            }
            PoolState::Stopped => self.finishes(),
            _ => violation("S1", format!("{}", self.state()), state.to_string()),
        }
    }

    /// The pool has ended a phase: its time must have passed.
    fn goes_on(&mut self) -> Check {
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
        violation(rule, expected, "it is over")
    }

    /// Whether the pool may give up children now (S8).
    pub(super) fn may_give_up(&self) -> bool {
        let stop = self.stop.as_ref();
        let stop = stop.filter(|stop| stop.phase == Phase::Kill);
        stop.is_some_and(|stop| self.times_of_giving_up(stop).0 <= self.now)
    }

    /// The earliest and the latest time at which the pool gives up all children.
    fn times_of_giving_up(&self, stop: &Stop) -> (Instant, Instant) {
        let runtime = |key: &Key| self.listeners[key.listener].runtime;
        let each = self.children.iter();
        let each = each.map(|(key, child)| stop.times_of_giving_up(Some((child, runtime(key)))));
        let last = each.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)));
        last.unwrap_or_else(|| stop.times_of_giving_up(None))
    }

    /// How many connections were given up, and still have their streams.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned.len()
    }

    /// Whether the pool may give up guarded connections now, and wait for other children (S8).
    pub(crate) fn may_abandon(&self) -> bool {
        let stop = self.stop.as_ref();
        let stop = stop.filter(|stop| stop.phase == Phase::Kill && stop.finished.is_none());
        let due = |key: &Key, child: &Child, stop: &Stop| {
            let runtime = self.listeners[key.listener].runtime;
            child.guard().is_some() && stop.times_of_giving_up(Some((child, runtime))).0 <= self.now
        };
        let mut children = self.children.iter();
        stop.is_some_and(|stop| children.any(|(key, child)| due(key, child, stop)))
    }

    /// Sees which connections were given up: guarded ones that are no longer listed.
    pub(crate) fn abandons(&mut self, listed: &[ConnectionRecord]) -> Check {
        let mut gone: BTreeSet<_> = self.connections().map(|(key, _)| *key).collect();
        for record in listed {
            gone.remove(&self.key(record.id)?);
        }
        for key in gone {
            let (Some(stop), Some(child)) = (&mut self.stop, self.children.get(&key)) else {
                continue;
            };
            let runtime = self.listeners[key.listener].runtime;
            if child.guard().is_none()
                || stop.times_of_giving_up(Some((child, runtime))).0 > self.now
            {
                return violation("S8", format!("{key} is not given up"), "it is not listed");
            }
            stop.abandoned += 1;
            stop.record_late(child, None, self.now);
            self.remove(key);
            self.abandoned.insert(key);
        }
        Ok(())
    }

    fn finishes(&mut self) -> Check {
        let now = self.now;
        let (left, sockets) = (self.children.len(), self.sockets());
        if left + sockets > 0 {
            self.phases_go_on();
            if !self.may_give_up() {
                let expected = format!("the pool waits for {left} children and {sockets} sockets");
                return violation("S8", expected, "it has stopped");
            }
        }
        let Some(stop) = &mut self.stop else {
            return Ok(());
        };
        stop.finished = Some(now);
        let stuck = left + stop.abandoned;
        stop.stuck = stuck;
        for child in self.children.values() {
            stop.record_late(child, None, now);
        }
        let killed = [Role::Connection, Role::Acceptor]
            .map(|role| stop.ended(role, Phase::Kill, EndKind::Killed));
        let killed: usize = killed.iter().sum();
        let reports = stop.plan.shutdown() != Shutdown::Kill;
        if killed > 0 && reports {
            let kind = EventKind::KilledWhileStopping;
            self.reports(Expected::new(kind, String::new()).count(killed as u64));
        }
        if stuck > 0 {
            self.reports(Expected::new(EventKind::Stuck, String::new()).count(stuck as u64));
        }
        // The task that delivers reports gives the result, and wakes the pool's own task.
        self.wakes.reporter += 2;
        self.wakes.driver += 2;
        Ok(())
    }

    /// A wait for the result has returned.
    pub(super) fn joined(&mut self, report: &StopReport) -> Check {
        self.wakes.others += 1;
        if self.joins == 0 {
            return violation("S1", "each wait for the result returns once", "once more");
        }
        self.joins -= 1;
        if let Some(result) = &self.result {
            return same("S1", "all get the same result", result, report);
        }
        self.result = Some(report.clone());
        let Some(stop) = &self.stop else {
            return violation("S1", "no result while the pool runs", report.to_string());
        };
        same("S7", "the reason", stop.reason, report.reason)?;
        self.result_is(report)
    }

    /// Checks the result.
    pub(crate) fn result_is(&mut self, report: &StopReport) -> Check {
        let Some(stop) = &self.stop else {
            return Ok(());
        };
        let Some(finished) = stop.finished else {
            let expected = "no result before the pool has stopped";
            return violation("S1", expected, report.to_string());
        };
        if !self.outbox.closed && !self.delivery_is_over(finished) {
            let expected = "the result comes after the last report, or after the kill timeout";
            return violation("O2", expected, report.to_string());
        }
        self.outbox.closed = true;
        let undelivered = self.outbox.undelivered();
        same("O2", "undelivered reports", undelivered, report.undelivered)?;
        let took = finished - stop.began;
        same("S7", "the elapsed time", took, report.elapsed)?;
        same("S8", "left stuck", stop.stuck, report.stuck)?;
        stop.check_late(report)?;
        for &phase in Phase::ALL {
            let [connections, acceptors] = [report.connections(phase), report.acceptors(phase)];
            for (role, ends) in [(Role::Connection, connections), (Role::Acceptor, acceptors)] {
                for &kind in EndKind::ALL {
                    let what = format_args!("{role:?}: ended {kind} in phase {phase}");
                    same("S7", what, stop.ended(role, phase, kind), ends.of(kind))?;
                }
            }
        }
        Ok(())
    }

    /// The kill timeout of a stop in progress or a future one.
    pub(crate) fn kill_timeout(&self) -> Duration {
        let plan = self.stop.as_ref().map_or(self.spec, |stop| stop.plan);
        plan.kill_timeout()
    }

    /// A task of a child was polled (S8), on this runtime.
    pub(crate) fn child_was_polled(&mut self, runtime: u64) {
        self.runtime = Some(runtime);
        if let Some(stop) = &mut self.stop {
            stop.record_progress(runtime, self.now);
        }
    }

    /// The clock jumped to this time: all due timers fire now.
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

    /// No task is ready: the result was given, unless the task that delivers reports is held and has time left.
    pub(super) fn result_is_given(&mut self) {
        let stop = self.stop.as_ref();
        let Some(finished) = stop.and_then(|stop| stop.finished) else {
            return;
        };
        let by_time = self.now >= finished + self.kill_timeout() && !self.timeless;
        let delivered = self.outbox.reporter != Reporter::Held && self.outbox.is_empty();
        self.outbox.closed |= delivered || by_time;
    }

    /// No task is ready: the stop is in the right phase.
    pub(super) fn stop_goes_on(&self) -> Check {
        let Some(stop) = &self.stop else {
            return Ok(());
        };
        if stop.finished.is_some() {
            if self.outbox.closed && self.joins > 0 {
                let seen = format!("{} still wait", self.joins);
                return violation("S1", "every wait for the result returns", seen);
            }
            return Ok(());
        }
        if self.children.is_empty() && self.sockets() == 0 && stop.phase > Phase::LameDuck {
            let expected = "the pool has stopped, because no child and no socket is left";
            return violation("S7", expected, format!("phase {}", stop.phase));
        }
        let overdue = match stop.phase {
            Phase::Kill => self.times_of_giving_up(stop).1 <= self.now && !self.timeless,
            _ => stop.deadline.is_some_and(|deadline| deadline <= self.now),
        };
        if overdue {
            return violation("S7", format!("phase {} is over", stop.phase), "it goes on");
        }
        Ok(())
    }

    /// Whether the pool has stopped: children that are left were given up.
    pub(super) fn is_given_up(&self) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| stop.finished.is_some())
    }

    /// No task is ready: each child has reacted to its commands.
    pub(super) fn children_have_reacted(&self) -> Check {
        for (key, child) in &self.children {
            let commands = self.commands(*key, child);
            // An acceptor that was given up before its `init` has no events.
            let unseen = self.is_given_up() && child.stage == Stage::Starting;
            // A kept stream ignores the kill.
            let kept = matches!(child.guard(), Some((_, GuardHolder::Kept)));
            if child.is_to_be_dropped(&commands) && !unseen && !kept {
                let expected = format!("{key} is gone: {commands:?}");
                return violation("E4", expected, format!("it is {:?}", child.stage));
            }
            if child.handshake_is_late(self.now) {
                let expected = format!("{key} is gone, because its handshake took too long");
                return violation("H3", expected, "it is there");
            }
            if child.stage == Stage::Connection && child.begun.is_none() {
                return violation("B5", format!("{key} serves"), "it was not polled");
            }
            if child.stage == Stage::Waiting && self.may_leave(*key, child) {
                let overdue = child.deadline.is_some_and(|(at, _)| at <= self.now);
                let rule = if overdue { "B6" } else { "B7" };
                return violation(rule, format!("{key} terminates: {commands:?}"), "it waits");
            }
        }
        Ok(())
    }
}
