//! Runs a pool whose acceptor is a function: it has no `init` with events, so the lists are checked.

use std::net::{Ipv4Addr, SocketAddr};

use acceptor_core::{Connection, Listener, Pool, Spec, acceptor_fn};
use futures::AsyncReadExt;

use super::{Check, MAX_POLLS, Runner, same, violation};
use acceptor_simulation::{SimulatedListener, SimulatedRuntime, SimulatedStream};

type PlainPool = Pool<SimulatedRuntime, SimulatedListener>;

/// More than there are acceptors, so that each is replaced.
const CLIENTS: usize = 5;

impl Runner<'_> {
    /// Every client is served, and the number of acceptors stays the same (L1, L2).
    pub(super) fn run_plain_pool(&mut self) -> Check {
        let acceptors = 1 + self.scenario.seed as usize % 3;
        let serve = |mut connection: Connection<SimulatedStream, SocketAddr>| async move {
            let mut bytes = [0; 8];
            while connection.stream.read(&mut bytes).await? > 0 {}
            Ok(())
        };
        let spec = Spec::new("plain", acceptor_fn(serve));
        let pool: PlainPool = Pool::start(self.simulation.runtime(), spec)
            .or_else(|error| violation("V1", "a pool", error.to_string()))?;
        let listener = self.network.listen((Ipv4Addr::LOCALHOST, 0).into());
        let listener = listener.or_else(|error| violation("K1", "a port", error.to_string()))?;
        let address = listener.local_addr();
        let address = address.or_else(|error| violation("K1", "an address", error.to_string()))?;
        let added = pool.handle().add_listener(listener, acceptors);
        added.or_else(|error| violation("V2", "a listener is added", error.to_string()))?;
        let mut clients = Vec::new();
        for served in 1..=CLIENTS {
            let client = self.network.connect(address);
            clients.push(client.or_else(|error| violation("L2", "a client", error.to_string()))?);
            self.settle_plain()?;
            let backlog = self.network.backlog(address);
            same("L2", "clients in the backlog", 0, backlog)?;
            shows_plain(&pool, acceptors, served)?;
        }
        drop(clients);
        self.settle_plain()?;
        shows_plain(&pool, acceptors, 0)?;
        drop(pool);
        self.settle_plain()?;
        same("S9", "tasks that are left", 0, self.simulation.task_count())
    }

    fn settle_plain(&self) -> Check {
        match self.simulation.settle(MAX_POLLS as usize) {
            Ok(_) => Ok(()),
            Err(_) => violation("B3", "no task is ready", "a task is ready"),
        }
    }
}

fn shows_plain(pool: &PlainPool, acceptors: usize, connections: usize) -> Check {
    let handle = pool.handle();
    let listed = handle.listeners().unwrap_or_default().into_iter();
    let listed: Vec<_> = listed
        .map(|record| (record.acceptors, record.connections))
        .collect();
    let expected = vec![(acceptors, connections)];
    same("L1", "acceptors and connections", expected, listed)?;
    let counts = handle.counts().ok();
    let counts = counts.map(|counts| (counts.connections, counts.children()));
    let expected = Some((connections, acceptors + connections));
    same("Q3", "connections and children", expected, counts)
}
