//! A web server with WebSockets: axum and hyper as the protocol of a pool.
//!
//! ```text
//! cargo run -p acceptor-tokio --example websocket [IP:PORT]
//! ```
//!
//! It listens on 127.0.0.1:8080, or on the address given; with port 0 the system chooses one. It speaks HTTP/1 and HTTP/2
//! without TLS.
//!
//! | path | |
//! |---|---|
//! | `/` | a greeting |
//! | `/connections` | the connections of the pool, including WebSockets |
//! | `/ws` | a WebSocket that echoes each message |
//!
//! ```text
//! curl http://127.0.0.1:8080/connections
//! ```
//!
//! Ctrl-C stops it. Requests in flight are answered, idle connections close, and WebSockets have ten seconds of grace before
//! they are closed with the code 1001.

use std::env;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use acceptor_tokio::{
    Acceptor, BoxError, Connection, Exit, Guard, GuardedStream, Lifecycle, ListenOptions, Pool,
    PoolHandle, Report, Spec, StopReason, TcpListener, TokioRuntime, acceptor_from, observer_fn,
};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::task::yield_now;
use tokio::time::timeout;

/// How long a client may take for the head of a request, including the time between two requests.
const IDLE: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(10);

/// The handle of the pool, which is set once the pool has started with its router.
pub(crate) type Handle = Arc<OnceLock<PoolHandle>>;

pub(crate) fn router(pool: Handle) -> Router {
    Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/connections", get(connections))
        .route("/ws", get(websocket))
        .with_state(pool)
}

async fn connections(State(pool): State<Handle>) -> Result<String, StatusCode> {
    let list = pool.get().and_then(|pool| pool.connections().ok());
    let list = list.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(list.iter().map(|record| format!("{record}\n")).collect())
}

/// Axum spawns a separate task for the WebSocket. The guarded stream alone keeps the connection in the pool; with its own
/// guard, the task is also dropped on a kill wherever it suspends, and its panic is reported.
async fn websocket(
    upgrade: WebSocketUpgrade,
    Extension(lifecycle): Extension<Lifecycle>,
) -> Response {
    let guard = lifecycle.guard();
    upgrade.on_upgrade(|socket| async move {
        guard.run(echo(socket, lifecycle)).await;
    })
}

async fn echo(mut socket: WebSocket, lifecycle: Lifecycle) {
    let mut stop = lifecycle.trap_stop().wait();
    let mut closing = false;
    loop {
        let message = tokio::select! {
            biased;
            () = &mut stop, if !closing => {
                closing = true;
                let close = CloseFrame {
                    code: close_code::AWAY,
                    reason: "the server stops".into(),
                };
                Message::Close(Some(close))
            }
            received = socket.recv() => match received {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) if !closing => message,
                // Tungstenite answers pings and the client's close.
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
        };
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

/// The server without its listener.
pub(crate) fn spec(router: Router) -> Spec<impl Acceptor<TcpListener>> {
    let serve = move |connection| serve(connection, router.clone());
    Spec::new("websocket", acceptor_from(serve)).grace(GRACE)
}

/// One connection, up to its last request or its upgrade.
async fn serve(connection: Connection, router: Router) -> Exit {
    let Connection {
        stream, lifecycle, ..
    } = connection;
    // The time limit of hyper begins with the first byte. And if hyper shuts down before that, it does not answer a
    // client whose request is on its way.
    match timeout(IDLE, stream.peek(&mut [0])).await {
        Ok(Ok(0)) => return Exit::normal(),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Exit::error(error),
        Err(_) => return Exit::clean("no request"),
    }

    let guard = lifecycle.guard();
    let draining = lifecycle.draining().wait();
    let mut http = auto::Builder::new(Subtasks(guard.clone()));
    // Without a timer hyper has no time limits.
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE);
    let io = TokioIo::new(GuardedStream::new(stream, guard));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(lifecycle.clone());
        router.call(request)
    });
    let mut serving = pin!(http.serve_connection_with_upgrades(io, service));
    let drains = async {
        draining.await;
        // A request may have arrived that tokio has not noticed yet.
        yield_now().await;
    };
    let served = tokio::select! {
        biased;
        served = serving.as_mut() => served,
        () = drains => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    match served.map_err(|error| error.downcast::<hyper::Error>()) {
        Ok(()) => Exit::normal(),
        // The response body of a handler failed.
        Err(Ok(error)) if error.is_user() => Exit::failed(error),
        Err(Ok(error)) if error.is_timeout() => Exit::clean("no further request"),
        // All other errors are caused by the client, which hung up or violated the protocol.
        Err(Ok(error)) => Exit::disconnected(error),
        Err(Err(error)) => Exit::disconnected(error),
    }
}

/// Runs HTTP/2 streams as parts of their connection: hyper-util's own executor would spawn them outside the pool.
#[derive(Clone)]
struct Subtasks(Guard);

impl<F> Executor<F> for Subtasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(self.0.clone().run(stream));
    }
}

async fn run() -> Result<(), BoxError> {
    let address = address()?;
    let runtime = TokioRuntime::current()?;
    let handle = Handle::default();
    let spec = spec(router(handle.clone()));
    let spec = spec.observer(observer_fn(|report: &Report| eprintln!("{report}")));
    let pool = Pool::start(runtime.clone(), spec)?;
    handle.get_or_init(|| pool.handle());
    let listener = TcpListener::bind(ListenOptions::new(address), &runtime)?;
    let address = listener.local_addr()?;
    pool.add_listener(listener, 10)?;

    let interrupted = async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {}
            // Second, because the reader of this line may send the signal immediately.
            () = async { println!("listening on {address}"); pending().await } => {}
        }
    };
    let report = pool.run_until(interrupted).await;
    println!("{report}");
    match report.reason {
        StopReason::Requested => Ok(()),
        by_itself => Err(format!("the pool stopped by itself: {by_itself}").into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The address in the first argument.
fn address() -> Result<SocketAddr, BoxError> {
    let mut arguments = env::args_os().skip(1);
    let Some(argument) = arguments.next() else {
        return Ok(SocketAddr::from(([127, 0, 0, 1], 8080)));
    };
    if arguments.next().is_some() {
        return Err("too many arguments: give at most one, IP:PORT".into());
    }
    let address = argument.to_str().and_then(|text| text.parse().ok());
    address.ok_or_else(|| {
        format!("cannot listen on {argument:?}: give IP:PORT, as in 127.0.0.1:8080 or [::1]:0")
            .into()
    })
}
