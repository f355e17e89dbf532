//! The pool's lock, its outbox and its timer: who brings an event, against who brings another.

use std::sync::Arc;

use super::Interruptions::{Any, AtMost};
use super::tasks::{AN_HOUR, Tasks, Time};
use super::world::{Door, Script, World};
use super::{block_on, block_on_with_new_wakers, check, outcomes, spawn};
use crate::pool::shared::PoolShared;
use crate::sync::{Mutex, lock};
use crate::{Event, Grace, Phase, PoolState, Report, Shutdown, Spec, StopReason, acceptor_fn};

/// What an observer has seen.
#[derive(Default)]
struct Seen {
    inside: bool,
    last: usize,
}

/// A pool whose observer asserts that events come one at a time and in their order; with the events, counted.
fn observed() -> (
    Arc<PoolShared<Tasks, Door>>,
    Arc<Mutex<Seen>>,
    Arc<Mutex<usize>>,
) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let sees = Arc::clone(&seen);
    let observer = move |report: &Report<u8>| {
        let Event::Stuck { count } = report.event else {
            return;
        };
        {
            let mut seen = lock(&sees);
            assert!(!seen.inside);
            assert_eq!(count, seen.last + 1);
            seen.inside = true;
        }
        // Here another thread may come between.
        let mut seen = lock(&sees);
        seen.inside = false;
        seen.last = count;
    };
    let spec = Spec::new("loom", acceptor_fn(|_| async { Ok(()) })).observer(observer);
    let spec = spec.checked().expect("the spec is allowed");
    (
        PoolShared::new(Tasks::new(Time::StandsStill), spec),
        seen,
        Arc::default(),
    )
}

fn post_event(shared: &Arc<PoolShared<Tasks, Door>>, events: &Mutex<usize>) {
    shared.handle_event(|_, effects| {
        let mut count = lock(events);
        *count += 1;
        effects.reports.push(Event::Stuck { count: *count });
    });
}

#[test]
fn reports_of_two_events_go_out_one_at_a_time_in_the_order_of_the_events_and_none_stays_behind() {
    check(Any, || {
        let (shared, seen, events) = observed();
        let (other, others) = (Arc::clone(&shared), Arc::clone(&events));
        let bringing = spawn(move || post_event(&other, &others));
        post_event(&shared, &events);
        bringing.join();
        assert_eq!(lock(&seen).last, 2);
    });
}

#[test]
fn reports_of_three_events_do_so_too() {
    check(AtMost(3), || {
        let (shared, seen, events) = observed();
        let bringing = [(); 2].map(|()| {
            let (other, others) = (Arc::clone(&shared), Arc::clone(&events));
            spawn(move || post_event(&other, &others))
        });
        post_event(&shared, &events);
        for bringing in bringing {
            bringing.join();
        }
        assert_eq!(lock(&seen).last, 3);
    });
}

#[test]
fn the_result_is_there_after_every_report_of_what_was_before_it() {
    let reports = outcomes(Any, || {
        let (shared, seen, events) = observed();
        let (other, others) = (Arc::clone(&shared), Arc::clone(&events));
        let bringing = spawn(move || {
            other.handle_event(|state, effects| {
                if state.machine.state() == PoolState::Running {
                    *lock(&others) = 1;
                    effects.reports.push(Event::Stuck { count: 1 });
                }
            });
        });
        shared.stop(StopReason::Requested);
        block_on(shared.done.wait());
        assert!(shared.result().is_some());
        let (before, seen) = (*lock(&events), lock(&seen).last);
        assert_eq!(before, seen);
        bringing.join();
        seen
    });
    assert_eq!(reports, [0, 1].into());
}

fn patient(script: Script) -> World {
    World::new(Time::StandsStill, script, |spec| {
        spec.grace(Grace::Forever).shutdown(Shutdown::Never)
    })
}

#[test]
fn the_pools_own_task_sees_that_the_pool_has_stopped() {
    check(Any, || {
        let world = patient(Script::Serves);
        let driver = world.tasks.take();
        let driving = spawn(move || block_on_with_new_wakers(driver));
        let stopped = world.handle().stop();
        driving.join();
        assert_eq!(block_on(stopped).stuck, 0);
    });
}

#[test]
fn the_pools_own_task_goes_by_the_new_time_of_a_stop_that_becomes_a_kill() {
    check(Any, || {
        let world = World::new(Time::Flies, Script::Serves, |spec| spec.grace(AN_HOUR));
        let driver = world.tasks.take();
        world.listen();
        let driving = spawn(move || block_on(driver));
        let stopped = world.handle().stop();
        drop(world.handle().kill());
        driving.join();
        // Nobody has run the acceptor.
        assert_eq!(block_on(stopped).stuck, 1);
        world.tasks.run();
    });
}

#[test]
fn two_who_stop_the_pool_at_once_get_the_same_result() {
    check(Any, || {
        let world = patient(Script::Serves);
        let handle = world.handle();
        let stopping = spawn(move || block_on(handle.stop()));
        let report = block_on(world.handle().stop());
        assert_eq!(stopping.join(), report);
        world.tasks.run();
    });
}

#[test]
fn a_stop_and_a_kill_at_once_come_to_one_result() {
    check(Any, || {
        let world = patient(Script::ServesForEver);
        world.listen();
        let child = world.connection();
        let handle = world.handle();
        let stopping = spawn(move || {
            drop(handle.stop());
        });
        let killed = world.handle().kill();
        stopping.join();
        block_on(child);
        world.tasks.run();
        let report = block_on(killed);
        assert_eq!(report.connections(Phase::Kill).total(), 1);
    });
}

#[test]
fn a_close_is_through_after_the_socket_is_closed() {
    check(Any, || {
        let world = patient(Script::Serves);
        world.tasks.settle();
        let listener = world.listen();
        block_on(world.tasks.take());
        let watcher = world.tasks.take();
        let watching = spawn(move || block_on(watcher));
        let closed = block_on(world.handle().close_listener(listener));
        assert_eq!(closed, Ok(()));
        assert_eq!(world.log.read()[0], "socket closed");
        watching.join();
        world.end();
    });
}

#[test]
fn a_listener_that_is_added_as_the_pool_stops_is_closed_or_refused() {
    let added = outcomes(Any, || {
        let world = patient(Script::Serves);
        let (handle, door) = (world.handle(), world.door());
        let adding = spawn(move || handle.add_listener(door, 1).is_ok());
        let stopped = world.handle().stop();
        let added = adding.join();
        world.tasks.run();
        let report = block_on(stopped);
        assert_eq!(world.log.read(), ["socket closed"]);
        assert_eq!(report.all_acceptors().total(), usize::from(added));
        added
    });
    assert_eq!(added, [false, true].into());
}

#[test]
fn a_connection_that_comes_as_the_pool_stops_is_served_or_was_never_accepted() {
    let served = outcomes(Any, || {
        let world = patient(Script::Serves);
        world.tasks.settle();
        world.listen();
        block_on(world.tasks.take());
        let watcher = world.tasks.take();
        world.clients.connect();
        let watching = spawn(move || block_on(watcher));
        let stopped = world.handle().stop();
        watching.join();
        world.tasks.run();
        block_on(stopped);
        let served = world
            .log
            .read()
            .iter()
            .filter(|entry| *entry == "served")
            .count();
        assert_eq!(served + world.clients.waiting(), 1);
        served
    });
    assert_eq!(served, [0, 1].into());
}
