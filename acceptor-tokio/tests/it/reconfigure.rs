//! A new acceptor under load: once the call has returned, no client is served by the old one, and none is lost (R1).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use acceptor_tokio::{
    Acceptor, BoxError, Connection, Init, ListenerInfo, Pool, Spec, TcpListener, Terminate,
    WaitingAcceptors,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::*;

/// Sends the number of its acceptor, and ends. Its `init` runs in a separate task.
struct Numbered {
    number: u64,
    replaced: Arc<AtomicU64>,
    /// Its `init` finishes once this is true.
    prepared: watch::Receiver<bool>,
}

impl Acceptor<TcpListener> for Numbered {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        self.prepared.clone().wait_for(|prepared| *prepared).await?;
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<TcpStream>, (): ()) -> Result<(), BoxError> {
        let mut stream = connection.stream;
        stream.write_u64(self.number).await?;
        // Until the client has read it.
        stream.read_u8().await?;
        Ok(())
    }

    async fn terminate(&self, reason: &Terminate, (): ()) {
        if matches!(reason, Terminate::Replaced) {
            self.replaced.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The number of the acceptor that serves a new client.
async fn served_by(address: SocketAddr) -> u64 {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the client is accepted");
    let number = stream.read_u64().await.expect("the client is served");
    stream.write_u8(0).await.expect("the connection is open");
    number
}

const TIMES: u64 = 1_000;
const ACCEPTORS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_meets_a_replaced_acceptor() {
    let replaced = Arc::new(AtomicU64::new(0));
    let (_prepares, prepared) = watch::channel(true);
    let spec = |number| {
        let (replaced, prepared) = (Arc::clone(&replaced), prepared.clone());
        Spec::new(
            "numbered",
            Numbered {
                number,
                replaced,
                prepared,
            },
        )
    };
    let pool = Pool::start(runtime(), spec(0)).expect("the spec is allowed");
    let (_, address) = listen(&pool, ACCEPTORS);
    let (newest, over) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (newest, over) = (Arc::clone(&newest), Arc::clone(&over));
            tokio::spawn(async move {
                let mut served = 0_u64;
                while !over.load(Ordering::SeqCst) {
                    let at_least = newest.load(Ordering::SeqCst);
                    let number = served_by(address).await;
                    assert!(number >= at_least, "{number} after {at_least}");
                    served += 1;
                }
                served
            })
        })
        .collect();
    for number in 1..=TIMES {
        pool.reconfigure(spec(number), WaitingAcceptors::Replace)
            .expect("the pool runs");
        newest.store(number, Ordering::SeqCst);
        assert_eq!(served_by(address).await, number);
    }
    over.store(true, Ordering::SeqCst);
    let mut served = TIMES;
    for client in clients {
        served += client.await.expect("no client fails");
    }
    let report = soon("the pool stops", pool.stop()).await;
    assert_eq!(report.reason, acceptor_tokio::StopReason::Requested);
    let accepted = replaced.load(Ordering::SeqCst);
    assert!(
        served > TIMES && accepted > 0,
        "{served} served, {accepted} replaced"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_for_a_hanging_init() {
    let replaced = Arc::new(AtomicU64::new(0));
    let (prepares, hangs) = watch::channel(false);
    let (_prepared, at_once) = watch::channel(true);
    let spec = |number, prepared: &watch::Receiver<bool>| {
        let (replaced, prepared) = (Arc::clone(&replaced), prepared.clone());
        Spec::new(
            "numbered",
            Numbered {
                number,
                replaced,
                prepared,
            },
        )
    };
    let pool = Pool::start(runtime(), spec(0, &at_once)).expect("the spec is allowed");
    let (_, address) = listen(&pool, ACCEPTORS);
    assert_eq!(served_by(address).await, 0);
    // Its client sees the socket close before its end is visible (E2).
    let over = || pool.counts().is_ok_and(|counts| counts.connections == 0);
    eventually("the first connection ends", over).await;
    pool.reconfigure(spec(1, &hangs), WaitingAcceptors::Replace)
        .expect("the pool runs");
    let clients: Vec<_> = (0..50).map(|_| tokio::spawn(served_by(address))).collect();
    let terminated = || replaced.load(Ordering::SeqCst) == ACCEPTORS as u64;
    eventually("the old acceptors terminate", terminated).await;
    assert_eq!(pool.counts().map(|counts| counts.connections), Ok(0));
    prepares.send(true).expect("`init` waits for it");
    for client in clients {
        assert_eq!(client.await.expect("no client fails"), 1);
    }
    pool.kill().await;
}
