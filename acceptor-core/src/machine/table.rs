//! The children of one listener: events go in, and their consequences for the children come out.
//!
//! Pure: no clock, no runtime, no future. `B` gives access to children, `A` is an address.
//! Invariants: each child has a row from before its start until its end; the counts are those of
//! the rows and of the acceptors still owed; an open listener has its number of acceptors; an end
//! of a child without a row changes nothing; only `visit` takes time that grows with the number of
//! children.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::backoff::StartBackoff;
use super::child_end::{ChildEnd, Role};
use super::row::{Peer, Row, Slot, Stage, Tally, Watched};
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

/// Whether the listener accepts connections, and so maintains its number of acceptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// It accepts no more connections: acceptors are not replaced.
    Closed,
}

#[cfg_attr(test, derive(Clone))]
pub(crate) struct Table<B: Bank, A> {
    id: ListenerId,
    /// State shared by the banks of its rows.
    signals: B::Signals,
    rows: Slots<Row<A>, B>,
    tally: Tally,
    /// The number of acceptors that the listener is to have and that have no row yet.
    owed: usize,
    /// Rows for the accept loop to start, oldest first.
    to_start: BTreeSet<ChildId>,
    /// Rows that start once another acceptor's `init` has succeeded, oldest first.
    held: BTreeSet<ChildId>,
    outage: Option<Outage>,
    accepted: u64,
    /// The current generation: counts the acceptors that the pool has been configured with.
    generation: u64,
    /// Started acceptors of generations before this one are replaced (R1).
    oldest: u64,
    /// How many of those have not ended yet. They have successors already.
    replaced: usize,
    /// How many connections have given their slot back (C7).
    released: usize,
    door: Door,
    /// Whether connections that begin from now on are reported.
    watched: Watched,
    stopping: bool,
    killed: bool,
}

/// The successor of an acceptor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// Its `init` must run.
    Init(ChildId),
    /// It has its state and waits. The second value says whether held acceptors must start.
    Waits(ChildId, Waits),
    /// The driver starts it after this delay.
    Later(ChildId, Duration),
    /// It starts once another acceptor's `init` has succeeded, or not at all.
    None,
}

/// The outcome for an acceptor that got a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Became<C> {
    Serves(C, Replacement),
    /// It serves and has no replacement: the prepared state of the next acceptor is unused.
    ServesLast(C),
    /// It is no longer a child: the pool ended without it.
    Gone,
    /// It belongs to a replaced generation and terminates (R1), as does the next one if that has
    /// its state.
    Replaced(Option<ChildId>),
}

/// The next acceptor, whose `init_now` ran before the lock was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    /// The number reserved for it.
    pub(crate) number: u64,
    /// The generation of the pool's acceptor that it belongs to.
    pub(crate) generation: u64,
    pub(crate) ready: Ready,
}

/// Whether an acceptor has its state without an `init` (B5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Yes,
    No,
    /// `init_now` was a start error (B4).
    Failed,
}

/// The consequence of an `init` that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// The acceptor waits.
    Yes,
    /// The acceptor waits, and held acceptors must be started.
    Releases,
    Gone,
}

impl<B: Bank, A> Table<B, A> {
    /// Creates the table of a new listener; all its acceptors are owed.
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
            released: 0,
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

    /// Returns how many connections fill the limits.
    pub(crate) fn slots(&self) -> usize {
        self.tally.connections() - self.released
    }

    /// Records that a connection gives its slot back. Returns false if it has done so before, or
    /// has ended.
    pub(crate) fn release_slot(&mut self, id: ChildId) -> bool {
        let Some(row) = self.row(id) else {
            return false;
        };
        if row.role() != Role::Connection || row.slot == Slot::Released {
            return false;
        }
        row.slot = Slot::Released;
        self.released += 1;
        true
    }

    /// Returns whether acceptors without a row may still start.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed > 0 && self.is_open()
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(crate) fn is_open(&self) -> bool {
        self.door == Door::Open && !self.killed
    }

    /// Returns whether the listener is closed and its last child has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.door == Door::Closed && self.rows.len() == 0
    }

    /// Begins a stop, which counts each end from now on.
    pub(crate) fn begin_stop(&mut self) {
        self.stopping = true;
    }

    /// Sets whether the start and the end of connections that begin from now on are reported (O4).
    pub(crate) fn watch_ends(&mut self, all: bool) {
        self.watched = if all { Watched::Yes } else { Watched::No };
    }

    /// Begins the kill: from now on no child starts, and no acceptor becomes a connection.
    pub(crate) fn kill(&mut self) {
        self.killed = true;
        self.stopping = true;
    }

    /// Records that the socket is closed: acceptors are no longer replaced. Returns how many were
    /// owed, and how they end.
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

    /// Takes all rows: their children are abandoned, and their ends are ignored.
    pub(crate) fn abandon(&mut self) -> DropCatching<Slots<Row<A>, B>> {
        self.close();
        self.tally = Tally::default();
        self.replaced = 0;
        self.released = 0;
        DropCatching::new(std::mem::take(&mut self.rows))
    }

    /// Returns the number for a child that is about to be created.
    pub(crate) fn reserve_number(&self) -> u64 {
        B::next_number(&self.signals)
    }

    /// Returns the generation of new children.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Switches to another acceptor. Returns whether children must end because of it (R1).
    pub(crate) fn reconfigure(&mut self, waiting: WaitingAcceptors) -> bool {
        self.generation += 1;
        if waiting == WaitingAcceptors::Keep || !self.is_open() {
            return false;
        }
        self.oldest = self.generation;
        // Spaced acceptors start with the new one.
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

    /// Returns whether this is a replaced acceptor, which has a successor (R1).
    pub(super) fn is_replaced(&self, row: &Row<A>) -> bool {
        let begun = row.role() == Role::Acceptor && !row.is_spaced();
        begun && row.generation < self.oldest
    }

    fn add(&mut self, state: AcceptorState, backoff: StartBackoff, now: Instant) -> ChildId {
        let (number, generation) = (self.reserve_number(), self.generation);
        self.add_numbered(number, generation, state, backoff, now)
    }

    /// Adds a child. None is added after the kill, so that no other child follows an abandoned one
    /// in its slot.
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
                    slot: Slot::Held,
                }
            },
        );
        ChildId::new(self.id, number, slot)
    }

    fn row(&mut self, id: ChildId) -> Option<&mut Row<A>> {
        let (row, _) = self.rows.get_mut(id.slot)?;
        (row.number == id.number).then_some(row)
    }

    /// Searches for a child whose slot is unknown, from this cursor on and in at most `limit`
    /// slots. Returns its id with the slot, or where to continue, if anywhere.
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

    /// Returns a child's row and a handle to it; `None` if it has ended.
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

    /// Gives rows to at most `limit` owed acceptors, so that they can be listed.
    pub(crate) fn give_rows(&mut self, limit: usize, now: Instant) {
        for _ in 0..limit.min(self.owed) {
            self.owed -= 1;
            let id = self.add(AcceptorState::Spaced, StartBackoff::default(), now);
            self.to_start.insert(id);
        }
    }

    /// Takes at most `limit` acceptors that the accept loop must start now.
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

    /// Starts a spaced acceptor with the current generation (R1). Returns whether it was still
    /// spaced.
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

    /// Begins the `init` of an acceptor, with the current generation unless it is replaced. Returns
    /// its handle and generation; `None` if it has ended.
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

    /// Records that an acceptor's `init` has succeeded, and that it waits.
    pub(crate) fn waits(&mut self, id: ChildId) -> Waits {
        if !self.set_state(id, &[AcceptorState::Init], AcceptorState::Waiting) {
            return Waits::Gone;
        }
        let oldest = self.oldest;
        match self.row(id) {
            // It will terminate; its success says nothing about its successor.
            Some(row) if row.generation < oldest => Waits::Yes,
            _ => self.release(),
        }
    }

    /// Ends an outage, because an acceptor has its state (B4).
    #[inline]
    fn release(&mut self) -> Waits {
        let held = !self.held.is_empty() || !self.to_start.is_empty() || self.owed > 0;
        match self.end_outage() {
            true if held => Waits::Releases,
            _ => Waits::Yes,
        }
    }

    /// Ends the outage. Returns whether there was one.
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

    /// Moves a waiting acceptor to `terminate`. Returns its handle and generation; `None` if the
    /// pool has ended without it.
    pub(crate) fn terminates(&mut self, id: ChildId) -> Option<(B::Control, u64)> {
        self.set_state(id, &[AcceptorState::Waiting], AcceptorState::Terminating);
        let (row, control) = self.child(id)?;
        Some((control, row.generation))
    }

    /// Turns an acceptor into the connection that it got (B5, Q3).
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

    /// Adds the next acceptor, which was created before it was replaced. It needs a row only to
    /// terminate with a state or to report an error.
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

    /// Replaces the addresses of a connection in its handshake (H5). Returns the old ones, or the
    /// new ones if it has ended, to be dropped outside of any lock.
    pub(crate) fn readdressed(&mut self, id: ChildId, peer: Peer<A>) -> Peer<A> {
        match self.row(id).map(|row| &mut row.stage) {
            Some(Stage::Connection(ConnectionState::Handshaking, before)) => {
                std::mem::replace(before, peer)
            }
            _ => peer,
        }
    }

    /// Records that a connection's handshake is complete.
    pub(crate) fn handshaken(&mut self, id: ChildId) {
        self.set_connection_state(id, ConnectionState::Serving);
    }

    /// Records that `serve` has returned and a guard keeps the connection (E6).
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

    /// Adds an acceptor during an outage: it tries again if no other does, and is held otherwise.
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

    /// Removes a connection that ended successfully. `None`, without any change, if its end has
    /// further consequences. The contents of its row are to be dropped outside of any lock.
    #[inline]
    pub(crate) fn left(&mut self, id: ChildId) -> Option<(DropCatching<Peer<A>>, Slot)> {
        if self.stopping || self.door == Door::Closed {
            return None;
        }
        // A connection is in none of the sets that refer to rows.
        let (state, peer, slot) = self.rows.vacate(id.slot, |row| {
            if row.number != id.number || row.watched == Watched::Yes {
                return None;
            }
            let waits = Stage::Acceptor(AcceptorState::Waiting);
            match std::mem::replace(&mut row.stage, waits) {
                Stage::Connection(state, peer) => Some((state, DropCatching::new(peer), row.slot)),
                stage => {
                    row.stage = stage;
                    None
                }
            }
        })?;
        *self.tally.of_connections(state) -= 1;
        self.released -= usize::from(slot == Slot::Released);
        Some((peer, slot))
    }

    /// Removes a child from the table and from the counts.
    pub(super) fn remove(&mut self, id: ChildId) -> Option<DropCatching<Row<A>>> {
        self.row(id)?;
        let row = DropCatching::new(self.rows.remove(id.slot)?);
        *self.tally.of(&row.stage) -= 1;
        self.released -= usize::from(row.slot == Slot::Released);
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

    /// Returns the successor of an acceptor that has ended and whose row is removed.
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

    /// Visits children from a slot on, reading at most `limit` slots. Returns where to continue, if
    /// anywhere.
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

    /// Looks at children after the kill. Returns the stuck ones, whether any other moved, and where
    /// to continue.
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

/// How an acceptor ended, to choose its replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptorEnd {
    StartError,
    /// The next start could end the same way at once: starts are spaced (B3, B6).
    Repeats,
    /// Its runtime dropped it, possibly from within a spawn: only the driver may start another.
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
