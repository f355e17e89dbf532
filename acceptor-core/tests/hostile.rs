//! A pool against values, runtimes and timings that mean it harm: nothing deaf, nothing lost, nothing for ever.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

mod support;

use std::sync::{Arc, Mutex};

use acceptor_core::*;
use support::*;

type TestPool = Pool<Manual, MemoryListener>;

/// Notes which acceptors were in `init`, and how each ended; serves until it is stopped.
#[derive(Clone, Default)]
struct Noting {
    begun: Arc<Mutex<Vec<ChildId>>>,
    terminated: Arc<Mutex<Vec<(ChildId, String)>>>,
}

impl Noting {
    fn last_begun(&self) -> ChildId {
        *self.begun.lock().unwrap().last().expect("one has begun")
    }
}

impl Acceptor<MemoryListener> for Noting {
    type State = ChildId;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init<ChildId>, BoxError> {
        self.begun.lock().unwrap().push(listener.child);
        Ok(Init::Accept(listener.child))
    }

    async fn serve(
        &self,
        connection: Connection<MemoryStream, Address>,
        _: ChildId,
    ) -> Result<(), BoxError> {
        connection.stream.serve();
        std::future::pending().await
    }

    async fn terminate(&self, reason: &Terminate, child: ChildId) {
        let ended = (child, reason.to_string());
        self.terminated.lock().unwrap().push(ended);
    }
}

struct Bench {
    runtime: Manual,
    ledger: Ledger,
    port: Port,
    noting: Noting,
    pool: TestPool,
}

impl Bench {
    fn new(change: impl FnOnce(Spec<MemoryListener>) -> Spec<MemoryListener>) -> Self {
        let faults = Faults::default();
        let (runtime, ledger) = (Manual::new(&faults), Ledger::default());
        let noting = Noting::default();
        let spec = change(Spec::new("hostile", noting.clone()));
        Self {
            port: Port::new(1, &ledger, &faults),
            pool: Pool::start(runtime.clone(), spec).unwrap(),
            runtime,
            ledger,
            noting,
        }
    }

    fn served(&self) -> usize {
        self.ledger.all().iter().map(|made| made.served).sum()
    }
}

/// Ends the only acceptor after so many polls from when its listener was added: before its watcher ran, or later.
#[track_caller]
fn check_hears_again(end: impl Fn(&TestPool, ChildId) -> Result<(), ChildError>) {
    let mut ended = 0;
    for polls in 1..8 {
        let bench = Bench::new(|spec| spec);
        bench.pool.add_listener(bench.port.listen(), 1).unwrap();
        for _ in 0..polls {
            bench.runtime.step();
        }
        if bench.noting.begun.lock().unwrap().is_empty() {
            continue;
        }
        assert_eq!(end(&bench.pool, bench.noting.last_begun()), Ok(()));
        ended += 1;
        bench.runtime.settle();
        assert_eq!(bench.noting.begun.lock().unwrap().len(), 2, "{polls}");
        bench.port.connect().unwrap();
        bench.runtime.settle();
        assert_eq!(
            bench.served(),
            1,
            "after {polls} polls the listener is deaf"
        );
    }
    assert!(ended > 3, "{ended}");
}

#[test]
fn a_listener_whose_only_acceptor_is_ended_hears_again_with_the_next() {
    check_hears_again(|pool, id| pool.stop_child(id));
    check_hears_again(|pool, id| pool.kill_child(id));
}
