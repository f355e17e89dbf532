//! The acceptor of a scenario: it follows the scenario and its clients' commands, and records its events.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use acceptor_core::{
    Acceptor, BoxError, ChildId, Connection, Exit, Guard, GuardedStream, Init, Latch, ListenerId,
    ListenerInfo, Observer, Report, Terminate,
};
use fastrand::Rng;
use futures::io::{AsyncRead, AsyncWriteExt};

use super::event::{Call, Event, GuardHolder, InitOutcome, ServeOutcome, TerminateOutcome};
use super::handle::PoolListener;
use super::history::History;
use super::{Behaviour, Order};
use acceptor_simulation::SimulatedStream;

// The texts of errors and panics, with which reports are compared.
pub(super) const HANDSHAKE_FAILS: &str = "the handshake fails";
pub(super) const HANDSHAKE_PANICS: &str = "the handshake panics";
pub(super) const INIT_FAILS: &str = "init fails";
pub(super) const INIT_PANICS: &str = "init panics";
pub(super) const KEPT_VALUE_PANICS: &str = "the drop of a kept value panics";
pub(super) const SERVE_FAILS: &str = "serve fails";
pub(super) const SERVE_PANICS: &str = "serve panics";
pub(super) const STATE_PANICS: &str = "the drop of the state panics";
pub(super) const SUBTASK_PANICS: &str = "the task under the guard panics";
pub(super) const TERMINATE_PANICS: &str = "terminate panics";

/// The error of a connection whose client is gone (E5).
pub(super) fn disconnection() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// The text of an error or a panic of a child; some children have a text that an attacker could choose (V5).
pub(super) fn text(message: &'static str, child: &str) -> String {
    let hostile =
        child.ends_with('7') && [SERVE_FAILS, SERVE_PANICS, INIT_FAILS].contains(&message);
    match hostile {
        true => format!("{message}\n\u{1b}[2J{}", "\u{202e}x".repeat(600)),
        false => message.to_owned(),
    }
}

/// The acceptor of one spec.
pub(super) struct TestAcceptor {
    history: Arc<History>,
    generation: u32,
    _token: Arc<()>,
}

impl TestAcceptor {
    pub(super) fn new(history: &Arc<History>, generation: u32) -> Self {
        Self {
            history: Arc::clone(history),
            generation,
            _token: Arc::clone(&history.acceptor_token),
        }
    }
}

/// The observer of a pool.
pub(super) struct TestObserver {
    pub(super) history: Arc<History>,
    pub(super) generation: u32,
}

impl TestObserver {
    /// Checks that the reported child is gone, and sometimes calls the pool.
    fn child_ended(&self, child: ChildId, listener: ListenerId, peer: Option<SocketAddr>) {
        self.history.look_for(child, peer);
        let mut random = random(&self.history, child, 3);
        if let Some(call) = call(&self.history, &mut random) {
            self.history.call(child, listener, call);
        }
    }
}

impl Observer<SocketAddr> for TestObserver {
    fn report(&self, report: &Report<SocketAddr>) {
        use acceptor_core::Event::{AcceptorFailed, ConnectionFailed, ListenerFailed, StartError};
        self.history.begins_report();
        self.history.push(Event::Reported {
            report: report.clone(),
            observer: self.generation,
        });
        match &report.event {
            ConnectionFailed {
                child,
                listener,
                peer,
                ..
            } => self.child_ended(*child, *listener, Some(*peer)),
            StartError {
                child, listener, ..
            }
            | AcceptorFailed {
                child, listener, ..
            } => self.child_ended(*child, *listener, None),
            ListenerFailed { local_addr, .. } => self.history.binds(*local_addr),
            _ => self.history.look("the observer"),
        }
        self.history.ends_report();
        if self.history.behaviour() == Behaviour::All {
            resume_unwind(Box::new("the observer panics"));
        }
    }
}

/// The state of an acceptor.
pub(super) struct TestState {
    history: Arc<History>,
    child: ChildId,
    listener: ListenerId,
    /// Its drop panics.
    panics: bool,
    _token: Arc<()>,
}

impl Drop for TestState {
    fn drop(&mut self) {
        // A second panic would abort the process.
        let panics = self.panics && !std::thread::panicking();
        let child = self.child;
        self.history.push(Event::StateDropped { child, panics });
        if panics {
            resume_unwind(Box::new(STATE_PANICS));
        }
    }
}

/// The random choices of an `init`: they are always the same for the same child of the same seed with the same behaviour.
struct InitChoices {
    delay: Duration,
    /// How often it yields first.
    yields: u8,
    answer: InitAnswer,
    state_panics: bool,
    /// It keeps a value whose drop panics until it returns.
    value_panics: bool,
    call: Option<Call>,
}

enum InitAnswer {
    Accept,
    Hibernate,
    Within(Duration),
    Ignore,
    Fail,
    Panic,
    Never,
}

fn random(history: &History, child: ChildId, of: u64) -> Rng {
    let child = child.to_string();
    let (listener, child) = child.split_once('.').unwrap_or(("0", &child));
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    let child = (number(listener) << 32) | number(child);
    Rng::with_seed(history.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (child << 8) ^ of)
}

fn milliseconds(random: &mut Rng, below: u64) -> Duration {
    Duration::from_millis(random.u64(..below))
}

/// A call of the pool from a callback: usually none.
fn call(history: &History, random: &mut Rng) -> Option<Call> {
    const CALLS: [Call; 6] = [
        Call::StopItself,
        Call::KillItself,
        Call::CloseListener,
        Call::CloseListener,
        Call::Stop,
        Call::Kill,
    ];
    let calls = history.behaviour() == Behaviour::All && random.u8(..100) < 3;
    calls.then(|| CALLS[random.usize(..CALLS.len())])
}

impl InitChoices {
    fn new(history: &History, child: ChildId) -> Self {
        use Behaviour::{All, FailingInit, Ignoring, ShortTimeouts, SlowInit, Yielding};
        let mut random = random(history, child, 1);
        let behaviour = history.behaviour();
        let chance = random.u8(..100);
        let some_time = milliseconds(&mut random, 15);
        let answer = match (behaviour, chance) {
            (ShortTimeouts | All, ..30) => InitAnswer::Within(some_time),
            (ShortTimeouts, ..50) => InitAnswer::Within(Duration::ZERO),
            (ShortTimeouts, ..60) => InitAnswer::Within(Duration::from_micros(700)),
            (ShortTimeouts, ..90) => InitAnswer::Within(3 * some_time),
            (Ignoring, ..65) | (All, ..40) => InitAnswer::Ignore,
            (FailingInit, ..25) | (All, ..45) => InitAnswer::Fail,
            (FailingInit, ..40) | (All, ..50) => InitAnswer::Panic,
            (SlowInit, ..10) | (All, ..55) => InitAnswer::Never,
            (_, 90..) => InitAnswer::Hibernate,
            _ => InitAnswer::Accept,
        };
        let slow = match behaviour {
            SlowInit => 70,
            All => 20,
            _ => 0,
        };
        let delay = match random.u8(..100) < slow {
            true => Duration::from_millis(1) + milliseconds(&mut random, 20),
            false => Duration::ZERO,
        };
        let yields = match behaviour {
            Yielding | All => random.u8(..5),
            _ => 0,
        };
        let mut panics = |chance| behaviour == All && random.u8(..100) < chance;
        Self {
            delay,
            yields,
            answer,
            state_panics: panics(10),
            value_panics: panics(30),
            call: call(history, &mut random),
        }
    }
}

/// A callback that is running: its outcome is recorded once, even if it is dropped.
pub(super) struct RunningCallback<'a, Outcome> {
    history: &'a History,
    child: ChildId,
    /// The outcome if it is dropped now.
    dropped: Option<Outcome>,
    event: fn(ChildId, Outcome) -> Event,
}

impl<'a, Outcome> RunningCallback<'a, Outcome> {
    pub(super) fn new(
        history: &'a History,
        child: ChildId,
        dropped: Outcome,
        event: fn(ChildId, Outcome) -> Event,
    ) -> Self {
        Self {
            history,
            child,
            dropped: Some(dropped),
            event,
        }
    }

    pub(super) fn ends(&mut self, how: Outcome) {
        self.dropped = None;
        self.history.push((self.event)(self.child, how));
    }
}

impl<Outcome> Drop for RunningCallback<'_, Outcome> {
    fn drop(&mut self) {
        if let Some(how) = self.dropped.take() {
            self.ends(how);
        }
    }
}

impl<L: PoolListener> Acceptor<L> for TestAcceptor {
    type State = TestState;
    type Exit = Result<Exit, BoxError>;

    fn init(
        &self,
        listener: &ListenerInfo<SocketAddr>,
    ) -> impl Future<Output = Result<Init<TestState>, BoxError>> + Send {
        Watched::new(&self.history, listener.child, self.run_init(listener))
    }

    fn serve(
        &self,
        connection: Connection<SimulatedStream, SocketAddr>,
        state: TestState,
    ) -> impl Future<Output = Result<Exit, BoxError>> + Send {
        let child = connection.id;
        Watched::new(&self.history, child, self.run_serve(connection, state))
    }

    fn terminate(&self, reason: &Terminate, state: TestState) -> impl Future<Output = ()> + Send {
        let child = state.child;
        Watched::new(&self.history, child, self.run_terminate(reason, state))
    }
}

/// A callback whose polls are recorded.
pub(super) struct Watched<'a, F> {
    history: &'a History,
    child: ChildId,
    callback: Pin<Box<F>>,
}

impl<'a, F> Watched<'a, F> {
    pub(super) fn new(history: &'a History, child: ChildId, callback: F) -> Self {
        Self {
            history,
            child,
            callback: Box::pin(callback),
        }
    }
}

impl<F: Future> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.history.polls(self.child);
        self.callback.as_mut().poll(cx)
    }
}

impl TestAcceptor {
    async fn run_init(
        &self,
        listener: &ListenerInfo<SocketAddr>,
    ) -> Result<Init<TestState>, BoxError> {
        let child = listener.child;
        let history = &*self.history;
        history.knows_closed(listener);
        history.push(Event::InitBegan {
            child,
            listener: listener.id,
            generation: self.generation,
        });
        let mut callback =
            RunningCallback::new(history, child, InitOutcome::Dropped, |child, how| {
                Event::InitEnded { child, how }
            });
        history.look("init");
        let choices = InitChoices::new(history, child);
        if let Some(call) = choices.call {
            history.call(child, listener.id, call);
        }
        let kept = choices
            .value_panics
            .then(|| PanicsOnDrop { history, child });
        history.yield_times(choices.yields).await;
        if !choices.delay.is_zero() {
            history.sleep(choices.delay).await;
        }
        if let InitAnswer::Never = choices.answer {
            pending::<()>().await;
        }
        std::mem::forget(kept);
        let state = || TestState {
            history: Arc::clone(&self.history),
            child,
            listener: listener.id,
            panics: choices.state_panics,
            _token: Arc::clone(&history.state_token),
        };
        callback.ends(match choices.answer {
            InitAnswer::Accept | InitAnswer::Hibernate => InitOutcome::Waits(None),
            InitAnswer::Within(time) => InitOutcome::Waits(Some(time)),
            InitAnswer::Ignore | InitAnswer::Never => InitOutcome::Ignored,
            InitAnswer::Fail => InitOutcome::Failed,
            InitAnswer::Panic => InitOutcome::Panicked,
        });
        match choices.answer {
            InitAnswer::Accept => Ok(Init::Accept(state())),
            InitAnswer::Hibernate => Ok(Init::Hibernate(state())),
            InitAnswer::Within(time) => Ok(Init::AcceptWithin(state(), time)),
            InitAnswer::Ignore | InitAnswer::Never => Ok(Init::Ignore),
            InitAnswer::Fail => Err(text(INIT_FAILS, &child.to_string()).into()),
            InitAnswer::Panic => resume_unwind(Box::new(INIT_PANICS)),
        }
    }

    async fn run_serve(
        &self,
        connection: Connection<SimulatedStream, SocketAddr>,
        state: TestState,
    ) -> Result<Exit, BoxError> {
        let child = connection.id;
        let history = &self.history;
        // The first value, so that it is dropped last.
        let _serving = Serving { history, child };
        history.push(Event::ServeBegan {
            child,
            listener: connection.listener,
            peer: connection.peer_addr,
            local: connection.local_addr,
        });
        history.serves(child, connection.lifecycle.clone());
        history.look("serve");
        let mut session = Session {
            history,
            connection,
            stop: None,
            draining: None,
            panics_on_drop: None,
            guard: None,
        };
        let (how, _session) = match session.run().await {
            Outcome::Returns(how) => (how, Some(session)),
            Outcome::HandsOver(holder) => {
                session.hands_over(holder);
                (ServeOutcome::Normal, None)
            }
        };
        history.push(Event::ServeReturned { child, how });
        drop(state);
        match how {
            ServeOutcome::Normal => Ok(Exit::normal()),
            ServeOutcome::Clean => Ok(Exit::clean("as ordered")),
            ServeOutcome::Disconnected => Err(disconnection().into()),
            ServeOutcome::Error => Err(text(SERVE_FAILS, &child.to_string()).into()),
            ServeOutcome::Panic => resume_unwind(Box::new(text(SERVE_PANICS, &child.to_string()))),
        }
    }

    async fn run_terminate(&self, reason: &Terminate, state: TestState) {
        let child = state.child;
        let history = &*self.history;
        let mut callback =
            RunningCallback::new(history, child, TerminateOutcome::Dropped, |child, how| {
                Event::TerminateEnded { child, how }
            });
        history.push(Event::TerminateBegan {
            child,
            reason: reason.clone(),
        });
        history.look("terminate");
        let mut random = random(history, child, 2);
        if let Some(call) = call(history, &mut random) {
            history.call(child, state.listener, call);
        }
        let slow = matches!(
            history.behaviour(),
            Behaviour::SlowTerminate | Behaviour::All
        );
        if history.behaviour() == Behaviour::Yielding {
            history.yield_times(random.u8(..5)).await;
        }
        match random.u8(..100) {
            ..30 if slow => history.sleep(milliseconds(&mut random, 20)).await,
            30..40 if slow => pending().await,
            40..55 if slow => {
                callback.ends(TerminateOutcome::Panicked);
                resume_unwind(Box::new(TERMINATE_PANICS))
            }
            _ => {}
        }
        callback.ends(TerminateOutcome::Returned);
        drop(state);
    }
}

/// Records the end of `serve` when it is dropped.
struct Serving<'a> {
    history: &'a History,
    child: ChildId,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.history.served(self.child);
    }
}

/// A value whose drop panics.
struct PanicsOnDrop<'a> {
    history: &'a History,
    child: ChildId,
}

impl Drop for PanicsOnDrop<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let child = self.child;
            self.history.push(Event::PanickedOnDrop { child });
            resume_unwind(Box::new(KEPT_VALUE_PANICS));
        }
    }
}

/// The next input of a connection.
enum Input {
    Order(Order),
    EndOfStream,
    Reset,
    Stop,
    Draining,
}

/// The reaction of a connection to the stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnStop {
    Return,
    ReturnLate,
    Ignore,
}

/// How the commands of a connection end.
enum Outcome {
    Returns(ServeOutcome),
    /// `serve` returns, and its stream lives on under a guard (E6).
    HandsOver(GuardHolder),
}

/// A connection that executes its client's commands.
struct Session<'a> {
    history: &'a Arc<History>,
    connection: Connection<SimulatedStream, SocketAddr>,
    stop: Option<(Latch, OnStop)>,
    draining: Option<Latch>,
    panics_on_drop: Option<PanicsOnDrop<'a>>,
    /// Dropped after the stream.
    guard: Option<Guard>,
}

impl<'a> Session<'a> {
    async fn run(&mut self) -> Outcome {
        let history: &'a History = self.history;
        let (child, listener) = (self.connection.id, self.connection.listener);
        let how = loop {
            let order = match self.next_input().await {
                Input::Order(order) => order,
                Input::EndOfStream | Input::Draining => break ServeOutcome::Normal,
                Input::Reset => break ServeOutcome::Disconnected,
                Input::Stop => match self.stop.take() {
                    Some((_, OnStop::Ignore)) => continue,
                    Some((_, OnStop::ReturnLate)) => {
                        history.sleep(Duration::from_millis(20)).await;
                        break ServeOutcome::Normal;
                    }
                    _ => break ServeOutcome::Normal,
                },
            };
            match order {
                Order::Return => break ServeOutcome::Normal,
                Order::ExitCleanly => break ServeOutcome::Clean,
                Order::Fail => break ServeOutcome::Error,
                Order::Panic => break ServeOutcome::Panic,
                Order::PanicWhenDropped => {
                    history.push(Event::WillPanicOnDrop { child });
                    let value = PanicsOnDrop { history, child };
                    self.panics_on_drop.get_or_insert(value);
                }
                Order::Trap => self.trap(OnStop::Return),
                Order::TrapAndReturnLate => self.trap(OnStop::ReturnLate),
                Order::TrapAndIgnore => self.trap(OnStop::Ignore),
                Order::ReturnWhenDraining => {
                    history.wakes(1);
                    self.draining = Some(self.connection.lifecycle.draining().clone());
                }
                Order::Sleep => history.sleep(Duration::from_millis(3)).await,
                Order::Yield => history.yield_times(3).await,
                Order::Flood => {
                    // Pending until the client reads or leaves.
                    if self.connection.stream.write_all(&[7; 200]).await.is_err() {
                        break ServeOutcome::Disconnected;
                    }
                }
                Order::TakeGuard => {
                    // A guard traps the stop (N2), even if nothing waits for the signal.
                    history.push(Event::Trapped { child });
                    self.guard = Some(self.connection.lifecycle.guard());
                }
                Order::ReleaseSlot => {
                    history.push(Event::SlotReleased { child });
                    self.connection.lifecycle.release_slot();
                }
                Order::HandOver => return Outcome::HandsOver(GuardHolder::Kept),
                Order::HandOverToTask => return Outcome::HandsOver(GuardHolder::Subtask),
                order => {
                    // Only a handshake can replace addresses.
                    if let Some(call) = Call::of_order(order) {
                        history.call(child, listener, call);
                    }
                }
            }
        };
        Outcome::Returns(how)
    }

    /// The stream lives on under a guard, which traps the stop (N2).
    fn hands_over(self, holder: GuardHolder) {
        let (history, child) = (Arc::clone(self.history), self.connection.id);
        let guard = self.connection.lifecycle.guard();
        history.push(Event::StreamHandedOver { child, holder });
        let mut stream = self.connection.stream;
        match holder {
            GuardHolder::Kept => history.keep(child, GuardedStream::new(stream, guard)),
            GuardHolder::Subtask => {
                let record = Arc::clone(&history);
                let subtask = guard.run(async move {
                    while let Some(order) = next_order(&record, child, &mut stream).await {
                        if order == Order::Panic {
                            record.push(Event::SubtaskPanicked { child });
                            resume_unwind(Box::new(SUBTASK_PANICS))
                        }
                    }
                });
                history.spawn(async move {
                    subtask.await;
                });
            }
        }
    }

    fn trap(&mut self, on_stop: OnStop) {
        let child = self.connection.id;
        self.history.push(Event::Trapped { child });
        let stop = self.connection.lifecycle.trap_stop();
        self.history.traps(child, stop.clone());
        self.stop = Some((stop, on_stop));
    }

    async fn next_input(&mut self) -> Input {
        let mut stop = self.stop.as_ref().map(|(stop, _)| stop.wait());
        let mut draining = self.draining.as_ref().map(Latch::wait);
        let awaited = self.draining.iter().map(|draining| ("N1", draining));
        let awaited = awaited.chain(self.stop.iter().map(|(stop, _)| ("N2", stop)));
        let awaited = awaited.map(|(rule, signal)| (rule, signal.clone()));
        let child = self.connection.id;
        self.history.awaits(child, awaited.collect());
        let mut stream = pin!(&mut self.connection.stream);
        let input = poll_fn(|cx| {
            if let Some(stop) = &mut stop {
                if Pin::new(stop).poll(cx).is_ready() {
                    return Poll::Ready(Input::Stop);
                }
            }
            if let Some(draining) = &mut draining {
                if Pin::new(draining).poll(cx).is_ready() {
                    return Poll::Ready(Input::Draining);
                }
            }
            let mut byte = [0];
            stream
                .as_mut()
                .poll_read(cx, &mut byte)
                .map(|read| match read {
                    Ok(0) => Input::EndOfStream,
                    Ok(_) => Input::Order(Order::of_byte(byte[0])),
                    Err(_) => Input::Reset,
                })
        })
        .await;
        self.history.awaits(child, Vec::new());
        input
    }
}

/// The next command of a client; `None` at its end. Each poll counts as one of the connection.
async fn next_order(
    history: &History,
    child: ChildId,
    stream: &mut SimulatedStream,
) -> Option<Order> {
    let mut byte = [0];
    let read = poll_fn(|cx| {
        history.polls(child);
        Pin::new(&mut *stream).poll_read(cx, &mut byte)
    });
    match read.await {
        Ok(1) => Some(Order::of_byte(byte[0])),
        _ => None,
    }
}

impl History {
    /// Yields to other tasks this often.
    pub(super) async fn yield_times(&self, times: u8) {
        for _ in 0..times {
            self.wakes(1);
            let mut again = Some(());
            poll_fn(|cx| match again.take() {
                Some(()) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Ready(()),
            })
            .await;
        }
    }
}
