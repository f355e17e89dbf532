//! A scenario as JSON, with a line for each step, so that a person can read, edit and keep it.

use std::str::FromStr;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::Scenario;

impl FromStr for Scenario {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl Scenario {
    /// The scenario as JSON, with a line for each step; [`FromStr`] parses it.
    pub fn to_json(&self) -> String {
        // By name, so that the compiler reports a field that is missing here.
        let Self {
            seed,
            setting,
            steps,
            teardown,
        } = self;
        let steps = steps.iter().map(|step| format!("\n    {}", json(step)));
        let steps: Vec<_> = steps.collect();
        let end = if steps.is_empty() { "" } else { "\n  " };
        format!(
            "{{\n  \"seed\": {seed},\n  \"setting\": {},\n  \"steps\": [{}{end}],\n  \"teardown\": {}\n}}\n",
            json(setting),
            steps.join(","),
            json(teardown)
        )
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data can be written")
}

/// Reads a time, in milliseconds, that a spec does not accept as zero.
pub(super) fn positive<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Into<Option<u32>> + Copy,
{
    let time = T::deserialize(deserializer)?;
    match time.into() {
        Some(0) => Err(D::Error::custom("this time must be at least 1 ms")),
        _ => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, SpecSetting, WaitingSetting};

    #[test]
    fn parsed_scenario_equals_the_written_one() {
        for (seed, steps) in (0..20).map(|seed| (seed, 100)).chain([(1, 0)]) {
            let scenario = Scenario::of_seed(seed, steps);
            let text = scenario.to_json();
            let again: Scenario = text.parse().expect("the text is a scenario");
            assert_eq!(again, scenario, "{text}");
            assert_eq!(text.lines().count(), if steps > 0 { steps + 7 } else { 6 });
        }
    }

    #[test]
    fn wrong_field_is_located() {
        let mut scenario = Scenario::of_seed(1, 2);
        scenario.setting.spec = SpecSetting::DEFAULT;
        scenario.steps[1].action = Action::Reconfigure(SpecSetting::DEFAULT, WaitingSetting::Keep);
        let text = scenario.to_json();
        for (old, new, error) in [
            (
                "\"grace\":0,",
                "",
                "missing field `grace` at line 3 column ",
            ),
            ("\"seed\"", "\"sed\":1,\"seed\"", "unknown field `sed`"),
            (
                "\"grace\"",
                "\"graze\":1,\"grace\"",
                "unknown field `graze`",
            ),
            (
                "\"backlog\"",
                "\"back\":1,\"backlog\"",
                "unknown field `back`",
            ),
            (
                "\"schedule\"",
                "\"plan\":1,\"schedule\"",
                "unknown field `plan`",
            ),
            (
                "\"acceptors\"",
                "\"acceptor\":1,\"acceptors\"",
                "unknown field `acceptor`",
            ),
            (
                "\"period\":5000",
                "\"period\":0",
                "this time must be at least 1 ms at line 3 ",
            ),
            (
                "\"kill_timeout\":1000},\"K",
                "\"kill_timeout\":0},\"K",
                "at least 1 ms at line 6 ",
            ),
        ] {
            assert!(text.contains(old), "{text}");
            let wrong = text.replacen(old, new, 1).parse::<Scenario>();
            let wrong = wrong.expect_err(new).to_string();
            assert!(wrong.contains(error), "{wrong}");
        }
    }
}
