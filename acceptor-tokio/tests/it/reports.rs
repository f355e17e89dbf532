//! Reports on real threads: a blocked observer delays no client, close or kill, and may wait for the pool (O1, O2, L8).

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE, SLACK, client, connect, echo, eventually, listen, loopback, ping, runtime, soon,
};
use acceptor_tokio::{
    AcceptErrorKind, Acceptor, Connection, Event, ListenOptions, Listener, NoHandshake, Pool,
    PoolHandle, Report, Spec, StopReport, TcpListener, acceptor_fn, observer_fn,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

const KILL_TIMEOUT: Duration = Duration::from_millis(500);

/// Echoes; a connection whose first byte is `f` fails.
fn fails_on_request(failed: &Arc<AtomicUsize>) -> Spec<impl Acceptor<TcpListener>> {
    let failed = Arc::clone(failed);
    let serve = move |mut connection: Connection| {
        let failed = Arc::clone(&failed);
        async move {
            let mut first = [0];
            connection.stream.peek(&mut first).await?;
            if first == *b"f" {
                failed.fetch_add(1, Ordering::SeqCst);
                return Err("failed on request".into());
            }
            echo(&mut connection.stream).await
        }
    };
    Spec::new("fails on request", acceptor_fn(serve)).kill_timeout(KILL_TIMEOUT)
}

/// An observer that blocks its thread at the first report, until the sender is dropped.
struct Blocked {
    release: mpsc::Sender<()>,
    entered: Arc<AtomicUsize>,
}

impl Blocked {
    fn new() -> (Self, impl Fn(&Report) + Send + Sync + 'static) {
        let (release, released) = mpsc::channel();
        let (entered, released) = (Arc::new(AtomicUsize::new(0)), Mutex::new(released));
        let enters = Arc::clone(&entered);
        let observer = move |_: &Report| {
            enters.fetch_add(1, Ordering::SeqCst);
            let _ = released.lock().unwrap().recv();
        };
        (Self { release, entered }, observer)
    }

    fn calls(&self) -> usize {
        self.entered.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn blocked_observer_delays_nothing() {
    const FAILURES: usize = 5000;
    let failed = Arc::new(AtomicUsize::new(0));
    let (blocked, observer) = Blocked::new();
    let pool = Pool::start(
        runtime(),
        fails_on_request(&failed).observer(observer_fn(observer)),
    )
    .unwrap();
    let (_, failing) = listen(&pool, 4);
    let (innocent, address) = listen(&pool, 2);
    let mut first = client(address).await;
    for number in 1..=FAILURES {
        let mut client = connect(failing).await;
        client.write_all(b"f").await.unwrap();
        drop(client);
        if number % 100 == 0 {
            ping(&mut first).await;
            drop(crate::support::client(address).await);
            // The system's queue must not overflow.
            let all = || failed.load(Ordering::SeqCst) == number;
            eventually("the connections have failed", all).await;
        }
    }
    assert_eq!(blocked.calls(), 1, "the observer stays blocked");
    let closed = soon("the listener closes", pool.close_listener(innocent)).await;
    assert_eq!(closed, Ok(()));
    ping(&mut first).await;
    let began = Instant::now();
    let report = soon("the kill ends", pool.kill()).await;
    let took = began.elapsed();
    assert!(took >= KILL_TIMEOUT, "{took:?}");
    assert!(took <= KILL_TIMEOUT + SLACK, "{took:?}");
    // All but the one that the observer handles, and that of the kills.
    assert_eq!((report.stuck, report.undelivered), (0, FAILURES as u64));
    assert_eq!(blocked.calls(), 1);
    drop(blocked.release);
}

/// Unparks the waiting thread.
struct Unparks(Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread, which the runtime's own `block_on` refuses to do within the runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Checks an observer that blocks its thread until this call returns.
async fn check_waits_inside<F>(call: fn(&PoolHandle) -> F)
where
    F: Future<Output = StopReport> + Send + 'static,
{
    let handle = Arc::<OnceLock<PoolHandle>>::default();
    let (results, result) = mpsc::channel();
    let (inside, results) = (Arc::clone(&handle), Mutex::new(results));
    let observer = move |_: &Report| {
        let waits = call(inside.get().expect("the handle is set first"));
        let _ = results.lock().unwrap().send(());
        let _ = block_on(waits);
        let _ = results.lock().unwrap().send(());
    };
    let spec = fails_on_request(&Arc::default()).observer(observer_fn(observer));
    let pool = Pool::start(runtime(), spec).unwrap();
    assert!(handle.set(pool.handle()).is_ok());
    let (_, address) = listen(&pool, 2);
    let mut client = connect(address).await;
    client.write_all(b"f").await.unwrap();
    let waits = tokio::task::spawn_blocking(move || {
        result
            .recv_timeout(PATIENCE)
            .expect("the observer is called");
        result
    });
    let result = waits.await.unwrap();
    // For an observer that waits for a stop by another caller.
    let stopped = soon("the pool ends", pool.stop()).await;
    assert_eq!(stopped.stuck, 0, "{stopped}");
    let returns = tokio::task::spawn_blocking(move || result.recv_timeout(PATIENCE));
    assert_eq!(returns.await.unwrap(), Ok(()), "the observer hangs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observer_may_wait_for_its_pool() {
    check_waits_inside(|pool| pool.stop()).await;
    check_waits_inside(|pool| pool.kill()).await;
    check_waits_inside(|pool| pool.join()).await;
}

/// A listener that fails when it is notified.
struct Fragile {
    listener: TcpListener,
    fails: Arc<Notify>,
}

impl Listener for Fragile {
    type Io = TcpStream;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        tokio::select! {
            accepted = self.listener.accept() => accepted,
            () = self.fails.notified() => Err(io::ErrorKind::Other.into()),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn io_local_addr(stream: &TcpStream) -> io::Result<SocketAddr> {
        TcpListener::io_local_addr(stream)
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn classify(&self, _: &io::Error) -> Option<AcceptErrorKind> {
        Some(AcceptErrorKind::Listener)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_address_can_be_bound_on_report() {
    let bound = Arc::<Mutex<Vec<io::Result<SocketAddr>>>>::default();
    let binds = Arc::clone(&bound);
    let observer = move |report: &Report| {
        if let Event::ListenerFailed { local_addr, .. } = &report.event {
            let socket = ListenOptions::new(*local_addr).bind();
            let address = socket.map_err(io::Error::other);
            let address = address.and_then(|socket| socket.local_addr());
            binds.lock().unwrap().push(address);
        }
    };
    let serve = |mut connection: Connection| async move { echo(&mut connection.stream).await };
    let spec = Spec::new("fragile", acceptor_fn(serve));
    let pool = Pool::<Fragile>::start(runtime(), spec.observer(observer_fn(observer))).unwrap();
    for _ in 0..100 {
        let socket = ListenOptions::new(loopback()).bind().unwrap();
        let address = socket.local_addr().unwrap();
        let fails = Arc::new(Notify::new());
        let fragile = Fragile {
            listener: TcpListener::from_std(socket, &runtime()).unwrap(),
            fails: Arc::clone(&fails),
        };
        pool.add_listener(fragile, 2).unwrap();
        let mut client = client(address).await;
        fails.notify_one();
        eventually("the failure is reported", || {
            !bound.lock().unwrap().is_empty()
        })
        .await;
        let last = bound.lock().unwrap().pop().unwrap();
        assert_eq!(last.expect("the address is free"), address);
        // Its connections continue.
        ping(&mut client).await;
    }
    soon("the stop ends", pool.stop()).await;
}
