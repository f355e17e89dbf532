//! A report as a `tracing` event.

use std::fmt::Debug;

use tracing::field::display;

use super::{Event, EventKind, Report};
use crate::id::ListenerId;
use crate::incoming::Transport;
use crate::stop_report::StopReason;
use crate::text::{Escaped, EscapedDebug};

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
