//! An acceptor is implemented for the listener without TLS, but the pool's listeners have TLS.
//~ `Protocol` is not an `Acceptor<With<
//~ Acceptor<acceptor_tokio::TcpListener>
//~ `serve` gets the stream of the handshake

use std::net::SocketAddr;

use acceptor_tokio::{
    Acceptor, BoxError, Connection, Exit, Handshake, HandshakeError, Incoming, Init, ListenerInfo,
    Pool, Spec, TcpListener, WaitingAcceptors, With,
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

struct Protocol;

impl Acceptor<TcpListener> for Protocol {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection, _: ()) -> Exit {
        Exit::normal()
    }
}

fn change(pool: &Pool<With<TcpListener, Tls>>) {
    let spec = Spec::new("pool", Protocol);
    pool.reconfigure(spec, WaitingAcceptors::Keep).unwrap();
}

fn main() {}
