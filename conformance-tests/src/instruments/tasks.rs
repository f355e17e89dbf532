//! Identities of the pool's tasks and of their polls.

use std::cell::Cell;

/// A task of an instrumented runtime, identified by the runtime value that spawned it and a
/// sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId {
    pub(super) value: ValueId,
    pub(super) number: usize,
}

impl TaskId {
    /// Returns the runtime value that spawned it.
    pub fn value(self) -> ValueId {
        self.value
    }
}

/// A value of an instrumented runtime. Clones are the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueId {
    /// The value with which the world starts pools.
    World,
    /// Another value.
    Another,
}

/// A poll of a task of an instrumented runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PollId(pub(super) u64);

thread_local! {
    static TASK: Cell<Option<TaskId>> = const { Cell::new(None) };
    static POLL: Cell<Option<PollId>> = const { Cell::new(None) };
}

/// Returns the task that runs on this thread, if its runtime is instrumented.
pub fn current_task() -> Option<TaskId> {
    TASK.get()
}

/// Returns the poll in progress on this thread, if the task's runtime is instrumented.
pub fn current_poll() -> Option<PollId> {
    POLL.get()
}

/// Sets the current task and poll, and restores the previous ones on drop (also on a panic).
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
