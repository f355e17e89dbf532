//! A pool on a custom listener: a Unix socket. Echoes what its clients send.
//!
//! ```console
//! $ cargo run -p acceptor-tokio --example unix -- /tmp/echo.sock
//! ```

#[cfg(unix)]
pub(crate) mod unix {
    use std::fs;
    use std::io::{self, ErrorKind};
    use std::path::{Path, PathBuf};

    use acceptor_tokio::{AcceptErrorKind, Listener, NoHandshake, Refusal, refuse_stream};
    use tokio::net::unix::SocketAddr;
    use tokio::net::{UnixListener, UnixStream};

    /// A listening Unix socket, which removes its file when it closes.
    pub(crate) struct UnixSocket {
        listener: UnixListener,
        path: PathBuf,
    }

    impl UnixSocket {
        /// Creates the socket, on the runtime in which this is called.
        ///
        /// Replaces the file of a server that no longer runs, such as one that was killed.
        pub(crate) fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
            let path = path.as_ref().to_owned();
            let listener = match UnixListener::bind(&path) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_behind(&path) => {
                    fs::remove_file(&path)?;
                    UnixListener::bind(&path)?
                }
                bound => bound?,
            };
            Ok(Self { listener, path })
        }
    }

    /// Whether no server listens at this path.
    fn is_left_behind(path: &Path) -> bool {
        let connected = std::os::unix::net::UnixStream::connect(path);
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }

    /// The path can be bound again once the socket is closed, as the pool guarantees (L8).
    impl Drop for UnixSocket {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    impl Listener for UnixSocket {
        type Io = UnixStream;
        type Addr = SocketAddr;
        type Handshake = NoHandshake;

        async fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
            self.listener.accept().await
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            self.listener.local_addr()
        }

        fn io_local_addr(stream: &UnixStream) -> io::Result<SocketAddr> {
            stream.local_addr()
        }

        fn handshake(&self) -> NoHandshake {
            NoHandshake
        }

        fn refuse(stream: UnixStream, how: &Refusal) {
            refuse_stream(&stream, how);
        }

        /// Each connection has the listener's address.
        fn asks_local_addr(&self) -> bool {
            false
        }

        /// A socket whose runtime has shut down never accepts again.
        fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
            tokio::runtime::is_rt_shutdown_err(error).then_some(AcceptErrorKind::Listener)
        }
    }
}

#[cfg(unix)]
#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(unix)]
async fn run() -> Result<(), acceptor_tokio::BoxError> {
    use std::path::PathBuf;
    use std::time::Duration;

    use acceptor_tokio::{Connection, LastListener, Pool, Spec, TokioRuntime, acceptor_fn};
    use tokio::net::{UnixStream, unix::SocketAddr};
    use tokio::signal::unix::{SignalKind, signal};

    let path = std::env::args_os().nth(1);
    let path = path.ok_or("give the path of the socket, such as /tmp/echo.sock")?;
    let path = PathBuf::from(path);
    let echo = acceptor_fn(
        |mut connection: Connection<UnixStream, SocketAddr>| async move {
            let (mut reader, mut writer) = connection.stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            Ok(())
        },
    );
    let spec = Spec::new("unix", echo)
        .grace(Duration::from_secs(5))
        .last_listener(LastListener::Stop);
    let pool: Pool<unix::UnixSocket> = Pool::start(TokioRuntime::current()?, spec)?;
    let socket = unix::UnixSocket::bind(&path);
    let socket = socket.map_err(|error| format!("cannot bind {}: {error}", path.display()))?;
    pool.add_listener(socket, 4)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("listening on {}", path.display());
    let told = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let report = pool.run_until(told).await;
    println!("{report}");
    if report.stuck > 0 {
        // A thread is blocked, and returning would wait for it.
        std::process::exit(2);
    }
    Ok(())
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this platform has no Unix sockets");
}
