//! The command line: which rules on which runtimes, and in which format the result is written.
//!
//! It is a library, so that who has a runtime of their own can have it too:
//!
#![cfg_attr(feature = "tokio", doc = "```no_run")]
#![cfg_attr(not(feature = "tokio"), doc = "```text")]
//! use conformance_tests::Real;
//! use conformance_tests::command_line::{Column, CommandLine};
//! use conformance_tests::runtimes::tokio::Tokio;
//!
//! fn main() -> std::io::Result<std::process::ExitCode> {
//!     // Here with a harness that is at hand.
//!     let mine = Column::new("mine", "mine, on one thread", || Real::new(Tokio::current_thread()));
//!     let command_line = CommandLine::new(vec![mine]);
//!     let status = command_line.run(
//!         std::env::args_os(),
//!         &mut std::io::stdout(),
//!         &mut std::io::stderr(),
//!     )?;
//!     Ok(status.into())
//! }
//! ```

mod column;
mod json;
mod junit;
mod markdown;
mod matrix;
mod rule_book;
#[cfg(feature = "scenarios")]
mod simulate;
mod table;
mod while_read;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use self::column::Column;
use self::matrix::Matrix;
#[cfg(feature = "scenarios")]
pub use self::simulate::Progress;
#[cfg(feature = "scenarios")]
use self::simulate::Simulate;
use self::while_read::WhileRead;
pub use crate::panics::silence_panics;
use crate::patience::Patience;
use crate::rules::{Entry, entries};

/// How long a rule may take before it is reported as broken. Stretched by the patience: with less of it no rule is
/// through any sooner.
///
/// Rules give up by themselves. This is for a check that does not come that far, of which only time can tell: the runtime
/// has blocked its thread.
const LIMIT: Duration = Duration::from_secs(20);

/// What stands for every runtime.
const ALL: &str = "all";

/// Checks whether runtimes carry a pool of acceptors, rule by rule.
#[derive(Debug, Parser)]
#[command(
    name = "conformance-tests",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit code: 0 all rules hold, 1 a rule is broken, 2 bad usage.\n\
                  CONFORMANCE_PATIENCE=4 in the environment waits four times as long, for slow machines."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only on this runtime; may be given again.
    #[arg(long, value_name = "RUNTIME", default_value = ALL)]
    runtime: Vec<String>,
    /// Only this rule, such as S4; may be given again. `rules` prints them all.
    #[arg(long, value_name = "ID")]
    rule: Vec<String>,
    /// How the result is written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the rule book.
    Rules {
        /// How it is written.
        #[arg(long, value_enum, default_value_t = BookFormat::Text)]
        format: BookFormat,
    },
    /// Plays lives of a pool, made by chance, in a simulated world.
    #[cfg(feature = "scenarios")]
    Simulate(Simulate),
    /// Soaks the pool on real sockets, for minutes: in the end the sums add up, and nothing is left.
    #[cfg(feature = "soak")]
    Soak(crate::soak::Arguments),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For a continuous integration.
    Junit,
    /// For a readme.
    Markdown,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BookFormat {
    /// For people.
    Text,
    /// For RULES.md.
    Markdown,
}

/// How a run of the command line ended; it becomes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Every rule that was asked for holds, every sum adds up, or what was asked for is printed.
    Success,
    /// A rule is broken, a sum does not add up, or something that was asked for was not checked.
    Broken,
    /// The arguments or the environment say something that has no meaning.
    Usage,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(match status {
            Status::Success => 0,
            Status::Broken => 1,
            Status::Usage => 2,
        })
    }
}

/// The command line on a choice of runtimes.
#[derive(Debug)]
pub struct CommandLine {
    columns: Vec<Column>,
    limit: Duration,
    #[cfg(feature = "scenarios")]
    progress: Progress,
}

impl CommandLine {
    /// The command line on these runtimes, which become the columns of the matrix.
    pub fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            limit: LIMIT,
            #[cfg(feature = "scenarios")]
            progress: Progress::default(),
        }
    }

    /// How long a rule may take before it is reported as broken. 20 s, unless set; more patience stretches it.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How a long run tells how far it has come. In lines, unless set.
    #[cfg(feature = "scenarios")]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Does what the arguments say, of which the first is the program's name.
    ///
    /// The result goes to `out`, the progress and what is wrong with the arguments to `progress`. That nobody reads
    /// the result to its end changes nothing of the status.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn run(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
        out: &mut dyn Write,
        progress: &mut dyn Write,
    ) -> io::Result<Status> {
        let out = &mut WhileRead::new(out);
        let arguments = match self.parse(arguments) {
            Ok(arguments) => arguments,
            Err(error) if error.use_stderr() => {
                write!(progress, "{error}")?;
                return Ok(Status::Usage);
            }
            Err(help) => {
                write!(out, "{help}")?;
                return Ok(Status::Success);
            }
        };
        match arguments.command {
            Some(Command::Rules { format }) => {
                match format {
                    BookFormat::Text => rule_book::write_text(out, &entries())?,
                    BookFormat::Markdown => rule_book::write_markdown(out, &entries())?,
                }
                return Ok(Status::Success);
            }
            #[cfg(feature = "scenarios")]
            Some(Command::Simulate(simulate)) => {
                return simulate.run(out, progress, self.progress);
            }
            #[cfg(feature = "soak")]
            Some(Command::Soak(soak)) => return soak.run(out, progress),
            None => {}
        }
        if self.columns.is_empty() {
            writeln!(
                progress,
                "error: there is no runtime to check: build this program with the feature columns, which is on by default"
            )?;
            return Ok(Status::Usage);
        }
        let patience = match Patience::from_environment() {
            Ok(patience) => patience,
            Err(error) => {
                writeln!(progress, "error: {error}")?;
                return Ok(Status::Usage);
            }
        };
        let columns = self.columns.iter().filter(|column| {
            let mut runtimes = arguments.runtime.iter();
            runtimes.any(|name| {
                name.eq_ignore_ascii_case(ALL) || name.eq_ignore_ascii_case(column.runtime)
            })
        });
        let wanted = |rule: &Entry| {
            let mut ids = arguments.rule.iter();
            arguments.rule.is_empty() || ids.any(|id| id.eq_ignore_ascii_case(rule.id))
        };
        let rules = entries().into_iter().filter(wanted).collect();
        let limit = patience.stretch(self.limit);
        let matrix = Matrix::fill(columns.collect(), rules, limit, progress)?;
        match arguments.format {
            Format::Table => table::write(out, &matrix)?,
            Format::Json => json::write(out, &matrix)?,
            Format::Junit => junit::write(out, &matrix)?,
            Format::Markdown => markdown::write(out, &matrix)?,
        }
        out.flush()?;
        if matrix.broken().next().is_some() {
            return Ok(Status::Broken);
        }
        Ok(Status::Success)
    }

    /// What the arguments say, if the runtimes and the rules that they name are there.
    fn parse(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Arguments, clap::Error> {
        let mut runtimes: Vec<_> = self.columns.iter().map(|column| column.runtime).collect();
        runtimes.dedup();
        runtimes.push(ALL);
        let ids: Vec<_> = entries().iter().map(|rule| rule.id).collect();
        let mut command = Arguments::command()
            .mut_arg("runtime", |argument| {
                let argument = argument.value_parser(PossibleValuesParser::new(runtimes));
                argument.ignore_case(true)
            })
            .mut_arg("rule", |argument| {
                let argument = argument.value_parser(PossibleValuesParser::new(ids));
                argument.ignore_case(true).hide_possible_values(true)
            });
        let matches = command.try_get_matches_from_mut(arguments)?;
        Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}
