//! Worlds in which something goes wrong when it is told to: another world, with its listeners or its tasks wrapped.

mod listeners;
mod tasks;

pub use listeners::{FailingListener, FailingListeners, Faults};
pub use tasks::{DroppedTasks, DroppingRuntime, TaskId, current_task};
