//! A child's task against the call that ends it: its end is seen once, after its socket is closed, and no command is missed.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;

use super::Interruptions::{self, Any, AtMost};
use super::tasks::{AN_HOUR, Sleeps};
use super::world::{Handle, Script, World};
use super::{block_on, block_on_in_another_task, check as check_model, outcomes, spawn};
use crate::{AcceptorState, ChildId, Grace, Shutdown, StopReport, WaitingAcceptors};

fn world(sleeps: Sleeps, script: Script) -> World {
    World::new(sleeps, script, |spec| {
        spec.grace(Grace::Within(Duration::ZERO))
            .shutdown(Shutdown::Unlimited)
            .kill_timeout(AN_HOUR)
    })
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

/// The log of a pool of which only one waiting acceptor is left.
#[track_caller]
fn log_with_one_acceptor_left(world: World) -> Vec<String> {
    world.tasks.settle();
    let counts = world.handle().counts().expect("the pool runs");
    assert_eq!((counts.connections, counts.acceptors), (0, 1));
    let log = world.log.read();
    world.end();
    log
}

/// One thread runs a connection's task, while another acts on the connection.
#[track_caller]
fn check(
    script: Script,
    serve: fn(BoxFuture<'static, ()>),
    meanwhile: fn(&Handle, ChildId),
    expected: &[&[&str]],
) {
    let logs = outcomes(Any, move || {
        let world = world(Sleeps::Close, script);
        let (_, connection) = world.connection();
        let (handle, id) = (world.handle(), world.children()[0]);
        let serving = spawn(move || serve(connection));
        meanwhile(&handle, id);
        serving.join();
        log_with_one_acceptor_left(world)
    });
    check_logs(logs, expected);
}

fn stop(handle: &Handle, id: ChildId) {
    handle
        .stop_child(id)
        .expect("the child does not end by itself");
}

fn kill(handle: &Handle, id: ChildId) {
    handle
        .kill_child(id)
        .expect("the child does not end by itself");
}

fn kill_if_there(handle: &Handle, id: ChildId) {
    let _ = handle.kill_child(id);
}

#[test]
fn kill_ends_waiting_connection() {
    check(Script::ServesForever, block_on, kill, &[KILLED]);
}

#[test]
fn kill_ends_connection_that_migrates() {
    check(
        Script::ServesUntilStopped,
        block_on_in_another_task,
        kill,
        &[KILLED],
    );
}

#[test]
fn return_during_kill_ends_once() {
    check(Script::Serves, block_on, kill_if_there, &[KILLED, SERVED]);
}

#[test]
fn loss_during_kill_ends_once() {
    check(Script::ServesForever, drop, kill_if_there, &[LOST]);
}

#[test]
fn trap_during_stop_is_signalled() {
    check(Script::ServesUntilStopped, block_on, stop, &[SERVED]);
}

#[test]
fn untrapped_stop_drops_connection() {
    check(Script::ServesForever, block_on, stop, &[STOPPED]);
}

/// One thread runs the task of an acceptor in `init`, while another acts on the pool. Nothing is left.
#[track_caller]
fn check_init(script: Script, meanwhile: fn(&World), expected: &[&[&str]]) {
    let logs = outcomes(AtMost(3), move || {
        let world = world(Sleeps::CloseLimit, script);
        let (_, init) = world.init();
        let starting = spawn(move || block_on(init));
        meanwhile(&world);
        world.tasks.settle();
        starting.join();
        world.tasks.settle();
        let handle = world.handle();
        assert_eq!(handle.counts().map(|counts| counts.children()), Ok(0));
        assert!(world.children().is_empty());
        let log = world.log.read();
        world.end();
        log
    });
    check_logs(logs, expected);
}

fn close_listener(world: &World) {
    let id = world.handle().listeners().expect("the pool runs")[0].id;
    drop(world.handle().close_listener(id));
}

/// As when a runtime drops the accept loop's task.
fn fail_listener(world: &World) {
    drop(world.take_accept_loop());
}

/// The listener closes as soon as it is asked to: its limit has expired.
#[test]
fn close_drops_acceptor_in_init() {
    check_init(
        Script::PreparesForever,
        close_listener,
        &[&["socket closed"], &["socket closed", "preparation gone"]],
    );
}

#[test]
fn wait_during_close_terminates_once() {
    check_init(
        Script::Serves,
        close_listener,
        &[
            &["socket closed"],
            &["socket closed", "terminated: listener closed"],
        ],
    );
}

#[test]
fn wait_during_listener_failure_gets_the_error() {
    let failed = "listener: the runtime dropped the listener's task";
    let terminated = "terminated: listener failed: the runtime dropped the listener's task";
    check_init(
        Script::Serves,
        fail_listener,
        &[
            &["socket closed", failed],
            &["socket closed", failed, terminated],
        ],
    );
}

/// One thread runs the task of an acceptor in `init`, while another acts on the acceptor. It is replaced.
#[track_caller]
fn check_acceptor(meanwhile: fn(&Handle, ChildId), expected: &[&[&str]]) {
    let logs = outcomes(Any, move || {
        let world = world(Sleeps::Close, Script::Serves);
        let (_, init) = world.init();
        let (handle, id) = (world.handle(), world.children()[0]);
        let starting = spawn(move || block_on(init));
        meanwhile(&handle, id);
        starting.join();
        world.tasks.settle();
        assert!(!world.children().contains(&id));
        log_with_one_acceptor_left(world)
    });
    check_logs(logs, expected);
}

#[test]
fn wait_during_stop_terminates() {
    check_acceptor(stop, &[&[], &["terminated: stopped"]]);
}

#[test]
fn wait_during_kill_does_not_terminate() {
    check_acceptor(kill, &[&["acceptor: killed through the handle"]]);
}

/// Two threads run the pool's tasks: this one lists the acceptor before or after the accept loop has started it.
#[test]
fn start_during_stop_ends_and_is_replaced() {
    let logs = outcomes(AtMost(3), || {
        let world = world(Sleeps::Close, Script::ServesWithoutInit);
        world.tasks.settle();
        world.listen();
        let tasks = world.tasks.clone();
        let accepting = spawn(move || tasks.settle());
        let handle = world.handle();
        let id = handle.acceptors().expect("the pool runs")[0].id;
        stop(&handle, id);
        accepting.join();
        world.tasks.settle();
        assert!(!world.children().contains(&id));
        log_with_one_acceptor_left(world)
    });
    check_logs(logs, &[&[], &["terminated: stopped"]]);
}

/// The acceptor is spaced, because another has failed to start: the driver starts it while this thread stops it.
#[test]
fn driver_start_during_stop_is_replaced() {
    let logs = outcomes(AtMost(3), || {
        let world = world(Sleeps::Close, Script::FailsToStart(1));
        let (_, init) = world.init();
        block_on(init);
        let (handle, id) = (world.handle(), world.children()[0]);
        let tasks = world.tasks.clone();
        let starting = spawn(move || tasks.settle());
        stop(&handle, id);
        starting.join();
        world.tasks.settle();
        assert!(!world.children().contains(&id));
        log_with_one_acceptor_left(world)
    });
    let failed = "start error: injected";
    check_logs(logs, &[&[failed], &[failed, "terminated: stopped"]]);
}

/// The acceptor is rebuilt as it is started, because the spec was replaced: the stop may have been for its predecessor.
#[test]
fn rebuild_during_stop_is_replaced() {
    let logs = outcomes(AtMost(3), || {
        let world = world(Sleeps::Close, Script::FailsToStart(1));
        let (_, init) = world.init();
        block_on(init);
        let (handle, id) = (world.handle(), world.children()[0]);
        let replaced = handle.reconfigure(world.spec(Script::ServesAnew), WaitingAcceptors::Keep);
        assert!(replaced.is_ok());
        let tasks = world.tasks.clone();
        let starting = spawn(move || tasks.settle());
        stop(&handle, id);
        starting.join();
        world.tasks.settle();
        assert!(!world.children().contains(&id));
        log_with_one_acceptor_left(world)
    });
    let failed = "start error: injected";
    check_logs(logs, &[&[failed], &[failed, "terminated: stopped"]]);
}

/// Of two acceptors that fail to start, one retries, and the other is held until the first one waits.
#[test]
fn concurrent_start_errors_recover() {
    check_model(AtMost(3), || {
        let world = World::new(Sleeps::Close, Script::FailsToStart(2), |spec| {
            spec.intensity(10)
        });
        world.tasks.settle();
        let first = world.tasks.spawned() + 1;
        let added = world.handle().add_listener(world.listener(), 2);
        assert!(added.is_ok());
        world.tasks.poll_one();
        let inits = [first, first + 1].map(|number| world.tasks.take(number));
        let [init, other] = inits;
        let starting = spawn(move || block_on(init));
        block_on(other);
        world.tasks.settle();
        starting.join();
        world.tasks.settle();
        let acceptors = world.handle().acceptors().expect("the pool runs");
        let states: Vec<_> = acceptors.iter().map(|acceptor| acceptor.state).collect();
        assert_eq!(states, [AcceptorState::Waiting; 2]);
        world.end();
    });
}

/// The ends that a result counts.
fn ends(report: &StopReport<u8>) -> String {
    let (connections, acceptors) = (report.all_connections(), report.all_acceptors());
    let stuck = report.stuck;
    format!("connections: {connections}; acceptors: {acceptors}; stuck: {stuck}")
}

#[track_caller]
fn check_ends(ends: BTreeSet<String>, expected: &[&str]) {
    assert_eq!(ends, expected.iter().map(|&ends| ends.to_owned()).collect());
}

#[test]
fn wait_during_pool_stop_ends_once() {
    let ends = outcomes(AtMost(3), || {
        let world = world(Sleeps::CloseLimit, Script::Serves);
        let (_, init) = world.init();
        let starting = spawn(move || block_on(init));
        let stopped = world.handle().stop();
        world.tasks.run();
        starting.join();
        ends(&block_on(stopped))
    });
    check_ends(ends, &["connections: none; acceptors: 1 stopped; stuck: 0"]);
}

/// One thread runs a connection's task, while another ends the pool: the result counts the end unless it came earlier.
#[track_caller]
fn check_end<F: Future<Output = StopReport<u8>>>(
    interruptions: Interruptions,
    sleeps: Sleeps,
    script: Script,
    stop: fn(&Handle) -> F,
    expected: &[&str],
) where
    F: 'static,
{
    let ends = outcomes(interruptions, move || {
        let world = world(sleeps, script);
        let (_, connection) = world.connection();
        let serving = spawn(move || block_on(connection));
        let stopped = stop(&world.handle());
        world.tasks.run();
        serving.join();
        assert_eq!(world.log.count("stream gone"), 1);
        ends(&block_on(stopped))
    });
    check_ends(ends, expected);
}

#[test]
fn return_during_pool_stop_counts_once() {
    check_end(
        AtMost(3),
        Sleeps::Close,
        Script::Serves,
        Handle::stop,
        &[
            "connections: none; acceptors: 1 stopped; stuck: 0",
            "connections: 1 normal; acceptors: 1 stopped; stuck: 0",
        ],
    );
}

#[test]
fn return_during_pool_kill_counts_once() {
    check_end(
        AtMost(3),
        Sleeps::Close,
        Script::Serves,
        Handle::kill,
        &[
            "connections: none; acceptors: 1 killed; stuck: 0",
            "connections: 1 normal; acceptors: 1 killed; stuck: 0",
            "connections: 1 killed; acceptors: 1 killed; stuck: 0",
        ],
    );
}

#[test]
fn wait_during_pool_kill_is_dropped() {
    check_end(
        AtMost(3),
        Sleeps::Close,
        Script::ServesForever,
        Handle::kill,
        &["connections: 1 killed; acceptors: 1 killed; stuck: 0"],
    );
}

#[test]
fn wait_at_stop_phase_is_dropped() {
    check_end(
        AtMost(3),
        Sleeps::Close,
        Script::ServesForever,
        Handle::stop,
        &["connections: 1 stopped; acceptors: 1 stopped; stuck: 0"],
    );
}

#[test]
fn trap_at_stop_phase_is_signalled() {
    check_end(
        AtMost(3),
        Sleeps::Close,
        Script::ServesUntilStopped,
        Handle::stop,
        &["connections: 1 normal; acceptors: 1 stopped; stuck: 0"],
    );
}

#[test]
fn draining_wait_during_stop_is_signalled() {
    let ends = outcomes(AtMost(3), || {
        let world = World::new(Sleeps::Close, Script::ServesUntilDraining, |spec| {
            spec.grace(Grace::Unlimited)
        });
        let (_, connection) = world.connection();
        let serving = spawn(move || block_on(connection));
        let stopped = world.handle().stop();
        world.tasks.run();
        serving.join();
        ends(&block_on(stopped))
    });
    check_ends(
        ends,
        &["connections: 1 normal; acceptors: 1 stopped; stuck: 0"],
    );
}

/// The driver's looks follow each other without delay: a poll spans all of them, or some.
#[test]
fn end_at_kill_timeout_is_ended_or_stuck() {
    check_end(
        AtMost(2),
        Sleeps::Any,
        Script::Serves,
        Handle::kill,
        &[
            "connections: none; acceptors: 1 killed; stuck: 0",
            "connections: 1 normal; acceptors: 1 killed; stuck: 0",
            "connections: 1 killed; acceptors: 1 killed; stuck: 0",
            "connections: none; acceptors: 1 killed; stuck: 1",
        ],
    );
}

/// The connection's end concerns its table only, unless the listener is already closed.
#[test]
fn closed_listener_is_forgotten_after_last_end() {
    check_model(AtMost(3), || {
        let world = world(Sleeps::Close, Script::Serves);
        let (listener, connection) = world.connection();
        let serving = spawn(move || block_on(connection));
        drop(world.handle().close_listener(listener));
        world.tasks.settle();
        serving.join();
        world.tasks.settle();
        let handle = world.handle();
        assert!(handle.shared().listeners_after(None, 1).is_empty());
        world.end();
    });
}
