//! The baseline accept loop: `accept`, then `spawn`. Echoes until it has served `CONNECTIONS`.
//!
//! Usage: `bare CONNECTIONS BUFFER`; see `measure.sh`, and `session.rs` for the environment. The program of each runtime includes this
//! file, and defines how to `spawn` a task and how to `run` the server.

pub(crate) mod session;

use session::{Count, Error, arguments, echo, further_listeners, numbers};

use crate::{TcpListener, run, spawn};

pub(crate) fn main() -> Result<(), Error> {
    match numbers(&arguments())[..] {
        [connections, 64] => run(serve::<64>(Count::new(connections))),
        [connections, 1024] => run(serve::<1024>(Count::new(connections))),
        _ => Err("usage: bare CONNECTIONS BUFFER, with a BUFFER of 64 or 1024".into()),
    }
}

async fn serve<const BUFFER: usize>(count: Count) -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    for further in further_listeners(address) {
        spawn(accept::<BUFFER>(TcpListener::bind(further).await?, count));
    }
    println!("{address}");
    accept::<BUFFER>(listener, count).await
}

async fn accept<const BUFFER: usize>(listener: TcpListener, count: Count) -> Result<(), Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        spawn(async move {
            let _ = echo::<BUFFER>(stream).await;
            count.served();
        });
    }
}
