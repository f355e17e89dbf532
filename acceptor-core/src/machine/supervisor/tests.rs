//! The machine against an obvious model: whatever happens in whatever order, every effect is the expected one.

mod enumeration;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::machine::child_end::WaitTime;
use crate::machine::command::Command;
use crate::policy::StopPlan;
use crate::policy::{ChildType, Grace, Restart, Shutdown};
use crate::report::{Event, Failure};

/// A child's control is a number, a socket is its listener's id, and all addresses are alike.
type Machine = Supervisor<u64, ListenerId, ()>;
type Outcome = Effects<u64, ListenerId, ()>;

const MS: Duration = Duration::from_millis(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn rules() -> Rules {
    Rules {
        restart: Restart::Transient,
        intensity: 1,
        period: ms(100),
        child_type: ChildType::Worker,
        plan: StopPlan {
            lame_duck: Duration::ZERO,
            grace: Grace::Within(Duration::ZERO),
            shutdown: Shutdown::Within(ms(50)),
            patience: ms(20),
        },
    }
}

/// An end that a test can give again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Ignored,
    TimedOut,
    TimedOutHardly,
    Stopped,
    StartError,
    StartPanic,
    Normal,
    Clean,
    Error,
    Panic,
    PanicHardly,
    Killed,
    Lost,
}

const OF_ACCEPTORS: [How; 10] = [
    How::Ignored,
    How::TimedOut,
    How::TimedOutHardly,
    How::Stopped,
    How::StartError,
    How::StartPanic,
    How::Panic,
    How::PanicHardly,
    How::Killed,
    How::Lost,
];

const OF_CONNECTIONS: [How; 7] = [
    How::Normal,
    How::Clean,
    How::Error,
    How::Panic,
    How::Killed,
    How::Stopped,
    How::Lost,
];

impl How {
    fn end(self) -> ChildEnd {
        let error = || Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("failed"));
        match self {
            How::Ignored => ChildEnd::Ignored,
            How::TimedOut => ChildEnd::TimedOut(WaitTime::Long),
            How::TimedOutHardly => ChildEnd::TimedOut(WaitTime::Short),
            How::Stopped => ChildEnd::Stopped,
            How::StartError => ChildEnd::StartError(Failure::Error(error())),
            How::StartPanic => ChildEnd::StartError(Failure::Panic("panicked".into())),
            How::Normal => ChildEnd::Normal,
            How::Clean => ChildEnd::Clean,
            How::Error => ChildEnd::Error(error()),
            How::Panic => ChildEnd::Panic("panicked".into(), WaitTime::Long),
            How::PanicHardly => ChildEnd::Panic("panicked".into(), WaitTime::Short),
            How::Killed => ChildEnd::Killed,
            How::Lost => ChildEnd::Lost,
        }
    }

    fn kind(self) -> EndKind {
        match self {
            How::Ignored | How::TimedOut | How::TimedOutHardly | How::Normal => EndKind::Normal,
            How::Stopped => EndKind::Stopped,
            How::StartError | How::Error => EndKind::Error,
            How::StartPanic | How::Panic | How::PanicHardly => EndKind::Panic,
            How::Clean => EndKind::Clean,
            How::Killed => EndKind::Killed,
            How::Lost => EndKind::Lost,
        }
    }

    /// The table of section 2 with B3 to B8, once more: the word that is reported, and in which pools it counts.
    fn row(self) -> (Option<&'static str>, CountsIn) {
        match self {
            How::Ignored | How::TimedOut | How::TimedOutHardly => (None, CountsIn::Never),
            How::Normal | How::Clean | How::Stopped => (None, CountsIn::Never),
            How::StartError => (Some("error"), CountsIn::Always),
            How::StartPanic => (Some("panic"), CountsIn::Always),
            How::Error => (Some("error"), CountsIn::Transient),
            How::Panic | How::PanicHardly => (Some("panic"), CountsIn::Transient),
            How::Killed => (Some("killed"), CountsIn::Transient),
            How::Lost => (Some("lost"), CountsIn::Never),
        }
    }

    fn counts(self, restart: Restart) -> bool {
        match self.row().1 {
            CountsIn::Always => true,
            CountsIn::Transient => restart == Restart::Transient,
            CountsIn::Never => false,
        }
    }

    /// The same may follow at once, and nothing else bounds it.
    fn needs_spacing(self) -> bool {
        match self {
            How::Ignored | How::TimedOutHardly | How::PanicHardly | How::Lost => true,
            How::TimedOut | How::Stopped | How::Panic | How::StartError | How::StartPanic => false,
            How::Normal | How::Clean | How::Error | How::Killed => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountsIn {
    Always,
    Transient,
    Never,
}

/// A report, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commanded {
    StartError(ChildId, &'static str),
    AcceptorFailed(ChildId, &'static str),
    ConnectionFailed(ChildId, &'static str, Duration),
    KilledWhileStopping(usize),
    Stuck(usize),
    PoolStopped(StopReason),
}

fn told(event: &Event<()>) -> Commanded {
    let word = |failure: &Failure| match failure {
        Failure::Error(_) => "error",
        Failure::Panic(_) => "panic",
        Failure::Killed => "killed",
        Failure::Lost => "lost",
    };
    match event {
        Event::StartError { child, failure, .. } => Commanded::StartError(*child, word(failure)),
        Event::AcceptorFailed { child, failure, .. } => {
            Commanded::AcceptorFailed(*child, word(failure))
        }
        Event::ConnectionFailed {
            child,
            failure,
            age,
            ..
        } => Commanded::ConnectionFailed(*child, word(failure), *age),
        Event::KilledWhileStopping { count } => Commanded::KilledWhileStopping(*count),
        Event::Stuck { count } => Commanded::Stuck(*count),
        Event::PoolStopped { reason } => Commanded::PoolStopped(*reason),
        Event::ListenerFailed { .. } | Event::AcceptPaused { .. } => {
            panic!("the machine reports no listener: {event:?}")
        }
    }
}

/// One thing that happens. Numbers choose among those that there are.
#[derive(Debug, Clone)]
enum Act {
    Add(usize),
    Became(usize),
    AcceptorEnds(usize, How),
    ConnectionEnds(usize, How),
    /// Of who has ended, or never was.
    EndsAgain(usize, How),
    BecameAgain(usize),
    Close(usize),
    CloseAgain,
    SocketCloses(usize),
    Stop(StopReason),
    Kill(StopReason),
    Wait(u64),
    Reconfigure(Rules),
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let restart = prop_oneof![Just(Restart::Temporary), Just(Restart::Transient)];
    let child_type = prop_oneof![Just(ChildType::Worker), Just(ChildType::Supervisor)];
    let grace = prop_oneof![
        Just(Grace::Within(Duration::ZERO)),
        (1..40_u64).prop_map(|time| Grace::Within(ms(time))),
        Just(Grace::Forever),
    ];
    let shutdown = prop_oneof![
        Just(Shutdown::Kill),
        (0..40_u64).prop_map(|time| Shutdown::Within(ms(time))),
        Just(Shutdown::Never),
    ];
    let plan = (prop_oneof![Just(0), 1..40_u64], grace, shutdown, 1..40_u64);
    (restart, 0..4_u32, 1..100_u64, child_type, plan).prop_map(
        |(restart, intensity, period, child_type, (lame_duck, grace, shutdown, patience))| Rules {
            restart,
            intensity,
            period: ms(period),
            child_type,
            plan: StopPlan {
                lame_duck: ms(lame_duck),
                grace,
                shutdown,
                patience: ms(patience),
            },
        },
    )
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let any = any::<usize>;
    let of_acceptors = proptest::sample::select(OF_ACCEPTORS.as_slice());
    let of_connections = proptest::sample::select(OF_CONNECTIONS.as_slice());
    let reason = || {
        proptest::sample::select(
            [
                StopReason::Requested,
                StopReason::OwnerDropped,
                StopReason::RuntimeGone,
            ]
            .as_slice(),
        )
    };
    let act = prop_oneof![
        4 => (1..4_usize).prop_map(Act::Add),
        12 => any().prop_map(Act::Became),
        8 => (any(), of_acceptors).prop_map(|(which, how)| Act::AcceptorEnds(which, how)),
        8 => (any(), of_connections.clone()).prop_map(|(which, how)| Act::ConnectionEnds(which, how)),
        2 => (any(), of_connections).prop_map(|(which, how)| Act::EndsAgain(which, how)),
        1 => any().prop_map(Act::BecameAgain),
        2 => any().prop_map(Act::Close),
        1 => Just(Act::CloseAgain),
        3 => any().prop_map(Act::SocketCloses),
        1 => reason().prop_map(Act::Stop),
        1 => reason().prop_map(Act::Kill),
        8 => (0..60_u64).prop_map(Act::Wait),
        1 => any_rules().prop_map(Act::Reconfigure),
    ];
    proptest::collection::vec(act, 0..80)
}

/// A child, as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    listener: ListenerId,
    control: u64,
    became: Option<Instant>,
    /// How many starts in a row led nowhere.
    spaced: u32,
}

/// What the model knows of a stop.
#[derive(Debug, Clone)]
struct Halt {
    plan: StopPlan,
    reason: StopReason,
    began: Instant,
    /// Since when the present phase lasts.
    since: Instant,
    phase: Phase,
    killed_early: bool,
    ends: Vec<(Role, Phase, EndKind)>,
    finished: bool,
}

impl Halt {
    fn count(&self, role: Role, phase: Phase, kind: EndKind) -> usize {
        let same = |end: &&(Role, Phase, EndKind)| **end == (role, phase, kind);
        self.ends.iter().filter(same).count()
    }
}

const KINDS: [EndKind; 7] = [
    EndKind::Normal,
    EndKind::Clean,
    EndKind::Error,
    EndKind::Panic,
    EndKind::Killed,
    EndKind::Stopped,
    EndKind::Lost,
];

/// The machine, and beside it what should be.
#[derive(Clone)]
struct World {
    machine: Machine,
    rules: Rules,
    now: Instant,
    controls: u64,
    children: BTreeMap<ChildId, Known>,
    ended: Vec<ChildId>,
    /// Open listeners: how many acceptors each is to have, and how many it accepted.
    open: BTreeMap<ListenerId, (usize, u64)>,
    closed: Vec<ListenerId>,
    failures: Vec<Instant>,
    stop: Option<Halt>,
    children_ever: BTreeSet<ChildId>,
    to_drain: Vec<ListenerId>,
    /// Sockets that are not closed yet.
    sockets: BTreeSet<ListenerId>,
    /// All that ever happened.
    history: Vec<Moment>,
}

/// One act, and what could be seen after it.
#[derive(Debug, Clone)]
struct Moment {
    act: Act,
    at: Instant,
    rules: Rules,
    state: PoolState,
    /// Children and sockets.
    left: usize,
    reports: Vec<Commanded>,
    results: usize,
}

impl World {
    fn new(rules: Rules) -> Self {
        Self {
            machine: Supervisor::new(rules, PoolId::NONE),
            rules,
            now: Instant::now(),
            controls: 0,
            children: BTreeMap::new(),
            ended: Vec::new(),
            open: BTreeMap::new(),
            closed: Vec::new(),
            failures: Vec::new(),
            stop: None,
            children_ever: BTreeSet::new(),
            to_drain: Vec::new(),
            sockets: BTreeSet::new(),
            history: Vec::new(),
        }
    }

    fn of_role(&self, role: Role) -> Vec<ChildId> {
        let is = |known: &Known| known.became.is_some() == (role == Role::Connection);
        let these = self.children.iter().filter(|(_, known)| is(known));
        these.map(|(id, _)| *id).collect()
    }

    fn act(&mut self, act: &Act) {
        self.history.push(Moment {
            act: act.clone(),
            at: self.now,
            rules: self.rules,
            state: self.machine.state(),
            left: 0,
            reports: Vec::new(),
            results: 0,
        });
        let choose = |among: &[ChildId], which: usize| {
            let which = which.checked_rem(among.len())?;
            Some(among[which])
        };
        match act {
            Act::Add(acceptors) => self.add(*acceptors),
            Act::Became(which) => {
                if let Some(id) = choose(&self.of_role(Role::Acceptor), *which) {
                    self.became(id);
                }
            }
            Act::AcceptorEnds(which, how) => {
                if let Some(id) = choose(&self.of_role(Role::Acceptor), *which) {
                    self.ends(id, *how);
                }
            }
            Act::ConnectionEnds(which, how) => {
                if let Some(id) = choose(&self.of_role(Role::Connection), *which) {
                    self.ends(id, *how);
                }
            }
            Act::EndsAgain(which, how) => {
                if let Some(id) = choose(&self.ended, *which) {
                    let mut effects = Outcome::default();
                    let now = self.now;
                    self.machine.ended(id, how.end(), now, || 0, &mut effects);
                    self.unmoved(&effects);
                    assert!(effects.unseen.is_some(), "it is dropped outside the lock");
                    assert!(self.machine.left(id).is_none());
                }
            }
            Act::BecameAgain(which) => {
                if let Some(id) = choose(&self.ended, *which) {
                    let became = self.machine.became(id, self.peer(), 0);
                    assert!(matches!(became, Became::Gone));
                    assert!(self.machine.control(id).is_none());
                }
            }
            Act::Close(which) => {
                let open: Vec<_> = self.open.keys().copied().collect();
                if let Some(which) = which.checked_rem(open.len()) {
                    self.close(open[which]);
                }
            }
            Act::CloseAgain => {
                for id in self.closed.clone() {
                    let mut effects = Outcome::default();
                    let again = self.machine.close(id, CloseReason::Closed, &mut effects);
                    assert!(again.is_none());
                    self.unmoved(&effects);
                }
            }
            Act::SocketCloses(which) => {
                let closing = |id: &&ListenerId| !self.open.contains_key(id);
                let closing: Vec<_> = self.sockets.iter().filter(closing).copied().collect();
                if let Some(which) = which.checked_rem(closing.len()) {
                    self.socket_closes(closing[which]);
                }
            }
            Act::Stop(reason) => self.stop(*reason),
            Act::Kill(reason) => self.kill(*reason),
            Act::Wait(time) => self.wait(ms(*time)),
            Act::Reconfigure(rules) => {
                if self.stop.is_none() {
                    self.machine.reconfigure(*rules);
                    self.rules = *rules;
                }
            }
        }
        self.check();
        let left = self.children.len() + self.sockets.len();
        if let Some(moment) = self.history.last_mut() {
            (moment.at, moment.rules) = (self.now, self.rules);
            (moment.state, moment.left) = (self.machine.state(), left);
        }
    }

    fn peer(&self) -> Peer<()> {
        Peer {
            peer_addr: (),
            local_addr: (),
            since: self.now,
        }
    }

    fn add(&mut self, acceptors: usize) {
        if self.stop.is_some() {
            return;
        }
        let mut effects = Outcome::default();
        let controls = &mut self.controls;
        let control = || {
            *controls += 1;
            *controls
        };
        let id = self
            .machine
            .add_listener(|id| id, acceptors, control, &mut effects);
        assert!(!self.open.contains_key(&id) && !self.closed.contains(&id));
        self.open.insert(id, (acceptors, 0));
        self.sockets.insert(id);
        assert_eq!(effects.start.len(), acceptors);
        for start in std::mem::take(&mut effects.start) {
            self.begins(start, id, Duration::ZERO, 0);
        }
        self.unmoved(&effects);
    }

    /// A child that was never there before.
    fn begins(
        &mut self,
        start: Start<u64, ListenerId>,
        on: ListenerId,
        delay: Duration,
        spaced: u32,
    ) {
        assert_eq!((start.socket, start.delay), (on, delay));
        assert!(
            self.children_ever.insert(start.child),
            "{:?} began before",
            start.child
        );
        let known = Known {
            listener: on,
            control: start.control,
            became: None,
            spaced,
        };
        self.children.insert(start.child, known);
    }

    fn became(&mut self, id: ChildId) {
        self.controls += 1;
        let became = self.machine.became(id, self.peer(), self.controls);
        let listener = self.children[&id].listener;
        let now = self.now;
        self.children
            .entry(id)
            .and_modify(|known| known.became = Some(now));
        match (became, self.open.get_mut(&listener)) {
            (Became::Serves(Some(start)), Some((_, accepted))) => {
                *accepted += 1;
                self.begins(start, listener, Duration::ZERO, 0);
            }
            (Became::Serves(None), None) => {}
            _ => panic!("replaced if, and only if, its listener is open"),
        }
    }

    fn ends(&mut self, id: ChildId, how: How) {
        let known = self
            .children
            .remove(&id)
            .expect("it is chosen among those there are");
        self.ended.push(id);
        // As the pool does it: most ends lead to nothing.
        if let How::Normal | How::Clean = how {
            let left = self.machine.left(id);
            assert_eq!(left.is_some(), self.stop.is_none());
            if let Some(child) = left {
                assert_eq!((child.id, child.control), (id, known.control));
                return;
            }
        }
        self.controls += 1;
        let control = self.controls;
        let mut effects = Outcome::default();
        let now = self.now;
        self.machine
            .ended(id, how.end(), now, || control, &mut effects);
        let gone: Vec<_> = effects.gone.drain(..).map(|child| child.id).collect();
        assert_eq!(gone.first(), Some(&id));
        let left: BTreeSet<_> = gone[1..].iter().copied().collect();

        let mut expected = Vec::new();
        let phase = self.stop.as_ref().map(|stop| stop.phase);
        if let Some(stop) = &mut self.stop {
            let role = match known.became {
                Some(_) => Role::Connection,
                None => Role::Acceptor,
            };
            stop.ends.push((role, stop.phase, how.kind()));
        }
        let by_the_stop = how == How::Killed && phase == Some(Phase::Kill);
        if let (Some(word), false) = (how.row().0, by_the_stop) {
            expected.push(match (known.became, how) {
                (Some(since), _) => Commanded::ConnectionFailed(id, word, now - since),
                (None, How::StartError | How::StartPanic) => Commanded::StartError(id, word),
                (None, _) => Commanded::AcceptorFailed(id, word),
            });
        }
        let counted = how.counts(self.rules.restart);
        let was_running = self.stop.is_none();
        if counted && was_running {
            let period = self.rules.period;
            self.failures.retain(|at| now - *at <= period);
            self.failures.push(now);
            if self.failures.len() > self.rules.intensity as usize {
                expected.push(Commanded::PoolStopped(StopReason::Intensity));
                // More than enough to stop are not kept.
                let enough = self.rules.intensity as usize + 1;
                self.failures.drain(..self.failures.len() - enough);
                self.begin_stop(StopReason::Intensity);
            }
        }
        let over = was_running && self.stop.is_some() && self.rules.plan.lame_duck.is_zero();
        if known.became.is_none() && self.open.contains_key(&known.listener) && !over {
            let needs_spacing = how.needs_spacing() || (counted && self.stop.is_some());
            let (delay, spaced) = match (needs_spacing, known.spaced) {
                (false, _) => (Duration::ZERO, 0),
                (true, 0) => (Duration::ZERO, 1),
                (true, n) => ((MS * 2_u32.pow(n.min(11) - 1)).min(ms(1000)), n + 1),
            };
            let (starts, others) = match how {
                How::Lost => (&mut effects.start_later, &effects.start),
                _ => (&mut effects.start, &effects.start_later),
            };
            assert!(others.is_empty());
            assert_eq!(
                starts.len(),
                1,
                "an acceptor of an open listener is replaced"
            );
            let start = starts.remove(0);
            self.begins(start, known.listener, delay, spaced);
        }
        self.settle(effects, expected, &left);
    }

    fn close(&mut self, id: ListenerId) {
        let mut effects = Outcome::default();
        let closed = self.machine.close(id, CloseReason::Closed, &mut effects);
        assert_eq!(closed, Some(id));
        self.open.remove(&id);
        self.closed.push(id);
        assert_eq!(std::mem::take(&mut effects.close), [id]);
        let told = by_control(std::mem::take(&mut effects.tell));
        assert_eq!(
            told,
            by_control(self.acceptors_told(&[id], CloseReason::Closed))
        );
        self.unmoved(&effects);
    }

    fn acceptors_told(&self, closed: &[ListenerId], ending: CloseReason) -> Vec<(u64, Command)> {
        let waiting = |known: &&Known| known.became.is_none() && closed.contains(&known.listener);
        let waiting = self.children.values().filter(waiting);
        waiting
            .map(|known| (known.control, Command::Close(ending)))
            .collect()
    }

    fn everybody_told(&self, command: Command) -> impl Iterator<Item = (u64, Command)> {
        let children = self.children.values();
        children.map(move |known| (known.control, command))
    }

    fn begin_stop(&mut self, reason: StopReason) {
        self.to_drain = self.open.keys().copied().collect();
        self.stop = Some(Halt {
            plan: self.rules.plan,
            reason,
            began: self.now,
            since: self.now,
            phase: Phase::LameDuck,
            killed_early: false,
            ends: Vec::new(),
            finished: false,
        });
    }

    fn stop(&mut self, reason: StopReason) {
        let mut effects = Outcome::default();
        self.machine.stop(reason, self.now, &mut effects);
        let mut expected = Vec::new();
        if self.stop.is_none() {
            self.begin_stop(reason);
            if reason == StopReason::RuntimeGone {
                expected.push(Commanded::PoolStopped(reason));
            }
        }
        let left = effects.gone.drain(..).map(|child| child.id).collect();
        self.settle(effects, expected, &left);
    }

    fn kill(&mut self, reason: StopReason) {
        let mut effects = Outcome::default();
        self.machine.kill(reason, self.now, &mut effects);
        let mut expected = Vec::new();
        if self.stop.is_none() {
            self.begin_stop(reason);
            if reason == StopReason::RuntimeGone {
                expected.push(Commanded::PoolStopped(reason));
            }
        }
        if let Some(stop) = &mut self.stop {
            stop.killed_early |= stop.phase != Phase::Kill && !stop.finished;
        }
        let left = effects.gone.drain(..).map(|child| child.id).collect();
        self.settle(effects, expected, &left);
    }

    fn socket_closes(&mut self, id: ListenerId) {
        self.sockets.remove(&id);
        let mut effects = Outcome::default();
        self.machine.socket_closed(self.now, &mut effects);
        let left = effects.gone.drain(..).map(|child| child.id).collect();
        self.settle(effects, Vec::new(), &left);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        let mut effects = Outcome::default();
        self.machine.tick(self.now, &mut effects);
        let left = effects.gone.drain(..).map(|child| child.id).collect();
        self.settle(effects, Vec::new(), &left);
    }

    /// Follows the stop as far as it is due, and compares all effects.
    fn settle(&mut self, effects: Outcome, mut reports: Vec<Commanded>, left: &BTreeSet<ChildId>) {
        let (now, mut expected_told) = (self.now, Vec::new());
        let mut closes = Vec::new();
        let mut finished = None;
        while let Some(mut stop) = self.stop.take_if(|stop| !stop.finished) {
            let none = self.children.is_empty() && self.sockets.is_empty();
            let lasted = now - stop.since;
            let next = match stop.phase {
                Phase::LameDuck => {
                    let over = lasted >= stop.plan.lame_duck || none || stop.killed_early;
                    over.then_some(Phase::Grace)
                }
                Phase::Grace if none && !stop.killed_early => None,
                Phase::Grace => {
                    let over = match stop.plan.grace {
                        Grace::Within(grace) => lasted >= grace,
                        Grace::Forever => false,
                    };
                    if stop.killed_early || (over && stop.plan.shutdown == Shutdown::Kill) {
                        Some(Phase::Kill)
                    } else {
                        over.then_some(Phase::Stop)
                    }
                }
                Phase::Stop if none && !stop.killed_early => None,
                Phase::Stop => {
                    let over = match stop.plan.shutdown {
                        Shutdown::Within(time) => lasted >= time,
                        Shutdown::Kill | Shutdown::Never => false,
                    };
                    (over || stop.killed_early).then_some(Phase::Kill)
                }
                Phase::Kill => None,
            };
            if let Some(next) = next {
                stop.phase = next;
                stop.since = now;
                match next {
                    Phase::Grace => {
                        closes = self.open.keys().copied().collect();
                        expected_told.extend(self.acceptors_told(&closes, CloseReason::Stopped));
                        self.closed
                            .extend(std::mem::take(&mut self.open).into_keys());
                    }
                    Phase::Stop => expected_told.extend(self.everybody_told(Command::Stop)),
                    Phase::Kill => expected_told.extend(self.everybody_told(Command::Kill)),
                    Phase::LameDuck => unreachable!("nothing leads back"),
                }
                self.stop = Some(stop);
                continue;
            }
            let stuck = self.children.len();
            let out_of_patience = stop.phase == Phase::Kill && lasted >= stop.plan.patience;
            if (none && stop.phase != Phase::LameDuck) || out_of_patience {
                let killed = [Role::Acceptor, Role::Connection]
                    .map(|role| stop.count(role, Phase::Kill, EndKind::Killed));
                let killed = killed.iter().sum();
                if killed > 0 && stop.plan.shutdown != Shutdown::Kill {
                    reports.push(Commanded::KilledWhileStopping(killed));
                }
                if stuck > 0 {
                    reports.push(Commanded::Stuck(stuck));
                }
                stop.finished = true;
                let expected: BTreeSet<_> = self.children.keys().copied().collect();
                assert_eq!(left, &expected, "who is left is let go");
                self.ended
                    .extend(std::mem::take(&mut self.children).into_keys());
                finished = Some((stuck, stop.reason, now - stop.began));
            }
            self.stop = Some(stop);
            break;
        }
        let seen: Vec<_> = effects.reports.iter().map(told).collect();
        assert_eq!(seen, reports);
        assert_eq!(effects.drain, std::mem::take(&mut self.to_drain));
        assert_eq!(effects.close, closes);
        assert_eq!(by_control(effects.tell), by_control(expected_told));
        if let Some(moment) = self.history.last_mut() {
            moment.reports.extend(seen);
            moment.results += usize::from(effects.finished.is_some());
        }
        let report = effects.finished.as_ref();
        let seen = report.map(|report| (report.stuck, report.reason, report.elapsed));
        assert_eq!(seen, finished);
        if let (Some(report), Some(stop)) = (report, &self.stop) {
            for phase in Phase::ALL {
                for (role, ends) in [
                    (Role::Acceptor, report.acceptors(phase)),
                    (Role::Connection, report.connections(phase)),
                ] {
                    for kind in KINDS {
                        assert_eq!(
                            ends.of(kind),
                            stop.count(role, phase, kind),
                            "{phase} {kind}"
                        );
                    }
                }
            }
        }
    }

    /// Nothing but perhaps a look at the timer follows.
    fn unmoved(&self, effects: &Outcome) {
        assert!(effects.tell.is_empty() && effects.drain.is_empty() && effects.close.is_empty());
        assert!(effects.start.is_empty() && effects.start_later.is_empty());
        assert!(
            effects.reports.is_empty() && effects.finished.is_none() && effects.gone.is_empty()
        );
    }

    /// The table, the counts and the lists are those of the model.
    fn check(&self) {
        let table: BTreeMap<_, _> = self
            .machine
            .children()
            .map(|child| {
                (
                    child.id,
                    (child.listener, child.peer.is_some(), child.control),
                )
            })
            .collect();
        let expected: BTreeMap<_, _> = self
            .children
            .iter()
            .map(|(id, known)| (*id, (known.listener, known.became.is_some(), known.control)))
            .collect();
        assert_eq!(table, expected);
        assert_eq!(
            self.machine.children().count(),
            table.len(),
            "an id is there twice"
        );

        let connections = self.of_role(Role::Connection).len();
        let children = self.children.len();
        let counts = self.machine.counts();
        let by_type = match self.rules.child_type {
            ChildType::Worker => (children, 0),
            ChildType::Supervisor => (0, children),
        };
        assert_eq!((counts.specs, counts.active), (1, connections));
        assert_eq!((counts.workers, counts.supervisors), by_type);

        let listed: Vec<_> = self.machine.listeners().map(|(id, _)| id).collect();
        assert_eq!(listed, self.open.keys().copied().collect::<Vec<_>>());
        for (id, listening) in self.machine.listeners() {
            let (acceptors, accepted) = self.open[&id];
            assert_eq!(
                (listening.acceptors, listening.accepted),
                (acceptors, accepted)
            );
            let of = |known: &&Known| known.listener == id && known.became.is_some();
            assert_eq!(
                listening.connections,
                self.children.values().filter(of).count()
            );
        }

        let state = match &self.stop {
            None => PoolState::Running,
            Some(stop) if stop.finished => PoolState::Stopped,
            Some(stop) => PoolState::Stopping(stop.phase),
        };
        assert_eq!(self.machine.state(), state);
        match state {
            PoolState::Running => assert_eq!(self.machine.deadline(), None),
            PoolState::Stopping(_) => {
                let deadline = self.machine.deadline();
                assert!(deadline.is_none_or(|at| at > self.now), "it is overdue");
            }
            PoolState::Stopped => {
                assert_eq!(self.machine.deadline(), None);
                assert_eq!((children, self.open.len()), (0, 0), "something is left");
            }
        }
        let period = self.rules.period;
        let recent = self
            .failures
            .iter()
            .filter(|at| self.now - **at <= period)
            .count();
        assert_eq!(self.machine.failures(self.now), recent);
    }
}

/// Who is told first is left open; what each is told has its order.
fn by_control(mut told: Vec<(u64, Command)>) -> Vec<(u64, Command)> {
    told.sort_by_key(|(control, _)| *control);
    told
}

/// Everything that a test does, in order; what should be is compared after each.
#[track_caller]
fn check(rules: Rules, acts: &[Act]) -> World {
    let mut world = World::new(rules);
    for act in acts {
        world.act(act);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_machine_does_what_it_should(rules in any_rules(), acts in acts()) {
        check(rules, &acts);
    }

    /// Every child ends, every socket closes, and then the pool has stopped.
    #[test]
    fn a_stop_ends_when_the_last_child_has_ended_and_the_last_socket_is_closed(rules in any_rules(), acts in acts()) {
        let mut world = check(rules, &acts);
        world.act(&Act::Stop(StopReason::Requested));
        world.wait(ms(40));
        while !world.children.is_empty() {
            world.act(&Act::AcceptorEnds(0, How::Stopped));
            world.act(&Act::ConnectionEnds(0, How::Normal));
        }
        while world.sockets.iter().any(|id| !world.open.contains_key(id)) {
            world.act(&Act::SocketCloses(0));
        }
        prop_assert_eq!(world.machine.state(), PoolState::Stopped);
    }
}

/// One row of the table of section 2, or of the rules B3 to B8: with intensity 0 what counts stops the pool.
#[track_caller]
fn check_row(role: Role, how: How, reported: Option<&str>, transient: Verdict, temporary: Verdict) {
    for (restart, verdict) in [
        (Restart::Transient, transient),
        (Restart::Temporary, temporary),
    ] {
        let mut machine = Machine::new(
            Rules {
                restart,
                intensity: 0,
                ..rules()
            },
            PoolId::NONE,
        );
        let (now, mut effects) = (Instant::now(), Outcome::default());
        machine.add_listener(|id| id, 1, || 0, &mut effects);
        let id = effects.start[0].child;
        if role == Role::Connection {
            let peer = Peer {
                peer_addr: (),
                local_addr: (),
                since: now,
            };
            machine.became(id, peer, 0);
        }
        let mut effects = Outcome::default();
        machine.ended(id, how.end(), now + MS, || 0, &mut effects);
        let mut reports = effects.reports.iter().map(told);
        let expected = reported.map(|word| match (role, how) {
            (Role::Connection, _) => format!("ConnectionFailed({id:?}, {word:?}, 1ms)"),
            (Role::Acceptor, How::StartError | How::StartPanic) => {
                format!("StartError({id:?}, {word:?})")
            }
            (Role::Acceptor, _) => format!("AcceptorFailed({id:?}, {word:?})"),
        });
        let first = match expected {
            Some(_) => reports.next().map(|told| format!("{told:?}")),
            None => None,
        };
        assert_eq!(first, expected, "{role:?} {how:?} {restart:?}");
        let stopped =
            (verdict == Verdict::Exceeded).then_some(Commanded::PoolStopped(StopReason::Intensity));
        assert_eq!(
            reports.collect::<Vec<_>>(),
            Vec::from_iter(stopped),
            "{role:?} {how:?} {restart:?}"
        );
        assert_eq!(machine.state() == PoolState::Running, stopped.is_none());
    }
}

#[test]
fn ends_are_reported_and_counted_as_the_contract_says() {
    use Role::{Acceptor, Connection};
    use Verdict::{Exceeded as Counts, Tolerable as Not};
    check_row(Connection, How::Normal, None, Not, Not);
    check_row(Connection, How::Clean, None, Not, Not);
    check_row(Connection, How::Error, Some("error"), Counts, Not);
    check_row(Connection, How::Panic, Some("panic"), Counts, Not);
    check_row(Connection, How::Killed, Some("killed"), Counts, Not);
    check_row(Connection, How::Stopped, None, Not, Not);
    check_row(Connection, How::Lost, Some("lost"), Not, Not);
    check_row(Acceptor, How::Ignored, None, Not, Not);
    check_row(Acceptor, How::StartError, Some("error"), Counts, Counts);
    check_row(Acceptor, How::StartPanic, Some("panic"), Counts, Counts);
    check_row(Acceptor, How::TimedOut, None, Not, Not);
    check_row(Acceptor, How::TimedOutHardly, None, Not, Not);
    check_row(Acceptor, How::Stopped, None, Not, Not);
    check_row(Acceptor, How::Panic, Some("panic"), Counts, Not);
    check_row(Acceptor, How::Killed, Some("killed"), Counts, Not);
    check_row(Acceptor, How::Lost, Some("lost"), Not, Not);
}

/// The delays of the starts that follow on these ends, each of the acceptor that was started last.
#[track_caller]
fn check_spacing(ends: &[How], delays_ms: &[u128]) {
    let mut machine = Machine::new(
        Rules {
            intensity: u32::MAX,
            ..rules()
        },
        PoolId::NONE,
    );
    let (now, mut effects) = (Instant::now(), Outcome::default());
    machine.add_listener(|id| id, 1, || 0, &mut effects);
    let mut id = effects.start[0].child;
    assert_eq!(effects.start[0].delay, Duration::ZERO);
    let mut delays = Vec::new();
    for how in ends {
        let mut effects = Outcome::default();
        machine.ended(id, how.end(), now, || 0, &mut effects);
        let start = effects.start.pop().or(effects.start_later.pop());
        let start = start.expect("the acceptor is replaced");
        id = start.child;
        delays.push(start.delay.as_millis());
    }
    assert_eq!(delays, delays_ms);
}

#[test]
fn starts_that_lead_nowhere_are_spaced_1_ms_doubling_to_1_s() {
    let doubling = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000];
    check_spacing(&[How::Ignored; 13], &doubling);
    check_spacing(&[How::TimedOutHardly; 13], &doubling);
    check_spacing(&[How::PanicHardly; 13], &doubling);
    check_spacing(&[How::Lost; 13], &doubling);
}

#[test]
fn a_start_that_leads_somewhere_ends_the_spacing() {
    use How::{Ignored, StartError, Stopped, TimedOut};
    check_spacing(
        &[Ignored, Ignored, Ignored, TimedOut, Ignored, Ignored],
        &[0, 1, 2, 0, 0, 1],
    );
    check_spacing(&[TimedOut, TimedOut, Stopped, StartError], &[0, 0, 0, 0]);
}

#[test]
fn a_connection_that_is_made_ends_the_spacing() {
    let world = check(
        rules(),
        &[
            Act::Add(1),
            Act::AcceptorEnds(0, How::Ignored),
            Act::AcceptorEnds(0, How::Ignored),
            Act::Became(0),
            Act::AcceptorEnds(0, How::Ignored),
        ],
    );
    let acceptor = world.of_role(Role::Acceptor)[0];
    assert_eq!(world.children[&acceptor].spaced, 1);
}

#[test]
fn with_the_kill_planned_the_killed_are_not_reported_but_in_the_result() {
    let mut planned = rules();
    planned.plan.shutdown = Shutdown::Kill;
    let acts = [
        Act::Add(1),
        Act::Became(0),
        Act::Stop(StopReason::Requested),
        Act::SocketCloses(0),
        Act::AcceptorEnds(0, How::Stopped),
        Act::ConnectionEnds(0, How::Killed),
    ];
    let world = check(planned, &acts);
    let stop = world.stop.expect("it was stopped");
    assert!(stop.finished);
    assert_eq!(
        stop.count(Role::Connection, Phase::Kill, EndKind::Killed),
        1
    );
}
