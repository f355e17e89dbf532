//! An acceptor that is replaced, and whose `init` is through just then: it arrives a moment before the accept loop is told.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use crate::support::*;
use acceptor_core::*;

type Once = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn run(once: &Once) {
    let once = once.lock().unwrap().take();
    once.into_iter().for_each(|once| once());
}

/// A runtime on which other threads get on while one wakes a task: once, what they do.
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
    /// What others do while its `init` is polled.
    meanwhile: Once,
    fates: Arc<Mutex<Vec<String>>>,
}

impl Named {
    fn note(&self, fate: &str) {
        self.fates
            .lock()
            .unwrap()
            .push(format!("{}: {fate}", self.name));
    }
}

impl Acceptor<MemoryListener> for Named {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        run(&self.meanwhile);
        // Wakes the accept loop, which has no timer as early as this.
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

/// A pool of one acceptor that is replaced while its `init` is polled, and arrives before it is told.
struct Late {
    manual: Manual,
    port: Port,
    pool: Pool<Preempted, MemoryListener>,
    fates: Arc<Mutex<Vec<String>>>,
    fails: Arc<AtomicBool>,
}

impl Late {
    fn spec(&self, name: &'static str) -> Spec<Named, Address> {
        named(name, true, &Once::default(), &self.fates, &self.fails)
    }

    fn new() -> Self {
        let (faults, ledger) = (Faults::default(), Ledger::default());
        let runtime = Preempted {
            runtime: Manual::new(&faults),
            once: Once::default(),
        };
        let manual = runtime.runtime.clone();
        let port = Port::new(1, &ledger, &faults);
        let (fates, fails) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let meanwhile = Once::default();
        let old = named("old", false, &meanwhile, &fates, &fails);
        let new = named("new", true, &Once::default(), &fates, &fails);
        let pool = Pool::start(runtime.clone(), old).unwrap();
        let handle = pool.handle();
        *meanwhile.lock().unwrap() = Some(Box::new({
            let (manual, port) = (manual.clone(), port.clone());
            let once = Arc::clone(&runtime.once);
            move || {
                // Another thread replaces the acceptors; the accept loop learns it, and gets a connection for the new one.
                handle.reconfigure(new, WaitingAcceptors::Replace).unwrap();
                manual.settle();
                port.connect().unwrap();
                manual.settle();
                // The old one arrives. Before its thread goes on, there are two more connections.
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
            fates,
            fails,
        }
    }
}

fn named(
    name: &'static str,
    at_once: bool,
    meanwhile: &Once,
    fates: &Arc<Mutex<Vec<String>>>,
    fails: &Arc<AtomicBool>,
) -> Spec<Named, Address> {
    let acceptor = Named {
        name,
        at_once,
        fails: Arc::clone(fails),
        meanwhile: Arc::clone(meanwhile),
        fates: Arc::clone(fates),
    };
    Spec::new(name, acceptor).intensity(100)
}

/// The listener keeps its number of acceptors (L1, R1).
#[test]
fn late_replaced_acceptor_gets_no_successor() {
    let late = Late::new();
    let mut seen = std::mem::take(&mut *late.fates.lock().unwrap());
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

/// A pool that has gone through this can be reconfigured again, also while no acceptor has begun (V3).
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
