//! Latches: the tasks that wait, against the one that sets them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::{Interruptions::Any, block_on, block_on_with_new_wakers, check, spawn};
use crate::latch::Latch;
use crate::sync::TaskWaker;
use crate::sync::notify::Notify;

#[test]
fn wait_during_set_is_woken() {
    check(Any, || {
        let latch = Latch::new();
        let setter = latch.clone();
        spawn(move || setter.set());
        block_on(latch.wait());
        assert!(latch.is_set());
    });
}

#[test]
fn all_waiters_are_woken() {
    check(Any, || {
        let latch = Latch::new();
        let (setter, waiter) = (latch.clone(), latch.clone());
        spawn(move || block_on(waiter.wait()));
        spawn(move || setter.set());
        block_on(latch.wait());
    });
}

/// As when a call raises *draining*, and the driver wakes its waiters.
#[test]
fn wait_during_raise_is_woken() {
    check(Any, || {
        let (latch, news) = (Latch::new(), Arc::new(Notify::default()));
        let (raised, announced) = (latch.clone(), Arc::clone(&news));
        spawn(move || {
            raised.raise();
            announced.notify();
        });
        let walked = latch.clone();
        spawn(move || {
            block_on(std::future::poll_fn(|cx| news.poll(cx)));
            walked.take_waiters().for_each(TaskWaker::wake);
        });
        block_on(latch.wait());
    });
}

#[test]
fn concurrent_takers_wake_all_waiters() {
    check(Any, || {
        let latch = Latch::new();
        for _ in 0..2 {
            let setter = latch.clone();
            spawn(move || setter.set());
        }
        block_on(latch.wait());
    });
}

/// As when a runtime drops the driver during its walk.
#[test]
fn interrupted_walk_wakes_the_rest() {
    check(Any, || {
        let latch = Latch::new();
        let waiter = latch.clone();
        spawn(move || block_on(waiter.wait()));
        latch.raise();
        drop(latch.take_waiters());
    });
}

/// Polls once, as a task does that also has other work.
fn begin_to_wait(latch: &Latch) -> impl Future<Output = ()> + use<> {
    let mut wait = latch.wait();
    let _ = Pin::new(&mut wait).poll(&mut Context::from_waker(Waker::noop()));
    wait
}

#[test]
fn moved_wait_is_woken_in_its_new_task() {
    check(Any, || {
        let latch = Latch::new();
        let setter = latch.clone();
        spawn(move || setter.set());
        block_on_with_new_wakers(begin_to_wait(&latch));
    });
}

#[test]
fn dropped_wait_spares_other_waiters() {
    check(Any, || {
        let latch = Latch::new();
        let (setter, waiter) = (latch.clone(), latch.clone());
        spawn(move || setter.set());
        spawn(move || block_on(waiter.wait()));
        drop(begin_to_wait(&latch));
    });
}
