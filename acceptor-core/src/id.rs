//! The names of listeners and children: never used twice, and no other pool's.

use std::fmt;
// Not by way of `sync`: it outlives each model of loom's, and no order hangs on it.
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells the pools of a process apart, so that one takes no notice of another's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PoolId(u64);

impl PoolId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// No pool's.
    #[cfg(all(test, not(loom)))]
    pub(crate) const NONE: Self = Self(0);
}

/// Names one listener of a pool.
///
/// Displayed as a number that counts up from 1 in each pool. Ids of different pools differ all the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId {
    pub(crate) sequence: u64,
    pub(crate) pool: PoolId,
}

/// Names one child of a pool, an acceptor or the connection that it became.
///
/// Displayed as a number that counts up from 1 in each pool and is never used again. Ids of different
/// pools differ all the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId {
    // First, so that ids sort by age.
    pub(crate) sequence: u64,
    pub(crate) slot: usize,
    pub(crate) pool: PoolId,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sequence.fmt(f)
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sequence.fmt(f)
    }
}

impl fmt::Debug for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListenerId({})", self.sequence)
    }
}

impl fmt::Debug for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildId({})", self.sequence)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_displayed_as_its_number_and_shown_with_its_sort() {
        let pool = PoolId::NONE;
        let listener = ListenerId { sequence: 3, pool };
        assert_eq!(format!("{listener} {listener:?}"), "3 ListenerId(3)");
        assert_eq!(format!("{listener:>4}"), "   3");
        let (sequence, slot) = (7, 1);
        let child = ChildId {
            sequence,
            slot,
            pool,
        };
        assert_eq!(format!("{child} {child:?}"), "7 ChildId(7)");
        assert_eq!(format!("{child:>4}"), "   7");
    }

    #[test]
    fn no_two_pools_have_the_same_id() {
        assert!(PoolId::NONE < PoolId::next());
        assert_ne!(PoolId::next(), PoolId::next());
    }
}
