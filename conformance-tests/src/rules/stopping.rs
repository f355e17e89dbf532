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
    AnotherThread, Answer, Call, Departure, Farewell, Fixture, Handle, Order, Pool, ScriptedSpec,
    Served,
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
async fn phase(stage: &Fixture, pool: &Handle, phase: Phase) -> Verdict {
    let look = || match state(pool) {
        PoolState::Stopping(now) if now == phase => Ok(()),
        other => Err(other),
    };
    stage
        .until(&format!("the stop reaches the phase {phase}"), look)
        .await
}

/// Waits until the future of `serve` is dropped, and returns how it ended.
async fn left(stage: &Fixture, served: &Served) -> Result<Departure, Broken> {
    let id = served.child;
    let left = stage.calls.first(move |call| match call {
        Call::Left { child, departure } if *child == id => Some(*departure),
        _ => None,
    });
    stage.event("the future of `serve` is dropped", left).await
}

/// Waits until `terminate` has run this many times.
async fn terminations(stage: &Fixture, count: usize) -> Verdict {
    let terminated = stage.calls.when(move |calls| {
        let terminate = |call: &&Call| matches!(call, Call::Terminate { .. });
        (calls.iter().filter(terminate).count() >= count).then_some(())
    });
    let what = format!("`terminate` runs {count} times");
    stage.event(&what, terminated).await
}

/// Waits until no socket listens on an address, so that it can be bound again.
async fn unbound(stage: &Fixture, address: Address) -> Verdict {
    let bind = || {
        let bound = stage.world.listen_on(address);
        bound.map(drop).map_err(|error| error.to_string())
    };
    stage.until("the listener's socket is closed", bind).await
}

pub(super) async fn s1_every_way_to_stop_gives_everybody_the_result(world: Arc<Boxed>) -> Verdict {
    for reason in [
        StopReason::Requested,
        StopReason::Intensity,
        StopReason::OwnerDropped,
    ] {
        let stage = Fixture::new(&world);
        let spec = stage.spec("s1").restart(Restart::Transient).intensity(0);
        let owner = stage.start(spec.grace(Grace::Unlimited))?;
        let pool = owner.handle();
        let (_, address) = stage.listen(&pool, 2)?;
        let (_failing, failing) = stage.connect(address).await?;
        let (_client, served) = stage.connect(address).await?;
        stage.began(4).await?;
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
            stage.order(&failing, Order::Fail("scripted")).await?;
            // The acceptors and the failed connection are counted: a second request loses none of them.
            stage.counts(&pool, 1, 1).await?;
            asking.push(pool.stop().boxed());
            asking.push(pool.clone().stop().boxed());
            let asked_again = PoolState::Stopping(Phase::Grace);
            same("the state after a second request", asked_again, state(&pool))?;
            stage.order(&served, Order::Return).await?;
        }
        asking.push(pool.join().boxed());
        let results = stage
            .event("all callers get the result", join_all(asking))
            .await?;
        let result = stage.join(&pool).await?;
        same("why the pool stopped", reason, result.reason)?;
        same("acceptors that ended", 2, result.all_acceptors().total())?;
        for other in results {
            same("the result that another caller got", &result, &other)?;
        }
    }
    Ok(())
}

pub(super) async fn s2_a_lame_duck_accepts_as_ever(world: Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("s2").lame_duck(stage.patience.out_of_reach()))?;
    let (_, address) = stage.listen(&pool, 2)?;
    let (mut client, served) = stage.connect(address).await?;
    stage.waiting(&pool, 2).await?;
    let stopping = pool.stopping();
    same("whether the pool is stopping", false, stopping.is_set())?;
    let early = stopping.wait();
    drop(pool.stop());
    let lame = PoolState::Stopping(Phase::LameDuck);
    same("the state", lame, state(&pool))?;
    same("whether the pool is stopping", true, stopping.is_set())?;
    stage
        .event("a task that waits for the stop is woken", early)
        .await?;
    for open in 2..=4 {
        let (mut late, late_served) = stage.connect(address).await?;
        stage.echo(&mut late, "accepted as before").await?;
        let draining = late_served.lifecycle.draining().is_set();
        same(
            "*draining* of a late connection",
            false,
            draining,
        )?;
        // It is not held any longer, and another may take its slot.
        stage.order(&late_served, Order::Return).await?;
        stage.ended(&pool, late_served.child).await?;
        stage.began(2 + open).await?;
    }
    let draining = served.lifecycle.draining().is_set();
    same("*draining* of an earlier connection", false, draining)?;
    stage.echo(&mut client, "left alone").await?;
    stage.waiting(&pool, 2).await?;
    let listeners = pool.listeners();
    let listeners = listeners.map_err(|error| Broken::new("the pool stops", error.to_string()))?;
    let listed: Vec<_> = listeners
        .iter()
        .map(|one| (one.local_addr, one.acceptors, one.state))
        .collect();
    let expected = vec![(address, 2, ListenerState::Accepting)];
    same("the listeners", expected, listed)?;
    same("the state", lame, state(&pool))?;
    stage.event("the pool is killed", pool.kill()).await?;
    // No acceptor can terminate any more: a killed one does not.
    same("terminations", 0, stage.terminated().len())?;

    // For the configured duration.
    let stage = Fixture::new(&world);
    let lame_duck = 60 * MILLISECOND;
    let pool = stage.start(stage.spec("s2").lame_duck(lame_duck))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_client, _) = stage.connect(address).await?;
    stage.began(2).await?;
    let began = stage.now();
    stage.event("the pool stops", pool.stop()).await?;
    let terminated = stage.calls.first(|call| match call {
        Call::Terminate { at, .. } => Some(*at),
        _ => None,
    });
    let after = stage.event("the acceptor terminates", terminated).await? - began;
    let what = format!("the acceptor kept waiting for {lame_duck:?}: {after:?}");
    same(&what, true, after >= lame_duck)?;

    // None unless the spec sets one.
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("s2").grace(Grace::Unlimited))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_client, _) = stage.connect(address).await?;
    drop(pool.stop());
    let grace = PoolState::Stopping(Phase::Grace);
    same("the state without a lame duck", grace, state(&pool))
}

pub(super) async fn s3_listeners_close_and_acceptors_terminate(world: Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(&world);
    stage.answers([Answer::Accept; 3], Answer::Nothing);
    let pool = stage.start(stage.spec("s3").grace(Grace::Unlimited))?;
    let (_, first) = stage.listen(&pool, 3)?;
    stage.began(3).await?;
    let (_, second) = stage.listen(&pool, 2)?;
    // Two keep waiting; this one's replacement stays in `init`, as do those of the second listener.
    let (mut client, served) = stage.connect(first).await?;
    stage.began(6).await?;
    let stopping = pool.stop();
    stage.counts(&pool, 1, 1).await?;
    let stopped = vec!["stopped"; 2];
    same("why acceptors terminated", stopped, stage.terminated())?;
    unbound(&stage, first).await?;
    unbound(&stage, second).await?;
    let open = pool.listeners().map(|list| list.len());
    same("listeners in the list", Ok(0), open)?;
    stage.echo(&mut client, "left alone").await?;
    stage.order(&served, Order::Return).await?;
    let report = stage.event("the pool stops", stopping).await?;
    let ends = report.acceptors(Phase::Grace).of(EndKind::Stopped);
    same("acceptors stopped in grace", 5, ends)?;

    // A `terminate` that is still running.
    let stage = Fixture::new(&world);
    stage.farewell(Farewell::Stay);
    let pool = stage.start(stage.spec("s3").grace(Grace::Unlimited))?;
    stage.listen(&pool, 2)?;
    stage.began(2).await?;
    drop(pool.stop());
    terminations(&stage, 2).await?;
    let workers = pool.counts().map(|counts| counts.children());
    same("children while `terminate` runs", Ok(2), workers)?;
    let grace = PoolState::Stopping(Phase::Grace);
    same("the state while `terminate` runs", grace, state(&pool))?;
    stage.event("the pool is killed", pool.kill()).await?;

    let stage = Fixture::new(&world);
    stage.farewell(Farewell::Stay);
    let grace = 60 * MILLISECOND;
    let spec = stage.spec("s3").grace(grace);
    let pool = stage.start(spec.shutdown(Shutdown::Unlimited))?;
    stage.listen(&pool, 2)?;
    stage.began(2).await?;
    let report = stage.event("the pool stops", pool.stop()).await?;
    same("grace waits for it", true, report.elapsed >= grace)?;
    let ends = report.acceptors(Phase::Stop).of(EndKind::Stopped);
    same("acceptors dropped at the stop phase", 2, ends)
}

pub(super) async fn s4_grace_leaves_connections_alone_and_ends_early(world: Arc<Boxed>) -> Verdict {
    let long = Fixture::new(&world).patience.out_of_reach();
    for grace in [Grace::Within(long), Grace::Unlimited] {
        let stage = Fixture::new(&world);
        let pool = stage.start(stage.spec("s4").grace(grace))?;
        let (listener, address) = stage.listen(&pool, 1)?;
        let (mut first, traps) = stage.connect(address).await?;
        let (mut second, does_not) = stage.connect(address).await?;
        stage.order(&traps, Order::TrapAndStay).await?;
        let told = traps.lifecycle.trap_stop();
        // Grace begins when the last listener is closed (L7).
        stage.close(&pool, listener).await?;
        stage.counts(&pool, 2, 2).await?;
        let began = stage.now();
        let stopping = pool.stop();
        // A grace that is too short would be over by now.
        stage.pass_until(began + 20 * MILLISECOND).await;
        stage.echo(&mut first, "left alone").await?;
        stage.echo(&mut second, "left alone").await?;
        let now = PoolState::Stopping(Phase::Grace);
        same(&format!("the state in {grace:?}"), now, state(&pool))?;
        stage.order(&traps, Order::Return).await?;
        stage.order(&does_not, Order::Return).await?;
        let what = format!("{grace:?} ends with the last child");
        let report = stage.event(&what, stopping).await?;
        let ends = report.connections(Phase::Grace).of(EndKind::Normal);
        same("connections that ended in grace", 2, ends)?;
        // The connection is gone and was never signalled.
        same(&format!("*stop* in {grace:?}"), false, told.is_set())?;
    }

    // Zero unless the spec sets it, and no less than the spec sets.
    for grace in [None, Some(60 * MILLISECOND)] {
        let stage = Fixture::new(&world);
        let spec = stage.spec("s4").shutdown(Shutdown::Unlimited);
        let pool = stage.start(match grace {
            Some(grace) => spec.grace(grace),
            None => spec,
        })?;
        let (listener, address) = stage.listen(&pool, 1)?;
        let (_client, served) = stage.connect(address).await?;
        if grace.is_none() {
            // Grace begins when the last listener is closed (L7).
            stage.close(&pool, listener).await?;
        }
        let stopping = pool.stop();
        if grace.is_none() {
            let ended = PoolState::Stopping(Phase::Grace) != state(&pool);
            same("without a grace the stop ends at once", true, ended)?;
        }
        let report = stage.event("the pool stops", stopping).await?;
        let departure = left(&stage, &served).await?;
        let what = format!("how a connection that outlasted a grace of {grace:?} ended");
        same(&what, Departure::Dropped, departure)?;
        let kept = report.elapsed >= grace.unwrap_or_default();
        same("the grace was kept", true, kept)?;
        let ends = report.connections(Phase::Stop).of(EndKind::Stopped);
        same("connections that ended at the stop phase", 1, ends)?;
    }
    Ok(())
}

pub(super) async fn s5_shutdown_is_kill_within_a_time_or_for_ever(world: Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("s5").shutdown(Shutdown::Kill))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_client, served) = stage.connect(address).await?;
    let trap = Order::TrapAndLeaveAfter(Duration::ZERO);
    stage.order(&served, trap).await?;
    let report = stage.event("the pool stops", pool.stop()).await?;
    let departure = left(&stage, &served).await?;
    let what = "how a connection ended with shutdown *kill*";
    same(what, Departure::Dropped, departure)?;
    let stop_phase = report.connections(Phase::Stop).total();
    same("connections that ended at a stop phase", 0, stop_phase)?;
    let killed = report.connections(Phase::Kill).of(EndKind::Killed);
    same("killed", 1, killed)?;

    let stage = Fixture::new(&world);
    let within = Shutdown::Within(stage.patience.out_of_reach());
    let pool = stage.start(stage.spec("s5").shutdown(within))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (mut client, served) = stage.connect(address).await?;
    stage.order(&served, Order::TrapAndStay).await?;
    let stopping = pool.stop();
    let told = served.lifecycle.trap_stop().wait();
    stage
        .event("the connection is signalled at the stop phase", told)
        .await?;
    stage.echo(&mut client, "it may continue").await?;
    stage.order(&served, Order::Return).await?;
    let report = stage.event("the pool stops", stopping).await?;
    let ends = report.connections(Phase::Stop).of(EndKind::Normal);
    same("connections that returned by themselves", 1, ends)?;

    // Three at a time: the first is over after 5 s, the others are not.
    let world = Boxed::fast(&world);
    let plain = |stage: &Fixture| {
        let spec = stage.plain_spec("s5");
        spec.kill_timeout(stage.patience.out_of_reach())
    };
    let never = |stage: &Fixture| plain(stage).shutdown(Shutdown::Unlimited);
    let supervisor = |stage: &Fixture| plain(stage).child_type(ChildType::Supervisor);
    let (default, default_pool, _, _client) = outlasted(&world, plain).await?;
    let (never, never_pool, never_served, _client) = outlasted(&world, never).await?;
    let (supervisor, supervisor_pool, supervisor_served, _client) =
        outlasted(&world, supervisor).await?;
    // These are polled first: if they too were over after 5 s, they would be so before the other.
    drop((never_pool.stop(), supervisor_pool.stop()));
    let began = default.now();
    let stopping = default_pool.stop();
    default.pass_until(began + 5 * SECOND).await;
    let report = default.event("5 s are over", stopping).await?;
    let killed = report.connections(Phase::Kill).of(EndKind::Killed);
    same("killed after the default", 1, killed)?;
    let what = format!("the default is 5 s: it took {:?}", report.elapsed);
    same(&what, true, report.elapsed >= 5 * SECOND)?;
    for (stage, pool, served, what) in [
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
        stage.order(&served, Order::Return).await?;
        let report = stage.join(&pool).await?;
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
    let stage = Fixture::new(world);
    let pool = stage.start(spec(&stage))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (client, served) = stage.connect(address).await?;
    stage.order(&served, Order::TrapAndStay).await?;
    Ok((stage, pool, served, client))
}

pub(super) async fn s6_what_is_left_is_killed_and_reported_with_a_count(
    world: Arc<Boxed>,
) -> Verdict {
    for (shutdown, expected) in [
        (Shutdown::Within(20 * MILLISECOND), vec![Some(3)]),
        (Shutdown::Kill, Vec::new()),
    ] {
        let stage = Fixture::new(&world);
        let pool = stage.start(stage.spec("s6").shutdown(shutdown))?;
        let (listener, address) = stage.listen(&pool, 2)?;
        let mut held = Vec::new();
        for _ in 0..3 {
            let (client, served) = stage.connect(address).await?;
            stage.order(&served, Order::TrapAndStay).await?;
            held.push((client, served));
        }
        // Only connections are left, because the machine decides how soon acceptors terminate.
        stage.close(&pool, listener).await?;
        stage.counts(&pool, 3, 3).await?;
        let report = stage.event("the pool stops", pool.stop()).await?;
        for (client, served) in &mut held {
            let departure = left(&stage, served).await?;
            let what = format!("how a connection that stays ended, {shutdown:?}");
            same(&what, Departure::Dropped, departure)?;
            stage.closed(client).await?;
        }
        let killed = report.connections(Phase::Kill).of(EndKind::Killed);
        same(&format!("killed, {shutdown:?}"), 3, killed)?;
        // All reports have been delivered once `stop` has returned.
        let reported = stage.reports.look(|reports| {
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

pub(super) async fn s7_the_result_says_who_ended_how_and_when(world: Arc<Boxed>) -> Verdict {
    let long = Fixture::new(&world).patience.out_of_reach();
    for last in [Phase::LameDuck, Phase::Grace, Phase::Stop] {
        let stage = Fixture::new(&world);
        // The phase in which all of them end would last long, and the earlier phases are absent.
        let spec = stage.spec("s7").shutdown(Shutdown::Unlimited);
        let pool = stage.start(match last {
            Phase::LameDuck => spec.lame_duck(long),
            Phase::Grace => spec.grace(Grace::Unlimited),
            _ => spec,
        })?;
        let (listener, address) = stage.listen(&pool, 2)?;
        let mut connections = Vec::new();
        for _ in 0..7 {
            let (client, served) = stage.connect(address).await?;
            // Otherwise the stop phase would end it.
            stage.order(&served, Order::TrapAndStay).await?;
            connections.push((client, served));
        }
        stage.began(9).await?;
        let began = stage.now();
        let stopping = pool.stop();
        phase(&stage, &pool, last).await?;
        stage.pass_until(began + 20 * MILLISECOND).await;
        if last == Phase::LameDuck {
            // A lame duck has acceptors while it has a listener.
            stage.close(&pool, listener).await?;
        }
        let orders = [
            Order::Return,
            Order::Return,
            Order::ExitCleanly,
            Order::Fail("scripted"),
            Order::Panic("scripted"),
        ];
        for ((_, served), order) in connections.iter().zip(orders) {
            stage.order(served, order).await?;
            stage.ended(&pool, served.child).await?;
        }
        let [.., (_, killed), (_, stopped)] = &connections[..] else {
            return Err(Broken::new("7 connections", connections.len().to_string()));
        };
        let tell = |told: Result<(), ChildError>| {
            told.map_err(|error| Broken::new("the connection receives the call", error.to_string()))
        };
        tell(pool.kill_child(killed.child))?;
        stage.ended(&pool, killed.child).await?;
        tell(pool.stop_child(stopped.child))?;
        // The connection trapped the stop: it is signalled and decides how to end.
        let what = "the stopped connection is signalled";
        stage
            .event(what, stopped.lifecycle.trap_stop().wait())
            .await?;
        stage.order(stopped, Order::Return).await?;
        let what = format!("the pool ends with its last child, in the phase {last}");
        let report: StopReport<Address> = stage.event(&what, stopping).await?;
        let took = stage.now() - began;
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

    // What the stop drops, and what it kills.
    for (shutdown, order, last, expected) in [
        (
            Shutdown::Unlimited,
            None,
            Phase::Stop,
            [0, 0, 0, 0, 0, 1, 1],
        ),
        (
            Shutdown::Within(20 * MILLISECOND),
            Some(Order::TrapAndStay),
            Phase::Kill,
            [0, 0, 0, 0, 1, 0, 1],
        ),
    ] {
        let stage = Fixture::new(&world);
        let pool = stage.start(stage.spec("s7").shutdown(shutdown))?;
        let (_, address) = stage.listen(&pool, 1)?;
        let (_client, served) = stage.connect(address).await?;
        if let Some(order) = order {
            stage.order(&served, order).await?;
        }
        let report = stage.event("the pool stops", pool.stop()).await?;
        let all = report.all_connections().total();
        same("connections that ended", 1, all)?;
        let ends = ways(&report.connections(last));
        same(&format!("ends in the phase {last}"), expected, ends)?;
    }

    // Without any child there is nothing to wait for.
    let stage = Fixture::new(&world);
    let spec = stage.spec("s7").lame_duck(long).grace(Grace::Unlimited);
    let pool = stage.start(spec.shutdown(Shutdown::Unlimited))?;
    let report = stage.event("an empty pool stops", pool.stop()).await?;
    same("ends", 0, report.all_acceptors().total())
}

/// Stops polling the task of a connection: it reaches no suspension point.
async fn hold(stage: &Fixture, served: &Served) -> Result<TaskId, Broken> {
    let no_task = || Broken::new("`serve` runs on a spawned task", "it does not");
    let task = served.task.ok_or_else(no_task)?;
    let held = stage.world.hold(task);
    stage.event("the connection's task is held", held).await?;
    Ok(task)
}

/// A child that blocks its thread would, in a world with one thread, block the pool too. So a task is first withheld
/// from the runtime: a child that is not polled, while no other is either, looks the same as a blocked one.
pub(super) async fn s8_a_child_that_does_not_suspend_is_left(world: Arc<Boxed>) -> Verdict {
    for patience in [Some(500 * MILLISECOND), None] {
        let world = Boxed::instrumented(&Boxed::fast(&world));
        let stage = Fixture::new(&world);
        let spec = stage.plain_spec("s8").shutdown(Shutdown::Kill);
        let pool = stage.start(match patience {
            Some(patience) => spec.kill_timeout(patience),
            None => spec,
        })?;
        let (listener, address) = stage.listen(&pool, 1)?;
        let (mut client, stuck) = stage.connect(address).await?;
        // Only this child is left, because the machine decides how soon others suspend.
        stage.close(&pool, listener).await?;
        stage.counts(&pool, 1, 1).await?;
        let task = hold(&stage, &stuck).await?;
        let began = stage.now();
        let stopping = pool.stop();
        let patience = patience.unwrap_or(SECOND);
        stage.pass_until(began + patience).await;
        let report = stage.event("the pool stops without the stuck child", stopping).await?;
        same("children abandoned as stuck", 1, report.stuck)?;
        let what = format!(
            "after a kill timeout of {patience:?}: {:?}",
            report.elapsed
        );
        same(&what, true, report.elapsed >= patience)?;
        let ended = report.all_connections().total();
        same("children that ended", 0, ended)?;
        let reported = stage.reports.look(|reports| {
            let count = |event: &Event<_>| match event {
                Event::Stuck { count, .. } => Some(*count),
                _ => None,
            };
            let counts = reports.iter().filter_map(|report| count(&report.event));
            counts.collect::<Vec<_>>()
        });
        same("the counts of the reports", vec![1], reported)?;
        // It is gone as soon as it suspends.
        stage.world.release(task);
        let departure = left(&stage, &stuck).await?;
        same("how it finally ended", Departure::Dropped, departure)?;
        stage.closed(&mut client).await?;
        same("the result does not change", report, stage.join(&pool).await?)?;
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
    let stage = Fixture::new(&world);
    let kill_timeout = stage.patience.stretch(2 * SECOND);
    let spec = stage.plain_spec("s8").kill_timeout(kill_timeout);
    let pool = stage.start(spec.shutdown(Shutdown::Kill))?;
    let (listener, address) = stage.listen(&pool, 1)?;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(stage.connect(address).await?);
    }
    stage.close(&pool, listener).await?;
    stage.counts(&pool, CONNECTIONS, CONNECTIONS).await?;
    let mut tasks = Vec::new();
    for (_, served) in &held {
        tasks.push(hold(&stage, served).await?);
    }
    let stopping = pool.stop();
    for task in tasks {
        // Less than a kill timeout each, and more in total.
        stage.pass_until(stage.now() + kill_timeout / 8).await;
        world.release(task);
    }
    let report = stage.event("the pool stops", stopping).await?;
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

    async fn is_blocking(&self, stage: &Fixture) -> Verdict {
        let blocking = self.blocking.when(|all| (!all.is_empty()).then_some(()));
        stage.event("a thread is blocked", blocking).await
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
    let stage = Fixture::new(world);
    let spec = Spec::new("s8", stage.tampered(acceptor)).kill_timeout(kill_timeout);
    let pool = stage.start(spec)?;
    let (listener, address) = stage.listen(&pool, 1)?;
    let mut client = stage.knock(address).await?;
    let begun = began.when(|all| (!all.is_empty()).then_some(()));
    stage.event("the client is served", begun).await?;
    if blocks == Blocks::InPoll {
        barrier.is_blocking(&stage).await?;
    }
    // Only this child is left, because the machine decides how soon others suspend.
    stage.close(&pool, listener).await?;
    stage.counts(&pool, 1, 1).await?;
    let began = stage.now();
    let killing = pool.kill();
    stage.pass_until(began + kill_timeout).await;
    let what = format!("the pool stops although a child blocks its thread, {blocks:?}");
    let report = stage.event(&what, killing).await?;
    same("children abandoned as stuck", 1, report.stuck)?;
    let what = format!(
        "after a kill timeout of {kill_timeout:?}: {:?}",
        report.elapsed
    );
    same(&what, true, report.elapsed >= kill_timeout)?;
    drop(open);
    stage.closed(&mut client).await?;
    Ok(())
}

async fn blocked_observer_is_left(world: &Arc<Boxed>) -> Verdict {
    let (barrier, open) = Barrier::new();
    let observer = barrier.clone();
    let stage = Fixture::new(world);
    stage.hears(move |_| observer.block());
    let pool = stage.start(stage.plain_spec("s8").kill_timeout(50 * MILLISECOND))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_client, served) = stage.connect(address).await?;
    stage.order(&served, Order::Fail("scripted")).await?;
    barrier.is_blocking(&stage).await?;
    let stopping = pool.stop();
    stage
        .event("the pool stops although its observer blocks", stopping)
        .await?;
    drop(open);
    Ok(())
}

pub(super) async fn s9_dropping_the_owner_kills_everything_at_once(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    let stage = Fixture::new(&world);
    let spec = stage.spec("s9").lame_duck(stage.patience.out_of_reach());
    let spec = spec.grace(Grace::Unlimited).shutdown(Shutdown::Unlimited);
    let owner = stage.start(spec)?;
    // Neither handles nor a connection's latches keep the pool alive.
    let pool = owner.handle();
    let (listener, address) = stage.listen(&pool, 2)?;
    let (_first, stays) = stage.connect(address).await?;
    let (_second, plain) = stage.connect(address).await?;
    let (_third, stuck) = stage.connect(address).await?;
    stage.order(&stays, Order::TrapAndStay).await?;
    let task = hold(&stage, &stuck).await?;
    // The drop does not wait for a child that does not suspend; the pool does, for its kill timeout. If the drop
    // waited, this check would never end.
    drop(owner);
    // A poll may be in progress, because holding a task wakes all of them.
    let rests = || match plain.task.is_some_and(|task| stage.world.is_polled(task)) {
        true => Err("it is being polled"),
        false => Ok(()),
    };
    stage
        .until("no poll of the second connection is under way", rests)
        .await?;
    // The connection would receive the command in its next poll.
    let polled = stage.order(&plain, Order::TrapAndStay).await.is_ok();
    let what = "a connection is polled after the owner was dropped";
    same(what, false, polled)?;
    let now = PoolState::Stopping(Phase::Kill);
    let what = "the state, once the owner is dropped";
    same(what, now, state(&pool))?;
    for served in [&stays, &plain] {
        let departure = left(&stage, served).await?;
        same("how a connection ended", Departure::Dropped, departure)?;
    }
    stage.world.release(task);
    let report = stage.join(&pool).await?;
    same("why it stopped", StopReason::OwnerDropped, report.reason)?;
    same("children abandoned as stuck", 0, report.stuck)?;
    let killed = report.connections(Phase::Kill).of(EndKind::Killed);
    same("connections killed", 3, killed)?;
    unbound(&stage, address).await?;

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
    let closed = stage.event("`close_listener` returns", closed).await?;
    same("`close_listener`", Err(CloseError::Stopped), closed)?;
    let reconfigured = pool.reconfigure(stage.spec("late"), WaitingAcceptors::Keep);
    let refused = matches!(reconfigured, Err(ReconfigureError::Stopped));
    same("`reconfigure` is refused", true, refused)?;
    let reloaded = matches!(
        pool.reload(WaitingAcceptors::Keep),
        Err(ReconfigureError::Stopped)
    );
    same("`reload` is refused", true, reloaded)?;
    let bound = stage.world.listen();
    let (late, _) = bound.map_err(|error| Broken::new("a listener is bound", error.to_string()))?;
    let added = pool.add_listener(late, 1).map_err(|error| error.reason);
    let refused = matches!(added, Err(AddListenerReason::Stopped));
    same("`add_listener` is refused", true, refused)?;
    let again = stage.event("`stop` returns", pool.stop()).await?;
    same("the result of `stop`", &report, &again)?;
    let again = stage.event("`kill` returns", pool.kill()).await?;
    same("the result of `kill`", &report, &again)
}
