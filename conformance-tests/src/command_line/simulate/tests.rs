//! What is told, and the exit code, of scenarios that go wrong: by a player that has something against clients.

use std::thread;
use std::time::Duration;

use clap::Parser;

use super::stage::Watcher;
use super::*;
use crate::scenario::{Event, Played, watch};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    simulate: Simulate,
}

type Play = fn(&Scenario, Option<Watcher<'_>>) -> Result<Played, Box<Failure>>;

/// Runs it with this player; how it ended, what it printed, and what it told meanwhile.
fn run(play: Play, bound: Duration, arguments: &str) -> (Status, String, String) {
    let words = ["simulate"].into_iter().chain(arguments.split(' '));
    let line = Line::try_parse_from(words).expect("the arguments make sense");
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let stage = Stage { play, bound };
    let status = line
        .simulate
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
