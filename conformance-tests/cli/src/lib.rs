//! The conformance suite's command line: selects rules and runtimes, and prints the result.

mod column;
mod markdown;
mod matrix;
mod rule_book;
mod table;
pub mod worlds;

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use self::column::Column;
use self::matrix::Matrix;
use conformance_console::{Status, WhileRead, write_usage};
use conformance_tests::Patience;
use conformance_tests::rules::{Rule, all};

/// The time limit of a rule, after which it is reported as broken. A longer patience stretches it; a shorter one does
/// not shorten it.
///
/// Rules have timeouts of their own. This limit catches a check that cannot reach them because the runtime has blocked
/// its thread.
const LIMIT: Duration = Duration::from_secs(20);

/// The value of an option that selects every runtime.
const ALL: &str = "all";

/// Checks whether runtimes carry a pool of acceptors, rule by rule.
#[derive(Debug, Parser)]
#[command(
    name = "conformance-cli",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit code: 0 all rules hold, 1 a rule is broken, 2 bad usage.\n\
                  CONFORMANCE_PATIENCE=4 in the environment waits four times as long, for slow machines."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Check only this runtime; may be repeated.
    #[arg(long, value_name = "RUNTIME", default_value = ALL)]
    runtime: Vec<String>,
    /// Check only this rule, such as S4; may be repeated. `rules` lists them all.
    #[arg(long, value_name = "ID")]
    rule: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the rule book.
    Rules {
        /// Output format.
        #[arg(long, value_enum, default_value_t = BookFormat::Text)]
        format: BookFormat,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For a terminal.
    Table,
    /// For a README.
    Markdown,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BookFormat {
    /// For a terminal.
    Text,
    /// For RULES.md.
    Markdown,
}

/// The command line for a set of runtimes.
#[derive(Debug)]
pub struct CommandLine {
    columns: Vec<Column>,
    limit: Duration,
}

impl CommandLine {
    /// Creates the command line for these runtimes, the columns of the matrix.
    pub fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            limit: LIMIT,
        }
    }

    /// Sets the time limit of a rule: 20 s by default, stretched by the patience.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the command line with these arguments, the first of which is the program's name.
    ///
    /// Writes the result to `out`, and the progress and usage errors to `progress`. A reader that stops reading the
    /// result does not change the status.
    ///
    /// # Errors
    ///
    /// The errors of writing.
    pub fn run(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
        out: &mut dyn Write,
        progress: &mut dyn Write,
    ) -> io::Result<Status> {
        let out = &mut WhileRead::new(out);
        let arguments = match self.parse(arguments) {
            Ok(arguments) => arguments,
            Err(error) => return write_usage(&error, error.use_stderr(), out, progress),
        };
        if let Some(Command::Rules { format }) = arguments.command {
            match format {
                BookFormat::Text => rule_book::write_text(out, all())?,
                BookFormat::Markdown => rule_book::write_markdown(out, all())?,
            }
            return Ok(Status::Success);
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
        let wanted = |rule: &&Rule| {
            let mut ids = arguments.rule.iter();
            arguments.rule.is_empty() || ids.any(|id| id.eq_ignore_ascii_case(rule.id))
        };
        let rules = all().iter().filter(wanted).collect();
        let limit = patience.stretch(self.limit);
        let matrix = Matrix::fill(columns.collect(), rules, limit, progress)?;
        match arguments.format {
            Format::Table => table::write(out, &matrix)?,
            Format::Markdown => markdown::write(out, &matrix)?,
        }
        out.flush()?;
        if matrix.broken().next().is_some() {
            return Ok(Status::Broken);
        }
        Ok(Status::Success)
    }

    /// Parses the arguments, and checks that the runtimes and rules exist.
    fn parse(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Arguments, clap::Error> {
        let mut runtimes: Vec<_> = self.columns.iter().map(|column| column.runtime).collect();
        runtimes.dedup();
        runtimes.push(ALL);
        let ids: Vec<_> = all().iter().map(|rule| rule.id).collect();
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
