//! The suite with a pool on one runtime and its listeners on another.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StandardListener};

use acceptor_tokio::{TcpListener, TokioRuntime};
use conformance_tests::{Address, Harness, Real, SocketClient, World};
use tokio::net::TcpStream;
use tokio_util::compat::Compat;

use super::tokio::Tokio;

/// A pool on a single-threaded tokio runtime, whose listeners are on another one with two threads.
#[derive(Debug)]
pub struct Apart {
    pool: Tokio,
    listeners: Real<Tokio>,
}

impl Default for Apart {
    fn default() -> Self {
        Self {
            pool: Tokio::current_thread(),
            listeners: Real::new(Tokio::multi_thread()),
        }
    }
}

impl World for Apart {
    type Runtime = TokioRuntime;
    type Listener = TcpListener;
    type Stream = Compat<TcpStream>;
    type Client = SocketClient;

    fn runtime(&self) -> TokioRuntime {
        self.pool.runtime()
    }

    fn listeners_runtime(&self) -> Option<TokioRuntime> {
        Some(self.listeners.runtime())
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.pool.run(test);
    }

    fn address(address: &SocketAddr) -> Address {
        Address::from(*address)
    }

    fn listen(&self) -> io::Result<(TcpListener, Address)> {
        self.listeners.listen()
    }

    fn listen_on(&self, address: Address) -> io::Result<(TcpListener, Address)> {
        self.listeners.listen_on(address)
    }

    fn listen_to_nothing(&self) -> io::Result<(TcpListener, io::Error)> {
        self.listeners.listen_to_nothing()
    }

    fn listen_with(&self, socket: StandardListener) -> Option<io::Result<TcpListener>> {
        self.listeners.listen_with(socket)
    }

    fn accepted(&self, stream: TcpStream) -> Compat<TcpStream> {
        self.listeners.accepted(stream)
    }

    fn stream(&self, stream: TcpStream) -> Compat<TcpStream> {
        World::stream(&self.listeners, stream)
    }

    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<SocketClient>> + Send + 'static {
        self.listeners.connect(address)
    }
}
