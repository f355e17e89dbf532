//! Detection of stuck children: those that the kill found inside one poll or drop for a whole kill
//! timeout (S8).
//!
//! Pure. A child counts its polls: the number is odd while it is inside one. The driver looks at
//! all children every quarter of a kill timeout, so the same odd number in five looks in a row is
//! one poll that lasted a whole kill timeout.

use std::collections::{BTreeMap, BTreeSet};

/// The number of looks that span a kill timeout, both ends included.
const LOOKS: u8 = 5;

/// The number of intervals between looks in a kill timeout.
pub(crate) const LOOKS_IN_A_KILL_TIMEOUT: u32 = 4;

/// The result of the last looks at one child: its mark, without the highest bits, and in the lowest
/// [`SAME_BITS`] how many looks in a row found that mark. Every row of a table holds one, so it is
/// a single number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Looked(u32);

const SAME_BITS: u32 = 3;

const SAME: u32 = (1 << SAME_BITS) - 1;

/// The result of one look at a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It was polled, or seen for the first time, since the previous look.
    Moved,
    /// It was not polled since the previous look, and is not inside a long poll.
    Still,
    /// It has been inside one poll for a kill timeout.
    Stuck,
}

impl Looked {
    pub(crate) fn look(&mut self, mark: u32) -> Found {
        let (before, same) = (self.0 & !SAME, self.0 & SAME);
        let seen = mark << SAME_BITS;
        if same == 0 || before != seen {
            *self = Self(seen | 1);
            return Found::Moved;
        }
        let same = (same + 1).min(SAME);
        *self = Self(seen | same);
        if mark % 2 == 1 && same >= u32::from(LOOKS) {
            Found::Stuck
        } else {
            Found::Still
        }
    }
}

/// Identifies a runtime that listeners of the pool run on, by the number of the first listener
/// added there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuntimeKey(pub(crate) u64);

impl RuntimeKey {
    /// The runtime of the pool's own tasks.
    pub(crate) const OF_THE_POOL: Self = Self(0);
}

/// Detects runtimes that poll no task of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Runtimes {
    /// Runtimes with progress in the current round of looks.
    moved: BTreeSet<RuntimeKey>,
    stillness: BTreeMap<RuntimeKey, Stillness>,
}

impl Runtimes {
    /// Records that a child on this runtime moved or ended.
    pub(crate) fn moved(&mut self, runtime: RuntimeKey) {
        self.moved.insert(runtime);
    }

    /// Ends a round of looks at all children, which were on these runtimes. Returns the runtimes to
    /// treat as blocked.
    pub(crate) fn looked(
        &mut self,
        runtimes: impl IntoIterator<Item = RuntimeKey>,
    ) -> BTreeSet<RuntimeKey> {
        let moved = std::mem::take(&mut self.moved);
        let mut runtimes: BTreeSet<_> = runtimes.into_iter().collect();
        runtimes.retain(|runtime| {
            let stillness = self.stillness.entry(*runtime).or_default();
            stillness.is_blocked(moved.contains(runtime))
        });
        runtimes
    }
}

/// The number of looks in a row without progress: the runtime polls no task of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stillness(u8);

impl Stillness {
    /// Returns whether to treat the runtime as blocked.
    fn is_blocked(&mut self, moved: bool) -> bool {
        // The last look that found progress is the first of the run.
        self.0 = if moved { 1 } else { self.0.saturating_add(1) };
        self.0 >= LOOKS
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use Found::{Moved, Still, Stuck};

    #[track_caller]
    fn check(marks: &[u32], expected: &[Found]) {
        let mut looked = Looked::default();
        let found: Vec<_> = marks.iter().map(|mark| looked.look(*mark)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn one_poll_over_five_looks_is_stuck() {
        check(&[7; 5], &[Moved, Still, Still, Still, Stuck]);
        check(&[7, 7, 7, 7, 9], &[Moved, Still, Still, Still, Moved]);
        check(&[0, 7, 7, 7, 7], &[Moved, Moved, Still, Still, Still]);
    }

    #[test]
    fn child_between_polls_is_not_stuck() {
        check(&[8; 6], &[Moved, Still, Still, Still, Still, Still]);
    }

    #[test]
    fn stuck_child_stays_stuck() {
        let mut looked = Looked::default();
        let found: Vec<_> = (0..1000).map(|_| looked.look(7)).collect();
        assert!(found[4..].iter().all(|found| *found == Stuck));
        let mut looked = Looked::default();
        assert!((0..1000).all(|_| looked.look(8) != Stuck));
    }

    /// Every sequence of this length of the choices from 0 on.
    fn sequences(choices: usize, length: usize) -> impl Iterator<Item = Vec<usize>> {
        let all = choices.pow(length as u32);
        (0..all).map(move |number| {
            let digits = (0..length).map(|at| number / choices.pow(at as u32) % choices);
            digits.collect()
        })
    }

    /// Against the last five marks.
    #[test]
    fn every_mark_sequence_is_judged() {
        for marks in sequences(4, 8) {
            let mut looked = Looked::default();
            for (at, mark) in marks.iter().enumerate() {
                let found = looked.look(*mark as u32);
                let last = &marks[at.saturating_sub(4)..=at];
                let stuck = last.len() == 5 && mark % 2 == 1 && last.iter().all(|m| m == mark);
                let moved = at == 0 || marks[at - 1] != *mark;
                let expected = match (stuck, moved) {
                    (true, _) => Stuck,
                    (false, true) => Moved,
                    (false, false) => Still,
                };
                assert_eq!(found, expected, "{marks:?} at {at}");
            }
        }
    }

    #[test]
    fn runtime_idle_for_five_looks_is_blocked() {
        let mut stillness = Stillness::default();
        let moved = [true, false, false, true, false, false, false, false, false];
        let blocked = moved.map(|moved| stillness.is_blocked(moved));
        assert_eq!(
            blocked,
            [false, false, false, false, false, false, false, true, true]
        );
    }

    /// Against the last four looks.
    #[test]
    fn every_look_sequence_is_judged() {
        for looks in sequences(2, 12) {
            let mut stillness = Stillness::default();
            for at in 0..looks.len() {
                let blocked = stillness.is_blocked(looks[at] == 1);
                let last = &looks[at.saturating_sub(3)..=at];
                let expected = at >= 4 && last.iter().all(|moved| *moved == 0);
                assert_eq!(blocked, expected, "{looks:?} at {at}");
            }
        }
    }
}
