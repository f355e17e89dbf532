//! Listeners: rules L1 to L4.

use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{CloseError, Event, ListenerId, ListenerRecord};
use futures::future::join_all;

use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{Call, Fixture, Handle, OnInit, OnTerminate, is_running};
use crate::instruments::not_listening;
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, World};

const MILLISECOND: Duration = Duration::from_millis(1);

fn list(pool: &Handle) -> Result<Vec<ListenerRecord<Address>>, Broken> {
    let list = pool.listeners();
    list.map_err(|error| Broken::new("the pool runs", error.to_string()))
}

pub(super) async fn l1_listeners_come_and_go(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("l1"))?;
    let mut open: Vec<(ListenerId, Address, usize)> = Vec::new();
    for acceptors in [1, 2, 5, 3] {
        let (id, address) = fixture.listen(&pool, acceptors)?;
        open.push((id, address, acceptors));
        as_listed(&fixture, &pool, &open).await?;
    }
    for at in [1, 0] {
        let (id, address, _) = open.remove(at);
        fixture.close(&pool, id).await?;
        same(
            "a new client of the closed listener is refused",
            true,
            fixture.is_refused(address).await?,
        )?;
        as_listed(&fixture, &pool, &open).await?;
    }
    let (id, address) = fixture.listen(&pool, 4)?;
    open.push((id, address, 4));
    as_listed(&fixture, &pool, &open).await
}

/// Each listener is listed with its number of acceptors, even while a connection is open, and
/// serves.
async fn as_listed(
    fixture: &Fixture,
    pool: &Handle,
    open: &[(ListenerId, Address, usize)],
) -> Verdict {
    for (id, address, _) in open {
        let (mut client, served) = fixture.connect(*address).await?;
        same(
            "the listener that a connection came from",
            *id,
            served.listener,
        )?;
        fixture.echo(&mut client, "here").await?;
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
        fixture.ended(pool, served.child).await?;
    }
    Ok(())
}

pub(super) async fn l2_connection_is_served_once(world: Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 40;
    let fixture = Fixture::new(&world);
    // Acceptors come and go while the clients arrive; at times no acceptor waits.
    let accept = OnInit::AcceptWithin(MILLISECOND);
    fixture.on_init([accept, OnInit::Ignore, OnInit::Ignore].repeat(100), accept);
    let pool = fixture.start(fixture.spec("l2"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let knocks = (0..CLIENTS).map(|_| fixture.connect_only(address));
    let mut clients = join_all(knocks)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let stops = fixture.calls.look(|calls| {
        let children = calls.iter().filter_map(|call| match call {
            Call::Init { info, .. } => Some(info.child),
            _ => None,
        });
        children.collect::<Vec<_>>()
    });
    for client in &mut clients {
        fixture.echo(client, "served").await?;
    }
    for child in stops {
        // Most have become connections or ended: the waiting ones are removed and replaced.
        let serving = fixture.calls.look(|calls| {
            calls
                .iter()
                .any(|call| matches!(call, Call::Serve(served) if served.child == child))
        });
        if !serving {
            let _ = pool.stop_child(child);
        }
    }
    clients.push(fixture.connect_only(address).await?);
    for client in &mut clients {
        fixture.echo(client, "still served").await?;
    }
    // Once `stop` has returned, no child is left that could serve a connection again.
    fixture.event("the pool stops", pool.stop()).await?;
    for client in &clients {
        let peer = client.local_addr();
        let served = fixture.calls.look(|calls| {
            let serve =
                |call: &&Call| matches!(call, Call::Serve(served) if served.peer_addr == peer);
            calls.iter().filter(serve).count()
        });
        same("how often a connection was served", 1, served)?;
    }
    Ok(())
}

pub(super) async fn l3_close_keeps_connections(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    // The close must not wait for `terminate`.
    fixture.on_terminate(OnTerminate::Hang);
    let pool = fixture.start(fixture.spec("l3"))?;
    let (id, address) = fixture.listen(&pool, 2)?;
    let (mut client, served) = fixture.connect(address).await?;
    fixture.inits_begun(3).await?;
    fixture.close(&pool, id).await?;
    same(
        "the socket of a closed listener is closed",
        true,
        fixture.is_refused(address).await?,
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
    fixture.echo(&mut client, "still there").await?;
    let closed = fixture.calls.when(|calls| {
        let terminate = |call: &&Call| matches!(call, Call::Terminate { .. });
        (calls.iter().filter(terminate).count() >= 2).then_some(())
    });
    fixture.event("both acceptors terminate", closed).await?;
    let again = fixture.event("the second close returns", pool.close_listener(id));
    same(
        "the result of closing it again",
        Err(CloseError::UnknownListener(id)),
        again.await?,
    )?;
    fixture.event("the pool is killed", pool.kill()).await?;
    // No further `terminate` can run from here on.
    same(
        "why they terminate",
        vec!["closed"; 2],
        fixture.terminated(),
    )?;

    let fixture = Fixture::new(&world);
    fixture.on_init([], OnInit::Nothing);
    let pool = fixture.start(fixture.spec("l3"))?;
    let (id, _) = fixture.listen(&pool, 2)?;
    fixture.inits_begun(2).await?;
    fixture.close(&pool, id).await?;
    fixture.counts(&pool, 0, 0).await?;
    same(
        "terminations of acceptors in `init`",
        0,
        fixture.terminated().len(),
    )
}

pub(super) async fn l4_failed_listener_is_isolated(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("l4"))?;
    let (failing, address) = fixture.listen(&pool, 2)?;
    let (other, other_address) = fixture.listen(&pool, 1)?;
    let (mut client, served) = fixture.connect(address).await?;
    let (mut other_client, other_served) = fixture.connect(other_address).await?;
    fixture.inits_begun(5).await?;
    let faults = world.faults(address);
    faults.inject(not_listening());
    fixture.counts(&pool, 2, 3).await?;
    same(
        "why its acceptors terminated",
        vec!["io"; 2],
        fixture.terminated(),
    )?;
    let listed: Vec<_> = list(&pool)?.iter().map(|one| one.id).collect();
    same("the listeners in the list", vec![other], listed)?;
    let draining = served.lifecycle.draining().wait();
    fixture
        .event("its connections see *draining*", draining)
        .await?;
    same(
        "*draining* of another listener's",
        false,
        other_served.lifecycle.draining().is_set(),
    )?;
    fixture.echo(&mut client, "still there").await?;
    fixture.echo(&mut other_client, "still there").await?;
    let (mut late, _) = fixture.connect(other_address).await?;
    fixture.echo(&mut late, "the other still serves").await?;
    same("the pool keeps running", true, is_running(&pool))?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let failed = |event: &Event<Address>| match event {
        Event::ListenerFailed {
            listener,
            local_addr,
            error,
            ..
        } => Some((*listener, *local_addr, error.to_string())),
        _ => None,
    };
    let failed = fixture.reports.look(|reports| {
        let failed = reports.iter().filter_map(|report| failed(&report.event));
        failed.collect::<Vec<_>>()
    });
    let expected = vec![(failing, address, not_listening().to_string())];
    same("the listeners reported as failed", expected, failed)
}
