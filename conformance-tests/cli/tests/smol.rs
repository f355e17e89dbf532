//! Smol meets every rule, on its global executor and on a separate one.

use conformance_cli::worlds::smol::Smol;
use conformance_tests::Real;

mod on_the_global_executor {
    conformance_tests::suite!(super::Real::new(super::Smol::global()));
}

mod on_a_separate_executor {
    conformance_tests::suite!(super::Real::new(super::Smol::own_executor()));
}
