//! Tokio's `LocalSet`, on a thread of its own behind a channel, keeps every rule of the contract.

use std::future::Future;
use std::io;
use std::net::TcpListener as StandardListener;
use std::pin::Pin;
use std::thread;
use std::time::Instant;

use acceptor_tokio::{Runtime, TcpListener, TokioRuntime};
use conformance_tests::{Harness, Real};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns on the thread of the `LocalSet`, whose timer and sockets are tokio's.
#[derive(Clone)]
struct Local {
    tokio: TokioRuntime,
    tasks: mpsc::UnboundedSender<Task>,
}

impl Runtime for Local {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // A runtime that has ended drops the task.
        let _ = self.tasks.send(Box::pin(task));
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        self.tokio.sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        self.tokio.now()
    }
}

/// The thread, which ends when this is dropped.
struct LocalThread {
    runtime: Local,
    handle: Handle,
    _running: oneshot::Sender<()>,
}

impl LocalThread {
    fn start() -> Self {
        let tokio = Builder::new_current_thread().enable_all().build();
        let tokio = tokio.expect("the system has a poller to give");
        let (tasks, mut inbox) = mpsc::unbounded_channel::<Task>();
        let (_running, over) = oneshot::channel::<()>();
        let handle = tokio.handle().clone();
        let runtime = Local {
            tokio: TokioRuntime::from_handle(handle.clone()),
            tasks,
        };
        thread::spawn(move || {
            let local = LocalSet::new();
            local.spawn_local(async move {
                while let Some(task) = inbox.recv().await {
                    spawn_local(task);
                }
            });
            let _ = local.block_on(&tokio, over);
        });
        Self {
            runtime,
            handle,
            _running,
        }
    }
}

impl Harness for LocalThread {
    type Runtime = Local;
    type Listener = TcpListener;
    type Stream = Compat<TcpStream>;

    fn runtime(&self) -> Local {
        self.runtime.clone()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        // Tokio's sockets ask for it where they are polled, and rules poll them in the test.
        let _context = self.handle.enter();
        futures::executor::block_on(test);
    }

    fn listener(&self, listener: StandardListener) -> io::Result<TcpListener> {
        TcpListener::from_std(listener, &self.runtime.tokio)
    }

    fn stream(&self, stream: TcpStream) -> Compat<TcpStream> {
        stream.compat()
    }
}

conformance_tests::suite!(Real::new(LocalThread::start()));
