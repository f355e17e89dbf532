//! The acceptors that wait on one listener, in the order in which they began to (L6), and their timeouts (B6).
//!
//! The accept loop owns it. Invariant: no call takes time that grows with the number
//! of waiters, but for the logarithm that a timeout costs; `extract` looks at each.

use std::collections::BTreeSet;
use std::time::Instant;

use slab::Slab;

pub(crate) struct WaitQueue<T> {
    nodes: Slab<Node<T>>,
    first: Option<usize>,
    last: Option<usize>,
    deadlines: BTreeSet<(Instant, usize)>,
}

struct Node<T> {
    waiter: T,
    deadline: Option<Instant>,
    before: Option<usize>,
    after: Option<usize>,
}

impl<T> WaitQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Slab::new(),
            first: None,
            last: None,
            deadlines: BTreeSet::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn push_back(&mut self, waiter: T, deadline: Option<Instant>) {
        let before = self.last;
        let key = self.nodes.insert(Node {
            waiter,
            deadline,
            before,
            after: None,
        });
        match before {
            Some(before) => self.nodes[before].after = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
        if let Some(at) = deadline {
            self.deadlines.insert((at, key));
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.first.map(|key| self.remove(key))
    }

    /// When the first timeout comes.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A waiter whose timeout has come.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let (at, key) = *self.deadlines.first()?;
        (at <= now).then(|| self.remove(key))
    }

    /// Takes the waiters for which this is true, in their order.
    pub(crate) fn extract(&mut self, takes: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        let mut next = self.first;
        while let Some(key) = next {
            next = self.nodes[key].after;
            if takes(&self.nodes[key].waiter) {
                taken.push(self.remove(key));
            }
        }
        taken
    }

    fn remove(&mut self, key: usize) -> T {
        let node = self.nodes.remove(key);
        match node.before {
            Some(before) => self.nodes[before].after = node.after,
            None => self.first = node.after,
        }
        match node.after {
            Some(after) => self.nodes[after].before = node.before,
            None => self.last = node.before,
        }
        if let Some(at) = node.deadline {
            self.deadlines.remove(&(at, key));
        }
        node.waiter
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
        /// Against a list that is searched.
        #[test]
        fn queue_is_a_list_in_order_of_arrival(acts in proptest::collection::vec(act(), 0..200)) {
            let start = Instant::now();
            let at = |ms: u64| start + Duration::from_millis(ms);
            let (mut queue, mut list, mut next) = (WaitQueue::new(), Vec::new(), 0_u32);
            for act in acts {
                match act {
                    Act::Push(deadline) => {
                        queue.push_back(next, deadline.map(at));
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
                        prop_assert_eq!(queue.extract(|waiter| waiter % of == 0), expected);
                        list.retain(|(waiter, _)| waiter % of != 0);
                    }
                }
                prop_assert_eq!(queue.is_empty(), list.is_empty());
                let earliest = list.iter().filter_map(|(_, deadline)| *deadline).min();
                prop_assert_eq!(queue.earliest(), earliest.map(at));
            }
        }
    }
}
