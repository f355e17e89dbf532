//! The wakes that the pool may make, by the kind of the task that they wake (L5).
//!
//! Each wake has a cause that was seen. The polls of a kind of task are no more than its wakes: by the pool, by timers and
//! by sockets. Wakes to no effect are allowed for none of them.

use std::ops::Sub;

/// How many tasks of each kind the pool may have woken since it was started, at the most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wakes {
    /// The pool's own task.
    pub(crate) driver: u64,
    pub(crate) reporter: u64,
    /// Those of listeners.
    pub(crate) listeners: u64,
    /// Those that do nothing, on runtimes that are not the pool's. They are woken in the place of the pool's own task; these
    /// wakes are more than those.
    pub(crate) companions: u64,
    /// Those of acceptors in `init`, of connections, and of acceptors in `terminate`.
    pub(crate) children: u64,
    /// Those that are not of the pool: the waits for a result, or for a close.
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
