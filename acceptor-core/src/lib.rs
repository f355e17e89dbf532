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
//! This crate is for who writes an adapter: implement [`Runtime`] and [`Listener`].
//!
//! The letters and numbers in the documentation (B5, S4, …) name the rules of
//! the contract that the conformance suite checks.

mod accept_error;
mod acceptor;
mod backoff;
mod begin;
mod bell;
mod child;
mod connection;
mod contained;
mod control;
mod driver;
mod end;
mod error;
mod handle;
mod id;
mod inner;
mod intensity;
mod line;
mod listen;
mod listener;
#[cfg(all(test, loom))]
mod loom_tests;
mod pool;
pub mod report;
mod runtime;
mod seat;
mod shutdown;
mod signal;
mod socket;
mod spec;
mod status;
mod stop;
mod supervisor;
mod sync;
mod watcher;

pub use accept_error::AcceptErrorKind;
pub use acceptor::{Acceptor, AcceptorFn, Init, ListenerInfo, Terminate, acceptor_fn};
pub use connection::{CleanExit, Connection, Signals};
pub use error::{
    AddListenerError, AddListenerReason, BoxError, ChildError, CloseError, MAX_ACCEPTORS,
    ReconfigureError, SpecError, StartError, Stopped,
};
pub use handle::PoolHandle;
pub use id::{ChildId, ListenerId};
pub use listen::{Keepalive, ListenError, ListenOptions, Toggle};
pub use listener::Listener;
pub use pool::Pool;
pub use report::{Event, Failure, Observer, Report};
pub use runtime::Runtime;
pub use signal::{Signal, SignalWait};
pub use spec::{ChildType, Configure, Grace, Restart, Shutdown, Spec};
pub use status::{ConnectionRecord, Counts, ListenerRecord, ListenerState, PoolState, Status};
pub use stop::{EndKind, Ends, Phase, StopReason, StopReport};
