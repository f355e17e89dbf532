//! A supervised pool of acceptors for [smol](https://docs.rs/smol).
//!
//! Everything of [`acceptor_core`] is re-exported here, so this is the one crate
//! to add; [`Pool`], [`PoolHandle`] and [`Connection`] are the core's, for smol's TCP listener unless another is named.
//!
//! A letter and a number, as in (L4), name a rule that pools keep, *section 2* is a section of the rules. The package
//! `conformance-tests` has them all, in its file `RULES.md`, and a test for each.
//!
//! ```
//! use acceptor_smol::{ListenOptions, Pool, SmolRuntime, Spec, TcpListener, acceptor_fn};
//! use smol::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # smol::block_on(async {
//! let greet = acceptor_fn(|mut connection: acceptor_smol::Connection| async move {
//!     connection.stream.write_all(b"hello\n").await?;
//!     Ok(())
//! });
//! let runtime = SmolRuntime::current();
//! let pool = Pool::start(runtime.clone(), Spec::new("greeter", greet))?;
//! let listener = TcpListener::bind(ListenOptions::new("127.0.0.1:0"), &runtime)?;
//! let address = listener.local_addr()?;
//! pool.add_listener(listener, 10)?;
//!
//! let mut greeting = String::new();
//! let mut client = smol::net::TcpStream::connect(address).await?;
//! client.read_to_string(&mut greeting).await?;
//! assert_eq!(greeting, "hello\n");
//!
//! let report = pool.stop().await;
//! assert_eq!(report.stuck, 0);
//! # Ok(())
//! # })
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
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
use smol::Executor;

/// A pool on smol.
pub type Pool<L = TcpListener> = acceptor_core::Pool<SmolRuntime, L>;
/// A handle of a pool on smol.
pub type PoolHandle<L = TcpListener> = acceptor_core::PoolHandle<SmolRuntime, L>;
/// A connection, over TCP on smol unless another stream is named.
pub type Connection<S = smol::net::TcpStream, A = SocketAddr> = acceptor_core::Connection<S, A>;

/// An executor of smol: the pool's tasks run there, wherever the pool is called from (rule B11).
#[derive(Clone)]
pub struct SmolRuntime {
    executor: Where,
}

#[derive(Clone)]
enum Where {
    Global,
    /// Weak, because the pool's tasks have this value: otherwise an executor that its owner has
    /// dropped would be kept by the tasks that it keeps.
    Given(Weak<Executor<'static>>),
}

impl SmolRuntime {
    /// The global executor, that of `smol::spawn`: one thread, or as many as `SMOL_THREADS` says.
    pub fn current() -> Self {
        let executor = Where::Global;
        Self { executor }
    }

    /// An executor of your own, on the threads that run it.
    ///
    /// The pool does not keep it: once you have dropped it, its tasks are dropped, and a pool
    /// that was not stopped is killed as a whole.
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
#[derive(Debug)]
pub struct TcpListener {
    listener: smol::net::TcpListener,
}

impl TcpListener {
    /// Opens a listening socket: [`ListenOptions::bind`] and [`from_std`](Self::from_std) in one.
    ///
    /// # Errors
    ///
    /// Those of both. A [`ListenError`] is [inside](io::Error::get_ref) the error.
    pub fn bind(options: ListenOptions, runtime: &SmolRuntime) -> io::Result<Self> {
        Self::from_std(options.bind()?, runtime)
    }

    /// Makes a listener of a standard one, for example of [`ListenOptions::bind`] or one that was
    /// inherited; it need not be non-blocking yet. The reactor that drives it is the same for all executors of smol.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a TCP socket that listens (rule V4);
    /// and the system's errors.
    pub fn from_std(listener: std::net::TcpListener, _runtime: &SmolRuntime) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        let listener = listener.try_into()?;
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
        let listener: Arc<smol::Async<std::net::TcpListener>> = self.listener.into();
        match Arc::try_unwrap(listener) {
            Ok(only) => only.into_inner(),
            // It was cloned before it came here.
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

    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a TCP socket that listens (rule V4).
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

    fn asks_local_addr(&self) -> bool {
        acceptor_core::asks_local_addr(&self.listener)
    }
}

/// The code of the readme is compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
