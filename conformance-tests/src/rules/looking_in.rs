//! Section 7 of the contract: looking in.

use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{ChildType, Counts, ListenerState, PoolState, Stopped};

use crate::fixture::{Fixture, Handle, Order};
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, World};

fn running<T>(answer: Result<T, Stopped>) -> Result<T, Broken> {
    answer.map_err(|error| Broken::new("the pool runs", error.to_string()))
}

pub(super) async fn q1_the_lists_tell_what_is_there<W: World>(world: Arc<W>) -> Verdict {
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("q1"))?;
    let (first, first_address) = stage.listen(&pool, 2)?;
    let (second, second_address) = stage.listen(&pool, 3)?;
    same(
        "connections before there are any",
        0,
        running(pool.connections())?.len(),
    )?;
    let mut expected = Vec::new();
    let mut clients = Vec::new();
    for (listener, address) in [
        (first, first_address),
        (second, second_address),
        (second, second_address),
    ] {
        let before = stage.now();
        let (client, served) = stage.connect(address).await?;
        expected.push((served.child, listener, client.local_addr(), address));
        clients.push((client, before));
    }
    stage
        .pass_until(stage.now() + Duration::from_millis(20))
        .await;
    let listed = running(pool.connections())?;
    let now = stage.now();
    let seen = listed
        .iter()
        .map(|one| (one.id, one.listener, one.peer_addr, one.local_addr));
    same(
        "id, listener, peer and local address of the connections",
        expected,
        seen.collect(),
    )?;
    for (one, (_, before)) in listed.iter().zip(&clients) {
        // By the order of what the clock told, not by how long anything took.
        let bounds = Duration::from_millis(20)..=(now - *before);
        same(
            &format!("an age of {:?} is within {bounds:?}", one.age),
            true,
            bounds.contains(&one.age),
        )?;
    }
    let listed = running(pool.listeners())?;
    let seen = listed.iter().map(|one| {
        (
            one.id,
            one.local_addr,
            one.acceptors,
            one.connections,
            one.state,
        )
    });
    let expected = vec![
        (first, first_address, 2, 1, ListenerState::Accepting),
        (second, second_address, 3, 2, ListenerState::Accepting),
    ];
    same(
        "id, address, acceptors, connections and state of the listeners",
        expected,
        seen.collect(),
    )
}

pub(super) async fn q2_counts_are_by_kind<W: World>(world: Arc<W>) -> Verdict {
    for child_type in [ChildType::Worker, ChildType::Supervisor] {
        let stage = Fixture::new(&world);
        let pool = stage.start(stage.spec("q2").child_type(child_type))?;
        let (_, address) = stage.listen(&pool, 3)?;
        let (_first, _) = stage.connect(address).await?;
        let (_second, _) = stage.connect(address).await?;
        let counts = running(pool.counts())?;
        let (workers, supervisors) = match child_type {
            ChildType::Worker => (5, 0),
            ChildType::Supervisor => (0, 5),
        };
        let expected = (1, 2, workers, supervisors);
        let seen = (
            counts.specs,
            counts.active,
            counts.workers,
            counts.supervisors,
        );
        same(
            &format!("specs, active, workers, supervisors of {child_type:?}"),
            expected,
            seen,
        )?;
        // A supervisor is waited for ever, unless the spec says otherwise.
        stage.event("the pool is killed", pool.kill()).await?;
    }
    Ok(())
}

pub(super) async fn q3_counts_are_exact_at_every_moment<W: World>(world: Arc<W>) -> Verdict {
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("q3"))?;
    let (_, address) = stage.listen(&pool, 2)?;
    exact::<W>(&pool, 0)?;
    let mut connections = Vec::new();
    for open in 1..=10 {
        connections.push(stage.connect(address).await?);
        exact::<W>(&pool, open)?;
    }
    while let Some((mut client, served)) = connections.pop() {
        let order = match connections.len() % 3 {
            0 => Order::Return,
            1 => Order::Fail("as told"),
            _ => Order::Panic("as told"),
        };
        stage.order(&served, order).await?;
        stage.ended(&pool, served.child).await?;
        exact::<W>(&pool, connections.len())?;
        stage.closed(&mut client).await?;
    }
    Ok(())
}

fn exact<W: World>(pool: &Handle<W>, open: usize) -> Verdict {
    let Counts {
        active, workers, ..
    } = running(pool.counts())?;
    same("active and workers", (open, open + 2), (active, workers))?;
    same(
        "connections in the list",
        open,
        running(pool.connections())?.len(),
    )
}

pub(super) async fn q4_status_is_the_whole_as_one_value<W: World>(world: Arc<W>) -> Verdict {
    let stage = Fixture::new(&world);
    let pool = stage.start(stage.spec("q4").intensity(7))?;
    let (_, address) = stage.listen(&pool, 2)?;
    let (client, _connected) = stage.connect(address).await?;
    let status = running(pool.status())?;
    same("the spec's id", "q4", &*status.spec)?;
    same("the state", PoolState::Running, status.state)?;
    same("the counts", running(pool.counts())?, status.counts)?;
    same("the intensity", 7, status.intensity)?;
    same(
        "the listeners",
        running(pool.listeners())?,
        status.listeners.clone(),
    )?;
    same("the connections", 1, status.connections.len())?;
    let texts = [status.to_string(), format!("{status:?}")];
    for part in [
        "q4".to_owned(),
        address.to_string(),
        client.local_addr().to_string(),
    ] {
        for text in &texts {
            same(
                &format!("{part} is in `{text}`"),
                true,
                text.contains(&part),
            )?;
        }
    }
    stage.event("the pool is killed", pool.kill()).await?;
    match pool.status() {
        Err(Stopped { .. }) => Ok(()),
        Ok(status) => Err(Broken::new(
            "a stopped pool has no status",
            status.to_string(),
        )),
    }
}
