//! The acceptors that were started and not seen to begin: each begins at its time, and not before.
//!
//! A pool numbers its children in the order in which it starts them, so each is known by its number before anything is
//! seen of it. Invariant: whose listener was told to end is not here; it ends unseen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use acceptor_core::ChildId;

use super::{SECOND, Seen, breach};

/// Who was started.
#[derive(Default)]
pub(super) struct Starts {
    count: u64,
    due: BTreeMap<u64, Due>,
}

/// An acceptor that is to begin.
pub(super) struct Due {
    pub(super) listener: usize,
    pub(super) at: Instant,
    /// How many before it, one after the other, led nowhere.
    pub(super) vain: u32,
}

impl Starts {
    /// Another acceptor is started, after so many that led nowhere; its number.
    pub(super) fn start(&mut self, listener: usize, now: Instant, vain: u32) -> u64 {
        self.count += 1;
        let due = Due {
            listener,
            at: now + spacing(vain),
            vain,
        };
        self.due.insert(self.count, due);
        self.count
    }

    /// Something is seen of an acceptor for the first time.
    pub(super) fn take(&mut self, child: ChildId) -> Option<Due> {
        let number = child.to_string().parse().ok()?;
        self.due.remove(&number)
    }

    /// Those of a listener that is told to end are not seen any more; how many these are.
    pub(super) fn forget(&mut self, listener: usize) -> usize {
        let before = self.due.len();
        self.due.retain(|_, due| due.listener != listener);
        before - self.due.len()
    }

    pub(super) fn all_have_begun(&self) -> bool {
        self.due.is_empty()
    }

    /// Whoever replaces a connection begins before that serves (B5).
    pub(super) fn has_begun(&self, number: u64) -> Seen {
        if self.due.contains_key(&number) {
            let expected = format!("`init` of {number}, which replaces it, begins before `serve`");
            return breach("B5", expected, "it has not begun");
        }
        Ok(())
    }

    /// Nothing is ready: whose time has come has begun.
    pub(super) fn nobody_is_late(&self, now: Instant) -> Seen {
        let late = self.due.iter().find(|(_, due)| due.at <= now);
        let Some((number, due)) = late else {
            return Ok(());
        };
        let expected = match due.vain {
            0 => format!("{number} begins `init` at once"),
            vain => format!(
                "{number} begins `init` {:?} after {vain} that led nowhere",
                spacing(vain)
            ),
        };
        let rule = if due.vain == 0 { "L1" } else { "B3" };
        breach(rule, expected, format!("not {:?} later", now - due.at))
    }
}

/// The first follows at once; the others are spaced, 1 ms doubling to 1 s (B3, B6).
fn spacing(vain: u32) -> Duration {
    match vain {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(1 << (more - 2).min(10)).min(SECOND),
    }
}
