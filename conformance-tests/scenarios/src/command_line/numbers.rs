//! Numbers in the arguments: an error says what is allowed.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use conformance_console::grouped;

/// Any seed.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    within(text, 0..=u64::MAX)
}

/// How many seeds: one that plays none finds nothing.
pub(super) fn seeds(text: &str) -> Result<u64, String> {
    within(text, 1..=u64::MAX)
}

/// How many steps: of more than these one could neither keep what is seen nor read it.
pub(super) fn steps(text: &str) -> Result<usize, String> {
    within(text, 1..=100_000)
}

/// How many threads.
pub(super) fn jobs(text: &str) -> Result<usize, String> {
    within(text, 1..=1_000)
}

fn within<T: FromStr + PartialOrd + Copy + Display>(
    text: &str,
    allowed: RangeInclusive<T>,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| allowed.contains(number));
    number.ok_or_else(|| {
        let [least, most] = [allowed.start(), allowed.end()].map(grouped);
        format!("give a whole number from {least} to {most}")
    })
}
