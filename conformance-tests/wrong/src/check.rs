//! Checks a rule in a world with a flaw.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use conformance_tests::assertion::{Site, without};
use conformance_tests::rules::all;
use conformance_tests::{Boxed, Broken, IpWorld, Patience};

use super::{Case, Wrong};

/// The result of a check.
#[derive(Debug)]
pub enum Said {
    /// The rule holds.
    Holds,
    /// The rule is broken.
    Broken(Broken),
    /// The check panicked with this message.
    Panicked(String),
    /// The check did not end within the limit.
    Hangs,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Holds => f.write_str("the rule holds"),
            Said::Broken(broken) => broken.fmt(f),
            Said::Panicked(message) => write!(f, "panic: {message}"),
            Said::Hangs => f.write_str("the check hangs"),
        }
    }
}

impl Case {
    /// Checks a rule in this world with the case's flaw, and optionally with a comparison switched off.
    ///
    /// # Panics
    ///
    /// If there is no such rule.
    pub fn check<W: IpWorld>(
        &self,
        world: W,
        rule: &str,
        patience: Patience,
        limit: Duration,
        off: Option<Site>,
    ) -> Said {
        let world = Wrong::new(world, self.flaw.clone(), patience);
        let rule = all().iter().find(|one| one.id == rule);
        let rule = rule.expect("a case names a rule of the suite");
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let check = || rule.check(&Arc::new(Boxed::new(world)));
            let checked = catch_unwind(AssertUnwindSafe(|| match off {
                Some(site) => without(site, check),
                None => check(),
            }));
            let _ = tell.send(match checked {
                Ok(Ok(())) => Said::Holds,
                Ok(Err(broken)) => Said::Broken(broken),
                Err(panic) => Said::Panicked(message(panic)),
            });
        });
        told.recv_timeout(limit).unwrap_or(Said::Hangs)
    }

    /// Returns whether the result is a failure with the expected text.
    pub fn is_caught(&self, said: &Said) -> bool {
        let holds = matches!(said, Said::Holds);
        !holds && !self.words.is_empty() && said.to_string().contains(self.words)
    }
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "a panic without a text".to_owned(),
        },
    }
}
