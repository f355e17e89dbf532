//! The same server as `bare`, in a pool on tokio; see `shared/pool.rs`.

use acceptor_tokio::{self as adapter, TokioRuntime as Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod runtime;
#[path = "shared/pool.rs"]
mod shared;

fn main() -> Result<(), adapter::BoxError> {
    runtime::run(async {
        shared::start(Runtime::current()?)?.join().await;
        Ok(())
    })
}
