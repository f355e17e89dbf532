//! Stack use on a connection's way to its task: a test thread has 2 MiB, like a worker thread of tokio.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use crate::support::*;
use acceptor_core::*;

/// The future of its `serve` holds buffers of this many bytes.
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

/// Its acceptors have states of this many bytes.
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
    let history = History::default();
    let spec = Spec::new("large", acceptor);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &Faults::default());
    pool.add_listener(port.listen(), 2).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    assert_eq!(history.all()[0].served, 1);
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

/// The future of its `terminate` holds buffers of this many bytes.
struct LargeTerminate<const BYTES: usize>;

impl<const BYTES: usize> Acceptor<MemoryListener> for LargeTerminate<BYTES> {
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
    let port = Port::new(1, &History::default(), &Faults::default());
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
    terminates_one(LargeTerminate::<{ 256 * 1024 }>);
}

#[test]
fn terminated_state_fits_the_stack() {
    terminates_one(States::<{ 64 * 1024 }>);
}
