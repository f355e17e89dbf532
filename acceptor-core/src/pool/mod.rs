//! The owner of a pool, which starts it, and kills it when dropped.

mod accept_loop;
pub(crate) mod capacity;
mod child_task;
mod driver;
mod exhaustion;
pub(crate) mod handle;
pub(crate) mod host;
pub(crate) mod inbox;
mod init_task;
pub(crate) mod lane;
mod lanes;
pub(crate) mod limit;
pub(crate) mod listener_shared;
pub(crate) mod reporter;
pub(crate) mod shared;
mod snapshot;
pub(crate) mod spec;
mod typed_lane;
mod wait_queue;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::acceptor::Acceptor;
use crate::error::{
    AddListenerError, BoxError, ChildError, LimitError, ReconfigureError, StartError, Stopped,
};
use crate::id::{ChildId, ListenerId};
use crate::latch::Latch;
use crate::listener::Listener;
use crate::policy::WaitingAcceptors;
use crate::pool::handle::{CloseListener, Join, PoolHandle};
use crate::pool::shared::PoolShared;
use crate::pool::spec::{ErasedSpec, Reconfigurer, erase_init};
use crate::runtime::Runtime;
use crate::settings::{ListenerSettings, Settings};
use crate::spec::{Configure, Spec};
use crate::status::{
    AcceptorRecord, ChildCounts, ConnectionRecord, Counts, ListenerRecord, PoolState, Status,
};
use crate::stop_report::{StopReason, StopReport};
use crate::sync::catch_unwind::CatchUnwind;
use crate::sync::{Shared, catch_panic, lock};

/// The owner of a running pool. Dropping it kills the pool at once, without blocking
/// ([S9](crate::guide::rules#s9)).
///
/// To stop gracefully, call [`stop`](Pool::stop) and await the result before the owner is dropped,
/// or use [`run_until`](Pool::run_until). [`handle`](Pool::handle) returns handles with the same
/// methods for other tasks.
///
/// All listeners of a pool have one type, `L`. To serve TCP and Unix sockets side by side, start
/// two pools, or write a [`Listener`] that is either.
///
/// No method panics ([V3](crate::guide::rules#v3)), blocks, or waits for children unless its
/// documentation says so.
///
/// # Examples
///
/// The examples of this crate use `Threads` and `Tcp` in place of the runtime and the listener of
/// an adapter crate, and `echo`, an acceptor that sends back all that it receives.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # use std::io::{Read, Write};
/// # use std::net::TcpStream;
/// # block_on(async {
/// let pool = Pool::start(Threads, Spec::new("echo", echo()))?;
/// let listener = Tcp::bind()?;
/// let address = listener.local_addr()?;
/// pool.add_listener(listener, 10)?;
///
/// let mut client = TcpStream::connect(address)?;
/// client.write_all(b"ping")?;
/// let mut reply = [0; 4];
/// client.read_exact(&mut reply)?;
/// assert_eq!(reply, *b"ping");
/// assert_eq!(pool.counts()?.connections, 1);
///
/// let report = pool.stop().await;
/// assert_eq!(report.reason, StopReason::Requested);
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[doc(alias = "supervisor")]
#[doc(alias = "JoinSet")]
#[doc(alias = "TaskTracker")]
#[doc(alias = "accept loop")]
#[doc(alias = "server")]
#[doc(alias = "worker pool")]
#[must_use = "dropping the owner kills the pool: bind it to a named variable, not to `_`"]
pub struct Pool<R: Runtime, L: Listener> {
    handle: PoolHandle<R, L>,
}

impl<R: Runtime, L: Listener> Pool<R, L> {
    /// Starts a pool without listeners.
    ///
    /// # Errors
    ///
    /// [`StartError::Spec`] if the spec is not allowed ([V1](crate::guide::rules#v1)),
    /// [`StartError::RuntimeGone`] if the runtime takes no more tasks. Nothing of the pool is left
    /// then.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = Pool::<_, Tcp>::start(Threads, Spec::new("echo", echo()))?;
    /// assert_eq!(pool.counts()?.acceptors, 0);
    ///
    /// let error = Pool::<_, Tcp>::start(Threads, Spec::new("", echo())).unwrap_err();
    /// assert!(matches!(error, StartError::Spec(SpecError::Id { .. })));
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn start<Acc: Acceptor<L>>(
        runtime: R,
        spec: Spec<Acc, L::Addr>,
    ) -> Result<Self, StartError> {
        Self::launch(runtime, ErasedSpec::checked(spec)?, None)
    }

    /// Starts a pool from an init function, which [`reload`](Pool::reload) runs again
    /// ([R3](crate::guide::rules#r3)).
    ///
    /// It returns `Ok(None)`, and there is no pool, if the init function returns
    /// [`Configure::Ignore`]. The function returns specs of one acceptor type. A function that only
    /// ignores has to name the type, as in `Configure::<MyAcceptor>::Ignore`.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Pool::start), and [`StartError::Init`] or [`StartError::InitPanicked`] if
    /// the init function fails.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicU32, Ordering};
    /// // Stands for a configuration file.
    /// let intensity = Arc::new(AtomicU32::new(1));
    /// let file = Arc::clone(&intensity);
    /// let init = move || {
    ///     let spec = Spec::new("echo", echo()).intensity(file.load(Ordering::Relaxed));
    ///     Ok(Configure::Use(spec))
    /// };
    /// let pool = Pool::<_, Tcp>::start_with(Threads, init)?.ok_or("disabled")?;
    ///
    /// intensity.store(7, Ordering::Relaxed);
    /// pool.reload(WaitingAcceptors::Replace)?;
    /// assert_eq!(pool.settings()?.intensity, 7);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn start_with<Acc: Acceptor<L>>(
        runtime: R,
        init: impl Fn() -> Result<Configure<Acc, L::Addr>, BoxError> + Send + Sync + 'static,
    ) -> Result<Option<Self>, StartError> {
        let init = erase_init(init);
        match catch_panic(&**init) {
            Ok(Ok(Some(spec))) => Self::launch(runtime, spec?, Some(init)).map(Some),
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(StartError::Init(error)),
            Err(message) => Err(StartError::InitPanicked(message)),
        }
    }

    fn launch(
        runtime: R,
        spec: ErasedSpec<R, L>,
        init: Option<Shared<Reconfigurer<R, L>>>,
    ) -> Result<Self, StartError> {
        let shared = PoolShared::new(runtime, spec);
        lock(&shared.state).init = init;
        let runs = || shared.read(|state| state.machine.state()) == PoolState::Running;
        shared.spawn(CatchUnwind::new(driver::run(Arc::clone(&shared))));
        // No reporter for a pool that has already ended: its task would be left behind.
        if !runs() {
            return Err(StartError::RuntimeGone);
        }
        shared.spawn(CatchUnwind::new(reporter::run(Arc::clone(&shared))));
        if !runs() {
            return Err(StartError::RuntimeGone);
        }
        Ok(Self {
            handle: PoolHandle::new(shared),
        })
    }

    /// Returns a handle, which other tasks can use. Handles do not keep the pool alive
    /// ([S9](crate::guide::rules#s9)).
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let handle = pool.handle();
    /// assert_eq!(handle.counts()?.acceptors, 10);
    /// drop(pool);
    /// assert_eq!(handle.join().await.reason, StopReason::OwnerDropped);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn handle(&self) -> PoolHandle<R, L> {
        self.handle.clone()
    }
}

/// The queries and commands of a running pool.
impl<R: Runtime, L: Listener> Pool<R, L> {
    /// Adds a listener and starts acceptors on it, on the pool's runtime
    /// ([L1](crate::guide::rules#l1)).
    ///
    /// `settings` is the number of acceptors, or [`ListenerSettings`] with a tag as well. The
    /// number does [not limit connections](ListenerSettings::acceptors).
    ///
    /// # Errors
    ///
    /// The [reason](crate::AddListenerReason), together with the listener
    /// ([V2](crate::guide::rules#v2)): the number of acceptors is not within 1 to
    /// [`MAX_ACCEPTORS`](crate::MAX_ACCEPTORS), the tag is not allowed, the listener cannot return
    /// its address, its `handshake` panics, or the pool is stopping or has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = Pool::start(Threads, Spec::new("echo", echo()))?;
    /// let id = pool.add_listener(Tcp::bind()?, 10)?;
    /// assert_eq!(pool.listeners()?[0].id, id);
    /// assert_eq!(pool.counts()?.acceptors, 10);
    ///
    /// let admin = ListenerSettings::new(1).tag("admin");
    /// pool.add_listener(Tcp::bind()?, admin)?;
    /// assert_eq!(pool.listeners()?[1].tag.as_deref(), Some("admin"));
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "listen")]
    #[doc(alias = "bind")]
    pub fn add_listener(
        &self,
        listener: L,
        settings: impl Into<ListenerSettings>,
    ) -> Result<ListenerId, AddListenerError<L>> {
        self.handle.add_listener(listener, settings)
    }

    /// Adds a listener whose acceptors and connections run on another runtime than the pool's
    /// ([B11](crate::guide::rules#b11)).
    ///
    /// The pool calls `accept` on that runtime as well, so the listener must be driven by it. With
    /// a single-threaded runtime for each core, and a listener with `SO_REUSEPORT` on each, a
    /// connection stays on the core that accepted it, and the listeners are still one pool: one
    /// count, one list, one stop. The pool's own tasks, which report, stop and space starts, stay
    /// on the pool's runtime.
    ///
    /// If that runtime ends, the listener has failed ([L4](crate::guide::rules#l4)), its
    /// connections are lost, and its acceptors are dropped without `terminate`. Each is reported,
    /// and none counts. The rest of the pool continues. A listener added on a runtime that has
    /// already ended fails in the same way: the call returns its id.
    ///
    /// A single-threaded runtime must be driven for as long as the listener is open, for example by
    /// a thread in `block_on`. If it is not, nothing is accepted there, and a stop waits for its
    /// tasks until the kill timeout is over. Deadlines follow the clock of the pool's runtime: do
    /// not mix runtimes whose clocks differ, such as a tokio runtime with paused time.
    ///
    /// # Errors
    ///
    /// Those of [`add_listener`](Self::add_listener).
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = Pool::start(Threads, Spec::new("echo", echo()))?;
    /// for runtime in [Threads, Threads] {
    ///     pool.add_listener_on(&runtime, Tcp::bind()?, 5)?;
    /// }
    /// assert_eq!(pool.counts()?.acceptors, 10);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "SO_REUSEPORT")]
    #[doc(alias = "thread per core")]
    pub fn add_listener_on(
        &self,
        runtime: &R,
        listener: L,
        settings: impl Into<ListenerSettings>,
    ) -> Result<ListenerId, AddListenerError<L>> {
        self.handle.add_listener_on(runtime, listener, settings)
    }

    /// Changes the largest number of connections of the pool ([C6](crate::guide::rules#c6)). `None`
    /// means no limit.
    ///
    /// The same as [`update`](Self::update) of
    /// [`Settings::max_connections`](crate::Settings::max_connections). If it is raised, clients
    /// that wait are served at once. If it is lowered, no connection is closed, and none is
    /// accepted until there are fewer.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update): the limit is not within 1 to
    /// [`MAX_CONNECTIONS`](crate::MAX_CONNECTIONS), or the pool is stopping or has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// pool.set_max_connections(1000)?;
    /// assert_eq!(pool.settings()?.max_connections, Some(1000));
    /// assert!(pool.set_max_connections(0).is_err());
    /// pool.set_max_connections(None)?;
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "connection limit")]
    #[doc(alias = "semaphore")]
    pub fn set_max_connections(
        &self,
        limit: impl Into<Option<usize>>,
    ) -> Result<(), ReconfigureError> {
        self.handle.set_max_connections(limit)
    }

    /// Changes the largest number of connections of one listener ([C6](crate::guide::rules#c6)), as
    /// [`set_max_connections`](Self::set_max_connections) does for the pool.
    ///
    /// # Errors
    ///
    /// [`LimitError`] if the limit is not within 1 to [`MAX_CONNECTIONS`](crate::MAX_CONNECTIONS),
    /// if there is no such listener, or if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let id = pool.listeners()?[0].id;
    /// pool.set_listener_max_connections(id, 10)?;
    /// assert_eq!(pool.listeners()?[0].max_connections, Some(10));
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn set_listener_max_connections(
        &self,
        id: ListenerId,
        limit: impl Into<Option<usize>>,
    ) -> Result<(), LimitError> {
        self.handle.set_listener_max_connections(id, limit)
    }

    /// Closes a listener. Its acceptors terminate, and its connections continue and see *draining*
    /// ([L3](crate::guide::rules#l3)).
    ///
    /// The close begins with this call. For at most a second, the listener first accepts the
    /// connections that the system has queued ([L7](crate::guide::rules#l7)). When the future
    /// completes, the socket is closed and its address can be bound again; the future does not wait
    /// for `terminate`. A second call while the listener closes waits for the same close
    /// ([L8](crate::guide::rules#l8)).
    ///
    /// # Errors
    ///
    /// [`CloseError`](crate::CloseError) if there is no such listener, if it is already closed, or
    /// if the pool has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the listener closes anyway.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let id = pool.listeners()?[0].id;
    /// pool.close_listener(id).await?;
    /// assert_eq!(pool.close_listener(id).await, Err(CloseError::UnknownListener(id)));
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "drain")]
    #[doc(alias = "shutdown")]
    pub fn close_listener(&self, id: ListenerId) -> CloseListener {
        self.handle.close_listener(id)
    }

    /// Returns the listeners whose socket is open, oldest first ([Q1](crate::guide::rules#q1)).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// assert_eq!(pool.listeners()?[0].acceptors, 10);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn listeners(&self) -> Result<Vec<ListenerRecord<L::Addr>>, Stopped> {
        self.handle.listeners()
    }

    /// Returns the acceptors, oldest first for each listener ([Q5](crate::guide::rules#q5)).
    ///
    /// The list is read in parts of at most 256 children, and the pool continues in between: each
    /// acceptor existed when it was read.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// for acceptor in pool.acceptors()? {
    ///     pool.stop_child(acceptor.id)?; // another one takes its place
    /// }
    /// assert_eq!(pool.counts()?.acceptors, 10);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn acceptors(&self) -> Result<Vec<AcceptorRecord>, Stopped> {
        self.handle.acceptors()
    }

    /// Returns the open connections, oldest first ([Q1](crate::guide::rules#q1)). Acceptors are not
    /// among them.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let client = connect(&pool)?;
    /// let connections = pool.connections()?;
    /// assert_eq!(connections.len(), 1);
    /// assert_eq!(connections[0].peer_addr, client.local_addr()?);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "which_children")]
    pub fn connections(&self) -> Result<Vec<ConnectionRecord<L::Addr>>, Stopped> {
        self.handle.connections()
    }

    /// Returns the numbers of children by kind ([Q3](crate::guide::rules#q3)).
    ///
    /// The number of each listener is exact at the moment at which it is read. Listeners are read
    /// one after the other, so the sum may contain a connection that ended on one of them and the
    /// one that took its place on another, and for a moment be above a limit of the pool.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let _client = connect(&pool)?;
    /// assert_eq!(pool.counts()?.connections, 1);
    /// assert_eq!(pool.counts()?.acceptors, 10);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn counts(&self) -> Result<Counts, Stopped> {
        self.handle.counts()
    }

    /// Returns the numbers of children in the form of Erlang's `count_children`
    /// ([Q2](crate::guide::rules#q2)).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let children = echo_pool()?.count_children()?;
    /// assert_eq!((children.specs, children.workers), (1, 10));
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "which_children")]
    pub fn count_children(&self) -> Result<ChildCounts, Stopped> {
        self.handle.count_children()
    }

    /// Returns a copy of the pool's current settings.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// assert_eq!(&*pool.settings()?.id, "echo");
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn settings(&self) -> Result<Settings<L::Addr>, Stopped> {
        self.handle.settings()
    }

    /// Returns the latch that is set once the pool begins to stop, for any reason
    /// ([S2](crate::guide::rules#s2)).
    ///
    /// With a [lame duck](Spec::lame_duck) it is set before anything else changes: a readiness
    /// endpoint that reads it turns false while clients are still served in full.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let stopping = pool.stopping();
    /// assert!(!stopping.is_set());
    /// let stopped = pool.stop();
    /// assert!(stopping.is_set());
    /// stopped.await;
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "lame duck")]
    #[doc(alias = "readiness")]
    pub fn stopping(&self) -> Latch {
        self.handle.stopping()
    }

    /// Returns the state of the whole pool as one value ([Q4](crate::guide::rules#q4)).
    ///
    /// Its parts are read one after the other, so that no lock is held for a whole list: on a busy
    /// pool the counts can differ slightly from the lists.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let status = pool.status()?;
    /// assert_eq!(status.state, PoolState::Running);
    /// assert_eq!(status.listeners.len(), 1);
    /// println!("{status}");
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn status(&self) -> Result<Status<L::Addr>, Stopped> {
        self.handle.status()
    }

    /// Stops one child ([R4](crate::guide::rules#r4)).
    ///
    /// A connection that trapped the stop is signalled; any other is dropped at its next suspension
    /// point. An acceptor that waits terminates, one in `init` is dropped, and either is replaced.
    /// Stopping a child never counts as a failure.
    ///
    /// # Errors
    ///
    /// [`ChildError`] if there is no such child, or the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let _client = connect(&pool)?;
    /// let connection = pool.connections()?[0].id;
    /// pool.stop_child(connection)?;
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "terminate_child")]
    pub fn stop_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.handle.stop_child(id)
    }

    /// Kills one child: it is dropped at its next suspension point, reported, and counted in a
    /// transient pool ([R4](crate::guide::rules#r4), [E4](crate::guide::rules#e4)).
    ///
    /// # Errors
    ///
    /// [`ChildError`] if there is no such child, or the pool has stopped.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// # use std::io::Read;
    /// let pool = echo_pool()?;
    /// let mut client = connect(&pool)?;
    /// let connection = pool.connections()?[0].id;
    /// pool.kill_child(connection)?;
    /// assert_eq!(client.read(&mut [0])?, 0); // closed
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "terminate_child")]
    #[doc(alias = "disconnect")]
    pub fn kill_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.handle.kill_child(id)
    }

    /// Replaces the spec: the acceptor and all settings ([R1](crate::guide::rules#r1)).
    ///
    /// Settings that the new spec does not set have their defaults again. To keep the current ones,
    /// start from [`settings`](Pool::settings), as below. To change only settings, use
    /// [`update`](Pool::update).
    ///
    /// Later acceptors use the new acceptor, which may be of another type; `waiting` decides about
    /// the waiting ones. The history of failures, the listeners and the connections stay.
    ///
    /// With [`Keep`](WaitingAcceptors::Keep), each acceptor that waits or is in `init` still serves
    /// one connection with the acceptor it started with.
    ///
    /// With [`Replace`](WaitingAcceptors::Replace), no connection is accepted with the old acceptor
    /// after this call has returned. Waiting acceptors [terminate](Acceptor::terminate) with
    /// [`Terminate::Replaced`](crate::Terminate::Replaced), those in `init` are dropped, and the
    /// same number of new ones starts at once. Until one of them is ready, clients wait in the
    /// system's queue. At most one client for each listener, accepted during the call, waits in the
    /// pool for the first new acceptor, and is closed if its listener closes first. During an
    /// outage of `init` ([B4](crate::guide::rules#b4)), one of the new acceptors tries. Replaced
    /// acceptors are listed and counted along with the new ones until they have terminated.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`] if the spec is not allowed ([R2](crate::guide::rules#r2)), or if the
    /// pool is stopping or has stopped. The old spec stays.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let before = pool.settings()?;
    /// let spec = Spec::from_settings(before.clone(), echo()).intensity(100);
    /// pool.reconfigure(spec, WaitingAcceptors::Replace)?;
    /// assert_eq!(pool.settings()?.grace, before.grace);
    /// assert_eq!(pool.settings()?.intensity, 100);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn reconfigure<Acc: Acceptor<L>>(
        &self,
        spec: Spec<Acc, L::Addr>,
        waiting: WaitingAcceptors,
    ) -> Result<(), ReconfigureError> {
        self.handle.reconfigure(spec, waiting)
    }

    /// Changes the settings, and keeps the acceptor ([R1](crate::guide::rules#r1)).
    ///
    /// The closure changes a copy, which replaces the settings as a whole if it is allowed. It runs
    /// outside of any lock, and **runs again** if the settings were changed meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`] if the changed settings are not allowed ([R2](crate::guide::rules#r2)),
    /// if the closure panics, or if the pool is stopping or has stopped. The old settings stay.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// pool.update(|settings| settings.intensity = 100)?;
    /// assert_eq!(pool.settings()?.intensity, 100);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn update(
        &self,
        change: impl FnMut(&mut Settings<L::Addr>),
    ) -> Result<(), ReconfigureError> {
        self.handle.update(change)
    }

    /// Runs the pool's init function again ([R3](crate::guide::rules#r3)). A spec that it returns
    /// replaces the old one, as in [`reconfigure`](Pool::reconfigure); [`Configure::Ignore`] keeps
    /// the old one.
    ///
    /// If two calls overlap, the one whose init function returns last takes effect last. See
    /// [`start_with`](Pool::start_with) for an example.
    ///
    /// # Errors
    ///
    /// Those of [`reconfigure`](Pool::reconfigure), and an error if the init function fails or the
    /// pool has none. The old spec stays.
    #[doc(alias = "SIGHUP")]
    pub fn reload(&self, waiting: WaitingAcceptors) -> Result<(), ReconfigureError> {
        self.handle.reload(waiting)
    }

    /// Stops the pool gracefully, in the phases of its spec, and waits for the result
    /// ([S1](crate::guide::rules#s1) to [S8](crate::guide::rules#s8)).
    ///
    /// The stop begins with this call. Calling it twice is harmless ([S1](crate::guide::rules#s1)).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the pool stops anyway. Keep the `Pool` itself until
    /// the stop is over, because dropping it kills the children that are left
    /// ([S9](crate::guide::rules#s9)).
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let report = pool.stop().await;
    /// assert_eq!(report.reason, StopReason::Requested);
    /// assert_eq!(pool.counts(), Err(Stopped));
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "graceful shutdown")]
    #[doc(alias = "shutdown")]
    #[doc(alias = "drain")]
    pub fn stop(&self) -> Join<R, L> {
        self.handle.stop()
    }

    /// Kills all children at once, whatever phase the pool is in, and waits for the result.
    ///
    /// The kill begins with this call. It ends within the spec's kill timeout
    /// ([S8](crate::guide::rules#s8)), provided that the runtime has a free thread: code that
    /// blocks the only thread holds up the pool's own task as well.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let _client = connect(&pool)?;
    /// let report = pool.kill().await;
    /// assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), 1);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "abort")]
    #[doc(alias = "shutdown_timeout")]
    pub fn kill(&self) -> Join<R, L> {
        self.handle.kill()
    }

    /// Waits until the pool has stopped, for any reason, and returns the result
    /// ([S1](crate::guide::rules#s1), [I3](crate::guide::rules#i3)).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// let pool = echo_pool()?;
    /// let stopped = pool.join();
    /// drop(pool);
    /// assert_eq!(stopped.await.reason, StopReason::OwnerDropped);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "wait")]
    pub fn join(&self) -> Join<R, L> {
        self.handle.join()
    }

    /// Runs the pool until the signal, or until the pool stops on its own, then stops it: for
    /// `main`.
    ///
    /// A pool stops on its own when its restart intensity is exceeded. A process that waits for the
    /// signal alone would then keep running without a server.
    ///
    /// Check [`stuck`](StopReport::stuck) before `main` returns: if it is not 0, a thread is
    /// blocked, and the process must leave with [`std::process::exit`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting. A stop that has begun continues.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// # let pool = echo_pool()?;
    /// # let ctrl_c = async {};
    /// let report = pool.run_until(ctrl_c).await;
    /// assert_eq!(report.reason, StopReason::Requested);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// To let a second signal end the stop at once, wait for it in a task that has a handle:
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
    /// # use support::*;
    /// # use acceptor_core::*;
    /// # block_on(async {
    /// # async fn ctrl_c() {}
    /// # fn spawn(task: impl Future<Output = ()> + Send + 'static) { Threads.spawn(task) }
    /// # let pool = echo_pool()?;
    /// let handle = pool.handle();
    /// let signal = async move {
    ///     ctrl_c().await;
    ///     spawn(async move {
    ///         ctrl_c().await;
    ///         handle.kill().await;
    ///     });
    /// };
    /// let report = pool.run_until(signal).await;
    /// assert_eq!(report.reason, StopReason::Requested);
    /// # Ok::<_, BoxError>(())
    /// # }).unwrap();
    /// ```
    #[doc(alias = "graceful shutdown")]
    #[doc(alias = "with_graceful_shutdown")]
    #[doc(alias = "serve")]
    #[doc(alias = "ctrl_c")]
    pub async fn run_until<F: Future>(&self, signal: F) -> StopReport<L::Addr> {
        self.handle.run_until(signal).await
    }
}

/// For functions that accept the owner or a handle.
impl<R: Runtime, L: Listener> AsRef<PoolHandle<R, L>> for Pool<R, L> {
    fn as_ref(&self) -> &PoolHandle<R, L> {
        &self.handle
    }
}

impl<R: Runtime, L: Listener> Drop for Pool<R, L> {
    fn drop(&mut self) {
        self.handle.shared().kill(StopReason::OwnerDropped);
        self.handle.shared().spawn_decoy();
    }
}

impl<R: Runtime, L: Listener> fmt::Debug for Pool<R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("handle", &self.handle)
            .finish()
    }
}
