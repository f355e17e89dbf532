//! A listener inside a pool: its line, its signals, its statistics.
//!
//! Invariant: *closed* is set after the listener's own value was dropped, and
//! so after its socket was closed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acceptor::{ListenerInfo, Terminate};
use crate::id::{ChildId, ListenerId};
use crate::listener::Listener;
use crate::machine::backoff::Backoff;
use crate::machine::command::CloseReason;
use crate::pool::wait_queue::{WaitQueue, Waiter};
use crate::signal::Signal;
use crate::status::ListenerState;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, catch_panic, drop_catching, lock};

pub(crate) struct ListenerShared<L: Listener> {
    pub(crate) id: ListenerId,
    pub(crate) local_addr: L::Addr,
    pub(crate) addresses: LocalAddrSource,
    pub(crate) line: WaitQueue<Waiter<L>>,
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
pub(crate) enum LocalAddrSource {
    Listener,
    Stream,
}

impl LocalAddrSource {
    /// The address of a listener, and whose addresses its connections have.
    pub(crate) fn of<L: Listener>(listener: &L) -> io::Result<(L::Addr, Self)> {
        let asked = catch_panic(|| {
            let address = listener.local_addr()?;
            let addresses = if L::is_wildcard(&address) {
                Self::Stream
            } else {
                Self::Listener
            };
            Ok((address, addresses))
        });
        asked.unwrap_or_else(|message| Err(io::Error::other(message)))
    }
}

impl<L: Listener> ListenerShared<L> {
    pub(crate) fn new(id: ListenerId, local_addr: L::Addr, addresses: LocalAddrSource) -> Self {
        Self {
            id,
            local_addr,
            addresses,
            line: WaitQueue::new(),
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
    pub(crate) fn terminate_reason(&self, ending: CloseReason) -> Terminate {
        match ending {
            CloseReason::Closed => Terminate::Closed,
            CloseReason::Stopped => Terminate::Stopped,
            CloseReason::Failed => {
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
pub(crate) struct SocketGuard<L: Listener> {
    listener: Option<L>,
    socket: Arc<ListenerShared<L>>,
}

impl<L: Listener> SocketGuard<L> {
    pub(crate) fn new(listener: L, socket: Arc<ListenerShared<L>>) -> Self {
        Self {
            listener: Some(listener),
            socket,
        }
    }

    pub(crate) fn socket(&self) -> Arc<ListenerShared<L>> {
        Arc::clone(&self.socket)
    }

    pub(crate) fn listener(&self) -> &L {
        self.listener
            .as_ref()
            .expect("the listener is there until the gate is dropped")
    }
}

impl<L: Listener> Drop for SocketGuard<L> {
    fn drop(&mut self) {
        drop_catching(self.listener.take());
        self.socket.closed.set();
    }
}

/// The pauses of one listener for want of resources, and how often they are reported (A2).
#[derive(Debug)]
pub(crate) struct AcceptBackoff {
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

/// AcceptBackoff are reported no more often.
const REPORT_EVERY: Duration = Duration::from_secs(1);

impl AcceptBackoff {
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

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::id::PoolId;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_from_5_ms_to_a_second_until_a_success() {
        let (mut pauses, now) = (AcceptBackoff::new(), Instant::now());
        let lengths = |pauses: &mut AcceptBackoff, count: usize| -> Vec<u128> {
            let next = |_| pauses.next(now).length.as_millis();
            (0..count).map(next).collect()
        };
        let doubling = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000];
        assert_eq!(lengths(&mut pauses, 10), doubling);
        pauses.success();
        assert_eq!(lengths(&mut pauses, 3), doubling[..3]);
    }

    /// Whether each pause is reported, and with how many that were not.
    #[track_caller]
    fn check_reports(at_ms: &[u64], expected: &[Option<u64>]) {
        let (mut pauses, start) = (AcceptBackoff::new(), Instant::now());
        let report = |ms: &u64| pauses.next(start + Duration::from_millis(*ms)).report;
        let reports: Vec<_> = at_ms.iter().map(report).collect();
        assert_eq!(reports, expected);
    }

    #[test]
    fn pauses_are_reported_at_most_once_a_second() {
        check_reports(&[0], &[Some(0)]);
        check_reports(&[0, 999], &[Some(0), None]);
        check_reports(&[0, 1000], &[Some(0), Some(0)]);
        check_reports(
            &[0, 1, 2, 999, 1000, 1500, 1999, 2000],
            &[Some(0), None, None, None, Some(3), None, None, Some(2)],
        );
        check_reports(&[0, 1, 60_000], &[Some(0), None, Some(1)]);
    }

    #[test]
    fn a_success_does_not_make_reports_more_frequent() {
        let (mut pauses, now) = (AcceptBackoff::new(), Instant::now());
        assert_eq!(pauses.next(now).report, Some(0));
        pauses.success();
        assert_eq!(pauses.next(now + SECOND / 2).report, None);
    }

    /// A listener that tells whether its socket's *closed* was set while it was still there.
    struct Watched(Signal, Arc<Mutex<Vec<bool>>>);

    impl Drop for Watched {
        fn drop(&mut self) {
            lock(&self.1).push(self.0.is_set());
            std::panic::resume_unwind(Box::new("out of luck"));
        }
    }

    impl Listener for Watched {
        type Stream = ();
        type Addr = SocketAddr;

        async fn accept(&self) -> io::Result<((), SocketAddr)> {
            std::future::pending().await
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn stream_local_addr(_stream: &()) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn socket() -> Arc<ListenerShared<Watched>> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let id = ListenerId {
            sequence: 1,
            pool: PoolId::NONE,
        };
        Arc::new(ListenerShared::new(id, address, LocalAddrSource::Listener))
    }

    #[test]
    fn closed_is_set_after_the_listener_is_gone_be_it_with_a_panic() {
        let (socket, seen) = (socket(), Arc::default());
        let listener = Watched(socket.closed.clone(), Arc::clone(&seen));
        drop(SocketGuard::new(listener, Arc::clone(&socket)));
        assert_eq!(*lock(&seen), [false]);
        assert!(socket.closed.is_set());
    }

    #[test]
    fn a_pause_shows_before_a_lame_duck() {
        let socket = socket();
        assert_eq!(socket.state(), ListenerState::Accepting);
        socket.pause();
        socket.draining.set();
        assert_eq!(socket.state(), ListenerState::Paused);
        socket.resume();
        assert_eq!(socket.state(), ListenerState::LameDuck);
        assert_eq!((socket.pauses(), socket.skipped()), (1, 0));
    }

    #[test]
    fn an_acceptor_is_told_the_first_error_of_its_listener() {
        let socket = socket();
        assert!(matches!(
            socket.terminate_reason(CloseReason::Closed),
            Terminate::Closed
        ));
        assert!(matches!(
            socket.terminate_reason(CloseReason::Stopped),
            Terminate::Stopped
        ));
        socket.fail(Arc::new(io::Error::other("first")));
        socket.fail(Arc::new(io::Error::other("second")));
        let reason = socket.terminate_reason(CloseReason::Failed);
        assert_eq!(reason.to_string(), "listener failed: first");
    }
}
