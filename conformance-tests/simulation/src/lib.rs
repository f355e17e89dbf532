//! A simulated runtime and network for pools of acceptors: one thread, a virtual clock, and a seed that makes every choice.
//!
//! [`Simulation`] is the runtime; [`Network`] is its network in memory, with listeners that a pool takes and clients. Both are
//! built on the public traits of `acceptor-core` alone. The clock moves only when nothing else can, so that a test takes no time;
//! what happens depends on the seed alone, so that a failure can be repeated.

mod executor;
mod network;

pub use self::executor::{
    Restless, SimulatedRuntime, SimulatedTask, Simulation, Spurious, Statistics, Tally, TaskRecord,
};
pub use self::network::{
    AcceptFault, Happened, Limits, Network, SimulatedClient, SimulatedListener, SimulatedStream,
    Stage,
};
