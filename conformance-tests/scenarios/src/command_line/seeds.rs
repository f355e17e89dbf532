//! Runs many seeds on several threads.
//!
//! Invariants: one thread runs a seed from beginning to end. A failure is returned only after all seeds before it have run, so
//! that the result does not depend on the number of threads. A seed that hangs is a failure, and its thread is not awaited.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::timed::lock;
use crate::{Failure, RunSummary};

/// Seeds to run one after the other with `run`, which does not panic.
pub(super) struct Seeds<F> {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) jobs: usize,
    /// A seed that takes longer hangs.
    pub(super) limit: Duration,
    pub(super) run: F,
}

/// The outcome of all seeds.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All hold.
    Hold(RunSummary),
    /// The first seed that fails.
    Fails(u64, Box<Failure>),
    /// The first seed that fails, because it hangs.
    Hangs(u64),
}

/// The time between two checks of the progress, and between two lines that print it.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The state that the threads share; seeds are numbered from 0 here.
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    /// The lowest seed that failed so far.
    failed: AtomicU64,
    /// The seed that each thread runs, and when it began.
    running: Vec<Mutex<Option<(u64, Instant)>>>,
}

/// The result of a thread.
#[derive(Default)]
struct Share {
    summary: RunSummary,
    failure: Option<(u64, Box<Failure>)>,
}

impl<F: Fn(u64) -> Result<RunSummary, Box<Failure>> + Send + Sync + 'static> Seeds<F> {
    /// Runs them, and writes the progress.
    pub(super) fn run(self, progress: &mut dyn Write) -> io::Result<Outcome> {
        let (jobs, first, count, limit) = (self.jobs, self.first, self.count, self.limit);
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(u64::MAX),
            running: (0..jobs).map(|_| Mutex::default()).collect(),
        });
        let (send, receive) = mpsc::channel();
        let seeds = Arc::new(self);
        for job in 0..jobs {
            let (seeds, shared, send) = (Arc::clone(&seeds), Arc::clone(&shared), send.clone());
            thread::Builder::new().spawn(move || seeds.work(job, &shared, &send))?;
        }
        let (began, mut lines) = (Instant::now(), 1);
        let (mut shares, mut hung, mut lowest) = (Vec::new(), Vec::new(), None);
        while shares.len() + hung.len() < jobs {
            shares.extend(receive.recv_timeout(CHECK_INTERVAL));
            hung = shared.hung(limit, Instant::now());
            for number in &hung {
                shared.failed.fetch_min(*number, Ordering::Relaxed);
                // This also counts if the seed ends later: other seeds were not run because of it.
                lowest = Some(lowest.map_or(*number, |lowest: u64| lowest.min(*number)));
            }
            let (done, elapsed) = (shared.done.load(Ordering::Relaxed), began.elapsed());
            if done > 0 && elapsed >= LINE_INTERVAL * lines {
                lines += 1;
                let written = writeln!(progress, "{}", progress_line(done, count, elapsed));
                if written.is_err() {
                    // Nothing reads the progress: the threads stop.
                    shared.next.store(count, Ordering::Relaxed);
                    written?;
                }
            }
        }
        let mut summary = RunSummary::default();
        let mut failures = Vec::new();
        for share in shares {
            summary.add(&share.summary);
            failures.extend(share.failure);
        }
        let failure = failures.into_iter().min_by_key(|(number, _)| *number);
        Ok(match (failure, lowest) {
            (Some((number, failure)), lowest) if lowest.is_none_or(|hangs| number <= hangs) => {
                Outcome::Fails(first + number, failure)
            }
            (_, Some(number)) => Outcome::Hangs(first + number),
            (_, None) => Outcome::Hold(summary),
        })
    }

    fn work(&self, job: usize, shared: &Shared, send: &Sender<Share>) {
        let mut share = Share::default();
        loop {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            // A thread with a lower seed than the failed one continues, because its seed may fail, too.
            if number >= self.count || number > shared.failed.load(Ordering::Relaxed) {
                break;
            }
            *lock(&shared.running[job]) = Some((number, Instant::now()));
            let result = (self.run)(self.first + number);
            *lock(&shared.running[job]) = None;
            match result {
                Ok(summary) => share.summary.add(&summary),
                Err(failure) => {
                    shared.failed.fetch_min(number, Ordering::Relaxed);
                    share.failure = Some((number, failure));
                    break;
                }
            }
            shared.done.fetch_add(1, Ordering::Relaxed);
        }
        // The receiver is gone only if the progress could not be written.
        let _ = send.send(share);
    }
}

impl Shared {
    /// The seeds that take longer than this limit.
    fn hung(&self, limit: Duration, now: Instant) -> Vec<u64> {
        let running = self.running.iter().filter_map(|job| *lock(job));
        let hung = running.filter(|(_, began)| now.saturating_duration_since(*began) > limit);
        hung.map(|(number, _)| number).collect()
    }
}

fn progress_line(done: u64, count: u64, elapsed: Duration) -> String {
    let speed = done as f64 / elapsed.as_secs_f64();
    let left = (count - done) as f64 / speed;
    format!("{done} of {count} seeds, {speed:.0} per second, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result = std::result::Result<RunSummary, Box<Failure>>;

    fn fails(seed: u64) -> Result {
        Err(Box::new(Failure {
            step: 0,
            at: Duration::ZERO,
            rule: "Q3",
            expected: String::new(),
            seen: seed.to_string(),
        }))
    }

    fn holds() -> Result {
        Ok(RunSummary {
            scenarios: 1,
            ..RunSummary::default()
        })
    }

    /// Runs `count` seeds from seed 100 on; a seed hangs after 600 s, which is longer than any test.
    fn outcome(
        jobs: usize,
        count: u64,
        limit: Duration,
        run: impl Fn(u64) -> Result + Send + Sync + 'static,
    ) -> Outcome {
        let seeds = Seeds {
            first: 100,
            count,
            jobs,
            limit,
            run,
        };
        seeds.run(&mut io::sink()).expect("a sink takes everything")
    }

    const NEVER: Duration = Duration::from_secs(600);

    #[test]
    fn lowest_failing_seed_is_returned() {
        for jobs in [1, 2, 5] {
            for (count, failing, expected) in [
                (1_000, &[99, 1_100][..], Ok(1_000)),
                (0, &[100], Ok(0)),
                (1_000, &[107, 108, 109, 900], Err(107)),
                (1_000, &[1_099], Err(1_099)),
            ] {
                let run = move |seed| match failing.contains(&seed) {
                    true => fails(seed),
                    false => holds(),
                };
                let seen = match outcome(jobs, count, NEVER, run) {
                    Outcome::Hold(summary) => Ok(summary.scenarios),
                    Outcome::Fails(seed, failure) if failure.seen == seed.to_string() => Err(seed),
                    other => panic!("{other:?}"),
                };
                assert_eq!(seen, expected, "{jobs} jobs");
            }
        }
    }

    #[test]
    fn slow_earlier_seed_is_awaited() {
        let (send, receive) = mpsc::channel();
        let receive = Mutex::new(receive);
        let outcome = outcome(2, 100, NEVER, move |seed| {
            if seed == 101 {
                send.send(()).expect("the other seed waits");
            } else {
                lock(&receive).recv().expect("the other seed sends");
            }
            fails(seed)
        });
        assert!(matches!(outcome, Outcome::Fails(100, _)), "{outcome:?}");
    }

    #[test]
    fn seed_that_hangs_is_returned() {
        for jobs in [1, 2, 5] {
            let (end, wait) = mpsc::channel::<()>();
            let wait = Mutex::new(wait);
            let outcome = outcome(jobs, 1, Duration::from_millis(10), move |_| {
                // Until the end of this test.
                let _ = lock(&wait).recv();
                holds()
            });
            assert!(matches!(outcome, Outcome::Hangs(100)), "{outcome:?}");
            drop(end);
        }
    }

    #[test]
    fn seeds_hang_after_the_limit() {
        let (now, limit) = (Instant::now(), Duration::from_secs(60));
        let running = [None, Some((7, now)), Some((5, now + limit))];
        let shared = Shared {
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(u64::MAX),
            running: running.map(Mutex::new).into(),
        };
        assert_eq!(shared.hung(limit, now + limit), [0; 0]);
        let later = now + limit + Duration::from_nanos(1);
        assert_eq!(shared.hung(limit, later), [7]);
        assert_eq!(shared.hung(limit, later + limit), [7, 5]);
    }

    #[test]
    fn progress_has_speed_and_time_left() {
        let line = progress_line(200, 1_000, Duration::from_secs(10));
        assert_eq!(line, "200 of 1000 seeds, 20 per second, 40 s left");
    }
}
