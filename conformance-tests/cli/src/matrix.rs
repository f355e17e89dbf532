//! The matrix of rules by runtimes: filling it, and what it comes to.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::column::{Column, Outcome};
use conformance_tests::Broken;
use conformance_tests::rules::Rule;

/// What the rules came to on each of the runtimes.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    pub(super) rules: Vec<&'static Rule>,
    pub(super) columns: Vec<(&'a Column, Vec<Cell>)>,
    pub(super) took: Duration,
}

/// What a rule came to on a runtime.
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

    /// Why it is left unmet, if so.
    pub(super) fn unmet(&self) -> Option<&'static str> {
        match self.outcome {
            Outcome::Unmet(why) => Some(why),
            _ => None,
        }
    }

    /// That it does not hold, if so, in the column that it is of.
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
    /// Checks each rule on each of the runtimes, one after the other, and tells how it goes.
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

    /// What does not hold.
    pub(super) fn broken(&self) -> impl Iterator<Item = Failure<'_>> {
        self.columns
            .iter()
            .flat_map(|(column, cells)| cells.iter().filter_map(|cell| cell.failure(column)))
    }

    /// What is left unmet, a line each.
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

    /// The totals in a line.
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
    /// Where the cause may lie.
    pub(super) fn check(&self) -> &'static str {
        let elsewhere = "do the rules about the runtime and its listener alone hold? Begin with one that does not";
        self.broken.check.unwrap_or(elsewhere)
    }

    /// All that is to be told of it.
    pub(super) fn text(&self) -> String {
        let told = self.rule.failure(&self.broken.clone().check(self.check()));
        let (runtime, id) = (self.column.runtime, self.rule.id);
        format!("{told}\nagain:    --runtime {runtime} --rule {id}")
    }
}
