//! What a pool shows of itself while it runs, in numbers: what was there all the time is in the counts and in the lists.
//!
//! The lists are taken in parts, between which the pool goes on.

use acceptor_core::{PoolState, Status};

use super::life::Listening;
use super::sums::Sums;
use conformance_tests::Verdict;

/// What a pool shows of itself while it runs.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    active: u64,
    workers: u64,
    connections: u64,
    /// How many acceptors each listener has.
    acceptors: Vec<u64>,
    /// How many acceptors the open listeners were given; nothing, if the pool does not run any more.
    given: Option<Vec<u64>>,
}

impl Shown {
    pub(super) fn of<A>(status: &Status<A>, open: &[Listening]) -> Self {
        let acceptors = status
            .listeners
            .iter()
            .map(|listener| listener.acceptors as u64);
        let mut open = open.to_vec();
        open.sort_by_key(|listening| listening.id);
        let given = open.iter().map(|listening| listening.acceptors as u64);
        Self {
            active: status.counts.connections as u64,
            workers: status.counts.children() as u64,
            connections: status.connections.len() as u64,
            acceptors: acceptors.collect(),
            given: (status.state == PoolState::Running).then(|| given.collect()),
        }
    }

    /// At least so many were being served all the time.
    pub(super) fn audit(&self, served: u64) -> Verdict {
        let mut sums = Sums::default();
        sums.at_least("active, of those being served", served, self.active);
        sums.at_least(
            "connections listed, of those being served",
            served,
            self.connections,
        );
        if let Some(given) = &self.given {
            sums.same("acceptors of the listeners", given, &self.acceptors);
            // Those of a listener that was closed may still terminate.
            sums.at_least(
                "workers, of active and the acceptors of the listeners",
                self.active + given.iter().sum::<u64>(),
                self.workers,
            );
        }
        sums.wrong().into_iter().next().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three connections, of which one is from a listener that was closed; two listeners with 2 and 3 acceptors.
    fn right() -> Shown {
        Shown {
            active: 3,
            workers: 8,
            connections: 3,
            acceptors: vec![2, 3],
            given: Some(vec![2, 3]),
        }
    }

    #[track_caller]
    fn check(spoil: impl FnOnce(&mut Shown), served: u64, words: Option<&str>) {
        let mut seen = right();
        spoil(&mut seen);
        let told = seen.audit(served).map_err(|broken| broken.to_string());
        match (words, told) {
            (None, told) => assert_eq!(told, Ok(())),
            (Some(words), Err(told)) => assert!(told.contains(words), "{told}"),
            (Some(words), Ok(())) => panic!("nothing is told of {words}"),
        }
    }

    #[test]
    fn what_was_there_all_the_time_is_shown() {
        check(|_| {}, 3, None);
        check(|_| {}, 0, None);
        check(|seen| seen.workers = 11, 3, None);
        // A pool that stops has closed its listeners.
        let stops = |seen: &mut Shown| {
            seen.acceptors.clear();
            seen.given = None;
        };
        check(stops, 3, None);
    }

    #[test]
    fn what_was_there_and_is_not_shown_is_told() {
        let active = "active, of those being served: at least 4";
        check(|_| {}, 4, Some(active));
        let connections = "connections listed, of those being served: at least 3";
        check(|seen| seen.connections = 2, 3, Some(connections));
        let workers = "workers, of active and the acceptors of the listeners: at least 8";
        check(|seen| seen.workers = 7, 3, Some(workers));
        let acceptors = |seen| format!("acceptors of the listeners: {seen}");
        check(|seen| seen.acceptors[1] = 2, 3, Some(&acceptors("[2, 2]")));
        check(
            |seen| seen.acceptors.truncate(1),
            3,
            Some(&acceptors("[2]")),
        );
    }
}
