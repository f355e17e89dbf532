//! A graceful close or stop loses no client that connected before it, on smol.

#[path = "../../../acceptor-tokio/tests/shared/draining.rs"]
mod shared;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::channel;
use std::time::Duration;

use acceptor_smol::{
    Connection, ListenOptions, ListenerId, Pool, SmolRuntime, Spec, TcpListener, acceptor_fn,
};
use futures_lite::future::block_on;
use futures_lite::io::copy;

fn echo_pool(grace: Duration) -> Pool {
    let echo = acceptor_fn(|connection: Connection| async move {
        copy(connection.stream.clone(), connection.stream).await?;
        Ok(())
    });
    Pool::start(SmolRuntime::current(), Spec::new("echo", echo).grace(grace)).unwrap()
}

fn listen(pool: &Pool, acceptors: usize) -> (ListenerId, SocketAddr) {
    let options = ListenOptions::new((Ipv4Addr::LOCALHOST, 0));
    let socket = options.bind().unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, &SmolRuntime::current()).unwrap();
    (pool.add_listener(listener, acceptors).unwrap(), address)
}

/// Waits on a separate thread, so that the test can time out.
fn soon<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, result) = channel();
    std::thread::spawn(move || sender.send(block_on(future)));
    let patience = Duration::from_secs(30);
    result
        .recv_timeout(patience)
        .expect("the future is ready in time")
}
