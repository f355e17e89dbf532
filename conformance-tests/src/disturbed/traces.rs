//! A world whose runtime keeps what its tasks emit to `tracing`.
//!
//! A subscriber of its own is in place while a task is polled, and only then: it
//! sees the events of this world's pools, whatever the thread, and takes none
//! from the program's own.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use acceptor_core::{Listener, Runtime, StreamOf};
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Level, Metadata, Subscriber, span};

use crate::disturbed::{TaskId, current_task};
use crate::patience::Patience;
use crate::record::Record;
use crate::tamper::Tamper;
use crate::world::World;

/// An event of `tracing`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// When it was emitted, by the world's clock.
    pub at: Instant,
    /// The task that emitted it, in a world that knows.
    pub task: Option<TaskId>,
    /// Its level.
    pub level: Level,
    /// Its fields, in words.
    pub fields: BTreeMap<String, String>,
}

impl Traced {
    /// One of its fields, in words; of text the text itself.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// One of its fields, if it is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

/// The target of the pool's events.
const TARGET: &str = "acceptor_pool";

struct Keeper<R> {
    runtime: R,
    traced: Record<Traced>,
}

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<R: Runtime> Subscriber for Keeper<R> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.traced.push(Traced {
            at: self.runtime.now(),
            task: current_task(),
            level: *event.metadata().level(),
            fields: fields.0,
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A runtime that keeps what its tasks emit to `tracing`; all else is that of another.
#[derive(Debug, Clone)]
pub struct TracedRuntime<R> {
    runtime: R,
    dispatch: Dispatch,
}

impl<R: Runtime> Runtime for TracedRuntime<R> {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let dispatch = self.dispatch.clone();
        self.runtime.spawn(async move {
            let mut task = Box::pin(task);
            poll_fn(|cx| tracing::dispatcher::with_default(&dispatch, || task.as_mut().poll(cx)))
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

/// A world whose runtime keeps what its tasks emit to `tracing`.
pub struct TracedTasks<W: World> {
    world: Arc<W>,
    runtime: TracedRuntime<W::Runtime>,
    traced: Record<Traced>,
}

impl<W: World> TracedTasks<W> {
    /// The same world, with a runtime that keeps what its tasks emit.
    pub fn new(world: &Arc<W>) -> Arc<Self> {
        let traced = Record::default();
        let keeper = Keeper {
            runtime: world.clock(),
            traced: traced.clone(),
        };
        Arc::new(Self {
            world: Arc::clone(world),
            runtime: TracedRuntime {
                runtime: world.runtime(),
                dispatch: Dispatch::new(keeper),
            },
            traced,
        })
    }

    /// Another value of the runtime, whose tasks' events are kept as well.
    pub(super) fn traced_runtime(&self, runtime: W::Runtime) -> TracedRuntime<W::Runtime> {
        TracedRuntime {
            runtime,
            dispatch: self.runtime.dispatch.clone(),
        }
    }

    /// The events so far.
    pub fn traced(&self) -> Vec<Traced> {
        let mut traced = self.traced.all();
        let tamper = W::tamper(&self.world.runtime());
        if let Some(edit) = tamper.as_ref().and_then(|tamper| tamper.traces.as_ref()) {
            edit(&mut traced);
        }
        traced
    }
}

impl<W: World> fmt::Debug for TracedTasks<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracedTasks").finish_non_exhaustive()
    }
}

impl<W: World> World for TracedTasks<W> {
    type Runtime = TracedRuntime<W::Runtime>;
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
        TracedRuntime {
            runtime: self.world.clock(),
            dispatch: Dispatch::none(),
        }
    }

    fn tamper(runtime: &Self::Runtime) -> Option<Arc<Tamper>> {
        W::tamper(&runtime.runtime)
    }
}
