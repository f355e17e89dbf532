//! A bounded queue of the reports that wait for delivery, in order (O1, O2).
//!
//! Pure. Invariants: no class of reports exceeds its capacity; each report to the observer is
//! delivered, counted as lost, or counted as merged into another; a report of losses is delivered
//! in the position of the first lost report; events for `tracing` alone take no slot of a report,
//! and none of them is a loss.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::id::ListenerId;
use crate::report::{Event, Losses, Report};

/// The capacity for ordinary reports. The same number of reports of failed listeners may wait, and
/// of events for `tracing` alone.
const PLACES: usize = 1024;

/// The class of a report; each class has its own capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    Ordinary,
    /// Only `tracing` gets them.
    Traced,
    /// Dropped last: at most one for each listener.
    Listeners,
    /// At most one of each kind for a pool.
    OfItsOwn,
}

impl Places {
    fn of<A>(event: &Event<A>, audience: Audience) -> Self {
        if let Audience::Trace { .. } = audience {
            return Self::Traced;
        }
        match event {
            Event::StartError { .. }
            | Event::AcceptorFailed { .. }
            | Event::ConnectionFailed { .. }
            | Event::ConnectionBegan { .. }
            | Event::ConnectionEnded { .. }
            | Event::Disconnected { .. }
            | Event::HandshakeFailed { .. }
            | Event::AcceptPaused { .. } => Self::Ordinary,
            Event::ListenerFailed { .. } => Self::Listeners,
            Event::KilledWhileStopping { .. }
            | Event::Stuck { .. }
            | Event::PoolStopped { .. }
            | Event::ReportsLost { .. } => Self::OfItsOwn,
        }
    }
}

/// The receivers of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// The observer, and `tracing` as often as O3 allows.
    All,
    /// Only `tracing`, after this number of suppressed events of its kind.
    Trace { suppressed: u64 },
}

#[derive(Debug)]
pub(crate) struct Outbox<A> {
    reports: VecDeque<(Report<A>, Audience)>,
    /// The capacity of each class.
    places: usize,
    /// The number of the report at the front.
    front: u64,
    ordinary: usize,
    traced: usize,
    listeners: usize,
    /// The queued reports of pauses, by number.
    pauses: BTreeMap<ListenerId, u64>,
    /// The number of the last report of losses.
    losses: Option<u64>,
    lost: u64,
}

impl<A> Outbox<A> {
    pub(crate) fn new() -> Self {
        Self::with_places(PLACES)
    }

    fn with_places(places: usize) -> Self {
        Self {
            reports: VecDeque::new(),
            places,
            front: 0,
            ordinary: 0,
            traced: 0,
            listeners: 0,
            pauses: BTreeMap::new(),
            losses: None,
            lost: 0,
        }
    }

    /// Returns the number of reports dropped so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    fn waiting(&mut self, number: u64) -> Option<&mut Report<A>> {
        let index = usize::try_from(number.checked_sub(self.front)?).ok()?;
        self.reports.get_mut(index).map(|(report, _)| report)
    }

    /// Adds a report. Returns it if its class is full or it was merged into another.
    pub(crate) fn push(&mut self, report: Report<A>, audience: Audience) -> Option<Report<A>> {
        if let Event::AcceptPaused {
            listener,
            suppressed,
            ..
        } = &report.event
        {
            let more = suppressed.saturating_add(1);
            let number = self.pauses.get(listener).copied();
            if let Some(waiting) = number.and_then(|number| self.waiting(number)) {
                if let Event::AcceptPaused { suppressed, .. } = &mut waiting.event {
                    *suppressed = suppressed.saturating_add(more);
                }
                return Some(report);
            }
        }
        let taken = match Places::of(&report.event, audience) {
            Places::Ordinary => &mut self.ordinary,
            Places::Traced => &mut self.traced,
            Places::Listeners => &mut self.listeners,
            Places::OfItsOwn => {
                self.reports.push_back((report, audience));
                return None;
            }
        };
        if *taken == self.places {
            if audience == Audience::All {
                self.lose(&report);
            }
            return Some(report);
        }
        *taken += 1;
        if let Event::AcceptPaused { listener, .. } = &report.event {
            let number = self.front + self.reports.len() as u64;
            self.pauses.insert(*listener, number);
        }
        self.reports.push_back((report, audience));
        None
    }

    fn lose(&mut self, report: &Report<A>) {
        self.lost = self.lost.saturating_add(1);
        let kind = report.event.kind();
        let number = self.losses;
        if let Some(waiting) = number.and_then(|number| self.waiting(number)) {
            if let Event::ReportsLost { lost } = &mut waiting.event {
                lost.count(kind);
            }
            return;
        }
        let mut lost = Losses::default();
        lost.count(kind);
        self.losses = Some(self.front + self.reports.len() as u64);
        let report = Report {
            pool: Arc::clone(&report.pool),
            tag: None,
            event: Event::ReportsLost { lost },
        };
        self.reports.push_back((report, Audience::All));
    }

    pub(crate) fn pop(&mut self) -> Option<(Report<A>, Audience)> {
        let (report, audience) = self.reports.pop_front()?;
        self.front += 1;
        match Places::of(&report.event, audience) {
            Places::Ordinary => self.ordinary -= 1,
            Places::Traced => self.traced -= 1,
            Places::Listeners => self.listeners -= 1,
            Places::OfItsOwn => {}
        }
        if let Event::AcceptPaused { listener, .. } = &report.event {
            self.pauses.remove(listener);
        }
        if self.reports.is_empty() {
            // Releases the memory of a past burst.
            self.reports.shrink_to(64);
        }
        Some((report, audience))
    }

    /// Takes the queued reports of a pool that no longer delivers any, and counts them as lost.
    pub(crate) fn abandon(&mut self) -> VecDeque<(Report<A>, Audience)> {
        // The reports that a report of losses is about are counted already.
        let own = |(report, audience): &&(Report<A>, Audience)| {
            *audience == Audience::All && !matches!(report.event, Event::ReportsLost { .. })
        };
        let left = self.reports.iter().filter(own).count() as u64;
        let empty = Self {
            lost: self.lost.saturating_add(left),
            ..Self::with_places(self.places)
        };
        std::mem::replace(self, empty).reports
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::io;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::id::{ChildId, PoolId};
    use crate::report::{EventKind, Failure};
    use crate::stop_report::{EndKind, StopReason};

    /// Addresses are numbers.
    type Reports = Outbox<u8>;

    fn listener(sequence: u64) -> ListenerId {
        let pool = PoolId::ANY;
        ListenerId { sequence, pool }
    }

    /// An event of this kind; the pauses are of one of two listeners.
    fn event(kind: EventKind, of: u64) -> Event<u8> {
        let (on, child) = (listener(of % 2), ChildId::new(listener(of % 2), 1, 0));
        let (peer, local_addr, age) = (1, 2, Duration::ZERO);
        let error = || Arc::new(io::Error::from(io::ErrorKind::Other));
        let (failure, listener) = (Failure::Killed, on);
        match kind {
            EventKind::StartError => Event::StartError {
                listener,
                child,
                failure,
            },
            EventKind::AcceptorFailed => Event::AcceptorFailed {
                listener,
                child,
                failure,
            },
            EventKind::ConnectionFailed => Event::ConnectionFailed {
                listener,
                child,
                peer,
                transport: None,
                age,
                failure,
            },
            EventKind::ConnectionBegan => Event::ConnectionBegan {
                listener,
                child,
                peer,
                local_addr,
            },
            EventKind::ConnectionEnded => Event::ConnectionEnded {
                listener,
                child,
                peer,
                transport: None,
                age,
                kind: EndKind::Normal,
                reason: None,
            },
            EventKind::Disconnected => Event::Disconnected {
                listener,
                child,
                peer,
                transport: None,
                age,
                error: error(),
            },
            EventKind::HandshakeFailed => Event::HandshakeFailed {
                listener,
                child,
                peer,
                transport: None,
                age,
                cause: "tls",
                error: None,
            },
            EventKind::ListenerFailed => Event::ListenerFailed {
                listener,
                local_addr,
                listeners_left: 0,
                error: error(),
            },
            EventKind::AcceptPaused => Event::AcceptPaused {
                listener,
                local_addr,
                error: error(),
                pause: age,
                suppressed: of / 2,
            },
            EventKind::KilledWhileStopping => Event::KilledWhileStopping { count: 1 },
            EventKind::Stuck => Event::Stuck { count: 1 },
            EventKind::PoolStopped => Event::PoolStopped {
                reason: StopReason::Intensity,
            },
            EventKind::ReportsLost => unreachable!("only the outbox makes this event"),
        }
    }

    const ORDINARY: [EventKind; 8] = [
        EventKind::StartError,
        EventKind::AcceptorFailed,
        EventKind::ConnectionFailed,
        EventKind::ConnectionBegan,
        EventKind::ConnectionEnded,
        EventKind::Disconnected,
        EventKind::HandshakeFailed,
        EventKind::AcceptPaused,
    ];

    const TRACED: [EventKind; 2] = [EventKind::Disconnected, EventKind::HandshakeFailed];

    const ONCE: [EventKind; 3] = [
        EventKind::KilledWhileStopping,
        EventKind::Stuck,
        EventKind::PoolStopped,
    ];

    /// The parts of a report that matter here; its pool id is a unique number.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Seen {
        number: usize,
        kind: EventKind,
        audience: Audience,
        /// For a pause: its listener, and the number of suppressed pauses.
        paused: Option<(ListenerId, u64)>,
        lost: Losses,
    }

    fn seen((report, audience): &(Report<u8>, Audience)) -> Seen {
        Seen {
            audience: *audience,
            number: report.pool.parse().expect("the pool's id is a number"),
            kind: report.event.kind(),
            paused: match report.event {
                Event::AcceptPaused {
                    listener,
                    suppressed,
                    ..
                } => Some((listener, suppressed)),
                _ => None,
            },
            lost: match report.event {
                Event::ReportsLost { lost } => lost,
                _ => Losses::default(),
            },
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(EventKind, u64),
        /// An event for `tracing` only.
        Trace(EventKind),
        Pop,
        Abandon,
    }

    /// An outbox and a list, its model.
    struct Pair {
        outbox: Reports,
        places: usize,
        waiting: Vec<Seen>,
        pushed: usize,
        delivered: usize,
        merged: usize,
        lost: usize,
        /// Events for `tracing` only that were dropped.
        untraced: usize,
    }

    impl Pair {
        fn new(places: usize) -> Self {
            Self {
                outbox: Outbox::with_places(places),
                places,
                waiting: Vec::new(),
                pushed: 0,
                delivered: 0,
                merged: 0,
                lost: 0,
                untraced: 0,
            }
        }

        fn act(&mut self, act: &Act) {
            match act {
                Act::Push(kind, of) => self.push(*kind, *of),
                Act::Trace(kind) => self.trace(*kind),
                Act::Pop => {
                    let next = (!self.waiting.is_empty()).then(|| self.waiting.remove(0));
                    let own = |next: &Seen| next.kind != EventKind::ReportsLost;
                    self.delivered += usize::from(next.as_ref().is_some_and(own));
                    let popped = self.outbox.pop();
                    assert_eq!(popped.as_ref().map(seen), next);
                }
                Act::Abandon => {
                    let left: Vec<_> = self.outbox.abandon().iter().map(seen).collect();
                    let waiting = std::mem::take(&mut self.waiting);
                    assert_eq!(left, waiting);
                    let traced = traced(&waiting);
                    self.lost += own(&waiting) - traced;
                    self.untraced += traced;
                }
            }
            assert_eq!(self.outbox.is_empty(), self.waiting.is_empty());
            assert_eq!(self.outbox.lost(), self.lost as u64);
            let gone = self.delivered + self.merged + self.lost + self.untraced;
            let accounted = gone + own(&self.waiting);
            assert_eq!(accounted, self.pushed);
        }

        fn trace(&mut self, kind: EventKind) {
            self.pushed += 1;
            let report = Report {
                pool: Arc::from(self.pushed.to_string()),
                tag: None,
                event: event(kind, 0),
            };
            let audience = Audience::Trace { suppressed: 1 };
            let traced_event = (report, audience);
            let pushed = seen(&traced_event);
            let given_back = self.outbox.push(traced_event.0, audience);
            let given_back = given_back.map(|report| seen(&(report, audience)));
            if traced(&self.waiting) == self.places {
                self.untraced += 1;
                return assert_eq!(given_back, Some(pushed));
            }
            self.waiting.push(pushed);
            assert_eq!(given_back, None);
        }

        fn push(&mut self, kind: EventKind, of: u64) {
            self.pushed += 1;
            let report = Report {
                pool: Arc::from(self.pushed.to_string()),
                tag: None,
                event: event(kind, of),
            };
            let all = Audience::All;
            let reported = (report, all);
            let pushed = seen(&reported);
            let given_back = self.outbox.push(reported.0, all);
            let given_back = given_back.map(|report| seen(&(report, all)));
            let same = |waiting: &&mut Seen| match (waiting.paused, pushed.paused) {
                (Some((one, _)), Some((other, _))) => one == other,
                _ => false,
            };
            if let Some(waiting) = self.waiting.iter_mut().find(same) {
                let (waiting, (_, more)) = (waiting.paused.as_mut(), pushed.paused.unwrap());
                waiting.unwrap().1 += more + 1;
                self.merged += 1;
                return assert_eq!(given_back, Some(pushed));
            }
            let alike = |kinds: &[EventKind]| {
                let alike =
                    |seen: &&Seen| kinds.contains(&seen.kind) && seen.audience == Audience::All;
                kinds.contains(&kind) && self.waiting.iter().filter(alike).count() >= self.places
            };
            if !alike(&ORDINARY) && !alike(&[EventKind::ListenerFailed]) {
                self.waiting.push(pushed);
                return assert_eq!(given_back, None);
            }
            self.lost += 1;
            let losses = |seen: &&mut Seen| seen.kind == EventKind::ReportsLost;
            match self.waiting.iter_mut().find(losses) {
                Some(losses) => losses.lost.count(kind),
                None => {
                    let mut lost = Losses::default();
                    lost.count(kind);
                    self.waiting.push(Seen {
                        kind: EventKind::ReportsLost,
                        paused: None,
                        lost,
                        ..pushed
                    });
                }
            }
            assert_eq!(given_back, Some(pushed));
        }
    }

    /// The number of events for `tracing` only.
    fn traced(waiting: &[Seen]) -> usize {
        let traced = |seen: &&Seen| seen.audience != Audience::All;
        waiting.iter().filter(traced).count()
    }

    /// The number of reports that were pushed.
    fn own(waiting: &[Seen]) -> usize {
        let own = |seen: &&Seen| seen.kind != EventKind::ReportsLost;
        waiting.iter().filter(own).count()
    }

    fn any_kind() -> impl Strategy<Value = EventKind> {
        prop_oneof![
            6 => proptest::sample::select(ORDINARY.as_slice()),
            2 => Just(EventKind::AcceptPaused),
            3 => Just(EventKind::ListenerFailed),
            1 => proptest::sample::select(ONCE.as_slice()),
        ]
    }

    fn any_act() -> impl Strategy<Value = Act> {
        prop_oneof![
            30 => (any_kind(), 0..8_u64).prop_map(|(kind, of)| Act::Push(kind, of)),
            5 => proptest::sample::select(TRACED.as_slice()).prop_map(Act::Trace),
            20 => Just(Act::Pop),
            1 => Just(Act::Abandon),
        ]
    }

    proptest! {
        /// Against a list, searched linearly.
        #[test]
        fn outbox_is_a_bounded_list(
            places in 1..6_usize,
            acts in proptest::collection::vec(any_act(), 0..200),
        ) {
            let mut pair = Pair::new(places);
            acts.iter().for_each(|act| pair.act(act));
            while !pair.waiting.is_empty() {
                pair.act(&Act::Pop);
            }
        }
    }

    /// Every sequence of six acts, with room for one report of each class.
    #[test]
    fn every_sequence_matches_a_list() {
        let acts = [
            Act::Push(EventKind::StartError, 0),
            Act::Push(EventKind::AcceptPaused, 2),
            Act::Push(EventKind::AcceptPaused, 5),
            Act::Push(EventKind::ListenerFailed, 0),
            Act::Push(EventKind::Stuck, 0),
            Act::Pop,
            Act::Abandon,
        ];
        let all = acts.len().pow(6);
        for number in 0..all {
            let mut pair = Pair::new(1);
            let mut rest = number;
            for _ in 0..6 {
                pair.act(&acts[rest % acts.len()]);
                rest /= acts.len();
            }
        }
    }

    fn push(outbox: &mut Reports, kind: EventKind, count: usize) {
        for number in 0..count {
            outbox.push(
                Report {
                    pool: Arc::from(number.to_string()),
                    tag: None,
                    event: event(kind, 0),
                },
                Audience::All,
            );
        }
    }

    /// The deliveries of an outbox: kinds, with the length of each run, and losses.
    fn delivered(outbox: &mut Reports) -> Vec<(EventKind, usize, u64)> {
        let mut runs: Vec<(EventKind, usize, u64)> = Vec::new();
        while let Some(report) = outbox.pop() {
            let Seen { kind, lost, .. } = seen(&report);
            match runs.last_mut() {
                Some(run) if run.0 == kind => run.1 += 1,
                _ => runs.push((kind, 1, lost.total())),
            }
        }
        runs
    }

    #[test]
    fn each_report_class_is_limited_to_1024() {
        use EventKind::{ConnectionEnded, ListenerFailed, PoolStopped, ReportsLost};
        let mut outbox = Outbox::new();
        push(&mut outbox, ConnectionEnded, 1030);
        push(&mut outbox, ListenerFailed, 1025);
        for kind in ONCE {
            push(&mut outbox, kind, 1);
        }
        assert_eq!(outbox.lost(), 7);
        let mut expected = vec![
            (ConnectionEnded, 1024, 0),
            // At the position of the first lost report.
            (ReportsLost, 1, 7),
            (ListenerFailed, 1024, 0),
        ];
        expected.extend(ONCE.map(|kind| (kind, 1, 0)));
        assert_eq!(delivered(&mut outbox), expected);
        push(&mut outbox, PoolStopped, 1);
        assert_eq!(delivered(&mut outbox), [(PoolStopped, 1, 0)]);
    }

    #[test]
    fn losses_after_delivery_are_separate() {
        use EventKind::{ReportsLost, StartError};
        let mut outbox = Outbox::with_places(2);
        push(&mut outbox, StartError, 3);
        outbox.pop();
        push(&mut outbox, StartError, 2);
        let expected = [(StartError, 1, 0), (ReportsLost, 1, 2), (StartError, 1, 0)];
        assert_eq!(delivered(&mut outbox), expected);
        push(&mut outbox, StartError, 3);
        let expected = [(StartError, 2, 0), (ReportsLost, 1, 1)];
        assert_eq!(delivered(&mut outbox), expected);
    }

    #[test]
    fn burst_memory_is_released() {
        let mut outbox = Outbox::new();
        push(&mut outbox, EventKind::StartError, 1023);
        push(&mut outbox, EventKind::AcceptPaused, 1);
        assert_eq!(outbox.pauses.len(), 1);
        delivered(&mut outbox);
        assert!(outbox.reports.capacity() <= 64);
        assert!(outbox.pauses.is_empty());
    }
}
