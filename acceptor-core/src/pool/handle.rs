//! The handle of a pool: all queries and commands of a running pool.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use futures::FutureExt;

use crate::acceptor::Acceptor;
use crate::error::{
    AddListenerError, AddListenerReason, ChildError, CloseError, LimitError, MAX_ACCEPTORS,
    ReconfigureError, Stopped, is_limit,
};
use crate::id::{ChildId, ListenerId};
use crate::latch::{Latch, LatchWait};
use crate::listener::Listener;
use crate::machine::command::Command;
use crate::machine::effects::Driver;
use crate::machine::stuck::RuntimeKey;
use crate::machine::supervisor::SocketState;
use crate::policy::WaitingAcceptors;
use crate::pool::accept_loop;
use crate::pool::capacity::{Scope, SlotWaiter, wake_granted};
use crate::pool::driver::BATCH;
use crate::pool::host::Host;
use crate::pool::listener_shared::{ListenerShared, LocalAddrSource};
use crate::pool::shared::{PoolShared, State};
use crate::pool::snapshot;
use crate::pool::spec::{ErasedSpec, PoolSettings, is_name};
use crate::runtime::Runtime;
use crate::settings::{ListenerSettings, Settings};
use crate::spec::Spec;
use crate::status::{
    AcceptorRecord, AcceptorState, ChildCounts, ConnectionRecord, Counts, ListenerRecord,
    PoolState, Status,
};
use crate::stop_report::{StopReason, StopReport};
use crate::sync::catch_unwind::CatchUnwind;
use crate::sync::{Shared, catch_panic, lock};

/// A handle to a pool, with the methods of its owner, [`Pool`](crate::Pool), where they are
/// described.
///
/// It is cheap to clone, and does not keep the pool alive ([S9](crate::guide::rules#s9)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let pool = echo_pool()?;
/// let handle = pool.handle();
/// assert_eq!(handle.counts()?.acceptors, 10);
///
/// pool.stop().await;
/// assert_eq!(handle.counts(), Err(Stopped));
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
pub struct PoolHandle<R: Runtime, L: Listener> {
    pub(super) shared: Arc<PoolShared<R, L>>,
}

impl<R: Runtime, L: Listener> Clone for PoolHandle<R, L> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<R: Runtime, L: Listener> AsRef<Self> for PoolHandle<R, L> {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<R: Runtime, L: Listener> PoolHandle<R, L> {
    pub(crate) fn new(shared: Arc<PoolShared<R, L>>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<PoolShared<R, L>> {
        &self.shared
    }

    /// Adds a listener and starts acceptors on it, on the pool's runtime
    /// ([L1](crate::guide::rules#l1)).
    ///
    /// See [`Pool::add_listener`](crate::Pool::add_listener).
    pub fn add_listener(
        &self,
        listener: L,
        settings: impl Into<ListenerSettings>,
    ) -> Result<ListenerId, AddListenerError<L>> {
        self.add(None, listener, settings.into())
    }

    /// Adds a listener whose acceptors and connections run on another runtime than the pool's
    /// ([B11](crate::guide::rules#b11)).
    ///
    /// See [`Pool::add_listener_on`](crate::Pool::add_listener_on).
    pub fn add_listener_on(
        &self,
        runtime: &R,
        listener: L,
        settings: impl Into<ListenerSettings>,
    ) -> Result<ListenerId, AddListenerError<L>> {
        self.add(Some(runtime), listener, settings.into())
    }

    fn add(
        &self,
        runtime: Option<&R>,
        listener: L,
        settings: ListenerSettings,
    ) -> Result<ListenerId, AddListenerError<L>> {
        let refused = |listener, reason| Err(AddListenerError { listener, reason });
        let value = settings.acceptors;
        if value == 0 || value > MAX_ACCEPTORS {
            return refused(listener, AddListenerReason::Acceptors { value });
        }
        if let Some(value) = settings.max_connections.filter(|value| !is_limit(*value)) {
            return refused(listener, AddListenerReason::MaxConnections { value });
        }
        if let Some(value) = settings.tag.clone().filter(|tag| !is_name(tag)) {
            return refused(listener, AddListenerReason::Tag { value });
        }
        let addresses = match LocalAddrSource::of(&listener) {
            Ok(addresses) => addresses,
            Err(error) => return refused(listener, AddListenerReason::LocalAddr(error)),
        };
        let handshake = match catch_panic(|| Arc::new(listener.handshake())) {
            Ok(handshake) => Shared::new(handshake),
            Err(message) => {
                return refused(listener, AddListenerReason::HandshakePanicked(message));
            }
        };
        let key = self.runtime_key(runtime);
        // Dropped outside of the lock if the pool does not run.
        let mut runtime = Some(runtime.unwrap_or(&self.shared.runtime).clone());
        let added = self.shared.handle_event(|state, _| {
            match state.machine.state() {
                PoolState::Running => {}
                PoolState::Stopping(_) => return Err(AddListenerReason::Stopping),
                PoolState::Stopped => return Err(AddListenerReason::Stopped),
            }
            let (factory, rules) = (state.spec.factory.clone(), *state.machine.rules());
            let mut added = None;
            let runtime = runtime.take().ok_or(AddListenerReason::Stopped)?;
            state.machine.add_listener(key, |id, key| {
                let host = Host::new(runtime, key);
                let limit = Arc::clone(&self.shared.limit);
                let listener =
                    ListenerShared::new(id, host, addresses, settings, factory, &rules, limit);
                let listener = added.insert(Arc::new(listener));
                let owner: Weak<ListenerShared<R, L>> = Arc::downgrade(listener);
                listener.signals.set_owner(owner);
                Arc::clone(listener)
            });
            added.ok_or(AddListenerReason::Stopped)
        });
        match added {
            Ok(added) => {
                let (id, shared) = (added.id, Arc::clone(&self.shared));
                let accepts = accept_loop::run(shared, Arc::clone(&added), listener, handshake);
                added.host.spawn(CatchUnwind::new(accepts));
                // Last, because the runtime may keep this task for the calling thread.
                added.host.start();
                self.shared.spawn_decoy();
                Ok(id)
            }
            Err(reason) => refused(listener, reason),
        }
    }

    /// Returns which of the pool's runtimes this is; `None` if no listener is on it.
    fn runtime_key(&self, runtime: Option<&R>) -> Option<RuntimeKey> {
        let Some(runtime) = runtime else {
            return Some(RuntimeKey::OF_THE_POOL);
        };
        // The comparison is foreign code: no lock is held, and a panic is caught.
        let is_same = |other: &R| catch_panic(|| other.is_same(runtime)).unwrap_or(false);
        if is_same(&self.shared.runtime) {
            return Some(RuntimeKey::OF_THE_POOL);
        }
        let listeners = self.shared.listeners_after(None, usize::MAX);
        let hosts = listeners.iter().map(|listener| &listener.host);
        let mut same = hosts.filter(|host| is_same(&host.runtime));
        same.next().map(|host| host.key)
    }

    /// Closes a listener. Its acceptors terminate, and its connections continue and see *draining*
    /// ([L3](crate::guide::rules#l3)).
    ///
    /// See [`Pool::close_listener`](crate::Pool::close_listener).
    pub fn close_listener(&self, id: ListenerId) -> CloseListener {
        let closing = self.shared.handle_event(|state, effects| {
            if state.machine.state() == PoolState::Stopped {
                return Err(CloseError::Stopped);
            }
            let closing = state.machine.close(id, effects);
            closing.ok_or(CloseError::UnknownListener(id))
        });
        if closing.is_ok() {
            self.shared.spawn_decoy();
        }
        CloseListener {
            closed: closing.map(|listener| listener.closed.wait()),
        }
    }

    /// Returns the listeners whose socket is open, oldest first ([Q1](crate::guide::rules#q1)).
    ///
    /// See [`Pool::listeners`](crate::Pool::listeners).
    pub fn listeners(&self) -> Result<Vec<ListenerRecord<L::Addr>>, Stopped> {
        self.running(|_| ())?;
        Ok(snapshot::listeners(&self.shared))
    }

    /// Returns the acceptors, oldest first for each listener ([Q5](crate::guide::rules#q5)).
    ///
    /// See [`Pool::acceptors`](crate::Pool::acceptors).
    pub fn acceptors(&self) -> Result<Vec<AcceptorRecord>, Stopped> {
        self.running(|_| ())?;
        Ok(snapshot::acceptors(&self.shared))
    }

    /// Returns the open connections, oldest first ([Q1](crate::guide::rules#q1)). Acceptors are not
    /// among them.
    ///
    /// See [`Pool::connections`](crate::Pool::connections).
    pub fn connections(&self) -> Result<Vec<ConnectionRecord<L::Addr>>, Stopped> {
        self.running(|_| ())?;
        Ok(snapshot::connections(&self.shared))
    }

    /// Returns the numbers of children by kind ([Q3](crate::guide::rules#q3)).
    ///
    /// See [`Pool::counts`](crate::Pool::counts).
    pub fn counts(&self) -> Result<Counts, Stopped> {
        self.running(|_| ())?;
        Ok(snapshot::counts(&self.shared))
    }

    /// Returns the numbers of children in the form of Erlang's `count_children`
    /// ([Q2](crate::guide::rules#q2)).
    ///
    /// See [`Pool::count_children`](crate::Pool::count_children).
    pub fn count_children(&self) -> Result<ChildCounts, Stopped> {
        let child_type = self.running(|state| state.machine.rules().child_type)?;
        let counts = snapshot::counts(&self.shared);
        Ok(ChildCounts::new(counts, child_type))
    }

    /// Returns a copy of the pool's current settings.
    ///
    /// See [`Pool::settings`](crate::Pool::settings).
    pub fn settings(&self) -> Result<Settings<L::Addr>, Stopped> {
        self.running(|state| state.spec.settings.to_settings())
    }

    /// Returns the latch that is set once the pool begins to stop, for any reason
    /// ([S2](crate::guide::rules#s2)).
    ///
    /// See [`Pool::stopping`](crate::Pool::stopping).
    pub fn stopping(&self) -> Latch {
        self.shared.stopping.clone()
    }

    /// Returns the state of the whole pool as one value ([Q4](crate::guide::rules#q4)).
    ///
    /// See [`Pool::status`](crate::Pool::status).
    pub fn status(&self) -> Result<Status<L::Addr>, Stopped> {
        let now = self.shared.time();
        let (spec, state, failures, rules) = self.running(|state| {
            let failures = state.machine.failures(now);
            let spec = Arc::clone(&state.spec.settings.id);
            (
                spec,
                state.machine.state(),
                failures,
                *state.machine.rules(),
            )
        })?;
        Ok(Status {
            spec,
            state,
            counts: snapshot::counts(&self.shared),
            failures,
            intensity: rules.intensity,
            period: rules.period,
            listeners: snapshot::listeners(&self.shared),
            connections: snapshot::connections(&self.shared),
        })
    }

    fn running<T>(&self, read: impl FnOnce(&State<R, L>) -> T) -> Result<T, Stopped> {
        self.shared.read(|state| match state.machine.state() {
            PoolState::Stopped => Err(Stopped),
            PoolState::Running | PoolState::Stopping(_) => Ok(read(state)),
        })
    }

    /// Stops one child ([R4](crate::guide::rules#r4)).
    ///
    /// See [`Pool::stop_child`](crate::Pool::stop_child).
    pub fn stop_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.send(id, Command::StopAlone)
    }

    /// Kills one child: it is dropped at its next suspension point, reported, and counted in a
    /// transient pool ([R4](crate::guide::rules#r4), [E4](crate::guide::rules#e4)).
    ///
    /// See [`Pool::kill_child`](crate::Pool::kill_child).
    pub fn kill_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.send(id, Command::Kill)
    }

    fn send(&self, id: ChildId, command: Command) -> Result<(), ChildError> {
        let listener = self.shared.read(|state| {
            if state.machine.state() == PoolState::Stopped {
                return Err(ChildError::Stopped);
            }
            let known = state.machine.listener(id.listener());
            let listening = known.ok_or(ChildError::UnknownChild(id))?;
            Ok(Arc::clone(&listening.listener))
        })?;
        let id = find_slot(&listener, id).ok_or(ChildError::UnknownChild(id))?;
        let (child, acceptor) = {
            let table = &lock(&listener.children).table;
            let (row, child) = table.child(id).ok_or(ChildError::UnknownChild(id))?;
            // Under the same lock as its state is read: an acceptor that begins to wait later finds
            // the command by itself.
            child.store(command);
            (child, row.acceptor_state())
        };
        child.notify();
        match acceptor {
            // A waiting acceptor has no task to wake, and a spaced one has no task at all. (If it
            // was started meanwhile, it has one.)
            Some(AcceptorState::Waiting) => listener.inbox.commanded(),
            Some(AcceptorState::Spaced) => {
                self.shared.end_spaced(&listener, id);
            }
            _ => {}
        }
        listener.host.wake_companion();
        self.shared.spawn_decoy();
        Ok(())
    }

    /// Replaces the spec: the acceptor and all settings ([R1](crate::guide::rules#r1)).
    ///
    /// See [`Pool::reconfigure`](crate::Pool::reconfigure).
    pub fn reconfigure<Acc: Acceptor<L>>(
        &self,
        spec: Spec<Acc, L::Addr>,
        waiting: WaitingAcceptors,
    ) -> Result<(), ReconfigureError> {
        self.replace_spec(ErasedSpec::checked(spec)?, waiting)
    }

    fn replace_spec(
        &self,
        spec: ErasedSpec<R, L>,
        waiting: WaitingAcceptors,
    ) -> Result<(), ReconfigureError> {
        let rules = spec.settings.rules;
        let mut replaced = Vec::new();
        let mut relimited = Relimited::default();
        // The old spec, or the refused one, holds user values: it is dropped after the lock is
        // released.
        let (result, _gone) = self.shared.handle_event(|state, effects| {
            if let Err(refused) = state.changeable() {
                return (Err(refused), (spec, Vec::new()));
            }
            state.machine.reconfigure(rules);
            state.version += 1;
            let mut factories = Vec::new();
            for (id, listening) in state.machine.listeners() {
                let listener = &listening.listener;
                let (before, ends) = listener.reconfigure(spec.factory.clone(), &rules, waiting);
                factories.push(before);
                if ends {
                    // Acceptors in `init` have tasks, which the driver wakes.
                    state.to_wake.insert(id, Arc::clone(listener));
                    effects.driver = Driver::Wakes;
                    replaced.push(Arc::clone(listener));
                }
            }
            relimited = self.relimit(state, &spec.settings);
            let before = std::mem::replace(&mut state.spec, spec);
            (Ok(()), (before, factories))
        });
        relimited.wake();
        for listener in &replaced {
            listener.inbox.replaced();
            listener.host.wake_companion();
        }
        if !replaced.is_empty() {
            self.shared.spawn_decoy();
        }
        result
    }

    /// Changes the settings, and keeps the acceptor ([R1](crate::guide::rules#r1)).
    ///
    /// See [`Pool::update`](crate::Pool::update).
    pub fn update(
        &self,
        mut change: impl FnMut(&mut Settings<L::Addr>),
    ) -> Result<(), ReconfigureError> {
        loop {
            let (mut settings, version) = self.shared.read(|state| {
                let settings = state
                    .changeable()
                    .map(|()| state.spec.settings.to_settings());
                settings.map(|settings| (settings, state.version))
            })?;
            let changed = catch_panic(|| change(&mut settings));
            let settings = PoolSettings::checked(settings);
            changed.map_err(ReconfigureError::UpdatePanicked)?;
            if self.replace_settings(settings?, version)? == Swap::Done {
                return Ok(());
            }
        }
    }

    /// Replaces the settings if they are still at this version.
    fn replace_settings(
        &self,
        settings: PoolSettings<L::Addr>,
        version: u64,
    ) -> Result<Swap, ReconfigureError> {
        let rules = settings.rules;
        let mut relimited = Relimited::default();
        let (result, _gone) = self.shared.handle_event(|state, _| {
            if let Err(refused) = state.changeable() {
                return (Err(refused), settings);
            }
            if state.version != version {
                return (Ok(Swap::Outrun), settings);
            }
            state.version += 1;
            state.machine.reconfigure(rules);
            for (_, listening) in state.machine.listeners() {
                listening.listener.set_rules(&rules);
            }
            relimited = self.relimit(state, &settings);
            let before = std::mem::replace(&mut state.spec.settings, settings);
            (Ok(Swap::Done), before)
        });
        relimited.wake();
        result
    }

    /// Applies the limit of new settings, and what happens at it (C6).
    fn relimit(&self, state: &State<R, L>, settings: &PoolSettings<L::Addr>) -> Relimited<R, L> {
        let before = &state.spec.settings;
        let max_connections = settings.rules.max_connections;
        let granted = match max_connections == before.rules.max_connections {
            true => Vec::new(),
            false => state.set_limit(&self.shared.limit, max_connections),
        };
        let listeners = match settings.at_limit == before.at_limit {
            true => Vec::new(),
            false => {
                let all = state.machine.listeners();
                let open = all.filter(|(_, listening)| listening.socket != SocketState::Closed);
                open.map(|(_, listening)| Arc::clone(&listening.listener))
                    .collect()
            }
        };
        Relimited { granted, listeners }
    }

    /// Changes the largest number of connections of the pool ([C6](crate::guide::rules#c6)).
    ///
    /// See [`Pool::set_max_connections`](crate::Pool::set_max_connections).
    pub fn set_max_connections(
        &self,
        limit: impl Into<Option<usize>>,
    ) -> Result<(), ReconfigureError> {
        let limit = limit.into();
        self.update(|settings| settings.max_connections = limit)
    }

    /// Changes the largest number of connections of one listener ([C6](crate::guide::rules#c6)).
    ///
    /// See [`Pool::set_listener_max_connections`](crate::Pool::set_listener_max_connections).
    pub fn set_listener_max_connections(
        &self,
        id: ListenerId,
        limit: impl Into<Option<usize>>,
    ) -> Result<(), LimitError> {
        let limit = limit.into();
        if let Some(value) = limit.filter(|value| !is_limit(*value)) {
            return Err(LimitError::Value { value });
        }
        // Under the pool's lock: of two calls at once, the later one holds.
        let granted = self.shared.read(|state| {
            if state.machine.state() == PoolState::Stopped {
                return Err(LimitError::Stopped);
            }
            let known = state.machine.listener(id);
            let open = known.filter(|listening| listening.socket != SocketState::Closed);
            let listener = &open.ok_or(LimitError::UnknownListener(id))?.listener;
            let granted = listener.capacity.set_own(limit);
            if limit.is_some() {
                listener.apply_limit(Scope::Listener);
            }
            Ok(granted)
        })?;
        wake_granted(granted);
        Ok(())
    }

    /// Runs the pool's init function again ([R3](crate::guide::rules#r3)). A spec that it returns
    /// replaces the old one.
    ///
    /// See [`Pool::reload`](crate::Pool::reload).
    pub fn reload(&self, waiting: WaitingAcceptors) -> Result<(), ReconfigureError> {
        let init = self.running(|state| state.init.clone());
        let init = init.map_err(|Stopped| ReconfigureError::Stopped)?;
        let init = init.ok_or(ReconfigureError::NoInit)?;
        match catch_panic(&**init) {
            Ok(Ok(Some(spec))) => self.replace_spec(spec?, waiting),
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => Err(ReconfigureError::Init(error)),
            Err(message) => Err(ReconfigureError::InitPanicked(message)),
        }
    }

    /// Stops the pool gracefully, in the phases of its spec, and waits for the result
    /// ([S1](crate::guide::rules#s1) to [S8](crate::guide::rules#s8)).
    ///
    /// See [`Pool::stop`](crate::Pool::stop).
    pub fn stop(&self) -> Join<R, L> {
        self.shared.stop(StopReason::Requested);
        self.shared.spawn_decoy();
        self.join()
    }

    /// Kills all children at once, whatever phase the pool is in, and waits for the result.
    ///
    /// See [`Pool::kill`](crate::Pool::kill).
    pub fn kill(&self) -> Join<R, L> {
        self.shared.kill(StopReason::Requested);
        self.shared.spawn_decoy();
        self.join()
    }

    /// Waits until the pool has stopped, for any reason, and returns the result
    /// ([S1](crate::guide::rules#s1), [I3](crate::guide::rules#i3)).
    ///
    /// See [`Pool::join`](crate::Pool::join).
    pub fn join(&self) -> Join<R, L> {
        Join {
            wait: self.shared.done.wait(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Runs the pool until the signal, or until the pool stops on its own, then stops it.
    ///
    /// See [`Pool::run_until`](crate::Pool::run_until).
    pub async fn run_until<F: Future>(&self, signal: F) -> StopReport<L::Addr> {
        let (mut signal, mut join) = (pin!(signal), self.join());
        let ended = poll_fn(|cx| match signal.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => join.poll_unpin(cx).map(Some),
        });
        match ended.await {
            Some(report) => report,
            None => self.stop().await,
        }
    }
}

/// The accept loops to wake after limits have changed.
struct Relimited<R: Runtime, L: Listener> {
    /// They have a slot now.
    granted: Vec<SlotWaiter<R, L>>,
    /// They may now refuse where they waited, or wait where they refused.
    listeners: Vec<Arc<ListenerShared<R, L>>>,
}

impl<R: Runtime, L: Listener> Default for Relimited<R, L> {
    fn default() -> Self {
        Self {
            granted: Vec::new(),
            listeners: Vec::new(),
        }
    }
}

impl<R: Runtime, L: Listener> Relimited<R, L> {
    fn wake(self) {
        wake_granted(self.granted);
        for listener in self.listeners {
            listener.inbox.look();
            listener.host.wake_companion();
        }
    }
}

/// A future that waits for the end of a pool and returns its result, from
/// [`join`](crate::Pool::join), [`stop`](crate::Pool::stop) or [`kill`](crate::Pool::kill).
///
/// Dropping it only stops waiting.
pub struct Join<R: Runtime, L: Listener> {
    wait: LatchWait,
    shared: Arc<PoolShared<R, L>>,
}

impl<R: Runtime, L: Listener> Future for Join<R, L> {
    type Output = StopReport<L::Addr>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(self.wait.poll_unpin(cx));
        let result = self.shared.result();
        Poll::Ready(result.expect("the result is stored before the pool is done"))
    }
}

impl<R: Runtime, L: Listener> fmt::Debug for Join<R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").finish_non_exhaustive()
    }
}

/// A future that waits until a listener is closed, from
/// [`close_listener`](crate::Pool::close_listener).
///
/// Dropping it only stops waiting.
#[derive(Debug)]
pub struct CloseListener {
    closed: Result<LatchWait, CloseError>,
}

impl Future for CloseListener {
    type Output = Result<(), CloseError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.closed {
            Ok(closed) => closed.poll_unpin(cx).map(Ok),
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

/// Whether the settings were replaced, or had been changed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swap {
    Done,
    Outrun,
}

/// Returns the id with its slot. A parsed id has none, so the child is searched for, which takes
/// time that grows with the children of its listener.
fn find_slot<R: Runtime, L: Listener>(
    listener: &ListenerShared<R, L>,
    id: ChildId,
) -> Option<ChildId> {
    if id.slot != ChildId::NO_SLOT {
        return Some(id);
    }
    let mut from = Some(0);
    while let Some(cursor) = from {
        let (found, next) = lock(&listener.children).table.find(id, cursor, BATCH);
        if found.is_some() {
            return found;
        }
        from = next;
    }
    None
}
