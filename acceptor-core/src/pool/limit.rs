//! A limit on connections: slots, and the listeners that wait for one in turn (C1 to C6).
//!
//! Invariants: no slot is taken against a limit that is reached or was lowered, because the slots
//! in use and the limit are one word; a slot that becomes free while listeners wait goes to the one
//! that has waited longest, and none can take it from the outside; a listener that stops waiting
//! either leaves the queue or has been granted a slot, which it then gives back.

use std::collections::VecDeque;

use crate::id::ListenerId;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// The largest limit. It stands for no limit in the word.
pub(crate) const UNLIMITED: u64 = (1 << COUNT_BITS) - 1;

const COUNT_BITS: u32 = 31;
const LIMIT_SHIFT: u32 = COUNT_BITS;
/// Whether the queue has an entry. Changed under its lock.
const WAITED_FOR: u64 = 1 << 63;

/// A listener that waits for a slot.
pub(crate) trait WaitsForSlot {
    /// Records that it has a slot. Called under the lock of the queue.
    fn grant(&self);
}

pub(crate) struct Limit<W> {
    /// From the lowest bit: the slots in use, the limit, and [`WAITED_FOR`].
    word: AtomicU64,
    queue: Mutex<VecDeque<(ListenerId, W)>>,
}

/// The answer to a listener that needs a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Slot,
    /// It waits in the queue.
    Waits,
}

#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    fn used(self) -> u64 {
        self.0 & UNLIMITED
    }

    fn limit(self) -> u64 {
        (self.0 >> LIMIT_SHIFT) & UNLIMITED
    }

    fn is_full(self) -> bool {
        self.used() >= self.limit()
    }

    fn is_waited_for(self) -> bool {
        self.0 & WAITED_FOR != 0
    }

    fn with_limit(self, limit: u64) -> Self {
        Self(self.0 & !(UNLIMITED << LIMIT_SHIFT) | limit << LIMIT_SHIFT)
    }
}

impl<W> Limit<W> {
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self {
            word: AtomicU64::new(Word(0).with_limit(in_word(limit)).0),
            queue: Mutex::new(VecDeque::new()),
        }
    }

    fn read(&self) -> Word {
        Word(self.word.load(Ordering::SeqCst))
    }

    /// Changes the word, unless it is no longer as it was read. Returns the word that is there then.
    fn change(&self, read: Word, to: u64) -> Result<(), Word> {
        let changed =
            self.word
                .compare_exchange_weak(read.0, to, Ordering::SeqCst, Ordering::SeqCst);
        changed.map(drop).map_err(Word)
    }

    /// Takes a slot, unless none is free or others wait for one.
    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        let mut word = self.read();
        while !word.is_full() && !word.is_waited_for() {
            match self.change(word, word.0 + 1) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Counts slots of connections that were accepted without one, whatever the limit.
    pub(crate) fn count(&self, slots: u64) {
        self.word.fetch_add(slots, Ordering::SeqCst);
    }

    /// Returns whether more slots are in use than there are: the limit was lowered.
    pub(crate) fn is_exceeded(&self) -> bool {
        let word = self.read();
        word.used() > word.limit()
    }

    pub(crate) fn limit(&self) -> Option<usize> {
        let limit = self.read().limit();
        usize::try_from(limit).ok().filter(|_| limit != UNLIMITED)
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn used(&self) -> u64 {
        self.read().used()
    }
}

impl<W: WaitsForSlot> Limit<W> {
    /// Takes a slot, or waits for one in turn.
    pub(crate) fn take(&self, id: ListenerId, waiter: impl FnOnce() -> W) -> Taken {
        if self.try_take() {
            return Taken::Slot;
        }
        let mut queue = lock(&self.queue);
        let mut word = self.read();
        loop {
            let free = queue.is_empty() && !word.is_full();
            let to = match free {
                true => word.0 + 1,
                false => word.0 | WAITED_FOR,
            };
            match self.change(word, to) {
                Ok(()) if free => return Taken::Slot,
                Ok(()) => break,
                Err(now) => word = now,
            }
        }
        queue.push_back((id, waiter()));
        Taken::Waits
    }

    /// Stops waiting. Returns false if the listener has been granted a slot.
    pub(crate) fn leave(&self, id: ListenerId) -> bool {
        let mut queue = lock(&self.queue);
        let Some(at) = queue.iter().position(|(waiting, _)| *waiting == id) else {
            return false;
        };
        let _left = queue.remove(at);
        if queue.is_empty() {
            self.word.fetch_and(!WAITED_FOR, Ordering::SeqCst);
        }
        true
    }

    /// Gives a slot back. Returns the listeners to wake, which have been granted one.
    #[must_use = "the listeners that were granted a slot must be woken"]
    pub(crate) fn release(&self) -> Vec<W> {
        let before = Word(self.word.fetch_sub(1, Ordering::SeqCst));
        match before.is_waited_for() {
            true => self.grant(),
            false => Vec::new(),
        }
    }

    /// Changes the limit. Returns the listeners to wake, which have been granted a slot.
    #[must_use = "the listeners that were granted a slot must be woken"]
    pub(crate) fn set(&self, limit: Option<usize>) -> Vec<W> {
        let limit = in_word(limit);
        let mut word = self.read();
        while let Err(now) = self.change(word, word.with_limit(limit).0) {
            word = now;
        }
        match word.is_waited_for() {
            true => self.grant(),
            false => Vec::new(),
        }
    }

    /// Grants free slots to those that wait, in turn.
    #[cold]
    fn grant(&self) -> Vec<W> {
        let mut granted = Vec::new();
        let mut queue = lock(&self.queue);
        while !queue.is_empty() {
            let word = self.read();
            if word.is_full() {
                break;
            }
            let last = queue.len() == 1;
            let to = match last {
                true => (word.0 + 1) & !WAITED_FOR,
                false => word.0 + 1,
            };
            if self.change(word, to).is_ok() {
                let next = queue.pop_front().map(|(_, waiter)| waiter);
                granted.extend(next.inspect(WaitsForSlot::grant));
            }
        }
        granted
    }
}

fn in_word(limit: Option<usize>) -> u64 {
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    limit.map_or(UNLIMITED, |limit| limit.min(UNLIMITED))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::id::PoolId;

    /// Counts the slots that it was granted.
    #[derive(Clone, Default)]
    struct Waiter(Arc<AtomicUsize>);

    impl Waiter {
        fn granted(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl WaitsForSlot for Waiter {
        fn grant(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn listener(sequence: u64) -> ListenerId {
        ListenerId {
            sequence,
            pool: PoolId::ANY,
        }
    }

    #[test]
    fn slots_are_taken_up_to_the_limit() {
        let limit = Limit::<Waiter>::new(Some(2));
        assert_eq!(
            [limit.try_take(), limit.try_take(), limit.try_take()],
            [true, true, false]
        );
        assert_eq!(limit.used(), 2);
        assert!(limit.release().is_empty());
        assert!(limit.try_take() && !limit.try_take());
    }

    #[test]
    fn freed_slots_are_granted_in_turn() {
        let limit = Limit::new(Some(1));
        let waiters = [Waiter::default(), Waiter::default()];
        assert!(limit.try_take());
        for (number, waiter) in (1..).zip(&waiters) {
            assert_eq!(
                limit.take(listener(number), || waiter.clone()),
                Taken::Waits
            );
        }
        let granted = || waiters.each_ref().map(Waiter::granted);
        assert_eq!((limit.release().len(), granted()), (1, [1, 0]));
        assert!(!limit.try_take());
        assert_eq!((limit.release().len(), granted()), (1, [1, 1]));
        assert_eq!((limit.release().len(), limit.used()), (0, 0));
        assert!(limit.try_take());
    }

    #[test]
    fn newcomer_waits_behind_the_queue() {
        let limit = Limit::new(Some(1));
        let first = Waiter::default();
        assert!(limit.try_take());
        assert_eq!(limit.take(listener(1), || first.clone()), Taken::Waits);
        assert_eq!(limit.set(Some(2)).len(), 1);
        assert_eq!(limit.take(listener(2), Waiter::default), Taken::Waits);
        assert_eq!((first.granted(), limit.used()), (1, 2));
    }

    #[test]
    fn raised_limit_grants_as_many() {
        let limit = Limit::new(Some(1));
        assert!(limit.try_take());
        for number in 1..=4 {
            assert_eq!(limit.take(listener(number), Waiter::default), Taken::Waits);
        }
        assert_eq!(limit.set(Some(3)).len(), 2);
        assert_eq!(limit.set(None).len(), 2);
        assert_eq!(limit.used(), 5);
        assert!(limit.try_take());
    }

    #[test]
    fn lowered_limit_admits_none_until_below() {
        let limit = Limit::new(Some(3));
        assert!(limit.try_take() && limit.try_take() && limit.try_take());
        assert!(limit.set(Some(1)).is_empty());
        for _ in 0..2 {
            assert_eq!(limit.take(listener(1), Waiter::default), Taken::Waits);
            assert!(limit.leave(listener(1)));
            assert!(limit.release().is_empty());
        }
        assert!(!limit.try_take() && !limit.is_exceeded());
        assert!(limit.release().is_empty());
        assert!(limit.try_take() && !limit.try_take());
    }

    #[test]
    fn lowered_limit_is_exceeded() {
        let limit = Limit::<Waiter>::new(Some(3));
        limit.count(2);
        let exceeded = |at| {
            assert!(limit.set(Some(at)).is_empty());
            limit.is_exceeded()
        };
        assert_eq!([3, 2, 1, 2].map(exceeded), [false, false, true, false]);
    }

    #[test]
    fn leaver_is_gone_or_has_a_slot() {
        let limit = Limit::new(Some(1));
        assert!(limit.try_take());
        assert_eq!(limit.take(listener(1), Waiter::default), Taken::Waits);
        assert_eq!(limit.take(listener(2), Waiter::default), Taken::Waits);
        assert!(limit.leave(listener(1)));
        assert_eq!(limit.release().len(), 1);
        assert!(!limit.leave(listener(2)));
        assert_eq!(limit.used(), 1);
    }

    #[test]
    fn counted_connections_fill_the_limit() {
        let limit = Limit::<Waiter>::new(Some(3));
        limit.count(5);
        assert!(!limit.try_take());
        for _ in 0..3 {
            assert!(limit.release().is_empty());
        }
        assert!(limit.try_take());
        assert_eq!(limit.used(), 3);
    }

    #[test]
    fn largest_limit_means_none() {
        for limit in [None, Some(usize::MAX)] {
            let limit = Limit::<Waiter>::new(limit);
            limit.count(UNLIMITED - 1);
            assert!(limit.try_take());
        }
    }
}
