//! Memory that a pool uses at a peak, and releases after it (Q6).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

#[path = "it/support/mod.rs"]
mod support;

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};

use acceptor_core::*;
use peak_alloc::PeakAlloc;
use support::*;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The only test of this program, because it measures all allocations of the process.
#[test]
fn draining_waiters_release_memory() {
    const PEAK: usize = 100_000;
    let runtime = Manual::new(&Faults::default());
    let signal = Arc::new(OnceLock::new());
    let inside = Arc::clone(&signal);
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        let _ = inside.set(connection.lifecycle.draining().clone());
        pending::<Result<(), _>>()
    });
    let pool = Pool::start(runtime.clone(), Spec::new("peak", serve)).unwrap();
    let port = Port::new(1, &History::default(), &Faults::default());
    pool.add_listener(port.listen(), 1).unwrap();
    port.connect().unwrap();
    runtime.settle();
    let wait = || {
        let mut wait = Box::pin(signal.get().unwrap().wait());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        wait
    };
    let before = MEMORY.current_usage();
    let peak: Vec<_> = (0..PEAK).map(|_| wait()).collect();
    let stays = pin!(wait());
    drop(peak);
    let after = MEMORY.current_usage().saturating_sub(before);
    assert!(after < 10_000, "{after} bytes are kept");
    drop(pool.kill());
    runtime.settle();
    assert!(poll_once(stays).is_ready());
}
