//! A spec in the form that the pool uses: checked as a whole (V1), and without the type of its
//! acceptor.
//!
//! Invariant: each user value is dropped on its own, and a panic in its `Drop` is contained.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::accept_error::AcceptErrorKind;
use crate::acceptor::{Acceptor, Init, ListenerInfo, Terminate, acceptor_fn};
use crate::connection::Connection;
use crate::error::{BoxError, SpecError, is_limit};
use crate::exit::is_peer_gone;
use crate::handshake::StreamOf;
use crate::listener::Listener;
use crate::policy::{AtLimit, ChildType, Rules, Shutdown, StopPlan};
use crate::pool::lane::Factory;
use crate::report::Observer;
use crate::runtime::Runtime;
use crate::settings::{AcceptErrorFn, PeerGoneFn, Settings};
use crate::spec::{Configure, Spec};
use crate::sync::{Shared, catch_panic};

/// The largest state, in bytes, that is stored in a queue without a box.
const LARGEST_STATE: usize = 512;

/// The longest id, in bytes.
const LONGEST_NAME: usize = 255;

/// Returns whether a text is allowed as a name in lists and reports.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A spec with the type of its acceptor erased.
pub(crate) struct ErasedSpec<R: Runtime, L: Listener> {
    pub(crate) factory: Shared<dyn Factory<R, L>>,
    pub(crate) settings: PoolSettings<L::Addr>,
}

/// The settings of a pool: user values, and the rules that the machine follows.
pub(crate) struct PoolSettings<A> {
    pub(crate) id: Arc<str>,
    pub(crate) observer: Option<Shared<dyn Observer<A>>>,
    accept_errors: Option<Shared<AcceptErrorFn>>,
    peer_gone: Option<Shared<PeerGoneFn>>,
    /// The value as it was given.
    shutdown: Option<Shutdown>,
    pub(crate) at_limit: AtLimit,
    pub(crate) rules: Rules,
}

impl<A> PoolSettings<A> {
    /// Takes the values apart before anything is checked, because each may panic when it is
    /// dropped.
    fn new(settings: Settings<A>) -> Self {
        Self {
            id: settings.id,
            observer: settings.observer.map(Shared::new),
            accept_errors: settings.accept_errors.map(Shared::new),
            peer_gone: settings.peer_gone.map(Shared::new),
            shutdown: settings.shutdown,
            at_limit: settings.at_limit,
            rules: Rules {
                restart: settings.restart,
                intensity: settings.intensity,
                period: settings.period,
                child_type: settings.child_type,
                handshake_timeout: settings.handshake_timeout,
                connection_reports: settings.connection_reports,
                last_listener: settings.last_listener,
                max_connections: settings.max_connections,
                plan: StopPlan {
                    lame_duck: settings.lame_duck,
                    grace: settings.grace,
                    shutdown: settings.shutdown.unwrap_or(match settings.child_type {
                        ChildType::Worker => Shutdown::Within(Duration::from_secs(5)),
                        ChildType::Supervisor => Shutdown::Unlimited,
                    }),
                    kill_timeout: settings.kill_timeout,
                },
            },
        }
    }

    /// Returns the settings if they are allowed.
    pub(crate) fn checked(settings: Settings<A>) -> Result<Self, SpecError> {
        let settings = Self::new(settings);
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SpecError> {
        if !is_name(&self.id) {
            return Err(SpecError::Id {
                value: self.id.as_ref().into(),
            });
        }
        if self.rules.period.is_zero() {
            return Err(SpecError::Period {
                value: self.rules.period,
            });
        }
        if self.rules.plan.kill_timeout.is_zero() {
            return Err(SpecError::KillTimeout {
                value: self.rules.plan.kill_timeout,
            });
        }
        if let Some(value) = self.rules.handshake_timeout.filter(Duration::is_zero) {
            return Err(SpecError::HandshakeTimeout { value });
        }
        match self.rules.max_connections {
            Some(value) if !is_limit(value) => Err(SpecError::MaxConnections { value }),
            _ => Ok(()),
        }
    }

    /// Returns the settings in their public form.
    pub(crate) fn to_settings(&self) -> Settings<A> {
        let Rules { plan, .. } = self.rules;
        Settings {
            id: Arc::clone(&self.id),
            restart: self.rules.restart,
            intensity: self.rules.intensity,
            period: self.rules.period,
            child_type: self.rules.child_type,
            lame_duck: plan.lame_duck,
            grace: plan.grace,
            shutdown: self.shutdown,
            kill_timeout: plan.kill_timeout,
            handshake_timeout: self.rules.handshake_timeout,
            connection_reports: self.rules.connection_reports,
            last_listener: self.rules.last_listener,
            max_connections: self.rules.max_connections,
            at_limit: self.at_limit.clone(),
            observer: self.observer.as_deref().cloned(),
            accept_errors: self.accept_errors.as_deref().cloned(),
            peer_gone: self.peer_gone.as_deref().cloned(),
        }
    }

    pub(crate) fn classifiers(&self) -> Classifiers {
        Classifiers {
            accept_errors: self.accept_errors.clone(),
            peer_gone: self.peer_gone.clone(),
        }
    }

    /// Takes the user values. A stopped pool, which a handle may keep for a long time, has only its
    /// id.
    fn take(&mut self) -> Self {
        Self {
            id: Arc::clone(&self.id),
            observer: self.observer.take(),
            accept_errors: self.accept_errors.take(),
            peer_gone: self.peer_gone.take(),
            at_limit: AtLimit::default(),
            ..*self
        }
    }
}

/// The user's error classifiers, cloned to be called outside of the lock.
pub(crate) struct Classifiers {
    accept_errors: Option<Shared<AcceptErrorFn>>,
    peer_gone: Option<Shared<PeerGoneFn>>,
}

impl Classifiers {
    /// Classifies an error of `accept`. If the function panics, the error is one of resources.
    pub(crate) fn accept_error(&self, error: &io::Error) -> AcceptErrorKind {
        match &self.accept_errors {
            None => AcceptErrorKind::classify(error),
            Some(classify) => catch_panic(|| classify(error)).unwrap_or(AcceptErrorKind::Resources),
        }
    }

    /// Returns whether the peer is gone. False if the function panics, or a source of the error
    /// does.
    pub(crate) fn is_peer_gone(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let asked = catch_panic(|| match &self.peer_gone {
            None => is_peer_gone(error),
            Some(is_gone) => is_gone(error),
        });
        asked.unwrap_or(false)
    }
}

impl<R: Runtime, L: Listener> ErasedSpec<R, L> {
    /// Returns the spec in the pool's form, if it is allowed.
    pub(crate) fn checked<Acc: Acceptor<L>>(spec: Spec<Acc, L::Addr>) -> Result<Self, SpecError> {
        let Spec { acceptor, settings } = spec;
        let factory: Shared<dyn Factory<R, L>> = match const { size_of::<Acc::State>() > LARGEST_STATE }
        {
            true => Shared::new(Arc::new(LargeState(acceptor))),
            false => Shared::new(Arc::new(acceptor)),
        };
        let settings = PoolSettings::checked(settings)?;
        Ok(Self { factory, settings })
    }

    /// Takes the user values.
    pub(super) fn take(&mut self) -> Self {
        let nothing: Arc<dyn Factory<R, L>> = Arc::new(acceptor_fn(|_| async { Ok(()) }));
        Self {
            factory: std::mem::replace(&mut self.factory, Shared::new(nothing)),
            settings: self.settings.take(),
        }
    }
}

/// An acceptor whose states are boxed: they are moved several times, and a queue allocates more
/// slots than it has waiters.
struct LargeState<A>(A);

impl<L: Listener, A: Acceptor<L>> Acceptor<L> for LargeState<A> {
    type State = Box<A::State>;
    type Exit = A::Exit;

    async fn init(&self, listener: &ListenerInfo<L::Addr>) -> Result<Init<Self::State>, BoxError> {
        Ok(match self.0.init(listener).await? {
            Init::Accept(state) => Init::Accept(Box::new(state)),
            Init::AcceptWithin(state, time) => Init::AcceptWithin(Box::new(state), time),
            Init::Hibernate(state) => Init::Hibernate(Box::new(state)),
            Init::Ignore => Init::Ignore,
        })
    }

    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> Option<Self::State> {
        self.0.init_now(listener).map(Box::new)
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<L>, L::Addr>,
        state: Self::State,
    ) -> Self::Exit {
        self.0.serve(connection, *state).await
    }

    async fn terminate(&self, reason: &Terminate, state: Self::State) {
        self.0.terminate(reason, *state).await;
    }
}

/// The init function of a pool (R3).
pub(crate) type Reconfigurer<R, L> =
    dyn Fn() -> Result<Option<Result<ErasedSpec<R, L>, SpecError>>, BoxError> + Send + Sync;

/// Erases the type of the acceptor that an init function configures.
pub(crate) fn erase_init<R: Runtime, L: Listener, Acc: Acceptor<L>>(
    init: impl Fn() -> Result<Configure<Acc, L::Addr>, BoxError> + Send + Sync + 'static,
) -> Shared<Reconfigurer<R, L>> {
    Shared::new(Arc::new(move || match init()? {
        Configure::Use(spec) => Ok(Some(ErasedSpec::checked(spec))),
        Configure::Ignore => Ok(None),
    }))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::acceptor::testing::info;
    use crate::error::MAX_CONNECTIONS;
    use crate::listener::testing::Nowhere;
    use crate::policy::{ConnectionReports, Grace, LastListener, Refusal, Restart};

    /// Has the setters of a spec.
    type TestSpec = Spec<(), u8>;

    fn spec(id: &str) -> TestSpec {
        Spec::new(id, ())
    }

    impl TestSpec {
        fn checked(self) -> Result<PoolSettings<u8>, SpecError> {
            PoolSettings::checked(self.settings)
        }
    }

    #[track_caller]
    fn check_refused(spec: TestSpec, error: SpecError, words: &str) {
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
    fn id_is_1_to_255_printable_bytes() {
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
    fn limit_durations_are_above_zero() {
        check_refused(
            spec("a").period(Duration::ZERO),
            SpecError::Period {
                value: Duration::ZERO,
            },
            "spec field `period` is 0ns: give a time above zero, over which failures are counted",
        );
        check_refused(
            spec("a").kill_timeout(Duration::ZERO),
            SpecError::KillTimeout {
                value: Duration::ZERO,
            },
            "spec field `kill_timeout` is 0ns: give a time above zero, in which killed children may suspend",
        );
        check_refused(
            spec("a").handshake_timeout(Duration::ZERO),
            SpecError::HandshakeTimeout {
                value: Duration::ZERO,
            },
            "spec field `handshake_timeout` is 0ns: give a time above zero, or none for no limit",
        );
        let least = spec("a")
            .handshake_timeout(Duration::from_nanos(1))
            .period(Duration::from_nanos(1))
            .kill_timeout(Duration::from_nanos(1));
        assert!(least.checked().is_ok());
    }

    #[test]
    fn connection_limit_is_within_bounds() {
        for value in [0, MAX_CONNECTIONS + 1, usize::MAX] {
            let words = format!(
                "spec field `max_connections` is {value}: give 1 to 2147483646, or none for no limit"
            );
            let spec = spec("a").max_connections(value);
            check_refused(spec, SpecError::MaxConnections { value }, &words);
        }
        for value in [None, Some(1), Some(MAX_CONNECTIONS)] {
            assert!(spec("a").max_connections(value).checked().is_ok());
        }
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
    fn defaults_match_the_reference() {
        let Ok(PoolSettings {
            rules, observer, ..
        }) = spec("a").checked()
        else {
            panic!("the defaults are refused");
        };
        assert_eq!(
            rules,
            Rules {
                restart: Restart::Temporary,
                intensity: 1,
                period: Duration::from_secs(5),
                child_type: ChildType::Worker,
                handshake_timeout: Some(Duration::from_secs(10)),
                connection_reports: ConnectionReports::Failures,
                last_listener: LastListener::Continue,
                max_connections: None,
                plan: StopPlan {
                    lame_duck: Duration::ZERO,
                    grace: Grace::Within(Duration::ZERO),
                    shutdown: Shutdown::Within(Duration::from_secs(5)),
                    kill_timeout: Duration::from_secs(1),
                },
            }
        );
        assert!(observer.is_none());
    }

    #[track_caller]
    fn check_shutdown(spec: TestSpec, expected: Shutdown) {
        let Ok(spec) = spec.checked() else {
            panic!("the spec is refused");
        };
        assert_eq!(spec.rules.plan.shutdown, expected);
    }

    #[test]
    fn supervisors_are_never_killed_by_default() {
        let supervisors = || spec("a").child_type(ChildType::Supervisor);
        let second = Duration::from_secs(1);
        check_shutdown(supervisors(), Shutdown::Unlimited);
        check_shutdown(supervisors().shutdown(second), Shutdown::Within(second));
        check_shutdown(supervisors().shutdown(Shutdown::Kill), Shutdown::Kill);
        // In either order.
        let shutdown_first = spec("a").shutdown(second).child_type(ChildType::Supervisor);
        check_shutdown(shutdown_first, Shutdown::Within(second));
        check_shutdown(spec("a").shutdown(Shutdown::Unlimited), Shutdown::Unlimited);
    }

    #[test]
    fn settings_round_trip() {
        let spec = spec("a")
            .restart(Restart::Transient)
            .intensity(3)
            .period(Duration::from_secs(9))
            .child_type(ChildType::Supervisor)
            .lame_duck(Duration::from_secs(1))
            .grace(Grace::Unlimited)
            .kill_timeout(Duration::from_secs(2))
            .handshake_timeout(None)
            .connection_reports(ConnectionReports::All)
            .last_listener(LastListener::Stop)
            .max_connections(7)
            .at_limit(AtLimit::Refuse(Refusal::Reset))
            .observer(crate::observer_fn(|_| ()))
            .accept_errors(AcceptErrorKind::classify)
            .peer_gone(is_peer_gone);
        let given = format!("{:?}", spec.settings);
        let Ok(settings) = spec.checked() else {
            panic!("the spec is refused");
        };
        let read = settings.to_settings();
        assert_eq!(format!("{read:?}"), given);
        assert!(read.observer.is_some() && read.accept_errors.is_some());
        assert!(read.peer_gone.is_some());
    }

    fn classifiers(spec: TestSpec) -> Classifiers {
        let Ok(settings) = spec.checked() else {
            panic!("the spec is refused");
        };
        settings.classifiers()
    }

    #[test]
    fn classifiers_replace_the_defaults() {
        let errors = [io::ErrorKind::ConnectionReset, io::ErrorKind::TimedOut].map(io::Error::from);
        let gone = |spec| {
            let classifiers = classifiers(spec);
            errors
                .each_ref()
                .map(|error| classifiers.is_peer_gone(error))
        };
        assert_eq!(gone(spec("a")), [true, false]);
        assert_eq!(gone(spec("a").peer_gone(|_| true)), [true, true]);
        assert_eq!(gone(spec("a").peer_gone(|_| panic!("no luck"))), [false; 2]);
        let kind = |spec| classifiers(spec).accept_error(&errors[0]);
        assert_eq!(kind(spec("a")), AcceptErrorKind::Connection);
        let listener = spec("a").accept_errors(|_| AcceptErrorKind::Listener);
        assert_eq!(kind(listener), AcceptErrorKind::Listener);
        let panics = spec("a").accept_errors(|_| panic!("no luck"));
        assert_eq!(kind(panics), AcceptErrorKind::Resources);
    }

    /// Its state is a number; counts what it gets back.
    struct Counts(AtomicUsize);

    impl Acceptor<Nowhere> for Counts {
        type State = usize;
        type Exit = ();

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<usize>, BoxError> {
            Ok(Init::Ignore)
        }

        fn init_now(&self, _: &ListenerInfo<SocketAddr>) -> Option<usize> {
            Some(7)
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, _: usize) {}

        async fn terminate(&self, _: &Terminate, state: usize) {
            self.0.fetch_add(state, Ordering::SeqCst);
        }
    }

    #[test]
    fn boxed_state_is_given_and_taken() {
        let acceptor = LargeState(Counts(AtomicUsize::new(0)));
        let state = Acceptor::init_now(&acceptor, &info());
        assert_eq!(state, Some(Box::new(7)));
        let terminated = state.map(|state| acceptor.terminate(&Terminate::Closed, state));
        assert_eq!(terminated.and_then(FutureExt::now_or_never), Some(()));
        assert_eq!(acceptor.0.0.load(Ordering::SeqCst), 7);
    }
}
