#![doc = include_str!("../README.md")]

mod executor;
mod explore;
mod failure;
mod fault_injection;
mod faults;
mod history;
mod network;
mod world;

pub use self::executor::{
    Restless, SimulatedRuntime, SimulatedTask, Simulation, Spurious, Statistics, Tally, TaskRecord,
};
pub use self::explore::{Explore, Explored, explore};
pub use self::failure::{Cause, ExploreError, SeedFailure};
pub use self::faults::{ClientFault, FaultCounts, Faults};
pub use self::network::{
    AcceptFault, Limits, Network, NetworkEvent, SimulatedClient, SimulatedListener,
    SimulatedStream, Stage,
};
pub use self::world::{Task, World};
