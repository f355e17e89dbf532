//! Every sequence of events of a small pool up to a stated depth.
//!
//! After each event the machine is compared with the model, and everything seen so far with statements about
//! the whole history. The model advances step by step, much as the machine does; a count over a list cannot be wrong
//! in the same way.

use std::collections::BTreeMap;

use super::acts::Moment;
use super::*;
use crate::status::AcceptorState;

/// The possible next acts.
type Choices = fn(&World) -> Vec<Act>;

/// The number of histories, and of those in which the pool stops.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Histories {
    all: usize,
    stop: usize,
}

/// Applies every sequence of `depth` more events.
fn act_all(world: &World, choices: Choices, depth: usize) -> Histories {
    let state = world.machine.state();
    if depth == 0 {
        return Histories {
            all: 1,
            stop: usize::from(state != PoolState::Running),
        };
    }
    // After the end no event has an effect: one more is enough.
    let depth = if state == PoolState::Stopped {
        0
    } else {
        depth - 1
    };
    let mut histories = Histories::default();
    for act in choices(world) {
        let mut next = world.clone();
        let explains = Explains(world, &act);
        next.act(&act);
        check_history(&next.history);
        drop(explains);
        let more = act_all(&next, choices, depth);
        histories.all += more.all;
        histories.stop += more.stop;
    }
    histories
}

/// Prints the history that failed.
struct Explains<'a>(&'a World, &'a Act);

impl Drop for Explains<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let acts = self.0.history.iter().map(|moment| &moment.act);
            let acts: Vec<_> = acts.chain([self.1]).collect();
            eprintln!("rules {:?}\nacts {acts:?}", self.0.rules);
        }
    }
}

/// Checks every history from here on, of pools with these rules, and that there are at least this many.
#[track_caller]
fn check_all(
    all_rules: &[Rules],
    first: &[Act],
    choices: Choices,
    depth: usize,
    at_least: Histories,
) {
    let mut sum = Histories::default();
    for rules in all_rules {
        let histories = act_all(&check(*rules, first), choices, depth);
        sum.all += histories.all;
        sum.stop += histories.stop;
    }
    assert!(
        sum.all >= at_least.all && sum.stop >= at_least.stop,
        "{sum:?}"
    );
}

fn check_history(history: &[Moment]) {
    check_stop(history);
    check_phases(history);
    check_reports(history);
}

/// The end of a child, if the act was one.
fn end(moment: &Moment) -> Option<How> {
    match moment.act {
        Act::AcceptorEnds(_, how) | Act::ConnectionEnds(_, how) => Some(how),
        _ => None,
    }
}

/// Whether the act counts as a failure. Called for a running pool.
fn is_failure(moment: &Moment) -> bool {
    end(moment).is_some_and(|how| how.counts(moment.rules.restart))
}

/// How many failures lie within the period before this moment, both ends included (I1), and were not forgotten
/// at a failure in between (I2).
fn failures(history: &[Moment]) -> usize {
    let remembered = |index: &usize| {
        let mut later = history[*index..].iter().filter(|moment| is_failure(moment));
        later.all(|later| later.at - history[*index].at <= later.rules.period)
    };
    let failures = (0..history.len()).filter(|index| is_failure(&history[*index]));
    failures.filter(remembered).count()
}

/// The first moment that should stop the pool, and why.
fn stops_at(history: &[Moment]) -> Option<(usize, StopReason)> {
    history.iter().enumerate().find_map(|(index, moment)| {
        let exceeded = || failures(&history[..=index]) > moment.rules.intensity as usize;
        let last = |report: &Reported| matches!(report, Reported::ListenerFailed(_, 0));
        let no_listener = moment.reports.iter().any(last);
        match moment.act {
            Act::Stop(reason) | Act::Kill(reason) => Some((index, reason)),
            _ if is_failure(moment) && exceeded() => Some((index, StopReason::Intensity)),
            _ if no_listener && moment.rules.last_listener == LastListener::Stop => {
                Some((index, StopReason::ListenersFailed))
            }
            _ => None,
        }
    })
}

/// The pool stops when it is asked to, when there are too many failures, or when the last listener has failed and the spec
/// says so; otherwise never (I1, I2, L9, S1).
fn check_stop(history: &[Moment]) {
    let stops = stops_at(history).map(|(index, _)| index);
    let not_running = |moment: &Moment| moment.state != PoolState::Running;
    assert_eq!(history.iter().position(not_running), stops);
}

/// The states of a stop, in their order.
const STATES: [PoolState; 5] = [
    PoolState::Stopping(Phase::LameDuck),
    PoolState::Stopping(Phase::Grace),
    PoolState::Stopping(Phase::Stop),
    PoolState::Stopping(Phase::Kill),
    PoolState::Stopped,
];

/// Phases only go forward. Each lasts as planned, unless nothing is left or a kill cuts it short (S2 to S8).
fn check_phases(history: &[Moment]) {
    let state = |moment: &Moment| STATES.iter().position(|state| *state == moment.state);
    let states: Vec<_> = history.iter().map(state).collect();
    assert!(states.is_sorted(), "the states went back: {states:?}");
    let Some((began, _)) = stops_at(history) else {
        return;
    };
    let plan = history[began].rules.plan;
    let bounds = [
        Some(plan.lame_duck),
        match plan.grace {
            Grace::Within(time) => Some(time),
            Grace::Unlimited => None,
        },
        match plan.shutdown {
            Shutdown::Kill => Some(Duration::ZERO),
            Shutdown::Within(time) => Some(time),
            Shutdown::Unlimited => None,
        },
        // The wait for children that make progress is unbounded.
        None,
    ];
    let reached = |state: usize| {
        states
            .iter()
            .position(|at| at.is_some_and(|at| at >= state))
    };
    let now = history.last().expect("a stop is an entry of the history");
    for (phase, bound) in bounds.into_iter().enumerate() {
        let Some(since) = reached(phase) else { break };
        let over = reached(phase + 1);
        let since = if phase == Phase::Grace as usize {
            grace_began(&history[since..], plan)
        } else {
            Some(history[since].at)
        };
        match over {
            Some(over) => {
                let cut = phase < 3 && matches!(history[over].act, Act::Kill(_));
                let all_gone = history[over].left == 0 && !is_stuck(&history[over]);
                let lasted = since.map(|since| history[over].at - since);
                let in_time = bound.is_some_and(|bound| lasted.is_some_and(|time| time >= bound));
                let stuck = phase == Phase::Kill as usize
                    && lasted.is_some_and(|time| time >= plan.kill_timeout);
                assert!(
                    cut || all_gone || in_time || stuck,
                    "phase {phase} ended too early"
                );
            }
            None => {
                assert!(
                    now.left > 0,
                    "nothing is left, yet the pool has not stopped"
                );
                let lasted = since.map(|since| now.at - since);
                let overdue = bound.is_some_and(|bound| lasted.is_some_and(|time| time >= bound));
                assert!(!overdue, "phase {phase} is overdue");
                let killed = history.iter().any(|at| matches!(at.act, Act::Kill(_)));
                assert!(phase == 3 || !killed, "killed outside the kill phase");
            }
        }
    }
    let results: usize = history.iter().map(|moment| moment.results).sum();
    assert_eq!(results, usize::from(now.state == PoolState::Stopped));
}

/// When the last socket was closed, or a second after the close began; immediately if no connection is taken from the
/// queues (L7).
fn grace_began(history: &[Moment], plan: StopPlan) -> Option<Instant> {
    let began = history.first()?.at;
    let at_once = plan.shutdown == Shutdown::Kill && plan.grace == Grace::Within(Duration::ZERO);
    let closed = |moment: &&Moment| moment.sockets == 0 || moment.at - began >= ms(1000);
    let first = history.iter().find(|moment| at_once || closed(moment));
    first.map(|moment| moment.at)
}

fn is_stuck(moment: &Moment) -> bool {
    let stuck = |report: &Reported| matches!(report, Reported::Stuck(_));
    moment.reports.iter().any(stuck)
}

/// There are as many reports of each kind as ends of that kind: the contract's table of ends, S6, S8 and I3.
fn check_reports(history: &[Moment]) {
    let reports = || history.iter().flat_map(|moment| &moment.reports);
    let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_the_stop = 0;
    for (index, moment) in history.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| history[before].state);
        match end(moment) {
            Some(How::Killed) if before == Some(PoolState::Stopping(Phase::Kill)) => {
                by_the_stop += 1;
            }
            Some(how) => {
                if let Some(word) = how.word() {
                    *ended.entry(word).or_default() += 1;
                }
            }
            None => {}
        }
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for report in reports() {
        match report {
            Reported::StartError(_, word)
            | Reported::AcceptorFailed(_, word)
            | Reported::ConnectionFailed(_, word, _) => *seen.entry(word).or_default() += 1,
            _ => {}
        }
    }
    assert_eq!(seen, ended);

    let stops = stops_at(history);
    let stopped = stops
        .filter(|(_, reason)| !matches!(reason, StopReason::Requested | StopReason::OwnerDropped));
    let of_the_pool: Vec<_> = reports()
        .filter(|report| matches!(report, Reported::PoolStopped(_)))
        .collect();
    let expected = stopped.map(|(_, reason)| Reported::PoolStopped(reason));
    assert_eq!(of_the_pool, Vec::from_iter(&expected));

    let ended = history.iter().any(|moment| moment.results > 0);
    let brutal = stops.is_some_and(|(at, _)| history[at].rules.plan.shutdown == Shutdown::Kill);
    let killed: Vec<_> = reports()
        .filter(|report| matches!(report, Reported::KilledWhileStopping(_)))
        .copied()
        .collect();
    let owed = killed_before_they_began(history);
    let expected = (ended && !brutal && by_the_stop + owed > 0).then_some(by_the_stop + owed);
    let expected = expected.map(Reported::KilledWhileStopping);
    assert_eq!(killed, Vec::from_iter(expected));
}

/// Acceptors that no accept loop had started when the pool was killed: they end with their socket.
fn killed_before_they_began(history: &[Moment]) -> usize {
    history.iter().map(|moment| moment.owed_killed).sum()
}

/// The numbers of all children of a role, as acts choose among them.
fn which(world: &World, role: Role) -> std::ops::Range<usize> {
    0..world.of_role(role).len()
}

/// Each child ends, in each of these ways.
fn ends(world: &World, of_acceptors: &[How], of_connections: &[How]) -> Vec<Act> {
    let acceptors = which(world, Role::Acceptor).flat_map(|which| {
        of_acceptors
            .iter()
            .map(move |how| Act::AcceptorEnds(which, *how))
    });
    let connections = which(world, Role::Connection).flat_map(|which| {
        of_connections
            .iter()
            .map(move |how| Act::ConnectionEnds(which, *how))
    });
    acceptors.chain(connections).collect()
}

/// Each acceptor in this state, by an act.
fn in_state(
    world: &World,
    state: AcceptorState,
    act: fn(usize) -> Act,
) -> impl Iterator<Item = Act> {
    (0..world.in_state(state).len()).map(act)
}

/// Each acceptor in `init` finishes it, and each waiting one gets a connection.
fn goes_on(world: &World) -> impl Iterator<Item = Act> {
    let waits = in_state(world, AcceptorState::Init, Act::Waits);
    waits.chain(in_state(world, AcceptorState::Waiting, Act::Became))
}

/// Each accept loop starts its pending acceptors.
fn starts(world: &World) -> impl Iterator<Item = Act> {
    let with_starts = world.with_starts().into_iter();
    with_starts.map(|which| Act::Starts(which, 8))
}

/// Each closing socket closes.
fn sockets(world: &World) -> impl Iterator<Item = Act> {
    (0..world.closing().len()).map(Act::SocketCloses)
}

fn plan(lame_duck: u64, grace: Grace, shutdown: Shutdown) -> Rules {
    Rules {
        plan: StopPlan {
            lame_duck: ms(lame_duck),
            grace,
            shutdown,
            kill_timeout: ms(40),
        },
        ..rules()
    }
}

fn everything(world: &World) -> Vec<Act> {
    let mut acts = ends(
        world,
        &[How::Ignored, How::Stopped, How::StartError, How::Lost],
        &[How::Normal, How::Error, How::Killed],
    );
    acts.extend(goes_on(world));
    acts.extend(starts(world));
    acts.extend(in_state(world, AcceptorState::Waiting, Act::Dismissed));
    if world.stop.is_none() && world.known_listeners.len() < 2 {
        acts.push(Act::Add(1));
    }
    acts.extend((0..world.open().len()).map(Act::Close));
    acts.extend((0..world.open().len()).map(Act::ListenerFails));
    acts.extend(sockets(world));
    if !world.ended.is_empty() {
        acts.push(Act::EndsAgain(0, How::Error));
        acts.push(Act::ComesLate(0));
    }
    if world.open().len() < world.known_listeners.len() {
        acts.push(Act::CloseAgain);
    }
    if world.stop.is_none() {
        let other = plan(0, Grace::Unlimited, Shutdown::Kill);
        let rules = Rules {
            intensity: 0,
            restart: Restart::Temporary,
            connection_reports: ConnectionReports::All,
            last_listener: LastListener::Stop,
            ..other
        };
        acts.push(Act::Reconfigure(rules, WaitingAcceptors::Keep));
        acts.push(Act::Reconfigure(rules, WaitingAcceptors::Replace));
    }
    acts.push(Act::Stop(StopReason::Requested));
    acts.push(Act::Kill(StopReason::RuntimeGone));
    acts.push(Act::Wait(10));
    acts
}

/// Five events deep.
#[test]
fn every_history_of_new_pool() {
    let rules = [plan(10, Grace::Within(ms(10)), Shutdown::Within(ms(10)))];
    let at_least = Histories {
        all: 25_000,
        stop: 10_000,
    };
    check_all(&rules, &[Act::Add(1)], everything, 5, at_least);
}

/// One acceptor in `init`, and a connection.
const SERVES: [Act; 4] = [
    Act::Add(1),
    Act::Starts(0, 8),
    Act::Waits(0),
    Act::Became(0),
];

/// Four events deep, with more possible events from the first on.
#[test]
fn every_history_of_serving_pool() {
    let rules = [plan(0, Grace::Within(ms(0)), Shutdown::Kill)];
    let at_least = Histories {
        all: 40_000,
        stop: 10_000,
    };
    check_all(&rules, &SERVES, everything, 4, at_least);
}

fn while_it_stops(world: &World) -> Vec<Act> {
    let (of_acceptors, of_connections) = ([How::Stopped, How::Killed], [How::Normal, How::Killed]);
    let mut acts = ends(world, &of_acceptors, &of_connections);
    acts.extend(goes_on(world));
    acts.extend(sockets(world));
    if world.machine.state() != PoolState::Stopping(Phase::Kill) {
        acts.push(Act::Kill(StopReason::Requested));
    }
    acts.push(Act::Wait(10));
    if !world.closing().is_empty() {
        acts.push(Act::Wait(1000));
    }
    acts
}

/// Five events deep, for every kind of plan.
#[test]
fn every_history_of_stop() {
    let (some, none) = (Grace::Within(ms(10)), Grace::Within(ms(0)));
    let all_rules = [
        plan(0, none, Shutdown::Kill),
        plan(10, none, Shutdown::Within(ms(10))),
        plan(0, some, Shutdown::Within(ms(10))),
        plan(10, Grace::Unlimited, Shutdown::Kill),
        plan(0, some, Shutdown::Unlimited),
    ];
    let mut first = SERVES.to_vec();
    first.push(Act::Stop(StopReason::OwnerDropped));
    let at_least = Histories {
        all: 50_000,
        stop: 50_000,
    };
    check_all(&all_rules, &first, while_it_stops, 5, at_least);
}

fn failures_at_all_times(world: &World) -> Vec<Act> {
    let mut acts = vec![Act::Wait(1), Act::Wait(10)];
    if !world.open().is_empty() {
        // There are enough connections for all later events, and one acceptor.
        acts.push(Act::AcceptorEnds(0, How::StartError));
        acts.push(Act::ConnectionEnds(0, How::Error));
    }
    if world.stop.is_none() {
        // Back and forth: a failure forgotten in a short period does not return in a longer one (I2, R1).
        let period = if world.rules.period == ms(10) { 1 } else { 10 };
        let rules = Rules {
            period: ms(period),
            ..world.rules
        };
        acts.push(Act::Reconfigure(rules, WaitingAcceptors::Keep));
    }
    acts
}

/// Six events deep.
#[test]
fn every_history_of_failures() {
    let with = |restart, intensity| Rules {
        restart,
        intensity,
        period: ms(10),
        ..plan(0, Grace::Unlimited, Shutdown::Unlimited)
    };
    let all_rules = [
        with(Restart::Transient, 0),
        with(Restart::Transient, 1),
        with(Restart::Transient, 2),
        with(Restart::Temporary, 1),
    ];
    let mut first = vec![Act::Add(1), Act::Starts(0, 8)];
    first.extend(
        [0; 6]
            .map(|_| [Act::Waits(0), Act::Became(0)])
            .into_iter()
            .flatten(),
    );
    let at_least = Histories {
        all: 30_000,
        stop: 5_000,
    };
    check_all(&all_rules, &first, failures_at_all_times, 6, at_least);
}

fn during_an_outage(world: &World) -> Vec<Act> {
    let mut acts: Vec<_> = goes_on(world).chain(starts(world)).collect();
    acts.extend(
        which(world, Role::Acceptor).map(|which| Act::AcceptorEnds(which, How::StartError)),
    );
    acts.push(Act::AcceptorEnds(0, How::Stopped));
    acts.push(Act::Wait(1));
    acts
}

/// Five events deep from the moment when two acceptors are in `init` and one is owed, and six with one of each.
#[test]
fn every_history_of_outage() {
    let survives = Rules {
        intensity: u32::MAX,
        ..rules()
    };
    let at_least = Histories {
        all: 10_000,
        stop: 0,
    };
    let (three, two) = (
        [Act::Add(3), Act::Starts(0, 2)],
        [Act::Add(2), Act::Starts(0, 1)],
    );
    check_all(&[survives], &three, during_an_outage, 5, at_least);
    check_all(&[survives], &two, during_an_outage, 6, at_least);
}

fn after_the_kill(world: &World) -> Vec<Act> {
    let mut acts = vec![Act::Wait(10)];
    acts.extend((0..world.children.len()).map(Act::Poll));
    if !world.of_role(Role::Connection).is_empty() {
        acts.push(Act::ConnectionEnds(0, How::Killed));
    }
    acts.extend(sockets(world).take(1));
    acts
}

/// Eight events deep: within six of them one child is stuck, within seven another makes progress.
#[test]
fn every_history_of_kill() {
    let mut first = SERVES.to_vec();
    first.extend([Act::Kill(StopReason::Requested), Act::Wait(0)]);
    let at_least = Histories {
        all: 40_000,
        stop: 40_000,
    };
    let rules = [plan(0, Grace::Unlimited, Shutdown::Unlimited)];
    check_all(&rules, &first, after_the_kill, 8, at_least);
}
