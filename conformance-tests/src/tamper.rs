//! Tampering, which tests the suite itself: how a deliberately wrong pool misbehaves.
//!
//! A pool is always the core's own. A wrong one is made by tampering with its inputs (the spec, the
//! acceptor, the observer: here) and with the calls of its handle ([`Pool`](crate::fixture::Pool) and
//! [`Handle`](crate::fixture::Handle)). A [`World`](crate::World) says through its runtime value what
//! is tampered with; only deliberately wrong worlds tamper with anything.

use std::error::Error;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use acceptor_core::{
    AcceptErrorKind, Acceptor, AcceptorRecord, AtLimit, BoxError, ChildCounts, ChildType,
    Connection, ConnectionRecord, ConnectionReports, Counts, Exit, Grace, Init, IntoExit,
    LastListener, Latch, Lifecycle, Listener, ListenerId, ListenerInfo, ListenerRecord,
    ListenerSettings, Report, Restart, Shutdown, Spec, Status, StopReport, StreamOf, Terminate,
};
use futures::channel::{mpsc, oneshot};
use futures::future::join;
use futures::{FutureExt, StreamExt};

use crate::address::Address;
use crate::instruments::TraceEvent;
use crate::record::Record;

/// Changes a value.
pub type Edit<T> = Box<dyn Fn(&mut T) + Send + Sync>;

/// Changes a report, and returns how often it is delivered.
pub type Reporting = Box<dyn Fn(&mut Report<Address>) -> usize + Send + Sync>;

/// What is tampered with. The default is nothing.
#[derive(Default)]
pub struct Tamper {
    /// Overrides settings of the spec.
    pub settings: Settings,
    /// How the acceptor's callbacks misbehave.
    pub callbacks: Callbacks,
    /// How handshakes misbehave.
    pub handshakes: Handshaking,
    /// Changes a report, and returns how often it is delivered.
    pub report: Option<Reporting>,
    /// Changes the result of `counts`.
    pub counts: Option<Edit<Counts>>,
    /// Changes the result of `count_children`.
    pub child_counts: Option<Edit<ChildCounts>>,
    /// Changes the result of `listeners`.
    pub listeners: Option<Edit<Vec<ListenerRecord<Address>>>>,
    /// Changes the result of `acceptors`.
    pub acceptors_shown: Option<Edit<Vec<AcceptorRecord>>>,
    /// Changes the result of `connections`.
    pub connections: Option<Edit<Vec<ConnectionRecord<Address>>>>,
    /// Changes the result of `status`.
    pub status: Option<Edit<Status<Address>>>,
    /// Changes the stop report.
    pub result: Option<Edit<StopReport<Address>>>,
    /// Changes the number of acceptors with which a listener is added.
    pub acceptors: Option<fn(usize) -> usize>,
    /// Changes the settings with which a listener is added.
    pub listener_settings: Option<fn(&mut ListenerSettings)>,
    /// How a call of the handle misbehaves.
    pub conduct: Option<(Verb, Conduct)>,
    /// How the observer is called.
    pub observes: Observes,
    /// Formats a report.
    pub words: Option<fn(&Report<Address>) -> String>,
    /// Changes the recorded `tracing` events.
    pub traces: Option<Edit<Vec<TraceEvent>>>,
    /// Whether the listener's own classification of errors is ignored.
    pub asks_no_listener: bool,
    /// Changes the argument of `init`.
    pub info: Option<Edit<ListenerInfo<Address>>>,
    /// Changes the connection that `serve` receives.
    pub given: Option<Edit<Given>>,
    /// Replaces the latch that `stopping` returns.
    pub stopping: Option<fn() -> Latch>,
    /// The occasion from which callbacks, specs or calls are tampered with.
    pub since: Since,
}

/// The parts of a connection that can be changed.
#[derive(Debug)]
pub struct Given {
    /// The listener of the connection.
    pub listener: ListenerId,
    /// The signals of the connection.
    pub lifecycle: Lifecycle,
}

/// The occasion from which a flaw applies: the first one by default.
#[derive(Debug, Clone, Default)]
pub struct Since {
    first: usize,
    times: Arc<[AtomicUsize; 5]>,
}

/// The occasions that [`Since`] counts.
#[derive(Debug, Clone, Copy)]
enum Occasion {
    Init,
    Serve,
    Terminate,
    Spec,
    Call,
}

impl Since {
    /// Applies from this occasion on, counted from 1.
    pub fn time(first: usize) -> Self {
        Self {
            first,
            times: Arc::default(),
        }
    }

    /// Counts an occasion, and returns whether the flaw applies to it.
    fn has_come(&self, occasion: Occasion) -> bool {
        self.times[occasion as usize].fetch_add(1, Ordering::SeqCst) + 1 >= self.first
    }
}

/// How handshakes misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handshaking {
    /// Not at all.
    #[default]
    Sound,
    /// Only one handshake runs at a time.
    OneByOne,
    /// They run on a thread outside the runtime.
    Elsewhere,
    /// An error of a handshake becomes a panic.
    FailuresPanic,
    /// A handshake cannot replace addresses.
    KeepsAddresses,
    /// Only the first of several handshakes runs.
    OnlyTheFirst,
}

/// How the observer is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Observes {
    /// From the pool's task.
    #[default]
    Sound,
    /// From a thread outside the runtime.
    Elsewhere,
}

/// Shows only what is tampered with.
impl fmt::Debug for Tamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = [
            ("report", self.report.is_some()),
            ("counts", self.counts.is_some()),
            ("listeners", self.listeners.is_some()),
            ("acceptors_shown", self.acceptors_shown.is_some()),
            ("connections", self.connections.is_some()),
            ("status", self.status.is_some()),
            ("result", self.result.is_some()),
            ("acceptors", self.acceptors.is_some()),
            ("listener_settings", self.listener_settings.is_some()),
            ("observes", self.observes != Observes::Sound),
            ("words", self.words.is_some()),
            ("traces", self.traces.is_some()),
            ("asks_no_listener", self.asks_no_listener),
            ("info", self.info.is_some()),
            ("given", self.given.is_some()),
            ("stopping", self.stopping.is_some()),
        ];
        let mut shown = f.debug_set();
        for (name, _) in changed.iter().filter(|(_, changed)| *changed) {
            shown.entry(name);
        }
        if !self.settings.replaced().is_empty() {
            shown.entry(&self.settings);
        }
        if self.callbacks != Callbacks::Sound {
            shown.entry(&self.callbacks);
        }
        if self.handshakes != Handshaking::Sound {
            shown.entry(&self.handshakes);
        }
        if self.since.first > 1 {
            shown.entry(&("since", self.since.first));
        }
        shown.entries(self.conduct).finish()
    }
}

/// The settings of a spec that are overridden.
#[derive(Clone, Copy, Default)]
pub struct Settings {
    /// The restart type.
    pub restart: Option<Restart>,
    /// The intensity.
    pub intensity: Option<u32>,
    /// The period.
    pub period: Option<Duration>,
    /// The lame duck.
    pub lame_duck: Option<Duration>,
    /// The grace.
    pub grace: Option<Grace>,
    /// The shutdown.
    pub shutdown: Option<Shutdown>,
    /// The child type.
    pub child_type: Option<ChildType>,
    /// The kill timeout.
    pub patience: Option<Duration>,
    /// The classifier of accept errors.
    pub accept_errors: Option<fn(&io::Error) -> AcceptErrorKind>,
    /// The classifier of errors that mean that the peer is gone.
    pub peer_gone: Option<fn(&(dyn Error + 'static)) -> bool>,
    /// The timeout of a handshake.
    pub handshake_timeout: Option<Option<Duration>>,
    /// Which connections are reported.
    pub connection_reports: Option<ConnectionReports>,
    /// The reaction to the failure of the last listener.
    pub last_listener: Option<LastListener>,
    /// The limit on connections.
    pub max_connections: Option<Option<usize>>,
    /// What happens at a limit.
    pub at_limit: Option<fn() -> AtLimit>,
}

impl Settings {
    /// Returns the names and values of the overridden settings.
    fn replaced(&self) -> Vec<(&'static str, String)> {
        fn shown<T: fmt::Debug>(
            name: &'static str,
            value: &Option<T>,
        ) -> Option<(&'static str, String)> {
            Some((name, format!("{:?}", value.as_ref()?)))
        }
        let table = self.accept_errors.map(|_| "a table");
        let classifier = self.peer_gone.map(|_| "a classifier");
        [
            shown("restart", &self.restart),
            shown("intensity", &self.intensity),
            shown("period", &self.period),
            shown("lame_duck", &self.lame_duck),
            shown("grace", &self.grace),
            shown("shutdown", &self.shutdown),
            shown("child_type", &self.child_type),
            shown("kill timeout", &self.patience),
            shown("accept_errors", &table),
            shown("peer_gone", &classifier),
            shown("handshake_timeout", &self.handshake_timeout),
            shown("connection_reports", &self.connection_reports),
            shown("last_listener", &self.last_listener),
            shown("max_connections", &self.max_connections),
            shown("at_limit", &self.at_limit.map(|at_limit| at_limit())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn apply<Acc>(self, mut spec: Spec<Acc, Address>) -> Spec<Acc, Address> {
        if let Some(restart) = self.restart {
            spec = spec.restart(restart);
        }
        if let Some(intensity) = self.intensity {
            spec = spec.intensity(intensity);
        }
        if let Some(period) = self.period {
            spec = spec.period(period);
        }
        if let Some(lame_duck) = self.lame_duck {
            spec = spec.lame_duck(lame_duck);
        }
        if let Some(grace) = self.grace {
            spec = spec.grace(grace);
        }
        if let Some(shutdown) = self.shutdown {
            spec = spec.shutdown(shutdown);
        }
        if let Some(child_type) = self.child_type {
            spec = spec.child_type(child_type);
        }
        if let Some(patience) = self.patience {
            spec = spec.kill_timeout(patience);
        }
        if let Some(table) = self.accept_errors {
            spec = spec.accept_errors(table);
        }
        if let Some(is_gone) = self.peer_gone {
            spec = spec.peer_gone(is_gone);
        }
        if let Some(timeout) = self.handshake_timeout {
            spec = spec.handshake_timeout(timeout);
        }
        if let Some(reports) = self.connection_reports {
            spec = spec.connection_reports(reports);
        }
        if let Some(last_listener) = self.last_listener {
            spec = spec.last_listener(last_listener);
        }
        if let Some(limit) = self.max_connections {
            spec = spec.max_connections(limit);
        }
        if let Some(at_limit) = self.at_limit {
            spec = spec.at_limit(at_limit());
        }
        spec
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.replaced()).finish()
    }
}

/// A call of a pool or its handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `Pool::start` and `Pool::start_with`.
    Start,
    /// `add_listener`.
    AddListener,
    /// `add_listener_on`: ignoring it ignores the runtime.
    AddListenerOn,
    /// `close_listener`.
    CloseListener,
    /// `stop_child`.
    StopChild,
    /// `kill_child`.
    KillChild,
    /// `reconfigure`.
    Reconfigure,
    /// `reload`.
    Reload,
    /// `set_max_connections`.
    SetMaxConnections,
    /// `set_listener_max_connections`.
    SetListenerMaxConnections,
    /// `stop`.
    Stop,
    /// `kill`.
    Kill,
    /// `join`.
    Join,
    /// `counts`, `listeners`, `connections` and `status`.
    Look,
    /// `counts`.
    Counts,
    /// `listeners`.
    Listeners,
    /// `connections`.
    Connections,
    /// Dropping the owner.
    DropOwner,
}

/// How a call misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// It does nothing and reports success.
    Ignored,
    /// It reports success in place of an error.
    Forgiven,
    /// It never completes.
    Hangs,
    /// It panics instead of returning an error.
    Panics,
    /// It stops instead of killing and kills instead of stopping; it keeps acceptors instead of replacing them.
    Swapped,
    /// It runs twice.
    Twice,
    /// It starts late.
    Later,
    /// It begins, and reports at once that it is done.
    Early,
    /// It is done, and returns the error that its subject is unknown.
    Denied,
    /// It is done, and kills the pool's connections.
    Kills,
}

impl Tamper {
    /// Returns the spec with the overridden settings.
    pub fn spec<Acc>(&self, spec: Spec<Acc, Address>) -> Spec<Acc, Address> {
        match self.since.has_come(Occasion::Spec) {
            true => self.settings.apply(spec),
            false => spec,
        }
    }

    /// Changes the settings with which a listener is added.
    pub fn listener(&self, settings: &mut ListenerSettings) {
        if let Some(change) = self.acceptors {
            settings.acceptors = change(settings.acceptors);
        }
        if let Some(change) = self.listener_settings {
            change(settings);
        }
    }

    /// Returns how a call misbehaves.
    pub fn conduct(&self, verb: Verb) -> Option<Conduct> {
        let (wrong, conduct) = self.conduct?;
        (wrong == verb && self.since.has_come(Occasion::Call)).then_some(conduct)
    }
}

/// How an acceptor's callbacks misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Callbacks {
    /// Not at all.
    #[default]
    Sound,
    /// `init` runs twice.
    InitTwice,
    /// `init` runs even if `init_now` has returned a state.
    InitAfterInitNow,
    /// Only one acceptor at a time runs `init`.
    InitOneByOne,
    /// *Ignore* becomes an error.
    IgnoreFails,
    /// An error or panic of `init` becomes *ignore*.
    FailureIgnored,
    /// After a failed `init`, two acceptors retry at a time.
    RetriesInPairs,
    /// `init` runs in the task of the connection whose acceptor it replaces.
    InitInServe,
    /// *Hibernate* becomes *ignore*.
    HibernateIgnored,
    /// The accept timeout never expires.
    NoTimeout,
    /// The accept timeout expires at once.
    TimeoutAtOnce,
    /// `init` runs on a thread outside the runtime.
    InitElsewhere,
    /// The second acceptor to complete `init` begins to wait only when the fourth has completed it.
    WaitsLate,
    /// A child gets its predecessor's state.
    StateOfAnother,
    /// `terminate` never runs.
    TerminateNever,
    /// `terminate` runs, but never completes for its caller.
    TerminateHangs,
    /// `terminate` runs on a thread outside the runtime.
    TerminateElsewhere,
    /// `terminate` gets the reason `Closed`, whatever the reason is.
    TerminateClosed,
    /// A panic in `terminate` is swallowed.
    TerminateCaught,
    /// `terminate` does not run at a stop.
    TerminateNotWhenStopped,
    /// `serve` gets the peer's address as its local address.
    ServePeerForLocal,
    /// `serve` runs on a thread outside the runtime.
    ServeElsewhere,
    /// `serve` runs on a thread outside the runtime, and has already returned as far as the pool knows.
    ServeDetached,
    /// Every result of `serve` becomes `Ok`.
    ServeErrorsForgiven,
    /// An explicit failed exit is classified as an error would be.
    ExitsReclassified,
    /// `serve` never completes for its caller.
    ServeHangs,
    /// The values that `serve` holds are leaked.
    ServeKept,
    /// A panic of `serve` ends all other connections too.
    ServePanicSpreads,
}

/// An acceptor with misbehaving callbacks.
pub struct Tampered<A, S> {
    acceptor: Arc<A>,
    tamper: Option<Arc<Tamper>>,
    callbacks: Callbacks,
    since: Since,
    kept: Mutex<Option<S>>,
    through: Record<()>,
    turn: futures::lock::Mutex<()>,
    harm: Arc<Mutex<Harm>>,
    failed: AtomicBool,
    begun: AtomicBool,
    asks: mpsc::UnboundedSender<Ask<S>>,
    asked: futures::lock::Mutex<mpsc::UnboundedReceiver<Ask<S>>>,
}

/// A request to run `init` in the task of a connection.
struct Ask<S> {
    info: ListenerInfo<Address>,
    answer: oneshot::Sender<Result<Init<S>, BoxError>>,
}

/// The state shared by connections to which a panic spreads.
#[derive(Default)]
struct Harm {
    done: bool,
    waiting: Vec<Waker>,
}

impl<A, S> Tampered<A, S> {
    /// Wraps an acceptor.
    pub fn new(acceptor: A, tamper: Option<Arc<Tamper>>) -> Self {
        let (asks, asked) = mpsc::unbounded();
        let known = tamper.as_deref();
        Self {
            acceptor: Arc::new(acceptor),
            callbacks: known.map_or(Callbacks::Sound, |tamper| tamper.callbacks),
            since: known.map_or_else(Since::default, |tamper| tamper.since.clone()),
            tamper,
            kept: Mutex::new(None),
            through: Record::default(),
            turn: futures::lock::Mutex::new(()),
            harm: Arc::default(),
            failed: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            asks,
            asked: futures::lock::Mutex::new(asked),
        }
    }
}

impl<A, S> fmt::Debug for Tampered<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tampered")
            .field("callbacks", &self.callbacks)
            .finish_non_exhaustive()
    }
}

impl<L, A> Acceptor<L> for Tampered<A, A::State>
where
    L: Listener<Addr = Address>,
    A: Acceptor<L>,
{
    type State = A::State;
    type Exit = Exit;

    async fn init(&self, info: &ListenerInfo<Address>) -> Result<Init<A::State>, BoxError> {
        let mut changed = info.clone();
        if let Some(edit) = self.tamper.as_ref().and_then(|tamper| tamper.info.as_ref()) {
            edit(&mut changed);
        }
        let info = &changed;
        let init = || self.acceptor.init(info);
        match self.callbacks(Occasion::Init) {
            Callbacks::InitTwice => {
                drop(init().await);
                init().await
            }
            Callbacks::InitOneByOne => {
                let _turn = self.turn.lock().await;
                init().await
            }
            Callbacks::IgnoreFails => match init().await? {
                Init::Ignore => Err("ignored".into()),
                other => Ok(other),
            },
            Callbacks::FailureIgnored => match AssertUnwindSafe(init()).catch_unwind().await {
                Ok(Ok(answer)) => Ok(answer),
                _ => Ok(Init::Ignore),
            },
            Callbacks::RetriesInPairs => {
                let answer = if self.failed.load(Ordering::SeqCst) {
                    join(init(), init()).await.0
                } else {
                    init().await
                };
                self.failed.store(answer.is_err(), Ordering::SeqCst);
                answer
            }
            Callbacks::InitInServe if self.begun.swap(true, Ordering::SeqCst) => {
                let (answer, answered) = oneshot::channel();
                let ask = Ask {
                    info: info.clone(),
                    answer,
                };
                let _ = self.asks.unbounded_send(ask);
                answered.await.unwrap_or_else(|_| Ok(Init::Ignore))
            }
            Callbacks::HibernateIgnored => match init().await? {
                Init::Hibernate(_) => Ok(Init::Ignore),
                other => Ok(other),
            },
            Callbacks::NoTimeout => match init().await? {
                Init::AcceptWithin(state, _) => Ok(Init::Accept(state)),
                other => Ok(other),
            },
            Callbacks::TimeoutAtOnce => match init().await? {
                Init::AcceptWithin(state, _) => Ok(Init::AcceptWithin(state, Duration::ZERO)),
                other => Ok(other),
            },
            Callbacks::InitElsewhere => {
                let (acceptor, info) = (Arc::clone(&self.acceptor), info.clone());
                let init = async move { acceptor.init(&info).await };
                let answer = elsewhere(init).await;
                answer.unwrap_or_else(|_| Err("it panicked".into()))
            }
            Callbacks::WaitsLate => {
                let answer = init().await;
                self.through.push(());
                if self.through.count() == 2 {
                    let four = |through: &[()]| (through.len() >= 4).then_some(());
                    self.through.when(four).await;
                }
                answer
            }
            Callbacks::StateOfAnother => match init().await? {
                Init::Accept(state) => {
                    let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                    Ok(kept.replace(state).map_or(Init::Ignore, Init::Accept))
                }
                other => Ok(other),
            },
            _ => init().await,
        }
    }

    fn init_now(&self, info: &ListenerInfo<Address>) -> Option<A::State> {
        let state = self.acceptor.init_now(info);
        match self.callbacks {
            Callbacks::InitAfterInitNow => None,
            _ => state,
        }
    }

    async fn serve(
        &self,
        mut connection: Connection<StreamOf<L>, Address>,
        state: A::State,
    ) -> Exit {
        if let Some(edit) = self
            .tamper
            .as_ref()
            .and_then(|tamper| tamper.given.as_ref())
        {
            let mut given = Given {
                listener: connection.listener,
                lifecycle: connection.lifecycle.clone(),
            };
            edit(&mut given);
            (connection.listener, connection.lifecycle) = (given.listener, given.lifecycle);
        }
        let acceptor = Arc::clone(&self.acceptor);
        // As an `Exit`, to which every acceptor's result converts.
        let serves = |acceptor: Arc<A>, connection, state| async move {
            acceptor.serve(connection, state).await.into_exit()
        };
        match self.callbacks(Occasion::Serve) {
            Callbacks::ServePeerForLocal => {
                connection.local_addr = connection.peer_addr;
                serves(acceptor, connection, state).await
            }
            Callbacks::ServeElsewhere => {
                let serve = serves(acceptor, connection, state);
                elsewhere(serve).await.unwrap_or_default()
            }
            Callbacks::ServeDetached => {
                let serve = serves(acceptor, connection, state);
                drop(elsewhere(serve));
                Exit::normal()
            }
            Callbacks::ServeErrorsForgiven => {
                drop(serves(acceptor, connection, state).await);
                Exit::normal()
            }
            Callbacks::ExitsReclassified => {
                let exit = serves(acceptor, connection, state).await;
                match exit.to_string().contains("connection reset") {
                    true => Exit::disconnected(exit.to_string()),
                    false => exit,
                }
            }
            Callbacks::ServeHangs => {
                drop(serves(acceptor, connection, state).await);
                pending().await
            }
            Callbacks::InitInServe => {
                let ask = self.asked.lock().await.next().await;
                if let Some(Ask { info, answer }) = ask {
                    let _ = answer.send(acceptor.init(&info).await);
                }
                serves(acceptor, connection, state).await
            }
            Callbacks::ServeKept => {
                let serve = serves(acceptor, connection, state);
                Kept(Some(Box::pin(serve))).await
            }
            Callbacks::ServePanicSpreads => {
                let mut serve = pin!(serves(acceptor, connection, state));
                poll_fn(|cx| self.spread(cx, |cx| serve.as_mut().poll(cx))).await
            }
            _ => serves(acceptor, connection, state).await,
        }
    }

    async fn terminate(&self, reason: &Terminate, state: A::State) {
        let callbacks = self.callbacks(Occasion::Terminate);
        let reason = match callbacks {
            Callbacks::TerminateClosed => &Terminate::Closed,
            _ => reason,
        };
        if callbacks == Callbacks::TerminateElsewhere {
            let (acceptor, reason) = (Arc::clone(&self.acceptor), reason.clone());
            let terminate = async move { acceptor.terminate(&reason, state).await };
            let _ = elsewhere(terminate).await;
            return;
        }
        let terminate = self.acceptor.terminate(reason, state);
        match callbacks {
            Callbacks::TerminateNever => drop(terminate),
            Callbacks::TerminateNotWhenStopped if matches!(reason, Terminate::Stopped) => {
                drop(terminate);
            }
            Callbacks::TerminateHangs => {
                terminate.await;
                pending().await
            }
            Callbacks::TerminateCaught => {
                let _ = AssertUnwindSafe(terminate).catch_unwind().await;
            }
            _ => terminate.await,
        }
    }
}

impl<A, S> Tampered<A, S> {
    /// Returns the flaw of the callback that begins.
    fn callbacks(&self, of: Occasion) -> Callbacks {
        match self.since.has_come(of) {
            true => self.callbacks,
            false => Callbacks::Sound,
        }
    }

    /// Polls a connection that ends when another has panicked.
    fn spread(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<Exit>,
    ) -> Poll<Exit> {
        let lock = || self.harm.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut harm = lock();
            if harm.done {
                return Poll::Ready(Exit::failed("another has panicked"));
            }
            harm.waiting.push(cx.waker().clone());
        }
        catch_unwind(AssertUnwindSafe(|| poll(cx))).unwrap_or_else(|panic| {
            let waiting = {
                let mut harm = lock();
                harm.done = true;
                std::mem::take(&mut harm.waiting)
            };
            waiting.into_iter().for_each(Waker::wake);
            resume_unwind(panic)
        })
    }
}

/// A future that is leaked when it completes or is dropped.
struct Kept<F>(Option<std::pin::Pin<Box<F>>>);

impl<F: Future> Future for Kept<F> {
    type Output = F::Output;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match &mut self.0 {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Kept<F> {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// Runs a future on its own thread to completion, even if its caller goes away.
pub(crate) fn elsewhere<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
                let _ = sender.send(value);
                return;
            }
            thread::park();
        }
    });
    receiver
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
