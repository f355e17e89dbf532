//! The command that plays scenarios: many seeds, or one scenario, which is traced and drawn if that is asked for.

mod many;
mod numbers;
mod progress;
mod stage;
mod totals;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::{ArgGroup, Parser};

use self::many::Many;
pub use self::progress::Progress;
use self::stage::{Outcome, Stage};
use self::totals::Totals;
use crate::{
    Failure, Finding, Moment, Origin, PLAYS, STEPS, Scenario, Shrunk, graceful_stop, picture,
    shrink,
};
use conformance_console::{Status, WhileRead, write_usage};

/// What says that one scenario is played, not many seeds.
const ONE: [&str; 3] = ["seed", "scenario", "picture"];

/// What is to be played.
#[derive(Debug, Parser)]
#[command(
    name = "simulate",
    version,
    after_help = "Exit code: 0 all is as it should be, 1 something is not, 2 bad usage."
)]
#[command(group = ArgGroup::new("one").args(ONE).multiple(true))]
struct Simulate {
    /// How many seeds are played.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = numbers::seeds, allow_negative_numbers = true, conflicts_with_all = ONE)]
    seeds: u64,
    /// The first of them; the others follow one by one.
    #[arg(long, value_name = "SEED", default_value_t = 1, value_parser = numbers::seed, allow_negative_numbers = true, conflicts_with_all = ONE)]
    first: u64,
    /// On how many threads; on as many as there are cores, unless it is said.
    #[arg(long, value_name = "N", value_parser = numbers::jobs, allow_negative_numbers = true, conflicts_with_all = ONE)]
    jobs: Option<usize>,
    /// Only this seed.
    #[arg(long, value_name = "SEED", value_parser = numbers::seed, allow_negative_numbers = true, conflicts_with = "scenario")]
    seed: Option<u64>,
    /// Only the scenario in this file: a failure prints what belongs into it.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// How many steps are made of a seed.
    #[arg(long, value_name = "N", default_value_t = STEPS, value_parser = numbers::steps, allow_negative_numbers = true, conflicts_with = "scenario")]
    steps: usize,
    /// Prints everything that is seen, also when all is well.
    #[arg(long, requires = "one")]
    trace: bool,
    /// Draws what is seen; without a seed or a scenario that is a graceful stop.
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
}

/// Does what the arguments say, of which the first is the program's name.
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
    style: Progress,
) -> io::Result<Status> {
    let out = &mut WhileRead::new(out);
    match Simulate::try_parse_from(arguments) {
        Ok(simulate) => simulate.run_on(Stage::default(), out, progress, style),
        Err(error) => write_usage(&error, error.use_stderr(), out, progress),
    }
}

impl Simulate {
    fn run_on(
        &self,
        stage: Stage,
        out: &mut dyn Write,
        progress: &mut dyn Write,
        style: Progress,
    ) -> io::Result<Status> {
        match self.one() {
            Ok(Some((origin, scenario))) => self.play_one(stage, origin, &scenario, out, progress),
            Ok(None) => self.play_many(stage, out, progress, style),
            Err(error) => {
                writeln!(progress, "error: {error}")?;
                Ok(Status::Usage)
            }
        }
    }

    /// The one scenario that is asked for, if it is one; an error if there is none, or not as many seeds.
    fn one(&self) -> Result<Option<(Origin, Scenario)>, String> {
        if let Some(seed) = self.seed {
            return Ok(Some(self.of_seed(seed)));
        }
        if let Some(file) = &self.scenario {
            let scenario = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            return Ok(Some((Origin::File, scenario)));
        }
        if self.picture.is_some() {
            return Ok(Some((Origin::BuiltIn, graceful_stop())));
        }
        let (first, seeds) = (self.first, self.seeds);
        match first.checked_add(seeds - 1) {
            Some(_) => Ok(None),
            None => Err(format!(
                "--seeds {seeds} from --first {first} on are beyond the last seed, {}: give at most --seeds {}",
                u64::MAX,
                // It is not the very first: from there on there is no number too many.
                u64::MAX - (first - 1)
            )),
        }
    }

    fn of_seed(&self, seed: u64) -> (Origin, Scenario) {
        let steps = self.steps;
        (Origin::Seed(seed), Scenario::of_seed(seed, steps))
    }

    fn play_one(
        &self,
        stage: Stage,
        origin: Origin,
        scenario: &Scenario,
        out: &mut dyn Write,
        progress: &mut dyn Write,
    ) -> io::Result<Status> {
        let (moments, outcome) = stage.watch(scenario);
        let finding = match outcome {
            Outcome::Holds(played) => Ok(played),
            Outcome::Fails(failure) => Err(shrunk(stage, origin, scenario, *failure)),
            Outcome::Hangs(failure) => Err(cut_off(origin, scenario, *failure, moments.clone())),
        };
        if self.trace {
            for moment in &moments {
                writeln!(out, "{moment}")?;
            }
            writeln!(out)?;
        }
        let shown = match &finding {
            Ok(_) => moments.as_slice(),
            Err(finding) => finding.moments(),
        };
        let status = match &finding {
            Ok(played) => {
                let mut totals = Totals::default();
                totals.add(played);
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
        // Last, so that what was found is told though it cannot be drawn.
        if let Some(file) = &self.picture {
            if let Err(error) = fs::write(file, picture(shown)) {
                writeln!(progress, "error: {}: {error}", file.display())?;
                return Ok(match status {
                    Status::Success => Status::Usage,
                    status => status,
                });
            }
        }
        Ok(status)
    }

    fn play_many(
        &self,
        stage: Stage,
        out: &mut dyn Write,
        progress: &mut dyn Write,
        style: Progress,
    ) -> io::Result<Status> {
        let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let jobs = self.jobs.and_then(NonZeroUsize::new).unwrap_or(cores);
        let steps = self.steps;
        let many = Many {
            first: self.first,
            seeds: self.seeds,
            jobs,
            bound: stage.bound,
            play: move |seed| (stage.play)(&Scenario::of_seed(seed, steps), None),
        };
        let began = Instant::now();
        let status = match many.play(progress, style)? {
            many::Outcome::Hold(totals) => {
                totals.write(out)?;
                totals.write_speed(out, began.elapsed(), jobs.min(cores))?;
                Status::Success
            }
            many::Outcome::Fails(seed, failure) => {
                let (origin, scenario) = self.of_seed(seed);
                write!(out, "{}", shrunk(stage, origin, &scenario, *failure))?;
                Status::Broken
            }
            many::Outcome::Hangs(seed) => {
                let (origin, scenario) = self.of_seed(seed);
                let bound = stage.bound;
                writeln!(
                    progress,
                    "{origin} has not ended within {bound:?}: it is played again, for as long, to see where it stands"
                )?;
                match self.play_one(stage, origin, &scenario, out, progress)? {
                    Status::Success => {
                        writeln!(
                            out,
                            "\n{origin} ended this time: was the machine held up? The seeds after it were not all played"
                        )?;
                        Status::Broken
                    }
                    status => status,
                }
            }
        };
        out.flush()?;
        Ok(status)
    }
}

fn read(file: &Path) -> Result<Scenario, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    text.parse::<Scenario>().map_err(|error| error.to_string())
}

/// What is to be told of a scenario that fails: it is made smaller first.
fn shrunk(stage: Stage, origin: Origin, scenario: &Scenario, failure: Failure) -> Finding {
    let (hung, plays) = (Cell::new(false), Cell::new(0));
    let again = |scenario: &Scenario| {
        // One that never ends is enough: its thread goes on. What comes after it is not played.
        if hung.get() {
            return None;
        }
        plays.set(plays.get() + 1);
        match stage.watch(scenario).1 {
            Outcome::Holds(_) => None,
            Outcome::Fails(failure) => Some(*failure),
            Outcome::Hangs(_) => {
                hung.set(true);
                None
            }
        }
    };
    let shrunk = shrink(scenario, failure, PLAYS, again);
    let shrunk = Shrunk {
        plays: plays.get(),
        ..shrunk
    };
    let (moments, _) = stage.watch(&shrunk.scenario);
    Finding::new(origin, scenario, shrunk, moments)
}

/// What is to be told of a scenario that never ends, of which this was seen.
///
/// The steps behind the one that it is in were never taken. Nothing else is tried: each play takes as long as one waits for it.
fn cut_off(origin: Origin, whole: &Scenario, failure: Failure, moments: Vec<Moment>) -> Finding {
    let mut scenario = whole.clone();
    scenario.steps.truncate(failure.step.saturating_add(1));
    let shrunk = Shrunk {
        scenario,
        failure,
        plays: 1,
    };
    Finding::new(origin, whole, shrunk, moments)
}

#[cfg(test)]
mod tests;
