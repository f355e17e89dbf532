//! The ways in which a child ends, and their consequences: the table of ends (E1) and the rules B3
//! to B8.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;

use crate::policy::Restart;
use crate::report::Failure;
use crate::stop_report::EndKind;

/// The role of a child when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Acceptor,
    Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Yes,
    No,
}

/// How long an acceptor waited before its accept timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitTime {
    /// Long enough for an immediate replacement not to cause a busy loop.
    Long,
    /// Shorter than that: restarts are spaced (B6).
    Short,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) enum ChildEnd {
    /// `init` returned *ignore*.
    Ignored,
    /// Terminated by its accept timeout.
    TimedOut(WaitTime),
    /// An acceptor was commanded to end, or a stop dropped a connection.
    Stopped,
    /// `init` or the wait failed or panicked.
    StartError(Failure),
    /// `serve` returned `Ok`.
    Normal,
    /// `serve` returned the clean exit, with its reason.
    Clean(Option<Cow<'static, str>>),
    /// The peer is gone (E5).
    Disconnected(Arc<dyn Error + Send + Sync>),
    /// The handshake failed (H4): the cause, and the error if there is one.
    HandshakeFailed(&'static str, Option<Arc<dyn Error + Send + Sync>>),
    /// `serve` returned another error.
    Error(Arc<dyn Error + Send + Sync>),
    /// `serve`, `terminate` or a `Drop` panicked.
    Panic(String, WaitTime),
    Killed,
    Lost,
}

impl ChildEnd {
    pub(crate) fn kind(&self) -> EndKind {
        match self {
            ChildEnd::Ignored | ChildEnd::TimedOut(_) | ChildEnd::Normal => EndKind::Normal,
            ChildEnd::Stopped => EndKind::Stopped,
            ChildEnd::StartError(Failure::Panic(_)) | ChildEnd::Panic(..) => EndKind::Panic,
            ChildEnd::StartError(_) | ChildEnd::Error(_) => EndKind::Error,
            ChildEnd::Clean(_) => EndKind::Clean,
            ChildEnd::Disconnected(_) => EndKind::Disconnected,
            ChildEnd::HandshakeFailed(..) => EndKind::HandshakeFailed,
            ChildEnd::Killed => EndKind::Killed,
            ChildEnd::Lost => EndKind::Lost,
        }
    }

    /// Returns whether nothing failed. A connection with such an end that was also killed counts as
    /// killed.
    pub(crate) fn is_success(&self) -> bool {
        match self {
            ChildEnd::Normal
            | ChildEnd::Clean(_)
            | ChildEnd::Disconnected(_)
            | ChildEnd::Stopped
            | ChildEnd::Ignored
            | ChildEnd::TimedOut(_) => true,
            ChildEnd::StartError(_)
            | ChildEnd::HandshakeFailed(..)
            | ChildEnd::Error(_)
            | ChildEnd::Panic(..)
            | ChildEnd::Killed
            | ChildEnd::Lost => false,
        }
    }

    /// Returns whether the end counts towards restart intensity.
    pub(crate) fn counted(&self, restart: Restart) -> Counted {
        match self {
            ChildEnd::StartError(_) => Counted::Yes,
            ChildEnd::Error(_) | ChildEnd::Panic(..) | ChildEnd::Killed => match restart {
                Restart::Temporary => Counted::No,
                Restart::Transient => Counted::Yes,
            },
            ChildEnd::Ignored
            | ChildEnd::TimedOut(_)
            | ChildEnd::Stopped
            | ChildEnd::Normal
            | ChildEnd::Clean(_)
            | ChildEnd::Disconnected(_)
            | ChildEnd::HandshakeFailed(..)
            | ChildEnd::Lost => Counted::No,
        }
    }

    /// Returns whether the next start could end the same way at once, so that starts must be spaced
    /// (B3, B6).
    pub(crate) fn needs_spacing(&self) -> bool {
        match self {
            ChildEnd::Ignored | ChildEnd::TimedOut(WaitTime::Short) => true,
            // In a temporary pool nothing else limits how often `terminate` can panic (B8).
            ChildEnd::Panic(_, wait_time) => *wait_time == WaitTime::Short,
            _ => false,
        }
    }

    /// Returns the reason of a clean exit, if one was given.
    pub(crate) fn clean_reason(&self) -> Option<Cow<'static, str>> {
        match self {
            ChildEnd::Clean(reason) => reason.clone(),
            _ => None,
        }
    }

    /// Returns the failure to report, if the end is one.
    pub(crate) fn failure(self) -> Option<Failure> {
        match self {
            ChildEnd::StartError(failure) => Some(failure),
            ChildEnd::Error(error) => Some(Failure::Error(error)),
            ChildEnd::Panic(message, _) => Some(Failure::Panic(message)),
            ChildEnd::Killed => Some(Failure::Killed),
            ChildEnd::Lost => Some(Failure::Lost),
            ChildEnd::Ignored
            | ChildEnd::TimedOut(_)
            | ChildEnd::Stopped
            | ChildEnd::Normal
            | ChildEnd::Clean(_)
            | ChildEnd::Disconnected(_)
            | ChildEnd::HandshakeFailed(..) => None,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn ends() -> Vec<(ChildEnd, EndKind, Option<&'static str>)> {
        let error = || Arc::from(Box::<dyn Error + Send + Sync>::from("failed"));
        let panic = || "out of luck".to_owned();
        vec![
            (ChildEnd::Ignored, EndKind::Normal, None),
            (ChildEnd::TimedOut(WaitTime::Long), EndKind::Normal, None),
            (ChildEnd::TimedOut(WaitTime::Short), EndKind::Normal, None),
            (ChildEnd::Stopped, EndKind::Stopped, None),
            (
                ChildEnd::StartError(Failure::Error(error())),
                EndKind::Error,
                Some("failed"),
            ),
            (
                ChildEnd::StartError(Failure::Panic(panic())),
                EndKind::Panic,
                Some("panicked: out of luck"),
            ),
            (ChildEnd::Normal, EndKind::Normal, None),
            (ChildEnd::Clean(None), EndKind::Clean, None),
            (ChildEnd::Disconnected(error()), EndKind::Disconnected, None),
            (
                ChildEnd::HandshakeFailed("tls", Some(error())),
                EndKind::HandshakeFailed,
                None,
            ),
            (ChildEnd::Error(error()), EndKind::Error, Some("failed")),
            (
                ChildEnd::Panic(panic(), WaitTime::Long),
                EndKind::Panic,
                Some("panicked: out of luck"),
            ),
            (
                ChildEnd::Panic(panic(), WaitTime::Short),
                EndKind::Panic,
                Some("panicked: out of luck"),
            ),
            (
                ChildEnd::Killed,
                EndKind::Killed,
                Some("killed through the handle"),
            ),
            (
                ChildEnd::Lost,
                EndKind::Lost,
                Some("its runtime dropped the task"),
            ),
        ]
    }

    #[test]
    fn ends_have_kind_and_words() {
        for (end, kind, words) in ends() {
            assert_eq!(end.kind(), kind, "{end:?}");
            let failure = end.failure().map(|failure| failure.to_string());
            assert_eq!(failure.as_deref(), words);
        }
    }

    #[test]
    fn temporary_pool_counts_start_errors_only() {
        for (end, ..) in ends() {
            let expected = match &end {
                ChildEnd::StartError(_) => (Counted::Yes, Counted::Yes),
                ChildEnd::Error(_) | ChildEnd::Panic(..) | ChildEnd::Killed => {
                    (Counted::No, Counted::Yes)
                }
                _ => (Counted::No, Counted::No),
            };
            let counted = (
                end.counted(Restart::Temporary),
                end.counted(Restart::Transient),
            );
            assert_eq!(counted, expected, "{end:?}");
        }
    }

    #[test]
    fn unbounded_ends_are_spaced() {
        for (end, ..) in ends() {
            let expected = matches!(
                end,
                ChildEnd::Ignored
                    | ChildEnd::TimedOut(WaitTime::Short)
                    | ChildEnd::Panic(_, WaitTime::Short)
            );
            assert_eq!(end.needs_spacing(), expected, "{end:?}");
        }
    }

    #[test]
    fn only_a_clean_end_may_have_a_reason() {
        for (end, ..) in ends() {
            assert_eq!(end.clean_reason(), None, "{end:?}");
        }
        let quit = ChildEnd::Clean(Some("quit".into()));
        assert_eq!(quit.clean_reason().as_deref(), Some("quit"));
    }
}
