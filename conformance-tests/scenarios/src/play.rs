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
use std::time::{Duration, Instant};

use acceptor_core::{ChildId, PoolState};

use super::book::Book;
use super::event::{Event, Moment};
use super::handle::{Handle, Owner};
use super::model::{
    Breach, Killed, Model, Peer, Polls, Reporter, Seen, Tasks, Wakes, breach, same,
};
use super::{Bound, Finale, Scenario, Then, milliseconds};
use acceptor_simulation::{
    Happened, Limits, Network, SimulatedClient, SimulatedRuntime, SimulatedTask, Simulation,
    Spurious, Stage, Statistics,
};
use conformance_console::caught;

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

/// So many polls of a kind of task more than there were causes are no waste.
const SPARE: u64 = 1;

/// For so many steps a task is held at the most.
const HELD: u32 = 6;
const REPORTER_HELD: u32 = 20;

/// So many steps are taken with a pool that has stopped, before the next one is started.
const AFTERMATH: u32 = 4;

fn panicked(panic: String) -> Seen {
    breach("V3", "no call of the pool panics", panic)
}

struct Player<'a> {
    scenario: &'a Scenario,
    simulation: Simulation,
    network: Network,
    /// Those that are not the pool's.
    runtimes: [SimulatedRuntime; 2],
    clients: Vec<Caller>,
    life: Option<Life>,
    /// Children of the pool before.
    buried: Vec<ChildId>,
    watcher: Option<&'a mut dyn FnMut(Moment)>,
    played: Played,
    last_rest: Rest,
    /// How many calls of `accept` came to an end.
    accepts_ended: u64,
    /// Taken from the book, and not yet seen by the model.
    events: Vec<Event>,
    polled: Vec<ChildId>,
}

/// How much had happened when nothing was ready.
#[derive(Debug, Clone, Copy)]
struct Rest {
    /// The number of the pool.
    pool: u64,
    polls: Polls,
    /// By the kind of the task: its polls, and the causes that there were for them but for those of the pool.
    kinds: [(u64, u64); KINDS],
    /// By the pool, and by callbacks.
    wakes: Wakes,
    /// Calls of `accept`, and how many came to an end.
    accepts: (u64, u64),
}

/// The kinds of tasks: of an acceptor in `init`; of a connection, or of an acceptor in `terminate`; of a listener; the
/// pool's own; the one that delivers reports; those of the player.
pub(super) const INIT: &str = "InitTask";
pub(super) const CHILD: &str = "ChildTask";
pub(super) const LISTENER: &str = "listener";
pub(super) const DRIVER: &str = "pool";
pub(super) const REPORTER: &str = "reporter";
/// The task of a runtime that is not the pool's, which does nothing.
pub(super) const COMPANION: &str = "Host";
/// A task of the pool's own, which is named by the order in which these are spawned.
pub(super) const OWN: &str = "CatchUnwind";
const KINDS: usize = 5;

/// A client, and whom it called.
struct Caller {
    client: SimulatedClient,
    listener: SocketAddr,
}

/// One pool, from its start until nothing is left of it.
struct Life {
    book: Arc<Book>,
    model: Model,
    owner: Option<Owner>,
    handle: Handle,
    state: PoolState,
    /// The pool's own task, and the one that delivers reports.
    driver: SimulatedTask,
    reporter: SimulatedTask,
    /// Those of its listeners, in their order.
    listeners: Vec<SimulatedTask>,
    generations: u32,
    /// How often callbacks woke themselves, or asked to be woken.
    woken: u64,
    polls: Polls,
    /// For how many steps a task has been held.
    held: u32,
    /// The runtime whose tasks are held: that of the pool, or one of the others.
    held_on: Option<u64>,
    aftermath: u32,
}

/// The state of a pool. Its status has it, too, but with lists, which take time after each poll.
fn state_of(handle: &Handle) -> PoolState {
    use acceptor_core::Phase;
    let text = format!("{handle:?}");
    let stopping = Phase::ALL.iter().copied().map(PoolState::Stopping);
    let mut states = stopping.chain([PoolState::Running]);
    let state = states.find(|state| text.contains(&format!("state: {state:?}")));
    state.unwrap_or(PoolState::Stopped)
}

impl Life {
    /// Acceptors may have ended of which nothing was seen: the list shows which.
    fn sees_unseen_ends(&mut self) -> Seen {
        if !self.model.expects_unseen_ends() {
            return Ok(());
        }
        match self.handle.acceptors() {
            Ok(acceptors) => self.model.lists(&acceptors),
            Err(_) => self.model.lists_nothing(self.polls),
        }
    }
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
        let runtimes = [(); 2].map(|()| simulation.another_runtime());
        Self {
            scenario,
            simulation,
            network,
            runtimes,
            clients: Vec::new(),
            life: None,
            buried: Vec::new(),
            watcher,
            played: Played::default(),
            last_rest: Rest {
                pool: 0,
                polls: Polls::Some,
                kinds: [(0, 0); KINDS],
                wakes: Wakes::default(),
                accepts: (0, 0),
            },
            accepts_ended: 0,
            polled: Vec::new(),
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
            life.book.drop_kept();
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
    fn rest(&mut self) -> Rest {
        let (pool, life) = (self.played.pools, self.life.as_ref());
        let polls = life.map_or(Polls::Some, |life| match life.model.reporter() {
            Reporter::Held => Polls::Some,
            _ => life.polls,
        });
        let mut wakes = life.map(|life| life.model.wakes).unwrap_or_default();
        wakes.children += life.map_or(0, |life| life.woken);
        let listeners = self.network.wakes_by_listeners();
        let streams = self.network.wakes_by_streams();
        // Each is woken once to be over, whenever the last of what it is there for is dropped.
        let companions = self.simulation.tally(COMPANION);
        let over = companions.spawned - companions.live;
        let kinds: [(&[&str], u64); KINDS] = [
            (&[DRIVER], 0),
            (&[REPORTER], 0),
            (&[LISTENER], listeners),
            (&[COMPANION], over),
            (&[INIT, CHILD], streams),
        ];
        let kinds = kinds.map(|(kinds, sockets)| {
            let tallies = kinds.iter().map(|kind| self.simulation.tally(kind));
            let both = tallies.map(|tally| (tally.polls, tally.spawned + tally.timers));
            both.fold((0, sockets), |sum, more| (sum.0 + more.0, sum.1 + more.1))
        });
        Rest {
            pool,
            polls,
            kinds,
            wakes,
            accepts: (self.network.accept_calls(), self.accepts_ended),
        }
    }

    /// Nothing is ready: each task that was woken was polled, and had to be (L5). A cause that led to no wake is not kept
    /// for later, else the waste of a whole life would hide behind it.
    fn no_wake_was_to_no_effect(&mut self) -> Seen {
        let rest = self.rest();
        let before = std::mem::replace(&mut self.last_rest, rest);
        let calls = rest.accepts.0 - before.accepts.0;
        // Each call but the last of a listener came to its end.
        let ended = rest.accepts.1 - before.accepts.1 + self.life().listeners.len() as u64;
        if calls > ended {
            let expected = format!("at most {ended} calls of `accept`");
            return breach("L5", expected, calls.to_string());
        }
        if before.pool != rest.pool || [before.polls, rest.polls].contains(&Polls::Some) {
            // A task that is held was woken at one time, and is polled at another.
            return Ok(());
        }
        let wakes = rest.wakes - before.wakes;
        let by_pool = [
            wakes.driver,
            wakes.reporter,
            wakes.listeners,
            // It is woken in the place of the pool's own task.
            wakes.driver + wakes.companions,
            wakes.children,
        ];
        let kinds = [
            "the pool",
            "the reporter",
            "listeners",
            "companions",
            "children",
        ];
        for (number, kind) in kinds.into_iter().enumerate() {
            let polls = rest.kinds[number].0 - before.kinds[number].0;
            let causes = rest.kinds[number].1 - before.kinds[number].1 + by_pool[number];
            if polls > causes + SPARE {
                let expected = format!(
                    "{causes} polls of tasks of {kind} at the most since nothing was ready, because there were so many causes"
                );
                return breach("L5", expected, polls.to_string());
            }
        }
        Ok(())
    }

    /// Who is held is not held for long: much is not looked at meanwhile.
    fn release_in_time(&mut self) {
        let life = self.life();
        life.held += 1;
        let held = match (life.polls, life.model.reporter()) {
            (Polls::Some, _) => HELD,
            (_, Reporter::Held) => REPORTER_HELD,
            _ => return,
        };
        if life.held > held {
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
                if let Happened::Closed { listener, .. } = happened {
                    book.closes(listener);
                }
                book.push(Event::Network(happened));
            }
        });
        self.played.pools += 1;
        self.note(Event::Started(self.played.pools as usize, spec));
        let runtime = self.simulation.runtime();
        let (owner, handle) = start::start(&self.scenario.setting, &book, runtime)?;
        book.set_handle(Some(handle.another()));
        let (driver, reporter) = (self.own_task(DRIVER)?, self.own_task(REPORTER)?);
        self.life = Some(Life {
            book,
            model: Model::new(self.scenario.setting.stage, spec, self.simulation.now()),
            owner: Some(owner),
            handle,
            state: PoolState::Running,
            driver,
            reporter,
            listeners: Vec::new(),
            generations: 1,
            woken: 0,
            polls: Polls::All,
            held: 0,
            held_on: None,
            aftermath: 0,
        });
        self.add_listener(None, 1, Bound::Loopback)?;
        self.settle()
    }

    /// The oldest of the pool's own tasks that has no name yet: now it has this one.
    fn own_task(&self, name: &'static str) -> Result<SimulatedTask, Breach> {
        match self.simulation.tasks_of(&[OWN]).first() {
            Some((task, _)) => {
                self.simulation.set_kind(*task, name);
                Ok(*task)
            }
            None => breach(
                "K1",
                format!("a task of the pool of the type `{OWN}`"),
                "none",
            ),
        }
    }

    /// Sees what followed from one poll, or one call, which the model knows of.
    fn see(&mut self) -> Seen {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        let mut events = std::mem::take(&mut self.events);
        let mut polled = std::mem::take(&mut self.polled);
        events.clear();
        polled.clear();
        life.book.take(&mut events);
        life.book.take_polled(&mut polled);
        life.woken += life.book.take_wakes();
        let mut accepted = false;
        for event in &events {
            use Happened::{Accepted, Failed};
            accepted |= matches!(event, Event::Network(Accepted { .. }));
            let ended = matches!(event, Event::Network(Accepted { .. } | Failed { .. }));
            self.accepts_ended += u64::from(ended);
        }
        let connections = match accepted {
            true => life.handle.connections().unwrap_or_default(),
            false => Vec::new(),
        };
        let mut seen = life.model.see(&events, &polled, &connections);
        if seen.is_ok() {
            seen = life.sees_unseen_ends();
        }
        for event in &events {
            *self.played.exercised.entry(event.sort()).or_default() += 1;
        }
        if let Some(watcher) = &mut self.watcher {
            let at = self.simulation.elapsed();
            for event in events.iter().filter(|event| !event.is_quiet()) {
                let event = event.clone();
                watcher(Moment { at, event });
            }
        }
        self.events = events;
        let seen = seen.and_then(|()| self.observe());
        let events = std::mem::take(&mut self.events);
        let seen = seen.and_then(|()| self.life().model.see_reports(&events));
        self.events = events;
        self.polled = polled;
        seen?;
        let panics = self.simulation.panics();
        same("E3", "panics that leave a task", 0, panics)?;
        if let Some((rule, expected, seen)) = self.life().book.broken() {
            return breach(rule, expected, seen);
        }
        Ok(())
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
        let inits = self.simulation.tally(INIT).live;
        let quiet = self.events.is_empty();
        let life = self.life();
        let counts = life.handle.counts();
        let state = match (&counts, life.model.state()) {
            (Err(_), _) => PoolState::Stopped,
            (Ok(_), PoolState::Running) => PoolState::Running,
            (Ok(_), _) => state_of(&life.handle),
        };
        let before = life.model.state();
        life.model.observe(state)?;
        if life.model.state() != before && state != PoolState::Stopped {
            // What the phase has ended.
            life.sees_unseen_ends()?;
        }
        if let Ok(counts) = counts {
            if open != counts.connections + life.model.abandoned() && life.model.may_abandon() {
                let listed = life.handle.connections().unwrap_or_default();
                life.model.abandons(&listed)?;
            }
            let abandoned = life.model.abandoned();
            life.book.set_abandoned(abandoned);
            same(
                "Q3",
                "connections, as many as streams",
                open,
                counts.connections + abandoned,
            )?;
            life.model.counts(&counts)?;
            // Acceptors are started only where something is seen.
            let expected = match quiet {
                true => 0,
                false => life.model.inits(),
            };
            if inits < expected {
                let expected = format!("{expected} acceptors in `init` have tasks of their own");
                return breach("B5", expected, format!("{inits} tasks"));
            }
        }
        if state != life.state {
            life.state = state;
            self.note(Event::State(state));
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<()>, Breach> {
        self.begin(Tasks::Run);
        let Some((task, kind)) = self.simulation.poll_next() else {
            return Ok(None);
        };
        if let Some(life) = &mut self.life {
            match kind {
                INIT | CHILD => {
                    life.model.child_was_polled(task.runtime());
                }
                LISTENER => {
                    if let Some(number) = life.listeners.iter().position(|other| *other == task) {
                        life.model.listener_was_polled(number);
                    }
                }
                _ => {}
            }
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
        self.no_wake_was_to_no_effect()?;
        let network = self.network.clone();
        let life = self.life();
        let polls = life.polls;
        life.model
            .rests(polls, |address| network.backlog(address))?;
        life.model.closes_returned()?;
        if polls == Polls::All {
            life.model.signals_have_come(&life.book.stops())?;
            life.model.kills_have_come(&life.book.kills())?;
            if let Some((rule, child)) = life.book.waits_in_vain() {
                let expected =
                    format!("{child} is woken, because the signal that it waits for is set");
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
                .is_some_and(|listening| listening.is_open());
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
                self.jump_to(to);
                self.settle()
            }
        }
    }

    /// Moves the clock at once, over all timers that are due on the way.
    fn jump_to(&mut self, to: Instant) {
        self.simulation.advance_to(to);
        self.life().model.jumped(to);
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
        match (life.handle.acceptors(), life.handle.status()) {
            (Ok(acceptors), Ok(status)) => {
                life.model.observe(status.state)?;
                life.model.lists(&acceptors)?;
                life.model.shows(&status, &acceptors)?;
            }
            _ => life.model.observe(PoolState::Stopped)?,
        }
        let latches = life.book.latches();
        life.model.latches(&latches)?;
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
