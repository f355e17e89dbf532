//! A world whose listeners have two handshakes, controlled by the client.
//!
//! Each handshake waits for one line from the client, a [`Header`], so a test decides how long a handshake takes and
//! how it ends.
//!
//! Invariant: an event of a handshake is recorded after the hook has seen it and before it takes effect.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use acceptor_core::{Handshake, HandshakeError, Incoming, Listener, Runtime, With};
use futures::io::{AsyncRead, AsyncReadExt};

use crate::address::Address;
use crate::boxed::{Boxed, BoxedClient, BoxedIo, BoxedListener, BoxedRuntime, BoxedStream};
use crate::instruments::{TaskId, current_task};
use crate::patience::Patience;
use crate::record::Record;
use crate::tamper::{Handshaking, Tamper, elsewhere};
use crate::world::World;

/// A client's instruction to a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Pass the stream on.
    Pass,
    /// Pass the stream on with the addresses [`PEER`] and [`LOCAL`].
    Readdress,
    /// Fail with the cause [`CAUSE`] and the source [`SOURCE`].
    Fail,
    /// Fail with an I/O error that does not mean that the peer is gone.
    FailIo,
    /// Panic with the message [`PANIC`].
    Panic,
}

/// The peer's address that [`Header::Readdress`] sets.
pub const PEER: Address = Address::Socket(SocketAddr::new(
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    4711,
));
/// The local address that [`Header::Readdress`] sets.
pub const LOCAL: Address = Address::Socket(SocketAddr::new(
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    443,
));
/// The cause of a handshake that fails by [`Header::Fail`].
pub const CAUSE: &str = "no certificate";
/// The source of that failure.
pub const SOURCE: &str = "the client sent none";
/// The message of a handshake that panics by [`Header::Panic`].
pub const PANIC: &str = "as the client says";

impl Header {
    const ALL: [Header; 5] = [
        Header::Pass,
        Header::Readdress,
        Header::Fail,
        Header::FailIo,
        Header::Panic,
    ];

    /// Returns the header's line, including the line feed.
    pub fn line(self) -> &'static [u8] {
        match self {
            Header::Pass => b"pass\n",
            Header::Readdress => b"readdress\n",
            Header::Fail => b"fail\n",
            Header::FailIo => b"fail io\n",
            Header::Panic => b"panic\n",
        }
    }

    /// Reads exactly one line: the bytes after it belong to the protocol.
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            line.extend(byte);
        }
        let header = Self::ALL.into_iter().find(|one| one.line() == line);
        header.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// One of the two handshakes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The handshake that gets the accepted stream.
    First,
    /// The handshake that gets the first one's stream.
    Second,
}

/// The kind of an event of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was polled for the first time.
    Began,
    /// It passed the stream on.
    Passed,
    /// It returned an error.
    Failed,
    /// It was dropped or panicked.
    Dropped,
}

/// An event of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeEvent {
    /// Which of the connection's handshakes.
    pub which: Stage,
    /// The kind of the event.
    pub step: Step,
    /// The client.
    pub client: Address,
    /// The task that it runs on, in a world with instruments.
    pub task: Option<TaskId>,
    /// When it happened, by the world's clock.
    pub at: Instant,
}

/// Called when a handshake is first polled.
type Hook = dyn Fn(&HandshakeEvent) + Send + Sync;

struct Shared {
    world: Arc<Boxed>,
    events: Record<HandshakeEvent>,
    on_handshake: Mutex<Option<Arc<Hook>>>,
    second: Second,
    wrong: Handshaking,
    /// Held by the running handshake in a wrong implementation that runs one at a time.
    turn: futures::lock::Mutex<()>,
}

/// The behaviour of the second handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// It passes every stream on at once.
    Passes,
    /// It reads a header, as the first does.
    Reads,
}

impl Shared {
    fn event(&self, which: Stage, step: Step, client: Address) -> HandshakeEvent {
        HandshakeEvent {
            which,
            step,
            client,
            task: current_task(),
            at: self.world.clock().now(),
        }
    }

    /// Reads a header and follows it.
    async fn run<S: AsyncRead + Unpin>(
        &self,
        which: Stage,
        mut incoming: Incoming<S, Address>,
    ) -> Result<Incoming<S, Address>, HandshakeError> {
        let (client, _) = incoming.transport_addrs();
        let mut running = Running {
            shared: self,
            which,
            client: *client,
            ends: Step::Dropped,
        };
        let began = self.event(which, Step::Began, running.client);
        let on_handshake = self
            .on_handshake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(on_handshake) = on_handshake {
            on_handshake(&began);
        }
        self.events.push(began);
        let _turn = match self.wrong {
            Handshaking::OneByOne => Some(self.turn.lock().await),
            _ => None,
        };
        let header = Header::read(&mut incoming.stream).await;
        let result = match header {
            Ok(Header::Pass) => Ok(incoming),
            Ok(Header::Readdress) => {
                if self.wrong != Handshaking::KeepsAddresses {
                    incoming.set_addrs(PEER, LOCAL);
                }
                Ok(incoming)
            }
            Ok(Header::Fail) => Err(HandshakeError::new(CAUSE, SOURCE)),
            Ok(Header::FailIo) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            Ok(Header::Panic) => panic!("{PANIC}"),
            Err(error) => Err(error.into()),
        };
        if let (Handshaking::FailuresPanic, Err(error)) = (self.wrong, &result) {
            panic!("{error}");
        }
        running.ends = match result {
            Ok(_) => Step::Passed,
            Err(_) => Step::Failed,
        };
        result
    }
}

/// Records how a handshake ended when its future is dropped.
struct Running<'a> {
    shared: &'a Shared,
    which: Stage,
    client: Address,
    ends: Step,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let event = self.shared.event(self.which, self.ends, self.client);
        self.shared.events.push(event);
    }
}

/// The first handshake of a connection.
#[derive(Clone)]
pub struct FirstHandshake(Arc<Shared>);

/// The second handshake of a connection, which gets the first one's stream.
#[derive(Clone)]
pub struct SecondHandshake(Arc<Shared>);

impl fmt::Debug for FirstHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstHandshake").finish_non_exhaustive()
    }
}

impl fmt::Debug for SecondHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecondHandshake").finish_non_exhaustive()
    }
}

impl Handshake<BoxedIo, Address> for FirstHandshake {
    type Stream = BoxedStream;

    async fn run(
        &self,
        incoming: Incoming<BoxedIo, Address>,
    ) -> Result<Incoming<BoxedStream, Address>, HandshakeError> {
        let shared = Arc::clone(&self.0);
        let incoming = incoming.map_stream(|stream| shared.world.stream(stream));
        if shared.wrong == Handshaking::Elsewhere {
            let run = async move { shared.run(Stage::First, incoming).await };
            let panicked = |_| Err(HandshakeError::from_cause("it panicked"));
            return elsewhere(run).await.unwrap_or_else(panicked);
        }
        shared.run(Stage::First, incoming).await
    }
}

impl Handshake<BoxedStream, Address> for SecondHandshake {
    type Stream = BoxedStream;

    async fn run(
        &self,
        incoming: Incoming<BoxedStream, Address>,
    ) -> Result<Incoming<BoxedStream, Address>, HandshakeError> {
        match (self.0.second, self.0.wrong) {
            (Second::Passes, _) | (_, Handshaking::OnlyTheFirst) => Ok(incoming),
            (Second::Reads, _) => self.0.run(Stage::Second, incoming).await,
        }
    }
}

/// A world whose listeners have two handshakes, controlled by the client.
pub struct Handshakes {
    shared: Arc<Shared>,
}

impl Handshakes {
    /// Wraps a world. The second handshake passes every stream on.
    pub fn one(world: &Arc<Boxed>) -> Arc<Self> {
        Self::new(world, Second::Passes)
    }

    /// Wraps a world. Both handshakes read a header.
    pub fn two(world: &Arc<Boxed>) -> Arc<Self> {
        Self::new(world, Second::Reads)
    }

    fn new(world: &Arc<Boxed>, second: Second) -> Arc<Self> {
        let tamper = Boxed::tamper(&world.runtime());
        Arc::new(Self {
            shared: Arc::new(Shared {
                world: Arc::clone(world),
                events: Record::default(),
                on_handshake: Mutex::new(None),
                second,
                wrong: tamper.map_or(Handshaking::Sound, |tamper| tamper.handshakes),
                turn: futures::lock::Mutex::new(()),
            }),
        })
    }

    /// Returns the recorded events of the handshakes.
    pub fn events(&self) -> &Record<HandshakeEvent> {
        &self.shared.events
    }

    /// Sets a function that is called when a handshake is first polled, before anything else.
    pub fn on_handshake(&self, on_handshake: impl Fn(&HandshakeEvent) + Send + Sync + 'static) {
        let on_handshake: Arc<Hook> = Arc::new(on_handshake);
        let shared = &self.shared.on_handshake;
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(on_handshake);
    }

    fn listener(&self, listener: BoxedListener) -> <Self as World>::Listener {
        let first = FirstHandshake(Arc::clone(&self.shared));
        let second = SecondHandshake(Arc::clone(&self.shared));
        listener.with(first).with(second)
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

impl World for Handshakes {
    type Runtime = BoxedRuntime;
    type Listener = With<With<BoxedListener, FirstHandshake>, SecondHandshake>;
    type Stream = BoxedStream;
    type Client = BoxedClient;

    fn runtime(&self) -> BoxedRuntime {
        self.shared.world.runtime()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.shared.world.run(test);
    }

    fn address(address: &Address) -> Address {
        *address
    }

    fn listen(&self) -> io::Result<(Self::Listener, Address)> {
        let (listener, address) = self.shared.world.listen()?;
        Ok((self.listener(listener), address))
    }

    fn listen_on(&self, address: Address) -> io::Result<(Self::Listener, Address)> {
        let (listener, address) = self.shared.world.listen_on(address)?;
        Ok((self.listener(listener), address))
    }

    fn listen_to_nothing(&self) -> io::Result<(Self::Listener, io::Error)> {
        let (listener, error) = self.shared.world.listen_to_nothing()?;
        Ok((self.listener(listener), error))
    }

    fn accepted(&self, stream: BoxedIo) -> BoxedStream {
        self.shared.world.accepted(stream)
    }

    fn stream(&self, stream: BoxedStream) -> BoxedStream {
        stream
    }

    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<BoxedClient>> + Send + 'static {
        self.shared.world.connect(address)
    }

    fn patience(&self) -> Patience {
        self.shared.world.patience()
    }

    fn clock(&self) -> Self::Runtime {
        self.shared.world.clock()
    }

    fn tamper(runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        Boxed::tamper(runtime)
    }
}
