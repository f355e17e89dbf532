//! The limits on connections: how many slots are taken, who waits for one, and who is passed over (C1 to C7).

use std::net::SocketAddr;

use super::children::{Child, Stage};
use super::{Check, Model, Peer, violation};
use crate::AtLimitSetting;

impl Model {
    /// Whether a limit is in force.
    pub(crate) fn is_limited(&self) -> bool {
        let own = |limit: Option<u32>| limit.is_some();
        self.spec.max_connections.is_some() || self.listeners.iter().any(|one| own(one.limit))
    }

    /// How many slots of the pool are taken.
    fn slots(&self) -> usize {
        self.children
            .values()
            .filter(|child| holds_slot(child))
            .count()
    }

    fn slots_of(&self, number: usize) -> usize {
        let children = self.children_of(number);
        children.filter(|(_, child)| holds_slot(child)).count()
    }

    fn pool_is_full(&self, beside: usize) -> bool {
        let limit = self.spec.max_connections;
        limit.is_some_and(|limit| self.slots() + beside >= limit as usize)
    }

    fn own_is_full(&self, number: usize, beside: usize) -> bool {
        let limit = self.listeners[number].limit;
        limit.is_some_and(|limit| self.slots_of(number) + beside >= limit as usize)
    }

    /// Whether the listener may accept no connection, because a limit is reached.
    pub(super) fn is_full(&self, number: usize) -> bool {
        self.own_is_full(number, 0) || self.pool_is_full(0)
    }

    /// Whether it may be shown as full: a listener that was granted a slot has not used it yet.
    pub(super) fn may_be_full(&self, number: usize) -> bool {
        self.own_is_full(number, 1) || self.pool_is_full(self.listeners.len())
    }

    /// Whether the listener calls no `accept` until it has a slot (C2).
    pub(super) fn waits_for_slot(&self, number: usize) -> bool {
        self.spec.at_limit == AtLimitSetting::Wait && self.is_full(number)
    }

    /// A connection was accepted although a limit is reached: it must be refused.
    pub(super) fn is_refused(&mut self, number: usize, peer: SocketAddr, gone: bool) -> Check {
        let address = self.listeners[number].address;
        if self.spec.at_limit == AtLimitSetting::Wait {
            let slots = (self.slots_of(number), self.slots());
            let expected = format!("{address} accepts nothing while a limit is reached");
            return violation("C1", expected, format!("{peer}, beside {slots:?}"));
        }
        if !gone {
            let expected = format!("{peer} is refused, because a limit is reached");
            return violation("C2", expected, "it is kept");
        }
        self.peers.insert(peer, Peer::Skipped);
        let listening = &mut self.listeners[number];
        listening.refused += 1;
        listening.ends_row_of_errors();
        Ok(())
    }

    /// A connection of the listener has a slot. One that waits for a slot may have come into the queue after this one, but no
    /// other listener gets a second slot before it (C3).
    pub(super) fn takes_slot(&mut self, number: usize) -> Check {
        self.listeners[number].waits_while = None;
        // Otherwise there is a slot for each of them.
        if self.spec.max_connections.is_none() || !self.pool_is_full(0) {
            return Ok(());
        }
        let address = self.listeners[number].address;
        for other in &mut self.listeners {
            let Some(before) = &mut other.waits_while else {
                continue;
            };
            if !before.insert(number) {
                let expected = format!(
                    "{} gets a slot before {address} gets another",
                    other.address
                );
                return violation("C3", expected, "it still waits");
            }
        }
        Ok(())
    }

    /// No task is ready: sees which listeners wait for a slot of the pool.
    pub(super) fn note_who_waits(&mut self, backlog: impl Fn(SocketAddr) -> usize) {
        for number in 0..self.listeners.len() {
            let listening = &self.listeners[number];
            let waits = listening.accepts()
                && !listening.pause.lasts(self.now)
                && self.waits_for_slot(number)
                && !self.own_is_full(number, 0)
                && self.readiness(number).waiting > 0
                && backlog(listening.address) > 0;
            let listening = &mut self.listeners[number];
            match waits {
                true => {
                    listening.waits_while.get_or_insert_default();
                }
                false => listening.waits_while = None,
            }
        }
    }

    /// No task is ready, and a limit of the listener is reached.
    pub(super) fn full_listener_waits(&self, number: usize, clients: usize) -> Check {
        // Without an acceptor, those stay that came before the limit was reached.
        let looks = self.readiness(number).waiting > 0 || self.listeners[number].refuses_next;
        if self.spec.at_limit == AtLimitSetting::Refuse && clients > 0 && looks {
            let address = self.listeners[number].address;
            let expected = format!("the clients of {address} are refused");
            return violation("C2", expected, format!("{clients} clients wait"));
        }
        Ok(())
    }

    /// A slot is free: each listener that waits for one is woken at most once (C3), for each of the two limits.
    pub(super) fn slot_is_passed_on(&mut self) {
        for listening in &mut self.listeners {
            listening.refuses_next = false;
        }
        if self.is_limited() {
            let open = || self.listeners.iter().filter(|one| one.is_open());
            let own = open().filter(|one| one.limit.is_some());
            let wakes = (open().count() + own.count()) as u64;
            self.wakes.listeners += wakes;
            self.wakes.companions += wakes;
        }
    }

    /// A listener comes while a slot is passed on.
    pub(super) fn one_more_waits(&mut self) {
        let wakes = u64::from(self.is_limited());
        self.wakes.listeners += wakes;
        self.wakes.companions += wakes;
    }

    /// A limit changes, or what happens at it.
    pub(super) fn limits_change(&mut self) {
        let open = self.listeners.iter().filter(|one| one.is_open()).count() as u64;
        // For a slot, and because it may refuse from now on.
        self.wakes.listeners += 2 * open;
        self.wakes.companions += 2 * open;
        for listening in &mut self.listeners {
            listening.waits_while = None;
            listening.refuses_next = false;
        }
    }

    /// The limit of the pool is changed (C6).
    pub(crate) fn limits(&mut self, limit: Option<u32>) {
        self.limits_change();
        self.spec.max_connections = limit;
    }

    /// The limit of a listener is changed (C6).
    pub(crate) fn limits_listener(&mut self, number: usize, limit: Option<u32>) {
        self.limits_change();
        self.listeners[number].limit = limit;
    }
}

fn holds_slot(child: &Child) -> bool {
    let released = child.connection.as_ref().is_some_and(|link| link.released);
    child.stage == Stage::Connection && !released
}
