//! The notify: a thread publishes news and notifies; the listening task looks for it.

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

    /// Looks, then listens, then looks again, as the pool's own tasks do.
    async fn hear(&self, count: usize) {
        while *lock(&self.count) < count {
            poll_fn(|cx| self.notify.poll(cx)).await;
        }
    }
}

#[test]
fn news_before_listening_is_seen() {
    check(Any, || {
        let news = Arc::new(News::default());
        let announced = Arc::clone(&news);
        spawn(move || announced.announce());
        block_on(news.hear(1));
    });
}

#[test]
fn news_during_wakeup_is_seen() {
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
fn concurrent_news_is_seen() {
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
fn wake_task_keeps_the_news() {
    check(Any, || {
        let news = Arc::new(News::default());
        let (nudged, announced) = (Arc::clone(&news), Arc::clone(&news));
        spawn(move || nudged.notify.wake_task());
        spawn(move || announced.announce());
        block_on(news.hear(1));
    });
}
