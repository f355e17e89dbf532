//! The names of listeners and children: never used twice within a pool.

use std::fmt;

/// Names one listener of a pool. Displayed as a number that counts up from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(crate) u64);

/// Names one child of a pool, an acceptor or the connection that it became.
///
/// Displayed as a number that counts up from 1 and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId {
    // First, so that ids sort by age.
    pub(crate) sequence: u64,
    pub(crate) slot: usize,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sequence.fmt(f)
    }
}
