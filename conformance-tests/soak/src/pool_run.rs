//! One pool: it starts, clients come, faults are injected, and it stops.
//!
//! Everything is done from outside, from a thread of its own: the tasks of the
//! runtime must run by themselves. Patience bounds each wait.

use std::fmt::Debug;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use acceptor_core::{
    EndKind, ListenerId, Phase, Pool, PoolHandle, Shutdown, StopReason, StopReport, Stopped,
};
use fastrand::Rng;
use futures::executor::block_on;

use crate::client::{Behavior, Client, Load};
use crate::context::{Context, Setup, StopMode};
use crate::history::{Count, Counts, Event};
use crate::{process, server};
use conformance_tests::{Broken, Patience, Verdict, World, same};

/// When faults were injected for long enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    pub(crate) time: Instant,
    /// So many connections, over all pools of the runtime.
    pub(crate) connections: u64,
}

/// An open listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub(crate) number: usize,
    pub(crate) id: ListenerId,
    pub(crate) acceptors: usize,
    pub(crate) address: SocketAddr,
}

/// One pool, from outside.
pub(crate) struct PoolRun<W: World> {
    pub(crate) world: Arc<W>,
    pub(crate) context: Arc<Context>,
    pub(crate) random: Rng,
    pub(crate) pool: PoolHandle<W::Runtime, W::Listener>,
    owner: Option<Pool<W::Runtime, W::Listener>>,
    pub(crate) open: Vec<Open>,
    /// Every listener has a number, and so has every spec.
    numbers: usize,
}

/// Runs one pool from its start to its stop, and checks its history.
pub(crate) fn run<W: World>(
    world: &Arc<W>,
    setup: Setup,
    until: Until,
    patience: Patience,
    random: &mut Rng,
    connections: &Arc<AtomicU64>,
) -> Result<Counts, Vec<Broken>> {
    let before = process::descriptors();
    let context = Context::new(setup, patience, random.fork(), connections);
    let run = PoolRun::start(world, &context, random.fork());
    // The pool is dropped with the run, and so are the clients.
    let ended = run.and_then(|mut run| run.pass(until));
    let mut checker = context.history.checker();
    if ended.is_ok() {
        checker.finish(&setup);
    }
    let (counts, mut broken) = (checker.counts(), checker.broken());
    drop(checker);
    // What was wrong before may have been the reason to give up.
    broken.extend(ended.err().filter(|error| !broken.contains(error)));
    if !broken.is_empty() {
        return Err(broken);
    }
    let what = "no descriptor is left of a pool that has stopped";
    let left = block_on(patience.until(&world.clock(), what, || {
        match (before, process::descriptors()) {
            (Some(before), Some(now)) if now > before => Err([before, now]),
            _ => Ok(()),
        }
    }));
    left.map_or_else(|broken| Err(vec![broken]), |()| Ok(counts))
}

/// Something that was expected, and what was seen instead.
pub(crate) fn unexpected(expected: &str, seen: impl Debug) -> Broken {
    Broken::new(expected, format!("{seen:?}"))
}

/// So many clients are served while no descriptor is left, and so many wait.
const SERVED: usize = 4;
const WAITING: usize = 24;

impl<W: World> PoolRun<W> {
    fn start(world: &Arc<W>, context: &Arc<Context>, random: Rng) -> Result<Self, Broken> {
        let (world, context) = (Arc::clone(world), Arc::clone(context));
        let init = {
            let (world, context) = (Arc::clone(&world), Arc::clone(&context));
            move || server::init(&world, &context)
        };
        let owner = Pool::start_with(world.runtime(), init);
        let owner = owner.map_err(|error| unexpected("a pool starts", error))?;
        let owner = owner.ok_or_else(|| unexpected("a pool starts", ()))?;
        let mut run = Self {
            world,
            context,
            random,
            pool: owner.handle(),
            owner: Some(owner),
            open: Vec::new(),
            numbers: 0,
        };
        // On all addresses of both families, if the system has both.
        if run.listen_on((Ipv6Addr::UNSPECIFIED, 0).into()).is_err() {
            run.listen_on((Ipv4Addr::UNSPECIFIED, 0).into())?;
        }
        run.listen()?;
        run.listen()?;
        Ok(run)
    }

    pub(crate) fn next_number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    /// Listens on a free port.
    pub(crate) fn listen(&mut self) -> Verdict {
        self.listen_on((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn listen_on(&mut self, address: SocketAddr) -> Verdict {
        let listener = self.world.listen_on(address);
        let (listener, address) =
            listener.map_err(|error| unexpected("an address can be bound", (address, error)))?;
        let acceptors = self.random.usize(1..9);
        let added = self.pool.add_listener(listener, acceptors);
        let id = added.map_err(|error| unexpected("a listener is added", error.reason))?;
        let number = self.next_number();
        self.open.push(Open {
            number,
            id,
            acceptors,
            address,
        });
        self.context.history.count(Count::Listener);
        let local = (Ipv4Addr::LOCALHOST, address.port()).into();
        self.context.opens(number, local);
        Ok(())
    }

    fn pass(&mut self, until: Until) -> Verdict {
        let mut load = Load::start(&self.context)?;
        self.inject_faults(until)?;
        let report = if self.context.setup.stop == StopMode::AtRest {
            load.leave()?;
            self.context.history.checker().verdict()?;
            self.come_to_rest()?;
            if self.context.setup.exhausts {
                self.exhaust_descriptors()?;
            }
            self.stop_at_rest()?
        } else {
            let report = self.stop_under_load()?;
            load.leave()?;
            report
        };
        self.record_stop(&report);
        let context = Arc::clone(&self.context);
        self.until("every state of init is dropped", || {
            let checker = context.history.checker();
            let ends = [
                Count::StateServed,
                Count::StateTerminated,
                Count::StateDropped,
            ];
            let dropped: u64 = ends.map(|end| checker.of(end)).iter().sum();
            same("dropped states", checker.of(Count::StateMade), dropped)
        })?;
        let reason = match self.context.setup.stop {
            StopMode::Intensity => StopReason::Intensity,
            StopMode::OwnerDropped => StopReason::OwnerDropped,
            _ => StopReason::Requested,
        };
        same("the reason of the stop", reason, report.reason)
    }

    fn record_stop(&self, report: &StopReport) {
        let stopped = report.all_connections().of(EndKind::Stopped);
        let killed = report.connections(Phase::Kill).of(EndKind::Killed);
        let acceptors = report.acceptors(Phase::Kill).of(EndKind::Killed);
        for (count, number) in [
            (Count::Pool(self.context.setup.stop), 1),
            (Count::StoppedConnection, stopped as u64),
            (Count::KilledConnection, killed as u64),
            (Count::KilledAcceptor, acceptors as u64),
            (Count::StuckChild, report.stuck as u64),
            (Count::Undelivered, report.undelivered),
        ] {
            self.context.history.record(Event::Counted(count, number));
        }
    }

    /// The clients are gone: the server ends their connections.
    fn come_to_rest(&mut self) -> Verdict {
        let history = &self.context.history;
        self.until("each connection is served to its end", || {
            history.checker().at_rest()
        })?;
        self.until("a connection that has ended is not listed", || {
            match self.pool.connections() {
                Ok(listed) if listed.is_empty() => Ok(()),
                listed => Err(listed),
            }
        })?;
        let listeners = self.pool.listeners();
        let listeners = listeners.map_err(|Stopped| unexpected("the pool runs", Stopped))?;
        for listener in listeners {
            let accepted = history.checker().accepted(listener.id);
            let what = "accepted connections, served or killed before";
            same(what, accepted, listener.accepted)?;
        }
        let active = self.pool.counts().map(|counts| counts.connections);
        same("active connections at rest", Ok(0), active)
    }

    fn client(&mut self, behavior: Behavior) -> Result<Client, Broken> {
        let client = Client::new(&self.context, behavior, &mut self.random);
        client.map_err(|error| unexpected("a socket for a client", error))
    }

    fn connect(&mut self, client: Client) -> Result<Client, Broken> {
        let connected = client.connect(&mut self.random);
        connected.ok_or_else(|| unexpected("an open listener lets a client connect", ()))
    }

    /// Connects a client, which behaves up to its pause.
    fn preconnect(&mut self, behavior: Behavior) -> Result<Client, Broken> {
        let client = self.client(behavior)?;
        let client = self.connect(client)?;
        let client = client.begin(&mut self.random);
        client.ok_or_else(|| unexpected("a pool at rest serves a client", ()))
    }

    /// For a moment no descriptor is left: the pool pauses, serves its clients, and accepts the others later (A2).
    fn exhaust_descriptors(&mut self) -> Verdict {
        let mut served = Vec::new();
        for _ in 0..SERVED {
            served.push(self.preconnect(Behavior::Stall)?);
        }
        // These have their own descriptors before.
        let clients = (0..WAITING).map(|_| self.client(Behavior::StartLate));
        let clients: Vec<_> = clients.collect::<Result<_, _>>()?;
        let before = self.context.history.checker().of(Count::PauseReport);
        let exhaustion = process::Exhaustion::new();
        let exhaustion = exhaustion.map_err(|error| unexpected("no descriptor is left", error))?;
        self.context.history.count(Count::Exhaustion);
        let waiting = clients.into_iter().map(|client| self.connect(client));
        let waiting: Vec<_> = waiting.collect::<Result<_, _>>()?;
        self.until("a pause for want of descriptors is reported", || match self
            .context
            .history
            .checker()
            .of(Count::PauseReport)
        {
            now if now > before => Ok(()),
            now => Err(now),
        })?;
        for client in &mut served {
            let talked = client.talk(b"still there?");
            let what = "a client is served while no descriptor is left";
            talked.map_err(|seen| unexpected(what, seen))?;
        }
        drop(exhaustion);
        waiting.into_iter().chain(served).for_each(Client::finish);
        self.come_to_rest()
    }

    /// Stops the pool with clients whose ends are known beforehand.
    fn stop_at_rest(&mut self) -> Result<StopReport, Broken> {
        let shutdown = self.context.setup.shutdown;
        let numbers = [0, 1, 1, 0].map(|least| self.random.usize(least..5));
        let [mut normal, mut clean, mut stopped, mut killed] = numbers;
        let mut clients = Vec::new();
        if shutdown == Shutdown::Kill {
            // No connection hears of the stop; one that waits for *draining* may or may not end before the kill.
            normal = 0;
        }
        for (behavior, number) in [
            (Behavior::AwaitDraining, normal),
            (Behavior::TrapStop, clean),
            (Behavior::Idle, stopped),
            (Behavior::Stay, killed),
        ] {
            for _ in 0..number {
                clients.push(self.preconnect(behavior)?);
            }
        }
        if shutdown == Shutdown::Kill {
            killed += clean + stopped;
            (clean, stopped) = (0, 0);
        }
        self.context.history.record(Event::Stopping);
        let stop = self.pool.stop();
        if shutdown != Shutdown::Kill && killed > 0 {
            self.until("the stop leaves the clients that stay", || {
                match self.pool.connections().map(|left| left.len()) {
                    Ok(left) if left == killed => Ok(()),
                    left => Err(left),
                }
            })?;
            drop(self.pool.kill());
        }
        let report = self.wait("a pool at rest stops", stop)?;
        let ends = report.all_connections();
        let kinds = [
            EndKind::Normal,
            EndKind::Clean,
            EndKind::Stopped,
            EndKind::Killed,
        ];
        same(
            "the last connections: normal, clean, stopped, killed",
            [normal, clean, stopped, killed],
            kinds.map(|kind| ends.of(kind)),
        )?;
        same("the last connections", clients.len(), ends.total())?;
        let waited: usize = self.open.iter().map(|open| open.acceptors).sum();
        let acceptors = report.all_acceptors().total();
        if acceptors < waited {
            let expected = format!("{waited} acceptors or more end with the pool");
            return Err(unexpected(&expected, acceptors));
        }
        clients.into_iter().for_each(Client::wait);
        Ok(report)
    }

    fn stop_under_load(&mut self) -> Result<StopReport, Broken> {
        let joined = self.pool.join();
        self.context.history.record(Event::Stopping);
        match self.context.setup.stop {
            StopMode::Intensity => {}
            StopMode::Killed => drop(self.pool.kill()),
            StopMode::OwnerDropped => self.owner = None,
            StopMode::AtRest | StopMode::UnderLoad => drop(self.pool.stop()),
        }
        self.wait("a pool under load stops", joined)
    }

    pub(crate) fn wait<T>(&self, what: &str, event: impl Future<Output = T>) -> Result<T, Broken> {
        block_on(self.context.patience.wait(&self.world.clock(), what, event))
    }

    pub(crate) fn until<T, S: Debug>(
        &self,
        what: &str,
        look: impl FnMut() -> Result<T, S>,
    ) -> Result<T, Broken> {
        let patience = self.context.patience;
        block_on(patience.until(&self.world.clock(), what, look))
    }
}
