//! Scenarios that fail shrink to what they fail for, always to the same, and are told with all that is needed to see it again.

use std::cell::Cell;

use conformance_tests::scenario::{
    Action, Bound, Failure, Finale, Finding, Order, Origin, PLAYS, Scenario, Setting, Shrunk,
    SpecSetting, Start, Step, Then, Weather, shrink, tell,
};

fn failure(step: usize, rule: &'static str) -> Failure {
    Failure {
        step,
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
    expected.setting.spec.patience = 0;
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

#[test]
fn the_same_failure_is_the_same_text_to_the_letter() {
    let scenario = failing().next().expect("there is one");
    let text = || {
        let shrunk = shrunk(&scenario, planted);
        let (moments, _) = tell(&shrunk.scenario);
        Finding::new(Origin::Seed(scenario.seed), &scenario, shrunk, moments).to_string()
    };
    assert_eq!(text(), text());
}

#[test]
fn what_is_told_has_the_steps_what_was_seen_and_how_to_see_it_again() {
    let scenario = failing().next().expect("there is one");
    let seed = scenario.seed;
    let shrunk = shrunk(&scenario, planted);
    let least = shrunk.scenario.clone();
    let (moments, _) = tell(&least);
    let text = Finding::new(Origin::Seed(seed), &scenario, shrunk, moments.clone()).to_string();
    let (head, rest) = text.split_once("\nShrunk").expect("it is shrunk");
    assert_eq!(
        head,
        format!(
            "seed {seed} breaks E3 at step 1, at {:.3?}\n\n  \
             expected  no such thing\n  \
             seen      one, at step 1\n",
            moments.last().expect("something was seen").at
        )
    );
    for (number, step) in least.steps.iter().enumerate() {
        let line = format!("\n  step {number}   {step}\n");
        assert!(rest.contains(&line), "{text}");
    }
    for moment in &moments {
        assert!(rest.contains(&moment.to_string()), "{text}");
    }
    let again = format!("conformance-tests -- simulate --seed {seed} --steps 400\n");
    assert!(rest.contains(&again), "{text}");
    let (_, json) = rest.split_once("in the file:\n\n").expect("it has a file");
    assert_eq!(json.parse::<Scenario>().expect("it is a scenario"), least);
}
