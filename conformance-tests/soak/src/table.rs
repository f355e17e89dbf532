//! The table of one runtime: everything that was counted, and the verdict.

use std::io::{self, Write};
use std::time::Duration;

use crate::history::Count;
use crate::process::{ALLOWED_GROWTH, JUDGED_FROM};
use crate::{Soak, Soaked, Target};
use conformance_console::grouped;

/// The row of a count. Rows have the order of their counts.
fn row(count: Count) -> &'static str {
    match count {
        Count::Pool(_) => "pools",
        Count::Client(_) => "clients",
        Count::Serve(_) => "serve",
        Count::Refused | Count::LeftInBacklog | Count::CutEarly | Count::KilledUnserved => {
            "not served"
        }
        Count::Listener | Count::DeadListener | Count::Exhaustion => "faults",
        count if count < Count::Listener => "acceptors",
        count if count < Count::StoppedConnection => "reports",
        _ => "last stops",
    }
}

/// The name of a variant in words; of the inner one, if there is one.
fn words(count: Count) -> String {
    let name = format!("{count:?}");
    let name = name.split(['(', ')']).nth(1).unwrap_or(&name);
    let words: String = name
        .chars()
        .flat_map(|letter| {
            let space = letter.is_uppercase().then_some(' ');
            space.into_iter().chain(letter.to_lowercase())
        })
        .collect();
    words.trim_start().to_owned()
}

/// How many in a second.
pub(crate) fn a_second(count: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(f64::MIN_POSITIVE);
    grouped((count as f64 / seconds).round() as u64)
}

pub(crate) fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// Writes the table of a runtime, and what is wrong.
pub(crate) fn write(
    out: &mut dyn Write,
    soak: &Soak,
    target: &Target,
    soaked: &Soaked,
) -> io::Result<()> {
    const ONLY_LINUX: &str = "not measured: only Linux has /proc/self";
    let mut rows: Vec<(&str, String)> = Vec::new();
    let (connections, took) = (soaked.connections(), soaked.took);
    let made = grouped(connections);
    let rate = a_second(connections, took);
    let made = format!("{made} in {:.1} s, {rate} a second", took.as_secs_f64());
    rows.push(("connections", made));
    for (count, number) in soaked.counts.iter().filter(|(_, number)| **number > 0) {
        let text = format!("{} {}", words(*count), grouped(number));
        match rows.last_mut() {
            Some((name, texts)) if *name == row(*count) => *texts += &format!(", {text}"),
            _ => rows.push((row(*count), text)),
        }
    }
    let peak = soaked.memory.iter().map(|(_, resident)| *resident).max();
    let memory = match (soaked.peaks(), peak) {
        (Some([first, last]), _) => format!(
            "{} at most in the beginning, {} in the end; {} more are allowed",
            mebibytes(first),
            mebibytes(last),
            mebibytes(ALLOWED_GROWTH)
        ),
        (None, Some(peak)) => {
            let seconds = JUDGED_FROM.as_secs();
            format!("{} at most; judged from {seconds} s on", mebibytes(peak))
        }
        (None, None) => ONLY_LINUX.to_owned(),
    };
    rows.push(("memory", memory));
    let descriptors = match soaked.descriptors {
        [Some(before), Some(after)] => format!("{before} before, {after} after"),
        _ => ONLY_LINUX.to_owned(),
    };
    rows.push(("descriptors", descriptors));
    let verdict = match soaked.broken.len() {
        0 => "every check holds".to_owned(),
        1 => "1 check does NOT hold".to_owned(),
        count => format!("{count} checks do NOT hold"),
    };
    rows.push(("verdict", verdict));
    writeln!(out, "\n{}", target.name)?;
    for (name, text) in rows {
        writeln!(out, "  {name:<13}{text}")?;
    }
    for (place, broken) in &soaked.broken {
        writeln!(out, "\n{place}:\n{broken}")?;
    }
    if !soaked.broken.is_empty() {
        let (name, seed) = (target.name, soak.seed);
        writeln!(
            out,
            "\nthe same choices again: soak --runtime {name} --seed {seed}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Behavior;

    #[test]
    fn a_count_has_words() {
        assert_eq!(
            words(Count::Client(Behavior::TalkAtLength)),
            "talk at length"
        );
        assert_eq!(words(Count::LeftInBacklog), "left in backlog");
    }

    #[test]
    fn a_rate_is_rounded() {
        assert_eq!(a_second(10_000, Duration::from_millis(2_500)), "4,000");
    }
}
