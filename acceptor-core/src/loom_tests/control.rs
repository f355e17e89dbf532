//! The kill switch: what is told to a child, against the child that looks.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use super::{Interruptions::Any, block_on, block_on_with_new_wakers, check, spawn};
use crate::child::control::{Commands, Control};
use crate::machine::child_end::Role;
use crate::machine::command::{CloseReason, Command};

/// As a child's task does: stores its waker, then looks.
async fn told(control: &Control, what: impl Fn(Commands) -> bool) {
    poll_fn(|cx| {
        control.register(cx.waker());
        if what(control.commands()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn check_command(command: Command, seen: fn(Commands) -> bool) {
    check(Any, move || {
        let control = Arc::new(Control::default());
        let teller = Arc::clone(&control);
        spawn(move || teller.tell(command));
        block_on(told(&control, seen));
    });
}

#[test]
fn a_kill_reaches_a_child_that_is_about_to_wait() {
    check_command(Command::Kill, Commands::kill);
}

#[test]
fn a_stop_reaches_a_child_that_is_about_to_wait() {
    check_command(Command::Stop, |commands| commands.stop(Role::Connection));
    check_command(Command::StopAlone, Commands::end_waiting);
}

#[test]
fn a_close_reaches_a_child_that_is_about_to_wait() {
    check_command(Command::Close(CloseReason::Closed), |commands| {
        commands.ending() == Some(CloseReason::Closed)
    });
}

#[test]
fn a_child_is_woken_through_the_waker_that_it_was_last_polled_with() {
    check(Any, || {
        let control = Arc::new(Control::default());
        let teller = Arc::clone(&control);
        spawn(move || {
            teller.tell(Command::Close(CloseReason::Stopped));
            teller.tell(Command::Kill);
        });
        block_on_with_new_wakers(told(&control, Commands::kill));
    });
}

#[test]
fn two_who_tell_at_once_are_both_heard() {
    check(Any, || {
        let control = Arc::new(Control::default());
        let (killer, closer) = (Arc::clone(&control), Arc::clone(&control));
        spawn(move || killer.tell(Command::Kill));
        spawn(move || closer.tell(Command::Close(CloseReason::Closed)));
        block_on(told(&control, |commands| {
            commands.kill() && commands.ending() == Some(CloseReason::Closed)
        }));
    });
}

#[test]
fn a_stop_is_signalled_to_who_traps_it_at_that_moment() {
    for command in [Command::Stop, Command::StopAlone] {
        check(Any, move || {
            let control = Arc::new(Control::default());
            let teller = Arc::clone(&control);
            spawn(move || teller.tell(command));
            let stop = control.trap();
            assert!(!control.commands().stop(Role::Connection));
            block_on(stop.wait());
        });
    }
}

#[test]
fn the_reason_to_end_that_was_seen_once_stays_the_reason() {
    check(Any, || {
        let control = Arc::new(Control::default());
        let (closer, failer) = (Arc::clone(&control), Arc::clone(&control));
        let closing = spawn(move || closer.tell(Command::Close(CloseReason::Closed)));
        let failing = spawn(move || failer.tell(Command::Close(CloseReason::Failed)));
        let seen = control.commands().ending();
        closing.join();
        failing.join();
        let at_last = control.commands().ending();
        assert!(at_last.is_some());
        assert!(seen.is_none() || seen == at_last);
    });
}

struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn an_ended_child_keeps_no_task_alive_though_it_is_told_something_as_it_ends() {
    check(Any, || {
        let control = Arc::new(Control::default());
        let task = Arc::new(Task);
        control.register(&Waker::from(Arc::clone(&task)));
        let teller = Arc::clone(&control);
        let telling = spawn(move || teller.tell(Command::Kill));
        control.unregister();
        telling.join();
        assert_eq!(Arc::strong_count(&task), 1);
    });
}
