//! Memory of waiting acceptors: each holds its state and a small wait (B9).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

#[path = "it/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use acceptor_core::*;
use peak_alloc::PeakAlloc;
use support::*;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const STATE: usize = 16 * 1024;

/// The first of its acceptors waits indefinitely, the others time out.
struct Large(AtomicUsize);

impl Acceptor<MemoryListener> for Large {
    type State = [u8; STATE];
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<[u8; STATE]>, BoxError> {
        Ok(match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Init::Accept([0; STATE]),
            _ => Init::AcceptWithin([0; STATE], Duration::from_millis(10)),
        })
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, _: [u8; STATE]) {}
}

/// The only test of this program, because it measures all allocations of the process.
#[test]
fn ended_acceptors_release_their_state() {
    let runtime = Manual::new(&Faults::default());
    let spec = Spec::new("large", Large(AtomicUsize::new(0)));
    let before = MEMORY.current_usage();
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &History::default(), &Faults::default());
    pool.add_listener(port.listen(), 2).unwrap();
    runtime.settle();
    for _ in 0..100 {
        runtime.advance(Duration::from_millis(10));
        runtime.settle();
    }
    assert_eq!(pool.counts().unwrap().acceptors, 2);
    let states = MEMORY.current_usage().saturating_sub(before) / STATE;
    assert!(
        states <= 8,
        "two acceptors hold the memory of {states} states"
    );
}
