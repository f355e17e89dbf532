//! Dropping the owner: no child is polled again, whatever it is doing, and the call costs nothing for each of them (S9).

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

/// What the children of a pool are doing when its owner is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Init,
    Waiting,
    Serving,
    Terminating,
}

impl Doing {
    /// How many children are doing this.
    fn count(self, pool: &Pool<Manual, MemoryListener>) -> usize {
        let state = match self {
            Doing::Init => AcceptorState::Init,
            Doing::Waiting => AcceptorState::Waiting,
            Doing::Terminating => AcceptorState::Terminating,
            Doing::Serving => return pool.connections().unwrap().len(),
        };
        let acceptors = pool.acceptors().unwrap();
        acceptors.iter().filter(|a| a.state == state).count()
    }
}

/// Its callbacks are always ready to be polled again, and count their polls.
struct Busy {
    doing: Doing,
    polls: Arc<AtomicUsize>,
}

impl Busy {
    async fn without_end(&self) {
        loop {
            self.polls.fetch_add(1, Ordering::SeqCst);
            yield_now().await;
        }
    }
}

impl Acceptor<MemoryListener> for Busy {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        match self.doing {
            Doing::Init => self.without_end().await,
            Doing::Terminating => return Ok(Init::AcceptWithin((), TIMEOUT)),
            Doing::Waiting | Doing::Serving => {}
        }
        Ok(Init::Accept(()))
    }

    async fn serve(
        &self,
        connection: Connection<MemoryStream, Address>,
        (): (),
    ) -> Result<(), BoxError> {
        connection.stream.serve();
        self.without_end().await;
        Ok(())
    }

    async fn terminate(&self, _: &Terminate, (): ()) {
        self.without_end().await;
    }
}

const TIMEOUT: Duration = Duration::from_millis(1);

/// How many tasks the drop of the owner wakes, of a pool with so many children that are all doing this.
#[track_caller]
fn check_not_polled_again(doing: Doing, children: usize) -> usize {
    let faults = Faults::default();
    let (runtime, ledger) = (Manual::new(&faults), Ledger::default());
    let polls = Arc::new(AtomicUsize::new(0));
    let busy = Busy {
        doing,
        polls: Arc::clone(&polls),
    };
    let port = Port::new(1, &ledger, &faults);
    let pool = Pool::start(runtime.clone(), Spec::new("owned", busy)).unwrap();
    let acceptors = if doing == Doing::Serving {
        100
    } else {
        children
    };
    pool.add_listener(port.listen(), acceptors).unwrap();
    let clients = if doing == Doing::Serving { children } else { 0 };
    for _ in 0..clients {
        port.connect().unwrap();
    }
    while doing.count(&pool) < children {
        for _ in 0..children {
            runtime.step();
        }
        runtime.advance(TIMEOUT);
    }
    // Each has several turns.
    for _ in 0..5 * children + 500 {
        runtime.step();
    }
    assert_eq!(ledger.alive(), clients);
    let join = pool.join();
    let before = (polls.load(Ordering::SeqCst), runtime.woken());
    assert_eq!(before.0 > 0, doing != Doing::Waiting);
    drop(pool);
    let woken = runtime.woken() - before.1;
    runtime.settle();
    assert_eq!(polls.load(Ordering::SeqCst), before.0, "{doing:?}");
    assert_eq!(ledger.alive(), 0);
    let Poll::Ready(report) = poll_once(join) else {
        panic!("{doing:?}: join hangs");
    };
    assert_eq!(report.reason, StopReason::OwnerDropped);
    assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), clients);
    assert_eq!((report.stuck, runtime.tasks()), (0, 0));
    woken
}

#[test]
fn owner_drop_stops_all_polls() {
    for doing in [
        Doing::Init,
        Doing::Waiting,
        Doing::Serving,
        Doing::Terminating,
    ] {
        let woken = [1, 1000].map(|children| check_not_polled_again(doing, children));
        // The driver and the accept loop; the decoy is not woken, but spawned.
        assert_eq!(woken, [2, 2], "{doing:?}");
    }
}
