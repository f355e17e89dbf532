//! The runtimes that have an adapter, and other worlds for comparison.

pub mod apart;
pub mod async_std;
pub mod simulated;
pub mod smol;
pub mod tokio;
#[cfg(target_os = "linux")]
pub mod unix;

use conformance_tests::Real;
use conformance_tests::reference::Reference;

use crate::column::Column;

/// Returns a column for each runtime, or for each of its configurations.
pub fn columns() -> Vec<Column> {
    vec![
        Column::new("tokio", "tokio, two threads", || {
            Real::new(tokio::Tokio::multi_thread())
        }),
        Column::new("tokio", "tokio, one thread", || {
            Real::new(tokio::Tokio::current_thread())
        }),
        Column::new(
            "apart",
            "tokio, listeners on another",
            apart::Apart::default,
        ),
        #[cfg(target_os = "linux")]
        Column::new("unix", "Unix sockets on tokio", || {
            unix::UnixSockets(tokio::Tokio::multi_thread())
        }),
        Column::new("async-std", "async-std", || Real::new(async_std::AsyncStd)),
        Column::new("smol", "smol, global", || Real::new(smol::Smol::global())),
        Column::new("smol", "smol, own executor", || {
            Real::new(smol::Smol::own_executor())
        }),
        Column::new("reference", "reference", || Real::new(Reference)),
        Column::new("simulated", "simulated", || simulated::Simulated::new(1)),
    ]
}
