//! Tests of the suite itself: each rule is broken by a wrong implementation, and the failure contains the expected
//! text.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use conformance_cli::worlds::tokio::Tokio;
use conformance_tests::rules::all;
use conformance_tests::{Patience, Real};
use conformance_wrong::{Case, Said, breakers, table};

/// How many checks run at the same time.
const AT_A_TIME: usize = 12;

/// The patience of these checks, which wait for events that never occur.
const SHORT: f64 = 0.35;

/// The time after which a check hangs, stretched by the patience. No check may hang, and only a timeout can show it.
const HANGS: Duration = Duration::from_secs(60);

/// Checks a rule with a flaw.
fn said(case: &Case, rule: &str, patience: Patience) -> Said {
    let limit = Patience::expect_from_environment().stretch(HANGS);
    let world = Real::new(Tokio::multi_thread());
    case.check(world, rule, patience, limit, None)
}

/// Returns the differences between the case and the result of the suite.
fn differences(case: &Case) -> Vec<String> {
    let mut found = Vec::new();
    let difference = |what: String| format!("{} with {:?}: {what}", case.rule, case.flaw);
    let patience = Patience::expect_from_environment();
    let failure = said(case, case.rule, patience.scaled(SHORT));
    if !case.is_caught(&failure) {
        found.push(difference(format!(
            "it does not report {:?} but\n{failure}",
            case.words
        )));
    }
    for rule in case.leaves {
        match said(case, rule, patience) {
            Said::Holds => {}
            said => found.push(difference(format!("{rule} does not hold either:\n{said}"))),
        }
    }
    found
}

#[track_caller]
fn check(section: char) {
    let of_section = |case: &Case| case.rule.starts_with(section);
    let cases: Vec<_> = table().into_iter().filter(of_section).collect();
    assert!(!cases.is_empty(), "the group has rules");
    let cases = std::sync::Mutex::new(cases);
    let next = || {
        cases
            .lock()
            .expect("the lock is never poisoned: its holders do not panic")
            .pop()
    };
    let found: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                scope.spawn(|| {
                    let mut found = Vec::new();
                    while let Some(case) = next() {
                        found.extend(differences(&case));
                    }
                    found
                })
            })
            .collect();
        let results = workers
            .into_iter()
            .map(|worker| worker.join().expect("the panics of checks are caught"));
        results.flatten().collect()
    });
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}

macro_rules! sections {
    ($($name:ident: $section:literal;)*) => {
        $(
            #[test]
            fn $name() {
                check($section);
            }
        )*

        #[test]
        fn every_section_has_a_test() {
            let sections = [$($section),*];
            for case in table() {
                assert!(case.rule.starts_with(sections), "{}", case.rule);
            }
        }
    };
}

sections! {
    wrong_callbacks_are_caught: 'B';
    wrong_ends_are_caught: 'E';
    wrong_intensity_is_caught: 'I';
    wrong_listeners_are_caught: 'L';
    wrong_capacity_is_caught: 'C';
    wrong_latches_are_caught: 'N';
    wrong_stops_are_caught: 'S';
    wrong_introspection_is_caught: 'Q';
    wrong_reconfiguration_is_caught: 'R';
    wrong_accept_errors_are_caught: 'A';
    wrong_input_checks_are_caught: 'V';
    wrong_reports_are_caught: 'O';
    wrong_handshakes_are_caught: 'H';
    wrong_runtimes_are_caught: 'T';
    wrong_sockets_are_caught: 'K';
}

#[test]
fn every_rule_can_be_broken() {
    let broken: BTreeSet<_> = table().iter().map(|case| case.rule).collect();
    let rules = all();
    let unbroken: Vec<_> = rules
        .iter()
        .map(|rule| rule.id)
        .filter(|id| !broken.contains(id))
        .collect();
    assert!(
        unbroken.is_empty(),
        "no wrong implementation breaks {unbroken:?}"
    );
}

#[test]
fn breakers_are_listed() {
    let listed = include_str!("../BREAKERS.md");
    assert_eq!(listed, breakers(), "`.ci/renew` renews it");
}
