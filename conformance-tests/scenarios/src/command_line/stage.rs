//! Where one scenario is played: on a thread of its own, so that there is an outcome also of one that never ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use conformance_console::receive;

use crate::{Event, Failure, Moment, Played, Scenario, play, watch};

/// Takes what is seen of a scenario, at once.
pub(super) type Watcher<'a> = &'a mut dyn FnMut(Moment);

/// Plays scenarios, and knows how long one may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage {
    /// Never panics.
    pub(super) play: fn(&Scenario, Option<Watcher<'_>>) -> Result<Played, Box<Failure>>,
    /// What takes longer never ends. One is played in milliseconds, of the most steps that there are in seconds.
    pub(super) bound: Duration,
}

/// What came of a scenario.
#[derive(Debug)]
pub(super) enum Outcome {
    Holds(Played),
    Fails(Box<Failure>),
    /// It is told as a failure where it stands; its thread is left.
    Hangs(Box<Failure>),
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            play: |scenario, watcher| match watcher {
                Some(watcher) => watch(scenario, watcher),
                None => play(scenario),
            },
            bound: Duration::from_secs(60),
        }
    }
}

impl Stage {
    /// Plays it; everything that is seen, and what came of it.
    pub(super) fn watch(self, scenario: &Scenario) -> (Vec<Moment>, Outcome) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (tell, told) = mpsc::channel();
        let (watched, played) = (Arc::clone(&seen), scenario.clone());
        thread::spawn(move || {
            let mut watcher = |moment| lock(&watched).push(moment);
            let result = (self.play)(&played, Some(&mut watcher));
            // Who waited too long has gone.
            let _ = tell.send(result);
        });
        let result = receive(&told, self.bound);
        let moments = lock(&seen).clone();
        let outcome = match result {
            Ok(Ok(played)) => Outcome::Holds(played),
            Ok(Err(failure)) => Outcome::Fails(failure),
            Err(_) => Outcome::Hangs(Box::new(self.hang(scenario, &moments))),
        };
        (moments, outcome)
    }

    fn hang(self, scenario: &Scenario, moments: &[Moment]) -> Failure {
        let step = moments.iter().rev().find_map(|moment| match moment.event {
            Event::Step(number, _) => Some(number),
            Event::Finale => Some(scenario.steps.len()),
            _ => None,
        });
        Failure {
            step: step.unwrap_or_default(),
            at: moments.last().map(|last| last.at).unwrap_or_default(),
            rule: "S8",
            expected: "no poll and no call goes on for ever".to_owned(),
            seen: format!("one does not return within {:?}", self.bound),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
