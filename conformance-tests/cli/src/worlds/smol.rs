//! The suite on smol, on its global executor or on a separate one.

use std::future::Future;
use std::io;
use std::net;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use acceptor_smol::{SmolRuntime, TcpListener};
use smol::Executor;
use smol::channel::{Receiver, Sender, bounded};
use smol::net::TcpStream;

use conformance_tests::Harness;

/// An executor of smol.
#[derive(Debug)]
pub struct Smol {
    runtime: SmolRuntime,
    _own: Option<Own>,
}

/// A separate executor, and the value that keeps its threads running.
#[derive(Debug)]
struct Own {
    _executor: Arc<Executor<'static>>,
    _running: Sender<()>,
}

impl Smol {
    /// Uses the shared global executor, which has one thread unless `SMOL_THREADS` is set.
    pub fn global() -> Self {
        Self {
            runtime: SmolRuntime::current(),
            _own: None,
        }
    }

    /// Creates a separate executor with two threads.
    pub fn own_executor() -> Self {
        let executor = Arc::new(Executor::new());
        let (running, over) = bounded(1);
        for _ in 0..2 {
            let (executor, over) = (Arc::clone(&executor), over.clone());
            thread::Builder::new()
                .name("smol executor".into())
                .spawn(move || drive(&executor, &over))
                .expect("the system can start another thread");
        }
        Self {
            runtime: SmolRuntime::with_executor(Arc::clone(&executor)),
            _own: Some(Own {
                _executor: executor,
                _running: running,
            }),
        }
    }
}

/// Runs the tasks until `over` is closed, as smol's own threads do: a panic in one task does not affect the others.
fn drive(executor: &Executor<'static>, over: &Receiver<()>) {
    let until_over = || smol::block_on(executor.run(over.recv()));
    while catch_unwind(AssertUnwindSafe(until_over)).is_err() {}
}

impl Harness for Smol {
    type Runtime = SmolRuntime;
    type Listener = TcpListener;
    type Stream = TcpStream;

    fn runtime(&self) -> SmolRuntime {
        self.runtime.clone()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        smol::block_on(test);
    }

    fn listener(&self, listener: net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_std(listener, &self.runtime())
    }

    fn stream(&self, stream: TcpStream) -> TcpStream {
        stream
    }
}
