//! The consequences of an event.

use std::time::{Duration, Instant};

use super::child_end::ChildEnd;
use super::command::CloseReason;
use super::late::LateConnections;
use super::row::Row;
use crate::id::ChildId;
use crate::report::Event;
use crate::stop_report::StopReport;
use crate::sync::DropCatching;

/// What is to be done, in this order: `orders` before the lock is released, the rest after.
pub(crate) struct Effects<S, A> {
    pub(crate) orders: Vec<Order>,
    /// These listeners close.
    pub(crate) close: Vec<(S, Close)>,
    /// A child that is to be started in a task of its own.
    pub(crate) start: Option<(S, ChildId)>,
    /// A child that the driver starts, after this time.
    pub(crate) start_later: Option<(S, ChildId, Duration)>,
    /// A listener that closes, and has an acceptor less: it may have none left to wait for (L7).
    pub(crate) fewer: Option<S>,
    pub(crate) reports: Vec<Event<A>>,
    /// The end of a connection that is reported at debug level, and not to the observer unless the spec says so.
    pub(crate) debug: Option<(Event<A>, Instant)>,
    /// Connections that ended after the grace (S7).
    pub(crate) late: LateConnections<A>,
    pub(crate) finished: Option<Box<StopReport<A>>>,
    pub(crate) driver: Driver,
    /// A row that is no longer needed: what it holds is dropped outside the lock.
    pub(crate) gone: Option<DropCatching<Row<A>>>,
    /// The end of a child that has no row any longer: what it holds is dropped outside the lock, too.
    pub(crate) unseen: Option<DropCatching<ChildEnd>>,
}

/// Work for all listeners of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// From here on each end counts for the result.
    BeginStop,
    CloseListeners(Close),
    /// What does not trap the stop is dropped.
    Stop,
    Kill,
}

/// How a listener closes (L3, L7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) reason: CloseReason,
    pub(crate) queued: Queued,
}

/// The fate of the connections that the kernel has queued when a listener closes (L7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queued {
    /// They are accepted first.
    Accepted,
    /// The system resets them.
    Reset,
}

/// Whether the pool's own task has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Sleeps,
    Wakes,
}

impl<S, A> Default for Effects<S, A> {
    fn default() -> Self {
        Self {
            orders: Vec::new(),
            close: Vec::new(),
            start: None,
            start_later: None,
            fewer: None,
            reports: Vec::new(),
            debug: None,
            late: Vec::new(),
            finished: None,
            driver: Driver::Sleeps,
            gone: None,
            unseen: None,
        }
    }
}
