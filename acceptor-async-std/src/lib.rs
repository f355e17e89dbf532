//! A supervised pool of acceptors for existing programs on [async-std](https://docs.rs/async-std).
//!
//! **async-std is discontinued.** This crate is for programs that already use it. New programs
//! should use smol with [`acceptor-smol`](https://docs.rs/acceptor-smol), whose API is the same.
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
//! [`PoolHandle`] and [`Connection`] are the core's types with async-std's TCP types as defaults.
//!
//! # Example
//!
//! An echo server with one client:
//!
//! ```
//! use std::time::Duration;
//!
//! use acceptor_async_std::{
//!     AsyncStdRuntime, Connection, ListenOptions, Pool, Spec, StopReason, TcpListener, acceptor_fn,
//! };
//! use async_std::io::{ReadExt, WriteExt};
//! use async_std::net::TcpStream;
//! use async_std::task;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     task::block_on(async {
//!         let echo = acceptor_fn(|connection: Connection| async move {
//!             let stream = connection.stream;
//!             async_std::io::copy(&mut &stream, &mut &stream).await?;
//!             Ok(())
//!         });
//!         let runtime = AsyncStdRuntime::current();
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
//! # Tasks
//!
//! The pool's tasks run on the one runtime of async-std that a program has.
//! [`AsyncStdRuntime::named`] gives them a name.
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

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
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
use async_std::task::{self, Builder};

/// A pool on async-std, with TCP listeners unless another listener type is named. The [crate
/// page](crate) has an example.
#[doc(alias = "graceful shutdown")]
#[doc(alias = "supervisor")]
#[doc(alias = "TaskTracker")]
#[doc(alias = "JoinSet")]
pub type Pool<L = TcpListener> = acceptor_core::Pool<AsyncStdRuntime, L>;
/// A handle to a pool on async-std, for other tasks than the owner's.
pub type PoolHandle<L = TcpListener> = acceptor_core::PoolHandle<AsyncStdRuntime, L>;
/// A connection of a pool on async-std, over TCP unless another stream type is named.
///
/// A `serve` that takes any stream can be tested without a socket:
///
/// ```
/// use acceptor_async_std::Connection;
/// use async_std::io::{Write, WriteExt, Cursor};
///
/// async fn greet<S: Write + Unpin>(mut connection: Connection<S>) -> std::io::Result<S> {
///     let greeting = format!("hello {}", connection.peer_addr.ip());
///     connection.stream.write_all(greeting.as_bytes()).await?;
///     Ok(connection.stream)
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # async_std::task::block_on(async {
/// let stream = Cursor::new(Vec::new());
/// let peer_addr = "192.0.2.1:5000".parse()?;
/// let (connection, _signals) = Connection::for_test(stream, peer_addr, "127.0.0.1:80".parse()?);
/// let stream = greet(connection).await?;
/// assert_eq!(stream.into_inner(), b"hello 192.0.2.1");
/// # Ok(())
/// # })
/// # }
/// ```
pub type Connection<S = async_std::net::TcpStream, A = SocketAddr> =
    acceptor_core::Connection<S, A>;

/// The runtime of async-std, of which a program has one. The pool's tasks run on it
/// ([B11](acceptor_core::guide::rules#b11)).
///
/// ```
/// use acceptor_async_std::{AsyncStdRuntime, Runtime};
///
/// let (done, receiver) = std::sync::mpsc::channel();
/// AsyncStdRuntime::current().spawn(async move { done.send("done").unwrap() });
/// assert_eq!(receiver.recv()?, "done");
/// # Ok::<_, std::sync::mpsc::RecvError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct AsyncStdRuntime {
    name: Option<Arc<str>>,
}

impl AsyncStdRuntime {
    /// Returns the runtime. Its tasks have no name.
    pub fn current() -> Self {
        Self::default()
    }

    /// Names the pool's tasks; `async_std::task::current` returns the name
    /// ([B11](acceptor_core::guide::rules#b11)).
    ///
    /// ```
    /// use acceptor_async_std::{AsyncStdRuntime, Runtime};
    ///
    /// let (sender, names) = std::sync::mpsc::channel();
    /// AsyncStdRuntime::current().named("echo").spawn(async move {
    ///     let _ = sender.send(async_std::task::current().name().map(str::to_owned));
    /// });
    /// assert_eq!(names.recv()?.as_deref(), Some("echo"));
    /// # Ok::<_, std::sync::mpsc::RecvError>(())
    /// ```
    pub fn named(self, name: impl Into<Arc<str>>) -> Self {
        let name = Some(name.into());
        Self { name }
    }
}

impl Runtime for AsyncStdRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut builder = Builder::new();
        if let Some(name) = &self.name {
            builder = builder.name(name.as_ref().to_owned());
        }
        drop(builder.spawn(task));
    }

    async fn sleep_until(&self, deadline: Instant) {
        task::sleep(deadline.saturating_duration_since(Instant::now())).await;
    }

    fn is_same(&self, _other: &Self) -> bool {
        // A process has one runtime; values differ only in the names of their tasks.
        true
    }
}

/// A TCP listener on async-std.
///
/// ```
/// use acceptor_async_std::{AsyncStdRuntime, ListenOptions, TcpListener};
///
/// let runtime = AsyncStdRuntime::current();
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
    listener: async_std::net::TcpListener,
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
    /// If the system cannot watch the socket, for example because it watches too many. async-std
    /// offers no way to check this beforehand.
    pub fn bind(options: ListenOptions, runtime: &AsyncStdRuntime) -> io::Result<Self> {
        Self::from_std(options.bind()?, runtime)
    }

    /// Creates a listener from a standard one, such as that of [`ListenOptions::bind`] or one that
    /// was inherited. It need not be non-blocking yet.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a listening TCP socket
    /// ([V4](acceptor_core::guide::rules#v4)), and the system's errors.
    ///
    /// # Panics
    ///
    /// If the system cannot watch the socket, for example because it watches too many. async-std
    /// offers no way to check this beforehand.
    pub fn from_std(
        listener: std::net::TcpListener,
        _runtime: &AsyncStdRuntime,
    ) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        // The conversion also sets it, but panics if that fails.
        listener.set_nonblocking(true)?;
        let listener = listener.into();
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
    /// use acceptor_async_std::{AsyncStdRuntime, ListenOptions, TcpListener};
    ///
    /// let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &AsyncStdRuntime::current())?;
    /// let address = listener.local_addr()?;
    /// assert_eq!(listener.into_std()?.local_addr()?, address);
    /// # Ok::<_, std::io::Error>(())
    /// ```
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        #[cfg(unix)]
        let owned = std::os::fd::OwnedFd::from(self.listener);
        #[cfg(windows)]
        let owned = std::os::windows::io::OwnedSocket::from(self.listener);
        Ok(owned.into())
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

impl TryFrom<async_std::net::TcpListener> for TcpListener {
    type Error = io::Error;

    /// Fails with [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a listening TCP socket
    /// ([V4](acceptor_core::guide::rules#v4)).
    fn try_from(listener: async_std::net::TcpListener) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        Ok(Self { listener })
    }
}

impl Listener for TcpListener {
    type Io = async_std::net::TcpStream;
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
