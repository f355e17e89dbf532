//! Where a test plays: a runtime, listeners, and clients that connect to them.
//!
//! The suite knows only this, so that a world of real sockets and a simulated
//! one with a clock of its own are two columns of the same matrix.

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

/// Where a test plays.
pub trait World: Send + Sync + 'static {
    /// The runtime that pools are started with.
    type Runtime: Runtime;
    /// What pools listen with.
    type Listener: Listener;
    /// What `serve` reads and writes.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Who connects.
    type Client: Client;

    /// The runtime that pools are started with; its clock is this world's.
    fn runtime(&self) -> Self::Runtime;

    /// The runtime that listeners are added on, where it is another than the pools'. `None`, unless overridden.
    fn listeners_runtime(&self) -> Option<Self::Runtime> {
        None
    }

    /// Runs a test, and blocks until it is done. A panic of the test passes through.
    ///
    /// Tasks that the test leaves behind go on, in the next run at the latest.
    fn run(&self, test: impl Future<Output = ()> + Send + 'static);

    /// An address as the rules compare it. Two are equal if, and only if, they are the same.
    fn address(address: &<Self::Listener as Listener>::Addr) -> Address;

    /// Listens on an address that is free, and returns it.
    ///
    /// # Errors
    ///
    /// What binding says.
    fn listen(&self) -> io::Result<(Self::Listener, Address)>;

    /// Listens on this address; port 0 is resolved in the one that is returned.
    ///
    /// It is one that [`listen`](World::listen) returned, whose listener may be closed by now. If that is an address of IP, it is
    /// also the loopback or the wildcard of IPv4 or of IPv6, with port 0.
    ///
    /// # Errors
    ///
    /// What binding says.
    fn listen_on(&self, address: Address) -> io::Result<(Self::Listener, Address)>;

    /// A listener whose `accept` fails because its socket no longer listens; and the system's error.
    ///
    /// # Errors
    ///
    /// What binding says.
    fn listen_to_nothing(&self) -> io::Result<(Self::Listener, io::Error)>;

    /// Makes a listener of a socket, whatever the socket is. `None` in a world without descriptors, which is the default.
    fn listen_with(&self, _socket: TcpListener) -> Option<io::Result<Self::Listener>> {
        None
    }

    /// Whether a [`reset`](Client::reset) is another end of a connection than closing it is. Unix sockets have none.
    fn has_resets(&self) -> bool {
        true
    }

    /// The rules of level SHOULD that are left unmet here, by id, and why. A MUST is checked in any case.
    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Makes what a listener accepts readable and writable, without its handshake.
    fn accepted(&self, stream: <Self::Listener as Listener>::Io) -> Self::Stream;

    /// Makes what `serve` gets readable and writable: what a listener accepts, once its handshake is through.
    fn stream(&self, stream: StreamOf<Self::Listener>) -> Self::Stream;

    /// Connects a client.
    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<Self::Client>> + Send + 'static;

    /// How long tests wait in this world.
    fn patience(&self) -> Patience {
        Patience::of_environment()
    }

    /// The runtime that tests themselves wait with. Another than the pools' only where that is wrong on purpose.
    #[doc(hidden)]
    fn clock(&self) -> Self::Runtime {
        self.runtime()
    }

    /// What pools that are started with this runtime do otherwise, on purpose.
    #[doc(hidden)]
    fn tamper(_runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        None
    }
}

/// A world whose addresses are those of IP.
pub trait IpWorld: World<Listener: Listener<Addr = SocketAddr>> {}

impl<W: World<Listener: Listener<Addr = SocketAddr>>> IpWorld for W {}

/// Who connects. Dropping it closes the connection without waiting for anything.
///
/// A client does one thing at a time: when a future is dropped before it is
/// done the client is only good for closing.
pub trait Client: Send + Sync + 'static {
    /// The client's end of the connection: what the pool calls the peer's address.
    ///
    /// No other client has the same at the same time: rules tell connections apart by it.
    fn local_addr(&self) -> Address;

    /// Sends all of this.
    fn send(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Ends what it sends; it still receives.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// Receives exactly so many bytes.
    fn receive(&mut self, count: usize) -> impl Future<Output = io::Result<Vec<u8>>> + Send;

    /// Receives up to the next line feed, which is left away.
    fn receive_line(&mut self) -> impl Future<Output = io::Result<String>> + Send;

    /// Waits until the other side has closed or reset the connection; what it still sends is thrown away.
    fn closed(&mut self) -> impl Future<Output = Closed> + Send;

    /// Closes the connection; done when it is.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// Resets the connection; done when it is.
    fn reset(self) -> impl Future<Output = ()> + Send;
}

/// How the other side ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// In order.
    EndOfStream,
    /// By a reset, or what else the system makes of it.
    Reset,
}

/// Plays a scene in a world, and returns what it came to.
///
/// # Panics
///
/// If the world's runtime drops the scene before it is over; and with the scene's own panic.
pub fn play<W: World, T: Send + 'static>(
    world: &Arc<W>,
    scene: impl Future<Output = T> + Send + 'static,
) -> T {
    let (tell, told) = oneshot::channel();
    world.run(async move {
        let _ = tell.send(scene.await);
    });
    futures::FutureExt::now_or_never(told)
        .and_then(Result::ok)
        .expect("`run` returns when the test is done, not before")
}
