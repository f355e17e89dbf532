//! What a soak has to tell: a line while it runs, and a table a runtime in the end.

use std::io::{self, Write};

use super::course::Soaked;
use super::exhaustion;
use super::memory::Grown;
use super::process;
use super::way::Way;
use conformance_console::grouped;

/// How many in a second, to the nearest.
pub(super) fn a_second(count: u64, seconds: f64) -> String {
    grouped((count as f64 / seconds.max(f64::MIN_POSITIVE)).round() as u64)
}

/// Those that are not zero, with their words.
fn listed(counts: impl IntoIterator<Item = (u64, &'static str)>) -> String {
    let there = counts.into_iter().filter(|(count, _)| *count > 0);
    let there: Vec<_> = there
        .map(|(count, words)| format!("{} {words}", grouped(count)))
        .collect();
    if there.is_empty() {
        return "none".to_owned();
    }
    there.join(", ")
}

/// Where the texts begin, after the names.
const INDENT: usize = 13;

/// The longest that a text is before it goes on in the next line.
const WIDTH: usize = 100;

/// A text in lines of which none but the first has a name before it.
fn wrapped(text: &str) -> String {
    let (mut wrapped, mut width) = (String::new(), 0);
    for word in text.split(' ') {
        if width > 0 && width + 1 + word.len() > WIDTH {
            wrapped.push_str(&format!("\n{:1$}", "", INDENT + 2));
            width = 0;
        } else if width > 0 {
            wrapped.push(' ');
            width += 1;
        }
        wrapped.push_str(word);
        width += word.len();
    }
    wrapped
}

/// The table of one runtime.
pub(super) fn write(
    out: &mut dyn Write,
    title: &str,
    soaked: &Soaked,
    memory: &Grown,
    verdict: &str,
) -> io::Result<()> {
    let totals = &soaked.totals;
    let connections = totals.connections();
    let seconds = soaked.took.as_secs_f64();
    let made = format!(
        "{} in {seconds:.1} s, {} a second",
        grouped(connections),
        a_second(connections, seconds)
    );
    let clients = Way::ALL.map(|way| (totals.made[way as usize], way.words()));
    let ends = [
        (totals.normal, "normal"),
        (totals.clean, "clean"),
        (totals.error, "error"),
        (totals.panic, "panic"),
        (totals.killed, "killed"),
        (totals.stopped, "stopped"),
    ];
    let unserved = [
        (totals.refused, "refused"),
        (totals.unserved, "in the backlog of a listener that closed"),
        (totals.killed_unserved, "killed before they were"),
    ];
    let acceptors = [
        (totals.terminated, "terminated"),
        (totals.start_errors, "failed in init"),
        (totals.acceptors_killed, "killed"),
    ];
    let pools = [
        (totals.at_rest, "stopped at rest"),
        (totals.under_way, "stopped under way"),
        (totals.killed_pools, "killed"),
        (totals.owner_dropped, "without their owner"),
        (totals.intensity, "stopped by intensity"),
    ];
    let listeners = format!(
        "{}, and {} that did not listen",
        grouped(totals.listeners),
        grouped(totals.dead_listeners)
    );
    let descriptors = match (soaked.before, soaked.after) {
        (Some(before), Some(after)) => format!("{before} before, {after} after"),
        _ => process::ONLY_LINUX.to_owned(),
    };
    let exhaustions = if exhaustion::POSSIBLE {
        grouped(totals.exhaustions)
    } else {
        "not made: only Linux tells how many descriptors are open".to_owned()
    };
    writeln!(out, "\n{title}")?;
    let lines = [
        ("connections", made),
        ("clients", listed(clients)),
        ("ends", listed(ends)),
        ("not served", listed(unserved)),
        ("acceptors", listed(acceptors)),
        (
            "pools",
            format!("{}: {}", grouped(totals.pools()), listed(pools)),
        ),
        ("listeners", listeners),
        ("exhaustions", exhaustions),
        ("memory", memory.to_string()),
        ("descriptors", descriptors),
        ("verdict", verdict.to_owned()),
    ];
    for (name, text) in lines {
        writeln!(out, "  {name:<INDENT$}{}", wrapped(&text))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_rounded() {
        assert_eq!(a_second(10_000, 2.5), "4,000");
        assert_eq!(a_second(2, 3.0), "1");
    }

    #[test]
    fn what_is_zero_is_left_away() {
        let counts = [(2, "normal"), (0, "clean"), (1_000, "killed")];
        assert_eq!(listed(counts), "2 normal, 1,000 killed");
        assert_eq!(listed([(0, "normal")]), "none");
    }
}
