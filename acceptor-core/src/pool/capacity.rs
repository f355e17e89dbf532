//! The limits that a listener's connections fill: its own, and the pool's.
//!
//! A slot is taken in the poll that calls `accept`, and given back in it if no connection comes, so
//! an idle listener holds none (C4). Invariants: from the moment a limit applies to a listener,
//! each of its connections has a slot of it until its end, or until it gives it back (C5, C7); the
//! accept loop gives back or hands on every slot that it holds.

use std::sync::Arc;

use crate::child::control::SlotOwner;
use crate::id::ChildId;
use crate::listener::Listener;
use crate::pool::limit::{Limit, Taken, WaitsForSlot};
use crate::pool::listener_shared::ListenerShared;
use crate::runtime::Runtime;
use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Ordering, lock};

/// The limit of the whole pool.
pub(crate) type PoolLimit<R, L> = Limit<SlotWaiter<R, L>>;

/// One of the two limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Listener,
    Pool,
}

impl Scope {
    /// In the order in which slots are taken.
    const ALL: [Self; 2] = [Self::Listener, Self::Pool];

    fn bit(self) -> u8 {
        match self {
            Self::Listener => 1,
            Self::Pool => 2,
        }
    }
}

/// A set of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scopes(u8);

impl Scopes {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    fn each(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

/// The part of a listener that its limits need.
pub(crate) struct Capacity<R: Runtime, L: Listener> {
    own: Limit<SlotWaiter<R, L>>,
    pool: Arc<PoolLimit<R, L>>,
    /// The limits that apply, as in [`Children`](super::listener_shared::Children), for the accept
    /// loop.
    applies: AtomicU8,
    /// The slots that the accept loop was granted while it waited.
    granted: [AtomicBool; 2],
    refused: AtomicU64,
}

/// The accept loop of a listener, waiting for a slot.
pub(crate) struct SlotWaiter<R: Runtime, L: Listener> {
    listener: Arc<ListenerShared<R, L>>,
    scope: Scope,
}

impl<R: Runtime, L: Listener> SlotWaiter<R, L> {
    /// Wakes the accept loop, outside of any lock.
    fn wake(&self) {
        self.listener.inbox.look();
        self.listener.host.wake_companion();
    }
}

impl<R: Runtime, L: Listener> WaitsForSlot for SlotWaiter<R, L> {
    fn grant(&self) {
        let granted = self.listener.capacity.granted(self.scope);
        granted.store(true, Ordering::SeqCst);
    }
}

impl<R: Runtime, L: Listener> Capacity<R, L> {
    pub(crate) fn new(own: Option<usize>, pool: Arc<PoolLimit<R, L>>) -> Self {
        Self {
            own: Limit::new(own),
            pool,
            applies: AtomicU8::new(0),
            granted: [AtomicBool::new(false), AtomicBool::new(false)],
            refused: AtomicU64::new(0),
        }
    }

    fn limit(&self, scope: Scope) -> &Limit<SlotWaiter<R, L>> {
        match scope {
            Scope::Listener => &self.own,
            Scope::Pool => &self.pool,
        }
    }

    fn granted(&self, scope: Scope) -> &AtomicBool {
        match scope {
            Scope::Listener => &self.granted[0],
            Scope::Pool => &self.granted[1],
        }
    }

    fn take_granted(&self, scope: Scope) -> bool {
        self.granted(scope).swap(false, Ordering::SeqCst)
    }

    /// Returns the limits that apply.
    #[inline]
    pub(crate) fn applies(&self) -> Scopes {
        Scopes(self.applies.load(Ordering::SeqCst))
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn own_limit(&self) -> Option<usize> {
        self.own.limit()
    }

    /// Gives slots back, and wakes the accept loops that have got them.
    pub(crate) fn release(&self, scopes: Scopes) {
        for scope in scopes.each() {
            wake_granted(self.limit(scope).release());
        }
    }

    /// Changes the listener's own limit.
    pub(crate) fn set_own(&self, limit: Option<usize>) -> Vec<SlotWaiter<R, L>> {
        self.own.set(limit)
    }
}

pub(crate) fn wake_granted<R: Runtime, L: Listener>(granted: Vec<SlotWaiter<R, L>>) {
    for waiter in granted {
        waiter.wake();
    }
}

impl<R: Runtime, L: Listener> ListenerShared<R, L> {
    /// Makes a limit apply from now on: its connections have slots of it.
    pub(crate) fn apply_limit(&self, scope: Scope) {
        let children = &mut *lock(&self.children);
        if children.limits.has(scope) {
            return;
        }
        children.limits = children.limits.with(scope);
        self.capacity
            .limit(scope)
            .count(children.table.slots() as u64);
        self.capacity
            .applies
            .store(children.limits.0, Ordering::SeqCst);
    }
}

impl<R: Runtime, L: Listener> SlotOwner for ListenerShared<R, L> {
    fn release_slot(&self, number: u64, slot: u32) {
        let id = ChildId::new(self.id, number, slot);
        let released = {
            let children = &mut *lock(&self.children);
            match children.table.release_slot(id) {
                true => children.limits,
                false => Scopes::NONE,
            }
        };
        self.capacity.release(released);
    }
}

/// The slots of an accept loop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slots([Slot; 2]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    None,
    /// It is in the queue, or has been granted one since.
    Waits,
    Held,
}

/// Whether a slot that is not free is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitInTurn {
    Yes,
    No,
}

impl Slots {
    const EMPTY: Self = Self([Slot::None; 2]);

    pub(crate) fn new() -> Self {
        Self::EMPTY
    }

    fn of(&mut self, scope: Scope) -> &mut Slot {
        match scope {
            Scope::Listener => &mut self.0[0],
            Scope::Pool => &mut self.0[1],
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Faster than a comparison of arrays.
        matches!(self.0, [Slot::None, Slot::None])
    }

    /// Takes the slots that it does not hold yet. Returns whether it holds all of them.
    pub(crate) fn take<R: Runtime, L: Listener>(
        &mut self,
        listener: &Arc<ListenerShared<R, L>>,
        scopes: Scopes,
        waits: WaitInTurn,
    ) -> bool {
        let capacity = &listener.capacity;
        for scope in scopes.each() {
            let slot = self.of(scope);
            let waiter = || SlotWaiter {
                listener: Arc::clone(listener),
                scope,
            };
            let has = match *slot {
                Slot::Held => true,
                Slot::Waits => capacity.take_granted(scope),
                Slot::None => false,
            };
            let limit = capacity.limit(scope);
            if has && limit.is_exceeded() {
                // The limit was lowered since it got the slot (C6).
                *slot = Slot::None;
                wake_granted(limit.release());
            } else if has {
                *slot = Slot::Held;
                continue;
            }
            *slot = match (*slot, waits) {
                (Slot::Waits, _) => Slot::Waits,
                (_, WaitInTurn::No) => match limit.try_take() {
                    true => Slot::Held,
                    false => Slot::None,
                },
                (_, WaitInTurn::Yes) => match limit.take(listener.id, waiter) {
                    Taken::Slot => Slot::Held,
                    Taken::Waits => Slot::Waits,
                },
            };
            if *slot != Slot::Held {
                if scope == Scope::Listener {
                    // A slot of the pool, or a place in its queue, would be of no use (C4).
                    self.leave_one(listener, Scope::Pool);
                }
                return false;
            }
        }
        true
    }

    /// Gives back the slots that it holds or was granted, but keeps its places in the queues.
    pub(crate) fn give_back<R: Runtime, L: Listener>(&mut self, listener: &ListenerShared<R, L>) {
        let capacity = &listener.capacity;
        for scope in Scope::ALL {
            let slot = self.of(scope);
            let held = match *slot {
                Slot::Held => true,
                Slot::Waits => capacity.take_granted(scope),
                Slot::None => false,
            };
            if held {
                *slot = Slot::None;
                capacity.release(Scopes::NONE.with(scope));
            }
        }
    }

    /// Leaves the queues, and gives back the slots that it holds or was granted.
    pub(crate) fn leave<R: Runtime, L: Listener>(&mut self, listener: &ListenerShared<R, L>) {
        for scope in Scope::ALL {
            self.leave_one(listener, scope);
        }
    }

    fn leave_one<R: Runtime, L: Listener>(
        &mut self,
        listener: &ListenerShared<R, L>,
        scope: Scope,
    ) {
        let capacity = &listener.capacity;
        let held = match std::mem::replace(self.of(scope), Slot::None) {
            Slot::Held => true,
            // It is in the queue, or was granted a slot.
            Slot::Waits => {
                !capacity.limit(scope).leave(listener.id) && capacity.take_granted(scope)
            }
            Slot::None => false,
        };
        if held {
            capacity.release(Scopes::NONE.with(scope));
        }
    }

    /// Hands the slots on to a connection, which has one of each limit that applies from now on.
    pub(crate) fn hand_on<R: Runtime, L: Listener>(
        &mut self,
        listener: &ListenerShared<R, L>,
        applies: Scopes,
    ) {
        for scope in applies.each() {
            match self.of(scope) {
                slot @ Slot::Held => *slot = Slot::None,
                // It was accepted before the limit applied.
                Slot::None | Slot::Waits => listener.capacity.limit(scope).count(1),
            }
        }
    }
}
