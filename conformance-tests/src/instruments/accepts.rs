//! The cost of `accept`: calls, polls and wake-ups, and the tasks that call it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use super::lock;
use super::tasks::{TaskId, current_task};

/// The cost so far of the `accept` calls of all listeners.
#[derive(Default)]
pub struct Cost {
    calls: AtomicUsize,
    polls: AtomicUsize,
    wakes: AtomicUsize,
    accepted: AtomicUsize,
    state: Mutex<CallState>,
    tasks: Mutex<Vec<TaskId>>,
    on_accept: Mutex<Option<Arc<Hook>>>,
}

/// Called by `accept` before it returns a connection, with the connection's number.
type Hook = dyn Fn(usize) + Send + Sync;

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cost")
            .field("so_far", &self.so_far())
            .finish_non_exhaustive()
    }
}

/// The state of the latest call of `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum CallState {
    /// No poll is in progress and no wake-up is due.
    #[default]
    Idle,
    /// A poll is in progress.
    Polled,
    /// It is pending and has not woken its task since.
    Waits,
}

/// The cost of `accept` in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptCounts {
    /// The number of calls.
    pub calls: usize,
    /// The number of polls.
    pub polls: usize,
    /// The number of wake-ups of its tasks.
    pub wakes: usize,
}

impl Cost {
    /// Returns the numbers so far.
    pub fn so_far(&self) -> AcceptCounts {
        AcceptCounts {
            calls: self.calls.load(Ordering::SeqCst),
            polls: self.polls.load(Ordering::SeqCst),
            wakes: self.wakes.load(Ordering::SeqCst),
        }
    }

    /// Returns the number of connections accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Returns the tasks that polled `accept`, in a world with instruments.
    pub fn tasks(&self) -> Vec<TaskId> {
        lock(&self.tasks).clone()
    }

    /// Sets a function that is called before `accept` returns a connection, with the connection's number, from 1.
    pub fn on_accept(&self, on_accept: impl Fn(usize) + Send + Sync + 'static) {
        let on_accept: Arc<Hook> = Arc::new(on_accept);
        *lock(&self.on_accept) = Some(on_accept);
    }

    fn returns(&self) {
        let number = self.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let on_accept = lock(&self.on_accept).clone();
        if let Some(on_accept) = on_accept {
            on_accept(number);
        }
    }

    fn is_polled(&self) {
        self.polls.fetch_add(1, Ordering::SeqCst);
        self.state(|state| *state = CallState::Polled);
        let mut tasks = lock(&self.tasks);
        let new = current_task().filter(|task| !tasks.contains(task));
        tasks.extend(new);
    }

    /// Returns whether `accept` is pending and has not woken its task since.
    pub fn waits(&self) -> bool {
        self.state(|state| *state == CallState::Waits)
    }

    fn state<T>(&self, look: impl FnOnce(&mut CallState) -> T) -> T {
        look(&mut lock(&self.state))
    }
}

/// Counts wake-ups and forwards them.
struct CountingWaker {
    cost: Arc<Cost>,
    waker: Waker,
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.cost.state(|state| *state = CallState::Idle);
        self.cost.wakes.fetch_add(1, Ordering::SeqCst);
        self.waker.wake_by_ref();
    }
}

impl Cost {
    /// Awaits and counts a call of `accept`.
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
            self.state(|state| {
                *state = match *state {
                    CallState::Polled if accepted.is_pending() => CallState::Waits,
                    // Ready, or woken during the poll.
                    _ => CallState::Idle,
                }
            });
            accepted
        })
        .await?;
        self.returns();
        Ok(accepted)
    }
}
