//! The ends of children as data: the contract's table of ends, and B3 to B8, stated independently.

use std::sync::Arc;

use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::policy::Restart;
use crate::report::Failure;
use crate::stop_report::EndKind;

/// An end of a child, which can be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Ignored,
    TimedOut,
    TimedOutShort,
    Stopped,
    StartError,
    StartPanic,
    Normal,
    Clean,
    Disconnected,
    HandshakeFailed,
    Error,
    Panic,
    PanicShort,
    Killed,
    Lost,
}

pub(super) const OF_ACCEPTORS: [How; 10] = [
    How::Ignored,
    How::TimedOut,
    How::TimedOutShort,
    How::Stopped,
    How::StartError,
    How::StartPanic,
    How::Panic,
    How::PanicShort,
    How::Killed,
    How::Lost,
];

pub(super) const OF_CONNECTIONS: [How; 9] = [
    How::Normal,
    How::Clean,
    How::Disconnected,
    How::HandshakeFailed,
    How::Error,
    How::Panic,
    How::Killed,
    How::Stopped,
    How::Lost,
];

/// How the acceptor's replacement is spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spacing {
    /// It starts immediately, and earlier ends are forgotten.
    None,
    /// The first starts immediately, later ones are spaced (B3, B6).
    Repeats,
    /// As `Repeats`, but the driver always starts it.
    Lost,
    /// An outage begins or continues (B4).
    Outage,
}

impl How {
    pub(super) fn end(self) -> ChildEnd {
        let error = || Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("failed"));
        match self {
            How::Ignored => ChildEnd::Ignored,
            How::TimedOut => ChildEnd::TimedOut(WaitTime::Long),
            How::TimedOutShort => ChildEnd::TimedOut(WaitTime::Short),
            How::Stopped => ChildEnd::Stopped,
            How::StartError => ChildEnd::StartError(Failure::Error(error())),
            How::StartPanic => ChildEnd::StartError(Failure::Panic("panicked".into())),
            How::Normal => ChildEnd::Normal,
            How::Clean => ChildEnd::Clean(None),
            How::Disconnected => ChildEnd::Disconnected(error()),
            How::HandshakeFailed => ChildEnd::HandshakeFailed("tls", Some(error())),
            How::Error => ChildEnd::Error(error()),
            How::Panic => ChildEnd::Panic("panicked".into(), WaitTime::Long),
            How::PanicShort => ChildEnd::Panic("panicked".into(), WaitTime::Short),
            How::Killed => ChildEnd::Killed,
            How::Lost => ChildEnd::Lost,
        }
    }

    pub(super) fn kind(self) -> EndKind {
        match self {
            How::Ignored | How::TimedOut | How::TimedOutShort | How::Normal => EndKind::Normal,
            How::Stopped => EndKind::Stopped,
            How::StartError | How::Error => EndKind::Error,
            How::StartPanic | How::Panic | How::PanicShort => EndKind::Panic,
            How::Clean => EndKind::Clean,
            How::Disconnected => EndKind::Disconnected,
            How::HandshakeFailed => EndKind::HandshakeFailed,
            How::Killed => EndKind::Killed,
            How::Lost => EndKind::Lost,
        }
    }

    /// The reported word.
    pub(super) fn word(self) -> Option<&'static str> {
        match self {
            How::Ignored | How::TimedOut | How::TimedOutShort => None,
            How::Normal | How::Clean | How::Stopped => None,
            How::Disconnected | How::HandshakeFailed => None,
            How::StartError | How::Error => Some("error"),
            How::StartPanic | How::Panic | How::PanicShort => Some("panic"),
            How::Killed => Some("killed"),
            How::Lost => Some("lost"),
        }
    }

    pub(super) fn is_start_error(self) -> bool {
        matches!(self, How::StartError | How::StartPanic)
    }

    /// Whether it counts towards restart intensity.
    pub(super) fn counts(self, restart: Restart) -> bool {
        match self {
            How::StartError | How::StartPanic => true,
            How::Error | How::Panic | How::PanicShort | How::Killed => {
                restart == Restart::Transient
            }
            How::Ignored | How::TimedOut | How::TimedOutShort | How::Stopped => false,
            How::Normal | How::Clean | How::Lost => false,
            How::Disconnected | How::HandshakeFailed => false,
        }
    }

    pub(super) fn spacing(self) -> Spacing {
        match self {
            How::StartError | How::StartPanic => Spacing::Outage,
            How::Ignored | How::TimedOutShort | How::PanicShort => Spacing::Repeats,
            How::Lost => Spacing::Lost,
            How::TimedOut | How::Stopped | How::Panic | How::Killed => Spacing::None,
            How::Normal | How::Clean | How::Error => Spacing::None,
            How::Disconnected | How::HandshakeFailed => Spacing::None,
        }
    }
}
