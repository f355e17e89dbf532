//! Reports: rules O1 to O4.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildId, ConnectionReports, EndKind, Event, EventKind, Failure, LastListener, Report,
    StopReason, Stopped,
};

use crate::address::Address;
use crate::boxed::{Boxed, BoxedClient};
use crate::fixture::{AnotherThread, Call, Command, Fixture, Pool, ScriptedSpec, Served};
use crate::instruments::{TaskId, current_task, not_listening};
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::Client;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The capacity of the outbox for ordinary reports.
const ORDINARY: usize = 1024;

/// Kills acceptors by id until at least this many are killed, one report each. Returns the number
/// killed.
async fn kill_acceptors(
    fixture: &Fixture,
    pool: &Pool,
    acceptors: usize,
    kills: usize,
) -> Result<usize, Broken> {
    let mut killed = 0;
    while killed < kills {
        let waiting = fixture.waiting(pool, acceptors).await?;
        let ids: Vec<ChildId> = waiting
            .iter()
            .map(|one| one.id)
            .take(kills - killed)
            .collect();
        for id in &ids {
            let result = pool.kill_child(*id);
            result.map_err(|error| Broken::new("an acceptor is killed", error.to_string()))?;
            killed += 1;
        }
        let gone = || match pool.acceptors() {
            Ok(list) if list.iter().all(|one| !ids.contains(&one.id)) => Ok(()),
            other => Err(other.map(|list| list.len())),
        };
        fixture.until("the killed acceptors are gone", gone).await?;
    }
    Ok(killed)
}

/// Kills an acceptor, and returns the task from which its report came.
async fn reporter(fixture: &Fixture, pool: &Pool, acceptors: usize) -> Result<TaskId, Broken> {
    let (tasks, seen) = (Record::default(), fixture.reports.clone());
    let telling = tasks.clone();
    fixture.on_report(move |_| telling.push(current_task()));
    kill_acceptors(fixture, pool, acceptors, 1).await?;
    let task = tasks.when(|tasks| tasks.first().copied());
    let task = fixture
        .event("the kill of an acceptor is reported", task)
        .await?;
    let reported = seen.when(|seen| (!seen.is_empty()).then_some(()));
    fixture.event("the report is recorded", reported).await?;
    task.ok_or_else(|| Broken::new("reports come from a task of the runtime", "they do not"))
}

/// Returns the errors of failed connections, in the order of their reports.
fn failures(fixture: &Fixture) -> Vec<String> {
    fixture.reports.look(|reports| {
        let failures = reports.iter().filter_map(|report| match &report.event {
            Event::ConnectionFailed {
                failure: Failure::Error(error),
                ..
            } => Some(error.to_string()),
            _ => None,
        });
        failures.collect()
    })
}

/// No more per second than `tracing` emits (O3).
const NAMES: [&str; A_SECOND] = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

pub(super) async fn o1_reports_are_ordered(world: Arc<Boxed>) -> Verdict {
    one_task_reports(&world).await?;
    held_observer_is_waited_for_by_no_one(&world).await?;
    if let Some(_other) = AnotherThread::of(&world).await {
        blocked_observer_is_waited_for_by_no_one(&world).await?;
    }
    Ok(())
}

async fn one_task_reports(world: &Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    let (inside, tasks) = (Arc::new(AtomicUsize::new(0)), Record::default());
    let (entering, seeing) = (Arc::clone(&inside), tasks.clone());
    fixture.on_report(move |_| {
        let others = entering.fetch_add(1, Ordering::SeqCst);
        seeing.push((current_task(), others));
        std::thread::yield_now();
        entering.fetch_sub(1, Ordering::SeqCst);
    });
    let pool = fixture.start(fixture.spec("o1"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let mut connections = Vec::new();
    for _ in NAMES {
        connections.push(fixture.connect(address).await?);
    }
    for ((_, served), name) in connections.iter().zip(NAMES) {
        // A visible end has entered the outbox.
        fixture.command(served, Command::Fail(name)).await?;
        fixture.ended(&pool, served.child).await?;
    }
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    same(
        "the order of the reports",
        NAMES.to_vec(),
        failures(&fixture).iter().map(String::as_str).collect(),
    )?;
    let seen = tasks.all();
    let together = seen.iter().filter(|(_, others)| *others > 0).count();
    same(
        "reports that arrived while another was delivered",
        0,
        together,
    )?;
    let reporter = seen.first().and_then(|(task, _)| *task);
    let others = seen
        .iter()
        .filter(|(task, _)| task.is_none() || *task != reporter);
    same("reports from outside the reporting task", 0, others.count())?;
    let events = all.traced();
    let emitted: Vec<_> = events
        .iter()
        .filter_map(|event| event.field("error"))
        .collect();
    same(
        "the order of the events of `tracing`",
        NAMES.to_vec(),
        emitted,
    )?;
    let others = events.iter().filter(|event| event.task != reporter).count();
    same("events of `tracing` from another task", 0, others)?;
    let mut own = all.cost().tasks();
    fixture.calls.look(|calls| {
        own.extend(calls.iter().filter_map(|call| match call {
            Call::Init { task, .. } | Call::Terminate { task, .. } => *task,
            Call::Serve(served) => served.task,
            _ => None,
        }));
    });
    let shared = reporter.is_some_and(|reporter| own.contains(&reporter));
    same(
        "reports come from a task of a child or of a listener",
        false,
        shared,
    )
}

/// Exercises everything that must not wait for an observer.
async fn all_goes_on(fixture: &Fixture, pool: &Pool, address: Address, workers: usize) -> Verdict {
    for name in &NAMES[..3] {
        let (mut client, served) = fixture.connect(address).await?;
        fixture.echo(&mut client, "accepted and served").await?;
        fixture.command(&served, Command::Fail(name)).await?;
        fixture.ended(pool, served.child).await?;
        fixture.closed(&mut client).await?;
    }
    let (other, other_address) = fixture.listen(pool, 1)?;
    let (mut client, served) = fixture.connect(other_address).await?;
    fixture.echo(&mut client, "another listener").await?;
    fixture.close(pool, other).await?;
    fixture.command(&served, Command::Return).await?;
    fixture.counts(pool, 0, workers).await?;
    same("whether a call is answered", true, pool.status().is_ok())
}

async fn held_observer_is_waited_for_by_no_one(world: &Arc<Boxed>) -> Verdict {
    let held = Boxed::instrumented(world);
    let fixture = Fixture::new(&held);
    let pool = fixture.start(fixture.spec("o1"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let reporter = reporter(&fixture, &pool, 2).await?;
    fixture
        .event("the reporting task is held", held.hold(reporter))
        .await?;
    all_goes_on(&fixture, &pool, address, 2).await?;
    same(
        "reports while the reporting task is held",
        1,
        fixture.reports.count(),
    )?;
    held.release(reporter);
    fixture.event("the pool stops", pool.stop()).await?;
    let expected: Vec<_> = NAMES[..3].iter().map(|name| (*name).to_owned()).collect();
    same("reports once it resumes", expected, failures(&fixture))
}

async fn blocked_observer_is_waited_for_by_no_one(world: &Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(world);
    let (open, opened) = std::sync::mpsc::channel::<()>();
    let opened = std::sync::Mutex::new(opened);
    let blocked = Record::default();
    let blocking = blocked.clone();
    fixture.on_report(move |_| {
        blocking.push(());
        let opened = opened
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = opened.recv();
    });
    let pool = fixture.start(fixture.spec("o1"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let (_client, served) = fixture.connect(address).await?;
    fixture.command(&served, Command::Fail("zero")).await?;
    let blocks = blocked.when(|blocked| (!blocked.is_empty()).then_some(()));
    fixture
        .event("the observer blocks its thread", blocks)
        .await?;
    all_goes_on(&fixture, &pool, address, 2).await?;
    same(
        "reports while the observer blocks",
        0,
        fixture.reports.count(),
    )?;
    drop(open);
    fixture.event("the pool stops", pool.stop()).await?;
    same("reports once it resumes", 4, fixture.reports.count())
}

pub(super) async fn o2_outbox_is_bounded(world: Arc<Boxed>) -> Verdict {
    what_does_not_fit_is_counted(&world).await?;
    pauses_are_merged(&world).await?;
    stop_waits_for_a_kill_timeout(&world).await
}

async fn what_does_not_fit_is_counted(world: &Arc<Boxed>) -> Verdict {
    const ACCEPTORS: usize = 64;
    let held = Boxed::instrumented(world);
    let failing = Arc::clone(&held);
    let fixture = Fixture::new(&failing);
    let spec = fixture.spec("o2").last_listener(LastListener::Stop);
    let pool = fixture.start(spec)?;
    let (_, address) = fixture.listen(&pool, ACCEPTORS)?;
    let reporter = reporter(&fixture, &pool, ACCEPTORS).await?;
    fixture
        .event("the reporting task is held", held.hold(reporter))
        .await?;
    let killed = kill_acceptors(&fixture, &pool, ACCEPTORS, ORDINARY + 50).await?;
    let lost = killed - ORDINARY;
    // This report is dropped last, and the stop that follows has a slot of its own.
    failing.faults(address).inject(not_listening());
    let joined = pool.join();
    let stopped = || match pool.counts() {
        Err(Stopped { .. }) => Ok(()),
        other => Err(other),
    };
    fixture
        .until("the pool stops with its last listener", stopped)
        .await?;
    held.release(reporter);
    let report = fixture.event("the reports are delivered", joined).await?;
    let kinds = fixture.reports.look(|reports| {
        let kinds = reports.iter().map(|report| report.event.kind());
        kinds.collect::<Vec<_>>()
    });
    let ordinary = kinds
        .iter()
        .take_while(|kind| **kind == EventKind::AcceptorFailed);
    // One was delivered before.
    same(
        "ordinary reports that were delivered",
        1 + ORDINARY,
        ordinary.count(),
    )?;
    let expected = vec![
        EventKind::ReportsLost,
        EventKind::ListenerFailed,
        EventKind::PoolStopped,
    ];
    let rest = kinds.get(1 + ORDINARY..).unwrap_or_default().to_vec();
    same("the reports after them", expected, rest)?;
    let losses = fixture.reports.look(|reports| {
        let losses = reports.iter().filter_map(|report| match &report.event {
            Event::ReportsLost { lost, .. } => {
                Some((lost.of(EventKind::AcceptorFailed), lost.total()))
            }
            _ => None,
        });
        losses.collect::<Vec<_>>()
    });
    let lost = lost as u64;
    same("losses: of that kind, in total", vec![(lost, lost)], losses)?;
    same(
        "undelivered reports according to the result",
        lost,
        report.undelivered,
    )?;
    same(
        "why the pool stopped",
        StopReason::ListenersFailed,
        report.reason,
    )
}

async fn pauses_are_merged(world: &Arc<Boxed>) -> Verdict {
    const PAUSES: usize = 9;
    let held = Boxed::instrumented(&Boxed::fast(world));
    let failing = Arc::clone(&held);
    let fixture = Fixture::new(&failing);
    let pool = fixture.start(fixture.spec("o2"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let reporter = reporter(&fixture, &pool, 1).await?;
    fixture
        .event("the reporting task is held", held.hold(reporter))
        .await?;
    // The last begins 1.275 s after the first, so it has to be reported unless an earlier one was.
    let faults = failing.faults(address);
    faults.inject_all((0..PAUSES).map(|_| ErrorKind::OutOfMemory.into()));
    let taken = || match faults.pending() {
        0 => Ok(()),
        pending => Err(pending),
    };
    fixture
        .until("the errors are taken from the listener", taken)
        .await?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "after the pauses").await?;
    held.release(reporter);
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let pauses = fixture.reports.look(|reports| {
        let pauses = reports.iter().filter_map(|report| match &report.event {
            Event::AcceptPaused { suppressed, .. } => Some(*suppressed),
            _ => None,
        });
        pauses.collect::<Vec<_>>()
    });
    same("reports of the pauses", 1, pauses.len())?;
    let merged: u64 = pauses.iter().sum();
    let what = format!("it stands for other pauses too: {merged} of {}", PAUSES - 1);
    same(&what, true, (1..PAUSES as u64).contains(&merged))
}

async fn stop_waits_for_a_kill_timeout(world: &Arc<Boxed>) -> Verdict {
    let kill_timeout = 50 * MILLISECOND;
    let held = Boxed::instrumented(world);
    let fixture = Fixture::new(&held);
    let pool = fixture.start(fixture.spec("o2").kill_timeout(kill_timeout))?;
    fixture.listen(&pool, 4)?;
    let reporter = reporter(&fixture, &pool, 4).await?;
    fixture
        .event("the reporting task is held", held.hold(reporter))
        .await?;
    let killed = kill_acceptors(&fixture, &pool, 4, 3).await?;
    let began = fixture.now();
    let report = fixture
        .event("the stop gives up on delivery", pool.stop())
        .await?;
    let took = fixture.now() - began;
    let what = format!("it waits for {kill_timeout:?}: {took:?}");
    same(&what, true, took >= kill_timeout)?;
    let undelivered = report.undelivered;
    same(
        "undelivered reports after a kill timeout",
        killed as u64,
        undelivered,
    )?;
    same("delivered reports", 1, fixture.reports.count())?;
    held.release(reporter);
    Ok(())
}

/// How many events of a kind and listener are emitted within a second.
const A_SECOND: usize = 10;

pub(super) async fn o3_tracing_of_failures_is_limited(world: Arc<Boxed>) -> Verdict {
    const KILLS: usize = 60;
    let all = Boxed::instrumented(&world);
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("o3"))?;
    let (first, address) = fixture.listen(&pool, KILLS)?;
    let began = fixture.now();
    kill_acceptors(&fixture, &pool, KILLS, KILLS).await?;
    // Events older than a second do not count: this one reports how many were suppressed.
    fixture.sleep_until(fixture.now() + SECOND).await;
    kill_acceptors(&fixture, &pool, KILLS, 1).await?;
    // Another kind of event, and then another listener.
    let (_client, served) = fixture.connect(address).await?;
    fixture.command(&served, Command::Fail("no")).await?;
    fixture.ended(&pool, served.child).await?;
    fixture.close(&pool, first).await?;
    let (second, _) = fixture.listen(&pool, 1)?;
    let all_end = || match pool.counts() {
        Ok(counts) if counts.children() == 1 => Ok(()),
        other => Err(other),
    };
    fixture
        .until("the acceptors of the first listener end", all_end)
        .await?;
    kill_acceptors(&fixture, &pool, 1, 1).await?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let took = fixture.now() - began;
    let failed = |event: &Event<_>| matches!(event, Event::AcceptorFailed { .. });
    let reported = fixture.reports.look(|reports| {
        reports
            .iter()
            .filter(|report| failed(&report.event))
            .count()
    });
    same(
        "failures of acceptors that the observer received",
        KILLS + 2,
        reported,
    )?;
    let events = all.traced();
    let of = |event: &str, listener: acceptor_core::ListenerId| {
        let (event, listener) = (event.to_owned(), listener.to_string());
        let of_both = events.iter().filter(move |one| {
            one.field("event") == Some(&event) && one.field("listener") == Some(&listener)
        });
        of_both.collect::<Vec<_>>()
    };
    let emitted = of("acceptor_failed", first);
    // The limit is ten a second; the timestamps here are taken later than the ones used for the
    // limit.
    let times: Vec<Instant> = emitted.iter().map(|event| event.at).collect();
    for twelve in times.windows(A_SECOND + 2) {
        let within = twelve[A_SECOND + 1] - twelve[0];
        let what = format!("{} events took {within:?}, in all {took:?}", A_SECOND + 2);
        same(&what, true, within >= SECOND)?;
    }
    same(
        "events exceed the limit of a second",
        true,
        emitted.len() > A_SECOND,
    )?;
    let left_out = of("events_suppressed", first);
    let last: u64 = left_out
        .iter()
        .filter_map(|event| event.number("count"))
        .sum();
    let suppressed = emitted
        .iter()
        .filter_map(|event| event.number("suppressed"));
    let total = emitted.len() as u64 + suppressed.sum::<u64>() + last;
    same(
        "events emitted plus events reported as suppressed",
        KILLS as u64 + 1,
        total,
    )?;
    let others = (
        of("connection_failed", first).len(),
        of("acceptor_failed", second).len(),
    );
    same(
        "events of another kind, and of another listener",
        (1, 1),
        others,
    )
}

/// A connection's reports, from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    Began(Address, Address),
    Ended(Address, EndKind),
    Failed(Address),
}

/// Returns the reports of each connection, in order, with the ages of those that ended.
fn by_connection(
    reports: &[Report<Address>],
) -> BTreeMap<ChildId, Vec<(Reported, Option<Duration>)>> {
    let mut connections: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for report in reports {
        let (child, reported) = match &report.event {
            Event::ConnectionBegan {
                child,
                peer,
                local_addr,
                ..
            } => (*child, (Reported::Began(*peer, *local_addr), None)),
            Event::ConnectionEnded {
                child,
                peer,
                age,
                kind,
                ..
            } => (*child, (Reported::Ended(*peer, *kind), Some(*age))),
            Event::ConnectionFailed {
                child, peer, age, ..
            } => (*child, (Reported::Failed(*peer), Some(*age))),
            _ => continue,
        };
        connections.entry(child).or_default().push(reported);
    }
    connections
}

pub(super) async fn o4_connection_reports_are_optional(world: Arc<Boxed>) -> Verdict {
    // Off unless the spec turns it on.
    for reports in [None, Some(ConnectionReports::All)] {
        ends_are_reported(&world, reports).await?;
    }
    losses_are_counted_apart(&world).await
}

fn with_reports(fixture: &Fixture, reports: Option<ConnectionReports>) -> ScriptedSpec {
    match reports {
        Some(reports) => fixture.spec("o4").connection_reports(reports),
        None => fixture.spec("o4"),
    }
}

async fn ends_are_reported(world: &Arc<Boxed>, reports: Option<ConnectionReports>) -> Verdict {
    let fixture = Fixture::new(world);
    let pool = fixture.start(with_reports(&fixture, reports))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let began = fixture.now();
    let mut expected = BTreeMap::new();
    let mut expects = |client: &BoxedClient, served: &Served, end: Reported| {
        let peer = client.local_addr();
        expected.insert(served.child, vec![Reported::Began(peer, address), end]);
    };
    let mut clients = Vec::new();
    for order in [
        Command::Return,
        Command::ExitCleanly,
        Command::Fail("no"),
        Command::Panic("no"),
    ] {
        let (client, served) = fixture.connect(address).await?;
        let peer = client.local_addr();
        fixture.command(&served, order).await?;
        fixture.ended(&pool, served.child).await?;
        expects(
            &client,
            &served,
            match order {
                Command::Return => Reported::Ended(peer, EndKind::Normal),
                Command::ExitCleanly => Reported::Ended(peer, EndKind::Clean),
                _ => Reported::Failed(peer),
            },
        );
        clients.push(client);
    }
    for kills in [true, false] {
        let (client, served) = fixture.connect(address).await?;
        let (result, end) = if kills {
            let end = Reported::Failed(client.local_addr());
            (pool.kill_child(served.child), end)
        } else {
            let end = Reported::Ended(client.local_addr(), EndKind::Stopped);
            (pool.stop_child(served.child), end)
        };
        result
            .map_err(|error| Broken::new("a connection is stopped or killed", error.to_string()))?;
        fixture.ended(&pool, served.child).await?;
        expects(&client, &served, end);
        clients.push(client);
    }
    // A connection that only the kill of the pool ends, which is reported with a count.
    let (client, served) = fixture.connect(address).await?;
    expects(
        &client,
        &served,
        Reported::Ended(client.local_addr(), EndKind::Killed),
    );
    // All reports have been delivered once `kill` has returned.
    fixture.event("the pool is killed", pool.kill()).await?;
    let most = fixture.now() - began;
    let seen = fixture.reports.look(by_connection);
    if reports.is_none() {
        let failed = |reported: &(Reported, _)| matches!(reported.0, Reported::Failed(_));
        let others = seen
            .values()
            .flatten()
            .filter(|reported| !failed(reported))
            .count();
        return same("beginnings and ends reported by default", 0, others);
    }
    for (reported, age) in seen.values().flatten() {
        if let Some(age) = age {
            let what = format!("an age of {age:?} is within {most:?}, {reported:?}");
            same(&what, true, *age <= most)?;
        }
    }
    let seen: BTreeMap<_, Vec<_>> = seen
        .into_iter()
        .map(|(child, reported)| (child, reported.into_iter().map(|(what, _)| what).collect()))
        .collect();
    same("the reports of each connection, in order", expected, seen)
}

async fn losses_are_counted_apart(world: &Arc<Boxed>) -> Verdict {
    const ACCEPTORS: usize = 64;
    let held = Boxed::instrumented(world);
    let fixture = Fixture::new(&held);
    let spec = with_reports(&fixture, Some(ConnectionReports::All));
    let pool = fixture.start(spec)?;
    let (_, address) = fixture.listen(&pool, ACCEPTORS)?;
    let reporter = reporter(&fixture, &pool, ACCEPTORS).await?;
    fixture
        .event("the reporting task is held", held.hold(reporter))
        .await?;
    kill_acceptors(&fixture, &pool, ACCEPTORS, ORDINARY - 1).await?;
    // The first connection's beginning still fits.
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(fixture.connect(address).await?);
    }
    for (_, served) in &connections {
        fixture.command(served, Command::Return).await?;
        fixture.ended(&pool, served.child).await?;
    }
    held.release(reporter);
    fixture.event("the pool stops", pool.stop()).await?;
    let losses = fixture.reports.look(|reports| {
        let losses = reports.iter().filter_map(|report| match &report.event {
            Event::ReportsLost { lost, .. } => Some((
                lost.of(EventKind::ConnectionBegan),
                lost.of(EventKind::ConnectionEnded),
                lost.total(),
            )),
            _ => None,
        });
        losses.collect::<Vec<_>>()
    });
    same("losses: beginnings, ends, all", vec![(2, 3, 5)], losses)
}
