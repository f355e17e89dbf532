//! Every life of a small pool up to a stated depth: whatever may happen, in every order.
//!
//! After each event the machine is held against the model, and what was seen
//! of it so far against what a list of all events says. The model goes step by
//! step, much as the machine does; a count over the whole list cannot be wrong
//! in the same way.

use super::*;

/// What may happen next.
type Choices = fn(&World) -> Vec<Act>;

/// How many lives there were, and in how many of them the pool stops.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Lives {
    all: usize,
    stop: usize,
}

/// Plays every sequence of `depth` events more.
fn play_all(world: &World, choices: Choices, depth: usize) -> Lives {
    let state = world.machine.state();
    if depth == 0 {
        return Lives {
            all: 1,
            stop: usize::from(state != PoolState::Running),
        };
    }
    // Of what is tried after the end nothing comes: once is enough.
    let depth = if state == PoolState::Stopped {
        0
    } else {
        depth - 1
    };
    let mut lives = Lives::default();
    for act in choices(world) {
        let mut next = world.clone();
        let explains = Explains(world, &act);
        next.act(&act);
        check_history(&next.history);
        drop(explains);
        let more = play_all(&next, choices, depth);
        lives.all += more.all;
        lives.stop += more.stop;
    }
    lives
}

/// Says which life it was that failed.
struct Explains<'a>(&'a World, &'a Act);

impl Drop for Explains<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let acts = self.0.history.iter().map(|moment| &moment.act);
            let acts: Vec<_> = acts.chain([self.1]).collect();
            eprintln!("rules {:?}\nlife {acts:?}", self.0.rules);
        }
    }
}

/// Every life from here on, of pools with these rules: so many at least, or the test tests nothing.
#[track_caller]
fn check_all(all_rules: &[Rules], first: &[Act], choices: Choices, depth: usize, at_least: Lives) {
    let mut sum = Lives::default();
    for rules in all_rules {
        let lives = play_all(&check(*rules, first), choices, depth);
        sum.all += lives.all;
        sum.stop += lives.stop;
    }
    assert!(
        sum.all >= at_least.all && sum.stop >= at_least.stop,
        "{sum:?}"
    );
}

fn check_history(history: &[Moment]) {
    check_when_it_stops(history);
    check_phases(history);
    check_reports(history);
}

/// The end of a child, if that is what happened.
fn end(moment: &Moment) -> Option<How> {
    match moment.act {
        Act::AcceptorEnds(_, how) | Act::ConnectionEnds(_, how) => Some(how),
        _ => None,
    }
}

/// Whether it counts. Asked in a pool that runs.
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
        match moment.act {
            Act::Stop(reason) | Act::Kill(reason) => Some((index, reason)),
            _ if is_failure(moment) && exceeded() => Some((index, StopReason::Intensity)),
            _ => None,
        }
    })
}

/// It stops when it is told to, or when there are too many failures, and else never (I1, I2, S1).
fn check_when_it_stops(history: &[Moment]) {
    let stops = stops_at(history).map(|(index, _)| index);
    let not_running = |moment: &Moment| moment.state != PoolState::Running;
    assert_eq!(history.iter().position(not_running), stops);
}

/// The states of a stop, in their order.
const WAY: [PoolState; 5] = [
    PoolState::Stopping(Phase::LameDuck),
    PoolState::Stopping(Phase::Grace),
    PoolState::Stopping(Phase::Stop),
    PoolState::Stopping(Phase::Kill),
    PoolState::Stopped,
];

/// Phases only go forward. Each lasts as long as the plan says, unless all is gone or a kill cuts it short (S2 to S8).
fn check_phases(history: &[Moment]) {
    let way = |moment: &Moment| WAY.iter().position(|state| *state == moment.state);
    let ways: Vec<_> = history.iter().map(way).collect();
    assert!(ways.is_sorted(), "it went back: {ways:?}");
    let Some((began, _)) = stops_at(history) else {
        return;
    };
    let plan = history[began].rules.plan;
    let bounds = [
        Some(plan.lame_duck),
        match plan.grace {
            Grace::Within(time) => Some(time),
            Grace::Forever => None,
        },
        match plan.shutdown {
            Shutdown::Kill => Some(Duration::ZERO),
            Shutdown::Within(time) => Some(time),
            Shutdown::Never => None,
        },
        Some(plan.patience),
    ];
    let now = history.last().expect("a stop is a moment");
    for (phase, bound) in bounds.into_iter().enumerate() {
        let reached = |way: usize| ways.iter().position(|at| at.is_some_and(|at| at >= way));
        let Some(since) = reached(phase) else { break };
        let since = history[since].at;
        match reached(phase + 1) {
            Some(over) => {
                let cut = phase < 3 && matches!(history[over].act, Act::Kill(_));
                let all_gone = history[over].left == 0 && !is_stuck(&history[over]);
                let lasted = history[over].at - since;
                assert!(
                    cut || all_gone || bound.is_some_and(|bound| lasted >= bound),
                    "phase {phase} was over too early"
                );
            }
            None => {
                assert!(now.left > 0, "nothing is left and it goes on");
                let lasted = now.at - since;
                assert!(
                    bound.is_none_or(|bound| lasted < bound),
                    "phase {phase} is overdue"
                );
                let killed = history.iter().any(|at| matches!(at.act, Act::Kill(_)));
                assert!(phase == 3 || !killed, "killed, and not in the kill");
            }
        }
    }
    let results: usize = history.iter().map(|moment| moment.results).sum();
    assert_eq!(results, usize::from(now.state == PoolState::Stopped));
}

fn is_stuck(moment: &Moment) -> bool {
    let stuck = |told: &Commanded| matches!(told, Commanded::Stuck(_));
    moment.reports.iter().any(stuck)
}

/// As many reports of each sort as there were ends of that sort: the table of section 2, S6, S8 and I3.
fn check_reports(history: &[Moment]) {
    let reports = || history.iter().flat_map(|moment| &moment.reports);
    let mut befell: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_the_stop = 0;
    for (index, moment) in history.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| history[before].state);
        match end(moment) {
            Some(How::Killed) if before == Some(PoolState::Stopping(Phase::Kill)) => {
                by_the_stop += 1;
            }
            Some(how) => {
                if let (Some(word), _) = how.row() {
                    *befell.entry(word).or_default() += 1;
                }
            }
            None => {}
        }
    }
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for report in reports() {
        match report {
            Commanded::StartError(_, word)
            | Commanded::AcceptorFailed(_, word)
            | Commanded::ConnectionFailed(_, word, _) => *told.entry(word).or_default() += 1,
            _ => {}
        }
    }
    assert_eq!(told, befell);

    let stops = stops_at(history);
    let stopped = stops
        .filter(|(_, reason)| matches!(reason, StopReason::Intensity | StopReason::RuntimeGone));
    let of_the_pool: Vec<_> = reports()
        .filter(|told| matches!(told, Commanded::PoolStopped(_)))
        .collect();
    let expected = stopped.map(|(_, reason)| Commanded::PoolStopped(reason));
    assert_eq!(of_the_pool, Vec::from_iter(&expected));

    let ended = history.iter().any(|moment| moment.results > 0);
    let brutal = stops.is_some_and(|(at, _)| history[at].rules.plan.shutdown == Shutdown::Kill);
    let killed: Vec<_> = reports()
        .filter(|told| matches!(told, Commanded::KilledWhileStopping(_)))
        .collect();
    let expected = (ended && !brutal && by_the_stop > 0).then_some(by_the_stop);
    let expected = expected.map(Commanded::KilledWhileStopping);
    assert_eq!(killed, Vec::from_iter(&expected));
}

/// All that there are, as acts choose among them.
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

/// Each acceptor has a connection.
fn connections(world: &World) -> impl Iterator<Item = Act> {
    which(world, Role::Acceptor).map(Act::Became)
}

/// Each socket that is told to close closes.
fn sockets(world: &World) -> impl Iterator<Item = Act> {
    let closing = world
        .sockets
        .iter()
        .filter(|id| !world.open.contains_key(id));
    (0..closing.count()).map(Act::SocketCloses)
}

fn plan(lame_duck: u64, grace: Grace, shutdown: Shutdown) -> Rules {
    Rules {
        plan: StopPlan {
            lame_duck: ms(lame_duck),
            grace,
            shutdown,
            patience: ms(10),
        },
        ..rules()
    }
}

fn whatever_there_is(world: &World) -> Vec<Act> {
    let mut acts = ends(
        world,
        &[How::Ignored, How::Stopped, How::StartError, How::Lost],
        &[How::Normal, How::Error, How::Killed],
    );
    acts.extend(connections(world));
    let listeners = world.open.len() + world.closed.len();
    if world.stop.is_none() && listeners < 2 {
        acts.push(Act::Add(1));
    }
    acts.extend((0..world.open.len()).map(Act::Close));
    acts.extend(sockets(world));
    if !world.ended.is_empty() {
        acts.push(Act::EndsAgain(0, How::Error));
        acts.push(Act::BecameAgain(0));
    }
    if !world.closed.is_empty() {
        acts.push(Act::CloseAgain);
    }
    if world.stop.is_none() {
        let other = plan(0, Grace::Forever, Shutdown::Kill);
        acts.push(Act::Reconfigure(Rules {
            intensity: 0,
            restart: Restart::Temporary,
            ..other
        }));
    }
    acts.push(Act::Stop(StopReason::Requested));
    acts.push(Act::Kill(StopReason::RuntimeGone));
    acts.push(Act::Wait(10));
    acts
}

/// Five events deep.
#[test]
fn whatever_happens_to_a_pool_from_its_start_it_does_what_it_should() {
    let rules = [plan(10, Grace::Within(ms(10)), Shutdown::Within(ms(10)))];
    let at_least = Lives {
        all: 25_000,
        stop: 10_000,
    };
    check_all(&rules, &[], whatever_there_is, 5, at_least);
}

/// Four events deep, with more that may happen from the first on.
#[test]
fn whatever_happens_to_a_pool_that_serves_it_does_what_it_should() {
    let rules = [plan(0, Grace::Within(ms(0)), Shutdown::Kill)];
    let at_least = Lives {
        all: 40_000,
        stop: 10_000,
    };
    let first = [Act::Add(1), Act::Became(0)];
    check_all(&rules, &first, whatever_there_is, 4, at_least);
}

fn while_it_stops(world: &World) -> Vec<Act> {
    let (of_acceptors, of_connections) = ([How::Stopped, How::Killed], [How::Normal, How::Killed]);
    let mut acts = ends(world, &of_acceptors, &of_connections);
    acts.extend(connections(world));
    acts.extend(sockets(world));
    acts.push(Act::Kill(StopReason::Requested));
    acts.extend([9, 10].map(Act::Wait));
    acts
}

/// Five events deep, for plans of every sort.
#[test]
fn whatever_happens_while_a_pool_stops_its_phases_are_as_planned() {
    let (some, none) = (Grace::Within(ms(10)), Grace::Within(ms(0)));
    let all_rules = [
        plan(0, none, Shutdown::Kill),
        plan(10, none, Shutdown::Within(ms(10))),
        plan(0, some, Shutdown::Within(ms(10))),
        plan(10, Grace::Forever, Shutdown::Kill),
        plan(0, some, Shutdown::Never),
    ];
    let first = [
        Act::Add(1),
        Act::Became(0),
        Act::Stop(StopReason::OwnerDropped),
    ];
    let at_least = Lives {
        all: 50_000,
        stop: 50_000,
    };
    check_all(&all_rules, &first, while_it_stops, 5, at_least);
}

fn failures_at_all_times(world: &World) -> Vec<Act> {
    let mut acts = vec![Act::Wait(1), Act::Wait(10)];
    if !world.open.is_empty() {
        // Connections enough for all that follows, and one acceptor.
        acts.push(Act::AcceptorEnds(0, How::StartError));
        acts.push(Act::ConnectionEnds(0, How::Error));
    }
    if world.stop.is_none() {
        // There and back: what is forgotten in a short period is not remembered in a longer one (I2, R1).
        let period = if world.rules.period == ms(10) { 1 } else { 10 };
        acts.push(Act::Reconfigure(Rules {
            period: ms(period),
            ..world.rules
        }));
    }
    acts
}

/// Six events deep.
#[test]
fn whenever_failures_come_the_pool_stops_when_there_are_too_many() {
    let with = |restart, intensity| Rules {
        restart,
        intensity,
        period: ms(10),
        ..plan(0, Grace::Forever, Shutdown::Never)
    };
    let all_rules = [
        with(Restart::Transient, 0),
        with(Restart::Transient, 1),
        with(Restart::Transient, 2),
        with(Restart::Temporary, 1),
    ];
    let mut first = vec![Act::Add(1)];
    first.extend([0; 6].map(Act::Became));
    let at_least = Lives {
        all: 30_000,
        stop: 5_000,
    };
    check_all(&all_rules, &first, failures_at_all_times, 6, at_least);
}
