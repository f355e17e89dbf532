//! A pool of threads, written by hand, keeps every rule of the contract; one that lets tasks starve breaks T10.

use conformance_others::{Executor, Order};
use conformance_tests::Real;
use conformance_tests::rules::{all, test};

fn pool(order: Order) -> Real<Executor> {
    Real::new(Executor::new(4, order).expect("the system has threads to give"))
}

conformance_tests::suite!(pool(Order::Fair));

#[test]
#[should_panic(expected = "T10 (MUST) does not hold")]
fn starving_pool_breaks_t10() {
    let rule = all().iter().find(|rule| rule.id == "T10");
    test(pool(Order::LastFirst), rule.expect("T10 is a rule").name);
}
