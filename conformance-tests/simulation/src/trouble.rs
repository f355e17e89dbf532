//! The dice of an exploration: they decide which fault strikes when, and note it.
//!
//! Invariants: its locks are the innermost, so that it may be asked under any other; the dice are its own, so that no
//! choice of the executor depends on whether there are faults.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;

use super::executor::lock;
pub(super) use super::faults::ClientFault;
use super::faults::{FaultCounts, Faults};
use super::history::History;

/// The faults of a simulated world, and the dice that choose them.
pub(super) struct Trouble {
    dice: Mutex<Dice>,
    history: Arc<History>,
}

struct Dice {
    random: Rng,
    faults: Faults,
    counts: FaultCounts,
}

/// A call of `accept` that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    /// One connection has failed.
    Connection(ErrorKind),
    /// There are no descriptors.
    Descriptors,
}

/// EMFILE, or WSAEMFILE.
const TOO_MANY_FILES: i32 = if cfg!(windows) { 10024 } else { 24 };

/// Errors of `accept` that concern one connection.
const OF_ONE_CONNECTION: [ErrorKind; 4] = [
    ErrorKind::ConnectionAborted,
    ErrorKind::ConnectionReset,
    ErrorKind::Interrupted,
    ErrorKind::TimedOut,
];

/// The exponents of the nanoseconds of a delay: 1 µs to 8 ms, of which each order of magnitude is as likely.
const DELAYS: RangeInclusive<u32> = 10..=22;

/// The same for the moment at which a fault strikes a client: 1 µs to 134 ms.
const MOMENTS: RangeInclusive<u32> = 10..=26;

impl Mishap {
    pub(super) fn error(self) -> io::Error {
        match self {
            Mishap::Connection(kind) => kind.into(),
            Mishap::Descriptors => io::Error::from_raw_os_error(TOO_MANY_FILES),
        }
    }
}

impl Dice {
    fn falls(&mut self, rate: f64) -> bool {
        // Without a draw where the rate is zero, so that a fault that is off costs nothing.
        rate > 0.0 && self.random.f64() < rate
    }

    fn nanoseconds(&mut self, exponents: RangeInclusive<u32>) -> u64 {
        let least = 1_u64 << self.random.u32(exponents);
        self.random.u64(least..2 * least)
    }
}

impl Trouble {
    pub(super) fn new(seed: u64, faults: Faults, history: Arc<History>) -> Self {
        Self {
            dice: Mutex::new(Dice {
                // Other dice than those of the executor, which have the seed itself.
                random: Rng::with_seed(seed ^ 0x7472_6f75_626c_6573),
                faults,
                counts: FaultCounts::default(),
            }),
            history,
        }
    }

    /// No fault begins from now on.
    pub(super) fn calm(&self) {
        lock(&self.dice).faults = Faults::none();
    }

    pub(super) fn counts(&self) -> FaultCounts {
        lock(&self.dice).counts
    }

    /// The calls of `accept` that fail before the next client.
    pub(super) fn accepts(&self) -> Vec<Mishap> {
        let mut dice = lock(&self.dice);
        let mut mishaps = Vec::new();
        let faults = dice.faults;
        if dice.falls(faults.accept_errors) {
            let kind = OF_ONE_CONNECTION[dice.random.usize(..OF_ONE_CONNECTION.len())];
            mishaps.push(Mishap::Connection(kind));
        }
        if dice.falls(faults.resource_errors) {
            let calls = dice.random.usize(1..=3);
            mishaps.extend(vec![Mishap::Descriptors; calls]);
        }
        mishaps
    }

    /// A call of `accept` has failed.
    pub(super) fn accept_failed(&self, listener: SocketAddr, mishap: Mishap) {
        let mut dice = lock(&self.dice);
        match mishap {
            Mishap::Connection(_) => dice.counts.accept_errors += 1,
            Mishap::Descriptors => dice.counts.resource_errors += 1,
        }
        drop(dice);
        let error = mishap.error();
        self.history
            .note(format!("fault: accept fails on {listener}: {error}"));
    }

    /// How many bytes the connection holds that this client has not read yet.
    pub(super) fn room(&self, most: usize, client: SocketAddr) -> usize {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.slow_clients;
        if !dice.falls(rate) {
            return most;
        }
        dice.counts.slow_clients += 1;
        let room = dice.random.usize(1..=16).min(most);
        drop(dice);
        self.history.note(format!(
            "fault: {client} is slow: the server can be {room} bytes ahead of it"
        ));
        room
    }

    /// The fault that is to strike a client, and how much later.
    pub(super) fn fate(&self) -> Option<(ClientFault, Duration)> {
        let mut dice = lock(&self.dice);
        let faults = dice.faults;
        let fault = if dice.falls(faults.resets) {
            ClientFault::Reset
        } else if dice.falls(faults.half_closes) {
            ClientFault::HalfClose
        } else {
            return None;
        };
        let moment = dice.nanoseconds(MOMENTS);
        Some((fault, Duration::from_nanos(moment)))
    }

    /// Whether a fault that was to strike a client still may.
    pub(super) fn may_strike(&self, fault: ClientFault) -> bool {
        let faults = lock(&self.dice).faults;
        match fault {
            ClientFault::Reset => faults.resets > 0.0,
            ClientFault::HalfClose => faults.half_closes > 0.0,
        }
    }

    /// A fault has struck a client.
    pub(super) fn struck(&self, client: SocketAddr, fault: ClientFault) {
        let counts = &mut lock(&self.dice).counts;
        match fault {
            ClientFault::Reset => counts.resets += 1,
            ClientFault::HalfClose => counts.half_closes += 1,
        }
        self.history.note(format!("fault: {fault} by {client}"));
    }

    /// How many of so many bytes, at least two, a read or a write moves; the words say which.
    pub(super) fn part(&self, most: usize, words: impl FnOnce() -> String) -> usize {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.partial_io;
        if !dice.falls(rate) {
            return most;
        }
        dice.counts.partial_io += 1;
        let part = dice.random.usize(1..most);
        drop(dice);
        let words = words();
        self.history
            .note(format!("fault: {words} moves {part} of {most} bytes"));
        part
    }

    /// Whether the next poll is one of a task that nothing has woken.
    pub(super) fn polls(&self) -> bool {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.spurious_polls;
        dice.falls(rate)
    }

    /// By how many nanoseconds a wake is late.
    pub(super) fn delays(&self) -> Option<u64> {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.delayed_wakes;
        if !dice.falls(rate) {
            return None;
        }
        dice.counts.delayed_wakes += 1;
        Some(dice.nanoseconds(DELAYS))
    }
}
