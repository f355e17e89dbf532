//! The configuration of a pool, except its acceptor: plain values that can be read, copied and
//! changed.

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

/// A function that classifies an error of `accept` ([A4](crate::guide::rules#a4)).
pub type AcceptErrorFn = dyn Fn(&io::Error) -> AcceptErrorKind + Send + Sync;

/// A function that returns whether an error of `serve` means that the peer is gone
/// ([E5](crate::guide::rules#e5)).
pub type PeerGoneFn = dyn Fn(&(dyn Error + 'static)) -> bool + Send + Sync;

/// The configuration of a pool, except its acceptor.
///
/// A [`Spec`](crate::Spec) contains the settings of a pool to start, and has a method to set each
/// of them. [`Pool::update`](crate::Pool::update) changes the settings of a running pool. The pool
/// checks all of them when it starts, or when they change, and the error names the field
/// ([V1](crate::guide::rules#v1)).
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::{Grace, Settings};
///
/// let mut settings: Settings = Settings::new("echo");
/// assert_eq!(settings.grace, Grace::Within(Duration::ZERO));
/// settings.intensity = 10;
/// settings.grace = Duration::from_secs(5).into();
/// assert_eq!(settings.grace, Grace::Within(Duration::from_secs(5)));
/// ```
#[non_exhaustive]
#[doc(alias = "config")]
pub struct Settings<A = SocketAddr> {
    /// The pool's name in lists and reports: 1 to 255 bytes without control characters.
    pub id: Arc<str>,
    /// Which ends of connections count towards restart intensity (the table of ends,
    /// [E1](crate::guide::rules#e1)). Default: temporary.
    #[doc(alias = "restart strategy")]
    pub restart: Restart,
    /// The number of counted failures within the period that the pool survives
    /// ([I1](crate::guide::rules#i1)). Default: 1.
    #[doc(alias = "max_restarts")]
    #[doc(alias = "restart intensity")]
    pub intensity: u32,
    /// The time over which failures are counted ([I1](crate::guide::rules#i1),
    /// [I2](crate::guide::rules#i2)); must be positive. Default: 5 s.
    #[doc(alias = "max_seconds")]
    pub period: Duration,
    /// The kind of the children ([Q2](crate::guide::rules#q2)). Default: workers.
    pub child_type: ChildType,
    /// How long a stop continues to accept and serve while the pool already shows that it is
    /// stopping ([S2](crate::guide::rules#s2)). Default: zero.
    #[doc(alias = "readiness")]
    pub lame_duck: Duration,
    /// How long a stop leaves connections undisturbed after the listeners have closed
    /// ([S4](crate::guide::rules#s4)). Default: zero.
    #[doc(alias = "graceful shutdown")]
    pub grace: Grace,
    /// How a stop treats connections that are left after the grace ([S5](crate::guide::rules#s5),
    /// [S6](crate::guide::rules#s6)). `None`, the default, means within 5 s for workers, and
    /// unlimited for supervisors.
    #[doc(alias = "graceful shutdown")]
    pub shutdown: Option<Shutdown>,
    /// How long to wait after the kill for a child that does not suspend
    /// ([S8](crate::guide::rules#s8)); must be positive. Default: 1 s.
    pub kill_timeout: Duration,
    /// The deadline of a handshake ([H3](crate::guide::rules#h3)): positive, or `None` for no
    /// limit. Default: 10 s. A change applies to handshakes that begin later. Handshakes that fail
    /// are reported if [`connection_reports`](Settings::connection_reports) asks for it.
    pub handshake_timeout: Option<Duration>,
    /// Which connections are reported ([O4](crate::guide::rules#o4)). Default: those that fail.
    pub connection_reports: ConnectionReports,
    /// The reaction to the failure of the last listener ([L9](crate::guide::rules#l9)). Default:
    /// continue.
    pub last_listener: LastListener,
    /// The largest number of connections of the whole pool, including those in their handshake
    /// ([C1](crate::guide::rules#c1)): 1 to [`MAX_CONNECTIONS`](crate::MAX_CONNECTIONS), or `None`
    /// for no limit. Default: no limit.
    ///
    /// A lower limit closes no connection: none is accepted until there are fewer
    /// ([C6](crate::guide::rules#c6)). A waiting acceptor is no connection
    /// ([C4](crate::guide::rules#c4)).
    #[doc(alias = "connection limit")]
    #[doc(alias = "semaphore")]
    pub max_connections: Option<usize>,
    /// What listeners do while a limit is reached ([C2](crate::guide::rules#c2)), unless their own
    /// [settings](ListenerSettings::at_limit) say it. Default: wait.
    pub at_limit: AtLimit,
    /// The observer, which gets the pool's [reports](crate::Report) in addition to `tracing`.
    /// Default: none.
    pub observer: Option<Arc<dyn Observer<A>>>,
    /// The classifier of accept errors ([A4](crate::guide::rules#a4)). `None`, the default, means
    /// [`AcceptErrorKind::classify`]. If the function panics, the error counts as one of resources.
    pub accept_errors: Option<Arc<AcceptErrorFn>>,
    /// The test whether an error means that the peer is gone ([E5](crate::guide::rules#e5)).
    /// `None`, the default, means [`is_peer_gone`](crate::is_peer_gone). If the function panics,
    /// the peer does not count as gone.
    pub peer_gone: Option<Arc<PeerGoneFn>>,
}

impl<A> Settings<A> {
    /// Creates settings with this id and the defaults.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            restart: Restart::default(),
            intensity: 1,
            period: Duration::from_secs(5),
            child_type: ChildType::default(),
            lame_duck: Duration::ZERO,
            grace: Grace::Within(Duration::ZERO),
            shutdown: None,
            kill_timeout: Duration::from_secs(1),
            handshake_timeout: Some(Duration::from_secs(10)),
            connection_reports: ConnectionReports::default(),
            last_listener: LastListener::default(),
            max_connections: None,
            at_limit: AtLimit::default(),
            observer: None,
            accept_errors: None,
            peer_gone: None,
        }
    }
}

/// The settings of one listener in a pool.
///
/// [`Pool::add_listener`](crate::Pool::add_listener) takes this type, or just the number of
/// acceptors:
///
/// ```
/// use acceptor_core::ListenerSettings;
///
/// let admin = ListenerSettings::new(2).tag("admin");
/// assert_eq!(admin.tag.as_deref(), Some("admin"));
/// assert_eq!(ListenerSettings::from(2), ListenerSettings::new(2));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerSettings {
    /// The number of acceptors that wait on the listener: 1 to
    /// [`MAX_ACCEPTORS`](crate::MAX_ACCEPTORS).
    ///
    /// It does not limit connections, because each acceptor is replaced as soon as it has one. One
    /// acceptor is enough as long as `init` takes no time. Otherwise it is the number of
    /// simultaneous clients that find an acceptor ready.
    #[doc(alias = "num_acceptors")]
    pub acceptors: usize,
    /// A name for the listener: 1 to 255 bytes without control characters. Default: none.
    ///
    /// It appears in the arguments of `init` and `serve`, in lists and in reports. A connection can
    /// be served before [`add_listener`](crate::Pool::add_listener) has returned the listener's id;
    /// the tag is known from the first connection on. Several listeners may have the same tag.
    pub tag: Option<Arc<str>>,
    /// The largest number of connections of this listener ([C1](crate::guide::rules#c1)), within
    /// that of the pool: 1 to [`MAX_CONNECTIONS`](crate::MAX_CONNECTIONS), or `None` for no limit.
    /// Default: no limit. [`set_listener_max_connections`](crate::Pool::set_listener_max_connections)
    /// changes it.
    #[doc(alias = "connection limit")]
    pub max_connections: Option<usize>,
    /// What the listener does while its own limit or the pool's is reached
    /// ([C2](crate::guide::rules#c2)). `None`, the default, leaves it to the pool's
    /// [setting](Settings::at_limit).
    pub at_limit: Option<AtLimit>,
}

impl ListenerSettings {
    /// Creates settings with this number of acceptors and the defaults.
    pub fn new(acceptors: usize) -> Self {
        Self {
            acceptors,
            tag: None,
            max_connections: None,
            at_limit: None,
        }
    }

    /// Sets the [largest number of connections](Self::max_connections).
    ///
    /// ```
    /// use acceptor_core::ListenerSettings;
    ///
    /// let admin = ListenerSettings::new(1).max_connections(3);
    /// assert_eq!(admin.max_connections, Some(3));
    /// ```
    #[must_use]
    pub fn max_connections(mut self, limit: impl Into<Option<usize>>) -> Self {
        self.max_connections = limit.into();
        self
    }

    /// Sets [what happens at a limit](Self::at_limit).
    ///
    /// ```
    /// use acceptor_core::{AtLimit, ListenerSettings, Refusal};
    ///
    /// let http = ListenerSettings::new(10).at_limit(AtLimit::Refuse(Refusal::Reset));
    /// assert!(http.at_limit.is_some());
    /// ```
    #[must_use]
    pub fn at_limit(mut self, at_limit: AtLimit) -> Self {
        self.at_limit = Some(at_limit);
        self
    }

    /// Sets the [tag](Self::tag).
    ///
    /// ```
    /// use acceptor_core::ListenerSettings;
    ///
    /// assert_eq!(ListenerSettings::new(10).tag("http").tag.as_deref(), Some("http"));
    /// ```
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Arc<str>>) -> Self {
        self.tag = Some(tag.into());
        self
    }
}

impl From<usize> for ListenerSettings {
    fn from(acceptors: usize) -> Self {
        Self::new(acceptors)
    }
}

impl<A> Clone for Settings<A> {
    fn clone(&self) -> Self {
        Self {
            id: Arc::clone(&self.id),
            at_limit: self.at_limit.clone(),
            observer: self.observer.clone(),
            accept_errors: self.accept_errors.clone(),
            peer_gone: self.peer_gone.clone(),
            ..*self
        }
    }
}

impl<A> fmt::Debug for Settings<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("id", &self.id)
            .field("restart", &self.restart)
            .field("intensity", &self.intensity)
            .field("period", &self.period)
            .field("child_type", &self.child_type)
            .field("lame_duck", &self.lame_duck)
            .field("grace", &self.grace)
            .field("shutdown", &self.shutdown)
            .field("kill_timeout", &self.kill_timeout)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("connection_reports", &self.connection_reports)
            .field("last_listener", &self.last_listener)
            .field("max_connections", &self.max_connections)
            .field("at_limit", &self.at_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_values() {
        let mut settings: Settings = Settings::new("a");
        settings.intensity = 3;
        settings.grace = Grace::Unlimited;
        assert_eq!(
            format!("{:?}", settings.clone()),
            "Settings { id: \"a\", restart: Temporary, intensity: 3, period: 5s, child_type: Worker, \
             lame_duck: 0ns, grace: Unlimited, shutdown: None, kill_timeout: 1s, \
             handshake_timeout: Some(10s), connection_reports: Failures, last_listener: Continue, \
             max_connections: None, at_limit: Wait, .. }"
        );
    }
}
