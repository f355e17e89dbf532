//! The runtime of a listener's tasks: the pool's, or another.
//!
//! Invariant: times are those of the pool's clock, timers those of the listener's runtime.

use std::future::{Future, pending, poll_fn};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::machine::stuck::RuntimeKey;
use crate::runtime::Runtime;
use crate::sync::catch_panic;
use crate::sync::notify::Notify;

pub(crate) struct Host<R: Runtime> {
    pub(crate) runtime: R,
    pub(crate) key: RuntimeKey,
    /// Whether another thread could run the tasks that this one leaves.
    pub(crate) has_other_threads: bool,
    /// Present on a runtime that is not the pool's.
    companion: Option<Companion>,
}

impl<R: Runtime> Host<R> {
    /// Creates a host. On a runtime that is not the pool's, [`start`](Self::start) must follow.
    pub(crate) fn new(runtime: R, key: RuntimeKey) -> Self {
        let other = key != RuntimeKey::OF_THE_POOL;
        let one_thread = catch_panic(|| runtime.has_one_thread()).unwrap_or(false);
        Self {
            has_other_threads: !one_thread,
            runtime,
            key,
            companion: other.then(Companion::default),
        }
    }

    /// Spawns the task that does nothing, if one is needed.
    pub(crate) fn start(&self) {
        if let Some(Companion(notify)) = &self.companion {
            let notify = Arc::clone(notify);
            self.spawn(async move { poll_fn(|cx| notify.poll(cx)).await });
        }
    }

    /// Spawns a task. A runtime that panics here drops the task, which then reports its end.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Taken out inside the call: a future that is moved into it is copied once more.
        let mut task = Some(task);
        let _ = catch_panic(|| {
            if let Some(task) = task.take() {
                self.runtime.spawn(task);
            }
        });
    }

    pub(crate) fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        if is_never(deadline) {
            return Box::pin(pending());
        }
        let runtime = self.runtime.clone();
        Box::pin(async move { runtime.sleep_until(deadline).await })
    }

    /// Sleeps for this time by the pool's clock, or forever if it is that long.
    pub(crate) fn sleep(&self, now: Instant, time: Duration) -> BoxFuture<'static, ()> {
        match now.checked_add(time) {
            Some(deadline) => self.sleep_until(deadline),
            None => Box::pin(pending()),
        }
    }

    /// Has another thread woken for a task that was woken or spawned before. False if the pool's
    /// own task must do that.
    pub(crate) fn wake_companion(&self) -> bool {
        if let Some(companion) = &self.companion {
            companion.0.wake_task();
        }
        self.companion.is_some()
    }
}

/// A task that does nothing and ends when this is dropped.
#[derive(Default)]
struct Companion(Arc<Notify>);

impl Drop for Companion {
    fn drop(&mut self) {
        self.0.notify();
    }
}

/// Returns whether a deadline is so late that it never comes. Runtimes add a little to a deadline,
/// which would overflow at the end of time.
pub(crate) fn is_never(deadline: Instant) -> bool {
    const A_DAY: Duration = Duration::from_secs(86_400);
    deadline.checked_add(A_DAY).is_none()
}
