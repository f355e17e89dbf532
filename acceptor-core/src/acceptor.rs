//! The behaviour that a user writes: `init`, `serve`, `terminate`.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;
use crate::error::BoxError;
use crate::id::{ChildId, ListenerId};
use crate::listener::Listener;
use crate::signal::Signal;
use crate::text::Escaped;

/// What each acceptor of a pool does: prepares a state, becomes a connection, or terminates.
///
/// Write the methods as plain `async fn`. One value serves all acceptors of the
/// pool, at the same time; what belongs to one acceptor goes into its `State`.
/// For a protocol without a state see [`acceptor_fn`].
pub trait Acceptor<L: Listener>: Send + Sync + 'static {
    /// What `init` prepares, and `serve` or `terminate` gets.
    type State: Send + 'static;

    /// Prepares one acceptor, before it waits for a connection (rules B1 to B4).
    ///
    /// Any number of acceptors run `init` at the same time.
    ///
    /// # Errors
    ///
    /// An error, as a panic, is a start error: it is reported and always counts
    /// towards restart intensity, whatever it says.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at a suspension point when its listener closes or
    /// the acceptor is stopped or killed.
    fn init(
        &self,
        listener: &ListenerInfo<L::Addr>,
    ) -> impl Future<Output = Result<Init<Self::State>, BoxError>> + Send;

    /// The state of an acceptor that needs no `init` at all: it is not run then.
    /// Not for implementors: [`acceptor_fn`] answers it, so that it costs a connection nothing.
    #[doc(hidden)]
    fn state_without_init(&self) -> Option<Self::State> {
        None
    }

    /// Is the connection, from its first byte to its end (rules B5, B10, section 2).
    ///
    /// `Ok` and [`CleanExit`](crate::CleanExit) are good ends. Any other error
    /// is reported and counts in a transient pool; so does a panic.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at a suspension point when the connection is
    /// killed, or stopped without having trapped the stop signal.
    fn serve(
        &self,
        connection: Connection<L::Stream, L::Addr>,
        state: Self::State,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Ends an acceptor that got a state and never a connection: exactly once, unless it is killed (rule B7).
    ///
    /// The default drops the state.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at a suspension point when the stop phase of the
    /// pool comes, or a kill. **By default that is at once:** a pool's grace is
    /// zero unless its spec says otherwise, and then only what `terminate` does
    /// before it first suspends is done while the pool stops.
    fn terminate(&self, reason: &Terminate, state: Self::State) -> impl Future<Output = ()> + Send {
        let _ = reason;
        async move { drop(state) }
    }
}

/// What `init` answers (rule B2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init<S> {
    /// Wait for a connection without a limit.
    Accept(S),
    /// Wait for a connection for this long, then terminate with [`Terminate::Timeout`]. Zero is legal: it takes a connection that is already there.
    AcceptWithin(S, Duration),
    /// The same as `Accept`. A waiting acceptor is small in any case (rule B9); the name is the reference's.
    Hibernate(S),
    /// End silently; another acceptor starts (rule B3).
    Ignore,
}

/// Why an acceptor terminates without a connection (rule B7).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Terminate {
    /// No connection came within the accept timeout.
    Timeout,
    /// The listener was closed.
    Closed,
    /// The listener failed.
    Io(Arc<io::Error>),
    /// The pool stops, or this acceptor was stopped through the handle.
    Stopped,
}

impl fmt::Display for Terminate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Terminate::Timeout => f.write_str("accept timeout"),
            Terminate::Closed => f.write_str("listener closed"),
            Terminate::Io(error) => write!(f, "listener failed: {}", Escaped(error)),
            Terminate::Stopped => f.write_str("stopped"),
        }
    }
}

/// The listener that an acceptor is about to wait on, as `init` sees it (rule B1).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenerInfo<A> {
    /// The listener's id.
    pub id: ListenerId,
    /// The id of this acceptor; the connection that it becomes keeps it.
    pub child: ChildId,
    /// The address that the listener is bound to, with its port resolved.
    pub local_addr: A,
    /// Is set once the listener's socket is closed.
    pub closed: Signal,
}

/// Makes an acceptor of a function that serves one connection.
///
/// `init` accepts with no state, `terminate` does nothing. The function is
/// called, and its future polled, as `serve`: a panic in either is the connection's.
///
/// ```
/// # use acceptor_core::{acceptor_fn, Acceptor, Listener};
/// # fn check<L: Listener>() -> impl Acceptor<L> {
/// acceptor_fn(|connection: acceptor_core::Connection<L::Stream, L::Addr>| async move {
///     println!("{:?} is here", connection.peer_addr);
///     Ok(())
/// })
/// # }
/// ```
pub fn acceptor_fn<F>(serve: F) -> AcceptorFn<F> {
    AcceptorFn { serve }
}

/// The acceptor that [`acceptor_fn`] makes.
#[derive(Clone)]
pub struct AcceptorFn<F> {
    serve: F,
}

impl<F> fmt::Debug for AcceptorFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptorFn").finish_non_exhaustive()
    }
}

impl<L, F, Fut> Acceptor<L> for AcceptorFn<F>
where
    L: Listener,
    F: Fn(Connection<L::Stream, L::Addr>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send,
{
    type State = ();

    async fn init(&self, _listener: &ListenerInfo<L::Addr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    fn state_without_init(&self) -> Option<()> {
        Some(())
    }

    fn serve(
        &self,
        connection: Connection<L::Stream, L::Addr>,
        _state: (),
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        (self.serve)(connection)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::listener::testing::Nowhere;

    #[test]
    fn an_acceptor_of_a_function_has_its_state_without_init() {
        fn state<A: Acceptor<Nowhere, State = ()>>(acceptor: &A) -> Option<()> {
            acceptor.state_without_init()
        }
        assert_eq!(state(&acceptor_fn(|_| async { Ok(()) })), Some(()));
    }

    #[test]
    fn an_acceptor_of_a_function_shows_its_name_only() {
        assert_eq!(format!("{:?}", acceptor_fn(())), "AcceptorFn { .. }");
    }

    #[test]
    fn every_reason_to_terminate_has_its_words() {
        let error = Arc::new(io::Error::other("no socket"));
        let reasons = [
            Terminate::Timeout,
            Terminate::Closed,
            Terminate::Io(error),
            Terminate::Stopped,
        ];
        assert_eq!(
            reasons.map(|reason| reason.to_string()),
            [
                "accept timeout",
                "listener closed",
                "listener failed: no socket",
                "stopped"
            ]
        );
    }

    #[test]
    fn error_that_terminates_is_escaped_and_cut() {
        for (text, safe) in [
            ("a\nb".to_owned(), r"a\nb".to_owned()),
            ("x".repeat(1_000_000), format!("{}…", "x".repeat(1021))),
        ] {
            let reason = Terminate::Io(Arc::new(io::Error::other(text)));
            assert_eq!(reason.to_string(), format!("listener failed: {safe}"));
        }
    }
}
