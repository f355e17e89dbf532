//! What the rest of the pool knows of acceptors whose type it does not: what starts them, and the lanes in which they wait.
//!
//! An [`Acceptor`](crate::Acceptor) has a type of its own, and a pool may change to another while it runs (R1). A [`Factory`]
//! starts acceptors of one type, from any thread. A [`Lane`] has those that wait on one listener, each with its state, and
//! belongs to the accept loop: so states need no lock and no box, and a connection one call that is not known at compile time.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use crate::acceptor::ListenerInfo;
use crate::child::control::Control;
use crate::id::ChildId;
use crate::incoming::Incoming;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::machine::table::{Ready, Waits};
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::PoolShared;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, Shared};

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
    pub(crate) arrived: Arrived,
    /// What has started it.
    pub(crate) factory: Shared<dyn Factory<R, L>>,
}

/// An acceptor of a type that its lane knows, and that has its state.
pub(crate) struct Arrived {
    pub(crate) id: ChildId,
    /// Which of the pool's acceptors it is of.
    pub(crate) generation: u64,
    /// When its accept timeout comes, and how long that is.
    pub(crate) deadline: Option<(Instant, WaitTime)>,
    pub(crate) state: ErasedState,
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
/// What the task of a child has of its pool.
pub(crate) struct Member<R: Runtime, L: Listener> {
    pub(crate) shared: Arc<PoolShared<R, L>>,
    pub(crate) listener: Arc<ListenerShared<R, L>>,
    pub(crate) control: Control,
}

impl<R: Runtime, L: Listener> Member<R, L> {
    pub(crate) fn id(&self) -> ChildId {
        let key = self.control.key();
        ChildId::new(self.listener.id, key.number, key.slot)
    }

    /// The child's end is seen. Its seat may be another's from here on.
    #[inline]
    pub(crate) fn ended(&self, end: ChildEnd) {
        self.shared.ended(&self.listener, self.id(), end);
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
    fn push_prepared(&mut self, turn: u64, id: ChildId, generation: u64);

    /// Drops what was prepared and is of no use.
    fn forget_prepared(&mut self);

    /// An acceptor begins to wait that was started by the factory of this lane.
    fn push(&mut self, turn: u64, arrived: Arrived);

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
