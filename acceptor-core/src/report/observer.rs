//! The receiver of reports.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Report;

/// Receives the reports of a pool ([O1](crate::guide::rules#o1), [O2](crate::guide::rules#o2)).
///
/// Reports arrive one at a time, in the order of their events, from a task of the pool's own. An
/// observer may block. Then it delays the reports that follow, of which 1,024 are kept and the
/// others counted as [lost](super::Event::ReportsLost), and the end of the pool by one kill timeout at
/// most. It delays no connection and no listener as long as the runtime has another thread. It may
/// call the pool and wait for its end. A panic in it is caught.
///
/// [`observer_fn`] makes an observer of a closure. An `Arc` of an observer is one too, including
/// `Arc<dyn Observer<A>>`. Implement it for every address type, unless it needs a certain one:
/// without a parameter, `Observer` and [`Report`] are for TCP addresses and do not fit a pool on
/// other sockets.
///
/// ```
/// use std::fmt::Debug;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use acceptor_core::{EventKind, Observer, Report, Spec};
///
/// #[derive(Default)]
/// struct CountFailures(AtomicU64);
///
/// impl<A: Debug> Observer<A> for CountFailures {
///     fn report(&self, report: &Report<A>) {
///         if report.event.kind() == EventKind::ConnectionFailed {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let spec: Spec<()> = Spec::new("echo", ()).observer(CountFailures::default());
/// assert!(spec.settings.observer.is_some());
/// ```
#[doc(alias = "metrics")]
#[doc(alias = "logging")]
#[doc(alias = "callback")]
#[doc(alias = "hook")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Observer<{A}>`",
    label = "not an observer",
    note = "for a closure: wrap it in `observer_fn(..)`"
)]
pub trait Observer<A = SocketAddr>: Send + Sync + 'static {
    /// Handles one report.
    fn report(&self, report: &Report<A>);
}

impl<A, O: Observer<A> + ?Sized> Observer<A> for Arc<O> {
    fn report(&self, report: &Report<A>) {
        (**self).report(report);
    }
}

/// Creates an observer from a closure.
///
/// ```
/// use acceptor_core::{Spec, observer_fn};
///
/// let spec: Spec<()> = Spec::new("echo", ()).observer(observer_fn(|report| eprintln!("{report}")));
/// assert!(spec.settings.observer.is_some());
/// ```
pub fn observer_fn<A, F>(report: F) -> impl Observer<A>
where
    F: Fn(&Report<A>) + Send + Sync + 'static,
{
    ObserverFn(report)
}

struct ObserverFn<F>(F);

impl<A, F: Fn(&Report<A>) + Send + Sync + 'static> Observer<A> for ObserverFn<F> {
    fn report(&self, report: &Report<A>) {
        (self.0)(report);
    }
}
