//! The conformance suite: what a pool does, whatever the runtime, as tests.
//!
//! Who has a runtime of their own implements [`Harness`]; [`Real`] makes a
//! [`World`] of it, with sockets and clients, and everything here is written
//! against a [`World`]. A failure tells what was expected and what was seen
//! ([`Broken`]).
//!
//! Nothing here decides by an upper bound on time: a test waits for the event,
//! and gives up after its [`Patience`].

mod address;
mod boxed;
pub mod fixture;
pub mod handshakes;
mod harness;
pub mod instruments;
mod patience;
mod pool;
mod real;
mod record;
pub mod reference;
pub mod rules;
#[doc(hidden)]
pub mod tamper;
mod verdict;
mod world;

pub use address::Address;
pub use boxed::{Boxed, BoxedClient, BoxedIo, BoxedListener, BoxedRuntime, Erased, ReadWrite};
pub use harness::Harness;
pub use patience::{PATIENCE_VARIABLE, Patience, PatienceError};
pub use real::{Real, SocketClient};
pub use record::Record;
pub use verdict::{Broken, Verdict, same};
pub use world::{Client, Closed, IpWorld, World, play};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
