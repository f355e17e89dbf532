//! Pipes in memory keep every rule of the contract: a world without sockets, whose addresses are its own.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acceptor_core::{Listener, NoHandshake};
use async_channel::{Receiver, Sender, unbounded};
use conformance_tests::instruments::not_listening;
use conformance_tests::reference::{Reference, Threads};
use conformance_tests::{Address, Client, Closed, Harness, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

/// The address of a listener or of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name(u64);

impl Name {
    fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn of(address: Address) -> io::Result<Self> {
        let number = address.to_string().parse();
        number.map_or_else(
            |_| Err(ErrorKind::InvalidInput.into()),
            |number| Ok(Self(number)),
        )
    }

    fn address(self) -> Address {
        Address::named(&self.0.to_string())
    }
}

/// The listeners' end of a pipe, and the address of its client.
type Connected = (DuplexStream, Name);

#[derive(Default)]
struct Pipes {
    /// Where the clients of a listener queue up.
    doors: Arc<Mutex<HashMap<Name, Sender<Connected>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct PipeListener {
    name: Name,
    queue: Receiver<Connected>,
    doors: Arc<Mutex<HashMap<Name, Sender<Connected>>>>,
}

impl Drop for PipeListener {
    fn drop(&mut self) {
        lock(&self.doors).remove(&self.name);
    }
}

impl Listener for PipeListener {
    /// With the listener's name.
    type Io = Connected;
    type Addr = Name;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Connected, Name)> {
        let connected = self.queue.recv().await;
        let (stream, peer) = connected.map_err(|_| not_listening())?;
        Ok(((stream, self.name), peer))
    }

    fn local_addr(&self) -> io::Result<Name> {
        Ok(self.name)
    }

    fn io_local_addr(accepted: &Connected) -> io::Result<Name> {
        Ok(accepted.1)
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

impl Pipes {
    fn bind(&self, name: Name) -> io::Result<(PipeListener, Address)> {
        let (door, queue) = unbounded();
        let mut doors = lock(&self.doors);
        if doors.contains_key(&name) {
            return Err(ErrorKind::AddrInUse.into());
        }
        doors.insert(name, door);
        let doors = Arc::clone(&self.doors);
        Ok((PipeListener { name, queue, doors }, name.address()))
    }
}

impl World for Pipes {
    type Runtime = Threads;
    type Listener = PipeListener;
    type Stream = Compat<DuplexStream>;
    type Client = PipeClient;

    fn runtime(&self) -> Threads {
        Threads
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        Reference.run(test);
    }

    fn address(name: &Name) -> Address {
        name.address()
    }

    fn listen(&self) -> io::Result<(PipeListener, Address)> {
        self.bind(Name::fresh())
    }

    fn listen_on(&self, address: Address) -> io::Result<(PipeListener, Address)> {
        self.bind(Name::of(address)?)
    }

    fn listen_to_nothing(&self) -> io::Result<(PipeListener, io::Error)> {
        let (listener, _) = self.listen()?;
        listener.queue.close();
        Ok((listener, not_listening()))
    }

    fn has_resets(&self) -> bool {
        false
    }

    fn accepted(&self, accepted: Connected) -> Compat<DuplexStream> {
        accepted.0.compat()
    }

    fn stream(&self, accepted: Connected) -> Compat<DuplexStream> {
        accepted.0.compat()
    }

    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<PipeClient>> + Send + 'static {
        let doors = Arc::clone(&self.doors);
        async move {
            let (stream, theirs) = duplex(65_536);
            let name = Name::fresh();
            let listener = Name::of(address)?;
            let doors = lock(&doors);
            let door = doors.get(&listener).ok_or(ErrorKind::ConnectionRefused)?;
            let sent = door.try_send((theirs, name));
            sent.map_err(|_| ErrorKind::ConnectionRefused)?;
            Ok(PipeClient { stream, name })
        }
    }
}

struct PipeClient {
    stream: DuplexStream,
    name: Name,
}

impl Client for PipeClient {
    fn local_addr(&self) -> Address {
        self.name.address()
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    async fn receive(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    async fn receive_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            match self.stream.read_u8().await? {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        String::from_utf8(line).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    async fn closed(&mut self) -> Closed {
        match self.stream.read_to_end(&mut Vec::new()).await {
            Ok(_) => Closed::EndOfStream,
            Err(_) => Closed::Reset,
        }
    }

    async fn close(self) {}

    async fn reset(self) {}
}

conformance_tests::suite!(Pipes::default());
