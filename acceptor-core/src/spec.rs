//! The arguments of a start: an acceptor and its settings.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::accept_error::AcceptErrorKind;
use crate::policy::{
    AtLimit, ChildType, ConnectionReports, Grace, LastListener, Restart, Shutdown,
};
use crate::report::Observer;
use crate::settings::Settings;

/// The specification of a pool: its acceptor and its [`Settings`].
///
/// The pool checks all fields when it starts or is reconfigured ([V1](crate::guide::rules#v1)).
///
/// | field | default | allowed |
/// |---|---|---|
/// | [`new(id, ..)`](Spec::new) | always given | 1 to 255 bytes, no control characters |
/// | [`restart`](Spec::restart) | temporary | |
/// | [`intensity`](Spec::intensity) | 1 | any |
/// | [`period`](Spec::period) | 5 s | positive |
/// | [`lame_duck`](Spec::lame_duck) | zero | any |
/// | [`grace`](Spec::grace) | zero | any, or unlimited |
/// | [`shutdown`](Spec::shutdown) | within 5 s for workers, unlimited for supervisors | |
/// | [`child_type`](Spec::child_type) | worker | |
/// | [`kill_timeout`](Spec::kill_timeout) | 1 s | positive |
/// | [`handshake_timeout`](Spec::handshake_timeout) | 10 s | positive, or none |
/// | [`max_connections`](Spec::max_connections) | no limit | 1 to [`MAX_CONNECTIONS`](crate::MAX_CONNECTIONS), or none |
/// | [`at_limit`](Spec::at_limit) | wait | |
/// | [`observer`](Spec::observer) | none | |
/// | [`connection_reports`](Spec::connection_reports) | failures | |
/// | [`last_listener`](Spec::last_listener) | continue | |
/// | [`accept_errors`](Spec::accept_errors) | [`AcceptErrorKind::classify`] | |
/// | [`peer_gone`](Spec::peer_gone) | [`is_peer_gone`](crate::is_peer_gone) | |
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::{Grace, Restart, Spec};
/// # struct Echo;
///
/// let spec: Spec<Echo> = Spec::new("echo", Echo)
///     .restart(Restart::Transient)
///     .intensity(10)
///     .period(Duration::from_secs(60))
///     .grace(Duration::from_secs(5));
/// assert_eq!(spec.settings.intensity, 10);
/// assert_eq!(spec.settings.grace, Grace::Within(Duration::from_secs(5)));
/// ```
#[doc(alias = "builder")]
#[doc(alias = "child_spec")]
#[doc(alias = "supervisor")]
#[must_use = "a spec does nothing until a pool is started with it"]
pub struct Spec<Acc, A = SocketAddr> {
    /// The value that all acceptors of the pool share.
    pub acceptor: Acc,
    /// The settings.
    pub settings: Settings<A>,
}

impl<Acc, A> Spec<Acc, A> {
    /// Creates a spec with the default settings.
    ///
    /// ```
    /// use acceptor_core::{Restart, Spec};
    ///
    /// let spec: Spec<()> = Spec::new("echo", ());
    /// assert_eq!(spec.settings.restart, Restart::Temporary);
    /// ```
    pub fn new(id: impl Into<Arc<str>>, acceptor: Acc) -> Self {
        Self::from_settings(Settings::new(id), acceptor)
    }

    /// Creates a spec with these settings, such as those of a running pool, from
    /// [`Pool::settings`](crate::Pool::settings).
    ///
    /// ```
    /// use acceptor_core::{Settings, Spec};
    /// # struct Echo;
    ///
    /// let spec: Spec<Echo> = Spec::from_settings(Settings::new("echo"), Echo);
    /// assert_eq!(&*spec.settings.id, "echo");
    /// ```
    pub fn from_settings(settings: Settings<A>, acceptor: Acc) -> Self {
        Self { acceptor, settings }
    }

    /// Sets which ends of connections count towards restart intensity (the table of ends,
    /// [E1](crate::guide::rules#e1)).
    ///
    /// ```
    /// # use acceptor_core::{Restart, Spec};
    /// let spec: Spec<()> = Spec::new("echo", ()).restart(Restart::Transient);
    /// assert_eq!(spec.settings.restart, Restart::Transient);
    /// ```
    #[doc(alias = "restart strategy")]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.settings.restart = restart;
        self
    }

    /// Sets the number of counted failures within the period that the pool survives
    /// ([I1](crate::guide::rules#i1)). One more stops the pool.
    ///
    /// The pool stores the time of each failure within the period: 16 bytes each, for at most one
    /// more than this number.
    ///
    /// ```
    /// # use acceptor_core::Spec;
    /// let spec: Spec<()> = Spec::new("echo", ()).intensity(10);
    /// assert_eq!(spec.settings.intensity, 10);
    /// ```
    ///
    /// # Surviving an outage
    ///
    /// While `init` fails, one acceptor of a listener at a time tries again: at once, after 1 ms, 2
    /// ms, 4 ms and so on, then once a second ([B4](crate::guide::rules#b4)). In a period of `p`
    /// seconds these are at most `9 + p` retries, with `p` rounded up. A pool survives an outage of
    /// any length if its intensity is at least
    ///
    /// ```text
    /// acceptors of all listeners + listeners × (9 + p)
    /// ```
    ///
    /// The first term is for the acceptors that are in `init` when the outage begins.
    #[doc(alias = "restart intensity")]
    #[doc(alias = "max_restarts")]
    pub fn intensity(mut self, intensity: u32) -> Self {
        self.settings.intensity = intensity;
        self
    }

    /// Sets the time over which failures are counted ([I1](crate::guide::rules#i1),
    /// [I2](crate::guide::rules#i2)). It must be positive.
    ///
    /// ```
    /// # use acceptor_core::Spec;
    /// # use std::time::Duration;
    /// let spec: Spec<()> = Spec::new("echo", ()).period(Duration::from_secs(60));
    /// assert_eq!(spec.settings.period, Duration::from_secs(60));
    /// ```
    #[doc(alias = "max_seconds")]
    pub fn period(mut self, period: Duration) -> Self {
        self.settings.period = period;
        self
    }

    /// Sets how long a stop continues to accept and serve, while the pool already shows that it is
    /// stopping ([S2](crate::guide::rules#s2)).
    ///
    /// A load balancer can stop sending clients meanwhile: see
    /// [`Pool::stopping`](crate::Pool::stopping).
    ///
    /// ```
    /// # use acceptor_core::Spec;
    /// # use std::time::Duration;
    /// let spec: Spec<()> = Spec::new("echo", ()).lame_duck(Duration::from_secs(10));
    /// assert_eq!(spec.settings.lame_duck, Duration::from_secs(10));
    /// ```
    #[doc(alias = "readiness")]
    #[doc(alias = "deregistration delay")]
    pub fn lame_duck(mut self, lame_duck: Duration) -> Self {
        self.settings.lame_duck = lame_duck;
        self
    }

    /// Sets how long a stop leaves connections undisturbed after the listeners have closed
    /// ([S4](crate::guide::rules#s4)): a [`Duration`] or [`Grace::Unlimited`].
    ///
    /// The grace ends early when the last connection ends.
    ///
    /// ```
    /// # use acceptor_core::{Grace, Spec};
    /// let spec: Spec<()> = Spec::new("echo", ()).grace(Grace::Unlimited);
    /// assert_eq!(spec.settings.grace, Grace::Unlimited);
    /// ```
    #[doc(alias = "drain")]
    #[doc(alias = "graceful shutdown")]
    pub fn grace(mut self, grace: impl Into<Grace>) -> Self {
        self.settings.grace = grace.into();
        self
    }

    /// Sets how a stop treats connections that are left after the grace
    /// ([S5](crate::guide::rules#s5), [S6](crate::guide::rules#s6)): a [`Duration`] or a
    /// [`Shutdown`].
    ///
    /// ```
    /// # use acceptor_core::{Shutdown, Spec};
    /// # use std::time::Duration;
    /// let spec: Spec<()> = Spec::new("echo", ()).shutdown(Duration::from_secs(2));
    /// assert_eq!(spec.settings.shutdown, Some(Shutdown::Within(Duration::from_secs(2))));
    /// ```
    #[doc(alias = "graceful shutdown")]
    pub fn shutdown(mut self, shutdown: impl Into<Shutdown>) -> Self {
        self.settings.shutdown = Some(shutdown.into());
        self
    }

    /// Sets the kind of the children ([Q2](crate::guide::rules#q2)).
    ///
    /// ```
    /// # use acceptor_core::{ChildType, Spec};
    /// let spec: Spec<()> = Spec::new("proxy", ()).child_type(ChildType::Supervisor);
    /// assert_eq!(spec.settings.child_type, ChildType::Supervisor);
    /// ```
    #[doc(alias = "supervisor")]
    #[doc(alias = "worker")]
    pub fn child_type(mut self, child_type: ChildType) -> Self {
        self.settings.child_type = child_type;
        self
    }

    /// Sets how long to wait after the kill for a child that does not suspend
    /// ([S8](crate::guide::rules#s8)). It must be positive.
    ///
    /// The pool's own task abandons such a child, which it cannot do on a runtime whose only thread
    /// is blocked.
    ///
    /// ```
    /// # use acceptor_core::Spec;
    /// # use std::time::Duration;
    /// let spec: Spec<()> = Spec::new("echo", ()).kill_timeout(Duration::from_secs(3));
    /// assert_eq!(spec.settings.kill_timeout, Duration::from_secs(3));
    /// ```
    pub fn kill_timeout(mut self, kill_timeout: Duration) -> Self {
        self.settings.kill_timeout = kill_timeout;
        self
    }

    /// Sets the deadline of a handshake ([H3](crate::guide::rules#h3)). It must be positive; `None`
    /// means no limit.
    ///
    /// ```
    /// # use acceptor_core::Spec;
    /// # use std::time::Duration;
    /// let spec: Spec<()> = Spec::new("tls", ()).handshake_timeout(Duration::from_secs(2));
    /// assert_eq!(spec.settings.handshake_timeout, Some(Duration::from_secs(2)));
    /// ```
    pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.handshake_timeout = timeout.into();
        self
    }

    /// Sets the largest number of connections of the whole pool, those in their handshake included
    /// ([C1](crate::guide::rules#c1)). `None` means no limit.
    ///
    /// ```
    /// # use acceptor_core::Spec;
    /// let spec: Spec<()> = Spec::new("echo", ()).max_connections(1000);
    /// assert_eq!(spec.settings.max_connections, Some(1000));
    /// ```
    #[doc(alias = "connection limit")]
    #[doc(alias = "semaphore")]
    pub fn max_connections(mut self, limit: impl Into<Option<usize>>) -> Self {
        self.settings.max_connections = limit.into();
        self
    }

    /// Sets what listeners do while a limit is reached ([C2](crate::guide::rules#c2)).
    ///
    /// ```
    /// # use acceptor_core::{AtLimit, Refusal, Spec};
    /// let busy = AtLimit::Refuse(Refusal::farewell("busy\r\n"));
    /// let spec: Spec<()> = Spec::new("echo", ()).max_connections(1000).at_limit(busy);
    /// assert_ne!(spec.settings.at_limit, AtLimit::Wait);
    /// ```
    #[doc(alias = "load shedding")]
    pub fn at_limit(mut self, at_limit: AtLimit) -> Self {
        self.settings.at_limit = at_limit;
        self
    }

    /// Sets the observer, which gets the pool's [reports](crate::Report) in addition to `tracing`.
    ///
    /// [`observer_fn`](crate::observer_fn) makes one of a closure.
    ///
    /// ```
    /// # use acceptor_core::{Spec, observer_fn};
    /// let spec: Spec<()> = Spec::new("echo", ()).observer(observer_fn(|report| eprintln!("{report}")));
    /// assert!(spec.settings.observer.is_some());
    /// ```
    #[doc(alias = "metrics")]
    #[doc(alias = "logging")]
    pub fn observer(mut self, observer: impl Observer<A>) -> Self {
        self.settings.observer = Some(Arc::new(observer));
        self
    }

    /// Sets which connections are reported to the observer ([O4](crate::guide::rules#o4)).
    ///
    /// ```
    /// # use acceptor_core::{ConnectionReports, Spec};
    /// let spec: Spec<()> = Spec::new("echo", ()).connection_reports(ConnectionReports::All);
    /// assert_eq!(spec.settings.connection_reports, ConnectionReports::All);
    /// ```
    pub fn connection_reports(mut self, reports: ConnectionReports) -> Self {
        self.settings.connection_reports = reports;
        self
    }

    /// Sets the reaction to the failure of the last listener ([L9](crate::guide::rules#l9)).
    ///
    /// ```
    /// # use acceptor_core::{LastListener, Spec};
    /// let spec: Spec<()> = Spec::new("echo", ()).last_listener(LastListener::Stop);
    /// assert_eq!(spec.settings.last_listener, LastListener::Stop);
    /// ```
    pub fn last_listener(mut self, last_listener: LastListener) -> Self {
        self.settings.last_listener = last_listener;
        self
    }

    /// Replaces the classification of accept errors ([A4](crate::guide::rules#a4)).
    ///
    /// Call [`AcceptErrorKind::classify`] for the errors that the function does not decide. If the
    /// function panics, the error counts as one of resources.
    ///
    /// ```
    /// use acceptor_core::{AcceptErrorKind, Spec};
    ///
    /// let spec: Spec<()> = Spec::new("echo", ()).accept_errors(|error| match error.raw_os_error() {
    ///     Some(1) => AcceptErrorKind::Listener,
    ///     _ => AcceptErrorKind::classify(error),
    /// });
    /// assert!(spec.settings.accept_errors.is_some());
    /// ```
    pub fn accept_errors(
        mut self,
        classify: impl Fn(&io::Error) -> AcceptErrorKind + Send + Sync + 'static,
    ) -> Self {
        self.settings.accept_errors = Some(Arc::new(classify));
        self
    }

    /// Replaces the test whether an error of `serve` means that the peer is gone
    /// ([E5](crate::guide::rules#e5)).
    ///
    /// Call [`is_peer_gone`](crate::is_peer_gone) for the errors that the function does not decide.
    /// If the function panics, the peer does not count as gone. The function gets the error itself,
    /// or the outermost error of a report of anyhow or eyre if the feature of that name is on. It
    /// is not called for errors that the listener's [handshake](crate::Handshake::is_peer_gone)
    /// attributes to the peer.
    ///
    /// ```
    /// use acceptor_core::{Spec, is_peer_gone};
    ///
    /// let spec: Spec<()> = Spec::new("echo", ())
    ///     .peer_gone(|error| is_peer_gone(error) || error.to_string() == "client went away");
    /// assert!(spec.settings.peer_gone.is_some());
    /// ```
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

/// The result of a pool's init function ([R3](crate::guide::rules#r3)); see
/// [`Pool::start_with`](crate::Pool::start_with).
///
/// ```
/// use acceptor_core::{BoxError, Configure, Spec};
/// # struct Echo;
///
/// fn init(enabled: bool) -> Result<Configure<Echo>, BoxError> {
///     match enabled {
///         true => Ok(Configure::Use(Spec::new("echo", Echo))),
///         false => Ok(Configure::Ignore),
///     }
/// }
/// assert!(matches!(init(false)?, Configure::Ignore));
/// # Ok::<_, BoxError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would have to be opened by the caller"
)]
pub enum Configure<Acc, A = SocketAddr> {
    /// Start, or continue, with this spec.
    Use(Spec<Acc, A>),
    /// At start: no pool. At a reload: keep the current spec.
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
