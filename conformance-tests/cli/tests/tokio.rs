//! Tokio meets every rule, multi-threaded and single-threaded.

use conformance_cli::worlds::tokio::Tokio;
use conformance_tests::Real;

mod on_several_threads {
    conformance_tests::suite!(super::Real::new(super::Tokio::multi_thread()));
}

mod on_one_thread {
    conformance_tests::suite!(super::Real::new(super::Tokio::current_thread()));
}
