//! Runs a scenario: takes its steps in a simulated world, and checks the pool against the model after each poll and each call.
//!
//! Invariants: the model learns of a call before it sees the consequences; the clock moves only while no task is ready; a run
//! depends only on the scenario.

mod plain_pool;
mod start;
mod step;
mod teardown;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use acceptor_core::{ChildId, Phase, PoolState};

use super::event::{Event, TraceEntry};
use super::handle::{Handle, Owner};
use super::history::History;
use super::model::{
    Check, Killed, Model, Peer, Polls, Reporter, Tasks, Violation, Wakes, same, violation,
};
use super::{Bound, Scenario, Teardown, Then, milliseconds};
use acceptor_simulation::{
    Limits, Network, NetworkEvent, SimulatedClient, SimulatedRuntime, SimulatedTask, Simulation,
    Spurious, Stage, Statistics,
};
use conformance_console::caught;

/// The coverage of scenarios that violate no rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunSummary {
    /// How many scenarios were run.
    pub scenarios: u64,
    /// How many steps were taken.
    pub steps: u64,
    /// How many pools were started.
    pub pools: u64,
    /// How many events there were, by label.
    pub events: BTreeMap<&'static str, u64>,
    /// The statistics of the runtime.
    pub statistics: Statistics,
    /// The virtual time that passed.
    pub virtual_time: Duration,
}

impl RunSummary {
    /// Adds the sums of other runs.
    pub fn add(&mut self, other: &Self) {
        self.scenarios += other.scenarios;
        self.steps += other.steps;
        self.pools += other.pools;
        for (label, count) in &other.events {
            *self.events.entry(label).or_default() += count;
        }
        self.statistics.polls += other.statistics.polls;
        self.statistics.spurious += other.statistics.spurious;
        self.statistics.tasks += other.statistics.tasks;
        self.statistics.timers += other.statistics.timers;
        self.virtual_time += other.virtual_time;
    }
}

/// The violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The step in which it was seen, from 0; the number of steps stands for the teardown.
    pub step: usize,
    /// The virtual time at which it was seen.
    pub at: Duration,
    /// The rule of the contract that is violated, or the nearest one.
    pub rule: &'static str,
    /// The expected behaviour.
    pub expected: String,
    /// The behaviour that was seen.
    pub seen: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, step, expected, seen) = (self.rule, self.step, &self.expected, &self.seen);
        write!(
            f,
            "{rule} is violated, step {step}\nexpected: {expected}\nseen:     {seen}"
        )
    }
}

/// Runs a scenario.
///
/// # Errors
///
/// [`Failure`] if a rule is violated.
pub fn run(scenario: &Scenario) -> Result<RunSummary, Box<Failure>> {
    Runner::new(scenario, None).run()
}

/// Runs a scenario, and passes each trace entry to `watcher` at once, so that a scenario that hangs has a trace, too.
///
/// # Errors
///
/// [`Failure`] if a rule is violated.
pub fn run_watched(
    scenario: &Scenario,
    watcher: &mut dyn FnMut(TraceEntry),
) -> Result<RunSummary, Box<Failure>> {
    Runner::new(scenario, Some(watcher)).run()
}

/// Runs a scenario, and returns its trace, even if it fails.
pub fn run_traced(scenario: &Scenario) -> (Vec<TraceEntry>, Result<RunSummary, Box<Failure>>) {
    let mut trace = Vec::new();
    let result = run_watched(scenario, &mut |entry| trace.push(entry));
    (trace, result)
}

/// More polls without a move of the clock are a busy loop.
const MAX_POLLS: u32 = 20_000;

/// A kind of task may be polled this much more often than it has causes.
const SPARE_POLLS: u64 = 1;

/// A task is held for at most this many steps.
const MAX_STEPS_HELD: u32 = 6;
const MAX_STEPS_REPORTER_HELD: u32 = 20;

/// This many steps are taken with a stopped pool before the next pool is started.
const STEPS_AFTER_STOP: u32 = 4;

fn panicked(panic: String) -> Check {
    violation("V3", "no call of the pool panics", panic)
}

struct Runner<'a> {
    scenario: &'a Scenario,
    simulation: Simulation,
    network: Network,
    /// The runtimes that are not the pool's.
    runtimes: [SimulatedRuntime; 2],
    clients: Vec<TestClient>,
    pool: Option<PoolRun>,
    /// Children of the pool before.
    earlier_children: Vec<ChildId>,
    watcher: Option<&'a mut dyn FnMut(TraceEntry)>,
    summary: RunSummary,
    last_activity: Activity,
    /// How many calls of `accept` have ended.
    accepts_ended: u64,
    /// Taken from the history, and not yet seen by the model.
    events: Vec<Event>,
    polled: Vec<ChildId>,
}

/// The counts at a moment at which no task was ready.
#[derive(Debug, Clone, Copy, Default)]
struct Activity {
    /// The number of the pool.
    number: u64,
    polls: Polls,
    /// For each kind of task: its polls, and the causes for them except wakes by the pool.
    kinds: [(u64, u64); KINDS.len()],
    /// Wakes by the pool and by callbacks.
    wakes: Wakes,
    /// Calls of `accept`, and how many of them have ended.
    accepts: (u64, u64),
}

/// The kinds of tasks: acceptors in `init`; connections, and acceptors in `terminate`; listeners; the pool's own task; the task
/// that delivers reports.
pub(super) const INIT: &str = "InitTask";
pub(super) const CHILD: &str = "ChildTask";
pub(super) const LISTENER: &str = "listener";
pub(super) const DRIVER: &str = "pool";
pub(super) const REPORTER: &str = "reporter";
/// The idle task of a runtime that is not the pool's.
pub(super) const COMPANION: &str = "Host";
/// A task of the pool itself. It gets its name by the order in which these tasks are spawned.
pub(super) const OWN: &str = "CatchUnwind";
const KINDS: [(&str, &[&str]); 5] = [
    ("the pool", &[DRIVER]),
    ("the reporter", &[REPORTER]),
    ("listeners", &[LISTENER]),
    ("companions", &[COMPANION]),
    ("children", &[INIT, CHILD]),
];

/// A client, and the address to which it connected.
struct TestClient {
    client: SimulatedClient,
    listener: SocketAddr,
}

/// One pool, from its start until nothing is left of it.
struct PoolRun {
    history: Arc<History>,
    model: Model,
    owner: Option<Owner>,
    handle: Handle,
    state: PoolState,
    /// The pool's own task, and the task that delivers reports.
    driver: SimulatedTask,
    reporter: SimulatedTask,
    /// The tasks of its listeners, in their order.
    listeners: Vec<SimulatedTask>,
    generations: u32,
    /// How often callbacks woke themselves, or asked for a wake.
    woken: u64,
    polls: Polls,
    /// For how many steps a task has been held.
    held: u32,
    /// The runtime whose tasks are held.
    held_on: Option<u64>,
    steps_after_stop: u32,
}

/// The state of a pool. Its status has the state, too, but also lists, which are too slow for every poll.
fn state_of(handle: &Handle) -> PoolState {
    let text = format!("{handle:?}");
    let stopping = Phase::ALL.iter().copied().map(PoolState::Stopping);
    let mut states = stopping.chain([PoolState::Running]);
    let state = states.find(|state| text.contains(&format!("state: {state:?}")));
    state.unwrap_or(PoolState::Stopped)
}

impl PoolRun {
    /// Shows the list of acceptors to the model, if acceptors may have ended without an event.
    fn see_unseen_ends(&mut self) -> Check {
        if !self.model.expects_unseen_ends() {
            return Ok(());
        }
        match self.handle.acceptors() {
            Ok(acceptors) => self.model.lists(&acceptors),
            Err(_) => self.model.lists_nothing(self.polls),
        }
    }
}

impl<'a> Runner<'a> {
    fn new(scenario: &'a Scenario, watcher: Option<&'a mut dyn FnMut(TraceEntry)>) -> Self {
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
            pool: None,
            earlier_children: Vec::new(),
            watcher,
            summary: RunSummary::default(),
            last_activity: Activity::default(),
            accepts_ended: 0,
            polled: Vec::new(),
            events: Vec::new(),
        }
    }

    fn run(mut self) -> Result<RunSummary, Box<Failure>> {
        let mut step = 0;
        // A panic, even of the runner itself, becomes a failure with its step.
        let steps = caught(|| self.steps(&mut step)).unwrap_or_else(panicked);
        let at = self.simulation.elapsed();
        let released = caught(|| self.release()).or_else(panicked);
        let result = steps.and(released);
        self.summary.scenarios = 1;
        self.summary.statistics = self.simulation.statistics();
        self.summary.virtual_time = self.simulation.elapsed();
        match result {
            Ok(()) => Ok(self.summary),
            Err(violation) => Err(Box::new(Failure {
                step,
                at,
                rule: violation.rule,
                expected: violation.expected,
                seen: violation.seen,
            })),
        }
    }

    /// Breaks the cycle of references between tasks and the simulation.
    fn release(&mut self) {
        self.network.remove_hook();
        if let Some(pool) = self.pool.take() {
            pool.history.set_handle(None);
            pool.history.drop_kept();
        }
        self.clients.clear();
        self.simulation.close();
    }

    fn steps(&mut self, number: &mut usize) -> Check {
        for (index, step) in self.scenario.steps.iter().enumerate() {
            *number = index;
            self.ensure_pool()?;
            self.note(Event::Step(index, *step));
            self.simulation.reseed(step.schedule.into());
            self.release_in_time();
            self.act(step)?;
            self.go_on(step.then)?;
            self.look()?;
            self.summary.steps += 1;
        }
        *number = self.scenario.steps.len();
        self.note(Event::Teardown);
        self.teardown()?;
        match self.scenario.teardown {
            // The runtime is gone.
            Teardown::CloseRuntime => Ok(()),
            Teardown::Stop | Teardown::DropOwner => self.run_plain_pool(),
        }
    }

    /// The counts so far.
    fn activity(&mut self) -> Activity {
        let pool = self.pool.as_ref();
        let polls = pool.map_or(Polls::Some, |pool| match pool.model.reporter() {
            Reporter::Held => Polls::Some,
            _ => pool.polls,
        });
        let mut wakes = pool.map(|pool| pool.model.wakes).unwrap_or_default();
        wakes.children += pool.map_or(0, |pool| pool.woken);
        let companions = self.simulation.tally(COMPANION);
        let by_others = [
            0,
            0,
            self.network.wakes_by_listeners(),
            // Each companion is woken once for its end.
            companions.spawned - companions.live,
            self.network.wakes_by_streams(),
        ];
        let mut kinds = by_others.map(|wakes| (0, wakes));
        for (counts, (_, names)) in kinds.iter_mut().zip(KINDS) {
            for name in names {
                let tally = self.simulation.tally(name);
                counts.0 += tally.polls;
                counts.1 += tally.spawned + tally.timers;
            }
        }
        Activity {
            number: self.summary.pools,
            polls,
            kinds,
            wakes,
            accepts: (self.network.accept_calls(), self.accepts_ended),
        }
    }

    /// No task is ready: each poll had a cause (L5). Causes without a wake are not kept for later, because waste could hide
    /// behind them.
    fn no_wake_was_useless(&mut self) -> Check {
        let now = self.activity();
        let before = std::mem::replace(&mut self.last_activity, now);
        let calls = now.accepts.0 - before.accepts.0;
        // All calls have ended but the last one of each listener.
        let ended = now.accepts.1 - before.accepts.1 + self.pool().listeners.len() as u64;
        if calls > ended {
            let expected = format!("at most {ended} calls of `accept`");
            return violation("L5", expected, calls.to_string());
        }
        if before.number != now.number || [before.polls, now.polls].contains(&Polls::Some) {
            // The wake and the poll of a held task are far apart.
            return Ok(());
        }
        let wakes = now.wakes - before.wakes;
        let by_pool = [
            wakes.driver,
            wakes.reporter,
            wakes.listeners,
            // A companion is woken instead of the pool's own task.
            wakes.driver + wakes.companions,
            wakes.children,
        ];
        // A spurious poll may put a listener into the queue once more, while a slot is passed on.
        let queues_again = self.scenario.setting.spurious > 0 && self.pool().model.is_limited();
        for (number, (kind, _)) in KINDS.into_iter().enumerate() {
            if queues_again && matches!(kind, "listeners" | "companions") {
                continue;
            }
            let polls = now.kinds[number].0 - before.kinds[number].0;
            let causes = now.kinds[number].1 - before.kinds[number].1 + by_pool[number];
            if polls > causes + SPARE_POLLS {
                let expected = format!(
                    "tasks of {kind} are polled at most {causes} times, once for each cause"
                );
                return violation("L5", expected, polls.to_string());
            }
        }
        Ok(())
    }

    /// Releases tasks that are held for long, because little can be checked meanwhile.
    fn release_in_time(&mut self) {
        let pool = self.pool();
        pool.held += 1;
        let limit = match (pool.polls, pool.model.reporter()) {
            (Polls::Some, _) => MAX_STEPS_HELD,
            (_, Reporter::Held) => MAX_STEPS_REPORTER_HELD,
            _ => return,
        };
        if pool.held > limit {
            self.release_tasks();
        }
    }

    fn count(&mut self, label: &'static str) {
        *self.summary.events.entry(label).or_default() += 1;
    }

    /// Records an event that is not in the history.
    fn note(&mut self, event: Event) {
        self.count(event.label());
        self.trace(event);
    }

    fn trace(&mut self, event: Event) {
        if let Some(watcher) = &mut self.watcher {
            let at = self.simulation.elapsed();
            watcher(TraceEntry { at, event });
        }
    }

    fn pool(&mut self) -> &mut PoolRun {
        self.pool
            .as_mut()
            .expect("a pool is started before each step")
    }

    fn ensure_pool(&mut self) -> Check {
        if let Some(pool) = &mut self.pool {
            if pool.state != PoolState::Stopped {
                return Ok(());
            }
            pool.steps_after_stop += 1;
            if pool.steps_after_stop <= STEPS_AFTER_STOP {
                return Ok(());
            }
            self.check_nothing_left()?;
        }
        let spec = self.scenario.setting.spec;
        let history = History::new(self.scenario.seed, &self.simulation, &self.network);
        let witness = Arc::downgrade(&history);
        self.network.on_event(move |happened| {
            if let Some(history) = witness.upgrade() {
                if let NetworkEvent::Closed { listener, .. } = happened {
                    history.closes(listener);
                }
                history.push(Event::Network(happened));
            }
        });
        self.summary.pools += 1;
        self.note(Event::Started(self.summary.pools as usize, spec));
        let runtime = self.simulation.runtime();
        let owner = start::start(&self.scenario.setting, &history, runtime)?;
        let handle = owner.handle();
        history.set_handle(Some(handle.clone()));
        let (driver, reporter) = (self.own_task(DRIVER)?, self.own_task(REPORTER)?);
        self.pool = Some(PoolRun {
            history,
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
            steps_after_stop: 0,
        });
        self.add_listener(None, 1, Bound::Loopback)?;
        self.settle()
    }

    /// Gives the oldest unnamed task of the pool itself this name.
    fn own_task(&self, name: &'static str) -> Result<SimulatedTask, Violation> {
        match self.simulation.tasks_of(&[OWN]).first() {
            Some((task, _)) => {
                self.simulation.set_kind(*task, name);
                Ok(*task)
            }
            None => violation("K1", format!("a task of the type `{OWN}`"), "none"),
        }
    }

    /// Shows the consequences of one poll, or of one call, to the model.
    fn see(&mut self) -> Check {
        let Some(pool) = &mut self.pool else {
            return Ok(());
        };
        let mut events = std::mem::take(&mut self.events);
        let mut polled = std::mem::take(&mut self.polled);
        events.clear();
        polled.clear();
        pool.woken += pool.history.take(&mut events, &mut polled);
        let mut accepted = false;
        for event in &events {
            use NetworkEvent::{Accepted, Failed};
            accepted |= matches!(event, Event::Network(Accepted { .. }));
            let ended = matches!(event, Event::Network(Accepted { .. } | Failed { .. }));
            self.accepts_ended += u64::from(ended);
        }
        let connections = match accepted {
            true => pool.handle.connections().unwrap_or_default(),
            false => Vec::new(),
        };
        let mut check = pool.model.see(&events, &polled, &connections);
        if check.is_ok() {
            check = pool.see_unseen_ends();
        }
        for event in &events {
            self.count(event.label());
            if self.watcher.is_some() && !event.is_quiet() {
                self.trace(event.clone());
            }
        }
        let check = check.and_then(|()| self.observe(events.is_empty()));
        let check = check.and_then(|()| self.pool().model.see_reports(&events));
        self.events = events;
        self.polled = polled;
        check?;
        let panics = self.simulation.panics();
        same("E3", "panics that leave a task", 0, panics)?;
        self.pool().history.take_violation()
    }

    /// Tells the model that a poll or a call begins now.
    fn begin(&mut self, tasks: Tasks) {
        let now = self.simulation.now();
        if let Some(pool) = &mut self.pool {
            pool.model.begin(now, tasks);
        }
    }

    /// Checks the state and the counts against the model; fast enough for every poll.
    fn observe(&mut self, quiet: bool) -> Check {
        let open = self.network.open_streams();
        let inits = self.simulation.tally(INIT).live;
        let pool = self.pool();
        let counts = pool.handle.counts();
        let before = pool.model.state();
        let state = match (&counts, before) {
            (Err(_), _) => PoolState::Stopped,
            (Ok(_), PoolState::Running) => PoolState::Running,
            (Ok(_), _) => state_of(&pool.handle),
        };
        pool.model.observe(state)?;
        if pool.model.state() != before && state != PoolState::Stopped {
            // The new phase may have ended acceptors.
            pool.see_unseen_ends()?;
        }
        if let Ok(counts) = counts {
            if open != counts.connections + pool.model.abandoned() && pool.model.may_abandon() {
                let listed = pool.handle.connections().unwrap_or_default();
                pool.model.abandons(&listed)?;
            }
            let abandoned = pool.model.abandoned();
            pool.history.set_abandoned(abandoned);
            let connections = counts.connections + abandoned;
            same("Q3", "connections, as many as streams", open, connections)?;
            pool.model.counts(&counts)?;
            // Acceptors are started only with an event.
            let expected = if quiet { 0 } else { pool.model.inits() };
            if inits < expected {
                let expected = format!("{expected} acceptors in `init` have their own tasks");
                return violation("B5", expected, format!("{inits} tasks"));
            }
        }
        if state != pool.state {
            pool.state = state;
            self.note(Event::State(state));
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<()>, Violation> {
        self.begin(Tasks::Run);
        let Some((task, kind)) = self.simulation.poll_next() else {
            return Ok(None);
        };
        if let Some(pool) = &mut self.pool {
            match kind {
                INIT | CHILD => pool.model.child_was_polled(task.runtime()),
                LISTENER => {
                    if let Some(number) = pool.listeners.iter().position(|other| *other == task) {
                        pool.model.listener_was_polled(number);
                    }
                }
                _ => {}
            }
        }
        self.see()?;
        Ok(Some(()))
    }

    /// Polls until no task is ready; then everything that is due has happened.
    fn settle(&mut self) -> Check {
        let mut polls = 0;
        while self.poll()?.is_some() {
            polls += 1;
            if polls >= MAX_POLLS {
                let busy = self.simulation.settle(1).err();
                let last = busy.map(|restless| restless.last).into_iter().flatten();
                let tasks: Vec<_> = last.map(|task| task.to_string()).collect();
                let expected = format!("no task is ready after {MAX_POLLS} polls");
                return violation("B3", expected, tasks.join("; "));
            }
        }
        self.no_wake_was_useless()?;
        let network = self.network.clone();
        let pool = self.pool();
        let polls = pool.polls;
        pool.model
            .check_at_rest(polls, |address| network.backlog(address))?;
        pool.model.closes_returned()?;
        if polls == Polls::All {
            pool.model.signals_have_come(&pool.history.latches())?;
            pool.model.kills_have_come(&pool.history.kills())?;
            if let Some((rule, child)) = pool.history.missed_signal() {
                let expected = format!("{child} is woken, because its signal is set");
                return violation(rule, expected, "it waits");
            }
        }
        self.clients_are_served()
    }

    fn clients_are_served(&mut self) -> Check {
        let Some(pool) = &self.pool else {
            return Ok(());
        };
        for TestClient { client, listener } in &self.clients {
            let (peer, stage) = (client.address(), client.stage());
            let Some(known) = pool.model.peer(peer) else {
                // A client of an earlier pool.
                continue;
            };
            let mut listeners = pool.model.listeners.iter();
            let model = listeners.find(|model| model.address == *listener);
            let open = model.is_some_and(|model| model.is_open());
            let fits = match stage {
                Stage::Accepted => known != Peer::Waits(*listener),
                Stage::Queued | Stage::Connecting => known == Peer::Waits(*listener) && open,
                Stage::Abandoned => known == Peer::Waits(*listener) && !open,
            };
            if !fits {
                let expected = format!("{peer} is served, or waits, or its listener is closed");
                let seen = format!("{known:?}, {stage:?}, its listener is open: {open}");
                return violation("L2", expected, seen);
            }
        }
        Ok(())
    }

    fn go_on(&mut self, then: Then) -> Check {
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
                self.jump(milliseconds(time));
                self.settle()
            }
        }
    }

    /// Moves the clock at once, over all timers that are due.
    fn jump(&mut self, time: Duration) {
        let to: Instant = self.simulation.now() + time;
        self.simulation.advance_to(to);
        self.pool().model.jumped(to);
    }

    fn pass(&mut self, time: Duration) -> Check {
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

    /// Checks everything that the pool shows against the model.
    fn look(&mut self) -> Check {
        self.begin(Tasks::Run);
        let pool = self.pool();
        match (pool.handle.acceptors(), pool.handle.status()) {
            (Ok(acceptors), Ok(status)) => {
                pool.model.observe(status.state)?;
                pool.model.lists(&acceptors)?;
                pool.model.shows(&status, &acceptors)?;
            }
            _ => pool.model.observe(PoolState::Stopped)?,
        }
        pool.model.latches(&pool.history.latches())?;
        pool.model.sees_closed(&pool.history.closed())
    }

    /// Calls the pool; `inform` reports the call to the model first.
    fn call<T>(
        &mut self,
        inform: impl FnOnce(&mut Model),
        call: impl FnOnce(&Handle) -> T,
    ) -> Result<T, Violation> {
        self.begin(Tasks::Run);
        let pool = self.pool();
        inform(&mut pool.model);
        let result = call(&pool.handle);
        self.see()?;
        Ok(result)
    }
}
