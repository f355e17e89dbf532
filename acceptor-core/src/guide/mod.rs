//! The guide: how to run a pool in production, and why it works as it does.
//!
//! The examples use tokio; with another runtime only the names of the crate and of its I/O traits differ.

/// The rules: what a pool does, on any runtime, each with an id that the documentation and the tests cite.
#[doc = include_str!("rules.md")]
pub mod rules {}
