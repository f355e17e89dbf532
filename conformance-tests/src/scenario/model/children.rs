//! The children of the model: what was seen of each, and what its end must come to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_core::{ChildId, ConnectionRecord, EndKind, ListenerId, Phase, StopReason, Terminate};

use super::{
    Ending, Expected, Failed, Model, Peer, Seen, SocketState, Sort, Tasks, breach, reached, same,
};
use crate::scenario::RestartSetting;
use crate::scenario::cast::{
    INIT_FAILS, INIT_PANICS, KEPT_DROPPED, SERVE_FAILS, SERVE_PANICS, STATE_DROPPED,
    TERMINATE_PANICS,
};
use crate::scenario::event::{Begun, Bomb, Call, Event, Farewell, Return};
use crate::simulated::Happened;

/// What was seen of a child.
pub(super) struct Child {
    pub(super) listener: usize,
    pub(super) stage: Stage,
    generation: u32,
    /// When its accept time-out comes, and how long that is.
    pub(super) deadline: Option<(Instant, Duration)>,
    /// Why it was told to end first, and when.
    pub(super) told: Option<(Ending, Instant)>,
    pub(super) told_in: u64,
    /// The batch in which it was killed.
    pub(super) killed: Option<u64>,
    /// The batch in which the stop phase came.
    pub(super) stopped: Option<u64>,
    /// The batch in which it was asked to stop, by its id.
    pub(super) asked: Option<u64>,
    pub(super) trapped: bool,
    /// The batch in which its `serve` or `terminate` was first polled.
    pub(super) begun: Option<u64>,
    /// How many acceptors before it, one after the other, led nowhere.
    vain: u32,
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
    pub(super) since: Instant,
    /// The number of the acceptor that was started in its place.
    replacement: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Init,
    Waiting,
    Connection,
    Terminating,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    Held,
    Dropped,
}

/// How long a wait must be at least for the replacement to start at once (B6).
const HARDLY: Duration = Duration::from_millis(1);

impl Child {
    pub(super) fn is_acceptor(&self) -> bool {
        matches!(
            self.stage,
            Stage::Init | Stage::Waiting | Stage::Terminating
        )
    }

    /// The first reason to end stays the reason.
    pub(super) fn tell(&mut self, ending: Ending, now: Instant, batch: u64) {
        if self.told.is_none() {
            self.told = Some((ending, now));
            self.told_in = batch;
        }
    }

    pub(super) fn ask(&mut self, now: Instant, batch: u64) {
        self.asked.get_or_insert(batch);
        // A connection has no reason to end, and takes no notice of one.
        self.tell(Ending::Asked, now, batch);
    }

    pub(super) fn kill(&mut self, batch: u64) {
        self.killed.get_or_insert(batch);
    }

    /// Whether it is dropped where it next suspends, for it was told to stop and is not going to by itself.
    pub(super) fn is_to_be_dropped(&self) -> bool {
        if self.killed.is_some() {
            return true;
        }
        let stopped = match self.stage {
            Stage::Connection => self.stopped.is_some() || self.asked.is_some(),
            Stage::Terminating => self.stopped.is_some(),
            Stage::Init | Stage::Waiting => self.told.is_some(),
            Stage::Ended => false,
        };
        stopped && !self.trapped && (self.begun.is_some() || self.stage == Stage::Init)
    }
}

impl Model {
    pub(super) fn acceptors_of(&self, listener: usize) -> impl Iterator<Item = &Child> {
        let children = self.children.values();
        children.filter(move |child| child.listener == listener && child.is_acceptor())
    }

    /// The children that are there, as far as they were seen.
    pub(super) fn living(&self) -> impl Iterator<Item = (&ChildId, &Child)> {
        let children = self.children.iter();
        children.filter(|(_, child)| child.stage != Stage::Ended)
    }

    /// Those that are connections.
    pub(super) fn connections(&self) -> impl Iterator<Item = (&ChildId, &Child)> {
        self.living()
            .filter(|(_, child)| child.stage == Stage::Connection)
    }

    pub(in crate::scenario) fn connection_ids(&self) -> Vec<ChildId> {
        self.connections().map(|(id, _)| *id).collect()
    }

    pub(in crate::scenario) fn acceptor_ids(&self) -> Vec<ChildId> {
        let acceptors = self.living().filter(|(_, child)| child.is_acceptor());
        acceptors.map(|(id, _)| *id).collect()
    }

    pub(in crate::scenario) fn ended_ids(&self) -> Vec<ChildId> {
        let ended = self.children.iter();
        let ended = ended.filter(|(_, child)| child.stage == Stage::Ended);
        ended.map(|(id, _)| *id).collect()
    }

    fn child(&mut self, id: ChildId, rule: &'static str) -> Result<&mut Child, super::Breach> {
        match self.children.get_mut(&id) {
            Some(child) => Ok(child),
            None => breach(rule, "a child that ran `init`", format!("child {id}")),
        }
    }

    pub(super) fn see_child(&mut self, event: &Event) -> Seen {
        let (now, batch) = (self.now, self.batch);
        match event {
            Event::InitBegan {
                child,
                listener,
                generation,
            } => self.init_began(*child, *listener, *generation),
            Event::InitEnded { child, how } => self.init_ended(*child, *how),
            Event::ServeBegan {
                child,
                listener,
                peer,
                local,
            } => {
                let number = self.listener(*listener);
                let known = self.child(*child, "B5")?;
                if known.stage != Stage::Connection || known.begun.is_some() {
                    let seen = format!("{:?}, begun {:?}", known.stage, known.begun);
                    return breach("B5", "`serve` begins once, for a connection", seen);
                }
                if known.killed.is_some_and(|at| at < batch) {
                    return breach("E4", "a killed child is not polled", "`serve` begins");
                }
                known.begun = Some(batch);
                let (of, link) = (known.listener, known.connection.as_ref());
                let replacement = link.map(|link| link.replacement);
                let expected = link.map(|link| (link.peer, link.local));
                same(
                    "B10",
                    "peer and local address",
                    expected,
                    Some((*peer, *local)),
                )?;
                same("B10", "listener", Some(of), number)?;
                match replacement {
                    Some(replacement) => self.starts.has_begun(replacement),
                    None => Ok(()),
                }
            }
            Event::Trapped { child } => {
                self.child(*child, "N2")?.trapped = true;
                Ok(())
            }
            Event::Exploded { child } => {
                let known = self.child(*child, "E1")?;
                known.panicked.get_or_insert(KEPT_DROPPED);
                Ok(())
            }
            Event::ServeReturned { child, how } => {
                let known = self.child(*child, "E1")?;
                known.not_polled_after(batch, "`serve` returns")?;
                known.returned = Some(*how);
                Ok(())
            }
            Event::StateDropped { child, bomb } => {
                let known = self.child(*child, "B7")?;
                if known.state != State::Held {
                    let seen = format!("{:?}", known.state);
                    return breach("B7", "the state of a child is dropped once", seen);
                }
                known.state = State::Dropped;
                if *bomb == Bomb::Armed {
                    known.panicked.get_or_insert(STATE_DROPPED);
                }
                match known.stage {
                    // `serve` drops it when it is over, or `terminate`; or who was neither.
                    Stage::Connection if known.returned.is_some() => {}
                    _ => self.ending = Some(*child),
                }
                Ok(())
            }
            Event::TerminateBegan { child, reason } => self.terminate_began(*child, reason),
            Event::TerminateEnded { child, how } => {
                let known = self.child(*child, "B7")?;
                if *how != Farewell::Dropped {
                    known.not_polled_after(batch, "`terminate` goes on")?;
                }
                known.farewell = Some(*how);
                self.ending = Some(*child);
                Ok(())
            }
            Event::Network(Happened::Dropped { peer }) => {
                match self.peer(*peer) {
                    Some(Peer::Served(child)) => self.ending = Some(child),
                    Some(Peer::Skipped) => {}
                    other => {
                        let seen = format!("the stream of {peer}, {other:?}, is dropped");
                        return breach("L2", "a stream that is served", seen);
                    }
                }
                Ok(())
            }
            Event::Called {
                child,
                listener,
                call,
            } => {
                match call {
                    Call::Stop => self.stops(StopReason::Requested),
                    Call::Kill => self.kills(StopReason::Requested),
                    // Who is gone takes no notice of it.
                    Call::StopItself | Call::KillItself => {
                        if let Some(known) = self.children.get_mut(child) {
                            match call {
                                Call::StopItself => known.ask(now, batch),
                                _ => known.kill(batch),
                            }
                        }
                    }
                    Call::CloseListener => {
                        if let Some(listener) = self.listener(*listener) {
                            self.closes(listener, Ending::Closed);
                        }
                    }
                }
                Ok(())
            }
            // What is not the model's concern, or has been seen to already.
            _ => Ok(()),
        }
    }

    fn init_began(&mut self, id: ChildId, listener: ListenerId, generation: u32) -> Seen {
        let Some(number) = self.listener(listener) else {
            return breach(
                "B1",
                "a listener of the pool",
                format!("listener {listener}"),
            );
        };
        if self.children.contains_key(&id) {
            return breach("B1", format!("`init` of {id} runs once"), "it runs again");
        }
        if let Some(told) = self.listeners[number].told {
            let expected = format!("no `init` begins on a listener that was {told:?}");
            return breach("L3", expected, format!("that of {id}"));
        }
        let older = self.children.range(..id).next_back();
        let younger = self.children.range(id..).next();
        let least = older.map_or(0, |(_, child)| child.generation);
        let most = younger.map_or(self.generation, |(_, child)| child.generation);
        let frontier = self.frontier.filter(|(last, _)| id > *last);
        let least = least.max(frontier.map_or(0, |(_, generation)| generation));
        if generation < least || generation > most {
            let expected = format!("acceptor {id} is of a spec from {least} to {most}");
            return breach("R1", expected, format!("of {generation}"));
        }
        let Some(due) = self.starts.take(id).filter(|due| due.listener == number) else {
            let expected = format!("an acceptor that listener {listener} lacks begins `init`");
            return breach("L1", expected, format!("{id} does"));
        };
        if due.at > self.now {
            let expected = format!("{id} waits for its start for {:?} more", due.at - self.now);
            return breach(
                "B3",
                expected,
                format!("it begins, {} led nowhere", due.vain),
            );
        }
        let child = Child {
            listener: number,
            stage: Stage::Init,
            generation,
            deadline: None,
            told: None,
            told_in: 0,
            killed: None,
            stopped: None,
            asked: None,
            trapped: false,
            begun: None,
            vain: due.vain,
            state: State::None,
            panicked: None,
            returned: None,
            reason: None,
            farewell: None,
            connection: None,
        };
        self.children.insert(id, child);
        let (seen, most) = (
            self.acceptors_of(number).count(),
            self.listeners[number].acceptors,
        );
        if seen > most {
            let expected = format!("listener {listener} has {most} acceptors");
            return breach("L1", expected, format!("{seen}, with {id}"));
        }
        Ok(())
    }

    fn init_ended(&mut self, id: ChildId, how: Begun) -> Seen {
        let (now, batch) = (self.now, self.batch);
        let known = self.child(id, "B1")?;
        if known.stage != Stage::Init {
            let seen = format!("{:?}", known.stage);
            return breach("B1", format!("{id} is in `init`"), seen);
        }
        if how != Begun::Dropped {
            known.not_polled_after(batch, "`init` goes on")?;
        }
        match how {
            Begun::Waits(timeout) => {
                known.stage = Stage::Waiting;
                let stays = known.told.is_none() && known.killed.is_none();
                known.state = State::Held;
                known.deadline = timeout.map(|timeout| (now + timeout, timeout));
                let deadline = known.deadline.map(|(at, _)| at);
                let number = known.listener;
                if self.wakes_for(number, deadline) {
                    self.wakes += 1;
                }
                if stays && self.listeners[number].told.is_none() {
                    self.listeners[number].line.push_back(id);
                }
                Ok(())
            }
            Begun::Ignored => self.ended(id, EndKind::Normal, Sort::Acceptor, Repeats::Yes),
            Begun::Failed => self.ended(id, EndKind::Error, Sort::StartError, Repeats::No),
            Begun::Panicked => self.ended(id, EndKind::Panic, Sort::StartError, Repeats::No),
            Begun::Dropped => {
                let kind = if known.panicked.is_some() {
                    EndKind::Panic
                } else if self.tasks == Tasks::ChildDropped {
                    EndKind::Lost
                } else if self.child(id, "E4")?.killed.is_some() {
                    EndKind::Killed
                } else if self.child(id, "L3")?.told.is_some() {
                    EndKind::Stopped
                } else {
                    return breach("B1", format!("{id} stays in `init`"), "it is dropped");
                };
                self.ended(id, kind, Sort::Acceptor, Repeats::No)
            }
        }
    }

    /// Whether the listener's task is woken for who joins its line: only if it has nobody to accept for, or if no
    /// time-out that it knows of is as early (L5). Who is overdue may have left.
    fn wakes_for(&self, number: usize, deadline: Option<Instant>) -> bool {
        let line = &self.listeners[number].line;
        let line = line.iter().filter_map(|id| self.children.get(id));
        let mut line = line.filter(|child| child.deadline.is_none_or(|(at, _)| at > self.now));
        match deadline {
            None => line.next().is_none(),
            Some(deadline) => line.all(|child| child.deadline.is_none_or(|(at, _)| deadline < at)),
        }
    }

    /// An acceptor has become a connection.
    pub(super) fn became(&mut self, number: usize, record: &ConnectionRecord<SocketAddr>) -> Seen {
        let (now, id) = (self.now, record.id);
        let listening = &mut self.listeners[number];
        if !listening.line.contains(&id) {
            let seen = format!(
                "{id} becomes the connection, in line are {:?}",
                listening.line
            );
            return breach("B5", "an acceptor that waits becomes the connection", seen);
        }
        // Who is before it must have waited for as long as it wanted to.
        while let Some(first) = listening.line.pop_front().filter(|first| *first != id) {
            let deadline = self.children.get(&first).and_then(|child| child.deadline);
            if deadline.is_none_or(|(at, _)| at > now) {
                let expected = format!("{first}, who waits longest, gets {}", record.peer_addr);
                return breach("L6", expected, format!("{id} gets it"));
            }
        }
        listening.accepted += 1;
        let address = listening.address;
        let local = reached(address);
        let listener = listening.id;
        same(
            "Q1",
            "the listener of a connection",
            listener,
            record.listener,
        )?;
        same("B10", "the local address", local, record.local_addr)?;
        let replacement = self.starts.start(number, now, 0);
        let known = self.child(id, "B5")?;
        known.stage = Stage::Connection;
        known.connection = Some(Link {
            peer: record.peer_addr,
            local,
            since: now,
            replacement,
        });
        self.peers.insert(record.peer_addr, Peer::Served(id));
        Ok(())
    }

    fn terminate_began(&mut self, id: ChildId, reason: &Terminate) -> Seen {
        let (now, batch) = (self.now, self.batch);
        let known = self.child(id, "B7")?;
        if known.stage != Stage::Waiting {
            let seen = format!("{id}, which is {:?}", known.stage);
            return breach("B7", "`terminate` runs once, for who waits", seen);
        }
        if known.killed.is_some_and(|at| at < batch) {
            return breach(
                "B7",
                "who is killed does not terminate",
                format!("{id} does"),
            );
        }
        let deadline = known.deadline.map(|(at, _)| at);
        let (number, told) = (known.listener, known.told);
        let failure = &self.listeners[number].failure;
        let fits = match (reason, told) {
            (Terminate::Timeout, None) => deadline.is_some_and(|at| at <= now),
            // It had left the line by then.
            (Terminate::Timeout, Some((_, told))) => deadline.is_some_and(|at| at <= told),
            (Terminate::Closed, Some((Ending::Closed, _))) => true,
            (Terminate::Io(error), Some((Ending::Failed, _))) => error.to_string() == *failure,
            (Terminate::Stopped, Some((Ending::Stopped | Ending::Asked, _))) => true,
            _ => false,
        };
        if !fits {
            let expected = match told {
                Some((told, _)) => format!("{id} terminates, for it was {told:?} {failure}"),
                None => format!("{id} waits on"),
            };
            return breach("B7", expected, format!("it terminates: {reason}"));
        }
        let known = self.child(id, "B7")?;
        known.stage = Stage::Terminating;
        known.begun = Some(batch);
        known.reason = Some(reason.clone());
        self.listeners[number].line.retain(|other| *other != id);
        Ok(())
    }

    /// What a child held is gone: works out how it ended, and what must follow.
    pub(super) fn end_is_complete(&mut self) -> Seen {
        let Some(id) = self.ending.take() else {
            return Ok(());
        };
        let lost = self.tasks == Tasks::ChildDropped;
        let known = self.child(id, "E1")?;
        if known.state == State::Held {
            return breach("E2", format!("the state of {id} is dropped"), "it is kept");
        }
        let dropped = if lost {
            Some(EndKind::Lost)
        } else if known.killed.is_some() {
            Some(EndKind::Killed)
        } else if known.stage != Stage::Waiting && known.is_to_be_dropped() {
            Some(EndKind::Stopped)
        } else {
            None
        };
        let kind = match known.stage {
            _ if known.panicked.is_some() => Some(EndKind::Panic),
            Stage::Connection => match known.returned {
                Some(Return::Normal) => Some(EndKind::Normal),
                Some(Return::Clean) => Some(EndKind::Clean),
                Some(Return::Error) => Some(EndKind::Error),
                Some(Return::Panic) => Some(EndKind::Panic),
                None => dropped,
            },
            Stage::Terminating => match (known.farewell, &known.reason) {
                (Some(Farewell::Panicked), _) => Some(EndKind::Panic),
                (Some(Farewell::Returned), Some(Terminate::Timeout)) => Some(EndKind::Normal),
                (Some(Farewell::Returned), _) => Some(EndKind::Stopped),
                _ => dropped,
            },
            Stage::Waiting => dropped,
            Stage::Init | Stage::Ended => None,
        };
        let Some(kind) = kind else {
            let expected = format!("{id} stays, for it was told nothing that ends it");
            return breach("E1", expected, format!("it is dropped, {:?}", known.stage));
        };
        let timed_out = matches!(known.reason, Some(Terminate::Timeout));
        let hardly = known.deadline.is_some_and(|(_, timeout)| timeout < HARDLY);
        let repeats = match kind {
            EndKind::Normal | EndKind::Panic if timed_out && hardly => Repeats::Yes,
            _ => Repeats::No,
        };
        let sort = match known.stage {
            Stage::Connection => Sort::Connection,
            _ => Sort::Acceptor,
        };
        self.ended(id, kind, sort, repeats)
    }

    /// A child has ended: what is reported of it, and whether it counts.
    fn ended(&mut self, id: ChildId, kind: EndKind, sort: Sort, repeats: Repeats) -> Seen {
        let now = self.now;
        let stopping = self.stop.is_some();
        let known = self.child(id, "E3")?;
        known.stage = Stage::Ended;
        let number = known.listener;
        let peer = known
            .connection
            .as_ref()
            .map(|link| (link.peer, now - link.since));
        let text = known.panicked.unwrap_or(match (sort, kind) {
            (Sort::StartError, EndKind::Panic) => INIT_PANICS,
            (Sort::StartError, _) => INIT_FAILS,
            (Sort::Acceptor, _) => TERMINATE_PANICS,
            (Sort::Connection, EndKind::Panic) => SERVE_PANICS,
            (Sort::Connection, _) => SERVE_FAILS,
        });
        let vain = known.vain;
        let lost = kind == EndKind::Lost;
        let start_error = sort == Sort::StartError;
        let counts = start_error
            || (self.spec.restart == RestartSetting::Transient
                && matches!(kind, EndKind::Error | EndKind::Panic | EndKind::Killed));
        if sort != Sort::Connection {
            self.listeners[number].line.retain(|other| *other != id);
        }
        if let Some(stop) = &mut self.stop {
            stop.count(sort, kind);
            if stop.finished.is_some() {
                return Ok(());
            }
        }
        let failed = matches!(
            kind,
            EndKind::Error | EndKind::Panic | EndKind::Killed | EndKind::Lost
        );
        let aggregated = kind == EndKind::Killed
            && self
                .stop
                .as_ref()
                .is_some_and(|stop| stop.phase == Phase::Kill);
        if failed && !aggregated {
            self.reports.push_back(Expected::Child(Failed {
                child: id,
                listener: self.listeners[number].id,
                sort,
                kind,
                text,
                peer,
            }));
        }
        if counts && !stopping {
            self.failed();
        }
        if sort != Sort::Connection && self.listeners[number].told.is_none() {
            // Failures that do not count any more, in a lame duck, are spaced as well.
            let in_vain = repeats == Repeats::Yes || lost || (counts && self.stop.is_some());
            let vain = if in_vain { vain + 1 } else { 0 };
            self.starts.start(number, now, vain);
        }
        self.phases_go_on();
        Ok(())
    }

    /// A failure counts (I1, I2).
    fn failed(&mut self) {
        let (now, period) = (self.now, self.spec.period());
        self.failures.retain(|at| now - *at <= period);
        self.failures.push(now);
        let most = self.spec.intensity as usize;
        if self.failures.len() > most {
            // Older ones do not matter any more.
            let old = self.failures.len() - (most + 1);
            self.failures.drain(..old);
            self.stops(StopReason::Intensity);
        }
    }

    /// How many failures are shown, of those that are not forgotten.
    pub(super) fn shown_failures(&self) -> usize {
        let (now, period) = (self.now, self.spec.period());
        let within = self.failures.iter().filter(|at| now - **at <= period);
        within.count()
    }

    /// An acceptor was dropped by the runtime of which nothing was seen before.
    pub(super) fn unseen_lost(&mut self, child: ChildId, listener: ListenerId) -> Seen {
        let now = self.now;
        let Some(number) = self.listener(listener) else {
            return breach(
                "E1",
                "a listener of the pool",
                format!("listener {listener}"),
            );
        };
        let told = self.listeners[number].told.is_some();
        match self.starts.take(child) {
            Some(due) => {
                self.starts.start(number, now, due.vain + 1);
            }
            None if told => {}
            None => {
                let expected = format!("an acceptor that was started is lost, not {child}");
                return breach("E3", expected, "it is");
            }
        }
        if let Some(stop) = &mut self.stop {
            stop.count(Sort::Acceptor, EndKind::Lost);
            if told {
                stop.unseen = stop.unseen.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// The runtime dropped a task, and no socket with it: if it was the pool's own, the pool is killed.
    pub(in crate::scenario) fn lost_its_task(&mut self) {
        self.timeless = true;
        self.kills(StopReason::RuntimeGone);
    }

    pub(in crate::scenario) fn has_open_sockets(&self) -> bool {
        let mut listeners = self.listeners.iter();
        listeners.any(|listening| listening.socket == SocketState::Open)
    }
}

/// Whether the same could follow at once from starting an acceptor again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeats {
    Yes,
    No,
}

impl Child {
    /// Who was to be dropped before this poll must not have been polled.
    fn not_polled_after(&self, batch: u64, seen: &str) -> Seen {
        let before = |at: Option<u64>| at.is_some_and(|at| at < batch);
        let told = match self.stage {
            Stage::Connection => before(self.stopped) || before(self.asked),
            Stage::Terminating => before(self.stopped),
            Stage::Init => self.told.is_some() && self.told_in < batch,
            Stage::Waiting | Stage::Ended => false,
        };
        // One that had not begun is polled once: it could not have trapped the stop.
        let stopped =
            told && !self.trapped && (self.begun_before(batch) || self.stage == Stage::Init);
        if before(self.killed) || stopped {
            return breach("E4", "who is to be dropped is not polled again", seen);
        }
        Ok(())
    }

    fn begun_before(&self, batch: u64) -> bool {
        self.begun.is_some_and(|at| at < batch)
    }
}
