//! Histories that are right, and others in which the checker finds a mistake.

use std::net::Ipv4Addr;

use fastrand::Rng;

use super::*;

/// An event of the one connection of these histories.
fn event(name: &str) -> Event {
    let client = (Ipv4Addr::new(127, 0, 0, 2), 4711).into();
    let at = |host, port| (Ipv4Addr::new(127, 0, 0, host).to_ipv6_mapped(), port).into();
    let server = (Ipv4Addr::LOCALHOST, 80).into();
    let child: ChildId = "1.7".parse().expect("the id of a child");
    let connects = |behavior| Step::Connects(behavior, 1, server);
    let ends = |outcome| Step::ServeEnds(child, outcome);
    let step = match name {
        "told" => return Event::Told(child),
        "closing" => return Event::Closing(1),
        "closing another" => return Event::Closing(2),
        "stopping" => return Event::Stopping,
        "talk" => connects(Behavior::Talk),
        "reset" => connects(Behavior::Reset),
        "panic" => connects(Behavior::Panic),
        "trap" => connects(Behavior::TrapStop),
        "idle" => connects(Behavior::Idle),
        "refused" => Step::Refused,
        "served" => Step::Served(child, at(1, 80)),
        "served elsewhere" => Step::Served(child, at(1, 81)),
        "killed" => Step::Killed(child),
        "normal" => ends(Outcome::Normal),
        "clean" => ends(Outcome::Clean),
        "disconnected" => ends(Outcome::Disconnected),
        "error" => ends(Outcome::Error),
        "panics" => ends(Outcome::Panic),
        "dropped" => ends(Outcome::Dropped),
        "done" => Step::Ends(Seen::Done),
        "left" => Step::Ends(Seen::Left),
        "cut" => Step::Ends(Seen::CutShort),
        "nothing" => Step::Ends(Seen::Nothing),
        "mangled" => Step::Ends(Seen::Mangled),
        _ => panic!("no event {name}"),
    };
    Event::Connection(client, step)
}

fn fold(history: &str) -> Checker {
    let mut checker = Checker::default();
    let events = history.split(", ").map(event);
    events.for_each(|event| checker.see(event));
    checker
}

/// In each history this is found wrong, or nothing if it is empty.
#[track_caller]
fn check(wrong: &str, histories: &[&str]) {
    for history in histories {
        let mut checker = fold(history);
        checker.finish_connections();
        let found: Vec<_> = checker
            .broken
            .iter()
            .map(|broken| &broken.expected)
            .collect();
        let expected = Vec::from_iter(Some(wrong).filter(|wrong| !wrong.is_empty()));
        assert_eq!(found, expected, "{history}");
    }
}

#[test]
fn a_right_history_is_accepted() {
    check(
        "",
        &[
            "talk, served, normal, done",
            "talk, done, served, normal",
            "reset, left, served, disconnected",
            "panic, served, panics, done",
            "trap, served, normal, done",
            "idle, served, stopping, dropped, cut",
            "trap, served, told, clean, cut",
            "trap, served, stopping, clean, cut",
            "talk, served, told, dropped, killed, cut",
            "talk, told, killed, cut",
            "closing, talk, refused",
            "stopping, talk, refused",
            "talk, closing, cut",
            "talk, stopping, cut",
            "talk, left",
            // Killed by its id, perhaps.
            "talk, told, cut",
        ],
    );
}

#[test]
fn another_end_is_found() {
    check(
        "a connection ends as its client asked",
        &[
            "panic, served, normal, done",
            "talk, served, error, done",
            "idle, served, normal, done",
            "idle, served, told, normal, done",
            "talk, served, dropped, cut",
            "trap, served, clean, done",
        ],
    );
}

#[test]
fn a_wrong_serve_is_found() {
    let twice = "talk, served, served, normal, done";
    check("a connection is served once", &[twice]);
    let elsewhere = "talk, served elsewhere, normal, done";
    check("a connection has its own local address", &[elsewhere]);
    let client = "a connection that is served has a client";
    check(client, &["served, normal"]);
}

#[test]
fn a_refusal_of_an_open_listener_is_found() {
    let histories = ["talk, refused", "closing another, talk, refused"];
    check("an open listener refuses no client", &histories);
    let served = "stopping, talk, served, refused";
    check("a refused client is not served", &[served]);
}

#[test]
fn an_unserved_connection_is_found() {
    check(
        "a connection is served unless its listener closes",
        // The reason came too late.
        &["talk, cut", "talk, done", "talk, cut, closing"],
    );
}

#[test]
fn a_wrong_end_of_a_client_is_found() {
    let answer = "a connected client gets an answer or an end";
    check(answer, &["talk, served, nothing, normal"]);
    let echo = "a client hears its own words and no others";
    check(echo, &["talk, served, mangled, normal"]);
    let agree = "both ends of a connection agree";
    check(
        agree,
        &["talk, served, normal, cut", "talk, told, killed, done"],
    );
}

#[test]
fn an_end_that_does_not_come_is_found() {
    check("no connection is served after the stop", &["talk, served"]);
    check("every client ends", &["talk"]);
}

#[test]
fn a_kill_without_a_reason_is_found() {
    let told = "a killed connection was told to end";
    check(told, &["stopping, talk, killed, cut"]);
    let served = "a killed connection was served or about to be";
    let histories = [
        "talk, served, told, dropped, killed, killed, cut",
        "told, killed",
    ];
    check(served, &histories);
}

#[test]
fn a_kill_before_serve_is_counted() {
    let checker = fold("talk, told, killed, cut");
    let listener = "1".parse().expect("the id of a listener");
    assert_eq!(checker.accepted(listener), 1);
    assert_eq!(checker.of(Count::KilledUnserved), 1);
}

#[test]
fn a_pool_is_at_rest_when_both_ends_are_over() {
    for history in [
        "talk",
        "talk, left",
        "talk, left, served",
        "talk, served, normal",
    ] {
        assert!(fold(history).at_rest().is_err(), "{history}");
    }
    for history in ["talk, left, served, normal", "talk, left, closing"] {
        assert!(fold(history).at_rest().is_ok(), "{history}");
    }
}

/// Counts that are right.
const RIGHT: [(Count, u64); 18] = [
    (Count::Serve(Outcome::Error), 8),
    (Count::ErrorReport, 8),
    (Count::Serve(Outcome::Panic), 4),
    (Count::PanicReport, 4),
    (Count::Serve(Outcome::Dropped), 10),
    (Count::KillReport, 7),
    (Count::KilledUnserved, 2),
    (Count::ConnectionStopped, 3),
    (Count::ConnectionKilled, 2),
    (Count::KilledInStopReport, 2),
    (Count::LeftInBacklog, 1),
    (Count::InitFailure, 3),
    (Count::StartErrorReport, 3),
    (Count::TerminatePanic, 1),
    (Count::AcceptorPanicReport, 1),
    (Count::AcceptorKillReport, 2),
    (Count::DeadListener, 1),
    (Count::ListenerReport, 1),
];

/// After these changes of the right counts, this is found wrong.
#[track_caller]
fn check_sums(stop: StopMode, changes: &[(Count, i64)], wrong: &[&str]) {
    let mut checker = fold("told, talk, served, dropped, cut");
    let mut counts = Counts::from(RIGHT);
    for (count, change) in changes {
        let number = counts.entry(*count).or_default();
        *number = number.saturating_add_signed(*change);
    }
    // The order of the counts: the failures come before the report of the stop.
    let counts = counts.into_iter();
    counts.for_each(|(count, number)| checker.count(count, number));
    let mut setup = Setup::new(
        0,
        conformance_tests::Patience::default(),
        &mut Rng::with_seed(1),
    );
    setup.stop = stop;
    setup.settings.intensity = 24;
    setup.settings.shutdown = Some(Shutdown::Unlimited);
    checker.finish(&setup);
    let found = checker.broken.iter();
    let found: Vec<_> = found
        .map(|sum| format!("{}, not {}", sum.expected, sum.seen))
        .collect();
    assert_eq!(found, wrong);
}

#[test]
fn right_sums_hold() {
    check_sums(StopMode::AtRest, &[], &[]);
    check_sums(StopMode::UnderLoad, &[], &[]);
    let by_itself = [(Count::PoolStoppedReport, 1)];
    check_sums(StopMode::Intensity, &by_itself, &[]);
}

#[test]
fn a_wrong_sum_is_found() {
    for (count, change, wrong) in [
        (Count::ErrorReport, -1, "errors of serve: 8..=8, not 7"),
        (Count::PanicReport, 1, "panics of serve: 4..=4, not 5"),
        (Count::InitFailure, 1, "failures of init: 4..=4, not 3"),
        (
            Count::TerminatePanic,
            -1,
            "panics of terminate: 0..=0, not 1",
        ),
        (Count::ListenerReport, 1, "dead listeners: 1..=1, not 2"),
        (Count::Undelivered, 1, "lost reports: 1..=1, not 0"),
        (
            Count::KillReport,
            -1,
            "connections dropped by a kill or a stop: 12..=12, not 13",
        ),
        (
            Count::CutEarly,
            3,
            "connections cut early by a kill: 0..=2, not 3",
        ),
        (
            Count::StateDropped,
            6,
            "states dropped by a kill: 0..=5, not 6",
        ),
        (
            Count::KilledInStopReport,
            1,
            "kills in the kill phase: 2..=2, not 3",
        ),
        (
            Count::PoolStoppedReport,
            1,
            "stops of the pool by itself: 0..=0, not 1",
        ),
    ] {
        check_sums(StopMode::AtRest, &[(count, change)], &[wrong]);
    }
}
