//! The cost of `accept`: calls, polls and wake-ups, and the tasks that call it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use super::lock;
use super::tasks::{TaskId, current_task};

/// What the `accept` of all listeners cost so far.
#[derive(Default)]
pub struct Cost {
    calls: AtomicUsize,
    polls: AtomicUsize,
    wakes: AtomicUsize,
    accepted: AtomicUsize,
    stage: Mutex<Stage>,
    tasks: Mutex<Vec<TaskId>>,
    witness: Mutex<Option<Arc<Witness>>>,
}

/// Is called by `accept` before it returns a connection, with the number of that connection.
type Witness = dyn Fn(usize) + Send + Sync;

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cost")
            .field("so_far", &self.so_far())
            .finish_non_exhaustive()
    }
}

/// Where the last call of `accept` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Nobody polls it, and nobody need be woken by it.
    #[default]
    Idle,
    /// It is being polled.
    Polled,
    /// It is pending, and nobody was woken since.
    Waits,
}

/// What `accept` cost, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How often it was called.
    pub calls: usize,
    /// How often its future was polled.
    pub polls: usize,
    /// How often it woke who polled it.
    pub wakes: usize,
}

impl Cost {
    /// The numbers so far.
    pub fn so_far(&self) -> Counted {
        Counted {
            calls: self.calls.load(Ordering::SeqCst),
            polls: self.polls.load(Ordering::SeqCst),
            wakes: self.wakes.load(Ordering::SeqCst),
        }
    }

    /// How many connections it returned.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The tasks that polled it, in a world that knows its tasks.
    pub fn tasks(&self) -> Vec<TaskId> {
        lock(&self.tasks).clone()
    }

    /// Calls this before `accept` returns a connection, with the number of that connection, counted from 1.
    pub fn witness(&self, witness: impl Fn(usize) + Send + Sync + 'static) {
        let witness: Arc<Witness> = Arc::new(witness);
        *lock(&self.witness) = Some(witness);
    }

    fn returns(&self) {
        let number = self.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let witness = lock(&self.witness).clone();
        if let Some(witness) = witness {
            witness(number);
        }
    }

    fn is_polled(&self) {
        self.polls.fetch_add(1, Ordering::SeqCst);
        self.stage(|stage| *stage = Stage::Polled);
        let mut tasks = lock(&self.tasks);
        let new = current_task().filter(|task| !tasks.contains(task));
        tasks.extend(new);
    }

    /// Whether it is pending, and nobody was woken since.
    pub fn waits(&self) -> bool {
        self.stage(|stage| *stage == Stage::Waits)
    }

    fn stage<T>(&self, look: impl FnOnce(&mut Stage) -> T) -> T {
        look(&mut lock(&self.stage))
    }
}

/// Counts, and passes on.
struct CountingWaker {
    cost: Arc<Cost>,
    waker: Waker,
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.cost.stage(|stage| *stage = Stage::Idle);
        self.cost.wakes.fetch_add(1, Ordering::SeqCst);
        self.waker.wake_by_ref();
    }
}

impl Cost {
    /// Awaits a call of `accept`, and counts it.
    pub(super) async fn count<T, E>(
        self: &Arc<Self>,
        accept: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut accept = pin!(accept);
        let accepted = poll_fn(|cx| {
            self.is_polled();
            let waker = Waker::from(Arc::new(CountingWaker {
                cost: Arc::clone(self),
                waker: cx.waker().clone(),
            }));
            let accepted = accept.as_mut().poll(&mut Context::from_waker(&waker));
            self.stage(|stage| {
                *stage = match *stage {
                    Stage::Polled if accepted.is_pending() => Stage::Waits,
                    // Ready, or woken while it was polled.
                    _ => Stage::Idle,
                }
            });
            accepted
        })
        .await?;
        self.returns();
        Ok(accepted)
    }
}
