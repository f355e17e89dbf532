//! The accept loop to compare with: `accept`, then `tokio::spawn`. Echoes until it has served `CONNECTIONS`.
//!
//! Usage: `bare CONNECTIONS BUFFER`; see `measure.sh`, and `settings` for the environment.

mod settings;

use settings::Count;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
    let count = Count::new(connections);
    settings::runtime()?.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        for further in settings::further_listeners(address) {
            let listener = TcpListener::bind(further).await?;
            tokio::spawn(accept::<BUFFER>(listener, count));
        }
        println!("{address}");
        if settings::workers() == 0 {
            return accept::<BUFFER>(listener, count).await;
        }
        // The main thread is none of those that serve.
        let accepts = tokio::spawn(accept::<BUFFER>(listener, count));
        accepts.await.map_err(std::io::Error::other)?
    })
}

async fn accept<const BUFFER: usize>(listener: TcpListener, count: Count) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let _ = echo::<BUFFER>(stream).await;
            count.served();
        });
    }
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
