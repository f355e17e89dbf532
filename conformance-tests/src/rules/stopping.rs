//! Stopping: rules S1 to S9.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use acceptor_core::{
    AddListenerReason, ChildError, ChildType, CloseError, Connection, EndKind, Ends, Event, Grace,
    ListenerState, Phase, PoolState, ReconfigureError, Restart, Shutdown, Spec, StopReason,
    StopReport, StreamOf, WaitingAcceptors, acceptor_fn,
};
use futures::FutureExt;
use futures::future::join_all;

use crate::address::Address;
use crate::boxed::{Boxed, BoxedClient, BoxedListener};
use crate::fixture::{
    AnotherThread, Call, Command, Fixture, Handle, OnInit, OnTerminate, Pool, ScriptedSpec,
    ServeEnd, Served,
};
use crate::instruments::TaskId;
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::World;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Returns the state of the pool. A stopped pool has no status.
fn state(pool: &Handle) -> PoolState {
    pool.status()
        .map_or(PoolState::Stopped, |status| status.state)
}

/// Waits until the stop has reached this phase.
async fn phase(fixture: &Fixture, pool: &Handle, phase: Phase) -> Verdict {
    let look = || match state(pool) {
        PoolState::Stopping(now) if now == phase => Ok(()),
        other => Err(other),
    };
    fixture
        .until(&format!("the stop reaches the phase {phase}"), look)
        .await
}

/// Waits until the future of `serve` is dropped, and returns how it ended.
async fn left(fixture: &Fixture, served: &Served) -> Result<ServeEnd, Broken> {
    let id = served.child;
    let left = fixture.calls.first(move |call| match call {
        Call::ServeEnded { child, end } if *child == id => Some(*end),
        _ => None,
    });
    fixture
        .event("the future of `serve` is dropped", left)
        .await
}

/// Waits until `terminate` has run this many times.
async fn terminations(fixture: &Fixture, count: usize) -> Verdict {
    let terminated = fixture.calls.when(move |calls| {
        let terminate = |call: &&Call| matches!(call, Call::Terminate { .. });
        (calls.iter().filter(terminate).count() >= count).then_some(())
    });
    let what = format!("`terminate` runs {count} times");
    fixture.event(&what, terminated).await
}

/// Waits until no socket listens on an address, so that it can be bound again.
async fn unbound(fixture: &Fixture, address: Address) -> Verdict {
    let bind = || {
        let bound = fixture.world.listen_on(address);
        bound.map(drop).map_err(|error| error.to_string())
    };
    fixture.until("the listener's socket is closed", bind).await
}

pub(super) async fn s1_all_callers_get_the_result(world: Arc<Boxed>) -> Verdict {
    for reason in [
        StopReason::Requested,
        StopReason::Intensity,
        StopReason::OwnerDropped,
    ] {
        let fixture = Fixture::new(&world);
        let spec = fixture.spec("s1").restart(Restart::Transient).intensity(0);
        let owner = fixture.start(spec.grace(Grace::Unlimited))?;
        let pool = owner.handle();
        let (_, address) = fixture.listen(&pool, 2)?;
        let (_failing, failing) = fixture.connect(address).await?;
        let (_client, served) = fixture.connect(address).await?;
        fixture.inits_begun(4).await?;
        let mut asking = vec![pool.join().boxed()];
        // Dropped at the end of this round, unless the drop itself is the reason.
        let owner = match reason {
            StopReason::OwnerDropped => {
                drop(owner);
                None
            }
            _ => Some(owner),
        };
        if owner.is_some() {
            if reason == StopReason::Requested {
                asking.push(pool.stop().boxed());
            }
            fixture.command(&failing, Command::Fail("scripted")).await?;
            // The acceptors and the failed connection are counted: a second request loses none of them.
            fixture.counts(&pool, 1, 1).await?;
            asking.push(pool.stop().boxed());
            asking.push(pool.clone().stop().boxed());
            let asked_again = PoolState::Stopping(Phase::Grace);
            same(
                "the state after a second request",
                asked_again,
                state(&pool),
            )?;
            fixture.command(&served, Command::Return).await?;
        }
        asking.push(pool.join().boxed());
        let results = fixture
            .event("all callers get the result", join_all(asking))
            .await?;
        let result = fixture.join(&pool).await?;
        same("why the pool stopped", reason, result.reason)?;
        same("acceptors that ended", 2, result.all_acceptors().total())?;
        for other in results {
            same("the result that another caller got", &result, &other)?;
        }
    }
    Ok(())
}

pub(super) async fn s2_lame_duck_keeps_accepting(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(
        fixture
            .spec("s2")
            .lame_duck(fixture.patience.out_of_reach()),
    )?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let (mut client, served) = fixture.connect(address).await?;
    fixture.waiting(&pool, 2).await?;
    let stopping = pool.stopping();
    same("whether the pool is stopping", false, stopping.is_set())?;
    let early = stopping.wait();
    drop(pool.stop());
    let lame = PoolState::Stopping(Phase::LameDuck);
    same("the state", lame, state(&pool))?;
    same("whether the pool is stopping", true, stopping.is_set())?;
    fixture
        .event("a task that waits for the stop is woken", early)
        .await?;
    for open in 2..=4 {
        let (mut late, late_served) = fixture.connect(address).await?;
        fixture.echo(&mut late, "accepted as before").await?;
        let draining = late_served.lifecycle.draining().is_set();
        same("*draining* of a late connection", false, draining)?;
        // It is not held any longer, and another may take its slot.
        fixture.command(&late_served, Command::Return).await?;
        fixture.ended(&pool, late_served.child).await?;
        fixture.inits_begun(2 + open).await?;
    }
    let draining = served.lifecycle.draining().is_set();
    same("*draining* of an earlier connection", false, draining)?;
    fixture.echo(&mut client, "left alone").await?;
    fixture.waiting(&pool, 2).await?;
    let listeners = pool.listeners();
    let listeners = listeners.map_err(|error| Broken::new("the pool stops", error.to_string()))?;
    let listed: Vec<_> = listeners
        .iter()
        .map(|one| (one.local_addr, one.acceptors, one.state))
        .collect();
    let expected = vec![(address, 2, ListenerState::Accepting)];
    same("the listeners", expected, listed)?;
    same("the state", lame, state(&pool))?;
    fixture.event("the pool is killed", pool.kill()).await?;
    // From here on no acceptor terminates, because all are killed.
    same("terminations", 0, fixture.terminated().len())?;

    // For the configured duration.
    let fixture = Fixture::new(&world);
    let lame_duck = 60 * MILLISECOND;
    let pool = fixture.start(fixture.spec("s2").lame_duck(lame_duck))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, _) = fixture.connect(address).await?;
    fixture.inits_begun(2).await?;
    let began = fixture.now();
    fixture.event("the pool stops", pool.stop()).await?;
    let terminated = fixture.calls.first(|call| match call {
        Call::Terminate { at, .. } => Some(*at),
        _ => None,
    });
    let after = fixture.event("the acceptor terminates", terminated).await? - began;
    let what = format!("the acceptor kept waiting for {lame_duck:?}: {after:?}");
    same(&what, true, after >= lame_duck)?;

    // None unless the spec sets one.
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("s2").grace(Grace::Unlimited))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, _) = fixture.connect(address).await?;
    drop(pool.stop());
    let grace = PoolState::Stopping(Phase::Grace);
    same("the state without a lame duck", grace, state(&pool))
}

pub(super) async fn s3_stop_terminates_acceptors(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    fixture.on_init([OnInit::Accept; 3], OnInit::Nothing);
    let pool = fixture.start(fixture.spec("s3").grace(Grace::Unlimited))?;
    let (_, first) = fixture.listen(&pool, 3)?;
    fixture.inits_begun(3).await?;
    let (_, second) = fixture.listen(&pool, 2)?;
    // Two keep waiting; this one's replacement stays in `init`, as do those of the second listener.
    let (mut client, served) = fixture.connect(first).await?;
    fixture.inits_begun(6).await?;
    let stopping = pool.stop();
    fixture.counts(&pool, 1, 1).await?;
    let stopped = vec!["stopped"; 2];
    same("why acceptors terminated", stopped, fixture.terminated())?;
    unbound(&fixture, first).await?;
    unbound(&fixture, second).await?;
    let open = pool.listeners().map(|list| list.len());
    same("listeners in the list", Ok(0), open)?;
    fixture.echo(&mut client, "left alone").await?;
    fixture.command(&served, Command::Return).await?;
    let report = fixture.event("the pool stops", stopping).await?;
    let ends = report.acceptors(Phase::Grace).of(EndKind::Stopped);
    same("acceptors stopped in grace", 5, ends)?;

    // A `terminate` that is still running.
    let fixture = Fixture::new(&world);
    fixture.on_terminate(OnTerminate::Hang);
    let pool = fixture.start(fixture.spec("s3").grace(Grace::Unlimited))?;
    fixture.listen(&pool, 2)?;
    fixture.inits_begun(2).await?;
    drop(pool.stop());
    terminations(&fixture, 2).await?;
    let workers = pool.counts().map(|counts| counts.children());
    same("children while `terminate` runs", Ok(2), workers)?;
    let grace = PoolState::Stopping(Phase::Grace);
    same("the state while `terminate` runs", grace, state(&pool))?;
    fixture.event("the pool is killed", pool.kill()).await?;

    let fixture = Fixture::new(&world);
    fixture.on_terminate(OnTerminate::Hang);
    let grace = 60 * MILLISECOND;
    let spec = fixture.spec("s3").grace(grace);
    let pool = fixture.start(spec.shutdown(Shutdown::Unlimited))?;
    fixture.listen(&pool, 2)?;
    fixture.inits_begun(2).await?;
    let report = fixture.event("the pool stops", pool.stop()).await?;
    same("grace waits for it", true, report.elapsed >= grace)?;
    let ends = report.acceptors(Phase::Stop).of(EndKind::Stopped);
    same("acceptors dropped at the stop phase", 2, ends)
}

pub(super) async fn s4_grace_ends_with_the_last_child(world: Arc<Boxed>) -> Verdict {
    let long = Fixture::new(&world).patience.out_of_reach();
    for grace in [Grace::Within(long), Grace::Unlimited] {
        let fixture = Fixture::new(&world);
        let pool = fixture.start(fixture.spec("s4").grace(grace))?;
        let (listener, address) = fixture.listen(&pool, 1)?;
        let (mut first, traps) = fixture.connect(address).await?;
        let (mut second, does_not) = fixture.connect(address).await?;
        fixture.command(&traps, Command::TrapAndStay).await?;
        let stop = traps.lifecycle.trap_stop();
        // Grace begins when the last listener is closed (L7).
        fixture.close(&pool, listener).await?;
        fixture.counts(&pool, 2, 2).await?;
        let began = fixture.now();
        let stopping = pool.stop();
        // A grace that is too short would be over by now.
        fixture.sleep_until(began + 20 * MILLISECOND).await;
        fixture.echo(&mut first, "left alone").await?;
        fixture.echo(&mut second, "left alone").await?;
        let now = PoolState::Stopping(Phase::Grace);
        same(&format!("the state in {grace:?}"), now, state(&pool))?;
        fixture.command(&traps, Command::Return).await?;
        fixture.command(&does_not, Command::Return).await?;
        let what = format!("{grace:?} ends with the last child");
        let report = fixture.event(&what, stopping).await?;
        let ends = report.connections(Phase::Grace).of(EndKind::Normal);
        same("connections that ended in grace", 2, ends)?;
        // The connection is gone and was never signalled.
        same(&format!("*stop* in {grace:?}"), false, stop.is_set())?;
    }

    // Zero unless the spec sets it, and no less than the spec sets.
    for grace in [None, Some(60 * MILLISECOND)] {
        let fixture = Fixture::new(&world);
        let spec = fixture.spec("s4").shutdown(Shutdown::Unlimited);
        let pool = fixture.start(match grace {
            Some(grace) => spec.grace(grace),
            None => spec,
        })?;
        let (listener, address) = fixture.listen(&pool, 1)?;
        let (_client, served) = fixture.connect(address).await?;
        if grace.is_none() {
            // Grace begins when the last listener is closed (L7).
            fixture.close(&pool, listener).await?;
        }
        let stopping = pool.stop();
        if grace.is_none() {
            let ended = PoolState::Stopping(Phase::Grace) != state(&pool);
            same("without a grace the stop ends at once", true, ended)?;
        }
        let report = fixture.event("the pool stops", stopping).await?;
        let end = left(&fixture, &served).await?;
        let what = format!("how a connection that outlasted a grace of {grace:?} ended");
        same(&what, ServeEnd::Dropped, end)?;
        let kept = report.elapsed >= grace.unwrap_or_default();
        same("the grace was kept", true, kept)?;
        let ends = report.connections(Phase::Stop).of(EndKind::Stopped);
        same("connections that ended at the stop phase", 1, ends)?;
    }
    Ok(())
}

pub(super) async fn s5_kinds_of_shutdown(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("s5").shutdown(Shutdown::Kill))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    let trap = Command::TrapAndLeaveAfter(Duration::ZERO);
    fixture.command(&served, trap).await?;
    let report = fixture.event("the pool stops", pool.stop()).await?;
    let end = left(&fixture, &served).await?;
    let what = "how a connection ended with shutdown *kill*";
    same(what, ServeEnd::Dropped, end)?;
    let stop_phase = report.connections(Phase::Stop).total();
    same("connections that ended at a stop phase", 0, stop_phase)?;
    let killed = report.connections(Phase::Kill).of(EndKind::Killed);
    same("killed", 1, killed)?;

    let fixture = Fixture::new(&world);
    let within = Shutdown::Within(fixture.patience.out_of_reach());
    let pool = fixture.start(fixture.spec("s5").shutdown(within))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (mut client, served) = fixture.connect(address).await?;
    fixture.command(&served, Command::TrapAndStay).await?;
    let stopping = pool.stop();
    let stop = served.lifecycle.trap_stop().wait();
    fixture
        .event("the connection is signalled at the stop phase", stop)
        .await?;
    fixture.echo(&mut client, "it may continue").await?;
    fixture.command(&served, Command::Return).await?;
    let report = fixture.event("the pool stops", stopping).await?;
    let ends = report.connections(Phase::Stop).of(EndKind::Normal);
    same("connections that returned by themselves", 1, ends)?;

    // Three at a time: the first is over after 5 s, the others are not.
    let world = Boxed::fast(&world);
    let plain = |fixture: &Fixture| {
        let spec = fixture.plain_spec("s5");
        spec.kill_timeout(fixture.patience.out_of_reach())
    };
    let never = |fixture: &Fixture| plain(fixture).shutdown(Shutdown::Unlimited);
    let supervisor = |fixture: &Fixture| plain(fixture).child_type(ChildType::Supervisor);
    let (default, default_pool, _, _client) = outlasted(&world, plain).await?;
    let (never, never_pool, never_served, _client) = outlasted(&world, never).await?;
    let (supervisor, supervisor_pool, supervisor_served, _client) =
        outlasted(&world, supervisor).await?;
    // These are polled first: if they too were over after 5 s, they would be so before the other.
    drop((never_pool.stop(), supervisor_pool.stop()));
    let began = default.now();
    let stopping = default_pool.stop();
    default.sleep_until(began + 5 * SECOND).await;
    let report = default.event("5 s are over", stopping).await?;
    let killed = report.connections(Phase::Kill).of(EndKind::Killed);
    same("killed after the default", 1, killed)?;
    let what = format!("the default is 5 s: it took {:?}", report.elapsed);
    same(&what, true, report.elapsed >= 5 * SECOND)?;
    for (fixture, pool, served, what) in [
        (never, never_pool, never_served, "never"),
        (
            supervisor,
            supervisor_pool,
            supervisor_served,
            "of supervisors",
        ),
    ] {
        let now = PoolState::Stopping(Phase::Stop);
        same(&format!("the state, {what}"), now, state(&pool))?;
        fixture.command(&served, Command::Return).await?;
        let report = fixture.join(&pool).await?;
        let ends = report.connections(Phase::Stop).of(EndKind::Normal);
        same("connections that returned by themselves", 1, ends)?;
    }
    Ok(())
}

type Outlasted = (Fixture, Pool, Served, BoxedClient);

/// A pool with a connection that traps the stop and stays.
async fn outlasted(
    world: &Arc<Boxed>,
    spec: impl Fn(&Fixture) -> ScriptedSpec,
) -> Result<Outlasted, Broken> {
    let fixture = Fixture::new(world);
    let pool = fixture.start(spec(&fixture))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (client, served) = fixture.connect(address).await?;
    fixture.command(&served, Command::TrapAndStay).await?;
    Ok((fixture, pool, served, client))
}

pub(super) async fn s6_kills_are_reported_with_a_count(world: Arc<Boxed>) -> Verdict {
    for (shutdown, expected) in [
        (Shutdown::Within(20 * MILLISECOND), vec![Some(3)]),
        (Shutdown::Kill, Vec::new()),
    ] {
        let fixture = Fixture::new(&world);
        let pool = fixture.start(fixture.spec("s6").shutdown(shutdown))?;
        let (listener, address) = fixture.listen(&pool, 2)?;
        let mut held = Vec::new();
        for _ in 0..3 {
            let (client, served) = fixture.connect(address).await?;
            fixture.command(&served, Command::TrapAndStay).await?;
            held.push((client, served));
        }
        // Only connections are left, because the machine decides how soon acceptors terminate.
        fixture.close(&pool, listener).await?;
        fixture.counts(&pool, 3, 3).await?;
        let report = fixture.event("the pool stops", pool.stop()).await?;
        for (client, served) in &mut held {
            let end = left(&fixture, served).await?;
            let what = format!("how a connection that stays ended, {shutdown:?}");
            same(&what, ServeEnd::Dropped, end)?;
            fixture.closed(client).await?;
        }
        let killed = report.connections(Phase::Kill).of(EndKind::Killed);
        same(&format!("killed, {shutdown:?}"), 3, killed)?;
        // All reports have been delivered once `stop` has returned.
        let reported = fixture.reports.look(|reports| {
            let count = |event: &Event<_>| match event {
                Event::KilledWhileStopping { count, .. } => Some(*count),
                _ => None,
            };
            let counts = reports.iter().map(|report| count(&report.event));
            counts.collect::<Vec<_>>()
        });
        let what = format!("the counts of the reports, {shutdown:?}");
        same(&what, expected, reported)?;
    }
    Ok(())
}

/// Returns how the connections ended: normal, clean, error, panic, killed, stopped, all.
fn ways(ends: &Ends) -> [usize; 7] {
    let [normal, clean, error, panic, killed, stopped] = [
        EndKind::Normal,
        EndKind::Clean,
        EndKind::Error,
        EndKind::Panic,
        EndKind::Killed,
        EndKind::Stopped,
    ]
    .map(|kind| ends.of(kind));
    [normal, clean, error, panic, killed, stopped, ends.total()]
}

pub(super) async fn s7_result_counts_ends_by_phase(world: Arc<Boxed>) -> Verdict {
    let long = Fixture::new(&world).patience.out_of_reach();
    for last in [Phase::LameDuck, Phase::Grace, Phase::Stop] {
        let fixture = Fixture::new(&world);
        // The phase in which all of them end would last long, and the earlier phases are absent.
        let spec = fixture.spec("s7").shutdown(Shutdown::Unlimited);
        let pool = fixture.start(match last {
            Phase::LameDuck => spec.lame_duck(long),
            Phase::Grace => spec.grace(Grace::Unlimited),
            _ => spec,
        })?;
        let (listener, address) = fixture.listen(&pool, 2)?;
        let mut connections = Vec::new();
        for _ in 0..7 {
            let (client, served) = fixture.connect(address).await?;
            // Otherwise the stop phase would end it.
            fixture.command(&served, Command::TrapAndStay).await?;
            connections.push((client, served));
        }
        fixture.inits_begun(9).await?;
        let began = fixture.now();
        let stopping = pool.stop();
        phase(&fixture, &pool, last).await?;
        fixture.sleep_until(began + 20 * MILLISECOND).await;
        if last == Phase::LameDuck {
            // A lame duck has acceptors while it has a listener.
            fixture.close(&pool, listener).await?;
        }
        let orders = [
            Command::Return,
            Command::Return,
            Command::ExitCleanly,
            Command::Fail("scripted"),
            Command::Panic("scripted"),
        ];
        for ((_, served), order) in connections.iter().zip(orders) {
            fixture.command(served, order).await?;
            fixture.ended(&pool, served.child).await?;
        }
        let [.., (_, killed), (_, stopped)] = &connections[..] else {
            return Err(Broken::new("7 connections", connections.len().to_string()));
        };
        let accepted = |result: Result<(), ChildError>| {
            result
                .map_err(|error| Broken::new("the connection receives the call", error.to_string()))
        };
        accepted(pool.kill_child(killed.child))?;
        fixture.ended(&pool, killed.child).await?;
        accepted(pool.stop_child(stopped.child))?;
        // The connection trapped the stop: it is signalled and decides how to end.
        let what = "the stopped connection is signalled";
        fixture
            .event(what, stopped.lifecycle.trap_stop().wait())
            .await?;
        fixture.command(stopped, Command::Return).await?;
        let what = format!("the pool ends with its last child, in the phase {last}");
        let report: StopReport<Address> = fixture.event(&what, stopping).await?;
        let took = fixture.now() - began;
        for &phase in Phase::ALL {
            let expected = if phase == last {
                [3, 1, 1, 1, 1, 0, 7]
            } else {
                [0; 7]
            };
            let seen = report.connections(phase);
            let what = format!(
                "ends in the phase {phase}: normal, clean, error, panic, killed, stopped, all"
            );
            same(&what, expected, ways(&seen))?;
        }
        let acceptors = report.all_acceptors();
        let stopped = (acceptors.of(EndKind::Stopped), acceptors.total());
        same("acceptors that ended: stopped, all", (2, 2), stopped)?;
        // Based on the order of clock readings, not on the duration of anything.
        let bounds = 20 * MILLISECOND..=took;
        let what = format!("{:?} is within {bounds:?}", report.elapsed);
        same(&what, true, bounds.contains(&report.elapsed))?;
    }

    // Children that the stop drops, and children that it kills.
    for (shutdown, order, last, expected) in [
        (
            Shutdown::Unlimited,
            None,
            Phase::Stop,
            [0, 0, 0, 0, 0, 1, 1],
        ),
        (
            Shutdown::Within(20 * MILLISECOND),
            Some(Command::TrapAndStay),
            Phase::Kill,
            [0, 0, 0, 0, 1, 0, 1],
        ),
    ] {
        let fixture = Fixture::new(&world);
        let pool = fixture.start(fixture.spec("s7").shutdown(shutdown))?;
        let (_, address) = fixture.listen(&pool, 1)?;
        let (_client, served) = fixture.connect(address).await?;
        if let Some(order) = order {
            fixture.command(&served, order).await?;
        }
        let report = fixture.event("the pool stops", pool.stop()).await?;
        let all = report.all_connections().total();
        same("connections that ended", 1, all)?;
        let ends = ways(&report.connections(last));
        same(&format!("ends in the phase {last}"), expected, ends)?;
    }

    // Without any child there is nothing to wait for.
    let fixture = Fixture::new(&world);
    let spec = fixture.spec("s7").lame_duck(long).grace(Grace::Unlimited);
    let pool = fixture.start(spec.shutdown(Shutdown::Unlimited))?;
    let report = fixture.event("an empty pool stops", pool.stop()).await?;
    same("ends", 0, report.all_acceptors().total())
}

/// Stops polling the task of a connection: it reaches no suspension point.
async fn hold(fixture: &Fixture, served: &Served) -> Result<TaskId, Broken> {
    let no_task = || Broken::new("`serve` runs on a spawned task", "it does not");
    let task = served.task.ok_or_else(no_task)?;
    let held = fixture.world.hold(task);
    fixture.event("the connection's task is held", held).await?;
    Ok(task)
}

/// A child that blocks its thread would, in a world with one thread, block the pool too. So a task is first withheld
/// from the runtime: a child that is not polled, while no other is either, looks the same as a blocked one.
pub(super) async fn s8_stuck_child_is_abandoned(world: Arc<Boxed>) -> Verdict {
    for patience in [Some(500 * MILLISECOND), None] {
        let world = Boxed::instrumented(&Boxed::fast(&world));
        let fixture = Fixture::new(&world);
        let spec = fixture.plain_spec("s8").shutdown(Shutdown::Kill);
        let pool = fixture.start(match patience {
            Some(patience) => spec.kill_timeout(patience),
            None => spec,
        })?;
        let (listener, address) = fixture.listen(&pool, 1)?;
        let (mut client, stuck) = fixture.connect(address).await?;
        // Only this child is left, because the machine decides how soon others suspend.
        fixture.close(&pool, listener).await?;
        fixture.counts(&pool, 1, 1).await?;
        let task = hold(&fixture, &stuck).await?;
        let began = fixture.now();
        let stopping = pool.stop();
        let patience = patience.unwrap_or(SECOND);
        fixture.sleep_until(began + patience).await;
        let report = fixture
            .event("the pool stops without the stuck child", stopping)
            .await?;
        same("children abandoned as stuck", 1, report.stuck)?;
        let what = format!("after a kill timeout of {patience:?}: {:?}", report.elapsed);
        same(&what, true, report.elapsed >= patience)?;
        let ended = report.all_connections().total();
        same("children that ended", 0, ended)?;
        let reported = fixture.reports.look(|reports| {
            let count = |event: &Event<_>| match event {
                Event::Stuck { count, .. } => Some(*count),
                _ => None,
            };
            let counts = reports.iter().filter_map(|report| count(&report.event));
            counts.collect::<Vec<_>>()
        });
        same("the counts of the reports", vec![1], reported)?;
        // It is gone as soon as it suspends.
        fixture.world.release(task);
        let end = left(&fixture, &stuck).await?;
        same("how it finally ended", ServeEnd::Dropped, end)?;
        fixture.closed(&mut client).await?;
        same(
            "the result does not change",
            report,
            fixture.join(&pool).await?,
        )?;
    }
    children_in_turn_are_waited_for(&world).await?;
    if let Some(_other) = AnotherThread::of(&world).await {
        for blocks in [Blocks::InPoll, Blocks::InDrop] {
            blocked_child_is_left(&world, blocks).await?;
        }
        blocked_observer_is_left(&world).await?;
    }
    Ok(())
}

/// Children that wait to be polled, one of which ends now and then: the runtime does poll tasks of the pool.
async fn children_in_turn_are_waited_for(world: &Arc<Boxed>) -> Verdict {
    const CONNECTIONS: usize = 10;
    let world = Boxed::instrumented(world);
    let fixture = Fixture::new(&world);
    let kill_timeout = fixture.patience.stretch(2 * SECOND);
    let spec = fixture.plain_spec("s8").kill_timeout(kill_timeout);
    let pool = fixture.start(spec.shutdown(Shutdown::Kill))?;
    let (listener, address) = fixture.listen(&pool, 1)?;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(fixture.connect(address).await?);
    }
    fixture.close(&pool, listener).await?;
    fixture.counts(&pool, CONNECTIONS, CONNECTIONS).await?;
    let mut tasks = Vec::new();
    for (_, served) in &held {
        tasks.push(hold(&fixture, served).await?);
    }
    let stopping = pool.stop();
    for task in tasks {
        // Less than a kill timeout each, and more in total.
        fixture.sleep_until(fixture.now() + kill_timeout / 8).await;
        world.release(task);
    }
    let report = fixture.event("the pool stops", stopping).await?;
    let what = "children abandoned as stuck, of those that waited to be polled";
    same(what, 0, report.stuck)?;
    let killed = report.connections(Phase::Kill).of(EndKind::Killed);
    same("connections killed", CONNECTIONS, killed)?;
    let what = format!("longer than a kill timeout: {:?}", report.elapsed);
    same(&what, true, report.elapsed >= kill_timeout)
}

/// Where a child blocks its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    InPoll,
    InDrop,
}

/// Blocks a thread until the other end is dropped.
#[derive(Clone)]
struct Barrier {
    blocking: Record<()>,
    until: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Barrier {
    fn new() -> (Self, mpsc::Sender<()>) {
        let (open, opened) = mpsc::channel();
        let barrier = Self {
            blocking: Record::default(),
            until: Arc::new(Mutex::new(opened)),
        };
        (barrier, open)
    }

    fn block(&self) {
        self.blocking.push(());
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = until.recv();
    }

    async fn is_blocking(&self, fixture: &Fixture) -> Verdict {
        let blocking = self.blocking.when(|all| (!all.is_empty()).then_some(()));
        fixture.event("a thread is blocked", blocking).await
    }
}

struct BlocksInDrop(Option<Barrier>);

impl Drop for BlocksInDrop {
    fn drop(&mut self) {
        if let Some(barrier) = &self.0 {
            barrier.block();
        }
    }
}

async fn blocked_child_is_left(world: &Arc<Boxed>, blocks: Blocks) -> Verdict {
    let kill_timeout = 50 * MILLISECOND;
    let (barrier, open) = Barrier::new();
    let child = barrier.clone();
    let began = Record::default();
    let begins = began.clone();
    let acceptor = acceptor_fn(
        move |connection: Connection<StreamOf<BoxedListener>, Address>| {
            let (child, begins) = (child.clone(), begins.clone());
            async move {
                let _open = connection;
                begins.push(());
                let _drop = BlocksInDrop((blocks == Blocks::InDrop).then(|| child.clone()));
                if blocks == Blocks::InPoll {
                    child.block();
                }
                pending::<Result<(), _>>().await
            }
        },
    );
    let fixture = Fixture::new(world);
    let spec = Spec::new("s8", fixture.tampered(acceptor)).kill_timeout(kill_timeout);
    let pool = fixture.start(spec)?;
    let (listener, address) = fixture.listen(&pool, 1)?;
    let mut client = fixture.connect_only(address).await?;
    let begun = began.when(|all| (!all.is_empty()).then_some(()));
    fixture.event("the client is served", begun).await?;
    if blocks == Blocks::InPoll {
        barrier.is_blocking(&fixture).await?;
    }
    // Only this child is left, because the machine decides how soon others suspend.
    fixture.close(&pool, listener).await?;
    fixture.counts(&pool, 1, 1).await?;
    let began = fixture.now();
    let killing = pool.kill();
    fixture.sleep_until(began + kill_timeout).await;
    let what = format!("the pool stops although a child blocks its thread, {blocks:?}");
    let report = fixture.event(&what, killing).await?;
    same("stuck children of a blocked thread", 1, report.stuck)?;
    let what = format!(
        "with a blocked thread, after a kill timeout of {kill_timeout:?}: {:?}",
        report.elapsed
    );
    same(&what, true, report.elapsed >= kill_timeout)?;
    drop(open);
    fixture.closed(&mut client).await?;
    Ok(())
}

async fn blocked_observer_is_left(world: &Arc<Boxed>) -> Verdict {
    let (barrier, open) = Barrier::new();
    let observer = barrier.clone();
    let fixture = Fixture::new(world);
    fixture.on_report(move |_| observer.block());
    let pool = fixture.start(fixture.plain_spec("s8").kill_timeout(50 * MILLISECOND))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    fixture.command(&served, Command::Fail("scripted")).await?;
    barrier.is_blocking(&fixture).await?;
    let stopping = pool.stop();
    fixture
        .event("the pool stops although its observer blocks", stopping)
        .await?;
    drop(open);
    Ok(())
}

pub(super) async fn s9_dropping_the_owner_kills_all(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    let fixture = Fixture::new(&world);
    let spec = fixture
        .spec("s9")
        .lame_duck(fixture.patience.out_of_reach());
    let spec = spec.grace(Grace::Unlimited).shutdown(Shutdown::Unlimited);
    let owner = fixture.start(spec)?;
    // Neither handles nor a connection's latches keep the pool alive.
    let pool = owner.handle();
    let (listener, address) = fixture.listen(&pool, 2)?;
    let (_first, stays) = fixture.connect(address).await?;
    let (_second, plain) = fixture.connect(address).await?;
    let (_third, stuck) = fixture.connect(address).await?;
    fixture.command(&stays, Command::TrapAndStay).await?;
    let task = hold(&fixture, &stuck).await?;
    // The drop does not wait for a child that does not suspend; the pool waits for its kill timeout. If the drop
    // waited, this check would never end.
    drop(owner);
    // A poll may be in progress, because holding a task wakes all of them.
    let rests = || match plain.task.is_some_and(|task| fixture.world.is_polled(task)) {
        true => Err("it is being polled"),
        false => Ok(()),
    };
    fixture
        .until("no poll of the second connection is under way", rests)
        .await?;
    // The connection would receive the command in its next poll.
    let polled = fixture.command(&plain, Command::TrapAndStay).await.is_ok();
    let what = "a connection is polled after the owner was dropped";
    same(what, false, polled)?;
    let now = PoolState::Stopping(Phase::Kill);
    let what = "the state, once the owner is dropped";
    same(what, now, state(&pool))?;
    for served in [&stays, &plain] {
        let end = left(&fixture, served).await?;
        same("how a connection ended", ServeEnd::Dropped, end)?;
    }
    fixture.world.release(task);
    let report = fixture.join(&pool).await?;
    same("why it stopped", StopReason::OwnerDropped, report.reason)?;
    same("children abandoned as stuck", 0, report.stuck)?;
    let killed = report.connections(Phase::Kill).of(EndKind::Killed);
    same("connections killed", 3, killed)?;
    unbound(&fixture, address).await?;

    same("`listeners`", true, pool.listeners().is_err())?;
    same("`connections`", true, pool.connections().is_err())?;
    same("`counts`", true, pool.counts().is_err())?;
    same("`status`", true, pool.status().is_err())?;
    let stopped = Err(ChildError::Stopped);
    same(
        "`stop_child`",
        stopped.clone(),
        pool.stop_child(plain.child),
    )?;
    same("`kill_child`", stopped, pool.kill_child(plain.child))?;
    let closed = pool.close_listener(listener);
    let closed = fixture.event("`close_listener` returns", closed).await?;
    same("`close_listener`", Err(CloseError::Stopped), closed)?;
    let reconfigured = pool.reconfigure(fixture.spec("late"), WaitingAcceptors::Keep);
    let refused = matches!(reconfigured, Err(ReconfigureError::Stopped));
    same("`reconfigure` is refused", true, refused)?;
    let reloaded = matches!(
        pool.reload(WaitingAcceptors::Keep),
        Err(ReconfigureError::Stopped)
    );
    same("`reload` is refused", true, reloaded)?;
    let bound = fixture.world.listen();
    let (late, _) = bound.map_err(|error| Broken::new("a listener is bound", error.to_string()))?;
    let added = pool.add_listener(late, 1).map_err(|error| error.reason);
    let refused = matches!(added, Err(AddListenerReason::Stopped));
    same("`add_listener` is refused", true, refused)?;
    let again = fixture.event("`stop` returns", pool.stop()).await?;
    same("the result of `stop`", &report, &again)?;
    let again = fixture.event("`kill` returns", pool.kill()).await?;
    same("the result of `kill`", &report, &again)
}
