//! The accept loop to compare with: `accept`, then `spawn`. Echoes until it has served `CONNECTIONS`.
//!
//! Usage: `bare CONNECTIONS`; see `measure.sh` of acceptor-tokio.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smol::Executor;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

static SERVED: AtomicUsize = AtomicUsize::new(0);

fn main() -> std::io::Result<()> {
    let connections = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let Some(connections) = connections else {
        eprintln!("usage: bare CONNECTIONS");
        return Ok(());
    };
    let executor = Arc::new(Executor::new());
    let spawner = Arc::clone(&executor);
    // A task like the others: what `run` is given is polled whenever the executor wakes.
    let server = executor.spawn(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let session = spawner.spawn(async move {
                let _ = echo(stream).await;
                if SERVED.fetch_add(1, Ordering::Relaxed) + 1 == connections {
                    std::process::exit(0);
                }
            });
            session.detach();
        }
    });
    smol::block_on(executor.run(server))
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}
