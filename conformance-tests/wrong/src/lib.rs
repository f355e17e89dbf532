//! Deliberately wrong runtimes, listeners and pools: the suite is itself tested.
//!
//! [`Wrong`] is a world with a flaw, around a world without: its runtime
//! ([`RuntimeFlaw`]) and its listeners ([`ListenerFlaw`]) err by themselves; its
//! pools are the core's own, tampered with from all sides ([`Tamper`]). The
//! table (`table`) says which flaw breaks which rule, with which words, and
//! which rules it leaves alone. `tests/wrong.rs` holds the suite to it.

mod listener;
mod runtime;
mod stream;
mod table;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use acceptor_core::Listener;

use conformance_tests::Patience;
use conformance_tests::tamper::Tamper;
use conformance_tests::{Address, IpWorld, World};

pub use listener::{ListenerFlaw, WrongListener, WrongStream};
pub use runtime::{RuntimeFlaw, WrongRuntime};
pub use stream::{StreamFlaw, WrongIo};
pub use table::{Case, table};

/// What is wrong: the runtime, the listeners, the streams, or the pools.
#[derive(Debug, Clone)]
pub enum Flaw {
    /// The runtime.
    Runtime(RuntimeFlaw),
    /// The listeners.
    Listener(ListenerFlaw),
    /// The streams.
    Stream(StreamFlaw),
    /// The pools.
    Pool(Arc<Tamper>),
}

impl From<RuntimeFlaw> for Flaw {
    fn from(flaw: RuntimeFlaw) -> Self {
        Flaw::Runtime(flaw)
    }
}

impl From<ListenerFlaw> for Flaw {
    fn from(flaw: ListenerFlaw) -> Self {
        Flaw::Listener(flaw)
    }
}

impl From<StreamFlaw> for Flaw {
    fn from(flaw: StreamFlaw) -> Self {
        Flaw::Stream(flaw)
    }
}

impl From<Tamper> for Flaw {
    fn from(tamper: Tamper) -> Self {
        Flaw::Pool(Arc::new(tamper))
    }
}

/// A world with a flaw.
pub struct Wrong<W: IpWorld> {
    world: W,
    flaw: Flaw,
    patience: Patience,
    runtime: WrongRuntime<W::Runtime>,
    listeners: AtomicUsize,
}

impl<W: IpWorld> Wrong<W> {
    /// The same world, with a flaw, and with a patience for what will not come.
    pub fn new(world: W, flaw: Flaw, patience: Patience) -> Self {
        let runtime = WrongRuntime::new(world.runtime(), flaw.clone());
        Self {
            world,
            flaw,
            patience,
            runtime,
            listeners: AtomicUsize::new(0),
        }
    }

    fn listener(&self, listener: W::Listener) -> WrongListener<W::Listener, W::Runtime> {
        let flaw = match self.flaw {
            Flaw::Listener(flaw) => Some(flaw),
            _ => None,
        };
        let before = self.listeners.fetch_add(1, Ordering::SeqCst);
        WrongListener::new(listener, flaw, self.world.runtime(), before)
    }
}

impl<W: IpWorld> fmt::Debug for Wrong<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrong")
            .field("flaw", &self.flaw)
            .finish_non_exhaustive()
    }
}

impl<W: IpWorld> World for Wrong<W> {
    type Runtime = WrongRuntime<W::Runtime>;
    type Listener = WrongListener<W::Listener, W::Runtime>;
    type Stream = WrongIo<W::Stream>;
    type Client = W::Client;

    fn runtime(&self) -> Self::Runtime {
        self.runtime.clone()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.world.run(test);
        self.runtime.run_is_over();
    }

    fn address(address: &SocketAddr) -> Address {
        W::address(address)
    }

    fn listen(&self) -> io::Result<(Self::Listener, Address)> {
        let (listener, address) = self.world.listen()?;
        Ok((self.listener(listener), address))
    }

    fn listen_on(&self, address: Address) -> io::Result<(Self::Listener, Address)> {
        let (listener, address) = self.world.listen_on(address)?;
        Ok((self.listener(listener), address))
    }

    fn listen_to_nothing(&self) -> io::Result<(Self::Listener, io::Error)> {
        let (listener, error) = self.world.listen_to_nothing()?;
        Ok((self.listener(listener), error))
    }

    fn listen_with(&self, socket: TcpListener) -> Option<io::Result<Self::Listener>> {
        let made = self.world.listen_with(socket)?;
        let made = match self.flaw {
            Flaw::Listener(ListenerFlaw::OfAnything) => {
                made.or_else(|_| self.world.listen().map(|(listener, _)| listener))
            }
            Flaw::Listener(ListenerFlaw::RefusesWithoutAWord) => {
                made.map_err(|error| error.kind().into())
            }
            _ => made,
        };
        Some(made.map(|listener| self.listener(listener)))
    }

    fn accepted(&self, stream: WrongStream<<W::Listener as Listener>::Io>) -> Self::Stream {
        let flaw = match self.flaw {
            Flaw::Stream(flaw) => Some(flaw),
            _ => None,
        };
        WrongIo::new(self.world.accepted(stream.stream), flaw)
    }

    fn stream(&self, stream: WrongStream<<W::Listener as Listener>::Io>) -> Self::Stream {
        self.accepted(stream)
    }

    fn connect(
        &self,
        address: Address,
    ) -> impl Future<Output = io::Result<W::Client>> + Send + 'static {
        self.world.connect(address)
    }

    fn patience(&self) -> Patience {
        self.patience
    }

    fn clock(&self) -> Self::Runtime {
        self.runtime.sound()
    }

    fn tamper(runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        runtime.tamper()
    }
}
