//! The same server as `bare`, in a pool with everything switched on.
//!
//! Usage: `pool CONNECTIONS BUFFER ACCEPTORS [ADDRESS]`; see `measure.sh` of acceptor-tokio, which sets `ASYNC_STD_THREAD_COUNT=1`.

use std::sync::atomic::{AtomicUsize, Ordering};

use acceptor_async_std::{
    AsyncStdRuntime, Connection, ListenOptions, Pool, Spec, TcpListener, acceptor_fn, observer_fn,
};
use async_std::io::{ReadExt, WriteExt};
use async_std::net::TcpStream;

static SERVED: AtomicUsize = AtomicUsize::new(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().flat_map(|n| n.parse()).collect();
    let address = arguments.get(3).map_or("127.0.0.1:0", String::as_str);
    match numbers.as_slice() {
        [connections, 64, acceptors] => serve::<64>(*connections, *acceptors, address),
        [connections, 1024, acceptors] => serve::<1024>(*connections, *acceptors, address),
        _ => {
            eprintln!(
                "usage: pool CONNECTIONS BUFFER ACCEPTORS [ADDRESS], with a BUFFER of 64 or 1024"
            );
            Ok(())
        }
    }
}

fn serve<const BUFFER: usize>(
    connections: usize,
    acceptors: usize,
    address: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let acceptor = acceptor_fn(move |connection: Connection| async move {
        let _ = echo::<BUFFER>(connection.stream).await;
        if SERVED.fetch_add(1, Ordering::Relaxed) + 1 == connections {
            std::process::exit(0);
        }
        Ok(())
    });
    let spec = Spec::new("bench", acceptor).observer(observer_fn(
        |report: &acceptor_async_std::Report| {
            eprintln!("{report}");
        },
    ));
    let pool = Pool::start(AsyncStdRuntime::current(), spec)?;
    let socket = ListenOptions::new(address).bind()?;
    println!("127.0.0.1:{}", socket.local_addr()?.port());
    pool.add_listener(
        TcpListener::from_std(socket, &AsyncStdRuntime::current())?,
        acceptors,
    )?;
    async_std::task::block_on(pool.join());
    Ok(())
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
