//! A function serves plain streams, but the listener has TLS.
//~ TlsStream
//~ TcpStream

use std::net::SocketAddr;

use acceptor_tokio::{
    BoxError, Connection, Handshake, HandshakeError, Incoming, Listener, Pool, Spec, TcpListener,
    TokioRuntime, acceptor_fn,
};
use tokio::net::TcpStream;

struct TlsStream(TcpStream);

#[derive(Clone)]
struct Tls;

impl Handshake<TcpStream, SocketAddr> for Tls {
    type Stream = TlsStream;

    async fn run(
        &self,
        incoming: Incoming<TcpStream, SocketAddr>,
    ) -> Result<Incoming<TlsStream, SocketAddr>, HandshakeError> {
        Ok(incoming.map_stream(TlsStream))
    }
}

async fn serve(_: Connection) -> Result<(), BoxError> {
    Ok(())
}

fn start(runtime: TokioRuntime, listener: TcpListener) {
    let pool = Pool::start(runtime, Spec::new("pool", acceptor_fn(serve))).unwrap();
    pool.add_listener(listener.with(Tls), 1).unwrap();
}

fn main() {}
