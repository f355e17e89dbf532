//! Runtimes that err.

use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use acceptor_core::Runtime;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Flaw;
use crate::tamper::{Tamper, elsewhere};

/// What is wrong with a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeFlaw {
    /// A task is polled inside `spawn`.
    PollsInline,
    /// The handle that `spawn` lets go cancels the task: it is polled once.
    CancelsWithHandle,
    /// Every fifth task is dropped.
    DropsTasks,
    /// A wake while the task is polled is lost.
    LosesWakes,
    /// After a panic in one task no other is polled.
    DiesOfPanic,
    /// A panic in one task reaches the next one.
    PassesPanicsOn,
    /// All tasks run on threads outside.
    RunsElsewhere,
    /// A task that wakes itself is polled again at once: the others starve.
    Starves,
    /// A sleep is rounded down to 10 ms.
    RoundsDown,
    /// A deadline in the past is never reached.
    PastNeverComes,
    /// No deadline is ever reached.
    NeverWakes,
    /// The clock is an hour ahead of the one that sleeps keep.
    ClockAhead,
    /// The clock is an hour behind the one that sleeps keep.
    ClockBehind,
    /// The clock stands still.
    ClockStands,
}

/// A runtime that errs.
#[derive(Clone)]
pub struct WrongRuntime<R> {
    runtime: R,
    flaw: Flaw,
    shared: Arc<Shared>,
}

struct Shared {
    spawned: AtomicUsize,
    panicked: AtomicBool,
    began: Instant,
}

const HOUR: Duration = Duration::from_secs(3600);

impl<R: Runtime> WrongRuntime<R> {
    pub(super) fn new(runtime: R, flaw: Flaw) -> Self {
        let shared = Shared {
            spawned: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            began: runtime.now(),
        };
        Self {
            runtime,
            flaw,
            shared: Arc::new(shared),
        }
    }

    /// The same runtime without a flaw.
    pub(super) fn sound(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            flaw: Flaw::Pool(Arc::default()),
            shared: Arc::clone(&self.shared),
        }
    }

    pub(super) fn tamper(&self) -> Option<Arc<Tamper>> {
        match &self.flaw {
            Flaw::Pool(tamper) => Some(Arc::clone(tamper)),
            Flaw::Runtime(_) | Flaw::Listener(_) => None,
        }
    }

    fn flaw(&self) -> Option<RuntimeFlaw> {
        match self.flaw {
            Flaw::Runtime(flaw) => Some(flaw),
            Flaw::Listener(_) | Flaw::Pool(_) => None,
        }
    }

    /// Polls a task, and remembers a panic for all others.
    fn poll_or_die(&self, task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.panicked.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        catch_unwind(AssertUnwindSafe(|| task.poll_unpin(cx))).unwrap_or_else(|panic| {
            self.shared.panicked.store(true, Ordering::SeqCst);
            resume_unwind(panic)
        })
    }

    /// Polls a task, unless another's panic is due.
    fn poll_or_panic(&self, task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.panicked.swap(false, Ordering::SeqCst) {
            drop(std::mem::replace(task, Box::pin(pending())));
            return Poll::Ready(());
        }
        let polled = catch_unwind(AssertUnwindSafe(|| task.poll_unpin(cx)));
        polled.unwrap_or_else(|_| {
            self.shared.panicked.store(true, Ordering::SeqCst);
            Poll::Ready(())
        })
    }
}

impl<R> fmt::Debug for WrongRuntime<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrongRuntime")
            .field("flaw", &self.flaw)
            .finish_non_exhaustive()
    }
}

/// Wakes nobody while its task is polled.
struct Deaf {
    waker: Waker,
    polling: AtomicBool,
}

impl Wake for Deaf {
    fn wake(self: Arc<Self>) {
        if !self.polling.load(Ordering::SeqCst) {
            self.waker.wake_by_ref();
        }
    }
}

/// Remembers that it was called.
struct Called(AtomicBool, Waker);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        self.1.wake_by_ref();
    }
}

fn poll_deaf(task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
    let deaf = Arc::new(Deaf {
        waker: cx.waker().clone(),
        polling: AtomicBool::new(true),
    });
    let polled = task.poll_unpin(&mut Context::from_waker(&Waker::from(Arc::clone(&deaf))));
    deaf.polling.store(false, Ordering::SeqCst);
    polled
}

fn poll_greedily(task: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let called = Arc::new(Called(AtomicBool::new(false), cx.waker().clone()));
        let waker = Waker::from(Arc::clone(&called));
        let polled = task.poll_unpin(&mut Context::from_waker(&waker));
        if polled.is_ready() || !called.0.load(Ordering::SeqCst) {
            return polled;
        }
    }
}

impl<R: Runtime> Runtime for WrongRuntime<R> {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(flaw) = self.flaw() else {
            return self.runtime.spawn(task);
        };
        let mut task: BoxFuture<'static, ()> = Box::pin(task);
        let number = self.shared.spawned.fetch_add(1, Ordering::SeqCst) + 1;
        let wrong = self.clone();
        match flaw {
            RuntimeFlaw::PollsInline => {
                let polled = task.poll_unpin(&mut Context::from_waker(Waker::noop()));
                if polled.is_pending() {
                    self.runtime.spawn(task);
                }
            }
            RuntimeFlaw::CancelsWithHandle => self.runtime.spawn(async move {
                let _ = poll_fn(|cx| Poll::Ready(task.poll_unpin(cx))).await;
            }),
            RuntimeFlaw::DropsTasks if number % 5 == 0 => drop(task),
            RuntimeFlaw::LosesWakes => {
                self.runtime
                    .spawn(poll_fn(move |cx| poll_deaf(&mut task, cx)));
            }
            RuntimeFlaw::DiesOfPanic => {
                self.runtime
                    .spawn(poll_fn(move |cx| wrong.poll_or_die(&mut task, cx)));
            }
            RuntimeFlaw::PassesPanicsOn => {
                self.runtime
                    .spawn(poll_fn(move |cx| wrong.poll_or_panic(&mut task, cx)));
            }
            RuntimeFlaw::RunsElsewhere => drop(elsewhere(task)),
            RuntimeFlaw::Starves => {
                self.runtime
                    .spawn(poll_fn(move |cx| poll_greedily(&mut task, cx)));
            }
            _ => self.runtime.spawn(task),
        }
    }

    async fn sleep_until(&self, deadline: Instant) {
        let now = self.runtime.now();
        let deadline = match self.flaw() {
            Some(RuntimeFlaw::RoundsDown) => {
                let whole = deadline.saturating_duration_since(now).as_millis() / 10 * 10;
                now + Duration::from_millis(u64::try_from(whole).unwrap_or(u64::MAX))
            }
            Some(RuntimeFlaw::PastNeverComes) if deadline <= now => pending().await,
            Some(RuntimeFlaw::NeverWakes) => pending().await,
            _ => deadline,
        };
        self.runtime.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        let now = self.runtime.now();
        match self.flaw() {
            Some(RuntimeFlaw::ClockAhead) => now + HOUR,
            Some(RuntimeFlaw::ClockBehind) => now.checked_sub(HOUR).unwrap_or(self.shared.began),
            Some(RuntimeFlaw::ClockStands) => self.shared.began,
            _ => now,
        }
    }
}
