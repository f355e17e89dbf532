//! The example `own_acceptor`: the correct server passes, and the wrong one fails.

#[allow(dead_code, reason = "its `main` is for the example")]
#[path = "../examples/own_acceptor.rs"]
mod own_acceptor;

use acceptor_simulation::Cause;
use own_acceptor::{Reads, explore};

#[test]
fn correct_server_passes_every_seed() {
    let explored = explore(Reads::Lines, 200).unwrap();
    assert_eq!(explored.seeds, 200);
    let struck = explored.faults;
    for count in [
        struck.accept_errors,
        struck.resource_errors,
        struck.resets,
        struck.half_closes,
        struck.slow_clients,
        struck.partial_io,
        struck.spurious_polls,
        struck.delayed_wakes,
    ] {
        assert!(count >= 10, "{struck}");
    }
    assert!(explored.reached("a client is struck within an exchange") >= 10);
    assert!(explored.reached("a client is served to its end") >= 100);
}

#[test]
fn wrong_server_is_found() {
    let error = explore(Reads::Once, 200).expect_err("one read is not a line");
    let failure = error.failure().expect("a seed has failed");
    let Cause::Panic { task, message } = &failure.cause else {
        panic!("a client compares the answer: {error}");
    };
    assert!(task.ends_with("(client)"), "{task}");
    assert!(message.contains("the answer to"), "{message}");

    let text = error.to_string();
    let seed = failure.seed;
    let first = format!(
        "seed {seed} failed after {:?} of virtual time",
        failure.elapsed
    );
    assert!(text.starts_with(&first), "{text}");
    assert!(
        text.contains("task 1 (the scenario) waits for the end of task"),
        "{text}"
    );
    assert!(text.contains(" accepts 127.0.0.1:"), "{text}");
    assert!(text.contains("fault: a write of 127.0.0.1:"), "{text}");
    let again = format!(
        "to run this seed alone: ACCEPTOR_SEED={seed} cargo test \
         wrong_server_is_found, or call Explore::seed({seed})"
    );
    assert!(text.ends_with(&again), "{text}");
}
