//! The runtimes that the suite knows how to run on.

pub mod reference;
#[cfg(feature = "tokio")]
pub mod tokio;
