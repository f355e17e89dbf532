//! A stop with 5,000 idle connections takes the time of its phases and little more.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

#[path = "it/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acceptor_tokio::{
    Acceptor, Connection, EndKind, Event, Phase, Pool, Shutdown, Spec, StopReport, TcpListener,
    acceptor_fn,
};
use support::{Reports, client, gone, listen, ping, runtime, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};

const CONNECTIONS: usize = 5_000;

/// How much longer than its phases a stop of this many connections may take.
const BEYOND: Duration = Duration::from_secs(1);

/// One test at a time: they measure time, and each needs 10,000 descriptors.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Clients {
    pool: Pool,
    reports: Reports,
    clients: Vec<TcpStream>,
    _alone: MutexGuard<'static, ()>,
}

impl Clients {
    /// Connects the clients, and waits until each is served.
    async fn gather(spec: Spec<impl Acceptor<TcpListener>>) -> Self {
        let alone = ALONE.lock().await;
        let descriptors = 2 * CONNECTIONS as u64 + 200;
        let limit = rlimit::increase_nofile_limit(descriptors).expect("the limit can be read");
        assert!(
            limit >= descriptors,
            "the hard limit of descriptors is {limit}, not {descriptors}"
        );
        let reports = Reports::default();
        let spec = spec.observer(reports.observer());
        let pool = Pool::start(runtime(), spec).expect("the spec is allowed");
        let (_, address) = listen(&pool, 10);
        let mut clients = Vec::with_capacity(CONNECTIONS);
        while clients.len() < CONNECTIONS {
            clients.push(client(address).await);
        }
        assert_eq!(pool.counts().unwrap().connections, CONNECTIONS);
        Self {
            pool,
            reports,
            clients,
            _alone: alone,
        }
    }

    /// Stops the pool: this takes `phases` and not much longer, and all connections end as specified.
    async fn check(self, phases: Duration, phase: Phase, kind: EndKind) -> Reports {
        let Self {
            pool,
            reports,
            clients,
            _alone,
        } = self;
        let began = Instant::now();
        let report = soon("the stop ends", pool.stop()).await;
        let elapsed = began.elapsed();
        ended(&report, phase, kind);
        for elapsed in [elapsed, report.elapsed] {
            assert!(
                elapsed >= phases,
                "{elapsed:?} is shorter than the phases, {phases:?}"
            );
            assert!(
                elapsed <= phases + BEYOND,
                "{elapsed:?} is much longer than {phases:?}"
            );
        }
        println!("{phases:?} of phases took {elapsed:?}");
        // Every socket is closed: no client still waits for an answer.
        for mut client in clients {
            gone(&mut client).await;
        }
        reports
    }
}

#[track_caller]
fn ended(report: &StopReport, phase: Phase, kind: EndKind) {
    assert_eq!(report.connections(phase).of(kind), CONNECTIONS, "{report}");
    assert_eq!(report.all_connections().total(), CONNECTIONS, "{report}");
    assert_eq!(report.all_acceptors().of(EndKind::Stopped), 10, "{report}");
    assert_eq!(report.stuck, 0, "{report}");
}

/// Answers one byte and then waits for more, like an idle keep-alive connection.
fn idle() -> Spec<impl Acceptor<TcpListener>> {
    let serve = |mut connection: Connection| async move { idles(&mut connection.stream).await };
    Spec::new("idle", acceptor_fn(serve))
}

async fn idles(stream: &mut TcpStream) -> Result<(), acceptor_tokio::BoxError> {
    while let Ok(byte) = stream.read_u8().await {
        stream.write_u8(byte).await?;
    }
    Ok(())
}

/// Traps the stop signal and never ends.
fn stays() -> Spec<impl Acceptor<TcpListener>> {
    let serve = |mut connection: Connection| async move {
        let _stop = connection.lifecycle.trap_stop();
        idles(&mut connection.stream).await
    };
    Spec::new("stays", acceptor_fn(serve))
}

/// Ends by itself as soon as it sees *draining*.
fn leaves() -> Spec<impl Acceptor<TcpListener>> {
    let serve = |mut connection: Connection| async move {
        let draining = connection.lifecycle.draining().clone();
        tokio::select! {
            () = draining.wait() => Ok(()),
            idled = idles(&mut connection.stream) => idled,
        }
    };
    Spec::new("leaves", acceptor_fn(serve))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrapped_idle_connections_stop_at_once() {
    let crowd = Clients::gather(idle().shutdown(Duration::from_secs(60))).await;
    let reports = crowd
        .check(Duration::ZERO, Phase::Stop, EndKind::Stopped)
        .await;
    assert_eq!(reports.all().len(), 0, "{:?}", reports.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trapping_connections_are_killed_at_shutdown() {
    let shutdown = Duration::from_millis(300);
    let crowd = Clients::gather(stays().shutdown(shutdown)).await;
    let reports = crowd.check(shutdown, Phase::Kill, EndKind::Killed).await;
    let killed = |event: &Event<SocketAddr>| {
        matches!(
            event,
            Event::KilledWhileStopping {
                count: CONNECTIONS,
                ..
            }
        )
    };
    assert_eq!(reports.count(killed), 1);
    assert_eq!(reports.all().len(), 1, "one report for all of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_connections_end_the_grace_early() {
    let spec = leaves()
        .grace(Duration::from_secs(60))
        .shutdown(Shutdown::Unlimited);
    let mut crowd = Clients::gather(spec).await;
    // Until the stop they are served as before.
    ping(&mut crowd.clients[0]).await;
    let reports = crowd
        .check(Duration::ZERO, Phase::Grace, EndKind::Normal)
        .await;
    assert_eq!(reports.all().len(), 0, "{:?}", reports.all());
}
