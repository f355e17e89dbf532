//! The accept loop, against clients, calls, and connections that end.

use super::Interruptions::AtMost;
use super::tasks::{AN_HOUR, Sleeps};
use super::world::{Script, World};
use super::{block_on, check, outcomes, spawn};
use crate::{ConnectionReports, Grace, Shutdown, WaitingAcceptors};

fn world(sleeps: Sleeps, script: Script) -> World {
    World::new(sleeps, script, |spec| {
        spec.grace(Grace::Unlimited)
            .shutdown(Shutdown::Unlimited)
            .kill_timeout(AN_HOUR)
    })
}

#[test]
fn stop_serves_queued_connection() {
    check(AtMost(3), || {
        let world = world(Sleeps::Close, Script::Serves);
        let (_, accept_loop) = world.accept_loop();
        world.clients.connect();
        let accepting = spawn(move || block_on(accept_loop));
        let stopped = world.handle().stop();
        world.tasks.run();
        accepting.join();
        block_on(stopped);
        assert_eq!(world.log.count("served"), 1);
    });
}

/// The only acceptor is in `init`, on another thread: the stop waits for it.
#[test]
fn stop_waits_for_starting_acceptor() {
    check(AtMost(3), || {
        let world = world(Sleeps::Close, Script::Serves);
        let (_, init) = world.init();
        world.clients.connect();
        let starting = spawn(move || block_on(init));
        let stopped = world.handle().stop();
        world.tasks.run();
        starting.join();
        block_on(stopped);
        assert_eq!(world.log.count("served"), 1);
    });
}

#[test]
fn arrival_during_stop_is_served_or_unaccepted() {
    let served = outcomes(AtMost(2), || {
        let world = world(Sleeps::Close, Script::Serves);
        let (_, accept_loop) = world.accept_loop();
        let clients = world.clients.clone();
        let accepting = spawn(move || block_on(accept_loop));
        let connecting = spawn(move || clients.connect());
        let stopped = world.handle().stop();
        world.tasks.run();
        accepting.join();
        connecting.join();
        block_on(stopped);
        let served = world.log.count("served");
        assert_eq!(served + world.clients.queued(), 1);
        assert_eq!(world.log.count("stream gone"), served);
        served
    });
    assert_eq!(served, [0, 1].into());
}

/// A child is polled by this thread only, and by that time the kill has returned.
#[test]
fn accept_during_kill_is_dropped_and_counted() {
    let connections = outcomes(AtMost(3), || {
        let world = world(Sleeps::Close, Script::Serves);
        let (_, accept_loop) = world.accept_loop();
        world.clients.connect();
        let accepting = spawn(move || block_on(accept_loop));
        let killed = world.handle().kill();
        world.tasks.run();
        accepting.join();
        let report = block_on(killed);
        assert_eq!(world.log.count("served"), 0);
        assert_eq!(world.log.count("stream gone") + world.clients.queued(), 1);
        assert_eq!(report.all_acceptors().total(), 1);
        report.all_connections().total()
    });
    assert_eq!(connections, [0, 1].into());
}

/// The first pause ends by itself; the connection must end each longer one.
#[test]
fn exhausted_listener_resumes_on_connection_end() {
    check(AtMost(3), || {
        let world = world(Sleeps::FirstPause, Script::Serves);
        world.clients.limit_descriptors(1);
        let (_, connection) = world.connection();
        let serving = spawn(move || block_on(connection));
        world.clients.connect();
        world.tasks.settle();
        serving.join();
        world.tasks.settle();
        assert_eq!(world.log.count("served"), 2);
        world.end();
    });
}

/// Two threads run all tasks of the pool, and the driver's looks follow each other without delay.
#[test]
fn accept_as_driver_gives_up_is_dropped() {
    check(AtMost(2), || {
        let world = World::new(Sleeps::Any, Script::Serves, |spec| spec);
        world.tasks.settle();
        world.listen();
        world.tasks.settle();
        world.clients.connect();
        let tasks = world.tasks.clone();
        let running = spawn(move || tasks.run());
        let killed = world.handle().kill();
        world.tasks.run();
        running.join();
        let report = block_on(killed);
        // An acceptor that is refused the connection finds that it was killed.
        let log = world.log.read();
        assert!(!log.iter().any(|entry| entry.starts_with("terminated")));
        assert_eq!(world.log.count("stream gone") + world.clients.queued(), 1);
        let ended = report.all_acceptors().total() + report.all_connections().total();
        assert!((1..=2).contains(&(ended + report.stuck)), "{report}");
    });
}

/// Another thread may serve the connection as soon as it has a task.
#[test]
fn begin_is_reported_before_end() {
    check(AtMost(2), || {
        let world = World::new(Sleeps::Close, Script::Serves, |spec| {
            spec.connection_reports(ConnectionReports::All)
        });
        world.tasks.settle();
        world.listen();
        world.tasks.settle();
        world.clients.connect();
        let tasks = world.tasks.clone();
        let running = spawn(move || tasks.settle());
        world.tasks.settle();
        running.join();
        world.tasks.settle();
        let log = world.log.read();
        let reports: Vec<_> = log
            .iter()
            .filter(|entry| entry.starts_with("connection"))
            .collect();
        assert_eq!(reports, ["connection began", "connection ended: normal"]);
        world.end();
    });
}

/// The accept loop keeps its factory until the spec changes.
#[test]
fn later_acceptor_uses_the_new_spec() {
    let second = outcomes(AtMost(3), || {
        let world = world(Sleeps::Close, Script::Serves);
        world.listen();
        world.tasks.settle();
        let (handle, spec) = (world.handle(), world.spec(Script::ServesAnew));
        let replacing = spawn(move || handle.reconfigure(spec, WaitingAcceptors::Keep).is_ok());
        world.clients.connect();
        world.tasks.settle();
        assert!(replacing.join());
        for _ in 0..2 {
            world.clients.connect();
            world.tasks.settle();
        }
        let served: Vec<_> = world.log.read();
        let served: Vec<_> = served
            .iter()
            .filter(|entry| entry.starts_with("served"))
            .collect();
        assert_eq!([served[0], served[2]], ["served", "served anew"]);
        let second = served[1].clone();
        world.end();
        second
    });
    assert_eq!(second, ["served", "served anew"].map(String::from).into());
}

/// A connection accepted for the old acceptor is held for the new one (R1).
#[test]
fn arrival_during_replacement_is_served_once() {
    let served = outcomes(AtMost(3), || {
        let world = world(Sleeps::Close, Script::Serves);
        world.listen();
        world.tasks.settle();
        let (handle, spec) = (world.handle(), world.spec(Script::ServesAnew));
        let replacing = spawn(move || handle.reconfigure(spec, WaitingAcceptors::Replace).is_ok());
        world.clients.connect();
        world.tasks.settle();
        assert!(replacing.join());
        world.clients.connect();
        world.tasks.settle();
        let log: Vec<_> = world.log.read();
        let with = |word: &str| {
            let entries = log.iter().filter(|entry| entry.starts_with(word));
            entries.cloned().collect::<Vec<_>>()
        };
        let (served, terminated) = (with("served"), with("terminated"));
        assert_eq!((served.len(), &*served[1]), (2, "served anew"));
        world.end();
        (served[0].clone(), terminated)
    });
    let replaced = || vec!["terminated: replaced by another acceptor".to_owned()];
    let expected = [
        ("served".to_owned(), Vec::new()),
        ("served".to_owned(), replaced()),
        ("served anew".to_owned(), replaced()),
    ];
    assert_eq!(served, expected.into());
}
