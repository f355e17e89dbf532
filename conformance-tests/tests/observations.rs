//! What was observed of the reference is seen here too, on every runtime.

use std::sync::Arc;

use conformance_tests::observations::{Facts, Observation, parse, replay};
use conformance_tests::{Boxed, Harness, Real, play, runtimes};
use futures::{StreamExt, stream};

const OBSERVATIONS: &str = include_str!("../data/vectors.jsonl");

/// How many scenes play at the same time.
const AT_A_TIME: usize = 8;

#[track_caller]
fn check(harness: impl Harness, count: usize, of_group: fn(&Facts) -> bool) {
    check_in(&Arc::new(Boxed::new(Real::new(harness))), count, of_group);
}

/// Compiled once, whatever the number of runtimes.
#[track_caller]
fn check_in(world: &Arc<Boxed>, count: usize, of_group: fn(&Facts) -> bool) {
    let mut observations = parse(OBSERVATIONS).expect("the observations can be read");
    observations.retain(|observation| of_group(&observation.facts));
    assert_eq!(observations.len(), count, "none is missing");
    let stage = Arc::clone(world);
    let disagreements = play(world, async move {
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

/// Makes the tests of a runtime: the observations, group by group.
macro_rules! replays {
    ($($(#[$condition:meta])* $runtime:ident: $harness:expr;)*) => {
        $(
            $(#[$condition])*
            mod $runtime {
                use super::{Facts, check, runtimes};

                #[test]
                fn connections_that_end_count_and_are_reported_alike() {
                    check($harness, 39, |facts| matches!(facts, Facts::ChildExit(_)));
                }

                #[test]
                fn acceptors_whose_init_does_not_accept_fare_alike() {
                    check($harness, 23, |facts| matches!(facts, Facts::AcceptorInit(_)));
                }

                #[test]
                fn accept_timeouts_lead_to_the_same() {
                    check($harness, 4, |facts| matches!(facts, Facts::AcceptTimeout(_)));
                }

                #[test]
                fn pools_stop_alike() {
                    check($harness, 24, |facts| matches!(facts, Facts::Terminate(_)));
                }

                #[test]
                fn children_are_counted_alike() {
                    check($harness, 4, |facts| matches!(facts, Facts::Counts(_)));
                }

                #[test]
                fn failures_are_counted_over_the_same_period() {
                    check($harness, 6, |facts| matches!(facts, Facts::Period(_)));
                }

                #[test]
                fn a_closed_listener_leaves_the_same_behind() {
                    check($harness, 1, |facts| matches!(facts, Facts::Listeners(_)));
                }
            }
        )*
    };
}

replays! {
    #[cfg(feature = "tokio")]
    on_tokio_with_two_threads: runtimes::tokio::Tokio::multi_thread();
    #[cfg(feature = "tokio")]
    on_tokio_with_one_thread: runtimes::tokio::Tokio::current_thread();
    #[cfg(feature = "async-std")]
    on_async_std: runtimes::async_std::AsyncStd;
    #[cfg(feature = "smol")]
    on_the_global_executor_of_smol: runtimes::smol::Smol::global();
    #[cfg(feature = "smol")]
    on_an_executor_of_smol: runtimes::smol::Smol::own_executor();
    on_the_reference_runtime: runtimes::reference::Reference;
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
