//! What an adapter supplies of its runtime: a detached spawn, a sleep and a clock.
//!
//! Spawn-with-abort, join handles, time-outs and channels differ between
//! runtimes in how they drop, cancel and panic. The core builds them once from
//! these three, so that every runtime behaves the same by construction.

use std::future::Future;
use std::time::Instant;

/// A runtime, as far as a pool needs one.
///
/// The value carries every option of spawning (rule B11): the pool's tasks run
/// where and as it says. Adapters implement it; users of a pool only pass it on.
///
/// An implementation makes no decision: no retry, no sleep, no log.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Starts a task that runs on its own until it is done.
    ///
    /// The task is detached: nothing is returned to join or to abort it, and it
    /// goes on when every handle is gone. It must not be polled before `spawn`
    /// returns. A panic in it must not reach other tasks; the pool's own tasks
    /// never panic. A runtime that can run no more tasks drops the future.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Waits until the clock of [`now`](Runtime::now) has reached `deadline`:
    /// never done earlier, done at once for one in the past.
    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send;

    /// The clock that [`sleep_until`](Runtime::sleep_until) keeps. Override it
    /// where time can be paused.
    fn now(&self) -> Instant {
        Instant::now()
    }
}
