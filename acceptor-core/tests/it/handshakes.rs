//! Handshakes run beside accepting, and are listed, bounded, stopped and killed like any connection (H1 to H6).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;
use futures::channel::oneshot;

const TIMEOUT: Duration = Duration::from_secs(10);
const PROXIED: Address = (99, Some(99));

/// How a handshake ends.
#[derive(Debug, Clone, Copy)]
enum How {
    Passes,
    /// With replaced addresses.
    Proxied,
    Fails,
    ClientGone,
    Panics,
}

/// Handshakes that wait for the test to end them, oldest first.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Vec<oneshot::Sender<How>>>>);

impl Gate {
    fn ends(&self, number: usize, how: How) {
        let waiting = self.0.lock().unwrap().remove(number);
        waiting.send(how).unwrap();
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A stream that has been through a handshake.
struct Secured(MemoryStream);

impl Handshake<MemoryStream, Address> for Gate {
    type Stream = Secured;

    async fn run(
        &self,
        mut incoming: Incoming<MemoryStream, Address>,
    ) -> Result<Incoming<Secured, Address>, HandshakeError> {
        let (tell, told) = oneshot::channel();
        self.0.lock().unwrap().push(tell);
        match told.await.unwrap() {
            How::Passes => {}
            How::Proxied => incoming.set_addrs(PROXIED, PROXIED),
            How::Fails => return Err(HandshakeError::new("bad greeting", "no \"hello\"")),
            How::ClientGone => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            How::Panics => panic!("of the handshake"),
        }
        Ok(incoming.map_stream(Secured))
    }
}

/// Serves each connection until the pool drops it; the states made by `init` are counted.
struct Serves {
    states: Arc<()>,
}

impl<L: Listener<Addr = Address>> Acceptor<L> for Serves
where
    StreamOf<L>: Into<Secured>,
{
    type State = Arc<()>;
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<Arc<()>>, BoxError> {
        Ok(Init::Accept(Arc::clone(&self.states)))
    }

    async fn serve(&self, connection: Connection<StreamOf<L>, Address>, _: Arc<()>) {
        let Secured(stream) = connection.stream.into();
        stream.serve();
        std::future::pending().await
    }
}

type TestListener = With<MemoryListener, Gate>;

struct Bench {
    runtime: Manual,
    history: History,
    port: Port,
    gate: Gate,
    states: Arc<()>,
    reports: Arc<Mutex<Vec<String>>>,
    pool: Pool<Manual, TestListener>,
}

impl Bench {
    /// A pool with one listener of two acceptors.
    fn new(change: impl FnOnce(Spec<Serves, Address>) -> Spec<Serves, Address>) -> Self {
        let faults = Faults::default();
        let (runtime, history) = (Manual::new(&faults), History::default());
        let (states, reports) = (Arc::new(()), Arc::<Mutex<Vec<String>>>::default());
        let (acceptor, seen) = (Arc::clone(&states), Arc::clone(&reports));
        let spec = Spec::new("shakes", Serves { states: acceptor })
            .restart(Restart::Transient)
            .intensity(0)
            .connection_reports(ConnectionReports::Disconnects)
            .observer(observer_fn(move |report: &Report<Address>| {
                seen.lock().unwrap().push(report.to_string());
            }));
        let pool = Pool::start(runtime.clone(), change(spec)).unwrap();
        let (port, gate) = (Port::new(1, &history, &faults), Gate::default());
        pool.add_listener(port.listen().with(gate.clone()), 2)
            .unwrap();
        runtime.settle();
        Self {
            runtime,
            history,
            port,
            gate,
            states,
            reports,
            pool,
        }
    }

    fn plain() -> Self {
        Self::new(|spec| spec)
    }

    fn connect(&self) {
        self.port.connect().unwrap();
        self.runtime.settle();
    }

    fn ends(&self, number: usize, how: How) {
        self.gate.ends(number, how);
        self.runtime.settle();
    }

    fn served(&self) -> usize {
        self.history.all().iter().map(|made| made.served).sum()
    }

    /// Connections, those in their handshake, and acceptors.
    #[track_caller]
    fn counts(&self, connections: usize, handshaking: usize, acceptors: usize) {
        let counts = self.pool.counts().unwrap();
        assert_eq!(
            (counts.connections, counts.handshaking, counts.acceptors),
            (connections, handshaking, acceptors)
        );
        assert_eq!(self.history.alive(), connections);
        // One for the test, one for the acceptor, one for each waiting acceptor and each connection.
        assert_eq!(Arc::strong_count(&self.states), 2 + connections + acceptors);
    }

    fn reports(&self) -> Vec<String> {
        self.reports.lock().unwrap().clone()
    }

    fn first(&self) -> ConnectionRecord<Address> {
        self.pool.connections().unwrap().remove(0)
    }
}

#[test]
fn h1_handshake_delays_nothing_else() {
    let bench = Bench::plain();
    for _ in 0..3 {
        bench.connect();
    }
    assert_eq!(bench.gate.waiting(), 3);
    bench.counts(3, 3, 2);
    bench.ends(1, How::Passes);
    bench.counts(3, 2, 2);
    assert_eq!(bench.served(), 1);
}

#[test]
fn h2_handshaking_connection_is_listed() {
    let bench = Bench::new(|spec| spec.intensity(1));
    bench.connect();
    let record = bench.first();
    assert_eq!(record.state, ConnectionState::Handshaking);
    bench.pool.stop_child(record.id).unwrap();
    bench.runtime.settle();
    bench.counts(0, 0, 2);
    assert_eq!(bench.reports(), [""; 0]);
    bench.connect();
    bench.pool.kill_child(bench.first().id).unwrap();
    bench.runtime.settle();
    bench.counts(0, 0, 2);
    assert_eq!(bench.pool.status().unwrap().failures, 1);
    assert_eq!(bench.served(), 0);
}

#[test]
fn h3_handshake_ends_at_its_deadline() {
    let bench = Bench::plain();
    bench.connect();
    bench.runtime.advance(TIMEOUT - Duration::from_nanos(1));
    bench.runtime.settle();
    bench.counts(1, 1, 2);
    bench.runtime.advance(Duration::from_nanos(1));
    bench.runtime.settle();
    bench.counts(0, 0, 2);
    let expected = "pool shakes: handshake of connection 1.1 from (1, Some(0)) on listener 1 failed after 10.000s (timeout)";
    assert_eq!(bench.reports(), [expected]);
    assert_eq!(bench.served(), 0);
}

#[test]
fn h3_deadline_is_set_by_the_settings() {
    let second = Duration::from_secs(1);
    let bench = Bench::new(|spec| spec.handshake_timeout(None));
    bench.connect();
    bench
        .pool
        .update(|settings| settings.handshake_timeout = Some(second))
        .unwrap();
    bench.connect();
    bench.runtime.advance(second);
    bench.runtime.settle();
    bench.counts(1, 1, 2);
    bench.runtime.advance(1_000_000 * second);
    bench.runtime.settle();
    bench.counts(1, 1, 2);
}

/// A failed handshake is reported, and never counts as a failure.
#[track_caller]
fn check_fails(how: How, words: &str) {
    let bench = Bench::plain();
    bench.connect();
    bench.ends(0, how);
    bench.counts(0, 0, 2);
    let expected = format!(
        "pool shakes: handshake of connection 1.1 from (1, Some(0)) on listener 1 failed after 0.000ns ({words}"
    );
    assert_eq!(bench.reports(), [expected]);
    assert_eq!(bench.served(), 0);
    let stop = bench.pool.stop();
    bench.runtime.settle();
    bench.runtime.advance(Duration::from_secs(1));
    bench.runtime.settle();
    assert!(
        poll_once(stop).is_ready(),
        "the pool had not stopped before"
    );
}

#[test]
fn h4_failed_handshake_is_not_counted() {
    check_fails(How::Fails, "bad greeting): no \"hello\"");
    check_fails(How::ClientGone, "disconnected): unexpected end of file");
}

#[test]
fn h4_failed_handshake_report_is_opt_in() {
    let bench = Bench::new(|spec| spec.connection_reports(ConnectionReports::Failures));
    bench.connect();
    bench.ends(0, How::Fails);
    assert_eq!(bench.reports(), [""; 0]);
    let bench = Bench::new(|spec| spec.connection_reports(ConnectionReports::All));
    bench.connect();
    bench.ends(0, How::Fails);
    let reports = bench.reports();
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert!(
        reports[0].ends_with("began") && reports[1].contains("(bad greeting)"),
        "{reports:?}"
    );
}

#[test]
fn h4_handshake_panic_fails_connection() {
    let bench = Bench::new(|spec| spec.intensity(1));
    bench.connect();
    bench.ends(0, How::Panics);
    bench.counts(0, 0, 2);
    assert_eq!(bench.pool.status().unwrap().failures, 1);
    let expected = "pool shakes: connection 1.1 from (1, Some(0)) on listener 1 failed after 0.000ns: panicked: of the handshake";
    assert_eq!(bench.reports(), [expected]);
}

#[test]
fn h5_replaced_addresses_are_shown() {
    let bench = Bench::plain();
    bench.connect();
    let transport = bench.first();
    assert!(transport.transport.is_none());
    bench.ends(0, How::Proxied);
    let proxied = bench.first();
    assert_eq!(proxied.state, ConnectionState::Serving);
    assert_eq!((proxied.peer_addr, proxied.local_addr), (PROXIED, PROXIED));
    let under = proxied.transport.unwrap();
    assert_eq!(under.peer_addr, transport.peer_addr);
    assert_eq!(under.local_addr, transport.local_addr);
    bench.pool.kill_child(proxied.id).unwrap();
    bench.runtime.settle();
    let report = &bench.reports()[0];
    assert!(
        report.contains("connection 1.1 from (99, Some(99)) through (1, Some(0)) on"),
        "{report}"
    );
}

#[test]
fn h6_stop_phase_drops_the_handshake() {
    let grace = Duration::from_secs(5);
    let bench = Bench::new(|spec| spec.grace(grace));
    for _ in 0..2 {
        bench.connect();
    }
    let mut stop = Box::pin(bench.pool.stop());
    bench.runtime.settle();
    bench.runtime.advance(Duration::from_millis(1));
    bench.runtime.settle();
    bench.ends(0, How::Passes);
    assert_eq!(bench.served(), 1);
    bench.counts(2, 1, 0);
    bench.runtime.advance(grace);
    bench.runtime.settle();
    let Poll::Ready(report) = poll_once(stop.as_mut()) else {
        panic!("the last connection has not ended");
    };
    assert_eq!(report.connections(Phase::Stop).of(EndKind::Stopped), 2);
    assert_eq!(report.late.len(), 2);
    assert_eq!(bench.history.alive(), 0);
}

/// The stream, the state and the handshake are dropped with the connection, wherever it is.
#[test]
fn connection_lost_in_handshake_leaks_nothing() {
    let bench = Bench::plain();
    bench.connect();
    bench.runtime.shut_down(Order::OldestFirst);
    assert_eq!(bench.history.alive(), 0);
    // One for the test, one for the acceptor.
    assert!(Arc::strong_count(&bench.states) <= 2);
    assert_eq!(bench.served(), 0);
}

/// A handshake that panics when cloned, or whose clones panic when dropped.
enum PanickingHandshake {
    PanicsWhenCloned,
    CopyPanicsWhenDropped,
    Copy,
}

impl Clone for PanickingHandshake {
    fn clone(&self) -> Self {
        assert!(!matches!(self, Self::PanicsWhenCloned), "cloned");
        Self::Copy
    }
}

impl Drop for PanickingHandshake {
    fn drop(&mut self) {
        assert!(!matches!(self, Self::Copy), "dropped");
    }
}

impl Handshake<MemoryStream, Address> for PanickingHandshake {
    type Stream = Secured;

    async fn run(
        &self,
        incoming: Incoming<MemoryStream, Address>,
    ) -> Result<Incoming<Secured, Address>, HandshakeError> {
        Ok(incoming.map_stream(Secured))
    }
}

type PanickingPool = Pool<Manual, With<MemoryListener, PanickingHandshake>>;

fn panicking_pool() -> (Manual, Port, PanickingPool) {
    let (faults, history) = (Faults::default(), History::default());
    let (runtime, states) = (Manual::new(&faults), Arc::new(()));
    let pool = Pool::start(runtime.clone(), Spec::new("brittle", Serves { states })).unwrap();
    (runtime, Port::new(1, &history, &faults), pool)
}

#[test]
fn listener_with_panicking_handshake_is_returned() {
    let (_, port, pool) = panicking_pool();
    let listener = port.listen().with(PanickingHandshake::PanicsWhenCloned);
    let error = pool.add_listener(listener, 1).unwrap_err();
    assert!(port.is_open());
    let words = "listener not added: its `handshake` panicked: cloned";
    assert_eq!(error.to_string(), words);
    assert!(
        matches!(error.reason, AddListenerReason::HandshakePanicked(message) if message == "cloned")
    );
    assert_eq!(pool.listeners().unwrap().len(), 0);
}

#[test]
fn handshake_drop_panic_is_contained() {
    let (runtime, port, pool) = panicking_pool();
    let listener = || {
        port.listen()
            .with(PanickingHandshake::CopyPanicsWhenDropped)
    };
    let id = pool.add_listener(listener(), 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(pool.counts().unwrap().connections, 1);
    let close = pool.close_listener(id);
    runtime.settle();
    runtime.advance(Duration::from_millis(1));
    runtime.settle();
    assert!(poll_once(close).is_ready());
    let killed = pool.kill();
    runtime.settle();
    assert!(poll_once(killed).is_ready());
    let error = pool.add_listener(listener(), 1).unwrap_err();
    assert!(matches!(error.reason, AddListenerReason::Stopped));
    assert!(port.is_open());
}

/// Its state panics when it is dropped, which `serve` never does.
struct WithPanickingState;

struct PanickingState;

impl Drop for PanickingState {
    fn drop(&mut self) {
        panic!("of the state");
    }
}

impl Acceptor<TestListener> for WithPanickingState {
    type State = PanickingState;
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<PanickingState>, BoxError> {
        Ok(Init::Accept(PanickingState))
    }

    async fn serve(&self, _: Connection<Secured, Address>, state: PanickingState) {
        std::mem::forget(state);
    }

    async fn terminate(&self, _: &Terminate, state: PanickingState) {
        std::mem::forget(state);
    }
}

/// Checks the end of a connection with such a state, whose handshake ends in this way.
#[track_caller]
fn check_state_drop_panic(end: impl FnOnce(&Pool<Manual, TestListener>, &Gate), message: &str) {
    let (faults, history) = (Faults::default(), History::default());
    let (runtime, reports) = (Manual::new(&faults), Arc::<Mutex<Vec<String>>>::default());
    let seen = Arc::clone(&reports);
    let spec = Spec::new("fragile", WithPanickingState)
        .intensity(1)
        .restart(Restart::Transient)
        .observer(observer_fn(move |report: &Report<Address>| {
            seen.lock().unwrap().push(report.to_string());
        }));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let (port, gate) = (Port::new(1, &history, &faults), Gate::default());
    pool.add_listener(port.listen().with(gate.clone()), 1)
        .unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    end(&pool, &gate);
    runtime.settle();
    let expected = format!(
        "pool fragile: connection 1.1 from (1, Some(0)) on listener 1 failed after 0.000ns: panicked: {message}"
    );
    assert_eq!(*reports.lock().unwrap(), [expected]);
    assert_eq!(pool.status().unwrap().failures, 1);
}

#[test]
fn e1_state_drop_panic_fails_connection() {
    check_state_drop_panic(|_, gate| gate.ends(0, How::Fails), "of the state");
    let stop = |pool: &Pool<_, _>, _: &Gate| {
        let id = pool.connections().unwrap()[0].id;
        pool.stop_child(id).unwrap();
    };
    check_state_drop_panic(stop, "of the state");
    // The first panic counts, and the second does not abort the process.
    check_state_drop_panic(|_, gate| gate.ends(0, How::Panics), "of the handshake");
}

/// An error of the protocol that a handshake establishes.
#[derive(Debug)]
struct BadRecord(&'static str);

impl std::fmt::Display for BadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad record of {}", self.0)
    }
}

impl std::error::Error for BadRecord {}

/// A handshake that classifies the errors of its own protocol, and may panic while it does.
#[derive(Clone)]
struct Knows<const WHICH: usize>;

const PROTOCOLS: [&str; 3] = ["first", "second", "panics"];

impl<const WHICH: usize> Handshake<MemoryStream, Address> for Knows<WHICH> {
    type Stream = MemoryStream;

    async fn run(
        &self,
        incoming: Incoming<MemoryStream, Address>,
    ) -> Result<Incoming<MemoryStream, Address>, HandshakeError> {
        Ok(incoming)
    }

    fn is_peer_gone(error: &(dyn std::error::Error + 'static)) -> bool {
        let of = error.downcast_ref().map(|BadRecord(protocol)| *protocol);
        assert_ne!(of, Some("panics"));
        of == Some(PROTOCOLS[WHICH])
    }
}

/// Checks how many failures count, and how a connection ends whose stream fails with this error.
#[track_caller]
fn check_stream_failed(error: fn() -> BoxError, failures: usize, report: &str) {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let reports = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&reports);
    let serve = move |_: Connection<MemoryStream, Address>| async move { Err::<(), _>(error()) };
    let spec = Spec::new("knows", acceptor_fn(serve))
        .restart(Restart::Transient)
        .connection_reports(ConnectionReports::Disconnects)
        .observer(observer_fn(move |report: &Report<Address>| {
            seen.lock().unwrap().push(report.to_string());
        }));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    let listener = port.listen().with(Knows::<0>).with(Knows::<1>);
    pool.add_listener(listener, 1).unwrap();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(pool.status().unwrap().failures, failures);
    let expected = format!("pool knows: connection 1.1 from (1, Some(0)) on listener 1 {report}");
    assert_eq!(*reports.lock().unwrap(), [expected]);
}

#[test]
fn e5_handshake_classifies_peer_errors() {
    let of = |number: usize| BadRecord(PROTOCOLS[number]);
    let gone = |words| format!("disconnected after 0.000ns: {words}");
    let failed = |words| format!("failed after 0.000ns: {words}");
    check_stream_failed(|| BadRecord("first").into(), 0, &gone(of(0)));
    check_stream_failed(|| BadRecord("second").into(), 0, &gone(of(1)));
    // If the handshake panics, the error is not the peer's.
    check_stream_failed(|| BadRecord("panics").into(), 1, &failed(of(2)));
    check_stream_failed(
        || BadRecord("another").into(),
        1,
        &failed(BadRecord("another")),
    );
}

/// Replaces the addresses immediately.
#[derive(Clone)]
struct Proxies;

impl Handshake<MemoryStream, Address> for Proxies {
    type Stream = MemoryStream;

    async fn run(
        &self,
        mut incoming: Incoming<MemoryStream, Address>,
    ) -> Result<Incoming<MemoryStream, Address>, HandshakeError> {
        incoming.set_addrs(PROXIED, PROXIED);
        Ok(incoming)
    }
}

/// Reports name the client behind the proxy, whatever the outcome of the handshake that follows.
#[test]
fn h5_addresses_show_before_next_handshake() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let reports = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&reports);
    let serve = |_: Connection<Secured, Address>| async { Ok(()) };
    let spec = Spec::new("proxied", acceptor_fn(serve))
        .connection_reports(ConnectionReports::Disconnects)
        .observer(observer_fn(move |report: &Report<Address>| {
            seen.lock().unwrap().push(report.to_string());
        }));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let (port, gate) = (Port::new(1, &history, &faults), Gate::default());
    let listener = port.listen().with(Proxies).with(gate.clone());
    pool.add_listener(listener, 1).unwrap();
    port.connect().unwrap();
    runtime.settle();
    let record = pool.connections().unwrap().remove(0);
    assert_eq!(record.state, ConnectionState::Handshaking);
    assert_eq!((record.peer_addr, record.local_addr), (PROXIED, PROXIED));
    let transport = record.transport.unwrap();
    assert_eq!(transport.peer_addr, (1, Some(0)));
    gate.ends(0, How::Fails);
    runtime.settle();
    let expected = format!(
        "pool proxied: handshake of connection 1.1 from {PROXIED:?} through (1, Some(0)) on listener 1 failed after 0.000ns (bad greeting): no \"hello\""
    );
    assert_eq!(*reports.lock().unwrap(), [expected]);
}
