//! The command line as a process: exit codes, messages, and formats that other programs can read.

use std::process::{Command, Output};

use conformance_tests::rules::all;

const RENEW: &str = "RULES.md is out of date: run `.ci/renew`";

/// Runs the program, and returns its exit code, output and progress.
fn run(arguments: &str) -> (Option<i32>, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_conformance-cli"));
    finished(program.args(arguments.split_whitespace()))
}

fn finished(program: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = program.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// Returns the output of a successful run.
#[track_caller]
fn printed(arguments: &str) -> String {
    let (code, out, progress) = run(arguments);
    assert_eq!(code, Some(0), "{out}{progress}");
    out
}

#[track_caller]
fn refused(program: &mut Command, message: &str) {
    let (code, out, told) = finished(program);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let first: Vec<_> = told.lines().take_while(|line| !line.is_empty()).collect();
    assert_eq!(first.join("\n"), message);
}

#[track_caller]
fn misused(arguments: &str, message: &str) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_conformance-cli"));
    refused(program.args(arguments.split_whitespace()), message);
}

fn ids() -> Vec<&'static str> {
    let rules = all();
    rules.iter().map(|rule| rule.id).collect()
}

#[test]
fn unknown_runtime_lists_the_choice() {
    let (_, help, _) = run("--help");
    let choice = help.lines().find_map(|line| {
        let (_, choice) = line.split_once("[possible values: tokio")?;
        Some(format!("tokio{}", choice.trim_end_matches(']')))
    });
    let choice = choice.expect("the help lists the runtimes");
    misused(
        "--runtime node",
        &format!(
            "error: invalid value 'node' for '--runtime <RUNTIME>'\n  [possible values: {choice}]"
        ),
    );
}

#[test]
fn unknown_rule_lists_the_choice() {
    let choice = ids().join(", ");
    misused(
        "--rule Z1",
        &format!("error: invalid value 'Z1' for '--rule <ID>'\n  [possible values: {choice}]"),
    );
}

#[test]
fn unknown_format_lists_the_choice() {
    misused(
        "--format xml",
        "error: invalid value 'xml' for '--format <FORMAT>'\n  [possible values: table, markdown]",
    );
    misused(
        "rules --format junit",
        "error: invalid value 'junit' for '--format <FORMAT>'\n  [possible values: text, markdown]",
    );
}

#[test]
fn unknown_argument_is_bad_usage() {
    misused("--speed 3", "error: unexpected argument '--speed' found");
    misused("rule", "error: unrecognized subcommand 'rule'");
    misused(
        "rules --level",
        "error: unexpected argument '--level' found",
    );
}

#[test]
fn invalid_patience_is_bad_usage() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_conformance-cli"));
    refused(
        program.env("CONFORMANCE_PATIENCE", "long"),
        "error: CONFORMANCE_PATIENCE is \"long\": it must be a factor from 0.01 to 1000, such as 4",
    );
}

/// A device that is always full.
#[cfg(target_os = "linux")]
fn full() -> std::fs::File {
    let options = std::fs::OpenOptions::new().write(true).open("/dev/full");
    options.expect("the system has `/dev/full`")
}

#[test]
#[cfg(target_os = "linux")]
fn unwritable_output_is_an_error() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_conformance-cli"));
    let (code, _, progress) = finished(program.arg("rules").stdout(full()));
    let error = "error: the result cannot be written: ";
    assert!(progress.starts_with(error), "{progress}");
    assert_eq!(code, Some(1));

    let mut program = Command::new(env!("CARGO_BIN_EXE_conformance-cli"));
    let program = program.args(["--runtime", "tokio", "--rule", "B4"]);
    let (code, out, _) = finished(program.stderr(full()));
    assert_eq!((code, out.as_str()), (Some(1), ""));
}

#[test]
fn help_has_the_exit_codes() {
    let help = printed("--help");
    assert!(
        help.contains("0 all rules hold, 1 a rule is broken, 2 bad usage"),
        "{help}"
    );
}

#[test]
fn table_has_rows_columns_and_totals() {
    let table = printed("--runtime tokio --rule b4 --rule I2");
    let (matrix, totals) = table
        .split_once("\n\n")
        .expect("a blank line separates the totals");
    assert_eq!(
        matrix,
        "rule  tokio, two threads  tokio, one thread\n\
         B4    holds               holds\n\
         I2    holds               holds\n      \
               2 of 2              2 of 2"
    );
    let said = "2 rules in 2 columns: all 4 hold (";
    assert!(totals.starts_with(said), "{totals}");
}

#[test]
fn selection_ignores_case() {
    let table = printed("--runtime TOKIO --rule b4");
    let said = "1 rule in 2 columns: all 2 hold (";
    assert!(table.contains(said), "{table}");
}

#[test]
fn progress_has_a_line_for_each_check() {
    let (code, _, progress) = run("--runtime tokio --rule B4");
    assert_eq!(code, Some(0));
    let told: Vec<_> = progress
        .lines()
        .map(|line| {
            line.rsplit_once(" (")
                .expect("the line ends with the time")
                .0
        })
        .collect();
    assert_eq!(
        told,
        [
            "1 of 2  tokio, two threads: B4 holds",
            "2 of 2  tokio, one thread: B4 holds"
        ]
    );
}

#[test]
fn markdown_has_sums_and_rows() {
    assert_eq!(
        printed("--rule B4 --rule I2 --runtime tokio --format markdown"),
        "| section | tokio, two threads | tokio, one thread |
|---|---|---|
| B: callbacks of the acceptor | 1 of 1 | 1 of 1 |
| I: restart intensity | 1 of 1 | 1 of 1 |
| **all** | 2 of 2 | 2 of 2 |

<details><summary>Rule by rule</summary>

| rule | tokio, two threads | tokio, one thread |
|---|---|---|
| B4 | holds | holds |
| I2 | holds | holds |

</details>

2 rules in 2 columns: all 4 hold.
"
    );
}

#[test]
fn rule_book_has_every_rule() {
    let (text, markdown) = (printed("rules"), printed("rules --format markdown"));
    for rule in all() {
        let (id, level, sentence) = (rule.id, rule.level, rule.sentence);
        let line = format!("{id:4} {level:6}  {sentence}");
        assert!(text.lines().any(|found| found == line), "{line}");
        let anchor = id.to_lowercase();
        let line = format!("- <a id=\"{anchor}\"></a>**{id}** ({level}) {sentence}");
        assert!(markdown.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn rules_md_is_up_to_date() {
    let printed = printed("rules --format markdown");
    assert!(printed == include_str!("../../RULES.md"), "{RENEW}");
    let guide = include_str!("../../../acceptor-core/src/guide/rules.md");
    assert!(printed == guide, "{RENEW}");
}
