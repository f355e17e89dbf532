//! What is done to a pool from outside while clients come and go, and what it must show of itself meanwhile.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildError, ChildId, CloseError, PoolState, ReconfigureError, Status, Stopped,
};

use super::account::{Ending, Sums};
use super::life::{Life, Listening, Until};
use super::plan::{Answer, OF_INIT};
use crate::verdict::{Broken, Verdict, same};
use crate::world::World;

/// How many listeners are open at most.
const OPEN: usize = 5;

impl<W: World> Life<W> {
    /// Meddles with the pool, by chance; until it has stopped, if that is what it is to do.
    pub(super) fn is_meddled_with(&mut self, until: Until) -> Verdict {
        if let Ending::Intensity(_) = self.plan.ending {
            return self.is_watched_until_it_stops();
        }
        while Instant::now() < until.time && self.scene.made_ever() < until.connections {
            match self.random.u32(0..100) {
                0..40 => self.look()?,
                40..54 => self.kills_a_connection()?,
                54..68 => self.stops_a_connection()?,
                68..72 => self.kills_an_acceptor()?,
                72..78 => self.stops_an_acceptor()?,
                78..86 => self.moves_a_listener()?,
                86..92 => self.reconfigures()?,
                92..97 => self.reloads()?,
                _ => self.adds_a_dead_listener()?,
            }
            thread::sleep(Duration::from_millis(self.random.u64(1..8)));
        }
        Ok(())
    }

    fn is_watched_until_it_stops(&mut self) -> Verdict {
        let give_up = Instant::now() + self.scene.patience.length();
        while Instant::now() < give_up && self.pool.counts().is_ok() {
            match self.random.u32(0..4) {
                0 => self.kills_a_connection()?,
                1 => self.stops_a_connection()?,
                _ => self.look()?,
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The counts are those of the lists, at any moment.
    fn look(&self) -> Verdict {
        // In this order: who was served before and has not ended after is there in between.
        let served = self.scene.ledger.served();
        let status = match (self.pool.status(), self.plan.ending) {
            (Ok(status), _) => status,
            (Err(Stopped), Ending::Intensity(_)) => return Ok(()),
            (Err(Stopped), _) => return Err(Broken::new("the pool runs", "it has stopped")),
        };
        let ended = self.scene.ledger.ended();
        Seen::of(&status, &self.open).audit(served.saturating_sub(ended))
    }

    /// With nobody there, what each listener accepted is what was served from it.
    pub(super) fn look_at_rest(&self) -> Verdict {
        let listeners = self.pool.listeners();
        let listeners = listeners.map_err(|Stopped| Broken::new("the pool runs", "it stopped"))?;
        for listener in listeners {
            same(
                "connections accepted by a listener = served, or killed before they were",
                listener.accepted,
                self.scene.ledger.taken_from(listener.id),
            )?;
        }
        let active = self.pool.counts().map(|counts| counts.active);
        same("active connections, with nobody there", Ok(0), active)
    }

    fn kills_a_connection(&mut self) -> Verdict {
        self.tells_a_connection(Self::kills)
    }

    fn stops_a_connection(&mut self) -> Verdict {
        self.tells_a_connection(Self::stops)
    }

    fn tells_a_connection(&mut self, tell: fn(&Self, ChildId) -> Verdict) -> Verdict {
        let connections = self.pool.connections().unwrap_or_default();
        match self.random.choice(&connections) {
            Some(connection) => tell(self, connection.id),
            None => Ok(()),
        }
    }

    fn kills_an_acceptor(&mut self) -> Verdict {
        let acceptor = self.scene.acceptor(&mut self.random);
        acceptor.map_or(Ok(()), |id| self.kills(id))
    }

    fn stops_an_acceptor(&mut self) -> Verdict {
        let acceptor = self.scene.acceptor(&mut self.random);
        acceptor.map_or(Ok(()), |id| self.stops(id))
    }

    fn kills(&self, id: ChildId) -> Verdict {
        self.scene.ledger.tells(id);
        self.told(id, self.pool.kill_child(id))
    }

    fn stops(&self, id: ChildId) -> Verdict {
        self.scene.ledger.tells(id);
        self.told(id, self.pool.stop_child(id))
    }

    /// It may have ended by itself, and the pool may stop if it is one that does.
    fn told(&self, id: ChildId, answer: Result<(), ChildError>) -> Verdict {
        match (answer, self.plan.ending) {
            (Ok(()), _) | (Err(ChildError::Stopped), Ending::Intensity(_)) => Ok(()),
            (Err(ChildError::UnknownChild(unknown)), _) if unknown == id => Ok(()),
            (answer, _) => Err(unexpected("a child is told to end, or has", answer)),
        }
    }

    /// Closes a listener, and opens another: if it can be at the same address.
    fn moves_a_listener(&mut self) -> Verdict {
        if self.open.len() < OPEN && self.random.bool() {
            return self.listens_anew();
        }
        let index = self.random.usize(..self.open.len());
        let Listening {
            id, place, bound, ..
        } = self.open.swap_remove(index);
        self.scene.closes(place.number);
        let closed = self.awaits("a listener closes", self.pool.close_listener(id))?;
        same("the answer to a close", Ok(()), closed)?;
        let again = self.awaits("a second close answers", self.pool.close_listener(id))?;
        let unknown = Err(CloseError::UnknownListener(id));
        same("the answer to a second close", unknown, again)?;
        // Somebody else may have been given the port meanwhile.
        let again = bound.ip().is_unspecified() || self.random.bool();
        if again && self.listens_on(bound).is_ok() {
            return Ok(());
        }
        self.listens_anew()
    }

    fn reconfigures(&mut self) -> Verdict {
        self.reconfigured += 1;
        let id = format!("of change {}", self.reconfigured);
        let answer = self.pool.reconfigure(self.specs.spec(&id));
        answer.map_err(|error| unexpected("a spec is taken", error))?;
        self.has_spec(&id)
    }

    fn has_spec(&self, id: &str) -> Verdict {
        let status = self.pool.status();
        let seen = status.map(|status| status.spec.to_string());
        same("the id of the pool's spec", Ok(id.to_owned()), seen)
    }

    fn reloads(&mut self) -> Verdict {
        let answers = [Answer::Use, Answer::Ignore, Answer::Error, Answer::Panic];
        let answer = answers[self.random.usize(..answers.len())];
        self.specs.answers(answer);
        match (answer, self.pool.reload()) {
            (Answer::Use, Ok(())) => self.has_spec(OF_INIT),
            (Answer::Ignore, Ok(()))
            | (Answer::Error, Err(ReconfigureError::Init(_)))
            | (Answer::Panic, Err(ReconfigureError::InitPanicked(_))) => Ok(()),
            (answer, result) => {
                let expected = format!("a reload, with an init function that answers {answer:?}");
                Err(unexpected(&expected, result))
            }
        }
    }

    fn adds_a_dead_listener(&mut self) -> Verdict {
        let made = self.world.listen_to_nothing();
        let (listener, _) = made.map_err(|error| unexpected("a socket", error))?;
        let acceptors = self.random.usize(1..4);
        let added = self.pool.add_listener(listener, acceptors);
        let id = added.map_err(|error| unexpected("a listener is added", error.reason))?;
        self.faults.dead_listeners += 1;
        self.until("a listener that fails is closed", || {
            let listeners = self.pool.listeners();
            match &listeners {
                Ok(listeners) if listeners.iter().all(|other| other.id != id) => Ok(()),
                _ => Err(listeners),
            }
        })
    }
}

fn unexpected(expected: &str, seen: impl Debug) -> Broken {
    Broken::new(expected, format!("{seen:?}"))
}

/// What a pool shows at one moment, in numbers.
#[derive(Debug, Clone)]
struct Seen {
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

impl Seen {
    fn of<A>(status: &Status<A>, open: &[Listening]) -> Self {
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
    fn audit(&self, served: u64) -> Verdict {
        let mut sums = Sums::default();
        sums.same("active = connections listed", self.connections, self.active);
        sums.within(
            "active, of those being served",
            served..=u64::MAX,
            self.active,
        );
        let acceptors: Vec<_> = self.listeners.iter().map(|one| one.acceptors).collect();
        // Those of a listener that was closed may still terminate.
        let least = self.connections + acceptors.iter().sum::<u64>();
        sums.within(
            "workers, of connections and acceptors listed",
            least..=u64::MAX,
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
        sums.wrong.into_iter().next().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three connections, of which one is from a listener that was closed; two listeners with 2 and 3 acceptors.
    fn right() -> Seen {
        let listened = |acceptors, connections| Listened {
            acceptors,
            connections,
            listed: connections,
        };
        Seen {
            active: 3,
            workers: 8,
            connections: 3,
            listeners: vec![listened(2, 1), listened(3, 1)],
            given: Some(vec![2, 3]),
        }
    }

    #[track_caller]
    fn check(spoil: impl FnOnce(&mut Seen), served: u64, words: Option<&str>) {
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
        let stops = |seen: &mut Seen| {
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
        check(|_| {}, 4, Some("active, of those being served: 4 to"));
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
