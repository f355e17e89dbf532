//! What the machine has a child do.

/// Why an acceptor is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Closed,
    Failed,
    Stopped,
}

/// What a child may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// An acceptor ends; a connection takes no notice.
    Close(CloseReason),
    /// What does not trap the stop is dropped, once it has run at all.
    Stop,
    /// Asked to stop by itself: an acceptor ends, a connection stops, be it the one or the other by then.
    StopAlone,
    /// Dropped at once.
    Kill,
}
