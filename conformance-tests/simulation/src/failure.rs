//! The errors of an exploration: an invalid setting, or a seed that fails.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::executor::TaskRecord;

/// The error of an exploration.
///
/// Its `Debug` equals its `Display`, so that a test that returns it or calls `unwrap` shows the formatted message.
#[non_exhaustive]
pub enum ExploreError {
    /// A seed has failed.
    Failed(Box<SeedFailure>),
    /// The range of seeds is empty.
    Seeds {
        /// The first seed.
        first: u64,
        /// The last seed.
        last: u64,
    },
    /// A rate of [`Faults`](crate::Faults) is not within 0 to 1.
    Rate {
        /// The field.
        fault: &'static str,
        /// The invalid value.
        value: f64,
    },
    /// The limit of polls is zero.
    Polls,
    /// The environment variable `ACCEPTOR_SEED` is neither a seed nor a range of seeds.
    Environment {
        /// The invalid value.
        value: String,
    },
}

impl ExploreError {
    /// The failure, if a seed has failed.
    ///
    /// ```
    /// use acceptor_simulation::{Cause, Explore};
    ///
    /// let explored = Explore::new().seeds(7..=9).run(|_world| async { Err("no luck".into()) });
    /// let error = explored.expect_err("every seed fails");
    /// let failure = error.failure().expect("a seed has failed");
    /// assert_eq!(failure.seed, 7);
    /// assert_eq!(failure.cause, Cause::Error { message: "no luck".to_owned() });
    /// ```
    pub fn failure(&self) -> Option<&SeedFailure> {
        match self {
            ExploreError::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl fmt::Display for ExploreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExploreError::Failed(failure) => failure.fmt(f),
            ExploreError::Seeds { first, last } => write!(
                f,
                "`seeds` is {first}..={last}, which is empty: give a range with at least one seed, such as 1..=1000"
            ),
            ExploreError::Rate { fault, value } => write!(
                f,
                "the rate of the fault `{fault}` is {value}: give a number from 0, never, to 1, always"
            ),
            ExploreError::Polls => {
                f.write_str("`polls` is 0: give the number of polls, at least 1, within which a seed has to end")
            }
            ExploreError::Environment { value } => write!(
                f,
                "the environment variable `ACCEPTOR_SEED` is {value:?}: give a seed, such as 42, or a range of them, such as 1..=5000"
            ),
        }
    }
}

impl fmt::Debug for ExploreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for ExploreError {}

/// A failed seed: the moment, the cause, the remaining tasks, and the end of its history.
///
/// Its `Display` is several lines of text, the first of which is a summary.
///
/// ```
/// use acceptor_simulation::{Cause, Explore};
/// use std::time::Duration;
///
/// let explored = Explore::new().seed(3).run(|world| async move {
///     world.sleep(Duration::from_secs(1)).await;
///     // Nothing ever wakes it.
///     std::future::pending().await
/// });
/// let error = explored.expect_err("the scenario never ends");
/// let failure = error.failure().expect("a seed has failed");
/// assert_eq!((failure.seed, &failure.cause), (3, &Cause::Deadlock));
/// assert!(failure.elapsed >= Duration::from_secs(1));
/// assert_eq!(failure.tasks[0].kind, "the scenario");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeedFailure {
    /// The seed.
    pub seed: u64,
    /// The virtual time since the world was created.
    pub elapsed: Duration,
    /// The number of polls.
    pub polls: u64,
    /// The cause.
    pub cause: Cause,
    /// The tasks that have not completed, oldest first, each with the event that it waits for.
    pub tasks: Vec<TaskRecord>,
    /// The last lines of the history, each with its virtual time. [`Explore::history`](crate::Explore::history) sets
    /// the maximum number.
    pub history: Vec<(Duration, String)>,
    /// The number of earlier lines of the history.
    pub earlier: u64,
    /// How to run this seed alone.
    pub again: String,
}

/// The cause of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The scenario, or a task that it spawned, panicked.
    Panic {
        /// The task: `the scenario`, or its number and name.
        task: String,
        /// The message of the panic.
        message: String,
    },
    /// The scenario returned an error.
    Error {
        /// The error and its sources.
        message: String,
    },
    /// A child of an observed pool panicked, and [`fail_on_child_panic`](crate::Explore::fail_on_child_panic) is set.
    ChildPanic {
        /// The report of the pool.
        report: String,
    },
    /// The scenario has not ended, no task is ready, and no timer is pending.
    Deadlock,
    /// The scenario has not ended within the [limit](crate::Explore::polls) of polls.
    TooManyPolls {
        /// The most polled tasks of the last 200 polls, with the number of polls, in descending order.
        busiest: Vec<(String, usize)>,
    },
    /// The seed was [run twice](crate::Explore::each_twice), and the second run differs.
    NotRepeatable {
        /// The first line of the history that differs, in the first run.
        first: String,
        /// The same line in the second run.
        second: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Panic { task, message } => write!(f, "{task} panicked: {message}"),
            Cause::Error { message } => write!(f, "the scenario returned an error: {message}"),
            Cause::ChildPanic { report } => write!(f, "a child panicked: {report}"),
            Cause::Deadlock => f.write_str(
                "nothing can go on: the scenario has not ended, no task is ready, and no timer is set",
            ),
            Cause::TooManyPolls { busiest } => {
                f.write_str("the scenario has not ended within the limit of polls; polled most at the end: ")?;
                let busiest: Vec<_> = busiest
                    .iter()
                    .take(3)
                    .map(|(task, count)| format!("{task}, {count} times"))
                    .collect();
                f.write_str(&busiest.join("; "))
            }
            Cause::NotRepeatable { first, second } => write!(
                f,
                "a second run of the same seed differs, so something other than the seed makes choices: the order of a HashMap, \
                 the clock of the machine, a thread, or state left by an earlier seed\n  first run:  {first}\n  second run: {second}"
            ),
        }
    }
}

impl fmt::Display for SeedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} failed after {:?} of virtual time, in poll {}: {}",
            self.seed, self.elapsed, self.polls, self.cause
        )?;
        writeln!(f, "\ntasks that are not done:")?;
        for task in &self.tasks {
            writeln!(f, "  {task}")?;
        }
        if self.tasks.is_empty() {
            writeln!(f, "  none")?;
        }
        writeln!(f, "\nhistory, the latest last:")?;
        match (self.earlier, self.history.is_empty()) {
            (0, false) => {}
            (0, true) => writeln!(f, "  nothing")?,
            (earlier, false) => writeln!(f, "  ({earlier} earlier)")?,
            (earlier, true) => writeln!(f, "  ({earlier} lines, none of which is shown)")?,
        }
        for (at, line) in &self.history {
            writeln!(f, "  {:>12}  {line}", format!("{at:?}"))?;
        }
        write!(f, "\nto run this seed alone: {}", self.again)
    }
}

impl Error for SeedFailure {}
