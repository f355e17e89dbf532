//! Everything at once, on real threads: clients, closes, stops and kills of children, new specs, and stops of the
//! whole. No client that stays is forgotten, the counts come out even, and pools that come and go leave nothing.

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

/// States, connections and tasks that are there.
#[derive(Clone, Default)]
struct Living(Arc<AtomicUsize>);

struct Life(Arc<AtomicUsize>);

impl Living {
    fn one(&self) -> Life {
        self.0.fetch_add(1, Ordering::SeqCst);
        Life(Arc::clone(&self.0))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Echoes. Its acceptors differ in how they begin: at once, after a switch, with a short timeout, not at all.
struct Restless {
    living: Living,
    begun: Begun,
    turn: AtomicU64,
}

/// The acceptors that have begun since somebody looked.
type Begun = Arc<Mutex<Vec<ChildId>>>;

impl Restless {
    fn new(living: &Living, begun: &Begun) -> Self {
        Self {
            living: living.clone(),
            begun: Arc::clone(begun),
            turn: AtomicU64::new(0),
        }
    }
}

impl Acceptor<TcpListener> for Restless {
    type State = Life;
    type Exit = Result<(), BoxError>;

    async fn init(
        &self,
        listener: &ListenerInfo<std::net::SocketAddr>,
    ) -> Result<Init<Life>, BoxError> {
        self.begun
            .lock()
            .expect("nobody panics")
            .push(listener.child);
        let life = self.living.one();
        match self.turn.fetch_add(1, Ordering::SeqCst) % 5 {
            0 => Ok(Init::Accept(life)),
            1 => {
                tokio::task::yield_now().await;
                Ok(Init::Accept(life))
            }
            2 => Ok(Init::AcceptWithin(life, Duration::ZERO)),
            3 => Ok(Init::AcceptWithin(life, Duration::from_millis(3))),
            _ => Ok(Init::Ignore),
        }
    }

    async fn serve(&self, mut connection: Connection, _state: Life) -> Result<(), BoxError> {
        let _serving = self.living.one();
        echo(&mut connection.stream).await
    }

    async fn terminate(&self, _: &Terminate, state: Life) {
        tokio::task::yield_now().await;
        drop(state);
    }
}

fn spec(living: &Living, begun: &Begun) -> Spec<impl Acceptor<TcpListener>> {
    Spec::new("restless", Restless::new(living, begun)).intensity(u32::MAX)
}

/// Clients that come and go for a while; how many were answered.
async fn clients(address: std::net::SocketAddr, until: Instant) -> usize {
    let mut answered = 0;
    while Instant::now() < until {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            tokio::task::yield_now().await;
            continue;
        };
        // Killed or stopped on the way it is not answered: but it is not left hanging either.
        let asked = async {
            stream.write_all(&[7]).await?;
            stream.read_u8().await
        };
        answered += usize::from(soon("an answer, or an end", asked).await.is_ok());
    }
    answered
}

/// Stops and kills whoever is there, in turn, and changes the spec.
async fn meddle(pool: PoolHandle, living: Living, begun: Begun, until: Instant) {
    let mut turn = 0_usize;
    while Instant::now() < until {
        turn += 1;
        let connections = pool.connections().expect("the pool runs");
        let mut children = std::mem::take(&mut *begun.lock().expect("nobody panics"));
        children.extend(connections.iter().map(|connection| connection.id));
        for id in children {
            turn += 1;
            // It may be gone by now.
            let _ = match turn % 7 {
                0 => pool.stop_child(id),
                1 => pool.kill_child(id),
                _ => Ok(()),
            };
        }
        if turn % 3 == 0 {
            pool.reconfigure(spec(&living, &begun), WaitingAcceptors::Keep)
                .expect("the pool runs");
        }
        let counts = pool.counts().expect("the pool runs");
        assert!(counts.handshaking <= counts.connections, "{counts}");
        tokio::task::yield_now().await;
    }
}

/// Opens and closes a listener of its own, with a client each time.
async fn open_and_close(pool: PoolHandle, until: Instant) -> Vec<ListenerId> {
    let mut closed = Vec::new();
    while Instant::now() < until {
        let (id, address) = listen(&pool, 3);
        let stream = TcpStream::connect(address).await;
        soon("the listener closes", pool.close_listener(id))
            .await
            .expect("it is open");
        drop(stream);
        closed.push(id);
    }
    closed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_faults_leak_nothing() {
    let (living, begun) = (Living::default(), Begun::default());
    let pool = Pool::start(runtime(), spec(&living, &begun)).expect("the spec is good");
    let (_, address) = listen(&pool, 4);
    let until = Instant::now() + Duration::from_secs(2);
    let meddling = tokio::spawn(meddle(
        pool.handle(),
        living.clone(),
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
    meddling.await.expect("nothing that meddles panics");
    let closed = closing.await.expect("every listener closes");
    assert!(answered > 0 && !closed.is_empty());
    // After the storm the listener hears as it did.
    let mut last = client(address).await;
    let listeners = pool.listeners().expect("the pool runs");
    assert_eq!(listeners.len(), 1);
    assert_eq!(listeners[0].acceptors, 4);
    let report = soon("the pool stops", pool.stop()).await;
    assert_eq!(report.stuck, 0);
    gone(&mut last).await;
    drop(pool);
    eventually("all states and connections are gone", || {
        living.count() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn short_lived_pools_leak_nothing() {
    let (living, begun) = (Living::default(), Begun::default());
    let metrics = tokio::runtime::Handle::current().metrics();
    for round in 0..2000 {
        let pool = Pool::start(runtime(), spec(&living, &begun)).expect("the spec is good");
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
    assert_eq!(living.count(), 0);
}
