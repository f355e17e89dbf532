//! A graceful close or stop loses no client that connected before it, on tokio.
//!
//! A program of its own: a close accepts queued clients for a second at most, which other tests must not use up.
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

#[path = "shared/draining.rs"]
mod shared;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use acceptor_tokio::{
    Connection, ListenOptions, ListenerId, Pool, Spec, TcpListener, TokioRuntime, acceptor_fn,
};
use tokio::runtime::Runtime;

/// The pool's runtime; the tests run on other threads.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

fn runtime() -> TokioRuntime {
    TokioRuntime::from_handle(RUNTIME.handle().clone())
}

fn echo_pool(grace: Duration) -> Pool {
    let echo = acceptor_fn(|mut connection: Connection| async move {
        let (mut read, mut write) = connection.stream.split();
        tokio::io::copy(&mut read, &mut write).await?;
        Ok(())
    });
    Pool::start(runtime(), Spec::new("echo", echo).grace(grace)).unwrap()
}

fn listen(pool: &Pool, acceptors: usize) -> (ListenerId, SocketAddr) {
    let options = ListenOptions::new((Ipv4Addr::LOCALHOST, 0));
    let socket = options.bind().unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, &runtime()).unwrap();
    (pool.add_listener(listener, acceptors).unwrap(), address)
}

fn soon<T>(future: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(30);
    let done = async { tokio::time::timeout(patience, future).await };
    RUNTIME.block_on(done).expect("the future is ready in time")
}
