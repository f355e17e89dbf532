//! The children's table: events and the time go in, effects come out.
//!
//! Pure: no clock, no runtime, no future. `C` is how a child is told something,
//! `S` a listening socket, `A` an address. Invariants: every child is in the
//! table from before its start until its end; the counts are those of the
//! table; an open listener has its number of acceptors; an end that is not of a
//! child in the table changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::id::{ChildId, ListenerId, PoolId};
use crate::machine::backoff::StartBackoff;
use crate::machine::child_end::{ChildEnd, Counted, Role};
use crate::machine::children::{ChildRow, Peer};
use crate::machine::command::{CloseReason, Command};
use crate::machine::effects::{Became, Effects, Start, TimerChange};
use crate::machine::intensity::{Intensity, Verdict};
use crate::machine::stop::Stop;
use crate::policy::Rules;
use crate::status::{Counts, PoolState};
use crate::stop_report::{EndKind, Phase, StopReason};

#[cfg_attr(test, derive(Clone))]
pub(crate) struct Supervisor<C, S, A> {
    pub(super) pool: PoolId,
    pub(super) rules: Rules,
    pub(super) children: Slab<ChildRow<C, A>>,
    pub(super) listeners: BTreeMap<ListenerId, Listening<S>>,
    children_ever: u64,
    listeners_ever: u64,
    pub(super) connections: usize,
    /// Sockets that are not closed yet, be they told to: the pool ends with the last of them and the last child (S3).
    pub(super) sockets: usize,
    pub(super) intensity: Intensity,
    pub(super) stop: Option<Stop>,
}

/// An open listener.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Listening<S> {
    pub(crate) socket: S,
    pub(crate) acceptors: usize,
    pub(crate) connections: usize,
    pub(crate) accepted: u64,
}

impl<C: Clone, S: Clone, A: Clone> Supervisor<C, S, A> {
    pub(crate) fn new(rules: Rules, pool: PoolId) -> Self {
        Self {
            pool,
            rules,
            children: Slab::new(),
            listeners: BTreeMap::new(),
            children_ever: 0,
            listeners_ever: 0,
            connections: 0,
            sockets: 0,
            intensity: Intensity::default(),
            stop: None,
        }
    }

    pub(crate) fn state(&self) -> PoolState {
        match &self.stop {
            None => PoolState::Running,
            Some(stop) if stop.finished => PoolState::Stopped,
            Some(stop) => PoolState::Stopping(stop.stopping.phase()),
        }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) fn reconfigure(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub(crate) fn failures(&self, now: Instant) -> usize {
        self.intensity.within(now, self.rules.period)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts::new(self.connections, self.children.len(), self.rules.child_type)
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = (ListenerId, &Listening<S>)> {
        self.listeners
            .iter()
            .map(|(id, listening)| (*id, listening))
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = &ChildRow<C, A>> {
        self.children.iter().map(|(_, child)| child)
    }

    /// When [`tick`](Self::tick) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.stop.as_ref().and_then(|stop| stop.stopping.deadline())
    }

    /// Adds a listener with its acceptors. The pool must be running.
    pub(crate) fn add_listener(
        &mut self,
        socket: impl FnOnce(ListenerId) -> S,
        acceptors: usize,
        mut control: impl FnMut() -> C,
        effects: &mut Effects<C, S, A>,
    ) -> ListenerId {
        self.listeners_ever += 1;
        self.sockets += 1;
        let id = ListenerId {
            sequence: self.listeners_ever,
            pool: self.pool,
        };
        let listening = Listening {
            socket: socket(id),
            acceptors: 0,
            connections: 0,
            accepted: 0,
        };
        self.listeners.insert(id, listening);
        for _ in 0..acceptors {
            let start = self.start(id, control(), StartBackoff::default(), Duration::ZERO);
            effects.start.extend(start);
        }
        id
    }

    /// A new acceptor, if its listener is open.
    fn start(
        &mut self,
        listener: ListenerId,
        control: C,
        spacing: StartBackoff,
        delay: Duration,
    ) -> Option<Start<C, S>> {
        let listening = self.listeners.get_mut(&listener)?;
        listening.acceptors += 1;
        self.children_ever += 1;
        let slot = self.children.vacant_entry();
        let id = ChildId {
            sequence: self.children_ever,
            slot: slot.key(),
            pool: self.pool,
        };
        slot.insert(ChildRow {
            id,
            listener,
            control: control.clone(),
            peer: None,
            spacing,
        });
        Some(Start {
            child: id,
            control,
            socket: listening.socket.clone(),
            delay,
        })
    }

    /// An acceptor has a connection and becomes it (B5, Q3).
    pub(crate) fn became(&mut self, id: ChildId, peer: Peer<A>, control: C) -> Became<C, S> {
        let Some(child) = self.child_mut(id) else {
            return Became::Gone;
        };
        child.peer = Some(peer);
        let listener = child.listener;
        self.connections += 1;
        if let Some(listening) = self.listeners.get_mut(&listener) {
            listening.acceptors -= 1;
            listening.connections += 1;
            listening.accepted += 1;
        }
        Became::Serves(self.start(listener, control, StartBackoff::default(), Duration::ZERO))
    }

    /// A connection has ended well. `None`, and nothing done, if more could follow from it than that it is gone.
    pub(crate) fn left(&mut self, id: ChildId) -> Option<ChildRow<C, A>> {
        let child = self.child_mut(id)?;
        if child.peer.is_none() || self.stop.is_some() {
            return None;
        }
        Some(self.remove(id))
    }

    /// Takes a child that is there out of the table, and out of the counts.
    fn remove(&mut self, id: ChildId) -> ChildRow<C, A> {
        let child = self.children.remove(id.slot);
        let listening = self.listeners.get_mut(&child.listener);
        match (&child.peer, listening) {
            (Some(_), Some(listening)) => listening.connections -= 1,
            (None, Some(listening)) => listening.acceptors -= 1,
            (_, None) => {}
        }
        if child.peer.is_some() {
            self.connections -= 1;
        }
        child
    }

    /// A child has ended, and what it held is gone (E1 to E3).
    pub(crate) fn ended(
        &mut self,
        id: ChildId,
        end: ChildEnd,
        now: Instant,
        control: impl FnOnce() -> C,
        effects: &mut Effects<C, S, A>,
    ) {
        if self.child_mut(id).is_none() {
            effects.unseen = Some(end);
            return;
        }
        let mut child = self.remove(id);
        let listener = child.listener;
        let role = child.role();
        let kind = end.kind();
        let counted = end.counted(self.rules.restart);
        let needs_spacing = end.needs_spacing();
        let lost = matches!(end, ChildEnd::Lost);
        if let Some(stop) = &mut self.stop {
            stop.count(role, kind);
        }
        let aggregated = kind == EndKind::Killed && self.phase() == Some(Phase::Kill);
        if !aggregated {
            effects.reports.extend(child.report(end, now));
        }
        if counted == Counted::Yes && self.stop.is_none() {
            let (intensity, period) = (self.rules.intensity, self.rules.period);
            if self.intensity.record(now, intensity, period) == Verdict::Exceeded {
                self.begin_stop(StopReason::Intensity, now, effects);
                // A lame duck goes on accepting (S2), be this one the last child; without one nobody replaces it.
                if self.rules.plan.lame_duck.is_zero() {
                    self.advance(now, effects);
                }
            }
        }
        if role == Role::Acceptor && self.listeners.contains_key(&listener) {
            // A start error costs no busy CPU either where it does not count any more: in a lame duck.
            let delay = if needs_spacing || lost || (counted == Counted::Yes && self.stop.is_some())
            {
                child.spacing.delay()
            } else {
                child.spacing = StartBackoff::default();
                Duration::ZERO
            };
            let start = self.start(listener, control(), child.spacing, delay);
            if lost {
                effects.start_later.extend(start);
                effects.timer_changed = TimerChange::Changed;
            } else {
                effects.start.extend(start);
            }
        }
        effects.gone.push(child);
        self.advance(now, effects);
    }

    /// Closes a listener: its acceptors end, its connections see *draining* (L3). `None` if it is not open.
    pub(crate) fn close(
        &mut self,
        id: ListenerId,
        ending: CloseReason,
        effects: &mut Effects<C, S, A>,
    ) -> Option<S> {
        let listening = self.listeners.remove(&id)?;
        let acceptors = self.children.iter().map(|(_, child)| child);
        let acceptors = acceptors.filter(|child| child.listener == id && child.peer.is_none());
        // Commanded before the socket closes: an acceptor that finds it closed knows why.
        effects
            .tell
            .extend(acceptors.map(|child| (child.control.clone(), Command::Close(ending))));
        effects.close.push(listening.socket.clone());
        // Those that the pool's own task is to start later are told as well.
        effects.timer_changed = TimerChange::Changed;
        Some(listening.socket)
    }

    /// The same for all listeners, in one pass over the table.
    pub(super) fn close_all(&mut self, ending: CloseReason, effects: &mut Effects<C, S, A>) {
        let closing = std::mem::take(&mut self.listeners);
        let acceptors = self.children.iter().map(|(_, child)| child);
        let acceptors =
            acceptors.filter(|child| child.peer.is_none() && closing.contains_key(&child.listener));
        effects
            .tell
            .extend(acceptors.map(|child| (child.control.clone(), Command::Close(ending))));
        let sockets = closing.into_values().map(|listening| listening.socket);
        effects.close.extend(sockets);
        effects.timer_changed = TimerChange::Changed;
    }

    /// A listener's socket is closed: its address can be bound again.
    pub(crate) fn socket_closed(&mut self, now: Instant, effects: &mut Effects<C, S, A>) {
        self.sockets -= 1;
        self.advance(now, effects);
    }

    /// How to reach a child, what it is, and its listener if that is open; `None` if it is not, or no longer, in the table.
    pub(crate) fn control(&self, id: ChildId) -> Option<(C, Role, Option<S>)> {
        let child = self.children.get(id.slot).filter(|child| child.id == id)?;
        let role = child.role();
        let listening = self.listeners.get(&child.listener);
        let socket = listening.map(|listening| listening.socket.clone());
        Some((child.control.clone(), role, socket))
    }

    fn child_mut(&mut self, id: ChildId) -> Option<&mut ChildRow<C, A>> {
        self.children
            .get_mut(id.slot)
            .filter(|child| child.id == id)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
