//! A pool of acceptors on async-executor and async-io: a complete adapter with its conformance tests.

use std::future::{Future, pending};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use acceptor_core::{Listener, NoHandshake, Runtime, check_tcp_listener};
use async_executor::Executor;
use async_io::{Async, Timer, block_on};

/// The executor, with two threads that outlive a panic in a task.
static EXECUTOR: std::sync::LazyLock<Executor<'static>> = std::sync::LazyLock::new(|| {
    for _ in 0..2 {
        let run = || block_on(EXECUTOR.run(pending::<()>()));
        std::thread::spawn(move || while std::panic::catch_unwind(run).is_err() {});
    }
    Executor::new()
});

#[derive(Clone)]
pub struct MyRuntime;

impl Runtime for MyRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        EXECUTOR.spawn(task).detach();
    }

    async fn sleep_until(&self, deadline: std::time::Instant) {
        Timer::at(deadline).await;
    }
}

pub struct MyListener(Async<TcpListener>);

impl MyListener {
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        check_tcp_listener(&listener)?;
        Async::new(listener).map(Self)
    }
}

impl Listener for MyListener {
    type Io = Async<TcpStream>;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }

    fn io_local_addr(io: &Self::Io) -> io::Result<SocketAddr> {
        io.get_ref().local_addr()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

#[cfg(test)]
mod conformance {
    use super::*;

    impl conformance_tests::Harness for MyRuntime {
        type Runtime = MyRuntime;
        type Listener = MyListener;
        type Stream = Async<TcpStream>;

        fn runtime(&self) -> MyRuntime {
            MyRuntime
        }

        fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
            block_on(test);
        }

        fn listener(&self, listener: TcpListener) -> io::Result<MyListener> {
            MyListener::new(listener)
        }

        fn stream(&self, stream: Async<TcpStream>) -> Async<TcpStream> {
            stream
        }
    }

    conformance_tests::suite!(conformance_tests::Real::new(MyRuntime));
}
