//! The history of one pool, seen from all sides, and the checker that folds it.
//!
//! A connection is known by its client's address. Invariants: an address is in the
//! history before its client connects; the checker forgets a connection when both
//! ends are over, so only open connections take memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::take;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use acceptor_core::{ChildId, ListenerId, Shutdown};

use crate::client::{Behavior, Outcome, Seen};
use crate::context::{Setup, StopMode};
use conformance_tests::{Broken, Verdict};

/// What the clients, the acceptors, the observer and the fault injection did or saw.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client is about to connect.
    Connecting {
        client: SocketAddr,
        server: SocketAddr,
        listener: usize,
        behavior: Behavior,
    },
    /// The system did not let the client connect, for no reason of the server's.
    Withdrawn(SocketAddr),
    Refused(SocketAddr),
    /// The client's socket is closed.
    ClientEnded(SocketAddr, Seen),
    ServeBegan {
        client: SocketAddr,
        local: SocketAddr,
        child: ChildId,
    },
    /// The future of `serve` is dropped, and with it the socket.
    ServeEnded {
        client: SocketAddr,
        child: ChildId,
        outcome: Outcome,
    },
    /// A child is about to be stopped or killed by its id.
    Told(ChildId),
    /// A listener is about to be closed.
    Closing(usize),
    /// The pool is about to stop, or may stop by itself from now on.
    Stopping,
    /// The observer got the report of a killed connection.
    Killed {
        client: SocketAddr,
        child: ChildId,
    },
    /// Something happened this many times.
    Counted(Count, u64),
    /// Something is wrong in itself.
    Wrong(Broken),
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    Pool(StopMode),
    /// Connections, by the behavior of the client.
    Client(Behavior),
    Serve(Outcome),
    Refused,
    /// Connections in the backlog of a listener that closed.
    LeftInBacklog,
    /// Those that ended before their listener or the pool was told to close.
    CutEarly,
    KilledUnserved,
    InitFailed,
    StateMade,
    StateServed,
    StateTerminated,
    /// States that were neither served nor terminated.
    StateDropped,
    TerminatePanicked,
    Listener,
    DeadListener,
    Exhaustion,
    StartErrorReport,
    ErrorReport,
    PanicReport,
    KillReport,
    AcceptorPanicReport,
    AcceptorKillReport,
    ListenerReport,
    PauseReport,
    LostReport,
    OtherReport,
    PoolStoppedReport,
    KilledInStopReport,
    /// What the result of the pool says.
    StoppedConnection,
    KilledConnection,
    KilledAcceptor,
    Undelivered,
    LostChild,
    StuckChild,
}

pub(crate) type Counts = BTreeMap<Count, u64>;

/// The events that the checker has not seen yet, and the checker.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: Mutex<Vec<Event>>,
    checker: Mutex<Checker>,
}

impl History {
    pub(crate) fn record(&self, event: Event) {
        lock(&self.events).push(event);
    }

    pub(crate) fn count(&self, count: Count) {
        self.record(Event::Counted(count, 1));
    }

    /// The checker, which has seen all events up to now.
    pub(crate) fn checker(&self) -> MutexGuard<'_, Checker> {
        let mut checker = lock(&self.checker);
        let events = take(&mut *lock(&self.events));
        events.into_iter().for_each(|event| checker.see(event));
        checker
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Connection {
    behavior: Behavior,
    server: SocketAddr,
    listener: usize,
    client: ClientSide,
    serve: ServeSide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientSide {
    Open,
    /// It ended while the listener was to stay open.
    Ended(Seen),
    /// It ended when the listener or the pool had been told to close.
    EndedInClose(Seen),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServeSide {
    Unserved,
    /// Killed by its id before the first poll of `serve`.
    Killed,
    Serving,
    Ended(Outcome),
}

/// The first mistakes say the most.
const MOST_BROKEN: usize = 10;

/// Folds the history of one pool.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    connections: HashMap<SocketAddr, Connection>,
    serving: HashSet<ChildId>,
    told: HashSet<ChildId>,
    /// Those of them that were dropped, without the report of a kill.
    told_and_dropped: HashSet<ChildId>,
    closing: HashSet<usize>,
    stopping: bool,
    accepted: HashMap<ListenerId, u64>,
    counts: Counts,
    /// The failures that count, up to the report that the pool stops by itself.
    failures: u64,
    broken: Vec<Broken>,
}

impl Checker {
    fn see(&mut self, event: Event) {
        match event {
            Event::Connecting {
                client,
                server,
                listener,
                behavior,
            } => {
                let connection = Connection {
                    behavior,
                    server,
                    listener,
                    client: ClientSide::Open,
                    serve: ServeSide::Unserved,
                };
                self.connections.insert(client, connection);
            }
            Event::Withdrawn(client) => {
                self.connections.remove(&client);
            }
            Event::Refused(client) => self.refused(client),
            Event::ClientEnded(client, seen) => self.client_ended(client, seen),
            Event::ServeBegan {
                client,
                local,
                child,
            } => self.serve_began(canonical(client), canonical(local), child),
            Event::ServeEnded {
                client,
                child,
                outcome,
            } => self.serve_ended(canonical(client), child, outcome),
            Event::Told(child) => {
                self.told.insert(child);
            }
            Event::Closing(listener) => {
                self.closing.insert(listener);
            }
            Event::Stopping => self.stopping = true,
            Event::Killed { client, child } => self.killed(canonical(client), child),
            Event::Counted(count, number) => self.count(count, number),
            Event::Wrong(broken) => self.broken.push(broken),
        }
    }

    fn count(&mut self, count: Count, number: u64) {
        let fails = [
            Count::StartErrorReport,
            Count::ErrorReport,
            Count::PanicReport,
            Count::KillReport,
            Count::AcceptorPanicReport,
            Count::AcceptorKillReport,
            Count::LostChild,
        ];
        if fails.contains(&count) && self.of(Count::PoolStoppedReport) == 0 {
            self.failures += number;
        }
        *self.counts.entry(count).or_default() += number;
    }

    pub(crate) fn of(&self, count: Count) -> u64 {
        self.counts.get(&count).copied().unwrap_or(0)
    }

    fn wrong(&mut self, expected: &str, seen: String) {
        if self.broken.len() < MOST_BROKEN {
            self.broken.push(Broken::new(expected, seen));
        }
    }

    /// Whether the listener or the pool was told to close.
    fn closes(&self, listener: usize) -> bool {
        self.stopping || self.closing.contains(&listener)
    }

    fn refused(&mut self, client: SocketAddr) {
        self.count(Count::Refused, 1);
        let Some(connection) = self.connections.remove(&client) else {
            return;
        };
        let server = connection.server;
        if connection.serve != ServeSide::Unserved {
            self.wrong(
                "a refused client is not served",
                format!("{client} was served"),
            );
        }
        if !self.closes(connection.listener) {
            let seen = format!("{server} refused {client}");
            self.wrong("an open listener refuses no client", seen);
        }
    }

    fn client_ended(&mut self, client: SocketAddr, seen: Seen) {
        let Some(connection) = self.connections.get(&client) else {
            return;
        };
        let (behavior, closes) = (connection.behavior, self.closes(connection.listener));
        let ended = if closes {
            ClientSide::EndedInClose
        } else {
            ClientSide::Ended
        };
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.client = ended(seen);
        }
        match seen {
            Seen::Nothing => self.wrong(
                "a connected client gets an answer or an end",
                format!("{client} ({behavior:?}) got neither"),
            ),
            Seen::Mangled => self.wrong(
                "a client hears its own words and no others",
                format!("{client} ({behavior:?}) heard others"),
            ),
            Seen::Done | Seen::Left | Seen::CutShort => {}
        }
        self.settle(client);
    }

    fn serve_began(&mut self, client: SocketAddr, local: SocketAddr, child: ChildId) {
        *self.accepted.entry(child.listener()).or_default() += 1;
        self.serving.insert(child);
        let Some(connection) = self.connections.get_mut(&client) else {
            let seen = format!("{child}, from {client}, has none");
            return self.wrong("a connection that is served has a client", seen);
        };
        let before = std::mem::replace(&mut connection.serve, ServeSide::Serving);
        let server = connection.server;
        if before != ServeSide::Unserved {
            let seen = format!("{child}, from {client}, was {before:?} before");
            self.wrong("a connection is served once", seen);
        }
        if server != local {
            let seen = format!("{client} connected to {server}, and its local address is {local}");
            self.wrong("a connection has its own local address", seen);
        }
    }

    fn serve_ended(&mut self, client: SocketAddr, child: ChildId, outcome: Outcome) {
        self.count(Count::Serve(outcome), 1);
        self.serving.remove(&child);
        let told = self.told.contains(&child);
        if told && outcome == Outcome::Dropped {
            self.told_and_dropped.insert(child);
        }
        let Some(connection) = self.connections.get_mut(&client) else {
            return;
        };
        connection.serve = ServeSide::Ended(outcome);
        let behavior = connection.behavior;
        let asked = match outcome {
            Outcome::Dropped => told || self.stopping,
            Outcome::Clean if behavior == Behavior::TrapStop => told || self.stopping,
            outcome => behavior.outcome() == Some(outcome),
        };
        if !asked {
            let seen = format!("{child}, of {client} ({behavior:?}), ended as {outcome:?}");
            self.wrong("a connection ends as its client asked", seen);
        }
        self.settle(client);
    }

    fn killed(&mut self, client: SocketAddr, child: ChildId) {
        self.count(Count::KillReport, 1);
        if !self.told.contains(&child) {
            let seen = format!("{child}, from {client}, was told nothing");
            self.wrong("a killed connection was told to end", seen);
        }
        if self.told_and_dropped.remove(&child) {
            return;
        }
        // The kill came before the first poll of `serve`.
        self.count(Count::KilledUnserved, 1);
        *self.accepted.entry(child.listener()).or_default() += 1;
        match self.connections.get_mut(&client) {
            Some(connection) if connection.serve == ServeSide::Unserved => {
                connection.serve = ServeSide::Killed;
                self.settle(client);
            }
            _ => {
                let seen = format!("{child}, from {client}, was neither");
                self.wrong("a killed connection was served or about to be", seen);
            }
        }
    }

    /// Compares both ends of a connection if both are over, and forgets it.
    fn settle(&mut self, client: SocketAddr) {
        let Some(connection) = self.connections.get(&client) else {
            return;
        };
        let (ClientSide::Ended(seen) | ClientSide::EndedInClose(seen)) = connection.client else {
            return;
        };
        let (behavior, serve) = (connection.behavior, connection.serve);
        let agree = match (serve, seen) {
            (ServeSide::Unserved | ServeSide::Serving, _) => return,
            // They are wrong already.
            (_, Seen::Nothing | Seen::Mangled) => true,
            (ServeSide::Killed, seen) => seen != Seen::Done,
            // The client may have seen everything before the drop.
            (ServeSide::Ended(Outcome::Dropped), _) => true,
            (ServeSide::Ended(Outcome::Clean), Seen::CutShort) => behavior == Behavior::TrapStop,
            (ServeSide::Ended(_), seen) => seen != Seen::CutShort,
        };
        self.connections.remove(&client);
        if !agree {
            let seen = format!("{client} ({behavior:?}) saw {seen:?}, and the server {serve:?}");
            self.wrong("both ends of a connection agree", seen);
        }
    }

    /// Whether a connection of this client is not over at both ends.
    pub(crate) fn knows(&self, client: SocketAddr) -> bool {
        self.connections.contains_key(&client)
    }

    /// The connections inside `serve`.
    pub(crate) fn serving(&self) -> HashSet<ChildId> {
        self.serving.clone()
    }

    /// How many connections of a listener were served, or killed before.
    pub(crate) fn accepted(&self, listener: ListenerId) -> u64 {
        self.accepted.get(&listener).copied().unwrap_or(0)
    }

    /// Every connection is over, except those in the backlog of a closed listener.
    pub(crate) fn at_rest(&self) -> Result<(), String> {
        let mut open = self
            .connections
            .values()
            .filter(|open| match (open.serve, open.client) {
                (ServeSide::Unserved, _) => !self.closing.contains(&open.listener),
                (ServeSide::Serving, _) => true,
                (_, client) => client == ClientSide::Open,
            });
        match open.next() {
            None => Ok(()),
            Some(first) => Err(format!("{} more, and {first:?}", open.count())),
        }
    }

    /// Nothing is wrong yet.
    pub(crate) fn verdict(&self) -> Verdict {
        self.broken.first().cloned().map_or(Ok(()), Err)
    }

    /// What is wrong up to now.
    pub(crate) fn broken(&self) -> Vec<Broken> {
        self.broken.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Checks what must hold once the pool and the clients are gone.
    pub(crate) fn finish(&mut self, setup: &Setup) {
        self.finish_connections();
        for (what, allowed, seen) in self.sums(setup) {
            if !allowed.contains(&seen) {
                let (least, most) = allowed.into_inner();
                let expected = match (least, most) {
                    (least, u64::MAX) => format!("at least {least}"),
                    (least, most) if least == most => format!("{least}"),
                    (least, most) => format!("{least} to {most}"),
                };
                self.wrong(&format!("{what}: {expected}"), format!("{what}: {seen}"));
            }
        }
    }

    fn finish_connections(&mut self) {
        for (client, connection) in take(&mut self.connections) {
            self.left_over(client, &connection);
        }
    }

    /// A connection that is not over at both ends was in the backlog of a listener that closed.
    fn left_over(&mut self, client: SocketAddr, connection: &Connection) {
        let behavior = connection.behavior;
        match (connection.serve, connection.client) {
            (ServeSide::Serving, _) => {
                let seen = format!("{client} ({behavior:?}) is still served");
                return self.wrong("no connection is served after the stop", seen);
            }
            (_, ClientSide::Open) => {
                let seen = format!("{client} ({behavior:?}) did not");
                return self.wrong("every client ends", seen);
            }
            (_, ClientSide::Ended(Seen::Left) | ClientSide::EndedInClose(Seen::Left)) => {}
            (_, ClientSide::EndedInClose(Seen::CutShort)) => {}
            // A kill by id that the stop overtook has no report of its own.
            (_, ClientSide::Ended(Seen::CutShort)) if !self.told.is_empty() => {
                self.count(Count::CutEarly, 1);
            }
            (_, ClientSide::Ended(seen) | ClientSide::EndedInClose(seen)) => {
                let seen = format!("{client} ({behavior:?}) was not, and saw {seen:?}");
                self.wrong("a connection is served unless its listener closes", seen);
            }
        }
        self.count(Count::LeftInBacklog, 1);
    }

    /// Sums, with the values that are allowed. A stop at rest allows one value; a stop
    /// under load leaves open which connections it met before `serve`.
    fn sums(&self, setup: &Setup) -> Vec<(&'static str, RangeInclusive<u64>, u64)> {
        let of = |count| self.of(count);
        let lost = of(Count::LostReport);
        // Of these reports the outbox may have dropped some.
        let reports = |expected: u64| expected.saturating_sub(lost)..=expected;
        let exactly = |expected: u64| expected..=expected;

        let killed = of(Count::KilledConnection);
        // The stop killed them before they were served: nothing else is known of them.
        let killed_in_backlog = of(Count::LeftInBacklog).min(killed);
        let told = of(Count::KillReport) + of(Count::StoppedConnection) + killed;
        let stopped_by_id = self.told_and_dropped.len() as u64;
        let least = match setup.stop {
            StopMode::AtRest => told + stopped_by_id,
            _ => told.saturating_sub(killed_in_backlog),
        };
        let dropped = of(Count::Serve(Outcome::Dropped)) + of(Count::KilledUnserved);
        let killed_acceptors = of(Count::AcceptorKillReport) + of(Count::KilledAcceptor);
        let kills = killed_acceptors + of(Count::KilledUnserved) + killed_in_backlog + lost;
        let killed_in_stop = match setup.shutdown {
            Shutdown::Kill => 0,
            _ => killed + of(Count::KilledAcceptor),
        };
        let pauses = match of(Count::Exhaustion) {
            0 => 0..=0,
            // Only the first of a listener has a report for sure.
            count => count.saturating_sub(lost)..=u64::MAX,
        };
        let by_itself = setup.stop == StopMode::Intensity;
        let mut sums = Vec::new();
        let mut sum = |what, allowed, seen| sums.push((what, allowed, seen));
        for (what, expected, reported) in [
            (
                "errors of serve",
                Count::Serve(Outcome::Error),
                Count::ErrorReport,
            ),
            (
                "panics of serve",
                Count::Serve(Outcome::Panic),
                Count::PanicReport,
            ),
            (
                "failures of init",
                Count::InitFailed,
                Count::StartErrorReport,
            ),
            (
                "panics of terminate",
                Count::TerminatePanicked,
                Count::AcceptorPanicReport,
            ),
            ("dead listeners", Count::DeadListener, Count::ListenerReport),
        ] {
            sum(what, reports(of(expected)), of(reported));
        }
        sum(
            "reports that were lost",
            exactly(of(Count::Undelivered)),
            lost,
        );
        sum(
            "pauses for want of descriptors",
            pauses,
            of(Count::PauseReport),
        );
        sum("lost children", exactly(0), of(Count::LostChild));
        sum("stuck children", exactly(0), of(Count::StuckChild));
        sum("unknown reports", exactly(0), of(Count::OtherReport));
        let most = told + stopped_by_id + lost;
        sum(
            "connections dropped by a kill or a stop",
            least..=most,
            dropped,
        );
        sum(
            "connections cut early by a kill",
            0..=killed,
            of(Count::CutEarly),
        );
        sum(
            "states dropped by a kill",
            0..=kills,
            of(Count::StateDropped),
        );
        sum(
            "kills in the kill phase",
            exactly(killed_in_stop),
            of(Count::KilledInStopReport),
        );
        let stops = exactly(u64::from(by_itself));
        sum(
            "reports that the pool stops by itself",
            stops,
            of(Count::PoolStoppedReport),
        );
        if by_itself {
            let too_many = reports(u64::from(setup.intensity) + 1);
            sum("counted failures at the stop", too_many, self.failures);
        }
        sums
    }
}

/// The address without the mapping that a listener for both families makes of it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
