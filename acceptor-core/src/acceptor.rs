//! The behaviour that a user writes: `init`, `serve`, `terminate`.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::connection::Connection;
use crate::error::BoxError;
use crate::exit::IntoExit;
use crate::handshake::StreamOf;
use crate::id::{ChildId, ListenerId, PoolId};
use crate::latch::Latch;
use crate::listener::Listener;
use crate::sync::{DropResuming, Shared};
use crate::text::Escaped;

/// The behaviour of each acceptor of a pool: it prepares a state, becomes a connection, or terminates.
///
/// Write the methods as plain `async fn`. One value serves all acceptors of the
/// pool, at the same time; what belongs to one acceptor goes into its `State`.
/// For a protocol without a state see [`acceptor_fn`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Acceptor<{L}>`",
    label = "not an acceptor for this listener",
    note = "a function or a closure: wrap it in `acceptor_fn(..)`, or in `acceptor_from(..)` if it does not return `Result<_, BoxError>`",
    note = "a type that implements `Acceptor` for another listener: `listener.with(handshake)` has the type `With<..>`, and `serve` gets the stream of the handshake"
)]
pub trait Acceptor<L: Listener>: Send + Sync + 'static {
    /// What `init` prepares, and `serve` or `terminate` gets.
    type State: Send + 'static;

    /// What `serve` returns: `()`, an [`Exit`](crate::Exit), or a `Result` of one with any error.
    type Exit: IntoExit;

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

    /// Prepares one acceptor at once: if it returns a state, `init` does not run (rule B5).
    ///
    /// An `init` has a task of its own; this is a plain call, which costs a connection almost nothing. It is called wherever
    /// the pool is when it needs the acceptor: where it accepts connections, in its own task, which keeps the time of a stop,
    /// or within [`stop_child`](crate::Pool::stop_child). So it **must be cheap and must not block**: clone a handle, take
    /// the next number. The default returns `None`.
    ///
    /// While other acceptors of the listener have start errors it is called for one of them at a time, as `init` is (rule B4).
    ///
    /// A panic in it is a start error, as one in `init`.
    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> Option<Self::State> {
        let _ = listener;
        None
    }

    /// Is the connection, from its first byte to its end (rules B5, B10, section 2).
    ///
    /// Its return value decides how the connection has ended: see [`Exit`](crate::Exit). An error that means that the
    /// peer is gone is no failure (rule E5); any other is reported and counts in a transient pool, and so does a panic.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at a suspension point when the connection is
    /// killed, or stopped without having trapped the stop signal.
    fn serve(
        &self,
        connection: Connection<StreamOf<L>, L::Addr>,
        state: Self::State,
    ) -> impl Future<Output = Self::Exit> + Send;

    /// [`serve`](Self::serve), as the pool runs it: as a future that owns what it needs. A function's is no more than the
    /// function's own.
    #[doc(hidden)]
    fn serve_in_place(
        this: Keep<Self>,
        connection: Connection<StreamOf<L>, L::Addr>,
        state: Self::State,
    ) -> impl Future<Output = Self::Exit> + Send + 'static
    where
        Self: Sized,
    {
        // Each is dropped by itself, polled or not: two panics at once would abort the process.
        let given = (DropResuming::new(connection), DropResuming::new(state));
        async move { this.serve(given.0.into_inner(), given.1.into_inner()).await }
    }

    /// Ends an acceptor that got a state and never a connection: exactly once, unless it is killed or its runtime ends
    /// (rule B7). Then its state is dropped.
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
#[non_exhaustive]
pub enum Init<S> {
    /// Wait for a connection without a limit.
    Accept(S),
    /// Wait for a connection for this long, then terminate with [`Terminate::Timeout`]. Zero is legal: it takes a connection that is already there.
    AcceptWithin(S, Duration),
    /// The same as `Accept`. A waiting acceptor is small in any case (rule B9); the name is that of Erlang's `acceptor_pool`.
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
    /// The pool has another acceptor, and [replaces](crate::WaitingAcceptors::Replace) those that wait (R1).
    Replaced,
}

impl fmt::Display for Terminate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Terminate::Timeout => f.write_str("accept timeout"),
            Terminate::Closed => f.write_str("listener closed"),
            Terminate::Io(error) => write!(f, "listener failed: {}", Escaped(error)),
            Terminate::Stopped => f.write_str("stopped"),
            Terminate::Replaced => f.write_str("replaced by another acceptor"),
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
    /// The listener's [tag](crate::ListenerSettings::tag), if it has one.
    pub tag: Option<Arc<str>>,
    /// The address that the listener is bound to, with its port resolved.
    pub local_addr: A,
    /// Is set once the listener's socket is closed.
    pub closed: Latch,
}

impl<A> ListenerInfo<A> {
    /// The view of a listener of no pool, to test an `init` with: `Acceptor::<TcpListener>::init(&acceptor, &info)`, with the
    /// listener's type to choose the implementation. Its other fields are public, and can be set.
    ///
    /// ```
    /// let mut info = acceptor_core::ListenerInfo::for_test("127.0.0.1:80");
    /// info.tag = Some("admin".into());
    /// assert_eq!(info.child.to_string(), "1.1");
    /// ```
    pub fn for_test(local_addr: A) -> Self {
        let id = ListenerId {
            sequence: 1,
            pool: PoolId::ANY,
        };
        Self {
            id,
            child: ChildId::new(id, 1, ChildId::NO_SLOT),
            tag: None,
            local_addr,
            closed: Latch::new(),
        }
    }
}

/// An `Arc` of an acceptor is that acceptor: to keep a handle on it, or to use it in several pools.
impl<L: Listener, A: Acceptor<L>> Acceptor<L> for Arc<A> {
    type State = A::State;
    type Exit = A::Exit;

    fn init(
        &self,
        listener: &ListenerInfo<L::Addr>,
    ) -> impl Future<Output = Result<Init<Self::State>, BoxError>> + Send {
        (**self).init(listener)
    }

    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> Option<Self::State> {
        (**self).init_now(listener)
    }

    fn serve(
        &self,
        connection: Connection<StreamOf<L>, L::Addr>,
        state: Self::State,
    ) -> impl Future<Output = Self::Exit> + Send {
        (**self).serve(connection, state)
    }

    fn terminate(&self, reason: &Terminate, state: Self::State) -> impl Future<Output = ()> + Send {
        (**self).terminate(reason, state)
    }
}

/// Makes an acceptor of a closure that serves one connection and returns a `Result` with a [`BoxError`].
///
/// That the error is boxed lets `?` and `Ok(())` find their types in a closure. The value in `Ok` is `()` or an
/// [`Exit`](crate::Exit). For a function with another result there is [`acceptor_from`]: an `anyhow::Result`, for example,
/// whose errors `?` would box here, so that [`is_peer_gone`](crate::is_peer_gone) could not look into them. The compiler asks for
/// it with "expected `Result<_, Box<dyn Error + Send + Sync>>`".
///
/// The parameter of a closure needs its type, as below. What all connections share goes in as an `Arc`, cloned for each:
///
/// ```
/// # use std::sync::Arc;
/// # use std::sync::atomic::{AtomicUsize, Ordering};
/// # use acceptor_core::{acceptor_fn, Acceptor, Connection, Listener, StreamOf};
/// # fn check<L: Listener>() -> impl Acceptor<L> {
/// let served = Arc::new(AtomicUsize::new(0));
/// acceptor_fn(move |connection: Connection<StreamOf<L>, L::Addr>| {
///     let served = Arc::clone(&served);
///     async move {
///         served.fetch_add(1, Ordering::Relaxed);
///         println!("{:?} is here", connection.peer_addr);
///         Ok(())
///     }
/// })
/// # }
/// ```
///
/// A closure without an `Ok` has to name the type in it: `Err::<(), _>(error)`. One that never returns is better a function,
/// whose result is written down.
///
/// `init` accepts with no state, `terminate` does nothing. The closure is called, and its future polled, as `serve`: a
/// panic in either is the connection's.
pub fn acceptor_fn<S, A, F, Fut, T>(serve: F) -> AcceptorFn<F>
where
    F: Fn(Connection<S, A>) -> Fut,
    Fut: Future<Output = Result<T, BoxError>>,
    T: IntoExit,
{
    acceptor_from(serve)
}

/// Makes an acceptor of a function that serves one connection and returns [whatever](IntoExit) `serve` may.
///
/// As [`acceptor_fn`], but the result of the function has a type already.
///
/// ```
/// use acceptor_core::{acceptor_from, Acceptor, Connection, Exit, Listener};
///
/// async fn serve<S, A>(connection: Connection<S, A>) -> Result<Exit, std::io::Error> {
///     drop(connection);
///     Ok(Exit::clean("nothing to say"))
/// }
/// # fn check<L: Listener>() -> impl Acceptor<L> {
/// acceptor_from(serve)
/// # }
/// ```
pub fn acceptor_from<F>(serve: F) -> AcceptorFn<F> {
    AcceptorFn { serve }
}

/// The acceptor that [`acceptor_fn`] and [`acceptor_from`] make.
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
    F: Fn(Connection<StreamOf<L>, L::Addr>) -> Fut + Send + Sync + 'static,
    Fut: Future + Send,
    Fut::Output: IntoExit,
{
    type State = ();
    type Exit = Fut::Output;

    async fn init(&self, _listener: &ListenerInfo<L::Addr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _listener: &ListenerInfo<L::Addr>) -> Option<()> {
        Some(())
    }

    fn serve(
        &self,
        connection: Connection<StreamOf<L>, L::Addr>,
        _state: (),
    ) -> impl Future<Output = Self::Exit> + Send {
        (self.serve)(connection)
    }

    fn serve_in_place(
        this: Keep<Self>,
        connection: Connection<StreamOf<L>, L::Addr>,
        _state: (),
    ) -> impl Future<Output = Self::Exit> + Send + 'static {
        ServeByFunction::<F, Connection<StreamOf<L>, L::Addr>>::Start {
            start: Some((this, connection)),
        }
    }
}

/// An acceptor that is owned by many: the last may be dropped anywhere.
#[doc(hidden)]
#[allow(missing_debug_implementations, reason = "no user of the crate has one")]
pub struct Keep<A>(Shared<A>);

impl<A> Keep<A> {
    pub(crate) fn new(acceptor: Shared<A>) -> Self {
        Self(acceptor)
    }
}

impl<A> Deref for Keep<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0
    }
}

/// A function from a connection to a future.
///
/// A type that is made of it and of `C` outlives all that the two outlive, and what it holds is not asked: so the future of a
/// function need not be said to be `'static`, which it always is.
trait ServeFunction<C> {
    type Future: Future + Send;

    fn call(&self, connection: C) -> Self::Future;
}

impl<C, F: Fn(C) -> Fut, Fut: Future + Send> ServeFunction<C> for F {
    type Future = Fut;

    fn call(&self, connection: C) -> Fut {
        self(connection)
    }
}

pin_project! {
    /// A connection that a function serves: its arguments, and in the same place what the function returns.
    #[project = ServeByFunctionPlace]
    enum ServeByFunction<F: ServeFunction<C>, C> {
        Start { start: Option<(Keep<AcceptorFn<F>>, C)> },
        Serving { #[pin] future: F::Future },
    }
}

impl<F: ServeFunction<C>, C> Future for ServeByFunction<F, C> {
    type Output = <F::Future as Future>::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let ServeByFunctionPlace::Start { start } = self.as_mut().project() {
            let (acceptor, connection) = start
                .take()
                .expect("a function that panics is not called again");
            let future = acceptor.serve.call(connection);
            self.set(Self::Serving { future });
        }
        match self.project() {
            ServeByFunctionPlace::Serving { future } => future.poll(cx),
            ServeByFunctionPlace::Start { .. } => Poll::Pending,
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use std::net::SocketAddr;

    use super::*;
    use crate::id::PoolId;

    /// The view that some acceptor has of some listener.
    pub(crate) fn info() -> ListenerInfo<SocketAddr> {
        let id = ListenerId {
            sequence: 1,
            pool: PoolId::ANY,
        };
        ListenerInfo {
            id,
            child: ChildId::new(id, 1, 0),
            tag: None,
            local_addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            closed: Latch::new(),
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::exit::Exit;
    use crate::listener::testing::Nowhere;
    use crate::sync::catch_panic;

    #[test]
    fn an_acceptor_of_a_function_has_its_state_without_init() {
        fn state<A: Acceptor<Nowhere, State = ()>>(acceptor: &A) -> Option<()> {
            acceptor.init_now(&testing::info())
        }
        let closure = acceptor_fn(|_| async { Ok(()) });
        assert_eq!(state(&closure), Some(()));
        assert_eq!(state(&Arc::new(closure)), Some(()));
        assert_eq!(state(&acceptor_from(|_| async {})), Some(()));
    }

    #[test]
    fn an_acceptor_of_a_function_shows_its_name_only() {
        assert_eq!(format!("{:?}", acceptor_from(())), "AcceptorFn { .. }");
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

    /// Panics with its name when it is dropped.
    struct Bomb(&'static str);

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new(self.0));
        }
    }

    /// Its state panics when it is dropped, unless `serve` takes it.
    struct Fragile;

    impl Acceptor<Nowhere> for Fragile {
        type State = Bomb;
        type Exit = Exit;

        async fn init(
            &self,
            _: &ListenerInfo<std::net::SocketAddr>,
        ) -> Result<Init<Bomb>, BoxError> {
            Ok(Init::Accept(Bomb("state")))
        }

        async fn serve(&self, _: Connection<(), std::net::SocketAddr>, state: Bomb) -> Exit {
            std::mem::forget(state);
            Exit::clean("served")
        }
    }

    fn connection() -> Connection<(), std::net::SocketAddr> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        Connection::for_test((), address, address).0
    }

    fn keep<A>(acceptor: A) -> Keep<A> {
        Keep::new(Shared::new(Arc::new(acceptor)))
    }

    #[test]
    fn serve_in_place_drops_its_arguments_or_serve_takes_them() {
        let serve = || Fragile::serve_in_place(keep(Fragile), connection(), Bomb("state"));
        let dropped = catch_panic(|| drop(serve()));
        assert_eq!(dropped, Err("state".to_owned()));
        let exit = serve().now_or_never().expect("it does not wait");
        assert_eq!(exit.reason(), Some("served"));
    }

    /// The function, and what it returns, are dropped one after the other, polled or not.
    #[test]
    fn function_serves_in_place() {
        let (called, acceptors) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
        let (calls, held) = (Arc::clone(&called), Arc::clone(&acceptors));
        let serve = acceptor_fn(move |_: Connection<(), std::net::SocketAddr>| {
            let _ = &held;
            calls.fetch_add(1, Ordering::SeqCst);
            async {
                std::future::poll_fn(yields_once()).await;
                Ok(Exit::clean("served"))
            }
        });
        let acceptor = Shared::new(Arc::new(serve));
        let serve =
            || Acceptor::<Nowhere>::serve_in_place(Keep::new(acceptor.clone()), connection(), ());
        drop(serve());
        assert_eq!(called.load(Ordering::SeqCst), 0, "not before it is polled");
        let mut serving = Box::pin(serve());
        assert!((&mut serving).now_or_never().is_none());
        let exit = serving.now_or_never().expect("it is woken").into_exit();
        assert_eq!(
            (exit.reason(), called.load(Ordering::SeqCst)),
            (Some("served"), 1)
        );
        drop(acceptor);
        assert_eq!(Arc::strong_count(&acceptors), 1);
    }

    fn yields_once() -> impl FnMut(&mut Context<'_>) -> Poll<()> {
        let mut yielded = false;
        move |_| match std::mem::replace(&mut yielded, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
