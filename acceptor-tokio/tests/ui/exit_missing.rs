//! An acceptor does not define its `Exit`.
//~ `Exit`

use std::net::SocketAddr;

use acceptor_tokio::{Acceptor, BoxError, Connection, Init, ListenerInfo, TcpListener};

struct Protocol;

impl Acceptor<TcpListener> for Protocol {
    type State = ();

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection, _: ()) -> Result<(), BoxError> {
        Ok(())
    }
}

fn main() {}
