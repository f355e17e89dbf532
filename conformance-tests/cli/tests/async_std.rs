//! Async-std keeps every rule of the contract.

use conformance_cli::worlds::async_std::AsyncStd;
use conformance_tests::Real;

conformance_tests::suite!(Real::new(AsyncStd));
