//! The guide: how to run a pool in production, and why it behaves as it does.
//!
//! The examples use tokio. With another runtime, replace the name of the crate and the I/O traits; everything else is the same.
//!
//! | chapter | answers |
//! |---|---|
//! | [`acceptors`] | How many acceptors does a listener need? What belongs in `init`? |
//! | [`limits`] | How many connections may there be, and what happens to one too many? |
//! | [`failures`] | What counts as a failure? What does a program do when `join` returns? |
//! | [`shutdown`] | How does a pool stop? How do `serve`, a load balancer and a service manager take part? |
//! | [`reconfigure`] | How are settings, certificates and listeners changed while the pool runs? |
//! | [`upgrades`] | What about WebSockets, tunnels, and other tasks that take the stream? |
//! | [`observing`] | How is a pool watched: counts, lists, reports, logs? |
//! | [`testing`] | How is a `serve` tested? |
//! | [`adapters`] | How does the pool run on another runtime or transport? |
//! | [`performance`] | What does a connection cost, and why? |
//! | [`rules`] | What exactly does a pool do? Each rule has an id, such as [S4](rules#s4), and a test. |
//!
//! # Terms
//!
//! | term | meaning |
//! |---|---|
//! | pool | supervises acceptors and connections; one owner, any number of handles |
//! | listener | a listening socket of the pool |
//! | acceptor | a child of the pool that waits for a connection on one listener |
//! | connection | a child of the pool that serves a client; it was an acceptor before |
//! | `init`, `serve`, `terminate` | the three methods of an [`Acceptor`](crate::Acceptor): prepare, serve one connection, end without one |
//! | restart intensity | how many failures within a period the pool tolerates before it stops itself |
//! | grace | the part of a stop in which connections are left alone |
//! | draining | the signal that a connection's listener is closing |

// The code in the chapters needs a runtime: acceptor-tokio compiles and runs it.

/// The number of acceptors.
///
#[cfg_attr(not(doctest), doc = include_str!("acceptors.md"))]
pub mod acceptors {}

/// Limits on connections.
///
#[cfg_attr(not(doctest), doc = include_str!("limits.md"))]
pub mod limits {}

/// Failures and restart intensity.
///
#[cfg_attr(not(doctest), doc = include_str!("failures.md"))]
pub mod failures {}

/// Graceful shutdown.
///
#[cfg_attr(not(doctest), doc = include_str!("shutdown.md"))]
pub mod shutdown {}

/// Changing a running pool.
///
#[cfg_attr(not(doctest), doc = include_str!("reconfigure.md"))]
pub mod reconfigure {}

/// Upgrades and guards.
///
#[cfg_attr(not(doctest), doc = include_str!("upgrades.md"))]
pub mod upgrades {}

/// Status, reports and logs.
///
#[cfg_attr(not(doctest), doc = include_str!("observing.md"))]
pub mod observing {}

/// Testing.
///
#[cfg_attr(not(doctest), doc = include_str!("testing.md"))]
pub mod testing {}

/// Other runtimes and transports.
///
#[cfg_attr(not(doctest), doc = include_str!("adapters.md"))]
pub mod adapters {}

/// Performance.
///
#[cfg_attr(not(doctest), doc = include_str!("performance.md"))]
pub mod performance {}

/// The rules.
///
#[doc = include_str!("rules.md")]
pub mod rules {}
