//! Checks what the pool shows against the model: its counts after each poll, its lists after each step.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use acceptor_core::{
    AcceptorRecord, AcceptorState, ChildId, ConnectionState, Counts, EndKind, ListenerId,
    ListenerRecord, ListenerState, Phase, PoolState, Status,
};

use super::children::{Child, Stage};
use super::{Check, Key, Model, Tasks, same, violation};

/// Whether the runtime polls every task that is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Polls {
    All,
    /// It does not poll some children.
    #[default]
    Some,
}

impl Model {
    /// Checks the number of children (Q3).
    pub(crate) fn counts(&self, counts: &Counts) -> Check {
        same("Q3", "children", self.children.len(), counts.children())
    }

    /// How many acceptors have certainly begun `init` and have not ended it: each has its own task (B5).
    pub(crate) fn inits(&self) -> u64 {
        let in_init = |child: &&Child| matches!(child.stage, Stage::Starting | Stage::Init);
        self.children.values().filter(in_init).count() as u64
    }

    /// Sees the list of acceptors. It shows which acceptors have ended without an event.
    pub(crate) fn lists(&mut self, acceptors: &[AcceptorRecord]) -> Check {
        let mut listed = BTreeMap::new();
        for record in acceptors {
            let key = self.key(record.id)?;
            let last = listed.last_key_value();
            if last.is_some_and(|(last, _)| *last >= key) {
                let expected = "acceptors are listed by age, each once";
                return violation("Q5", expected, record.to_string());
            }
            listed.insert(key, record);
        }
        let gone = self.children.keys().filter(|key| !listed.contains_key(key));
        for key in gone.copied().collect::<Vec<_>>() {
            self.is_not_listed(key)?;
        }
        for (key, record) in listed {
            self.lists_one(key, record)?;
        }
        Ok(())
    }

    /// The pool has stopped, and has no list: acceptors without an event have ended, unless they were given up because their
    /// tasks are held.
    pub(crate) fn lists_nothing(&mut self, polls: Polls) -> Check {
        // Only the pool's own task gives up children.
        let given_up = polls == Polls::Some && self.tasks == Tasks::Run && self.may_give_up();
        let unseen = self.children.iter().filter(|(_, child)| match child.stage {
            Stage::Starting => !given_up,
            _ => child.is_unseen(),
        });
        for key in unseen.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.is_not_listed(key)?;
        }
        Ok(())
    }

    fn lists_one(&mut self, key: Key, record: &AcceptorRecord) -> Check {
        use AcceptorState::{Init, Spaced, Terminating, Waiting};
        let (now, generation) = (self.now, self.generation);
        let listener = self.listeners[key.listener].id;
        same("Q5", "listener of an acceptor", listener, record.listener)?;
        let Some(child) = self.children.get(&key) else {
            return violation("Q5", "no other acceptor is listed", record.to_string());
        };
        let may_leave = self.may_leave(key, child);
        let may_begin = self.may_begin(child.stage).is_ok();
        let Some(child) = self.children.get_mut(&key) else {
            return Ok(());
        };
        let id = *child.id.get_or_insert(record.id);
        same("R4", "the id of an acceptor", id, record.id)?;
        if let Stage::Owed { .. } = child.stage {
            // Its age counts from the time at which it got a slot.
            child.made = child.made.max(now - record.age);
        }
        let age = now - child.made;
        same("Q5", format_args!("the age of {key}"), age, record.age)?;
        match (child.stage, record.state) {
            // A listed acceptor has a slot.
            (Stage::Owed { released }, Spaced) => child.stage = Stage::Listed { released },
            (Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. }, Spaced) => {}
            (
                Stage::Owed { .. } | Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. },
                Init,
            ) if may_begin => child.starts(generation),
            (Stage::Starting | Stage::Init, Init) => {}
            (Stage::Waiting, Waiting) if !child.leaves => {}
            (Stage::Waiting, Terminating) if may_leave => child.leaves = true,
            (Stage::Terminating, Terminating) => {}
            (stage, state) => {
                let seen = format!("it is {stage:?}");
                return violation("Q5", format!("{key} is not shown as {state}"), seen);
            }
        }
        Ok(())
    }

    fn is_not_listed(&mut self, key: Key) -> Check {
        let Some(child) = self.children.get(&key) else {
            return Ok(());
        };
        match child.stage {
            Stage::Connection => return Ok(()),
            // A killed acceptor gets no slot.
            Stage::Owed { .. } if self.listeners[key.listener].killed.is_some() => return Ok(()),
            _ => {}
        }
        // The pool ignores a child that it has given up.
        let dropped = self.tasks.lose_children() && !self.is_given_up();
        let kind = match child.stage {
            Stage::Starting if dropped => Some(EndKind::Lost),
            _ => self.unseen_end(key, child),
        };
        match kind.filter(|_| child.is_unseen()) {
            Some(kind) => {
                self.ends_unseen(key, kind);
                Ok(())
            }
            None => {
                let seen = format!("it is {:?}", child.stage);
                violation("Q5", format!("{key} is listed"), seen)
            }
        }
    }

    /// Checks the lists and the counts.
    pub(crate) fn shows(&self, status: &Status<SocketAddr>, acceptors: &[AcceptorRecord]) -> Check {
        let spec = format!("g{}", self.generation);
        let counts = &status.counts;
        same("R1", "the spec's id", spec.as_str(), &*status.spec)?;
        same("Q4", "intensity", self.spec.intensity, status.intensity)?;
        same("Q4", "period", self.spec.period(), status.period)?;
        same("I2", "failures", self.shown_failures(), status.failures)?;
        let connections = self.connections().count();
        same("Q3", "connections", connections, counts.connections)?;
        let handshaking = self
            .connections()
            .filter(|(_, child)| child.connection_state() == ConnectionState::Handshaking);
        let handshaking = handshaking.count();
        same("H2", "handshaking", handshaking, counts.handshaking)?;
        self.shows_connections(status, &spec)?;
        self.shows_listeners(status, acceptors, &spec)
    }

    fn shows_connections(&self, status: &Status<SocketAddr>, spec: &str) -> Check {
        let expected = self.connections().filter_map(|(key, child)| {
            let link = child.connection.as_ref()?;
            let listener = self.listeners[key.listener].id;
            let addrs = (link.peer, link.local, link.transport);
            let age = self.now - link.since;
            let state = (child.connection_state(), !link.released);
            Some((age, child.id?, listener, addrs, state))
        });
        let mut expected: Vec<_> = expected.collect();
        expected.sort_unstable_by_key(|(age, id, ..)| (Reverse(*age), *id));
        let seen = status.connections.iter().map(|record| {
            let transport = record.transport.as_ref();
            let transport = transport.map(|transport| transport.peer_addr);
            let addrs = (record.peer_addr, record.local_addr, transport);
            let state = (record.state, record.holds_slot);
            (record.age, record.id, record.listener, addrs, state)
        });
        same("Q1", "connections", expected, seen.collect())?;
        let mut connections = status.connections.iter();
        match connections.find(|record| &*record.spec != spec) {
            Some(record) => violation("R1", format!("all of spec {spec}"), record.to_string()),
            None => Ok(()),
        }
    }

    fn shows_listeners(
        &self,
        status: &Status<SocketAddr>,
        acceptors: &[AcceptorRecord],
        spec: &str,
    ) -> Check {
        let mut listed = status.listeners.iter();
        for (number, listening) in self.listeners.iter().enumerate() {
            if listening.is_open() {
                let Some(record) = listed.next() else {
                    let expected = format!("listener {} is listed", listening.id);
                    return violation("Q1", expected, "it is not");
                };
                self.shows_listener(number, record, spec)?;
                self.shows_state(number, acceptors, record.state)?;
            }
        }
        match listed.next() {
            Some(record) => violation("Q1", "no other listener is listed", record.to_string()),
            None => Ok(()),
        }
    }

    fn shows_listener(
        &self,
        number: usize,
        record: &ListenerRecord<SocketAddr>,
        spec: &str,
    ) -> Check {
        let listening = &self.listeners[number];
        same("Q1", "listener", listening.id, record.id)?;
        same("Q1", "its address", listening.address, record.local_addr)?;
        same("R1", "its spec", spec, &*record.spec)?;
        let children = || self.children_of(number).map(|(_, child)| child);
        let connections = children().filter(|child| child.stage == Stage::Connection);
        let connections = connections.count();
        same("Q1", "its connections", connections, record.connections)?;
        let left = children().count() - connections;
        same("L1", "its acceptors", left, record.acceptors)?;
        // While a stop drains, the acceptor whose failure caused the stop is missing.
        if matches!(self.phase(), None | Some(Phase::LameDuck)) {
            let replaced = children().filter(|child| child.replaced.is_some()).count();
            let what = "acceptors, as many as it was added with";
            same("L1", what, listening.acceptors, record.acceptors - replaced)?;
        }
        same("Q1", "accepted", listening.accepted, record.accepted)?;
        let either = record.skipped.saturating_sub(listening.skipped);
        let either = either.min(listening.refused_or_skipped);
        same("A1", "skipped", listening.skipped + either, record.skipped)?;
        same("C2", "refused", listening.refused - either, record.refused)?;
        let limit = listening.limit.map(|limit| limit as usize);
        same("C1", "its limit", limit, record.max_connections)?;
        same("A2", "pauses", listening.pauses, record.pauses)
    }

    fn shows_state(
        &self,
        number: usize,
        acceptors: &[AcceptorRecord],
        state: ListenerState,
    ) -> Check {
        let listening = &self.listeners[number];
        let mut acceptors = acceptors.iter();
        let waits = acceptors.any(|acceptor| {
            acceptor.listener == listening.id && acceptor.state == AcceptorState::Waiting
        });
        let expected = if listening.closing.is_some() {
            ListenerState::Closing
        } else if listening.pause.lasts(self.now) {
            ListenerState::Resources
        } else if listening.pause.may_be_shown() && state == ListenerState::Resources {
            return Ok(());
        } else if self.is_full(number) {
            ListenerState::Full
        } else if waits {
            ListenerState::Accepting
        } else {
            ListenerState::Starting
        };
        let what = format_args!("state of listener {}", listening.id);
        same("Q5", what, expected, state)
    }

    /// Checks the signals of the connections (N1, N2).
    pub(crate) fn latches(&self, latches: &[(ChildId, bool, Vec<bool>)]) -> Check {
        for (id, draining, stop) in latches {
            let key = self.key(*id)?;
            let Some(child) = self.children.get(&key) else {
                return violation("N1", "a child of the pool has signals", id.to_string());
            };
            let listening = &self.listeners[key.listener];
            let closes = listening.closing.is_some() || !listening.is_open();
            same("N1", format_args!("{id} sees draining"), closes, *draining)?;
            // The pool's own task sets the signal of each child, so it may come later.
            if stop.contains(&true) && !self.has_stop_signal(key, child) {
                return violation("N2", format!("{id} gets no stop signal"), "it does");
            }
        }
        Ok(())
    }

    /// No task is ready: each connection that took the stop signal sees it (N2).
    pub(crate) fn signals_have_come(&self, latches: &[(ChildId, bool, Vec<bool>)]) -> Check {
        for (id, _, stop) in latches {
            let key = self.key(*id)?;
            let child = self.children.get(&key);
            let stops = child.is_some_and(|child| self.has_stop_signal(key, child));
            if stops && stop.contains(&false) {
                return violation("N2", format!("{id} sees the stop signal"), "it does not");
            }
        }
        Ok(())
    }

    fn has_stop_signal(&self, key: Key, child: &Child) -> bool {
        self.listeners[key.listener].stopped.is_some() || child.asked.is_some()
    }

    /// No task is ready: each guard sees whether its connection was killed (E6).
    pub(crate) fn kills_have_come(&self, kills: &[(ChildId, bool)]) -> Check {
        for (id, seen) in kills {
            let key = self.key(*id)?;
            if let Some(child) = self.children.get(&key) {
                let killed = self.commands(key, child).killed.is_some();
                let what = format_args!("the guard of {id} sees the kill");
                same("E6", what, killed, *seen)?;
            }
        }
        Ok(())
    }

    /// Checks what acceptors see of the close of their listeners (B1).
    pub(crate) fn sees_closed(&self, closed: &[(ListenerId, bool)]) -> Check {
        for (id, seen) in closed {
            let number = self.listener(*id);
            let expected = number.is_some_and(|number| !self.listeners[number].is_open());
            let what = format_args!("acceptors see that listener {id} is closed");
            same("B1", what, expected, *seen)?;
        }
        Ok(())
    }

    /// No task is ready: everything that is due has happened.
    pub(crate) fn check_at_rest(
        &mut self,
        polls: Polls,
        backlog: impl Fn(SocketAddr) -> usize,
    ) -> Check {
        for listening in &mut self.listeners {
            listening.pause.is_noticed(self.now);
        }
        self.closes_are_done()?;
        if polls == Polls::All {
            self.children_have_reacted()?;
            self.starts_are_done()?;
        }
        self.clients_are_taken(&backlog)?;
        self.note_who_waits(backlog);
        self.result_is_given();
        self.reports_have_come()?;
        self.stop_goes_on()
    }

    /// A waiting acceptor gets a queued client (L2).
    fn clients_are_taken(&self, backlog: impl Fn(SocketAddr) -> usize) -> Check {
        for (number, listening) in self.listeners.iter().enumerate() {
            if !listening.accepts() || listening.pause.lasts(self.now) {
                continue;
            }
            let clients = backlog(listening.address);
            if self.is_full(number) {
                self.full_listener_waits(number, clients)?;
                continue;
            }
            if self.readiness(number).waiting > 0 && clients > 0 {
                let expected = format!("an acceptor gets a client of {}", listening.address);
                return violation("L2", expected, format!("{clients} clients wait"));
            }
        }
        Ok(())
    }

    /// Every wait for the close of a closed socket has returned.
    pub(crate) fn closes_returned(&self) -> Check {
        let waits = self.closes.iter().find(|id| {
            let number = self.listener(**id);
            number.is_none_or(|number| !self.listeners[number].is_open())
        });
        match waits {
            Some(id) => violation(
                "L3",
                format!("`close` of listener {id} returns"),
                "it waits",
            ),
            None => Ok(()),
        }
    }

    /// Whether the pool has stopped, and has no lists.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state() == PoolState::Stopped
    }
}
