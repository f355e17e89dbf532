//! The command that plays scenarios, as a process.

use std::path::PathBuf;
use std::process::{self, Command, Output};
use std::{env, fs};

use conformance_scenarios::Scenario;

/// Runs it; its exit code, what it printed, and what it told meanwhile.
fn run(arguments: &str) -> (Option<i32>, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_simulate"));
    let Output {
        status,
        stdout,
        stderr,
    } = program
        .args(arguments.split_whitespace())
        .output()
        .expect("the program can be run");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// A file of this process alone.
fn temporary(name: &str) -> PathBuf {
    env::temp_dir().join(format!("{}-{name}", process::id()))
}

#[track_caller]
fn misused(arguments: &str, message: &str) {
    let (code, out, told) = run(arguments);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let first: Vec<_> = told.lines().take_while(|line| !line.is_empty()).collect();
    assert_eq!(first.join("\n"), message);
}

#[test]
fn seeds_that_hold_are_counted() {
    let (code, out, told) = run("--seeds 5 --first 7 --steps 20 --jobs 2");
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    let line = |begin: &str| {
        let line = out.lines().find(|line| line.starts_with(begin));
        let line = line.unwrap_or_else(|| panic!("no {begin} in {out}"));
        line.rsplit(' ').next().map(str::to_owned)
    };
    assert_eq!(line("seeds "), Some("5".to_owned()));
    assert_eq!(line("steps "), Some("100".to_owned()));
    assert!(out.contains("\nall hold: "), "{out}");
}

#[test]
fn one_seed_is_traced_the_same_each_time() {
    let (code, out, _) = run("--seed 3 --steps 10 --trace");
    assert_eq!(code, Some(0), "{out}");
    let (trace, _) = out.split_once("\nseed 3 holds\n").expect("it holds");
    assert!(trace.contains("step 9: "), "{trace}");
    let (_, again, _) = run("--seed 3 --steps 10 --trace");
    let (again, _) = again.split_once("\nseed 3 holds\n").expect("it holds");
    assert_eq!(trace, again);
}

#[test]
fn the_picture_in_the_readme_is_what_is_drawn() {
    let file = temporary("graceful-stop.svg");
    let (code, out, told) = run(&format!("--picture {}", file.display()));
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("the graceful stop holds\n"), "{out}");
    let drawn = fs::read_to_string(&file).expect("it was drawn");
    fs::remove_file(&file).expect("it is there");
    assert!(
        drawn == include_str!("../pictures/graceful-stop.svg"),
        "conformance-tests/scenarios/pictures/graceful-stop.svg is out of date: `.ci/renew` renews it"
    );
}

#[test]
fn a_picture_that_cannot_be_written_is_bad_usage() {
    let (code, _, told) = run("--picture no/such/folder/life.svg");
    let begin = "error: no/such/folder/life.svg: ";
    assert_eq!(code, Some(2));
    assert!(told.starts_with(begin), "{told}");
}

#[test]
fn a_file_that_is_no_scenario_is_bad_usage() {
    misused(
        "--scenario src/lib.rs",
        "error: src/lib.rs: it is no scenario: expected value at line 1 column 1",
    );
}

#[test]
fn a_scenario_that_no_pool_can_be_started_with_is_bad_usage() {
    let mut scenario = Scenario::of_seed(4, 60);
    scenario.setting.spec.patience = 0;
    let file = temporary("impatient.json");
    fs::write(&file, scenario.to_json()).expect("it can be written");
    let file = file.display();
    misused(
        &format!("--scenario {file}"),
        &format!(
            "error: {file}: it is no scenario: `patience` in the spec of the setting is 0: give at least 1, in milliseconds"
        ),
    );
    fs::remove_file(file.to_string()).expect("it is there");
}

#[test]
fn a_scenario_is_played_from_its_file_as_it_is_from_its_seed() {
    let file = temporary("life.json");
    fs::write(&file, Scenario::of_seed(4, 60).to_json()).expect("it can be written");
    let (code, out, _) = run(&format!("--scenario {} --trace", file.display()));
    fs::remove_file(&file).expect("it is there");
    assert_eq!(code, Some(0), "{out}");
    let (_, of_seed, _) = run("--seed 4 --steps 60 --trace");
    assert!(out.contains("step 59: "), "{out}");
    assert!(out == of_seed.replace("\nseed 4 holds\n", "\nthe scenario holds\n"));
}

#[test]
fn what_makes_no_sense_together_is_bad_usage() {
    misused(
        "--seed 3 --seeds 4",
        "error: the argument '--seed <SEED>' cannot be used with '--seeds <N>'",
    );
    misused(
        "--scenario file --steps 4",
        "error: the argument '--scenario <FILE>' cannot be used with '--steps <N>'",
    );
    misused(
        "--trace",
        "error: the following required arguments were not provided:\n  <--seed <SEED>|--scenario <FILE>|--picture <FILE.svg>>",
    );
}

#[test]
fn a_number_out_of_bounds_is_bad_usage_and_the_bounds_are_told() {
    let all = "give a whole number from 0 to 18,446,744,073,709,551,615";
    let some = "give a whole number from 1 to 18,446,744,073,709,551,615";
    let steps = "give a whole number from 1 to 100,000";
    let jobs = "give a whole number from 1 to 1,000";
    for (option, value, name, allowed) in [
        ("--seeds", "0", "N", some),
        ("--seeds", "-1", "N", some),
        ("--seeds", "many", "N", some),
        ("--first", "-1", "SEED", all),
        ("--first", "18446744073709551616", "SEED", all),
        ("--seed", "-1", "SEED", all),
        ("--steps", "0", "N", steps),
        ("--steps", "-1", "N", steps),
        ("--steps", "100001", "N", steps),
        ("--jobs", "0", "N", jobs),
        ("--jobs", "1001", "N", jobs),
    ] {
        misused(
            &format!("{option} {value}"),
            &format!("error: invalid value '{value}' for '{option} <{name}>': {allowed}"),
        );
    }
}

#[test]
fn seeds_beyond_the_last_one_are_bad_usage() {
    misused(
        "--first 18446744073709551615 --seeds 2",
        "error: --seeds 2 from --first 18446744073709551615 on are beyond the last seed, 18446744073709551615: give at most --seeds 1",
    );
    let (code, out, told) = run("--first 18446744073709551615 --seeds 1 --steps 20");
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
}

#[cfg(unix)]
#[test]
fn a_reader_who_leaves_early_changes_nothing_of_the_exit_code() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    // More than a pipe holds, so that it is still writing when nobody reads any more.
    let mut program = Command::new(env!("CARGO_BIN_EXE_simulate"));
    let mut program = program
        .args(["simulate", "--seed", "3", "--steps", "5000", "--trace"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let out = program.stdout.take().expect("it is a pipe");
    let mut first = String::new();
    let mut out = BufReader::new(out);
    out.read_line(&mut first).expect("it can be read");
    assert!(first.contains("pool 1 is started"), "{first}");
    drop(out);
    let status = program.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}
