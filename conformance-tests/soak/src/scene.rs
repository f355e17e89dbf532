//! What the clients, the callbacks and whoever meddles with one pool share.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acceptor_core::{ChildId, Restart};
use fastrand::Rng;

use super::account::States;
use super::ledger::{Fate, Ledger};
use conformance_tests::Patience;

/// An open listener, as clients know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Counts up in each pool.
    pub(super) number: usize,
    /// Where clients connect to.
    pub(super) address: SocketAddr,
}

/// How many acceptors are remembered, so as to be stopped or killed.
const REMEMBERED: usize = 32;

/// What the clients, the callbacks and whoever meddles with one pool share.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) ledger: Ledger,
    pub(super) restart: Restart,
    pub(super) patience: Patience,
    places: Mutex<Vec<Place>>,
    /// The ids of the last that began.
    acceptors: Mutex<VecDeque<ChildId>>,
    pub(super) counters: Counters,
    seed: u64,
    draws: AtomicU64,
    clients_are_to_leave: AtomicBool,
    /// Connections, over all pools of the runtime.
    made_ever: Arc<AtomicU64>,
}

/// What the callbacks count. Each is read when all of them have come to an end.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) start_errors: Counter,
    pub(super) terminate_panics: Counter,
    pub(super) states_made: Counter,
    pub(super) states_served: Counter,
    pub(super) states_terminated: Counter,
    pub(super) states_forsaken: Counter,
    /// Counts up and down.
    pub(super) states_alive: Counter,
}

/// A number that any thread may count up.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn up(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn down(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Scene {
    pub(super) fn new(
        fate: Fate,
        restart: Restart,
        patience: Patience,
        seed: u64,
        made_ever: Arc<AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ledger: Ledger::new(fate),
            restart,
            patience,
            places: Mutex::default(),
            acceptors: Mutex::default(),
            counters: Counters::default(),
            seed,
            draws: AtomicU64::new(0),
            clients_are_to_leave: AtomicBool::new(false),
            made_ever,
        })
    }

    /// A source of chance that nobody else has.
    pub(super) fn random(&self) -> Rng {
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        Rng::with_seed(self.seed.wrapping_add(draw))
    }

    pub(super) fn connected(&self, from: SocketAddr) {
        self.made_ever.fetch_add(1, Ordering::Relaxed);
        self.ledger.connected(from);
    }

    pub(super) fn made_ever(&self) -> u64 {
        self.made_ever.load(Ordering::Relaxed)
    }

    pub(super) fn opens(&self, place: Place) {
        lock(&self.places).push(place);
    }

    /// No client begins to connect there any more, and those that do may be refused.
    pub(super) fn closes(&self, number: usize) {
        lock(&self.places).retain(|place| place.number != number);
        self.ledger.closes(number);
    }

    /// One of the open listeners, if there are any.
    pub(super) fn place(&self, random: &mut Rng) -> Option<Place> {
        random.choice(lock(&self.places).iter()).copied()
    }

    pub(super) fn remembers(&self, acceptor: ChildId) {
        let mut acceptors = lock(&self.acceptors);
        if acceptors.len() == REMEMBERED {
            acceptors.pop_front();
        }
        acceptors.push_back(acceptor);
    }

    /// An acceptor that began lately; it may be a connection by now, or have ended.
    pub(super) fn acceptor(&self, random: &mut Rng) -> Option<ChildId> {
        random.choice(lock(&self.acceptors).iter()).copied()
    }

    pub(super) fn sends_clients_away(&self) {
        self.clients_are_to_leave.store(true, Ordering::SeqCst);
    }

    pub(super) fn clients_are_to_leave(&self) -> bool {
        self.clients_are_to_leave.load(Ordering::SeqCst)
    }

    pub(super) fn states(&self) -> States {
        States {
            made: self.counters.states_made.value(),
            served: self.counters.states_served.value(),
            terminated: self.counters.states_terminated.value(),
            forsaken: self.counters.states_forsaken.value(),
        }
    }

    /// How often `init` failed and `terminate` panicked, as they were to.
    pub(super) fn planned_faults(&self) -> (u64, u64) {
        let counters = &self.counters;
        (
            counters.start_errors.value(),
            counters.terminate_panics.value(),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
