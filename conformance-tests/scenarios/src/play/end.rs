//! How pools and scenarios end: with nothing left.

use std::time::{Duration, Instant};

use acceptor_core::{PoolState, StopReason};

use super::{Player, Seen, Tasks, breach, same};
use crate::Finale;

impl Player<'_> {
    /// Nothing is left of a pool that has stopped, once everybody has let go of it.
    pub(super) fn bury(&mut self) -> Seen {
        self.release_tasks();
        self.clients.clear();
        self.drop_guards()?;
        self.settle()?;
        self.begin(Tasks::Run);
        let life = self.life();
        let result = futures::FutureExt::now_or_never(life.handle.join());
        match result {
            Some(report) => life.model.result_is(&report)?,
            None => return breach("S1", "the result of a pool that has stopped", "none"),
        }
        let mut life = self.life.take().expect("it was there just now");
        self.buried = life.model.ended_ids();
        if life.model.timeless {
            // The thread that keeps the kill timeout in its place may be about to end.
            let patience = Instant::now();
            while life.book.left() != (0, 0) && patience.elapsed() < Duration::from_secs(10) {
                // That thread is not of this world, and gives no signal.
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        // While there are handles yet: a pool that has stopped keeps nothing of the user's for them.
        let (states, acceptors) = life.book.left();
        same("S7", "states that are left", 0, states)?;
        same("S7", "acceptors that are left", 0, acceptors)?;
        life.book.set_handle(None);
        life.owner = None;
        drop(life.handle);
        same(
            "S7",
            "streams that are left",
            0,
            self.network.open_streams(),
        )?;
        same(
            "S7",
            "sockets that are left",
            0,
            self.network.open_listeners(),
        )?;
        let tasks = self.simulation.tasks();
        let tasks: Vec<_> = tasks.iter().map(ToString::to_string).collect();
        same("S7", "tasks that are left", Vec::<String>::new(), tasks)?;
        same(
            "S7",
            "timers that are left",
            0,
            self.simulation.timer_count(),
        )
    }

    pub(super) fn finale(&mut self) -> Seen {
        if self.life.is_none() {
            return Ok(());
        }
        match self.scenario.finale {
            Finale::Stop => self.stop_and_wait()?,
            Finale::DropOwner => {
                self.release_tasks();
                self.drop_guards()?;
                self.drop_owner()?;
                self.settle()?;
            }
            Finale::CloseRuntime => return self.close_runtime(),
        }
        self.look()?;
        let state = self.life().state;
        if state != PoolState::Stopped {
            let tasks = self.simulation.tasks();
            let tasks: Vec<_> = tasks.iter().map(ToString::to_string).collect();
            let seen = format!("it is {state}; {}", tasks.join("; "));
            return breach("S9", "the pool has stopped", seen);
        }
        self.bury()
    }

    fn stop_and_wait(&mut self) -> Seen {
        self.release_tasks();
        self.drop_guards()?;
        self.settle()?;
        self.call(
            |model| model.stops(StopReason::Requested),
            |handle| handle.stop(),
        )?;
        self.wait_for_result()?;
        let spec = self.life().model.spec;
        let longest = spec.lame_duck() + spec.patience();
        self.pass(longest + Duration::from_millis(1))?;
        self.clients.clear();
        self.pass(Duration::from_millis(100))?;
        if self.life().state != PoolState::Stopped {
            self.call(
                |model| model.kills(StopReason::Requested),
                |handle| handle.kill(),
            )?;
            self.settle()?;
            // Of connections that had orders to come.
            self.drop_guards()?;
            self.settle()?;
        }
        Ok(())
    }

    /// The runtime drops all it has: the pool is gone, and everything with it.
    fn close_runtime(&mut self) -> Seen {
        let network = self.network.clone();
        network.dismiss_witness();
        self.simulation.close();
        same(
            "E3",
            "panics that leave a task",
            0,
            self.simulation.panics(),
        )?;
        let life = self.life.take().expect("it was there just now");
        life.book.drop_kept();
        if let Ok(status) = life.handle.status() {
            let expected = "a pool whose runtime is gone has stopped";
            return breach("S9", expected, status.to_string());
        }
        let result = futures::FutureExt::now_or_never(life.handle.join());
        if result.is_none() {
            return breach("S1", "the result of a pool that has stopped", "none");
        }
        let (states, acceptors) = life.book.left();
        same("S9", "states that are left", 0, states)?;
        same("S9", "acceptors that are left", 0, acceptors)?;
        life.book.set_handle(None);
        drop(life.owner);
        drop(life.handle);
        same("S9", "streams that are left", 0, network.open_streams())?;
        same("S9", "sockets that are left", 0, network.open_listeners())?;
        same(
            "S9",
            "timers that are left",
            0,
            self.simulation.timer_count(),
        )
    }
}
