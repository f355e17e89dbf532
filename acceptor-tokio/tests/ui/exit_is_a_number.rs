//! `serve` returns a number.
//~ `serve` cannot return `i32`
//~ return `()`, `Exit`, or `Result<(), E>`

use std::net::SocketAddr;

use acceptor_tokio::{Acceptor, BoxError, Connection, Init, ListenerInfo, TcpListener};

struct Protocol;

impl Acceptor<TcpListener> for Protocol {
    type State = ();
    type Exit = i32;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection, _: ()) -> i32 {
        0
    }
}

fn main() {}
