//! The acceptor, which all connections share, cannot be shared between threads.
//~ Cell<u64>
//~ `Sync`
//~ `Counting`

use std::cell::Cell;
use std::net::SocketAddr;

use acceptor_tokio::{Acceptor, BoxError, Connection, Exit, Init, ListenerInfo, TcpListener};

struct Counting(Cell<u64>);

impl Acceptor<TcpListener> for Counting {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection, _: ()) -> Exit {
        self.0.set(self.0.get() + 1);
        Exit::normal()
    }
}

fn main() {}
