//! A standard listener is added to a pool with an explicit type.
//~ std::net::TcpListener
//~ acceptor_tokio::TcpListener

use acceptor_tokio::Pool;

fn listen(pool: &Pool, listener: std::net::TcpListener) {
    pool.add_listener(listener, 1).unwrap();
}

fn main() {}
