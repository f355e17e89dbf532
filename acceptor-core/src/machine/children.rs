//! A row of the children's table.

use std::time::Instant;

use crate::id::{ChildId, ListenerId};
use crate::machine::backoff::StartBackoff;
use crate::machine::child_end::{ChildEnd, Role};
use crate::report::{Event, Failure};

/// One row of the table.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct ChildRow<C, A> {
    pub(crate) id: ChildId,
    pub(crate) listener: ListenerId,
    pub(crate) control: C,
    /// What it is; `None` while it is an acceptor.
    pub(crate) peer: Option<Peer<A>>,
    pub(super) spacing: StartBackoff,
}

/// What is known of a connection.
#[derive(Clone)]
pub(crate) struct Peer<A> {
    pub(crate) peer_addr: A,
    pub(crate) local_addr: A,
    pub(crate) since: Instant,
}

impl<C, A> ChildRow<C, A> {
    pub(super) fn role(&self) -> Role {
        match self.peer {
            Some(_) => Role::Connection,
            None => Role::Acceptor,
        }
    }

    /// The report of an end, if it is one to report. The peer's address goes with it.
    pub(super) fn report(&mut self, end: ChildEnd, now: Instant) -> Option<Event<A>> {
        let (listener, id) = (self.listener, self.id);
        let start_error = matches!(end, ChildEnd::StartError(_));
        let failure: Failure = end.failure()?;
        Some(match self.peer.take() {
            Some(peer) => Event::ConnectionFailed {
                listener,
                child: id,
                peer: peer.peer_addr,
                age: now.saturating_duration_since(peer.since),
                failure,
            },
            None if start_error => Event::StartError {
                listener,
                child: id,
                failure,
            },
            None => Event::AcceptorFailed {
                listener,
                child: id,
                failure,
            },
        })
    }
}
