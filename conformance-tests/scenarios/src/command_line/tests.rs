//! The output and the exit code for scenarios that fail: their runner fails when the first client connects.

use std::panic::resume_unwind;
use std::time::Duration;
use std::{env, fs, process, thread};

use super::timed::{Run, Watcher};
use super::*;
use crate::{Action, Event, RunSummary, run_watched};

type Result = std::result::Result<RunSummary, Box<Failure>>;

/// Executes the command with this runner; returns its status, its output and its progress.
fn execute(run: Run, limit: Duration, arguments: &str) -> (Status, String, String) {
    let words = ["simulate"].into_iter().chain(arguments.split(' '));
    let simulate = Simulate::try_parse_from(words).expect("the arguments are valid");
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let status = simulate
        .run_with(TimedRunner { run, limit }, &mut out, &mut progress)
        .expect("memory can be written");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    (status, text(out), text(progress))
}

/// Runs the scenario, and calls `then` when the first client connects.
fn at_the_first_client(
    scenario: &Scenario,
    watcher: Option<Watcher<'_>>,
    then: &mut dyn FnMut(&TraceEntry),
) -> Result {
    let mut ignored = |_| {};
    let watcher = watcher.unwrap_or(&mut ignored);
    run_watched(scenario, &mut |entry: TraceEntry| {
        watcher(entry.clone());
        if let Event::Step(..) | Event::Connected { .. } = entry.event {
            then(&entry);
        }
    })
}

fn hangs(scenario: &Scenario, watcher: Option<Watcher<'_>>) -> Result {
    at_the_first_client(scenario, watcher, &mut |entry| {
        while let Event::Connected { .. } = entry.event {
            thread::park();
        }
    })
}

fn panics(scenario: &Scenario, watcher: Option<Watcher<'_>>) -> Result {
    at_the_first_client(scenario, watcher, &mut |entry| {
        if let Event::Connected { .. } = entry.event {
            resume_unwind(Box::new("a client"));
        }
    })
}

fn refuses_clients(scenario: &Scenario, watcher: Option<Watcher<'_>>) -> Result {
    let (mut step, mut connected) = (0, None);
    let result = at_the_first_client(scenario, watcher, &mut |entry| match entry.event {
        Event::Step(number, _) => step = number,
        _ => connected = connected.or(Some((step, entry.at))),
    });
    match connected {
        None => result,
        Some((step, at)) => Err(Box::new(Failure {
            step,
            at,
            rule: "L2",
            expected: "no client connects".to_owned(),
            seen: "a client".to_owned(),
        })),
    }
}

/// Returns the scenario at the end of a report.
#[track_caller]
fn scenario_in(report: &str) -> Scenario {
    let json = report.split_once("with this JSON in the file:\n\n");
    json.expect(report)
        .1
        .parse()
        .expect("the report ends with a scenario")
}

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(600);

#[test]
fn reported_scenario_fails_again() {
    let panicked = (
        "V3",
        "no call of the pool panics",
        "it panicked: a client\n",
    );
    let refused = ("L2", "no client connects", "a client\n");
    for (run, (rule, expected, seen)) in [(refuses_clients as Run, refused), (panics, panicked)] {
        let (status, out, progress) = execute(run, NEVER, "--seeds 20 --first 3");
        assert_eq!((status, progress.as_str()), (Status::Broken, ""), "{out}");
        let head =
            format!("seed 3 breaks {rule} at step 0, at 0.000ns\n\n  expected  {expected}\n");
        assert!(out.starts_with(&head), "{out}");
        for part in [
            &format!("  seen      {seen}"),
            "\nShrunk from 200 steps to 1 in ",
            " connects to ",
            "\n  cargo simulate --seed 3\n",
        ] {
            assert!(out.contains(part), "{out}");
        }
        let scenario = scenario_in(&out);
        let actions: Vec<_> = scenario.steps.iter().map(|step| step.action).collect();
        assert!(
            matches!(actions[..], [Action::Connect { clients: 1, .. }]),
            "{out}"
        );

        let file = env::temp_dir().join(format!("{}-{rule}.json", process::id()));
        fs::write(&file, scenario.to_json()).expect("the temporary directory is writable");
        let (status, again, _) = execute(run, NEVER, &format!("--scenario {}", file.display()));
        fs::remove_file(&file).expect("the file exists");
        assert_eq!(status, Status::Broken, "{again}");
        assert!(
            again.starts_with(&format!("the scenario breaks {rule} at step 0, ")),
            "{again}"
        );
        assert_eq!(scenario_in(&again), scenario);
    }
}

#[test]
fn hanging_seed_has_its_trace() {
    // Long enough for everything before the first client.
    let limit = Duration::from_secs(10);
    let (status, out, progress) = execute(hangs, limit, "--seeds 1 --first 3");
    assert_eq!(status, Status::Broken, "{out}{progress}");
    assert!(
        progress.contains("seed 3 has not ended within 10s: it runs again"),
        "{progress}"
    );
    let scenario = scenario_in(&out);
    let step = scenario.steps.len() - 1;
    assert!(
        out.starts_with(&format!("seed 3 breaks S8 at step {step}, ")),
        "{out}"
    );
    assert!(out.contains("  seen      one does not return within 10s\n"));
    assert!(out.contains("\n  cargo simulate --seed 3\n"), "{out}");
    let (trace, _) = out
        .split_once(">>")
        .expect("the end of the trace is marked");
    let last = trace.trim_end().lines().next_back();
    assert!(
        last.expect("the trace is not empty")
            .contains(" connects to "),
        "{out}"
    );
    assert_eq!(scenario.steps, Scenario::of_seed(3, STEPS).steps[..=step]);
}

#[test]
fn shrinking_stops_at_a_hanging_scenario() {
    fn hangs_if_cut_off(scenario: &Scenario, watcher: Option<Watcher<'_>>) -> Result {
        match scenario.steps.len() {
            STEPS => refuses_clients(scenario, watcher),
            _ => hangs(scenario, watcher),
        }
    }
    // The scenario that does not hang has to end within it, on a busy machine too.
    let limit = Duration::from_secs(10);
    let (status, out, _) = execute(hangs_if_cut_off, limit, "--seed 3");
    assert_eq!(status, Status::Broken, "{out}");
    assert!(out.starts_with("seed 3 breaks L2 at step "), "{out}");
    assert!(
        out.contains("\nShrunk from 200 steps to 200 in 1 run; "),
        "{out}"
    );
}

#[test]
fn failure_survives_a_picture_error() {
    let arguments = "--seed 3 --picture no/such/folder/picture.svg";
    let (status, out, progress) = execute(refuses_clients, NEVER, arguments);
    assert_eq!(status, Status::Broken, "{out}");
    assert!(out.starts_with("seed 3 breaks L2 at step 0, "), "{out}");
    assert!(
        progress.starts_with("error: no/such/folder/picture.svg: "),
        "{progress}"
    );
}
