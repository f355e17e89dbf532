//! The rate limit for `tracing` events of failures: ten a second for each kind and listener (O3).
//!
//! Pure: time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::id::ListenerId;
use crate::report::EventKind;

const PER_SECOND: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// The number of entries above which stale ones are pruned.
const MANY: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    recent: HashMap<(ListenerId, EventKind), Recent>,
    /// The number of entries at which to prune next.
    prune_at: usize,
}

#[derive(Debug, Default)]
struct Recent {
    /// The times of the last ten events.
    emitted: VecDeque<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// Returns whether to emit an event, and if so how many of its kind were suppressed before it.
    pub(crate) fn admit(
        &mut self,
        listener: ListenerId,
        kind: EventKind,
        now: Instant,
    ) -> Option<u64> {
        let recent = self.recent.entry((listener, kind)).or_default();
        if recent.emitted.len() == PER_SECOND {
            let oldest = recent.emitted.front().copied().unwrap_or(now);
            if now.saturating_duration_since(oldest) < SECOND {
                recent.suppressed += 1;
                return None;
            }
            recent.emitted.pop_front();
        }
        recent.emitted.push_back(now);
        Some(std::mem::take(&mut recent.suppressed))
    }

    /// Takes back an admission: the event was not emitted, and neither were the suppressed ones
    /// that it would have counted.
    pub(crate) fn give_back(&mut self, listener: ListenerId, kind: EventKind, suppressed: u64) {
        let recent = self.recent.entry((listener, kind)).or_default();
        recent.suppressed = recent
            .suppressed
            .saturating_add(suppressed)
            .saturating_add(1);
    }

    /// Returns the kinds of which events were suppressed since the last one emitted.
    pub(crate) fn suppressed(&self) -> impl Iterator<Item = (ListenerId, EventKind, u64)> {
        let all = self.recent.iter();
        let some = all.filter(|(_, recent)| recent.suppressed > 0);
        some.map(|((listener, kind), recent)| (*listener, *kind, recent.suppressed))
    }

    /// Prunes old entries once there are many. Returns those with events suppressed since: their
    /// listener may be gone, so no later event would report them.
    pub(crate) fn forget_old(&mut self, now: Instant) -> Vec<(ListenerId, EventKind, u64)> {
        let mut suppressed = Vec::new();
        if self.recent.len() < self.prune_at.max(MANY) {
            return suppressed;
        }
        let old =
            |at: Option<&Instant>| at.is_none_or(|at| now.saturating_duration_since(*at) >= SECOND);
        self.recent.retain(|(listener, kind), recent| {
            let keeps = !old(recent.emitted.back());
            if !keeps && recent.suppressed > 0 {
                suppressed.push((*listener, *kind, recent.suppressed));
            }
            keeps
        });
        self.prune_at = self.recent.len() * 2;
        suppressed
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::PoolId;

    const FAILED: EventKind = EventKind::ConnectionFailed;

    fn listener(sequence: u64) -> ListenerId {
        let pool = PoolId::ANY;
        ListenerId { sequence, pool }
    }

    #[test]
    fn ten_events_a_second_pass() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let ms = |ms| start + Duration::from_millis(ms);
        for at in 0..10 {
            assert_eq!(limit.admit(listener(1), FAILED, ms(at * 10)), Some(0));
        }
        for at in [95, 500, 999] {
            assert_eq!(limit.admit(listener(1), FAILED, ms(at)), None);
        }
        let suppressed: Vec<_> = limit.suppressed().collect();
        assert_eq!(suppressed, [(listener(1), FAILED, 3)]);
        // The first of the ten was a second ago, the second was not.
        assert_eq!(limit.admit(listener(1), FAILED, ms(1000)), Some(3));
        assert_eq!(limit.admit(listener(1), FAILED, ms(1009)), None);
        assert_eq!(limit.admit(listener(1), FAILED, ms(1010)), Some(1));
    }

    #[test]
    fn returned_event_is_suppressed() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        for _ in 0..13 {
            limit.admit(listener(1), FAILED, start);
        }
        let later = start + SECOND;
        assert_eq!(limit.admit(listener(1), FAILED, later), Some(3));
        limit.give_back(listener(1), FAILED, 3);
        assert_eq!(limit.admit(listener(1), FAILED, later), Some(4));
        // Also of an evicted entry.
        limit.give_back(listener(2), FAILED, 0);
        assert_eq!(limit.admit(listener(2), FAILED, later), Some(1));
    }

    #[test]
    fn limits_are_per_kind_and_listener() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        for _ in 0..10 {
            limit.admit(listener(1), FAILED, now);
        }
        assert_eq!(limit.admit(listener(1), FAILED, now), None);
        assert_eq!(limit.admit(listener(2), FAILED, now), Some(0));
        let other = EventKind::StartError;
        assert_eq!(limit.admit(listener(1), other, now), Some(0));
    }

    proptest! {
        /// Against a list of all emitted events.
        #[test]
        fn limit_counts_the_last_second(
            events in proptest::collection::vec((0..300_u64, 0..2_u64), 0..200),
        ) {
            let (mut limit, start) = (RateLimit::default(), Instant::now());
            let (mut emitted, mut suppressed, mut now) = ([vec![], vec![]], [0, 0], 0);
            for (gap, on) in events {
                now += gap;
                let at = start + Duration::from_millis(now);
                let of = on as usize;
                let recent = emitted[of].iter().filter(|at| now - **at < 1000).count();
                let expected = (recent < 10).then(|| std::mem::take(&mut suppressed[of]));
                prop_assert_eq!(limit.admit(listener(on), FAILED, at), expected);
                match expected {
                    Some(_) => emitted[of].push(now),
                    None => suppressed[of] += 1,
                }
                let mut left: Vec<_> = limit.suppressed().collect();
                left.sort_unstable();
                let some = (0..2_u64).filter(|on| suppressed[*on as usize] > 0);
                let expected: Vec<_> = some.map(|on| (listener(on), FAILED, suppressed[on as usize])).collect();
                prop_assert_eq!(left, expected);
            }
        }
    }

    #[test]
    fn suppressed_count_outlives_eviction() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let (mut suppressed, mut most) = (0, 0);
        for number in 0..10_000 {
            let now = start + Duration::from_millis(number * 10);
            let forgotten = limit.forget_old(now);
            suppressed += forgotten.iter().map(|(_, _, count)| count).sum::<u64>();
            for _ in 0..12 {
                limit.admit(listener(number), FAILED, now);
            }
            most = most.max(limit.recent.len());
        }
        suppressed += limit.suppressed().map(|(_, _, count)| count).sum::<u64>();
        assert_eq!(suppressed, 2 * 10_000);
        assert!(most <= 4 * MANY, "{most}");
    }

    #[test]
    fn recent_events_are_not_evicted() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        for number in 0..MANY as u64 {
            for _ in 0..12 {
                limit.admit(listener(number), FAILED, start);
            }
        }
        let late = start + SECOND - Duration::from_nanos(1);
        assert_eq!(limit.forget_old(late), []);
        assert_eq!(limit.admit(listener(0), FAILED, late), None);
        limit.prune_at = 0;
        assert_eq!(limit.forget_old(start + SECOND).len(), MANY);
    }

    /// Entries of different listeners, with an event at this time each.
    fn entries(limit: &mut RateLimit, listeners: std::ops::Range<usize>, now: Instant) {
        for number in listeners {
            limit.admit(listener(number as u64), FAILED, now);
        }
    }

    #[test]
    fn only_suppressed_events_are_forgotten() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        entries(&mut limit, 0..MANY, start);
        for _ in 0..12 {
            limit.admit(listener(7), FAILED, start);
        }
        let forgotten = limit.forget_old(start + SECOND);
        assert_eq!(forgotten, [(listener(7), FAILED, 3)]);
        assert!(limit.recent.is_empty());
    }

    /// Otherwise each event would visit all entries.
    #[test]
    fn pruning_waits_for_twice_the_entries() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let (some, later) = (MANY + 100, start + SECOND);
        entries(&mut limit, 0..some, start);
        limit.forget_old(start);
        entries(&mut limit, some..2 * some - 1, start);
        limit.forget_old(later);
        assert_eq!(limit.recent.len(), 2 * some - 1);
        entries(&mut limit, 2 * some..2 * some + 1, start);
        limit.forget_old(later);
        assert_eq!(limit.recent.len(), 0);
    }
}
