//! The line of acceptors that wait on one listener, as they join it (L6).
//!
//! Acceptors join here, from their own tasks; the listener's demand collects
//! them and is the only one to take them out again. Invariants: who joins is
//! collected in that order; a closed line gives back who comes too late; the
//! demand is woken for a joiner only if it waits for one, or for an earlier time-out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::child::erased::ErasedChild;
use crate::id::ChildId;
use crate::listener::Listener;
use crate::machine::child_end::WaitTime;
use crate::sync::{Mutex, drop_catching, lock, wake};

/// An acceptor that waits for a connection.
pub(crate) struct Waiter<L: Listener> {
    pub(crate) id: ChildId,
    pub(crate) child: Arc<dyn ErasedChild<L>>,
    /// When its accept time-out comes, and how long that is.
    pub(crate) deadline: Option<(Instant, WaitTime)>,
}

/// Why an acceptor leaves the line without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DismissReason {
    TimedOut,
    /// Commanded to, or about to be.
    Commanded,
}

/// What the demand finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueSignal {
    None,
    /// Somebody in line was told something.
    Commanded,
    Closed,
}

pub(crate) struct WaitQueue<T> {
    state: Mutex<QueueState<T>>,
}

struct QueueState<T> {
    joined: VecDeque<T>,
    demand: Demand,
    news: QueueSignal,
    /// The demand's timer will wake it then.
    timer: Option<Instant>,
    waker: Option<Waker>,
}

/// Whether the demand has somebody to accept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Satisfied,
    Waiting_,
}

impl<T> WaitQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(QueueState {
                joined: VecDeque::new(),
                demand: Demand::Satisfied,
                news: QueueSignal::None,
                timer: None,
                waker: None,
            }),
        }
    }

    /// Begins to wait; gives the acceptor back if the line is closed.
    pub(crate) fn join(&self, waiting: T, deadline: Option<Instant>) -> Result<(), T> {
        let waker = {
            let mut state = lock(&self.state);
            if state.news == QueueSignal::Closed {
                return Err(waiting);
            }
            state.joined.push_back(waiting);
            let timer = state.timer;
            let sooner = deadline.is_some_and(|at| timer.is_none_or(|timer| at < timer));
            let starving = std::mem::replace(&mut state.demand, Demand::Satisfied);
            if sooner || starving == Demand::Waiting_ {
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

    /// Moves who joined to the end of `line`, for a demand that will look for news before it sleeps.
    pub(crate) fn take_joined(&self, line: &mut VecDeque<T>) {
        line.append(&mut lock(&self.state).joined);
    }

    /// Somebody in line was told something, or may have been.
    pub(crate) fn poke(&self) {
        self.announce(QueueSignal::Commanded);
    }

    /// Nobody waits here any more.
    pub(crate) fn close(&self) {
        self.announce(QueueSignal::Closed);
    }

    fn announce(&self, news: QueueSignal) {
        let waker = {
            let mut state = lock(&self.state);
            if state.news != QueueSignal::Closed {
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
    ) -> QueueSignal {
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
        state.demand = if line.is_empty() {
            Demand::Waiting_
        } else {
            Demand::Satisfied
        };
        state.timer = timer;
        let news = state.news;
        if news == QueueSignal::Commanded {
            state.news = QueueSignal::None;
        }
        drop(state);
        drop_catching(replaced);
        news
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sync::testing::WakeCounter;

    /// A line, its demand, and who stands before the demand.
    struct Bench {
        line: WaitQueue<u8>,
        demand: WakeCounter,
        collected: VecDeque<u8>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                line: WaitQueue::new(),
                demand: WakeCounter::new(),
                collected: VecDeque::new(),
                now: Instant::now(),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.now + Duration::from_millis(ms)
        }

        /// The demand looks, with a timer for then.
        #[track_caller]
        fn collect(&mut self, timer: Option<Instant>, news: QueueSignal, line: &[u8]) {
            let demand = self.demand.waker();
            let seen = self.line.collect(&mut self.collected, timer, demand);
            assert_eq!((seen, &self.collected), (news, &line.to_vec().into()));
        }

        /// Somebody joins; how often the demand was woken by then.
        #[track_caller]
        fn join(&self, number: u8, deadline: Option<Instant>, wakes: usize) {
            assert_eq!(self.line.join(number, deadline), Ok(()));
            assert_eq!(self.demand.wakes(), wakes);
        }
    }

    #[test]
    fn who_joins_is_collected_in_order_and_wakes_a_watcher_that_has_nobody() {
        let mut bench = Bench::new();
        bench.collect(None, QueueSignal::None, &[]);
        bench.join(1, None, 1);
        bench.join(2, None, 1);
        bench.collect(None, QueueSignal::None, &[1, 2]);
        bench.join(3, None, 1);
        bench.collect(None, QueueSignal::None, &[1, 2, 3]);
        bench.collected.clear();
        bench.collect(None, QueueSignal::None, &[]);
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
        bench.collect(None, QueueSignal::None, &[1, 2, 3]);
    }

    #[test]
    fn who_joins_wakes_the_watcher_if_its_timer_would_be_too_late() {
        let mut bench = Bench::new();
        bench.collected.push_back(0);
        bench.collect(None, QueueSignal::None, &[0]);
        bench.join(1, Some(bench.at(20)), 1);
        bench.collect(Some(bench.at(20)), QueueSignal::None, &[0, 1]);
        bench.join(2, Some(bench.at(21)), 1);
        bench.join(3, Some(bench.at(20)), 1);
        bench.join(4, None, 1);
        bench.join(5, Some(bench.at(19)), 2);
    }

    #[test]
    fn news_is_told_once_and_a_closed_line_stays_closed() {
        let mut bench = Bench::new();
        bench.collect(None, QueueSignal::None, &[]);
        bench.line.poke();
        assert_eq!(bench.demand.wakes(), 1);
        bench.collect(None, QueueSignal::Commanded, &[]);
        bench.collect(None, QueueSignal::None, &[]);
        bench.join(1, None, 2);
        bench.line.close();
        assert_eq!(bench.demand.wakes(), 3);
        assert_eq!(bench.line.join(2, None), Err(2));
        bench.line.poke();
        bench.collect(None, QueueSignal::Closed, &[1]);
        bench.collect(None, QueueSignal::Closed, &[1]);
    }

    #[test]
    fn the_waker_of_the_last_look_is_woken() {
        let mut bench = Bench::new();
        bench.collect(None, QueueSignal::None, &[]);
        let before = std::mem::replace(&mut bench.demand, WakeCounter::new());
        bench.collect(None, QueueSignal::None, &[]);
        bench.line.poke();
        assert_eq!((before.wakes(), bench.demand.wakes()), (0, 1));
    }
}
