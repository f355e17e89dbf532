//! The tasks of a pool by number, and the polls of a task.

use std::cell::Cell;

/// A task of an instrumented runtime, by the value that spawned it and the order of their spawning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId {
    pub(super) value: ValueId,
    pub(super) number: usize,
}

impl TaskId {
    /// The runtime value that spawned it.
    pub fn value(self) -> ValueId {
        self.value
    }
}

/// A value of an instrumented runtime; its clones are the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueId {
    /// The one that the world starts pools with.
    OfTheWorld,
    /// Another one.
    Another,
}

/// A poll of a task of an instrumented runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PollId(pub(super) u64);

thread_local! {
    static TASK: Cell<Option<TaskId>> = const { Cell::new(None) };
    static POLL: Cell<Option<PollId>> = const { Cell::new(None) };
}

/// The task that runs on this thread, if its runtime is instrumented.
pub fn current_task() -> Option<TaskId> {
    TASK.get()
}

/// The poll that this thread is in, if the runtime of its task is instrumented.
pub fn current_poll() -> Option<PollId> {
    POLL.get()
}

/// Sets the current task and its poll, and back when it is dropped, by a panic or not.
pub(super) struct Current {
    task: Option<TaskId>,
    poll: Option<PollId>,
}

impl Current {
    pub(super) fn enter(task: TaskId, poll: PollId) -> Self {
        Self {
            task: TASK.replace(Some(task)),
            poll: POLL.replace(Some(poll)),
        }
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        TASK.set(self.task);
        POLL.set(self.poll);
    }
}
