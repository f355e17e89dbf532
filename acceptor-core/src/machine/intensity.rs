//! Restart intensity: too many counted failures within a period stop the pool (I1, I2).
//!
//! Pure: time is an argument. Invariants: the failures kept are in order of time, and at most one
//! period old when read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The history of counted failures.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Intensity {
    failures: VecDeque<Instant>,
}

/// The consequence of a counted failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Tolerable,
    Exceeded,
}

impl Intensity {
    /// Counts a failure. Exceeded if more than `intensity` failures lie within `period`, both ends included.
    pub(crate) fn record(&mut self, now: Instant, intensity: u32, period: Duration) -> Verdict {
        // The clock is read before the lock is taken, so times may come a little out of order.
        let now = self.failures.back().map_or(now, |last| now.max(*last));
        self.failures.push_back(now);
        self.forget(now, period);
        if self.failures.len() > intensity as usize {
            // Enough to stop the pool: older failures can no longer matter.
            let keep = (intensity as usize).saturating_add(1);
            while self.failures.len() > keep {
                self.failures.pop_front();
            }
            Verdict::Exceeded
        } else {
            Verdict::Tolerable
        }
    }

    /// Returns the number of failures within `period` before `now`.
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
#[cfg(not(loom))]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

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
    fn zero_intensity_tolerates_nothing() {
        check(0, SECOND, &[0], &[Exceeded]);
    }

    #[test]
    fn intensity_one_tolerates_one_failure() {
        check(1, SECOND, &[0, 500], &[Tolerable, Exceeded]);
        check(1, SECOND, &[0, 1001], &[Tolerable, Tolerable]);
    }

    #[test]
    fn period_includes_both_ends() {
        check(1, SECOND, &[0, 1000], &[Tolerable, Exceeded]);
        check(
            2,
            SECOND,
            &[0, 500, 1000],
            &[Tolerable, Tolerable, Exceeded],
        );
    }

    #[test]
    fn any_period_is_exact() {
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
    fn out_of_order_times_are_harmless() {
        check(
            1,
            SECOND,
            &[700, 600, 1800],
            &[Tolerable, Exceeded, Tolerable],
        );
    }

    /// By how much a failure is later than the previous one, with a period of 10 ms; in the first case its clock was
    /// read before that of the previous one.
    const GAPS_MS: [i64; 6] = [-1, 0, 1, 9, 10, 11];

    /// Every sequence of this many more failures, against a count over all timestamps.
    fn play_all(before: &Intensity, times: &mut Vec<i64>, intensity: u32, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        let (period, start) = (10, *START);
        let at = |ms: i64| start + Duration::from_millis(ms.unsigned_abs());
        for gap in GAPS_MS {
            let mut history = before.clone();
            let clock = times.last().unwrap_or(&100) + gap;
            let verdict = history.record(at(clock), intensity, at(period) - start);
            let now = times.last().map_or(clock, |last| clock.max(*last));
            times.push(now);
            let count = |now: i64| times.iter().filter(|t| now - **t <= period).count();
            let exceeded = count(now) > intensity as usize;
            assert_eq!(verdict == Exceeded, exceeded, "{times:?}, {intensity}");
            for later in GAPS_MS.map(|gap| now + gap.max(0)) {
                let seen = history.within(at(later), at(period) - start);
                let enough = intensity as usize + 1;
                assert_eq!(seen, count(later).min(enough), "{times:?} at {later}");
            }
            play_all(&history, times, intensity, depth);
            times.pop();
        }
    }

    /// Six failures deep.
    #[test]
    fn every_sequence_counts_the_last_period() {
        for intensity in 0..=3 {
            play_all(&Intensity::default(), &mut Vec::new(), intensity, 6);
        }
    }

    proptest! {
        /// Against a count over all timestamps.
        #[test]
        fn intensity_counts_the_last_period(
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
