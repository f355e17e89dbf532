//! The pool and its handle as rules use them: the core's own, which a deliberately wrong world can tamper with.

use std::fmt;
use std::future::{Future, pending};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{
    Acceptor, AcceptorRecord, AddListenerError, BoxError, ChildCounts, ChildError, ChildId,
    CloseError, Configure, ConnectionRecord, Counts, Latch, LimitError, ListenerId, ListenerRecord,
    ListenerSettings, PoolHandle, ReconfigureError, Spec, StartError, Status, StopReport, Stopped,
    WaitingAcceptors,
};

use crate::address::Address;
use crate::boxed::{Boxed, Erased};
use crate::tamper::{Conduct, Edit, Tamper, Verb};

/// A handle of a pool in a world, with the methods of [`PoolHandle`].
pub struct Handle<W: Erased = Boxed> {
    handle: PoolHandle<W::Runtime, W::Listener>,
    tamper: Option<Arc<Tamper>>,
    /// The runtime on which listeners are added, if it differs from the pool's.
    listeners: Option<W::Runtime>,
}

impl<W: Erased> Clone for Handle<W> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            tamper: self.tamper.clone(),
            listeners: self.listeners.clone(),
        }
    }
}

impl<W: Erased> fmt::Debug for Handle<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

/// See [`PoolHandle`].
#[allow(missing_docs, clippy::missing_errors_doc)]
impl<W: Erased> Handle<W> {
    fn conduct(&self, verb: Verb) -> Option<Conduct> {
        self.tamper.as_ref()?.conduct(verb)
    }

    fn answer<E: fmt::Display>(
        &self,
        verb: Verb,
        call: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        match self.conduct(verb) {
            Some(Conduct::Ignored) => Ok(()),
            Some(Conduct::Twice) => {
                let _ = call();
                call()
            }
            Some(conduct) => settled(Some(conduct), call()),
            None => call(),
        }
    }

    fn shown<T>(
        &self,
        edit: impl FnOnce(&Tamper) -> Option<&Edit<T>>,
        value: Result<T, Stopped>,
    ) -> Result<T, Stopped> {
        let Some(tamper) = &self.tamper else {
            return value;
        };
        if let (Some(Conduct::Panics), Err(error)) = (tamper.conduct(Verb::Look), &value) {
            panic!("{error}");
        }
        let mut value = value?;
        if let Some(edit) = edit(tamper) {
            edit(&mut value);
        }
        Ok(value)
    }

    /// Hides that the pool has stopped from a call of this kind, if its flaw is to do so.
    fn hidden<T: Default>(&self, verb: Verb, value: Result<T, Stopped>) -> Result<T, Stopped> {
        match (&value, self.conduct(verb)) {
            (Err(_), Some(Conduct::Forgiven)) => Ok(T::default()),
            _ => value,
        }
    }

    fn result(
        &self,
        verb: Verb,
    ) -> impl Future<Output = StopReport<Address>> + Send + 'static + use<W> {
        let tamper = self.tamper.clone();
        let report = self.handle.join();
        async move {
            let mut report = report.await;
            if let Some(tamper) = &tamper {
                if tamper.conduct(verb) == Some(Conduct::Hangs) {
                    pending::<()>().await;
                }
                if let Some(edit) = &tamper.result {
                    edit(&mut report);
                }
            }
            report
        }
    }

    pub fn add_listener(
        &self,
        listener: W::Listener,
        settings: impl Into<ListenerSettings>,
    ) -> Result<ListenerId, AddListenerError<W::Listener>> {
        let mut settings = settings.into();
        if let Some(tamper) = &self.tamper {
            tamper.listener(&mut settings);
        }
        let added = match &self.listeners {
            Some(runtime) => self.handle.add_listener_on(runtime, listener, settings),
            None => self.handle.add_listener(listener, settings),
        };
        let conduct = self.conduct(Verb::AddListener);
        if conduct == Some(Conduct::Forgiven) {
            return added.or_else(|_| Ok("1".parse().expect("1 is a listener's number")));
        }
        settled_or_error(conduct, added)
    }

    pub fn add_listener_on(
        &self,
        runtime: &W::Runtime,
        listener: W::Listener,
        acceptors: usize,
    ) -> Result<ListenerId, AddListenerError<W::Listener>> {
        if self.conduct(Verb::AddListenerOn) == Some(Conduct::Ignored) {
            return self.add_listener(listener, acceptors);
        }
        self.handle.add_listener_on(runtime, listener, acceptors)
    }

    pub fn close_listener(
        &self,
        id: ListenerId,
    ) -> impl Future<Output = Result<(), CloseError>> + Send + 'static + use<W> {
        let conduct = self.conduct(Verb::CloseListener);
        let begins = !matches!(conduct, Some(Conduct::Ignored | Conduct::Later));
        let closing = begins.then(|| self.handle.close_listener(id));
        let handle = self.handle.clone();
        async move {
            if conduct == Some(Conduct::Early) {
                return Ok(());
            }
            let closed = match closing {
                Some(closing) => closing.await,
                None if conduct == Some(Conduct::Later) => handle.close_listener(id).await,
                None => return Ok(()),
            };
            if conduct == Some(Conduct::Hangs) {
                pending::<()>().await;
            }
            match conduct {
                Some(Conduct::Denied) => Err(CloseError::UnknownListener(id)),
                conduct => settled(conduct, closed),
            }
        }
    }

    pub fn listeners(&self) -> Result<Vec<ListenerRecord<Address>>, Stopped> {
        let list = self.hidden(Verb::Listeners, self.handle.listeners());
        self.shown(|tamper| tamper.listeners.as_ref(), list)
    }

    pub fn connections(&self) -> Result<Vec<ConnectionRecord<Address>>, Stopped> {
        let list = self.hidden(Verb::Connections, self.handle.connections());
        self.shown(|tamper| tamper.connections.as_ref(), list)
    }

    pub fn acceptors(&self) -> Result<Vec<AcceptorRecord>, Stopped> {
        self.shown(
            |tamper| tamper.acceptors_shown.as_ref(),
            self.handle.acceptors(),
        )
    }

    pub fn counts(&self) -> Result<Counts, Stopped> {
        let counts = self.hidden(Verb::Counts, self.handle.counts());
        self.shown(|tamper| tamper.counts.as_ref(), counts)
    }

    pub fn count_children(&self) -> Result<ChildCounts, Stopped> {
        self.shown(
            |tamper| tamper.child_counts.as_ref(),
            self.handle.count_children(),
        )
    }

    pub fn status(&self) -> Result<Status<Address>, Stopped> {
        self.shown(|tamper| tamper.status.as_ref(), self.handle.status())
    }

    pub fn stopping(&self) -> Latch {
        let wrong = self.tamper.as_ref().and_then(|tamper| tamper.stopping);
        wrong.map_or_else(|| self.handle.stopping(), |wrong| wrong())
    }

    pub fn stop_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.answer(Verb::StopChild, || match self.conduct(Verb::StopChild) {
            Some(Conduct::Swapped) => self.handle.kill_child(id),
            _ => self.handle.stop_child(id),
        })
    }

    pub fn kill_child(&self, id: ChildId) -> Result<(), ChildError> {
        self.answer(Verb::KillChild, || match self.conduct(Verb::KillChild) {
            Some(Conduct::Swapped) => self.handle.stop_child(id),
            _ => self.handle.kill_child(id),
        })
    }

    pub fn reconfigure<A: Acceptor<W::Listener>>(
        &self,
        spec: Spec<A, Address>,
        waiting: WaitingAcceptors,
    ) -> Result<(), ReconfigureError> {
        let conduct = self.conduct(Verb::Reconfigure);
        if conduct == Some(Conduct::Ignored) {
            return Ok(());
        }
        let tamper = self.tamper.as_ref();
        let spec = match tamper {
            Some(tamper) => tamper.spec(spec),
            None => spec,
        };
        let waiting = match (conduct, waiting) {
            (Some(Conduct::Swapped), WaitingAcceptors::Keep) => WaitingAcceptors::Replace,
            (Some(Conduct::Swapped), _) => WaitingAcceptors::Keep,
            (_, waiting) => waiting,
        };
        settled(conduct, self.handle.reconfigure(spec, waiting))
    }

    pub fn set_max_connections(
        &self,
        limit: impl Into<Option<usize>>,
    ) -> Result<(), ReconfigureError> {
        let limit = limit.into();
        let conduct = self.conduct(Verb::SetMaxConnections);
        if conduct == Some(Conduct::Ignored) {
            return Ok(());
        }
        let set = self.handle.set_max_connections(limit);
        if conduct == Some(Conduct::Kills) {
            let open = self.handle.connections().unwrap_or_default();
            for one in open {
                let _ = self.handle.kill_child(one.id);
            }
        }
        settled(conduct, set)
    }

    pub fn set_listener_max_connections(
        &self,
        id: ListenerId,
        limit: impl Into<Option<usize>>,
    ) -> Result<(), LimitError> {
        let limit = limit.into();
        self.answer(Verb::SetListenerMaxConnections, || {
            self.handle.set_listener_max_connections(id, limit)
        })
    }

    pub fn reload(&self, waiting: WaitingAcceptors) -> Result<(), ReconfigureError> {
        self.answer(Verb::Reload, || self.handle.reload(waiting))
    }

    pub fn stop(&self) -> impl Future<Output = StopReport<Address>> + Send + 'static + use<W> {
        if self.conduct(Verb::Stop) == Some(Conduct::Swapped) {
            drop(self.handle.kill());
        } else if self.conduct(Verb::Stop) != Some(Conduct::Ignored) {
            drop(self.handle.stop());
        }
        self.result(Verb::Stop)
    }

    pub fn kill(&self) -> impl Future<Output = StopReport<Address>> + Send + 'static + use<W> {
        if self.conduct(Verb::Kill) == Some(Conduct::Swapped) {
            drop(self.handle.stop());
        } else if self.conduct(Verb::Kill) != Some(Conduct::Ignored) {
            drop(self.handle.kill());
        }
        self.result(Verb::Kill)
    }

    pub fn join(&self) -> impl Future<Output = StopReport<Address>> + Send + 'static + use<W> {
        self.result(Verb::Join)
    }
}

fn settled<E: fmt::Display>(conduct: Option<Conduct>, answer: Result<(), E>) -> Result<(), E> {
    match conduct {
        Some(Conduct::Forgiven) => Ok(()),
        conduct => settled_or_error(conduct, answer),
    }
}

fn settled_or_error<T, E: fmt::Display>(
    conduct: Option<Conduct>,
    answer: Result<T, E>,
) -> Result<T, E> {
    match (conduct, &answer) {
        (Some(Conduct::Panics), Err(error)) => panic!("{error}"),
        _ => answer,
    }
}

/// The owner of a pool in a world; see [`acceptor_core::Pool`].
pub struct Pool<W: Erased = Boxed> {
    owner: Option<acceptor_core::Pool<W::Runtime, W::Listener>>,
    handle: Handle<W>,
}

impl<W: Erased> Pool<W> {
    /// See [`acceptor_core::Pool::start`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start<A: Acceptor<W::Listener>>(
        runtime: W::Runtime,
        spec: Spec<A, Address>,
    ) -> Result<Self, StartError> {
        let tamper = W::tamper(&runtime);
        let spec = match &tamper {
            Some(tamper) => tamper.spec(spec),
            None => spec,
        };
        let listeners = runtime.for_listeners();
        let owner = acceptor_core::Pool::start(runtime, spec)?;
        Ok(Self::of(owner, tamper, listeners))
    }

    /// See [`acceptor_core::Pool::start_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start_with<A: Acceptor<W::Listener>>(
        runtime: W::Runtime,
        init: impl Fn() -> Result<Configure<A, Address>, BoxError> + Send + Sync + 'static,
    ) -> Result<Option<Self>, StartError> {
        let tamper = W::tamper(&runtime);
        let known = tamper.clone();
        let init = move || match (init()?, &known) {
            (Configure::Use(spec), Some(tamper)) => Ok(Configure::Use(tamper.spec(spec))),
            (other, _) => Ok(other),
        };
        let listeners = runtime.for_listeners();
        let owner = acceptor_core::Pool::start_with(runtime, init)?;
        Ok(owner.map(|owner| Self::of(owner, tamper, listeners)))
    }

    fn of(
        owner: acceptor_core::Pool<W::Runtime, W::Listener>,
        tamper: Option<Arc<Tamper>>,
        listeners: Option<W::Runtime>,
    ) -> Self {
        let handle = owner.handle();
        Self {
            owner: Some(owner),
            handle: Handle {
                handle,
                tamper,
                listeners,
            },
        }
    }

    /// See [`acceptor_core::Pool::handle`].
    pub fn handle(&self) -> Handle<W> {
        self.handle.clone()
    }
}

impl<W: Erased> Deref for Pool<W> {
    type Target = Handle<W>;

    fn deref(&self) -> &Handle<W> {
        &self.handle
    }
}

impl<W: Erased> Drop for Pool<W> {
    fn drop(&mut self) {
        match self.handle.conduct(Verb::DropOwner) {
            Some(Conduct::Ignored) => std::mem::forget(self.owner.take()),
            Some(Conduct::Later) => {
                let owner = self.owner.take();
                std::thread::spawn(move || {
                    // The delay is the fault.
                    std::thread::sleep(Duration::from_millis(50));
                    drop(owner);
                });
            }
            _ => {}
        }
    }
}

impl<W: Erased> fmt::Debug for Pool<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owner.fmt(f)
    }
}
