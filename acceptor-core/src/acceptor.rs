//! The user's callbacks: `init`, `serve` and `terminate`.

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

/// The callbacks of an acceptor: it prepares a state, waits, then serves a connection or
/// terminates.
///
/// One value serves all acceptors of the pool, concurrently. Data of a single acceptor belongs in
/// its [`State`](Self::State). Implement the methods as plain `async fn`. For a protocol that needs
/// no state, a function is enough: see [`acceptor_fn`].
///
/// # Examples
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # use std::io::{self, Read, Write};
/// # use std::net::{SocketAddr, TcpStream};
/// # use std::sync::atomic::{AtomicU64, Ordering};
/// # block_on(async {
/// // `Tcp` and `Threads` stand for the listener and the runtime of an adapter crate.
/// #[derive(Default)]
/// struct Numbered {
///     next: AtomicU64,
/// }
///
/// impl Acceptor<Tcp> for Numbered {
///     type State = u64;
///     type Exit = io::Result<()>;
///
///     async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<u64>, BoxError> {
///         Ok(Init::Accept(self.next.fetch_add(1, Ordering::Relaxed)))
///     }
///
///     async fn serve(
///         &self,
///         mut connection: Connection<TcpStream, SocketAddr>,
///         number: u64,
///     ) -> io::Result<()> {
///         write!(connection.stream, "number {number}")
///     }
/// }
///
/// let pool = Pool::start(Threads, Spec::new("numbered", Numbered::default()))?;
/// pool.add_listener(Tcp::bind()?, 1)?;
///
/// let mut reply = String::new();
/// TcpStream::connect(pool.listeners()?[0].local_addr)?.read_to_string(&mut reply)?;
/// assert_eq!(reply, "number 0");
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[doc(alias = "worker")]
#[doc(alias = "handler")]
#[doc(alias = "Service")]
#[doc(alias = "gen_server")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Acceptor<{L}>`",
    label = "not an acceptor for this listener",
    note = "for a function or a closure: wrap it in `acceptor_fn(..)`, or in `acceptor_from(..)` if it does not return `Result<_, BoxError>`",
    note = "for a type that implements `Acceptor` for another listener: `listener.with(handshake)` has the type `With<..>`, and `serve` gets the stream of the handshake"
)]
pub trait Acceptor<L: Listener>: Send + Sync + 'static {
    /// The state of one acceptor: `init` returns it, and `serve` or `terminate` takes it.
    type State: Send + 'static;

    /// The return type of `serve`: `()`, an [`Exit`](crate::Exit), or a `Result` of either with any
    /// error.
    type Exit: IntoExit;

    /// Prepares one acceptor before it waits for a connection ([B1](crate::guide::rules#b1) to
    /// [B4](crate::guide::rules#b4)).
    ///
    /// It runs in a task of its own, once for each acceptor. Any number of acceptors run it
    /// concurrently. The result says whether and for how long the acceptor waits: see [`Init`].
    ///
    /// # Errors
    ///
    /// An error is a start error, as is a panic: it is reported, and it always counts towards
    /// restart intensity, whatever the error is. Afterwards one acceptor of the listener at a time
    /// tries again, with a growing delay, until one succeeds ([B4](crate::guide::rules#b4)).
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at a suspension point when its listener closes, or when the acceptor
    /// is stopped, killed or replaced.
    fn init(
        &self,
        listener: &ListenerInfo<L::Addr>,
    ) -> impl Future<Output = Result<Init<Self::State>, BoxError>> + Send;

    /// Prepares one acceptor synchronously. If it returns a state, `init` does not run
    /// ([B5](crate::guide::rules#b5)).
    ///
    /// The default returns `None`, so that `init` runs. An `init` needs a task of its own; this is
    /// a plain call, which adds almost nothing to the cost of a connection. The pool calls it
    /// wherever it needs an acceptor: where it accepts connections, in its own task, which keeps
    /// the time of a stop, or within [`stop_child`](crate::Pool::stop_child). It **must be cheap
    /// and must not block**: clone a handle or take the next number.
    ///
    /// After a start error it is called for one acceptor of the listener at a time, as `init` is
    /// ([B4](crate::guide::rules#b4)).
    ///
    /// A panic in it is a start error, as one in `init`.
    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> Option<Self::State> {
        let _ = listener;
        None
    }

    /// Serves one connection, from its first byte to its end ([B5](crate::guide::rules#b5),
    /// [B10](crate::guide::rules#b10)).
    ///
    /// The same child continues: the acceptor becomes the connection and keeps its id. `state` is
    /// the value that `init` returned. The acceptor's replacement is started before this future is
    /// first polled.
    ///
    /// The return value decides how the connection has ended: see [`Exit`](crate::Exit). An error
    /// that means that the peer is gone is not a failure ([E5](crate::guide::rules#e5)). Any other
    /// error is reported, and counts in a transient pool, as a panic does.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at a suspension point when the connection is killed, or when it is
    /// stopped without having [trapped the stop signal](crate::Lifecycle::trap_stop).
    fn serve(
        &self,
        connection: Connection<StreamOf<L>, L::Addr>,
        state: Self::State,
    ) -> impl Future<Output = Self::Exit> + Send;

    /// Runs [`serve`](Self::serve) as a future that owns its data. For a function it is the
    /// function's own future.
    #[doc(hidden)]
    fn serve_in_place(
        this: Keep<Self>,
        connection: Connection<StreamOf<L>, L::Addr>,
        state: Self::State,
    ) -> impl Future<Output = Self::Exit> + Send + 'static
    where
        Self: Sized,
    {
        // Each is dropped on its own, polled or not: two panics at once would abort the process.
        let given = (DropResuming::new(connection), DropResuming::new(state));
        async move { this.serve(given.0.into_inner(), given.1.into_inner()).await }
    }

    /// Releases the state of an acceptor that never got a connection
    /// ([B7](crate::guide::rules#b7)).
    ///
    /// It runs exactly once for each acceptor that had a state and got no connection, unless the
    /// acceptor is killed or its runtime ends. `reason` says why the acceptor terminates. The
    /// default drops the state.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at a suspension point when the stop phase of the pool begins, or at a
    /// kill. **By default that is at once:** a pool's grace is zero unless its spec sets one, and
    /// then only the work that `terminate` does before it first suspends is done when the pool
    /// stops.
    #[doc(alias = "cleanup")]
    fn terminate(&self, reason: &Terminate, state: Self::State) -> impl Future<Output = ()> + Send {
        let _ = reason;
        async move { drop(state) }
    }
}

/// The result of a successful `init` ([B2](crate::guide::rules#b2)).
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::Init;
///
/// // Give the state up after a minute without a connection.
/// let init = Init::AcceptWithin("a database connection", Duration::from_secs(60));
/// assert_ne!(init, Init::Ignore);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Init<S> {
    /// The acceptor waits for a connection without a timeout.
    Accept(S),
    /// The acceptor waits for this long, then terminates with [`Terminate::Timeout`] and is
    /// replaced ([B6](crate::guide::rules#b6)). A timeout of zero is allowed: it takes a connection
    /// that is already queued.
    AcceptWithin(S, Duration),
    /// The same as `Accept`: a waiting acceptor is small anyway ([B9](crate::guide::rules#b9)). The
    /// name comes from Erlang's `acceptor_pool`.
    #[doc(alias = "hibernate")]
    Hibernate(S),
    /// The acceptor ends silently, and another one starts ([B3](crate::guide::rules#b3)). This
    /// never counts as a failure. Repeated starts are spaced, by 1 ms doubling to 1 s.
    Ignore,
}

/// The reason for an acceptor to terminate without a connection ([B7](crate::guide::rules#b7)).
///
/// ```
/// use acceptor_core::Terminate;
///
/// assert_eq!(Terminate::Timeout.to_string(), "accept timeout");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Terminate {
    /// No connection came within the accept timeout ([B6](crate::guide::rules#b6)).
    Timeout,
    /// The listener was closed ([L3](crate::guide::rules#l3)).
    Closed,
    /// The listener failed with this error ([L4](crate::guide::rules#l4)).
    Io(Arc<io::Error>),
    /// The pool is stopping ([S3](crate::guide::rules#s3)), or this acceptor was stopped through
    /// the handle ([R4](crate::guide::rules#r4)).
    Stopped,
    /// The pool was reconfigured, and [replaces](crate::WaitingAcceptors::Replace) its waiting
    /// acceptors ([R1](crate::guide::rules#r1)).
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

/// The listener that an acceptor is about to wait on; the argument of `init`
/// ([B1](crate::guide::rules#b1)).
///
/// ```
/// let info = acceptor_core::ListenerInfo::for_test("127.0.0.1:80");
/// assert_eq!(info.local_addr, "127.0.0.1:80");
/// assert!(!info.closed.is_set());
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenerInfo<A> {
    /// The listener's id.
    pub id: ListenerId,
    /// The id of this acceptor. The connection that it becomes keeps it.
    pub child: ChildId,
    /// The listener's [tag](crate::ListenerSettings::tag), if it has one.
    pub tag: Option<Arc<str>>,
    /// The address that the listener is bound to, with its port resolved.
    pub local_addr: A,
    /// Set once the listener's socket is closed.
    pub closed: Latch,
}

impl<A> ListenerInfo<A> {
    /// Creates a value without a pool, to test an `init` with.
    ///
    /// The other fields are public and can be set. To call `init` on an acceptor that is generic
    /// over the listener, name the listener's type: `Acceptor::<TcpListener>::init(&acceptor,
    /// &info)`.
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

/// An `Arc` of an acceptor is an acceptor: use it to keep access to the value, or to share it
/// between pools.
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

/// Creates an acceptor from a closure that serves one connection and returns a `Result` with a
/// [`BoxError`].
///
/// The boxed error lets `?` and `Ok(())` infer their types in a closure. The value in `Ok` is `()`
/// or an [`Exit`](crate::Exit). For a function with another return type use [`acceptor_from`]: for
/// an `anyhow::Result`, for example, whose errors `?` would box here, so that
/// [`is_peer_gone`](crate::is_peer_gone) could not look into them. The compiler then reports
/// "expected `Result<_, Box<dyn Error + Send + Sync>>`".
///
/// `init` accepts without a state, and `terminate` does nothing. A panic of the closure, or of its
/// future, is a panic of the connection.
///
/// # Examples
///
/// The parameter of the closure needs a type. State that all connections share is an `Arc`, cloned
/// for each:
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # use std::io::{Read, Write};
/// # use std::net::{SocketAddr, TcpStream};
/// # use std::sync::Arc;
/// # use std::sync::atomic::{AtomicUsize, Ordering};
/// # block_on(async {
/// let served = Arc::new(AtomicUsize::new(0));
/// let count = Arc::clone(&served);
/// let greet = acceptor_fn(move |mut connection: Connection<TcpStream, SocketAddr>| {
///     let count = Arc::clone(&count);
///     async move {
///         count.fetch_add(1, Ordering::Relaxed);
///         connection.stream.write_all(b"hello")?;
///         Ok(())
///     }
/// });
///
/// let pool = Pool::start(Threads, Spec::new("greeter", greet))?;
/// pool.add_listener(Tcp::bind()?, 1)?;
/// let mut reply = String::new();
/// TcpStream::connect(pool.listeners()?[0].local_addr)?.read_to_string(&mut reply)?;
/// assert_eq!(reply, "hello");
/// assert_eq!(served.load(Ordering::Relaxed), 1);
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
///
/// A closure without an `Ok` has to name its type: `Err::<(), _>(error)`. One that never returns is
/// better written as a function, which declares its return type.
#[doc(alias = "service_fn")]
#[doc(alias = "handler")]
pub fn acceptor_fn<S, A, F, Fut, T>(serve: F) -> AcceptorFn<F>
where
    F: Fn(Connection<S, A>) -> Fut,
    Fut: Future<Output = Result<T, BoxError>>,
    T: IntoExit,
{
    acceptor_from(serve)
}

/// Creates an acceptor from a function that serves one connection and returns any [`IntoExit`]
/// type.
///
/// Use it for a function whose return type is already known; see [`acceptor_fn`] for a closure.
///
/// ```
/// use acceptor_core::{Connection, EndKind, Exit, IntoExit, acceptor_from};
/// # use futures::FutureExt;
///
/// async fn serve(connection: Connection<String, &'static str>) -> Result<Exit, std::io::Error> {
///     Ok(Exit::clean(connection.stream))
/// }
///
/// let acceptor = acceptor_from(serve);
/// # drop(acceptor);
///
/// // The function can be tested without a pool.
/// # async {
/// let (connection, _signals) = Connection::for_test("bye".to_owned(), "client", "server");
/// let exit = serve(connection).await.into_exit();
/// assert_eq!(exit.kind(), EndKind::Clean);
/// assert_eq!(exit.reason(), Some("bye"));
/// # }.now_or_never().unwrap();
/// ```
pub fn acceptor_from<F>(serve: F) -> AcceptorFn<F> {
    AcceptorFn { serve }
}

/// An acceptor made from a function, by [`acceptor_fn`] or [`acceptor_from`].
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

/// A shared acceptor: the last owner may drop it anywhere.
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
/// A type built from it and `C` outlives everything that both outlive; the data that the future
/// holds does not matter. So the future of a function, which is always `'static`, need not be
/// declared as such.
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
    /// A connection served by a function: first the arguments, then in the same memory the future.
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
                .expect("the arguments are taken once: a future that panicked is not polled again");
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
    fn acceptor_fn_needs_no_init() {
        fn state<A: Acceptor<Nowhere, State = ()>>(acceptor: &A) -> Option<()> {
            acceptor.init_now(&testing::info())
        }
        let closure = acceptor_fn(|_| async { Ok(()) });
        assert_eq!(state(&closure), Some(()));
        assert_eq!(state(&Arc::new(closure)), Some(()));
        assert_eq!(state(&acceptor_from(|_| async {})), Some(()));
    }

    #[test]
    fn acceptor_fn_debug_is_its_name() {
        assert_eq!(format!("{:?}", acceptor_from(())), "AcceptorFn { .. }");
    }

    #[test]
    fn terminate_reasons_display() {
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
    fn terminate_error_is_escaped_and_cut() {
        for (text, safe) in [
            ("a\nb".to_owned(), r"a\nb".to_owned()),
            ("x".repeat(1_000_000), format!("{}…", "x".repeat(1021))),
        ] {
            let reason = Terminate::Io(Arc::new(io::Error::other(text)));
            assert_eq!(reason.to_string(), format!("listener failed: {safe}"));
        }
    }

    /// Panics with its name when it is dropped.
    struct PanicsWhenDropped(&'static str);

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new(self.0));
        }
    }

    /// Its state panics when it is dropped, unless `serve` takes it.
    struct Fragile;

    impl Acceptor<Nowhere> for Fragile {
        type State = PanicsWhenDropped;
        type Exit = Exit;

        async fn init(
            &self,
            _: &ListenerInfo<std::net::SocketAddr>,
        ) -> Result<Init<PanicsWhenDropped>, BoxError> {
            Ok(Init::Accept(PanicsWhenDropped("state")))
        }

        async fn serve(
            &self,
            _: Connection<(), std::net::SocketAddr>,
            state: PanicsWhenDropped,
        ) -> Exit {
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
    fn serve_in_place_consumes_its_arguments() {
        let serve =
            || Fragile::serve_in_place(keep(Fragile), connection(), PanicsWhenDropped("state"));
        let dropped = catch_panic(|| drop(serve()));
        assert_eq!(dropped, Err("state".to_owned()));
        let exit = serve().now_or_never().expect("the future does not suspend");
        assert_eq!(exit.reason(), Some("served"));
    }

    /// The function and its result are dropped one after the other, polled or not.
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
        assert_eq!(
            called.load(Ordering::SeqCst),
            0,
            "the function runs at the first poll"
        );
        let mut serving = Box::pin(serve());
        assert!((&mut serving).now_or_never().is_none());
        let exit = serving
            .now_or_never()
            .expect("the future is ready")
            .into_exit();
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
