//! The conformance suite: what a pool does, whatever the runtime, as tests.
//!
//! Who has a runtime of their own implements [`Harness`]; [`Real`] makes a
//! [`World`] of it, with sockets and clients, and everything here is written
//! against a [`World`]. A failure tells what was expected and what was seen
//! ([`Broken`]).
//!
//! Nothing here decides by an upper bound on time: a test waits for the event,
//! and gives up after its [`Patience`].

mod boxed;
#[cfg(feature = "cli")]
pub mod command_line;
pub mod disturbed;
pub mod fixture;
#[cfg(any(all(feature = "cli", feature = "scenarios"), feature = "soak"))]
mod grouped;
mod harness;
#[cfg(feature = "observations")]
pub mod observations;
#[cfg(any(feature = "cli", feature = "scenarios"))]
mod panics;
mod patience;
mod pool;
mod real;
mod record;
pub mod rules;
pub mod runtimes;
#[cfg(feature = "scenarios")]
pub mod scenario;
#[cfg(feature = "simulated")]
pub mod simulated;
#[cfg(feature = "soak")]
pub mod soak;
#[doc(hidden)]
pub mod tamper;
mod verdict;
mod world;
#[cfg(feature = "wrong")]
#[doc(hidden)]
pub mod wrong;

pub use boxed::Boxed;
pub use harness::Harness;
pub use patience::{PATIENCE_VARIABLE, Patience, PatienceError};
pub use real::{Real, TcpClient};
pub use record::Record;
pub use verdict::{Broken, Verdict, same};
pub use world::{Client, Closed, World, play};

#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
mod readme {}
