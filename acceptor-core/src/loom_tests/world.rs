//! A whole pool for a model: an in-memory listener, a scripted acceptor, and a log of what is visible from outside.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};

use futures::future::BoxFuture;

use super::block_on;
use super::tasks::{Sleeps, Tasks};
use crate::sync::{Mutex, lock, wake};
use crate::{
    Acceptor, BoxError, ChildId, Connection, Event, Init, Listener, ListenerId, ListenerInfo,
    NoHandshake, Pool, PoolHandle, Report, Spec, StopReport, Terminate, observer_fn,
};

/// Entries in chronological order.
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

    /// How often this entry occurs.
    pub(super) fn count(&self, entry: &str) -> usize {
        self.read().iter().filter(|known| *known == entry).count()
    }
}

/// Writes an entry when it is dropped.
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
    /// The remaining descriptors, if there is a limit: each stream takes one.
    descriptors: Option<usize>,
    broken: bool,
    waker: Option<Waker>,
}

impl Clients {
    fn change(&self, change: impl FnOnce(&mut Backlog)) {
        let waker = {
            let mut backlog = lock(&self.0);
            change(&mut backlog);
            backlog.waker.take()
        };
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    pub(super) fn connect(&self) {
        self.change(|backlog| backlog.connections += 1);
    }

    /// Makes every later `accept` fail.
    pub(super) fn break_listener(&self) {
        self.change(|backlog| backlog.broken = true);
    }

    /// Limits the descriptors for streams.
    pub(super) fn limit_descriptors(&self, count: usize) {
        self.change(|backlog| backlog.descriptors = Some(count));
    }

    /// The number of connections not yet accepted.
    pub(super) fn queued(&self) -> usize {
        lock(&self.0).connections
    }
}

pub(super) struct TestListener {
    clients: Clients,
    log: Log,
    _open: Held,
}

pub(super) struct Stream {
    clients: Clients,
    log: Log,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(descriptors) = &mut lock(&self.clients.0).descriptors {
            *descriptors += 1;
        }
        self.log.write("stream gone");
    }
}

/// Too many open files.
const EMFILE: i32 = 24;
/// Bad file descriptor.
const EBADF: i32 = 9;

impl Listener for TestListener {
    type Io = Stream;
    type Addr = u8;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Stream, u8)> {
        poll_fn(|cx| {
            let mut backlog = lock(&self.clients.0);
            if backlog.broken {
                return Poll::Ready(Err(io::Error::from_raw_os_error(EBADF)));
            }
            if backlog.connections == 0 {
                backlog.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            match &mut backlog.descriptors {
                Some(0) => return Poll::Ready(Err(io::Error::from_raw_os_error(EMFILE))),
                Some(descriptors) => *descriptors -= 1,
                None => {}
            }
            backlog.connections -= 1;
            drop(backlog);
            let (clients, log) = (self.clients.clone(), self.log.clone());
            Poll::Ready(Ok((Stream { clients, log }, 1)))
        })
        .await
    }

    fn local_addr(&self) -> io::Result<u8> {
        Ok(0)
    }

    fn io_local_addr(_stream: &Stream) -> io::Result<u8> {
        Ok(0)
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// The behaviour of the callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// `serve` returns immediately.
    Serves,
    /// The same, with a log entry of its own.
    ServesAnew,
    /// The same, and there is no `init`.
    ServesWithoutInit,
    /// `serve` waits indefinitely.
    ServesForever,
    /// `serve` traps the stop, and returns when it comes.
    ServesUntilStopped,
    /// `serve` waits for *draining*.
    ServesUntilDraining,
    /// `init` waits indefinitely.
    PreparesForever,
    /// `init` fails this many times, then `serve` returns immediately.
    FailsToStart(u64),
}

pub(super) struct Scripted {
    script: Script,
    log: Log,
}

impl Acceptor<TestListener> for Scripted {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<u8>) -> Result<Init<()>, BoxError> {
        match self.script {
            Script::PreparesForever => {
                let _prepared = Held(self.log.clone(), "preparation gone");
                pending::<()>().await;
            }
            Script::FailsToStart(last) if listener.child.number <= last => {
                return Err("injected".into());
            }
            _ => {}
        }
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<u8>) -> Option<()> {
        (self.script == Script::ServesWithoutInit).then_some(())
    }

    async fn serve(&self, connection: Connection<Stream, u8>, _: ()) -> Result<(), BoxError> {
        match self.script {
            Script::ServesForever => pending().await,
            Script::ServesUntilStopped => connection.lifecycle.trap_stop().wait().await,
            Script::ServesUntilDraining => connection.lifecycle.draining().wait().await,
            _ => {}
        }
        self.log.write(match self.script {
            Script::ServesAnew => "served anew",
            _ => "served",
        });
        Ok(())
    }

    async fn terminate(&self, reason: &Terminate, _: ()) {
        self.log.write(format!("terminated: {reason}"));
    }
}

fn scripted(script: Script, log: &Log) -> Spec<Scripted, u8> {
    let acceptor = Scripted {
        script,
        log: log.clone(),
    };
    let observed = log.clone();
    let observer = move |report: &Report<u8>| observed.write(words(&report.event));
    Spec::new("loom", acceptor).observer(observer_fn(observer))
}

/// A pool, not yet run by any thread.
pub(super) struct World {
    pub(super) tasks: Tasks,
    pub(super) clients: Clients,
    pub(super) log: Log,
    pool: Pool<Tasks, TestListener>,
}

pub(super) type Handle = PoolHandle<Tasks, TestListener>;

impl World {
    pub(super) fn new(
        sleeps: Sleeps,
        script: Script,
        spec: impl FnOnce(Spec<Scripted, u8>) -> Spec<Scripted, u8>,
    ) -> Self {
        let (tasks, log) = (Tasks::new(sleeps), Log::default());
        let spec = spec(scripted(script, &log));
        Self {
            pool: Pool::start(tasks.clone(), spec).expect("the spec is allowed"),
            clients: Clients::default(),
            tasks,
            log,
        }
    }

    /// A spec for the same pool.
    pub(super) fn spec(&self, script: Script) -> Spec<Scripted, u8> {
        scripted(script, &self.log)
    }

    pub(super) fn handle(&self) -> Handle {
        self.pool.handle()
    }

    /// Takes the pool's own task.
    pub(super) fn take_driver(&self) -> BoxFuture<'static, ()> {
        self.tasks.take(0)
    }

    pub(super) fn take_reporter(&self) -> BoxFuture<'static, ()> {
        self.tasks.take(1)
    }

    /// Takes the task of the first listener.
    pub(super) fn take_accept_loop(&self) -> BoxFuture<'static, ()> {
        self.tasks.take(2)
    }

    pub(super) fn listener(&self) -> TestListener {
        TestListener {
            clients: self.clients.clone(),
            log: self.log.clone(),
            _open: Held(self.log.clone(), "socket closed"),
        }
    }

    /// Adds a listener with one acceptor.
    pub(super) fn listen(&self) -> ListenerId {
        let added = self.pool.add_listener(self.listener(), 1);
        added
            .map_err(|error| error.to_string())
            .expect("the pool runs")
    }

    /// Adds a listener, and returns the task in which its acceptor is about to run `init`. All other tasks wait.
    pub(super) fn init(&self) -> (ListenerId, BoxFuture<'static, ()>) {
        self.tasks.settle();
        let listener = self.listen();
        self.tasks.poll_one();
        (listener, self.tasks.take_last())
    }

    /// Adds a listener whose acceptor waits, and returns its task. All other tasks wait.
    pub(super) fn accept_loop(&self) -> (ListenerId, BoxFuture<'static, ()>) {
        self.tasks.settle();
        let listener = self.listen();
        self.tasks.settle();
        (listener, self.take_accept_loop())
    }

    /// Adds a listener, makes a connection, and returns its task, which was not polled yet. All other tasks wait.
    pub(super) fn connection(&self) -> (ListenerId, BoxFuture<'static, ()>) {
        self.tasks.settle();
        let listener = self.listen();
        self.tasks.settle();
        (listener, self.next_connection())
    }

    /// Makes another connection.
    pub(super) fn next_connection(&self) -> BoxFuture<'static, ()> {
        self.clients.connect();
        // The accept loop: it starts the next acceptor, then the connection.
        self.tasks.poll_one();
        let connection = self.tasks.take_last();
        self.tasks.settle();
        connection
    }

    /// The children, oldest first.
    pub(super) fn children(&self) -> Vec<ChildId> {
        let mut children = Vec::new();
        let handle = self.handle();
        for listener in handle.shared().listeners_after(None, usize::MAX) {
            let table = &mut lock(&listener.children).table;
            table.visit(0, usize::MAX, |id, _, _| children.push(id));
        }
        children.sort_unstable();
        children
    }

    /// Kills the pool. No sleep ends meanwhile: the pool ends only if each child has ended, or ends now.
    pub(super) fn end(self) -> StopReport<u8> {
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
        Event::ConnectionBegan { .. } => "connection began".to_owned(),
        Event::Disconnected { .. } | Event::HandshakeFailed { .. } => {
            unreachable!("no script causes this event")
        }
        Event::ConnectionEnded { kind, .. } => format!("connection ended: {kind}"),
        Event::ListenerFailed { error, .. } => format!("listener: {error}"),
        Event::AcceptPaused { .. } => "paused".to_owned(),
        Event::KilledWhileStopping { count } => format!("{count} killed while stopping"),
        Event::Stuck { count } => format!("{count} stuck"),
        Event::PoolStopped { reason } => format!("stops: {reason}"),
        Event::ReportsLost { lost } => format!("lost: {lost:?}"),
    }
}
