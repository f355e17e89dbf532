//! Explores a key-value server over 1,000 seeds with faults.
//!
//! ```console
//! $ cargo run -p acceptor-simulation --example own_acceptor
//! ```
//!
//! With the argument `broken` the server treats the bytes of one read as a whole line, and the exploration finds the
//! bug.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acceptor_core::{
    Acceptor, BoxError, Connection, Exit, Init, Listener, ListenerInfo, Spec, StreamOf,
};
use acceptor_simulation::{Explore, ExploreError, Explored, Faults, World};
use futures::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// How the server finds the end of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reads {
    /// It reads until the end of the line.
    Lines,
    /// A bug: it treats the bytes of one read as a line.
    Once,
}

/// The server: `set key value` returns `ok`, and `get key` returns the value or `none`; one command per line.
#[derive(Debug)]
pub(crate) struct KeyValue {
    reads: Reads,
    values: Mutex<BTreeMap<String, String>>,
    sessions: AtomicUsize,
}

impl KeyValue {
    fn new(reads: Reads) -> Self {
        Self {
            reads,
            values: Mutex::default(),
            sessions: AtomicUsize::new(0),
        }
    }

    fn answer(&self, command: &str) -> String {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = command.trim_end().splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("set"), Some(key), Some(value)) => {
                values.insert(key.to_owned(), value.to_owned());
                "ok\n".to_owned()
            }
            (Some("get"), Some(key), None) => match values.get(key) {
                Some(value) => format!("{value}\n"),
                None => "none\n".to_owned(),
            },
            _ => "what?\n".to_owned(),
        }
    }
}

/// Counts a session until it ends, whatever ends it.
struct Session<'a>(&'a AtomicUsize);

impl<'a> Session<'a> {
    fn begin(sessions: &'a AtomicUsize) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(sessions)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// For every listener whose streams implement futures-io: the same server runs on smol, on async-std, and here.
impl<L: Listener> Acceptor<L> for KeyValue
where
    StreamOf<L>: AsyncRead + AsyncWrite + Unpin + Send,
{
    type State = ();
    type Exit = io::Result<Exit>;

    async fn init(&self, _listener: &ListenerInfo<L::Addr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<L>, L::Addr>,
        (): (),
    ) -> io::Result<Exit> {
        let _session = Session::begin(&self.sessions);
        let mut stream = BufReader::new(connection.stream);
        loop {
            let mut command = String::new();
            match self.reads {
                Reads::Lines => {
                    stream.read_line(&mut command).await?;
                    if !command.is_empty() && !command.ends_with('\n') {
                        return Ok(Exit::clean("disconnected within a line"));
                    }
                }
                Reads::Once => {
                    let mut bytes = [0; 256];
                    let count = stream.read(&mut bytes).await?;
                    command += &String::from_utf8_lossy(&bytes[..count]);
                }
            }
            if command.is_empty() {
                return Ok(Exit::normal());
            }
            let answer = self.answer(&command);
            stream.get_mut().write_all(answer.as_bytes()).await?;
        }
    }
}

/// A client that sets and gets its own key, and checks each answer.
async fn client(world: World, address: SocketAddr, key: u64) -> io::Result<()> {
    let mut stream = BufReader::new(world.connect(address).await?);
    let mut value = "none".to_owned();
    for _ in 0..world.random(6) {
        // Sometimes the client pauses, and a fault may strike meanwhile.
        if world.chance(0.3) {
            world.sleep(Duration::from_millis(20)).await;
        }
        let (command, expected) = if world.chance(0.5) {
            value = format!("value {}", world.random(1_000_000));
            (format!("set key{key} {value}\n"), "ok".to_owned())
        } else {
            (format!("get key{key}\n"), value.clone())
        };
        let exchanged = exchange(&mut stream, &command).await;
        match (exchanged, stream.get_ref().fault()) {
            (Ok(answer), _) => assert_eq!(answer, expected, "the answer to {command:?}"),
            (Err(_), Some(_)) => {
                world.reached("a client is struck within an exchange");
                return Ok(());
            }
            (Err(error), None) => return Err(error),
        }
    }
    world.reached("a client is served to its end");
    Ok(())
}

async fn exchange(
    stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    command: &str,
) -> io::Result<String> {
    stream.get_mut().write_all(command.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    match answer.strip_suffix('\n') {
        Some(answer) => Ok(answer.to_owned()),
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Up to eight concurrent clients with faults; then one without, and a stop.
async fn scenario(world: World, reads: Reads) -> Result<(), BoxError> {
    let server = Arc::new(KeyValue::new(reads));
    let pool = world.start(Spec::new("key-value", Arc::clone(&server)))?;
    let listener = world.listen()?;
    let address = listener.address();
    pool.add_listener(listener, 2)?;

    let clients = 1 + world.random(8);
    let clients =
        (0..clients).map(|key| world.spawn("client", client(world.clone(), address, key)));
    for client in clients.collect::<Vec<_>>() {
        client.await?;
    }

    world.calm();
    let mut last = BufReader::new(world.connect(address).await?);
    assert_eq!(exchange(&mut last, "set last 1\n").await?, "ok");
    assert_eq!(exchange(&mut last, "get last\n").await?, "1");
    drop(last);
    world.sleep(Duration::from_secs(1)).await;
    let left = server.sessions.load(Ordering::Relaxed);
    assert_eq!(left, 0, "every session has ended");

    let report = pool.stop().await;
    assert_eq!(report.stuck, 0);
    Ok(())
}

/// Explores the server, with more client faults than the default.
pub(crate) fn explore(reads: Reads, seeds: u64) -> Result<Explored, ExploreError> {
    Explore::new()
        .seeds(1..=seeds)
        .faults(Faults::default().resets(0.1).half_closes(0.1))
        .fail_on_child_panic()
        .run(|world| scenario(world, reads))
}

fn main() -> Result<(), ExploreError> {
    let broken = std::env::args().nth(1).is_some_and(|word| word == "broken");
    let reads = if broken { Reads::Once } else { Reads::Lines };
    let explored = explore(reads, 1000)?;
    println!("{explored}");
    Ok(())
}
