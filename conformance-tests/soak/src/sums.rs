//! Sums that must add up: those that do not are collected.

use std::fmt::{Debug, Display};

use conformance_tests::{Broken, same};

/// Collects the sums that do not add up.
#[derive(Debug, Default)]
pub(super) struct Sums {
    wrong: Vec<Broken>,
}

impl Sums {
    pub(super) fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: T, seen: T) {
        self.wrong.extend(same(what, expected, seen).err());
    }

    /// A number of reports, of which so many may have been dropped.
    pub(super) fn reported(&mut self, what: &str, expected: u64, dropped: u64, seen: u64) {
        if dropped == 0 {
            self.same(what, expected, seen);
        } else {
            self.between(what, expected.saturating_sub(dropped), expected, seen);
        }
    }

    pub(super) fn between(&mut self, what: &str, least: u64, most: u64, seen: u64) {
        let right = (least..=most).contains(&seen);
        self.check(what, right, format_args!("{least} to {most}"), seen);
    }

    pub(super) fn at_least(&mut self, what: &str, least: u64, seen: u64) {
        let right = seen >= least;
        self.check(what, right, format_args!("at least {least}"), seen);
    }

    fn check(&mut self, what: &str, right: bool, expected: impl Display, seen: u64) {
        if !right {
            let (expected, seen) = (format!("{what}: {expected}"), format!("{what}: {seen}"));
            self.wrong.push(Broken::new(expected, seen));
        }
    }

    pub(super) fn wrong(self) -> Vec<Broken> {
        self.wrong
    }
}
