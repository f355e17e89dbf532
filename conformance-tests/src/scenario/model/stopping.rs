//! The stop of the model: phases that may end at a time, and who ended how in each.

use std::time::{Duration, Instant};

use acceptor_core::{EndKind, Grace, Phase, PoolState, Shutdown, StopReason, StopReport};

use super::children::Stage;
use super::{Ending, Expected, Model, Seen, SocketState, Sort, after, breach, same};
use crate::scenario::SpecSetting;

/// A stop, under way or over.
pub(super) struct Stop {
    reason: StopReason,
    began: Instant,
    plan: SpecSetting,
    pub(super) phase: Phase,
    /// When the phase may end; never, if there is none.
    deadline: Option<Instant>,
    pub(super) finished: Option<Instant>,
    connections: [[usize; KINDS]; 4],
    acceptors: [[usize; KINDS]; 4],
    /// Acceptors of which nothing had been seen when their listeners closed: they end unseen, stopped or killed.
    pub(super) unseen: usize,
    /// The same of listeners that closed just before: these may have ended before the stop began.
    unseen_before: usize,
    stuck: Option<usize>,
    killed: Option<usize>,
}

const KINDS: usize = ALL.len();
const ALL: [EndKind; 7] = [
    EndKind::Normal,
    EndKind::Clean,
    EndKind::Error,
    EndKind::Panic,
    EndKind::Killed,
    EndKind::Stopped,
    EndKind::Lost,
];

fn position(kind: EndKind) -> usize {
    let position = ALL.iter().position(|other| *other == kind);
    position.expect("these are all kinds")
}

impl Stop {
    fn may_be_unseen(&self) -> usize {
        self.unseen + self.unseen_before
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
}

impl Model {
    /// The pool is to stop; a stop under way stays as it is.
    pub(in crate::scenario) fn stops(&mut self, reason: StopReason) {
        if self.stop.is_some() {
            return;
        }
        self.begin_stop(reason);
        self.phases_go_on();
    }

    /// Phases whose time is over end with whatever happens next.
    pub(super) fn phases_go_on(&mut self) {
        while let Some(deadline) = self.deadline() {
            if deadline > self.now || self.phase() == Some(Phase::Kill) {
                return;
            }
            self.next_phase();
        }
    }

    /// The pool is to end at once.
    pub(in crate::scenario) fn kills(&mut self, reason: StopReason) {
        if self.stop.is_none() {
            self.begin_stop(reason);
        }
        match self.state() {
            PoolState::Stopping(Phase::LameDuck) => {
                self.enter(Phase::Grace);
                self.enter(Phase::Kill);
            }
            PoolState::Stopping(Phase::Grace | Phase::Stop) => self.enter(Phase::Kill),
            _ => {}
        }
    }

    fn begin_stop(&mut self, reason: StopReason) {
        if matches!(reason, StopReason::Intensity | StopReason::RuntimeGone) {
            self.reports.push_back(Expected::PoolStopped(reason));
        }
        // The pool's own task, for it has a timer to set.
        self.wakes += 1;
        self.stop = Some(Stop {
            reason,
            began: self.now,
            plan: self.spec,
            phase: Phase::LameDuck,
            deadline: self.now.checked_add(self.spec.lame_duck()),
            finished: None,
            connections: Default::default(),
            acceptors: Default::default(),
            unseen: 0,
            unseen_before: self.unseen,
            stuck: None,
            killed: None,
        });
    }

    fn phase(&self) -> Option<Phase> {
        self.stop.as_ref().map(|stop| stop.phase)
    }

    fn next_phase(&mut self) {
        let Some(stop) = &self.stop else { return };
        let next = match (stop.phase, stop.plan.shutdown()) {
            // Brutal: no stop phase.
            (Phase::Grace, Shutdown::Kill) => Phase::Kill,
            (phase, _) => after(phase).unwrap_or(Phase::Kill),
        };
        self.enter(next);
    }

    fn enter(&mut self, phase: Phase) {
        let (now, batch) = (self.now, self.batch);
        let children = self.living().count() as u64;
        let Some(stop) = &mut self.stop else { return };
        stop.phase = phase;
        // The pool's own task; from the stop phase on, each child.
        self.wakes += 1 + if phase >= Phase::Stop {
            children + stop.unseen as u64
        } else {
            0
        };
        let time = match phase {
            Phase::LameDuck => Some(Duration::ZERO),
            Phase::Grace => match stop.plan.grace() {
                Grace::Within(time) => Some(time),
                Grace::Forever => None,
            },
            Phase::Stop => match stop.plan.shutdown() {
                Shutdown::Within(time) => Some(time),
                Shutdown::Kill | Shutdown::Never => None,
            },
            Phase::Kill => Some(stop.plan.patience()),
        };
        stop.deadline = time.and_then(|time| now.checked_add(time));
        match phase {
            Phase::LameDuck => {}
            Phase::Grace => {
                for number in 0..self.listeners.len() {
                    self.closes(number, Ending::Stopped);
                }
            }
            Phase::Stop => {
                for child in self.children.values_mut() {
                    if child.stage != Stage::Ended {
                        child.stopped.get_or_insert(batch);
                    }
                }
            }
            Phase::Kill => {
                for child in self.children.values_mut() {
                    if child.stage != Stage::Ended {
                        child.kill(batch);
                    }
                }
            }
        }
    }

    /// Holds the pool's state against the model's, after a poll or a call.
    pub(in crate::scenario) fn observe(&mut self, state: PoolState) -> Seen {
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
        let now = self.now;
        let Some(stop) = &self.stop else {
            return Ok(());
        };
        if stop.deadline.is_none_or(|deadline| deadline > now) {
            let rule = match stop.phase {
                Phase::LameDuck => "S2",
                Phase::Grace => "S4",
                Phase::Stop => "S5",
                Phase::Kill => "S8",
            };
            let expected = match stop.deadline {
                Some(deadline) => format!("phase {} for {:?} more", stop.phase, deadline - now),
                None => format!("phase {} until the last child ends", stop.phase),
            };
            return breach(rule, expected, "it is over");
        }
        self.next_phase();
        Ok(())
    }

    fn finishes(&mut self) -> Seen {
        let now = self.now;
        let left = self.living().count();
        let sockets = self.listeners.iter();
        let sockets = sockets.filter(|listening| listening.socket == SocketState::Open);
        let sockets = sockets.count();
        if left + sockets > 0 {
            // Only the patience of the kill leaves somebody behind.
            while self.phase() != Some(Phase::Kill) {
                self.goes_on()?;
            }
            let deadline = self.stop.as_ref().and_then(|stop| stop.deadline);
            if deadline.is_none_or(|deadline| deadline > now) {
                let expected = format!("the pool waits for {left} children and {sockets} sockets");
                return breach("S7", expected, "it has stopped");
            }
        }
        let Some(stop) = &mut self.stop else {
            return Ok(());
        };
        stop.finished = Some(now);
        if stop.stuck.unwrap_or(0) < left {
            let expected = format!("{left} children, or more, are reported as stuck");
            return breach("S8", expected, format!("{:?}", stop.stuck));
        }
        let kill = Phase::Kill as usize;
        let killed = stop.connections[kill][position(EndKind::Killed)]
            + stop.acceptors[kill][position(EndKind::Killed)];
        let reports = stop.plan.shutdown() != Shutdown::Kill;
        let told = stop.killed.unwrap_or(0);
        if reports && !(killed..=killed + stop.may_be_unseen()).contains(&told) {
            let expected = format!("{killed} killed children are reported with a count");
            return breach("S6", expected, format!("{told}"));
        }
        Ok(())
    }

    /// The kill is reported with a count.
    pub(super) fn killed(&mut self, count: usize) -> Seen {
        let Some(stop) = &mut self.stop else {
            return breach(
                "S6",
                "no kill is reported while the pool runs",
                count.to_string(),
            );
        };
        if count == 0 || stop.plan.shutdown() == Shutdown::Kill || stop.killed.is_some() {
            return breach(
                "S6",
                "no count of the killed, nor one of nobody, nor a second one",
                count.to_string(),
            );
        }
        stop.killed = Some(count);
        Ok(())
    }

    /// Some are reported as stuck.
    pub(super) fn stuck(&mut self, count: usize) -> Seen {
        let seen = self.living().count();
        let Some(stop) = &mut self.stop else {
            return breach(
                "S8",
                "nobody is stuck while the pool runs",
                count.to_string(),
            );
        };
        let may_be = seen.max(1)..=seen + stop.may_be_unseen();
        if stop.stuck.is_some() || !may_be.contains(&count) {
            return breach(
                "S8",
                format!("{seen} children are stuck, or it is not told"),
                count.to_string(),
            );
        }
        stop.stuck = Some(count);
        Ok(())
    }

    /// Somebody got the result.
    pub(super) fn joined(&mut self, report: &StopReport) -> Seen {
        if self.joins == 0 {
            return breach("S1", "who waits for the result is told once", "told again");
        }
        self.joins -= 1;
        if let Some(result) = &self.result {
            return same("S1", "everybody gets the same result", result, report);
        }
        self.result = Some(report.clone());
        let Some(stop) = &self.stop else {
            return breach("S1", "no result while the pool runs", report.to_string());
        };
        same("S7", "the reason", stop.reason, report.reason)?;
        if stop.finished.is_some() {
            self.result_is(report)
        } else {
            // Told within the very poll that ended the pool.
            Ok(())
        }
    }

    /// Holds the result against what was seen.
    pub(in crate::scenario) fn result_is(&self, report: &StopReport) -> Seen {
        let Some(stop) = &self.stop else {
            return Ok(());
        };
        let Some(finished) = stop.finished else {
            return breach(
                "S1",
                "no result before the pool has stopped",
                report.to_string(),
            );
        };
        same(
            "S7",
            "how long it took",
            finished - stop.began,
            report.elapsed,
        )?;
        same("S8", "left stuck", stop.stuck.unwrap_or(0), report.stuck)?;
        for phase in Phase::ALL {
            for kind in ALL {
                let expected = stop.connections[phase as usize][position(kind)];
                let seen = report.connections(phase).of(kind);
                let what = format!("connections that ended {kind} in phase {phase}");
                same("S7", &what, expected, seen)?;
                let expected = stop.acceptors[phase as usize][position(kind)];
                let seen = report.acceptors(phase).of(kind);
                let may_be_more = matches!(kind, EndKind::Stopped | EndKind::Killed);
                let more = if may_be_more { stop.may_be_unseen() } else { 0 };
                if !(expected..=expected + more).contains(&seen) {
                    let what = format!("acceptors that ended {kind} in phase {phase}");
                    return same("S7", &what, expected, seen);
                }
            }
        }
        let sum = |counts: &[[usize; KINDS]; 4]| counts.iter().flatten().sum::<usize>();
        let (seen, left) = (sum(&stop.acceptors), report.stuck);
        let told = report.all_acceptors().total();
        let least = if left == 0 { seen + stop.unseen } else { seen };
        if !(least..=seen + stop.may_be_unseen()).contains(&told) {
            let expected = format!("{seen} acceptors and {} unseen ended", stop.unseen);
            return breach("S7", expected, format!("{told}"));
        }
        Ok(())
    }

    /// How long the kill waits, be it under way or to come.
    pub(in crate::scenario) fn patience(&self) -> Duration {
        self.stop
            .as_ref()
            .map_or(self.spec, |stop| stop.plan)
            .patience()
    }

    /// When the phase is over, if it is ever.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stop.as_ref().and_then(|stop| stop.deadline)
    }
}
