//! A runtime whose tasks run on those threads of a model that say so.
//!
//! Invariants: a task is polled by one thread at a time, and again if it was woken meanwhile; a task that was
//! polled last and is not woken is not polled.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex as Untracked};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::Parker;
use crate::sync::{Mutex, lock};
use crate::{Runtime, Signal};

/// Whether a sleep ever ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    StandsStill,
    /// Whoever sleeps for less than an hour finds that the time has come.
    Flies,
}

pub(super) const AN_HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub(super) struct Tasks(Arc<Shared>);

struct Shared {
    time: Time,
    now: Instant,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
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
    /// Free whenever it is wanted: by whose turn it is.
    future: Untracked<Option<BoxFuture<'static, ()>>>,
}

impl Queue {
    /// Gives back whom to wake for it.
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

    /// Gives back whom to wake: who has waited for tasks finds that there are none.
    #[must_use]
    fn over(&mut self, task: &Task) -> Vec<Arc<Parker>> {
        self.turns[task.number] = Turn::Over;
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
            let task = Task {
                shared: Arc::clone(&self.0),
                number: queue.turns.len(),
                future: Untracked::new(Some(future)),
            };
            queue.turns.push(Turn::Ready);
            queue.unfinished += 1;
            queue.push(Arc::new(task))
        };
        unpark(idle);
    }

    async fn sleep_until(&self, deadline: Instant) {
        if self.0.time == Time::StandsStill || deadline - self.0.now >= AN_HOUR {
            pending().await
        }
    }

    fn now(&self) -> Instant {
        self.0.now
    }
}

impl Tasks {
    pub(super) fn new(time: Time) -> Self {
        Self(Arc::new(Shared {
            time,
            now: Instant::now(),
            queue: Mutex::default(),
        }))
    }

    /// Takes the task that is ready for longest out of this runtime, to be run by itself. It must not have been polled.
    pub(super) fn take(&self) -> BoxFuture<'static, ()> {
        let (task, idle) = {
            let mut queue = lock(&self.0.queue);
            let task = queue.pop().expect("a task was spawned just now");
            let idle = queue.over(&task);
            (task, idle)
        };
        unpark(idle);
        let future = task.future.try_lock().expect("it is nobody's turn").take();
        future.expect("it was never polled")
    }

    /// Polls those that are ready, and those that get ready by it, on this thread, `count` times altogether.
    pub(super) fn poll(&self, count: usize) {
        for _ in 0..count {
            let task = lock(&self.0.queue).pop();
            self.poll_task(task.expect("as many polls are due"));
        }
    }

    /// Runs tasks on this thread until none waits but for what comes from outside.
    pub(super) fn settle(&self) {
        while let Some(task) = { lock(&self.0.queue).pop() } {
            self.poll_task(task);
        }
    }

    /// Runs tasks on this thread until none is left.
    pub(super) fn run(&self) {
        self.run_while(|queue| queue.unfinished > 0);
    }

    /// Runs tasks on this thread, and no other, until one of them has set the signal.
    pub(super) fn run_until(&self, signal: &Signal) {
        self.run_while(|_| !signal.is_set());
    }

    fn run_while(&self, goes_on: impl Fn(&Queue) -> bool) {
        let parker = Arc::new(Parker::default());
        loop {
            let task = {
                let mut queue = lock(&self.0.queue);
                if !goes_on(&queue) {
                    return;
                }
                let task = queue.pop();
                if task.is_none() {
                    queue.idle.push(Arc::clone(&parker));
                }
                task
            };
            match task {
                Some(task) => self.poll_task(task),
                None => parker.park(),
            }
        }
    }

    fn poll_task(&self, task: Arc<Task>) {
        let waker = Waker::from(Arc::clone(&task));
        let mut slot = task.future.try_lock().expect("it is this thread's turn");
        let future = slot.as_mut().expect("nobody polls what is over");
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            *slot = None;
        }
        drop(slot);
        let idle = {
            let mut queue = lock(&self.0.queue);
            match (polled, queue.turns[task.number]) {
                (Poll::Ready(()), _) => queue.over(&task),
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
