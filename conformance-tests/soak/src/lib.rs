//! The soak: for minutes, on real sockets, everything that can be done to a pool from outside.
//!
//! One pool after the other runs on a runtime (`pool_run`). Clients connect, talk,
//! stall, reset, and make `serve` fail (`client`, `server`); faults are injected
//! (`faults`); then the pool stops in one of several ways. Everything goes into
//! one history, which must agree with itself (`history`), and nothing may be
//! left: no state, no descriptor, and no more memory than in the beginning.
//!
//! All addresses are on the loopback, all ports are free ones, and all waits are bounded.

mod client;
mod command_line;
mod context;
mod faults;
mod history;
mod pool_run;
mod process;
mod server;
mod table;

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

pub use self::command_line::run;
use self::context::{Setup, StopMode};
use self::history::{Count, Counts};
use self::pool_run::Until;
use self::table::{a_second, mebibytes};
use conformance_cli::worlds;
use conformance_console::{Status, caught, grouped};
use conformance_tests::reference::Reference;
use conformance_tests::{Broken, Patience, Real, World, same};

/// A runtime to soak.
pub struct Target {
    name: &'static str,
    soak: Box<dyn Fn(&Task<'_>) -> Soaked + Send + Sync>,
}

impl Target {
    /// A runtime, in worlds that `world` makes.
    ///
    /// The worlds must be of real sockets, for the clients are the standard library's; and tasks
    /// must run without [`World::run`], as those of a runtime with threads of its own do.
    pub fn new<W: World>(
        name: &'static str,
        world: impl Fn() -> W + Send + Sync + 'static,
    ) -> Self {
        let soak = Box::new(move |task: &Task<'_>| task.soak(&world));
        Self { name, soak }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.name).finish()
    }
}

/// All runtimes that are compiled in.
pub fn targets() -> Vec<Target> {
    vec![
        Target::new("tokio", || Real::new(worlds::tokio::Tokio::multi_thread())),
        Target::new("async-std", || Real::new(worlds::async_std::AsyncStd)),
        Target::new("smol", || Real::new(worlds::smol::Smol::global())),
        Target::new("reference", || Real::new(Reference)),
    ]
}

/// A soak of some runtimes.
#[must_use = "nothing is soaked until `run` is called"]
#[derive(Debug)]
pub struct Soak {
    /// The runtimes, which have an equal share of the time.
    pub targets: Vec<Target>,
    /// The time of all runtimes together.
    pub time: Duration,
    /// Each runtime ends after so many connections, if that is earlier.
    pub connections: u64,
    /// All choices come from this seed. Their effect still depends on who is quicker.
    pub seed: u64,
    /// How long an event is waited for.
    pub patience: Patience,
    /// Once this is set the soak ends, after the pool that is running.
    pub interrupted: Arc<AtomicBool>,
    /// How the progress is written.
    pub progress: Progress,
}

/// How the progress is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A line each time.
    Lines,
    /// In one line of a terminal, over and over.
    InPlace,
}

/// The progress is written, and memory measured, so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Soak {
    /// A soak of ten minutes, with a seed of its own.
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            time: Duration::from_secs(10 * 60),
            connections: u64::MAX,
            seed: fastrand::u64(..),
            patience: Patience::default(),
            interrupted: Arc::default(),
            progress: Progress::Lines,
        }
    }

    /// Soaks the runtimes, one after the other. The result goes to `out`.
    ///
    /// It counts the descriptors and the memory of the whole process, and takes all descriptors now
    /// and then: nothing else should go on in the process.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn run(&self, out: &mut dyn Write, progress: &mut dyn Write) -> io::Result<Status> {
        let end = Instant::now() + self.time;
        writeln!(progress, "seed {}", self.seed)?;
        let mut status = Status::Success;
        for (index, target) in self.targets.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(self.targets.len() - index).unwrap_or(u32::MAX);
            let soaked = self.soak(target, share, progress)?;
            if !soaked.broken.is_empty() || soaked.counts.is_empty() {
                status = Status::Broken;
            }
            if soaked.broken.is_empty() && soaked.counts.is_empty() {
                // It ended before its first pool: there was nothing to check.
                writeln!(out, "\n{}: not soaked", target.name)?;
            } else {
                table::write(out, self, target, &soaked)?;
            }
        }
        out.flush()?;
        Ok(status)
    }

    fn soak(
        &self,
        target: &Target,
        share: Duration,
        progress: &mut dyn Write,
    ) -> io::Result<Soaked> {
        let task = &Task {
            soak: self,
            began: Instant::now(),
            share,
            connections: Arc::default(),
            pools: AtomicU64::new(0),
        };
        if task.is_over() {
            return Ok(Soaked::default());
        }
        let mut memory = Vec::new();
        let (runs, ended) = mpsc::channel::<()>();
        let mut soaked = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let soaked = caught(|| (target.soak)(task));
                drop(runs);
                soaked
            });
            while ended.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                let line = format!("{}: {}", target.name, task.look(&mut memory));
                let written = match self.progress {
                    Progress::Lines => writeln!(progress, "{line}"),
                    Progress::InPlace => write!(progress, "\r\x1b[K{line}"),
                };
                if let Err(error) = written.and_then(|()| progress.flush()) {
                    self.interrupted.store(true, Ordering::SeqCst);
                    return Err(error);
                }
            }
            // However short it was.
            task.look(&mut memory);
            let soaked = thread.join().expect("a panic is caught in its thread");
            Ok(soaked.unwrap_or_else(|panic| {
                let broken = Broken::new("the soak comes to its end", panic);
                Soaked {
                    broken: vec![("in the soak itself".to_owned(), broken)],
                    ..Soaked::default()
                }
            }))
        })?;
        if self.progress == Progress::InPlace {
            write!(progress, "\r\x1b[K")?;
        }
        soaked.took = task.began.elapsed();
        soaked.memory = memory;
        if let Some([first, last]) = soaked.peaks() {
            let most = first + process::ALLOWED_GROWTH;
            if last > most {
                let expected = format!("at most {} of memory", mebibytes(most));
                let broken = Broken::new(expected, mebibytes(last));
                soaked.broken.push(("at the end".to_owned(), broken));
            }
        }
        Ok(soaked)
    }
}

/// What a runtime goes through.
struct Task<'a> {
    soak: &'a Soak,
    began: Instant,
    share: Duration,
    connections: Arc<AtomicU64>,
    pools: AtomicU64,
}

/// The result of one runtime.
#[derive(Debug, Default)]
struct Soaked {
    counts: Counts,
    took: Duration,
    /// The open descriptors, before and after.
    descriptors: [Option<usize>; 2],
    /// The resident memory in KiB, over time.
    memory: Vec<(Duration, u64)>,
    /// What is wrong, and where.
    broken: Vec<(String, Broken)>,
}

impl Soaked {
    fn connections(&self) -> u64 {
        let clients = self.counts.iter();
        let clients = clients.filter(|(count, _)| matches!(count, Count::Client(_)));
        clients.map(|(_, number)| number).sum()
    }

    fn peaks(&self) -> Option<[u64; 2]> {
        process::peaks(&self.memory, self.took)
    }
}

/// Faults are injected into a pool for so many milliseconds.
const INJECTED: std::ops::Range<u64> = 200..3_000;

/// The first pools, one for each stop mode, have so many connections each and are not counted.
const WARM_UP: u64 = 40;

/// The descriptors of the runtime of the first pools are waited for so long. The process keeps some: those of a poller.
const KEPT: Duration = Duration::from_secs(2);

impl Task<'_> {
    fn soak<W: World>(&self, make: &impl Fn() -> W) -> Soaked {
        let mut soaked = Soaked::default();
        let mut random = Rng::with_seed(self.soak.seed);
        let end = self.began + self.share;
        // Afterwards everything is there that the process makes once and keeps.
        let cold = process::descriptors();
        let world = Arc::new(make());
        let connections = Arc::default();
        for number in 0..StopMode::ALL.len() {
            let until = Until {
                time: end,
                connections: (number as u64 + 1) * WARM_UP,
            };
            if soaked.broken.is_empty() {
                self.run_pool(
                    &world,
                    number,
                    until,
                    &mut random,
                    &connections,
                    &mut soaked,
                );
            }
        }
        drop(world);
        descriptors_down_to(cold, KEPT);
        soaked.counts.clear();

        let before = process::descriptors();
        let world = Arc::new(make());
        let modes = StopMode::ALL.len();
        let share = (self.soak.connections / modes as u64).max(1);
        for number in 0.. {
            let made = self.connections.load(Ordering::Relaxed);
            // However few connections there are to be: each stop mode has its turn.
            let enough = made >= self.soak.connections && number >= modes;
            if enough || self.is_over() || !soaked.broken.is_empty() {
                break;
            }
            let injected = Duration::from_millis(random.u64(INJECTED));
            let until = Until {
                time: end.min(Instant::now() + injected),
                connections: made.saturating_add(share),
            };
            let connections = &self.connections;
            self.run_pool(&world, number, until, &mut random, connections, &mut soaked);
            self.pools.fetch_add(1, Ordering::Relaxed);
        }
        drop(world);
        let after = descriptors_down_to(before, self.soak.patience.length());
        if after > before {
            let broken = same("open descriptors", before, after).err();
            let place = "once the runtime is gone".to_owned();
            soaked.broken.extend(broken.map(|broken| (place, broken)));
        }
        soaked.descriptors = [before, after];
        soaked
    }

    fn run_pool<W: World>(
        &self,
        world: &Arc<W>,
        number: usize,
        until: Until,
        random: &mut Rng,
        connections: &Arc<AtomicU64>,
        soaked: &mut Soaked,
    ) {
        let setup = Setup::of(number, random);
        let patience = self.soak.patience;
        match pool_run::run(world, setup, until, patience, random, connections) {
            Ok(counts) => {
                for (count, number) in counts {
                    *soaked.counts.entry(count).or_default() += number;
                }
            }
            Err(broken) => {
                let place = format!("in pool {number}, {setup:?}");
                let broken = broken.into_iter().map(|broken| (place.clone(), broken));
                soaked.broken.extend(broken);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.share || self.soak.interrupted.load(Ordering::SeqCst)
    }

    /// The progress in a line. Measures the memory.
    fn look(&self, memory: &mut Vec<(Duration, u64)>) -> String {
        let at = self.began.elapsed();
        let connections = self.connections.load(Ordering::Relaxed);
        let mut line = format!(
            "{} s, {} s left, {} connections, {} a second, {} pools",
            at.as_secs(),
            self.share.saturating_sub(at).as_secs(),
            grouped(connections),
            a_second(connections, at),
            self.pools.load(Ordering::Relaxed),
        );
        if let Some(resident) = process::resident() {
            memory.push((at, resident));
            line += &format!(", {} resident", mebibytes(resident));
        }
        line
    }
}

/// Waits until no more descriptors are open than these, or patience ends; returns how many are open then.
fn descriptors_down_to(few: Option<usize>, patience: Duration) -> Option<usize> {
    let give_up = Instant::now() + patience;
    loop {
        let now = process::descriptors();
        if now <= few || Instant::now() >= give_up {
            return now;
        }
        // A descriptor that closes tells nobody.
        thread::sleep(Duration::from_millis(1));
    }
}
