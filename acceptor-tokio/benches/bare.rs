//! The accept loop to compare with: `accept`, then `tokio::spawn`. Echoes until it has served `CONNECTIONS`.
//!
//! Usage: `bare CONNECTIONS BUFFER`; see `measure.sh`.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

static SERVED: AtomicUsize = AtomicUsize::new(0);

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().flat_map(|n| n.parse()).collect();
    match numbers.as_slice() {
        [connections, 64] => serve::<64>(*connections),
        [connections, 1024] => serve::<1024>(*connections),
        _ => {
            eprintln!("usage: bare CONNECTIONS BUFFER, which is 64 or 1024");
            Ok(())
        }
    }
}

fn serve<const BUFFER: usize>(connections: usize) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let _ = echo::<BUFFER>(stream).await;
                if SERVED.fetch_add(1, Ordering::Relaxed) + 1 == connections {
                    std::process::exit(0);
                }
            });
        }
    })
}

async fn echo<const BUFFER: usize>(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}
