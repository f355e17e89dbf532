//! An echo server to talk to with telnet or `nc`, that stops gracefully.
//!
//! ```text
//! cargo run -p acceptor-async-std --example telnet_echo_async_std [IP:PORT]
//! ```
//!
//! It listens on 127.0.0.1:7000 unless told otherwise; with port 0 the system chooses one.
//! SIGINT or SIGTERM stops it: the listener closes at once, every session is told, and has 5 s to
//! leave by itself; then it is sent away, and killed if it has not gone 2 s later. A second signal
//! kills everything at once.
//!
//! | exit code | |
//! |---|---|
//! | 0 | stopped by a signal |
//! | 1 | killed by a second signal, or the pool ended by itself |
//! | 2 | could not start |

use std::env;
use std::fmt::Display;
use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use acceptor_async_std::{
    AsyncStdRuntime, BoxError, Connection, ListenOptions, Pool, Report, Spec, StopReason,
    TcpListener, acceptor_fn,
};
use async_signal::{Signal, Signals};
use async_std::io::{ReadExt, WriteExt};
use async_std::stream::StreamExt;
use async_std::task;
use futures_lite::future::or;

const ACCEPTORS: usize = 10;
const GRACE: Duration = Duration::from_secs(5);
const SHUTDOWN: Duration = Duration::from_secs(2);

const CLOSING: &[u8] = b"The server is closing: please finish what you are doing.\r\n";
const GOODBYE: &[u8] = b"Goodbye.\r\n";

/// What a session waits for.
enum Next {
    Stop,
    Draining,
    Read(usize),
}

/// One session: sends back what comes, as it comes.
async fn echo(connection: Connection) -> Result<(), BoxError> {
    let Connection {
        mut stream,
        signals,
        ..
    } = connection;
    // Trapped, so that a stop is ours to answer: otherwise the session would just be dropped.
    let mut stop = signals.trap_stop().wait();
    let mut draining = Some(signals.draining().wait());
    let mut buffer = [0; 4096];
    loop {
        let stopped = async {
            (&mut stop).await;
            Ok(Next::Stop)
        };
        let to_be_told = async {
            match &mut draining {
                Some(draining) => draining.await,
                None => pending().await,
            }
            Ok(Next::Draining)
        };
        let read = async { io::Result::Ok(Next::Read(stream.read(&mut buffer).await?)) };
        // Reading loses nothing when another is first. Writing would: it is done outside.
        match or(stopped, or(to_be_told, read)).await? {
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

async fn run() -> Result<ExitCode, BoxError> {
    let address = address()?;
    let mut signals = signals()?;

    let spec = Spec::new("telnet_echo", acceptor_fn(echo))
        .grace(GRACE)
        .shutdown(SHUTDOWN)
        .observer(|report: &Report| eprintln!("{report}"));
    let pool = Pool::start(AsyncStdRuntime::new(), spec)?;
    let socket = ListenOptions::new(address).bind()?;
    let address = socket.local_addr()?;
    pool.add_listener(TcpListener::from_std(socket)?, ACCEPTORS)?;
    say(format_args!("listening on {address}"));

    let signalled = async {
        signals.next().await;
    };
    or(signalled, async {
        pool.join().await;
    })
    .await;
    // Begins the stop, or gives the result of a pool that has ended by itself.
    let stopped = pool.stop();
    let ended = async { Some(stopped.await) };
    let signalled = async {
        signals.next().await;
        None
    };
    let (report, code) = match or(ended, signalled).await {
        Some(report) => match report.reason {
            StopReason::Requested => (report, ExitCode::SUCCESS),
            _ => (report, ExitCode::FAILURE),
        },
        None => (pool.kill().await, ExitCode::FAILURE),
    };
    say(report);
    Ok(code)
}

fn main() -> ExitCode {
    task::block_on(run()).unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
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

/// Prints a line. Unlike `println!`, it does not panic when nobody reads it any more.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// SIGINT and SIGTERM, heard from now on.
#[cfg(unix)]
fn signals() -> io::Result<Signals> {
    Signals::new([Signal::Int, Signal::Term])
}

/// Ctrl-C, heard from now on.
#[cfg(windows)]
fn signals() -> io::Result<Signals> {
    Signals::new([Signal::Int])
}
