//! The notify: whoever has something to tell rings, the pool's own task listens and then looks.

use std::future::poll_fn;
use std::sync::Arc;

use super::{Interruptions::Any, block_on, block_on_with_new_wakers, check, spawn};
use crate::sync::notify::Notify;
use crate::sync::{Mutex, lock};

#[derive(Default)]
struct QueueSignal {
    notify: Notify,
    told: Mutex<usize>,
}

impl QueueSignal {
    fn tell(&self) {
        *lock(&self.told) += 1;
        self.notify.notify();
    }

    /// As the pool's own task does: looks, then listens, then looks again.
    async fn hear(&self, count: usize) {
        while *lock(&self.told) < count {
            poll_fn(|cx| self.notify.poll(cx)).await;
        }
    }
}

#[test]
fn news_that_comes_between_looking_and_listening_is_heard() {
    check(Any, || {
        let news = Arc::new(QueueSignal::default());
        let teller = Arc::clone(&news);
        spawn(move || teller.tell());
        block_on(news.hear(1));
    });
}

#[test]
fn news_that_comes_while_one_wakes_up_is_heard_in_whatever_task() {
    check(Any, || {
        let news = Arc::new(QueueSignal::default());
        let teller = Arc::clone(&news);
        spawn(move || {
            teller.tell();
            teller.tell();
        });
        block_on_with_new_wakers(news.hear(2));
    });
}

#[test]
fn news_from_two_at_once_is_heard() {
    check(Any, || {
        let news = Arc::new(QueueSignal::default());
        let tellers = [Arc::clone(&news), Arc::clone(&news)];
        for teller in tellers {
            spawn(move || teller.tell());
        }
        block_on(news.hear(2));
    });
}
