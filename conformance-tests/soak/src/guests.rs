//! Clients that are at a pool when it is brought to a pass, so that what becomes of each is known beforehand.

use std::sync::Arc;

use acceptor_core::Shutdown;

use super::account::Last;
use super::client::{Caller, Client};
use super::exhaustion::Exhausted;
use super::life::Life;
use super::way::Way;
use conformance_tests::World;
use conformance_tests::{Broken, Verdict};

/// Clients whose connections the stop of a pool at rest is to find.
pub(super) struct Guests {
    clients: Vec<Client>,
    /// How their connections are to end.
    pub(super) last: Last,
}

impl Guests {
    /// A few of each kind that a stop treats in its own way.
    pub(super) fn come<W: World>(life: &mut Life<W>) -> Result<Self, Broken> {
        let random = &mut life.random;
        let mut some = |least| random.u64(least..5);
        let (stopped, clean, killed, normal) = (some(1), some(1), some(0), some(0));
        let last = match life.plan.shutdown {
            // Without a phase in which anybody could leave.
            Shutdown::Kill => Last {
                killed: stopped + clean + killed,
                ..Last::default()
            },
            _ => Last {
                normal,
                clean,
                stopped,
                killed,
            },
        };
        let kinds = [
            (Way::Idles, stopped),
            (Way::TrapsStop, clean),
            (Way::Stays, killed),
            (Way::AwaitsDraining, last.normal),
        ];
        let mut clients = Vec::new();
        for (way, count) in kinds {
            for _ in 0..count {
                clients.push(life.guest(way)?);
            }
        }
        Ok(Self { clients, last })
    }

    /// The server has ended them all.
    pub(super) fn are_ended(self) {
        self.clients.into_iter().for_each(Client::end);
    }
}

/// How many clients are served on while there are no descriptors, and how many wait for theirs.
const SERVED_ON: usize = 4;
const WAITING: usize = 24;

impl<W: World> Life<W> {
    fn caller(&mut self) -> Result<Caller, Broken> {
        let caller = Caller::new(&mut self.random);
        caller.map_err(|error| Broken::new("a socket for a client", error.to_string()))
    }

    /// Connects where somebody listens.
    fn calls(&mut self, caller: Caller, way: Way) -> Result<Client, Broken> {
        let place = self.scene.place(&mut self.random);
        let scene = Arc::clone(&self.scene);
        let client = place.and_then(|place| caller.connect(&scene, place, way));
        client.ok_or_else(|| Broken::new("an open listener lets a client connect", "it does not"))
    }

    /// A client that has come as far as its pause.
    fn guest(&mut self, way: Way) -> Result<Client, Broken> {
        let caller = self.caller()?;
        let client = self.calls(caller, way)?;
        let client = client.begins(&mut self.random);
        client.ok_or_else(|| Broken::new("a pool at rest serves who comes", "it did not"))
    }

    /// There are no descriptors for a moment: the pool pauses, goes on serving whom it has, and serves the others after it (A2).
    pub(super) fn runs_out_of_descriptors(&mut self) -> Verdict {
        let mut served_on = Vec::new();
        for _ in 0..SERVED_ON {
            served_on.push(self.guest(Way::Stalls)?);
        }
        // Their own descriptors they have beforehand.
        let callers: Result<Vec<_>, _> = (0..WAITING).map(|_| self.caller()).collect();
        let pauses = self.scene.ledger.pauses();
        let exhausted = Exhausted::now();
        let exhausted =
            exhausted.map_err(|error| Broken::new("no descriptor is left", error.to_string()))?;
        self.faults.exhaustions += 1;
        let mut waiting = Vec::new();
        for caller in callers? {
            waiting.push(self.calls(caller, Way::StartsLate)?);
        }
        self.until("a pause for want of descriptors is reported", || match self
            .scene
            .ledger
            .pauses()
        {
            now if now > pauses => Ok(()),
            now => Err(format!("{now} pauses")),
        })?;
        for client in &mut served_on {
            client.talks().map_err(|seen| {
                let expected = "who is connected is served on without descriptors";
                Broken::new(expected, format!("a client saw {seen:?}"))
            })?;
        }
        drop(exhausted);
        let clients = waiting.into_iter().chain(served_on);
        clients.for_each(Client::goes_on);
        self.comes_to_rest()
    }
}
