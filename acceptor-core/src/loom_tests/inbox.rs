//! The inbox: arriving acceptors and news, against the accept loop that collects them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Interruptions::{Any, AtMost};
use super::{block_on, block_on_with_new_wakers, check, outcomes, spawn};
use crate::machine::command::CloseReason;
use crate::machine::effects::{Close, Queued};
use crate::pool::inbox::{Inbox, News};
use crate::sync::{Mutex, lock};

/// An inbox whose accept loop has started the acceptors that the listener was added with.
fn inbox<T>() -> Arc<Inbox<T>> {
    Arc::new(Inbox::new())
}

/// Returns the first acceptor in the queue; waits for one if it is empty.
async fn first(inbox: &Inbox<u32>, queue: &mut VecDeque<u32>) -> u32 {
    poll_fn(|cx| {
        let mut arrived = VecDeque::new();
        inbox.collect(&mut arrived, !queue.is_empty(), None, cx.waker());
        queue.extend(arrived);
        queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Collects until all of this news has come.
async fn news<T>(inbox: &Inbox<T>, arrived: &mut VecDeque<T>, enough: impl Fn(&News) -> bool) {
    let mut all = News::default();
    poll_fn(|cx| {
        let mut more = VecDeque::new();
        let news = inbox.collect(&mut more, !arrived.is_empty(), None, cx.waker());
        arrived.extend(more);
        all.starts |= news.starts;
        all.commanded |= news.commanded;
        all.resume |= news.resume;
        all.close = news.close.or(all.close);
        if enough(&all) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Collects as an accept loop does: without the lock, unless something has come or the loop's state has changed.
async fn all(inbox: &Inbox<u32>, queue: &mut VecDeque<u32>, enough: impl Fn(&News, u32) -> bool) {
    let (mut told, mut seen, mut sum) = (None, News::default(), 0);
    poll_fn(|cx| {
        loop {
            let known = !queue.is_empty();
            if !inbox.has_news(told, known, None, cx.waker()) {
                break;
            }
            let mut arrived = VecDeque::new();
            let (news, tells) = inbox.collect_and_tell(&mut arrived, known, None, cx.waker());
            told = Some(tells);
            queue.extend(arrived);
            seen.commanded |= news.commanded;
            seen.close = news.close.or(seen.close);
        }
        sum += queue.drain(..).sum::<u32>();
        if enough(&seen, sum) {
            Poll::Ready(())
        } else if inbox.has_news(told, false, None, cx.waker()) {
            // The queue is empty now, which the loop reports before it sleeps.
            cx.waker().wake_by_ref();
            Poll::Pending
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[test]
fn lock_free_read_misses_no_arrival() {
    for new_wakers in [false, true] {
        check(AtMost(3), move || {
            let inbox = inbox();
            for number in [1, 2] {
                let arriving = Arc::clone(&inbox);
                spawn(move || arriving.push(number, None));
            }
            let mut queue = VecDeque::new();
            let all = all(&inbox, &mut queue, |_, sum| sum == 3);
            match new_wakers {
                false => block_on(all),
                true => block_on_with_new_wakers(all),
            }
        });
    }
}

#[test]
fn lock_free_read_misses_no_news() {
    for new_wakers in [false, true] {
        check(AtMost(3), move || {
            let inbox = inbox();
            let (commands, arriving) = (Arc::clone(&inbox), Arc::clone(&inbox));
            spawn(move || {
                commands.commanded();
                let (reason, queued) = (CloseReason::Closed, Queued::Accepted);
                commands.close(Close { reason, queued });
            });
            spawn(move || arriving.push(3, None));
            let mut queue = VecDeque::new();
            let enough = |news: &News, sum| news.commanded && news.close.is_some() && sum == 3;
            let all = all(&inbox, &mut queue, enough);
            match new_wakers {
                false => block_on(all),
                true => block_on_with_new_wakers(all),
            }
        });
    }
}

#[test]
fn arrival_at_empty_queue_is_collected() {
    check(Any, || {
        let inbox = inbox();
        let arriving = Arc::clone(&inbox);
        spawn(move || arriving.push(1, None));
        assert_eq!(block_on(first(&inbox, &mut VecDeque::new())), 1);
    });
}

#[test]
fn arrivals_keep_their_order() {
    check(Any, || {
        let inbox = inbox();
        let arriving = Arc::clone(&inbox);
        spawn(move || {
            let _ = arriving.push(1, None);
            let _ = arriving.push(2, None);
        });
        let mut queue = VecDeque::new();
        block_on_with_new_wakers(async {
            for expected in 1..=2 {
                assert_eq!(first(&inbox, &mut queue).await, expected);
            }
        });
    });
}

#[test]
fn concurrent_arrivals_are_collected() {
    check(Any, || {
        let inbox = inbox();
        for number in 1..=2 {
            let arriving = Arc::clone(&inbox);
            spawn(move || arriving.push(number, None));
        }
        let mut queue = VecDeque::new();
        let mut sum = 0;
        for _ in 0..2 {
            sum += block_on(first(&inbox, &mut queue));
        }
        assert_eq!(sum, 3);
    });
}

/// As an accept loop does after it has accepted a connection.
#[test]
fn arrival_between_reads_is_taken_once() {
    check(Any, || {
        let inbox = inbox();
        let arriving = Arc::clone(&inbox);
        spawn(move || {
            let _ = arriving.push(1, None);
            let _ = arriving.push(2, None);
        });
        let mut queue = VecDeque::new();
        inbox.take_arrived(&mut queue);
        for expected in 1..=2 {
            assert_eq!(block_on(first(&inbox, &mut queue)), expected);
        }
    });
}

#[test]
fn concurrent_news_is_collected() {
    check(Any, || {
        let inbox = inbox::<u32>();
        let (commanded, resumed) = (Arc::clone(&inbox), Arc::clone(&inbox));
        spawn(move || commanded.commanded());
        spawn(move || resumed.resume());
        let enough = |news: &News| news.commanded && news.resume && news.starts;
        block_on(news(&inbox, &mut VecDeque::new(), enough));
    });
}

#[test]
fn command_is_visible_with_its_news() {
    check(Any, || {
        let inbox = inbox();
        let _ = inbox.push(1, None);
        let command = Arc::new(Mutex::new(false));
        let (given, announced) = (Arc::clone(&command), Arc::clone(&inbox));
        spawn(move || {
            *lock(&given) = true;
            announced.commanded();
        });
        let mut queue = VecDeque::new();
        block_on_with_new_wakers(news(&inbox, &mut queue, |news| news.commanded));
        assert!(*lock(&command));
    });
}

#[test]
fn concurrent_close_without_queue_wins() {
    check(Any, || {
        let inbox = inbox::<u32>();
        for (reason, queued) in [
            (CloseReason::Closed, Queued::Accepted),
            (CloseReason::Stopped, Queued::Reset),
        ] {
            let closed = Arc::clone(&inbox);
            spawn(move || closed.close(Close { reason, queued }));
        }
        let reset = |news: &News| {
            news.close
                .is_some_and(|close| close.queued == Queued::Reset)
        };
        block_on(news(&inbox, &mut VecDeque::new(), reset));
    });
}

#[test]
fn arrival_at_shut_is_taken_or_returned() {
    let taken = outcomes(Any, || {
        let inbox = inbox();
        let arriving = Arc::clone(&inbox);
        let arriving = spawn(move || arriving.push(1, None).is_ok());
        let mut queue = VecDeque::new();
        block_on(news(&inbox, &mut queue, |news| news.starts));
        queue.extend(inbox.shut());
        let taken = arriving.join();
        assert_eq!(queue.len(), usize::from(taken));
        taken
    });
    assert_eq!(taken, [false, true].into());
}

#[test]
fn earlier_timeout_wakes_the_accept_loop() {
    let soon = Instant::now();
    let late = soon + Duration::from_secs(1);
    check(Any, move || {
        let inbox = inbox();
        let _ = inbox.push(late, Some(late));
        let arriving = Arc::clone(&inbox);
        spawn(move || arriving.push(soon, Some(soon)));
        let (mut queue, mut timer) = (VecDeque::new(), None);
        block_on(poll_fn(|cx| {
            loop {
                let mut arrived = VecDeque::new();
                inbox.collect(&mut arrived, !queue.is_empty(), timer, cx.waker());
                queue.extend(arrived);
                let earliest = queue.iter().min().copied();
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
