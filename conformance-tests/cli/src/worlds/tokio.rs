//! The suite on tokio, on several threads or on one.

use std::future::Future;
use std::io;
use std::net;

use acceptor_tokio::{TcpListener, TokioRuntime};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, EnterGuard, Runtime};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use conformance_tests::Harness;

/// A tokio runtime of its own.
#[derive(Debug)]
pub struct Tokio {
    runtime: Option<Runtime>,
}

impl Tokio {
    /// The scheduler with several threads: two.
    pub fn multi_thread() -> Self {
        Self::build(Builder::new_multi_thread().worker_threads(2))
    }

    /// The scheduler that has the caller's thread and no other.
    pub fn current_thread() -> Self {
        Self::build(&mut Builder::new_current_thread())
    }

    fn build(builder: &mut Builder) -> Self {
        let runtime = builder.enable_all().build();
        Self {
            runtime: Some(runtime.expect("the system has threads and a poller to give")),
        }
    }

    /// Enters the runtime, as its sockets ask of the thread that makes one.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.owned().enter()
    }

    fn owned(&self) -> &Runtime {
        self.runtime
            .as_ref()
            .expect("the runtime is there until it is dropped")
    }
}

impl Drop for Tokio {
    /// In the background, for the last to let go may be a task of this very runtime, or be stuck.
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
