//! The state shared by the owner, the handles and the tasks of a pool: one lock around the machine,
//! and its effects.
//!
//! An event runs the machine under the lock; its effects follow after the lock is released.
//! Invariants: the locks are taken in the order pool, listener, outbox; none is held across an
//! await or a call into user code; only this file and `driver` call the runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;

use crate::accept_error::AcceptErrorKind;
use crate::child::control::Control;
use crate::error::ReconfigureError;
use crate::exit::{Exit, ExitKind};
use crate::handshake::Handshake;
use crate::id::{ChildId, ListenerId, PoolId};
use crate::latch::Latch;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, Role};
use crate::machine::command::Command;
use crate::machine::effects::{Driver, Effects, Order};
use crate::machine::late::{Late, LateConnections};
use crate::machine::stuck::RuntimeKey;
use crate::machine::supervisor::Supervisor;
use crate::machine::table::Waits;
use crate::pool::capacity::{PoolLimit, Scope, Scopes, SlotWaiter};
use crate::pool::exhaustion::Exhaustion;
use crate::pool::lane::{Arrival, Arrived, Factory, Home, InitNow};
use crate::pool::listener_shared::ListenerShared;
use crate::pool::reporter::{Origin, Posted, Reports};
use crate::pool::spec::{ErasedSpec, Reconfigurer};
use crate::report::Event;
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::stop_report::{StopReason, StopReport};
use crate::sync::notify::Notify;
use crate::sync::{DropCatching, Mutex, Shared, catch_panic, lock};

pub(crate) struct PoolShared<R: Runtime, L: Listener> {
    pub(crate) runtime: R,
    /// Wakes the pool's own task.
    pub(crate) driver: Notify,
    pub(crate) reports: Reports<L::Addr>,
    pub(crate) exhaustion: Exhaustion<R, L>,
    pub(crate) limit: Arc<PoolLimit<R, L>>,
    /// Set when a stop begins (S2).
    pub(crate) stopping: Latch,
    /// Set when the result is available.
    pub(crate) done: Latch,
    pub(super) state: Mutex<State<R, L>>,
}

pub(crate) type PoolEffects<R, L> = Effects<Arc<ListenerShared<R, L>>, <L as Listener>::Addr>;

pub(crate) struct State<R: Runtime, L: Listener> {
    pub(crate) machine: Supervisor<Arc<ListenerShared<R, L>>>,
    pub(crate) spec: ErasedSpec<R, L>,
    /// Counts the changes of the spec and of the settings.
    pub(super) version: u64,
    /// The init function, if the pool has one (R3).
    pub(super) init: Option<Shared<Reconfigurer<R, L>>>,
    /// Starts for the driver to carry out.
    pub(super) later: Vec<Later<R, L>>,
    /// Listeners whose children and waiters the driver must wake.
    pub(super) to_wake: BTreeMap<ListenerId, Arc<ListenerShared<R, L>>>,
    /// The result, from the end of the last child until the reports are delivered.
    pub(super) ended: Option<Box<StopReport<L::Addr>>>,
    pub(super) result: Option<Box<StopReport<L::Addr>>>,
    /// Connections that ended after the grace (S7).
    pub(super) late: Late<L::Addr>,
}

/// A delayed start, which the driver carries out.
pub(crate) struct Later<R: Runtime, L: Listener> {
    pub(crate) listener: Arc<ListenerShared<R, L>>,
    pub(crate) child: ChildId,
    pub(crate) delay: Duration,
}

/// A child whose `init` begins.
struct Begun<R: Runtime, L: Listener> {
    control: Control,
    /// Its generation, and the factory of that generation.
    generation: u64,
    factory: Shared<dyn Factory<R, L>>,
}

impl<R: Runtime, L: Listener> PoolShared<R, L> {
    pub(crate) fn new(runtime: R, spec: ErasedSpec<R, L>) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            driver: Notify::default(),
            reports: Reports::new(),
            exhaustion: Exhaustion::new(),
            limit: Arc::new(PoolLimit::new(spec.settings.rules.max_connections)),
            stopping: Latch::new(),
            done: Latch::new(),
            state: Mutex::new(State {
                machine: Supervisor::new(spec.settings.rules, PoolId::next()),
                spec,
                version: 0,
                init: None,
                later: Vec::new(),
                to_wake: BTreeMap::new(),
                ended: None,
                result: None,
                late: Late::default(),
            }),
        })
    }

    /// Reads the state without changing it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State<R, L>) -> T) -> T {
        read(&lock(&self.state))
    }

    /// Runs an event under the lock, then carries out its effects.
    pub(crate) fn handle_event<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut State<R, L>, &mut PoolEffects<R, L>) -> T,
    ) -> T {
        self.handle_event_of(None, event)
    }

    /// Does the same as [`handle_event`](Self::handle_event), for an event of a listener with this
    /// tag.
    pub(crate) fn handle_event_of<T>(
        self: &Arc<Self>,
        tag: Option<&Arc<str>>,
        event: impl FnOnce(&mut State<R, L>, &mut PoolEffects<R, L>) -> T,
    ) -> T {
        let mut effects = Effects::default();
        let (result, posted) = {
            let mut state = lock(&self.state);
            let result = event(&mut state, &mut effects);
            state.obey(&self.stopping, &mut effects);
            let origin = Origin {
                pool: &state.spec.settings.id,
                tag,
            };
            let (reports, debug) = (effects.reports.drain(..), effects.debug.take());
            let mut posted = self.reports.post(origin, reports, debug);
            state.add_late(&mut effects.late);
            if let Some(mut report) = effects.finished.take() {
                report.late = std::mem::take(&mut state.late).into_list();
                state.ended = Some(report);
                posted.wakes = true;
            }
            (result, posted)
        };
        self.follow(posted);
        self.apply_effects(effects);
        result
    }

    fn apply_effects(self: &Arc<Self>, effects: PoolEffects<R, L>) {
        for (listener, close) in effects.close {
            listener.inbox.close(close);
            listener.host.wake_companion();
        }
        if let Some((listener, child)) = effects.start {
            self.start(&listener, child);
        }
        if let Some(listener) = effects.fewer {
            listener.inbox.look();
        }
        if effects.driver == Driver::Wakes {
            self.driver.notify();
        }
        drop((effects.gone, effects.unseen));
        if self.reports.is_deliverer_gone() {
            self.deliver_here();
        }
    }

    /// Starts a child. If it needs no `init` it waits, otherwise its `init` runs in a task of its
    /// own (B5).
    pub(crate) fn start(self: &Arc<Self>, listener: &Arc<ListenerShared<R, L>>, id: ChildId) {
        let Some(Begun {
            control,
            generation,
            factory,
        }) = self.begin(listener, id)
        else {
            return;
        };
        match factory.init_now(&listener.info(id)) {
            InitNow::State(state) => {
                let arrived = Arrived {
                    id,
                    generation,
                    deadline: None,
                    state,
                };
                self.waits(listener, Arrival { arrived, factory }, &control);
            }
            InitNow::Failed(end) => self.ended(listener, id, end),
            InitNow::None => {
                let home = Home {
                    shared: self,
                    listener,
                };
                Arc::clone(&factory).spawn_init(home.member(control), generation);
                self.wake_another_thread_of(listener);
            }
        }
    }

    /// Starts a child whose `init_now` returned no state.
    pub(crate) fn start_init(self: &Arc<Self>, listener: &Arc<ListenerShared<R, L>>, id: ChildId) {
        if let Some(begun) = self.begin(listener, id) {
            let home = Home {
                shared: self,
                listener,
            };
            let member = home.member(begun.control);
            Arc::clone(&begun.factory).spawn_init(member, begun.generation);
        }
    }

    /// Begins the `init` of a child. `None` if the child has ended, for example because it was
    /// replaced.
    fn begin(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        id: ChildId,
    ) -> Option<Begun<R, L>> {
        let (begun, present) = {
            let children = &mut *lock(&listener.children);
            let (control, generation) = children.table.begin(id)?;
            let factory = children.factory.clone();
            let begun = Begun {
                control,
                generation,
                factory,
            };
            (begun, children.table.generation())
        };
        if begun.generation < present {
            // Its factory is gone.
            self.ended(listener, id, ChildEnd::Stopped);
            return None;
        }
        Some(begun)
    }

    /// Makes an acceptor that has its state wait for a connection.
    pub(crate) fn waits(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        arrival: Arrival<R, L>,
        control: &Control,
    ) {
        let Arrived {
            id,
            generation,
            deadline,
            ..
        } = arrival.arrived;
        let waits = lock(&listener.children).table.waits(id);
        match waits {
            Waits::Yes => {}
            Waits::Releases => listener.inbox.starts(),
            Waits::Gone => return,
        }
        let deadline = deadline.map(|(at, _)| at);
        match listener.inbox.push(arrival, deadline) {
            // Commanded between its last check and its arrival: the accept loop may have handled
            // the command already. (Or the acceptor has a connection, or has ended: then the accept
            // loop looks to no effect.)
            Ok(()) if control.commands_to(generation).ends_waiting() => listener.inbox.commanded(),
            Ok(()) => {}
            Err(arrival) => {
                let home = Home {
                    shared: self,
                    listener,
                };
                let Arrival { arrived, factory } = arrival;
                let mut lane = Arc::clone(&factory).make_lane();
                lane.push(0, arrived);
                lane.dismiss_first(home);
            }
        }
    }

    /// Spawns one of the pool's own tasks. A runtime that panics here drops the task, which notices
    /// it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _ = catch_panic(|| self.runtime.spawn(task));
    }

    /// Must follow each wake-up or spawn of a task that runs user code.
    ///
    /// A runtime may run the task that was woken last next on this thread, without waking another.
    /// If that task blocks, no thread polls the sockets (O1, B5): so there is another task for
    /// another thread to take.
    pub(crate) fn wake_another_thread(&self) {
        self.driver.wake_task();
    }

    /// Does the same as [`wake_another_thread`](Self::wake_another_thread) for a listener's task.
    pub(crate) fn wake_another_thread_of(&self, listener: &ListenerShared<R, L>) {
        if listener.host.has_other_threads && !listener.host.wake_companion() {
            self.wake_another_thread();
        }
    }

    /// Wakes the reporter, and drops the reports that did not fit.
    pub(crate) fn follow(&self, posted: Posted<L::Addr>) {
        if posted.wakes {
            self.reports.notify();
            self.wake_another_thread();
        }
        drop(posted);
    }

    /// Ends a user's call that has woken or spawned tasks.
    ///
    /// A runtime may keep the task that was woken last for the calling thread alone. If the caller
    /// blocks that thread (an observer may wait there for the end of the pool), the task would
    /// never run: so the last task is one that does nothing.
    pub(crate) fn spawn_decoy(&self) {
        if !self.done.is_set() {
            self.spawn(async {});
        }
    }

    /// Returns the result, once `done` is set.
    pub(crate) fn result(&self) -> Option<StopReport<L::Addr>> {
        lock(&self.state).result.as_deref().cloned()
    }

    /// Returns the time of the runtime's clock, or of the standard one if the runtime's panics.
    pub(crate) fn time(&self) -> Instant {
        catch_panic(|| self.runtime.now()).unwrap_or_else(|_| Instant::now())
    }

    /// Does the same as [`time`](Self::time) in the accept loop of a listener, where it is cheaper
    /// on the pool's own runtime.
    pub(crate) fn time_in_task_of(&self, listener: &ListenerShared<R, L>) -> Instant {
        if listener.host.key != RuntimeKey::OF_THE_POOL {
            return self.time();
        }
        catch_panic(|| self.runtime.now_in_task()).unwrap_or_else(|_| Instant::now())
    }

    pub(crate) fn stop(self: &Arc<Self>, reason: StopReason) {
        let now = self.time();
        self.handle_event(|state, effects| state.machine.stop(reason, now, effects));
    }

    pub(crate) fn kill(self: &Arc<Self>, reason: StopReason) {
        let now = self.time();
        self.handle_event(|state, effects| state.machine.kill(reason, now, effects));
    }

    /// Returns at most this many listeners after one, oldest first.
    pub(crate) fn listeners_after(
        &self,
        last: Option<ListenerId>,
        limit: usize,
    ) -> Vec<Arc<ListenerShared<R, L>>> {
        let mut listeners = Vec::new();
        let state = lock(&self.state);
        let mut last = last;
        while listeners.len() < limit {
            let Some((id, listener)) = state.machine.listener_after(last) else {
                break;
            };
            listeners.push(Arc::clone(listener));
            last = Some(id);
        }
        listeners
    }
}

impl<R: Runtime, L: Listener> State<R, L> {
    /// Changes the limit of the pool. Returns the accept loops to wake: those with a slot now.
    pub(super) fn set_limit(
        &self,
        limit: &PoolLimit<R, L>,
        max_connections: Option<usize>,
    ) -> Vec<SlotWaiter<R, L>> {
        let granted = limit.set(max_connections);
        if max_connections.is_some() {
            for (_, listening) in self.machine.listeners() {
                listening.listener.apply_limit(Scope::Pool);
            }
        }
        granted
    }

    /// Carries out the machine's orders on all listeners, before another event can come between.
    fn obey(&mut self, stopping: &Latch, effects: &mut PoolEffects<R, L>) {
        if let Some((listener, child, delay)) = effects.start_later.take() {
            self.later.push(Later {
                listener,
                child,
                delay,
            });
        }
        for order in effects.orders.drain(..) {
            if order == Order::BeginStop {
                stopping.raise();
            }
            for (id, listening) in self.machine.listeners() {
                let listener = &listening.listener;
                match order {
                    Order::BeginStop => {
                        lock(&listener.children).table.begin_stop();
                        continue;
                    }
                    Order::CloseListeners(_) => {}
                    Order::Stop => listener.signals.level.raise(Command::Stop),
                    Order::Kill => {
                        // In this order: a child that is refused a connection finds that it was
                        // killed.
                        listener.signals.level.raise(Command::Kill);
                        lock(&listener.children).table.kill();
                    }
                }
                self.to_wake.insert(id, Arc::clone(listener));
            }
        }
        // After the stop has begun: a connection that ends because of it counts for the result.
        for (listener, _) in &effects.close {
            listener.signals.draining.raise();
            self.to_wake.insert(listener.id, Arc::clone(listener));
        }
    }
}

impl<R: Runtime, L: Listener> State<R, L> {
    /// Returns an error if the spec cannot be changed.
    pub(super) fn changeable(&self) -> Result<(), ReconfigureError> {
        match self.machine.state() {
            PoolState::Running => Ok(()),
            PoolState::Stopping(_) => Err(ReconfigureError::Stopping),
            PoolState::Stopped => Err(ReconfigureError::Stopped),
        }
    }

    /// Records late connections. Leaves those that are not named in `late`, to be dropped outside
    /// of any lock.
    pub(super) fn add_late(&mut self, late: &mut LateConnections<L::Addr>) {
        let unnamed = std::mem::take(late)
            .into_iter()
            .filter_map(|(began, late)| {
                let unnamed = self.late.add(began, late)?;
                Some((began, unnamed))
            });
        *late = unnamed.collect();
    }
}

fn peer_gone_in_handshake<L: Listener>(error: &(dyn std::error::Error + 'static)) -> bool {
    <L::Handshake as Handshake<L::Io, L::Addr>>::is_peer_gone(error)
}

/// Events of children and listeners.
impl<R: Runtime, L: Listener> PoolShared<R, L> {
    pub(crate) fn accept_error(&self, error: &io::Error) -> AcceptErrorKind {
        let classifiers = lock(&self.state).spec.settings.classifiers();
        classifiers.accept_error(error)
    }

    /// Returns how a connection ends, given the exit of `serve`.
    pub(crate) fn child_end(&self, exit: Exit) -> ChildEnd {
        match exit.0 {
            ExitKind::Normal => ChildEnd::Normal,
            ExitKind::Clean(reason) => ChildEnd::Clean(reason),
            ExitKind::Disconnected(error) => ChildEnd::Disconnected(error.into_shared()),
            ExitKind::Failed(error) => ChildEnd::Error(error.into_shared()),
            ExitKind::Error(error) => {
                let classifiers = lock(&self.state).spec.settings.classifiers();
                let is_gone = {
                    let error = error.as_error();
                    let of_handshake = catch_panic(|| peer_gone_in_handshake::<L>(error));
                    of_handshake.unwrap_or(false) || classifiers.is_peer_gone(error)
                };
                match is_gone {
                    true => ChildEnd::Disconnected(error.into_shared()),
                    false => ChildEnd::Error(error.into_shared()),
                }
            }
        }
    }

    /// Handles a closed socket. `failure` is the reason if the listener was not asked to close (L4,
    /// L8).
    pub(crate) fn socket_closed(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        failure: Option<Shared<io::Error>>,
    ) {
        if let Some(error) = &failure {
            listener.fail(error.clone());
        }
        listener.signals.draining.raise();
        let now = self.time();
        self.handle_event_of(listener.tag.as_ref(), |state, effects| {
            let report = failure.as_ref().map(|error| {
                |listeners_left| Event::ListenerFailed {
                    listener: listener.id,
                    local_addr: listener.local_addr.clone(),
                    listeners_left,
                    error: Arc::clone(error),
                }
            });
            // If the pool ended without it, its children have been woken, and a handle would keep
            // the listener.
            if state.machine.state() != PoolState::Stopped {
                let wakes = Arc::clone(listener);
                state.to_wake.insert(listener.id, wakes);
            }
            let table = &mut lock(&listener.children).table;
            let reason = state
                .machine
                .socket_closed(table, listener.id, now, report, effects);
            listener.signals.level.raise(Command::Close(reason));
        });
    }

    #[inline]
    pub(crate) fn ended(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        id: ChildId,
        end: ChildEnd,
    ) {
        // Most ends are of these kinds, and most of them have no consequences.
        let unnoticed = match &end {
            ChildEnd::Normal | ChildEnd::Clean(_) => true,
            ChildEnd::Disconnected(_) | ChildEnd::HandshakeFailed(..) => {
                LevelFilter::current() < LevelFilter::DEBUG
            }
            _ => false,
        };
        if unnoticed {
            // The address is a user value, and so is the error of a peer that is gone.
            let left = lock(&listener.children).left(id, &end);
            if let Some((_peer, slots)) = left {
                if !slots.is_empty() {
                    listener.capacity.release(slots);
                }
                if !matches!(end, ChildEnd::Normal) {
                    drop(DropCatching::new(end));
                }
                return self.exhaustion.connection_ended();
            }
        }
        self.ended_with_effects(listener, id, end);
    }

    #[cold]
    fn ended_with_effects(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        id: ChildId,
        end: ChildEnd,
    ) {
        let now = self.time();
        let (role, slots) = self.handle_event_of(listener.tag.as_ref(), |state, effects| {
            let children = &mut *lock(&listener.children);
            state
                .machine
                .ended(&mut children.table, id, end, now, effects);
            let gone = effects.gone.as_ref().map(|row| (row.role(), row.slot));
            match gone {
                Some((Role::Connection, slot)) => (Some(Role::Connection), children.slots(slot)),
                gone => (gone.map(|(role, _)| role), Scopes::NONE),
            }
        });
        listener.capacity.release(slots);
        // Only connections: an acceptor that ends while its listener pauses would make the pauses
        // as short as its timeout.
        if role == Some(Role::Connection) {
            self.exhaustion.connection_ended();
        }
    }

    /// Leaves the start of a child to the driver.
    pub(crate) fn start_later(
        self: &Arc<Self>,
        listener: &Arc<ListenerShared<R, L>>,
        child: ChildId,
        delay: Duration,
    ) {
        let listener = Arc::clone(listener);
        lock(&self.state).later.push(Later {
            listener,
            child,
            delay,
        });
        self.driver.notify();
    }
}
