//! The table of one listener's children, driven by scripts.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::machine::slots::testing::TestSignals;
use crate::machine::slots::{CHUNK, place};
use crate::policy::ConnectionReports;
use crate::report::Event;

const LISTENER: ListenerId = ListenerId {
    sequence: 3,
    pool: crate::id::PoolId::ANY,
};

const PEER: Peer<()> = Peer {
    peer_addr: (),
    own: None,
};

/// The poll counts of a chunk's children, which tests set.
struct Polls([Rc<Cell<u32>>; CHUNK]);

impl Bank for Polls {
    type Signals = TestSignals;
    type Control = Rc<Cell<u32>>;

    fn new(_: &TestSignals) -> Self {
        Self(std::array::from_fn(|_| Rc::default()))
    }

    fn next_number(signals: &TestSignals) -> u64 {
        signals.next_number()
    }

    fn set_outage(signals: &TestSignals, holds: bool) {
        assert_ne!(signals.outage.replace(holds), holds);
    }

    fn occupy(&mut self, slot: u32, _number: u64) {
        self.0[place(slot)] = Rc::default();
    }

    fn control(&self, slot: u32, _number: u64) -> Rc<Cell<u32>> {
        Rc::clone(&self.0[place(slot)])
    }

    fn mark(&self, slot: u32) -> u32 {
        self.0[place(slot)].get()
    }
}

/// How a child is replaced, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Its `init` runs.
    Init(u64),
    Waits(u64),
    Releases(u64),
    /// It starts after this many milliseconds.
    Later(u64, u128),
    /// It is held, or there is no replacement.
    None,
}

use AcceptorEnd::{Lost, Other, Repeats, StartError};
use Then::{Init, Later};

struct Bench {
    table: Table<Polls, ()>,
    now: Instant,
}

impl Bench {
    fn new(acceptors: usize) -> Self {
        Self {
            table: Table::new(LISTENER, acceptors, TestSignals::default()),
            now: Instant::now(),
        }
    }

    /// A table with all its acceptors in `init`.
    fn started(acceptors: usize) -> Self {
        let mut bench = Self::new(acceptors);
        assert_eq!(bench.starts(acceptors).len(), acceptors);
        bench
    }

    fn id(&mut self, number: u64) -> ChildId {
        let mut found = None;
        self.visit(100, |id, _| {
            if id.number == number {
                found = Some(id);
            }
        });
        found.expect("the child has a row")
    }

    fn visit(&mut self, limit: usize, mut visit: impl FnMut(ChildId, &Row<()>)) {
        let mut from = Some(0);
        while let Some(cursor) = from {
            from = self.table.visit(cursor, limit, |id, row, _| visit(id, row));
        }
    }

    /// The numbers of the acceptors that the accept loop starts.
    fn starts(&mut self, limit: usize) -> Vec<u64> {
        let starts = self.table.take_starts(limit, self.now);
        starts.iter().map(|start| start.number).collect()
    }

    #[track_caller]
    fn start_spaced(&mut self, number: u64) {
        let id = self.id(number);
        assert!(self.table.start(id), "the acceptor is spaced");
        assert!(!self.table.start(id), "the acceptor was already started");
    }

    #[track_caller]
    fn waits(&mut self, number: u64, expected: Waits) {
        let id = self.id(number);
        assert_eq!(self.table.waits(id), expected);
    }

    fn then(replacement: Replacement) -> Then {
        match replacement {
            Replacement::Init(start) => Then::Init(start.number),
            Replacement::Waits(start, Waits::Releases) => Then::Releases(start.number),
            Replacement::Waits(start, _) => Then::Waits(start.number),
            Replacement::Later(start, delay) => Then::Later(start.number, delay.as_millis()),
            Replacement::None => Then::None,
        }
    }

    /// An acceptor ends, and is replaced.
    #[track_caller]
    fn ends(&mut self, number: u64, end: AcceptorEnd, then: Then) {
        let id = self.id(number);
        let gone = self.table.remove(id).expect("the child has a row");
        let replacement = self.table.replace(&gone, end, self.now);
        assert_eq!(Self::then(replacement), then);
    }

    fn became(&mut self, number: u64, ready: Ready) -> Became<Rc<Cell<u32>>> {
        let (id, now) = (self.id(number), self.now);
        let next = Next {
            number: self.table.reserve_number(),
            generation: self.table.generation(),
            ready,
        };
        self.table
            .became(id, ConnectionState::Serving, PEER, now, next)
    }

    /// A waiting acceptor gets a connection, and is replaced.
    #[track_caller]
    fn serves(&mut self, number: u64, ready: bool, then: Then) {
        let ready = if ready { Ready::Yes } else { Ready::No };
        self.serves_as(number, ready, then);
    }

    #[track_caller]
    fn serves_as(&mut self, number: u64, ready: Ready, then: Then) {
        match self.became(number, ready) {
            Became::Serves(_, replacement) => assert_eq!(Self::then(replacement), then),
            Became::ServesLast(_) | Became::Gone | Became::Replaced(_) => {
                panic!("the acceptor is not replaced")
            }
        }
    }

    #[track_caller]
    fn tally(&self, [serving, waiting, starting, terminating]: [usize; 4]) {
        let tally = self.table.tally();
        assert_eq!(
            [
                tally.connections(),
                tally.waiting,
                tally.starting(),
                tally.terminating
            ],
            [serving, waiting, starting, terminating]
        );
    }

    /// The acceptors with their states.
    fn states(&mut self) -> Vec<(u64, AcceptorState)> {
        let mut states = Vec::new();
        self.visit(100, |id, row| {
            states.extend(row.acceptor_state().map(|state| (id.number, state)));
        });
        states.sort_by_key(|(number, _)| *number);
        states
    }
}

#[test]
fn owed_acceptors_start_in_batches() {
    let mut bench = Bench::new(130);
    bench.tally([0, 0, 130, 0]);
    for batch in [1..=64, 65..=128, 129..=130] {
        assert!(bench.table.is_owed());
        assert_eq!(bench.starts(64), batch.collect::<Vec<_>>());
        bench.tally([0, 0, 130, 0]);
    }
    assert!(!bench.table.is_owed());
    assert_eq!(bench.starts(64), []);
}

#[test]
fn listed_acceptors_start_first() {
    let mut bench = Bench::new(5);
    bench.table.give_rows(2, bench.now);
    let spaced = AcceptorState::Spaced;
    assert_eq!(bench.states(), [(1, spaced), (2, spaced)]);
    bench.tally([0, 0, 5, 0]);
    assert_eq!(bench.starts(1), [1]);
    assert_eq!(bench.starts(3), [2, 3, 4]);
    bench.table.give_rows(9, bench.now);
    assert_eq!(bench.states().len(), 5);
    assert_eq!(bench.starts(9), [5]);
    bench.tally([0, 0, 5, 0]);
}

#[test]
fn acceptors_are_owed_until_listed() {
    let mut bench = Bench::new(1);
    assert!(bench.table.is_owed());
    bench.starts(1);
    assert!(!bench.table.is_owed());
    for end in [Table::kill, |table: &mut Table<Polls, ()>| {
        drop(table.abandon())
    }] {
        let mut bench = Bench::new(1);
        end(&mut bench.table);
        assert!(!bench.table.is_owed());
    }
}

/// A listed acceptor begins with the current spec of the pool (R1).
#[track_caller]
fn check_begins(waiting: Option<WaitingAcceptors>) {
    let mut bench = Bench::new(1);
    bench.table.give_rows(1, bench.now);
    let listed = bench.id(1);
    let (_, control) = bench.table.child(listed).expect("the child has a row");
    if let Some(waiting) = waiting {
        assert!(
            !bench.table.reconfigure(waiting),
            "the acceptor has not begun"
        );
    }
    assert_eq!(bench.starts(1), [1]);
    let (begun, generation) = bench.table.begin(listed).expect("the child has a row");
    assert!(Rc::ptr_eq(&begun, &control), "the child is the same");
    assert_eq!(generation, bench.table.generation());
    let (row, _) = bench.table.child(listed).expect("the child has a row");
    assert_eq!(row.acceptor_state(), Some(AcceptorState::Init));
    bench.tally([0, 0, 1, 0]);
}

#[test]
fn acceptor_begins_with_current_spec() {
    check_begins(None);
    check_begins(Some(WaitingAcceptors::Keep));
    check_begins(Some(WaitingAcceptors::Replace));
}

#[test]
fn kept_acceptors_serve_and_are_replaced() {
    let mut bench = Bench::started(2);
    bench.waits(1, Waits::Yes);
    assert!(!bench.table.reconfigure(WaitingAcceptors::Keep));
    bench.serves(1, false, Init(3));
    bench.waits(2, Waits::Yes);
    bench.serves(2, true, Then::Waits(4));
    bench.tally([2, 1, 1, 0]);
}

/// One acceptor waits, one is in `init`, one terminates after its timeout, and one is spaced: only the last one stays.
#[test]
fn replaced_acceptors_end_beside_successors() {
    let mut bench = Bench::started(4);
    bench.waits(1, Waits::Yes);
    bench.waits(3, Waits::Yes);
    let timed_out = bench.id(3);
    bench.table.terminates(timed_out);
    bench.ends(4, Lost, Later(5, 0));
    assert!(bench.table.reconfigure(WaitingAcceptors::Replace));
    bench.tally([0, 1, 5, 1]);
    assert_eq!(bench.starts(9), [6, 7, 8]);
    // Again: ending acceptors are not replaced twice.
    assert!(bench.table.reconfigure(WaitingAcceptors::Replace));
    assert_eq!(bench.starts(9), [9, 10, 11]);
    assert!(!{
        let mut other = Bench::new(3);
        other.table.reconfigure(WaitingAcceptors::Replace)
    });
    bench.waits(2, Waits::Yes);
    for number in [1, 2, 3, 6, 7, 8] {
        let id = bench.id(number);
        let row = bench.table.remove(id).expect("the child has a row");
        assert!(bench.table.is_replaced(&row), "{number}");
    }
    bench.start_spaced(5);
    for number in [5, 9, 10, 11] {
        bench.waits(number, Waits::Yes);
        let id = bench.id(number);
        assert!(bench.table.row(id).is_some_and(|row| row.generation == 2));
    }
    bench.tally([0, 4, 0, 0]);
    bench.serves(5, false, Init(12));
}

/// The next acceptor has a row if it has something to terminate or to report.
#[track_caller]
fn check_next_of_replaced(ready: Ready, state: Option<AcceptorState>) {
    let mut bench = Bench::started(1);
    bench.waits(1, Waits::Yes);
    let next = Next {
        number: bench.table.reserve_number(),
        generation: 0,
        ready,
    };
    assert!(bench.table.reconfigure(WaitingAcceptors::Replace));
    let (id, now) = (bench.id(1), bench.now);
    let table = &mut bench.table;
    let Became::Replaced(next) = table.became(id, ConnectionState::Serving, PEER, now, next) else {
        panic!("the acceptor was not replaced");
    };
    assert_eq!(table.accepted(), 0);
    let found = next
        .and_then(|id| table.child(id))
        .and_then(|(row, _)| row.acceptor_state());
    assert_eq!(found, state);
    for id in [Some(id), next].into_iter().flatten() {
        let row = table.remove(id).expect("the child has a row");
        assert!(table.is_replaced(&row));
    }
    bench.tally([0, 0, 1, 0]);
    assert_eq!(bench.starts(9), [3]);
}

#[test]
fn replaced_acceptor_becomes_no_connection() {
    check_next_of_replaced(Ready::No, None);
    check_next_of_replaced(Ready::Yes, Some(AcceptorState::Waiting));
    check_next_of_replaced(Ready::Failed, Some(AcceptorState::Init));
}

/// The new acceptors, too, try one at a time (B4).
#[test]
fn replacement_continues_the_outage() {
    let mut bench = Bench::started(3);
    bench.ends(1, StartError, Later(4, 0));
    bench.start_spaced(4);
    assert!(bench.table.reconfigure(WaitingAcceptors::Replace));
    assert_eq!(bench.starts(9), [5]);
    assert_eq!(bench.starts(9), []);
    bench.ends(5, StartError, Later(6, 1));
    assert_eq!(bench.starts(9), []);
    // The end of an old acceptor does not affect the new ones.
    bench.waits(2, Waits::Yes);
    assert_eq!(bench.starts(9), []);
    bench.start_spaced(6);
    bench.waits(6, Waits::Releases);
    assert_eq!(bench.starts(9), [7, 8]);
}

#[test]
fn pending_retry_survives_replacement() {
    let mut bench = Bench::started(2);
    bench.ends(1, StartError, Later(3, 0));
    assert!(bench.table.reconfigure(WaitingAcceptors::Replace));
    assert_eq!(bench.starts(9), []);
    bench.start_spaced(3);
    bench.waits(3, Waits::Releases);
    assert_eq!(bench.starts(9), [4]);
}

#[test]
fn closed_listener_replaces_nothing() {
    for end in [Table::kill, |table: &mut Table<Polls, ()>| {
        table.close();
    }] {
        let mut bench = Bench::started(1);
        bench.waits(1, Waits::Yes);
        end(&mut bench.table);
        assert!(!bench.table.reconfigure(WaitingAcceptors::Replace));
        bench.tally([0, 1, 0, 0]);
        let id = bench.id(1);
        let row = bench.table.remove(id).expect("the child has a row");
        assert!(!bench.table.is_replaced(&row));
    }
}

#[test]
fn ended_listed_acceptor_is_not_started() {
    let mut bench = Bench::new(2);
    bench.table.give_rows(2, bench.now);
    bench.ends(1, Other, Init(3));
    assert_eq!(bench.starts(9), [2]);
}

#[test]
fn acceptor_states_are_counted() {
    let mut bench = Bench::started(2);
    bench.tally([0, 0, 2, 0]);
    bench.waits(1, Waits::Yes);
    bench.tally([0, 1, 1, 0]);
    bench.serves(1, false, Init(3));
    bench.tally([1, 0, 2, 0]);
    assert_eq!(bench.table.accepted(), 1);
    bench.waits(2, Waits::Yes);
    let second = bench.id(2);
    bench.table.terminates(second);
    bench.tally([1, 0, 1, 1]);
    assert_eq!(bench.table.waits(second), Waits::Gone);
    bench.ends(2, Other, Init(4));
    bench.tally([1, 0, 2, 0]);
    assert_eq!(bench.table.tally().acceptors(), 2);
    assert_eq!(bench.table.waits(second), Waits::Gone);
    assert!(bench.table.child(second).is_none());
}

/// The acceptor was started just before the spec was replaced.
#[test]
fn started_acceptor_uses_current_spec() {
    let mut bench = Bench::started(1);
    let id = bench.id(1);
    for (waiting, generation) in [
        (WaitingAcceptors::Keep, 1),
        (WaitingAcceptors::Replace, 1),
        (WaitingAcceptors::Keep, 1),
    ] {
        bench.table.reconfigure(waiting);
        let (_, begun) = bench.table.begin(id).expect("the child has a row");
        assert_eq!(begun, generation, "{waiting:?}");
    }
    assert_eq!(bench.starts(9), [2]);
    bench.ends(1, Other, Init(3));
}

/// Three acceptors are in `init` when the first of them fails: one at a time retries, and the others are held
/// until one accepts (B4).
#[test]
fn outage_has_one_retry_at_a_time() {
    let mut bench = Bench::started(3);
    bench.ends(1, StartError, Later(4, 0));
    bench.tally([0, 0, 3, 0]);
    bench.ends(2, StartError, Then::None);
    bench.start_spaced(4);
    bench.ends(4, StartError, Later(6, 1));
    let (spaced, init) = (AcceptorState::Spaced, AcceptorState::Init);
    assert_eq!(bench.states(), [(3, init), (5, spaced), (6, spaced)]);
    assert_eq!(bench.starts(9), []);
    bench.start_spaced(6);
    bench.ends(6, StartError, Later(7, 2));
    bench.ends(3, StartError, Then::None);
    assert_eq!(bench.starts(9), []);
    bench.tally([0, 0, 3, 0]);
    bench.start_spaced(7);
    bench.waits(7, Waits::Releases);
    bench.tally([0, 1, 2, 0]);
    assert_eq!(bench.starts(9), [5, 8]);
    bench.waits(5, Waits::Yes);
    bench.waits(8, Waits::Yes);
    bench.tally([0, 3, 0, 0]);
}

#[test]
fn any_successful_init_ends_outage() {
    let mut bench = Bench::started(3);
    bench.ends(1, StartError, Later(4, 0));
    bench.ends(2, StartError, Then::None);
    bench.waits(3, Waits::Releases);
    // The retry continues as usual, even if it fails: that is a new outage.
    bench.start_spaced(4);
    bench.ends(4, StartError, Later(6, 0));
    assert_eq!(bench.starts(9), [], "held again before it started");
    bench.start_spaced(6);
    bench.waits(6, Waits::Releases);
    assert_eq!(bench.starts(9), [5]);
}

#[test]
fn retries_double_to_1_s() {
    let mut bench = Bench::started(1);
    for _ in 0..2 {
        let delays = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000];
        for delay in delays {
            let (number, _) = bench.states()[0];
            bench.ends(number, StartError, Later(number + 1, delay));
            bench.start_spaced(number + 1);
        }
        let (number, _) = bench.states()[0];
        bench.waits(number, Waits::Yes);
    }
}

#[test]
fn ended_retry_is_followed_by_the_next() {
    for end in [Other, Repeats, Lost, StartError] {
        let mut bench = Bench::started(2);
        bench.ends(1, StartError, Later(3, 0));
        bench.ends(3, end, Later(4, 1));
        bench.start_spaced(4);
        bench.ends(4, end, Later(5, 2));
        // Another acceptor that ends is held, not spaced.
        bench.ends(2, end, Then::None);
        bench.tally([0, 0, 2, 0]);
    }
}

#[test]
fn outage_connections_are_replaced_after_it() {
    let mut bench = Bench::started(3);
    bench.waits(1, Waits::Yes);
    bench.waits(2, Waits::Yes);
    bench.ends(3, StartError, Later(4, 0));
    bench.serves(1, false, Then::None);
    assert_eq!(bench.starts(9), []);
    bench.start_spaced(4);
    bench.waits(4, Waits::Releases);
    assert_eq!(bench.starts(9), [5]);
    bench.serves(2, false, Then::Init(6));
    bench.tally([2, 1, 2, 0]);
}

/// An acceptor that has its state without an `init` ends the outage as well (B4, B5).
#[test]
fn immediate_state_ends_outage() {
    let mut bench = Bench::started(3);
    bench.waits(1, Waits::Yes);
    bench.waits(2, Waits::Yes);
    bench.ends(3, StartError, Later(4, 0));
    bench.serves(1, false, Then::None);
    assert!(bench.table.signals().outage.get());
    bench.serves(2, true, Then::Releases(6));
    assert!(!bench.table.signals().outage.get());
    assert_eq!(bench.starts(9), [5]);
    bench.tally([2, 1, 2, 0]);
}

/// `init_now` failed, which is a start error: `init` does not run, and the end begins an outage.
#[test]
fn refused_immediate_state_is_start_error() {
    let mut bench = Bench::started(1);
    bench.waits(1, Waits::Yes);
    bench.serves_as(1, Ready::Failed, Init(2));
    bench.ends(2, StartError, Later(3, 0));
    assert!(bench.table.signals().outage.get());
}

#[test]
fn outage_connection_gets_one_replacement() {
    let mut bench = Bench::started(2);
    bench.waits(1, Waits::Yes);
    bench.ends(2, StartError, Later(3, 0));
    let retry = bench.id(3);
    bench.table.remove(retry);
    bench.serves(1, false, Later(4, 1));
}

#[test]
fn ended_held_acceptor_is_skipped() {
    let mut bench = Bench::started(2);
    bench.ends(1, StartError, Later(3, 0));
    bench.ends(2, StartError, Then::None);
    let held = bench.id(4);
    bench.table.remove(held);
    bench.start_spaced(3);
    bench.waits(3, Waits::Yes);
    assert_eq!(bench.starts(9), []);
}

#[test]
fn lost_starts_belong_to_the_driver() {
    let mut bench = Bench::started(1);
    bench.ends(1, Repeats, Init(2));
    bench.ends(2, Repeats, Later(3, 1));
    bench.start_spaced(3);
    bench.ends(3, Lost, Later(4, 2));
    bench.start_spaced(4);
    bench.ends(4, Other, Init(5));
    bench.ends(5, Lost, Later(6, 0));
}

#[test]
fn spaced_acceptor_starts_once() {
    let spaced = || {
        let mut bench = Bench::started(1);
        bench.ends(1, Lost, Later(2, 0));
        let id = bench.id(2);
        (bench, id)
    };
    let (mut bench, _) = spaced();
    bench.start_spaced(2);
    let (mut bench, id) = spaced();
    bench.table.close();
    assert!(!bench.table.start(id));
    let (mut bench, id) = spaced();
    bench.table.kill();
    assert!(!bench.table.start(id));
    let (mut bench, id) = spaced();
    bench.table.remove(id);
    assert!(!bench.table.start(id));
}

#[test]
fn closed_listener_gets_no_replacement() {
    let mut bench = Bench::started(1);
    bench.waits(1, Waits::Yes);
    bench.table.close();
    assert!(matches!(bench.became(1, Ready::Yes), Became::ServesLast(_)));
    bench.tally([1, 0, 0, 0]);
    assert_eq!(bench.table.accepted(), 1);
}

#[test]
fn killed_listener_accepts_no_connection() {
    let mut bench = Bench::started(1);
    bench.waits(1, Waits::Yes);
    bench.table.kill();
    assert!(matches!(bench.became(1, Ready::Yes), Became::Gone));
    bench.tally([0, 1, 0, 0]);
    assert_eq!(bench.table.accepted(), 0);
    assert!(!bench.table.is_open());
}

use ConnectionReports::{All, Failures};

/// Checks whether the row of a connection that ends cleanly is removed immediately.
#[track_caller]
fn check_left(
    reports: ConnectionReports,
    before: impl FnOnce(&mut Table<Polls, ()>),
    expected: bool,
) {
    let mut bench = Bench::started(1);
    bench.waits(1, Waits::Yes);
    bench.table.watch_ends(reports == All);
    bench.serves(1, false, Init(2));
    let (connection, acceptor) = (bench.id(1), bench.id(2));
    before(&mut bench.table);
    let left = bench.table.left(connection);
    assert_eq!(left.is_some(), expected);
    bench.tally([usize::from(!expected), 0, 1, 0]);
    if expected {
        assert!(bench.table.left(connection).is_none());
    }
    assert!(bench.table.left(acceptor).is_none());
}

#[test]
fn clean_end_removes_the_row_at_once() {
    check_left(Failures, |_| {}, true);
    check_left(Failures, Table::begin_stop, false);
    check_left(Failures, Table::kill, false);
    check_left(Failures, |table| assert_eq!(table.close().0, 0), false);
}

#[test]
fn end_is_reported_if_begin_was() {
    check_left(All, |_| {}, false);
    check_left(All, |table| table.watch_ends(false), false);
    check_left(Failures, |table| table.watch_ends(true), true);
}

#[test]
fn close_drops_owed_and_held() {
    for (kill, kind) in [(false, EndKind::Stopped), (true, EndKind::Killed)] {
        let mut bench = Bench::new(6);
        bench.starts(2);
        bench.table.give_rows(1, bench.now);
        bench.ends(1, StartError, Later(4, 0));
        bench.ends(2, StartError, Then::None);
        if kill {
            bench.table.kill();
        }
        assert_eq!(bench.table.close(), (3, kind));
        bench.tally([0, 0, 3, 0]);
        assert!(!bench.table.is_open() && !bench.table.is_owed());
        assert_eq!(bench.starts(9), []);
        assert_eq!(bench.table.close().0, 0);
    }
}

#[test]
fn closed_empty_table_is_over() {
    let mut bench = Bench::started(1);
    bench.waits(1, Waits::Yes);
    bench.serves(1, true, Then::Waits(2));
    assert!(!bench.table.is_over());
    bench.table.close();
    for number in [1, 2] {
        assert!(!bench.table.is_over());
        let id = bench.id(number);
        bench.table.remove(id);
    }
    assert!(bench.table.is_over());
    // An open table has a listener, whether or not it has children.
    assert!(!Bench::new(1).table.is_over());
}

#[test]
fn abandoned_table_owes_nothing() {
    let mut bench = Bench::new(9);
    bench.starts(3);
    assert_eq!(bench.table.abandon().len(), 3);
    bench.tally([0; 4]);
    assert!(bench.table.is_over() && !bench.table.is_owed());
    assert_eq!(bench.starts(9), []);
}

#[test]
fn visit_respects_its_limit() {
    let mut bench = Bench::started(200);
    for limit in [1, 7, 200, 1000] {
        let (mut seen, mut from) = (Vec::new(), Some(0));
        while let Some(cursor) = from {
            let before = seen.len();
            from = bench
                .table
                .visit(cursor, limit, |id, _, _| seen.push(id.number));
            assert!(seen.len() - before <= limit);
        }
        assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    }
}

#[test]
fn look_finds_stuck_and_moving() {
    let mut bench = Bench::started(3);
    let mut polls = Vec::new();
    bench
        .table
        .visit(0, 100, |_, _, control| polls.push(control()));
    polls[1].set(7);
    let stuck = bench.id(2);
    for (look, (moves, found)) in [
        (true, &[][..]),
        (false, &[]),
        (true, &[]),
        (false, &[]),
        (true, &[stuck]),
    ]
    .into_iter()
    .enumerate()
    {
        if moves && look > 0 {
            polls[0].set(polls[0].get() + 2);
        }
        let (all, moved, next) = bench.table.look(0, 100);
        assert_eq!((all.as_slice(), moved, next), (found, moves, None));
    }
}

#[test]
fn look_respects_its_limit() {
    let mut bench = Bench::started(3);
    let (stuck, moved, next) = bench.table.look(0, 2);
    assert_eq!((stuck, moved, next), (Vec::new(), true, Some(2)));
    // The third child is seen for the first time, the others for the second.
    assert_eq!(bench.table.look(0, 2), (Vec::new(), false, Some(2)));
    assert_eq!(bench.table.look(2, 2), (Vec::new(), true, None));
}

#[test]
fn end_report_names_child_and_age() {
    let mut bench = Bench::started(1);
    bench.waits(1, Waits::Yes);
    bench.now += Duration::from_secs(1);
    bench.table.watch_ends(true);
    bench.serves(1, false, Init(2));
    let (id, later) = (bench.id(1), bench.now + Duration::from_secs(2));
    let row = bench.table.remove(id).expect("the connection is served");
    let report = row.report(id, ChildEnd::Killed, later);
    let Some(Event::ConnectionFailed { child, age, .. }) = report else {
        panic!("the kill of a connection is not reported");
    };
    assert_eq!((child, age), (id, Duration::from_secs(2)));
    assert!(row.report(id, ChildEnd::Normal, later).is_none());
    let Some(Event::ConnectionEnded { kind, age, .. }) = row.ended(id, EndKind::Clean, None, later)
    else {
        panic!("the clean end is not reported");
    };
    assert_eq!((kind, age), (EndKind::Clean, Duration::from_secs(2)));
    let acceptor = bench.id(2);
    let row = bench
        .table
        .remove(acceptor)
        .expect("the acceptor is in `init`");
    assert!(row.ended(acceptor, EndKind::Stopped, None, later).is_none());
    let report = row.report(acceptor, ChildEnd::Lost, later);
    assert!(matches!(report, Some(Event::AcceptorFailed { .. })));
}

/// An owed acceptor tries in the place of one that was replaced, as those that are held wait for a success (B4, R1).
#[test]
fn outage_retry_is_owed_before_held() {
    let mut bench = Bench::started(2);
    bench.ends(1, StartError, Later(3, 0));
    bench.ends(2, StartError, Then::None);
    bench.start_spaced(3);
    assert!(bench.table.reconfigure(WaitingAcceptors::Replace));
    assert_eq!(bench.starts(9), [5]);
    bench.waits(5, Waits::Releases);
    assert_eq!(bench.starts(9), [4]);
}

#[test]
fn child_is_found_without_its_slot() {
    let mut bench = Bench::started(200);
    let child = bench.id(150);
    let parsed = ChildId::new(LISTENER, 150, ChildId::NO_SLOT);
    let found = |found: Option<ChildId>| found.map(|id| (id.number, id.slot));
    let (before, next) = bench.table.find(parsed, 0, 100);
    assert_eq!((found(before), next), (None, Some(100)));
    let (there, next) = bench.table.find(parsed, 100, 60);
    assert_eq!((found(there), next), (Some((150, child.slot)), Some(160)));
    bench.table.remove(child);
    assert_eq!(bench.table.find(parsed, 0, 1000), (None, None));
}
