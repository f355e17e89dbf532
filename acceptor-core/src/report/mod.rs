//! The reports of a pool, as values for the observer and as `tracing` events.
//!
//! All events have the target `acceptor_pool` and the fields `pool` (the spec's id) and `event`:
//!
//! | [`Event`] | `event` | level | further fields |
//! |---|---|---|---|
//! | `StartError` | `start_error` | error | `listener`, `child`, `reason`, `error` |
//! | `AcceptorFailed` | `acceptor_failed` | error | `listener`, `child`, `reason`, `error` |
//! | `ConnectionFailed` | `connection_failed` | error | `listener`, `child`, `peer`, `age_seconds`, `reason`, `error` |
//! | `ConnectionBegan` | `connection_began` | debug | `listener`, `child`, `peer`, `local` |
//! | `ConnectionEnded` | `connection_ended` | debug | `listener`, `child`, `peer`, `age_seconds`, `reason`; `why` if a clean exit gave a reason |
//! | `Disconnected` | `disconnected` | debug | `listener`, `child`, `peer`, `age_seconds`, `error` |
//! | `HandshakeFailed` | `handshake_failed` | debug | `listener`, `child`, `peer`, `age_seconds`, `cause`; `error` if there is one |
//! | `ListenerFailed` | `listener_failed` | error | `listener`, `local`, `listeners_left`, `error` |
//! | `AcceptPaused` | `accept_paused` | warn | `listener`, `local`, `pause_seconds`, `suppressed`, `error` |
//! | `KilledWhileStopping` | `killed_while_stopping` | warn | `count` |
//! | `Stuck` | `stuck` | error | `count` |
//! | `PoolStopped` | `pool_stopped` | error | `reason` |
//! | `ReportsLost` | `reports_lost` | warn | `count`, `kinds` |
//!
//! Events with a `peer` that a handshake has replaced ([H5](crate::guide::rules#h5)) have a field
//! `transport` too: the address of the proxy. Events of a listener with a
//! [tag](crate::ListenerSettings::tag) have a field `tag` too.
//!
//! `child` is the id as it is displayed, such as `3.17`. `reason` is one word: `error`, `panic`,
//! `killed` or `lost`; for `connection_ended` it is the [`EndKind`], and for `pool_stopped`
//! `max_restart_intensity`, `runtime_gone` or `listeners_failed`.
//!
//! `disconnected` and `handshake_failed` are emitted whether or not the observer gets their
//! reports.
//!
//! Events of failures, and those two, are limited to ten a second for each kind and listener
//! ([O3](crate::guide::rules#o3)). They have an additional field `suppressed`: the number of events
//! left out before this one. Events that were left out last are reported in one event,
//! `events_suppressed` (warn), with `listener`, `kind` and `count`: when the pool ends, or a second
//! later in a pool with many listeners. The observer gets all reports.
//!
//! Errors, panic messages and addresses may be text that a client chose. Wherever the pool writes
//! them, in these fields and in `Display`, they are escaped and cut to 1 KiB each. An observer gets
//! the values unchanged ([V5](crate::guide::rules#v5)).

mod display;
mod kind;
mod observer;
#[cfg(all(test, not(loom)))]
mod tests;
mod trace;

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{ChildId, ListenerId};
use crate::incoming::Transport;
use crate::stop_report::{EndKind, StopReason};

pub use kind::{EventKind, Losses};
pub use observer::{Observer, observer_fn};
pub(crate) use trace::{trace, trace_suppressed};

/// A report of a pool to its [`Observer`].
///
/// Its `Display` is one line of text.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # use std::net::{SocketAddr, TcpStream};
/// # block_on(async {
/// let (sender, reports) = std::sync::mpsc::channel();
/// let failing = acceptor_fn(|_: Connection<TcpStream, SocketAddr>| async {
///     Err::<(), _>("out of cheese".into())
/// });
/// let spec = Spec::new("shop", failing)
///     .observer(observer_fn(move |report: &Report| sender.send(report.clone()).unwrap()));
/// let pool = Pool::start(Threads, spec)?;
/// pool.add_listener(Tcp::bind()?, 1)?;
/// TcpStream::connect(pool.listeners()?[0].local_addr)?;
///
/// let report = reports.recv()?;
/// assert_eq!(report.event.kind(), EventKind::ConnectionFailed);
/// assert!(report.to_string().ends_with(": out of cheese"));
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report<A = SocketAddr> {
    /// The id of the pool's current spec.
    pub pool: Arc<str>,
    /// The [tag](crate::ListenerSettings::tag) of the event's listener, if it has one.
    pub tag: Option<Arc<str>>,
    /// The event.
    pub event: Event<A>,
}

/// An event of a pool, which a [`Report`] contains.
#[doc(alias = "metrics")]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<A = SocketAddr> {
    /// `init` returned an error or panicked ([B4](crate::guide::rules#b4)). It counts.
    #[non_exhaustive]
    StartError {
        /// The listener that the acceptor was to wait on.
        listener: ListenerId,
        /// The acceptor.
        child: ChildId,
        /// The error or the panic.
        failure: Failure,
    },
    /// An acceptor failed: it was killed or lost, or `terminate` or a `Drop` panicked
    /// ([B8](crate::guide::rules#b8)).
    #[non_exhaustive]
    AcceptorFailed {
        /// The listener that the acceptor waited on.
        listener: ListenerId,
        /// The acceptor.
        child: ChildId,
        /// How it failed.
        failure: Failure,
    },
    /// A connection failed: with an error, a panic or a kill, or it was lost (the table of ends,
    /// [E1](crate::guide::rules#e1)).
    #[non_exhaustive]
    ConnectionFailed {
        /// The listener that accepted the connection.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// The peer's address.
        peer: A,
        /// The addresses of the transport, usually a proxy's, if the handshake has replaced them
        /// ([H5](crate::guide::rules#h5)).
        transport: Option<Box<Transport<A>>>,
        /// Its age.
        age: Duration,
        /// How it failed.
        failure: Failure,
    },
    /// A connection began ([O4](crate::guide::rules#o4)). It is reported if the spec [asks for
    /// it](crate::Settings::connection_reports).
    #[non_exhaustive]
    ConnectionBegan {
        /// The listener that accepted it.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// The peer's address.
        peer: A,
        /// Its local address.
        local_addr: A,
    },
    /// A connection ended without a failure, or was killed by a stop
    /// ([O4](crate::guide::rules#o4)). It is reported if the spec [asks for
    /// it](crate::Settings::connection_reports). Any other end is a
    /// [`ConnectionFailed`](Event::ConnectionFailed), a [`Disconnected`](Event::Disconnected) or a
    /// [`HandshakeFailed`](Event::HandshakeFailed) instead.
    #[non_exhaustive]
    ConnectionEnded {
        /// The listener that accepted it.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// The peer's address.
        peer: A,
        /// The addresses of the transport, usually a proxy's, if the handshake has replaced them
        /// ([H5](crate::guide::rules#h5)).
        transport: Option<Box<Transport<A>>>,
        /// Its age.
        age: Duration,
        /// How it ended.
        kind: EndKind,
        /// The [reason](crate::Exit::clean) of a clean exit, if it has one.
        reason: Option<Cow<'static, str>>,
    },
    /// The peer of a connection is gone ([E5](crate::guide::rules#e5)). It is reported if the spec
    /// [asks for it](crate::Settings::connection_reports).
    #[non_exhaustive]
    Disconnected {
        /// The listener that accepted it.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// The peer's address.
        peer: A,
        /// The addresses of the transport, usually a proxy's, if the handshake has replaced them
        /// ([H5](crate::guide::rules#h5)).
        transport: Option<Box<Transport<A>>>,
        /// Its age.
        age: Duration,
        /// The error that `serve` returned.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// A handshake failed or exceeded its deadline ([H4](crate::guide::rules#h4)). It is reported
    /// if the spec [asks for it](crate::Settings::connection_reports).
    #[non_exhaustive]
    HandshakeFailed {
        /// The listener that accepted it.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// The peer's address.
        peer: A,
        /// The addresses of the transport, usually a proxy's, if the handshake has replaced them
        /// ([H5](crate::guide::rules#h5)).
        transport: Option<Box<Transport<A>>>,
        /// Its age.
        age: Duration,
        /// The cause of the [`HandshakeError`](crate::HandshakeError), or `timeout`.
        cause: &'static str,
        /// The error, if there is one.
        error: Option<Arc<dyn Error + Send + Sync>>,
    },
    /// A listener failed and was closed ([L4](crate::guide::rules#l4)). Its address can be bound
    /// again ([L8](crate::guide::rules#l8)).
    #[non_exhaustive]
    ListenerFailed {
        /// The listener.
        listener: ListenerId,
        /// The address that it was bound to.
        local_addr: A,
        /// The number of listeners of the pool that are still open ([L9](crate::guide::rules#l9)).
        listeners_left: usize,
        /// The error that `accept` returned, or one that says that `accept` panicked or that the
        /// runtime dropped the listener's task.
        error: Arc<io::Error>,
    },
    /// A listener pauses for lack of resources ([A2](crate::guide::rules#a2)). It is reported at
    /// most once a second for each listener.
    #[non_exhaustive]
    AcceptPaused {
        /// The listener.
        listener: ListenerId,
        /// The address that it is bound to.
        local_addr: A,
        /// The error that `accept` returned.
        error: Arc<io::Error>,
        /// The length of this pause.
        pause: Duration,
        /// The number of earlier pauses without a report of their own.
        suppressed: u64,
    },
    /// The stop had to kill children ([S6](crate::guide::rules#s6)).
    #[non_exhaustive]
    KilledWhileStopping {
        /// The number of children.
        count: usize,
    },
    /// Children did not suspend after the kill and were abandoned ([S8](crate::guide::rules#s8)).
    #[non_exhaustive]
    Stuck {
        /// The number of children.
        count: usize,
    },
    /// The pool stops on its own: because of too many failures ([I3](crate::guide::rules#i3)),
    /// because its last listener failed ([L9](crate::guide::rules#l9)), or because the runtime
    /// dropped the pool's own task ([S9](crate::guide::rules#s9)).
    #[non_exhaustive]
    PoolStopped {
        /// The reason.
        reason: StopReason,
    },
    /// Reports were dropped, because too many waited for delivery ([O2](crate::guide::rules#o2)).
    #[non_exhaustive]
    ReportsLost {
        /// The numbers of dropped reports by kind.
        lost: Losses,
    },
}

impl<A> Event<A> {
    /// Returns the listener of the event or of its child, or `None` if the event is about the pool.
    pub fn listener(&self) -> Option<ListenerId> {
        match self {
            Event::StartError { listener, .. }
            | Event::AcceptorFailed { listener, .. }
            | Event::ConnectionFailed { listener, .. }
            | Event::ConnectionBegan { listener, .. }
            | Event::ConnectionEnded { listener, .. }
            | Event::Disconnected { listener, .. }
            | Event::HandshakeFailed { listener, .. }
            | Event::ListenerFailed { listener, .. }
            | Event::AcceptPaused { listener, .. } => Some(*listener),
            Event::KilledWhileStopping { .. }
            | Event::Stuck { .. }
            | Event::PoolStopped { .. }
            | Event::ReportsLost { .. } => None,
        }
    }

    /// Returns the kind of the event.
    pub fn kind(&self) -> EventKind {
        match self {
            Event::StartError { .. } => EventKind::StartError,
            Event::AcceptorFailed { .. } => EventKind::AcceptorFailed,
            Event::ConnectionFailed { .. } => EventKind::ConnectionFailed,
            Event::ConnectionBegan { .. } => EventKind::ConnectionBegan,
            Event::ConnectionEnded { .. } => EventKind::ConnectionEnded,
            Event::Disconnected { .. } => EventKind::Disconnected,
            Event::HandshakeFailed { .. } => EventKind::HandshakeFailed,
            Event::ListenerFailed { .. } => EventKind::ListenerFailed,
            Event::AcceptPaused { .. } => EventKind::AcceptPaused,
            Event::KilledWhileStopping { .. } => EventKind::KilledWhileStopping,
            Event::Stuck { .. } => EventKind::Stuck,
            Event::PoolStopped { .. } => EventKind::PoolStopped,
            Event::ReportsLost { .. } => EventKind::ReportsLost,
        }
    }
}

/// How a child failed.
///
/// ```
/// use acceptor_core::Failure;
///
/// assert_eq!(Failure::Panic("oops".into()).to_string(), "panicked: oops");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Failure {
    /// A callback returned this error.
    Error(Arc<dyn Error + Send + Sync>),
    /// A callback, or the `Drop` of a value that it owned, panicked with this message.
    Panic(String),
    /// It was killed through the handle.
    Killed,
    /// Its runtime dropped its task.
    Lost,
}

impl Failure {
    fn word(&self) -> &'static str {
        match self {
            Failure::Error(_) => "error",
            Failure::Panic(_) => "panic",
            Failure::Killed => "killed",
            Failure::Lost => "lost",
        }
    }
}
