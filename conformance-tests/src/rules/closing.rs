//! How a listener closes or fails: rules L7, L8 and L9.

use std::io::ErrorKind;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use acceptor_core::{
    CloseError, Event, Grace, LastListener, Latch, ListenerId, ListenerState, Phase, PoolState,
    Shutdown, StopReason,
};
use futures::FutureExt;

use super::runtime::poll_once;
use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{Call, Command, Fixture, Handle, OnInit, OnTerminate, Pool, is_running};
use crate::instruments::not_listening;
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::World;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Returns the *closed* latch that an acceptor got in `init`.
fn closed(fixture: &Fixture) -> Result<Latch, Broken> {
    let closed = fixture.calls.look(|calls| {
        calls.iter().find_map(|call| match call {
            Call::Init { info, .. } => Some(info.closed.clone()),
            _ => None,
        })
    });
    closed.ok_or_else(|| Broken::new("an acceptor ran `init`", "none did"))
}

fn state(pool: &Handle) -> PoolState {
    pool.status()
        .map_or(PoolState::Stopped, |status| status.state)
}

fn listener_state(pool: &Handle, id: ListenerId) -> Option<ListenerState> {
    let list = pool.listeners().unwrap_or_default();
    let known = list.into_iter().find(|one| one.id == id);
    known.map(|one| one.state)
}

/// Returns how often `serve` has run.
fn served(fixture: &Fixture) -> usize {
    fixture.calls.look(|calls| {
        let serve = |call: &&Call| matches!(call, Call::Serve(_));
        calls.iter().filter(serve).count()
    })
}

pub(super) async fn l7_close_drains_the_queue(world: Arc<Boxed>) -> Verdict {
    for cause in [CloseCause::Close, CloseCause::Stop] {
        queued_clients_are_served(&world, cause).await?;
    }
    for cause in [
        CloseCause::Kill,
        CloseCause::Drop,
        CloseCause::BrutalStop,
        CloseCause::CloseWhenPaused,
        CloseCause::CloseOnError(Flaw::Resources),
        CloseCause::CloseOnError(Flaw::Listener),
    ] {
        queued_clients_are_reset(&world, cause).await?;
    }
    starting_acceptor_is_waited_for(&world).await?;
    no_acceptor_is_left(&world).await
}

/// How a listener comes to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseCause {
    Close,
    Stop,
    Kill,
    Drop,
    /// With grace zero and shutdown *kill*.
    BrutalStop,
    CloseWhenPaused,
    /// `accept` fails before it has found the first queued client.
    CloseOnError(Flaw),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Resources,
    Listener,
}

const AT_ONCE: &str = "does the first poll of `accept` return a connection that is queued? If it is pending, the pool takes the queue as empty and closes the socket";

async fn queued_clients_are_served(world: &Arc<Boxed>, cause: CloseCause) -> Verdict {
    const CLIENTS: usize = 10;
    const GRACE: Duration = Duration::from_millis(60);
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    let spec = fixture.spec("l7").grace(Grace::Unlimited);
    let pool = fixture.start(spec)?;
    // Fewer acceptors than clients: they are replaced while the listener closes.
    let (id, address) = fixture.listen(&pool, 2)?;
    let (mut earlier, before) = fixture.connect(address).await?;
    let task = all.hold_accepting(&fixture).await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(fixture.connect_only(address).await?);
    }
    let is_closed = closed(&fixture)?;
    let close = (cause == CloseCause::Close).then(|| pool.close_listener(id));
    let stop = (cause == CloseCause::Stop).then(|| pool.stop());
    let draining = before.lifecycle.draining().is_set();
    let what = format!("*draining* once the listener begins to close, {cause:?}");
    same(&what, true, draining)?;
    same(
        "*closed* while the socket is open",
        false,
        is_closed.is_set(),
    )?;
    let now = listener_state(&pool, id);
    same(
        "the listener while it closes",
        Some(ListenerState::Closing),
        now,
    )?;
    all.release(task);
    for client in &mut clients {
        let echoed = fixture.echo(client, "queued").await;
        echoed.map_err(|broken| broken.check(AT_ONCE))?;
    }
    match close {
        Some(close) => same(
            "the result of the close after all clients are served",
            Ok(()),
            fixture.event("the listener closes", close).await?,
        )?,
        None => fixture.event("*closed*", is_closed.wait()).await?,
    }
    same(
        "*closed* once the socket is closed",
        true,
        is_closed.is_set(),
    )?;
    same(
        "a late client is refused",
        true,
        fixture.is_refused(address).await?,
    )?;
    same(
        "the listener when it is closed",
        None,
        listener_state(&pool, id),
    )?;
    same("connections served", 1 + CLIENTS, served(&fixture))?;
    fixture.echo(&mut earlier, "still there").await?;
    drop(stop);
    fixture.event("the pool is killed", pool.kill()).await?;

    // Grace begins when the listener is closed, however long that takes; after a second it begins in any case.
    if cause == CloseCause::Stop {
        let all = Boxed::instrumented(world);
        let fixture = Fixture::new(&all);
        let pool = fixture.start(fixture.spec("l7").grace(GRACE))?;
        let (_, address) = fixture.listen(&pool, 1)?;
        let (_client, _) = fixture.connect(address).await?;
        let task = all.hold_accepting(&fixture).await?;
        let began = fixture.now();
        let stopping = pool.stop();
        fixture.sleep_until(began + 2 * GRACE).await;
        let seen = state(&pool);
        if fixture.now() < began + SECOND {
            let grace = PoolState::Stopping(Phase::Grace);
            same("the state while the listener closes", grace, seen)?;
        }
        let released = (fixture.now() - began).min(SECOND);
        all.release(task);
        let report = fixture.event("the pool stops", stopping).await?;
        let least = released + GRACE;
        let what = format!("it took at least {least:?}: {:?}", report.elapsed);
        same(&what, true, report.elapsed >= least)?;
    }
    Ok(())
}

async fn queued_clients_are_reset(world: &Arc<Boxed>, cause: CloseCause) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    let spec = fixture.spec("l7");
    let pool = fixture.start(match cause {
        CloseCause::BrutalStop => spec.shutdown(Shutdown::Kill),
        _ => spec.grace(Grace::Unlimited),
    })?;
    let (id, address) = fixture.listen(&pool, 2)?;
    fixture.waiting(&pool, 2).await?;
    let handle = pool.handle();
    let mut owner = Some(pool);
    let faults = all.faults(address);
    let task = if cause == CloseCause::CloseWhenPaused {
        all.stop_clock();
        faults.inject(ErrorKind::OutOfMemory.into());
        let pauses = || match listener_state(&handle, id) {
            Some(ListenerState::Resources) => Ok(()),
            other => Err(other),
        };
        fixture.until("the listener pauses", pauses).await?;
        None
    } else {
        Some(all.hold_accepting(&fixture).await?)
    };
    let mut client = fixture.connect_only(address).await?;
    let mut close = None;
    match cause {
        CloseCause::Close | CloseCause::CloseWhenPaused => close = Some(handle.close_listener(id)),
        CloseCause::CloseOnError(flaw) => {
            faults.inject(match flaw {
                Flaw::Resources => ErrorKind::OutOfMemory.into(),
                Flaw::Listener => not_listening(),
            });
            close = Some(handle.close_listener(id));
        }
        CloseCause::Stop | CloseCause::BrutalStop => drop(handle.stop()),
        CloseCause::Kill => drop(handle.kill()),
        CloseCause::Drop => drop(owner.take()),
    }
    if let Some(task) = task {
        all.release(task);
    }
    fixture.closed(&mut client).await?;
    let what = format!("how often a queued client was served, {cause:?}");
    same(&what, 0, served(&fixture))?;
    match close {
        Some(close) => {
            let closed = fixture.event("the listener closes", close).await?;
            same("the result of the close", Ok(()), closed)?;
            fixture.event("the pool is killed", handle.kill()).await?;
            // The close was requested and succeeded, so it is not a failure.
            let failed = fixture.reports.look(|reports| {
                let failed = |event: &Event<_>| matches!(event, Event::ListenerFailed { .. });
                reports
                    .iter()
                    .filter(|report| failed(&report.event))
                    .count()
            });
            same("listeners reported as failed", 0, failed)?;
        }
        None => {
            fixture.join(&handle).await?;
        }
    }
    drop(owner);
    Ok(())
}

/// An acceptor that is in `init` when the listener begins to close still takes a queued client.
async fn starting_acceptor_is_waited_for(world: &Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(world);
    fixture.on_init([], OnInit::Deferred);
    let pool = fixture.start(fixture.spec("l7"))?;
    let (id, address) = fixture.listen(&pool, 1)?;
    fixture.inits_begun(1).await?;
    let mut client = fixture.connect_only(address).await?;
    let close = pool.close_listener(id);
    fixture.decide(OnInit::Accept);
    fixture
        .echo(&mut client, "taken by the last acceptor")
        .await?;
    let closed = fixture.event("the listener closes", close).await?;
    same("the result of the close after a late start", Ok(()), closed)?;

    // Within that second, and no longer.
    let fixture = Fixture::new(world);
    fixture.on_init([], OnInit::Nothing);
    let pool = fixture.start(fixture.spec("l7"))?;
    let (id, address) = fixture.listen(&pool, 1)?;
    fixture.inits_begun(1).await?;
    let mut client = fixture.connect_only(address).await?;
    let began = fixture.now();
    fixture.close(&pool, id).await?;
    let took = fixture.now() - began;
    let what = format!("an acceptor that starts is waited for a second: {took:?}");
    same(&what, true, took >= SECOND)?;
    fixture.closed(&mut client).await?;

    // A waiting acceptor finds an empty queue, which is trusted after a millisecond.
    let fixture = Fixture::new(world);
    let pool = fixture.start(fixture.spec("l7"))?;
    let (id, _) = fixture.listen(&pool, 1)?;
    fixture.waiting(&pool, 1).await?;
    let began = fixture.now();
    fixture.close(&pool, id).await?;
    let took = fixture.now() - began;
    let what = format!("a client that connects just then has a millisecond: {took:?}");
    same(&what, true, took >= MILLISECOND)
}

/// With all acceptors in `terminate`, no client can be served.
async fn no_acceptor_is_left(world: &Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(world);
    fixture.on_terminate(OnTerminate::Hang);
    fixture.on_init([], OnInit::AcceptWithin(MILLISECOND));
    let pool = fixture.start(fixture.spec("l7"))?;
    let (id, address) = fixture.listen(&pool, 2)?;
    let terminated = || match fixture.terminated().len() {
        2 => Ok(()),
        other => Err(other),
    };
    fixture
        .until("both acceptors terminate", terminated)
        .await?;
    let mut client = fixture.connect_only(address).await?;
    fixture.close(&pool, id).await?;
    fixture.closed(&mut client).await?;
    same("connections served", 0, served(&fixture))?;
    fixture.event("the pool is killed", pool.kill()).await?;
    Ok(())
}

pub(super) async fn l8_failure_report_follows_the_close(world: Arc<Boxed>) -> Verdict {
    let failing = Boxed::instrumented(&world);
    let fixture = Fixture::new(&failing);
    let again = Record::default();
    let (bound, binding) = (again.clone(), Arc::clone(&world));
    fixture.on_report(move |report| {
        if let Event::ListenerFailed { local_addr, .. } = &report.event {
            let result = binding.listen_on(*local_addr);
            bound.push(result.map(drop).map_err(|error| error.to_string()));
        }
    });
    let pool = fixture.start(fixture.spec("l8"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.waiting(&pool, 2).await?;
    failing.faults(address).inject(not_listening());
    let reported = again.when(|again| again.first().cloned());
    let result = fixture.event("the failure is reported", reported).await?;
    same(
        "the result of binding its address again on the report",
        Ok(()),
        result,
    )?;
    fixture.echo(&mut client, "still there").await?;

    let all = Boxed::instrumented(&world);
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("l8"))?;
    let (id, address) = fixture.listen(&pool, 2)?;
    fixture.waiting(&pool, 2).await?;
    let task = all.hold_accepting(&fixture).await?;
    let mut closes = vec![pool.close_listener(id).boxed()];
    let known = listener_state(&pool, id);
    same(
        "the listener while it closes",
        Some(ListenerState::Closing),
        known,
    )?;
    closes.push(pool.close_listener(id).boxed());
    for close in &mut closes {
        let polled = poll_once(close.as_mut(), &Record::default());
        same(
            "the result of a close while the socket is open",
            Poll::Pending,
            polled,
        )?;
    }
    all.release(task);
    for close in closes {
        let closed = fixture.event("the listener closes", close).await?;
        same("the result of each of both closes", Ok(()), closed)?;
    }
    same(
        "a new client is refused",
        true,
        fixture.is_refused(address).await?,
    )?;
    let late = fixture.event("a late close returns", pool.close_listener(id));
    same(
        "the result of a close once the listener is closed",
        Err(CloseError::UnknownListener(id)),
        late.await?,
    )
}

/// Returns the listeners reported as failed: how many others were left, and the text of the report.
fn failures(fixture: &Fixture) -> Vec<(usize, String)> {
    fixture.reports.look(|reports| {
        let failures = reports.iter().filter_map(|report| match &report.event {
            Event::ListenerFailed { listeners_left, .. } => {
                Some((*listeners_left, fixture.describe(report)))
            }
            _ => None,
        });
        failures.collect()
    })
}

/// Makes a listener fail, and waits until it is no longer listed.
async fn fail(fixture: &Fixture, pool: &Pool, (id, address): (ListenerId, Address)) -> Verdict {
    fixture.world.faults(address).inject(not_listening());
    let gone = || match listener_state(pool, id) {
        None => Ok(()),
        other => Err(other),
    };
    fixture.until("the listener fails", gone).await
}

pub(super) async fn l9_last_listener_that_fails(world: Arc<Boxed>) -> Verdict {
    let failing = Boxed::instrumented(&world);
    let fixture = Fixture::new(&failing);
    let pool = fixture.start(fixture.spec("l9"))?;
    for _ in 0..2 {
        let first = fixture.listen(&pool, 1)?;
        let last = fixture.listen(&pool, 1)?;
        fail(&fixture, &pool, first).await?;
        fail(&fixture, &pool, last).await?;
        same(
            "the pool keeps running without a listener",
            true,
            is_running(&pool),
        )?;
    }
    let (_, address) = fixture.listen(&pool, 1)?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "a new listener").await?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let failures = failures(&fixture);
    let left: Vec<_> = failures.iter().map(|(left, _)| *left).collect();
    same(
        "listeners left, according to the reports",
        vec![1, 0, 1, 0],
        left,
    )?;
    for (left, words) in failures {
        let says = words.contains("no listener is left");
        same(
            &format!("whether the report says that none is left: {words}"),
            left == 0,
            says,
        )?;
    }

    let fixture = Fixture::new(&failing);
    let spec = fixture.spec("l9").last_listener(LastListener::Stop);
    let pool = fixture.start(spec.grace(Grace::Unlimited))?;
    let (closed, _) = fixture.listen(&pool, 1)?;
    fixture.close(&pool, closed).await?;
    same(
        "the pool keeps running when the last listener is closed",
        true,
        is_running(&pool),
    )?;
    let first = fixture.listen(&pool, 1)?;
    let last = fixture.listen(&pool, 1)?;
    fail(&fixture, &pool, first).await?;
    same(
        "the pool keeps running with one listener left",
        true,
        is_running(&pool),
    )?;
    let (mut client, served) = fixture.connect(last.1).await?;
    fail(&fixture, &pool, last).await?;
    let grace = PoolState::Stopping(Phase::Grace);
    same("the state when the last has failed", grace, state(&pool))?;
    fixture.echo(&mut client, "in grace").await?;
    fixture.command(&served, Command::Return).await?;
    let report = fixture.join(&pool).await?;
    same(
        "why the pool stopped",
        StopReason::ListenersFailed,
        report.reason,
    )?;
    let stops = fixture.reports.look(|reports| {
        let stop = reports.iter().filter_map(|report| match report.event {
            Event::PoolStopped { reason, .. } => Some(reason),
            _ => None,
        });
        stop.collect::<Vec<_>>()
    });
    same(
        "the report of the stop",
        vec![StopReason::ListenersFailed],
        stops,
    )
}
