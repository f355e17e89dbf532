//! The task of a child in `serve` or `terminate`: kill switch, panic capture, and an end that is seen once.
//!
//! Invariants: the child's future, and with it the socket, is dropped before
//! its end is visible (E2); the end is reported exactly once, also when the runtime
//! drops the task (E3); nothing that a callback does leaves this file as a panic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use crate::child::control::{Control, Left};
use crate::child::erased::{BodyEnd, ErasedChild};
use crate::id::ChildId;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, Role, WaitTime};
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::PoolShared;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, catch_panic, lock};

pub(crate) struct ChildTask<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    listener: Arc<ListenerShared<R, L>>,
    id: ChildId,
    child: Arc<dyn ErasedChild<L>>,
    body: Option<BoxFuture<'static, BodyEnd>>,
    /// A connection in `serve`, or an acceptor in `terminate`.
    role: Role,
    wait_time: WaitTime,
    polled: Polled,
}

/// Whether the child was polled: only then could it have trapped the stop, or begun to terminate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Polled {
    No,
    Yes,
}

impl<R: Runtime, L: Listener> ChildTask<R, L> {
    pub(crate) fn serve(
        shared: Arc<PoolShared<R, L>>,
        listener: Arc<ListenerShared<R, L>>,
        id: ChildId,
        child: Arc<dyn ErasedChild<L>>,
        body: BoxFuture<'static, BodyEnd>,
    ) -> Self {
        Self {
            shared,
            listener,
            id,
            child,
            body: Some(body),
            role: Role::Connection,
            wait_time: WaitTime::Long,
            polled: Polled::No,
        }
    }

    pub(crate) fn terminate(
        shared: Arc<PoolShared<R, L>>,
        listener: Arc<ListenerShared<R, L>>,
        id: ChildId,
        child: Arc<dyn ErasedChild<L>>,
        body: BoxFuture<'static, BodyEnd>,
        wait_time: WaitTime,
    ) -> Self {
        let mut task = Self::serve(shared, listener, id, child, body);
        (task.role, task.wait_time) = (Role::Acceptor, wait_time);
        task
    }

    /// Drops what the child held, then reports its end. Returns whether it has one: a guard may keep the connection (E6).
    fn finish(&mut self, end: BodyEnd) -> Finish {
        let Some(body) = self.body.take() else {
            return Finish::Ended;
        };
        let end = match (catch_panic(move || drop(body)), end) {
            (Ok(()), BodyEnd::Served(exit)) => self.shared.child_end(exit),
            (Ok(()), BodyEnd::HandshakeFailed(error)) => {
                let (cause, error) = error.into_parts();
                ChildEnd::HandshakeFailed(cause, error.map(Arc::from))
            }
            (Ok(()), BodyEnd::Ended(end)) => end,
            // The first failure is the one that counts.
            (Err(_), BodyEnd::Ended(end @ ChildEnd::Panic(..))) => end,
            (Err(message), end) => {
                // It may be an error whose `Drop` panics, too.
                drop(DropCatching::new(end));
                ChildEnd::Panic(message, self.wait_time)
            }
        };
        match self.child.control().leave() {
            Left::Over(panicked) => {
                let end = with_panic(end, panicked);
                self.shared.ended(&self.listener, self.id, end);
                Finish::Ended
            }
            Left::Guarded => self.is_guarded(end),
        }
    }

    /// The last guard ends the connection, wherever it is dropped.
    fn is_guarded(&self, end: ChildEnd) -> Finish {
        let id = self.id;
        // First: as soon as the guards have the end, they may have ended it.
        lock(&self.listener.children).table.guarded(id);
        let (shared, listener) = (Arc::clone(&self.shared), Arc::clone(&self.listener));
        let child = Arc::clone(&self.child);
        let end = DropCatching::new(end);
        let release = Box::new(move |panicked| {
            let end = with_panic(end.into_inner(), panicked);
            let killed = child.control().commands().kill();
            let end = match killed && end.is_success() {
                true => ChildEnd::Killed,
                false => end,
            };
            shared.ended(&listener, id, end);
        });
        match self.child.control().keep(release) {
            Ok(()) => Finish::Guarded,
            Err((release, panicked)) => {
                release(panicked);
                Finish::Ended
            }
        }
    }
}

/// Whether a child has ended with its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    Ended,
    /// Its polls stay an odd number: a guard that is held after the kill is like a poll that does not end (S8).
    Guarded,
}

/// The end of a connection, if what ran under its guards has panicked: the first failure is the one that counts.
fn with_panic(end: ChildEnd, panicked: Option<String>) -> ChildEnd {
    match panicked {
        Some(message) if end.is_success() => {
            drop(DropCatching::new(end));
            ChildEnd::Panic(message, WaitTime::Long)
        }
        _ => end,
    }
}

fn poll_body(
    control: &Control,
    body: &mut Option<BoxFuture<'static, BodyEnd>>,
    polled: &mut Polled,
    role: Role,
    cx: &mut Context<'_>,
) -> Poll<BodyEnd> {
    control.register(cx.waker());
    if let Some(end) = commanded(control, *polled, role) {
        return Poll::Ready(BodyEnd::Ended(end));
    }
    *polled = Polled::Yes;
    let Some(body) = body else {
        return Poll::Pending;
    };
    match body.as_mut().poll(cx) {
        Poll::Ready(end) => Poll::Ready(end),
        // Commanded while it was polled: this is its suspension point.
        Poll::Pending => match commanded(control, Polled::Yes, role) {
            Some(end) => Poll::Ready(BodyEnd::Ended(end)),
            None => Poll::Pending,
        },
    }
}

/// The end of a child that is about to be polled, or is pending, and was commanded to end.
fn commanded(control: &Control, polled: Polled, role: Role) -> Option<ChildEnd> {
    let commands = control.commands();
    if commands.kill() {
        Some(ChildEnd::Killed)
    } else if polled == Polled::Yes && commands.stop(role) {
        Some(ChildEnd::Stopped)
    } else {
        None
    }
}

impl<R: Runtime, L: Listener> Future for ChildTask<R, L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let control = this.child.control();
        control.count_poll();
        let (body, begun, role) = (&mut this.body, &mut this.polled, this.role);
        let polled = match catch_panic(|| poll_body(control, body, begun, role, cx)) {
            Ok(polled) => polled,
            Err(message) => Poll::Ready(BodyEnd::Ended(ChildEnd::Panic(message, this.wait_time))),
        };
        let finished = polled.map(|end| this.finish(end));
        if finished != Poll::Ready(Finish::Guarded) {
            this.child.control().count_poll();
        }
        finished.map(|_| ())
    }
}

impl<R: Runtime, L: Listener> Drop for ChildTask<R, L> {
    fn drop(&mut self) {
        if self.body.is_some() {
            self.child.control().count_poll();
            if self.finish(BodyEnd::Ended(ChildEnd::Lost)) == Finish::Ended {
                self.child.control().count_poll();
            }
        }
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
    use crate::machine::stuck::Marked;
    use crate::pool::listener_shared::testing::listener;
    use crate::pool::spec::ErasedSpec;
    use crate::runtime::testing::Tasks;
    use crate::spec::Spec;

    type Child = Arc<dyn ErasedChild<Nowhere>>;

    /// Reads the count of a child's polls when it is dropped, by code of the child's.
    struct Reads(Child, Arc<Mutex<Vec<u32>>>);

    impl Reads {
        fn read(&self) {
            lock(&self.1).push(self.0.control().mark());
        }
    }

    impl Drop for Reads {
        fn drop(&mut self) {
            self.read();
        }
    }

    /// The counts that the code of a child reads, and those that are read between its polls.
    #[track_caller]
    fn check(polls: usize, inside: &[u32], between: &[u32]) {
        let serve = acceptor_fn(|_: Connection<(), SocketAddr>| async { Ok(()) });
        let spec = ErasedSpec::checked(Spec::new("test", serve)).expect("it is allowed");
        let shared = PoolShared::new(Tasks::new(), spec);
        let listener = listener(1);
        let start = {
            let children = &mut *lock(&listener.children);
            let mut starts = children.take_starts(&listener.level, 1, shared.time());
            starts.starts.remove(0)
        };
        let child: Child = start.control;
        let marks = Arc::<Mutex<Vec<u32>>>::default();
        let reads = Reads(Arc::clone(&child), Arc::clone(&marks));
        let body = async move {
            reads.read();
            pending::<()>().await;
            BodyEnd::Ended(ChildEnd::Normal)
        };
        let (id, body) = (start.child, Box::pin(body));
        let mut task = ChildTask::serve(shared, listener, id, Arc::clone(&child), body);
        let mut seen = Vec::new();
        for _ in 0..polls {
            assert_eq!((&mut task).now_or_never(), None);
            seen.push(child.control().mark());
        }
        drop(task);
        seen.push(child.control().mark());
        assert_eq!(
            (lock(&marks).as_slice(), seen.as_slice()),
            (inside, between)
        );
    }

    /// The number is odd while the child's code runs: that is how a child that blocks is found (S8).
    #[test]
    fn polls_and_the_drop_of_a_child_are_counted() {
        check(0, &[1], &[2]);
        check(1, &[1, 3], &[2, 4]);
        check(3, &[1, 7], &[2, 4, 6, 8]);
    }
}
