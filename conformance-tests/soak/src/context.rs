//! What one pool is configured to be, and what its clients, its acceptors and the fault injection share.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acceptor_core::{ChildId, Grace, Restart, Shutdown};
use fastrand::Rng;

use crate::history::{Event, History, lock};
use crate::process;
use conformance_tests::Patience;

/// How a pool is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopMode {
    /// By `stop`, with no clients except some whose end is known beforehand.
    AtRest,
    /// By `stop`, while clients come and go; the others below are under load, too.
    UnderLoad,
    /// By too many failures.
    Intensity,
    /// By `kill`.
    Killed,
    OwnerDropped,
}

impl StopMode {
    pub(crate) const ALL: [StopMode; 5] = [
        StopMode::AtRest,
        StopMode::UnderLoad,
        StopMode::Intensity,
        StopMode::Killed,
        StopMode::OwnerDropped,
    ];
}

/// The configuration of one pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) stop: StopMode,
    pub(crate) restart: Restart,
    pub(crate) intensity: u32,
    pub(crate) period: Duration,
    pub(crate) lame_duck: Duration,
    pub(crate) grace: Grace,
    pub(crate) shutdown: Shutdown,
    /// Whether the descriptors run out before the stop at rest.
    pub(crate) exhausts: bool,
}

/// Longer than any pool runs.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

impl Setup {
    /// The setup of the pool with this number: the stop modes take turns.
    pub(crate) fn of(number: usize, random: &mut Rng) -> Self {
        let stop = StopMode::ALL[number % StopMode::ALL.len()];
        // A pool survives all faults because it allows so many, or because they do not count.
        let (restart, intensity, period) = match stop {
            StopMode::Intensity => (Restart::Transient, random.u32(3..200), FOREVER),
            _ if random.bool() => (Restart::Transient, u32::MAX, Duration::from_secs(5)),
            _ => (Restart::Temporary, 0, Duration::from_secs(5)),
        };
        let mut below = |limit| Duration::from_millis(random.u64(0..limit));
        let (lame_duck, grace, shutdown) = (below(40), below(40).into(), below(200).into());
        let (grace, shutdown) = match (stop, random.u32(0..4)) {
            (_, 0) => (grace, Shutdown::Kill),
            // The clients that stay are killed by `kill`, once the others have gone.
            (StopMode::AtRest, 1) => (grace, Shutdown::Unlimited),
            (StopMode::AtRest, _) => (grace, FOREVER.into()),
            // Every other client leaves by itself.
            (_, 1) => (Grace::Unlimited, shutdown),
            _ => (grace, shutdown),
        };
        Self {
            stop,
            restart,
            intensity,
            period,
            lame_duck: random
                .choice([lame_duck, Duration::ZERO])
                .unwrap_or_default(),
            grace,
            shutdown,
            exhausts: process::CAN_EXHAUST && (number / StopMode::ALL.len()) % 2 == 0,
        }
    }
}

/// What the init function of the pool answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum InitAnswer {
    #[default]
    Use,
    Ignore,
    Error,
    Panic,
}

/// So many acceptors are remembered, to be stopped or killed.
const REMEMBERED: usize = 32;

/// What the clients, the acceptors and the fault injection of one pool share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) setup: Setup,
    pub(crate) patience: Patience,
    pub(crate) history: History,
    pub(crate) answer: Mutex<InitAnswer>,
    pub(crate) clients_leave: AtomicBool,
    /// Connections of all pools of the runtime.
    pub(crate) connections: Arc<AtomicU64>,
    /// The open listeners, by number.
    listeners: Mutex<Vec<(usize, SocketAddr)>>,
    acceptors: Mutex<VecDeque<ChildId>>,
    random: Mutex<Rng>,
}

impl Context {
    pub(crate) fn new(
        setup: Setup,
        patience: Patience,
        random: Rng,
        connections: &Arc<AtomicU64>,
    ) -> Arc<Self> {
        let context = Self {
            setup,
            patience,
            history: History::default(),
            answer: Mutex::default(),
            clients_leave: AtomicBool::new(false),
            connections: Arc::clone(connections),
            listeners: Mutex::default(),
            acceptors: Mutex::default(),
            random: Mutex::new(random),
        };
        if setup.stop == StopMode::Intensity {
            context.history.record(Event::Stopping);
        }
        Arc::new(context)
    }

    /// A source of chance of its own.
    pub(crate) fn random(&self) -> Rng {
        lock(&self.random).fork()
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn opens(&self, listener: usize, address: SocketAddr) {
        lock(&self.listeners).push((listener, address));
    }

    /// From now on clients may be refused there, and no others begin to connect.
    pub(crate) fn closes(&self, listener: usize) {
        lock(&self.listeners).retain(|(open, _)| *open != listener);
        self.history.record(Event::Closing(listener));
    }

    /// One of the open listeners.
    pub(crate) fn listener(&self, random: &mut Rng) -> Option<(usize, SocketAddr)> {
        random.choice(lock(&self.listeners).iter()).copied()
    }

    pub(crate) fn remember(&self, acceptor: ChildId) {
        let mut acceptors = lock(&self.acceptors);
        if acceptors.len() == REMEMBERED {
            acceptors.pop_front();
        }
        acceptors.push_back(acceptor);
    }

    /// An acceptor that began lately; it may be a connection by now, or have ended.
    pub(crate) fn acceptor(&self, random: &mut Rng) -> Option<ChildId> {
        random.choice(lock(&self.acceptors).iter()).copied()
    }
}
