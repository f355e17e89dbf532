//! Capacity: rules C1 to C7.

use std::collections::VecDeque;
use std::sync::Arc;

use acceptor_core::{
    AcceptorRecord, AcceptorState, AtLimit, ChildError, ConnectionRecord, ConnectionState,
    ListenerId, ListenerRecord, ListenerSettings, ListenerState, Refusal, Stopped,
};

use crate::address::Address;
use crate::boxed::{Boxed, BoxedClient, Erased};
use crate::fixture::{
    Call, Command, Fixture, Handle, InitNow, IoFailure, Location, OnInit, Pool, Served, not_refused,
};
use crate::handshakes::{Handshakes, Header, Step};
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, World};

fn running<T>(result: Result<T, Stopped>) -> Result<T, Broken> {
    result.map_err(|error| Broken::new("the pool runs", error.to_string()))
}

fn changed<E: ToString>(result: Result<(), E>) -> Verdict {
    result.map_err(|error| Broken::new("the limit is changed", error.to_string()))
}

/// Returns the entry of a listener.
fn listed<W: Erased>(pool: &Handle<W>, id: ListenerId) -> Result<ListenerRecord<Address>, Broken> {
    let listed = running(pool.listeners())?;
    let record = listed.iter().find(|one| one.id == id).cloned();
    record.ok_or_else(|| Broken::new("the listener is in the list", format!("{listed:?}")))
}

/// Waits until a limit of a listener is reached and an acceptor waits. In that poll its task takes its place in the turn, and makes
/// no accept call until it gets a slot. A connection that it has just accepted is served first.
async fn full<W: Erased>(fixture: &Fixture<W>, pool: &Handle<W>, id: ListenerId) -> Verdict {
    let look = || {
        let list = pool.listeners().unwrap_or_default();
        let full = |one: &ListenerRecord<_>| one.id == id && one.state == ListenerState::Full;
        let acceptors = pool.acceptors().unwrap_or_default();
        let waits =
            |one: &AcceptorRecord| one.listener == id && one.state == AcceptorState::Waiting;
        match list.iter().any(full) && acceptors.iter().any(waits) {
            true => Ok(()),
            false => Err((list, acceptors)),
        }
    };
    fixture
        .until("the listener is full, and an acceptor waits", look)
        .await
}

/// Waits for the connection that is the `number`th to be served, from 0.
async fn nth_served<W: Erased>(fixture: &Fixture<W>, number: usize) -> Result<Served, Broken> {
    let served = fixture.calls.when(move |calls| {
        let mut served = calls.iter().filter_map(|call| match call {
            Call::Serve(served) => Some(served),
            _ => None,
        });
        served.nth(number).cloned()
    });
    let what = format!("connection {} is served", number + 1);
    fixture.event(&what, served).await
}

async fn connect_all(
    fixture: &Fixture,
    address: Address,
    count: usize,
) -> Result<VecDeque<BoxedClient>, Broken> {
    let mut clients = VecDeque::new();
    for _ in 0..count {
        clients.push_back(fixture.connect_only(address).await?);
    }
    Ok(clients)
}

/// A pool without a limit. Once it has served a client, the runtime has noticed the clients that connected before.
struct Witness {
    fixture: Fixture,
    address: Address,
    _pool: Pool,
}

impl Witness {
    fn start(world: &Arc<Boxed>) -> Result<Self, Broken> {
        let fixture = Fixture::new(world);
        let pool = fixture.start(fixture.spec("witness"))?;
        let (_, address) = fixture.listen(&pool, 1)?;
        Ok(Self {
            fixture,
            address,
            _pool: pool,
        })
    }

    async fn serves(&self) -> Verdict {
        let (mut client, _) = self.fixture.connect(self.address).await?;
        self.fixture.echo(&mut client, "beside").await
    }
}

pub(super) async fn c1_no_accept_exceeds_a_limit(world: Arc<Boxed>) -> Verdict {
    no_limit_by_default(&world).await?;
    pool_stays_within_its_limit(&world).await?;
    listener_stays_within_its_limit(&world).await?;
    handshakes_fill_a_limit(&world).await
}

async fn no_limit_by_default(world: &Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 5;
    let fixture = Fixture::new(world);
    let pool = fixture.start(fixture.plain_spec("c1"))?;
    let (id, address) = fixture.listen(&pool, 1)?;
    let limit = listed(&pool, id)?.max_connections;
    same("the default limit of a listener", None, limit)?;
    let _clients = connect_all(&fixture, address, CLIENTS).await?;
    fixture.counts(&pool, CLIENTS, CLIENTS + 1).await
}

/// More clients than the pool may have connections, on two listeners with more acceptors than that.
async fn pool_stays_within_its_limit(world: &Arc<Boxed>) -> Verdict {
    const LIMIT: usize = 3;
    const CLIENTS: usize = 6;
    let fixture = Fixture::new(world);
    let pool = fixture.start(fixture.spec("c1").max_connections(LIMIT))?;
    let (_, first) = fixture.listen(&pool, LIMIT + 1)?;
    let (_, second) = fixture.listen(&pool, LIMIT + 1)?;
    let _first = connect_all(&fixture, first, CLIENTS).await?;
    let _second = connect_all(&fixture, second, CLIENTS).await?;
    nth_served(&fixture, LIMIT - 1).await?;
    for number in 0..2 * CLIENTS {
        let served = nth_served(&fixture, number).await?;
        fixture.command(&served, Command::Return).await?;
    }
    // Not by the counts of the pool, which are taken from one listener after the other.
    let most = fixture.calls.look(|calls| {
        let (mut open, mut most) = (0_usize, 0);
        for call in calls {
            match call {
                Call::Serve(_) => open += 1,
                Call::ServeEnded { .. } => open -= 1,
                _ => {}
            }
            most = most.max(open);
        }
        most
    });
    same("the most connections at once", LIMIT, most)
}

async fn listener_stays_within_its_limit(world: &Arc<Boxed>) -> Verdict {
    const LIMIT: usize = 2;
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("c1"))?;
    let (_, other) = fixture.listen_in(world, &pool, 1)?;
    let settings = ListenerSettings::new(LIMIT + 1).max_connections(LIMIT);
    let (id, address) = fixture.listen(&pool, settings)?;
    let limit = listed(&pool, id)?.max_connections;
    same("the limit in the list", Some(LIMIT), limit)?;
    let _clients = connect_all(&fixture, address, LIMIT + 2).await?;
    nth_served(&fixture, LIMIT - 1).await?;
    full(&fixture, &pool, id).await?;
    // It does not limit another listener.
    for _ in 0..=LIMIT {
        fixture.connect(other).await?;
    }
    let open = listed(&pool, id)?.connections;
    let seen = (open, all.cost().accepted());
    let what = "connections of the listener, and those that it has accepted";
    same(what, (LIMIT, LIMIT), seen)
}

async fn handshakes_fill_a_limit(world: &Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&Handshakes::one(&all));
    let pool = fixture.start(fixture.spec("c1").max_connections(2))?;
    let (id, address) = fixture.listen(&pool, 3)?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(fixture.connect_only(address).await?);
    }
    full(&fixture, &pool, id).await?;
    let seen = running(pool.counts())?;
    let seen = (seen.connections, seen.handshaking, all.cost().accepted());
    let what = "connections, those in their handshake, and connections accepted";
    same(what, (2, 2, 2), seen)?;
    header(&fixture, &mut clients[0], Header::Pass).await?;
    nth_served(&fixture, 0).await?;
    let seen = running(pool.counts())?;
    let seen = (seen.connections, seen.handshaking, all.cost().accepted());
    same(what, (2, 1, 2), seen)
}

/// Sends a header, which controls the handshake.
async fn header(
    fixture: &Fixture<Handshakes>,
    client: &mut BoxedClient,
    header: Header,
) -> Verdict {
    let what = "the client sends a line";
    let sent = fixture.event(what, client.send(header.line())).await?;
    sent.map_err(|error| Broken::new(what, error.to_string()))
}

pub(super) async fn c2_clients_wait_or_are_refused(world: Arc<Boxed>) -> Verdict {
    clients_wait(&world).await?;
    let farewell = Refusal::farewell("too many connections\r\n");
    // More than a system buffers.
    let long = Refusal::farewell(vec![b'x'; 1 << 23]);
    for (how, whose) in [
        (Refusal::Close, Whose::Pool),
        (Refusal::Reset, Whose::Listener),
        (farewell, Whose::Pool),
        (long, Whose::Listener),
    ] {
        clients_are_refused(&world, how, whose).await?;
    }
    Ok(())
}

async fn clients_wait(world: &Arc<Boxed>) -> Verdict {
    const WAITING: usize = 3;
    let all = Boxed::instrumented(world);
    let witness = Witness::start(world)?;
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("c2").max_connections(1))?;
    let (id, address) = fixture.listen(&pool, 2)?;
    let (_client, mut served) = fixture.connect(address).await?;
    full(&fixture, &pool, id).await?;
    let calls = || {
        let so_far = all.cost().so_far();
        (so_far.calls, so_far.polls)
    };
    let before = calls();
    let _waiting = connect_all(&fixture, address, WAITING).await?;
    witness.serves().await?;
    let what = "calls of `accept` so far, and their polls, while the pool is full";
    same(what, before, calls())?;
    for number in 1..=WAITING {
        fixture.command(&served, Command::Return).await?;
        served = nth_served(&fixture, number).await?;
        full(&fixture, &pool, id).await?;
        let what = format!("calls of `accept` once {number} slots were free");
        same(&what, before.0 + number, calls().0)?;
    }
    let record = listed(&pool, id)?;
    let seen = (record.accepted, record.refused);
    let what = "connections accepted and refused while clients wait";
    same(what, (WAITING as u64 + 1, 0), seen)
}

/// Whose choice it is to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Pool,
    Listener,
}

async fn clients_are_refused(world: &Arc<Boxed>, how: Refusal, whose: Whose) -> Verdict {
    const REFUSED: usize = 3;
    let fixture = Fixture::new(world);
    // No acceptor waits while clients are refused.
    fixture.on_init([OnInit::Accept], OnInit::Deferred);
    let at_limit = AtLimit::Refuse(how.clone());
    let (spec, settings) = (
        fixture.spec("c2").max_connections(1),
        ListenerSettings::new(1),
    );
    let (spec, settings) = match whose {
        Whose::Pool => (spec.at_limit(at_limit), settings),
        Whose::Listener => (spec, settings.at_limit(at_limit)),
    };
    let pool = fixture.start(spec)?;
    let (id, address) = fixture.listen(&pool, settings)?;
    let (mut within, served) = fixture.connect(address).await?;
    fixture.inits_begun(2).await?;
    for _ in 0..REFUSED {
        is_refused(&fixture, address, &how).await?;
    }
    let record = listed(&pool, id)?;
    let seen = (record.refused, record.accepted, record.connections);
    let what = "connections refused, accepted and open";
    same(what, (REFUSED as u64, 1, 1), seen)?;
    fixture.echo(&mut within, "undisturbed").await?;
    // Its slot is free when the call returns, and a client is no longer refused.
    fixture.decide(OnInit::Accept);
    fixture.waiting(&pool, 1).await?;
    served.lifecycle.release_slot();
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "within").await
}

/// Connects a client and waits until its connection is closed. A listener may leave out the farewell.
async fn is_refused(fixture: &Fixture, address: Address, how: &Refusal) -> Verdict {
    const MOST: usize = 100;
    let what = "a client connects, or is refused";
    let connected = fixture.event(what, fixture.world.connect(address)).await?;
    // The system may tell the client of a reset before it has told it of the connection.
    let Some(mut client) = not_refused(what, connected)? else {
        return Ok(());
    };
    let farewell: &[u8] = match how {
        Refusal::Farewell(bytes) => bytes,
        _ => &[],
    };
    let mut received = Vec::new();
    while farewell.len() <= MOST && received.len() <= MOST {
        let what = "the connection of a refused client is closed";
        match fixture.event(what, client.receive(1)).await? {
            Ok(byte) => received.extend(byte),
            Err(_) => break,
        }
    }
    let nothing_or_farewell = received.is_empty() || received == farewell;
    let text = String::from_utf8_lossy(&received);
    let what = format!("a refused client receives nothing, or the farewell: {text:?}");
    same(&what, true, nothing_or_farewell)?;
    fixture.closed(&mut client).await.map(drop)
}

pub(super) async fn c3_free_slots_go_in_turn(world: Arc<Boxed>) -> Verdict {
    waiting_listeners_are_served_in_turn(&world).await?;
    slot_without_a_client_is_passed_on(&world).await
}

/// A listener, and the instruments that count its calls of `accept`.
struct Counted {
    world: Arc<Boxed>,
    id: ListenerId,
    address: Address,
}

/// Adds listeners to a full pool, which wait for a slot in this order.
async fn wait_in_turn<const COUNT: usize>(
    world: &Arc<Boxed>,
    fixture: &Fixture,
    pool: &Handle,
) -> Result<[Counted; COUNT], Broken> {
    let mut listeners = Vec::new();
    for _ in 0..COUNT {
        let counted = Boxed::instrumented(world);
        let (id, address) = fixture.listen_in(&counted, pool, 1)?;
        full(fixture, pool, id).await?;
        listeners.push(Counted {
            world: counted,
            id,
            address,
        });
    }
    let listeners: Result<[Counted; COUNT], _> = listeners.try_into();
    listeners.map_err(|_| Broken::new("as many listeners as were added", "another number"))
}

fn calls(listeners: &[Counted]) -> Vec<usize> {
    let calls = |one: &Counted| one.world.cost().so_far().calls;
    listeners.iter().map(calls).collect()
}

async fn waiting_listeners_are_served_in_turn(world: &Arc<Boxed>) -> Verdict {
    const ROUNDS: usize = 3;
    let witness = Witness::start(world)?;
    let fixture = Fixture::new(world);
    // An acceptor always waits, so that a listener takes its place in the turn at once.
    fixture.init_now(InitNow::State);
    let pool = fixture.start(fixture.spec("c3").max_connections(1))?;
    let (first, address) = fixture.listen(&pool, 1)?;
    let (_client, mut served) = fixture.connect(address).await?;
    full(&fixture, &pool, first).await?;
    let listeners = wait_in_turn::<3>(world, &fixture, &pool).await?;
    let mut clients = Vec::new();
    for one in &listeners {
        clients.push(connect_all(&fixture, one.address, ROUNDS).await?);
    }
    // A runtime may find no client in the queue before it has been told of one.
    witness.serves().await?;
    let mut expected = vec![0; listeners.len()];
    same(
        "calls of `accept` while the pool is full",
        expected.clone(),
        calls(&listeners),
    )?;
    for round in 0..ROUNDS {
        for (at, one) in listeners.iter().enumerate() {
            fixture.command(&served, Command::Return).await?;
            served = nth_served(&fixture, 1 + round * listeners.len() + at).await?;
            let what = "the free slot goes to the next listener in turn";
            same(what, one.id, served.listener)?;
            full(&fixture, &pool, one.id).await?;
            expected[at] += 1;
            let what = format!("{what}: calls of `accept` of each");
            same(&what, expected.clone(), calls(&listeners))?;
        }
    }
    Ok(())
}

async fn slot_without_a_client_is_passed_on(world: &Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(world);
    fixture.init_now(InitNow::State);
    let pool = fixture.start(fixture.spec("c3").max_connections(1))?;
    let (first, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    full(&fixture, &pool, first).await?;
    let listeners = wait_in_turn::<4>(world, &fixture, &pool).await?;
    fixture.command(&served, Command::Return).await?;
    let accepting = || match pool.listeners() {
        Ok(list) if list.iter().all(|one| one.state == ListenerState::Accepting) => Ok(()),
        seen => Err(seen),
    };
    let what = "each listener that waited for the slot accepts";
    fixture.until(what, accepting).await?;
    let waits = || match listeners.iter().all(|one| one.world.cost().waits()) {
        true => Ok(()),
        false => Err(calls(&listeners)),
    };
    fixture
        .until("each of them waits in `accept`", waits)
        .await?;
    let what = "calls of `accept` of each listener that waited";
    same(what, vec![1; listeners.len()], calls(&listeners))?;
    // None of them has kept the slot.
    for one in &listeners {
        let (client, served) = fixture.connect(one.address).await?;
        client.close().await;
        fixture.ended(&pool, served.child).await?;
    }
    Ok(())
}

pub(super) async fn c4_waiting_acceptor_holds_no_slot(world: Arc<Boxed>) -> Verdict {
    const IDLE: usize = 3;
    const ACCEPTORS: usize = 5;
    const LIMIT: usize = 2;
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("c4").max_connections(LIMIT))?;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(fixture.listen(&pool, ACCEPTORS)?);
    }
    let (busy, address) = fixture.listen(&pool, ACCEPTORS)?;
    let acceptors = (IDLE + 1) * ACCEPTORS;
    for (idle, idle_address) in idle {
        fixture.waiting(&pool, acceptors).await?;
        // The busy listener gets all slots.
        let mut open = Vec::new();
        for _ in 0..LIMIT {
            open.push(fixture.connect(address).await?);
        }
        full(&fixture, &pool, busy).await?;
        let seen = (
            listed(&pool, busy)?.connections,
            listed(&pool, idle)?.connections,
        );
        let what = "connections of the busy listener and of an idle one";
        same(what, (LIMIT, 0), seen)?;
        // The idle one waits for a slot, and is idle again after one connection.
        let late = fixture.connect_only(idle_address).await?;
        full(&fixture, &pool, idle).await?;
        let before = fixture.calls.count();
        for (_, served) in &open {
            fixture.command(served, Command::Return).await?;
        }
        let peer = late.local_addr();
        let served = fixture.calls.when(move |calls| {
            calls[before..].iter().find_map(|call| match call {
                Call::Serve(served) if served.peer_addr == peer => Some(served.clone()),
                _ => None,
            })
        });
        let what = "the client of the idle listener is served once a slot is free";
        fixture.event(what, served).await?;
        late.close().await;
        fixture.counts(&pool, 0, acceptors).await?;
    }
    Ok(())
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Command(Command),
    /// Its client closes it.
    Closed,
    /// Its client resets it, and `serve` returns the error.
    Reset,
    Killed,
    Stopped,
    /// The runtime drops its task.
    Lost,
    /// `serve` returns, and a guard is dropped later.
    LastGuard,
}

const ENDS: [End; 11] = [
    End::Command(Command::Return),
    End::Command(Command::ExitCleanly),
    End::Command(Command::Fail("scripted")),
    End::Command(Command::Unwind("scripted")),
    End::Command(Command::FailWith(IoFailure {
        kind: std::io::ErrorKind::ConnectionReset,
        location: Location::Itself,
    })),
    End::Closed,
    End::Reset,
    End::Killed,
    End::Stopped,
    End::Lost,
    End::LastGuard,
];

pub(super) async fn c5_slot_comes_back_once(world: Arc<Boxed>) -> Verdict {
    every_end_frees_one_slot(&world).await?;
    failed_handshake_frees_a_slot(&world).await
}

/// Two or more clients wait all the time, so that a second slot would be taken at once.
async fn every_end_frees_one_slot(world: &Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("c5").max_connections(1))?;
    let settings = ListenerSettings::new(2).max_connections(1);
    let (id, address) = fixture.listen(&pool, settings)?;
    let mut clients = connect_all(&fixture, address, 3).await?;
    let mut after = "nothing".to_owned();
    for number in 0..=ENDS.len() {
        let served = nth_served(&fixture, number).await?;
        full(&fixture, &pool, id).await?;
        let seen = (running(pool.counts())?.connections, all.cost().accepted());
        let what = format!("connections open, and accepted so far, after {after}");
        same(&what, (1, number + 1), seen)?;
        let Some(end) = ENDS.get(number) else { break };
        clients.push_back(fixture.connect_only(address).await?);
        let its = clients
            .iter()
            .position(|one| one.local_addr() == served.peer_addr);
        let client = its.and_then(|at| clients.remove(at));
        let client = client.ok_or_else(|| {
            Broken::new(
                "a client that waits is served",
                format!("one at {}", served.peer_addr),
            )
        })?;
        ends(&all, &fixture, &pool, (client, &served), *end).await?;
        after = format!("{end:?}");
    }
    Ok(())
}

/// Ends a connection.
async fn ends(
    all: &Arc<Boxed>,
    fixture: &Fixture,
    pool: &Handle,
    (client, served): (BoxedClient, &Served),
    end: End,
) -> Verdict {
    let known = |result: Result<(), ChildError>| {
        result.map_err(|error| Broken::new("the connection is known", error.to_string()))
    };
    match end {
        End::Command(command) => fixture.command(served, command).await?,
        End::Closed => client.close().await,
        End::Reset => {
            fixture.command(served, Command::FailWithStream).await?;
            client.reset().await;
        }
        End::Killed => known(pool.kill_child(served.child))?,
        End::Stopped => known(pool.stop_child(served.child))?,
        End::Lost => {
            let task = served.task.ok_or_else(|| {
                Broken::new("`serve` runs on a task of the runtime", "it runs elsewhere")
            })?;
            all.drop_task(task);
        }
        End::LastGuard => {
            let accepted = all.cost().accepted();
            let guard = served.lifecycle.guard();
            fixture.command(served, Command::Return).await?;
            let guarded = || match pool.connections() {
                Ok(list) if list.iter().any(|one| one.state == ConnectionState::Guarded) => Ok(()),
                seen => Err(seen),
            };
            fixture
                .until("the connection is listed as guarded", guarded)
                .await?;
            let what = "connections accepted while a guard is held";
            same(what, accepted, all.cost().accepted())?;
            drop(guard);
        }
    }
    fixture.ended(pool, served.child).await
}

async fn failed_handshake_frees_a_slot(world: &Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&Handshakes::one(&all));
    let pool = fixture.start(fixture.spec("c5").max_connections(1))?;
    let (id, address) = fixture.listen(&pool, 2)?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(fixture.connect_only(address).await?);
    }
    for (number, client) in clients.iter_mut().enumerate().take(2) {
        let began = fixture.world.events().when(move |all| {
            let began = all.iter().filter(|event| event.step == Step::Began);
            (began.count() > number).then_some(())
        });
        let what = format!("handshake {} begins", number + 1);
        fixture.event(&what, began).await?;
        full(&fixture, &pool, id).await?;
        let seen = (running(pool.counts())?.connections, all.cost().accepted());
        let what = format!("connections open, and accepted so far, after {number} handshakes");
        same(&what, (1, number + 1), seen)?;
        let then = [Header::Fail, Header::Pass][number];
        header(&fixture, client, then).await?;
    }
    nth_served(&fixture, 0).await.map(drop)
}

pub(super) async fn c6_limits_change_at_runtime(world: Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 6;
    let all = Boxed::instrumented(&world);
    let witness = Witness::start(&world)?;
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("c6").max_connections(1))?;
    let (id, address) = fixture.listen(&pool, CLIENTS)?;
    let mut clients = connect_all(&fixture, address, CLIENTS).await?;
    let accepts = async |count: usize| {
        nth_served(&fixture, count - 1).await?;
        if count < CLIENTS {
            full(&fixture, &pool, id).await?;
        }
        same("connections accepted", count, all.cost().accepted())
    };
    accepts(1).await?;
    changed(pool.set_max_connections(3))?;
    accepts(3).await?;

    changed(pool.set_max_connections(1))?;
    witness.serves().await?;
    let open = running(pool.counts())?.connections;
    same("connections once the limit is lower", 3, open)?;
    for client in clients.iter_mut().take(3) {
        fixture.echo(client, "still there").await?;
    }
    for number in 0..2 {
        let served = nth_served(&fixture, number).await?;
        fixture.command(&served, Command::Return).await?;
        fixture.ended(&pool, served.child).await?;
        witness.serves().await?;
        let what = "connections accepted while as many as the limit are left";
        same(what, 3, all.cost().accepted())?;
    }
    let served = nth_served(&fixture, 2).await?;
    fixture.command(&served, Command::Return).await?;
    accepts(4).await?;

    changed(pool.set_listener_max_connections(id, 2))?;
    let limit = listed(&pool, id)?.max_connections;
    same("the limit of the listener in the list", Some(2), limit)?;
    changed(pool.set_max_connections(None))?;
    accepts(5).await?;
    changed(pool.set_listener_max_connections(id, None))?;
    let limit = listed(&pool, id)?.max_connections;
    same("the limit of the listener once it has none", None, limit)?;
    accepts(6).await
}

/// Returns the connections in the list that hold a slot, and those that do not.
fn by_slot(pool: &Handle) -> Result<(Vec<Address>, Vec<Address>), Broken> {
    let list = running(pool.connections())?;
    let (with, without): (Vec<_>, Vec<_>) = list.iter().partition(|one| one.holds_slot);
    let peers = |list: Vec<&ConnectionRecord<Address>>| {
        let mut peers: Vec<_> = list.iter().map(|one| one.peer_addr).collect();
        peers.sort_unstable();
        peers
    };
    Ok((peers(with), peers(without)))
}

pub(super) async fn c7_slot_can_be_given_back(world: Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 6;
    let all = Boxed::instrumented(&world);
    let witness = Witness::start(&world)?;
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("c7").max_connections(1))?;
    let settings = ListenerSettings::new(2).max_connections(1);
    let (id, address) = fixture.listen(&pool, settings)?;
    let mut clients = connect_all(&fixture, address, CLIENTS).await?;
    // Checks which connections are open, and which of them holds the slot.
    let open = async |accepted: usize, without: &[&Served]| {
        let last = nth_served(&fixture, accepted - 1).await?;
        full(&fixture, &pool, id).await?;
        let mut peers: Vec<_> = without.iter().map(|one| one.peer_addr).collect();
        peers.sort_unstable();
        let what = "connections in the list that hold a slot, and those that do not";
        same(what, (vec![last.peer_addr], peers), by_slot(&pool)?)?;
        let record = listed(&pool, id)?;
        let connections = running(pool.counts())?.connections;
        let seen = (connections, record.connections, record.accepted);
        let what = "connections of the pool and of the listener, and those accepted";
        let expected = (without.len() + 1, without.len() + 1, accepted as u64);
        same(what, expected, seen)?;
        Ok::<_, Broken>(last)
    };
    let first = open(1, &[]).await?;
    first.lifecycle.release_slot();
    let second = open(2, &[&first]).await?;
    // A second time.
    first.lifecycle.release_slot();
    witness.serves().await?;
    open(2, &[&first]).await?;
    second.lifecycle.release_slot();
    let third = open(3, &[&first, &second]).await?;
    for client in clients.iter_mut().take(2) {
        fixture.echo(client, "still served").await?;
    }

    // Its end frees no slot, and neither does a call after that. It is still supervised.
    let killed = pool.kill_child(first.child);
    killed.map_err(|error| Broken::new("the connection is killed", error.to_string()))?;
    fixture.ended(&pool, first.child).await?;
    first.lifecycle.release_slot();
    fixture.command(&second, Command::Return).await?;
    fixture.ended(&pool, second.child).await?;
    witness.serves().await?;
    open(3, &[]).await?;
    fixture.command(&third, Command::Return).await?;
    let fourth = open(4, &[]).await?;
    third.lifecycle.release_slot();
    witness.serves().await?;
    open(4, &[]).await?;
    fourth.lifecycle.release_slot();
    open(5, &[&fourth]).await.map(drop)
}
