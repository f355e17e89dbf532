//! Restart intensity: too many counted failures within a period stop the pool (I1, I2).
//!
//! Pure: time is an argument. Invariants: the failures that are kept are in
//! order of time, and no more than one period old when looked at.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The history of counted failures.
#[derive(Debug, Default)]
pub(crate) struct Intensity {
    failures: VecDeque<Instant>,
}

/// What a counted failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Tolerable,
    Exceeded,
}

impl Intensity {
    /// Counts a failure. Exceeded if more than `intensity` failures lie within `period`, both ends included.
    pub(crate) fn record(&mut self, now: Instant, intensity: u32, period: Duration) -> Verdict {
        // Whoever brings an event read the clock before it got the lock, so times may come a little out of order.
        let now = self.failures.back().map_or(now, |last| now.max(*last));
        self.failures.push_back(now);
        self.forget(now, period);
        if self.failures.len() > intensity as usize {
            // More than enough to stop: older ones could never matter again.
            let keep = (intensity as usize).saturating_add(1);
            while self.failures.len() > keep {
                self.failures.pop_front();
            }
            Verdict::Exceeded
        } else {
            Verdict::Tolerable
        }
    }

    /// How many failures lie within `period` before `now`.
    pub(crate) fn within(&self, now: Instant, period: Duration) -> usize {
        let recent = |at: &&Instant| now.saturating_duration_since(**at) <= period;
        self.failures.iter().filter(recent).count()
    }

    fn forget(&mut self, now: Instant, period: Duration) {
        let old = |at: &Instant| now.saturating_duration_since(*at) > period;
        while self.failures.front().is_some_and(old) {
            self.failures.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[track_caller]
    fn check(intensity: u32, period: Duration, failures_ms: &[u64], expected: &[Verdict]) {
        let start = Instant::now();
        let mut history = Intensity::default();
        let verdicts: Vec<_> = failures_ms
            .iter()
            .map(|ms| history.record(start + Duration::from_millis(*ms), intensity, period))
            .collect();
        assert_eq!(verdicts, expected);
    }

    use Verdict::{Exceeded, Tolerable};

    #[test]
    fn intensity_zero_tolerates_nothing() {
        check(0, SECOND, &[0], &[Exceeded]);
    }

    #[test]
    fn intensity_one_tolerates_one_in_a_period() {
        check(1, SECOND, &[0, 500], &[Tolerable, Exceeded]);
        check(1, SECOND, &[0, 1001], &[Tolerable, Tolerable]);
    }

    #[test]
    fn both_ends_of_the_period_are_included() {
        check(1, SECOND, &[0, 1000], &[Tolerable, Exceeded]);
        check(
            2,
            SECOND,
            &[0, 500, 1000],
            &[Tolerable, Tolerable, Exceeded],
        );
    }

    #[test]
    fn a_period_of_any_length_is_exact() {
        let nanosecond = Duration::from_nanos(1);
        check(1, nanosecond, &[0, 1], &[Tolerable, Tolerable]);
        check(1, nanosecond, &[0, 0], &[Tolerable, Exceeded]);
        check(
            1,
            Duration::MAX,
            &[0, u32::MAX.into()],
            &[Tolerable, Exceeded],
        );
    }

    #[test]
    fn a_clock_that_is_read_out_of_order_does_no_harm() {
        check(
            1,
            SECOND,
            &[700, 600, 1800],
            &[Tolerable, Exceeded, Tolerable],
        );
    }

    proptest! {
        /// Against a count over all timestamps that there ever were.
        #[test]
        fn it_is_a_count_over_the_last_period(
            intensity in 0..5_u32,
            period in 1..50_u64,
            gaps in proptest::collection::vec(0..30_u64, 0..60),
        ) {
            let start = Instant::now();
            let mut history = Intensity::default();
            let mut all: Vec<u64> = Vec::new();
            let mut at = 0;
            for gap in gaps {
                at += gap;
                all.push(at);
                let brute = all.iter().filter(|t| at - **t <= period).count();
                let expected = if brute > intensity as usize { Exceeded } else { Tolerable };
                let now = start + Duration::from_millis(at);
                let period = Duration::from_millis(period);
                prop_assert_eq!(history.record(now, intensity, period), expected);
                prop_assert_eq!(history.within(now, period), brute.min(intensity as usize + 1));
            }
        }
    }
}
