//! The clients: blocking sockets, each with a behavior.
//!
//! Where the behavior allows it, the server closes first and the client resets, so that neither end stays in TIME_WAIT.
//! Invariant: a connected client records its end exactly once, after its socket is closed.

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
        /// The behavior of a client; as a byte, the command that it sends to the server.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Behavior { $($(#[$doc])* $name,)* }

        /// Each behavior, with the outcome of `serve` if nothing interferes.
        const BEHAVIORS: &[(Behavior, Option<Outcome>)] = &[$((Behavior::$name, $outcome)),*];
    };
}

behaviors! {
    /// It exchanges a message, and makes `serve` return `Ok`.
    Talk => Some(Outcome::Normal),
    /// The same, with a message longer than one read.
    TalkAtLength => Some(Outcome::Normal),
    /// It exchanges a message, pauses, and exchanges another.
    Stall => Some(Outcome::Normal),
    /// It pauses before its first message.
    StartLate => Some(Outcome::Normal),
    /// It half-closes before it reads the echo.
    HalfClose => Some(Outcome::Normal),
    /// It closes without a message.
    Leave => Some(Outcome::Normal),
    /// It exchanges a message and closes.
    TalkAndLeave => Some(Outcome::Normal),
    /// It resets without a message.
    Reset => Some(Outcome::Disconnected),
    /// It exchanges a message and resets.
    TalkAndReset => Some(Outcome::Disconnected),
    /// It makes `serve` return a clean exit.
    ExitCleanly => Some(Outcome::Clean),
    /// It makes `serve` return an error.
    Fail => Some(Outcome::Error),
    /// It makes `serve` panic.
    Panic => Some(Outcome::Panic),
    /// It makes `serve` trap the stop, and ends later unless the stop happens first.
    TrapStop => Some(Outcome::Normal),
    /// It makes `serve` wait for *draining*.
    AwaitDraining => Some(Outcome::Normal),
    /// It makes `serve` trap the stop and stay.
    Stay => None,
    /// It exchanges a message, and is idle after that.
    Idle => None,
}

/// How `serve` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Normal,
    Clean,
    /// With the error of a disconnected client.
    Disconnected,
    Error,
    Panic,
    /// The future was dropped by a kill or a stop.
    Dropped,
}

/// How a client's connection ended, as the client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It read the end of the stream after everything else.
    Done,
    /// It closed the connection itself.
    Left,
    /// It read the end of the stream too early.
    CutShort,
    /// It got neither an answer nor an end within the patience.
    Nothing,
    /// It got a different message back.
    Mismatch,
}

/// The server sends this to a client that has half-closed.
pub(crate) const FAREWELL: &[u8] = b"farewell";

/// The first byte that is a command; messages use smaller bytes.
const COMMANDS: u8 = 0x80;

/// The number of behaviors, counted from the first, that end by themselves.
const SELF_ENDING: usize = 13;

impl Behavior {
    fn byte(self) -> u8 {
        COMMANDS + self as u8
    }

    /// Returns the command in a byte, if it is one.
    pub(crate) fn from_command(byte: u8) -> Option<Self> {
        let index = byte.checked_sub(COMMANDS)?;
        BEHAVIORS.get(usize::from(index)).map(|row| row.0)
    }

    /// Returns the outcome of `serve` if nothing interferes, or `None` if it does not end.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        BEHAVIORS[self as usize].1
    }
}

/// A client with its own address.
pub(crate) struct Client {
    socket: Socket,
    address: SocketAddr,
    behavior: Behavior,
    context: Arc<Context>,
}

impl Client {
    /// Creates a client that is not connected yet.
    pub(crate) fn new(
        context: &Arc<Context>,
        behavior: Behavior,
        random: &mut Rng,
    ) -> io::Result<Self> {
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Linux has a whole network of loopback addresses, so no single address runs out of ports.
            let hosts = if cfg!(target_os = "linux") { 250 } else { 1 };
            let host = [127, 0, 0, random.u8(1..=hosts)];
            socket.bind(&SocketAddr::from((host, 0)).into())?;
            let address = socket.local_addr()?.as_socket();
            let address = address.ok_or(ErrorKind::Unsupported)?;
            // If the server still has the previous client of this address, draws another address.
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

    /// Connects to one of the open listeners. Returns `None` if there is none or the connection is refused.
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
        // If these fail, the next read shows why.
        let _ = self.socket.set_tcp_nodelay(true);
        let _ = self.socket.set_read_timeout(Some(patience));
        let _ = self.socket.set_write_timeout(Some(patience));
        self.drive(|_| part)
    }

    fn record(&self, step: Step) {
        let event = Event::Connection(self.address, step);
        self.context.history.record(event);
    }

    /// Runs a part of the behavior. Returns `None` if the client has ended.
    fn drive(mut self, part: impl FnOnce(&mut Self) -> Result<(), Seen>) -> Option<Self> {
        match part(&mut self) {
            Ok(()) => Some(self),
            Err(seen) => {
                self.end(seen);
                None
            }
        }
    }

    /// Runs the behavior up to its pause. Returns `None` if there is no pause, and the client has ended.
    pub(crate) fn begin(self, random: &mut Rng) -> Option<Self> {
        self.drive(|client| client.first_part(random))
    }

    /// Runs the behavior from its pause to the end.
    pub(crate) fn finish(self) {
        self.drive(|client| {
            client.talk(b"again")?;
            client.command(Behavior::Talk)
        });
    }

    /// Waits until the server closes the connection.
    pub(crate) fn wait(self) {
        self.drive(Self::await_end);
    }

    /// Runs the part before the pause. Returns the client's end as an error, if it has ended.
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
        let mut words: Vec<u8> = repeat_with(|| random.u8(..COMMANDS)).take(length).collect();
        if self.behavior == Behavior::HalfClose {
            words.extend(order);
            self.send(&words)?;
            let closed = self.socket.shutdown(Shutdown::Write);
            closed.map_err(|error| seen(&error))?;
            self.expect(&words)?;
            self.expect(FAREWELL)?;
            return self.await_end();
        }
        self.talk(&words)?;
        match self.behavior {
            Behavior::Stall | Behavior::Idle => Ok(()),
            Behavior::TalkAndLeave | Behavior::TalkAndReset => Err(Seen::Left),
            behavior => self.command(behavior),
        }
    }

    fn command(&mut self, command: Behavior) -> Result<(), Seen> {
        self.talk(&[command.byte()])?;
        self.await_end()
    }

    /// Sends a message, and reads the echo.
    pub(crate) fn talk(&mut self, words: &[u8]) -> Result<(), Seen> {
        self.send(words)?;
        self.expect(words)
    }

    fn send(&mut self, words: &[u8]) -> Result<(), Seen> {
        self.socket.write_all(words).map_err(|error| seen(&error))
    }

    fn expect(&mut self, words: &[u8]) -> Result<(), Seen> {
        let mut received = vec![0; words.len()];
        match self.socket.read_exact(&mut received) {
            Ok(()) if received == words => Ok(()),
            Ok(()) => Err(Seen::Mismatch),
            Err(error) => Err(seen(&error)),
        }
    }

    fn await_end(&mut self) -> Result<(), Seen> {
        match self.socket.read(&mut [0]) {
            Ok(0) => Err(Seen::Done),
            Ok(_) => Err(Seen::Mismatch),
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

/// Converts the error of a failed call.
fn seen(error: &io::Error) -> Seen {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Seen::Nothing,
        _ => Seen::CutShort,
    }
}

/// The maximum number of paused clients of one thread.
const PAUSING: usize = 16;

/// How long a thread sleeps when it has nothing to do, because there is no event to wait for.
const MOMENT: Duration = Duration::from_millis(1);

/// Runs clients until the pool ends its load.
pub(crate) fn run_clients(context: &Arc<Context>) {
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
        let (behavior, _) = BEHAVIORS[random.usize(..SELF_ENDING)];
        let client = Client::new(context, behavior, &mut random).ok();
        let Some(client) = client.and_then(|client| client.connect(&mut random)) else {
            // There is no listener, descriptor or port.
            thread::sleep(MOMENT);
            continue;
        };
        if let Some(client) = client.begin(&mut random) {
            let pause = Duration::from_millis(random.u64(5..200));
            pausing.push((Instant::now() + pause, client));
        }
    }
    for (_, client) in pausing {
        // After a failed check, each client could wait for an answer that never arrives.
        if context.history.checker().verdict().is_ok() {
            client.finish();
        }
    }
}
