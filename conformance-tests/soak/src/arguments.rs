//! The soak on the command line: what its arguments say.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use super::{Course, Soak, Telling, courses, interrupt};
use conformance_console::{Status, WhileRead, write_usage};
use conformance_tests::Patience;

/// What stands for every runtime.
const ALL: &str = "all";

/// What the arguments of the soak say.
#[derive(Debug, Parser)]
#[command(
    name = "soak",
    version,
    after_help = "Ctrl-C ends it early, and all that was counted is told.\n\
                        Exit code: 0 all sums add up, 1 one does not, or a runtime was not soaked, 2 bad usage."
)]
struct Arguments {
    /// How long, in minutes, for all runtimes together.
    #[arg(long, value_name = "MINUTES", default_value = "10", value_parser = minutes)]
    minutes: Duration,
    /// Only on this runtime; may be given again.
    #[arg(long, value_name = "RUNTIME", default_value = ALL, value_parser = runtimes())]
    runtime: Vec<String>,
    /// Ends each runtime after so many connections, if that is earlier.
    #[arg(long, value_name = "COUNT")]
    connections: Option<u64>,
    /// What is left to chance is drawn with this; without it with another one each time.
    #[arg(long)]
    seed: Option<u64>,
}

/// Soaks the runtimes that the arguments name, of which the first is the program's name.
///
/// The result goes to `out`; the progress, and what is wrong with the arguments, to `progress`.
///
/// # Errors
///
/// What writing returns.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    progress: &mut dyn Write,
) -> io::Result<Status> {
    let out = &mut WhileRead::new(out);
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.run(out, progress),
        Err(error) => write_usage(&error, error.use_stderr(), out, progress),
    }
}

impl Arguments {
    fn run(&self, out: &mut dyn Write, progress: &mut dyn Write) -> io::Result<Status> {
        let patience = match Patience::from_environment() {
            Ok(patience) => patience,
            Err(error) => {
                writeln!(progress, "error: {error}")?;
                return Ok(Status::Usage);
            }
        };
        let mut runtimes = courses();
        runtimes.retain(|course| {
            let mut names = self.runtime.iter();
            names.any(|name| name == ALL || name == course.runtime)
        });
        let mut soak = Soak::new(runtimes).time(self.minutes).patience(patience);
        if let Some(connections) = self.connections {
            soak = soak.connections(connections);
        }
        if let Some(seed) = self.seed {
            soak = soak.seed(seed);
        }
        match interrupt::watched() {
            Ok(interrupted) => soak = soak.over(move || interrupted()),
            Err(error) => writeln!(progress, "Ctrl-C ends it without a result: {error}")?,
        }
        let telling = if io::stderr().is_terminal() {
            Telling::InPlace
        } else {
            Telling::InLines
        };
        soak.run(out, progress, telling)
    }
}

fn runtimes() -> PossibleValuesParser {
    let courses = courses();
    let names = courses.iter().map(|Course { runtime, .. }| *runtime);
    PossibleValuesParser::new(names.chain([ALL]))
}

/// No soak is longer.
const LONGEST: f64 = 24.0 * 60.0;

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = text.parse().ok();
    match minutes {
        Some(minutes) if minutes > 0.0 && minutes <= LONGEST => {
            Ok(Duration::from_secs_f64(minutes * 60.0))
        }
        _ => Err(format!("give more than 0 minutes and at most {LONGEST}")),
    }
}
