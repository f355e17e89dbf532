//! Short soaks: every check holds on each runtime, and a check fails with each wrong implementation.
//!
//! A soak measures a whole process, so each runs in its own: the program, or this test again.

use std::env;
use std::process::Command;

use conformance_cli::worlds::tokio::Tokio;
use conformance_console::{Status, silence_panics};
use conformance_soak::Target;
use conformance_tests::{IpWorld, Patience, Real};
use conformance_wrong::{Flaw, ListenerFlaw, RuntimeFlaw, StreamFlaw, Wrong};

fn program(arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_soak"));
    program.args(arguments);
    program
}

/// Returns the exit code of a command, its output, and its progress.
fn run(program: &mut Command) -> (Option<i32>, String, String) {
    let output = program.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    let (out, progress) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, progress)
}

/// Returns a row of the table.
#[track_caller]
fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let name = format!("  {name}  ");
    let row = table.lines().find_map(|line| line.strip_prefix(&name));
    row.unwrap_or_else(|| panic!("no{name}in {table}")).trim()
}

/// This few connections take a second or two, and suffice for a pool of each stop mode.
fn check(test: &str, runtime: &str) {
    let arguments = ["--runtime", runtime, "--connections", "600"];
    let (code, table, progress) = run(&mut program(&arguments));
    assert_eq!(code, Some(0), "{test}: {table}{progress}");
    assert_eq!(row(&table, "verdict"), "every check holds", "{table}");
    for (group, counts) in [
        ("Pool", "AtRest, UnderLoad, Intensity, Killed, OwnerDropped"),
        ("Client", "Talk, Stall, HalfClose, Reset, TrapStop, Idle"),
        ("Serve", "Normal, Clean, Disconnected, Panic, Dropped"),
    ] {
        for count in counts.split(", ") {
            row(&table, &format!("{group}({count})"));
        }
    }
    if cfg!(target_os = "linux") {
        row(&table, "PauseReport");
        assert!(row(&table, "memory").contains("MiB"), "{table}");
    }
}

/// Runs a soak in this process, and returns its status and output.
fn soak<W: IpWorld>(world: impl Fn() -> W + 'static) -> (Option<Status>, String) {
    silence_panics();
    // More than any flaw needs, because a soak ends at the first failed check. A wake is lost only to a task that
    // another thread is polling, which may take some thousands of connections.
    let arguments = "soak --connections 100000 --minutes 1 --seed 1".split(' ');
    let arguments = arguments.map(Into::into);
    let (mut out, targets) = (Vec::new(), vec![Target::new("wrong", world)]);
    let status = conformance_soak::run(targets, arguments, &mut out, &mut Vec::new());
    let out = String::from_utf8(out).expect("the output is UTF-8");
    (status.ok(), out)
}

/// Set in a process of this test that has to soak a wrong implementation.
const WRONG: &str = "CONFORMANCE_SOAK_WRONG";

/// Soaks a world with this flaw, and expects one of these texts in the output.
fn check_flaw(test: &str, flaw: impl Into<Flaw> + Clone + 'static, texts: &[&str]) {
    let patience = Patience::expect_from_environment();
    if env::var_os(WRONG).is_none() {
        let mut again = Command::new(env::current_exe().expect("a test has an executable"));
        again.args(["--exact", test, "--nocapture"]).env(WRONG, "");
        // A fifth, because the events never occur.
        let factor = patience.length().as_secs_f64() / 10.0 / 5.0;
        again.env("CONFORMANCE_PATIENCE", factor.to_string());
        let (code, out, progress) = run(&mut again);
        assert_eq!(code, Some(0), "{out}{progress}");
        return;
    }
    let (status, out) = soak(move || {
        let real = Real::new(Tokio::multi_thread());
        Wrong::new(real, flaw.clone().into(), patience)
    });
    println!("{out}");
    assert_eq!(status, Some(Status::Broken));
    assert!(texts.iter().any(|text| out.contains(text)));
    assert!(out.contains("NOT hold"));
    assert!(out.contains("soak --runtime wrong --seed 1"));
}

macro_rules! tests {
    ($($(#[$attribute:meta])* $test:ident: $check:ident($($argument:expr),*);)*) => {$(
        $(#[$attribute])*
        #[test]
        fn $test() {
            $check(stringify!($test), $($argument),*);
        }
    )*};
}

tests! {
    checks_hold_on_tokio: check("tokio");
    checks_hold_on_async_std: check("async-std");
    checks_hold_on_smol: check("smol");
    checks_hold_on_the_reference: check("reference");

    lost_connection_is_caught:
        check_flaw(ListenerFlaw::LosesEveryThird, &["expected: each connection is served"]);
    wrong_peer_is_caught:
        check_flaw(ListenerFlaw::LocalForPeer, &["expected: a connection that is served has a client"]);
    wrong_local_address_is_caught:
        check_flaw(ListenerFlaw::ListenerAddressForStream, &["expected: a connection has its own local address"]);
    #[cfg(target_os = "linux")]
    leaked_listener_is_caught:
        check_flaw(ListenerFlaw::StaysOpen, &["expected: a stopped pool leaves no descriptor open"]);
    #[cfg(target_os = "linux")]
    hidden_accept_error_is_caught:
        check_flaw(ListenerFlaw::SwallowsErrors, &[
            "expected: a pause because of missing descriptors is reported",
            "expected: a listener that fails is closed",
        ]);
    lost_wake_is_caught:
        check_flaw(RuntimeFlaw::LosesWakes, &[
            "expected: each connection is served to its end",
            "expected: lost reports",
            "expected: a client gets an answer or an end",
            "seen:     it did not happen within",
        ]);
    changed_stream_is_caught:
        check_flaw(StreamFlaw::Changes, &["expected: a client reads its own message"]);
    leaked_stream_is_caught:
        check_flaw(StreamFlaw::StaysOpen, &["expected: a client gets an answer or an end"]);
    full_close_on_half_close_is_caught:
        check_flaw(StreamFlaw::EndsBoth, &["expected: a connection ends as its client asked"]);
}

#[test]
fn panic_of_the_soak_is_reported() {
    let (status, out) = soak(|| -> Real<Tokio> { panic!("no world") });
    assert_eq!(status, Some(Status::Broken), "{out}");
    let expected = "in the soak itself:\nexpected: the soak ends";
    assert!(out.contains(expected), "{out}");
    let seen = format!("\nseen:     it panicked at {}:", file!());
    assert!(out.contains(&seen), "{out}");
    assert!(out.contains(": no world\n"), "{out}");
}

#[test]
fn empty_soak_is_no_success() {
    let arguments = ["--runtime", "reference", "--minutes", "1e-12"];
    let (code, out, progress) = run(&mut program(&arguments));
    assert_eq!(code, Some(1), "{out}{progress}");
    assert_eq!(out, "\nreference: not soaked\n");
}

#[test]
fn invalid_arguments_are_bad_usage() {
    let check = |program: &mut Command, message: &str| {
        let (code, out, progress) = run(program);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{progress}");
        assert!(progress.starts_with(message), "{progress}");
    };
    for minutes in ["0", "-1", "1441", "NaN", "long"] {
        let minutes = format!("--minutes={minutes}");
        check(&mut program(&[&minutes]), "error: invalid value");
    }
    let runtime = "error: invalid value 'node' for '--runtime <RUNTIME>'";
    check(&mut program(&["--runtime", "node"]), runtime);
    check(&mut program(&["--seed", "-1"]), "error: ");
    let unknown = "error: unexpected argument '--speed' found";
    check(&mut program(&["--speed"]), unknown);
    let patience = "error: CONFORMANCE_PATIENCE is \"long\"";
    check(program(&[]).env("CONFORMANCE_PATIENCE", "long"), patience);
}

#[test]
fn runtimes_share_the_time() {
    let mut program = program(&["--minutes", "0.1"]);
    let (code, out, progress) = run(program.args(["--runtime", "tokio", "--runtime", "reference"]));
    assert_eq!(code, Some(0), "{out}{progress}");
    let tables: Vec<_> = out.trim().split("\n\n").collect();
    let names: Vec<_> = tables.iter().map(|table| table.lines().next()).collect();
    assert_eq!(names, [Some("tokio"), Some("reference")], "{out}");
}

#[cfg(unix)]
#[test]
fn interrupt_prints_the_result() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use rustix::process::{Pid, Signal, kill_process};

    let mut program = program(&["--runtime", "tokio", "--runtime", "reference"]);
    let program = program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut soak = program.spawn().expect("the program starts");
    let progress = soak.stderr.take().expect("standard error is piped");
    let mut progress = BufReader::new(progress).lines().map_while(Result::ok);
    let line = progress.find(|line| line.contains(" connections"));
    assert!(line.is_some(), "a first pool completes");
    kill_process(Pid::from_child(&soak), Signal::INT).expect("the program is running");
    // Reads to the end, so that the program can write.
    progress.for_each(drop);
    let output = soak.wait_with_output().expect("the program exits");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(row(&out, "verdict"), "every check holds", "{out}");
    assert!(out.ends_with("\nreference: not soaked\n"), "{out}");
    assert_eq!(output.status.code(), Some(1), "{out}");
}
