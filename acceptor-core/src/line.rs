//! The line of acceptors that wait on one listener, as they join it (L6).
//!
//! Acceptors join here, from their own tasks; the listener's watcher collects
//! them and is the only one to take them out again. Invariants: who joins is
//! collected in that order; a closed line gives back who comes too late; the
//! watcher is woken for a joiner only if it waits for one, or for an earlier time-out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::end::Waited;
use crate::id::ChildId;
use crate::listener::Listener;
use crate::seat::Child;
use crate::sync::{Mutex, drop_guarded, lock, wake};

/// An acceptor that waits for a connection.
pub(crate) struct Waiting<L: Listener> {
    pub(crate) id: ChildId,
    pub(crate) seat: Arc<dyn Child<L>>,
    /// When its accept time-out comes, and how long that is.
    pub(crate) deadline: Option<(Instant, Waited)>,
}

/// Why an acceptor leaves the line without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    TimedOut,
    /// Told to, or about to be.
    Told,
}

/// What the watcher finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    None,
    /// Somebody in line was told something.
    Told,
    Closed,
}

pub(crate) struct Line<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    joined: VecDeque<T>,
    watcher: Watcher,
    news: News,
    /// The watcher's timer will wake it then.
    timer: Option<Instant>,
    waker: Option<Waker>,
}

/// Whether the watcher has somebody to accept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watcher {
    Supplied,
    Starving,
}

impl<T> Line<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                joined: VecDeque::new(),
                watcher: Watcher::Supplied,
                news: News::None,
                timer: None,
                waker: None,
            }),
        }
    }

    /// Begins to wait; gives the acceptor back if the line is closed.
    pub(crate) fn join(&self, waiting: T, deadline: Option<Instant>) -> Result<(), T> {
        let waker = {
            let mut state = lock(&self.state);
            if state.news == News::Closed {
                return Err(waiting);
            }
            state.joined.push_back(waiting);
            let timer = state.timer;
            let sooner = deadline.is_some_and(|at| timer.is_none_or(|timer| at < timer));
            let starving = std::mem::replace(&mut state.watcher, Watcher::Supplied);
            if sooner || starving == Watcher::Starving {
                state.waker.clone()
            } else {
                None
            }
        };
        if let Some(waker) = waker {
            wake(waker);
        }
        Ok(())
    }

    /// Moves who joined to the end of `line`, for a watcher that will look for news before it sleeps.
    pub(crate) fn take_joined(&self, line: &mut VecDeque<T>) {
        line.append(&mut lock(&self.state).joined);
    }

    /// Somebody in line was told something, or may have been.
    pub(crate) fn poke(&self) {
        self.announce(News::Told);
    }

    /// Nobody waits here any more.
    pub(crate) fn close(&self) {
        self.announce(News::Closed);
    }

    fn announce(&self, news: News) {
        let waker = {
            let mut state = lock(&self.state);
            if state.news != News::Closed {
                state.news = news;
            }
            state.waker.clone()
        };
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Moves who joined to the end of `line`, and tells what else there is.
    pub(crate) fn collect(
        &self,
        line: &mut VecDeque<T>,
        timer: Option<Instant>,
        waker: &Waker,
    ) -> News {
        let mut state = lock(&self.state);
        let mut replaced = None;
        if !state
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            replaced = state.waker.replace(waker.clone());
        }
        if !state.joined.is_empty() {
            line.append(&mut state.joined);
        }
        state.watcher = if line.is_empty() {
            Watcher::Starving
        } else {
            Watcher::Supplied
        };
        state.timer = timer;
        let news = state.news;
        if news == News::Told {
            state.news = News::None;
        }
        drop(state);
        drop_guarded(replaced);
        news
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sync::testing::WakeCounter;

    /// A line, its watcher, and who stands before the watcher.
    struct Bench {
        line: Line<u8>,
        watcher: WakeCounter,
        collected: VecDeque<u8>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                line: Line::new(),
                watcher: WakeCounter::new(),
                collected: VecDeque::new(),
                now: Instant::now(),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.now + Duration::from_millis(ms)
        }

        /// The watcher looks, with a timer for then.
        #[track_caller]
        fn collect(&mut self, timer: Option<Instant>, news: News, line: &[u8]) {
            let watcher = self.watcher.waker();
            let seen = self.line.collect(&mut self.collected, timer, watcher);
            assert_eq!((seen, &self.collected), (news, &line.to_vec().into()));
        }

        /// Somebody joins; how often the watcher was woken by then.
        #[track_caller]
        fn join(&self, number: u8, deadline: Option<Instant>, wakes: usize) {
            assert_eq!(self.line.join(number, deadline), Ok(()));
            assert_eq!(self.watcher.wakes(), wakes);
        }
    }

    #[test]
    fn who_joins_is_collected_in_order_and_wakes_a_watcher_that_has_nobody() {
        let mut bench = Bench::new();
        bench.collect(None, News::None, &[]);
        bench.join(1, None, 1);
        bench.join(2, None, 1);
        bench.collect(None, News::None, &[1, 2]);
        bench.join(3, None, 1);
        bench.collect(None, News::None, &[1, 2, 3]);
        bench.collected.clear();
        bench.collect(None, News::None, &[]);
        bench.join(4, None, 2);
    }

    #[test]
    fn who_joined_can_be_taken_ahead_of_the_next_look() {
        let mut bench = Bench::new();
        bench.join(1, None, 0);
        bench.line.take_joined(&mut bench.collected);
        assert_eq!(bench.collected, [1]);
        bench.collected.push_back(2);
        bench.join(3, None, 0);
        bench.collect(None, News::None, &[1, 2, 3]);
    }

    #[test]
    fn who_joins_wakes_the_watcher_if_its_timer_would_be_too_late() {
        let mut bench = Bench::new();
        bench.collected.push_back(0);
        bench.collect(None, News::None, &[0]);
        bench.join(1, Some(bench.at(20)), 1);
        bench.collect(Some(bench.at(20)), News::None, &[0, 1]);
        bench.join(2, Some(bench.at(21)), 1);
        bench.join(3, Some(bench.at(20)), 1);
        bench.join(4, None, 1);
        bench.join(5, Some(bench.at(19)), 2);
    }

    #[test]
    fn news_is_told_once_and_a_closed_line_stays_closed() {
        let mut bench = Bench::new();
        bench.collect(None, News::None, &[]);
        bench.line.poke();
        assert_eq!(bench.watcher.wakes(), 1);
        bench.collect(None, News::Told, &[]);
        bench.collect(None, News::None, &[]);
        bench.join(1, None, 2);
        bench.line.close();
        assert_eq!(bench.watcher.wakes(), 3);
        assert_eq!(bench.line.join(2, None), Err(2));
        bench.line.poke();
        bench.collect(None, News::Closed, &[1]);
        bench.collect(None, News::Closed, &[1]);
    }

    #[test]
    fn the_waker_of_the_last_look_is_woken() {
        let mut bench = Bench::new();
        bench.collect(None, News::None, &[]);
        let before = std::mem::replace(&mut bench.watcher, WakeCounter::new());
        bench.collect(None, News::None, &[]);
        bench.line.poke();
        assert_eq!((before.wakes(), bench.watcher.wakes()), (0, 1));
    }
}
