//! Callbacks that are slow, or block their thread, delay no other child (B1, B5, S8).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{
    PATIENCE, Reports, SLACK, client, connect, echo, echo_spec, eventually, listen, listen_on,
    loopback, ping, runtime, soon,
};
use acceptor_tokio::{
    Acceptor, BoxError, Connection, EndKind, Event, Init, ListenOptions, ListenerInfo, Phase, Pool,
    Shutdown, Spec, TcpListener, TokioRuntime, acceptor_fn,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::sync::{Barrier, Notify};

/// Blocks a thread until its sender is dropped, as happens when the test fails.
struct Blockade(Arc<std::sync::Mutex<mpsc::Receiver<()>>>);

impl Blockade {
    fn new() -> (mpsc::Sender<()>, Self) {
        let (release, released) = mpsc::channel();
        (release, Self(Arc::new(std::sync::Mutex::new(released))))
    }
}

/// Runs a test whose pool has its own runtime of two threads. The test runs on another runtime, so that
/// its clients and timeouts do not depend on the blocked threads.
fn on_two_threads<F: Future<Output = ()>>(test: impl FnOnce(TokioRuntime) -> F) {
    let runtime = |mut builder: Builder| {
        let built = builder.worker_threads(2).enable_all().build();
        built.expect("a runtime can be built")
    };
    let theirs = runtime(Builder::new_multi_thread());
    let handle = TokioRuntime::from_handle(theirs.handle().clone());
    runtime(Builder::new_current_thread()).block_on(test(handle));
}

/// Answers `b` and blocks its thread if the client sends `b`; echoes otherwise.
fn blocks_when_asked(blockade: Blockade) -> Spec<impl Acceptor<TcpListener>> {
    let serve = move |mut connection: Connection| {
        let blockade = Arc::clone(&blockade.0);
        async move {
            let asked = connection.stream.read_u8().await?;
            connection.stream.write_u8(asked).await?;
            if asked == b'b' {
                let released = blockade.lock().expect("one connection blocks at a time");
                let _ = released.recv();
            }
            echo(&mut connection.stream).await
        }
    };
    Spec::new("blocks when asked", acceptor_fn(serve))
}

/// Blocks its thread in the first poll, before any await; the second connection echoes.
fn blocks_at_once(
    blockade: Blockade,
    blocking: Arc<AtomicUsize>,
) -> impl Acceptor<TcpListener, State = ()> {
    let connections = AtomicUsize::new(0);
    let serve = move |mut connection: Connection| {
        let nth = connections.fetch_add(1, Ordering::SeqCst);
        let (blockade, blocking) = (Arc::clone(&blockade.0), Arc::clone(&blocking));
        async move {
            if nth % 2 == 0 {
                let released = blockade.lock().expect("one connection blocks at a time");
                blocking.fetch_add(1, Ordering::SeqCst);
                let _ = released.recv();
                return Ok(());
            }
            echo(&mut connection.stream).await
        }
    };
    acceptor_fn(serve)
}

/// The same acceptor, with an `init` that suspends once, and is counted when it finishes.
struct WithInit<A>(A, Arc<AtomicUsize>);

impl<A: Acceptor<TcpListener, State = ()>> Acceptor<TcpListener> for WithInit<A> {
    type State = ();
    type Exit = A::Exit;

    async fn init(&self, _listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        tokio::task::yield_now().await;
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection, state: ()) -> A::Exit {
        self.0.serve(connection, state).await
    }
}

#[derive(Clone, Copy)]
enum Prepared {
    Without,
    WithInit,
}

/// Whether a listener is on the pool's runtime.
#[derive(Clone, Copy)]
enum Listens {
    OnThePools,
    OnItsOwn,
}

/// In each round one connection immediately blocks one of the two threads, and the next is served anyway.
async fn check_blocking(
    theirs: TokioRuntime,
    listens: Listens,
    prepared: Prepared,
    acceptors: usize,
) {
    let of_the_pool = match listens {
        Listens::OnThePools => theirs.clone(),
        Listens::OnItsOwn => runtime(),
    };
    let (release, blockade) = Blockade::new();
    let blocking = Arc::new(AtomicUsize::new(0));
    let inits = Arc::new(AtomicUsize::new(0));
    let acceptor = blocks_at_once(blockade, Arc::clone(&blocking));
    let pool = match prepared {
        Prepared::Without => Pool::start(of_the_pool, Spec::new("blocks at once", acceptor)),
        Prepared::WithInit => {
            let acceptor = WithInit(acceptor, Arc::clone(&inits));
            Pool::start(of_the_pool, Spec::new("blocks at once", acceptor))
        }
    };
    let pool = pool.expect("the spec is allowed");
    let socket = ListenOptions::new(loopback()).bind().unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, &theirs).unwrap();
    pool.add_listener_on(&theirs, listener, acceptors).unwrap();
    for round in 0..100 {
        let blocked = connect(address).await;
        let blocks = || blocking.load(Ordering::SeqCst) == round + 1;
        eventually("a connection blocks", blocks).await;
        if let Prepared::WithInit = prepared {
            let all = acceptors + 2 * round + 1;
            let through = || inits.load(Ordering::SeqCst) == all;
            eventually("its replacement has finished `init`", through).await;
        }
        drop(client(address).await);
        release.send(()).expect("the pool runs");
        drop(blocked);
        eventually("both have left", || pool.counts().unwrap().connections == 0).await;
    }
    assert_eq!(pool.listeners().unwrap()[0].accepted, 200);
    assert_eq!(soon("the stop ends", pool.stop()).await.stuck, 0);
}

fn check_blocking_on_two_threads(prepared: Prepared, acceptors: usize) {
    for listens in [Listens::OnThePools, Listens::OnItsOwn] {
        on_two_threads(|theirs| check_blocking(theirs, listens, prepared, acceptors));
    }
}

#[test]
fn blocking_serve_spares_its_replacement() {
    check_blocking_on_two_threads(Prepared::Without, 1);
}

#[test]
fn blocking_serve_spares_the_next_acceptor() {
    check_blocking_on_two_threads(Prepared::Without, 2);
}

#[test]
fn blocking_serve_spares_replacement_init() {
    check_blocking_on_two_threads(Prepared::WithInit, 1);
}

#[test]
fn blocking_serve_spares_next_and_init() {
    check_blocking_on_two_threads(Prepared::WithInit, 2);
}

#[test]
fn blocking_child_is_reported_stuck() {
    on_two_threads(check_stuck);
}

async fn check_stuck(theirs: TokioRuntime) {
    let (release, blockade) = Blockade::new();
    let (shutdown, patience) = (Duration::from_millis(200), Duration::from_millis(300));
    let reports = Reports::default();
    let spec = blocks_when_asked(blockade)
        .shutdown(shutdown)
        .kill_timeout(patience);
    let pool = Pool::start(theirs.clone(), spec.observer(reports.observer())).unwrap();
    let (_, address) = listen_on(&pool, &theirs, loopback(), 1);
    let (mut blocked, idle) = (connect(address).await, client(address).await);
    blocked.write_u8(b'b').await.unwrap();
    soon("the connection blocks", blocked.read_u8())
        .await
        .unwrap();
    let report = soon("the stop ends anyway", pool.stop()).await;
    assert_eq!(report.stuck, 1, "{report}");
    assert_eq!(
        report.connections(Phase::Stop).of(EndKind::Stopped),
        1,
        "{report}"
    );
    assert_eq!(report.all_connections().total(), 1, "{report}");
    let phases = shutdown + patience;
    assert!(
        report.elapsed >= phases,
        "{:?} is shorter than {phases:?}",
        report.elapsed
    );
    assert!(
        report.elapsed <= phases + SLACK,
        "{:?} is longer than {phases:?}",
        report.elapsed
    );
    let stuck = |event: &Event<_>| matches!(event, Event::Stuck { count: 1, .. });
    assert_eq!(reports.count(stuck), 1, "{:?}", reports.all());
    assert_eq!(reports.all().len(), 1, "{:?}", reports.all());
    // When it finally suspends it is dropped, and nothing more is reported.
    drop(release);
    let mut rest = Vec::new();
    let _ = soon("the socket is closed", blocked.read_to_end(&mut rest)).await;
    assert_eq!(reports.all().len(), 1, "{:?}", reports.all());
    assert_eq!(pool.stop().await, report);
    drop(idle);
}

#[test]
fn brutal_stop_waits_for_kill_timeout() {
    on_two_threads(check_brutal);
}

async fn check_brutal(theirs: TokioRuntime) {
    let (_release, blockade) = Blockade::new();
    let patience = Duration::from_millis(300);
    let spec = blocks_when_asked(blockade)
        .shutdown(Shutdown::Kill)
        .kill_timeout(patience);
    let pool = Pool::start(theirs.clone(), spec).unwrap();
    let (_, address) = listen_on(&pool, &theirs, loopback(), 1);
    let mut blocked = connect(address).await;
    blocked.write_u8(b'b').await.unwrap();
    soon("the connection blocks", blocked.read_u8())
        .await
        .unwrap();
    let report = soon("the stop ends anyway", pool.stop()).await;
    assert_eq!(report.stuck, 1, "{report}");
    assert!(
        report.elapsed >= patience,
        "{:?} is shorter than {patience:?}",
        report.elapsed
    );
    assert!(
        report.elapsed <= patience + SLACK,
        "{:?} is longer than {patience:?}",
        report.elapsed
    );
}

/// An acceptor with the given `init`.
struct Prepares<F>(F);

impl<F, Fut> Acceptor<TcpListener> for Prepares<F>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        let id = listener.child.to_string();
        let (_, number) = id
            .split_once('.')
            .expect("an id is displayed as two numbers");
        (self.0)(number.parse().expect("the parts of an id are numbers")).await;
        Ok(Init::Accept(()))
    }

    async fn serve(&self, mut connection: Connection, _state: ()) -> Result<(), BoxError> {
        echo(&mut connection.stream).await
    }
}

#[tokio::test]
async fn inits_run_concurrently() {
    const ACCEPTORS: usize = 100;
    // No `init` finishes before all have begun.
    let all = Arc::new(Barrier::new(ACCEPTORS));
    let init = move |number| {
        let all = Arc::clone(&all);
        async move {
            if number <= ACCEPTORS {
                all.wait().await;
            }
        }
    };
    let pool = Pool::start(runtime(), Spec::new("together", Prepares(init))).unwrap();
    let (_, address) = listen(&pool, ACCEPTORS);
    let mut client = client(address).await;
    ping(&mut client).await;
}

/// The first byte of a connection arrives while the `init` of its replacement blocks one of the two threads.
#[test]
fn blocking_init_delays_no_connection() {
    on_two_threads(check_blocking_init);
}

async fn check_blocking_init(theirs: TokioRuntime) {
    const ACCEPTORS: usize = 2;
    let (release, blockade) = Blockade::new();
    let (begun, through) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begins, ends) = (Arc::clone(&begun), Arc::clone(&through));
    let init = move |number| {
        let (blockade, begins, ends) = (
            Arc::clone(&blockade.0),
            Arc::clone(&begins),
            Arc::clone(&ends),
        );
        async move {
            begins.fetch_add(1, Ordering::SeqCst);
            if number > ACCEPTORS {
                let released = blockade.lock().expect("one init blocks at a time");
                let _ = released.recv();
            }
            ends.fetch_add(1, Ordering::SeqCst);
        }
    };
    let pool = Pool::start(theirs.clone(), Spec::new("blocks", Prepares(init))).unwrap();
    let (_, address) = listen_on(&pool, &theirs, loopback(), ACCEPTORS);
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    eventually("both wait", || count(&through) == ACCEPTORS).await;
    for round in 0..100 {
        let mut client = client(address).await;
        eventually("the init of the replacement blocks", || {
            count(&begun) == ACCEPTORS + round + 1
        })
        .await;
        ping(&mut client).await;
        assert_eq!(
            count(&through),
            ACCEPTORS + round,
            "the `init` did not block"
        );
        release.send(()).expect("the pool runs");
        eventually("the `init` finishes", || count(&through) == count(&begun)).await;
    }
    assert_eq!(soon("the stop ends", pool.stop()).await.stuck, 0);
}

#[tokio::test]
async fn endless_init_delays_nothing() {
    let begun = Arc::new(Notify::new());
    let init = {
        let begun = Arc::clone(&begun);
        move |number| {
            let begun = Arc::clone(&begun);
            async move {
                if number == 1 {
                    begun.notify_one();
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    let spec = Spec::new("one is slow", Prepares(init)).shutdown(PATIENCE * 2);
    let pool = Pool::start(runtime(), spec).unwrap();
    let (_, address) = listen(&pool, 2);
    soon("the slow init begins", begun.notified()).await;
    for _ in 0..10 {
        drop(client(address).await);
    }
    let report = soon("the stop ends", pool.stop()).await;
    assert_eq!(report.all_acceptors().of(EndKind::Stopped), 2, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_connection_delays_no_accept() {
    let pool = Pool::start(runtime(), echo_spec()).unwrap();
    let (_, address) = listen(&pool, 1);
    // One acceptor serves any number of concurrent connections.
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(client(address).await);
    }
    for client in &mut clients {
        ping(client).await;
    }
    assert_eq!(pool.counts().unwrap().connections, 50);
}
