//! Smol keeps every rule of the contract, on its global executor and on one of its own.

use conformance_cli::worlds::smol::Smol;
use conformance_tests::Real;

mod on_the_global_executor {
    conformance_tests::suite!(super::Real::new(super::Smol::global()));
}

mod on_an_executor_of_its_own {
    conformance_tests::suite!(super::Real::new(super::Smol::own_executor()));
}
