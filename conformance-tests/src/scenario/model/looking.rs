//! What the pool shows, held against the model: after each step, and more of it when nothing is ready.

use std::net::SocketAddr;

use acceptor_core::{ChildId, Counts, ListenerId, ListenerState, Phase, PoolState, Status};

use super::children::Stage;
use super::{Ending, Model, Seen, SocketState, breach, same};
use crate::scenario::ChildSetting;

/// Whether the runtime polls every task that is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::scenario) enum Polls {
    All,
    /// It withholds those of some.
    Some,
}

impl Model {
    /// How many children there are, by what is counted.
    fn children_in(counts: &Counts) -> usize {
        counts.workers + counts.supervisors
    }

    /// Holds the lists and counts against what was seen.
    pub(in crate::scenario) fn shows(&self, status: &Status<SocketAddr>) -> Seen {
        let spec = format!("g{}", self.generation);
        same("R1", "the spec's id", spec.as_str(), &*status.spec)?;
        same("Q4", "intensity", self.spec.intensity, status.intensity)?;
        same("Q4", "period", self.spec.period(), status.period)?;
        same("I2", "failures", self.shown_failures(), status.failures)?;
        let connections = self.connections().count();
        same("Q3", "active", connections, status.counts.active)?;
        same("Q2", "specs", 1, status.counts.specs)?;
        let other = match self.spec.child_type {
            ChildSetting::Worker => status.counts.supervisors,
            ChildSetting::Supervisor => status.counts.workers,
        };
        same("Q2", "children of the other type", 0, other)?;
        self.shows_connections(status, &spec)?;
        self.shows_listeners(status, &spec)
    }

    fn shows_connections(&self, status: &Status<SocketAddr>, spec: &str) -> Seen {
        let mut expected: Vec<_> = self
            .connections()
            .filter_map(|(id, child)| {
                let link = child.connection.as_ref()?;
                let listener = self.listeners[child.listener].id;
                Some((link.since, *id, listener, link.peer, link.local))
            })
            .collect();
        expected.sort_unstable_by_key(|(since, id, ..)| (*since, *id));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(since, id, listener, peer, local)| (id, listener, peer, local, self.now - since))
            .collect();
        let seen: Vec<_> = status
            .connections
            .iter()
            .map(|record| {
                let id = (record.id, record.listener);
                (id.0, id.1, record.peer_addr, record.local_addr, record.age)
            })
            .collect();
        same("Q1", "connections", expected, seen)?;
        let mut connections = status.connections.iter();
        match connections.find(|record| &*record.spec != spec) {
            Some(record) => breach("R1", format!("all of spec {spec}"), format!("{record}")),
            None => Ok(()),
        }
    }

    fn shows_listeners(&self, status: &Status<SocketAddr>, spec: &str) -> Seen {
        let open = self.listeners.iter().enumerate();
        let open = open.filter(|(_, listening)| listening.told.is_none());
        let mut listed = status.listeners.iter();
        for (number, listening) in open {
            let id = listening.id;
            let Some(record) = listed.next() else {
                return breach("Q1", format!("listener {id} is listed"), "it is not");
            };
            same("Q1", "listener", id, record.id)?;
            same("Q1", "its address", listening.address, record.local_addr)?;
            same("R1", "its spec", spec, &*record.spec)?;
            let what = format!("acceptors of listener {id}");
            same("L1", &what, listening.acceptors, record.acceptors)?;
            let connections = self.connections();
            let connections = connections.filter(|(_, child)| child.listener == number);
            let what = format!("connections of listener {id}");
            same("Q1", &what, connections.count(), record.connections)?;
            same("Q1", "accepted", listening.accepted, record.accepted)?;
            same("A1", "skipped", listening.skipped, record.skipped)?;
            same("A2", "pauses", listening.pauses, record.pauses)?;
            let expected = match (listening.pause.until, &self.stop) {
                // The clock moves only when nothing is ready, so a pause that is over has been seen to be.
                (Some(until), _) if until > self.now => ListenerState::Paused,
                (_, Some(_)) => ListenerState::LameDuck,
                (_, None) => ListenerState::Accepting,
            };
            same("Q1", "state of a listener", expected, record.state)?;
        }
        match listed.next() {
            Some(record) => breach("Q1", "no other listener is listed", format!("{record}")),
            None => Ok(()),
        }
    }

    /// Holds the signals of the connections against what they were told (N1, N2).
    pub(in crate::scenario) fn signals(&self, signals: &[(ChildId, bool, Vec<bool>)]) -> Seen {
        for (id, draining, stop) in signals {
            let Some(child) = self.children.get(id) else {
                return breach("N1", "a child of the pool has signals", format!("{id}"));
            };
            let told = self.listeners[child.listener].told.is_some() || self.stop.is_some();
            same("N1", &format!("{id} sees draining"), told, *draining)?;
            for stop in stop {
                let told = child.stopped.is_some() || child.asked.is_some();
                same("N2", &format!("{id} sees stop"), told, *stop)?;
            }
        }
        Ok(())
    }

    /// Holds what acceptors see of their listeners against the sockets (B1).
    pub(in crate::scenario) fn sees_closed(&self, closed: &[(ListenerId, bool)]) -> Seen {
        for (id, seen) in closed {
            let number = self.listener(*id);
            let expected =
                number.is_some_and(|number| self.listeners[number].socket == SocketState::Closed);
            same(
                "B1",
                &format!("listener {id} is seen closed"),
                expected,
                *seen,
            )?;
        }
        Ok(())
    }

    /// Nothing is ready: whatever was to happen by now must have happened.
    pub(in crate::scenario) fn rests(
        &mut self,
        counts: Option<Counts>,
        polls: Polls,
        backlog: impl Fn(SocketAddr) -> usize,
    ) -> Seen {
        if polls == Polls::All {
            self.unseen = 0;
            self.everybody_went()?;
            self.acceptors_are_complete()?;
            self.nobody_waits_in_vain(backlog)?;
        }
        self.stop_goes_on()?;
        match (counts, polls) {
            (Some(counts), Polls::All) => self.all_are_counted(&counts),
            // A task that is not polled may keep a replacement from being started.
            (Some(_), Polls::Some) | (None, _) => Ok(()),
        }
    }

    fn everybody_went(&self) -> Seen {
        for (id, child) in self.living() {
            if child.is_to_be_dropped() {
                let told = (child.told, child.killed, child.stopped, child.asked);
                let expected = format!("{id} is gone, for it was told to be: {told:?}");
                return breach("E4", expected, format!("it is {:?}", child.stage));
            }
            if child.stage == Stage::Connection && child.begun.is_none() {
                return breach("B5", format!("{id} serves"), "it was not polled");
            }
            if child.stage == Stage::Waiting {
                if let Some((told, _)) = child.told {
                    let expected = format!("{id} terminates, for it was {told:?}");
                    return breach("B7", expected, "it waits");
                }
                if child.deadline.is_some_and(|(at, _)| at <= self.now) {
                    let expected = format!("{id} terminates, for its time is over");
                    return breach("B6", expected, "it waits");
                }
            }
        }
        Ok(())
    }

    fn acceptors_are_complete(&self) -> Seen {
        for listening in &self.listeners {
            let id = listening.id;
            if listening.told.is_some() {
                same(
                    "L3",
                    &format!("the socket of listener {id}"),
                    SocketState::Closed,
                    listening.socket,
                )?;
                continue;
            }
        }
        self.starts.nobody_is_late(self.now)
    }

    fn nobody_waits_in_vain(&self, backlog: impl Fn(SocketAddr) -> usize) -> Seen {
        for listening in &self.listeners {
            let paused = listening.pause.until.is_some_and(|until| until > self.now);
            if listening.told.is_some() || paused || listening.line.is_empty() {
                continue;
            }
            let clients = backlog(listening.address);
            if clients > 0 {
                let first = &listening.line[0];
                let expected = format!("{first} gets a client of {}", listening.address);
                return breach("L2", expected, format!("{clients} clients wait"));
            }
        }
        Ok(())
    }

    fn stop_goes_on(&self) -> Seen {
        let PoolState::Stopping(phase) = self.state() else {
            if self.state() == PoolState::Stopped && self.joins > 0 {
                let seen = format!("{} wait on", self.joins);
                return breach("S1", "whoever waits for the result gets it", seen);
            }
            return Ok(());
        };
        let overdue = self.deadline().is_some_and(|deadline| deadline <= self.now);
        if overdue && !(self.timeless && phase == Phase::Kill) {
            return breach("S7", format!("phase {phase} is over"), "it goes on");
        }
        Ok(())
    }

    fn all_are_counted(&self, counts: &Counts) -> Seen {
        let of_open: usize = self
            .listeners
            .iter()
            .filter(|listening| listening.told.is_none())
            .map(|listening| listening.acceptors)
            .sum();
        let others = self.living().filter(|(_, child)| {
            let of_closed = self.listeners[child.listener].told.is_some();
            child.stage == Stage::Connection || of_closed
        });
        let expected = of_open + others.count();
        let seen = Self::children_in(counts);
        if let PoolState::Stopping(phase) = self.state() {
            if expected == 0 && !self.has_open_sockets() {
                return breach(
                    "S7",
                    "the pool has stopped, for nothing is left",
                    phase.to_string(),
                );
            }
        }
        same("Q3", "children", expected, seen)
    }

    /// Whoever waits for a listener to close must have been told.
    pub(in crate::scenario) fn closes_returned(&self) -> Seen {
        let waits = self.closes.iter().find(|id| {
            let number = self.listener(**id);
            number.is_none_or(|number| self.listeners[number].socket == SocketState::Closed)
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

    /// The listener, if it can be closed.
    pub(in crate::scenario) fn open(&self, number: usize) -> bool {
        self.listeners[number].told.is_none()
    }

    pub(in crate::scenario) fn close_by_hand(&mut self, number: usize) {
        self.closes(number, Ending::Closed);
    }
}
