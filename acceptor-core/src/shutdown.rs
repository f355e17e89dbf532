//! The way of a stop: lame duck → grace → stop → kill, each bounded (section 6).
//!
//! Pure: time is an argument. Invariants: phases only go forward; each begins
//! when the one before was seen to end, never earlier; with no child left there
//! is no further phase.

use std::time::{Duration, Instant};

use crate::spec::{Grace, Shutdown};
use crate::stop::Phase;

/// The bounds of the phases, taken from the spec when the stop begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) lame_duck: Duration,
    pub(crate) grace: Grace,
    pub(crate) shutdown: Shutdown,
    pub(crate) patience: Duration,
}

/// What the pool has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    CloseListeners,
    TellStop,
    Kill,
    /// All children are gone, but for those left behind as stuck.
    Finish {
        stuck: usize,
    },
}

/// Why the children are killed: by the plan, or in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killing {
    AsPlanned,
    AfterTimeout,
}

/// One stop, under way.
#[derive(Debug)]
pub(crate) struct Stopping {
    plan: Plan,
    began: Instant,
    phase: Phase,
    deadline: Option<Instant>,
    killing: Killing,
    finished: bool,
}

impl Stopping {
    /// Begins with the lame duck, be it of no length.
    pub(crate) fn begin(plan: Plan, now: Instant) -> Self {
        Self {
            plan,
            began: now,
            phase: Phase::LameDuck,
            deadline: now.checked_add(plan.lame_duck),
            killing: Killing::AsPlanned,
            finished: false,
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// When `advance` has to be called again even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.finished { None } else { self.deadline }
    }

    /// Whether what is killed now is one report with a count (S6).
    pub(crate) fn reports_kills(&self) -> bool {
        self.killing == Killing::AfterTimeout
    }

    /// The next step that is due, to be asked until there is none.
    pub(crate) fn advance(&mut self, now: Instant, children: usize) -> Option<Step> {
        if self.finished {
            return None;
        }
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        match self.phase {
            Phase::LameDuck if due || children == 0 => {
                let grace = match self.plan.grace {
                    Grace::Within(grace) => now.checked_add(grace),
                    Grace::Forever => None,
                };
                self.enter(Phase::Grace, grace);
                Some(Step::CloseListeners)
            }
            Phase::Grace | Phase::Stop | Phase::Kill if children == 0 => self.finish(0),
            Phase::Grace if due => match self.plan.shutdown {
                Shutdown::Kill => self.enter_kill(now, Killing::AsPlanned),
                Shutdown::Within(time) => {
                    self.enter(Phase::Stop, now.checked_add(time));
                    Some(Step::TellStop)
                }
                Shutdown::Never => {
                    self.enter(Phase::Stop, None);
                    Some(Step::TellStop)
                }
            },
            Phase::Stop if due => self.enter_kill(now, Killing::AfterTimeout),
            Phase::Kill if due => self.finish(children),
            Phase::LameDuck | Phase::Grace | Phase::Stop | Phase::Kill => None,
        }
    }

    /// Goes to the kill at once, whatever the phase; the listeners close on the way.
    pub(crate) fn kill(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.finished || self.phase == Phase::Kill {
            return steps;
        }
        if self.phase == Phase::LameDuck {
            steps.push(Step::CloseListeners);
        }
        steps.extend(self.enter_kill(now, Killing::AfterTimeout));
        steps
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Instant>) {
        self.phase = phase;
        self.deadline = deadline;
    }

    fn enter_kill(&mut self, now: Instant, killing: Killing) -> Option<Step> {
        self.killing = killing;
        self.enter(Phase::Kill, now.checked_add(self.plan.patience));
        Some(Step::Kill)
    }

    fn finish(&mut self, stuck: usize) -> Option<Step> {
        self.finished = true;
        Some(Step::Finish { stuck })
    }
}
