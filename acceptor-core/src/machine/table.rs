//! The children of one listener: events go in, and what follows for the children comes out.
//!
//! Pure: no clock, no runtime, no future. `C` is the way to reach a child, `A` an
//! address. Invariants: each child has a row from before its start until its
//! end; the counts are those of the rows and of the acceptors still owed; an open
//! listener has its number of acceptors; an end of a child without a row changes
//! nothing; no call but `visit` takes time that grows with the number of children.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::backoff::StartBackoff;
use super::child_end::{ChildEnd, Role};
use super::row::{Peer, Row, Stage, Tally, Watched};
use super::slots::Slots;
use super::stuck::{Found, Looked, Marked};
use crate::id::{ChildId, ListenerId};
use crate::policy::WaitingAcceptors;
use crate::status::{AcceptorState, ConnectionState};
use crate::stop_report::EndKind;
use crate::sync::DropCatching;

/// While `init` fails, one acceptor at a time tries again; the others are held until one accepts (B4).
#[derive(Debug, Clone)]
struct Outage {
    backoff: StartBackoff,
    probe: Option<ChildId>,
}

/// Whether the listener takes connections, and so keeps its number of acceptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// Nothing is accepted any longer: acceptors are not replaced.
    Closed,
}

#[cfg_attr(test, derive(Clone))]
pub(crate) struct Table<C, A> {
    id: ListenerId,
    rows: Slots<Row<C, A>>,
    tally: Tally,
    /// Acceptors that the listener has and that have no row yet.
    owed: usize,
    /// Rows that the accept loop is to start, oldest first.
    to_start: BTreeSet<ChildId>,
    /// Rows that start once another acceptor's `init` has succeeded, oldest first.
    held: BTreeSet<ChildId>,
    outage: Option<Outage>,
    numbers: u64,
    accepted: u64,
    /// Counts the acceptors that the pool has had: the current one's number.
    generation: u64,
    /// Acceptors that are older and have begun are replaced (R1).
    oldest: u64,
    /// How many of those have not ended yet. Others have their places already.
    replaced: usize,
    door: Door,
    /// Whether connections that begin from now on are reported.
    watched: Watched,
    stopping: bool,
    killed: bool,
}

/// A child that is to be started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Starting<C> {
    pub(crate) child: ChildId,
    pub(crate) control: C,
}

/// Acceptors that are to be started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Starts<C> {
    pub(crate) starts: Vec<Starting<C>>,
    /// What was made for them before, of an older acceptor: to be dropped outside of any lock.
    pub(crate) before: Vec<C>,
}

/// The successor of an acceptor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Replacement<C> {
    /// Its `init` is to run.
    Init(Starting<C>),
    /// It has its state, and waits; and others that were held are to be started, if so.
    Waits(Starting<C>, Waits),
    /// It is started by the driver, after this time.
    Later(Starting<C>, Duration),
    /// It starts once another acceptor's `init` has succeeded, or not at all.
    None,
}

/// The fate of an acceptor that has a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Became<C> {
    Serves(Replacement<C>),
    /// It serves, and is not replaced: the next acceptor is given back.
    ServesLast(Next<C>),
    /// It is not a child any longer: the pool ended without it.
    Gone(Next<C>),
    /// It is of an acceptor that is replaced, and terminates (R1); the next one, too, if it has its state.
    Replaced(Result<Starting<C>, Next<C>>),
}

/// The next acceptor, made before the lock was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Next<C> {
    /// The number that was reserved for it.
    pub(crate) number: u64,
    /// Which of the pool's acceptors it is of.
    pub(crate) generation: u64,
    pub(crate) control: C,
    pub(crate) ready: Ready,
}

/// Whether an acceptor has its state without an `init` (B5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Yes,
    No,
    /// Asking for it was a start error (B4).
    Failed,
}

/// An acceptor's `init` has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// It waits.
    Yes,
    /// It waits; and others that were held are to be started.
    Releases,
    Gone,
}

impl<C> Default for Starts<C> {
    fn default() -> Self {
        Self {
            starts: Vec::new(),
            before: Vec::new(),
        }
    }
}

impl<C: Clone, A> Table<C, A> {
    /// The table of a listener that has just been added; its acceptors are owed.
    pub(crate) fn new(id: ListenerId, acceptors: usize) -> Self {
        Self {
            id,
            rows: Slots::default(),
            tally: Tally::default(),
            owed: acceptors,
            to_start: BTreeSet::new(),
            held: BTreeSet::new(),
            outage: None,
            numbers: 0,
            accepted: 0,
            generation: 0,
            oldest: 0,
            replaced: 0,
            door: Door::Open,
            watched: Watched::No,
            stopping: false,
            killed: false,
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            spaced: self.tally.spaced + self.owed,
            ..self.tally
        }
    }

    /// Whether acceptors have no row yet, and may still start.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed > 0 && self.is_open()
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(crate) fn is_open(&self) -> bool {
        self.door == Door::Open && !self.killed
    }

    /// Whether the listener is closed and its last child has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.door == Door::Closed && self.rows.len() == 0
    }

    /// A stop has begun: from here on it counts each end.
    pub(crate) fn begin_stop(&mut self) {
        self.stopping = true;
    }

    /// Whether connections that begin from now on are reported, and with their beginning their end (O4).
    pub(crate) fn watch_ends(&mut self, all: bool) {
        self.watched = if all { Watched::Yes } else { Watched::No };
    }

    /// From here on no child is started, and no acceptor becomes a connection.
    pub(crate) fn kill(&mut self) {
        self.killed = true;
        self.stopping = true;
    }

    /// The socket is closed: acceptors are not replaced any longer. Returns how many were owed, and how they end.
    pub(crate) fn close(&mut self) -> (usize, EndKind) {
        self.door = Door::Closed;
        self.to_start = BTreeSet::new();
        self.held = BTreeSet::new();
        self.outage = None;
        let kind = if self.killed {
            EndKind::Killed
        } else {
            EndKind::Stopped
        };
        (std::mem::take(&mut self.owed), kind)
    }

    /// Takes all rows: their children are given up, and their ends are no longer seen.
    pub(crate) fn abandon(&mut self) -> DropCatching<Slots<Row<C, A>>> {
        self.close();
        self.tally = Tally::default();
        self.replaced = 0;
        DropCatching::new(std::mem::take(&mut self.rows))
    }

    /// The number of a child that is about to be made.
    pub(crate) fn reserve_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Which of the pool's acceptors new children are of.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The pool has another acceptor. Returns whether children are to end because of that (R1).
    pub(crate) fn reconfigure(&mut self, waiting: WaitingAcceptors) -> bool {
        self.generation += 1;
        if waiting == WaitingAcceptors::Keep || !self.is_open() {
            return false;
        }
        self.oldest = self.generation;
        // Those that are spaced begin with the new one.
        let begun = self.tally.acceptors() - self.tally.spaced;
        self.owed += begun - self.replaced;
        let probe = self.outage.as_ref().and_then(|outage| outage.probe);
        if probe.is_some_and(|probe| self.row(probe).is_some_and(|row| !row.is_spaced())) {
            // Another one tries in its place.
            if let Some(outage) = &mut self.outage {
                outage.probe = None;
            }
        }
        begun > std::mem::replace(&mut self.replaced, begun)
    }

    /// Whether it is an acceptor that another has taken the place of (R1).
    pub(super) fn is_replaced(&self, row: &Row<C, A>) -> bool {
        let begun = row.role() == Role::Acceptor && !row.is_spaced();
        begun && row.generation < self.oldest
    }

    fn add(
        &mut self,
        state: AcceptorState,
        control: C,
        backoff: StartBackoff,
        now: Instant,
    ) -> ChildId {
        let (number, generation) = (self.reserve_number(), self.generation);
        self.add_numbered(number, generation, state, control, backoff, now)
    }

    fn add_numbered(
        &mut self,
        number: u64,
        generation: u64,
        state: AcceptorState,
        control: C,
        backoff: StartBackoff,
        now: Instant,
    ) -> ChildId {
        let listener = self.id;
        let stage = Stage::Acceptor(state);
        *self.tally.of(&stage) += 1;
        let slot = self.rows.insert_with(|slot| Row {
            id: ChildId::new(listener, number, slot),
            control,
            since: now,
            stage,
            generation,
            backoff,
            looked: Looked::default(),
            watched: Watched::No,
        });
        ChildId::new(listener, number, slot)
    }

    fn row(&mut self, id: ChildId) -> Option<&mut Row<C, A>> {
        self.rows.get_mut(id.slot).filter(|row| row.id == id)
    }

    /// Looks for a child whose slot is not known from this cursor on, at no more than `limit` slots; returns its id with the
    /// slot, or where to go on, if anywhere.
    pub(crate) fn find(
        &mut self,
        id: ChildId,
        from: usize,
        limit: usize,
    ) -> (Option<ChildId>, Option<usize>) {
        let mut found = None;
        let next = self.visit(from, limit, |row| {
            if row.id == id {
                found = Some(row.id);
            }
        });
        (found, next)
    }

    /// The control of a child and its role; `None` if it has ended.
    pub(crate) fn control(&self, id: ChildId) -> Option<(C, Option<AcceptorState>)> {
        let row = self.rows.get(id.slot).filter(|row| row.id == id)?;
        Some((row.control.clone(), row.acceptor_state()))
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn control_mut(&mut self, id: ChildId) -> Option<&mut C> {
        Some(&mut self.row(id)?.control)
    }

    fn set_state(&mut self, id: ChildId, from: &[AcceptorState], to: AcceptorState) -> bool {
        let Some(row) = self.rows.get_mut(id.slot).filter(|row| row.id == id) else {
            return false;
        };
        match row.stage {
            Stage::Acceptor(state) if from.contains(&state) => {}
            _ => return false,
        }
        *self.tally.of(&row.stage) -= 1;
        row.stage = Stage::Acceptor(to);
        *self.tally.of(&row.stage) += 1;
        true
    }

    /// Gives rows to at most `limit` acceptors that are owed, so that they can be listed.
    pub(crate) fn give_rows(&mut self, limit: usize, now: Instant, mut make: impl FnMut() -> C) {
        for _ in 0..limit.min(self.owed) {
            self.owed -= 1;
            let id = self.add(AcceptorState::Spaced, make(), StartBackoff::default(), now);
            self.to_start.insert(id);
        }
    }

    /// At most `limit` acceptors that are to be started now, by the accept loop.
    pub(crate) fn take_starts(
        &mut self,
        limit: usize,
        now: Instant,
        mut make: impl FnMut() -> C,
    ) -> Starts<C> {
        let mut starts = Starts::default();
        while starts.starts.len() < limit && self.is_open() {
            let probe = self.outage.as_ref().map(|outage| outage.probe);
            if let Some(Some(_)) = probe {
                // One at a time, until one accepts (B4).
                break;
            }
            let child = match self.to_start.pop_first() {
                None if probe.is_none() => self.held.pop_first(),
                child => child,
            };
            let child = match child {
                Some(child) => child,
                None if self.owed > 0 => {
                    self.owed -= 1;
                    let (spaced, backoff) = (AcceptorState::Spaced, StartBackoff::default());
                    self.add(spaced, make(), backoff, now)
                }
                None => break,
            };
            if self.start(child, &mut make, &mut starts) {
                if let Some(outage) = &mut self.outage {
                    outage.probe = Some(child);
                }
            }
        }
        starts
    }

    /// Starts a spaced acceptor, unless it has ended meanwhile, as one of the acceptor that the pool has by now (R1).
    pub(crate) fn start(
        &mut self,
        child: ChildId,
        make: impl FnOnce() -> C,
        starts: &mut Starts<C>,
    ) -> bool {
        if !self.is_open() || !self.set_state(child, &[AcceptorState::Spaced], AcceptorState::Init)
        {
            return false;
        }
        let generation = self.generation;
        let Some(row) = self.row(child) else {
            return false;
        };
        if row.generation < generation {
            row.generation = generation;
            let before = std::mem::replace(&mut row.control, make());
            starts.before.push(before);
        }
        let control = row.control.clone();
        starts.starts.push(Starting { child, control });
        true
    }

    /// An acceptor is through `init`, and waits.
    pub(crate) fn waits(&mut self, id: ChildId) -> Waits {
        if !self.set_state(id, &[AcceptorState::Init], AcceptorState::Waiting) {
            return Waits::Gone;
        }
        let oldest = self.oldest;
        match self.row(id) {
            // It terminates, and says nothing of the acceptor that has taken its place.
            Some(row) if row.generation < oldest => Waits::Yes,
            _ => self.release(),
        }
    }

    /// An acceptor has its state: an outage is over (B4).
    fn release(&mut self) -> Waits {
        let held = !self.held.is_empty() || !self.to_start.is_empty() || self.owed > 0;
        match self.outage.take() {
            Some(_) if held => Waits::Releases,
            _ => Waits::Yes,
        }
    }

    /// Whether acceptors are held until one has its state (B4).
    pub(crate) fn has_outage(&self) -> bool {
        self.outage.is_some()
    }

    /// An acceptor waits no longer, and terminates.
    pub(crate) fn terminates(&mut self, id: ChildId) {
        self.set_state(id, &[AcceptorState::Waiting], AcceptorState::Terminating);
    }

    /// An acceptor has a connection and becomes it (B5, Q3).
    pub(crate) fn became(
        &mut self,
        id: ChildId,
        state: ConnectionState,
        peer: Peer<A>,
        now: Instant,
        next: Next<C>,
    ) -> Became<C> {
        if self.killed {
            return Became::Gone(next);
        }
        let Some(row) = self.rows.get_mut(id.slot).filter(|row| row.id == id) else {
            return Became::Gone(next);
        };
        if row.generation < self.oldest {
            return Became::Replaced(self.add_replaced(next, now));
        }
        *self.tally.of(&row.stage) -= 1;
        row.stage = Stage::Connection(state, peer);
        row.since = now;
        row.watched = self.watched;
        *self.tally.of(&row.stage) += 1;
        self.accepted += 1;
        if !self.is_open() {
            return Became::ServesLast(next);
        }
        let Next {
            number,
            generation,
            control,
            ready,
        } = next;
        let backoff = StartBackoff::default();
        let state = match ready {
            Ready::Yes => AcceptorState::Waiting,
            Ready::No if self.outage.is_some() => {
                return Became::Serves(self.retry(number, generation, control, backoff, now));
            }
            Ready::No | Ready::Failed => AcceptorState::Init,
        };
        let child = self.add_numbered(number, generation, state, control.clone(), backoff, now);
        let start = Starting { child, control };
        Became::Serves(match ready {
            Ready::Yes => Replacement::Waits(start, self.release()),
            Ready::No | Ready::Failed => Replacement::Init(start),
        })
    }

    /// The next acceptor was made before it was replaced. It has a row if there is anything of it: a state that is to
    /// terminate, or an error to report.
    fn add_replaced(&mut self, next: Next<C>, now: Instant) -> Result<Starting<C>, Next<C>> {
        let state = match next.ready {
            Ready::No => return Err(next),
            Ready::Yes => AcceptorState::Waiting,
            Ready::Failed => AcceptorState::Init,
        };
        let Next {
            number,
            generation,
            control,
            ..
        } = next;
        let backoff = StartBackoff::default();
        let child = self.add_numbered(number, generation, state, control.clone(), backoff, now);
        self.replaced += 1;
        Ok(Starting { child, control })
    }

    /// A connection in its handshake has these addresses from now on (H5). Gives back those before, or these if it has
    /// ended, to be dropped outside of any lock.
    pub(crate) fn readdressed(&mut self, id: ChildId, peer: Peer<A>) -> Peer<A> {
        match self.row(id).map(|row| &mut row.stage) {
            Some(Stage::Connection(ConnectionState::Handshaking, before)) => {
                std::mem::replace(before, peer)
            }
            _ => peer,
        }
    }

    /// The handshake of a connection is through.
    pub(crate) fn handshaken(&mut self, id: ChildId) {
        self.set_connection_state(id, ConnectionState::Serving);
    }

    /// `serve` has returned, and a guard keeps the connection (E6).
    pub(crate) fn guarded(&mut self, id: ChildId) {
        self.set_connection_state(id, ConnectionState::Guarded);
    }

    fn set_connection_state(&mut self, id: ChildId, to: ConnectionState) {
        let Some(row) = self.rows.get_mut(id.slot).filter(|row| row.id == id) else {
            return;
        };
        *self.tally.of(&row.stage) -= 1;
        if let Stage::Connection(state, _) = &mut row.stage {
            *state = to;
        }
        *self.tally.of(&row.stage) += 1;
    }

    /// During an outage: the acceptor that tries again, if there is none; else one that is held.
    fn retry(
        &mut self,
        number: u64,
        generation: u64,
        control: C,
        backoff: StartBackoff,
        now: Instant,
    ) -> Replacement<C> {
        let spaced = AcceptorState::Spaced;
        let child = self.add_numbered(number, generation, spaced, control.clone(), backoff, now);
        match &mut self.outage {
            Some(outage) if outage.probe.is_none() => {
                outage.probe = Some(child);
                Replacement::Later(Starting { child, control }, outage.backoff.delay())
            }
            _ => {
                self.held.insert(child);
                Replacement::None
            }
        }
    }

    /// A connection has ended well. `None`, and nothing done, if more could follow from it than that it is gone.
    pub(crate) fn left(&mut self, id: ChildId) -> Option<DropCatching<Row<C, A>>> {
        if self.stopping || self.door == Door::Closed {
            return None;
        }
        let row = self.row(id)?;
        if row.role() == Role::Acceptor || row.watched == Watched::Yes {
            return None;
        }
        self.remove(id)
    }

    /// Takes a child out of the table, and out of the counts.
    pub(super) fn remove(&mut self, id: ChildId) -> Option<DropCatching<Row<C, A>>> {
        self.row(id)?;
        let row = DropCatching::new(self.rows.remove(id.slot)?);
        *self.tally.of(&row.stage) -= 1;
        if self.is_replaced(&row) {
            self.replaced -= 1;
        }
        self.held.remove(&id);
        self.to_start.remove(&id);
        if let Some(outage) = &mut self.outage {
            if outage.probe == Some(id) {
                outage.probe = None;
            }
        }
        Some(row)
    }

    /// The successor of an acceptor that has ended, and whose row is removed.
    pub(super) fn replace(
        &mut self,
        gone: &Row<C, A>,
        end: AcceptorEnd,
        now: Instant,
        control: C,
    ) -> Replacement<C> {
        let mut backoff = StartBackoff::default();
        if end == AcceptorEnd::StartError && self.outage.is_none() {
            self.outage = Some(Outage {
                backoff,
                probe: None,
            });
        }
        if self.outage.is_some() {
            let (number, generation) = (self.reserve_number(), self.generation);
            return self.retry(number, generation, control, backoff, now);
        }
        let delay = match end {
            AcceptorEnd::Repeats | AcceptorEnd::Lost => {
                backoff = gone.backoff;
                backoff.delay()
            }
            AcceptorEnd::StartError | AcceptorEnd::Other => Duration::ZERO,
        };
        if end == AcceptorEnd::Lost || !delay.is_zero() {
            let child = self.add(AcceptorState::Spaced, control.clone(), backoff, now);
            return Replacement::Later(Starting { child, control }, delay);
        }
        let child = self.add(AcceptorState::Init, control.clone(), backoff, now);
        Replacement::Init(Starting { child, control })
    }

    /// Visits children from a slot on, looking at no more than `limit` slots; returns where to go on, if anywhere.
    pub(crate) fn visit(
        &mut self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(&Row<C, A>),
    ) -> Option<usize> {
        self.rows.visit(from, limit, |_, row| visit(row))
    }

    /// Looks at children after the kill: those that are stuck, whether any other moved, and where to go on.
    pub(crate) fn look(&mut self, from: usize, limit: usize) -> (Vec<ChildId>, bool, Option<usize>)
    where
        C: Marked,
    {
        let (mut stuck, mut moved) = (Vec::new(), false);
        let next = self.rows.visit(from, limit, |_, row| {
            match row.looked.look(row.control.mark()) {
                Found::Moved => moved = true,
                Found::Still => {}
                Found::Stuck => stuck.push(row.id),
            }
        });
        (stuck, moved, next)
    }
}

/// How an acceptor ended, as far as its replacement is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptorEnd {
    StartError,
    /// The same could follow at once: starts are spaced (B3, B6).
    Repeats,
    /// Its runtime dropped it, perhaps from within a spawn: only the driver may start another.
    Lost,
    Other,
}

impl AcceptorEnd {
    pub(super) fn of(end: &ChildEnd) -> Self {
        match end {
            ChildEnd::StartError(_) => Self::StartError,
            ChildEnd::Lost => Self::Lost,
            end if end.needs_spacing() => Self::Repeats,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
