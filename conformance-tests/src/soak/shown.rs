//! What a pool shows of itself at one moment, in numbers: the counts are those of the lists.

use acceptor_core::{PoolState, Status};

use super::life::Listening;
use super::sums::Sums;
use crate::verdict::Verdict;

/// What a pool shows of itself at one moment.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    active: u64,
    workers: u64,
    connections: u64,
    listeners: Vec<Listened>,
    /// How many acceptors the open listeners were given; nothing, if the pool does not run any more.
    given: Option<Vec<u64>>,
}

/// What it shows of one listener.
#[derive(Debug, Clone, Copy)]
struct Listened {
    acceptors: u64,
    /// How many connections it is told to have.
    connections: u64,
    /// How many there are in the list of connections.
    listed: u64,
}

impl Shown {
    pub(super) fn of<A>(status: &Status<A>, open: &[Listening]) -> Self {
        let listened = status.listeners.iter().map(|listener| Listened {
            acceptors: listener.acceptors as u64,
            connections: listener.connections as u64,
            listed: {
                let connections = status.connections.iter();
                let from = connections.filter(|connection| connection.listener == listener.id);
                from.count() as u64
            },
        });
        let mut open = open.to_vec();
        open.sort_by_key(|listening| listening.id);
        let given = open.iter().map(|listening| listening.acceptors as u64);
        Self {
            active: status.counts.active as u64,
            workers: status.counts.workers as u64,
            connections: status.connections.len() as u64,
            listeners: listened.collect(),
            given: (status.state == PoolState::Running).then(|| given.collect()),
        }
    }

    /// At least so many are being served.
    pub(super) fn audit(&self, served: u64) -> Verdict {
        let mut sums = Sums::default();
        sums.same("active = connections listed", self.connections, self.active);
        sums.at_least("active, of those being served", served, self.active);
        let acceptors: Vec<_> = self.listeners.iter().map(|one| one.acceptors).collect();
        // Those of a listener that was closed may still terminate.
        let least = self.connections + acceptors.iter().sum::<u64>();
        sums.at_least(
            "workers, of connections and acceptors listed",
            least,
            self.workers,
        );
        if let Some(given) = &self.given {
            sums.same("acceptors of the listeners", given, &acceptors);
        }
        for one in &self.listeners {
            sums.same(
                "connections of a listener = listed from it",
                one.listed,
                one.connections,
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
        let listened = |acceptors, connections| Listened {
            acceptors,
            connections,
            listed: connections,
        };
        Shown {
            active: 3,
            workers: 8,
            connections: 3,
            listeners: vec![listened(2, 1), listened(3, 1)],
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
    fn counts_that_are_those_of_the_lists_are_right() {
        check(|_| {}, 3, None);
        check(|_| {}, 0, None);
        check(|seen| seen.workers = 11, 3, None);
        // A pool that stops has closed its listeners.
        let stops = |seen: &mut Shown| {
            seen.listeners.clear();
            seen.given = None;
        };
        check(stops, 3, None);
    }

    #[test]
    fn counts_that_are_not_those_of_the_lists_are_told() {
        check(
            |seen| seen.active = 4,
            3,
            Some("active = connections listed: 4"),
        );
        check(|_| {}, 4, Some("active, of those being served: at least 4"));
        check(
            |seen| seen.workers = 7,
            3,
            Some("workers, of connections and acceptors listed: 7"),
        );
        check(
            |seen| seen.listeners[1].acceptors = 2,
            3,
            Some("acceptors of the listeners: [2, 2]"),
        );
        check(
            |seen| seen.listeners.truncate(1),
            3,
            Some("acceptors of the listeners: [2]"),
        );
        check(
            |seen| seen.listeners[0].listed = 2,
            3,
            Some("connections of a listener"),
        );
    }
}
