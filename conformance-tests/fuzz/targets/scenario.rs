//! A scenario of a pool is made of steps that other scenarios have, in any order, and is checked against the model.
#![no_main]

use conformance_scenarios::{STEPS, Scenario, run};
use libfuzzer_sys::fuzz_target;

/// How many different scenarios the steps are taken from.
const SOURCES: u64 = 1 << 16;

fuzz_target!(|input: (u16, Vec<(u16, u8)>)| {
    let (seed, picks) = input;
    let mut scenario = Scenario::of_seed(u64::from(seed), STEPS);
    scenario.steps.truncate(picks.len());
    for (step, (source, number)) in scenario.steps.iter_mut().zip(picks) {
        let other = Scenario::of_seed(u64::from(source) % SOURCES, STEPS);
        *step = other.steps[usize::from(number) % other.steps.len()].clone();
    }
    if let Err(failure) = run(&scenario) {
        panic!("{failure:?}\n{}", scenario.to_json());
    }
});
