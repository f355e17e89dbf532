//! A pool without tasks: the machine, a table for each listener, and beside them an obvious model.
//!
//! It does what the pool's tasks do around the machine: it applies the orders to the tables, starts acceptors as the
//! accept loop and the driver do, and looks at the children that are left. After each act every effect, every row and
//! every count is compared with the model's.

mod checks;
mod children;
mod stopping;

use std::collections::BTreeMap;

use super::acts::Moment;
use super::model::{Door, Expected, Halt, Known, Outage, StartedBy};
use super::*;
use crate::machine::slots::testing::TestSignals;
use crate::machine::slots::{CHUNK, place};
use crate::machine::stuck::RuntimeKey;
use crate::policy::WaitingAcceptors;
use crate::status::AcceptorState;

/// A listener is its id, and all addresses are alike.
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

/// The machine and its tables, and beside them the model.
#[derive(Clone)]
pub(super) struct World {
    pub(super) machine: Machine,
    tables: BTreeMap<ListenerId, Children>,
    pub(super) rules: Rules,
    now: Instant,
    pub(super) children: BTreeMap<ChildId, Known>,
    pub(super) ended: Vec<ChildId>,
    pub(super) doors: BTreeMap<ListenerId, Door>,
    failures: Vec<Instant>,
    pub(super) stop: Option<Halt>,
    /// The starts that the driver has to carry out, with their times.
    spaced: Vec<(Instant, ChildId)>,
    /// All that ever happened.
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
            doors: BTreeMap::new(),
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

    pub(super) fn doors(&self, is: impl Fn(&Door) -> bool) -> Vec<ListenerId> {
        let these = self.doors.iter().filter(|(_, door)| is(door));
        these.map(|(id, _)| *id).collect()
    }

    /// Listeners that were not asked to close.
    pub(super) fn open(&self) -> Vec<ListenerId> {
        self.doors(|door| door.socket == SocketState::Open)
    }

    pub(super) fn closing(&self) -> Vec<ListenerId> {
        self.doors(|door| matches!(door.socket, SocketState::Closing(_)))
    }

    /// Listeners whose accept loop has acceptors to start, as acts choose among all.
    pub(super) fn with_starts(&self) -> Vec<usize> {
        let all = self.doors.iter().enumerate();
        let with_starts = all.filter(|(_, (id, door))| {
            let by = |by| self.spaced_by(**id, by).len();
            let starts = match door.outage {
                None => door.owed + by(StartedBy::AcceptLoop) + by(StartedBy::AcceptLoopLater),
                Some(Outage { probe: None, .. }) => door.owed + by(StartedBy::AcceptLoop),
                Some(_) => 0,
            };
            door.is_open() && starts > 0
        });
        with_starts.map(|(which, _)| which).collect()
    }

    fn sockets(&self) -> usize {
        self.doors(Door::has_socket).len()
    }

    fn has_children(&self, listener: ListenerId) -> bool {
        self.children.keys().any(|id| id.listener() == listener)
    }

    /// Listeners whose socket is open, or that have children left.
    fn known(&self) -> Vec<ListenerId> {
        let all = self.doors.iter();
        let known = all
            .filter(|(id, door)| !door.forgotten && (door.has_socket() || self.has_children(**id)));
        known.map(|(id, _)| *id).collect()
    }

    fn door(&mut self, listener: ListenerId) -> &mut Door {
        self.doors
            .get_mut(&listener)
            .expect("a listener that was added")
    }

    fn table(&mut self, listener: ListenerId) -> &mut Children {
        self.tables
            .get_mut(&listener)
            .expect("a listener that was added")
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

    /// `None` if there is nothing that it could be done to.
    fn carry_out(&mut self, act: &Act) -> Option<()> {
        let all: Vec<_> = self.doors.keys().copied().collect();
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
                let sockets = self.doors(|door| door.socket != SocketState::Closed);
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
        let runtime = match self.doors.len() % 3 {
            0 => Some(RuntimeKey::OF_THE_POOL),
            1 => None,
            _ => self.doors.values().next_back().map(|door| door.runtime),
        };
        let mut key = None;
        let id = self.machine.add_listener(runtime, |id, given| {
            key = Some(given);
            id
        });
        let key = key.expect("the listener was made");
        match runtime {
            Some(runtime) => assert_eq!(key, runtime),
            None => assert!(self.doors.values().all(|door| door.runtime != key)),
        }
        let mut table = Table::new(id, acceptors, TestSignals::default());
        table.watch_ends(self.rules.connection_reports == ConnectionReports::All);
        assert!(
            self.tables.insert(id, table).is_none(),
            "{id} was there before"
        );
        let door = Door {
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
        self.doors.insert(id, door);
    }

    fn reconfigure(&mut self, rules: Rules, waiting: WaitingAcceptors) {
        self.machine.reconfigure(rules);
        self.rules = rules;
        for listener in self.known() {
            let all = rules.connection_reports == ConnectionReports::All;
            self.table(listener).watch_ends(all);
            let replaces = self.table(listener).reconfigure(waiting);
            self.door(listener).generation += 1;
            let mut replaced = Vec::new();
            if waiting == WaitingAcceptors::Replace && self.doors[&listener].is_open() {
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
                let known = self.children.get_mut(&id).expect("a child that is there");
                known.replaced = true;
                let door = self.door(listener);
                door.owed += 1;
                if let Some(outage) = &mut door.outage {
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
        let known = self.children.get_mut(&id).expect("a child that is there");
        known.state = Some(state);
    }

    /// Time passes, and the driver has its turn.
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
        let bank = bank.expect("a child that is there");
        bank.seat(id.slot).polls += 1;
        let known = self.children.get_mut(&id).expect("a child that is there");
        known.control.polls += 1;
    }

    fn count(&mut self, listener: ListenerId, role: Role, kind: EndKind, count: usize) {
        let runtime = self.doors[&listener].runtime;
        if let Some(stop) = &mut self.stop {
            let end = (role, stop.phase, kind);
            stop.ends.extend(std::iter::repeat_n(end, count));
            stop.moved.insert(runtime);
        }
    }
}
