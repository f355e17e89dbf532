//! Starts and ends of children.

use super::*;
use crate::machine::supervisor::tests::ends::Spacing;
use crate::machine::supervisor::tests::model::{Outage, delay};
use crate::machine::table::{Became, Next, Waits};

impl World {
    /// A new child has a row.
    pub(super) fn begins(
        &mut self,
        listener: ListenerId,
        state: AcceptorState,
        started_by: StartedBy,
        spaced: u32,
    ) -> ChildId {
        let now = self.now;
        let known_listener = self.known_listener(listener);
        known_listener.numbers += 1;
        let number = known_listener.numbers;
        let (mut found, mut from) = (None, Some(0));
        while let Some(cursor) = from {
            from = self.table(listener).visit(cursor, 100, |id, _, _| {
                if id.number == number {
                    found = Some(id);
                }
            });
        }
        let generation = self.known_listeners[&listener].generation;
        let id = found.expect("the child has a row, and the next number of its listener");
        assert_eq!(id.listener(), listener);
        let known = Known {
            control: Child::new(number),
            state: Some(state),
            since: now,
            reported: false,
            started_by,
            spaced,
            looks: Vec::new(),
            generation,
            replaced: false,
        };
        assert!(self.children.insert(id, known).is_none());
        id
    }

    /// The accept loop starts acceptors.
    pub(super) fn starts(&mut self, listener: ListenerId, limit: usize) {
        let now = self.now;
        let starts = self.table(listener).take_starts(limit, now);
        let known_listener = self.known_listeners[&listener].clone();
        let mut expected = Vec::new();
        // During an outage, one at a time (B4).
        let limit = match known_listener.outage {
            None => limit,
            Some(Outage { probe: None, .. }) => limit.min(1),
            Some(_) => 0,
        };
        if known_listener.is_open() {
            let mut spaced = self.spaced_by(listener, StartedBy::AcceptLoop);
            if known_listener.outage.is_none() {
                spaced.extend(self.spaced_by(listener, StartedBy::AcceptLoopLater));
            }
            for id in spaced.into_iter().take(limit) {
                self.begins_init(id);
                expected.push(id);
            }
            let owed = known_listener.owed.min(limit - expected.len());
            self.known_listener(listener).owed -= owed;
            for _ in 0..owed {
                let (spaced, by) = (AcceptorState::Spaced, StartedBy::AcceptLoop);
                let id = self.begins(listener, spaced, by, 0);
                self.begins_init(id);
                expected.push(id);
            }
            if let (Some(outage), Some(start)) =
                (&mut self.known_listener(listener).outage, expected.last())
            {
                outage.probe = Some(*start);
            }
        }
        assert_eq!(starts, expected);
    }

    /// A spaced acceptor starts, with the current acceptor of the pool.
    fn begins_init(&mut self, id: ChildId) {
        let generation = self.known_listeners[&id.listener()].generation;
        let known = self.children.get_mut(&id).expect("the child exists");
        known.state = Some(AcceptorState::Init);
        known.generation = generation;
    }

    pub(super) fn lists(&mut self, listener: ListenerId, limit: usize) {
        if !self.table(listener).is_owed() {
            return;
        }
        let now = self.now;
        self.table(listener).give_rows(limit, now);
        let owed = self.known_listeners[&listener].owed.min(limit);
        self.known_listener(listener).owed -= owed;
        for _ in 0..owed {
            let (spaced, by) = (AcceptorState::Spaced, StartedBy::AcceptLoop);
            self.begins(listener, spaced, by, 0);
        }
    }

    pub(super) fn waits(&mut self, id: ChildId) {
        let listener = id.listener();
        let waits = self.table(listener).waits(id);
        let expected = match self.children[&id].replaced {
            true => Waits::Yes,
            false => self.release(listener),
        };
        assert_eq!(waits, expected);
        self.set_state(id, AcceptorState::Waiting);
    }

    /// An acceptor has its state: the held acceptors follow.
    fn release(&mut self, listener: ListenerId) -> Waits {
        let mut held = self.spaced_by(listener, StartedBy::AcceptLoopLater);
        held.extend(self.spaced_by(listener, StartedBy::AcceptLoop));
        let known_listener = self.known_listener(listener);
        match known_listener.outage.take() {
            Some(_) if !held.is_empty() || known_listener.owed > 0 => Waits::Releases,
            _ => Waits::Yes,
        }
    }

    pub(super) fn dismissed(&mut self, id: ChildId) {
        self.table(id.listener()).terminates(id);
        self.set_state(id, AcceptorState::Terminating);
    }

    pub(super) fn became(&mut self, id: ChildId, ready: bool) {
        let (listener, now) = (id.listener(), self.now);
        let number = self.table(listener).reserve_number();
        // A next acceptor that has its state may be as old as the one before it.
        let generation = match ready {
            true => self.children[&id].generation,
            false => self.known_listeners[&listener].generation,
        };
        let next = Next {
            number,
            generation,
            ready: if ready { Ready::Yes } else { Ready::No },
        };
        let became =
            self.table(listener)
                .became(id, ConnectionState::Serving, Self::peer(), now, next);
        if self.known_listeners[&listener].killed {
            assert_eq!(became, Became::Gone);
            self.known_listener(listener).numbers += 1;
            return;
        }
        if self.children[&id].replaced {
            if !ready {
                assert_eq!(became, Became::Replaced(None));
                self.known_listener(listener).numbers += 1;
                return;
            }
            let (waiting, by) = (AcceptorState::Waiting, StartedBy::AcceptLoop);
            let child = self.begins(listener, waiting, by, 0);
            let known = self
                .children
                .get_mut(&child)
                .expect("the child has just begun");
            (known.generation, known.replaced) = (generation, true);
            assert_eq!(became, Became::Replaced(Some(child)));
            return;
        }
        let reported = self.rules.connection_reports == ConnectionReports::All;
        let known = self.children.get_mut(&id).expect("it waits");
        (known.state, known.since, known.reported) = (None, now, reported);
        let control = known.control;
        self.known_listener(listener).accepted += 1;
        if !self.known_listeners[&listener].is_open() {
            assert_eq!(became, Became::ServesLast(control));
            self.known_listener(listener).numbers += 1;
            return;
        }
        let outage = self.known_listeners[&listener].outage.is_some();
        let (child, delay) = if ready {
            let (waiting, by) = (AcceptorState::Waiting, StartedBy::AcceptLoop);
            let child = self.begins(listener, waiting, by, 0);
            let known = self
                .children
                .get_mut(&child)
                .expect("the child has just begun");
            known.generation = generation;
            (child, None)
        } else if outage {
            self.retries(listener)
        } else {
            let (init, by) = (AcceptorState::Init, StartedBy::AcceptLoop);
            (self.begins(listener, init, by, 0), None)
        };
        let replacement = match delay {
            Some(delay) => {
                self.spaced.push((now + delay, child));
                Replacement::Later(child, delay)
            }
            None if ready => Replacement::Waits(child, self.release(listener)),
            None if outage => Replacement::None,
            None => Replacement::Init(child),
        };
        assert_eq!(became, Became::Serves(control, replacement));
    }

    /// During an outage: the next retry with its delay, or a held acceptor.
    pub(super) fn retries(&mut self, listener: ListenerId) -> (ChildId, Option<Duration>) {
        let outage = self.known_listeners[&listener]
            .outage
            .expect("the listener has an outage");
        if outage.probe.is_some() {
            let held = (AcceptorState::Spaced, StartedBy::AcceptLoopLater);
            return (self.begins(listener, held.0, held.1, 0), None);
        }
        let probe = self.begins(listener, AcceptorState::Spaced, StartedBy::Driver, 0);
        self.known_listener(listener).outage = Some(Outage {
            retries: outage.retries + 1,
            probe: Some(probe),
        });
        (probe, Some(delay(outage.retries)))
    }

    pub(super) fn ends(&mut self, id: ChildId, how: How) {
        let listener = id.listener();
        let known = self.children.remove(&id).expect("the child exists");
        self.ended.push(id);
        // As the pool does: most ends have no effect on the machine.
        if let How::Normal | How::Clean = how {
            let closed = self.known_listeners[&listener].socket == SocketState::Closed;
            let left = self.table(listener).left(id);
            assert_eq!(
                left.is_some(),
                self.stop.is_none() && !known.reported && !closed
            );
            if left.is_some() {
                return;
            }
        }
        if let Some(outage) = &mut self.known_listener(listener).outage {
            outage.probe = outage.probe.filter(|probe| *probe != id);
        }
        let mut effects = Outcome::default();
        let (machine, now) = (&mut self.machine, self.now);
        let table = self
            .tables
            .get_mut(&listener)
            .expect("the listener has a table");
        machine.ended(table, id, how.end(), now, &mut effects);

        let mut expected = Expected {
            gone: Some(id),
            ..Expected::default()
        };
        let role = known.role();
        self.count(id.listener(), role, how.kind(), 1);
        let phase = self.stop.as_ref().map(|stop| stop.phase);
        if let (Some(phase @ (Phase::Stop | Phase::Kill)), Role::Connection) = (phase, role) {
            expected.late = Some((id, how.kind(), phase, self.now - known.since));
        }
        let report = self.report_of(id, &known, how);
        let asked = known.reported || self.rules.connection_reports != ConnectionReports::Failures;
        match report {
            Some(Reported::Disconnected(..) | Reported::HandshakeFailed(..)) if !asked => {
                expected.debug = report;
            }
            report => expected.reports.extend(report),
        }
        let mut survives = true;
        if how.counts(self.rules.restart) && self.stop.is_none() && self.fails() {
            self.begin_stop(StopReason::Intensity, &mut expected);
            self.advance(&mut expected);
            let phase = self.stop.as_ref().map(|stop| stop.phase);
            survives = phase == Some(Phase::LameDuck);
        }
        survives &= !known.replaced;
        let closing = matches!(
            self.known_listeners[&listener].socket,
            SocketState::Closing(_)
        );
        if role == Role::Acceptor
            && survives
            && self.known_listeners[&listener].is_open()
            && self.accepts()
        {
            self.replaced(listener, &known, how, &mut expected);
        } else if role == Role::Acceptor && closing {
            expected.fewer = Some(listener);
        }
        self.advance(&mut expected);
        self.compare(effects, expected);
    }

    pub(super) fn report_of(&self, id: ChildId, known: &Known, how: How) -> Option<Reported> {
        let age = self.now - known.since;
        let phase = self.stop.as_ref().map(|stop| stop.phase);
        let by_the_stop = how == How::Killed && phase == Some(Phase::Kill);
        match (how.word().filter(|_| !by_the_stop), known.role()) {
            _ if how == How::Disconnected => Some(Reported::Disconnected(id, age)),
            _ if how == How::HandshakeFailed => Some(Reported::HandshakeFailed(id, age)),
            (Some(word), Role::Connection) => Some(Reported::ConnectionFailed(id, word, age)),
            (Some(word), _) if how.is_start_error() => Some(Reported::StartError(id, word)),
            (Some(word), _) => Some(Reported::AcceptorFailed(id, word)),
            (None, Role::Connection) if known.reported => {
                Some(Reported::ConnectionEnded(id, how.kind(), age))
            }
            (None, _) => None,
        }
    }

    /// Counts a failure; returns whether it exceeds the intensity.
    pub(super) fn fails(&mut self) -> bool {
        let (now, rules) = (self.now, self.rules);
        self.failures.retain(|at| now - *at <= rules.period);
        self.failures.push(now);
        // Only as many are kept as suffice to stop the pool.
        let enough = rules.intensity as usize + 1;
        let exceeded = self.failures.len() >= enough;
        if exceeded {
            self.failures.drain(..self.failures.len() - enough);
        }
        exceeded
    }

    /// Whether acceptors are replaced.
    pub(super) fn accepts(&self) -> bool {
        match &self.stop {
            None => true,
            Some(stop) => match stop.phase {
                Phase::LameDuck => true,
                Phase::Grace => stop.queued() == Queued::Accepted,
                Phase::Stop | Phase::Kill => false,
            },
        }
    }

    pub(super) fn replaced(
        &mut self,
        listener: ListenerId,
        known: &Known,
        how: How,
        expected: &mut Expected,
    ) {
        let known_listener = self.known_listener(listener);
        if how.spacing() == Spacing::Outage && known_listener.outage.is_none() {
            known_listener.outage = Some(Outage {
                retries: 0,
                probe: None,
            });
        }
        let later = if known_listener.outage.is_some() {
            let (child, delay) = self.retries(listener);
            delay.map(|delay| (child, delay))
        } else {
            let (wait, spaced) = match how.spacing() {
                Spacing::None | Spacing::Outage => (Duration::ZERO, 0),
                Spacing::Repeats | Spacing::Lost => (delay(known.spaced), known.spaced + 1),
            };
            if wait.is_zero() && how.spacing() != Spacing::Lost {
                let (init, by) = (AcceptorState::Init, StartedBy::AcceptLoop);
                let child = self.begins(listener, init, by, spaced);
                expected.start = Some((listener, child));
                return;
            }
            let (state, by) = (AcceptorState::Spaced, StartedBy::Driver);
            Some((self.begins(listener, state, by, spaced), wait))
        };
        if let Some((child, delay)) = later {
            expected.start_later = Some((listener, child, delay));
            expected.wakes_driver = true;
            self.spaced.push((self.now + delay, child));
        }
    }

    pub(super) fn ends_again(&mut self, id: ChildId, how: How) {
        let (mut effects, now) = (Outcome::default(), self.now);
        let table = self
            .tables
            .get_mut(&id.listener())
            .expect("the listener has a table");
        self.machine.ended(table, id, how.end(), now, &mut effects);
        assert!(table.left(id).is_none());
        let expected = Expected {
            unseen: true,
            ..Expected::default()
        };
        self.compare(effects, expected);
    }

    pub(super) fn comes_late(&mut self, id: ChildId) {
        let now = self.now;
        let next = Next {
            number: 0,
            generation: 0,
            ready: Ready::No,
        };
        let table = self.table(id.listener());
        let became = table.became(id, ConnectionState::Serving, Self::peer(), now, next);
        assert_eq!(became, Became::Gone);
        assert_eq!(table.waits(id), Waits::Gone);
        assert_eq!(table.terminates(id), None);
        assert!(!table.start(id) && table.begin(id).is_none());
        assert!(table.child(id).is_none());
    }

    pub(super) fn start_spaced(&mut self, child: ChildId) {
        let listener = child.listener();
        let starts = self.table(listener).start(child);
        let there = self.children.contains_key(&child);
        assert_eq!(starts, self.known_listeners[&listener].is_open() && there);
        if starts {
            self.begins_init(child);
        }
    }
}
