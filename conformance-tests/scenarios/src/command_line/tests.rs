//! What is told, and the exit code, of scenarios that go wrong: by a player that has something against clients.

use std::panic::resume_unwind;
use std::time::Duration;
use std::{env, fs, process, thread};

use super::stage::Watcher;
use super::*;
use crate::{Action, Event, Played, Step, watch};

type Play = fn(&Scenario, Option<Watcher<'_>>) -> Result<Played, Box<Failure>>;

/// Runs it with this player; how it ended, what it printed, and what it told meanwhile.
fn run(play: Play, bound: Duration, arguments: &str) -> (Status, String, String) {
    let words = ["simulate"].into_iter().chain(arguments.split(' '));
    let simulate = Simulate::try_parse_from(words).expect("the arguments make sense");
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let stage = Stage { play, bound };
    let status = simulate
        .run_on(stage, &mut out, &mut progress, Progress::Lines)
        .expect("there is room");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    (status, text(out), text(progress))
}

/// Plays it, and does this when the first client connects.
fn at_the_first_client(
    scenario: &Scenario,
    watcher: Option<Watcher<'_>>,
    then: fn(),
) -> Result<Played, Box<Failure>> {
    let mut nobody = |_| {};
    let watcher = watcher.unwrap_or(&mut nobody);
    watch(scenario, &mut |moment| {
        let connects = matches!(moment.event, Event::Connected { .. });
        watcher(moment);
        if connects {
            then();
        }
    })
}

/// The scenario that is to show it again.
#[track_caller]
fn scenario_in(told: &str) -> Scenario {
    let (_, json) = told
        .split_once("with this in the file:\n\n")
        .unwrap_or_else(|| panic!("no file in {told}"));
    json.parse().expect("it is a scenario")
}

fn hangs(scenario: &Scenario, watcher: Option<Watcher<'_>>) -> Result<Played, Box<Failure>> {
    at_the_first_client(scenario, watcher, || {
        loop {
            thread::park();
        }
    })
}

/// Far longer than anything takes that ends.
const LONG: Duration = Duration::from_secs(600);

/// The one step that it takes, as it is told: alone, and with the seed that it came from.
#[track_caller]
fn check_failure(play: Play, rule: &str, expected: &str, seen: &str) {
    let (status, out, told) = run(play, LONG, "--seeds 20 --first 3");
    assert_eq!((status, told.as_str()), (Status::Broken, ""), "{out}");
    let head = format!("seed 3 breaks {rule} at step 0, at 0.000ns\n\n  expected  {expected}\n");
    assert!(out.starts_with(&head), "{out}");
    assert!(out.contains(&format!("  seen      {seen}")), "{out}");
    assert!(out.contains("\nShrunk from 200 steps to 1 in "), "{out}");
    assert!(out.contains(" connects to "), "{out}");
    assert!(out.contains("\n  cargo simulate --seed 3\n"), "{out}");
    let scenario = scenario_in(&out);
    assert!(
        matches!(
            scenario.steps[..],
            [Step {
                action: Action::Connect { clients: 1, .. },
                ..
            }]
        ),
        "{out}"
    );

    let file = env::temp_dir().join(format!("{}-{rule}.json", process::id()));
    fs::write(&file, scenario.to_json()).expect("it can be written");
    let again = format!("--scenario {}", file.display());
    let (status, again, _) = run(play, LONG, &again);
    fs::remove_file(&file).expect("it is there");
    assert_eq!(status, Status::Broken, "{again}");
    let head = format!("the scenario breaks {rule} at step 0, ");
    assert!(again.starts_with(&head), "{again}");
    assert_eq!(scenario_in(&again), scenario);
}

/// Holds that nobody ever connects.
fn refuses_clients(
    scenario: &Scenario,
    watcher: Option<Watcher<'_>>,
) -> Result<Played, Box<Failure>> {
    let mut nobody = |_| {};
    let watcher = watcher.unwrap_or(&mut nobody);
    let (mut step, mut breach) = (0, None);
    let played = watch(scenario, &mut |moment| {
        match moment.event {
            Event::Step(number, _) => step = number,
            Event::Connected { .. } if breach.is_none() => breach = Some((step, moment.at)),
            _ => {}
        }
        watcher(moment);
    });
    match breach {
        None => played,
        Some((step, at)) => Err(Box::new(Failure {
            step,
            at,
            rule: "L2",
            expected: "nobody connects".to_owned(),
            seen: "a client".to_owned(),
        })),
    }
}

#[test]
fn a_seed_that_fails_is_told_shrunk_and_what_is_printed_fails_again() {
    check_failure(refuses_clients, "L2", "nobody connects", "a client\n");
}

#[test]
fn a_seed_that_panics_is_told_like_any_other_that_fails() {
    fn panics(scenario: &Scenario, watcher: Option<Watcher<'_>>) -> Result<Played, Box<Failure>> {
        // Without a word of its own to standard error.
        at_the_first_client(scenario, watcher, || resume_unwind(Box::new("a client")))
    }
    check_failure(
        panics,
        "V3",
        "no call of the pool panics",
        "it panicked: a client\n",
    );
}

#[test]
fn a_seed_that_never_ends_is_told_with_all_that_was_seen_before() {
    // Long enough that whatever comes before the first client has come.
    let bound = Duration::from_secs(2);
    let (status, out, told) = run(hangs, bound, "--seeds 1 --first 3");
    assert_eq!(status, Status::Broken, "{out}{told}");
    assert!(
        told.contains("seed 3 has not ended within 2s: it is played again"),
        "{told}"
    );
    let scenario = scenario_in(&out);
    let step = scenario.steps.len() - 1;
    let begin = format!("seed 3 breaks S8 at step {step}, ");
    assert!(out.starts_with(&begin), "{out}");
    assert!(out.contains("  seen      one does not return within 2s\n"));
    assert!(out.contains("\n  cargo simulate --seed 3\n"), "{out}");
    let (_, seen) = out.split_once("\nWhat was seen:\n").expect("it is told");
    let (seen, _) = seen.split_once(">>").expect("it is marked");
    let last = seen.trim_end().lines().next_back();
    assert!(
        last.is_some_and(|last| last.contains(" connects to ")),
        "{out}"
    );
    assert_eq!(scenario.steps, Scenario::of_seed(3, STEPS).steps[..=step]);
}

#[test]
fn a_smaller_scenario_that_never_ends_is_not_waited_for_twice() {
    fn hangs_if_cut_off(
        scenario: &Scenario,
        watcher: Option<Watcher<'_>>,
    ) -> Result<Played, Box<Failure>> {
        match scenario.steps.len() {
            STEPS => refuses_clients(scenario, watcher),
            _ => hangs(scenario, watcher),
        }
    }
    let bound = Duration::from_secs(2);
    let (status, out, told) = run(hangs_if_cut_off, bound, "--seed 3");
    assert_eq!((status, told.as_str()), (Status::Broken, ""), "{out}");
    assert!(out.starts_with("seed 3 breaks L2 at step "), "{out}");
    assert!(
        out.contains("\nShrunk from 200 steps to 200 in 1 play; "),
        "{out}"
    );
}

#[test]
fn what_was_found_is_told_though_it_cannot_be_drawn() {
    let arguments = "--seed 3 --picture no/such/folder/life.svg";
    let (status, out, told) = run(refuses_clients, LONG, arguments);
    assert_eq!(status, Status::Broken, "{out}");
    assert!(out.starts_with("seed 3 breaks L2 at step 0, "), "{out}");
    assert!(
        told.starts_with("error: no/such/folder/life.svg: "),
        "{told}"
    );
}
