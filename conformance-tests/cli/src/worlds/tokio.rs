//! The suite on tokio, multi-threaded or single-threaded.

use std::future::Future;
use std::io;
use std::net;

use acceptor_tokio::{TcpListener, TokioRuntime};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, EnterGuard, Runtime};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use conformance_tests::Harness;

/// A separate tokio runtime.
#[derive(Debug)]
pub struct Tokio {
    runtime: Option<Runtime>,
}

impl Tokio {
    /// Creates a multi-threaded runtime with two threads.
    pub fn multi_thread() -> Self {
        Self::build(Builder::new_multi_thread().worker_threads(2))
    }

    /// Creates a runtime that runs on the caller's thread only.
    pub fn current_thread() -> Self {
        Self::build(&mut Builder::new_current_thread())
    }

    fn build(builder: &mut Builder) -> Self {
        let runtime = builder.enable_all().build();
        Self {
            runtime: Some(runtime.expect("the system can start the runtime's threads and poller")),
        }
    }

    /// Enters the runtime, which creating its sockets requires.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.owned().enter()
    }

    fn owned(&self) -> &Runtime {
        self.runtime
            .as_ref()
            .expect("the runtime is taken only by the drop")
    }
}

impl Drop for Tokio {
    /// Shuts down in the background, because the last owner may be a task of this runtime, or may
    /// be stuck.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Harness for Tokio {
    type Runtime = TokioRuntime;
    type Listener = TcpListener;
    type Stream = Compat<TcpStream>;

    fn runtime(&self) -> TokioRuntime {
        TokioRuntime::from_handle(self.owned().handle().clone())
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.owned().block_on(test);
    }

    fn listener(&self, listener: net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_std(listener, &self.runtime())
    }

    fn stream(&self, stream: TcpStream) -> Compat<TcpStream> {
        stream.compat()
    }
}
