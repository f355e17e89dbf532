//! The comparison after each act.

use super::*;
use crate::machine::effects::Order;
use crate::machine::row::Tally;

impl World {
    /// Compares all effects, then applies the orders as the pool does before it releases its lock.
    pub(super) fn compare(&mut self, effects: Outcome, expected: Expected) {
        let reports: Vec<_> = effects.reports.iter().map(reported).collect();
        assert_eq!(reports, expected.reports);
        let debug = effects.debug.as_ref().map(|(event, at)| {
            assert_eq!(*at, self.now);
            reported(event)
        });
        assert_eq!(debug, expected.debug);
        let late = effects.late.iter().map(|(began, late)| {
            assert_eq!(self.now - *began, late.age);
            let kind = late.kind.expect("the connection has ended");
            (late.id, kind, late.phase, late.age)
        });
        assert!(late.eq(expected.late));
        assert_eq!(effects.orders, expected.orders);
        assert_eq!(effects.close, expected.close);
        assert_eq!(effects.start, expected.start);
        assert_eq!(effects.start_later, expected.start_later);
        assert_eq!(effects.fewer, expected.fewer);
        assert_eq!(effects.finished.as_deref(), expected.finished.as_ref());
        assert_eq!(effects.driver == Driver::Wakes, expected.wakes_driver);
        assert_eq!(
            effects.gone.map(|row| row.number),
            expected.gone.map(|id| id.number)
        );
        assert_eq!(effects.unseen.is_some(), expected.unseen);
        if let Some(moment) = self.history.last_mut() {
            moment.reports.extend(reports);
            moment.results += usize::from(effects.finished.is_some());
        }
        for order in effects.orders {
            for (id, _) in self.machine.listeners() {
                let table = self.tables.get_mut(&id).expect("the listener has a table");
                let known_listener = self
                    .known_listeners
                    .get_mut(&id)
                    .expect("the listener is known");
                match order {
                    Order::BeginStop => table.begin_stop(),
                    Order::Kill => {
                        table.kill();
                        known_listener.killed = true;
                    }
                    Order::CloseListeners(_) | Order::Stop => {}
                }
            }
        }
    }

    /// The tables, the counts and the lists are those of the model.
    pub(super) fn check(&mut self) {
        let mut rows = BTreeMap::new();
        for table in self.tables.values_mut() {
            let mut from = Some(0);
            while let Some(cursor) = from {
                from = table.visit(cursor, 3, |id, row, control| {
                    let row_is = (control(), row.acceptor_state(), row.since);
                    assert!(rows.insert(id, row_is).is_none(), "{id:?} twice");
                });
            }
        }
        let expected = self.children.iter();
        let expected = expected.map(|(id, known)| (*id, (known.control, known.state, known.since)));
        assert_eq!(rows, expected.collect::<BTreeMap<_, _>>());
        for (id, known) in &self.children {
            let found = self.tables[&id.listener()].child(*id);
            let found = found.map(|(row, control)| (control, row.acceptor_state()));
            assert_eq!(found, Some((known.control, known.state)));
        }
        for (id, known_listener) in &self.known_listeners {
            self.check_listener(*id, known_listener);
        }
        let known: Vec<_> = self.machine.listeners().map(|(id, _)| id).collect();
        assert_eq!(known, self.known());
        for id in &known {
            let listening = self.machine.listener(*id).expect("the listener is listed");
            assert_eq!(listening.socket, self.known_listeners[id].socket);
        }
        let mut after = Vec::new();
        while let Some((id, _)) = self.machine.listener_after(after.last().copied()) {
            after.push(id);
        }
        assert_eq!(after, known);
        self.check_stop();
        let period = self.rules.period;
        let recent = |at: &&Instant| self.now - **at <= period;
        let recent = self.failures.iter().filter(recent).count();
        assert_eq!(self.machine.failures(self.now), recent);
    }

    pub(super) fn check_listener(&self, id: ListenerId, known_listener: &KnownListener) {
        let table = &self.tables[&id];
        let count = |state: Option<AcceptorState>| {
            let these = self.children.iter();
            let these =
                these.filter(|(child, known)| child.listener() == id && known.state == state);
            these.count()
        };
        let of = |state| count(Some(state));
        let tally = Tally {
            serving: count(None),
            handshaking: 0,
            guarded: 0,
            waiting: of(AcceptorState::Waiting),
            spaced: of(AcceptorState::Spaced) + known_listener.owed,
            init: of(AcceptorState::Init),
            terminating: of(AcceptorState::Terminating),
        };
        assert_eq!(table.tally(), tally);
        assert_eq!(
            table.signals().outage.get(),
            known_listener.outage.is_some()
        );
        assert_eq!(table.accepted(), known_listener.accepted);
        assert_eq!(
            table.is_owed(),
            known_listener.owed > 0 && known_listener.is_open()
        );
        if !known_listener.forgotten {
            assert_eq!(table.is_open(), known_listener.is_open());
            let over = known_listener.socket == SocketState::Closed && !self.has_children(id);
            assert_eq!(table.is_over(), over);
        }
        let replaced = self.which(|known| known.replaced);
        let replaced = replaced.iter().filter(|child| child.listener() == id);
        let acceptors = tally.acceptors() - replaced.count();
        assert!(acceptors <= known_listener.acceptors);
        // While a stop drains, the acceptor whose failure began it is missing.
        let stop = self.stop.as_ref();
        if known_listener.is_open() && stop.is_none_or(|stop| stop.phase == Phase::LameDuck) {
            assert_eq!(acceptors, known_listener.acceptors);
        }
    }

    pub(super) fn check_stop(&self) {
        let state = match &self.stop {
            None => PoolState::Running,
            Some(stop) if stop.finished => PoolState::Stopped,
            Some(stop) => PoolState::Stopping(stop.phase),
        };
        assert_eq!(self.machine.state(), state);
        let deadline = self.stop.as_ref().and_then(KnownStop::deadline);
        assert_eq!(self.machine.deadline(), deadline);
        if let PoolState::Stopped = state {
            assert_eq!((self.children.len(), self.sockets()), (0, 0));
        }
        let due = state == PoolState::Stopping(Phase::Kill) && deadline <= Some(self.now);
        assert_eq!(self.machine.look_is_due(self.now), due);
        if state != PoolState::Stopping(Phase::Kill) {
            assert!(
                deadline.is_none_or(|at| at > self.now),
                "the deadline has passed"
            );
        }
    }
}
