//! The children of the model: their events, and the consequences of their ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildId, ConnectionRecord, ConnectionState, EndKind, EventKind, Failure, ListenerId, Phase,
    StopReason, Terminate,
};

use super::listeners::{EndCommand, EndReason};
use super::outbox::{Expected, Role, ended, failure_details};
use super::starting::Ended;
use super::{Check, Key, Killed, Model, Peer, Violation, reached, same, violation};
use crate::event::{
    Call, Event, GuardHolder, HandshakeOutcome, InitOutcome, ServeOutcome, TerminateOutcome,
};
use crate::handshake::CAUSE;
use crate::test_acceptor::{
    HANDSHAKE_FAILS, HANDSHAKE_PANICS, INIT_FAILS, INIT_PANICS, KEPT_VALUE_PANICS, SERVE_FAILS,
    SERVE_PANICS, STATE_PANICS, SUBTASK_PANICS, TERMINATE_PANICS, disconnection, text,
};
use crate::{ReportsSetting, RestartSetting, StageSetting};
use acceptor_simulation::NetworkEvent;

/// A child: its events and its own commands.
pub(super) struct Child {
    /// Known after its first event.
    pub(super) id: Option<ChildId>,
    pub(super) stage: Stage,
    /// The time since which it counts as an acceptor.
    pub(super) made: Instant,
    /// The lowest generation of its spec, and the highest, if that is known.
    generations: (u32, Option<u32>),
    /// The time of its accept timeout, and the length of the timeout.
    pub(super) deadline: Option<(Instant, Duration)>,
    /// How many connections were accepted since then, while it was in the queue.
    pub(super) passed_over: u64,
    /// It was listed as terminating.
    pub(super) leaves: bool,
    /// The batch in which it was killed by its id.
    pub(super) killed: Option<u64>,
    /// The time at which it was stopped by its id, and the batch.
    pub(super) asked: Option<(Instant, u64)>,
    /// The time at which another acceptor replaced it, and the batch (R1).
    pub(super) replaced: Option<(Instant, u64)>,
    pub(super) trapped: bool,
    /// The batch in which its handshake, its `serve` or its `terminate` was first polled.
    pub(super) begun: Option<u64>,
    /// Its `serve` was polled.
    served: bool,
    /// How many acceptors in a row before it ended in the same way.
    pub(super) repeats: u32,
    state: State,
    /// The message of the first panic.
    panicked: Option<&'static str>,
    returned: Option<ServeOutcome>,
    reason: Option<Terminate>,
    terminated: Option<TerminateOutcome>,
    pub(super) connection: Option<Link>,
}

/// The connection of a child.
pub(super) struct Link {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// The accepted address of the peer, if a handshake has replaced it (H5).
    pub(super) transport: Option<SocketAddr>,
    pub(super) since: Instant,
    handshake: Option<Handshake>,
    /// The time when `serve` returned, and the holder of the guard since then (E6).
    pub(super) guarded: Option<(Instant, GuardHolder)>,
    /// Its beginning was reported, so its end is reported, too (O4).
    reported: bool,
    /// It has given its slot back (C7).
    pub(super) released: bool,
}

/// The handshake of a connection whose listener has one.
struct Handshake {
    /// The time at which it fails, if it has not ended (H3).
    deadline: Option<Instant>,
    over: Option<HandshakeOutcome>,
}

impl Handshake {
    fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its listener's task will start it, and was not polled yet.
    Owed {
        /// It may have started, unless acceptors are held.
        released: bool,
    },
    /// The same, but it was listed, so it has a slot.
    Listed {
        released: bool,
    },
    /// It starts at this time.
    Spaced(Instant),
    /// It starts after another acceptor has begun to wait (B4).
    Held {
        released: bool,
    },
    /// It has a task, and its `init` has not begun.
    Starting,
    Init,
    Waiting,
    Connection,
    Terminating,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    Held,
    Dropped,
}

/// All commands to one child: its own, and those to all children of its listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Commands {
    pub(super) killed: Option<u64>,
    /// The stop phase has begun.
    stopped: Option<u64>,
    end: Option<EndCommand>,
    asked: Option<(Instant, u64)>,
    replaced: Option<(Instant, u64)>,
}

/// A wait must be at least this long for the replacement to start at once (B6).
const LONG_ENOUGH: Duration = Duration::from_millis(1);

impl Child {
    pub(super) fn new(stage: Stage, generation: u32, repeats: u32, now: Instant) -> Self {
        let known = (stage == Stage::Starting).then_some(generation);
        Self {
            id: None,
            stage,
            made: now,
            generations: (generation, known),
            deadline: None,
            passed_over: 0,
            leaves: false,
            killed: None,
            asked: None,
            replaced: None,
            trapped: false,
            begun: None,
            served: false,
            repeats,
            state: State::None,
            panicked: None,
            returned: None,
            reason: None,
            terminated: None,
            connection: None,
        }
    }

    /// Whether it has a slot in the list, and no event.
    pub(super) fn is_unseen(&self) -> bool {
        matches!(
            self.stage,
            Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. } | Stage::Starting
        )
    }

    /// Whether it has started, with the acceptor that the pool had then.
    pub(super) fn is_started(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Owed { .. } | Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. }
        )
    }

    /// The spec was replaced: an acceptor that starts later has the new one.
    pub(super) fn is_of_later_spec(&mut self, generation: u32) {
        if !self.is_started() {
            self.generations.0 = generation;
        }
    }

    /// It has certainly started, at the latest with the spec of this generation.
    pub(super) fn starts(&mut self, generation: u32) {
        self.stage = Stage::Starting;
        self.generations.1.get_or_insert(generation);
    }

    /// Whether it is dropped at its next suspension, because of a command to stop.
    pub(super) fn is_to_be_dropped(&self, commands: &Commands) -> bool {
        if commands.killed.is_some() {
            return true;
        }
        let ends = [commands.asked, commands.replaced];
        let ends = commands.end.is_some() || ends.iter().any(Option::is_some);
        let stopped = match self.stage {
            Stage::Connection => commands.stopped.is_some() || commands.asked.is_some(),
            Stage::Terminating => commands.stopped.is_some(),
            Stage::Waiting => false,
            _ => return ends,
        };
        stopped && !self.trapped && self.begun.is_some()
    }

    /// How it ends if it is dropped now; `lost`: by its runtime.
    fn end_by_drop(&self, commands: &Commands, lost: bool) -> Option<EndKind> {
        match () {
            () if lost => Some(EndKind::Lost),
            () if commands.killed.is_some() => Some(EndKind::Killed),
            () => self.is_to_be_dropped(commands).then_some(EndKind::Stopped),
        }
    }

    fn handshake(&self) -> Option<&Handshake> {
        self.connection.as_ref()?.handshake.as_ref()
    }

    /// The state in which a connection is listed (Q1).
    pub(super) fn connection_state(&self) -> ConnectionState {
        let handshaking =
            |handshake: &Handshake| handshake.over != Some(HandshakeOutcome::Succeeded);
        if self.guard().is_some() {
            ConnectionState::Guarded
        } else if self.handshake().is_some_and(handshaking) {
            ConnectionState::Handshaking
        } else {
            ConnectionState::Serving
        }
    }

    /// The time since which a guard keeps the connection, and its holder.
    pub(super) fn guard(&self) -> Option<(Instant, GuardHolder)> {
        self.connection.as_ref()?.guarded
    }

    /// Whether the deadline of its handshake has passed (H3).
    pub(super) fn handshake_is_late(&self, now: Instant) -> bool {
        let late = |handshake: &Handshake| handshake.over.is_none() && handshake.is_overdue(now);
        self.handshake().is_some_and(late)
    }

    /// A child that was to be dropped before this poll is not polled.
    fn not_polled_after(&self, commands: &Commands, batch: u64, what: &str) -> Check {
        let before = |at: Option<u64>| at.is_some_and(|at| at < batch);
        let asked = before(commands.asked.map(|(_, at)| at));
        let replaced = before(commands.replaced.map(|(_, at)| at));
        let commanded = match self.stage {
            Stage::Connection => before(commands.stopped) || asked,
            Stage::Terminating => before(commands.stopped),
            Stage::Init => before(commands.end.map(|end| end.batch)) || asked || replaced,
            _ => false,
        };
        // A connection that has not begun is polled once: it could not have trapped the stop.
        let stopped =
            commanded && !self.trapped && (before(self.begun) || self.stage == Stage::Init);
        if before(commands.killed) || stopped {
            let expected = "a child that is to be dropped is not polled again";
            return violation("E4", expected, what);
        }
        Ok(())
    }
}

impl Model {
    /// The children of a listener.
    pub(super) fn children_of(&self, number: usize) -> impl Iterator<Item = (&Key, &Child)> {
        let at = |listener| Key {
            listener,
            number: 0,
        };
        self.children.range(at(number)..at(number + 1))
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = (&Key, &Child)> {
        let children = self.children.iter();
        children.filter(|(_, child)| child.stage == Stage::Connection)
    }

    pub(crate) fn connection_ids(&self) -> Vec<ChildId> {
        let ids = self.connections().filter_map(|(_, child)| child.id);
        ids.collect()
    }

    pub(crate) fn ended_ids(&self) -> Vec<ChildId> {
        self.ended.values().copied().flatten().collect()
    }

    pub(super) fn commands(&self, key: Key, child: &Child) -> Commands {
        let listening = &self.listeners[key.listener];
        Commands {
            killed: listening.killed.into_iter().chain(child.killed).min(),
            stopped: listening.stopped,
            end: listening.end,
            asked: child.asked,
            replaced: child.replaced,
        }
    }

    fn child(
        &mut self,
        id: ChildId,
        rule: &'static str,
    ) -> Result<(Key, Commands, &mut Child), Violation> {
        let key = self.key(id)?;
        let Some(child) = self.children.get(&key) else {
            return violation(rule, "a child that exists", format!("{id}, which does not"));
        };
        let commands = self.commands(key, child);
        match self.children.get_mut(&key) {
            Some(child) if child.id.is_none_or(|known| known == id) => {
                child.id = Some(id);
                Ok((key, commands, child))
            }
            _ => violation("R4", format!("{key} of this pool"), "that of another"),
        }
    }

    /// Whether a waiting acceptor has a reason to end.
    pub(super) fn may_leave(&self, key: Key, child: &Child) -> bool {
        let commands = self.commands(key, child);
        let overdue = child.deadline.is_some_and(|(at, _)| at <= self.now);
        child.leaves
            || overdue
            || commands.killed.is_some()
            || commands.asked.is_some()
            || commands.replaced.is_some()
            || commands.end.is_some()
    }

    fn leaves_queue(&mut self, key: Key) {
        let queue = &mut self.listeners[key.listener].queue;
        queue.retain(|other| *other != key);
        if queue.is_empty() {
            self.listeners[key.listener].waits_while = None;
        }
    }

    /// A callback of this child is polled.
    pub(super) fn is_polled(&mut self, id: ChildId) -> Check {
        let batch = self.batch;
        let Ok(key) = self.key(id) else { return Ok(()) };
        // A child that was given up may still run.
        let Some(child) = self.children.get(&key) else {
            return Ok(());
        };
        let expected = self.listeners[key.listener].runtime;
        if let Some(runtime) = self.runtime {
            let what = format_args!("the runtime that polls {key}");
            same("B11", what, expected, runtime)?;
        }
        let commands = self.commands(key, child);
        child.not_polled_after(&commands, batch, &format!("a callback of {key} is polled"))
    }

    /// A task runs user code, which may block: another thread gets another task (O1, B5).
    pub(super) fn may_block(&mut self) {
        self.wakes.driver += 1;
    }

    pub(super) fn see_child(&mut self, event: &Event) -> Check {
        let rule = match event {
            Event::InitBegan {
                child,
                listener,
                generation,
            } => {
                self.may_block();
                return self.init_began(*child, *listener, *generation);
            }
            Event::InitEnded { child, how } => return self.init_ended(*child, *how),
            Event::TerminateBegan { child, reason } => {
                return self.terminate_began(*child, reason);
            }
            Event::Network(NetworkEvent::Dropped { peer }) => return self.stream_dropped(*peer),
            Event::Called {
                child,
                listener,
                call,
            } => return self.called(*child, *listener, *call),
            Event::Reported { .. } => {
                self.delivery_begins();
                return Ok(());
            }
            Event::HandshakeBegan { .. } => "H1",
            Event::AddressesReplaced { .. } => "H5",
            Event::HandshakeEnded { .. } => "H4",
            Event::ServeBegan { .. } => "B5",
            Event::PanickedOnDrop { .. } | Event::ServeReturned { .. } => "E1",
            Event::SubtaskPanicked { .. } => "E6",
            Event::StateDropped { .. } | Event::TerminateEnded { .. } => "B7",
            Event::SlotReleased { .. } => {
                self.slot_is_passed_on();
                "C7"
            }
            Event::StreamHandedOver { .. } | Event::Trapped { .. } => {
                // The connection waits for a signal, which wakes it once.
                self.wakes.children += 1;
                match event {
                    Event::Trapped { .. } => "N2",
                    _ => "E6",
                }
            }
            // Other events do not change the model, or are seen elsewhere.
            _ => return Ok(()),
        };
        let Some((_, id)) = event.child() else {
            return Ok(());
        };
        let (now, batch) = (self.now, self.batch);
        let (key, _, known) = self.child(id, rule)?;
        match event {
            Event::HandshakeBegan { .. } => {
                if known.handshake().is_none() || known.begun.is_some() {
                    let seen = format!("{:?}, begun {:?}", known.stage, known.begun);
                    let expected = "a handshake begins once, on a listener that has one";
                    return violation("H1", expected, seen);
                }
                known.begun = Some(batch);
            }
            Event::AddressesReplaced { peer, local, .. } => {
                if let Some(link) = &mut known.connection {
                    link.transport.get_or_insert(link.peer);
                    (link.peer, link.local) = (*peer, *local);
                }
            }
            Event::HandshakeEnded { how, .. } => {
                if *how == HandshakeOutcome::Panicked {
                    known.panicked.get_or_insert(HANDSHAKE_PANICS);
                }
                let link = known.connection.as_mut();
                match link.and_then(|link| link.handshake.as_mut()) {
                    Some(handshake) if handshake.over.is_none() => {
                        handshake.over = Some(how.clone());
                    }
                    _ => return violation("H4", format!("{id} is in its handshake"), "it is not"),
                }
            }
            Event::ServeBegan {
                listener,
                peer,
                local,
                ..
            } => {
                let over = known.handshake().map(|handshake| &handshake.over);
                let may_serve = match over {
                    Some(over) => *over == Some(HandshakeOutcome::Succeeded),
                    None => known.begun.is_none(),
                };
                if known.stage != Stage::Connection || known.served || !may_serve {
                    let seen = format!("{:?}, {over:?}, begun {:?}", known.stage, known.begun);
                    let expected = "`serve` begins once, after the handshake";
                    return violation("B5", expected, seen);
                }
                known.served = true;
                known.begun.get_or_insert(batch);
                let link = known.connection.as_ref();
                let expected = link.map(|link| (link.peer, link.local));
                let seen = Some((*peer, *local));
                same("B10", "peer and local address", expected, seen)?;
                let number = self.listener(*listener);
                return same("B10", "listener", Some(key.listener), number);
            }
            Event::StreamHandedOver { holder, .. } => {
                known.trapped = true;
                if let Some(link) = &mut known.connection {
                    link.guarded = Some((now, *holder));
                }
            }
            Event::SubtaskPanicked { .. } => {
                known.panicked.get_or_insert(SUBTASK_PANICS);
            }
            Event::SlotReleased { .. } => {
                if let Some(link) = &mut known.connection {
                    link.released = true;
                }
            }
            Event::Trapped { .. } => known.trapped = true,
            Event::PanickedOnDrop { .. } => {
                known.panicked.get_or_insert(KEPT_VALUE_PANICS);
            }
            Event::ServeReturned { how, .. } => known.returned = Some(*how),
            Event::StateDropped { panics, .. } => {
                if known.state != State::Held {
                    let seen = format!("{:?}", known.state);
                    return violation("B7", "the state of a child is dropped once", seen);
                }
                known.state = State::Dropped;
                if *panics {
                    known.panicked.get_or_insert(STATE_PANICS);
                }
                // `serve` drops the state at its end, and so does `terminate`. Otherwise the child itself was dropped.
                let ended = known.returned.is_some() || known.guard().is_some();
                if known.stage != Stage::Connection || !ended {
                    self.ending = Some(key);
                }
            }
            Event::TerminateEnded { how, .. } => {
                known.terminated = Some(*how);
                self.ending = Some(key);
            }
            _ => {}
        }
        Ok(())
    }

    fn stream_dropped(&mut self, peer: SocketAddr) -> Check {
        match self.peer(peer) {
            // The pool has given up this connection.
            Some(Peer::Served(key)) if self.abandoned.remove(&key) => {}
            Some(Peer::Served(key)) => self.ending = Some(key),
            Some(Peer::Skipped) => {}
            other => {
                let seen = format!("the stream of {peer}, {other:?}, is dropped");
                return violation("L2", "a stream that is served", seen);
            }
        }
        Ok(())
    }

    /// A callback called the pool.
    fn called(&mut self, child: ChildId, listener: ListenerId, call: Call) -> Check {
        if self.outbox.ended {
            // The observer's call comes too late to change anything.
            return Ok(());
        }
        match call {
            Call::Stop => self.stops(StopReason::Requested),
            Call::Kill => self.kills(StopReason::Requested),
            Call::StopItself => self.command_child(child, Killed::No)?,
            Call::KillItself => self.command_child(child, Killed::Yes)?,
            Call::CloseListener => {
                if let Some(number) = self.listener(listener) {
                    self.close_by_hand(number);
                }
            }
        }
        Ok(())
    }

    /// A child is stopped, or killed, by its id (R4).
    pub(crate) fn command_child(&mut self, id: ChildId, killed: Killed) -> Check {
        let (now, batch) = (self.now, self.batch);
        let key = self.key(id)?;
        let Some(known) = self.children.get_mut(&key) else {
            return Ok(());
        };
        self.commanded = true;
        match killed {
            Killed::Yes => known.killed = known.killed.or(Some(batch)),
            Killed::No => known.asked = known.asked.or(Some((now, batch))),
        }
        match known.stage {
            // It has no task: it ends at once.
            Stage::Owed { .. } | Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. } => {
                let child = self.children.get(&key);
                let kind = child.and_then(|child| self.unseen_end(key, child));
                self.ends_unseen(key, kind.unwrap_or(EndKind::Stopped));
            }
            Stage::Waiting => {
                self.wakes.listeners += 1;
                self.may_block();
                self.leaves_queue(key);
            }
            // Its task, and the future that waits for the signal.
            _ => self.wakes.children += 2,
        }
        // By the call itself.
        self.wakes.companions += 1;
        Ok(())
    }

    fn init_began(&mut self, id: ChildId, listener: ListenerId, generation: u32) -> Check {
        let key = self.key(id)?;
        if self.listener(listener) != Some(key.listener) {
            let seen = format!("listener {listener}");
            return violation("B1", format!("`init` of {id} has its listener"), seen);
        }
        if self.ended.contains_key(&key) {
            let seen = "its `init` begins";
            return violation("B1", format!("{id} has ended"), seen);
        }
        let Some(known) = self.children.get(&key) else {
            let expected =
                format!("an acceptor that is missing on listener {listener} begins `init`");
            return violation("L1", expected, format!("{id} does"));
        };
        let commands = self.commands(key, known);
        let before = |end: EndCommand| end.batch < self.batch;
        if commands.end.is_some_and(before) {
            let expected = format!(
                "no `init` begins on a listener that is closed: {:?}",
                commands.end
            );
            return violation("L3", expected, format!("that of {id}"));
        }
        if let Err(early) = self.may_begin(known.stage) {
            let expected = match early {
                Some(early) => format!("{id} begins `init` {early:?} later"),
                None => format!("{id} does not begin `init`: {:?}", known.stage),
            };
            let rule = match known.stage {
                Stage::Spaced(_) if known.repeats > 0 => "B3",
                Stage::Spaced(_) | Stage::Held { .. } => "B4",
                _ => "B1",
            };
            return violation(rule, expected, "it begins");
        }
        let (least, most) = known.generations;
        let most = most.unwrap_or(self.generation);
        if generation < least || generation > most {
            let expected = format!("acceptor {id} is of a spec from {least} to {most}");
            return violation("R1", expected, format!("of {generation}"));
        }
        let now = self.now;
        let (_, _, known) = self.child(id, "B1")?;
        if let Stage::Owed { .. } = known.stage {
            // Its age counts from the time at which it got a slot.
            known.made = now;
        }
        known.stage = Stage::Init;
        known.generations = (generation, Some(generation));
        Ok(())
    }

    fn init_ended(&mut self, id: ChildId, how: InitOutcome) -> Check {
        let now = self.now;
        let lost = self.tasks.lose_children();
        let (key, commands, known) = self.child(id, "B1")?;
        if known.stage != Stage::Init {
            let seen = format!("{:?}", known.stage);
            return violation("B1", format!("{id} is in `init`"), seen);
        }
        match how {
            InitOutcome::Waits(timeout) => {
                known.stage = Stage::Waiting;
                known.state = State::Held;
                known.deadline = timeout.map(|timeout| (now + timeout, timeout));
                let deadline = known.deadline.map(|(at, _)| at);
                let replaced = commands.replaced.is_some();
                let commanded = commands.killed.is_some() || commands.asked.is_some() || replaced;
                let number = key.listener;
                if !replaced {
                    self.outage_is_over(number);
                }
                if !self.listeners[number].is_open() {
                    return Ok(());
                }
                if commanded || self.wakes_for(number, deadline) {
                    self.wakes.listeners += 1;
                }
                if commanded {
                    // It terminates in its own task.
                    self.wakes.companions += 1;
                }
                if !commanded {
                    self.listeners[number].queue.push_back(key);
                }
                Ok(())
            }
            InitOutcome::Ignored => {
                self.ended(key, EndKind::Normal, Role::Acceptor, Ended::Repeats)
            }
            InitOutcome::Failed => {
                self.ended(key, EndKind::Error, Role::StartError, Ended::StartError)
            }
            InitOutcome::Panicked => {
                self.ended(key, EndKind::Panic, Role::StartError, Ended::StartError)
            }
            InitOutcome::Dropped => {
                let kind = match known.panicked {
                    Some(_) => Some(EndKind::Panic),
                    None => known.end_by_drop(&commands, lost),
                };
                let Some(kind) = kind else {
                    return violation("B1", format!("{id} stays in `init`"), "it is dropped");
                };
                self.ended(key, kind, Role::Acceptor, Ended::of(kind))
            }
        }
    }

    /// Whether the listener's task is woken for an acceptor that begins to wait: only if no other acceptor waits, or if its
    /// timeout is the earliest (L5). An acceptor whose timeout has expired may have left.
    fn wakes_for(&self, number: usize, deadline: Option<Instant>) -> bool {
        let queue = &self.listeners[number].queue;
        let queue = queue.iter().filter_map(|key| self.children.get(key));
        let mut queue = queue.filter(|child| child.deadline.is_none_or(|(at, _)| at > self.now));
        match deadline {
            None => queue.next().is_none(),
            Some(deadline) => queue.all(|child| child.deadline.is_none_or(|(at, _)| deadline < at)),
        }
    }

    /// An acceptor has become a connection.
    pub(super) fn became_connection(
        &mut self,
        number: usize,
        record: &ConnectionRecord<SocketAddr>,
    ) -> Check {
        let (now, key) = (self.now, self.key(record.id)?);
        let listening = &mut self.listeners[number];
        if !listening.queue.contains(&key) {
            let seen = format!("{key} becomes the connection; {:?} wait", listening.queue);
            return violation("B5", "an acceptor that waits becomes the connection", seen);
        }
        // The timeouts of all acceptors before it must have expired.
        while let Some(first) = listening.queue.pop_front().filter(|first| *first != key) {
            let child = self.children.get(&first);
            let deadline = child.and_then(|child| child.deadline);
            if deadline.is_none_or(|(at, _)| at > now) {
                let expected = format!("{first}, which waits longest, gets {}", record.peer_addr);
                return violation("L6", expected, format!("{key} gets it"));
            }
        }
        listening.accepted += 1;
        let local = reached(listening.address);
        let id = listening.id;
        same("Q1", "the listener of a connection", id, record.listener)?;
        same("B10", "the local address", local, record.local_addr)?;
        let reported = self.spec.reports == ReportsSetting::All;
        let peer = record.peer_addr;
        let timeout = self.spec.handshake_timeout();
        let handshake = (self.stage == StageSetting::Handshake).then(|| Handshake {
            deadline: timeout.map(|timeout| now + timeout),
            over: None,
        });
        let (_, _, known) = self.child(record.id, "B5")?;
        if known.leaves {
            return violation("B7", format!("{key} terminates"), format!("it gets {peer}"));
        }
        known.stage = Stage::Connection;
        known.connection = Some(Link {
            peer,
            local,
            transport: None,
            since: now,
            handshake,
            guarded: None,
            reported,
            released: false,
        });
        self.peers.insert(peer, Peer::Served(key));
        self.replace_connected(number);
        if reported {
            let details = format!("{peer} to {local}");
            self.reports(Expected::of_child(EventKind::ConnectionBegan, key, details));
        }
        Ok(())
    }

    fn terminate_began(&mut self, id: ChildId, reason: &Terminate) -> Check {
        let (now, batch) = (self.now, self.batch);
        let (key, commands, known) = self.child(id, "B7")?;
        if known.stage != Stage::Waiting {
            let seen = format!("{id}, which is {:?}", known.stage);
            let expected = "`terminate` runs once, for an acceptor that waits";
            return violation("B7", expected, seen);
        }
        if commands.killed.is_some_and(|at| at < batch) {
            let expected = "an acceptor that is killed does not terminate";
            return violation("B7", expected, format!("{id} does"));
        }
        let deadline = known.deadline.map(|(at, _)| at);
        let end = commands.end;
        let failure = &self.listeners[key.listener].failure;
        let is = |reason| end.is_some_and(|end: EndCommand| end.reason == reason);
        let fits = match reason {
            // It left the queue before any other command.
            Terminate::Timeout => {
                let others = [
                    end.map(|end| end.at),
                    commands.asked.map(|(at, _)| at),
                    commands.replaced.map(|(at, _)| at),
                ];
                let by = others.into_iter().flatten().fold(now, Instant::min);
                deadline.is_some_and(|at| at <= by)
            }
            Terminate::Closed => is(EndReason::Closed),
            Terminate::Io(error) => is(EndReason::Failed) && error.to_string() == *failure,
            Terminate::Stopped => is(EndReason::Stopped) || commands.asked.is_some(),
            Terminate::Replaced => commands.replaced.is_some(),
            _ => false,
        };
        if !fits {
            let expected = match (end, commands.asked) {
                (Some(end), _) => format!("{id} terminates: {:?} {failure}", end.reason),
                (None, Some(_)) => format!("{id} terminates, because it was asked to stop"),
                (None, None) => format!("{id} still waits"),
            };
            return violation("B7", expected, format!("it terminates: {reason}"));
        }
        if matches!(reason, Terminate::Timeout) {
            self.may_block();
        }
        let (_, _, known) = self.child(id, "B7")?;
        known.stage = Stage::Terminating;
        known.begun = Some(batch);
        known.reason = Some(reason.clone());
        self.leaves_queue(key);
        Ok(())
    }

    /// The end of a child is complete: derives its kind and its consequences.
    pub(super) fn end_is_complete(&mut self) -> Check {
        let Some(key) = self.ending.take() else {
            return Ok(());
        };
        let lost = self.tasks.lose_children();
        let Some(known) = self.children.get(&key) else {
            return violation("E3", format!("{key} ended once"), "it ends again");
        };
        if known.state == State::Held {
            return violation("E2", format!("the state of {key} is dropped"), "it is kept");
        }
        let commands = self.commands(key, known);
        let dropped = known.end_by_drop(&commands, lost);
        let kind = match known.stage {
            _ if known.panicked.is_some() => Some(EndKind::Panic),
            Stage::Connection => match known.returned {
                // A guard kept it until the kill (E6).
                Some(_) if known.guard().is_some() && commands.killed.is_some() => dropped,
                Some(ServeOutcome::Normal) => Some(EndKind::Normal),
                Some(ServeOutcome::Clean) => Some(EndKind::Clean),
                Some(ServeOutcome::Error) => Some(EndKind::Error),
                Some(ServeOutcome::Disconnected) => Some(EndKind::Disconnected),
                Some(ServeOutcome::Panic) => Some(EndKind::Panic),
                None => self.handshake_end(known, &commands).or(dropped),
            },
            Stage::Terminating => match (known.terminated, &known.reason) {
                (Some(TerminateOutcome::Panicked), _) => Some(EndKind::Panic),
                (Some(TerminateOutcome::Returned), Some(Terminate::Timeout)) => {
                    Some(EndKind::Normal)
                }
                (Some(TerminateOutcome::Returned), _) => Some(EndKind::Stopped),
                _ => dropped,
            },
            Stage::Waiting => dropped,
            _ => None,
        };
        let Some(kind) = kind else {
            let expected = format!("{key} stays, because nothing has ended it");
            return violation("E1", expected, format!("it is dropped, {:?}", known.stage));
        };
        let timed_out = matches!(known.reason, Some(Terminate::Timeout));
        let short = |(_, timeout): (Instant, Duration)| timeout < LONG_ENOUGH;
        let how = match kind {
            EndKind::Normal | EndKind::Panic if timed_out && known.deadline.is_some_and(short) => {
                Ended::Repeats
            }
            kind => Ended::of(kind),
        };
        let role = match known.stage {
            Stage::Connection => Role::Connection,
            _ => Role::Acceptor,
        };
        self.ended(key, kind, role, how)
    }

    /// A child has ended: the end is counted and reported, and an acceptor is replaced.
    fn ended(&mut self, key: Key, kind: EndKind, role: Role, how: Ended) -> Check {
        let number = key.listener;
        let Some(child) = self.remove(key) else {
            return violation("E3", format!("{key} ended once"), "it ends again");
        };
        if role != Role::Connection {
            self.leaves_queue(key);
        }
        if let Some(stop) = &mut self.stop {
            if stop.finished.is_some() {
                return Ok(());
            }
            stop.count(role, kind);
            stop.record_late(&child, Some(kind), self.now);
            stop.record_progress(self.listeners[number].runtime, self.now);
        }
        let message = child.panicked.unwrap_or(match (role, kind) {
            (Role::StartError, EndKind::Panic) => INIT_PANICS,
            (Role::StartError, _) => INIT_FAILS,
            (Role::Acceptor, _) => TERMINATE_PANICS,
            (Role::Connection, EndKind::Panic) => SERVE_PANICS,
            (Role::Connection, _) => SERVE_FAILS,
        });
        let text = match kind {
            EndKind::Disconnected => disconnection().to_string(),
            EndKind::HandshakeFailed => handshake_error(&child),
            _ => text(message, &key.to_string()),
        };
        self.end_is_reported(key, &child, kind, role, text);
        if role == Role::Connection {
            self.resources_are_freed();
            self.slot_is_passed_on();
        }
        self.goes_on_after(key, &child, kind, role, how);
        Ok(())
    }

    pub(super) fn end_is_reported(
        &mut self,
        key: Key,
        child: &Child,
        kind: EndKind,
        role: Role,
        text: String,
    ) {
        let link = child.connection.as_ref();
        let reported = link.is_some_and(|link| link.reported);
        let failed = match kind {
            EndKind::Error | EndKind::Panic | EndKind::Lost => true,
            // While the pool is killed, the kill of one child is not reported.
            EndKind::Killed => self.phase() != Some(Phase::Kill),
            EndKind::Disconnected | EndKind::HandshakeFailed => {
                reported || self.spec.reports != ReportsSetting::Failures
            }
            _ => false,
        };
        if !failed && !reported {
            return;
        }
        let how = match kind {
            _ if !failed => kind.to_string(),
            EndKind::Error => format!("error: {text}"),
            EndKind::Panic => format!("panic: {text}"),
            EndKind::Killed => failure_details(&Failure::Killed),
            EndKind::Lost => failure_details(&Failure::Lost),
            _ => text,
        };
        let event = match (kind, role) {
            _ if !failed => EventKind::ConnectionEnded,
            (EndKind::Disconnected, _) => EventKind::Disconnected,
            (EndKind::HandshakeFailed, _) => EventKind::HandshakeFailed,
            (_, Role::StartError) => EventKind::StartError,
            (_, Role::Acceptor) => EventKind::AcceptorFailed,
            (_, Role::Connection) => EventKind::ConnectionFailed,
        };
        let details = match link {
            Some(link) => ended(&link.peer, link.transport, self.now - link.since, how),
            None => how,
        };
        self.reports(Expected::of_child(event, key, details));
    }

    /// The end of a connection by its handshake, which failed or took too long (H3, H4); `None` for any other end.
    fn handshake_end(&self, child: &Child, commands: &Commands) -> Option<EndKind> {
        let handshake = child.handshake()?;
        let late = match &handshake.over {
            Some(HandshakeOutcome::Failed | HandshakeOutcome::Disconnected(_)) => {
                return Some(EndKind::HandshakeFailed);
            }
            Some(HandshakeOutcome::Dropped) => handshake.is_overdue(self.now),
            _ => false,
        };
        // A command before this poll takes precedence, but a stop still lets a connection begin.
        let before = |at: Option<u64>| at.is_some_and(|at| at < self.batch);
        let commanded = before(commands.stopped) || before(commands.asked.map(|(_, at)| at));
        let before = before(commands.killed) || commanded && before(child.begun);
        let lost = self.tasks.lose_children();
        (late && !before && !lost).then_some(EndKind::HandshakeFailed)
    }

    /// Counts the end if it counts (I1), and returns whether acceptors are replaced: not if this end stops the pool (B4), but
    /// a lame duck still replaces them (S2).
    pub(super) fn survives(&mut self, kind: EndKind, role: Role) -> bool {
        let before = self.stop.is_some();
        let counts = role == Role::StartError
            || (self.spec.restart == RestartSetting::Transient
                && matches!(kind, EndKind::Error | EndKind::Panic | EndKind::Killed));
        if counts && !before {
            self.failed();
        }
        before || matches!(self.phase(), None | Some(Phase::LameDuck))
    }

    /// A failure counts (I1, I2).
    fn failed(&mut self) {
        let (now, period) = (self.now, self.spec.period());
        self.failures.retain(|at| now - *at <= period);
        self.failures.push(now);
        let most = self.spec.intensity as usize;
        if self.failures.len() > most {
            // Older failures no longer matter.
            let old = self.failures.len() - (most + 1);
            self.failures.drain(..old);
            self.stops(StopReason::Intensity);
        }
    }

    /// How many failures are shown: those within the period.
    pub(super) fn shown_failures(&self) -> usize {
        let (now, period) = (self.now, self.spec.period());
        let within = self.failures.iter().filter(|at| now - **at <= period);
        within.count()
    }

    /// The runtime dropped the pool's own task: the pool is killed.
    pub(crate) fn loses_its_task(&mut self) {
        self.timeless = true;
        self.kills(StopReason::RuntimeGone);
    }
}

/// The cause and the error of a failed handshake, as they are reported.
fn handshake_error(child: &Child) -> String {
    match child
        .handshake()
        .and_then(|handshake| handshake.over.as_ref())
    {
        Some(HandshakeOutcome::Failed) => format!("{CAUSE}: {HANDSHAKE_FAILS}"),
        Some(HandshakeOutcome::Disconnected(error)) => format!("disconnected: {error}"),
        _ => "timeout".to_owned(),
    }
}
