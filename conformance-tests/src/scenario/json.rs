//! A scenario as text: JSON, a line for each step, so that it can be read, edited and kept.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::Scenario;

/// The text is no scenario.
#[derive(Debug)]
pub struct ScenarioError(serde_json::Error);

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is no scenario: {}", self.0)
    }
}

impl std::error::Error for ScenarioError {}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        serde_json::from_str(text).map_err(ScenarioError)
    }
}

impl Scenario {
    /// The scenario as JSON, with a line for each step; [`FromStr`] makes the scenario of it again.
    pub fn to_json(&self) -> String {
        // By name, so that a field that is added later is not forgotten.
        let Self {
            seed,
            setting,
            steps,
            finale,
        } = self;
        let steps: Vec<_> = steps
            .iter()
            .map(|step| format!("\n    {}", json(step)))
            .collect();
        let end = if steps.is_empty() { "" } else { "\n  " };
        format!(
            "{{\n  \"seed\": {seed},\n  \"setting\": {},\n  \"steps\": [{}{end}],\n  \"finale\": {}\n}}\n",
            json(setting),
            steps.join(","),
            json(finale)
        )
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data can be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scenario: &Scenario) {
        let text = scenario.to_json();
        let again: Scenario = text.parse().expect("it is a scenario");
        assert_eq!(again, *scenario, "{text}");
    }

    #[test]
    fn what_is_written_is_read_again_as_the_same() {
        for seed in 0..20 {
            check(&Scenario::of_seed(seed, 100));
        }
        check(&Scenario::of_seed(1, 0));
    }

    #[test]
    fn each_step_has_a_line() {
        let text = Scenario::of_seed(1, 7).to_json();
        let lines = text.lines().filter(|line| line.contains("schedule"));
        assert_eq!(lines.count(), 7, "{text}");
        assert_eq!(text.lines().count(), 7 + 7, "{text}");
    }

    #[test]
    fn what_is_no_scenario_is_an_error_that_says_where() {
        let error = "{\n\"seed\": 1}".parse::<Scenario>().expect_err("none");
        assert_eq!(
            error.to_string(),
            "it is no scenario: missing field `setting` at line 2 column 10"
        );
    }
}
