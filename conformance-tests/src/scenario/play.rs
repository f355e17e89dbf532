//! Plays a scenario: takes its steps in a simulated world, and holds the pool against the model after each poll and each call.
//!
//! Invariants: the model is told of a call before it sees what came of it; the
//! clock moves only when nothing is ready; what happens depends on nothing but
//! the scenario.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{
    AddListenerReason, ChildError, ChildId, CloseError, Configure, ListenerId, Pool, PoolState,
    ReconfigureError, Runtime, Spec, StopReason,
};

use super::book::{Book, Handle};
use super::cast::{Audience, Cast};
use super::event::{Event, Moment};
use super::model::{Breach, Killed, Model, Peer, Polls, Seen, SocketState, Tasks, breach, same};
use super::{
    Action, Bound, Fault, Finale, Reload, Scenario, SpecSetting, Start, Step, Then, milliseconds,
};
use crate::simulated::{
    AcceptFault, Happened, Limits, Network, SimulatedClient, SimulatedListener, SimulatedRuntime,
    SimulatedTask, Simulation, Spurious, Stage, Statistics,
};

/// What was exercised by a scenario that went as it should.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Played {
    /// Steps that were taken.
    pub steps: u64,
    /// Pools that were started.
    pub pools: u64,
    /// Events, by their sort.
    pub exercised: BTreeMap<&'static str, u64>,
    /// What the runtime did.
    pub statistics: Statistics,
    /// How much time passed by the world's clock.
    pub virtual_time: Duration,
}

/// How a scenario went otherwise than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The step after which it was seen, from 0; as many as there are steps: the finale.
    pub step: usize,
    /// The rule of the contract that is nearest to what is broken.
    pub rule: &'static str,
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is broken, step {}\nexpected: {}\nseen:     {}",
            self.rule, self.step, self.expected, self.seen
        )
    }
}

/// Plays a scenario.
///
/// # Errors
///
/// [`Failure`] if something goes otherwise than it should.
pub fn play(scenario: &Scenario) -> Result<Played, Box<Failure>> {
    Player::new(scenario, None).play().1
}

/// Plays a scenario and tells everything that was seen on the way, also when it fails.
pub fn tell(scenario: &Scenario) -> (Vec<Moment>, Result<Played, Box<Failure>>) {
    Player::new(scenario, Some(Vec::new())).play()
}

/// So many polls without the clock moving are a busy loop.
const RESTLESS: u32 = 20_000;

/// So many steps are taken with a pool that has stopped, before the next one is started.
const AFTERMATH: u32 = 4;

struct Player<'a> {
    scenario: &'a Scenario,
    simulation: Simulation,
    network: Network,
    clients: Vec<Caller>,
    life: Option<Life>,
    moments: Option<Vec<Moment>>,
    played: Played,
    /// Taken from the book, and not yet seen by the model.
    events: Vec<Event>,
}

/// A client, and whom it called.
struct Caller {
    client: SimulatedClient,
    listener: SocketAddr,
}

/// One pool, from its start until nothing is left of it.
struct Life {
    book: Arc<Book>,
    model: Model,
    owner: Option<Pool<SimulatedRuntime, SimulatedListener>>,
    handle: Handle,
    state: PoolState,
    /// The pool's own task.
    driver: Option<SimulatedTask>,
    generations: u32,
    polls: Polls,
    aftermath: u32,
}

/// What `add_listener` refuses is given back.
type Refused = acceptor_core::AddListenerError<SimulatedListener>;

impl<'a> Player<'a> {
    fn new(scenario: &'a Scenario, moments: Option<Vec<Moment>>) -> Self {
        let spurious = match scenario.setting.spurious {
            0 => Spurious::Never,
            many => Spurious::OneIn(many.into()),
        };
        let simulation = Simulation::new(scenario.seed, spurious);
        let limits = Limits {
            backlog: scenario.setting.backlog.max(1).into(),
            buffer: scenario.setting.buffer.max(1).into(),
        };
        let network = Network::new(&simulation, limits);
        Self {
            scenario,
            simulation,
            network,
            clients: Vec::new(),
            life: None,
            moments,
            played: Played::default(),
            events: Vec::new(),
        }
    }

    fn play(mut self) -> (Vec<Moment>, Result<Played, Box<Failure>>) {
        let mut step = 0;
        let result = self.steps(&mut step);
        // Tasks hold the simulation, and it holds them.
        self.network.dismiss_witness();
        if let Some(life) = self.life.take() {
            life.book.set_handle(None);
        }
        self.clients.clear();
        self.simulation.close();
        self.played.statistics = self.simulation.statistics();
        self.played.virtual_time = self.simulation.elapsed();
        let result = result.map(|()| self.played).map_err(|breach| {
            Box::new(Failure {
                step,
                rule: breach.rule,
                expected: breach.expected,
                seen: breach.seen,
            })
        });
        (self.moments.unwrap_or_default(), result)
    }

    fn steps(&mut self, number: &mut usize) -> Seen {
        for (index, step) in self.scenario.steps.iter().enumerate() {
            *number = index;
            self.ensure_life()?;
            self.note(Event::Step(index, *step));
            self.simulation.reseed(step.schedule.into());
            self.act(step)?;
            self.go_on(step.then)?;
            self.look()?;
            self.played.steps += 1;
        }
        *number = self.scenario.steps.len();
        self.note(Event::Finale);
        self.finale()
    }

    /// Keeps an event that is not from the book.
    fn note(&mut self, event: Event) {
        *self.played.exercised.entry(event.sort()).or_default() += 1;
        if let Some(moments) = &mut self.moments {
            let at = self.simulation.elapsed();
            moments.push(Moment { at, event });
        }
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("a life begins before each step")
    }

    fn ensure_life(&mut self) -> Seen {
        if let Some(life) = &mut self.life {
            if life.state != PoolState::Stopped {
                return Ok(());
            }
            life.aftermath += 1;
            if life.aftermath <= AFTERMATH {
                return Ok(());
            }
            self.bury()?;
        }
        let spec = self.scenario.setting.spec;
        let book = Book::new(self.scenario.seed, &self.simulation, &self.network);
        let told = Arc::downgrade(&book);
        self.network.witness(move |happened| {
            if let Some(book) = told.upgrade() {
                if let Happened::Closed { listener } = happened {
                    book.closes(listener);
                }
                book.push(Event::Network(happened));
            }
        });
        self.played.pools += 1;
        self.note(Event::Started(self.played.pools as usize, spec));
        let owner = start(
            self.scenario.setting.start,
            &book,
            self.simulation.runtime(),
            spec,
        )?;
        let handle = owner.handle();
        book.set_handle(Some(owner.handle()));
        let tasks = self.simulation.tasks_of(&["Contained"]);
        self.life = Some(Life {
            book,
            model: Model::new(spec, 1, self.simulation.now()),
            owner: Some(owner),
            handle,
            state: PoolState::Running,
            driver: tasks.first().map(|(task, _)| *task),
            generations: 1,
            polls: Polls::All,
            aftermath: 0,
        });
        self.add_listener(1, Bound::Loopback)?;
        self.settle()
    }

    /// Sees what came of one poll, or one call, of which the model was told.
    fn see(&mut self) -> Seen {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        life.book.take(&mut events);
        let accepted = |event: &Event| matches!(event, Event::Network(Happened::Accepted { .. }));
        let connections = match events.iter().any(accepted) {
            true => life.handle.connections().unwrap_or_default(),
            false => Vec::new(),
        };
        let seen = life.model.see(&events, &connections);
        for event in &events {
            *self.played.exercised.entry(event.sort()).or_default() += 1;
        }
        if let Some(moments) = &mut self.moments {
            let at = self.simulation.elapsed();
            moments.extend(events.iter().map(|event| Moment {
                at,
                event: event.clone(),
            }));
        }
        self.events = events;
        seen?;
        if let Some((rule, expected, seen)) = life.book.broken() {
            return breach(rule, expected, seen);
        }
        self.observe()
    }

    /// Tells the model that a poll or a call begins now.
    fn begin(&mut self, tasks: Tasks) {
        let now = self.simulation.now();
        if let Some(life) = &mut self.life {
            life.model.begin(now, tasks);
        }
    }

    /// Holds state and counts against the model; cheap enough for every poll.
    fn observe(&mut self) -> Seen {
        let open = self.network.open_streams();
        let life = self.life();
        let state = match life.handle.counts() {
            Err(_) => PoolState::Stopped,
            Ok(counts) => {
                same("Q3", "active, as many as streams", open, counts.active)?;
                match life.model.state() {
                    PoolState::Running => PoolState::Running,
                    _ => life
                        .handle
                        .status()
                        .map_or(PoolState::Stopped, |status| status.state),
                }
            }
        };
        life.model.observe(state)?;
        if state != life.state {
            life.state = state;
            self.note(Event::State(state));
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<()>, Breach> {
        self.begin(Tasks::Run);
        if self.simulation.poll_next().is_none() {
            return Ok(None);
        }
        self.see()?;
        Ok(Some(()))
    }

    /// Polls until nothing is ready; then whatever was to happen has happened.
    fn settle(&mut self) -> Seen {
        let mut polls = 0;
        while self.poll()?.is_some() {
            polls += 1;
            if polls >= RESTLESS {
                let busy = self.simulation.settle(1);
                let who = busy.err().map(|restless| restless.last);
                let who: Vec<_> = who.iter().flatten().map(ToString::to_string).collect();
                let expected = format!("the tasks come to rest within {RESTLESS} polls");
                return breach("B3", expected, who.join("; "));
            }
        }
        let network = self.network.clone();
        let life = self.life();
        let counts = life.handle.counts().ok();
        life.model
            .rests(counts, life.polls, |address| network.backlog(address))?;
        life.model.closes_returned()?;
        if life.polls == Polls::All {
            if let Some((rule, child)) = life.book.waits_in_vain() {
                let expected = format!("{child} is told, for the signal that it waits for is set");
                return breach(rule, expected, "it waits");
            }
        }
        self.clients_are_served()
    }

    fn clients_are_served(&mut self) -> Seen {
        let Some(life) = &self.life else {
            return Ok(());
        };
        for caller in &self.clients {
            let peer = caller.client.address();
            let Some(known) = life.model.peer(peer) else {
                // Of an earlier pool.
                continue;
            };
            let open = life
                .model
                .listeners
                .iter()
                .find(|listening| listening.address == caller.listener)
                .is_some_and(|listening| listening.socket == SocketState::Open);
            let fits = match caller.client.stage() {
                Stage::Accepted => known != Peer::Waits(caller.listener),
                Stage::Queued | Stage::Knocking => known == Peer::Waits(caller.listener) && open,
                Stage::Abandoned => known == Peer::Waits(caller.listener) && !open,
            };
            if !fits {
                let stage = caller.client.stage();
                let seen = format!("{known:?}, {stage:?}, its listener open: {open}");
                return breach(
                    "L2",
                    format!("{peer} is served, or waits, or its listener closed"),
                    seen,
                );
            }
        }
        Ok(())
    }

    fn go_on(&mut self, then: Then) -> Seen {
        match then {
            Then::Polls(polls) => {
                for _ in 0..polls {
                    if self.poll()?.is_none() {
                        break;
                    }
                }
                Ok(())
            }
            Then::Settle => self.settle(),
            Then::Pass(time) => self.pass(milliseconds(time)),
            Then::Jump(time) => {
                self.settle()?;
                let to = self.simulation.now() + milliseconds(time);
                self.simulation.advance_to(to);
                self.settle()
            }
        }
    }

    fn pass(&mut self, time: Duration) -> Seen {
        let until = self.simulation.now() + time;
        loop {
            self.settle()?;
            match self.simulation.next_timer().filter(|at| *at <= until) {
                Some(at) => self.simulation.advance_to(at),
                None => {
                    self.simulation.advance_to(until);
                    return self.settle();
                }
            }
        }
    }

    /// Holds all that the pool shows against the model.
    fn look(&mut self) -> Seen {
        self.begin(Tasks::Run);
        let life = self.life();
        match life.handle.status() {
            Ok(status) => {
                life.model.observe(status.state)?;
                life.model.shows(&status)?;
            }
            Err(_) => life.model.observe(PoolState::Stopped)?,
        }
        let signals = life.book.signals();
        life.model.signals(&signals)?;
        let closed = life.book.closed();
        life.model.sees_closed(&closed)
    }

    /// Calls the pool, of which the model is told by `told` first.
    fn call<T>(
        &mut self,
        told: impl FnOnce(&mut Model),
        call: impl FnOnce(&Handle) -> T,
    ) -> Result<T, Breach> {
        self.begin(Tasks::Run);
        let life = self.life();
        told(&mut life.model);
        let result = call(&life.handle);
        self.see()?;
        Ok(result)
    }

    fn act(&mut self, step: &Step) -> Seen {
        match step.action {
            Action::Wait => Ok(()),
            Action::Listen { acceptors, bound } => {
                self.add_listener(acceptors.max(1).into(), bound)
            }
            Action::ListenBadly => self.add_listener_badly(),
            Action::Close(which) => self.close(which),
            Action::Break(which) => {
                if let Some(address) = self.open_listener(which) {
                    self.network.kill_listener(address, ErrorKind::InvalidInput);
                }
                Ok(())
            }
            Action::Fault {
                listener,
                fault,
                times,
            } => {
                if let Some(address) = self.open_listener(listener) {
                    for _ in 0..times {
                        self.network.inject(address, fault.injected());
                    }
                }
                Ok(())
            }
            Action::Stir(which) => {
                if let Some(address) = self.open_listener(which) {
                    self.network.stir(address);
                }
                Ok(())
            }
            Action::Connect { listener, clients } => {
                for _ in 0..clients {
                    self.connect(listener);
                }
                Ok(())
            }
            Action::Order { client, order } => {
                if let Some(caller) = self.caller(client) {
                    // No room is as good as a lost byte: neither says anything of the pool.
                    let _ = self.clients[caller].client.try_send(&[order.byte()]);
                }
                Ok(())
            }
            Action::Read(client) => {
                if let Some(caller) = self.caller(client) {
                    let _ = self.clients[caller].client.try_receive(&mut [0; 512]);
                }
                Ok(())
            }
            Action::HalfClose(client) => {
                if let Some(caller) = self.caller(client) {
                    self.clients[caller].client.half_close();
                }
                Ok(())
            }
            Action::Leave(client) => {
                if let Some(caller) = self.caller(client) {
                    drop(self.clients.swap_remove(caller));
                }
                Ok(())
            }
            Action::Reset(client) => {
                if let Some(caller) = self.caller(client) {
                    self.clients.swap_remove(caller).client.abort();
                }
                Ok(())
            }
            Action::StopConnection(which) => {
                let ids = self.life().model.connection_ids();
                self.tell(pick(&ids, which), Killed::No)
            }
            Action::KillConnection(which) => {
                let ids = self.life().model.connection_ids();
                self.tell(pick(&ids, which), Killed::Yes)
            }
            Action::StopAcceptor(which) => {
                let ids = self.life().model.acceptor_ids();
                self.tell(pick(&ids, which), Killed::No)
            }
            Action::KillAcceptor(which) => {
                let ids = self.life().model.acceptor_ids();
                self.tell(pick(&ids, which), Killed::Yes)
            }
            Action::StopUnknown => self.tell_unknown(step.schedule),
            Action::Reconfigure(spec) => self.reconfigure(spec),
            Action::ReconfigureBadly => self.reconfigure_badly(),
            Action::Reload(reload) => self.reload(reload),
            Action::Stop => {
                self.call(
                    |model| model.stops(StopReason::Requested),
                    |handle| {
                        drop(handle.stop());
                    },
                )?;
                self.wait_for_result()
            }
            Action::Kill => self.call(
                |model| model.kills(StopReason::Requested),
                |handle| {
                    drop(handle.kill());
                },
            ),
            Action::Join => self.wait_for_result(),
            Action::DropOwner => self.drop_owner(),
            Action::Weather(weather) => {
                self.life().book.set_weather(weather);
                Ok(())
            }
            Action::DropTask(which) => self.drop_task(which),
            Action::HoldTask(which) => {
                let tasks = self.simulation.tasks_of(&["ChildTask"]);
                if let Some((task, _)) = pick(&tasks, which) {
                    self.life().polls = Polls::Some;
                    self.simulation.hold(task);
                }
                Ok(())
            }
            Action::ReleaseTasks => {
                self.release_tasks();
                Ok(())
            }
        }
    }

    fn release_tasks(&mut self) {
        for (task, _) in self.simulation.tasks_of(&["ChildTask"]) {
            self.simulation.release(task);
        }
        if let Some(life) = &mut self.life {
            life.polls = Polls::All;
        }
    }

    /// A listener of the model's that is open, counted round.
    fn open_number(&mut self, which: u8) -> Option<usize> {
        let model = &self.life().model;
        let open: Vec<_> = (0..model.listeners.len())
            .filter(|number| model.open(*number))
            .collect();
        pick(&open, which)
    }

    fn open_listener(&mut self, which: u8) -> Option<SocketAddr> {
        let number = self.open_number(which)?;
        Some(self.life().model.listeners[number].address)
    }

    fn caller(&self, which: u8) -> Option<usize> {
        let count = self.clients.len();
        (count > 0).then(|| usize::from(which) % count)
    }

    fn bind(&self, bound: Bound) -> Result<(SimulatedListener, SocketAddr), Breach> {
        let ip = match bound {
            Bound::Loopback => Ipv4Addr::LOCALHOST,
            Bound::Wildcard => Ipv4Addr::UNSPECIFIED,
        };
        let bound = self.network.listen(SocketAddr::from((ip, 0)));
        let listener = bound.or_else(|error| breach("K1", "port 0 is free", error.to_string()))?;
        let address = acceptor_core::Listener::local_addr(&listener);
        let address = address.or_else(|error| breach("K1", "an address", error.to_string()))?;
        Ok((listener, address))
    }

    fn add_listener(&mut self, acceptors: usize, bound: Bound) -> Seen {
        let (listener, address) = self.bind(bound)?;
        self.begin(Tasks::Run);
        let life = self.life();
        let expected = life.model.state();
        // Before its acceptors are seen the listener has to be known: they begin in tasks of their own.
        let added = life.handle.add_listener(listener, acceptors);
        match (added, expected) {
            (Ok(id), PoolState::Running) => {
                life.model.listens(id, address, acceptors);
                self.note(Event::Listening {
                    listener: id,
                    address,
                    bound,
                    acceptors,
                });
            }
            (Ok(id), state) => {
                let expected = format!("no listener is added while the pool is {state}");
                return breach("V2", expected, format!("listener {id} is"));
            }
            (Err(error), state) => refused(error, state)?,
        }
        self.see()
    }

    fn add_listener_badly(&mut self) -> Seen {
        let (listener, _) = self.bind(Bound::Loopback)?;
        self.begin(Tasks::Run);
        let added = self.life().handle.add_listener(listener, 0);
        match added {
            Err(Refused {
                reason: AddListenerReason::Acceptors { value: 0 },
                ..
            }) => {}
            other => {
                let seen = other.map_err(|error| error.to_string());
                return breach("V2", "0 acceptors are an error", format!("{seen:?}"));
            }
        }
        self.see()
    }

    fn close(&mut self, which: u8) -> Seen {
        let Some(number) = self.open_number(which) else {
            return self.close_unknown(which);
        };
        let id = self.life().model.listeners[number].id;
        let closing = self.call(
            |model| {
                model.close_by_hand(number);
                model.awaits_close(id);
            },
            |handle| handle.close_listener(id),
        )?;
        let book = Arc::clone(&self.life().book);
        let (network, address) = (
            self.network.clone(),
            self.life().model.listeners[number].address,
        );
        self.simulation.runtime().spawn(async move {
            match closing.await {
                Ok(()) => {
                    book.push(Event::CloseReturned(id));
                    if let Err(error) = network.listen(address).map(drop) {
                        let expected = format!("{address} can be bound again");
                        book.break_rule("L3", expected, error.to_string());
                    }
                }
                Err(error) => {
                    let expected = format!("listener {id} can be closed");
                    book.break_rule("L3", expected, error.to_string());
                }
            }
        });
        Ok(())
    }

    fn close_unknown(&mut self, which: u8) -> Seen {
        let ids: Vec<ListenerId> = {
            let model = &self.life().model;
            model
                .listeners
                .iter()
                .map(|listening| listening.id)
                .collect()
        };
        let Some(id) = pick(&ids, which) else {
            return Ok(());
        };
        let closing = self.call(|_| {}, |handle| handle.close_listener(id))?;
        let stopped = self.life().state == PoolState::Stopped;
        let expected = match stopped {
            true => CloseError::Stopped,
            false => CloseError::UnknownListener(id),
        };
        let closed = futures::FutureExt::now_or_never(closing);
        same(
            "L3",
            "closing a closed listener",
            Some(Err(expected)),
            closed,
        )
    }

    fn connect(&mut self, which: u8) {
        let addresses: Vec<SocketAddr> = {
            let model = &self.life().model;
            let listening = model.listeners.iter();
            listening.map(|listening| listening.address).collect()
        };
        // Mostly one that listens.
        let open = self.open_listener(which).filter(|_| which % 16 != 0);
        let Some(listener) = open.or_else(|| pick(&addresses, which)) else {
            return;
        };
        let called = match listener.ip().is_unspecified() {
            true => SocketAddr::from((Ipv4Addr::LOCALHOST, listener.port())),
            false => listener,
        };
        match self.network.connect(called) {
            Ok(client) => {
                let peer = client.address();
                self.life().model.connects(peer, listener);
                self.clients.push(Caller { client, listener });
                self.note(Event::Connected { peer, listener });
            }
            Err(_) => self.note(Event::Refused { listener }),
        }
    }

    fn tell(&mut self, child: Option<ChildId>, killed: Killed) -> Seen {
        let Some(child) = child else { return Ok(()) };
        let stopped = self.life().state == PoolState::Stopped;
        let told = self.call(
            |model| {
                if !stopped {
                    model.told_alone(child, killed);
                }
            },
            |handle| match killed {
                Killed::Yes => handle.kill_child(child),
                Killed::No => handle.stop_child(child),
            },
        )?;
        let expected = match stopped {
            true => Err(ChildError::Stopped),
            false => Ok(()),
        };
        same("R4", &format!("telling {child} to end"), expected, told)
    }

    fn tell_unknown(&mut self, which: u32) -> Seen {
        let ids = self.life().model.ended_ids();
        let Some(child) = ids.get(which as usize % ids.len().max(1)).copied() else {
            return Ok(());
        };
        let expected = match self.life().state {
            PoolState::Stopped => ChildError::Stopped,
            _ => ChildError::UnknownChild(child),
        };
        let told = self.call(
            |_| {},
            |handle| [handle.stop_child(child), handle.kill_child(child)],
        )?;
        let expected = [Err(expected.clone()), Err(expected)];
        same("R4", "stopping and killing who is gone", expected, told)
    }

    fn reconfigure(&mut self, spec: SpecSetting) -> Seen {
        let life = self.life();
        let generation = life.generations + 1;
        life.generations = generation;
        let (book, state) = (Arc::clone(&life.book), life.state);
        let changed = self.call(
            |model| {
                if state == PoolState::Running {
                    model.reconfigured(spec, generation);
                }
            },
            |handle| handle.reconfigure(made(&book, spec, generation)),
        )?;
        changes(state, changed)
    }

    fn reconfigure_badly(&mut self) -> Seen {
        let book = Arc::clone(&self.life().book);
        let changed = self.call(|_| {}, |handle| handle.reconfigure(made_badly(&book)))?;
        match (self.life().state, changed) {
            (PoolState::Running, Err(ReconfigureError::Spec(_))) => Ok(()),
            (PoolState::Running, other) => {
                breach("R2", "a period of zero is an error", format!("{other:?}"))
            }
            // Which of two reasons is told first is not said.
            (_, Err(_)) => Ok(()),
            (state, Ok(())) => breach("R2", format!("an error while {state}"), "Ok"),
        }
    }

    fn reload(&mut self, reload: Reload) -> Seen {
        let start = self.scenario.setting.start;
        let life = self.life();
        let state = life.state;
        let generation = life.generations + 1;
        life.generations = generation;
        life.book.set_reload(reload, generation);
        let replaces = state == PoolState::Running && start == Start::InitFunction;
        let changed = self.call(
            |model| match reload {
                Reload::Use(spec) if replaces => model.reconfigured(spec, generation),
                _ => {}
            },
            Handle::reload,
        )?;
        if start == Start::Spec && state != PoolState::Stopped {
            return match changed {
                Err(ReconfigureError::NoInit) => Ok(()),
                other => breach("R3", "nothing to reload", format!("{other:?}")),
            };
        }
        match (state, reload, changed) {
            (PoolState::Running, Reload::Fail, Err(ReconfigureError::Init(_)))
            | (PoolState::Running, Reload::Panic, Err(ReconfigureError::InitPanicked(_)))
            | (PoolState::Running, Reload::UseBadly, Err(ReconfigureError::Spec(_)))
            | (PoolState::Running | PoolState::Stopping(_), Reload::Ignore, Ok(())) => Ok(()),
            (PoolState::Running, Reload::Use(_), changed) => changes(state, changed),
            (PoolState::Running, ..) => breach("R3", format!("{reload:?}"), "another answer"),
            (_, _, Err(_)) => Ok(()),
            (state, _, Ok(())) => breach("R3", format!("an error while {state}"), "Ok"),
        }
    }

    fn wait_for_result(&mut self) -> Seen {
        self.begin(Tasks::Run);
        let life = self.life();
        life.model.awaits_result();
        let joining = life.handle.join();
        let book = Arc::clone(&life.book);
        self.simulation.runtime().spawn(async move {
            let report = joining.await;
            book.push(Event::Joined(report));
        });
        self.see()
    }

    fn drop_owner(&mut self) -> Seen {
        self.begin(Tasks::Run);
        let life = self.life();
        if let Some(owner) = life.owner.take() {
            life.model.kills(StopReason::OwnerDropped);
            drop(owner);
        }
        self.see()
    }

    fn drop_task(&mut self, which: u8) -> Seen {
        let kinds = ["Beginning", "ChildTask", "Contained"];
        let tasks = self.simulation.tasks_of(&kinds);
        let Some((task, kind)) = pick(&tasks, which) else {
            return Ok(());
        };
        if self.life().driver == Some(task) && !self.may_lose_its_task() {
            return Ok(());
        }
        self.begin(match kind {
            "Contained" => Tasks::OwnDropped,
            _ => Tasks::ChildDropped,
        });
        let stopped = self.life().state == PoolState::Stopped;
        if self.life().driver == Some(task) && !stopped {
            self.life().model.lost_its_task();
        }
        self.simulation.drop_task(task);
        self.see()
    }

    /// A pool without a task of its own keeps its patience by the machine's clock: that must never be over.
    fn may_lose_its_task(&mut self) -> bool {
        self.life().model.patience() >= Duration::from_secs(60)
    }

    /// Nothing is left of a pool that has stopped, once everybody has let go of it.
    fn bury(&mut self) -> Seen {
        self.release_tasks();
        self.clients.clear();
        self.settle()?;
        self.begin(Tasks::Run);
        let life = self.life();
        let result = futures::FutureExt::now_or_never(life.handle.join());
        match result {
            Some(report) => life.model.result_is(&report)?,
            None => return breach("S1", "the result of a pool that has stopped", "none"),
        }
        let mut life = self.life.take().expect("it was there just now");
        life.book.set_handle(None);
        life.owner = None;
        drop(life.handle);
        let (states, acceptors) = life.book.left();
        same("S7", "states that are left", 0, states)?;
        same("S7", "acceptors that are left", 0, acceptors)?;
        same(
            "S7",
            "streams that are left",
            0,
            self.network.open_streams(),
        )?;
        same(
            "S7",
            "sockets that are left",
            0,
            self.network.open_listeners(),
        )?;
        let tasks = self.simulation.tasks();
        let tasks: Vec<_> = tasks.iter().map(ToString::to_string).collect();
        same("S7", "tasks that are left", Vec::<String>::new(), tasks)?;
        same(
            "S7",
            "timers that are left",
            0,
            self.simulation.timer_count(),
        )
    }

    fn finale(&mut self) -> Seen {
        if self.life.is_none() {
            return Ok(());
        }
        match self.scenario.finale {
            Finale::Stop => self.stop_and_wait()?,
            Finale::DropOwner => {
                self.release_tasks();
                self.drop_owner()?;
                self.settle()?;
            }
            Finale::CloseRuntime => return self.close_runtime(),
        }
        self.look()?;
        same(
            "S9",
            "the pool's state",
            PoolState::Stopped,
            self.life().state,
        )?;
        self.bury()
    }

    fn stop_and_wait(&mut self) -> Seen {
        self.release_tasks();
        self.settle()?;
        self.call(
            |model| model.stops(StopReason::Requested),
            |handle| {
                drop(handle.stop());
            },
        )?;
        self.wait_for_result()?;
        let spec = self.life().model.spec;
        let longest = [spec.lame_duck(), spec.patience()]
            .into_iter()
            .sum::<Duration>();
        self.pass(longest + Duration::from_millis(1))?;
        self.clients.clear();
        self.pass(Duration::from_millis(100))?;
        if self.life().state != PoolState::Stopped {
            self.call(
                |model| model.kills(StopReason::Requested),
                |handle| {
                    drop(handle.kill());
                },
            )?;
            self.settle()?;
        }
        Ok(())
    }

    /// The runtime drops all it has: the pool is gone, and everything with it.
    fn close_runtime(&mut self) -> Seen {
        let network = self.network.clone();
        network.dismiss_witness();
        self.simulation.close();
        let life = self.life.take().expect("it was there just now");
        if let Ok(status) = life.handle.status() {
            let expected = "a pool whose runtime is gone has stopped";
            return breach("S9", expected, status.to_string());
        }
        let result = futures::FutureExt::now_or_never(life.handle.join());
        if result.is_none() {
            return breach("S1", "the result of a pool that has stopped", "none");
        }
        life.book.set_handle(None);
        drop(life.owner);
        drop(life.handle);
        let (states, acceptors) = life.book.left();
        same("S9", "states that are left", 0, states)?;
        same("S9", "acceptors that are left", 0, acceptors)?;
        same("S9", "streams that are left", 0, network.open_streams())?;
        same("S9", "sockets that are left", 0, network.open_listeners())?;
        same(
            "S9",
            "timers that are left",
            0,
            self.simulation.timer_count(),
        )
    }
}

/// One of these, counted round.
fn pick<T: Copy>(choices: &[T], which: u8) -> Option<T> {
    let count = choices.len();
    (count > 0).then(|| choices[usize::from(which) % count])
}

fn made(book: &Arc<Book>, spec: SpecSetting, generation: u32) -> Spec<SimulatedListener> {
    Spec::new(format!("g{generation}"), Cast::new(book, generation))
        .observer(Audience(Arc::clone(book)))
        .restart(spec.restart())
        .intensity(spec.intensity)
        .period(spec.period())
        .child_type(spec.child_type())
        .lame_duck(spec.lame_duck())
        .grace(spec.grace())
        .shutdown(spec.shutdown())
        .patience(spec.patience())
}

fn made_badly(book: &Arc<Book>) -> Spec<SimulatedListener> {
    made(book, SpecSetting::DEFAULT, 0).period(Duration::ZERO)
}

fn start(
    start: Start,
    book: &Arc<Book>,
    runtime: SimulatedRuntime,
    spec: SpecSetting,
) -> Result<Pool<SimulatedRuntime, SimulatedListener>, Breach> {
    let started = match start {
        Start::Spec => Pool::start(runtime, made(book, spec, 1)).map(Some),
        Start::InitFunction => {
            book.set_reload(Reload::Use(spec), 1);
            // The pool keeps it: it must not keep the book, which has a handle of the pool.
            let book = Arc::downgrade(book);
            Pool::start_with(runtime, move || {
                let book = book.upgrade().ok_or("the book is gone")?;
                let (reload, generation) = book.reload();
                match reload {
                    Reload::Use(spec) => Ok(Configure::Use(made(&book, spec, generation))),
                    Reload::UseBadly => Ok(Configure::Use(made_badly(&book))),
                    Reload::Ignore => Ok(Configure::Ignore),
                    Reload::Fail => Err("the init function fails".into()),
                    Reload::Panic => {
                        std::panic::resume_unwind(Box::new("the init function panics"))
                    }
                }
            })
        }
    };
    match started {
        Ok(Some(owner)) => Ok(owner),
        Ok(None) => breach("R3", "a pool is started", "none"),
        Err(error) => breach("V1", "a pool is started", error.to_string()),
    }
}

/// A listener is given back by a pool that does not run.
fn refused(error: Refused, state: PoolState) -> Seen {
    match (&error.reason, state) {
        (AddListenerReason::Stopping, PoolState::Stopping(_))
        | (AddListenerReason::Stopped, PoolState::Stopped) => Ok(()),
        (reason, state) => {
            let expected = format!("a listener is taken, or the reason why not: {state}");
            breach("V2", expected, reason.to_string())
        }
    }
}

/// A spec replaces another while the pool runs.
fn changes(state: PoolState, changed: Result<(), ReconfigureError>) -> Seen {
    match (state, changed) {
        (PoolState::Running, Ok(()))
        | (PoolState::Stopping(_), Err(ReconfigureError::Stopping))
        | (PoolState::Stopped, Err(ReconfigureError::Stopped)) => Ok(()),
        (state, changed) => {
            let expected =
                format!("a spec replaces another while the pool is running, not {state}");
            breach("R1", expected, format!("{changed:?}"))
        }
    }
}

impl Fault {
    fn injected(self) -> AcceptFault {
        AcceptFault::Error(match self {
            Fault::Connection => ErrorKind::ConnectionAborted,
            Fault::Resources => ErrorKind::OutOfMemory,
            Fault::Unknown => ErrorKind::Other,
            Fault::Listener => ErrorKind::InvalidInput,
            Fault::Panic => return AcceptFault::Panic,
        })
    }
}
