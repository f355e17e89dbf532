//! A supervised pool of acceptors for [tokio](https://docs.rs/tokio).
//!
//! A [`Pool`] accepts connections from any number of listeners and serves each one in its own tokio task. It lists, stops and kills
//! connections one by one, contains and reports their failures, and stops gracefully within a bounded time.
//!
//! This is the only crate to add beside tokio: everything of [`acceptor_core`] is re-exported here. [`Pool`], [`PoolHandle`] and
//! [`Connection`] are the core's types for tokio's TCP, unless another listener or stream is named.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use acceptor_tokio::{
//!     BoxError, Connection, ListenOptions, Pool, Spec, TcpListener, TokioRuntime, acceptor_fn,
//! };
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! /// Serves one connection: sends everything back.
//! async fn echo(connection: Connection) -> Result<(), BoxError> {
//!     let mut stream = connection.stream;
//!     let (mut reader, mut writer) = stream.split();
//!     tokio::io::copy(&mut reader, &mut writer).await?;
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let runtime = TokioRuntime::current()?;
//!     // A stop leaves connections alone for 30 s, and then drops them.
//!     let spec = Spec::new("echo", acceptor_fn(echo)).grace(Duration::from_secs(30));
//!     let pool = Pool::start(runtime.clone(), spec)?;
//!
//!     let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &runtime)?;
//!     let address = listener.local_addr()?;
//!     // Ten acceptors wait for connections. Each is replaced when it gets one: this is no limit.
//!     pool.add_listener(listener, 10)?;
//!
//!     let mut client = tokio::net::TcpStream::connect(address).await?;
//!     client.write_all(b"hello").await?;
//!     let mut echoed = [0; 5];
//!     client.read_exact(&mut echoed).await?;
//!     assert_eq!(&echoed, b"hello");
//!
//!     // The connection is listed, and can be ended by its id.
//!     let connections = pool.connections()?;
//!     assert_eq!(connections[0].peer_addr, client.local_addr()?);
//!     pool.stop_child(connections[0].id)?;
//!     assert_eq!(client.read(&mut echoed).await?, 0);
//!
//!     // A server waits for a signal: `pool.run_until(tokio::signal::ctrl_c()).await`.
//!     let report = pool.stop().await;
//!     assert_eq!(report.stuck, 0);
//!     Ok(())
//! }
//! ```
//!
//! # Where to look
//!
//! | question | answer |
//! |---|---|
//! | What do I write for a protocol? | [`Acceptor`], or a function and [`acceptor_fn`] |
//! | What can be configured? | [`Spec`], [`ListenOptions`], [`ListenerSettings`] |
//! | How does `main` stop the pool? | [`Pool::run_until`](acceptor_core::Pool::run_until), and [the guide](guide::shutdown) |
//! | How does `serve` notice a stop? | [`Lifecycle`] |
//! | How do I add TLS, or the PROXY protocol? | [`Handshake`], and the examples `tls` and `proxy` |
//! | What about WebSockets and HTTP/2? | [`GuardedStream`], [the guide](guide::upgrades), and the example `websocket` |
//! | How do I see what the pool is doing? | [`Pool::status`](acceptor_core::Pool::status), [`observer_fn`], [the guide](guide::observing) |
//! | How do I test a `serve`? | [`Connection::for_test`](acceptor_core::Connection::for_test), and [the guide](guide::testing) |
//! | What exactly does a pool do? | [the rules](guide::rules), whose ids, such as [L4](guide::rules#l4), appear throughout |
//!
//! The repository has complete servers as examples: `telnet_echo`, `tls`, `proxy`, `websocket`, `unix` and `cores`.
//!
//! # Runtimes
//!
//! [`TokioRuntime`] carries the handle of a tokio runtime, and all tasks of the pool run there, wherever the pool is called from. The runtime
//! needs I/O and time, which `#[tokio::main]` enables. Both schedulers work; on the current-thread scheduler, a blocked task
//! also blocks the stop. [`add_listener_on`](acceptor_core::Pool::add_listener_on) runs a listener on another runtime.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `anyhow`, `eyre` | finds the I/O error inside an error report of that crate, so that a client that has left is not counted as a failure |

mod guarded_stream;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

pub use acceptor_core::{
    AcceptErrorFn, AcceptErrorKind, Acceptor, AcceptorFn, AcceptorRecord, AcceptorState,
    AddListenerError, AddListenerReason, AtLimit, BoxError, ChildCounts, ChildError, ChildId,
    ChildType, CloseError, CloseListener, Configure, ConnectionRecord, ConnectionReports,
    ConnectionState, Counts, EndKind, Ends, Event, EventKind, Exit, Failure, Grace, Guard,
    Handshake, HandshakeError, Incoming, Init, IntoExit, Join, Keepalive, LastListener, Latch,
    LatchWait, LateConnection, Lifecycle, LimitError, ListenError, ListenOptions, Listener,
    ListenerId, ListenerInfo, ListenerRecord, ListenerSettings, ListenerState, Losses,
    MAX_ACCEPTORS, MAX_CONNECTIONS, NoHandshake, Observer, ParseIdError, PeerGoneFn, Phase,
    PoolState, ReconfigureError, Refusal, Report, Restart, Runtime, Settings, Shutdown, Spec,
    SpecError, StartError, Status, StopReason, StopReport, Stopped, StreamOf, Subtask, Terminate,
    TestSignals, Then, Transport, WaitingAcceptors, With, acceptor_fn, acceptor_from,
    asks_local_addr, check_listener, check_tcp_listener, guide, is_peer_gone, observer_fn,
    refuse_stream, report,
};
pub use guarded_stream::GuardedStream;
use tokio::runtime::{Handle, RuntimeFlavor};

/// A pool on tokio, with TCP listeners unless another listener type is named.
///
/// ```
/// use acceptor_tokio::{Connection, ListenOptions, Pool, Spec, TcpListener, TokioRuntime, acceptor_fn};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tokio::net::TcpStream;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let echo = acceptor_fn(|mut connection: Connection| async move {
///     let (mut reader, mut writer) = connection.stream.split();
///     tokio::io::copy(&mut reader, &mut writer).await?;
///     Ok(())
/// });
/// let runtime = TokioRuntime::current()?;
/// let pool = Pool::start(runtime.clone(), Spec::new("echo", echo))?;
/// let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &runtime)?;
/// let address = listener.local_addr()?;
/// pool.add_listener(listener, 10)?;
///
/// let mut client = TcpStream::connect(address).await?;
/// client.write_all(b"ping").await?;
/// let mut reply = [0; 4];
/// client.read_exact(&mut reply).await?;
/// assert_eq!(reply, *b"ping");
/// assert_eq!(pool.connections()?[0].peer_addr, client.local_addr()?);
///
/// let report = pool.stop().await;
/// assert_eq!(report.all_connections().total(), 1);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "graceful shutdown")]
#[doc(alias = "supervisor")]
#[doc(alias = "TaskTracker")]
#[doc(alias = "JoinSet")]
pub type Pool<L = TcpListener> = acceptor_core::Pool<TokioRuntime, L>;
/// A handle to a pool on tokio, for other tasks than the owner's.
///
/// ```
/// use acceptor_tokio::{Connection, Pool, PoolHandle, Spec, Stopped, TokioRuntime, acceptor_fn};
///
/// /// What an endpoint for administration may return.
/// fn connections(handle: &PoolHandle) -> Result<usize, Stopped> {
///     Ok(handle.counts()?.connections)
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let idle = acceptor_fn(|_: Connection| async { Ok(()) });
/// let pool: Pool = Pool::start(TokioRuntime::current()?, Spec::new("idle", idle))?;
/// assert_eq!(connections(&pool.handle()), Ok(0));
/// # Ok(())
/// # }
/// ```
pub type PoolHandle<L = TcpListener> = acceptor_core::PoolHandle<TokioRuntime, L>;
/// A connection of a pool on tokio, over TCP unless another stream type is named.
///
/// A `serve` that takes any stream can be tested without a socket:
///
/// ```
/// use acceptor_tokio::Connection;
/// use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
///
/// async fn greet<S: AsyncWrite + Unpin>(mut connection: Connection<S>) -> std::io::Result<()> {
///     let greeting = format!("hello {}", connection.peer_addr.ip());
///     connection.stream.write_all(greeting.as_bytes()).await
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut client, stream) = tokio::io::duplex(64);
/// let peer_addr = "192.0.2.1:5000".parse()?;
/// let (connection, _signals) = Connection::for_test(stream, peer_addr, "127.0.0.1:80".parse()?);
/// greet(connection).await?;
/// let mut greeting = String::new();
/// client.read_to_string(&mut greeting).await?;
/// assert_eq!(greeting, "hello 192.0.2.1");
/// # Ok(())
/// # }
/// ```
pub type Connection<S = tokio::net::TcpStream, A = SocketAddr> = acceptor_core::Connection<S, A>;

/// A tokio runtime, on which the pool's tasks run wherever the pool is called from
/// ([B11](acceptor_core::guide::rules#b11)).
///
/// ```
/// use acceptor_tokio::{Runtime, TokioRuntime};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let current = TokioRuntime::current()?;
/// let same = TokioRuntime::from_handle(tokio::runtime::Handle::current());
/// assert!(current.is_same(&same));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "Handle")]
#[doc(alias = "executor")]
#[derive(Debug, Clone)]
pub struct TokioRuntime {
    handle: Handle,
}

impl TokioRuntime {
    /// Returns the runtime that the caller runs in.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`] outside of a runtime.
    ///
    /// # Panics
    ///
    /// Those of [`from_handle`](Self::from_handle).
    pub fn current() -> Result<Self, RuntimeError> {
        let handle = Handle::try_current().map_err(|_| RuntimeError::NoRuntime)?;
        Ok(Self::from_handle(handle))
    }

    /// Returns the runtime of a handle.
    ///
    /// # Panics
    ///
    /// If the runtime was built without `enable_time`. Tokio offers no way to check this
    /// beforehand.
    pub fn from_handle(handle: Handle) -> Self {
        // Panics here rather than in a task of the pool, where the cause would be hidden.
        {
            let _context = handle.enter();
            drop(tokio::time::sleep_until(tokio::time::Instant::now()));
        }
        Self { handle }
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task));
    }

    async fn sleep_until(&self, deadline: Instant) {
        // Created in the context of the handle's runtime, whose timer it uses.
        let sleep = {
            let _context = self.handle.enter();
            tokio::time::sleep_until(deadline.into())
        };
        sleep.await;
    }

    fn is_same(&self, other: &Self) -> bool {
        self.handle.id() == other.handle.id()
    }

    fn now(&self) -> Instant {
        // Tokio's clock, which tests can pause; without `test-util` it is the standard one. Read in
        // the context of the handle's runtime, as the timer is, wherever the pool is called from.
        let _context = self.handle.enter();
        tokio::time::Instant::now().into_std()
    }

    fn now_in_task(&self) -> Instant {
        // A task of the handle's runtime is in its context.
        tokio::time::Instant::now().into_std()
    }

    fn has_one_thread(&self) -> bool {
        self.handle.runtime_flavor() == RuntimeFlavor::CurrentThread
    }
}

/// A TCP listener on tokio.
///
/// ```
/// use acceptor_tokio::{ListenOptions, TcpListener, TokioRuntime};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = TokioRuntime::current()?;
/// let options = ListenOptions::new("127.0.0.1:0").nodelay(true).backlog(1024);
/// let listener = TcpListener::bind(options, &runtime)?;
/// assert_ne!(listener.local_addr()?.port(), 0);
///
/// // A listener that already exists works too.
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let listener = TcpListener::from_std(listener, &runtime)?;
/// assert!(listener.local_addr()?.ip().is_loopback());
/// # Ok(())
/// # }
/// ```
#[doc(alias = "accept")]
#[doc(alias = "bind")]
#[doc(alias = "listen")]
#[derive(Debug)]
pub struct TcpListener {
    listener: tokio::net::TcpListener,
}

impl TcpListener {
    /// Opens a listening socket: [`ListenOptions::bind`] followed by [`from_std`](Self::from_std).
    ///
    /// # Errors
    ///
    /// Those of both. The error [contains](io::Error::get_ref) the [`ListenError`], if there is
    /// one.
    ///
    /// # Panics
    ///
    /// If the runtime was built without `enable_io`. Tokio offers no way to check this beforehand.
    pub fn bind(options: ListenOptions, runtime: &TokioRuntime) -> io::Result<Self> {
        Self::from_std(options.bind()?, runtime)
    }

    /// Creates a listener from a standard one, such as that of [`ListenOptions::bind`] or one that
    /// was inherited. It is driven by `runtime`, and need not be non-blocking yet.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a listening TCP socket
    /// ([V4](acceptor_core::guide::rules#v4)), and the system's errors.
    ///
    /// # Panics
    ///
    /// If the runtime was built without `enable_io`. Tokio offers no way to check this beforehand.
    pub fn from_std(listener: std::net::TcpListener, runtime: &TokioRuntime) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        listener.set_nonblocking(true)?;
        let _context = runtime.handle.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(Self { listener })
    }

    /// Returns the address that the listener is bound to.
    ///
    /// # Errors
    ///
    /// The system's errors.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Converts the listener into a standard one, which stays non-blocking. Connections in its
    /// queue stay there.
    ///
    /// # Errors
    ///
    /// The system's errors.
    ///
    /// ```
    /// use acceptor_tokio::{ListenOptions, TcpListener, TokioRuntime};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// # let runtime = TokioRuntime::current().unwrap();
    /// let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &runtime)?;
    /// let address = listener.local_addr()?;
    /// assert_eq!(listener.into_std()?.local_addr()?, address);
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        self.listener.into_std()
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for TcpListener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for TcpListener {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.listener.as_socket()
    }
}

impl TryFrom<tokio::net::TcpListener> for TcpListener {
    type Error = io::Error;

    /// Fails with [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a listening TCP socket
    /// ([V4](acceptor_core::guide::rules#v4)).
    fn try_from(listener: tokio::net::TcpListener) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        Ok(Self { listener })
    }
}

impl Listener for TcpListener {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send {
        self.listener.accept()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn io_local_addr(io: &Self::Io) -> io::Result<SocketAddr> {
        io.local_addr()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn refuse(io: Self::Io, how: &Refusal) {
        refuse_stream(&io, how);
    }

    fn asks_local_addr(&self) -> bool {
        acceptor_core::asks_local_addr(&self.listener)
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        // The listener's own runtime, which need not be the pool's.
        tokio::runtime::is_rt_shutdown_err(error).then_some(AcceptErrorKind::Listener)
    }
}

/// The error of a tokio runtime on which no pool can run.
///
/// ```
/// use acceptor_tokio::{RuntimeError, TokioRuntime};
///
/// assert_eq!(TokioRuntime::current().unwrap_err(), RuntimeError::NoRuntime);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The caller does not run in a tokio runtime.
    NoRuntime,
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuntimeError::NoRuntime => {
                "not within a tokio runtime: call it from `#[tokio::main]` or a task, or use `TokioRuntime::from_handle`"
            }
        })
    }
}

impl Error for RuntimeError {}

/// Compiles and runs the code of the readmes and of the guide together with that of the documentation.
#[cfg(doctest)]
mod documents {
    #[cfg_attr(workspace, doc = include_str!("../../README.md"))]
    struct Workspace;
    #[doc = include_str!("../README.md")]
    struct Crate;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/acceptors.md"))]
    struct Acceptors;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/limits.md"))]
    struct Limits;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/failures.md"))]
    struct Failures;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/shutdown.md"))]
    struct Shutdown;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/reconfigure.md"))]
    struct Reconfigure;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/upgrades.md"))]
    struct Upgrades;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/observing.md"))]
    struct Observing;
    #[cfg_attr(workspace, doc = include_str!("../../acceptor-core/src/guide/testing.md"))]
    struct Testing;
}
