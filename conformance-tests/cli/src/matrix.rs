//! The matrix of rules by runtimes, and its results.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::column::{Column, Outcome};
use conformance_tests::Broken;
use conformance_tests::rules::Rule;

/// The results of the rules on each runtime.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    pub(super) rules: Vec<&'static Rule>,
    pub(super) columns: Vec<(&'a Column, Vec<Cell>)>,
    pub(super) took: Duration,
}

/// The result of one rule on one runtime.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) rule: &'static Rule,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

impl Cell {
    pub(super) fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Holds => "holds",
            Outcome::Unmet(_) => "unmet",
            Outcome::Broken(_) => "BROKEN",
        }
    }

    pub(super) fn holds(&self) -> bool {
        matches!(self.outcome, Outcome::Holds)
    }

    /// Returns why the rule is left unmet, if it is.
    pub(super) fn unmet(&self) -> Option<&'static str> {
        match self.outcome {
            Outcome::Unmet(why) => Some(why),
            _ => None,
        }
    }

    /// Returns the failure, if the rule does not hold.
    pub(super) fn failure<'a>(&'a self, column: &'a Column) -> Option<Failure<'a>> {
        let Outcome::Broken(broken) = &self.outcome else {
            return None;
        };
        Some(Failure {
            column,
            rule: self.rule,
            broken,
        })
    }
}

impl<'a> Matrix<'a> {
    /// Checks each rule on each runtime in turn, and prints the progress.
    pub(super) fn fill(
        columns: Vec<&'a Column>,
        rules: Vec<&'static Rule>,
        limit: Duration,
        progress: &mut dyn Write,
    ) -> io::Result<Self> {
        let count = columns.len() * rules.len();
        let digits = count.to_string().len();
        let began = Instant::now();
        let mut filled = Vec::new();
        for column in columns {
            let mut cells = Vec::new();
            for rule in &rules {
                let started = Instant::now();
                let cell = Cell {
                    rule,
                    outcome: column.check(rule, limit),
                    took: started.elapsed(),
                };
                let done = filled.len() * rules.len() + cells.len() + 1;
                writeln!(
                    progress,
                    "{done:digits$} of {count}  {}: {} {} ({:.2} s)",
                    column.title,
                    rule.id,
                    cell.word(),
                    cell.took.as_secs_f64()
                )?;
                cells.push(cell);
            }
            filled.push((column, cells));
        }
        Ok(Self {
            rules,
            columns: filled,
            took: began.elapsed(),
        })
    }

    /// Returns the failures.
    pub(super) fn broken(&self) -> impl Iterator<Item = Failure<'_>> {
        self.columns
            .iter()
            .flat_map(|(column, cells)| cells.iter().filter_map(|cell| cell.failure(column)))
    }

    /// Returns a line for each rule that is left unmet.
    pub(super) fn unmet(&self) -> impl Iterator<Item = String> {
        self.columns.iter().flat_map(|(column, cells)| {
            cells.iter().filter_map(|cell| {
                let why = cell.unmet()?;
                let (title, rule) = (column.title, cell.rule);
                Some(format!(
                    "{title} leaves {} ({}) unmet: {why}",
                    rule.id, rule.level
                ))
            })
        })
    }

    /// Returns a line with the totals.
    pub(super) fn totals(&self) -> String {
        let count = self.columns.len() * self.rules.len();
        let broken = self.broken().count();
        let unmet = self.unmet().count();
        let mut outcome = match broken + unmet {
            0 => format!("all {count} hold"),
            others => format!("{} of {count} hold", count - others),
        };
        if unmet > 0 {
            outcome.push_str(&format!(", {unmet} left unmet"));
        }
        if broken > 0 {
            outcome.push_str(&format!(", {broken} BROKEN"));
        }
        let rules = number(self.rules.len(), "rule");
        let columns = number(self.columns.len(), "column");
        format!("{rules} in {columns}: {outcome}")
    }
}

fn number(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// A rule that does not hold on a runtime.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub(super) column: &'a Column,
    pub(super) rule: &'static Rule,
    pub(super) broken: &'a Broken,
}

impl Failure<'_> {
    /// Returns a hint at the cause.
    pub(super) fn check(&self) -> &'static str {
        let by_default =
            "do the rules of the runtime and its listener alone (T and K) hold? Fix those first";
        self.broken.check.unwrap_or(by_default)
    }

    /// Returns the message of the failure.
    pub(super) fn text(&self) -> String {
        let failure = self.rule.failure(&self.broken.clone().check(self.check()));
        let (runtime, id) = (self.column.runtime, self.rule.id);
        format!("{failure}\nagain:    --runtime {runtime} --rule {id}")
    }
}
