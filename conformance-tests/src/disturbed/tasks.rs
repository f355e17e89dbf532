//! A world whose runtime knows its tasks by number, and drops one when told to.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use acceptor_core::{Listener, Runtime, StreamOf};

use crate::patience::Patience;
use crate::record::Record;
use crate::tamper::Tamper;
use crate::world::World;

/// A task of a [`DroppingRuntime`], by the value that spawned it and the order of their spawning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId {
    value: ValueId,
    number: usize,
}

impl TaskId {
    /// The runtime value that spawned it.
    pub fn value(self) -> ValueId {
        self.value
    }
}

/// A value of a [`DroppingRuntime`]; its clones are the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueId {
    /// The one that the world starts pools with.
    OfTheWorld,
    /// Another one.
    Another,
}

thread_local! {
    static CURRENT: Cell<Option<TaskId>> = const { Cell::new(None) };
}

/// The task that runs on this thread, if it was spawned on a [`DroppingRuntime`].
pub fn current_task() -> Option<TaskId> {
    CURRENT.get()
}

/// A runtime that drops tasks when told to; all else is that of another.
#[derive(Debug, Clone)]
pub struct DroppingRuntime<R> {
    runtime: R,
    value: ValueId,
    spawned: Arc<AtomicUsize>,
    to_drop: Record<TaskId>,
}

/// Sets the current task, and back when it is dropped, by a panic or not.
struct Current(Option<TaskId>);

impl Current {
    fn enter(task: TaskId) -> Self {
        Self(CURRENT.replace(Some(task)))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl<R: Runtime> Runtime for DroppingRuntime<R> {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let id = TaskId {
            value: self.value,
            number: self.spawned.fetch_add(1, Ordering::SeqCst),
        };
        let to_drop = self.to_drop.clone();
        self.runtime.spawn(async move {
            let mut task = Box::pin(task);
            let mut told = Box::pin(to_drop.first(|dropped| (*dropped == id).then_some(())));
            poll_fn(|cx| {
                if told.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let _current = Current::enter(id);
                task.as_mut().poll(cx)
            })
            .await;
        });
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        self.runtime.sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

/// A world whose runtime drops tasks when told to.
pub struct DroppedTasks<W: World> {
    world: Arc<W>,
    runtime: DroppingRuntime<W::Runtime>,
}

impl<W: World> DroppedTasks<W> {
    /// The same world, with a runtime that drops tasks when told to.
    pub fn new(world: &Arc<W>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            runtime: DroppingRuntime {
                runtime: world.runtime(),
                value: ValueId::OfTheWorld,
                spawned: Arc::default(),
                to_drop: Record::default(),
            },
        })
    }

    /// The same runtime as another value, for a listener that is to have one of its own.
    pub fn another_value(&self) -> DroppingRuntime<W::Runtime> {
        DroppingRuntime {
            value: ValueId::Another,
            ..self.runtime.clone()
        }
    }

    /// Drops a task, as a runtime does that is shut down.
    pub fn drop_task(&self, task: TaskId) {
        self.runtime.to_drop.push(task);
    }
}

impl<W: World> fmt::Debug for DroppedTasks<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DroppedTasks").finish_non_exhaustive()
    }
}

impl<W: World> World for DroppedTasks<W> {
    type Runtime = DroppingRuntime<W::Runtime>;
    type Listener = W::Listener;
    type Stream = W::Stream;
    type Client = W::Client;

    fn runtime(&self) -> Self::Runtime {
        self.runtime.clone()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        self.world.run(test);
    }

    fn listen_on(&self, address: SocketAddr) -> io::Result<(W::Listener, SocketAddr)> {
        self.world.listen_on(address)
    }

    fn listen_to_nothing(&self) -> io::Result<(W::Listener, io::Error)> {
        self.world.listen_to_nothing()
    }

    fn accepted(&self, stream: <W::Listener as Listener>::Io) -> W::Stream {
        self.world.accepted(stream)
    }

    fn stream(&self, stream: StreamOf<W::Listener>) -> W::Stream {
        self.world.stream(stream)
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<W::Client>> + Send + 'static {
        self.world.connect(address)
    }

    fn patience(&self) -> Patience {
        self.world.patience()
    }

    fn clock(&self) -> Self::Runtime {
        DroppingRuntime {
            runtime: self.world.clock(),
            ..self.runtime.clone()
        }
    }

    fn tamper(runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        W::tamper(&runtime.runtime)
    }
}
