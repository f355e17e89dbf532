//! What an event leads to.

use std::time::Duration;

use super::children::ChildRow;
use crate::id::ChildId;
use crate::machine::child_end::ChildEnd;
use crate::machine::command::Command;
use crate::report::Event;
use crate::stop_report::StopReport;

/// A child to be started.
pub(crate) struct Start<C, S> {
    pub(crate) child: ChildId,
    pub(crate) control: C,
    pub(crate) socket: S,
    /// How long it waits before its `init`.
    pub(crate) delay: Duration,
}

/// What is to be done once the lock is released, in this order.
pub(crate) struct Effects<C, S, A> {
    pub(crate) tell: Vec<(C, Command)>,
    pub(crate) drain: Vec<S>,
    pub(crate) close: Vec<S>,
    pub(crate) start: Vec<Start<C, S>>,
    /// To be started by the pool's own task: who ended was dropped by the runtime, perhaps from within a spawn.
    pub(crate) start_later: Vec<Start<C, S>>,
    pub(crate) reports: Vec<Event<A>>,
    pub(crate) finished: Option<Box<StopReport>>,
    pub(crate) timer_changed: TimerChange,
    /// Rows that are no longer needed: what they hold is dropped outside the lock.
    pub(crate) gone: Vec<ChildRow<C, A>>,
    /// The end of who is not in the table any more: what it holds is dropped outside the lock, too.
    pub(crate) unseen: Option<ChildEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerChange {
    Unchanged,
    Changed,
}

/// What becomes of a child that has a connection now.
pub(crate) enum Became<C, S> {
    /// It serves; its replacement, if there is to be one, is to be started first.
    Serves(Option<Start<C, S>>),
    /// It is not a child any more: the pool has ended without it.
    Gone,
}

impl<C, S, A> Default for Effects<C, S, A> {
    fn default() -> Self {
        Self {
            tell: Vec::new(),
            drain: Vec::new(),
            close: Vec::new(),
            start: Vec::new(),
            start_later: Vec::new(),
            reports: Vec::new(),
            finished: None,
            timer_changed: TimerChange::Unchanged,
            gone: Vec::new(),
            unseen: None,
        }
    }
}
