//! What is to be told of a scenario that fails: what was expected and seen, the steps that lead there, and how to see it again.

use std::fmt;

use super::{
    Failure, Finale, Moment, STEPS, Scenario, Setting, Shrunk, StageSetting, Start, counted,
};

/// A scenario that fails, shrunk, with all that was seen in it.
///
/// Displayed as what one reads to find out why; the same failure is always the same text.
#[derive(Debug, Clone)]
pub struct Finding {
    origin: Origin,
    steps_before: usize,
    shrunk: Shrunk,
    moments: Vec<Moment>,
}

/// Where a scenario comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was made of this seed.
    Seed(u64),
    /// It was read from a file.
    File,
    /// It is the built-in one.
    BuiltIn,
}

/// How the program is called.
const PROGRAM: &str = "cargo simulate";

impl Finding {
    /// A scenario that was shrunk to one in which these moments were seen.
    pub fn new(origin: Origin, scenario: &Scenario, shrunk: Shrunk, moments: Vec<Moment>) -> Self {
        Self {
            origin,
            steps_before: scenario.steps.len(),
            shrunk,
            moments,
        }
    }

    /// What was seen in it.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
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

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shrunk {
            scenario,
            failure,
            plays,
        } = &self.shrunk;
        writeln!(
            f,
            "{} breaks {} {}, at {:.3?}\n",
            self.origin,
            failure.rule,
            place(failure, scenario),
            failure.at
        )?;
        write_indented(f, "  expected  ", &failure.expected)?;
        write_indented(f, "  seen      ", &failure.seen)?;
        writeln!(
            f,
            "\nShrunk from {} to {} in {}; a place is counted round among those that are there, from 0 on:\n",
            counted(self.steps_before, "step", "steps"),
            scenario.steps.len(),
            counted(*plays, "play", "plays")
        )?;
        writeln!(f, "  setting  {}", scenario.setting)?;
        for (number, step) in scenario.steps.iter().enumerate() {
            writeln!(f, "  step {number:<3} {step}")?;
        }
        writeln!(f, "  finale   {}", scenario.finale)?;
        writeln!(f, "\nWhat was seen:\n")?;
        for moment in &self.moments {
            writeln!(f, "{moment}")?;
        }
        let mark = " ".repeat(10);
        write_indented(f, &format!("{mark}>>  expected  "), &failure.expected)?;
        write_indented(f, &format!("{mark}>>  seen      "), &failure.seen)?;
        writeln!(f, "\nTo see it again:\n")?;
        match self.origin {
            Origin::Seed(seed) if self.steps_before == STEPS => {
                writeln!(f, "  {PROGRAM} --seed {seed}")?;
            }
            Origin::Seed(seed) => {
                let steps = self.steps_before;
                writeln!(f, "  {PROGRAM} --seed {seed} --steps {steps}")?;
            }
            Origin::File | Origin::BuiltIn => {}
        }
        writeln!(f, "  {PROGRAM} --scenario FILE\n\nwith this in the file:\n")?;
        f.write_str(&scenario.to_json())
    }
}

fn place(failure: &Failure, scenario: &Scenario) -> String {
    if failure.step < scenario.steps.len() {
        format!("at step {}", failure.step)
    } else {
        "in the finale".to_owned()
    }
}

/// Writes a text of perhaps several lines, all of them after a margin as wide as the head of the first.
fn write_indented(f: &mut fmt::Formatter<'_>, head: &str, text: &str) -> fmt::Result {
    let margin = " ".repeat(head.len());
    let mut before = head;
    for line in text.lines() {
        writeln!(f, "{before}{line}")?;
        before = &margin;
    }
    Ok(())
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = match self.start {
            Start::Spec => "a spec",
            Start::InitFunction => "an init function",
        };
        write!(
            f,
            "{}; started with {start}; backlog {}, buffer {}",
            self.spec, self.backlog, self.buffer
        )?;
        match self.stage {
            StageSetting::None => {}
            StageSetting::Handshake => f.write_str("; listeners have a handshake")?,
        }
        match self.spurious {
            0 => Ok(()),
            many => write!(f, "; one poll in {many} for nothing"),
        }
    }
}

impl fmt::Display for Finale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finale::Stop => "the pool is stopped",
            Finale::DropOwner => "the owner is dropped",
            Finale::CloseRuntime => "the runtime is shut down",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tell;

    fn finding(seed: u64) -> Finding {
        let whole = Scenario::of_seed(seed, 400);
        let scenario = Scenario::of_seed(seed, 3);
        let (moments, _) = tell(&scenario);
        let failure = Failure {
            step: 1,
            at: Duration::from_millis(70),
            rule: "E3",
            expected: "one line".to_owned(),
            seen: "two\nlines".to_owned(),
        };
        let plays = 17;
        let shrunk = Shrunk {
            scenario,
            failure,
            plays,
        };
        Finding::new(Origin::Seed(seed), &whole, shrunk, moments)
    }

    #[test]
    fn the_same_failure_is_the_same_text_to_the_letter() {
        assert_eq!(finding(7).to_string(), finding(7).to_string());
    }

    #[test]
    fn what_is_told_has_the_steps_what_was_seen_and_how_to_see_it_again() {
        let finding = finding(7);
        let text = finding.to_string();
        let (head, rest) = text.split_once("\nShrunk").expect("it is shrunk");
        assert_eq!(
            head,
            "seed 7 breaks E3 at step 1, at 70.000ms\n\n  \
             expected  one line\n  \
             seen      two\n            lines\n"
        );
        assert!(
            rest.starts_with(" from 400 steps to 3 in 17 plays; "),
            "{text}"
        );
        for (number, step) in finding.shrunk.scenario.steps.iter().enumerate() {
            let line = format!("\n  step {number}   {step}\n");
            assert!(rest.contains(&line), "{text}");
        }
        for moment in &finding.moments {
            assert!(rest.contains(&format!("\n{moment}\n")), "{text}");
        }
        assert!(
            rest.contains("cargo simulate --seed 7 --steps 400\n"),
            "{text}"
        );
        let (_, json) = rest.split_once("in the file:\n\n").expect("it has a file");
        let again: Scenario = json.parse().expect("it is a scenario");
        assert_eq!(again, finding.shrunk.scenario);
    }
}
