//! Limits on connections, of a pool and of each listener: who gets a slot, when, and when it comes back (C1 to C7).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;

use crate::support::*;
use acceptor_core::*;

type TestPool = Pool<Manual, MemoryListener>;

/// Serves each client until the test ends it.
#[derive(Clone, Default)]
struct Serves {
    /// By the number of the client.
    open: Arc<Mutex<BTreeMap<usize, Served>>>,
}

/// What ends a connection, and its link to the pool.
type Served = (oneshot::Sender<Exit>, Lifecycle);

impl Acceptor<MemoryListener> for Serves {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) -> Exit {
        connection.stream.serve();
        let (ends, end) = oneshot::channel();
        let lifecycle = connection.lifecycle.clone();
        let number = connection.stream.number;
        self.open.lock().unwrap().insert(number, (ends, lifecycle));
        end.await
            .unwrap_or_else(|_| std::panic::resume_unwind(Box::new("panics on request")))
    }
}

struct Bench {
    runtime: Manual,
    history: History,
    faults: Faults,
    serves: Serves,
    pool: TestPool,
}

impl Bench {
    fn new(change: impl FnOnce(Spec<Serves, Address>) -> Spec<Serves, Address>) -> Self {
        let faults = Faults::default();
        let (runtime, serves) = (Manual::new(&faults), Serves::default());
        let spec = Spec::new("limits", serves.clone()).intensity(100);
        let pool = Pool::start(runtime.clone(), change(spec)).unwrap();
        Self {
            runtime,
            history: History::default(),
            faults,
            serves,
            pool,
        }
    }

    fn listen(&self, number: u16, settings: impl Into<ListenerSettings>) -> (Port, ListenerId) {
        let port = Port::new(number, &self.history, &self.faults);
        let id = self.pool.add_listener(port.listen(), settings).unwrap();
        self.runtime.settle();
        (port, id)
    }

    fn connect(&self, port: &Port, clients: usize) {
        for _ in 0..clients {
            port.connect().unwrap();
        }
        self.runtime.settle();
    }

    fn connections(&self) -> usize {
        self.pool.counts().unwrap().connections
    }

    /// The open connections of each listener.
    fn of_listeners(&self) -> Vec<usize> {
        let listeners = self.pool.listeners().unwrap();
        listeners.iter().map(|record| record.connections).collect()
    }

    fn states(&self) -> Vec<ListenerState> {
        let listeners = self.pool.listeners().unwrap();
        listeners.iter().map(|record| record.state).collect()
    }

    fn refused(&self) -> u64 {
        self.pool
            .listeners()
            .unwrap()
            .iter()
            .map(|record| record.refused)
            .sum()
    }

    /// Ends the oldest connection that is served, or of those on this port.
    fn end(&self, with: impl FnOnce(oneshot::Sender<Exit>)) {
        let (_, (ends, _)) = self.serves.open.lock().unwrap().pop_first().unwrap();
        with(ends);
        self.runtime.settle();
    }

    fn end_normally(&self) {
        self.end(|ends| ends.send(Exit::normal()).map_err(drop).unwrap());
    }

    fn lifecycle(&self, client: usize) -> Lifecycle {
        self.serves.open.lock().unwrap()[&client].1.clone()
    }
}

const REFUSE: AtLimit = AtLimit::Refuse(Refusal::Close);

#[test]
fn clients_wait_while_the_pool_is_full() {
    let bench = Bench::new(|spec| spec.max_connections(2));
    let (port, _) = bench.listen(1, 3);
    bench.connect(&port, 5);
    assert_eq!((bench.connections(), port.waiting()), (2, 3));
    assert_eq!(bench.states(), [ListenerState::Full]);
    for left in [2, 1, 0] {
        bench.end_normally();
        assert_eq!((bench.connections(), port.waiting()), (2, left));
    }
    bench.end_normally();
    assert_eq!(bench.connections(), 1);
    assert_eq!(bench.states(), [ListenerState::Accepting]);
}

#[test]
fn full_pool_calls_no_accept() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, _) = bench.listen(1, 3);
    bench.connect(&port, 1);
    // A client that arrives wakes the accept loop, which has a call of `accept` pending.
    bench.connect(&port, 1);
    let accepts = port.accepts();
    bench.connect(&port, 10);
    bench.runtime.advance(Duration::from_secs(100));
    bench.runtime.settle();
    assert_eq!(port.accepts(), accepts);
    bench.end_normally();
    assert_eq!((port.accepts(), port.waiting()), (accepts + 1, 10));
}

#[test]
fn each_waiting_listener_gets_one_call() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let ports: Vec<_> = (1..=4).map(|number| bench.listen(number, 1).0).collect();
    bench.connect(&ports[3], 1);
    // Each finds no slot, and its client leaves.
    for port in &ports[..3] {
        bench.connect(port, 1);
        port.client_leaves();
    }
    let accepts = || ports.iter().map(Port::accepts).collect::<Vec<_>>();
    let before = accepts();
    bench.end_normally();
    let calls: Vec<_> = accepts()
        .iter()
        .zip(&before)
        .map(|(now, before)| now - before)
        .collect();
    assert_eq!(calls[..3], [1, 1, 1]);
    assert_eq!(bench.connections(), 0);
    bench.connect(&ports[1], 1);
    assert_eq!(bench.connections(), 1);
}

#[test]
fn slots_are_shared_in_turn() {
    let bench = Bench::new(|spec| spec.max_connections(2));
    let ports: Vec<_> = (1..=2).map(|number| bench.listen(number, 2).0).collect();
    bench.connect(&ports[0], 30);
    bench.connect(&ports[1], 30);
    assert_eq!(bench.of_listeners(), [2, 0]);
    for _ in 0..20 {
        bench.end_normally();
        assert_eq!(bench.connections(), 2);
    }
    let waiting: Vec<_> = ports.iter().map(Port::waiting).collect();
    assert_eq!(waiting, [18, 20]);
}

#[test]
fn idle_listener_takes_no_slot() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let _idle: Vec<_> = (1..=3).map(|number| bench.listen(number, 5)).collect();
    let (busy, _) = bench.listen(4, 1);
    for _ in 0..3 {
        bench.connect(&busy, 1);
        assert_eq!(bench.of_listeners(), [0, 0, 0, 1]);
        bench.end_normally();
    }
}

#[test]
fn listener_has_a_limit_of_its_own() {
    let bench = Bench::new(|spec| spec.max_connections(3));
    let (small, _) = bench.listen(1, ListenerSettings::new(2).max_connections(1));
    let (other, _) = bench.listen(2, 2);
    bench.connect(&small, 4);
    assert_eq!(bench.of_listeners(), [1, 0]);
    bench.connect(&other, 4);
    assert_eq!(bench.of_listeners(), [1, 2]);
    let states = [ListenerState::Full; 2];
    assert_eq!(bench.states(), states);
    // The slot of the pool goes to the listener that waits for that alone.
    bench.end_normally();
    assert_eq!(bench.connections(), 3);
}

#[test]
fn full_listener_takes_no_slot_of_the_pool() {
    let bench = Bench::new(|spec| spec.max_connections(2));
    let (small, id) = bench.listen(1, 1);
    let (other, _) = bench.listen(2, 1);
    bench.connect(&small, 3);
    bench.connect(&other, 1);
    // The small one waits for the pool already, before the other.
    bench.pool.set_listener_max_connections(id, 1).unwrap();
    bench.end_normally();
    assert_eq!(bench.of_listeners(), [1, 1]);
    assert_eq!((small.waiting(), other.waiting()), (1, 0));
}

#[test]
fn every_end_frees_a_slot() {
    let bench = Bench::new(|spec| spec.max_connections(1).restart(Restart::Transient));
    let (port, _) = bench.listen(1, 1);
    bench.connect(&port, 7);
    let ends: [&dyn Fn(oneshot::Sender<Exit>); 5] = [
        &|ends| ends.send(Exit::normal()).map_err(drop).unwrap(),
        &|ends| ends.send(Exit::clean("done")).map_err(drop).unwrap(),
        &|ends| ends.send(Exit::failed("broken")).map_err(drop).unwrap(),
        &|ends| {
            let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            ends.send(Exit::disconnected(reset)).map_err(drop).unwrap();
        },
        &|ends| drop(ends),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        assert_eq!((bench.connections(), port.waiting()), (1, 6 - number));
        bench.end(end);
    }
    let id = bench.pool.connections().unwrap()[0].id;
    bench.pool.kill_child(id).unwrap();
    bench.runtime.settle();
    assert_eq!((bench.connections(), port.waiting()), (1, 0));
}

#[test]
fn lost_task_frees_its_slot() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, _) = bench.listen(1, 1);
    bench.connect(&port, 2);
    let newest = bench.runtime.spawned() - 1;
    let tasks = (0..=newest).rev().filter(|task| bench.runtime.has(*task));
    bench.runtime.drop_task(tasks.into_iter().next().unwrap());
    bench.runtime.settle();
    assert_eq!((bench.connections(), port.waiting()), (1, 0));
}

#[test]
fn guard_keeps_the_slot() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, _) = bench.listen(1, 1);
    bench.connect(&port, 2);
    let guard = bench.lifecycle(0).guard();
    bench.end_normally();
    assert_eq!((bench.connections(), port.waiting()), (1, 1));
    drop(guard);
    bench.runtime.settle();
    assert_eq!((bench.connections(), port.waiting()), (1, 0));
}

#[test]
fn raised_limit_serves_waiting_clients() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, id) = bench.listen(1, 1);
    bench.connect(&port, 9);
    for (limit, served) in [(Some(3), 3), (Some(2), 3), (Some(5), 5), (None, 9)] {
        bench.pool.set_max_connections(limit).unwrap();
        bench.runtime.settle();
        assert_eq!(bench.connections(), served);
    }
    bench.pool.set_listener_max_connections(id, 10).unwrap();
    bench.connect(&port, 9);
    assert_eq!(bench.connections(), 10);
    bench.pool.set_listener_max_connections(id, None).unwrap();
    bench.runtime.settle();
    assert_eq!(bench.connections(), 18);
}

#[test]
fn lowered_limit_closes_no_connection() {
    let bench = Bench::new(|spec| spec);
    let (port, id) = bench.listen(1, 1);
    bench.connect(&port, 5);
    bench.pool.set_max_connections(2).unwrap();
    bench.pool.set_listener_max_connections(id, 3).unwrap();
    bench.connect(&port, 2);
    for expected in [5, 4, 3, 2] {
        assert_eq!((bench.connections(), port.waiting()), (expected, 2));
        bench.end_normally();
    }
    assert_eq!((bench.connections(), port.waiting()), (2, 1));
}

#[test]
fn refused_clients_need_no_acceptor() {
    let bench = Bench::new(|spec| spec.max_connections(2).at_limit(REFUSE));
    let (port, _) = bench.listen(1, 1);
    bench.connect(&port, 50);
    assert_eq!(
        (bench.connections(), port.waiting(), bench.refused()),
        (2, 0, 48)
    );
    let refused = bench
        .history
        .all()
        .iter()
        .map(|made| made.refused)
        .sum::<usize>();
    assert_eq!(refused, 48);
    assert_eq!(bench.pool.listeners().unwrap()[0].accepted, 2);
    bench.end_normally();
    bench.connect(&port, 2);
    assert_eq!((bench.connections(), bench.refused()), (2, 49));
}

#[test]
fn listener_decides_what_happens_at_a_limit() {
    let bench = Bench::new(|spec| spec.max_connections(1).at_limit(REFUSE));
    let (waits, _) = bench.listen(1, ListenerSettings::new(1).at_limit(AtLimit::Wait));
    let (refuses, _) = bench.listen(2, 1);
    for port in [&waits, &refuses] {
        bench.connect(port, 2);
    }
    assert_eq!((waits.waiting(), refuses.waiting()), (1, 0));
    assert_eq!(bench.refused(), 2);
}

#[test]
fn changed_choice_holds_for_those_that_wait() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, _) = bench.listen(1, 1);
    bench.connect(&port, 4);
    assert_eq!(port.waiting(), 3);
    bench
        .pool
        .update(|settings| settings.at_limit = REFUSE)
        .unwrap();
    bench.runtime.settle();
    assert_eq!((port.waiting(), bench.refused()), (0, 3));
    bench
        .pool
        .update(|settings| settings.at_limit = AtLimit::Wait)
        .unwrap();
    bench.connect(&port, 2);
    assert_eq!((port.waiting(), bench.refused()), (2, 3));
    bench.end_normally();
    assert_eq!((bench.connections(), port.waiting()), (1, 1));
}

#[test]
fn panic_of_refuse_is_contained() {
    let bench = Bench::new(|spec| spec.max_connections(1).at_limit(REFUSE));
    let (port, _) = bench.listen(1, 1);
    bench.faults.arm(Site::Refuse, 1);
    bench.connect(&port, 5);
    assert!(bench.faults.fired());
    assert_eq!((bench.connections(), bench.refused()), (1, 4));
    assert_eq!(bench.runtime.panics(), 0);
}

#[test]
fn released_slot_is_free_at_once() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, _) = bench.listen(1, ListenerSettings::new(1).max_connections(1));
    bench.connect(&port, 4);
    for client in [0, 1] {
        let lifecycle = bench.lifecycle(client);
        lifecycle.release_slot();
        lifecycle.release_slot();
        bench.runtime.settle();
        assert_eq!(
            (bench.connections(), port.waiting()),
            (client + 2, 2 - client)
        );
    }
    let holds: Vec<_> = bench
        .pool
        .connections()
        .unwrap()
        .iter()
        .map(|one| one.holds_slot)
        .collect();
    assert_eq!(holds, [false, false, true]);
    // They have no slot to give back any more.
    for _ in 0..2 {
        bench.end_normally();
    }
    assert_eq!((bench.connections(), port.waiting()), (1, 1));
    bench.end_normally();
    assert_eq!((bench.connections(), port.waiting()), (1, 0));
}

#[test]
fn late_release_changes_nothing() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, _) = bench.listen(1, 1);
    bench.connect(&port, 3);
    let lifecycle = bench.lifecycle(0);
    bench.end_normally();
    lifecycle.release_slot();
    bench.runtime.settle();
    assert_eq!((bench.connections(), port.waiting()), (1, 1));
}

#[test]
fn limit_set_later_counts_only_held_slots() {
    let bench = Bench::new(|spec| spec);
    let (port, _) = bench.listen(1, 1);
    bench.connect(&port, 3);
    bench.lifecycle(1).release_slot();
    bench.pool.set_max_connections(3).unwrap();
    bench.connect(&port, 3);
    assert_eq!((bench.connections(), port.waiting()), (4, 2));
}

#[test]
fn closed_listener_leaves_the_queue() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (full, _) = bench.listen(1, 1);
    let (closing, id) = bench.listen(2, 1);
    let (last, _) = bench.listen(3, 1);
    for port in [&full, &closing, &last] {
        bench.connect(port, 1);
    }
    let closed = bench.pool.close_listener(id);
    bench.runtime.settle();
    bench.runtime.advance(CLOSE_LIMIT);
    bench.runtime.settle();
    assert!(poll_once(closed).is_ready());
    bench.end_normally();
    assert_eq!((bench.connections(), last.waiting()), (1, 0));
}

#[test]
fn closing_listener_takes_clients_with_slots() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (port, id) = bench.listen(1, 1);
    bench.connect(&port, 3);
    let closed = bench.pool.close_listener(id);
    bench.runtime.advance(Duration::from_millis(100));
    bench.end_normally();
    assert_eq!((bench.connections(), port.waiting()), (1, 1));
    assert!(port.is_open());
    bench.runtime.advance(CLOSE_LIMIT);
    bench.runtime.settle();
    assert!(!port.is_open() && poll_once(closed).is_ready());
}

#[test]
fn failed_accept_frees_the_slot() {
    let bench = Bench::new(|spec| spec.max_connections(1));
    let (failing, _) = bench.listen(1, 1);
    let (other, _) = bench.listen(2, 1);
    failing.fail(std::io::Error::from_raw_os_error(24));
    bench.runtime.settle();
    assert_eq!(bench.states()[0], ListenerState::Resources);
    bench.connect(&other, 1);
    assert_eq!(bench.of_listeners(), [0, 1]);
    bench.end_normally();
    failing.fail(listener_error());
    bench.runtime.advance(Duration::from_secs(2));
    bench.runtime.settle();
    bench.connect(&other, 1);
    assert_eq!(bench.of_listeners(), [1]);
}

#[test]
fn bad_limits_are_refused() {
    let bench = Bench::new(|spec| spec);
    let (port, id) = bench.listen(1, 1);
    for value in [0, MAX_CONNECTIONS + 1] {
        let settings = ListenerSettings::new(1).max_connections(value);
        let error = bench
            .pool
            .add_listener(port.listen(), settings)
            .map(drop)
            .unwrap_err();
        let words = format!(
            "listener not added: `max_connections` is {value}: give 1 to 2147483646, or none for no limit"
        );
        assert_eq!(error.to_string(), words);
        let error = bench.pool.set_max_connections(value).unwrap_err();
        assert!(matches!(
            error,
            ReconfigureError::Spec(SpecError::MaxConnections { value: given }) if given == value
        ));
        let error = bench.pool.set_listener_max_connections(id, value);
        assert_eq!(error, Err(LimitError::Value { value }));
    }
    let other = Bench::new(|spec| spec);
    let unknown = other.pool.set_listener_max_connections(id, 1);
    assert_eq!(unknown, Err(LimitError::UnknownListener(id)));
    let handle = bench.pool.handle();
    drop(bench.pool);
    bench.runtime.settle();
    assert_eq!(
        handle.set_listener_max_connections(id, 1),
        Err(LimitError::Stopped)
    );
}
