//! A pool against values, runtimes and timings that mean it harm: nothing deaf, nothing lost, nothing for ever.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

mod support;

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

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

impl<L: Listener<Stream = MemoryStream, Addr = Address>> Acceptor<L> for Noting {
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

/// A listener that does something of its own with each connection before the pool gets it.
struct Meddler {
    listener: MemoryListener,
    meddle: Box<dyn Fn() + Send + Sync>,
}

impl Listener for Meddler {
    type Stream = MemoryStream;
    type Addr = Address;

    async fn accept(&self) -> io::Result<(MemoryStream, Address)> {
        let accepted = self.listener.accept().await;
        (self.meddle)();
        accepted
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.listener.local_addr()
    }

    fn stream_local_addr(stream: &MemoryStream) -> io::Result<Address> {
        MemoryListener::stream_local_addr(stream)
    }

    fn is_wildcard(address: &Address) -> bool {
        MemoryListener::is_wildcard(address)
    }
}

type MeddledHandle = PoolHandle<Manual, Meddler>;

/// Ends the acceptor between the accept and its becoming the connection; what the report then says of it.
#[track_caller]
fn check_told_as_it_becomes(end: impl Fn(&MeddledHandle, ChildId) + Send + Sync + 'static) {
    let faults = Faults::default();
    let (runtime, ledger) = (Manual::new(&faults), Ledger::default());
    let (port, noting) = (Port::new(1, &ledger, &faults), Noting::default());
    let handle = Arc::new(OnceLock::<MeddledHandle>::new());
    let (pool_inside, noting_inside) = (Arc::clone(&handle), noting.clone());
    let once = Mutex::new(Some(end));
    let meddle = move || {
        if let Some(end) = once.lock().unwrap().take() {
            end(pool_inside.get().unwrap(), noting_inside.last_begun());
        }
    };
    let pool = Pool::start(runtime.clone(), Spec::new("meddled", noting.clone())).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    let listener = Meddler {
        listener: port.listen(),
        meddle: Box::new(meddle),
    };
    pool.add_listener(listener, 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(pool.connections().unwrap(), [], "it was told to end");
    assert_eq!(pool.counts().unwrap().workers, 1);
    assert_eq!(ledger.alive(), 0);
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(pool.counts().unwrap().active, 1, "the next is served");
}

#[test]
fn an_acceptor_told_to_end_as_it_becomes_a_connection_ends_as_one() {
    check_told_as_it_becomes(|pool, id| assert_eq!(pool.stop_child(id), Ok(())));
    check_told_as_it_becomes(|pool, id| assert_eq!(pool.kill_child(id), Ok(())));
}
