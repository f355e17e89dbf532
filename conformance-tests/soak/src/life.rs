//! The life of one pool: it is started, clients come, it is meddled with, and brought to its end.
//!
//! Everything is done from outside, from a thread of its own: the world's tasks
//! must run by themselves. Each wait is bounded by the patience.

use std::fmt::Debug;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use acceptor_core::{ListenerId, Pool, PoolHandle, Shutdown, StopReport};
use fastrand::Rng;
use futures::executor::block_on;

use super::account::{Account, Ending, Faults, Last, Stop};
use super::crowd::Crowd;
use super::guests::Guests;
use super::ledger::Fate;
use super::plan::{Answer, Descriptors, Plan, Specs};
use super::process;
use super::scene::{Place, Scene};
use conformance_tests::Patience;
use conformance_tests::World;
use conformance_tests::{Broken, Verdict};

/// What a life came to.
#[derive(Debug)]
pub(super) struct Lived {
    pub(super) account: Account,
    pub(super) listeners: u64,
}

/// When a life has been meddled with enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until {
    pub(super) time: Instant,
    /// So many connections, over all pools of the runtime.
    pub(super) connections: u64,
}

/// An open listener, as it was added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listening {
    pub(super) id: ListenerId,
    pub(super) acceptors: usize,
    pub(super) place: Place,
    /// What it is bound to.
    pub(super) bound: SocketAddr,
}

/// One pool, from outside.
pub(super) struct Life<W: World> {
    pub(super) world: Arc<W>,
    pub(super) scene: Arc<Scene>,
    pub(super) plan: Plan,
    pub(super) random: Rng,
    pub(super) pool: PoolHandle<W::Runtime, W::Listener>,
    owner: Option<Pool<W::Runtime, W::Listener>>,
    pub(super) specs: Arc<Specs<W>>,
    /// How often it was reconfigured.
    pub(super) reconfigured: u64,
    pub(super) open: Vec<Listening>,
    /// How many listeners there ever were.
    pub(super) listeners: usize,
    pub(super) faults: Faults,
}

/// Lives one life.
///
/// # Errors
///
/// What does not add up, or does not come to its end.
pub(super) fn live<W: World>(
    world: &Arc<W>,
    plan: Plan,
    until: Until,
    patience: Patience,
    mut random: Rng,
    made_ever: &Arc<AtomicU64>,
) -> Result<Lived, Vec<Broken>> {
    let before = process::descriptors();
    let (seed, made_ever) = (random.u64(..), Arc::clone(made_ever));
    let scene = Scene::new(plan.fate(), plan.restart, patience, seed, made_ever);
    let life = Life::starts(Arc::clone(world), Arc::clone(&scene), plan, random);
    // The pool goes with it, and so do the clients.
    let lived = life.and_then(|mut life| life.passes(until));
    let mut wrong = scene.ledger.wrong();
    let lived = match lived {
        Ok(lived) => {
            wrong.extend(lived.account.audit());
            Some(lived)
        }
        Err(broken) => {
            if !wrong.contains(&broken) {
                wrong.push(broken);
            }
            None
        }
    };
    let (Some(lived), true) = (lived, wrong.is_empty()) else {
        return Err(wrong);
    };
    let gone = "no descriptor is left of a pool that is gone";
    let left = block_on(patience.until(&world.clock(), gone, || {
        match (before, process::descriptors()) {
            (Some(before), Some(now)) if now > before => Err([before, now]),
            _ => Ok(()),
        }
    }));
    left.map(|()| lived).map_err(|broken| vec![broken])
}

impl<W: World> Life<W> {
    fn starts(world: Arc<W>, scene: Arc<Scene>, plan: Plan, random: Rng) -> Result<Self, Broken> {
        let specs = Arc::new(Specs {
            world: Arc::clone(&world),
            scene: Arc::clone(&scene),
            plan,
            answer: Answer::Use.into(),
        });
        let init = Arc::clone(&specs);
        let owner = Pool::start_with(world.runtime(), move || init.init());
        let owner = owner.map_err(|error| Broken::new("a pool starts", error.to_string()))?;
        let owner = owner.ok_or_else(|| Broken::new("a pool starts", "there is none"))?;
        let mut life = Self {
            world,
            scene,
            plan,
            random,
            pool: owner.handle(),
            owner: Some(owner),
            specs,
            reconfigured: 0,
            open: Vec::new(),
            listeners: 0,
            faults: Faults::default(),
        };
        // To all addresses of the system: of both families, if it has both.
        let any = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        if life.listens_on(SocketAddr::new(any[0], 0)).is_err() {
            life.listens_on(SocketAddr::new(any[1], 0))?;
        }
        life.listens_anew()?;
        life.listens_anew()?;
        Ok(life)
    }

    /// Adds a listener where the system likes.
    pub(super) fn listens_anew(&mut self) -> Verdict {
        self.listens_on((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(super) fn listens_on(&mut self, address: SocketAddr) -> Verdict {
        let broken = |what: &str, error: String| Broken::new(what, format!("{address}: {error}"));
        let listener = self.world.listen_on(address);
        let (listener, bound) =
            listener.map_err(|error| broken("an address can be bound", error.to_string()))?;
        let acceptors = self.random.usize(1..9);
        let added = self.pool.add_listener(listener, acceptors);
        let id = added.map_err(|error| broken("a listener is added", error.to_string()))?;
        self.listeners += 1;
        let place = Place {
            number: self.listeners,
            address: (Ipv4Addr::LOCALHOST, bound.port()).into(),
        };
        self.open.push(Listening {
            id,
            acceptors,
            place,
            bound,
        });
        self.scene.opens(place);
        Ok(())
    }

    /// From the first client to the last sum.
    fn passes(&mut self, until: Until) -> Result<Lived, Broken> {
        let mut crowd = Crowd::comes(&self.scene)
            .map_err(|error| Broken::new("threads for clients", error.to_string()))?;
        let (mut last, mut acceptors) = (Last::default(), 0);
        let report = if self.plan.ending == Ending::AtRest {
            self.is_meddled_with(until)?;
            crowd.leaves()?;
            self.scene.ledger.verdict()?;
            self.comes_to_rest()?;
            if self.plan.descriptors == Descriptors::RunOut {
                self.runs_out_of_descriptors()?;
            }
            let guests = Guests::come(self)?;
            last = guests.last;
            acceptors = self.open.iter().map(|open| open.acceptors as u64).sum();
            let report = self.stops_at_rest(last)?;
            guests.are_ended();
            report
        } else {
            self.is_meddled_with(until)?;
            let report = self.stops_under_way()?;
            crowd.leaves()?;
            report
        };
        let alive = &self.scene.counters.states_alive;
        self.until("each state of `init` is dropped", || match alive.value() {
            0 => Ok(()),
            count => Err(format!("{count} are not")),
        })?;
        let balance = self.scene.ledger.balance();
        let (start_errors, terminate_panics) = self.scene.planned_faults();
        let account = Account {
            ending: self.plan.ending,
            restart: self.plan.restart,
            shutdown: self.plan.shutdown,
            tally: balance.tally,
            reports: balance.reports,
            faults: Faults {
                start_errors,
                terminate_panics,
                ..self.faults.clone()
            },
            states: self.scene.states(),
            stop: Stop::from(&report),
            asked_away: balance.asked_away,
            last,
            acceptors,
        };
        Ok(Lived {
            account,
            listeners: self.listeners as u64,
        })
    }

    /// All clients have gone: the server sees to the end of what they left.
    pub(super) fn comes_to_rest(&mut self) -> Verdict {
        let ledger = &self.scene.ledger;
        self.until("each connection is served to its end", || ledger.at_rest())?;
        self.until("what has ended is not listed any more", || {
            let listed = self.pool.connections();
            match listed.as_deref() {
                Ok([]) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        self.look_at_rest()
    }

    fn stops_at_rest(&mut self, last: Last) -> Result<StopReport, Broken> {
        self.scene.ledger.fate(Fate::Stops);
        let stopped = self.pool.stop();
        if last.killed > 0 && self.plan.shutdown != Shutdown::Kill {
            self.until("those that stay are left over by a stop", || {
                let left = self.pool.connections().map(|left| left.len() as u64);
                match left {
                    Ok(count) if count == last.killed => Ok(()),
                    other => Err(other),
                }
            })?;
            drop(self.pool.kill());
        }
        self.awaits("a pool at rest stops", stopped)
    }

    fn stops_under_way(&mut self) -> Result<StopReport, Broken> {
        let joined = self.pool.join();
        match self.plan.ending {
            Ending::Intensity(_) => return self.awaits("a pool stops by itself", joined),
            Ending::AtRest | Ending::UnderWay => {
                self.scene.ledger.fate(Fate::Stops);
                drop(self.pool.stop());
            }
            Ending::Killed => {
                self.scene.ledger.fate(Fate::Stops);
                drop(self.pool.kill());
            }
            Ending::OwnerDropped => {
                self.scene.ledger.fate(Fate::Stops);
                self.owner = None;
            }
        }
        // Those that pause are part of what a grace without an end waits for.
        self.awaits("a pool stops in the midst of it all", joined)
    }

    pub(super) fn awaits<T>(
        &self,
        what: &str,
        event: impl Future<Output = T>,
    ) -> Result<T, Broken> {
        block_on(self.scene.patience.wait(&self.world.clock(), what, event))
    }

    pub(super) fn until<T, S: Debug>(
        &self,
        what: &str,
        look: impl FnMut() -> Result<T, S>,
    ) -> Result<T, Broken> {
        block_on(self.scene.patience.until(&self.world.clock(), what, look))
    }
}
