//! How a pool commands one child: to close, to stop, to die.
//!
//! A command to all children of a listener is stored once, in its [`Level`]; one to
//! a single child in its [`Control`]. Invariants: a command is stored before the
//! child's waker is looked for, and the child stores its waker before it reads its
//! commands, so that one of the two sees the other; commands are never taken back.

use std::sync::Arc;
use std::task::Waker;

use crate::latch::Latch;
use crate::machine::child_end::Role;
use crate::machine::command::{CloseReason, Command, EndWaiting};
use crate::machine::stuck::Marked;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Mutex, Ordering, TaskWaker, lock};

const KILL: u8 = 1;
const STOP: u8 = 2;
const TRAPPED: u8 = 4;
const CLOSED: u8 = 8;
const FAILED: u8 = 16;
const STOPPED: u8 = 32;
const ASKED: u8 = 64;
/// Not a command by itself: what a child reads whose generation is replaced.
const REPLACED: u8 = 128;

/// How far the oldest generation is shifted in a level.
const GENERATION: u32 = u8::BITS;

/// The bit of a command.
fn bit(command: Command) -> u8 {
    match command {
        Command::Kill => KILL,
        Command::Stop => STOP,
        Command::StopAlone => ASKED,
        // There is one reason for each listener: it closes once.
        Command::Close(CloseReason::Closed) => CLOSED,
        Command::Close(CloseReason::Failed) => FAILED,
        Command::Close(CloseReason::Stopped) => STOPPED,
    }
}

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

    /// Whether a pending `serve` or `terminate` is to be dropped: it was commanded to stop, and will not end by itself.
    pub(crate) fn stop(self, role: Role) -> bool {
        // An acceptor that was asked while it waited does in `terminate` as it was asked.
        let commanded = self.has(STOP) || (role == Role::Connection && self.has(ASKED));
        commanded && !self.has(TRAPPED)
    }

    /// Why an acceptor terminates, if it is to.
    pub(crate) fn end_waiting(self) -> Option<EndWaiting> {
        if self.has(CLOSED) {
            Some(EndWaiting::Closed(CloseReason::Closed))
        } else if self.has(FAILED) {
            Some(EndWaiting::Closed(CloseReason::Failed))
        } else if self.has(STOPPED) || self.has(ASKED) {
            Some(EndWaiting::Closed(CloseReason::Stopped))
        } else if self.has(REPLACED) {
            Some(EndWaiting::Replaced)
        } else {
            None
        }
    }

    /// Whether an acceptor is not to wait any longer.
    pub(crate) fn ends_waiting(self) -> bool {
        self.kill() || self.end_waiting().is_some()
    }
}

/// The commands to all children of one listener: a bit for each, and above them the oldest generation that is not replaced.
#[derive(Debug)]
pub(crate) struct Level(AtomicU64);

impl Level {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Stores a command; the children that have a task are woken later, by the driver.
    pub(crate) fn raise(&self, command: Command) {
        self.0.fetch_or(u64::from(bit(command)), Ordering::SeqCst);
    }

    /// Acceptors of generations before this one are replaced (R1). Called by one thread at a time, for one generation after the other.
    pub(crate) fn replace(&self, oldest: u64) {
        let before = self.0.load(Ordering::SeqCst) >> GENERATION;
        let later = oldest.saturating_sub(before);
        // Added, not stored: another thread may raise a command meanwhile.
        self.0.fetch_add(later << GENERATION, Ordering::SeqCst);
    }

    /// The commands to a child of this generation.
    fn commands_to(&self, generation: u64) -> Commands {
        let level = self.0.load(Ordering::SeqCst);
        let replaced = if generation < level >> GENERATION {
            REPLACED
        } else {
            0
        };
        // The commands are in the lowest byte.
        Commands(level.to_le_bytes()[0] | replaced)
    }

    /// The commands to all children, of whatever generation.
    pub(crate) fn commands(&self) -> Commands {
        self.commands_to(u64::MAX)
    }
}

/// The way to one child.
pub(crate) struct Control {
    level: Arc<Level>,
    /// Of the acceptor that it is a child of: which of the pool's specs it came with.
    generation: u64,
    commands: AtomicU8,
    /// Counts the child's polls and its drop: odd while one is under way (S8). Only the thread that polls writes it.
    polls: AtomicU32,
    wakeups: Mutex<Wakeups>,
}

#[derive(Default)]
struct Wakeups {
    waker: TaskWaker,
    stop: Option<Latch>,
    /// Those of a connection that has taken any.
    guards: Option<Box<Guards>>,
    /// The connection has ended, or is about to: no guard keeps it any longer.
    over: bool,
}

/// The guards of a connection (E6).
struct Guards {
    held: usize,
    /// Is set once the connection is killed.
    killed: Latch,
    /// What the first panic said of what ran under a guard.
    panicked: Option<String>,
    /// Ends the connection, once `serve` has and the last guard is given back.
    end: Option<GuardedEnd>,
}

/// Ends a connection; it is given the panic of what ran under a guard.
pub(crate) type GuardedEnd = Box<dyn FnOnce(Option<String>) + Send>;

/// Whether anything keeps a connection whose `serve` has ended.
pub(crate) enum Left {
    /// Nothing does. With the panic of what ran under a guard, if there was one.
    Over(Option<String>),
    Guarded,
}

impl Control {
    pub(crate) fn new(level: Arc<Level>, generation: u64) -> Self {
        Self {
            level,
            generation,
            commands: AtomicU8::new(0),
            polls: AtomicU32::new(0),
            wakeups: Mutex::new(Wakeups::default()),
        }
    }

    /// A poll, or the drop, of the child begins or ends. Called twice for each, by the one thread that is at it.
    pub(crate) fn count_poll(&self) {
        // A load and a store: no two threads poll one child at a time.
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Release);
    }

    /// Gives this child a command and wakes its task, if it has one.
    pub(crate) fn send(&self, command: Command) {
        self.commands.fetch_or(bit(command), Ordering::SeqCst);
        self.notify();
    }

    /// Wakes the child's task, and sets its stop signal, should it have been commanded to stop.
    pub(crate) fn notify(&self) {
        let commands = self.commands();
        let stops = commands.has(STOP) || commands.has(ASKED);
        let kills = commands.kill();
        let (waker, stop, killed) = {
            let wakeups = lock(&self.wakeups);
            let stop = wakeups.stop.as_ref().filter(|_| stops).cloned();
            let guards = wakeups.guards.as_ref().filter(|_| kills);
            let killed = guards.map(|guards| guards.killed.clone());
            (wakeups.waker.clone(), stop, killed)
        };
        for latch in [stop, killed].into_iter().flatten() {
            latch.set();
        }
        waker.wake();
    }

    pub(crate) fn commands(&self) -> Commands {
        let own = self.commands.load(Ordering::SeqCst);
        Commands(own | self.level.commands_to(self.generation).0)
    }

    /// Stores the waker of the child's task. The child calls it before it reads its commands.
    pub(crate) fn register(&self, waker: &Waker) {
        let _replaced = lock(&self.wakeups).waker.register(waker);
    }

    /// Forgets the waker, so that an ended child keeps no task alive.
    pub(crate) fn unregister(&self) {
        let _waker = lock(&self.wakeups).waker.take();
    }

    /// One guard more, which traps the stop; gives what is set once the connection is killed. `None` if it has ended.
    pub(crate) fn take_guard(&self) -> Option<Latch> {
        let killed = {
            let mut wakeups = lock(&self.wakeups);
            if wakeups.over {
                return None;
            }
            let guards = wakeups.guards.get_or_insert_with(|| {
                Box::new(Guards {
                    held: 0,
                    killed: Latch::new(),
                    panicked: None,
                    end: None,
                })
            });
            guards.held += 1;
            guards.killed.clone()
        };
        self.commands.fetch_or(TRAPPED, Ordering::SeqCst);
        // Looked at after it was stored: a kill that comes later finds it by itself.
        if self.commands().kill() {
            killed.set();
        }
        Some(killed)
    }

    /// One guard less. The last one ends a connection whose `serve` has.
    pub(crate) fn give_guard(&self, panicked: Option<String>) {
        let (end, panicked) = {
            let mut wakeups = lock(&self.wakeups);
            let Some(guards) = &mut wakeups.guards else {
                return;
            };
            guards.held -= 1;
            // The first is the one that counts.
            guards.panicked = guards.panicked.take().or(panicked);
            if guards.held > 0 {
                return;
            }
            let Some(end) = guards.end.take() else {
                return;
            };
            let panicked = guards.panicked.take();
            wakeups.over = true;
            (end, panicked)
        };
        end(panicked);
    }

    /// No task runs the child any longer: forgets the waker, so that it keeps none alive.
    pub(crate) fn leave(&self) -> Left {
        let (_waker, left) = {
            let mut wakeups = lock(&self.wakeups);
            let left = match &mut wakeups.guards {
                Some(guards) if guards.held > 0 => Left::Guarded,
                Some(guards) => Left::Over(guards.panicked.take()),
                None => Left::Over(None),
            };
            wakeups.over = matches!(left, Left::Over(_));
            (wakeups.waker.take(), left)
        };
        left
    }

    /// Keeps the end of a connection for its last guard. Gives it back if that is gone already.
    pub(crate) fn keep(&self, end: GuardedEnd) -> Result<(), (GuardedEnd, Option<String>)> {
        let mut wakeups = lock(&self.wakeups);
        let panicked = match &mut wakeups.guards {
            Some(guards) if guards.held > 0 => {
                guards.end = Some(end);
                return Ok(());
            }
            Some(guards) => guards.panicked.take(),
            None => None,
        };
        wakeups.over = true;
        Err((end, panicked))
    }

    pub(crate) fn trap(&self) -> Latch {
        let signal = lock(&self.wakeups)
            .stop
            .get_or_insert_with(Latch::new)
            .clone();
        self.commands.fetch_or(TRAPPED, Ordering::SeqCst);
        let before = self.commands();
        if before.has(STOP) || before.has(ASKED) {
            signal.set();
        }
        signal
    }
}

impl Marked for Control {
    fn mark(&self) -> u32 {
        self.polls.load(Ordering::Acquire)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::task::Wake;

    use super::*;
    use crate::sync::testing::WakeCounter;

    fn control() -> Control {
        Control::new(Arc::new(Level::new()), 0)
    }

    /// Two children of one listener.
    fn siblings() -> (Arc<Level>, [Control; 2]) {
        let level = Arc::new(Level::new());
        let controls = [0; 2].map(|_| Control::new(Arc::clone(&level), 0));
        (level, controls)
    }

    /// A waker whose `Drop` panics.
    struct PanicsWhenDropped;

    impl Wake for PanicsWhenDropped {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }

    #[test]
    fn panic_in_the_drop_of_a_waker_is_contained() {
        let control = control();
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(PanicsWhenDropped));
            control.register(&waker);
            // Not the last of its owners: that is the control.
            drop(waker);
        }
        control.unregister();
    }

    #[test]
    fn command_wakes_the_waker_that_was_registered_last() {
        let control = control();
        let (first, second) = (WakeCounter::new(), WakeCounter::new());
        control.register(first.waker());
        control.register(second.waker());
        control.send(Command::Kill);
        assert_eq!((first.wakes(), second.wakes()), (0, 1));
        assert!(control.commands().kill());
        control.unregister();
        control.send(Command::Kill);
        assert_eq!(second.wakes(), 1);
    }

    #[test]
    fn command_to_one_child_is_not_one_to_its_sibling() {
        let (_, [one, other]) = siblings();
        one.send(Command::Kill);
        one.send(Command::StopAlone);
        assert!(one.commands().kill());
        assert!(!other.commands().kill() && !other.commands().ends_waiting());
    }

    #[test]
    fn level_is_read_by_each_child_and_wakes_none() {
        let (level, controls) = siblings();
        let counter = WakeCounter::new();
        controls
            .iter()
            .for_each(|control| control.register(counter.waker()));
        level.raise(Command::Kill);
        assert!(controls.iter().all(|control| control.commands().kill()));
        assert!(level.commands().kill());
        assert_eq!(counter.wakes(), 0);
        controls.iter().for_each(Control::notify);
        assert_eq!(counter.wakes(), 2);
    }

    #[test]
    fn level_and_own_commands_add_up() {
        let (level, [one, other]) = siblings();
        one.send(Command::Kill);
        level.raise(Command::Close(CloseReason::Failed));
        for (control, killed) in [(one, true), (other, false)] {
            assert_eq!(control.commands().kill(), killed);
            let reason = control.commands().end_waiting();
            assert_eq!(reason, Some(EndWaiting::Closed(CloseReason::Failed)));
            assert!(!control.commands().stop(Role::Connection));
        }
    }

    /// The reason that an acceptor finds that was asked to stop before its listener closed, if it did.
    #[track_caller]
    fn check_reason(listener: Option<CloseReason>, expected: CloseReason) {
        let (level, [control, _]) = siblings();
        assert_eq!(control.commands().end_waiting(), None);
        assert!(!control.commands().ends_waiting());
        control.send(Command::StopAlone);
        if let Some(reason) = listener {
            level.raise(Command::Close(reason));
        }
        let reason = control.commands().end_waiting();
        assert_eq!(reason, Some(EndWaiting::Closed(expected)));
        assert!(control.commands().ends_waiting());
    }

    /// Whether children of the first three generations are replaced.
    #[track_caller]
    fn check_replaced(level: &Arc<Level>, expected: [bool; 3]) {
        let replaced = [0, 1, 2].map(|generation| {
            let control = Control::new(Arc::clone(level), generation);
            control.commands().end_waiting() == Some(EndWaiting::Replaced)
        });
        assert_eq!(replaced, expected);
        assert_eq!(level.commands().end_waiting(), None);
    }

    #[test]
    fn older_generations_are_replaced() {
        let level = Arc::new(Level::new());
        check_replaced(&level, [false; 3]);
        level.raise(Command::Stop);
        for _ in 0..2 {
            level.replace(1);
            check_replaced(&level, [true, false, false]);
        }
        level.raise(Command::Kill);
        level.replace(3);
        check_replaced(&level, [true; 3]);
        let commands = level.commands();
        assert!(commands.kill() && commands.stop(Role::Connection));
    }

    #[test]
    fn close_goes_before_another_acceptor_as_the_reason_to_end() {
        let level = Arc::new(Level::new());
        let control = Control::new(Arc::clone(&level), 0);
        level.replace(1);
        let reason = |control: &Control| control.commands().end_waiting();
        assert_eq!(reason(&control), Some(EndWaiting::Replaced));
        assert!(control.commands().ends_waiting());
        assert!(!control.commands().stop(Role::Connection));
        level.raise(Command::Close(CloseReason::Stopped));
        let stopped = EndWaiting::Closed(CloseReason::Stopped);
        assert_eq!(reason(&control), Some(stopped));
    }

    #[test]
    fn reason_to_end_is_that_of_the_listener() {
        use CloseReason::{Closed, Failed, Stopped};
        check_reason(None, Stopped);
        check_reason(Some(Closed), Closed);
        check_reason(Some(Failed), Failed);
        check_reason(Some(Stopped), Stopped);
    }

    #[test]
    fn trap_holds_the_stop_off_and_gets_the_signal() {
        let control = control();
        let signal = control.trap();
        control.send(Command::Stop);
        assert!(signal.is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn trap_after_the_stop_gets_the_signal_at_once() {
        let control = control();
        control.send(Command::Stop);
        assert!(control.commands().stop(Role::Connection));
        assert!(control.trap().is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn trap_gets_the_signal_of_a_level() {
        let (level, [before, after]) = siblings();
        let early = before.trap();
        level.raise(Command::Stop);
        assert!(!early.is_set(), "the driver sets it");
        before.notify();
        assert!(early.is_set());
        assert!(after.trap().is_set());
    }

    #[test]
    fn kill_and_close_set_no_stop_signal() {
        for command in [Command::Kill, Command::Close(CloseReason::Stopped)] {
            let (level, [control, _]) = siblings();
            let stop = control.trap();
            control.send(command);
            level.raise(command);
            control.notify();
            assert!(!stop.is_set(), "{command:?}");
            assert!(!control.trap().is_set(), "{command:?}");
        }
    }

    #[test]
    fn child_that_is_asked_to_stop_ends_by_its_role() {
        let control = control();
        control.send(Command::StopAlone);
        assert!(control.commands().ends_waiting());
        assert!(!control.commands().stop(Role::Acceptor));
        assert!(control.commands().stop(Role::Connection));
        assert!(control.trap().is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn second_trap_gets_the_same_signal() {
        let control = control();
        let (first, second) = (control.trap(), control.trap());
        control.send(Command::Stop);
        assert!(first.is_set() && second.is_set());
    }

    #[test]
    fn mark_is_odd_inside_a_poll() {
        let control = control();
        for poll in 0..3 {
            assert_eq!(control.mark(), 2 * poll);
            control.count_poll();
            assert_eq!(control.mark(), 2 * poll + 1);
            control.count_poll();
        }
    }
}
