//! An acceptor whose `init` finishes just as it is replaced: it arrives before the accept loop learns of the replacement.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use crate::support::*;
use acceptor_core::*;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

type Once = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn run(once: &Once) {
    let once = once.lock().unwrap().take();
    once.into_iter().for_each(|once| once());
}

/// A runtime that preempts a thread while it wakes a task: `once` runs in between, as other threads would.
#[derive(Clone)]
struct Preempted {
    runtime: Manual,
    once: Once,
}

struct Wakes {
    waker: Waker,
    once: Once,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.waker.wake_by_ref();
        run(&self.once);
    }
}

impl Runtime for Preempted {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let once = Arc::clone(&self.once);
        let mut task = Box::pin(task);
        self.runtime.spawn(std::future::poll_fn(move |cx| {
            let waker = Waker::from(Arc::new(Wakes {
                waker: cx.waker().clone(),
                once: Arc::clone(&once),
            }));
            task.as_mut().poll(&mut Context::from_waker(&waker))
        }));
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.runtime.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

struct Named {
    name: &'static str,
    at_once: bool,
    fails: Arc<AtomicBool>,
    /// Runs while its `init` is polled, as other threads would.
    meanwhile: Once,
    outcomes: Arc<Mutex<Vec<String>>>,
}

impl Named {
    fn note(&self, outcome: &str) {
        self.outcomes
            .lock()
            .unwrap()
            .push(format!("{}: {outcome}", self.name));
    }
}

impl Acceptor<MemoryListener> for Named {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        run(&self.meanwhile);
        // Wakes the accept loop, which has no timer this early.
        Ok(Init::AcceptWithin((), Duration::from_secs(3600)))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        if self.fails.load(Ordering::SeqCst) {
            resume_unwind(Box::new("failed"));
        }
        self.at_once.then_some(())
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        connection.stream.serve();
        self.note(&format!("serves {}", connection.stream.number));
        pending().await
    }

    async fn terminate(&self, reason: &Terminate, (): ()) {
        self.note(&reason.to_string());
    }
}

/// A pool whose only acceptor is replaced while its `init` is polled, and arrives before it notices.
struct Late {
    manual: Manual,
    port: Port,
    pool: Pool<Preempted, MemoryListener>,
    outcomes: Arc<Mutex<Vec<String>>>,
    fails: Arc<AtomicBool>,
}

impl Late {
    fn spec(&self, name: &'static str) -> Spec<Named, Address> {
        named(name, true, &Once::default(), &self.outcomes, &self.fails)
    }

    fn new() -> Self {
        let (faults, history) = (Faults::default(), History::default());
        let runtime = Preempted {
            runtime: Manual::new(&faults),
            once: Once::default(),
        };
        let manual = runtime.runtime.clone();
        let port = Port::new(1, &history, &faults);
        let (outcomes, fails) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let meanwhile = Once::default();
        let old = named("old", false, &meanwhile, &outcomes, &fails);
        let new = named("new", true, &Once::default(), &outcomes, &fails);
        let pool = Pool::start(runtime.clone(), old).unwrap();
        let handle = pool.handle();
        *meanwhile.lock().unwrap() = Some(Box::new({
            let (manual, port) = (manual.clone(), port.clone());
            let once = Arc::clone(&runtime.once);
            move || {
                // Another thread replaces the acceptors; the accept loop reads this, and accepts a connection for the new one.
                handle.reconfigure(new, WaitingAcceptors::Replace).unwrap();
                manual.settle();
                port.connect().unwrap();
                manual.settle();
                // The old acceptor arrives. Before its thread continues, two more connections come in.
                *once.lock().unwrap() = Some(Box::new(move || {
                    port.connect().unwrap();
                    port.connect().unwrap();
                    manual.settle();
                }));
            }
        }));
        pool.add_listener(port.listen(), 1).unwrap();
        manual.settle();
        assert!(runtime.once.lock().unwrap().is_none());
        Self {
            manual,
            port,
            pool,
            outcomes,
            fails,
        }
    }
}

fn named(
    name: &'static str,
    at_once: bool,
    meanwhile: &Once,
    outcomes: &Arc<Mutex<Vec<String>>>,
    fails: &Arc<AtomicBool>,
) -> Spec<Named, Address> {
    let acceptor = Named {
        name,
        at_once,
        fails: Arc::clone(fails),
        meanwhile: Arc::clone(meanwhile),
        outcomes: Arc::clone(outcomes),
    };
    Spec::new(name, acceptor).intensity(100)
}

/// The listener keeps its number of acceptors (L1, R1).
#[test]
fn late_replaced_acceptor_gets_no_successor() {
    let late = Late::new();
    let mut seen = std::mem::take(&mut *late.outcomes.lock().unwrap());
    seen.sort();
    let expected = [
        "new: serves 0",
        "new: serves 1",
        "new: serves 2",
        "old: replaced by another acceptor",
    ];
    assert_eq!(seen, expected);
    let counts = late.pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (3, 1));
}

/// After this race the pool can be reconfigured again, even while no acceptor has begun (V3).
#[test]
fn reconfigure_in_outage_after_late_arrival() {
    let late = Late::new();
    late.fails.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        late.port.connect().unwrap();
        late.manual.settle();
    }
    let newest = late.spec("newest");
    late.pool
        .reconfigure(newest, WaitingAcceptors::Replace)
        .unwrap();
    late.manual.settle();
    late.fails.store(false, Ordering::SeqCst);
    late.manual.advance(Duration::from_secs(5));
    late.manual.settle();
    assert_eq!(late.pool.counts().unwrap().acceptors, 1);
}

/// Two acceptors fail. The one that tries again succeeds when the test says so, the other then stays in `init`.
struct Recovers {
    begun: AtomicUsize,
    succeeds: Shared<oneshot::Receiver<()>>,
    manual: Manual,
    /// Runs when the pool wakes the next task.
    once: Once,
}

impl Acceptor<MemoryListener> for Recovers {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        match self.begun.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => return Err("failed".into()),
            2 => {}
            _ => pending().await,
        }
        let _ = self.succeeds.clone().await;
        let manual = self.manual.clone();
        *self.once.lock().unwrap() = Some(Box::new(move || manual.settle()));
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        connection.stream.serve();
    }
}

/// The acceptor wakes the accept loop, because another may start, before it arrives there.
#[test]
fn close_waits_for_an_arrival() {
    let (faults, history) = (Faults::default(), History::default());
    let manual = Manual::new(&faults);
    let runtime = Preempted {
        runtime: manual.clone(),
        once: Once::default(),
    };
    let (succeed, succeeds) = oneshot::channel::<()>();
    let acceptor = Recovers {
        begun: AtomicUsize::new(0),
        succeeds: succeeds.shared(),
        manual: manual.clone(),
        once: Arc::clone(&runtime.once),
    };
    let spec = Spec::new("recovers", acceptor).intensity(u32::MAX);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    let listener = pool.add_listener(port.listen(), 2).unwrap();
    manual.settle();
    port.connect().unwrap();
    let closing = pool.close_listener(listener);
    manual.settle();
    manual.advance(CLOSE_DELAY);
    manual.settle();
    drop(succeed);
    manual.settle();
    assert!(runtime.once.lock().unwrap().is_none());
    assert_eq!(history.all()[0].served, 1);
    drop(closing);
}

/// The first acceptor has its state at once, and its successor as well. Another arrives while the successor is
/// asked for it, as on another thread.
struct Overtakes {
    asked: AtomicUsize,
    arrives: Shared<oneshot::Receiver<()>>,
    meanwhile: Once,
    served_by: Arc<Mutex<Vec<String>>>,
}

impl Acceptor<MemoryListener> for Overtakes {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        let _ = self.arrives.clone().await;
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        if asked == 2 {
            run(&self.meanwhile);
        }
        (asked != 1).then_some(())
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        let id = connection.id.to_string();
        self.served_by.lock().unwrap().push(id);
    }
}

/// The one that has its state first serves first (L6).
#[test]
fn arrival_goes_before_a_new_successor() {
    let (faults, history) = (Faults::default(), History::default());
    let runtime = Manual::new(&faults);
    let (arrive, arrives) = oneshot::channel::<()>();
    let (others, served_by) = (runtime.clone(), Arc::<Mutex<Vec<_>>>::default());
    let meanwhile: Box<dyn FnOnce() + Send> = Box::new(move || {
        drop(arrive);
        others.settle();
    });
    let acceptor = Overtakes {
        asked: AtomicUsize::new(0),
        arrives: arrives.shared(),
        meanwhile: Arc::new(Mutex::new(Some(meanwhile))),
        served_by: Arc::clone(&served_by),
    };
    let pool = Pool::start(runtime.clone(), Spec::new("overtakes", acceptor)).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 2).unwrap();
    for _ in 0..3 {
        runtime.settle();
        port.connect().unwrap();
    }
    runtime.settle();
    assert_eq!(*served_by.lock().unwrap(), ["1.1", "1.2", "1.3"]);
}
