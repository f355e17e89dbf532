//! The setup of one pool, and the state that its clients, its acceptors and the fault injection
//! share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use acceptor_core::{Grace, ListenerId, Restart, Settings, Shutdown};
use fastrand::Rng;

use crate::history::{History, lock};
use conformance_tests::Patience;

/// How a pool is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopMode {
    /// By `stop`, without clients except some whose end is known in advance.
    AtRest,
    /// By `stop`, while clients come and go. The modes below are under load, too.
    UnderLoad,
    /// By too many failures.
    Intensity,
    /// By `kill`.
    Killed,
    OwnerDropped,
}

/// The stop modes, in rotation.
pub(crate) const STOP_MODES: [StopMode; 5] = {
    use StopMode::{AtRest, Intensity, Killed, OwnerDropped, UnderLoad};
    [AtRest, UnderLoad, Intensity, Killed, OwnerDropped]
};

/// The setup of one pool.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) stop: StopMode,
    pub(crate) settings: Settings,
    /// Faults are injected until this time, or until there were enough connections.
    pub(crate) until: Instant,
    pub(crate) connections: u64,
}

/// Longer than any pool runs.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// For how many milliseconds faults are injected.
const INJECTION: std::ops::Range<u64> = 200..3_000;

impl Setup {
    /// Creates the setup of the pool with this number.
    pub(crate) fn new(number: usize, patience: Patience, random: &mut Rng) -> Self {
        let stop = STOP_MODES[number % STOP_MODES.len()];
        let mut settings = Settings::new("init");
        settings.kill_timeout = patience.length();
        // A pool survives all faults because its intensity allows them, or because they do not
        // count.
        (settings.restart, settings.intensity) = match (stop, random.bool()) {
            (StopMode::Intensity, _) => (Restart::Transient, random.u32(3..200)),
            (_, true) => (Restart::Transient, u32::MAX),
            (_, false) => (Restart::Temporary, 0),
        };
        if stop == StopMode::Intensity {
            settings.period = FOREVER;
        }
        let mut below = |limit| Duration::from_millis(random.u64(0..limit));
        // Half of the pools have none.
        settings.lame_duck = below(40).saturating_sub(Duration::from_millis(20));
        settings.grace = below(40).into();
        settings.shutdown = Some(below(200).into());
        match (stop, random.u32(0..4)) {
            (_, 0) => settings.shutdown = Some(Shutdown::Kill),
            // The clients that stay are killed by `kill`, once the others have ended.
            (StopMode::AtRest, 1) => settings.shutdown = Some(Shutdown::Unlimited),
            (StopMode::AtRest, _) => settings.shutdown = Some(FOREVER.into()),
            // Every other client ends by itself.
            (_, 1) => settings.grace = Grace::Unlimited,
            _ => {}
        }
        Self {
            stop,
            settings,
            until: Instant::now() + Duration::from_millis(random.u64(INJECTION)),
            connections: u64::MAX,
        }
    }
}

/// The result of the pool's init function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InitAnswer {
    Use,
    Ignore,
    Error,
    Panic,
}

/// An open listener: its id, the number of its acceptors, and its address.
pub(crate) type Open = (ListenerId, usize, SocketAddr);

/// The state that the clients, the acceptors and the fault injection of one pool share.
pub(crate) struct Context {
    pub(crate) setup: Setup,
    pub(crate) patience: Patience,
    pub(crate) history: History,
    pub(crate) init: Mutex<InitAnswer>,
    /// Whether the clients have to end.
    pub(crate) leave: AtomicBool,
    /// Connections of all pools of the runtime.
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) listeners: Mutex<Vec<Open>>,
    /// Cloned by each state of `init`, so that its count shows the live states.
    pub(crate) states: Arc<()>,
    pub(crate) random: Mutex<Rng>,
}

impl Context {
    /// Returns an independent random number generator.
    pub(crate) fn random(&self) -> Rng {
        lock(&self.random).fork()
    }

    /// Returns whether faults were injected for long enough.
    pub(crate) fn is_enough(&self) -> bool {
        let connections = self.connections.load(Ordering::Relaxed);
        Instant::now() >= self.setup.until || connections >= self.setup.connections
    }
}
