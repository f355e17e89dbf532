//! Listeners on their own runtimes, in one pool: where their tasks run, and the effect of such a runtime's shutdown.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Reports, echo, eventually, loopback, ping, runtime, soon};
use acceptor_tokio::{
    Acceptor, BoxError, Connection, EndKind, Event, Failure, Init, ListenOptions, ListenerId,
    ListenerInfo, ListenerSettings, Pool, Runtime, Spec, StopReason, TcpListener, Terminate,
    TokioRuntime, acceptor_fn,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A single-threaded runtime, as for one core.
struct Core {
    runtime: TokioRuntime,
    handle: Handle,
    goes_on: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Core {
    fn start() -> Self {
        let (made, makes) = mpsc::channel();
        let (goes_on, ends) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            made.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(ends);
        });
        let handle: Handle = makes.recv().unwrap();
        Self {
            runtime: TokioRuntime::from_handle(handle.clone()),
            handle,
            goes_on,
            thread,
        }
    }

    fn id(&self) -> String {
        self.handle.id().to_string()
    }

    /// Shuts the runtime down, with its tasks.
    fn end(self) {
        drop(self.goes_on);
        self.thread.join().unwrap();
    }

    /// Adds a listener on a shared address.
    fn listen(&self, pool: &Pool, address: &mut SocketAddr, tag: &str) -> ListenerId {
        let socket = ListenOptions::new(*address)
            .reuse_port(true)
            .bind()
            .unwrap();
        *address = socket.local_addr().unwrap();
        let listener = TcpListener::from_std(socket, &self.runtime).unwrap();
        let settings = ListenerSettings::new(2).tag(tag);
        pool.add_listener_on(&self.runtime, listener, settings)
            .unwrap()
    }
}

fn current() -> String {
    Handle::current().id().to_string()
}

/// Sends its client the tag of the listener, and where `init` and `serve` ran; then echoes.
#[derive(Default)]
struct Answers {
    /// The tag and the runtime seen by `init` of each acceptor that terminated.
    terminated: Arc<Mutex<Vec<(String, String)>>>,
}

impl Acceptor<TcpListener> for Answers {
    type State = (String, String);
    type Exit = Result<(), BoxError>;

    async fn init(
        &self,
        listener: &ListenerInfo<SocketAddr>,
    ) -> Result<Init<Self::State>, BoxError> {
        let tag = listener.tag.as_deref().ok_or("the listener has no tag")?;
        Ok(Init::Accept((tag.to_owned(), current())))
    }

    async fn serve(&self, connection: Connection, (tag, init): Self::State) -> Self::Exit {
        assert_eq!(connection.tag.as_deref(), Some(&*tag));
        let mut stream = connection.stream;
        let line = format!("{tag} {init} {}\n", current());
        stream.write_all(line.as_bytes()).await?;
        echo(&mut stream).await
    }

    async fn terminate(&self, _: &Terminate, (tag, _): Self::State) {
        self.terminated.lock().unwrap().push((tag, current()));
    }
}

struct Client {
    tag: String,
    stream: TcpStream,
}

/// Connects, and checks that the connection runs on its listener's runtime.
async fn connect(address: SocketAddr, cores: &[(String, String)]) -> Client {
    let mut stream = BufReader::new(crate::support::connect(address).await);
    let mut line = String::new();
    soon("the server speaks", stream.read_line(&mut line))
        .await
        .unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    let [tag, init, serve] = words[..] else {
        panic!("{line:?} is not the server's line");
    };
    assert_eq!(init, serve);
    assert!(
        cores.contains(&(tag.to_owned(), serve.to_owned())),
        "{line}"
    );
    Client {
        tag: tag.to_owned(),
        stream: stream.into_inner(),
    }
}

/// Connects until each listener has a client. The system distributes clients by their ports.
async fn connect_to_each(
    address: SocketAddr,
    cores: &[(String, String)],
    clients: &mut Vec<Client>,
) {
    let began = Instant::now();
    loop {
        let tags: BTreeSet<_> = clients.iter().map(|client| &client.tag).collect();
        if cores.iter().all(|(tag, _)| tags.contains(tag)) {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "only {tags:?} were connected to"
        );
        clients.push(connect(address, cores).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_survives_one_of_four_runtimes() {
    let (reports, acceptor) = (Reports::default(), Answers::default());
    let terminated = Arc::clone(&acceptor.terminated);
    let spec = Spec::new("cores", acceptor).observer(reports.observer());
    let pool: Pool = Pool::start(runtime(), spec).unwrap();
    let mut cores: Vec<_> = (0..4).map(|_| Core::start()).collect();
    let mut address = loopback();
    let mut names = Vec::new();
    let mut listeners = Vec::new();
    for (number, core) in cores.iter().enumerate() {
        let tag = number.to_string();
        listeners.push(core.listen(&pool, &mut address, &tag));
        names.push((tag, core.id()));
    }

    let mut clients = Vec::new();
    connect_to_each(address, &names, &mut clients).await;
    let tags_of_clients = |clients: &[Client]| {
        let mut tags: Vec<_> = clients.iter().map(|client| client.tag.clone()).collect();
        tags.sort();
        tags
    };
    let tags_of_connections = || {
        let connections = pool.connections().unwrap().into_iter();
        let mut tags: Vec<_> = connections
            .map(|connection| connection.tag.unwrap().to_string())
            .collect();
        tags.sort();
        tags
    };
    assert_eq!(tags_of_connections(), tags_of_clients(&clients));
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (clients.len(), 8));
    let shown = pool.listeners().unwrap();
    let shown: Vec<_> = shown.iter().map(|listener| listener.id).collect();
    assert_eq!(shown, listeners);

    let (lost, left) = clients
        .into_iter()
        .partition::<Vec<_>, _>(|client| client.tag == "2");
    let mut clients = left;
    cores.remove(2).end();
    names.remove(2);
    let failed = |event: &Event<SocketAddr>| matches!(event, Event::ListenerFailed { listener, listeners_left: 3, .. } if *listener == listeners[2]);
    eventually("the listener has failed", || reports.count(failed) == 1).await;
    let lost_one = |event: &Event<SocketAddr>| {
        let lost = |failure: &Failure| matches!(failure, Failure::Lost);
        matches!(event, Event::ConnectionFailed { listener, failure, .. } if *listener == listeners[2] && lost(failure))
    };
    eventually("its connections are lost", || {
        reports.count(lost_one) == lost.len()
    })
    .await;
    assert_eq!(*terminated.lock().unwrap(), []);
    eventually("the other connections remain", || {
        tags_of_connections() == tags_of_clients(&clients)
    })
    .await;
    for client in &mut clients {
        ping(&mut client.stream).await;
    }

    let fifth = Core::start();
    fifth.listen(&pool, &mut address, "4");
    names.push(("4".to_owned(), fifth.id()));
    connect_to_each(address, &names, &mut clients).await;
    assert_eq!(tags_of_connections(), tags_of_clients(&clients));
    assert_eq!(pool.counts().unwrap().acceptors, 8);

    let report = soon("the pool stops", pool.stop()).await;
    assert_eq!((report.reason, report.stuck), (StopReason::Requested, 0));
    assert_eq!(report.all_connections().total(), clients.len());
    let mut expected: Vec<_> = names
        .iter()
        .flat_map(|name| [name.clone(), name.clone()])
        .collect();
    expected.sort();
    let mut terminated = terminated.lock().unwrap().clone();
    terminated.sort();
    assert_eq!(terminated, expected);
    cores.into_iter().chain([fifth]).for_each(Core::end);
}

#[test]
fn runtime_identity_is_its_threads() {
    let (one, other) = (Core::start(), Core::start());
    let again = TokioRuntime::from_handle(one.handle.clone());
    assert!(one.runtime.is_same(&again));
    assert!(!one.runtime.is_same(&other.runtime));
    [one, other].into_iter().for_each(Core::end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_on_ended_runtime_fails() {
    let reports = Reports::default();
    let spec = Spec::new("cores", Answers::default()).observer(reports.observer());
    let pool: Pool = Pool::start(runtime(), spec).unwrap();
    let (core, mut address) = (Core::start(), loopback());
    let socket = ListenOptions::new(address).bind().unwrap();
    address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, &core.runtime).unwrap();
    let ended = core.runtime.clone();
    core.end();
    let settings = ListenerSettings::new(2).tag("ended");
    let id = pool.add_listener_on(&ended, listener, settings).unwrap();
    let failed = |event: &Event<SocketAddr>| matches!(event, Event::ListenerFailed { listener, .. } if *listener == id);
    eventually("the listener has failed", || reports.count(failed) == 1).await;
    assert_eq!(pool.listeners().unwrap(), []);
    // The address can be bound again.
    ListenOptions::new(address).bind().unwrap();
}

/// Children on other runtimes are not abandoned because one runtime is blocked (S8).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_blocked_runtime_has_stuck_children() {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let serve = move |connection: Connection| {
        let released = Arc::clone(&released);
        async move {
            let mut stream = connection.stream;
            stream.write_u8(7).await?;
            if stream.read_u8().await? == b'b' {
                stream.write_u8(8).await?;
                let _ = released.lock().unwrap().recv();
            }
            Ok(())
        }
    };
    let kill_timeout = Duration::from_millis(400);
    let spec = Spec::new("blocks", acceptor_fn(serve)).kill_timeout(kill_timeout);
    let pool: Pool = Pool::start(runtime(), spec).unwrap();
    let cores = [Core::start(), Core::start()];
    let mut clients = Vec::new();
    for core in &cores {
        let mut address = loopback();
        core.listen(&pool, &mut address, "core");
        for _ in 0..2 {
            let mut client = crate::support::connect(address).await;
            assert_eq!(
                soon("the client is served", client.read_u8())
                    .await
                    .unwrap(),
                7
            );
            clients.push(client);
        }
    }
    clients[0].write_u8(b'b').await.unwrap();
    let blocks = soon("the connection blocks", clients[0].read_u8()).await;
    assert_eq!(blocks.unwrap(), 8);
    let report = soon("the kill ends", pool.kill()).await;
    // The blocking connection, the one beside it, and the acceptors of that runtime.
    let acceptors = report.all_acceptors().of(EndKind::Killed);
    let connections = report.all_connections().of(EndKind::Killed);
    assert_eq!(
        (report.stuck, connections, acceptors),
        (4, 2, 2),
        "{report}"
    );
    assert!(report.elapsed >= kill_timeout);
    drop(release);
    cores.into_iter().for_each(Core::end);
}
