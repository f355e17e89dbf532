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

    /// Whether nobody has joined that is not collected yet.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).joined.is_empty()
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
