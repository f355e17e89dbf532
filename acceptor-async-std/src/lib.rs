//! A supervised pool of acceptors for existing programs on [async-std](https://docs.rs/async-std).
//! **async-std is discontinued: use smol, and with it
//! [`acceptor-smol`](https://docs.rs/acceptor-smol), instead.** This crate is for programs that
//! are on async-std already.
//!
//! Everything of [`acceptor_core`] is re-exported here, so this is the one crate
//! to add; [`Pool`], [`PoolHandle`] and [`Connection`] are the core's, for async-std's TCP listener unless another is named.
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
//! let pool = Pool::start(AsyncStdRuntime::new(), Spec::new("greeter", greet))?;
//! let socket = ListenOptions::new("127.0.0.1:0").bind()?;
//! let address = socket.local_addr()?;
//! pool.add_listener(TcpListener::from_std(socket)?, 10)?;
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
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Instant;

pub use acceptor_core::*;
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
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the pool's tasks a name, which they find in `async_std::task::current` (rule B11).
    ///
    /// ```
    /// use acceptor_async_std::{AsyncStdRuntime, Runtime};
    ///
    /// let (sender, names) = std::sync::mpsc::channel();
    /// AsyncStdRuntime::new().named("echo").spawn(async move {
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
}

/// A TCP listener on async-std.
#[derive(Debug)]
pub struct TcpListener {
    listener: async_std::net::TcpListener,
}

impl TcpListener {
    /// Makes a listener of a standard one, for example of [`ListenOptions::bind`] or one that was
    /// inherited; it need not be non-blocking yet.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a TCP socket that listens (rule V4);
    /// and the system's errors.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        // The conversion panics where it fails.
        listener.set_nonblocking(true)?;
        let made = catch_unwind(|| listener.into());
        let listener = made.map_err(|panic| {
            let message = panic.downcast_ref::<String>().map_or("", String::as_str);
            io::Error::other(format!(
                "async-std cannot wait for this listener: {message}"
            ))
        })?;
        Ok(Self { listener })
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
