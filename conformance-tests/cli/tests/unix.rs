//! Tokio meets every rule on Unix sockets, too.
#![cfg(target_os = "linux")]

use conformance_cli::worlds::tokio::Tokio;
use conformance_cli::worlds::unix::UnixSockets;

conformance_tests::suite!(UnixSockets(Tokio::multi_thread()));
