//! Worlds in which something goes wrong when it is told to, or is seen that is not seen otherwise: another world, with its
//! listeners or its tasks wrapped.

mod accepts;
mod everything;
mod handshakes;
mod listeners;
mod polls;
mod tasks;
mod traces;

pub use accepts::{Cost, Counted, CountedAccepts, CountedListener, CountedStream};
pub use everything::{Disturbed, Everything};
pub use handshakes::{
    CAUSE, FirstHandshake, Handshakes, Header, LOCAL, Moment, PANIC, PEER, SOURCE, SecondHandshake,
    Shake, Stage,
};
pub use listeners::{FailingListener, FailingListeners, Faults, OfTheRuntime, not_listening};
pub use polls::{HeldRuntime, HeldTasks, PollId, current_poll};
pub use tasks::{DroppedTasks, DroppingRuntime, TaskId, ValueId, current_task};
pub use traces::{Traced, TracedRuntime, TracedTasks};
