//! Recovery of a listener from accept errors: its pauses, how often they are reported, and
//! persistent errors.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::accept_error::AcceptErrorKind;

/// The length of a run of connection errors from which on each one is treated as a resource error
/// (A5).
const IN_A_ROW: u32 = 100;

/// The queue counts as empty once `accept` has been pending for this long. A shorter wait may be a
/// mere yield before the next failure. A closing listener waits this long before it treats the
/// queue as drained (L7).
const EMPTY: Duration = Duration::from_millis(1);

/// The minimum time between two reports of a pause.
const REPORT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct AcceptBackoff {
    backoff: Backoff,
    reported: Option<Instant>,
    suppressed: u64,
    /// Connection errors since the last connection or the last empty queue.
    errors: u32,
    /// When `accept` became pending, if connection errors preceded it.
    pending: Option<Instant>,
}

/// A pause of accepting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) length: Duration,
    /// The number of pauses suppressed before this one; `None` if this one is suppressed too.
    pub(crate) report: Option<u64>,
}

impl AcceptBackoff {
    pub(crate) fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(5)),
            reported: None,
            suppressed: 0,
            errors: 0,
            pending: None,
        }
    }

    /// Records an accepted connection.
    pub(crate) fn success(&mut self) {
        self.backoff.reset();
        self.errors = 0;
        self.pending = None;
    }

    /// Records that `accept` is pending. Reads the clock only after an error.
    pub(crate) fn pending(&mut self, now: impl FnOnce() -> Instant) {
        if self.errors > 0 && self.pending.is_none() {
            self.pending = Some(now());
        }
    }

    /// Returns how to treat an error that is of this kind by itself, given the errors before it.
    pub(crate) fn classify(
        &mut self,
        kind: AcceptErrorKind,
        now: impl FnOnce() -> Instant,
    ) -> AcceptErrorKind {
        if let Some(since) = self.pending.take() {
            if now().saturating_duration_since(since) >= EMPTY {
                self.errors = 0;
            }
        }
        if kind != AcceptErrorKind::Connection {
            return kind;
        }
        self.errors = self.errors.saturating_add(1);
        if self.errors < IN_A_ROW {
            AcceptErrorKind::Connection
        } else {
            AcceptErrorKind::Resources
        }
    }

    pub(crate) fn pause(&mut self, now: Instant) -> Pause {
        let length = self.backoff.pause();
        let recently = |at: Instant| now.saturating_duration_since(at) < REPORT_EVERY;
        let report = if self.reported.is_some_and(recently) {
            self.suppressed += 1;
            None
        } else {
            self.reported = Some(now);
            Some(std::mem::take(&mut self.suppressed))
        };
        Pause { length, report }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_from_5_ms_to_1_s() {
        let (mut backoff, now) = (AcceptBackoff::new(), Instant::now());
        let lengths = |backoff: &mut AcceptBackoff, count: usize| -> Vec<u128> {
            let next = |_| backoff.pause(now).length.as_millis();
            (0..count).map(next).collect()
        };
        let doubling = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000];
        assert_eq!(lengths(&mut backoff, 10), doubling);
        backoff.success();
        assert_eq!(lengths(&mut backoff, 3), doubling[..3]);
    }

    /// Checks whether each pause is reported, and with how many suppressed ones.
    #[track_caller]
    fn check_reports(at_ms: &[u64], expected: &[Option<u64>]) {
        let (mut backoff, start) = (AcceptBackoff::new(), Instant::now());
        let report = |ms: &u64| backoff.pause(start + Duration::from_millis(*ms)).report;
        let reports: Vec<_> = at_ms.iter().map(report).collect();
        assert_eq!(reports, expected);
    }

    #[test]
    fn pauses_are_reported_at_most_once_a_second() {
        check_reports(&[0], &[Some(0)]);
        check_reports(&[0, 999], &[Some(0), None]);
        check_reports(&[0, 1000], &[Some(0), Some(0)]);
        check_reports(
            &[0, 1, 2, 999, 1000, 1500, 1999, 2000],
            &[Some(0), None, None, None, Some(3), None, None, Some(2)],
        );
        check_reports(&[0, 1, 60_000], &[Some(0), None, Some(1)]);
    }

    #[test]
    fn success_keeps_the_report_limit() {
        let (mut backoff, now) = (AcceptBackoff::new(), Instant::now());
        assert_eq!(backoff.pause(now).report, Some(0));
        backoff.success();
        assert_eq!(backoff.pause(now + SECOND / 2).report, None);
    }

    /// The 100th error from here is the first resource error, and so are all later ones.
    #[track_caller]
    fn check_row(between: impl Fn(&mut AcceptBackoff, Instant) -> Instant) {
        use AcceptErrorKind::{Connection, Listener, Resources};
        let (mut backoff, mut now) = (AcceptBackoff::new(), Instant::now());
        for _ in 0..3 {
            for _ in 1..100 {
                assert_eq!(backoff.classify(Connection, || now), Connection);
            }
            for _ in 0..3 {
                assert_eq!(backoff.classify(Connection, || now), Resources);
            }
            assert_eq!(backoff.classify(Listener, || now), Listener);
            now = between(&mut backoff, now);
        }
    }

    #[test]
    fn hundredth_connection_error_pauses() {
        check_row(|backoff, now| {
            backoff.success();
            now
        });
        check_row(|backoff, now| {
            backoff.pending(|| now);
            // Polled once more while `accept` is pending.
            backoff.pending(|| now + SECOND);
            now + EMPTY
        });
    }

    #[test]
    fn yield_keeps_the_error_count() {
        use AcceptErrorKind::{Connection, Resources};
        let (mut backoff, mut now) = (AcceptBackoff::new(), Instant::now());
        let mut skipped = 0;
        while backoff.classify(Connection, || now) == Connection {
            skipped += 1;
            backoff.pending(|| now);
            now += EMPTY - Duration::from_nanos(1);
        }
        assert_eq!(skipped, 99);
        // Whatever the error that ended the wait.
        backoff.pending(|| now);
        assert_eq!(backoff.classify(Resources, || now + EMPTY), Resources);
        assert_eq!(backoff.classify(Connection, || now + EMPTY), Connection);
    }

    #[test]
    fn clock_is_read_only_after_an_error() {
        let mut backoff = AcceptBackoff::new();
        let never = || -> Instant { unreachable!("reading the clock has a cost") };
        backoff.pending(never);
        let kind = backoff.classify(AcceptErrorKind::Connection, never);
        assert_eq!(kind, AcceptErrorKind::Connection);
        backoff.success();
        backoff.pending(never);
    }
}
