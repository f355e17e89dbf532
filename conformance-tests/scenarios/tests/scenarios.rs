//! Random scenarios follow the model.

use conformance_scenarios::{RunSummary, STEPS, Scenario, run, run_traced};

/// Few, because a debug build is slow: the command line runs thousands.
const SEEDS: u64 = 150;

#[test]
fn random_scenarios_hold() {
    let mut sums = RunSummary::default();
    for seed in 1..=SEEDS {
        match run(&Scenario::of_seed(seed, STEPS)) {
            Ok(summary) => sums.add(&summary),
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    assert_eq!(sums.steps, SEEDS * STEPS as u64);
    for label in [
        "accepts that fail",
        "addresses replaced",
        "calls from callbacks",
        "closes awaited",
        "connections that panic",
        "graces",
        "guards dropped",
        "handshakes dropped",
        "handshakes that fail",
        "handshakes that panic",
        "handshakes whose client is gone",
        "inits dropped",
        "kills of pools",
        "lame ducks",
        "panics in the drop of a connection",
        "panics in the drop of a state",
        "panics under a guard",
        "reporters held",
        "reports of a begin",
        "reports of a failed listener",
        "reports of a pause",
        "reports of a stop",
        "reports of an end",
        "reports of a lost client",
        "reports of a failed handshake",
        "reports of kills",
        "reports of lost reports",
        "reports of stuck children",
        "runtimes shut down",
        "stop phases",
        "stop signals taken",
        "streams kept under a guard",
        "tasks dropped, of acceptors in init",
        "tasks dropped, of children",
        "tasks dropped, of listeners",
        "tasks dropped, of the pool",
        "tasks dropped, of the reporter",
        "tasks held",
        "tasks under a guard",
        "terminates after a close",
        "terminates after a listener failure",
        "terminates after a stop",
        "terminates after a timeout",
        "terminates that panic",
    ] {
        assert!(
            sums.events.contains_key(label),
            "{label}: {:?}",
            sums.events
        );
    }
}

#[test]
fn trace_is_the_same_in_each_run() {
    for seed in [3, 14, 15] {
        let scenario = Scenario::of_seed(seed, STEPS);
        let [first, second] = [(); 2].map(|()| format!("{:?}", run_traced(&scenario).0));
        assert_eq!(first, second, "seed {seed}");
    }
}
