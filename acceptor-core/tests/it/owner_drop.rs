//! Dropping the owner: no child is polled again, whatever its state, and the cost does not grow with their number (S9).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

/// The state of a pool's children when its owner is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Init,
    Waiting,
    Serving,
    Terminating,
}

impl Doing {
    /// How many children are in this state.
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

/// Its callbacks wake themselves at each poll, and count their polls.
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

/// Returns how many tasks the drop of the owner wakes, in a pool whose children are all in this state.
#[track_caller]
fn check_not_polled_again(doing: Doing, children: usize) -> usize {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let polls = Arc::new(AtomicUsize::new(0));
    let busy = Busy {
        doing,
        polls: Arc::clone(&polls),
    };
    let port = Port::new(1, &history, &faults);
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
    // Each child is polled several times.
    for _ in 0..5 * children + 500 {
        runtime.step();
    }
    assert_eq!(history.alive(), clients);
    let join = pool.join();
    let before = (polls.load(Ordering::SeqCst), runtime.woken());
    assert_eq!(before.0 > 0, doing != Doing::Waiting);
    drop(pool);
    let woken = runtime.woken() - before.1;
    runtime.settle();
    assert_eq!(polls.load(Ordering::SeqCst), before.0, "{doing:?}");
    assert_eq!(history.alive(), 0);
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
        // The driver and the accept loop; the decoy is spawned, not woken.
        assert_eq!(woken, [2, 2], "{doing:?}");
    }
}
