//! Measures which assertions of the suite's rules are needed to catch the deliberately wrong implementations.
//!
//! Each case of the table fails at one assertion, the first that does not hold. The case is checked again with this
//! assertion switched off. The assertion is needed if the case is then missed, or fails with another text. Switching off
//! an assertion that held would change nothing. Only a comparison can be skipped; a check cannot continue after any
//! other failure, and would hold without it.
//!
//! Prints ASSERTIONS.md. The exit code is 1 if a case is missed.

mod reasons;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::process::exit;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use conformance_cli::worlds::tokio::Tokio;
use conformance_tests::assertion::Site;
use conformance_tests::rules::all;
use conformance_tests::{Patience, Real};
use conformance_wrong::{Case, Said, table};

use self::reasons::reason;
use self::source::{Assertion, Kind, assertions};

/// How many cases are checked at the same time.
const AT_A_TIME: usize = 12;

/// The patience of these checks, which wait for events that never occur.
const SHORT: f64 = 0.25;

/// The time after which a check hangs, stretched by the patience.
const HANGS: Duration = Duration::from_secs(60);

/// The outcome of a case.
#[derive(Debug)]
enum Outcome {
    /// The case is missed.
    Missed(String),
    /// The failure is a panic, or comes from the set-up of a fixture.
    Otherwise,
    /// The case fails at this assertion, and with the same text without it.
    NotNeeded(Site),
    /// The case is caught only by this assertion.
    Needed(Site),
}

fn outcome(case: &Case, assertions: &[Assertion]) -> Outcome {
    let said = check(case, None);
    if !case.is_caught(&said) {
        return Outcome::Missed(said.to_string());
    }
    let Said::Broken(broken) = said else {
        return Outcome::Otherwise;
    };
    let site = broken.site();
    match assertions.iter().find(|one| is_at(one, site)) {
        None => Outcome::Otherwise,
        Some(one) if one.kind != Kind::Comparison => Outcome::Needed(site),
        Some(_) if case.is_caught(&check(case, Some(site))) => Outcome::NotNeeded(site),
        Some(_) => Outcome::Needed(site),
    }
}

fn check(case: &Case, off: Option<Site>) -> Said {
    let patience = Patience::expect_from_environment();
    let limit = patience.stretch(HANGS);
    let world = Real::new(Tokio::multi_thread());
    case.check(world, case.rule, patience.scaled(SHORT), limit, off)
}

fn is_at(assertion: &Assertion, site: Site) -> bool {
    let (file, line, column) = site.place();
    let file = Path::new(file).file_name();
    file.is_some_and(|file| file == assertion.file.as_str())
        && (assertion.line, assertion.column) == (line, column)
}

/// Measures all cases.
fn outcomes(assertions: &[Assertion]) -> Vec<(Case, Outcome)> {
    let cases = Mutex::new(table());
    let outcomes = Mutex::new(Vec::new());
    let next = || cases.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(case) = next() {
                    let outcome = outcome(&case, assertions);
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    outcomes.push((case, outcome));
                }
            });
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Counts the needed assertions of these kinds, and all of them.
fn share<'a>(
    assertions: impl Iterator<Item = &'a Assertion>,
    needed: &BTreeSet<usize>,
    kinds: &[Kind],
) -> String {
    let of_kind: Vec<_> = assertions
        .filter(|one| kinds.contains(&one.kind))
        .map(|one| needed.contains(&one.number))
        .collect();
    let count = of_kind.iter().filter(|needed| **needed).count();
    format!("{count} of {}", of_kind.len())
}

fn main() -> io::Result<()> {
    let began = Instant::now();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/rules");
    let assertions = assertions(&folder)?;
    // Some of the flaws panic.
    std::panic::set_hook(Box::new(|_| {}));
    let outcomes = outcomes(&assertions);
    let mut needed = BTreeSet::new();
    let mut missed = Vec::new();
    for (case, outcome) in &outcomes {
        match outcome {
            Outcome::Needed(site) => {
                let at_site = assertions.iter().find(|one| is_at(one, *site));
                needed.extend(at_site.map(|one| one.number));
            }
            Outcome::Missed(said) => missed.push((case, said)),
            Outcome::NotNeeded(site) => {
                eprintln!(
                    "{} with {:?} is caught without {site} as well",
                    case.rule, case.flaw
                );
            }
            Outcome::Otherwise => {}
        }
    }
    let out = &mut io::stdout().lock();
    write(out, &assertions, &needed)?;
    for (case, said) in &missed {
        let Case {
            rule, flaw, words, ..
        } = case;
        eprintln!("{rule} with {flaw:?} does not report {words:?} but {said}");
    }
    let took = began.elapsed();
    eprintln!(
        "{} cases in {took:.0?}: {} missed",
        outcomes.len(),
        missed.len()
    );
    // Wrong runtimes may leave threads behind.
    out.flush()?;
    exit(i32::from(!missed.is_empty()));
}

fn write(
    out: &mut impl Write,
    assertions: &[Assertion],
    needed: &BTreeSet<usize>,
) -> io::Result<()> {
    const COMPARISONS: &[Kind] = &[Kind::Comparison];
    const OTHERS: &[Kind] = &[Kind::Failure, Kind::Wait];
    writeln!(out, "{}\n", include_str!("begin.md").trim_end())?;
    writeln!(
        out,
        "| rule | cases | comparisons | waits and other failures |"
    )?;
    writeln!(out, "|---|---|---|---|")?;
    let cases = table();
    for rule in all() {
        let of_rule = || assertions.iter().filter(|one| one.rules.contains(rule.id));
        writeln!(
            out,
            "| {} | {} | {} | {} |",
            rule.id,
            cases.iter().filter(|case| case.rule == rule.id).count(),
            share(of_rule(), needed, COMPARISONS),
            share(of_rule(), needed, OTHERS),
        )?;
    }
    writeln!(
        out,
        "| all, each once | {} | {} | {} |",
        cases.len(),
        share(assertions.iter(), needed, COMPARISONS),
        share(assertions.iter(), needed, OTHERS),
    )?;
    writeln!(out, "\n## Comparisons that no case needs\n")?;
    writeln!(out, "| where | comparison | reason |\n|---|---|---|")?;
    let left = |kinds: &'static [Kind]| {
        let left = assertions
            .iter()
            .filter(|one| !needed.contains(&one.number));
        left.filter(move |one| kinds.contains(&one.kind))
    };
    for one in left(COMPARISONS) {
        let why = reason(one);
        let text = one.text.replace('|', "\\|");
        writeln!(out, "| {}:{} | `{text}` | {why} |", one.file, one.line)?;
    }
    writeln!(out, "\n{}\n", include_str!("waits.md").trim_end())?;
    let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in left(OTHERS) {
        let of_file = lines.entry(&one.file).or_default();
        of_file.push(one.line.to_string());
    }
    for (file, lines) in lines {
        writeln!(out, "- {file}: {}", lines.join(", "))?;
    }
    Ok(())
}
