//! The clients: blocking sockets, each with a behavior.
//!
//! Where the behavior allows it the server closes first, and the client resets:
//! then neither end stays in TIME_WAIT. Invariant: a connected client records
//! its end exactly once, after its socket is closed.

use std::io::{self, ErrorKind, Read, Write};
use std::iter::repeat_with;
use std::mem::take;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::{Domain, Socket, Type};

use crate::context::Context;
use crate::history::{Count, Event};
use conformance_console::caught;
use conformance_tests::{Broken, Verdict};

/// What a client does; as a byte, what it orders the server to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Behavior {
    /// It talks, and has `serve` return `Ok`.
    Talk,
    /// The same, with more than one read takes.
    TalkAtLength,
    /// It talks, pauses, and talks again.
    Stall,
    /// It pauses before its first word.
    StartLate,
    /// It ends its side before it reads the echo.
    HalfClose,
    /// It closes without a word.
    Leave,
    /// It talks and closes.
    TalkAndLeave,
    /// It resets without a word.
    Reset,
    /// It talks and resets.
    TalkAndReset,
    /// It has `serve` return the clean exit.
    ExitCleanly,
    /// It has `serve` return an error.
    Fail,
    /// It has `serve` panic.
    Panic,
    /// It has `serve` trap the stop, and ends later unless the stop comes first.
    TrapStop,
    /// It has `serve` wait for *draining*.
    AwaitDraining,
    /// It has `serve` trap the stop and stay.
    Stay,
    /// It talks, and does nothing more.
    Idle,
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

impl Behavior {
    pub(crate) const ALL: [Behavior; 16] = [
        Behavior::Talk,
        Behavior::TalkAtLength,
        Behavior::Stall,
        Behavior::StartLate,
        Behavior::HalfClose,
        Behavior::Leave,
        Behavior::TalkAndLeave,
        Behavior::Reset,
        Behavior::TalkAndReset,
        Behavior::ExitCleanly,
        Behavior::Fail,
        Behavior::Panic,
        Behavior::TrapStop,
        Behavior::AwaitDraining,
        Behavior::Stay,
        Behavior::Idle,
    ];

    /// How often each is chosen, of 100; the last three do not end by themselves.
    const WEIGHTS: [u32; 16] = [30, 5, 12, 5, 8, 6, 6, 5, 5, 5, 5, 3, 5, 0, 0, 0];

    fn choose(random: &mut Rng) -> Self {
        let mut draw = random.u32(0..100);
        for (behavior, weight) in Self::ALL.into_iter().zip(Self::WEIGHTS) {
            if draw < weight {
                return behavior;
            }
            draw -= weight;
        }
        Behavior::Talk
    }

    fn order(self) -> u8 {
        ORDERS + self as u8
    }

    /// The order in a byte, if it is one.
    pub(crate) fn ordered_by(byte: u8) -> Option<Self> {
        let index = byte.checked_sub(ORDERS)?;
        Self::ALL.get(usize::from(index)).copied()
    }

    /// How `serve` ends without interference; nothing if it does not end.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        match self {
            Behavior::ExitCleanly => Some(Outcome::Clean),
            // The server reads the reset.
            Behavior::Reset | Behavior::TalkAndReset => Some(Outcome::Disconnected),
            Behavior::Fail => Some(Outcome::Error),
            Behavior::Panic => Some(Outcome::Panic),
            Behavior::Stay | Behavior::Idle => None,
            _ => Some(Outcome::Normal),
        }
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
    ///
    /// # Errors
    ///
    /// Those of the system, for example for want of descriptors.
    pub(crate) fn new(
        context: &Arc<Context>,
        behavior: Behavior,
        random: &mut Rng,
    ) -> io::Result<Self> {
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Where the loopback is a whole network, no address of it runs out of ports.
            let ip = if cfg!(target_os = "linux") {
                Ipv4Addr::new(127, 0, 0, random.u8(2..252))
            } else {
                Ipv4Addr::LOCALHOST
            };
            socket.bind(&SocketAddr::from((ip, 0)).into())?;
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
        let (listener, server) = self.context.listener(random)?;
        let (client, behavior) = (self.address, self.behavior);
        self.record(Event::Connecting {
            client,
            server,
            listener,
            behavior,
        });
        let patience = self.context.patience.length();
        let connected = self.socket.connect_timeout(&server.into(), patience);
        let kind = connected.map_err(|error| error.kind());
        let seen = match kind.and_then(|()| self.prepare().map_err(|error| error.kind())) {
            Ok(()) => None,
            Err(ErrorKind::TimedOut) => Some(Seen::Nothing),
            // It was connected for a moment.
            Err(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => Some(Seen::CutShort),
            Err(kind) => {
                self.record(match kind {
                    ErrorKind::ConnectionRefused => Event::Refused(client),
                    _ => Event::Withdrawn(client),
                });
                return None;
            }
        };
        self.context.connections.fetch_add(1, Ordering::Relaxed);
        self.context.history.count(Count::Client(behavior));
        match seen {
            None => Some(self),
            Some(seen) => {
                self.end(seen);
                None
            }
        }
    }

    fn record(&self, event: Event) {
        self.context.history.record(event);
    }

    fn prepare(&self) -> io::Result<()> {
        let patience = Some(self.context.patience.length());
        // An end that came meanwhile is seen by the next read.
        let _ = self.socket.set_tcp_nodelay(true);
        self.socket.set_read_timeout(patience)?;
        self.socket.set_write_timeout(patience)
    }

    /// Behaves up to the pause; nothing if there is none, and the client has ended.
    pub(crate) fn begin(mut self, random: &mut Rng) -> Option<Self> {
        match self.first_part(random) {
            Ok(()) => Some(self),
            Err(seen) => {
                self.end(seen);
                None
            }
        }
    }

    /// Goes on after the pause, to the end.
    pub(crate) fn finish(mut self) {
        let seen = match self.talk(b"again") {
            Ok(()) => self.order_and_end(Behavior::Talk),
            Err(seen) => seen,
        };
        self.end(seen);
    }

    /// Waits for the server's end.
    pub(crate) fn wait(mut self) {
        let seen = self.await_end();
        self.end(seen);
    }

    /// The part before the pause. The error is the last thing that the client saw, if it has ended.
    fn first_part(&mut self, random: &mut Rng) -> Result<(), Seen> {
        let order = [self.behavior.order()];
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
        let words: Vec<u8> = repeat_with(|| random.u8(..ORDERS)).take(length).collect();
        if self.behavior == Behavior::HalfClose {
            self.say(&words)?;
            self.say(&order)?;
            let closed = self.socket.shutdown(Shutdown::Write);
            closed.map_err(|error| seen(&error))?;
            self.hear(&words)?;
            self.hear(&order)?;
            self.hear(FAREWELL)?;
            return Err(self.await_end());
        }
        self.talk(&words)?;
        match self.behavior {
            Behavior::Stall | Behavior::Idle => Ok(()),
            Behavior::TalkAndLeave | Behavior::TalkAndReset => Err(Seen::Left),
            behavior => Err(self.order_and_end(behavior)),
        }
    }

    fn order_and_end(&mut self, order: Behavior) -> Seen {
        match self.talk(&[order.order()]) {
            Ok(()) => self.await_end(),
            Err(seen) => seen,
        }
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

    fn await_end(&mut self) -> Seen {
        match self.socket.read(&mut [0]) {
            Ok(0) => Seen::Done,
            Ok(_) => Seen::Mangled,
            Err(error) => seen(&error),
        }
    }

    fn end(self, seen: Seen) {
        let leaves = matches!(self.behavior, Behavior::Leave | Behavior::TalkAndLeave);
        if !leaves || seen != Seen::Left {
            let _ = self.socket.set_linger(Some(Duration::ZERO));
        }
        drop(self.socket);
        let ended = Event::ClientEnded(self.address, seen);
        self.context.history.record(ended);
    }
}

/// What a failed call shows.
fn seen(error: &io::Error) -> Seen {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Seen::Nothing,
        _ => Seen::CutShort,
    }
}

/// Enough to keep the processors of a small machine busy.
const THREADS: usize = 3;

/// So many clients of one thread pause at a time.
const PAUSING: usize = 16;

/// A thread waits so long when it has nothing to do: there is no event to wait for.
const MOMENT: Duration = Duration::from_millis(1);

/// Clients that come and go.
pub(crate) struct Load {
    context: Arc<Context>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    pub(crate) fn start(context: &Arc<Context>) -> Result<Self, Broken> {
        let mut load = Self {
            context: Arc::clone(context),
            threads: Vec::new(),
        };
        for _ in 0..THREADS {
            let (context, random) = (Arc::clone(context), context.random());
            let thread = thread::Builder::new().name("soak clients".into());
            let thread = thread.spawn(move || caught(|| come_and_go(&context, random)));
            let thread =
                thread.map_err(|error| Broken::new("a thread for clients", error.to_string()));
            load.threads.push(thread?);
        }
        Ok(load)
    }

    /// Sends the clients away, and returns when all are gone.
    pub(crate) fn leave(&mut self) -> Verdict {
        self.context.clients_leave.store(true, Ordering::SeqCst);
        let mut verdict = Ok(());
        for thread in take(&mut self.threads) {
            let ended = thread.join().expect("a panic is caught in its thread");
            verdict =
                verdict.and(ended.map_err(|panic| Broken::new("clients do not panic", panic)));
        }
        verdict
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.leave();
    }
}

fn come_and_go(context: &Arc<Context>, mut random: Rng) {
    let mut pausing: Vec<(Instant, Client)> = Vec::new();
    while !context.clients_leave.load(Ordering::SeqCst) {
        let now = Instant::now();
        while let Some(index) = pausing.iter().position(|(until, _)| *until <= now) {
            pausing.swap_remove(index).1.finish();
        }
        if pausing.len() == PAUSING {
            thread::sleep(MOMENT);
            continue;
        }
        let behavior = Behavior::choose(&mut random);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_known_by_its_byte() {
        for behavior in Behavior::ALL {
            assert_eq!(Behavior::ordered_by(behavior.order()), Some(behavior));
        }
        assert_eq!(Behavior::ordered_by(0x7f), None);
        assert_eq!(Behavior::ordered_by(0xff), None);
    }
}
