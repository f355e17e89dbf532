//! Takes one step: calls the pool, the network or the runtime, and checks the result against the model.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{
    AddListenerReason, ChildError, ChildId, CloseError, Listener, PoolState, ReconfigureError,
    Runtime, StopReason, WaitingAcceptors,
};
use futures::FutureExt;

use super::start::{invalid_spec, spec_of};
use super::{
    CHILD, Check, DRIVER, INIT, Killed, LISTENER, Polls, REPORTER, Reporter, Runner, Tasks,
    TestClient, Violation, same, violation,
};
use crate::event::Event;
use crate::model::{STARTED_AT_ONCE, reached};
use crate::{
    Action, Bound, Fault, Order, Reload, SpecSetting, StageSetting, Start, Step, WaitingSetting,
    milliseconds,
};
use acceptor_simulation::{AcceptFault, SimulatedClient, SimulatedListener, SimulatedRuntime};

impl Runner<'_> {
    pub(super) fn act(&mut self, step: &Step) -> Check {
        match step.action {
            Action::Wait => {}
            Action::Listen { acceptors, bound } => {
                self.add_listener(None, acceptors.max(1).into(), bound)?;
            }
            Action::ListenOn { runtime, acceptors } => {
                let index = usize::from(runtime) % self.runtimes.len();
                self.add_listener(Some(index), acceptors.max(1).into(), Bound::Loopback)?;
            }
            Action::EndRuntime(runtime) => self.end_runtime(runtime, step.schedule)?,
            Action::ListenInvalid => self.add_invalid_listener()?,
            Action::Close(which) => self.close(which)?,
            Action::Break(which) => {
                if let Some(address) = self.open_listener(which) {
                    self.network.kill_listener(address);
                }
            }
            Action::Inject {
                listener,
                fault,
                times,
            } => {
                if let Some(address) = self.open_listener(listener) {
                    for _ in 0..times {
                        self.network.inject(address, fault.injected());
                    }
                }
            }
            Action::InjectLasting { listener, fault } => {
                self.inject_lasting(listener, Some(fault.injected()));
            }
            Action::EndInjection(which) => self.inject_lasting(which, None),
            Action::SpuriousWake(which) => {
                if let Some(address) = self.open_listener(which) {
                    self.network.stir(address);
                }
            }
            Action::Connect { listener, clients } => self.connect(listener, clients.into()),
            Action::ConnectAndLeave { listener, clients } => {
                let before = self.clients.len();
                self.connect(listener, clients);
                self.clients.truncate(before);
            }
            Action::ConnectLate {
                listener,
                clients,
                after,
            } => {
                self.settle()?;
                self.jump(milliseconds(after.into()));
                let before = self.clients.len();
                self.connect(listener, clients.into());
                // Most of them leave before they are served.
                self.clients.truncate(before + 4);
            }
            Action::ConnectAndClose { listener, clients } => {
                self.connect(listener, clients);
                self.close(listener)?;
            }
            Action::ConnectAndStop(clients) => {
                for listener in 0..self.pool().listeners.len() {
                    self.connect(listener as u8, clients.into());
                }
                self.stop()?;
            }
            Action::Order { client, order } => {
                if let Some(client) = self.client(client) {
                    // A full buffer is like a lost byte: neither is a violation.
                    let _ = client.try_send(&[order.byte()]);
                }
            }
            Action::Read(which) => {
                if let Some(client) = self.client(which) {
                    let _ = client.try_receive(&mut [0; 512]);
                }
            }
            Action::HalfClose(which) => {
                if let Some(client) = self.client(which) {
                    client.half_close();
                }
            }
            Action::Leave(which) => drop(self.take_client(which)),
            Action::Reset(which) => {
                if let Some(client) = self.take_client(which) {
                    self.pool().model.resets(client.address());
                    client.abort();
                }
            }
            Action::StopConnection(which) => self.end_connection(which, Killed::No)?,
            Action::KillConnection(which) => self.end_connection(which, Killed::Yes)?,
            Action::DropGuard(which) => {
                let kept = self.pool().history.kept();
                if let Some(child) = pick(&kept, which) {
                    self.drop_guard(child)?;
                }
            }
            Action::StopAcceptor(which) => self.end_acceptor(which, Killed::No)?,
            Action::KillAcceptor(which) => self.end_acceptor(which, Killed::Yes)?,
            Action::StopUnknown => self.end_unknown(step.schedule)?,
            Action::Reconfigure(spec, waiting) => self.reconfigure(spec, waiting)?,
            Action::Limit(limit) => self.limit(limit)?,
            Action::LimitListener { listener, limit } => self.limit_listener(listener, limit)?,
            Action::ReconfigureInvalid => self.reconfigure_invalid()?,
            Action::Reload(reload) => self.reload(reload)?,
            Action::Stop => self.stop()?,
            Action::Kill => self.call(
                |model| model.kills(StopReason::Requested),
                |handle| handle.kill(),
            )?,
            Action::Join => self.wait_for_result()?,
            Action::DropOwner => self.drop_owner()?,
            // The other handles still work.
            Action::DropHandle => self.call(|_| {}, |handle| drop(handle.clone()))?,
            Action::Behave(behaviour) => self.pool().history.set_behaviour(behaviour),
            Action::DropTask(which) => self.drop_task(which)?,
            Action::HoldTask(which) => self.hold_task(which),
            Action::HoldReporter => {
                let pool = self.pool();
                if pool.model.reporter() == Reporter::Runs {
                    pool.model.reporter_is(Reporter::Held);
                    pool.held = 0;
                    let reporter = pool.reporter;
                    self.simulation.hold(reporter);
                    self.count("reporters held");
                }
            }
            Action::ReleaseTasks => self.release_tasks(),
        }
        Ok(())
    }

    fn hold_task(&mut self, which: u8) {
        // All held tasks are on one runtime, because the children of different runtimes are given up separately (S8).
        let mut tasks = self.simulation.tasks_of(&[INIT, CHILD]);
        if let Some(runtime) = self.pool().held_on {
            tasks.retain(|(task, _)| task.runtime() == runtime);
        }
        if let Some((task, _)) = pick(&tasks, which) {
            let pool = self.pool();
            pool.held_on = Some(task.runtime());
            pool.polls = Polls::Some;
            pool.held = 0;
            self.simulation.hold(task);
            self.count("tasks held");
        }
    }

    pub(super) fn release_tasks(&mut self) {
        for (task, _) in self.simulation.tasks_of(&[INIT, CHILD, REPORTER]) {
            self.simulation.release(task);
        }
        if let Some(pool) = &mut self.pool {
            pool.polls = Polls::All;
            pool.held_on = None;
            pool.model.reporter_is(Reporter::Runs);
        }
    }

    pub(super) fn stop(&mut self) -> Check {
        self.call(
            |model| model.stops(StopReason::Requested),
            |handle| handle.stop(),
        )?;
        self.wait_for_result()
    }

    fn inject_lasting(&mut self, which: u8, fault: Option<AcceptFault>) {
        if let Some(address) = self.open_listener(which) {
            self.network.inject_lasting(address, fault);
        }
    }

    /// The ids of the listed acceptors, which the model then knows, too.
    fn acceptor_ids(&mut self) -> Result<Vec<ChildId>, Violation> {
        self.begin(Tasks::Run);
        let pool = self.pool();
        let Ok(acceptors) = pool.handle.acceptors() else {
            return Ok(Vec::new());
        };
        pool.model.lists(&acceptors)?;
        Ok(acceptors.iter().map(|acceptor| acceptor.id).collect())
    }

    /// The address of the `which`-th open listener.
    fn open_listener(&mut self, which: u8) -> Option<SocketAddr> {
        let listeners = self.pool().model.listeners.iter();
        let open = listeners.filter(|listener| listener.accepts());
        let open: Vec<_> = open.map(|listener| listener.address).collect();
        pick(&open, which)
    }

    fn client(&self, which: u8) -> Option<&SimulatedClient> {
        let count = self.clients.len().max(1);
        let client = self.clients.get(usize::from(which) % count);
        client.map(|client| &client.client)
    }

    fn take_client(&mut self, which: u8) -> Option<SimulatedClient> {
        let count = self.clients.len();
        let index = usize::from(which).checked_rem(count)?;
        Some(self.clients.swap_remove(index).client)
    }

    fn bind(&self, bound: Bound) -> Result<(SimulatedListener, SocketAddr), Violation> {
        let ip: IpAddr = match bound {
            Bound::Loopback => Ipv4Addr::LOCALHOST.into(),
            Bound::Wildcard => Ipv4Addr::UNSPECIFIED.into(),
            Bound::Wildcard6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let bound = self.network.listen(SocketAddr::from((ip, 0)));
        let listener =
            bound.or_else(|error| violation("K1", "port 0 is free", error.to_string()))?;
        let address = listener.local_addr();
        let address = address.or_else(|error| violation("K1", "an address", error.to_string()))?;
        Ok((listener, address))
    }

    /// Adds a listener, on the pool's runtime or on the one at this index.
    pub(super) fn add_listener(
        &mut self,
        index: Option<usize>,
        acceptors: usize,
        bound: Bound,
    ) -> Check {
        let (listener, address) = self.bind(bound)?;
        let runtime = index.map(|index| self.runtimes[index].clone());
        let number = runtime.as_ref().map_or(0, SimulatedRuntime::number);
        self.begin(Tasks::Run);
        let pool = self.pool();
        let expected = pool.model.state();
        // The listener is known before its acceptors are seen, because they begin in their own tasks.
        let handle = &pool.handle;
        let added = handle.add_listener(runtime.as_ref(), listener, acceptors);
        match (added, expected) {
            (Ok(id), PoolState::Running) => {
                pool.model.listens(id, address, acceptors, number);
                if acceptors > STARTED_AT_ONCE {
                    // The list shows their numbers.
                    let acceptors = pool.handle.acceptors().unwrap_or_default();
                    pool.model.lists(&acceptors)?;
                }
                let task = self.own_task(LISTENER)?;
                self.pool().listeners.push(task);
                self.note(Event::ListenerAdded {
                    listener: id,
                    address,
                    bound,
                    acceptors,
                });
            }
            (Ok(id), state) => {
                let expected = format!("no listener is added while the pool is {state}");
                return violation("V2", expected, format!("listener {id} is"));
            }
            (Err(reason), state) => refused(&reason, state)?,
        }
        self.see()
    }

    fn add_invalid_listener(&mut self) -> Check {
        let (listener, _) = self.bind(Bound::Loopback)?;
        self.begin(Tasks::Run);
        let added = self.pool().handle.add_listener(None, listener, 0);
        if !matches!(added, Err(AddListenerReason::Acceptors { value: 0 })) {
            let expected = "a listener without acceptors is an error";
            return violation("V2", expected, format!("{added:?}"));
        }
        self.see()
    }

    fn close(&mut self, which: u8) -> Check {
        // A closing listener can be closed, too: the call waits for the same close (L8).
        let model = &self.pool().model;
        let listeners = model.listeners.iter().enumerate();
        let open = listeners.filter(|(_, listener)| listener.is_open());
        let open: Vec<_> = open
            .map(|(number, listener)| (number, listener.id))
            .collect();
        let Some((number, id)) = pick(&open, which).filter(|_| !model.is_stopped()) else {
            return self.close_unknown(which);
        };
        let closing = self.call(
            |model| {
                model.close_by_hand(number);
                model.awaits_close(id);
            },
            |handle| handle.close_listener(id),
        )?;
        let history = Arc::clone(&self.pool().history);
        let address = self.pool().model.listeners[number].address;
        let network = self.network.clone();
        self.simulation.runtime().spawn(async move {
            let (expected, error) = match closing.await {
                Ok(()) => {
                    history.push(Event::CloseReturned(id));
                    match network.listen(address) {
                        Ok(_) => return,
                        Err(error) => (format!("{address} can be bound again"), error.to_string()),
                    }
                }
                Err(error) => (format!("listener {id} can be closed"), error.to_string()),
            };
            history.record(violation("L3", expected, error));
        });
        Ok(())
    }

    fn close_unknown(&mut self, which: u8) -> Check {
        let listeners = self.pool().model.listeners.iter();
        let ids: Vec<_> = listeners.map(|listener| listener.id).collect();
        let Some(id) = pick(&ids, which) else {
            return Ok(());
        };
        let closing = self.call(|_| {}, |handle| handle.close_listener(id))?;
        let expected = match self.pool().state {
            PoolState::Stopped => CloseError::Stopped,
            _ => CloseError::UnknownListener(id),
        };
        let closed = closing.now_or_never();
        same("L3", "the second close", Some(Err(expected)), closed)
    }

    fn connect(&mut self, which: u8, clients: u16) {
        for _ in 0..clients {
            // Usually an open listener.
            let open = self.open_listener(which).filter(|_| which % 16 != 0);
            let listeners = self.pool().model.listeners.iter();
            let all: Vec<_> = listeners.map(|listener| listener.address).collect();
            let Some(listener) = open.or_else(|| pick(&all, which)) else {
                return;
            };
            let Ok(client) = self.network.connect(reached(listener)) else {
                self.note(Event::Refused { listener });
                continue;
            };
            let peer = client.address();
            self.pool().model.connects(peer, listener);
            if self.scenario.setting.stage == StageSetting::Handshake && peer.port() % 4 != 0 {
                // Most handshakes succeed as soon as they begin; the others wait for a command.
                let _ = client.try_send(&[Order::Return.byte()]);
            }
            self.clients.push(TestClient { client, listener });
            self.note(Event::Connected { peer, listener });
        }
    }

    fn end_connection(&mut self, which: u8, killed: Killed) -> Check {
        let ids = self.pool().model.connection_ids();
        self.end_child(pick(&ids, which), killed)
    }

    fn end_acceptor(&mut self, which: u8, killed: Killed) -> Check {
        let ids = self.acceptor_ids()?;
        self.end_child(pick(&ids, which), killed)
    }

    fn end_child(&mut self, child: Option<ChildId>, killed: Killed) -> Check {
        let Some(child) = child else { return Ok(()) };
        let stopped = self.pool().state == PoolState::Stopped;
        self.begin(Tasks::Run);
        let pool = self.pool();
        if !stopped {
            pool.model.command_child(child, killed)?;
        }
        let result = match killed {
            Killed::Yes => pool.handle.kill_child(child),
            Killed::No => pool.handle.stop_child(child),
        };
        self.see()?;
        let expected = if stopped {
            Err(ChildError::Stopped)
        } else {
            Ok(())
        };
        same("R4", format_args!("the end of {child}"), expected, result)
    }

    fn end_unknown(&mut self, which: u32) -> Check {
        let ended = self.pool().model.ended_ids();
        // Half of them are children of an earlier pool.
        let ids = match which % 2 {
            0 => &ended,
            _ => &self.earlier_children,
        };
        let which = which / 2;
        let Some(child) = ids.get(which as usize % ids.len().max(1)).copied() else {
            return Ok(());
        };
        let expected = match self.pool().state {
            PoolState::Stopped => ChildError::Stopped,
            _ => ChildError::UnknownChild(child),
        };
        let result = self.call(
            |_| {},
            |handle| [handle.stop_child(child), handle.kill_child(child)],
        )?;
        let expected = [Err(expected.clone()), Err(expected)];
        same("R4", "stop and kill of an ended child", expected, result)
    }

    fn reconfigure(&mut self, spec: SpecSetting, waiting: WaitingSetting) -> Check {
        self.see_started_acceptors()?;
        let pool = self.pool();
        pool.generations += 1;
        let generation = pool.generations;
        let (history, state) = (Arc::clone(&pool.history), pool.state);
        let changed = self.call(
            |model| {
                if state == PoolState::Running {
                    model.reconfigured(spec, generation, waiting);
                }
            },
            |handle| handle.reconfigure(spec_of(&history, spec, generation), waiting.into()),
        )?;
        self.see_replacements(waiting)?;
        changes(state, changed)
    }

    /// The limit of the pool is changed (C6).
    fn limit(&mut self, limit: Option<u32>) -> Check {
        let state = self.pool().state;
        let changed = self.call(
            |model| {
                if state == PoolState::Running {
                    model.limits(limit);
                }
            },
            |handle| handle.set_max_connections(limit.map(|limit| limit as usize)),
        )?;
        changes(state, changed)
    }

    /// The limit of a listener is changed (C6).
    fn limit_listener(&mut self, which: u8, limit: Option<u32>) -> Check {
        let model = &self.pool().model;
        let listeners = model.listeners.iter().enumerate();
        let open = listeners.filter(|(_, listener)| listener.is_open());
        let open: Vec<_> = open
            .map(|(number, listener)| (number, listener.id))
            .collect();
        let Some((number, id)) = pick(&open, which).filter(|_| !model.is_stopped()) else {
            return Ok(());
        };
        let changed = self.call(
            |model| model.limits_listener(number, limit),
            |handle| handle.set_listener_max_connections(id, limit.map(|limit| limit as usize)),
        )?;
        same(
            "C6",
            format_args!("the limit of listener {id}"),
            Ok(()),
            changed,
        )
    }

    /// An acceptor that has started keeps its spec when the spec is replaced (R1). The list shows which acceptors have started.
    fn see_started_acceptors(&mut self) -> Check {
        match self.pool().model.has_unseen_starts() {
            true => self.acceptor_ids().map(drop),
            false => Ok(()),
        }
    }

    /// New acceptors that replace others have numbers when they are listed.
    fn see_replacements(&mut self, waiting: WaitingSetting) -> Check {
        match waiting {
            WaitingSetting::Replace => self.acceptor_ids().map(drop),
            WaitingSetting::Keep => Ok(()),
        }
    }

    fn reconfigure_invalid(&mut self) -> Check {
        let history = Arc::clone(&self.pool().history);
        let changed = self.call(
            |_| {},
            |handle| handle.reconfigure(invalid_spec(&history), WaitingAcceptors::Keep),
        )?;
        match (self.pool().state, changed) {
            (PoolState::Running, Err(ReconfigureError::Spec(_))) => Ok(()),
            (PoolState::Running, other) => {
                violation("R2", "a period of zero is an error", format!("{other:?}"))
            }
            // The order of the two reasons is not specified.
            (_, Err(_)) => Ok(()),
            (state, Ok(())) => violation("R2", format!("an error while {state}"), "Ok"),
        }
    }

    fn reload(&mut self, reload: Reload) -> Check {
        self.see_started_acceptors()?;
        let start = self.scenario.setting.start;
        let pool = self.pool();
        pool.generations += 1;
        let (state, generation) = (pool.state, pool.generations);
        pool.history.set_reload(reload, generation);
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
            |handle| handle.reload(waiting.into()),
        )?;
        self.see_replacements(waiting)?;
        if start == Start::Spec && state != PoolState::Stopped {
            return match changed {
                Err(ReconfigureError::NoInit) => Ok(()),
                other => violation("R3", "nothing to reload", format!("{other:?}")),
            };
        }
        match (state, reload, changed) {
            (PoolState::Running, Reload::Fail, Err(ReconfigureError::Init(_)))
            | (PoolState::Running, Reload::Panic, Err(ReconfigureError::InitPanicked(_)))
            | (PoolState::Running, Reload::UseInvalid, Err(ReconfigureError::Spec(_)))
            | (PoolState::Running | PoolState::Stopping(_), Reload::Ignore, Ok(())) => Ok(()),
            (PoolState::Running, Reload::Use(..), changed) => changes(state, changed),
            (PoolState::Running, ..) => violation("R3", format!("{reload:?}"), "another answer"),
            (_, _, Err(_)) => Ok(()),
            (state, _, Ok(())) => violation("R3", format!("an error while {state}"), "Ok"),
        }
    }

    pub(super) fn wait_for_result(&mut self) -> Check {
        self.begin(Tasks::Run);
        let pool = self.pool();
        pool.model.awaits_result();
        let joining = pool.handle.join();
        let history = Arc::clone(&pool.history);
        self.simulation.runtime().spawn(async move {
            let report = joining.await;
            history.push(Event::Joined(Box::new(report)));
        });
        self.see()
    }

    /// Drops a stream that is kept under a guard, and the guard after it (E6).
    fn drop_guard(&mut self, child: ChildId) -> Check {
        self.begin(Tasks::Run);
        let kept = self.pool().history.take_kept(child);
        self.count("guards dropped");
        drop(kept);
        self.see()
    }

    pub(super) fn drop_guards(&mut self) -> Check {
        for child in self.pool().history.kept() {
            self.drop_guard(child)?;
        }
        Ok(())
    }

    pub(super) fn drop_owner(&mut self) -> Check {
        self.begin(Tasks::Run);
        let pool = self.pool();
        if let Some(owner) = pool.owner.take() {
            pool.model.kills(StopReason::OwnerDropped);
            drop(owner);
        }
        self.see()
    }

    /// A runtime that is not the pool's is shut down: it drops its tasks, in any order.
    fn end_runtime(&mut self, index: u8, schedule: u32) -> Check {
        let index = usize::from(index) % self.runtimes.len();
        let another = self.simulation.another_runtime();
        let runtime = std::mem::replace(&mut self.runtimes[index], another);
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

    fn drop_task(&mut self, which: u8) -> Check {
        let kinds = [INIT, CHILD, DRIVER, REPORTER, LISTENER];
        let tasks = self.simulation.tasks_of(&kinds);
        let Some((task, kind)) = pick(&tasks, which) else {
            return Ok(());
        };
        // A pool without its own task keeps its kill timeout by the real clock, so the timeout must be long.
        let kill_timeout = self.pool().model.kill_timeout();
        if kind == DRIVER && kill_timeout < Duration::from_secs(60) {
            return Ok(());
        }
        self.begin(match kind {
            INIT | CHILD => Tasks::ChildDropped,
            _ => Tasks::OwnDropped,
        });
        let pool = self.pool();
        let stopped = pool.state == PoolState::Stopped;
        if task == pool.driver && !stopped {
            pool.model.loses_its_task();
        }
        if task == pool.reporter {
            pool.model.reporter_is(Reporter::Gone);
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
}

/// The item with this index, modulo their count.
fn pick<T: Copy>(choices: &[T], which: u8) -> Option<T> {
    let count = choices.len();
    (count > 0).then(|| choices[usize::from(which) % count])
}

/// A pool that does not run refuses a listener.
fn refused(reason: &AddListenerReason, state: PoolState) -> Check {
    match (reason, state) {
        (AddListenerReason::Stopping, PoolState::Stopping(_))
        | (AddListenerReason::Stopped, PoolState::Stopped) => Ok(()),
        (reason, state) => {
            let expected = format!("a listener is taken, or the reason why not: {state}");
            violation("V2", expected, reason.to_string())
        }
    }
}

/// A spec can be replaced while the pool runs.
fn changes(state: PoolState, changed: Result<(), ReconfigureError>) -> Check {
    match (state, changed) {
        (PoolState::Running, Ok(()))
        | (PoolState::Stopping(_), Err(ReconfigureError::Stopping))
        | (PoolState::Stopped, Err(ReconfigureError::Stopped)) => Ok(()),
        (state, changed) => {
            let expected =
                format!("a spec replaces another while the pool is running, not {state}");
            violation("R1", expected, format!("{changed:?}"))
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
