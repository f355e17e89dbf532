//! The ids of listeners and children: unique within a pool, and never reused there.
//!
//! Invariant: an id that a pool has issued is valid in that pool only; one that was parsed may
//! belong to any pool. Neither the pool nor the slot, which makes a child quick to find, takes part
//! in comparisons.

use std::cmp::Ordering as Order;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
// Not from `sync`: the counter outlives each loom model, and no ordering depends on it.
use std::sync::atomic::{AtomicU32, Ordering};

use crate::text::EscapedDebug;

/// Distinguishes the pools of a process, so that one ignores another's ids. In a process that
/// starts more than four billion pools, a new pool may accept an old one's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolId(u32);

impl PoolId {
    /// Unknown: matches any pool.
    pub(crate) const ANY: Self = Self(0);

    pub(crate) fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn may_be(self, pool: Self) -> bool {
        self == pool || self == Self::ANY
    }
}

/// The id of one listener in its pool.
///
/// It is displayed as a number that counts from 1 in each pool, and can be [parsed](FromStr) from
/// that text. Ids of different pools may be equal; a pool still rejects an id that another pool
/// issued, unless it was parsed.
///
/// ```
/// let id: acceptor_core::ListenerId = "3".parse()?;
/// assert_eq!(id.to_string(), "3");
/// # Ok::<_, acceptor_core::ParseIdError>(())
/// ```
#[derive(Clone, Copy)]
pub struct ListenerId {
    pub(crate) sequence: u64,
    pub(crate) pool: PoolId,
}

/// The id of one child in its pool: an acceptor, or the connection that it became.
///
/// It is displayed as the listener's number and its own, such as `3.17`, and can be
/// [parsed](FromStr) from that text. The second number counts from 1 for each listener and is never
/// reused. Ids are ordered by listener, then by the creation of the acceptor. Ids of different
/// pools may be equal; a pool still rejects an id that another pool issued, unless it was parsed.
///
/// ```
/// let id: acceptor_core::ChildId = "3.17".parse()?;
/// assert_eq!(id.listener().to_string(), "3");
/// assert!(id > "3.9".parse()?);
/// # Ok::<_, acceptor_core::ParseIdError>(())
/// ```
#[derive(Clone, Copy)]
pub struct ChildId {
    pub(crate) listener: u64,
    pub(crate) number: u64,
    /// [`ChildId::NO_SLOT`] if it was parsed, or created before the child had its row.
    pub(crate) slot: u32,
    pub(crate) pool: PoolId,
}

impl ListenerId {
    fn key(&self) -> u64 {
        self.sequence
    }
}

impl ChildId {
    pub(crate) const NO_SLOT: u32 = u32::MAX;

    pub(crate) fn new(listener: ListenerId, number: u64, slot: u32) -> Self {
        Self {
            listener: listener.sequence,
            number,
            slot,
            pool: listener.pool,
        }
    }

    /// Returns the id of the listener on which the child waits or was accepted.
    pub fn listener(&self) -> ListenerId {
        ListenerId {
            sequence: self.listener,
            pool: self.pool,
        }
    }

    fn key(&self) -> (u64, u64) {
        (self.listener, self.number)
    }
}

impl PartialEq for ListenerId {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ListenerId {}

impl PartialOrd for ListenerId {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for ListenerId {
    fn cmp(&self, other: &Self) -> Order {
        self.key().cmp(&other.key())
    }
}

impl Hash for ListenerId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for ChildId {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ChildId {}

impl PartialOrd for ChildId {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for ChildId {
    fn cmp(&self, other: &Self) -> Order {
        self.key().cmp(&other.key())
    }
}

impl Hash for ChildId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// The error of a text that is not the id of a listener or a child.
///
/// ```
/// let error = "3.x".parse::<acceptor_core::ChildId>().unwrap_err();
/// assert_eq!(error.value, "3.x");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseIdError {
    /// The text that was given.
    pub value: String,
    expected: &'static str,
}

impl ParseIdError {
    fn new(value: &str, expected: &'static str) -> Self {
        let value = value.to_owned();
        Self { value, expected }
    }
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is no id: give {}",
            EscapedDebug(&self.value),
            self.expected
        )
    }
}

impl Error for ParseIdError {}

/// Parses a number as it is displayed: digits without a sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

impl FromStr for ListenerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let sequence = number(text)
            .ok_or_else(|| ParseIdError::new(text, "the number of a listener, such as 3"))?;
        let pool = PoolId::ANY;
        Ok(Self { sequence, pool })
    }
}

impl FromStr for ChildId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parts = text
            .split_once('.')
            .and_then(|(listener, child)| Some((number(listener)?, number(child)?)));
        let (listener, number) = parts.ok_or_else(|| {
            ParseIdError::new(
                text,
                "the numbers of a listener and of a child of it, such as 3.17",
            )
        })?;
        Ok(Self {
            listener,
            number,
            slot: Self::NO_SLOT,
            pool: PoolId::ANY,
        })
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
        let pool = PoolId::ANY;
        let listener = ListenerId { sequence: 3, pool };
        assert_eq!(format!("{listener} {listener:?}"), "3 ListenerId(3)");
        assert_eq!(format!("{listener:>4}"), "   3");
        let child = ChildId::new(listener, 17, 1);
        assert_eq!(format!("{child} {child:?}"), "3.17 ChildId(3.17)");
        assert_eq!(format!("{child:>6}"), "  3.17");
        assert_eq!(child.listener(), listener);
    }

    #[test]
    fn pools_have_different_ids() {
        let (one, other) = (PoolId::next(), PoolId::next());
        assert!(one.may_be(one) && PoolId::ANY.may_be(one));
        assert!(!one.may_be(other) && !one.may_be(PoolId::ANY));
    }

    fn hashed(value: impl Hash) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        value.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn displayed_id_parses_back() {
        let pool = PoolId::next();
        let listener = ListenerId { sequence: 3, pool };
        let parsed: ListenerId = "3".parse().unwrap();
        assert_eq!(parsed, listener);
        assert_eq!(hashed(parsed), hashed(listener));
        let child = ChildId::new(listener, 17, 5);
        let parsed: ChildId = "3.17".parse().unwrap();
        assert_eq!(parsed, child);
        assert_eq!(hashed(parsed), hashed(child));
        assert_eq!(parsed.listener(), listener);
    }

    #[test]
    fn ids_order_by_listener_then_number() {
        let ids = ["1.9", "2.3", "2.10", "10.1"].map(|id| id.parse::<ChildId>().unwrap());
        assert!(ids.is_sorted());
        let ids = ["2", "10"].map(|id| id.parse::<ListenerId>().unwrap());
        assert!(ids.is_sorted());
    }

    #[test]
    fn malformed_id_is_refused() {
        for text in ["", "x", "+3", "-3", " 3", "3.17", "18446744073709551616"] {
            let error = text.parse::<ListenerId>().unwrap_err();
            let words = format!("{text:?} is no id: give the number of a listener, such as 3");
            assert_eq!(error.to_string(), words);
        }
        for text in ["", "3", "3.", ".17", "3.+17", "3.17.1", "a.b"] {
            let error = text.parse::<ChildId>().unwrap_err();
            let words = format!(
                "{text:?} is no id: give the numbers of a listener and of a child of it, such as 3.17"
            );
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn different_ids_hash_differently() {
        let listeners = ["1", "2"].map(|id| id.parse::<ListenerId>().unwrap());
        assert_ne!(hashed(listeners[0]), hashed(listeners[1]));
        let children = ["1.1", "1.2", "2.1"].map(|id| hashed(id.parse::<ChildId>().unwrap()));
        assert_ne!(children[0], children[1]);
        assert_ne!(children[0], children[2]);
    }
}
