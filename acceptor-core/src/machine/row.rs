//! A child's row in the table of its listener: its state, since when, and the reports of its end.

use std::borrow::Cow;
use std::time::Instant;

use super::backoff::StartBackoff;
use super::child_end::{ChildEnd, Role};
use super::stuck::Looked;
use crate::id::{ChildId, ListenerId};
use crate::incoming::Transport;
use crate::report::{Event, Failure};
use crate::status::{AcceptorState, ConnectionState};
use crate::stop_report::{EndKind, LateConnection, Phase};

/// The row of one child.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Row<A> {
    /// Identifies the child among those of its listener. The rest of its id follows from the
    /// position of its row, to keep rows small.
    pub(crate) number: u64,
    /// When the child became an acceptor, or a connection.
    pub(crate) since: Instant,
    pub(crate) stage: Stage<A>,
    /// The generation of the pool's acceptor that the child belongs to.
    pub(super) generation: u64,
    pub(super) backoff: StartBackoff,
    pub(super) looked: Looked,
    /// Whether its start as a connection was reported, so that its end is too.
    pub(super) watched: Watched,
    /// Whether it fills the limits, once it is a connection.
    pub(crate) slot: Slot,
}

/// Whether a connection fills the limits (C5), or has given its slot back (C7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Held,
    Released,
}

#[derive(Clone)]
pub(crate) enum Stage<A> {
    Acceptor(AcceptorState),
    Connection(ConnectionState, Peer<A>),
}

/// The addresses of a connection.
#[derive(Clone)]
pub(crate) struct Peer<A> {
    pub(crate) peer_addr: A,
    /// `None` if the connection has its listener's local address and no replaced addresses.
    pub(crate) own: Option<Box<OwnAddrs<A>>>,
}

/// Rarely used per-connection addresses.
#[derive(Clone)]
pub(crate) struct OwnAddrs<A> {
    pub(crate) local_addr: A,
    /// The transport's addresses, if the handshake has replaced them (H5).
    pub(crate) transport: Option<Box<Transport<A>>>,
}

impl<A> Peer<A> {
    pub(crate) fn transport(&self) -> Option<&Transport<A>> {
        self.own.as_ref()?.transport.as_deref()
    }

    fn cloned_transport(&self) -> Option<Box<Transport<A>>>
    where
        A: Clone,
    {
        self.own.as_ref()?.transport.clone()
    }
}

impl<A> Row<A> {
    pub(crate) fn role(&self) -> Role {
        match self.stage {
            Stage::Connection(..) => Role::Connection,
            Stage::Acceptor(_) => Role::Acceptor,
        }
    }

    /// The generation of the pool's acceptor that the child belongs to.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the id of a row that has left its table.
    pub(crate) fn id(&self, listener: ListenerId) -> ChildId {
        ChildId::new(listener, self.number, ChildId::NO_SLOT)
    }

    /// Returns whether this is an acceptor that has not started.
    pub(super) fn is_spaced(&self) -> bool {
        self.acceptor_state() == Some(AcceptorState::Spaced)
    }

    pub(crate) fn acceptor_state(&self) -> Option<AcceptorState> {
        match self.stage {
            Stage::Acceptor(state) => Some(state),
            Stage::Connection(..) => None,
        }
    }

    /// Returns the debug-level report of an end: the peer is gone, or the handshake failed. Returns
    /// any other end unchanged.
    pub(super) fn debug_report(
        &self,
        child: ChildId,
        end: ChildEnd,
        now: Instant,
    ) -> Result<Event<A>, ChildEnd>
    where
        A: Clone,
    {
        let Stage::Connection(_, peer) = &self.stage else {
            return Err(end);
        };
        let listener = child.listener();
        let age = now.saturating_duration_since(self.since);
        match end {
            ChildEnd::Disconnected(error) => Ok(Event::Disconnected {
                listener,
                child,
                peer: peer.peer_addr.clone(),
                transport: peer.cloned_transport(),
                age,
                error,
            }),
            ChildEnd::HandshakeFailed(cause, error) => Ok(Event::HandshakeFailed {
                listener,
                child,
                peer: peer.peer_addr.clone(),
                transport: peer.cloned_transport(),
                age,
                cause,
                error,
            }),
            end => Err(end),
        }
    }

    /// Describes a connection that delayed a stop (S7).
    pub(crate) fn late(
        &self,
        id: ChildId,
        kind: Option<EndKind>,
        phase: Phase,
        now: Instant,
    ) -> Option<(Instant, LateConnection<A>)>
    where
        A: Clone,
    {
        let Stage::Connection(_, peer) = &self.stage else {
            return None;
        };
        let late = LateConnection {
            id,
            peer_addr: peer.peer_addr.clone(),
            age: now.saturating_duration_since(self.since),
            phase,
            kind,
        };
        Some((self.since, late))
    }

    /// Returns whether the connection's start was reported, so that its end must be (O4).
    pub(super) fn is_watched(&self) -> bool {
        self.watched == Watched::Yes
    }

    /// Returns the report of an end, if it is to be reported.
    pub(super) fn report(&self, child: ChildId, end: ChildEnd, now: Instant) -> Option<Event<A>>
    where
        A: Clone,
    {
        let listener = child.listener();
        let start_error = matches!(end, ChildEnd::StartError(_));
        let failure: Failure = end.failure()?;
        Some(match &self.stage {
            Stage::Connection(_, peer) => Event::ConnectionFailed {
                listener,
                child,
                peer: peer.peer_addr.clone(),
                transport: peer.cloned_transport(),
                age: now.saturating_duration_since(self.since),
                failure,
            },
            Stage::Acceptor(_) if start_error => Event::StartError {
                listener,
                child,
                failure,
            },
            Stage::Acceptor(_) => Event::AcceptorFailed {
                listener,
                child,
                failure,
            },
        })
    }
}

impl<A: Clone> Row<A> {
    /// Returns the report of the end of a connection whose start was reported (O4).
    pub(super) fn ended(
        &self,
        child: ChildId,
        kind: EndKind,
        reason: Option<Cow<'static, str>>,
        now: Instant,
    ) -> Option<Event<A>> {
        let (Stage::Connection(_, peer), Watched::Yes) = (&self.stage, self.watched) else {
            return None;
        };
        Some(Event::ConnectionEnded {
            listener: child.listener(),
            child,
            peer: peer.peer_addr.clone(),
            transport: peer.cloned_transport(),
            age: now.saturating_duration_since(self.since),
            kind,
            reason,
        })
    }
}

/// The numbers of children by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) serving: usize,
    pub(crate) handshaking: usize,
    pub(crate) guarded: usize,
    pub(crate) waiting: usize,
    /// Not started yet.
    pub(crate) spaced: usize,
    pub(crate) init: usize,
    pub(crate) terminating: usize,
}

impl Tally {
    pub(crate) fn connections(&self) -> usize {
        self.serving + self.handshaking + self.guarded
    }

    pub(crate) fn acceptors(&self) -> usize {
        self.waiting + self.starting() + self.terminating
    }

    pub(crate) fn starting(&self) -> usize {
        self.spaced + self.init
    }

    pub(super) fn of_connections(&mut self, state: ConnectionState) -> &mut usize {
        match state {
            ConnectionState::Handshaking => &mut self.handshaking,
            ConnectionState::Serving => &mut self.serving,
            ConnectionState::Guarded => &mut self.guarded,
        }
    }

    pub(super) fn of<A>(&mut self, stage: &Stage<A>) -> &mut usize {
        match stage {
            Stage::Connection(state, _) => self.of_connections(*state),
            Stage::Acceptor(AcceptorState::Waiting) => &mut self.waiting,
            Stage::Acceptor(AcceptorState::Terminating) => &mut self.terminating,
            Stage::Acceptor(AcceptorState::Spaced) => &mut self.spaced,
            Stage::Acceptor(AcceptorState::Init) => &mut self.init,
        }
    }
}

/// Whether the start and the end of a connection are reported (O4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    No,
    Yes,
}
