//! Every connection of one pool from both its ends: what the client did and saw, and what the server did.
//!
//! A connection is known by the client's address, which is entered before the
//! client connects: so nobody is served who is not in here. Invariants: an
//! address has one entry at a time; an entry is struck out when both ends are
//! over and agree, so that only what is under way takes memory; what does not
//! agree is kept as wrong.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use acceptor_core::{ChildId, Event, Failure, ListenerId, Report};

use super::account::{Reports, Tally};
use super::exhaustion;
use super::way::{Outcome, Way};
use conformance_tests::{Broken, Verdict};

/// What a client saw in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// All that was to come, and then the end.
    Done,
    /// Nothing more: it left by itself.
    Left,
    /// The end, too early.
    CutShort,
    /// Neither an answer nor an end, for as long as patience lasts.
    Nothing,
    /// Something else than it said.
    Mangled,
}

/// What is to become of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Runs,
    /// It may stop by itself at any moment.
    MayStop,
    /// It stops, or has stopped.
    Stops,
}

/// Why an address cannot be entered: it is there, and its connection not over at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken;

#[derive(Debug)]
struct Entry {
    way: Way,
    /// Where the client connects to.
    to: SocketAddr,
    /// The number of the listener there.
    place: usize,
    client: ClientsEnd,
    server: ServersEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientsEnd {
    UnderWay,
    Over(Seen, WhenOver),
}

/// Whether there was a reason to be cut short unserved when the client was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenOver {
    ListenerOpen,
    ListenerClosing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServersEnd {
    Unserved,
    /// Killed by its id before it was served.
    Killed,
    Serving,
    Over(Outcome),
}

/// How many mistakes are kept: the first ones tell the most.
const MOST_WRONG: usize = 10;

/// The connections of one pool.
#[derive(Debug)]
pub(super) struct Ledger {
    pages: Mutex<Pages>,
}

#[derive(Debug)]
struct Pages {
    entries: HashMap<SocketAddr, Entry>,
    fate: Fate,
    /// The numbers of the listeners that are being closed, or were.
    closing: HashSet<usize>,
    /// Who was told to stop or to die.
    told: HashSet<ChildId>,
    /// Those of them that were dropped, and not reported as killed.
    dropped_when_told: HashSet<ChildId>,
    taken_from: HashMap<ListenerId, u64>,
    tally: Tally,
    reports: Reports,
    wrong: Vec<Broken>,
}

/// What a ledger comes to once the pool is gone.
#[derive(Debug)]
pub(super) struct Balance {
    pub(super) tally: Tally,
    pub(super) reports: Reports,
    /// Children that were told to stop and did, before the pool stopped or with it.
    pub(super) asked_away: u64,
}

impl Ledger {
    pub(super) fn new(fate: Fate) -> Self {
        Self {
            pages: Mutex::new(Pages {
                entries: HashMap::new(),
                fate,
                closing: HashSet::new(),
                told: HashSet::new(),
                dropped_when_told: HashSet::new(),
                taken_from: HashMap::new(),
                tally: Tally::default(),
                reports: Reports::default(),
                wrong: Vec::new(),
            }),
        }
    }

    /// A client is about to connect from one address to the other, where the listener with this number is.
    pub(super) fn comes(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        place: usize,
        way: Way,
    ) -> Result<(), Taken> {
        let mut pages = self.pages();
        if pages.entries.contains_key(&from) {
            return Err(Taken);
        }
        let entry = Entry {
            way,
            to,
            place,
            client: ClientsEnd::UnderWay,
            server: ServersEnd::Unserved,
        };
        pages.entries.insert(from, entry);
        Ok(())
    }

    /// The system did not let the client connect, for no reason of the server's.
    pub(super) fn withdraws(&self, from: SocketAddr) {
        self.pages().entries.remove(&from);
    }

    /// Nobody listens there.
    pub(super) fn refused(&self, from: SocketAddr) {
        let mut pages = self.pages();
        let Some(entry) = pages.entries.remove(&from) else {
            return;
        };
        pages.tally.refused += 1;
        if entry.server != ServersEnd::Unserved {
            let seen = format!("{from} was refused, and served");
            pages.wrong("who is refused is not served", seen);
        }
        if pages.fate == Fate::Runs && !pages.closing.contains(&entry.place) {
            let seen = format!("{} refused {from}, and was not to be closed", entry.to);
            pages.wrong("an open listener refuses nobody", seen);
        }
    }

    /// The client is connected.
    pub(super) fn connected(&self, from: SocketAddr) {
        let mut pages = self.pages();
        let way = pages.entries.get(&from).map(|entry| entry.way);
        if let Some(way) = way {
            pages.tally.made[way as usize] += 1;
        }
    }

    /// The client has come to an end, and its socket is closed.
    pub(super) fn client_over(&self, from: SocketAddr, seen: Seen) {
        let mut pages = self.pages();
        let running = pages.fate == Fate::Runs;
        let Pages {
            entries, closing, ..
        } = &mut *pages;
        let Some(entry) = entries.get_mut(&from) else {
            return;
        };
        let when = if running && !closing.contains(&entry.place) {
            WhenOver::ListenerOpen
        } else {
            WhenOver::ListenerClosing
        };
        entry.client = ClientsEnd::Over(seen, when);
        let way = entry.way.words();
        match seen {
            Seen::Nothing => {
                let seen = format!("{from}, which {way}, got none, and no end either");
                pages.wrong("who is connected gets an answer, or an end", seen);
            }
            Seen::Mangled => {
                let seen = format!("{from}, which {way}, heard something else than it said");
                pages.wrong("each client hears what it said, and nothing else", seen);
            }
            Seen::Done | Seen::Left | Seen::CutShort => {}
        }
        pages.strike_out(from);
    }

    /// `serve` has begun on a connection.
    pub(super) fn begins(
        &self,
        peer: SocketAddr,
        local: SocketAddr,
        listener: ListenerId,
        child: ChildId,
    ) {
        let mut pages = self.pages();
        pages.tally.served += 1;
        *pages.taken_from.entry(listener).or_default() += 1;
        let from = canonical(peer);
        let Some(entry) = pages.entries.get_mut(&from) else {
            let seen = format!("connection {child} is from {from}, which nobody connects from");
            return pages.wrong("who is served has connected", seen);
        };
        let before = std::mem::replace(&mut entry.server, ServersEnd::Serving);
        let (to, local) = (entry.to, canonical(local));
        if before != ServersEnd::Unserved {
            let seen = format!("connection {child}, from {from}, was {before:?} when it was");
            pages.wrong("each connection is served once", seen);
        }
        if to != local {
            let seen = format!("{from} connected to {to}, and its local address is {local}");
            pages.wrong("a connection has its own local address", seen);
        }
    }

    /// `serve` has returned or was dropped, and with it the socket.
    pub(super) fn ends(&self, peer: SocketAddr, child: ChildId, outcome: Outcome) {
        let mut pages = self.pages();
        pages.tally.ends.count(outcome);
        let from = canonical(peer);
        let told = pages.told.contains(&child);
        let interfered = told || pages.fate != Fate::Runs;
        if outcome == Outcome::Dropped && told {
            pages.dropped_when_told.insert(child);
        }
        let Some(entry) = pages.entries.get_mut(&from) else {
            return;
        };
        entry.server = ServersEnd::Over(outcome);
        let way = entry.way;
        let asked_for = match outcome {
            Outcome::Dropped => interfered,
            Outcome::Clean if way == Way::TrapsStop => interfered,
            outcome => way.due() == Some(outcome),
        };
        if !asked_for {
            let seen = format!(
                "connection {child}, which {}, ended as {outcome:?}{}",
                way.words(),
                if interfered { "" } else { ", told by nobody" }
            );
            pages.wrong("each connection ends as its client has it", seen);
        }
        pages.strike_out(from);
    }

    /// This child is about to be told to stop or to die.
    pub(super) fn tells(&self, child: ChildId) {
        self.pages().told.insert(child);
    }

    /// This listener is about to be closed.
    pub(super) fn closes(&self, place: usize) {
        self.pages().closing.insert(place);
    }

    /// The pool is about to be stopped, or to be brought to stop.
    pub(super) fn fate(&self, fate: Fate) {
        self.pages().fate = fate;
    }

    /// The pool has something to report.
    pub(super) fn reported(&self, report: &Report<SocketAddr>) {
        let mut pages = self.pages();
        pages.reports.count(&report.event);
        match &report.event {
            Event::ConnectionFailed {
                listener,
                child,
                peer,
                failure: Failure::Killed,
                ..
            } => pages.killed(*listener, *child, canonical(*peer)),
            Event::AcceptPaused { error, .. } if !exhaustion::is_cause_of(error) => {
                let seen = format!("a pause for: {error}");
                pages.wrong("a listener pauses for want of descriptors", seen);
            }
            _ => {}
        }
    }

    /// Whether every connection has been served to its end, but for those that a closed listener took along.
    pub(super) fn at_rest(&self) -> Result<(), String> {
        let pages = self.pages();
        let under_way = |entry: &&Entry| match entry.server {
            ServersEnd::Unserved => !pages.closing.contains(&entry.place),
            ServersEnd::Serving => true,
            ServersEnd::Killed | ServersEnd::Over(_) => entry.client == ClientsEnd::UnderWay,
        };
        let left: Vec<_> = pages.entries.values().filter(under_way).collect();
        match left.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} under way, such as {first:?}", left.len())),
        }
    }

    /// How many connections from a listener were served, or killed before they were.
    pub(super) fn taken_from(&self, listener: ListenerId) -> u64 {
        let pages = self.pages();
        pages.taken_from.get(&listener).copied().unwrap_or(0)
    }

    pub(super) fn pauses(&self) -> u64 {
        self.pages().reports.pauses
    }

    /// How many calls of `serve` there were so far.
    pub(super) fn served(&self) -> u64 {
        self.pages().tally.served
    }

    /// How many of them have ended.
    pub(super) fn ended(&self) -> u64 {
        self.pages().tally.ends.total()
    }

    /// The pool is gone, and so are the clients: what is still in here was never served.
    pub(super) fn balance(&self) -> Balance {
        let mut pages = self.pages();
        for (from, entry) in std::mem::take(&mut pages.entries) {
            let way = entry.way.words();
            match (entry.client, entry.server) {
                (_, ServersEnd::Serving) => {
                    let seen = format!("{from}, which {way}, is still being served");
                    pages.wrong("nobody is served once the pool is gone", seen);
                }
                (ClientsEnd::UnderWay, _) => {
                    let seen = format!("{from}, which {way}, did not");
                    pages.wrong("each client comes to an end", seen);
                }
                (ClientsEnd::Over(seen, when), ServersEnd::Unserved) => {
                    pages.tally.unserved += 1;
                    let well = match seen {
                        Seen::Left => true,
                        Seen::CutShort if when == WhenOver::ListenerOpen => {
                            // Killed by its id before it was served: an end that the stop overtook has no report of its own.
                            let may_be = pages.fate == Fate::Stops && !pages.told.is_empty();
                            pages.tally.cut_early += u64::from(may_be);
                            may_be
                        }
                        Seen::CutShort => true,
                        Seen::Done | Seen::Nothing | Seen::Mangled => false,
                    };
                    if !well {
                        let seen = format!("{from}, which {way}, was not: it saw {seen:?}");
                        pages.wrong(
                            "each connection is served, unless its listener closes",
                            seen,
                        );
                    }
                }
                (ClientsEnd::Over(..), ServersEnd::Killed | ServersEnd::Over(_)) => {}
            }
        }
        Balance {
            tally: pages.tally.clone(),
            reports: pages.reports.clone(),
            asked_away: pages.dropped_when_told.len() as u64,
        }
    }

    /// What was wrong so far, the first of it first.
    pub(super) fn wrong(&self) -> Vec<Broken> {
        self.pages().wrong.clone()
    }

    /// Whether nothing was wrong so far.
    pub(super) fn verdict(&self) -> Verdict {
        self.pages().wrong.first().cloned().map_or(Ok(()), Err)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn wrong(&mut self, expected: &str, seen: String) {
        if self.wrong.len() < MOST_WRONG {
            self.wrong.push(Broken::new(expected, seen));
        }
    }

    /// A connection was reported as killed.
    fn killed(&mut self, listener: ListenerId, child: ChildId, from: SocketAddr) {
        if !self.told.contains(&child) {
            let seen = format!("connection {child}, from {from}, was told nothing");
            self.wrong("who is killed was told to die", seen);
        }
        if self.dropped_when_told.remove(&child) {
            return;
        }
        // The kill came before `serve` was polled.
        self.tally.killed_unserved += 1;
        *self.taken_from.entry(listener).or_default() += 1;
        match self.entries.get_mut(&from) {
            Some(entry) if entry.server == ServersEnd::Unserved => {
                entry.server = ServersEnd::Killed;
                self.strike_out(from);
            }
            _ => {
                let seen = format!("connection {child}, from {from}, was neither");
                self.wrong("who is killed was being served, or was to be", seen);
            }
        }
    }

    /// Strikes an entry out if both ends are over, and holds one against the other.
    fn strike_out(&mut self, from: SocketAddr) {
        let Some(entry) = self.entries.get(&from) else {
            return;
        };
        let ClientsEnd::Over(seen, _) = entry.client else {
            return;
        };
        let agreed = match (entry.server, seen) {
            (ServersEnd::Unserved | ServersEnd::Serving, _) => return,
            // What was told as wrong is not told twice.
            (_, Seen::Nothing | Seen::Mangled) => true,
            (ServersEnd::Killed, seen) => seen != Seen::Done,
            // It may have been dropped after the client saw all there was to see.
            (ServersEnd::Over(Outcome::Dropped), _) => true,
            (ServersEnd::Over(Outcome::Clean), Seen::CutShort) => entry.way == Way::TrapsStop,
            (ServersEnd::Over(_), seen) => seen != Seen::CutShort,
        };
        let (way, server) = (entry.way.words(), entry.server);
        self.entries.remove(&from);
        if !agreed {
            let seen = format!("{from}, which {way}, saw {seen:?}: on the server it is {server:?}");
            self.wrong("both ends of a connection agree", seen);
        }
    }
}

/// The address without the mapping that a listener for both families makes of it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
