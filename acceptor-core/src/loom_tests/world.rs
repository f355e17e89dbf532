//! A whole pool for a model: a listener in memory, an acceptor made to order, and a log of what can be seen from outside.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};

use futures::future::BoxFuture;

use super::block_on;
use super::tasks::{Tasks, Time};
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::State;
use crate::sync::{Mutex, lock, wake};
use crate::{
    Acceptor, BoxError, ChildId, Connection, Event, Init, Listener, ListenerId, ListenerInfo, Pool,
    PoolHandle, Report, Signal, Spec, StopReport, Terminate,
};

/// What happened, in the order in which it did.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(super) fn write(&self, entry: impl Into<String>) {
        let entry = entry.into();
        lock(&self.0).push(entry);
    }

    pub(super) fn read(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}

/// Says so when it is dropped.
pub(super) struct Held(Log, &'static str);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.write(self.1);
    }
}

/// The clients' side of the listener.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<Backlog>>);

#[derive(Default)]
struct Backlog {
    connections: usize,
    waker: Option<Waker>,
}

impl Clients {
    pub(super) fn connect(&self) {
        let waker = {
            let mut backlog = lock(&self.0);
            backlog.connections += 1;
            backlog.waker.take()
        };
        if let Some(waker) = waker {
            wake(waker);
        }
    }
}

impl Clients {
    /// How many connections nobody has accepted.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.0).connections
    }
}

pub(super) struct Door {
    clients: Clients,
    log: Log,
    _open: Held,
}

pub(super) type Stream = Held;

impl Listener for Door {
    type Stream = Stream;
    type Addr = u8;

    async fn accept(&self) -> io::Result<(Stream, u8)> {
        poll_fn(|cx| {
            let mut backlog = lock(&self.clients.0);
            if backlog.connections == 0 {
                backlog.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            backlog.connections -= 1;
            drop(backlog);
            Poll::Ready(Ok((Held(self.log.clone(), "stream gone"), 1)))
        })
        .await
    }

    fn local_addr(&self) -> io::Result<u8> {
        Ok(0)
    }

    fn stream_local_addr(_stream: &Stream) -> io::Result<u8> {
        Ok(0)
    }
}

/// What the callbacks do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// `serve` returns at once.
    Serves,
    /// `serve` waits for ever.
    ServesForEver,
    /// `serve` traps the stop, and leaves when it comes.
    ServesUntilTold,
    /// `init` waits for ever.
    PreparesForEver,
}

struct Scripted {
    script: Script,
    log: Log,
    replaced: Signal,
}

impl Acceptor<Door> for Scripted {
    type State = ();

    async fn init(&self, listener: &ListenerInfo<u8>) -> Result<Init<()>, BoxError> {
        if listener.child.sequence == 2 {
            self.replaced.set();
        }
        if self.script == Script::PreparesForEver {
            let _prepared = Held(self.log.clone(), "preparation gone");
            pending::<()>().await;
        }
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<Held, u8>, _: ()) -> Result<(), BoxError> {
        match self.script {
            Script::Serves | Script::PreparesForEver => {}
            Script::ServesForEver => pending().await,
            Script::ServesUntilTold => connection.signals.trap_stop().wait().await,
        }
        self.log.write("served");
        Ok(())
    }

    async fn terminate(&self, reason: &Terminate, _: ()) {
        self.log.write(format!("terminated: {reason}"));
    }
}

/// A pool, not yet run by any thread.
pub(super) struct World {
    pub(super) tasks: Tasks,
    pub(super) clients: Clients,
    pub(super) log: Log,
    /// Is set when the first acceptor's replacement begins.
    pub(super) replaced: Signal,
    pool: Pool<Tasks, Door>,
}

pub(super) type Handle = PoolHandle<Tasks, Door>;

impl World {
    pub(super) fn new(
        time: Time,
        script: Script,
        spec: impl FnOnce(Spec<Door>) -> Spec<Door>,
    ) -> Self {
        let (tasks, log, replaced) = (Tasks::new(time), Log::default(), Signal::new());
        let acceptor = Scripted {
            script,
            log: log.clone(),
            replaced: replaced.clone(),
        };
        let observed = log.clone();
        let observer = move |report: &Report<u8>| observed.write(words(&report.event));
        let spec = spec(Spec::new("loom", acceptor).observer(observer));
        Self {
            pool: Pool::start(tasks.clone(), spec).expect("the spec is allowed"),
            clients: Clients::default(),
            tasks,
            log,
            replaced,
        }
    }

    pub(super) fn handle(&self) -> Handle {
        self.pool.handle()
    }

    pub(super) fn door(&self) -> Door {
        Door {
            clients: self.clients.clone(),
            log: self.log.clone(),
            _open: Held(self.log.clone(), "socket closed"),
        }
    }

    /// Adds a listener with one acceptor.
    pub(super) fn listen(&self) -> ListenerId {
        let added = self.pool.add_listener(self.door(), 1);
        added
            .map_err(|error| error.to_string())
            .expect("the pool runs")
    }

    pub(super) fn socket(&self, id: ListenerId) -> Arc<ListenerShared<Door>> {
        let handle = self.handle();
        handle.shared().read(|state: &State<Door>| {
            let mut listeners = state.machine.listeners();
            let (_, listening) = listeners.find(|(open, _)| *open == id).expect("it is open");
            Arc::clone(&listening.socket)
        })
    }

    /// Makes a connection, and gives back its task, which was not polled yet. All else waits.
    pub(super) fn connection(&self) -> BoxFuture<'static, ()> {
        self.tasks.settle();
        self.clients.connect();
        // The watcher.
        self.tasks.poll(1);
        let child = self.tasks.take();
        self.tasks.settle();
        child
    }

    /// The pool's oldest child.
    pub(super) fn child(&self) -> ChildId {
        let handle = self.handle();
        let oldest = |state: &State<Door>| state.machine.children().map(|child| child.id).min();
        handle.shared().read(oldest).expect("there is one")
    }

    /// Kills the pool, whose time must stand still: it ends only if every child has ended, or ends now.
    pub(super) fn end(self) -> StopReport {
        let killed = self.pool.kill();
        self.tasks.run();
        block_on(killed)
    }
}

fn words(event: &Event<u8>) -> String {
    match event {
        Event::StartError { failure, .. } => format!("start error: {failure}"),
        Event::AcceptorFailed { failure, .. } => format!("acceptor: {failure}"),
        Event::ConnectionFailed { failure, .. } => format!("connection: {failure}"),
        Event::ListenerFailed { error, .. } => format!("listener: {error}"),
        Event::AcceptPaused { .. } => "paused".to_owned(),
        Event::KilledWhileStopping { count } => format!("{count} killed while stopping"),
        Event::Stuck { count } => format!("{count} stuck"),
        Event::PoolStopped { reason } => format!("stops: {reason}"),
    }
}
