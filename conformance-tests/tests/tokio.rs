//! Tokio keeps every rule of the contract, on several threads and on one.

use conformance_tests::Real;
use conformance_tests::runtimes::tokio::Tokio;

mod on_several_threads {
    conformance_tests::suite!(super::Real::new(super::Tokio::multi_thread()));
}

mod on_one_thread {
    conformance_tests::suite!(super::Real::new(super::Tokio::current_thread()));
}
