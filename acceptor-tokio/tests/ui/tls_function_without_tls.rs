//! A function serves TLS streams, but the listener has no TLS.
//~ TlsStream
//~ TcpStream

use acceptor_tokio::{BoxError, Connection, Pool, Spec, TcpListener, TokioRuntime, acceptor_fn};
use tokio::net::TcpStream;

struct TlsStream(TcpStream);

async fn serve(_: Connection<TlsStream>) -> Result<(), BoxError> {
    Ok(())
}

fn start(runtime: TokioRuntime, listener: TcpListener) {
    let pool = Pool::start(runtime, Spec::new("pool", acceptor_fn(serve))).unwrap();
    pool.add_listener(listener, 1).unwrap();
}

fn main() {}
