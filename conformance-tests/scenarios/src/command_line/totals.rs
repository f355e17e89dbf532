//! Prints the sums of all runs.

use std::io::{self, Write};
use std::time::Duration;

use crate::RunSummary;
use conformance_console::grouped;

/// Writes the sums as tables.
pub(super) fn write_summary(summary: &RunSummary, out: &mut dyn Write) -> io::Result<()> {
    let events = summary.events.iter();
    write_table(out, events.map(|(label, count)| (*label, *count)))?;
    writeln!(out)?;
    let statistics = &summary.statistics;
    let sums = [
        ("seeds", summary.scenarios),
        ("steps", summary.steps),
        ("pools", summary.pools),
        ("tasks", statistics.tasks),
        ("timers that fired", statistics.timers),
        ("polls", statistics.polls),
        ("spurious polls", statistics.spurious),
        ("seconds of virtual time", summary.virtual_time.as_secs()),
    ];
    write_table(out, sums)
}

/// Writes how long all runs took on this many cores.
pub(super) fn write_speed(
    summary: &RunSummary,
    took: Duration,
    cores: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let seconds = took.as_secs_f64();
    let speed = summary.scenarios as f64 / seconds.max(f64::MIN_POSITIVE);
    let core = speed / cores as f64;
    writeln!(
        out,
        "\nall hold: {seconds:.1} s, {speed:.0} seeds per second, {core:.0} per second and core"
    )
}

fn write_table<'a>(
    out: &mut dyn Write,
    lines: impl IntoIterator<Item = (&'a str, u64)>,
) -> io::Result<()> {
    let lines = lines
        .into_iter()
        .map(|(label, count)| (label, grouped(count)));
    let lines: Vec<_> = lines.collect();
    let widths = lines
        .iter()
        .map(|(label, count)| (label.len(), count.len()));
    let max = |(a, b): (usize, usize), (c, d)| (a.max(c), b.max(d));
    let (labels, counts) = widths.fold((0, 0), max);
    for (label, count) in lines {
        writeln!(out, "{label:labels$}  {count:>counts$}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use acceptor_simulation::Statistics;

    #[test]
    fn sums_are_tables_with_aligned_numbers() {
        let mut summary = RunSummary::default();
        for (seed, label) in ["connects", "connects", "stops"].into_iter().enumerate() {
            summary.add(&RunSummary {
                scenarios: 1,
                steps: 700 * seed as u64,
                pools: 1,
                events: BTreeMap::from([(label, 999)]),
                statistics: Statistics {
                    polls: 1_000_000,
                    spurious: 10,
                    tasks: 100,
                    timers: 0,
                },
                virtual_time: Duration::from_millis(1_500),
            });
        }
        let mut out = Vec::new();
        write_summary(&summary, &mut out)
            .and_then(|()| write_speed(&summary, Duration::from_millis(500), 2, &mut out))
            .expect("memory can be written");
        assert_eq!(
            String::from_utf8(out).expect("the output is UTF-8"),
            "connects  1,998\n\
             stops       999\n\
             \n\
             seeds                            3\n\
             steps                        2,100\n\
             pools                            3\n\
             tasks                          300\n\
             timers that fired                0\n\
             polls                    3,000,000\n\
             spurious polls                  30\n\
             seconds of virtual time          4\n\
             \n\
             all hold: 0.5 s, 6 seeds per second, 3 per second and core\n"
        );
    }
}
