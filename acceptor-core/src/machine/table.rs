//! The children of one listener: events go in, and what follows for the children comes out.
//!
//! Pure: no clock, no runtime, no future. `B` has the ways to reach children, `A` is an
//! address. Invariants: each child has a row from before its start until its
//! end; the counts are those of the rows and of the acceptors still owed; an open
//! listener has its number of acceptors; an end of a child without a row changes
//! nothing; no call but `visit` takes time that grows with the number of children.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::backoff::StartBackoff;
use super::child_end::{ChildEnd, Role};
use super::row::{Peer, Row, Stage, Tally, Watched};
use super::slots::{Bank, Slots};
use super::stuck::{Found, Looked};
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
pub(crate) struct Table<B: Bank, A> {
    id: ListenerId,
    /// What the banks of its rows are made of.
    signals: B::Signals,
    rows: Slots<Row<A>, B>,
    tally: Tally,
    /// Acceptors that the listener has and that have no row yet.
    owed: usize,
    /// Rows that the accept loop is to start, oldest first.
    to_start: BTreeSet<ChildId>,
    /// Rows that start once another acceptor's `init` has succeeded, oldest first.
    held: BTreeSet<ChildId>,
    outage: Option<Outage>,
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

/// The successor of an acceptor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// Its `init` is to run.
    Init(ChildId),
    /// It has its state, and waits; and others that were held are to be started, if so.
    Waits(ChildId, Waits),
    /// It is started by the driver, after this time.
    Later(ChildId, Duration),
    /// It starts once another acceptor's `init` has succeeded, or not at all.
    None,
}

/// The fate of an acceptor that has a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Became<C> {
    Serves(C, Replacement),
    /// It serves, and is not replaced: what there is of the next acceptor is of no use.
    ServesLast(C),
    /// It is not a child any longer: the pool ended without it.
    Gone,
    /// It is of an acceptor that is replaced, and terminates (R1); the next one, too, if it has its state.
    Replaced(Option<ChildId>),
}

/// The next acceptor, asked for its state before the lock was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    /// The number that was reserved for it.
    pub(crate) number: u64,
    /// Which of the pool's acceptors it is of.
    pub(crate) generation: u64,
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

impl<B: Bank, A> Table<B, A> {
    /// The table of a listener that has just been added; its acceptors are owed.
    pub(crate) fn new(id: ListenerId, acceptors: usize, signals: B::Signals) -> Self {
        Self {
            id,
            signals,
            rows: Slots::default(),
            tally: Tally::default(),
            owed: acceptors,
            to_start: BTreeSet::new(),
            held: BTreeSet::new(),
            outage: None,
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
        self.end_outage();
        let kind = if self.killed {
            EndKind::Killed
        } else {
            EndKind::Stopped
        };
        (std::mem::take(&mut self.owed), kind)
    }

    /// Takes all rows: their children are given up, and their ends are no longer seen.
    pub(crate) fn abandon(&mut self) -> DropCatching<Slots<Row<A>, B>> {
        self.close();
        self.tally = Tally::default();
        self.replaced = 0;
        DropCatching::new(std::mem::take(&mut self.rows))
    }

    /// The number of a child that is about to be made.
    pub(crate) fn reserve_number(&self) -> u64 {
        B::next_number(&self.signals)
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
        self.owed += begun.saturating_sub(self.replaced);
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
    pub(super) fn is_replaced(&self, row: &Row<A>) -> bool {
        let begun = row.role() == Role::Acceptor && !row.is_spaced();
        begun && row.generation < self.oldest
    }

    fn add(&mut self, state: AcceptorState, backoff: StartBackoff, now: Instant) -> ChildId {
        let (number, generation) = (self.reserve_number(), self.generation);
        self.add_numbered(number, generation, state, backoff, now)
    }

    /// None is added after the kill: a child that was given up is never followed by another in its slot.
    #[inline]
    fn add_numbered(
        &mut self,
        number: u64,
        generation: u64,
        state: AcceptorState,
        backoff: StartBackoff,
        now: Instant,
    ) -> ChildId {
        debug_assert!(!self.killed, "an open listener has no kill behind it");
        let stage = Stage::Acceptor(state);
        *self.tally.of(&stage) += 1;
        let signals = &self.signals;
        let slot = self.rows.insert_with(
            || B::new(signals),
            |slot, bank| {
                bank.occupy(slot, number);
                Row {
                    number,
                    since: now,
                    stage,
                    generation,
                    backoff,
                    looked: Looked::default(),
                    watched: Watched::No,
                }
            },
        );
        ChildId::new(self.id, number, slot)
    }

    fn row(&mut self, id: ChildId) -> Option<&mut Row<A>> {
        let (row, _) = self.rows.get_mut(id.slot)?;
        (row.number == id.number).then_some(row)
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
        let next = self.visit(from, limit, |there, _, _| {
            if there == id {
                found = Some(there);
            }
        });
        (found, next)
    }

    /// The way to a child, and what it is; `None` if it has ended.
    pub(crate) fn child(&self, id: ChildId) -> Option<(&Row<A>, B::Control)> {
        let (row, bank) = self.rows.get(id.slot)?;
        (row.number == id.number).then(|| (row, bank.control(id.slot, id.number)))
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn bank_mut(&mut self, id: ChildId) -> Option<&mut B> {
        let (_, bank) = self
            .rows
            .get_mut(id.slot)
            .filter(|(row, _)| row.number == id.number)?;
        Some(bank)
    }

    fn set_state(&mut self, id: ChildId, from: &[AcceptorState], to: AcceptorState) -> bool {
        let Some((row, _)) = self
            .rows
            .get_mut(id.slot)
            .filter(|(row, _)| row.number == id.number)
        else {
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
    pub(crate) fn give_rows(&mut self, limit: usize, now: Instant) {
        for _ in 0..limit.min(self.owed) {
            self.owed -= 1;
            let id = self.add(AcceptorState::Spaced, StartBackoff::default(), now);
            self.to_start.insert(id);
        }
    }

    /// At most `limit` acceptors that are to be started now, by the accept loop.
    pub(crate) fn take_starts(&mut self, limit: usize, now: Instant) -> Vec<ChildId> {
        let mut starts = Vec::new();
        while starts.len() < limit && self.is_open() {
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
                    self.add(AcceptorState::Spaced, StartBackoff::default(), now)
                }
                None => break,
            };
            if self.start(child) {
                starts.push(child);
                if let Some(outage) = &mut self.outage {
                    outage.probe = Some(child);
                }
            }
        }
        starts
    }

    /// Starts a spaced acceptor, unless it has ended meanwhile, as one of the acceptor that the pool has by now (R1).
    pub(crate) fn start(&mut self, child: ChildId) -> bool {
        if !self.is_open() || !self.set_state(child, &[AcceptorState::Spaced], AcceptorState::Init)
        {
            return false;
        }
        let generation = self.generation;
        if let Some(row) = self.row(child) {
            row.generation = generation;
        }
        true
    }

    /// An acceptor begins its `init`, as one of the acceptor that the pool has by now, unless another has taken its place:
    /// the way to it, and which of the pool's acceptors it is of. `None` if it has ended.
    pub(crate) fn begin(&mut self, child: ChildId) -> Option<(B::Control, u64)> {
        let (generation, oldest) = (self.generation, self.oldest);
        let (row, bank) = self
            .rows
            .get_mut(child.slot)
            .filter(|(row, _)| row.number == child.number)?;
        if row.generation >= oldest {
            row.generation = generation;
        }
        Some((bank.control(child.slot, child.number), row.generation))
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
    #[inline]
    fn release(&mut self) -> Waits {
        let held = !self.held.is_empty() || !self.to_start.is_empty() || self.owed > 0;
        match self.end_outage() {
            true if held => Waits::Releases,
            _ => Waits::Yes,
        }
    }

    /// Returns whether there was one.
    #[inline]
    fn end_outage(&mut self) -> bool {
        if self.outage.is_none() {
            return false;
        }
        self.outage = None;
        B::set_outage(&self.signals, false);
        true
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn signals(&self) -> &B::Signals {
        &self.signals
    }

    /// An acceptor waits no longer, and terminates: the way to it, and which of the pool's acceptors it is of. `None` if the
    /// pool has ended without it.
    pub(crate) fn terminates(&mut self, id: ChildId) -> Option<(B::Control, u64)> {
        self.set_state(id, &[AcceptorState::Waiting], AcceptorState::Terminating);
        let (row, control) = self.child(id)?;
        Some((control, row.generation))
    }

    /// An acceptor has a connection and becomes it (B5, Q3).
    #[inline]
    pub(crate) fn became(
        &mut self,
        id: ChildId,
        state: ConnectionState,
        peer: Peer<A>,
        now: Instant,
        next: Next,
    ) -> Became<B::Control> {
        if self.killed {
            return Became::Gone;
        }
        let Some((row, bank)) = self
            .rows
            .get_mut(id.slot)
            .filter(|(row, _)| row.number == id.number)
        else {
            return Became::Gone;
        };
        if row.generation < self.oldest {
            return Became::Replaced(self.add_replaced(next, now));
        }
        let control = bank.control(id.slot, id.number);
        *self.tally.of(&row.stage) -= 1;
        row.stage = Stage::Connection(state, peer);
        row.since = now;
        row.watched = self.watched;
        *self.tally.of(&row.stage) += 1;
        self.accepted += 1;
        if !self.is_open() {
            return Became::ServesLast(control);
        }
        let Next {
            number,
            generation,
            ready,
        } = next;
        let backoff = StartBackoff::default();
        let state = match ready {
            Ready::Yes => AcceptorState::Waiting,
            Ready::No if self.outage.is_some() => {
                let replacement = self.retry(number, generation, backoff, now);
                return Became::Serves(control, replacement);
            }
            Ready::No | Ready::Failed => AcceptorState::Init,
        };
        let child = self.add_numbered(number, generation, state, backoff, now);
        let replacement = match ready {
            Ready::Yes => Replacement::Waits(child, self.release()),
            Ready::No | Ready::Failed => Replacement::Init(child),
        };
        Became::Serves(control, replacement)
    }

    /// The next acceptor was made before it was replaced. It has a row if there is anything of it: a state that is to
    /// terminate, or an error to report.
    fn add_replaced(&mut self, next: Next, now: Instant) -> Option<ChildId> {
        let state = match next.ready {
            Ready::No => return None,
            Ready::Yes => AcceptorState::Waiting,
            Ready::Failed => AcceptorState::Init,
        };
        let Next {
            number, generation, ..
        } = next;
        debug_assert!(generation < self.oldest, "it is replaced as well");
        let backoff = StartBackoff::default();
        self.replaced += 1;
        Some(self.add_numbered(number, generation, state, backoff, now))
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
        let Some((row, _)) = self
            .rows
            .get_mut(id.slot)
            .filter(|(row, _)| row.number == id.number)
        else {
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
        backoff: StartBackoff,
        now: Instant,
    ) -> Replacement {
        let spaced = AcceptorState::Spaced;
        let child = self.add_numbered(number, generation, spaced, backoff, now);
        match &mut self.outage {
            Some(outage) if outage.probe.is_none() => {
                outage.probe = Some(child);
                Replacement::Later(child, outage.backoff.delay())
            }
            _ => {
                self.held.insert(child);
                Replacement::None
            }
        }
    }

    /// A connection has ended well. `None`, and nothing done, if more could follow from it than that it is gone. What its row
    /// held is to be dropped outside of any lock.
    #[inline]
    pub(crate) fn left(&mut self, id: ChildId) -> Option<DropCatching<Peer<A>>> {
        if self.stopping || self.door == Door::Closed {
            return None;
        }
        // Of what a row may be listed in, a connection is in nothing.
        let (state, peer) = self.rows.vacate(id.slot, |row| {
            if row.number != id.number || row.watched == Watched::Yes {
                return None;
            }
            let waits = Stage::Acceptor(AcceptorState::Waiting);
            match std::mem::replace(&mut row.stage, waits) {
                Stage::Connection(state, peer) => Some((state, DropCatching::new(peer))),
                stage => {
                    row.stage = stage;
                    None
                }
            }
        })?;
        *self.tally.of_connections(state) -= 1;
        Some(peer)
    }

    /// Takes a child out of the table, and out of the counts.
    pub(super) fn remove(&mut self, id: ChildId) -> Option<DropCatching<Row<A>>> {
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
    pub(super) fn replace(&mut self, gone: &Row<A>, end: AcceptorEnd, now: Instant) -> Replacement {
        let mut backoff = StartBackoff::default();
        if end == AcceptorEnd::StartError && self.outage.is_none() {
            self.outage = Some(Outage {
                backoff,
                probe: None,
            });
            B::set_outage(&self.signals, true);
        }
        if self.outage.is_some() {
            let (number, generation) = (self.reserve_number(), self.generation);
            return self.retry(number, generation, backoff, now);
        }
        let delay = match end {
            AcceptorEnd::Repeats | AcceptorEnd::Lost => {
                backoff = gone.backoff;
                backoff.delay()
            }
            AcceptorEnd::StartError | AcceptorEnd::Other => Duration::ZERO,
        };
        if end == AcceptorEnd::Lost || !delay.is_zero() {
            let child = self.add(AcceptorState::Spaced, backoff, now);
            return Replacement::Later(child, delay);
        }
        Replacement::Init(self.add(AcceptorState::Init, backoff, now))
    }

    /// Visits children from a slot on, looking at no more than `limit` slots; returns where to go on, if anywhere.
    pub(crate) fn visit(
        &mut self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(ChildId, &Row<A>, &dyn Fn() -> B::Control),
    ) -> Option<usize> {
        let listener = self.id;
        self.rows.visit(from, limit, |slot, row, bank| {
            let id = ChildId::new(listener, row.number, slot);
            visit(id, row, &|| bank.control(slot, row.number));
        })
    }

    /// Looks at children after the kill: those that are stuck, whether any other moved, and where to go on.
    pub(crate) fn look(
        &mut self,
        from: usize,
        limit: usize,
    ) -> (Vec<ChildId>, bool, Option<usize>) {
        let (listener, mut stuck, mut moved) = (self.id, Vec::new(), false);
        let next = self.rows.visit(from, limit, |slot, row, bank| {
            match row.looked.look(bank.mark(slot)) {
                Found::Moved => moved = true,
                Found::Still => {}
                Found::Stuck => stuck.push(ChildId::new(listener, row.number, slot)),
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
