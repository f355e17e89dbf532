//! The matrix for a continuous integration: JUnit's XML, a suite for each runtime.

use std::io::{self, Write};
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::matrix::{Cell, Matrix};

pub(super) fn write(out: &mut dyn Write, matrix: &Matrix<'_>) -> io::Result<()> {
    let mut writer = Writer::new_with_indent(&mut *out, b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let tests = (matrix.columns.len() * matrix.rules.len()).to_string();
    let failures = matrix.broken().count().to_string();
    let skipped = matrix.unmet().count().to_string();
    let time = seconds(matrix.took);
    let suites = writer.create_element("testsuites").with_attributes([
        ("name", "conformance-tests"),
        ("tests", &tests),
        ("failures", &failures),
        ("errors", "0"),
        ("skipped", &skipped),
        ("time", &time),
    ]);
    suites.write_inner_content(|writer| {
        for (column, cells) in &matrix.columns {
            let tests = cells.len().to_string();
            let failing = cells.iter().filter(|cell| cell.failure(column).is_some());
            let failures = failing.count().to_string();
            let skipped = cells.iter().filter_map(Cell::unmet).count().to_string();
            let time = seconds(cells.iter().map(|cell| cell.took).sum());
            let suite = writer.create_element("testsuite").with_attributes([
                ("name", column.title),
                ("tests", &tests),
                ("failures", &failures),
                ("errors", "0"),
                ("skipped", &skipped),
                ("time", &time),
            ]);
            suite.write_inner_content(|writer| {
                cells.iter().try_for_each(|cell| {
                    let failure = cell.failure(column).map(|failure| failure.text());
                    write_case(writer, column.title, cell, failure)
                })
            })?;
        }
        Ok(())
    })?;
    writeln!(writer.into_inner())
}

fn write_case(
    writer: &mut Writer<impl Write>,
    title: &str,
    cell: &Cell,
    failure: Option<String>,
) -> io::Result<()> {
    let time = seconds(cell.took);
    let case = writer.create_element("testcase").with_attributes([
        ("classname", title),
        ("name", cell.rule.name),
        ("time", &time),
    ]);
    if let Some(why) = cell.unmet() {
        case.write_inner_content(|writer| {
            let skipped = writer.create_element("skipped");
            skipped.with_attribute(("message", why)).write_empty()?;
            Ok(())
        })?;
        return Ok(());
    }
    let Some(failure) = failure else {
        case.write_empty()?;
        return Ok(());
    };
    let failure: String = failure.chars().map(printable).collect();
    let level = cell.rule.level.to_string();
    let message = format!("{} does not hold", cell.rule.id);
    case.write_inner_content(|writer| {
        writer
            .create_element("failure")
            .with_attributes([("message", message.as_str()), ("type", &level)])
            .write_text_content(BytesText::new(&failure))?;
        Ok(())
    })?;
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

/// XML has no way to write most control characters, not even escaped.
fn printable(character: char) -> char {
    match character {
        '\t' | '\n' => character,
        '\u{FFFE}' | '\u{FFFF}' => char::REPLACEMENT_CHARACTER,
        _ if character.is_control() => char::REPLACEMENT_CHARACTER,
        _ => character,
    }
}
