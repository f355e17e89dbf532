//! An echo server with a limit on connections, which a command on standard input changes.
//!
//! ```text
//! cargo run -p acceptor-tokio --example limits [IP:PORT]
//! ```
//!
//! It listens on 127.0.0.1:7001, or on the address given, and serves two clients at a time. Another one waits
//! in the system's queue until one of them has left. The commands, one on each line:
//!
//! | command | |
//! |---|---|
//! | `limit N` | serve at most N clients at a time |
//! | `limit none` | serve any number |
//! | `wait` | clients beyond the limit wait; this is how it starts |
//! | `refuse` | clients beyond the limit get a notice, and their connection is closed |
//! | `status` | print the state of the pool |
//!
//! The server stops at the end of standard input, or on SIGINT.

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::thread;

use acceptor_tokio::{
    AtLimit, BoxError, Connection, ListenOptions, Pool, Refusal, Spec, TcpListener, TokioRuntime,
    acceptor_from,
};
use tokio::sync::mpsc;

const ACCEPTORS: usize = 10;

async fn echo(mut connection: Connection) -> io::Result<()> {
    let (mut reader, mut writer) = connection.stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(())
}

/// Carries out one command. Returns what to print.
fn obey(pool: &Pool, command: &str) -> Result<String, BoxError> {
    let words: Vec<&str> = command.split_whitespace().collect();
    match *words {
        ["limit", "none"] => pool.set_max_connections(None)?,
        ["limit", number] => pool.set_max_connections(number.parse::<usize>()?)?,
        ["wait"] => pool.update(|settings| settings.at_limit = AtLimit::Wait)?,
        ["refuse"] => {
            let full = Refusal::farewell("The server is full, please come back later.\r\n");
            pool.update(|settings| settings.at_limit = AtLimit::Refuse(full.clone()))?;
        }
        ["status"] => return Ok(pool.status()?.to_string()),
        _ => return Err("commands: limit N, limit none, wait, refuse, status".into()),
    }
    Ok("done".to_owned())
}

/// Reads lines on a thread of its own, because a read of standard input cannot be cancelled.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

async fn run(address: &str) -> Result<(), BoxError> {
    let runtime = TokioRuntime::current()?;
    let spec = Spec::new("limits", acceptor_from(echo)).max_connections(2);
    let pool: Pool = Pool::start(runtime.clone(), spec)?;
    let listener = TcpListener::bind(ListenOptions::new(address), &runtime)?;
    println!("listening on {}", listener.local_addr()?);
    pool.add_listener(listener, ACCEPTORS)?;

    let mut commands = commands();
    let report = pool
        .run_until(async {
            loop {
                tokio::select! {
                    command = commands.recv() => match command {
                        None => return,
                        Some(command) => match obey(&pool, &command) {
                            Ok(answer) => println!("{answer}"),
                            Err(error) => println!("error: {error}"),
                        },
                    },
                    _ = tokio::signal::ctrl_c() => return,
                }
            }
        })
        .await;
    println!("{report}");
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    match run(address.as_deref().unwrap_or("127.0.0.1:7001")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limits: {error}");
            ExitCode::FAILURE
        }
    }
}
