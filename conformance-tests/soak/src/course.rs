//! A runtime that is soaked: one pool after the other, until it is over.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::life::{Lived, Until, live};
use super::plan::{ENDINGS, Plan};
use super::process;
use super::totals::Totals;
use conformance_tests::Broken;
use conformance_tests::Patience;
use conformance_tests::World;

/// A runtime to soak.
#[derive(Clone)]
pub struct Course {
    pub(super) runtime: &'static str,
    pub(super) title: &'static str,
    soak: Arc<dyn Fn(&Task) -> Soaked + Send + Sync>,
}

impl fmt::Debug for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Course")
            .field("runtime", &self.runtime)
            .field("title", &self.title)
            .finish_non_exhaustive()
    }
}

impl Course {
    /// A runtime, in worlds that `world` makes. `runtime` chooses it, `title` heads what is told of it.
    ///
    /// The worlds must be of real sockets, for the clients are the standard library's; and their
    /// tasks must run though nobody is in [`World::run`], as those of a runtime with threads of its own do.
    pub fn new<W: World>(
        runtime: &'static str,
        title: &'static str,
        world: impl Fn() -> W + Send + Sync + 'static,
    ) -> Self {
        Self {
            runtime,
            title,
            soak: Arc::new(move |task| task.soak(&world)),
        }
    }

    pub(super) fn soak(&self, task: &Task) -> Soaked {
        (self.soak)(task)
    }
}

/// What a runtime is to go through.
pub(super) struct Task {
    pub(super) seed: u64,
    pub(super) patience: Patience,
    pub(super) until: Until,
    /// Whether it is to be over before that.
    pub(super) over: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether nobody wants to know any more.
    pub(super) abandoned: AtomicBool,
    pub(super) gauges: Gauges,
}

/// How far a runtime has come, for who looks on.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// When it began to count.
    pub(super) began: OnceLock<Instant>,
    pub(super) connections: Arc<AtomicU64>,
    pub(super) pools: AtomicU64,
}

/// What a runtime came to.
#[derive(Debug, Default)]
pub(super) struct Soaked {
    pub(super) totals: Totals,
    pub(super) took: Duration,
    pub(super) before: Option<usize>,
    pub(super) after: Option<usize>,
    pub(super) wrong: Vec<Wrong>,
}

/// Something that does not add up.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Where it was seen.
    pub(super) place: String,
    pub(super) broken: Broken,
}

/// The longest that a pool is meddled with, in milliseconds; and the shortest.
const MEDDLED_WITH: std::ops::Range<u64> = 200..3_000;

/// How many connections each of the first pools has, of which there is one of each ending, and which are not counted.
const OF_THE_FIRST: u64 = 40;

/// How long the descriptors of a runtime that was just dropped are waited for. Some are kept: of a poller that the process has once.
const KEPT: Duration = Duration::from_secs(2);

impl Task {
    fn soak<W: World>(&self, make: &impl Fn() -> W) -> Soaked {
        let mut soaked = Soaked::default();
        let mut random = Rng::with_seed(self.seed);
        self.make_what_is_kept(make, &mut random, &mut soaked);
        soaked.before = process::descriptors();
        let world = Arc::new(make());
        let began = *self.gauges.began.get_or_init(Instant::now);
        let share = (self.until.connections / ENDINGS).max(1);
        for number in 0.. {
            let made = self.gauges.connections.load(Ordering::Relaxed);
            let now = Instant::now();
            // However few connections: each ending has its turn.
            let enough = made >= self.until.connections && number >= ENDINGS;
            if enough || self.is_over(now) || !soaked.wrong.is_empty() {
                break;
            }
            let meddled_with = Duration::from_millis(random.u64(MEDDLED_WITH));
            let until = Until {
                time: self.until.time.min(now + meddled_with),
                connections: made.saturating_add(share),
            };
            let made_ever = &self.gauges.connections;
            if let Some(lived) =
                self.live(&world, number, until, &mut random, made_ever, &mut soaked)
            {
                soaked.totals.add(&lived);
                self.gauges.pools.fetch_add(1, Ordering::Relaxed);
            }
        }
        soaked.took = began.elapsed();
        drop(world);
        soaked.after = descriptors_down_to(soaked.before, self.patience.length());
        if soaked.after > soaked.before {
            let broken = conformance_tests::same("open descriptors", soaked.before, soaked.after);
            let place = "once the runtime is gone".to_owned();
            let wrong = broken.err().map(|broken| Wrong { place, broken });
            soaked.wrong.extend(wrong);
        }
        soaked
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.until.time || (self.over)() || self.abandoned.load(Ordering::Relaxed)
    }

    /// A runtime before the one that is looked at: what a process makes once, and keeps, is there then.
    fn make_what_is_kept<W: World>(
        &self,
        make: &impl Fn() -> W,
        random: &mut Rng,
        soaked: &mut Soaked,
    ) {
        let cold = process::descriptors();
        let world = Arc::new(make());
        let made_ever = Arc::default();
        for number in 0..ENDINGS {
            let until = Until {
                time: self.until.time,
                connections: (number + 1) * OF_THE_FIRST,
            };
            let lived = self.live(&world, number, until, random, &made_ever, soaked);
            if lived.is_none() {
                break;
            }
        }
        drop(world);
        descriptors_down_to(cold, KEPT);
    }

    fn live<W: World>(
        &self,
        world: &Arc<W>,
        number: u64,
        until: Until,
        random: &mut Rng,
        made_ever: &Arc<AtomicU64>,
        soaked: &mut Soaked,
    ) -> Option<Lived> {
        let plan = Plan::of(number, random);
        let lived = live(world, plan, until, self.patience, random.fork(), made_ever);
        let place = || format!("in pool {number}, {plan:?}");
        let (lived, wrong) = match lived {
            Ok(lived) => (Some(lived), Vec::new()),
            Err(wrong) => (None, wrong),
        };
        let wrong = wrong.into_iter().map(|broken| Wrong {
            place: place(),
            broken,
        });
        soaked.wrong.extend(wrong);
        lived
    }
}

/// Waits until there are no more descriptors than these, and not for ever; how many there are then.
fn descriptors_down_to(few: Option<usize>, patience: Duration) -> Option<usize> {
    let give_up = Instant::now() + patience;
    loop {
        let now = process::descriptors();
        if now <= few || Instant::now() >= give_up {
            return now;
        }
        // There is no signal for a closed descriptor.
        thread::sleep(Duration::from_millis(1));
    }
}
