//! The kinds of events, and counts by kind.

use std::fmt;

use crate::text::write_counts;

/// The kinds of [`Event`](super::Event).
///
/// ```
/// use acceptor_core::EventKind;
///
/// assert_eq!(EventKind::AcceptPaused.to_string(), "accept_paused");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// [`Event::StartError`](super::Event::StartError).
    StartError,
    /// [`Event::AcceptorFailed`](super::Event::AcceptorFailed).
    AcceptorFailed,
    /// [`Event::ConnectionFailed`](super::Event::ConnectionFailed).
    ConnectionFailed,
    /// [`Event::ConnectionBegan`](super::Event::ConnectionBegan).
    ConnectionBegan,
    /// [`Event::ConnectionEnded`](super::Event::ConnectionEnded).
    ConnectionEnded,
    /// [`Event::Disconnected`](super::Event::Disconnected).
    Disconnected,
    /// [`Event::HandshakeFailed`](super::Event::HandshakeFailed).
    HandshakeFailed,
    /// [`Event::ListenerFailed`](super::Event::ListenerFailed).
    ListenerFailed,
    /// [`Event::AcceptPaused`](super::Event::AcceptPaused).
    AcceptPaused,
    /// [`Event::KilledWhileStopping`](super::Event::KilledWhileStopping).
    KilledWhileStopping,
    /// [`Event::Stuck`](super::Event::Stuck).
    Stuck,
    /// [`Event::PoolStopped`](super::Event::PoolStopped).
    PoolStopped,
    /// [`Event::ReportsLost`](super::Event::ReportsLost).
    ReportsLost,
}

impl EventKind {
    /// All kinds.
    pub const ALL: &[EventKind] = &[
        EventKind::StartError,
        EventKind::AcceptorFailed,
        EventKind::ConnectionFailed,
        EventKind::ConnectionBegan,
        EventKind::ConnectionEnded,
        EventKind::Disconnected,
        EventKind::HandshakeFailed,
        EventKind::ListenerFailed,
        EventKind::AcceptPaused,
        EventKind::KilledWhileStopping,
        EventKind::Stuck,
        EventKind::PoolStopped,
        EventKind::ReportsLost,
    ];

    /// Returns the field `event` of its `tracing` event.
    pub(super) fn word(self) -> &'static str {
        match self {
            EventKind::StartError => "start_error",
            EventKind::AcceptorFailed => "acceptor_failed",
            EventKind::ConnectionFailed => "connection_failed",
            EventKind::ConnectionBegan => "connection_began",
            EventKind::ConnectionEnded => "connection_ended",
            EventKind::Disconnected => "disconnected",
            EventKind::HandshakeFailed => "handshake_failed",
            EventKind::ListenerFailed => "listener_failed",
            EventKind::AcceptPaused => "accept_paused",
            EventKind::KilledWhileStopping => "killed_while_stopping",
            EventKind::Stuck => "stuck",
            EventKind::PoolStopped => "pool_stopped",
            EventKind::ReportsLost => "reports_lost",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The numbers of dropped reports, by [`EventKind`] ([O2](crate::guide::rules#o2)).
///
/// ```
/// use acceptor_core::{EventKind, Losses};
///
/// let losses = Losses::default();
/// assert_eq!((losses.of(EventKind::Stuck), losses.total()), (0, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses([u64; 13]);

impl Losses {
    /// Returns the number of dropped reports of this kind.
    pub fn of(&self, kind: EventKind) -> u64 {
        self.0[kind as usize]
    }

    /// Returns the number of dropped reports of any kind.
    pub fn total(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub(crate) fn count(&mut self, kind: EventKind) {
        let count = &mut self.0[kind as usize];
        *count = count.saturating_add(1);
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_counts(f, EventKind::ALL.iter().map(|kind| (self.of(*kind), kind)))
    }
}
