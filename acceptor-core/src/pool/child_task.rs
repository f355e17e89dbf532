//! The task of a child in `serve` or `terminate`: kill switch, panic capture, and a single visible
//! end.
//!
//! The task and the future that it runs are one future, without a box. Invariants: the child's
//! future, and with it the socket, is dropped before its end is visible (E2); the end is reported
//! exactly once, even if the runtime drops the task (E3); no callback's panic leaves this file;
//! once the end is visible the task no longer uses its seat, which may be another child's by then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::child::control::{Control, Left};
use crate::exit::{Exit, ExitKind, IntoExit};
use crate::handshake::HandshakeError;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, Role, WaitTime};
use crate::pool::lane::Member;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, WakerId, catch_panic, lock};

/// The result of the future of a child's task.
pub(crate) enum BodyEnd {
    /// `serve` returned this.
    Served(Exit),
    /// The handshake failed, and `serve` was not called.
    HandshakeFailed(HandshakeError),
    Ended(ChildEnd),
}

pin_project! {
    pub(crate) struct ChildTask<R: Runtime, L: Listener, F> {
        member: Member<R, L>,
        #[pin]
        body: Option<F>,
        seat: SeatState,
    }

    impl<R: Runtime, L: Listener, F> PinnedDrop for ChildTask<R, L, F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.body.is_some() {
                this.member.control.count_poll();
                let end = BodyEnd::Ended(ChildEnd::Lost);
                finish(this.member, this.body.as_mut(), *this.seat, end);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct SeatState {
    /// A connection in `serve`, or an acceptor in `terminate`.
    role: Role,
    wait_time: WaitTime,
    polled: Polled,
    /// The waker that is stored in the seat.
    registered: Option<WakerId>,
}

/// Whether the child was polled: only then can it have trapped the stop, or begun to terminate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Polled {
    No,
    Yes,
}

impl<R: Runtime, L: Listener, F: Future<Output = BodyEnd>> ChildTask<R, L, F> {
    pub(crate) fn serve(member: Member<R, L>, body: F) -> Self {
        Self::new(member, body, Role::Connection, WaitTime::Long)
    }

    pub(crate) fn terminate(member: Member<R, L>, body: F, wait_time: WaitTime) -> Self {
        Self::new(member, body, Role::Acceptor, wait_time)
    }

    fn new(member: Member<R, L>, body: F, role: Role, wait_time: WaitTime) -> Self {
        Self {
            member,
            body: Some(body),
            seat: SeatState {
                role,
                wait_time,
                polled: Polled::No,
                registered: None,
            },
        }
    }
}

/// Drops the contents of the child, then reports its end. A guard may keep the connection (E6): its
/// number of polls then stays odd, because a guard held after the kill is like a poll that does not
/// end (S8).
fn finish<R: Runtime, L: Listener, F>(
    member: &Member<R, L>,
    mut body: Pin<&mut Option<F>>,
    seat: SeatState,
    end: BodyEnd,
) {
    let dropped = catch_panic(|| body.set(None));
    if let (Ok(()), BodyEnd::Served(Exit(ExitKind::Normal))) = (&dropped, &end) {
        // Most ends are of this kind.
        return finish_as(member, ChildEnd::Normal);
    }
    let end = match (dropped, end) {
        (Ok(()), BodyEnd::Served(exit)) => member.shared.child_end(exit),
        (Ok(()), BodyEnd::HandshakeFailed(error)) => {
            let (cause, error) = error.into_parts();
            ChildEnd::HandshakeFailed(cause, error.map(Arc::from))
        }
        (Ok(()), BodyEnd::Ended(end)) => end,
        // The first failure counts.
        (Err(_), BodyEnd::Ended(end @ ChildEnd::Panic(..))) => end,
        (Err(message), end) => {
            // It may be an error whose `Drop` panics as well.
            drop(DropCatching::new(end));
            ChildEnd::Panic(message, seat.wait_time)
        }
    };
    finish_as(member, end);
}

#[inline]
fn finish_as<R: Runtime, L: Listener>(member: &Member<R, L>, end: ChildEnd) {
    match member.control.leave() {
        Left::Over(None) => member.ended(end),
        Left::Over(panicked) => member.ended(with_panic(end, panicked)),
        Left::Guarded => is_guarded(member, end),
    }
}

/// Leaves the end of the connection to its last guard, wherever that is dropped.
fn is_guarded<R: Runtime, L: Listener>(member: &Member<R, L>, end: ChildEnd) {
    let id = member.id();
    // First: once the guards have the end, they may already have ended the connection.
    lock(&member.listener.children).table.guarded(id);
    let (shared, listener) = (Arc::clone(&member.shared), Arc::clone(&member.listener));
    let control = member.control.clone();
    let end = DropCatching::new(end);
    let release = Box::new(move |panicked| {
        let end = with_panic(end.into_inner(), panicked);
        // Its row still exists, so its seat is still its own.
        let killed = control.commands().kill();
        let end = match killed && end.is_success() {
            true => ChildEnd::Killed,
            false => end,
        };
        shared.ended(&listener, id, end);
    });
    if let Err((release, panicked)) = member.control.keep(release) {
        release(panicked);
    }
}

/// Returns the end of a connection, given a panic of a future that ran under its guards: the first
/// failure counts.
fn with_panic(end: ChildEnd, panicked: Option<String>) -> ChildEnd {
    match panicked {
        Some(message) if end.is_success() => {
            drop(DropCatching::new(end));
            ChildEnd::Panic(message, WaitTime::Long)
        }
        _ => end,
    }
}

fn poll_body<F: Future<Output = BodyEnd>>(
    control: &Control,
    body: Pin<&mut Option<F>>,
    seat: &mut SeatState,
    cx: &mut Context<'_>,
) -> Poll<BodyEnd> {
    if let Some(end) = commanded(control, seat) {
        return Poll::Ready(BodyEnd::Ended(end));
    }
    seat.polled = Polled::Yes;
    let Some(body) = body.as_pin_mut() else {
        return Poll::Pending;
    };
    match body.poll(cx) {
        Poll::Ready(end) => Poll::Ready(end),
        Poll::Pending => {
            // A connection that never waits needs no waker, and one that waits nearly always keeps
            // its first. Every later command wakes it.
            if seat.registered == Some(WakerId::of(cx.waker())) {
                return Poll::Pending;
            }
            seat.registered = control.register(cx.waker());
            // Commanded while it was polled: this is its suspension point.
            match commanded(control, seat) {
                Some(end) => Poll::Ready(BodyEnd::Ended(end)),
                None => Poll::Pending,
            }
        }
    }
}

/// Returns the end of a child that was commanded to end, before a poll or while it is pending.
fn commanded(control: &Control, seat: &SeatState) -> Option<ChildEnd> {
    let commands = control.commands();
    if commands.kill() {
        Some(ChildEnd::Killed)
    } else if seat.polled == Polled::Yes && commands.stop(seat.role) {
        Some(ChildEnd::Stopped)
    } else {
        None
    }
}

impl<R: Runtime, L: Listener, F: Future<Output = BodyEnd>> Future for ChildTask<R, L, F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.body.is_none() {
            return Poll::Ready(());
        }
        let control = &this.member.control;
        control.count_poll();
        let seat = &mut *this.seat;
        let end = match catch_panic(|| poll_body(control, this.body.as_mut(), seat, cx)) {
            Ok(Poll::Pending) => {
                control.count_poll();
                return Poll::Pending;
            }
            Ok(Poll::Ready(end)) => end,
            Err(message) => BodyEnd::Ended(ChildEnd::Panic(message, seat.wait_time)),
        };
        // The counted poll ends with the child, or with its last guard.
        finish(this.member, this.body.as_mut(), *this.seat, end);
        Poll::Ready(())
    }
}

pin_project! {
    /// `serve`, as the body of a task.
    pub(crate) struct Serve<F> {
        #[pin]
        serve: F,
    }
}

impl<F> Serve<F> {
    pub(crate) fn new(serve: F) -> Self {
        Self { serve }
    }
}

impl<F: Future<Output: IntoExit>> Future for Serve<F> {
    type Output = BodyEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BodyEnd> {
        let exit = ready!(self.project().serve.poll(cx));
        Poll::Ready(BodyEnd::Served(exit.into_exit()))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::future::pending;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use futures::FutureExt;

    use super::*;
    use crate::acceptor::acceptor_fn;
    use crate::connection::Connection;
    use crate::listener::testing::Nowhere;
    use crate::pool::listener_shared::testing::listener;
    use crate::pool::shared::PoolShared;
    use crate::pool::spec::ErasedSpec;
    use crate::runtime::testing::Tasks;
    use crate::spec::Spec;

    /// Reads a child's poll count when it is dropped, inside the child's own code.
    struct Reads(Control, Arc<Mutex<Vec<u32>>>);

    impl Reads {
        fn read(&self) {
            lock(&self.1).push(self.0.mark());
        }
    }

    impl Drop for Reads {
        fn drop(&mut self) {
            self.read();
        }
    }

    /// Checks the counts read by a child's code, and those read between its polls.
    #[track_caller]
    fn check(polls: usize, inside: &[u32], between: &[u32]) {
        let serve = acceptor_fn(|_: Connection<(), SocketAddr>| async { Ok(()) });
        let spec = ErasedSpec::checked(Spec::new("test", serve)).expect("the spec is allowed");
        let shared = PoolShared::new(Tasks::new(), spec);
        let listener = listener::<Nowhere>(1);
        let control = {
            let table = &mut lock(&listener.children).table;
            let start = table.take_starts(1, shared.time()).remove(0);
            table.begin(start).expect("the child has a row").0
        };
        let marks = Arc::<Mutex<Vec<u32>>>::default();
        let reads = Reads(control.clone(), Arc::clone(&marks));
        let body = async move {
            reads.read();
            pending::<()>().await;
            BodyEnd::Ended(ChildEnd::Normal)
        };
        let member = Member {
            shared,
            listener: Arc::clone(&listener),
            control: control.clone(),
        };
        let mut task = Box::pin(ChildTask::serve(member, body));
        let mut seen = Vec::new();
        for _ in 0..polls {
            assert_eq!((&mut task).now_or_never(), None);
            seen.push(control.mark());
        }
        drop(task);
        assert_eq!(
            (lock(&marks).as_slice(), seen.as_slice()),
            (inside, between)
        );
        assert_eq!(
            lock(&listener.children).table.tally().init,
            0,
            "it has ended"
        );
    }

    /// The count is odd while the child's code runs: this is how a blocking child is found (S8).
    #[test]
    fn child_polls_and_drop_are_counted() {
        check(0, &[1], &[]);
        check(1, &[1, 3], &[2]);
        check(3, &[1, 7], &[2, 4, 6]);
    }
}
