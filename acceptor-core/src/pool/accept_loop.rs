//! The task of one listener: accepts for the acceptor that has waited longest, as long as any waits.
//!
//! One task calls `accept`, whatever the number of acceptors: no accept call and
//! no wake-up is made to no effect (L5), and the acceptors themselves need no task
//! while they wait (B9). Invariants: the socket is open exactly as long as this
//! task holds it; nothing is accepted unless an acceptor waits; between
//! accepting a connection and having a child for it there is no suspension point (L2).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::accept_error::AcceptErrorKind;
use crate::acceptor::ListenerInfo;
use crate::id::ChildId;
use crate::incoming::Incoming;
use crate::listener::Listener;
use crate::machine::accept_backoff::AcceptBackoff;
use crate::machine::effects::{Close, Queued};
use crate::machine::table::Waits;
use crate::pool::inbox::Told;
use crate::pool::lane::{Arrival, Given, HandedOver, Home, Successor};
use crate::pool::lanes::Lanes;
use crate::pool::listener_shared::{ListenerShared, LocalAddrSource};
use crate::pool::reporter::yield_now;
use crate::pool::shared::PoolShared;
use crate::report::Event;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, Shared, catch_panic, lock, wake};

/// How many turns go by without a suspension before other tasks get theirs (A1), and timeouts that have come are seen (B6).
const TURNS_IN_A_ROW: u32 = 32;

/// How many acceptors are started, or dismissed, in one turn.
const BATCH: usize = 64;

/// How long a listener that closes waits before it believes that no connection is queued (L7), in so many delays, one after
/// the other. A runtime may have looked at the sockets before the close, be held up, and fire the first delay with what it saw
/// then; it has looked again by the end of a delay that began after that.
const CLOSE_DELAY: Duration = Duration::from_micros(500);
const CLOSE_DELAYS: u32 = 2;

/// How many delays may be over when they are first polled before one is believed: then it is the runtime's timer that is early.
const HASTY_DELAYS: u32 = 3;

/// How long it accepts at the most, and how many.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
const MOST_QUEUED: usize = 4096;

struct AcceptLoop<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    listener: Arc<ListenerShared<R, L>>,
    /// Which of the pool's acceptors the last of the lanes is of.
    generation: u64,
    /// Shared with the connections, which may outlive the listener.
    handshake: Shared<L::Handshake>,
    /// The view of the listener for a replacement without an `init`.
    info: ListenerInfo<L::Addr>,
    lanes: Lanes<R, L>,
    /// Was accepted just as the acceptors were replaced, and waits for the first new one (R1).
    held: Option<DropCatching<Incoming<L::Io, L::Addr>>>,
    arrived: VecDeque<Arrival<R, L>>,
    /// What the inbox knows of this task.
    told: Option<Told>,
    /// Wakes this task for the first timeout, or earlier.
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
    /// Waiters whose timeout came before this moment are being dismissed.
    expiring: Option<Instant>,
    starts: bool,
    pause: Option<BoxFuture<'static, ()>>,
    backoff: AcceptBackoff,
    /// While the listener is short of resources: how many connections had ended before `accept` was called.
    ends: Option<u64>,
    closing: Option<Closing>,
    turns: u32,
    spawned: Spawned,
}

/// The tasks that were spawned since this task last let others run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spawned {
    Nothing,
    Connections,
    /// Another thread was woken for an `init`, and takes what follows.
    Inits,
}

/// A listener that takes what the system has queued before it closes (L7).
struct Closing {
    /// Until it may be believed that nothing is queued.
    delay: Option<BoxFuture<'static, ()>>,
    /// Whether this one was pending: else it gave the runtime no time to look at the sockets.
    pending: bool,
    /// How many delays are over, and how many more were before they were polled.
    delays: u32,
    hasty: u32,
    limit: BoxFuture<'static, ()>,
    taken: usize,
}

/// The consequence of one call of `accept`.
enum AcceptTurn {
    /// It is over: time for the next one.
    Over,
    /// The listener closes; should it have failed, with this error.
    Closed(Option<Shared<io::Error>>),
}

/// An open socket; closes when it is dropped, also with a task that was never polled.
struct OpenSocket<R: Runtime, L: Listener> {
    /// Dropping it closes the socket.
    socket: Option<DropCatching<L>>,
    accept_loop: AcceptLoop<R, L>,
}

pub(crate) fn run<R: Runtime, L: Listener>(
    shared: Arc<PoolShared<R, L>>,
    listener: Arc<ListenerShared<R, L>>,
    socket: L,
    handshake: Shared<L::Handshake>,
) -> impl Future<Output = ()> + Send {
    let (generation, factory) = {
        let children = lock(&listener.children);
        (children.table.generation(), children.factory.clone())
    };
    let lanes = Lanes::new(&factory);
    // Made here, not in the task: a task that is dropped before its first poll counts as well.
    let open = OpenSocket {
        socket: Some(DropCatching::new(socket)),
        accept_loop: AcceptLoop {
            generation,
            handshake,
            info: listener.info(ChildId::new(listener.id, 0, ChildId::NO_SLOT)),
            shared,
            listener,
            lanes,
            held: None,
            arrived: VecDeque::new(),
            told: None,
            timer: None,
            expiring: None,
            starts: false,
            pause: None,
            backoff: AcceptBackoff::new(),
            ends: None,
            closing: None,
            turns: 0,
            spawned: Spawned::Nothing,
        },
    };
    async move {
        let mut open = open;
        let failure = open.accept().await;
        open.close(failure);
        while open.accept_loop.dismiss_some() {
            yield_now().await;
        }
    }
}

impl<R: Runtime, L: Listener> OpenSocket<R, L> {
    /// Accepts until the listener closes; returns the error with which it failed, if it did.
    async fn accept(&mut self) -> Option<Shared<io::Error>> {
        let Self {
            socket,
            accept_loop,
        } = self;
        let listener: &L = socket.as_ref()?;
        let mut call = pin!(None);
        poll_fn(|cx| accept_loop.poll(cx, listener, || listener.accept(), call.as_mut())).await
    }

    fn close(&mut self, failure: Option<Shared<io::Error>>) {
        // The socket first: its address can be bound again as soon as anything shows that it is closed (L8).
        drop(self.socket.take());
        let accept_loop = &mut self.accept_loop;
        drop(accept_loop.held.take());
        accept_loop.enough_resources();
        let (shared, listener) = (&accept_loop.shared, &accept_loop.listener);
        shared.socket_closed(listener, failure);
        listener.closed.set();
        for arrival in listener.inbox.shut() {
            accept_loop.lanes.push(arrival);
        }
    }
}

impl<R: Runtime, L: Listener> Drop for OpenSocket<R, L> {
    fn drop(&mut self) {
        if self.socket.is_some() {
            let error = io::Error::other("the runtime dropped the listener's task");
            self.close(Some(Shared::new(Arc::new(error))));
        }
        while self.accept_loop.dismiss_some() {}
    }
}

fn accept_panicked(message: &str) -> Shared<io::Error> {
    let error = io::Error::other(format!("accept panicked: {message}"));
    Shared::new(Arc::new(error))
}

/// There is a call until it is over, and then it is not polled again.
fn poll_accept<T>(
    call: Pin<&mut Option<impl Future<Output = T>>>,
    cx: &mut Context<'_>,
) -> Poll<T> {
    call.as_pin_mut()
        .map_or(Poll::Pending, |call| call.poll(cx))
}

type Accepted<L> = io::Result<(<L as Listener>::Io, <L as Listener>::Addr)>;

impl<R: Runtime, L: Listener> AcceptLoop<R, L> {
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.listener.host.sleep(self.shared.time(), time)
    }

    /// One turn after the other, each with a call of `accept`. Ready once the listener is to close; should it have failed, with the
    /// error.
    fn poll<F: Future<Output = Accepted<L>>>(
        &mut self,
        cx: &mut Context<'_>,
        listener: &L,
        accept: impl Fn() -> F,
        mut call: Pin<&mut Option<F>>,
    ) -> Poll<Option<Shared<io::Error>>> {
        loop {
            if call.is_none() {
                match catch_panic(&accept) {
                    Ok(called) => call.set(Some(called)),
                    Err(message) => return Poll::Ready(Some(accept_panicked(&message))),
                }
            }
            let turn = ready!(self.poll_turn(cx, listener, call.as_mut()));
            if let Err(message) = catch_panic(|| call.set(None)) {
                return Poll::Ready(Some(accept_panicked(&message)));
            }
            if let AcceptTurn::Closed(failure) = turn {
                return Poll::Ready(failure);
            }
        }
    }

    #[inline]
    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        listener: &L,
        accept: Pin<&mut Option<impl Future<Output = Accepted<L>>>>,
    ) -> Poll<AcceptTurn> {
        self.turns += 1;
        if self.turns > TURNS_IN_A_ROW {
            self.turns = 0;
            self.spawned = Spawned::Nothing;
            self.look_for_expired();
            wake(cx.waker().clone());
            return Poll::Pending;
        }
        match self.poll_queue(cx, listener, accept) {
            Poll::Pending => {
                self.turns = 0;
                let spawned = std::mem::replace(&mut self.spawned, Spawned::Nothing);
                if spawned == Spawned::Connections {
                    // Not this task, since on most runtimes it would ask the system to no effect whether a client has
                    // come. Nor where there is an `init` to take: this thread could poll that first, and then block,
                    // with the wake-up of an `init` that yields.
                    self.shared.wake_another_thread_of(&self.listener);
                }
                Poll::Pending
            }
            ready => ready,
        }
    }

    fn poll_queue(
        &mut self,
        cx: &mut Context<'_>,
        listener: &L,
        mut accept: Pin<&mut Option<impl Future<Output = Accepted<L>>>>,
    ) -> Poll<AcceptTurn> {
        loop {
            if let Poll::Ready(()) = self.poll_news(cx) {
                return Poll::Ready(AcceptTurn::Closed(None));
            }
            if !self.lanes.is_empty() {
                if let Some(mut incoming) = self.held.take() {
                    self.hand_over(&mut incoming);
                    return Poll::Ready(AcceptTurn::Over);
                }
            }
            if self.expiring.is_some() {
                // Before the next connection is accepted (B6).
                if self.expire() {
                    return Poll::Ready(AcceptTurn::Over);
                }
                continue;
            }
            if self.poll_closing(cx).is_ready() {
                return Poll::Ready(AcceptTurn::Closed(None));
            }
            // The pause first: it is over at its time, whether or not an acceptor waits.
            if self.poll_pause(cx).is_ready() && !self.lanes.is_empty() {
                match catch_panic(|| poll_accept(accept.as_mut(), cx)) {
                    Ok(Poll::Pending) => {
                        self.backoff.pending(|| self.shared.time());
                        if self
                            .closing
                            .as_ref()
                            .is_some_and(|closing| closing.delay.is_none())
                        {
                            return Poll::Ready(AcceptTurn::Closed(None));
                        }
                    }
                    Ok(Poll::Ready(Ok((stream, peer)))) => {
                        self.enough_resources();
                        self.connect(stream, peer);
                        return Poll::Ready(AcceptTurn::Over);
                    }
                    Ok(Poll::Ready(Err(error))) => {
                        return Poll::Ready(self.accept_failed(listener, error));
                    }
                    Err(message) => {
                        let failure = accept_panicked(&message);
                        return Poll::Ready(AcceptTurn::Closed(Some(failure)));
                    }
                }
            }
            // After the accept: a connection that is there is taken, even with a timeout of zero (B6).
            if self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Ready if the listener is to close at once.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut started = false;
        loop {
            let timer = self.timer.as_ref().map(|(at, _)| *at);
            let inbox = &self.listener.inbox;
            let known = !self.lanes.is_empty();
            if !self.starts && !inbox.has_news(self.told, known, timer, cx.waker()) {
                return Poll::Pending;
            }
            let (news, told) = inbox.collect_and_tell(&mut self.arrived, known, timer, cx.waker());
            self.told = Some(told);
            if !self.arrived.is_empty() {
                self.enqueue_arrived();
            }
            if news.resume && self.pause.take().is_some() {
                self.listener.resume();
            }
            match news.close {
                Some(Close {
                    queued: Queued::Reset,
                    ..
                }) => return Poll::Ready(()),
                Some(_) if self.closing.is_none() => {
                    // One that pauses had an error of resources already. A pause that is over is none.
                    if self.poll_pause(cx).is_pending() {
                        return Poll::Ready(());
                    }
                    self.closing = Some(Closing {
                        delay: Some(self.sleep(CLOSE_DELAY)),
                        pending: false,
                        delays: 0,
                        hasty: 0,
                        limit: self.sleep(CLOSE_LIMIT),
                        taken: 0,
                    });
                }
                _ => {}
            }
            if news.commanded {
                let (lanes, home) = self.parts();
                lanes.dismiss_commanded(home);
            }
            self.starts |= news.starts;
            if self.starts && !started {
                started = true;
                self.start_some();
                if self.starts {
                    // The others have their turn first.
                    wake(cx.waker().clone());
                }
            } else if !news.commanded {
                return Poll::Pending;
            }
            // The inbox took this task for one that has a waiter: the next to arrive would not wake it. And an end
            // may have stopped the pool: then nothing is accepted any longer (S3).
        }
    }

    fn enqueue_arrived(&mut self) {
        let lanes = &mut self.lanes;
        self.arrived
            .drain(..)
            .for_each(|arrival| lanes.push(arrival));
    }

    /// The acceptors that wait, and what their tasks are spawned for.
    fn parts(&mut self) -> (&mut Lanes<R, L>, Home<'_, R, L>) {
        let home = Home {
            shared: &self.shared,
            listener: &self.listener,
        };
        (&mut self.lanes, home)
    }

    /// Starts acceptors that the listener was added with, or that were held (B4).
    fn start_some(&mut self) {
        let now = self.shared.time();
        let starts = lock(&self.listener.children).table.take_starts(BATCH, now);
        self.starts = starts.len() == BATCH;
        for start in starts {
            self.shared.start(&self.listener, start);
        }
    }

    /// Ready if a listener that closes has taken what there is, or may take no more.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(closing) = &mut self.closing else {
            return Poll::Pending;
        };
        if closing.taken >= MOST_QUEUED || closing.limit.poll_unpin(cx).is_ready() {
            return Poll::Ready(());
        }
        while let Some(delay) = &mut closing.delay {
            if delay.poll_unpin(cx).is_pending() {
                closing.pending = true;
                break;
            }
            if !closing.pending && closing.hasty < HASTY_DELAYS {
                closing.hasty += 1;
            } else {
                closing.delays += 1;
            }
            closing.pending = false;
            let next = closing.delays < CLOSE_DELAYS;
            // Polled at once: a busy machine could be late each time, were it polled in another turn.
            let host = &self.listener.host;
            closing.delay = next.then(|| host.sleep(self.shared.time(), CLOSE_DELAY));
        }
        if self.lanes.is_empty() {
            let tally = lock(&self.listener.children).table.tally();
            // One that counts as waiting and is not in the queue is about to arrive, and wakes this task.
            if tally.starting() + tally.waiting == 0 {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            if pause.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
            self.listener.resume();
        }
        if self.ends.is_some() {
            self.ends = Some(self.shared.exhaustion.ends());
        }
        Poll::Ready(())
    }

    /// Ready if timeouts have come, or the timer was set anew.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(earliest) = self.lanes.earliest() else {
            // The inbox has to know: else an acceptor that arrives with a later timeout relies on this timer.
            return match self.timer.take() {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            };
        };
        if self.timer.as_ref().is_none_or(|(at, _)| earliest < *at) {
            self.timer = Some((earliest, self.listener.host.sleep_until(earliest)));
            // The inbox has to know: an acceptor that arrives with an earlier timeout wakes this task.
            return Poll::Ready(());
        }
        let Some((at, sleep)) = &mut self.timer else {
            return Poll::Pending;
        };
        if sleep.poll_unpin(cx).is_pending() {
            return Poll::Pending;
        }
        // A timer that is a little early is believed.
        self.expiring = Some(self.shared.time().max(*at));
        self.timer = None;
        Poll::Ready(())
    }

    /// The timer is not asked as long as each `accept` finds something.
    fn look_for_expired(&mut self) {
        if let Some(earliest) = self.lanes.earliest() {
            let now = self.shared.time();
            if earliest <= now && self.expiring.is_none() {
                self.expiring = Some(now);
            }
        }
    }

    /// Dismisses some of those whose timeout has come; returns whether there are more.
    fn expire(&mut self) -> bool {
        let Some(until) = self.expiring else {
            return false;
        };
        for _ in 0..BATCH {
            let (lanes, home) = self.parts();
            if !lanes.dismiss_expired(home, until) {
                self.expiring = None;
                return false;
            }
        }
        true
    }

    /// Dismisses some of those that wait on a socket that is closed; returns whether there are more.
    fn dismiss_some(&mut self) -> bool {
        for _ in 0..BATCH {
            let (lanes, home) = self.parts();
            if !lanes.dismiss_head(home) {
                return false;
            }
        }
        true
    }

    /// A connection was accepted.
    fn connect(&mut self, io: L::Io, peer_addr: L::Addr) {
        let (io, local_addr) = match self.listener.addresses {
            LocalAddrSource::Listener => {
                // Two panics at once would abort the process.
                let io = DropCatching::new(io);
                let local_addr = self.listener.local_addr.clone();
                (io.into_inner(), local_addr)
            }
            LocalAddrSource::Stream => {
                let io = DropCatching::new(io);
                match catch_panic(|| L::io_local_addr(&io)) {
                    Ok(Ok(local_addr)) => (io.into_inner(), local_addr),
                    // The peer was gone before its address was read (A1).
                    Ok(Err(error)) => return self.skip(error),
                    Err(message) => {
                        let message = format!("the address of a connection panicked: {message}");
                        return self.skip(io::Error::other(message));
                    }
                }
            }
        };
        self.backoff.success();
        let mut incoming = DropCatching::new(Incoming::new(io, peer_addr, local_addr));
        self.hand_over(&mut incoming);
    }

    /// The acceptor that has waited longest becomes the connection (B5).
    #[inline]
    fn hand_over(&mut self, incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>) {
        if self.listener.generation() != self.generation {
            self.renew();
        }
        let home = Home {
            shared: &self.shared,
            listener: &self.listener,
        };
        let given = Given {
            incoming,
            info: &mut self.info,
            handshake: &self.handshake,
            generation: self.generation,
        };
        let successor = match self.lanes.hand_over(home, given) {
            HandedOver::Serves(successor) => successor,
            HandedOver::Gone => return,
            HandedOver::Replaced(next) => {
                if let Some(next) = next {
                    self.lanes.push_prepared(next, self.generation);
                }
                self.lanes.dismiss_commanded(home);
                // The next in the queue may be a new one.
                self.held = incoming.take().map(DropCatching::new);
                return;
            }
        };
        match successor {
            Successor::Waits(waits, child) => {
                self.starts |= waits == Waits::Releases;
                if let Some(child) = child {
                    self.listener.inbox.take_arrived(&mut self.arrived);
                    self.enqueue_arrived();
                    self.lanes.push_prepared(child, self.generation);
                }
            }
            Successor::Begins => self.spawned = Spawned::Inits,
            Successor::None => {}
        }
        if self.spawned == Spawned::Nothing {
            self.spawned = Spawned::Connections;
        }
        if let Some(closing) = &mut self.closing {
            closing.taken += 1;
        }
    }

    /// The pool has another acceptor.
    #[cold]
    fn renew(&mut self) {
        let (generation, factory) = {
            let children = lock(&self.listener.children);
            (children.table.generation(), children.factory.clone())
        };
        self.generation = generation;
        self.lanes.renew(&factory);
    }

    fn accept_failed(&mut self, listener: &L, error: io::Error) -> AcceptTurn {
        let error = DropCatching::new(error);
        let of_listener = catch_panic(|| listener.classify(&error)).ok().flatten();
        let kind = of_listener.unwrap_or_else(|| self.shared.accept_error(&error));
        match self.backoff.classify(kind, || self.shared.time()) {
            AcceptErrorKind::Connection => {
                self.listener.count_skipped();
                AcceptTurn::Over
            }
            AcceptErrorKind::Resources if self.closing.is_none() => {
                // A free descriptor ends no error of a connection that does not go away (A5).
                if kind == AcceptErrorKind::Connection || self.is_still_short() {
                    self.pause(error);
                }
                AcceptTurn::Over
            }
            AcceptErrorKind::Listener if self.closing.is_none() => {
                AcceptTurn::Closed(Some(Shared::new(Arc::new(error.into_inner()))))
            }
            // It closes in any case.
            AcceptErrorKind::Resources | AcceptErrorKind::Listener => AcceptTurn::Closed(None),
        }
    }

    /// A connection has no local address; if that stays so, the listener pauses (A5).
    fn skip(&mut self, error: io::Error) {
        let error = DropCatching::new(error);
        let kind = AcceptErrorKind::Connection;
        let treated = self.backoff.classify(kind, || self.shared.time());
        if treated == kind || self.closing.is_some() {
            self.listener.count_skipped();
        } else {
            self.pause(error);
        }
    }

    /// Notes that resources are short; false if a connection has ended since `accept` was called (A2).
    fn is_still_short(&mut self) -> bool {
        let exhaustion = &self.shared.exhaustion;
        match self.ends {
            None => {
                exhaustion.enter(&self.listener);
                self.ends = Some(exhaustion.ends());
                true
            }
            Some(ends) => ends == exhaustion.ends(),
        }
    }

    fn pause(&mut self, error: DropCatching<io::Error>) {
        let pause = self.backoff.pause(self.shared.time());
        self.listener.pause();
        self.pause = Some(self.sleep(pause.length));
        if let Some(suppressed) = pause.report {
            self.shared.report(
                &self.listener,
                Event::AcceptPaused {
                    listener: self.listener.id,
                    local_addr: self.listener.local_addr.clone(),
                    error: Arc::new(error.into_inner()),
                    pause: pause.length,
                    suppressed,
                },
            );
        }
    }

    fn enough_resources(&mut self) {
        if self.ends.take().is_some() {
            self.shared.exhaustion.leave(&self.listener);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
