//! Runs a scenario with consecutive seeds until one fails.

use std::collections::BTreeMap;
use std::env::VarError;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acceptor_core::BoxError;

use super::executor::{POLL, SimulatedTask, Simulation, Spurious, TaskRecord, lock, panic_message};
use super::failure::{Cause, ExploreError, SeedFailure};
use super::fault_injection::FaultInjection;
use super::faults::{FaultCounts, Faults};
use super::history::{History, mixed};
use super::network::NetworkEvent;
use super::world::World;

/// Runs a scenario with the seeds 1 to 1,000 and the default [`Faults`].
///
/// # Panics
///
/// If a seed fails, or if the environment variable `ACCEPTOR_SEED` is invalid, with the message of the [`ExploreError`].
/// [`Explore::run`] returns the error instead.
///
/// ```
/// let explored = acceptor_simulation::explore(|world| async move {
///     let listener = world.listen()?;
///     let client = world.connect(listener.address()).await?;
///     drop(client);
///     Ok(())
/// });
/// assert!(explored.faults.slow_clients > 0);
/// ```
#[track_caller]
pub fn explore<F, Fut>(scenario: F) -> Explored
where
    F: FnMut(World) -> Fut,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    match Explore::new().run(scenario) {
        Ok(explored) => explored,
        Err(error) => panic!("{error}"),
    }
}

/// The settings of an exploration: seeds, faults and limits.
///
/// The settings are checked by [`run`](Self::run).
///
/// ```
/// use acceptor_simulation::{Explore, Faults};
///
/// let explored = Explore::new()
///     .seeds(1..=100)
///     .faults(Faults::default().resets(0.5))
///     .polls(10_000)
///     .run(|world| async move {
///         let listener = world.listen()?;
///         world.connect(listener.address()).await?;
///         Ok(())
///     })?;
/// assert_eq!(explored.seeds, 100);
/// # Ok::<_, acceptor_simulation::ExploreError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is explored until `run` is called"]
pub struct Explore {
    seeds: RangeInclusive<u64>,
    faults: Faults,
    polls: u64,
    history: usize,
    child_panics: ChildPanics,
    runs: Runs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChildPanics {
    Ignored,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    Once,
    Twice,
}

/// The result of an exploration, over all its seeds. Its `Display` is a summary of a few lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Explored {
    /// Seeds that were run, all of which passed.
    pub seeds: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Virtual time.
    pub elapsed: Duration,
    /// Accepted connections.
    pub connections: u64,
    /// Faults that have struck.
    pub faults: FaultCounts,
    /// A number that is equal for equal histories of all seeds, down to every poll, and most likely different
    /// otherwise.
    pub fingerprint: u64,
    reached: BTreeMap<&'static str, u64>,
}

impl Explored {
    /// Returns how often the scenario has [reached](World::reached) this point, over all seeds.
    pub fn reached(&self, place: &str) -> u64 {
        self.reached.get(place).copied().unwrap_or_default()
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} polls, {:.1?} of virtual time, {} connections\nfaults: {}",
            self.seeds, self.polls, self.elapsed, self.connections, self.faults
        )?;
        for (place, count) in &self.reached {
            write!(f, "\nreached: {place}, {count} times")?;
        }
        Ok(())
    }
}

/// The run of one seed, however it ended.
struct SeedRun {
    seed: u64,
    ended: Result<(), Cause>,
    polls: u64,
    elapsed: Duration,
    connections: u64,
    faults: FaultCounts,
    reached: Vec<(&'static str, u64)>,
    /// The tasks that had not completed when it failed.
    tasks: Vec<TaskRecord>,
    history: Vec<(Duration, String)>,
    /// The number of earlier lines of the history.
    earlier: u64,
    fingerprint: u64,
}

/// The environment variable that selects the seeds.
const VARIABLE: &str = "ACCEPTOR_SEED";

/// The name of the task that runs the scenario.
const SCENARIO: &str = "the scenario";

/// How long a world continues after its scenario: longer than any delayed wake, so that each report is delivered.
const REST: Duration = Duration::from_millis(10);

impl Default for Explore {
    fn default() -> Self {
        Self::new()
    }
}

impl Explore {
    /// The seeds 1 to 1,000, the default [`Faults`], and at most 1,000,000 polls for each seed.
    pub fn new() -> Self {
        Self {
            seeds: 1..=1000,
            faults: Faults::default(),
            polls: 1_000_000,
            history: 30,
            child_panics: ChildPanics::Ignored,
            runs: Runs::Once,
        }
    }

    /// Sets the seeds, which are run in this order. The environment variable `ACCEPTOR_SEED` overrides it.
    pub fn seeds(mut self, seeds: RangeInclusive<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// Sets a single seed, such as the one that a failure names. The environment variable `ACCEPTOR_SEED` overrides it.
    pub fn seed(self, seed: u64) -> Self {
        self.seeds(seed..=seed)
    }

    /// Sets how often each fault strikes.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Sets the maximum number of polls in which the scenario has to end with each seed (at least 1).
    ///
    /// Each poll takes 1 µs of virtual time. If no task is ready, the clock advances to the next timer.
    pub fn polls(mut self, limit: u64) -> Self {
        self.polls = limit;
        self
    }

    /// Sets how many lines of the history a failure shows, counted from the end. The default is 30.
    pub fn history(mut self, lines: usize) -> Self {
        self.history = lines;
        self
    }

    /// Makes a panic in `init`, `serve` or `terminate` fail the seed.
    ///
    /// By default it does not: a pool isolates and reports a panic of its child, and a scenario may test that. It applies to pools
    /// that are started with [`World::start`] or with a spec from [`World::observe`].
    ///
    /// ```
    /// use acceptor_core::{acceptor_from, Connection, Spec};
    /// use acceptor_simulation::{Cause, Explore, SimulatedStream};
    /// # use std::net::SocketAddr;
    /// # use std::time::Duration;
    ///
    /// async fn serve(_: Connection<SimulatedStream, SocketAddr>) {
    ///     panic!("not written yet");
    /// }
    ///
    /// let explored = Explore::new().fail_on_child_panic().run(|world| async move {
    ///     let pool = world.start(Spec::new("p", acceptor_from(serve)).intensity(9))?;
    ///     let listener = world.listen()?;
    ///     let address = listener.address();
    ///     pool.add_listener(listener, 1)?;
    ///     world.connect(address).await?;
    ///     world.sleep(Duration::from_secs(1)).await;
    ///     Ok(())
    /// });
    /// let error = explored.expect_err("the first seed fails");
    /// let failure = error.failure().expect("a seed has failed");
    /// assert!(matches!(&failure.cause, Cause::ChildPanic { report } if report.contains("not written yet")));
    /// ```
    pub fn fail_on_child_panic(mut self) -> Self {
        self.child_panics = ChildPanics::Fail;
        self
    }

    /// Runs each seed twice and compares the histories, to every poll. A seed whose second run differs
    /// [fails](Cause::NotRepeatable).
    ///
    /// ```
    /// use acceptor_simulation::{Cause, Explore};
    ///
    /// let mut count = 0;
    /// let explored = Explore::new().each_twice().run(|world| {
    ///     // A bug: the count continues from run to run.
    ///     count += 1;
    ///     world.note(format!("run {count}"));
    ///     async { Ok(()) }
    /// });
    /// let error = explored.expect_err("the second run differs");
    /// let failure = error.failure().expect("a seed has failed");
    /// assert!(matches!(&failure.cause, Cause::NotRepeatable { second, .. } if second.ends_with("run 2")));
    /// ```
    pub fn each_twice(mut self) -> Self {
        self.runs = Runs::Twice;
        self
    }

    /// Runs the scenario with each seed, in a new [`World`] each time, until one fails.
    ///
    /// A seed passes if the scenario's future returns `Ok`. Then the tasks that it has [spawned](World::spawn) are dropped, the
    /// rest of the world goes on for 10 ms of virtual time, and all that is left is dropped.
    ///
    /// Everything is a function of the seed if the scenario makes its choices by the seed alone: the message of a failure
    /// is the same each time.
    ///
    /// # Errors
    ///
    /// [`ExploreError::Failed`] for the first seed that fails; another if a setting is not allowed, and then nothing is run.
    pub fn run<F, Fut>(&self, mut scenario: F) -> Result<Explored, ExploreError>
    where
        F: FnMut(World) -> Fut,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let mut explored = Explored::default();
        for seed in self.checked()? {
            let run = self.run_seed(seed, &mut scenario);
            if run.ended.is_err() {
                let failure = run.into_failure(self.history);
                return Err(ExploreError::Failed(Box::new(failure)));
            }
            explored.add(&run);
        }
        Ok(explored)
    }

    /// Returns the seeds to run, if all settings are valid.
    fn checked(&self) -> Result<RangeInclusive<u64>, ExploreError> {
        for (fault, value) in self.faults.rates() {
            if !(0.0..=1.0).contains(&value) {
                return Err(ExploreError::Rate { fault, value });
            }
        }
        if self.polls == 0 {
            return Err(ExploreError::Polls);
        }
        let seeds = match std::env::var(VARIABLE) {
            Err(VarError::NotPresent) => self.seeds.clone(),
            Ok(value) if value.is_empty() => self.seeds.clone(),
            Ok(value) => parse(&value).ok_or(ExploreError::Environment { value })?,
            Err(VarError::NotUnicode(value)) => {
                let value = value.to_string_lossy().into_owned();
                return Err(ExploreError::Environment { value });
            }
        };
        if seeds.is_empty() {
            let (first, last) = seeds.into_inner();
            return Err(ExploreError::Seeds { first, last });
        }
        Ok(seeds)
    }

    fn run_seed<F, Fut>(&self, seed: u64, scenario: &mut F) -> SeedRun
    where
        F: FnMut(World) -> Fut,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        match self.runs {
            Runs::Once => self.run_once(seed, scenario, self.history),
            Runs::Twice => {
                let first = self.run_once(seed, scenario, usize::MAX);
                let mut second = self.run_once(seed, scenario, usize::MAX);
                if first.fingerprint == second.fingerprint {
                    return first;
                }
                second.ended = Err(difference(&first, &second));
                second
            }
        }
    }

    fn run_once<F, Fut>(&self, seed: u64, scenario: &mut F, lines: usize) -> SeedRun
    where
        F: FnMut(World) -> Fut,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let simulation = Simulation::new(seed, Spurious::Never);
        let history = Arc::new(History::new(&simulation, lines));
        let injection = Arc::new(FaultInjection::new(seed, self.faults, Arc::clone(&history)));
        simulation.set_fault_injection(Some(Arc::clone(&injection)));
        let world = World::new(seed, &simulation, &injection, &history);
        let connections = Arc::new(AtomicU64::new(0));
        world
            .network()
            .on_event(note_into(&history, Arc::clone(&connections)));
        let mut driver = Driver {
            explore: self,
            simulation: &simulation,
            history: &history,
            world: &world,
            polls: 0,
        };

        let called = catch_unwind(AssertUnwindSafe(|| scenario(world.clone())));
        let mut ended = match called {
            Ok(scenario) => driver.run(scenario),
            Err(panic) => Err(Cause::Panic {
                task: SCENARIO.to_owned(),
                message: panic_message(panic),
            }),
        };
        injection.calm();
        if ended.is_ok() {
            world.drop_tasks();
            ended = driver.rest();
        }
        let polls = driver.polls;
        let elapsed = simulation.elapsed();
        let tasks = simulation.tasks();
        let fingerprint = history.fingerprint();
        let (lines, earlier) = history.take();

        // Breaks the cycle: tasks hold the simulation, and it holds them.
        world.network().remove_hook();
        simulation.set_fault_injection(None);
        simulation.close();
        ended = ended.and_then(|()| no_panic(&simulation));
        let mut faults = injection.counts();
        faults.spurious_polls = simulation.statistics().spurious;
        SeedRun {
            seed,
            ended,
            polls,
            elapsed,
            connections: connections.load(Ordering::Relaxed),
            faults,
            reached: world.counts_reached(),
            tasks,
            history: lines,
            earlier,
            fingerprint,
        }
    }
}

impl SeedRun {
    fn into_failure(mut self, most_lines: usize) -> SeedFailure {
        let surplus = self.history.len().saturating_sub(most_lines);
        self.history.drain(..surplus);
        SeedFailure {
            seed: self.seed,
            elapsed: self.elapsed,
            polls: self.polls,
            cause: self.ended.err().unwrap_or(Cause::Deadlock),
            tasks: self.tasks,
            history: self.history,
            earlier: self.earlier + surplus as u64,
            again: how_to_repeat(self.seed),
        }
    }
}

impl Explored {
    fn add(&mut self, run: &SeedRun) {
        self.seeds += 1;
        self.polls += run.polls;
        self.elapsed = self.elapsed.saturating_add(run.elapsed);
        self.connections += run.connections;
        self.faults.add(&run.faults);
        self.fingerprint = mixed(self.fingerprint, run.fingerprint);
        for (place, count) in &run.reached {
            *self.reached.entry(place).or_default() += count;
        }
    }
}

/// A run of a world, poll by poll.
struct Driver<'a> {
    explore: &'a Explore,
    simulation: &'a Simulation,
    history: &'a History,
    world: &'a World,
    polls: u64,
}

impl Driver<'_> {
    /// Runs the scenario to its end.
    fn run<Fut>(&mut self, scenario: Fut) -> Result<(), Cause>
    where
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let result = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&result);
        let task = async move {
            let ended = scenario.await;
            *lock(&tell) = Some(ended);
        };
        self.simulation.runtime().spawn_as(SCENARIO, Box::pin(task));
        loop {
            self.check()?;
            let ended = lock(&result).take();
            if let Some(ended) = ended {
                return ended.map_err(|error| Cause::Error {
                    message: with_sources(&*error),
                });
            }
            if self.polls >= self.explore.polls {
                let busiest = self.history.busiest().into_iter();
                return Err(Cause::TooManyPolls {
                    busiest: busiest
                        .map(|(task, kind, count)| (named(task, kind), count))
                        .collect(),
                });
            }
            if !self.poll() {
                let Some(time) = self.simulation.next_timer() else {
                    return Err(Cause::Deadlock);
                };
                self.simulation.advance_to(time);
            }
        }
    }

    /// Lets the world continue for a short time.
    fn rest(&mut self) -> Result<(), Cause> {
        let end = self.simulation.now() + REST;
        while self.polls < self.explore.polls {
            self.check()?;
            if self.poll() {
                continue;
            }
            match self.simulation.next_timer() {
                Some(time) if time <= end => self.simulation.advance_to(time),
                _ => break,
            }
        }
        self.check()
    }

    /// Polls a task, if one is ready.
    fn poll(&mut self) -> bool {
        let Some((task, kind)) = self.simulation.poll_next() else {
            return false;
        };
        self.polls += 1;
        self.history.polled(task, kind);
        // Timers must fire even if a task is always ready.
        self.simulation.advance_to(self.simulation.now() + POLL);
        true
    }

    fn check(&self) -> Result<(), Cause> {
        no_panic(self.simulation)?;
        if self.explore.child_panics == ChildPanics::Fail {
            if let Some(report) = self.world.child_panic() {
                return Err(Cause::ChildPanic { report });
            }
        }
        Ok(())
    }
}

fn no_panic(simulation: &Simulation) -> Result<(), Cause> {
    match simulation.first_panic() {
        None => Ok(()),
        Some(panic) => Err(Cause::Panic {
            task: named(panic.task, panic.kind),
            message: panic.message,
        }),
    }
}

fn named(task: SimulatedTask, kind: &str) -> String {
    match kind {
        SCENARIO => SCENARIO.to_owned(),
        _ => format!("task {task} ({kind})"),
    }
}

/// Returns a hook that adds each event to the history.
fn note_into(
    history: &Arc<History>,
    connections: Arc<AtomicU64>,
) -> impl Fn(NetworkEvent) + Send + Sync + 'static {
    let history = Arc::clone(history);
    move |happened| {
        let line = match happened {
            NetworkEvent::Accepted { listener, peer } => {
                connections.fetch_add(1, Ordering::Relaxed);
                format!("{listener} accepts {peer}")
            }
            NetworkEvent::Dropped { peer } => format!("the server drops its end of {peer}"),
            NetworkEvent::Failed { listener, fault } => {
                format!("accept fails on {listener}: {}", fault.text())
            }
            NetworkEvent::Closed { listener, queued } => {
                format!("{listener} is closed, with {queued} connections in its backlog")
            }
            NetworkEvent::Empty { .. } => return,
        };
        history.note(line);
    }
}

/// Returns the first line in which two runs differ.
fn difference(first: &SeedRun, second: &SeedRun) -> Cause {
    let most = first.history.len().max(second.history.len());
    let line = |run: &SeedRun, number: usize| match run.history.get(number) {
        Some((at, line)) => format!("{at:?}  {line}"),
        None => "its history has ended".to_owned(),
    };
    let differs =
        (0..most).find(|number| first.history.get(*number) != second.history.get(*number));
    let (one, other) = match differs {
        Some(number) => (line(first, number), line(second, number)),
        None => (
            format!("{} polls, in some order", first.polls),
            format!("{} polls, in another order", second.polls),
        ),
    };
    Cause::NotRepeatable {
        first: one,
        second: other,
    }
}

/// Formats an error with those sources that its message does not contain.
fn with_sources(error: &(dyn Error + 'static)) -> String {
    /// An error may name itself as its source.
    const MOST: usize = 16;

    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..MOST {
        let Some(error) = next else { break };
        let source = error.to_string();
        if !text.contains(&source) {
            text = format!("{text}: {source}");
        }
        next = error.source();
    }
    text
}

/// Parses a seed or a range of seeds.
fn parse(value: &str) -> Option<RangeInclusive<u64>> {
    let number = |text: &str| text.trim().parse().ok();
    match value.split_once("..=") {
        Some((first, last)) => Some(number(first)?..=number(last)?),
        None => number(value).map(|seed| seed..=seed),
    }
}

fn how_to_repeat(seed: u64) -> String {
    let thread = std::thread::current();
    let command = match thread.name() {
        // The thread of a test has the test's name.
        Some(test) if test != "main" => format!("{VARIABLE}={seed} cargo test {test}"),
        _ => format!("set {VARIABLE}={seed} in the environment of the same command"),
    };
    format!("{command}, or call Explore::seed({seed})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_is_a_seed_or_a_range() {
        assert_eq!(parse("42"), Some(42..=42));
        assert_eq!(parse(" 1 ..= 5000"), Some(1..=5000));
        for value in ["all", "-1", "1..5", "1..=", "..=5", "18446744073709551616"] {
            assert_eq!(parse(value), None, "{value}");
        }
    }

    #[test]
    fn missing_sources_are_appended() {
        let inside = std::io::Error::other("the disk is full");
        assert_eq!(with_sources(&inside), "the disk is full");
        let failure = acceptor_core::StartError::Init(Box::new(inside));
        assert!(with_sources(&failure).ends_with("the disk is full"));
    }
}
