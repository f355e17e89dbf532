//! A conformance suite for pools of acceptors, on any runtime.
//!
//! To check a runtime, implement [`Harness`]. [`Real`] turns the harness into a [`World`] with
//! sockets and clients, and the rules are written against [`World`]. A failure reports what was
//! expected and what was seen ([`Broken`]).
//!
//! No verdict depends on an upper bound on time: a check waits for an event and gives up after its
//! [`Patience`].

mod address;
#[doc(hidden)]
pub mod assertion;
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
pub use world::{Client, Closed, IpWorld, World, run_in};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
