//! Lifecycle latches of a connection: rules N1 and N2.

use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{EndKind, Grace, Phase};

use crate::boxed::Boxed;
use crate::fixture::{Call, Departure, Fixture, Order, Served};
use crate::instruments::not_listening;
use crate::verdict::{Verdict, same};

/// What sets *draining*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Close,
    Failure,
    Stop,
}

pub(super) async fn n1_draining_is_a_level(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    for cause in [Cause::Close, Cause::Failure, Cause::Stop] {
        let stage = Fixture::new(&world);
        let spec = stage.spec("n1").grace(Grace::Unlimited);
        let pool = stage.start(spec)?;
        let (listener, address) = stage.listen(&pool, 1)?;
        let (_client, served) = stage.connect(address).await?;
        let draining = served.lifecycle.draining();
        same("*draining* before any close", false, draining.is_set())?;
        let early = draining.wait();
        match cause {
            Cause::Close => stage.close(&pool, listener).await?,
            Cause::Failure => world.faults(address).inject(not_listening()),
            Cause::Stop => drop(pool.stop()),
        }
        let what = format!("*draining* after {cause:?} reaches a task that");
        stage.event(&format!("{what} waited"), early).await?;
        same(&format!("{what} reads late"), true, draining.is_set())?;
        stage
            .event(&format!("{what} waits late"), draining.wait())
            .await?;
        stage.event("the pool is killed", pool.kill()).await?;
    }
    not_in_a_lame_duck(&world).await
}

/// The listeners of a lame duck are open: only their close sets *draining*.
async fn not_in_a_lame_duck(world: &Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(world);
    let lame_duck = stage.patience.out_of_reach();
    let pool = stage.start(stage.spec("n1").lame_duck(lame_duck))?;
    let (listener, address) = stage.listen(&pool, 1)?;
    let (_client, served) = stage.connect(address).await?;
    let draining = served.lifecycle.draining();
    let early = draining.wait();
    drop(pool.stop());
    same("*draining* in a lame duck", false, draining.is_set())?;
    stage.close(&pool, listener).await?;
    let what = "*draining* after a close in a lame duck";
    stage.event(what, early).await?;
    same(what, true, draining.is_set())?;
    stage.event("the pool is killed", pool.kill()).await?;
    Ok(())
}

pub(super) async fn n2_taking_the_stop_signal_is_trapping_it(world: Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("n2"))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_first, traps) = stage.connect(address).await?;
    let (_second, does_not) = stage.connect(address).await?;
    let trap = Order::TrapAndLeaveAfter(Duration::ZERO);
    stage.order(&traps, trap).await?;
    let report = stage.event("the pool stops", pool.stop()).await?;
    same(
        "how the connection that trapped the stop ended",
        Some(Departure::Told),
        departure(&stage, &traps),
    )?;
    same(
        "how the other connection ended",
        Some(Departure::Dropped),
        departure(&stage, &does_not),
    )?;
    let ends = report.connections(Phase::Stop);
    let ends = (
        ends.of(EndKind::Normal),
        ends.of(EndKind::Stopped),
        ends.total(),
    );
    same(
        "ends at the stop phase: normal, stopped, all",
        (1, 1, 2),
        ends,
    )?;

    // Until the shutdown timeout, and no longer.
    let stage = Fixture::new(&world);
    let within = Duration::from_millis(300);
    let pool = stage.start(stage.spec("n2").shutdown(within))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let (_client, stays) = stage.connect(address).await?;
    stage.order(&stays, Order::TrapAndStay).await?;
    let began = stage.now();
    let stopping = pool.stop();
    stage.pass_until(began + within).await;
    let report = stage.event("the pool stops", stopping).await?;
    same("it had the whole shutdown timeout", true, report.elapsed >= within)?;
    same(
        "how it ended",
        Some(Departure::Dropped),
        departure(&stage, &stays),
    )?;
    same(
        "killed",
        1,
        report.connections(Phase::Kill).of(EndKind::Killed),
    )
}

fn departure(stage: &Fixture, served: &Served) -> Option<Departure> {
    stage.calls.look(|calls| {
        calls.iter().find_map(|call| match call {
            Call::Left { child, departure } if *child == served.child => Some(*departure),
            _ => None,
        })
    })
}
