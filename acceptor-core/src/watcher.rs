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
use crate::child::ChildTask;
use crate::connection::{Connection, Signals};
use crate::inner::{Inner, Starting};
use crate::line::{Leaving, News, Waiting};
use crate::listener::Listener;
use crate::report::Event;
use crate::runtime::Runtime;
use crate::seat::Begun;
use crate::socket::{Addresses, Gate, Pauses, Socket};
use crate::supervisor::Became;
use crate::sync::{drop_guarded, guarded, wake};

/// How many turns go by without a suspension before other tasks get theirs (A1).
const TURNS_IN_A_ROW: u32 = 32;

/// Who waits, and for how long.
struct Desk<R: Runtime, L: Listener> {
    inner: Arc<Inner<R, L>>,
    socket: Arc<Socket<L>>,
    line: VecDeque<Waiting<L>>,
    /// No deadline in the line is before this one.
    earliest: Option<Instant>,
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
    pause: Option<BoxFuture<'static, ()>>,
    pauses: Pauses,
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
enum Turn {
    /// It is over: time for the next one.
    Over,
    Closed,
}

/// An open socket. In this order, also for a task that was never polled: it is closed, the pool is told,
/// then the acceptors are.
struct Open<R: Runtime, L: Listener> {
    gate: Gate<L>,
    _told: TellsClosed<R, L>,
    desk: Desk<R, L>,
}

struct TellsClosed<R: Runtime, L: Listener>(Arc<Inner<R, L>>);

impl<R: Runtime, L: Listener> Drop for TellsClosed<R, L> {
    fn drop(&mut self) {
        self.0.socket_closed();
    }
}

pub(crate) fn watch<R: Runtime, L: Listener>(
    inner: Arc<Inner<R, L>>,
    gate: Gate<L>,
) -> impl Future<Output = ()> + Send {
    // Made here, not in the task: a task that is dropped before its first poll counts as well.
    let desk = Desk {
        inner,
        socket: gate.socket(),
        line: VecDeque::new(),
        earliest: None,
        timer: None,
        pause: None,
        pauses: Pauses::new(),
        turns: 0,
        spawned: Spawned::No,
    };
    let open = Open {
        gate,
        _told: TellsClosed(Arc::clone(&desk.inner)),
        desk,
    };
    async move {
        let mut open = open;
        let (gate, desk) = (&open.gate, &mut open.desk);
        loop {
            let called = guarded(|| gate.listener().accept());
            let mut accept = pin!(match called {
                Ok(accept) => Some(accept),
                Err(message) => {
                    desk.accept_panicked(&message);
                    break;
                }
            });
            let turn = poll_fn(|cx| desk.poll_turn(cx, accept.as_mut())).await;
            if let Err(message) = guarded(|| accept.set(None)) {
                desk.accept_panicked(&message);
                break;
            }
            match turn {
                Turn::Over => {}
                Turn::Closed => break,
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

impl<R: Runtime, L: Listener> Desk<R, L> {
    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        accept: Pin<&mut Option<impl Future<Output = Accepted<L>>>>,
    ) -> Poll<Turn> {
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
                    // nobody would look at the sockets: so there is a task for another thread to take (B5). Not
                    // this one, for on most runtimes it would ask the system in vain whether somebody has come.
                    self.inner.bell.nudge();
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
    ) -> Poll<Turn> {
        loop {
            let known = self.line.len();
            let timer = self.timer.as_ref().map(|(at, _)| *at);
            match self.socket.line.collect(&mut self.line, timer, cx.waker()) {
                News::None => self.look_at_deadlines(known),
                News::Told => {
                    self.look_at_deadlines(known);
                    self.dismiss(Leaving::Told, |waiting| {
                        waiting.seat.control().commands().end_waiting()
                    });
                    // The line took this task for one that has somebody: whoever joins next would not wake it. And an
                    // end may have stopped the pool: then nobody is accepted any more (S3).
                    continue;
                }
                News::Closed => return Poll::Ready(Turn::Closed),
            }
            // The pause first: it is over at its time, be there nobody to accept for.
            if self.poll_pause(cx).is_ready() && !self.line.is_empty() {
                match guarded(|| poll_accept(accept.as_mut(), cx)) {
                    Ok(Poll::Pending) => {}
                    Ok(Poll::Ready(Ok((stream, peer)))) => {
                        self.connect(stream, peer, cx);
                        return Poll::Ready(Turn::Over);
                    }
                    Ok(Poll::Ready(Err(error))) => {
                        self.accept_failed(error);
                        return Poll::Ready(Turn::Over);
                    }
                    Err(message) => {
                        self.accept_panicked(&message);
                        return Poll::Ready(Turn::Over);
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
            self.timer = Some((earliest, self.inner.sleep_until(earliest)));
            // The line has to know: who joins with an earlier deadline wakes this task.
            return Poll::Ready(());
        }
        if let Some((_, sleep)) = &mut self.timer {
            if sleep.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.timer = None;
        let now = self.inner.time().max(earliest);
        self.dismiss(Leaving::TimedOut, |waiting| {
            waiting.deadline.is_some_and(|(at, _)| at <= now)
        });
        let deadlines = self.line.iter().filter_map(|waiting| waiting.deadline);
        self.earliest = deadlines.map(|(at, _)| at).min();
        Poll::Ready(())
    }

    /// Lets those go who wait no more.
    fn dismiss(&mut self, why: Leaving, goes: impl Fn(&Waiting<L>) -> bool) {
        let (gone, stay) = std::mem::take(&mut self.line)
            .into_iter()
            .partition::<VecDeque<_>, _>(goes);
        self.line = stay;
        for waiting in gone {
            self.inner.leave_line(&self.socket, waiting, why);
        }
    }

    /// The first in line becomes the connection (B5).
    fn connect(&mut self, stream: L::Stream, peer_addr: L::Addr, cx: &mut Context<'_>) {
        self.pauses.success();
        let local_addr = match self.socket.addresses {
            Addresses::TheListeners => self.socket.local_addr.clone(),
            Addresses::TheirOwn => match guarded(|| L::stream_local_addr(&stream)) {
                Ok(Ok(local_addr)) => local_addr,
                // The peer was gone before its address was read (A1).
                Ok(Err(_)) | Err(_) => {
                    self.socket.count_skipped();
                    return drop_guarded(stream);
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
                control: Arc::clone(&first.seat).controlled(),
            },
        };
        let mut replacement = match self.inner.became(id, peer_addr, local_addr) {
            Became::Serves(replacement) => replacement,
            // The pool ended without this child: what it took along goes with it.
            Became::Gone => {
                let _ = first.seat.discard();
                return drop_guarded(connection);
            }
        };
        if let Some(start) = replacement.take() {
            replacement = self.replace(start, cx);
        }
        let serve = Arc::clone(&first.seat).serve(connection);
        let inner = Arc::clone(&self.inner);
        let task = ChildTask::serve(inner, id, first.seat, serve, replacement);
        self.inner.spawn(task);
        self.spawned = Spawned::Yes;
    }

    /// Starts a replacement; gives it back if the connection's task is to start it.
    fn replace(&mut self, start: Starting<L>, cx: &mut Context<'_>) -> Option<Starting<L>> {
        // Whoever joined while `accept` was polled began to wait earlier (L6).
        let known = self.line.len();
        self.socket.line.take_joined(&mut self.line);
        self.look_at_deadlines(known);
        if let Some(Begun::Waits(None)) = start.control.begin_without_init() {
            self.line.push_back(Waiting {
                id: start.child,
                seat: start.control,
                deadline: None,
            });
            return None;
        }
        // With nobody else in line accepting has to wait for this `init` in any case. Otherwise it must
        // not: the connection's own task sees to it, before it serves (B5).
        if self.line.is_empty() {
            let _ = self.inner.begin(start, cx);
            return None;
        }
        Some(start)
    }

    fn accept_failed(&mut self, error: io::Error) {
        match self.inner.accept_error(&error) {
            AcceptErrorKind::Connection => {
                self.socket.count_skipped();
                drop_guarded(error);
            }
            AcceptErrorKind::Resources => {
                let pause = self.pauses.next(self.inner.time());
                self.socket.pause();
                self.pause = Some(self.inner.sleep(pause.length));
                match pause.report {
                    Some(unreported) => self.inner.report(Event::AcceptPaused {
                        listener: self.socket.id,
                        local_addr: self.socket.local_addr.clone(),
                        error: Arc::new(error),
                        pause: pause.length,
                        unreported,
                    }),
                    None => drop_guarded(error),
                }
            }
            AcceptErrorKind::Listener => self.listener_failed(error),
        }
    }

    fn accept_panicked(&self, message: &str) {
        self.listener_failed(io::Error::other(format!("accept panicked: {message}")));
    }

    fn listener_failed(&self, error: io::Error) {
        self.inner.listener_failed(&self.socket, Arc::new(error));
    }
}

impl<R: Runtime, L: Listener> Drop for Desk<R, L> {
    fn drop(&mut self) {
        // Nothing, if the listener is closed already: else its runtime dropped this task.
        self.listener_failed(io::Error::other("the runtime dropped the listener's task"));
        self.socket.line.close();
        self.socket
            .line
            .collect(&mut self.line, None, std::task::Waker::noop());
        for waiting in std::mem::take(&mut self.line) {
            self.inner.leave_line(&self.socket, waiting, Leaving::Told);
        }
    }
}
