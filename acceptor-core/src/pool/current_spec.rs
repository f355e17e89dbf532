//! What the pool has of its spec.

use std::sync::Arc;

use crate::accept_error::{AcceptErrorKind, AcceptErrors};
use crate::acceptor::acceptor_fn;
use crate::child::erased::Factory;
use crate::listener::Listener;
use crate::pool::spec::Spec;
use crate::report::Observer;
use crate::sync::drop_catching;

/// What the spec says besides the rules that the machine has.
pub(crate) struct CurrentSpec<L: Listener> {
    pub(crate) id: Arc<str>,
    pub(crate) acceptor: Arc<dyn Factory<L>>,
    pub(crate) observer: Option<Arc<dyn Observer<L::Addr>>>,
    pub(crate) accept_errors: AcceptErrors,
}

impl<L: Listener> From<Spec<L>> for CurrentSpec<L> {
    fn from(spec: Spec<L>) -> Self {
        Self {
            id: spec.id,
            acceptor: spec.acceptor,
            observer: spec.observer,
            accept_errors: spec.accept_errors,
        }
    }
}

impl<L: Listener> CurrentSpec<L> {
    /// Takes the user's values away. A pool that has stopped, and perhaps a handle for long, keeps the id only.
    pub(super) fn take(&mut self) -> Self {
        let nothing = Arc::new(acceptor_fn(|_| async { Ok(()) }));
        let own = AcceptErrors::new(AcceptErrorKind::of);
        Self {
            id: Arc::clone(&self.id),
            acceptor: std::mem::replace(&mut self.acceptor, nothing),
            observer: self.observer.take(),
            accept_errors: std::mem::replace(&mut self.accept_errors, own),
        }
    }

    /// Drops the user's values, each by itself: two at once whose `Drop` panics would abort.
    pub(crate) fn discard(self) {
        drop_catching(self.acceptor);
        drop_catching(self.observer);
        drop_catching(self.accept_errors);
    }
}
