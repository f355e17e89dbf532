//! The acceptors of one type that wait on a listener, and how they start.
//!
//! Invariants: a state is in its lane only while its acceptor waits; the task that takes it runs
//! `serve` or `terminate` with it, or drops it; the future of `serve` is created only when a
//! connection is there (B9), and is part of its task.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acceptor::{Acceptor, Keep, ListenerInfo, Terminate};
use crate::child::control::Control;
use crate::connection::{Connection, Lifecycle};
use crate::exit::IntoExit;
use crate::handshake::{Handshake, HandshakeStage};
use crate::id::{ChildId, ListenerId};
use crate::incoming::Incoming;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::machine::row::{OwnAddrs, Peer};
use crate::machine::table::{Became, Next, Ready, Replacement};
use crate::policy::ConnectionReports;
use crate::pool::child_task::{BodyEnd, ChildTask, Serve};
use crate::pool::driver::BATCH;
use crate::pool::init_task::InitTask;
use crate::pool::lane::{
    Arrived, ErasedState, Factory, Given, HandedOver, Home, InitNow, Lane, Member, Successor,
};
use crate::pool::listener_shared::{Handshaking, LocalAddrSource};
use crate::pool::wait_queue::WaitQueue;
use crate::report::{Event, Failure};
use crate::runtime::Runtime;
use crate::status::ConnectionState;
use crate::sync::{DropCatching, DropResuming, Shared, catch_panic, lock};

/// The largest future, in bytes, that is stored within its task. A larger one is boxed: a runtime
/// may copy a task several times on the stack, which is small on a worker thread.
pub(crate) const LARGEST_FUTURE: usize = 16 * 1024;

/// The reason for a waiter to leave its queue without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DismissReason {
    TimedOut,
    /// It was commanded to end, individually or with its listener.
    Commanded,
}

struct TypedLane<L: Listener, A: Acceptor<L>> {
    acceptor: Shared<A>,
    queue: WaitQueue<Waiter<A::State>>,
    prepared: Option<DropCatching<A::State>>,
}

/// An acceptor that waits for a connection.
struct Waiter<S> {
    number: u64,
    /// The generation of the pool's acceptor that it belongs to.
    generation: u64,
    slot: u32,
    wait_time: WaitTime,
    state: DropCatching<S>,
}

impl<S> Waiter<S> {
    fn id(&self, listener: ListenerId) -> ChildId {
        ChildId::new(listener, self.number, self.slot)
    }
}

impl<R: Runtime, L: Listener, A: Acceptor<L>> Factory<R, L> for A {
    fn make_lane(self: Arc<Self>) -> Box<dyn Lane<R, L>> {
        Box::new(TypedLane {
            acceptor: Shared::new(self),
            queue: WaitQueue::new(),
            prepared: None,
        })
    }

    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> InitNow<ErasedState> {
        match ask_for_state::<L, A>(self, listener) {
            InitNow::State(state) => InitNow::State(DropCatching::new(Box::new(state))),
            InitNow::None => InitNow::None,
            InitNow::Failed(end) => InitNow::Failed(end),
        }
    }

    fn spawn_init(self: Arc<Self>, member: Member<R, L>, generation: u64) {
        let factory: Shared<dyn Factory<R, L>> = Shared::new(Arc::<A>::clone(&self));
        let acceptor = Shared::new(self);
        let info = member.listener.info(member.id());
        let init = async move { (**acceptor).init(&info).await };
        InitTask::<R, L, A::State, _>::spawn(member, generation, factory, init);
    }
}

fn ask_for_state<L: Listener, A: Acceptor<L>>(
    acceptor: &A,
    listener: &ListenerInfo<L::Addr>,
) -> InitNow<A::State> {
    match catch_panic(|| acceptor.init_now(listener)) {
        Ok(Some(state)) => InitNow::State(state),
        Ok(None) => InitNow::None,
        Err(message) => InitNow::Failed(ChildEnd::StartError(Failure::Panic(message))),
    }
}

impl<R: Runtime, L: Listener> Home<'_, R, L> {
    /// Starts the `init` of the next acceptor in a task, before the connection is served (B5).
    fn start_next(
        self,
        replacement: Replacement,
        failed: Option<ChildEnd>,
        outrun: bool,
    ) -> Successor {
        let Home { shared, listener } = self;
        match (replacement, failed) {
            (Replacement::Init(child), _) if outrun => shared.start(listener, child),
            (Replacement::Init(child), Some(end)) => shared.ended(listener, child, end),
            (Replacement::Init(child), None) => {
                shared.start_init(listener, child);
                return Successor::Begins;
            }
            (Replacement::Later(child, delay), _) => shared.start_later(listener, child, delay),
            (Replacement::None | Replacement::Waits(..), _) => {}
        }
        Successor::None
    }

    /// Returns the handshake stage of a connection (H7).
    fn stage(
        self,
        handshake: &Shared<L::Handshake>,
        id: ChildId,
        now: Instant,
        timeout: Option<Duration>,
    ) -> HandshakeStage<L::Handshake, L::Addr> {
        let listener = self.listener;
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        HandshakeStage {
            handshake: handshake.clone(),
            deadline: deadline.map(|deadline| listener.host.sleep_until(deadline)),
            listed: Arc::new(Handshaking {
                listener: Arc::clone(listener),
                id,
            }),
        }
    }
}

/// Spawns the task of a connection, which takes the connection. There is no stage if the listener
/// has no handshake.
#[inline]
fn serve<R: Runtime, L: Listener, A: Acceptor<L>>(
    home: Home<'_, R, L>,
    control: Control,
    acceptor: Shared<A>,
    state: A::State,
    incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>,
    stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
) {
    let listener = home.listener;
    let member = home.member(control);
    let id = member.id();
    let of = (listener.id, listener.tag.clone());
    let lifecycle = Lifecycle {
        control: member.control.of_connection(),
    };
    let Some(incoming) = incoming.take() else {
        return;
    };
    let Some(stage) = stage else {
        let incoming = L::Handshake::unchanged(incoming);
        let incoming = incoming.expect("only `NoHandshake` has no stage");
        let connection = Connection::new(incoming, id, of, lifecycle);
        return spawn(&listener.host.runtime, member, || {
            Serve::new(A::serve_in_place(Keep::new(acceptor), connection, state))
        });
    };
    // Each is dropped on its own, polled or not: two panics at once would abort the process.
    let given = (
        DropResuming::new((stage, incoming, of, lifecycle)),
        DropResuming::new(state),
    );
    spawn(&listener.host.runtime, member, || async move {
        let (stage, incoming, of, lifecycle) = given.0.into_inner();
        match stage.run(incoming).await {
            Ok(incoming) => {
                let connection = Connection::new(incoming, id, of, lifecycle);
                let serve = (**acceptor).serve(connection, given.1.into_inner());
                BodyEnd::Served(serve.await.into_exit())
            }
            Err(error) => BodyEnd::HandshakeFailed(error),
        }
    });
}

/// Spawns the task of a connection. Its future is created here, because moving it would copy it.
#[inline]
fn spawn<R: Runtime, L: Listener, F: Future<Output = BodyEnd> + Send + 'static>(
    runtime: &R,
    member: Member<R, L>,
    make: impl FnOnce() -> F,
) {
    if const { size_of::<F>() > LARGEST_FUTURE } {
        runtime.spawn(ChildTask::serve(member, Box::pin(make())));
    } else {
        runtime.spawn(ChildTask::serve(member, make()));
    }
}

fn spawn_terminate<R: Runtime, L: Listener, F: Future<Output = BodyEnd> + Send + 'static>(
    home: Home<'_, R, L>,
    control: Control,
    terminate: F,
    wait_time: WaitTime,
) {
    let (host, member) = (&home.listener.host, home.member(control));
    if const { size_of::<F>() > LARGEST_FUTURE } {
        host.spawn(ChildTask::terminate(member, Box::pin(terminate), wait_time));
    } else {
        host.spawn(ChildTask::terminate(member, terminate, wait_time));
    }
}

const fn has_handshake<L: Listener>() -> bool {
    <L::Handshake as Handshake<L::Io, L::Addr>>::IS_NEEDED
}

impl<L: Listener, A: Acceptor<L>> TypedLane<L, A> {
    /// Drops a prepared state that is not needed.
    fn forget<R: Runtime>(&mut self, newest: &mut Option<&mut Box<dyn Lane<R, L>>>) {
        match newest {
            Some(lane) => lane.forget_prepared(),
            None => self.prepared = None,
        }
    }

    fn dismiss<R: Runtime>(
        &self,
        home: Home<'_, R, L>,
        waiter: Waiter<A::State>,
        why: DismissReason,
    ) {
        let Home { shared, listener } = home;
        let id = waiter.id(listener.id);
        let found = lock(&listener.children).table.terminates(id);
        let Some((control, generation)) = found else {
            // The pool has ended without it. Dropped in a task, because a `Drop` that blocks would
            // keep the socket open.
            listener.host.spawn(async move { drop(waiter) });
            return;
        };
        let commanded = control.commands_to(generation).end_waiting();
        let (reason, wait_time) = match (commanded, why) {
            (Some(reason), _) => (listener.terminate_reason(reason), WaitTime::Long),
            (None, DismissReason::TimedOut) => (Terminate::Timeout, waiter.wait_time),
            (None, DismissReason::Commanded) => (Terminate::Closed, WaitTime::Long),
        };
        let acceptor = self.acceptor.clone();
        let given = (
            DropResuming::new(reason),
            DropResuming::new(waiter.state.into_inner()),
        );
        let terminate = async move {
            let (reason, state) = (given.0.into_inner(), given.1.into_inner());
            (**acceptor).terminate(&reason, state).await;
            BodyEnd::Ended(match reason {
                Terminate::Timeout => ChildEnd::TimedOut(wait_time),
                Terminate::Closed | Terminate::Io(_) | Terminate::Stopped | Terminate::Replaced => {
                    ChildEnd::Stopped
                }
            })
        };
        // A killed acceptor does not terminate: its task finds the command and drops the state
        // (B7).
        spawn_terminate(home, control, terminate, wait_time);
        shared.wake_another_thread_of(listener);
    }
}

impl<R: Runtime, L: Listener, A: Acceptor<L>> Lane<R, L> for TypedLane<L, A> {
    fn is_of(&self, factory: &Shared<dyn Factory<R, L>>) -> bool {
        // Both are alive, so different acceptors have different addresses.
        std::ptr::addr_eq(Arc::as_ptr(&self.acceptor), Arc::as_ptr(factory))
    }

    fn turn(&self) -> Option<u64> {
        self.queue.head().map(|(turn, _)| turn)
    }

    fn earliest(&self) -> Option<Instant> {
        self.queue.earliest()
    }

    fn prepare(&mut self, listener: &ListenerInfo<L::Addr>) -> (Ready, Option<ChildEnd>) {
        match ask_for_state::<L, A>(&self.acceptor, listener) {
            InitNow::State(state) => {
                self.prepared = Some(DropCatching::new(state));
                (Ready::Yes, None)
            }
            InitNow::None => (Ready::No, None),
            InitNow::Failed(end) => (Ready::Failed, Some(end)),
        }
    }

    fn push_prepared(&mut self, turn: u64, id: ChildId, generation: u64) {
        if let Some(state) = self.prepared.take() {
            let waiter = Waiter {
                number: id.number,
                generation,
                slot: id.slot,
                wait_time: WaitTime::Long,
                state,
            };
            self.queue.push_back(turn, waiter, None);
        }
    }

    fn forget_prepared(&mut self) {
        self.prepared = None;
    }

    fn push(&mut self, turn: u64, arrived: Arrived) {
        let Arrived {
            id,
            generation,
            deadline,
            state,
        } = arrived;
        let state = state.into_inner().downcast::<A::State>();
        let state = state.expect("a lane only gets states of its own acceptor type");
        let waiter = Waiter {
            number: id.number,
            generation,
            slot: id.slot,
            wait_time: deadline.map_or(WaitTime::Long, |(_, wait_time)| wait_time),
            state: DropCatching::new(*state),
        };
        self.queue
            .push_back(turn, waiter, deadline.map(|(at, _)| at));
    }

    fn hand_over(
        &mut self,
        home: Home<'_, R, L>,
        given: Given<'_, L>,
        turn: u64,
        mut newest: Option<&mut Box<dyn Lane<R, L>>>,
    ) -> HandedOver {
        let Home { shared, listener } = home;
        let Given {
            incoming,
            info,
            handshake,
            generation,
            slots,
        } = given;
        let Some((_, waiter)) = self.queue.head() else {
            return HandedOver::Gone;
        };
        let id = waiter.id(listener.id);
        // Before `init_now` of the new acceptor is called for a successor, which has its own
        // acceptors. `generation` was read earlier, so an acceptor that is replaced from here on
        // gets a successor that is replaced too.
        if listener.signals.level.replaces(waiter.generation) {
            self.dismiss_first(home);
            return HandedOver::Replaced(None);
        }
        // Cloned before an acceptor leaves the queue: if the clone panics, none is missing.
        let peer = Peer {
            peer_addr: incoming.peer_addr().clone(),
            own: match listener.addresses {
                LocalAddrSource::Listener => None,
                LocalAddrSource::Stream => Some(Box::new(OwnAddrs {
                    local_addr: incoming.local_addr().clone(),
                    transport: None,
                })),
            },
        };
        let state = match has_handshake::<L>() {
            true => ConnectionState::Handshaking,
            false => ConnectionState::Serving,
        };
        let number = listener.signals.next_number();
        // During an outage another acceptor tries; this one is held (B4).
        let outage = listener.signals.has_outage();
        let (ready, failed) = match (outage, &mut newest) {
            (true, _) => (Ready::No, None),
            (false, newest) => {
                info.child = ChildId::new(listener.id, number, ChildId::NO_SLOT);
                match newest {
                    Some(lane) => lane.prepare(info),
                    None => Lane::<R, L>::prepare(self, info),
                }
            }
        };
        let mut next = Next {
            number,
            generation,
            ready,
        };
        let now = shared.time_in_task_of(listener);
        let (became, addrs, outrun, timeout) = {
            let children = &mut *lock(&listener.children);
            let reported = children.reports == ConnectionReports::All;
            let addrs = reported.then(|| (peer.peer_addr.clone(), incoming.local_addr().clone()));
            let table = &mut children.table;
            // Reconfigured since `init_now` was called for the replacement: its `init` would be the
            // old acceptor's. Or it was not called, because the replacement was to be held, and the
            // outage is over.
            let outrun = next.ready == Ready::No && next.generation != table.generation();
            if outrun {
                next.generation = table.generation();
            }
            let became = table.became(id, state, peer, now, next);
            let limits = children.limits;
            if !limits.is_empty() && matches!(became, Became::Serves(..) | Became::ServesLast(_)) {
                slots.hand_on(listener, limits);
            }
            (became, addrs, outrun, children.handshake_timeout)
        };
        let (control, mut successor) = match became {
            Became::Serves(control, Replacement::Waits(child, waits)) => {
                (control, Successor::Waits(waits, Some(child)))
            }
            Became::Serves(control, replacement) => (
                control,
                home.start_next(replacement, failed, outrun || outage),
            ),
            Became::ServesLast(control) => {
                self.forget(&mut newest);
                (control, Successor::None)
            }
            Became::Gone => {
                // It was killed while it waited, and ends like those left in the queue.
                self.forget(&mut newest);
                self.dismiss_first(home);
                return HandedOver::Gone;
            }
            Became::Replaced(next) => {
                self.dismiss_first(home);
                let (Some(next), Some(end)) = (next, failed) else {
                    return HandedOver::Replaced(next);
                };
                shared.ended(listener, next, end);
                return HandedOver::Replaced(None);
            }
        };
        if let Some((peer, local_addr)) = addrs {
            let event = Event::ConnectionBegan {
                listener: listener.id,
                child: id,
                peer,
                local_addr,
            };
            shared.report(listener, event);
        }
        let stage = has_handshake::<L>().then(|| home.stage(handshake, id, now, timeout));
        let Some(Waiter { state, .. }) = self.queue.pop_front() else {
            return HandedOver::Gone;
        };
        if let Successor::Waits(_, child) = &mut successor {
            // An acceptor that arrived meanwhile began to wait earlier (L6).
            if newest.is_none() && !listener.inbox.is_fresh() {
                if let Some(child) = child.take() {
                    Lane::<R, L>::push_prepared(self, turn, child, generation);
                }
            }
        }
        // A runtime that panics here drops the task, which reports its end. The future is created
        // inside the call, because moving it would copy it.
        let acceptor = self.acceptor.clone();
        let _ = catch_panic(|| serve(home, control, acceptor, state.into_inner(), incoming, stage));
        HandedOver::Serves(successor)
    }

    fn dismiss_first(&mut self, home: Home<'_, R, L>) {
        if let Some(waiter) = self.queue.pop_front() {
            self.dismiss(home, waiter, DismissReason::Commanded);
        }
    }

    fn dismiss_expired(&mut self, home: Home<'_, R, L>, until: Instant) {
        if let Some(waiter) = self.queue.pop_expired(until) {
            self.dismiss(home, waiter, DismissReason::TimedOut);
        }
    }

    fn dismiss_commanded(&mut self, home: Home<'_, R, L>) -> usize {
        let listener = home.listener;
        let mut commanded = Vec::new();
        let mut from = 0;
        // The lock is held for one batch at a time.
        while let Some(next) = {
            let table = &lock(&listener.children).table;
            self.queue.visit(from, BATCH, |turn, waiter| {
                let ends = match table.child(waiter.id(listener.id)) {
                    Some((row, control)) => control.commands_to(row.generation()).ends_waiting(),
                    // The pool has ended without it.
                    None => true,
                };
                if ends {
                    commanded.push(turn);
                }
            })
        } {
            from = next;
        }
        for turn in &commanded {
            if let Some(waiter) = self.queue.take(*turn) {
                self.dismiss(home, waiter, DismissReason::Commanded);
            }
        }
        commanded.len()
    }
}
