//! How the table goes through the phases of a stop.

use std::time::Instant;

use super::effects::{Effects, TimerChange};
use super::supervisor::Supervisor;
use crate::machine::child_end::Role;
use crate::machine::command::{CloseReason, Command};
use crate::machine::shutdown::{StopStep, Stopping};
use crate::report::Event;
use crate::stop_report::{EndKind, Ends, Phase, StopReason, StopReport};

#[cfg_attr(test, derive(Clone))]
pub(super) struct Stop {
    pub(super) stopping: Stopping,
    reason: StopReason,
    connections: [Ends; 4],
    acceptors: [Ends; 4],
    pub(super) finished: bool,
}

impl Stop {
    pub(super) fn count(&mut self, role: Role, kind: EndKind) {
        let phase = self.stopping.phase() as usize;
        match role {
            Role::Connection => self.connections[phase].count(kind),
            Role::Acceptor => self.acceptors[phase].count(kind),
        }
    }
}

impl<C: Clone, S: Clone, A: Clone> Supervisor<C, S, A> {
    /// Begins to stop; a stop that is under way stays as it is (S1).
    pub(crate) fn stop(
        &mut self,
        reason: StopReason,
        now: Instant,
        effects: &mut Effects<C, S, A>,
    ) {
        if self.stop.is_some() {
            return;
        }
        self.begin_stop(reason, now, effects);
        self.advance(now, effects);
    }

    /// Goes to the kill at once, be a stop under way or not (S9).
    pub(crate) fn kill(
        &mut self,
        reason: StopReason,
        now: Instant,
        effects: &mut Effects<C, S, A>,
    ) {
        if self.stop.is_none() {
            self.begin_stop(reason, now, effects);
        }
        let stop = self.stop.as_mut();
        let steps = stop.map(|stop| stop.stopping.kill(now)).unwrap_or_default();
        for step in steps {
            self.take(step, now, effects);
        }
        self.advance(now, effects);
    }

    /// Time has passed, and everybody has had a turn in it.
    pub(crate) fn tick(&mut self, now: Instant, effects: &mut Effects<C, S, A>) {
        self.advance(now, effects);
        let stop = self.stop.as_mut();
        if let Some(step) = stop.and_then(|stop| stop.stopping.give_up(now)) {
            self.take(step, now, effects);
        }
    }

    pub(super) fn begin_stop(
        &mut self,
        reason: StopReason,
        now: Instant,
        effects: &mut Effects<C, S, A>,
    ) {
        self.stop = Some(Stop {
            stopping: Stopping::begin(self.rules.plan, now),
            reason,
            connections: Default::default(),
            acceptors: Default::default(),
            finished: false,
        });
        match reason {
            StopReason::Intensity | StopReason::RuntimeGone => {
                effects.reports.push(Event::PoolStopped { reason });
            }
            StopReason::Requested | StopReason::OwnerDropped => {}
        }
        let sockets = self.listeners.values().map(|listening| &listening.socket);
        effects.drain.extend(sockets.cloned());
        effects.timer_changed = TimerChange::Changed;
    }

    pub(super) fn advance(&mut self, now: Instant, effects: &mut Effects<C, S, A>) {
        while let Some(stop) = &mut self.stop {
            match stop
                .stopping
                .advance(now, self.children.len() + self.sockets)
            {
                Some(step) => self.take(step, now, effects),
                None => return,
            }
        }
    }

    fn take(&mut self, step: StopStep, now: Instant, effects: &mut Effects<C, S, A>) {
        effects.timer_changed = TimerChange::Changed;
        match step {
            StopStep::CloseListeners => {
                self.close_all(CloseReason::Stopped, effects);
            }
            StopStep::TellStop => self.tell_all(Command::Stop, effects),
            StopStep::Kill => self.tell_all(Command::Kill, effects),
            StopStep::Finish => self.finish(now, effects),
        }
    }

    fn tell_all(&self, command: Command, effects: &mut Effects<C, S, A>) {
        let children = self.children.iter();
        let told = children.map(|(_, child)| (child.control.clone(), command));
        effects.tell.extend(told);
    }

    fn finish(&mut self, now: Instant, effects: &mut Effects<C, S, A>) {
        let stuck = self.children.len();
        let Some(stop) = &mut self.stop else { return };
        stop.finished = true;
        let kill = Phase::Kill as usize;
        let killed =
            stop.connections[kill].of(EndKind::Killed) + stop.acceptors[kill].of(EndKind::Killed);
        if killed > 0 && stop.stopping.reports_kills() {
            effects
                .reports
                .push(Event::KilledWhileStopping { count: killed });
        }
        if stuck > 0 {
            effects.reports.push(Event::Stuck { count: stuck });
        }
        effects.finished = Some(Box::new(StopReport {
            reason: stop.reason,
            elapsed: now.saturating_duration_since(stop.stopping.began()),
            stuck,
            connections: stop.connections,
            acceptors: stop.acceptors,
        }));
        effects.gone.extend(self.children.drain());
        self.connections = 0;
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        self.stop.as_ref().map(|stop| stop.stopping.phase())
    }
}
