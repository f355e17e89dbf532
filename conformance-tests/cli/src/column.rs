//! A runtime as a column of the matrix, and one check in it, bounded by a time limit.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{Listener, NoHandshake};

use conformance_console::{caught, receive};
use conformance_tests::Boxed;
use conformance_tests::Broken;
use conformance_tests::World;
use conformance_tests::rules::{END, Rule, WITHOUT_AN_END};

/// The outcome of checking a rule.
#[derive(Debug)]
pub(super) enum Outcome {
    Holds,
    /// The rule is a SHOULD that is left unmet for this reason.
    Unmet(&'static str),
    Broken(Broken),
}

/// A column of the matrix: a runtime, or one of its configurations.
#[derive(Clone)]
pub struct Column {
    /// The name that selects it; several columns may share one.
    pub(super) runtime: &'static str,
    /// The heading.
    pub(super) title: &'static str,
    world: Arc<dyn Fn() -> Boxed + Send + Sync>,
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column")
            .field("runtime", &self.runtime)
            .field("title", &self.title)
            .finish_non_exhaustive()
    }
}

impl Column {
    /// Creates a column whose checks run in worlds made by `world`, one for each.
    ///
    /// `--runtime` selects it by the name `runtime`, which adjacent columns may share; `title` is its heading.
    pub fn new<W>(
        runtime: &'static str,
        title: &'static str,
        world: impl Fn() -> W + Send + Sync + 'static,
    ) -> Self
    where
        W: World<Listener: Listener<Handshake = NoHandshake>>,
    {
        Self {
            runtime,
            title,
            world: Arc::new(move || Boxed::new(world())),
        }
    }

    /// Checks a rule on its own thread. A check that takes longer than `limit` is broken, and its thread is left
    /// running.
    pub(super) fn check(&self, rule: &'static Rule, limit: Duration) -> Outcome {
        let began = Instant::now();
        let (sender, receiver) = mpsc::channel();
        let world = Arc::clone(&self.world);
        let check = thread::Builder::new()
            .name(format!("{} on {}", rule.id, self.title))
            .spawn(move || {
                let report = |outcome| {
                    let _ = sender.send(outcome);
                };
                if let Err(panic) = caught(|| check(&*world, rule, &report)) {
                    report(Outcome::Broken(
                        Broken::new(END, panic).check(AFTER_A_PANIC),
                    ));
                }
            });
        if let Err(error) = check {
            let broken = Broken::new("a thread runs the check", error.to_string());
            return Outcome::Broken(broken.check("is the machine out of threads or memory?"));
        }
        let Ok(outcome) = receive(&receiver, limit) else {
            let seen = format!("it did not end within {limit:?}");
            return Outcome::Broken(Broken::new(END, seen).check(WITHOUT_AN_END));
        };
        // Waits until the world is dropped, so that it is gone before the next check, unless that takes too long.
        match receiver.recv_timeout(limit.saturating_sub(began.elapsed())) {
            Ok(panic) if !matches!(outcome, Outcome::Broken(_)) => panic,
            _ => outcome,
        }
    }
}

const AFTER_A_PANIC: &str = "does the harness panic, or the runtime outside its tasks?";

/// Sends the outcome before the world is dropped.
fn check(world: &dyn Fn() -> Boxed, rule: &Rule, send: &dyn Fn(Outcome)) {
    let world = Arc::new(world());
    send(match rule.unmet(&world) {
        Some(why) => Outcome::Unmet(why),
        None => rule
            .check(&world)
            .map_or_else(Outcome::Broken, |()| Outcome::Holds),
    });
}
