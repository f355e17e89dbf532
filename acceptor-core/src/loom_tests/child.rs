//! A child's task against whatever ends it: its end is told once, after its socket is gone, and none is missed.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::Interruptions::{Any, AtMost};
use super::tasks::Time;
use super::world::{Handle, Script, World};
use super::{block_on, block_on_with_new_wakers, outcomes, spawn};
use crate::{ChildId, Grace, Shutdown, StopReport};

fn world(script: Script) -> World {
    World::new(Time::StandsStill, script, |spec| {
        spec.grace(Grace::Within(Duration::ZERO))
            .shutdown(Shutdown::Never)
    })
}

/// What is in the log of a connection that is gone, and left nothing but its replacement.
#[track_caller]
fn log_of_who_is_gone(world: World) -> Vec<String> {
    let counts = world.handle().counts().expect("the pool runs");
    assert_eq!((counts.active, counts.workers), (0, 1));
    let log = world.log.read();
    world.end();
    log
}

#[track_caller]
fn check_logs(logs: BTreeSet<Vec<String>>, expected: &[&[&str]]) {
    let expected: BTreeSet<Vec<String>> = expected
        .iter()
        .map(|log| log.iter().map(|&entry| entry.to_owned()).collect())
        .collect();
    assert_eq!(logs, expected);
}

const KILLED: &[&str] = &["stream gone", "connection: killed through the handle"];
const SERVED: &[&str] = &["served", "stream gone"];
const STOPPED: &[&str] = &["stream gone"];
const LOST: &[&str] = &["stream gone", "connection: its runtime dropped the task"];

/// One thread has a connection's task, while another does something to the connection.
#[track_caller]
fn check(
    script: Script,
    serve: fn(BoxFuture<'static, ()>),
    meanwhile: fn(&Handle, ChildId),
    expected: &[&[&str]],
) {
    let logs = outcomes(Any, move || {
        let world = world(script);
        world.listen();
        let child = world.connection();
        let (handle, id) = (world.handle(), world.child());
        let serving = spawn(move || serve(child));
        meanwhile(&handle, id);
        serving.join();
        log_of_who_is_gone(world)
    });
    check_logs(logs, expected);
}

fn stop(handle: &Handle, id: ChildId) {
    handle.stop_child(id).expect("it does not end by itself");
}

fn kill(handle: &Handle, id: ChildId) {
    handle.kill_child(id).expect("it does not end by itself");
}

fn kill_if_there(handle: &Handle, id: ChildId) {
    let _ = handle.kill_child(id);
}

#[test]
fn a_kill_ends_a_connection_that_waits_or_begins_to() {
    check(Script::ServesForEver, block_on, kill, &[KILLED]);
}

#[test]
fn a_kill_ends_a_connection_whose_task_moves() {
    check(
        Script::ServesUntilTold,
        block_on_with_new_wakers,
        kill,
        &[KILLED],
    );
}

#[test]
fn a_connection_that_is_through_as_it_is_killed_ends_once() {
    check(Script::Serves, block_on, kill_if_there, &[KILLED, SERVED]);
}

#[test]
fn a_connection_that_is_lost_as_it_is_killed_ends_once() {
    check(Script::ServesForEver, drop, kill_if_there, &[LOST]);
}

#[test]
fn a_connection_that_traps_the_stop_as_it_is_stopped_is_told_and_not_dropped() {
    check(Script::ServesUntilTold, block_on, stop, &[SERVED]);
}

#[test]
fn a_connection_that_does_not_trap_the_stop_is_dropped_wherever_it_meets_it() {
    check(Script::ServesForEver, block_on, stop, &[STOPPED]);
}

#[test]
fn an_acceptor_in_init_is_dropped_as_its_listener_closes() {
    let logs = outcomes(Any, || {
        let world = world(Script::PreparesForEver);
        world.tasks.settle();
        let listener = world.listen();
        let (handle, init_task) = (world.handle(), world.tasks.take());
        let preparing = spawn(move || block_on(init_task));
        drop(handle.close_listener(listener));
        preparing.join();
        world.tasks.settle();
        assert_eq!(handle.counts().map(|counts| counts.workers), Ok(0));
        let log = world.log.read();
        world.end();
        log
    });
    check_logs(
        logs,
        &[&["socket closed"], &["preparation gone", "socket closed"]],
    );
}

#[test]
fn an_acceptor_that_joins_as_its_listener_closes_terminates_once_or_is_dropped_in_init() {
    let logs = outcomes(Any, || {
        let world = world(Script::Serves);
        world.tasks.settle();
        let listener = world.listen();
        let (handle, init_task) = (world.handle(), world.tasks.take());
        let joining = spawn(move || block_on(init_task));
        drop(handle.close_listener(listener));
        joining.join();
        world.tasks.settle();
        assert_eq!(handle.counts().map(|counts| counts.workers), Ok(0));
        let log = world.log.read();
        world.end();
        log
    });
    check_logs(
        logs,
        &[
            &["socket closed"],
            &["socket closed", "terminated: listener closed"],
        ],
    );
}

#[test]
fn an_acceptor_that_joins_as_its_listener_fails_is_told_the_error() {
    let logs = outcomes(Any, || {
        let world = world(Script::Serves);
        world.tasks.settle();
        let (handle, socket) = (world.handle(), world.socket(world.listen()));
        let init_task = world.tasks.take();
        let joining = spawn(move || block_on(init_task));
        let error = io::Error::other("broken");
        handle.shared().listener_failed(&socket, Arc::new(error));
        joining.join();
        world.tasks.settle();
        assert_eq!(handle.counts().map(|counts| counts.workers), Ok(0));
        let log = world.log.read();
        world.end();
        log
    });
    check_logs(
        logs,
        &[
            &["listener: broken", "socket closed"],
            &[
                "listener: broken",
                "socket closed",
                "terminated: listener failed: broken",
            ],
        ],
    );
}

#[test]
fn an_acceptor_that_joins_as_it_is_stopped_terminates_or_is_dropped_in_init_and_is_replaced() {
    let logs = outcomes(AtMost(3), || {
        let world = world(Script::Serves);
        world.tasks.settle();
        world.listen();
        let (handle, init_task) = (world.handle(), world.tasks.take());
        let id = world.child();
        let joining = spawn(move || block_on(init_task));
        let (tasks, replaced) = (world.tasks.clone(), world.replaced.clone());
        let watching = spawn(move || tasks.run_until(&replaced));
        handle.stop_child(id).expect("it does not end by itself");
        joining.join();
        watching.join();
        world.tasks.settle();
        log_of_who_is_gone(world)
    });
    check_logs(logs, &[&[], &["terminated: stopped"]]);
}

/// How the only child ended, in the words of the pool's result.
fn ends(report: &StopReport) -> String {
    let (connections, acceptors) = (report.all_connections(), report.all_acceptors());
    let stuck = report.stuck;
    format!("connections: {connections}; acceptors: {acceptors}; stuck: {stuck}")
}

#[test]
fn an_acceptor_that_joins_as_the_pool_stops_ends_once() {
    let ends = outcomes(AtMost(3), || {
        let world = world(Script::Serves);
        world.tasks.settle();
        world.listen();
        let (init_task, watcher) = (world.tasks.take(), world.tasks.take());
        let joining = spawn(move || block_on(init_task));
        let watching = spawn(move || block_on(watcher));
        let stopped = world.handle().stop();
        joining.join();
        watching.join();
        world.tasks.run();
        let report = block_on(stopped);
        ends(&report)
    });
    let expected = ["connections: none; acceptors: 1 stopped; stuck: 0"];
    assert_eq!(ends, expected.map(String::from).into());
}

#[test]
fn a_connection_that_ends_as_the_patience_ends_has_ended_or_is_stuck_and_not_both() {
    let ends = outcomes(Any, || {
        let world = World::new(Time::Flies, Script::Serves, |spec| spec);
        let driver = world.tasks.take();
        world.listen();
        let child = world.connection();
        let killed = world.handle().kill();
        world.tasks.run();
        let waiting = spawn(move || block_on(driver));
        block_on(child);
        waiting.join();
        ends(&block_on(killed))
    });
    let expected = [
        "connections: 1 killed; acceptors: 1 killed; stuck: 0",
        "connections: none; acceptors: 1 killed; stuck: 1",
    ];
    assert_eq!(ends, expected.map(String::from).into());
}
