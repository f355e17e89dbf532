//! The suite on Unix sockets: a world whose addresses are names, without wildcards.
//!
//! The names are Linux's abstract ones, which are free as soon as the socket is closed, as the rules require.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::unix::net;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use acceptor_tokio::{
    AcceptErrorKind, Listener, NoHandshake, Refusal, TokioRuntime, refuse_stream,
};
use conformance_tests::{Address, Harness, SocketClient, World};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::tokio::Tokio;

/// Unix sockets on a tokio runtime.
#[derive(Debug)]
pub struct UnixSockets(pub Tokio);

/// A listening Unix socket.
#[derive(Debug)]
pub struct UnixSocket(UnixListener);

impl Listener for UnixSocket {
    type Io = UnixStream;
    type Addr = Address;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(UnixStream, Address)> {
        // Tokio's address of the peer lacks an abstract name.
        let (stream, _) = self.0.accept().await?;
        let peer = name(&SockRef::from(&stream).peer_addr()?)?;
        Ok((stream, peer))
    }

    fn local_addr(&self) -> io::Result<Address> {
        name(&SockRef::from(&self.0).local_addr()?)
    }

    fn io_local_addr(stream: &UnixStream) -> io::Result<Address> {
        name(&SockRef::from(stream).local_addr()?)
    }

    /// Each connection has the listener's own address.
    fn asks_local_addr(&self) -> bool {
        false
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn refuse(stream: UnixStream, how: &Refusal) {
        refuse_stream(&stream, how);
    }

    /// A socket whose runtime has shut down never accepts again.
    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        tokio::runtime::is_rt_shutdown_err(error).then_some(AcceptErrorKind::Listener)
    }
}

fn name(address: &SockAddr) -> io::Result<Address> {
    Address::from_socket(address).ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

/// Returns a name that no other socket on this machine has.
fn fresh() -> io::Result<SockAddr> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    SockAddr::unix(format!("\0conformance-{}-{number}", process::id()))
}

/// Returns the socket address with this name.
fn of_name(address: Address) -> io::Result<SockAddr> {
    let Address::Named(name) = address else {
        return Err(ErrorKind::AddrNotAvailable.into());
    };
    SockAddr::unix(name.replacen('@', "\0", 1))
}

impl UnixSockets {
    fn listener(&self, socket: &Socket) -> io::Result<UnixSocket> {
        socket.set_nonblocking(true)?;
        let listener = net::UnixListener::from(std::os::fd::OwnedFd::from(socket.try_clone()?));
        let _entered = self.0.enter();
        UnixListener::from_std(listener).map(UnixSocket)
    }

    fn bind(&self, address: &SockAddr) -> io::Result<(UnixSocket, Address)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(address)?;
        socket.listen(1024)?;
        Ok((self.listener(&socket)?, name(address)?))
    }
}

impl World for UnixSockets {
    type Runtime = TokioRuntime;
    type Listener = UnixSocket;
    type Stream = Compat<UnixStream>;
    type Client = SocketClient;

    fn runtime(&self) -> TokioRuntime {
        self.0.runtime()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.0.run(test);
    }

    fn address(address: &Address) -> Address {
        *address
    }

    fn listen(&self) -> io::Result<(UnixSocket, Address)> {
        self.bind(&fresh()?)
    }

    fn listen_on(&self, address: Address) -> io::Result<(UnixSocket, Address)> {
        self.bind(&of_name(address)?)
    }

    fn listen_to_nothing(&self) -> io::Result<(UnixSocket, io::Error)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let listener = self.listener(&socket)?;
        match socket.accept() {
            Ok(_) => Err(io::Error::other(
                "a socket that does not listen accepted a connection",
            )),
            Err(error) => Ok((listener, error)),
        }
    }

    fn has_resets(&self) -> bool {
        false
    }

    fn accepted(&self, stream: UnixStream) -> Compat<UnixStream> {
        stream.compat()
    }

    fn stream(&self, stream: UnixStream) -> Compat<UnixStream> {
        stream.compat()
    }

    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<SocketClient>> + Send + 'static {
        connect(address)
    }
}

async fn connect(address: Address) -> io::Result<SocketClient> {
    SocketClient::connect(of_name(address)?, Some(fresh()?)).await
}
