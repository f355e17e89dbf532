//! A world whose runtime numbers the polls of its tasks, and withholds the polls of a task, or stops its clock, when told to.
//!
//! A task whose polls are withheld is to the pool what a task is whose poll
//! never returns: it reaches no suspension point. So a child can be stuck in a
//! world that has one thread, or none.
//!
//! Invariants: a poll is among those under way from before the task sees it
//! until after the task has returned from it; a task that is held is not polled
//! from when its holder was told so until it is released.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use acceptor_core::{Listener, Runtime, StreamOf};

use crate::disturbed::{DroppedTasks, DroppingRuntime, TaskId, current_task};
use crate::patience::Patience;
use crate::record::Record;
use crate::tamper::Tamper;
use crate::world::World;

/// A poll of a task of a [`HeldRuntime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PollId(u64);

thread_local! {
    static CURRENT: Cell<Option<PollId>> = const { Cell::new(None) };
}

/// The poll that this thread is in, if it is one of a task that was spawned on a [`HeldRuntime`].
pub fn current_poll() -> Option<PollId> {
    CURRENT.get()
}

/// A runtime that withholds polls and stops its clock when told to; all else is that of another.
#[derive(Debug, Clone)]
pub struct HeldRuntime<R> {
    runtime: R,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    polls: AtomicU64,
    /// The tasks that are being polled.
    under_way: Mutex<HashSet<TaskId>>,
    orders: Record<Order>,
    holding: Record<TaskId>,
    /// When the clock of the tasks was stopped.
    stopped_at: OnceLock<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Hold(TaskId),
    Release(TaskId),
}

impl Order {
    fn is_of(self, task: TaskId) -> bool {
        let (Order::Hold(other) | Order::Release(other)) = self;
        other == task
    }
}

/// Whether the last order of this task is to hold it.
fn is_held(orders: &[Order], task: TaskId) -> bool {
    orders.iter().rfind(|order| order.is_of(task)) == Some(&Order::Hold(task))
}

impl Shared {
    /// Whether this task is held. Wakes the task when that changes.
    fn holds(&self, task: TaskId, cx: &mut Context<'_>) -> bool {
        loop {
            let held = pin!(self.orders.when(|all| is_held(all, task).then_some(())));
            if held.poll(cx).is_pending() {
                return false;
            }
            let free = pin!(self.orders.when(|all| (!is_held(all, task)).then_some(())));
            if free.poll(cx).is_pending() {
                return true;
            }
        }
    }

    fn under_way<T>(&self, look: impl FnOnce(&mut HashSet<TaskId>) -> T) -> T {
        look(
            &mut self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// One poll, under way until it is dropped, by a panic or not.
struct UnderWay<'a> {
    shared: &'a Shared,
    task: Option<TaskId>,
    before: Option<PollId>,
}

impl<'a> UnderWay<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let task = current_task();
        shared.under_way(|tasks| tasks.extend(task));
        let poll = PollId(shared.polls.fetch_add(1, Ordering::SeqCst));
        let before = CURRENT.replace(Some(poll));
        Self {
            shared,
            task,
            before,
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.before);
        if let Some(task) = self.task {
            self.shared.under_way(|tasks| tasks.remove(&task));
        }
    }
}

impl<R: Runtime> Runtime for HeldRuntime<R> {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            let mut task = Box::pin(task);
            poll_fn(|cx| {
                if let Some(id) = current_task() {
                    if shared.holds(id, cx) {
                        shared.holding.push(id);
                        return Poll::Pending;
                    }
                }
                let _under_way = UnderWay::begin(&shared);
                task.as_mut().poll(cx)
            })
            .await;
        });
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.runtime.sleep_until(deadline).await;
        // Who waits for the pool, and is none of its tasks, sleeps on as ever.
        let stopped = self.shared.stopped_at.get();
        if current_task().is_some() && stopped.is_some_and(|stopped| *stopped < deadline) {
            pending::<()>().await;
        }
    }

    fn now(&self) -> Instant {
        let stopped = self.shared.stopped_at.get().copied();
        stopped.unwrap_or_else(|| self.runtime.now())
    }
}

/// A world whose runtime withholds polls and stops its clock when told to.
pub struct HeldTasks<W: World> {
    world: Arc<DroppedTasks<W>>,
    shared: Arc<Shared>,
}

impl<W: World> HeldTasks<W> {
    /// The same world, with a runtime that withholds when told to.
    pub fn new(world: &Arc<W>) -> Arc<Self> {
        Arc::new(Self {
            world: DroppedTasks::new(world),
            shared: Arc::default(),
        })
    }

    /// The same runtime as another value, for a listener that is to have one of its own.
    pub fn another_value(&self) -> HeldRuntime<DroppingRuntime<W::Runtime>> {
        HeldRuntime {
            runtime: self.world.another_value(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Polls this task no more; done when the poll that may be under way is over. To be used once for a task.
    pub fn hold(&self, task: TaskId) -> impl Future<Output = ()> + Send + 'static {
        self.shared.orders.push(Order::Hold(task));
        let holding = self.shared.holding.clone();
        async move { holding.first(|held| (*held == task).then_some(())).await }
    }

    /// Polls this task again.
    pub fn release(&self, task: TaskId) {
        self.shared.orders.push(Order::Release(task));
    }

    /// Stops the clock of the tasks: what is not due by now never is, whatever wakes the one that waits for it.
    pub fn stop_clock(&self) {
        let now = self.world.clock().now();
        self.shared.stopped_at.get_or_init(|| now);
    }

    /// Whether a poll of this task is under way.
    pub fn is_polled(&self, task: TaskId) -> bool {
        self.shared.under_way(|tasks| tasks.contains(&task))
    }
}

impl<W: World> fmt::Debug for HeldTasks<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldTasks").finish_non_exhaustive()
    }
}

impl<W: World> World for HeldTasks<W> {
    type Runtime = HeldRuntime<DroppingRuntime<W::Runtime>>;
    type Listener = W::Listener;
    type Stream = W::Stream;
    type Client = W::Client;

    fn runtime(&self) -> Self::Runtime {
        HeldRuntime {
            runtime: self.world.runtime(),
            shared: Arc::clone(&self.shared),
        }
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.world.run(test);
    }

    fn listen_on(&self, address: SocketAddr) -> io::Result<(W::Listener, SocketAddr)> {
        self.world.listen_on(address)
    }

    fn listen_to_nothing(&self) -> io::Result<(W::Listener, io::Error)> {
        self.world.listen_to_nothing()
    }

    fn accepted(&self, stream: <W::Listener as Listener>::Io) -> W::Stream {
        self.world.accepted(stream)
    }

    fn stream(&self, stream: StreamOf<W::Listener>) -> W::Stream {
        self.world.stream(stream)
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<W::Client>> + Send + 'static {
        self.world.connect(address)
    }

    fn patience(&self) -> Patience {
        self.world.patience()
    }

    fn clock(&self) -> Self::Runtime {
        HeldRuntime {
            runtime: self.world.clock(),
            shared: Arc::default(),
        }
    }

    fn tamper(runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        DroppedTasks::<W>::tamper(&runtime.runtime)
    }
}
