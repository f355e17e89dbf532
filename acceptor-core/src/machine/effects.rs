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

/// The actions that follow an event, in order: `orders` before the lock is released, the rest
/// afterwards.
pub(crate) struct Effects<S, A> {
    pub(crate) orders: Vec<Order>,
    /// Listeners to close.
    pub(crate) close: Vec<(S, Close)>,
    /// A child to start in a task of its own.
    pub(crate) start: Option<(S, ChildId)>,
    /// A child for the driver to start after this delay.
    pub(crate) start_later: Option<(S, ChildId, Duration)>,
    /// A closing listener that lost an acceptor, and may have none left to wait for (L7).
    pub(crate) fewer: Option<S>,
    pub(crate) reports: Vec<Event<A>>,
    /// The end of a connection to report at debug level: to the observer only if the spec asks for
    /// it.
    pub(crate) debug: Option<(Event<A>, Instant)>,
    /// Connections that ended after the grace (S7).
    pub(crate) late: LateConnections<A>,
    pub(crate) finished: Option<Box<StopReport<A>>>,
    pub(crate) driver: Driver,
    /// A row that is no longer needed; its contents are dropped outside the lock.
    pub(crate) gone: Option<DropCatching<Row<A>>>,
    /// The end of a child that no longer has a row; it is dropped outside the lock as well.
    pub(crate) unseen: Option<DropCatching<ChildEnd>>,
}

/// An action on all listeners of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Each end counts for the result from now on.
    BeginStop,
    CloseListeners(Close),
    /// Children that do not trap the stop are dropped.
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

/// The work that is left to the pool's own task.
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
