//! Correct histories, and wrong ones in which the checker finds a failure.

use std::net::Ipv4Addr;

use fastrand::Rng;

use super::*;
use conformance_tests::Patience;

/// Returns an event of the only connection of these histories.
fn event(name: &str) -> Event {
    let client = (Ipv4Addr::new(127, 0, 0, 2), 4711).into();
    let at = |host, port| (Ipv4Addr::new(127, 0, 0, host).to_ipv6_mapped(), port).into();
    let server = (Ipv4Addr::LOCALHOST, 80).into();
    let child: ChildId = "1.7".parse().expect("the id of a child");
    let connects = |behavior| Step::Connects(behavior, child.listener(), server);
    let ends = |outcome| Step::ServeEnds(child, outcome);
    let step = match name {
        "commanded" => return Event::Commanded(child),
        "closing" => return Event::Closing(child.listener()),
        "closing another" => return Event::Closing("2".parse().expect("an id")),
        "stopping" => return Event::Stopping,
        "talk" => connects(Behavior::Talk),
        "trap" => connects(Behavior::TrapStop),
        "idle" => connects(Behavior::Idle),
        "refused" => Step::Refused,
        "served" => Step::Served(child, at(1, 80)),
        "served elsewhere" => Step::Served(child, at(1, 81)),
        "killed" => Step::Killed(child),
        "normal" => ends(Outcome::Normal),
        "clean" => ends(Outcome::Clean),
        "dropped" => ends(Outcome::Dropped),
        "done" => Step::Ends(Seen::Done),
        "left" => Step::Ends(Seen::Left),
        "cut" => Step::Ends(Seen::CutShort),
        "nothing" => Step::Ends(Seen::Nothing),
        "mismatch" => Step::Ends(Seen::Mismatch),
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

/// Checks which checks fail once the pool and the clients have ended.
#[track_caller]
fn check(history: &str, wrong: &[&str]) {
    let mut checker = fold(history);
    checker.finish_connections();
    let broken = checker.broken.iter();
    let found: Vec<_> = broken.map(|broken| broken.expected.as_str()).collect();
    assert_eq!(found, wrong, "{history}");
}

const CORRECT_HISTORIES: &str = "
    talk, served, normal, done
    talk, done, served, normal
    trap, served, normal, done
    trap, served, commanded, clean, cut
    trap, served, stopping, clean, cut
    idle, served, stopping, dropped, cut
    talk, served, commanded, dropped, killed, cut
    talk, commanded, killed, cut
    closing, talk, refused
    stopping, talk, refused
    talk, closing, cut
    talk, stopping, cut
    talk, commanded, cut
    talk, left";

#[test]
fn correct_history_is_accepted() {
    for history in CORRECT_HISTORIES.trim().lines() {
        check(history.trim(), &[]);
    }
}

const WRONG_HISTORIES: &str = "
    idle, served, commanded, normal, done: a connection ends as its client asked
    talk, served, dropped, cut: a connection ends as its client asked
    trap, served, clean, done: a connection ends as its client asked
    talk, served, normal, cut: both ends of a connection agree
    talk, served, served, normal, done: a connection is served once
    talk, served elsewhere, normal, done: a connection has its own local address
    served, normal: a connection that is served has a client
    talk, refused: an open listener refuses no client
    closing another, talk, refused: an open listener refuses no client
    stopping, talk, served, refused: a refused client is not served
    talk, cut: a connection is served unless its listener closes
    talk, done: a connection is served unless its listener closes
    talk, cut, closing: a connection is served unless its listener closes
    talk, served, nothing, normal: a client gets an answer or an end
    talk, served, mismatch, normal: a client reads its own message
    talk, served: no connection is served after the stop
    talk: every client ends
    stopping, talk, killed, cut: a killed connection was commanded to end
    commanded, killed: a killed connection was served or about to be
    talk, served, commanded, dropped, killed, killed, cut: a killed connection was served or about to be";

#[test]
fn wrong_history_is_caught() {
    for line in WRONG_HISTORIES.trim().lines() {
        let (history, wrong) = line.trim().split_once(": ").expect("a history");
        check(history, &[wrong]);
    }
}

#[test]
fn kill_before_serve_is_counted() {
    let checker = fold("talk, commanded, killed, cut");
    let listener = "1".parse().expect("the id of a listener");
    assert_eq!(checker.accepted(listener), 1);
    assert_eq!(checker.of(Count::KilledUnserved), 1);
}

#[test]
fn pool_is_at_rest_when_both_ends_close() {
    for history in ["talk", "talk, left, served", "talk, served, normal"] {
        assert!(fold(history).at_rest().is_err(), "{history}");
    }
    for history in ["talk, left, served, normal", "talk, left, closing"] {
        assert!(fold(history).at_rest().is_ok(), "{history}");
    }
}

/// Correct counts.
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

/// Checks which sums fail after a change of the correct counts.
#[track_caller]
fn check_sums(stop: StopMode, count: Count, change: i64, wrong: &[&str]) {
    let mut checker = fold("commanded, talk, served, dropped, cut");
    let mut counts = Counts::from(RIGHT);
    let number = counts.entry(count).or_default();
    *number = number.saturating_add_signed(change);
    // In this order, because failures precede the report of the stop.
    let counts = counts.into_iter();
    counts.for_each(|(count, number)| checker.count(count, number));
    let mut setup = Setup::new(0, Patience::default(), &mut Rng::with_seed(1));
    setup.stop = stop;
    setup.settings.intensity = 24;
    setup.settings.shutdown = Some(Shutdown::Unlimited);
    checker.finish(&setup);
    let sum = |sum: &Broken| format!("{}, not {}", sum.expected, sum.seen);
    let found: Vec<_> = checker.broken.iter().map(sum).collect();
    assert_eq!(found, wrong);
}

#[test]
fn correct_sums_hold() {
    check_sums(StopMode::AtRest, Count::LostReport, 0, &[]);
    check_sums(StopMode::UnderLoad, Count::Serve(Outcome::Dropped), -1, &[]);
    check_sums(StopMode::Intensity, Count::PoolStoppedReport, 1, &[]);
}

#[test]
fn wrong_sum_is_caught() {
    use Count as C;
    for (count, change, wrong) in [
        (C::ErrorReport, -1, "errors of serve: 8..=8, not 7"),
        (C::PanicReport, 1, "panics of serve: 4..=4, not 5"),
        (C::InitFailure, 1, "failures of init: 4..=4, not 3"),
        (C::TerminatePanic, 1, "panics of terminate: 2..=2, not 1"),
        (C::ListenerReport, 1, "dead listeners: 1..=1, not 2"),
        (C::Undelivered, 1, "lost reports: 1..=1, not 0"),
        (C::KillReport, -1, "dropped connections: 12..=12, not 13"),
        (C::CutEarly, 3, "connections cut early: 0..=2, not 3"),
        (C::StateDropped, 6, "dropped states: 0..=5, not 6"),
        (C::KilledInStopReport, 1, "kills by the stop: 2..=2, not 3"),
    ] {
        check_sums(StopMode::AtRest, count, change, &[wrong]);
    }
    let pauses = "pauses: 0..=0, not 1";
    check_sums(StopMode::UnderLoad, C::PauseReport, 1, &[pauses]);
    let stops = "stops of the pool by itself: 0..=0, not 1";
    check_sums(StopMode::AtRest, C::PoolStoppedReport, 1, &[stops]);
    let (stops, stop) = (
        "stops of the pool by itself: 1..=1, not 2",
        StopMode::Intensity,
    );
    check_sums(stop, C::PoolStoppedReport, 2, &[stops]);
    let stops = "stops of the pool by itself: 1..=1, not 0";
    let failures = "failures before the stop: 25..=25, not 26";
    check_sums(stop, C::AcceptorKillReport, 1, &[stops, failures]);
}
