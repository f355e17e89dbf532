//! A runtime as a column of the matrix, and one check in it, which always comes to an end.

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

/// What a rule came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Holds,
    /// It is a SHOULD that is left unmet, for this reason.
    Unmet(&'static str),
    Broken(Broken),
}

/// A runtime, or one of the ways to run it: a column of the matrix.
#[derive(Clone)]
pub struct Column {
    /// What chooses it: several columns may have one.
    pub(super) runtime: &'static str,
    /// What heads it.
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
    /// The rules in worlds that `world` makes, one for each.
    ///
    /// `--runtime` chooses it by the name `runtime`, which it may share with others next to it;
    /// `title` heads its column.
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

    /// Checks a rule on a thread of its own. One that takes longer than `limit` is broken, and its thread is left.
    pub(super) fn check(&self, rule: &'static Rule, limit: Duration) -> Outcome {
        let began = Instant::now();
        let (tell, told) = mpsc::channel();
        let world = Arc::clone(&self.world);
        let check = thread::Builder::new()
            .name(format!("{} on {}", rule.id, self.title))
            .spawn(move || {
                let told = |outcome| {
                    let _ = tell.send(outcome);
                };
                if let Err(panic) = caught(|| check(&*world, rule, &told)) {
                    told(Outcome::Broken(
                        Broken::new(END, panic).check(AFTER_A_PANIC),
                    ));
                }
            });
        if let Err(error) = check {
            let broken = Broken::new("a thread to check it on", error.to_string());
            return Outcome::Broken(broken.check("has the machine threads and memory left?"));
        }
        let Ok(outcome) = receive(&told, limit) else {
            let seen = format!("it did not end within {limit:?}");
            return Outcome::Broken(Broken::new(END, seen).check(WITHOUT_AN_END));
        };
        // The world is gone before the next check begins, unless that takes for ever.
        match told.recv_timeout(limit.saturating_sub(began.elapsed())) {
            Ok(panic) if !matches!(outcome, Outcome::Broken(_)) => panic,
            _ => outcome,
        }
    }
}

const AFTER_A_PANIC: &str = "does the harness panic, or the runtime outside of its tasks?";

/// Sends the outcome before the world is dropped.
fn check(world: &dyn Fn() -> Boxed, rule: &Rule, tell: &dyn Fn(Outcome)) {
    let world = Arc::new(world());
    tell(match rule.unmet(&world) {
        Some(why) => Outcome::Unmet(why),
        None => rule
            .check(&world)
            .map_or_else(Outcome::Broken, |()| Outcome::Holds),
    });
}
