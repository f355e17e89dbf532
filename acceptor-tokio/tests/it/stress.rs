//! Everything concurrently, on real threads: clients, closes, stops and kills of children, new specs, and stops of the
//! pool. No client is left hanging, the counts add up, and short-lived pools leave nothing behind.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use acceptor_tokio::{
    Acceptor, BoxError, ChildId, Connection, Init, ListenerId, ListenerInfo, Pool, PoolHandle,
    Spec, TcpListener, Terminate, WaitingAcceptors,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

/// The number of live states and connections.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

struct AliveGuard(Arc<AtomicUsize>);

impl Alive {
    fn one(&self) -> AliveGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        AliveGuard(Arc::clone(&self.0))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Echoes. Its acceptors begin in different ways: immediately, after a yield, with a short timeout, not at all.
struct Restless {
    alive: Alive,
    begun: Begun,
    turn: AtomicU64,
}

/// The acceptors that have begun since the last look.
type Begun = Arc<Mutex<Vec<ChildId>>>;

impl Restless {
    fn new(alive: &Alive, begun: &Begun) -> Self {
        Self {
            alive: alive.clone(),
            begun: Arc::clone(begun),
            turn: AtomicU64::new(0),
        }
    }
}

impl Acceptor<TcpListener> for Restless {
    type State = AliveGuard;
    type Exit = Result<(), BoxError>;

    async fn init(
        &self,
        listener: &ListenerInfo<std::net::SocketAddr>,
    ) -> Result<Init<AliveGuard>, BoxError> {
        self.begun
            .lock()
            .expect("no thread panics while it holds the lock")
            .push(listener.child);
        let guard = self.alive.one();
        match self.turn.fetch_add(1, Ordering::SeqCst) % 5 {
            0 => Ok(Init::Accept(guard)),
            1 => {
                tokio::task::yield_now().await;
                Ok(Init::Accept(guard))
            }
            2 => Ok(Init::AcceptWithin(guard, Duration::ZERO)),
            3 => Ok(Init::AcceptWithin(guard, Duration::from_millis(3))),
            _ => Ok(Init::Ignore),
        }
    }

    async fn serve(&self, mut connection: Connection, _state: AliveGuard) -> Result<(), BoxError> {
        let _serving = self.alive.one();
        echo(&mut connection.stream).await
    }

    async fn terminate(&self, _: &Terminate, state: AliveGuard) {
        tokio::task::yield_now().await;
        drop(state);
    }
}

fn spec(alive: &Alive, begun: &Begun) -> Spec<impl Acceptor<TcpListener>> {
    Spec::new("restless", Restless::new(alive, begun)).intensity(u32::MAX)
}

/// Clients that come and go until this time; returns how many were answered.
async fn clients(address: std::net::SocketAddr, until: Instant) -> usize {
    let mut answered = 0;
    while Instant::now() < until {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            tokio::task::yield_now().await;
            continue;
        };
        // A connection that is killed or stopped is not answered, but it is not left hanging either.
        let asked = async {
            stream.write_all(&[7]).await?;
            stream.read_u8().await
        };
        answered += usize::from(soon("an answer or the end", asked).await.is_ok());
    }
    answered
}

/// Stops and kills children in turn, and changes the spec.
async fn inject_faults(pool: PoolHandle, alive: Alive, begun: Begun, until: Instant) {
    let mut turn = 0_usize;
    while Instant::now() < until {
        turn += 1;
        let connections = pool.connections().expect("the pool runs");
        let mut children = std::mem::take(
            &mut *begun
                .lock()
                .expect("no thread panics while it holds the lock"),
        );
        children.extend(connections.iter().map(|connection| connection.id));
        for id in children {
            turn += 1;
            // It may have ended by now.
            let _ = match turn % 7 {
                0 => pool.stop_child(id),
                1 => pool.kill_child(id),
                _ => Ok(()),
            };
        }
        if turn % 3 == 0 {
            pool.reconfigure(spec(&alive, &begun), WaitingAcceptors::Keep)
                .expect("the pool runs");
        }
        let counts = pool.counts().expect("the pool runs");
        assert!(counts.handshaking <= counts.connections, "{counts}");
        tokio::task::yield_now().await;
    }
}

/// Opens and closes its own listener, with a client each time.
async fn open_and_close(pool: PoolHandle, until: Instant) -> Vec<ListenerId> {
    let mut closed = Vec::new();
    while Instant::now() < until {
        let (id, address) = listen(&pool, 3);
        let stream = TcpStream::connect(address).await;
        soon("the listener closes", pool.close_listener(id))
            .await
            .expect("the listener is open");
        drop(stream);
        closed.push(id);
    }
    closed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_faults_leak_nothing() {
    let (alive, begun) = (Alive::default(), Begun::default());
    let pool = Pool::start(runtime(), spec(&alive, &begun)).expect("the spec is allowed");
    let (_, address) = listen(&pool, 4);
    let until = Instant::now() + Duration::from_secs(2);
    let injecting = tokio::spawn(inject_faults(
        pool.handle(),
        alive.clone(),
        Arc::clone(&begun),
        until,
    ));
    let closing = tokio::spawn(open_and_close(pool.handle(), until));
    let coming: Vec<_> = (0..8)
        .map(|_| tokio::spawn(clients(address, until)))
        .collect();
    let mut answered = 0;
    for client in coming {
        answered += client.await.expect("no client panics");
    }
    injecting.await.expect("the fault injection does not panic");
    let closed = closing.await.expect("every listener closes");
    assert!(answered > 0 && !closed.is_empty());
    // Afterwards the listener accepts as before.
    let mut last = client(address).await;
    let listeners = pool.listeners().expect("the pool runs");
    assert_eq!(listeners.len(), 1);
    assert_eq!(listeners[0].acceptors, 4);
    let report = soon("the pool stops", pool.stop()).await;
    assert_eq!(report.stuck, 0);
    gone(&mut last).await;
    drop(pool);
    eventually("all states and connections are gone", || alive.count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn short_lived_pools_leak_nothing() {
    let (alive, begun) = (Alive::default(), Begun::default());
    let metrics = tokio::runtime::Handle::current().metrics();
    for round in 0..2000 {
        let pool = Pool::start(runtime(), spec(&alive, &begun)).expect("the spec is allowed");
        let listening = (round % 4 == 0).then(|| listen(&pool, 2));
        let stream = match listening {
            Some((_, address)) if round % 8 == 0 => Some(connect(address).await),
            _ => None,
        };
        let report = match round % 3 {
            0 => soon("the pool stops", pool.stop()).await,
            1 => soon("the pool is killed", pool.kill()).await,
            _ => {
                let joined = pool.join();
                drop(pool);
                soon("the pool ends without its owner", joined).await
            }
        };
        assert_eq!(report.stuck, 0, "{report}");
        drop(stream);
    }
    eventually("no task is left", || metrics.num_alive_tasks() == 0).await;
    assert_eq!(alive.count(), 0);
}
