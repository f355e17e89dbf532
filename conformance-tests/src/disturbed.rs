//! Worlds in which something goes wrong when it is told to, or is seen that is not seen otherwise: another world, with its
//! listeners or its tasks wrapped.

mod accepts;
mod everything;
mod listeners;
mod polls;
mod tasks;
mod traces;

pub use accepts::{Cost, Counted, CountedAccepts, CountedListener, CountedStream};
pub use everything::{Disturbed, Everything};
pub(crate) use listeners::not_listening;
pub use listeners::{FailingListener, FailingListeners, Faults, OfTheRuntime};
pub use polls::{HeldRuntime, HeldTasks, PollId, current_poll};
pub use tasks::{DroppedTasks, DroppingRuntime, TaskId, ValueId, current_task};
pub use traces::{Traced, TracedRuntime, TracedTasks};
