//! The test fixture: a pool with a scripted acceptor, and a record of every callback.
//!
//! Invariants: a callback is recorded before the acceptor proceeds; a command to a connection is acknowledged before it
//! takes effect; no wait exceeds the patience.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use acceptor_core::{
    Acceptor, AcceptorRecord, AcceptorState, BoxError, ChildId, Connection, Exit, Init, Latch,
    Lifecycle, ListenerId, ListenerInfo, ListenerSettings, PoolState, Report, Runtime, Spec,
    StopReport, StreamOf, Terminate, Transport, observer_fn,
};
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::{FutureExt, StreamExt};

use crate::address::Address;
use crate::assertion::at_caller;
use crate::boxed::{Boxed, Erased};
use crate::instruments::{TaskId, current_task};
use crate::patience::Patience;
use crate::record::Record;
use crate::tamper::{Observes, Tamper, Tampered};
use crate::verdict::{Broken, Verdict};
use crate::world::{Client, Closed};

pub use crate::pool::{Handle, Pool};

/// What `init` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInit {
    /// Accept, without a timeout.
    Accept,
    /// Accept, with this timeout.
    AcceptWithin(Duration),
    /// Accept, as *hibernate*.
    Hibernate,
    /// Ignore.
    Ignore,
    /// An error with this message.
    Fail(&'static str),
    /// A panic with this message.
    Panic(&'static str),
    /// `init` never completes.
    Nothing,
    /// `init` waits until the test [decides](Fixture::decide).
    Deferred,
}

/// What `terminate` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTerminate {
    /// Returns at once.
    Return,
    /// Panics with this message.
    Panic(&'static str),
    /// Never returns.
    Hang,
}

/// A command to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Return `Ok`.
    Return,
    /// Return `Ok` at this time.
    ReturnAt(Instant),
    /// Return a clean exit.
    ExitCleanly,
    /// Return a clean exit with this reason.
    ExitCleanlyBecause(&'static str),
    /// Return an error with this message.
    Fail(&'static str),
    /// Return an error that contains an `io::Error`.
    FailWith(IoFailure),
    /// Return an explicit disconnected exit, with an error of this message.
    ExitDisconnected(&'static str),
    /// Return an explicit failed exit that contains an `io::Error`.
    ExitFailed(IoFailure),
    /// From now on return the stream's error, if it has one.
    FailWithStream,
    /// Panic with this message.
    Panic(&'static str),
    /// Panic with this message, without running the panic hook.
    Unwind(&'static str),
    /// Hold a value whose drop panics with this message.
    PanicWhenDropped(&'static str),
    /// Take the stop signal and ignore it.
    TrapAndStay,
    /// Take the stop signal, and return this long after it is set.
    TrapAndLeaveAfter(Duration),
}

/// An error that contains an `io::Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoFailure {
    /// The kind of the `io::Error`.
    pub kind: io::ErrorKind,
    /// Where the `io::Error` is.
    pub location: Location,
}

/// Where an `io::Error` is within an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// It is the error itself.
    Itself,
    /// It is the source of the error's source.
    Source,
    /// It is wrapped in another `io::Error`, by `io::Error::other`.
    Inside,
}

impl From<IoFailure> for BoxError {
    fn from(IoFailure { kind, location }: IoFailure) -> Self {
        let error = io::Error::from(kind);
        match location {
            Location::Itself => error.into(),
            Location::Source => WithSource(WithSource(error)).into(),
            Location::Inside => io::Error::other(error).into(),
        }
    }
}

/// An error with a source.
#[derive(Debug)]
struct WithSource<E>(E);

impl<E: fmt::Debug> fmt::Display for WithSource<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error with a source")
    }
}

impl<E: Error + 'static> Error for WithSource<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// How the future of `serve` ended, from its own point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServeEnd {
    /// It returned or panicked, as commanded.
    Completed,
    /// It returned because of the stop signal.
    Stopped,
    /// It was dropped.
    Dropped,
}

/// A call of the acceptor or the observer, recorded in call order.
#[derive(Debug, Clone)]
pub enum Call {
    /// `init` began.
    Init {
        /// The number of the call, from 1.
        number: usize,
        /// When it began, by the world's clock.
        at: Instant,
        /// The task that it runs on, in a world with instruments.
        task: Option<TaskId>,
        /// Its argument.
        info: ListenerInfo<Address>,
    },
    /// `init_now` returned a state.
    InitNow {
        /// The number of the state.
        number: usize,
        /// Its argument.
        info: ListenerInfo<Address>,
    },
    /// `serve` began.
    Serve(Served),
    /// `serve` ended: its future is dropped.
    ServeEnded {
        /// The connection.
        child: ChildId,
        /// How it ended.
        end: ServeEnd,
    },
    /// `terminate` began.
    Terminate {
        /// The number of the `init` that made the state.
        number: usize,
        /// When it began, by the world's clock.
        at: Instant,
        /// The task that it runs on, in a world with instruments.
        task: Option<TaskId>,
        /// The reason.
        reason: Terminate,
    },
    /// The state of an `init` was dropped.
    StateDropped {
        /// The number of that `init`.
        number: usize,
    },
    /// The observer received a report.
    Report(Report<Address>),
}

/// A connection in `serve`, and the channel for its commands.
#[derive(Clone)]
pub struct Served {
    /// The connection's id.
    pub child: ChildId,
    /// The listener that accepted it.
    pub listener: ListenerId,
    /// The peer's address.
    pub peer_addr: Address,
    /// The local address.
    pub local_addr: Address,
    /// The transport's addresses, if a handshake replaced them.
    pub transport: Option<Transport<Address>>,
    /// The connection's latches.
    pub lifecycle: Lifecycle,
    /// The number of the `init` that made its state.
    pub number: usize,
    /// The task that it runs on, in a world with instruments.
    pub task: Option<TaskId>,
    commands: mpsc::UnboundedSender<(Command, oneshot::Sender<()>)>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("child", &self.child)
            .field("peer_addr", &self.peer_addr)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// A spec for the scripted acceptor.
pub type ScriptedSpec<W = Boxed> = Spec<Tampered<Scripted<W>, State>, Address>;

/// The test fixture: a world, a script for the acceptor, and the records.
pub struct Fixture<W = Boxed> {
    /// The world.
    pub world: Arc<W>,
    /// How long the fixture waits for an event.
    pub patience: Patience,
    /// Every call of the acceptor.
    pub calls: Record<Call>,
    /// Every report of the pool.
    pub reports: Record<Report<Address>>,
    script: Arc<Script>,
}

impl<W> fmt::Debug for Fixture<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("patience", &self.patience)
            .field("calls", &self.calls)
            .field("reports", &self.reports)
            .finish_non_exhaustive()
    }
}

struct Script {
    /// How many states have been numbered.
    numbers: AtomicUsize,
    inits: AtomicUsize,
    init_now: Mutex<InitNow>,
    outcomes: Mutex<Outcomes>,
    on_terminate: Mutex<OnTerminate>,
    on_serve: Mutex<Option<Arc<ServeHook>>>,
    /// The outcomes of deferred `init` calls, in the order in which those began.
    decided: Record<OnInit>,
    on_report: Mutex<Option<Arc<ReportHook>>>,
}

/// What `init_now` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitNow {
    /// No state: `init` runs.
    Nothing,
    /// A state.
    State,
}

/// Called by the observer with each report, before it is recorded.
type ReportHook = dyn Fn(&Report<Address>) + Send + Sync;

/// Called when `serve` is first polled.
type ServeHook = dyn Fn(&Served) + Send + Sync;

struct Outcomes {
    first: VecDeque<OnInit>,
    then: OnInit,
    deferred: usize,
}

impl Script {
    /// Starts an `init`: returns its number, its outcome, and its index among the deferred ones.
    fn begin_init(&self) -> (usize, OnInit, usize) {
        let mut outcomes = lock(&self.outcomes);
        self.inits.fetch_add(1, Ordering::SeqCst);
        let number = self.next_number();
        let then = outcomes.then;
        let outcome = outcomes.first.pop_front().unwrap_or(then);
        let index = outcomes.deferred;
        outcomes.deferred += usize::from(outcome == OnInit::Deferred);
        (number, outcome, index)
    }

    /// Returns the number of the next state.
    fn next_number(&self) -> usize {
        self.numbers.fetch_add(1, Ordering::SeqCst) + 1
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: Erased> Fixture<W> {
    /// Creates a fixture in which `init` accepts and `terminate` returns.
    pub fn new(world: &Arc<W>) -> Self {
        Self {
            world: Arc::clone(world),
            patience: world.patience(),
            calls: Record::default(),
            reports: Record::default(),
            script: Arc::new(Script {
                numbers: AtomicUsize::new(0),
                inits: AtomicUsize::new(0),
                init_now: Mutex::new(InitNow::Nothing),
                outcomes: Mutex::new(Outcomes {
                    first: VecDeque::new(),
                    then: OnInit::Accept,
                    deferred: 0,
                }),
                on_terminate: Mutex::new(OnTerminate::Return),
                on_serve: Mutex::new(None),
                decided: Record::default(),
                on_report: Mutex::new(None),
            }),
        }
    }

    /// Sets the outcomes of the next calls of `init`, and of all calls after them.
    pub fn on_init(&self, first: impl IntoIterator<Item = OnInit>, then: OnInit) {
        let mut outcomes = lock(&self.script.outcomes);
        outcomes.first = first.into_iter().collect();
        outcomes.then = then;
    }

    /// Sets what the next calls of `init_now` return. The default is no state.
    pub fn init_now(&self, returns: InitNow) {
        *lock(&self.script.init_now) = returns;
    }

    /// Sets the outcome of the first deferred `init` that has none yet.
    pub fn decide(&self, outcome: OnInit) {
        self.script.decided.push(outcome);
    }

    /// Sets what `terminate` does.
    pub fn on_terminate(&self, on_terminate: OnTerminate) {
        *lock(&self.script.on_terminate) = on_terminate;
    }

    /// Sets a function that is called when `serve` is first polled, before anything else.
    pub fn on_serve(&self, on_serve: impl Fn(&Served) + Send + Sync + 'static) {
        *lock(&self.script.on_serve) = Some(Arc::new(on_serve));
    }

    /// Sets a function that the observer calls with each report, before it is recorded.
    pub fn on_report(&self, on_report: impl Fn(&Report<Address>) + Send + Sync + 'static) {
        *lock(&self.script.on_report) = Some(Arc::new(on_report));
    }

    /// Returns the text of a report.
    pub fn describe(&self, report: &Report<Address>) -> String {
        let describe = self.tamper().and_then(|tamper| tamper.words);
        describe.map_or_else(|| report.to_string(), |describe| describe(report))
    }

    /// Returns the scripted acceptor.
    pub fn acceptor(&self) -> Tampered<Scripted<W>, State> {
        let scripted = Scripted {
            world: Arc::clone(&self.world),
            script: Arc::clone(&self.script),
            calls: self.calls.clone(),
        };
        self.tampered(scripted)
    }

    /// Wraps an acceptor so that a deliberately wrong world can tamper with it.
    #[doc(hidden)]
    pub fn tampered<A: Acceptor<W::Listener>>(&self, acceptor: A) -> Tampered<A, A::State> {
        Tampered::new(acceptor, self.tamper())
    }

    fn tamper(&self) -> Option<Arc<Tamper>> {
        W::tamper(&self.world.runtime())
    }

    /// Returns a spec for the scripted acceptor, whose reports are recorded. Its stop and handshake timeouts are too
    /// long to expire unless a test sets them, because the machine decides how soon children end.
    pub fn spec(&self, id: &'static str) -> ScriptedSpec<W> {
        let never = self.patience.out_of_reach();
        let spec = self.plain_spec(id).shutdown(never).kill_timeout(never);
        spec.handshake_timeout(never)
    }

    /// Returns a spec for the scripted acceptor, whose reports are recorded and whose other settings are the defaults.
    pub fn plain_spec(&self, id: &'static str) -> ScriptedSpec<W> {
        let (calls, reports) = (self.calls.clone(), self.reports.clone());
        let (tamper, script) = (self.tamper(), Arc::clone(&self.script));
        let observe = move |report: &Report<Address>, tamper: Option<&Tamper>| {
            let mut report = report.clone();
            let change = tamper.and_then(|tamper| tamper.report.as_ref());
            let times = change.map_or(1, |change| change(&mut report));
            for _ in 0..times {
                let on_report = lock(&script.on_report).clone();
                if let Some(on_report) = on_report {
                    on_report(&report);
                }
                calls.push(Call::Report(report.clone()));
                reports.push(report.clone());
            }
        };
        let observer = move |report: &Report<Address>| match tamper.as_deref() {
            Some(tamper) if tamper.observes == Observes::Elsewhere => {
                std::thread::scope(|scope| {
                    scope.spawn(|| observe(report, Some(tamper)));
                });
            }
            tamper => observe(report, tamper),
        };
        Spec::new(id, self.acceptor()).observer(observer_fn(observer))
    }

    /// Starts a pool in this world.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the pool does not start.
    pub fn start<A: Acceptor<W::Listener>>(
        &self,
        spec: Spec<A, Address>,
    ) -> Result<Pool<W>, Broken> {
        Pool::<W>::start(self.world.runtime(), spec)
            .map_err(|error| Broken::new("the pool starts", error.to_string()))
    }

    /// Adds a listener on the loopback address.
    ///
    /// # Errors
    ///
    /// [`Broken`] if binding fails or the pool returns an error.
    pub fn listen(
        &self,
        pool: &Handle<W>,
        settings: impl Into<ListenerSettings>,
    ) -> Result<(ListenerId, Address), Broken> {
        self.listen_in(&self.world, pool, settings)
    }

    /// Adds a listener of another world of the same type, such as one with instruments of its own.
    ///
    /// # Errors
    ///
    /// [`Broken`] if binding fails or the pool returns an error.
    pub fn listen_in(
        &self,
        world: &W,
        pool: &Handle<W>,
        settings: impl Into<ListenerSettings>,
    ) -> Result<(ListenerId, Address), Broken> {
        let bound = world.listen();
        let (listener, address) =
            bound.map_err(|error| Broken::new("a listener is bound", error.to_string()))?;
        let added = pool.add_listener(listener, settings);
        let id = added.map_err(|error| Broken::new("the listener is added", error.to_string()))?;
        Ok((id, address))
    }

    /// Closes a listener.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the listener is unknown or does not close.
    #[track_caller]
    pub fn close(&self, pool: &Handle<W>, listener: ListenerId) -> impl Future<Output = Verdict> {
        at_caller(async move {
            let closing = pool.close_listener(listener);
            let closed = self.event("the listener closes", closing).await?;
            closed.map_err(|error| Broken::new("the listener closes", error.to_string()))
        })
    }

    /// Connects a client and waits until it is served.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it cannot connect or is not served.
    pub async fn connect(&self, address: Address) -> Result<(W::Client, Served), Broken> {
        // An earlier client may have had the same address: only calls from here on belong to this client.
        let before = self.calls.count();
        let client = self.connect_only(address).await?;
        let peer = client.local_addr();
        let served = self.calls.when(move |calls| {
            calls[before..].iter().find_map(|call| match call {
                Call::Serve(served) if served.peer_addr == peer => Some(served.clone()),
                _ => None,
            })
        });
        let served = self.event("the client is served", served).await?;
        Ok((client, served))
    }

    /// Connects a client without waiting until it is served.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it cannot connect.
    pub async fn connect_only(&self, address: Address) -> Result<W::Client, Broken> {
        let connected = self.event("a client connects", self.world.connect(address));
        let refused = |error: io::Error| Broken::new("a client connects", error.to_string());
        connected.await?.map_err(refused)
    }

    /// Sends a line and expects it back.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the line does not come back unchanged.
    #[track_caller]
    pub fn echo(&self, client: &mut W::Client, line: &str) -> impl Future<Output = Verdict> {
        at_caller(async move {
            let expected = || format!("the connection echoes {line:?}");
            let exchange = async {
                client.send(format!("{line}\n").as_bytes()).await?;
                client.receive_line().await
            };
            match self.event(&expected(), exchange).await? {
                Ok(back) if back == line => Ok(()),
                Ok(back) => Err(Broken::new(expected(), format!("{back:?} came back"))),
                Err(error) => Err(Broken::new(expected(), error.to_string())),
            }
        })
    }

    /// Returns whether a new client is refused because no socket listens at the address.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the attempt neither connects nor is refused.
    pub async fn is_refused(&self, address: Address) -> Result<bool, Broken> {
        let what = "a client connects, or is refused";
        let connected = self.event(what, self.world.connect(address)).await?;
        Ok(not_refused(what, connected)?.is_none())
    }

    /// Returns whether a new client is served, that is, gets back the line that it sends. Otherwise it was refused or
    /// its connection was closed.
    ///
    /// # Errors
    ///
    /// [`Broken`] if none of these happens.
    pub async fn is_served(&self, address: Address) -> Result<bool, Broken> {
        let what = "a client is served, refused, or its connection closed";
        let connected = self.event(what, self.world.connect(address)).await?;
        let Some(mut client) = not_refused(what, connected)? else {
            return Ok(false);
        };
        let exchange = async {
            client.send(b"hello?\n").await?;
            client.receive_line().await
        };
        Ok(self.event(what, exchange).await?.is_ok())
    }

    /// Waits until the other side has closed a client's connection.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it does not.
    #[track_caller]
    pub fn closed(&self, client: &mut W::Client) -> impl Future<Output = Result<Closed, Broken>> {
        self.event("the client's connection is closed", client.closed())
    }

    /// Sends a command to a connection and waits until the connection has received it.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the connection does not receive it.
    pub async fn command(&self, served: &Served, command: Command) -> Verdict {
        let (sender, receiver) = oneshot::channel();
        let what = "the connection receives a command";
        if served.commands.unbounded_send((command, sender)).is_err() {
            return Err(Broken::new(what, "it has ended"));
        }
        match self.event(what, receiver).await? {
            Ok(()) => Ok(()),
            Err(oneshot::Canceled) => Err(Broken::new(what, "it ended before it received it")),
        }
    }

    /// Waits until a child's end is visible: it is no longer listed.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it stays listed.
    #[track_caller]
    pub fn ended(&self, pool: &Handle<W>, child: ChildId) -> impl Future<Output = Verdict> {
        at_caller(async move {
            let look = || match pool.connections() {
                Ok(list) if list.iter().any(|record| record.id == child) => Err(list),
                _ => Ok(()),
            };
            self.until("the connection leaves the list", look).await
        })
    }

    /// Waits for the result of a pool that is stopping or will stop.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the pool does not stop.
    #[track_caller]
    pub fn join(
        &self,
        pool: &Handle<W>,
    ) -> impl Future<Output = Result<StopReport<Address>, Broken>> {
        self.event("the pool stops", pool.join())
    }

    /// Waits until the pool has these counts.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it does not reach them.
    #[track_caller]
    pub fn counts(
        &self,
        pool: &Handle<W>,
        active: usize,
        workers: usize,
    ) -> impl Future<Output = Verdict> {
        at_caller(async move {
            let what = format!("{active} connections, {workers} children");
            let look = || match pool.counts() {
                Ok(counts) if (counts.connections, counts.children()) == (active, workers) => {
                    Ok(())
                }
                seen => Err(seen),
            };
            self.until(&what, look).await
        })
    }

    /// Waits until exactly this number of acceptors exists and all of them wait for a connection.
    ///
    /// # Errors
    ///
    /// [`Broken`] if that does not happen.
    #[track_caller]
    pub fn waiting(
        &self,
        pool: &Handle<W>,
        count: usize,
    ) -> impl Future<Output = Result<Vec<AcceptorRecord>, Broken>> {
        at_caller(async move {
            let what = format!("{count} acceptors wait");
            let waits = |one: &AcceptorRecord| one.state == AcceptorState::Waiting;
            let look = || match pool.acceptors() {
                Ok(list) if list.len() == count && list.iter().all(waits) => Ok(list),
                seen => Err(seen),
            };
            self.until(&what, look).await
        })
    }

    /// Waits for an event.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it does not occur.
    #[track_caller]
    pub fn event<T>(
        &self,
        what: &str,
        event: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Broken>> {
        at_caller(async move { self.patience.wait(&self.world.clock(), what, event).await })
    }

    /// Polls for a condition that has no notification.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it does not become true.
    #[track_caller]
    pub fn until<T, S: fmt::Debug>(
        &self,
        what: &str,
        look: impl FnMut() -> Result<T, S>,
    ) -> impl Future<Output = Result<T, Broken>> {
        at_caller(async move { self.patience.until(&self.world.clock(), what, look).await })
    }

    /// Returns the current time of this world.
    pub fn now(&self) -> Instant {
        self.world.clock().now()
    }

    /// Sleeps until a time, for checks that depend on time.
    pub async fn sleep_until(&self, time: Instant) {
        self.world.clock().sleep_until(time).await;
    }

    /// Returns the reasons passed to `terminate` so far.
    pub fn terminated(&self) -> Vec<&'static str> {
        let reason = |call: &Call| match call {
            Call::Terminate { reason, .. } => Some(reason_name(reason)),
            _ => None,
        };
        self.calls
            .look(|calls| calls.iter().filter_map(reason).collect())
    }

    /// Waits until `init` has begun this many times. An acceptor continues from `init` to its wait in the same poll.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it does not.
    #[track_caller]
    pub fn inits_begun(&self, inits: usize) -> impl Future<Output = Verdict> {
        at_caller(async move {
            let count = |calls: &[Call]| {
                let inits = calls
                    .iter()
                    .filter(|call| matches!(call, Call::Init { .. }));
                inits.count()
            };
            let what = format!("`init` runs {inits} times");
            let begun = self
                .calls
                .when(|calls| (count(calls) >= inits).then_some(()));
            self.event(&what, begun).await
        })
    }

    /// Returns how often `init` has begun.
    pub fn inits(&self) -> usize {
        self.script.inits.load(Ordering::SeqCst)
    }
}

/// Returns the connected client, or `None` if it was refused. A timeout is neither, and is an error.
pub(crate) fn not_refused<C>(what: &str, connected: io::Result<C>) -> Result<Option<C>, Broken> {
    match connected {
        Ok(client) => Ok(Some(client)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(Broken::new(what, error.to_string()))
        }
        Err(_) => Ok(None),
    }
}

/// Proof that the runtime polls tasks on another thread while one of its threads is blocked.
///
/// Rules may run concurrently on one runtime, so a lock ensures that only one of them blocks a thread.
#[derive(Debug)]
pub struct AnotherThread {
    _blocking: futures::lock::MutexGuard<'static, ()>,
}

impl AnotherThread {
    /// Returns a proof if the runtime has another thread. A runtime that is slow to show it is treated as
    /// single-threaded, and the checks that need a second thread are skipped.
    pub async fn of<W: Erased>(world: &Arc<W>) -> Option<Self> {
        static BLOCKING: futures::lock::Mutex<()> = futures::lock::Mutex::new(());
        const WAIT: Duration = Duration::from_millis(200);
        let blocking = BLOCKING.lock().await;
        let runtime = world.clock();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (blocks, is_blocked) = oneshot::channel();
        let (sender, receiver) = oneshot::channel();
        runtime.spawn(async move {
            let _ = blocks.send(());
            let _ = sender.send(released.recv_timeout(WAIT).is_ok());
        });
        let _ = is_blocked.await;
        runtime.spawn(async move {
            let _ = release.send(());
        });
        let exists = receiver.await.unwrap_or(false);
        exists.then_some(Self {
            _blocking: blocking,
        })
    }
}

/// Returns whether a pool is running.
pub fn is_running<W: Erased>(pool: &Handle<W>) -> bool {
    pool.status()
        .is_ok_and(|status| status.state == PoolState::Running)
}

/// Returns the name of a termination reason.
pub fn reason_name(reason: &Terminate) -> &'static str {
    match reason {
        Terminate::Timeout => "timeout",
        Terminate::Closed => "closed",
        Terminate::Io(_) => "io",
        Terminate::Stopped => "stopped",
        Terminate::Replaced => "replaced",
        _ => "unknown",
    }
}

/// The scripted acceptor. Its connections echo until they receive a command or their client closes.
pub struct Scripted<W> {
    world: Arc<W>,
    script: Arc<Script>,
    calls: Record<Call>,
}

impl<W> fmt::Debug for Scripted<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}

/// The state that `init` makes. It holds the number of its `init` and records its drop.
#[derive(Debug)]
pub struct State {
    number: usize,
    calls: Record<Call>,
}

impl Drop for State {
    fn drop(&mut self) {
        let number = self.number;
        self.calls.push(Call::StateDropped { number });
    }
}

impl<W: Erased> Acceptor<W::Listener> for Scripted<W> {
    type State = State;
    type Exit = Result<Exit, BoxError>;

    async fn init(&self, info: &ListenerInfo<Address>) -> Result<Init<State>, BoxError> {
        let (number, outcome, index) = self.script.begin_init();
        self.calls.push(Call::Init {
            number,
            at: self.world.clock().now(),
            task: current_task(),
            info: info.clone(),
        });
        let outcome = match outcome {
            OnInit::Deferred => {
                let decided = self.script.decided.when(|all| all.get(index).copied());
                decided.await
            }
            outcome => outcome,
        };
        let state = || State {
            number,
            calls: self.calls.clone(),
        };
        match outcome {
            OnInit::Accept => Ok(Init::Accept(state())),
            OnInit::AcceptWithin(timeout) => Ok(Init::AcceptWithin(state(), timeout)),
            OnInit::Hibernate => Ok(Init::Hibernate(state())),
            OnInit::Ignore => Ok(Init::Ignore),
            OnInit::Fail(name) => Err(name.into()),
            OnInit::Panic(message) => panic!("{message}"),
            OnInit::Nothing | OnInit::Deferred => pending().await,
        }
    }

    fn init_now(&self, info: &ListenerInfo<Address>) -> Option<State> {
        if *lock(&self.script.init_now) == InitNow::Nothing {
            return None;
        }
        let number = self.script.next_number();
        self.calls.push(Call::InitNow {
            number,
            info: info.clone(),
        });
        Some(State {
            number,
            calls: self.calls.clone(),
        })
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<W::Listener>, Address>,
        state: State,
    ) -> Result<Exit, BoxError> {
        let (commands, mut inbox) = mpsc::unbounded();
        let served = Served {
            child: connection.id,
            listener: connection.listener,
            peer_addr: connection.peer_addr,
            local_addr: connection.local_addr,
            transport: connection.transport.as_deref().cloned(),
            lifecycle: connection.lifecycle.clone(),
            number: state.number,
            task: current_task(),
            commands,
        };
        let on_serve = lock(&self.script.on_serve).clone();
        if let Some(on_serve) = on_serve {
            on_serve(&served);
        }
        let mut leaving = RecordServeEnd {
            child: connection.id,
            end: ServeEnd::Dropped,
            calls: self.calls.clone(),
        };
        let mut echo = Box::pin(echo(self.world.stream(connection.stream)));
        self.calls.push(Call::Serve(served));
        let runtime = self.world.runtime();
        let mut kept = Vec::new();
        let mut stop: Option<(Latch, Duration)> = None;
        let mut on_error = OnStreamError::Return;
        let mut deadlines: Vec<(Instant, ServeEnd)> = Vec::new();
        loop {
            let next = {
                let stopped = async {
                    match &stop {
                        Some((stop, _)) => stop.wait().await,
                        None => pending().await,
                    }
                };
                let due = async {
                    match deadlines.iter().min_by_key(|(time, _)| *time) {
                        Some((time, end)) => {
                            runtime.sleep_until(*time).await;
                            *end
                        }
                        None => pending().await,
                    }
                };
                next(&mut inbox, stopped, due, &mut echo).await
            };
            match next {
                Next::Command(command) => match command {
                    Command::ReturnAt(time) => deadlines.push((time, ServeEnd::Completed)),
                    Command::PanicWhenDropped(message) => kept.push(PanicOnDrop(message)),
                    Command::FailWithStream => on_error = OnStreamError::Fail,
                    Command::TrapAndStay => drop(connection.lifecycle.trap_stop()),
                    Command::TrapAndLeaveAfter(time) => {
                        stop = Some((connection.lifecycle.trap_stop(), time));
                    }
                    end => {
                        leaving.end = ServeEnd::Completed;
                        return end.carried_out();
                    }
                },
                Next::Stopped => {
                    if let Some((_, delay)) = stop.take() {
                        deadlines.push((runtime.now() + delay, ServeEnd::Stopped));
                    }
                }
                Next::Due(end) => {
                    leaving.end = end;
                    return Ok(Exit::normal());
                }
                Next::Over(echoed) => {
                    leaving.end = ServeEnd::Completed;
                    return match (on_error, echoed) {
                        (OnStreamError::Fail, Err(error)) => Err(error.into()),
                        _ => Ok(Exit::normal()),
                    };
                }
            }
        }
    }

    async fn terminate(&self, reason: &Terminate, state: State) {
        self.calls.push(Call::Terminate {
            number: state.number,
            at: self.world.clock().now(),
            task: current_task(),
            reason: reason.clone(),
        });
        let on_terminate = *lock(&self.script.on_terminate);
        match on_terminate {
            OnTerminate::Return => {}
            OnTerminate::Panic(message) => panic!("{message}"),
            OnTerminate::Hang => pending().await,
        }
    }
}

impl Command {
    fn carried_out(self) -> Result<Exit, BoxError> {
        match self {
            Command::ExitCleanly => Ok(Exit::clean("")),
            Command::ExitCleanlyBecause(reason) => Ok(Exit::clean(reason)),
            Command::Fail(name) => Err(name.into()),
            Command::FailWith(failure) => Err(failure.into()),
            Command::ExitDisconnected(name) => Ok(Exit::disconnected(name)),
            Command::ExitFailed(failure) => Ok(Exit::failed(failure)),
            Command::Panic(message) => panic!("{message}"),
            Command::Unwind(message) => std::panic::resume_unwind(Box::new(message)),
            Command::Return
            | Command::ReturnAt(_)
            | Command::PanicWhenDropped(_)
            | Command::FailWithStream
            | Command::TrapAndStay
            | Command::TrapAndLeaveAfter(_) => Ok(Exit::normal()),
        }
    }
}

/// Panics when dropped, unless the thread is already panicking.
struct PanicOnDrop(&'static str);

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{}", self.0);
        }
    }
}

/// Records how `serve` ended when its future is dropped.
struct RecordServeEnd {
    child: ChildId,
    end: ServeEnd,
    calls: Record<Call>,
}

impl Drop for RecordServeEnd {
    fn drop(&mut self) {
        self.calls.push(Call::ServeEnded {
            child: self.child,
            end: self.end,
        });
    }
}

enum Next {
    Command(Command),
    Stopped,
    Due(ServeEnd),
    /// The client has closed, or the stream has failed with this error.
    Over(io::Result<()>),
}

/// The result of a connection whose stream fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnStreamError {
    Return,
    Fail,
}

/// Commands have priority because they were sent before any other event that is ready.
async fn next(
    inbox: &mut mpsc::UnboundedReceiver<(Command, oneshot::Sender<()>)>,
    stopped: impl Future<Output = ()>,
    due: impl Future<Output = ServeEnd>,
    echo: &mut (impl Future<Output = io::Result<()>> + Unpin),
) -> Next {
    let command = async {
        match inbox.next().await {
            Some((command, taken)) => {
                let _ = taken.send(());
                Next::Command(command)
            }
            None => pending().await,
        }
    };
    let command = std::pin::pin!(command);
    let stopped = std::pin::pin!(stopped.map(|()| Next::Stopped));
    let due = std::pin::pin!(due.map(Next::Due));
    let over = echo.map(Next::Over);
    match select(command, select(stopped, select(due, over))).await {
        Either::Left((next, _))
        | Either::Right((Either::Left((next, _)), _))
        | Either::Right((
            Either::Right((Either::Left((next, _)) | Either::Right((next, _)), _)),
            _,
        )) => next,
    }
}

/// Echoes input until the client closes.
async fn echo(
    mut stream: impl futures::io::AsyncRead + futures::io::AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let count = match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => count,
        };
        stream.write_all(&buffer[..count]).await?;
        stream.flush().await?;
    }
}
