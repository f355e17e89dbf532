//! `serve` keeps an `Rc` across an `await`.
//~ `serve`
//~ `peer`
//~ Rc<
//~ `Send`

use std::net::SocketAddr;
use std::rc::Rc;

use acceptor_tokio::{Acceptor, BoxError, Connection, Exit, Init, ListenerInfo, TcpListener};

struct Protocol;

impl Acceptor<TcpListener> for Protocol {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection, _: ()) -> Exit {
        let peer = Rc::new(connection.peer_addr);
        tokio::task::yield_now().await;
        println!("{peer}");
        Exit::normal()
    }
}

fn main() {}
