//! An acceptor is implemented for the runtime's listener.
//~ a pool cannot accept from `tokio::net::TcpListener`
//~ `TcpListener` of the adapter crate
//~ acceptor_tokio::TcpListener

use std::net::SocketAddr;

use acceptor_tokio::{Acceptor, BoxError, Connection, Exit, Init, ListenerInfo};
use tokio::net::TcpListener;

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

fn main() {}
