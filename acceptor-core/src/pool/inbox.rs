//! The channel from the rest of the pool to an accept loop: acceptors that begin to wait, and news.
//!
//! Invariants: acceptors are collected in the order of arrival (L6); a closed inbox returns an
//! acceptor that arrives too late; the accept loop is woken for an arrival only if it has no other
//! waiter, or for an earlier timeout (L5).

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use crate::machine::effects::{Close, Queued};
use crate::sync::{AtomicBool, Mutex, Ordering, TaskWaker, WakerId, lock};

pub(crate) struct Inbox<T> {
    state: Mutex<InboxState<T>>,
    /// Whether anything has arrived since the accept loop collected. Written under the lock, and
    /// read without it.
    fresh: AtomicBool,
}

/// The state of an accept loop as its inbox knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    known: bool,
    timer: Option<Instant>,
    waker: Option<WakerId>,
}

struct InboxState<T> {
    arrived: VecDeque<T>,
    news: News,
    closed: bool,
    demand: Demand,
    /// When the accept loop's timer wakes it.
    timer: Option<Instant>,
    waker: TaskWaker,
}

/// The work of an accept loop besides accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct News {
    /// Acceptors must be started.
    pub(crate) starts: bool,
    /// A waiting acceptor was commanded to end.
    pub(crate) commanded: bool,
    /// A connection has ended while the listener pauses: a descriptor may be free (A2).
    pub(crate) resume: bool,
    /// The listener must close.
    pub(crate) close: Option<Close>,
}

/// Whether the accept loop has an acceptor that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Satisfied,
    Hungry,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(InboxState {
                arrived: VecDeque::new(),
                // The acceptors that the listener is added with.
                news: News {
                    starts: true,
                    ..News::default()
                },
                closed: false,
                demand: Demand::Satisfied,
                timer: None,
                waker: TaskWaker::default(),
            }),
            fresh: AtomicBool::new(true),
        }
    }

    /// Adds an acceptor that begins to wait. Returns it if the inbox is closed.
    pub(crate) fn push(&self, waiter: T, deadline: Option<Instant>) -> Result<(), T> {
        let waker = {
            let mut state = lock(&self.state);
            if state.closed {
                return Err(waiter);
            }
            state.arrived.push_back(waiter);
            self.fresh.store(true, Ordering::SeqCst);
            let timer = state.timer;
            let sooner = deadline.is_some_and(|at| timer.is_none_or(|timer| at < timer));
            let demand = std::mem::replace(&mut state.demand, Demand::Satisfied);
            if sooner || demand == Demand::Hungry {
                state.waker.clone()
            } else {
                TaskWaker::default()
            }
        };
        waker.wake();
        Ok(())
    }

    /// Returns whether anything has arrived since the accept loop collected.
    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::SeqCst)
    }

    /// Moves the arrivals into `arrived`, which is empty, for an accept loop that will collect
    /// again before it sleeps.
    pub(crate) fn take_arrived(&self, arrived: &mut VecDeque<T>) {
        if !self.is_fresh() {
            return;
        }
        let mut state = lock(&self.state);
        if !state.arrived.is_empty() {
            std::mem::swap(arrived, &mut state.arrived);
        }
    }

    pub(crate) fn starts(&self) {
        self.announce(|news| news.starts = true);
    }

    pub(crate) fn commanded(&self) {
        self.announce(|news| news.commanded = true);
    }

    /// Announces that waiting acceptors are replaced: they end, and others must be started (R1).
    pub(crate) fn replaced(&self) {
        self.announce(|news| (news.commanded, news.starts) = (true, true));
    }

    /// Makes the accept loop read the counts again, because an acceptor is gone.
    pub(crate) fn look(&self) {
        self.announce(|_| {});
    }

    pub(crate) fn resume(&self) {
        self.announce(|news| news.resume = true);
    }

    /// Announces a close. The first reason counts; a close that takes no queued connections
    /// overrules one that does.
    pub(crate) fn close(&self, close: Close) {
        self.announce(|news| match &mut news.close {
            None => news.close = Some(close),
            Some(known) if close.queued == Queued::Reset => known.queued = Queued::Reset,
            Some(_) => {}
        });
    }

    fn announce(&self, announce: impl FnOnce(&mut News)) {
        let waker = {
            let mut state = lock(&self.state);
            announce(&mut state.news);
            self.fresh.store(true, Ordering::SeqCst);
            state.waker.clone()
        };
        waker.wake();
    }

    /// Returns whether to collect: something has arrived, or the inbox knows an old state of the
    /// accept loop. Otherwise collecting would change nothing, and the lock is not taken.
    #[inline]
    pub(crate) fn has_news(
        &self,
        told: Option<Told>,
        known: bool,
        timer: Option<Instant>,
        waker: &Waker,
    ) -> bool {
        let tells = Told {
            known,
            timer,
            waker: Some(WakerId::of(waker)),
        };
        self.is_fresh() || told != Some(tells)
    }

    /// Moves the arrivals into `arrived`, which is empty, and takes the news. `known` says whether
    /// an acceptor waits already. Also returns the state that the inbox knows from then on.
    pub(crate) fn collect_and_tell(
        &self,
        arrived: &mut VecDeque<T>,
        known: bool,
        timer: Option<Instant>,
        waker: &Waker,
    ) -> (News, Told) {
        let mut state = lock(&self.state);
        let _replaced = state.waker.register(waker);
        self.fresh.store(false, Ordering::SeqCst);
        if !state.arrived.is_empty() {
            std::mem::swap(arrived, &mut state.arrived);
        }
        state.demand = if known || !arrived.is_empty() {
            Demand::Satisfied
        } else {
            Demand::Hungry
        };
        state.timer = timer;
        let told = Told {
            known: known || !arrived.is_empty(),
            timer,
            waker: state.waker.id(),
        };
        let news = state.news;
        // A close stays.
        state.news = News {
            close: news.close,
            ..News::default()
        };
        drop(state);
        (news, told)
    }

    /// Does the same as [`collect_and_tell`](Self::collect_and_tell), for an accept loop that
    /// always collects.
    #[cfg(test)]
    pub(crate) fn collect(
        &self,
        arrived: &mut VecDeque<T>,
        known: bool,
        timer: Option<Instant>,
        waker: &Waker,
    ) -> News {
        self.collect_and_tell(arrived, known, timer, waker).0
    }

    /// Closes the inbox. Returns the last arrivals.
    pub(crate) fn shut(&self) -> VecDeque<T> {
        let (arrived, _waker) = {
            let mut state = lock(&self.state);
            state.closed = true;
            (std::mem::take(&mut state.arrived), state.waker.take())
        };
        arrived
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::command::CloseReason;
    use crate::sync::testing::WakeCounter;

    const NONE: News = News {
        starts: false,
        commanded: false,
        resume: false,
        close: None,
    };

    const CLOSED: Close = Close {
        reason: CloseReason::Closed,
        queued: Queued::Accepted,
    };

    /// An inbox, the accept loop that reads it, and the loop's waiters.
    struct Bench {
        inbox: Inbox<u8>,
        accept_loop: WakeCounter,
        queue: VecDeque<u8>,
        now: Instant,
    }

    impl Bench {
        /// The initial acceptors of a listener are to be started, which has already been read.
        fn new() -> Self {
            let mut bench = Self {
                inbox: Inbox::new(),
                accept_loop: WakeCounter::new(),
                queue: VecDeque::new(),
                now: Instant::now(),
            };
            let starts = News {
                starts: true,
                ..NONE
            };
            bench.collect(None, starts, &[]);
            bench
        }

        fn at(&self, ms: u64) -> Instant {
            self.now + Duration::from_millis(ms)
        }

        /// The accept loop reads, with a timer for this time.
        #[track_caller]
        fn collect(&mut self, timer: Option<Instant>, news: News, queue: &[u8]) {
            let (waker, known) = (self.accept_loop.waker(), !self.queue.is_empty());
            let mut arrived = VecDeque::new();
            let seen = self.inbox.collect(&mut arrived, known, timer, waker);
            self.queue.extend(arrived);
            assert_eq!((seen, &self.queue), (news, &queue.to_vec().into()));
        }

        /// An acceptor begins to wait; returns the wake-ups of the accept loop so far.
        #[track_caller]
        fn push(&self, number: u8, deadline: Option<Instant>, wakes: usize) {
            assert_eq!(self.inbox.push(number, deadline), Ok(()));
            assert_eq!(self.accept_loop.wakes(), wakes);
        }
    }

    #[test]
    fn arrival_wakes_idle_accept_loop() {
        let mut bench = Bench::new();
        bench.push(1, None, 1);
        bench.push(2, None, 1);
        bench.collect(None, NONE, &[1, 2]);
        bench.push(3, None, 1);
        bench.collect(None, NONE, &[1, 2, 3]);
        bench.queue.clear();
        bench.collect(None, NONE, &[]);
        bench.push(4, None, 2);
    }

    #[test]
    fn arrival_wakes_for_earlier_timer() {
        let mut bench = Bench::new();
        bench.queue.push_back(0);
        bench.collect(None, NONE, &[0]);
        bench.push(1, Some(bench.at(20)), 1);
        bench.collect(Some(bench.at(20)), NONE, &[0, 1]);
        bench.push(2, Some(bench.at(21)), 1);
        bench.push(3, Some(bench.at(20)), 1);
        bench.push(4, None, 1);
        bench.push(5, Some(bench.at(19)), 2);
    }

    #[test]
    fn arrivals_are_taken_before_read() {
        let mut bench = Bench::new();
        bench.push(1, None, 1);
        bench.inbox.take_arrived(&mut bench.queue);
        assert_eq!(bench.queue, [1]);
        bench.queue.push_back(2);
        bench.push(3, None, 1);
        bench.collect(None, NONE, &[1, 2, 3]);
    }

    /// News wakes the accept loop, whether or not it has a waiter, and is read once.
    #[track_caller]
    fn check_news(announce: fn(&Inbox<u8>), news: News) {
        for queue in [&[][..], &[0]] {
            let mut bench = Bench::new();
            bench.queue.extend(queue);
            bench.collect(None, NONE, queue);
            announce(&bench.inbox);
            assert_eq!(bench.accept_loop.wakes(), 1);
            announce(&bench.inbox);
            bench.collect(None, news, queue);
            bench.collect(None, NONE, queue);
        }
    }

    #[test]
    fn news_is_read_once() {
        let (starts, commanded, resume) = (true, true, true);
        check_news(Inbox::starts, News { starts, ..NONE });
        check_news(Inbox::commanded, News { commanded, ..NONE });
        check_news(Inbox::resume, News { resume, ..NONE });
        let all = |inbox: &Inbox<u8>| {
            inbox.resume();
            inbox.starts();
            inbox.commanded();
        };
        let close = None;
        let together = News {
            starts,
            commanded,
            resume,
            close,
        };
        let mut bench = Bench::new();
        all(&bench.inbox);
        bench.collect(None, together, &[]);
    }

    #[test]
    fn news_before_first_read_is_kept() {
        let (inbox, accept_loop) = (Inbox::<u8>::new(), WakeCounter::new());
        inbox.commanded();
        assert_eq!(inbox.push(1, None), Ok(()));
        let mut arrived = VecDeque::new();
        let news = inbox.collect(&mut arrived, false, None, accept_loop.waker());
        assert!(news.starts && news.commanded);
        assert_eq!((arrived, accept_loop.wakes()), ([1].into(), 0));
    }

    /// Checks the close that is read after these.
    #[track_caller]
    fn check_close(closes: &[Close], expected: Close) {
        let mut bench = Bench::new();
        for (number, close) in closes.iter().enumerate() {
            bench.inbox.close(*close);
            assert_eq!(bench.accept_loop.wakes(), number + 1);
        }
        let close = Some(expected);
        // The close stays.
        bench.collect(None, News { close, ..NONE }, &[]);
        bench.inbox.commanded();
        let commanded = true;
        let both = News {
            commanded,
            close,
            ..NONE
        };
        bench.collect(None, both, &[]);
        // An acceptor that has finished its `init` is still taken.
        bench.push(1, None, closes.len() + 2);
        bench.collect(None, News { close, ..NONE }, &[1]);
    }

    #[test]
    fn close_without_queue_overrules_first() {
        let (reason, queued) = (CloseReason::Stopped, Queued::Reset);
        let stopped = Close {
            reason,
            queued: Queued::Accepted,
        };
        let killed = Close { reason, queued };
        check_close(&[CLOSED], CLOSED);
        check_close(&[CLOSED, stopped], CLOSED);
        check_close(&[stopped, CLOSED], stopped);
        check_close(&[killed, CLOSED], killed);
        check_close(&[CLOSED, killed, stopped], Close { queued, ..CLOSED });
    }

    #[test]
    fn shut_inbox_returns_late_arrivals() {
        let mut bench = Bench::new();
        bench.push(1, None, 1);
        bench.push(2, None, 1);
        assert_eq!(bench.inbox.shut(), [1, 2]);
        assert_eq!(bench.inbox.push(3, None), Err(3));
        assert_eq!(bench.inbox.push(4, Some(bench.at(0))), Err(4));
        assert!(bench.inbox.shut().is_empty());
        bench.inbox.commanded();
        assert_eq!(bench.accept_loop.wakes(), 1, "its task has finished");
        let commanded = true;
        bench.collect(None, News { commanded, ..NONE }, &[]);
    }

    #[test]
    fn latest_reader_is_woken() {
        let mut bench = Bench::new();
        let before = std::mem::replace(&mut bench.accept_loop, WakeCounter::new());
        bench.collect(None, NONE, &[]);
        bench.inbox.commanded();
        assert_eq!((before.wakes(), bench.accept_loop.wakes()), (0, 1));
    }

    /// News that arrives between locked reads sees the state last reported by the accept loop.
    #[test]
    fn inbox_without_news_is_not_collected() {
        let (inbox, accept_loop) = (Inbox::new(), WakeCounter::new());
        let (waker, mut arrived, now) = (accept_loop.waker(), VecDeque::new(), Instant::now());
        assert!(
            inbox.has_news(None, false, None, waker),
            "the first acceptors are to start"
        );
        let (_, told) = inbox.collect_and_tell(&mut arrived, false, None, waker);
        assert!(!inbox.has_news(Some(told), false, None, waker));
        for (known, timer) in [(true, None), (false, Some(now))] {
            assert!(inbox.has_news(Some(told), known, timer, waker));
        }
        assert!(inbox.has_news(Some(told), false, None, Waker::noop()));
        assert_eq!(inbox.push(1, None), Ok(()));
        assert_eq!(accept_loop.wakes(), 1, "no other waker is registered");
        assert!(inbox.has_news(Some(told), false, None, waker));
        let (_, told) = inbox.collect_and_tell(&mut arrived, false, None, waker);
        assert!(!inbox.has_news(Some(told), true, None, waker));
        for announce in [Inbox::starts, Inbox::commanded, Inbox::resume, Inbox::look] {
            announce(&inbox);
            assert!(inbox.has_news(Some(told), true, None, waker));
            inbox.collect(&mut VecDeque::new(), true, None, waker);
            assert!(!inbox.has_news(Some(told), true, None, waker));
        }
    }
}
