//! The command line on runtimes that break rules: what it tells of a failure, a panic and a check without an end.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::net;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use conformance_cli::worlds::tokio::Tokio;
use conformance_cli::{Column, CommandLine};
use conformance_console::Status;
use conformance_tests::rules::{all, test_within};
use conformance_tests::{Harness, Patience, Real};

/// What is wrong with a runtime.
#[derive(Debug, Clone, Copy)]
enum Fault {
    NoListener(&'static str),
    /// It breaks each rule with this error, and says that it leaves B4 and K6 unmet.
    LeavesUnmet,
    PanicsInRun,
    NeverEnds,
}

#[derive(Debug)]
struct Faulty {
    tokio: Tokio,
    fault: Fault,
}

impl Harness for Faulty {
    type Runtime = <Tokio as Harness>::Runtime;
    type Listener = <Tokio as Harness>::Listener;
    type Stream = <Tokio as Harness>::Stream;

    fn runtime(&self) -> Self::Runtime {
        self.tokio.runtime()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        match self.fault {
            Fault::NoListener(_) | Fault::LeavesUnmet => self.tokio.run(test),
            Fault::PanicsInRun => panic!("there is no runtime"),
            Fault::NeverEnds => loop {
                std::thread::park();
            },
        }
    }

    fn listener(&self, listener: net::TcpListener) -> io::Result<Self::Listener> {
        match self.fault {
            Fault::NoListener(error) => Err(io::Error::other(error)),
            Fault::LeavesUnmet => Err(io::Error::other("no listener")),
            _ => self.tokio.listener(listener),
        }
    }

    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        match self.fault {
            Fault::LeavesUnmet => &[("B4", "too much work"), ("K6", "one waits at a time")],
            _ => &[],
        }
    }

    fn stream(&self, stream: tokio::net::TcpStream) -> Self::Stream {
        self.tokio.stream(stream)
    }
}

fn faulty(fault: Fault) -> Column {
    Column::new("faulty", "faulty tokio", move || {
        Real::new(Faulty {
            tokio: Tokio::current_thread(),
            fault,
        })
    })
}

/// How it ends with these arguments, what is printed, and what is told meanwhile.
fn run(command_line: &CommandLine, arguments: &str) -> (Status, String, String) {
    let arguments = ["conformance-cli"].into_iter().chain(arguments.split(' '));
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let status = command_line.run(arguments.map(OsString::from), &mut out, &mut progress);
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    let status = status.expect("memory takes all that is written");
    (status, text(out), text(progress))
}

/// What is printed of rule B4 on these runtimes, of which the faulty one breaks it.
#[track_caller]
fn printed_on(columns: Vec<Column>, limit: Duration, format: &str) -> String {
    let command_line = CommandLine::new(columns).limit(limit);
    let (status, out, progress) = run(&command_line, &format!("--rule B4 --format {format}"));
    assert_eq!(status, Status::Broken);
    assert!(progress.contains("faulty tokio: B4 BROKEN ("), "{progress}");
    out
}

/// What is printed of rule B4 on the faulty runtime, next to a correct one.
#[track_caller]
fn printed(fault: Fault, format: &str) -> String {
    let sound = Column::new("tokio", "tokio", || Real::new(Tokio::current_thread()));
    printed_on(vec![sound, faulty(fault)], Duration::from_secs(60), format)
}

fn sentence() -> &'static str {
    let rules = all();
    let rule = rules.iter().find(|rule| rule.id == "B4");
    rule.expect("B4 is a rule").sentence
}

/// What a table consists of: the matrix, the failure and the totals.
#[track_caller]
fn parts(table: &str) -> [&str; 3] {
    let parts: Vec<_> = table.split("\n\n").collect();
    parts.try_into().expect("a table has three parts")
}

#[track_caller]
fn check_failure(told: &str, failure: &str) {
    let sentence = sentence();
    let expected = format!(
        "on faulty tokio:\nB4 (MUST) does not hold.\nrule:     {sentence}\n{failure}\nagain:    --runtime faulty --rule B4"
    );
    assert_eq!(told, expected);
}

#[track_caller]
fn tells(fault: Fault, failure: &str) {
    let table = printed(fault, "table");
    let [matrix, told, totals] = parts(&table);
    assert_eq!(
        matrix,
        "rule  tokio   faulty tokio\n\
         B4    holds   BROKEN\n      \
               1 of 1  0 of 1"
    );
    check_failure(told, failure);
    let said = "1 rule in 2 columns: 1 of 2 hold, 1 BROKEN (";
    assert!(totals.starts_with(said), "{totals}");
}

#[test]
fn a_failure_tells_the_rule_its_sentence_what_was_expected_what_was_seen_and_what_to_check() {
    tells(
        Fault::NoListener("no listener today"),
        "expected: a listener is bound\n\
         seen:     no listener today\n\
         check:    do the rules about the runtime and its listener alone hold? Begin with one that does not",
    );
}

#[test]
fn a_panic_outside_of_the_tasks_is_a_failure_of_the_rule() {
    tells(
        Fault::PanicsInRun,
        "expected: the check comes to an end\n\
         seen:     it panicked: there is no runtime\n\
         check:    does the harness panic, or the runtime outside of its tasks?",
    );
}

#[test]
fn a_check_without_an_end_is_a_failure_of_the_rule() {
    // Alone, for the limit must be no bound on a correct runtime.
    let alone = vec![faulty(Fault::NeverEnds)];
    let limit = Duration::from_millis(500);
    let table = printed_on(alone, limit, "table");
    let [_, told, _] = parts(&table);
    let limit = Patience::expect_from_environment().stretch(limit);
    let failure = format!(
        "expected: the check comes to an end\n\
         seen:     it did not end within {limit:?}\n\
         check:    does the runtime lose a wake, or block a thread that it needs? Is the machine this slow? CONFORMANCE_PATIENCE=4 waits four times as long"
    );
    check_failure(told, &failure);
}

/// As `suite!` does, in the tests of whoever brings a runtime.
#[test]
fn test_of_a_rule_that_does_not_end_fails_and_names_the_rule() {
    let limit = Duration::from_millis(500);
    let world = Real::new(Faulty {
        tokio: Tokio::current_thread(),
        fault: Fault::NeverEnds,
    });
    let name = all()
        .iter()
        .find(|rule| rule.id == "B4")
        .map(|rule| rule.name);
    let tested = catch_unwind(AssertUnwindSafe(|| {
        test_within(world, name.expect("B4 is a rule"), limit)
    }));
    let told = tested.expect_err("it does not end");
    let told = told
        .downcast_ref::<String>()
        .expect("it panics with a text");
    let limit = Patience::expect_from_environment().stretch(limit);
    assert!(told.starts_with("B4 (MUST) does not hold.\n"), "{told}");
    assert!(
        told.contains(&format!("seen:     it did not end within {limit:?}\n")),
        "{told}"
    );
}

#[test]
fn markdown_tells_the_failure() {
    let text = printed(Fault::NoListener("no listener today"), "markdown");
    for line in [
        "| B: the behaviour | 1 of 1 | 0 of 1 |",
        "| B4 | holds | BROKEN |",
        "On faulty tokio:",
        "seen:     no listener today",
        "1 rule in 2 columns: 1 of 2 hold, 1 BROKEN.",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
}

#[test]
fn a_should_that_is_left_unmet_says_why_and_fails_nothing() {
    let command_line = CommandLine::new(vec![faulty(Fault::LeavesUnmet)]);
    let (status, table, _) = run(&command_line, "--rule K6");
    assert_eq!(status, Status::Success);
    let why = "faulty tokio leaves K6 (SHOULD) unmet: one waits at a time";
    assert!(table.lines().any(|line| line == why), "{table}");
    let totals = "1 rule in 1 column: 0 of 1 hold, 1 left unmet (";
    assert!(table.contains(totals), "{table}");
}

#[test]
fn a_must_cannot_be_left_unmet() {
    let command_line = CommandLine::new(vec![faulty(Fault::LeavesUnmet)]);
    let (status, table, _) = run(&command_line, "--rule B4");
    assert_eq!(status, Status::Broken);
    assert!(table.contains("B4 (MUST) does not hold."), "{table}");
}

#[test]
fn the_exit_codes_are_0_1_and_2() {
    for (status, code) in [
        (Status::Success, 0),
        (Status::Broken, 1),
        (Status::Usage, 2),
    ] {
        assert_eq!(ExitCode::from(status), ExitCode::from(code));
    }
}
