//! The soak, for a moment: on each runtime the sums add up; on wrong ones they do not, and it is told which.
//!
//! It counts what a whole process takes, so each has a process of its own: the
//! program, or this very test again.

use std::env;
use std::process::{Command, Output};
use std::time::Duration;

use conformance_cli::worlds::tokio::Tokio;
use conformance_console::{Status, silence_panics};
use conformance_soak::{Course, Soak, Telling};
use conformance_tests::{Patience, Real};
use conformance_wrong::{Flaw, ListenerFlaw, RuntimeFlaw, StreamFlaw, Wrong};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_soak"))
}

/// Runs it; its exit code, what it printed, and what it told meanwhile.
fn run(program: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = program.output().expect("the program can be run");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// What a table tells under a name, which may be several lines.
fn told(table: &str, name: &str) -> String {
    let mut lines = table
        .lines()
        .skip_while(|line| !line.starts_with(&format!("  {name} ")));
    let Some(first) = lines.next() else {
        panic!("nothing is told of {name}: {table}");
    };
    let others = lines.take_while(|line| line.starts_with("    "));
    let words = std::iter::once(&first[name.len() + 2..]).chain(others);
    words.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// So few connections that it takes a second or two, and enough for a pool of each ending.
const CONNECTIONS: &str = "600";

#[track_caller]
fn check(runtime: &str) {
    let arguments = ["--runtime", runtime, "--connections", CONNECTIONS];
    let (code, table, progress) = run(program().args(arguments));
    assert_eq!(code, Some(0), "{table}{progress}");
    assert_eq!(told(&table, "verdict"), "the sums add up", "{table}");
    let made = told(&table, "connections").replace(',', "");
    let made = made.split(' ').next().and_then(|made| made.parse().ok());
    assert!(made.is_some_and(|made: u64| made >= 600), "{table}");
    for way in [
        "stopped at rest",
        "stopped under way",
        "killed",
        "without their owner",
        "stopped by intensity",
    ] {
        assert!(told(&table, "pools").contains(way), "{table}");
    }
    for way in [
        "talked",
        "stalled",
        "half-closed",
        "reset",
        "left without a word",
        "trapped the stop",
        "had a panic",
    ] {
        assert!(told(&table, "clients").contains(way), "{table}");
    }
    for end in ["normal", "clean", "error", "panic", "killed", "stopped"] {
        assert!(told(&table, "ends").contains(end), "{table}");
    }
    if cfg!(target_os = "linux") {
        assert_eq!(told(&table, "exhaustions"), "1", "{table}");
        assert!(told(&table, "memory").contains("MiB"), "{table}");
        let descriptors = told(&table, "descriptors");
        let (before, after) = descriptors.split_once(" before, ").expect("both");
        assert_eq!(after, format!("{before} after"), "{table}");
    }
}

#[test]
fn on_tokio_the_sums_add_up() {
    check("tokio");
}

#[test]
fn on_async_std_the_sums_add_up() {
    check("async-std");
}

#[test]
fn on_smol_the_sums_add_up() {
    check("smol");
}

#[test]
fn on_the_reference_the_sums_add_up() {
    check("reference");
}

/// Tells the process of a test that it is to soak something wrong.
const WRONG: &str = "CONFORMANCE_SOAK_WRONG";

/// What will not come is waited for so much shorter.
const SHORT: f64 = 0.2;

/// More than any flaw needs, since a soak ends at the first thing that does not add up. A wake is lost only to a task that
/// another thread polls just then: that took up to some thousands.
const UNTIL_FOUND: u64 = 100_000;

/// Soaks a world with this flaw: it is told of with these words.
#[track_caller]
fn check_wrong(test: &str, flaw: impl Into<Flaw> + Clone + Send + Sync + 'static, words: &[&str]) {
    if env::var_os(WRONG).is_none() {
        let mut again = Command::new(env::current_exe().expect("a test has an executable"));
        let (code, out, told) = run(again.args(["--exact", test, "--nocapture"]).env(WRONG, ""));
        assert_eq!(code, Some(0), "{out}{told}");
        return;
    }
    silence_panics();
    let patience = Patience::of_environment().scaled(SHORT);
    let world = move || {
        let real = Real::new(Tokio::multi_thread());
        Wrong::new(real, flaw.clone().into(), patience)
    };
    let soak = Soak::new(vec![Course::new("wrong", "wrong", world)]).seed(1);
    let soak = soak
        .patience(patience)
        .connections(UNTIL_FOUND)
        .time(Duration::from_secs(60));
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let status = soak.run(&mut out, &mut progress, Telling::InLines);
    let out = String::from_utf8_lossy(&out);
    println!("{out}");
    assert_eq!(status.ok(), Some(Status::Broken), "{out}");
    assert!(words.iter().any(|words| out.contains(words)), "{out}");
    assert!(out.contains("NOT add up"), "{out}");
    assert!(out.contains("soak --runtime wrong --seed 1"), "{out}");
}

#[test]
fn a_listener_that_loses_connections_is_found() {
    check_wrong(
        "a_listener_that_loses_connections_is_found",
        ListenerFlaw::EatsEveryThird,
        &["expected: each connection is served"],
    );
}

#[test]
fn a_listener_that_tells_a_wrong_peer_is_found() {
    check_wrong(
        "a_listener_that_tells_a_wrong_peer_is_found",
        ListenerFlaw::LocalForPeer,
        &["expected: who is served has connected"],
    );
}

#[test]
fn a_listener_that_tells_a_wrong_local_address_is_found() {
    check_wrong(
        "a_listener_that_tells_a_wrong_local_address_is_found",
        ListenerFlaw::ListenersForStreams,
        &["expected: a connection has its own local address"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_whose_descriptor_is_left_is_found() {
    check_wrong(
        "a_listener_whose_descriptor_is_left_is_found",
        ListenerFlaw::StaysOpen,
        &["expected: no descriptor is left of a pool that is gone"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_that_hides_the_want_of_descriptors_is_found() {
    check_wrong(
        "a_listener_that_hides_the_want_of_descriptors_is_found",
        ListenerFlaw::SwallowsErrors,
        &[
            "expected: a pause for want of descriptors is reported",
            "expected: a listener that fails is closed",
        ],
    );
}

#[test]
fn a_runtime_that_loses_wakes_is_found() {
    check_wrong(
        "a_runtime_that_loses_wakes_is_found",
        RuntimeFlaw::LosesWakes,
        &[
            "expected: each connection is served to its end",
            "expected: reports that were not delivered = reports that were reported as lost",
            "expected: who is connected gets an answer, or an end",
            "seen:     nothing of the kind within",
        ],
    );
}

#[test]
fn a_stream_that_changes_what_is_said_is_found() {
    check_wrong(
        "a_stream_that_changes_what_is_said_is_found",
        StreamFlaw::Changes,
        &["expected: each client hears what it said, and nothing else"],
    );
}

#[test]
fn a_stream_that_is_left_open_is_found() {
    check_wrong(
        "a_stream_that_is_left_open_is_found",
        StreamFlaw::StaysOpen,
        &["expected: who is connected gets an answer, or an end"],
    );
}

#[test]
fn a_stream_that_ends_at_both_ends_at_once_is_found() {
    check_wrong(
        "a_stream_that_ends_at_both_ends_at_once_is_found",
        StreamFlaw::EndsBoth,
        &["expected: each connection ends as its client has it"],
    );
}

#[test]
fn a_panic_of_the_soak_itself_is_told_with_its_message_and_its_place() {
    let world = || -> Real<Tokio> { panic!("there is no world") };
    let soak = Soak::new(vec![Course::new("wrong", "wrong", world)]).seed(1);
    silence_panics();
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let status = soak.run(&mut out, &mut progress, Telling::InLines);
    let out = String::from_utf8_lossy(&out);
    assert_eq!(status.ok(), Some(Status::Broken), "{out}");
    let told = format!(
        "in the soak itself:\nexpected: the soak comes to an end\nseen:     it panicked at {}:",
        file!()
    );
    assert!(out.contains(&told), "{out}");
    assert!(out.contains(": there is no world\n"), "{out}");
}

#[track_caller]
fn misused(program: &mut Command, message: &str) {
    let (code, out, told) = run(program);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{told}");
    assert!(told.starts_with(message), "{told}");
}

#[test]
fn arguments_without_a_meaning_are_bad_usage() {
    let soak = |arguments: &[&str]| {
        let mut program = program();
        program.args(arguments);
        program
    };
    for minutes in ["0", "-1", "1441", "NaN", "long"] {
        let minutes = format!("--minutes={minutes}");
        misused(&mut soak(&[&minutes]), "error: invalid value");
    }
    misused(
        &mut soak(&["--runtime", "node"]),
        "error: invalid value 'node' for '--runtime <RUNTIME>'",
    );
    misused(&mut soak(&["--seed", "-1"]), "error: ");
    misused(
        &mut soak(&["--speed"]),
        "error: unexpected argument '--speed' found",
    );
    let patience = "error: CONFORMANCE_PATIENCE is \"long\"";
    misused(soak(&[]).env("CONFORMANCE_PATIENCE", "long"), patience);
}

#[test]
fn the_time_is_divided_among_the_runtimes() {
    let arguments = [
        "--minutes",
        "0.1",
        "--runtime",
        "tokio",
        "--runtime",
        "reference",
    ];
    let (code, out, progress) = run(program().args(arguments));
    assert_eq!(code, Some(0), "{out}{progress}");
    let tables: Vec<_> = out.trim().split("\n\n").collect();
    let titles: Vec<_> = tables.iter().map(|table| table.lines().next()).collect();
    assert_eq!(
        titles,
        [Some("tokio, two threads"), Some("reference")],
        "{out}"
    );
    for table in tables {
        let memory = told(table, "memory");
        assert!(
            !cfg!(target_os = "linux") || memory.ends_with("judged from 30 s on"),
            "{table}"
        );
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_early_and_in_order() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use rustix::process::{Pid, Signal, kill_process};

    let mut program = program();
    let program = program.args(["--runtime", "tokio", "--runtime", "reference"]);
    let mut soak = program
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let progress = soak.stderr.take().expect("it is a pipe");
    let mut progress = BufReader::new(progress).lines().map_while(Result::ok);
    let line = progress.find(|line| line.contains(" pools"));
    assert!(line.is_some(), "it tells how far it has come");
    let id = Pid::from_child(&soak);
    kill_process(id, Signal::INT).expect("it runs");
    // To the end, for who tells must not find nobody who listens.
    progress.for_each(drop);
    let output = soak.wait_with_output().expect("it ends");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told(&out, "verdict"), "the sums add up", "{out}");
    assert!(out.ends_with("\nreference: not soaked\n"), "{out}");
    // For one was to be soaked, and was not.
    assert_eq!(output.status.code(), Some(1), "{out}");
}

#[test]
fn what_is_over_before_it_begins_is_no_success() {
    let world = || Real::new(Tokio::multi_thread());
    let soak = Soak::new(vec![Course::new("tokio", "tokio", world)]).over(|| true);
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let status = soak.run(&mut out, &mut progress, Telling::InLines);
    assert_eq!(status.ok(), Some(Status::Broken));
    assert_eq!(String::from_utf8_lossy(&out), "\ntokio: not soaked\n");
}

#[test]
fn what_is_over_before_its_first_pool_is_no_success() {
    let arguments = ["--runtime", "reference", "--minutes", "0.00001"];
    let (code, out, progress) = run(program().args(arguments));
    assert_eq!(code, Some(1), "{out}{progress}");
    assert_eq!(out, "\nreference: not soaked\n");
}
