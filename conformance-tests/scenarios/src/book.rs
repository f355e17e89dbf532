//! What the callbacks of a scenario write down, and what they ask for.
//!
//! Invariant: everything is written down before its consequence begins, so that
//! the order of the book is the order of the world. The book is never locked
//! while the pool or the network is called.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use acceptor_core::{ChildId, GuardedStream, Latch, Lifecycle, ListenerId, ListenerInfo, Runtime};

use super::event::{Call, Event};
use super::handle::Handle;
use super::{Reload, Weather};
use acceptor_simulation::{Network, SimulatedStream, Simulation};

/// What the callbacks of one pool share.
pub(super) struct Book {
    pub(super) seed: u64,
    simulation: Simulation,
    network: Network,
    pages: Mutex<Pages>,
}

struct Pages {
    events: Vec<Event>,
    /// How often acceptors woke themselves, or asked to be woken for what is no event.
    wakes: u64,
    /// The children whose callbacks were polled.
    polled: Vec<ChildId>,
    /// Whether an observer has a report at this moment.
    reporting: bool,
    /// What a callback saw itself that must not be: rule, expected, seen.
    broken: Option<(&'static str, String, String)>,
    handle: Option<Handle>,
    weather: Weather,
    reload: (Reload, u32),
    serving: BTreeMap<ChildId, Serving>,
    closed: BTreeMap<ListenerId, Closed>,
    /// The streams of connections whose `serve` has returned (E6).
    kept: BTreeMap<ChildId, GuardedStream<SimulatedStream>>,
    /// How many connections were given up, and have their streams.
    abandoned: usize,
    states: usize,
    acceptors: usize,
}

/// What can be asked of a connection from outside.
pub(super) struct Serving {
    pub(super) lifecycle: Lifecycle,
    /// Each time that it took the stop signal.
    pub(super) stop: Vec<Latch>,
    /// What it waits for just now, and the rule by which it is told.
    pub(super) awaited: Vec<(&'static str, Latch)>,
}

/// What acceptors know of their listener's end.
struct Closed {
    address: SocketAddr,
    signal: Latch,
    socket: SocketState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketState {
    Open,
    Closed,
}

impl Book {
    pub(super) fn new(seed: u64, simulation: &Simulation, network: &Network) -> Arc<Self> {
        Arc::new(Self {
            seed,
            simulation: simulation.clone(),
            network: network.clone(),
            pages: Mutex::new(Pages {
                events: Vec::new(),
                wakes: 0,
                polled: Vec::new(),
                reporting: false,
                broken: None,
                handle: None,
                weather: Weather::Fair,
                reload: (Reload::Ignore, 0),
                serving: BTreeMap::new(),
                closed: BTreeMap::new(),
                kept: BTreeMap::new(),
                abandoned: 0,
                states: 0,
                acceptors: 0,
            }),
        })
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, event: Event) {
        self.pages().events.push(event);
    }

    /// Moves what was written down since to the end of `events`.
    pub(super) fn take(&self, events: &mut Vec<Event>) {
        events.append(&mut self.pages().events);
    }

    /// An acceptor wakes itself so often, or is going to be woken.
    pub(super) fn wakes(&self, count: u64) {
        self.pages().wakes += count;
    }

    pub(super) fn take_wakes(&self) -> u64 {
        std::mem::take(&mut self.pages().wakes)
    }

    /// A callback of this child is polled.
    pub(super) fn polls(&self, child: ChildId) {
        self.pages().polled.push(child);
    }

    /// Moves the children whose callbacks were polled since to the end of `polled`.
    pub(super) fn take_polled(&self, polled: &mut Vec<ChildId>) {
        polled.append(&mut self.pages().polled);
    }

    /// An observer gets a report: one at a time (O1).
    pub(super) fn begins_report(&self) {
        if std::mem::replace(&mut self.pages().reporting, true) {
            let expected = "an observer gets one report at a time".to_owned();
            self.break_rule("O1", expected, "two at once".to_owned());
        }
    }

    pub(super) fn ends_report(&self) {
        self.pages().reporting = false;
    }

    pub(super) fn broken(&self) -> Option<(&'static str, String, String)> {
        self.pages().broken.take()
    }

    pub(super) fn set_handle(&self, handle: Option<Handle>) {
        let before = std::mem::replace(&mut self.pages().handle, handle);
        drop(before);
    }

    pub(super) fn handle(&self) -> Option<Handle> {
        let pages = self.pages();
        pages.handle.as_ref().map(|handle| handle.another())
    }

    pub(super) fn weather(&self) -> Weather {
        self.pages().weather
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.pages().weather = weather;
    }

    /// What the init function answers next, and of which generation the spec is.
    pub(super) fn reload(&self) -> (Reload, u32) {
        self.pages().reload
    }

    pub(super) fn set_reload(&self, reload: Reload, generation: u32) {
        self.pages().reload = (reload, generation);
    }

    pub(super) fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let runtime = self.simulation.runtime();
        async move { runtime.sleep_until(runtime.now() + time).await }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.simulation.runtime().spawn(task);
    }

    pub(super) fn keep(&self, child: ChildId, stream: GuardedStream<SimulatedStream>) {
        self.pages().kept.insert(child, stream);
    }

    /// The connections whose streams are kept.
    pub(super) fn kept(&self) -> Vec<ChildId> {
        self.pages().kept.keys().copied().collect()
    }

    /// Takes a stream out, to be dropped with its guard.
    pub(super) fn take_kept(&self, child: ChildId) -> Option<GuardedStream<SimulatedStream>> {
        self.pages().kept.remove(&child)
    }

    pub(super) fn set_abandoned(&self, abandoned: usize) {
        self.pages().abandoned = abandoned;
    }

    pub(super) fn drop_kept(&self) {
        let kept = std::mem::take(&mut self.pages().kept);
        drop(kept);
    }

    /// For each connection whose stream is kept: whether its guard says that it was killed.
    pub(super) fn kills(&self) -> Vec<(ChildId, bool)> {
        let pages = self.pages();
        let kept = pages.kept.iter();
        kept.map(|(child, stream)| (*child, stream.guard().killed().is_set()))
            .collect()
    }

    /// Calls the pool from within a callback of this child's, or from one that is told of it.
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

    /// Looks from within a callback whether the counts are exact (Q3): a connection is one from when it was
    /// accepted until its stream is gone.
    pub(super) fn look(&self, from: &str) {
        let Some(handle) = self.handle() else { return };
        let Ok(counts) = handle.counts() else { return };
        let open = self.network.open_streams() - self.pages().abandoned;
        if counts.connections != open {
            self.break_rule(
                "Q3",
                format!("from within {from}: {open} connections, as many as there are streams"),
                format!("{counts}"),
            );
        }
    }

    /// Looks from within the observer whether the address of a listener that failed can be bound again (L8).
    pub(super) fn binds(&self, address: SocketAddr) {
        if let Err(error) = self.network.listen(address) {
            let expected =
                format!("{address} can be bound when the listener's failure is reported");
            self.break_rule("L8", expected, error.to_string());
        }
    }

    /// Looks from within the observer whether what is reported to have ended is gone (E2).
    pub(super) fn look_for(&self, child: ChildId, peer: Option<SocketAddr>) {
        self.look("the observer");
        let listed = self.handle().and_then(|handle| handle.connections().ok());
        let listed = listed.unwrap_or_default();
        let found = |record: &acceptor_core::ConnectionRecord<SocketAddr>| {
            record.id == child || Some(record.peer_addr) == peer
        };
        if let Some(record) = listed.iter().find(|record| found(record)) {
            self.break_rule(
                "E2",
                format!("{child} is gone when its end is reported"),
                format!("it is listed: {record}"),
            );
        }
    }

    pub(super) fn break_rule(&self, rule: &'static str, expected: String, seen: String) {
        self.pages().broken.get_or_insert((rule, expected, seen));
    }

    pub(super) fn serves(&self, child: ChildId, lifecycle: Lifecycle) {
        let serving = Serving {
            lifecycle,
            stop: Vec::new(),
            awaited: Vec::new(),
        };
        self.pages().serving.insert(child, serving);
    }

    pub(super) fn traps(&self, child: ChildId, stop: Latch) {
        if let Some(serving) = self.pages().serving.get_mut(&child) {
            serving.stop.push(stop);
        }
    }

    pub(super) fn awaits(&self, child: ChildId, latches: Vec<(&'static str, Latch)>) {
        if let Some(serving) = self.pages().serving.get_mut(&child) {
            serving.awaited = latches;
        }
    }

    /// A connection that waits for a signal which is set, and the rule by which it should have been told.
    pub(super) fn waits_in_vain(&self) -> Option<(&'static str, ChildId)> {
        let pages = self.pages();
        pages.serving.iter().find_map(|(child, serving)| {
            let mut awaited = serving.awaited.iter();
            let (rule, _) = awaited.find(|(_, latch)| latch.is_set())?;
            Some((*rule, *child))
        })
    }

    pub(super) fn served(&self, child: ChildId) {
        let serving = self.pages().serving.remove(&child);
        drop(serving);
    }

    /// For each connection in `serve`: whether it sees *draining*, and *stop*, as often as it took that.
    pub(super) fn latches(&self) -> Vec<(ChildId, bool, Vec<bool>)> {
        let pages = self.pages();
        let serving = pages.serving.iter();
        serving
            .map(|(child, serving)| {
                let stop = serving.stop.iter().map(Latch::is_set).collect();
                (*child, serving.lifecycle.draining().is_set(), stop)
            })
            .collect()
    }

    /// For each connection that took the stop signal: whether it sees it, as often as it took it.
    pub(super) fn stops(&self) -> Vec<(ChildId, Vec<bool>)> {
        let pages = self.pages();
        let serving = pages.serving.iter();
        let serving = serving.filter(|(_, serving)| !serving.stop.is_empty());
        let stops = serving.map(|(child, serving)| {
            let stops = serving.stop.iter().map(Latch::is_set);
            (*child, stops.collect())
        });
        stops.collect()
    }

    pub(super) fn knows_closed(&self, listener: &ListenerInfo<SocketAddr>) {
        let mut pages = self.pages();
        pages.closed.entry(listener.id).or_insert_with(|| Closed {
            address: listener.local_addr,
            signal: listener.closed.clone(),
            socket: SocketState::Open,
        });
    }

    /// A socket is about to be closed: nobody may have been told that it is (L3).
    pub(super) fn closes(&self, address: SocketAddr) {
        let mut pages = self.pages();
        let mut known = pages.closed.values_mut();
        let open =
            |known: &&mut Closed| known.address == address && known.socket == SocketState::Open;
        let Some(known) = known.find(open) else {
            return;
        };
        known.socket = SocketState::Closed;
        if known.signal.is_set() {
            let expected = format!("{address} is closed when those who wait for it are told");
            let seen = "it is open".to_owned();
            pages.broken.get_or_insert(("L3", expected, seen));
        }
    }

    /// For each listener that an acceptor began on: whether its acceptors see that it is closed.
    pub(super) fn closed(&self) -> Vec<(ListenerId, bool)> {
        let pages = self.pages();
        let closed = pages.closed.iter();
        closed
            .map(|(listener, closed)| (*listener, closed.signal.is_set()))
            .collect()
    }

    pub(super) fn count_state(&self) {
        self.pages().states += 1;
    }

    pub(super) fn uncount_state(&self) {
        self.pages().states -= 1;
    }

    pub(super) fn count_acceptor(&self) {
        self.pages().acceptors += 1;
    }

    pub(super) fn uncount_acceptor(&self) {
        self.pages().acceptors -= 1;
    }

    /// How many states, and how many acceptors as the user wrote them, are not dropped.
    pub(super) fn left(&self) -> (usize, usize) {
        let pages = self.pages();
        (pages.states, pages.acceptors)
    }
}
