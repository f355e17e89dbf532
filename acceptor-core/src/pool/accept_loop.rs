//! The task of one listener: accepts for the acceptor that has waited longest, as long as any
//! waits.
//!
//! One task calls `accept`, whatever the number of acceptors: no accept call and no wake-up is
//! wasted (L5), and waiting acceptors need no tasks of their own (B9). Invariants: the socket is
//! open exactly as long as this task holds it; nothing is accepted unless an acceptor waits; there
//! is no suspension point between accepting a connection and having a child for it (L2).

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
use crate::policy::{AtLimit, Refusal};
use crate::pool::capacity::{Scopes, Slots, WaitInTurn};
use crate::pool::inbox::Told;
use crate::pool::lane::{Arrival, Given, HandedOver, Home, Successor};
use crate::pool::lanes::Lanes;
use crate::pool::listener_shared::{ListenerShared, LocalAddrSource};
use crate::pool::reporter::yield_now;
use crate::pool::shared::PoolShared;
use crate::report::Event;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, Shared, catch_panic, lock, wake};

/// The number of turns without a suspension before other tasks may run (A1) and expired timeouts
/// are noticed (B6).
const TURNS_IN_A_ROW: u32 = 32;

/// The number of acceptors to start, or to dismiss, in one turn.
const BATCH: usize = 64;

/// A closing listener waits for several delays of this length, one after the other, before it
/// treats its queue as empty (L7). A runtime may have polled the sockets before the close, then
/// been held up, and fire the first delay along with that stale result. By the end of a delay that
/// began after that, it has polled them again.
const CLOSE_DELAY: Duration = Duration::from_micros(500);
const CLOSE_DELAYS: u32 = 2;

/// The number of delays that may be over at their first poll before one of them counts: by then the
/// runtime's timer itself is early.
const HASTY_DELAYS: u32 = 3;

/// The longest time for which a closing listener accepts, and the largest number of connections.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
const MOST_QUEUED: usize = 4096;

struct AcceptLoop<R: Runtime, L: Listener> {
    shared: Arc<PoolShared<R, L>>,
    listener: Arc<ListenerShared<R, L>>,
    /// The generation of the last lane.
    generation: u64,
    /// Shared with the connections, which may outlive the listener.
    handshake: Shared<L::Handshake>,
    /// The [`ListenerInfo`] for a replacement without an `init`.
    info: ListenerInfo<L::Addr>,
    lanes: Lanes<R, L>,
    /// A connection that was accepted just as the acceptors were replaced, and waits for the first
    /// new one (R1).
    held: Option<DropCatching<Incoming<L::Io, L::Addr>>>,
    arrived: VecDeque<Arrival<R, L>>,
    /// The state of this task as the inbox knows it.
    told: Option<Told>,
    /// Wakes this task for the first timeout, or earlier.
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
    /// Waiters whose timeout came before this moment are being dismissed.
    expiring: Option<Instant>,
    starts: bool,
    pause: Option<BoxFuture<'static, ()>>,
    backoff: AcceptBackoff,
    /// While the listener is short of resources: the number of connections that had ended before
    /// `accept` was called.
    ends: Option<u64>,
    closing: Option<Closing>,
    /// The slots for the next connection, where a limit applies (C4).
    slots: Slots,
    /// How the next connection is refused, if it is.
    refusal: Refusal,
    turns: u32,
    spawned: Spawned,
}

/// What to do with the next connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Accept,
    /// A limit is reached: it is accepted and refused (C2).
    Refuse,
    /// No acceptor waits, the listener pauses, or it is in the queue for a slot: `accept` is not
    /// called.
    Wait,
}

/// The tasks spawned since this task last yielded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spawned {
    Nothing,
    Connections,
    /// Another thread was woken for an `init`, and takes the tasks that follow.
    Inits,
}

/// A listener that drains the system's queue before it closes (L7).
struct Closing {
    /// The delay after which the queue counts as empty.
    delay: Option<BoxFuture<'static, ()>>,
    /// Whether this delay was pending: otherwise the runtime had no time to poll the sockets.
    pending: bool,
    /// The number of delays that count, and of those that were over at their first poll.
    delays: u32,
    hasty: u32,
    limit: BoxFuture<'static, ()>,
    taken: usize,
}

/// The result of one call of `accept`.
enum AcceptTurn {
    /// The call is complete: start the next one.
    Over,
    /// The listener closes, with this error if it failed.
    Closed(Option<Shared<io::Error>>),
}

/// An open socket, closed on drop, even along with a task that was never polled.
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
    // Created outside the task, so that a task that is dropped before its first poll is handled as
    // well.
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
            slots: Slots::new(),
            refusal: Refusal::Close,
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
    /// Accepts until the listener closes. Returns the error if it failed.
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
        // The socket first, so that its address can be bound again as soon as the close is visible
        // (L8).
        drop(self.socket.take());
        let accept_loop = &mut self.accept_loop;
        drop(accept_loop.held.take());
        accept_loop.slots.leave(&accept_loop.listener);
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

/// Polls the call of `accept`, which is removed once it is complete and not polled again.
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

    /// Takes one turn after the other, each with a call of `accept`. Ready once the listener must
    /// close, with the error if it failed.
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
                    // Does not wake this task, because on most runtimes that would poll the sockets
                    // to no effect. Nor if there is an `init` to run: this thread could poll that
                    // first, and then block while it holds the wake-up of an `init` that yields.
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
            // The pause first: it ends on time, whether or not an acceptor waits.
            let entry = match self.poll_pause(cx) {
                Poll::Ready(()) => self.entry(),
                Poll::Pending => {
                    self.give_back_slots();
                    Entry::Wait
                }
            };
            if entry != Entry::Wait {
                match catch_panic(|| poll_accept(accept.as_mut(), cx)) {
                    Ok(Poll::Pending) => {
                        self.give_back_slots();
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
                        match entry {
                            Entry::Refuse => self.refuse(stream),
                            Entry::Accept | Entry::Wait => self.connect(stream, peer),
                        }
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
            // After the accept: a connection that is already queued is taken, even with a timeout
            // of zero (B6).
            if self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Returns what to do with the next connection, for which it then has the slots that it needs.
    #[inline]
    fn entry(&mut self) -> Entry {
        let limits = self.listener.capacity.applies();
        if !limits.is_empty() {
            return self.entry_within(limits);
        }
        match self.lanes.is_empty() {
            true => Entry::Wait,
            false => Entry::Accept,
        }
    }

    #[cold]
    fn entry_within(&mut self, limits: Scopes) -> Entry {
        if self.held.is_some() {
            // It has the slots, and no acceptor waits for it.
            return Entry::Wait;
        }
        let free = self.slots.take(&self.listener, limits, WaitInTurn::No);
        match (free, self.lanes.is_empty()) {
            (true, true) => {
                self.give_back_slots();
                Entry::Wait
            }
            (true, false) => Entry::Accept,
            (false, without_acceptor) => self.entry_when_full(limits, without_acceptor),
        }
    }

    #[cold]
    fn entry_when_full(&mut self, limits: Scopes, without_acceptor: bool) -> Entry {
        let own = self.listener.at_limit.clone();
        let of_pool = || {
            self.shared
                .read(|state| state.spec.settings.at_limit.clone())
        };
        match own.unwrap_or_else(of_pool) {
            AtLimit::Refuse(how) => {
                self.slots.leave(&self.listener);
                self.refusal = how;
                Entry::Refuse
            }
            AtLimit::Wait if without_acceptor => {
                self.give_back_slots();
                Entry::Wait
            }
            // A slot may have become free meanwhile.
            AtLimit::Wait => match self.slots.take(&self.listener, limits, WaitInTurn::Yes) {
                true => Entry::Accept,
                false => Entry::Wait,
            },
        }
    }

    /// Gives back the slots that it has and no connection for.
    #[inline]
    fn give_back_slots(&mut self) {
        if !self.slots.is_empty() && self.held.is_none() {
            self.slots.give_back(&self.listener);
        }
    }

    /// Closes a connection that finds no slot (C2).
    #[cold]
    fn refuse(&mut self, io: L::Io) {
        self.backoff.success();
        self.listener.capacity.count_refused();
        let io = DropCatching::new(io);
        let how = &self.refusal;
        let _ = catch_panic(|| L::refuse(io.into_inner(), how));
        if let Some(closing) = &mut self.closing {
            closing.taken += 1;
        }
    }

    /// Handles the inbox's news. Ready if the listener must close at once.
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
                    // A listener that pauses has had a resource error already. A pause that is over
                    // does not count.
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
                    // Lets other tasks run first.
                    wake(cx.waker().clone());
                }
            } else if !news.commanded {
                return Poll::Pending;
            }
            // The inbox assumed that this task has a waiter, so the next arrival would not wake it.
            // And an end may have stopped the pool, after which nothing is accepted (S3).
        }
    }

    fn enqueue_arrived(&mut self) {
        let lanes = &mut self.lanes;
        self.arrived
            .drain(..)
            .for_each(|arrival| lanes.push(arrival));
    }

    /// Returns the lanes, and the parts of the pool that their tasks are spawned for.
    fn parts(&mut self) -> (&mut Lanes<R, L>, Home<'_, R, L>) {
        let home = Home {
            shared: &self.shared,
            listener: &self.listener,
        };
        (&mut self.lanes, home)
    }

    /// Starts some of the acceptors that the listener was added with, or that were held (B4).
    fn start_some(&mut self) {
        let now = self.shared.time();
        let starts = lock(&self.listener.children).table.take_starts(BATCH, now);
        self.starts = starts.len() == BATCH;
        for start in starts {
            self.shared.start(&self.listener, start);
        }
    }

    /// Ready if a closing listener has drained its queue, or may take no more.
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
            // Polled at once: on a busy machine each delay could be over by the next turn.
            let host = &self.listener.host;
            closing.delay = next.then(|| host.sleep(self.shared.time(), CLOSE_DELAY));
        }
        if self.lanes.is_empty() {
            let tally = lock(&self.listener.children).table.tally();
            // An acceptor that counts as waiting and is not in the queue is about to arrive, and
            // wakes this task.
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

    /// Ready if timeouts have expired, or the timer was set anew.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(earliest) = self.lanes.earliest() else {
            // The inbox must learn of it: otherwise an acceptor that arrives with a later timeout
            // relies on this timer.
            return match self.timer.take() {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            };
        };
        if self.timer.as_ref().is_none_or(|(at, _)| earliest < *at) {
            self.timer = Some((earliest, self.listener.host.sleep_until(earliest)));
            // The inbox must learn of it, so that an acceptor that arrives with an earlier timeout
            // wakes this task.
            return Poll::Ready(());
        }
        let Some((at, sleep)) = &mut self.timer else {
            return Poll::Pending;
        };
        if sleep.poll_unpin(cx).is_pending() {
            return Poll::Pending;
        }
        // Accepts a timer that fires a little early.
        self.expiring = Some(self.shared.time().max(*at));
        self.timer = None;
        Poll::Ready(())
    }

    /// Checks for expired timeouts, because the timer is not polled as long as each `accept` finds
    /// a connection.
    fn look_for_expired(&mut self) {
        if let Some(earliest) = self.lanes.earliest() {
            let now = self.shared.time();
            if earliest <= now && self.expiring.is_none() {
                self.expiring = Some(now);
            }
        }
    }

    /// Dismisses some of the acceptors whose timeout has expired. Returns whether there are more.
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

    /// Dismisses some of the acceptors that wait on a closed socket. Returns whether there are
    /// more.
    fn dismiss_some(&mut self) -> bool {
        for _ in 0..BATCH {
            let (lanes, home) = self.parts();
            if !lanes.dismiss_head(home) {
                return false;
            }
        }
        true
    }

    /// Handles an accepted connection.
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
                    // The peer was gone before its address could be read (A1).
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

    /// Turns the acceptor that has waited longest into the connection (B5).
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
            slots: &mut self.slots,
        };
        let successor = match self.lanes.hand_over(home, given) {
            HandedOver::Serves(successor) => successor,
            HandedOver::Gone => return,
            HandedOver::Replaced(next) => {
                if let Some(next) = next {
                    self.lanes.push_prepared(next, self.generation);
                }
                self.lanes.dismiss_commanded(home);
                // The next waiter may be a new one.
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

    /// Switches to the pool's new acceptor.
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
                // A free descriptor does not end a persistent error of one connection (A5).
                if kind == AcceptErrorKind::Connection || self.is_still_short() {
                    self.pause(error);
                }
                AcceptTurn::Over
            }
            AcceptErrorKind::Listener if self.closing.is_none() => {
                AcceptTurn::Closed(Some(Shared::new(Arc::new(error.into_inner()))))
            }
            // It closes anyway.
            AcceptErrorKind::Resources | AcceptErrorKind::Listener => AcceptTurn::Closed(None),
        }
    }

    /// Skips a connection without a local address. If that persists, the listener pauses (A5).
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

    /// Records that resources are short. Returns false if a connection has ended since `accept` was
    /// called (A2).
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
