//! The handle of a pool: everything that can be asked of it, and done to it, while it runs.

use std::future::Future;
use std::sync::Arc;

use crate::error::{
    AddListenerError, AddListenerReason, ChildError, CloseError, MAX_ACCEPTORS, ReconfigureError,
    Stopped,
};
use crate::id::{ChildId, ListenerId};
use crate::listener::Listener;
use crate::machine::command::Command;
use crate::pool::accept_loop;
use crate::pool::current_spec::CurrentSpec;
use crate::pool::listener_shared::{ListenerShared, LocalAddrSource};
use crate::pool::shared::{PoolShared, State};
use crate::pool::snapshot;
use crate::pool::spec::{Configure, Spec};
use crate::runtime::Runtime;
use crate::status::{
    AcceptorRecord, AcceptorState, ConnectionRecord, Counts, ListenerRecord, PoolState, Status,
};
use crate::stop_report::{StopReason, StopReport};
use crate::sync::catch_unwind::CatchUnwind;
use crate::sync::{catch_panic, lock};

/// Looks into a pool and changes it while it runs. Cheap to clone; does not keep the pool alive (S9).
///
/// No method panics (V3), blocks, or waits for children unless it says so.
pub struct PoolHandle<R: Runtime, L: Listener> {
    pub(super) shared: Arc<PoolShared<R, L>>,
}

impl<R: Runtime, L: Listener> Clone for PoolHandle<R, L> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<R: Runtime, L: Listener> PoolHandle<R, L> {
    pub(crate) fn new(shared: Arc<PoolShared<R, L>>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<PoolShared<R, L>> {
        &self.shared
    }

    /// Adds a listener, and starts `acceptors` acceptors on it (L1).
    ///
    /// # Errors
    ///
    /// Gives the listener back, with the [reason](AddListenerReason), if `acceptors` is not within
    /// 1 to [`MAX_ACCEPTORS`], if the listener cannot return its address, or if the
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
        let addresses = match LocalAddrSource::of(&listener) {
            Ok(known) => known,
            Err(error) => return refused(listener, AddListenerReason::LocalAddr(error)),
        };
        let added = self.shared.handle_event(|state, _| {
            let reason = match state.machine.state() {
                PoolState::Running => {
                    let (factory, reports) = (
                        state.spec.factory.clone(),
                        state.machine.rules().connection_reports,
                    );
                    let mut added = None;
                    state.machine.add_listener(|id| {
                        let listener = Arc::new(ListenerShared::new(
                            id, addresses, acceptors, factory, reports,
                        ));
                        added = Some(Arc::clone(&listener));
                        listener
                    });
                    return added.ok_or(AddListenerReason::Stopped);
                }
                PoolState::Stopping(_) => AddListenerReason::Stopping,
                PoolState::Stopped => AddListenerReason::Stopped,
            };
            Err(reason)
        });
        match added {
            Ok(added) => {
                let id = added.id;
                let accepts = accept_loop::run(Arc::clone(&self.shared), added, listener);
                self.shared.spawn(CatchUnwind::new(accepts));
                self.shared.spawn_decoy();
                Ok(id)
            }
            Err(reason) => refused(listener, reason),
        }
    }

    /// Closes a listener (L3). Its acceptors terminate, its connections go on and see *draining*.
    ///
    /// Begins when called. First the connections are accepted that the system has queued, for at most a second (L7).
    /// When the future is ready the socket is closed, and its address can be bound again; it does not wait for
    /// `terminate`. A second call while the listener closes waits for the same close (L8).
    ///
    /// # Errors
    ///
    /// [`CloseError`] if there is no such listener, or it is closed, or the pool has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the listener closes anyway.
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
            let closing = state.machine.close(id, effects);
            closing.ok_or(CloseError::UnknownListener(id))
        });
        if closing.is_ok() {
            self.shared.spawn_decoy();
        }
        let closed = closing.map(|listener| listener.closed.clone());
        async move {
            closed?.wait().await;
            Ok(())
        }
    }

    /// The listeners whose socket is open, oldest first (Q1).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the pool has stopped.
    pub fn listeners(&self) -> Result<Vec<ListenerRecord<L::Addr>>, Stopped> {
        self.running(|_| ())?;
        Ok(snapshot::listeners(&self.shared))
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
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// let waiting = |acceptor: &AcceptorRecord| acceptor.state == AcceptorState::Waiting;
    /// if let Some(acceptor) = pool.acceptors()?.into_iter().find(waiting) {
    ///     pool.stop_child(acceptor.id)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn acceptors(&self) -> Result<Vec<AcceptorRecord>, Stopped> {
        self.running(|_| ())?;
        Ok(snapshot::acceptors(&self.shared))
    }

    /// The open connections, oldest first (Q1). Waiting acceptors are not among them.
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
        self.running(|_| ())?;
        Ok(snapshot::connections(&self.shared))
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
        self.running(|_| ())?;
        Ok(snapshot::counts(&self.shared))
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
    /// # async fn check<R: Runtime, L: Listener>(pool: Pool<R, L>, listener: L, spec: Spec<L>) -> Result<(), BoxError> {
    /// println!("{}", pool.status()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn status(&self) -> Result<Status<L::Addr>, Stopped> {
        let now = self.shared.time();
        let (spec, state, failures, rules) = self.running(|state| {
            let failures = state.machine.failures(now);
            let spec = Arc::clone(&state.spec.id);
            (
                spec,
                state.machine.state(),
                failures,
                *state.machine.rules(),
            )
        })?;
        Ok(Status {
            spec,
            state,
            counts: snapshot::counts(&self.shared),
            failures,
            intensity: rules.intensity,
            period: rules.period,
            listeners: snapshot::listeners(&self.shared),
            connections: snapshot::connections(&self.shared),
        })
    }

    fn running<T>(&self, read: impl FnOnce(&State<L>) -> T) -> Result<T, Stopped> {
        self.shared.read(|state| match state.machine.state() {
            PoolState::Stopped => Err(Stopped),
            PoolState::Running | PoolState::Stopping(_) => Ok(read(state)),
        })
    }

    /// Stops one child (R4): a connection that trapped the stop is signalled, another is dropped
    /// at its next suspension point; an acceptor that waits terminates, one in `init` is
    /// dropped, and either is replaced. Never counts.
    ///
    /// # Errors
    ///
    /// [`ChildError`] if there is no such child, or the pool has stopped.
    pub fn stop_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.send(id, Command::StopAlone)
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
        self.send(id, Command::Kill)
    }

    fn send(&self, id: ChildId, command: Command) -> Result<(), ChildError> {
        let listener = self.shared.read(|state| {
            if state.machine.state() == PoolState::Stopped {
                return Err(ChildError::Stopped);
            }
            let known = state.machine.listener(id.listener_id());
            let listening = known.ok_or(ChildError::UnknownChild(id))?;
            Ok(Arc::clone(&listening.listener))
        })?;
        let find = || lock(&listener.children).table.control(id);
        let (mut child, _) = find().ok_or(ChildError::UnknownChild(id))?;
        loop {
            // It may be a connection by now: no command depends on what it was.
            child.control().send(command);
            // Looked at after the command was stored: an acceptor that begins to wait later finds it by itself.
            let Some((found, acceptor)) = find() else {
                break;
            };
            let renewed = !Arc::ptr_eq(&child, &found);
            child = found;
            match acceptor {
                // Started meanwhile, and made anew for it: the command is given again.
                _ if renewed => continue,
                // An acceptor that waits has no task of its own to be woken, and one that is spaced has none at all.
                Some(AcceptorState::Waiting) => listener.inbox.commanded(),
                Some(AcceptorState::Spaced) if !self.shared.end_spaced(&listener, id) => continue,
                _ => {}
            }
            break;
        }
        self.shared.spawn_decoy();
        Ok(())
    }

    /// Replaces the spec (R1). Waiting acceptors keep the acceptor they started with; later ones
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
        let (result, _gone) = self.shared.handle_event(|state, _| {
            let refused = match state.machine.state() {
                PoolState::Running => None,
                PoolState::Stopping(_) => Some(ReconfigureError::Stopping),
                PoolState::Stopped => Some(ReconfigureError::Stopped),
            };
            if let Some(refused) = refused {
                return (Err(refused), (present, Vec::new()));
            }
            state.machine.reconfigure(rules);
            let listeners = state.machine.listeners();
            let factories = listeners.map(|(_, listening)| {
                let (factory, reports) = (present.factory.clone(), rules.connection_reports);
                listening.listener.reconfigure(factory, reports)
            });
            let factories = factories.collect();
            let before = std::mem::replace(&mut state.spec, present);
            (Ok(()), (before, factories))
        });
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
        let init = self.running(|state| state.init.clone());
        let init = init.map_err(|Stopped| ReconfigureError::Stopped)?;
        let init = init.ok_or(ReconfigureError::NoInit)?;
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
    /// Dropping the future only stops waiting: the pool stops in any case.
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
        self.shared.spawn_decoy();
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
        self.shared.spawn_decoy();
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
