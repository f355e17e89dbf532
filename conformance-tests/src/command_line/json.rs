//! The matrix for programs: one JSON object.

use std::io::{self, Write};

use serde::Serialize;

use super::matrix::Matrix;
use crate::rules::Entry;

#[derive(Debug, Serialize)]
struct Document<'a> {
    totals: Totals,
    rules: Vec<RuleLine>,
    runtimes: Vec<RuntimeLine<'a>>,
}

#[derive(Debug, Serialize)]
struct Totals {
    checks: usize,
    hold: usize,
    unmet: usize,
    broken: usize,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct RuleLine {
    id: &'static str,
    name: &'static str,
    level: String,
    sentence: &'static str,
}

impl From<&Entry> for RuleLine {
    fn from(rule: &Entry) -> Self {
        Self {
            id: rule.id,
            name: rule.name,
            level: rule.level.to_string(),
            sentence: rule.sentence,
        }
    }
}

#[derive(Debug, Serialize)]
struct RuntimeLine<'a> {
    runtime: &'static str,
    title: &'static str,
    results: Vec<ResultLine<'a>>,
}

#[derive(Debug, Serialize)]
struct ResultLine<'a> {
    rule: &'static str,
    holds: bool,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unmet: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureLine<'a>>,
}

#[derive(Debug, Serialize)]
struct FailureLine<'a> {
    expected: &'a str,
    seen: &'a str,
    check: &'static str,
}

pub(super) fn write(out: &mut dyn Write, matrix: &Matrix<'_>) -> io::Result<()> {
    let broken = matrix.broken().count();
    let unmet = matrix.unmet().count();
    let checks = matrix.columns.len() * matrix.rules.len();
    let runtimes = matrix.columns.iter().map(|(column, cells)| RuntimeLine {
        runtime: column.runtime,
        title: column.title,
        results: cells
            .iter()
            .map(|cell| ResultLine {
                rule: cell.rule.id,
                holds: cell.holds(),
                seconds: cell.took.as_secs_f64(),
                unmet: cell.unmet(),
                failure: cell.failure(column).map(|failure| FailureLine {
                    expected: &failure.broken.expected,
                    seen: &failure.broken.seen,
                    check: failure.check(),
                }),
            })
            .collect(),
    });
    let document = Document {
        totals: Totals {
            checks,
            hold: checks - broken - unmet,
            unmet,
            broken,
            seconds: matrix.took.as_secs_f64(),
        },
        rules: matrix.rules.iter().map(RuleLine::from).collect(),
        runtimes: runtimes.collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}
