//! The reporter: reports are delivered one at a time and in order, and the result follows the last.

use std::sync::Arc;

use super::Interruptions::AtMost;
use super::tasks::Sleeps;
use super::world::{Handle, Script, World};
use super::{block_on, check, outcomes, spawn};
use crate::sync::{Mutex, lock};
use crate::{Event, Latch, PoolState, Report};

/// Counts the posted events, and those that the observer has seen.
#[derive(Clone, Default)]
struct Count(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    posted: usize,
    seen: usize,
    inside: bool,
    /// Whether the result was returned: no report may follow it.
    done: Option<Latch>,
}

impl Count {
    /// An observer that yields, so that another thread may run.
    fn observe(&self, report: &Report<u8>) {
        let Event::Stuck { count } = report.event else {
            return;
        };
        {
            let mut counted = lock(&self.0);
            assert!(
                !counted.inside,
                "two reports are delivered at the same time"
            );
            assert_eq!(
                count,
                counted.seen + 1,
                "reports follow the order of the events"
            );
            counted.inside = true;
        }
        let mut counted = lock(&self.0);
        counted.inside = false;
        counted.seen = count;
        let done = counted.done.as_ref().is_some_and(Latch::is_set);
        assert!(!done, "the result came before a report");
    }

    fn seen(&self) -> usize {
        lock(&self.0).seen
    }

    fn posted(&self) -> usize {
        lock(&self.0).posted
    }

    /// Posts the next event, unless the pool stops.
    fn post(&self, handle: &Handle) {
        handle.shared().handle_event(|state, effects| {
            if state.machine.state() == PoolState::Running {
                let mut counted = lock(&self.0);
                counted.posted += 1;
                let count = counted.posted;
                effects.reports.push(Event::Stuck { count });
            }
        });
    }
}

/// A pool without listeners, which ends as soon as it is stopped.
fn world(sleeps: Sleeps) -> (World, Count) {
    let count = Count::default();
    let observer = count.clone();
    let observer = move |report: &Report<u8>| observer.observe(report);
    let world = World::new(sleeps, Script::Serves, |spec| {
        spec.observer(crate::observer_fn(observer))
    });
    (world, count)
}

fn expect_result_last(world: &World, count: &Count) {
    let done = world.handle().shared().done.clone();
    lock(&count.0).done = Some(done);
}

#[test]
fn concurrent_reports_are_serialized_in_order() {
    check(AtMost(2), || {
        let (world, count) = world(Sleeps::Close);
        expect_result_last(&world, &count);
        let reporter = world.take_reporter();
        let reporting = spawn(move || block_on(reporter));
        let (handle, other) = (world.handle(), count.clone());
        let posting = spawn(move || other.post(&handle));
        count.post(&world.handle());
        posting.join();
        assert_eq!(world.end().undelivered, 0);
        reporting.join();
        assert_eq!(count.seen(), 2);
    });
}

#[test]
fn result_follows_all_earlier_reports() {
    let reports = outcomes(AtMost(3), || {
        let (world, count) = world(Sleeps::Close);
        expect_result_last(&world, &count);
        let reporter = world.take_reporter();
        let reporting = spawn(move || block_on(reporter));
        let (handle, other) = (world.handle(), count.clone());
        let posting = spawn(move || other.post(&handle));
        let stopped = world.handle().stop();
        let report = block_on(stopped);
        assert_eq!(report.undelivered, 0);
        assert_eq!(count.seen(), count.posted());
        posting.join();
        reporting.join();
        world.tasks.run();
        count.seen()
    });
    assert_eq!(reports, [0, 1].into());
}

/// The driver returns the result when the kill timeout expires, which is immediately.
#[test]
fn report_is_delivered_or_counted_undelivered() {
    let undelivered = outcomes(AtMost(3), || {
        let (world, count) = world(Sleeps::Any);
        for _ in 0..2 {
            count.post(&world.handle());
        }
        let reporter = world.take_reporter();
        let reporting = spawn(move || block_on(reporter));
        let report = world.end();
        reporting.join();
        assert_eq!(count.seen() as u64 + report.undelivered, 2);
        report.undelivered
    });
    assert_eq!(undelivered, [0, 1, 2].into());
}

#[test]
fn dropped_reporter_keeps_report_order() {
    check(AtMost(3), || {
        let (world, count) = world(Sleeps::Close);
        expect_result_last(&world, &count);
        for _ in 0..2 {
            count.post(&world.handle());
        }
        let reporter = world.take_reporter();
        let dropping = spawn(move || drop(reporter));
        let stopped = world.handle().stop();
        assert_eq!(block_on(stopped).undelivered, 0);
        assert_eq!(count.seen(), 2);
        dropping.join();
        world.tasks.run();
    });
}

#[test]
fn reporter_dropped_at_work_keeps_order() {
    check(AtMost(3), || {
        let (world, count) = world(Sleeps::Close);
        expect_result_last(&world, &count);
        world.tasks.settle();
        let reporter = world.take_reporter();
        let (handle, other) = (world.handle(), count.clone());
        let posting = spawn(move || other.post(&handle));
        let dropping = spawn(move || drop(reporter));
        let stopped = world.handle().stop();
        assert_eq!(block_on(stopped).undelivered, 0);
        assert_eq!(count.seen(), count.posted());
        posting.join();
        dropping.join();
        world.tasks.run();
    });
}
