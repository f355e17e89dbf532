//! How long the suite waits for an event: one setting, scaled by an environment variable.

use std::env;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use acceptor_core::Runtime;
use futures::channel::oneshot;
use futures::task::AtomicWaker;

use crate::assertion::at_caller;
use crate::verdict::{Broken, LOST_WAKE};

/// The environment variable that holds the factor for [`Patience`].
pub const PATIENCE_VARIABLE: &str = "CONFORMANCE_PATIENCE";

/// How long the suite waits for an event before it gives up: 10 s unless scaled.
///
/// This is the only upper bound on time that decides a verdict, and it applies only where an event never occurs. A
/// longer patience costs nothing while all rules hold: only failures take that long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    factor: f64,
}

const UNSCALED: Duration = Duration::from_secs(10);

/// Patience is spent in this many consecutive parts, so a machine that stalls once uses up only one of them.
const PARTS: u32 = 20;

const HOUR: Duration = Duration::from_secs(3600);

/// The interval between reads of a condition that has no notification.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

impl Default for Patience {
    fn default() -> Self {
        Self { factor: 1.0 }
    }
}

impl Patience {
    /// Reads the patience from [`PATIENCE_VARIABLE`]; unscaled if it is not set.
    ///
    /// # Panics
    ///
    /// If the variable is not a valid factor.
    pub fn expect_from_environment() -> Self {
        Self::from_environment().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Reads the patience from [`PATIENCE_VARIABLE`]; unscaled if it is not set.
    ///
    /// # Errors
    ///
    /// [`PatienceError`] if the variable is not a valid factor.
    pub fn from_environment() -> Result<Self, PatienceError> {
        match env::var(PATIENCE_VARIABLE) {
            Err(env::VarError::NotPresent) => Ok(Self::default()),
            Ok(text) => Self::parse(&text).ok_or(PatienceError(text)),
            Err(env::VarError::NotUnicode(text)) => {
                Err(PatienceError(text.to_string_lossy().into_owned()))
            }
        }
    }

    /// Multiplies the patience by a factor.
    pub fn scaled(self, by: f64) -> Self {
        Self {
            factor: self.factor * by,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let factor = text.trim().parse().ok()?;
        (0.01..=1000.0).contains(&factor).then_some(Self { factor })
    }

    /// Returns how long to wait for an event.
    pub fn length(self) -> Duration {
        UNSCALED.mul_f64(self.factor)
    }

    /// Returns a limit that no check reaches, however many events it waits for: more than an hour, whatever the
    /// patience.
    pub fn out_of_reach(self) -> Duration {
        HOUR + 100 * self.length()
    }

    /// Scales a time that has to suffice for some work. A larger patience lengthens it; a smaller one does not shorten
    /// it.
    pub fn stretch(self, time: Duration) -> Duration {
        time.mul_f64(self.factor.max(1.0))
    }

    /// Sleeps until the patience is used up.
    async fn use_up<R: Runtime>(self, runtime: &R) {
        let part = self.length() / PARTS;
        for _ in 0..PARTS {
            runtime.sleep_until(runtime.now() + part).await;
        }
    }

    /// Waits for an event.
    ///
    /// # Errors
    ///
    /// [`Broken`], which names the event, if it does not occur.
    #[track_caller]
    pub fn wait<R: Runtime, T>(
        self,
        runtime: &R,
        what: &str,
        event: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Broken>> {
        at_caller(async move {
            self.wait_until_given_up(what, event, self.use_up(runtime))
                .await
        })
    }

    /// Waits for an event by the clock of a separate thread, for checks of the runtime's own clock.
    ///
    /// # Errors
    ///
    /// [`Broken`], which names the event, if it does not occur.
    #[track_caller]
    pub fn wait_outside<T>(
        self,
        what: &str,
        event: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Broken>> {
        at_caller(async move {
            let (give_up, given_up) = oneshot::channel();
            let (came, comes) = mpsc::channel::<()>();
            thread::spawn(move || {
                if receive(&comes, self.length()) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let _ = give_up.send(());
                }
            });
            let given_up = async {
                let _ = given_up.await;
            };
            let awaited = self.wait_until_given_up(what, event, given_up).await;
            drop(came);
            awaited
        })
    }

    async fn wait_until_given_up<T>(
        self,
        what: &str,
        event: impl Future<Output = T>,
        given_up: impl Future<Output = ()>,
    ) -> Result<T, Broken> {
        let mut event = pin!(event);
        let mut given_up = pin!(given_up);
        let called = Arc::new(Called::new());
        let waker = Waker::from(Arc::clone(&called));
        poll_fn(|cx| {
            called.waiting.register(cx.waker());
            // Polled first: if both are due, the event has occurred.
            if let Some(value) = called.poll(event.as_mut(), &waker) {
                return Poll::Ready(Ok(value));
            }
            if given_up.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if let Some(value) = called.poll(event.as_mut(), &waker) {
                return Poll::Ready(Ok(value));
            }
            let broken = match event.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(_) => Self::lost(what),
                Poll::Pending => self.exhausted(what),
            };
            Poll::Ready(Err(broken))
        })
        .await
    }

    /// Polls for a condition that has no notification.
    ///
    /// # Errors
    ///
    /// [`Broken`], which names the condition and the last value seen, if it does not become true.
    #[track_caller]
    pub fn until<R: Runtime, T, S: fmt::Debug>(
        self,
        runtime: &R,
        what: &str,
        mut look: impl FnMut() -> Result<T, S>,
    ) -> impl Future<Output = Result<T, Broken>> {
        at_caller(async move {
            let mut last = None;
            let looking = async {
                loop {
                    match look() {
                        Ok(found) => return found,
                        Err(seen) => last = Some(seen),
                    }
                    runtime.sleep_until(runtime.now() + BETWEEN_LOOKS).await;
                }
            };
            let found = self.wait(runtime, what, looking).await;
            found.map_err(|mut broken| {
                if let Some(seen) = last {
                    broken.seen = format!("{seen:?} after {:?}", self.length());
                }
                broken
            })
        })
    }

    /// The event occurred but the waiting task was not woken.
    fn lost(what: &str) -> Broken {
        Broken::new(what, "it occurred, but its waker was not called").check(LOST_WAKE)
    }

    fn exhausted(self, what: &str) -> Broken {
        Broken::new(
            what,
            format!("it did not happen within {:?}", self.length()),
        )
        .check("is the machine this slow? CONFORMANCE_PATIENCE=4 waits four times as long")
    }
}

/// The waker of an awaited event. The event is polled again only after this waker was called, as a runtime does: any
/// other wake-up of the waiting task would hide a missing wake.
struct Called {
    called: AtomicBool,
    /// The waiting task.
    waiting: AtomicWaker,
}

impl Called {
    /// Starts as called, because the event has to be polled once.
    fn new() -> Self {
        Self {
            called: AtomicBool::new(true),
            waiting: AtomicWaker::new(),
        }
    }

    /// Polls the event with this waker if the waker was called, and returns the event's value once it is ready.
    fn poll<F: Future>(&self, event: Pin<&mut F>, waker: &Waker) -> Option<F::Output> {
        if !self.called.swap(false, Ordering::SeqCst) {
            return None;
        }
        match event.poll(&mut Context::from_waker(waker)) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.called.store(true, Ordering::SeqCst);
        self.waiting.wake();
    }
}

/// Receives a value on this thread, and gives up after this time, which is spent part by part.
pub(crate) fn receive<T>(
    from: &mpsc::Receiver<T>,
    limit: Duration,
) -> Result<T, mpsc::RecvTimeoutError> {
    for _ in 1..PARTS {
        match from.recv_timeout(limit / PARTS) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            received => return received,
        }
    }
    from.recv_timeout(limit / PARTS)
}

/// [`PATIENCE_VARIABLE`] is not a valid factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatienceError(String);

impl fmt::Display for PatienceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(
            f,
            "{PATIENCE_VARIABLE} is {text:?}: it must be a factor from 0.01 to 1000, such as 4"
        )
    }
}

impl Error for PatienceError {}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use futures::executor::block_on;

    use super::*;
    use crate::record::Record;

    #[track_caller]
    fn check(text: &str, length: Option<Duration>, stretched: Option<Duration>) {
        let patience = Patience::parse(text);
        assert_eq!(patience.map(Patience::length), length);
        let second = Duration::from_secs(1);
        assert_eq!(patience.map(|patience| patience.stretch(second)), stretched);
    }

    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn factor_scales_and_never_shrinks() {
        check("1", seconds(10), seconds(1));
        check(" 4 ", seconds(40), seconds(4));
        check("0.5", seconds(5), seconds(1));
    }

    #[test]
    fn out_of_reach_with_any_patience() {
        for factor in [0.01, 1.0, 1000.0] {
            let patience = Patience { factor };
            assert!(patience.out_of_reach() > HOUR);
            assert!(patience.out_of_reach() > 100 * patience.length());
        }
    }

    /// A machine that stalls for an hour in the first sleep, and never again.
    #[derive(Debug, Clone)]
    struct StandsStill {
        now: Arc<Mutex<Instant>>,
        slept: Record<Duration>,
    }

    impl Runtime for StandsStill {
        fn spawn(&self, _task: impl Future<Output = ()> + Send + 'static) {}

        async fn sleep_until(&self, deadline: Instant) {
            let mut now = self
                .now
                .lock()
                .expect("the lock is never poisoned: its holders do not panic");
            let length = deadline.saturating_duration_since(*now);
            let stands_still = if self.slept.count() == 0 {
                HOUR
            } else {
                Duration::ZERO
            };
            *now += length + stands_still;
            self.slept.push(length);
        }

        fn now(&self) -> Instant {
            *self
                .now
                .lock()
                .expect("the lock is never poisoned: its holders do not panic")
        }
    }

    #[test]
    fn stall_uses_up_one_part() {
        let runtime = StandsStill {
            now: Arc::new(Mutex::new(Instant::now())),
            slept: Record::default(),
        };
        let waited = Patience::default().wait(&runtime, "the moon", pending::<()>());
        let broken = block_on(waited).expect_err("the event never occurs");
        assert_eq!(broken.expected, "the moon");
        let slept: Duration = runtime.slept.all().iter().sum();
        assert_eq!(slept, Patience::default().length());
    }

    /// Completes at its second poll, and wakes its task only if `wakes` is set.
    async fn comes_at_the_second_poll(wakes: bool) {
        let mut polled = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            if wakes {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn event_without_a_wake_fails() {
        let waits = |wakes| {
            let patience = Patience { factor: 0.01 };
            block_on(patience.wait_outside("the moon", comes_at_the_second_poll(wakes)))
        };
        assert_eq!(waits(true), Ok(()));
        let broken = waits(false).expect_err("the waker was not called");
        assert_eq!(broken.seen, "it occurred, but its waker was not called");
    }

    #[test]
    fn invalid_factor_is_refused() {
        for text in ["", "long", "0", "-1", "inf", "NaN", "1e9"] {
            check(text, None, None);
        }
    }
}
