//! The runtimes that the suite knows how to run on.

#[cfg(feature = "tokio")]
pub mod tokio;
