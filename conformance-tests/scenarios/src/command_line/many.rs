//! Many seeds on several threads.
//!
//! Invariants: a seed is played by one thread from beginning to end; a failure
//! is told only when all seeds before it were played, so that it is the same
//! one however many threads there are. A seed that never ends is a failure,
//! too, and its thread is waited for no more.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::progress::{Progress, Teller};
use super::totals::Totals;
use crate::{Failure, Played};

/// Seeds that are to be played, one after the other, by `play`, which does not panic.
pub(super) struct Many<F> {
    pub(super) first: u64,
    /// As many as there are from the first on at the most.
    pub(super) seeds: u64,
    pub(super) jobs: NonZeroUsize,
    /// A seed that takes longer never ends.
    pub(super) bound: Duration,
    pub(super) play: F,
}

/// What came of the seeds.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All of them hold.
    Hold(Totals),
    /// The first that does not.
    Fails(u64, Box<Failure>),
    /// The first that does not, for it never ends.
    Hangs(u64),
}

/// The time between two looks at how far they are.
const GLANCE: Duration = Duration::from_millis(100);

/// What the threads share; seeds are counted from 0 here.
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    /// The lowest that failed so far.
    failed: AtomicU64,
    /// What each thread plays, and since when.
    under_way: Vec<Mutex<Option<(u64, Instant)>>>,
}

/// What a thread has to say at its end.
#[derive(Default)]
struct Share {
    totals: Totals,
    failure: Option<(u64, Box<Failure>)>,
}

impl<F: Fn(u64) -> Result<Played, Box<Failure>> + Send + Sync + 'static> Many<F> {
    /// Plays them, and tells how far it is.
    pub(super) fn play(self, progress: &mut dyn Write, style: Progress) -> io::Result<Outcome> {
        let jobs = self.jobs.get();
        let (first, seeds, bound) = (self.first, self.seeds, self.bound);
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(u64::MAX),
            under_way: (0..jobs).map(|_| Mutex::default()).collect(),
        });
        let (send, receive) = mpsc::channel();
        let many = Arc::new(self);
        for job in 0..jobs {
            let (many, shared, send) = (Arc::clone(&many), Arc::clone(&shared), send.clone());
            thread::Builder::new().spawn(move || many.work(job, &shared, &send))?;
        }
        let mut teller = Teller::new(progress, style, seeds);
        let mut shares = Vec::new();
        let mut hung = Vec::new();
        let mut lowest = None;
        while shares.len() + hung.len() < jobs {
            shares.extend(receive.recv_timeout(GLANCE));
            hung = shared.hung(bound, Instant::now());
            for number in &hung {
                shared.failed.fetch_min(*number, Ordering::Relaxed);
                // Also of one that ends after all: others were not played for it.
                lowest = Some(lowest.map_or(*number, |lowest: u64| lowest.min(*number)));
            }
            let told = teller.tell(shared.done.load(Ordering::Relaxed), Instant::now());
            if told.is_err() {
                // Nobody reads: the threads need not go on.
                shared.next.store(seeds, Ordering::Relaxed);
                told?;
            }
        }
        let mut totals = Totals::default();
        let mut failures = Vec::new();
        for share in shares {
            totals.merge(share.totals);
            failures.extend(share.failure);
        }
        let failure = failures.into_iter().min_by_key(|(number, _)| *number);
        Ok(match (failure, lowest) {
            (Some((number, failure)), lowest) if lowest.is_none_or(|hangs| number <= hangs) => {
                Outcome::Fails(first + number, failure)
            }
            (_, Some(number)) => Outcome::Hangs(first + number),
            (_, None) => Outcome::Hold(totals),
        })
    }

    fn work(&self, job: usize, shared: &Shared, send: &Sender<Share>) {
        let mut share = Share::default();
        loop {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            // Whoever has a lower one than that which failed goes on: it may fail, too.
            if number >= self.seeds || number > shared.failed.load(Ordering::Relaxed) {
                break;
            }
            *lock(&shared.under_way[job]) = Some((number, Instant::now()));
            let played = (self.play)(self.first + number);
            *lock(&shared.under_way[job]) = None;
            match played {
                Ok(played) => share.totals.add(&played),
                Err(failure) => {
                    shared.failed.fetch_min(number, Ordering::Relaxed);
                    share.failure = Some((number, failure));
                    break;
                }
            }
            shared.done.fetch_add(1, Ordering::Relaxed);
        }
        // Whoever counts them is gone only if it gave up.
        let _ = send.send(share);
    }
}

impl Shared {
    /// The seeds that take longer than this.
    fn hung(&self, bound: Duration, now: Instant) -> Vec<u64> {
        let under_way = self.under_way.iter().filter_map(|job| *lock(job));
        let hung = under_way.filter(|(_, began)| now.saturating_duration_since(*began) > bound);
        hung.map(|(number, _)| number).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(seed: u64) -> Box<Failure> {
        Box::new(Failure {
            step: 0,
            at: Duration::ZERO,
            rule: "Q3",
            expected: String::new(),
            seen: seed.to_string(),
        })
    }

    /// Far longer than anything takes that ends.
    const LONG: Duration = Duration::from_secs(600);

    fn threads(jobs: usize) -> NonZeroUsize {
        NonZeroUsize::new(jobs).expect("there is one")
    }

    /// Plays seeds of which some fail.
    #[track_caller]
    fn check(jobs: usize, seeds: u64, failing: &'static [u64], expected: Result<u64, u64>) {
        let many = Many {
            first: 100,
            seeds,
            jobs: threads(jobs),
            bound: LONG,
            play: move |seed| {
                if failing.contains(&seed) {
                    return Err(failure(seed));
                }
                Ok(Played::default())
            },
        };
        let outcome = many.play(&mut io::sink(), Progress::Lines);
        let outcome = match outcome.expect("there is nothing to write") {
            Outcome::Hold(totals) => Ok(totals.seeds()),
            Outcome::Fails(seed, failure) => {
                assert_eq!(failure.seen, seed.to_string());
                Err(seed)
            }
            Outcome::Hangs(seed) => panic!("{seed} ends"),
        };
        assert_eq!(outcome, expected, "{jobs} jobs");
    }

    #[test]
    fn every_seed_is_played_once() {
        for jobs in [1, 2, 5] {
            check(jobs, 1_000, &[99, 1_100], Ok(1_000));
            check(jobs, 0, &[100], Ok(0));
        }
    }

    #[test]
    fn the_lowest_seed_that_fails_is_told_however_many_jobs_there_are() {
        for jobs in [1, 2, 5] {
            check(jobs, 1_000, &[107, 108, 109, 900], Err(107));
            check(jobs, 1_000, &[1_099], Err(1_099));
        }
    }

    #[test]
    fn one_that_takes_longer_than_a_later_one_that_fails_is_still_waited_for() {
        let (tell, told) = mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let many = Many {
            first: 0,
            seeds: 100,
            jobs: threads(2),
            bound: LONG,
            play: move |seed| {
                if seed == 1 {
                    tell.send(()).expect("the other waits");
                } else {
                    let told = told.lock().expect("nobody panics");
                    told.recv().expect("the other tells");
                }
                Err(failure(seed))
            },
        };
        let outcome = many.play(&mut io::sink(), Progress::Lines);
        let outcome = outcome.expect("there is nothing to write");
        assert!(matches!(outcome, Outcome::Fails(0, _)), "{outcome:?}");
    }

    #[test]
    fn a_seed_that_never_ends_is_told_of() {
        for jobs in [1, 2, 5] {
            let (go_on, end) = mpsc::channel::<()>();
            let end = Mutex::new(end);
            let many = Many {
                first: 40,
                seeds: 1,
                jobs: threads(jobs),
                bound: Duration::from_millis(10),
                play: move |_| {
                    // Not before this test has ended.
                    let _ = lock(&end).recv();
                    Ok(Played::default())
                },
            };
            let outcome = many.play(&mut io::sink(), Progress::Lines);
            let outcome = outcome.expect("there is nothing to write");
            assert!(matches!(outcome, Outcome::Hangs(40)), "{outcome:?}");
            drop(go_on);
        }
    }

    #[test]
    fn what_is_older_than_the_bound_hangs() {
        let now = Instant::now();
        let bound = Duration::from_secs(60);
        let shared = Shared {
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(u64::MAX),
            under_way: [None, Some((7, now)), Some((5, now + bound))]
                .map(Mutex::new)
                .into(),
        };
        assert_eq!(shared.hung(bound, now + bound), Vec::<u64>::new());
        let a_little_later = now + bound + Duration::from_nanos(1);
        assert_eq!(shared.hung(bound, a_little_later), [7]);
        assert_eq!(shared.hung(bound, a_little_later + bound), [7, 5]);
    }
}
