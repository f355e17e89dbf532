//! Type-erased worlds, so that the rules are compiled once rather than once per runtime.
//!
//! A pool is generic over its runtime and its listener. Each of their methods is forwarded to the world's own types
//! with one virtual call.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use acceptor_core::{AcceptErrorKind, Listener, NoHandshake, Refusal, Runtime};
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use futures::{FutureExt, TryFutureExt};

use crate::address::Address;
use crate::instruments::{Faults, Instruments, RuntimeError, ValueId};
use crate::patience::Patience;
use crate::tamper::Tamper;
use crate::world::{Client, Closed, World};

/// Any world whose listeners have no handshake.
///
/// With [instruments](Self::instrumented) a rule can observe and control more of the same world.
pub struct Boxed {
    world: Arc<dyn AnyWorld>,
    pace: Option<Pace>,
    instruments: Option<Arc<Instruments>>,
}

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Boxed").finish_non_exhaustive()
    }
}

impl Boxed {
    /// Erases the type of a world.
    pub fn new<W>(world: W) -> Self
    where
        W: World<Listener: Listener<Handshake = NoHandshake>>,
    {
        Self {
            world: Arc::new(Of(world)),
            pace: None,
            instruments: None,
        }
    }

    /// Returns the same world with instruments.
    pub fn instrumented(world: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(&world.world),
            pace: world.pace,
            instruments: Some(Instruments::new(world.clock())),
        })
    }

    /// Returns the same world with a clock that runs ten times as fast, for checks that need seconds to pass.
    ///
    /// The patience stays the same in real time.
    pub fn fast(world: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(&world.world),
            pace: Some(Pace {
                since: world.world.clock().now(),
            }),
            instruments: None,
        })
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        let instruments = self.instruments.as_ref();
        instruments.expect("the world is instrumented: see `Boxed::instrumented`")
    }

    /// Returns the runtime as a distinct value with which a listener can be added on its own runtime value.
    pub fn another_value(&self) -> BoxedRuntime {
        BoxedRuntime {
            value: ValueId::Another,
            ..self.runtime()
        }
    }

    fn listener(
        &self,
        listener: BoxedListener,
        faults: impl FnOnce(&Instruments) -> Faults,
    ) -> BoxedListener {
        let tamper = self.runtime().tamper;
        let classifies = match tamper.is_some_and(|tamper| tamper.asks_no_listener) {
            true => Classifies::Nothing,
            false => Classifies::ItsOwn,
        };
        let instruments = self
            .instruments
            .as_ref()
            .map(|instruments| InstrumentedAccept {
                faults: faults(instruments),
                instruments: Arc::clone(instruments),
                classifies,
            });
        BoxedListener {
            instruments,
            ..listener
        }
    }
}

/// Wraps a concrete world.
struct Of<W>(W);

trait AnyWorld: Send + Sync {
    fn runtime(&self) -> BoxedRuntime;

    fn run(&self, test: BoxFuture<'static, ()>);

    fn listen_on(&self, address: Address) -> io::Result<(BoxedListener, Address)>;

    fn listen(&self) -> io::Result<(BoxedListener, Address)>;

    fn listen_to_nothing(&self) -> io::Result<(BoxedListener, io::Error)>;

    fn listen_with(&self, socket: TcpListener) -> Option<io::Result<BoxedListener>>;

    fn has_resets(&self) -> bool;

    fn unmet(&self) -> &'static [(&'static str, &'static str)];

    fn accepted(&self, io: BoxedIo) -> BoxedStream;

    fn stream(&self, io: BoxedIo) -> BoxedStream;

    fn connect(&self, address: Address) -> BoxFuture<'static, io::Result<BoxedClient>>;

    fn patience(&self) -> Patience;

    fn clock(&self) -> BoxedRuntime;
}

impl<W> AnyWorld for Of<W>
where
    W: World<Listener: Listener<Handshake = NoHandshake>>,
{
    fn runtime(&self) -> BoxedRuntime {
        let listeners = self.0.listeners_runtime();
        BoxedRuntime {
            listeners: listeners.map(|runtime| Arc::new(runtime) as Arc<dyn AnyRuntime>),
            ..BoxedRuntime::new::<W>(self.0.runtime())
        }
    }

    fn run(&self, test: BoxFuture<'static, ()>) {
        self.0.run(test);
    }

    fn listen_on(&self, address: Address) -> io::Result<(BoxedListener, Address)> {
        let (listener, address) = self.0.listen_on(address)?;
        Ok((BoxedListener::new::<W>(listener), address))
    }

    fn listen(&self) -> io::Result<(BoxedListener, Address)> {
        let (listener, address) = self.0.listen()?;
        Ok((BoxedListener::new::<W>(listener), address))
    }

    fn listen_to_nothing(&self) -> io::Result<(BoxedListener, io::Error)> {
        let (listener, error) = self.0.listen_to_nothing()?;
        Ok((BoxedListener::new::<W>(listener), error))
    }

    fn listen_with(&self, socket: TcpListener) -> Option<io::Result<BoxedListener>> {
        let listener = self.0.listen_with(socket)?;
        Some(listener.map(BoxedListener::new::<W>))
    }

    fn has_resets(&self) -> bool {
        self.0.has_resets()
    }

    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        self.0.unmet()
    }

    fn accepted(&self, io: BoxedIo) -> BoxedStream {
        Box::new(self.0.accepted(io.into_inner::<W>()))
    }

    fn stream(&self, io: BoxedIo) -> BoxedStream {
        Box::new(self.0.stream(io.into_inner::<W>()))
    }

    fn connect(&self, address: Address) -> BoxFuture<'static, io::Result<BoxedClient>> {
        let connects = self.0.connect(address);
        connects
            .map_ok(|client| BoxedClient(Box::new(client)))
            .boxed()
    }

    fn patience(&self) -> Patience {
        self.0.patience()
    }

    fn clock(&self) -> BoxedRuntime {
        BoxedRuntime::new::<W>(self.0.clock())
    }
}

impl World for Boxed {
    type Runtime = BoxedRuntime;
    type Listener = BoxedListener;
    type Stream = BoxedStream;
    type Client = BoxedClient;

    fn runtime(&self) -> BoxedRuntime {
        BoxedRuntime {
            pace: self.pace,
            instruments: self.instruments.clone(),
            ..self.world.runtime()
        }
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.world.run(test.boxed());
    }

    fn address(address: &Address) -> Address {
        *address
    }

    fn listen_on(&self, address: Address) -> io::Result<(BoxedListener, Address)> {
        let (listener, address) = self.world.listen_on(address)?;
        let listener = self.listener(listener, |instruments| instruments.faults(address));
        Ok((listener, address))
    }

    fn listen(&self) -> io::Result<(BoxedListener, Address)> {
        let (listener, address) = self.world.listen()?;
        let listener = self.listener(listener, |instruments| instruments.faults(address));
        Ok((listener, address))
    }

    fn listen_to_nothing(&self) -> io::Result<(BoxedListener, io::Error)> {
        let (listener, error) = self.world.listen_to_nothing()?;
        Ok((self.listener(listener, |_| Faults::default()), error))
    }

    fn listen_with(&self, socket: TcpListener) -> Option<io::Result<BoxedListener>> {
        let listener = self.world.listen_with(socket)?;
        Some(listener.map(|listener| self.listener(listener, |_| Faults::default())))
    }

    fn has_resets(&self) -> bool {
        self.world.has_resets()
    }

    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        self.world.unmet()
    }

    fn accepted(&self, io: BoxedIo) -> BoxedStream {
        self.world.accepted(io)
    }

    fn stream(&self, io: BoxedIo) -> BoxedStream {
        self.world.stream(io)
    }

    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<BoxedClient>> + Send + 'static {
        self.world.connect(address)
    }

    fn patience(&self) -> Patience {
        let patience = self.world.patience();
        match self.pace {
            Some(_) => patience.scaled(f64::from(Pace::FACTOR)),
            None => patience,
        }
    }

    fn clock(&self) -> BoxedRuntime {
        BoxedRuntime {
            pace: self.pace,
            ..self.world.clock()
        }
    }

    fn tamper(runtime: &BoxedRuntime) -> Option<Arc<Tamper>> {
        runtime.tamper.clone()
    }
}

/// A clock that runs faster than the runtime's.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// The instant at which the clock started to run faster.
    since: Instant,
}

impl Pace {
    const FACTOR: u32 = 10;

    /// Converts an instant of the runtime's clock to this clock.
    fn time(self, runtime: Instant) -> Instant {
        self.since + Self::FACTOR * runtime.saturating_duration_since(self.since)
    }

    /// Converts an instant of this clock to the runtime's clock, rounding up.
    fn deadline(self, time: Instant) -> Instant {
        let passed = time.saturating_duration_since(self.since);
        self.since + passed / Self::FACTOR + Duration::from_nanos(1)
    }
}

/// A world with erased types, whose listeners may have handshakes.
pub trait Erased:
    World<Runtime = BoxedRuntime, Client = BoxedClient, Listener: Listener<Addr = Address>>
{
}

impl<W> Erased for W where
    W: World<Runtime = BoxedRuntime, Client = BoxedClient, Listener: Listener<Addr = Address>>
{
}

/// A type-erased runtime.
#[derive(Clone)]
pub struct BoxedRuntime {
    runtime: Arc<dyn AnyRuntime>,
    pub(crate) tamper: Option<Arc<Tamper>>,
    value: ValueId,
    pace: Option<Pace>,
    instruments: Option<Arc<Instruments>>,
    /// The runtime on which listeners are added, if it differs from the pool's.
    listeners: Option<Arc<dyn AnyRuntime>>,
}

impl BoxedRuntime {
    /// Returns the runtime on which listeners are added, if it differs from the pool's.
    pub(crate) fn for_listeners(&self) -> Option<Self> {
        Some(Self {
            runtime: Arc::clone(self.listeners.as_ref()?),
            listeners: None,
            ..self.clone()
        })
    }

    fn new<W: World>(runtime: W::Runtime) -> Self {
        Self {
            tamper: W::tamper(&runtime),
            runtime: Arc::new(runtime),
            value: ValueId::World,
            pace: None,
            instruments: None,
            listeners: None,
        }
    }
}

impl fmt::Debug for BoxedRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedRuntime").finish_non_exhaustive()
    }
}

trait AnyRuntime: Any + Send + Sync {
    fn spawn_boxed(&self, task: BoxFuture<'static, ()>);

    fn sleep_boxed(&self, deadline: Instant) -> BoxFuture<'_, ()>;

    fn is_same_as(&self, other: &dyn Any) -> bool;

    fn time(&self) -> Instant;

    fn as_any(&self) -> &dyn Any;
}

impl<R: Runtime> AnyRuntime for R {
    fn spawn_boxed(&self, task: BoxFuture<'static, ()>) {
        self.spawn(task);
    }

    fn sleep_boxed(&self, deadline: Instant) -> BoxFuture<'_, ()> {
        self.sleep_until(deadline).boxed()
    }

    fn is_same_as(&self, other: &dyn Any) -> bool {
        let other = other.downcast_ref::<R>();
        other.is_some_and(|other| self.is_same(other))
    }

    fn time(&self) -> Instant {
        self.now()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Runtime for BoxedRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn_boxed(match &self.instruments {
            Some(instruments) => instruments.task(self.value, task).boxed(),
            None => task.boxed(),
        });
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        let runtimes = self.pace.map_or(deadline, |pace| pace.deadline(deadline));
        let sleep = self.runtime.sleep_boxed(runtimes);
        match &self.instruments {
            None => sleep,
            Some(instruments) => sleep.then(move |()| instruments.slept(deadline)).boxed(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.instruments.is_none() && self.runtime.is_same_as(other.runtime.as_any())
    }

    fn now(&self) -> Instant {
        let instruments = self.instruments.as_ref();
        let stopped = instruments.and_then(|instruments| instruments.stopped_at());
        stopped.unwrap_or_else(|| {
            let time = self.runtime.time();
            self.pace.map_or(time, |pace| pace.time(time))
        })
    }
}

/// A type-erased listener without a handshake.
pub struct BoxedListener {
    listener: Box<dyn AnyListener>,
    instruments: Option<InstrumentedAccept>,
}

struct InstrumentedAccept {
    instruments: Arc<Instruments>,
    faults: Faults,
    classifies: Classifies,
}

/// Which errors a listener classifies itself. `Nothing` is used by deliberately wrong implementations only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Classifies {
    ItsOwn,
    Nothing,
}

impl BoxedListener {
    fn new<W: World<Listener: Listener<Handshake = NoHandshake>>>(listener: W::Listener) -> Self {
        Self {
            listener: Box::new(OfListener::<W>(listener)),
            instruments: None,
        }
    }
}

impl fmt::Debug for BoxedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedListener").finish_non_exhaustive()
    }
}

trait AnyListener: Send + Sync {
    fn accept_boxed(&self) -> BoxFuture<'_, io::Result<(BoxedIo, Address)>>;

    fn address(&self) -> io::Result<Address>;

    fn asks_address(&self) -> bool;

    fn classifies(&self, error: &io::Error) -> Option<AcceptErrorKind>;
}

/// A listener of the concrete world.
struct OfListener<W: World>(W::Listener);

impl<W: World<Listener: Listener<Handshake = NoHandshake>>> AnyListener for OfListener<W> {
    fn accept_boxed(&self) -> BoxFuture<'_, io::Result<(BoxedIo, Address)>> {
        // Called eagerly, as the pool calls it.
        self.0
            .accept()
            .map_ok(|(io, peer)| (BoxedIo::new::<W>(io), W::address(&peer)))
            .boxed()
    }

    fn address(&self) -> io::Result<Address> {
        self.0.local_addr().map(|address| W::address(&address))
    }

    fn asks_address(&self) -> bool {
        self.0.asks_local_addr()
    }

    fn classifies(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        self.0.classify(error)
    }
}

impl Listener for BoxedListener {
    type Io = BoxedIo;
    type Addr = Address;
    type Handshake = NoHandshake;

    fn accept(&self) -> impl Future<Output = io::Result<(BoxedIo, Address)>> + Send {
        let Some(InstrumentedAccept {
            instruments,
            faults,
            ..
        }) = &self.instruments
        else {
            return self.listener.accept_boxed();
        };
        // Called when polled, so that an injected fault replaces the call.
        let accept = async { self.listener.accept_boxed().await };
        async move {
            let (mut io, peer) = instruments.accept(faults, accept).await?;
            if instruments.loses_peer() {
                io.peer = Peer::Gone;
            }
            Ok((io, peer))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.listener.address()
    }

    fn io_local_addr(io: &BoxedIo) -> io::Result<Address> {
        match io.peer {
            Peer::Present => io.io.address(),
            Peer::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn asks_local_addr(&self) -> bool {
        self.instruments.is_some() || self.listener.asks_address()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn refuse(io: BoxedIo, how: &Refusal) {
        io.io.refused(how);
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        let Some(instruments) = &self.instruments else {
            return self.listener.classifies(error);
        };
        if instruments.classifies == Classifies::Nothing {
            return None;
        }
        let own = error.get_ref().and_then(|error| error.downcast_ref());
        match own {
            Some(RuntimeError(kind)) => Some(*kind),
            None => self.listener.classifies(error),
        }
    }
}

/// A type-erased accepted stream.
pub struct BoxedIo {
    io: Box<dyn AnyIo>,
    peer: Peer,
}

/// Whether the peer's address can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Present,
    Gone,
}

impl BoxedIo {
    fn new<W: World>(io: <W::Listener as Listener>::Io) -> Self {
        Self {
            io: Box::new(Io::<W>(io)),
            peer: Peer::Present,
        }
    }

    fn into_inner<W: World>(self) -> <W::Listener as Listener>::Io {
        let io = self.io.into_any().downcast::<Io<W>>();
        io.expect("the listeners of one world are of one type").0
    }
}

impl fmt::Debug for BoxedIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedIo").finish_non_exhaustive()
    }
}

/// An accepted stream of the concrete world.
struct Io<W: World>(<W::Listener as Listener>::Io);

trait AnyIo: Send {
    fn address(&self) -> io::Result<Address>;

    fn refused(self: Box<Self>, how: &Refusal);

    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<W: World> AnyIo for Io<W> {
    fn address(&self) -> io::Result<Address> {
        W::Listener::io_local_addr(&self.0).map(|address| W::address(&address))
    }

    fn refused(self: Box<Self>, how: &Refusal) {
        W::Listener::refuse(self.0, how);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A type-erased stream, as rules read and write it.
pub(crate) type BoxedStream = Box<dyn ReadWrite>;

/// A stream that can be read and written.
pub trait ReadWrite: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ReadWrite for S {}

/// A type-erased client.
pub struct BoxedClient(Box<dyn AnyClient>);

impl fmt::Debug for BoxedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedClient").finish_non_exhaustive()
    }
}

trait AnyClient: Send + Sync {
    fn address(&self) -> Address;

    fn sends<'a>(&'a mut self, bytes: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;

    fn finishes(&mut self) -> BoxFuture<'_, io::Result<()>>;

    fn receives(&mut self, count: usize) -> BoxFuture<'_, io::Result<Vec<u8>>>;

    fn receives_line(&mut self) -> BoxFuture<'_, io::Result<String>>;

    fn is_closed(&mut self) -> BoxFuture<'_, Closed>;

    fn closes(self: Box<Self>) -> BoxFuture<'static, ()>;

    fn resets(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl<C: Client> AnyClient for C {
    fn address(&self) -> Address {
        self.local_addr()
    }

    fn sends<'a>(&'a mut self, bytes: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        self.send(bytes).boxed()
    }

    fn finishes(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.finish().boxed()
    }

    fn receives(&mut self, count: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.receive(count).boxed()
    }

    fn receives_line(&mut self) -> BoxFuture<'_, io::Result<String>> {
        self.receive_line().boxed()
    }

    fn is_closed(&mut self) -> BoxFuture<'_, Closed> {
        self.closed().boxed()
    }

    fn closes(self: Box<Self>) -> BoxFuture<'static, ()> {
        (*self).close().boxed()
    }

    fn resets(self: Box<Self>) -> BoxFuture<'static, ()> {
        (*self).reset().boxed()
    }
}

impl Client for BoxedClient {
    fn local_addr(&self) -> Address {
        self.0.address()
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.sends(bytes).await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.0.finishes().await
    }

    async fn receive(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.0.receives(count).await
    }

    async fn receive_line(&mut self) -> io::Result<String> {
        self.0.receives_line().await
    }

    async fn closed(&mut self) -> Closed {
        self.0.is_closed().await
    }

    async fn close(self) {
        self.0.closes().await;
    }

    async fn reset(self) {
        self.0.resets().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_by_a_fast_clock_is_never_early() {
        let pace = Pace {
            since: Instant::now(),
        };
        for nanos in [0, 1, 9, 10, 11, 99, 1_000_000_007] {
            let deadline = pace.since + Duration::from_nanos(nanos);
            let woken = pace.time(pace.deadline(deadline));
            assert!(woken >= deadline, "{nanos}");
            assert!(woken - deadline <= Duration::from_nanos(10), "{nanos}");
        }
    }
}
