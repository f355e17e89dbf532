//! A world whose listeners count what `accept` costs, know the task that calls it, and can lose a peer before its address
//! is read.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use acceptor_core::{AcceptErrorKind, Listener, NoHandshake};

use crate::disturbed::{TaskId, current_task};
use crate::patience::Patience;
use crate::tamper::Tamper;
use crate::world::World;

/// A world whose listeners count what `accept` costs.
pub struct CountedAccepts<W> {
    world: Arc<W>,
    cost: Arc<Cost>,
    peer_gone: Arc<AtomicBool>,
}

/// What the `accept` of all listeners cost so far.
#[derive(Default)]
pub struct Cost {
    calls: AtomicUsize,
    polls: AtomicUsize,
    wakes: AtomicUsize,
    accepted: AtomicUsize,
    stage: Mutex<Stage>,
    tasks: Mutex<Vec<TaskId>>,
    witness: Mutex<Option<Arc<Witness>>>,
}

/// Is called by `accept` before it returns a connection, with the number of that connection.
type Witness = dyn Fn(usize) + Send + Sync;

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cost")
            .field("so_far", &self.so_far())
            .finish_non_exhaustive()
    }
}

/// Where the last call of `accept` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Nobody polls it, and nobody need be woken by it.
    #[default]
    Idle,
    /// It is being polled.
    Polled,
    /// It is pending, and nobody was woken since.
    Waits,
}

/// What `accept` cost, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How often it was called.
    pub calls: usize,
    /// How often its future was polled.
    pub polls: usize,
    /// How often it woke who polled it.
    pub wakes: usize,
}

impl Cost {
    /// The numbers so far.
    pub fn so_far(&self) -> Counted {
        Counted {
            calls: self.calls.load(Ordering::SeqCst),
            polls: self.polls.load(Ordering::SeqCst),
            wakes: self.wakes.load(Ordering::SeqCst),
        }
    }

    /// How many connections it returned.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The tasks that polled it, in a world that knows its tasks.
    pub fn tasks(&self) -> Vec<TaskId> {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Calls this before `accept` returns a connection, with the number of that connection, counted from 1.
    pub fn witness(&self, witness: impl Fn(usize) + Send + Sync + 'static) {
        let witness: Arc<Witness> = Arc::new(witness);
        *self.witness.lock().unwrap_or_else(PoisonError::into_inner) = Some(witness);
    }

    fn returns(&self) {
        let number = self.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let witness = self
            .witness
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(witness) = witness {
            witness(number);
        }
    }

    fn is_polled(&self) {
        self.polls.fetch_add(1, Ordering::SeqCst);
        self.stage(|stage| *stage = Stage::Polled);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let new = current_task().filter(|task| !tasks.contains(task));
        tasks.extend(new);
    }

    /// Whether it is pending, and nobody was woken since.
    pub fn waits(&self) -> bool {
        self.stage(|stage| *stage == Stage::Waits)
    }

    fn stage<T>(&self, look: impl FnOnce(&mut Stage) -> T) -> T {
        look(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts, and passes on.
struct CountingWaker {
    cost: Arc<Cost>,
    waker: Waker,
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.cost.stage(|stage| *stage = Stage::Idle);
        self.cost.wakes.fetch_add(1, Ordering::SeqCst);
        self.waker.wake_by_ref();
    }
}

impl<W: World> CountedAccepts<W> {
    /// The same world, with listeners that count.
    pub fn new(world: &Arc<W>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            cost: Arc::default(),
            peer_gone: Arc::default(),
        })
    }

    /// What `accept` costs.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// The peer of the next connection is gone before its address is read.
    pub fn lose_next_peer(&self) {
        self.peer_gone.store(true, Ordering::SeqCst);
    }
}

impl<W> fmt::Debug for CountedAccepts<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedAccepts")
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

/// A listener that counts.
pub struct CountedListener<L> {
    listener: L,
    cost: Arc<Cost>,
    peer_gone: Arc<AtomicBool>,
}

impl<L> fmt::Debug for CountedListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedListener").finish_non_exhaustive()
    }
}

/// A stream, and whether its peer was there to be asked for.
#[derive(Debug)]
pub struct CountedStream<S> {
    stream: S,
    peer: Peer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    There,
    Gone,
}

impl<L: Listener<Addr = SocketAddr>> Listener for CountedListener<L> {
    type Io = CountedStream<L::Io>;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        self.cost.calls.fetch_add(1, Ordering::SeqCst);
        let mut accept = pin!(self.listener.accept());
        let (stream, address) = poll_fn(|cx| {
            self.cost.is_polled();
            let waker = Waker::from(Arc::new(CountingWaker {
                cost: Arc::clone(&self.cost),
                waker: cx.waker().clone(),
            }));
            let accepted = accept.as_mut().poll(&mut Context::from_waker(&waker));
            self.cost.stage(|stage| {
                *stage = match *stage {
                    Stage::Polled if accepted.is_pending() => Stage::Waits,
                    // Ready, or woken while it was polled.
                    _ => Stage::Idle,
                }
            });
            accepted
        })
        .await?;
        self.cost.returns();
        let peer = if self.peer_gone.swap(false, Ordering::SeqCst) {
            Peer::Gone
        } else {
            Peer::There
        };
        Ok((CountedStream { stream, peer }, address))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn io_local_addr(stream: &Self::Io) -> io::Result<SocketAddr> {
        match stream.peer {
            Peer::There => L::io_local_addr(&stream.stream),
            Peer::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        self.listener.classify(error)
    }
}

impl<W: World> CountedAccepts<W> {
    fn counted(&self, listener: W::Listener) -> CountedListener<W::Listener> {
        CountedListener {
            listener,
            cost: Arc::clone(&self.cost),
            peer_gone: Arc::clone(&self.peer_gone),
        }
    }
}

impl<W: World> World for CountedAccepts<W> {
    type Runtime = W::Runtime;
    type Listener = CountedListener<W::Listener>;
    type Stream = W::Stream;
    type Client = W::Client;

    fn runtime(&self) -> W::Runtime {
        self.world.runtime()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.world.run(test);
    }

    fn listen_on(&self, address: SocketAddr) -> io::Result<(Self::Listener, SocketAddr)> {
        let (listener, address) = self.world.listen_on(address)?;
        Ok((self.counted(listener), address))
    }

    fn listen_to_nothing(&self) -> io::Result<(Self::Listener, io::Error)> {
        let (listener, error) = self.world.listen_to_nothing()?;
        Ok((self.counted(listener), error))
    }

    fn accepted(&self, stream: CountedStream<<W::Listener as Listener>::Io>) -> W::Stream {
        self.world.accepted(stream.stream)
    }

    fn stream(&self, stream: CountedStream<<W::Listener as Listener>::Io>) -> W::Stream {
        self.accepted(stream)
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<W::Client>> + Send + 'static {
        self.world.connect(address)
    }

    fn patience(&self) -> Patience {
        self.world.patience()
    }

    fn clock(&self) -> Self::Runtime {
        self.world.clock()
    }

    fn tamper(runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        W::tamper(runtime)
    }
}
