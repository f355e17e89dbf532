//! Fault injection: faults for a pool while clients come and go, and checks of the pool meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{
    ChildError, ChildId, CloseError, PoolState, ReconfigureError, WaitingAcceptors,
};

use crate::context::{InitAnswer, StopMode};
use crate::history::{Count, Event, lock};
use crate::pool_run::{PoolRun, unexpected};
use conformance_tests::{IpWorld, Verdict, same};

/// The maximum number of open listeners.
const OPEN: usize = 5;

impl<W: IpWorld> PoolRun<W> {
    /// Injects random faults; into a pool that stops by itself, until it does.
    pub(crate) fn inject_faults(&mut self) -> Verdict {
        let by_itself = self.context.setup.stop == StopMode::Intensity;
        let give_up = Instant::now() + self.context.patience.length();
        loop {
            let is_enough = match by_itself {
                true => self.pool.counts().is_err() || Instant::now() >= give_up,
                false => self.context.is_enough(),
            };
            if is_enough {
                return Ok(());
            }
            self.context.history.checker().verdict()?;
            // A pool that stops meanwhile may not answer the calls with the larger numbers.
            match self.random.u32(0..if by_itself { 68 } else { 100 }) {
                0..40 => self.look()?,
                40..68 => {
                    let connections = self.pool.connections().unwrap_or_default();
                    self.end_one(connections.iter().map(|connection| connection.id))?;
                }
                68..78 => {
                    let acceptors = self.pool.acceptors().unwrap_or_default();
                    self.end_one(acceptors.iter().map(|acceptor| acceptor.id))?;
                }
                78..86 => self.move_listener()?,
                86..92 => self.reconfigure()?,
                92..97 => self.reload()?,
                _ => self.add_dead_listener()?,
            }
            // The pace of the faults.
            thread::sleep(Duration::from_millis(self.random.u64(1..8)));
        }
    }

    /// Checks that the counts and the lists contain everything that exists all the time.
    fn look(&self) -> Verdict {
        let history = &self.context.history;
        let before = history.checker().served.clone();
        let status = match self.pool.status() {
            Err(_) if self.context.setup.stop == StopMode::Intensity => return Ok(()),
            status => status.map_err(|error| unexpected("the pool runs", error))?,
        };
        let after = history.checker();
        let listed = |id: &ChildId| status.connections.iter().any(|listed| listed.id == *id);
        let served: Vec<_> = before.intersection(&after.served).collect();
        if let Some(id) = served.iter().find(|id| !listed(id)) {
            let expected = format!("{id}, which is served, is listed");
            return Err(unexpected(&expected, status));
        }
        let mut open = lock(&self.context.listeners).clone();
        open.sort_unstable();
        let listeners = status.listeners.iter();
        let listeners = listeners.map(|open| (open.id, open.acceptors, open.local_addr));
        let listeners: Vec<_> = listeners.collect();
        let mut acceptors = 0;
        if status.state == PoolState::Running {
            same("the open listeners and their acceptors", &open, &listeners)?;
            // Acceptors of a closed listener may still terminate.
            acceptors = open.iter().map(|(_, acceptors, _)| acceptors).sum();
        }
        let counts = status.counts;
        if counts.connections < served.len() || counts.acceptors < acceptors {
            let expected = format!(
                "{} connections or more, {acceptors} acceptors",
                served.len()
            );
            return Err(unexpected(&expected, counts));
        }
        Ok(())
    }

    /// Stops or kills one of these children by its id.
    fn end_one(&mut self, children: impl Iterator<Item = ChildId>) -> Verdict {
        let Some(id) = self.random.choice(children.collect::<Vec<_>>()) else {
            return Ok(());
        };
        self.context.history.record(Event::Commanded(id));
        let answer = if self.random.bool() {
            self.pool.stop_child(id)
        } else {
            self.pool.kill_child(id)
        };
        match (answer, self.context.setup.stop) {
            (Ok(()), _) | (Err(ChildError::Stopped), StopMode::Intensity) => Ok(()),
            // It has ended by itself.
            (Err(ChildError::UnknownChild(unknown)), _) if unknown == id => Ok(()),
            (answer, _) => Err(unexpected(
                "a child is stopped or killed, or has ended",
                answer,
            )),
        }
    }

    /// Adds a listener, or closes one and opens another, at the same address if possible.
    fn move_listener(&mut self) -> Verdict {
        let open = lock(&self.context.listeners).len();
        if open < OPEN && self.random.bool() {
            return self.listen();
        }
        // Clients stop connecting to it; attempts already started may be refused.
        let index = self.random.usize(..open);
        let (id, _, address) = lock(&self.context.listeners).swap_remove(index);
        self.context.history.record(Event::Closing(id));
        let closed = self.wait("a listener closes", self.pool.close_listener(id))?;
        same("the answer to a close", Ok(()), closed)?;
        let again = self.wait("a second close answers", self.pool.close_listener(id))?;
        let unknown = Err(CloseError::UnknownListener(id));
        same("the answer to a second close", unknown, again)?;
        // The system may have reused the port meanwhile.
        let same_port = address.ip().is_unspecified() || self.random.bool();
        if same_port && self.listen_on(address).is_ok() {
            return Ok(());
        }
        self.listen()
    }

    fn reconfigure(&mut self) -> Verdict {
        let id = format!("change {}", self.random.u32(..));
        let spec = self.server.spec(&id);
        // Replaced acceptors would be counted beside the new ones until they have terminated.
        let answer = self.pool.reconfigure(spec, WaitingAcceptors::Keep);
        answer.map_err(|error| unexpected("a spec is accepted", error))?;
        self.has_spec(&id)
    }

    fn has_spec(&self, id: &str) -> Verdict {
        let seen = self.pool.status().map(|status| status.spec.to_string());
        same("the id of the spec", Ok(id.to_owned()), seen)
    }

    fn reload(&mut self) -> Verdict {
        use InitAnswer::{Error, Ignore, Panic, Use};
        let answer = [Use, Ignore, Error, Panic][self.random.usize(..4)];
        *lock(&self.context.init) = answer;
        match (answer, self.pool.reload(WaitingAcceptors::Keep)) {
            (Use, Ok(())) => self.has_spec("init"),
            (Ignore, Ok(()))
            | (Error, Err(ReconfigureError::Init(_)))
            | (Panic, Err(ReconfigureError::InitPanicked(_))) => Ok(()),
            (answer, result) => {
                let expected = format!("a reload whose init function answers {answer:?}");
                Err(unexpected(&expected, result))
            }
        }
    }

    fn add_dead_listener(&mut self) -> Verdict {
        let made = self.server.world.listen_to_nothing();
        let (listener, _) = made.map_err(|error| unexpected("a socket", error))?;
        let acceptors = self.random.usize(1..4);
        let added = self.pool.add_listener(listener, acceptors);
        let id = added.map_err(|error| unexpected("a listener is added", error.reason))?;
        self.context.history.count(Count::DeadListener);
        self.until("a listener that fails is closed", || {
            match self.pool.listeners() {
                Ok(open) if open.iter().all(|open| open.id != id) => Ok(()),
                open => Err(unexpected("the listener is closed", open)),
            }
        })
    }
}
