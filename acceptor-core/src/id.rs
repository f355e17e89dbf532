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
/// Displayed as a number that counts up from 1 in each pool. Ids of different pools differ nevertheless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId {
    pub(crate) sequence: u64,
    pub(crate) pool: PoolId,
}

/// Names one child of a pool, an acceptor or the connection that it became.
///
/// Displayed as the listener's number and its own, `3.17`: the latter counts up from 1 for each listener and is
/// never used again. Ids of different pools differ as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId {
    // In this order, so that the ids of a listener sort by age.
    pub(crate) listener: u64,
    pub(crate) number: u64,
    pub(crate) slot: u32,
    pub(crate) pool: PoolId,
}

impl ChildId {
    pub(crate) fn new(listener: ListenerId, number: u64, slot: u32) -> Self {
        Self {
            listener: listener.sequence,
            number,
            slot,
            pool: listener.pool,
        }
    }

    pub(crate) fn listener_id(&self) -> ListenerId {
        ListenerId {
            sequence: self.listener,
            pool: self.pool,
        }
    }
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sequence.fmt(f)
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_none() {
            return write!(f, "{}.{}", self.listener, self.number);
        }
        f.pad(&format!("{}.{}", self.listener, self.number))
    }
}

impl fmt::Debug for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListenerId({})", self.sequence)
    }
}

impl fmt::Debug for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildId({self})")
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn ids_are_displayed_as_numbers() {
        let pool = PoolId::NONE;
        let listener = ListenerId { sequence: 3, pool };
        assert_eq!(format!("{listener} {listener:?}"), "3 ListenerId(3)");
        assert_eq!(format!("{listener:>4}"), "   3");
        let child = ChildId::new(listener, 17, 1);
        assert_eq!(format!("{child} {child:?}"), "3.17 ChildId(3.17)");
        assert_eq!(format!("{child:>6}"), "  3.17");
        assert_eq!(child.listener_id(), listener);
    }

    #[test]
    fn pools_have_different_ids() {
        assert!(PoolId::NONE < PoolId::next());
        assert_ne!(PoolId::next(), PoolId::next());
    }
}
