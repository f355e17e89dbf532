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

    /// The turn of the acceptor that has waited longest here.
    fn turn(&self) -> Option<u64>;

    /// Whether an acceptor was taken, and neither serves nor terminates yet.
    fn has_taken(&self) -> bool;

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

    /// Takes the acceptor that has waited longest here out of the queue. It is to serve or to terminate next.
    fn take_head(&mut self) -> Option<ChildId>;

    /// The acceptor that was taken serves a connection, which it takes. There is no stage if the listener has no
    /// handshake.
    fn serve_taken(
        &mut self,
        home: Home<'_, R, L>,
        control: Control,
        incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>,
        stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
    );

    /// The acceptor that was taken terminates.
    fn dismiss_taken(&mut self, home: Home<'_, R, L>);

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
    taken: Option<Waiter<A::State>>,
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
            taken: None,
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

    fn turn(&self) -> Option<u64> {
        self.queue.head().map(|(turn, _)| turn)
    }

    fn has_taken(&self) -> bool {
        self.taken.is_some()
    }

    fn take_head(&mut self) -> Option<ChildId> {
        self.taken = self.queue.pop_front();
        self.taken.as_ref().map(|waiter| waiter.id(self.listener))
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

    fn serve_taken(
        &mut self,
        home: Home<'_, R, L>,
        control: Control,
        incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>,
        stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
    ) {
        let (Some(Waiter { state, .. }), Some(incoming)) = (self.taken.take(), incoming.take())
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
            let incoming =
                incoming.expect("the accept loop makes a stage for each other handshake");
            let connection = Connection::new(incoming, id, of, lifecycle);
            let serve = A::serve_in_place(Keep::new(acceptor), connection, state.into_inner());
            let task = ChildTask::serve(member, Serve::new(serve));
            return listener.host.runtime.spawn(task);
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
        listener.host.runtime.spawn(ChildTask::serve(member, serve));
    }

    fn dismiss_taken(&mut self, home: Home<'_, R, L>) {
        if let Some(waiter) = self.taken.take() {
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
                left == 0 || lane.turn().is_some() || lane.has_taken()
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes the acceptor that has waited longest out of its queue. It is to serve or to terminate next.
    pub(crate) fn take_head(&mut self) -> Option<ChildId> {
        let at = match self.lanes.as_slice() {
            [_only] => 0,
            lanes => {
                let turns = lanes.iter().enumerate();
                let turns = turns.filter_map(|(at, lane)| lane.turn().map(|turn| (turn, at)));
                turns.min()?.1
            }
        };
        let head = self.lanes[at].take_head()?;
        self.waiting -= 1;
        Some(head)
    }

    /// The lane of the acceptor that was taken. Others may have come before it meanwhile.
    fn taken(&mut self) -> Option<&mut Box<dyn Lane<R, L>>> {
        self.lanes.iter_mut().find(|lane| lane.has_taken())
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

    /// The acceptor that was taken serves a connection, which it takes.
    ///
    /// The task is handed to the runtime from within: a runtime that panics there drops it, which reports its end.
    pub(crate) fn serve_taken(
        &mut self,
        home: Home<'_, R, L>,
        control: Control,
        incoming: &mut DropCatching<Incoming<L::Io, L::Addr>>,
        stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
    ) {
        if let Some(lane) = self.taken() {
            // A future that is moved into the call is copied: so it is made there.
            let _ = catch_panic(|| lane.serve_taken(home, control, incoming, stage));
            self.prune();
        }
    }

    /// The acceptor that was taken terminates, else the one that has waited longest; false if there is none.
    pub(crate) fn dismiss_head(&mut self, home: Home<'_, R, L>) -> bool {
        if self.taken().is_none() {
            self.take_head();
        }
        let Some(lane) = self.taken() else {
            return false;
        };
        lane.dismiss_taken(home);
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

    /// The numbers of those that wait, in their order.
    fn drain(lanes: &mut TestLanes) -> Vec<u64> {
        let heads = std::iter::from_fn(|| lanes.take_head());
        let numbers = heads.map(|id| id.number).collect();
        // None is left that was taken.
        lanes.lanes.iter_mut().for_each(|lane| {
            lane.take_head();
        });
        numbers
    }

    #[test]
    fn first_over_all_lanes_has_waited_longest() {
        let (old, new) = (factory(), factory());
        let mut lanes = Lanes::new(LISTENER, &old);
        lanes.push(arrival(&old, 1));
        lanes.renew(&new);
        for (factory, number) in [(&new, 2), (&old, 4), (&new, 3), (&old, 5)] {
            lanes.push(arrival(factory, number));
        }
        assert!(!lanes.is_empty());
        assert_eq!(drain(&mut lanes), [1, 2, 4, 3, 5]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn lane_is_forgotten_with_the_last_acceptor_of_an_earlier_spec() {
        let (old, new) = (factory(), factory());
        let mut lanes = Lanes::new(LISTENER, &old);
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

    /// While an acceptor has left its queue and does not serve yet the spec is replaced, and another arrives.
    #[test]
    fn acceptor_that_was_taken_stays_in_its_lane() {
        let (old, new, older) = (factory(), factory(), factory());
        let mut lanes = Lanes::new(LISTENER, &old);
        lanes.push(arrival(&old, 1));
        assert_eq!(lanes.take_head().map(|id| id.number), Some(1));
        lanes.renew(&new);
        lanes.push(arrival(&older, 2));
        assert_eq!(lanes.lanes.len(), 3);
        assert!(lanes.taken().is_some_and(|lane| lane.is_of(&old)));
        assert!(lanes.newest().is_of(&new));
    }

    #[test]
    fn timeouts_come_by_their_time() {
        let (old, new, now) = (factory(), factory(), Instant::now());
        let mut lanes = Lanes::new(LISTENER, &old);
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
            let lane = lanes
                .lanes
                .iter_mut()
                .find(|lane| lane.earliest() == Some(at));
            let listener = crate::pool::listener_shared::testing::listener::<Nowhere>(1);
            let spec = crate::spec::Spec::new("test", acceptor_fn(|_| async { Ok(()) }));
            let spec = crate::pool::spec::ErasedSpec::checked(spec).expect("it is allowed");
            let shared = PoolShared::new(Tasks::new(), spec);
            let home = Home {
                shared: &shared,
                listener: &listener,
            };
            assert!(lane.is_some());
            assert!(!lanes.dismiss_expired(home, at - Duration::from_micros(1)));
            assert!(lanes.dismiss_expired(home, at));
        }
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
        let mut lanes = Lanes::new(LISTENER, &factory);
        let dropped = |expected| assert_eq!(drops.load(Ordering::SeqCst), expected);
        for _ in 0..2 {
            assert!(matches!(lanes.prepare(&info()), (Ready::Yes, None)));
            lanes.forget_prepared();
            lanes.forget_prepared();
        }
        dropped(2);
        assert!(matches!(lanes.prepare(&info()), (Ready::Yes, None)));
        lanes.push_prepared(ChildId::new(LISTENER, 1, 0));
        let InitNow::State(state) = factory.init_now(&info()) else {
            panic!("it has a state");
        };
        lanes.push(Arrival {
            state,
            ..arrival(&factory, 2)
        });
        assert!(lanes.take_head().is_some());
        dropped(2);
        // One was taken, one waits, and one is prepared.
        assert!(matches!(lanes.prepare(&info()), (Ready::Yes, None)));
        drop(lanes);
        dropped(5);
    }
}
