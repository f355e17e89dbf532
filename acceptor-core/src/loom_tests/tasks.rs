//! A runtime whose tasks run on the threads of a model that call [`Tasks::run`] and the like.
//!
//! Invariants: a task is polled by one thread at a time, and again if it was woken during the poll; a task that was
//! polled and not woken since is not polled; the clock stands still, and only the length of a sleep counts.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex as Untracked};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::Parker;
use crate::Runtime;
use crate::pool::reporter::yield_now;
use crate::sync::{Mutex, lock};

/// Which sleeps end, once other tasks have run. Longer ones never end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sleeps {
    /// That of a closing listener, before it takes its queue to be empty.
    Close,
    /// And the first pause of a listener that is out of resources.
    FirstPause,
    /// And the limit of a listener's close.
    CloseLimit,
    /// And all others, except those of an hour.
    Any,
}

pub(super) const AN_HOUR: Duration = Duration::from_secs(3600);

impl Sleeps {
    fn end(self, length: Duration) -> bool {
        match self {
            Self::Close => length <= Duration::from_millis(1),
            Self::FirstPause => length <= Duration::from_millis(5),
            Self::CloseLimit => length <= Duration::from_secs(1),
            Self::Any => length < AN_HOUR,
        }
    }
}

#[derive(Clone)]
pub(super) struct Tasks(Arc<Shared>);

struct Shared {
    sleeps: Sleeps,
    now: Instant,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// In spawn order; each until it has finished.
    tasks: Vec<Option<Arc<Task>>>,
    turns: Vec<Turn>,
    ready: VecDeque<Arc<Task>>,
    unfinished: usize,
    idle: Vec<Arc<Parker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Waits,
    Ready,
    Polled,
    PolledAndWoken,
    Over,
}

struct Task {
    shared: Arc<Shared>,
    number: usize,
    /// Never contended: only the thread that polls the task locks it.
    future: Untracked<Option<BoxFuture<'static, ()>>>,
}

impl Queue {
    /// Returns the thread to wake for the task.
    #[must_use]
    fn push(&mut self, task: Arc<Task>) -> Option<Arc<Parker>> {
        self.turns[task.number] = Turn::Ready;
        self.ready.push_back(task);
        self.idle.pop()
    }

    fn pop(&mut self) -> Option<Arc<Task>> {
        let task = self.ready.pop_front()?;
        self.turns[task.number] = Turn::Polled;
        Some(task)
    }

    /// Returns the threads to wake: those that wait for tasks find that none are left.
    #[must_use]
    fn over(&mut self, number: usize) -> Vec<Arc<Parker>> {
        self.turns[number] = Turn::Over;
        self.tasks[number] = None;
        self.unfinished -= 1;
        if self.unfinished == 0 {
            std::mem::take(&mut self.idle)
        } else {
            Vec::new()
        }
    }
}

fn unpark(idle: impl IntoIterator<Item = Arc<Parker>>) {
    for parker in idle {
        parker.unpark();
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let shared = Arc::clone(&self.shared);
        let idle = {
            let mut queue = lock(&shared.queue);
            match queue.turns[self.number] {
                Turn::Waits => queue.push(self),
                Turn::Polled => {
                    queue.turns[self.number] = Turn::PolledAndWoken;
                    None
                }
                Turn::Ready | Turn::PolledAndWoken | Turn::Over => None,
            }
        };
        unpark(idle);
    }
}

impl Runtime for Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let future: BoxFuture<'static, ()> = Box::pin(task);
        let idle = {
            let mut queue = lock(&self.0.queue);
            let task = Arc::new(Task {
                shared: Arc::clone(&self.0),
                number: queue.turns.len(),
                future: Untracked::new(Some(future)),
            });
            queue.turns.push(Turn::Ready);
            queue.tasks.push(Some(Arc::clone(&task)));
            queue.unfinished += 1;
            queue.push(task)
        };
        unpark(idle);
    }

    async fn sleep_until(&self, deadline: Instant) {
        let length = deadline.saturating_duration_since(self.0.now);
        if !self.0.sleeps.end(length) {
            pending::<()>().await;
        }
        yield_now().await;
    }

    fn now(&self) -> Instant {
        self.0.now
    }
}

impl Tasks {
    pub(super) fn new(sleeps: Sleeps) -> Self {
        Self(Arc::new(Shared {
            sleeps,
            now: Instant::now(),
            queue: Mutex::default(),
        }))
    }

    /// Takes a task out of this runtime, by its number in spawn order. It is ready to be polled.
    pub(super) fn take(&self, number: usize) -> BoxFuture<'static, ()> {
        let (task, idle) = {
            let mut queue = lock(&self.0.queue);
            let task = queue.tasks[number]
                .take()
                .expect("the task has not finished");
            queue.ready.retain(|ready| ready.number != number);
            let idle = queue.over(number);
            (task, idle)
        };
        unpark(idle);
        let future = task
            .future
            .try_lock()
            .expect("no thread polls the task")
            .take();
        future.expect("the task has not finished")
    }

    /// The number of tasks spawned so far.
    pub(super) fn spawned(&self) -> usize {
        lock(&self.0.queue).tasks.len()
    }

    /// Takes the task that was spawned last.
    pub(super) fn take_last(&self) -> BoxFuture<'static, ()> {
        self.take(self.spawned() - 1)
    }

    /// Polls the task that has been ready longest, on this thread.
    pub(super) fn poll_one(&self) {
        let task = lock(&self.0.queue).pop();
        self.poll(task.expect("a task is ready"));
    }

    /// Runs tasks on this thread until none is ready.
    pub(super) fn settle(&self) {
        while let Some(task) = { lock(&self.0.queue).pop() } {
            self.poll(task);
        }
    }

    /// Runs tasks on this thread until none is left.
    pub(super) fn run(&self) {
        let parker = Arc::new(Parker::default());
        loop {
            let task = {
                let mut queue = lock(&self.0.queue);
                if queue.unfinished == 0 {
                    return;
                }
                let task = queue.pop();
                if task.is_none() {
                    queue.idle.push(Arc::clone(&parker));
                }
                task
            };
            match task {
                Some(task) => self.poll(task),
                None => parker.park(),
            }
        }
    }

    fn poll(&self, task: Arc<Task>) {
        let waker = Waker::from(Arc::clone(&task));
        let mut slot = task
            .future
            .try_lock()
            .expect("only this thread polls the task");
        let future = slot.as_mut().expect("a finished task is not polled");
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            *slot = None;
        }
        drop(slot);
        let idle = {
            let mut queue = lock(&self.0.queue);
            match (polled, queue.turns[task.number]) {
                (Poll::Ready(()), _) => queue.over(task.number),
                (Poll::Pending, Turn::PolledAndWoken) => queue.push(task).into_iter().collect(),
                (Poll::Pending, _) => {
                    queue.turns[task.number] = Turn::Waits;
                    Vec::new()
                }
            }
        };
        unpark(idle);
    }
}
