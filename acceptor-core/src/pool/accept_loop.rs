//! The task of one listener: accepts for the first in line, for as long as somebody waits.
//!
//! One task calls `accept`, whatever the number of acceptors: no accept call and
//! no wake-up is made in vain (L5), and the acceptors themselves need no task
//! while they wait (B9). Invariants: the socket is open exactly as long as this
//! task holds the gate; nobody accepts unless an acceptor waits; who accepts has
//! somebody to serve what was accepted, without a suspension point in between (L2).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::accept_error::AcceptErrorKind;
use crate::child::erased::InitOutcome;
use crate::connection::{Connection, Signals};
use crate::listener::Listener;
use crate::machine::effects::Became;
use crate::pool::child_task::ChildTask;
use crate::pool::listener_shared::{AcceptBackoff, ListenerShared, LocalAddrSource, SocketGuard};
use crate::pool::shared::{PoolShared, PoolStart};
use crate::pool::wait_queue::{DismissReason, QueueSignal, Waiter};
use crate::report::Event;
use crate::runtime::Runtime;
use crate::sync::{catch_panic, drop_catching, wake};

/// How many turns go by without a suspension before other tasks get theirs (A1).
const TURNS_IN_A_ROW: u32 = 32;

/// Who waits, and for how long.
struct AcceptLoop<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    socket: Arc<ListenerShared<L>>,
    line: VecDeque<Waiter<L>>,
    /// No deadline in the line is before this one.
    earliest: Option<Instant>,
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
    pause: Option<BoxFuture<'static, ()>>,
    pauses: AcceptBackoff,
    turns: u32,
    spawned: Spawned,
}

/// Whether a connection was spawned since this task last let others run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spawned {
    No,
    Yes,
}

/// What came of one call of `accept`.
enum AcceptTurn {
    /// It is over: time for the next one.
    Over,
    Closed,
}

/// An open socket. In this order, also for a task that was never polled: it is closed, the pool is told,
/// then the acceptors are.
struct OpenSocket<R: Runtime, L: Listener> {
    gate: SocketGuard<L>,
    _reports_closed: ReportsClosed<R, L>,
    accept_loop: AcceptLoop<R, L>,
}

struct ReportsClosed<R: Runtime, L: Listener>(Arc<PoolShared<R, L>>);

impl<R: Runtime, L: Listener> Drop for ReportsClosed<R, L> {
    fn drop(&mut self) {
        self.0.socket_closed();
    }
}

pub(crate) fn run<R: Runtime, L: Listener>(
    shared: Arc<PoolShared<R, L>>,
    gate: SocketGuard<L>,
) -> impl Future<Output = ()> + Send {
    // Made here, not in the task: a task that is dropped before its first poll counts as well.
    let accept_loop = AcceptLoop {
        shared,
        socket: gate.socket(),
        line: VecDeque::new(),
        earliest: None,
        timer: None,
        pause: None,
        pauses: AcceptBackoff::new(),
        turns: 0,
        spawned: Spawned::No,
    };
    let open = OpenSocket {
        gate,
        _reports_closed: ReportsClosed(Arc::clone(&accept_loop.shared)),
        accept_loop,
    };
    async move {
        let mut open = open;
        let (gate, accept_loop) = (&open.gate, &mut open.accept_loop);
        loop {
            let called = catch_panic(|| gate.listener().accept());
            let mut accept = pin!(match called {
                Ok(accept) => Some(accept),
                Err(message) => {
                    accept_loop.accept_panicked(&message);
                    break;
                }
            });
            let turn = poll_fn(|cx| accept_loop.poll_turn(cx, accept.as_mut())).await;
            if let Err(message) = catch_panic(|| accept.set(None)) {
                accept_loop.accept_panicked(&message);
                break;
            }
            match turn {
                AcceptTurn::Over => {}
                AcceptTurn::Closed => break,
            }
        }
    }
}

/// There is a call until it is over, and then nobody polls it.
fn poll_accept<T>(
    call: Pin<&mut Option<impl Future<Output = T>>>,
    cx: &mut Context<'_>,
) -> Poll<T> {
    call.as_pin_mut()
        .map_or(Poll::Pending, |call| call.poll(cx))
}

type Accepted<L> = io::Result<(<L as Listener>::Stream, <L as Listener>::Addr)>;

impl<R: Runtime, L: Listener> AcceptLoop<R, L> {
    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        accept: Pin<&mut Option<impl Future<Output = Accepted<L>>>>,
    ) -> Poll<AcceptTurn> {
        self.turns += 1;
        if self.turns > TURNS_IN_A_ROW {
            self.turns = 0;
            if std::mem::replace(&mut self.spawned, Spawned::No) == Spawned::No {
                // Nobody was accepted in all these turns: a time-out comes all the same (B6).
                let _ = self.poll_timer(cx);
            }
            wake(cx.waker().clone());
            return Poll::Pending;
        }
        match self.poll_line(cx, accept) {
            Poll::Pending => {
                self.turns = 0;
                if std::mem::replace(&mut self.spawned, Spawned::No) == Spawned::Yes {
                    // A runtime may run the connection next on this thread without waking another. Should it block,
                    // nobody would read at the sockets: so there is a task for another thread to take (B5). Not
                    // this one, for on most runtimes it would ask the system in vain whether somebody has come.
                    self.shared.notify.wake_task();
                }
                Poll::Pending
            }
            ready => ready,
        }
    }

    fn poll_line(
        &mut self,
        cx: &mut Context<'_>,
        mut accept: Pin<&mut Option<impl Future<Output = Accepted<L>>>>,
    ) -> Poll<AcceptTurn> {
        loop {
            let known = self.line.len();
            let timer = self.timer.as_ref().map(|(at, _)| *at);
            match self.socket.line.collect(&mut self.line, timer, cx.waker()) {
                QueueSignal::None => self.look_at_deadlines(known),
                QueueSignal::Commanded => {
                    self.look_at_deadlines(known);
                    self.dismiss(DismissReason::Commanded, |waiting| {
                        waiting.child.control().commands().end_waiting()
                    });
                    // The line took this task for one that has somebody: whoever joins next would not wake it. And an
                    // end may have stopped the pool: then nobody is accepted any more (S3).
                    continue;
                }
                QueueSignal::Closed => return Poll::Ready(AcceptTurn::Closed),
            }
            // The pause first: it is over at its time, be there nobody to accept for.
            if self.poll_pause(cx).is_ready() && !self.line.is_empty() {
                match catch_panic(|| poll_accept(accept.as_mut(), cx)) {
                    Ok(Poll::Pending) => {}
                    Ok(Poll::Ready(Ok((stream, peer)))) => {
                        self.connect(stream, peer, cx);
                        return Poll::Ready(AcceptTurn::Over);
                    }
                    Ok(Poll::Ready(Err(error))) => {
                        self.accept_failed(error);
                        return Poll::Ready(AcceptTurn::Over);
                    }
                    Err(message) => {
                        self.accept_panicked(&message);
                        return Poll::Ready(AcceptTurn::Over);
                    }
                }
            }
            // After the accept: a connection that is there is taken, be the time-out zero (B6).
            if self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Those after the first `known` have just joined.
    fn look_at_deadlines(&mut self, known: usize) {
        for waiting in self.line.iter().skip(known) {
            if let Some((at, _)) = waiting.deadline {
                self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
            }
        }
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            if pause.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
            self.socket.resume();
        }
        Poll::Ready(())
    }

    /// Ready if the line has changed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(earliest) = self.earliest else {
            return Poll::Pending;
        };
        if self.timer.as_ref().is_none_or(|(at, _)| *at != earliest) {
            self.timer = Some((earliest, self.shared.sleep_until(earliest)));
            // The line has to know: who joins with an earlier deadline wakes this task.
            return Poll::Ready(());
        }
        if let Some((_, sleep)) = &mut self.timer {
            if sleep.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.timer = None;
        let now = self.shared.time().max(earliest);
        self.dismiss(DismissReason::TimedOut, |waiting| {
            waiting.deadline.is_some_and(|(at, _)| at <= now)
        });
        let deadlines = self.line.iter().filter_map(|waiting| waiting.deadline);
        self.earliest = deadlines.map(|(at, _)| at).min();
        Poll::Ready(())
    }

    /// Lets those go who wait no more.
    fn dismiss(&mut self, why: DismissReason, goes: impl Fn(&Waiter<L>) -> bool) {
        let (gone, stay) = std::mem::take(&mut self.line)
            .into_iter()
            .partition::<VecDeque<_>, _>(goes);
        self.line = stay;
        for waiting in gone {
            self.shared.dismiss(&self.socket, waiting, why);
        }
    }

    /// The first in line becomes the connection (B5).
    fn connect(&mut self, stream: L::Stream, peer_addr: L::Addr, cx: &mut Context<'_>) {
        self.pauses.success();
        let local_addr = match self.socket.addresses {
            LocalAddrSource::Listener => self.socket.local_addr.clone(),
            LocalAddrSource::Stream => match catch_panic(|| L::stream_local_addr(&stream)) {
                Ok(Ok(local_addr)) => local_addr,
                // The peer was gone before its address was read (A1).
                Ok(Err(_)) | Err(_) => {
                    self.socket.count_skipped();
                    return drop_catching(stream);
                }
            },
        };
        // Copied before anybody leaves the line: should it panic, nobody is missing.
        let (peer_copy, local_copy) = (peer_addr.clone(), local_addr.clone());
        let Some(first) = self.line.pop_front() else {
            return;
        };
        let id = first.id;
        let connection = Connection {
            stream,
            peer_addr: peer_copy,
            local_addr: local_copy,
            id,
            listener: self.socket.id,
            signals: Signals {
                draining: self.socket.draining.clone(),
                control: Arc::clone(&first.child).trap_stop(),
            },
        };
        let mut replacement = match self.shared.became(id, peer_addr, local_addr) {
            Became::Serves(replacement) => replacement,
            // The pool ended without this child: what it took along goes with it.
            Became::Gone => {
                let _ = first.child.discard();
                return drop_catching(connection);
            }
        };
        if let Some(start) = replacement.take() {
            replacement = self.replace(start, cx);
        }
        let serve = Arc::clone(&first.child).serve(connection);
        let shared = Arc::clone(&self.shared);
        let task = ChildTask::serve(shared, id, first.child, serve, replacement);
        self.shared.spawn(task);
        self.spawned = Spawned::Yes;
    }

    /// Starts a replacement; gives it back if the connection's task is to start it.
    fn replace(&mut self, start: PoolStart<L>, cx: &mut Context<'_>) -> Option<PoolStart<L>> {
        // Whoever joined while `accept` was polled began to wait earlier (L6).
        let known = self.line.len();
        self.socket.line.take_joined(&mut self.line);
        self.look_at_deadlines(known);
        if let Some(InitOutcome::Waits(None)) = start.control.begin_without_init() {
            self.line.push_back(Waiter {
                id: start.child,
                child: start.control,
                deadline: None,
            });
            return None;
        }
        // With nobody else in line accepting has to wait for this `init` in any case. Otherwise it must
        // not: the connection's own task sees to it, before it serves (B5).
        if self.line.is_empty() {
            let _ = self.shared.begin(start, cx);
            return None;
        }
        Some(start)
    }

    fn accept_failed(&mut self, error: io::Error) {
        match self.shared.accept_error(&error) {
            AcceptErrorKind::Connection => {
                self.socket.count_skipped();
                drop_catching(error);
            }
            AcceptErrorKind::Resources => {
                let pause = self.pauses.next(self.shared.time());
                self.socket.pause();
                self.pause = Some(self.shared.sleep(pause.length));
                match pause.report {
                    Some(unreported) => self.shared.report(Event::AcceptPaused {
                        listener: self.socket.id,
                        local_addr: self.socket.local_addr.clone(),
                        error: Arc::new(error),
                        pause: pause.length,
                        unreported,
                    }),
                    None => drop_catching(error),
                }
            }
            AcceptErrorKind::Listener => self.listener_failed(error),
        }
    }

    fn accept_panicked(&self, message: &str) {
        self.listener_failed(io::Error::other(format!("accept panicked: {message}")));
    }

    fn listener_failed(&self, error: io::Error) {
        self.shared.listener_failed(&self.socket, Arc::new(error));
    }
}

impl<R: Runtime, L: Listener> Drop for AcceptLoop<R, L> {
    fn drop(&mut self) {
        // Nothing, if the listener is closed already: else its runtime dropped this task.
        self.listener_failed(io::Error::other("the runtime dropped the listener's task"));
        self.socket.line.close();
        self.socket
            .line
            .collect(&mut self.line, None, std::task::Waker::noop());
        for waiting in std::mem::take(&mut self.line) {
            self.shared
                .dismiss(&self.socket, waiting, DismissReason::Commanded);
        }
    }
}
