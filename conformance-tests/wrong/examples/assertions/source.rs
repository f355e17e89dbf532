//! Finds the assertions in the source of the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// The kinds of assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A call of `same`.
    Comparison,
    /// A failure that the check constructs.
    Failure,
    /// A wait for an event.
    Wait,
}

/// An assertion in the source of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Assertion {
    /// Its place among all.
    pub(crate) number: usize,
    /// The name of its file, such as `stopping.rs`.
    pub(crate) file: String,
    /// The line, from 1.
    pub(crate) line: u32,
    /// The column, from 1.
    pub(crate) column: u32,
    /// Its kind.
    pub(crate) kind: Kind,
    /// The function that contains it.
    pub(crate) function: String,
    /// The call, cut to one line.
    pub(crate) text: String,
    /// The rules that reach it.
    pub(crate) rules: BTreeSet<String>,
}

/// The calls that are assertions. The methods are those of `Fixture` and `Patience`.
const BEGINNINGS: [(&str, Kind); 14] = [
    ("same(", Kind::Comparison),
    ("Broken::new(", Kind::Failure),
    ("event(", Kind::Wait),
    ("until(", Kind::Wait),
    ("wait_outside(", Kind::Wait),
    ("inits_begun(", Kind::Wait),
    ("ended(", Kind::Wait),
    ("waiting(", Kind::Wait),
    ("echo(", Kind::Wait),
    ("close(&", Kind::Wait),
    ("closed(&", Kind::Wait),
    ("join(&", Kind::Wait),
    ("counts(&", Kind::Wait),
    ("wait(&", Kind::Wait),
];

/// Finds the assertions of the rules in this folder.
pub(crate) fn assertions(folder: &Path) -> io::Result<Vec<Assertion>> {
    let mut found = Vec::new();
    let mut files: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(|file| file.file_name());
    for file in files {
        let name = file.file_name().to_string_lossy().into_owned();
        found.extend(of_file(&name, &fs::read_to_string(file.path())?));
    }
    for (number, one) in found.iter_mut().enumerate() {
        one.number = number;
    }
    Ok(found)
}

/// A function and its lines.
struct Function {
    name: String,
    lines: Vec<(u32, String)>,
}

/// Splits a formatted file into functions, each of which extends to the next one.
fn functions(text: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(name) = function_named(code) {
            functions.push(Function {
                name,
                lines: Vec::new(),
            });
        }
        if let Some(function) = functions.last_mut() {
            function.lines.push((number, code.to_owned()));
        }
    }
    functions
}

/// Returns the name of the function or method that begins in this line.
fn function_named(line: &str) -> Option<String> {
    let indent = line.len() - line.trim_start().len();
    let (before, after) = line.split_once("fn ")?;
    let begins = indent <= 4
        && before
            .split_whitespace()
            .all(|word| ["pub", "pub(super)", "async", "const"].contains(&word));
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (begins && end > 0).then(|| after[..end].to_owned())
}

fn of_file(file: &str, text: &str) -> Vec<Assertion> {
    let functions = functions(text);
    let rules = rules_of(&functions);
    let mut found = Vec::new();
    for function in &functions {
        for (number, line) in &function.lines {
            for (column, kind) in begin_in(line) {
                let further = function.lines.iter().filter(|(other, _)| other > number);
                let further = further.map(|(_, line)| line.trim()).take(6);
                let text: Vec<_> = [line[column..].trim()].into_iter().chain(further).collect();
                found.push(Assertion {
                    number: 0,
                    file: file.to_owned(),
                    line: *number,
                    column: u32::try_from(column).unwrap_or(u32::MAX) + 1,
                    kind,
                    function: function.name.clone(),
                    text: call(&text.join(" ")),
                    rules: rules.get(&function.name).cloned().unwrap_or_default(),
                });
            }
        }
    }
    found
}

/// Returns the call that a text begins with, cut to one line.
fn call(text: &str) -> String {
    let mut depth = 0;
    let end = text.char_indices().find(|(_, c)| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        *c == ')' && depth == 0
    });
    let text = end.map_or(text, |(end, _)| &text[..=end]);
    let text = text.replace("( ", "(").replace(", )", ")");
    match text.char_indices().nth(72) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// Returns the columns at which assertions begin in a line.
fn begin_in(line: &str) -> Vec<(usize, Kind)> {
    let mut found = Vec::new();
    for (beginning, kind) in BEGINNINGS {
        for (column, _) in line.match_indices(beginning) {
            let before = line[..column].chars().next_back();
            let begins = match kind {
                Kind::Wait => before == Some('.'),
                _ => before.is_none_or(|c| !c.is_alphanumeric() && c != '_'),
            };
            if begins && !line.trim_start().starts_with("fn ") {
                found.push((column, kind));
            }
        }
    }
    found.sort();
    found
}

/// Returns the rules that reach each function.
fn rules_of(functions: &[Function]) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeSet<_> = functions.iter().map(|function| &function.name).collect();
    let mut parts: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for function in functions {
        let words = function.lines.iter().flat_map(|(_, line)| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .map(str::to_owned)
        });
        let named = words.filter_map(|word| names.get(&word).copied());
        parts.entry(&function.name).or_default().extend(named);
    }
    let mut rules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in &names {
        let Some(rule) = rule_of(name) else { continue };
        let mut open = vec![*name];
        let mut seen = BTreeSet::new();
        while let Some(one) = open.pop() {
            if seen.insert(one) {
                rules.entry(one.clone()).or_default().insert(rule.clone());
                let others = parts[one].iter().copied();
                open.extend(others.filter(|other| rule_of(other).is_none()));
            }
        }
    }
    rules
}

/// Returns the rule that a function with this name checks.
fn rule_of(name: &str) -> Option<String> {
    let (id, _) = name.split_once('_')?;
    let (letter, number) = id.split_at_checked(1)?;
    let is_id = letter.chars().all(char::is_lowercase)
        && !number.is_empty()
        && number.chars().all(|c| c.is_ascii_digit());
    is_id.then(|| id.to_uppercase())
}
