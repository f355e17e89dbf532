//! Shrinks a failing scenario, so that the cause of the failure is easy to see.
//!
//! A delta debugger removes steps in ever smaller chunks. Then each step and the setting are simplified, as long as the same
//! rule is violated. The simplifications work on JSON, so a new field needs no code here: a number becomes smaller, a field of
//! a spec becomes its default, and a table names the plainest value of other fields. The result is deterministic: the
//! same scenario always shrinks to the same one.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::run::Failure;
use super::{Action, Bound, Reload, Scenario, SpecSetting, Step, Teardown, Then};

/// How many runs the shrinker may use for a failure.
pub const MAX_RUNS: usize = 3_000;

/// The result of shrinking a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shrunk {
    /// The small scenario.
    pub scenario: Scenario,
    /// Its failure.
    pub failure: Failure,
    /// How many runs the shrinker used.
    pub runs: usize,
}

/// Shrinks a scenario that fails with `failure`, in at most `limit` runs.
///
/// `run` returns the failure of a scenario, or `None` if it has none.
pub fn shrink(
    scenario: &Scenario,
    failure: Failure,
    limit: usize,
    run: impl Fn(&Scenario) -> Option<Failure>,
) -> Shrunk {
    let mut shrinker = Shrinker {
        best: Shrunk {
            scenario: scenario.clone(),
            failure,
            runs: 0,
        },
        limit,
        run,
    };
    loop {
        let before = shrinker.best.scenario.clone();
        shrinker.cut_off();
        shrinker.remove_steps();
        shrinker.simplify_steps();
        shrinker.join_waits();
        shrinker.lift_specs();
        shrinker.simplify_setting();
        if shrinker.best.scenario == before || shrinker.is_at_its_limit() {
            return shrinker.best;
        }
    }
}

struct Shrinker<F> {
    best: Shrunk,
    limit: usize,
    run: F,
}

impl<F: Fn(&Scenario) -> Option<Failure>> Shrinker<F> {
    fn is_at_its_limit(&self) -> bool {
        self.best.runs >= self.limit
    }

    fn steps(&self) -> usize {
        self.best.scenario.steps.len()
    }

    /// Keeps the change if the scenario still violates the same rule; returns whether it does.
    fn attempt(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut scenario = self.best.scenario.clone();
        change(&mut scenario);
        if self.is_at_its_limit() || scenario == self.best.scenario {
            return false;
        }
        self.best.runs += 1;
        let failure = (self.run)(&scenario);
        let same = failure.filter(|failure| failure.rule == self.best.failure.rule);
        let Some(failure) = same else { return false };
        self.best.scenario = scenario;
        self.best.failure = failure;
        true
    }

    /// Removes the steps after the failure.
    fn cut_off(&mut self) {
        let end = self.best.failure.step.saturating_add(1);
        if end < self.steps() {
            self.attempt(|scenario| scenario.steps.truncate(end));
        }
    }

    /// Later steps first: they are less likely to matter.
    fn remove_steps(&mut self) {
        let mut size = self.steps().div_ceil(2);
        while size > 0 {
            let mut end = self.steps();
            while end > 0 {
                let begin = end.saturating_sub(size);
                self.attempt(|scenario| drop(scenario.steps.drain(begin..end)));
                // Without the removed steps an earlier step may fail.
                self.cut_off();
                end = begin.min(self.steps());
            }
            size /= 2;
        }
    }

    fn simplify_steps(&mut self) {
        let mut number = 0;
        while number < self.steps() {
            let mut simpler = simpler_steps(self.best.scenario.steps[number]).into_iter();
            if !simpler.any(|step| self.attempt(|scenario| scenario.steps[number] = step)) {
                number += 1;
            }
        }
    }

    /// Joins a step in which only time passes to the step before it.
    fn join_waits(&mut self) {
        for number in (1..self.steps()).rev() {
            let previous = number - 1;
            let [before, wait] = [previous, number].map(|at| self.best.scenario.steps[at]);
            let then = match (wait.action, before.then, wait.then) {
                (Action::Wait, Then::Pass(a), Then::Pass(b)) => Then::Pass(a.saturating_add(b)),
                (Action::Wait, _, then) => then,
                _ => continue,
            };
            self.attempt(|scenario| {
                scenario.steps.remove(number);
                scenario.steps[previous].then = then;
            });
        }
    }

    /// Starts the pool with a spec that a step gives it later.
    fn lift_specs(&mut self) {
        for number in (0..self.steps()).rev() {
            let action = self.best.scenario.steps[number].action;
            if let Action::Reconfigure(spec, _) | Action::Reload(Reload::Use(spec, _)) = action {
                self.attempt(|scenario| {
                    scenario.setting.spec = spec;
                    scenario.steps.remove(number);
                });
            }
        }
    }

    fn simplify_setting(&mut self) {
        self.attempt(|scenario| scenario.teardown = Teardown::Stop);
        loop {
            let mut simpler = simpler_copies(&self.best.scenario.setting).into_iter();
            if !simpler.any(|setting| self.attempt(|scenario| scenario.setting = setting)) {
                return;
            }
        }
    }
}

/// Steps that are a little simpler than this one, the simplest first. No chain of them leads back to the same step.
fn simpler_steps(step: Step) -> Vec<Step> {
    let action = match step.action {
        Action::ListenOn { acceptors, .. } => Some(Action::Listen {
            acceptors,
            bound: Bound::Loopback,
        }),
        Action::ConnectLate {
            listener, clients, ..
        } => Some(Action::Connect { listener, clients }),
        Action::ConnectAndClose { listener, .. } => Some(Action::Close(listener)),
        Action::ConnectAndStop(_) => Some(Action::Stop),
        _ => None,
    };
    let actions = [Some(Action::Wait), action].into_iter().flatten();
    let mut simpler: Vec<_> = actions.map(|action| Step { action, ..step }).collect();
    let then = match step.then {
        Then::Jump(time) => Some(Then::Pass(time)),
        _ => None,
    };
    let thens = [Some(Then::Settle), then].into_iter().flatten();
    simpler.extend(thens.map(|then| Step { then, ..step }));
    simpler.extend(simpler_copies(&step));
    simpler
}

/// Copies of `original` in which one field is simpler.
fn simpler_copies<T: Serialize + DeserializeOwned>(original: &T) -> Vec<T> {
    let value = json!(original);
    let copies = simpler("", &value).into_iter();
    copies
        .filter_map(|copy| serde_json::from_value(copy).ok())
        .collect()
}

/// Simpler values of a field, or of a variant, with this name.
fn simpler(name: &str, value: &Value) -> Vec<Value> {
    let plainest = match name {
        "schedule" | "spurious" => json!(0),
        "start" => json!("Spec"),
        "stage" => json!("None"),
        "bound" => json!("Loopback"),
        "order" => json!("Return"),
        "Behave" => json!("Normal"),
        // Bigger buffers are simpler than smaller ones.
        "backlog" | "buffer" => {
            let sizes = [64, 8].into_iter();
            let bigger = sizes.filter(|size| value.as_u64() < Some(*size));
            return bigger.map(Value::from).collect();
        }
        _ => match value {
            Value::Object(fields) => return simpler_fields(fields),
            Value::Number(number) => return smaller(name, number.as_u64().unwrap_or_default()),
            Value::Array(items) => {
                let mut copies = Vec::new();
                for (place, item) in items.iter().enumerate() {
                    for new in simpler(name, item) {
                        let mut copy = items.clone();
                        copy[place] = new;
                        copies.push(copy.into());
                    }
                }
                return copies;
            }
            // The acceptors that wait when a spec is replaced.
            Value::String(word) if word == "Replace" => json!("Keep"),
            _ => return Vec::new(),
        },
    };
    // The caller discards a copy without a change.
    vec![plainest]
}

/// Copies of an object in which one field is simpler. A field of a spec is simplest if it has its default.
fn simpler_fields(fields: &Map<String, Value>) -> Vec<Value> {
    let is_spec = fields.contains_key("intensity");
    let defaults = json!(SpecSetting::DEFAULT);
    let mut copies = Vec::new();
    for (name, value) in fields {
        let mut with = |new: Option<Value>| {
            let mut copy = fields.clone();
            match new {
                Some(new) => copy.insert(name.clone(), new),
                None => copy.remove(name),
            };
            copies.push(Value::Object(copy));
        };
        let default = defaults.get(name);
        if is_spec {
            if default == Some(value) {
                continue;
            }
            // A default that is not written is chosen by leaving the field out.
            with(default.cloned());
        }
        simpler(name, value).into_iter().map(Some).for_each(with);
    }
    copies
}

/// Smaller numbers, the least first: round ones, the half, the one before.
fn smaller(name: &str, number: u64) -> Vec<Value> {
    let least = match name {
        "acceptors" | "clients" | "times" | "Pass" | "Jump" => 1,
        _ => 0,
    };
    let round = [0, 1, 2, 3, 4, 5, 6, 7, 10, 20, 50, 100, 1_000];
    let mut numbers = Vec::from(round);
    numbers.extend([number / 2, number.saturating_sub(1)]);
    numbers.retain(|other| (least..number).contains(other));
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(Value::from).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::{Behaviour, Order, Setting, ShutdownSetting, WaitingSetting};

    fn failure(step: usize, rule: &'static str) -> Failure {
        Failure {
            step,
            at: Duration::from_millis(step as u64),
            rule,
            expected: "no such step".to_owned(),
            seen: format!("step {step}"),
        }
    }

    /// Fails if a connection panics on command after the acceptors got short timeouts.
    fn seeded_fault(scenario: &Scenario) -> Option<Failure> {
        let mut steps = scenario.steps.iter();
        let first = steps.position(|step| {
            let Action::Behave(behaviour) = step.action else {
                return false;
            };
            [Behaviour::ShortTimeouts, Behaviour::All].contains(&behaviour)
        })?;
        let panics = |step: &Step| matches!(step.action, Action::Order { order, .. } if order == Order::Panic);
        let after = scenario.steps[first..].iter().position(panics)?;
        Some(failure(first + after, "E3"))
    }

    /// Scenarios that fail with the seeded fault.
    fn failing() -> impl Iterator<Item = Scenario> {
        let scenarios = (0..).map(|seed| Scenario::of_seed(seed, 400));
        scenarios.filter(|scenario| seeded_fault(scenario).is_some())
    }

    #[track_caller]
    fn shrunk(scenario: &Scenario, run: impl Fn(&Scenario) -> Option<Failure>) -> Shrunk {
        let failure = run(scenario).expect("the scenario fails");
        shrink(scenario, failure, MAX_RUNS, run)
    }

    /// A scenario with the simplest setting.
    fn plain(seed: u64, steps: Vec<Step>) -> Scenario {
        Scenario {
            seed,
            setting: Setting::DEFAULT,
            steps,
            teardown: Teardown::Stop,
        }
    }

    fn step(action: Action, then: Then) -> Step {
        Step {
            schedule: 0,
            action,
            then,
        }
    }

    #[test]
    fn seeded_fault_shrinks_to_two_steps() {
        for scenario in failing().take(20) {
            let shrunk = shrunk(&scenario, seeded_fault);
            let first = shrunk.scenario.steps[0].action;
            assert!(matches!(first, Action::Behave(_)), "{first}");
            let (client, order) = (0, Order::Panic);
            let order = Action::Order { client, order };
            let least = [first, order].map(|action| step(action, Then::Settle));
            assert_eq!(shrunk.scenario, plain(scenario.seed, least.into()));
            assert_eq!(shrunk.failure, failure(1, "E3"));
            assert!(shrunk.runs < 1_000, "{}", shrunk.runs);
        }
    }

    #[test]
    fn numbers_shrink_to_the_smallest() {
        let many = |step: &Step| {
            matches!(step.action, Action::Connect { clients: 3.., .. })
                && matches!(step.then, Then::Pass(7..))
        };
        let many = |scenario: &Scenario| {
            let number = scenario.steps.iter().position(many)?;
            (scenario.setting.spec.kill_timeout < 30).then(|| failure(number, "S8"))
        };
        let mut scenarios = (0..).map(|seed| Scenario::of_seed(seed, 200));
        let scenario = scenarios.find(|scenario| many(scenario).is_some());
        let scenario = scenario.expect("some seed fails");
        let (listener, clients) = (0, 3);
        let connect = step(Action::Connect { listener, clients }, Then::Pass(7));
        let mut expected = plain(scenario.seed, vec![connect]);
        expected.setting.spec.kill_timeout = 1;
        assert_eq!(shrunk(&scenario, many).scenario, expected);
    }

    #[test]
    fn waits_are_joined_to_the_step_before() {
        let (acceptors, bound) = (1, Bound::Loopback);
        let listen = Action::Listen { acceptors, bound };
        let steps = [
            (listen, Then::Settle),
            (Action::Wait, Then::Pass(30)),
            (Action::Join, Then::Settle),
            (Action::Wait, Then::Pass(40)),
        ];
        let steps = steps.map(|(action, then)| step(action, then));
        let late = |scenario: &Scenario| {
            let listens = |step: &Step| matches!(step.action, Action::Listen { .. });
            let number = scenario.steps.iter().position(listens)?;
            let times = scenario.steps[number..].iter().map(|step| match step.then {
                Then::Pass(time) => time,
                _ => 0,
            });
            (times.sum::<u32>() >= 70).then(|| failure(number, "S4"))
        };
        let shrunk = shrunk(&plain(1, steps.into()), late).scenario;
        assert_eq!(shrunk, plain(1, vec![step(listen, Then::Pass(70))]));
    }

    #[test]
    fn needed_spec_moves_to_the_start() {
        let kills = SpecSetting {
            shutdown: ShutdownSetting::Kill,
            ..SpecSetting::DEFAULT
        };
        let change = Action::Reconfigure(kills, WaitingSetting::Keep);
        let [change, stop] = [change, Action::Stop].map(|action| step(action, Then::Settle));
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
        let mut expected = plain(1, vec![stop]);
        expected.setting.spec = kills;
        let shrunk = shrunk(&plain(1, vec![change, stop]), killed);
        assert_eq!(shrunk.scenario, expected);
    }

    #[test]
    fn failure_in_the_teardown_needs_no_step() {
        let teardown = |scenario: &Scenario| Some(failure(scenario.steps.len(), "S7"));
        let shrunk = shrunk(&Scenario::of_seed(3, 200), teardown);
        assert_eq!(shrunk.scenario, plain(3, Vec::new()));
    }

    #[test]
    fn violation_of_another_rule_is_not_kept() {
        let both = |scenario: &Scenario| {
            let count = scenario.steps.len();
            Some(failure(count, if count >= 10 { "Q3" } else { "E2" }))
        };
        let shrunk = shrunk(&Scenario::of_seed(3, 200), both);
        assert_eq!(shrunk.scenario.steps.len(), 10);
        assert_eq!(shrunk.failure.rule, "Q3");
    }

    #[test]
    fn runs_are_counted_and_limited() {
        let scenario = failing().next().expect("some scenario fails");
        for limit in [0, 1, 10, 20] {
            let runs = Cell::new(0);
            let counted = |scenario: &Scenario| {
                runs.set(runs.get() + 1);
                seeded_fault(scenario)
            };
            let first = seeded_fault(&scenario).expect("the scenario fails");
            let shrunk = shrink(&scenario, first, limit, counted);
            assert_eq!((shrunk.runs, runs.get()), (limit, limit));
            assert_eq!(seeded_fault(&shrunk.scenario), Some(shrunk.failure));
        }
    }
}
