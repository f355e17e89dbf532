//! What is done to a pool from outside while clients come and go, and what it must show of itself meanwhile.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{ChildError, ChildId, CloseError, ReconfigureError, Stopped, WaitingAcceptors};

use super::account::Ending;
use super::life::{Life, Listening, Until};
use super::plan::{Answer, OF_INIT};
use super::shown::Shown;
use conformance_tests::World;
use conformance_tests::{Broken, Verdict, same};

/// How many listeners are open at most.
const OPEN: usize = 5;

impl<W: World> Life<W> {
    /// Meddles with the pool, by chance; until it has stopped, if that is what it is to do.
    pub(super) fn is_meddled_with(&mut self, until: Until) -> Verdict {
        if let Ending::Intensity(_) = self.plan.ending {
            return self.is_watched_until_it_stops();
        }
        while Instant::now() < until.time && self.scene.made_ever() < until.connections {
            self.scene.ledger.verdict()?;
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
            // The pace of the changes.
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

    /// What is there all the time is in the counts and in the lists.
    fn look(&self) -> Verdict {
        // In this order: who was served before and has not ended after is there in between.
        let served = self.scene.ledger.served();
        let status = match (self.pool.status(), self.plan.ending) {
            (Ok(status), _) => status,
            (Err(Stopped), Ending::Intensity(_)) => return Ok(()),
            (Err(Stopped), _) => return Err(Broken::new("the pool runs", "it has stopped")),
        };
        let ended = self.scene.ledger.ended();
        Shown::of(&status, &self.open).audit(served.saturating_sub(ended))
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
        let active = self.pool.counts().map(|counts| counts.connections);
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
        // Those that are replaced would be in the counts beside those that take their places, for as long as they terminate.
        let waiting = WaitingAcceptors::Keep;
        let answer = self.pool.reconfigure(self.specs.spec(&id), waiting);
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
        match (answer, self.pool.reload(WaitingAcceptors::Keep)) {
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
