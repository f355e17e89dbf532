//! What a pool can tell one child: to close, to stop, to die.
//!
//! Invariants: a command is stored before the child's waker is looked for, and
//! the child stores its waker before it looks for commands, so that one of the
//! two sees the other; commands are never taken back.

use std::task::Waker;

use crate::machine::child_end::Role;
use crate::machine::command::{CloseReason, Command};
use crate::signal::Signal;
use crate::sync::{AtomicU8, Mutex, Ordering, drop_catching, lock, wake};

const KILL: u8 = 1;
const STOP: u8 = 2;
const TRAPPED: u8 = 4;
const CLOSED: u8 = 8;
const FAILED: u8 = 16;
const STOPPED: u8 = 32;
const ASKED: u8 = 64;

/// The commands that a child has been given, as it reads them.
#[derive(Clone, Copy)]
pub(crate) struct Commands(u8);

impl Commands {
    fn has(self, command: u8) -> bool {
        self.0 & command != 0
    }

    pub(crate) fn kill(self) -> bool {
        self.has(KILL)
    }

    /// Whether what `serve` or `terminate` left pending is to be dropped: it was told to stop, and is not going to by itself.
    pub(crate) fn stop(self, role: Role) -> bool {
        // An acceptor that was asked while it waited does what it was asked for in `terminate`.
        let told = self.has(STOP) || (role == Role::Connection && self.has(ASKED));
        told && !self.has(TRAPPED)
    }

    pub(crate) fn ending(self) -> Option<CloseReason> {
        if self.has(CLOSED) {
            Some(CloseReason::Closed)
        } else if self.has(FAILED) {
            Some(CloseReason::Failed)
        } else if self.has(STOPPED) || self.has(ASKED) {
            Some(CloseReason::Stopped)
        } else {
            None
        }
    }

    /// Whether an acceptor that waits is to wait no more.
    pub(crate) fn end_waiting(self) -> bool {
        self.kill() || self.ending().is_some()
    }
}

/// The switchboard between a pool and one child.
pub(crate) struct Control {
    commands: AtomicU8,
    lines: Mutex<Wakeups>,
}

#[derive(Default)]
struct Wakeups {
    waker: Option<Waker>,
    stop: Option<Signal>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            commands: AtomicU8::new(0),
            lines: Mutex::new(Wakeups::default()),
        }
    }
}

impl Control {
    /// Gives a command and wakes the child's task, if it has one.
    pub(crate) fn tell(&self, command: Command) {
        match command {
            Command::Kill => self.give(KILL),
            Command::Stop => self.give(STOP),
            Command::StopAlone => self.give(ASKED),
            Command::Close(CloseReason::Closed) => self.give_first(CLOSED),
            Command::Close(CloseReason::Failed) => self.give_first(FAILED),
            Command::Close(CloseReason::Stopped) => self.give_first(STOPPED),
        }
        let (waker, stop) = {
            let lines = lock(&self.lines);
            let stop = match command {
                Command::Stop | Command::StopAlone => lines.stop.clone(),
                Command::Close(_) | Command::Kill => None,
            };
            (lines.waker.clone(), stop)
        };
        if let Some(stop) = stop {
            stop.set();
        }
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    fn give(&self, bit: u8) {
        self.commands.fetch_or(bit, Ordering::SeqCst);
    }

    /// The first reason to end stays the reason.
    fn give_first(&self, bit: u8) {
        let _ = self
            .commands
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |commands| {
                Commands(commands)
                    .ending()
                    .is_none()
                    .then_some(commands | bit)
            });
    }

    pub(crate) fn commands(&self) -> Commands {
        Commands(self.commands.load(Ordering::SeqCst))
    }

    /// Stores whom to wake. The child calls it before it reads its commands.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut lines = lock(&self.lines);
        if lines
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            return;
        }
        let replaced = lines.waker.replace(waker.clone());
        drop(lines);
        drop_catching(replaced);
    }

    /// Forgets whom to wake, so that an ended child keeps no task alive.
    pub(crate) fn unregister(&self) {
        let waker = lock(&self.lines).waker.take();
        drop_catching(waker);
    }

    pub(crate) fn trap(&self) -> Signal {
        let signal = lock(&self.lines)
            .stop
            .get_or_insert_with(Signal::new)
            .clone();
        let before = Commands(self.commands.fetch_or(TRAPPED, Ordering::SeqCst));
        if before.has(STOP) || before.has(ASKED) {
            signal.set();
        }
        signal
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;
    use crate::sync::testing::WakeCounter;

    /// A waker whose `Drop` panics.
    struct Bomb;

    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }

    #[test]
    fn a_waker_whose_drop_panics_ends_nobody() {
        let control = Control::default();
        for _ in 0..2 {
            let bomb = Waker::from(Arc::new(Bomb));
            control.register(&bomb);
            // Not the last of it: that one is the switchboard's.
            drop(bomb);
        }
        control.unregister();
    }

    #[test]
    fn a_command_wakes_whoever_registered_last() {
        let control = Control::default();
        let (first, second) = (WakeCounter::new(), WakeCounter::new());
        control.register(first.waker());
        control.register(second.waker());
        control.tell(Command::Kill);
        assert_eq!((first.wakes(), second.wakes()), (0, 1));
        assert!(control.commands().kill());
    }

    #[test]
    fn the_first_reason_to_end_stays() {
        let control = Control::default();
        assert_eq!(control.commands().ending(), None);
        control.tell(Command::Close(CloseReason::Failed));
        control.tell(Command::Close(CloseReason::Closed));
        assert_eq!(control.commands().ending(), Some(CloseReason::Failed));
    }

    #[test]
    fn trapping_holds_the_stop_off_and_gets_the_signal() {
        let control = Control::default();
        let signal = control.trap();
        control.tell(Command::Stop);
        assert!(signal.is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn trapping_late_gets_the_signal_at_once() {
        let control = Control::default();
        control.tell(Command::Stop);
        assert!(control.commands().stop(Role::Connection));
        assert!(control.trap().is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn who_is_asked_to_stop_ends_as_what_it_is_by_then() {
        let control = Control::default();
        control.tell(Command::StopAlone);
        assert!(control.commands().end_waiting());
        assert_eq!(control.commands().ending(), Some(CloseReason::Stopped));
        assert!(!control.commands().stop(Role::Acceptor));
        assert!(control.commands().stop(Role::Connection));
        assert!(control.trap().is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn trapping_again_gives_the_same_signal() {
        let control = Control::default();
        let (first, second) = (control.trap(), control.trap());
        control.tell(Command::Stop);
        assert!(first.is_set() && second.is_set());
    }
}
