//! The reference runtime meets every rule.

use conformance_tests::Real;
use conformance_tests::reference::Reference;

conformance_tests::suite!(Real::new(Reference));
