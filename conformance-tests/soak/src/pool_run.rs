//! The run of one pool: start, load, fault injection, stop.
//!
//! A separate thread drives the pool, so the tasks of the runtime must run by themselves. Patience bounds each wait.

use std::fmt::Debug;
use std::future::Future;
use std::mem::take;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use acceptor_core::{EndKind, Phase, Pool, PoolHandle, Shutdown, StopReason, StopReport};
use fastrand::Rng;
use futures::executor::block_on;

use crate::client::{Behavior, Client, run_clients};
use crate::context::{Context, InitAnswer, Setup, StopMode};
use crate::history::{Count, Counts, Event, History, lock};
use crate::process;
use crate::server::Server;
use conformance_console::caught;
use conformance_tests::{Broken, IpWorld, Patience, Verdict, same};

/// One pool, driven from outside its runtime.
pub(crate) struct PoolRun<W: IpWorld> {
    pub(crate) server: Arc<Server<W>>,
    pub(crate) context: Arc<Context>,
    pub(crate) random: Rng,
    pub(crate) pool: PoolHandle<W::Runtime, W::Listener>,
    owner: Option<Pool<W::Runtime, W::Listener>>,
}

/// Runs one pool from its start to its stop and checks its history. Returns the counts and the failed checks.
pub(crate) fn run<W: IpWorld>(
    world: &Arc<W>,
    setup: Setup,
    patience: Patience,
    random: &mut Rng,
    connections: &Arc<AtomicU64>,
) -> (Counts, Vec<Broken>) {
    let before = process::descriptors();
    let context = Arc::new(Context {
        setup,
        patience,
        history: History::default(),
        init: Mutex::new(InitAnswer::Use),
        leave: AtomicBool::new(false),
        connections: Arc::clone(connections),
        listeners: Mutex::default(),
        states: Arc::default(),
        random: Mutex::new(random.fork()),
    });
    if context.setup.stop == StopMode::Intensity {
        context.history.record(Event::Stopping);
    }
    let run = PoolRun::start(world, &context, random.fork());
    // The pool and its clients are dropped with the run.
    let mut verdict = run.and_then(|mut run| run.pass());
    let mut checker = context.history.checker();
    if verdict.is_ok() {
        checker.finish(&context.setup);
    }
    if verdict.is_ok() && checker.broken.is_empty() {
        let what = "a stopped pool leaves no descriptor open";
        let clock = world.clock();
        let left = patience.until(&clock, what, || match process::descriptors() {
            now if now > before => Err([before, now]),
            _ => Ok(()),
        });
        verdict = block_on(left);
    }
    let mut broken = take(&mut checker.broken);
    // An earlier failure may have been the reason to give up.
    broken.extend(verdict.err().filter(|error| !broken.contains(error)));
    (take(&mut checker.counts), broken)
}

/// Creates the failure of an expectation.
pub(crate) fn unexpected(expected: &str, seen: impl Debug) -> Broken {
    Broken::new(expected, format!("{seen:?}"))
}

impl<W: IpWorld> PoolRun<W> {
    fn start(world: &Arc<W>, context: &Arc<Context>, random: Rng) -> Result<Self, Broken> {
        let server = Arc::new(Server {
            world: Arc::clone(world),
            context: Arc::clone(context),
        });
        let init = Arc::clone(&server);
        let owner = Pool::start_with(world.runtime(), move || init.init_pool());
        let owner = owner.map_err(|error| unexpected("a pool starts", error))?;
        let owner = owner.ok_or_else(|| unexpected("a pool starts", ()))?;
        let mut run = Self {
            server,
            context: Arc::clone(context),
            random,
            pool: owner.handle(),
            owner: Some(owner),
        };
        // On all addresses of both families, if the system has both.
        if run.listen_on((Ipv6Addr::UNSPECIFIED, 0).into()).is_err() {
            run.listen_on((Ipv4Addr::UNSPECIFIED, 0).into())?;
        }
        run.listen()?;
        run.listen()?;
        Ok(run)
    }

    /// Listens on a free port.
    pub(crate) fn listen(&mut self) -> Verdict {
        self.listen_on((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn listen_on(&mut self, address: SocketAddr) -> Verdict {
        let listener = self.server.world.listen_on(address.into());
        let (listener, address) =
            listener.map_err(|error| unexpected("an address can be bound", (address, error)))?;
        let address = address
            .socket()
            .ok_or_else(|| unexpected("a world of IP has its addresses", address))?;
        let acceptors = self.random.usize(1..9);
        let added = self.pool.add_listener(listener, acceptors);
        let id = added.map_err(|error| unexpected("a listener is added", error.reason))?;
        lock(&self.context.listeners).push((id, acceptors, address));
        Ok(())
    }

    fn pass(&mut self) -> Verdict {
        let context = Arc::clone(&self.context);
        let report = thread::scope(|scope| {
            // Enough threads to keep the processors of a small machine busy.
            for _ in 0..3 {
                scope.spawn(|| run_clients(&context));
            }
            let report = caught(|| self.pass_under_load());
            context.leave.store(true, Ordering::SeqCst);
            report.unwrap_or_else(|panic| Err(Broken::new("no panic", panic)))
        })?;
        let report = report.map_or_else(|| self.stop_at_rest(), Ok)?;
        let stopped = report.all_connections().of(EndKind::Stopped);
        let killed = report.connections(Phase::Kill).of(EndKind::Killed);
        let acceptors = report.acceptors(Phase::Kill).of(EndKind::Killed);
        for (count, number) in [
            (Count::Pool(context.setup.stop), 1),
            (Count::ConnectionStopped, stopped as u64),
            (Count::ConnectionKilled, killed as u64),
            (Count::AcceptorKilled, acceptors as u64),
            (Count::Undelivered, report.undelivered),
        ] {
            context.history.record(Event::Counted(count, number));
        }
        self.until("every state of init is dropped", || {
            same("states", 1, Arc::strong_count(&context.states))
        })?;
        let reason = match context.setup.stop {
            StopMode::Intensity => StopReason::Intensity,
            StopMode::OwnerDropped => StopReason::OwnerDropped,
            _ => StopReason::Requested,
        };
        same("the reason of the stop", reason, report.reason)?;
        same("stuck children", 0, report.stuck)
    }

    /// Returns the result, if the pool stops under load.
    fn pass_under_load(&mut self) -> Result<Option<StopReport>, Broken> {
        self.inject_faults()?;
        let joined = self.pool.join();
        let stop = self.context.setup.stop;
        if stop == StopMode::AtRest {
            return Ok(None);
        }
        self.context.history.record(Event::Stopping);
        match stop {
            StopMode::AtRest | StopMode::Intensity => {}
            StopMode::UnderLoad => drop(self.pool.stop()),
            StopMode::Killed => drop(self.pool.kill()),
            StopMode::OwnerDropped => self.owner = None,
        }
        self.wait("a pool under load stops", joined).map(Some)
    }

    /// Waits until the server has ended the connections of all departed clients.
    fn come_to_rest(&mut self) -> Verdict {
        let history = &self.context.history;
        history.checker().verdict()?;
        let at_rest = || history.checker().at_rest();
        self.until("each connection is served to its end", at_rest)?;
        let active = || match self.pool.status() {
            Ok(status) if status.counts.connections == 0 && status.connections.is_empty() => Ok(()),
            status => Err(unexpected("no connection", status)),
        };
        self.until("a connection that has ended is not listed", active)?;
        for listener in self.pool.listeners().unwrap_or_default() {
            let accepted = history.checker().accepted(listener.id);
            same("accepted connections", accepted, listener.accepted)?;
        }
        Ok(())
    }

    /// Connects clients, which run up to their pause.
    fn preconnect(&mut self, behavior: Behavior, number: usize) -> Result<Vec<Client>, Broken> {
        let (context, random) = (&self.context, &mut self.random);
        let mut clients = Vec::new();
        for _ in 0..number {
            let client = Client::new(context, behavior, random).ok();
            let client = client.and_then(|client| client.connect(random));
            clients.extend(client.and_then(|client| client.begin(random)));
        }
        same("clients that a pool at rest serves", number, clients.len())?;
        Ok(clients)
    }

    /// Uses up all descriptors for a moment: the pool pauses, serves its clients, and accepts the others later (A2).
    fn exhaust_descriptors(&mut self) -> Verdict {
        let mut served = self.preconnect(Behavior::Stall, 4)?;
        let (context, random) = (&self.context, &mut self.random);
        // These clients have their descriptors already.
        let clients: Vec<_> = (0..24)
            .filter_map(|_| Client::new(context, Behavior::StartLate, random).ok())
            .collect();
        let exhaustion = process::Exhaustion::new();
        let exhaustion =
            exhaustion.map_err(|error| unexpected("all descriptors are in use", error))?;
        let mut waiting = Vec::new();
        clients
            .into_iter()
            .for_each(|client| waiting.extend(client.connect(random)));
        same("clients that wait for descriptors", 24, waiting.len())?;
        let history = &self.context.history;
        self.until("a pause because of missing descriptors is reported", || {
            same(
                "a pause",
                true,
                history.checker().of(Count::PauseReport) > 0,
            )
        })?;
        for client in &mut served {
            let talked = client.talk(b"still there?");
            let what = "a client is served while all descriptors are in use";
            talked.map_err(|seen| unexpected(what, seen))?;
        }
        drop(exhaustion);
        waiting.into_iter().chain(served).for_each(Client::finish);
        self.come_to_rest()
    }

    /// Stops the pool with clients whose ends are known in advance.
    fn stop_at_rest(&mut self) -> Result<StopReport, Broken> {
        self.come_to_rest()?;
        if process::CAN_EXHAUST {
            self.exhaust_descriptors()?;
        }
        let kills = self.context.setup.settings.shutdown == Some(Shutdown::Kill);
        let mut some = |least| self.random.usize(least..5);
        // A kill at once may precede *draining*.
        let normal = if kills { 0 } else { some(0) };
        let killed = some(0);
        let plan = [
            (Behavior::AwaitDraining, normal, EndKind::Normal),
            (Behavior::TrapStop, some(1), EndKind::Clean),
            (Behavior::Idle, some(1), EndKind::Stopped),
            (Behavior::Stay, killed, EndKind::Killed),
        ];
        let mut clients = Vec::new();
        for (behavior, number, _) in plan {
            clients.extend(self.preconnect(behavior, number)?);
        }
        self.context.history.record(Event::Stopping);
        let stop = self.pool.stop();
        if killed > 0 && !kills {
            self.until("the stop leaves the clients that stay", || {
                let left = self.pool.connections().map(|left| left.len());
                same("connections", Ok(killed), left)
            })?;
            drop(self.pool.kill());
        }
        let report = self.wait("a pool at rest stops", stop)?;
        let ends = report.all_connections();
        for (_, number, kind) in plan {
            let expected = match (kills, kind) {
                (false, _) => number,
                (true, EndKind::Killed) => clients.len(),
                (true, _) => 0,
            };
            same(&format!("last {kind}"), expected, ends.of(kind))?;
        }
        same("last connections", clients.len(), ends.total())?;
        let open = lock(&self.context.listeners);
        let waited: usize = open.iter().map(|(_, acceptors, _)| acceptors).sum();
        let holds = report.all_acceptors().total() >= waited;
        same("every acceptor ends with the pool", true, holds)?;
        clients.into_iter().for_each(Client::wait);
        Ok(report)
    }

    pub(crate) fn wait<T>(&self, what: &str, event: impl Future<Output = T>) -> Result<T, Broken> {
        let clock = self.server.world.clock();
        block_on(self.context.patience.wait(&clock, what, event))
    }

    pub(crate) fn until(&self, what: &str, look: impl FnMut() -> Verdict) -> Verdict {
        let clock = self.server.world.clock();
        block_on(self.context.patience.until(&clock, what, look))
    }
}
