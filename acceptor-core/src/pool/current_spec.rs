//! What the pool has of its spec.

use std::sync::Arc;

use crate::accept_error::{AcceptErrorKind, AcceptErrors};
use crate::acceptor::acceptor_fn;
use crate::child::erased::Factory;
use crate::listener::Listener;
use crate::pool::spec::Spec;
use crate::report::Observer;
use crate::sync::{DropCatching, Shared};

/// What the spec says besides the rules that the machine has.
pub(crate) struct CurrentSpec<L: Listener> {
    pub(crate) id: Arc<str>,
    pub(crate) factory: Shared<dyn Factory<L>>,
    pub(crate) observer: Option<Shared<dyn Observer<L::Addr>>>,
    pub(crate) accept_errors: DropCatching<AcceptErrors>,
}

impl<L: Listener> From<Spec<L>> for CurrentSpec<L> {
    fn from(spec: Spec<L>) -> Self {
        Self {
            id: spec.id,
            factory: spec.acceptor,
            observer: spec.observer,
            accept_errors: spec.accept_errors,
        }
    }
}

impl<L: Listener> CurrentSpec<L> {
    /// Takes the user's values away. A pool that has stopped, which a handle may keep for long, has the id only.
    pub(super) fn take(&mut self) -> Self {
        let nothing: Arc<dyn Factory<L>> = Arc::new(acceptor_fn(|_| async { Ok(()) }));
        let own = AcceptErrors::new(AcceptErrorKind::of);
        Self {
            id: Arc::clone(&self.id),
            factory: std::mem::replace(&mut self.factory, Shared::new(nothing)),
            observer: self.observer.take(),
            accept_errors: std::mem::replace(&mut self.accept_errors, DropCatching::new(own)),
        }
    }
}
