//! What was observed of the reference is seen here too, on tokio.

use std::sync::Arc;

use conformance_tests::observations::{Facts, Observation, parse, replay};
use conformance_tests::runtimes::tokio::Tokio;
use conformance_tests::{Harness, Real, play};
use futures::{StreamExt, stream};

const OBSERVATIONS: &str = include_str!("../data/vectors.jsonl");

/// How many scenes play at the same time.
const AT_A_TIME: usize = 8;

#[track_caller]
fn check(harness: impl Harness, count: usize, of_group: impl Fn(&Facts) -> bool) {
    let world = Arc::new(Real::new(harness));
    let mut observations = parse(OBSERVATIONS).expect("the observations can be read");
    observations.retain(|observation| of_group(&observation.facts));
    assert_eq!(observations.len(), count, "none is missing");
    let stage = Arc::clone(&world);
    let disagreements = play(&world, async move {
        let replays = observations.into_iter().map(|observation| {
            let stage = Arc::clone(&stage);
            async move { replay(&stage, &observation).await }
        });
        let results: Vec<_> = stream::iter(replays)
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        results
            .into_iter()
            .filter_map(Result::err)
            .collect::<Vec<_>>()
    });
    let told: Vec<_> = disagreements.iter().map(ToString::to_string).collect();
    assert!(
        told.is_empty(),
        "{} disagree:\n{}",
        told.len(),
        told.join("\n")
    );
}

macro_rules! replays {
    ($($name:ident: $count:literal of $group:ident;)*) => {
        mod on_several_threads {
            $(
                #[test]
                fn $name() {
                    super::check(super::Tokio::multi_thread(), $count, |facts| matches!(facts, super::Facts::$group(_)));
                }
            )*
        }
        mod on_one_thread {
            $(
                #[test]
                fn $name() {
                    super::check(super::Tokio::current_thread(), $count, |facts| matches!(facts, super::Facts::$group(_)));
                }
            )*
        }
    };
}

replays! {
    connections_that_end_count_and_are_reported_alike: 39 of ChildExit;
    acceptors_whose_init_does_not_accept_fare_alike: 23 of AcceptorInit;
    accept_timeouts_lead_to_the_same: 4 of AcceptTimeout;
    pools_stop_alike: 24 of Terminate;
    children_are_counted_alike: 4 of Counts;
    failures_are_counted_over_the_same_period: 6 of Period;
    a_closed_listener_leaves_the_same_behind: 1 of Listeners;
}

#[test]
fn an_observation_is_written_as_it_was_read() {
    let observations = parse(OBSERVATIONS).expect("the observations can be read");
    assert_eq!(observations.len(), 101);
    for (line, observation) in OBSERVATIONS.lines().zip(&observations) {
        let read: serde_json::Value = serde_json::from_str(line).expect("a line is an object");
        let written = serde_json::to_value::<&Observation>(observation).expect("it can be written");
        assert_eq!(read, written);
    }
}
