//! A supervised pool of acceptors for existing programs on [async-std](https://docs.rs/async-std).
//! **async-std is discontinued: use smol, and with it
//! [`acceptor-smol`](https://docs.rs/acceptor-smol), instead.** This crate is for programs that
//! are on async-std already.
//!
//! Everything of [`acceptor_core`] is re-exported here, so this is the one crate
//! to add; [`Pool`], [`PoolHandle`] and [`Connection`] are the core's, for async-std's TCP listener unless another is named.
//!
//! A letter and a number, as in (L4), name a rule that pools keep, *section 2* is a section of the rules. The package
//! `conformance-tests` has them all, in its file `RULES.md`, and a test for each.
//!
//! ```
//! use acceptor_async_std::{AsyncStdRuntime, ListenOptions, Pool, Spec, TcpListener, acceptor_fn};
//! use async_std::io::{ReadExt, WriteExt};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # async_std::task::block_on(async {
//! let greet = acceptor_fn(|mut connection: acceptor_async_std::Connection| async move {
//!     connection.stream.write_all(b"hello\n").await?;
//!     Ok(())
//! });
//! let runtime = AsyncStdRuntime::current();
//! let pool = Pool::start(runtime.clone(), Spec::new("greeter", greet))?;
//! let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &runtime)?;
//! let address = listener.local_addr()?;
//! pool.add_listener(listener, 10)?;
//!
//! let mut greeting = String::new();
//! let mut client = async_std::net::TcpStream::connect(address).await?;
//! client.read_to_string(&mut greeting).await?;
//! assert_eq!(greeting, "hello\n");
//!
//! let report = pool.stop().await;
//! assert_eq!(report.stuck, 0);
//! # Ok(())
//! # })
//! # }
//! ```

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

pub use acceptor_core::{
    AcceptErrorFn, AcceptErrorKind, Acceptor, AcceptorFn, AcceptorRecord, AcceptorState,
    AddListenerError, AddListenerReason, BoxError, ChildCounts, ChildError, ChildId, ChildType,
    CloseError, CloseListener, Configure, ConnectionRecord, ConnectionReports, ConnectionState,
    Counts, EndKind, Ends, Event, EventKind, Exit, Failure, Grace, Guard, GuardedStream, Handshake,
    HandshakeError, Incoming, Init, IntoExit, Join, Keepalive, LastListener, Latch, LatchWait,
    LateConnection, Lifecycle, ListenError, ListenOptions, Listener, ListenerId, ListenerInfo,
    ListenerRecord, ListenerSettings, ListenerState, Losses, MAX_ACCEPTORS, NoHandshake, Observer,
    ParseIdError, PeerGoneFn, Phase, PoolState, ReconfigureError, Report, Restart, Runtime,
    Settings, Shutdown, Spec, SpecError, StartError, Status, StopReason, StopReport, Stopped,
    StreamOf, Subtask, Terminate, TestSignals, Then, Transport, WaitingAcceptors, With,
    acceptor_fn, acceptor_from, asks_local_addr, check_listener, check_tcp_listener, guide,
    is_peer_gone, observer_fn, report,
};
use async_std::task::{self, Builder};

/// A pool on async-std.
pub type Pool<L = TcpListener> = acceptor_core::Pool<AsyncStdRuntime, L>;
/// A handle of a pool on async-std.
pub type PoolHandle<L = TcpListener> = acceptor_core::PoolHandle<AsyncStdRuntime, L>;
/// A connection, over TCP on async-std unless another stream is named.
pub type Connection<S = async_std::net::TcpStream, A = SocketAddr> =
    acceptor_core::Connection<S, A>;

/// The runtime of async-std: there is one in a program, and the pool's tasks run there.
#[derive(Debug, Clone, Default)]
pub struct AsyncStdRuntime {
    name: Option<Arc<str>>,
}

impl AsyncStdRuntime {
    /// The runtime, whose tasks have no name.
    pub fn current() -> Self {
        Self::default()
    }

    /// Gives the pool's tasks a name, which they find in `async_std::task::current` (rule B11).
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
        // There is one in a process; values differ in the names of their tasks.
        true
    }
}

/// A TCP listener on async-std.
#[derive(Debug)]
pub struct TcpListener {
    listener: async_std::net::TcpListener,
}

impl TcpListener {
    /// Opens a listening socket: [`ListenOptions::bind`] and [`from_std`](Self::from_std) in one.
    ///
    /// # Errors
    ///
    /// Those of both. A [`ListenError`] is [inside](io::Error::get_ref) the error.
    ///
    /// # Panics
    ///
    /// Where async-std does: if the system cannot watch the socket, for example because it watches too many. It cannot be
    /// asked beforehand.
    pub fn bind(options: ListenOptions, runtime: &AsyncStdRuntime) -> io::Result<Self> {
        Self::from_std(options.bind()?, runtime)
    }

    /// Makes a listener of a standard one, for example of [`ListenOptions::bind`] or one that was
    /// inherited; it need not be non-blocking yet.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a TCP socket that listens (rule V4);
    /// and the system's errors.
    ///
    /// # Panics
    ///
    /// Where async-std does: if the system cannot watch the socket, for example because it watches too many. It cannot be
    /// asked beforehand.
    pub fn from_std(
        listener: std::net::TcpListener,
        _runtime: &AsyncStdRuntime,
    ) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        // The conversion does it too, and panics where it fails.
        listener.set_nonblocking(true)?;
        let listener = listener.into();
        Ok(Self { listener })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The standard listener that it was made of, still non-blocking. The connections that wait in its queue stay there.
    ///
    /// # Errors
    ///
    /// The system's.
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

    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a TCP socket that listens (rule V4).
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

    fn asks_local_addr(&self) -> bool {
        acceptor_core::asks_local_addr(&self.listener)
    }
}

/// The code of the readme is compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
