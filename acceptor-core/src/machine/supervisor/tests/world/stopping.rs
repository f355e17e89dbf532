//! Closes, and the phases of a stop.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::machine::effects::Order;
use crate::machine::stop::Looks;
use crate::machine::stuck::RuntimeKey;

impl World {
    pub(super) fn close(&mut self, listener: ListenerId) {
        let mut effects = Outcome::default();
        assert_eq!(self.machine.close(listener, &mut effects), Some(listener));
        let reason = CloseReason::Closed;
        self.known_listener(listener).socket = SocketState::Closing(reason);
        let queued = Queued::Accepted;
        let expected = Expected {
            close: vec![(listener, Close { reason, queued })],
            wakes_driver: true,
            ..Expected::default()
        };
        self.compare(effects, expected);
    }

    /// A second close joins the first; once that is over, the listener is unknown.
    pub(super) fn close_again(&mut self) {
        for (id, known_listener) in self.known_listeners.clone() {
            let mut effects = Outcome::default();
            let joined = match known_listener.socket {
                SocketState::Open => continue,
                SocketState::Closing(_) => known_listener.has_socket().then_some(id),
                SocketState::Closed => None,
            };
            assert_eq!(self.machine.close(id, &mut effects), joined);
            self.compare(effects, Expected::default());
        }
    }

    pub(super) fn socket_closes(&mut self, listener: ListenerId) {
        let mut effects = Outcome::default();
        let (machine, now) = (&mut self.machine, self.now);
        let table = self
            .tables
            .get_mut(&listener)
            .expect("the listener has a table");
        let failure = |listeners_left| Event::ListenerFailed {
            listener,
            local_addr: (),
            listeners_left,
            error: Arc::new(std::io::ErrorKind::Other.into()),
        };
        let reason = machine.socket_closed(table, listener, now, Some(failure), &mut effects);

        let mut expected = Expected::default();
        let known_listener = self.known_listeners[&listener].clone();
        let known = known_listener.has_socket();
        self.known_listener(listener).socket = SocketState::Closed;
        if !known {
            assert_eq!(reason, CloseReason::Stopped);
            return self.compare(effects, expected);
        }
        expected.wakes_driver = true;
        self.known_listener(listener).outage = None;
        let owed = std::mem::take(&mut self.known_listener(listener).owed);
        let kind = if known_listener.killed {
            EndKind::Killed
        } else {
            EndKind::Stopped
        };
        self.count(listener, Role::Acceptor, kind, owed);
        if let (true, Some(moment)) = (known_listener.killed, self.history.last_mut()) {
            moment.owed_killed += owed;
        }
        match known_listener.socket {
            SocketState::Closing(asked) => assert_eq!(reason, asked),
            SocketState::Open | SocketState::Closed => {
                assert_eq!(reason, CloseReason::Failed);
                let left = self.open().len();
                let report = Reported::ListenerFailed(listener, left);
                expected.reports.push(report);
                let stops = self.rules.last_listener == LastListener::Stop;
                if left == 0 && stops && self.stop.is_none() {
                    self.begin_stop(StopReason::ListenersFailed, &mut expected);
                }
            }
        }
        self.advance(&mut expected);
        self.compare(effects, expected);
    }

    pub(super) fn begin_stop(&mut self, reason: StopReason, expected: &mut Expected) {
        self.stop = Some(KnownStop {
            plan: self.rules.plan,
            reason,
            began: self.now,
            phase: Phase::LameDuck,
            closing: false,
            since: self.now,
            ends: Vec::new(),
            looked: None,
            moved: BTreeSet::new(),
            rounds: BTreeMap::new(),
            stuck: 0,
            finished: false,
        });
        match reason {
            StopReason::Requested | StopReason::OwnerDropped => {}
            _ => expected.reports.push(Reported::PoolStopped(reason)),
        }
        expected.orders.push(Order::BeginStop);
        expected.wakes_driver = true;
    }

    pub(super) fn stop(&mut self, reason: StopReason) {
        let mut effects = Outcome::default();
        self.machine.stop(reason, self.now, &mut effects);
        let mut expected = Expected::default();
        if self.stop.is_none() {
            self.begin_stop(reason, &mut expected);
            self.advance(&mut expected);
        }
        self.compare(effects, expected);
    }

    pub(super) fn kill(&mut self, reason: StopReason) {
        let mut effects = Outcome::default();
        self.machine.kill(reason, self.now, &mut effects);
        let mut expected = Expected::default();
        if self.stop.is_none() {
            self.begin_stop(reason, &mut expected);
        }
        let phase = self.stop.as_ref().map(|stop| (stop.phase, stop.finished));
        if !matches!(phase, Some((Phase::Kill, _) | (_, true))) {
            self.enter_kill(&mut expected);
        }
        self.advance(&mut expected);
        self.compare(effects, expected);
    }

    pub(super) fn enter_kill(&mut self, expected: &mut Expected) {
        let now = self.now;
        self.close_all(Queued::Reset, expected);
        expected.orders.push(Order::Kill);
        self.known_stop().enter(Phase::Kill, now);
    }

    pub(super) fn close_all(&mut self, queued: Queued, expected: &mut Expected) -> Close {
        let reason = CloseReason::Stopped;
        let close = Close { reason, queued };
        for (id, known_listener) in &mut self.known_listeners {
            if known_listener.has_socket() {
                expected.close.push((*id, close));
                if known_listener.socket == SocketState::Open {
                    known_listener.socket = SocketState::Closing(reason);
                }
            }
        }
        expected.wakes_driver = true;
        close
    }

    pub(super) fn known_stop(&mut self) -> &mut KnownStop {
        self.stop.as_mut().expect("the pool is stopping")
    }

    /// Advances the stop as far as is due.
    pub(super) fn advance(&mut self, expected: &mut Expected) {
        let now = self.now;
        while let Some(stop) = self.stop.as_ref().filter(|stop| !stop.finished) {
            let (none, lasted) = (self.known().is_empty(), now - stop.since);
            let (plan, closing, queued) = (stop.plan, stop.closing, stop.queued());
            match stop.phase {
                Phase::LameDuck if lasted < plan.lame_duck && !none => return,
                Phase::LameDuck => {
                    let close = self.close_all(queued, expected);
                    expected.orders.push(Order::CloseListeners(close));
                    self.known_stop().enter(Phase::Grace, now);
                    self.known_stop().closing = true;
                }
                _ if none => return self.finish(expected),
                Phase::Grace if closing => {
                    let waits = self.sockets() > 0 && lasted < ms(1000);
                    if waits && queued == Queued::Accepted {
                        return;
                    }
                    self.known_stop().closing = false;
                    self.known_stop().since = now;
                }
                Phase::Grace => match plan.grace {
                    Grace::Within(grace) if lasted >= grace => {
                        if plan.shutdown == Shutdown::Kill {
                            self.enter_kill(expected);
                        } else {
                            expected.orders.push(Order::Stop);
                            expected.wakes_driver = true;
                            self.known_stop().enter(Phase::Stop, now);
                        }
                    }
                    _ => return,
                },
                Phase::Stop => match plan.shutdown {
                    Shutdown::Within(time) if lasted >= time => self.enter_kill(expected),
                    _ => return,
                },
                Phase::Kill => return,
            }
        }
    }

    pub(super) fn finish(&mut self, expected: &mut Expected) {
        let now = self.now;
        let stop = self.known_stop();
        stop.finished = true;
        let killed = [Role::Acceptor, Role::Connection]
            .map(|role| stop.count(role, Phase::Kill, EndKind::Killed));
        let killed = killed.iter().sum();
        if killed > 0 && stop.plan.shutdown != Shutdown::Kill {
            let report = Reported::KilledWhileStopping(killed);
            expected.reports.push(report);
        }
        if stop.stuck > 0 {
            expected.reports.push(Reported::Stuck(stop.stuck));
        }
        expected.finished = Some(stop.report(now));
        expected.wakes_driver = true;
    }

    /// The driver looks at all children, a few at a time.
    pub(super) fn look(&mut self) {
        let mut gone = BTreeSet::new();
        let listeners: Vec<_> = self.machine.listeners().map(|(id, _)| id).collect();
        for listener in listeners {
            let table = self
                .tables
                .get_mut(&listener)
                .expect("the listener has a table");
            let mut from = Some(0);
            while let Some(cursor) = from {
                let mut rows = Vec::new();
                from = self.machine.look(table, listener, (cursor, 2), &mut rows);
                gone.extend(rows.into_iter().map(|row| row.id(listener)));
            }
        }
        let (mut effects, now) = (Outcome::default(), self.now);
        let looks = self.machine.looked(now, &mut effects);

        let (mut stuck, mut moved) = (BTreeSet::new(), BTreeSet::new());
        for (id, known) in &mut self.children {
            known.looks.push(known.control.polls);
            let same = known.looks.iter().rev();
            let same = same.take_while(|polls| **polls == known.control.polls);
            match same.count() {
                1 => {
                    moved.insert(self.known_listeners[&id.listener()].runtime);
                }
                same if same >= 5 && known.control.polls % 2 == 1 => {
                    stuck.insert(*id);
                }
                _ => {}
            }
        }
        assert_eq!(gone, stuck);
        self.children.retain(|id, _| !stuck.contains(id));
        self.ended.extend(&stuck);
        let mut expected = Expected::default();
        self.known_stop().stuck += stuck.len();
        self.advance(&mut expected);
        self.compare(effects, expected);
        let runtimes: BTreeSet<_> = self
            .known()
            .iter()
            .map(|id| self.known_listeners[id].runtime)
            .collect();
        let stop = self.known_stop();
        if stop.finished {
            return assert_eq!(looks, Looks::Over);
        }
        stop.looked = Some(now);
        moved.extend(std::mem::take(&mut stop.moved));
        let mut blocked = BTreeSet::new();
        for runtime in runtimes {
            let rounds = stop.rounds.entry(runtime).or_default();
            rounds.push(moved.contains(&runtime));
            let mut last_four = rounds.iter().rev().take(4);
            if rounds.len() >= 5 && last_four.all(|moved| !moved) {
                blocked.insert(runtime);
            }
        }
        if blocked.is_empty() {
            assert_eq!(looks, Looks::GoOn);
        } else {
            assert_eq!(looks, Looks::Blocked(blocked.clone()));
            self.give_up(&blocked);
        }
    }

    pub(super) fn give_up(&mut self, runtimes: &BTreeSet<RuntimeKey>) {
        let (mut effects, now) = (Outcome::default(), self.now);
        let mut given_up = self.known();
        given_up.retain(|id| runtimes.contains(&self.known_listeners[id].runtime));
        let rows = given_up.iter().map(|id| {
            self.tables
                .get_mut(id)
                .expect("the listener has a table")
                .abandon()
                .len()
        });
        let stuck = rows.sum();
        let listeners = self.machine.give_up(runtimes, stuck, now, &mut effects);
        assert_eq!(listeners.into_keys().collect::<Vec<_>>(), given_up);

        let children = std::mem::take(&mut self.children);
        let of_these = |id: &ChildId| given_up.contains(&id.listener());
        let (gone, left): (BTreeMap<_, _>, _) =
            children.into_iter().partition(|(id, _)| of_these(id));
        assert_eq!(stuck, gone.len());
        self.children = left;
        self.ended.extend(gone.into_keys());
        for listener in given_up {
            let known_listener = self.known_listener(listener);
            (
                known_listener.forgotten,
                known_listener.owed,
                known_listener.outage,
            ) = (true, 0, None);
        }
        self.known_stop().stuck += stuck;
        let mut expected = Expected::default();
        self.advance(&mut expected);
        self.compare(effects, expected);
    }
}
