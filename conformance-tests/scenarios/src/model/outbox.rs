//! The reports that must come: bounded, in the order of their causes, each delivered, merged or counted as lost (O1, O2).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildId, EndKind, EventKind, Failure, ListenerId, Report, StopReason, Transport,
};

use super::{Breach, Key, Model, Seen, breach, same};
use crate::event::Event;

/// How many ordinary reports wait at the most, and as many of failed listeners.
const PLACES: usize = 1024;

/// Whether the task that delivers reports is there, and is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reporter {
    #[default]
    Runs,
    /// Its polls are withheld, as if an observer did not return.
    Held,
    /// The runtime has dropped it.
    Gone,
}

/// Reports that were made, and not delivered yet.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Waiting>,
    ordinary: usize,
    listeners: usize,
    /// Reports that found no place.
    lost: u64,
    pub(super) reporter: Reporter,
    /// The result was given: nothing is delivered any longer.
    pub(super) closed: bool,
}

struct Waiting {
    expected: Expected,
    /// The generation of the spec when its cause came.
    generation: u32,
}

/// A report that must come.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Child(Failed),
    Began {
        child: Key,
        peer: SocketAddr,
        local: SocketAddr,
    },
    Ended {
        child: Key,
        gone: Gone,
        kind: EndKind,
    },
    ListenerFailed {
        listener: ListenerId,
        address: SocketAddr,
        error: String,
        /// How many others are open.
        left: usize,
    },
    AcceptPaused {
        listener: ListenerId,
        address: SocketAddr,
        error: String,
        pause: Duration,
        suppressed: u64,
    },
    KilledWhileStopping(usize),
    Stuck(usize),
    PoolStopped(StopReason),
    Lost(BTreeMap<EventKind, u64>),
}

/// The end of a child that must be reported.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) child: Key,
    pub(super) sort: Sort,
    pub(super) kind: EndKind,
    /// The text of the error or the panic.
    pub(super) text: String,
    pub(super) gone: Option<Gone>,
}

/// What is reported of a connection that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) peer: SocketAddr,
    /// The peer's address as it was accepted, if a handshake has replaced it.
    pub(super) transport: Option<SocketAddr>,
    pub(super) age: Duration,
}

impl Gone {
    fn of(
        peer: &SocketAddr,
        transport: &Option<Box<Transport<SocketAddr>>>,
        age: &Duration,
    ) -> Self {
        Self {
            peer: *peer,
            transport: transport.as_ref().map(|transport| transport.peer_addr),
            age: *age,
        }
    }
}

/// Under which name an end is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    StartError,
    Acceptor,
    Connection,
}

impl Expected {
    fn kind(&self) -> EventKind {
        match self {
            Expected::Child(failed) if failed.kind == EndKind::Disconnected => {
                EventKind::Disconnected
            }
            Expected::Child(failed) if failed.kind == EndKind::HandshakeFailed => {
                EventKind::HandshakeFailed
            }
            Expected::Child(failed) => match failed.sort {
                Sort::StartError => EventKind::StartError,
                Sort::Acceptor => EventKind::AcceptorFailed,
                Sort::Connection => EventKind::ConnectionFailed,
            },
            Expected::Began { .. } => EventKind::ConnectionBegan,
            Expected::Ended { .. } => EventKind::ConnectionEnded,
            Expected::ListenerFailed { .. } => EventKind::ListenerFailed,
            Expected::AcceptPaused { .. } => EventKind::AcceptPaused,
            Expected::KilledWhileStopping(_) => EventKind::KilledWhileStopping,
            Expected::Stuck(_) => EventKind::Stuck,
            Expected::PoolStopped(_) => EventKind::PoolStopped,
            Expected::Lost(_) => EventKind::ReportsLost,
        }
    }
}

impl Outbox {
    /// The number of reports that share places with these, or `None` for reports that have places of their own.
    fn places(&mut self, kind: EventKind) -> Option<&mut usize> {
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
        if let Expected::AcceptPaused {
            listener,
            suppressed,
            ..
        } = &expected
        {
            let of_listener =
                self.waiting
                    .iter_mut()
                    .find_map(|waiting| match &mut waiting.expected {
                        Expected::AcceptPaused {
                            listener: other,
                            suppressed,
                            ..
                        } if other == listener => Some(suppressed),
                        _ => None,
                    });
            if let Some(merged) = of_listener {
                *merged += suppressed + 1;
                return;
            }
        }
        let kind = expected.kind();
        match self.places(kind) {
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
        let losses = self
            .waiting
            .iter_mut()
            .find_map(|waiting| match &mut waiting.expected {
                Expected::Lost(losses) => Some(losses),
                _ => None,
            });
        match losses {
            Some(losses) => *losses.entry(kind).or_default() += 1,
            None => {
                let expected = Expected::Lost(BTreeMap::from([(kind, 1)]));
                self.waiting.push_back(Waiting {
                    expected,
                    generation,
                });
            }
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        if let Some(taken) = self.places(waiting.expected.kind()) {
            *taken -= 1;
        }
        Some(waiting)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many reports no observer gets, should nothing be delivered any longer.
    pub(super) fn undelivered(&self) -> u64 {
        let own = |waiting: &&Waiting| !matches!(waiting.expected, Expected::Lost(_));
        self.lost + self.waiting.iter().filter(own).count() as u64
    }
}

impl Model {
    /// Something happened that is reported.
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

    pub(crate) fn reporter(&self) -> Reporter {
        self.outbox.reporter
    }

    /// Sees the reports among these events, after all else that followed from the same poll.
    pub(crate) fn see_reports(&mut self, events: &[Event]) -> Seen {
        let mut count = 0;
        for event in events {
            if let Event::Reported { report, observer } = event {
                count += 1;
                self.reported(report, *observer)?;
            }
        }
        // A burst is delivered in parts, so that other tasks have their turn.
        self.wakes.reporter += count / 32;
        Ok(())
    }

    fn reported(&mut self, report: &Report<SocketAddr>, observer: u32) -> Seen {
        if self.outbox.closed {
            let expected = "nothing is reported once the result was given";
            return breach("O2", expected, report.to_string());
        }
        same(
            "R1",
            "the generation of the observer",
            self.generation,
            observer,
        )?;
        let Some(waiting) = self.outbox.pop() else {
            return breach("E1", "nothing is reported", report.to_string());
        };
        let pool = format!("g{}", waiting.generation);
        same("R1", "the pool of a report", pool.as_str(), &*report.pool)?;
        if !self.fits(&waiting.expected, &report.event)? {
            let expected = format!("it is reported: {:?}", waiting.expected);
            return breach("E1", expected, report.to_string());
        }
        is_clean(&report.to_string())
    }

    /// Nothing is ready: all reports were delivered, if a task does that.
    pub(super) fn reports_have_come(&self) -> Seen {
        match self.outbox.waiting.front() {
            Some(waiting) if self.outbox.reporter == Reporter::Runs && !self.outbox.closed => {
                let expected = format!("it is reported: {:?}", waiting.expected);
                breach("E1", expected, "nothing")
            }
            _ => Ok(()),
        }
    }

    fn fits(
        &self,
        expected: &Expected,
        event: &acceptor_core::Event<SocketAddr>,
    ) -> Result<bool, Breach> {
        use acceptor_core::Event as Reported;
        Ok(match (expected, event) {
            (
                Expected::Child(expected),
                Reported::StartError {
                    child,
                    listener,
                    failure,
                    ..
                },
            ) => {
                self.is_child(expected.child, *child, *listener)?
                    && expected.is(Sort::StartError, failure, None)
            }
            (
                Expected::Child(expected),
                Reported::AcceptorFailed {
                    child,
                    listener,
                    failure,
                    ..
                },
            ) => {
                self.is_child(expected.child, *child, *listener)?
                    && expected.is(Sort::Acceptor, failure, None)
            }
            (
                Expected::Child(expected),
                Reported::ConnectionFailed {
                    child,
                    listener,
                    failure,
                    peer,
                    transport,
                    age,
                    ..
                },
            ) => {
                let gone = Gone::of(peer, transport, age);
                self.is_child(expected.child, *child, *listener)?
                    && expected.is(Sort::Connection, failure, Some(gone))
            }
            (
                Expected::Child(expected),
                Reported::Disconnected {
                    child,
                    listener,
                    peer,
                    transport,
                    age,
                    error,
                    ..
                },
            ) => {
                self.is_child(expected.child, *child, *listener)?
                    && expected.kind == EndKind::Disconnected
                    && expected.gone == Some(Gone::of(peer, transport, age))
                    && expected.text == error.to_string()
            }
            (
                Expected::Child(expected),
                Reported::HandshakeFailed {
                    child,
                    listener,
                    peer,
                    transport,
                    age,
                    cause,
                    error,
                    ..
                },
            ) => {
                let text = match error {
                    Some(error) => format!("{cause}: {error}"),
                    None => (*cause).to_owned(),
                };
                self.is_child(expected.child, *child, *listener)?
                    && expected.kind == EndKind::HandshakeFailed
                    && expected.gone == Some(Gone::of(peer, transport, age))
                    && expected.text == text
            }
            (
                Expected::Began { child, peer, local },
                Reported::ConnectionBegan {
                    child: other,
                    listener,
                    peer: from,
                    local_addr,
                    ..
                },
            ) => self.is_child(*child, *other, *listener)? && (peer, local) == (from, local_addr),
            (
                Expected::Ended { child, gone, kind },
                Reported::ConnectionEnded {
                    child: other,
                    listener,
                    peer,
                    transport,
                    age,
                    kind: how,
                    ..
                },
            ) => {
                let seen = Gone::of(peer, transport, age);
                self.is_child(*child, *other, *listener)? && (*gone, kind) == (seen, how)
            }
            (
                Expected::ListenerFailed {
                    listener,
                    address,
                    error,
                    left,
                },
                Reported::ListenerFailed {
                    listener: other,
                    local_addr,
                    error: cause,
                    listeners_left,
                    ..
                },
            ) => {
                (listener, address, left) == (other, local_addr, listeners_left)
                    && *error == cause.to_string()
            }
            (
                Expected::AcceptPaused {
                    listener,
                    address,
                    error,
                    pause,
                    suppressed,
                },
                Reported::AcceptPaused {
                    listener: other,
                    local_addr,
                    error: cause,
                    pause: length,
                    suppressed: more,
                    ..
                },
            ) => {
                (listener, pause, suppressed) == (other, length, more)
                    && address == local_addr
                    && *error == cause.to_string()
            }
            (
                Expected::KilledWhileStopping(expected),
                Reported::KilledWhileStopping { count, .. },
            )
            | (Expected::Stuck(expected), Reported::Stuck { count, .. }) => expected == count,
            (Expected::PoolStopped(expected), Reported::PoolStopped { reason, .. }) => {
                expected == reason
            }
            (Expected::Lost(expected), Reported::ReportsLost { lost, .. }) => {
                let each = expected
                    .iter()
                    .all(|(kind, count)| lost.of(*kind) == *count);
                each && lost.total() == expected.values().sum::<u64>()
            }
            _ => false,
        })
    }

    /// Whether a report is of this child: also its listener, and the pool that the id is of.
    fn is_child(&self, expected: Key, id: ChildId, listener: ListenerId) -> Result<bool, Breach> {
        let known = match self.children.get(&expected) {
            Some(child) => child.id,
            None => self.ended.get(&expected).copied().flatten(),
        };
        let same_id = known.is_none_or(|known| known == id) && self.key(id)? == expected;
        Ok(same_id && self.listener(listener) == Some(expected.listener))
    }

    /// The result was given at this moment, whatever was not delivered by then.
    pub(super) fn delivery_is_over(&self, finished: Instant) -> bool {
        let kill_timeout = self.kill_timeout();
        self.outbox.is_empty() || self.now >= finished + kill_timeout
    }
}

impl Failed {
    fn is(&self, sort: Sort, failure: &Failure, gone: Option<Gone>) -> bool {
        let fits = match (self.kind, failure) {
            (EndKind::Error, Failure::Error(error)) => error.to_string() == self.text,
            (EndKind::Panic, Failure::Panic(message)) => *message == self.text,
            (EndKind::Killed, Failure::Killed) | (EndKind::Lost, Failure::Lost) => true,
            _ => false,
        };
        fits && (self.sort, self.gone) == (sort, gone)
    }
}

/// Text that a peer may have chosen is escaped and cut (V5): a line, however long the message.
fn is_clean(text: &str) -> Seen {
    const MOST: usize = 2 * 1024;
    let control = text.chars().any(char::is_control);
    if control || text.len() > MOST {
        let expected =
            format!("a report is one line of at most {MOST} bytes, without control characters");
        return breach("V5", expected, format!("{} bytes: {text:?}", text.len()));
    }
    Ok(())
}
