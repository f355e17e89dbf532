//! The connections that a stop report names because they ended after the grace (S7).
//!
//! Pure. Invariant: the list holds the oldest of the connections added, oldest first.

use std::time::Instant;

use crate::id::ChildId;
use crate::stop_report::LateConnection;

/// The maximum number of connections named.
const MOST_NAMED: usize = 16;

/// Connections with the times at which they began.
pub(crate) type LateConnections<A> = Vec<(Instant, LateConnection<A>)>;

#[derive(Debug)]
pub(crate) struct Late<A>(LateConnections<A>);

impl<A> Default for Late<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<A> Late<A> {
    /// Adds a connection that began at this time. Returns the one that no longer fits, to be
    /// dropped outside of any lock.
    pub(crate) fn add(
        &mut self,
        began: Instant,
        late: LateConnection<A>,
    ) -> Option<LateConnection<A>> {
        let place = self.place(began, late.id);
        self.0.insert(place, (began, late));
        if self.0.len() <= MOST_NAMED {
            return None;
        }
        self.0.pop().map(|(_, late)| late)
    }

    /// Returns whether the list would take a connection that began at this time.
    pub(crate) fn has_place(&self, began: Instant, id: ChildId) -> bool {
        self.place(began, id) < MOST_NAMED
    }

    fn place(&self, began: Instant, id: ChildId) -> usize {
        self.0
            .partition_point(|(other_began, other)| (*other_began, other.id) < (began, id))
    }

    pub(crate) fn into_list(self) -> Vec<LateConnection<A>> {
        self.0.into_iter().map(|(_, late)| late).collect()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stop_report::{EndKind, Phase};

    #[test]
    fn oldest_sixteen_are_listed_in_order() {
        let start = Instant::now();
        let mut late = Late::default();
        let mut dropped = 0;
        // In another order.
        for number in (0..40).map(|number| number * 7 % 40) {
            let connection = LateConnection {
                id: format!("1.{number}").parse().unwrap(),
                peer_addr: number,
                age: Duration::ZERO,
                phase: Phase::Kill,
                kind: Some(EndKind::Killed),
            };
            let began = start + Duration::from_secs(number);
            let has_place = late.has_place(began, connection.id);
            let gone = late.add(began, connection);
            let kept = gone.as_ref().is_none_or(|gone| gone.peer_addr != number);
            assert_eq!(has_place, kept);
            dropped += usize::from(gone.is_some());
        }
        let named: Vec<_> = late.into_list().iter().map(|late| late.peer_addr).collect();
        assert_eq!((named, dropped), ((0..16).collect(), 24));
    }
}
