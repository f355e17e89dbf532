//! Makes a scenario that fails as small and as plain as it can be, so that one sees why.
//!
//! Steps are taken away in ever smaller chunks, then what is left is made
//! plainer piece by piece, as long as the same rule is broken. No choice is made
//! by chance or by time: the same scenario always shrinks to the same one.

use super::play::Failure;
use super::{
    Action, Bound, ChildSetting, Finale, Order, Reload, RestartSetting, Scenario, ShutdownSetting,
    SpecSetting, StageSetting, Start, Step, Then, WaitingSetting, Weather,
};

/// How many plays a failure is worth.
pub const PLAYS: usize = 3_000;

/// What a scenario was shrunk to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shrunk {
    /// The small scenario.
    pub scenario: Scenario,
    /// How it fails.
    pub failure: Failure,
    /// How many plays it took.
    pub plays: usize,
}

/// Shrinks a scenario that fails in this way, in at most so many plays.
///
/// `play` says how a scenario fails, `None` if it does not.
pub fn shrink(
    scenario: &Scenario,
    failure: Failure,
    limit: usize,
    play: impl Fn(&Scenario) -> Option<Failure>,
) -> Shrunk {
    let mut shrinker = Shrinker {
        best: Shrunk {
            scenario: scenario.clone(),
            failure,
            plays: 0,
        },
        limit,
        play,
    };
    loop {
        let before = shrinker.best.scenario.clone();
        shrinker.cut_off();
        shrinker.drop_steps();
        shrinker.plainer_steps();
        shrinker.fold_waits();
        shrinker.lift_specs();
        shrinker.plainer_setting();
        if shrinker.best.scenario == before || shrinker.is_at_its_limit() {
            return shrinker.best;
        }
    }
}

struct Shrinker<F> {
    best: Shrunk,
    limit: usize,
    play: F,
}

impl<F: Fn(&Scenario) -> Option<Failure>> Shrinker<F> {
    fn is_at_its_limit(&self) -> bool {
        self.best.plays >= self.limit
    }

    fn steps(&self) -> usize {
        self.best.scenario.steps.len()
    }

    /// Takes it if it breaks the same rule; whether it does.
    fn attempt(&mut self, scenario: Scenario) -> bool {
        if self.is_at_its_limit() || scenario == self.best.scenario {
            return false;
        }
        self.best.plays += 1;
        let failure = (self.play)(&scenario);
        let same = failure.filter(|failure| failure.rule == self.best.failure.rule);
        let Some(failure) = same else { return false };
        self.best.scenario = scenario;
        self.best.failure = failure;
        true
    }

    fn attempt_change(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut scenario = self.best.scenario.clone();
        change(&mut scenario);
        self.attempt(scenario)
    }

    /// What comes after the failure has nothing to do with it.
    fn cut_off(&mut self) {
        let end = self.best.failure.step.saturating_add(1);
        if end < self.steps() {
            self.attempt_change(|scenario| scenario.steps.truncate(end));
        }
    }

    /// The later steps first: they are the likelier to be of no importance.
    fn drop_steps(&mut self) {
        let mut size = self.steps().div_ceil(2);
        while size > 0 {
            let mut end = self.steps();
            while end > 0 {
                let begin = end.saturating_sub(size);
                self.attempt_change(|scenario| {
                    scenario.steps.drain(begin..end);
                });
                // A step fails earlier perhaps, now that others are gone.
                self.cut_off();
                end = begin.min(self.steps());
            }
            size /= 2;
        }
    }

    fn plainer_steps(&mut self) {
        let mut number = 0;
        while number < self.steps() {
            let step = self.best.scenario.steps[number];
            let mut plainer = plainer_steps(step).into_iter();
            let found =
                plainer.any(|step| self.attempt_change(|scenario| scenario.steps[number] = step));
            if !found {
                number += 1;
            }
        }
    }

    /// Nothing but time is joined to the step before.
    fn fold_waits(&mut self) {
        for number in (1..self.steps()).rev() {
            let previous = number - 1;
            let [before, wait] = [previous, number].map(|at| self.best.scenario.steps[at]);
            let then = match (wait.action, before.then, wait.then) {
                (Action::Wait, Then::Pass(a), Then::Pass(b)) => Then::Pass(a.saturating_add(b)),
                (Action::Wait, _, then) => then,
                _ => continue,
            };
            self.attempt_change(|scenario| {
                scenario.steps.remove(number);
                scenario.steps[previous].then = then;
            });
        }
    }

    /// A pool is started with the spec that it is given later.
    fn lift_specs(&mut self) {
        for number in (0..self.steps()).rev() {
            let action = self.best.scenario.steps[number].action;
            if let Action::Reconfigure(spec, _) | Action::Reload(Reload::Use(spec, _)) = action {
                self.attempt_change(|scenario| {
                    scenario.setting.spec = spec;
                    scenario.steps.remove(number);
                });
            }
        }
    }

    fn plainer_setting(&mut self) {
        self.attempt_change(|scenario| scenario.finale = Finale::Stop);
        self.attempt_change(|scenario| scenario.setting.spurious = 0);
        self.attempt_change(|scenario| scenario.setting.start = Start::Spec);
        self.attempt_change(|scenario| scenario.setting.stage = StageSetting::None);
        for backlog in [64, 8] {
            if self.best.scenario.setting.backlog < backlog {
                self.attempt_change(|scenario| scenario.setting.backlog = backlog);
            }
        }
        for buffer in [64, 8] {
            if self.best.scenario.setting.buffer < buffer {
                self.attempt_change(|scenario| scenario.setting.buffer = buffer);
            }
        }
        loop {
            let mut plainer = plainer_specs(self.best.scenario.setting.spec).into_iter();
            if !plainer.any(|spec| self.attempt_change(|scenario| scenario.setting.spec = spec)) {
                return;
            }
        }
    }
}

/// Steps that are a little plainer than this one, the plainest first. No step comes back to itself.
fn plainer_steps(step: Step) -> Vec<Step> {
    let mut plainer = Vec::new();
    for action in plainer_actions(step.action) {
        plainer.push(Step { action, ..step });
    }
    for then in plainer_thens(step.then) {
        plainer.push(Step { then, ..step });
    }
    if step.schedule != 0 {
        plainer.push(Step {
            schedule: 0,
            ..step
        });
    }
    plainer
}

fn plainer_actions(action: Action) -> Vec<Action> {
    let mut plainer = match action {
        Action::Wait => return Vec::new(),
        Action::Listen { acceptors, bound } => {
            let fewer = smaller(acceptors.into(), 1).into_iter();
            let mut plainer: Vec<_> = fewer
                .map(|acceptors| Action::Listen {
                    acceptors: byte(acceptors),
                    bound,
                })
                .collect();
            if bound != Bound::Loopback {
                plainer.push(Action::Listen {
                    acceptors,
                    bound: Bound::Loopback,
                });
            }
            plainer
        }
        Action::ListenOn { runtime, acceptors } => {
            let fewer = smaller(acceptors.into(), 1).into_iter().map(byte);
            let fewer = fewer.map(|acceptors| Action::ListenOn { runtime, acceptors });
            let others = numbers(runtime).map(|runtime| Action::ListenOn { runtime, acceptors });
            let bound = Bound::Loopback;
            let mut plainer = vec![Action::Listen { acceptors, bound }];
            plainer.extend(fewer.chain(others));
            plainer
        }
        Action::EndRuntime(number) => numbers(number).map(Action::EndRuntime).collect(),
        Action::Connect { listener, clients } => {
            let fewer = smaller(clients.into(), 1).into_iter().map(byte);
            let fewer = fewer.map(|clients| Action::Connect { listener, clients });
            let others = numbers(listener).map(|listener| Action::Connect { listener, clients });
            fewer.chain(others).collect()
        }
        Action::Fault {
            listener,
            fault,
            times,
        } => {
            let fewer = smaller(times.into(), 1).into_iter().map(byte);
            let fewer = fewer.map(|times| Action::Fault {
                listener,
                fault,
                times,
            });
            let others = numbers(listener).map(|listener| Action::Fault {
                listener,
                fault,
                times,
            });
            fewer.chain(others).collect()
        }
        Action::FaultLasts { listener, fault } => numbers(listener)
            .map(|listener| Action::FaultLasts { listener, fault })
            .collect(),
        Action::FaultEnds(number) => numbers(number).map(Action::FaultEnds).collect(),
        Action::Crowd { listener, clients } => {
            let fewer = smaller(clients.into(), 1).into_iter().map(word);
            let fewer = fewer.map(|clients| Action::Crowd { listener, clients });
            let others = numbers(listener).map(|listener| Action::Crowd { listener, clients });
            fewer.chain(others).collect()
        }
        Action::ConnectLate {
            listener,
            clients,
            after,
        } => {
            let late = |listener, clients, after| Action::ConnectLate {
                listener,
                clients,
                after,
            };
            let fewer = smaller(clients.into(), 1).into_iter().map(byte);
            let fewer = fewer.map(|clients| late(listener, clients, after));
            let sooner = smaller(after.into(), 0).into_iter().map(word);
            let sooner = sooner.map(|after| late(listener, clients, after));
            let others = numbers(listener).map(|listener| late(listener, clients, after));
            let mut plainer = vec![Action::Connect { listener, clients }];
            plainer.extend(fewer.chain(sooner).chain(others));
            plainer
        }
        Action::CloseCrowded { listener, clients } => {
            let fewer = smaller(clients.into(), 1).into_iter().map(word);
            let fewer = fewer.map(|clients| Action::CloseCrowded { listener, clients });
            let others =
                numbers(listener).map(|listener| Action::CloseCrowded { listener, clients });
            let mut plainer = vec![Action::Close(listener)];
            plainer.extend(fewer.chain(others));
            plainer
        }
        Action::StopCrowded(clients) => {
            let fewer = smaller(clients.into(), 1).into_iter().map(byte);
            let mut plainer = vec![Action::Stop];
            plainer.extend(fewer.map(Action::StopCrowded));
            plainer
        }
        Action::Order { client, order } => {
            let other = (order != Order::Return).then_some(Order::Return);
            let other = other.map(|order| Action::Order { client, order });
            let others = numbers(client).map(|client| Action::Order { client, order });
            other.into_iter().chain(others).collect()
        }
        Action::Close(number) => numbers(number).map(Action::Close).collect(),
        Action::Break(number) => numbers(number).map(Action::Break).collect(),
        Action::Stir(number) => numbers(number).map(Action::Stir).collect(),
        Action::Read(number) => numbers(number).map(Action::Read).collect(),
        Action::HalfClose(number) => numbers(number).map(Action::HalfClose).collect(),
        Action::Leave(number) => numbers(number).map(Action::Leave).collect(),
        Action::Reset(number) => numbers(number).map(Action::Reset).collect(),
        Action::StopConnection(number) => numbers(number).map(Action::StopConnection).collect(),
        Action::KillConnection(number) => numbers(number).map(Action::KillConnection).collect(),
        Action::DropGuard(number) => numbers(number).map(Action::DropGuard).collect(),
        Action::StopAcceptor(number) => numbers(number).map(Action::StopAcceptor).collect(),
        Action::KillAcceptor(number) => numbers(number).map(Action::KillAcceptor).collect(),
        Action::DropTask(number) => numbers(number).map(Action::DropTask).collect(),
        Action::HoldTask(number) => numbers(number).map(Action::HoldTask).collect(),
        Action::Reconfigure(spec, waiting) => {
            let plainer = plainer_changes(spec, waiting).into_iter();
            plainer
                .map(|(spec, waiting)| Action::Reconfigure(spec, waiting))
                .collect()
        }
        Action::Reload(Reload::Use(spec, waiting)) => {
            let plainer = plainer_changes(spec, waiting).into_iter();
            plainer
                .map(|(spec, waiting)| Action::Reload(Reload::Use(spec, waiting)))
                .collect()
        }
        Action::Weather(weather) if weather != Weather::Fair => {
            vec![Action::Weather(Weather::Fair)]
        }
        Action::StopUnknown
        | Action::ReconfigureBadly
        | Action::Reload(_)
        | Action::ListenBadly
        | Action::Stop
        | Action::Kill
        | Action::Join
        | Action::DropOwner
        | Action::DropHandle
        | Action::Weather(_)
        | Action::HoldReporter
        | Action::ReleaseTasks => Vec::new(),
    };
    plainer.insert(0, Action::Wait);
    plainer
}

/// The plainest is until nothing is ready, then few polls, then time that passes, then a jump.
fn plainer_thens(then: Then) -> Vec<Then> {
    let mut plainer = vec![Then::Settle];
    match then {
        Then::Settle => return Vec::new(),
        Then::Polls(polls) => {
            let fewer = smaller(polls.into(), 0).into_iter();
            plainer.extend(fewer.map(|polls| Then::Polls(byte(polls))));
        }
        Then::Pass(time) => plainer.extend(smaller(time, 1).into_iter().map(Then::Pass)),
        Then::Jump(time) => {
            plainer.push(Then::Pass(time));
            plainer.extend(smaller(time, 1).into_iter().map(Then::Jump));
        }
    }
    plainer
}

/// The defaults, field by field; where they do not do, smaller numbers.
fn plainer_changes(
    spec: SpecSetting,
    waiting: WaitingSetting,
) -> Vec<(SpecSetting, WaitingSetting)> {
    let specs = plainer_specs(spec).into_iter();
    let mut plainer: Vec<_> = specs.map(|spec| (spec, waiting)).collect();
    if waiting == WaitingSetting::Replace {
        plainer.push((spec, WaitingSetting::Keep));
    }
    plainer
}

fn plainer_specs(spec: SpecSetting) -> Vec<SpecSetting> {
    const DEFAULT: SpecSetting = SpecSetting::DEFAULT;
    let mut plainer = Vec::new();
    if spec.restart != RestartSetting::Temporary {
        plainer.push(SpecSetting {
            restart: RestartSetting::Temporary,
            ..spec
        });
    }
    if spec.child_type != ChildSetting::Worker {
        plainer.push(SpecSetting {
            child_type: ChildSetting::Worker,
            ..spec
        });
    }
    for intensity in plainer_number(spec.intensity, DEFAULT.intensity) {
        plainer.push(SpecSetting { intensity, ..spec });
    }
    for period in plainer_number(spec.period, DEFAULT.period) {
        // Zero is not allowed.
        let period = period.max(1);
        plainer.push(SpecSetting { period, ..spec });
    }
    for lame_duck in plainer_number(spec.lame_duck, DEFAULT.lame_duck) {
        plainer.push(SpecSetting { lame_duck, ..spec });
    }
    let graces = match spec.grace {
        None => vec![0],
        Some(grace) => plainer_number(grace, 0),
    };
    for grace in graces {
        let grace = Some(grace);
        plainer.push(SpecSetting { grace, ..spec });
    }
    if spec.unknown != DEFAULT.unknown {
        let unknown = DEFAULT.unknown;
        plainer.push(SpecSetting { unknown, ..spec });
    }
    if spec.reports != DEFAULT.reports {
        let reports = DEFAULT.reports;
        plainer.push(SpecSetting { reports, ..spec });
    }
    if spec.last_listener != DEFAULT.last_listener {
        let last_listener = DEFAULT.last_listener;
        plainer.push(SpecSetting {
            last_listener,
            ..spec
        });
    }
    if spec.handshake_timeout != DEFAULT.handshake_timeout {
        let handshake_timeout = DEFAULT.handshake_timeout;
        plainer.push(SpecSetting {
            handshake_timeout,
            ..spec
        });
    }
    if let Some(time) = spec.handshake_timeout {
        for time in plainer_number(time, 10_000) {
            let handshake_timeout = Some(time.max(1));
            plainer.push(SpecSetting {
                handshake_timeout,
                ..spec
            });
        }
    }
    if spec.shutdown != DEFAULT.shutdown {
        let shutdown = DEFAULT.shutdown;
        plainer.push(SpecSetting { shutdown, ..spec });
    }
    if let ShutdownSetting::Within(time) = spec.shutdown {
        for time in plainer_number(time, 5_000) {
            let shutdown = ShutdownSetting::Within(time);
            plainer.push(SpecSetting { shutdown, ..spec });
        }
    }
    for patience in plainer_number(spec.patience, DEFAULT.patience) {
        let patience = patience.max(1);
        plainer.push(SpecSetting { patience, ..spec });
    }
    plainer.retain(|other| *other != spec);
    plainer
}

/// The default; if it has that, nothing is plainer; if not, smaller numbers are.
fn plainer_number(number: u32, default: u32) -> Vec<u32> {
    if number == default {
        return Vec::new();
    }
    let mut plainer = vec![default];
    plainer.extend(smaller(number, 0));
    plainer
}

/// Smaller numbers down to the least, boldest first: the least, round ones, the half, the one before.
fn smaller(number: u32, least: u32) -> Vec<u32> {
    let round = [1, 2, 5, 10, 20, 50, 100, 1_000];
    let mut numbers = vec![least];
    numbers.extend(round);
    numbers.extend([number / 2, number.saturating_sub(1)]);
    numbers.retain(|other| (least..number).contains(other));
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Numbers are counted round: the same is named by one that is small.
fn numbers(number: u8) -> impl Iterator<Item = u8> {
    0..number.min(8)
}

fn word(number: u32) -> u16 {
    u16::try_from(number).expect("it is smaller than one of 16 bits")
}

fn byte(number: u32) -> u8 {
    u8::try_from(number).expect("it is smaller than one that was a byte")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::Setting;

    fn failure(step: usize, rule: &'static str) -> Failure {
        Failure {
            step,
            at: Duration::from_millis(step as u64),
            rule,
            expected: "no such thing".to_owned(),
            seen: format!("one, at step {step}"),
        }
    }

    /// Fails once a connection was told to panic after the pool was given an impatient weather.
    fn planted(scenario: &Scenario) -> Option<Failure> {
        let mut steps = scenario.steps.iter();
        let bad = |step: &Step| {
            matches!(
                step.action,
                Action::Weather(Weather::Impatient | Weather::Foul)
            )
        };
        let weather = steps.position(bad)?;
        let panics = |step: &Step| {
            matches!(
                step.action,
                Action::Order {
                    order: Order::Panic,
                    ..
                }
            )
        };
        let after = scenario.steps[weather..].iter().position(panics)?;
        Some(failure(weather + after, "E3"))
    }

    #[track_caller]
    fn shrunk(scenario: &Scenario, play: impl Fn(&Scenario) -> Option<Failure>) -> Shrunk {
        let failure = play(scenario).expect("it fails");
        shrink(scenario, failure, PLAYS, play)
    }

    /// The plainest setting there is.
    fn plain(seed: u64, steps: Vec<Step>) -> Scenario {
        Scenario {
            seed,
            setting: Setting {
                spec: SpecSetting::DEFAULT,
                start: Start::Spec,
                stage: StageSetting::None,
                backlog: 64,
                buffer: 64,
                spurious: 0,
            },
            steps,
            finale: Finale::Stop,
        }
    }

    fn step(action: Action) -> Step {
        Step {
            schedule: 0,
            action,
            then: Then::Settle,
        }
    }

    /// Seeds of which the planted mistake makes a failure.
    fn failing() -> impl Iterator<Item = Scenario> {
        let scenarios = (0..).map(|seed| Scenario::of_seed(seed, 400));
        scenarios.filter(|scenario| planted(scenario).is_some())
    }

    #[test]
    fn a_planted_mistake_shrinks_to_the_two_steps_that_it_needs() {
        for scenario in failing().take(20) {
            let shrunk = shrunk(&scenario, planted);
            let weather = match shrunk.scenario.steps[0].action {
                Action::Weather(weather @ (Weather::Impatient | Weather::Foul)) => weather,
                other => panic!("{other}"),
            };
            let order = Action::Order {
                client: 0,
                order: Order::Panic,
            };
            let least = vec![step(Action::Weather(weather)), step(order)];
            assert_eq!(shrunk.scenario, plain(scenario.seed, least));
            assert_eq!(shrunk.failure, failure(1, "E3"));
            assert!(shrunk.plays < 1_000, "{}", shrunk.plays);
        }
    }

    #[test]
    fn numbers_become_as_small_as_they_can_be() {
        let many = |step: &Step| {
            matches!(step.action, Action::Connect { clients, .. } if clients >= 3)
                && matches!(step.then, Then::Pass(time) if time >= 7)
        };
        let many = |scenario: &Scenario| {
            let number = scenario.steps.iter().position(many)?;
            (scenario.setting.spec.patience < 30).then(|| failure(number, "S8"))
        };
        let mut scenarios = (0..).map(|seed| Scenario::of_seed(seed, 200));
        let scenario = scenarios.find(|scenario| many(scenario).is_some());
        let scenario = scenario.expect("there are enough seeds");
        let shrunk = shrunk(&scenario, many).scenario;
        let mut expected = plain(
            scenario.seed,
            vec![Step {
                then: Then::Pass(7),
                ..step(Action::Connect {
                    listener: 0,
                    clients: 3,
                })
            }],
        );
        expected.setting.spec.patience = 1;
        assert_eq!(shrunk, expected);
    }

    #[test]
    fn time_that_has_to_pass_is_joined_to_the_step_before() {
        let wait = |time| Step {
            then: Then::Pass(time),
            ..step(Action::Wait)
        };
        let listen = Action::Listen {
            acceptors: 1,
            bound: Bound::Loopback,
        };
        let scenario = plain(
            1,
            vec![step(listen), wait(30), step(Action::Join), wait(40)],
        );
        let late = |scenario: &Scenario| {
            let listens = |step: &Step| matches!(step.action, Action::Listen { .. });
            let number = scenario.steps.iter().position(listens)?;
            let times = scenario.steps[number..].iter().map(|step| match step.then {
                Then::Pass(time) => time,
                _ => 0,
            });
            (times.sum::<u32>() >= 70).then(|| failure(number, "S4"))
        };
        let shrunk = shrunk(&scenario, late).scenario;
        let expected = Step {
            then: Then::Pass(70),
            ..step(listen)
        };
        assert_eq!(shrunk, plain(1, vec![expected]));
    }

    #[test]
    fn a_spec_that_is_needed_is_what_the_pool_is_started_with() {
        let kills = SpecSetting {
            shutdown: ShutdownSetting::Kill,
            ..SpecSetting::DEFAULT
        };
        let keep = WaitingSetting::Keep;
        let steps = vec![step(Action::Reconfigure(kills, keep)), step(Action::Stop)];
        let killed = |scenario: &Scenario| {
            let mut spec = scenario.setting.spec;
            for (number, step) in scenario.steps.iter().enumerate() {
                match step.action {
                    Action::Reconfigure(other, _) => spec = other,
                    Action::Stop => return (spec == kills).then(|| failure(number, "S6")),
                    _ => {}
                }
            }
            None
        };
        let mut expected = plain(1, vec![step(Action::Stop)]);
        expected.setting.spec = kills;
        assert_eq!(shrunk(&plain(1, steps), killed).scenario, expected);
    }

    #[test]
    fn a_failure_in_the_finale_shrinks_to_no_step_at_all() {
        let scenario = Scenario::of_seed(3, 200);
        let shrunk = shrunk(&scenario, |scenario| {
            Some(failure(scenario.steps.len(), "S7"))
        });
        assert_eq!(shrunk.scenario, plain(3, Vec::new()));
    }

    #[test]
    fn another_rule_is_another_failure() {
        let scenario = Scenario::of_seed(3, 200);
        let both = |scenario: &Scenario| {
            let rule = if scenario.steps.len() >= 10 {
                "Q3"
            } else {
                "E2"
            };
            Some(failure(scenario.steps.len(), rule))
        };
        let shrunk = shrunk(&scenario, both);
        assert_eq!(shrunk.scenario.steps.len(), 10);
        assert_eq!(shrunk.failure.rule, "Q3");
    }

    #[test]
    fn the_plays_are_counted_and_bounded() {
        let scenario = failing().next().expect("there is one");
        for limit in [0, 1, 10, 20] {
            let plays = Cell::new(0);
            let counted = |scenario: &Scenario| {
                plays.set(plays.get() + 1);
                planted(scenario)
            };
            let first = planted(&scenario).expect("it fails");
            let shrunk = shrink(&scenario, first, limit, counted);
            assert_eq!(shrunk.plays, limit);
            assert_eq!(plays.get(), limit);
            assert_eq!(planted(&shrunk.scenario), Some(shrunk.failure));
        }
    }
}
