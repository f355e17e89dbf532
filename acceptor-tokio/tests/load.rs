//! 10,000 connections through two listeners, one of which is closed and added again meanwhile: each is served once, and nothing is left.
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

/// What was seen on the server's side. Each attempt of a client has a number of its own.
struct Ledger {
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

impl Ledger {
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
    ledger: Arc<Ledger>,
    accept_timeout: Duration,
}

impl Acceptor<TcpListener> for Serves {
    type State = Arc<()>;
    type Exit = Result<Exit, BoxError>;

    async fn init(
        &self,
        _listener: &ListenerInfo<SocketAddr>,
    ) -> Result<Init<Self::State>, BoxError> {
        count(&self.ledger.prepared);
        let state = Arc::clone(&self.ledger.state);
        Ok(Init::AcceptWithin(state, self.accept_timeout))
    }

    async fn serve(&self, connection: Connection, _state: Self::State) -> Result<Exit, BoxError> {
        count(&self.ledger.became);
        let mut stream = connection.stream;
        let number = stream.read_u64().await?;
        let way = usize::try_from(number).map(|number| {
            count(&self.ledger.served[number]);
            Way::of(number)
        })?;
        stream.write_u64(number).await?;
        match way {
            Way::Normal => Ok(Exit::normal()),
            Way::Clean => Ok(Exit::clean("as was asked for")),
            Way::Error => Err("an error, as was asked for".into()),
            // A panic, without the hook that would print each of them.
            Way::Panic => std::panic::resume_unwind(Box::new("a panic, as was asked for")),
            Way::ClientLeaves => {
                let _ = stream.read_u8().await;
                Ok(Exit::normal())
            }
        }
    }

    async fn terminate(&self, reason: &Terminate, _state: Self::State) {
        match reason {
            Terminate::Timeout => count(&self.ledger.timed_out),
            Terminate::Closed => count(&self.ledger.closed),
            Terminate::Stopped => count(&self.ledger.stopped),
            reason => panic!("terminated for another reason: {reason}"),
        }
    }
}

/// Sends a new number and gets it back.
async fn attempt(ledger: &Ledger, address: SocketAddr) -> Result<(usize, TcpStream), usize> {
    let number = ledger.number();
    let exchange = async {
        let mut client = TcpStream::connect(address).await?;
        client.write_u64(number as u64).await?;
        let back = client.read_u64().await?;
        assert_eq!(back, number as u64, "the answer is another's");
        std::io::Result::Ok(client)
    };
    exchange
        .await
        .map(|client| (number, client))
        .map_err(|_| number)
}

/// One connection to a listener that is open all the time.
async fn to_steady(ledger: &Ledger, address: SocketAddr) {
    match attempt(ledger, address).await {
        Ok((number, client)) => leave(number, client).await,
        Err(number) => panic!("connection {number} was lost"),
    }
}

/// One connection to a listener that is closed now and then: what the system refuses was never served.
async fn to_reopened(ledger: &Ledger, address: SocketAddr) {
    loop {
        match attempt(ledger, address).await {
            Ok((number, client)) => return leave(number, client).await,
            Err(number) => {
                assert_eq!(
                    ledger.served(number),
                    0,
                    "connection {number} was served and lost"
                );
                count(&ledger.refused);
                // There is no signal for a free address: the client tries until it is.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn leave(number: usize, mut client: TcpStream) {
    if Way::of(number) == Way::ClientLeaves {
        // With a reset, as an impatient client does.
        let linger = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        linger.expect("the option is known");
    } else {
        gone(&mut client).await;
    }
}

/// What holds at every moment (Q3); the list of connections is read after the counts, while more come and go.
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
    let ledger = Ledger::new();
    let serves = Serves {
        ledger: Arc::clone(&ledger),
        accept_timeout,
    };
    let spec = Spec::new("load", serves).restart(Restart::Transient);
    let spec = spec.intensity(u32::MAX).period(Duration::from_secs(3600));
    let pool = Pool::start(runtime(), spec).expect("the spec is allowed");
    let (steady, steady_address) = listen(&pool, acceptors);
    let (mut reopened, reopened_address) = listen(&pool, acceptors);

    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let ledger = Arc::clone(&ledger);
        clients.spawn(async move {
            for nth in 0..CONNECTIONS / CLIENTS {
                if (client + nth) % 2 == 0 {
                    soon("it is served", to_steady(&ledger, steady_address)).await;
                } else {
                    soon("it is served", to_reopened(&ledger, reopened_address)).await;
                }
                count(&ledger.done);
            }
        });
    }
    for part in 1..5 {
        let reached = || counted(&ledger.done) >= part * CONNECTIONS / 5;
        soon("the clients go on", async {
            while !reached() {
                check_status(&pool.status().expect("the pool runs"), acceptors);
                // The pace of the looks: between two of them the clients go on.
                tokio::time::sleep(Duration::from_millis(2)).await;
                // A client that failed is the failure to show, not the timeout.
                if let Some(Err(failed)) = clients.try_join_next() {
                    std::panic::resume_unwind(failed.into_panic());
                }
            }
        })
        .await;
        soon("the listener closes", pool.close_listener(reopened))
            .await
            .expect("it is open");
        (reopened, _) = listen_on(&pool, &runtime(), reopened_address, acceptors);
    }
    while let Some(client) = soon("the clients end", clients.join_next()).await {
        client.expect("each client is served");
    }
    eventually("the last has left", || {
        pool.counts().unwrap().connections == 0
    })
    .await;
    eventually("the closed listeners' acceptors have ended", || {
        pool.counts().unwrap().children() == 2 * acceptors
    })
    .await;

    // Each connection that was made was served once; of those refused, none.
    let attempts = counted(&ledger.attempts);
    let (refused, became) = (counted(&ledger.refused), counted(&ledger.became));
    assert_eq!(attempts, CONNECTIONS + refused);
    let of = |times| {
        (0..attempts)
            .filter(|&number| ledger.served(number) == times)
            .count()
    };
    assert_eq!((of(0), of(1)), (refused, CONNECTIONS));
    let failing = |&number: &usize| {
        ledger.served(number) == 1 && matches!(Way::of(number), Way::Error | Way::Panic)
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
    eventually("acceptors time out", || counted(&ledger.timed_out) > 0).await;

    // A few that stay, and the stop.
    let mut idle = Vec::new();
    while idle.len() < IDLE {
        let address = [steady_address, reopened_address][idle.len() % 2];
        let (number, client) = soon("it is served", attempt(&ledger, address))
            .await
            .unwrap();
        if Way::of(number) == Way::ClientLeaves {
            idle.push(client);
        } else {
            leave(number, client).await;
        }
    }
    eventually("only these are left", || {
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
    // Those that time out while the listeners close are replaced; those that do as the sockets close are not.
    let ended = report.all_acceptors();
    let (stopped, timed_out) = (ended.of(EndKind::Stopped), ended.of(EndKind::Normal));
    assert!(ended.total() >= 2 * acceptors, "{report}");
    assert_eq!(ended.total(), stopped + timed_out, "{report}");
    assert_eq!(report.stuck, 0, "{report}");
    for client in &mut idle {
        gone(client).await;
    }

    // Each state that was prepared went to a connection or was terminated, and is gone.
    let terminated = [&ledger.timed_out, &ledger.closed, &ledger.stopped].map(counted);
    let became_idle = counted(&ledger.became);
    assert!(became_idle >= became + IDLE);
    let ended: usize = terminated.iter().sum();
    assert_eq!(
        counted(&ledger.prepared),
        became_idle + ended,
        "{terminated:?}"
    );
    assert_eq!(Arc::strong_count(&ledger.state), 1, "a state is left");
    println!(
        "{acceptors} acceptors: {refused} attempts refused while closed, {} accept timeouts",
        terminated[0]
    );
}

/// What the process has open.
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

// One test: the descriptors are the whole process's.
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
