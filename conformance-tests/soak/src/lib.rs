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
    /// A runtime, in a world that `world` makes.
    ///
    /// The world must be of real sockets, for the clients are the standard library's; and tasks
    /// must run without [`World::run`](conformance_tests::World::run), as those of a runtime with threads of its own do.
    pub fn new<W: IpWorld>(name: &'static str, world: impl Fn() -> W + 'static) -> Self {
        let soak = move |soak: &Soak<'_>, progress: &mut dyn Write| soak.run(&world, progress);
        let soak = Box::new(soak);
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
    #[arg(long, value_name = "RUNTIME", default_value = "all", value_parser = ["tokio", "async-std", "smol", "reference", "all"])]
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
                // The exit code that shells give to a program that Ctrl-C has ended.
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
    /// What is wrong, and where.
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
                let broken = Broken::new("the soak comes to its end", panic);
                soaked.broken.push((place, broken));
            }
        }
        Ok(soaked)
    }

    /// Runs one pool after the other, and measures the memory after each. Writes the progress once for all stop modes.
    fn run_pools<W: IpWorld>(
        &self,
        world: &Arc<W>,
        progress: &mut dyn Write,
        soaked: &mut Soaked,
    ) -> io::Result<()> {
        let mut random = Rng::with_seed(self.arguments.seed);
        let (connections, enough) = (Arc::default(), self.arguments.connections);
        for number in 0.. {
            // However few connections there are to be: each stop mode has its turn.
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
