//! The same server as `bare`, in a pool on smol; see `shared/pool.rs` of acceptor-tokio.

use std::sync::Arc;

use acceptor_smol::{self as adapter, SmolRuntime as Runtime};
use smol::Executor;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;

#[path = "../../acceptor-tokio/benches/shared/pool.rs"]
mod shared;

fn main() -> Result<(), adapter::BoxError> {
    let executor = Arc::new(Executor::new());
    let pool = shared::start(Runtime::with_executor(Arc::clone(&executor)))?;
    smol::block_on(executor.run(pool.join()));
    Ok(())
}
