//! A lane: the acceptors of one spec that wait on one listener, each with its state, and what starts them.
//!
//! An [`Acceptor`] has a type of its own, and a pool may change to another while it runs (R1). The accept loop owns one lane
//! for each acceptor of which any waits: so states need no lock and no box, and a connection one call that is not known at
//! compile time, in which its whole task is made as one future. Invariants: a state is in its lane only while its
//! acceptor waits; the task that takes it runs `serve` or `terminate` with it, or drops it; the future
//! of `serve` is made only when a connection is there (B9); over all lanes, the acceptor that has waited longest is first (L6).

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use crate::acceptor::{Acceptor, Keep, ListenerInfo, Terminate};
use crate::child::control::Control;
use crate::connection::{Connection, Lifecycle};
use crate::exit::IntoExit;
use crate::handshake::{Handshake, HandshakeStage};
use crate::id::{ChildId, ListenerId};
use crate::incoming::Incoming;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::machine::table::Ready;
use crate::pool::child_task::{BodyEnd, ChildTask, Member, Serve};
use crate::pool::driver::BATCH;
use crate::pool::init_task::InitTask;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::{DismissReason, PoolShared};
use crate::pool::wait_queue::WaitQueue;
use crate::report::Failure;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, DropResuming, Shared, catch_panic, lock};

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
    fn make_lane(self: Arc<Self>, listener: ListenerId) -> Box<dyn Lane<R, L>>;

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

/// The acceptors of one type that wait on a listener.
pub(crate) trait Lane<R: Runtime, L: Listener>: Send {
    fn is_of(&self, factory: &Shared<dyn Factory<R, L>>) -> bool;

    /// The turn and the id of the acceptor that has waited longest here.
    fn head(&self) -> Option<(u64, ChildId)>;

    /// When the first timeout comes.
    fn earliest(&self) -> Option<Instant>;

    /// Asks for the state of one more acceptor, and keeps it; with the end of one that failed.
    fn prepare(&mut self, listener: &ListenerInfo<L::Addr>) -> (Ready, Option<ChildEnd>);

    /// The acceptor whose state was prepared begins to wait.
    fn push_prepared(&mut self, turn: u64, id: ChildId);

    /// Drops what was prepared and is of no use.
    fn forget_prepared(&mut self);

    /// An acceptor begins to wait that was started by the factory of this lane.
    fn push(&mut self, turn: u64, id: ChildId, deadline: Option<(Instant, WaitTime)>, state: ErasedState);

    /// The acceptor that has waited longest here serves a connection, which it takes. There is no stage if the listener has no
    /// handshake.
    fn serve_head(
        &mut self,
        home: Home<'_, R, L>,
        control: Control,
        incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>,
        stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
    );

    /// The acceptor that has waited longest here terminates.
    fn dismiss_head(&mut self, home: Home<'_, R, L>);

    /// An acceptor whose timeout has come by then terminates.
    fn dismiss_expired(&mut self, home: Home<'_, R, L>, until: Instant);

    /// Those that were commanded to end terminate; returns how many.
    fn dismiss_commanded(&mut self, home: Home<'_, R, L>) -> usize;
}

struct TypedLane<L: Listener, A: Acceptor<L>> {
    listener: ListenerId,
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
    fn make_lane(self: Arc<Self>, listener: ListenerId) -> Box<dyn Lane<R, L>> {
        Box::new(TypedLane {
            listener,
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
        let listener = Arc::clone(&member.listener);
        let task = InitTask::<R, L, A::State, _>::new(member, generation, factory, init);
        listener.host.spawn(task);
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

impl<L: Listener, A: Acceptor<L>> TypedLane<L, A> {
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

    fn head(&self) -> Option<(u64, ChildId)> {
        let (turn, waiter) = self.queue.head()?;
        Some((turn, waiter.id(self.listener)))
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
        self.queue.push_back(turn, waiter, deadline.map(|(at, _)| at));
    }

    fn serve_head(
        &mut self,
        home: Home<'_, R, L>,
        control: Control,
        incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>,
        stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
    ) {
        let (Some(Waiter { state, .. }), Some(incoming)) =
            (self.queue.pop_front(), incoming.take())
        else {
            return;
        };
        let listener = home.listener;
        let member = home.member(control);
        let id = member.id();
        let of = (listener.id, listener.tag.clone());
        let lifecycle = Lifecycle {
            control: member.control.of_connection(),
        };
        let acceptor = self.acceptor.clone();
        let Some(stage) = stage else {
            let incoming = L::Handshake::unchanged(incoming);
            let incoming = incoming.expect("the accept loop makes a stage for each other handshake");
            let connection = Connection::new(incoming, id, of, lifecycle);
            let serve = A::serve_in_place(Keep::new(acceptor), connection, state.into_inner());
            return listener.host.spawn(ChildTask::serve(member, Serve::new(serve)));
        };
        // Each is dropped by itself, polled or not: two panics at once would abort the process.
        let given = (
            DropResuming::new((stage, incoming, of, lifecycle)),
            DropResuming::new(state.into_inner()),
        );
        let serve = async move {
            let (stage, incoming, of, lifecycle) = given.0.into_inner();
            match stage.run(incoming).await {
                Ok(incoming) => {
                    let connection = Connection::new(incoming, id, of, lifecycle);
                    let serve = (**acceptor).serve(connection, given.1.into_inner());
                    BodyEnd::Served(serve.await.into_exit())
                }
                Err(error) => BodyEnd::HandshakeFailed(error),
            }
        };
        listener.host.spawn(ChildTask::serve(member, serve));
    }

    fn dismiss_head(&mut self, home: Home<'_, R, L>) {
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
    listener: ListenerId,
    lanes: Vec<Box<dyn Lane<R, L>>>,
    /// Of the acceptor that begins to wait next.
    turn: u64,
    /// How many wait, in all lanes.
    waiting: usize,
    /// Whether any may have a timeout.
    timed: bool,
}

impl<R: Runtime, L: Listener> Lanes<R, L> {
    pub(crate) fn new(listener: ListenerId, factory: &Shared<dyn Factory<R, L>>) -> Self {
        Self {
            listener,
            lanes: vec![Arc::clone(factory).make_lane(listener)],
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
            None => Arc::clone(factory).make_lane(self.listener),
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
                left == 0 || lane.head().is_some()
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// The lane of the acceptor that has waited longest, and its id.
    fn first(&self) -> Option<(usize, ChildId)> {
        if let [only] = self.lanes.as_slice() {
            return only.head().map(|(_, id)| (0, id));
        }
        let heads = self.lanes.iter().enumerate();
        let heads = heads.filter_map(|(at, lane)| lane.head().map(|(turn, id)| (turn, at, id)));
        let (_, at, id) = heads.min_by_key(|(turn, ..)| *turn)?;
        Some((at, id))
    }

    /// The acceptor that has waited longest.
    pub(crate) fn head(&self) -> Option<ChildId> {
        self.first().map(|(_, id)| id)
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

    /// Asks for the state of the next acceptor, and keeps it; with the end of one that failed.
    pub(crate) fn prepare(
        &mut self,
        listener: &ListenerInfo<L::Addr>,
    ) -> (Ready, Option<ChildEnd>) {
        self.newest().prepare(listener)
    }

    pub(crate) fn forget_prepared(&mut self) {
        self.newest().forget_prepared();
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
            let lane = Arc::clone(&factory).make_lane(self.listener);
            self.lanes.insert(0, lane);
            0
        });
        self.lanes[at].push(turn, id, deadline, state);
    }

    /// The acceptor that has waited longest serves a connection, which it takes.
    pub(crate) fn serve_head(
        &mut self,
        home: Home<'_, R, L>,
        control: Control,
        incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>,
        stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
    ) {
        if let Some((at, _)) = self.first() {
            self.waiting -= 1;
            self.lanes[at].serve_head(home, control, incoming, stage);
            self.prune();
        }
    }

    /// The acceptor that has waited longest terminates; false if there is none.
    pub(crate) fn dismiss_head(&mut self, home: Home<'_, R, L>) -> bool {
        let Some((at, _)) = self.first() else {
            return false;
        };
        self.waiting -= 1;
        self.lanes[at].dismiss_head(home);
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
