//! Scenarios that once found a fault: each is run again, unchanged.

use std::fs;
use std::path::Path;

use conformance_scenarios::{Scenario, run};

#[test]
fn regressions_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let files = fs::read_dir(folder).expect("the folder can be read");
    let mut count = 0;
    for file in files {
        let file = file.expect("the folder can be read").path();
        let text = fs::read_to_string(&file).expect("the file can be read");
        let scenario: Scenario = text
            .parse()
            .unwrap_or_else(|error| panic!("{file:?}: {error}"));
        assert_eq!(scenario.to_json(), text, "{file:?}");
        let summary = run(&scenario).unwrap_or_else(|failure| panic!("{file:?}: {failure}"));
        assert_eq!(summary.steps, scenario.steps.len() as u64, "{file:?}");
        count += 1;
    }
    assert!(count > 0);
}
