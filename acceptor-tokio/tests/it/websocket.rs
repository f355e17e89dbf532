//! The example `websocket`: HTTP and WebSockets in a test pool, and the program.

#[allow(
    dead_code,
    reason = "the tests use the server's parts, and start it as a program"
)]
#[path = "../../examples/websocket.rs"]
mod example;

use std::error::Error;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::support::{Reports, connect, eventually, gone, listen, runtime, soon};
use acceptor_tokio::{
    ConnectionRecord, ConnectionReports, ConnectionState, EndKind, Event, Failure, Grace,
    Lifecycle, Phase, Pool, PoolState, Restart, Settings, Shutdown,
};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::Request;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

const HOUR: Duration = Duration::from_secs(3600);

/// A pool with the example's `serve` and routes. No phase of its stop times out.
struct Bench {
    pool: Pool,
    address: SocketAddr,
    reports: Reports,
}

impl Bench {
    fn start() -> Self {
        Self::with(Router::new())
    }

    /// With more routes.
    fn with(routes: Router) -> Self {
        let (handle, reports) = (example::Handle::default(), Reports::default());
        let spec = example::spec(example::router(handle.clone()).merge(routes))
            .restart(Restart::Transient)
            .intensity(100)
            .period(HOUR)
            .grace(Grace::Unlimited)
            .shutdown(Shutdown::Unlimited)
            .kill_timeout(HOUR)
            .connection_reports(ConnectionReports::Disconnects)
            .observer(reports.observer());
        let pool = Pool::start(runtime(), spec).unwrap();
        handle.set(pool.handle()).unwrap();
        let (_, address) = listen(&pool, 5);
        Self {
            pool,
            address,
            reports,
        }
    }

    /// The only connection.
    fn connection(&self) -> ConnectionRecord {
        let mut list = self.pool.connections().unwrap();
        assert_eq!(list.len(), 1, "{list:?}");
        list.remove(0)
    }

    async fn is_guarded(&self) {
        let guarded = || self.connection().state == ConnectionState::Guarded;
        eventually("`serve` has returned", guarded).await;
    }

    async fn is_empty(&self) {
        let empty = || self.pool.counts().unwrap().connections == 0;
        eventually("all connections have ended", empty).await;
    }

    async fn is_in_its_grace(&self) {
        let grace = PoolState::Stopping(Phase::Grace);
        let stops = || self.pool.status().unwrap().state == grace;
        eventually("the grace begins", stops).await;
    }

    /// Checks that the connection has ended, with neither a failure nor a report.
    async fn ended_without_a_report(&self) {
        self.is_empty().await;
        assert_eq!(self.pool.status().unwrap().failures, 0);
        let report = soon("the pool stops", self.pool.stop()).await;
        assert_eq!((report.stuck, report.undelivered), (0, 0));
        assert!(self.reports.all().is_empty(), "{:?}", self.reports.all());
    }

    /// The panics that were reported as failures of connections.
    fn panics(&self) -> Vec<String> {
        let panic = |event| match event {
            Event::ConnectionFailed {
                failure: Failure::Panic(message),
                ..
            } => message,
            other => panic!("{other:?}"),
        };
        self.reports.all().into_iter().map(panic).collect()
    }
}

/// An HTTP/1 client that can become a WebSocket client.
struct Client(TcpStream);

/// The first byte of a frame that is the last one of its message.
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(connect(address).await)
    }

    /// Connects, and opens a WebSocket.
    async fn open(address: SocketAddr, path: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.upgrades(path).await;
        client
    }

    async fn asks(&mut self, path: &str, headers: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    async fn head(&mut self) -> String {
        soon("a response head arrives", async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.unwrap());
            }
            String::from_utf8(head).unwrap()
        })
        .await
    }

    /// Reads the head and the body of a response with status 200.
    async fn answer(&mut self) -> (String, String) {
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head.split_once("content-length: ").unwrap().1;
        let length = length.split_once('\r').unwrap().0.parse().unwrap();
        let mut body = vec![0; length];
        let read = soon("a response body arrives", self.0.read_exact(&mut body)).await;
        read.unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    async fn gets(&mut self, path: &str) -> String {
        self.asks(path, "").await;
        self.answer().await.1
    }

    async fn upgrades(&mut self, path: &str) {
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        self.asks(path, headers).await;
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    async fn sends(&mut self, kind: u8, payload: &[u8]) {
        assert!(payload.len() < 126, "a longer frame has another head");
        // A client must mask its payload. A mask of zeros leaves it unchanged.
        let mut frame = vec![kind, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    async fn receives(&mut self) -> (u8, Vec<u8>) {
        soon("a frame arrives", async {
            let kind = self.0.read_u8().await.unwrap();
            let mut payload = vec![0; self.0.read_u8().await.unwrap().into()];
            self.0.read_exact(&mut payload).await.unwrap();
            (kind, payload)
        })
        .await
    }

    async fn is_echoed(&mut self, text: &str) {
        self.sends(TEXT, text.as_bytes()).await;
        assert_eq!(self.receives().await, (TEXT, text.into()));
    }

    /// Checks that the server closes the WebSocket, because it stops.
    async fn is_sent_away(&mut self) {
        let payload = [&1001_u16.to_be_bytes(), b"the server stops".as_slice()].concat();
        assert_eq!(self.receives().await, (CLOSE, payload));
        self.sends(CLOSE, &1001_u16.to_be_bytes()).await;
        gone(&mut self.0).await;
    }
}

/// The route `/own`, whose WebSocket runs this function in the task that axum spawns: only the stream has a guard.
fn own<F>(run: impl FnOnce(WebSocket) -> F + Clone + Send + Sync + 'static) -> Router
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade = async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(run);
    Router::new().route("/own", get(upgrade))
}

#[tokio::test]
async fn keep_alive_serves_two_requests() {
    let bench = Bench::start();
    let mut client = Client::connect(bench.address).await;
    assert_eq!(client.gets("/").await, "hello\n");
    let connection = bench.connection();
    assert_eq!(connection.state, ConnectionState::Serving);
    assert_eq!(client.gets("/").await, "hello\n");
    assert_eq!(bench.connection().id, connection.id);
    drop(client);
    bench.ended_without_a_report().await;
}

#[tokio::test]
async fn websocket_is_listed_as_guarded() {
    let bench = Bench::start();
    let before = Instant::now();
    let mut client = Client::connect(bench.address).await;
    client.gets("/").await;
    let accepted = Instant::now();
    let id = bench.connection().id;
    client.upgrades("/ws").await;
    client.is_echoed("hello").await;
    bench.is_guarded().await;
    let at_least = accepted.elapsed();
    let connection = bench.connection();
    assert_eq!(
        (connection.id, bench.pool.counts().unwrap().connections),
        (id, 1)
    );
    // The age of the connection, not in the WebSocket.
    assert!((at_least..before.elapsed()).contains(&connection.age));

    let mut other = Client::connect(bench.address).await;
    let list = other.gets("/connections").await;
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    let listed = |id, state| {
        let is = |line: &&str| {
            line.starts_with(&format!("connection {id} from ")) && line.contains(state)
        };
        assert_eq!(lines.iter().filter(|line| is(line)).count(), 1, "{list}");
    };
    listed(id, ": guarded, ");
    let others = bench.pool.connections().unwrap();
    listed(
        others.iter().find(|other| other.id != id).unwrap().id,
        ": serving, ",
    );
    drop(other);

    client.sends(CLOSE, &1000_u16.to_be_bytes()).await;
    let answer = (CLOSE, 1000_u16.to_be_bytes().to_vec());
    assert_eq!(client.receives().await, answer);
    gone(&mut client.0).await;
    bench.ended_without_a_report().await;
}

#[tokio::test]
async fn hangup_ends_websocket_normally() {
    let bench = Bench::start();
    let client = Client::open(bench.address, "/ws").await;
    bench.is_guarded().await;
    client.0.set_zero_linger().unwrap();
    drop(client);
    bench.ended_without_a_report().await;
}

#[tokio::test]
async fn websocket_continues_in_grace() {
    let bench = Bench::start();
    let mut client = Client::open(bench.address, "/ws").await;
    bench.is_guarded().await;
    let id = bench.connection().id;
    let stopping = bench.pool.stop();
    bench.is_in_its_grace().await;
    client.is_echoed("still here").await;
    assert_eq!(bench.connection().state, ConnectionState::Guarded);
    // Stops a single connection, as an operator would.
    bench.pool.stop_child(id).unwrap();
    client.is_sent_away().await;
    let report = soon("the pool stops", stopping).await;
    assert_eq!(report.connections(Phase::Grace).of(EndKind::Normal), 1);
    assert_eq!(report.all_connections().total(), 1);
}

#[tokio::test]
async fn stop_phase_closes_websocket() {
    let bench = Bench::start();
    let grace = |settings: &mut Settings| settings.grace = Grace::Within(Duration::from_millis(1));
    bench.pool.update(grace).unwrap();
    let mut client = Client::open(bench.address, "/ws").await;
    bench.is_guarded().await;
    let stopping = bench.pool.stop();
    client.is_sent_away().await;
    let report = soon("the pool stops", stopping).await;
    assert_eq!(report.connections(Phase::Stop).of(EndKind::Normal), 1);
    assert_eq!((report.all_connections().total(), report.stuck), (1, 0));
}

/// The kill timeout is an hour: the pool does not wait for it.
#[tokio::test]
async fn kill_ends_websocket() {
    let bench = Bench::start();
    let mut client = Client::open(bench.address, "/ws").await;
    bench.is_guarded().await;
    let report = soon("the pool ends", bench.pool.kill()).await;
    assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), 1);
    assert_eq!(report.stuck, 0);
    gone(&mut client.0).await;
}

#[tokio::test]
async fn unguarded_websocket_fails_at_kill() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let bench = Bench::with(own(async move |mut socket| {
        let error = socket.recv().await.unwrap().unwrap_err();
        drop(socket);
        sender.send(io_error(&error)).unwrap();
    }));
    let mut client = Client::open(bench.address, "/own").await;
    bench.is_guarded().await;
    let report = soon("the pool ends", bench.pool.kill()).await;
    assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), 1);
    assert_eq!(report.stuck, 0);
    let error = soon("the task ends", receiver.recv()).await;
    assert_eq!(error, Some(Some(io::ErrorKind::ConnectionAborted)));
    gone(&mut client.0).await;
}

/// The kind of the first `io::Error` among an error and its sources.
fn io_error(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let errors = std::iter::successors(Some(error), |&error| error.source());
    let mut kinds = errors.filter_map(|error| Some(error.downcast_ref::<io::Error>()?.kind()));
    kinds.next()
}

#[tokio::test]
async fn websocket_held_after_kill_is_stuck() {
    let (release, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (released, drops) = (Arc::clone(&release), Arc::clone(&dropped));
    let bench = Bench::with(own(async move |socket| {
        released.notified().await;
        drop(socket);
        drops.notify_one();
    }));
    let timeout = |settings: &mut Settings| settings.kill_timeout = Duration::from_millis(100);
    bench.pool.update(timeout).unwrap();
    let mut client = Client::open(bench.address, "/own").await;
    bench.is_guarded().await;
    let id = bench.connection().id;
    let report = soon("the pool ends", bench.pool.kill()).await;
    assert_eq!(report.stuck, 1);
    let late = (report.late[0].id, report.late[0].phase, report.late[0].kind);
    assert_eq!(late, (id, Phase::Kill, None));
    // Dropping it later is harmless.
    release.notify_one();
    soon("the socket is dropped", dropped.notified()).await;
    gone(&mut client.0).await;
}

/// The pool does not see the panic of a task that axum has spawned, but unwinding drops the stream.
#[tokio::test]
async fn unguarded_websocket_panic_ends_normally() {
    let bench = Bench::with(own(async |mut socket| {
        socket.recv().await.unwrap().unwrap();
        panic!("in axum's task");
    }));
    let mut client = Client::open(bench.address, "/own").await;
    bench.is_guarded().await;
    client.sends(TEXT, b"now").await;
    gone(&mut client.0).await;
    bench.ended_without_a_report().await;
}

#[tokio::test]
async fn guarded_websocket_panic_is_reported() {
    let upgrade = async |upgrade: WebSocketUpgrade, Extension(lifecycle): Extension<Lifecycle>| {
        let guard = lifecycle.guard();
        upgrade.on_upgrade(async |mut socket| {
            let panics = guard.run(async move {
                socket.recv().await.unwrap().unwrap();
                panic!("in the WebSocket");
            });
            panics.await;
        })
    };
    let bench = Bench::with(Router::new().route("/own", get(upgrade)));
    let mut client = Client::open(bench.address, "/own").await;
    bench.is_guarded().await;
    client.sends(TEXT, b"now").await;
    gone(&mut client.0).await;
    bench.is_empty().await;
    eventually("the end is reported", || !bench.reports.all().is_empty()).await;
    assert_eq!(bench.panics(), ["in the WebSocket"]);
}

#[tokio::test]
async fn handler_panic_is_reported() {
    let panics = async || -> &'static str { panic!("in the handler") };
    let bench = Bench::with(Router::new().route("/own", get(panics)));
    let mut client = Client::connect(bench.address).await;
    client.asks("/own", "").await;
    gone(&mut client.0).await;
    eventually("the end is reported", || !bench.reports.all().is_empty()).await;
    assert_eq!(bench.panics(), ["in the handler"]);
}

/// A failing body.
struct Fails;

impl hyper::body::Body for Fails {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(Some(Err("in the body")))
    }
}

#[tokio::test]
async fn failing_body_is_a_failure() {
    let routes = Router::new().route("/own", get(async || Body::new(Fails)));
    let bench = Bench::with(routes);
    let mut client = Client::connect(bench.address).await;
    client.asks("/own", "").await;
    let failed = |event: &Event<_>| {
        matches!(
            event,
            Event::ConnectionFailed {
                failure: Failure::Error(_),
                ..
            }
        )
    };
    eventually("the end is reported", || bench.reports.count(failed) == 1).await;
    assert_eq!(bench.pool.status().unwrap().failures, 1);
}

/// A route `/slow` whose response waits for the test.
fn slow() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (asks, answers) = (Arc::clone(&asked), Arc::clone(&answer));
    let handler = async move || {
        asks.notify_one();
        answers.notified().await;
        "slow\n"
    };
    (Router::new().route("/slow", get(handler)), asked, answer)
}

#[tokio::test]
async fn grace_answers_requests_in_flight() {
    let (routes, asked, answer) = slow();
    let bench = Bench::with(routes);
    let mut idle = Client::connect(bench.address).await;
    idle.gets("/").await;
    let mut client = Client::connect(bench.address).await;
    client.asks("/slow", "").await;
    soon("the handler is called", asked.notified()).await;
    let stopping = bench.pool.stop();
    gone(&mut idle.0).await;
    answer.notify_one();
    let (head, body) = client.answer().await;
    assert_eq!(body, "slow\n");
    assert!(head.contains("connection: close\r\n"), "{head}");
    gone(&mut client.0).await;
    let report = soon("the pool stops", stopping).await;
    assert_eq!(report.connections(Phase::Grace).of(EndKind::Normal), 2);
    assert!(bench.reports.all().is_empty());
}

#[tokio::test]
async fn grace_answers_first_request() {
    let bench = Bench::start();
    let mut client = Client::connect(bench.address).await;
    let accepted = || bench.pool.counts().unwrap().connections == 1;
    eventually("the client is accepted", accepted).await;
    let stopping = bench.pool.stop();
    bench.is_in_its_grace().await;
    assert_eq!(client.gets("/").await, "hello\n");
    gone(&mut client.0).await;
    let report = soon("the pool stops", stopping).await;
    assert_eq!(report.connections(Phase::Grace).of(EndKind::Normal), 1);
}

/// The request is in the socket, and neither tokio nor hyper has noticed it when hyper shuts down.
#[tokio::test]
async fn request_just_before_grace_is_answered() {
    let (gives, mut given) = mpsc::unbounded_channel();
    let give = async move |Extension(lifecycle): Extension<Lifecycle>| {
        gives.send(lifecycle).unwrap();
        "given\n"
    };
    let bench = Bench::with(Router::new().route("/own", get(give)));
    let mut client = Client::connect(bench.address).await;
    let mut other = Client::connect(bench.address).await;
    assert_eq!(other.gets("/own").await, "given\n");
    let lifecycle = given.recv().await.unwrap();
    // It waits before the client's connection does, so it is woken first. Everything runs on the test's thread.
    let mut draining = lifecycle.draining().wait();
    let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut draining).poll(cx)));
    assert_eq!(waits.await, Poll::Pending);
    assert_eq!(client.gets("/").await, "hello\n");
    let stopping = bench.pool.stop();
    draining.await;
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(client.0.try_write(request).unwrap(), request.len());
    assert_eq!(client.answer().await.1, "hello\n");
    soon("the pool stops", stopping).await;
}

/// Checks that a client that sends this before it leaves is not a failure of the server, and is reported as disconnected or not at all.
async fn check_no_failure(sent: &[u8], disconnected: usize, leaves: impl AsyncFnOnce(TcpStream)) {
    let bench = Bench::start();
    let mut stream = connect(bench.address).await;
    stream.write_all(sent).await.unwrap();
    let accepted = || bench.pool.listeners().unwrap()[0].accepted == 1;
    eventually("the client is accepted", accepted).await;
    leaves(stream).await;
    bench.is_empty().await;
    let mut other = Client::connect(bench.address).await;
    assert_eq!(other.gets("/").await, "hello\n");
    assert_eq!(bench.pool.status().unwrap().failures, 0);
    let is = |event: &Event<_>| matches!(event, Event::Disconnected { .. });
    eventually("the end is reported", || {
        bench.reports.count(is) == disconnected
    })
    .await;
    assert_eq!(bench.reports.all().len(), disconnected);
}

#[tokio::test]
async fn leaving_client_is_no_failure() {
    let closes = async |stream| drop(stream);
    check_no_failure(b"", 0, closes).await;
    check_no_failure(b"GET / HTTP/1.1\r\n", 1, closes).await;
    let resets = async |stream: TcpStream| {
        stream.set_zero_linger().unwrap();
        drop(stream);
    };
    check_no_failure(b"GET / HTTP/1.1\r\n", 1, resets).await;
    // The HTTP/2 preface, and half of it.
    check_no_failure(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1, resets).await;
    check_no_failure(b"PRI * HTTP", 1, closes).await;
}

#[tokio::test]
async fn protocol_violation_is_no_failure() {
    let reads = async |mut stream: TcpStream| {
        let mut answer = Vec::new();
        let _ = soon("the server closes", stream.read_to_end(&mut answer)).await;
    };
    check_no_failure(b"no request\r\n\r\n", 1, reads).await;
    // The preface, followed by bytes that are not an HTTP/2 frame.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frame of any kind";
    check_no_failure(preface, 1, reads).await;
}

/// The clock is tokio's, which advances when there is nothing else to do.
#[tokio::test]
async fn silent_client_is_disconnected() {
    let bench = Bench::start();
    let mut idle = Client::connect(bench.address).await;
    idle.gets("/").await;
    let mut half = Client::connect(bench.address).await;
    half.0.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut silent = Client::connect(bench.address).await;
    let accepted = || bench.pool.counts().unwrap().connections == 3;
    eventually("the clients are accepted", accepted).await;
    tokio::time::pause();
    for client in [&mut idle, &mut half, &mut silent] {
        let mut rest = Vec::new();
        let read = client.0.read_to_end(&mut rest);
        soon("the server closes", read).await.unwrap();
        assert_eq!(rest, b"");
    }
    tokio::time::resume();
    bench.ended_without_a_report().await;
}

/// An HTTP/2 client.
struct Http2(http2::SendRequest<Body>);

impl Http2 {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TokioIo::new(connect(address).await);
        let (sends, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(sends)
    }

    async fn gets(&mut self, path: &str) -> hyper::Result<String> {
        let request = Request::get(format!("http://localhost{path}"));
        let request = request.body(Body::empty()).unwrap();
        let answer = soon("a response arrives", self.0.send_request(request)).await?;
        assert_eq!(answer.status(), 200);
        let body = to_bytes(Body::new(answer.into_body()), 1024);
        let body = soon("a response body arrives", body).await.unwrap();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn http2_requests_share_a_connection() {
    let bench = Bench::start();
    let mut client = Http2::connect(bench.address).await;
    assert_eq!(client.gets("/").await.unwrap(), "hello\n");
    let id = bench.connection().id;
    let list = client.gets("/connections").await.unwrap();
    assert!(
        list.starts_with(&format!("connection {id} from ")),
        "{list}"
    );
    drop(client);
    bench.ended_without_a_report().await;
}

#[tokio::test]
async fn grace_answers_http2_stream() {
    let (routes, asked, answer) = slow();
    let bench = Bench::with(routes);
    let mut client = Http2::connect(bench.address).await;
    let asks = tokio::spawn(async move { (client.gets("/slow").await, client) });
    soon("the handler is called", asked.notified()).await;
    let stopping = bench.pool.stop();
    bench.is_in_its_grace().await;
    answer.notify_one();
    let (answered, client) = soon("the request is answered", asks).await.unwrap();
    assert_eq!(answered.unwrap(), "slow\n");
    // The server closes the connection.
    let report = soon("the pool stops", stopping).await;
    drop(client);
    assert_eq!(report.connections(Phase::Grace).of(EndKind::Normal), 1);
}

/// Sends the number of the pool's connections when it is dropped.
struct SendsCount(example::Handle, mpsc::UnboundedSender<usize>);

impl Drop for SendsCount {
    fn drop(&mut self) {
        let counts = self.0.get().unwrap().counts().unwrap();
        self.1.send(counts.connections).unwrap();
    }
}

#[tokio::test]
async fn http2_stream_drops_before_connection() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let (asked, pool) = (Arc::new(Notify::new()), example::Handle::default());
    let (asks, handle) = (Arc::clone(&asked), Arc::clone(&pool));
    let handler = async move || {
        let sends = SendsCount(handle, sender);
        asks.notify_one();
        pending::<()>().await;
        drop(sends);
        "never"
    };
    let bench = Bench::with(Router::new().route("/own", get(handler)));
    pool.set(bench.pool.handle()).unwrap();
    let mut client = Http2::connect(bench.address).await;
    let answered = tokio::spawn(async move { client.gets("/own").await });
    soon("the handler is called", asked.notified()).await;
    let report = soon("the pool ends", bench.pool.kill()).await;
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), 1);
    let answered = soon("the client sees the end", answered).await.unwrap();
    answered.unwrap_err();
}

#[tokio::test]
async fn http2_stream_panic_is_reported() {
    let panics = async || -> &'static str { panic!("in the handler") };
    let bench = Bench::with(Router::new().route("/own", get(panics)));
    let mut client = Http2::connect(bench.address).await;
    client.gets("/own").await.unwrap_err();
    assert_eq!(client.gets("/").await.unwrap(), "hello\n");
    drop(client);
    eventually("the end is reported", || !bench.reports.all().is_empty()).await;
    assert_eq!(bench.panics(), ["in the handler"]);
}

#[cfg(unix)]
mod program {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};
    use tokio::task::spawn_blocking;

    use super::*;

    /// The running program, killed when dropped.
    struct Server(Child);

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    async fn line(mut output: BufReader<ChildStdout>) -> (String, BufReader<ChildStdout>) {
        let reads = spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            (line, output)
        });
        soon("the server prints a line", reads).await.unwrap()
    }

    #[tokio::test]
    async fn interrupt_stops_the_program() {
        let mut command = Command::new(crate::build::example("websocket"));
        let command = command.arg("127.0.0.1:0").stdout(Stdio::piped());
        let mut server = Server(command.spawn().unwrap());
        let output = BufReader::new(server.0.stdout.take().unwrap());
        let (listens, output) = line(output).await;
        let address = listens.trim_end().strip_prefix("listening on ").unwrap();
        let address = address.parse().unwrap();
        let mut client = Client::open(address, "/ws").await;
        client.is_echoed("hello").await;
        let mut other = Client::connect(address).await;
        assert!(other.gets("/connections").await.contains(": guarded, "));
        kill_process(Pid::from_child(&server.0), Signal::INT).unwrap();
        // Its listener has closed.
        gone(&mut other.0).await;
        client.is_echoed("in the grace").await;
        client.sends(CLOSE, &1000_u16.to_be_bytes()).await;
        let (stopped, _open) = line(output).await;
        assert!(
            stopped.starts_with("pool stopped (requested) "),
            "{stopped}"
        );
        let mut status = None;
        eventually("the program ends", || {
            status = server.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.unwrap().success());
    }

    #[test]
    fn bad_arguments_are_named() {
        let check = |arguments: &[&str], expected: &str| {
            let mut command = Command::new(crate::build::example("websocket"));
            let output = command.args(arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
        };
        let allowed = "give IP:PORT, as in 127.0.0.1:8080 or [::1]:0";
        let expected = format!("cannot listen on \"localhost\": {allowed}\n");
        check(&["localhost"], &expected);
        let two = ["127.0.0.1:0", "127.0.0.1:0"];
        check(&two, "too many arguments: give at most one, IP:PORT\n");
    }
}
