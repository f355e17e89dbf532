//! Worlds in which something goes wrong when it is told to: another world, with its listeners or its tasks wrapped.

mod accepts;
mod listeners;
mod polls;
mod tasks;

pub use accepts::{Cost, Counted, CountedAccepts, CountedListener, CountedStream};
pub(crate) use listeners::not_listening;
pub use listeners::{FailingListener, FailingListeners, Faults};
pub use polls::{HeldRuntime, HeldTasks, PollId, current_poll};
pub use tasks::{DroppedTasks, DroppingRuntime, TaskId, current_task};
