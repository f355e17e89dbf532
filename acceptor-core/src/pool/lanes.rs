//! The lanes of a listener, ordered as a whole: the acceptor that has waited longest is first (L6).

use std::sync::Arc;
use std::time::Instant;

use crate::id::ChildId;
use crate::listener::Listener;
use crate::pool::lane::{Arrival, Factory, Given, HandedOver, Home, Lane, Successor};
use crate::runtime::Runtime;
use crate::sync::Shared;

/// The lanes of a listener. The last belongs to the pool's current acceptor, those before it to
/// earlier ones with acceptors left.
pub(crate) struct Lanes<R: Runtime, L: Listener> {
    lanes: Vec<Box<dyn Lane<R, L>>>,
    /// The turn of the acceptor that begins to wait next.
    turn: u64,
    /// The number of waiters in all lanes.
    waiting: usize,
    /// Whether any waiter may have a timeout.
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

    /// Makes this factory the one of new acceptors.
    pub(crate) fn renew(&mut self, factory: &Shared<dyn Factory<R, L>>) {
        let known = self.lanes.iter().position(|lane| lane.is_of(factory));
        let lane = match known {
            Some(at) => self.lanes.remove(at),
            None => Arc::clone(factory).make_lane(),
        };
        self.lanes.push(lane);
        self.prune();
    }

    /// Removes lanes of earlier acceptors without waiters.
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

    /// Returns the index of the lane with the acceptor that has waited longest.
    #[inline]
    fn first(&self) -> usize {
        let last = self.lanes.len() - 1;
        if last == 0 {
            return 0;
        }
        let turns = self.lanes.iter().enumerate();
        let turns = turns.filter_map(|(at, lane)| lane.turn().map(|turn| (turn, at)));
        turns.min().map_or(last, |(_, at)| at)
    }

    /// Returns when the first timeout expires.
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

    pub(crate) fn push_prepared(&mut self, id: ChildId, generation: u64) {
        let turn = self.next_turn();
        self.newest().push_prepared(turn, id, generation);
    }

    pub(crate) fn push(&mut self, arrival: Arrival<R, L>) {
        let Arrival { arrived, factory } = arrival;
        let turn = self.next_turn();
        self.timed |= arrived.deadline.is_some();
        let known = self.lanes.iter().rposition(|lane| lane.is_of(&factory));
        let at = known.unwrap_or_else(|| {
            // It was started before the spec was replaced, or afterwards and the accept loop has
            // not noticed yet.
            let lane = Arc::clone(&factory).make_lane();
            self.lanes.insert(0, lane);
            0
        });
        self.lanes[at].push(turn, arrived);
    }

    /// Gives a connection to the acceptor that has waited longest, which takes it if it serves it.
    #[inline]
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
            // One waiter left and another arrived.
            HandedOver::Serves(Successor::Waits(_, None)) => self.turn = turn,
            _ => self.waiting -= 1,
        }
        handed_over
    }

    /// Terminates the acceptor that has waited longest. False if none waits.
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

    /// Terminates an acceptor whose timeout has expired by then. False if there is none.
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

    /// Terminates the acceptors that were commanded to end.
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
    use crate::acceptor::{Acceptor, Init, ListenerInfo, acceptor_fn};
    use crate::connection::Connection;
    use crate::error::BoxError;
    use crate::id::{ListenerId, PoolId};
    use crate::listener::testing::Nowhere;
    use crate::machine::child_end::WaitTime;
    use crate::machine::table::Ready;
    use crate::pool::lane::{Arrived, InitNow};
    use crate::pool::shared::PoolShared;
    use crate::runtime::testing::Tasks;
    use crate::sync::DropCatching;

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
            arrived: arrived(number),
            factory: factory.clone(),
        }
    }

    fn arrived(number: u64) -> Arrived {
        Arrived {
            id: ChildId::new(LISTENER, number, 0),
            generation: 0,
            deadline: None,
            state: DropCatching::new(Box::new(())),
        }
    }

    /// Calls `then` with a host for the tasks of lanes.
    fn at_home(then: impl FnOnce(Home<'_, Tasks, Nowhere>)) {
        let listener = crate::pool::listener_shared::testing::listener::<Nowhere>(1);
        let spec = crate::spec::Spec::new("test", acceptor_fn(|_| async { Ok(()) }));
        let spec = crate::pool::spec::ErasedSpec::checked(spec).expect("the spec is allowed");
        let shared = PoolShared::new(Tasks::new(), spec);
        then(Home {
            shared: &shared,
            listener: &listener,
        });
    }

    /// The turns of the waiting acceptors, in the order in which they are taken.
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
    fn longest_waiter_is_first_of_all_lanes() {
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
    fn old_lane_is_removed_when_empty() {
        let (old, new) = (factory(), factory());
        let mut lanes = Lanes::new(&old);
        lanes.push(arrival(&old, 1));
        lanes.renew(&new);
        assert_eq!(lanes.lanes.len(), 2);
        assert_eq!(drain(&mut lanes), [1]);
        lanes.prune();
        assert_eq!(lanes.lanes.len(), 1);
        assert!(lanes.newest().is_of(&new));
        // The lane is made again for an acceptor that comes late, or early.
        lanes.push(arrival(&old, 2));
        assert!(lanes.newest().is_of(&new));
        lanes.renew(&old);
        assert!(lanes.newest().is_of(&old));
        assert_eq!((lanes.lanes.len(), drain(&mut lanes)), (1, vec![2]));
    }

    #[test]
    fn timeouts_expire_in_order() {
        let (old, new, now) = (factory(), factory(), Instant::now());
        let mut lanes = Lanes::new(&old);
        assert_eq!(lanes.earliest(), None);
        lanes.renew(&new);
        for (factory, number, ms) in [(&old, 1, 3), (&new, 2, 1), (&old, 3, 2)] {
            let deadline = Some((now + Duration::from_millis(ms), WaitTime::Long));
            let arrived = Arrived {
                deadline,
                ..arrived(number)
            };
            let factory = factory.clone();
            lanes.push(Arrival { arrived, factory });
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

    /// A state that counts its drops, and panics when dropped.
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
    fn state_drop_panic_is_contained() {
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
        lanes.push_prepared(ChildId::new(LISTENER, 1, 0), 0);
        let InitNow::State(state) = factory.init_now(&info()) else {
            panic!("the acceptor has no state");
        };
        let arrived = Arrived {
            state,
            ..arrived(2)
        };
        let factory = factory.clone();
        lanes.push(Arrival { arrived, factory });
        dropped(2);
        // An acceptor without a row is dropped with its task.
        at_home(|home| assert!(lanes.dismiss_head(home)));
        dropped(3);
        // One acceptor waits, and one is prepared.
        assert!(matches!(
            lanes.newest().prepare(&info()),
            (Ready::Yes, None)
        ));
        drop(lanes);
        dropped(5);
    }
}
