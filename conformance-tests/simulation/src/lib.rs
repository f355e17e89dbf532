#![doc = include_str!("../README.md")]

mod executor;
mod explore;
mod failure;
mod faults;
mod history;
mod network;
mod trouble;
mod world;

pub use self::executor::{
    Restless, SimulatedRuntime, SimulatedTask, Simulation, Spurious, Statistics, Tally, TaskRecord,
};
pub use self::explore::{Explore, Explored, explore};
pub use self::failure::{Cause, ExploreError, SeedFailure};
pub use self::faults::{ClientFault, FaultCounts, Faults};
pub use self::network::{
    AcceptFault, Happened, Limits, Network, SimulatedClient, SimulatedListener, SimulatedStream,
    Stage,
};
pub use self::world::{Task, World};
