//! Plays a scenario: takes its steps in a simulated world, and holds the pool against the model after each poll and each call.
//!
//! Invariants: the model is told of a call before it sees what came of it; the
//! clock moves only when nothing is ready; what happens depends on nothing but
//! the scenario.

mod act;
mod end;
mod plain;
mod start;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{ChildId, Pool, PoolState};

use super::book::{Book, Handle};
use super::event::{Event, Moment};
use super::model::{Breach, Killed, Model, Peer, Polls, Seen, SocketState, Tasks, breach, same};
use super::{Bound, Finale, Scenario, Then, milliseconds};
use crate::panics::caught;
use crate::simulated::{
    Happened, Limits, Network, SimulatedClient, SimulatedListener, SimulatedRuntime, SimulatedTask,
    Simulation, Spurious, Stage, Statistics, wakes_by_sockets,
};

/// What was exercised by a scenario that went as it should.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Played {
    /// Steps that were taken.
    pub steps: u64,
    /// Pools that were started.
    pub pools: u64,
    /// Events, by their sort.
    pub exercised: BTreeMap<&'static str, u64>,
    /// What the runtime did.
    pub statistics: Statistics,
    /// How much time passed by the world's clock.
    pub virtual_time: Duration,
}

/// How a scenario went otherwise than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The step after which it was seen, from 0; as many as there are steps: the finale.
    pub step: usize,
    /// When it was seen, since the world began.
    pub at: Duration,
    /// The rule of the contract that is nearest to what is broken.
    pub rule: &'static str,
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is broken, step {}\nexpected: {}\nseen:     {}",
            self.rule, self.step, self.expected, self.seen
        )
    }
}

/// Plays a scenario.
///
/// # Errors
///
/// [`Failure`] if something goes otherwise than it should.
pub fn play(scenario: &Scenario) -> Result<Played, Box<Failure>> {
    Player::new(scenario, None).play()
}

/// Plays a scenario and shows everything when it is seen, so that it is known also of one that never ends.
///
/// # Errors
///
/// [`Failure`] if something goes otherwise than it should.
pub fn watch(scenario: &Scenario, watcher: &mut dyn FnMut(Moment)) -> Result<Played, Box<Failure>> {
    Player::new(scenario, Some(watcher)).play()
}

/// Plays a scenario and tells everything that was seen on the way, also when it fails.
pub fn tell(scenario: &Scenario) -> (Vec<Moment>, Result<Played, Box<Failure>>) {
    let mut moments = Vec::new();
    let played = watch(scenario, &mut |moment| moments.push(moment));
    (moments, played)
}

/// So many polls without the clock moving are a busy loop.
const RESTLESS: u32 = 20_000;

/// So many polls more than there were causes are no waste: a pool's own task may look in time to find out that it need not.
const SPARE: u64 = 2;

/// For so many steps a task is held at the most.
const HELD: u32 = 6;

/// So many steps are taken with a pool that has stopped, before the next one is started.
const AFTERMATH: u32 = 4;

fn panicked(panic: String) -> Seen {
    breach("V3", "no call of the pool panics", panic)
}

struct Player<'a> {
    scenario: &'a Scenario,
    simulation: Simulation,
    network: Network,
    clients: Vec<Caller>,
    life: Option<Life>,
    /// Children of the pool before.
    buried: Vec<ChildId>,
    watcher: Option<&'a mut dyn FnMut(Moment)>,
    played: Played,
    /// What tasks may have been woken for, one by one, but for what the simulation counts itself.
    causes: u64,
    /// How many of those were by sockets when the scenario began.
    by_sockets: u64,
    last_rest: Rest,
    /// Taken from the book, and not yet seen by the model.
    events: Vec<Event>,
}

/// How much had happened when nothing was ready.
#[derive(Debug, Clone, Copy)]
struct Rest {
    polls: u64,
    causes: u64,
    tasks: Polls,
}

/// A client, and whom it called.
struct Caller {
    client: SimulatedClient,
    listener: SocketAddr,
}

/// One pool, from its start until nothing is left of it.
struct Life {
    book: Arc<Book>,
    model: Model,
    owner: Option<Pool<SimulatedRuntime, SimulatedListener>>,
    handle: Handle,
    state: PoolState,
    /// The pool's own task.
    driver: SimulatedTask,
    generations: u32,
    polls: Polls,
    /// For how many steps a task has been held.
    held: u32,
    aftermath: u32,
}

impl<'a> Player<'a> {
    fn new(scenario: &'a Scenario, watcher: Option<&'a mut dyn FnMut(Moment)>) -> Self {
        let spurious = match scenario.setting.spurious {
            0 => Spurious::Never,
            many => Spurious::OneIn(many.into()),
        };
        let simulation = Simulation::new(scenario.seed, spurious);
        let limits = Limits {
            backlog: scenario.setting.backlog.max(1).into(),
            buffer: scenario.setting.buffer.max(1).into(),
        };
        let network = Network::new(&simulation, limits);
        Self {
            scenario,
            simulation,
            network,
            clients: Vec::new(),
            life: None,
            buried: Vec::new(),
            watcher,
            played: Played::default(),
            causes: 0,
            by_sockets: wakes_by_sockets(),
            last_rest: Rest {
                polls: 0,
                causes: 0,
                tasks: Polls::All,
            },
            events: Vec::new(),
        }
    }

    fn play(mut self) -> Result<Played, Box<Failure>> {
        let mut step = 0;
        // A panic, be it the player's own, is told with the step that it is in, like all that goes wrong.
        let steps = caught(|| self.steps(&mut step)).unwrap_or_else(panicked);
        let at = self.simulation.elapsed();
        let left = caught(|| self.leave()).or_else(panicked);
        let result = steps.and(left);
        self.played.statistics = self.simulation.statistics();
        self.played.virtual_time = self.simulation.elapsed();
        result.map(|()| self.played).map_err(|breach| {
            Box::new(Failure {
                step,
                at,
                rule: breach.rule,
                expected: breach.expected,
                seen: breach.seen,
            })
        })
    }

    /// Tasks hold the simulation, and it holds them.
    fn leave(&mut self) {
        self.network.dismiss_witness();
        if let Some(life) = self.life.take() {
            life.book.set_handle(None);
        }
        self.clients.clear();
        self.simulation.close();
    }

    fn steps(&mut self, number: &mut usize) -> Seen {
        for (index, step) in self.scenario.steps.iter().enumerate() {
            *number = index;
            self.ensure_life()?;
            self.note(Event::Step(index, *step));
            self.simulation.reseed(step.schedule.into());
            self.release_in_time();
            self.act(step)?;
            self.go_on(step.then)?;
            self.look()?;
            self.played.steps += 1;
        }
        *number = self.scenario.steps.len();
        self.note(Event::Finale);
        self.finale()?;
        match self.scenario.finale {
            // Nothing runs any more.
            Finale::CloseRuntime => Ok(()),
            Finale::Stop | Finale::DropOwner => self.plain_life(),
        }
    }

    /// How much has happened so far.
    fn rest(&self) -> Rest {
        let statistics = self.simulation.statistics();
        let by_world = wakes_by_sockets() - self.by_sockets + statistics.tasks + statistics.timers;
        let (by_pool, tasks) = match &self.life {
            Some(life) => (life.model.wakes, life.polls),
            None => (0, Polls::All),
        };
        Rest {
            polls: statistics.polls,
            causes: self.causes + by_world + by_pool,
            tasks,
        }
    }

    /// Nothing is ready: whoever was woken was polled, and had to be (L5). A cause that nobody was woken for is not
    /// kept for later, else the waste of a whole life would hide behind it.
    fn nobody_was_woken_in_vain(&mut self) -> Seen {
        let rest = self.rest();
        let before = std::mem::replace(&mut self.last_rest, rest);
        if [before.tasks, rest.tasks].contains(&Polls::Some) {
            // Who is held was woken at one time, and is polled at another.
            return Ok(());
        }
        let (polls, causes) = (rest.polls - before.polls, rest.causes - before.causes);
        if polls > causes + SPARE {
            let expected = format!(
                "{causes} polls at the most since nothing was ready, for so many causes there were"
            );
            return breach("L5", expected, polls.to_string());
        }
        Ok(())
    }

    /// Who is held is not held for long: much is not looked at meanwhile.
    fn release_in_time(&mut self) {
        let life = self.life();
        life.held += 1;
        if life.polls == Polls::Some && life.held > HELD {
            self.release_tasks();
        }
    }

    fn count(&mut self, sort: &'static str) {
        *self.played.exercised.entry(sort).or_default() += 1;
    }

    /// Keeps an event that is not from the book.
    fn note(&mut self, event: Event) {
        self.count(event.sort());
        if let Some(watcher) = &mut self.watcher {
            let at = self.simulation.elapsed();
            watcher(Moment { at, event });
        }
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("a life begins before each step")
    }

    fn ensure_life(&mut self) -> Seen {
        if let Some(life) = &mut self.life {
            if life.state != PoolState::Stopped {
                return Ok(());
            }
            life.aftermath += 1;
            if life.aftermath <= AFTERMATH {
                return Ok(());
            }
            self.bury()?;
        }
        let spec = self.scenario.setting.spec;
        let book = Book::new(self.scenario.seed, &self.simulation, &self.network);
        let told = Arc::downgrade(&book);
        self.network.witness(move |happened| {
            if let Some(book) = told.upgrade() {
                if let Happened::Closed { listener } = happened {
                    book.closes(listener);
                }
                book.push(Event::Network(happened));
            }
        });
        self.played.pools += 1;
        self.note(Event::Started(self.played.pools as usize, spec));
        let owner = start::start(
            self.scenario.setting.start,
            &book,
            self.simulation.runtime(),
            spec,
        )?;
        let handle = owner.handle();
        book.set_handle(Some(owner.handle()));
        let tasks = self.simulation.tasks_of(&[act::OWN]);
        let Some((driver, _)) = tasks.first() else {
            let expected = format!("a task of the pool's own, of a type `{}`", act::OWN);
            return breach("K1", expected, "none");
        };
        self.life = Some(Life {
            book,
            model: Model::new(spec, 1, self.simulation.now()),
            owner: Some(owner),
            handle,
            state: PoolState::Running,
            driver: *driver,
            generations: 1,
            polls: Polls::All,
            held: 0,
            aftermath: 0,
        });
        self.add_listener(1, Bound::Loopback)?;
        self.settle()
    }

    /// Sees what came of one poll, or one call, of which the model was told.
    fn see(&mut self) -> Seen {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        life.book.take(&mut events);
        self.causes += life.book.take_wakes();
        let accepted = |event: &Event| matches!(event, Event::Network(Happened::Accepted { .. }));
        let connections = match events.iter().any(accepted) {
            true => life.handle.connections().unwrap_or_default(),
            false => Vec::new(),
        };
        let seen = life.model.see(&events, &connections);
        for event in &events {
            *self.played.exercised.entry(event.sort()).or_default() += 1;
        }
        if let Some(watcher) = &mut self.watcher {
            let at = self.simulation.elapsed();
            for event in &events {
                let event = event.clone();
                watcher(Moment { at, event });
            }
        }
        self.events = events;
        seen?;
        same(
            "E3",
            "panics that leave a task",
            0,
            self.simulation.panics(),
        )?;
        if let Some((rule, expected, seen)) = life.book.broken() {
            return breach(rule, expected, seen);
        }
        self.observe()
    }

    /// Tells the model that a poll or a call begins now.
    fn begin(&mut self, tasks: Tasks) {
        let now = self.simulation.now();
        if let Some(life) = &mut self.life {
            life.model.begin(now, tasks);
        }
    }

    /// Holds state and counts against the model; cheap enough for every poll.
    fn observe(&mut self) -> Seen {
        let open = self.network.open_streams();
        let life = self.life();
        let state = match life.handle.counts() {
            Err(_) => PoolState::Stopped,
            Ok(counts) => {
                same("Q3", "active, as many as streams", open, counts.active)?;
                match life.model.state() {
                    PoolState::Running => PoolState::Running,
                    _ => life
                        .handle
                        .status()
                        .map_or(PoolState::Stopped, |status| status.state),
                }
            }
        };
        life.model.observe(state)?;
        if state != life.state {
            life.state = state;
            self.note(Event::State(state));
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<()>, Breach> {
        self.begin(Tasks::Run);
        if self.simulation.poll_next().is_none() {
            return Ok(None);
        }
        self.see()?;
        Ok(Some(()))
    }

    /// Polls until nothing is ready; then whatever was to happen has happened.
    fn settle(&mut self) -> Seen {
        let mut polls = 0;
        while self.poll()?.is_some() {
            polls += 1;
            if polls >= RESTLESS {
                let busy = self.simulation.settle(1);
                let who = busy.err().map(|restless| restless.last);
                let who: Vec<_> = who.iter().flatten().map(ToString::to_string).collect();
                let expected = format!("the tasks come to rest within {RESTLESS} polls");
                return breach("B3", expected, who.join("; "));
            }
        }
        self.nobody_was_woken_in_vain()?;
        let network = self.network.clone();
        let life = self.life();
        let counts = life.handle.counts().ok();
        life.model
            .rests(counts, life.polls, |address| network.backlog(address))?;
        life.model.closes_returned()?;
        if life.polls == Polls::All {
            if let Some((rule, child)) = life.book.waits_in_vain() {
                let expected = format!("{child} is told, for the signal that it waits for is set");
                return breach(rule, expected, "it waits");
            }
        }
        self.clients_are_served()
    }

    fn clients_are_served(&mut self) -> Seen {
        let Some(life) = &self.life else {
            return Ok(());
        };
        for caller in &self.clients {
            let peer = caller.client.address();
            let Some(known) = life.model.peer(peer) else {
                // Of an earlier pool.
                continue;
            };
            let open = life
                .model
                .listeners
                .iter()
                .find(|listening| listening.address == caller.listener)
                .is_some_and(|listening| listening.socket == SocketState::Open);
            let fits = match caller.client.stage() {
                Stage::Accepted => known != Peer::Waits(caller.listener),
                Stage::Queued | Stage::Knocking => known == Peer::Waits(caller.listener) && open,
                Stage::Abandoned => known == Peer::Waits(caller.listener) && !open,
            };
            if !fits {
                let stage = caller.client.stage();
                let seen = format!("{known:?}, {stage:?}, its listener open: {open}");
                return breach(
                    "L2",
                    format!("{peer} is served, or waits, or its listener closed"),
                    seen,
                );
            }
        }
        Ok(())
    }

    fn go_on(&mut self, then: Then) -> Seen {
        match then {
            Then::Polls(polls) => {
                for _ in 0..polls {
                    if self.poll()?.is_none() {
                        break;
                    }
                }
                Ok(())
            }
            Then::Settle => self.settle(),
            Then::Pass(time) => self.pass(milliseconds(time)),
            Then::Jump(time) => {
                self.settle()?;
                let to = self.simulation.now() + milliseconds(time);
                self.simulation.advance_to(to);
                self.settle()
            }
        }
    }

    fn pass(&mut self, time: Duration) -> Seen {
        let until = self.simulation.now() + time;
        loop {
            self.settle()?;
            match self.simulation.next_timer().filter(|at| *at <= until) {
                Some(at) => self.simulation.advance_to(at),
                None => {
                    self.simulation.advance_to(until);
                    return self.settle();
                }
            }
        }
    }

    /// Holds all that the pool shows against the model.
    fn look(&mut self) -> Seen {
        self.begin(Tasks::Run);
        let life = self.life();
        match life.handle.status() {
            Ok(status) => {
                life.model.observe(status.state)?;
                life.model.shows(&status)?;
            }
            Err(_) => life.model.observe(PoolState::Stopped)?,
        }
        let signals = life.book.signals();
        life.model.signals(&signals)?;
        let closed = life.book.closed();
        life.model.sees_closed(&closed)
    }

    /// Calls the pool, of which the model is told by `told` first.
    fn call<T>(
        &mut self,
        told: impl FnOnce(&mut Model),
        call: impl FnOnce(&Handle) -> T,
    ) -> Result<T, Breach> {
        self.begin(Tasks::Run);
        let life = self.life();
        told(&mut life.model);
        let result = call(&life.handle);
        self.see()?;
        Ok(result)
    }
}
