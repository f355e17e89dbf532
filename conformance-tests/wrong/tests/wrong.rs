//! The suite is itself tested: each rule is broken by something deliberately wrong, and says so in its words.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use conformance_cli::worlds::tokio::Tokio;
use conformance_tests::rules::all;
use conformance_tests::{Boxed, Patience, Real};
use conformance_wrong::{Case, Wrong, table};

/// How many checks run at the same time.
const AT_A_TIME: usize = 12;

/// What will not come is waited for so much shorter.
const SHORT: f64 = 0.35;

/// After this a check hangs, which no check may, and of which only time can tell. Stretched by the patience.
const HANGS: Duration = Duration::from_secs(60);

/// Checks a rule where something is wrong; what the rule says, if it is broken.
fn said(case: &Case, rule: &str, patience: Patience) -> Result<(), String> {
    let world = Wrong::new(
        Real::new(Tokio::multi_thread()),
        case.flaw.clone(),
        patience,
    );
    let rules = all();
    let position = rules.iter().position(|one| one.id == rule);
    let position = position.ok_or_else(|| format!("there is no rule {rule}"))?;
    let (tell, told) = mpsc::channel();
    let checking = thread::spawn(move || {
        let verdict = rules[position].check(&Arc::new(Boxed::new(world)));
        let _ = tell.send(verdict.map_err(|broken| broken.to_string()));
    });
    match told.recv_timeout(Patience::expect_from_environment().stretch(HANGS)) {
        Ok(verdict) => verdict,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("the check of {rule} hangs")),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = checking
                .join()
                .expect_err("the check panicked: its thread ended without a result");
            Err(format!("panic: {}", message(panic)))
        }
    }
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "a panic without a text".to_owned(),
        },
    }
}

/// What the suite says otherwise than the case has it.
fn disagreements(case: &Case) -> Vec<String> {
    let mut found = Vec::new();
    let told = |what: String| format!("{} with {:?}: {what}", case.rule, case.flaw);
    let patience = Patience::expect_from_environment();
    match said(case, case.rule, patience.scaled(SHORT)) {
        Ok(()) => found.push(told("the rule holds".to_owned())),
        Err(said) if case.words.is_empty() || !said.contains(case.words) => {
            found.push(told(format!(
                "it does not report {:?} but\n{said}",
                case.words
            )));
        }
        Err(_) => {}
    }
    for rule in case.leaves {
        if let Err(said) = said(case, rule, patience) {
            found.push(told(format!("{rule} does not hold either:\n{said}")));
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
                        found.extend(disagreements(&case));
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
        fn no_section_is_left_out() {
            let sections = [$($section),*];
            for case in table() {
                assert!(case.rule.starts_with(sections), "{}", case.rule);
            }
        }
    };
}

sections! {
    a_wrong_behaviour_is_found_out: 'B';
    a_wrong_end_is_found_out: 'E';
    a_wrong_intensity_is_found_out: 'I';
    a_wrong_listener_is_found_out: 'L';
    a_wrong_signal_is_found_out: 'N';
    a_wrong_stop_is_found_out: 'S';
    a_wrong_look_is_found_out: 'Q';
    a_wrong_change_is_found_out: 'R';
    a_wrong_accept_error_is_found_out: 'A';
    a_wrong_word_on_bad_input_is_found_out: 'V';
    a_wrong_report_is_found_out: 'O';
    a_wrong_handshake_is_found_out: 'H';
    a_wrong_runtime_is_found_out: 'T';
    a_wrong_socket_is_found_out: 'K';
}

#[test]
fn every_rule_has_something_wrong_that_breaks_it() {
    let broken: BTreeSet<_> = table().iter().map(|case| case.rule).collect();
    let rules = all();
    let whole: Vec<_> = rules
        .iter()
        .map(|rule| rule.id)
        .filter(|id| !broken.contains(id))
        .collect();
    assert!(whole.is_empty(), "no wrong implementation breaks {whole:?}");
}
