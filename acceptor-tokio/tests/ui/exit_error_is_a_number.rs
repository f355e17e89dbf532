//! `serve` returns a number as its error.
//~ `i32
//~ Result<(), i32>
//~ `IntoExit`

use std::net::SocketAddr;

use acceptor_tokio::{Acceptor, BoxError, Connection, Init, ListenerInfo, TcpListener};

struct Protocol;

impl Acceptor<TcpListener> for Protocol {
    type State = ();
    type Exit = Result<(), i32>;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection, _: ()) -> Result<(), i32> {
        Err(1)
    }
}

fn main() {}
