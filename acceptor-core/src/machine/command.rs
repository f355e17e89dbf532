//! The commands that the machine gives to children.

/// The reason for an acceptor to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Closed,
    Failed,
    Stopped,
}

/// The reason for a waiting acceptor to terminate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndWaiting {
    /// Its listener is closed, or it was stopped individually.
    Closed(CloseReason),
    /// The pool has switched to another acceptor (R1).
    Replaced,
}

/// A command to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// An acceptor ends; a connection ignores it.
    Close(CloseReason),
    /// A child that has been polled and does not trap the stop is dropped.
    Stop,
    /// Stops this child alone: an acceptor ends, a connection stops, whichever it is when it reads
    /// the command.
    StopAlone,
    /// Drops the child at once.
    Kill,
}
