//! Handshakes: rules H1 to H6.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acceptor_core::{
    AcceptorState, ChildId, ConnectionRecord, ConnectionReports, ConnectionState, EndKind, Event,
    Failure, Grace, Phase, Restart, StopReason,
};

use crate::address::Address;
use crate::boxed::{Boxed, BoxedClient};
use crate::fixture::{Call, Command, Fixture, Handle, Served, is_running};
use crate::handshakes::{
    CAUSE, HandshakeEvent, Handshakes, Header, LOCAL, PANIC, PEER, SOURCE, Stage, Step,
};
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::Client;

/// The first handshake reads a header; the second passes every stream on.
fn one(world: &Arc<Boxed>) -> Arc<Handshakes> {
    Handshakes::one(&Boxed::instrumented(world))
}

/// Both handshakes read a header.
fn two(world: &Arc<Boxed>) -> Arc<Handshakes> {
    Handshakes::two(&Boxed::instrumented(world))
}

/// A client whose connection is in its handshake.
struct InHandshake {
    client: BoxedClient,
    child: ChildId,
}

/// Connects a client and waits until its handshake has begun.
async fn connect(
    fixture: &Fixture<Handshakes>,
    pool: &Handle<Handshakes>,
    address: Address,
) -> Result<InHandshake, Broken> {
    let before = fixture.world.events().count();
    let client = fixture.connect_only(address).await?;
    wait_for(fixture, before, &client, Stage::First, Step::Began).await?;
    let child = listed(pool, client.local_addr())?.id;
    Ok(InHandshake { client, child })
}

/// Waits for an event of a client's handshake that comes after `before` other events.
async fn wait_for(
    fixture: &Fixture<Handshakes>,
    after: usize,
    client: &BoxedClient,
    which: Stage,
    step: Step,
) -> Result<HandshakeEvent, Broken> {
    let address = client.local_addr();
    let wanted = move |event: &&HandshakeEvent| {
        (event.client, event.which, event.step) == (address, which, step)
    };
    let wait_for = fixture
        .world
        .events()
        .when(move |all| all.iter().skip(after).find(wanted).copied());
    let what = format!("handshake event of a client: {which:?}, {step:?}");
    fixture.event(&what, wait_for).await
}

/// Returns the listed connection of a client.
fn listed(pool: &Handle<Handshakes>, client: Address) -> Result<ConnectionRecord<Address>, Broken> {
    let list = pool.connections();
    let list = list.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    let is_its = |record: &&ConnectionRecord<_>| {
        let transport = record.transport.as_ref();
        record.peer_addr == client || transport.is_some_and(|addrs| addrs.peer_addr == client)
    };
    let record = list.iter().find(is_its).cloned();
    record.ok_or_else(|| {
        Broken::new(
            "a connection in its handshake is listed",
            format!("{list:?}"),
        )
    })
}

/// Sends a header, which controls the handshake.
async fn send(fixture: &Fixture<Handshakes>, client: &mut BoxedClient, header: Header) -> Verdict {
    let sent = fixture.event("the client sends a line", client.send(header.line()));
    let sent = sent.await?;
    sent.map_err(|error| Broken::new("the client sends a line", error.to_string()))
}

/// Waits until a connection is served.
async fn served(fixture: &Fixture<Handshakes>, child: ChildId) -> Result<Served, Broken> {
    let served = fixture.calls.first(move |call| match call {
        Call::Serve(served) if served.child == child => Some(served.clone()),
        _ => None,
    });
    fixture
        .event("a client is served once its handshake has passed", served)
        .await
}

/// Connects a client whose handshake passes, and waits until it is served.
async fn passes(
    fixture: &Fixture<Handshakes>,
    pool: &Handle<Handshakes>,
    address: Address,
) -> Result<(BoxedClient, Served), Broken> {
    let mut one = connect(fixture, pool, address).await?;
    send(fixture, &mut one.client, Header::Pass).await?;
    let served = served(fixture, one.child).await?;
    Ok((one.client, served))
}

/// Waits until the connection has ended, and checks that neither `serve` nor `terminate` got its state, which was
/// dropped.
async fn ended_unserved(
    fixture: &Fixture<Handshakes>,
    pool: &Handle<Handshakes>,
    one: &mut InHandshake,
) -> Verdict {
    fixture.closed(&mut one.client).await?;
    fixture.ended(pool, one.child).await?;
    let child = one.child;
    let number = fixture.calls.look(|calls| {
        calls.iter().find_map(|call| match call {
            Call::Init { number, info, .. } if info.child == child => Some(*number),
            _ => None,
        })
    });
    let uses = fixture.calls.look(|calls| {
        let uses = calls.iter().filter_map(|call| match call {
            Call::Serve(served) if served.child == child => Some("served"),
            Call::Terminate { number: n, .. } if Some(*n) == number => Some("terminated"),
            Call::StateDropped { number: n } if Some(*n) == number => Some("dropped"),
            _ => None,
        });
        uses.collect::<Vec<_>>()
    });
    let what = "the state of a connection that ended in its handshake";
    same(what, vec!["dropped"], uses)
}

/// The handle of a pool that starts after its hook is set.
type ObservedPool = Arc<Mutex<Option<Handle<Handshakes>>>>;

/// Gives the hook access to the pool.
fn observe(observed: &ObservedPool, pool: &Handle<Handshakes>) {
    *observed.lock().unwrap_or_else(PoisonError::into_inner) = Some(pool.clone());
}

/// Records the hook's observations of the pool.
fn seeing<T: Send + 'static>(
    fixture: &Fixture<Handshakes>,
    look: impl Fn(&Handle<Handshakes>) -> Option<T> + Send + Sync + 'static,
) -> (ObservedPool, Record<T>) {
    let (observed, seen) = (ObservedPool::default(), Record::default());
    let (pool, seeing) = (Arc::clone(&observed), seen.clone());
    fixture.world.on_handshake(move |_| {
        let pool = pool.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(found) = pool.as_ref().and_then(&look) {
            seeing.push(found);
        }
    });
    (observed, seen)
}

pub(super) async fn h1_handshake_does_not_block_accept(world: Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 3;
    let world = one(&world);
    let fixture = Fixture::new(&world);
    // A replacement without a task is spaced.
    let in_place = |pool: &Handle<_>| {
        let acceptors = pool.acceptors().ok()?;
        let mut states = acceptors.iter().map(|one| one.state);
        let started = |state| matches!(state, AcceptorState::Init | AcceptorState::Waiting);
        Some(acceptors.len() == 1 && states.all(started))
    };
    let (observed, seen) = seeing(&fixture, in_place);
    let pool = fixture.start(fixture.spec("h1"))?;
    observe(&observed, &pool);
    let (_, address) = fixture.listen(&pool, 1)?;
    // Its client sends nothing until all others are served.
    let mut silent = connect(&fixture, &pool, address).await?;
    let mut others = Vec::new();
    for _ in 0..CLIENTS {
        let (mut client, served) = passes(&fixture, &pool, address).await?;
        fixture.echo(&mut client, "beside a handshake").await?;
        others.push((client, served));
    }
    let state = listed(&pool, silent.client.local_addr())?.state;
    let what = "the connection whose client sends nothing";
    same(what, ConnectionState::Handshaking, state)?;
    send(&fixture, &mut silent.client, Header::Pass).await?;
    let last = served(&fixture, silent.child).await?;
    fixture.echo(&mut silent.client, "at last").await?;
    others.push((silent.client, last));
    let what = "whether the replacement has started when a handshake is first polled";
    same(what, vec![true; CLIENTS + 1], seen.all())?;
    for (client, served) in &others {
        let address = client.local_addr();
        let task = fixture.world.events().look(|events| {
            let of_it =
                |event: &&HandshakeEvent| event.client == address && event.which == Stage::First;
            events.iter().find(of_it).and_then(|event| event.task)
        });
        let own = task.is_some() && task == served.task;
        let what = "the handshake runs in the connection's own task";
        same(what, true, own)?;
        let shared = others.iter().filter(|(_, other)| other.task == served.task);
        same("connections that share a task", 1, shared.count())?;
    }
    // Breaks the cycle: the pool's listener owns the hook, and the hook the pool.
    observed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    Ok(())
}

pub(super) async fn h2_handshaking_connection_is_counted(world: Arc<Boxed>) -> Verdict {
    let world = one(&world);
    let fixture = Fixture::new(&world);
    let looks = |pool: &Handle<_>| {
        let counts = pool.counts().ok()?;
        let of_listener: usize = pool
            .listeners()
            .ok()?
            .iter()
            .map(|one| one.connections)
            .sum();
        let list = pool.connections().ok()?;
        let states: Vec<_> = list.iter().map(|one| one.state).collect();
        Some((counts.connections, counts.handshaking, of_listener, states))
    };
    let (observed, seen) = seeing(&fixture, looks);
    let spec = fixture.spec("h2").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec)?;
    observe(&observed, &pool);
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut first = connect(&fixture, &pool, address).await?;
    let what = "connections, those in a handshake, those of the listener, and the list, when a handshake is first polled";
    same(
        what,
        vec![(1, 1, 1, vec![ConnectionState::Handshaking])],
        seen.all(),
    )?;
    send(&fixture, &mut first.client, Header::Pass).await?;
    served(&fixture, first.child).await?;
    let what = "the same, once `serve` has begun";
    let expected = Some((1, 0, 1, vec![ConnectionState::Serving]));
    same(what, expected, looks(&pool))?;

    let refused = |what: &'static str| {
        move |error: acceptor_core::ChildError| Broken::new(what, error.to_string())
    };
    let mut one = connect(&fixture, &pool, address).await?;
    pool.stop_child(one.child)
        .map_err(refused("a connection in its handshake is stopped"))?;
    ended_unserved(&fixture, &pool, &mut one).await?;
    same("the pool runs after a stop by id", true, is_running(&pool))?;
    let counts = pool.counts();
    let counts = counts.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    let what = "connections, and those in a handshake, after one was stopped";
    same(what, (1, 0), (counts.connections, counts.handshaking))?;

    let mut one = connect(&fixture, &pool, address).await?;
    pool.kill_child(one.child)
        .map_err(refused("a connection in its handshake is killed"))?;
    ended_unserved(&fixture, &pool, &mut one).await?;
    // The kill counts, as that of any other connection does.
    let report = fixture.join(&pool).await?;
    same("why the pool stopped", StopReason::Intensity, report.reason)?;
    let killed = |event: &Event<_>| match event {
        Event::ConnectionFailed {
            child,
            failure: Failure::Killed,
            ..
        } => Some(*child),
        _ => None,
    };
    same(
        "kills reported",
        vec![one.child],
        reported(&fixture, killed),
    )?;
    observed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    Ok(())
}

/// Returns the reports of one kind.
fn reported<T>(
    fixture: &Fixture<Handshakes>,
    sort: impl Fn(&Event<Address>) -> Option<T>,
) -> Vec<T> {
    fixture.reports.look(|reports| {
        let found = reports.iter().filter_map(|report| sort(&report.event));
        found.collect()
    })
}

/// A reported handshake failure: the connection, the client, the cause and the source.
type FailedHandshake = (ChildId, Address, &'static str, Option<String>);

/// Returns a handshake failure, if the event is one.
fn failed(event: &Event<Address>) -> Option<FailedHandshake> {
    match event {
        Event::HandshakeFailed {
            child,
            peer,
            cause,
            error,
            ..
        } => {
            let error = error.as_ref().map(ToString::to_string);
            Some((*child, *peer, *cause, error))
        }
        _ => None,
    }
}

pub(super) async fn h3_handshake_has_a_deadline(world: Arc<Boxed>) -> Verdict {
    const DEFAULT: Option<Duration> = Some(Duration::from_secs(10));
    let timeout = Duration::from_millis(120);
    let world = one(&world);
    let fixture = Fixture::new(&world);
    let by_default = fixture.plain_spec("h3").settings.handshake_timeout;
    same("the deadline by default", DEFAULT, by_default)?;

    let spec = fixture.spec("h3").restart(Restart::Transient).intensity(0);
    let spec = spec.connection_reports(ConnectionReports::Disconnects);
    let pool = fixture.start(spec.handshake_timeout(timeout))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (before, began) = (fixture.world.events().count(), fixture.now());
    let mut client = fixture.connect_only(address).await?;
    let over = wait_for(&fixture, before, &client, Stage::First, Step::Dropped).await?;
    if over.at - began < timeout {
        let lasted = format!("it was dropped after {:?}", over.at - began);
        return Err(
            Broken::new(format!("a handshake may take {timeout:?}"), lasted)
                .check("does `sleep_until` complete early, or use a different clock than `now`?"),
        );
    }
    fixture.closed(&mut client).await?;
    fixture.counts(&pool, 0, 1).await?;
    same("the pool runs after the deadline", true, is_running(&pool))?;

    // A handshake that completes in time: the deadline limits the handshake, not the connection.
    let in_time = async {
        loop {
            // A slow machine may miss the deadline, and retries.
            let mut client = fixture.connect_only(address).await?;
            let _ = client.send(Header::Pass.line()).await;
            let _ = client.send(b"in time\n").await;
            if client.receive_line().await.is_ok() {
                return Ok::<_, Broken>(client);
            }
        }
    };
    let what = "a client whose handshake meets the deadline is served";
    let mut client = fixture.event(what, in_time).await??;
    fixture.sleep_until(fixture.now() + timeout).await;
    fixture.echo(&mut client, "after the deadline").await?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let timeouts = reported(&fixture, |event| {
        failed(event).map(|(.., cause, error)| (cause, error))
    });
    let first = timeouts.first().cloned();
    let expected = Some(("timeout", None));
    same("how the first handshake failed", expected, first)?;

    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("h3").handshake_timeout(None))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut one = connect(&fixture, &pool, address).await?;
    fixture.sleep_until(fixture.now() + timeout).await;
    let state = listed(&pool, one.client.local_addr())?.state;
    let what = "a connection whose handshake has no deadline";
    same(what, ConnectionState::Handshaking, state)?;
    send(&fixture, &mut one.client, Header::Pass).await?;
    served(&fixture, one.child).await?;
    fixture.echo(&mut one.client, "in the end").await
}

/// How a client makes its handshake fail, and what is reported: the cause, and the source where its text is known.
const FAILURES: [(Option<Header>, &str, Option<&str>); 3] = [
    (Some(Header::Fail), CAUSE, Some(SOURCE)),
    (Some(Header::FailIo), "io", None),
    // The client hangs up.
    (None, "disconnected", None),
];

pub(super) async fn h4_handshake_that_fails(world: Arc<Boxed>) -> Verdict {
    let world = one(&world);
    failures(&world, ConnectionReports::Disconnects).await?;
    failures(&world, ConnectionReports::Failures).await?;

    let fixture = Fixture::new(&world);
    let spec = fixture.spec("h4").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec)?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut one = connect(&fixture, &pool, address).await?;
    send(&fixture, &mut one.client, Header::Panic).await?;
    ended_unserved(&fixture, &pool, &mut one).await?;
    let stops = "the pool stops after a panic in a handshake";
    let report = fixture.event(stops, pool.join()).await?;
    same(stops, StopReason::Intensity, report.reason)?;
    let panics = reported(&fixture, |event| match event {
        Event::ConnectionFailed {
            child,
            failure: Failure::Panic(message),
            ..
        } => Some((*child, message.clone())),
        _ => None,
    });
    same(
        "panics reported",
        vec![(one.child, PANIC.to_owned())],
        panics,
    )
}

/// Fails handshakes in a pool that the first counted failure would stop.
async fn failures(world: &Arc<Handshakes>, reports: ConnectionReports) -> Verdict {
    let fixture = Fixture::new(world);
    let spec = fixture.spec("h4").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec.connection_reports(reports))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut expected = Vec::new();
    for (header, cause, source) in FAILURES {
        let mut one = connect(&fixture, &pool, address).await?;
        let peer = one.client.local_addr();
        match header {
            Some(header) => send(&fixture, &mut one.client, header).await?,
            None => {
                let finished = one.client.finish();
                let finished = fixture
                    .event("the client shuts down its sending direction", finished)
                    .await?;
                let failed =
                    |error: std::io::Error| Broken::new("the client hangs up", error.to_string());
                finished.map_err(failed)?;
            }
        }
        ended_unserved(&fixture, &pool, &mut one).await?;
        let what = format!("the pool runs after a handshake that failed: {cause}");
        same(&what, true, is_running(&pool))?;
        expected.push((one.child, peer, cause, source));
    }
    let (mut client, _) = passes(&fixture, &pool, address).await?;
    fixture.echo(&mut client, "after failures").await?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let seen = reported(&fixture, failed);
    let what = "failed handshakes reported";
    if reports == ConnectionReports::Failures {
        let texts = fixture
            .reports
            .look(|reports| reports.iter().map(ToString::to_string).collect::<Vec<_>>());
        return same(&format!("{what} although not requested"), Vec::new(), texts);
    }
    // The text of system errors varies: only its presence is checked.
    let without_words: Vec<_> = seen
        .iter()
        .map(|(child, peer, cause, _)| (*child, *peer, *cause))
        .collect();
    let in_short = expected
        .iter()
        .map(|(child, peer, cause, _)| (*child, *peer, *cause));
    same(what, in_short.collect(), without_words)?;
    for ((.., cause, source), (.., error)) in expected.iter().zip(&seen) {
        let given = match source {
            Some(source) => error.as_deref() == Some(*source),
            None => error.is_some(),
        };
        same(
            &format!("whether the source of {cause:?} is reported"),
            true,
            given,
        )?;
    }
    Ok(())
}

pub(super) async fn h5_addresses_of_a_handshake(world: Arc<Boxed>) -> Verdict {
    let world = two(&world);
    let fixture = Fixture::new(&world);
    let spec = fixture.spec("h5");
    let pool = fixture.start(spec.connection_reports(ConnectionReports::Disconnects))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let shown = |record: &ConnectionRecord<Address>| {
        let transport = record.transport.as_ref();
        let transport = transport.map(|addrs| (addrs.peer_addr, addrs.local_addr));
        (record.peer_addr, record.local_addr, transport)
    };
    let readdressed = async || {
        let before = fixture.world.events().count();
        let mut one = connect(&fixture, &pool, address).await?;
        let transport = one.client.local_addr();
        let what = "the addresses of a connection before its handshake replaces them";
        let plain = (transport, address, None);
        same(what, plain, shown(&listed(&pool, transport)?))?;
        send(&fixture, &mut one.client, Header::Readdress).await?;
        // The second handshake continues.
        wait_for(&fixture, before, &one.client, Stage::Second, Step::Began).await?;
        Ok::<_, Broken>(one)
    };

    let mut one = readdressed().await?;
    let transport = one.client.local_addr();
    let replaced = (PEER, LOCAL, Some((transport, address)));
    let what = "the addresses in the list, once a handshake has replaced them";
    same(what, replaced, shown(&listed(&pool, transport)?))?;
    send(&fixture, &mut one.client, Header::Pass).await?;
    let by_serve = served(&fixture, one.child).await?;
    let seen_by_serve = by_serve.transport.as_ref();
    let transport_seen = seen_by_serve.map(|addrs| (addrs.peer_addr, addrs.local_addr));
    let seen = (by_serve.peer_addr, by_serve.local_addr, transport_seen);
    same("the addresses in `serve`", replaced, seen)?;
    let what = "the addresses in the list of a connection that is served";
    same(what, replaced, shown(&listed(&pool, transport)?))?;
    fixture
        .echo(&mut one.client, "the stream of the handshake")
        .await?;
    fixture.command(&by_serve, Command::Fail("no more")).await?;
    fixture.ended(&pool, one.child).await?;
    let mut another = readdressed().await?;
    send(&fixture, &mut another.client, Header::Fail).await?;
    ended_unserved(&fixture, &pool, &mut another).await?;
    fixture.event("the pool stops", pool.stop()).await?;
    let peers = reported(&fixture, |event| match event {
        Event::ConnectionFailed { child, peer, .. }
        | Event::HandshakeFailed { child, peer, .. } => Some((*child, *peer)),
        _ => None,
    });
    let expected = vec![(one.child, PEER), (another.child, PEER)];
    same("the peers in the reports", expected, peers)
}

pub(super) async fn h6_handshakes_and_the_stop(world: Arc<Boxed>) -> Verdict {
    in_order(&two(&world)).await?;
    let world = one(&world);
    in_grace(&world).await?;

    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("h6"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let before = fixture.world.events().count();
    let mut one = connect(&fixture, &pool, address).await?;
    let report = fixture.event("the pool stops", pool.stop()).await?;
    fixture.closed(&mut one.client).await?;
    wait_for(&fixture, before, &one.client, Stage::First, Step::Dropped).await?;
    let dropped = report.connections(Phase::Stop).of(EndKind::Stopped);
    same("handshakes that were dropped at the stop phase", 1, dropped)
}

/// The second handshake begins when the first has passed, and `serve` when the second has.
async fn in_order(world: &Arc<Handshakes>) -> Verdict {
    let fixture = Fixture::new(world);
    let pool = fixture.start(fixture.spec("h6"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut one = connect(&fixture, &pool, address).await?;
    let moments = || {
        let moments = |events: &[HandshakeEvent]| {
            events
                .iter()
                .map(|one| (one.which, one.step))
                .collect::<Vec<_>>()
        };
        fixture.world.events().look(moments)
    };
    send(&fixture, &mut one.client, Header::Pass).await?;
    wait_for(&fixture, 0, &one.client, Stage::Second, Step::Began).await?;
    let state = listed(&pool, one.client.local_addr())?.state;
    let what = "a connection in the second of its handshakes";
    same(what, ConnectionState::Handshaking, state)?;
    send(&fixture, &mut one.client, Header::Pass).await?;
    served(&fixture, one.child).await?;
    fixture.echo(&mut one.client, "through both").await?;
    let expected = vec![
        (Stage::First, Step::Began),
        (Stage::First, Step::Passed),
        (Stage::Second, Step::Began),
        (Stage::Second, Step::Passed),
    ];
    same(
        "the handshakes of a connection, in order",
        expected,
        moments(),
    )
}

/// During grace handshakes continue: one passes, one fails.
async fn in_grace(world: &Arc<Handshakes>) -> Verdict {
    let fixture = Fixture::new(world);
    let pool = fixture.start(fixture.spec("h6").grace(Grace::Unlimited))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut passes = connect(&fixture, &pool, address).await?;
    let mut fails = connect(&fixture, &pool, address).await?;
    let stopping = pool.stop();
    // Grace begins when the last listener is closed.
    let grace = || match (pool.status().map(|status| status.phase()), pool.listeners()) {
        (Ok(Some(Phase::Grace)), Ok(open)) if open.is_empty() => Ok(()),
        seen => Err(seen),
    };
    fixture.until("the grace begins", grace).await?;
    for one in [&passes, &fails] {
        let state = listed(&pool, one.client.local_addr())?.state;
        let what = "a connection in its handshake, during grace";
        same(what, ConnectionState::Handshaking, state)?;
    }
    send(&fixture, &mut passes.client, Header::Pass).await?;
    let through = served(&fixture, passes.child).await?;
    let what = "*draining* of a connection whose handshake ended during grace";
    same(what, true, through.lifecycle.draining().is_set())?;
    fixture.echo(&mut passes.client, "during grace").await?;
    send(&fixture, &mut fails.client, Header::Fail).await?;
    ended_unserved(&fixture, &pool, &mut fails).await?;
    fixture.command(&through, Command::Return).await?;
    let report = fixture.event("the pool stops", stopping).await?;
    let ends = report.connections(Phase::Grace);
    let ends = (ends.of(EndKind::Normal), ends.of(EndKind::HandshakeFailed));
    same(
        "connections that ended during grace: normally, failed",
        (1, 1),
        ends,
    )
}
