//! The handle of a pool: everything that can be asked of it, and done to it, while it runs.

use std::future::Future;
use std::sync::Arc;

use super::accept_loop;
use crate::error::{
    AddListenerError, AddListenerReason, BoxError, ChildError, CloseError, MAX_ACCEPTORS,
    ReconfigureError, Stopped,
};
use crate::id::{ChildId, ListenerId};
use crate::listener::Listener;
use crate::machine::child_end::Role;
use crate::machine::command::{CloseReason, Command};
use crate::pool::current_spec::CurrentSpec;
use crate::pool::listener_shared::{ListenerShared, LocalAddrSource, SocketGuard};
use crate::pool::shared::{PoolShared, State};
use crate::pool::snapshot::{connection_records, listener_records};
use crate::pool::spec::{Configure, Spec};
use crate::runtime::Runtime;
use crate::status::{ConnectionRecord, Counts, ListenerRecord, PoolState, Status};
use crate::stop_report::{StopReason, StopReport};
use crate::sync::catch_unwind::CatchUnwind;
use crate::sync::{Shared, catch_panic};

/// The init function of a pool (R3).
pub(crate) type Reconfigurer<L> = dyn Fn() -> Result<Configure<L>, BoxError> + Send + Sync;

/// Looks into a pool and changes it while it runs. Cheap to clone; does not keep the pool alive (S9).
///
/// No method panics (V3), blocks, or waits for children unless it says so.
pub struct PoolHandle<R: Runtime, L: Listener> {
    pub(super) shared: Arc<PoolShared<R, L>>,
    init: Option<Shared<Reconfigurer<L>>>,
}

impl<R: Runtime, L: Listener> Clone for PoolHandle<R, L> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            init: self.init.clone(),
        }
    }
}

impl<R: Runtime, L: Listener> PoolHandle<R, L> {
    pub(crate) fn new(
        shared: Arc<PoolShared<R, L>>,
        init: Option<Shared<Reconfigurer<L>>>,
    ) -> Self {
        Self { shared, init }
    }

    pub(crate) fn shared(&self) -> &Arc<PoolShared<R, L>> {
        &self.shared
    }

    /// Adds a listener, and starts `acceptors` acceptors on it (L1).
    ///
    /// # Errors
    ///
    /// Gives the listener back, with the [reason](AddListenerReason), if `acceptors` is not within
    /// 1 to [`MAX_ACCEPTORS`], if the listener cannot tell its address, or if the
    /// pool is stopping or has stopped (V2).
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// # let refused = pool.add_listener(listener, 0);
    /// # let listener = refused.expect_err("no acceptors").listener;
    /// let id = pool.add_listener(listener, 10).map_err(|error| error.to_string())?;
    /// assert_eq!(pool.listeners()?[0].id, id);
    /// assert_eq!(pool.counts()?.workers, 10);
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_listener(
        &self,
        listener: L,
        acceptors: usize,
    ) -> Result<ListenerId, AddListenerError<L>> {
        let refused = |listener, reason| Err(AddListenerError { listener, reason });
        if acceptors == 0 || acceptors > MAX_ACCEPTORS {
            return refused(listener, AddListenerReason::Acceptors { value: acceptors });
        }
        let (address, addresses) = match LocalAddrSource::of(&listener) {
            Ok(known) => known,
            Err(error) => return refused(listener, AddListenerReason::LocalAddr(error)),
        };
        let mut gate = None;
        let added = self.shared.handle_event(|state, effects| {
            let reason = match state.machine.state() {
                PoolState::Running => {
                    let socket = |id| {
                        let socket = Arc::new(ListenerShared::new(id, address, addresses));
                        gate = Some(SocketGuard::new(listener, Arc::clone(&socket)));
                        socket
                    };
                    let acceptor = &state.spec.acceptor;
                    let child = || Arc::clone(acceptor).child();
                    return Ok(state
                        .machine
                        .add_listener(socket, acceptors, child, effects));
                }
                PoolState::Stopping(_) => AddListenerReason::Stopping,
                PoolState::Stopped => AddListenerReason::Stopped,
            };
            Err((listener, reason))
        });
        if let Some(gate) = gate {
            self.shared.spawn(CatchUnwind::new(accept_loop::run(
                Arc::clone(&self.shared),
                gate,
            )));
        }
        added.or_else(|(listener, reason)| refused(listener, reason))
    }

    /// Closes a listener (L3). Its acceptors terminate, its connections live on and see *draining*.
    ///
    /// Begins when called. When the future is ready the socket is closed, and its
    /// address can be bound again; it does not wait for `terminate`.
    ///
    /// # Errors
    ///
    /// [`CloseError`] if there is no such open listener, or the pool has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the listener closes all the same.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// let id = pool.listeners()?[0].id;
    /// pool.close_listener(id).await?;
    /// assert_eq!(pool.close_listener(id).await, Err(CloseError::UnknownListener(id)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn close_listener(
        &self,
        id: ListenerId,
    ) -> impl Future<Output = Result<(), CloseError>> + Send + 'static + use<R, L> {
        let closing = self.shared.handle_event(|state, effects| {
            if state.machine.state() == PoolState::Stopped {
                return Err(CloseError::Stopped);
            }
            let closing = state.machine.close(id, CloseReason::Closed, effects);
            closing.ok_or(CloseError::UnknownListener(id))
        });
        let closed = closing.map(|socket| socket.closed.clone());
        async move {
            closed?.wait().await;
            Ok(())
        }
    }

    /// The open listeners, oldest first (Q1).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    pub fn listeners(&self) -> Result<Vec<ListenerRecord<L::Addr>>, Stopped> {
        self.running(listener_records)
    }

    /// The open connections, oldest first (Q1). Waiter acceptors are not among them.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// for connection in pool.connections()? {
    ///     println!("{connection}");
    ///     assert_eq!(connection.spec, pool.status()?.spec);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn connections(&self) -> Result<Vec<ConnectionRecord<L::Addr>>, Stopped> {
        let now = self.shared.time();
        self.running(|state| connection_records(state, now))
    }

    /// How many children there are (Q2, Q3).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// let counts = pool.counts()?;
    /// assert_eq!(counts.active, pool.connections()?.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn counts(&self) -> Result<Counts, Stopped> {
        self.running(|state| state.machine.counts())
    }

    /// The whole at one moment, as one value (Q4).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// println!("{}", pool.status()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn status(&self) -> Result<Status<L::Addr>, Stopped> {
        let now = self.shared.time();
        self.running(|state| {
            let rules = state.machine.rules();
            Status {
                spec: Arc::clone(&state.spec.id),
                state: state.machine.state(),
                counts: state.machine.counts(),
                failures: state.machine.failures(now),
                intensity: rules.intensity,
                period: rules.period,
                listeners: listener_records(state),
                connections: connection_records(state, now),
            }
        })
    }

    fn running<T>(&self, read: impl FnOnce(&State<L>) -> T) -> Result<T, Stopped> {
        self.shared.read(|state| match state.machine.state() {
            PoolState::Stopped => Err(Stopped),
            PoolState::Running | PoolState::Stopping(_) => Ok(read(state)),
        })
    }

    /// Stops one child (R4): a connection that trapped the stop is told, another is dropped
    /// at its next suspension point; an acceptor that waits terminates, one in `init` is
    /// dropped, and either is replaced. Never counts.
    ///
    /// # Errors
    ///
    /// [`ChildError`] if there is no such child, or the pool has stopped.
    pub fn stop_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.tell(id, Command::StopAlone)
    }

    /// Kills one child (R4, E4): dropped at its next suspension point, reported, and counted in a transient pool.
    ///
    /// # Errors
    ///
    /// [`ChildError`] if there is no such child, or the pool has stopped.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// if let Some(oldest) = pool.connections()?.first() {
    ///     pool.kill_child(oldest.id)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.tell(id, Command::Kill)
    }

    fn tell(&self, id: ChildId, command: Command) -> Result<(), ChildError> {
        let (child, role, socket) = self.shared.read(|state| {
            if state.machine.state() == PoolState::Stopped {
                return Err(ChildError::Stopped);
            }
            let reached = state.machine.control(id);
            reached.ok_or(ChildError::UnknownChild(id))
        })?;
        // It may be a connection by now: no command depends on what it was.
        child.control().tell(command);
        // Who waits in line has no task of its own to be woken.
        if let Some(socket) = socket.filter(|_| role == Role::Acceptor) {
            socket.line.poke();
        }
        Ok(())
    }

    /// Replaces the spec (R1). Waiter acceptors keep the acceptor they started with; later ones
    /// use the new one, which may be of another type. The history of failures, the listeners and
    /// the connections stay.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`] if the spec is not allowed (R2), or the pool is stopping or has stopped. The old spec stays then.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// pool.reconfigure(spec.intensity(100))?;
    /// assert_eq!(pool.status()?.intensity, 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reconfigure(&self, spec: Spec<L>) -> Result<(), ReconfigureError> {
        let spec = spec.checked()?;
        let rules = spec.rules;
        let present = CurrentSpec::from(spec);
        // The old spec, or the refused one, is user values: dropped after the lock is released.
        let (result, gone) = self
            .shared
            .handle_event(|state, _| match state.machine.state() {
                PoolState::Running => {
                    state.machine.reconfigure(rules);
                    (Ok(()), std::mem::replace(&mut state.spec, present))
                }
                PoolState::Stopping(_) => (Err(ReconfigureError::Stopping), present),
                PoolState::Stopped => (Err(ReconfigureError::Stopped), present),
            });
        gone.discard();
        result
    }

    /// Runs the pool's init function again (R3): a spec replaces the old one, *ignore* keeps it.
    ///
    /// Of two calls at once the one whose init function is through last decides.
    ///
    /// # Errors
    ///
    /// As [`reconfigure`](PoolHandle::reconfigure); and if the init function fails, or the pool has none. The old spec stays then.
    pub fn reload(&self) -> Result<(), ReconfigureError> {
        self.running(|_| ())
            .map_err(|Stopped| ReconfigureError::Stopped)?;
        let init = self.init.as_ref().ok_or(ReconfigureError::NoInit)?;
        match catch_panic(&**init) {
            Ok(Ok(Configure::Use(spec))) => self.reconfigure(spec),
            Ok(Ok(Configure::Ignore)) => Ok(()),
            Ok(Err(error)) => Err(ReconfigureError::Init(error)),
            Err(message) => Err(ReconfigureError::InitPanicked(message)),
        }
    }

    /// Stops the pool gracefully, by the phases of its spec, and waits for the result (section 6).
    ///
    /// Begins when called; asking twice is harmless (S1).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the pool stops all the same.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// let report = pool.stop().await;
    /// assert_eq!(report.reason, StopReason::Requested);
    /// assert_eq!(pool.counts(), Err(Stopped));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(&self) -> impl Future<Output = StopReport> + Send + 'static + use<R, L> {
        self.shared.stop(StopReason::Requested);
        self.join()
    }

    /// Kills everything at once, whatever phase the pool is in, and waits for the result.
    ///
    /// Begins when called. Ends within the spec's patience (S8), as long as the runtime has a
    /// thread that is free: code that blocks the only one holds up the pool's own task, too.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub fn kill(&self) -> impl Future<Output = StopReport> + Send + 'static + use<R, L> {
        self.shared.kill(StopReason::Requested);
        self.join()
    }

    /// Waits until the pool has stopped, for whatever reason, and returns the result (S1, I3).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// let handle = pool.handle();
    /// let stopped = handle.join();
    /// drop(pool);
    /// assert_eq!(stopped.await.reason, StopReason::OwnerDropped);
    /// # Ok(())
    /// # }
    /// ```
    pub fn join(&self) -> impl Future<Output = StopReport> + Send + 'static + use<R, L> {
        let shared = Arc::clone(&self.shared);
        async move {
            shared.done.wait().await;
            shared
                .result()
                .expect("the result is stored before the pool is done")
        }
    }
}
