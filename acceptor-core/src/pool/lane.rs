//! Acceptors with their type erased: the factory that starts them, and the lanes in which they
//! wait.
//!
//! An [`Acceptor`](crate::Acceptor) has a type of its own, and a pool may change to another while
//! it runs (R1). A [`Factory`] starts acceptors of one type, from any thread. A [`Lane`] holds
//! those that wait on one listener, each with its state, and belongs to the accept loop: so states
//! need no lock and no box, and a connection costs one virtual call.

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
use crate::pool::capacity::Slots;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::PoolShared;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, Shared};

/// A state, of a type that the lane knows.
pub(crate) type ErasedState = DropCatching<Box<dyn Any + Send>>;

/// The result of `init_now`.
pub(crate) enum InitNow<S> {
    State(S),
    /// Its `init` must run.
    None,
    Failed(ChildEnd),
}

/// Starts acceptors of any type.
pub(crate) trait Factory<R: Runtime, L: Listener>: Send + Sync + 'static {
    fn make_lane(self: Arc<Self>) -> Box<dyn Lane<R, L>>;

    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> InitNow<ErasedState>;

    /// Runs `init` in a task of its own, for an acceptor of this generation.
    fn spawn_init(self: Arc<Self>, member: Member<R, L>, generation: u64);
}

/// An acceptor that has its state, on its way to the accept loop.
pub(crate) struct Arrival<R: Runtime, L: Listener> {
    pub(crate) arrived: Arrived,
    /// The factory that started it.
    pub(crate) factory: Shared<dyn Factory<R, L>>,
}

/// An acceptor of a type that its lane knows, and that has its state.
pub(crate) struct Arrived {
    pub(crate) id: ChildId,
    /// The generation of the pool's acceptor that it belongs to.
    pub(crate) generation: u64,
    /// When its accept timeout expires, and how long that is.
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
/// The parts of the pool that the task of a child holds.
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

    /// Makes the child's end visible. Its seat may be another's from here on.
    #[inline]
    pub(crate) fn ended(&self, end: ChildEnd) {
        self.shared.ended(&self.listener, self.id(), end);
    }
}

/// A connection for the acceptor that has waited longest, with the accept loop's data for it.
pub(crate) struct Given<'a, L: Listener> {
    /// Taken if the connection is served.
    pub(crate) incoming: &'a mut DropCatching<Incoming<L::Io, L::Addr>>,
    /// The [`ListenerInfo`] for an acceptor without an `init`.
    pub(crate) info: &'a mut ListenerInfo<L::Addr>,
    pub(crate) handshake: &'a Shared<L::Handshake>,
    /// The generation of the newest lane.
    pub(crate) generation: u64,
    /// The slots that it hands on, where a limit applies.
    pub(crate) slots: &'a mut Slots,
}

/// The outcome for the acceptor that a connection was meant for.
#[derive(Debug)]
pub(crate) enum HandedOver {
    Serves(Successor),
    /// It was killed while it waited, and ends.
    Gone,
    /// It belongs to a replaced generation and terminates (R1): the connection is for another. The
    /// acceptor named here has its state, and must wait until it terminates too.
    Replaced(Option<ChildId>),
}

/// The successor of an acceptor that has become a connection.
#[derive(Debug)]
pub(crate) enum Successor {
    /// It waits. If it is named, it must still be put into the newest lane.
    Waits(Waits, Option<ChildId>),
    /// Its `init` has a task.
    Begins,
    None,
}

/// The acceptors of one type that wait on a listener.
pub(crate) trait Lane<R: Runtime, L: Listener>: Send {
    fn is_of(&self, factory: &Shared<dyn Factory<R, L>>) -> bool;

    /// Returns the turn of the acceptor that has waited longest here.
    fn turn(&self) -> Option<u64>;

    /// Returns when the first timeout expires.
    fn earliest(&self) -> Option<Instant>;

    /// Calls `init_now` for one more acceptor and keeps its state. Also returns the end of an
    /// acceptor that failed.
    fn prepare(&mut self, listener: &ListenerInfo<L::Addr>) -> (Ready, Option<ChildEnd>);

    /// Makes the acceptor whose state was prepared begin to wait.
    fn push_prepared(&mut self, turn: u64, id: ChildId, generation: u64);

    /// Drops a prepared state that is not needed.
    fn forget_prepared(&mut self);

    /// Adds a waiting acceptor that was started by the factory of this lane.
    fn push(&mut self, turn: u64, arrived: Arrived);

    /// Gives a connection to the acceptor that has waited longest here. `turn` is the turn of the
    /// next acceptor, and `newest` is the newest lane, unless it is this one.
    fn hand_over(
        &mut self,
        home: Home<'_, R, L>,
        given: Given<'_, L>,
        turn: u64,
        newest: Option<&mut Box<dyn Lane<R, L>>>,
    ) -> HandedOver;

    /// Terminates the acceptor that has waited longest here.
    fn dismiss_first(&mut self, home: Home<'_, R, L>);

    /// Terminates an acceptor whose timeout has expired by then.
    fn dismiss_expired(&mut self, home: Home<'_, R, L>, until: Instant);

    /// Terminates the acceptors that were commanded to end. Returns how many.
    fn dismiss_commanded(&mut self, home: Home<'_, R, L>) -> usize;
}
