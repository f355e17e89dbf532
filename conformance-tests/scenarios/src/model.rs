//! The model of the checker: how a pool must behave, derived from the events of callbacks, clients and the network.
//!
//! It has no queue of connections and no lock. A child is the sum of its events. Its end follows from the outcome of `serve` or
//! `terminate`, or from its commands. A failure is a time in a list, and a phase is its earliest end. All events of one poll or
//! one call are one batch, and are seen in their order.
//! Invariants: an end is complete, with all its consequences, before another event is seen; reports are expected in the order
//! of their causes.

mod capacity;
mod children;
mod listeners;
mod outbox;
mod shown;
mod starting;
mod stopping;
mod wakes;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use acceptor_core::{ChildId, ConnectionRecord, ListenerId, Phase, PoolState, StopReport};

use super::event::Event;
use super::{SpecSetting, StageSetting, WaitingSetting};
use acceptor_simulation::NetworkEvent;

use self::children::Child;
use self::listeners::ListenerModel;
use self::outbox::Outbox;
pub(super) use self::outbox::Reporter;
pub(super) use self::shown::Polls;
pub(super) use self::starting::STARTED_AT_ONCE;
use self::stopping::Stop;
pub(super) use self::wakes::Wakes;

/// The violation of a rule.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    pub(super) rule: &'static str,
    pub(super) expected: String,
    pub(super) seen: String,
}

pub(super) type Check = Result<(), Violation>;

pub(super) fn violation<T>(
    rule: &'static str,
    expected: impl Into<String>,
    seen: impl Into<String>,
) -> Result<T, Violation> {
    Err(Violation {
        rule,
        expected: expected.into(),
        seen: seen.into(),
    })
}

/// A violation if the values differ.
pub(super) fn same<T: PartialEq + fmt::Debug>(
    rule: &'static str,
    what: impl fmt::Display,
    expected: T,
    seen: T,
) -> Check {
    if expected == seen {
        return Ok(());
    }
    let [expected, seen] = [expected, seen].map(|value| format!("{what}: {value:?}"));
    violation(rule, expected, seen)
}

/// The address to which a client connects: it cannot connect to a wildcard.
pub(super) fn reached(listener: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match listener.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listener.port())
}

/// Whether the runtime is dropping a task of the pool at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tasks {
    Run,
    /// The task of one child.
    ChildDropped,
    /// The pool's own task, or the task of a listener.
    OwnDropped,
    /// One of all tasks of a runtime.
    AllDropped,
}

impl Tasks {
    /// A child may be lost with its task.
    pub(super) fn lose_children(self) -> bool {
        matches!(self, Tasks::ChildDropped | Tasks::AllDropped)
    }

    /// A listener may fail with its task.
    pub(super) fn lose_listeners(self) -> bool {
        matches!(self, Tasks::OwnDropped | Tasks::AllDropped)
    }
}

/// Identifies a child, even without an event: a listener numbers its children in the order in which it makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    listener: usize,
    number: u64,
}

impl Key {
    fn of(id: ChildId) -> Result<Self, Violation> {
        let text = id.to_string();
        let parsed = text.split_once('.').and_then(|(listener, number)| {
            let listener: usize = listener.parse().ok()?;
            let (listener, number) = (listener.checked_sub(1)?, number.parse().ok()?);
            Some(Self { listener, number })
        });
        match parsed {
            Some(key) => Ok(key),
            None => violation("Q1", "an id such as 3.17", text),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.listener + 1, self.number)
    }
}

pub(super) struct Model {
    stage: StageSetting,
    pub(super) spec: SpecSetting,
    pub(super) generation: u32,
    pub(super) listeners: Vec<ListenerModel>,
    /// The keys of ids that were seen.
    keys: RefCell<HashMap<ChildId, Key>>,
    /// The children that have not ended.
    children: BTreeMap<Key, Child>,
    /// The connections that were given up during the kill phase, and whose streams are open (S8).
    abandoned: BTreeSet<Key>,
    /// The children that have ended; an id is known if an event of the child was seen.
    ended: BTreeMap<Key, Option<ChildId>>,
    peers: BTreeMap<SocketAddr, Peer>,
    /// Clients that reset their connection: they may be gone before their address is read (A1).
    reset: BTreeSet<SocketAddr>,
    /// The times of the failures within the period.
    failures: Vec<Instant>,
    stop: Option<Stop>,
    outbox: Outbox,
    /// The child whose end is in progress.
    ending: Option<Key>,
    /// Acceptors without an event may have a command to end.
    commanded: bool,
    /// In this batch connections were accepted after the timeout of a waiting acceptor: the list shows whether it was
    /// dismissed.
    passed_over: bool,
    now: Instant,
    /// The number of the poll, or call, that is being checked.
    batch: u64,
    /// The runtime of the child that was polled.
    runtime: Option<u64>,
    tasks: Tasks,
    /// The pool's own task was dropped, so the pool has no timers.
    pub(super) timeless: bool,
    pub(super) wakes: Wakes,
    closes: Vec<ListenerId>,
    joins: usize,
    result: Option<StopReport>,
}

/// The state of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// It waits in the backlog of this listener.
    Waits(SocketAddr),
    /// This child serves it, or has served it.
    Served(Key),
    /// It was gone before its address could be read (A1).
    Skipped,
}

/// Whether a child is killed, or only asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Killed {
    Yes,
    No,
}

impl Model {
    pub(super) fn new(stage: StageSetting, spec: SpecSetting, now: Instant) -> Self {
        Self {
            stage,
            spec,
            generation: 1,
            listeners: Vec::new(),
            keys: RefCell::default(),
            children: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            ended: BTreeMap::new(),
            peers: BTreeMap::new(),
            reset: BTreeSet::new(),
            failures: Vec::new(),
            stop: None,
            outbox: Outbox::default(),
            ending: None,
            commanded: false,
            passed_over: false,
            now,
            batch: 0,
            runtime: None,
            tasks: Tasks::Run,
            timeless: false,
            wakes: Wakes::default(),
            closes: Vec::new(),
            joins: 0,
            result: None,
        }
    }

    fn key(&self, id: ChildId) -> Result<Key, Violation> {
        let known = self.keys.borrow().get(&id).copied();
        match known {
            Some(key) => Ok(key),
            None => {
                let key = Key::of(id)?;
                self.keys.borrow_mut().insert(id, key);
                Ok(key)
            }
        }
    }

    pub(super) fn state(&self) -> PoolState {
        match &self.stop {
            None => PoolState::Running,
            Some(stop) if stop.finished.is_some() => PoolState::Stopped,
            Some(stop) => PoolState::Stopping(stop.phase),
        }
    }

    /// A poll, or a call, begins at this time.
    pub(super) fn begin(&mut self, now: Instant, tasks: Tasks) {
        self.now = now;
        self.batch += 1;
        self.runtime = None;
        self.passed_over = false;
        self.commanded |= tasks != Tasks::Run;
        self.tasks = tasks;
    }

    pub(super) fn connects(&mut self, peer: SocketAddr, listener: SocketAddr) {
        self.peers.insert(peer, Peer::Waits(listener));
    }

    pub(super) fn resets(&mut self, peer: SocketAddr) {
        self.reset.insert(peer);
    }

    pub(super) fn peer(&self, peer: SocketAddr) -> Option<Peer> {
        self.peers.get(&peer).copied()
    }

    pub(super) fn awaits_close(&mut self, listener: ListenerId) {
        self.closes.push(listener);
    }

    pub(super) fn awaits_result(&mut self) {
        self.joins += 1;
    }

    /// The spec was replaced (R1). Children that have started keep their spec.
    pub(super) fn reconfigured(
        &mut self,
        spec: SpecSetting,
        generation: u32,
        waiting: WaitingSetting,
    ) {
        if (self.spec.max_connections, self.spec.at_limit) != (spec.max_connections, spec.at_limit)
        {
            self.limits_change();
        }
        self.spec = spec;
        self.generation = generation;
        for child in self.children.values_mut() {
            child.is_of_later_spec(generation);
        }
        if waiting == WaitingSetting::Replace {
            for number in 0..self.listeners.len() {
                self.replaces_acceptors(number);
            }
        }
    }

    /// Sees the consequences of one poll or call, except reports. `connections` is the pool's list, if a connection was
    /// accepted; `polled` are the children whose callbacks were polled.
    pub(super) fn see(
        &mut self,
        events: &[Event],
        polled: &[ChildId],
        connections: &[ConnectionRecord<SocketAddr>],
    ) -> Check {
        self.accepts_in_one_poll(events)?;
        for child in polled {
            self.is_polled(*child)?;
        }
        for (number, event) in events.iter().enumerate() {
            self.see_one(event, &events[number + 1..], connections)?;
        }
        self.end_is_complete()
    }

    fn see_one(
        &mut self,
        event: &Event,
        later: &[Event],
        connections: &[ConnectionRecord<SocketAddr>],
    ) -> Check {
        // The end of a child is complete when its state and its stream are dropped.
        let goes_on = match event {
            Event::StateDropped { child, .. }
            | Event::PanickedOnDrop { child }
            | Event::TerminateEnded { child, .. } => self.ending == Some(self.key(*child)?),
            Event::Network(NetworkEvent::Dropped { peer }) => {
                self.ending.is_some() && self.peer(*peer) == self.ending.map(Peer::Served)
            }
            _ => false,
        };
        if !goes_on {
            self.end_is_complete()?;
        }
        match event {
            Event::Network(NetworkEvent::Accepted { listener, peer }) => {
                self.accepted(*listener, *peer, later, connections)
            }
            Event::Network(NetworkEvent::Failed { listener, fault }) => {
                self.accept_failed(*listener, *fault)
            }
            Event::Network(NetworkEvent::Empty { listener }) => self.found_nothing(*listener),
            Event::Network(NetworkEvent::Closed { listener, queued }) => {
                self.socket_closed(*listener, *queued)
            }
            Event::CloseReturned(listener) => self.close_returned(*listener),
            Event::Joined(report) => self.joined(report),
            event => self.see_child(event),
        }
    }

    fn close_returned(&mut self, listener: ListenerId) -> Check {
        self.wakes.others += 1;
        let known = self.closes.iter().position(|other| *other == listener);
        let Some(known) = known else {
            return violation("L3", "each wait for a close returns once", "once more");
        };
        self.closes.remove(known);
        let number = self.listener(listener);
        if number.is_some_and(|number| self.listeners[number].is_open()) {
            let expected = format!("listener {listener} is closed when `close` returns");
            return violation("L3", expected, "it is open");
        }
        Ok(())
    }

    fn phase(&self) -> Option<Phase> {
        self.stop.as_ref().map(|stop| stop.phase)
    }
}

const SECOND: Duration = Duration::from_secs(1);
