//! A pool without tasks: the machine, a table for each listener, and a simple model.
//!
//! It plays the part of the pool's tasks: it applies the orders to the tables, starts acceptors as the
//! accept loop and the driver do, and looks at the remaining children. After each act every effect, every row and
//! every count is compared with the model.

mod checks;
mod children;
mod stopping;

use std::collections::BTreeMap;

use super::acts::Moment;
use super::model::{Expected, Known, KnownListener, KnownStop, Outage, StartedBy};
use super::*;
use crate::machine::slots::testing::TestSignals;
use crate::machine::slots::{CHUNK, place};
use crate::machine::stuck::RuntimeKey;
use crate::policy::WaitingAcceptors;
use crate::status::AcceptorState;

/// A listener is its id, and all addresses are equal.
pub(super) type Machine = Supervisor<ListenerId>;
pub(super) type Outcome = Effects<ListenerId, ()>;
pub(super) type Children = Table<TestBank, ()>;

/// The control of a child: its number, and how often it was polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Child {
    number: u64,
    polls: u32,
}

impl Child {
    pub(super) fn new(number: u64) -> Self {
        Self { number, polls: 0 }
    }
}

/// The children of a chunk.
#[derive(Clone)]
pub(super) struct TestBank([Child; CHUNK]);

impl TestBank {
    fn seat(&mut self, slot: u32) -> &mut Child {
        &mut self.0[place(slot)]
    }
}

impl Bank for TestBank {
    type Signals = TestSignals;
    type Control = Child;

    fn new(_: &TestSignals) -> Self {
        Self([Child::new(0); CHUNK])
    }

    fn next_number(signals: &TestSignals) -> u64 {
        signals.next_number()
    }

    fn set_outage(signals: &TestSignals, holds: bool) {
        assert_ne!(signals.outage.replace(holds), holds);
    }

    fn occupy(&mut self, slot: u32, number: u64) {
        *self.seat(slot) = Child::new(number);
    }

    fn control(&self, slot: u32, number: u64) -> Child {
        let child = self.0[place(slot)];
        assert_eq!(child.number, number);
        child
    }

    fn mark(&self, slot: u32) -> u32 {
        self.0[place(slot)].polls
    }
}

/// The machine, its tables and the model.
#[derive(Clone)]
pub(super) struct World {
    pub(super) machine: Machine,
    tables: BTreeMap<ListenerId, Children>,
    pub(super) rules: Rules,
    now: Instant,
    pub(super) children: BTreeMap<ChildId, Known>,
    pub(super) ended: Vec<ChildId>,
    pub(super) known_listeners: BTreeMap<ListenerId, KnownListener>,
    failures: Vec<Instant>,
    pub(super) stop: Option<KnownStop>,
    /// The pending starts of the driver, with their times.
    spaced: Vec<(Instant, ChildId)>,
    /// The whole history.
    pub(super) history: Vec<Moment>,
}

fn choose<T: Copy>(among: &[T], which: usize) -> Option<T> {
    Some(among[which.checked_rem(among.len())?])
}

impl World {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            machine: Supervisor::new(rules, PoolId::ANY),
            tables: BTreeMap::new(),
            rules,
            now: Instant::now(),
            children: BTreeMap::new(),
            ended: Vec::new(),
            known_listeners: BTreeMap::new(),
            failures: Vec::new(),
            stop: None,
            spaced: Vec::new(),
            history: Vec::new(),
        }
    }

    fn which(&self, is: impl Fn(&Known) -> bool) -> Vec<ChildId> {
        let these = self.children.iter().filter(|(_, known)| is(known));
        these.map(|(id, _)| *id).collect()
    }

    pub(super) fn of_role(&self, role: Role) -> Vec<ChildId> {
        self.which(|known| known.role() == role)
    }

    pub(super) fn in_state(&self, state: AcceptorState) -> Vec<ChildId> {
        self.which(|known| known.state == Some(state))
    }

    pub(super) fn known_listeners(&self, is: impl Fn(&KnownListener) -> bool) -> Vec<ListenerId> {
        let these = self
            .known_listeners
            .iter()
            .filter(|(_, known_listener)| is(known_listener));
        these.map(|(id, _)| *id).collect()
    }

    /// Listeners that are not closing.
    pub(super) fn open(&self) -> Vec<ListenerId> {
        self.known_listeners(|known_listener| known_listener.socket == SocketState::Open)
    }

    pub(super) fn closing(&self) -> Vec<ListenerId> {
        self.known_listeners(|known_listener| {
            matches!(known_listener.socket, SocketState::Closing(_))
        })
    }

    /// Listeners whose accept loop has acceptors to start, as acts choose among all.
    pub(super) fn with_starts(&self) -> Vec<usize> {
        let all = self.known_listeners.iter().enumerate();
        let with_starts = all.filter(|(_, (id, known_listener))| {
            let by = |by| self.spaced_by(**id, by).len();
            let starts = match known_listener.outage {
                None => {
                    known_listener.owed + by(StartedBy::AcceptLoop) + by(StartedBy::AcceptLoopLater)
                }
                Some(Outage { probe: None, .. }) => known_listener.owed + by(StartedBy::AcceptLoop),
                Some(_) => 0,
            };
            known_listener.is_open() && starts > 0
        });
        with_starts.map(|(which, _)| which).collect()
    }

    fn sockets(&self) -> usize {
        self.known_listeners(KnownListener::has_socket).len()
    }

    fn has_children(&self, listener: ListenerId) -> bool {
        self.children.keys().any(|id| id.listener() == listener)
    }

    /// Listeners with an open socket or remaining children.
    fn known(&self) -> Vec<ListenerId> {
        let all = self.known_listeners.iter();
        let known = all.filter(|(id, known_listener)| {
            !known_listener.forgotten && (known_listener.has_socket() || self.has_children(**id))
        });
        known.map(|(id, _)| *id).collect()
    }

    fn known_listener(&mut self, listener: ListenerId) -> &mut KnownListener {
        self.known_listeners
            .get_mut(&listener)
            .expect("the listener was added")
    }

    fn table(&mut self, listener: ListenerId) -> &mut Children {
        self.tables
            .get_mut(&listener)
            .expect("the listener was added")
    }

    pub(super) fn act(&mut self, act: &Act) {
        self.history.push(Moment {
            act: act.clone(),
            at: self.now,
            rules: self.rules,
            state: self.machine.state(),
            left: 0,
            sockets: 0,
            reports: Vec::new(),
            results: 0,
            owed_killed: 0,
        });
        self.carry_out(act);
        self.check();
        let (sockets, state) = (self.sockets(), self.machine.state());
        let left = self.children.len() + sockets;
        if let Some(moment) = self.history.last_mut() {
            (moment.at, moment.rules, moment.state) = (self.now, self.rules, state);
            (moment.left, moment.sockets) = (left, sockets);
        }
    }

    /// `None` if the act has no target.
    fn carry_out(&mut self, act: &Act) -> Option<()> {
        let all: Vec<_> = self.known_listeners.keys().copied().collect();
        let in_state = |state| self.in_state(state);
        let (init, waiting) = (AcceptorState::Init, AcceptorState::Waiting);
        match act {
            Act::Add(acceptors) if self.stop.is_none() => self.add(*acceptors),
            Act::Starts(which, limit) => self.starts(choose(&all, *which)?, *limit),
            Act::Lists(which, limit) => self.lists(choose(&all, *which)?, *limit),
            Act::Waits(which) => self.waits(choose(&in_state(init), *which)?),
            Act::Dismissed(which) => self.dismissed(choose(&in_state(waiting), *which)?),
            Act::Became(which) => self.became(choose(&in_state(waiting), *which)?, false),
            Act::BecameWithNext(which) => {
                self.became(choose(&in_state(waiting), *which)?, true);
            }
            Act::AcceptorEnds(which, how) => {
                self.ends(choose(&self.of_role(Role::Acceptor), *which)?, *how);
            }
            Act::ConnectionEnds(which, how) => {
                self.ends(choose(&self.of_role(Role::Connection), *which)?, *how);
            }
            Act::EndsAgain(which, how) => self.ends_again(choose(&self.ended, *which)?, *how),
            Act::ComesLate(which) => self.comes_late(choose(&self.ended, *which)?),
            Act::Close(which) => self.close(choose(&self.open(), *which)?),
            Act::CloseAgain => self.close_again(),
            Act::SocketCloses(which) => self.socket_closes(choose(&self.closing(), *which)?),
            Act::ListenerFails(which) => {
                let sockets = self
                    .known_listeners(|known_listener| known_listener.socket != SocketState::Closed);
                self.socket_closes(choose(&sockets, *which)?);
            }
            Act::Stop(reason) => self.stop(*reason),
            Act::Kill(reason) => self.kill(*reason),
            Act::Wait(time) => self.wait(ms(*time)),
            Act::Poll(which) => {
                let all: Vec<_> = self.children.keys().copied().collect();
                self.poll(choose(&all, *which)?);
            }
            Act::Reconfigure(rules, waiting) if self.stop.is_none() => {
                self.reconfigure(*rules, *waiting);
            }
            Act::Add(_) | Act::Reconfigure(..) => return None,
        }
        Some(())
    }

    fn peer() -> Peer<()> {
        Peer {
            peer_addr: (),
            own: None,
        }
    }

    fn add(&mut self, acceptors: usize) {
        // The pool's runtime, another one, and that one again.
        let runtime = match self.known_listeners.len() % 3 {
            0 => Some(RuntimeKey::OF_THE_POOL),
            1 => None,
            _ => self
                .known_listeners
                .values()
                .next_back()
                .map(|known_listener| known_listener.runtime),
        };
        let mut key = None;
        let id = self.machine.add_listener(runtime, |id, given| {
            key = Some(given);
            id
        });
        let key = key.expect("the listener exists");
        match runtime {
            Some(runtime) => assert_eq!(key, runtime),
            None => assert!(
                self.known_listeners
                    .values()
                    .all(|known_listener| known_listener.runtime != key)
            ),
        }
        let mut table = Table::new(id, acceptors, TestSignals::default());
        table.watch_ends(self.rules.connection_reports == ConnectionReports::All);
        assert!(
            self.tables.insert(id, table).is_none(),
            "{id} existed before"
        );
        let known_listener = KnownListener {
            runtime: key,
            acceptors,
            accepted: 0,
            numbers: 0,
            owed: acceptors,
            generation: 0,
            outage: None,
            socket: SocketState::Open,
            killed: false,
            forgotten: false,
        };
        self.known_listeners.insert(id, known_listener);
    }

    fn reconfigure(&mut self, rules: Rules, waiting: WaitingAcceptors) {
        self.machine.reconfigure(rules);
        self.rules = rules;
        for listener in self.known() {
            let all = rules.connection_reports == ConnectionReports::All;
            self.table(listener).watch_ends(all);
            let replaces = self.table(listener).reconfigure(waiting);
            self.known_listener(listener).generation += 1;
            let mut replaced = Vec::new();
            if waiting == WaitingAcceptors::Replace && self.known_listeners[&listener].is_open() {
                replaced = self.which(|known| {
                    let begun = known
                        .state
                        .is_some_and(|state| state != AcceptorState::Spaced);
                    begun && !known.replaced
                });
                replaced.retain(|id| id.listener() == listener);
            }
            assert_eq!(replaces, !replaced.is_empty());
            for id in replaced {
                let known = self.children.get_mut(&id).expect("the child exists");
                known.replaced = true;
                let known_listener = self.known_listener(listener);
                known_listener.owed += 1;
                if let Some(outage) = &mut known_listener.outage {
                    outage.probe = outage.probe.filter(|probe| *probe != id);
                }
            }
        }
    }

    fn spaced_by(&self, listener: ListenerId, by: StartedBy) -> Vec<ChildId> {
        let mut these = self
            .which(|known| known.state == Some(AcceptorState::Spaced) && known.started_by == by);
        these.retain(|id| id.listener() == listener);
        these
    }

    fn set_state(&mut self, id: ChildId, state: AcceptorState) {
        let known = self.children.get_mut(&id).expect("the child exists");
        known.state = Some(state);
    }

    /// Time passes, and the driver runs.
    fn wait(&mut self, time: Duration) {
        self.now += time;
        let (now, mut effects) = (self.now, Outcome::default());
        self.machine.tick(now, &mut effects);
        let mut expected = Expected::default();
        self.advance(&mut expected);
        self.compare(effects, expected);
        if self.machine.look_is_due(now) {
            self.look();
        }
        let due = |(at, _): &&(Instant, ChildId)| *at <= now;
        let mut starts: Vec<_> = self.spaced.iter().filter(due).copied().collect();
        self.spaced.retain(|(at, _)| *at > now);
        starts.sort_by_key(|(at, _)| *at);
        for (_, child) in starts {
            self.start_spaced(child);
        }
    }

    fn poll(&mut self, id: ChildId) {
        let bank = self.table(id.listener()).bank_mut(id);
        let bank = bank.expect("the child exists");
        bank.seat(id.slot).polls += 1;
        let known = self.children.get_mut(&id).expect("the child exists");
        known.control.polls += 1;
    }

    fn count(&mut self, listener: ListenerId, role: Role, kind: EndKind, count: usize) {
        let runtime = self.known_listeners[&listener].runtime;
        if let Some(stop) = &mut self.stop {
            let end = (role, stop.phase, kind);
            stop.ends.extend(std::iter::repeat_n(end, count));
            stop.moved.insert(runtime);
        }
    }
}
