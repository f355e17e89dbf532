//! A world whose listeners return errors from `accept` when told to, and classify some of them.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use acceptor_core::{AcceptErrorKind, Listener, StreamOf};

use crate::patience::Patience;
use crate::tamper::Tamper;
use crate::world::World;

/// A world whose listeners return errors from `accept` when told to.
pub struct FailingListeners<W> {
    world: Arc<W>,
    faults: Mutex<HashMap<SocketAddr, Faults>>,
}

/// The error of `accept` on a socket that does not listen: EINVAL, or WSAEINVAL. It is one of the listener by its
/// number; without one, `InvalidInput` is of one connection (A6).
pub fn not_listening() -> io::Error {
    io::Error::from_raw_os_error(if cfg!(windows) { 10022 } else { 22 })
}

/// An error that the listener itself classifies, as it does those of its runtime (A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfTheRuntime(pub AcceptErrorKind);

impl fmt::Display for OfTheRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an error of the runtime's own, of kind {:?}", self.0)
    }
}

impl Error for OfTheRuntime {}

/// The errors that one listener has yet to return. Clones share them.
#[derive(Clone, Default)]
pub struct Faults {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    errors: VecDeque<io::Error>,
    waker: Option<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// The listener is to return this error, before it accepts another connection.
    pub fn inject(&self, error: io::Error) {
        self.inject_all([error]);
    }

    /// The listener is to return these errors one after the other, before it accepts another connection.
    pub fn inject_all(&self, errors: impl IntoIterator<Item = io::Error>) {
        let waker = {
            let mut shared = lock(&self.shared);
            shared.errors.extend(errors);
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// How many errors it has yet to return.
    pub fn pending(&self) -> usize {
        lock(&self.shared).errors.len()
    }

    fn next(&self, waker: &Waker) -> Option<io::Error> {
        let mut shared = lock(&self.shared);
        let error = shared.errors.pop_front();
        if error.is_none() {
            shared.waker = Some(waker.clone());
        }
        error
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl<W: World> FailingListeners<W> {
    /// The same world, with listeners that can fail.
    pub fn new(world: &Arc<W>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            faults: Mutex::default(),
        })
    }

    /// The faults of the listener that is bound to an address.
    pub fn faults(&self, address: SocketAddr) -> Faults {
        lock(&self.faults).entry(address).or_default().clone()
    }

    fn failing(&self, listener: W::Listener, faults: Faults) -> FailingListener<W::Listener> {
        let tamper = W::tamper(&self.world.runtime());
        let classifies = match tamper.is_some_and(|tamper| tamper.asks_no_listener) {
            true => Classifies::Nothing,
            false => Classifies::ItsOwn,
        };
        FailingListener {
            listener,
            faults,
            classifies,
        }
    }
}

impl<W> fmt::Debug for FailingListeners<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingListeners").finish_non_exhaustive()
    }
}

/// A listener that returns errors when told to.
pub struct FailingListener<L> {
    listener: L,
    faults: Faults,
    classifies: Classifies,
}

/// Which errors a listener classifies itself. None only where that is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Classifies {
    ItsOwn,
    Nothing,
}

impl<L> fmt::Debug for FailingListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingListener")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl<L: Listener> Listener for FailingListener<L> {
    type Io = L::Io;
    type Addr = L::Addr;
    type Handshake = L::Handshake;

    async fn accept(&self) -> io::Result<(L::Io, L::Addr)> {
        let mut accept = pin!(self.listener.accept());
        poll_fn(|cx| match self.faults.next(cx.waker()) {
            Some(error) => Poll::Ready(Err(error)),
            None => accept.as_mut().poll(cx),
        })
        .await
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }

    fn io_local_addr(stream: &L::Io) -> io::Result<L::Addr> {
        L::io_local_addr(stream)
    }

    fn handshake(&self) -> L::Handshake {
        self.listener.handshake()
    }

    fn asks_local_addr(&self) -> bool {
        self.listener.asks_local_addr()
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        if self.classifies == Classifies::Nothing {
            return None;
        }
        let own = error.get_ref().and_then(|error| error.downcast_ref());
        match own {
            Some(OfTheRuntime(kind)) => Some(*kind),
            None => self.listener.classify(error),
        }
    }
}

impl<W: World> World for FailingListeners<W> {
    type Runtime = W::Runtime;
    type Listener = FailingListener<W::Listener>;
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
        let faults = self.faults(address);
        Ok((self.failing(listener, faults), address))
    }

    fn listen_to_nothing(&self) -> io::Result<(Self::Listener, io::Error)> {
        let (listener, error) = self.world.listen_to_nothing()?;
        Ok((self.failing(listener, Faults::default()), error))
    }

    fn accepted(&self, stream: <W::Listener as Listener>::Io) -> W::Stream {
        self.world.accepted(stream)
    }

    fn stream(&self, stream: StreamOf<W::Listener>) -> W::Stream {
        self.world.stream(stream)
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
