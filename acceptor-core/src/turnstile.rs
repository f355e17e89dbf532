//! Who may call `accept`: one acceptor a listener at a time, in the order in which they began to wait (L5, L6).
//!
//! Runtimes wake *every* task that waits on one listener, so here all but the
//! first wait on each other. The listener itself is what passes from hand to
//! hand: whoever holds the pass owns it, and a closed turnstile drops it as soon
//! as it comes back.
//!
//! Invariants: the value is in exactly one place (free, granted to a waiter, in
//! a pass, or gone); it is free only when nobody waits; only the head of the
//! queue is ever touched by handing on, whatever its length.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::sync::{Mutex, lock, wake};

pub(crate) struct Turnstile<T> {
    queue: Mutex<Queue<T>>,
}

struct Queue<T> {
    free: Option<T>,
    closed: bool,
    waiters: Slab<Waiter<T>>,
    // A list through the slab: a waiter that gives up leaves from the middle, and nothing is left behind.
    head: Option<usize>,
    tail: Option<usize>,
}

struct Waiter<T> {
    waker: Waker,
    granted: Option<T>,
    before: Option<usize>,
    behind: Option<usize>,
}

/// Who has the value now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandedTo {
    /// The next in line, who was woken.
    Next,
    /// Nobody was in line.
    Nobody,
}

impl<T> Turnstile<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            queue: Mutex::new(Queue {
                free: Some(value),
                closed: false,
                waiters: Slab::new(),
                head: None,
                tail: None,
            }),
        }
    }

    /// Waits for the pass; `None` once the turnstile is closed.
    pub(crate) fn enter(&self) -> Enter<'_, T> {
        Enter {
            turnstile: self,
            key: None,
        }
    }

    /// Lets nobody through any more. The value is dropped before this returns
    /// or, if it is in somebody's hands, when it comes back.
    pub(crate) fn close(&self) {
        let mut wakers = Vec::new();
        let mut values = Vec::new();
        {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            values.extend(queue.free.take());
            for (_, waiter) in &mut queue.waiters {
                values.extend(waiter.granted.take());
                wakers.push(waiter.waker.clone());
            }
        }
        drop(values);
        wakers.into_iter().for_each(wake);
    }

    /// Hands the value to the next in line; wakes and drops outside the lock.
    fn hand_on(&self, value: T) -> HandedTo {
        let mut queue = lock(&self.queue);
        if queue.closed {
            drop(queue);
            drop(value);
            return HandedTo::Nobody;
        }
        match queue.head {
            Some(next) => {
                queue.unlink(next);
                let waiter = &mut queue.waiters[next];
                waiter.granted = Some(value);
                let waker = waiter.waker.clone();
                drop(queue);
                wake(waker);
                HandedTo::Next
            }
            None => {
                queue.free = Some(value);
                HandedTo::Nobody
            }
        }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, waker: Waker) -> usize {
        let before = self.tail;
        let key = self.waiters.insert(Waiter {
            waker,
            granted: None,
            before,
            behind: None,
        });
        match before {
            Some(before) => self.waiters[before].behind = Some(key),
            None => self.head = Some(key),
        }
        self.tail = Some(key);
        key
    }

    fn unlink(&mut self, key: usize) {
        let waiter = &mut self.waiters[key];
        let (before, behind) = (waiter.before.take(), waiter.behind.take());
        match before {
            Some(before) => self.waiters[before].behind = behind,
            None => self.head = behind,
        }
        match behind {
            Some(behind) => self.waiters[behind].before = before,
            None => self.tail = before,
        }
    }

    fn is_linked(&self, key: usize) -> bool {
        self.waiters[key].before.is_some() || self.head == Some(key)
    }
}

/// The future of [`Turnstile::enter`]. A place in line begins at the first poll.
pub(crate) struct Enter<'a, T> {
    turnstile: &'a Turnstile<T>,
    key: Option<usize>,
}

impl<'a, T> Future for Enter<'a, T> {
    type Output = Option<Pass<'a, T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let turnstile = self.turnstile;
        let mut queue = lock(&turnstile.queue);
        if queue.closed {
            return Poll::Ready(None);
        }
        let value = match self.key {
            None => queue.free.take(),
            Some(key) => queue.waiters[key].granted.take(),
        };
        if let Some(value) = value {
            let waiter = self.key.take().map(|key| queue.waiters.remove(key));
            drop(queue);
            drop(waiter);
            return Poll::Ready(Some(Pass {
                turnstile,
                value: Some(value),
            }));
        }
        let waker = cx.waker().clone();
        let replaced = match self.key {
            Some(key) => Some(std::mem::replace(&mut queue.waiters[key].waker, waker)),
            None => {
                self.key = Some(queue.push(waker));
                None
            }
        };
        drop(queue);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> Drop for Enter<'_, T> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut queue = lock(&self.turnstile.queue);
        if queue.is_linked(key) {
            queue.unlink(key);
        }
        let waiter = queue.waiters.remove(key);
        drop(queue);
        // Granted and dropped before it was polled: the next in line must not sleep on.
        if let Some(value) = waiter.granted {
            self.turnstile.hand_on(value);
        }
    }
}

/// The right to accept, and the value itself. Dropping it hands both on.
pub(crate) struct Pass<'a, T> {
    turnstile: &'a Turnstile<T>,
    value: Option<T>,
}

impl<T> Pass<'_, T> {
    pub(crate) fn value(&mut self) -> &mut T {
        self.value
            .as_mut()
            .expect("a pass has its value until it is handed on")
    }

    /// Hands the value on, and tells whether anybody was waiting for it.
    pub(crate) fn hand_on(mut self) -> HandedTo {
        match self.value.take() {
            Some(value) => self.turnstile.hand_on(value),
            None => HandedTo::Nobody,
        }
    }
}

impl<T> Drop for Pass<'_, T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.turnstile.hand_on(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::rc::Rc;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::sync::testing::WakeCounter;

    #[test]
    fn whoever_began_to_wait_first_goes_first() {
        let turnstile = Turnstile::new(());
        let first = turnstile.enter().now_or_never().flatten().unwrap();
        let (mut second, mut third) = (turnstile.enter(), turnstile.enter());
        let (two, three) = (WakeCounter::new(), WakeCounter::new());
        // Made in one order, waiting in the other.
        assert!(poll(&mut third, &three).is_none());
        assert!(poll(&mut second, &two).is_none());
        drop(first);
        assert_eq!((two.wakes(), three.wakes()), (0, 1));
        drop(poll(&mut third, &three).unwrap());
        assert_eq!((two.wakes(), three.wakes()), (1, 1));
        assert!(poll(&mut second, &two).is_some());
    }

    #[test]
    fn a_head_that_is_dropped_after_the_grant_hands_on() {
        let turnstile = Turnstile::new(());
        let pass = turnstile.enter().now_or_never().flatten().unwrap();
        let (mut head, mut next) = (turnstile.enter(), turnstile.enter());
        let (one, two) = (WakeCounter::new(), WakeCounter::new());
        assert!(poll(&mut head, &one).is_none());
        assert!(poll(&mut next, &two).is_none());
        drop(pass);
        drop(head);
        assert_eq!(two.wakes(), 1);
        assert!(poll(&mut next, &two).is_some());
    }

    #[test]
    fn closing_drops_the_value_at_once_or_when_it_comes_back() {
        let value = Rc::new(());
        let free = Turnstile::new(Rc::clone(&value));
        free.close();
        assert_eq!(Rc::strong_count(&value), 1);

        let held = Turnstile::new(Rc::clone(&value));
        let pass = held.enter().now_or_never().flatten().unwrap();
        held.close();
        assert_eq!(Rc::strong_count(&value), 2);
        drop(pass);
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn closing_drops_a_granted_value_and_wakes_everybody() {
        let value = Rc::new(());
        let turnstile = Turnstile::new(Rc::clone(&value));
        let pass = turnstile.enter().now_or_never().flatten().unwrap();
        let (mut head, mut next) = (turnstile.enter(), turnstile.enter());
        let (one, two) = (WakeCounter::new(), WakeCounter::new());
        assert!(poll(&mut head, &one).is_none());
        assert!(poll(&mut next, &two).is_none());
        drop(pass);
        turnstile.close();
        assert_eq!(Rc::strong_count(&value), 1);
        assert_eq!(two.wakes(), 1);
        for waiting in [&mut head, &mut next] {
            assert!(matches!(waiting.now_or_never(), Some(None)));
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        GiveUp(usize),
        Pass,
        Close,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => Just(Step::Begin),
            3 => (0..8_usize).prop_map(Step::GiveUp),
            6 => Just(Step::Pass),
            1 => Just(Step::Close),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Against a plain queue: the order holds, nobody sleeps on, and the value is in one place.
        #[test]
        fn it_is_a_queue(steps in steps()) {
            let value = Rc::new(());
            let turnstile = Turnstile::new(Rc::clone(&value));
            let mut waiting: VecDeque<(Enter<'_, Rc<()>>, WakeCounter)> = VecDeque::new();
            let mut holder = None;
            let mut closed = false;
            for step in steps {
                match step {
                    Step::Begin => {
                        let (mut enter, counter) = (turnstile.enter(), WakeCounter::new());
                        let mut cx = Context::from_waker(counter.waker());
                        match enter.poll_unpin(&mut cx) {
                            Poll::Ready(pass) => {
                                prop_assert_eq!(pass.is_none(), closed);
                                prop_assert!(closed || (holder.is_none() && waiting.is_empty()));
                                holder = holder.or(pass);
                            }
                            Poll::Pending => waiting.push_back((enter, counter)),
                        }
                    }
                    Step::GiveUp(which) => {
                        if which < waiting.len() {
                            waiting.remove(which);
                        }
                    }
                    Step::Pass => holder = None,
                    Step::Close => {
                        turnstile.close();
                        closed = true;
                    }
                }
                if closed {
                    for (mut enter, counter) in waiting.drain(..) {
                        prop_assert!(counter.wakes() > 0);
                        prop_assert!(matches!((&mut enter).now_or_never(), Some(None)));
                    }
                } else if holder.is_none() {
                    if let Some((mut enter, counter)) = waiting.pop_front() {
                        prop_assert_eq!(counter.wakes(), 1);
                        holder = (&mut enter).now_or_never().flatten();
                        prop_assert!(holder.is_some());
                    }
                }
                prop_assert!(waiting.iter().all(|(_, counter)| closed || counter.wakes() == 0));
                prop_assert_eq!(lock(&turnstile.queue).waiters.len(), waiting.len());
                let alive = Rc::strong_count(&value) - 1;
                prop_assert_eq!(alive, usize::from(!closed || holder.is_some()));
            }
        }
    }

    fn poll<'a, T>(enter: &mut Enter<'a, T>, counter: &WakeCounter) -> Option<Pass<'a, T>> {
        match enter.poll_unpin(&mut Context::from_waker(counter.waker())) {
            Poll::Ready(pass) => pass,
            Poll::Pending => None,
        }
    }
}
