//! The pool's own task: keeps the time of phases and spaced starts, and wakes the children that
//! were commanded.
//!
//! Calls leave to it the work that takes time for each child. Invariants: it handles at most a few
//! hundred children between two turns; if the runtime drops this task, the pool can no longer keep
//! time, so it is killed as a whole, and a thread waits for the children that do not suspend (S8).

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::child::control::Control;
use crate::id::ChildId;
use crate::latch::Latch;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, Role};
use crate::machine::stop::Looks;
use crate::machine::stuck::RuntimeKey;
use crate::pool::host::is_never;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::reporter::yield_now;
use crate::pool::shared::{Later, PoolShared, State};
use crate::runtime::Runtime;
use crate::status::{AcceptorState, PoolState};
use crate::stop_report::{Phase, StopReason};
use crate::sync::{TaskWaker, catch_panic, lock, spawn_thread};

/// The number of children, or listeners, to handle under one lock and before other tasks may run.
/// It is 1 in a loom model, so that a walk suspends even with few children.
pub(super) const BATCH: usize = if cfg!(all(test, loom)) { 1 } else { 256 };

/// Kills the pool when it is dropped along with the task, unless the pool has stopped.
struct Driver<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    /// Spaced starts, by their time.
    spaced: BTreeMap<(Instant, u64), Spaced<R, L>>,
    spaced_ever: u64,
    /// The deadline for delivering the reports left when the last child ended.
    delivery: Option<Instant>,
}

/// An acceptor to start.
type Spaced<R, L> = (Arc<ListenerShared<R, L>>, ChildId);

pub(crate) fn run<R: Runtime, L: Listener>(
    shared: Arc<PoolShared<R, L>>,
) -> impl Future<Output = ()> + Send {
    // Created outside the task, so that a task that is dropped before its first poll is handled as
    // well.
    let mut driver = Driver {
        shared,
        spaced: BTreeMap::new(),
        spaced_ever: 0,
        delivery: None,
    };
    async move {
        let mut reached = None;
        loop {
            driver.wake_children().await;
            // Accepts a timer that fires a little early: to poll it again at once would be a busy
            // loop.
            let now = driver.shared.time();
            let now = reached.map_or(now, |reached| now.max(reached));
            driver.tick(now);
            if driver.shared.read(|state| state.machine.look_is_due(now)) {
                driver.look().await;
            }
            driver.start_spaced(now).await;
            if driver.is_complete(now) {
                return;
            }
            reached = driver.wait().await;
        }
    }
}

impl<R: Runtime, L: Listener> Driver<R, L> {
    fn tick(&mut self, now: Instant) {
        let later = self.shared.handle_event(|state, effects| {
            state.machine.tick(now, effects);
            std::mem::take(&mut state.later)
        });
        for Later {
            listener,
            child,
            delay,
        } in later
        {
            let at = now.checked_add(delay).unwrap_or(now);
            self.spaced_ever += 1;
            self.spaced
                .insert((at, self.spaced_ever), (listener, child));
        }
    }

    /// Wakes the children that a call has commanded, and the tasks that wait for *draining*.
    async fn wake_children(&self) {
        wake_waiters(&self.shared.stopping).await;
        while let Some(listener) = self.shared.next_to_wake() {
            wake_waiters(&listener.signals.draining).await;
            let mut from = Some(0);
            while let Some(cursor) = from {
                from = self.shared.wake_some(&listener, cursor);
                if from.is_some() {
                    yield_now().await;
                }
            }
        }
    }

    /// Starts the spaced acceptors that are due.
    async fn start_spaced(&mut self, now: Instant) {
        let mut started = 0;
        while let Some(entry) = self.spaced.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (listener, child) = entry.remove();
            let starts = lock(&listener.children).table.start(child);
            if starts {
                self.shared.start(&listener, child);
            }
            started += 1;
            if started % BATCH == 0 {
                yield_now().await;
            }
        }
    }

    /// Looks for stuck children among all (S8).
    async fn look(&self) {
        let mut last = None;
        loop {
            let listeners = self.shared.listeners_after(last, 1);
            let Some(listener) = listeners.first() else {
                break;
            };
            last = Some(listener.id);
            let mut from = Some(0);
            while let Some(cursor) = from {
                from = self.shared.look_at_some(listener, cursor);
                if from.is_some() {
                    yield_now().await;
                }
            }
        }
        self.shared.looked();
    }

    /// Returns whether the result is available. Once a kill timeout has passed it is made available
    /// here, even with reports undelivered (O2).
    fn is_complete(&mut self, now: Instant) -> bool {
        let (ended, given, kill_timeout) = self.shared.read(|state| {
            let kill_timeout = state.machine.rules().plan.kill_timeout;
            (state.ended.is_some(), state.result.is_some(), kill_timeout)
        });
        if ended {
            // Never, if the kill timeout is that long.
            self.delivery = self.delivery.or_else(|| now.checked_add(kill_timeout));
            if self.delivery.is_some_and(|until| until <= now) {
                self.shared.complete();
                return true;
            }
        }
        given
    }

    /// Waits until the next deadline, which it then returns, or until something has changed.
    async fn wait(&self) -> Option<Instant> {
        let deadline = self.shared.read(|state| state.machine.deadline());
        let spaced = self.spaced.first_key_value().map(|((at, _), _)| *at);
        let deadlines = [deadline, spaced, self.delivery];
        let deadline = deadlines.into_iter().flatten().min();
        let notify = &self.shared.driver;
        let Some(deadline) = deadline.filter(|deadline| !is_never(*deadline)) else {
            poll_fn(|cx| notify.poll(cx)).await;
            return None;
        };
        let mut sleep = pin!(self.shared.runtime.sleep_until(deadline));
        poll_fn(|cx| match notify.poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => sleep.as_mut().poll(cx).map(|()| Some(deadline)),
        })
        .await
    }
}

/// Wakes the tasks that wait for a latch, if it is set.
async fn wake_waiters(latch: &Latch) {
    if !latch.is_set() {
        return;
    }
    for (number, waiter) in latch.take_waiters().enumerate() {
        waiter.wake();
        if number % BATCH == BATCH - 1 {
            yield_now().await;
        }
    }
}

/// Does the same as [`wake_waiters`], where no task is left to do it in batches.
pub(super) fn wake_all_waiters(latch: &Latch) {
    if latch.is_set() {
        latch.take_waiters().for_each(TaskWaker::wake);
    }
}

impl<R: Runtime, L: Listener> PoolShared<R, L> {
    /// Makes the next walk visit all listeners, whether or not they were commanded.
    fn wake_all(&self) {
        let state = &mut *lock(&self.state);
        for (id, listening) in state.machine.listeners() {
            let listener = Arc::clone(&listening.listener);
            state.to_wake.insert(id, listener);
        }
    }

    /// Returns a listener whose children were commanded.
    fn next_to_wake(&self) -> Option<Arc<ListenerShared<R, L>>> {
        let next = lock(&self.state).to_wake.pop_first();
        next.map(|(_, listener)| listener)
    }

    /// Wakes some children of a listener, and ends those that have no task. Returns where to
    /// continue, if anywhere.
    fn wake_some(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        from: usize,
    ) -> Option<usize> {
        let mut children: Vec<Control> = Vec::new();
        let mut spaced = Vec::new();
        let next = {
            let table = &mut lock(&listener.children).table;
            let (starts, commands) = (table.is_open(), listener.signals.level.commands());
            table.visit(from, BATCH, |id, row, control| {
                let ends = match row.acceptor_state() {
                    Some(AcceptorState::Spaced) if !starts => {
                        spaced.push(id);
                        false
                    }
                    // It has no task: it belongs to the accept loop or the driver.
                    Some(AcceptorState::Waiting | AcceptorState::Spaced) => false,
                    // By its own commands: it may be replaced while another is not.
                    Some(AcceptorState::Init) => {
                        control().commands_to(row.generation()).ends_waiting()
                    }
                    // They ignore a close.
                    Some(AcceptorState::Terminating) | None => {
                        commands.kill() || commands.stop(Role::Acceptor)
                    }
                };
                if ends {
                    children.push(control());
                }
            })
        };
        for child in children {
            child.notify();
        }
        for id in spaced {
            self.end_spaced(listener, id);
        }
        next
    }

    /// Ends an acceptor that has not started. Returns whether that was still the case.
    pub(super) fn end_spaced(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        id: ChildId,
    ) -> bool {
        let now = self.time();
        self.handle_event_of(listener.tag.as_ref(), |state, effects| {
            let table = &mut lock(&listener.children).table;
            let Some((row, child)) = table.child(id) else {
                return false;
            };
            if row.acceptor_state() != Some(AcceptorState::Spaced) {
                return false;
            }
            let end = if child.commands().kill() {
                ChildEnd::Killed
            } else {
                ChildEnd::Stopped
            };
            state.machine.ended(table, id, end, now, effects);
            true
        })
    }

    /// Looks at some children of a listener. Returns where to continue, if anywhere.
    fn look_at_some(
        self: &Arc<Self>,
        listener: &ListenerShared<R, L>,
        from: usize,
    ) -> Option<usize> {
        let now = self.time();
        let (mut gone, mut late) = (Vec::new(), Vec::new());
        let state = &mut *lock(&self.state);
        let next = {
            let table = &mut lock(&listener.children).table;
            let batch = (from, BATCH);
            state.machine.look(table, listener.id, batch, &mut gone)
        };
        late.extend(
            gone.iter()
                .filter_map(|row| row.late(row.id(listener.id), None, Phase::Kill, now)),
        );
        state.add_late(&mut late);
        next
    }

    /// Ends a round of looks at all children.
    fn looked(self: &Arc<Self>) {
        let now = self.time();
        let looks = self.handle_event(|state, effects| state.machine.looked(now, effects));
        if let Looks::Blocked(runtimes) = looks {
            self.give_up(&runtimes);
        }
    }

    /// Abandons all children left on these runtimes.
    fn give_up(self: &Arc<Self>, runtimes: &BTreeSet<RuntimeKey>) {
        let now = self.time();
        let given_up = self.handle_event(|state, effects| {
            let abandon =
                |listener: &Arc<ListenerShared<R, L>>| lock(&listener.children).table.abandon();
            let listeners = state.machine.listeners();
            let rows: Vec<_> = listeners
                .filter(|(_, listening)| runtimes.contains(&listening.runtime))
                .map(|(id, listening)| (id, abandon(&listening.listener)))
                .collect();
            let stuck = rows.iter().map(|(_, rows)| rows.len()).sum();
            // All under one lock, because no other event may come between: only the named
            // connections are copied.
            let mut displaced = Vec::new();
            for (listener, rows) in &rows {
                for row in rows.iter() {
                    let id = row.id(*listener);
                    if state.late.has_place(row.since, id) {
                        let late = row.late(id, None, Phase::Kill, now);
                        displaced.extend(late.map(|(began, late)| state.late.add(began, late)));
                    }
                }
            }
            let listeners = state.machine.give_up(runtimes, stuck, now, effects);
            (listeners, rows, displaced)
        });
        drop(given_up);
    }
}

impl<R: Runtime, L: Listener> Drop for Driver<R, L> {
    fn drop(&mut self) {
        self.shared.kill(StopReason::RuntimeGone);
        if self.shared.read(|state| state.result.is_some()) {
            return;
        }
        // No other task is left to do this, and this task may have been dropped in the middle of a
        // walk.
        wake_all_waiters(&self.shared.stopping);
        self.shared.wake_all();
        while let Some(listener) = self.shared.next_to_wake() {
            wake_all_waiters(&listener.signals.draining);
            let mut from = Some(0);
            while let Some(cursor) = from {
                from = self.shared.wake_some(&listener, cursor);
            }
        }
        keep_time(&self.shared);
    }
}

/// Ends a pool that has children left but no task of its own, when its kill timeout is over (S8).
fn keep_time<R: Runtime, L: Listener>(shared: &Arc<PoolShared<R, L>>) {
    if shared.read(|state| state.result.is_some()) {
        return;
    }
    let shared = Arc::clone(shared);
    let keep = move || {
        // Usually the runtime drops most children in the meantime, and this returns at once.
        let kill_timeout = shared.read(|state| state.machine.rules().plan.kill_timeout);
        let mut ended = None;
        while !shared.done.is_set() {
            let now = Instant::now();
            let since = shared.read(|state| state.ended.is_some());
            if since {
                let ended = *ended.get_or_insert(now);
                if now.saturating_duration_since(ended) >= kill_timeout {
                    shared.complete();
                    break;
                }
            }
            // First: the pool's own task may have looked just before it was dropped.
            wait_on_this_thread(shared.done.wait(), kill_timeout / 4);
            look_on_this_thread(&shared);
        }
    };
    // Without threads, no other thread runs a child that does not suspend either.
    let _ = catch_panic(|| spawn_thread("acceptor-pool", keep));
}

fn look_on_this_thread<R: Runtime, L: Listener>(shared: &Arc<PoolShared<R, L>>) {
    if shared.read(|state: &State<R, L>| state.machine.state() == PoolState::Stopped) {
        return;
    }
    for listener in shared.listeners_after(None, usize::MAX) {
        let mut from = Some(0);
        while let Some(cursor) = from {
            from = shared.look_at_some(&listener, cursor);
        }
    }
    shared.looked();
}

/// Whether the future has completed or the time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParkOutcome {
    Done,
    TimedOut,
}

struct Unparks(Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait_on_this_thread(future: impl Future<Output = ()>, timeout: Duration) -> ParkOutcome {
    let began = Instant::now();
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let mut future = pin!(future);
    while future
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
        .is_pending()
    {
        let left = timeout.saturating_sub(began.elapsed());
        if left.is_zero() {
            return ParkOutcome::TimedOut;
        }
        thread::park_timeout(left);
    }
    ParkOutcome::Done
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn waiting_thread_returns_when_woken() {
        let (began, timeout) = (Instant::now(), Duration::from_secs(30));
        let signal = Latch::new();
        let mut waits = signal.wait();
        let mut sets = Some(move || signal.set());
        let future = poll_fn(move |cx| {
            let polled = waits.poll_unpin(cx);
            // Not before a thread waits for it.
            if let Some(sets) = sets.take() {
                thread::spawn(sets);
            }
            polled
        });
        assert_eq!(wait_on_this_thread(future, timeout), ParkOutcome::Done);
        assert!(began.elapsed() < timeout);
    }

    #[test]
    fn waiting_thread_times_out() {
        let (began, timeout) = (Instant::now(), Duration::from_millis(1));
        let outcome = wait_on_this_thread(std::future::pending(), timeout);
        assert_eq!(outcome, ParkOutcome::TimedOut);
        assert!(began.elapsed() >= timeout);
    }
}
