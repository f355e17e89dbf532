//! The command that runs many seeds, or one scenario, and can print its trace and draw it.

mod seeds;
mod timed;
mod totals;

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, thread};

use clap::{ArgGroup, Parser, value_parser};

use self::seeds::Seeds;
use self::timed::{Outcome, TimedRunner};
use self::totals::{write_speed, write_summary};
use crate::{
    Failure, FailureReport, MAX_RUNS, Origin, STEPS, Scenario, Shrunk, TraceEntry, graceful_stop,
    picture, shrink,
};
use conformance_console::{Status, WhileRead, write_usage};

/// The arguments that select one scenario instead of many seeds.
const ONE: [&str; 3] = ["seed", "scenario", "picture"];

/// Runs random scenarios of a pool in a simulated world, and checks them against a model.
#[derive(Debug, Parser)]
#[command(
    name = "simulate",
    version,
    after_help = "Exit code: 0 no rule is violated, 1 a rule is violated, 2 bad usage."
)]
#[command(group = ArgGroup::new("one").args(ONE).multiple(true))]
struct Simulate {
    /// The number of seeds to run.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..), conflicts_with_all = ONE)]
    seeds: u64,
    /// The first seed; the others follow one by one.
    #[arg(long, value_name = "SEED", default_value_t = 1, conflicts_with_all = ONE)]
    first: u64,
    /// The number of threads; the default is the number of cores.
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1_000), conflicts_with_all = ONE)]
    jobs: Option<u16>,
    /// Runs only this seed.
    #[arg(long, value_name = "SEED", conflicts_with = "scenario")]
    seed: Option<u64>,
    /// Runs only the scenario in this file, which holds the JSON that a failure prints.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// The number of steps of each seed.
    #[arg(long, value_name = "N", default_value_t = STEPS as u32, value_parser = value_parser!(u32).range(1..=100_000), conflicts_with = "scenario")]
    steps: u32,
    /// Prints the trace of the scenario, even if it violates no rule.
    #[arg(long, requires = "one")]
    trace: bool,
    /// Draws the scenario; without a seed or a scenario it draws a graceful stop.
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
}

/// Executes the command; the first argument is the name of the program.
///
/// The result is written to `out`; progress and errors in the arguments are written to `progress`.
///
/// # Errors
///
/// An error of writing.
pub fn execute(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    progress: &mut dyn Write,
) -> io::Result<Status> {
    let out = &mut WhileRead::new(out);
    match Simulate::try_parse_from(arguments) {
        Ok(simulate) => simulate.run_with(TimedRunner::default(), out, progress),
        Err(error) => write_usage(&error, error.use_stderr(), out, progress),
    }
}

impl Simulate {
    fn run_with(
        &self,
        runner: TimedRunner,
        out: &mut dyn Write,
        progress: &mut dyn Write,
    ) -> io::Result<Status> {
        match self.one() {
            Ok(Some((origin, scenario))) => self.run_one(runner, origin, &scenario, out, progress),
            Ok(None) => self.run_many(runner, out, progress),
            Err(error) => {
                writeln!(progress, "error: {error}")?;
                Ok(Status::Usage)
            }
        }
    }

    /// The scenario that the arguments select, or `None` if they select many seeds.
    fn one(&self) -> Result<Option<(Origin, Scenario)>, String> {
        let (first, seeds) = (self.first, self.seeds);
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
        match first.checked_add(seeds - 1) {
            Some(_) => Ok(None),
            None => Err(format!(
                "--first {first} --seeds {seeds} goes beyond the last seed, {}: use at most --seeds {}",
                u64::MAX,
                u64::MAX - (first - 1)
            )),
        }
    }

    fn of_seed(&self, seed: u64) -> (Origin, Scenario) {
        let scenario = Scenario::of_seed(seed, self.steps as usize);
        (Origin::Seed(seed), scenario)
    }

    fn run_one(
        &self,
        runner: TimedRunner,
        origin: Origin,
        scenario: &Scenario,
        out: &mut dyn Write,
        progress: &mut dyn Write,
    ) -> io::Result<Status> {
        let (trace, outcome) = runner.run_traced(scenario);
        if self.trace {
            for entry in &trace {
                writeln!(out, "{entry}")?;
            }
            writeln!(out)?;
        }
        let report = match outcome {
            Outcome::Holds(summary) => {
                writeln!(out, "{origin} holds\n")?;
                write_summary(&summary, out)?;
                None
            }
            Outcome::Fails(failure) => Some(shrunk(runner, origin, scenario, *failure)),
            Outcome::Hangs(failure) => Some(cut_off(origin, scenario, *failure, trace.clone())),
        };
        if let Some(report) = &report {
            write!(out, "{report}")?;
        }
        out.flush()?;
        let drawn = report
            .as_ref()
            .map_or(trace.as_slice(), FailureReport::trace);
        let status = report.as_ref().map_or(Status::Success, |_| Status::Broken);
        // After the report, so that the report is printed even if the picture cannot be written.
        if let Some(file) = &self.picture {
            if let Err(error) = fs::write(file, picture(drawn)) {
                writeln!(progress, "error: {}: {error}", file.display())?;
                return Ok(report.map_or(Status::Usage, |_| Status::Broken));
            }
        }
        Ok(status)
    }

    fn run_many(
        &self,
        runner: TimedRunner,
        out: &mut dyn Write,
        progress: &mut dyn Write,
    ) -> io::Result<Status> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.map_or(cores, usize::from);
        let (steps, limit) = (self.steps as usize, runner.limit);
        let seeds = Seeds {
            first: self.first,
            count: self.seeds,
            jobs,
            limit,
            run: move |seed| (runner.run)(&Scenario::of_seed(seed, steps), None),
        };
        let began = Instant::now();
        let status = match seeds.run(progress)? {
            seeds::Outcome::Hold(summary) => {
                write_summary(&summary, out)?;
                write_speed(&summary, began.elapsed(), jobs.min(cores), out)?;
                Status::Success
            }
            seeds::Outcome::Fails(seed, failure) => {
                let (origin, scenario) = self.of_seed(seed);
                write!(out, "{}", shrunk(runner, origin, &scenario, *failure))?;
                Status::Broken
            }
            seeds::Outcome::Hangs(seed) => {
                let (origin, scenario) = self.of_seed(seed);
                writeln!(
                    progress,
                    "{origin} has not ended within {limit:?}: it runs again with the same limit, to find where it hangs"
                )?;
                let status = self.run_one(runner, origin, &scenario, out, progress)?;
                if status == Status::Success {
                    writeln!(
                        out,
                        "\n{origin} ended this time: was the machine suspended? Not all later seeds were run"
                    )?;
                }
                Status::Broken
            }
        };
        out.flush()?;
        Ok(status)
    }
}

fn read(file: &Path) -> Result<Scenario, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    text.parse()
        .map_err(|error| format!("not a scenario: {error}"))
}

/// Shrinks a scenario that fails, and reports it.
fn shrunk(
    runner: TimedRunner,
    origin: Origin,
    scenario: &Scenario,
    failure: Failure,
) -> FailureReport {
    let (hung, runs) = (Cell::new(false), Cell::new(0));
    let again = |scenario: &Scenario| {
        // After one scenario that hangs, and whose thread still runs, no other scenario is run.
        if hung.get() {
            return None;
        }
        runs.set(runs.get() + 1);
        match runner.run_traced(scenario).1 {
            Outcome::Holds(_) => None,
            Outcome::Fails(failure) => Some(*failure),
            Outcome::Hangs(_) => {
                hung.set(true);
                None
            }
        }
    };
    let mut shrunk = shrink(scenario, failure, MAX_RUNS, again);
    shrunk.runs = runs.get();
    let (trace, _) = runner.run_traced(&shrunk.scenario);
    FailureReport::new(origin, scenario, shrunk, trace)
}

/// Reports a scenario that hangs. Its later steps were not reached. It is not shrunk, because each run takes as long as the
/// limit.
fn cut_off(
    origin: Origin,
    whole: &Scenario,
    failure: Failure,
    trace: Vec<TraceEntry>,
) -> FailureReport {
    let mut scenario = whole.clone();
    scenario.steps.truncate(failure.step.saturating_add(1));
    let shrunk = Shrunk {
        scenario,
        failure,
        runs: 1,
    };
    FailureReport::new(origin, whole, shrunk, trace)
}

#[cfg(test)]
mod tests;
