//! The whole suite in the simulated world.

use std::sync::Arc;

use conformance_cli::worlds::simulated::Simulated;
use conformance_tests::Boxed;
use conformance_tests::rules::all;

conformance_tests::suite!(Simulated::new(1));

#[test]
fn every_rule_holds_with_any_seed() {
    let mut broken = Vec::new();
    for seed in 2..10 {
        for rule in all() {
            if let Err(what) = rule.check(&Arc::new(Boxed::new(Simulated::new(seed)))) {
                broken.push(format!("seed {seed}: {}", rule.failure(&what)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}
