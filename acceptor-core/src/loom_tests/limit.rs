//! The slots of a limit: those who take one, wait for one or leave, against those who give one back or change the limit.

use std::sync::Arc;
use std::task::Poll;

use super::{Interruptions, Interruptions::Any, block_on, check, spawn};
use crate::id::{ListenerId, PoolId};
use crate::pool::limit::{Limit, Taken, WaitsForSlot};
use crate::sync::notify::Notify;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// An accept loop: it waits for the slot that it is granted.
struct Waiter {
    granted: AtomicBool,
    news: Notify,
}

impl WaitsForSlot for Arc<Waiter> {
    fn grant(&self) {
        self.granted.store(true, Ordering::SeqCst);
    }
}

struct Model {
    limit: Limit<Arc<Waiter>>,
    /// How many have a slot.
    in_use: AtomicUsize,
}

fn listener(sequence: u64) -> ListenerId {
    let pool = PoolId::ANY;
    ListenerId { sequence, pool }
}

impl Model {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: Limit::new(Some(limit)),
            in_use: AtomicUsize::new(0),
        })
    }

    fn give_back(&self) {
        for waiter in self.limit.release() {
            waiter.news.notify();
        }
    }

    fn change(&self, limit: usize) {
        for waiter in self.limit.set(Some(limit)) {
            waiter.news.notify();
        }
    }

    /// Waits for a slot, has it for a moment, and gives it back.
    fn use_slot(&self, sequence: u64, at_most: usize) {
        let (waiter, taken) = self.take(sequence);
        if taken == Taken::Waits {
            block_on(std::future::poll_fn(|cx| {
                loop {
                    if waiter.granted.load(Ordering::SeqCst) {
                        return Poll::Ready(());
                    }
                    if waiter.news.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }));
        }
        let before = self.in_use.fetch_add(1, Ordering::SeqCst);
        assert!(before < at_most, "{before} have a slot already");
        self.in_use.fetch_sub(1, Ordering::SeqCst);
        self.give_back();
    }

    fn take(&self, sequence: u64) -> (Arc<Waiter>, Taken) {
        let waiter = Arc::new(Waiter {
            granted: AtomicBool::new(false),
            news: Notify::default(),
        });
        let taken = self.limit.take(listener(sequence), || Arc::clone(&waiter));
        (waiter, taken)
    }
}

#[test]
fn released_slot_wakes_a_waiter() {
    check(Any, || {
        let model = Model::new(1);
        assert!(model.limit.try_take());
        let waits = Arc::clone(&model);
        spawn(move || waits.use_slot(1, 1));
        model.give_back();
    });
}

#[test]
fn two_listeners_share_one_slot() {
    check(Interruptions::AtMost(3), || {
        let model = Model::new(1);
        assert!(model.limit.try_take());
        for sequence in [1, 2] {
            let waits = Arc::clone(&model);
            spawn(move || waits.use_slot(sequence, 1));
        }
        model.give_back();
    });
}

#[test]
fn raised_limit_wakes_a_waiter() {
    check(Any, || {
        let model = Model::new(1);
        assert!(model.limit.try_take());
        let waits = Arc::clone(&model);
        spawn(move || waits.use_slot(1, 1));
        model.change(2);
    });
}

#[test]
fn leaver_loses_no_slot() {
    check(Any, || {
        let model = Model::new(1);
        assert!(model.limit.try_take());
        let leaves = Arc::clone(&model);
        let next = Arc::clone(&model);
        spawn(move || {
            let (waiter, taken) = leaves.take(1);
            let has_slot = taken == Taken::Slot || !leaves.limit.leave(listener(1));
            let granted = waiter.granted.load(Ordering::SeqCst);
            assert_eq!(has_slot, taken == Taken::Slot || granted);
            if has_slot {
                leaves.give_back();
            }
        });
        model.give_back();
        next.use_slot(2, 1);
    });
}

#[test]
fn lowered_limit_is_not_exceeded() {
    check(Any, || {
        let model = Model::new(2);
        assert!(model.limit.try_take());
        let takes = Arc::clone(&model);
        spawn(move || {
            if takes.limit.try_take() {
                takes.give_back();
            }
        });
        model.change(1);
        assert!(!model.limit.try_take(), "there is a slot beyond the limit");
        model.give_back();
    });
}
