//! The commands of the machine to a child.

/// Why an acceptor is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Closed,
    Failed,
    Stopped,
}

/// Why an acceptor that waits is to terminate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndWaiting {
    /// Its listener is closed, or it was stopped by itself.
    Closed(CloseReason),
    /// The pool has another acceptor by now (R1).
    Replaced,
}

/// A command to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// An acceptor ends; a connection takes no notice.
    Close(CloseReason),
    /// What does not trap the stop is dropped, once it has run at all.
    Stop,
    /// Asked to stop by itself: an acceptor ends, a connection stops, whichever of the two it is by then.
    StopAlone,
    /// Dropped at once.
    Kill,
}
