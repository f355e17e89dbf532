//! The driver: its walks against calls and children, and a runtime that drops it.

use std::task::{Context, Waker};

use futures::FutureExt;

use super::Interruptions::AtMost;
use super::tasks::{AN_HOUR, Sleeps};
use super::world::{Script, World};
use super::{block_on, check, outcomes, spawn};
use crate::{Grace, Shutdown};

fn world(script: Script) -> World {
    World::new(Sleeps::Close, script, |spec| {
        spec.grace(Grace::Unlimited)
            .shutdown(Shutdown::Unlimited)
            .kill_timeout(AN_HOUR)
    })
}

/// Three threads: the driver, a connection that is polled only if it is woken, and the calls.
#[test]
fn walking_driver_hears_the_next_call() {
    check(AtMost(2), || {
        let world = world(Script::ServesForever);
        let (listener, connection) = world.connection();
        let driver = world.take_driver();
        let driving = spawn(move || block_on(driver));
        let serving = spawn(move || block_on(connection));
        drop(world.handle().close_listener(listener));
        let killed = world.handle().kill();
        serving.join();
        world.tasks.run();
        driving.join();
        assert_eq!(block_on(killed).stuck, 0);
    });
}

#[test]
fn walk_wakes_each_child() {
    check(AtMost(2), || {
        let world = world(Script::ServesForever);
        let (_, first) = world.connection();
        let second = world.next_connection();
        let serving = [first, second].map(|connection| spawn(move || block_on(connection)));
        let killed = world.handle().kill();
        world.tasks.run();
        for serving in serving {
            serving.join();
        }
        assert_eq!(block_on(killed).all_connections().total(), 2);
    });
}

/// As when a runtime shuts down.
#[test]
fn add_during_driver_drop_is_closed_or_refused() {
    let added = outcomes(AtMost(3), || {
        let world = world(Script::Serves);
        world.tasks.settle();
        let driver = world.take_driver();
        let joined = world.handle().join();
        let dropping = spawn(move || drop(driver));
        let added = world.handle().add_listener(world.listener(), 1).is_ok();
        world.tasks.run();
        dropping.join();
        world.tasks.run();
        assert_eq!(world.log.count("socket closed"), 1);
        assert_eq!(block_on(joined).stuck, 0);
        added
    });
    assert_eq!(added, [false, true].into());
}

/// The driver of a pool with a listener is dropped by another thread: the pool ends, and nothing is left.
#[track_caller]
fn check_dropped(script: Script, meanwhile: fn(World)) {
    check(AtMost(3), move || {
        let world = world(script);
        let joined = world.handle().join();
        meanwhile(world);
        let report = block_on(joined);
        assert_eq!(report.stuck, 0);
    });
}

#[test]
fn wait_during_driver_drop_is_dropped() {
    check_dropped(Script::ServesForever, |world| {
        let (_, connection) = world.connection();
        let driver = world.take_driver();
        let dropping = spawn(move || drop(driver));
        block_on(connection);
        dropping.join();
        world.tasks.run();
    });
}

/// The grace never ends.
#[test]
fn stop_during_driver_drop_drops_connection() {
    check_dropped(Script::ServesForever, |world| {
        world.listen();
        world.tasks.settle();
        world.clients.connect();
        world.tasks.settle();
        let driver = world.take_driver();
        let dropping = spawn(move || drop(driver));
        drop(world.handle().stop());
        world.tasks.settle();
        dropping.join();
        world.tasks.run();
        assert_eq!(world.log.count("stream gone"), 1);
    });
}

#[test]
fn accept_during_driver_drop_is_dropped() {
    check_dropped(Script::ServesForever, |world| {
        let (_, accept_loop) = world.accept_loop();
        world.clients.connect();
        let driver = world.take_driver();
        let dropping = spawn(move || drop(driver));
        block_on(accept_loop);
        dropping.join();
        world.tasks.run();
        assert_eq!(world.log.count("stream gone") + world.clients.queued(), 1);
    });
}

/// The driver is to start the replacement.
#[test]
fn start_error_during_driver_drop_leaves_none() {
    check_dropped(Script::FailsToStart(1), |world| {
        let (_, init) = world.init();
        let driver = world.take_driver();
        let dropping = spawn(move || drop(driver));
        block_on(init);
        dropping.join();
        world.tasks.run();
    });
}

#[test]
fn listed_acceptors_end_with_the_driver() {
    check_dropped(Script::Serves, |world| {
        world.tasks.settle();
        world.listen();
        let driver = world.take_driver();
        let dropping = spawn(move || drop(driver));
        drop(world.handle().acceptors());
        dropping.join();
        world.tasks.run();
    });
}

#[test]
fn driver_and_reporter_drop_concurrently() {
    check_dropped(Script::Serves, |world| {
        let (_, accept_loop) = world.accept_loop();
        let (driver, reporter) = (world.take_driver(), world.take_reporter());
        let dropping = spawn(move || drop(driver));
        drop(reporter);
        block_on(accept_loop);
        dropping.join();
        world.tasks.run();
        assert_eq!(world.log.count("stops: runtime gone"), 1);
    });
}

#[test]
fn driver_dropped_on_walk_wakes_all_children() {
    check_dropped(Script::ServesForever, |world| {
        world.listen();
        for _ in 0..2 {
            world.tasks.settle();
            world.clients.connect();
        }
        world.tasks.settle();
        let mut driver = world.take_driver();
        let handle = world.handle();
        let walking = spawn(move || {
            let _ = driver.poll_unpin(&mut Context::from_waker(Waker::noop()));
            drop(driver);
        });
        drop(handle.kill());
        world.tasks.run();
        walking.join();
        world.tasks.run();
        assert_eq!(world.log.count("stream gone"), 2);
    });
}
