//! The baseline accept loop, on tokio; see `shared/bare.rs`.

use runtime::run;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::spawn;

mod runtime;
#[path = "shared/bare.rs"]
mod shared;

fn main() -> Result<(), shared::session::Error> {
    shared::main()
}
