//! The suite on async-std, which is discontinued but still in use.

use std::future::Future;
use std::io;
use std::net;

use acceptor_async_std::{AsyncStdRuntime, TcpListener};
use async_std::net::TcpStream;

use conformance_tests::Harness;

/// The runtime of async-std, of which each process has one.
#[derive(Debug, Clone, Copy)]
pub struct AsyncStd;

impl Harness for AsyncStd {
    type Runtime = AsyncStdRuntime;
    type Listener = TcpListener;
    type Stream = TcpStream;

    fn runtime(&self) -> AsyncStdRuntime {
        AsyncStdRuntime::current()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        async_std::task::block_on(test);
    }

    fn listener(&self, listener: net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_std(listener, &self.runtime())
    }

    fn stream(&self, stream: TcpStream) -> TcpStream {
        stream
    }
}
