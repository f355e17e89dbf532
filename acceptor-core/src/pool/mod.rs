//! The owner of a pool: starts it, and kills it when dropped.

mod accept_loop;
mod child_task;
mod driver;
mod exhaustion;
pub(crate) mod handle;
pub(crate) mod host;
pub(crate) mod inbox;
mod init_task;
pub(crate) mod lane;
mod lanes;
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
use crate::error::{AddListenerError, BoxError, ChildError, ReconfigureError, StartError, Stopped};
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

/// Owns a running pool. Dropping it kills everything at once and does not block (S9).
///
/// All its listeners are of one type, `L`. For TCP and Unix sockets side by side start two pools, or write a
/// [`Listener`] that is either.
///
/// To stop gracefully, call [`stop`](Pool::stop) and await what it returns before the owner is dropped, or let
/// [`run_until`](Pool::run_until) do so. [`handle`](Pool::handle) gives handles with the same methods to other tasks.
///
/// No method panics (V3), blocks, or waits for children unless it says so.
#[must_use = "dropping the owner kills the pool: keep it in a variable with a name, not in `_`"]
pub struct Pool<R: Runtime, L: Listener> {
    handle: PoolHandle<R, L>,
}

impl<R: Runtime, L: Listener> Pool<R, L> {
    /// Starts a pool with no listeners yet.
    ///
    /// # Errors
    ///
    /// [`StartError::Spec`] if the spec is not allowed (V1), [`StartError::RuntimeGone`] if the
    /// runtime takes no more tasks. Nothing is left of it then.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(runtime: R, echo: impl Acceptor<L>) -> Result<(), BoxError> {
    /// let pool = Pool::start(runtime, Spec::new("echo", echo))?;
    /// assert_eq!(pool.counts()?.acceptors, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn start<Acc: Acceptor<L>>(
        runtime: R,
        spec: Spec<Acc, L::Addr>,
    ) -> Result<Self, StartError> {
        Self::launch(runtime, ErasedSpec::checked(spec)?, None)
    }

    /// Starts a pool from an init function, which [`reload`](Pool::reload) runs again (R3).
    ///
    /// `Ok(None)` if it returns *ignore*: there is no pool then. The function returns specs of one acceptor type; one that
    /// only ignores has to name it, `Configure::<MyAcceptor>::Ignore`.
    ///
    /// # Errors
    ///
    /// As [`start`](Pool::start); [`StartError::Init`] and [`StartError::InitPanicked`] if the init function fails.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener, A: Acceptor<L>>(
    /// #     runtime: R,
    /// #     read_settings: fn() -> Result<Spec<A, L::Addr>, BoxError>,
    /// # ) -> Result<(), BoxError> {
    /// let pool = Pool::<R, L>::start_with(runtime, move || Ok(Configure::Use(read_settings()?)))?;
    /// let pool = pool.ok_or("the settings say that there is to be no pool")?;
    /// // The settings have changed:
    /// pool.reload(WaitingAcceptors::Replace)?;
    /// # Ok(())
    /// # }
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

    /// A handle to pass around. Handles do not keep the pool alive (S9).
    pub fn handle(&self) -> PoolHandle<R, L> {
        self.handle.clone()
    }
}

/// The queries and commands of a running pool.
impl<R: Runtime, L: Listener> Pool<R, L> {
    /// Adds a listener, and starts acceptors on it (L1).
    ///
    /// `settings` is the number of acceptors, or [`ListenerSettings`] with a tag as well. The number is
    /// [no limit on connections](ListenerSettings::acceptors).
    ///
    /// Its acceptors and connections run on the pool's runtime.
    ///
    /// # Errors
    ///
    /// Gives the listener back, with the [reason](crate::AddListenerReason), if the number of acceptors is not within
    /// 1 to [`MAX_ACCEPTORS`](crate::MAX_ACCEPTORS), if the tag is not allowed, if the listener cannot return its address,
    /// if its `handshake` panics, or if the pool is stopping or has stopped (V2).
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, other: L) -> Result<(), BoxError> {
    /// # let refused = pool.add_listener(listener, 0);
    /// # let listener = refused.expect_err("no acceptors").listener;
    /// let id = pool.add_listener(listener, 10).map_err(|error| error.to_string())?;
    /// assert_eq!(pool.listeners()?[0].id, id);
    /// assert_eq!(pool.counts()?.acceptors, 10);
    ///
    /// let admin = ListenerSettings::new(1).tag("admin");
    /// pool.add_listener(other, admin).map_err(|error| error.to_string())?;
    /// assert_eq!(pool.listeners()?[1].tag.as_deref(), Some("admin"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_listener(
        &self,
        listener: L,
        settings: impl Into<ListenerSettings>,
    ) -> Result<ListenerId, AddListenerError<L>> {
        self.handle.add_listener(listener, settings)
    }

    /// Adds a listener whose acceptors and connections run on another runtime than the pool's.
    ///
    /// `accept` is called there as well, so the listener is to be driven by that runtime. With a runtime of one thread for
    /// each core, and a listener with `SO_REUSEPORT` on each, a connection stays on the core that accepted it, and the
    /// listeners are still one pool: one count, one list, one stop. The pool's own tasks, which report, stop and space
    /// starts, stay on the pool's runtime.
    ///
    /// If that runtime ends, the listener has failed (L4), its connections are lost, and its acceptors are dropped without
    /// `terminate`; each is reported, and none counts. The rest of the pool goes on. A listener that is added on a runtime that
    /// has ended already fails in the same way: the call returns its id.
    ///
    /// A runtime of one thread has to be driven for as long as the listener is open: by a thread that waits in `block_on`,
    /// for example. Nothing is accepted where nobody drives it, and a stop waits for its tasks until the kill timeout is over.
    /// Deadlines are reckoned by the clock of the pool's runtime: do not mix runtimes whose clocks differ, such as one of
    /// tokio's with paused time.
    ///
    /// # Errors
    ///
    /// Those of [`add_listener`](Self::add_listener).
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, cores: Vec<(R, L)>) -> Result<(), BoxError> {
    /// for (runtime, listener) in cores {
    ///     pool.add_listener_on(&runtime, listener, 10).map_err(|error| error.to_string())?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_listener_on(
        &self,
        runtime: &R,
        listener: L,
        settings: impl Into<ListenerSettings>,
    ) -> Result<ListenerId, AddListenerError<L>> {
        self.handle.add_listener_on(runtime, listener, settings)
    }

    /// Closes a listener (L3). Its acceptors terminate, its connections go on and see *draining*.
    ///
    /// Begins when called. First the connections are accepted that the system has queued, for at most a second (L7).
    /// When the future is ready the socket is closed, and its address can be bound again; it does not wait for
    /// `terminate`. A second call while the listener closes waits for the same close (L8).
    ///
    /// # Errors
    ///
    /// [`CloseError`](crate::CloseError) if there is no such listener, or it is closed, or the pool has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the listener closes anyway.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// let id = pool.listeners()?[0].id;
    /// pool.close_listener(id).await?;
    /// assert_eq!(pool.close_listener(id).await, Err(CloseError::UnknownListener(id)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn close_listener(&self, id: ListenerId) -> CloseListener {
        self.handle.close_listener(id)
    }

    /// The listeners whose socket is open, oldest first (Q1).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    pub fn listeners(&self) -> Result<Vec<ListenerRecord<L::Addr>>, Stopped> {
        self.handle.listeners()
    }

    /// The acceptors, oldest first for each listener (Q5).
    ///
    /// The list is taken in parts of at most 256 children, between which the pool goes on: each acceptor was there when it
    /// was read.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// let waiting = |acceptor: &AcceptorRecord| acceptor.state == AcceptorState::Waiting;
    /// if let Some(acceptor) = pool.acceptors()?.into_iter().find(waiting) {
    ///     pool.stop_child(acceptor.id)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn acceptors(&self) -> Result<Vec<AcceptorRecord>, Stopped> {
        self.handle.acceptors()
    }

    /// The open connections, oldest first (Q1). Waiting acceptors are not among them.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// for connection in pool.connections()? {
    ///     println!("{connection}");
    ///     assert_eq!(connection.spec, pool.status()?.spec);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn connections(&self) -> Result<Vec<ConnectionRecord<L::Addr>>, Stopped> {
        self.handle.connections()
    }

    /// How many children there are, by what they are (Q3).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// let counts = pool.counts()?;
    /// assert_eq!(counts.connections, pool.connections()?.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn counts(&self) -> Result<Counts, Stopped> {
        self.handle.counts()
    }

    /// How many children there are, in the four numbers that Erlang's `acceptor_pool` has (Q2).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>) -> Result<(), BoxError> {
    /// let children = pool.count_children()?;
    /// assert_eq!((children.specs, children.supervisors), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "which_children")]
    pub fn count_children(&self) -> Result<ChildCounts, Stopped> {
        self.handle.count_children()
    }

    /// The settings that the pool has at the moment.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    pub fn settings(&self) -> Result<Settings<L::Addr>, Stopped> {
        self.handle.settings()
    }

    /// Is set once the pool begins to stop, for whatever reason (S2).
    ///
    /// With a [lame duck](Spec::lame_duck) that is before anything else changes: a readiness endpoint that looks at it turns
    /// false while clients are still served in full.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>) {
    /// let stopping = pool.stopping();
    /// assert!(!stopping.is_set());
    /// let stopped = pool.stop();
    /// assert!(stopping.is_set());
    /// # stopped.await;
    /// # }
    /// ```
    #[doc(alias = "readiness")]
    pub fn stopping(&self) -> Latch {
        self.handle.stopping()
    }

    /// The whole pool as one value (Q4).
    ///
    /// Its parts are read one after the other, so that no lock is held for a whole list: on a busy pool the counts can
    /// differ by a few from the lists.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// println!("{}", pool.status()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn status(&self) -> Result<Status<L::Addr>, Stopped> {
        self.handle.status()
    }

    /// Stops one child (R4): a connection that trapped the stop is signalled, another is dropped
    /// at its next suspension point; an acceptor that waits terminates, one in `init` is
    /// dropped, and either is replaced. Never counts.
    ///
    /// # Errors
    ///
    /// [`ChildError`] if there is no such child, or the pool has stopped.
    pub fn stop_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.handle.stop_child(id)
    }

    /// Kills one child (R4, E4): dropped at its next suspension point, reported, and counted in a transient pool.
    ///
    /// # Errors
    ///
    /// [`ChildError`] if there is no such child, or the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// if let Some(oldest) = pool.connections()?.first() {
    ///     pool.kill_child(oldest.id)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.handle.kill_child(id)
    }

    /// Replaces the spec (R1), the settings as a whole: those that the new spec does not set have their defaults again. To keep
    /// them, start from [`settings`](Pool::settings), as below; to change some of them alone, [`update`](Pool::update).
    ///
    /// Later acceptors use the new acceptor, which may be of another type; `waiting` says what those do that wait. The history
    /// of failures, the listeners and the connections stay.
    ///
    /// With [`Keep`](WaitingAcceptors::Keep) each acceptor that waits, or is in `init`, still serves one connection with
    /// what it started with.
    ///
    /// With [`Replace`](WaitingAcceptors::Replace) no connection is accepted with the old acceptor after this call has
    /// returned: those that wait [terminate](Acceptor::terminate) with [`Terminate::Replaced`](crate::Terminate::Replaced),
    /// those in `init` are dropped, and as many new ones start at once. Until one of them is ready, clients wait in the
    /// system's queue. At most one client for each listener, accepted while the call was made, waits in the pool for the
    /// first new acceptor, and is closed if its listener closes before. During an outage of `init` (B4) one of the new
    /// acceptors tries. Those that are replaced are listed and counted beside the new ones until they have terminated.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`] if the spec is not allowed (R2), or the pool is stopping or has stopped. The old spec stays then.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, echo: impl Acceptor<L>) -> Result<(), BoxError> {
    /// let before = pool.settings()?;
    /// let spec = Spec::from_settings(before.clone(), echo).intensity(100);
    /// pool.reconfigure(spec, WaitingAcceptors::Replace)?;
    /// assert_eq!(pool.settings()?.grace, before.grace);
    /// assert_eq!(pool.settings()?.intensity, 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reconfigure<Acc: Acceptor<L>>(
        &self,
        spec: Spec<Acc, L::Addr>,
        waiting: WaitingAcceptors,
    ) -> Result<(), ReconfigureError> {
        self.handle.reconfigure(spec, waiting)
    }

    /// Changes the settings, and nothing else (R1).
    ///
    /// The closure gets a copy, which replaces the settings as a whole if it is allowed. It runs outside of any lock, and
    /// **again** if the settings were changed meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`] if the changed settings are not allowed (R2), if the closure panics, or if the pool is stopping
    /// or has stopped. The old settings stay then.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>) -> Result<(), BoxError> {
    /// pool.update(|settings| settings.intensity *= 2)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn update(
        &self,
        change: impl FnMut(&mut Settings<L::Addr>),
    ) -> Result<(), ReconfigureError> {
        self.handle.update(change)
    }

    /// Runs the pool's init function again (R3): a spec replaces the old one, as in [`reconfigure`](Pool::reconfigure),
    /// *ignore* keeps it.
    ///
    /// Of two calls at once the one whose init function is through last decides.
    ///
    /// # Errors
    ///
    /// As [`reconfigure`](Pool::reconfigure); and if the init function fails, or the pool has none. The old spec stays then.
    pub fn reload(&self, waiting: WaitingAcceptors) -> Result<(), ReconfigureError> {
        self.handle.reload(waiting)
    }

    /// Stops the pool gracefully, by the phases of its spec, and waits for the result (section 6).
    ///
    /// Begins when called; asking twice is harmless (S1).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the pool stops in any case. Keep the `Pool` itself until the stop is over, to drop
    /// it kills what is left (S9).
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// let report = pool.stop().await;
    /// assert_eq!(report.reason, StopReason::Requested);
    /// assert_eq!(pool.counts(), Err(Stopped));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(&self) -> Join<R, L> {
        self.handle.stop()
    }

    /// Kills everything at once, whatever phase the pool is in, and waits for the result.
    ///
    /// Begins when called. Ends within the spec's kill timeout (S8), as long as the runtime has a
    /// thread that is free: code that blocks the only one holds up the pool's own task, too.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub fn kill(&self) -> Join<R, L> {
        self.handle.kill()
    }

    /// Waits until the pool has stopped, for whatever reason, and returns the result (S1, I3).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L) -> Result<(), BoxError> {
    /// let handle = pool.handle();
    /// let stopped = handle.join();
    /// drop(pool);
    /// assert_eq!(stopped.await.reason, StopReason::OwnerDropped);
    /// # Ok(())
    /// # }
    /// ```
    pub fn join(&self) -> Join<R, L> {
        self.handle.join()
    }

    /// Waits for the signal or the end of the pool, whichever is first, then stops the pool: what `main` wants.
    ///
    /// A pool stops by itself when its restart intensity is exceeded. Where the process waits for a signal alone it would
    /// go on without a server.
    ///
    /// Look at [`stuck`](StopReport::stuck) before `main` returns: if a thread is blocked, leave by [`std::process::exit`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting. A stop that has begun goes on.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>) {
    /// let report = pool.run_until(async { /* Ctrl-C */ }).await;
    /// assert_eq!(report.reason, StopReason::Requested);
    /// # }
    /// ```
    ///
    /// A second signal that ends the stop at once: wait for it in a task that has a handle.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn ctrl_c() {}
    /// # fn spawn(_: impl Future<Output = ()>) {}
    /// # use std::future::Future;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>) {
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
    /// # }
    /// ```
    #[doc(alias = "ctrl_c")]
    pub async fn run_until<F: Future>(&self, signal: F) -> StopReport<L::Addr> {
        self.handle.run_until(signal).await
    }
}

/// For functions that take the owner or a handle.
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
