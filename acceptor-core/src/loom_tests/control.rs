//! The commands to a child against the child that reads them, and its poll count against the driver's look.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use super::Interruptions::{Any, AtMost};
use super::{block_on, block_on_with_new_wakers, check, spawn};
use crate::child::control::{Commands, Control, Left, Seats, Signals};
use crate::latch::Latch;
use crate::machine::child_end::Role;
use crate::machine::command::{CloseReason, Command, EndWaiting};
use crate::machine::slots::Bank;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// Stores its waker, then reads its commands, as a child's task does.
async fn commanded(control: &Control, sees: impl Fn(Commands) -> bool) {
    poll_fn(|cx| {
        control.register(cx.waker());
        if sees(control.commands()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// How a command reaches a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the one child.
    Single,
    /// To all children of its listener: raised by the call, followed by the driver's walk.
    Level,
}

/// This many children of one listener.
fn children<const COUNT: usize>() -> (Arc<Signals>, [Arc<Control>; COUNT]) {
    let signals = Signals::new();
    let mut seats = <Arc<Seats> as Bank>::new(&signals);
    let mut number = 0;
    let children = [(); COUNT].map(|()| {
        seats.occupy(number, u64::from(number) + 1);
        number += 1;
        Arc::new(seats.control(number - 1, u64::from(number)))
    });
    (signals, children)
}

fn child() -> (Arc<Signals>, Arc<Control>) {
    let (signals, [child]) = children();
    (signals, child)
}

impl Control {
    fn send(&self, command: Command) {
        self.store(command);
        self.notify();
    }

    fn trap(&self) -> Latch {
        let this = self.of_connection();
        this.control.trap_stop(this.key)
    }

    fn take_guard(&self) -> Option<Latch> {
        let this = self.of_connection();
        this.control.take_guard(this.key)
    }

    fn give_guard(&self, panicked: Option<String>) {
        let this = self.of_connection();
        this.control.give_guard(this.key, panicked);
    }
}

fn command(signals: &Signals, control: &Control, command: Command, way: Way) {
    match way {
        Way::Single => control.send(command),
        Way::Level => {
            signals.level.raise(command);
            control.notify();
        }
    }
}

fn check_command(sent: Command, way: Way, sees: fn(Commands) -> bool) {
    check(Any, move || {
        let (signals, control) = child();
        let sender = Arc::clone(&control);
        spawn(move || command(&signals, &sender, sent, way));
        block_on(commanded(&control, sees));
    });
}

#[test]
fn kill_reaches_child_about_to_wait() {
    check_command(Command::Kill, Way::Single, Commands::kill);
    check_command(Command::Kill, Way::Level, Commands::kill);
}

#[test]
fn stop_reaches_child_about_to_wait() {
    let stops = |commands: Commands| commands.stop(Role::Connection);
    check_command(Command::StopAlone, Way::Single, stops);
    check_command(Command::Stop, Way::Level, stops);
}

#[test]
fn close_reaches_acceptor_about_to_wait() {
    check_command(Command::StopAlone, Way::Single, Commands::ends_waiting);
    let close = Command::Close(CloseReason::Closed);
    check_command(close, Way::Level, |commands| {
        commands.end_waiting() == Some(EndWaiting::Closed(CloseReason::Closed))
    });
}

/// The call raises the level; the driver, which is notified later, wakes the children.
#[test]
fn command_to_all_reaches_each_child() {
    check(Any, || {
        let (signals, children) = children::<2>();
        let walked = children.clone();
        spawn(move || {
            signals.level.raise(Command::Kill);
            walked.iter().for_each(|child| child.notify());
        });
        let [first, second] = children;
        spawn(move || block_on(commanded(&first, Commands::kill)));
        block_on(commanded(&second, Commands::kill));
    });
}

#[test]
fn child_is_woken_by_latest_waker() {
    for way in [Way::Single, Way::Level] {
        check(Any, move || {
            let (signals, control) = child();
            let sender = Arc::clone(&control);
            spawn(move || {
                command(&signals, &sender, Command::StopAlone, Way::Single);
                command(&signals, &sender, Command::Kill, way);
            });
            block_on_with_new_wakers(commanded(&control, Commands::kill));
        });
    }
}

#[test]
fn concurrent_commands_both_arrive() {
    for (way, stop) in [
        (Way::Single, Command::StopAlone),
        (Way::Level, Command::Stop),
    ] {
        check(AtMost(3), move || {
            let (signals, control) = child();
            for sent in [Command::Kill, stop] {
                let (signals, control) = (Arc::clone(&signals), Arc::clone(&control));
                spawn(move || command(&signals, &control, sent, way));
            }
            block_on(commanded(&control, |commands| {
                commands.kill() && commands.stop(Role::Connection)
            }));
        });
    }
}

#[test]
fn concurrent_trap_gets_the_stop_signal() {
    for (sent, way) in [
        (Command::StopAlone, Way::Single),
        (Command::Stop, Way::Level),
    ] {
        check(Any, move || {
            let (signals, control) = child();
            let sender = Arc::clone(&control);
            spawn(move || command(&signals, &sender, sent, way));
            let stop = control.trap();
            assert!(!control.commands().stop(Role::Connection));
            block_on(stop.wait());
        });
    }
}

struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn command_at_end_leaks_no_task() {
    for way in [Way::Single, Way::Level] {
        check(Any, move || {
            let (signals, control) = child();
            let task = Arc::new(Task);
            control.register(&Waker::from(Arc::clone(&task)));
            let sender = Arc::clone(&control);
            let sending = spawn(move || command(&signals, &sender, Command::Kill, way));
            control.unregister();
            sending.join();
            assert_eq!(Arc::strong_count(&task), 1);
        });
    }
}

/// Two threads poll a child in turn, as on a runtime.
#[test]
fn observed_polls_are_counted() {
    check(Any, || {
        let (_, control) = child();
        let steps = Arc::new(Mutex::new(0));
        let (polled, progress) = (Arc::clone(&control), Arc::clone(&steps));
        let poll = move |first: u32| {
            polled.count_poll();
            *lock(&progress) = first;
            polled.count_poll();
            *lock(&progress) = first + 1;
        };
        let next = poll.clone();
        spawn(move || {
            poll(1);
            spawn(move || next(3));
        });
        let mut last = 0;
        for _ in 0..2 {
            let step = *lock(&steps);
            let mark = control.mark();
            assert!(mark >= step, "{mark} at step {step}");
            assert!(mark >= last, "{mark} after {last}");
            last = mark;
        }
    });
}

/// The last guard is released as `serve` returns: the later of the two ends the connection, once (E6).
#[test]
fn serve_and_last_guard_end_once() {
    check(Any, || {
        let (_, control) = child();
        assert!(control.take_guard().is_some());
        let ends = Arc::new(AtomicU64::new(0));
        let guarded = Arc::clone(&control);
        let gives = spawn(move || guarded.give_guard(Some("panicked".to_owned())));
        let counts = Arc::clone(&ends);
        let end = move |panicked: Option<String>| {
            assert_eq!(panicked.as_deref(), Some("panicked"));
            counts.fetch_add(1, Ordering::SeqCst);
        };
        match control.leave() {
            Left::Over(panicked) => end(panicked),
            Left::Guarded => {
                if let Err((end, panicked)) = control.keep(Box::new(end)) {
                    end(panicked);
                }
            }
        }
        gives.join();
        assert_eq!(ends.load(Ordering::SeqCst), 1);
        assert!(control.take_guard().is_none(), "the connection has ended");
    });
}

/// A guard taken during the kill of its connection sees the kill, by its return value and by its signal.
#[test]
fn guard_sees_the_kill() {
    check(Any, || {
        let (_, control) = child();
        let killed = Arc::clone(&control);
        let kills = spawn(move || killed.send(Command::Kill));
        let signal = control.take_guard().expect("the connection has not ended");
        kills.join();
        assert!(signal.is_set() && control.commands().kill());
    });
}

/// A lifecycle that was kept traps the stop just as its connection ends, and its seat is reused.
#[test]
fn late_trap_spares_the_next_child() {
    check(Any, || {
        let signals = Signals::new();
        let mut seats = <Arc<Seats> as Bank>::new(&signals);
        seats.occupy(0, 1);
        let (control, late) = (seats.control(0, 1), seats.control(0, 1));
        let traps = spawn(move || {
            late.trap();
            late.notify();
        });
        assert!(matches!(control.leave(), Left::Over(None)));
        seats.occupy(0, 2);
        let next = seats.control(0, 2);
        next.send(Command::StopAlone);
        assert!(
            next.commands().stop(Role::Connection),
            "the next child has not trapped the stop"
        );
        traps.join();
        assert!(
            next.commands().stop(Role::Connection),
            "the next child has not trapped the stop"
        );
    });
}
