//! Short soaks: on each runtime every check holds; with a planted mistake one does not.
//!
//! A soak counts what a whole process takes, so each has a process of its own:
//! the program, or the test again.

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

/// The exit code of a command, its output, and its progress.
fn run(program: &mut Command) -> (Option<i32>, String, String) {
    let output = program.output().expect("the program can be run");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    let (out, progress) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, progress)
}

/// A row of the table.
#[track_caller]
fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let name = format!("  {name}  ");
    let row = table.lines().find_map(|line| line.strip_prefix(&name));
    row.unwrap_or_else(|| panic!("no{name}in {table}")).trim()
}

/// So few connections take a second or two, and are enough for a pool of each stop mode.
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

/// The status and the output of a soak in this process.
fn soak<W: IpWorld>(world: impl Fn() -> W + 'static) -> (Option<Status>, String) {
    silence_panics();
    // More than any flaw needs: a soak ends at the first check that does not hold. A wake is lost only
    // to a task that another thread polls just then: that takes up to some thousands.
    let arguments = "soak --connections 100000 --minutes 1 --seed 1".split(' ');
    let arguments = arguments.map(Into::into);
    let (mut out, targets) = (Vec::new(), vec![Target::new("wrong", world)]);
    let status = conformance_soak::run(targets, arguments, &mut out, &mut Vec::new());
    let out = String::from_utf8(out).expect("it writes UTF-8");
    (status.ok(), out)
}

/// Tells the process of a test that it is to soak something wrong.
const WRONG: &str = "CONFORMANCE_SOAK_WRONG";

/// Soaks a world with this flaw: the output has one of these texts.
fn check_flaw(test: &str, flaw: impl Into<Flaw> + Clone + 'static, texts: &[&str]) {
    let patience = Patience::expect_from_environment();
    if env::var_os(WRONG).is_none() {
        let mut again = Command::new(env::current_exe().expect("a test has an executable"));
        again.args(["--exact", test, "--nocapture"]).env(WRONG, "");
        // A fifth: the events will not come.
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
    every_check_holds_on_tokio: check("tokio");
    every_check_holds_on_async_std: check("async-std");
    every_check_holds_on_smol: check("smol");
    every_check_holds_on_the_reference: check("reference");

    a_lost_connection_is_found:
        check_flaw(ListenerFlaw::EatsEveryThird, &["expected: each connection is served"]);
    a_wrong_peer_is_found:
        check_flaw(ListenerFlaw::LocalForPeer, &["expected: a connection that is served has a client"]);
    a_wrong_local_address_is_found:
        check_flaw(ListenerFlaw::ListenersForStreams, &["expected: a connection has its own local address"]);
    #[cfg(target_os = "linux")]
    a_leaked_listener_is_found:
        check_flaw(ListenerFlaw::StaysOpen, &["expected: no descriptor is left of a pool that has stopped"]);
    #[cfg(target_os = "linux")]
    a_hidden_accept_error_is_found:
        check_flaw(ListenerFlaw::SwallowsErrors, &[
            "expected: a pause for want of descriptors is reported",
            "expected: a listener that fails is closed",
        ]);
    a_lost_wake_is_found:
        check_flaw(RuntimeFlaw::LosesWakes, &[
            "expected: each connection is served to its end",
            "expected: lost reports",
            "expected: a client gets an answer or an end",
            "seen:     nothing of the kind within",
        ]);
    a_changed_stream_is_found:
        check_flaw(StreamFlaw::Changes, &["expected: a client hears its own words"]);
    a_leaked_stream_is_found:
        check_flaw(StreamFlaw::StaysOpen, &["expected: a client gets an answer or an end"]);
    a_half_close_that_ends_both_sides_is_found:
        check_flaw(StreamFlaw::EndsBoth, &["expected: a connection ends as its client asked"]);
}

#[test]
fn a_panic_of_the_soak_itself_is_found() {
    let (status, out) = soak(|| -> Real<Tokio> { panic!("there is no world") });
    assert_eq!(status, Some(Status::Broken), "{out}");
    let expected = "in the soak itself:\nexpected: the soak comes to its end";
    assert!(out.contains(expected), "{out}");
    let seen = format!("\nseen:     it panicked at {}:", file!());
    assert!(out.contains(&seen), "{out}");
    assert!(out.contains(": there is no world\n"), "{out}");
}

#[test]
fn an_end_before_the_first_pool_is_no_success() {
    let arguments = ["--runtime", "reference", "--minutes", "1e-12"];
    let (code, out, progress) = run(&mut program(&arguments));
    assert_eq!(code, Some(1), "{out}{progress}");
    assert_eq!(out, "\nreference: not soaked\n");
}

#[test]
fn bad_arguments_are_bad_usage() {
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
fn the_runtimes_share_the_time() {
    let mut program = program(&["--minutes", "0.1"]);
    let (code, out, progress) = run(program.args(["--runtime", "tokio", "--runtime", "reference"]));
    assert_eq!(code, Some(0), "{out}{progress}");
    let tables: Vec<_> = out.trim().split("\n\n").collect();
    let names: Vec<_> = tables.iter().map(|table| table.lines().next()).collect();
    assert_eq!(names, [Some("tokio"), Some("reference")], "{out}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_soak_in_order() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use rustix::process::{Pid, Signal, kill_process};

    let mut program = program(&["--runtime", "tokio", "--runtime", "reference"]);
    let program = program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut soak = program.spawn().expect("the program can be run");
    let progress = soak.stderr.take().expect("it is a pipe");
    let mut progress = BufReader::new(progress).lines().map_while(Result::ok);
    let line = progress.find(|line| line.contains(" connections"));
    assert!(line.is_some(), "a first pool runs to its end");
    kill_process(Pid::from_child(&soak), Signal::INT).expect("it runs");
    // To the end, so that the program can write.
    progress.for_each(drop);
    let output = soak.wait_with_output().expect("it ends");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(row(&out, "verdict"), "every check holds", "{out}");
    assert!(out.ends_with("\nreference: not soaked\n"), "{out}");
    assert_eq!(output.status.code(), Some(1), "{out}");
}
