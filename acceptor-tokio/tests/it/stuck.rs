//! Children that are stuck after a kill, on tokio.

#[path = "../shared/stuck.rs"]
mod shared;

use std::future::Future;

use acceptor_tokio::TokioRuntime;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.build().unwrap().block_on(future)
}

fn check(threads: usize, blocking: usize) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    let handle = TokioRuntime::from_handle(runtime.handle().clone());
    shared::check(handle, blocking);
}

#[test]
fn slow_drops_are_not_stuck_on_2_threads() {
    check(2, 0);
}

#[test]
fn slow_drops_are_not_stuck_on_4_threads() {
    check(4, 0);
}

#[test]
fn only_the_blocking_child_is_stuck() {
    check(2, 1);
    check(4, 2);
}
