//! The runtimes that the suite knows how to run on.

pub mod reference;
#[cfg(feature = "tokio")]
pub mod tokio;

#[cfg(feature = "cli")]
use crate::command_line::Column;

/// A column of the matrix for each runtime that is compiled in, or for each of its ways to run.
#[cfg(feature = "cli")]
pub fn columns() -> Vec<Column> {
    #[cfg(feature = "tokio")]
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
    ]
}
