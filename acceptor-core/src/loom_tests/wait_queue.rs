//! The line: acceptors that join, against the watcher that collects them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Interruptions::Any, block_on, block_on_with_new_wakers, check, spawn};
use crate::pool::wait_queue::{QueueSignal, WaitQueue};
use crate::sync::{Mutex, lock};

/// The first who is in line; waits for one if there is none.
async fn first(line: &WaitQueue<u32>, waiting: &mut VecDeque<u32>) -> u32 {
    poll_fn(|cx| {
        line.collect(waiting, None, cx.waker());
        waiting.pop_front().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

#[test]
fn who_joins_as_the_watcher_begins_to_starve_is_collected() {
    check(Any, || {
        let line = Arc::new(WaitQueue::new());
        let joiner = Arc::clone(&line);
        spawn(move || joiner.join(1, None));
        assert_eq!(block_on(first(&line, &mut VecDeque::new())), 1);
    });
}

#[test]
fn who_joins_first_is_served_first_and_nobody_is_forgotten() {
    check(Any, || {
        let line = Arc::new(WaitQueue::new());
        let joiner = Arc::clone(&line);
        spawn(move || {
            let _ = joiner.join(1, None);
            let _ = joiner.join(2, None);
        });
        let mut waiting = VecDeque::new();
        block_on_with_new_wakers(async {
            for expected in 1..=2 {
                assert_eq!(first(&line, &mut waiting).await, expected);
            }
        });
    });
}

#[test]
fn two_who_join_at_once_are_both_served() {
    check(Any, || {
        let line = Arc::new(WaitQueue::new());
        for number in 1..=2 {
            let joiner = Arc::clone(&line);
            spawn(move || joiner.join(number, None));
        }
        let mut waiting = VecDeque::new();
        let mut sum = 0;
        for _ in 0..2 {
            sum += block_on(first(&line, &mut waiting));
        }
        assert_eq!(sum, 3);
    });
}

#[test]
fn something_told_to_who_is_in_line_is_looked_at() {
    check(Any, || {
        let line = Arc::new(WaitQueue::new());
        let _ = line.join(1, None);
        let told = Arc::new(Mutex::new(false));
        let (teller, poked) = (Arc::clone(&told), Arc::clone(&line));
        spawn(move || {
            *lock(&teller) = true;
            poked.poke();
        });
        let mut waiting = VecDeque::new();
        block_on(poll_fn(|cx| {
            let news = line.collect(&mut waiting, None, cx.waker());
            if news == QueueSignal::Commanded && *lock(&told) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
    });
}

#[test]
fn a_line_that_closes_is_found_closed_though_somebody_in_it_is_told_something() {
    check(Any, || {
        let line = Arc::new(WaitQueue::<u32>::new());
        let (poked, closed) = (Arc::clone(&line), Arc::clone(&line));
        spawn(move || poked.poke());
        spawn(move || closed.close());
        let mut waiting = VecDeque::new();
        block_on(poll_fn(|cx| {
            match line.collect(&mut waiting, None, cx.waker()) {
                QueueSignal::Closed => Poll::Ready(()),
                QueueSignal::None | QueueSignal::Commanded => Poll::Pending,
            }
        }));
    });
}

#[test]
fn who_joins_as_the_line_closes_is_collected_or_given_back() {
    check(Any, || {
        let line = Arc::new(WaitQueue::new());
        let (joined, closed) = (Arc::clone(&line), Arc::clone(&line));
        let joining = spawn(move || joined.join(1, None).is_ok());
        spawn(move || closed.close());
        let mut waiting = VecDeque::new();
        block_on(poll_fn(|cx| {
            match line.collect(&mut waiting, None, cx.waker()) {
                QueueSignal::Closed => Poll::Ready(()),
                QueueSignal::None | QueueSignal::Commanded => Poll::Pending,
            }
        }));
        assert_eq!(waiting.len(), usize::from(joining.join()));
    });
}

#[test]
fn who_joins_with_the_earliest_time_out_has_the_watchers_timer_set_to_it() {
    let soon = Instant::now();
    let late = soon + Duration::from_secs(1);
    check(Any, move || {
        let line = Arc::new(WaitQueue::new());
        let _ = line.join(late, Some(late));
        let joiner = Arc::clone(&line);
        spawn(move || joiner.join(soon, Some(soon)));
        let (mut waiting, mut timer) = (VecDeque::new(), None);
        block_on(poll_fn(|cx| {
            loop {
                line.collect(&mut waiting, timer, cx.waker());
                let earliest = waiting.iter().min().copied();
                if timer == earliest {
                    break;
                }
                timer = earliest;
            }
            if timer == Some(soon) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
    });
}
