//! The same server as `bare`, in a pool with everything switched on.
//!
//! Usage: `pool CONNECTIONS BUFFER ACCEPTORS [ADDRESS]`; see `measure.sh`, and `settings` for the environment.

mod settings;

use acceptor_tokio::{
    Connection, ListenOptions, Pool, Spec, TcpListener, TokioRuntime, acceptor_fn, observer_fn,
};
use settings::Count;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    let count = Count::new(connections);
    settings::runtime()?.block_on(async move {
        let runtime = TokioRuntime::current()?;
        let acceptor = acceptor_fn(move |connection: Connection| async move {
            let _ = echo::<BUFFER>(connection.stream).await;
            count.served();
            Ok(())
        });
        let spec = Spec::new("bench", acceptor).observer(observer_fn(
            |report: &acceptor_tokio::Report| {
                eprintln!("{report}");
            },
        ));
        let pool = Pool::start(runtime.clone(), spec)?;
        let socket = ListenOptions::new(address).bind()?;
        let first = socket.local_addr()?;
        for further in settings::further_listeners(first) {
            let socket = ListenOptions::new(further).bind()?;
            pool.add_listener(TcpListener::from_std(socket, &runtime)?, acceptors)?;
        }
        println!("127.0.0.1:{}", first.port());
        pool.add_listener(TcpListener::from_std(socket, &runtime)?, acceptors)?;
        pool.join().await;
        Ok(())
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
