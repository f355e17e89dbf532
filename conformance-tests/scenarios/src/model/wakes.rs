//! The allowed wakes, by kind of task (L5).
//!
//! Each wake has a cause in the history. A kind of task has at most as many polls as wakes: by the pool, by timers and
//! by sockets. No kind has an allowance for useless wakes.

use std::ops::Sub;

/// The maximum number of wakes for each kind of task since the start of the pool.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wakes {
    /// The pool's own task.
    pub(crate) driver: u64,
    pub(crate) reporter: u64,
    /// The tasks of listeners.
    pub(crate) listeners: u64,
    /// The idle tasks on runtimes that are not the pool's. They are woken instead of the pool's own task; these are the wakes
    /// beyond that.
    pub(crate) companions: u64,
    /// The tasks of acceptors in `init`, of connections, and of acceptors in `terminate`.
    pub(crate) children: u64,
    /// Tasks that are not of the pool: waits for a result, or for a close.
    pub(crate) others: u64,
}

impl Sub for Wakes {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            driver: self.driver - before.driver,
            reporter: self.reporter - before.reporter,
            listeners: self.listeners - before.listeners,
            companions: self.companions - before.companions,
            children: self.children - before.children,
            others: self.others - before.others,
        }
    }
}
