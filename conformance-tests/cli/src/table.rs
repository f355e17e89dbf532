//! The matrix for a terminal: a table, the failures, and the totals.

use std::io::{self, Write};

use super::matrix::Matrix;

pub(super) fn write(out: &mut dyn Write, matrix: &Matrix<'_>) -> io::Result<()> {
    let mut lines = vec![vec!["rule".to_owned()]];
    lines[0].extend(
        matrix
            .columns
            .iter()
            .map(|(column, _)| column.title.to_owned()),
    );
    for (number, rule) in matrix.rules.iter().enumerate() {
        let mut line = vec![rule.id.to_owned()];
        let cells = matrix.columns.iter().map(|(_, cells)| &cells[number]);
        line.extend(cells.map(|cell| cell.word().to_owned()));
        lines.push(line);
    }
    let mut sums = vec![String::new()];
    for (_, cells) in &matrix.columns {
        let held = cells.iter().filter(|cell| cell.holds()).count();
        sums.push(format!("{held} of {}", cells.len()));
    }
    lines.push(sums);
    let widths: Vec<_> = (0..=matrix.columns.len())
        .map(|place| lines.iter().map(|line| line[place].chars().count()).max())
        .collect();
    for line in lines {
        let mut text = String::new();
        for (field, width) in line.iter().zip(&widths) {
            let width = width.unwrap_or_default();
            text.push_str(&format!("{field:width$}  "));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    for line in matrix.unmet() {
        writeln!(out, "\n{line}")?;
    }
    for failure in matrix.broken() {
        writeln!(out, "\non {}:\n{}", failure.column.title, failure.text())?;
    }
    let seconds = matrix.took.as_secs_f64();
    writeln!(out, "\n{} ({seconds:.1} s)", matrix.totals())
}
