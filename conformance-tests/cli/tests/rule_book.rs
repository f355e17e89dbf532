//! The list of rules: ids in order, names by which tests can be filtered, complete failures.

use std::sync::Arc;

use conformance_cli::worlds::tokio::Tokio;
use conformance_tests::rules::{Level, all};
use conformance_tests::{Boxed, Broken, Real};

#[test]
fn names_begin_with_the_rules_id() {
    let rules = all();
    assert!(!rules.is_empty());
    for rule in rules {
        let id = format!("{}_", rule.id.to_lowercase());
        assert!(
            rule.name.starts_with(&id),
            "{} is named {}",
            rule.id,
            rule.name
        );
        assert!(rule.sentence.ends_with('.'), "{} is no sentence", rule.id);
    }
}

#[test]
fn ids_are_unique_and_in_order() {
    const SECTIONS: &str = "BEILCNSQRAVOHTK";
    let place = |id: &str| {
        let (letter, number) = id.split_at(1);
        let section = SECTIONS.find(letter).expect("each letter has a section");
        (
            section,
            number
                .parse::<u32>()
                .expect("the letter is followed by a number"),
        )
    };
    let places: Vec<_> = all().iter().map(|rule| place(rule.id)).collect();
    assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");
}

#[test]
fn failure_has_all_its_parts() {
    let rules = all();
    let rule = rules.first().expect("the list is not empty");
    let broken = Broken::new("the moon", "the sun").check("is it night?");
    let lines = rule.failure(&broken);
    let level = Level::Must;
    let expected = format!(
        "{} ({level}) does not hold.\nrule:     {}\nexpected: the moon\nseen:     the sun\ncheck:    is it night?",
        rule.id, rule.sentence
    );
    assert_eq!(lines, expected);
}

#[test]
fn met_rule_has_no_failure() {
    let world = Arc::new(Boxed::new(Real::new(Tokio::current_thread())));
    let rules = all();
    let rule = rules
        .iter()
        .find(|rule| rule.id == "B4")
        .expect("B4 is a rule");
    assert_eq!(rule.check(&world), Ok(()));
}
