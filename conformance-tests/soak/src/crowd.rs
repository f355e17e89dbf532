//! The clients that come and go, all of them on a few threads.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::client::{Caller, Client};
use super::scene::Scene;
use super::way::Way;
use conformance_console::caught;
use conformance_tests::Broken;

/// How many threads there are: enough to keep the processors of a small machine busy.
const THREADS: usize = 3;

/// How many clients of one thread pause at a time.
const PAUSING: usize = 16;

/// How long a thread waits when there is nobody to connect to, or nothing to connect with.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Clients that come and go until they are sent away.
pub(super) struct Crowd {
    scene: Arc<Scene>,
    /// Each tells of its panic, if it had one.
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Crowd {
    /// Lets clients come.
    ///
    /// # Errors
    ///
    /// If the system has no threads to give.
    pub(super) fn comes(scene: &Arc<Scene>) -> io::Result<Self> {
        let mut crowd = Self {
            scene: Arc::clone(scene),
            threads: Vec::new(),
        };
        for _ in 0..THREADS {
            let (scene, random) = (Arc::clone(scene), scene.random());
            let thread = thread::Builder::new().name("soak clients".into());
            let thread = thread.spawn(move || caught(|| come_and_go(&scene, random)))?;
            crowd.threads.push(thread);
        }
        Ok(crowd)
    }

    /// Sends them away; returns when all have gone.
    pub(super) fn leaves(&mut self) -> Result<(), Broken> {
        self.scene.sends_clients_away();
        let threads = std::mem::take(&mut self.threads);
        // All of them, whatever became of the first.
        let joined = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.expect("a panic is caught in its thread")
        });
        let panics: Vec<_> = joined.filter_map(Result::err).collect();
        match panics.first() {
            Some(panic) => Err(Broken::new("clients do not panic", panic)),
            None => Ok(()),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.leaves();
    }
}

fn come_and_go(scene: &Arc<Scene>, mut random: Rng) {
    let mut pausing: Vec<(Instant, Client)> = Vec::with_capacity(PAUSING);
    while !scene.clients_are_to_leave() {
        let now = Instant::now();
        while let Some(place) = pausing.iter().position(|(until, _)| *until <= now) {
            pausing.swap_remove(place).1.goes_on();
        }
        if pausing.len() == PAUSING {
            // Until the time of one of them.
            thread::sleep(A_MOMENT);
            continue;
        }
        let place = scene.place(&mut random);
        let caller = Caller::new(&mut random).ok();
        let client = place.zip(caller).and_then(|(place, caller)| {
            let way = Way::any(&mut random);
            caller.connect(scene, place, way)
        });
        let Some(client) = client else {
            // No listener, descriptor or port: there is no signal for the next one.
            thread::sleep(A_MOMENT);
            continue;
        };
        if let Some(client) = client.begins(&mut random) {
            let pause = Duration::from_millis(random.u64(5..200));
            pausing.push((Instant::now() + pause, client));
        }
    }
    // Once something is wrong they need not wait, each for its own, for what may never come.
    for (_, client) in pausing {
        if scene.ledger.verdict().is_ok() {
            client.goes_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use acceptor_core::Restart;

    use super::*;
    use crate::ledger::Fate;
    use conformance_tests::Patience;

    #[test]
    fn a_client_that_panics_is_told_with_its_message() {
        let patience = Patience::default();
        let scene = Scene::new(Fate::Runs, Restart::Temporary, patience, 1, Arc::default());
        let panics = || caught(|| resume_unwind(Box::new("no more room")));
        let threads = vec![thread::spawn(|| Ok(())), thread::spawn(panics)];
        let broken = Crowd { scene, threads }.leaves().expect_err("one panics");
        assert_eq!(broken.seen, "it panicked: no more room");
    }
}
