//! The history of a pool: its callbacks record their events here, and find here how they are to behave.
//!
//! Invariant: an event is recorded before its consequences begin, so that the order of the history is the order of the world.
//! The history is never locked while the pool or the network is called.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use acceptor_core::{
    ChildId, ConnectionRecord, GuardedStream, Latch, Lifecycle, ListenerId, ListenerInfo, Runtime,
};

use super::event::{Call, Event};
use super::handle::Handle;
use super::model::{Check, Violation, violation};
use super::{Behaviour, Reload};
use acceptor_simulation::{Network, SimulatedStream, Simulation};

/// The state that the callbacks of one pool share.
pub(super) struct History {
    pub(super) seed: u64,
    simulation: Simulation,
    network: Network,
    records: Mutex<Records>,
    /// Each state, and each acceptor, keeps a clone until it is dropped.
    pub(super) state_token: Arc<()>,
    pub(super) acceptor_token: Arc<()>,
}

#[derive(Default)]
struct Records {
    events: Vec<Event>,
    /// How often acceptors woke themselves, or asked for a wake without an event.
    wakes: u64,
    /// The children whose callbacks were polled.
    polled: Vec<ChildId>,
    /// Whether an observer has a report at this moment.
    reporting: bool,
    /// The first violation that a callback saw.
    violation: Option<Violation>,
    handle: Option<Handle>,
    behaviour: Behaviour,
    reload: (Reload, u32),
    serving: BTreeMap<ChildId, Serving>,
    closed: BTreeMap<ListenerId, Closed>,
    /// The streams of connections whose `serve` has returned (E6).
    kept: BTreeMap<ChildId, GuardedStream<SimulatedStream>>,
    /// How many connections were given up, and still have their streams.
    abandoned: usize,
}

/// The signals of a connection.
struct Serving {
    lifecycle: Lifecycle,
    /// The stop signal, each time that the connection took it.
    stop: Vec<Latch>,
    /// The signals for which the connection waits, and their rules.
    awaited: Vec<(&'static str, Latch)>,
}

/// The view of the acceptors of their listener's close.
struct Closed {
    address: SocketAddr,
    signal: Latch,
    socket_is_open: bool,
}

impl History {
    pub(super) fn new(seed: u64, simulation: &Simulation, network: &Network) -> Arc<Self> {
        Arc::new(Self {
            seed,
            simulation: simulation.clone(),
            network: network.clone(),
            records: Mutex::default(),
            state_token: Arc::new(()),
            acceptor_token: Arc::new(()),
        })
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, event: Event) {
        self.records().events.push(event);
    }

    /// Moves the new events, and the children whose callbacks were polled, to the ends of these lists. Returns how often
    /// acceptors woke themselves.
    pub(super) fn take(&self, events: &mut Vec<Event>, polled: &mut Vec<ChildId>) -> u64 {
        let mut records = self.records();
        events.append(&mut records.events);
        polled.append(&mut records.polled);
        std::mem::take(&mut records.wakes)
    }

    /// An acceptor wakes itself this often, or will be woken.
    pub(super) fn wakes(&self, count: u64) {
        self.records().wakes += count;
    }

    /// A callback of this child is polled.
    pub(super) fn polls(&self, child: ChildId) {
        self.records().polled.push(child);
    }

    /// An observer gets a report: one at a time (O1).
    pub(super) fn begins_report(&self) {
        if std::mem::replace(&mut self.records().reporting, true) {
            let expected = "an observer gets one report at a time";
            self.record(violation("O1", expected, "two at once"));
        }
    }

    pub(super) fn ends_report(&self) {
        self.records().reporting = false;
    }

    /// Records the first violation that a callback saw.
    pub(super) fn record(&self, check: Check) {
        if let Err(violation) = check {
            self.records().violation.get_or_insert(violation);
        }
    }

    pub(super) fn take_violation(&self) -> Check {
        self.records().violation.take().map_or(Ok(()), Err)
    }

    pub(super) fn set_handle(&self, handle: Option<Handle>) {
        let before = std::mem::replace(&mut self.records().handle, handle);
        drop(before);
    }

    pub(super) fn handle(&self) -> Option<Handle> {
        self.records().handle.clone()
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        self.records().behaviour
    }

    pub(super) fn set_behaviour(&self, behaviour: Behaviour) {
        self.records().behaviour = behaviour;
    }

    /// The next result of the init function, and the generation of its spec.
    pub(super) fn reload(&self) -> (Reload, u32) {
        self.records().reload
    }

    pub(super) fn set_reload(&self, reload: Reload, generation: u32) {
        self.records().reload = (reload, generation);
    }

    pub(super) fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let runtime = self.simulation.runtime();
        async move { runtime.sleep_until(runtime.now() + time).await }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.simulation.runtime().spawn(task);
    }

    pub(super) fn keep(&self, child: ChildId, stream: GuardedStream<SimulatedStream>) {
        self.records().kept.insert(child, stream);
    }

    /// The connections whose streams are kept.
    pub(super) fn kept(&self) -> Vec<ChildId> {
        self.records().kept.keys().copied().collect()
    }

    /// Takes out a stream, so that the caller drops it with its guard.
    pub(super) fn take_kept(&self, child: ChildId) -> Option<GuardedStream<SimulatedStream>> {
        self.records().kept.remove(&child)
    }

    pub(super) fn set_abandoned(&self, abandoned: usize) {
        self.records().abandoned = abandoned;
    }

    pub(super) fn drop_kept(&self) {
        let kept = std::mem::take(&mut self.records().kept);
        drop(kept);
    }

    /// For each connection whose stream is kept: whether its guard says that it was killed.
    pub(super) fn kills(&self) -> Vec<(ChildId, bool)> {
        let records = self.records();
        let kept = records.kept.iter();
        kept.map(|(child, stream)| (*child, stream.guard().killed().is_set()))
            .collect()
    }

    /// Calls the pool from a callback of this child, or from an observer with a report about this child.
    pub(super) fn call(&self, child: ChildId, listener: ListenerId, call: Call) {
        let Some(handle) = self.handle() else { return };
        self.push(Event::Called {
            child,
            listener,
            call,
        });
        match call {
            Call::Stop => handle.stop(),
            Call::Kill => handle.kill(),
            Call::StopItself => drop(handle.stop_child(child)),
            Call::KillItself => drop(handle.kill_child(child)),
            Call::CloseListener => drop(handle.close_listener(listener)),
        }
    }

    /// Checks in a callback that the counts are exact (Q3): a connection is counted from its accept until its stream is gone.
    pub(super) fn look(&self, from: &str) {
        let Some(handle) = self.handle() else { return };
        let Ok(counts) = handle.counts() else { return };
        let open = self.network.open_streams() - self.records().abandoned;
        if counts.connections != open {
            let expected = format!("in {from}: {open} connections, as many as streams");
            self.record(violation("Q3", expected, counts.to_string()));
        }
    }

    /// Checks in the observer that the address of a failed listener can be bound again (L8).
    pub(super) fn binds(&self, address: SocketAddr) {
        if let Err(error) = self.network.listen(address) {
            let expected =
                format!("{address} can be bound when the listener's failure is reported");
            self.record(violation("L8", expected, error.to_string()));
        }
    }

    /// Checks in the observer that a child is gone when its end is reported (E2).
    pub(super) fn look_for(&self, child: ChildId, peer: Option<SocketAddr>) {
        self.look("the observer");
        let found = |record: &ConnectionRecord<SocketAddr>| {
            record.id == child || Some(record.peer_addr) == peer
        };
        if let Some(record) = self.connections().iter().find(|record| found(record)) {
            let expected = format!("{child} is gone when its end is reported");
            self.record(violation("E2", expected, format!("it is listed: {record}")));
        }
    }

    pub(super) fn connections(&self) -> Vec<ConnectionRecord<SocketAddr>> {
        let listed = self.handle().and_then(|handle| handle.connections().ok());
        listed.unwrap_or_default()
    }

    pub(super) fn serves(&self, child: ChildId, lifecycle: Lifecycle) {
        let serving = Serving {
            lifecycle,
            stop: Vec::new(),
            awaited: Vec::new(),
        };
        self.records().serving.insert(child, serving);
    }

    pub(super) fn traps(&self, child: ChildId, stop: Latch) {
        if let Some(serving) = self.records().serving.get_mut(&child) {
            serving.stop.push(stop);
        }
    }

    pub(super) fn awaits(&self, child: ChildId, latches: Vec<(&'static str, Latch)>) {
        if let Some(serving) = self.records().serving.get_mut(&child) {
            serving.awaited = latches;
        }
    }

    /// A connection that waits for a signal which is set, and the rule of the signal.
    pub(super) fn missed_signal(&self) -> Option<(&'static str, ChildId)> {
        let records = self.records();
        records.serving.iter().find_map(|(child, serving)| {
            let mut awaited = serving.awaited.iter();
            let (rule, _) = awaited.find(|(_, latch)| latch.is_set())?;
            Some((*rule, *child))
        })
    }

    pub(super) fn served(&self, child: ChildId) {
        let serving = self.records().serving.remove(&child);
        drop(serving);
    }

    /// For each connection in `serve`: whether *draining* is set, and *stop*, each time that the connection took it.
    pub(super) fn latches(&self) -> Vec<(ChildId, bool, Vec<bool>)> {
        let records = self.records();
        let serving = records.serving.iter();
        serving
            .map(|(child, serving)| {
                let stop = serving.stop.iter().map(Latch::is_set).collect();
                (*child, serving.lifecycle.draining().is_set(), stop)
            })
            .collect()
    }

    pub(super) fn knows_closed(&self, listener: &ListenerInfo<SocketAddr>) {
        let mut records = self.records();
        records.closed.entry(listener.id).or_insert_with(|| Closed {
            address: listener.local_addr,
            signal: listener.closed.clone(),
            socket_is_open: true,
        });
    }

    /// A socket is about to be closed: the signal that it is closed must not be set yet (L3).
    pub(super) fn closes(&self, address: SocketAddr) {
        let mut records = self.records();
        let mut known = records.closed.values_mut();
        let known = known.find(|known| known.address == address && known.socket_is_open);
        let Some(known) = known else { return };
        known.socket_is_open = false;
        let early = known.signal.is_set();
        drop(records);
        if early {
            let expected = format!("{address} is closed before its signal is set");
            self.record(violation("L3", expected, "it is open"));
        }
    }

    /// For each listener on which an acceptor began: whether its acceptors see that it is closed.
    pub(super) fn closed(&self) -> Vec<(ListenerId, bool)> {
        let records = self.records();
        let closed = records.closed.iter();
        closed
            .map(|(listener, closed)| (*listener, closed.signal.is_set()))
            .collect()
    }

    /// How many states, and how many acceptors, are not dropped.
    pub(super) fn left(&self) -> (usize, usize) {
        let left = |token: &Arc<()>| Arc::strong_count(token) - 1;
        (left(&self.state_token), left(&self.acceptor_token))
    }
}
