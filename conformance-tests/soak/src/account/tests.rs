//! An account that is right, and what is told of it when it is not.

use super::*;

/// All that was counted of a pool that was stopped at rest.
fn right() -> Account {
    let mut made = [0; Way::ALL.len()];
    made[Way::Talks as usize] = 85;
    made[Way::Resets as usize] = 15;
    Account {
        ending: Ending::AtRest,
        restart: Restart::Transient,
        shutdown: Shutdown::Unlimited,
        tally: Tally {
            made,
            refused: 1,
            served: 95,
            ends: Ends {
                normal: 60,
                clean: 10,
                disconnected: 0,
                error: 8,
                panic: 4,
                dropped: 13,
            },
            killed_unserved: 2,
            unserved: 3,
            cut_early: 0,
        },
        reports: Reports {
            start_errors: 3,
            acceptors_panicked: 1,
            acceptors_killed: 2,
            connections_failed: 8,
            connections_panicked: 4,
            connections_killed: 7,
            listeners_failed: 1,
            pauses: 2,
            killed_while_stopping: 2,
            start_errors_before: 3,
            failures_before: 22,
            ..Reports::default()
        },
        faults: Faults {
            start_errors: 3,
            terminate_panics: 1,
            dead_listeners: 1,
            exhaustions: 1,
        },
        states: States {
            made: 120,
            served: 95,
            terminated: 22,
            forsaken: 3,
        },
        stop: Stop {
            reason: StopReason::Requested,
            stuck: 0,
            last: Last {
                normal: 1,
                clean: 2,
                stopped: 3,
                killed: 2,
            },
            connections: 8,
            connections_killed: 2,
            acceptors: 9,
            acceptors_killed: 0,
            undelivered: 0,
        },
        asked_away: 3,
        last: Last {
            normal: 1,
            clean: 2,
            stopped: 3,
            killed: 2,
        },
        acceptors: 8,
    }
}

/// The same, had it been brought to an end in the midst of it all.
fn under_way() -> Account {
    Account {
        ending: Ending::UnderWay,
        ..right()
    }
}

/// The same, had it stopped by itself.
fn by_intensity() -> Account {
    let mut account = right();
    account.ending = Ending::Intensity(24);
    account.stop.reason = StopReason::Intensity;
    account.reports.pool_stopped = 1;
    account
}

/// What is told of an account in which something was changed: the sum, what was expected, what was seen.
#[track_caller]
fn check(mut account: Account, spoil: impl FnOnce(&mut Account), told: &[(&str, &str, &str)]) {
    spoil(&mut account);
    let wrong = account.audit();
    let expected: Vec<_> = told
        .iter()
        .map(|(sum, expected, seen)| {
            Broken::new(format!("{sum}: {expected}"), format!("{sum}: {seen}"))
        })
        .collect();
    assert_eq!(wrong, expected);
}

#[test]
fn sums_that_add_up_are_not_told_of() {
    for account in [right(), under_way(), by_intensity()] {
        check(account, |_| {}, &[]);
    }
}

const MADE: &str = "connections made = served + killed before they were + left by closed listeners";
const ENDS: &str = "calls of serve = their ends";
const DROPPED: &str =
    "connections dropped = reported as killed + stopped and killed by the stop + stopped by id";
const STATES: &str = "states of init = served + terminated + dropped without either";
const FORSAKEN: &str = "states dropped without either, where only a kill does that";
const BY_ITSELF: &str = "reports that the pool stops by itself";

#[test]
fn a_connection_that_was_made_and_not_served_is_told_of() {
    let spoil = |account: &mut Account| account.tally.made[Way::Leaves as usize] += 1;
    check(right(), spoil, &[(MADE, "101", "100")]);
}

#[test]
fn a_connection_that_was_served_and_not_made_is_told_of() {
    let spoil = |account: &mut Account| {
        account.tally.served += 1;
        account.tally.ends.normal += 1;
        account.states.served += 1;
        account.states.made += 1;
    };
    check(right(), spoil, &[(MADE, "100", "101")]);
}

#[test]
fn a_connection_that_was_cut_by_nothing_is_told_of() {
    let spoil = |account: &mut Account| account.tally.cut_early = 3;
    let sum = "connections cut early and not served, where only a kill does that";
    check(under_way(), spoil, &[(sum, "0 to 2", "3")]);
    check(under_way(), |account| account.tally.cut_early = 2, &[]);
}

#[test]
fn a_call_of_serve_without_an_end_is_told_of() {
    let spoil = |account: &mut Account| account.tally.ends.normal -= 1;
    check(right(), spoil, &[(ENDS, "95", "94")]);
}

#[test]
fn an_end_that_was_not_reported_is_told_of() {
    let error = |account: &mut Account| account.reports.connections_failed -= 1;
    check(
        right(),
        error,
        &[("errors of serve = reports of them", "8", "7")],
    );
    let panic = |account: &mut Account| account.reports.connections_panicked += 1;
    check(
        right(),
        panic,
        &[("panics of serve = reports of them", "4", "5")],
    );
    let start_error = |account: &mut Account| account.reports.start_errors = 0;
    let sum = "failures of init = start errors reported";
    check(right(), start_error, &[(sum, "3", "0")]);
    let terminate = |account: &mut Account| account.reports.acceptors_panicked = 0;
    check(
        right(),
        terminate,
        &[("panics of terminate = reports of them", "1", "0")],
    );
    let listener = |account: &mut Account| account.reports.listeners_failed = 2;
    let sum = "listeners that do not listen = listeners reported as failed";
    check(right(), listener, &[(sum, "1", "2")]);
}

/// The same, had three reports of connections found no place.
fn with_losses() -> Account {
    let mut account = right();
    account.reports.dropped.connections = 3;
    account.reports.dropped.all = 3;
    account.reports.connections_failed -= 2;
    account.reports.connections_killed -= 1;
    account.stop.undelivered = 3;
    account
}

#[test]
fn reports_that_were_lost_are_missing() {
    check(with_losses(), |_| {}, &[]);
    let more = |account: &mut Account| account.reports.connections_failed -= 2;
    let sum = "errors of serve = reports of them";
    check(with_losses(), more, &[(sum, "5 to 8", "4")]);
    let untold = |account: &mut Account| account.stop.undelivered += 1;
    let sum = "reports that were not delivered = reports that were reported as lost";
    check(with_losses(), untold, &[(sum, "4", "3")]);
}

#[test]
fn a_kill_that_was_not_reported_or_not_seen_is_told_of() {
    let killed = |account: &mut Account| account.reports.connections_killed -= 1;
    check(right(), killed, &[(DROPPED, "14 to 14", "15")]);
    check(under_way(), killed, &[(DROPPED, "9 to 14", "15")]);
    let dropped = |account: &mut Account| {
        account.tally.ends.dropped -= 1;
        account.tally.ends.normal += 1;
    };
    check(right(), dropped, &[(DROPPED, "15 to 15", "14")]);
    // It may have been stopped by id, and ended by the stop.
    check(under_way(), dropped, &[]);
    let while_stopping = |account: &mut Account| account.reports.killed_while_stopping = 0;
    let sum = "killed in the kill phase = reported as killed while stopping";
    check(right(), while_stopping, &[(sum, "2", "0")]);
    let brutal = |account: &mut Account| account.shutdown = Shutdown::Kill;
    check(right(), brutal, &[(sum, "0", "2")]);
}

#[test]
fn a_pause_without_a_cause_and_a_cause_without_a_pause_are_told_of() {
    let none = |account: &mut Account| account.reports.pauses = 0;
    let sum = "pauses reported, of times without descriptors";
    check(right(), none, &[(sum, "at least 1", "0")]);
    let some = |account: &mut Account| account.faults.exhaustions = 0;
    let sum = "pauses reported, with descriptors enough";
    check(right(), some, &[(sum, "0", "2")]);
}

#[test]
fn children_that_are_lost_or_stuck_are_told_of() {
    let lost = |account: &mut Account| account.reports.lost = 1;
    check(right(), lost, &[("children lost", "0", "1")]);
    let stuck = |account: &mut Account| account.stop.stuck = 2;
    check(right(), stuck, &[("children stuck", "0", "2")]);
    let other = |account: &mut Account| account.reports.others = 1;
    check(right(), other, &[("reports of no known sort", "0", "1")]);
}

#[test]
fn a_state_that_is_dropped_twice_never_or_by_nobody_is_told_of() {
    let never = |account: &mut Account| account.states.terminated -= 1;
    check(right(), never, &[(STATES, "120", "119")]);
    let by_nobody = |account: &mut Account| {
        account.states.terminated -= 4;
        account.states.forsaken += 4;
    };
    check(right(), by_nobody, &[(FORSAKEN, "0 to 6", "7")]);
    let served = |account: &mut Account| {
        account.states.served -= 1;
        account.states.terminated += 1;
    };
    check(
        right(),
        served,
        &[("states served = calls of serve", "94", "95")],
    );
}

#[test]
fn a_stop_for_another_reason_is_told_of() {
    let reason = |account: &mut Account| account.stop.reason = StopReason::RuntimeGone;
    let sum = "the reason of the stop";
    check(right(), reason, &[(sum, "Requested", "RuntimeGone")]);
    check(by_intensity(), reason, &[(sum, "Intensity", "RuntimeGone")]);
    let by_itself = |account: &mut Account| account.reports.pool_stopped += 1;
    check(right(), by_itself, &[(BY_ITSELF, "0", "1")]);
    check(by_intensity(), by_itself, &[(BY_ITSELF, "1", "2")]);
}

#[test]
fn a_pool_that_survives_a_failure_too_many_or_too_few_is_told_of() {
    let sum = "counted failures when the pool stops by itself";
    let early = |account: &mut Account| account.reports.failures_before -= 1;
    check(by_intensity(), early, &[(sum, "25", "24")]);
    let late = |account: &mut Account| account.reports.start_errors_before += 1;
    check(by_intensity(), late, &[(sum, "25", "26")]);
    let temporary = |account: &mut Account| account.restart = Restart::Temporary;
    check(by_intensity(), temporary, &[(sum, "25", "3")]);
}

#[test]
fn the_last_that_end_otherwise_are_told_of() {
    let sum = "ends of the last: normal, clean, stopped, killed";
    let stopped = |account: &mut Account| {
        account.last.clean += 1;
        account.last.stopped -= 1;
    };
    check(right(), stopped, &[(sum, "[1, 3, 2, 2]", "[1, 2, 3, 2]")]);
    check(under_way(), stopped, &[]);
    let one_more = |account: &mut Account| account.stop.connections += 1;
    check(right(), one_more, &[("all the last", "8", "9")]);
    let acceptors = |account: &mut Account| account.stop.acceptors = 7;
    let sum = "acceptors that ended with the pool, of those that waited";
    check(right(), acceptors, &[(sum, "at least 8", "7")]);
}
