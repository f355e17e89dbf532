//! Instruments of a world. With them a rule observes the pool's tasks, polls, `accept` calls and `tracing` events, and
//! controls which task is held or dropped, when the clock stops, and which `accept` fails.
//!
//! To the pool, a task whose polls are held looks like a task whose poll never returns: it reaches no suspension point.
//! So a child can be stuck even in a world with one thread or none.
//!
//! Invariants: a poll counts as under way from before the task is polled until after the poll has returned; a held task
//! is not polled from the moment its holder is notified until it is released.

mod accepts;
mod faults;
mod tasks;
mod traces;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use acceptor_core::Runtime;
use tracing::Dispatch;
use tracing::dispatcher::with_default;

use self::tasks::Current;
use crate::address::Address;
use crate::boxed::{Boxed, BoxedRuntime};
use crate::fixture::Fixture;
use crate::record::Record;
use crate::verdict::Broken;
use crate::world::World;

pub use accepts::{AcceptCounts, Cost};
pub use faults::{Faults, RuntimeError, not_listening};
pub use tasks::{PollId, TaskId, ValueId, current_poll, current_task};
pub use traces::TraceEvent;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instruments of a world, shared by its runtime values and its listeners.
pub(crate) struct Instruments {
    clock: BoxedRuntime,
    spawned: [AtomicUsize; 2],
    polls: AtomicU64,
    /// The tasks that are being polled.
    under_way: Mutex<HashSet<TaskId>>,
    commands: Record<TaskCommand>,
    holding: Record<TaskId>,
    /// When the tasks' clock was stopped.
    stopped_at: OnceLock<Instant>,
    dispatch: Dispatch,
    traced: Record<TraceEvent>,
    cost: Arc<Cost>,
    /// Whether the peer of the next connection is gone before its address is read.
    peer_gone: AtomicBool,
    faults: Mutex<HashMap<Address, Faults>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskCommand {
    Hold(TaskId),
    Release(TaskId),
    Drop(TaskId),
}

/// Returns whether the task's latest command is to hold it.
fn is_held(commands: &[TaskCommand], task: TaskId) -> bool {
    let of_task = |command: &&TaskCommand| {
        [TaskCommand::Hold(task), TaskCommand::Release(task)].contains(command)
    };
    commands.iter().rfind(of_task) == Some(&TaskCommand::Hold(task))
}

impl Instruments {
    pub(crate) fn new(clock: BoxedRuntime) -> Arc<Self> {
        let (dispatch, traced) = traces::keep(clock.clone());
        Arc::new(Self {
            clock,
            spawned: Default::default(),
            polls: AtomicU64::new(0),
            under_way: Mutex::default(),
            commands: Record::default(),
            holding: Record::default(),
            stopped_at: OnceLock::new(),
            dispatch,
            traced,
            cost: Arc::default(),
            peer_gone: AtomicBool::new(false),
            faults: Mutex::default(),
        })
    }

    /// Wraps a task with instruments.
    pub(crate) fn task(
        self: &Arc<Self>,
        value: ValueId,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let number = self.spawned[value as usize].fetch_add(1, Ordering::SeqCst);
        let (id, instruments) = (TaskId { value, number }, Arc::clone(self));
        let mut task = Some(Box::pin(task));
        let commands = instruments.commands.clone();
        let mut drops = Box::pin(async move {
            let dropped = |command: &TaskCommand| (*command == TaskCommand::Drop(id)).then_some(());
            commands.first(dropped).await;
        });
        poll_fn(move |cx| {
            if drops.as_mut().poll(cx).is_ready() {
                task = None;
            }
            if task.is_none() {
                return Poll::Ready(());
            }
            if instruments.holds(id, cx) {
                instruments.holding.push(id);
                return Poll::Pending;
            }
            let _under_way = UnderWay::begin(&instruments, id);
            with_default(&instruments.dispatch, || {
                let running = task.as_mut().map(|task| task.as_mut().poll(cx));
                let polled = running.unwrap_or(Poll::Ready(()));
                if polled.is_ready() {
                    task = None;
                }
                polled
            })
        })
    }

    /// Returns whether this task is held, and wakes the task when that changes.
    fn holds(&self, task: TaskId, cx: &mut Context<'_>) -> bool {
        loop {
            let held = pin!(self.commands.when(|all| is_held(all, task).then_some(())));
            if held.poll(cx).is_pending() {
                return false;
            }
            let free = pin!(
                self.commands
                    .when(|all| (!is_held(all, task)).then_some(()))
            );
            if free.poll(cx).is_pending() {
                return true;
            }
        }
    }

    /// Called when a task's sleep completes: returns unless the clock was stopped before the deadline.
    pub(crate) async fn slept(&self, deadline: Instant) {
        // Only the pool's own tasks are affected; waits of the test continue.
        let stopped = self.stopped_at.get();
        if current_task().is_some() && stopped.is_some_and(|stopped| *stopped < deadline) {
            pending::<()>().await;
        }
    }

    /// Returns when the tasks' clock was stopped.
    pub(crate) fn stopped_at(&self) -> Option<Instant> {
        self.stopped_at.get().copied()
    }

    /// Returns the fault injection of the listener bound to an address.
    pub(crate) fn faults(&self, address: Address) -> Faults {
        lock(&self.faults).entry(address).or_default().clone()
    }

    /// Returns, once, whether the peer of the connection being returned is gone.
    pub(crate) fn loses_peer(&self) -> bool {
        self.peer_gone.swap(false, Ordering::SeqCst)
    }

    /// Awaits and counts a call of `accept`, and makes it fail if a fault is injected.
    pub(crate) async fn accept<T>(
        &self,
        faults: &Faults,
        accept: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let mut accept = pin!(self.cost.count(accept));
        poll_fn(|cx| match faults.next(cx.waker()) {
            Some(error) => Poll::Ready(Err(error)),
            None => accept.as_mut().poll(cx),
        })
        .await
    }
}

/// A poll in progress, ended by its drop (also on a panic).
struct UnderWay<'a> {
    instruments: &'a Instruments,
    task: TaskId,
    _current: Current,
}

impl<'a> UnderWay<'a> {
    fn begin(instruments: &'a Instruments, task: TaskId) -> Self {
        lock(&instruments.under_way).insert(task);
        let poll = PollId(instruments.polls.fetch_add(1, Ordering::SeqCst));
        Self {
            instruments,
            task,
            _current: Current::enter(task, poll),
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.instruments.under_way).remove(&self.task);
    }
}

impl fmt::Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instruments").finish_non_exhaustive()
    }
}

/// Controls of a world with instruments.
///
/// # Panics
///
/// Every method panics if the world is not [`instrumented`](Boxed::instrumented).
impl Boxed {
    /// Stops polling this task. Completes when a poll in progress has returned. May be used once per task.
    pub fn hold(&self, task: TaskId) -> impl Future<Output = ()> + Send + 'static {
        self.instruments().commands.push(TaskCommand::Hold(task));
        let holding = self.instruments().holding.clone();
        async move { holding.first(|held| (*held == task).then_some(())).await }
    }

    /// Resumes polling this task.
    pub fn release(&self, task: TaskId) {
        self.instruments().commands.push(TaskCommand::Release(task));
    }

    /// Drops a task, as a runtime does when it shuts down.
    pub fn drop_task(&self, task: TaskId) {
        self.instruments().commands.push(TaskCommand::Drop(task));
    }

    /// Stops the tasks' clock: a deadline that has not passed yet never does, whatever wakes the task that waits for
    /// it.
    pub fn stop_clock(&self) {
        let now = self.instruments().clock.now();
        self.instruments().stopped_at.get_or_init(|| now);
    }

    /// Returns whether this task is being polled.
    pub fn is_polled(&self, task: TaskId) -> bool {
        lock(&self.instruments().under_way).contains(&task)
    }

    /// Returns the `tracing` events so far.
    pub fn traced(&self) -> Vec<TraceEvent> {
        let mut traced = self.instruments().traced.all();
        let tamper = self.runtime().tamper;
        if let Some(edit) = tamper.as_ref().and_then(|tamper| tamper.traces.as_ref()) {
            edit(&mut traced);
        }
        traced
    }

    /// Returns the cost of `accept`.
    pub fn cost(&self) -> &Cost {
        &self.instruments().cost
    }

    /// Makes the peer of the next connection disappear before its address is read.
    pub fn lose_next_peer(&self) {
        self.instruments().peer_gone.store(true, Ordering::SeqCst);
    }

    /// Returns the fault injection of the listener bound to an address.
    pub fn faults(&self, address: Address) -> Faults {
        self.instruments().faults(address)
    }

    /// Holds the accept loop of the only listener while acceptors wait. Later clients stay in the kernel's queue.
    ///
    /// # Errors
    ///
    /// [`Broken`] if no task waits in `accept`.
    pub async fn hold_accepting(&self, fixture: &Fixture<Boxed>) -> Result<TaskId, Broken> {
        let cost = self.cost();
        let waits = || match cost.waits() {
            true => Ok(()),
            false => Err(cost.so_far()),
        };
        fixture.until("`accept` waits", waits).await?;
        let task = cost.tasks().last().copied();
        let task = task.ok_or_else(|| Broken::new("`accept` is called in a task", "it is not"))?;
        let rests = self.hold(task);
        fixture.event("the accept loop is held", rests).await?;
        Ok(task)
    }
}
