//! The soak: for minutes, on real sockets, everything that can be done to a pool from outside; in the end the sums add up.
//!
//! One pool after the other is started on a runtime. Clients connect, talk,
//! stall, reset, and make `serve` fail; children are killed and stopped by id,
//! listeners come, go and fail, specs are changed, descriptors run out; then
//! the pool is stopped in one of the ways that there are. What is seen from all
//! sides (`ledger`, `account`) must agree, and nothing may be left: no state, no
//! descriptor, and no more memory than in the beginning.
//!
//! Everything is on the loopback, with ports that are free, and bounded in time.

mod account;
mod arguments;
mod client;
mod course;
mod crowd;
mod exhaustion;
mod guests;
mod interrupt;
mod ledger;
mod life;
mod meddling;
mod memory;
mod plan;
mod process;
mod scene;
mod server;
mod shown;
mod sums;
mod table;
mod totals;
mod way;

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

pub use self::arguments::run;
pub use self::course::Course;
use self::course::{Gauges, Soaked, Task, Wrong};
use self::life::Until;
use self::memory::{Grown, Kib, Memory};
use self::table::a_second;
use conformance_cli::worlds;
use conformance_console::Status;
use conformance_console::caught;
use conformance_console::grouped;
use conformance_tests::Broken;
use conformance_tests::Patience;
use conformance_tests::Real;
use conformance_tests::reference::Reference;

/// A way to run for each runtime that is compiled in.
pub fn courses() -> Vec<Course> {
    vec![
        Course::new("tokio", "tokio, two threads", || {
            Real::new(worlds::tokio::Tokio::multi_thread())
        }),
        Course::new("async-std", "async-std", || {
            Real::new(worlds::async_std::AsyncStd)
        }),
        Course::new("smol", "smol, global", || {
            Real::new(worlds::smol::Smol::global())
        }),
        Course::new("reference", "reference", || Real::new(Reference)),
    ]
}

/// How it is told how far a soak has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// A line each time.
    InLines,
    /// In one line of a terminal, over and over.
    InPlace,
}

impl Telling {
    fn tell(self, progress: &mut dyn Write, line: &str) -> io::Result<()> {
        match self {
            Telling::InLines => writeln!(progress, "{line}"),
            Telling::InPlace => {
                write!(progress, "\r\x1b[K{line}")?;
                progress.flush()
            }
        }
    }

    /// What is told next has a line of its own.
    fn ends(self, progress: &mut dyn Write) -> io::Result<()> {
        match self {
            Telling::InLines => Ok(()),
            Telling::InPlace => write!(progress, "\r\x1b[K"),
        }
    }
}

/// A soak of some runtimes.
#[must_use = "nothing is soaked until `run` is called"]
pub struct Soak {
    courses: Vec<Course>,
    time: Duration,
    connections: u64,
    seed: u64,
    patience: Patience,
    over: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Soak")
            .field("courses", &self.courses)
            .field("time", &self.time)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// How often it is told how far it has come, and looked at the memory.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl Soak {
    /// A soak of ten minutes, with chance of its own.
    pub fn new(courses: Vec<Course>) -> Self {
        Self {
            courses,
            time: Duration::from_secs(10 * 60),
            connections: u64::MAX,
            seed: fastrand::u64(..),
            patience: Patience::default(),
            over: Arc::new(|| false),
        }
    }

    /// How long it takes, in which all runtimes have an equal share.
    pub fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Ends each runtime after so many connections, if that is earlier.
    pub fn connections(mut self, connections: u64) -> Self {
        self.connections = connections;
        self
    }

    /// Draws what is left to chance with this seed. What comes of it still depends on who is quicker.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long an event is waited for before it is given up.
    pub fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Ends it early once this says so, which is asked between two pools.
    pub fn over(mut self, over: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.over = Arc::new(over);
        self
    }

    /// Soaks the runtimes, one after the other. The result goes to `out`, how far it has come to `progress`.
    ///
    /// It counts the descriptors and the memory of the whole process, and takes all descriptors now
    /// and then: nothing else should go on in it.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn run(
        &self,
        out: &mut dyn Write,
        progress: &mut dyn Write,
        telling: Telling,
    ) -> io::Result<Status> {
        let end = Instant::now() + self.time;
        writeln!(progress, "seed {}", self.seed)?;
        let mut status = Status::Success;
        for (place, course) in self.courses.iter().enumerate() {
            if (self.over)() {
                status = Status::Broken;
                not_soaked(out, course)?;
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(self.courses.len() - place).unwrap_or(u32::MAX);
            let (soaked, memory) = self.soak(course, share, progress, telling)?;
            let grown = memory.grown(soaked.took);
            let mut wrong = soaked.wrong;
            wrong.extend(grown.too_much().map(|broken| Wrong {
                place: "at the end".to_owned(),
                broken,
            }));
            let soaked = Soaked { wrong, ..soaked };
            if !soaked.wrong.is_empty() {
                status = Status::Broken;
            } else if soaked.totals.pools() == 0 {
                // It was over before its first pool was: there is no sum that could add up.
                status = Status::Broken;
                not_soaked(out, course)?;
                continue;
            }
            tell(out, course, self.seed, &soaked, &grown)?;
        }
        out.flush()?;
        Ok(status)
    }

    fn soak(
        &self,
        course: &Course,
        share: Duration,
        progress: &mut dyn Write,
        telling: Telling,
    ) -> io::Result<(Soaked, Memory)> {
        let task = Task {
            seed: self.seed,
            patience: self.patience,
            until: Until {
                time: Instant::now() + share,
                connections: self.connections,
            },
            over: Arc::clone(&self.over),
            abandoned: AtomicBool::new(false),
            gauges: Gauges::default(),
        };
        let mut memory = Memory::default();
        let (tell, told) = mpsc::channel::<()>();
        let soaked = thread::scope(|scope| {
            let soaking = scope.spawn(|| {
                let soaked = caught(|| course.soak(&task));
                drop(tell);
                soaked
            });
            while told.recv_timeout(TELL_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                let line = look_on(course, &task, &mut memory);
                if let Err(error) = telling.tell(progress, &line) {
                    // Nobody reads of it any more: it need not go on.
                    task.abandoned.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            // However short it was.
            look_on(course, &task, &mut memory);
            let soaked = soaking.join().expect("a panic is caught in its thread");
            Ok(soaked.unwrap_or_else(panicked))
        })?;
        telling.ends(progress)?;
        Ok((soaked, memory))
    }
}

/// What there is to tell of a soak that did not come to its end.
fn panicked(panic: String) -> Soaked {
    let wrong = Wrong {
        place: "in the soak itself".to_owned(),
        broken: Broken::new("the soak comes to an end", panic),
    };
    Soaked {
        wrong: vec![wrong],
        ..Soaked::default()
    }
}

/// How far it has come, in a line. Takes a sample of the memory.
fn look_on(course: &Course, task: &Task, memory: &mut Memory) -> String {
    let title = course.title;
    let Some(began) = task.gauges.began.get() else {
        return format!("{title}: begins");
    };
    let (at, resident) = (began.elapsed(), process::resident());
    let left = task.until.time.saturating_duration_since(Instant::now());
    let connections = task.gauges.connections.load(Ordering::Relaxed);
    let pools = task.gauges.pools.load(Ordering::Relaxed);
    let mut line = format!(
        "{title}: {} s, {} s left, {} connections, {} a second, {pools} pools",
        at.as_secs(),
        left.as_secs(),
        grouped(connections),
        a_second(connections, at.as_secs_f64()),
    );
    if let Some(resident) = resident {
        memory.note(at, resident);
        line.push_str(&format!(", {} resident", Kib(resident)));
    }
    line
}

fn not_soaked(out: &mut dyn Write, course: &Course) -> io::Result<()> {
    writeln!(out, "\n{}: not soaked", course.title)
}

fn tell(
    out: &mut dyn Write,
    course: &Course,
    seed: u64,
    soaked: &Soaked,
    grown: &Grown,
) -> io::Result<()> {
    let verdict = match soaked.wrong.len() {
        0 => "the sums add up".to_owned(),
        1 => "1 sum does NOT add up".to_owned(),
        count => format!("{count} sums do NOT add up"),
    };
    table::write(out, course.title, soaked, grown, &verdict)?;
    for Wrong { place, broken } in &soaked.wrong {
        writeln!(out, "\n{place}:\n{broken}")?;
    }
    if !soaked.wrong.is_empty() {
        let runtime = course.runtime;
        writeln!(
            out,
            "\nthe same draws again: soak --runtime {runtime} --seed {seed}"
        )?;
    }
    Ok(())
}
