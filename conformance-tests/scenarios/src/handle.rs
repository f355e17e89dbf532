//! The pool of a scenario, whether or not its listeners have a handshake.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use acceptor_core::{
    AcceptorRecord, AddListenerReason, ChildError, ChildId, CloseError, ConnectionRecord, Counts,
    Handshake, Listener, ListenerId, Pool, PoolHandle, ReconfigureError, Spec, Status, StopReport,
    Stopped, WaitingAcceptors,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::book::Book;
use super::cast::Cast;
use acceptor_simulation::{SimulatedListener, SimulatedRuntime, SimulatedStream};

/// The listeners of a scenario: what they accept is what `serve` gets.
pub(super) trait PoolListener:
    Listener<
        Io = SimulatedStream,
        Addr = SocketAddr,
        Handshake: Handshake<SimulatedStream, SocketAddr, Stream = SimulatedStream>,
    >
{
}

impl<L> PoolListener for L where
    L: Listener<
            Io = SimulatedStream,
            Addr = SocketAddr,
            Handshake: Handshake<SimulatedStream, SocketAddr, Stream = SimulatedStream>,
        >
{
}

/// A handle of the pool. Its calls are those of [`PoolHandle`].
pub(super) type Handle = Box<dyn Calls>;

pub(super) trait Calls: fmt::Debug + Send + Sync {
    fn another(&self) -> Handle;

    fn add_listener(
        &self,
        runtime: Option<&SimulatedRuntime>,
        listener: SimulatedListener,
        acceptors: usize,
    ) -> Result<ListenerId, AddListenerReason>;

    fn close_listener(&self, id: ListenerId) -> BoxFuture<'static, Result<(), CloseError>>;

    fn acceptors(&self) -> Result<Vec<AcceptorRecord>, Stopped>;

    fn connections(&self) -> Result<Vec<ConnectionRecord<SocketAddr>>, Stopped>;

    fn counts(&self) -> Result<Counts, Stopped>;

    fn status(&self) -> Result<Status<SocketAddr>, Stopped>;

    fn stop_child(&self, id: ChildId) -> Result<(), ChildError>;

    fn kill_child(&self, id: ChildId) -> Result<(), ChildError>;

    fn reconfigure(
        &self,
        spec: Spec<Cast, SocketAddr>,
        waiting: WaitingAcceptors,
    ) -> Result<(), ReconfigureError>;

    fn reload(&self, waiting: WaitingAcceptors) -> Result<(), ReconfigureError>;

    fn stop(&self);

    fn kill(&self);

    fn join(&self) -> BoxFuture<'static, StopReport<SocketAddr>>;
}

/// The owner of a pool: dropping it kills the pool.
pub(super) type Owner = Box<dyn Send>;

/// Both ends of a pool whose listeners are made of simulated ones by `make`.
pub(super) fn both<L: PoolListener>(
    pool: Pool<SimulatedRuntime, L>,
    book: &Arc<Book>,
    make: fn(SimulatedListener, &Weak<Book>) -> L,
) -> (Owner, Handle) {
    let handle = Of {
        handle: pool.handle(),
        book: Arc::downgrade(book),
        make,
    };
    (Box::new(pool), Box::new(handle))
}

struct Of<L: PoolListener> {
    handle: PoolHandle<SimulatedRuntime, L>,
    book: Weak<Book>,
    make: fn(SimulatedListener, &Weak<Book>) -> L,
}

impl<L: PoolListener> fmt::Debug for Of<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

impl<L: PoolListener> Calls for Of<L> {
    fn another(&self) -> Handle {
        Box::new(Self {
            handle: self.handle.clone(),
            book: Weak::clone(&self.book),
            make: self.make,
        })
    }

    fn add_listener(
        &self,
        runtime: Option<&SimulatedRuntime>,
        listener: SimulatedListener,
        acceptors: usize,
    ) -> Result<ListenerId, AddListenerReason> {
        let listener = (self.make)(listener, &self.book);
        let added = match runtime {
            None => self.handle.add_listener(listener, acceptors),
            Some(runtime) => self.handle.add_listener_on(runtime, listener, acceptors),
        };
        added.map_err(|refused| refused.reason)
    }

    fn close_listener(&self, id: ListenerId) -> BoxFuture<'static, Result<(), CloseError>> {
        self.handle.close_listener(id).boxed()
    }

    fn acceptors(&self) -> Result<Vec<AcceptorRecord>, Stopped> {
        self.handle.acceptors()
    }

    fn connections(&self) -> Result<Vec<ConnectionRecord<SocketAddr>>, Stopped> {
        self.handle.connections()
    }

    fn counts(&self) -> Result<Counts, Stopped> {
        self.handle.counts()
    }

    fn status(&self) -> Result<Status<SocketAddr>, Stopped> {
        self.handle.status()
    }

    fn stop_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.handle.stop_child(id)
    }

    fn kill_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.handle.kill_child(id)
    }

    fn reconfigure(
        &self,
        spec: Spec<Cast, SocketAddr>,
        waiting: WaitingAcceptors,
    ) -> Result<(), ReconfigureError> {
        self.handle.reconfigure(spec, waiting)
    }

    fn reload(&self, waiting: WaitingAcceptors) -> Result<(), ReconfigureError> {
        self.handle.reload(waiting)
    }

    fn stop(&self) {
        drop(self.handle.stop());
    }

    fn kill(&self) {
        drop(self.handle.kill());
    }

    fn join(&self) -> BoxFuture<'static, StopReport<SocketAddr>> {
        self.handle.join().boxed()
    }
}
