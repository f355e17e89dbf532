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
//! A letter and a number, as in (L4), name a rule that pools keep, *section 2* is a section of the rules. The package
//! `conformance-tests` has them all, in its file `RULES.md`, and a test for each.

mod accept_error;
mod acceptor;
mod child;
mod connection;
mod error;
mod exit;
mod guard;
pub mod guide;
mod handshake;
mod id;
mod incoming;
mod latch;
mod listen;
mod listener;
#[cfg(all(test, loom))]
mod loom_tests;
mod machine;
mod policy;
mod pool;
pub mod report;
mod runtime;
mod settings;
mod spec;
mod status;
mod stop_report;
mod sync;
mod test_signals;
mod text;

pub use accept_error::AcceptErrorKind;
pub use acceptor::{
    Acceptor, AcceptorFn, Init, ListenerInfo, Terminate, acceptor_fn, acceptor_from,
};
pub use connection::{Connection, Lifecycle};
pub use error::{
    AddListenerError, AddListenerReason, BoxError, ChildError, CloseError, MAX_ACCEPTORS,
    ReconfigureError, SpecError, StartError, Stopped,
};
pub use exit::{Exit, IntoExit, is_peer_gone};
pub use guard::{Guard, GuardedStream, Subtask};
pub use handshake::{Handshake, HandshakeError, NoHandshake, StreamOf, Then};
pub use id::{ChildId, ListenerId, ParseIdError};
pub use incoming::{Incoming, Transport};
pub use latch::{Latch, LatchWait};
pub use listen::{
    Keepalive, ListenError, ListenOptions, asks_local_addr, check_listener, check_tcp_listener,
};
pub use listener::{Listener, With};
pub use policy::{
    ChildType, ConnectionReports, Grace, LastListener, Restart, Shutdown, WaitingAcceptors,
};
pub use pool::Pool;
pub use pool::handle::{CloseListener, Join, PoolHandle};
pub use report::{Event, EventKind, Failure, Losses, Observer, Report, observer_fn};
pub use runtime::Runtime;
pub use settings::{AcceptErrorFn, ListenerSettings, PeerGoneFn, Settings};
pub use spec::{Configure, Spec};
pub use status::{
    AcceptorRecord, AcceptorState, ChildCounts, ConnectionRecord, ConnectionState, Counts,
    ListenerRecord, ListenerState, PoolState, Status,
};
pub use stop_report::{EndKind, Ends, LateConnection, Phase, StopReason, StopReport};
pub use test_signals::TestSignals;
