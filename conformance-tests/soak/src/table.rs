//! The table of one runtime: all counts, and the verdict.

use std::io::{self, Write};

use crate::process::growth;
use crate::{Soak, Soaked};
use conformance_console::grouped;

/// Writes the table of a runtime, and its failed checks.
pub(crate) fn write(out: &mut dyn Write, soak: &Soak<'_>, soaked: &Soaked) -> io::Result<()> {
    let (name, seed) = (soak.name, soak.arguments.seed);
    let seconds = soaked.took.as_secs_f64();
    let rate = grouped((soaked.connections as f64 / seconds.max(f64::MIN_POSITIVE)).round());
    let made = grouped(soaked.connections);
    if soaked.counts.is_empty() && soaked.broken.is_empty() {
        // It ended before its first pool, so nothing was checked.
        return writeln!(out, "\n{name}: not soaked");
    }
    writeln!(out, "\n{name}")?;
    let mut row = |name: &str, text: &str| writeln!(out, "  {name:<24}{text}");
    let made = format!("{made} in {seconds:.1} s, {rate} a second");
    row("connections", &made)?;
    for (count, number) in &soaked.counts {
        row(&format!("{count:?}"), &grouped(number))?;
    }
    row("memory", &growth(&soaked.memory, soaked.took).0)?;
    let verdict = match soaked.broken.len() {
        0 => "every check holds".to_owned(),
        count => format!("{count} checks do NOT hold"),
    };
    row("verdict", &verdict)?;
    for (place, broken) in &soaked.broken {
        writeln!(out, "\n{place}:\n{broken}")?;
    }
    if !soaked.broken.is_empty() {
        let choices = format!("soak --runtime {name} --seed {seed}");
        writeln!(out, "\nto repeat the same choices: {choices}")?;
    }
    Ok(())
}
