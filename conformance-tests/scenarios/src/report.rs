//! The report of a scenario that fails: what was expected and seen, the steps to the failure, and how to run it again.

use std::fmt;

use super::{Failure, STEPS, Scenario, Setting, Shrunk, StageSetting, TraceEntry, counted};

/// A scenario that fails, shrunk, and its trace.
///
/// Its `Display` helps to find the cause. The same failure always has the same text.
#[derive(Debug, Clone)]
pub struct FailureReport {
    origin: Origin,
    steps_before: usize,
    shrunk: Shrunk,
    trace: Vec<TraceEntry>,
}

/// The origin of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was generated from this seed.
    Seed(u64),
    /// It was read from a file.
    File,
    /// It is the built-in one.
    BuiltIn,
}

/// The command that runs scenarios.
const PROGRAM: &str = "cargo simulate";

impl FailureReport {
    /// The report of a scenario that was shrunk; `trace` is the trace of the shrunk one.
    pub fn new(
        origin: Origin,
        scenario: &Scenario,
        shrunk: Shrunk,
        trace: Vec<TraceEntry>,
    ) -> Self {
        Self {
            origin,
            steps_before: scenario.steps.len(),
            shrunk,
            trace,
        }
    }

    /// The trace of the shrunk scenario.
    pub fn trace(&self) -> &[TraceEntry] {
        &self.trace
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Seed(seed) => write!(f, "seed {seed}"),
            Origin::File => f.write_str("the scenario"),
            Origin::BuiltIn => f.write_str("the graceful stop"),
        }
    }
}

impl fmt::Display for FailureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shrunk {
            scenario,
            failure,
            runs,
        } = &self.shrunk;
        let Failure { step, at, rule, .. } = failure;
        let place = match *step < scenario.steps.len() {
            true => format!("at step {step}"),
            false => "in the teardown".to_owned(),
        };
        writeln!(f, "{} breaks {rule} {place}, at {at:.3?}\n", self.origin)?;
        write_violation(f, "  ", failure)?;
        writeln!(
            f,
            "\nShrunk from {} to {} in {}; an index is taken modulo the number of items:\n",
            counted(self.steps_before, "step", "steps"),
            scenario.steps.len(),
            counted(*runs, "run", "runs")
        )?;
        writeln!(f, "  setting  {}", scenario.setting)?;
        for (number, step) in scenario.steps.iter().enumerate() {
            writeln!(f, "  step {number:<3} {step}")?;
        }
        writeln!(f, "  teardown {:?}", scenario.teardown)?;
        writeln!(f, "\nThe trace:\n")?;
        for entry in &self.trace {
            writeln!(f, "{entry}")?;
        }
        write_violation(f, &format!("{:10}>>  ", ""), failure)?;
        writeln!(f, "\nTo run it again:\n")?;
        if let Origin::Seed(seed) = self.origin {
            let steps = match self.steps_before {
                STEPS => String::new(),
                steps => format!(" --steps {steps}"),
            };
            writeln!(f, "  {PROGRAM} --seed {seed}{steps}")?;
        }
        writeln!(
            f,
            "  {PROGRAM} --scenario FILE\n\nwith this JSON in the file:\n"
        )?;
        f.write_str(&scenario.to_json())
    }
}

/// Writes what was expected and seen, each with a margin below its first line.
fn write_violation(f: &mut fmt::Formatter<'_>, mark: &str, failure: &Failure) -> fmt::Result {
    for (head, text) in [("expected", &failure.expected), ("seen    ", &failure.seen)] {
        let margin = format!("\n{:width$}", "", width = mark.len() + head.len() + 2);
        let text: Vec<_> = text.lines().collect();
        writeln!(f, "{mark}{head}  {}", text.join(&margin))?;
    }
    Ok(())
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, backlog, buffer) = (self.start, self.backlog, self.buffer);
        write!(
            f,
            "{}; start: {start:?}; backlog {backlog}, buffer {buffer}",
            self.spec
        )?;
        f.write_str(match self.stage {
            StageSetting::None => "",
            StageSetting::Handshake => "; listeners have a handshake",
        })?;
        match self.spurious {
            0 => Ok(()),
            many => write!(f, "; one poll in {many} is spurious"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::run_traced;

    #[test]
    fn report_has_steps_trace_and_json() {
        let whole = Scenario::of_seed(7, 400);
        let scenario = Scenario::of_seed(7, 3);
        let (trace, _) = run_traced(&scenario);
        let failure = Failure {
            step: 1,
            at: Duration::from_millis(70),
            rule: "E3",
            expected: "one line".to_owned(),
            seen: "two\nlines".to_owned(),
        };
        let shrunk = Shrunk {
            scenario,
            failure,
            runs: 17,
        };
        let report = FailureReport::new(Origin::Seed(7), &whole, shrunk, trace);
        let text = report.to_string();
        let (head, rest) = text
            .split_once("\nShrunk")
            .expect("the report has a shrunk scenario");
        assert_eq!(
            head,
            "seed 7 breaks E3 at step 1, at 70.000ms\n\n  \
             expected  one line\n  \
             seen      two\n            lines\n"
        );
        assert!(
            rest.starts_with(" from 400 steps to 3 in 17 runs; "),
            "{text}"
        );
        for (number, step) in report.shrunk.scenario.steps.iter().enumerate() {
            assert!(
                rest.contains(&format!("\n  step {number}   {step}\n")),
                "{text}"
            );
        }
        for entry in &report.trace {
            assert!(rest.contains(&format!("\n{entry}\n")), "{text}");
        }
        assert!(
            rest.contains("cargo simulate --seed 7 --steps 400\n"),
            "{text}"
        );
        let (_, json) = rest
            .split_once("in the file:\n\n")
            .expect("the report has the file's content");
        let again: Scenario = json.parse().expect("the report ends with a scenario");
        assert_eq!(again, report.shrunk.scenario);
    }
}
