//! What the pool has of its spec.

use std::sync::Arc;

use crate::accept_error::{AcceptErrorKind, AcceptErrors};
use crate::acceptor::acceptor_fn;
use crate::listener::Listener;
use crate::report::Observer;
use crate::seat::Life;
use crate::spec::Spec;
use crate::sync::drop_guarded;

/// What the spec says besides the rules that the machine has.
pub(crate) struct Present<L: Listener> {
    pub(crate) id: Arc<str>,
    pub(crate) acceptor: Arc<dyn Life<L>>,
    pub(crate) observer: Option<Arc<dyn Observer<L::Addr>>>,
    pub(crate) accept_errors: AcceptErrors,
}

impl<L: Listener> From<Spec<L>> for Present<L> {
    fn from(spec: Spec<L>) -> Self {
        Self {
            id: spec.id,
            acceptor: spec.acceptor,
            observer: spec.observer,
            accept_errors: spec.accept_errors,
        }
    }
}

impl<L: Listener> Present<L> {
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
        drop_guarded(self.acceptor);
        drop_guarded(self.observer);
        drop_guarded(self.accept_errors);
    }
}
