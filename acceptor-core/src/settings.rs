//! The configuration of a pool, but for its acceptor: plain values, which can be read, copied and changed.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::accept_error::AcceptErrorKind;
use crate::policy::{ChildType, ConnectionReports, Grace, LastListener, Restart, Shutdown};
use crate::report::Observer;

/// Classifies an error of `accept` (rule A4).
pub type AcceptErrorFn = dyn Fn(&io::Error) -> AcceptErrorKind + Send + Sync;

/// Tells whether an error of `serve` means that the peer is gone (rule E5).
pub type PeerGoneFn = dyn Fn(&(dyn Error + 'static)) -> bool + Send + Sync;

/// Everything that configures a pool, but for its acceptor.
///
/// A [`Spec`](crate::Spec) has the settings of a pool that is to start, and methods that set them;
/// [`Pool::update`](crate::Pool::update) changes those of a pool that runs. Nothing is checked until then; then all of it
/// is, and the error names the field (rule V1).
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::{Grace, Settings};
///
/// let mut settings: Settings = Settings::new("echo");
/// settings.intensity = 10;
/// settings.grace = Duration::from_secs(5).into();
/// assert_eq!(settings.grace, Grace::Within(Duration::from_secs(5)));
/// ```
#[non_exhaustive]
#[doc(alias = "config")]
pub struct Settings<A = SocketAddr> {
    /// Names the pool in lists and reports: 1 to 255 bytes without control characters.
    pub id: Arc<str>,
    /// Which ends of connections count (section 2). Default: temporary.
    pub restart: Restart,
    /// How many counted failures within the period the pool survives (I1). Default: 1.
    pub intensity: u32,
    /// Over which time failures are counted (I1, I2): positive. Default: 5 s.
    pub period: Duration,
    /// The kind of the children (Q2). Default: workers.
    pub child_type: ChildType,
    /// How long a stop goes on as before, while the pool shows that it is about to stop (S2). Default: none.
    pub lame_duck: Duration,
    /// How long connections are left alone after the listeners closed (S4). Default: zero.
    pub grace: Grace,
    /// The treatment of those that grace left over (S5, S6). `None`, the default: within 5 s for workers, unlimited for
    /// supervisors.
    pub shutdown: Option<Shutdown>,
    /// How long after the kill a child that does not suspend is waited for (S8): positive. Default: 1 s.
    pub kill_timeout: Duration,
    /// How long a handshake may take (H3): positive, or `None` for no limit. Default: 10 s. A change is for handshakes that begin
    /// later. Those that fail are reported if [`connection_reports`](Settings::connection_reports) asks for it.
    pub handshake_timeout: Option<Duration>,
    /// Which connections are reported (O4). Default: those that fail.
    pub connection_reports: ConnectionReports,
    /// The reaction when the last listener has failed (L9). Default: continue.
    pub last_listener: LastListener,
    /// Gets the pool's [reports](crate::Report), besides `tracing`. Default: none.
    pub observer: Option<Arc<dyn Observer<A>>>,
    /// Classifies accept errors (A4). `None`, the default: [`AcceptErrorKind::classify`]. If the function
    /// panics the error counts as one of *resources*.
    pub accept_errors: Option<Arc<AcceptErrorFn>>,
    /// Tells which errors mean that the peer is gone (E5). `None`, the default: [`is_peer_gone`](crate::is_peer_gone). If the
    /// function panics the peer does not count as gone.
    pub peer_gone: Option<Arc<PeerGoneFn>>,
}

impl<A> Settings<A> {
    /// The defaults and this id.
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
            observer: None,
            accept_errors: None,
            peer_gone: None,
        }
    }
}

/// How a pool uses a listener.
///
/// [`Pool::add_listener`](crate::Pool::add_listener) takes it, or the number of acceptors alone:
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
    /// How many acceptors wait on it: 1 to [`MAX_ACCEPTORS`](crate::MAX_ACCEPTORS).
    ///
    /// This is no limit on connections: each is replaced as soon as it has one. One is enough as long as `init` takes no
    /// time; with an `init` that takes some, it is how many clients find an acceptor ready that come at once.
    pub acceptors: usize,
    /// A name for it: 1 to 255 bytes without control characters. Default: none.
    ///
    /// `init` and `serve` see it, and so do lists and reports. A connection can be served before
    /// [`add_listener`](crate::Pool::add_listener) has returned the listener's id; the tag is known from the first one on.
    /// Several listeners may have the same.
    pub tag: Option<Arc<str>>,
}

impl ListenerSettings {
    /// The defaults, with this many acceptors.
    pub fn new(acceptors: usize) -> Self {
        Self {
            acceptors,
            tag: None,
        }
    }

    /// Sets the [tag](Self::tag).
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
             handshake_timeout: Some(10s), connection_reports: Failures, last_listener: Continue, .. }"
        );
    }
}
