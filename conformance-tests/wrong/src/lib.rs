//! Deliberately wrong runtimes, listeners and pools, which test the suite itself.
//!
//! [`Wrong`] is a world with a flaw, wrapped around a correct world. Its runtime ([`RuntimeFlaw`])
//! and its listeners ([`ListenerFlaw`]) have flaws of their own; its pools are the core's own,
//! tampered with at every interface ([`Tamper`]). The table (`table`) says which flaw breaks which
//! rule, with which text of the failure, and which rules still hold. `tests/wrong.rs` checks it.

mod breakers;
mod check;
mod further;
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

pub use breakers::breakers;
pub use check::Said;
pub use listener::{ListenerFlaw, WrongListener, WrongStream};
pub use runtime::{RuntimeFlaw, WrongRuntime};
pub use stream::{StreamFlaw, WrongIo};
pub use table::{Case, table};

/// The flaw of a world: in its runtime, its listeners, its streams, or its pools.
#[derive(Debug, Clone)]
pub enum Flaw {
    /// A flaw of the runtime.
    Runtime(RuntimeFlaw),
    /// A flaw of the listeners.
    Listener(ListenerFlaw),
    /// A flaw of the streams.
    Stream(StreamFlaw),
    /// A flaw of the pools.
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
    /// Adds a flaw to a world, and sets how long its checks wait.
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
            Flaw::Listener(ListenerFlaw::AcceptsAnySocket) => {
                made.or_else(|_| self.world.listen().map(|(listener, _)| listener))
            }
            Flaw::Listener(ListenerFlaw::RefusesWithoutReason) => {
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
