//! A short life of a pool whose acceptor is a function: it has no `init` that could be seen, so the lists tell.

use std::net::{Ipv4Addr, SocketAddr};

use acceptor_core::{Connection, Counts, Pool, Spec, acceptor_fn};
use futures::AsyncReadExt;

use super::{Breach, Player, RESTLESS, Seen, breach, same};
use acceptor_simulation::{SimulatedListener, SimulatedRuntime, SimulatedStream};

type Plain = Pool<SimulatedRuntime, SimulatedListener>;

/// More than there are acceptors, so that each is replaced.
const CLIENTS: usize = 5;

impl Player<'_> {
    /// Everybody is served, and there are always as many acceptors as were asked for (L1, L2).
    pub(super) fn plain_life(&mut self) -> Seen {
        let acceptors = 1 + self.scenario.seed as usize % 3;
        let serve = |mut connection: Connection<SimulatedStream, SocketAddr>| async move {
            let mut bytes = [0; 8];
            while connection.stream.read(&mut bytes).await? > 0 {}
            Ok(())
        };
        let spec = Spec::new("plain", acceptor_fn(serve));
        let started = Pool::start(self.simulation.runtime(), spec);
        let pool: Plain = started.or_else(|error| breach("V1", "a pool", error.to_string()))?;
        let listener = self.network.listen((Ipv4Addr::LOCALHOST, 0).into());
        let listener = listener.or_else(|error| breach("K1", "a port", error.to_string()))?;
        let address = acceptor_core::Listener::local_addr(&listener);
        let address = address.or_else(|error| breach("K1", "an address", error.to_string()))?;
        let added = pool.handle().add_listener(listener, acceptors);
        added.or_else(|error| breach("V2", "a listener is added", error.to_string()))?;
        let mut clients = Vec::new();
        for served in 1..=CLIENTS {
            let client = self.network.connect(address);
            clients.push(client.or_else(|error| breach("L2", "a client", error.to_string()))?);
            self.come_to_rest()?;
            same(
                "L2",
                "clients in the backlog",
                0,
                self.network.backlog(address),
            )?;
            self.shows_plainly(&pool, acceptors, served)?;
        }
        drop(clients);
        self.come_to_rest()?;
        self.shows_plainly(&pool, acceptors, 0)?;
        drop(pool);
        self.come_to_rest()?;
        same("S9", "tasks that are left", 0, self.simulation.task_count())
    }

    fn come_to_rest(&self) -> Result<(), Breach> {
        match self.simulation.settle(RESTLESS as usize) {
            Ok(_) => Ok(()),
            Err(_) => breach("B3", "the tasks come to rest", "they do not"),
        }
    }

    fn shows_plainly(&self, pool: &Plain, acceptors: usize, connections: usize) -> Seen {
        let handle = pool.handle();
        let listed = handle.listeners().unwrap_or_default();
        let listed: Vec<_> = listed
            .iter()
            .map(|record| (record.acceptors, record.connections))
            .collect();
        same(
            "L1",
            "acceptors and connections",
            vec![(acceptors, connections)],
            listed,
        )?;
        let counts = handle.counts().ok();
        let counts = counts.map(|counts: Counts| (counts.connections, counts.children()));
        let expected = Some((connections, acceptors + connections));
        same("Q3", "connections and children", expected, counts)
    }
}
