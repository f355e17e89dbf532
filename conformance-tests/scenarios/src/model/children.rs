//! The children of the model: what was seen of each, and what must follow from its end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildId, ConnectionRecord, ConnectionState, EndKind, ListenerId, Phase, StopReason, Terminate,
};

use super::listeners::{Ending, Told};
use super::outbox::{Expected, Failed, Gone, Sort};
use super::starting::Ended;
use super::{Breach, Key, Killed, Model, Peer, Seen, breach, reached, same};
use crate::cast::{
    HANDSHAKE_FAILS, HANDSHAKE_PANICS, INIT_FAILS, INIT_PANICS, KEPT_DROPPED, SERVE_FAILS,
    SERVE_PANICS, STATE_DROPPED, SUBTASK_PANICS, TERMINATE_PANICS, disconnection, text,
};
use crate::event::{Begun, Bomb, Call, Event, Farewell, Holder, Return, Shaken};
use crate::greeting::CAUSE;
use crate::{ReportsSetting, RestartSetting, StageSetting};
use acceptor_simulation::Happened;

/// A child: all that was seen of it, and its own commands.
pub(super) struct Child {
    /// Known once anything was seen of it.
    pub(super) id: Option<ChildId>,
    pub(super) stage: Stage,
    /// When it was made: as an acceptor, which is what it is counted as from then on.
    pub(super) made: Instant,
    /// The least generation of the spec that its acceptor is of, and the greatest, if that is known.
    generations: (u32, Option<u32>),
    /// When its accept timeout comes, and how long that is.
    pub(super) deadline: Option<(Instant, Duration)>,
    /// How many connections were accepted since then, as far as it stays in the queue.
    pub(super) passed_over: u64,
    /// It was listed as one that terminates: it waits no longer.
    pub(super) leaves: bool,
    /// The batch in which it was killed by its id.
    pub(super) killed: Option<u64>,
    /// When it was asked to stop by its id, and the batch.
    pub(super) asked: Option<(Instant, u64)>,
    /// When another took its place, and the batch (R1).
    pub(super) replaced: Option<(Instant, u64)>,
    pub(super) trapped: bool,
    /// The batch in which its handshake, its `serve` or its `terminate` was first polled.
    pub(super) begun: Option<u64>,
    /// Its `serve` was polled.
    served: bool,
    /// How many acceptors before it, one after the other, led nowhere.
    pub(super) repeats: u32,
    state: State,
    /// What the first panic said.
    panicked: Option<&'static str>,
    returned: Option<Return>,
    reason: Option<Terminate>,
    farewell: Option<Farewell>,
    pub(super) connection: Option<Link>,
}

/// The connection of a child.
pub(super) struct Link {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// The peer's address as it was accepted, if a handshake has replaced it (H5).
    pub(super) transport: Option<SocketAddr>,
    pub(super) since: Instant,
    handshake: Option<Handshake>,
    /// The time when `serve` returned, and the holder of the guard since then (E6).
    pub(super) guarded: Option<(Instant, Holder)>,
    /// Its beginning was reported, so its end is, too (O4).
    reported: bool,
}

/// The handshake of a connection whose listener has one.
struct Handshake {
    /// When it fails, if it is not through by then (H3).
    deadline: Option<Instant>,
    over: Option<Shaken>,
}

impl Handshake {
    fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its listener's task is to start it, and has not been polled yet.
    Owed {
        /// It may have been started since, unless others are held by then.
        released: bool,
    },
    /// The same, and it has a place of its own, since it was listed.
    Listed {
        released: bool,
    },
    /// It is started at this time.
    Spaced(Instant),
    /// It is started once another acceptor accepts (B4).
    Held {
        released: bool,
    },
    /// Its `init` has a task, and has not begun.
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
    /// The stop phase has come.
    stopped: Option<u64>,
    told: Option<Told>,
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
            farewell: None,
            connection: None,
        }
    }

    /// Whether it has a place in the list, and nothing else was seen of it.
    pub(super) fn is_unseen(&self) -> bool {
        matches!(
            self.stage,
            Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. } | Stage::Starting
        )
    }

    /// Whether it has its place as one of the acceptor that the pool had when it began.
    pub(super) fn is_started(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Owed { .. } | Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. }
        )
    }

    /// The spec was replaced: an acceptor that is started from now on is of the new one.
    pub(super) fn is_of_later_spec(&mut self, generation: u32) {
        if !self.is_started() {
            self.generations.0 = generation;
        }
    }

    /// It is known to be started, at the latest while the spec is of this generation.
    pub(super) fn starts(&mut self, generation: u32) {
        self.stage = Stage::Starting;
        self.generations.1.get_or_insert(generation);
    }

    /// Whether it is dropped where it next suspends, because it was told to stop and will not end by itself.
    pub(super) fn is_to_be_dropped(&self, commands: &Commands) -> bool {
        if commands.killed.is_some() {
            return true;
        }
        let ends = [commands.asked, commands.replaced];
        let ends = commands.told.is_some() || ends.iter().any(Option::is_some);
        let stopped = match self.stage {
            Stage::Connection => commands.stopped.is_some() || commands.asked.is_some(),
            Stage::Terminating => commands.stopped.is_some(),
            Stage::Waiting => false,
            _ => return ends,
        };
        stopped && !self.trapped && self.begun.is_some()
    }

    fn handshake(&self) -> Option<&Handshake> {
        self.connection.as_ref()?.handshake.as_ref()
    }

    /// The state in which a connection is listed (Q1).
    pub(super) fn connection_state(&self) -> ConnectionState {
        let handshaking = |handshake: &Handshake| handshake.over != Some(Shaken::Through);
        if self.guard().is_some() {
            ConnectionState::Guarded
        } else if self.handshake().is_some_and(handshaking) {
            ConnectionState::Handshaking
        } else {
            ConnectionState::Serving
        }
    }

    /// The time since which a guard keeps the connection, and its holder.
    pub(super) fn guard(&self) -> Option<(Instant, Holder)> {
        self.connection.as_ref()?.guarded
    }

    /// It is to be gone by now, because of its handshake's deadline (H3).
    pub(super) fn handshake_is_late(&self, now: Instant) -> bool {
        let late = |handshake: &Handshake| handshake.over.is_none() && handshake.is_overdue(now);
        self.handshake().is_some_and(late)
    }

    /// No callback of a child is polled that was to be dropped before this poll.
    fn not_polled_after(&self, commands: &Commands, batch: u64, what: &str) -> Seen {
        let before = |at: Option<u64>| at.is_some_and(|at| at < batch);
        let asked = before(commands.asked.map(|(_, at)| at));
        let replaced = before(commands.replaced.map(|(_, at)| at));
        let told = match self.stage {
            Stage::Connection => before(commands.stopped) || asked,
            Stage::Terminating => before(commands.stopped),
            Stage::Init => before(commands.told.map(|told| told.batch)) || asked || replaced,
            _ => false,
        };
        // A connection that has not begun is polled once: it could not have trapped the stop.
        let stopped = told && !self.trapped && (before(self.begun) || self.stage == Stage::Init);
        if before(commands.killed) || stopped {
            let expected = "a child that is to be dropped is not polled again";
            return breach("E4", expected, what);
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
        self.connections()
            .filter_map(|(_, child)| child.id)
            .collect()
    }

    pub(crate) fn ended_ids(&self) -> Vec<ChildId> {
        self.ended.values().copied().flatten().collect()
    }

    pub(super) fn commands(&self, key: Key, child: &Child) -> Commands {
        let listening = &self.listeners[key.listener];
        Commands {
            killed: listening.killed.into_iter().chain(child.killed).min(),
            stopped: listening.stopped,
            told: listening.told,
            asked: child.asked,
            replaced: child.replaced,
        }
    }

    fn child(
        &mut self,
        id: ChildId,
        rule: &'static str,
    ) -> Result<(Key, Commands, &mut Child), Breach> {
        let key = self.key(id)?;
        let Some(child) = self.children.get(&key) else {
            return breach(rule, "a child that is there", format!("{id}, which is not"));
        };
        let commands = self.commands(key, child);
        match self.children.get_mut(&key) {
            Some(child) if child.id.is_none_or(|known| known == id) => {
                child.id = Some(id);
                Ok((key, commands, child))
            }
            _ => breach("R4", format!("{key} of this pool"), "that of another"),
        }
    }

    /// Whether an acceptor that waits has a reason not to wait any longer.
    pub(super) fn may_leave(&self, key: Key, child: &Child) -> bool {
        let commands = self.commands(key, child);
        let overdue = child.deadline.is_some_and(|(at, _)| at <= self.now);
        child.leaves
            || overdue
            || commands.killed.is_some()
            || commands.asked.is_some()
            || commands.replaced.is_some()
            || commands.told.is_some()
    }

    /// A callback of this child is polled.
    pub(super) fn is_polled(&mut self, id: ChildId) -> Seen {
        let batch = self.batch;
        let Ok(key) = self.key(id) else { return Ok(()) };
        // One that is given up may go on.
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

    /// A task runs code of the user's: there is another for another thread to take, should it block (O1, B5).
    pub(super) fn may_block(&mut self) {
        self.wakes.driver += 1;
    }

    pub(super) fn see_child(&mut self, event: &Event) -> Seen {
        let batch = self.batch;
        match event {
            Event::InitBegan {
                child,
                listener,
                generation,
            } => {
                self.may_block();
                self.init_began(*child, *listener, *generation)
            }
            Event::InitEnded { child, how } => self.init_ended(*child, *how),
            Event::ServeBegan {
                child,
                listener,
                peer,
                local,
            } => {
                let number = self.listener(*listener);
                let (key, _, known) = self.child(*child, "B5")?;
                let may_serve = match known.handshake() {
                    Some(handshake) => handshake.over == Some(Shaken::Through),
                    None => known.begun.is_none(),
                };
                if known.stage != Stage::Connection || known.served || !may_serve {
                    let over = known.handshake().map(|handshake| &handshake.over);
                    let seen = format!("{:?}, {over:?}, begun {:?}", known.stage, known.begun);
                    let expected = "`serve` begins once, after the handshake";
                    return breach("B5", expected, seen);
                }
                known.served = true;
                known.begun.get_or_insert(batch);
                let expected = known
                    .connection
                    .as_ref()
                    .map(|link| (link.peer, link.local));
                let seen = Some((*peer, *local));
                same("B10", "peer and local address", expected, seen)?;
                same("B10", "listener", Some(key.listener), number)
            }
            Event::HandshakeBegan { child } => self.handshake_began(*child),
            Event::Readdressed { child, peer, local } => {
                let (_, _, known) = self.child(*child, "H5")?;
                if let Some(link) = &mut known.connection {
                    link.transport.get_or_insert(link.peer);
                    (link.peer, link.local) = (*peer, *local);
                }
                Ok(())
            }
            Event::HandshakeEnded { child, how } => {
                let (_, _, known) = self.child(*child, "H4")?;
                if *how == Shaken::Panicked {
                    known.panicked.get_or_insert(HANDSHAKE_PANICS);
                }
                let link = known.connection.as_mut();
                match link.and_then(|link| link.handshake.as_mut()) {
                    Some(handshake) if handshake.over.is_none() => {
                        handshake.over = Some(how.clone());
                        Ok(())
                    }
                    _ => breach("H4", format!("{child} is in its handshake"), "it is not"),
                }
            }
            Event::HandedOn { child, holder } => {
                let now = self.now;
                // The task under the guard waits for the kill.
                self.wakes.children += 1;
                let (_, _, known) = self.child(*child, "E6")?;
                known.trapped = true;
                if let Some(link) = &mut known.connection {
                    link.guarded = Some((now, *holder));
                }
                Ok(())
            }
            Event::SubtaskPanicked { child } => {
                let (_, _, known) = self.child(*child, "E6")?;
                known.panicked.get_or_insert(SUBTASK_PANICS);
                Ok(())
            }
            Event::Trapped { child } => {
                // What it then waits for is set once.
                self.wakes.children += 1;
                self.child(*child, "N2")?.2.trapped = true;
                Ok(())
            }
            Event::Exploded { child } => {
                let (_, _, known) = self.child(*child, "E1")?;
                known.panicked.get_or_insert(KEPT_DROPPED);
                Ok(())
            }
            Event::ServeReturned { child, how } => {
                let (_, _, known) = self.child(*child, "E1")?;
                known.returned = Some(*how);
                Ok(())
            }
            Event::StateDropped { child, bomb } => {
                let (key, _, known) = self.child(*child, "B7")?;
                if known.state != State::Held {
                    let seen = format!("{:?}", known.state);
                    return breach("B7", "the state of a child is dropped once", seen);
                }
                known.state = State::Dropped;
                if *bomb == Bomb::Armed {
                    known.panicked.get_or_insert(STATE_DROPPED);
                }
                match known.stage {
                    // `serve` drops it at its end, or `terminate`; else what held it was dropped.
                    Stage::Connection if known.returned.is_some() || known.guard().is_some() => {}
                    _ => self.ending = Some(key),
                }
                Ok(())
            }
            Event::TerminateBegan { child, reason } => self.terminate_began(*child, reason),
            Event::TerminateEnded { child, how } => {
                let (key, _, known) = self.child(*child, "B7")?;
                known.farewell = Some(*how);
                self.ending = Some(key);
                Ok(())
            }
            Event::Network(Happened::Dropped { peer }) => match self.peer(*peer) {
                // It is nothing to the pool any longer.
                Some(Peer::Served(key)) if self.abandoned.remove(&key) => Ok(()),
                Some(Peer::Served(key)) => {
                    self.ending = Some(key);
                    Ok(())
                }
                Some(Peer::Skipped) => Ok(()),
                other => {
                    let seen = format!("the stream of {peer}, {other:?}, is dropped");
                    breach("L2", "a stream that is served", seen)
                }
            },
            Event::Called {
                child,
                listener,
                call,
            } => self.called(*child, *listener, *call),
            // Of no concern here, or seen elsewhere.
            _ => Ok(()),
        }
    }

    /// A callback called the pool.
    fn called(&mut self, child: ChildId, listener: ListenerId, call: Call) -> Seen {
        match call {
            Call::Stop => self.stops(StopReason::Requested),
            Call::Kill => self.kills(StopReason::Requested),
            Call::StopItself => self.told_alone(child, Killed::No)?,
            Call::KillItself => self.told_alone(child, Killed::Yes)?,
            Call::CloseListener => {
                if let Some(number) = self.listener(listener) {
                    self.close_by_hand(number);
                }
            }
        }
        Ok(())
    }

    /// One child is told to end, or is killed, by its id (R4).
    pub(crate) fn told_alone(&mut self, id: ChildId, killed: Killed) -> Seen {
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
            // Nothing of it is anywhere: it ends at once.
            Stage::Owed { .. } | Stage::Listed { .. } | Stage::Spaced(_) | Stage::Held { .. } => {
                let child = self.children.get(&key);
                let kind = child.and_then(|child| self.unseen_end(key, child));
                self.vanishes(key, kind.unwrap_or(EndKind::Stopped));
            }
            Stage::Waiting => {
                self.wakes.listeners += 1;
                self.may_block();
                self.listeners[key.listener]
                    .queue
                    .retain(|other| *other != key);
            }
            // Its task, and what waits for the signal.
            _ => self.wakes.children += 2,
        }
        // By the call itself.
        self.wakes.companions += 1;
        Ok(())
    }

    fn init_began(&mut self, id: ChildId, listener: ListenerId, generation: u32) -> Seen {
        let key = self.key(id)?;
        if self.listener(listener) != Some(key.listener) {
            let seen = format!("listener {listener}");
            return breach("B1", format!("`init` of {id} has its listener"), seen);
        }
        if self.ended.contains_key(&key) {
            let seen = "its `init` begins";
            return breach("B1", format!("{id} has ended"), seen);
        }
        let Some(known) = self.children.get(&key) else {
            let expected = format!("an acceptor that listener {listener} lacks begins `init`");
            return breach("L1", expected, format!("{id} does"));
        };
        let commands = self.commands(key, known);
        if commands.told.is_some_and(|told| told.batch < self.batch) {
            let expected = format!(
                "no `init` begins on a listener that is closed: {:?}",
                commands.told
            );
            return breach("L3", expected, format!("that of {id}"));
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
            return breach(rule, expected, "it begins");
        }
        let (least, most) = known.generations;
        let most = most.unwrap_or(self.generation);
        if generation < least || generation > most {
            let expected = format!("acceptor {id} is of a spec from {least} to {most}");
            return breach("R1", expected, format!("of {generation}"));
        }
        let now = self.now;
        let (_, _, known) = self.child(id, "B1")?;
        if let Stage::Owed { .. } = known.stage {
            // Since it has a place of its own.
            known.made = now;
        }
        known.stage = Stage::Init;
        known.generations = (generation, Some(generation));
        Ok(())
    }

    fn init_ended(&mut self, id: ChildId, how: Begun) -> Seen {
        let now = self.now;
        let lost = self.tasks.lose_children();
        let (key, commands, known) = self.child(id, "B1")?;
        if known.stage != Stage::Init {
            let seen = format!("{:?}", known.stage);
            return breach("B1", format!("{id} is in `init`"), seen);
        }
        match how {
            Begun::Waits(timeout) => {
                known.stage = Stage::Waiting;
                known.state = State::Held;
                known.deadline = timeout.map(|timeout| (now + timeout, timeout));
                let deadline = known.deadline.map(|(at, _)| at);
                let replaced = commands.replaced.is_some();
                let told = commands.killed.is_some() || commands.asked.is_some() || replaced;
                let number = key.listener;
                if !replaced {
                    self.outage_is_over(number);
                }
                if !self.listeners[number].is_open() {
                    return Ok(());
                }
                if told || self.wakes_for(number, deadline) {
                    self.wakes.listeners += 1;
                }
                if told {
                    // It terminates in a task of its own.
                    self.wakes.companions += 1;
                }
                if !told {
                    self.listeners[number].queue.push_back(key);
                }
                Ok(())
            }
            Begun::Ignored => self.ended(key, EndKind::Normal, Sort::Acceptor, Ended::Repeats),
            Begun::Failed => self.ended(key, EndKind::Error, Sort::StartError, Ended::StartError),
            Begun::Panicked => self.ended(key, EndKind::Panic, Sort::StartError, Ended::StartError),
            Begun::Dropped => {
                let kind = if known.panicked.is_some() {
                    EndKind::Panic
                } else if lost {
                    EndKind::Lost
                } else if commands.killed.is_some() {
                    EndKind::Killed
                } else if known.is_to_be_dropped(&commands) {
                    EndKind::Stopped
                } else {
                    return breach("B1", format!("{id} stays in `init`"), "it is dropped");
                };
                let how = match kind {
                    EndKind::Lost => Ended::Lost,
                    _ => Ended::Other,
                };
                self.ended(key, kind, Sort::Acceptor, how)
            }
        }
    }

    /// Whether the listener's task is woken for an acceptor that begins to wait: only if no other waits, or if no timeout
    /// that the task knows of is as early (L5). One that is overdue may have left.
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
    pub(super) fn became(&mut self, number: usize, record: &ConnectionRecord<SocketAddr>) -> Seen {
        let (now, key) = (self.now, self.key(record.id)?);
        let listening = &mut self.listeners[number];
        if !listening.queue.contains(&key) {
            let seen = format!("{key} becomes the connection; {:?} wait", listening.queue);
            return breach("B5", "an acceptor that waits becomes the connection", seen);
        }
        // Each before it must have waited for as long as it was to.
        while let Some(first) = listening.queue.pop_front().filter(|first| *first != key) {
            let child = self.children.get(&first);
            let deadline = child.and_then(|child| child.deadline);
            if deadline.is_none_or(|(at, _)| at > now) {
                let expected = format!("{first}, which waits longest, gets {}", record.peer_addr);
                return breach("L6", expected, format!("{key} gets it"));
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
            return breach("B7", format!("{key} terminates"), format!("it gets {peer}"));
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
        });
        self.peers.insert(peer, Peer::Served(key));
        self.replace_connected(number);
        if reported {
            self.reports(Expected::Began {
                child: key,
                peer,
                local,
            });
        }
        Ok(())
    }

    fn terminate_began(&mut self, id: ChildId, reason: &Terminate) -> Seen {
        let (now, batch) = (self.now, self.batch);
        let (key, commands, known) = self.child(id, "B7")?;
        if known.stage != Stage::Waiting {
            let seen = format!("{id}, which is {:?}", known.stage);
            return breach(
                "B7",
                "`terminate` runs once, for an acceptor that waits",
                seen,
            );
        }
        if commands.killed.is_some_and(|at| at < batch) {
            let expected = "an acceptor that is killed does not terminate";
            return breach("B7", expected, format!("{id} does"));
        }
        let deadline = known.deadline.map(|(at, _)| at);
        let told = commands.told;
        let failure = &self.listeners[key.listener].failure;
        let is = |ending| told.is_some_and(|told: Told| told.ending == ending);
        let fits = match reason {
            // It had left the queue before it was told anything else.
            Terminate::Timeout => {
                let others = [
                    told.map(|told| told.at),
                    commands.asked.map(|(at, _)| at),
                    commands.replaced.map(|(at, _)| at),
                ];
                let by = others.into_iter().flatten().fold(now, Instant::min);
                deadline.is_some_and(|at| at <= by)
            }
            Terminate::Closed => is(Ending::Closed),
            Terminate::Io(error) => is(Ending::Failed) && error.to_string() == *failure,
            Terminate::Stopped => is(Ending::Stopped) || commands.asked.is_some(),
            Terminate::Replaced => commands.replaced.is_some(),
            _ => false,
        };
        if !fits {
            let expected = match (told, commands.asked) {
                (Some(told), _) => format!("{id} terminates: {:?} {failure}", told.ending),
                (None, Some(_)) => format!("{id} terminates, because it was asked to stop"),
                (None, None) => format!("{id} waits on"),
            };
            return breach("B7", expected, format!("it terminates: {reason}"));
        }
        if matches!(reason, Terminate::Timeout) {
            self.may_block();
        }
        let (_, _, known) = self.child(id, "B7")?;
        known.stage = Stage::Terminating;
        known.begun = Some(batch);
        known.reason = Some(reason.clone());
        self.listeners[key.listener]
            .queue
            .retain(|other| *other != key);
        Ok(())
    }

    /// All that a child held is gone: works out how it ended, and what must follow.
    pub(super) fn end_is_complete(&mut self) -> Seen {
        let Some(key) = self.ending.take() else {
            return Ok(());
        };
        let lost = self.tasks.lose_children();
        let Some(known) = self.children.get(&key) else {
            return breach("E3", format!("{key} ended once"), "it ends again");
        };
        if known.state == State::Held {
            return breach("E2", format!("the state of {key} is dropped"), "it is kept");
        }
        let commands = self.commands(key, known);
        let dropped = if lost {
            Some(EndKind::Lost)
        } else if commands.killed.is_some() {
            Some(EndKind::Killed)
        } else if known.is_to_be_dropped(&commands) {
            Some(EndKind::Stopped)
        } else {
            None
        };
        let kind = match known.stage {
            _ if known.panicked.is_some() => Some(EndKind::Panic),
            Stage::Connection => match known.returned {
                // A guard kept it, until the kill (E6).
                Some(_) if known.guard().is_some() && commands.killed.is_some() => dropped,
                Some(Return::Normal) => Some(EndKind::Normal),
                Some(Return::Clean) => Some(EndKind::Clean),
                Some(Return::Error) => Some(EndKind::Error),
                Some(Return::Disconnected) => Some(EndKind::Disconnected),
                Some(Return::Panic) => Some(EndKind::Panic),
                None => self.handshake_end(known, &commands).or(dropped),
            },
            Stage::Terminating => match (known.farewell, &known.reason) {
                (Some(Farewell::Panicked), _) => Some(EndKind::Panic),
                (Some(Farewell::Returned), Some(Terminate::Timeout)) => Some(EndKind::Normal),
                (Some(Farewell::Returned), _) => Some(EndKind::Stopped),
                _ => dropped,
            },
            Stage::Waiting => dropped,
            _ => None,
        };
        let Some(kind) = kind else {
            let expected = format!("{key} stays, because nothing has ended it");
            return breach("E1", expected, format!("it is dropped, {:?}", known.stage));
        };
        let timed_out = matches!(known.reason, Some(Terminate::Timeout));
        let short = known
            .deadline
            .is_some_and(|(_, timeout)| timeout < LONG_ENOUGH);
        let how = match kind {
            EndKind::Normal | EndKind::Panic if timed_out && short => Ended::Repeats,
            EndKind::Lost => Ended::Lost,
            _ => Ended::Other,
        };
        let sort = match known.stage {
            Stage::Connection => Sort::Connection,
            _ => Sort::Acceptor,
        };
        self.ended(key, kind, sort, how)
    }

    /// A child has ended: what is reported, whether it counts, and which acceptor takes its place.
    fn ended(&mut self, key: Key, kind: EndKind, sort: Sort, how: Ended) -> Seen {
        let number = key.listener;
        let Some(child) = self.remove(key) else {
            return breach("E3", format!("{key} ended once"), "it ends again");
        };
        if sort != Sort::Connection {
            self.listeners[number].queue.retain(|other| *other != key);
        }
        if let Some(stop) = &mut self.stop {
            if stop.finished.is_some() {
                return Ok(());
            }
            stop.count(sort, kind);
            stop.is_late(&child, Some(kind), self.now);
            stop.moves(self.listeners[number].runtime, self.now);
        }
        let message = child.panicked.unwrap_or(match (sort, kind) {
            (Sort::StartError, EndKind::Panic) => INIT_PANICS,
            (Sort::StartError, _) => INIT_FAILS,
            (Sort::Acceptor, _) => TERMINATE_PANICS,
            (Sort::Connection, EndKind::Panic) => SERVE_PANICS,
            (Sort::Connection, _) => SERVE_FAILS,
        });
        let text = match kind {
            EndKind::Disconnected => disconnection().to_string(),
            EndKind::HandshakeFailed => handshake_error(&child),
            _ => text(message, &key.to_string()),
        };
        self.end_is_reported(key, &child, kind, sort, text);
        if sort == Sort::Connection {
            self.resources_are_freed();
        }
        let survives = self.survives(kind, sort);
        let replaces = child.replaced.is_none() && self.replaces(number);
        if sort != Sort::Connection {
            match survives && replaces {
                true => self.replace(number, how, child.repeats),
                false => self.is_fewer(number),
            }
        }
        self.phases_go_on();
        Ok(())
    }

    pub(super) fn end_is_reported(
        &mut self,
        key: Key,
        child: &Child,
        kind: EndKind,
        sort: Sort,
        text: String,
    ) {
        let link = child.connection.as_ref();
        let reported = link.is_some_and(|link| link.reported);
        let failed = match kind {
            EndKind::Error | EndKind::Panic | EndKind::Lost => true,
            // One of many is not, while they are killed with the pool.
            EndKind::Killed => self.phase() != Some(Phase::Kill),
            EndKind::Disconnected | EndKind::HandshakeFailed => {
                reported || self.spec.reports != ReportsSetting::Failures
            }
            _ => false,
        };
        let gone = link.map(|link| Gone {
            peer: link.peer,
            transport: link.transport,
            age: self.now - link.since,
        });
        if failed {
            self.reports(Expected::Child(Failed {
                child: key,
                sort,
                kind,
                text,
                gone,
            }));
            return;
        }
        if let Some(gone) = gone.filter(|_| reported) {
            self.reports(Expected::Ended {
                child: key,
                gone,
                kind,
            });
        }
    }

    fn handshake_began(&mut self, id: ChildId) -> Seen {
        let batch = self.batch;
        let (_, _, known) = self.child(id, "H1")?;
        if known.handshake().is_none() || known.begun.is_some() {
            let seen = format!("{:?}, begun {:?}", known.stage, known.begun);
            let expected = "a handshake begins once, on a listener that has one";
            return breach("H1", expected, seen);
        }
        known.begun = Some(batch);
        Ok(())
    }

    /// How a connection ends by its handshake: it failed, or took too long (H3, H4). None, if it ends for another reason.
    fn handshake_end(&self, child: &Child, commands: &Commands) -> Option<EndKind> {
        let handshake = child.handshake()?;
        let late = match &handshake.over {
            Some(Shaken::Failed | Shaken::Disconnected(_)) => {
                return Some(EndKind::HandshakeFailed);
            }
            Some(Shaken::Dropped) => handshake.is_overdue(self.now),
            _ => false,
        };
        // A command that came before this poll comes first; but one to stop lets a connection begin.
        let before = |at: Option<u64>| at.is_some_and(|at| at < self.batch);
        let told = before(commands.stopped) || before(commands.asked.map(|(_, at)| at));
        let before = before(commands.killed) || told && before(child.begun);
        let lost = self.tasks.lose_children();
        (late && !before && !lost).then_some(EndKind::HandshakeFailed)
    }

    /// Counts the end, if it counts (I1). A pool that does not survive it starts no other acceptor (B4), unless it is a lame
    /// duck, which goes on as before (S2).
    pub(super) fn survives(&mut self, kind: EndKind, sort: Sort) -> bool {
        let before = self.stop.is_some();
        let counts = sort == Sort::StartError
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
            // Older ones do not matter any longer.
            let old = self.failures.len() - (most + 1);
            self.failures.drain(..old);
            self.stops(StopReason::Intensity);
        }
    }

    /// How many failures are shown: those that are not forgotten.
    pub(super) fn shown_failures(&self) -> usize {
        let (now, period) = (self.now, self.spec.period());
        let within = self.failures.iter().filter(|at| now - **at <= period);
        within.count()
    }

    /// The runtime dropped the pool's own task: the pool is killed.
    pub(crate) fn lost_its_task(&mut self) {
        self.timeless = true;
        self.kills(StopReason::RuntimeGone);
    }
}

/// The cause of a handshake that failed, and its error, as they are reported.
fn handshake_error(child: &Child) -> String {
    let over = child
        .handshake()
        .and_then(|handshake| handshake.over.as_ref());
    match over {
        Some(Shaken::Failed) => format!("{CAUSE}: {HANDSHAKE_FAILS}"),
        Some(Shaken::Disconnected(error)) => format!("disconnected: {error}"),
        _ => "timeout".to_owned(),
    }
}
