//! The history of one pool, recorded from all sides, and the checker that folds it.
//!
//! A connection is identified by its client's address. Invariants: an address is in the history before its client
//! connects; the checker forgets a connection once both ends are closed, so only open connections take memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::take;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use acceptor_core::{ChildId, ListenerId, Shutdown};

use crate::client::{Behavior, Outcome, Seen};
use crate::context::{Setup, StopMode};
use conformance_tests::{Broken, Verdict, same};

/// An event of the clients, the acceptors, the observer or the fault injection.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A step of this client's connection.
    Connection(SocketAddr, Step),
    /// A child is about to be stopped or killed by its id.
    Commanded(ChildId),
    /// A listener is about to be closed.
    Closing(ListenerId),
    /// The pool is about to stop, or may stop by itself from now on.
    Stopping,
    /// An event to count, with its number of occurrences.
    Counted(Count, u64),
    /// A failed check.
    Wrong(Broken),
}

/// A step of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The client is about to connect to this listener, at this address.
    Connects(Behavior, ListenerId, SocketAddr),
    /// The system did not let the client connect, for no reason of the server's.
    Withdraws,
    Refused,
    /// The client's socket is closed.
    Ends(Seen),
    /// The first poll of `serve`, with the local address.
    Served(ChildId, SocketAddr),
    /// The future of `serve` is dropped, and the socket with it.
    ServeEnds(ChildId, Outcome),
    /// The observer got the report of a kill.
    Killed(ChildId),
}

/// The kinds of events that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    Pool(StopMode),
    /// Connections, by the behavior of the client.
    Client(Behavior),
    Serve(Outcome),
    /// Connections in the backlog of a listener that closed.
    LeftInBacklog,
    /// Connections that ended before their listener or the pool began to close.
    CutEarly,
    KilledUnserved,
    InitFailure,
    TerminatePanic,
    DeadListener,
    /// States that were neither served nor terminated.
    StateDropped,
    StartErrorReport,
    ErrorReport,
    PanicReport,
    KillReport,
    AcceptorPanicReport,
    AcceptorKillReport,
    ListenerReport,
    PauseReport,
    LostReport,
    PoolStoppedReport,
    KilledInStopReport,
    // These come from the stop report of the pool.
    ConnectionStopped,
    ConnectionKilled,
    AcceptorKilled,
    Undelivered,
}

pub(crate) type Counts = BTreeMap<Count, u64>;

/// The checker, and the events that it has not seen yet.
#[derive(Default)]
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

    /// Returns the checker, after it has seen all events so far.
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
    listener: ListenerId,
    server: SocketAddr,
    /// The client's end, and whether its listener or the pool had begun to close.
    client: Option<(Seen, bool)>,
    serve: Serve,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serve {
    NotYet,
    Runs,
    Ended(Outcome),
}

/// Folds the history of one pool.
#[derive(Default)]
pub(crate) struct Checker {
    connections: HashMap<SocketAddr, Connection>,
    /// The connections inside `serve`.
    pub(crate) served: HashSet<ChildId>,
    commanded: HashSet<ChildId>,
    /// Connections that were commanded to end and dropped, without the report of a kill.
    dropped_on_command: HashSet<ChildId>,
    closing: HashSet<ListenerId>,
    stopping: bool,
    accepted: HashMap<ListenerId, u64>,
    pub(crate) counts: Counts,
    /// The counted failures, up to the report that the pool stops by itself.
    failures: u64,
    pub(crate) broken: Vec<Broken>,
}

impl Checker {
    fn see(&mut self, event: Event) {
        match event {
            Event::Connection(client, step) => self.step(canonical(client), &step),
            Event::Commanded(child) => _ = self.commanded.insert(child),
            Event::Closing(listener) => _ = self.closing.insert(listener),
            Event::Stopping => self.stopping = true,
            Event::Counted(count, number) => self.count(count, number),
            Event::Wrong(broken) => self.broken.push(broken),
        }
    }

    fn count(&mut self, count: Count, number: u64) {
        let fails = Count::StartErrorReport..=Count::AcceptorKillReport;
        if fails.contains(&count) && self.of(Count::PoolStoppedReport) == 0 {
            self.failures += number;
        }
        *self.counts.entry(count).or_default() += number;
    }

    pub(crate) fn of(&self, count: Count) -> u64 {
        self.counts.get(&count).copied().unwrap_or(0)
    }

    fn check(&mut self, holds: bool, expected: &str, seen: impl FnOnce() -> String) {
        // The first failures are the most informative.
        if !holds && self.broken.len() < 10 {
            self.broken.push(Broken::new(expected, seen()));
        }
    }

    fn step(&mut self, client: SocketAddr, step: &Step) {
        match *step {
            Step::Connects(behavior, listener, server) => {
                let connection = Connection {
                    behavior,
                    listener,
                    server,
                    client: None,
                    serve: Serve::NotYet,
                };
                self.connections.insert(client, connection);
                return;
            }
            Step::Served(child, _) => {
                *self.accepted.entry(child.listener()).or_default() += 1;
                self.served.insert(child);
                let holds = self.knows(client);
                let seen = || format!("{child} from {client} has none");
                self.check(holds, "a connection that is served has a client", seen);
            }
            Step::ServeEnds(child, outcome) => {
                self.count(Count::Serve(outcome), 1);
                self.served.remove(&child);
                if outcome == Outcome::Dropped && self.commanded.contains(&child) {
                    self.dropped_on_command.insert(child);
                }
            }
            Step::Killed(child) => {
                self.count(Count::KillReport, 1);
                let (holds, seen) = (self.commanded.contains(&child), || {
                    format!("{child} was not")
                });
                self.check(holds, "a killed connection was commanded to end", seen);
                if self.dropped_on_command.remove(&child) {
                    return;
                }
                // The kill preceded the first poll of `serve`.
                self.count(Count::KilledUnserved, 1);
                *self.accepted.entry(child.listener()).or_default() += 1;
                let killed = self.connections.get(&client).map(|killed| killed.serve);
                let (holds, seen) = (killed == Some(Serve::NotYet), || format!("{killed:?}"));
                self.check(holds, "a killed connection was served or about to be", seen);
            }
            Step::Withdraws | Step::Refused | Step::Ends(_) => {}
        }
        let Some(mut connection) = self.connections.remove(&client) else {
            return;
        };
        for (holds, expected) in self.advance(&mut connection, step) {
            let seen = || format!("{step:?} of {client}, {connection:?}");
            self.check(holds, expected, seen);
        }
        match (step, connection.client, connection.serve) {
            (Step::Withdraws | Step::Refused, ..) | (_, Some(_), Serve::Ended(_)) => {}
            _ => _ = self.connections.insert(client, connection),
        }
    }

    /// Checks the invariants of a step of a connection.
    fn advance(&self, connection: &mut Connection, step: &Step) -> Vec<(bool, &'static str)> {
        let closing = self.stopping || self.closing.contains(&connection.listener);
        let (behavior, before) = (connection.behavior, connection.serve);
        let mut checks = Vec::new();
        match *step {
            Step::Connects(..) | Step::Withdraws => {}
            Step::Refused => {
                checks.push((before == Serve::NotYet, "a refused client is not served"));
                checks.push((closing, "an open listener refuses no client"));
            }
            Step::Ends(seen) => {
                checks.push((seen != Seen::Nothing, "a client gets an answer or an end"));
                checks.push((seen != Seen::Mismatch, "a client reads its own message"));
                connection.client = Some((seen, closing));
            }
            Step::Served(_, local) => {
                checks.push((before == Serve::NotYet, "a connection is served once"));
                let own = canonical(local) == connection.server;
                checks.push((own, "a connection has its own local address"));
                connection.serve = Serve::Runs;
            }
            Step::ServeEnds(child, outcome) => {
                let commanded = self.stopping || self.commanded.contains(&child);
                let asked = match outcome {
                    Outcome::Dropped => commanded,
                    Outcome::Clean if behavior == Behavior::TrapStop => commanded,
                    outcome => behavior.outcome() == Some(outcome),
                };
                checks.push((asked, "a connection ends as its client asked"));
                connection.serve = Serve::Ended(outcome);
            }
            Step::Killed(_) => connection.serve = Serve::Ended(Outcome::Dropped),
        }
        let agree = match (connection.serve, connection.client) {
            (Serve::NotYet | Serve::Runs, _) | (_, None) => true,
            // These are failures already.
            (_, Some((Seen::Nothing | Seen::Mismatch, _))) => true,
            // The client may have seen everything before the drop.
            (Serve::Ended(Outcome::Dropped), _) => true,
            (Serve::Ended(Outcome::Clean), _) if behavior == Behavior::TrapStop => true,
            (Serve::Ended(_), Some((seen, _))) => seen != Seen::CutShort,
        };
        checks.push((agree, "both ends of a connection agree"));
        checks
    }

    /// Returns whether a connection of this client is still open at either end.
    pub(crate) fn knows(&self, client: SocketAddr) -> bool {
        self.connections.contains_key(&client)
    }

    /// Returns how many connections of a listener were served, or killed before that.
    pub(crate) fn accepted(&self, listener: ListenerId) -> u64 {
        self.accepted.get(&listener).copied().unwrap_or(0)
    }

    /// Checks that every connection is closed, except those in the backlog of a closed listener.
    pub(crate) fn at_rest(&self) -> Verdict {
        let is_open = |open: &&Connection| match open.serve {
            Serve::NotYet => !self.closing.contains(&open.listener),
            Serve::Runs => true,
            Serve::Ended(_) => open.client.is_none(),
        };
        let open: Vec<_> = self.connections.values().filter(is_open).take(3).collect();
        same("open connections", "[]", &format!("{open:?}"))
    }

    /// Checks that no check has failed yet.
    pub(crate) fn verdict(&self) -> Verdict {
        self.broken.first().cloned().map_or(Ok(()), Err)
    }

    /// Checks the history of a pool that has stopped and whose clients have ended.
    pub(crate) fn finish(&mut self, setup: &Setup) {
        self.finish_connections();
        for (what, allowed, seen) in self.sums(setup) {
            let expected = format!("{what}: {allowed:?}");
            self.check(allowed.contains(&seen), &expected, || seen.to_string());
        }
    }

    /// A connection that is still open at one end was in the backlog of a listener that closed.
    fn finish_connections(&mut self) {
        for (client, left) in take(&mut self.connections) {
            let served = "a connection is served unless its listener closes";
            let (holds, expected) = match (left.serve, left.client) {
                (Serve::Runs, _) => (false, "no connection is served after the stop"),
                (_, None) => (false, "every client ends"),
                (_, Some((Seen::Left, _) | (Seen::CutShort, true))) => (true, served),
                // A kill by id that the stop preempted has no report of its own.
                (_, Some((Seen::CutShort, false))) if !self.commanded.is_empty() => {
                    self.count(Count::CutEarly, 1);
                    (true, served)
                }
                _ => (false, served),
            };
            self.check(holds, expected, || format!("{client}, {left:?}"));
            self.count(Count::LeftInBacklog, 1);
        }
    }

    /// Sums with their allowed values. A stop at rest allows one value; under load it is unknown which connections the
    /// stop met before `serve`.
    fn sums(&self, setup: &Setup) -> Vec<(&'static str, RangeInclusive<u64>, u64)> {
        let of = |count| self.of(count);
        let lost = of(Count::LostReport);
        // The outbox may have dropped some of these reports.
        let reports = |expected: u64| expected.saturating_sub(lost)..=expected;
        let exactly = |expected: u64| expected..=expected;

        let killed = of(Count::ConnectionKilled);
        // The stop killed these before they were served, so nothing else is known of them.
        let killed_in_backlog = of(Count::LeftInBacklog).min(killed);
        let commanded = of(Count::KillReport) + of(Count::ConnectionStopped) + killed;
        let stopped_by_id = self.dropped_on_command.len() as u64;
        let least = match setup.stop {
            StopMode::AtRest => commanded + stopped_by_id,
            _ => commanded.saturating_sub(killed_in_backlog),
        };
        let most = commanded + stopped_by_id + lost;
        let dropped = of(Count::Serve(Outcome::Dropped)) + of(Count::KilledUnserved);
        let killed_acceptors = of(Count::AcceptorKillReport) + of(Count::AcceptorKilled);
        let kills = killed_acceptors + of(Count::KilledUnserved) + killed_in_backlog + lost;
        let killed_in_stop = match setup.settings.shutdown {
            Some(Shutdown::Kill) => 0,
            _ => killed + of(Count::AcceptorKilled),
        };
        // The descriptors run out before a stop at rest.
        let at_rest = setup.stop == StopMode::AtRest;
        let pauses = if at_rest { u64::MAX } else { 0 };
        let by_itself = u64::from(setup.stop == StopMode::Intensity);

        let mut sums = Vec::new();
        let mut sum = |what, allowed, seen| sums.push((what, allowed, seen));
        let errors = reports(of(Count::Serve(Outcome::Error)));
        sum("errors of serve", errors, of(Count::ErrorReport));
        let panics = reports(of(Count::Serve(Outcome::Panic)));
        sum("panics of serve", panics, of(Count::PanicReport));
        let failures = reports(of(Count::InitFailure));
        sum("failures of init", failures, of(Count::StartErrorReport));
        let (panics, panic_reports) = (of(Count::TerminatePanic), of(Count::AcceptorPanicReport));
        sum("panics of terminate", reports(panics), panic_reports);
        let dead = reports(of(Count::DeadListener));
        sum("dead listeners", dead, of(Count::ListenerReport));
        sum("pauses", 0..=pauses, of(Count::PauseReport));
        sum("lost reports", exactly(of(Count::Undelivered)), lost);
        sum("dropped connections", least..=most, dropped);
        sum("connections cut early", 0..=killed, of(Count::CutEarly));
        sum("dropped states", 0..=kills, of(Count::StateDropped));
        let kill_reports = of(Count::KilledInStopReport);
        sum("kills by the stop", exactly(killed_in_stop), kill_reports);
        let stops = of(Count::PoolStoppedReport);
        sum("stops of the pool by itself", exactly(by_itself), stops);
        if by_itself == 1 {
            let too_many = reports(u64::from(setup.settings.intensity) + 1);
            sum("failures before the stop", too_many, self.failures);
        }
        sums
    }
}

/// Removes the mapping that a dual-stack listener applies to an address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
