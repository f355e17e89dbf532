//! The runtime's listener is added to a pool.
//~ a pool cannot accept from `tokio::net::TcpListener`
//~ `TcpListener` of the adapter crate
//~ acceptor_tokio::TcpListener

use acceptor_tokio::{Connection, Pool, Spec, TokioRuntime, acceptor_fn};

fn start(runtime: TokioRuntime, listener: tokio::net::TcpListener) {
    let serve = acceptor_fn(|_: Connection| async { Ok(()) });
    let pool = Pool::start(runtime, Spec::new("pool", serve)).unwrap();
    pool.add_listener(listener, 1).unwrap();
}

fn main() {}
