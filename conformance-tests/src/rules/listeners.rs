//! Listeners: rules L1 to L4.

use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{CloseError, Event, ListenerId, ListenerRecord};
use futures::future::join_all;

use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{Answer, Call, Farewell, Fixture, Handle, runs};
use crate::instruments::not_listening;
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, World};

const MILLISECOND: Duration = Duration::from_millis(1);

fn list(pool: &Handle) -> Result<Vec<ListenerRecord<Address>>, Broken> {
    let list = pool.listeners();
    list.map_err(|error| Broken::new("the pool runs", error.to_string()))
}

pub(super) async fn l1_any_number_of_listeners_come_and_go(world: Arc<Boxed>) -> Verdict {
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("l1"))?;
    let mut open: Vec<(ListenerId, Address, usize)> = Vec::new();
    for acceptors in [1, 2, 5, 3] {
        let (id, address) = stage.listen(&pool, acceptors)?;
        open.push((id, address, acceptors));
        as_listed(&stage, &pool, &open).await?;
    }
    for at in [1, 0] {
        let (id, address, _) = open.remove(at);
        stage.close(&pool, id).await?;
        same(
            "a new client of the closed listener is refused",
            true,
            stage.refuses(address).await?,
        )?;
        as_listed(&stage, &pool, &open).await?;
    }
    let (id, address) = stage.listen(&pool, 4)?;
    open.push((id, address, 4));
    as_listed(&stage, &pool, &open).await
}

/// Each listener is listed with its number of acceptors, even while a connection is open, and
/// serves.
async fn as_listed(
    stage: &Fixture,
    pool: &Handle,
    open: &[(ListenerId, Address, usize)],
) -> Verdict {
    for (id, address, _) in open {
        let (mut client, served) = stage.connect(*address).await?;
        same(
            "the listener that a connection came from",
            *id,
            served.listener,
        )?;
        stage.echo(&mut client, "here").await?;
        let listed = list(pool)?;
        let listed = listed
            .iter()
            .map(|one| (one.id, one.local_addr, one.acceptors));
        same(
            "id, address and acceptors of the listeners",
            open.to_vec(),
            listed.collect(),
        )?;
        client.close().await;
        stage.ended(pool, served.child).await?;
    }
    Ok(())
}

pub(super) async fn l2_each_connection_is_served_by_exactly_one_child(
    world: Arc<Boxed>,
) -> Verdict {
    const CLIENTS: usize = 40;
    let stage = Fixture::new(&world);
    // Acceptors come and go while the clients arrive; at times no acceptor waits.
    let accept = Answer::AcceptWithin(MILLISECOND);
    stage.answers([accept, Answer::Ignore, Answer::Ignore].repeat(100), accept);
    let pool = stage.start(stage.spec("l2"))?;
    let (_, address) = stage.listen(&pool, 2)?;
    let knocks = (0..CLIENTS).map(|_| stage.knock(address));
    let mut clients = join_all(knocks)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let stops = stage.calls.look(|calls| {
        let children = calls.iter().filter_map(|call| match call {
            Call::Init { info, .. } => Some(info.child),
            _ => None,
        });
        children.collect::<Vec<_>>()
    });
    for client in &mut clients {
        stage.echo(client, "served").await?;
    }
    for child in stops {
        // Most have become connections or ended: the waiting ones are removed and replaced.
        let serving = stage.calls.look(|calls| {
            calls
                .iter()
                .any(|call| matches!(call, Call::Serve(served) if served.child == child))
        });
        if !serving {
            let _ = pool.stop_child(child);
        }
    }
    clients.push(stage.knock(address).await?);
    for client in &mut clients {
        stage.echo(client, "still served").await?;
    }
    // Once `stop` has returned, no child is left that could serve a connection again.
    stage.event("the pool stops", pool.stop()).await?;
    for client in &clients {
        let peer = client.local_addr();
        let served = stage.calls.look(|calls| {
            let serve =
                |call: &&Call| matches!(call, Call::Serve(served) if served.peer_addr == peer);
            calls.iter().filter(serve).count()
        });
        same("how often a connection was served", 1, served)?;
    }
    Ok(())
}

pub(super) async fn l3_closing_a_listener_leaves_its_connections_alive(
    world: Arc<Boxed>,
) -> Verdict {
    let stage = Fixture::new(&world);
    // The close must not wait for `terminate`.
    stage.farewell(Farewell::Stay);
    let pool = stage.start(stage.spec("l3"))?;
    let (id, address) = stage.listen(&pool, 2)?;
    let (mut client, served) = stage.connect(address).await?;
    stage.began(3).await?;
    stage.close(&pool, id).await?;
    same(
        "the socket of a closed listener is closed",
        true,
        stage.refuses(address).await?,
    )?;
    let again = world.listen_on(address);
    same(
        "the result of binding its address again",
        None,
        again.err().map(|error| error.to_string()),
    )?;
    same("the listeners in the list", 0, list(&pool)?.len())?;
    same(
        "*draining* of its connections",
        true,
        served.lifecycle.draining().is_set(),
    )?;
    stage.echo(&mut client, "still there").await?;
    let closed = stage.calls.when(|calls| {
        let terminate = |call: &&Call| matches!(call, Call::Terminate { .. });
        (calls.iter().filter(terminate).count() >= 2).then_some(())
    });
    stage.event("both acceptors terminate", closed).await?;
    let again = stage.event("the second close returns", pool.close_listener(id));
    same(
        "the result of closing it again",
        Err(CloseError::UnknownListener(id)),
        again.await?,
    )?;
    stage.event("the pool is killed", pool.kill()).await?;
    // No further `terminate` can run from here on.
    same("why they terminate", vec!["closed"; 2], stage.terminated())?;

    let stage = Fixture::new(&world);
    stage.answers([], Answer::Nothing);
    let pool = stage.start(stage.spec("l3"))?;
    let (id, _) = stage.listen(&pool, 2)?;
    stage.began(2).await?;
    stage.close(&pool, id).await?;
    stage.counts(&pool, 0, 0).await?;
    same(
        "terminations of acceptors in `init`",
        0,
        stage.terminated().len(),
    )
}

pub(super) async fn l4_a_listener_that_fails_takes_nobody_along(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("l4"))?;
    let (failing, address) = stage.listen(&pool, 2)?;
    let (other, other_address) = stage.listen(&pool, 1)?;
    let (mut client, served) = stage.connect(address).await?;
    let (mut other_client, other_served) = stage.connect(other_address).await?;
    stage.began(5).await?;
    let faults = world.faults(address);
    faults.inject(not_listening());
    stage.counts(&pool, 2, 3).await?;
    same(
        "why its acceptors terminated",
        vec!["io"; 2],
        stage.terminated(),
    )?;
    let listed: Vec<_> = list(&pool)?.iter().map(|one| one.id).collect();
    same("the listeners in the list", vec![other], listed)?;
    let draining = served.lifecycle.draining().wait();
    stage
        .event("its connections see *draining*", draining)
        .await?;
    same(
        "*draining* of another listener's",
        false,
        other_served.lifecycle.draining().is_set(),
    )?;
    stage.echo(&mut client, "still there").await?;
    stage.echo(&mut other_client, "still there").await?;
    let (mut late, _) = stage.connect(other_address).await?;
    stage.echo(&mut late, "the other still serves").await?;
    same("the pool keeps running", true, runs(&pool))?;
    // All reports have been delivered once `stop` has returned.
    stage.event("the pool stops", pool.stop()).await?;
    let failed = |event: &Event<Address>| match event {
        Event::ListenerFailed {
            listener,
            local_addr,
            error,
            ..
        } => Some((*listener, *local_addr, error.to_string())),
        _ => None,
    };
    let failed = stage.reports.look(|reports| {
        let failed = reports.iter().filter_map(|report| failed(&report.event));
        failed.collect::<Vec<_>>()
    });
    let expected = vec![(failing, address, not_listening().to_string())];
    same("the listeners reported as failed", expected, failed)
}
