//! The task that delivers a pool's reports: one at a time, in the order in which they entered the
//! outbox (O1).
//!
//! Invariants: only this task calls the observer and emits `tracing` events, as long as the runtime
//! keeps it; the result of the pool is available after the last report, or a kill timeout after the
//! last child's end, whichever is first (O2).

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tracing::level_filters::LevelFilter;

use crate::id::ListenerId;
use crate::listener::Listener;
use crate::machine::outbox::{Audience, Outbox};
use crate::machine::rate_limit::RateLimit;
use crate::pool::driver::wake_all_waiters;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::PoolShared;
use crate::report::{Event, EventKind, Report, trace, trace_suppressed};
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::sync::notify::Notify;
use crate::sync::{AtomicBool, DropCatching, Mutex, Ordering, catch_panic, lock, wake};

/// The number of reports to deliver before other tasks may run.
const REPORTS_IN_A_ROW: usize = 32;

/// The reports of a pool on their way to the observer.
pub(crate) struct Reports<A> {
    outbox: Mutex<Outbox<A>>,
    limit: Mutex<RateLimit>,
    posted: Notify,
    /// There is no reporter: it has not started, or the runtime has dropped it.
    gone: AtomicBool,
    /// A thread delivers the reports that a dropped reporter has left.
    delivering: AtomicBool,
}

/// The work left after reports were posted, to be done outside of any lock.
pub(crate) struct Posted<A> {
    /// Reports that did not fit, and those that are not needed.
    _dropped: Vec<DropCatching<Report<A>>>,
    /// Whether the reporter must be woken.
    pub(super) wakes: bool,
}

impl<A> Reports<A> {
    pub(crate) fn new() -> Self {
        Self {
            outbox: Mutex::new(Outbox::new()),
            limit: Mutex::default(),
            posted: Notify::default(),
            gone: AtomicBool::new(true),
            delivering: AtomicBool::new(false),
        }
    }

    /// Puts events into the outbox. The caller [follows](PoolShared::follow) once it has released its locks.
    pub(crate) fn post(
        &self,
        origin: Origin<'_>,
        events: impl ExactSizeIterator<Item = Event<A>>,
        debug: Option<(Event<A>, Instant)>,
    ) -> Posted<A> {
        let report = |event: Event<A>| Report {
            pool: Arc::clone(origin.pool),
            tag: origin.tag.filter(|_| event.listener().is_some()).cloned(),
            event,
        };
        let mut wakes = events.len() > 0;
        let mut no_place = Vec::new();
        if wakes {
            let mut outbox = lock(&self.outbox);
            let unplaced = events.filter_map(|event| outbox.push(report(event), Audience::All));
            no_place.extend(unplaced);
        }
        if let Some((event, now)) = debug {
            match self.admit_debug(&event, now) {
                Some(suppressed) => {
                    wakes = true;
                    no_place.extend(self.post_traced(report(event), suppressed));
                }
                None => no_place.push(report(event)),
            }
        }
        let no_place = no_place.into_iter().map(DropCatching::new);
        Posted {
            _dropped: no_place.collect(),
            wakes,
        }
    }

    /// Posts an event for `tracing` alone. Returns it if it did not fit.
    fn post_traced(&self, report: Report<A>, suppressed: u64) -> Option<Report<A>> {
        let audience = Audience::Trace { suppressed };
        let report = lock(&self.outbox).push(report, audience)?;
        if let Some(listener) = limited(&report.event) {
            let kind = report.event.kind();
            lock(&self.limit).give_back(listener, kind, suppressed);
        }
        Some(report)
    }

    /// Returns whether a debug-level event that the observer does not get is emitted to `tracing`,
    /// and how many of its kind were suppressed before. The limit applies before the event takes a
    /// slot: otherwise a peer that keeps hanging up would fill them all.
    fn admit_debug(&self, event: &Event<A>, now: Instant) -> Option<u64> {
        if LevelFilter::current() < LevelFilter::DEBUG {
            return None;
        }
        let listener = limited(event)?;
        lock(&self.limit).admit(listener, event.kind(), now)
    }

    pub(super) fn notify(&self) {
        self.posted.notify();
    }

    pub(crate) fn is_deliverer_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

/// The source of a report.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) pool: &'a Arc<str>,
    /// The listener's tag, if the event is about a listener.
    pub(crate) tag: Option<&'a Arc<str>>,
}

impl<R: Runtime, L: Listener> PoolShared<R, L> {
    /// Reports an event of a listener other than the end of a child.
    pub(crate) fn report(&self, listener: &ListenerShared<R, L>, event: Event<L::Addr>) {
        let posted = {
            let state = lock(&self.state);
            if state.machine.state() == PoolState::Stopped {
                // The result is the last thing that a pool makes known.
                drop(state);
                return drop(DropCatching::new(event));
            }
            let origin = Origin {
                pool: &state.spec.settings.id,
                tag: listener.tag.as_ref(),
            };
            self.reports.post(origin, [event].into_iter(), None)
        };
        self.follow(posted);
    }

    /// Delivers the next report.
    fn deliver_next(&self) -> Delivered {
        let (report, audience, observer) = {
            let state = lock(&self.state);
            let Some((report, audience)) = lock(&self.reports.outbox).pop() else {
                return Delivered::Nothing;
            };
            let observer = state.spec.settings.observer.clone();
            (DropCatching::new(report), audience, observer)
        };
        let admitted = self.admit(&report, audience);
        if let Some(suppressed) = admitted {
            let _ = catch_panic(|| trace(&report, suppressed));
        }
        if let Some(observer) = observer.filter(|_| audience == Audience::All) {
            let _ = catch_panic(|| observer.report(&report));
        }
        Delivered::One
    }

    /// Returns whether the event is emitted to `tracing`, and how many of its kind were suppressed
    /// before (O3).
    fn admit(&self, report: &Report<L::Addr>, audience: Audience) -> Option<u64> {
        let event = &report.event;
        let Some(listener) = limited(event) else {
            return Some(0);
        };
        let now = self.time();
        let (forgotten, admitted) = {
            let mut limit = lock(&self.reports.limit);
            let forgotten = limit.forget_old(now);
            let admitted = match audience {
                Audience::All => limit.admit(listener, event.kind(), now),
                Audience::Trace { suppressed } => Some(suppressed),
            };
            (forgotten, admitted)
        };
        trace_all_suppressed(&report.pool, forgotten);
        admitted
    }

    /// Makes the result of an ended pool available, once all reports are delivered.
    fn complete_if_delivered(self: &Arc<Self>) -> Completed {
        {
            let state = lock(&self.state);
            if state.result.is_some() {
                return Completed::Yes;
            }
            if state.ended.is_none() || !lock(&self.reports.outbox).is_empty() {
                return Completed::No;
            }
        }
        let suppressed = std::mem::take(&mut *lock(&self.reports.limit));
        let pool = self.read(|state| Arc::clone(&state.spec.settings.id));
        trace_all_suppressed(&pool, suppressed.suppressed());
        self.complete();
        Completed::Yes
    }

    /// Makes the result of an ended pool available, whether or not all reports are delivered.
    pub(crate) fn complete(self: &Arc<Self>) {
        let (spec, init, left, to_wake) = {
            let mut state = lock(&self.state);
            let Some(mut report) = state.ended.take() else {
                return;
            };
            let mut outbox = lock(&self.reports.outbox);
            let left: Vec<_> = outbox
                .abandon()
                .into_iter()
                .map(DropCatching::new)
                .collect();
            report.undelivered = outbox.lost();
            state.result = Some(report);
            let left = (left, std::mem::take(&mut state.later));
            let to_wake = std::mem::take(&mut state.to_wake);
            (state.spec.take(), state.init.take(), left, to_wake)
        };
        // Tasks other than children may wait for *draining*, and the pool's own task has not
        // reached them.
        wake_all_waiters(&self.stopping);
        for listener in to_wake.into_values() {
            wake_all_waiters(&listener.signals.draining);
        }
        drop(spec);
        drop(init);
        drop(left);
        self.done.set();
        self.driver.notify();
        self.reports.posted.notify();
    }

    /// Delivers the queued reports on this thread, once the runtime has dropped the reporter.
    pub(crate) fn deliver_here(self: &Arc<Self>) {
        // Only at the end, so that no event of a connection waits for the observer.
        if self.read(|state| state.ended.is_none()) {
            return;
        }
        // Another thread delivers, or the observer made this call: delivery continues there, one
        // report at a time (O1).
        if self.reports.delivering.swap(true, Ordering::SeqCst) {
            return;
        }
        while self.deliver_next() == Delivered::One {}
        self.complete_if_delivered();
        self.reports.delivering.store(false, Ordering::SeqCst);
    }
}

/// Returns the listener of an event whose `tracing` events are limited (O3).
fn limited<A>(event: &Event<A>) -> Option<ListenerId> {
    match event {
        Event::StartError { listener, .. }
        | Event::AcceptorFailed { listener, .. }
        | Event::ConnectionFailed { listener, .. }
        | Event::Disconnected { listener, .. }
        | Event::HandshakeFailed { listener, .. } => Some(*listener),
        _ => None,
    }
}

fn trace_all_suppressed(
    pool: &str,
    suppressed: impl IntoIterator<Item = (ListenerId, EventKind, u64)>,
) {
    for (listener, kind, count) in suppressed {
        let _ = catch_panic(|| trace_suppressed(pool, listener, kind, count));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivered {
    One,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completed {
    Yes,
    No,
}

/// Records that the runtime has dropped the task.
struct ReporterGuard<R: Runtime, L: Listener>(Arc<PoolShared<R, L>>);

impl<R: Runtime, L: Listener> Drop for ReporterGuard<R, L> {
    fn drop(&mut self) {
        self.0.reports.gone.store(true, Ordering::SeqCst);
        self.0.deliver_here();
    }
}

pub(crate) fn run<R: Runtime, L: Listener>(
    shared: Arc<PoolShared<R, L>>,
) -> impl Future<Output = ()> + Send
where
    L::Addr: Debug,
{
    shared.reports.gone.store(false, Ordering::SeqCst);
    // Created outside the task, so that a task that is dropped before its first poll is handled as
    // well.
    let reporter = ReporterGuard(shared);
    async move {
        let shared = &reporter.0;
        let mut in_a_row = 0;
        loop {
            if shared.deliver_next() == Delivered::Nothing {
                if shared.complete_if_delivered() == Completed::Yes {
                    return;
                }
                poll_fn(|cx| shared.reports.posted.poll(cx)).await;
                in_a_row = 0;
            } else if in_a_row == REPORTS_IN_A_ROW {
                yield_now().await;
                in_a_row = 0;
            } else {
                in_a_row += 1;
            }
        }
    }
}

/// Lets other tasks run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        wake(cx.waker().clone());
        Poll::Pending
    })
    .await;
}
