//! A scenario that can be read from a file is written and read again without a difference.
#![no_main]

use conformance_scenarios::Scenario;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(scenario) = text.parse::<Scenario>() {
        let again = scenario.to_json().parse::<Scenario>();
        assert_eq!(again.ok(), Some(scenario));
    }
});
