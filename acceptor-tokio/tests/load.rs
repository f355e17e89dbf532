//! 10,000 connections through two listeners, one of which is repeatedly closed and added again: each is served once, and nothing is left.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

#[path = "it/support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use acceptor_tokio::{
    Acceptor, BoxError, Connection, EndKind, Exit, Init, ListenerInfo, Phase, Pool, Restart, Spec,
    Status, StopReason, TcpListener, Terminate,
};
use socket2::SockRef;
use support::{PATIENCE, eventually, gone, listen, listen_on, runtime, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 10_000;
const CLIENTS: usize = 50;
const IDLE: usize = 10;

/// The server's history. Each attempt of a client has its own number.
struct History {
    served: Vec<AtomicUsize>,
    attempts: AtomicUsize,
    done: AtomicUsize,
    refused: AtomicUsize,
    prepared: AtomicUsize,
    became: AtomicUsize,
    timed_out: AtomicUsize,
    closed: AtomicUsize,
    stopped: AtomicUsize,
    /// Each acceptor's state is a clone of it.
    state: Arc<()>,
}

impl History {
    fn new() -> Arc<Self> {
        let zero = AtomicUsize::default;
        Arc::new(Self {
            served: std::iter::repeat_with(zero)
                .take(20 * CONNECTIONS)
                .collect(),
            attempts: zero(),
            done: zero(),
            refused: zero(),
            prepared: zero(),
            became: zero(),
            timed_out: zero(),
            closed: zero(),
            stopped: zero(),
            state: Arc::new(()),
        })
    }

    fn served(&self, number: usize) -> usize {
        self.served[number].load(Ordering::SeqCst)
    }

    fn number(&self) -> usize {
        self.attempts.fetch_add(1, Ordering::SeqCst)
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn counted(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

/// How a connection ends, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Normal,
    Clean,
    Error,
    Panic,
    ClientLeaves,
}

impl Way {
    fn of(number: usize) -> Self {
        let ways = [
            Self::Normal,
            Self::Clean,
            Self::Error,
            Self::Panic,
            Self::ClientLeaves,
        ];
        ways[number % ways.len()]
    }
}

struct Serves {
    history: Arc<History>,
    accept_timeout: Duration,
}

impl Acceptor<TcpListener> for Serves {
    type State = Arc<()>;
    type Exit = Result<Exit, BoxError>;

    async fn init(
        &self,
        _listener: &ListenerInfo<SocketAddr>,
    ) -> Result<Init<Self::State>, BoxError> {
        count(&self.history.prepared);
        let state = Arc::clone(&self.history.state);
        Ok(Init::AcceptWithin(state, self.accept_timeout))
    }

    async fn serve(&self, connection: Connection, _state: Self::State) -> Result<Exit, BoxError> {
        count(&self.history.became);
        let mut stream = connection.stream;
        let number = stream.read_u64().await?;
        let way = usize::try_from(number).map(|number| {
            count(&self.history.served[number]);
            Way::of(number)
        })?;
        stream.write_u64(number).await?;
        match way {
            Way::Normal => Ok(Exit::normal()),
            Way::Clean => Ok(Exit::clean("on request")),
            Way::Error => Err("an error, on request".into()),
            // A panic that bypasses the hook, which would print each of them.
            Way::Panic => std::panic::resume_unwind(Box::new("a panic, on request")),
            Way::ClientLeaves => {
                let _ = stream.read_u8().await;
                Ok(Exit::normal())
            }
        }
    }

    async fn terminate(&self, reason: &Terminate, _state: Self::State) {
        match reason {
            Terminate::Timeout => count(&self.history.timed_out),
            Terminate::Closed => count(&self.history.closed),
            Terminate::Stopped => count(&self.history.stopped),
            reason => panic!("unexpected reason to terminate: {reason}"),
        }
    }
}

/// Sends a new number and gets it back.
async fn attempt(history: &History, address: SocketAddr) -> Result<(usize, TcpStream), usize> {
    let number = history.number();
    let exchange = async {
        let mut client = TcpStream::connect(address).await?;
        client.write_u64(number as u64).await?;
        let back = client.read_u64().await?;
        assert_eq!(back, number as u64, "the answer belongs to another client");
        std::io::Result::Ok(client)
    };
    exchange
        .await
        .map(|client| (number, client))
        .map_err(|_| number)
}

/// One connection to a listener that stays open.
async fn to_steady(history: &History, address: SocketAddr) {
    match attempt(history, address).await {
        Ok((number, client)) => leave(number, client).await,
        Err(number) => panic!("connection {number} was lost"),
    }
}

/// One connection to a listener that is closed repeatedly: a refused client was never served.
async fn to_reopened(history: &History, address: SocketAddr) {
    loop {
        match attempt(history, address).await {
            Ok((number, client)) => return leave(number, client).await,
            Err(number) => {
                assert_eq!(
                    history.served(number),
                    0,
                    "connection {number} was served and lost"
                );
                count(&history.refused);
                // There is no notification for an open listener: the client retries until it connects.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn leave(number: usize, mut client: TcpStream) {
    if Way::of(number) == Way::ClientLeaves {
        // With a reset, like an impatient client.
        let linger = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        linger.expect("the option is supported");
    } else {
        gone(&mut client).await;
    }
}

/// The invariants that hold at all times (Q3); the connections are listed after the counts, while others come and go.
fn check_status(status: &Status<SocketAddr>, acceptors: usize) {
    let waiting: usize = status
        .listeners
        .iter()
        .map(|listener| listener.acceptors)
        .sum();
    for listener in &status.listeners {
        assert_eq!(listener.acceptors, acceptors, "{listener}");
    }
    let listed: HashSet<_> = status.connections.iter().map(|c| c.id).collect();
    assert_eq!(listed.len(), status.connections.len(), "listed twice");
    assert!(status.counts.acceptors >= waiting, "{}", status.counts);
}

async fn load(acceptors: usize, accept_timeout: Duration) {
    let history = History::new();
    let serves = Serves {
        history: Arc::clone(&history),
        accept_timeout,
    };
    let spec = Spec::new("load", serves).restart(Restart::Transient);
    let spec = spec.intensity(u32::MAX).period(Duration::from_secs(3600));
    let pool = Pool::start(runtime(), spec).expect("the spec is allowed");
    let (steady, steady_address) = listen(&pool, acceptors);
    let (mut reopened, reopened_address) = listen(&pool, acceptors);

    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let history = Arc::clone(&history);
        clients.spawn(async move {
            for nth in 0..CONNECTIONS / CLIENTS {
                if (client + nth) % 2 == 0 {
                    soon("the client is served", to_steady(&history, steady_address)).await;
                } else {
                    soon(
                        "the client is served",
                        to_reopened(&history, reopened_address),
                    )
                    .await;
                }
                count(&history.done);
            }
        });
    }
    for part in 1..5 {
        let reached = || counted(&history.done) >= part * CONNECTIONS / 5;
        soon("the clients continue", async {
            while !reached() {
                check_status(&pool.status().expect("the pool runs"), acceptors);
                // The interval between two checks, in which the clients continue.
                tokio::time::sleep(Duration::from_millis(2)).await;
                // Reports the failure of a client rather than the timeout.
                if let Some(Err(failed)) = clients.try_join_next() {
                    std::panic::resume_unwind(failed.into_panic());
                }
            }
        })
        .await;
        soon("the listener closes", pool.close_listener(reopened))
            .await
            .expect("the listener is open");
        (reopened, _) = listen_on(&pool, &runtime(), reopened_address, acceptors);
    }
    while let Some(client) = soon("the clients end", clients.join_next()).await {
        client.expect("each client is served");
    }
    eventually("the last client has left", || {
        pool.counts().unwrap().connections == 0
    })
    .await;
    eventually("the closed listeners' acceptors have ended", || {
        pool.counts().unwrap().children() == 2 * acceptors
    })
    .await;

    // Each connection was served once, each refused attempt never.
    let attempts = counted(&history.attempts);
    let (refused, became) = (counted(&history.refused), counted(&history.became));
    assert_eq!(attempts, CONNECTIONS + refused);
    let of = |times| {
        (0..attempts)
            .filter(|&number| history.served(number) == times)
            .count()
    };
    assert_eq!((of(0), of(1)), (refused, CONNECTIONS));
    let failing = |&number: &usize| {
        history.served(number) == 1 && matches!(Way::of(number), Way::Error | Way::Panic)
    };
    let status = pool.status().unwrap();
    assert_eq!(status.failures, (0..attempts).filter(failing).count());
    check_status(&status, acceptors);
    assert_eq!(
        (status.counts.connections, &status.connections[..]),
        (0, &[][..])
    );
    let of_steady = status
        .listeners
        .iter()
        .find(|listener| listener.id == steady);
    assert_eq!(of_steady.unwrap().accepted, CONNECTIONS as u64 / 2);
    assert_eq!(
        (of_steady.unwrap().skipped, of_steady.unwrap().pauses),
        (0, 0)
    );
    assert_eq!(status.listeners.len(), 2);
    eventually("acceptors time out", || counted(&history.timed_out) > 0).await;

    // A few clients that stay, and the stop.
    let mut idle = Vec::new();
    while idle.len() < IDLE {
        let address = [steady_address, reopened_address][idle.len() % 2];
        let (number, client) = soon("the client is served", attempt(&history, address))
            .await
            .unwrap();
        if Way::of(number) == Way::ClientLeaves {
            idle.push(client);
        } else {
            leave(number, client).await;
        }
    }
    eventually("only these connections remain", || {
        pool.counts().unwrap().connections == IDLE
    })
    .await;
    let mut listed: Vec<_> = pool
        .connections()
        .unwrap()
        .iter()
        .map(|c| c.peer_addr)
        .collect();
    let mut expected: Vec<_> = idle.iter().map(|c| c.local_addr().unwrap()).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    let report = soon("the stop ends", pool.stop()).await;
    assert_eq!(report.reason, StopReason::Requested);
    assert_eq!(
        report.connections(Phase::Stop).of(EndKind::Stopped),
        IDLE,
        "{report}"
    );
    assert_eq!(report.all_connections().total(), IDLE, "{report}");
    // Acceptors that time out while the listeners close are replaced; those that time out as the sockets close are not.
    let ended = report.all_acceptors();
    let (stopped, timed_out) = (ended.of(EndKind::Stopped), ended.of(EndKind::Normal));
    assert!(ended.total() >= 2 * acceptors, "{report}");
    assert_eq!(ended.total(), stopped + timed_out, "{report}");
    assert_eq!(report.stuck, 0, "{report}");
    for client in &mut idle {
        gone(client).await;
    }

    // Each state was passed to a connection or terminated, and is dropped.
    let terminated = [&history.timed_out, &history.closed, &history.stopped].map(counted);
    let became_idle = counted(&history.became);
    assert!(became_idle >= became + IDLE);
    let ended: usize = terminated.iter().sum();
    assert_eq!(
        counted(&history.prepared),
        became_idle + ended,
        "{terminated:?}"
    );
    assert_eq!(Arc::strong_count(&history.state), 1, "a state is left");
    println!(
        "{acceptors} acceptors: {refused} attempts refused while closed, {} accept timeouts",
        terminated[0]
    );
}

/// The open descriptors of the process.
fn descriptors() -> Vec<PathBuf> {
    let listed = std::fs::read_dir("/proc/self/fd").expect("the system lists descriptors");
    let targets = listed.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.collect()
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.worker_threads(2).enable_all();
    builder.build().expect("a runtime can be built")
}

// The only test of this program, because it counts the descriptors of the process.
#[test]
fn load_of_10_000_leaks_no_descriptor() {
    // Tokio's first runtime opens two sockets for signals, which the process keeps.
    drop(tokio_runtime());
    let before = descriptors();
    for (acceptors, accept_timeout) in [(1, 1), (10, 5), (1_000, 500)] {
        let began = Instant::now();
        let runtime = tokio_runtime();
        runtime.block_on(load(acceptors, Duration::from_millis(accept_timeout)));
        runtime.shutdown_timeout(PATIENCE);
        println!("{acceptors} acceptors: {:?}", began.elapsed());
        let after = descriptors();
        assert_eq!(
            after.len(),
            before.len(),
            "before: {before:?}\nafter: {after:?}"
        );
    }
}
