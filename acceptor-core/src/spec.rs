//! The arguments of a start: an acceptor and its settings.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::accept_error::AcceptErrorKind;
use crate::policy::{ChildType, ConnectionReports, Grace, LastListener, Restart, Shutdown};
use crate::report::Observer;
use crate::settings::Settings;

/// An acceptor, which all acceptors of the pool share, and the settings of the pool.
///
/// Nothing is checked until the pool starts or is reconfigured; then all of it is (rule V1).
///
/// | field | default | allowed |
/// |---|---|---|
/// | id | none: always given | 1 to 255 bytes, no control characters |
/// | restart | temporary | |
/// | intensity | 1 | any |
/// | period | 5 s | positive |
/// | lame duck | none | any |
/// | grace | zero | any, or unlimited |
/// | shutdown | within 5 s for workers, unlimited for supervisors | |
/// | child type | worker | |
/// | kill timeout | 1 s | positive |
/// | handshake timeout | 10 s | positive, or none |
/// | observer | none | |
/// | connection reports | failures | |
/// | last listener | continue | |
/// | accept errors | [`AcceptErrorKind::classify`] | |
/// | peer gone | [`is_peer_gone`](crate::is_peer_gone) | |
///
/// ```
/// # use acceptor_core::*;
/// # use std::time::Duration;
/// # fn check<A>(echo: A) -> Spec<A> {
/// Spec::new("echo", echo)
///     .restart(Restart::Transient)
///     .intensity(10)
///     .period(Duration::from_secs(60))
///     .grace(Duration::from_secs(5))
/// # }
/// ```
#[must_use = "a spec does nothing until a pool is started with it"]
pub struct Spec<Acc, A = SocketAddr> {
    /// The value that all acceptors of the pool share.
    pub acceptor: Acc,
    /// All else.
    pub settings: Settings<A>,
}

impl<Acc, A> Spec<Acc, A> {
    /// A spec with the defaults.
    pub fn new(id: impl Into<Arc<str>>, acceptor: Acc) -> Self {
        Self::from_settings(Settings::new(id), acceptor)
    }

    /// A spec with these settings: those of a pool that runs, for example, from [`Pool::settings`](crate::Pool::settings).
    pub fn from_settings(settings: Settings<A>, acceptor: Acc) -> Self {
        Self { acceptor, settings }
    }

    /// Sets which ends of connections count (section 2).
    pub fn restart(mut self, restart: Restart) -> Self {
        self.settings.restart = restart;
        self
    }

    /// Sets how many counted failures within the period the pool survives (I1).
    ///
    /// The pool keeps the moment of each failure within the period: 16 bytes, at most one more than
    /// this number.
    ///
    /// # Surviving an outage
    ///
    /// While `init` fails, one acceptor of a listener at a time tries again: at once, after 1 ms, 2 ms, 4 ms and so
    /// on, then once a second (B4). In a period of `p` seconds these are at most `9 + p` retries, `p` rounded up. A
    /// pool outlives an outage of any length if its intensity is at least
    ///
    /// ```text
    /// acceptors of all listeners + listeners × (9 + p)
    /// ```
    ///
    /// The first term is for the acceptors that are in `init` when the outage begins.
    #[doc(alias = "max_restarts")]
    pub fn intensity(mut self, intensity: u32) -> Self {
        self.settings.intensity = intensity;
        self
    }

    /// Sets over which time failures are counted (I1, I2). Must be positive.
    pub fn period(mut self, period: Duration) -> Self {
        self.settings.period = period;
        self
    }

    /// Sets how long a stop goes on as before, new connections included, while the pool shows that it is about to stop (S2).
    pub fn lame_duck(mut self, lame_duck: Duration) -> Self {
        self.settings.lame_duck = lame_duck;
        self
    }

    /// Sets how long connections are left alone after the listeners closed (S4): a [`Duration`] or [`Grace::Unlimited`].
    #[doc(alias = "graceful shutdown")]
    pub fn grace(mut self, grace: impl Into<Grace>) -> Self {
        self.settings.grace = grace.into();
        self
    }

    /// Sets what happens to those that grace left over (S5, S6): a [`Duration`] or a [`Shutdown`].
    pub fn shutdown(mut self, shutdown: impl Into<Shutdown>) -> Self {
        self.settings.shutdown = Some(shutdown.into());
        self
    }

    /// Sets what the children are (Q2).
    pub fn child_type(mut self, child_type: ChildType) -> Self {
        self.settings.child_type = child_type;
        self
    }

    /// Sets how long after the kill a child that does not suspend is waited for (S8). Must be positive.
    ///
    /// It is the pool's own task that gives up waiting: on a runtime whose only thread is blocked it cannot.
    pub fn kill_timeout(mut self, kill_timeout: Duration) -> Self {
        self.settings.kill_timeout = kill_timeout;
        self
    }

    /// Sets how long a handshake may take (H3). Must be positive; `None` is no limit.
    pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.handshake_timeout = timeout.into();
        self
    }

    /// Sets what gets the pool's [reports](crate::Report), besides `tracing`: see [`observer_fn`](crate::observer_fn).
    pub fn observer(mut self, observer: impl Observer<A>) -> Self {
        self.settings.observer = Some(Arc::new(observer));
        self
    }

    /// Sets which connections are reported (O4).
    pub fn connection_reports(mut self, reports: ConnectionReports) -> Self {
        self.settings.connection_reports = reports;
        self
    }

    /// Sets what the pool does when its last listener has failed (L9).
    pub fn last_listener(mut self, last_listener: LastListener) -> Self {
        self.settings.last_listener = last_listener;
        self
    }

    /// Replaces the classification of accept errors (A4). Fall back on
    /// [`AcceptErrorKind::classify`] for what you do not decide. If the function panics the error counts as one of *resources*.
    pub fn accept_errors(
        mut self,
        classify: impl Fn(&io::Error) -> AcceptErrorKind + Send + Sync + 'static,
    ) -> Self {
        self.settings.accept_errors = Some(Arc::new(classify));
        self
    }

    /// Replaces the test whether an error of `serve` means that the peer is gone (E5). Fall back on
    /// [`is_peer_gone`](crate::is_peer_gone) for what you do not decide. If the function panics the peer does not count as gone.
    ///
    /// It is not asked about errors that the [handshake](crate::Handshake::is_peer_gone) of the listener knows to be the peer's.
    /// It is given the error itself; of reports of anyhow and eyre the outermost error, as far as the features of the
    /// core are on.
    pub fn peer_gone(
        mut self,
        is_gone: impl Fn(&(dyn Error + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.peer_gone = Some(Arc::new(is_gone));
        self
    }
}

impl<Acc: Clone, A> Clone for Spec<Acc, A> {
    fn clone(&self) -> Self {
        Self::from_settings(self.settings.clone(), self.acceptor.clone())
    }
}

impl<Acc, A> fmt::Debug for Spec<Acc, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The result of the init function of a pool (R3).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Configure<Acc, A = SocketAddr> {
    /// Start, or go on, with this spec.
    Use(Spec<Acc, A>),
    /// At start: no pool. At a reload: keep the spec that is there.
    Ignore,
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_settings() {
        let spec: Spec<()> = Spec::new("a", ()).intensity(3);
        let expected = format!("Spec {{ settings: {:?}, .. }}", spec.settings);
        assert_eq!(format!("{:?}", spec.clone()), expected);
    }
}
