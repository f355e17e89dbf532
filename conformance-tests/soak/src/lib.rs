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
mod context;
mod faults;
mod history;
mod pool_run;
mod process;
mod server;
mod table;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use async_signal::{Signal, Signals};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use fastrand::Rng;
use futures::executor::block_on_stream;

use self::context::{STOP_MODES, Setup};
use self::history::Counts;
use conformance_cli::worlds;
use conformance_console::{Status, WhileRead, caught, grouped, write_usage};
use conformance_tests::reference::Reference;
use conformance_tests::{Broken, Patience, Real, World};

/// A runtime to soak.
#[allow(missing_debug_implementations)]
pub struct Target {
    name: &'static str,
    soak: Box<dyn Fn(&Soak) -> Soaked + Send + Sync>,
}

impl Target {
    /// A runtime, in a world that `world` makes.
    ///
    /// The world must be of real sockets, for the clients are the standard library's; and tasks
    /// must run without [`World::run`], as those of a runtime with threads of its own do.
    pub fn new<W: World>(
        name: &'static str,
        world: impl Fn() -> W + Send + Sync + 'static,
    ) -> Self {
        let soak = Box::new(move |soak: &Soak| soak.run_pools(&Arc::new(world())));
        Self { name, soak }
    }
}

/// All runtimes that are compiled in.
pub fn targets() -> Vec<Target> {
    let tokio = || Real::new(worlds::tokio::Tokio::multi_thread());
    vec![
        Target::new("tokio", tokio),
        Target::new("async-std", || Real::new(worlds::async_std::AsyncStd)),
        Target::new("smol", || Real::new(worlds::smol::Smol::global())),
        Target::new("reference", || Real::new(Reference)),
    ]
}

/// The names of the runtimes, and one that stands for all.
const NAMES: [&str; 5] = ["tokio", "async-std", "smol", "reference", "all"];

#[derive(Debug, Parser)]
#[command(
    name = "soak",
    version,
    after_help = "Ctrl-C ends it early, with the result up to then; a second one ends it at once.\n\
                  Exit code: 0 every check holds, 1 one does not, or a runtime was not soaked, 2 bad usage."
)]
struct Arguments {
    /// The time of all runtimes together, in minutes.
    #[arg(long, value_name = "MINUTES", default_value = "10", value_parser = minutes)]
    minutes: Duration,
    /// Only this runtime; may be given again.
    #[arg(long, value_name = "RUNTIME", default_value = "all", value_parser = PossibleValuesParser::new(NAMES))]
    runtime: Vec<String>,
    /// Ends each runtime after so many connections, if that is earlier.
    #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
    connections: u64,
    /// All choices come from this seed. Their effect still depends on who is quicker.
    #[arg(long, default_value_t = fastrand::u64(..), hide_default_value = true)]
    seed: u64,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = text.parse().ok();
    let minutes = minutes.filter(|minutes| *minutes > 0.0 && *minutes <= 24.0 * 60.0);
    let minutes = minutes.ok_or("give more than 0 minutes and at most 1440")?;
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

/// Soaks those of the runtimes that the arguments name, one after the other; the first argument is the program's name.
///
/// The result goes to `out`; the progress, and errors of the arguments, to `progress`. The soak counts the
/// descriptors and the memory of the whole process, and takes all descriptors now and then: nothing else
/// should go on in the process.
///
/// # Errors
///
/// Those of writing.
pub fn run(
    mut targets: Vec<Target>,
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    progress: &mut dyn Write,
) -> io::Result<Status> {
    let out = &mut WhileRead::new(out);
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return write_usage(&error, error.use_stderr(), out, progress),
    };
    let patience = match Patience::from_environment() {
        Ok(patience) => patience,
        Err(error) => {
            writeln!(progress, "error: {error}")?;
            return Ok(Status::Usage);
        }
    };
    targets.retain(|target| {
        let mut names = arguments.runtime.iter();
        names.any(|name| name == "all" || name == target.name)
    });
    let interrupted = Arc::default();
    if let Err(error) = watch_interrupts(&interrupted) {
        writeln!(progress, "Ctrl-C ends it without a result: {error}")?;
    }
    let end = Instant::now() + arguments.minutes;
    writeln!(progress, "seed {}", arguments.seed)?;
    let mut status = Status::Success;
    for (index, target) in targets.iter().enumerate() {
        let began = Instant::now();
        let shares = u32::try_from(targets.len() - index).unwrap_or(u32::MAX);
        let soak = Soak {
            seed: arguments.seed,
            most_connections: arguments.connections,
            patience,
            interrupted: Arc::clone(&interrupted),
            began,
            end: began + end.saturating_duration_since(began) / shares,
            connections: Arc::default(),
            pools: AtomicU64::new(0),
        };
        let soaked = soak.run(target, progress)?;
        if soaked.broken.is_empty() && soaked.counts.is_empty() {
            // It ended before its first pool: there was nothing to check.
            writeln!(out, "\n{}: not soaked", target.name)?;
            status = Status::Broken;
            continue;
        }
        if !soaked.broken.is_empty() {
            status = Status::Broken;
        }
        table::write(out, target.name, arguments.seed, &soaked)?;
    }
    out.flush()?;
    Ok(status)
}

/// Sets the flag at the first Ctrl-C, and exits at the second.
fn watch_interrupts(interrupted: &Arc<AtomicBool>) -> io::Result<()> {
    let signals = Signals::new([Signal::Int])?;
    let interrupted = Arc::clone(interrupted);
    thread::Builder::new().spawn(move || {
        for _ in block_on_stream(signals) {
            if interrupted.swap(true, Ordering::SeqCst) {
                // The exit code that shells give to a program that Ctrl-C has ended.
                std::process::exit(130);
            }
        }
    })?;
    Ok(())
}

/// The soak of one runtime.
struct Soak {
    seed: u64,
    most_connections: u64,
    patience: Patience,
    interrupted: Arc<AtomicBool>,
    began: Instant,
    end: Instant,
    connections: Arc<AtomicU64>,
    pools: AtomicU64,
}

/// The result of one runtime.
#[derive(Debug, Default)]
struct Soaked {
    counts: Counts,
    connections: u64,
    took: Duration,
    memory: String,
    /// What is wrong, and where.
    broken: Vec<(String, Broken)>,
}

impl Soak {
    /// Soaks in a thread of its own; meanwhile this one writes the progress and measures the memory.
    fn run(&self, target: &Target, progress: &mut dyn Write) -> io::Result<Soaked> {
        let (before, after) = if io::stderr().is_terminal() {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        let mut memory = Vec::new();
        let (running, ended) = mpsc::channel::<()>();
        let mut soaked = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let soaked = caught(|| (target.soak)(self));
                drop(running);
                soaked
            });
            let second = Duration::from_secs(1);
            while ended.recv_timeout(second) == Err(mpsc::RecvTimeoutError::Timeout) {
                let line = self.look(&mut memory);
                let written = write!(progress, "{before}{}: {line}{after}", target.name);
                if let Err(error) = written.and_then(|()| progress.flush()) {
                    self.interrupted.store(true, Ordering::SeqCst);
                    return Err(error);
                }
            }
            // However short it was.
            self.look(&mut memory);
            Ok(thread.join().expect("a panic is caught in its thread"))
        })?
        .unwrap_or_else(|panic| {
            let broken = Broken::new("the soak comes to its end", panic);
            Soaked {
                broken: vec![("in the soak itself".to_owned(), broken)],
                ..Soaked::default()
            }
        });
        write!(progress, "{before}")?;
        soaked.connections = self.connections.load(Ordering::Relaxed);
        soaked.took = self.began.elapsed();
        let (memory, grown) = process::growth(&memory, soaked.took);
        let grown = grown.map_err(|broken| ("at the end".to_owned(), broken));
        soaked.memory = memory;
        soaked.broken.extend(grown.err());
        Ok(soaked)
    }

    /// The progress in a line. Measures the memory, in KiB.
    fn look(&self, memory: &mut Vec<(Duration, u64)>) -> String {
        let at = self.began.elapsed();
        let left = self.end.saturating_duration_since(Instant::now());
        let resident = process::resident();
        memory.extend(resident.map(|resident| (at, resident)));
        format!(
            "{} s, {} s left, {} connections, {} pools, {} resident",
            at.as_secs(),
            left.as_secs(),
            grouped(self.connections.load(Ordering::Relaxed)),
            self.pools.load(Ordering::Relaxed),
            process::mebibytes(resident.unwrap_or(0)),
        )
    }

    /// Runs one pool after the other.
    fn run_pools<W: World>(&self, world: &Arc<W>) -> Soaked {
        let mut soaked = Soaked::default();
        let mut random = Rng::with_seed(self.seed);
        for number in 0.. {
            let made = self.connections.load(Ordering::Relaxed);
            // However few connections there are to be: each stop mode has its turn.
            let is_enough = made >= self.most_connections && number >= STOP_MODES.len();
            let is_over = Instant::now() >= self.end || self.interrupted.load(Ordering::SeqCst);
            if is_enough || is_over || !soaked.broken.is_empty() {
                break;
            }
            let mut setup = Setup::new(number, self.patience, &mut random);
            setup.until = setup.until.min(self.end);
            let share = self.most_connections / STOP_MODES.len() as u64;
            setup.connections = made.saturating_add(share.max(1));
            let place = format!("in pool {number}, {setup:?}");
            let run = pool_run::run(world, setup, self.patience, &mut random, &self.connections);
            let (counts, broken) = run;
            for (count, number) in counts {
                *soaked.counts.entry(count).or_default() += number;
            }
            let broken = broken.into_iter().map(|broken| (place.clone(), broken));
            soaked.broken.extend(broken);
            self.pools.fetch_add(1, Ordering::Relaxed);
        }
        soaked
    }
}
