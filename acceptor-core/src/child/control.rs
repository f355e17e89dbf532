//! Commands of a pool to one child: to close, to stop, to die.
//!
//! A command to all children of a listener is stored once, in its [`Level`]; one to a single child
//! in its seat, which has the same index as its row in the table. Invariants: a command is stored
//! before the child's waker is read, and the child stores its waker before it reads its commands,
//! so that one of the two sees the other; commands are never revoked; a seat belongs to one child
//! from the creation of its row until the row is removed, and no command or waker for that child
//! reaches the next.

use std::sync::{Arc, Weak};
use std::task::Waker;

use crate::connection::{ChildKey, ConnectionControl, ControlOfConnection};
use crate::latch::Latch;
use crate::machine::child_end::Role;
use crate::machine::command::{CloseReason, Command, EndWaiting};
use crate::machine::slots::{Bank, CHUNK, place};
use crate::sync::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, TaskWaker, WakerId,
    lock,
};

const KILL: u8 = 1;
const STOP: u8 = 2;
const TRAPPED: u8 = 4;
const CLOSED: u8 = 8;
const FAILED: u8 = 16;
const STOPPED: u8 = 32;
const ASKED: u8 = 64;
/// Read by a child whose generation is replaced; never stored as a command.
const REPLACED: u8 = 128;

/// The position of the oldest generation in a level.
const GENERATION: u32 = u8::BITS;

/// Returns the bit of a command.
fn bit(command: Command) -> u8 {
    match command {
        Command::Kill => KILL,
        Command::Stop => STOP,
        Command::StopAlone => ASKED,
        // There is one reason for each listener, because it closes once.
        Command::Close(CloseReason::Closed) => CLOSED,
        Command::Close(CloseReason::Failed) => FAILED,
        Command::Close(CloseReason::Stopped) => STOPPED,
    }
}

/// The commands to a child, as the child reads them.
#[derive(Clone, Copy)]
pub(crate) struct Commands(u8);

impl Commands {
    fn has(self, command: u8) -> bool {
        self.0 & command != 0
    }

    pub(crate) fn kill(self) -> bool {
        self.has(KILL)
    }

    /// Returns whether a pending `serve` or `terminate` must be dropped: it was commanded to stop,
    /// and will not end by itself.
    pub(crate) fn stop(self, role: Role) -> bool {
        // An acceptor that was asked to stop while it waited is already doing so in `terminate`.
        let commanded = self.has(STOP) || (role == Role::Connection && self.has(ASKED));
        commanded && !self.has(TRAPPED)
    }

    /// Returns why an acceptor must terminate, if it must.
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

    /// Returns whether an acceptor must stop waiting.
    pub(crate) fn ends_waiting(self) -> bool {
        self.kill() || self.end_waiting().is_some()
    }
}

/// The commands to all children of one listener: one bit for each, and above them the oldest
/// generation that is not replaced.
#[derive(Debug)]
pub(crate) struct Level(AtomicU64);

impl Level {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Stores a command. The driver later wakes the children that have tasks.
    pub(crate) fn raise(&self, command: Command) {
        self.0.fetch_or(u64::from(bit(command)), Ordering::SeqCst);
    }

    /// Replaces the acceptors of generations before this one (R1). To be called by one thread at a
    /// time, with rising generations.
    pub(crate) fn replace(&self, oldest: u64) {
        let before = self.0.load(Ordering::SeqCst) >> GENERATION;
        let later = oldest.saturating_sub(before);
        // Added rather than stored, because another thread may raise a command meanwhile.
        self.0.fetch_add(later << GENERATION, Ordering::SeqCst);
    }

    /// Returns whether acceptors of this generation are replaced.
    #[inline]
    pub(crate) fn replaces(&self, generation: u64) -> bool {
        generation < self.0.load(Ordering::SeqCst) >> GENERATION
    }

    /// Returns the commands to a child of this generation.
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

    /// Returns the commands to all children of any generation.
    pub(crate) fn commands(&self) -> Commands {
        self.commands_to(u64::MAX)
    }
}

/// The signals of one listener to all of its children.
pub(crate) struct Signals {
    pub(crate) level: Level,
    pub(crate) draining: Latch,
    /// The number of children numbered so far.
    numbers: AtomicU64,
    /// Whether acceptors are held until one has its state (B4). Changed under the lock of the table.
    outage: AtomicBool,
    owner: Mutex<Option<Weak<dyn SlotOwner>>>,
}

/// A listener, whose connections have slots of its limits.
pub(crate) trait SlotOwner: Send + Sync {
    /// Gives back the slot of one connection (C7).
    fn release_slot(&self, number: u64, slot: u32);
}

impl Signals {
    pub(crate) fn set_owner(&self, owner: Weak<dyn SlotOwner>) {
        *lock(&self.owner) = Some(owner);
    }

    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            level: Level::new(),
            draining: Latch::new(),
            numbers: AtomicU64::new(0),
            outage: AtomicBool::new(false),
            owner: Mutex::new(None),
        })
    }

    /// Returns a number for a child, higher than all before.
    #[inline]
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    #[inline]
    pub(crate) fn has_outage(&self) -> bool {
        self.outage.load(Ordering::Acquire)
    }
}

/// The seats of the children of one chunk of a table.
pub(crate) struct Seats {
    signals: Arc<Signals>,
    seats: [Seat; CHUNK],
}

/// The state shared by other threads and the child's task without the table's lock.
struct Seat {
    /// The number of the child that has this seat; 0 if none does.
    number: AtomicU64,
    /// Counts the child's polls and its drop: odd while one is under way (S8). Only the thread that polls writes it.
    polls: AtomicU32,
    commands: AtomicU8,
    wakeups: Mutex<Wakeups>,
}

#[derive(Default)]
struct Wakeups {
    waker: TaskWaker,
    /// Rarely used per-connection data.
    extra: Option<Box<Extra>>,
}

#[derive(Default)]
struct Extra {
    stop: Option<Latch>,
    /// Present once a connection has taken any.
    guards: Option<Guards>,
}

/// The guards of a connection (E6).
struct Guards {
    held: usize,
    /// Set once the connection is killed.
    killed: Latch,
    /// The message of the first panic of a future that ran under a guard.
    panicked: Option<String>,
    /// Ends the connection; called once `serve` has returned and the last guard is released.
    end: Option<GuardedEnd>,
}

/// Ends a connection, given the panic of a future that ran under a guard.
pub(crate) type GuardedEnd = Box<dyn FnOnce(Option<String>) + Send>;

/// Whether a guard keeps a connection whose `serve` has ended.
pub(crate) enum Left {
    /// None does. Holds the panic of a future that ran under a guard, if there was one.
    Over(Option<String>),
    Guarded,
}

impl Wakeups {
    fn guards(&mut self) -> Option<&mut Guards> {
        self.extra.as_mut()?.guards.as_mut()
    }
}

impl Seats {
    fn seat(&self, slot: u32) -> &Seat {
        &self.seats[place(slot)]
    }

    /// Returns the commands to a child of this generation.
    fn commands_to(&self, slot: u32, generation: u64) -> Commands {
        let own = self.seat(slot).commands.load(Ordering::SeqCst);
        Commands(own | self.signals.level.commands_to(generation).0)
    }

    fn commands(&self, slot: u32) -> Commands {
        self.commands_to(slot, u64::MAX)
    }

    /// Locks the seat of a child that has not ended.
    fn locked(&self, key: ChildKey) -> Option<(&Seat, MutexGuard<'_, Wakeups>)> {
        let seat = self.seat(key.slot);
        let wakeups = lock(&seat.wakeups);
        let is_there = seat.number.load(Ordering::SeqCst) == key.number;
        is_there.then_some((seat, wakeups))
    }

    fn trap(&self, key: ChildKey) -> Latch {
        let (signal, before) = match self.locked(key) {
            Some((seat, mut wakeups)) => {
                let extra = wakeups.extra.get_or_insert_default();
                let signal = extra.stop.get_or_insert_with(Latch::new).clone();
                seat.commands.fetch_or(TRAPPED, Ordering::SeqCst);
                // Read under the lock, without which the seat may be another's.
                (signal, self.commands(key.slot))
            }
            // It has ended, so nothing else would set it.
            None => {
                let signal = Latch::new();
                signal.set();
                return signal;
            }
        };
        if before.has(STOP) || before.has(ASKED) {
            signal.set();
        }
        signal
    }

    fn guard(&self, key: ChildKey) -> Option<Latch> {
        let (killed, commands) = {
            let (seat, mut wakeups) = self.locked(key)?;
            let extra = wakeups.extra.get_or_insert_default();
            let guards = extra.guards.get_or_insert_with(|| Guards {
                held: 0,
                killed: Latch::new(),
                panicked: None,
                end: None,
            });
            guards.held += 1;
            seat.commands.fetch_or(TRAPPED, Ordering::SeqCst);
            let killed = guards.killed.clone();
            // Read after the guard was stored: a kill that comes later finds it there.
            (killed, self.commands(key.slot))
        };
        if commands.kill() {
            killed.set();
        }
        Some(killed)
    }

    fn release_guard(&self, key: ChildKey, panicked: Option<String>) {
        let (end, panicked, _extra) = {
            let Some((seat, mut wakeups)) = self.locked(key) else {
                return;
            };
            let Some(guards) = wakeups.guards() else {
                return;
            };
            guards.held -= 1;
            // The first panic counts.
            guards.panicked = guards.panicked.take().or(panicked);
            if guards.held > 0 {
                return;
            }
            let Some(end) = guards.end.take() else {
                return;
            };
            let panicked = guards.panicked.take();
            seat.number.store(0, Ordering::SeqCst);
            (end, panicked, wakeups.extra.take())
        };
        end(panicked);
    }
}

impl Bank for Arc<Seats> {
    type Signals = Arc<Signals>;
    type Control = Control;

    fn new(signals: &Arc<Signals>) -> Self {
        Arc::new(Seats {
            signals: Arc::clone(signals),
            seats: std::array::from_fn(|_| Seat {
                number: AtomicU64::new(0),
                polls: AtomicU32::new(0),
                commands: AtomicU8::new(0),
                wakeups: Mutex::new(Wakeups::default()),
            }),
        })
    }

    fn next_number(signals: &Arc<Signals>) -> u64 {
        signals.next_number()
    }

    fn set_outage(signals: &Arc<Signals>, holds: bool) {
        signals.outage.store(holds, Ordering::Release);
    }

    /// The previous child has left and taken its waker along. Only its number of polls and its
    /// commands remain, which nothing reads.
    fn occupy(&mut self, slot: u32, number: u64) {
        let seat = self.seat(slot);
        seat.polls.store(0, Ordering::Relaxed);
        seat.commands.store(0, Ordering::Relaxed);
        seat.number.store(number, Ordering::SeqCst);
    }

    fn control(&self, slot: u32, number: u64) -> Control {
        Control {
            seats: Arc::clone(self),
            key: ChildKey { slot, number },
        }
    }

    fn mark(&self, slot: u32) -> u32 {
        self.seat(slot).polls.load(Ordering::Acquire)
    }
}

/// A handle to one child.
///
/// The child's task has one, and so does every sender of commands. It may outlive the child: each
/// method that uses the seat, which may be another child's by then, is either for the child's own
/// task or checks that the child is still there.
#[derive(Clone)]
pub(crate) struct Control {
    seats: Arc<Seats>,
    key: ChildKey,
}

impl Control {
    pub(crate) fn key(&self) -> ChildKey {
        self.key
    }

    /// Returns the handle for the connection itself.
    pub(crate) fn of_connection(&self) -> ControlOfConnection {
        ControlOfConnection {
            control: Arc::<Seats>::clone(&self.seats),
            key: self.key,
        }
    }

    fn seat(&self) -> &Seat {
        self.seats.seat(self.key.slot)
    }

    /// Counts the begin or the end of a poll, or of the drop, of the child. Called twice for each,
    /// by the thread that polls or drops.
    pub(crate) fn count_poll(&self) {
        let polls = &self.seat().polls;
        // A load and a store suffice: no two threads poll one child at a time.
        let before = polls.load(Ordering::Relaxed);
        polls.store(before.wrapping_add(1), Ordering::Release);
    }

    #[cfg(test)]
    pub(crate) fn mark(&self) -> u32 {
        self.seats.mark(self.key.slot)
    }

    /// Stores a command; [`notify`](Self::notify) must follow. The child must have its row, and the
    /// table must be locked.
    pub(crate) fn store(&self, command: Command) {
        self.seat()
            .commands
            .fetch_or(bit(command), Ordering::SeqCst);
    }

    /// Wakes the child's task, and sets its stop signal if it was commanded to stop.
    pub(crate) fn notify(&self) {
        let (waker, stop, killed) = {
            let Some((_, mut wakeups)) = self.seats.locked(self.key) else {
                return;
            };
            let commands = self.commands();
            let stops = commands.has(STOP) || commands.has(ASKED);
            let kills = commands.kill();
            let extra = wakeups.extra.as_ref();
            let stop = extra.and_then(|extra| extra.stop.as_ref().filter(|_| stops).cloned());
            let guards = wakeups.guards().filter(|_| kills);
            let killed = guards.map(|guards| guards.killed.clone());
            (wakeups.waker.clone(), stop, killed)
        };
        for latch in [stop, killed].into_iter().flatten() {
            latch.set();
        }
        waker.wake();
    }

    /// Returns the commands to the child, except a replacement.
    pub(crate) fn commands(&self) -> Commands {
        self.seats.commands(self.key.slot)
    }

    /// Returns the commands to an acceptor of this generation.
    pub(crate) fn commands_to(&self, generation: u64) -> Commands {
        self.seats.commands_to(self.key.slot, generation)
    }

    /// Stores the waker of the child's task, and returns which one is stored then. The child calls
    /// it before it reads its commands.
    pub(crate) fn register(&self, waker: &Waker) -> Option<WakerId> {
        let (id, _replaced) = {
            let kept = &mut lock(&self.seat().wakeups).waker;
            let replaced = kept.register(waker);
            (kept.id(), replaced)
        };
        id
    }

    /// Removes the waker, so that an ended child keeps no task alive.
    pub(crate) fn unregister(&self) {
        let _waker = lock(&self.seat().wakeups).waker.take();
    }

    /// Records that no task runs the child any longer, and removes the waker, so that it keeps none
    /// alive.
    #[inline]
    pub(crate) fn leave(&self) -> Left {
        let seat = self.seat();
        let mut wakeups = lock(&seat.wakeups);
        if wakeups.extra.is_none() {
            seat.number.store(0, Ordering::SeqCst);
            let _waker = wakeups.waker.take();
            drop(wakeups);
            return Left::Over(None);
        }
        drop(wakeups);
        self.leave_with_extra()
    }

    #[cold]
    fn leave_with_extra(&self) -> Left {
        let (_waker, _extra, left) = {
            let seat = self.seat();
            let mut wakeups = lock(&seat.wakeups);
            let left = match wakeups.guards() {
                Some(guards) if guards.held > 0 => Left::Guarded,
                Some(guards) => Left::Over(guards.panicked.take()),
                None => Left::Over(None),
            };
            let extra = match left {
                Left::Over(_) => {
                    seat.number.store(0, Ordering::SeqCst);
                    wakeups.extra.take()
                }
                Left::Guarded => None,
            };
            (wakeups.waker.take(), extra, left)
        };
        left
    }

    /// Stores the end of a connection for its last guard. Returns it if that is already gone.
    pub(crate) fn keep(&self, end: GuardedEnd) -> Result<(), (GuardedEnd, Option<String>)> {
        let (panicked, _extra) = {
            let seat = self.seat();
            let mut wakeups = lock(&seat.wakeups);
            let panicked = match wakeups.guards() {
                Some(guards) if guards.held > 0 => {
                    guards.end = Some(end);
                    return Ok(());
                }
                Some(guards) => guards.panicked.take(),
                None => None,
            };
            seat.number.store(0, Ordering::SeqCst);
            (panicked, wakeups.extra.take())
        };
        Err((end, panicked))
    }
}

impl ConnectionControl for Seats {
    fn draining(&self) -> &Latch {
        &self.signals.draining
    }

    fn trap_stop(&self, key: ChildKey) -> Latch {
        self.trap(key)
    }

    fn take_guard(&self, key: ChildKey) -> Option<Latch> {
        self.guard(key)
    }

    fn give_guard(&self, key: ChildKey, panicked: Option<String>) {
        self.release_guard(key, panicked);
    }

    fn release_slot(&self, key: ChildKey) {
        let owner = lock(&self.signals.owner).clone();
        if let Some(owner) = owner.and_then(|owner| owner.upgrade()) {
            owner.release_slot(key.number, key.slot);
        }
    }

    fn is_killed(&self, key: ChildKey) -> bool {
        match self.locked(key) {
            Some(_) => self.commands(key.slot).kill(),
            None => true,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::task::Wake;

    use super::*;
    use crate::sync::testing::WakeCounter;

    fn control() -> Control {
        let (_, [control, _]) = siblings();
        control
    }

    /// Two children of one listener.
    fn siblings() -> (Arc<Signals>, [Control; 2]) {
        let signals = Signals::new();
        let mut seats = <Arc<Seats> as Bank>::new(&signals);
        let controls = [0, 1].map(|slot| {
            seats.occupy(slot, u64::from(slot) + 1);
            seats.control(slot, u64::from(slot) + 1)
        });
        (signals, controls)
    }

    impl Control {
        fn send(&self, command: Command) {
            self.store(command);
            self.notify();
        }

        fn trap(&self) -> Latch {
            self.seats.trap(self.key)
        }
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
    fn panic_in_waker_drop_is_contained() {
        let control = control();
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(PanicsWhenDropped));
            control.register(&waker);
            // This is not the last owner, which is the control.
            drop(waker);
        }
        control.unregister();
    }

    #[test]
    fn command_wakes_the_latest_waker() {
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
    fn command_does_not_reach_siblings() {
        let (_, [one, other]) = siblings();
        one.send(Command::Kill);
        one.send(Command::StopAlone);
        assert!(one.commands().kill());
        assert!(!other.commands().kill() && !other.commands().ends_waiting());
    }

    #[test]
    fn level_is_read_without_a_wake() {
        let (signals, controls) = siblings();
        let counter = WakeCounter::new();
        controls.iter().for_each(|control| {
            control.register(counter.waker());
        });
        signals.level.raise(Command::Kill);
        assert!(controls.iter().all(|control| control.commands().kill()));
        assert!(signals.level.commands().kill());
        assert_eq!(counter.wakes(), 0);
        controls.iter().for_each(Control::notify);
        assert_eq!(counter.wakes(), 2);
    }

    #[test]
    fn level_and_own_commands_combine() {
        let (signals, [one, other]) = siblings();
        one.send(Command::Kill);
        signals.level.raise(Command::Close(CloseReason::Failed));
        for (control, killed) in [(one, true), (other, false)] {
            assert_eq!(control.commands().kill(), killed);
            let reason = control.commands().end_waiting();
            assert_eq!(reason, Some(EndWaiting::Closed(CloseReason::Failed)));
            assert!(!control.commands().stop(Role::Connection));
        }
    }

    /// Checks the reason seen by an acceptor that was stopped before its listener closed, if it closed.
    #[track_caller]
    fn check_reason(listener: Option<CloseReason>, expected: CloseReason) {
        let (signals, [control, _]) = siblings();
        assert_eq!(control.commands().end_waiting(), None);
        assert!(!control.commands().ends_waiting());
        control.send(Command::StopAlone);
        if let Some(reason) = listener {
            signals.level.raise(Command::Close(reason));
        }
        let reason = control.commands().end_waiting();
        assert_eq!(reason, Some(EndWaiting::Closed(expected)));
        assert!(control.commands().ends_waiting());
    }

    /// Checks whether children of the first three generations are replaced.
    #[track_caller]
    fn check_replaced(signals: &Signals, control: &Control, expected: [bool; 3]) {
        let replaced = [0, 1, 2].map(|generation| {
            control.commands_to(generation).end_waiting() == Some(EndWaiting::Replaced)
        });
        assert_eq!(replaced, expected);
        assert_eq!(signals.level.commands().end_waiting(), None);
    }

    #[test]
    fn older_generations_are_replaced() {
        let (signals, [control, _]) = siblings();
        check_replaced(&signals, &control, [false; 3]);
        signals.level.raise(Command::Stop);
        for _ in 0..2 {
            signals.level.replace(1);
            check_replaced(&signals, &control, [true, false, false]);
        }
        signals.level.raise(Command::Kill);
        signals.level.replace(3);
        check_replaced(&signals, &control, [true; 3]);
        let commands = signals.level.commands();
        assert!(commands.kill() && commands.stop(Role::Connection));
    }

    #[test]
    fn close_outranks_replacement_as_reason() {
        let (signals, [control, _]) = siblings();
        signals.level.replace(1);
        let reason = |control: &Control| control.commands_to(0).end_waiting();
        assert_eq!(reason(&control), Some(EndWaiting::Replaced));
        assert!(control.commands_to(0).ends_waiting());
        assert!(!control.commands().stop(Role::Connection));
        signals.level.raise(Command::Close(CloseReason::Stopped));
        let stopped = EndWaiting::Closed(CloseReason::Stopped);
        assert_eq!(reason(&control), Some(stopped));
    }

    #[test]
    fn terminate_reason_is_the_listeners() {
        use CloseReason::{Closed, Failed, Stopped};
        check_reason(None, Stopped);
        check_reason(Some(Closed), Closed);
        check_reason(Some(Failed), Failed);
        check_reason(Some(Stopped), Stopped);
    }

    #[test]
    fn trap_defers_stop_and_gets_signal() {
        let control = control();
        let signal = control.trap();
        control.send(Command::Stop);
        assert!(signal.is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn trap_after_stop_is_signalled_at_once() {
        let control = control();
        control.send(Command::Stop);
        assert!(control.commands().stop(Role::Connection));
        assert!(control.trap().is_set());
        assert!(!control.commands().stop(Role::Connection));
    }

    #[test]
    fn trap_gets_the_signal_of_a_level() {
        let (signals, [before, after]) = siblings();
        let early = before.trap();
        signals.level.raise(Command::Stop);
        assert!(!early.is_set(), "the driver sets it");
        before.notify();
        assert!(early.is_set());
        assert!(after.trap().is_set());
    }

    #[test]
    fn kill_and_close_set_no_stop_signal() {
        for command in [Command::Kill, Command::Close(CloseReason::Stopped)] {
            let (signals, [control, _]) = siblings();
            let stop = control.trap();
            control.send(command);
            signals.level.raise(command);
            control.notify();
            assert!(!stop.is_set(), "{command:?}");
            assert!(!control.trap().is_set(), "{command:?}");
        }
    }

    #[test]
    fn stopped_child_ends_by_its_role() {
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

    /// Handles kept of an ended child do not affect the child that now has its seat.
    #[test]
    fn seat_passes_to_the_next_child() {
        let (signals, [first, _]) = siblings();
        let counter = WakeCounter::new();
        let guard = first.seats.guard(first.key);
        assert!(guard.is_some());
        first.register(counter.waker());
        first.send(Command::StopAlone);
        assert!(matches!(first.leave(), Left::Guarded));
        first.seats.release_guard(first.key, None);
        assert!(matches!(first.leave(), Left::Over(None)));
        let mut seats = Arc::clone(&first.seats);
        for number in [None, Some(3)] {
            let second = number.map(|number| {
                seats.occupy(0, number);
                let second = seats.control(0, number);
                second.register(counter.waker());
                second
            });
            assert!(first.seats.guard(first.key).is_none());
            assert!(first.seats.is_killed(first.key));
            assert!(first.trap().is_set());
            let wakes = counter.wakes();
            first.notify();
            assert_eq!(counter.wakes(), wakes);
            if let Some(second) = second {
                assert_eq!(second.mark(), 0);
                assert!(!second.commands().kill() && !second.commands().ends_waiting());
                signals.level.raise(Command::Stop);
                assert!(
                    second.commands().stop(Role::Connection),
                    "it is not trapped"
                );
            }
        }
    }

    #[test]
    fn seat_is_small() {
        assert!(size_of::<Seat>() <= 48, "{}", size_of::<Seat>());
    }

    /// Checks the end of a child whose last guard is released before, or after, its end is stored.
    #[track_caller]
    fn check_keep(released_first: bool) {
        let control = control();
        let release = || {
            let panicked = Some("out of luck".to_owned());
            control.seats.release_guard(control.key, panicked);
        };
        assert!(control.seats.guard(control.key).is_some());
        assert!(matches!(control.leave(), Left::Guarded));
        let ended = Arc::new(Mutex::new(None));
        let at_end = Arc::clone(&ended);
        let end: GuardedEnd = Box::new(move |panicked| *lock(&at_end) = panicked);
        if released_first {
            release();
        }
        let kept = control.keep(end);
        assert_eq!(kept.is_err(), released_first);
        assert!(lock(&ended).is_none());
        match kept {
            Ok(()) => release(),
            Err((end, panicked)) => end(panicked),
        }
        assert_eq!(lock(&ended).as_deref(), Some("out of luck"));
        assert!(control.seats.guard(control.key).is_none());
    }

    #[test]
    fn last_guard_or_task_ends_the_child() {
        check_keep(false);
        check_keep(true);
    }
}
