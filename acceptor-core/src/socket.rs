//! A listener inside a pool: its turnstile, its signals, its statistics.
//!
//! Invariant: *closed* is set after the listener's own value was dropped, and
//! so after its socket was closed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::id::ListenerId;
use crate::listener::Listener;
use crate::signal::Signal;
use crate::status::ListenerState;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, drop_guarded, lock};
use crate::turnstile::Turnstile;

pub(crate) struct Socket<L: Listener> {
    pub(crate) id: ListenerId,
    pub(crate) local_addr: L::Addr,
    pub(crate) addresses: Addresses,
    pub(crate) turnstile: Turnstile<Gate<L>>,
    pub(crate) draining: Signal,
    pub(crate) closed: Signal,
    /// Why it failed, for the acceptors that end with it.
    pub(crate) failure: Mutex<Option<Arc<io::Error>>>,
    paused: AtomicBool,
    skipped: AtomicU64,
    pauses: AtomicU64,
}

/// Whether connections have the listener's local address or are to be asked for their own (B10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    TheListeners,
    TheirOwn,
}

/// The listener itself, with what only its one holder needs to know.
pub(crate) struct Gate<L> {
    listener: Option<L>,
    closed: Signal,
    backoff: Backoff,
    /// Nobody accepts before then.
    pub(crate) paused_until: Option<Instant>,
    reported: Option<Instant>,
    unreported: u64,
}

/// What a resource error leads to (A2).
pub(crate) struct Pause {
    pub(crate) length: Duration,
    /// How many pauses went unreported before this one; `None` if this one goes unreported too.
    pub(crate) report: Option<u64>,
}

/// Pauses are reported no more often.
const REPORT_EVERY: Duration = Duration::from_secs(1);

impl<L: Listener> Socket<L> {
    pub(crate) fn new(
        id: ListenerId,
        listener: L,
        local_addr: L::Addr,
        addresses: Addresses,
    ) -> Self {
        let closed = Signal::new();
        Self {
            id,
            local_addr,
            addresses,
            turnstile: Turnstile::new(Gate {
                listener: Some(listener),
                closed: closed.clone(),
                backoff: Backoff::new(Duration::from_millis(5)),
                paused_until: None,
                reported: None,
                unreported: 0,
            }),
            draining: Signal::new(),
            closed,
            failure: Mutex::new(None),
            paused: AtomicBool::new(false),
            skipped: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
        }
    }

    /// Closes the socket, as soon as whoever holds it lets go.
    pub(crate) fn close(&self) {
        self.draining.set();
        self.turnstile.close();
    }

    pub(crate) fn fail(&self, error: Arc<io::Error>) {
        lock(&self.failure).get_or_insert(error);
    }

    pub(crate) fn count_skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        self.paused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> ListenerState {
        if self.paused.load(Ordering::Relaxed) {
            ListenerState::Paused
        } else if self.draining.is_set() {
            ListenerState::LameDuck
        } else {
            ListenerState::Accepting
        }
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }
}

impl<L> Gate<L> {
    pub(crate) fn listener(&self) -> &L {
        self.listener
            .as_ref()
            .expect("the listener is there until the gate is dropped")
    }

    pub(crate) fn accepted(&mut self) {
        self.backoff.reset();
    }

    pub(crate) fn lacks_resources(&mut self, now: Instant) -> Pause {
        let length = self.backoff.pause();
        self.paused_until = now.checked_add(length);
        let recently = |at: Instant| now.saturating_duration_since(at) < REPORT_EVERY;
        let report = if self.reported.is_some_and(recently) {
            self.unreported += 1;
            None
        } else {
            self.reported = Some(now);
            Some(std::mem::take(&mut self.unreported))
        };
        Pause { length, report }
    }
}

impl<L> Drop for Gate<L> {
    fn drop(&mut self) {
        drop_guarded(self.listener.take());
        self.closed.set();
    }
}
