//! Guards: a connection that hands off its stream remains a connection of the pool until the last guard is dropped (E6).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;
use futures::FutureExt;
use futures::io::{AsyncRead, AsyncWrite};

/// The parts of a connection that were handed off.
struct Handed {
    guard: Guard,
    stream: MemoryStream,
    lifecycle: Lifecycle,
}

/// How `serve` ends after it has handed off its values.
#[derive(Debug, Clone, Copy)]
enum How {
    Returns,
    Fails,
    Panics,
    PeerGone,
    Stays,
}

type HandedOn = Arc<Mutex<Vec<Handed>>>;

struct HandsOn(HandedOn, How);

impl Acceptor<MemoryListener> for HandsOn {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) -> Exit {
        connection.stream.serve();
        self.0.lock().unwrap().push(Handed {
            guard: connection.lifecycle.guard(),
            stream: connection.stream,
            lifecycle: connection.lifecycle,
        });
        match self.1 {
            How::Returns => Exit::normal(),
            How::Fails => Exit::failed("as requested"),
            How::Panics => panic!("as requested"),
            How::PeerGone => Exit::disconnected(std::io::Error::other("gone")),
            How::Stays => pending().await,
        }
    }
}

const GRACE: Duration = Duration::from_secs(10);
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

struct Bench {
    runtime: Manual,
    history: History,
    port: Port,
    handed: HandedOn,
    reports: Arc<Mutex<Vec<String>>>,
    pool: Pool<Manual, MemoryListener>,
}

impl Bench {
    /// A pool with one listener of one acceptor.
    fn new(how: How) -> Self {
        let faults = Faults::default();
        let (runtime, history) = (Manual::new(&faults), History::default());
        let (handed, reports) = (HandedOn::default(), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&reports);
        let spec = Spec::new("tunnels", HandsOn(Arc::clone(&handed), how))
            .restart(Restart::Transient)
            .intensity(10)
            .grace(GRACE)
            .shutdown(Duration::from_secs(5))
            .kill_timeout(KILL_TIMEOUT)
            .observer(observer_fn(move |report: &Report<Address>| {
                seen.lock().unwrap().push(report.to_string());
            }));
        let pool = Pool::start(runtime.clone(), spec).unwrap();
        let port = Port::new(1, &history, &faults);
        pool.add_listener(port.listen(), 1).unwrap();
        runtime.settle();
        Self {
            runtime,
            history,
            port,
            handed,
            reports,
            pool,
        }
    }

    /// Connects a client; `serve` hands it off.
    fn hands_on(&self) -> Handed {
        self.port.connect().unwrap();
        self.runtime.settle();
        self.handed.lock().unwrap().pop().unwrap()
    }

    fn passes(&self, time: Duration) {
        self.runtime.advance(time);
        self.runtime.settle();
    }

    /// The states of the listed connections.
    fn states(&self) -> Vec<ConnectionState> {
        let connections = self.pool.connections().unwrap();
        assert_eq!(self.pool.counts().unwrap().connections, connections.len());
        connections.iter().map(|record| record.state).collect()
    }

    fn reports(&self) -> Vec<String> {
        self.runtime.settle();
        std::mem::take(&mut self.reports.lock().unwrap())
    }

    #[track_caller]
    fn result(&self, join: Join<Manual, MemoryListener>) -> StopReport<Address> {
        match poll_once(join) {
            Poll::Ready(report) => report,
            Poll::Pending => panic!("the pool has not stopped"),
        }
    }
}

#[test]
fn last_guard_ends_the_connection() {
    let bench = Bench::new(How::Returns);
    let Handed { guard, stream, .. } = bench.hands_on();
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    bench.passes(Duration::from_secs(3));
    let listed = bench.pool.connections().unwrap();
    assert_eq!(listed[0].age, Duration::from_secs(3));
    assert_eq!(bench.pool.status().unwrap().connections, listed);
    let another = guard.clone();
    drop((stream, guard));
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    assert!(!another.is_killed());
    drop(another);
    assert_eq!(bench.states(), []);
    assert_eq!(bench.reports(), [""; 0]);
    assert_eq!(bench.history.alive(), 0);
}

#[test]
fn guard_dropped_in_serve_has_no_effect() {
    let bench = Bench::new(How::Stays);
    let Handed { guard, stream, .. } = bench.hands_on();
    assert_eq!(bench.states(), [ConnectionState::Serving]);
    drop((stream, guard));
    assert_eq!(bench.states(), [ConnectionState::Serving]);
    let id = bench.pool.connections().unwrap()[0].id;
    bench.pool.kill_child(id).unwrap();
    bench.runtime.settle();
    assert_eq!(bench.states(), []);
}

/// A connection ends with the result of `serve` when its guard is dropped.
#[track_caller]
fn check_ends(how: How, report: Option<&str>) {
    let bench = Bench::new(how);
    let handed = bench.hands_on();
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    assert_eq!(bench.reports(), [""; 0], "{how:?}");
    bench.passes(Duration::from_secs(2));
    drop(handed);
    assert_eq!(bench.states(), []);
    let words = |words: &str| {
        format!(
            "pool tunnels: connection 1.1 from (1, Some(0)) on listener 1 failed after 2.000s: {words}"
        )
    };
    let expected: Vec<_> = report.into_iter().map(words).collect();
    assert_eq!(bench.reports(), expected, "{how:?}");
    let failures = bench.pool.status().unwrap().failures;
    assert_eq!(failures, expected.len());
}

#[test]
fn serve_result_is_the_connections_end() {
    check_ends(How::Returns, None);
    check_ends(How::PeerGone, None);
    check_ends(How::Fails, Some("as requested"));
    check_ends(How::Panics, Some("panicked: as requested"));
}

#[test]
fn guarded_connection_is_stopped_and_killed() {
    let bench = Bench::new(How::Returns);
    let Handed {
        guard, lifecycle, ..
    } = bench.hands_on();
    let stop = lifecycle.trap_stop();
    let stopping = bench.pool.stop();
    bench.runtime.settle();
    bench.passes(CLOSE_DELAY);
    assert!(lifecycle.draining().is_set() && !stop.is_set());
    bench.passes(GRACE);
    assert!(stop.is_set() && !guard.is_killed());
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    let mut killed = guard.killed().wait();
    assert_eq!((&mut killed).now_or_never(), None);
    bench.passes(Duration::from_secs(5));
    assert!(guard.is_killed() && guard.killed().is_set());
    assert_eq!(killed.now_or_never(), Some(()));
    drop(guard);
    bench.runtime.settle();
    let report = bench.result(stopping);
    assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), 1);
    assert_eq!(report.stuck, 0);
}

#[test]
fn guard_drop_in_grace_ends_the_stop() {
    let bench = Bench::new(How::Returns);
    let handed = bench.hands_on();
    let stopping = bench.pool.stop();
    bench.runtime.settle();
    bench.passes(CLOSE_DELAY);
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    drop(handed);
    bench.runtime.settle();
    let report = bench.result(stopping);
    assert_eq!(report.connections(Phase::Grace).of(EndKind::Normal), 1);
}

/// The guard is given up, and dropping it later is harmless (S8).
#[test]
fn guard_held_after_kill_is_stuck() {
    let bench = Bench::new(How::Returns);
    let handed = bench.hands_on();
    let killing = bench.pool.kill();
    bench.runtime.settle();
    for _ in 0..4 {
        assert_eq!(bench.states(), [ConnectionState::Guarded]);
        bench.passes(KILL_TIMEOUT / 4);
    }
    let report = bench.result(killing);
    assert_eq!(report.stuck, 1);
    drop(handed);
    bench.runtime.settle();
    assert_eq!(bench.history.alive(), 0);
}

#[test]
fn killed_guarded_connection_ends_killed() {
    let bench = Bench::new(How::Returns);
    let handed = bench.hands_on();
    let id = bench.pool.connections().unwrap()[0].id;
    bench.pool.kill_child(id).unwrap();
    assert!(handed.guard.is_killed() && handed.guard.killed().is_set());
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    drop(handed);
    assert_eq!(bench.states(), []);
    let killed = "pool tunnels: connection 1.1 from (1, Some(0)) on listener 1 failed after 0.000ns: killed through the handle";
    assert_eq!(bench.reports(), [killed]);
    // It is no longer a child.
    let unknown = bench.pool.kill_child(id);
    assert_eq!(unknown, Err(ChildError::UnknownChild(id)));
}

#[test]
fn stop_child_signals_the_guard() {
    let bench = Bench::new(How::Returns);
    let handed = bench.hands_on();
    let stop = handed.lifecycle.trap_stop();
    let id = bench.pool.connections().unwrap()[0].id;
    bench.pool.stop_child(id).unwrap();
    bench.runtime.settle();
    assert!(stop.is_set() && !handed.guard.is_killed());
    drop(handed);
    assert_eq!((bench.states(), bench.reports()), (vec![], vec![]));
}

#[test]
fn guard_of_ended_connection_is_killed() {
    let bench = Bench::new(How::Returns);
    let Handed {
        guard, lifecycle, ..
    } = bench.hands_on();
    // While the connection is guarded, more guards can be taken.
    let more = lifecycle.guard();
    assert!(!more.is_killed());
    drop(guard);
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    drop(more);
    assert_eq!(bench.states(), []);
    let late = lifecycle.guard();
    assert!(late.is_killed() && late.killed().is_set());
    assert!(late.clone().is_killed());
    let ran = late.run(async { 1 }).now_or_never();
    assert_eq!(ran, Some(None));
    assert_eq!(bench.states(), []);
}

#[test]
fn lost_task_ends_with_last_guard() {
    let bench = Bench::new(How::Stays);
    let before = bench.runtime.spawned();
    let handed = bench.hands_on();
    for task in before..bench.runtime.spawned() {
        bench.runtime.drop_task(task);
    }
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    drop(handed);
    assert_eq!(bench.states(), []);
    assert!(bench.reports()[0].ends_with("its runtime dropped the task"));
}

/// A future that is pending, and holds the stream.
async fn holds(stream: MemoryStream) {
    pending::<()>().await;
    drop(stream);
}

#[test]
fn kill_drops_suspended_subtask() {
    let bench = Bench::new(How::Returns);
    let Handed { guard, stream, .. } = bench.hands_on();
    let id = bench.pool.connections().unwrap()[0].id;
    let subtask = guard.run(holds(stream));
    let before = bench.runtime.tasks();
    bench.runtime.spawn(subtask.map(drop));
    bench.runtime.settle();
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    bench.pool.kill_child(id).unwrap();
    assert_eq!(bench.history.alive(), 1);
    bench.runtime.settle();
    assert_eq!((bench.runtime.tasks(), bench.history.alive()), (before, 0));
    assert_eq!(bench.states(), []);
    assert_eq!(bench.reports().len(), 1);
}

#[test]
fn killed_subtask_is_never_polled() {
    let bench = Bench::new(How::Returns);
    let Handed { guard, stream, .. } = bench.hands_on();
    let id = bench.pool.connections().unwrap()[0].id;
    let mut subtask = guard.run(async move {
        drop(stream);
        panic!("a killed subtask was polled");
    });
    bench.pool.kill_child(id).unwrap();
    assert_eq!((&mut subtask).now_or_never(), Some(None::<()>));
    assert_eq!(bench.states(), []);
    // A second time.
    assert_eq!(subtask.now_or_never(), Some(None));
}

#[test]
fn finished_subtask_releases_its_guard() {
    let bench = Bench::new(How::Returns);
    let Handed { guard, stream, .. } = bench.hands_on();
    let mut subtask = guard.run(async move {
        drop(stream);
        7
    });
    assert_eq!((&mut subtask).now_or_never(), Some(Some(7)));
    assert_eq!(bench.states(), []);
    assert_eq!(bench.reports(), [""; 0]);
}

/// The connection ends with this report if the code under its guard panicked.
#[track_caller]
fn check_panic(how: How, runs: impl FnOnce(&Bench, Handed), words: &str) {
    let bench = Bench::new(how);
    let handed = bench.hands_on();
    runs(&bench, handed);
    if let How::Stays = how {
        let id = bench.pool.connections().unwrap()[0].id;
        bench.pool.stop_child(id).unwrap();
    }
    assert_eq!(bench.reports().last().map(String::as_str), Some(words));
}

fn panics(_: &Bench, handed: Handed) {
    let Handed { guard, stream, .. } = handed;
    let subtask = guard.run(async move {
        drop(stream);
        panic!("of the subtask");
    });
    assert_eq!(subtask.now_or_never(), Some(None::<()>));
}

/// Panics when it is dropped.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("of the drop"));
    }
}

#[test]
fn subtask_panic_fails_the_connection() {
    let words = |words: &str| {
        format!(
            "pool tunnels: connection 1.1 from (1, Some(0)) on listener 1 failed after 0.000ns: {words}"
        )
    };
    let panicked = words("panicked: of the subtask");
    check_panic(How::Returns, panics, &panicked);
    // The first failure counts.
    check_panic(How::Fails, panics, &words("as requested"));
    let dropped = |_: &Bench, handed: Handed| {
        let fragile = Fragile;
        let future = async move {
            pending::<()>().await;
            drop(fragile);
        };
        let (another, stream) = (handed.guard.clone(), handed.stream);
        drop(another.run(future));
        drop((handed.guard, stream));
    };
    check_panic(How::Returns, dropped, &words("panicked: of the drop"));
}

/// A guard traps the stop: the connection ends when the test ends it (N2).
#[test]
fn guard_traps_the_stop() {
    let bench = Bench::new(How::Stays);
    let Handed {
        guard, lifecycle, ..
    } = bench.hands_on();
    let id = bench.pool.connections().unwrap()[0].id;
    bench.pool.stop_child(id).unwrap();
    bench.runtime.settle();
    assert!(lifecycle.trap_stop().is_set());
    assert_eq!(bench.states(), [ConnectionState::Serving]);
    drop(guard);
    bench.runtime.settle();
    assert_eq!(bench.states(), [ConnectionState::Serving]);
}

#[test]
fn guard_debug_shows_killed() {
    let bench = Bench::new(How::Returns);
    let Handed { guard, .. } = bench.hands_on();
    assert_eq!(format!("{guard:?}"), "Guard { killed: false, .. }");
    let subtask = guard.run(pending::<()>());
    assert!(format!("{subtask:?}").contains("killed: false"));
}

/// An inner stream that counts its calls, and is pending once.
#[derive(Default)]
struct Counted {
    calls: usize,
    ready: bool,
}

impl Counted {
    fn call(&mut self, bytes: usize) -> Poll<io::Result<usize>> {
        self.calls += 1;
        match self.ready {
            true => Poll::Ready(Ok(bytes)),
            false => Poll::Pending,
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().call(buffer.len())
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().call(buffer.len())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().call(0).map_ok(drop)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().call(0).map_ok(drop)
    }
}

type Operation = fn(&mut GuardedStream<Counted>, &mut Context<'_>) -> Poll<io::Result<usize>>;

/// Reads, reads into several buffers, writes, writes from several buffers, flushes, closes.
const OPERATIONS: [(Operation, usize); 6] = [
    (|stream, cx| Pin::new(stream).poll_read(cx, &mut [0; 3]), 3),
    (
        |stream, cx| {
            let (mut one, mut two) = ([0; 2], [0; 3]);
            let mut buffers = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
            Pin::new(stream).poll_read_vectored(cx, &mut buffers)
        },
        2,
    ),
    (|stream, cx| Pin::new(stream).poll_write(cx, &[0; 4]), 4),
    (
        |stream, cx| {
            let buffers = [IoSlice::new(&[0; 2]), IoSlice::new(&[0; 3])];
            Pin::new(stream).poll_write_vectored(cx, &buffers)
        },
        2,
    ),
    (
        |stream, cx| Pin::new(stream).poll_flush(cx).map_ok(|()| 0),
        0,
    ),
    (
        |stream, cx| Pin::new(stream).poll_close(cx).map_ok(|()| 0),
        0,
    ),
];

#[test]
fn guarded_stream_delegates_until_kill() {
    for (operation, bytes) in OPERATIONS {
        let bench = Bench::new(How::Returns);
        let handed = bench.hands_on();
        let id = bench.pool.connections().unwrap()[0].id;
        let mut stream = GuardedStream::new(Counted::default(), handed.guard);
        stream.get_mut().ready = true;
        let polled = block_on(poll_fn(|cx| operation(&mut stream, cx)));
        assert_eq!(polled.ok(), Some(bytes));
        stream.get_mut().ready = false;
        let (mut operates, mut polls) = (Some(stream), 0);
        let told = Arc::new(Mutex::new(None));
        let tells = Arc::clone(&told);
        bench.runtime.spawn(poll_fn(move |cx| {
            let stream = operates.as_mut().unwrap();
            polls += 1;
            let polled = operation(stream, cx);
            if let Poll::Ready(Err(error)) = polled {
                let calls = stream.get_ref().calls;
                // The kill woke the task, and the inner stream was not called again.
                *tells.lock().unwrap() = Some((error.kind(), calls, polls));
                drop(operates.take());
                return Poll::Ready(());
            }
            Poll::Pending
        }));
        bench.runtime.settle();
        assert_eq!(bench.states(), [ConnectionState::Guarded]);
        bench.pool.kill_child(id).unwrap();
        bench.runtime.settle();
        let aborted = (io::ErrorKind::ConnectionAborted, 2, 2);
        assert_eq!(*told.lock().unwrap(), Some(aborted));
        assert_eq!(bench.states(), []);
    }
}

/// Part of a stream: its connection is listed until it is dropped (E2).
struct Looks(PoolHandle<Manual, MemoryListener>);

impl Drop for Looks {
    fn drop(&mut self) {
        assert_eq!(self.0.counts().unwrap().connections, 1);
    }
}

#[test]
fn guarded_stream_is_dropped_before_its_guard() {
    let bench = Bench::new(How::Returns);
    let Handed { guard, stream, .. } = bench.hands_on();
    let history = bench.history.clone();
    let looks = Looks(bench.pool.handle());
    drop(GuardedStream::new((stream, looks), guard));
    assert_eq!((bench.states(), history.alive()), (vec![], 0));
}

#[test]
fn guarded_stream_into_parts() {
    let bench = Bench::new(How::Returns);
    let Handed { guard, stream, .. } = bench.hands_on();
    let guarded = GuardedStream::new(stream, guard);
    assert!(!guarded.guard().is_killed());
    assert!(format!("{guarded:?}").contains("killed: false"));
    let (stream, guard) = guarded.into_parts();
    drop(stream);
    assert_eq!(bench.states(), [ConnectionState::Guarded]);
    drop(guard);
    assert_eq!(bench.states(), []);
}
