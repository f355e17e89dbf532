//! An executor of one thread, which waits for its own sockets and deadlines, keeps every rule of the contract.

use conformance_others::{Executor, Order};
use conformance_tests::Real;

conformance_tests::suite!(Real::new(
    Executor::new(1, Order::Fair).expect("the system has a thread to give")
));
