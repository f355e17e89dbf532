//! The reports that the model expects. Their number is bounded, and they come in the order of their causes: each is delivered,
//! merged with another, or counted as lost (O1, O2).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildId, Event as Reported, EventKind, Failure, ListenerId, Report, Transport,
};

use super::{Check, Key, Model, Violation, same, violation};
use crate::event::Event;

/// At most this many ordinary reports are queued, and as many reports of failed listeners.
const PLACES: usize = 1024;

/// The state of the task that delivers reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reporter {
    #[default]
    Runs,
    /// It is not polled, as if an observer did not return.
    Held,
    /// The runtime has dropped it.
    Gone,
}

/// Reports that are not delivered yet.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Waiting>,
    ordinary: usize,
    listeners: usize,
    /// Reports without a slot.
    lost: u64,
    pub(super) reporter: Reporter,
    /// A report was delivered without that task, which happens only once the pool has ended.
    pub(super) ended: bool,
    /// The result was given: no report is delivered after it.
    pub(super) closed: bool,
}

struct Waiting {
    expected: Expected,
    /// The generation of the spec at the time of the cause.
    generation: u32,
}

/// A report that must come, in a form that can be compared with a report that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    kind: EventKind,
    child: Option<Key>,
    listener: Option<ListenerId>,
    /// The rest, as text.
    details: String,
    /// How many children, or how many pauses without a report.
    count: u64,
    /// The lost reports, by kind.
    losses: BTreeMap<EventKind, u64>,
}

impl Expected {
    pub(super) fn new(kind: EventKind, details: String) -> Self {
        Self {
            kind,
            child: None,
            listener: None,
            details,
            count: 0,
            losses: BTreeMap::new(),
        }
    }

    pub(super) fn of_child(kind: EventKind, child: Key, details: String) -> Self {
        Self {
            child: Some(child),
            ..Self::new(kind, details)
        }
    }

    pub(super) fn of_listener(kind: EventKind, listener: ListenerId, details: String) -> Self {
        Self {
            listener: Some(listener),
            ..Self::new(kind, details)
        }
    }

    pub(super) fn count(self, count: u64) -> Self {
        Self { count, ..self }
    }
}

/// The details of a connection that has ended. `transport` is the accepted address of the peer, if a handshake has replaced it.
pub(super) fn ended(
    peer: &SocketAddr,
    transport: Option<SocketAddr>,
    age: Duration,
    how: impl fmt::Display,
) -> String {
    format!("{peer}, accepted from {transport:?}, {age:?} old: {how}")
}

/// The details of a failure.
pub(super) fn failure_details(failure: &Failure) -> String {
    match failure {
        Failure::Error(error) => format!("error: {error}"),
        Failure::Panic(message) => format!("panic: {message}"),
        Failure::Killed => "killed".to_owned(),
        Failure::Lost => "lost".to_owned(),
        other => format!("{other:?}"),
    }
}

/// The role in which a child ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// An acceptor whose `init` failed.
    StartError,
    Acceptor,
    Connection,
}

impl Outbox {
    /// The number of reports that share slots with reports of this kind; `None` if they have their own slots.
    fn slots(&mut self, kind: EventKind) -> Option<&mut usize> {
        match kind {
            EventKind::ListenerFailed => Some(&mut self.listeners),
            EventKind::KilledWhileStopping
            | EventKind::Stuck
            | EventKind::PoolStopped
            | EventKind::ReportsLost => None,
            _ => Some(&mut self.ordinary),
        }
    }

    fn push(&mut self, expected: Expected, generation: u32) {
        let kind = expected.kind;
        if kind == EventKind::AcceptPaused {
            let mut waiting = self.waiting.iter_mut().map(|waiting| &mut waiting.expected);
            let same =
                |other: &&mut Expected| other.kind == kind && other.listener == expected.listener;
            if let Some(merged) = waiting.find(same) {
                merged.count += expected.count + 1;
                return;
            }
        }
        match self.slots(kind) {
            Some(taken) if *taken == PLACES => return self.lose(kind, generation),
            Some(taken) => *taken += 1,
            None => {}
        }
        self.waiting.push_back(Waiting {
            expected,
            generation,
        });
    }

    fn lose(&mut self, kind: EventKind, generation: u32) {
        self.lost += 1;
        let mut waiting = self.waiting.iter_mut().map(|waiting| &mut waiting.expected);
        if let Some(losses) = waiting.find(|other| other.kind == EventKind::ReportsLost) {
            *losses.losses.entry(kind).or_default() += 1;
            return;
        }
        let mut expected = Expected::new(EventKind::ReportsLost, String::new());
        expected.losses.insert(kind, 1);
        self.waiting.push_back(Waiting {
            expected,
            generation,
        });
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        if let Some(taken) = self.slots(waiting.expected.kind) {
            *taken -= 1;
        }
        Some(waiting)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many reports no observer gets, if no more are delivered.
    pub(super) fn undelivered(&self) -> u64 {
        let own = |waiting: &&Waiting| waiting.expected.kind != EventKind::ReportsLost;
        self.lost + self.waiting.iter().filter(own).count() as u64
    }
}

impl Model {
    /// Expects a report.
    pub(super) fn reports(&mut self, expected: Expected) {
        self.wakes.reporter += 1;
        self.may_block();
        self.outbox.push(expected, self.generation);
    }

    /// The task that delivers reports is dropped, held, or polled again.
    pub(crate) fn reporter_is(&mut self, reporter: Reporter) {
        if self.outbox.reporter != Reporter::Gone {
            self.outbox.reporter = reporter;
        }
    }

    /// A report was delivered, and its observer may call the pool.
    pub(super) fn delivery_begins(&mut self) {
        self.outbox.ended |= self.outbox.reporter == Reporter::Gone;
    }

    pub(crate) fn reporter(&self) -> Reporter {
        self.outbox.reporter
    }

    /// Sees the reports among these events, after everything else that followed from the same poll.
    pub(crate) fn see_reports(&mut self, events: &[Event]) -> Check {
        let mut count = 0;
        for event in events {
            if let Event::Reported { report, observer } = event {
                count += 1;
                self.reported(report, *observer)?;
            }
        }
        // Many reports are delivered in parts, so that other tasks run in between.
        self.wakes.reporter += count / 32;
        Ok(())
    }

    fn reported(&mut self, report: &Report<SocketAddr>, observer: u32) -> Check {
        if self.outbox.closed {
            return violation("O2", "no report after the result", report.to_string());
        }
        let generation = self.generation;
        same("R1", "generation of the observer", generation, observer)?;
        let Some(waiting) = self.outbox.pop() else {
            return violation("E1", "no report", report.to_string());
        };
        let pool = format!("g{}", waiting.generation);
        same("R1", "the pool of a report", pool.as_str(), &*report.pool)?;
        if self.as_expected(&report.event)? != Some(waiting.expected.clone()) {
            let expected = format!("a report: {:?}", waiting.expected);
            return violation("E1", expected, report.to_string());
        }
        is_clean(&report.to_string())
    }

    /// No task is ready: all reports were delivered, if there is a task that delivers them.
    pub(super) fn reports_have_come(&self) -> Check {
        match self.outbox.waiting.front() {
            Some(waiting) if self.outbox.reporter == Reporter::Runs && !self.outbox.closed => {
                let expected = format!("a report: {:?}", waiting.expected);
                violation("E1", expected, "none")
            }
            _ => Ok(()),
        }
    }

    /// The report in the form of an expected one; `None` if the ids in it contradict each other.
    fn as_expected(&self, event: &Reported<SocketAddr>) -> Result<Option<Expected>, Violation> {
        use Reported::{
            AcceptPaused, AcceptorFailed, ConnectionBegan, ConnectionEnded, ConnectionFailed,
            Disconnected, HandshakeFailed, KilledWhileStopping, ListenerFailed, PoolStopped,
            ReportsLost, StartError, Stuck,
        };
        let accepted = |transport: &Option<Box<Transport<SocketAddr>>>| {
            transport.as_ref().map(|transport| transport.peer_addr)
        };
        let details = match event {
            StartError { failure, .. } | AcceptorFailed { failure, .. } => failure_details(failure),
            ConnectionFailed {
                peer,
                transport,
                age,
                failure,
                ..
            } => ended(peer, accepted(transport), *age, failure_details(failure)),
            Disconnected {
                peer,
                transport,
                age,
                error,
                ..
            } => ended(peer, accepted(transport), *age, error),
            HandshakeFailed {
                peer,
                transport,
                age,
                cause,
                error,
                ..
            } => {
                let error = error.as_ref().map(|error| format!(": {error}"));
                let how = format!("{cause}{}", error.unwrap_or_default());
                ended(peer, accepted(transport), *age, how)
            }
            ConnectionEnded {
                peer,
                transport,
                age,
                kind,
                ..
            } => ended(peer, accepted(transport), *age, kind),
            ConnectionBegan {
                peer, local_addr, ..
            } => format!("{peer} to {local_addr}"),
            ListenerFailed {
                local_addr,
                error,
                listeners_left,
                ..
            } => format!("{local_addr}: {error}, {listeners_left} left"),
            AcceptPaused {
                local_addr,
                error,
                pause,
                ..
            } => format!("{local_addr}: {error}, {pause:?}"),
            PoolStopped { reason, .. } => reason.to_string(),
            _ => String::new(),
        };
        let mut expected = Expected::new(event.kind(), details);
        match event {
            StartError { child, .. }
            | AcceptorFailed { child, .. }
            | ConnectionFailed { child, .. }
            | ConnectionBegan { child, .. }
            | ConnectionEnded { child, .. }
            | Disconnected { child, .. }
            | HandshakeFailed { child, .. } => {
                let key = self.reported_key(*child, event.listener())?;
                let Some(key) = key else { return Ok(None) };
                expected.child = Some(key);
            }
            AcceptPaused { suppressed, .. } => expected.count = *suppressed,
            KilledWhileStopping { count, .. } | Stuck { count, .. } => {
                expected.count = *count as u64;
            }
            ReportsLost { lost, .. } => {
                let kinds = EventKind::ALL.iter().map(|kind| (*kind, lost.of(*kind)));
                expected.losses = kinds.filter(|(_, count)| *count > 0).collect();
            }
            _ => {}
        }
        if expected.child.is_none() {
            expected.listener = event.listener();
        }
        Ok(Some(expected))
    }

    /// The key of a child in a report, if its id is the known one and its listener fits.
    fn reported_key(
        &self,
        id: ChildId,
        listener: Option<ListenerId>,
    ) -> Result<Option<Key>, Violation> {
        let key = self.key(id)?;
        let known = match self.children.get(&key) {
            Some(child) => child.id,
            None => self.ended.get(&key).copied().flatten(),
        };
        let listener = listener.and_then(|listener| self.listener(listener));
        let fits = known.is_none_or(|known| known == id) && listener == Some(key.listener);
        Ok(fits.then_some(key))
    }

    /// The result may be given now, whether or not all reports are delivered.
    pub(super) fn delivery_is_over(&self, finished: Instant) -> bool {
        let kill_timeout = self.kill_timeout();
        self.outbox.is_empty() || self.now >= finished + kill_timeout
    }
}

/// A report has no control characters and a limited length, because a peer may choose its text (V5).
fn is_clean(text: &str) -> Check {
    const MAX_BYTES: usize = 2 * 1024;
    let control = text.chars().any(char::is_control);
    if control || text.len() > MAX_BYTES {
        let expected = format!(
            "a report is one line of at most {MAX_BYTES} bytes, without control characters"
        );
        return violation("V5", expected, format!("{} bytes: {text:?}", text.len()));
    }
    Ok(())
}
