//! The list of rules is sound: ids in order, names that tests can be filtered by, failures that say what broke.

use std::sync::Arc;

use conformance_cli::worlds::tokio::Tokio;
use conformance_tests::rules::{Level, all};
use conformance_tests::{Boxed, Broken, Real};

#[test]
fn each_rule_has_a_name_that_begins_with_its_id_and_a_sentence() {
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
fn ids_are_there_once_and_in_the_order_of_the_contract() {
    const SECTIONS: &str = "BEILNSQRAVOHTK";
    let place = |id: &str| {
        let (letter, number) = id.split_at(1);
        let section = SECTIONS.find(letter).expect("the letter is a section's");
        (section, number.parse::<u32>().expect("a number follows"))
    };
    let places: Vec<_> = all().iter().map(|rule| place(rule.id)).collect();
    assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");
}

#[test]
fn a_failure_tells_the_rule_its_sentence_what_was_expected_what_was_seen_and_what_to_check() {
    let rules = all();
    let rule = rules.first().expect("there are rules");
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
fn a_rule_that_holds_tells_nothing() {
    let world = Arc::new(Boxed::new(Real::new(Tokio::current_thread())));
    let rules = all();
    let rule = rules
        .iter()
        .find(|rule| rule.id == "B4")
        .expect("B4 is a rule");
    assert_eq!(rule.check(&world), Ok(()));
}
