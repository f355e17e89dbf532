//! The history of one seed, line by line with the time, and a fingerprint of the whole.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use super::executor::{SimulatedTask, Simulation, lock};

/// The events of a simulated world. It is called under other locks, and takes only its own.
pub(super) struct History {
    clock: Simulation,
    state: Mutex<State>,
}

struct State {
    /// The latest last.
    lines: VecDeque<(Duration, String)>,
    most_lines: usize,
    /// Lines that were dropped because there were too many.
    dropped: u64,
    /// The tasks that were polled last, the latest last.
    polled: VecDeque<(SimulatedTask, &'static str)>,
    fingerprint: u64,
}

/// How many polls are kept.
const POLLS_KEPT: usize = 200;

impl History {
    pub(super) fn new(clock: &Simulation, most_lines: usize) -> Self {
        Self {
            clock: clock.clone(),
            state: Mutex::new(State {
                lines: VecDeque::new(),
                most_lines,
                dropped: 0,
                polled: VecDeque::new(),
                fingerprint: 0,
            }),
        }
    }

    /// Adds a line for the current time.
    pub(super) fn note(&self, text: String) {
        let now = self.clock.elapsed();
        let mut state = lock(&self.state);
        state.mix(now);
        for chunk in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            state.mix_number(u64::from_le_bytes(bytes));
        }
        state.lines.push_back((now, text));
        if state.lines.len() > state.most_lines {
            state.lines.pop_front();
            state.dropped += 1;
        }
    }

    /// Records the poll of a task.
    pub(super) fn polled(&self, task: SimulatedTask, kind: &'static str) {
        let now = self.clock.elapsed();
        let mut state = lock(&self.state);
        state.mix(now);
        state.mix_number(task.number());
        if state.polled.len() == POLLS_KEPT {
            state.polled.pop_front();
        }
        state.polled.push_back((task, kind));
    }

    /// Returns the tasks polled last with their numbers of polls, in descending order.
    pub(super) fn busiest(&self) -> Vec<(SimulatedTask, &'static str, usize)> {
        let state = lock(&self.state);
        let mut polls: Vec<(SimulatedTask, &'static str, usize)> = Vec::new();
        for (task, kind) in &state.polled {
            match polls.iter_mut().find(|(other, ..)| other == task) {
                Some((.., count)) => *count += 1,
                None => polls.push((*task, kind, 1)),
            }
        }
        polls.sort_by_key(|(task, _, count)| (usize::MAX - count, *task));
        polls
    }

    /// Returns a number that is equal for equal histories, and most likely different otherwise.
    pub(super) fn fingerprint(&self) -> u64 {
        lock(&self.state).fingerprint
    }

    /// Returns the lines that are kept, the latest last, and the number of earlier lines that were
    /// dropped.
    pub(super) fn take(&self) -> (Vec<(Duration, String)>, u64) {
        let mut state = lock(&self.state);
        let lines = std::mem::take(&mut state.lines);
        (lines.into(), state.dropped)
    }
}

impl State {
    fn mix(&mut self, time: Duration) {
        self.mix_number(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn mix_number(&mut self, number: u64) {
        self.fingerprint = mixed(self.fingerprint, number);
    }
}

/// Combines two numbers so that a change of either changes the result.
pub(super) fn mixed(one: u64, other: u64) -> u64 {
    (one.rotate_left(5) ^ other).wrapping_mul(0x517c_c1b7_2722_0a95)
}
