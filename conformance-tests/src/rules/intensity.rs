//! Restart intensity: rules I1 to I4.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{Event, Restart, SpecError, StartError, StopReason};

use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{Answer, Call, Fixture, Handle, Order, Pool, runs};
use crate::instruments::not_listening;
use crate::verdict::{Broken, Verdict, same};
use crate::world::World;

/// Makes one connection fail, and waits until that is visible.
async fn fail(stage: &Fixture, pool: &Handle, address: Address) -> Verdict {
    let (_client, served) = stage.connect(address).await?;
    stage.order(&served, Order::Fail("scripted")).await?;
    stage.ended(pool, served.child).await
}

pub(super) async fn i1_more_failures_than_intensity_stop_the_pool(world: Arc<Boxed>) -> Verdict {
    for intensity in [Some(0), None, Some(3)] {
        let stage = Fixture::new(&world);
        let spec = stage.spec("i1").restart(Restart::Transient);
        // A long period, so that a slow machine does not matter, except for the defaults.
        let spec = match intensity {
            Some(intensity) => spec
                .intensity(intensity)
                .period(stage.patience.out_of_reach()),
            None => spec,
        };
        let pool = stage.start(spec)?;
        let (_, address) = stage.listen(&pool, 1)?;
        let status = pool.status();
        let status = status.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
        if intensity.is_none() {
            same("the default intensity", 1, status.intensity)?;
            same("the default period", Duration::from_secs(5), status.period)?;
            fail(&stage, &pool, address).await?;
            same("the pool runs after one failure", true, runs(&pool))?;
            continue;
        }
        for failure in 1..=status.intensity {
            fail(&stage, &pool, address).await?;
            let what = format!(
                "the pool runs after failure {failure} of {}",
                status.intensity
            );
            same(&what, true, runs(&pool))?;
        }
        fail(&stage, &pool, address).await?;
        let report = stage.join(&pool).await?;
        same("why the pool stopped", StopReason::Intensity, report.reason)?;
    }
    let stage = Fixture::new(&world);
    let spec = stage.spec("i1").period(Duration::ZERO);
    match Pool::<Boxed>::start(world.runtime(), spec) {
        Err(StartError::Spec(SpecError::Period { .. })) => Ok(()),
        other => Err(Broken::new(
            "a period of zero is refused",
            format!("{other:?}"),
        )),
    }
}

pub(super) async fn i2_old_failures_are_forgotten(world: Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(&world);
    let period = Duration::from_millis(50);
    let spec = stage.spec("i2").restart(Restart::Transient);
    let pool = stage.start(spec.intensity(1).period(period))?;
    let (_, address) = stage.listen(&pool, 1)?;
    for failure in 1..=5 {
        fail(&stage, &pool, address).await?;
        // The failure was counted before its end was visible, so it is now older than the period.
        stage
            .pass_until(stage.now() + period + Duration::from_millis(1))
            .await;
        let status = pool.status();
        let status = status.map_err(|error| {
            Broken::new(
                format!("the pool runs after failure {failure}"),
                error.to_string(),
            )
        })?;
        same("failures within the period", 0, status.failures)?;
    }
    same("the pool keeps running", true, runs(&pool))
}

pub(super) async fn i3_a_stop_by_intensity_runs_the_whole_termination(
    world: Arc<Boxed>,
) -> Verdict {
    let stage = Fixture::new(&world);
    let grace = Duration::from_millis(50);
    let spec = stage.spec("i3").restart(Restart::Transient).intensity(0);
    let pool = stage.start(spec.grace(grace))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_failing, failing) = stage.connect(address).await?;
    let (_trapping, trapping) = stage.connect(address).await?;
    stage
        .order(&trapping, Order::TrapAndLeaveAfter(Duration::ZERO))
        .await?;
    stage.began(3).await?;
    let began = stage.now();
    stage.order(&failing, Order::Fail("scripted")).await?;
    let draining = trapping.lifecycle.draining().wait();
    stage
        .event("the other connection sees *draining*", draining)
        .await?;
    let report = stage.join(&pool).await?;
    let elapsed = stage.now() - began;
    same("why the pool stopped", StopReason::Intensity, report.reason)?;
    same("the grace was kept", true, elapsed >= grace)?;
    same("the result of another `join`", report, stage.join(&pool).await?)?;
    let told = stage.calls.look(|calls| {
        use crate::fixture::Departure::Told;
        let told = |call: &&Call| {
            matches!(
                call,
                Call::Left {
                    departure: Told,
                    ..
                }
            )
        };
        calls.iter().filter(told).count()
    });
    same("connections that were signalled to stop", 1, told)?;
    same(
        "acceptors that terminated",
        vec!["stopped"],
        stage.terminated(),
    )?;
    same(
        "a new client is refused",
        true,
        stage.refuses(address).await?,
    )?;
    let stops = stage.reports.look(|reports| {
        let stop = |event: &Event<_>| {
            matches!(
                event,
                Event::PoolStopped {
                    reason: StopReason::Intensity,
                    ..
                }
            )
        };
        reports.iter().filter(|report| stop(&report.event)).count()
    });
    same("how often `pool_stopped` was reported", 1, stops)
}

pub(super) async fn i4_timeouts_ignore_and_stops_never_count(world: Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(&world);
    let short = Answer::AcceptWithin(Duration::from_millis(5));
    stage.answers(
        [Answer::Ignore, short, Answer::Ignore, short],
        Answer::Accept,
    );
    let spec = stage.spec("i4").restart(Restart::Transient).intensity(0);
    let pool = stage.start(spec)?;
    let (_, address) = stage.listen(&pool, 1)?;
    stage.began(5).await?;
    let (_client, served) = stage.connect(address).await?;
    let stop = |child| {
        let told = pool.stop_child(child);
        told.map_err(|error| Broken::new("the child is stopped", error.to_string()))
    };
    stop(served.child)?;
    stage.ended(&pool, served.child).await?;
    same("the pool runs after a stop by id", true, runs(&pool))?;
    // Its replacement waits: it is stopped and replaced too.
    let waiting = stage.calls.first(|call| match call {
        Call::Init {
            number: 6, info, ..
        } => Some(info.child),
        _ => None,
    });
    stop(stage.event("a replacement starts", waiting).await?)?;
    stage.began(7).await?;
    let (mut client, _) = stage.connect(address).await?;
    stage.echo(&mut client, "still there").await?;
    let status = pool.status();
    let status = status.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    same("counted failures", 0, status.failures)?;
    same("the pool keeps running", true, runs(&pool))?;

    let world = Boxed::instrumented(&world);
    let stage = Fixture::new(&world);
    let spec = stage.spec("i4").restart(Restart::Transient).intensity(0);
    let pool = stage.start(spec)?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_, failing_address) = stage.listen(&pool, 1)?;
    stage.began(2).await?;
    for (address, error) in [
        (address, ErrorKind::ConnectionAborted.into()),
        (address, ErrorKind::OutOfMemory.into()),
        (failing_address, not_listening()),
    ] {
        let faults = world.faults(address);
        faults.inject(error);
        let look = || match faults.pending() {
            0 => Ok(()),
            pending => Err(pending),
        };
        stage
            .until("the error is taken from the listener", look)
            .await?;
    }
    stage.counts(&pool, 0, 1).await?;
    let (mut client, _) = stage.connect(address).await?;
    stage.echo(&mut client, "still there").await?;
    same("the pool keeps running", true, runs(&pool))
}
