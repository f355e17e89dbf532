//! The pool as it is shown: its tables as lists, and the handle itself.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::id::ListenerId;
use crate::listener::Listener;
use crate::machine::supervisor::Listening;
use crate::pool::handle::PoolHandle;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::shared::State;
use crate::runtime::Runtime;
use crate::status::{ConnectionRecord, ListenerRecord};

/// Of the open listeners, oldest first.
pub(super) fn listener_records<L: Listener>(state: &State<L>) -> Vec<ListenerRecord<L::Addr>> {
    let record = |(id, listening): (ListenerId, &Listening<Arc<ListenerShared<L>>>)| {
        let socket = &listening.socket;
        ListenerRecord {
            id,
            spec: Arc::clone(&state.spec.id),
            local_addr: socket.local_addr.clone(),
            acceptors: listening.acceptors,
            connections: listening.connections,
            state: socket.state(),
            accepted: listening.accepted,
            skipped: socket.skipped(),
            pauses: socket.pauses(),
        }
    };
    state.machine.listeners().map(record).collect()
}

/// Of the open connections, oldest first.
pub(super) fn connection_records<L: Listener>(
    state: &State<L>,
    now: Instant,
) -> Vec<ConnectionRecord<L::Addr>> {
    let mut records: Vec<_> = state
        .machine
        .children()
        .filter_map(|child| {
            let peer = child.peer.as_ref()?;
            let record = ConnectionRecord {
                id: child.id,
                spec: Arc::clone(&state.spec.id),
                listener: child.listener,
                peer_addr: peer.peer_addr.clone(),
                local_addr: peer.local_addr.clone(),
                age: now.saturating_duration_since(peer.since),
            };
            Some((peer.since, record))
        })
        .collect();
    // Ids are as old as the acceptor, which may have begun to wait after a younger one.
    records.sort_by_key(|(since, record)| (*since, record.id));
    records.into_iter().map(|(_, record)| record).collect()
}

impl<R: Runtime, L: Listener> fmt::Debug for PoolHandle<R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, state) = self
            .shared
            .read(|state| (Arc::clone(&state.spec.id), state.machine.state()));
        f.debug_struct("PoolHandle")
            .field("spec", &id)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
