//! The environment of a check: a runtime, listeners, and clients that connect to them.
//!
//! The rules are written against this trait alone, so real sockets and a simulated network with its own clock are
//! columns of the same matrix.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use acceptor_core::{Listener, Runtime, StreamOf};
use futures::channel::oneshot;
use futures::io::{AsyncRead, AsyncWrite};

use crate::address::Address;
use crate::patience::Patience;
use crate::tamper::Tamper;

/// The environment of a check.
pub trait World: Send + Sync + 'static {
    /// The runtime with which pools are started.
    type Runtime: Runtime;
    /// The listeners of the pools.
    type Listener: Listener;
    /// The stream that `serve` reads and writes.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The clients.
    type Client: Client;

    /// Returns the runtime with which pools are started. Its clock is the world's clock.
    fn runtime(&self) -> Self::Runtime;

    /// Returns the runtime on which listeners are added, if it differs from the pools'. The default is `None`.
    fn listeners_runtime(&self) -> Option<Self::Runtime> {
        None
    }

    /// Runs a test and blocks until it completes. A panic of the test propagates.
    ///
    /// Tasks that the test leaves behind continue, at the latest in the next run.
    fn run(&self, test: impl Future<Output = ()> + Send + 'static);

    /// Converts an address for comparison: two are equal if and only if they are the same address.
    fn address(address: &<Self::Listener as Listener>::Addr) -> Address;

    /// Listens on a free address and returns it.
    ///
    /// # Errors
    ///
    /// The errors of binding.
    fn listen(&self) -> io::Result<(Self::Listener, Address)>;

    /// Listens on this address, and returns it with port 0 resolved.
    ///
    /// The address was returned by [`listen`](World::listen), and its listener may have been closed. In a world of IP
    /// addresses it may also be the loopback or wildcard address of IPv4 or IPv6, with port 0.
    ///
    /// # Errors
    ///
    /// The errors of binding.
    fn listen_on(&self, address: Address) -> io::Result<(Self::Listener, Address)>;

    /// Makes a listener whose `accept` fails because its socket no longer listens, and returns the system's error too.
    ///
    /// # Errors
    ///
    /// The errors of binding.
    fn listen_to_nothing(&self) -> io::Result<(Self::Listener, io::Error)>;

    /// Converts any socket to a listener. The default is `None`: the world has no descriptors.
    fn listen_with(&self, _socket: TcpListener) -> Option<io::Result<Self::Listener>> {
        None
    }

    /// Whether a [`reset`](Client::reset) ends a connection differently from a close. Unix sockets have no resets.
    fn has_resets(&self) -> bool {
        true
    }

    /// Returns the ids of the SHOULD rules that are not met here, each with the reason. A MUST is always checked.
    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Converts a stream that a listener accepts, before its handshake, for reading and writing.
    fn accepted(&self, stream: <Self::Listener as Listener>::Io) -> Self::Stream;

    /// Converts a stream that `serve` gets, after the handshake, for reading and writing.
    fn stream(&self, stream: StreamOf<Self::Listener>) -> Self::Stream;

    /// Connects a client.
    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<Self::Client>> + Send + 'static;

    /// How long checks wait for an event in this world.
    fn patience(&self) -> Patience {
        Patience::expect_from_environment()
    }

    /// Returns the runtime with which checks wait. Only a deliberately wrong world returns another than the pools'.
    #[doc(hidden)]
    fn clock(&self) -> Self::Runtime {
        self.runtime()
    }

    /// Returns how pools started with this runtime misbehave, for deliberately wrong worlds.
    #[doc(hidden)]
    fn tamper(_runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        None
    }
}

/// A world whose addresses are IP addresses.
pub trait IpWorld: World<Listener: Listener<Addr = SocketAddr>> {}

impl<W: World<Listener: Listener<Addr = SocketAddr>>> IpWorld for W {}

/// A client. Dropping it closes the connection without waiting.
///
/// A client does one thing at a time: after a future was dropped before it completed, the client can only be closed.
pub trait Client: Send + Sync + 'static {
    /// Returns the client's address, which is the peer's address for the pool.
    ///
    /// No two clients share an address at the same time, because rules identify connections by it.
    fn local_addr(&self) -> Address;

    /// Sends all of these bytes.
    fn send(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Shuts down the sending direction. The client still receives.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// Receives exactly this many bytes.
    fn receive(&mut self, count: usize) -> impl Future<Output = io::Result<Vec<u8>>> + Send;

    /// Receives a line, without its line feed.
    fn receive_line(&mut self) -> impl Future<Output = io::Result<String>> + Send;

    /// Waits until the other side has closed or reset the connection, and discards what it still sends.
    fn closed(&mut self) -> impl Future<Output = Closed> + Send;

    /// Closes the connection. Completes when it is closed.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// Resets the connection. Completes when it is reset.
    fn reset(self) -> impl Future<Output = ()> + Send;
}

/// How the other side ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// By an end of stream.
    EndOfStream,
    /// By a reset, or by the error that the system reports for one.
    Reset,
}

/// Runs a check in a world and returns its result.
///
/// # Panics
///
/// If the world's runtime drops the check before it completes, and with the check's own panic.
pub fn run_in<W: World, T: Send + 'static>(
    world: &Arc<W>,
    check: impl Future<Output = T> + Send + 'static,
) -> T {
    let (sender, receiver) = oneshot::channel();
    world.run(async move {
        let _ = sender.send(check.await);
    });
    futures::FutureExt::now_or_never(receiver)
        .and_then(Result::ok)
        .expect("`run` returns only when the test has completed")
}
