//! Exponential backoff: between unproductive starts (B3, B6) and after resource errors (A2).

use std::time::Duration;

/// A pause that doubles up to [`LONGEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    next: Duration,
}

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(1);

impl Backoff {
    pub(crate) const fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    /// Returns the pause to make now. The next one is twice as long.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(LONGEST);
        pause
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Spaces the starts of acceptors that end without having waited: the first restart is immediate,
/// the second comes after 1 ms. Every row of a table holds one, so it is only a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StartBackoff(u8);

impl StartBackoff {
    /// Returns the delay before the next start.
    pub(crate) fn delay(&mut self) -> Duration {
        let starts = self.0;
        self.0 = starts.saturating_add(1);
        match starts {
            0 => Duration::ZERO,
            1..=10 => Duration::from_millis(1 << (starts - 1)),
            _ => LONGEST,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_1_s_and_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(5));
        let pauses: Vec<_> = (0..10).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.pause(), Duration::from_millis(5));
    }

    #[test]
    fn first_start_is_immediate() {
        let mut spacing = StartBackoff::default();
        let delays: Vec<_> = (0..13).map(|_| spacing.delay().as_millis()).collect();
        assert_eq!(
            delays,
            [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]
        );
    }

    /// Every sequence of this many more pauses and successes, against the n-th power of two.
    fn play_all(before: Backoff, first: u32, pauses: u32, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        let mut backoff = before;
        let expected = match pauses {
            0 => Duration::from_millis(first.into()),
            _ => Duration::from_millis((first * 2_u32.pow(pauses)).min(1000).into()),
        };
        assert_eq!(backoff.pause(), expected, "{first} ms, pause {pauses}");
        play_all(backoff, first, pauses + 1, depth);
        let mut backoff = before;
        backoff.reset();
        play_all(backoff, first, 0, depth);
    }

    #[test]
    fn every_sequence_doubles_from_last_success() {
        for first in [1, 5, 999, 1000, 1001] {
            play_all(
                Backoff::new(Duration::from_millis(first.into())),
                first,
                0,
                14,
            );
        }
    }
}
