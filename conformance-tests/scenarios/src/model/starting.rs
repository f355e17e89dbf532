//! The starts of acceptors: when each begins `init`, and which one retries while `init` fails (B3, B4, B6).

use std::time::Duration;

use super::children::{Child, Stage};
use super::outbox::Role;
use super::{Key, Model, SECOND, Tasks};
use acceptor_core::{EndKind, Phase};

/// While `init` fails, one acceptor of the listener at a time retries; the others are held (B4).
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// How many acceptors have retried, or will.
    retries: u32,
    /// The acceptor that retries.
    probe: Option<Key>,
    /// Acceptors were replaced, and the listener's task starts one if none tries then (R1).
    start_another: bool,
}

/// The end of an acceptor, as it matters to its replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// `init` failed (B4).
    StartError,
    /// Another start could end in the same way at once (B3, B6).
    Repeats,
    /// The runtime dropped it.
    Lost,
    Other,
}

impl Ended {
    pub(super) fn of(kind: EndKind) -> Self {
        match kind {
            EndKind::Lost => Self::Lost,
            _ => Self::Other,
        }
    }
}

/// The task of a listener starts at most this many acceptors in one turn.
pub(crate) const STARTED_AT_ONCE: usize = 64;

/// The first replacement starts at once; the delay of the others doubles from 1 ms to 1 s (B3).
fn spacing(repeats: u32) -> Duration {
    match repeats {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(1 << (more - 2).min(10)).min(SECOND),
    }
}

impl Outage {
    /// Whether the listener's task starts one of its acceptors.
    fn starts(&self) -> bool {
        self.start_another && self.probe.is_none()
    }
}

impl Model {
    /// Adds an acceptor to a listener.
    pub(super) fn add(&mut self, number: usize, stage: Stage, repeats: u32) -> Key {
        let listening = &mut self.listeners[number];
        listening.numbers += 1;
        let key = Key {
            listener: number,
            number: listening.numbers,
        };
        let child = Child::new(stage, self.generation, repeats, self.now);
        self.children.insert(key, child);
        key
    }

    fn add_later(&mut self, number: usize, delay: Duration, repeats: u32) -> Key {
        self.wakes.driver += 1;
        self.add(number, Stage::Spaced(self.now + delay), repeats)
    }

    /// Whether an acceptor that ends is replaced: its listener is open, and the pool accepts.
    pub(super) fn replaces(&self, number: usize) -> bool {
        let listening = &self.listeners[number];
        let accepts = match self.stop.as_ref() {
            None => true,
            Some(stop) => match stop.phase {
                Phase::LameDuck => true,
                Phase::Grace => stop.drains(),
                Phase::Stop | Phase::Kill => false,
            },
        };
        listening.is_open() && listening.killed.is_none() && accepts
    }

    /// Replaces an acceptor that has ended; `repeats` acceptors before it ended in the same way.
    pub(super) fn replace(&mut self, number: usize, how: Ended, repeats: u32) {
        let listening = &mut self.listeners[number];
        if how == Ended::StartError {
            listening.outage.get_or_insert_default();
        }
        if listening.outage.is_some() {
            self.retry(number);
            return;
        }
        match how {
            Ended::StartError | Ended::Other => {
                self.add(number, Stage::Starting, 0);
            }
            Ended::Repeats | Ended::Lost => {
                let repeats = repeats + 1;
                let delay = spacing(repeats);
                if how == Ended::Lost || !delay.is_zero() {
                    self.add_later(number, delay, repeats);
                } else {
                    self.add(number, Stage::Starting, repeats);
                }
            }
        }
    }

    /// Replaces an acceptor that has become a connection.
    pub(super) fn replace_connected(&mut self, number: usize) {
        let listening = &self.listeners[number];
        if !listening.is_open() || listening.killed.is_some() {
            return;
        }
        if listening.outage.is_some() {
            self.retry(number);
        } else {
            self.add(number, Stage::Starting, 0);
        }
    }

    /// During an outage one acceptor retries, and the others are held.
    fn retry(&mut self, number: usize) {
        let Some(outage) = &mut self.listeners[number].outage else {
            return;
        };
        if outage.probe.is_some() {
            self.add(number, Stage::Held { released: false }, 0);
            return;
        }
        outage.retries += 1;
        let delay = spacing(outage.retries);
        let key = self.add_later(number, delay, 0);
        if let Some(outage) = &mut self.listeners[number].outage {
            outage.probe = Some(key);
        }
    }

    /// An `init` has succeeded: held acceptors may start (B4).
    pub(super) fn outage_is_over(&mut self, number: usize) {
        if self.listeners[number].outage.take().is_none() {
            return;
        }
        let mut held = 0;
        for (key, child) in &mut self.children {
            match &mut child.stage {
                _ if key.listener != number => {}
                Stage::Held { released } => {
                    *released = true;
                    held += 1;
                }
                Stage::Owed { .. } | Stage::Listed { .. } => held += 1,
                _ => {}
            }
        }
        if held > 0 {
            self.wakes.listeners += 1 + held / 64;
        }
    }

    /// A child is gone; if it was the one that retries, another does.
    pub(super) fn remove(&mut self, key: Key) -> Option<Child> {
        let child = self.children.remove(&key)?;
        self.ended.insert(key, child.id);
        if let Some(outage) = &mut self.listeners[key.listener].outage {
            if outage.probe == Some(key) {
                outage.probe = None;
            }
        }
        Some(child)
    }

    /// An acceptor has ended without a replacement: if its listener closes, that may be the last one to wait for (L7).
    pub(super) fn has_fewer_acceptors(&mut self, number: usize) {
        if self.listeners[number].closing.is_some() {
            self.wakes.listeners += 1;
        }
    }

    /// An acceptor without an event has ended.
    pub(super) fn ends_unseen(&mut self, key: Key, kind: EndKind) {
        let Some(child) = self.remove(key) else {
            return;
        };
        if self.may_begin(child.stage).is_ok() {
            // It was started, but its `init` was not polled.
            self.may_block();
        }
        if let Some(stop) = &mut self.stop {
            stop.count(Role::Acceptor, kind);
            stop.record_progress(self.listeners[key.listener].runtime, self.now);
        }
        self.end_is_reported(key, &child, kind, Role::Acceptor, String::new());
        self.goes_on_after(key, &child, kind, Role::Acceptor, Ended::of(kind));
    }

    /// Counts the end of a child if it counts, and replaces an acceptor that has ended.
    pub(super) fn goes_on_after(
        &mut self,
        key: Key,
        child: &Child,
        kind: EndKind,
        role: Role,
        how: Ended,
    ) {
        let number = key.listener;
        let survives = self.survives(kind, role);
        let replaces = child.replaced.is_none() && self.replaces(number);
        if role != Role::Connection {
            match survives && replaces {
                true => self.replace(number, how, child.repeats),
                false => self.has_fewer_acceptors(number),
            }
        }
        self.phases_go_on();
    }

    /// The acceptor of the pool was replaced: started acceptors end, and as many others start (R1).
    pub(super) fn replaces_acceptors(&mut self, number: usize) {
        let (now, batch) = (self.now, self.batch);
        if !self.listeners[number].is_open() {
            return;
        }
        let begun = self.children_of(number).filter(|(_, child)| {
            child.is_started() && child.stage != Stage::Connection && child.replaced.is_none()
        });
        let begun: Vec<_> = begun.map(|(key, _)| *key).collect();
        if begun.is_empty() {
            return;
        }
        self.commanded = true;
        // The listener's task, and the pool's own task.
        self.wakes.listeners += 1 + begun.len() as u64 / 64;
        self.wakes.driver += 1;
        for key in &begun {
            if let Some(child) = self.children.get_mut(key) {
                child.replaced = Some((now, batch));
                match child.stage {
                    Stage::Waiting => self.may_block(),
                    Stage::Starting | Stage::Init => self.wakes.children += 1,
                    _ => {}
                }
            }
            if let Some(outage) = &mut self.listeners[number].outage {
                // The listener's task checks once whether an acceptor must try, because the previous one may have failed.
                outage.start_another = true;
                if outage.probe == Some(*key) {
                    outage.probe = None;
                }
            }
            self.add(number, Stage::Owed { released: false }, 0);
        }
        let queue = &mut self.listeners[number].queue;
        queue.retain(|key| !begun.contains(key));
    }

    /// The task of a listener was polled: it starts acceptors, during an outage one at a time (B4).
    pub(crate) fn listener_was_polled(&mut self, number: usize) {
        use super::listeners::Queued;
        let (now, batch) = (self.now, self.batch);
        let closing = self.listeners[number].closing.as_ref();
        if closing.is_some_and(|closing| matches!(closing.queued, Queued::Reset(at) if at < batch))
        {
            return;
        }
        let mut outage = self.listeners[number].outage.as_mut();
        let mut most = match &mut outage {
            Some(outage) => {
                let starts = outage.starts();
                outage.start_another = false;
                usize::from(starts)
            }
            None => STARTED_AT_ONCE,
        };
        // Pass 0: listed acceptors; pass 1: held acceptors; pass 2: acceptors without a slot.
        for pass in 0..3 {
            for (key, child) in &mut self.children {
                let released = match (&mut child.stage, pass) {
                    _ if key.listener != number => continue,
                    (Stage::Listed { released }, 0) | (Stage::Owed { released }, 2) => released,
                    (Stage::Held { released: true }, 1) => {
                        most = most.saturating_sub(1);
                        continue;
                    }
                    _ => continue,
                };
                if most == 0 {
                    // It may start in the same poll.
                    *released |= outage.is_none();
                    continue;
                }
                most -= 1;
                if let Some(outage) = &mut outage {
                    outage.probe = Some(*key);
                }
                if pass == 2 {
                    child.made = now;
                }
                child.stage = Stage::Spaced(now);
            }
        }
    }

    /// Whether acceptors without an event may have ended, or one may have been dismissed: the list shows it.
    pub(crate) fn expects_unseen_ends(&mut self) -> bool {
        if self.passed_over {
            return true;
        }
        if !self.commanded {
            return false;
        }
        let unseen = self.children.iter().filter(|(_, child)| child.is_unseen());
        let mut commanded = unseen.filter(|(key, child)| {
            self.tasks != Tasks::Run || self.unseen_end(**key, child).is_some()
        });
        self.commanded = commanded.next().is_some();
        self.commanded
    }

    /// Whether acceptors without an event may have started.
    pub(crate) fn has_unseen_starts(&self) -> bool {
        let unseen = |child: &Child| child.is_unseen() && child.stage != Stage::Starting;
        self.children.values().any(unseen)
    }

    /// The end of an acceptor without an event, if it has a reason to end.
    pub(super) fn unseen_end(&self, key: Key, child: &Child) -> Option<EndKind> {
        let listening = &self.listeners[key.listener];
        if listening.killed.or(child.killed).is_some() {
            Some(EndKind::Killed)
        } else if listening.end.is_some() || child.asked.is_some() || child.replaced.is_some() {
            Some(EndKind::Stopped)
        } else {
            None
        }
    }

    /// No task is ready: each acceptor whose start is due has begun `init`.
    pub(super) fn starts_are_done(&mut self) -> super::Check {
        let now = self.now;
        if self.is_given_up() {
            return Ok(());
        }
        for (key, child) in &mut self.children {
            let outage = &self.listeners[key.listener].outage;
            let holds = outage.as_ref().is_some_and(|outage| !outage.starts());
            let outage = outage.is_some();
            let late = match &mut child.stage {
                Stage::Owed { released } | Stage::Listed { released } if holds => {
                    *released = false;
                    continue;
                }
                Stage::Owed { .. } | Stage::Listed { .. } | Stage::Starting => Duration::ZERO,
                Stage::Spaced(at) if *at <= now => now - *at,
                Stage::Held { .. } if !outage => Duration::ZERO,
                Stage::Held { released } => {
                    *released = false;
                    continue;
                }
                _ => continue,
            };
            let rule = match (child.stage, child.repeats) {
                (Stage::Held { .. }, _) => "B4",
                (_, 0) => "L1",
                _ => "B3",
            };
            let (stage, repeats) = (child.stage, child.repeats);
            let expected = format!("{key} begins `init`, after {repeats} useless ones");
            return super::violation(rule, expected, format!("not {late:?} later: {stage:?}"));
        }
        Ok(())
    }

    /// Whether an acceptor may begin `init`; the error is the time until then.
    pub(super) fn may_begin(&self, stage: Stage) -> Result<(), Option<Duration>> {
        match stage {
            Stage::Starting => Ok(()),
            Stage::Spaced(at) if at <= self.now => Ok(()),
            Stage::Spaced(at) => Err(Some(at - self.now)),
            Stage::Held { released: true }
            | Stage::Owed { released: true }
            | Stage::Listed { released: true } => Ok(()),
            _ => Err(None),
        }
    }
}
