//! The world of real sockets, on any runtime: the standard library's listeners, and clients on their own threads.
//!
//! Each client is driven by a thread with blocking calls, so it works whatever the runtime does, including a runtime
//! with a single thread.

use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use acceptor_core::{ListenOptions, Listener, StreamOf};
use futures::channel::oneshot;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::Address;
use crate::harness::Harness;
use crate::patience::Patience;
use crate::world::{Client, Closed, World};

/// Whether the system reports if a socket listens, so that a constructor can refuse a socket that does not (V4).
pub(crate) const REPORTS_LISTENING: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The loopback address with any free port.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The world of real sockets, on the runtime of a harness.
#[derive(Debug)]
pub struct Real<H> {
    harness: H,
}

impl<H: Harness> Real<H> {
    /// Creates the world of real sockets on the runtime of a harness.
    pub fn new(harness: H) -> Self {
        Self { harness }
    }
}

impl<H: Harness> World for Real<H> {
    type Runtime = H::Runtime;
    type Listener = H::Listener;
    type Stream = H::Stream;
    type Client = SocketClient;

    fn runtime(&self) -> H::Runtime {
        self.harness.runtime()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.harness.run(test);
    }

    fn address(address: &SocketAddr) -> Address {
        Address::from(*address)
    }

    fn listen(&self) -> io::Result<(H::Listener, Address)> {
        self.listen_on(Address::from(LOOPBACK))
    }

    fn listen_on(&self, address: Address) -> io::Result<(H::Listener, Address)> {
        let address = address.socket().ok_or(ErrorKind::AddrNotAvailable)?;
        let listener = ListenOptions::new(address).bind()?;
        let address = listener.local_addr()?;
        Ok((self.harness.listener(listener)?, Address::from(address)))
    }

    fn listen_to_nothing(&self) -> io::Result<(H::Listener, io::Error)> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&LOOPBACK.into())?;
        // Where the system reports whether a socket listens, an adapter refuses one that does not (V4), so the socket
        // listens until the adapter has taken it.
        let listens = REPORTS_LISTENING;
        if listens {
            socket.listen(1)?;
        }
        let listener = self.harness.listener(socket.try_clone()?.into())?;
        if listens {
            socket.shutdown(Shutdown::Both)?;
        }
        match socket.accept() {
            Ok(_) => Err(io::Error::other(
                "a socket that does not listen accepted a connection",
            )),
            Err(error) => Ok((listener, error)),
        }
    }

    fn listen_with(&self, socket: TcpListener) -> Option<io::Result<H::Listener>> {
        Some(self.harness.listener(socket))
    }

    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        self.harness.unmet()
    }

    fn accepted(&self, stream: <H::Listener as Listener>::Io) -> H::Stream {
        self.harness.stream(stream)
    }

    fn stream(&self, stream: StreamOf<H::Listener>) -> H::Stream {
        self.harness.stream(stream)
    }

    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<SocketClient>> + Send + 'static {
        connect(address)
    }
}

async fn connect(address: Address) -> io::Result<SocketClient> {
    let address = address.socket().ok_or(ErrorKind::AddrNotAvailable)?;
    SocketClient::connect(address.into(), None).await
}

/// A job for a client's thread, with access to the socket and to the bytes read ahead.
type Job = Box<dyn FnOnce(&mut Driven) + Send>;

struct Driven {
    socket: Arc<Socket>,
    ahead: Vec<u8>,
}

/// A client on a socket of any kind, driven by its own thread.
#[derive(Debug)]
pub struct SocketClient {
    local_addr: Address,
    socket: Arc<Socket>,
    jobs: Option<mpsc::Sender<Job>>,
    over: Option<oneshot::Receiver<()>>,
}

impl SocketClient {
    /// Connects a stream socket to an address, bound to `from` if it is given.
    ///
    /// ```no_run
    /// # async fn connect() -> std::io::Result<()> {
    /// use conformance_tests::SocketClient;
    /// use socket2::SockAddr;
    ///
    /// let client = SocketClient::connect(SockAddr::unix("/run/echo.sock")?, Some(SockAddr::unix("/tmp/me.sock")?)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of binding and connecting; [`ErrorKind::AddrNotAvailable`] if the client's own address is unnamed,
    /// because rules identify clients by address.
    pub async fn connect(to: SockAddr, from: Option<SockAddr>) -> io::Result<Self> {
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new()
            .name("conformance client".into())
            .spawn(move || {
                let (socket, local_addr) = match connected(&to, from.as_ref()) {
                    Ok(connected) => connected,
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        return;
                    }
                };
                let (jobs, inbox) = mpsc::channel::<Job>();
                let (_alive, over) = oneshot::channel();
                let client = Self {
                    local_addr,
                    socket: Arc::clone(&socket),
                    jobs: Some(jobs),
                    over: Some(over),
                };
                let mut driven = Driven {
                    socket,
                    ahead: Vec::new(),
                };
                let _ = sender.send(Ok(client));
                for job in inbox {
                    job(&mut driven);
                }
                // Dropped before `_alive`, whose drop signals that the socket is closed.
                drop(driven);
            })?;
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn does<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Driven) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |driven| {
            let _ = sender.send(job(driven));
        });
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        match sent {
            Some(Ok(())) => receiver.await.map_err(|_| gone()),
            _ => Err(gone()),
        }
    }

    /// Makes the thread release the socket, whatever it is blocked on. Sends nothing to the peer.
    fn retire(&mut self) {
        self.jobs = None;
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    async fn end(mut self) {
        self.retire();
        if let Some(over) = self.over.take() {
            let _ = over.await;
        }
        // Dropping `self` drops the socket's last owner, which closes it.
    }
}

fn connected(to: &SockAddr, from: Option<&SockAddr>) -> io::Result<(Arc<Socket>, Address)> {
    let socket = Socket::new(to.domain(), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(from)?;
    }
    // Bounds the life of this thread; the rule that waits for the client gives up long before.
    socket.connect_timeout(to, 2 * Patience::expect_from_environment().length())?;
    let local_addr = Address::from_socket(&socket.local_addr()?);
    let unnamed = || io::Error::new(ErrorKind::AddrNotAvailable, "the client has no address");
    Ok((Arc::new(socket), local_addr.ok_or_else(unnamed)?))
}

fn gone() -> io::Error {
    io::Error::other("the client's thread has ended")
}

impl Drop for SocketClient {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Driven {
    /// Reads more bytes and returns how many; 0 at the end of the stream.
    fn read_more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 65_536];
        let count = loop {
            match (&*self.socket).read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.ahead.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// Takes a prefix of the bytes read, once `enough` returns its length.
    fn take(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> io::Result<Vec<u8>> {
        loop {
            if let Some(count) = enough(&self.ahead) {
                return Ok(self.ahead.drain(..count).collect());
            }
            if self.read_more()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn drain(&mut self) -> Closed {
        loop {
            self.ahead.clear();
            match self.read_more() {
                Ok(0) => return Closed::EndOfStream,
                Ok(_) => {}
                Err(_) => return Closed::Reset,
            }
        }
    }
}

impl Client for SocketClient {
    fn local_addr(&self) -> Address {
        self.local_addr
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bytes = bytes.to_vec();
        self.does(move |driven| (&*driven.socket).write_all(&bytes))
            .await?
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.does(|driven| driven.socket.shutdown(Shutdown::Write))
            .await?
    }

    async fn receive(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.does(move |driven| driven.take(|ahead| (ahead.len() >= count).then_some(count)))
            .await?
    }

    async fn receive_line(&mut self) -> io::Result<String> {
        let end = |ahead: &[u8]| ahead.iter().position(|byte| *byte == b'\n');
        let line = self
            .does(move |driven| driven.take(|ahead| end(ahead).map(|end| end + 1)))
            .await??;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        String::from_utf8(line.to_vec())
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    async fn closed(&mut self) -> Closed {
        self.does(Driven::drain).await.unwrap_or(Closed::Reset)
    }

    async fn close(self) {
        self.end().await;
    }

    async fn reset(self) {
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.end().await;
    }
}
