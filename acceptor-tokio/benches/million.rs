//! The CPU time of a million connections in memory, and of a stop of them all, compared with as many bare tasks.
//!
//! Usage: `million WAY CONNECTIONS`; see `measure.sh`. The ways: `drained` connections leave by themselves as the pool drains,
//! within its grace; `signal` ones leave at the stop signal, which they have trapped; `dropped` ones have not; `killed` ones are
//! killed without a signal. `bare` are tasks of no pool that leave at a signal.

use std::future::pending;
use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use acceptor_tokio::{
    Connection, Listener, NoHandshake, Phase, Pool, Shutdown, Spec, TokioRuntime, acceptor_fn,
};
use peak_alloc::PeakAlloc;
use tokio::sync::{Mutex, Semaphore, mpsc, watch};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// How many connections are in flight to the pool at once.
const BACKLOG: usize = 1_000;

/// Longer than any stop, even under callgrind on a busy machine.
const LONG: Duration = Duration::from_secs(3600);

/// The grace of connections that do not leave in it.
const SHORT_GRACE: Duration = Duration::from_millis(50);

type Error = Box<dyn std::error::Error>;

/// A stream that is never read.
struct Stream;

/// An in-memory listener.
struct Channel(Mutex<mpsc::Receiver<Stream>>);

impl Listener for Channel {
    type Io = Stream;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Stream, ())> {
        match self.0.lock().await.recv().await {
            Some(stream) => Ok((stream, ())),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr(_: &Stream) -> io::Result<()> {
        Ok(())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn asks_local_addr(&self) -> bool {
        false
    }
}

/// When connections leave a pool that stops.
#[derive(Clone, Copy)]
enum Leave {
    Drained,
    Signal,
    Dropped,
    Killed,
}

/// The CPU time of this thread, if the system reports it, at the resolution of its clock; otherwise the time of day.
fn cpu(start: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|first| first.parse().ok());
    nanos.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: million drained|signal|dropped|killed|bare CONNECTIONS";
    let [way, connections] = arguments.as_slice() else {
        return Err(usage.into());
    };
    let connections = connections.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match way.as_str() {
        "drained" => runtime.block_on(pool(connections, Leave::Drained)),
        "signal" => runtime.block_on(pool(connections, Leave::Signal)),
        "dropped" => runtime.block_on(pool(connections, Leave::Dropped)),
        "killed" => runtime.block_on(pool(connections, Leave::Killed)),
        "bare" => runtime.block_on(bare(connections)),
        _ => Err(usage.into()),
    }
}

/// Callgrind resets its counters here.
#[inline(never)]
fn measured_from_here() {
    black_box(());
}

/// The figures of a start and a stop, in the format that `measure.sh` reads.
struct Figures {
    start: Instant,
    connections: usize,
    heap: usize,
    cpu: Duration,
}

impl Figures {
    fn begin(connections: usize) -> Self {
        let start = Instant::now();
        Self {
            start,
            connections,
            heap: HEAP.current_usage(),
            cpu: cpu(start),
        }
    }

    /// Opens all connections.
    async fn open(
        &mut self,
        to: &mpsc::Sender<Stream>,
        open: impl Fn() -> usize,
    ) -> Result<(), Error> {
        for _ in 0..self.connections {
            to.send(Stream).await?;
        }
        while open() < self.connections {
            tokio::task::yield_now().await;
        }
        // Lets the last spawned tasks be polled.
        tokio::task::yield_now().await;
        let each = HEAP.current_usage().saturating_sub(self.heap) as f64 / self.connections as f64;
        println!("bytes_each {each:.0}");
        self.lap("start_cpu_seconds");
        measured_from_here();
        Ok(())
    }

    fn lap(&mut self, name: &str) {
        let now = cpu(self.start);
        let took = now.saturating_sub(self.cpu).as_secs_f64();
        self.cpu = now;
        println!("{name} {took:.3}");
    }
}

async fn pool(connections: usize, leave: Leave) -> Result<(), Error> {
    let serve = acceptor_fn(move |connection: Connection<Stream, ()>| async move {
        match leave {
            Leave::Drained => connection.lifecycle.draining().wait().await,
            Leave::Signal => connection.lifecycle.trap_stop().wait().await,
            Leave::Dropped | Leave::Killed => pending().await,
        }
        Ok(())
    });
    let spec = Spec::new("million", serve).grace(SHORT_GRACE);
    let (phase, spec) = match leave {
        Leave::Drained => (Phase::Grace, spec.grace(LONG)),
        Leave::Signal | Leave::Dropped => (Phase::Stop, spec.shutdown(LONG)),
        Leave::Killed => (Phase::Kill, spec.shutdown(Shutdown::Kill)),
    };
    let pool = Pool::start(TokioRuntime::current()?, spec)?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let mut figures = Figures::begin(connections);
    pool.add_listener(Channel(Mutex::new(receiver)), 10)?;
    figures
        .open(&sender, || pool.counts().map_or(0, |n| n.connections))
        .await?;
    let report = pool.stop().await;
    figures.lap("stop_cpu_seconds");
    let ends = report.connections(phase).total();
    assert_eq!(report.stuck, 0, "{report}");
    assert_eq!(ends, connections, "{report}");
    Ok(())
}

/// As many tasks that wait for one signal.
async fn bare(connections: usize) -> Result<(), Error> {
    let (stop, stopping) = watch::channel(false);
    let (sender, mut receiver) = mpsc::channel(BACKLOG);
    let ended = Arc::new(Semaphore::new(0));
    let mut figures = Figures::begin(connections);
    let open = Arc::new(Semaphore::new(0));
    let (ends, opens) = (Arc::clone(&ended), Arc::clone(&open));
    tokio::spawn(async move {
        while let Some(Stream) = receiver.recv().await {
            let (mut stopping, ends) = (stopping.clone(), Arc::clone(&ends));
            tokio::spawn(async move {
                let _ = stopping.wait_for(|stop| *stop).await;
                ends.add_permits(1);
            });
            opens.add_permits(1);
        }
    });
    figures.open(&sender, || open.available_permits()).await?;
    stop.send_replace(true);
    while ended.available_permits() < connections {
        tokio::task::yield_now().await;
    }
    figures.lap("stop_cpu_seconds");
    Ok(())
}
