//! The command that plays scenarios: many seeds, or one scenario, which is traced and drawn if that is asked for.

mod many;
mod progress;
mod totals;

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::{ArgGroup, Args};

use self::many::Many;
pub use self::progress::Progress;
use self::totals::Totals;
use super::Status;
use super::panics::caught;
use crate::scenario::{
    Failure, Finding, Moment, Origin, PLAYS, Played, STEPS, Scenario, graceful_stop, picture, play,
    shrink, tell,
};

/// What says that one scenario is played, not many seeds.
const ONE: [&str; 3] = ["seed", "scenario", "picture"];

/// What is to be played.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 all is as it should be, 1 something is not, 2 bad usage.")]
#[command(group = ArgGroup::new("one").args(ONE).multiple(true))]
pub(super) struct Simulate {
    /// How many seeds are played.
    #[arg(long, value_name = "N", default_value_t = 10_000, conflicts_with_all = ONE)]
    seeds: u64,
    /// The first of them; the others follow one by one.
    #[arg(long, value_name = "SEED", default_value_t = 1, conflicts_with_all = ONE)]
    first: u64,
    /// On how many threads; on as many as there are cores, unless it is said.
    #[arg(long, value_name = "N", conflicts_with_all = ONE)]
    jobs: Option<NonZeroUsize>,
    /// Only this seed.
    #[arg(long, value_name = "SEED", conflicts_with = "scenario")]
    seed: Option<u64>,
    /// Only the scenario in this file: a failure prints what belongs into it.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// How many steps are made of a seed.
    #[arg(long, value_name = "N", default_value_t = STEPS, conflicts_with = "scenario")]
    steps: usize,
    /// Prints everything that is seen, also when all is well.
    #[arg(long, requires = "one")]
    trace: bool,
    /// Draws what is seen; without a seed or a scenario that is a graceful stop.
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
}

impl Simulate {
    pub(super) fn run(
        &self,
        out: &mut dyn Write,
        progress: &mut dyn Write,
        style: Progress,
    ) -> io::Result<Status> {
        match self.one() {
            Ok(Some((origin, scenario))) => self.play_one(origin, &scenario, out, progress),
            Ok(None) => self.play_many(out, progress, style),
            Err(error) => {
                writeln!(progress, "error: {error}")?;
                Ok(Status::Usage)
            }
        }
    }

    /// The one scenario that is asked for, if it is one.
    fn one(&self) -> Result<Option<(Origin, Scenario)>, String> {
        if let Some(seed) = self.seed {
            return Ok(Some(self.of_seed(seed)));
        }
        if let Some(file) = &self.scenario {
            let scenario = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            return Ok(Some((Origin::File, scenario)));
        }
        let picture = self.picture.as_ref();
        Ok(picture.map(|_| (Origin::BuiltIn, graceful_stop())))
    }

    fn of_seed(&self, seed: u64) -> (Origin, Scenario) {
        let steps = self.steps;
        (Origin::Seed(seed), Scenario::of_seed(seed, steps))
    }

    fn play_one(
        &self,
        origin: Origin,
        scenario: &Scenario,
        out: &mut dyn Write,
        progress: &mut dyn Write,
    ) -> io::Result<Status> {
        let (moments, told) = seen(scenario);
        let finding = told.map_err(|failure| find(origin, scenario, *failure));
        // First, so that it is there also if nobody reads all that is printed.
        if let Some(file) = &self.picture {
            let shown = match &finding {
                Ok(_) => moments.as_slice(),
                Err(finding) => finding.moments(),
            };
            if let Err(error) = fs::write(file, picture(shown)) {
                writeln!(progress, "error: {}: {error}", file.display())?;
                return Ok(Status::Usage);
            }
        }
        if self.trace {
            for moment in &moments {
                writeln!(out, "{moment}")?;
            }
            writeln!(out)?;
        }
        let status = match finding {
            Ok(played) => {
                let mut totals = Totals::default();
                totals.add(&played);
                writeln!(out, "{origin} holds\n")?;
                totals.write(out)?;
                Status::Success
            }
            Err(finding) => {
                write!(out, "{finding}")?;
                Status::Broken
            }
        };
        out.flush()?;
        Ok(status)
    }

    fn play_many(
        &self,
        out: &mut dyn Write,
        progress: &mut dyn Write,
        style: Progress,
    ) -> io::Result<Status> {
        let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let many = Many {
            first: self.first,
            seeds: self.seeds,
            jobs: self.jobs.unwrap_or(cores),
            play: |seed| attempt(&self.of_seed(seed).1),
        };
        let began = Instant::now();
        match many.play(progress, style)? {
            Ok(totals) => {
                totals.write(out)?;
                totals.write_speed(out, began.elapsed(), many.jobs.min(cores))?;
                out.flush()?;
                Ok(Status::Success)
            }
            Err((seed, failure)) => {
                let (origin, scenario) = self.of_seed(seed);
                write!(out, "{}", find(origin, &scenario, *failure))?;
                out.flush()?;
                Ok(Status::Broken)
            }
        }
    }
}

fn read(file: &Path) -> Result<Scenario, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    text.parse::<Scenario>().map_err(|error| error.to_string())
}

/// Shrinks a scenario that fails.
fn find(origin: Origin, scenario: &Scenario, failure: Failure) -> Finding {
    let again = |scenario: &Scenario| attempt(scenario).err().map(|failure| *failure);
    let shrunk = shrink(scenario, failure, PLAYS, again);
    let (moments, _) = seen(&shrunk.scenario);
    Finding::new(origin, scenario, shrunk, moments)
}

/// Plays a scenario; that the pool panics, or the player, is a failure as any other.
fn attempt(scenario: &Scenario) -> Result<Played, Box<Failure>> {
    caught(|| play(scenario)).unwrap_or_else(|panic| Err(panicked(scenario, panic)))
}

fn seen(scenario: &Scenario) -> (Vec<Moment>, Result<Played, Box<Failure>>) {
    caught(|| tell(scenario)).unwrap_or_else(|panic| (Vec::new(), Err(panicked(scenario, panic))))
}

fn panicked(scenario: &Scenario, panic: String) -> Box<Failure> {
    Box::new(Failure {
        step: scenario.steps.len(),
        rule: "V3",
        expected: "no call of the pool panics".to_owned(),
        seen: panic,
    })
}
