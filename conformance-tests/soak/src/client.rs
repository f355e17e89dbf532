//! The clients: blocking sockets, each with a behavior.
//!
//! Where the behavior allows it the server closes first, and the client resets:
//! then neither end stays in TIME_WAIT. Invariant: a connected client records
//! its end exactly once, after its socket is closed.

use std::io::{self, ErrorKind, Read, Write};
use std::iter::repeat_with;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::{Domain, Socket, Type};

use crate::context::Context;
use crate::history::{Count, Event, Step, lock};

macro_rules! behaviors {
    ($($(#[$doc:meta])* $name:ident => $outcome:expr,)*) => {
        /// What a client does; as a byte, what it orders the server to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Behavior { $($(#[$doc])* $name,)* }

        /// Each behavior, and the end of `serve` if nothing interferes.
        const BEHAVIORS: &[(Behavior, Option<Outcome>)] = &[$((Behavior::$name, $outcome)),*];
    };
}

behaviors! {
    /// It talks, and has `serve` return `Ok`.
    Talk => Some(Outcome::Normal),
    /// The same, with more than one read takes.
    TalkAtLength => Some(Outcome::Normal),
    /// It talks, pauses, and talks again.
    Stall => Some(Outcome::Normal),
    /// It pauses before its first word.
    StartLate => Some(Outcome::Normal),
    /// It ends its side before it reads the echo.
    HalfClose => Some(Outcome::Normal),
    /// It closes without a word.
    Leave => Some(Outcome::Normal),
    /// It talks and closes.
    TalkAndLeave => Some(Outcome::Normal),
    /// It resets without a word.
    Reset => Some(Outcome::Disconnected),
    /// It talks and resets.
    TalkAndReset => Some(Outcome::Disconnected),
    /// It has `serve` return the clean exit.
    ExitCleanly => Some(Outcome::Clean),
    /// It has `serve` return an error.
    Fail => Some(Outcome::Error),
    /// It has `serve` panic.
    Panic => Some(Outcome::Panic),
    /// It has `serve` trap the stop, and ends later unless the stop comes first.
    TrapStop => Some(Outcome::Normal),
    /// It has `serve` wait for *draining*.
    AwaitDraining => Some(Outcome::Normal),
    /// It has `serve` trap the stop and stay.
    Stay => None,
    /// It talks, and does nothing more.
    Idle => None,
}

/// How `serve` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Normal,
    Clean,
    /// With the error of a client that is gone.
    Disconnected,
    Error,
    Panic,
    /// The future was dropped: by a kill or a stop.
    Dropped,
}

/// The last thing that a client saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The end, after everything else.
    Done,
    /// It left by itself.
    Left,
    /// The end, too early.
    CutShort,
    /// Neither an answer nor an end, for as long as patience lasts.
    Nothing,
    /// Other words than its own.
    Mangled,
}

/// The server says this to a client that has half-closed.
pub(crate) const FAREWELL: &[u8] = b"farewell";

/// The first byte that is an order; words are below.
const ORDERS: u8 = 0x80;

/// So many behaviors, the first ones, end by themselves.
const END_BY_THEMSELVES: usize = 13;

impl Behavior {
    fn byte(self) -> u8 {
        ORDERS + self as u8
    }

    /// The order in a byte, if it is one.
    pub(crate) fn ordered_by(byte: u8) -> Option<Self> {
        let index = byte.checked_sub(ORDERS)?;
        BEHAVIORS.get(usize::from(index)).map(|row| row.0)
    }

    /// How `serve` ends if nothing interferes; nothing if it does not end.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        BEHAVIORS[self as usize].1
    }
}

/// A client with an address of its own.
pub(crate) struct Client {
    socket: Socket,
    address: SocketAddr,
    behavior: Behavior,
    context: Arc<Context>,
}

impl Client {
    /// A client that is not connected yet.
    pub(crate) fn new(
        context: &Arc<Context>,
        behavior: Behavior,
        random: &mut Rng,
    ) -> io::Result<Self> {
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Linux has a whole network of loopback addresses, and no one of them runs out of ports.
            let hosts = if cfg!(target_os = "linux") { 250 } else { 1 };
            let host = [127, 0, 0, random.u8(1..=hosts)];
            socket.bind(&SocketAddr::from((host, 0)).into())?;
            let address = socket.local_addr()?.as_socket();
            let address = address.ok_or(ErrorKind::Unsupported)?;
            // The server may not be done yet with the last client of this address: then another one is drawn.
            if !context.history.checker().knows(address) {
                let context = Arc::clone(context);
                return Ok(Self {
                    socket,
                    address,
                    behavior,
                    context,
                });
            }
        }
    }

    /// Connects to one of the open listeners; nothing if there is none, or it refuses.
    pub(crate) fn connect(self, random: &mut Rng) -> Option<Self> {
        let listener = random.choice(lock(&self.context.listeners).iter()).copied();
        let (listener, _, address) = listener?;
        let server = SocketAddr::from(([127, 0, 0, 1], address.port()));
        self.record(Step::Connects(self.behavior, listener, server));
        let patience = self.context.patience.length();
        let connected = self.socket.connect_timeout(&server.into(), patience);
        let part = match connected.map_err(|error| error.kind()) {
            Ok(()) => Ok(()),
            Err(ErrorKind::TimedOut) => Err(Seen::Nothing),
            // It was connected for a moment.
            Err(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => Err(Seen::CutShort),
            Err(kind) => {
                self.record(match kind {
                    ErrorKind::ConnectionRefused => Step::Refused,
                    _ => Step::Withdraws,
                });
                return None;
            }
        };
        self.context.connections.fetch_add(1, Ordering::Relaxed);
        self.context.history.count(Count::Client(self.behavior));
        // Where these fail, the next read shows why.
        let _ = self.socket.set_tcp_nodelay(true);
        let _ = self.socket.set_read_timeout(Some(patience));
        let _ = self.socket.set_write_timeout(Some(patience));
        self.drive(|_| part)
    }

    fn record(&self, step: Step) {
        let event = Event::Connection(self.address, step);
        self.context.history.record(event);
    }

    /// Behaves; nothing if the client has ended.
    fn drive(mut self, part: impl FnOnce(&mut Self) -> Result<(), Seen>) -> Option<Self> {
        match part(&mut self) {
            Ok(()) => Some(self),
            Err(seen) => {
                self.end(seen);
                None
            }
        }
    }

    /// Behaves up to the pause; nothing if there is none, and the client has ended.
    pub(crate) fn begin(self, random: &mut Rng) -> Option<Self> {
        self.drive(|client| client.first_part(random))
    }

    /// Goes on after the pause, to the end.
    pub(crate) fn finish(self) {
        self.drive(|client| {
            client.talk(b"again")?;
            client.order(Behavior::Talk)
        });
    }

    /// Waits for the server's end.
    pub(crate) fn wait(self) {
        self.drive(Self::await_end);
    }

    /// The part before the pause. The error is the last thing that the client saw, if it has ended.
    fn first_part(&mut self, random: &mut Rng) -> Result<(), Seen> {
        let order = [self.behavior.byte()];
        match self.behavior {
            Behavior::Leave | Behavior::Reset => return Err(Seen::Left),
            Behavior::StartLate => return Ok(()),
            Behavior::TrapStop | Behavior::AwaitDraining | Behavior::Stay => {
                return self.talk(&order);
            }
            _ => {}
        }
        let length = match self.behavior {
            Behavior::TalkAtLength => 32 * 1024,
            _ => random.usize(1..100),
        };
        let mut words: Vec<u8> = repeat_with(|| random.u8(..ORDERS)).take(length).collect();
        if self.behavior == Behavior::HalfClose {
            words.extend(order);
            self.say(&words)?;
            let closed = self.socket.shutdown(Shutdown::Write);
            closed.map_err(|error| seen(&error))?;
            self.hear(&words)?;
            self.hear(FAREWELL)?;
            return self.await_end();
        }
        self.talk(&words)?;
        match self.behavior {
            Behavior::Stall | Behavior::Idle => Ok(()),
            Behavior::TalkAndLeave | Behavior::TalkAndReset => Err(Seen::Left),
            behavior => self.order(behavior),
        }
    }

    fn order(&mut self, order: Behavior) -> Result<(), Seen> {
        self.talk(&[order.byte()])?;
        self.await_end()
    }

    /// Says something, and hears the echo.
    pub(crate) fn talk(&mut self, words: &[u8]) -> Result<(), Seen> {
        self.say(words)?;
        self.hear(words)
    }

    fn say(&mut self, words: &[u8]) -> Result<(), Seen> {
        self.socket.write_all(words).map_err(|error| seen(&error))
    }

    fn hear(&mut self, words: &[u8]) -> Result<(), Seen> {
        let mut heard = vec![0; words.len()];
        match self.socket.read_exact(&mut heard) {
            Ok(()) if heard == words => Ok(()),
            Ok(()) => Err(Seen::Mangled),
            Err(error) => Err(seen(&error)),
        }
    }

    fn await_end(&mut self) -> Result<(), Seen> {
        match self.socket.read(&mut [0]) {
            Ok(0) => Err(Seen::Done),
            Ok(_) => Err(Seen::Mangled),
            Err(error) => Err(seen(&error)),
        }
    }

    fn end(self, seen: Seen) {
        let leaves = matches!(self.behavior, Behavior::Leave | Behavior::TalkAndLeave);
        if !leaves || seen != Seen::Left {
            let _ = self.socket.set_linger(Some(Duration::ZERO));
        }
        drop(self.socket);
        let ends = Event::Connection(self.address, Step::Ends(seen));
        self.context.history.record(ends);
    }
}

/// What a failed call shows.
fn seen(error: &io::Error) -> Seen {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Seen::Nothing,
        _ => Seen::CutShort,
    }
}

/// So many clients of one thread pause at a time.
const PAUSING: usize = 16;

/// A thread waits so long when it has nothing to do: there is no event to wait for.
const MOMENT: Duration = Duration::from_millis(1);

/// Clients come and go, until they are to leave.
pub(crate) fn come_and_go(context: &Arc<Context>) {
    let mut random = context.random();
    let mut pausing: Vec<(Instant, Client)> = Vec::new();
    while !context.leave.load(Ordering::SeqCst) {
        let now = Instant::now();
        while let Some(index) = pausing.iter().position(|(until, _)| *until <= now) {
            pausing.swap_remove(index).1.finish();
        }
        if pausing.len() == PAUSING {
            thread::sleep(MOMENT);
            continue;
        }
        let (behavior, _) = BEHAVIORS[random.usize(..END_BY_THEMSELVES)];
        let client = Client::new(context, behavior, &mut random).ok();
        let Some(client) = client.and_then(|client| client.connect(&mut random)) else {
            // For want of a listener, a descriptor or a port.
            thread::sleep(MOMENT);
            continue;
        };
        if let Some(client) = client.begin(&mut random) {
            let pause = Duration::from_millis(random.u64(5..200));
            pausing.push((Instant::now() + pause, client));
        }
    }
    for (_, client) in pausing {
        // Once something is wrong, each would wait for an answer that may never come.
        if context.history.checker().verdict().is_ok() {
            client.finish();
        }
    }
}
