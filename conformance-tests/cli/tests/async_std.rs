//! Async-std meets every rule.

use conformance_cli::worlds::async_std::AsyncStd;
use conformance_tests::Real;

conformance_tests::suite!(Real::new(AsyncStd));
