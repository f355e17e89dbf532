//! The memory of waiting acceptors does not depend on their `serve` (B9).

#[path = "it/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use acceptor_tokio::{Acceptor, BoxError, Connection, Init, ListenerInfo, Pool, Spec, TcpListener};
use peak_alloc::PeakAlloc;
use support::{client, eventually, listen, ping, runtime, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

// Counts the allocations of the whole process, so this program has only one test.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const ACCEPTORS: usize = 1_000;

/// The future of its `serve` holds this many bytes throughout.
struct Holding<const BYTES: usize> {
    started: Arc<AtomicUsize>,
}

impl<const BYTES: usize> Acceptor<TcpListener> for Holding<BYTES> {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        self.started.fetch_add(1, Ordering::SeqCst);
        Ok(Init::Accept(()))
    }

    async fn serve(&self, mut connection: Connection, _state: ()) -> Result<(), BoxError> {
        let mut held = [0_u8; BYTES];
        while let Ok(byte) = connection.stream.read_u8().await {
            held[0] = byte;
            connection.stream.write_u8(black_box(&held)[0]).await?;
        }
        Ok(())
    }
}

/// The memory of waiting acceptors, and of one connection that is served.
struct Taken {
    waiting: usize,
    connection: usize,
}

async fn measure<const BYTES: usize>() -> Taken {
    let started = Arc::new(AtomicUsize::new(0));
    let acceptor = Holding::<BYTES> {
        started: Arc::clone(&started),
    };
    let before = MEMORY.current_usage();
    let pool = Pool::start(runtime(), Spec::new("holding", acceptor)).expect("the spec is allowed");
    let (_, address) = listen(&pool, ACCEPTORS);
    // On this single-threaded runtime, an acceptor that has begun is already waiting.
    eventually("all acceptors wait", || {
        started.load(Ordering::SeqCst) == ACCEPTORS
    })
    .await;
    let waiting = MEMORY.current_usage() - before;
    let mut client = client(address).await;
    ping(&mut client).await;
    let connection = MEMORY.current_usage() - before - waiting;
    soon("the stop ends", pool.stop()).await;
    Taken {
        waiting,
        connection,
    }
}

#[tokio::test]
async fn waiting_memory_is_independent_of_serve() {
    // Warm-up: the runtime's tables grow to their size.
    measure::<16>().await;
    let (small, large) = (measure::<16>().await, measure::<65_536>().await);
    let each = small.waiting / ACCEPTORS;
    println!("{each} bytes for each waiting acceptor");
    println!(
        "one more connection: {} and {} bytes",
        small.connection, large.connection
    );
    // The measurement includes the future of a connection.
    assert!(large.connection >= small.connection + 65_536 - 16);
    let difference = large.waiting.abs_diff(small.waiting);
    assert!(
        difference < ACCEPTORS * 8,
        "waiting: {} bytes with the small future, {} with the large one",
        small.waiting,
        large.waiting
    );
}
