//! A supervised pool of acceptors, for any async runtime.
//!
//! **Servers use the adapter crate of their runtime**: `acceptor-tokio`, `acceptor-smol` or `acceptor-async-std`. Each re-exports
//! everything in this crate. Depend on this crate directly to write an adapter for another runtime, or a library that works with all of
//! them.
//!
//! A [`Pool`] accepts connections from any number of listeners and serves each one in its own task. Errors and panics end one
//! connection, are reported once, and are counted; too many of them within a period stop the pool. A stop is graceful and bounded.
//! Connections can be listed, stopped and killed one by one, and settings can be changed while the pool runs. The behaviour follows
//! Erlang's `acceptor_pool`.
//!
//! # The parts
//!
//! | you write | it is |
//! |---|---|
//! | an [`Acceptor`], or a function wrapped by [`acceptor_fn`] | the protocol: `init` prepares a state, `serve` serves one connection, `terminate` ends an acceptor without a connection |
//! | a [`Spec`] | the acceptor and the [`Settings`] of the pool: times of the stop, restart intensity, observer |
//!
//! | the adapter provides | it is |
//! |---|---|
//! | a [`Runtime`] | spawn, sleep, clock |
//! | a [`Listener`] | accept and addresses; [`Listener::with`] adds a [`Handshake`] such as TLS |
//!
//! | the pool provides | it is |
//! |---|---|
//! | a [`Connection`] | the stream, the addresses, and the [`Lifecycle`]: the signals *draining* and *stop*, and guards |
//! | [`Counts`], [`Status`], [`ConnectionRecord`] | what the pool is doing |
//! | a [`Report`] | one failure, for the [`Observer`] and for `tracing` |
//! | a [`StopReport`] | how the stop went, and how each connection ended |
//!
//! # An acceptor
//!
//! This is generic over the runtime, as a library would write it. The crate pages of the adapters have complete servers.
//!
//! ```
//! use acceptor_core::{Acceptor, BoxError, Connection, Exit, Init, Listener, ListenerInfo, StreamOf};
//! use futures::AsyncWriteExt;
//!
//! /// Sends each client a greeting that was prepared before the client arrived.
//! struct Greeter;
//!
//! impl<L: Listener> Acceptor<L> for Greeter
//! where
//!     StreamOf<L>: futures::AsyncWrite + Unpin,
//! {
//!     type State = String;
//!     type Exit = Result<Exit, BoxError>;
//!
//!     /// Runs before the acceptor waits for a connection.
//!     async fn init(&self, listener: &ListenerInfo<L::Addr>) -> Result<Init<String>, BoxError> {
//!         Ok(Init::Accept(format!("hello from acceptor {}\n", listener.child)))
//!     }
//!
//!     /// Is the connection: it has ended when this returns.
//!     async fn serve(
//!         &self,
//!         mut connection: Connection<StreamOf<L>, L::Addr>,
//!         greeting: String,
//!     ) -> Self::Exit {
//!         connection.stream.write_all(greeting.as_bytes()).await?;
//!         Ok(Exit::clean("greeted"))
//!     }
//! }
//! ```
//!
//! # The guide and the rules
//!
//! The [`guide`] explains how to run a pool in production: how many acceptors, failures, shutdown, load balancers, certificates, tests. A
//! letter and a number, such as [L4](guide::rules#l4), is the id of a rule: one sentence about what every pool does, with a test in the
//! package `conformance-tests`. [All rules](guide::rules) are on one page.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `anyhow`, `eyre` | finds the I/O error inside an error report of that crate, so that a client that has left is not counted as a failure |
//!
//! No feature is on by default. The runtime is chosen by the crate, never by a feature.

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
    AddListenerError, AddListenerReason, BoxError, ChildError, CloseError, LimitError,
    MAX_ACCEPTORS, MAX_CONNECTIONS, ReconfigureError, SpecError, StartError, Stopped,
};
pub use exit::{Exit, IntoExit, is_peer_gone};
pub use guard::{Guard, GuardedStream, Subtask};
pub use handshake::{Handshake, HandshakeError, NoHandshake, StreamOf, Then};
pub use id::{ChildId, ListenerId, ParseIdError};
pub use incoming::{Incoming, Transport};
pub use latch::{Latch, LatchWait};
pub use listen::{
    Keepalive, ListenError, ListenOptions, asks_local_addr, check_listener, check_tcp_listener,
    refuse_stream,
};
pub use listener::{Listener, With};
pub use policy::{
    AtLimit, ChildType, ConnectionReports, Grace, LastListener, Refusal, Restart, Shutdown,
    WaitingAcceptors,
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
