//! The command that runs scenarios, as a process.

use std::io::{BufRead, BufReader};
use std::process::{self, Command, Output, Stdio};
use std::{env, fs};

use conformance_scenarios::Scenario;

/// Runs the command; returns its exit code, its output and its standard error.
fn simulate(arguments: &str) -> (Option<i32>, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_simulate"));
    let Output {
        status,
        stdout,
        stderr,
    } = program
        .args(arguments.split_whitespace())
        .output()
        .expect("the program can be run");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// Runs the command with a temporary file for `FILE`, which may have a content; returns the final content of the file, too.
fn simulate_file(
    arguments: &str,
    name: &str,
    text: Option<String>,
) -> (Option<i32>, String, String, String) {
    let file = env::temp_dir().join(format!("{}-{name}", process::id()));
    if let Some(text) = text {
        fs::write(&file, text).expect("the temporary directory is writable");
    }
    let path = file.display().to_string();
    let (code, out, error) = simulate(&arguments.replace("FILE", &path));
    let written = fs::read_to_string(&file).expect("the file is readable");
    fs::remove_file(&file).expect("the file exists");
    (code, out, error.replace(&path, "FILE"), written)
}

#[test]
fn seeds_that_hold_are_counted() {
    let (code, out, error) = simulate("--seeds 5 --first 7 --steps 20 --jobs 2");
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    for (label, count) in [
        ("seeds ", " 5"),
        ("steps ", " 100"),
        ("all hold: ", " core"),
    ] {
        let mut lines = out.lines();
        let found = lines.any(|line| line.starts_with(label) && line.ends_with(count));
        assert!(found, "{label}: {out}");
    }
}

#[test]
fn scenario_in_a_file_runs_like_its_seed() {
    let text = Scenario::of_seed(4, 60).to_json();
    let (code, out, ..) = simulate_file("--scenario FILE --trace", "scenario.json", Some(text));
    let (_, of_seed, _) = simulate("--seed 4 --steps 60 --trace");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("step 59: "), "{out}");
    assert_eq!(
        out,
        of_seed.replace("\nseed 4 holds\n", "\nthe scenario holds\n")
    );
}

#[test]
fn picture_in_the_readme_is_up_to_date() {
    let (code, out, error, drawn) = simulate_file("--picture FILE", "picture.svg", None);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("the graceful stop holds\n"), "{out}");
    assert!(
        drawn == include_str!("../pictures/graceful-stop.svg"),
        "conformance-tests/scenarios/pictures/graceful-stop.svg is out of date: run `.ci/renew`"
    );
}

#[test]
fn wrong_arguments_are_bad_usage() {
    for (arguments, message) in [
        (
            "--picture no/such/folder/picture.svg",
            "error: no/such/folder/picture.svg: ",
        ),
        (
            "--scenario src/lib.rs",
            "error: src/lib.rs: not a scenario: expected value at line 1 column 1",
        ),
        (
            "--seed 3 --seeds 4",
            "error: the argument '--seed <SEED>' cannot be used with '--seeds <N>'",
        ),
        (
            "--scenario file --steps 4",
            "error: the argument '--scenario <FILE>' cannot be used with '--steps <N>'",
        ),
        (
            "--trace",
            "error: the following required arguments were not provided:\n  <--seed <SEED>|",
        ),
        (
            "--seeds 0",
            "error: invalid value '0' for '--seeds <N>': 0 is not in 1..18446744073709551615",
        ),
        (
            "--seeds many",
            "error: invalid value 'many' for '--seeds <N>': ",
        ),
        (
            "--steps 100001",
            "error: invalid value '100001' for '--steps <N>': 100001 is not in 1..=100000",
        ),
        (
            "--jobs 1001",
            "error: invalid value '1001' for '--jobs <N>': 1001 is not in 1..=1000",
        ),
        (
            "--seed=-1",
            "error: invalid value '-1' for '--seed <SEED>': ",
        ),
        (
            "--first 18446744073709551615 --seeds 2",
            "error: --first 18446744073709551615 --seeds 2 goes beyond the last seed, 18446744073709551615: use at most --seeds 1",
        ),
    ] {
        let (code, _, error) = simulate(arguments);
        assert_eq!(code, Some(2), "{arguments}");
        assert!(error.starts_with(message), "{arguments}: {error}");
    }
}

#[test]
fn last_seed_can_be_run() {
    let (code, out, error) = simulate("--first 18446744073709551615 --seeds 1 --steps 20");
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
}

#[test]
fn invalid_spec_is_bad_usage() {
    let mut scenario = Scenario::of_seed(4, 60);
    scenario.setting.spec.kill_timeout = 0;
    let text = Some(scenario.to_json());
    let (code, out, error, _) = simulate_file("--scenario FILE", "invalid.json", text);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let message = "error: FILE: not a scenario: this time must be at least 1 ms at line 3 column ";
    assert!(error.starts_with(message), "{error}");
}

#[cfg(unix)]
#[test]
fn early_end_of_the_reader_is_no_failure() {
    // The output is longer than a pipe, so the program still writes when the reader has left.
    let mut program = Command::new(env!("CARGO_BIN_EXE_simulate"))
        .args(["--seed", "3", "--steps", "5000", "--trace"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let mut out = BufReader::new(program.stdout.take().expect("standard output is piped"));
    let mut first = String::new();
    out.read_line(&mut first).expect("the file is readable");
    assert!(first.contains("pool 1 is started"), "{first}");
    drop(out);
    assert_eq!(program.wait().expect("the program exits").code(), Some(0));
}
