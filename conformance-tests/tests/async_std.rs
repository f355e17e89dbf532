//! Async-std keeps every rule of the contract.

use conformance_tests::Real;
use conformance_tests::runtimes::async_std::AsyncStd;

conformance_tests::suite!(Real::new(AsyncStd));
