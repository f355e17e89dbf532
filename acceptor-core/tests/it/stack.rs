//! Stack that a connection takes on its way to its task: a test's thread has 2 MiB, as a worker of tokio has.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

use crate::support::*;
use acceptor_core::*;

/// Its `serve` has buffers of so many bytes in its future.
struct Buffers<const BYTES: usize>;

impl<const BYTES: usize> Acceptor<MemoryListener> for Buffers<BYTES> {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        let mut buffers = [0_u8; BYTES];
        connection.stream.serve();
        yield_now().await;
        buffers[connection.stream.number] = 1;
        std::hint::black_box(&mut buffers);
    }
}

/// Its acceptors have states of so many bytes.
struct States<const BYTES: usize>;

impl<const BYTES: usize> Acceptor<MemoryListener> for States<BYTES> {
    type State = [u8; BYTES];
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<[u8; BYTES]>, BoxError> {
        Ok(Init::Accept([0; BYTES]))
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, state: [u8; BYTES]) {
        connection.stream.serve();
        yield_now().await;
        std::hint::black_box(&state);
    }
}

/// A stack that overflows ends the process.
fn serves_one(acceptor: impl Acceptor<MemoryListener>) {
    let runtime = Manual::new(&Faults::default());
    let ledger = Ledger::default();
    let spec = Spec::new("large", acceptor);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &ledger, &Faults::default());
    pool.add_listener(port.listen(), 2).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(ledger.all()[0].served, 1);
    assert_eq!(pool.counts().unwrap().connections, 0);
}

#[test]
fn future_of_256_kib_fits_the_stack() {
    serves_one(Buffers::<{ 256 * 1024 }>);
}

#[test]
fn state_of_64_kib_fits_the_stack() {
    serves_one(States::<{ 64 * 1024 }>);
}

/// Its `terminate` has buffers of so many bytes in its future.
struct LastWords<const BYTES: usize>;

impl<const BYTES: usize> Acceptor<MemoryListener> for LastWords<BYTES> {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection<MemoryStream, Address>, (): ()) {}

    async fn terminate(&self, _: &Terminate, (): ()) {
        let mut buffers = [0_u8; BYTES];
        yield_now().await;
        std::hint::black_box(&mut buffers);
    }
}

fn terminates_one(acceptor: impl Acceptor<MemoryListener>) {
    let runtime = Manual::new(&Faults::default());
    let pool = Pool::start(runtime.clone(), Spec::new("large", acceptor)).unwrap();
    let port = Port::new(1, &Ledger::default(), &Faults::default());
    let id = pool.add_listener(port.listen(), 2).unwrap();
    runtime.settle();
    drop(pool.close_listener(id));
    runtime.settle();
    runtime.advance(CLOSE_DELAY);
    runtime.settle();
    assert!(!port.is_open());
    assert_eq!(pool.counts().unwrap().children(), 0);
}

#[test]
fn terminate_of_256_kib_fits_the_stack() {
    terminates_one(LastWords::<{ 256 * 1024 }>);
}

#[test]
fn terminated_state_fits_the_stack() {
    terminates_one(States::<{ 64 * 1024 }>);
}
