//! Calls on the handle, against each other and against the pool's own tasks.

use super::Interruptions::{Any, AtMost};
use super::tasks::{AN_HOUR, Sleeps};
use super::world::{Script, World};
use super::{block_on, block_on_with_new_wakers, check, outcomes, spawn};
use crate::{CloseError, Grace, Phase, Shutdown};

fn waiting_world(script: Script) -> World {
    World::new(Sleeps::Close, script, |spec| {
        spec.grace(Grace::Unlimited).shutdown(Shutdown::Unlimited)
    })
}

#[test]
fn concurrent_stops_share_a_result() {
    check(AtMost(3), || {
        let world = waiting_world(Script::Serves);
        let (_, connection) = world.connection();
        let handle = world.handle();
        let stopping = spawn(move || block_on(handle.stop()));
        let stopped = world.handle().stop();
        block_on(connection);
        world.tasks.run();
        let report = block_on(stopped);
        assert_eq!(report.all_connections().total(), 1);
        assert_eq!(stopping.join(), report);
    });
}

#[test]
fn concurrent_stop_and_kill_share_a_result() {
    check(Any, || {
        let world = waiting_world(Script::ServesForever);
        let (_, connection) = world.connection();
        let handle = world.handle();
        let stopping = spawn(move || drop(handle.stop()));
        let killed = world.handle().kill();
        stopping.join();
        block_on(connection);
        world.tasks.run();
        let report = block_on(killed);
        assert_eq!(report.connections(Phase::Kill).total(), 1);
        assert_eq!(report.all_acceptors().total(), 1);
    });
}

/// The sockets are closed, and the grace does not end: only the call can notify the driver of the kill.
#[test]
fn kill_replaces_the_stop_deadline() {
    check(AtMost(3), || {
        let world = World::new(Sleeps::Any, Script::Serves, |spec| spec.grace(AN_HOUR));
        let (_, connection) = world.connection();
        let stopped = world.handle().stop();
        world.tasks.settle();
        let driver = world.take_driver();
        let driving = spawn(move || block_on(driver));
        drop(world.handle().kill());
        world.tasks.run();
        driving.join();
        // No thread has polled it.
        assert_eq!(block_on(stopped).stuck, 1);
        block_on(connection);
    });
}

#[test]
fn close_returns_after_the_socket_closes() {
    check(AtMost(3), || {
        let world = waiting_world(Script::Serves);
        let (listener, accept_loop) = world.accept_loop();
        let accepting = spawn(move || block_on(accept_loop));
        let closed = block_on(world.handle().close_listener(listener));
        assert_eq!(closed, Ok(()));
        assert_eq!(world.log.read()[0], "socket closed");
        accepting.join();
        world.end();
    });
}

#[test]
fn concurrent_closes_wait_for_one_close() {
    let second = outcomes(Any, || {
        let world = waiting_world(Script::Serves);
        let (listener, accept_loop) = world.accept_loop();
        let closed = world.handle().close_listener(listener);
        let accepting = spawn(move || block_on(accept_loop));
        let second = block_on(world.handle().close_listener(listener));
        assert_eq!(world.log.read()[0], "socket closed");
        assert_eq!(block_on(closed), Ok(()));
        accepting.join();
        world.end();
        second.map_err(|error| matches!(error, CloseError::UnknownListener(_)))
    });
    assert_eq!(second, [Ok(()), Err(true)].into());
}

/// The listener was closed or has failed: its acceptor and its report agree.
#[test]
fn failure_during_close_has_one_reason() {
    let logs = outcomes(Any, || {
        let world = waiting_world(Script::Serves);
        let (listener, accept_loop) = world.accept_loop();
        world.clients.break_listener();
        let accepting = spawn(move || block_on(accept_loop));
        let closed = block_on(world.handle().close_listener(listener));
        accepting.join();
        world.tasks.settle();
        let mut log = world.log.read();
        assert_eq!(log.remove(0), "socket closed");
        log.sort();
        world.end();
        (closed.is_ok(), log)
    });
    let broken = "Bad file descriptor (os error 9)";
    let terminated = format!("terminated: listener failed: {broken}");
    let failed = vec![format!("listener: {broken}"), terminated];
    let closed = vec!["terminated: listener closed".to_owned()];
    assert_eq!(logs, [(true, closed), (false, failed)].into());
}

#[test]
fn add_during_stop_is_closed_or_refused() {
    let added = outcomes(Any, || {
        let world = waiting_world(Script::Serves);
        let (handle, listener) = (world.handle(), world.listener());
        let adding = spawn(move || handle.add_listener(listener, 1).is_ok());
        let stopped = world.handle().stop();
        let added = adding.join();
        world.tasks.run();
        let report = block_on(stopped);
        assert_eq!(world.log.count("socket closed"), 1);
        assert_eq!(report.all_acceptors().total(), usize::from(added));
        added
    });
    assert_eq!(added, [false, true].into());
}

/// As when a runtime drops the accept loop's task. The connection ends in the stop phase, which no closed socket
/// delays.
#[test]
fn listener_failure_during_stop_closes_once() {
    let failures = outcomes(AtMost(3), || {
        let world = World::new(Sleeps::Close, Script::ServesForever, |spec| {
            spec.shutdown(Shutdown::Unlimited)
        });
        let (_, connection) = world.connection();
        let accept_loop = world.take_accept_loop();
        let dropping = spawn(move || drop(accept_loop));
        let stopped = world.handle().stop();
        world.tasks.settle();
        dropping.join();
        world.tasks.settle();
        block_on(connection);
        world.tasks.run();
        let report = block_on(stopped);
        assert_eq!(report.connections(Phase::Stop).total(), 1);
        assert_eq!(world.log.count("socket closed"), 1);
        let log = world.log.read();
        log.iter()
            .filter(|entry| entry.starts_with("listener: "))
            .count()
    });
    assert_eq!(failures, [0, 1].into());
}

#[test]
fn join_during_pool_end_is_ready() {
    check(AtMost(3), || {
        let world = waiting_world(Script::Serves);
        let (driver, reporter) = (world.take_driver(), world.take_reporter());
        let driving = spawn(move || block_on_with_new_wakers(driver));
        let reporting = spawn(move || block_on_with_new_wakers(reporter));
        let stopped = world.handle().stop();
        assert_eq!(block_on(stopped).stuck, 0);
        driving.join();
        reporting.join();
    });
}
