//! Lives of a pool by chance go as the model says.

use std::collections::BTreeMap;

use conformance_scenarios::{STEPS, Scenario, play, tell};

/// Few, for this is a debug build: the command line plays thousands.
const SEEDS: u64 = 150;

#[test]
fn lives_by_chance_go_as_the_model_says_and_leave_nothing_out() {
    let mut exercised: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=SEEDS {
        match play(&Scenario::of_seed(seed, STEPS)) {
            Ok(played) => {
                assert_eq!(played.steps, STEPS as u64);
                for (sort, count) in played.exercised {
                    *exercised.entry(sort).or_default() += count;
                }
            }
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    for sort in [
        "accepts that fail",
        "addresses replaced",
        "calls from within",
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
        "reports of a beginning",
        "reports of a listener",
        "reports of a pause",
        "reports of a stop",
        "reports of an end",
        "reports of clients that are gone",
        "reports of handshakes",
        "reports of kills",
        "reports of losses",
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
        "terminates for a closed listener",
        "terminates for a failed listener",
        "terminates for a stop",
        "terminates for a timeout",
        "terminates that panic",
    ] {
        assert!(exercised.contains_key(sort), "{sort}: {exercised:?}");
    }
}

#[test]
fn a_life_is_the_same_to_the_letter_whenever_it_is_told() {
    for seed in [3, 14, 15] {
        let scenario = Scenario::of_seed(seed, STEPS);
        let words = || -> Vec<String> {
            let (moments, _) = tell(&scenario);
            moments.iter().map(ToString::to_string).collect()
        };
        assert_eq!(words(), words(), "seed {seed}");
    }
}
