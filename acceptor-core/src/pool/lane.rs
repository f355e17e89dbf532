//! A lane: the acceptors of one spec that wait on one listener, each with its state, and what starts them.
//!
//! An [`Acceptor`] has a type of its own, and a pool may change to another while it runs (R1). The accept loop owns one lane
//! for each acceptor of which any waits: so states need no lock and no box, and a connection one call that is not known at
//! compile time, in which its whole task is made as one future. Invariants: a state is in its lane only while its
//! acceptor waits; the task that takes it runs `serve` or `terminate` with it, or drops it; the future
//! of `serve` is made only when a connection is there (B9); over all lanes, the acceptor that has waited longest is first (L6).

use std::any::Any;
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
use crate::machine::table::{Became, Next, Ready, Replacement, Waits};
use crate::policy::ConnectionReports;
use crate::pool::child_task::{BodyEnd, ChildTask, Member, Serve};
use crate::pool::driver::BATCH;
use crate::pool::init_task::InitTask;
use crate::pool::listener_shared::{Handshaking, ListenerShared, LocalAddrSource};
use crate::pool::shared::{DismissReason, PoolShared};
use crate::pool::wait_queue::WaitQueue;
use crate::report::{Event, Failure};
use crate::runtime::Runtime;
use crate::status::ConnectionState;
use crate::sync::{DropCatching, DropResuming, Shared, catch_panic, lock};

/// The largest future, in bytes, that is part of its task. A larger one has an allocation of its own: a runtime may copy a task
/// several times on its stack, of which a worker has little.
pub(crate) const LARGEST_FUTURE: usize = 16 * 1024;

/// A state of a type that the lane knows.
pub(crate) type ErasedState = DropCatching<Box<dyn Any + Send>>;

/// What an acceptor answers that is asked for its state at once.
pub(crate) enum InitNow<S> {
    State(S),
    /// Its `init` is to run.
    None,
    Failed(ChildEnd),
}

/// Starts acceptors, whatever their type.
pub(crate) trait Factory<R: Runtime, L: Listener>: Send + Sync + 'static {
    fn make_lane(self: Arc<Self>) -> Box<dyn Lane<R, L>>;

    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> InitNow<ErasedState>;

    /// Runs `init` in a task of its own. `generation` says which of the pool's acceptors this is.
    fn spawn_init(self: Arc<Self>, member: Member<R, L>, generation: u64);
}

/// An acceptor that has its state, on its way to the accept loop.
pub(crate) struct Arrival<R: Runtime, L: Listener> {
    pub(crate) id: ChildId,
    /// When its accept timeout comes, and how long that is.
    pub(crate) deadline: Option<(Instant, WaitTime)>,
    pub(crate) state: ErasedState,
    /// What has started it.
    pub(crate) factory: Shared<dyn Factory<R, L>>,
}

/// The parts of the pool that a lane spawns tasks for.
pub(crate) struct Home<'a, R: Runtime, L: Listener> {
    pub(crate) shared: &'a Arc<PoolShared<R, L>>,
    pub(crate) listener: &'a Arc<ListenerShared<R, L>>,
}

impl<R: Runtime, L: Listener> Clone for Home<'_, R, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: Runtime, L: Listener> Copy for Home<'_, R, L> {}

impl<R: Runtime, L: Listener> Home<'_, R, L> {
    pub(crate) fn member(self, control: Control) -> Member<R, L> {
        Member {
            shared: Arc::clone(self.shared),
            listener: Arc::clone(self.listener),
            control,
        }
    }
}

impl<R: Runtime, L: Listener> Home<'_, R, L> {
    /// The next acceptor has its `init` in a task before the connection is served (B5).
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

    /// The needs of the handshake of a connection (H7).
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

/// A connection for the acceptor that has waited longest, and what the accept loop has for it.
pub(crate) struct Given<'a, L: Listener> {
    /// It is taken if the connection is served.
    pub(crate) incoming: &'a mut DropCatching<Incoming<L::Io, L::Addr>>,
    /// The view of the listener for an acceptor without an `init`.
    pub(crate) info: &'a mut ListenerInfo<L::Addr>,
    pub(crate) handshake: &'a Shared<L::Handshake>,
    /// Which of the pool's acceptors the newest lane is of.
    pub(crate) generation: u64,
}

/// What has become of the acceptor that a connection was for.
#[derive(Debug)]
pub(crate) enum HandedOver {
    Serves(Successor),
    /// It was killed while it waited, and ends.
    Gone,
    /// It is of an acceptor that was replaced, and terminates (R1): the connection is for another. This one has its state,
    /// and is to wait until it terminates, too.
    Replaced(Option<ChildId>),
}

/// The acceptor that takes the place of one that has become a connection.
#[derive(Debug)]
pub(crate) enum Successor {
    /// It waits; it is yet to be put into the newest lane, if it is named.
    Waits(Waits, Option<ChildId>),
    /// Its `init` has a task.
    Begins,
    None,
}

/// The acceptors of one type that wait on a listener.
pub(crate) trait Lane<R: Runtime, L: Listener>: Send {
    fn is_of(&self, factory: &Shared<dyn Factory<R, L>>) -> bool;

    /// The turn of the acceptor that has waited longest here.
    fn turn(&self) -> Option<u64>;

    /// When the first timeout comes.
    fn earliest(&self) -> Option<Instant>;

    /// Asks for the state of one more acceptor, and keeps it; with the end of one that failed.
    fn prepare(&mut self, listener: &ListenerInfo<L::Addr>) -> (Ready, Option<ChildEnd>);

    /// The acceptor whose state was prepared begins to wait.
    fn push_prepared(&mut self, turn: u64, id: ChildId);

    /// Drops what was prepared and is of no use.
    fn forget_prepared(&mut self);

    /// An acceptor begins to wait that was started by the factory of this lane.
    fn push(
        &mut self,
        turn: u64,
        id: ChildId,
        deadline: Option<(Instant, WaitTime)>,
        state: ErasedState,
    );

    /// The acceptor that has waited longest here has a connection. `turn` is that of the next one, and `newest` is the lane of the acceptor that the pool has,
    /// unless it is this one.
    fn hand_over(
        &mut self,
        home: Home<'_, R, L>,
        given: Given<'_, L>,
        turn: u64,
        newest: Option<&mut Box<dyn Lane<R, L>>>,
    ) -> HandedOver;

    /// The acceptor that has waited longest here terminates.
    fn dismiss_first(&mut self, home: Home<'_, R, L>);

    /// An acceptor whose timeout has come by then terminates.
    fn dismiss_expired(&mut self, home: Home<'_, R, L>, until: Instant);

    /// Those that were commanded to end terminate; returns how many.
    fn dismiss_commanded(&mut self, home: Home<'_, R, L>) -> usize;
}

struct TypedLane<L: Listener, A: Acceptor<L>> {
    acceptor: Shared<A>,
    queue: WaitQueue<Waiter<A::State>>,
    prepared: Option<DropCatching<A::State>>,
}

/// An acceptor that waits for a connection.
struct Waiter<S> {
    number: u64,
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

/// Spawns the task of a connection, which it takes. There is no stage if the listener has no handshake.
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
        let incoming = incoming.expect("a stage is made for each other handshake");
        let connection = Connection::new(incoming, id, of, lifecycle);
        return spawn(&listener.host.runtime, member, || {
            Serve::new(A::serve_in_place(Keep::new(acceptor), connection, state))
        });
    };
    // Each is dropped by itself, polled or not: two panics at once would abort the process.
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

/// Spawns the task of a connection, whose future is made here: one that is moved is copied.
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

const fn has_handshake<L: Listener>() -> bool {
    <L::Handshake as Handshake<L::Io, L::Addr>>::IS_NEEDED
}

impl<L: Listener, A: Acceptor<L>> TypedLane<L, A> {
    /// What was prepared is of no use.
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
            // The pool has ended without it. Not dropped here, since a `Drop` that blocks would hold the socket.
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
        // One that was killed does not terminate: its task finds that out, and drops the state (B7).
        let task = ChildTask::terminate(home.member(control), terminate, wait_time);
        listener.host.spawn(task);
        shared.wake_another_thread_of(listener);
    }
}

impl<R: Runtime, L: Listener, A: Acceptor<L>> Lane<R, L> for TypedLane<L, A> {
    fn is_of(&self, factory: &Shared<dyn Factory<R, L>>) -> bool {
        // Both are alive: two acceptors are not in the same place.
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

    fn push_prepared(&mut self, turn: u64, id: ChildId) {
        if let Some(state) = self.prepared.take() {
            let waiter = Waiter {
                number: id.number,
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

    fn push(
        &mut self,
        turn: u64,
        id: ChildId,
        deadline: Option<(Instant, WaitTime)>,
        state: ErasedState,
    ) {
        let state = state.into_inner().downcast::<A::State>();
        let state = state.expect("a lane gets the states of its own acceptor");
        let waiter = Waiter {
            number: id.number,
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
        } = given;
        let Some((_, waiter)) = self.queue.head() else {
            return HandedOver::Gone;
        };
        let id = waiter.id(listener.id);
        // Copied before an acceptor leaves the queue: should it panic, none is missing.
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
            // Reconfigured since the replacement was asked for its state: its `init` would be the old acceptor's. Or it was not
            // asked, since it was to be held, and the outage is over.
            let outrun = next.ready == Ready::No && next.generation != table.generation();
            if outrun {
                next.generation = table.generation();
            }
            let became = table.became(id, state, peer, now, next);
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
                // It was killed while it waited: it ends as those do that are left in the queue.
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
                    Lane::<R, L>::push_prepared(self, turn, child);
                }
            }
        }
        // A runtime that panics here drops the task, which reports its end. A future that is moved into the call is copied: so
        // it is made there.
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
        // The lock is held for a batch of them.
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

/// The lanes of a listener: the last is that of the acceptor that the pool has, those before it of earlier ones that have
/// acceptors left.
pub(crate) struct Lanes<R: Runtime, L: Listener> {
    lanes: Vec<Box<dyn Lane<R, L>>>,
    /// Of the acceptor that begins to wait next.
    turn: u64,
    /// How many wait, in all lanes.
    waiting: usize,
    /// Whether any may have a timeout.
    timed: bool,
}

impl<R: Runtime, L: Listener> Lanes<R, L> {
    pub(crate) fn new(factory: &Shared<dyn Factory<R, L>>) -> Self {
        Self {
            lanes: vec![Arc::clone(factory).make_lane()],
            turn: 0,
            waiting: 0,
            timed: false,
        }
    }

    /// From now on new acceptors are of this factory.
    pub(crate) fn renew(&mut self, factory: &Shared<dyn Factory<R, L>>) {
        let known = self.lanes.iter().position(|lane| lane.is_of(factory));
        let lane = match known {
            Some(at) => self.lanes.remove(at),
            None => Arc::clone(factory).make_lane(),
        };
        self.lanes.push(lane);
        self.prune();
    }

    /// Forgets earlier acceptors of which none waits.
    fn prune(&mut self) {
        let mut left = self.lanes.len();
        if left > 1 {
            self.lanes.retain(|lane| {
                left -= 1;
                left == 0 || lane.turn().is_some()
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// The place of the lane with the acceptor that has waited longest.
    fn first(&self) -> usize {
        let last = self.lanes.len() - 1;
        if last == 0 {
            return 0;
        }
        let turns = self.lanes.iter().enumerate();
        let turns = turns.filter_map(|(at, lane)| lane.turn().map(|turn| (turn, at)));
        turns.min().map_or(last, |(_, at)| at)
    }

    /// When the first timeout comes.
    pub(crate) fn earliest(&mut self) -> Option<Instant> {
        if !self.timed {
            return None;
        }
        let earliest = self.lanes.iter().filter_map(|lane| lane.earliest()).min();
        self.timed = earliest.is_some();
        earliest
    }

    fn newest(&mut self) -> &mut dyn Lane<R, L> {
        let newest = self.lanes.last_mut();
        &mut **newest.expect("there is a lane for the acceptor that the pool has")
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.waiting += 1;
        self.turn
    }

    pub(crate) fn push_prepared(&mut self, id: ChildId) {
        let turn = self.next_turn();
        self.newest().push_prepared(turn, id);
    }

    pub(crate) fn push(&mut self, arrival: Arrival<R, L>) {
        let Arrival {
            id,
            deadline,
            state,
            factory,
        } = arrival;
        let turn = self.next_turn();
        self.timed |= deadline.is_some();
        let known = self.lanes.iter().rposition(|lane| lane.is_of(&factory));
        let at = known.unwrap_or_else(|| {
            // It was started before the spec was replaced, or after and the accept loop has not seen it yet.
            let lane = Arc::clone(&factory).make_lane();
            self.lanes.insert(0, lane);
            0
        });
        self.lanes[at].push(turn, id, deadline, state);
    }

    /// The acceptor that has waited longest has a connection, which it takes if it serves it.
    pub(crate) fn hand_over(&mut self, home: Home<'_, R, L>, given: Given<'_, L>) -> HandedOver {
        if self.is_empty() {
            return HandedOver::Gone;
        }
        let at = self.first();
        let turn = self.turn + 1;
        let Some((newest, earlier)) = self.lanes.split_last_mut() else {
            return HandedOver::Gone;
        };
        let handed_over = match earlier.get_mut(at) {
            None => newest.hand_over(home, given, turn, None),
            Some(lane) => {
                let handed_over = lane.hand_over(home, given, turn, Some(newest));
                self.prune();
                handed_over
            }
        };
        match handed_over {
            // One left, and another came.
            HandedOver::Serves(Successor::Waits(_, None)) => self.turn = turn,
            _ => self.waiting -= 1,
        }
        handed_over
    }

    /// The acceptor that has waited longest terminates; false if there is none.
    pub(crate) fn dismiss_head(&mut self, home: Home<'_, R, L>) -> bool {
        if self.is_empty() {
            return false;
        }
        let at = self.first();
        self.waiting -= 1;
        self.lanes[at].dismiss_first(home);
        self.prune();
        true
    }

    /// An acceptor whose timeout has come by then terminates; false if there is none.
    pub(crate) fn dismiss_expired(&mut self, home: Home<'_, R, L>, until: Instant) -> bool {
        let timeouts = self.lanes.iter_mut();
        let timeouts = timeouts.filter_map(|lane| lane.earliest().map(|at| (at, lane)));
        let Some((at, lane)) = timeouts.min_by_key(|(at, _)| *at) else {
            return false;
        };
        if at > until {
            return false;
        }
        self.waiting -= 1;
        lane.dismiss_expired(home, until);
        self.prune();
        true
    }

    /// Those that were commanded to end terminate.
    pub(crate) fn dismiss_commanded(&mut self, home: Home<'_, R, L>) {
        for lane in &mut self.lanes {
            self.waiting -= lane.dismiss_commanded(home);
        }
        self.prune();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::acceptor::testing::info;
    use crate::acceptor::{Init, acceptor_fn};
    use crate::error::BoxError;
    use crate::id::PoolId;
    use crate::listener::testing::Nowhere;
    use crate::runtime::testing::Tasks;

    type TestFactory = Shared<dyn Factory<Tasks, Nowhere>>;
    type TestLanes = Lanes<Tasks, Nowhere>;

    const LISTENER: ListenerId = ListenerId {
        sequence: 1,
        pool: PoolId::ANY,
    };

    fn factory() -> TestFactory {
        Shared::new(Arc::new(acceptor_fn(|_| async { Ok(()) })))
    }

    fn arrival(factory: &TestFactory, number: u64) -> Arrival<Tasks, Nowhere> {
        Arrival {
            id: ChildId::new(LISTENER, number, 0),
            deadline: None,
            state: DropCatching::new(Box::new(())),
            factory: factory.clone(),
        }
    }

    /// Calls `then` with a home for the tasks of lanes.
    fn at_home(then: impl FnOnce(Home<'_, Tasks, Nowhere>)) {
        let listener = crate::pool::listener_shared::testing::listener::<Nowhere>(1);
        let spec = crate::spec::Spec::new("test", acceptor_fn(|_| async { Ok(()) }));
        let spec = crate::pool::spec::ErasedSpec::checked(spec).expect("it is allowed");
        let shared = PoolShared::new(Tasks::new(), spec);
        then(Home {
            shared: &shared,
            listener: &listener,
        });
    }

    /// The turns of those that wait, in the order in which they are taken.
    fn drain(lanes: &mut TestLanes) -> Vec<u64> {
        let mut turns = Vec::new();
        at_home(|home| {
            while let Some(turn) = lanes.lanes[lanes.first()].turn() {
                assert!(lanes.dismiss_head(home));
                turns.push(turn);
            }
            assert!(!lanes.dismiss_head(home));
        });
        turns
    }

    #[test]
    fn first_over_all_lanes_has_waited_longest() {
        let (old, new) = (factory(), factory());
        let mut lanes = Lanes::new(&old);
        lanes.push(arrival(&old, 1));
        lanes.renew(&new);
        for (factory, number) in [(&new, 2), (&old, 3), (&new, 4), (&old, 5)] {
            lanes.push(arrival(factory, number));
        }
        assert!(!lanes.is_empty());
        assert_eq!(drain(&mut lanes), [1, 2, 3, 4, 5]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn lane_is_forgotten_with_the_last_acceptor_of_an_earlier_spec() {
        let (old, new) = (factory(), factory());
        let mut lanes = Lanes::new(&old);
        lanes.push(arrival(&old, 1));
        lanes.renew(&new);
        assert_eq!(lanes.lanes.len(), 2);
        assert_eq!(drain(&mut lanes), [1]);
        lanes.prune();
        assert_eq!(lanes.lanes.len(), 1);
        assert!(lanes.newest().is_of(&new));
        // It is made again for one that comes late, or early.
        lanes.push(arrival(&old, 2));
        assert!(lanes.newest().is_of(&new));
        lanes.renew(&old);
        assert!(lanes.newest().is_of(&old));
        assert_eq!((lanes.lanes.len(), drain(&mut lanes)), (1, vec![2]));
    }

    #[test]
    fn timeouts_come_by_their_time() {
        let (old, new, now) = (factory(), factory(), Instant::now());
        let mut lanes = Lanes::new(&old);
        assert_eq!(lanes.earliest(), None);
        lanes.renew(&new);
        for (factory, number, ms) in [(&old, 1, 3), (&new, 2, 1), (&old, 3, 2)] {
            let deadline = Some((now + Duration::from_millis(ms), WaitTime::Long));
            let arrival = arrival(factory, number);
            lanes.push(Arrival {
                deadline,
                ..arrival
            });
        }
        for left in [vec![1, 2, 3], vec![1, 3], vec![1], vec![]] {
            let earliest = lanes.earliest();
            let times = left.iter().map(|number| [0, 3, 1, 2][*number]);
            let first = times.min().map(|ms| now + Duration::from_millis(ms));
            assert_eq!(earliest, first);
            let Some(at) = earliest else { continue };
            at_home(|home| {
                assert!(!lanes.dismiss_expired(home, at - Duration::from_micros(1)));
                assert!(lanes.dismiss_expired(home, at));
            });
        }
        assert!(lanes.is_empty());
    }

    /// A state that counts its drops, and panics.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }

    struct Counts(Arc<AtomicUsize>);

    impl Acceptor<Nowhere> for Counts {
        type State = Counted;
        type Exit = Result<(), BoxError>;

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<Counted>, BoxError> {
            Ok(Init::Accept(Counted(Arc::clone(&self.0))))
        }

        fn init_now(&self, _: &ListenerInfo<SocketAddr>) -> Option<Counted> {
            Some(Counted(Arc::clone(&self.0)))
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, _: Counted) -> Result<(), BoxError> {
            Ok(())
        }
    }

    #[test]
    fn state_is_dropped_once_and_its_panic_is_contained() {
        let drops = Arc::new(AtomicUsize::new(0));
        let factory: TestFactory = Shared::new(Arc::new(Counts(Arc::clone(&drops))));
        let mut lanes = Lanes::new(&factory);
        let dropped = |expected| assert_eq!(drops.load(Ordering::SeqCst), expected);
        for _ in 0..2 {
            assert!(matches!(
                lanes.newest().prepare(&info()),
                (Ready::Yes, None)
            ));
            lanes.newest().forget_prepared();
            lanes.newest().forget_prepared();
        }
        dropped(2);
        assert!(matches!(
            lanes.newest().prepare(&info()),
            (Ready::Yes, None)
        ));
        lanes.push_prepared(ChildId::new(LISTENER, 1, 0));
        let InitNow::State(state) = factory.init_now(&info()) else {
            panic!("it has a state");
        };
        lanes.push(Arrival {
            state,
            ..arrival(&factory, 2)
        });
        dropped(2);
        // One that is in no table any longer is dropped with its task.
        at_home(|home| assert!(lanes.dismiss_head(home)));
        dropped(3);
        // One waits, and one is prepared.
        assert!(matches!(
            lanes.newest().prepare(&info()),
            (Ready::Yes, None)
        ));
        drop(lanes);
        dropped(5);
    }
}
