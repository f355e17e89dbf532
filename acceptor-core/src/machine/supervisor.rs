//! A pool's listeners, its restart intensity and its stop: events and the time go in, effects come
//! out.
//!
//! Pure: no clock, no runtime, no future. `S` is a listener; its children are in a [`Table`] of its
//! own, which the caller passes with each event of a child. Invariants: a listener is known from
//! before its start until its socket is closed and its last child has ended; the pool has stopped
//! when the last listener is gone.

use std::collections::BTreeMap;
use std::time::Instant;

use super::child_end::{ChildEnd, Counted, Role};
use super::command::CloseReason;
use super::effects::{Close, Driver, Effects, Queued};
use super::intensity::{Intensity, Verdict};
use super::slots::Bank;
use super::stop::Stop;
use super::stuck::RuntimeKey;
use super::table::{AcceptorEnd, Replacement, Table};
use crate::id::{ChildId, ListenerId, PoolId};
use crate::policy::{ConnectionReports, Grace, LastListener, Rules, Shutdown};
use crate::report::Event;
use crate::status::PoolState;
use crate::stop_report::{EndKind, Phase, StopReason};
use crate::sync::DropCatching;

#[cfg_attr(test, derive(Clone))]
pub(crate) struct Supervisor<S> {
    pub(super) pool: PoolId,
    pub(super) rules: Rules,
    pub(super) listeners: BTreeMap<ListenerId, Listening<S>>,
    listeners_ever: u64,
    /// The number of listeners whose socket is open, with those abandoned in the kill phase, which
    /// does not wait for any.
    pub(super) sockets: usize,
    pub(super) intensity: Intensity,
    pub(super) stop: Option<Stop>,
}

/// A listener that is open or has children left.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Listening<S> {
    pub(crate) listener: S,
    pub(crate) runtime: RuntimeKey,
    pub(crate) socket: SocketState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketState {
    Open,
    /// It was asked to close, and its socket is still open.
    Closing(CloseReason),
    Closed,
}

impl<S: Clone> Supervisor<S> {
    pub(crate) fn new(rules: Rules, pool: PoolId) -> Self {
        Self {
            pool,
            rules,
            listeners: BTreeMap::new(),
            listeners_ever: 0,
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

    /// Returns all listeners, oldest first, including closed ones with children left.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (ListenerId, &Listening<S>)> {
        self.listeners
            .iter()
            .map(|(id, listening)| (*id, listening))
    }

    pub(crate) fn listener(&self, id: ListenerId) -> Option<&Listening<S>> {
        self.listeners
            .get(&id)
            .filter(|_| id.pool.may_be(self.pool))
    }

    /// Returns the first listener after this one.
    pub(crate) fn listener_after(&self, id: Option<ListenerId>) -> Option<(ListenerId, &S)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = id.map_or(Unbounded, Excluded);
        let next = self.listeners.range((from, Unbounded)).next();
        next.map(|(id, listening)| (*id, &listening.listener))
    }

    /// Returns when [`tick`](Self::tick) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.stop.as_ref().and_then(|stop| stop.stopping.deadline())
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        self.stop.as_ref().map(|stop| stop.stopping.phase())
    }

    /// Adds a listener. Its children run on this runtime, or for `None` on one that no other
    /// listener uses. The pool must be running.
    pub(crate) fn add_listener(
        &mut self,
        runtime: Option<RuntimeKey>,
        listener: impl FnOnce(ListenerId, RuntimeKey) -> S,
    ) -> ListenerId {
        self.listeners_ever += 1;
        self.sockets += 1;
        let id = ListenerId {
            sequence: self.listeners_ever,
            pool: self.pool,
        };
        let runtime = runtime.unwrap_or(RuntimeKey(self.listeners_ever));
        let listening = Listening {
            listener: listener(id, runtime),
            runtime,
            socket: SocketState::Open,
        };
        self.listeners.insert(id, listening);
        id
    }

    /// Handles the end of a child whose contents are dropped (E1 to E3).
    pub(crate) fn ended<B: Bank, A: Clone>(
        &mut self,
        table: &mut Table<B, A>,
        id: ChildId,
        end: ChildEnd,
        now: Instant,
        effects: &mut Effects<S, A>,
    ) {
        let Some(row) = table.remove(id) else {
            effects.unseen = Some(DropCatching::new(end));
            return;
        };
        let listening = self.listeners.get(&id.listener());
        let runtime = listening.map_or(RuntimeKey::OF_THE_POOL, |listening| listening.runtime);
        // First: a pool with no children left has no further phase.
        self.forget_if_over(table, id.listener());
        let (role, kind) = (row.role(), end.kind());
        let counted = end.counted(self.rules.restart);
        let how = AcceptorEnd::of(&end);
        if let Some(stop) = &mut self.stop {
            stop.count(role, kind, 1, runtime);
        }
        if let Some(phase @ (Phase::Stop | Phase::Kill)) = self.phase() {
            effects.late.extend(row.late(id, Some(kind), phase, now));
        }
        let one_of_many = kind == EndKind::Killed && self.phase() == Some(Phase::Kill);
        let report = match row.debug_report(id, end, now) {
            Ok(debug) => {
                // The end of a watched connection is always reported, as its start was (O4).
                let asked = self.rules.connection_reports != ConnectionReports::Failures;
                let (report, debug) = match asked || row.is_watched() {
                    true => (Some(debug), None),
                    false => (None, Some(debug)),
                };
                effects.debug = debug.map(|debug| (debug, now));
                report
            }
            Err(end) => {
                let reason = end.clean_reason();
                let failed = if one_of_many {
                    None
                } else {
                    row.report(id, end, now)
                };
                failed.or_else(|| row.ended(id, kind, reason, now))
            }
        };
        effects.reports.extend(report);
        let mut replaces = true;
        if counted == Counted::Yes && self.stop.is_none() {
            let (intensity, period) = (self.rules.intensity, self.rules.period);
            if self.intensity.record(now, intensity, period) == Verdict::Exceeded {
                self.begin_stop(StopReason::Intensity, now, effects);
                self.advance(now, effects);
                // A pool that does not survive the failure starts no other acceptor (B4); a lame duck goes on as before.
                replaces = self.phase() == Some(Phase::LameDuck);
            }
        }
        // A replaced acceptor has its successor already (R1).
        replaces &= !table.is_replaced(&row);
        if role == Role::Acceptor && replaces && table.is_open() && self.accepts() {
            self.replace(table, id.listener(), &row, how, now, effects);
        } else if role == Role::Acceptor {
            let listening = self.listeners.get(&id.listener());
            let closing =
                |listening: &&Listening<S>| matches!(listening.socket, SocketState::Closing(_));
            effects.fewer = listening
                .filter(closing)
                .map(|listening| listening.listener.clone());
        }
        effects.gone = Some(row);
        self.advance(now, effects);
    }

    fn replace<B: Bank, A: Clone>(
        &self,
        table: &mut Table<B, A>,
        id: ListenerId,
        row: &super::row::Row<A>,
        end: AcceptorEnd,
        now: Instant,
        effects: &mut Effects<S, A>,
    ) {
        let Some(listening) = self.listeners.get(&id) else {
            return;
        };
        let listener = listening.listener.clone();
        match table.replace(row, end, now) {
            Replacement::Init(starting) | Replacement::Waits(starting, _) => {
                effects.start = Some((listener, starting));
            }
            Replacement::Later(starting, delay) => {
                effects.start_later = Some((listener, starting, delay));
                effects.driver = Driver::Wakes;
            }
            Replacement::None => {}
        }
    }

    /// Returns whether new acceptors are useful: the pool runs, is a lame duck, or still drains the
    /// kernel's queues. A stop that does not drain has no grace either.
    fn accepts(&self) -> bool {
        !matches!(self.phase(), Some(Phase::Stop | Phase::Kill))
    }

    /// Forgets a listener once its socket is closed and its last child has ended.
    fn forget_if_over<B: Bank, A>(&mut self, table: &Table<B, A>, id: ListenerId) {
        if table.is_over() {
            self.listeners.remove(&id);
        }
    }

    /// Closes a listener, or joins a close in progress (L3, L8). `None` if its socket is closed or
    /// the listener is unknown.
    pub(crate) fn close<A>(&mut self, id: ListenerId, effects: &mut Effects<S, A>) -> Option<S> {
        let ours = id.pool.may_be(self.pool);
        let listening = self.listeners.get_mut(&id).filter(|_| ours)?;
        match listening.socket {
            SocketState::Open => {
                let reason = CloseReason::Closed;
                listening.socket = SocketState::Closing(reason);
                let queued = Queued::Accepted;
                let close = Close { reason, queued };
                effects.close.push((listening.listener.clone(), close));
                // The driver wakes the connections that wait for *draining*.
                effects.driver = Driver::Wakes;
            }
            SocketState::Closing(_) => {}
            SocketState::Closed => return None,
        }
        Some(listening.listener.clone())
    }

    /// Closes all open listeners.
    pub(super) fn close_all<A>(&mut self, close: Close, effects: &mut Effects<S, A>) {
        for listening in self.listeners.values_mut() {
            if listening.socket == SocketState::Open {
                listening.socket = SocketState::Closing(close.reason);
            }
            if listening.socket != SocketState::Closed {
                effects.close.push((listening.listener.clone(), close));
            }
        }
        effects.driver = Driver::Wakes;
    }

    /// Handles a closed socket: its address can be bound again, and its acceptors get the reason.
    ///
    /// `failure` is the report of a listener that failed without having been asked to close.
    pub(crate) fn socket_closed<B: Bank, A>(
        &mut self,
        table: &mut Table<B, A>,
        id: ListenerId,
        now: Instant,
        failure: Option<impl FnOnce(usize) -> Event<A>>,
        effects: &mut Effects<S, A>,
    ) -> CloseReason {
        let Some(listening) = self.listeners.get_mut(&id) else {
            return CloseReason::Stopped;
        };
        let reason = match listening.socket {
            SocketState::Closing(reason) => reason,
            SocketState::Open | SocketState::Closed => CloseReason::Failed,
        };
        listening.socket = SocketState::Closed;
        let runtime = listening.runtime;
        self.sockets -= 1;
        effects.driver = Driver::Wakes;
        let (owed, kind) = table.close();
        if let Some(stop) = &mut self.stop {
            stop.count(Role::Acceptor, kind, owed, runtime);
        }
        if reason == CloseReason::Failed {
            let open = |listening: &&Listening<S>| listening.socket == SocketState::Open;
            let left = self.listeners.values().filter(open).count();
            effects.reports.extend(failure.map(|report| report(left)));
            let stops = self.rules.last_listener == LastListener::Stop;
            if left == 0 && stops && self.stop.is_none() {
                self.begin_stop(StopReason::ListenersFailed, now, effects);
            }
        }
        self.forget_if_over(table, id);
        self.advance(now, effects);
        reason
    }
}

/// Returns whether a stop first drains the kernel's queues (L7).
pub(super) fn queued(grace: Grace, shutdown: Shutdown) -> Queued {
    if grace == Grace::Within(std::time::Duration::ZERO) && shutdown == Shutdown::Kill {
        Queued::Reset
    } else {
        Queued::Accepted
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
