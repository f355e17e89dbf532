//! The acceptor of a scenario: does what the weather and its clients say, and writes all of it down.

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

use super::book::Book;
use super::event::{Begun, Bomb, Call, Event, Farewell, Holder, Return};
use super::handle::PoolListener;
use super::{Order, Weather};
use acceptor_simulation::SimulatedStream;

// What errors and panics say, so that reports can be held against it.
pub(super) const HANDSHAKE_FAILS: &str = "the handshake fails";
pub(super) const HANDSHAKE_PANICS: &str = "the handshake panics";
pub(super) const KEPT_DROPPED: &str = "the drop of what it kept";
pub(super) const INIT_FAILS: &str = "init fails";
pub(super) const INIT_PANICS: &str = "init panics";
pub(super) const SERVE_FAILS: &str = "serve fails";
pub(super) const SERVE_PANICS: &str = "serve panics";
pub(super) const STATE_DROPPED: &str = "the state's drop";
pub(super) const SUBTASK_PANICS: &str = "what runs under the guard panics";
pub(super) const TERMINATE_PANICS: &str = "terminate panics";

/// The error of a connection whose client is gone (E5).
pub(super) fn disconnection() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// The text of an error or a panic of a child: of some, text such as a peer may choose (V5).
pub(super) fn text(message: &'static str, child: &str) -> String {
    let hostile =
        child.ends_with('7') && [SERVE_FAILS, SERVE_PANICS, INIT_FAILS].contains(&message);
    match hostile {
        true => format!("{message}\n\u{1b}[2J{}", "\u{202e}x".repeat(600)),
        false => message.to_owned(),
    }
}

/// The acceptor of one spec.
pub(super) struct Cast {
    book: Arc<Book>,
    generation: u32,
}

impl Cast {
    pub(super) fn new(book: &Arc<Book>, generation: u32) -> Self {
        book.count_acceptor();
        Self {
            book: Arc::clone(book),
            generation,
        }
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        self.book.uncount_acceptor();
    }
}

/// The observer of a pool.
pub(super) struct Audience {
    pub(super) book: Arc<Book>,
    pub(super) generation: u32,
}

impl Audience {
    /// Calls the pool now and then, be it for who is gone.
    fn call(&self, child: ChildId, listener: ListenerId) {
        let mut random = random(&self.book, child, 3);
        if let Some(call) = call(&self.book, &mut random) {
            self.book.call(child, listener, call);
        }
    }
}

impl Observer<SocketAddr> for Audience {
    fn report(&self, report: &Report<SocketAddr>) {
        use acceptor_core::Event::{AcceptorFailed, ConnectionFailed, ListenerFailed, StartError};
        self.book.begins_report();
        self.book.push(Event::Reported {
            report: report.clone(),
            observer: self.generation,
        });
        match &report.event {
            ConnectionFailed {
                child,
                listener,
                peer,
                ..
            } => {
                self.book.look_for(*child, Some(*peer));
                self.call(*child, *listener);
            }
            StartError {
                child, listener, ..
            }
            | AcceptorFailed {
                child, listener, ..
            } => {
                self.book.look_for(*child, None);
                self.call(*child, *listener);
            }
            ListenerFailed { local_addr, .. } => self.book.binds(*local_addr),
            _ => self.book.look("the observer"),
        }
        self.book.ends_report();
        if self.book.weather() == Weather::Foul {
            resume_unwind(Box::new("the observer panics"));
        }
    }
}

/// The state of an acceptor.
pub(super) struct Prop {
    book: Arc<Book>,
    child: ChildId,
    listener: ListenerId,
    bomb: Bomb,
}

impl Prop {
    fn new(book: &Arc<Book>, listener: &ListenerInfo<SocketAddr>, bomb: Bomb) -> Self {
        book.count_state();
        Self {
            book: Arc::clone(book),
            child: listener.child,
            listener: listener.id,
            bomb,
        }
    }
}

impl Drop for Prop {
    fn drop(&mut self) {
        let bomb = match std::thread::panicking() {
            // A second panic would abort.
            true => Bomb::None,
            false => self.bomb,
        };
        self.book.uncount_state();
        self.book.push(Event::StateDropped {
            child: self.child,
            bomb,
        });
        if bomb == Bomb::Armed {
            resume_unwind(Box::new(STATE_DROPPED));
        }
    }
}

/// What an acceptor does by chance, always the same for the same child of the same seed in the same weather.
struct Fate {
    before: Duration,
    /// How often it gives way to other tasks first.
    yields: u8,
    answer: Answer,
    /// Of the state.
    bomb: Bomb,
    /// Of what `init` keeps while it takes its time.
    kept: Bomb,
    call: Option<Call>,
}

enum Answer {
    Accept,
    Hibernate,
    Within(Duration),
    Ignore,
    Fail,
    Panic,
    Never,
}

fn random(book: &Book, child: ChildId, of: u64) -> Rng {
    let child = child.to_string();
    let (listener, child) = child.split_once('.').unwrap_or(("0", &child));
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    let child = (number(listener) << 32) | number(child);
    Rng::with_seed(book.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (child << 8) ^ of)
}

fn milliseconds(random: &mut Rng, below: u64) -> Duration {
    Duration::from_millis(random.u64(..below))
}

/// What a callback calls the pool for: nothing, mostly.
fn call(book: &Book, random: &mut Rng) -> Option<Call> {
    const CALLS: [Call; 6] = [
        Call::StopItself,
        Call::KillItself,
        Call::CloseListener,
        Call::CloseListener,
        Call::Stop,
        Call::Kill,
    ];
    let foul = book.weather() == Weather::Foul;
    let calls = foul && random.u8(..100) < 3;
    calls.then(|| CALLS[random.usize(..CALLS.len())])
}

impl Fate {
    fn of(book: &Book, child: ChildId) -> Self {
        let mut random = random(book, child, 1);
        let chance = random.u8(..100);
        let foul = book.weather() == Weather::Foul;
        let some_time = milliseconds(&mut random, 15);
        let answer = match (book.weather(), chance) {
            (Weather::Impatient | Weather::Foul, ..30) => Answer::Within(some_time),
            (Weather::Impatient, ..50) => Answer::Within(Duration::ZERO),
            (Weather::Impatient, ..60) => Answer::Within(Duration::from_micros(700)),
            (Weather::Impatient, ..90) => Answer::Within(3 * some_time),
            (Weather::Reluctant, ..65) | (Weather::Foul, ..40) => Answer::Ignore,
            (Weather::Failing, ..25) | (Weather::Foul, ..45) => Answer::Fail,
            (Weather::Failing, ..40) | (Weather::Foul, ..50) => Answer::Panic,
            (Weather::Slow, ..10) | (Weather::Foul, ..55) => Answer::Never,
            (_, 90..) => Answer::Hibernate,
            _ => Answer::Accept,
        };
        let slow = match book.weather() {
            Weather::Slow => 70,
            Weather::Foul => 20,
            _ => 0,
        };
        let before = match random.u8(..100) < slow {
            true => Duration::from_millis(1) + milliseconds(&mut random, 20),
            false => Duration::ZERO,
        };
        let yields = match book.weather() {
            Weather::Yielding | Weather::Foul => random.u8(..5),
            _ => 0,
        };
        let mut bomb = |chance| match foul && random.u8(..100) < chance {
            true => Bomb::Armed,
            false => Bomb::None,
        };
        let (bomb, kept) = (bomb(10), bomb(30));
        Self {
            before,
            yields,
            answer,
            bomb,
            kept,
            call: call(book, &mut random),
        }
    }
}

/// A callback that is under way: its end is written down once, also when it is dropped.
pub(super) struct Ending<'a, How> {
    book: &'a Book,
    child: ChildId,
    /// How it ends when it is dropped, until it has ended otherwise.
    dropped: Option<How>,
    event: fn(ChildId, How) -> Event,
}

impl<'a, How> Ending<'a, How> {
    pub(super) fn new(
        book: &'a Book,
        child: ChildId,
        dropped: How,
        event: fn(ChildId, How) -> Event,
    ) -> Self {
        Self {
            book,
            child,
            dropped: Some(dropped),
            event,
        }
    }

    pub(super) fn ends(&mut self, how: How) {
        self.dropped = None;
        self.book.push((self.event)(self.child, how));
    }
}

impl<How> Drop for Ending<'_, How> {
    fn drop(&mut self) {
        if let Some(how) = self.dropped.take() {
            self.ends(how);
        }
    }
}

impl<L: PoolListener> Acceptor<L> for Cast {
    type State = Prop;
    type Exit = Result<Exit, BoxError>;

    fn init(
        &self,
        listener: &ListenerInfo<SocketAddr>,
    ) -> impl Future<Output = Result<Init<Prop>, BoxError>> + Send {
        Watched::new(&self.book, listener.child, self.begin(listener))
    }

    fn serve(
        &self,
        connection: Connection<SimulatedStream, SocketAddr>,
        state: Prop,
    ) -> impl Future<Output = Result<Exit, BoxError>> + Send {
        let child = connection.id;
        Watched::new(&self.book, child, self.play(connection, state))
    }

    fn terminate(&self, reason: &Terminate, state: Prop) -> impl Future<Output = ()> + Send {
        let child = state.child;
        Watched::new(&self.book, child, self.leave(reason, state))
    }
}

/// A callback: each of its polls is written down.
pub(super) struct Watched<'a, F> {
    book: &'a Book,
    child: ChildId,
    callback: Pin<Box<F>>,
}

impl<'a, F> Watched<'a, F> {
    pub(super) fn new(book: &'a Book, child: ChildId, callback: F) -> Self {
        let callback = Box::pin(callback);
        Self {
            book,
            child,
            callback,
        }
    }
}

impl<F: Future> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.book.polls(self.child);
        self.callback.as_mut().poll(cx)
    }
}

impl Cast {
    async fn begin(&self, listener: &ListenerInfo<SocketAddr>) -> Result<Init<Prop>, BoxError> {
        let child = listener.child;
        let book = &self.book;
        book.knows_closed(listener);
        book.push(Event::InitBegan {
            child,
            listener: listener.id,
            generation: self.generation,
        });
        let mut beginning = Ending::new(book, child, Begun::Dropped, |child, how| {
            Event::InitEnded { child, how }
        });
        book.look("init");
        let fate = Fate::of(book, child);
        if let Some(call) = fate.call {
            book.call(child, listener.id, call);
        }
        let explosive = (fate.kept == Bomb::Armed).then(|| Explosive { book, child });
        for _ in 0..fate.yields {
            book.wakes(1);
            yield_now().await;
        }
        if !fate.before.is_zero() {
            book.sleep(fate.before).await;
        }
        if let Answer::Never = fate.answer {
            pending::<()>().await;
        }
        if let Some(explosive) = explosive {
            explosive.disarm();
        }
        let state = || Prop::new(book, listener, fate.bomb);
        match fate.answer {
            Answer::Accept => {
                beginning.ends(Begun::Waits(None));
                Ok(Init::Accept(state()))
            }
            Answer::Hibernate => {
                beginning.ends(Begun::Waits(None));
                Ok(Init::Hibernate(state()))
            }
            Answer::Within(time) => {
                beginning.ends(Begun::Waits(Some(time)));
                Ok(Init::AcceptWithin(state(), time))
            }
            Answer::Ignore | Answer::Never => {
                beginning.ends(Begun::Ignored);
                Ok(Init::Ignore)
            }
            Answer::Fail => {
                beginning.ends(Begun::Failed);
                Err(text(INIT_FAILS, &child.to_string()).into())
            }
            Answer::Panic => {
                beginning.ends(Begun::Panicked);
                resume_unwind(Box::new(INIT_PANICS))
            }
        }
    }

    async fn play(
        &self,
        connection: Connection<SimulatedStream, SocketAddr>,
        state: Prop,
    ) -> Result<Exit, BoxError> {
        let child = connection.id;
        // First, so that it is dropped last.
        let _serving = Served {
            book: &self.book,
            child,
        };
        self.book.push(Event::ServeBegan {
            child,
            listener: connection.listener,
            peer: connection.peer_addr,
            local: connection.local_addr,
        });
        self.book.serves(child, connection.lifecycle.clone());
        self.book.look("serve");
        let mut part = Part::new(&self.book, connection);
        let (how, _part) = match part.play().await {
            Outcome::Returns(how) => (how, Some(part)),
            Outcome::HandsOn(holder) => {
                part.hands_on(holder);
                (Return::Normal, None)
            }
        };
        self.book.push(Event::ServeReturned { child, how });
        drop(state);
        match how {
            Return::Normal => Ok(Exit::normal()),
            Return::Clean => Ok(Exit::clean("as ordered")),
            Return::Disconnected => Err(disconnection().into()),
            Return::Error => Err(text(SERVE_FAILS, &child.to_string()).into()),
            Return::Panic => resume_unwind(Box::new(text(SERVE_PANICS, &child.to_string()))),
        }
    }

    async fn leave(&self, reason: &Terminate, state: Prop) {
        let child = state.child;
        let mut leaving = Ending::new(&self.book, child, Farewell::Dropped, |child, how| {
            Event::TerminateEnded { child, how }
        });
        self.book.push(Event::TerminateBegan {
            child,
            reason: reason.clone(),
        });
        self.book.look("terminate");
        let mut random = random(&self.book, child, 2);
        if let Some(call) = call(&self.book, &mut random) {
            self.book.call(child, state.listener, call);
        }
        let clings = matches!(self.book.weather(), Weather::Clinging | Weather::Foul);
        if self.book.weather() == Weather::Yielding {
            for _ in 0..random.u8(..5) {
                self.book.wakes(1);
                yield_now().await;
            }
        }
        match random.u8(..100) {
            ..30 if clings => {
                let time = milliseconds(&mut random, 20);
                self.book.sleep(time).await;
            }
            30..40 if clings => pending().await,
            40..55 if clings => {
                leaving.ends(Farewell::Panicked);
                resume_unwind(Box::new(TERMINATE_PANICS))
            }
            _ => {}
        }
        leaving.ends(Farewell::Returned);
        drop(state);
    }
}

/// Tells that nobody serves any more.
struct Served<'a> {
    book: &'a Book,
    child: ChildId,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.book.served(self.child);
    }
}

/// Panics when it is dropped, for it has a `Drop` that does.
struct Explosive<'a> {
    book: &'a Book,
    child: ChildId,
}

impl Explosive<'_> {
    /// It is not dropped any more.
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Explosive<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.book.push(Event::Exploded { child: self.child });
            resume_unwind(Box::new(KEPT_DROPPED));
        }
    }
}

/// What a connection is told, or hears.
enum Heard {
    Order(Order),
    EndOfStream,
    Reset,
    Stop,
    Draining,
}

/// What a connection does when it is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnStop {
    Leave,
    LeaveLate,
    Stay,
}

/// How a connection goes on.
enum Outcome {
    Returns(Return),
    /// `serve` returns, and its stream lives on under a guard (E6).
    HandsOn(Holder),
}

/// A connection, playing its part.
struct Part<'a> {
    book: &'a Arc<Book>,
    connection: Connection<SimulatedStream, SocketAddr>,
    stop: Option<(Latch, OnStop)>,
    draining: Option<Latch>,
    explosive: Option<Explosive<'a>>,
    /// After the stream.
    guard: Option<Guard>,
}

impl<'a> Part<'a> {
    fn new(book: &'a Arc<Book>, connection: Connection<SimulatedStream, SocketAddr>) -> Self {
        Self {
            book,
            connection,
            stop: None,
            draining: None,
            explosive: None,
            guard: None,
        }
    }

    async fn play(&mut self) -> Outcome {
        loop {
            let order = match self.hear().await {
                Heard::Order(order) => order,
                Heard::EndOfStream | Heard::Draining => return Outcome::Returns(Return::Normal),
                Heard::Reset => return Outcome::Returns(Return::Disconnected),
                Heard::Stop => match self.stop.take() {
                    Some((_, OnStop::Stay)) => continue,
                    Some((_, OnStop::LeaveLate)) => {
                        self.book.sleep(Duration::from_millis(20)).await;
                        return Outcome::Returns(Return::Normal);
                    }
                    _ => return Outcome::Returns(Return::Normal),
                },
            };
            match order {
                Order::Return => return Outcome::Returns(Return::Normal),
                Order::ExitCleanly => return Outcome::Returns(Return::Clean),
                Order::Fail => return Outcome::Returns(Return::Error),
                Order::Panic => return Outcome::Returns(Return::Panic),
                Order::PanicWhenDropped => {
                    let child = self.connection.id;
                    self.book.push(Event::Armed { child });
                    let book: &'a Book = self.book;
                    self.explosive.get_or_insert(Explosive { book, child });
                }
                Order::Trap => self.trap(OnStop::Leave),
                Order::TrapAndLeaveLate => self.trap(OnStop::LeaveLate),
                Order::TrapAndStay => self.trap(OnStop::Stay),
                Order::ReturnWhenDraining => {
                    self.book.wakes(1);
                    self.draining = Some(self.connection.lifecycle.draining().clone());
                }
                Order::Sleep => self.book.sleep(Duration::from_millis(3)).await,
                Order::Yield => {
                    for _ in 0..3 {
                        self.book.wakes(1);
                        yield_now().await;
                    }
                }
                Order::Flood => {
                    // Pending, unless the client reads or leaves.
                    if self.connection.stream.write_all(&[7; 200]).await.is_err() {
                        return Outcome::Returns(Return::Disconnected);
                    }
                }
                Order::TakeGuard => {
                    // That traps the stop (N2), whether or not the signal is waited for.
                    let child = self.connection.id;
                    self.book.push(Event::Trapped { child });
                    self.guard = Some(self.connection.lifecycle.guard());
                }
                Order::HandOn => return Outcome::HandsOn(Holder::Kept),
                Order::HandOnToTask => return Outcome::HandsOn(Holder::Subtask),
                // That is for a handshake.
                Order::Readdress => {}
                Order::StopPool => self.call(Call::Stop),
                Order::KillPool => self.call(Call::Kill),
                Order::StopItself => self.call(Call::StopItself),
                Order::KillItself => self.call(Call::KillItself),
                Order::CloseListener => self.call(Call::CloseListener),
            }
        }
    }

    /// The stream lives on under a guard, which traps the stop (N2).
    fn hands_on(self, holder: Holder) {
        let (book, child) = (Arc::clone(self.book), self.connection.id);
        let guard = self.connection.lifecycle.guard();
        book.push(Event::HandedOn { child, holder });
        let mut stream = self.connection.stream;
        match holder {
            Holder::Kept => book.keep(child, GuardedStream::new(stream, guard)),
            Holder::Subtask => {
                let told = Arc::clone(&book);
                let subtask = guard.run(async move {
                    while let Some(order) = next_order(&told, child, &mut stream).await {
                        if order == Order::Panic {
                            told.push(Event::SubtaskPanicked { child });
                            resume_unwind(Box::new(SUBTASK_PANICS))
                        }
                    }
                });
                book.spawn(async move {
                    subtask.await;
                });
            }
        }
    }

    fn trap(&mut self, on_stop: OnStop) {
        let child = self.connection.id;
        self.book.push(Event::Trapped { child });
        let stop = self.connection.lifecycle.trap_stop();
        self.book.traps(child, stop.clone());
        self.stop = Some((stop, on_stop));
    }

    fn call(&self, call: Call) {
        let (child, listener) = (self.connection.id, self.connection.listener);
        self.book.call(child, listener, call);
    }

    async fn hear(&mut self) -> Heard {
        let mut stop = self.stop.as_ref().map(|(stop, _)| stop.wait());
        let mut draining = self.draining.as_ref().map(Latch::wait);
        let awaited = self.draining.iter().map(|draining| ("N1", draining));
        let awaited = awaited.chain(self.stop.iter().map(|(stop, _)| ("N2", stop)));
        let awaited = awaited.map(|(rule, signal)| (rule, signal.clone()));
        let child = self.connection.id;
        self.book.awaits(child, awaited.collect());
        let mut stream = pin!(&mut self.connection.stream);
        let heard = poll_fn(|cx| {
            if let Some(stop) = &mut stop {
                if Pin::new(stop).poll(cx).is_ready() {
                    return Poll::Ready(Heard::Stop);
                }
            }
            if let Some(draining) = &mut draining {
                if Pin::new(draining).poll(cx).is_ready() {
                    return Poll::Ready(Heard::Draining);
                }
            }
            let mut byte = [0];
            stream
                .as_mut()
                .poll_read(cx, &mut byte)
                .map(|read| match read {
                    Ok(0) => Heard::EndOfStream,
                    Ok(_) => Heard::Order(Order::of_byte(byte[0])),
                    Err(_) => Heard::Reset,
                })
        })
        .await;
        self.book.awaits(child, Vec::new());
        heard
    }
}

/// The next order of a client; `None` at its end. Each poll counts as one of the connection.
async fn next_order(book: &Book, child: ChildId, stream: &mut SimulatedStream) -> Option<Order> {
    let mut byte = [0];
    let read = poll_fn(|cx| {
        book.polls(child);
        Pin::new(&mut *stream).poll_read(cx, &mut byte)
    });
    match read.await {
        Ok(1) => Some(Order::of_byte(byte[0])),
        _ => None,
    }
}

pub(super) async fn yield_now() {
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

impl Order {
    const ALL: [Order; 21] = [
        Order::Return,
        Order::ExitCleanly,
        Order::Fail,
        Order::Panic,
        Order::PanicWhenDropped,
        Order::Trap,
        Order::TrapAndLeaveLate,
        Order::TrapAndStay,
        Order::ReturnWhenDraining,
        Order::Sleep,
        Order::Yield,
        Order::Flood,
        Order::StopPool,
        Order::KillPool,
        Order::StopItself,
        Order::KillItself,
        Order::CloseListener,
        Order::TakeGuard,
        Order::HandOn,
        Order::HandOnToTask,
        Order::Readdress,
    ];

    pub(super) fn byte(self) -> u8 {
        let position = Self::ALL.iter().position(|order| *order == self);
        position.map_or(0, |position| position as u8)
    }

    pub(super) fn of_byte(byte: u8) -> Self {
        let order = Self::ALL.get(usize::from(byte));
        order.copied().unwrap_or(Order::Return)
    }
}
