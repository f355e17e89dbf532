//! The acceptors that wait on one listener, in the order in which they began to wait (L6), and
//! their timeouts (B6).
//!
//! The accept loop owns the queue. Each waiter has a *turn*, a number that rises from one to the
//! next, by which it is found. Invariants: the first node has a waiter; at least half of the nodes
//! have one, apart from a few. No call takes time that grows with the number of waiters, apart from
//! the logarithm that a timeout costs and the amortized cost of growing and shrinking a list;
//! `visit` reads at most `limit` nodes.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

/// The number of nodes without a waiter that are always kept.
const SPARE: usize = 32;

pub(crate) struct WaitQueue<T> {
    nodes: VecDeque<Node<T>>,
    waiters: usize,
    deadlines: BTreeSet<(Instant, u64)>,
}

struct Node<T> {
    turn: u64,
    deadline: Option<Instant>,
    /// `None` once the waiter has left from the middle of the queue.
    waiter: Option<T>,
}

impl<T> WaitQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: VecDeque::new(),
            waiters: 0,
            deadlines: BTreeSet::new(),
        }
    }

    /// Adds a waiter. Its turn must be after those of all others.
    pub(crate) fn push_back(&mut self, turn: u64, waiter: T, deadline: Option<Instant>) {
        self.waiters += 1;
        self.nodes.push_back(Node {
            turn,
            deadline,
            waiter: Some(waiter),
        });
        if let Some(at) = deadline {
            self.deadlines.insert((at, turn));
        }
    }

    /// Returns the first waiter and its turn.
    pub(crate) fn head(&self) -> Option<(u64, &T)> {
        let node = self.nodes.front()?;
        Some((node.turn, node.waiter.as_ref()?))
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let node = self.nodes.pop_front()?;
        if let Some(at) = node.deadline {
            self.deadlines.remove(&(at, node.turn));
        }
        self.waiters -= 1;
        self.tidy();
        node.waiter
    }

    /// Returns when the first timeout expires.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Removes a waiter whose timeout has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let (at, turn) = *self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.take(turn)
    }

    /// Removes a waiter from any position.
    pub(crate) fn take(&mut self, turn: u64) -> Option<T> {
        let at = self.nodes.binary_search_by_key(&turn, |node| node.turn);
        let node = &mut self.nodes[at.ok()?];
        let waiter = node.waiter.take()?;
        if let Some(at) = node.deadline {
            self.deadlines.remove(&(at, turn));
        }
        self.waiters -= 1;
        self.tidy();
        Some(waiter)
    }

    /// Visits the waiters of at most `limit` nodes, from this turn on. Returns where to continue,
    /// if anywhere.
    pub(crate) fn visit(
        &self,
        from: u64,
        limit: usize,
        mut visit: impl FnMut(u64, &T),
    ) -> Option<u64> {
        let first = self.nodes.partition_point(|node| node.turn < from);
        for node in self.nodes.iter().skip(first).take(limit) {
            if let Some(waiter) = &node.waiter {
                visit(node.turn, waiter);
            }
        }
        self.nodes.get(first + limit).map(|node| node.turn)
    }

    #[inline]
    fn tidy(&mut self) {
        // Nearly always false while few wait.
        if self.nodes.len() > self.waiters || self.nodes.capacity() > 2 * SPARE {
            self.tidy_up();
        }
    }

    fn tidy_up(&mut self) {
        while self.nodes.front().is_some_and(|node| node.waiter.is_none()) {
            self.nodes.pop_front();
        }
        if self.nodes.len() > 2 * self.waiters + SPARE {
            self.nodes.retain(|node| node.waiter.is_some());
        }
        if self.nodes.capacity() > 4 * self.nodes.len() + SPARE {
            self.nodes.shrink_to(2 * self.nodes.len());
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Push(Option<u64>),
        Pop,
        Expire(u64),
        Extract(u32),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => proptest::option::of(0..20_u64).prop_map(Act::Push),
            2 => Just(Act::Pop),
            1 => (0..20_u64).prop_map(Act::Expire),
            1 => (1..5_u32).prop_map(Act::Extract),
        ]
    }

    proptest! {
        /// Against a list, searched linearly.
        #[test]
        fn queue_keeps_arrival_order(acts in proptest::collection::vec(act(), 0..200)) {
            let start = Instant::now();
            let at = |ms: u64| start + Duration::from_millis(ms);
            let (mut queue, mut list, mut next) = (WaitQueue::new(), Vec::new(), 0_u32);
            for act in acts {
                match act {
                    Act::Push(deadline) => {
                        queue.push_back(next.into(), next, deadline.map(at));
                        list.push((next, deadline));
                        next += 1;
                    }
                    Act::Pop => {
                        let expected = (!list.is_empty()).then(|| list.remove(0).0);
                        prop_assert_eq!(queue.pop_front(), expected);
                    }
                    Act::Expire(now) => {
                        let due = |(_, deadline): &(u32, Option<u64>)| deadline.is_some_and(|at| at <= now);
                        let mut expired = Vec::new();
                        while let Some(waiter) = queue.pop_expired(at(now)) {
                            expired.push(waiter);
                        }
                        expired.sort_unstable();
                        let expected: Vec<_> = list.iter().filter(|entry| due(entry)).map(|(waiter, _)| *waiter).collect();
                        prop_assert_eq!(expired, expected);
                        list.retain(|entry| !due(entry));
                    }
                    Act::Extract(of) => {
                        let expected: Vec<_> = list.iter().map(|(waiter, _)| *waiter).filter(|waiter| waiter % of == 0).collect();
                        let (mut turns, mut from) = (Vec::new(), Some(0));
                        while let Some(turn) = from {
                            from = queue.visit(turn, 3, |turn, waiter| {
                                if waiter % of == 0 {
                                    turns.push(turn);
                                }
                            });
                        }
                        let taken: Vec<_> = turns.iter().filter_map(|turn| queue.take(*turn)).collect();
                        prop_assert_eq!(taken, expected);
                        prop_assert!(turns.iter().all(|turn| queue.take(*turn).is_none()));
                        list.retain(|(waiter, _)| waiter % of != 0);
                    }
                }
                prop_assert_eq!(queue.waiters, list.len());
                let head = queue.head().map(|(turn, waiter)| (turn, *waiter));
                prop_assert_eq!(head, list.first().map(|(waiter, _)| (u64::from(*waiter), *waiter)));
                prop_assert!(queue.nodes.len() <= 2 * list.len() + SPARE);
                let earliest = list.iter().filter_map(|(_, deadline)| *deadline).min();
                prop_assert_eq!(queue.earliest(), earliest.map(at));
            }
        }
    }

    /// One entry waits without a timeout, while those behind it come and go.
    #[test]
    fn memory_of_removed_is_released() {
        let mut queue = WaitQueue::new();
        queue.push_back(0, 0, None);
        for turn in 1..10_000 {
            queue.push_back(turn, turn, None);
            assert_eq!(queue.take(turn), Some(turn));
        }
        assert!(queue.nodes.capacity() <= 128, "{}", queue.nodes.capacity());
        (10_000..20_000).for_each(|turn| queue.push_back(turn, turn, None));
        while queue.pop_front().is_some() {}
        assert!(queue.nodes.capacity() <= 128, "{}", queue.nodes.capacity());
    }

    fn with_waiters(count: u64) -> WaitQueue<u64> {
        let mut queue = WaitQueue::new();
        (0..count).for_each(|turn| queue.push_back(turn, turn, None));
        queue
    }

    /// Otherwise each waiter that leaves from the middle would move the others.
    #[test]
    fn most_nodes_empty_before_they_go() {
        let mut queue = with_waiters(100);
        for turn in 1..=66 {
            queue.take(turn);
            assert_eq!(queue.nodes.len(), 100);
        }
        // 33 waiters are left, and 67 are gone, which are more than as many and the spare ones.
        queue.take(67);
        assert_eq!(queue.nodes.len(), 33);
    }

    #[test]
    fn small_list_keeps_its_memory() {
        let mut queue = with_waiters(2 * SPARE as u64);
        let full = queue.nodes.capacity();
        while queue.pop_front().is_some() {
            assert_eq!(queue.nodes.capacity(), full);
        }
    }

    #[test]
    fn list_shrinks_below_a_quarter() {
        let mut queue = with_waiters(1000);
        let full = queue.nodes.capacity();
        loop {
            queue.pop_front();
            let (len, capacity) = (queue.nodes.len(), queue.nodes.capacity());
            if full > 4 * len + SPARE {
                assert!((2 * len..=3 * len).contains(&capacity), "{capacity}");
                break;
            }
            assert_eq!(capacity, full);
        }
    }
}
