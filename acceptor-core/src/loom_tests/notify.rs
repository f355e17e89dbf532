//! The notify: a thread with news notifies, the task that listens looks for them.

use std::future::poll_fn;
use std::sync::Arc;

use super::{Interruptions::Any, block_on, block_on_with_new_wakers, check, spawn};
use crate::sync::notify::Notify;
use crate::sync::{Mutex, lock};

#[derive(Default)]
struct News {
    notify: Notify,
    count: Mutex<usize>,
}

impl News {
    fn announce(&self) {
        *lock(&self.count) += 1;
        self.notify.notify();
    }

    /// As the pool's own tasks do: looks, then listens, then looks again.
    async fn hear(&self, count: usize) {
        while *lock(&self.count) < count {
            poll_fn(|cx| self.notify.poll(cx)).await;
        }
    }
}

#[test]
fn news_between_looking_and_listening_is_heard() {
    check(Any, || {
        let news = Arc::new(News::default());
        let announced = Arc::clone(&news);
        spawn(move || announced.announce());
        block_on(news.hear(1));
    });
}

#[test]
fn news_while_the_task_wakes_up_is_heard_whatever_its_waker() {
    check(Any, || {
        let news = Arc::new(News::default());
        let announced = Arc::clone(&news);
        spawn(move || {
            announced.announce();
            announced.announce();
        });
        block_on_with_new_wakers(news.hear(2));
    });
}

#[test]
fn news_from_two_threads_at_once_is_heard() {
    check(Any, || {
        let news = Arc::new(News::default());
        for _ in 0..2 {
            let announced = Arc::clone(&news);
            spawn(move || announced.announce());
        }
        block_on(news.hear(2));
    });
}

#[test]
fn nudge_takes_no_news_away() {
    check(Any, || {
        let news = Arc::new(News::default());
        let (nudged, announced) = (Arc::clone(&news), Arc::clone(&news));
        spawn(move || nudged.notify.wake_task());
        spawn(move || announced.announce());
        block_on(news.hear(1));
    });
}
