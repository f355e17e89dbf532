//! A supervised pool of acceptors for [smol](https://docs.rs/smol).
//!
//! A pool listens on any number of sockets. For each socket it keeps a number of *acceptors*. Each
//! acceptor prepares its state, waits, and becomes the next connection while another acceptor takes
//! its place. The pool supervises every connection:
//!
//! - A failure or a panic of one connection is contained and reported. Too many failures within a
//!   period stop the pool ([`Spec::intensity`]).
//! - Open connections are listed, and each can be stopped or killed ([`Pool::connections`],
//!   [`Pool::kill_child`]).
//! - A stop is graceful and bounded: it closes the listeners, leaves connections a grace, asks them
//!   to stop, and kills those that are left ([`Pool::stop`]).
//! - Accept errors, such as a lack of file descriptors, pause a listener and do not end it.
//!
//! This crate re-exports all items of [`acceptor_core`], so it is the only one to add. [`Pool`],
//! [`PoolHandle`] and [`Connection`] are the core's types with smol's TCP types as defaults.
//!
//! # Example
//!
//! An echo server with one client:
//!
//! ```
//! use std::time::Duration;
//!
//! use acceptor_smol::{
//!     Connection, ListenOptions, Pool, SmolRuntime, Spec, StopReason, TcpListener, acceptor_fn,
//! };
//! use smol::io::{AsyncReadExt, AsyncWriteExt};
//! use smol::net::TcpStream;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     smol::block_on(async {
//!         let echo = acceptor_fn(|connection: Connection| async move {
//!             let reader = connection.stream.clone();
//!             smol::io::copy(reader, connection.stream).await?;
//!             Ok(())
//!         });
//!         let runtime = SmolRuntime::current();
//!         let spec = Spec::new("echo", echo).grace(Duration::from_secs(30));
//!         let pool = Pool::start(runtime.clone(), spec)?;
//!         let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &runtime)?;
//!         let address = listener.local_addr()?;
//!         pool.add_listener(listener, 10)?;
//!
//!         let mut client = TcpStream::connect(address).await?;
//!         client.write_all(b"ping").await?;
//!         let mut reply = [0; 4];
//!         client.read_exact(&mut reply).await?;
//!         assert_eq!(reply, *b"ping");
//!         assert_eq!(pool.counts()?.connections, 1);
//!
//!         // The stop waits for the connection, for at most 30 s.
//!         drop(client);
//!         let report = pool.stop().await;
//!         assert_eq!(report.reason, StopReason::Requested);
//!         assert_eq!(report.stuck, 0);
//!         Ok(())
//!     })
//! }
//! ```
//!
//! A server calls [`Pool::run_until`] with its signal instead of [`Pool::stop`]; the example
//! `telnet_echo` of this crate does.
//!
//! # Executors
//!
//! [`SmolRuntime::current`] runs the pool's tasks on smol's global executor, which has one thread
//! unless the environment variable `SMOL_THREADS` asks for more. On a single thread, a `serve` that
//! blocks holds up the whole pool. [`SmolRuntime::with_executor`] runs the tasks on an
//! [`Executor`] of your own, on the threads that run it.
//!
//! # Testing
//!
//! [`Connection::for_test`] creates a connection from any stream, to test a `serve` without a
//! socket or a pool.
//!
//! # Rules
//!
//! A letter with a number, such as ([L4](acceptor_core::guide::rules#l4)), refers to a rule that
//! every pool follows, on every runtime. They are listed in [`guide::rules`], and each of them has
//! a test.
//!
//! # Features
//!
//! - `anyhow`, `eyre`: look into the reports of these crates for errors that mean that the peer is
//!   gone.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

pub use acceptor_core::{
    AcceptErrorFn, AcceptErrorKind, Acceptor, AcceptorFn, AcceptorRecord, AcceptorState,
    AddListenerError, AddListenerReason, AtLimit, BoxError, ChildCounts, ChildError, ChildId,
    ChildType, CloseError, CloseListener, Configure, ConnectionRecord, ConnectionReports,
    ConnectionState, Counts, EndKind, Ends, Event, EventKind, Exit, Failure, Grace, Guard,
    GuardedStream, Handshake, HandshakeError, Incoming, Init, IntoExit, Join, Keepalive,
    LastListener, Latch, LatchWait, LateConnection, Lifecycle, LimitError, ListenError,
    ListenOptions, Listener, ListenerId, ListenerInfo, ListenerRecord, ListenerSettings,
    ListenerState, Losses, MAX_ACCEPTORS, MAX_CONNECTIONS, NoHandshake, Observer, ParseIdError,
    PeerGoneFn, Phase, PoolState, ReconfigureError, Refusal, Report, Restart, Runtime, Settings,
    Shutdown, Spec, SpecError, StartError, Status, StopReason, StopReport, Stopped, StreamOf,
    Subtask, Terminate, TestSignals, Then, Transport, WaitingAcceptors, With, acceptor_fn,
    acceptor_from, asks_local_addr, check_listener, check_tcp_listener, guide, is_peer_gone,
    observer_fn, refuse_stream, report,
};
use smol::Executor;

/// A pool on smol, with TCP listeners unless another listener type is named. The [crate
/// page](crate) has an example.
#[doc(alias = "graceful shutdown")]
#[doc(alias = "supervisor")]
#[doc(alias = "TaskTracker")]
#[doc(alias = "JoinSet")]
pub type Pool<L = TcpListener> = acceptor_core::Pool<SmolRuntime, L>;
/// A handle to a pool on smol, for other tasks than the owner's.
pub type PoolHandle<L = TcpListener> = acceptor_core::PoolHandle<SmolRuntime, L>;
/// A connection of a pool on smol, over TCP unless another stream type is named.
///
/// A `serve` that takes any stream can be tested without a socket:
///
/// ```
/// use acceptor_smol::Connection;
/// use smol::io::{AsyncWrite, AsyncWriteExt, Cursor};
///
/// async fn greet<S: AsyncWrite + Unpin>(mut connection: Connection<S>) -> std::io::Result<S> {
///     let greeting = format!("hello {}", connection.peer_addr.ip());
///     connection.stream.write_all(greeting.as_bytes()).await?;
///     Ok(connection.stream)
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # smol::block_on(async {
/// let stream = Cursor::new(Vec::new());
/// let peer_addr = "192.0.2.1:5000".parse()?;
/// let (connection, _signals) = Connection::for_test(stream, peer_addr, "127.0.0.1:80".parse()?);
/// let stream = greet(connection).await?;
/// assert_eq!(stream.into_inner(), b"hello 192.0.2.1");
/// # Ok(())
/// # })
/// # }
/// ```
pub type Connection<S = smol::net::TcpStream, A = SocketAddr> = acceptor_core::Connection<S, A>;

/// An executor of smol, on which the pool's tasks run wherever the pool is called from
/// ([B11](acceptor_core::guide::rules#b11)).
///
/// ```
/// use acceptor_smol::{Runtime, SmolRuntime};
///
/// let (done, receiver) = std::sync::mpsc::channel();
/// SmolRuntime::current().spawn(async move { done.send("done").unwrap() });
/// assert_eq!(receiver.recv()?, "done");
/// # Ok::<_, std::sync::mpsc::RecvError>(())
/// ```
#[doc(alias = "Executor")]
#[derive(Clone)]
pub struct SmolRuntime {
    executor: Where,
}

#[derive(Clone)]
enum Where {
    Global,
    /// Weak, because the pool's tasks hold this value: otherwise the tasks would keep alive an
    /// executor that its owner has dropped, and with it themselves.
    Given(Weak<Executor<'static>>),
}

impl SmolRuntime {
    /// Returns the global executor, which `smol::spawn` uses. It has one thread, or as many as the
    /// environment variable `SMOL_THREADS` says.
    pub fn current() -> Self {
        let executor = Where::Global;
        Self { executor }
    }

    /// Returns an executor of your own, which runs the pool's tasks on the threads that run it.
    ///
    /// The pool does not keep the executor alive. Once the executor is dropped, its tasks are
    /// dropped, and a pool that was not stopped is killed as a whole.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use acceptor_smol::{Connection, Pool, SmolRuntime, Spec, acceptor_fn};
    ///
    /// let idle = acceptor_fn(|_: Connection| async { Ok(()) });
    /// let executor = Arc::new(smol::Executor::new());
    /// let runtime = SmolRuntime::with_executor(Arc::clone(&executor));
    /// smol::block_on(executor.run(async {
    ///     let pool: Pool = Pool::start(runtime, Spec::new("idle", idle))?;
    ///     assert_eq!(pool.stop().await.stuck, 0);
    ///     Ok::<_, acceptor_smol::StartError>(())
    /// }))?;
    /// # Ok::<_, acceptor_smol::StartError>(())
    /// ```
    pub fn with_executor(executor: Arc<Executor<'static>>) -> Self {
        let executor = Where::Given(Arc::downgrade(&executor));
        Self { executor }
    }
}

impl Runtime for SmolRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.executor {
            Where::Global => smol::spawn(task).detach(),
            Where::Given(executor) => {
                if let Some(executor) = executor.upgrade() {
                    executor.spawn(task).detach();
                }
            }
        }
    }

    async fn sleep_until(&self, deadline: Instant) {
        smol::Timer::at(deadline).await;
    }

    fn is_same(&self, other: &Self) -> bool {
        match (&self.executor, &other.executor) {
            (Where::Global, Where::Global) => true,
            (Where::Given(one), Where::Given(other)) => Weak::ptr_eq(one, other),
            (Where::Global, Where::Given(_)) | (Where::Given(_), Where::Global) => false,
        }
    }
}

impl fmt::Debug for SmolRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.executor {
            Where::Global => "SmolRuntime(global)",
            Where::Given(_) => "SmolRuntime(given)",
        })
    }
}

/// A TCP listener on smol.
///
/// ```
/// use acceptor_smol::{SmolRuntime, ListenOptions, TcpListener};
///
/// let runtime = SmolRuntime::current();
/// let options = ListenOptions::new("127.0.0.1:0").nodelay(true).backlog(1024);
/// let listener = TcpListener::bind(options, &runtime)?;
/// assert_ne!(listener.local_addr()?.port(), 0);
///
/// // A listener that already exists works too.
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let listener = TcpListener::from_std(listener, &runtime)?;
/// assert!(listener.local_addr()?.ip().is_loopback());
/// # Ok::<_, std::io::Error>(())
/// ```
#[doc(alias = "accept")]
#[doc(alias = "bind")]
#[doc(alias = "listen")]
#[derive(Debug)]
pub struct TcpListener {
    listener: smol::net::TcpListener,
}

impl TcpListener {
    /// Opens a listening socket: [`ListenOptions::bind`] followed by [`from_std`](Self::from_std).
    ///
    /// # Errors
    ///
    /// Those of both. The error [contains](io::Error::get_ref) the [`ListenError`], if there is
    /// one.
    pub fn bind(options: ListenOptions, runtime: &SmolRuntime) -> io::Result<Self> {
        Self::from_std(options.bind()?, runtime)
    }

    /// Creates a listener from a standard one, such as that of [`ListenOptions::bind`] or one that
    /// was inherited. It need not be non-blocking yet. All executors of smol share one reactor,
    /// which drives it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a listening TCP socket
    /// ([V4](acceptor_core::guide::rules#v4)), and the system's errors.
    pub fn from_std(listener: std::net::TcpListener, _runtime: &SmolRuntime) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        let listener = listener.try_into()?;
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
    /// use acceptor_smol::{SmolRuntime, ListenOptions, TcpListener};
    ///
    /// let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &SmolRuntime::current())?;
    /// let address = listener.local_addr()?;
    /// assert_eq!(listener.into_std()?.local_addr()?, address);
    /// # Ok::<_, std::io::Error>(())
    /// ```
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        let listener: Arc<smol::Async<std::net::TcpListener>> = self.listener.into();
        match Arc::try_unwrap(listener) {
            Ok(only) => only.into_inner(),
            // It was cloned before it was passed in.
            Err(shared) => shared.get_ref().try_clone(),
        }
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

impl TryFrom<smol::net::TcpListener> for TcpListener {
    type Error = io::Error;

    /// Fails with [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a listening TCP socket
    /// ([V4](acceptor_core::guide::rules#v4)).
    fn try_from(listener: smol::net::TcpListener) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        Ok(Self { listener })
    }
}

impl Listener for TcpListener {
    type Io = smol::net::TcpStream;
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
}

/// Compiles and runs the code of the readme together with that of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
