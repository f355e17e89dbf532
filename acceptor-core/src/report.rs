//! The reports of a pool: one value for the observer and one `tracing` event, of the same thing.
//!
//! All events have the target `acceptor_pool` and the fields `pool` (the
//! spec's id) and `event`:
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
//! Events with a `peer` whose handshake has replaced it (H5) have a field `transport` as well: the address of the proxy.
//! Events of a listener that has a [tag](crate::ListenerSettings::tag) have a field `tag` as well.
//!
//! `child` is the number as it is displayed, `3.17`. `reason` is one word: `error`, `panic`, `killed`, `lost`; for
//! `connection_ended` that of the [`EndKind`]; for `pool_stopped` `max_restart_intensity`, `runtime_gone` or
//! `listeners_failed`.
//!
//! `disconnected` and `handshake_failed` are emitted whether or not the observer gets their reports.
//!
//! Events of failures, and those two, are limited to ten a second for each kind and listener (O3). They have a field `suppressed` more: the
//! number of events that were left out before this one. Events that were left out last, when the pool ends or a second after
//! on a pool of many listeners, are one event `events_suppressed` (warn) with `listener`, `kind` and `count`. The observer
//! gets all.
//!
//! Errors, panic messages and addresses may be text that a client chose. Wherever the pool writes them, in these fields
//! and in `Display`, they are escaped and cut to 1 KiB each; an observer gets the values whole (V5).

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

/// Something that a pool has to report.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report<A = SocketAddr> {
    /// The id of the spec that the pool has at the moment.
    pub pool: Arc<str>,
    /// The [tag](crate::ListenerSettings::tag) of the listener that the event is of, if it is of one that has a tag.
    pub tag: Option<Arc<str>>,
    /// The event.
    pub event: Event<A>,
}

/// An event of a pool.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<A = SocketAddr> {
    /// `init` returned an error or panicked (B4). Counted.
    #[non_exhaustive]
    StartError {
        /// The listener that the acceptor was to wait on.
        listener: ListenerId,
        /// The acceptor.
        child: ChildId,
        /// The error or the panic.
        failure: Failure,
    },
    /// An acceptor ended otherwise than it should: killed, lost, or a panic in `terminate` or in a `Drop` (B8).
    #[non_exhaustive]
    AcceptorFailed {
        /// The listener that the acceptor waited on.
        listener: ListenerId,
        /// The acceptor.
        child: ChildId,
        /// How it failed.
        failure: Failure,
    },
    /// A connection ended with an error, a panic, a kill, or was lost (section 2).
    #[non_exhaustive]
    ConnectionFailed {
        /// The listener that the connection came from.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// Its peer.
        peer: A,
        /// The addresses of the transport, if its handshake has replaced them (H5): those of the proxy.
        transport: Option<Box<Transport<A>>>,
        /// How old it was.
        age: Duration,
        /// How it failed.
        failure: Failure,
    },
    /// A connection began (O4); reported if the spec [says so](crate::Settings::connection_reports).
    #[non_exhaustive]
    ConnectionBegan {
        /// The listener that it came from.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// Its peer.
        peer: A,
        /// Its local address.
        local_addr: A,
    },
    /// A connection ended in a way that is no failure, or was one of those that the stop killed (O4); reported if the spec
    /// [says so](crate::Settings::connection_reports). Any other end is a [`ConnectionFailed`](Event::ConnectionFailed), a
    /// [`Disconnected`](Event::Disconnected) or a [`HandshakeFailed`](Event::HandshakeFailed) instead.
    #[non_exhaustive]
    ConnectionEnded {
        /// The listener that it came from.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// Its peer.
        peer: A,
        /// The addresses of the transport, if its handshake has replaced them (H5): those of the proxy.
        transport: Option<Box<Transport<A>>>,
        /// How old it was.
        age: Duration,
        /// How it ended.
        kind: EndKind,
        /// Why, if it left cleanly and gave a [reason](crate::Exit::clean).
        reason: Option<Cow<'static, str>>,
    },
    /// The peer of a connection is gone (E5); reported if the spec [says so](crate::Settings::connection_reports).
    #[non_exhaustive]
    Disconnected {
        /// The listener that it came from.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// Its peer.
        peer: A,
        /// The addresses of the transport, if its handshake has replaced them (H5): those of the proxy.
        transport: Option<Box<Transport<A>>>,
        /// How old it was.
        age: Duration,
        /// The error that `serve` returned.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// A handshake failed or took too long (H4); reported if the spec [says so](crate::Settings::connection_reports).
    #[non_exhaustive]
    HandshakeFailed {
        /// The listener that it came from.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// Its peer.
        peer: A,
        /// The addresses of the transport, if its handshake has replaced them (H5): those of the proxy.
        transport: Option<Box<Transport<A>>>,
        /// How old it was.
        age: Duration,
        /// Why, in a short word: that of the [`HandshakeError`](crate::HandshakeError), or `timeout`.
        cause: &'static str,
        /// The error, if there is one.
        error: Option<Arc<dyn Error + Send + Sync>>,
    },
    /// A listener failed and was closed (L4). Its address can be bound again (L8).
    #[non_exhaustive]
    ListenerFailed {
        /// The listener.
        listener: ListenerId,
        /// The address it was bound to.
        local_addr: A,
        /// How many listeners of the pool are still open (L9).
        listeners_left: usize,
        /// The error that `accept` returned; or one that says that `accept` panicked, or that the runtime dropped
        /// the listener's task.
        error: Arc<io::Error>,
    },
    /// A listener pauses for want of resources (A2). At most one a second for each listener.
    #[non_exhaustive]
    AcceptPaused {
        /// The listener.
        listener: ListenerId,
        /// The address it is bound to.
        local_addr: A,
        /// The error that `accept` returned.
        error: Arc<io::Error>,
        /// How long this pause is.
        pause: Duration,
        /// How many pauses before this one have no report of their own.
        suppressed: u64,
    },
    /// The stop had to kill children (S6).
    #[non_exhaustive]
    KilledWhileStopping {
        /// How many.
        count: usize,
    },
    /// Children did not suspend after the kill and were left (S8).
    #[non_exhaustive]
    Stuck {
        /// How many.
        count: usize,
    },
    /// The pool stops, and was not asked to: too many failures (I3), the last listener failed (L9), or the runtime dropped
    /// the pool's own task (S9).
    #[non_exhaustive]
    PoolStopped {
        /// Why.
        reason: StopReason,
    },
    /// Reports were dropped, since too many waited for delivery (O2).
    #[non_exhaustive]
    ReportsLost {
        /// How many of which kind.
        lost: Losses,
    },
}

impl<A> Event<A> {
    /// The listener that the event is of, or that its child is or was on; `None` if it is the pool's.
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

    /// The kind of the event.
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

    /// The field `event` of its `tracing` event.
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

/// How many reports of which kind were dropped (O2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses([u64; 13]);

impl Losses {
    /// How many of this kind were dropped.
    pub fn of(&self, kind: EventKind) -> u64 {
        self.0[kind as usize]
    }

    /// How many were dropped.
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
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Failure {
    /// A callback returned this error.
    Error(Arc<dyn Error + Send + Sync>),
    /// A callback, or the `Drop` of something that it owned, panicked with this message.
    Panic(String),
    /// Killed through the handle.
    Killed,
    /// Its runtime dropped the task.
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

/// Gets the reports of a pool (O1, O2).
///
/// Write one for every address, `impl<A> Observer<A> for Mine`, unless it needs a certain one: without a parameter `Observer`
/// and [`Report`] are those of TCP, and do not fit a pool on another socket.
///
/// [`observer_fn`] makes one of a closure; an `Arc` of one, `Arc<dyn Observer<A>>` included, is one. Reports come one at
/// a time, in the order in which they came up, from a task of the pool's own. An observer may block: it holds up the
/// reports that follow, of which 1,024 are kept and the others counted as
/// [lost](Event::ReportsLost), and the pool's end by one kill timeout at most; it holds up
/// no connection and no listener as long as the runtime has another thread. It
/// may call the pool and wait for its end. A panic in it is caught.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Observer<{A}>`",
    label = "not an observer",
    note = "a closure: wrap it in `observer_fn(..)`"
)]
pub trait Observer<A = SocketAddr>: Send + Sync + 'static {
    /// Takes one report.
    fn report(&self, report: &Report<A>);
}

impl<A, O: Observer<A> + ?Sized> Observer<A> for Arc<O> {
    fn report(&self, report: &Report<A>) {
        (**self).report(report);
    }
}

/// Makes an observer of a closure.
///
/// ```
/// # use acceptor_core::{observer_fn, Spec};
/// # fn check<A>(echo: A) -> Spec<A> {
/// Spec::new("echo", echo).observer(observer_fn(|report| eprintln!("{report}")))
/// # }
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

/// The other end of the transport under a connection, as a field that is left out if the peer is that end.
fn through<A: Debug>(transport: Option<&Transport<A>>) -> Option<impl tracing::Value> {
    transport.map(|transport| display(EscapedDebug(&transport.peer_addr)))
}

/// The `tracing` target of all events.
const TARGET: &str = "acceptor_pool";

/// Emits the `tracing` event of a report; `suppressed` events of its kind were left out before it (O3).
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

/// Emits one `tracing` event for those of a kind that were left out last.
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

    /// How many events of failures were left out before each.
    const SUPPRESSED: u64 = 9;

    /// A report in words, and its `tracing` event: both are promised to stay as they are.
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
        // Only those of a listener have its tag.
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

    /// A report of a connection whose handshake has replaced its addresses says by which way it came (H5).
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
    fn each_kind_has_its_own_count_and_word() {
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

    /// Text that a client chose, repeated, as an error and as an address whose `Debug` escapes nothing.
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

    /// The same reports as above, with hostile text wherever a client may choose it.
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

    /// A panic has a message that is collected already.
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
    fn client_text_is_cut_to_a_kibibyte() {
        let safe = format!("{}…", "x".repeat(1021));
        for times in [1025, 1_000_000, usize::MAX] {
            check_hostile("x", times, &safe);
        }
        check_hostile_panic(&"x".repeat(1_000_000), &safe);
    }
}
