//! The table of one runtime: everything that was counted, and the verdict.

use std::io::{self, Write};

use crate::Soaked;
use crate::history::Count;
use conformance_console::grouped;

/// The name of a count in words.
fn words(count: Count) -> String {
    let mut words = String::new();
    for letter in format!("{count:?}").chars().filter(|letter| *letter != ')') {
        match letter {
            '(' => {}
            letter if letter.is_uppercase() => {
                words.push(' ');
                words.extend(letter.to_lowercase());
            }
            letter => words.push(letter),
        }
    }
    words.trim_start().to_owned()
}

/// Writes the table of a runtime, and what is wrong.
pub(crate) fn write(out: &mut dyn Write, name: &str, seed: u64, soaked: &Soaked) -> io::Result<()> {
    let seconds = soaked.took.as_secs_f64();
    let rate = grouped((soaked.connections as f64 / seconds.max(f64::MIN_POSITIVE)).round());
    let made = grouped(soaked.connections);
    writeln!(out, "\n{name}")?;
    let mut row = |name: &str, text: &str| writeln!(out, "  {name:<24}{text}");
    row(
        "connections",
        &format!("{made} in {seconds:.1} s, {rate} a second"),
    )?;
    for (count, number) in &soaked.counts {
        row(&words(*count), &grouped(number))?;
    }
    row("memory", &soaked.memory)?;
    let verdict = match soaked.broken.len() {
        0 => "every check holds".to_owned(),
        1 => "1 check does NOT hold".to_owned(),
        count => format!("{count} checks do NOT hold"),
    };
    row("verdict", &verdict)?;
    for (place, broken) in &soaked.broken {
        writeln!(out, "\n{place}:\n{broken}")?;
    }
    if !soaked.broken.is_empty() {
        let choices = format!("soak --runtime {name} --seed {seed}");
        writeln!(out, "\nthe same choices again: {choices}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Behavior::TalkAtLength;

    #[test]
    fn a_count_has_words() {
        assert_eq!(words(Count::Client(TalkAtLength)), "client talk at length");
    }
}
