//! The runtime that is written to be read keeps every rule of the contract.

use conformance_tests::Real;
use conformance_tests::reference::Reference;

conformance_tests::suite!(Real::new(Reference));
