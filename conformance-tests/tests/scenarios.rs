//! Lives of a pool by chance go as the model says.

use conformance_tests::scenario::{STEPS, Scenario, play, tell};

#[test]
fn lives_go_as_the_model_says() {
    let first: u64 = std::env::var("FIRST").map_or(1, |first| first.parse().unwrap());
    let count: u64 = std::env::var("COUNT").map_or(200, |first| first.parse().unwrap());
    let mut failures = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for seed in first..first + count {
        let scenario = Scenario::of_seed(seed, STEPS);
        if let Err(failure) = play(&scenario) {
            let words: String = failure
                .expected
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .collect();
            let _ = &words;
            let key = format!("{} {}", failure.rule, words);
            let entry = failures.entry(key).or_insert((0, seed));
            entry.0 += 1;
            if std::env::var("TELL").is_ok() {
                let (moments, _) = tell(&scenario);
                for moment in moments.iter().rev().take(6000).rev() {
                    println!("{moment}");
                }
                panic!("seed {seed}: {failure}");
            }
        }
    }
    for (what, (count, seed)) in &failures {
        println!("{count:5} {seed:5} {what}");
    }
    assert!(failures.is_empty());
}
