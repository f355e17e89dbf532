//! The listeners of the model: what they accept, how they pause, and how they close.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{
    AcceptErrorKind, ConnectionRecord, EndKind, EventKind, ListenerId, StopReason,
};

use super::children::Stage;
use super::outbox::Expected;
use super::starting::Outage;
use super::{Check, Key, Model, Peer, SECOND, Violation, violation};
use crate::event::Event;
use crate::{AtLimitSetting, LastListenerSetting};
use acceptor_simulation::{AcceptFault, NetworkEvent};

/// A listener.
pub(crate) struct ListenerModel {
    pub(crate) id: ListenerId,
    pub(crate) address: SocketAddr,
    pub(super) acceptors: usize,
    /// The number of its runtime.
    pub(super) runtime: u64,
    /// How many children it has had.
    pub(super) numbers: u64,
    /// The close, if the listener was asked to close.
    pub(super) closing: Option<Closing>,
    /// The command to its acceptors since its socket was closed.
    pub(super) end: Option<EndCommand>,
    /// The batch in which all its children were killed.
    pub(super) killed: Option<u64>,
    /// The batch in which all its children got the stop signal.
    pub(super) stopped: Option<u64>,
    /// The error with which it fails, while its socket is open.
    failing: Option<String>,
    /// The error with which it failed.
    pub(super) failure: String,
    /// The waiting acceptors, in the order in which they began to wait (L6).
    pub(super) queue: VecDeque<Key>,
    pub(super) outage: Option<Outage>,
    pub(super) pause: Pause,
    /// Errors of one connection in a row (A5).
    row: Row,
    pub(super) accepted: u64,
    pub(super) skipped: u64,
    pub(super) pauses: u64,
    pub(super) limit: Option<u32>,
    pub(super) refused: u64,
    /// It refuses, and has found no client since a limit was reached: the next one wakes it, even without an acceptor (C2).
    pub(super) refuses_next: bool,
    /// How many of those may have been skipped instead.
    pub(super) refused_or_skipped: u64,
    /// While it certainly waits for a slot of the pool: the listeners that have got one since (C3).
    pub(super) waits_while: Option<BTreeSet<usize>>,
}

/// A command to acceptors to end: the reason, its time and its batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndCommand {
    pub(super) reason: EndReason,
    pub(super) at: Instant,
    pub(super) batch: u64,
}

/// The reason for the end of a listener, or of an acceptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    Closed,
    Failed,
    Stopped,
}

/// The treatment of queued connections when a listener closes (L7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    Accepted,
    /// The listener paused when it was asked to close, and the pause ended before its task saw the close: both are allowed.
    Either,
    /// The listener was asked to close in this batch, while it paused.
    Paused(u64),
    /// They are reset, which is known since this batch.
    Reset(u64),
}

/// The close of a listener, in progress or finished.
pub(super) struct Closing {
    pub(super) reason: EndReason,
    pub(super) queued: Queued,
    pub(super) since: Instant,
    /// The clock jumped past the delay, or a part of it.
    pub(super) jumped: Option<Instant>,
    /// How many connections it has accepted since then.
    taken: usize,
    /// An error of resources or of the listener has ended it.
    failed: bool,
}

/// The pauses of a listener without resources (A2).
#[derive(Default)]
pub(super) struct Pause {
    until: Option<Instant>,
    /// A connection has ended since the pause began: the pause is over.
    resumed: bool,
    /// No connection was accepted since the last error of resources. A pause after errors of one connection (A5) ends only
    /// after its time.
    short: bool,
    /// How many pauses came in a row.
    doubled: u32,
    reported: Option<Instant>,
    suppressed: u64,
}

/// Errors of one connection in a row: no connection and no empty queue intervened (A5).
#[derive(Default)]
struct Row {
    errors: u32,
    /// The time since which `accept` is pending after them.
    pending: Option<Instant>,
}

impl Row {
    /// `accept` has returned: now it is known whether the queue was empty before.
    fn ends_wait(&mut self, now: Instant) {
        if self
            .pending
            .take()
            .is_some_and(|since| now - since >= EMPTY_AFTER)
        {
            self.errors = 0;
        }
    }

    /// The kind of one more error.
    fn more(&mut self) -> AcceptErrorKind {
        self.errors += 1;
        if self.errors >= MAX_ERRORS_IN_A_ROW {
            AcceptErrorKind::Resources
        } else {
            AcceptErrorKind::Connection
        }
    }
}

impl Pause {
    /// Whether the listener must not accept.
    pub(super) fn lasts(&self, now: Instant) -> bool {
        !self.resumed && self.until.is_some_and(|until| until > now)
    }

    /// Whether the pause may still be shown although it is over, because the listener's task has not noticed yet.
    pub(super) fn may_be_shown(&self) -> bool {
        self.until.is_some()
    }

    /// No task is ready: the listener's task has noticed the end of the pause.
    pub(super) fn is_noticed(&mut self, now: Instant) {
        if !self.lasts(now) {
            self.until = None;
        }
    }
}

/// A closing listener accepts at most this many queued connections, waits this long for one, and takes at most this long in
/// all (L7).
const MAX_QUEUED: usize = 4096;
const CLOSE_DELAY: Duration = Duration::from_millis(1);
pub(super) const CLOSE_LIMIT: Duration = SECOND;

const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// This many errors of one connection in a row are treated as an error of resources (A5).
const MAX_ERRORS_IN_A_ROW: u32 = 100;

/// An `accept` that is pending for a shorter time may have yielded, so the queue may have connections.
const EMPTY_AFTER: Duration = CLOSE_DELAY;

/// If more calls of `accept` end in one poll, other tasks have to wait.
const MAX_ACCEPTS_IN_A_POLL: usize = 50;

/// The task of a listener yields after this many turns.
const MAX_TURNS: usize = 32;

/// At most this many connections are accepted between the timeout of an acceptor and its end (B6).
const MAX_AFTER_TIMEOUT: u64 = 64;

/// How many acceptors of a listener wait, may leave, and start.
pub(super) struct Readiness {
    pub(super) waiting: usize,
    leaving: usize,
    starting: usize,
}

impl ListenerModel {
    /// Whether its socket is open.
    pub(crate) fn is_open(&self) -> bool {
        self.end.is_none()
    }

    /// Whether it is open, and was not asked to close.
    pub(crate) fn accepts(&self) -> bool {
        self.is_open() && self.closing.is_none()
    }

    /// A connection was refused: an error of one connection is no longer the last.
    pub(super) fn ends_row_of_errors(&mut self) {
        self.pause.doubled = 0;
        self.row = Row::default();
        if let Some(closing) = &mut self.closing {
            closing.taken += 1;
        }
    }

    /// Checks that the listener may call `accept`: it does not pause, and is not closed.
    fn may_call_accept(&self, now: Instant, batch: u64, what: &str) -> Check {
        let address = self.address;
        if self.pause.lasts(now) {
            let expected = format!("{address} pauses");
            return violation("A2", expected, what);
        }
        let Some(closing) = &self.closing else {
            return Ok(());
        };
        let over = match closing.queued {
            Queued::Reset(since) | Queued::Paused(since) => since < batch,
            Queued::Accepted | Queued::Either => {
                closing.failed || closing.taken >= MAX_QUEUED || now >= closing.since + CLOSE_LIMIT
            }
        };
        if over {
            let reason = closing.reason;
            let expected = format!("{address} no longer accepts, because it was {reason:?}");
            return violation("L7", expected, what);
        }
        Ok(())
    }
}

impl Model {
    /// A listener was added.
    pub(crate) fn listens(
        &mut self,
        id: ListenerId,
        address: SocketAddr,
        acceptors: usize,
        runtime: u64,
    ) {
        let number = self.listeners.len();
        self.listeners.push(ListenerModel {
            id,
            address,
            acceptors,
            runtime,
            numbers: 0,
            closing: None,
            end: None,
            killed: None,
            stopped: None,
            failing: None,
            failure: String::new(),
            queue: VecDeque::new(),
            outage: None,
            pause: Pause::default(),
            row: Row::default(),
            accepted: 0,
            skipped: 0,
            pauses: 0,
            limit: None,
            refused: 0,
            refused_or_skipped: 0,
            refuses_next: false,
            waits_while: None,
        });
        for _ in 0..acceptors {
            self.add(number, Stage::Owed { released: false }, 0);
        }
        self.one_more_waits();
        // They are started in batches.
        self.wakes.listeners += acceptors as u64 / 64;
    }

    fn listener_at(&self, address: SocketAddr, rule: &'static str) -> Result<usize, Violation> {
        let mut listeners = self.listeners.iter();
        match listeners.position(|listening| listening.address == address) {
            Some(number) => Ok(number),
            None => violation(rule, "a listener of the pool accepts", address.to_string()),
        }
    }

    pub(crate) fn listener(&self, id: ListenerId) -> Option<usize> {
        let mut listeners = self.listeners.iter();
        listeners.position(|listening| listening.id == id)
    }

    /// How many listeners have an open socket.
    pub(super) fn sockets(&self) -> usize {
        let listeners = self.listeners.iter();
        listeners.filter(|listening| listening.is_open()).count()
    }

    /// The listener is asked to close. The first reason counts; a close that resets queued connections overrides one that does not.
    pub(super) fn closes(&mut self, number: usize, reason: EndReason, drains: bool) {
        let (now, batch) = (self.now, self.batch);
        let listening = &mut self.listeners[number];
        if !listening.is_open() {
            return;
        }
        // A listener that pauses has no resources for queued connections.
        let queued = match (drains, listening.pause.lasts(now)) {
            (true, true) => Queued::Paused(batch),
            (true, false) => Queued::Accepted,
            (false, _) => Queued::Reset(batch),
        };
        match &mut listening.closing {
            None => {
                listening.closing = Some(Closing {
                    reason,
                    queued,
                    since: now,
                    jumped: None,
                    taken: 0,
                    failed: false,
                });
            }
            Some(closing) if !drains && !matches!(closing.queued, Queued::Reset(_)) => {
                closing.queued = queued;
            }
            Some(_) => {}
        }
        self.wakes.driver += 1;
        self.wakes.listeners += 1;
    }

    pub(crate) fn close_by_hand(&mut self, number: usize) {
        if self.listeners[number].closing.is_none() {
            self.closes(number, EndReason::Closed, true);
        }
    }

    /// Only a few calls of `accept` end in one poll, so that other tasks run (A1).
    pub(super) fn accepts_in_one_poll(&mut self, events: &[Event]) -> Check {
        use NetworkEvent::{Accepted, Failed};
        let events = events.iter();
        let accepted = |event: &&Event| matches!(event, Event::Network(Accepted { .. }));
        let failed = |event: &&Event| matches!(event, Event::Network(Failed { .. }));
        let connections = events.clone().filter(accepted).count();
        let ends = connections + events.filter(failed).count();
        if ends > MAX_ACCEPTS_IN_A_POLL {
            let expected = format!("other tasks run after at most {MAX_ACCEPTS_IN_A_POLL} accepts");
            return violation("A1", expected, format!("{ends} in one poll"));
        }
        if ends >= MAX_TURNS {
            self.wakes.listeners += 1;
        }
        if connections > 0 {
            // So that another thread has a task (B5).
            self.may_block();
        }
        Ok(())
    }

    pub(super) fn accepted(
        &mut self,
        address: SocketAddr,
        peer: SocketAddr,
        later: &[Event],
        connections: &[ConnectionRecord<SocketAddr>],
    ) -> Check {
        let number = self.listener_at(address, "L2")?;
        if self.peer(peer) != Some(Peer::Waits(address)) {
            let seen = format!("it was {:?}", self.peer(peer));
            return violation("L2", format!("{peer} is accepted once"), seen);
        }
        let (now, batch) = (self.now, self.batch);
        let listening = &mut self.listeners[number];
        listening.may_call_accept(now, batch, &format!("it accepts {peer}"))?;
        listening.pause.until = None;
        listening.pause.short = false;
        listening.row.ends_wait(now);
        let gone = |event: &Event| matches!(event, Event::Network(NetworkEvent::Dropped { peer: other }) if *other == peer);
        let gone = later.iter().any(gone);
        // Or another listener was granted the last slot, and has not used it yet.
        let refuses = self.spec.at_limit == AtLimitSetting::Refuse;
        let may_be_refused = gone && refuses && self.may_be_full(number);
        if may_be_refused && address.ip().is_unspecified() && self.reset.contains(&peer) {
            // Or it was gone before its address could be read.
            self.listeners[number].refused_or_skipped += u64::from(!self.is_full(number));
        }
        if self.is_full(number) || may_be_refused {
            return self.is_refused(number, peer, gone);
        }
        let listening = &mut self.listeners[number];
        if gone {
            if !address.ip().is_unspecified() || !self.reset.contains(&peer) {
                return violation("L2", format!("{peer} is served"), "it is dropped at once");
            }
            self.peers.insert(peer, Peer::Skipped);
            match (listening.row.more(), &listening.closing) {
                (AcceptErrorKind::Resources, None) => {
                    let error = io::Error::from(io::ErrorKind::NotConnected);
                    self.pauses(number, error.to_string());
                }
                _ => listening.skipped += 1,
            }
            return Ok(());
        }
        listening.pause.doubled = 0;
        listening.row = Row::default();
        if let Some(closing) = &mut listening.closing {
            closing.taken += 1;
        }
        let mut listed = connections.iter().filter(|record| record.peer_addr == peer);
        let (Some(record), None) = (listed.next(), listed.next()) else {
            let count = connections.iter().filter(|record| record.peer_addr == peer);
            let seen = format!("{} records of it", count.count());
            let expected = format!("{peer} is listed as soon as it is accepted");
            return violation("Q3", expected, seen);
        };
        self.became_connection(number, record)?;
        self.takes_slot(number)?;
        self.timeouts_are_honoured(number)
    }

    /// An acceptor whose timeout has expired is dismissed before many more connections are accepted (B6).
    fn timeouts_are_honoured(&mut self, number: usize) -> Check {
        let now = self.now;
        for key in &self.listeners[number].queue {
            let Some(child) = self.children.get_mut(key) else {
                continue;
            };
            if child.deadline.is_none_or(|(at, _)| at > now) || child.leaves {
                continue;
            }
            child.passed_over += 1;
            self.passed_over = true;
            if child.passed_over > MAX_AFTER_TIMEOUT {
                let expected = format!("{key} is dismissed, because its timeout has come");
                let seen = format!("{} connections are accepted before", child.passed_over);
                return violation("B6", expected, seen);
            }
        }
        Ok(())
    }

    pub(super) fn accept_failed(&mut self, address: SocketAddr, fault: AcceptFault) -> Check {
        let number = self.listener_at(address, "A3")?;
        let (now, batch) = (self.now, self.batch);
        let kind = self.classified(fault);
        let listening = &mut self.listeners[number];
        listening.may_call_accept(now, batch, "`accept` is called")?;
        listening.waits_while = None;
        listening.pause.until = None;
        listening.row.ends_wait(now);
        let of_resources = kind == AcceptErrorKind::Resources;
        let kind = match kind {
            AcceptErrorKind::Connection => listening.row.more(),
            kind => kind,
        };
        match (kind, &mut listening.closing) {
            (AcceptErrorKind::Connection, _) => listening.skipped += 1,
            // The listener closes in any case.
            (_, Some(closing)) => closing.failed = true,
            (AcceptErrorKind::Listener, None) => listening.failing = Some(fault.text()),
            (AcceptErrorKind::Resources, None) => {
                listening.pause.short |= of_resources;
                self.pauses(number, fault.text());
            }
        }
        Ok(())
    }

    /// The kind of the error by itself (A1 to A3, A6), and by the spec's table (A4).
    fn classified(&self, fault: AcceptFault) -> AcceptErrorKind {
        use std::io::ErrorKind;
        match fault {
            AcceptFault::Error(ErrorKind::ConnectionAborted | ErrorKind::InvalidInput) => {
                AcceptErrorKind::Connection
            }
            AcceptFault::NotListening | AcceptFault::Panic | AcceptFault::RuntimeGone => {
                AcceptErrorKind::Listener
            }
            AcceptFault::Error(ErrorKind::Other) => self.spec.unknown.into(),
            AcceptFault::Error(_) => AcceptErrorKind::Resources,
        }
    }

    fn pauses(&mut self, number: usize, error: String) {
        let now = self.now;
        let listening = &mut self.listeners[number];
        listening.refuses_next = false;
        let pause = &mut listening.pause;
        let length = (FIRST_PAUSE * 2_u32.pow(pause.doubled.min(10))).min(SECOND);
        pause.until = Some(now + length);
        pause.resumed = false;
        pause.doubled += 1;
        listening.pauses += 1;
        if pause.reported.is_some_and(|at| now - at < SECOND) {
            pause.suppressed += 1;
            return;
        }
        pause.reported = Some(now);
        let suppressed = std::mem::take(&mut pause.suppressed);
        let details = format!("{}: {error}, {length:?}", listening.address);
        let report = Expected::of_listener(EventKind::AcceptPaused, listening.id, details);
        self.reports(report.count(suppressed));
    }

    /// A connection has ended and has freed resources: listeners without resources try again (A2).
    pub(super) fn resources_are_freed(&mut self) {
        for listening in &mut self.listeners {
            if listening.is_open() && listening.pause.short {
                listening.pause.resumed = true;
                if let Some(closing) = &mut listening.closing {
                    if matches!(closing.queued, Queued::Paused(_)) {
                        closing.queued = Queued::Either;
                    }
                }
                self.wakes.listeners += 1;
            }
        }
    }

    pub(super) fn found_nothing(&mut self, address: SocketAddr) -> Check {
        let number = self.listener_at(address, "L5")?;
        let (now, batch) = (self.now, self.batch);
        let listening = &mut self.listeners[number];
        listening.may_call_accept(now, batch, "`accept` is called")?;
        listening.waits_while = None;
        listening.pause.until = None;
        if listening.row.errors > 0 {
            listening.row.pending.get_or_insert(now);
        }
        let refuses = self.spec.at_limit == AtLimitSetting::Refuse;
        self.listeners[number].refuses_next = refuses && self.is_full(number);
        Ok(())
    }

    /// How many acceptors of the listener wait without a reason to end, how many may leave or have left, and how many are
    /// starting.
    pub(super) fn readiness(&self, number: usize) -> Readiness {
        let (mut waiting, mut leaving, mut starting) = (0, 0, 0);
        for (key, child) in self.children_of(number) {
            match child.stage {
                Stage::Waiting if self.may_leave(*key, child) => leaving += 1,
                Stage::Waiting => waiting += 1,
                Stage::Connection | Stage::Terminating => {}
                _ => starting += 1,
            }
        }
        Readiness {
            waiting,
            leaving,
            starting,
        }
    }

    pub(super) fn socket_closed(&mut self, address: SocketAddr, queued: usize) -> Check {
        // A refused listener is not the pool's, and the runner may bind the address again.
        let Ok(number) = self.listener_at(address, "L3") else {
            return Ok(());
        };
        if !self.listeners[number].is_open() {
            return Ok(());
        }
        self.may_close(number, queued)?;
        let (now, batch) = (self.now, self.batch);
        let listening = &mut self.listeners[number];
        let reason = match (&listening.closing, listening.failing.take()) {
            (Some(closing), _) => closing.reason,
            (None, failing) => {
                listening.failure =
                    failing.unwrap_or_else(|| "the runtime dropped the listener's task".to_owned());
                EndReason::Failed
            }
        };
        let at = now;
        listening.end = Some(EndCommand { reason, at, batch });
        self.commanded = true;
        // They are dismissed in batches.
        let batches = listening.queue.len() as u64 / 64;
        self.wakes.listeners += batches;
        self.wakes.driver += batches + 1;
        listening.queue.clear();
        listening.waits_while = None;
        listening.outage = None;
        listening.pause = Pause::default();
        let (id, error) = (listening.id, listening.failure.clone());
        // The pool's own task, and each acceptor in `init`.
        self.wakes.driver += 1;
        self.wakes.others += 1;
        self.wakes.children += self.readiness(number).starting as u64;
        self.end_owed_acceptors(number);
        self.slot_is_passed_on();
        if reason == EndReason::Failed {
            let open = self.listeners.iter();
            let left = open.filter(|listening| listening.accepts()).count();
            let details = format!("{address}: {error}, {left} left");
            self.reports(Expected::of_listener(
                EventKind::ListenerFailed,
                id,
                details,
            ));
            if left == 0 && self.spec.last_listener == LastListenerSetting::Stop {
                self.begins_stop(StopReason::ListenersFailed);
            }
        }
        self.phases_go_on();
        Ok(())
    }

    /// Acceptors that were never started end with their listener.
    fn end_owed_acceptors(&mut self, number: usize) {
        let owed = self.children_of(number);
        let owed = owed.filter(|(_, child)| matches!(child.stage, Stage::Owed { .. }));
        let owed: Vec<_> = owed.map(|(key, _)| *key).collect();
        for key in owed {
            let kind = match self.listeners[number].killed {
                Some(_) => EndKind::Killed,
                None => EndKind::Stopped,
            };
            self.ends_unseen(key, kind);
        }
    }

    /// Whether the socket of a listener may be closed now (L4, L7).
    fn may_close(&self, number: usize, queued: usize) -> Check {
        let listening = &self.listeners[number];
        let address = listening.address;
        if self.tasks.lose_listeners() || listening.failing.is_some() {
            return Ok(());
        }
        let Some(closing) = &listening.closing else {
            return violation("L4", format!("{address} stays open"), "it is closed");
        };
        let since = self.now - closing.since;
        let Readiness {
            waiting,
            leaving,
            starting,
        } = self.readiness(number);
        let at_once = closing.queued != Queued::Accepted
            || closing.failed
            || closing.taken >= MAX_QUEUED
            || since >= CLOSE_LIMIT
            || waiting + starting == 0;
        if at_once {
            return Ok(());
        }
        if queued > 0 {
            let expected = format!("{address} accepts queued connections before it closes");
            return violation("L7", expected, format!("{queued} clients are reset"));
        }
        // A listener that refuses looks without an acceptor.
        let refuses = self.is_limited() && self.spec.at_limit == AtLimitSetting::Refuse;
        if since < CLOSE_DELAY || waiting + leaving == 0 && !refuses {
            let expected =
                format!("{address} stays open until it found nothing after {CLOSE_DELAY:?}");
            let seen = format!("it closes after {since:?}, {starting} acceptors are starting");
            return violation("L7", expected, seen);
        }
        Ok(())
    }

    /// No task is ready: a closing listener is open only while it may accept a connection (L3, L7).
    pub(super) fn closes_are_done(&self) -> Check {
        for (number, listening) in self.listeners.iter().enumerate() {
            let Some(closing) = listening.closing.as_ref().filter(|_| listening.is_open()) else {
                continue;
            };
            let since = self.now - closing.since;
            let Readiness {
                waiting, starting, ..
            } = self.readiness(number);
            // The delay has two timers in a row, and a jump ends only one of them.
            let recent = |at| self.now < at + CLOSE_DELAY / 2;
            let jumped = closing.jumped.is_some_and(recent);
            let delayed = since < CLOSE_DELAY || jumped;
            let stays = matches!(closing.queued, Queued::Accepted | Queued::Either)
                && since < CLOSE_LIMIT
                && (waiting > 0 && (delayed || self.waits_for_slot(number))
                    || waiting == 0 && starting > 0);
            if !stays {
                let expected = format!("the socket of listener {} is closed", listening.id);
                let seen = format!(
                    "it is open {since:?} after its close began: {waiting} acceptors wait, {starting} are starting"
                );
                return violation("L7", expected, seen);
            }
        }
        Ok(())
    }
}
