//! Acceptors that wait: how long, who is woken for them, and what they are told just before they join the line.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

mod support;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use acceptor_core::*;
use support::*;

type TestPool = Pool<Manual, MemoryListener>;
type Handle = PoolHandle<Manual, MemoryListener>;
type Init = acceptor_core::Init<()>;
type InitFuture = Pin<Box<dyn Future<Output = Init> + Send>>;

/// An acceptor whose `init` is given. It serves nobody for long, and notes why it terminates.
struct Given<I> {
    init: I,
    terminated: Arc<Mutex<Vec<String>>>,
}

impl<I: Fn(ChildId) -> InitFuture + Send + Sync + 'static> Acceptor<MemoryListener> for Given<I> {
    type State = ();

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init, BoxError> {
        Ok((self.init)(listener.child).await)
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, _: ()) -> Result<(), BoxError> {
        Ok(())
    }

    async fn terminate(&self, reason: &Terminate, _: ()) {
        self.terminated.lock().unwrap().push(reason.to_string());
    }
}

struct Bench {
    runtime: Manual,
    port: Port,
    pool: TestPool,
    terminated: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    /// A pool with so many acceptors. Nothing has run yet.
    fn new(acceptors: usize, init: impl Fn(ChildId) -> InitFuture + Send + Sync + 'static) -> Self {
        let faults = Faults::default();
        let runtime = Manual::new(&faults);
        let terminated = Arc::default();
        let given = Given {
            init,
            terminated: Arc::clone(&terminated),
        };
        let bench = Self {
            port: Port::new(1, &Ledger::default(), &faults),
            pool: Pool::start(runtime.clone(), Spec::new("waiting", given)).unwrap(),
            runtime,
            terminated,
        };
        let listener = bench.port.listen();
        bench.pool.add_listener(listener, acceptors).unwrap();
        bench
    }

    /// Runs all tasks until they sleep; which they were.
    fn polled(&self) -> Vec<usize> {
        std::iter::from_fn(|| self.runtime.step()).collect()
    }

    fn terminated(&self) -> Vec<String> {
        self.terminated.lock().unwrap().clone()
    }
}

#[test]
fn an_accept_time_out_of_a_millisecond_is_long_enough_to_need_no_spacing() {
    let inits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&inits);
    let bench = Bench::new(1, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Init::AcceptWithin((), Duration::from_millis(1)) })
    });
    for _ in 0..100 {
        bench.runtime.settle();
        bench.runtime.advance(Duration::from_millis(1));
    }
    assert_eq!(inits.load(Ordering::SeqCst), 100);
}

/// The tasks of a pool whose first listener has two acceptors, by the order of their spawns; the pool's own is the first.
const OWN: usize = 0;
const SECOND_ACCEPTOR: usize = 2;
const WATCHER: usize = 3;
const CONNECTION: usize = 4;

#[test]
fn who_joins_others_in_line_wakes_nobody() {
    let begun = AtomicUsize::new(0);
    let bench = Bench::new(2, move |_| {
        let turn = begun.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            for _ in 0..turn * 5 {
                yield_now().await;
            }
            Init::Accept(())
        })
    });
    let polled = bench.polled();
    assert_eq!(polled.last(), Some(&SECOND_ACCEPTOR), "{polled:?}");
    assert_eq!(bench.pool.counts().unwrap().workers, 2);
}

/// Accepts at once, and counts how often it began.
fn counting(inits: &Arc<AtomicUsize>) -> impl Fn(ChildId) -> InitFuture + Send + Sync + 'static {
    let inits = Arc::clone(inits);
    move |_| {
        inits.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Init::Accept(()) })
    }
}

/// With others in line the replacement's `init` is the connection's business, alone it is the listener's.
#[track_caller]
fn check_who_begins_the_replacement(acceptors: usize, begun_by_listener: usize) {
    let inits = Arc::default();
    let bench = Bench::new(acceptors, counting(&inits));
    bench.runtime.settle();
    let watcher = acceptors + 1;
    bench.port.connect().unwrap();
    assert_eq!(bench.runtime.step(), Some(watcher));
    let begun = || inits.load(Ordering::SeqCst) - acceptors;
    assert_eq!(begun(), begun_by_listener);
    assert_eq!(bench.runtime.step(), Some(watcher + 1));
    assert_eq!(begun(), 1);
}

#[test]
fn a_listener_runs_no_init_while_somebody_waits() {
    check_who_begins_the_replacement(1, 1);
    check_who_begins_the_replacement(2, 0);
    check_who_begins_the_replacement(3, 0);
}

#[test]
fn the_pools_own_task_is_there_for_another_thread_once_after_each_connection() {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    bench.port.connect().unwrap();
    assert_eq!(bench.polled(), [WATCHER, CONNECTION, OWN]);
    // Not when there was none.
    bench.port.fail(io::ErrorKind::ConnectionAborted.into());
    assert_eq!(bench.polled(), [WATCHER]);
}

/// How many turns the pool's own task takes for a change, until all tasks sleep.
#[track_caller]
fn check_own_turns(change: impl FnOnce(&TestPool), expected: usize) {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    change(&bench.pool);
    let polled = bench.polled();
    let own = polled.iter().filter(|task| **task == OWN);
    assert_eq!(own.count(), expected, "{polled:?}");
}

#[test]
fn the_pools_own_task_takes_no_turn_but_for_what_changes() {
    check_own_turns(|_| {}, 0);
    let close = |pool: &TestPool| drop(pool.close_listener(pool.listeners().unwrap()[0].id));
    check_own_turns(close, 1);
    check_own_turns(|pool| drop(pool.kill()), 1);
}

#[test]
fn while_the_patience_lasts_the_pools_own_task_waits_for_it() {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    drop(bench.pool.kill());
    bench.runtime.step_first(OWN);
    assert_eq!(bench.polled(), [WATCHER, OWN]);
}

#[test]
fn a_flood_of_connections_that_are_gone_lets_others_run_after_every_32() {
    let bench = Bench::new(2, counting(&Arc::default()));
    bench.runtime.settle();
    for _ in 0..100 {
        bench.port.fail(io::ErrorKind::ConnectionAborted.into());
    }
    let mut skipped = Vec::new();
    while let Some(polled) = bench.runtime.step() {
        assert_eq!(polled, WATCHER);
        skipped.push(bench.pool.listeners().unwrap()[0].skipped);
    }
    assert_eq!(skipped, [32, 64, 96, 100]);
}

#[test]
fn a_flood_of_connections_that_are_gone_holds_up_no_time_out() {
    let bench = Bench::new(1, |_| {
        Box::pin(async { Init::AcceptWithin((), Duration::from_millis(10)) })
    });
    bench.runtime.settle();
    let flood = || {
        for _ in 0..100 {
            bench.port.fail(io::ErrorKind::ConnectionAborted.into());
        }
        assert_eq!(bench.runtime.step(), Some(2), "the listener's task");
    };
    flood();
    bench.runtime.advance(Duration::from_millis(9));
    flood();
    assert_eq!(bench.terminated(), [""; 0]);
    bench.runtime.advance(Duration::from_millis(1));
    flood();
    assert!(bench.pool.listeners().unwrap()[0].skipped < 300);
    // It terminates in a task of its own.
    bench.runtime.step_first(3);
    assert_eq!(bench.terminated(), ["accept time-out"]);
}

#[test]
fn a_time_out_of_zero_does_not_send_away_who_could_be_served_in_a_burst() {
    let bench = Bench::new(100, |_| {
        Box::pin(async { Init::AcceptWithin((), Duration::ZERO) })
    });
    for acceptor in 1..=100 {
        bench.runtime.step_first(acceptor);
    }
    for _ in 0..100 {
        bench.port.connect().unwrap();
    }
    // The listener's task alone: all others of the hundred are in line when it lets others run.
    let accepted = [(); 4].map(|()| {
        bench.runtime.step_first(101);
        bench.pool.listeners().unwrap()[0].accepted
    });
    assert_eq!(accepted, [32, 64, 96, 100]);
}

#[test]
fn a_pause_is_over_at_its_time_also_if_nobody_waits() {
    let bench = Bench::new(1, |child| {
        Box::pin(async move {
            if child.to_string() != "1" {
                std::future::pending::<()>().await;
            }
            Init::AcceptWithin((), Duration::from_millis(1))
        })
    });
    let state = || bench.pool.listeners().unwrap()[0].state;
    bench.port.fail(io::ErrorKind::OutOfMemory.into());
    bench.runtime.settle();
    bench.runtime.advance(Duration::from_millis(4));
    bench.runtime.settle();
    assert_eq!(bench.terminated(), ["accept time-out"]);
    assert_eq!(state(), ListenerState::Paused);
    bench.runtime.advance(Duration::from_millis(1));
    bench.runtime.settle();
    assert_eq!(state(), ListenerState::Accepting);
}

/// Has its acceptor told to stop, and everybody else see it, as late as can be.
struct StopsWhenDropped {
    pool: Arc<OnceLock<Handle>>,
    runtime: Arc<OnceLock<Manual>>,
    child: ChildId,
}

impl Drop for StopsWhenDropped {
    fn drop(&mut self) {
        let Some(pool) = self.pool.get() else { return };
        assert_eq!(pool.stop_child(self.child), Ok(()));
        self.runtime.get().unwrap().settle();
    }
}

#[test]
fn who_is_told_to_stop_just_before_it_joins_the_line_does_not_wait() {
    let pool = Arc::<OnceLock<Handle>>::default();
    let runtime = Arc::<OnceLock<Manual>>::default();
    let first = AtomicUsize::new(0);
    let (pool_inside, runtime_inside) = (Arc::clone(&pool), Arc::clone(&runtime));
    let bench = Bench::new(1, move |child| {
        let stops = (first.fetch_add(1, Ordering::SeqCst) == 0).then(|| StopsWhenDropped {
            pool: Arc::clone(&pool_inside),
            runtime: Arc::clone(&runtime_inside),
            child,
        });
        Box::pin(async move {
            // Dropped in the very poll in which `init` is through.
            let _stops = stops;
            Init::Accept(())
        })
    });
    assert!(pool.set(bench.pool.handle()).is_ok());
    assert!(runtime.set(bench.runtime.clone()).is_ok());
    bench.runtime.settle();
    assert_eq!(bench.terminated(), ["stopped"]);
    assert_eq!(bench.pool.counts().unwrap().workers, 1);
}
