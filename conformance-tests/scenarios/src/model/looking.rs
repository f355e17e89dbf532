//! What the pool shows, held against the model: its counts after each poll, its lists after each step.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use acceptor_core::{
    AcceptorRecord, AcceptorState, ChildId, ConnectionState, Counts, EndKind, ListenerId,
    ListenerState, Phase, PoolState, Status,
};

use super::children::{Child, Stage};
use super::listeners::Listening;
use super::{Key, Model, Seen, Tasks, breach, same};

/// Whether the runtime polls every task that is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polls {
    All,
    /// It withholds those of some children.
    Some,
}

impl Model {
    /// Holds the number of children against what was seen (Q3).
    pub(crate) fn counts(&self, counts: &Counts) -> Seen {
        same("Q3", "children", self.children.len(), counts.children())
    }

    /// How many acceptors are known to be started and not to be through `init`: each has a task of its own (B5).
    pub(crate) fn inits(&self) -> u64 {
        let in_init = |child: &&Child| matches!(child.stage, Stage::Starting | Stage::Init);
        self.children.values().filter(in_init).count() as u64
    }

    /// Sees the list of acceptors. Some have ended of which nothing was seen: the list shows which.
    pub(crate) fn lists(&mut self, acceptors: &[AcceptorRecord]) -> Seen {
        let mut listed = BTreeMap::new();
        for record in acceptors {
            let key = self.key(record.id)?;
            if listed
                .last_key_value()
                .is_some_and(|(last, _)| *last >= key)
            {
                return breach(
                    "Q5",
                    "acceptors are listed by age, each once",
                    format!("{record}"),
                );
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

    /// The pool has stopped, so that there is no list any longer: acceptors of which nothing was seen have ended, unless
    /// their tasks are held, and they were given up.
    pub(crate) fn lists_nothing(&mut self, polls: Polls) -> Seen {
        // Only the pool's own task gives up.
        let given_up = polls == Polls::Some && self.tasks == Tasks::Run && self.may_give_up();
        for key in self.children.keys().copied().collect::<Vec<_>>() {
            let Some(child) = self.children.get(&key) else {
                continue;
            };
            let unseen = match child.stage {
                Stage::Starting => !given_up,
                Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. } => true,
                _ => false,
            };
            if unseen {
                self.is_not_listed(key)?;
            }
        }
        Ok(())
    }

    fn lists_one(&mut self, key: Key, record: &AcceptorRecord) -> Seen {
        use AcceptorState::{Init, Spaced, Terminating, Waiting};
        let (now, generation) = (self.now, self.generation);
        let listener = self.listeners[key.listener].id;
        same(
            "Q5",
            "the listener of an acceptor",
            listener,
            record.listener,
        )?;
        let Some(child) = self.children.get(&key) else {
            return breach("Q5", "no other acceptor is listed", format!("{record}"));
        };
        let may_leave = self.may_leave(key, child);
        let may_begin = self.may_begin(child.stage).is_ok();
        let Some(child) = self.children.get_mut(&key) else {
            return Ok(());
        };
        same(
            "R4",
            "the id of an acceptor",
            *child.id.get_or_insert(record.id),
            record.id,
        )?;
        if let Stage::Owed { .. } = child.stage {
            // Since it has a place of its own.
            child.made = child.made.max(now - record.age);
        }
        same(
            "Q5",
            format_args!("the age of {key}"),
            now - child.made,
            record.age,
        )?;
        match (child.stage, record.state) {
            // Listed, it has a place of its own.
            (Stage::Owed { released }, Spaced) => child.stage = Stage::Listed { released },
            (Stage::Owed { .. } | Stage::Listed { .. }, Init) if may_begin => {
                child.starts(generation);
            }
            (Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. }, Spaced) => {}
            (Stage::Spaced(_) | Stage::Held { .. }, Init) if may_begin => child.starts(generation),
            (Stage::Starting | Stage::Init, Init) => {}
            (Stage::Waiting, Waiting) if !child.leaves => {}
            (Stage::Waiting, Terminating) if may_leave => child.leaves = true,
            (Stage::Terminating, Terminating) => {}
            (stage, state) => {
                let seen = format!("it is {stage:?}");
                return breach("Q5", format!("{key} is not shown as {state}"), seen);
            }
        }
        Ok(())
    }

    fn is_not_listed(&mut self, key: Key) -> Seen {
        let Some(child) = self.children.get(&key) else {
            return Ok(());
        };
        match child.stage {
            Stage::Connection => return Ok(()),
            // One that was killed is given no place of its own any longer.
            Stage::Owed { .. } if self.listeners[key.listener].killed.is_some() => return Ok(()),
            _ => {}
        }
        let unseen = matches!(
            child.stage,
            Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. } | Stage::Starting
        );
        let reason = self.unseen_end(key, child);
        // One that was given up is nothing to the pool any longer.
        let dropped = self.tasks.lose_children() && !self.is_given_up();
        let lost = dropped && child.stage == Stage::Starting;
        let kind = if lost { Some(EndKind::Lost) } else { reason };
        match kind.filter(|_| unseen) {
            Some(kind) => {
                self.vanishes(key, kind);
                Ok(())
            }
            None => {
                let seen = format!("it is {:?}", child.stage);
                breach("Q5", format!("{key} is listed"), seen)
            }
        }
    }

    /// Holds the lists and counts against what was seen.
    pub(crate) fn shows(&self, status: &Status<SocketAddr>, acceptors: &[AcceptorRecord]) -> Seen {
        let spec = format!("g{}", self.generation);
        same("R1", "the spec's id", spec.as_str(), &*status.spec)?;
        same("Q4", "intensity", self.spec.intensity, status.intensity)?;
        same("Q4", "period", self.spec.period(), status.period)?;
        same("I2", "failures", self.shown_failures(), status.failures)?;
        let connections = self.connections().count();
        same("Q3", "connections", connections, status.counts.connections)?;
        let handshaking = self
            .connections()
            .filter(|(_, child)| child.connection_state() == ConnectionState::Handshaking);
        same(
            "H2",
            "connections in their handshake",
            handshaking.count(),
            status.counts.handshaking,
        )?;
        self.shows_connections(status, &spec)?;
        self.shows_listeners(status, acceptors, &spec)
    }

    fn shows_connections(&self, status: &Status<SocketAddr>, spec: &str) -> Seen {
        let mut expected: Vec<_> = self
            .connections()
            .filter_map(|(key, child)| {
                let link = child.connection.as_ref()?;
                let listener = self.listeners[key.listener].id;
                let addrs = (link.peer, link.local, link.transport);
                Some((
                    link.since,
                    child.id?,
                    listener,
                    addrs,
                    child.connection_state(),
                ))
            })
            .collect();
        expected.sort_unstable_by_key(|(since, id, ..)| (*since, *id));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(since, id, listener, addrs, state)| {
                (id, listener, addrs, state, self.now - since)
            })
            .collect();
        let seen: Vec<_> = status
            .connections
            .iter()
            .map(|record| {
                let transport = record.transport.as_ref();
                let transport = transport.map(|transport| transport.peer_addr);
                let addrs = (record.peer_addr, record.local_addr, transport);
                (record.id, record.listener, addrs, record.state, record.age)
            })
            .collect();
        same("Q1", "connections", expected, seen)?;
        let mut connections = status.connections.iter();
        match connections.find(|record| &*record.spec != spec) {
            Some(record) => breach("R1", format!("all of spec {spec}"), format!("{record}")),
            None => Ok(()),
        }
    }

    fn shows_listeners(
        &self,
        status: &Status<SocketAddr>,
        acceptors: &[AcceptorRecord],
        spec: &str,
    ) -> Seen {
        let open = self.listeners.iter().enumerate();
        let open = open.filter(|(_, listening)| listening.is_open());
        let mut listed = status.listeners.iter();
        for (number, listening) in open {
            let id = listening.id;
            let Some(record) = listed.next() else {
                return breach("Q1", format!("listener {id} is listed"), "it is not");
            };
            same("Q1", "listener", id, record.id)?;
            same("Q1", "its address", listening.address, record.local_addr)?;
            same("R1", "its spec", spec, &*record.spec)?;
            let children = self.children_of(number);
            let connections = children
                .filter(|(_, child)| child.stage == Stage::Connection)
                .count();
            same(
                "Q1",
                format_args!("connections of listener {id}"),
                connections,
                record.connections,
            )?;
            let left = self.children_of(number).count() - connections;
            let replaced = self.children_of(number);
            let replaced = replaced.filter(|(_, child)| child.replaced.is_some());
            let replaced = replaced.count();
            same(
                "L1",
                format_args!("acceptors of listener {id}"),
                left,
                record.acceptors,
            )?;
            // While a stop drains, the acceptor whose failure began it is missing.
            if matches!(self.phase(), None | Some(Phase::LameDuck)) {
                same(
                    "L1",
                    "acceptors, as many as it was added with",
                    listening.acceptors,
                    record.acceptors - replaced,
                )?;
            }
            same("Q1", "accepted", listening.accepted, record.accepted)?;
            same("A1", "skipped", listening.skipped, record.skipped)?;
            same("A2", "pauses", listening.pauses, record.pauses)?;
            self.shows_state(listening, acceptors, record.state)?;
        }
        match listed.next() {
            Some(record) => breach("Q1", "no other listener is listed", format!("{record}")),
            None => Ok(()),
        }
    }

    fn shows_state(
        &self,
        listening: &Listening,
        acceptors: &[AcceptorRecord],
        state: ListenerState,
    ) -> Seen {
        let mut acceptors = acceptors.iter();
        let waits = acceptors.any(|acceptor| {
            acceptor.listener == listening.id && acceptor.state == AcceptorState::Waiting
        });
        let otherwise = match waits {
            true => ListenerState::Accepting,
            false => ListenerState::Starting,
        };
        let expected = if listening.closing.is_some() {
            ListenerState::Closing
        } else if listening.pause.lasts(self.now) {
            ListenerState::Resources
        } else if listening.pause.may_be_shown() && state == ListenerState::Resources {
            return Ok(());
        } else {
            otherwise
        };
        same(
            "Q5",
            format_args!("state of listener {}", listening.id),
            expected,
            state,
        )
    }

    /// Holds the latches of the connections against what they were told (N1, N2).
    pub(crate) fn latches(&self, latches: &[(ChildId, bool, Vec<bool>)]) -> Seen {
        for (id, draining, stop) in latches {
            let key = self.key(*id)?;
            let Some(child) = self.children.get(&key) else {
                return breach("N1", "a child of the pool has signals", format!("{id}"));
            };
            let listening = &self.listeners[key.listener];
            let told = listening.closing.is_some() || !listening.is_open();
            same("N1", format_args!("{id} sees draining"), told, *draining)?;
            let told = listening.stopped.is_some() || child.asked.is_some();
            for stop in stop {
                // The pool's own task sets it for each child.
                if *stop && !told {
                    return breach("N2", format!("{id} is not told to stop"), "it is");
                }
            }
        }
        Ok(())
    }

    /// Nothing is ready: each connection that took the stop signal sees it (N2).
    pub(crate) fn signals_have_come(&self, stops: &[(ChildId, Vec<bool>)]) -> Seen {
        for (id, stops) in stops {
            let key = self.key(*id)?;
            let Some(child) = self.children.get(&key) else {
                continue;
            };
            let told = self.listeners[key.listener].stopped.is_some() || child.asked.is_some();
            if told && stops.contains(&false) {
                let expected = format!("{id} sees that it is told to stop");
                return breach("N2", expected, "it does not");
            }
        }
        Ok(())
    }

    /// Nothing is ready: each stream that is kept under a guard sees whether its connection was killed (E6).
    pub(crate) fn kills_have_come(&self, kills: &[(ChildId, bool)]) -> Seen {
        for (id, seen) in kills {
            let key = self.key(*id)?;
            let Some(child) = self.children.get(&key) else {
                continue;
            };
            let killed = self.commands(key, child).killed.is_some();
            same(
                "E6",
                format_args!("the guard of {id} sees that it is killed"),
                killed,
                *seen,
            )?;
        }
        Ok(())
    }

    /// Holds what acceptors see of their listeners against the sockets (B1).
    pub(crate) fn sees_closed(&self, closed: &[(ListenerId, bool)]) -> Seen {
        for (id, seen) in closed {
            let number = self.listener(*id);
            let expected = number.is_some_and(|number| !self.listeners[number].is_open());
            same(
                "B1",
                format_args!("listener {id} is seen closed"),
                expected,
                *seen,
            )?;
        }
        Ok(())
    }

    /// Nothing is ready: whatever was to happen by now has happened.
    pub(crate) fn rests(&mut self, polls: Polls, backlog: impl Fn(SocketAddr) -> usize) -> Seen {
        for listening in &mut self.listeners {
            listening.pause.is_noticed(self.now);
        }
        self.closes_are_done()?;
        if polls == Polls::All {
            self.children_went_on()?;
            self.starts_are_done()?;
        }
        self.clients_are_taken(backlog)?;
        self.result_is_given();
        self.reports_have_come()?;
        self.stop_goes_on()
    }

    /// An acceptor that waits gets a client that is queued (L2).
    fn clients_are_taken(&self, backlog: impl Fn(SocketAddr) -> usize) -> Seen {
        for (number, listening) in self.listeners.iter().enumerate() {
            if !listening.accepts() || listening.pause.lasts(self.now) {
                continue;
            }
            let waits = self.readiness(number).waiting > 0;
            let clients = backlog(listening.address);
            if waits && clients > 0 {
                let expected = format!("an acceptor gets a client of {}", listening.address);
                return breach("L2", expected, format!("{clients} clients wait"));
            }
        }
        Ok(())
    }

    /// Every wait for a close of a socket that is closed has returned.
    pub(crate) fn closes_returned(&self) -> Seen {
        let waits = self.closes.iter().find(|id| {
            let number = self.listener(**id);
            number.is_none_or(|number| !self.listeners[number].is_open())
        });
        match waits {
            Some(id) => breach(
                "L3",
                format!("`close` of listener {id} returns"),
                "it waits",
            ),
            None => Ok(()),
        }
    }

    /// Whether the pool's lists are there to be taken.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state() == PoolState::Stopped
    }
}
