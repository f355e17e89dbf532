//! The matrix of rules and runtimes in CONFORMANCE.md.

use std::process::Command;

use conformance_tests::rules::all;

const RENEW: &str = "CONFORMANCE.md is out of date: run `.ci/renew`";

/// Returns the matrix of one rule, as the program prints it.
fn printed() -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_conformance-cli"));
    let output = program
        .args(["--rule", "B4", "--format", "markdown"])
        .output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

#[test]
fn matrix_has_every_rule_and_every_runtime() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../CONFORMANCE.md");
    let page = std::fs::read_to_string(page).expect("the page is in the repository");
    let begin = page.split_once("<!-- matrix: begin -->\n");
    let (_, rest) = begin.expect("the page has the begin marker");
    let (matrix, _) = rest
        .split_once("<!-- matrix: end -->")
        .expect("the page has the end marker");
    assert!(!matrix.contains("BROKEN"), "{matrix}");
    let now = printed();
    let heads = |text: &str| {
        let heads = text.lines().filter(|line| line.starts_with("| rule |"));
        heads.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(heads(matrix), heads(&now), "{RENEW}");
    let rows: Vec<_> = matrix
        .lines()
        .filter(|line| line.ends_with(" holds |") || line.ends_with(" unmet |"))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    let rules = all();
    let ids: Vec<_> = rules.iter().map(|rule| rule.id).collect();
    assert_eq!(rows, ids, "{RENEW}");
}
