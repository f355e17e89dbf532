//! What README.md promises of an acceptor that takes a permit in `init`: never more connections than permits, and none lost.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use acceptor_tokio::{
    Acceptor, BoxError, Connection, Init, ListenOptions, ListenerInfo, Pool, Spec, TcpListener,
    TokioRuntime,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const GREETING: &[u8] = b"one of the few\n";

#[derive(Clone)]
struct Limited {
    places: Arc<Semaphore>,
    serving: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Acceptor<TcpListener> for Limited {
    type State = OwnedSemaphorePermit;

    async fn init(
        &self,
        _listener: &ListenerInfo<SocketAddr>,
    ) -> Result<Init<OwnedSemaphorePermit>, BoxError> {
        Ok(Init::Accept(
            Arc::clone(&self.places).acquire_owned().await?,
        ))
    }

    async fn serve(
        &self,
        mut connection: Connection,
        _place: OwnedSemaphorePermit,
    ) -> Result<(), BoxError> {
        let serving = self.serving.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(serving, Ordering::SeqCst);
        connection.stream.write_all(GREETING).await?;
        let left = connection.stream.read(&mut [0]).await;
        self.serving.fetch_sub(1, Ordering::SeqCst);
        left?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_permits_than_acceptors_bound_the_connections() {
    check(2, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_permits_than_acceptors_bound_the_connections() {
    check(7, 3).await;
}

async fn check(places: usize, acceptors: usize) {
    const CLIENTS: usize = 40;
    let limited = Limited {
        places: Arc::new(Semaphore::new(places)),
        serving: Arc::default(),
        most: Arc::default(),
    };
    let runtime = TokioRuntime::current().unwrap();
    let pool = Pool::start(runtime.clone(), Spec::new("limited", limited.clone())).unwrap();
    let socket = ListenOptions::new("127.0.0.1:0".parse().unwrap());
    let socket = socket.bind().unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, &runtime).unwrap();
    let listener = pool.add_listener(listener, acceptors).unwrap();

    let mut waiting = Vec::new();
    for _ in 0..CLIENTS {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    let full = async {
        while pool.counts().unwrap().active < places {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, full).await.unwrap();
    // Every place is taken and nobody leaves of his own accord: in turn each is greeted, and makes room.
    for mut client in waiting {
        let mut greeting = [0; GREETING.len()];
        let greeted = timeout(PATIENCE, client.read_exact(&mut greeting)).await;
        greeted.unwrap().unwrap();
        assert_eq!(greeting, GREETING);
    }
    assert_eq!(limited.most.load(Ordering::SeqCst), places);
    let records = pool.listeners().unwrap();
    assert_eq!(records[0].id, listener);
    assert_eq!(records[0].accepted, CLIENTS as u64);
    assert_eq!(pool.stop().await.stuck, 0);
    assert_eq!(limited.places.available_permits(), places);
}
