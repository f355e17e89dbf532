//! Histories that are right, and others in which the checker finds a mistake.

use std::net::{Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::*;
use Behavior::{Idle, Leave, Panic, Reset, Stall, Talk, TrapStop};
use Outcome::{Clean, Dropped, Normal};
use Seen::{CutShort, Done, Left, Mangled, Nothing};

fn client() -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, 2), 4711).into()
}

fn server() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 80).into()
}

fn child(number: u32) -> ChildId {
    format!("1.{number}").parse().expect("the id of a child")
}

fn connecting(behavior: Behavior) -> Event {
    Event::Connecting {
        client: client(),
        server: server(),
        listener: 1,
        behavior,
    }
}

fn served_at(client: SocketAddr, local: SocketAddr) -> Event {
    let child = child(7);
    Event::ServeBegan {
        client,
        local,
        child,
    }
}

fn served() -> Event {
    served_at(client(), server())
}

fn ended(outcome: Outcome) -> Event {
    Event::ServeEnded {
        client: client(),
        child: child(7),
        outcome,
    }
}

fn sees(seen: Seen) -> Event {
    Event::ClientEnded(client(), seen)
}

fn told() -> Event {
    Event::Told(child(7))
}

fn killed() -> Event {
    Event::Killed {
        client: client(),
        child: child(7),
    }
}

fn fold(events: impl IntoIterator<Item = Event>) -> Checker {
    let mut checker = Checker::default();
    events.into_iter().for_each(|event| checker.see(event));
    checker
}

/// The checker finds these mistakes, and the connection is over.
#[track_caller]
fn check<const N: usize>(events: [Event; N], expected: &[&str]) {
    let mut checker = fold(events);
    checker.finish_connections();
    let broken = checker.broken();
    let found: Vec<_> = broken.iter().map(|broken| &broken.expected).collect();
    assert_eq!(found, expected, "{broken:?}");
}

#[test]
fn each_behavior_has_its_end() {
    for behavior in Behavior::ALL {
        let Some(outcome) = behavior.outcome() else {
            continue;
        };
        for seen in [Done, Left] {
            check(
                [connecting(behavior), served(), ended(outcome), sees(seen)],
                &[],
            );
            check(
                [connecting(behavior), sees(seen), served(), ended(outcome)],
                &[],
            );
        }
    }
}

#[test]
fn another_end_is_found() {
    let expected = ["a connection ends as its client asked"];
    for (behavior, outcome) in [
        (Panic, Normal),
        (Talk, Outcome::Error),
        (Idle, Normal),
        (Stall, Dropped),
        (TrapStop, Clean),
    ] {
        let events = || [connecting(behavior), served(), ended(outcome), sees(Done)];
        check(events(), &expected);
        let [connecting, served, ended, sees] = events();
        let asked: &[_] = match outcome {
            Dropped | Clean => &[],
            _ => &expected,
        };
        check([connecting, served, told(), ended, sees], asked);
    }
}

#[test]
fn a_stop_explains_a_drop() {
    for outcome in [Dropped, Clean] {
        let (served, seen) = (served(), sees(CutShort));
        let events = [
            connecting(TrapStop),
            served,
            Event::Stopping,
            ended(outcome),
            seen,
        ];
        check(events, &[]);
    }
}

#[test]
fn a_second_serve_is_found() {
    let events = [
        connecting(Talk),
        served(),
        served(),
        ended(Normal),
        sees(Done),
    ];
    check(events, &["a connection is served once"]);
}

#[test]
fn a_serve_without_a_client_is_found() {
    let expected = ["a connection that is served has a client"];
    check([served(), ended(Normal)], &expected);
    let peer = served_at(server(), server());
    check([connecting(Leave), sees(Left), peer], &expected);
}

#[test]
fn another_local_address_is_found() {
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    for (local, expected) in [
        ((mapped, 80).into(), &[][..]),
        (
            (Ipv4Addr::LOCALHOST, 81).into(),
            &["a connection has its own local address"],
        ),
        (
            (Ipv6Addr::UNSPECIFIED, 80).into(),
            &["a connection has its own local address"],
        ),
    ] {
        let served = served_at(client(), local);
        check(
            [connecting(Talk), served, ended(Normal), sees(Done)],
            expected,
        );
    }
}

#[test]
fn a_refusal_of_an_open_listener_is_found() {
    let refused = || Event::Refused(client());
    let expected = ["an open listener refuses no client"];
    check([connecting(Talk), refused()], &expected);
    check([Event::Closing(2), connecting(Talk), refused()], &expected);
    check([Event::Closing(1), connecting(Talk), refused()], &[]);
    check([Event::Stopping, connecting(Talk), refused()], &[]);
    let served = [Event::Stopping, connecting(Talk), served(), refused()];
    check(served, &["a refused client is not served"]);
}

#[test]
fn both_ends_must_agree() {
    let events = [connecting(Talk), served(), ended(Normal), sees(CutShort)];
    check(events, &["both ends of a connection agree"]);
}

#[test]
fn an_unserved_connection_is_found() {
    let expected = ["a connection is served unless its listener closes"];
    check([connecting(Talk), sees(CutShort)], &expected);
    check([connecting(Talk), sees(Done)], &expected);
    check([connecting(Leave), sees(Left)], &[]);
    let closing = || Event::Closing(1);
    check([connecting(Talk), closing(), sees(CutShort)], &[]);
    check([connecting(Talk), Event::Stopping, sees(CutShort)], &[]);
    // The reason came too late.
    check([connecting(Talk), sees(CutShort), closing()], &expected);
    // A kill by id may be the reason.
    check([connecting(Talk), told(), sees(CutShort)], &[]);
}

#[test]
fn a_wrong_answer_or_none_is_found() {
    for (seen, expected) in [
        (Nothing, "a connected client gets an answer or an end"),
        (Mangled, "a client hears its own words and no others"),
    ] {
        let events = [connecting(Talk), served(), sees(seen), ended(Normal)];
        check(events, &[expected]);
    }
}

#[test]
fn an_end_that_does_not_come_is_found() {
    let expected = ["no connection is served after the stop"];
    check([connecting(Talk), served()], &expected);
    check([connecting(Talk)], &["every client ends"]);
}

#[test]
fn a_kill_without_a_reason_is_found() {
    let there = "a killed connection was served or about to be";
    let dropped = || [connecting(Stall), served(), told(), ended(Dropped)];
    let [connects, serves, tells, ends] = dropped();
    check([connects, serves, tells, ends, killed(), sees(Done)], &[]);
    let [connects, serves, tells, ends] = dropped();
    let twice = [
        connects,
        serves,
        tells,
        ends,
        killed(),
        killed(),
        sees(Done),
    ];
    check(twice, &[there]);
    let untold = [Event::Stopping, connecting(Stall), killed(), sees(CutShort)];
    check(untold, &["a killed connection was told to end"]);
}

#[test]
fn a_kill_before_serve_is_accepted() {
    let events = [connecting(Stall), told(), killed(), sees(CutShort)];
    let checker = fold(events);
    assert_eq!(checker.of(Count::KilledUnserved), 1);
    assert_eq!(checker.accepted(child(7).listener()), 1);
    assert!(!checker.knows(client()));
}

#[test]
fn a_pool_is_at_rest_when_both_ends_are_over() {
    let mut checker = fold([]);
    for (event, at_rest) in [
        (connecting(Reset), false),
        (sees(Left), false),
        (served(), false),
        (ended(Outcome::Disconnected), true),
        (connecting(Leave), false),
        (sees(Left), false),
        (Event::Closing(1), true),
    ] {
        checker.see(event);
        assert_eq!(checker.at_rest().is_ok(), at_rest, "{checker:?}");
    }
}

fn setup(stop: StopMode) -> Setup {
    Setup {
        stop,
        intensity: 24,
        shutdown: Shutdown::Unlimited,
        ..Setup::of(0, &mut Rng::with_seed(1))
    }
}

/// The counts of a pool that is right, and had 25 failures.
const RIGHT: [(Count, u64); 20] = [
    (Count::Serve(Outcome::Error), 8),
    (Count::ErrorReport, 8),
    (Count::Serve(Outcome::Panic), 4),
    (Count::PanicReport, 4),
    (Count::Serve(Outcome::Dropped), 12),
    (Count::KillReport, 7),
    (Count::KilledUnserved, 2),
    (Count::StoppedConnection, 3),
    (Count::KilledConnection, 2),
    (Count::KilledInStopReport, 2),
    (Count::LeftInBacklog, 1),
    (Count::InitFailed, 3),
    (Count::StartErrorReport, 3),
    (Count::TerminatePanicked, 1),
    (Count::AcceptorPanicReport, 1),
    (Count::AcceptorKillReport, 2),
    (Count::DeadListener, 1),
    (Count::ListenerReport, 1),
    (Count::Exhaustion, 1),
    (Count::PauseReport, 2),
];

/// The sums that do not hold after these changes of the right counts: what was expected and what was seen.
#[track_caller]
fn check_sums(setup: &Setup, changes: &[(Count, i64)], expected: &[(&str, &str)]) {
    let mut checker = Checker::default();
    let mut counts = Counts::from(RIGHT);
    for (count, change) in changes {
        let number = counts.entry(*count).or_default();
        *number = number.saturating_add_signed(*change);
    }
    // In this order: the failures come before the report of the stop.
    counts
        .into_iter()
        .for_each(|(count, number)| checker.count(count, number));
    checker.told.insert(child(1));
    // Stopped by its id.
    checker.told_and_dropped.insert(child(1));
    checker.told_and_dropped.insert(child(2));
    checker.finish(setup);
    let broken = checker.broken();
    let found: Vec<_> = broken
        .iter()
        .map(|broken| (broken.expected.as_str(), broken.seen.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn right_sums_hold() {
    check_sums(&setup(StopMode::AtRest), &[], &[]);
    check_sums(&setup(StopMode::UnderLoad), &[], &[]);
    let stopped = [(Count::PoolStoppedReport, 1)];
    check_sums(&setup(StopMode::Intensity), &stopped, &[]);
}

#[test]
fn a_wrong_sum_at_rest_is_found() {
    let dropped = "connections dropped by a kill or a stop";
    for (count, change, what, right, wrong) in [
        (Count::ErrorReport, -1, "errors of serve", "8", "7"),
        (Count::PanicReport, 1, "panics of serve", "4", "5"),
        (Count::StartErrorReport, -3, "failures of init", "3", "0"),
        (
            Count::AcceptorPanicReport,
            -1,
            "panics of terminate",
            "1",
            "0",
        ),
        (Count::ListenerReport, 1, "dead listeners", "1", "2"),
        (Count::Undelivered, 1, "reports that were lost", "1", "0"),
        (
            Count::PauseReport,
            -2,
            "pauses for want of descriptors",
            "at least 1",
            "0",
        ),
        (
            Count::Exhaustion,
            -1,
            "pauses for want of descriptors",
            "0",
            "2",
        ),
        (Count::LostChild, 1, "lost children", "0", "1"),
        (Count::StuckChild, 2, "stuck children", "0", "2"),
        (Count::OtherReport, 1, "unknown reports", "0", "1"),
        (Count::KillReport, -1, dropped, "13", "14"),
        (Count::Serve(Outcome::Dropped), -1, dropped, "14", "13"),
        (
            Count::CutEarly,
            3,
            "connections cut early by a kill",
            "0 to 2",
            "3",
        ),
        (
            Count::StateDropped,
            6,
            "states dropped by a kill",
            "0 to 5",
            "6",
        ),
        (
            Count::KilledInStopReport,
            -2,
            "kills in the kill phase",
            "2",
            "0",
        ),
        (
            Count::PoolStoppedReport,
            1,
            "reports that the pool stops by itself",
            "0",
            "1",
        ),
    ] {
        let (right, wrong) = (format!("{what}: {right}"), format!("{what}: {wrong}"));
        let expected = [(right.as_str(), wrong.as_str())];
        check_sums(&setup(StopMode::AtRest), &[(count, change)], &expected);
    }
}

#[test]
fn a_stop_under_load_has_bounds() {
    let dropped = "connections dropped by a kill or a stop";
    let fewer = [(Count::Serve(Outcome::Dropped), -3)];
    check_sums(&setup(StopMode::UnderLoad), &fewer, &[]);
    let fewest = [(Count::Serve(Outcome::Dropped), -4)];
    let expected = (&*format!("{dropped}: 11 to 14"), &*format!("{dropped}: 10"));
    check_sums(&setup(StopMode::UnderLoad), &fewest, &[expected]);
}

#[test]
fn lost_reports_leave_room() {
    let lost = [
        (Count::LostReport, 2),
        (Count::Undelivered, 2),
        (Count::ErrorReport, -2),
    ];
    check_sums(&setup(StopMode::AtRest), &lost, &[]);
    let more = [lost[0], lost[1], (Count::ErrorReport, -3)];
    let expected = ("errors of serve: 6 to 8", "errors of serve: 5");
    check_sums(&setup(StopMode::AtRest), &more, &[expected]);
}

#[test]
fn a_stop_after_other_failures_is_found() {
    let what = "counted failures at the stop";
    for (count, change, right, wrong) in [
        (Count::AcceptorKillReport, -1, "25", "24"),
        (Count::AcceptorKillReport, 1, "25", "26"),
    ] {
        let changes = [(Count::PoolStoppedReport, 1), (count, change)];
        let expected = (&*format!("{what}: {right}"), &*format!("{what}: {wrong}"));
        check_sums(&setup(StopMode::Intensity), &changes, &[expected]);
    }
    let late = [
        Event::Counted(Count::PoolStoppedReport, 1),
        Event::Counted(Count::KillReport, 1),
    ];
    assert_eq!(fold(late).failures, 0);
}
