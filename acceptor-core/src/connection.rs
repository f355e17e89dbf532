//! The argument of `serve`: the stream, the addresses of its ends, and the two signals.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::id::{ChildId, ListenerId};
use crate::signal::Signal;

/// A connection, as `serve` gets it (rule B10).
///
/// Take it apart to own the stream and keep the signals:
///
/// ```
/// # async fn check(connection: acceptor_core::Connection<String, std::net::SocketAddr>) {
/// let acceptor_core::Connection { stream, signals, .. } = connection;
/// let stop = signals.trap_stop();
/// # drop((stream, stop));
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection<S, A> {
    /// The runtime's own stream, untouched.
    pub stream: S,
    /// The other end's address.
    pub peer_addr: A,
    /// This end's address, that of this connection also when the listener is bound to a wildcard.
    pub local_addr: A,
    /// The id under which the pool lists, stops and kills this connection.
    pub id: ChildId,
    /// The listener that it came from.
    pub listener: ListenerId,
    /// What the pool has to say to it.
    pub signals: Signals,
}

/// The two signals of a connection (rules N1 and N2).
#[derive(Clone)]
pub struct Signals {
    pub(crate) draining: Signal,
    pub(crate) control: Arc<dyn TrapStop>,
}

impl Signals {
    /// The signal that is set once the connection's listener was closed or
    /// failed, or the pool began to stop: finish what is in flight, begin nothing new.
    pub fn draining(&self) -> &Signal {
        &self.draining
    }

    /// Takes the stop signal, and with it the duty to leave.
    ///
    /// A connection that took it is signalled at the stop phase and may go on until
    /// the shutdown timeout. One that did not is dropped at the stop phase.
    /// Taking it again gives the same signal; taking it late, in the very poll
    /// in which the stop phase came, still counts.
    pub fn trap_stop(&self) -> Signal {
        self.control.trap_stop()
    }
}

/// Gives the stop signal to the connection that takes it.
pub(crate) trait TrapStop: Send + Sync {
    fn trap_stop(&self) -> Signal;
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals")
            .field("draining", &self.draining.is_set())
            .finish_non_exhaustive()
    }
}

/// The error with which `serve` leaves cleanly: not reported, never counted.
///
/// The pool looks for it in the error that `serve` returned itself, not in its sources.
///
/// ```
/// use acceptor_core::{BoxError, CleanExit};
///
/// fn parse(line: &str) -> Result<(), BoxError> {
///     if line == "quit" {
///         return Err(CleanExit::because("the client said quit").into());
///     }
///     Ok(())
/// }
/// assert_eq!(parse("quit").unwrap_err().to_string(), "clean exit: the client said quit");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanExit {
    reason: Option<Cow<'static, str>>,
}

impl CleanExit {
    /// A clean exit without a reason.
    pub fn new() -> Self {
        Self::default()
    }

    /// A clean exit with a reason, for code that reads the error before the pool does.
    pub fn because(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: Some(reason.into()),
        }
    }

    /// The reason that was given.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl fmt::Display for CleanExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "clean exit: {reason}"),
            None => f.write_str("clean exit"),
        }
    }
}

impl Error for CleanExit {}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[track_caller]
    fn check(exit: &CleanExit, reason: Option<&str>, words: &str) {
        assert_eq!(exit.reason(), reason);
        assert_eq!(exit.to_string(), words);
    }

    #[test]
    fn a_clean_exit_says_why_if_it_was_told() {
        check(&CleanExit::new(), None, "clean exit");
        let because = CleanExit::because("quit");
        check(&because, Some("quit"), "clean exit: quit");
        check(&CleanExit::because(""), Some(""), "clean exit: ");
    }

    struct Untrapped;

    impl TrapStop for Untrapped {
        fn trap_stop(&self) -> Signal {
            Signal::new()
        }
    }

    #[test]
    fn signals_show_whether_they_drain() {
        let signals = Signals {
            draining: Signal::new(),
            control: Arc::new(Untrapped),
        };
        assert_eq!(format!("{signals:?}"), "Signals { draining: false, .. }");
        signals.draining().clone().set();
        assert_eq!(format!("{signals:?}"), "Signals { draining: true, .. }");
    }
}
