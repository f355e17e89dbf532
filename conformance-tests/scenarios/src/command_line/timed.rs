//! Runs one scenario on its own thread, so that a scenario that hangs has an outcome, too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::{Event, Failure, RunSummary, Scenario, TraceEntry, run, run_watched};

/// Receives the trace entries while a scenario runs.
pub(super) type Watcher<'a> = &'a mut dyn FnMut(TraceEntry);

/// A function that runs a scenario, and does not panic.
pub(super) type Run = fn(&Scenario, Option<Watcher<'_>>) -> Result<RunSummary, Box<Failure>>;

/// Runs scenarios with a time limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimedRunner {
    pub(super) run: Run,
    /// A scenario that takes longer hangs. One takes milliseconds, and seconds with the maximum of steps.
    pub(super) limit: Duration,
}

/// The outcome of a scenario.
#[derive(Debug)]
pub(super) enum Outcome {
    Holds(RunSummary),
    Fails(Box<Failure>),
    /// The failure names the step at which it hangs; its thread continues.
    Hangs(Box<Failure>),
}

impl Default for TimedRunner {
    fn default() -> Self {
        Self {
            run: |scenario, watcher| match watcher {
                Some(watcher) => run_watched(scenario, watcher),
                None => run(scenario),
            },
            limit: Duration::from_secs(60),
        }
    }
}

impl TimedRunner {
    /// Runs it; returns its trace and its outcome.
    pub(super) fn run_traced(self, scenario: &Scenario) -> (Vec<TraceEntry>, Outcome) {
        let trace = Arc::new(Mutex::new(Vec::new()));
        let (send, receive) = mpsc::channel();
        let (written, copy) = (Arc::clone(&trace), scenario.clone());
        thread::spawn(move || {
            let mut watcher = |entry| lock(&written).push(entry);
            // After the limit the receiver is gone.
            let _ = send.send((self.run)(&copy, Some(&mut watcher)));
        });
        let result = receive.recv_timeout(self.limit);
        let trace = lock(&trace).clone();
        let outcome = match result {
            Ok(Ok(summary)) => Outcome::Holds(summary),
            Ok(Err(failure)) => Outcome::Fails(failure),
            Err(_) => Outcome::Hangs(Box::new(self.hang(scenario, &trace))),
        };
        (trace, outcome)
    }

    fn hang(self, scenario: &Scenario, trace: &[TraceEntry]) -> Failure {
        let step = trace.iter().rev().find_map(|entry| match entry.event {
            Event::Step(number, _) => Some(number),
            Event::Teardown => Some(scenario.steps.len()),
            _ => None,
        });
        Failure {
            step: step.unwrap_or_default(),
            at: trace.last().map(|last| last.at).unwrap_or_default(),
            rule: "S8",
            expected: "every poll and every call returns".to_owned(),
            seen: format!("one does not return within {:?}", self.limit),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
