//! Children that are stuck after a kill, on smol.

#[path = "../../../acceptor-tokio/tests/shared/stuck.rs"]
mod shared;

use std::sync::Arc;
use std::thread;

use acceptor_smol::SmolRuntime;
use smol::Executor;
use smol::block_on;
use smol::channel::{Sender, unbounded};

/// Checks with an executor on this many threads.
fn check(threads: usize, blocking: usize) {
    let executor = Arc::new(Executor::new());
    let (stop, stopped): (Sender<()>, _) = unbounded();
    for _ in 0..threads {
        let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
        thread::spawn(move || block_on(executor.run(stopped.recv())));
    }
    shared::check(SmolRuntime::with_executor(Arc::clone(&executor)), blocking);
    drop(stop);
}

#[test]
fn slow_drops_are_not_stuck() {
    check(2, 0);
}

#[test]
fn only_the_blocking_child_is_stuck() {
    check(2, 1);
}
