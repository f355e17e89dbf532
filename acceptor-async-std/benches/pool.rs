//! The same server as `bare`, in a pool on async-std; see `shared/pool.rs` of acceptor-tokio.

use acceptor_async_std::{self as adapter, AsyncStdRuntime as Runtime};
use async_std::io::{ReadExt as AsyncReadExt, WriteExt as AsyncWriteExt};
use async_std::net::TcpStream;

#[path = "../../acceptor-tokio/benches/shared/pool.rs"]
mod shared;

fn main() -> Result<(), adapter::BoxError> {
    async_std::task::block_on(shared::start(Runtime::current())?.join());
    Ok(())
}
