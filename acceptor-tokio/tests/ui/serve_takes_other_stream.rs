//! `serve` takes a TLS stream in an impl for the listener without TLS.
//~ `serve`
//~ TlsStream
//~ TcpStream

use std::net::SocketAddr;

use acceptor_tokio::{Acceptor, BoxError, Connection, Exit, Init, ListenerInfo, TcpListener};
use tokio::net::TcpStream;

struct TlsStream(TcpStream);

struct Protocol;

impl Acceptor<TcpListener> for Protocol {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection<TlsStream>, _: ()) -> Exit {
        Exit::normal()
    }
}

fn main() {}
