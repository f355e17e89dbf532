//! The matrix for a README: sums by section, then rule by rule. It contains no times, so it changes only when the
//! result does.

use std::io::{self, Write};

use super::matrix::{Cell, Matrix};
use super::rule_book::{SECTIONS, section};

pub(super) fn write(out: &mut dyn Write, matrix: &Matrix<'_>) -> io::Result<()> {
    write_head(out, "section", matrix)?;
    for here in &SECTIONS {
        let inside = |cell: &Cell| section(cell.rule) == Some(here);
        if matrix
            .columns
            .iter()
            .any(|(_, cells)| cells.iter().any(inside))
        {
            write_sums(
                out,
                &format!("{}: {}", here.letter, here.title),
                matrix,
                inside,
            )?;
        }
    }
    write_sums(out, "**all**", matrix, |_| true)?;
    writeln!(out, "\n<details><summary>Rule by rule</summary>\n")?;
    write_head(out, "rule", matrix)?;
    for (number, rule) in matrix.rules.iter().enumerate() {
        write!(out, "| {} |", rule.id)?;
        for (_, cells) in &matrix.columns {
            write!(out, " {} |", cells[number].word())?;
        }
        writeln!(out)?;
    }
    writeln!(out, "\n</details>")?;
    for line in matrix.unmet() {
        writeln!(out, "\n{line}.")?;
    }
    for failure in matrix.broken() {
        let (title, text) = (failure.column.title, failure.text());
        writeln!(out, "\nOn {title}:\n\n```text\n{text}\n```")?;
    }
    writeln!(out, "\n{}.", matrix.totals())
}

fn write_head(out: &mut dyn Write, first: &str, matrix: &Matrix<'_>) -> io::Result<()> {
    write!(out, "| {first} |")?;
    for (column, _) in &matrix.columns {
        write!(out, " {} |", column.title)?;
    }
    writeln!(out, "\n|{}", "---|".repeat(matrix.columns.len() + 1))
}

fn write_sums(
    out: &mut dyn Write,
    title: &str,
    matrix: &Matrix<'_>,
    inside: impl Fn(&Cell) -> bool,
) -> io::Result<()> {
    write!(out, "| {title} |")?;
    for (_, cells) in &matrix.columns {
        let these = || cells.iter().filter(|cell| inside(cell));
        let held = these().filter(|cell| cell.holds()).count();
        write!(out, " {held} of {} |", these().count())?;
    }
    writeln!(out)
}
