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

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::field::display;

use crate::id::{ChildId, ListenerId};
use crate::incoming::{PeerText, Transport};
use crate::stop_report::{EndKind, StopReason};
use crate::text::{Escaped, EscapedDebug, Tag, write_counts};

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

/// The kinds of [`Event`].
///
/// ```
/// use acceptor_core::EventKind;
///
/// assert_eq!(EventKind::AcceptPaused.to_string(), "accept_paused");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// [`Event::StartError`].
    StartError,
    /// [`Event::AcceptorFailed`].
    AcceptorFailed,
    /// [`Event::ConnectionFailed`].
    ConnectionFailed,
    /// [`Event::ConnectionBegan`].
    ConnectionBegan,
    /// [`Event::ConnectionEnded`].
    ConnectionEnded,
    /// [`Event::Disconnected`].
    Disconnected,
    /// [`Event::HandshakeFailed`].
    HandshakeFailed,
    /// [`Event::ListenerFailed`].
    ListenerFailed,
    /// [`Event::AcceptPaused`].
    AcceptPaused,
    /// [`Event::KilledWhileStopping`].
    KilledWhileStopping,
    /// [`Event::Stuck`].
    Stuck,
    /// [`Event::PoolStopped`].
    PoolStopped,
    /// [`Event::ReportsLost`].
    ReportsLost,
}

impl EventKind {
    /// All kinds.
    pub const ALL: &[EventKind] = &[
        EventKind::StartError,
        EventKind::AcceptorFailed,
        EventKind::ConnectionFailed,
        EventKind::ConnectionBegan,
        EventKind::ConnectionEnded,
        EventKind::Disconnected,
        EventKind::HandshakeFailed,
        EventKind::ListenerFailed,
        EventKind::AcceptPaused,
        EventKind::KilledWhileStopping,
        EventKind::Stuck,
        EventKind::PoolStopped,
        EventKind::ReportsLost,
    ];

    /// Returns the field `event` of its `tracing` event.
    fn word(self) -> &'static str {
        match self {
            EventKind::StartError => "start_error",
            EventKind::AcceptorFailed => "acceptor_failed",
            EventKind::ConnectionFailed => "connection_failed",
            EventKind::ConnectionBegan => "connection_began",
            EventKind::ConnectionEnded => "connection_ended",
            EventKind::Disconnected => "disconnected",
            EventKind::HandshakeFailed => "handshake_failed",
            EventKind::ListenerFailed => "listener_failed",
            EventKind::AcceptPaused => "accept_paused",
            EventKind::KilledWhileStopping => "killed_while_stopping",
            EventKind::Stuck => "stuck",
            EventKind::PoolStopped => "pool_stopped",
            EventKind::ReportsLost => "reports_lost",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The numbers of dropped reports, by [`EventKind`] ([O2](crate::guide::rules#o2)).
///
/// ```
/// use acceptor_core::{EventKind, Losses};
///
/// let losses = Losses::default();
/// assert_eq!((losses.of(EventKind::Stuck), losses.total()), (0, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses([u64; 13]);

impl Losses {
    /// Returns the number of dropped reports of this kind.
    pub fn of(&self, kind: EventKind) -> u64 {
        self.0[kind as usize]
    }

    /// Returns the number of dropped reports of any kind.
    pub fn total(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub(crate) fn count(&mut self, kind: EventKind) {
        let count = &mut self.0[kind as usize];
        *count = count.saturating_add(1);
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_counts(f, EventKind::ALL.iter().map(|kind| (self.of(*kind), kind)))
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

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => fmt::Display::fmt(&Escaped(error), f),
            Failure::Panic(message) => write!(f, "panicked: {}", Escaped(message)),
            Failure::Killed => f.write_str("killed through the handle"),
            Failure::Lost => f.write_str("its runtime dropped the task"),
        }
    }
}

impl<A: Debug> fmt::Display for Report<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}: ", self.pool)?;
        let tag = Tag(self.tag.as_deref());
        match &self.event {
            Event::StartError {
                listener, failure, ..
            } => write!(f, "start error on listener {listener}{tag}: {failure}"),
            Event::AcceptorFailed {
                listener,
                child,
                failure,
            } => write!(
                f,
                "acceptor {child} of listener {listener}{tag} failed: {failure}"
            ),
            Event::ConnectionFailed {
                listener,
                child,
                peer,
                transport,
                age,
                failure,
            } => write!(
                f,
                "connection {child} from {} on listener {listener}{tag} failed after {age:.3?}: {failure}",
                PeerText::new(peer, transport.as_deref())
            ),
            Event::ConnectionBegan {
                listener,
                child,
                peer,
                local_addr,
            } => write!(
                f,
                "connection {child} from {} to {} on listener {listener}{tag} began",
                EscapedDebug(peer),
                EscapedDebug(local_addr)
            ),
            Event::ConnectionEnded {
                listener,
                child,
                peer,
                transport,
                age,
                kind,
                reason,
            } => {
                let peer = PeerText::new(peer, transport.as_deref());
                write!(
                    f,
                    "connection {child} from {peer} on listener {listener}{tag} ended after {age:.3?}: {kind}"
                )?;
                match reason {
                    Some(reason) => write!(f, " ({})", Escaped(reason)),
                    None => Ok(()),
                }
            }
            Event::Disconnected {
                listener,
                child,
                peer,
                transport,
                age,
                error,
            } => write!(
                f,
                "connection {child} from {} on listener {listener}{tag} disconnected after {age:.3?}: {}",
                PeerText::new(peer, transport.as_deref()),
                Escaped(error)
            ),
            Event::HandshakeFailed {
                listener,
                child,
                peer,
                transport,
                age,
                cause,
                error,
            } => {
                let peer = PeerText::new(peer, transport.as_deref());
                write!(
                    f,
                    "handshake of connection {child} from {peer} on listener {listener}{tag} failed after {age:.3?} ({})",
                    Escaped(cause)
                )?;
                match error {
                    Some(error) => write!(f, ": {}", Escaped(error)),
                    None => Ok(()),
                }
            }
            Event::ListenerFailed {
                listener,
                local_addr,
                listeners_left,
                error,
            } => {
                let local_addr = EscapedDebug(local_addr);
                write!(f, "listener {listener}{tag} on {local_addr} failed")?;
                if *listeners_left == 0 {
                    f.write_str(", and no listener is left")?;
                }
                write!(f, ": {}", Escaped(error))
            }
            Event::AcceptPaused {
                listener,
                local_addr,
                error,
                pause,
                suppressed,
            } => write!(
                f,
                "listener {listener}{tag} on {} pauses {pause:?} (pauses not reported before: {suppressed}): {}",
                EscapedDebug(local_addr),
                Escaped(error)
            ),
            Event::KilledWhileStopping { count: 1 } => f.write_str("the stop killed 1 child"),
            Event::KilledWhileStopping { count } => {
                write!(f, "the stop killed {count} children")
            }
            Event::Stuck { count: 1 } => {
                f.write_str("1 child did not suspend after the kill and was left")
            }
            Event::Stuck { count } => write!(
                f,
                "{count} children did not suspend after the kill and were left"
            ),
            Event::PoolStopped { reason } => write!(f, "stops: {reason}"),
            Event::ReportsLost { lost } => write!(
                f,
                "reports were dropped, since too many waited for the observer: {lost}"
            ),
        }
    }
}

/// Receives the reports of a pool ([O1](crate::guide::rules#o1), [O2](crate::guide::rules#o2)).
///
/// Reports arrive one at a time, in the order of their events, from a task of the pool's own. An
/// observer may block. Then it delays the reports that follow, of which 1,024 are kept and the
/// others counted as [lost](Event::ReportsLost), and the end of the pool by one kill timeout at
/// most. It delays no connection and no listener as long as the runtime has another thread. It may
/// call the pool and wait for its end. A panic in it is caught.
///
/// [`observer_fn`] makes an observer of a closure. An `Arc` of an observer is one too, including
/// `Arc<dyn Observer<A>>`. Implement it for every address type, unless it needs a certain one:
/// without a parameter, `Observer` and [`Report`] are for TCP addresses and do not fit a pool on
/// other sockets.
///
/// ```
/// use std::fmt::Debug;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use acceptor_core::{EventKind, Observer, Report, Spec};
///
/// #[derive(Default)]
/// struct CountFailures(AtomicU64);
///
/// impl<A: Debug> Observer<A> for CountFailures {
///     fn report(&self, report: &Report<A>) {
///         if report.event.kind() == EventKind::ConnectionFailed {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let spec: Spec<()> = Spec::new("echo", ()).observer(CountFailures::default());
/// assert!(spec.settings.observer.is_some());
/// ```
#[doc(alias = "metrics")]
#[doc(alias = "logging")]
#[doc(alias = "callback")]
#[doc(alias = "hook")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Observer<{A}>`",
    label = "not an observer",
    note = "for a closure: wrap it in `observer_fn(..)`"
)]
pub trait Observer<A = SocketAddr>: Send + Sync + 'static {
    /// Handles one report.
    fn report(&self, report: &Report<A>);
}

impl<A, O: Observer<A> + ?Sized> Observer<A> for Arc<O> {
    fn report(&self, report: &Report<A>) {
        (**self).report(report);
    }
}

/// Creates an observer from a closure.
///
/// ```
/// use acceptor_core::{Spec, observer_fn};
///
/// let spec: Spec<()> = Spec::new("echo", ()).observer(observer_fn(|report| eprintln!("{report}")));
/// assert!(spec.settings.observer.is_some());
/// ```
pub fn observer_fn<A, F>(report: F) -> impl Observer<A>
where
    F: Fn(&Report<A>) + Send + Sync + 'static,
{
    ObserverFn(report)
}

struct ObserverFn<F>(F);

impl<A, F: Fn(&Report<A>) + Send + Sync + 'static> Observer<A> for ObserverFn<F> {
    fn report(&self, report: &Report<A>) {
        (self.0)(report);
    }
}

/// Returns the transport's peer as a field, which is left out if no handshake replaced the
/// addresses.
fn through<A: Debug>(transport: Option<&Transport<A>>) -> Option<impl tracing::Value> {
    transport.map(|transport| display(EscapedDebug(&transport.peer_addr)))
}

/// The `tracing` target of all events.
const TARGET: &str = "acceptor_pool";

/// Emits the `tracing` event of a report, after this number of suppressed events of its kind (O3).
pub(crate) fn trace<A: Debug>(report: &Report<A>, suppressed: u64) {
    let (pool, tag) = (&*report.pool, report.tag.as_deref());
    let event = report.event.kind().word();
    match &report.event {
        Event::StartError {
            listener,
            child,
            failure,
        } => tracing::error!(
            target: TARGET, event, pool, listener = listener.sequence, tag, %child,
            reason = failure.word(), error = %failure, suppressed, "start error"
        ),
        Event::AcceptorFailed {
            listener,
            child,
            failure,
        } => tracing::error!(
            target: TARGET, event, pool, listener = listener.sequence, tag, %child,
            reason = failure.word(), error = %failure, suppressed, "acceptor failed"
        ),
        Event::ConnectionFailed {
            listener,
            child,
            peer,
            transport,
            age,
            failure,
        } => tracing::error!(
            target: TARGET, event, pool, listener = listener.sequence, tag, %child, peer = %EscapedDebug(peer), transport = through(transport.as_deref()),
            age_seconds = age.as_secs_f64(), reason = failure.word(), error = %failure, suppressed,
            "connection failed"
        ),
        Event::ConnectionBegan {
            listener,
            child,
            peer,
            local_addr,
        } => tracing::debug!(
            target: TARGET, event, pool, listener = listener.sequence, tag, %child, peer = %EscapedDebug(peer),
            local = %EscapedDebug(local_addr), "connection began"
        ),
        Event::ConnectionEnded {
            listener,
            child,
            peer,
            transport,
            age,
            kind,
            reason,
        } => tracing::debug!(
            target: TARGET, event, pool, listener = listener.sequence, tag, %child, peer = %EscapedDebug(peer), transport = through(transport.as_deref()),
            age_seconds = age.as_secs_f64(), reason = %kind, why = reason.as_ref().map(|why| display(Escaped(why))),
            "connection ended"
        ),
        Event::Disconnected {
            listener,
            child,
            peer,
            transport,
            age,
            error,
        } => tracing::debug!(
            target: TARGET, event, pool, listener = listener.sequence, tag, %child, peer = %EscapedDebug(peer), transport = through(transport.as_deref()),
            age_seconds = age.as_secs_f64(), error = %Escaped(error), suppressed, "disconnected"
        ),
        Event::HandshakeFailed {
            listener,
            child,
            peer,
            transport,
            age,
            cause,
            error,
        } => tracing::debug!(
            target: TARGET, event, pool, listener = listener.sequence, tag, %child, peer = %EscapedDebug(peer), transport = through(transport.as_deref()),
            age_seconds = age.as_secs_f64(), cause = %Escaped(cause),
            error = error.as_ref().map(|error| display(Escaped(error))), suppressed, "handshake failed"
        ),
        Event::ListenerFailed {
            listener,
            local_addr,
            listeners_left,
            error,
        } => tracing::error!(
            target: TARGET, event, pool, listener = listener.sequence, tag, local = %EscapedDebug(local_addr),
            listeners_left, error = %Escaped(error), "listener failed"
        ),
        Event::AcceptPaused {
            listener,
            local_addr,
            error,
            pause,
            suppressed,
        } => tracing::warn!(
            target: TARGET, event, pool, listener = listener.sequence, tag, local = %EscapedDebug(local_addr),
            pause_seconds = pause.as_secs_f64(), suppressed, error = %Escaped(error), "accept paused"
        ),
        Event::KilledWhileStopping { count } => {
            tracing::warn!(target: TARGET, event, pool, count, "killed while stopping")
        }
        Event::Stuck { count } => {
            tracing::error!(target: TARGET, event, pool, count, "children stuck after the kill")
        }
        Event::PoolStopped { reason } => {
            let reason = match reason {
                StopReason::Intensity => "max_restart_intensity",
                StopReason::Requested => "requested",
                StopReason::OwnerDropped => "owner_dropped",
                StopReason::RuntimeGone => "runtime_gone",
                StopReason::ListenersFailed => "listeners_failed",
            };
            tracing::error!(target: TARGET, event, pool, reason, "pool stopped");
        }
        Event::ReportsLost { lost } => tracing::warn!(
            target: TARGET, event, pool, count = lost.total(), kinds = %lost, "reports lost"
        ),
    }
}

/// Emits a `tracing` event for the events of a kind that were suppressed last.
pub(crate) fn trace_suppressed(pool: &str, listener: ListenerId, kind: EventKind, count: u64) {
    tracing::warn!(
        target: TARGET, event = "events_suppressed", pool, listener = listener.sequence, %kind, count,
        "events suppressed"
    );
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use tracing::field::{Field, Visit};
    use tracing::span;
    use tracing::{Level, Metadata, Subscriber};

    use super::*;
    use crate::id::PoolId;
    use crate::sync::lock;

    /// One `tracing` event, as a subscriber sees it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Traced {
        target: String,
        level: Level,
        fields: BTreeMap<String, String>,
    }

    /// Keeps every event.
    #[derive(Clone, Default)]
    struct Keeper(Arc<Mutex<Vec<Traced>>>);

    struct Fields<'a>(&'a mut BTreeMap<String, String>);

    impl Visit for Fields<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.insert(field.name().to_owned(), format!("{value:?}"));
        }
    }

    impl Subscriber for Keeper {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut fields = BTreeMap::new();
            event.record(&mut Fields(&mut fields));
            lock(&self.0).push(Traced {
                target: event.metadata().target().to_owned(),
                level: *event.metadata().level(),
                fields,
            });
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    type Address = &'static str;

    const LISTENER: ListenerId = ListenerId {
        sequence: 2,
        pool: PoolId::ANY,
    };
    const CHILD: ChildId = ChildId {
        listener: 2,
        number: 7,
        slot: 3,
        pool: PoolId::ANY,
    };

    /// The number of failure events suppressed before each.
    const SUPPRESSED: u64 = 9;

    /// Checks the message of a report, and its `tracing` event: both are stable.
    #[track_caller]
    fn check(event: Event<Address>, words: &str, level: Level, fields: &[(&str, &str)]) {
        check_event(event, words, level, fields);
    }

    #[track_caller]
    fn check_event<A: Debug>(event: Event<A>, words: &str, level: Level, fields: &[(&str, &str)]) {
        let mut report = Report {
            pool: Arc::from("echo"),
            tag: None,
            event,
        };
        check_report(&report, words, level, fields);
        // Only events of a listener have its tag.
        if report.event.listener() == Some(LISTENER) {
            report.tag = Some(Arc::from("web"));
            let words = words.replacen("listener 2", "listener 2 (web)", 1);
            let fields = [fields, &[("tag", "\"web\"")]].concat();
            check_report(&report, &words, level, &fields);
        } else {
            assert!(!fields.iter().any(|(name, _)| *name == "listener"));
        }
    }

    #[track_caller]
    fn check_report<A: Debug>(
        report: &Report<A>,
        words: &str,
        level: Level,
        fields: &[(&str, &str)],
    ) {
        assert_eq!(report.to_string(), format!("pool echo: {words}"));
        let keeper = Keeper::default();
        tracing::subscriber::with_default(keeper.clone(), || trace(report, SUPPRESSED));
        let fields = fields.iter().chain(&[("pool", "\"echo\"")]);
        let expected = Traced {
            target: "acceptor_pool".to_owned(),
            level,
            fields: fields
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        assert_eq!(*lock(&keeper.0), [expected]);
    }

    fn failed() -> Failure {
        Failure::Error(Arc::from(Box::<dyn Error + Send + Sync>::from("no luck")))
    }

    #[test]
    fn start_error() {
        check(
            Event::StartError {
                listener: LISTENER,
                child: CHILD,
                failure: failed(),
            },
            "start error on listener 2: no luck",
            Level::ERROR,
            &[
                ("message", "start error"),
                ("event", "\"start_error\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("reason", "\"error\""),
                ("error", "no luck"),
                ("suppressed", "9"),
            ],
        );
    }

    #[test]
    fn acceptor_failed() {
        check(
            Event::AcceptorFailed {
                listener: LISTENER,
                child: CHILD,
                failure: Failure::Panic("oh".into()),
            },
            "acceptor 2.7 of listener 2 failed: panicked: oh",
            Level::ERROR,
            &[
                ("message", "acceptor failed"),
                ("event", "\"acceptor_failed\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("reason", "\"panic\""),
                ("error", "panicked: oh"),
                ("suppressed", "9"),
            ],
        );
    }

    #[track_caller]
    fn check_connection(failure: Failure, words: &str, reason: &str) {
        check(
            Event::ConnectionFailed {
                listener: LISTENER,
                child: CHILD,
                peer: "peer",
                transport: None,
                age: Duration::from_millis(2500),
                failure,
            },
            &format!("connection 2.7 from \"peer\" on listener 2 failed after 2.500s: {words}"),
            Level::ERROR,
            &[
                ("message", "connection failed"),
                ("event", "\"connection_failed\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("peer", "\"peer\""),
                ("age_seconds", "2.5"),
                ("reason", &format!("{reason:?}")),
                ("error", words),
                ("suppressed", "9"),
            ],
        );
    }

    #[test]
    fn connection_failed() {
        check_connection(failed(), "no luck", "error");
        check_connection(Failure::Panic("oh".into()), "panicked: oh", "panic");
        check_connection(Failure::Killed, "killed through the handle", "killed");
        check_connection(Failure::Lost, "its runtime dropped the task", "lost");
    }

    type Way = Option<Box<Transport<Address>>>;

    /// The report of a connection whose handshake has replaced its addresses names the transport as well (H5).
    #[track_caller]
    fn check_transport(event: fn(Address, Way) -> Event<Address>) {
        let transport = Transport {
            peer_addr: "proxy",
            local_addr: "here",
        };
        for (transport, words) in [
            (None, r#" from "peer" on"#),
            (Some(transport), r#" from "peer" through "proxy" on"#),
        ] {
            let report = Report {
                pool: Arc::from("echo"),
                tag: None,
                event: event("peer", transport.clone().map(Box::new)),
            };
            assert!(report.to_string().contains(words), "{report}");
            let keeper = Keeper::default();
            tracing::subscriber::with_default(keeper.clone(), || trace(&report, SUPPRESSED));
            let fields = &lock(&keeper.0)[0].fields;
            let field = fields.get("transport").map(String::as_str);
            assert_eq!(field, transport.map(|_| r#""proxy""#));
        }
    }

    #[test]
    fn transport_of_a_connection() {
        const AGE: Duration = Duration::from_millis(2500);
        check_transport(|peer, transport| Event::ConnectionFailed {
            listener: LISTENER,
            child: CHILD,
            peer,
            transport,
            age: AGE,
            failure: failed(),
        });
        check_transport(|peer, transport| Event::ConnectionEnded {
            listener: LISTENER,
            child: CHILD,
            peer,
            transport,
            age: AGE,
            kind: EndKind::Normal,
            reason: None,
        });
        check_transport(|peer, transport| Event::Disconnected {
            listener: LISTENER,
            child: CHILD,
            peer,
            transport,
            age: AGE,
            error: Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)),
        });
        check_transport(|peer, transport| Event::HandshakeFailed {
            listener: LISTENER,
            child: CHILD,
            peer,
            transport,
            age: AGE,
            cause: "tls",
            error: None,
        });
    }

    #[track_caller]
    fn check_listener(listeners_left: usize, words: &str) {
        check(
            Event::ListenerFailed {
                listener: LISTENER,
                local_addr: "here",
                listeners_left,
                error: Arc::new(io::Error::other("no socket")),
            },
            &format!("listener 2 on \"here\" failed{words}: no socket"),
            Level::ERROR,
            &[
                ("message", "listener failed"),
                ("event", "\"listener_failed\""),
                ("listener", "2"),
                ("local", "\"here\""),
                ("listeners_left", &listeners_left.to_string()),
                ("error", "no socket"),
            ],
        );
    }

    #[test]
    fn listener_failed() {
        check_listener(2, "");
        check_listener(0, ", and no listener is left");
    }

    #[test]
    fn accept_paused() {
        check(
            Event::AcceptPaused {
                listener: LISTENER,
                local_addr: "here",
                error: Arc::new(io::Error::other("no descriptors")),
                pause: Duration::from_millis(5),
                suppressed: 3,
            },
            "listener 2 on \"here\" pauses 5ms (pauses not reported before: 3): no descriptors",
            Level::WARN,
            &[
                ("message", "accept paused"),
                ("event", "\"accept_paused\""),
                ("listener", "2"),
                ("local", "\"here\""),
                ("pause_seconds", "0.005"),
                ("suppressed", "3"),
                ("error", "no descriptors"),
            ],
        );
    }

    #[track_caller]
    fn check_killed(count: usize, words: &str) {
        check(
            Event::KilledWhileStopping { count },
            words,
            Level::WARN,
            &[
                ("message", "killed while stopping"),
                ("event", "\"killed_while_stopping\""),
                ("count", &count.to_string()),
            ],
        );
    }

    #[track_caller]
    fn check_stuck(count: usize, words: &str) {
        check(
            Event::Stuck { count },
            words,
            Level::ERROR,
            &[
                ("message", "children stuck after the kill"),
                ("event", "\"stuck\""),
                ("count", &count.to_string()),
            ],
        );
    }

    #[test]
    fn killed_while_stopping_and_stuck() {
        check_killed(1, "the stop killed 1 child");
        check_killed(4, "the stop killed 4 children");
        check_stuck(1, "1 child did not suspend after the kill and was left");
        check_stuck(2, "2 children did not suspend after the kill and were left");
    }

    #[test]
    fn connection_began() {
        check(
            Event::ConnectionBegan {
                listener: LISTENER,
                child: CHILD,
                peer: "peer",
                local_addr: "here",
            },
            "connection 2.7 from \"peer\" to \"here\" on listener 2 began",
            Level::DEBUG,
            &[
                ("message", "connection began"),
                ("event", "\"connection_began\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("peer", "\"peer\""),
                ("local", "\"here\""),
            ],
        );
    }

    #[test]
    fn connection_ended() {
        for (kind, word) in [(EndKind::Normal, "normal"), (EndKind::Stopped, "stopped")] {
            check(
                Event::ConnectionEnded {
                    listener: LISTENER,
                    child: CHILD,
                    peer: "peer",
                    transport: None,
                    age: Duration::from_millis(2500),
                    kind,
                    reason: None,
                },
                &format!("connection 2.7 from \"peer\" on listener 2 ended after 2.500s: {word}"),
                Level::DEBUG,
                &[
                    ("message", "connection ended"),
                    ("event", "\"connection_ended\""),
                    ("listener", "2"),
                    ("child", "2.7"),
                    ("peer", "\"peer\""),
                    ("age_seconds", "2.5"),
                    ("reason", word),
                ],
            );
        }
    }

    #[test]
    fn clean_end_says_why() {
        check(
            Event::ConnectionEnded {
                listener: LISTENER,
                child: CHILD,
                peer: "peer",
                transport: None,
                age: Duration::from_millis(2500),
                kind: EndKind::Clean,
                reason: Some("said\nquit".into()),
            },
            r#"connection 2.7 from "peer" on listener 2 ended after 2.500s: clean (said\nquit)"#,
            Level::DEBUG,
            &[
                ("message", "connection ended"),
                ("event", "\"connection_ended\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("peer", "\"peer\""),
                ("age_seconds", "2.5"),
                ("reason", "clean"),
                ("why", r"said\nquit"),
            ],
        );
    }

    fn error() -> Arc<dyn Error + Send + Sync> {
        Arc::from(Box::<dyn Error + Send + Sync>::from("no luck"))
    }

    #[test]
    fn disconnected() {
        check(
            Event::Disconnected {
                listener: LISTENER,
                child: CHILD,
                peer: "peer",
                transport: None,
                age: Duration::from_millis(2500),
                error: error(),
            },
            "connection 2.7 from \"peer\" on listener 2 disconnected after 2.500s: no luck",
            Level::DEBUG,
            &[
                ("message", "disconnected"),
                ("event", "\"disconnected\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("peer", "\"peer\""),
                ("age_seconds", "2.5"),
                ("error", "no luck"),
                ("suppressed", "9"),
            ],
        );
    }

    #[test]
    fn handshake_failed() {
        for error in [None, Some(error())] {
            let words =
                "handshake of connection 2.7 from \"peer\" on listener 2 failed after 2.500s (tls)";
            let mut fields = vec![
                ("message", "handshake failed"),
                ("event", "\"handshake_failed\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("peer", "\"peer\""),
                ("age_seconds", "2.5"),
                ("cause", "tls"),
                ("suppressed", "9"),
            ];
            let words = match &error {
                Some(_) => {
                    fields.push(("error", "no luck"));
                    format!("{words}: no luck")
                }
                None => words.to_owned(),
            };
            let event = Event::HandshakeFailed {
                listener: LISTENER,
                child: CHILD,
                peer: "peer",
                transport: None,
                age: Duration::from_millis(2500),
                cause: "tls",
                error,
            };
            check(event, &words, Level::DEBUG, &fields);
        }
    }

    fn losses(kinds: &[EventKind]) -> Losses {
        let mut lost = Losses::default();
        kinds.iter().for_each(|kind| lost.count(*kind));
        lost
    }

    #[test]
    fn reports_lost() {
        let (began, ended) = (EventKind::ConnectionBegan, EventKind::ConnectionEnded);
        check(
            Event::ReportsLost {
                lost: losses(&[ended, began, ended]),
            },
            "reports were dropped, since too many waited for the observer: \
             1 connection_began, 2 connection_ended",
            Level::WARN,
            &[
                ("message", "reports lost"),
                ("event", "\"reports_lost\""),
                ("count", "3"),
                ("kinds", "1 connection_began, 2 connection_ended"),
            ],
        );
    }

    #[test]
    fn losses_are_counted_by_kind() {
        let lost = losses(&[EventKind::Stuck, EventKind::StartError, EventKind::Stuck]);
        assert_eq!(lost.of(EventKind::Stuck), 2);
        assert_eq!(lost.of(EventKind::ReportsLost), 0);
        assert_eq!(lost.total(), 3);
        assert_eq!(lost.to_string(), "1 start_error, 2 stuck");
        assert_eq!(Losses::default().to_string(), "none");
    }

    #[test]
    fn kinds_have_count_and_word() {
        let all = losses(EventKind::ALL);
        for &kind in EventKind::ALL {
            assert_eq!(all.of(kind), 1, "{kind}");
            assert_eq!(kind.to_string(), kind.word());
        }
        let words = EventKind::ALL.iter().map(|kind| kind.word());
        let words: std::collections::BTreeSet<_> = words.collect();
        assert_eq!(words.len(), EventKind::ALL.len());
    }

    #[test]
    fn events_suppressed() {
        let keeper = Keeper::default();
        tracing::subscriber::with_default(keeper.clone(), || {
            trace_suppressed("echo", LISTENER, EventKind::StartError, 12);
        });
        let fields = [
            ("message", "events suppressed"),
            ("event", "\"events_suppressed\""),
            ("pool", "\"echo\""),
            ("listener", "2"),
            ("kind", "start_error"),
            ("count", "12"),
        ];
        assert_eq!(
            *lock(&keeper.0),
            [Traced {
                target: "acceptor_pool".to_owned(),
                level: Level::WARN,
                fields: fields
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            }]
        );
    }

    #[test]
    fn pool_stopped() {
        for (reason, words, word) in [
            (
                StopReason::Intensity,
                "stops: restart intensity exceeded",
                "max_restart_intensity",
            ),
            (
                StopReason::RuntimeGone,
                "stops: runtime gone",
                "runtime_gone",
            ),
            (StopReason::Requested, "stops: requested", "requested"),
            (
                StopReason::OwnerDropped,
                "stops: owner dropped",
                "owner_dropped",
            ),
            (
                StopReason::ListenersFailed,
                "stops: last listener failed",
                "listeners_failed",
            ),
        ] {
            check(
                Event::PoolStopped { reason },
                words,
                Level::ERROR,
                &[
                    ("message", "pool stopped"),
                    ("event", "\"pool_stopped\""),
                    ("reason", &format!("{word:?}")),
                ],
            );
        }
    }

    /// Text chosen by a client, repeated, as an error and as an address whose `Debug` escapes nothing.
    #[derive(Clone, Copy)]
    struct Hostile {
        text: &'static str,
        times: usize,
    }

    impl fmt::Display for Hostile {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for _ in 0..self.times {
                f.write_str(self.text)?;
            }
            Ok(())
        }
    }

    impl Debug for Hostile {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(self, f)
        }
    }

    impl Error for Hostile {}

    /// The same reports as above, with hostile text wherever a client can choose it.
    #[track_caller]
    fn check_hostile(text: &'static str, times: usize, safe: &str) {
        let hostile = Hostile { text, times };
        let io_error = || Arc::new(io::Error::other(hostile));
        check(
            Event::StartError {
                listener: LISTENER,
                child: CHILD,
                failure: Failure::Error(Arc::new(hostile)),
            },
            &format!("start error on listener 2: {safe}"),
            Level::ERROR,
            &[
                ("message", "start error"),
                ("event", "\"start_error\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("reason", "\"error\""),
                ("error", safe),
                ("suppressed", "9"),
            ],
        );
        check_event(
            Event::ConnectionFailed {
                listener: LISTENER,
                child: CHILD,
                peer: hostile,
                transport: None,
                age: Duration::from_millis(2500),
                failure: Failure::Error(Arc::new(hostile)),
            },
            &format!("connection 2.7 from {safe} on listener 2 failed after 2.500s: {safe}"),
            Level::ERROR,
            &[
                ("message", "connection failed"),
                ("event", "\"connection_failed\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("peer", safe),
                ("age_seconds", "2.5"),
                ("reason", "\"error\""),
                ("error", safe),
                ("suppressed", "9"),
            ],
        );
        check_event(
            Event::ListenerFailed {
                listener: LISTENER,
                local_addr: hostile,
                listeners_left: 1,
                error: io_error(),
            },
            &format!("listener 2 on {safe} failed: {safe}"),
            Level::ERROR,
            &[
                ("message", "listener failed"),
                ("event", "\"listener_failed\""),
                ("listener", "2"),
                ("local", safe),
                ("listeners_left", "1"),
                ("error", safe),
            ],
        );
        check_event(
            Event::AcceptPaused {
                listener: LISTENER,
                local_addr: hostile,
                error: io_error(),
                pause: Duration::from_millis(5),
                suppressed: 3,
            },
            &format!("listener 2 on {safe} pauses 5ms (pauses not reported before: 3): {safe}"),
            Level::WARN,
            &[
                ("message", "accept paused"),
                ("event", "\"accept_paused\""),
                ("listener", "2"),
                ("local", safe),
                ("pause_seconds", "0.005"),
                ("suppressed", "3"),
                ("error", safe),
            ],
        );
    }

    /// The message of a panic is already collected.
    #[track_caller]
    fn check_hostile_panic(message: &str, safe: &str) {
        let words = format!("panicked: {safe}");
        check_connection(Failure::Panic(message.to_owned()), &words, "panic");
    }

    #[test]
    fn client_text_is_escaped() {
        for (text, safe) in [
            ("a\nERROR forged", r"a\nERROR forged"),
            ("\x1b[2J\x1b[31m", r"\u{1b}[2J\u{1b}[31m"),
            ("a\u{2028}b\u{202e}c", r"a\u{2028}b\u{202e}c"),
        ] {
            check_hostile(text, 1, safe);
            check_hostile_panic(text, safe);
        }
        check_hostile_panic(r"C:\new", r"C:\\new");
    }

    #[test]
    fn client_text_is_cut_to_1_kib() {
        let safe = format!("{}…", "x".repeat(1021));
        for times in [1025, 1_000_000, usize::MAX] {
            check_hostile("x", times, &safe);
        }
        check_hostile_panic(&"x".repeat(1_000_000), &safe);
    }
}
