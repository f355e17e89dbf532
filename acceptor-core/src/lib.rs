//! A supervised pool of acceptors, for any async runtime.
//!
//! A pool of acceptors waits on listening sockets. Each acceptor prepares its
//! state ([`Acceptor::init`]), accepts, *becomes* the connection
//! ([`Acceptor::serve`]) while a replacement takes its place, or ends with
//! [`Acceptor::terminate`]. Failures are isolated and counted. Stopping is
//! graceful and bounded. Everything can be looked into and changed while it runs.
//!
//! Servers use the adapter crate of their runtime (`acceptor-tokio`,
//! `acceptor-smol`, `acceptor-async-std`), which re-exports this one.
//! This crate is for authors of adapters: implement [`Runtime`] and [`Listener`].
//!
//! The letters and numbers in the documentation (B5, S4, …) name the rules of
//! the contract that the conformance suite checks.

mod accept_error;
mod acceptor;
mod child;
mod connection;
mod error;
mod id;
mod listen;
mod listener;
#[cfg(all(test, loom))]
mod loom_tests;
mod machine;
mod policy;
mod pool;
pub mod report;
mod runtime;
mod signal;
mod status;
mod stop_report;
mod sync;
mod text;

pub use accept_error::AcceptErrorKind;
pub use acceptor::{Acceptor, AcceptorFn, Init, ListenerInfo, Terminate, acceptor_fn};
pub use connection::{CleanExit, Connection, Signals};
pub use error::{
    AddListenerError, AddListenerReason, BoxError, ChildError, CloseError, MAX_ACCEPTORS,
    ReconfigureError, SpecError, StartError, Stopped,
};
pub use id::{ChildId, ListenerId};
pub use listen::{
    Keepalive, ListenError, ListenOptions, Toggle, check_listener, check_tcp_listener,
};
pub use listener::Listener;
pub use policy::{ChildType, ConnectionReports, Grace, LastListener, Restart, Shutdown};
pub use pool::Pool;
pub use pool::handle::PoolHandle;
pub use pool::spec::{Configure, Spec};
pub use report::{Event, EventKind, Failure, Losses, Observer, Report};
pub use runtime::Runtime;
pub use signal::{Signal, SignalWait};
pub use status::{
    AcceptorRecord, AcceptorState, ConnectionRecord, Counts, ListenerRecord, ListenerState,
    PoolState, Status,
};
pub use stop_report::{EndKind, Ends, Phase, StopReason, StopReport};
