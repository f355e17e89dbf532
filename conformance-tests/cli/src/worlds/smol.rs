//! The suite on smol: its global executor, or one of its own.

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

/// An executor of its own, and what keeps its threads running.
#[derive(Debug)]
struct Own {
    _executor: Arc<Executor<'static>>,
    _running: Sender<()>,
}

impl Smol {
    /// The global executor, which all share: one thread, unless `SMOL_THREADS` says otherwise.
    pub fn global() -> Self {
        Self {
            runtime: SmolRuntime::current(),
            _own: None,
        }
    }

    /// An executor of its own, on two threads.
    pub fn own_executor() -> Self {
        let executor = Arc::new(Executor::new());
        let (running, over) = bounded(1);
        for _ in 0..2 {
            let (executor, over) = (Arc::clone(&executor), over.clone());
            thread::Builder::new()
                .name("smol executor".into())
                .spawn(move || drive(&executor, &over))
                .expect("the system has threads to give");
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

/// Runs the tasks until nobody wants them to, as smol's own threads do: a panic in one leaves the others alone.
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
