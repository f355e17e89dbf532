//! The supervisor's part in a stop: its phases, and the search for stuck children.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::child_end::Role;
use super::command::CloseReason;
use super::effects::{Close, Driver, Effects, Order, Queued};
use super::row::Row;
use super::shutdown::{StopStep, Stopping};
use super::slots::Bank;
use super::stuck::{RuntimeKey, Runtimes};
use super::supervisor::{Listening, Supervisor};
use super::table::Table;
use crate::id::ListenerId;
use crate::report::Event;
use crate::stop_report::{EndKind, Ends, Phase, StopReason, StopReport};
use crate::sync::DropCatching;

#[cfg_attr(test, derive(Clone))]
pub(crate) struct Stop {
    pub(super) stopping: Stopping,
    reason: StopReason,
    connections: [Ends; 4],
    acceptors: [Ends; 4],
    stuck: usize,
    runtimes: Runtimes,
    pub(super) finished: bool,
}

impl Stop {
    /// Counts ends of this kind, of children on this runtime.
    pub(super) fn count(&mut self, role: Role, kind: EndKind, count: usize, runtime: RuntimeKey) {
        let phase = self.stopping.phase() as usize;
        match role {
            Role::Connection => self.connections[phase].count(kind, count),
            Role::Acceptor => self.acceptors[phase].count(kind, count),
        }
        self.runtimes.moved(runtime);
    }
}

impl<S: Clone> Supervisor<S> {
    /// Begins a stop. A stop in progress continues unchanged (S1).
    pub(crate) fn stop<A>(
        &mut self,
        reason: StopReason,
        now: Instant,
        effects: &mut Effects<S, A>,
    ) {
        if self.stop.is_some() {
            return;
        }
        self.begin_stop(reason, now, effects);
        self.advance(now, effects);
    }

    /// Goes to the kill phase at once, whether or not a stop is in progress (S9).
    pub(crate) fn kill<A>(
        &mut self,
        reason: StopReason,
        now: Instant,
        effects: &mut Effects<S, A>,
    ) {
        if self.stop.is_none() {
            self.begin_stop(reason, now, effects);
        }
        let stop = self.stop.as_mut();
        if let Some(step) = stop.and_then(|stop| stop.stopping.kill(now)) {
            self.take(step, now, effects);
        }
        self.advance(now, effects);
    }

    /// Moves the stop on to the phase that is due.
    pub(crate) fn tick<A>(&mut self, now: Instant, effects: &mut Effects<S, A>) {
        self.advance(now, effects);
    }

    pub(super) fn begin_stop<A>(
        &mut self,
        reason: StopReason,
        now: Instant,
        effects: &mut Effects<S, A>,
    ) {
        self.stop = Some(Stop {
            stopping: Stopping::begin(self.rules.plan, now),
            reason,
            connections: Default::default(),
            acceptors: Default::default(),
            stuck: 0,
            runtimes: Runtimes::default(),
            finished: false,
        });
        match reason {
            StopReason::Intensity | StopReason::RuntimeGone | StopReason::ListenersFailed => {
                effects.reports.push(Event::PoolStopped { reason });
            }
            StopReason::Requested | StopReason::OwnerDropped => {}
        }
        effects.orders.push(Order::BeginStop);
        effects.driver = Driver::Wakes;
    }

    pub(super) fn advance<A>(&mut self, now: Instant, effects: &mut Effects<S, A>) {
        while let Some(stop) = &mut self.stop {
            let (left, sockets) = (self.listeners.len(), self.sockets);
            match stop.stopping.advance(now, left, sockets) {
                Some(step) => self.take(step, now, effects),
                None => return,
            }
        }
    }

    fn take<A>(&mut self, step: StopStep, now: Instant, effects: &mut Effects<S, A>) {
        effects.driver = Driver::Wakes;
        match step {
            StopStep::CloseListeners(queued) => {
                let reason = CloseReason::Stopped;
                let close = Close { reason, queued };
                self.close_all(close, effects);
                effects.orders.push(Order::CloseListeners(close));
            }
            StopStep::SendStop => effects.orders.push(Order::Stop),
            StopStep::Kill => {
                let (reason, queued) = (CloseReason::Stopped, Queued::Reset);
                self.close_all(Close { reason, queued }, effects);
                effects.orders.push(Order::Kill);
            }
            StopStep::Finish => self.finish(now, effects),
        }
    }

    /// Returns whether the driver must look for stuck children.
    pub(crate) fn look_is_due(&self, now: Instant) -> bool {
        self.phase() == Some(Phase::Kill) && self.deadline().is_some_and(|at| at <= now)
    }

    /// Looks at some children of one listener. Returns where to continue, if anywhere. The rows of
    /// stuck children go to `gone`, to be dropped outside of any lock.
    pub(crate) fn look<B: Bank, A>(
        &mut self,
        table: &mut Table<B, A>,
        id: ListenerId,
        (from, limit): (usize, usize),
        gone: &mut Vec<DropCatching<Row<A>>>,
    ) -> Option<usize> {
        let (stuck, moved, next) = table.look(from, limit);
        let stop = self.stop.as_mut().filter(|stop| !stop.finished)?;
        if let Some(listening) = self.listeners.get(&id).filter(|_| moved) {
            stop.runtimes.moved(listening.runtime);
        }
        for id in stuck {
            gone.extend(table.remove(id));
            stop.stuck += 1;
        }
        if table.is_over() {
            self.listeners.remove(&id);
        }
        next
    }

    /// Ends a round of looks. If no child on a runtime moved for a kill timeout, all that are left
    /// there are stuck.
    pub(crate) fn looked<A>(&mut self, now: Instant, effects: &mut Effects<S, A>) -> Looks {
        self.advance(now, effects);
        let Some(stop) = self.stop.as_mut().filter(|stop| !stop.finished) else {
            return Looks::Over;
        };
        stop.stopping.looked(now);
        let listeners = self.listeners.values();
        let runtimes = listeners.map(|listening| listening.runtime);
        let blocked = stop.runtimes.looked(runtimes);
        if blocked.is_empty() {
            Looks::GoOn
        } else {
            Looks::Blocked(blocked)
        }
    }

    /// Abandons the `stuck` children left on these runtimes. Returns their listeners, which are
    /// forgotten, to be dropped outside of any lock.
    #[must_use]
    pub(crate) fn give_up<A>(
        &mut self,
        blocked: &BTreeSet<RuntimeKey>,
        stuck: usize,
        now: Instant,
        effects: &mut Effects<S, A>,
    ) -> BTreeMap<ListenerId, Listening<S>> {
        let Some(stop) = self.stop.as_mut().filter(|stop| !stop.finished) else {
            return BTreeMap::new();
        };
        stop.stuck += stuck;
        let (gone, left) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|(_, listening): &(_, Listening<S>)| blocked.contains(&listening.runtime));
        self.listeners = left;
        self.advance(now, effects);
        gone
    }

    fn finish<A>(&mut self, now: Instant, effects: &mut Effects<S, A>) {
        let Some(stop) = &mut self.stop else { return };
        stop.finished = true;
        let kill = Phase::Kill as usize;
        let killed =
            stop.connections[kill].of(EndKind::Killed) + stop.acceptors[kill].of(EndKind::Killed);
        if killed > 0 && stop.stopping.reports_kills() {
            let event = Event::KilledWhileStopping { count: killed };
            effects.reports.push(event);
        }
        if stop.stuck > 0 {
            effects.reports.push(Event::Stuck { count: stop.stuck });
        }
        effects.finished = Some(Box::new(StopReport {
            reason: stop.reason,
            elapsed: now.saturating_duration_since(stop.stopping.began()),
            stuck: stop.stuck,
            undelivered: 0,
            late: Vec::new(),
            connections: stop.connections,
            acceptors: stop.acceptors,
        }));
    }
}

/// The result of a round of looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Looks {
    GoOn,
    /// These runtimes poll no task of the pool: the children left there are stuck.
    Blocked(BTreeSet<RuntimeKey>),
    Over,
}
