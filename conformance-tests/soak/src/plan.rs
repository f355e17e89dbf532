//! What one pool is to be: how it is configured, and how it will be brought to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acceptor_core::{BoxError, Configure, Grace, Restart, Shutdown, Spec, observer_fn};
use fastrand::Rng;

use super::account::Ending;
use super::exhaustion;
use super::ledger::Fate;
use super::scene::Scene;
use super::server::Server;
use conformance_tests::World;

/// How many ways to end there are.
pub(super) const ENDINGS: u64 = 5;

/// What one pool is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) ending: Ending,
    pub(super) restart: Restart,
    intensity: u32,
    period: Duration,
    lame_duck: Duration,
    grace: Grace,
    pub(super) shutdown: Shutdown,
    pub(super) descriptors: Descriptors,
}

/// Whether there are enough of them all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Descriptors {
    Suffice,
    /// For a moment, in which the pool is at rest.
    RunOut,
}

/// Longer than any pool lives.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

impl Plan {
    /// The plan of the pool with this number: each ending has its turn.
    pub(super) fn of(number: u64, random: &mut Rng) -> Self {
        let ending = match number % ENDINGS {
            0 => Ending::AtRest,
            1 => Ending::UnderWay,
            2 => Ending::Intensity(random.u32(3..200)),
            3 => Ending::Killed,
            _ => Ending::OwnerDropped,
        };
        // The pool survives whatever happens to it: because so much is allowed, or because it does not count.
        let (restart, intensity) = match (ending, random.bool()) {
            (Ending::Intensity(intensity), _) => (Restart::Transient, intensity),
            (_, true) => (Restart::Transient, u32::MAX),
            (_, false) => (Restart::Temporary, 0),
        };
        let period = match ending {
            Ending::Intensity(_) => FOR_EVER,
            _ => Duration::from_secs(5),
        };
        let mut some = |most| Duration::from_millis(random.u64(0..most));
        let (lame_duck, grace, shutdown) = (some(40), Grace::Within(some(40)), some(200));
        let (grace, shutdown) = match (ending, random.u32(0..4)) {
            // Those that stay are killed through the handle, once all others have gone.
            (Ending::AtRest, 0) => (grace, Shutdown::Kill),
            (Ending::AtRest, 1) => (grace, Shutdown::Unlimited),
            (Ending::AtRest, _) => (grace, Shutdown::Within(FOR_EVER)),
            (_, 0) => (grace, Shutdown::Kill),
            // The clients all leave by themselves.
            (_, 1) => (Grace::Unlimited, shutdown.into()),
            _ => (grace, shutdown.into()),
        };
        Self {
            ending,
            restart,
            intensity,
            period,
            lame_duck: if random.bool() {
                lame_duck
            } else {
                Duration::ZERO
            },
            grace,
            shutdown,
            descriptors: if exhaustion::POSSIBLE && (number / ENDINGS) % 2 == 0 {
                Descriptors::RunOut
            } else {
                Descriptors::Suffice
            },
        }
    }

    pub(super) fn fate(&self) -> Fate {
        match self.ending {
            Ending::Intensity(_) => Fate::MayStop,
            _ => Fate::Runs,
        }
    }
}

/// What the init function of a pool answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Use,
    Ignore,
    Error,
    Panic,
}

/// Makes the specs of one pool.
pub(super) struct Specs<W> {
    pub(super) world: Arc<W>,
    pub(super) scene: Arc<Scene>,
    pub(super) plan: Plan,
    pub(super) answer: Mutex<Answer>,
}

/// The id of the spec that the init function answers.
pub(super) const OF_INIT: &str = "of init";

impl<W: World> Specs<W> {
    pub(super) fn spec(&self, id: &str) -> Spec<Server<W>> {
        let plan = self.plan;
        let server = Server {
            world: Arc::clone(&self.world),
            scene: Arc::clone(&self.scene),
        };
        let scene = Arc::clone(&self.scene);
        Spec::new(id, server)
            .restart(plan.restart)
            .intensity(plan.intensity)
            .period(plan.period)
            .lame_duck(plan.lame_duck)
            .grace(plan.grace)
            .shutdown(plan.shutdown)
            .kill_timeout(self.scene.patience.length())
            .observer(observer_fn(move |report| scene.ledger.reported(report)))
    }

    /// The init function of the pool.
    pub(super) fn init(&self) -> Result<Configure<Server<W>>, BoxError> {
        let answer = *self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Answer::Use => Ok(Configure::Use(self.spec(OF_INIT))),
            Answer::Ignore => Ok(Configure::Ignore),
            Answer::Error => Err("an error of the init function, as planned".into()),
            Answer::Panic => std::panic::resume_unwind(Box::new("a panic, as planned")),
        }
    }

    pub(super) fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}
