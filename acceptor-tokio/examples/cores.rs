//! One pool over all cores, each with its own thread, runtime and listener. Echoes what its clients send.
//!
//! ```console
//! $ cargo run -p acceptor-tokio --example cores -- 127.0.0.1:8080
//! ```
//!
//! The listeners share one address (`SO_REUSEPORT`), and the system spreads the clients over them. A connection stays on its
//! listener's thread; the pool counts, lists and stops them as one. Not on systems that have no `SO_REUSEPORT`.

use std::io;
use std::net::SocketAddr;
use std::process::{self, ExitCode};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use acceptor_tokio::{
    BoxError, Connection, ListenOptions, Pool, Spec, TcpListener, TokioRuntime, acceptor_from,
};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// A thread with its own runtime.
pub(crate) struct Core {
    runtime: TokioRuntime,
    /// The thread runs until this is dropped.
    running: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Core {
    pub(crate) fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(format!("core-{number}"))
            .spawn(move || {
                let _ = runtime.block_on(ended);
            })?;
        Ok(Self {
            runtime: TokioRuntime::from_handle(handle),
            running,
            thread,
        })
    }

    /// Shuts the runtime down, and drops the tasks that still run there. Stop the pool first.
    pub(crate) fn end(self) {
        drop(self.running);
        let _ = self.thread.join();
    }
}

/// Adds a listener on each core. All share one address, which is returned: with port 0 the first one determines the port.
pub(crate) fn listen(
    pool: &Pool,
    cores: &[Core],
    mut address: SocketAddr,
) -> Result<SocketAddr, BoxError> {
    for core in cores {
        let socket = ListenOptions::new(address).reuse_port(true).bind()?;
        address = socket.local_addr()?;
        let listener = TcpListener::from_std(socket, &core.runtime)?;
        pool.add_listener_on(&core.runtime, listener, 4)?;
    }
    Ok(address)
}

pub(crate) async fn echo(mut connection: Connection) -> io::Result<()> {
    let (mut reader, mut writer) = connection.stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(())
}

/// The pool's own tasks run on the main thread, and have little to do.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The address in the arguments.
pub(crate) fn address(mut arguments: impl Iterator<Item = String>) -> Result<SocketAddr, BoxError> {
    const EXAMPLE: &str = "give the address to listen on, such as 127.0.0.1:8080";
    let argument = arguments.next().ok_or(EXAMPLE)?;
    let address = argument.parse();
    address.map_err(|_| format!("{argument:?} is not an address: {EXAMPLE}").into())
}

async fn run() -> Result<(), BoxError> {
    let address = address(std::env::args().skip(1))?;
    let spec = Spec::new("cores", acceptor_from(echo)).grace(Duration::from_secs(5));
    let pool: Pool = Pool::start(TokioRuntime::current()?, spec)?;
    let count = thread::available_parallelism()?.get();
    let cores = (0..count).map(Core::start).collect::<Result<Vec<_>, _>>()?;
    let address = listen(&pool, &cores, address)?;
    println!("listening on {address} with {count} threads");
    let report = pool.run_until(tokio::signal::ctrl_c()).await;
    println!("{report}");
    if report.stuck > 0 {
        // A thread is blocked, and joining it would wait.
        process::exit(2);
    }
    cores.into_iter().for_each(Core::end);
    Ok(())
}
