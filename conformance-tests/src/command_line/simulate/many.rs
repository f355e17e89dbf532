//! Many seeds on several threads.
//!
//! Invariants: a seed is played by one thread from beginning to end; a failure
//! is told only when all seeds before it were played, so that it is the same
//! one however many threads there are.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::progress::{Progress, Teller};
use super::totals::Totals;
use crate::scenario::{Failure, Played};

/// Seeds that are to be played, one after the other, by `play`.
pub(super) struct Many<F> {
    pub(super) first: u64,
    pub(super) seeds: u64,
    pub(super) jobs: NonZeroUsize,
    pub(super) play: F,
}

/// All of them, or the first seed that fails.
pub(super) type Outcome = Result<Totals, (u64, Box<Failure>)>;

/// The time between two looks at how far they are.
const GLANCE: Duration = Duration::from_millis(100);

/// What the threads share; seeds are counted from 0 here.
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    /// The lowest that failed so far.
    failed: AtomicU64,
}

/// What a thread has to say at its end.
#[derive(Default)]
struct Share {
    totals: Totals,
    failure: Option<(u64, Box<Failure>)>,
}

impl<F: Fn(u64) -> Result<Played, Box<Failure>> + Sync> Many<F> {
    /// Plays them, and tells how far it is.
    pub(super) fn play(&self, progress: &mut dyn Write, style: Progress) -> io::Result<Outcome> {
        let shared = Shared {
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(u64::MAX),
        };
        let mut teller = Teller::new(progress, style, self.seeds);
        let mut shares = Vec::new();
        thread::scope(|scope| -> io::Result<()> {
            let (send, receive) = mpsc::channel();
            for _ in 0..self.jobs.get() {
                let (send, shared) = (send.clone(), &shared);
                scope.spawn(move || self.work(shared, &send));
            }
            drop(send);
            loop {
                match receive.recv_timeout(GLANCE) {
                    Ok(share) => shares.push(share),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                let told = teller.tell(shared.done.load(Ordering::Relaxed), Instant::now());
                if told.is_err() {
                    // Nobody reads: the threads need not go on.
                    shared.next.store(self.seeds, Ordering::Relaxed);
                    return told;
                }
            }
        })?;
        let mut totals = Totals::default();
        let mut failure = None;
        for share in shares {
            totals.merge(share.totals);
            let earlier =
                |(seed, _): &(u64, _)| failure.as_ref().is_none_or(|(least, _)| seed < least);
            if share.failure.as_ref().is_some_and(earlier) {
                failure = share.failure;
            }
        }
        Ok(match failure {
            Some((number, failure)) => Err((self.first.wrapping_add(number), failure)),
            None => Ok(totals),
        })
    }

    fn work(&self, shared: &Shared, send: &Sender<Share>) {
        let mut share = Share::default();
        loop {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            // Whoever has a lower one than that which failed goes on: it may fail, too.
            if number >= self.seeds || number > shared.failed.load(Ordering::Relaxed) {
                break;
            }
            match (self.play)(self.first.wrapping_add(number)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(seed: u64) -> Box<Failure> {
        Box::new(Failure {
            step: 0,
            rule: "Q3",
            expected: String::new(),
            seen: seed.to_string(),
        })
    }

    /// Plays seeds of which some fail.
    #[track_caller]
    fn check(jobs: usize, seeds: u64, failing: &[u64], expected: Result<u64, u64>) {
        let many = Many {
            first: 100,
            seeds,
            jobs: NonZeroUsize::new(jobs).expect("there is one"),
            play: |seed| {
                if failing.contains(&seed) {
                    return Err(failure(seed));
                }
                Ok(Played::default())
            },
        };
        let outcome = many.play(&mut io::sink(), Progress::Lines);
        let outcome = outcome.expect("there is nothing to write");
        let outcome = outcome
            .map(|totals| totals.seeds())
            .map_err(|(seed, failure)| {
                assert_eq!(failure.seen, seed.to_string());
                seed
            });
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
            jobs: NonZeroUsize::new(2).expect("there is one"),
            play: |seed| {
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
        let (seed, _) = outcome
            .expect("there is nothing to write")
            .expect_err("both fail");
        assert_eq!(seed, 0);
    }
}
