//! A simulated world: one thread, a virtual clock, sockets in memory, and a seed that makes every choice.
//!
//! It is built on the public traits alone, as a third party's runtime would
//! be. The whole suite runs in it ([`Simulated`]), in no time: the clock moves
//! only when nothing else can. What happens depends on the seed alone.

mod executor;
mod network;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex};

use acceptor_core::Runtime;
use futures::FutureExt;

use crate::disturbed::not_listening;
use crate::patience::Patience;
use crate::world::{Client, Closed, World};

use self::executor::lock;
pub use self::executor::{
    Restless, SimulatedRuntime, SimulatedTask, Simulation, Spurious, Statistics, Tally, TaskRecord,
};
pub use self::network::{
    AcceptFault, Happened, Limits, Network, SimulatedClient, SimulatedListener, SimulatedStream,
    Stage,
};

/// The simulated world, as a column of the matrix.
#[derive(Debug)]
pub struct Simulated {
    simulation: Simulation,
    network: Network,
}

/// As large as what systems have by default.
const LIMITS: Limits = Limits {
    backlog: 4096,
    buffer: 65_536,
};

impl Simulated {
    /// A world whose choices are made by this seed.
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
        // Tasks hold the simulation, and it holds them.
        self.simulation.close();
    }
}

impl World for Simulated {
    type Runtime = SimulatedRuntime;
    type Listener = SimulatedListener;
    type Stream = SimulatedStream;
    type Client = SimulatedClient;

    fn runtime(&self) -> SimulatedRuntime {
        self.simulation.runtime()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        let result = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&result);
        self.simulation.runtime().spawn(async move {
            let ended = AssertUnwindSafe(test).catch_unwind().await;
            *lock(&tell) = Some(ended);
        });
        // Rules about the runtime alone wake tasks from threads of their own.
        let outside = 2 * Patience::of_environment().length();
        self.simulation
            .run_until(outside, || lock(&result).is_some());
        if let Some(Err(panic)) = lock(&result).take() {
            resume_unwind(panic);
        }
    }

    fn listen_on(&self, address: SocketAddr) -> io::Result<(SimulatedListener, SocketAddr)> {
        let listener = self.network.listen(address)?;
        let address = acceptor_core::Listener::local_addr(&listener)?;
        Ok((listener, address))
    }

    fn listen_to_nothing(&self) -> io::Result<(SimulatedListener, io::Error)> {
        let (listener, address) = self.listen()?;
        self.network.kill_listener(address);
        Ok((listener, not_listening()))
    }

    fn accepted(&self, stream: SimulatedStream) -> SimulatedStream {
        stream
    }

    fn stream(&self, stream: SimulatedStream) -> SimulatedStream {
        stream
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<SimulatedClient>> + Send + 'static {
        let network = self.network.clone();
        async move {
            let client = network.connect(address)?;
            client.connected().await?;
            Ok(client)
        }
    }
}

impl SimulatedClient {
    /// Reads up to `enough` bytes that satisfy it, one at a time: what comes after them stays.
    async fn take(&self, mut enough: impl FnMut(&[u8]) -> bool) -> io::Result<Vec<u8>> {
        let mut taken = Vec::new();
        while !enough(&taken) {
            let mut byte = [0];
            if self.read(&mut byte).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            taken.extend(byte);
        }
        Ok(taken)
    }
}

impl Client for SimulatedClient {
    fn local_addr(&self) -> SocketAddr {
        self.address()
    }

    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.write(bytes).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.half_close();
        Ok(())
    }

    async fn receive(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read(&mut bytes[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => filled += more,
            }
        }
        Ok(bytes)
    }

    async fn receive_line(&mut self) -> io::Result<String> {
        let line = self.take(|taken| taken.ends_with(b"\n")).await?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        String::from_utf8(line.to_vec())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    async fn closed(&mut self) -> Closed {
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer).await {
                Ok(0) => return Closed::EndOfStream,
                Ok(_) => {}
                Err(_) => return Closed::Reset,
            }
        }
    }

    async fn close(self) {}

    async fn reset(self) {
        self.abort();
    }
}
