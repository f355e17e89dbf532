//! The teardown of pools and of scenarios: nothing is left.

use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{PoolState, StopReason};
use futures::FutureExt;

use super::{Check, Runner, Tasks, same, violation};
use crate::Teardown;

impl Runner<'_> {
    /// Drops a pool that has stopped, and checks that nothing is left of it.
    pub(super) fn check_nothing_left(&mut self) -> Check {
        self.release_tasks();
        self.clients.clear();
        self.drop_guards()?;
        self.settle()?;
        self.begin(Tasks::Run);
        let pool = self.pool();
        match pool.handle.join().now_or_never() {
            Some(report) => pool.model.result_is(&report)?,
            None => return violation("S1", "the result of a pool that has stopped", "none"),
        }
        let mut pool = self
            .pool
            .take()
            .expect("the pool exists: it was used above");
        self.earlier_children = pool.model.ended_ids();
        if pool.model.timeless {
            // A thread keeps the kill timeout instead of the pool's own task. It is not simulated, and may need a while to end.
            let began = Instant::now();
            while pool.history.left() != (0, 0) && began.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_micros(100));
            }
        }
        // Handles are left: a pool that has stopped keeps no value of the user for them.
        let (states, acceptors) = pool.history.left();
        none_left("S7", [("states", states), ("acceptors", acceptors)])?;
        pool.history.set_handle(None);
        pool.owner = None;
        drop(pool.handle);
        let (streams, sockets) = (self.network.open_streams(), self.network.open_listeners());
        none_left("S7", [("streams", streams), ("sockets", sockets)])?;
        same("S7", "tasks that are left", String::new(), self.tasks())?;
        none_left("S7", [("timers", self.simulation.timer_count())])
    }

    fn tasks(&self) -> String {
        let tasks = self.simulation.tasks();
        let tasks: Vec<_> = tasks.iter().map(ToString::to_string).collect();
        tasks.join("; ")
    }

    pub(super) fn teardown(&mut self) -> Check {
        if self.pool.is_none() {
            return Ok(());
        }
        match self.scenario.teardown {
            Teardown::Stop => self.stop_and_wait()?,
            Teardown::DropOwner => {
                self.release_tasks();
                self.drop_guards()?;
                self.drop_owner()?;
                self.settle()?;
            }
            Teardown::CloseRuntime => return self.close_runtime(),
        }
        self.look()?;
        let state = self.pool().state;
        if state != PoolState::Stopped {
            let seen = format!("it is {state}; {}", self.tasks());
            return violation("S9", "the pool has stopped", seen);
        }
        self.check_nothing_left()
    }

    fn stop_and_wait(&mut self) -> Check {
        self.release_tasks();
        self.drop_guards()?;
        self.settle()?;
        self.stop()?;
        let spec = self.pool().model.spec;
        let longest = spec.lame_duck() + spec.kill_timeout();
        self.pass(longest + Duration::from_millis(1))?;
        self.clients.clear();
        self.pass(Duration::from_millis(100))?;
        if self.pool().state != PoolState::Stopped {
            self.call(
                |model| model.kills(StopReason::Requested),
                |handle| handle.kill(),
            )?;
            self.settle()?;
            // The guards of connections that got commands meanwhile.
            self.drop_guards()?;
            self.settle()?;
        }
        Ok(())
    }

    /// The runtime drops everything: nothing is left of the pool.
    fn close_runtime(&mut self) -> Check {
        let network = self.network.clone();
        network.remove_hook();
        self.simulation.close();
        let panics = self.simulation.panics();
        same("E3", "panics that leave a task", 0, panics)?;
        let pool = self
            .pool
            .take()
            .expect("a scenario has a pool until its teardown");
        pool.history.drop_kept();
        if let Ok(status) = pool.handle.status() {
            let expected = "a pool whose runtime is gone has stopped";
            return violation("S9", expected, status.to_string());
        }
        if pool.handle.join().now_or_never().is_none() {
            return violation("S1", "the result of a pool that has stopped", "none");
        }
        let (states, acceptors) = pool.history.left();
        none_left("S9", [("states", states), ("acceptors", acceptors)])?;
        pool.history.set_handle(None);
        drop(pool.owner);
        drop(pool.handle);
        let (streams, sockets) = (network.open_streams(), network.open_listeners());
        let timers = self.simulation.timer_count();
        none_left(
            "S9",
            [
                ("streams", streams),
                ("sockets", sockets),
                ("timers", timers),
            ],
        )
    }
}

fn none_left<const N: usize>(rule: &'static str, counts: [(&str, usize); N]) -> Check {
    for (what, count) in counts {
        same(rule, format_args!("{what} that are left"), 0, count)?;
    }
    Ok(())
}
