//! Values of the user's that panic when they are dropped, several at a time: two panics at once would abort the process.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though not marked as such"
)]

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl Error for Bomb {}

/// What the handshake does with its bombs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Fails,
    Hangs,
    Passes,
}

#[derive(Clone)]
struct Shakes(How);

impl Handshake<MemoryStream, Address> for Shakes {
    type Stream = Bomb;

    async fn run(
        &self,
        incoming: Incoming<MemoryStream, Address>,
    ) -> Result<Incoming<Bomb, Address>, HandshakeError> {
        match self.0 {
            How::Fails => Err(HandshakeError::new("bomb", Bomb)),
            How::Hangs => {
                let _held = Bomb;
                pending().await
            }
            How::Passes => Ok(incoming.map_stream(|_| Bomb)),
        }
    }
}

type TestListener = With<MemoryListener, Shakes>;

struct Holds;

impl Acceptor<TestListener> for Holds {
    type State = Bomb;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<Bomb>, BoxError> {
        Ok(Init::Accept(Bomb))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<Bomb> {
        Some(Bomb)
    }

    async fn serve(
        &self,
        connection: Connection<Bomb, Address>,
        state: Bomb,
    ) -> Result<(), BoxError> {
        std::mem::forget(connection);
        std::mem::forget(state);
        Err(Bomb.into())
    }
}

/// A connection with bombs ends in one way, which is reported so, and nothing else does.
#[track_caller]
fn check(how: How, killed: bool, words: &str) {
    let faults = Faults::default();
    let (runtime, ledger) = (Manual::new(&faults), Ledger::default());
    let reports = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&reports);
    let spec = Spec::new("bombs", Holds)
        .connection_reports(ConnectionReports::All)
        .observer(observer_fn(move |report: &Report<Address>| {
            seen.lock().unwrap().push(report.to_string());
        }));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &ledger, &faults);
    pool.add_listener(port.listen().with(Shakes(how)), 2)
        .unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    if killed {
        for record in pool.connections().unwrap() {
            pool.kill_child(record.id).unwrap();
        }
        runtime.settle();
    }
    runtime.advance(Duration::from_secs(11));
    runtime.settle();
    assert_eq!(pool.counts().unwrap().connections, 0);
    assert_eq!(pool.counts().unwrap().acceptors, 2);
    let ends = reports.lock().unwrap().split_off(1);
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert!(ends[0].ends_with(words), "{ends:?}");
    let kill = pool.kill();
    runtime.settle();
    assert!(poll_once(kill).is_ready());
    assert_eq!(runtime.panics(), 0);
}

#[test]
fn panicking_drops_end_a_connection_once() {
    check(How::Fails, false, "panicked: dropped");
    check(How::Hangs, false, "panicked: dropped");
    check(How::Hangs, true, "panicked: dropped");
    check(How::Passes, false, "failed after 0.000ns: a bomb");
}

/// An address whose next copy panics, once it is armed.
#[derive(Debug)]
struct Fuse(Arc<AtomicBool>);

impl Clone for Fuse {
    fn clone(&self) -> Self {
        if self.0.swap(false, Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("copied"));
        }
        Self(Arc::clone(&self.0))
    }
}

/// Accepts one connection; the next copy of an address panics.
struct Mined(Fuse, AtomicBool);

impl Listener for Mined {
    type Io = Bomb;
    type Addr = Fuse;
    type Handshake = NoHandshake;

    async fn accept(&self) -> std::io::Result<(Bomb, Fuse)> {
        if self.1.swap(true, Ordering::SeqCst) {
            return pending().await;
        }
        let peer = self.0.clone();
        self.0.0.store(true, Ordering::SeqCst);
        Ok((Bomb, peer))
    }

    fn local_addr(&self) -> std::io::Result<Fuse> {
        Ok(self.0.clone())
    }

    fn asks_local_addr(&self) -> bool {
        false
    }

    fn io_local_addr(_: &Bomb) -> std::io::Result<Fuse> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// A double panic would abort the process.
#[test]
fn double_panic_in_accept_is_contained() {
    let runtime = Manual::new(&Faults::default());
    let spec = Spec::new(
        "mined",
        acceptor_fn(|_: Connection<Bomb, Fuse>| pending::<Result<(), BoxError>>()),
    );
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let fuse = Arc::<AtomicBool>::default();
    let mined = Mined(Fuse(Arc::clone(&fuse)), AtomicBool::new(false));
    pool.add_listener(mined, 1).unwrap();
    runtime.settle();
    assert!(!fuse.load(Ordering::SeqCst), "an address was copied");
    // The listener has failed, as it does if its task panics.
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (0, 0));
}
