//! The runtimes that the suite knows how to run on.

#[cfg(feature = "async-std")]
pub mod async_std;
pub mod reference;
#[cfg(feature = "smol")]
pub mod smol;
#[cfg(feature = "tokio")]
pub mod tokio;

#[cfg(feature = "cli")]
use crate::command_line::Column;

/// A column of the matrix for each runtime that is compiled in, or for each of its ways to run; none without the feature `columns`.
#[cfg(all(feature = "cli", not(feature = "columns")))]
pub fn columns() -> Vec<Column> {
    Vec::new()
}

/// A column of the matrix for each runtime that is compiled in, or for each of its ways to run; none without the feature `columns`.
#[cfg(feature = "columns")]
pub fn columns() -> Vec<Column> {
    use crate::real::Real;

    vec![
        #[cfg(feature = "tokio")]
        Column::new("tokio", "tokio, two threads", || {
            Real::new(tokio::Tokio::multi_thread())
        }),
        #[cfg(feature = "tokio")]
        Column::new("tokio", "tokio, one thread", || {
            Real::new(tokio::Tokio::current_thread())
        }),
        #[cfg(feature = "async-std")]
        Column::new("async-std", "async-std", || Real::new(async_std::AsyncStd)),
        #[cfg(feature = "smol")]
        Column::new("smol", "smol, global", || Real::new(smol::Smol::global())),
        #[cfg(feature = "smol")]
        Column::new("smol", "smol, own executor", || {
            Real::new(smol::Smol::own_executor())
        }),
        Column::new("reference", "reference", || Real::new(reference::Reference)),
        #[cfg(feature = "simulated")]
        Column::new("simulated", "simulated", || {
            crate::simulated::Simulated::new(1)
        }),
    ]
}
