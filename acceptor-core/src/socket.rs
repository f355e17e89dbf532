//! A listener inside a pool: its line, its signals, its statistics.
//!
//! Invariant: *closed* is set after the listener's own value was dropped, and
//! so after its socket was closed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acceptor::{ListenerInfo, Terminate};
use crate::backoff::Backoff;
use crate::control::Ending;
use crate::id::{ChildId, ListenerId};
use crate::line::{Line, Waiting};
use crate::listener::Listener;
use crate::signal::Signal;
use crate::status::ListenerState;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, drop_guarded, lock};

pub(crate) struct Socket<L: Listener> {
    pub(crate) id: ListenerId,
    pub(crate) local_addr: L::Addr,
    pub(crate) addresses: Addresses,
    pub(crate) line: Line<Waiting<L>>,
    pub(crate) draining: Signal,
    pub(crate) closed: Signal,
    /// Why it failed, for the acceptors that end with it.
    failure: Mutex<Option<Arc<io::Error>>>,
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

impl<L: Listener> Socket<L> {
    pub(crate) fn new(id: ListenerId, local_addr: L::Addr, addresses: Addresses) -> Self {
        Self {
            id,
            local_addr,
            addresses,
            line: Line::new(),
            draining: Signal::new(),
            closed: Signal::new(),
            failure: Mutex::new(None),
            paused: AtomicBool::new(false),
            skipped: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
        }
    }

    pub(crate) fn info(&self, child: ChildId) -> ListenerInfo<L::Addr> {
        ListenerInfo {
            id: self.id,
            child,
            local_addr: self.local_addr.clone(),
            closed: self.closed.clone(),
        }
    }

    /// Closes the socket as soon as its watcher lets go of it.
    pub(crate) fn close(&self) {
        self.draining.set();
        self.line.close();
    }

    pub(crate) fn fail(&self, error: Arc<io::Error>) {
        lock(&self.failure).get_or_insert(error);
    }

    /// Why an acceptor terminates that was told to end.
    pub(crate) fn terminate_reason(&self, ending: Ending) -> Terminate {
        match ending {
            Ending::Closed => Terminate::Closed,
            Ending::Stopped => Terminate::Stopped,
            Ending::Failed => {
                let error = lock(&self.failure).clone();
                Terminate::Io(error.unwrap_or_else(|| Arc::new(io::ErrorKind::Other.into())))
            }
        }
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

/// The listener itself, in the hands of its watcher. Dropping it closes the socket.
pub(crate) struct Gate<L: Listener> {
    listener: Option<L>,
    socket: Arc<Socket<L>>,
}

impl<L: Listener> Gate<L> {
    pub(crate) fn new(listener: L, socket: Arc<Socket<L>>) -> Self {
        Self {
            listener: Some(listener),
            socket,
        }
    }

    pub(crate) fn socket(&self) -> Arc<Socket<L>> {
        Arc::clone(&self.socket)
    }

    pub(crate) fn listener(&self) -> &L {
        self.listener
            .as_ref()
            .expect("the listener is there until the gate is dropped")
    }
}

impl<L: Listener> Drop for Gate<L> {
    fn drop(&mut self) {
        drop_guarded(self.listener.take());
        self.socket.closed.set();
    }
}

/// The pauses of one listener for want of resources, and how often they are reported (A2).
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: Backoff,
    reported: Option<Instant>,
    unreported: u64,
}

/// One pause.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) length: Duration,
    /// How many pauses went unreported before this one; `None` if this one goes unreported too.
    pub(crate) report: Option<u64>,
}

/// Pauses are reported no more often.
const REPORT_EVERY: Duration = Duration::from_secs(1);

impl Pauses {
    pub(crate) fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(5)),
            reported: None,
            unreported: 0,
        }
    }

    /// A connection was accepted.
    pub(crate) fn success(&mut self) {
        self.backoff.reset();
    }

    pub(crate) fn next(&mut self, now: Instant) -> Pause {
        let length = self.backoff.pause();
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
