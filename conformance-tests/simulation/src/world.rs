//! The world of one seed, as a scenario sees it: a runtime, a network with faults, a clock, and random numbers.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use acceptor_core::{
    Acceptor, Event, Failure, Listener, Pool, Report, Runtime, Spec, StartError, observer_fn,
};
use fastrand::Rng;
use futures::future::{Either, select};

use super::executor::{SimulatedRuntime, SimulatedTask, Simulation, Wait, lock};
use super::fault_injection::FaultInjection;
use super::history::History;
use super::network::{Limits, Network, SimulatedClient, SimulatedListener};

/// A simulated world, in which one scenario runs with one seed. See [`Explore`](crate::Explore).
///
/// Clones share it. A task that is [spawned](World::spawn) owns a clone.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    simulation: Simulation,
    network: Network,
    injection: Arc<FaultInjection>,
    history: Arc<History>,
    state: Mutex<State>,
}

struct State {
    random: Rng,
    /// How often the scenario has reached each named point.
    reached: Vec<(&'static str, u64)>,
    /// The tasks of the scenario, the latest last.
    tasks: Vec<SimulatedTask>,
    child_panic: Option<String>,
}

/// The capacities of a network, except for slow clients: the usual defaults of systems.
const LIMITS: Limits = Limits {
    backlog: 4096,
    buffer: 65_536,
};

/// Later than any deadline of a test.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl World {
    pub(super) fn new(
        seed: u64,
        simulation: &Simulation,
        injection: &Arc<FaultInjection>,
        history: &Arc<History>,
    ) -> Self {
        let network = Network::new(simulation, LIMITS).with_fault_injection(Arc::clone(injection));
        Self {
            shared: Arc::new(Shared {
                seed,
                simulation: simulation.clone(),
                network,
                injection: Arc::clone(injection),
                history: Arc::clone(history),
                state: Mutex::new(State {
                    // Independent of the executor and of the faults.
                    random: Rng::with_seed(seed ^ 0x7363_656e_6172_696f),
                    reached: Vec::new(),
                    tasks: Vec::new(),
                    child_panic: None,
                }),
            }),
        }
    }

    /// Returns the seed that makes all choices.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// Returns the runtime with which pools are started, and which an acceptor uses to sleep or spawn.
    ///
    /// A panic of a task that is spawned on it fails the seed.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// use acceptor_core::Runtime;
    /// # use std::time::Duration;
    ///
    /// /// An acceptor that works on any runtime pauses like this.
    /// async fn pause(runtime: impl Runtime) {
    ///     runtime.sleep_until(runtime.now() + Duration::from_secs(5)).await;
    /// }
    /// # Explore::new().seed(1).run(|world| async move {
    /// pause(world.runtime()).await;
    /// assert!(world.elapsed() >= Duration::from_secs(5));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn runtime(&self) -> SimulatedRuntime {
        self.shared.simulation.runtime()
    }

    /// Starts a pool on the [runtime](Self::runtime), whose reports become part of the history: [`observe`](Self::observe) and
    /// [`Pool::start`] in one.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::start`].
    ///
    /// ```
    /// # use acceptor_core::{acceptor_fn, BoxError, Connection, Spec};
    /// # use acceptor_simulation::{Explore, SimulatedStream};
    /// # use std::net::SocketAddr;
    /// async fn close(_: Connection<SimulatedStream, SocketAddr>) -> Result<(), BoxError> {
    ///     Ok(())
    /// }
    /// # Explore::new().seed(1).run(|world| async move {
    /// let pool = world.start(Spec::new("closes", acceptor_fn(close)))?;
    /// pool.add_listener(world.listen()?, 3)?;
    /// assert_eq!(pool.counts()?.acceptors, 3);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn start<L: Listener, Acc: Acceptor<L>>(
        &self,
        spec: Spec<Acc, L::Addr>,
    ) -> Result<Pool<SimulatedRuntime, L>, StartError> {
        Pool::start(self.runtime(), self.observe(spec))
    }

    /// Adds the reports of a pool to the history, which the message of a failing seed shows. The observer that the
    /// spec has still gets them.
    ///
    /// [`Explore::fail_on_child_panic`](crate::Explore::fail_on_child_panic) sees the pools that are started or reconfigured with
    /// such a spec.
    ///
    /// ```
    /// # use acceptor_core::{acceptor_fn, BoxError, Connection, Pool, Spec};
    /// # use acceptor_simulation::{Explore, SimulatedListener, SimulatedStream};
    /// # use std::net::SocketAddr;
    /// # async fn close(_: Connection<SimulatedStream, SocketAddr>) -> Result<(), BoxError> {
    /// #     Ok(())
    /// # }
    /// # Explore::new().seed(1).run(|world| async move {
    /// let spec = world.observe(Spec::new("closes", acceptor_fn(close)).intensity(10));
    /// let pool = Pool::start(world.runtime(), spec)?;
    /// # pool.add_listener(world.listen()?, 3)?;
    /// assert_eq!(pool.settings()?.intensity, 10);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn observe<Acc, A: fmt::Debug + 'static>(&self, mut spec: Spec<Acc, A>) -> Spec<Acc, A> {
        let before = spec.settings.observer.take();
        let shared = Arc::downgrade(&self.shared);
        spec.observer(observer_fn(move |report: &Report<A>| {
            if let Some(shared) = shared.upgrade() {
                shared.history.note(format!("report: {report}"));
                if is_panic_of_a_child(report) {
                    let panic = &mut lock(&shared.state).child_panic;
                    panic.get_or_insert_with(|| report.to_string());
                }
            }
            if let Some(before) = &before {
                before.report(report);
            }
        }))
    }

    /// Listens on a loopback address with a free port.
    ///
    /// # Errors
    ///
    /// None at present.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # Explore::new().seed(1).run(|world| async move {
    /// let (one, other) = (world.listen()?, world.listen()?);
    /// assert_ne!(one.address(), other.address());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn listen(&self) -> io::Result<SimulatedListener> {
        self.listen_on((Ipv4Addr::LOCALHOST, 0))
    }

    /// Listens on this address. Port 0 is replaced by a free port.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if the address is in use, `AddrNotAvailable` if it is neither a loopback address nor a wildcard.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # Explore::new().seed(1).run(|world| async move {
    /// let listener = world.listen_on(([127, 0, 0, 1], 80))?;
    /// assert!(world.listen_on(listener.address()).is_err());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn listen_on(&self, address: impl Into<SocketAddr>) -> io::Result<SimulatedListener> {
        self.shared.network.listen(address.into())
    }

    /// Connects a client, which implements futures' `AsyncRead` and `AsyncWrite`, and is closed when it is dropped.
    ///
    /// The call chooses the client's faults. It waits while the backlog of 4,096 connections is full.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if nothing listens there; `ConnectionReset` if the listener is closed while the client waits.
    ///
    /// ```
    /// # use acceptor_core::Listener;
    /// # use acceptor_simulation::Explore;
    /// use futures::{AsyncReadExt, AsyncWriteExt};
    /// # Explore::new().seed(1).faults(acceptor_simulation::Faults::none()).run(|world| async move {
    ///
    /// let listener = world.listen()?;
    /// let mut client = world.connect(listener.address()).await?;
    /// client.write_all(b"hello").await?;
    ///
    /// let (mut stream, peer) = listener.accept().await?;
    /// assert_eq!(peer, client.address());
    /// let mut bytes = [0; 5];
    /// stream.read_exact(&mut bytes).await?;
    /// assert_eq!(&bytes, b"hello");
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn connect(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<SimulatedClient>> + Send + use<> {
        let world = self.clone();
        async move {
            let client = world.shared.network.connect(address)?;
            let history = &world.shared.history;
            history.note(format!("{} connects to {address}", client.address()));
            client.connected().await?;
            world.schedule_fault(&client);
            Ok(client)
        }
    }

    fn schedule_fault(&self, client: &SimulatedClient) {
        let Some((fault, delay)) = self.shared.injection.client_fault() else {
            return;
        };
        let pending_fault = client.pending_fault();
        let runtime = self.runtime();
        let injection = Arc::clone(&self.shared.injection);
        let at = runtime.now() + delay;
        let fate = async move {
            runtime.sleep_until(at).await;
            if injection.may_strike(fault) {
                if let Some(client) = pending_fault.strike(fault) {
                    injection.struck(client, fault);
                }
            }
        };
        self.runtime().spawn_as("a scheduled fault", Box::pin(fate));
    }

    /// Sleeps for this long by the virtual clock.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # use std::time::Duration;
    /// # Explore::new().seed(1).run(|world| async move {
    /// world.sleep(Duration::from_secs(3600)).await;
    /// assert!(world.elapsed() >= Duration::from_secs(3600));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let world = self.clone();
        async move {
            let now = world.now();
            let deadline = now.checked_add(duration).unwrap_or(now + FAR);
            world.runtime().sleep_until(deadline).await;
        }
    }

    /// Waits for a future for at most this long by the virtual clock, and returns `None` on a timeout.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # use std::time::Duration;
    /// # Explore::new().seed(1).run(|world| async move {
    /// let second = Duration::from_secs(1);
    /// assert_eq!(world.timeout(second, std::future::ready(7)).await, Some(7));
    /// assert_eq!(world.timeout(second, std::future::pending::<()>()).await, None);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub async fn timeout<F: Future>(&self, within: Duration, future: F) -> Option<F::Output> {
        match select(pin!(future), pin!(self.sleep(within))).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(((), _)) => None,
        }
    }

    /// Returns the current time of the virtual clock.
    pub fn now(&self) -> Instant {
        self.shared.simulation.now()
    }

    /// Returns the virtual time since the world was created.
    pub fn elapsed(&self) -> Duration {
        self.shared.simulation.elapsed()
    }

    /// Spawns a future as a task, with a name for the message of a failure.
    ///
    /// A panic in it fails the seed. It is dropped when the scenario ends; await a task that has to complete.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # Explore::new().seed(1).run(|world| async move {
    /// let clients: Vec<_> = (0..3).map(|n| world.spawn("client", async move { n * n })).collect();
    /// assert_eq!(futures::future::join_all(clients).await, [0, 1, 4]);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let end = Arc::new(Mutex::new(End {
            output: None,
            waker: None,
        }));
        let tell = Arc::clone(&end);
        let task = async move {
            let output = future.await;
            let waker = {
                let mut end = lock(&tell);
                end.output = Some(output);
                end.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        };
        let id = self.runtime().spawn_as(name, Box::pin(task));
        lock(&self.shared.state).tasks.extend(id);
        Task {
            simulation: self.shared.simulation.clone(),
            id,
            end,
        }
    }

    /// Returns a number below this one, chosen by the seed; 0 if the limit is 0.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # Explore::new().seed(1).run(|world| async move {
    /// let commands = ["get", "set", "delete"];
    /// let command = commands[world.random(3) as usize];
    /// assert!(command.len() >= 3);
    /// assert_eq!(world.random(0), 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn random(&self, below: u64) -> u64 {
        match below {
            0 => 0,
            _ => lock(&self.shared.state).random.u64(..below),
        }
    }

    /// Returns true with this probability, from 0, never, to 1, always. The seed chooses.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// # Explore::new().seed(1).run(|world| async move {
    /// assert!(world.chance(1.0));
    /// assert!(!world.chance(0.0));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn chance(&self, rate: f64) -> bool {
        lock(&self.shared.state).random.f64() < rate
    }

    /// Adds a line to the history, which the message of a failure shows.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// let explored = Explore::new().seed(1).run(|world| async move {
    ///     world.note("the leader is elected");
    ///     Err("and does nothing".into())
    /// });
    /// let error = explored.expect_err("the scenario fails");
    /// assert!(error.to_string().contains("0ns  the leader is elected"));
    /// ```
    pub fn note(&self, text: impl Into<String>) {
        self.shared.history.note(text.into());
    }

    /// Counts that the scenario has reached the point of this name. [`Explored::reached`](crate::Explored::reached) returns the count: a test
    /// that asserts it notices when its seeds no longer reach the point.
    ///
    /// ```
    /// # use acceptor_simulation::Explore;
    /// let explored = Explore::new().seeds(1..=100).run(|world| async move {
    ///     if world.chance(0.5) {
    ///         world.reached("heads");
    ///     }
    ///     Ok(())
    /// })?;
    /// assert!(explored.reached("heads") > 20);
    /// # Ok::<_, acceptor_simulation::ExploreError>(())
    /// ```
    pub fn reached(&self, place: &'static str) {
        let reached = &mut lock(&self.shared.state).reached;
        match reached.iter_mut().find(|(other, _)| *other == place) {
            Some((_, count)) => *count += 1,
            None => reached.push((place, 1)),
        }
    }

    /// Starts no more faults, so that the rest of the scenario can expect everything to work.
    ///
    /// Scheduled faults of clients are cancelled. Errors of `accept` that are due still occur, and slow clients stay slow.
    ///
    /// ```
    /// # use acceptor_simulation::{Explore, Faults};
    /// # use std::time::Duration;
    /// # Explore::new().seed(1).faults(Faults::default().resets(1.0)).run(|world| async move {
    /// world.calm();
    /// let listener = world.listen()?;
    /// let client = world.connect(listener.address()).await?;
    /// world.sleep(Duration::from_secs(1)).await;
    /// assert_eq!(client.fault(), None);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn calm(&self) {
        self.shared.injection.calm();
        self.note("no fault starts from here on");
    }

    pub(super) fn network(&self) -> &Network {
        &self.shared.network
    }

    pub(super) fn counts_reached(&self) -> Vec<(&'static str, u64)> {
        lock(&self.shared.state).reached.clone()
    }

    /// Returns the report of the first child that panicked.
    pub(super) fn child_panic(&self) -> Option<String> {
        lock(&self.shared.state).child_panic.clone()
    }

    /// Drops the tasks of the scenario.
    pub(super) fn drop_tasks(&self) {
        let tasks = std::mem::take(&mut lock(&self.shared.state).tasks);
        for task in tasks {
            self.shared.simulation.drop_task(task);
        }
    }
}

fn is_panic_of_a_child<A>(report: &Report<A>) -> bool {
    match &report.event {
        Event::StartError { failure, .. }
        | Event::AcceptorFailed { failure, .. }
        | Event::ConnectionFailed { failure, .. } => matches!(failure, Failure::Panic(_)),
        _ => false,
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

/// A task of a scenario. It can be awaited for its output; dropping it detaches the task.
///
/// If the task panicked, it stays pending, and the seed has failed.
pub struct Task<T> {
    simulation: Simulation,
    id: Option<SimulatedTask>,
    end: Arc<Mutex<End<T>>>,
}

struct End<T> {
    output: Option<T>,
    waker: Option<Waker>,
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut end = lock(&self.end);
        if let Some(output) = end.output.take() {
            return Poll::Ready(output);
        }
        let replaced = end.waker.replace(cx.waker().clone());
        drop(end);
        drop(replaced);
        if let Some(id) = self.id {
            self.simulation.waits_for(Wait::End(id));
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}
