//! A report as one line of text, in which the text of a client is escaped and cut (V5).

use std::fmt::{self, Debug};

use super::{Event, Failure, Report};
use crate::incoming::PeerText;
use crate::text::{Escaped, EscapedDebug, Tag};

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
