//! Snapshots of a pool: its counts and lists, and the `Debug` of its handle.
//!
//! Invariant: no lock is held for more than a batch of children or listeners; work for each of
//! them, and sorting, comes afterwards.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::id::ChildId;
use crate::listener::Listener;
use crate::machine::row::{Row, Slot, Stage};
use crate::machine::supervisor::SocketState;
use crate::pool::driver::BATCH;
use crate::pool::handle::PoolHandle;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::PoolShared;
use crate::runtime::Runtime;
use crate::status::{AcceptorRecord, ConnectionRecord, Counts, ListenerRecord, ListenerState};
use crate::sync::lock;

type ChildRow<L> = Row<<L as Listener>::Addr>;

/// Calls `visit` for each listener, oldest first, including closed ones with children left.
fn each_listener<R: Runtime, L: Listener>(
    shared: &PoolShared<R, L>,
    mut visit: impl FnMut(&Arc<ListenerShared<R, L>>),
) {
    let mut last = None;
    loop {
        let listeners = shared.listeners_after(last, BATCH);
        let Some(listener) = listeners.last() else {
            return;
        };
        last = Some(listener.id);
        listeners.iter().for_each(&mut visit);
    }
}

/// Visits all children of a listener.
fn each_child<R: Runtime, L: Listener>(
    listener: &ListenerShared<R, L>,
    mut visit: impl FnMut(ChildId, &ChildRow<L>),
) {
    let mut from = Some(0);
    while let Some(cursor) = from {
        from = lock(&listener.children)
            .table
            .visit(cursor, BATCH, |id, row, _| visit(id, row));
    }
}

pub(super) fn counts<R: Runtime, L: Listener>(shared: &PoolShared<R, L>) -> Counts {
    let mut counts = Counts::default();
    each_listener(shared, |listener| {
        let tally = lock(&listener.children).table.tally();
        counts.connections += tally.connections();
        counts.handshaking += tally.handshaking;
        counts.acceptors += tally.acceptors();
    });
    counts
}

/// Returns the listeners whose socket is open, oldest first.
pub(super) fn listeners<R: Runtime, L: Listener>(
    shared: &PoolShared<R, L>,
) -> Vec<ListenerRecord<L::Addr>> {
    let mut records = Vec::new();
    let spec = shared.read(|state| Arc::clone(&state.spec.settings.id));
    let mut slots_of_pool = 0;
    each_listener(shared, |listener| {
        let socket = shared.read(|state| {
            let known = state.machine.listener(listener.id);
            known.map(|listening| listening.socket)
        });
        // Not from the limits themselves, whose slots an accept loop may hold for a moment without
        // a connection.
        let (tally, accepted, slots) = {
            let table = &lock(&listener.children).table;
            (table.tally(), table.accepted(), table.slots())
        };
        slots_of_pool += slots;
        let max_connections = listener.capacity.own_limit();
        let state = match socket {
            None | Some(SocketState::Closed) => return,
            Some(SocketState::Closing(_)) => ListenerState::Closing,
            Some(SocketState::Open) if listener.is_paused() => ListenerState::Resources,
            Some(SocketState::Open) if is_full(slots, max_connections) => ListenerState::Full,
            Some(SocketState::Open) if tally.waiting == 0 => ListenerState::Starting,
            Some(SocketState::Open) => ListenerState::Accepting,
        };
        records.push(ListenerRecord {
            id: listener.id,
            tag: listener.tag.clone(),
            spec: Arc::clone(&spec),
            local_addr: listener.local_addr.clone(),
            acceptors: tally.acceptors(),
            connections: tally.connections(),
            max_connections,
            state,
            accepted,
            refused: listener.capacity.refused(),
            skipped: listener.skipped(),
            pauses: listener.pauses(),
        });
    });
    if is_full(slots_of_pool, shared.limit.limit()) {
        for record in &mut records {
            if let ListenerState::Starting | ListenerState::Accepting = record.state {
                record.state = ListenerState::Full;
            }
        }
    }
    records
}

fn is_full(slots: usize, limit: Option<usize>) -> bool {
    limit.is_some_and(|limit| slots >= limit)
}

/// Returns the open connections, oldest first.
pub(super) fn connections<R: Runtime, L: Listener>(
    shared: &PoolShared<R, L>,
) -> Vec<ConnectionRecord<L::Addr>> {
    let now = shared.time();
    let spec = shared.read(|state| Arc::clone(&state.spec.settings.id));
    let mut records: Vec<(Instant, _)> = Vec::new();
    each_listener(shared, |listener| {
        each_child(listener, |id, row| {
            let Stage::Connection(state, peer) = &row.stage else {
                return;
            };
            let record = ConnectionRecord {
                id,
                spec: Arc::clone(&spec),
                listener: listener.id,
                tag: listener.tag.clone(),
                peer_addr: peer.peer_addr.clone(),
                local_addr: match &peer.own {
                    Some(own) => own.local_addr.clone(),
                    None => listener.local_addr.clone(),
                },
                transport: peer.transport().cloned(),
                state: *state,
                holds_slot: row.slot == Slot::Held,
                age: now.saturating_duration_since(row.since),
            };
            records.push((row.since, record));
        });
    });
    // An id is as old as its acceptor, which may have begun to wait after a younger one.
    records.sort_by_key(|(since, record)| (*since, record.id));
    records.into_iter().map(|(_, record)| record).collect()
}

/// Returns the acceptors, oldest first for each listener.
pub(super) fn acceptors<R: Runtime, L: Listener>(shared: &PoolShared<R, L>) -> Vec<AcceptorRecord> {
    let now = shared.time();
    let mut records = Vec::new();
    each_listener(shared, |listener| {
        give_rows(listener, now);
        each_child(listener, |id, row| {
            let Some(state) = row.acceptor_state() else {
                return;
            };
            records.push(AcceptorRecord {
                id,
                listener: listener.id,
                tag: listener.tag.clone(),
                state,
                age: now.saturating_duration_since(row.since),
            });
        });
    });
    records.sort_by_key(|record| record.id);
    records
}

/// Gives rows to acceptors that are about to start, so that they have ids when listed.
fn give_rows<R: Runtime, L: Listener>(listener: &ListenerShared<R, L>, now: Instant) {
    loop {
        let children = &mut *lock(&listener.children);
        if !children.table.is_owed() {
            return;
        }
        children.table.give_rows(BATCH, now);
    }
}

impl<R: Runtime, L: Listener> fmt::Debug for PoolHandle<R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, state) = self
            .shared
            .read(|state| (Arc::clone(&state.spec.settings.id), state.machine.state()));
        f.debug_struct("PoolHandle")
            .field("spec", &id)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::listener::testing::Nowhere;
    use crate::pool::listener_shared::testing::listener;
    use crate::sync::testing::locks;

    /// The number of calls under each lock that was taken.
    #[derive(Default)]
    struct Calls(Mutex<BTreeMap<u64, usize>>);

    impl Calls {
        fn count(&self) {
            *self.0.lock().unwrap().entry(locks()).or_default() += 1;
        }

        fn under_each_lock(&self) -> Vec<usize> {
            self.0.lock().unwrap().values().copied().collect()
        }
    }

    #[test]
    fn listing_locks_256_children_at_a_time() {
        let (listener, visited) = (listener::<Nowhere>(1000), Calls::default());
        let before = locks();
        give_rows(&listener, Instant::now());
        assert_eq!(locks() - before, 1000_u64.div_ceil(256) + 1);
        let mut ids = Vec::new();
        each_child(&listener, |id, _| {
            visited.count();
            ids.push(id.number);
        });
        assert_eq!(visited.under_each_lock(), [256, 256, 256, 232]);
        assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
    }
}
