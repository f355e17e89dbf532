//! The runtime of an adapter: a detached spawn, a sleep and a clock.
//!
//! Spawn-with-abort, join handles, timeouts and channels differ between runtimes in how they drop,
//! cancel and panic. The core builds them once from these three functions, so that every runtime
//! behaves the same by construction.

use std::future::Future;
use std::time::Instant;

/// The services that a pool needs from an async runtime.
///
/// The value carries every option of spawning ([B11](crate::guide::rules#b11)): the pool's tasks
/// run where and as it says. Adapter crates implement it; users of a pool only pass it on. An
/// implementation makes no decisions: it does not retry, sleep or log.
///
/// ```
/// use std::time::Instant;
/// use acceptor_core::Runtime;
///
/// /// Runs each task on a thread of its own. `block_on` is any executor of a single future.
/// #[derive(Clone)]
/// struct Threads;
///
/// impl Runtime for Threads {
///     fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
///         std::thread::spawn(|| block_on(task));
///     }
///
///     async fn sleep_until(&self, deadline: Instant) {
///         // A sketch: a real runtime has a timer, and never blocks in a poll.
///         std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
///     }
/// }
///
/// let (done, receiver) = std::sync::mpsc::channel();
/// Threads.spawn(async move { done.send("done").unwrap() });
/// assert_eq!(receiver.recv()?, "done");
/// # use support::block_on;
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # Ok::<_, std::sync::mpsc::RecvError>(())
/// ```
#[doc(alias = "executor")]
#[doc(alias = "spawn")]
#[doc(alias = "tokio")]
#[doc(alias = "smol")]
#[doc(alias = "async-std")]
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Spawns a detached task, which runs until it is done.
    ///
    /// Nothing is returned to join or abort the task, and it continues when every handle is gone.
    /// It must not be polled before `spawn` returns. A panic in it must not reach other tasks; the
    /// pool's own tasks never panic. A runtime that can run no more tasks drops the future.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Waits until the clock of [`now`](Runtime::now) has reached `deadline`. It never completes
    /// earlier, and completes at once for a deadline in the past.
    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send;

    /// Returns whether both values run their tasks on the same threads.
    ///
    /// The pool calls it when a listener is [added on a runtime of its
    /// own](crate::Pool::add_listener_on), to know which children wait for the same threads: as
    /// long as their runtime polls any task of the pool, they are not stuck
    /// ([S8](crate::guide::rules#s8)). The default returns `false`, so that each such listener
    /// counts as alone on its runtime.
    fn is_same(&self, other: &Self) -> bool {
        let _ = other;
        false
    }

    /// Returns the time of the clock that [`sleep_until`](Runtime::sleep_until) uses. Override it
    /// if time can be paused.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Returns the same as [`now`](Runtime::now), called within a task that runs on this runtime,
    /// whose clock may be cheaper to read there. Called once for each connection.
    #[doc(hidden)]
    fn now_in_task(&self) -> Instant {
        self.now()
    }

    /// Returns whether all tasks run on one thread, so that none runs while another blocks it.
    #[doc(hidden)]
    fn has_one_thread(&self) -> bool {
        false
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use futures::future::BoxFuture;

    use super::*;
    use crate::sync::lock;

    /// A runtime whose tasks run when a test says so, on its thread, and whose clock a test moves.
    #[derive(Clone)]
    pub(crate) struct Tasks(Arc<TasksState>);

    struct TasksState {
        now: Mutex<Instant>,
        sleepers: Mutex<Vec<Waker>>,
        tasks: Mutex<Vec<Task>>,
    }

    struct Task {
        future: BoxFuture<'static, ()>,
        woken: Arc<Woken>,
    }

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Tasks {
        pub(crate) fn new() -> Self {
            Self(Arc::new(TasksState {
                now: Mutex::new(Instant::now()),
                sleepers: Mutex::default(),
                tasks: Mutex::default(),
            }))
        }

        /// Polls the tasks that were woken, in the order in which they were spawned, until none is.
        pub(crate) fn run(&self) {
            let mut polled = true;
            while std::mem::take(&mut polled) {
                let tasks = std::mem::take(&mut *lock(&self.0.tasks));
                let mut left = Vec::new();
                for mut task in tasks {
                    if !task.woken.0.swap(false, Ordering::SeqCst) {
                        left.push(task);
                        continue;
                    }
                    polled = true;
                    let waker = Waker::from(Arc::clone(&task.woken));
                    let cx = &mut Context::from_waker(&waker);
                    if task.future.as_mut().poll(cx).is_pending() {
                        left.push(task);
                    }
                }
                let mut tasks = lock(&self.0.tasks);
                // Those that were spawned meanwhile come last.
                left.append(&mut tasks);
                *tasks = left;
            }
        }

        /// Moves the clock, and runs what is due.
        pub(crate) fn advance(&self, time: Duration) {
            *lock(&self.0.now) += time;
            let sleepers = std::mem::take(&mut *lock(&self.0.sleepers));
            sleepers.into_iter().for_each(Waker::wake);
            self.run();
        }

        /// Drops the task that was spawned last, as a runtime that shuts down.
        pub(crate) fn drop_last(&self) {
            let last = lock(&self.0.tasks).pop();
            drop(last);
        }

        /// How many tasks are not over.
        pub(crate) fn tasks(&self) -> usize {
            lock(&self.0.tasks).len()
        }
    }

    impl Runtime for Tasks {
        fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            lock(&self.0.tasks).push(Task {
                future: Box::pin(task),
                woken: Arc::new(Woken(AtomicBool::new(true))),
            });
        }

        async fn sleep_until(&self, deadline: Instant) {
            std::future::poll_fn(|cx| {
                if self.now() >= deadline {
                    return Poll::Ready(());
                }
                lock(&self.0.sleepers).push(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }

        fn now(&self) -> Instant {
            *lock(&self.0.now)
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::testing::Tasks;
    use super::*;

    #[test]
    fn runtimes_are_different_by_default() {
        let tasks = Tasks::new();
        assert!(!tasks.is_same(&tasks));
    }
}
