//! What configures a pool, checked as a whole (V1).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::accept_error::{AcceptErrorKind, AcceptErrors};
use crate::acceptor::Acceptor;
use crate::child::erased::Factory;
use crate::error::{BoxError, SpecError};
use crate::listener::Listener;
use crate::policy::{
    ChildType, ConnectionReports, Grace, LastListener, Restart, Rules, Shutdown, StopPlan,
};
use crate::report::Observer;
use crate::sync::{DropCatching, Shared};

/// Configures a pool.
///
/// Nothing is checked until the pool starts or is reconfigured; then all of it is.
///
/// | field | default | allowed |
/// |---|---|---|
/// | id | none: always given | 1 to 255 bytes, no control characters |
/// | restart | temporary | |
/// | intensity | 1 | any |
/// | period | 5 s | positive |
/// | lame duck | none | any |
/// | grace | zero | any, or unlimited |
/// | shutdown | within 5 s for workers, never for supervisors | |
/// | child type | worker | |
/// | patience | 1 s | positive |
/// | observer | none | |
/// | connection reports | failures | |
/// | last listener | continue | |
/// | accept errors | [`AcceptErrorKind::of`] | |
///
/// ```
/// # use acceptor_core::*;
/// # use std::time::Duration;
/// # fn check<L: Listener>(echo: impl Acceptor<L>) -> Spec<L> {
/// Spec::new("echo", echo)
///     .restart(Restart::Transient)
///     .intensity(10)
///     .period(Duration::from_secs(60))
///     .grace(Duration::from_secs(5))
/// # }
/// ```
pub struct Spec<L: Listener> {
    pub(crate) id: Arc<str>,
    pub(crate) acceptor: Shared<dyn Factory<L>>,
    pub(crate) observer: Option<Shared<dyn Observer<L::Addr>>>,
    pub(crate) accept_errors: DropCatching<AcceptErrors>,
    pub(crate) rules: Rules,
    shutdown: Option<Shutdown>,
}

/// The longest id, in bytes.
const LONGEST_ID: usize = 255;

impl<L: Listener> Spec<L> {
    /// A spec with the defaults, for the acceptor that all of the pool's acceptors share.
    pub fn new(id: impl Into<Arc<str>>, acceptor: impl Acceptor<L>) -> Self {
        Self {
            id: id.into(),
            acceptor: Shared::new(Arc::new(acceptor)),
            observer: None,
            accept_errors: DropCatching::new(AcceptErrors::new(AcceptErrorKind::of)),
            rules: Rules {
                restart: Restart::default(),
                intensity: 1,
                period: Duration::from_secs(5),
                child_type: ChildType::default(),
                connection_reports: ConnectionReports::default(),
                last_listener: LastListener::default(),
                plan: StopPlan {
                    lame_duck: Duration::ZERO,
                    grace: Grace::Within(Duration::ZERO),
                    shutdown: Shutdown::Within(Duration::from_secs(5)),
                    patience: Duration::from_secs(1),
                },
            },
            shutdown: None,
        }
    }

    /// Says which ends of connections count (section 2).
    pub fn restart(mut self, restart: Restart) -> Self {
        self.rules.restart = restart;
        self
    }

    /// How many counted failures within the period the pool survives (I1).
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
    pub fn intensity(mut self, intensity: u32) -> Self {
        self.rules.intensity = intensity;
        self
    }

    /// Over which time failures are counted (I1, I2). Must be positive.
    pub fn period(mut self, period: Duration) -> Self {
        self.rules.period = period;
        self
    }

    /// How long a stop goes on accepting while connections already see *draining* (S2).
    pub fn lame_duck(mut self, lame_duck: Duration) -> Self {
        self.rules.plan.lame_duck = lame_duck;
        self
    }

    /// How long connections are left alone after the listeners closed (S4). Takes a [`Duration`] or [`Grace::Forever`].
    pub fn grace(mut self, grace: impl Into<Grace>) -> Self {
        self.rules.plan.grace = grace.into();
        self
    }

    /// What happens to those that grace left over (S5, S6). Takes a [`Duration`] or a [`Shutdown`].
    pub fn shutdown(mut self, shutdown: impl Into<Shutdown>) -> Self {
        self.shutdown = Some(shutdown.into());
        self
    }

    /// What the children are (Q2).
    pub fn child_type(mut self, child_type: ChildType) -> Self {
        self.rules.child_type = child_type;
        self
    }

    /// How long after the kill a child that does not suspend is waited for (S8). Must be positive.
    ///
    /// It is the pool's own task that gives up waiting: on a runtime whose only thread is blocked it cannot.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.rules.plan.patience = patience;
        self
    }

    /// Gets the pool's [reports](crate::Report), besides `tracing`.
    pub fn observer(mut self, observer: impl Observer<L::Addr>) -> Self {
        self.observer = Some(Shared::new(Arc::new(observer)));
        self
    }

    /// Which connections are reported (O4).
    pub fn connection_reports(mut self, reports: ConnectionReports) -> Self {
        self.rules.connection_reports = reports;
        self
    }

    /// What the pool does when its last listener has failed (L9).
    pub fn last_listener(mut self, last_listener: LastListener) -> Self {
        self.rules.last_listener = last_listener;
        self
    }

    /// Replaces the table of accept errors (A4). Fall back on
    /// [`AcceptErrorKind::of`] for what you do not decide. A table that panics
    /// does not know: resources.
    pub fn accept_errors(
        mut self,
        table: impl Fn(&io::Error) -> AcceptErrorKind + Send + Sync + 'static,
    ) -> Self {
        self.accept_errors = DropCatching::new(AcceptErrors::new(table));
        self
    }

    /// Checks the whole and fills in what depends on other fields.
    pub(crate) fn checked(mut self) -> Result<Self, SpecError> {
        self.check()?;
        self.rules.plan.shutdown = self.shutdown.unwrap_or(match self.rules.child_type {
            ChildType::Worker => Shutdown::Within(Duration::from_secs(5)),
            ChildType::Supervisor => Shutdown::Never,
        });
        Ok(self)
    }

    fn check(&self) -> Result<(), SpecError> {
        let control = self.id.chars().any(char::is_control);
        if self.id.is_empty() || self.id.len() > LONGEST_ID || control {
            return Err(SpecError::Id {
                value: self.id.as_ref().into(),
            });
        }
        if self.rules.period.is_zero() {
            return Err(SpecError::Period {
                value: self.rules.period,
            });
        }
        if self.rules.plan.patience.is_zero() {
            return Err(SpecError::Patience {
                value: self.rules.plan.patience,
            });
        }
        Ok(())
    }
}

impl<L: Listener> fmt::Debug for Spec<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("id", &self.id)
            .field("restart", &self.rules.restart)
            .field("intensity", &self.rules.intensity)
            .field("period", &self.rules.period)
            .field("child_type", &self.rules.child_type)
            .field("lame_duck", &self.rules.plan.lame_duck)
            .field("grace", &self.rules.plan.grace)
            .field("shutdown", &self.shutdown)
            .field("patience", &self.rules.plan.patience)
            .finish_non_exhaustive()
    }
}

/// The init function of a pool (R3).
pub(crate) type Reconfigurer<L> = dyn Fn() -> Result<Configure<L>, BoxError> + Send + Sync;

/// What the init function of a pool answers (R3).
#[derive(Debug)]
pub enum Configure<L: Listener> {
    /// Start, or go on, with this spec.
    Use(Spec<L>),
    /// At start: no pool. At a reload: keep the spec that is there.
    Ignore,
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::acceptor::acceptor_fn;
    use crate::listener::testing::Nowhere;

    fn spec(id: &str) -> Spec<Nowhere> {
        Spec::new(id, acceptor_fn(|_| async { Ok(()) }))
    }

    #[track_caller]
    fn check_refused(spec: Spec<Nowhere>, error: SpecError, words: &str) {
        let refused = spec.checked().map(|_| ()).unwrap_err();
        assert_eq!(refused.to_string(), words);
        assert_eq!(refused, error);
    }

    #[track_caller]
    fn check_bad_id(id: &str) {
        let words =
            format!("spec field `id` is {id:?}: give 1 to 255 bytes without control characters");
        check_refused(spec(id), SpecError::Id { value: id.into() }, &words);
    }

    #[test]
    fn id_has_1_to_255_bytes_without_control_characters() {
        check_bad_id("");
        check_bad_id(&"x".repeat(256));
        check_bad_id(&"\u{e9}".repeat(128));
        for control in ["a\n", "\0", "\t", "\u{7f}", "\u{85}", "\u{1b}[31m"] {
            check_bad_id(control);
        }
        for good in ["x", "my pool", "h\u{e9}llo \u{2603}", &"x".repeat(255)] {
            assert!(spec(good).checked().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn period_and_patience_are_above_zero() {
        check_refused(
            spec("a").period(Duration::ZERO),
            SpecError::Period {
                value: Duration::ZERO,
            },
            "spec field `period` is 0ns: give a time above zero, over which failures are counted",
        );
        check_refused(
            spec("a").patience(Duration::ZERO),
            SpecError::Patience {
                value: Duration::ZERO,
            },
            "spec field `patience` is 0ns: give a time above zero, in which killed children may suspend",
        );
        let least = spec("a")
            .period(Duration::from_nanos(1))
            .patience(Duration::from_nanos(1));
        assert!(least.checked().is_ok());
    }

    #[test]
    fn other_fields_allow_any_size() {
        for time in [Duration::ZERO, Duration::MAX] {
            let spec = spec("a").lame_duck(time).grace(time).shutdown(time);
            assert!(spec.checked().is_ok());
        }
        for intensity in [0, u32::MAX] {
            assert!(spec("a").intensity(intensity).checked().is_ok());
        }
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let Ok(Spec {
            rules, observer, ..
        }) = spec("a").checked()
        else {
            panic!("the defaults are allowed");
        };
        assert_eq!(
            rules,
            Rules {
                restart: Restart::Temporary,
                intensity: 1,
                period: Duration::from_secs(5),
                child_type: ChildType::Worker,
                connection_reports: ConnectionReports::Failures,
                last_listener: LastListener::Continue,
                plan: StopPlan {
                    lame_duck: Duration::ZERO,
                    grace: Grace::Within(Duration::ZERO),
                    shutdown: Shutdown::Within(Duration::from_secs(5)),
                    patience: Duration::from_secs(1),
                },
            }
        );
        assert!(observer.is_none());
    }

    #[track_caller]
    fn check_shutdown(spec: Spec<Nowhere>, expected: Shutdown) {
        let Ok(spec) = spec.checked() else {
            panic!("it is allowed");
        };
        assert_eq!(spec.rules.plan.shutdown, expected);
    }

    #[test]
    fn supervisors_are_never_killed_by_default() {
        let supervisors = || spec("a").child_type(ChildType::Supervisor);
        let second = Duration::from_secs(1);
        check_shutdown(supervisors(), Shutdown::Never);
        check_shutdown(supervisors().shutdown(second), Shutdown::Within(second));
        check_shutdown(supervisors().shutdown(Shutdown::Kill), Shutdown::Kill);
        // In either order.
        let shutdown_first = spec("a").shutdown(second).child_type(ChildType::Supervisor);
        check_shutdown(shutdown_first, Shutdown::Within(second));
        check_shutdown(spec("a").shutdown(Shutdown::Never), Shutdown::Never);
    }

    #[test]
    fn debug_shows_the_settings() {
        let shown = format!("{:?}", spec("a").intensity(3).grace(Grace::Forever));
        assert_eq!(
            shown,
            "Spec { id: \"a\", restart: Temporary, intensity: 3, period: 5s, child_type: Worker, \
             lame_duck: 0ns, grace: Forever, shutdown: None, patience: 1s, .. }"
        );
    }
}
