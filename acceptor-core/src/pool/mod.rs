//! The owner of a pool: starts it, and kills it when dropped.

mod accept_loop;
mod child_task;
mod current_spec;
mod driver;
mod exhaustion;
pub(crate) mod handle;
pub(crate) mod inbox;
mod init_task;
pub(crate) mod listener_shared;
pub(crate) mod reporter;
pub(crate) mod shared;
mod snapshot;
pub(crate) mod spec;
mod wait_queue;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::{BoxError, StartError};
use crate::listener::Listener;
use crate::pool::handle::PoolHandle;
use crate::pool::shared::PoolShared;
use crate::pool::spec::{Configure, Reconfigurer, Spec};
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::stop_report::StopReason;
use crate::sync::catch_unwind::CatchUnwind;
use crate::sync::{Shared, catch_panic, lock};

/// Owns a running pool. Dropping it kills everything at once and does not block (S9).
///
/// All calls are those of [`PoolHandle`], to which it dereferences.
///
/// To stop gracefully, call [`stop`](PoolHandle::stop) and await what it returns before the owner is dropped.
#[must_use = "dropping the owner kills the pool"]
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
    /// # fn check<R: Runtime, L: Listener>(runtime: R, spec: Spec<L>) -> Result<(), BoxError> {
    /// let pool = Pool::start(runtime, spec)?;
    /// assert_eq!(pool.counts()?.workers, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(runtime: R, spec: Spec<L>) -> Result<Self, StartError> {
        Self::launch(runtime, spec, None)
    }

    /// Starts a pool from an init function, which [`reload`](PoolHandle::reload) runs again (R3).
    ///
    /// `Ok(None)` if it answers *ignore*: there is no pool then.
    ///
    /// # Errors
    ///
    /// As [`start`](Pool::start); [`StartError::Init`] and [`StartError::InitPanicked`] if the init function fails.
    ///
    /// ```
    /// # use acceptor_core::*;
    /// # fn check<R: Runtime, L: Listener>(runtime: R, read_settings: fn() -> Result<Spec<L>, BoxError>) -> Result<(), BoxError> {
    /// let pool = Pool::start_with(runtime, move || Ok(Configure::Use(read_settings()?)))?;
    /// let pool = pool.ok_or("the settings say that there is to be no pool")?;
    /// // The settings have changed:
    /// pool.reload()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_with(
        runtime: R,
        init: impl Fn() -> Result<Configure<L>, BoxError> + Send + Sync + 'static,
    ) -> Result<Option<Self>, StartError> {
        let init: Shared<Reconfigurer<L>> = Shared::new(Arc::new(init));
        match catch_panic(&**init) {
            Ok(Ok(Configure::Use(spec))) => Self::launch(runtime, spec, Some(init)).map(Some),
            Ok(Ok(Configure::Ignore)) => Ok(None),
            Ok(Err(error)) => Err(StartError::Init(error)),
            Err(message) => Err(StartError::InitPanicked(message)),
        }
    }

    fn launch(
        runtime: R,
        spec: Spec<L>,
        init: Option<Shared<Reconfigurer<L>>>,
    ) -> Result<Self, StartError> {
        let shared = PoolShared::new(runtime, spec.checked()?);
        lock(&shared.state).init = init;
        let runs = || shared.read(|state| state.machine.state()) == PoolState::Running;
        shared.spawn(CatchUnwind::new(driver::run(Arc::clone(&shared))));
        // No reporter for a pool that has ended already: its task would be left behind.
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

impl<R: Runtime, L: Listener> Deref for Pool<R, L> {
    type Target = PoolHandle<R, L>;

    fn deref(&self) -> &Self::Target {
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
