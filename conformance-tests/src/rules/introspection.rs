//! Introspection: rules Q1 to Q5.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acceptor_core::{
    AcceptorRecord, AcceptorState, ChildError, ChildId, ChildType, ConnectionRecord, Event,
    Failure, ListenerId, ListenerState, PoolState, Stopped,
};

use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{Call, Command, Fixture, Handle, OnInit, OnTerminate, Pool};
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::Client;

fn running<T>(answer: Result<T, Stopped>) -> Result<T, Broken> {
    answer.map_err(|error| Broken::new("the pool runs", error.to_string()))
}

pub(super) async fn q1_lists_are_complete(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("q1"))?;
    let (first, first_address) = fixture.listen(&pool, 2)?;
    let (second, second_address) = fixture.listen(&pool, 3)?;
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
        let before = fixture.now();
        let (client, served) = fixture.connect(address).await?;
        expected.push((served.child, listener, client.local_addr(), address));
        clients.push((client, before));
    }
    fixture
        .sleep_until(fixture.now() + Duration::from_millis(20))
        .await;
    fixture.waiting(&pool, 5).await?;
    let listed = running(pool.connections())?;
    let now = fixture.now();
    let mut seen: Vec<_> = listed
        .iter()
        .map(|one| (one.id, one.listener, one.peer_addr, one.local_addr))
        .collect();
    // Rule L6 checks their order.
    seen.sort_unstable();
    expected.sort_unstable();
    same(
        "id, listener, peer and local address of the connections",
        expected,
        seen,
    )?;
    for (client, before) in &clients {
        let of_client = |one: &&ConnectionRecord<Address>| one.peer_addr == client.local_addr();
        let Some(one) = listed.iter().find(of_client) else {
            return Err(Broken::new(
                "the connection of each client",
                "there is none",
            ));
        };
        // Based on the order of clock readings, not on the duration of anything.
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

pub(super) async fn q2_counts_are_by_kind(world: Arc<Boxed>) -> Verdict {
    for child_type in [ChildType::Worker, ChildType::Supervisor] {
        let fixture = Fixture::new(&world);
        let pool = fixture.start(fixture.spec("q2").child_type(child_type))?;
        let (_, address) = fixture.listen(&pool, 3)?;
        let (_first, _) = fixture.connect(address).await?;
        let (_second, _) = fixture.connect(address).await?;
        let counts = running(pool.count_children())?;
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
        // A supervisor is waited for indefinitely unless the spec says otherwise.
        fixture.event("the pool is killed", pool.kill()).await?;
    }
    Ok(())
}

pub(super) async fn q3_counts_are_always_exact(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("q3"))?;
    let (first, first_address) = fixture.listen(&pool, 2)?;
    let (second, second_address) = fixture.listen(&pool, 3)?;
    // The connections when `serve` is first polled: its own and the earlier ones.
    let handle: Arc<Mutex<Option<Handle>>> = Arc::default();
    let seen = Record::default();
    let (watched, seeing) = (Arc::clone(&handle), seen.clone());
    fixture.on_serve(move |served| {
        let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = watched.as_ref().map(|pool| pool.listeners());
        let Some(Ok(listeners)) = listeners else {
            return;
        };
        let counted = listeners.iter().find(|one| one.id == served.listener);
        seeing.push(counted.map(|one| one.connections));
    });
    *handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(pool.handle());
    let mut open = [(first, 0, 2), (second, 0, 3)];
    exact(&pool, open)?;
    let mut connections = Vec::new();
    for number in 0..10 {
        let (place, address) = match number % 3 {
            0 => (0, first_address),
            _ => (1, second_address),
        };
        connections.push(fixture.connect(address).await?);
        open[place].1 += 1;
        exact(&pool, open)?;
        let connections = seen.look(|seen| seen.last().copied().flatten());
        let what = "connections of the listener when `serve` is first polled";
        same(what, Some(open[place].1), connections)?;
    }
    // Breaks the cycle: an acceptor must not keep its own pool alive.
    handle.lock().unwrap_or_else(PoisonError::into_inner).take();
    while let Some((mut client, served)) = connections.pop() {
        let order = match connections.len() % 3 {
            0 => Command::Return,
            1 => Command::Fail("scripted"),
            _ => Command::Panic("scripted"),
        };
        fixture.command(&served, order).await?;
        fixture.ended(&pool, served.child).await?;
        let place = usize::from(served.listener == second);
        open[place].1 -= 1;
        exact(&pool, open)?;
        fixture.closed(&mut client).await?;
    }
    Ok(())
}

/// Checks the counts of a pool with these connections and acceptors per listener.
fn exact(pool: &Handle, open: [(ListenerId, usize, usize); 2]) -> Verdict {
    let counts = running(pool.counts())?;
    let active: usize = open.iter().map(|(_, connections, _)| connections).sum();
    let acceptors: usize = open.iter().map(|(_, _, acceptors)| acceptors).sum();
    let seen = (counts.connections, counts.acceptors);
    same("connections and acceptors", (active, acceptors), seen)?;
    let listed = running(pool.listeners())?;
    let listed: Vec<_> = listed
        .iter()
        .map(|one| (one.id, one.connections, one.acceptors))
        .collect();
    let what = "connections and acceptors of each listener";
    same(what, open.to_vec(), listed)?;
    let listed = running(pool.connections())?;
    let of = |(id, ..): &(ListenerId, usize, usize)| {
        listed.iter().filter(|one| one.listener == *id).count()
    };
    let seen: Vec<_> = open.iter().map(of).collect();
    let expected = open
        .iter()
        .map(|(_, connections, _)| *connections)
        .collect();
    same("connections in the list, by listener", expected, seen)
}

pub(super) async fn q4_status_is_complete(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("q4").intensity(7))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let (client, _connected) = fixture.connect(address).await?;
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
    fixture.event("the pool is killed", pool.kill()).await?;
    match pool.status() {
        Err(Stopped { .. }) => Ok(()),
        Ok(status) => Err(Broken::new(
            "a stopped pool has no status",
            status.to_string(),
        )),
    }
}

/// Scripts all acceptors so that they reach a state and stay in it.
fn script(fixture: &Fixture, state: AcceptorState) {
    match state {
        AcceptorState::Init => fixture.on_init([], OnInit::Nothing),
        AcceptorState::Terminating => {
            fixture.on_terminate(OnTerminate::Hang);
            fixture.on_init([], OnInit::AcceptWithin(Duration::from_millis(1)));
        }
        AcceptorState::Spaced => {
            // The first replacement starts at once, the second after a time that never passes.
            fixture.world.stop_clock();
            fixture.on_init([], OnInit::Ignore);
        }
        _ => {}
    }
}

/// Waits until all acceptors of a pool are in a state.
async fn all_in(
    fixture: &Fixture,
    pool: &Handle,
    count: usize,
    state: AcceptorState,
) -> Result<Vec<AcceptorRecord>, Broken> {
    let what = format!("{count} acceptors in the list are {state}");
    let look = || match pool.acceptors() {
        Ok(list) if list.len() == count && list.iter().all(|one| one.state == state) => Ok(list),
        seen => Err(seen),
    };
    fixture.until(&what, look).await
}

pub(super) async fn q5_acceptors_and_listener_states(world: Arc<Boxed>) -> Verdict {
    for state in [
        AcceptorState::Init,
        AcceptorState::Waiting,
        AcceptorState::Terminating,
        AcceptorState::Spaced,
    ] {
        acceptors_are_listed(&world, state).await?;
    }
    listener_states(&world).await
}

async fn acceptors_are_listed(world: &Arc<Boxed>, state: AcceptorState) -> Verdict {
    const ACCEPTORS: usize = 2;
    let held = Boxed::instrumented(world);
    let fixture = Fixture::new(&held);
    script(&fixture, state);
    let pool = fixture.start(fixture.spec("q5"))?;
    let began = fixture.now();
    let (listener, _) = fixture.listen(&pool, ACCEPTORS)?;
    let at_once = running(pool.acceptors())?;
    same(
        "acceptors in the list from the beginning",
        ACCEPTORS,
        at_once.len(),
    )?;
    if state == AcceptorState::Spaced {
        // The listener's first acceptors are spaced too, until the accept loop has been polled.
        fixture.inits_begun(2 * ACCEPTORS).await?;
    }
    let listed = all_in(&fixture, &pool, ACCEPTORS, state).await?;
    let most = fixture.now() - began;
    let listeners: Vec<_> = listed.iter().map(|one| one.listener).collect();
    same("the listener of each", vec![listener; ACCEPTORS], listeners)?;
    for one in &listed {
        let within = one.age <= most;
        same(
            &format!("an age of {:?} is within {most:?}", one.age),
            true,
            within,
        )?;
    }
    let ids: Vec<_> = listed.iter().map(|one| one.id).collect();
    if state != AcceptorState::Spaced {
        // The task of an acceptor in `init` may not have been polled yet.
        let begun = || {
            let known: Vec<_> = ids.iter().map(|id| has_begun(&fixture, *id)).collect();
            match known.contains(&false) {
                true => Err(known),
                false => Ok(()),
            }
        };
        fixture.until("`init` runs for each id", begun).await?;
    }

    // Each can be stopped or killed by its id, and is replaced.
    let accepted = |result: Result<(), ChildError>| {
        result.map_err(|error| Broken::new("an acceptor is stopped or killed", error.to_string()))
    };
    let (stopped, killed) = (ids[0], ids[1]);
    if state == AcceptorState::Terminating {
        // A stop does not affect it; a kill does.
        accepted(pool.kill_child(stopped))?;
    } else {
        accepted(pool.stop_child(stopped))?;
    }
    accepted(pool.kill_child(killed))?;
    let replaced = || match pool.acceptors() {
        Ok(list) if list.len() == ACCEPTORS && list.iter().all(|one| !ids.contains(&one.id)) => {
            Ok(())
        }
        seen => Err(seen),
    };
    fixture
        .until("both acceptors are replaced", replaced)
        .await?;
    let unknown = Err(ChildError::UnknownChild(killed));
    same("killing it again", unknown, pool.kill_child(killed))?;
    // All reports have been delivered once `kill` has returned.
    fixture.event("the pool is killed", pool.kill()).await?;
    let reported = fixture.reports.look(|reports| {
        let killed = |event: &Event<_>| match event {
            Event::AcceptorFailed {
                child,
                failure: Failure::Killed,
                ..
            } => Some(*child),
            _ => None,
        };
        let all = reports.iter().filter_map(|report| killed(&report.event));
        all.collect::<Vec<_>>()
    });
    let was_killed = reported.contains(&killed);
    same(
        &format!("the kill of an acceptor that was {state} is reported"),
        true,
        was_killed,
    )
}

/// Returns whether `init` has begun for a child.
fn has_begun(fixture: &Fixture, id: ChildId) -> bool {
    fixture.calls.look(|calls| {
        let of_it = |call: &Call| matches!(call, Call::Init { info, .. } if info.child == id);
        calls.iter().any(of_it)
    })
}

/// Waits until the only listener of a pool is in a state.
async fn comes_to(fixture: &Fixture, pool: &Pool, state: ListenerState) -> Verdict {
    let what = format!("the listener is {state}");
    let look = || match pool.listeners() {
        Ok(list) if list.iter().all(|one| one.state == state) && list.len() == 1 => Ok(()),
        seen => Err(seen),
    };
    fixture.until(&what, look).await
}

async fn listener_states(world: &Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    fixture.on_init([], OnInit::Deferred);
    let pool = fixture.start(fixture.spec("q5"))?;
    let (id, address) = fixture.listen(&pool, 1)?;
    let what = "the listener while no acceptor is ready";
    for number in 1..=2 {
        fixture.inits_begun(number).await?;
        let states: Vec<_> = running(pool.listeners())?
            .iter()
            .map(|one| one.state)
            .collect();
        same(what, vec![ListenerState::Starting], states)?;
        fixture.decide(OnInit::Accept);
        comes_to(&fixture, &pool, ListenerState::Accepting).await?;
        if number == 1 {
            // Its replacement is not ready.
            let (client, _) = fixture.connect(address).await?;
            client.close().await;
        }
    }
    let task = all.hold_accepting(&fixture).await?;
    let close = pool.close_listener(id);
    comes_to(&fixture, &pool, ListenerState::Closing).await?;
    all.release(task);
    let closed = fixture.event("the listener closes", close).await?;
    same("the result of the close", Ok(()), closed)?;

    let (_, address) = fixture.listen(&pool, 1)?;
    fixture.decide(OnInit::Accept);
    comes_to(&fixture, &pool, ListenerState::Accepting).await?;
    all.stop_clock();
    let faults = all.faults(address);
    faults.inject(std::io::ErrorKind::OutOfMemory.into());
    comes_to(&fixture, &pool, ListenerState::Resources).await?;
    fixture.event("the pool is killed", pool.kill()).await?;
    Ok(())
}
