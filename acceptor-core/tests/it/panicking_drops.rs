//! User values that panic when dropped, several at a time: a double panic would abort the process.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

/// Panics when dropped.
#[derive(Debug)]
struct AlwaysPanics;

impl Drop for AlwaysPanics {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

impl fmt::Display for AlwaysPanics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("always panics")
    }
}

impl Error for AlwaysPanics {}

/// The use that the handshake makes of its panicking values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Fails,
    Hangs,
    Passes,
}

#[derive(Clone)]
struct Shakes(How);

impl Handshake<MemoryStream, Address> for Shakes {
    type Stream = AlwaysPanics;

    async fn run(
        &self,
        incoming: Incoming<MemoryStream, Address>,
    ) -> Result<Incoming<AlwaysPanics, Address>, HandshakeError> {
        match self.0 {
            How::Fails => Err(HandshakeError::new("bomb", AlwaysPanics)),
            How::Hangs => {
                let _held = AlwaysPanics;
                pending().await
            }
            How::Passes => Ok(incoming.map_stream(|_| AlwaysPanics)),
        }
    }
}

type TestListener = With<MemoryListener, Shakes>;

struct Holds;

impl Acceptor<TestListener> for Holds {
    type State = AlwaysPanics;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<AlwaysPanics>, BoxError> {
        Ok(Init::Accept(AlwaysPanics))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<AlwaysPanics> {
        Some(AlwaysPanics)
    }

    async fn serve(
        &self,
        connection: Connection<AlwaysPanics, Address>,
        state: AlwaysPanics,
    ) -> Result<(), BoxError> {
        std::mem::forget(connection);
        std::mem::forget(state);
        Err(AlwaysPanics.into())
    }
}

/// A connection whose values all panic when dropped ends once, with this report, and nothing else ends.
#[track_caller]
fn check(how: How, killed: bool, words: &str) {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let reports = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&reports);
    let spec = Spec::new("panicking", Holds)
        .connection_reports(ConnectionReports::All)
        .observer(observer_fn(move |report: &Report<Address>| {
            seen.lock().unwrap().push(report.to_string());
        }));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
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
    check(How::Passes, false, "failed after 0.000ns: always panics");
}

/// An address whose next clone panics once it is armed.
#[derive(Debug)]
struct PanickingAddr(Arc<AtomicBool>);

impl Clone for PanickingAddr {
    fn clone(&self) -> Self {
        if self.0.swap(false, Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("cloned"));
        }
        Self(Arc::clone(&self.0))
    }
}

/// Accepts one connection; the next clone of an address panics.
struct PanickingListener(PanickingAddr, AtomicBool);

impl Listener for PanickingListener {
    type Io = AlwaysPanics;
    type Addr = PanickingAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> std::io::Result<(AlwaysPanics, PanickingAddr)> {
        if self.1.swap(true, Ordering::SeqCst) {
            return pending().await;
        }
        let peer = self.0.clone();
        self.0.0.store(true, Ordering::SeqCst);
        Ok((AlwaysPanics, peer))
    }

    fn local_addr(&self) -> std::io::Result<PanickingAddr> {
        Ok(self.0.clone())
    }

    fn asks_local_addr(&self) -> bool {
        false
    }

    fn io_local_addr(_: &AlwaysPanics) -> std::io::Result<PanickingAddr> {
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
        acceptor_fn(|_: Connection<AlwaysPanics, PanickingAddr>| pending::<Result<(), BoxError>>()),
    );
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let armed = Arc::<AtomicBool>::default();
    let mined = PanickingListener(PanickingAddr(Arc::clone(&armed)), AtomicBool::new(false));
    pool.add_listener(mined, 1).unwrap();
    runtime.settle();
    assert!(!armed.load(Ordering::SeqCst), "an address was cloned");
    // The listener has failed, as it does whenever its task panics.
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (0, 0));
}

#[test]
fn error_of_a_gone_peer_may_panic() {
    let (faults, history) = (Faults::default(), History::default());
    let runtime = Manual::new(&faults);
    let serve = acceptor_fn(|_| async { Ok(Exit::disconnected(AlwaysPanics)) });
    let pool = Pool::start(runtime.clone(), Spec::new("gone", serve)).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 1).unwrap();
    for _ in 0..3 {
        port.connect().unwrap();
    }
    runtime.settle();
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (0, 1));
    assert_eq!((history.alive(), runtime.panics()), (0, 0));
}
