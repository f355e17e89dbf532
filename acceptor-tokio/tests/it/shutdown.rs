//! The latches and the phases of a stop, seen by real clients (N1 to N3, S1 to S9).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE, Reports, SLACK, client, connect, echo, echo_spec, eventually, gone, listen, loopback,
    ping, runtime, soon,
};
use acceptor_tokio::{
    Acceptor, AddListenerReason, BoxError, ChildError, CloseError, Connection, EndKind, Event,
    Grace, Init, ListenOptions, ListenerId, ListenerInfo, ListenerState, Phase, Pool, PoolHandle,
    PoolState, ReconfigureError, Shutdown, Spec, StopReason, StopReport, TcpListener, Terminate,
    WaitingAcceptors, acceptor_fn,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LONG: Duration = Duration::from_secs(600);

/// A pool with one listener of two acceptors.
fn pool(spec: Spec<impl Acceptor<TcpListener>>) -> (Pool, SocketAddr) {
    let pool = Pool::start(runtime(), spec).expect("the spec is allowed");
    let (_, address) = listen(&pool, 2);
    (pool, address)
}

/// Answers each byte with the state that the server sees: `d` if it is draining, `o` (open) if not.
fn answers_draining() -> Spec<impl Acceptor<TcpListener>> {
    let serve = |mut connection: Connection| async move {
        while connection.stream.read_u8().await.is_ok() {
            let draining = connection.lifecycle.draining().is_set();
            let seen = if draining { b'd' } else { b'o' };
            connection.stream.write_u8(seen).await?;
        }
        Ok(())
    };
    Spec::new("answers draining", acceptor_fn(serve))
}

async fn asked(client: &mut TcpStream) -> char {
    let ask = async {
        client.write_u8(b'?').await.expect("the server reads");
        char::from(client.read_u8().await.expect("the server answers"))
    };
    soon("the server answers with its state", ask).await
}

/// Traps the stop, sends `s` when it comes, then continues to echo.
fn traps_the_stop() -> Spec<impl Acceptor<TcpListener>> {
    let serve = |mut connection: Connection| async move {
        let stop = connection.lifecycle.trap_stop();
        let stopped = tokio::select! {
            () = stop.wait() => true,
            echoed = echo(&mut connection.stream) => { echoed?; false }
        };
        if stopped {
            connection.stream.write_u8(b's').await?;
            echo(&mut connection.stream).await?;
        }
        Ok(())
    };
    Spec::new("traps the stop", acceptor_fn(serve))
}

async fn gets_stop_signal(client: &mut TcpStream) {
    let byte = soon("the connection gets the stop signal", client.read_u8()).await;
    assert_eq!(byte.expect("the connection is open"), b's');
}

/// Checks a stop: in which phase its connections ended, and how; and that it took no longer than its phases.
#[track_caller]
fn check(report: &StopReport, connections: &[(Phase, EndKind, usize)], phases: Duration) {
    for &phase in Phase::ALL {
        let expected: usize = connections
            .iter()
            .filter_map(|&(in_phase, kind, count)| {
                assert!(
                    in_phase != phase || report.connections(phase).of(kind) == count,
                    "{report}"
                );
                (in_phase == phase).then_some(count)
            })
            .sum();
        assert_eq!(
            report.connections(phase).total(),
            expected,
            "in {phase}: {report}"
        );
    }
    assert_eq!(report.stuck, 0, "{report}");
    assert_eq!(report.reason, StopReason::Requested, "{report}");
    assert!(
        report.elapsed >= phases,
        "took {:?} instead of {phases:?}",
        report.elapsed
    );
    assert!(
        report.elapsed <= phases + SLACK,
        "took {:?} instead of {phases:?}",
        report.elapsed
    );
}

#[tokio::test]
async fn draining_is_visible_later() {
    let (pool, address) = pool(answers_draining());
    let mut before = connect(address).await;
    assert_eq!(asked(&mut before).await, 'o');
    let id = pool.listeners().unwrap()[0].id;
    pool.close_listener(id).await.unwrap();
    // Each answer reads the signal again, long after it was set.
    assert_eq!(asked(&mut before).await, 'd');
    assert_eq!(asked(&mut before).await, 'd');
}

#[tokio::test]
async fn close_spares_other_listeners() {
    let (pool, first) = pool(answers_draining());
    let (_, second) = listen(&pool, 2);
    let (mut of_first, mut of_second) = (connect(first).await, connect(second).await);
    assert_eq!(asked(&mut of_first).await, 'o');
    assert_eq!(asked(&mut of_second).await, 'o');
    let id = pool.listeners().unwrap()[0].id;
    pool.close_listener(id).await.unwrap();
    assert_eq!(asked(&mut of_first).await, 'd');
    assert_eq!(asked(&mut of_second).await, 'o');
    assert_eq!(
        pool.close_listener(id).await,
        Err(CloseError::UnknownListener(id))
    );
}

#[tokio::test]
async fn untrapped_stop_drops_at_once() {
    let (pool, address) = pool(echo_spec().shutdown(LONG));
    let mut clients = [client(address).await, client(address).await];
    let report = soon("the stop ends", pool.stop()).await;
    check(
        &report,
        &[(Phase::Stop, EndKind::Stopped, 2)],
        Duration::ZERO,
    );
    for client in &mut clients {
        gone(client).await;
    }
}

#[tokio::test]
async fn trapped_stop_lasts_until_shutdown() {
    let within = Duration::from_secs(1);
    let reports = Reports::default();
    let (pool, address) = pool(
        traps_the_stop()
            .shutdown(within)
            .observer(reports.observer()),
    );
    let mut client = client(address).await;
    let stopping = pool.stop();
    gets_stop_signal(&mut client).await;
    // The connection is not dropped: it still answers.
    ping(&mut client).await;
    let report = soon("the stop ends", stopping).await;
    check(&report, &[(Phase::Kill, EndKind::Killed, 1)], within);
    gone(&mut client).await;
    let killed = |event: &Event<_>| matches!(event, Event::KilledWhileStopping { count: 1, .. });
    assert_eq!(reports.count(killed), 1, "{:?}", reports.all());
    assert_eq!(reports.all().len(), 1, "{:?}", reports.all());
}

#[tokio::test]
async fn trapping_connection_ends_the_stop() {
    let reports = Reports::default();
    let (pool, address) = pool(traps_the_stop().shutdown(LONG).observer(reports.observer()));
    let mut client = client(address).await;
    let stopping = pool.stop();
    gets_stop_signal(&mut client).await;
    drop(client);
    let report = soon("the stop ends", stopping).await;
    check(
        &report,
        &[(Phase::Stop, EndKind::Normal, 1)],
        Duration::ZERO,
    );
    assert_eq!(reports.all().len(), 0, "{:?}", reports.all());
}

#[tokio::test]
async fn shutdown_never_waits_indefinitely() {
    let (pool, address) = pool(traps_the_stop().shutdown(Shutdown::Unlimited));
    let mut client = client(address).await;
    let stopping = pool.stop();
    gets_stop_signal(&mut client).await;
    for _ in 0..50 {
        ping(&mut client).await;
    }
    assert_eq!(
        pool.status().unwrap().state,
        PoolState::Stopping(Phase::Stop)
    );
    drop(client);
    let report = soon("the stop ends", stopping).await;
    check(
        &report,
        &[(Phase::Stop, EndKind::Normal, 1)],
        Duration::ZERO,
    );
}

#[tokio::test]
async fn brutal_shutdown_skips_the_stop_phase() {
    let reports = Reports::default();
    let spec = traps_the_stop().shutdown(Shutdown::Kill);
    let (pool, address) = pool(spec.observer(reports.observer()));
    let mut client = client(address).await;
    let report = soon("the stop ends", pool.stop()).await;
    check(
        &report,
        &[(Phase::Kill, EndKind::Killed, 1)],
        Duration::ZERO,
    );
    gone(&mut client).await;
    assert_eq!(reports.all().len(), 0, "{:?}", reports.all());
}

#[tokio::test]
async fn lame_duck_still_accepts() {
    let lame_duck = Duration::from_secs(1);
    let (pool, address) = pool(answers_draining().lame_duck(lame_duck));
    let mut before = connect(address).await;
    assert_eq!(asked(&mut before).await, 'o');
    let began = Instant::now();
    let stopping = pool.stop();
    assert!(pool.stopping().is_set());
    assert_eq!(asked(&mut before).await, 'o');
    let mut during = connect(address).await;
    assert_eq!(asked(&mut during).await, 'o');
    let status = pool.status().unwrap();
    let refused = pool.add_listener(unused_listener(), 1).unwrap_err();
    // The checks above hold only if the lame duck has not ended.
    assert!(
        began.elapsed() < lame_duck,
        "the machine is too slow for this test's lame duck"
    );
    assert_eq!(status.state, PoolState::Stopping(Phase::LameDuck));
    assert_eq!(status.listeners[0].state, ListenerState::Accepting);
    assert_eq!(status.listeners[0].acceptors, 2);
    assert_eq!(status.counts.connections, 2);
    assert!(matches!(refused.reason, AddListenerReason::Stopping));
    let report = soon("the stop ends", stopping).await;
    check(&report, &[(Phase::Stop, EndKind::Stopped, 2)], lame_duck);
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the listener is closed"
    );
}

fn unused_listener() -> TcpListener {
    let socket = ListenOptions::new(loopback())
        .bind()
        .expect("a port is free");
    TcpListener::from_std(socket, &runtime()).expect("the runtime has I/O")
}

#[tokio::test]
async fn grace_refuses_new_connections() {
    let (pool, address) = pool(traps_the_stop().grace(LONG));
    let mut client = client(address).await;
    let stopping = pool.stop();
    eventually("the listener is closed", || {
        pool.listeners().unwrap().is_empty()
    })
    .await;
    let refused = eventually("the waiting acceptors have ended", || {
        pool.counts().unwrap().children() == 1
    });
    refused.await;
    let late = soon("a late client is refused", TcpStream::connect(address)).await;
    assert!(late.is_err(), "no connection is accepted in grace");
    for _ in 0..50 {
        ping(&mut client).await;
    }
    assert_eq!(
        pool.status().unwrap().state,
        PoolState::Stopping(Phase::Grace)
    );
    drop(client);
    let report = soon("the stop ends with its last connection", stopping).await;
    check(
        &report,
        &[(Phase::Grace, EndKind::Normal, 1)],
        Duration::ZERO,
    );
    assert_eq!(
        report.acceptors(Phase::Grace).of(EndKind::Stopped),
        2,
        "{report}"
    );
}

#[tokio::test]
async fn grace_lasts_while_a_connection_stays() {
    let grace = Duration::from_millis(300);
    let (pool, address) = pool(echo_spec().grace(grace));
    let mut client = client(address).await;
    let report = soon("the stop ends", pool.stop()).await;
    check(&report, &[(Phase::Stop, EndKind::Stopped, 1)], grace);
    gone(&mut client).await;
}

#[tokio::test]
async fn unlimited_grace_ends_with_last_connection() {
    let (pool, address) = pool(echo_spec().grace(Grace::Unlimited));
    let (mut first, mut last) = (client(address).await, client(address).await);
    let stopping = pool.stop();
    ping(&mut first).await;
    drop(first);
    eventually("one connection has left", || {
        pool.counts().unwrap().connections == 1
    })
    .await;
    ping(&mut last).await;
    assert_eq!(
        pool.status().unwrap().state,
        PoolState::Stopping(Phase::Grace)
    );
    drop(last);
    let report = soon("the stop ends", stopping).await;
    check(
        &report,
        &[(Phase::Grace, EndKind::Normal, 2)],
        Duration::ZERO,
    );
}

#[tokio::test]
async fn all_callers_get_the_same_result() {
    let (pool, address) = pool(echo_spec().grace(LONG));
    let client = client(address).await;
    let early = pool.join();
    let handle = pool.handle();
    let from_a_task = tokio::spawn(async move { handle.join().await });
    let (first, second) = (pool.stop(), pool.stop());
    drop(pool.stop());
    drop(client);
    let first = soon("the stop ends", first).await;
    check(
        &first,
        &[(Phase::Grace, EndKind::Normal, 1)],
        Duration::ZERO,
    );
    let late = pool.stop();
    for other in [
        soon("the second stop ends", second).await,
        soon("the early join ends", early).await,
        soon("the join in a task ends", from_a_task).await.unwrap(),
        soon("a stop after the end ends", late).await,
        soon("a join after the end ends", pool.join()).await,
        soon("a kill after the end ends", pool.kill()).await,
    ] {
        assert_eq!(other, first);
    }
}

#[tokio::test]
async fn kill_ends_the_grace() {
    let (pool, address) = pool(
        traps_the_stop()
            .grace(Grace::Unlimited)
            .shutdown(Shutdown::Unlimited),
    );
    let mut client = client(address).await;
    let stopping = pool.stop();
    ping(&mut client).await;
    assert_eq!(
        pool.status().unwrap().state,
        PoolState::Stopping(Phase::Grace)
    );
    let killed = soon("the kill ends", pool.kill()).await;
    check(
        &killed,
        &[(Phase::Kill, EndKind::Killed, 1)],
        Duration::ZERO,
    );
    assert_eq!(soon("the stop ends", stopping).await, killed);
    gone(&mut client).await;
}

#[tokio::test]
async fn owner_drop_kills_at_once() {
    let (pool, address) = pool(
        traps_the_stop()
            .grace(Grace::Unlimited)
            .shutdown(Shutdown::Unlimited),
    );
    let mut client = client(address).await;
    let handle = pool.handle();
    let id = handle.listeners().unwrap()[0].id;
    let (join, began) = (handle.join(), Instant::now());
    drop(pool);
    assert!(began.elapsed() < SLACK, "the drop does not block");
    let report = soon("the pool ends", join).await;
    assert_eq!(report.reason, StopReason::OwnerDropped);
    assert_eq!(
        report.connections(Phase::Kill).of(EndKind::Killed),
        1,
        "{report}"
    );
    assert_eq!(report.acceptors(Phase::Kill).total(), 2, "{report}");
    assert_eq!(report.stuck, 0, "{report}");
    gone(&mut client).await;
    check_stopped(&handle, id).await;
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the listener is closed"
    );
}

/// Each call on a stopped pool is an error, not a panic (S9).
async fn check_stopped(handle: &PoolHandle, id: ListenerId) {
    assert!(handle.counts().is_err());
    assert!(handle.listeners().is_err());
    assert!(handle.connections().is_err());
    assert!(handle.status().is_err());
    let refused = handle.add_listener(unused_listener(), 1).unwrap_err();
    assert!(matches!(refused.reason, AddListenerReason::Stopped));
    let refused = handle
        .reconfigure(echo_spec(), WaitingAcceptors::Keep)
        .unwrap_err();
    assert!(matches!(refused, ReconfigureError::Stopped));
    assert_eq!(handle.close_listener(id).await, Err(CloseError::Stopped));
}

#[tokio::test]
async fn one_connection_is_stopped_by_id() {
    let reports = Reports::default();
    let (pool, address) = pool(traps_the_stop().observer(reports.observer()));
    let mut killed = client(address).await;
    let id = pool.connections().unwrap()[0].id;
    let mut stopped = client(address).await;
    pool.kill_child(id).unwrap();
    gone(&mut killed).await;
    eventually("the connection is no longer listed", || {
        pool.connections().unwrap().len() == 1
    })
    .await;
    assert_eq!(pool.kill_child(id), Err(ChildError::UnknownChild(id)));
    let was_killed = |event: &Event<_>| matches!(event, Event::ConnectionFailed { child, failure: acceptor_tokio::Failure::Killed, .. } if *child == id);
    assert_eq!(reports.count(was_killed), 1, "{:?}", reports.all());
    let id = pool.connections().unwrap()[0].id;
    pool.stop_child(id).unwrap();
    gets_stop_signal(&mut stopped).await;
    ping(&mut stopped).await;
    drop(stopped);
    eventually("the connection is no longer listed", || {
        pool.connections().unwrap().is_empty()
    })
    .await;
    assert_eq!(reports.all().len(), 1, "{:?}", reports.all());
    assert_eq!(pool.listeners().unwrap()[0].acceptors, 2);
}

/// Records why its acceptors terminated.
#[derive(Clone, Default)]
struct Terminates(Arc<Mutex<Vec<String>>>);

impl Acceptor<TcpListener> for Terminates {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, mut connection: Connection, _state: ()) -> Result<(), BoxError> {
        echo(&mut connection.stream).await
    }

    async fn terminate(&self, reason: &Terminate, _state: ()) {
        self.0
            .lock()
            .expect("no thread panics while it holds the lock")
            .push(reason.to_string());
    }
}

#[tokio::test]
async fn acceptors_terminate_with_the_reason() {
    let acceptor = Terminates::default();
    let reasons = Arc::clone(&acceptor.0);
    let pool = Pool::start(runtime(), Spec::new("terminates", acceptor)).unwrap();
    let (closed, of_closed) = listen(&pool, 2);
    let (_, of_open) = listen(&pool, 3);
    drop((client(of_closed).await, client(of_open).await));
    pool.close_listener(closed).await.unwrap();
    let terminated = || reasons.lock().unwrap().clone();
    eventually("the closed listener's acceptors terminate", || {
        terminated().len() == 2
    })
    .await;
    assert_eq!(terminated(), ["listener closed"; 2]);
    soon("the stop ends", pool.stop()).await;
    assert_eq!(terminated()[2..], ["stopped"; 3]);
}

#[tokio::test]
async fn grace_waits_for_terminate() {
    struct Slow;
    impl Acceptor<TcpListener> for Slow {
        type State = ();
        type Exit = Result<(), BoxError>;
        async fn init(&self, _listener: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
            Ok(Init::Accept(()))
        }
        async fn serve(&self, mut connection: Connection, _state: ()) -> Result<(), BoxError> {
            echo(&mut connection.stream).await
        }
        async fn terminate(&self, _reason: &Terminate, _state: ()) {
            std::future::pending().await
        }
    }
    let grace = Duration::from_millis(200);
    let (pool, address) = pool(
        Spec::new("slow to terminate", Slow)
            .grace(grace)
            .shutdown(PATIENCE),
    );
    drop(client(address).await);
    eventually("the client has left", || {
        pool.counts().unwrap().connections == 0
    })
    .await;
    let report = soon("the stop ends", pool.stop()).await;
    check(&report, &[], grace);
    assert_eq!(
        report.acceptors(Phase::Stop).of(EndKind::Stopped),
        2,
        "{report}"
    );
}
