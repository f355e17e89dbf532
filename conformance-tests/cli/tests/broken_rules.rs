//! The command line on runtimes that break rules: output for a failure, a panic and a check that does not end.

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

/// The fault of a runtime.
#[derive(Debug, Clone, Copy)]
enum Fault {
    NoListener(&'static str),
    /// It breaks each rule with an error, and declares B4 and K6 unmet.
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

/// Runs the command line, and returns its status, output and progress.
fn run(command_line: &CommandLine, arguments: &str) -> (Status, String, String) {
    let arguments = ["conformance-cli"].into_iter().chain(arguments.split(' '));
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let status = command_line.run(arguments.map(OsString::from), &mut out, &mut progress);
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    let status = status.expect("writing to memory succeeds");
    (status, text(out), text(progress))
}

/// Returns the output for rule B4 on these runtimes, of which the faulty one breaks it.
#[track_caller]
fn printed_on(columns: Vec<Column>, limit: Duration, format: &str) -> String {
    let command_line = CommandLine::new(columns).limit(limit);
    let (status, out, progress) = run(&command_line, &format!("--rule B4 --format {format}"));
    assert_eq!(status, Status::Broken);
    assert!(progress.contains("faulty tokio: B4 BROKEN ("), "{progress}");
    out
}

/// Returns the output for rule B4 on a correct and a faulty runtime.
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

/// Splits a table into the matrix, the failure and the totals.
#[track_caller]
fn parts(table: &str) -> [&str; 3] {
    let parts: Vec<_> = table.split("\n\n").collect();
    parts.try_into().expect("a table has three parts")
}

#[track_caller]
fn check_failure(text: &str, failure: &str) {
    let sentence = sentence();
    let expected = format!(
        "on faulty tokio:\nB4 (MUST) does not hold.\nrule:     {sentence}\n{failure}\nagain:    --runtime faulty --rule B4"
    );
    assert_eq!(text, expected);
}

#[track_caller]
fn check_table(fault: Fault, failure: &str) {
    let table = printed(fault, "table");
    let [matrix, text, totals] = parts(&table);
    assert_eq!(
        matrix,
        "rule  tokio   faulty tokio\n\
         B4    holds   BROKEN\n      \
               1 of 1  0 of 1"
    );
    check_failure(text, failure);
    let said = "1 rule in 2 columns: 1 of 2 hold, 1 BROKEN (";
    assert!(totals.starts_with(said), "{totals}");
}

#[test]
fn failure_has_all_its_parts() {
    check_table(
        Fault::NoListener("no listener today"),
        "expected: a listener is bound\n\
         seen:     no listener today\n\
         check:    do the rules of the runtime and its listener alone (T and K) hold? Fix those first",
    );
}

#[test]
fn panic_outside_the_tasks_is_a_failure() {
    check_table(
        Fault::PanicsInRun,
        "expected: the check ends\n\
         seen:     it panicked: there is no runtime\n\
         check:    does the harness panic, or the runtime outside its tasks?",
    );
}

#[test]
fn endless_check_is_a_failure() {
    // Alone, because the limit must not bound a correct runtime.
    let alone = vec![faulty(Fault::NeverEnds)];
    let limit = Duration::from_millis(500);
    let table = printed_on(alone, limit, "table");
    let [_, text, _] = parts(&table);
    let limit = Patience::expect_from_environment().stretch(limit);
    let failure = format!(
        "expected: the check ends\n\
         seen:     it did not end within {limit:?}\n\
         check:    does the runtime lose a wake, or block a thread that it needs? Is the machine too slow? CONFORMANCE_PATIENCE=4 waits four times as long"
    );
    check_failure(text, &failure);
}

/// As `suite!` does in an adapter's tests.
#[test]
fn test_of_an_endless_rule_names_it() {
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
    let text = tested.expect_err("the test times out");
    let text = text.downcast_ref::<String>().expect("the panic has a text");
    let limit = Patience::expect_from_environment().stretch(limit);
    assert!(text.starts_with("B4 (MUST) does not hold.\n"), "{text}");
    assert!(
        text.contains(&format!("seen:     it did not end within {limit:?}\n")),
        "{text}"
    );
}

#[test]
fn markdown_has_the_failure() {
    let text = printed(Fault::NoListener("no listener today"), "markdown");
    for line in [
        "| B: callbacks of the acceptor | 1 of 1 | 0 of 1 |",
        "| B4 | holds | BROKEN |",
        "On faulty tokio:",
        "seen:     no listener today",
        "1 rule in 2 columns: 1 of 2 hold, 1 BROKEN.",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
}

#[test]
fn unmet_should_is_no_failure() {
    let command_line = CommandLine::new(vec![faulty(Fault::LeavesUnmet)]);
    let (status, table, _) = run(&command_line, "--rule K6");
    assert_eq!(status, Status::Success);
    let why = "faulty tokio leaves K6 (SHOULD) unmet: one waits at a time";
    assert!(table.lines().any(|line| line == why), "{table}");
    let totals = "1 rule in 1 column: 0 of 1 hold, 1 left unmet (";
    assert!(table.contains(totals), "{table}");
}

#[test]
fn must_cannot_be_left_unmet() {
    let command_line = CommandLine::new(vec![faulty(Fault::LeavesUnmet)]);
    let (status, table, _) = run(&command_line, "--rule B4");
    assert_eq!(status, Status::Broken);
    assert!(table.contains("B4 (MUST) does not hold."), "{table}");
}

#[test]
fn exit_codes_are_0_1_and_2() {
    for (status, code) in [
        (Status::Success, 0),
        (Status::Broken, 1),
        (Status::Usage, 2),
    ] {
        assert_eq!(ExitCode::from(status), ExitCode::from(code));
    }
}
