//! Random faults of an exploration: which fault strikes when, with a note of each in the history.
//!
//! Invariants: its locks are the innermost, so it may be called under any other; it has its own random numbers, so no
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

/// The faults of a simulated world, and the random numbers that choose them.
pub(super) struct FaultInjection {
    dice: Mutex<RandomState>,
    history: Arc<History>,
}

struct RandomState {
    random: Rng,
    faults: Faults,
    counts: FaultCounts,
}

/// A failing call of `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptFailure {
    /// An error of one connection.
    Connection(ErrorKind),
    /// No descriptors are left.
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

/// The exponents of a delay in nanoseconds: 1 µs to 8 ms, each order of magnitude equally likely.
const DELAYS: RangeInclusive<u32> = 10..=22;

/// The same for the moment at which a fault strikes a client: 1 µs to 134 ms.
const MOMENTS: RangeInclusive<u32> = 10..=26;

impl AcceptFailure {
    pub(super) fn error(self) -> io::Error {
        match self {
            AcceptFailure::Connection(kind) => kind.into(),
            AcceptFailure::Descriptors => io::Error::from_raw_os_error(TOO_MANY_FILES),
        }
    }
}

impl RandomState {
    fn strikes(&mut self, rate: f64) -> bool {
        // Without a draw if the rate is zero, so that a disabled fault has no cost.
        rate > 0.0 && self.random.f64() < rate
    }

    fn nanoseconds(&mut self, exponents: RangeInclusive<u32>) -> u64 {
        let least = 1_u64 << self.random.u32(exponents);
        self.random.u64(least..2 * least)
    }
}

impl FaultInjection {
    pub(super) fn new(seed: u64, faults: Faults, history: Arc<History>) -> Self {
        Self {
            dice: Mutex::new(RandomState {
                // Independent of the executor, which uses the seed itself.
                random: Rng::with_seed(seed ^ 0x7472_6f75_626c_6573),
                faults,
                counts: FaultCounts::default(),
            }),
            history,
        }
    }

    /// Starts no more faults.
    pub(super) fn calm(&self) {
        lock(&self.dice).faults = Faults::none();
    }

    pub(super) fn counts(&self) -> FaultCounts {
        lock(&self.dice).counts
    }

    /// Returns the calls of `accept` that fail before the next client.
    pub(super) fn accepts(&self) -> Vec<AcceptFailure> {
        let mut dice = lock(&self.dice);
        let mut failures = Vec::new();
        let faults = dice.faults;
        if dice.strikes(faults.accept_errors) {
            let kind = OF_ONE_CONNECTION[dice.random.usize(..OF_ONE_CONNECTION.len())];
            failures.push(AcceptFailure::Connection(kind));
        }
        if dice.strikes(faults.resource_errors) {
            let calls = dice.random.usize(1..=3);
            failures.extend(vec![AcceptFailure::Descriptors; calls]);
        }
        failures
    }

    /// Records a failed call of `accept`.
    pub(super) fn accept_failed(&self, listener: SocketAddr, failure: AcceptFailure) {
        let mut dice = lock(&self.dice);
        match failure {
            AcceptFailure::Connection(_) => dice.counts.accept_errors += 1,
            AcceptFailure::Descriptors => dice.counts.resource_errors += 1,
        }
        drop(dice);
        let error = failure.error();
        self.history
            .note(format!("fault: accept fails on {listener}: {error}"));
    }

    /// Returns how many bytes the connection buffers for this client.
    pub(super) fn room(&self, most: usize, client: SocketAddr) -> usize {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.slow_clients;
        if !dice.strikes(rate) {
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

    /// Returns the fault that will strike a client, and its delay.
    pub(super) fn client_fault(&self) -> Option<(ClientFault, Duration)> {
        let mut dice = lock(&self.dice);
        let faults = dice.faults;
        let fault = if dice.strikes(faults.resets) {
            ClientFault::Reset
        } else if dice.strikes(faults.half_closes) {
            ClientFault::HalfClose
        } else {
            return None;
        };
        let moment = dice.nanoseconds(MOMENTS);
        Some((fault, Duration::from_nanos(moment)))
    }

    /// Returns whether a scheduled fault may still strike a client.
    pub(super) fn may_strike(&self, fault: ClientFault) -> bool {
        let faults = lock(&self.dice).faults;
        match fault {
            ClientFault::Reset => faults.resets > 0.0,
            ClientFault::HalfClose => faults.half_closes > 0.0,
        }
    }

    /// Records a fault that struck a client.
    pub(super) fn struck(&self, client: SocketAddr, fault: ClientFault) {
        let counts = &mut lock(&self.dice).counts;
        match fault {
            ClientFault::Reset => counts.resets += 1,
            ClientFault::HalfClose => counts.half_closes += 1,
        }
        self.history.note(format!("fault: {fault} by {client}"));
    }

    /// Returns how many of at least two bytes a read or a write moves; `words` describes the operation.
    pub(super) fn part(&self, most: usize, words: impl FnOnce() -> String) -> usize {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.partial_io;
        if !dice.strikes(rate) {
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

    /// Returns whether the next poll is one without a wake.
    pub(super) fn polls(&self) -> bool {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.spurious_polls;
        dice.strikes(rate)
    }

    /// Returns by how many nanoseconds a wake is delayed.
    pub(super) fn delays(&self) -> Option<u64> {
        let mut dice = lock(&self.dice);
        let rate = dice.faults.delayed_wakes;
        if !dice.strikes(rate) {
            return None;
        }
        dice.counts.delayed_wakes += 1;
        Some(dice.nanoseconds(DELAYS))
    }
}
