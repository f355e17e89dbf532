//! Limits on connections with real sockets, and the example `limits` as a program.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use acceptor_tokio::{
    Acceptor, AtLimit, BoxError, Connection, Exit, Init, ListenOptions, ListenerInfo,
    ListenerSettings, Pool, Refusal, Restart, Spec, StopReason, TcpListener,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

/// The numbers of connections: those open now, and the most that were at any time.
#[derive(Default)]
struct Peak {
    open: AtomicUsize,
    most: AtomicUsize,
    served: AtomicUsize,
}

struct Open(Arc<Peak>);

impl Open {
    fn new(peak: &Arc<Peak>) -> Self {
        let open = peak.open.fetch_add(1, Ordering::SeqCst) + 1;
        peak.most.fetch_max(open, Ordering::SeqCst);
        peak.served.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(peak))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers a byte, and then does what it says.
struct Obeys(Arc<Peak>);

impl Acceptor<TcpListener> for Obeys {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<SocketAddr>) -> Option<()> {
        Some(())
    }

    async fn serve(&self, mut connection: Connection, (): ()) -> Exit {
        let _open = Open::new(&self.0);
        let Ok(byte) = connection.stream.read_u8().await else {
            return Exit::normal();
        };
        if connection.stream.write_u8(byte).await.is_err() {
            return Exit::normal();
        }
        match byte {
            b'p' => std::panic::resume_unwind(Box::new("panics on request")),
            b'f' => Exit::failed("fails on request"),
            b'k' => {
                // Until the client leaves.
                let _ = connection.stream.read_u8().await;
                Exit::normal()
            }
            _ => Exit::normal(),
        }
    }
}

fn start(peak: &Arc<Peak>, change: impl FnOnce(Spec<Obeys>) -> Spec<Obeys>) -> Pool {
    let spec = Spec::new("limits", Obeys(Arc::clone(peak))).restart(Restart::Temporary);
    Pool::start(runtime(), change(spec)).unwrap()
}

/// Sends one byte; the answer, if there is one.
async fn ask(address: SocketAddr, byte: u8) -> std::io::Result<u8> {
    let mut client = TcpStream::connect(address).await?;
    client.write_u8(byte).await?;
    client.read_u8().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_holds_while_it_changes() {
    const CLIENTS: usize = 5000;
    const AT_ONCE: usize = 200;
    const LIMIT: usize = 100;
    let peak = Arc::<Peak>::default();
    let pool = Arc::new(start(&peak, |spec| spec.max_connections(LIMIT)));
    let addresses = [listen(&*pool, 10).1, listen(&*pool, 10).1];
    let done = Arc::new(AtomicBool::new(false));
    let changes = {
        let (pool, done) = (pool.handle(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut limits = [LIMIT, 50, 1, LIMIT, 7].into_iter().cycle();
            while !done.load(Ordering::SeqCst) {
                pool.set_max_connections(limits.next()).unwrap();
                // Only time will do: the clients come and go meanwhile, whatever the limit.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            pool.set_max_connections(LIMIT).unwrap();
        })
    };
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= CLIENTS {
                        return;
                    }
                    let byte = b"npf"[number % 3];
                    if number % 7 == 0 {
                        // Leaves, by a reset, before it is served or while it is.
                        let client = TcpStream::connect(addresses[number % 2]).await.unwrap();
                        client.set_zero_linger().unwrap();
                        continue;
                    }
                    let answer = soon("an answer", ask(addresses[number % 2], byte)).await;
                    assert_eq!(answer.unwrap(), byte, "client {number}");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    changes.await.unwrap();
    eventually("all connections have ended", || {
        pool.counts().unwrap().connections == 0
    })
    .await;
    let most = peak.most.load(Ordering::SeqCst);
    assert!(most <= LIMIT, "{most} connections at once");
    let accepted: u64 = pool
        .listeners()
        .unwrap()
        .iter()
        .map(|one| one.accepted)
        .sum();
    assert_eq!(accepted, peak.served.load(Ordering::SeqCst) as u64);
    // No slot is missing.
    let mut full = Vec::new();
    for number in 0..LIMIT {
        let mut client = connect(addresses[number % 2]).await;
        client.write_u8(b'k').await.unwrap();
        assert_eq!(soon("it is served", client.read_u8()).await.unwrap(), b'k');
        full.push(client);
    }
    assert_eq!(pool.counts().unwrap().connections, LIMIT);
    drop(full);
    assert_eq!(pool.kill().await.reason, StopReason::Requested);
}

/// The connections of each listener that were accepted while both had clients at all times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_listeners_get_equal_shares() {
    const CONNECTIONS: u64 = 2000;
    let peak = Arc::<Peak>::default();
    let pool = start(&peak, |spec| spec.max_connections(4));
    let addresses = [listen(&pool, 4).1, listen(&pool, 4).1];
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..40)
        .map(|number: usize| {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let _ = soon("an answer", ask(addresses[number % 2], b'n')).await;
                }
            })
        })
        .collect();
    let accepted = || {
        let listeners = pool.listeners().unwrap();
        [listeners[0].accepted, listeners[1].accepted]
    };
    eventually("both listeners have clients", || {
        accepted().iter().all(|one| *one > 20)
    })
    .await;
    let before = accepted();
    eventually("many connections", || {
        accepted().iter().sum::<u64>() > CONNECTIONS
    })
    .await;
    let after = accepted();
    done.store(true, Ordering::SeqCst);
    let shares = [after[0] - before[0], after[1] - before[1]];
    let (least, most) = (shares[0].min(shares[1]), shares[0].max(shares[1]));
    assert!(most * 10 <= least * 11, "{shares:?}");
    for client in clients {
        client.await.unwrap();
    }
    pool.kill().await;
}

#[tokio::test]
async fn refused_client_gets_the_farewell() {
    let peak = Arc::<Peak>::default();
    let farewell = AtLimit::Refuse(Refusal::farewell("full\r\n"));
    let pool = start(&peak, |spec| spec.max_connections(1).at_limit(farewell));
    let (_, address) = listen(&pool, 1);
    let mut first = connect(address).await;
    first.write_u8(b'k').await.unwrap();
    assert_eq!(soon("it is served", first.read_u8()).await.unwrap(), b'k');
    for _ in 0..100 {
        let mut client = connect(address).await;
        let mut text = String::new();
        soon("the farewell", client.read_to_string(&mut text))
            .await
            .unwrap();
        assert_eq!(text, "full\r\n");
    }
    assert_eq!(pool.listeners().unwrap()[0].refused, 100);
    first.write_u8(0).await.unwrap();
    eventually("the first one has left", || {
        pool.counts().unwrap().connections == 0
    })
    .await;
    assert_eq!(soon("an answer", ask(address, b'n')).await.unwrap(), b'n');
    pool.kill().await;
}

#[tokio::test]
async fn refused_client_is_reset() {
    let peak = Arc::<Peak>::default();
    let pool = start(&peak, |spec| spec);
    let settings = ListenerSettings::new(1)
        .max_connections(1)
        .at_limit(AtLimit::Refuse(Refusal::Reset));
    let listener = TcpListener::bind(ListenOptions::new(loopback()), &runtime());
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    pool.add_listener(listener, settings).unwrap();
    let mut first = connect(address).await;
    first.write_u8(b'k').await.unwrap();
    assert_eq!(soon("it is served", first.read_u8()).await.unwrap(), b'k');
    let mut second = connect(address).await;
    let error = soon("the reset", second.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    pool.kill().await;
}

#[cfg(unix)]
mod program {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::process::{Command, Stdio};

    /// Talks to the server of the example.
    #[test]
    fn example_obeys_its_commands() {
        let mut server = Command::new(crate::build::example("limits"))
            .arg("127.0.0.1:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut commands = server.stdin.take().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let mut line = move || lines.next().unwrap().unwrap();
        let listening = line();
        let address = listening.strip_prefix("listening on ").unwrap().to_owned();
        let connect = || {
            let client = TcpStream::connect(&address).unwrap();
            client
                .set_read_timeout(Some(crate::support::PATIENCE))
                .unwrap();
            client
        };
        let echoed = |mut client: &TcpStream| {
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            assert_eq!(byte, *b"x");
        };
        let mut obeyed = |command: &str| {
            writeln!(commands, "{command}").unwrap();
            line()
        };
        let served = [connect(), connect()];
        served.iter().for_each(echoed);
        let waiting = connect();
        let refused = obeyed("limit 0");
        assert!(refused.starts_with("error: "), "{refused}");
        assert_eq!(obeyed("limit 3"), "done");
        echoed(&waiting);
        assert_eq!(obeyed("refuse"), "done");
        let mut farewell = String::new();
        connect().read_to_string(&mut farewell).unwrap();
        assert_eq!(farewell, "The server is full, please come back later.\r\n");
        assert_eq!(obeyed("limit none"), "done");
        echoed(&connect());
        let status = obeyed("status");
        assert!(status.starts_with("pool limits: running"), "{status}");
        drop(served);
        drop(waiting);
        drop(commands);
        assert!(server.wait().unwrap().success());
    }
}
