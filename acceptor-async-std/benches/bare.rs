//! The baseline accept loop, on async-std; see `shared/bare.rs` of acceptor-tokio.

use async_std::io::{ReadExt as AsyncReadExt, WriteExt as AsyncWriteExt};
use async_std::net::{TcpListener, TcpStream};
use async_std::task::{block_on, spawn};
use shared::session::Error;

#[path = "../../acceptor-tokio/benches/shared/bare.rs"]
mod shared;

fn main() -> Result<(), Error> {
    shared::main()
}

/// Spawns a task, because the main thread is not part of the executor.
fn run(server: impl Future<Output = Result<(), Error>> + Send + 'static) -> Result<(), Error> {
    block_on(spawn(server))
}
