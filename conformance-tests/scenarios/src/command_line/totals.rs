//! What all plays together came to.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::Played;
use acceptor_simulation::Statistics;
use conformance_console::grouped;

/// The sums of what was played.
#[derive(Debug, Default)]
pub(super) struct Totals {
    seeds: u64,
    steps: u64,
    pools: u64,
    exercised: BTreeMap<&'static str, u64>,
    statistics: Statistics,
    virtual_time: Duration,
}

impl Totals {
    /// How many were played.
    #[cfg(test)]
    pub(super) fn seeds(&self) -> u64 {
        self.seeds
    }

    pub(super) fn add(&mut self, played: &Played) {
        let Played {
            steps,
            pools,
            exercised,
            statistics,
            virtual_time,
        } = played;
        self.merge(Self {
            seeds: 1,
            steps: *steps,
            pools: *pools,
            exercised: exercised.clone(),
            statistics: *statistics,
            virtual_time: *virtual_time,
        });
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.pools += other.pools;
        for (kind, count) in other.exercised {
            *self.exercised.entry(kind).or_default() += count;
        }
        let Statistics {
            polls,
            spurious,
            tasks,
            timers,
        } = other.statistics;
        self.statistics.polls += polls;
        self.statistics.spurious += spurious;
        self.statistics.tasks += tasks;
        self.statistics.timers += timers;
        self.virtual_time += other.virtual_time;
    }

    /// Prints them.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let exercised = self.exercised.iter();
        let exercised: Vec<_> = exercised.map(|(kind, count)| (*kind, *count)).collect();
        write_table(out, &exercised)?;
        writeln!(out)?;
        let Statistics {
            polls,
            spurious,
            tasks,
            timers,
        } = self.statistics;
        write_table(
            out,
            &[
                ("seeds", self.seeds),
                ("steps", self.steps),
                ("pools", self.pools),
                ("tasks", tasks),
                ("timers that fired", timers),
                ("polls", polls),
                ("polls of tasks that nobody woke", spurious),
                ("seconds of virtual time", self.virtual_time.as_secs()),
            ],
        )
    }

    /// Prints the time that it took on so many cores.
    pub(super) fn write_speed(
        &self,
        out: &mut dyn Write,
        took: Duration,
        cores: NonZeroUsize,
    ) -> io::Result<()> {
        let seconds = took.as_secs_f64();
        let each = self.seeds as f64 / seconds.max(f64::MIN_POSITIVE);
        let core = each / cores.get() as f64;
        writeln!(
            out,
            "\nall hold: {seconds:.1} s, {each:.0} seeds a second, {core:.0} a second and core"
        )
    }
}

fn write_table(out: &mut dyn Write, lines: &[(&str, u64)]) -> io::Result<()> {
    let lines: Vec<_> = lines
        .iter()
        .map(|(kind, count)| (*kind, grouped(*count)))
        .collect();
    let kinds = lines.iter().map(|(kind, _)| kind.chars().count()).max();
    let counts = lines.iter().map(|(_, count)| count.len()).max();
    let (kinds, counts) = (kinds.unwrap_or_default(), counts.unwrap_or_default());
    for (kind, count) in lines {
        writeln!(out, "{kind:kinds$}  {count:>counts$}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_a_table_with_aligned_numbers() {
        let mut totals = Totals::default();
        for (seed, kind) in ["connects", "connects", "stops"].into_iter().enumerate() {
            totals.add(&Played {
                steps: 700 * seed as u64,
                pools: 1,
                exercised: BTreeMap::from([(kind, 999)]),
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
        let cores = NonZeroUsize::new(2).expect("two cores");
        totals
            .write(&mut out)
            .and_then(|()| totals.write_speed(&mut out, Duration::from_millis(500), cores))
            .expect("it can be written");
        assert_eq!(
            String::from_utf8(out).expect("it is text"),
            "connects  1,998\n\
             stops       999\n\
             \n\
             seeds                                    3\n\
             steps                                2,100\n\
             pools                                    3\n\
             tasks                                  300\n\
             timers that fired                        0\n\
             polls                            3,000,000\n\
             polls of tasks that nobody woke         30\n\
             seconds of virtual time                  4\n\
             \n\
             all hold: 0.5 s, 6 seeds a second, 3 a second and core\n"
        );
    }
}
