//! Restart intensity: rules I1 to I4.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{Event, Restart, SpecError, StartError, StopReason};

use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{Call, Command, Fixture, Handle, OnInit, Pool, ServeEnd, is_running};
use crate::instruments::not_listening;
use crate::verdict::{Broken, Verdict, same};
use crate::world::World;

/// Makes one connection fail, and waits until that is visible.
async fn fail(fixture: &Fixture, pool: &Handle, address: Address) -> Verdict {
    let (_client, served) = fixture.connect(address).await?;
    fixture.command(&served, Command::Fail("scripted")).await?;
    fixture.ended(pool, served.child).await
}

pub(super) async fn i1_failures_stop_the_pool(world: Arc<Boxed>) -> Verdict {
    for intensity in [Some(0), None, Some(3)] {
        let fixture = Fixture::new(&world);
        let spec = fixture.spec("i1").restart(Restart::Transient);
        // A long period, so that a slow machine does not matter, except for the defaults.
        let spec = match intensity {
            Some(intensity) => spec
                .intensity(intensity)
                .period(fixture.patience.out_of_reach()),
            None => spec,
        };
        let pool = fixture.start(spec)?;
        let (_, address) = fixture.listen(&pool, 1)?;
        let status = pool.status();
        let status = status.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
        if intensity.is_none() {
            same("the default intensity", 1, status.intensity)?;
            same("the default period", Duration::from_secs(5), status.period)?;
            fail(&fixture, &pool, address).await?;
            same("the pool runs after one failure", true, is_running(&pool))?;
            continue;
        }
        for failure in 1..=status.intensity {
            fail(&fixture, &pool, address).await?;
            let what = format!(
                "the pool runs after failure {failure} of {}",
                status.intensity
            );
            same(&what, true, is_running(&pool))?;
        }
        fail(&fixture, &pool, address).await?;
        let report = fixture.join(&pool).await?;
        same("why the pool stopped", StopReason::Intensity, report.reason)?;
    }
    let fixture = Fixture::new(&world);
    let spec = fixture.spec("i1").period(Duration::ZERO);
    match Pool::<Boxed>::start(world.runtime(), spec) {
        Err(StartError::Spec(SpecError::Period { .. })) => Ok(()),
        other => Err(Broken::new(
            "a period of zero is refused",
            format!("{other:?}"),
        )),
    }
}

pub(super) async fn i2_old_failures_are_forgotten(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let period = Duration::from_millis(50);
    let spec = fixture.spec("i2").restart(Restart::Transient);
    let pool = fixture.start(spec.intensity(1).period(period))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    for failure in 1..=5 {
        fail(&fixture, &pool, address).await?;
        // The failure was counted before its end was visible, so it is now older than the period.
        fixture
            .sleep_until(fixture.now() + period + Duration::from_millis(1))
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
    same("the pool keeps running", true, is_running(&pool))
}

pub(super) async fn i3_stop_by_intensity_runs_all_phases(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let grace = Duration::from_millis(50);
    let spec = fixture.spec("i3").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec.grace(grace))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_failing, failing) = fixture.connect(address).await?;
    let (_trapping, trapping) = fixture.connect(address).await?;
    fixture
        .command(&trapping, Command::TrapAndLeaveAfter(Duration::ZERO))
        .await?;
    fixture.inits_begun(3).await?;
    let began = fixture.now();
    fixture.command(&failing, Command::Fail("scripted")).await?;
    let draining = trapping.lifecycle.draining().wait();
    fixture
        .event("the other connection sees *draining*", draining)
        .await?;
    let report = fixture.join(&pool).await?;
    let elapsed = fixture.now() - began;
    same("why the pool stopped", StopReason::Intensity, report.reason)?;
    same("the grace was kept", true, elapsed >= grace)?;
    same(
        "the result of another `join`",
        report,
        fixture.join(&pool).await?,
    )?;
    let signalled = fixture.calls.look(|calls| {
        let is_signalled = |call: &&Call| {
            matches!(
                call,
                Call::ServeEnded {
                    end: ServeEnd::Stopped,
                    ..
                }
            )
        };
        calls.iter().filter(is_signalled).count()
    });
    same("connections that were signalled to stop", 1, signalled)?;
    same(
        "acceptors that terminated",
        vec!["stopped"],
        fixture.terminated(),
    )?;
    same(
        "a new client is refused",
        true,
        fixture.is_refused(address).await?,
    )?;
    let stops = fixture.reports.look(|reports| {
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

pub(super) async fn i4_timeouts_and_stops_never_count(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let short = OnInit::AcceptWithin(Duration::from_millis(5));
    fixture.on_init(
        [OnInit::Ignore, short, OnInit::Ignore, short],
        OnInit::Accept,
    );
    let spec = fixture.spec("i4").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec)?;
    let (_, address) = fixture.listen(&pool, 1)?;
    fixture.inits_begun(5).await?;
    let (_client, served) = fixture.connect(address).await?;
    let stop = |child| {
        let result = pool.stop_child(child);
        result.map_err(|error| Broken::new("the child is stopped", error.to_string()))
    };
    stop(served.child)?;
    fixture.ended(&pool, served.child).await?;
    same("the pool runs after a stop by id", true, is_running(&pool))?;
    // Its replacement waits: it is stopped and replaced too.
    let waiting = fixture.calls.first(|call| match call {
        Call::Init {
            number: 6, info, ..
        } => Some(info.child),
        _ => None,
    });
    stop(fixture.event("a replacement starts", waiting).await?)?;
    fixture.inits_begun(7).await?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "still there").await?;
    let status = pool.status();
    let status = status.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    same("counted failures", 0, status.failures)?;
    same("the pool keeps running", true, is_running(&pool))?;

    let world = Boxed::instrumented(&world);
    let fixture = Fixture::new(&world);
    let spec = fixture.spec("i4").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec)?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_, failing_address) = fixture.listen(&pool, 1)?;
    fixture.inits_begun(2).await?;
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
        fixture
            .until("the error is taken from the listener", look)
            .await?;
    }
    fixture.counts(&pool, 0, 1).await?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "still there").await?;
    same("the pool keeps running", true, is_running(&pool))
}
