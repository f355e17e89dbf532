//! Tokio keeps every rule of the contract with a pool on one runtime and its listeners on another.

use conformance_cli::worlds::apart::Apart;

conformance_tests::suite!(Apart::default());
