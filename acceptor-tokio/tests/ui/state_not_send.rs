//! The state is not `Send`.
//~ Rc<str>
//~ `Send`
//~ State

use std::net::SocketAddr;
use std::rc::Rc;

use acceptor_tokio::{Acceptor, BoxError, Connection, Exit, Init, ListenerInfo, TcpListener};

struct Protocol;

impl Acceptor<TcpListener> for Protocol {
    type State = Rc<str>;
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<Rc<str>>, BoxError> {
        Ok(Init::Accept("hello".into()))
    }

    async fn serve(&self, _: Connection, _: Rc<str>) -> Exit {
        Exit::normal()
    }
}

fn main() {}
