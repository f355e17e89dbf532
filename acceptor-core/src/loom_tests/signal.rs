//! The signals: who waits, against who sets.

use std::pin::Pin;
use std::task::{Context, Waker};

use super::{Interruptions::Any, block_on, block_on_with_new_wakers, check, spawn};
use crate::signal::Signal;

#[test]
fn who_begins_to_wait_as_it_is_set_hears_it() {
    check(Any, || {
        let signal = Signal::new();
        let setter = signal.clone();
        spawn(move || setter.set());
        block_on(signal.wait());
        assert!(signal.is_set());
    });
}

#[test]
fn everybody_who_waits_hears_it() {
    check(Any, || {
        let signal = Signal::new();
        let (setter, waiter) = (signal.clone(), signal.clone());
        spawn(move || block_on(waiter.wait()));
        spawn(move || setter.set());
        block_on(signal.wait());
    });
}

/// Polls once, as a task does that has more to do than to wait.
fn begin_to_wait(signal: &Signal) -> impl Future<Output = ()> + use<> {
    let mut wait = signal.wait();
    let _ = Pin::new(&mut wait).poll(&mut Context::from_waker(Waker::noop()));
    wait
}

#[test]
fn who_goes_on_to_wait_in_another_task_hears_it_there() {
    check(Any, || {
        let signal = Signal::new();
        let setter = signal.clone();
        spawn(move || setter.set());
        block_on_with_new_wakers(begin_to_wait(&signal));
    });
}

#[test]
fn who_gives_up_waiting_takes_nobody_elses_place() {
    check(Any, || {
        let signal = Signal::new();
        let (setter, waiter) = (signal.clone(), signal.clone());
        spawn(move || setter.set());
        spawn(move || block_on(waiter.wait()));
        drop(begin_to_wait(&signal));
    });
}
