//! An echo server for telnet or `nc` that stops gracefully.
//!
//! ```text
//! cargo run -p acceptor-smol --example telnet_echo_smol [IP:PORT]
//! ```
//!
//! It listens on 127.0.0.1:7000, or on the address given; with port 0 the system chooses one.
//! SIGINT or SIGTERM stops it: the listener closes at once, every session gets a notice and has
//! 5 s to finish; then it is stopped, and killed if it has not ended 2 s later. A second
//! signal kills everything at once.
//!
//! | exit code | |
//! |---|---|
//! | 0 | stopped by a signal |
//! | 1 | killed by a second signal, a session was stuck, or the pool stopped by itself |
//! | 2 | could not start |

use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::fmt::Display;
use std::future::pending;
use std::io::{self, Write};
use std::mem;
use std::net::SocketAddr;
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use acceptor_smol::{
    BoxError, Connection, ConnectionReports, ListenOptions, Pool, Report, SmolRuntime, Spec,
    StopReason, TcpListener, acceptor_fn, observer_fn,
};
use async_signal::{Signal, Signals};
use smol::future::or;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;

const ACCEPTORS: usize = 10;
const GRACE: Duration = Duration::from_secs(5);
const SHUTDOWN: Duration = Duration::from_secs(2);
/// The most lines that are queued for a slow reader.
const MAX_LINES: usize = 256;
/// How long the last lines may take on exit.
const FLUSH: Duration = Duration::from_millis(500);

const CLOSING: &[u8] = b"The server is closing: please finish what you are doing.\r\n";
const GOODBYE: &[u8] = b"Goodbye.\r\n";

/// The first event of those that a session waits for.
enum Next {
    Stop,
    Draining,
    Read(usize),
}

/// One session: echoes bytes as they arrive.
async fn echo(connection: Connection) -> Result<(), BoxError> {
    let Connection {
        mut stream,
        lifecycle,
        ..
    } = connection;
    // Trap the stop to say goodbye: otherwise the pool would drop the session.
    let mut stop = lifecycle.trap_stop().wait();
    let mut draining = Some(lifecycle.draining().wait());
    let mut buffer = [0; 4096];
    loop {
        let stopped = async {
            (&mut stop).await;
            Ok(Next::Stop)
        };
        let notified = async {
            match &mut draining {
                Some(draining) => draining.await,
                None => pending().await,
            }
            Ok(Next::Draining)
        };
        let read = async { io::Result::Ok(Next::Read(stream.read(&mut buffer).await?)) };
        // Reading is cancel safe, is first. Writing would: it is done outside.
        match or(stopped, or(notified, read)).await? {
            Next::Stop => {
                stream.write_all(GOODBYE).await?;
                return Ok(());
            }
            Next::Draining => {
                draining = None;
                stream.write_all(CLOSING).await?;
            }
            Next::Read(0) => return Ok(()),
            Next::Read(length) => stream.write_all(&buffer[..length]).await?,
        }
    }
}

async fn run(
    signals: io::Result<Signals>,
    output: &Lines,
    errors: &Arc<Lines>,
) -> Result<i32, BoxError> {
    let mut signals = signals?;
    let address = address()?;

    let log = Arc::clone(errors);
    let spec = Spec::new("telnet_echo", acceptor_fn(echo))
        .grace(GRACE)
        .shutdown(SHUTDOWN)
        // A client that hangs up is not a failure, and is reported only on request.
        .connection_reports(ConnectionReports::Disconnects)
        .observer(observer_fn(move |report: &Report| log.push(report)));
    let runtime = SmolRuntime::current();
    let pool = Pool::start(runtime.clone(), spec)?;
    let listener = TcpListener::bind(ListenOptions::new(address), &runtime)?;
    let address = listener.local_addr()?;
    pool.add_listener(listener, ACCEPTORS)?;
    output.push(format_args!("listening on {address}"));

    let signalled = async {
        signals.next().await;
    };
    // A pool stops by itself when its restart intensity is exceeded. There is no supervisor above
    // this one: the process has to end, so that its service manager can start it again.
    let ended = async {
        pool.join().await;
    };
    or(signalled, ended).await;
    // Begins the stop, or returns the result of a pool that has stopped by itself.
    let stopped = pool.stop();
    let stopped = async { Some(stopped.await) };
    let signalled = async {
        signals.next().await;
        None
    };
    let (report, killed) = match or(stopped, signalled).await {
        Some(report) => (report, false),
        None => (pool.kill().await, true),
    };
    output.push(&report);
    let by_itself = report.reason != StopReason::Requested;
    if by_itself {
        errors.push(format_args!(
            "the pool stopped by itself: {}",
            report.reason
        ));
    }
    Ok(i32::from(killed || by_itself || report.stuck > 0))
}

fn main() {
    // First of all: process 1 of a container ignores signals that have no handler.
    let signals = signals();
    let (output, errors) = (Lines::to(io::stdout()), Lines::to(io::stderr()));
    let code = smol::block_on(run(signals, &output, &errors));
    let code = code.unwrap_or_else(|error| {
        errors.push(with_causes(&*error));
        2
    });
    let deadline = Instant::now() + FLUSH;
    output.flush(deadline);
    errors.flush(deadline);
    process::exit(code)
}

/// Lines for standard output or standard error, written by a separate thread.
///
/// A pipe whose reader is slow, or has stopped reading, blocks only that thread: neither a session
/// nor a stop waits for it. Lines that do not fit in the queue are dropped and counted.
#[derive(Default)]
struct Lines {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// The first one stays until it is written.
    lines: VecDeque<String>,
    dropped: usize,
}

impl Lines {
    fn to(stream: impl Write + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let writer = Arc::clone(&lines);
        thread::spawn(move || writer.write_to(stream));
        lines
    }

    /// Queues a line. Never waits for the stream.
    fn push(&self, line: impl Display) {
        let mut line = line.to_string();
        let mut queue = self.lock();
        if queue.lines.len() == MAX_LINES {
            queue.dropped += 1;
            return;
        }
        match mem::take(&mut queue.dropped) {
            0 => {}
            1 => line += " (1 line before this one was dropped)",
            dropped => line += &format!(" ({dropped} lines before this one were dropped)"),
        }
        line.push('\n');
        queue.lines.push_back(line);
        self.changed.notify_all();
    }

    /// Waits until all lines are written, or until the deadline.
    fn flush(&self, deadline: Instant) {
        let time = deadline.saturating_duration_since(Instant::now());
        let waiting = |queue: &mut Queue| !queue.lines.is_empty();
        let _ = self.changed.wait_timeout_while(self.lock(), time, waiting);
    }

    fn write_to(&self, mut stream: impl Write) {
        loop {
            let queued = self
                .changed
                .wait_while(self.lock(), |queue| queue.lines.is_empty());
            let mut queue = queued.unwrap_or_else(PoisonError::into_inner);
            let line = mem::take(&mut queue.lines[0]);
            drop(queue);
            // One write per line, so that the lines of processes that share a pipe do not mix. An error
            // means that there is no reader, and nowhere to report it.
            let _ = stream.write_all(line.as_bytes());
            self.lock().lines.pop_front();
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error and its causes, on one line.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

/// The address in the first argument.
fn address() -> Result<SocketAddr, BoxError> {
    let mut arguments = env::args_os().skip(1);
    let Some(argument) = arguments.next() else {
        return Ok(SocketAddr::from(([127, 0, 0, 1], 7000)));
    };
    if arguments.next().is_some() {
        return Err("too many arguments: give at most one, IP:PORT".into());
    }
    let address = argument.to_str().and_then(|text| text.parse().ok());
    address.ok_or_else(|| {
        format!("cannot listen on {argument:?}: give IP:PORT, as in 127.0.0.1:7000 or [::1]:0")
            .into()
    })
}

/// SIGINT and SIGTERM, which are received from this call on.
#[cfg(unix)]
fn signals() -> io::Result<Signals> {
    Signals::new([Signal::Int, Signal::Term])
}

/// Ctrl-C, which are received from this call on.
#[cfg(windows)]
fn signals() -> io::Result<Signals> {
    Signals::new([Signal::Int])
}
