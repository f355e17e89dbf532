//! The command line of the soak. Ctrl-C ends it early and in order; a second one ends it at once.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{process, thread};

use async_signal::{Signal, Signals};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use futures::StreamExt;
use futures::executor::block_on_stream;

use super::{Progress, Soak, targets};
use conformance_console::{Status, WhileRead, write_usage};
use conformance_tests::Patience;

/// Stands for every runtime.
const ALL: &str = "all";

#[derive(Debug, Parser)]
#[command(
    name = "soak",
    version,
    after_help = "Ctrl-C ends it early, with the result up to then.\n\
                  Exit code: 0 every check holds, 1 one does not, or a runtime was not soaked, 2 bad usage."
)]
struct Arguments {
    /// The time of all runtimes together, in minutes.
    #[arg(long, value_name = "MINUTES", default_value = "10", value_parser = minutes)]
    minutes: Duration,
    /// Only this runtime; may be given again.
    #[arg(long, value_name = "RUNTIME", default_value = ALL, value_parser = runtimes())]
    runtime: Vec<String>,
    /// Ends each runtime after so many connections, if that is earlier.
    #[arg(long, value_name = "COUNT")]
    connections: Option<u64>,
    /// All choices come from this seed; without it from another one each time.
    #[arg(long)]
    seed: Option<u64>,
}

/// Soaks the runtimes that the arguments name; the first argument is the program's name.
///
/// The result goes to `out`; the progress, and errors of the arguments, to `progress`.
///
/// # Errors
///
/// Those of writing.
pub fn run(
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
    let mut targets = targets();
    targets.retain(|target| {
        let mut names = arguments.runtime.iter();
        names.any(|name| name == ALL || name == target.name)
    });
    let new = Soak::new(targets);
    let soak = Soak {
        time: arguments.minutes,
        connections: arguments.connections.unwrap_or(new.connections),
        seed: arguments.seed.unwrap_or(new.seed),
        patience,
        progress: if io::stderr().is_terminal() {
            Progress::InPlace
        } else {
            Progress::Lines
        },
        ..new
    };
    if let Err(error) = watch_interrupts(&soak.interrupted) {
        writeln!(progress, "Ctrl-C ends it without a result: {error}")?;
    }
    soak.run(out, progress)
}

/// The exit code that shells give to a program that Ctrl-C has ended.
const ENDED_BY_CTRL_C: i32 = 130;

/// Sets the flag at the first Ctrl-C.
fn watch_interrupts(interrupted: &Arc<AtomicBool>) -> io::Result<()> {
    let signals = Signals::new([Signal::Int])?;
    let interrupted = Arc::clone(interrupted);
    let thread = thread::Builder::new().name("interrupt".into());
    thread.spawn(move || {
        for _ in block_on_stream(signals.fuse()) {
            if interrupted.swap(true, Ordering::SeqCst) {
                process::exit(ENDED_BY_CTRL_C);
            }
        }
    })?;
    Ok(())
}

fn runtimes() -> PossibleValuesParser {
    let names = targets().into_iter().map(|target| target.name);
    PossibleValuesParser::new(names.chain([ALL]))
}

/// The longest soak, in minutes.
const LONGEST: f64 = 24.0 * 60.0;

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = text.parse().ok();
    let minutes = minutes.filter(|minutes| *minutes > 0.0 && *minutes <= LONGEST);
    minutes
        .map(|minutes| Duration::from_secs_f64(minutes * 60.0))
        .ok_or_else(|| format!("give more than 0 minutes and at most {LONGEST}"))
}
