//! The soak test: minutes of load and faults on real sockets, driving a pool through its public API.
//!
//! One pool after another runs on a runtime (`pool_run`). Clients connect, exchange messages, stall, reset, and make
//! `serve` fail (`client`, `server`); faults are injected (`faults`); then the pool stops in one of several modes. All
//! events go into one history, which is checked for consistency (`history`), and nothing may be left: no state, no
//! descriptor, and no more memory than at the start.
//!
//! All addresses are on the loopback interface, all ports are free ones, and all waits are bounded.

mod client;
mod context;
mod faults;
mod history;
mod pool_run;
mod process;
mod server;
mod table;

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_signal::{Signal, Signals};
use clap::Parser;
use fastrand::Rng;
use futures::executor::block_on_stream;

use self::context::{STOP_MODES, Setup};
use self::history::Counts;
use conformance_cli::worlds;
use conformance_console::{Status, WhileRead, caught, grouped, write_usage};
use conformance_tests::reference::Reference;
use conformance_tests::{Broken, IpWorld, Patience, Real};

type Run = dyn Fn(&Soak<'_>, &mut dyn Write) -> io::Result<Soaked>;

/// A runtime to soak.
#[allow(missing_debug_implementations)]
pub struct Target {
    name: &'static str,
    soak: Box<Run>,
}

impl Target {
    /// Creates a target from a runtime, in a world made by `world`.
    ///
    /// The world must use real sockets, because the clients use the standard library's; and its tasks must run outside
    /// [`World::run`](conformance_tests::World::run), as those of a runtime with its own threads do.
    pub fn new<W: IpWorld>(name: &'static str, world: impl Fn() -> W + 'static) -> Self {
        let soak = move |soak: &Soak<'_>, progress: &mut dyn Write| soak.run(&world, progress);
        let soak = Box::new(soak);
        Self { name, soak }
    }
}

/// Returns all runtimes that are compiled in.
pub fn targets() -> Vec<Target> {
    let tokio = || Real::new(worlds::tokio::Tokio::multi_thread());
    vec![
        Target::new("tokio", tokio),
        Target::new("async-std", || Real::new(worlds::async_std::AsyncStd)),
        Target::new("smol", || Real::new(worlds::smol::Smol::global())),
        Target::new("reference", || Real::new(Reference)),
    ]
}

#[derive(Debug, Parser)]
#[command(
    name = "soak",
    version,
    after_help = "Ctrl-C ends the soak early and prints the result so far; a second one exits at once.\n\
                  Exit code: 0 every check holds, 1 a check fails or a runtime was not soaked, 2 bad usage."
)]
struct Arguments {
    /// Total time for all runtimes, in minutes.
    #[arg(long, value_name = "MINUTES", default_value = "10", value_parser = minutes)]
    minutes: Duration,
    /// Soak only this runtime; may be repeated.
    #[arg(long, value_name = "RUNTIME", default_value = "all", value_parser = ["tokio", "async-std", "smol", "reference", "all"])]
    runtime: Vec<String>,
    /// End each runtime after this many connections.
    #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
    connections: u64,
    /// Seed of all random choices, whose effects still depend on timing.
    #[arg(long, default_value_t = fastrand::u64(..), hide_default_value = true)]
    seed: u64,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = text.parse().ok();
    let minutes = minutes.filter(|minutes| *minutes > 0.0 && *minutes <= 24.0 * 60.0);
    let minutes = minutes.ok_or("give more than 0 minutes and at most 1440")?;
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

/// Soaks the runtimes that the arguments select, in turn. The first argument is the program's name.
///
/// Writes the result to `out`, and the progress and usage errors to `progress`. The soak counts the descriptors and the
/// memory of the whole process, and sometimes takes all descriptors, so the process should do nothing else.
///
/// # Errors
///
/// The errors of writing.
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
        writeln!(progress, "Ctrl-C will not print a result: {error}")?;
    }
    let end = Instant::now() + arguments.minutes;
    writeln!(progress, "seed {}", arguments.seed)?;
    let mut status = Status::Success;
    for (index, target) in targets.iter().enumerate() {
        let began = Instant::now();
        let shares = u32::try_from(targets.len() - index).unwrap_or(u32::MAX);
        let soak = Soak {
            name: target.name,
            arguments: &arguments,
            patience,
            interrupted: &interrupted,
            began,
            end: began + end.saturating_duration_since(began) / shares,
        };
        let soaked = (target.soak)(&soak, progress)?;
        if !soaked.broken.is_empty() || soaked.counts.is_empty() {
            status = Status::Broken;
        }
        table::write(out, &soak, &soaked)?;
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
                // The exit code by which shells report a program ended by Ctrl-C.
                std::process::exit(130);
            }
        }
    })?;
    Ok(())
}

/// The soak of one runtime.
struct Soak<'a> {
    name: &'static str,
    arguments: &'a Arguments,
    patience: Patience,
    interrupted: &'a AtomicBool,
    began: Instant,
    end: Instant,
}

/// The result of one runtime.
#[derive(Default)]
struct Soaked {
    counts: Counts,
    connections: u64,
    /// The resident memory in KiB after each pool.
    memory: Vec<(Duration, u64)>,
    took: Duration,
    /// The failed checks, each with its location.
    broken: Vec<(String, Broken)>,
}

impl Soak<'_> {
    fn run<W: IpWorld>(
        &self,
        world: &impl Fn() -> W,
        progress: &mut dyn Write,
    ) -> io::Result<Soaked> {
        let mut soaked = Soaked::default();
        let pools = caught(|| self.run_pools(&Arc::new(world()), progress, &mut soaked));
        soaked.took = self.began.elapsed();
        let (_, grown) = process::growth(&soaked.memory, soaked.took);
        let grown = grown.map_err(|broken| ("at the end".to_owned(), broken));
        soaked.broken.extend(grown.err());
        match pools {
            Ok(written) => written?,
            Err(panic) => {
                let place = "in the soak itself".to_owned();
                let broken = Broken::new("the soak ends", panic);
                soaked.broken.push((place, broken));
            }
        }
        Ok(soaked)
    }

    /// Runs one pool after another, and measures the memory after each. Writes the progress once per round of stop
    /// modes.
    fn run_pools<W: IpWorld>(
        &self,
        world: &Arc<W>,
        progress: &mut dyn Write,
        soaked: &mut Soaked,
    ) -> io::Result<()> {
        let mut random = Rng::with_seed(self.arguments.seed);
        let (connections, enough) = (Arc::default(), self.arguments.connections);
        for number in 0.. {
            // Every stop mode runs at least once, however few connections are requested.
            let is_enough = soaked.connections >= enough && number >= STOP_MODES.len();
            let is_over = Instant::now() >= self.end || self.interrupted.load(Ordering::SeqCst);
            if is_enough || is_over || !soaked.broken.is_empty() {
                break;
            }
            let mut setup = Setup::new(number, self.patience, &mut random);
            setup.until = setup.until.min(self.end);
            let share = (enough / STOP_MODES.len() as u64).max(1);
            setup.connections = soaked.connections.saturating_add(share);
            let place = format!("in pool {number}, {setup:?}");
            let (counts, broken) =
                pool_run::run(world, setup, self.patience, &mut random, &connections);
            for (count, number) in counts {
                *soaked.counts.entry(count).or_default() += number;
            }
            let broken = broken.into_iter().map(|broken| (place.clone(), broken));
            soaked.broken.extend(broken);
            soaked.connections = connections.load(Ordering::Relaxed);
            let (at, resident) = (self.began.elapsed(), process::resident());
            let sample = resident.map(|resident| (at, resident));
            soaked.memory.extend(sample);
            if number % STOP_MODES.len() == 0 {
                let (name, made) = (self.name, grouped(soaked.connections));
                let left = self.end.saturating_duration_since(Instant::now()).as_secs();
                writeln!(progress, "{name}: {made} connections, {left} s left")?;
            }
        }
        Ok(())
    }
}
