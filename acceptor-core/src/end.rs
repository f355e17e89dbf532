//! How a child ends, and what follows from it: the table of section 2 and the rules B3 to B8.

use std::error::Error;
use std::sync::Arc;

use crate::report::Failure;
use crate::spec::Restart;
use crate::stop::EndKind;

/// What a child was when it ended.
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

/// How long an acceptor had waited when its accept time-out came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Long enough that a replacement at once is not a busy loop.
    AWhile,
    /// So briefly that the starts need spacing (B6).
    Hardly,
}

/// The end of a child.
#[derive(Debug)]
pub(crate) enum End {
    /// `init` answered *ignore*.
    Ignored,
    /// Terminated by its accept time-out.
    TimedOut(Waited),
    /// An acceptor ended because it was told to; or a connection was dropped by a stop.
    Stopped,
    /// `init` failed or panicked, or the wait did.
    StartError(Failure),
    /// `serve` returned `Ok`.
    Normal,
    /// `serve` returned the clean exit.
    Clean,
    /// `serve` returned another error.
    Error(Arc<dyn Error + Send + Sync>),
    /// `serve`, `terminate` or a `Drop` panicked.
    Panic(String, Waited),
    Killed,
    Lost,
}

impl End {
    pub(crate) fn kind(&self) -> EndKind {
        match self {
            End::Ignored | End::TimedOut(_) | End::Normal => EndKind::Normal,
            End::Stopped => EndKind::Stopped,
            End::StartError(Failure::Panic(_)) | End::Panic(..) => EndKind::Panic,
            End::StartError(_) | End::Error(_) => EndKind::Error,
            End::Clean => EndKind::Clean,
            End::Killed => EndKind::Killed,
            End::Lost => EndKind::Lost,
        }
    }

    /// Whether it counts towards restart intensity.
    pub(crate) fn counted(&self, restart: Restart) -> Counted {
        match self {
            End::StartError(_) => Counted::Yes,
            End::Error(_) | End::Panic(..) | End::Killed => match restart {
                Restart::Temporary => Counted::No,
                Restart::Transient => Counted::Yes,
            },
            End::Ignored
            | End::TimedOut(_)
            | End::Stopped
            | End::Normal
            | End::Clean
            | End::Lost => Counted::No,
        }
    }

    /// Whether the same could follow at once from starting an acceptor again, so that starts are spaced (B3, B6).
    pub(crate) fn repeats(&self) -> bool {
        match self {
            End::Ignored | End::TimedOut(Waited::Hardly) => true,
            // In a temporary pool nothing else bounds a `terminate` that panics (B8).
            End::Panic(_, waited) => *waited == Waited::Hardly,
            _ => false,
        }
    }

    /// What is reported of it, if anything.
    pub(crate) fn failure(self) -> Option<Failure> {
        match self {
            End::StartError(failure) => Some(failure),
            End::Error(error) => Some(Failure::Error(error)),
            End::Panic(message, _) => Some(Failure::Panic(message)),
            End::Killed => Some(Failure::Killed),
            End::Lost => Some(Failure::Lost),
            End::Ignored | End::TimedOut(_) | End::Stopped | End::Normal | End::Clean => None,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn ends() -> Vec<(End, EndKind, Option<&'static str>)> {
        let error = || Arc::from(Box::<dyn Error + Send + Sync>::from("failed"));
        let panic = || "out of luck".to_owned();
        vec![
            (End::Ignored, EndKind::Normal, None),
            (End::TimedOut(Waited::AWhile), EndKind::Normal, None),
            (End::TimedOut(Waited::Hardly), EndKind::Normal, None),
            (End::Stopped, EndKind::Stopped, None),
            (
                End::StartError(Failure::Error(error())),
                EndKind::Error,
                Some("failed"),
            ),
            (
                End::StartError(Failure::Panic(panic())),
                EndKind::Panic,
                Some("panicked: out of luck"),
            ),
            (End::Normal, EndKind::Normal, None),
            (End::Clean, EndKind::Clean, None),
            (End::Error(error()), EndKind::Error, Some("failed")),
            (
                End::Panic(panic(), Waited::AWhile),
                EndKind::Panic,
                Some("panicked: out of luck"),
            ),
            (
                End::Panic(panic(), Waited::Hardly),
                EndKind::Panic,
                Some("panicked: out of luck"),
            ),
            (
                End::Killed,
                EndKind::Killed,
                Some("killed through the handle"),
            ),
            (
                End::Lost,
                EndKind::Lost,
                Some("its runtime dropped the task"),
            ),
        ]
    }

    #[test]
    fn each_end_is_of_its_kind_and_says_what_befell_the_child() {
        for (end, kind, words) in ends() {
            assert_eq!(end.kind(), kind, "{end:?}");
            let failure = end.failure().map(|failure| failure.to_string());
            assert_eq!(failure.as_deref(), words);
        }
    }

    #[test]
    fn a_temporary_pool_counts_start_errors_only() {
        for (end, ..) in ends() {
            let expected = match &end {
                End::StartError(_) => (Counted::Yes, Counted::Yes),
                End::Error(_) | End::Panic(..) | End::Killed => (Counted::No, Counted::Yes),
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
    fn what_could_follow_again_at_once_is_what_nothing_else_bounds() {
        for (end, ..) in ends() {
            let expected = matches!(
                end,
                End::Ignored | End::TimedOut(Waited::Hardly) | End::Panic(_, Waited::Hardly)
            );
            assert_eq!(end.repeats(), expected, "{end:?}");
        }
    }
}
