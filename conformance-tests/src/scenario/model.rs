//! What must be, told from what the callbacks, the clients and the network saw: so simple that it is obviously right.
//!
//! The model knows nothing of tasks, lines or locks. A child is what was seen of
//! it; its end follows from how `serve` or `terminate` came out, or from what it
//! was told; a failure is a time in a list; a phase is a time that it may end at
//! the earliest. Every event of the book is seen in its order, one batch for
//! each poll and each call. Invariant: an end is complete, and its consequences
//! are known, before anything else is seen.

mod children;
mod looking;
mod starts;
mod stopping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use acceptor_core::{
    AcceptErrorKind, ChildId, ConnectionRecord, EndKind, ListenerId, Phase, PoolState, Report,
    StopReason, StopReport,
};

use super::SpecSetting;
use super::event::Event;
use crate::simulated::{AcceptFault, Happened};

use self::children::{Child, Stage};
pub(super) use self::looking::Polls;
use self::starts::Starts;
use self::stopping::Stop;

/// Something is otherwise than it must be.
#[derive(Debug, Clone)]
pub(super) struct Breach {
    pub(super) rule: &'static str,
    pub(super) expected: String,
    pub(super) seen: String,
}

pub(super) type Seen = Result<(), Breach>;

pub(super) fn breach<T>(
    rule: &'static str,
    expected: impl Into<String>,
    seen: impl Into<String>,
) -> Result<T, Breach> {
    Err(Breach {
        rule,
        expected: expected.into(),
        seen: seen.into(),
    })
}

/// A breach unless both are the same.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(
    rule: &'static str,
    what: &str,
    expected: T,
    seen: T,
) -> Seen {
    if expected == seen {
        return Ok(());
    }
    breach(
        rule,
        format!("{what}: {expected:?}"),
        format!("{what}: {seen:?}"),
    )
}

/// Where a client of a listener calls it: nobody can call any address.
pub(super) fn reached(listener: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match listener.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listener.port())
}

/// Whether the runtime is dropping a task of the pool's just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tasks {
    Run,
    /// That of one child.
    ChildDropped,
    /// The pool's own, or that of a listener.
    OwnDropped,
}

pub(super) struct Model {
    pub(super) spec: SpecSetting,
    pub(super) generation: u32,
    pub(super) listeners: Vec<Listening>,
    children: BTreeMap<ChildId, Child>,
    peers: BTreeMap<SocketAddr, Peer>,
    /// Clients that reset their connection: they may be gone before their address is read (A1).
    reset: BTreeSet<SocketAddr>,
    /// When failures were counted that are not forgotten.
    failures: Vec<Instant>,
    stop: Option<Stop>,
    reports: VecDeque<Expected>,
    starts: Starts,
    /// Whose end is being seen.
    ending: Option<ChildId>,
    /// Since the last reconfiguration every child above this one is of this generation.
    frontier: Option<(ChildId, u32)>,
    now: Instant,
    /// The number of the poll, or call, whose events are being seen.
    batch: u64,
    tasks: Tasks,
    /// Acceptors of which nothing was seen when their listener was told to end: they end unseen.
    unseen: usize,
    /// The pool's own task was dropped: it can keep no time.
    pub(super) timeless: bool,
    /// How many times a task may have been woken by the pool for what was seen, be it for nothing.
    pub(super) wakes: u64,
    closes: Vec<ListenerId>,
    joins: usize,
    result: Option<StopReport>,
}

/// A listener, as its owner knows it.
pub(super) struct Listening {
    pub(super) id: ListenerId,
    pub(super) address: SocketAddr,
    pub(super) acceptors: usize,
    /// Why it is not open any more, be its socket closed yet or not.
    pub(super) told: Option<Ending>,
    /// With which error it failed, if it did.
    failure: String,
    pub(super) socket: SocketState,
    /// Who waits, in the order in which they began to.
    line: VecDeque<ChildId>,
    pause: Pause,
    accepted: u64,
    skipped: u64,
    pauses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketState {
    Open,
    Closed,
}

/// Why a listener, or an acceptor, was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Closed,
    Failed,
    Stopped,
    Asked,
}

/// How a listener pauses for want of resources (A2).
struct Pause {
    until: Option<Instant>,
    next: Duration,
    reported: Option<Instant>,
    unreported: u64,
}

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const SECOND: Duration = Duration::from_secs(1);

/// More calls of `accept` than that come to an end in one poll only of who lets no other task run.
const ACCEPTS_IN_A_ROW: usize = 50;

/// What has become of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// It waits to be accepted by this listener.
    Waits(SocketAddr),
    /// This child serves it, or has served it.
    Served(ChildId),
    /// It was gone before its address could be read (A1).
    Skipped,
}

/// A report that must come next.
#[derive(Debug, Clone)]
enum Expected {
    Child(Failed),
    /// With this error.
    ListenerFailed(ListenerId, SocketAddr, String),
    AcceptPaused {
        listener: ListenerId,
        address: SocketAddr,
        text: String,
        pause: Duration,
        unreported: u64,
    },
    PoolStopped(StopReason),
}

/// The end of a child that must be reported.
#[derive(Debug, Clone)]
struct Failed {
    child: ChildId,
    listener: ListenerId,
    sort: Sort,
    kind: EndKind,
    /// What the error or the panic says.
    text: &'static str,
    peer: Option<(SocketAddr, Duration)>,
}

/// Under which name an end is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    StartError,
    Acceptor,
    Connection,
}

impl Model {
    pub(super) fn new(spec: SpecSetting, generation: u32, now: Instant) -> Self {
        Self {
            spec,
            generation,
            listeners: Vec::new(),
            children: BTreeMap::new(),
            peers: BTreeMap::new(),
            reset: BTreeSet::new(),
            failures: Vec::new(),
            stop: None,
            reports: VecDeque::new(),
            starts: Starts::default(),
            ending: None,
            frontier: None,
            now,
            batch: 0,
            tasks: Tasks::Run,
            unseen: 0,
            timeless: false,
            wakes: 0,
            closes: Vec::new(),
            joins: 0,
            result: None,
        }
    }

    pub(super) fn state(&self) -> PoolState {
        match &self.stop {
            None => PoolState::Running,
            Some(stop) if stop.finished.is_some() => PoolState::Stopped,
            Some(stop) => PoolState::Stopping(stop.phase),
        }
    }

    /// What comes now came of one poll, or one call, at this time.
    pub(super) fn begin(&mut self, now: Instant, tasks: Tasks) {
        self.now = now;
        self.batch += 1;
        self.tasks = tasks;
    }

    /// A listener was added.
    pub(super) fn listens(&mut self, id: ListenerId, address: SocketAddr, acceptors: usize) {
        for _ in 0..acceptors {
            self.starts.start(self.listeners.len(), self.now, 0);
        }
        self.listeners.push(Listening {
            id,
            address,
            acceptors,
            told: None,
            failure: String::new(),
            socket: SocketState::Open,
            line: VecDeque::new(),
            pause: Pause {
                until: None,
                next: FIRST_PAUSE,
                reported: None,
                unreported: 0,
            },
            accepted: 0,
            skipped: 0,
            pauses: 0,
        });
    }

    pub(super) fn connects(&mut self, peer: SocketAddr, listener: SocketAddr) {
        self.peers.insert(peer, Peer::Waits(listener));
    }

    pub(super) fn resets(&mut self, peer: SocketAddr) {
        self.reset.insert(peer);
    }

    pub(super) fn peer(&self, peer: SocketAddr) -> Option<Peer> {
        self.peers.get(&peer).copied()
    }

    /// A listener is to close, or failed: its acceptors are told, and accept no more.
    pub(super) fn closes(&mut self, listener: usize, ending: Ending) {
        let listening = &mut self.listeners[listener];
        if listening.told.is_some() {
            return;
        }
        listening.told = Some(ending);
        listening.line.clear();
        let unseen = self.starts.forget(listener);
        match &mut self.stop {
            Some(stop) => stop.unseen += unseen,
            None => self.unseen += unseen,
        }
        let (now, batch) = (self.now, self.batch);
        for child in self.children.values_mut() {
            if child.listener == listener && child.is_acceptor() {
                child.tell(ending, now, batch);
            }
        }
        // Its acceptors, its own task, whoever waits for it to close, and the pool's own task.
        self.wakes += 3 + self.listeners[listener].acceptors as u64;
    }

    /// How many wakes by the pool an event accounts for.
    fn wakes_of(event: &Event, later: &[Event]) -> u64 {
        match event {
            // The pool's own task, so that there is one for another thread to take.
            Event::Network(Happened::Accepted { .. }) => 1,
            // The connection's that it replaces, which serves only after that; unless it was through in one poll.
            Event::InitBegan { child, .. } => {
                let ends = |event: &Event| matches!(event, Event::InitEnded { child: other, .. } if other == child);
                u64::from(!later.iter().any(ends))
            }
            // The listener's own, so that others have their turn.
            Event::Network(Happened::Failed { .. }) => 1,
            // Whoever waits for the end, and the pool's own task.
            Event::Network(Happened::Closed { .. }) | Event::Joined(_) => 2,
            Event::Called { .. } => 2,
            // What it then waits for is told once.
            Event::Trapped { .. } => 1,
            _ => 0,
        }
    }

    pub(super) fn awaits_close(&mut self, listener: ListenerId) {
        self.closes.push(listener);
    }

    pub(super) fn awaits_result(&mut self) {
        self.joins += 1;
    }

    /// The spec was replaced.
    pub(super) fn reconfigured(&mut self, spec: SpecSetting, generation: u32) {
        self.spec = spec;
        self.generation = generation;
        let last = self.children.keys().next_back();
        self.frontier = last
            .filter(|_| self.starts.all_have_begun())
            .map(|last| (*last, generation));
    }

    /// One child is told to end, or is killed, by its id.
    pub(super) fn told_alone(&mut self, child: ChildId, killed: Killed) {
        let (now, batch) = (self.now, self.batch);
        if let Some(known) = self.children.get_mut(&child) {
            match killed {
                Killed::Yes => known.kill(batch),
                Killed::No => known.ask(now, batch),
            }
            self.wakes += 2;
            if known.stage == Stage::Waiting {
                let listener = known.listener;
                self.listeners[listener]
                    .line
                    .retain(|other| *other != child);
            }
        }
    }

    /// Sees what came of one poll or call. `connections` is the pool's list, where a connection was accepted.
    pub(super) fn see(
        &mut self,
        events: &[Event],
        connections: &[ConnectionRecord<SocketAddr>],
    ) -> Seen {
        let accepts = |event: &&Event| {
            use Happened::{Accepted, Failed};
            matches!(event, Event::Network(Accepted { .. } | Failed { .. }))
        };
        let accepted = events.iter().filter(accepts).count();
        if accepted > ACCEPTS_IN_A_ROW {
            let expected =
                format!("others have their turn after at most {ACCEPTS_IN_A_ROW} accepts");
            return breach("A1", expected, format!("{accepted} in one poll"));
        }
        for (number, event) in events.iter().enumerate() {
            self.wakes += Self::wakes_of(event, &events[number + 1..]);
            self.see_one(event, &events[number + 1..], connections)?;
        }
        self.end_is_complete()?;
        match self.reports.front() {
            Some(expected) => breach("E1", format!("it is reported: {expected:?}"), "nothing"),
            None => Ok(()),
        }
    }

    fn see_one(
        &mut self,
        event: &Event,
        later: &[Event],
        connections: &[ConnectionRecord<SocketAddr>],
    ) -> Seen {
        // The states and streams of a child go one after the other: only then is its end complete.
        let goes_on = match event {
            Event::StateDropped { child, .. }
            | Event::Exploded { child }
            | Event::TerminateEnded { child, .. } => self.ending == Some(*child),
            Event::Network(Happened::Dropped { peer }) => {
                self.ending.is_some() && self.peer(*peer) == self.ending.map(Peer::Served)
            }
            _ => false,
        };
        if !goes_on {
            self.end_is_complete()?;
        }
        match event {
            Event::Network(Happened::Accepted { listener, peer }) => {
                self.accepted(*listener, *peer, later, connections)
            }
            Event::Network(Happened::Failed { listener, fault }) => {
                self.accept_failed(*listener, *fault)
            }
            Event::Network(Happened::Closed { listener }) => self.socket_closed(*listener),
            Event::Reported(report) => self.reported(report),
            Event::CloseReturned(listener) => self.close_returned(*listener),
            Event::Joined(report) => self.joined(report),
            event => self.see_child(event),
        }
    }

    fn listener_at(&self, address: SocketAddr) -> Option<usize> {
        let mut listeners = self.listeners.iter();
        listeners.position(|listening| listening.address == address)
    }

    pub(super) fn listener(&self, id: ListenerId) -> Option<usize> {
        let mut listeners = self.listeners.iter();
        listeners.position(|listening| listening.id == id)
    }

    fn accepted(
        &mut self,
        address: SocketAddr,
        peer: SocketAddr,
        later: &[Event],
        connections: &[ConnectionRecord<SocketAddr>],
    ) -> Seen {
        let Some(number) = self.listener_at(address) else {
            return breach("L2", "a listener of the pool accepts", format!("{address}"));
        };
        if self.peer(peer) != Some(Peer::Waits(address)) {
            let seen = format!("it was {:?}", self.peer(peer));
            return breach("L2", format!("{peer} is accepted once"), seen);
        }
        let now = self.now;
        let listening = &mut self.listeners[number];
        if let Some(told) = listening.told {
            let expected = format!("{address} accepts no more, for it was {told:?}");
            return breach("L3", expected, format!("it accepts {peer}"));
        }
        if let Some(until) = listening.pause.until.filter(|until| *until > now) {
            let expected = format!("{address} pauses for {:?} more", until - now);
            return breach("A2", expected, format!("it accepts {peer}"));
        }
        listening.pause.until = None;
        listening.pause.next = FIRST_PAUSE;
        let gone = |event: &Event| matches!(event, Event::Network(Happened::Dropped { peer: other }) if *other == peer);
        if later.iter().any(gone) {
            if !address.ip().is_unspecified() || !self.reset.contains(&peer) {
                return breach("L2", format!("{peer} is served"), "it is dropped at once");
            }
            listening.skipped += 1;
            self.peers.insert(peer, Peer::Skipped);
            return Ok(());
        }
        let mut listed = connections.iter().filter(|record| record.peer_addr == peer);
        let (Some(record), None) = (listed.next(), listed.next()) else {
            let count = connections.iter().filter(|record| record.peer_addr == peer);
            let seen = format!("{} of it in the list", count.count());
            return breach(
                "Q3",
                format!("{peer} is listed from when it is accepted"),
                seen,
            );
        };
        self.became(number, record)
    }

    fn accept_failed(&mut self, address: SocketAddr, fault: AcceptFault) -> Seen {
        use std::io::ErrorKind;
        let Some(number) = self.listener_at(address) else {
            return breach("A3", "a listener of the pool accepts", format!("{address}"));
        };
        let now = self.now;
        let listening = &mut self.listeners[number];
        if let Some(until) = listening.pause.until.filter(|until| *until > now) {
            let expected = format!("{address} pauses for {:?} more", until - now);
            return breach("A2", expected, "`accept` is called");
        }
        listening.pause.until = None;
        let kind = match fault {
            AcceptFault::Error(ErrorKind::ConnectionAborted) => AcceptErrorKind::Connection,
            AcceptFault::NotListening | AcceptFault::Panic => AcceptErrorKind::Listener,
            AcceptFault::Error(ErrorKind::Other) => self.spec.unknown.kind(),
            AcceptFault::Error(_) => AcceptErrorKind::Resources,
        };
        match kind {
            AcceptErrorKind::Connection => listening.skipped += 1,
            AcceptErrorKind::Listener => {
                if listening.told.is_none() {
                    self.listener_failed(number, fault.text());
                }
            }
            AcceptErrorKind::Resources => {
                let text = fault.text();
                let pause = &mut listening.pause;
                let length = pause.next;
                pause.until = Some(now + length);
                pause.next = (2 * length).min(SECOND);
                listening.pauses += 1;
                if pause.reported.is_some_and(|at| now - at < SECOND) {
                    pause.unreported += 1;
                } else {
                    pause.reported = Some(now);
                    self.reports.push_back(Expected::AcceptPaused {
                        listener: listening.id,
                        address,
                        text,
                        pause: length,
                        unreported: std::mem::take(&mut pause.unreported),
                    });
                }
            }
        }
        Ok(())
    }

    fn socket_closed(&mut self, address: SocketAddr) -> Seen {
        // One that was refused is not the pool's.
        let Some(number) = self.listener_at(address) else {
            return Ok(());
        };
        self.listeners[number].socket = SocketState::Closed;
        self.phases_go_on();
        let listening = &mut self.listeners[number];
        if listening.told.is_some() {
            return Ok(());
        }
        if self.tasks == Tasks::Run {
            return breach("L4", format!("{address} stays open"), "it is closed");
        }
        // Its runtime dropped the task that holds it.
        self.listener_failed(number, "the runtime dropped the listener's task".into());
        Ok(())
    }

    /// A listener fails with this error: it is reported, and its acceptors are told (L4).
    fn listener_failed(&mut self, number: usize, text: String) {
        let listening = &mut self.listeners[number];
        listening.failure.clone_from(&text);
        let (id, address) = (listening.id, listening.address);
        let report = Expected::ListenerFailed(id, address, text);
        self.reports.push_back(report);
        self.closes(number, Ending::Failed);
    }

    fn close_returned(&mut self, listener: ListenerId) -> Seen {
        let known = self.closes.iter().position(|other| *other == listener);
        let Some(known) = known else {
            return breach("L3", "who waits for a close is told once", "told again");
        };
        self.closes.remove(known);
        let number = self.listener(listener);
        let open = number.filter(|number| self.listeners[*number].socket == SocketState::Open);
        match open {
            Some(_) => breach(
                "L3",
                format!("the socket of listener {listener} is closed when `close` returns"),
                "it is open",
            ),
            None => Ok(()),
        }
    }

    fn reported(&mut self, report: &Report<SocketAddr>) -> Seen {
        use acceptor_core::Event as Reported;
        if self.state() == PoolState::Stopped {
            let expected = "nothing is reported after the pool has stopped";
            return breach("E3", expected, report.to_string());
        }
        let pool = format!("g{}", self.generation);
        same("R1", "the pool of a report", pool.as_str(), &*report.pool)?;
        match &report.event {
            Reported::KilledWhileStopping { count, .. } => return self.killed(*count),
            Reported::Stuck { count, .. } => return self.stuck(*count),
            Reported::AcceptorFailed {
                listener,
                child,
                failure: acceptor_core::Failure::Lost,
                ..
            } if self.tasks != Tasks::Run && !self.children.contains_key(child) => {
                // Dropped by the runtime before anything was seen of it.
                return self.unseen_lost(*child, *listener);
            }
            _ => {}
        }
        let Some(expected) = self.reports.pop_front() else {
            return breach("E1", "nothing is reported", report.to_string());
        };
        if expected.is(&report.event) {
            return Ok(());
        }
        let expected = format!("it is reported: {expected:?}");
        breach("E1", expected, report.to_string())
    }
}

/// Whether a child is killed, or only asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Killed {
    Yes,
    No,
}

impl Expected {
    fn is(&self, event: &acceptor_core::Event<SocketAddr>) -> bool {
        use acceptor_core::Event as Reported;
        match (self, event) {
            (
                Expected::Child(expected),
                Reported::StartError {
                    child,
                    listener,
                    failure,
                    ..
                },
            ) => expected.is(Sort::StartError, *child, *listener, failure, None),
            (
                Expected::Child(expected),
                Reported::AcceptorFailed {
                    child,
                    listener,
                    failure,
                    ..
                },
            ) => expected.is(Sort::Acceptor, *child, *listener, failure, None),
            (
                Expected::Child(expected),
                Reported::ConnectionFailed {
                    child,
                    listener,
                    failure,
                    peer,
                    age,
                    ..
                },
            ) => {
                let peer = Some((*peer, *age));
                expected.is(Sort::Connection, *child, *listener, failure, peer)
            }
            (
                Expected::ListenerFailed(id, address, text),
                Reported::ListenerFailed {
                    listener,
                    local_addr,
                    error,
                    ..
                },
            ) => id == listener && address == local_addr && *text == error.to_string(),
            (
                Expected::AcceptPaused {
                    listener,
                    address,
                    text,
                    pause,
                    unreported,
                },
                Reported::AcceptPaused {
                    listener: other,
                    local_addr,
                    error,
                    pause: length,
                    unreported: more,
                    ..
                },
            ) => {
                (listener, pause, unreported) == (other, length, more)
                    && address == local_addr
                    && *text == error.to_string()
            }
            (Expected::PoolStopped(reason), Reported::PoolStopped { reason: other, .. }) => {
                reason == other
            }
            _ => false,
        }
    }
}

impl Failed {
    fn is(
        &self,
        sort: Sort,
        child: ChildId,
        listener: ListenerId,
        failure: &acceptor_core::Failure,
        peer: Option<(SocketAddr, Duration)>,
    ) -> bool {
        use acceptor_core::Failure;
        let fits = match (self.kind, failure) {
            (EndKind::Error, Failure::Error(error)) => error.to_string() == self.text,
            (EndKind::Panic, Failure::Panic(message)) => message == self.text,
            (EndKind::Killed, Failure::Killed) | (EndKind::Lost, Failure::Lost) => true,
            _ => false,
        };
        fits && (self.sort, self.child, self.listener, self.peer) == (sort, child, listener, peer)
    }
}

/// The phase that comes after.
fn after(phase: Phase) -> Option<Phase> {
    match phase {
        Phase::LameDuck => Some(Phase::Grace),
        Phase::Grace => Some(Phase::Stop),
        Phase::Stop => Some(Phase::Kill),
        Phase::Kill => None,
    }
}
