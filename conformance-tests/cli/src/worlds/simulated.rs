//! The suite in a simulated world, whose clock advances only when no task is ready, so that sleeps take no real time.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acceptor_core::{Listener, Runtime};
use acceptor_simulation::{
    Limits, Network, SimulatedClient, SimulatedListener, SimulatedRuntime, SimulatedStream,
    Simulation, Spurious,
};
use conformance_tests::instruments::not_listening;
use conformance_tests::{Address, Client, Closed, Patience, World};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The simulated world.
#[derive(Debug)]
pub struct Simulated {
    simulation: Simulation,
    network: Network,
}

/// The usual defaults of systems.
const LIMITS: Limits = Limits {
    backlog: 4096,
    buffer: 65_536,
};

impl Simulated {
    /// Creates a world whose random choices follow from this seed.
    pub fn new(seed: u64) -> Self {
        let simulation = Simulation::new(seed, Spurious::OneIn(16));
        let network = Network::new(&simulation, LIMITS);
        Self {
            simulation,
            network,
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // Breaks the cycle: tasks hold the simulation, and it holds them.
        self.simulation.close();
    }
}

impl World for Simulated {
    type Runtime = SimulatedRuntime;
    type Listener = SimulatedListener;
    type Stream = SimulatedStream;
    type Client = Peer;

    fn runtime(&self) -> SimulatedRuntime {
        self.simulation.runtime()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        let result = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&result);
        self.simulation.runtime().spawn(async move {
            let ended = AssertUnwindSafe(test).catch_unwind().await;
            *locked(&tell) = Some(ended);
        });
        // Rules of the runtime alone wake tasks from other threads.
        let outside = 2 * Patience::expect_from_environment().length();
        self.simulation
            .run_until(outside, || locked(&result).is_some());
        if let Some(Err(panic)) = locked(&result).take() {
            resume_unwind(panic);
        }
    }

    fn address(address: &SocketAddr) -> Address {
        Address::from(*address)
    }

    fn listen(&self) -> io::Result<(SimulatedListener, Address)> {
        self.listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
    }

    fn listen_on(&self, address: Address) -> io::Result<(SimulatedListener, Address)> {
        let address = address.socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let listener = self.network.listen(address)?;
        let address = listener.local_addr()?;
        Ok((listener, Address::from(address)))
    }

    fn listen_to_nothing(&self) -> io::Result<(SimulatedListener, io::Error)> {
        let (listener, _) = self.listen()?;
        self.network.kill_listener(listener.local_addr()?);
        Ok((listener, not_listening()))
    }

    fn accepted(&self, stream: SimulatedStream) -> SimulatedStream {
        stream
    }

    fn stream(&self, stream: SimulatedStream) -> SimulatedStream {
        stream
    }

    fn connect(&self, address: Address) -> impl Future<Output = io::Result<Peer>> + Send + 'static {
        let network = self.network.clone();
        async move {
            let address = address.socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let client = network.connect(address)?;
            client.connected().await?;
            Ok(Peer(client))
        }
    }
}

/// A client of the simulated network.
#[derive(Debug)]
pub struct Peer(SimulatedClient);

impl Client for Peer {
    fn local_addr(&self) -> Address {
        Address::from(self.0.address())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.0.half_close();
        Ok(())
    }

    async fn receive(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    async fn receive_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let byte = self.receive(1).await?;
            if byte == b"\n" {
                let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                return String::from_utf8(line).map_err(invalid);
            }
            line.extend(byte);
        }
    }

    async fn closed(&mut self) -> Closed {
        match self.0.read_to_end(&mut Vec::new()).await {
            Ok(_) => Closed::EndOfStream,
            Err(_) => Closed::Reset,
        }
    }

    async fn close(self) {}

    async fn reset(self) {
        self.0.abort();
    }
}
