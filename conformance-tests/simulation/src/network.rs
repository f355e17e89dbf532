//! Listeners with a backlog and streams with bounded buffers, in memory.
//!
//! Invariants: no lock is held while a waker is called; a connection is in exactly one [`Stage`]; an accepted stream is
//! counted as open until it is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use acceptor_core::{AcceptErrorKind, Listener, NoHandshake};
use futures::io::{AsyncRead, AsyncWrite};

use super::executor::{Simulation, Wait, lock};
use super::fault_injection::{AcceptFailure, ClientFault, FaultInjection};

/// The sockets of a simulated world. Clones share them.
#[derive(Clone)]
pub struct Network {
    simulation: Simulation,
    sockets: Arc<Mutex<Sockets>>,
    /// How many tasks were woken by streams.
    woken: Arc<AtomicU64>,
    limits: Limits,
    injection: Option<Arc<FaultInjection>>,
}

/// The capacities of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in a listener's backlog; the next one waits for room.
    pub backlog: usize,
    /// Bytes that a stream buffers for its reader.
    pub buffer: usize,
}

struct Sockets {
    listening: BTreeMap<SocketAddr, Listening>,
    next_port: u16,
    next_client: u32,
    open_streams: usize,
    /// The number of calls of `accept`, and of tasks woken in one.
    accept_calls: u64,
    accepts_woken: u64,
    hook: Option<Arc<EventHook>>,
}

/// Called with each event as it happens. It must not call the network.
type EventHook = dyn Fn(NetworkEvent) + Send + Sync;

/// An event of one of the pool's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A connection was accepted.
    Accepted {
        /// The listener.
        listener: SocketAddr,
        /// The client.
        peer: SocketAddr,
    },
    /// The pool's end of a connection was dropped.
    Dropped {
        /// The client.
        peer: SocketAddr,
    },
    /// A call of `accept` failed or panicked because of an injected fault.
    Failed {
        /// The listener.
        listener: SocketAddr,
        /// The fault.
        fault: AcceptFault,
    },
    /// A call of `accept` was polled and found no connection.
    Empty {
        /// The listener.
        listener: SocketAddr,
    },
    /// A listener was dropped.
    Closed {
        /// The listener.
        listener: SocketAddr,
        /// How many connections were in its backlog, or waited for room in it.
        queued: usize,
    },
}

/// A fault that is injected into a call of `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptFault {
    /// It fails with an error of this kind.
    Error(ErrorKind),
    /// It fails as on a socket that does not listen.
    NotListening,
    /// It fails with an error that only the listener can classify: its runtime has ended.
    RuntimeGone,
    /// It panics.
    Panic,
}

const RUNTIME_GONE: &str = "the simulated runtime has ended";

fn runtime_gone() -> io::Error {
    io::Error::other(RUNTIME_GONE)
}

/// The error of `accept` on a socket that does not listen: EINVAL, or WSAEINVAL.
fn not_listening() -> io::Error {
    io::Error::from_raw_os_error(if cfg!(windows) { 10022 } else { 22 })
}

const ACCEPT_PANICS: &str = "injected panic of accept";

impl AcceptFault {
    /// Returns the text of the error with which a listener fails or pauses.
    pub fn text(self) -> String {
        match self {
            AcceptFault::Error(kind) => io::Error::from(kind).to_string(),
            AcceptFault::NotListening => not_listening().to_string(),
            AcceptFault::RuntimeGone => RUNTIME_GONE.to_owned(),
            AcceptFault::Panic => format!("accept panicked: {ACCEPT_PANICS}"),
        }
    }
}

struct Listening {
    queued: VecDeque<Arc<Pipe>>,
    connecting: VecDeque<Arc<Pipe>>,
    faults: VecDeque<AcceptFault>,
    /// The failures that the seed has chosen for the next calls.
    failures: VecDeque<AcceptFailure>,
    waiting: Vec<(u64, Waker)>,
    waiting_ever: u64,
    /// A fault of every call, until it is removed.
    lasting: Option<AcceptFault>,
    polls: u64,
}

/// The progress of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for room in the backlog.
    Connecting,
    /// It is in the backlog.
    Queued,
    /// It was accepted.
    Accepted,
    /// Its listener was closed before it was accepted.
    Abandoned,
}

/// A connection: two flows of bytes, and its progress.
struct Pipe {
    woken: Arc<AtomicU64>,
    injection: Option<Arc<FaultInjection>>,
    called: SocketAddr,
    client: SocketAddr,
    state: Mutex<PipeState>,
}

struct PipeState {
    stage: Stage,
    to_server: Flow,
    to_client: Flow,
    reset: bool,
    fault: Option<ClientFault>,
    connecting: Option<Waker>,
}

struct Flow {
    bytes: VecDeque<u8>,
    room: usize,
    /// Whether the writer has finished.
    finished: bool,
    /// Whether the reader is gone.
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Flow {
    fn new(room: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            room,
            finished: false,
            reader_gone: false,
            reader: None,
            writer: None,
        }
    }

    fn wakers(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.bytes.is_empty() && !buffer.is_empty() {
            return self.finished.then_some(0);
        }
        let count = buffer.len().min(self.bytes.len());
        for (to, from) in buffer.iter_mut().zip(self.bytes.drain(..count)) {
            *to = from;
        }
        Some(count)
    }

    fn write(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        if self.reader_gone || self.finished {
            return Some(Err(ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.room - self.bytes.len());
        if count == 0 && !bytes.is_empty() {
            return None;
        }
        self.bytes.extend(&bytes[..count]);
        Some(Ok(count))
    }
}

fn reset() -> io::Error {
    ErrorKind::ConnectionReset.into()
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Server,
    Client,
}

impl PipeState {
    fn flows(&mut self, reads: End) -> (&mut Flow, &mut Flow) {
        match reads {
            End::Server => (&mut self.to_server, &mut self.to_client),
            End::Client => (&mut self.to_client, &mut self.to_server),
        }
    }
}

impl Pipe {
    fn wake(&self, wakers: impl IntoIterator<Item = Option<Waker>>) {
        for waker in wakers.into_iter().flatten() {
            self.woken.fetch_add(1, Ordering::Relaxed);
            waker.wake();
        }
    }

    fn poll_read(
        &self,
        end: End,
        buffer: &mut [u8],
        waker: Option<&Waker>,
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if state.reset || (end == End::Client && state.stage == Stage::Abandoned) {
            return Poll::Ready(Err(reset()));
        }
        let (incoming, _) = state.flows(end);
        let most = buffer.len().min(incoming.bytes.len());
        let buffer = match &self.injection {
            // A part needs at least two bytes.
            Some(injection) if most > 1 => {
                let part = injection.part(most, || self.words("read", end));
                &mut buffer[..part]
            }
            _ => buffer,
        };
        match incoming.read(buffer) {
            Some(count) => {
                let writer = incoming.writer.take();
                drop(state);
                self.wake([writer]);
                Poll::Ready(Ok(count))
            }
            None => {
                let replaced = std::mem::replace(&mut incoming.reader, waker.cloned());
                drop(state);
                drop(replaced);
                Poll::Pending
            }
        }
    }

    fn poll_write(&self, end: End, bytes: &[u8], waker: Option<&Waker>) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if state.reset || state.stage == Stage::Abandoned {
            return Poll::Ready(Err(reset()));
        }
        let (_, outgoing) = state.flows(end);
        let most = bytes.len().min(outgoing.room - outgoing.bytes.len());
        let bytes = match &self.injection {
            Some(injection) if most > 1 => {
                let part = injection.part(most, || self.words("write", end));
                &bytes[..part]
            }
            _ => bytes,
        };
        match outgoing.write(bytes) {
            Some(written) => {
                let reader = outgoing.reader.take();
                drop(state);
                self.wake([reader]);
                Poll::Ready(written)
            }
            None => {
                let replaced = std::mem::replace(&mut outgoing.writer, waker.cloned());
                drop(state);
                drop(replaced);
                Poll::Pending
            }
        }
    }

    /// Shuts down the sending direction of this end.
    fn finish(&self, end: End) {
        let wakers = {
            let mut state = lock(&self.state);
            let (_, outgoing) = state.flows(end);
            outgoing.finished = true;
            outgoing.wakers()
        };
        self.wake(wakers);
    }

    /// Closes this end in both directions.
    fn close(&self, end: End) {
        let wakers = {
            let mut state = lock(&self.state);
            let (incoming, outgoing) = state.flows(end);
            outgoing.finished = true;
            incoming.reader_gone = true;
            [incoming.wakers(), outgoing.wakers()].concat()
        };
        self.wake(wakers);
    }

    fn reset(&self) {
        let wakers = {
            let mut state = lock(&self.state);
            state.reset = true;
            [state.to_server.wakers(), state.to_client.wakers()].concat()
        };
        self.wake(wakers);
    }

    /// Changes the stage, and wakes the task that waits for it.
    fn enter(&self, stage: Stage) {
        let wakers = {
            let mut state = lock(&self.state);
            state.stage = stage;
            let connecting = state.connecting.take();
            match stage {
                Stage::Abandoned => {
                    let flows = [state.to_server.wakers(), state.to_client.wakers()];
                    [flows.concat(), vec![connecting]].concat()
                }
                Stage::Connecting | Stage::Queued | Stage::Accepted => vec![connecting],
            }
        };
        self.wake(wakers);
    }

    fn stage(&self) -> Stage {
        lock(&self.state).stage
    }

    fn words(&self, operation: &str, end: End) -> String {
        match end {
            End::Client => format!("a {operation} of {}", self.client),
            End::Server => format!("a {operation} of the server at its end of {}", self.client),
        }
    }
}

impl Network {
    /// Creates a network without sockets.
    pub fn new(simulation: &Simulation, limits: Limits) -> Self {
        Self {
            simulation: simulation.clone(),
            sockets: Arc::new(Mutex::new(Sockets {
                listening: BTreeMap::new(),
                next_port: 1,
                next_client: 0,
                open_streams: 0,
                accept_calls: 0,
                accepts_woken: 0,
                hook: None,
            })),
            woken: Arc::default(),
            limits,
            injection: None,
        }
    }

    /// Returns the same network with faults.
    pub(super) fn with_fault_injection(mut self, injection: Arc<FaultInjection>) -> Self {
        self.injection = Some(injection);
        self
    }

    /// Sets a function that is called with each event as it happens. It must not call the network.
    pub fn on_event(&self, hook: impl Fn(NetworkEvent) + Send + Sync + 'static) {
        lock(&self.sockets).hook = Some(Arc::new(hook));
    }

    /// Removes the function.
    pub fn remove_hook(&self) {
        let hook = lock(&self.sockets).hook.take();
        drop(hook);
    }

    /// Returns how many accepted streams have not been dropped.
    pub fn open_streams(&self) -> usize {
        lock(&self.sockets).open_streams
    }

    /// Returns how many listeners are open.
    pub fn open_listeners(&self) -> usize {
        lock(&self.sockets).listening.len()
    }

    /// Returns how often `accept` of a listener was polled; 0 if the listener is not open.
    pub fn accept_polls(&self, listener: SocketAddr) -> u64 {
        let sockets = lock(&self.sockets);
        sockets
            .listening
            .get(&listener)
            .map_or(0, |listening| listening.polls)
    }

    /// Returns the number of calls of `accept` of all listeners.
    pub fn accept_calls(&self) -> u64 {
        lock(&self.sockets).accept_calls
    }

    /// Returns how many tasks were woken in `accept`.
    pub fn wakes_by_listeners(&self) -> u64 {
        lock(&self.sockets).accepts_woken
    }

    /// Returns how many tasks were woken by streams.
    pub fn wakes_by_streams(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// Returns how many connections are in the backlog of a listener, or wait for room in it.
    pub fn backlog(&self, listener: SocketAddr) -> usize {
        let sockets = lock(&self.sockets);
        let listening = sockets.listening.get(&listener);
        listening.map_or(0, |listening| {
            listening.queued.len() + listening.connecting.len()
        })
    }

    /// Listens on this address. Port 0 is replaced by a free port.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if the address is in use, `AddrNotAvailable` if it is neither a loopback address nor a wildcard.
    pub fn listen(&self, mut address: SocketAddr) -> io::Result<SimulatedListener> {
        if !address.ip().is_loopback() && !address.ip().is_unspecified() {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        let mut sockets = lock(&self.sockets);
        if address.port() == 0 {
            loop {
                address.set_port(sockets.next_port);
                sockets.next_port = sockets.next_port.wrapping_add(1).max(1);
                if !sockets.is_taken(address) {
                    break;
                }
            }
        } else if sockets.is_taken(address) {
            return Err(ErrorKind::AddrInUse.into());
        }
        sockets.listening.insert(
            address,
            Listening {
                queued: VecDeque::new(),
                connecting: VecDeque::new(),
                faults: VecDeque::new(),
                failures: VecDeque::new(),
                waiting: Vec::new(),
                waiting_ever: 0,
                lasting: None,
                polls: 0,
            },
        );
        Ok(SimulatedListener {
            network: self.clone(),
            address,
        })
    }

    /// Makes every later call of `accept` fail as on a socket that does not listen.
    pub fn kill_listener(&self, listener: SocketAddr) {
        self.inject_lasting(listener, Some(AcceptFault::NotListening));
    }

    /// Injects a fault into every later call of `accept`, or removes it with `None`.
    pub fn inject_lasting(&self, listener: SocketAddr, fault: Option<AcceptFault>) {
        self.disturb(listener, |listening| listening.lasting = fault);
    }

    /// Injects a fault into the next call of `accept` that would complete.
    pub fn inject(&self, listener: SocketAddr, fault: AcceptFault) {
        self.disturb(listener, |listening| listening.faults.push_back(fault));
    }

    /// Wakes the tasks that wait in `accept`, without a connection.
    pub fn stir(&self, listener: SocketAddr) {
        self.disturb(listener, |_| {});
    }

    fn disturb(&self, listener: SocketAddr, change: impl FnOnce(&mut Listening)) {
        let wakers = {
            let mut sockets = lock(&self.sockets);
            let Some(listening) = sockets.listening.get_mut(&listener) else {
                return;
            };
            change(listening);
            let wakers = listening.wakers();
            sockets.accepts_woken += wakers.len() as u64;
            wakers
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Connects a client, whose connection is then in the backlog, or waits for room in it: see
    /// [`SimulatedClient::stage`].
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if no listener is open at the address.
    pub fn connect(&self, address: SocketAddr) -> io::Result<SimulatedClient> {
        let (pipe, wakers) = {
            let mut sockets = lock(&self.sockets);
            let Some(at) = sockets.called(address) else {
                return Err(ErrorKind::ConnectionRefused.into());
            };
            sockets.next_client += 1;
            let client = client_address(address, sockets.next_client);
            let Some(listening) = sockets.listening.get_mut(&at) else {
                return Err(ErrorKind::ConnectionRefused.into());
            };
            let mut room = self.limits.buffer;
            if let Some(injection) = &self.injection {
                listening.failures.extend(injection.accepts());
                room = injection.room(room, client);
            }
            let has_room = listening.queued.len() < self.limits.backlog;
            let stage = if has_room {
                Stage::Queued
            } else {
                Stage::Connecting
            };
            let pipe = Arc::new(Pipe {
                woken: Arc::clone(&self.woken),
                injection: self.injection.clone(),
                called: address,
                client,
                state: Mutex::new(PipeState {
                    stage,
                    to_server: Flow::new(self.limits.buffer),
                    to_client: Flow::new(room),
                    reset: false,
                    fault: None,
                    connecting: None,
                }),
            });
            let line = match stage {
                Stage::Queued => &mut listening.queued,
                _ => &mut listening.connecting,
            };
            line.push_back(Arc::clone(&pipe));
            let wakers = listening.wakers();
            sockets.accepts_woken += wakers.len() as u64;
            (pipe, wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        Ok(SimulatedClient {
            simulation: self.simulation.clone(),
            pipe,
        })
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Returns a client address that was not used before.
fn client_address(called: SocketAddr, number: u32) -> SocketAddr {
    const PORTS: u32 = 60_000;
    let port = (1024 + number % PORTS) as u16;
    match called.ip() {
        IpAddr::V4(_) => {
            let [_, a, b, c] = (1 + number / PORTS).to_be_bytes();
            SocketAddr::new(Ipv4Addr::new(127, a, b, c).into(), port)
        }
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
    }
}

impl Sockets {
    fn is_taken(&self, address: SocketAddr) -> bool {
        let same_port = |other: &&SocketAddr| {
            other.port() == address.port() && other.is_ipv4() == address.is_ipv4()
        };
        let mut others = self.listening.keys().filter(same_port);
        others.any(|other| {
            let (ip, other) = (address.ip(), other.ip());
            ip == other || ip.is_unspecified() || other.is_unspecified()
        })
    }

    /// Returns the listener that accepts connections to this address.
    fn called(&self, address: SocketAddr) -> Option<SocketAddr> {
        let wildcard = match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let wildcard = SocketAddr::new(wildcard, address.port());
        [address, wildcard]
            .into_iter()
            .find(|at| self.listening.contains_key(at))
    }

    fn note(&mut self, event: NetworkEvent) {
        if let Some(hook) = &self.hook {
            hook(event);
        }
    }
}

impl Listening {
    fn wakers(&mut self) -> Vec<Waker> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|(_, waker)| waker).collect()
    }
}

/// A listener of a simulated world.
#[derive(Debug)]
pub struct SimulatedListener {
    network: Network,
    address: SocketAddr,
}

impl SimulatedListener {
    fn poll_accept(
        &self,
        key: &mut Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(SimulatedStream, SocketAddr)>> {
        let waker = cx.waker().clone();
        let mut sockets = lock(&self.network.sockets);
        let sockets = &mut *sockets;
        let listening = sockets
            .listening
            .get_mut(&self.address)
            .expect("the listener is registered until it is dropped");
        listening.polls += 1;
        let fault = listening.lasting.or_else(|| listening.faults.pop_front());
        if let Some(fault) = fault {
            let listener = self.address;
            sockets.note(NetworkEvent::Failed { listener, fault });
            match fault {
                AcceptFault::Error(error) => {
                    return Poll::Ready(Err(error.into()));
                }
                AcceptFault::NotListening => return Poll::Ready(Err(not_listening())),
                AcceptFault::RuntimeGone => return Poll::Ready(Err(runtime_gone())),
                // Without the panic hook, because the panic is injected.
                AcceptFault::Panic => std::panic::resume_unwind(Box::new(ACCEPT_PANICS)),
            }
        }
        if let Some(failure) = listening.failures.pop_front() {
            if let Some(injection) = &self.network.injection {
                injection.accept_failed(self.address, failure);
            }
            return Poll::Ready(Err(failure.error()));
        }
        if let Some(pipe) = listening.queued.pop_front() {
            // The next connection has room now. No task in `accept` is woken: the one that got this connection calls
            // again.
            if let Some(next) = listening.connecting.pop_front() {
                listening.queued.push_back(Arc::clone(&next));
                next.enter(Stage::Queued);
            }
            let peer = pipe.client;
            pipe.enter(Stage::Accepted);
            sockets.open_streams += 1;
            sockets.note(NetworkEvent::Accepted {
                listener: self.address,
                peer,
            });
            let stream = SimulatedStream {
                network: self.network.clone(),
                pipe,
            };
            return Poll::Ready(Ok((stream, peer)));
        }
        let key = *key.get_or_insert_with(|| {
            listening.waiting_ever += 1;
            listening.waiting_ever
        });
        match listening
            .waiting
            .iter_mut()
            .find(|(other, _)| *other == key)
        {
            Some((_, known)) => *known = waker,
            None => listening.waiting.push((key, waker)),
        }
        let listener = self.address;
        sockets.note(NetworkEvent::Empty { listener });
        Poll::Pending
    }
}

/// Removes a waiter from the list when its `accept` is dropped.
struct Waits<'a> {
    listener: &'a SimulatedListener,
    key: Option<u64>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut sockets = lock(&self.listener.network.sockets);
        if let Some(listening) = sockets.listening.get_mut(&self.listener.address) {
            listening.waiting.retain(|(other, _)| *other != key);
        }
    }
}

impl SimulatedListener {
    /// The address that it is bound to, with its port resolved: clients connect to it.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # Explore::new().seed(1).run(|world| async move {
    /// let listener = world.listen()?;
    /// let address = listener.address();
    /// assert!(address.ip().is_loopback() && address.port() > 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Listener for SimulatedListener {
    type Io = SimulatedStream;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(SimulatedStream, SocketAddr)> {
        lock(&self.network.sockets).accept_calls += 1;
        let mut waits = Waits {
            listener: self,
            key: None,
        };
        poll_fn(|cx| {
            let polled = self.poll_accept(&mut waits.key, cx);
            if polled.is_pending() {
                self.network
                    .simulation
                    .waits_for(Wait::Accept(self.address));
            }
            polled
        })
        .await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn io_local_addr(stream: &SimulatedStream) -> io::Result<SocketAddr> {
        let reset = lock(&stream.pipe.state).reset;
        // As on systems where a connection has no addresses after a reset.
        if reset {
            return Err(ErrorKind::NotConnected.into());
        }
        Ok(stream.pipe.called)
    }

    fn asks_local_addr(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        (error.to_string() == RUNTIME_GONE).then_some(AcceptErrorKind::Listener)
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        let gone = {
            let mut sockets = lock(&self.network.sockets);
            let listener = self.address;
            let gone = sockets.listening.remove(&listener);
            let queued = gone
                .as_ref()
                .map_or(0, |gone| gone.queued.len() + gone.connecting.len());
            sockets.note(NetworkEvent::Closed { listener, queued });
            gone
        };
        if let Some(gone) = gone {
            for pipe in gone.queued.into_iter().chain(gone.connecting) {
                pipe.enter(Stage::Abandoned);
            }
        }
    }
}

/// The pool's end of a connection.
pub struct SimulatedStream {
    network: Network,
    pipe: Arc<Pipe>,
}

impl fmt::Debug for SimulatedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedStream")
            .field("peer", &self.pipe.client)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for SimulatedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.pipe.poll_read(End::Server, buffer, Some(cx.waker()));
        if polled.is_pending() {
            self.network
                .simulation
                .waits_for(Wait::Read(self.pipe.client));
        }
        polled
    }
}

impl AsyncWrite for SimulatedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.pipe.poll_write(End::Server, bytes, Some(cx.waker()));
        if polled.is_pending() {
            self.network
                .simulation
                .waits_for(Wait::Write(self.pipe.client));
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.finish(End::Server);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        {
            let mut sockets = lock(&self.network.sockets);
            sockets.open_streams -= 1;
            let peer = self.pipe.client;
            sockets.note(NetworkEvent::Dropped { peer });
        }
        self.pipe.close(End::Server);
    }
}

/// The client's end of a connection. Dropping it closes the connection.
pub struct SimulatedClient {
    simulation: Simulation,
    pipe: Arc<Pipe>,
}

impl SimulatedClient {
    /// Returns the client's address, which is the peer's address for the pool.
    pub fn address(&self) -> SocketAddr {
        self.pipe.client
    }

    /// Returns the progress of its connection.
    pub fn stage(&self) -> Stage {
        self.pipe.stage()
    }

    /// Sends as many of these bytes as there is room for.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room; `BrokenPipe` or `ConnectionReset` if the other end is gone.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        now(self.pipe.poll_write(End::Client, bytes, None))
    }

    /// Receives the buffered bytes; none at the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if no bytes are buffered; `ConnectionReset` after a reset.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        now(self.pipe.poll_read(End::Client, buffer, None))
    }

    /// Shuts down the sending direction. The client still receives.
    pub fn half_close(&self) {
        self.pipe.finish(End::Client);
    }

    /// Resets the connection.
    pub fn abort(self) {
        self.pipe.reset();
    }

    /// Returns the fault that has struck this client, if any, and so explains a failed read or write.
    ///
    /// Returns `None` outside an [exploration](crate::Explore).
    ///
    /// ```
    /// # use acceptor_simulation::{Explore, Faults};
    /// # Explore::new().seed(1).faults(Faults::none()).run(|world| async move {
    /// let listener = world.listen()?;
    /// let client = world.connect(listener.address()).await?;
    /// assert_eq!(client.fault(), None);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn fault(&self) -> Option<ClientFault> {
        lock(&self.pipe.state).fault
    }

    /// Returns a handle with which a fault can strike it later.
    pub(super) fn pending_fault(&self) -> PendingFault {
        PendingFault(Arc::downgrade(&self.pipe))
    }

    /// Waits until the connection is in the backlog, or was accepted.
    ///
    /// # Errors
    ///
    /// `ConnectionReset` if the listener was closed first.
    pub fn connected(&self) -> impl Future<Output = io::Result<()>> + '_ {
        poll_fn(|cx| {
            let mut state = lock(&self.pipe.state);
            match state.stage {
                Stage::Queued | Stage::Accepted => Poll::Ready(Ok(())),
                Stage::Abandoned => Poll::Ready(Err(reset())),
                Stage::Connecting => {
                    let replaced = state.connecting.replace(cx.waker().clone());
                    drop(state);
                    drop(replaced);
                    self.simulation.waits_for(Wait::Connect(self.pipe.called));
                    Poll::Pending
                }
            }
        })
    }
}

impl AsyncRead for SimulatedClient {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.pipe.poll_read(End::Client, buffer, Some(cx.waker()));
        if polled.is_pending() {
            self.simulation.waits_for(Wait::Read(self.pipe.called));
        }
        polled
    }
}

/// Closing shuts down the sending direction; the client still receives.
impl AsyncWrite for SimulatedClient {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.pipe.poll_write(End::Client, bytes, Some(cx.waker()));
        if polled.is_pending() {
            self.simulation.waits_for(Wait::Write(self.pipe.called));
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half_close();
        Poll::Ready(Ok(()))
    }
}

/// A connection that a fault may strike, if it is still open.
pub(super) struct PendingFault(Weak<Pipe>);

impl PendingFault {
    /// Strikes, and returns the client's address, or `None` if the connection is gone.
    pub(super) fn strike(&self, fault: ClientFault) -> Option<SocketAddr> {
        let pipe = self.0.upgrade()?;
        {
            let mut state = lock(&pipe.state);
            let client_is_gone = state.to_client.reader_gone;
            let has_finished = fault == ClientFault::HalfClose && state.to_server.finished;
            if client_is_gone || has_finished || state.reset || state.stage == Stage::Abandoned {
                return None;
            }
            state.fault = Some(fault);
        }
        match fault {
            ClientFault::Reset => pipe.reset(),
            ClientFault::HalfClose => pipe.finish(End::Client),
        }
        Some(pipe.client)
    }
}

/// Converts the result of a poll that registered no waker.
fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

impl fmt::Debug for SimulatedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedClient")
            .field("address", &self.address())
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}

impl Drop for SimulatedClient {
    fn drop(&mut self) {
        self.pipe.close(End::Client);
    }
}
