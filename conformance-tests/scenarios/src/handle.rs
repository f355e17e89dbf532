//! The pool of a scenario, with or without a handshake.

use std::net::SocketAddr;
use std::sync::Weak;

use acceptor_core::{
    AcceptorRecord, AddListenerReason, ChildError, ChildId, CloseError, ConnectionRecord, Counts,
    Handshake, LimitError, Listener, ListenerId, Pool, PoolHandle, ReconfigureError, Spec, Status,
    StopReport, Stopped, WaitingAcceptors, With,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::handshake::TestHandshake;
use super::history::History;
use super::test_acceptor::TestAcceptor;
use acceptor_simulation::{SimulatedListener, SimulatedRuntime, SimulatedStream};

/// The listeners of a scenario: `serve` gets the stream that they accept.
pub(super) trait PoolListener:
    Listener<
        Io = SimulatedStream,
        Addr = SocketAddr,
        Handshake: Handshake<SimulatedStream, SocketAddr, Stream = SimulatedStream>,
    >
{
}

pub(super) type HandshakeListener = With<SimulatedListener, TestHandshake>;

impl PoolListener for SimulatedListener {}
impl PoolListener for HandshakeListener {}

/// The owner of a pool, whose drop kills the pool.
#[derive(Debug)]
pub(super) enum Owner {
    Plain(Pool<SimulatedRuntime, SimulatedListener>),
    Handshake(Pool<SimulatedRuntime, HandshakeListener>, Weak<History>),
}

/// A handle of the pool, with the methods of [`PoolHandle`].
#[derive(Debug, Clone)]
pub(super) enum Handle {
    Plain(PoolHandle<SimulatedRuntime, SimulatedListener>),
    Handshake(
        PoolHandle<SimulatedRuntime, HandshakeListener>,
        Weak<History>,
    ),
}

impl Owner {
    pub(super) fn handle(&self) -> Handle {
        match self {
            Self::Plain(pool) => Handle::Plain(pool.handle()),
            Self::Handshake(pool, history) => {
                Handle::Handshake(pool.handle(), Weak::clone(history))
            }
        }
    }
}

/// Defines methods that call the method of the same name.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty $(, $convert:expr)?;)*) => {$(
        pub(super) fn $name(&self, $($argument: $type),*) -> $result {
            match self {
                Self::Plain(handle) => forward!(handle.$name($($argument),*) $(, $convert)?),
                Self::Handshake(handle, _) => forward!(handle.$name($($argument),*) $(, $convert)?),
            }
        }
    )*};
    ($call:expr) => { $call };
    ($call:expr, $convert:expr) => { $convert($call) };
}

impl Handle {
    forward! {
        acceptors() -> Result<Vec<AcceptorRecord>, Stopped>;
        connections() -> Result<Vec<ConnectionRecord<SocketAddr>>, Stopped>;
        counts() -> Result<Counts, Stopped>;
        status() -> Result<Status<SocketAddr>, Stopped>;
        stop_child(id: ChildId) -> Result<(), ChildError>;
        kill_child(id: ChildId) -> Result<(), ChildError>;
        reconfigure(spec: Spec<TestAcceptor>, waiting: WaitingAcceptors) -> Result<(), ReconfigureError>;
        reload(waiting: WaitingAcceptors) -> Result<(), ReconfigureError>;
        set_max_connections(limit: Option<usize>) -> Result<(), ReconfigureError>;
        set_listener_max_connections(id: ListenerId, limit: Option<usize>) -> Result<(), LimitError>;
        stop() -> (), drop;
        kill() -> (), drop;
        join() -> BoxFuture<'static, StopReport<SocketAddr>>, FutureExt::boxed;
        close_listener(id: ListenerId) -> BoxFuture<'static, Result<(), CloseError>>, FutureExt::boxed;
    }

    pub(super) fn add_listener(
        &self,
        runtime: Option<&SimulatedRuntime>,
        listener: SimulatedListener,
        acceptors: usize,
    ) -> Result<ListenerId, AddListenerReason> {
        fn add<L: PoolListener>(
            handle: &PoolHandle<SimulatedRuntime, L>,
            runtime: Option<&SimulatedRuntime>,
            listener: L,
            acceptors: usize,
        ) -> Result<ListenerId, AddListenerReason> {
            let added = match runtime {
                None => handle.add_listener(listener, acceptors),
                Some(runtime) => handle.add_listener_on(runtime, listener, acceptors),
            };
            added.map_err(|refused| refused.reason)
        }
        match self {
            Self::Plain(handle) => add(handle, runtime, listener, acceptors),
            Self::Handshake(handle, history) => {
                let listener = listener.with(TestHandshake::new(history));
                add(handle, runtime, listener, acceptors)
            }
        }
    }
}
