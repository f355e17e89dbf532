//! A pool on this runtime; `nc 127.0.0.1 7000` shows its greeting.

use std::net::{SocketAddr, TcpStream};

use acceptor_core::{BoxError, Connection, ListenOptions, Pool, Spec, acceptor_fn};
use async_io::{Async, block_on};
use custom_runtime::{MyListener, MyRuntime};
use futures_lite::AsyncWriteExt;

async fn hello(mut connection: Connection<Async<TcpStream>, SocketAddr>) -> Result<(), BoxError> {
    let greeting = format!("hello, {}\n", connection.peer_addr);
    connection.stream.write_all(greeting.as_bytes()).await?;
    Ok(())
}

fn main() -> Result<(), BoxError> {
    let pool = Pool::start(MyRuntime, Spec::new("hello", acceptor_fn(hello)))?;
    let socket = ListenOptions::new("127.0.0.1:7000").bind()?;
    pool.add_listener(MyListener::new(socket)?, 10)?;
    println!("{}", block_on(pool.join()));
    Ok(())
}
