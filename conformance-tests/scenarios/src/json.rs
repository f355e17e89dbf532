//! A scenario as text: JSON, a line for each step, so that it can be read, edited and kept.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::{Action, Reload, Scenario, SpecSetting};

/// The text is no scenario.
#[derive(Debug)]
pub struct ScenarioError(Cause);

#[derive(Debug)]
enum Cause {
    /// It is not written like one.
    Text(serde_json::Error),
    /// No pool can be started with such a spec.
    Spec {
        place: String,
        field: &'static str,
        value: u32,
    },
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is no scenario: ")?;
        match &self.0 {
            Cause::Text(error) => error.fmt(f),
            Cause::Spec {
                place,
                field,
                value,
            } => write!(
                f,
                "`{field}` in the spec of {place} is {value}: give at least 1, in milliseconds"
            ),
        }
    }
}

impl std::error::Error for ScenarioError {}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self =
            serde_json::from_str(text).map_err(|error| ScenarioError(Cause::Text(error)))?;
        scenario.check()?;
        Ok(scenario)
    }
}

impl Scenario {
    /// Whether pools can be started with what it says: what they refuse is known, and breaks no rule.
    fn check(&self) -> Result<(), ScenarioError> {
        check(self.setting.spec, || "the setting".to_owned())?;
        for (number, step) in self.steps.iter().enumerate() {
            if let Action::Reconfigure(spec, _) | Action::Reload(Reload::Use(spec, _)) = step.action
            {
                check(spec, || format!("step {number}"))?;
            }
        }
        Ok(())
    }
}

/// Whether a spec may be like this.
fn check(spec: SpecSetting, place: impl FnOnce() -> String) -> Result<(), ScenarioError> {
    // By name, so that a field that is added later is thought of.
    let SpecSetting {
        restart: _,
        intensity: _,
        period,
        child_type: _,
        lame_duck: _,
        grace: _,
        shutdown: _,
        patience,
        unknown: _,
        reports: _,
        last_listener: _,
        handshake_timeout,
    } = spec;
    let times = [
        ("period", period),
        ("patience", patience),
        ("handshake_timeout", handshake_timeout.unwrap_or(1)),
    ];
    let mut times = times.into_iter();
    match times.find(|(_, value)| *value == 0) {
        None => Ok(()),
        Some((field, value)) => Err(ScenarioError(Cause::Spec {
            place: place(),
            field,
            value,
        })),
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
    use crate::WaitingSetting;

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

    #[track_caller]
    fn check_refused(text: &str, words: &str) {
        let error = text.parse::<Scenario>().expect_err(text);
        assert_eq!(error.to_string(), format!("it is no scenario: {words}"));
    }

    #[test]
    fn what_is_no_scenario_is_an_error_that_says_where() {
        check_refused(
            "{\n\"seed\": 1}",
            "missing field `setting` at line 2 column 10",
        );
    }

    /// A scenario in which one thing is written otherwise.
    #[track_caller]
    fn but(old: &str, new: &str) -> String {
        let mut scenario = Scenario::of_seed(1, 2);
        scenario.setting.spec = SpecSetting::DEFAULT;
        scenario.steps[1].action = Action::Reconfigure(SpecSetting::DEFAULT, WaitingSetting::Keep);
        let text = scenario.to_json();
        assert!(text.contains(old), "{text}");
        text.replacen(old, new, 1)
    }

    #[test]
    fn no_field_is_left_out_and_none_is_made_up() {
        let error = but("\"grace\":0,", "").parse::<Scenario>();
        let error = error.expect_err("it has no grace").to_string();
        assert!(error.contains("missing field `grace`"), "{error}");
        for (old, new) in [
            ("\"seed\"", "\"sed\":1,\"seed\""),
            ("\"grace\"", "\"graze\":1,\"grace\""),
            ("\"backlog\"", "\"back\":1,\"backlog\""),
            ("\"schedule\"", "\"plan\":1,\"schedule\""),
            ("\"acceptors\"", "\"acceptor\":1,\"acceptors\""),
        ] {
            let error = but(old, new).parse::<Scenario>().expect_err(new);
            let error = error.to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn a_grace_for_ever_is_said() {
        let scenario = but("\"grace\":0,", "\"grace\":null,").parse::<Scenario>();
        let scenario = scenario.expect("it is a scenario");
        assert_eq!(scenario.setting.spec.grace, None);
    }

    #[test]
    fn a_spec_that_no_pool_takes_is_an_error_that_names_the_field() {
        let zero = but("\"period\":5000", "\"period\":0");
        check_refused(
            &zero,
            "`period` in the spec of the setting is 0: give at least 1, in milliseconds",
        );
        let good = SpecSetting::DEFAULT;
        let bad = SpecSetting {
            patience: 0,
            ..good
        };
        let keep = WaitingSetting::Keep;
        for action in [
            Action::Reconfigure(bad, keep),
            Action::Reload(Reload::Use(bad, keep)),
        ] {
            let mut scenario = Scenario::of_seed(1, 2);
            scenario.steps[1].action = action;
            check_refused(
                &scenario.to_json(),
                "`patience` in the spec of step 1 is 0: give at least 1, in milliseconds",
            );
        }
    }
}
