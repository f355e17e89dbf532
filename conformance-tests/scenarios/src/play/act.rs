//! Takes one step: calls the pool, the network or the runtime, and holds the answer against the model.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{
    AddListenerReason, ChildError, ChildId, CloseError, ListenerId, PoolState, ReconfigureError,
    Runtime, StopReason, WaitingAcceptors,
};

use super::start::{made, made_badly};
use super::{
    Breach, CHILD, Caller, DRIVER, INIT, Killed, LISTENER, Player, Polls, REPORTER, Reporter, Seen,
    Tasks, breach, same,
};
use crate::event::Event;
use crate::model::reached;
use crate::{
    Action, Bound, Fault, Order, Reload, SpecSetting, StageSetting, Start, Step, WaitingSetting,
    milliseconds,
};
use acceptor_simulation::{AcceptFault, SimulatedListener, SimulatedRuntime};

/// A listener starts so many acceptors at once.
const STARTED_AT_ONCE: usize = 64;

impl Player<'_> {
    pub(super) fn act(&mut self, step: &Step) -> Seen {
        match step.action {
            Action::Wait => Ok(()),
            Action::Listen { acceptors, bound } => {
                self.add_listener(None, acceptors.max(1).into(), bound)
            }
            Action::ListenOn { runtime, acceptors } => {
                let place = usize::from(runtime) % self.runtimes.len();
                self.add_listener(Some(place), acceptors.max(1).into(), Bound::Loopback)
            }
            Action::EndRuntime(runtime) => self.end_runtime(runtime, step.schedule),
            Action::ListenBadly => self.add_listener_badly(),
            Action::Close(which) => self.close(which),
            Action::Break(which) => {
                if let Some(address) = self.open_listener(which) {
                    self.network.kill_listener(address);
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
            Action::FaultLasts { listener, fault } => {
                if let Some(address) = self.open_listener(listener) {
                    let fault = Some(fault.injected());
                    self.network.inject_lasting(address, fault);
                }
                Ok(())
            }
            Action::FaultEnds(which) => {
                if let Some(address) = self.open_listener(which) {
                    self.network.inject_lasting(address, None);
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
            Action::Crowd { listener, clients } => {
                let before = self.clients.len();
                for _ in 0..clients {
                    self.connect(listener);
                }
                self.clients.truncate(before);
                Ok(())
            }
            Action::ConnectLate {
                listener,
                clients,
                after,
            } => {
                self.settle()?;
                let to = self.simulation.now() + milliseconds(after.into());
                self.jump_to(to);
                let before = self.clients.len();
                for _ in 0..clients {
                    self.connect(listener);
                }
                // Most have left again by the time that they are served.
                self.clients.truncate(before + 4);
                Ok(())
            }
            Action::CloseCrowded { listener, clients } => {
                for _ in 0..clients {
                    self.connect(listener);
                }
                self.close(listener)
            }
            Action::StopCrowded(clients) => {
                for listener in 0..self.life().listeners.len() {
                    for _ in 0..clients {
                        self.connect(listener as u8);
                    }
                }
                self.stop()
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
                    let client = self.clients.swap_remove(caller).client;
                    self.life().model.resets(client.address());
                    client.abort();
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
            Action::DropGuard(which) => self.drop_guard(which),
            Action::StopAcceptor(which) => {
                let ids = self.acceptor_ids()?;
                self.tell(pick(&ids, which), Killed::No)
            }
            Action::KillAcceptor(which) => {
                let ids = self.acceptor_ids()?;
                self.tell(pick(&ids, which), Killed::Yes)
            }
            Action::StopUnknown => self.tell_unknown(step.schedule),
            Action::Reconfigure(spec, waiting) => self.reconfigure(spec, waiting),
            Action::ReconfigureBadly => self.reconfigure_badly(),
            Action::Reload(reload) => self.reload(reload),
            Action::Stop => self.stop(),
            Action::Kill => self.call(
                |model| model.kills(StopReason::Requested),
                |handle| handle.kill(),
            ),
            Action::Join => self.wait_for_result(),
            Action::DropOwner => self.drop_owner(),
            // The others go on with the pool.
            Action::DropHandle => self.call(|_| {}, |handle| drop(handle.another())),
            Action::Weather(weather) => {
                self.life().book.set_weather(weather);
                Ok(())
            }
            Action::DropTask(which) => self.drop_task(which),
            Action::HoldTask(which) => {
                // All on one runtime: those on another are given up by themselves (S8).
                let kinds = [INIT, CHILD];
                let mut tasks = self.simulation.tasks_of(&kinds);
                if let Some(runtime) = self.life().held_on {
                    tasks.retain(|(task, _)| task.runtime() == runtime);
                }
                if let Some((task, _)) = pick(&tasks, which) {
                    let life = self.life();
                    life.held_on = Some(task.runtime());
                    life.polls = Polls::Some;
                    life.held = 0;
                    self.simulation.hold(task);
                    self.count("tasks held");
                }
                Ok(())
            }
            Action::HoldReporter => {
                let life = self.life();
                if life.model.reporter() == Reporter::Runs {
                    life.model.reporter_is(Reporter::Held);
                    life.held = 0;
                    let reporter = life.reporter;
                    self.simulation.hold(reporter);
                    self.count("reporters held");
                }
                Ok(())
            }
            Action::ReleaseTasks => {
                self.release_tasks();
                Ok(())
            }
        }
    }

    pub(super) fn release_tasks(&mut self) {
        for (task, _) in self.simulation.tasks_of(&[INIT, CHILD, REPORTER]) {
            self.simulation.release(task);
        }
        if let Some(life) = &mut self.life {
            life.polls = Polls::All;
            life.held_on = None;
            life.model.reporter_is(Reporter::Runs);
        }
    }

    fn stop(&mut self) -> Seen {
        self.call(
            |model| model.stops(StopReason::Requested),
            |handle| handle.stop(),
        )?;
        self.wait_for_result()
    }

    /// The ids of the acceptors that are listed, which the model then knows, too.
    fn acceptor_ids(&mut self) -> Result<Vec<ChildId>, Breach> {
        self.begin(Tasks::Run);
        let life = self.life();
        let Ok(acceptors) = life.handle.acceptors() else {
            return Ok(Vec::new());
        };
        life.model.lists(&acceptors)?;
        Ok(acceptors.iter().map(|acceptor| acceptor.id).collect())
    }

    /// A listener of the model's that is open, counted round.
    fn open_number(&mut self, which: u8) -> Option<usize> {
        let model = &self.life().model;
        let open: Vec<_> = (0..model.listeners.len())
            .filter(|number| model.listeners[*number].accepts())
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
        let ip: IpAddr = match bound {
            Bound::Loopback => Ipv4Addr::LOCALHOST.into(),
            Bound::Wildcard => Ipv4Addr::UNSPECIFIED.into(),
            Bound::Wildcard6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let bound = self.network.listen(SocketAddr::from((ip, 0)));
        let listener = bound.or_else(|error| breach("K1", "port 0 is free", error.to_string()))?;
        let address = acceptor_core::Listener::local_addr(&listener);
        let address = address.or_else(|error| breach("K1", "an address", error.to_string()))?;
        Ok((listener, address))
    }

    /// Adds a listener, on the pool's runtime or on the one at this place.
    pub(super) fn add_listener(
        &mut self,
        place: Option<usize>,
        acceptors: usize,
        bound: Bound,
    ) -> Seen {
        let (listener, address) = self.bind(bound)?;
        let runtime = place.map(|place| self.runtimes[place].clone());
        let number = runtime.as_ref().map_or(0, SimulatedRuntime::number);
        self.begin(Tasks::Run);
        let life = self.life();
        let expected = life.model.state();
        // Before its acceptors are seen the listener has to be known: they begin in tasks of their own.
        let added = life
            .handle
            .add_listener(runtime.as_ref(), listener, acceptors);
        match (added, expected) {
            (Ok(id), PoolState::Running) => {
                life.model.listens(id, address, acceptors, number);
                if acceptors > STARTED_AT_ONCE {
                    // Their numbers are known once they are listed.
                    let acceptors = life.handle.acceptors().unwrap_or_default();
                    life.model.lists(&acceptors)?;
                }
                let task = self.own_task(LISTENER)?;
                self.life().listeners.push(task);
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
            (Err(reason), state) => refused(&reason, state)?,
        }
        self.see()
    }

    fn add_listener_badly(&mut self) -> Seen {
        let (listener, _) = self.bind(Bound::Loopback)?;
        self.begin(Tasks::Run);
        let added = self.life().handle.add_listener(None, listener, 0);
        match added {
            Err(AddListenerReason::Acceptors { value: 0 }) => {}
            other => {
                let seen = other.map_err(|reason| reason.to_string());
                return breach("V2", "0 acceptors are an error", format!("{seen:?}"));
            }
        }
        self.see()
    }

    fn close(&mut self, which: u8) -> Seen {
        // Also one that closes already: then it is the same close that is waited for (L8).
        let model = &self.life().model;
        let open: Vec<_> = (0..model.listeners.len())
            .filter(|number| model.listeners[*number].is_open())
            .collect();
        let Some(number) = pick(&open, which).filter(|_| !model.is_stopped()) else {
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
        match self.network.connect(reached(listener)) {
            Ok(client) => {
                let peer = client.address();
                self.life().model.connects(peer, listener);
                if self.scenario.setting.stage == StageSetting::Handshake && peer.port() % 4 != 0 {
                    // Most are through as soon as they are accepted; the others wait for an order.
                    let _ = client.try_send(&[Order::Return.byte()]);
                }
                self.clients.push(Caller { client, listener });
                self.note(Event::Connected { peer, listener });
            }
            Err(_) => self.note(Event::Refused { listener }),
        }
    }

    fn tell(&mut self, child: Option<ChildId>, killed: Killed) -> Seen {
        let Some(child) = child else { return Ok(()) };
        let stopped = self.life().state == PoolState::Stopped;
        self.begin(Tasks::Run);
        let life = self.life();
        if !stopped {
            life.model.told_alone(child, killed)?;
        }
        let told = match killed {
            Killed::Yes => life.handle.kill_child(child),
            Killed::No => life.handle.stop_child(child),
        };
        self.see()?;
        let expected = match stopped {
            true => Err(ChildError::Stopped),
            false => Ok(()),
        };
        same("R4", format_args!("telling {child} to end"), expected, told)
    }

    fn tell_unknown(&mut self, which: u32) -> Seen {
        let ended = self.life().model.ended_ids();
        // Those of another pool mean nothing to this one, either.
        let ids = match which % 2 {
            0 => &ended,
            _ => &self.buried,
        };
        let which = which / 2;
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

    fn reconfigure(&mut self, spec: SpecSetting, waiting: WaitingSetting) -> Seen {
        self.knows_which_are_started()?;
        let life = self.life();
        let generation = life.generations + 1;
        life.generations = generation;
        let (book, state) = (Arc::clone(&life.book), life.state);
        let changed = self.call(
            |model| {
                if state == PoolState::Running {
                    model.reconfigured(spec, generation, waiting);
                }
            },
            |handle| handle.reconfigure(made(&book, spec, generation), waiting.waiting()),
        )?;
        self.knows_which_replace(waiting)?;
        changes(state, changed)
    }

    /// What is started before a spec is replaced keeps what it was started with (R1): the list shows which acceptors are.
    fn knows_which_are_started(&mut self) -> Seen {
        match self.life().model.has_unseen_starts() {
            true => self.acceptor_ids().map(drop),
            false => Ok(()),
        }
    }

    /// Those that take the place of others get their numbers once they are listed.
    fn knows_which_replace(&mut self, waiting: WaitingSetting) -> Seen {
        match waiting {
            WaitingSetting::Replace => self.acceptor_ids().map(drop),
            WaitingSetting::Keep => Ok(()),
        }
    }

    fn reconfigure_badly(&mut self) -> Seen {
        let book = Arc::clone(&self.life().book);
        let changed = self.call(
            |_| {},
            |handle| handle.reconfigure(made_badly(&book), WaitingAcceptors::Keep),
        )?;
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
        self.knows_which_are_started()?;
        let start = self.scenario.setting.start;
        let life = self.life();
        let state = life.state;
        let generation = life.generations + 1;
        life.generations = generation;
        life.book.set_reload(reload, generation);
        let replaces = state == PoolState::Running && start == Start::InitFunction;
        let waiting = match reload {
            Reload::Use(_, waiting) => waiting,
            _ => WaitingSetting::Keep,
        };
        let changed = self.call(
            |model| match reload {
                Reload::Use(spec, waiting) if replaces => {
                    model.reconfigured(spec, generation, waiting);
                }
                _ => {}
            },
            |handle| handle.reload(waiting.waiting()),
        )?;
        self.knows_which_replace(waiting)?;
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
            (PoolState::Running, Reload::Use(..), changed) => changes(state, changed),
            (PoolState::Running, ..) => breach("R3", format!("{reload:?}"), "another answer"),
            (_, _, Err(_)) => Ok(()),
            (state, _, Ok(())) => breach("R3", format!("an error while {state}"), "Ok"),
        }
    }

    pub(super) fn wait_for_result(&mut self) -> Seen {
        self.begin(Tasks::Run);
        let life = self.life();
        life.model.awaits_result();
        let joining = life.handle.join();
        let book = Arc::clone(&life.book);
        self.simulation.runtime().spawn(async move {
            let report = joining.await;
            book.push(Event::Joined(Box::new(report)));
        });
        self.see()
    }

    /// Drops a stream that is kept under a guard, and the guard after it (E6).
    fn drop_guard(&mut self, which: u8) -> Seen {
        let kept = self.life().book.kept();
        match pick(&kept, which) {
            Some(child) => self.drop_guard_of(child),
            None => Ok(()),
        }
    }

    fn drop_guard_of(&mut self, child: ChildId) -> Seen {
        self.begin(Tasks::Run);
        let kept = self.life().book.take_kept(child);
        self.count("guards dropped");
        drop(kept);
        self.see()
    }

    pub(super) fn drop_guards(&mut self) -> Seen {
        for child in self.life().book.kept() {
            self.drop_guard_of(child)?;
        }
        Ok(())
    }

    pub(super) fn drop_owner(&mut self) -> Seen {
        self.begin(Tasks::Run);
        let life = self.life();
        if let Some(owner) = life.owner.take() {
            life.model.kills(StopReason::OwnerDropped);
            drop(owner);
        }
        self.see()
    }

    /// A runtime that is not the pool's is shut down: it drops its tasks, in any order.
    fn end_runtime(&mut self, place: u8, schedule: u32) -> Seen {
        let place = usize::from(place) % self.runtimes.len();
        let another = self.simulation.another_runtime();
        let runtime = std::mem::replace(&mut self.runtimes[place], another);
        let mut tasks = self.simulation.end_runtime(&runtime);
        fastrand::Rng::with_seed(schedule.into()).shuffle(&mut tasks);
        if !tasks.is_empty() {
            self.count("runtimes shut down");
        }
        for (task, _) in tasks {
            self.begin(Tasks::AllDropped);
            self.simulation.drop_task(task);
            self.see()?;
        }
        Ok(())
    }

    fn drop_task(&mut self, which: u8) -> Seen {
        let kinds = [INIT, CHILD, DRIVER, REPORTER, LISTENER];
        let tasks = self.simulation.tasks_of(&kinds);
        let Some((task, kind)) = pick(&tasks, which) else {
            return Ok(());
        };
        if kind == DRIVER && !self.may_lose_its_task() {
            return Ok(());
        }
        self.begin(match kind {
            INIT | CHILD => Tasks::ChildDropped,
            _ => Tasks::OwnDropped,
        });
        let life = self.life();
        let stopped = life.state == PoolState::Stopped;
        if task == life.driver && !stopped {
            life.model.lost_its_task();
        }
        if task == life.reporter {
            life.model.reporter_is(Reporter::Gone);
        }
        self.simulation.drop_task(task);
        self.count(match kind {
            INIT => "tasks dropped, of acceptors in init",
            CHILD => "tasks dropped, of children",
            DRIVER => "tasks dropped, of the pool",
            REPORTER => "tasks dropped, of the reporter",
            _ => "tasks dropped, of listeners",
        });
        self.see()
    }

    /// A pool without a task of its own keeps its kill timeout by the machine's clock: that must never be over.
    fn may_lose_its_task(&mut self) -> bool {
        self.life().model.kill_timeout() >= Duration::from_secs(60)
    }
}

/// One of these, counted round.
fn pick<T: Copy>(choices: &[T], which: u8) -> Option<T> {
    let count = choices.len();
    (count > 0).then(|| choices[usize::from(which) % count])
}

/// A listener is given back by a pool that does not run.
fn refused(reason: &AddListenerReason, state: PoolState) -> Seen {
    match (reason, state) {
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
            Fault::InvalidInput => ErrorKind::InvalidInput,
            Fault::Resources => ErrorKind::OutOfMemory,
            Fault::Unknown => ErrorKind::Other,
            Fault::RuntimeGone => return AcceptFault::RuntimeGone,
            Fault::Listener => return AcceptFault::NotListening,
            Fault::Panic => return AcceptFault::Panic,
        })
    }
}
