//! A handshake for plain streams follows TLS.
//~ `Header` is not a `Handshake<TlsStream,
//~ check their order

use std::net::SocketAddr;

use acceptor_tokio::{Handshake, HandshakeError, Incoming, Listener, TcpListener};
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

#[derive(Clone)]
struct Header;

impl Handshake<TcpStream, SocketAddr> for Header {
    type Stream = TcpStream;

    async fn run(
        &self,
        incoming: Incoming<TcpStream, SocketAddr>,
    ) -> Result<Incoming<TcpStream, SocketAddr>, HandshakeError> {
        Ok(incoming)
    }
}

fn stack(listener: TcpListener) {
    listener.with(Tls).with(Header);
}

fn main() {}
