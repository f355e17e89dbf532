//! The resident memory over time: at the end it is that of the beginning.

use std::fmt;
use std::time::Duration;

use conformance_tests::Broken;

/// The resident memory over time.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// When it was how many KiB.
    samples: Vec<(Duration, u64)>,
}

/// What it comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Grown {
    /// The system does not tell.
    Unknown,
    /// It was looked at for too short a time for this to mean anything.
    TooShort { most: u64 },
    /// The most that was seen in the beginning, and in the end.
    FromTo { first: u64, last: u64 },
}

/// By how much the most of the end may exceed the most of the beginning, in KiB.
///
/// The peaks of the two come from different moments of different pools, and
/// allocators keep more or less of what is given back to them: that is a
/// megabyte here and there. What leaks with each connection is far more, for
/// there are hundreds of thousands of them.
pub(super) const ALLOWED: u64 = 4 * 1024;

/// Shorter than this is too short: pools of each sort have their turn in it, not more.
const SHORTEST: Duration = Duration::from_secs(30);

/// How long the beginning is; but a tenth of what is shorter than two of these.
const BEGINNING: Duration = Duration::from_secs(60);

impl Memory {
    pub(super) fn note(&mut self, at: Duration, resident: u64) {
        self.samples.push((at, resident));
    }

    /// What it comes to after so long.
    pub(super) fn grown(&self, took: Duration) -> Grown {
        let most = |from: Duration, to: Duration| {
            let within = self
                .samples
                .iter()
                .filter(|(at, _)| (from..=to).contains(at));
            within.map(|(_, resident)| *resident).max()
        };
        let Some(of_all) = most(Duration::ZERO, Duration::MAX) else {
            return Grown::Unknown;
        };
        let beginning = if took >= BEGINNING * 2 {
            BEGINNING
        } else {
            took / 10
        };
        let first = most(Duration::ZERO, beginning);
        let last = most(took - took / 10, Duration::MAX);
        match (first, last) {
            (Some(first), Some(last)) if took >= SHORTEST => Grown::FromTo { first, last },
            _ => Grown::TooShort { most: of_all },
        }
    }
}

impl Grown {
    /// More than is allowed.
    pub(super) fn too_much(&self) -> Option<Broken> {
        match *self {
            Grown::FromTo { first, last } if last > first + ALLOWED => Some(Broken::new(
                format!(
                    "resident memory of the end: at most {}",
                    Kib(first + ALLOWED)
                ),
                format!("{}", Kib(last)),
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Grown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Grown::Unknown => f.write_str(super::process::ONLY_LINUX),
            Grown::TooShort { most } => {
                let seconds = SHORTEST.as_secs();
                write!(f, "{} at most; judged from {seconds} s on", Kib(most))
            }
            Grown::FromTo { first, last } => write!(
                f,
                "{} at most in the beginning, {} in the end; {} more are allowed",
                Kib(first),
                Kib(last),
                Kib(ALLOWED)
            ),
        }
    }
}

/// So many KiB, for people.
pub(super) struct Kib(pub(super) u64);

impl fmt::Display for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kib) = self;
        write!(f, "{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample a second, of a run that takes so long.
    fn run(seconds: u64, resident: impl Fn(u64) -> u64) -> Grown {
        let mut memory = Memory::default();
        for second in 0..=seconds {
            memory.note(Duration::from_secs(second), resident(second));
        }
        memory.grown(Duration::from_secs(seconds))
    }

    #[track_caller]
    fn check(grown: &Grown, expected: Grown, too_much: Option<&str>) {
        assert_eq!(*grown, expected);
        let told = grown.too_much().map(|broken| broken.to_string());
        match too_much {
            None => assert_eq!(told, None),
            Some(words) => assert!(
                told.as_ref().is_some_and(|told| told.contains(words)),
                "{told:?}"
            ),
        }
    }

    #[test]
    fn peaks_of_the_first_minute_and_of_the_last_tenth_are_compared() {
        let peaks = |second| match second {
            60 => 9_000,
            61..540 => 90_000,
            599 => 13_000,
            _ => 8_000,
        };
        let grown = run(600, peaks);
        check(
            &grown,
            Grown::FromTo {
                first: 9_000,
                last: 13_000,
            },
            None,
        );
    }

    #[test]
    fn a_short_run_has_a_tenth_for_its_beginning() {
        let grown = run(40, |second| 8_000 + second);
        check(
            &grown,
            Grown::FromTo {
                first: 8_004,
                last: 8_040,
            },
            None,
        );
    }

    #[test]
    fn what_leaks_with_time_is_told() {
        let grown = run(600, |second| 8_192 + 10 * second);
        let expected = Grown::FromTo {
            first: 8_792,
            last: 14_192,
        };
        check(
            &grown,
            expected,
            Some("at most 12.5 MiB\nseen:     13.8 MiB"),
        );
    }

    #[test]
    fn a_run_of_moments_is_not_judged() {
        let grown = run(29, |second| 1_000 * (second + 1));
        check(&grown, Grown::TooShort { most: 30_000 }, None);
        check(&Memory::default().grown(BEGINNING), Grown::Unknown, None);
    }
}
