//! Scenarios that once showed a mistake: each is played again, as it was.

use std::fs;
use std::path::{Path, PathBuf};

use conformance_scenarios::{Scenario, play};

/// The files, in the order of their names.
fn regressions() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let entries = fs::read_dir(folder).expect("there is a folder of them");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    files
}

#[track_caller]
fn read(file: &Path) -> Scenario {
    let text = fs::read_to_string(file).expect("it can be read");
    let scenario = text.parse::<Scenario>();
    scenario.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn every_scenario_that_once_failed_holds() {
    let files = regressions();
    let mut broken = Vec::new();
    for file in &files {
        let scenario = read(file);
        match play(&scenario) {
            Ok(played) => assert_eq!(played.steps, scenario.steps.len() as u64),
            Err(failure) => broken.push(format!("{}: {failure}", file.display())),
        }
    }
    assert!(!files.is_empty());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_scenario_is_kept_as_it_is_printed() {
    for file in regressions() {
        let text = fs::read_to_string(&file).expect("it can be read");
        assert_eq!(read(&file).to_json(), text, "{}", file.display());
    }
}
