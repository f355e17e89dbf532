//! The baseline accept loop, on smol; see `shared/bare.rs` of acceptor-tokio.

use shared::session::Error;
use smol::Executor;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

#[path = "../../acceptor-tokio/benches/shared/bare.rs"]
mod shared;

static EXECUTOR: Executor<'static> = Executor::new();

fn main() -> Result<(), Error> {
    shared::main()
}

fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) {
    EXECUTOR.spawn(task).detach();
}

/// Spawns a task like the others: the future passed to the executor's `run` is polled whenever the executor wakes.
fn run(server: impl Future<Output = Result<(), Error>> + Send + 'static) -> Result<(), Error> {
    smol::block_on(EXECUTOR.run(EXECUTOR.spawn(server)))
}
