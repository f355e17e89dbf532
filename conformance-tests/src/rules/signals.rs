//! Lifecycle latches of a connection: rules N1 and N2.

use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{EndKind, Grace, Phase};

use crate::boxed::Boxed;
use crate::fixture::{Call, Command, Fixture, ServeEnd, Served};
use crate::instruments::not_listening;
use crate::verdict::{Verdict, same};

/// The reason for which *draining* is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Close,
    Failure,
    Stop,
}

pub(super) async fn n1_draining_is_a_level(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    for cause in [Cause::Close, Cause::Failure, Cause::Stop] {
        let fixture = Fixture::new(&world);
        let spec = fixture.spec("n1").grace(Grace::Unlimited);
        let pool = fixture.start(spec)?;
        let (listener, address) = fixture.listen(&pool, 1)?;
        let (_client, served) = fixture.connect(address).await?;
        let draining = served.lifecycle.draining();
        same("*draining* before any close", false, draining.is_set())?;
        let early = draining.wait();
        match cause {
            Cause::Close => fixture.close(&pool, listener).await?,
            Cause::Failure => world.faults(address).inject(not_listening()),
            Cause::Stop => drop(pool.stop()),
        }
        let what = format!("*draining* after {cause:?} reaches a task that");
        fixture.event(&format!("{what} waited"), early).await?;
        same(&format!("{what} reads late"), true, draining.is_set())?;
        fixture
            .event(&format!("{what} waits late"), draining.wait())
            .await?;
        fixture.event("the pool is killed", pool.kill()).await?;
    }
    not_in_a_lame_duck(&world).await
}

/// The listeners of a lame duck are open: only their close sets *draining*.
async fn not_in_a_lame_duck(world: &Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(world);
    let lame_duck = fixture.patience.out_of_reach();
    let pool = fixture.start(fixture.spec("n1").lame_duck(lame_duck))?;
    let (listener, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    let draining = served.lifecycle.draining();
    let early = draining.wait();
    drop(pool.stop());
    same("*draining* in a lame duck", false, draining.is_set())?;
    fixture.close(&pool, listener).await?;
    let what = "*draining* after a close in a lame duck";
    fixture.event(what, early).await?;
    same(what, true, draining.is_set())?;
    fixture.event("the pool is killed", pool.kill()).await?;
    Ok(())
}

pub(super) async fn n2_taking_the_stop_traps_it(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("n2"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_first, traps) = fixture.connect(address).await?;
    let (_second, does_not) = fixture.connect(address).await?;
    let trap = Command::TrapAndLeaveAfter(Duration::ZERO);
    fixture.command(&traps, trap).await?;
    let report = fixture.event("the pool stops", pool.stop()).await?;
    same(
        "how the connection that trapped the stop ended",
        Some(ServeEnd::Stopped),
        end(&fixture, &traps),
    )?;
    same(
        "how the other connection ended",
        Some(ServeEnd::Dropped),
        end(&fixture, &does_not),
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
    let fixture = Fixture::new(&world);
    let within = Duration::from_millis(300);
    let pool = fixture.start(fixture.spec("n2").shutdown(within))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, stays) = fixture.connect(address).await?;
    fixture.command(&stays, Command::TrapAndStay).await?;
    let began = fixture.now();
    let stopping = pool.stop();
    fixture.sleep_until(began + within).await;
    let report = fixture.event("the pool stops", stopping).await?;
    same(
        "it had the whole shutdown timeout",
        true,
        report.elapsed >= within,
    )?;
    same(
        "how it ended",
        Some(ServeEnd::Dropped),
        end(&fixture, &stays),
    )?;
    same(
        "killed",
        1,
        report.connections(Phase::Kill).of(EndKind::Killed),
    )
}

fn end(fixture: &Fixture, served: &Served) -> Option<ServeEnd> {
    fixture.calls.look(|calls| {
        calls.iter().find_map(|call| match call {
            Call::ServeEnded { child, end } if *child == served.child => Some(*end),
            _ => None,
        })
    })
}
