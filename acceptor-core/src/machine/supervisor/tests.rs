//! The machine against a simple model: after any events in any order, every effect is as expected.

mod acts;
mod ends;
mod enumeration;
mod model;
mod world;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use self::acts::{Act, Reported, reported};
use self::ends::{How, OF_ACCEPTORS, OF_CONNECTIONS};
use self::world::{Children, Machine, Outcome, World};
use super::*;
use crate::machine::row::Peer;
use crate::machine::slots::testing::TestSignals;
use crate::machine::table::{Next, Ready};
use crate::policy::{ChildType, ConnectionReports, Restart, StopPlan, WaitingAcceptors};
use crate::status::ConnectionState;

const MS: Duration = Duration::from_millis(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn rules() -> Rules {
    Rules {
        restart: Restart::Transient,
        intensity: 1,
        period: ms(100),
        child_type: ChildType::Worker,
        handshake_timeout: None,
        max_connections: None,
        connection_reports: ConnectionReports::Failures,
        last_listener: LastListener::Continue,
        plan: StopPlan {
            lame_duck: Duration::ZERO,
            grace: Grace::Within(Duration::ZERO),
            shutdown: Shutdown::Within(ms(50)),
            kill_timeout: ms(20),
        },
    }
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let restart = prop_oneof![Just(Restart::Temporary), Just(Restart::Transient)];
    let reports = prop_oneof![
        Just(ConnectionReports::Failures),
        Just(ConnectionReports::Disconnects),
        Just(ConnectionReports::All)
    ];
    let last_listener = prop_oneof![Just(LastListener::Continue), Just(LastListener::Stop)];
    let grace = prop_oneof![
        Just(Grace::Within(Duration::ZERO)),
        (1..40_u64).prop_map(|time| Grace::Within(ms(time))),
        Just(Grace::Unlimited),
    ];
    let shutdown = prop_oneof![
        Just(Shutdown::Kill),
        (0..40_u64).prop_map(|time| Shutdown::Within(ms(time))),
        Just(Shutdown::Unlimited),
    ];
    let plan = (prop_oneof![Just(0), 1..40_u64], grace, shutdown, 1..40_u64);
    let plan = plan.prop_map(|(lame_duck, grace, shutdown, kill_timeout)| StopPlan {
        lame_duck: ms(lame_duck),
        grace,
        shutdown,
        kill_timeout: ms(kill_timeout),
    });
    let counted = (restart, 0..6_u32, 1..100_u64);
    (counted, reports, last_listener, plan).prop_map(
        |((restart, intensity, period), connection_reports, last_listener, plan)| Rules {
            restart,
            intensity,
            period: ms(period),
            child_type: ChildType::Worker,
            handshake_timeout: None,
            max_connections: None,
            connection_reports,
            last_listener,
            plan,
        },
    )
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let any = any::<usize>;
    let of_acceptors = proptest::sample::select(OF_ACCEPTORS.as_slice());
    let of_connections = proptest::sample::select(OF_CONNECTIONS.as_slice());
    let reason = || {
        proptest::sample::select(
            [
                StopReason::Requested,
                StopReason::OwnerDropped,
                StopReason::RuntimeGone,
            ]
            .as_slice(),
        )
    };
    let waiting = prop_oneof![
        Just(WaitingAcceptors::Keep),
        Just(WaitingAcceptors::Replace),
    ];
    let act = prop_oneof![
        4 => (1..4_usize).prop_map(Act::Add),
        8 => (any(), 1..4_usize).prop_map(|(which, limit)| Act::Starts(which, limit)),
        2 => (any(), 1..4_usize).prop_map(|(which, limit)| Act::Lists(which, limit)),
        16 => any().prop_map(Act::Waits),
        3 => any().prop_map(Act::Dismissed),
        12 => any().prop_map(Act::Became),
        4 => any().prop_map(Act::BecameWithNext),
        8 => (any(), of_acceptors).prop_map(|(which, how)| Act::AcceptorEnds(which, how)),
        8 => (any(), of_connections.clone()).prop_map(|(which, how)| Act::ConnectionEnds(which, how)),
        2 => (any(), of_connections).prop_map(|(which, how)| Act::EndsAgain(which, how)),
        1 => any().prop_map(Act::ComesLate),
        2 => any().prop_map(Act::Close),
        1 => Just(Act::CloseAgain),
        3 => any().prop_map(Act::SocketCloses),
        1 => any().prop_map(Act::ListenerFails),
        1 => reason().prop_map(Act::Stop),
        1 => reason().prop_map(Act::Kill),
        12 => (0..60_u64).prop_map(Act::Wait),
        1 => Just(Act::Wait(1000)),
        4 => any().prop_map(Act::Poll),
        1 => (any_rules(), waiting).prop_map(|(rules, waiting)| Act::Reconfigure(rules, waiting)),
    ];
    proptest::collection::vec(act, 0..80)
}

/// Applies the acts in order; after each, everything is compared with the model.
#[track_caller]
fn check(rules: Rules, acts: &[Act]) -> World {
    let mut world = World::new(rules);
    for act in acts {
        world.act(act);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn effects_match_the_model(rules in any_rules(), acts in acts()) {
        check(rules, &acts);
    }

    /// Every child ends, every socket closes, and then the pool has stopped.
    #[test]
    fn stop_ends_with_last_child_and_socket(rules in any_rules(), acts in acts()) {
        let mut world = check(rules, &acts);
        world.act(&Act::Stop(StopReason::Requested));
        world.act(&Act::Wait(40));
        while world.machine.state() != PoolState::Stopped {
            let left = (world.children.len(), world.closing().len());
            prop_assert_ne!(left, (0, 0));
            world.act(&Act::SocketCloses(0));
            world.act(&Act::AcceptorEnds(0, How::Stopped));
            world.act(&Act::ConnectionEnds(0, How::Normal));
        }
    }

    /// No child ends and no socket closes: the pool has stopped a kill timeout after the kill.
    #[test]
    fn kill_gives_up_idle_runtime(rules in any_rules(), acts in acts()) {
        let mut world = check(rules, &acts);
        world.act(&Act::Kill(StopReason::RuntimeGone));
        // The first look is due immediately, and may have seen earlier progress.
        for _ in 0..6 {
            world.act(&Act::Wait(10));
        }
        prop_assert_eq!(world.machine.state(), PoolState::Stopped);
    }
}

/// A machine with one listener of one acceptor, which is in `init`.
fn one_acceptor(rules: Rules, now: Instant) -> (Machine, Children, ChildId) {
    let mut machine = Machine::new(rules, PoolId::ANY);
    let mut table = Table::new(
        machine.add_listener(Some(RuntimeKey::OF_THE_POOL), |id, _| id),
        1,
        TestSignals::default(),
    );
    let id = table.take_starts(1, now)[0];
    (machine, table, id)
}

fn next() -> Next {
    Next {
        number: 2,
        generation: 0,
        ready: Ready::No,
    }
}

const PEER: Peer<()> = Peer {
    peer_addr: (),
    own: None,
};

/// One row of the contract's table of ends, or of B3 to B8: with intensity 0 a counted end stops the pool.
#[track_caller]
fn check_row(
    role: Role,
    how: How,
    reported_as: Option<&str>,
    transient: Verdict,
    temporary: Verdict,
) {
    for (restart, verdict) in [
        (Restart::Transient, transient),
        (Restart::Temporary, temporary),
    ] {
        let rules = Rules {
            restart,
            intensity: 0,
            ..rules()
        };
        let now = Instant::now();
        let (mut machine, mut table, id) = one_acceptor(rules, now);
        if role == Role::Connection {
            table.waits(id);
            table.became(id, ConnectionState::Serving, PEER, now, next());
        }
        let mut effects = Outcome::default();
        machine.ended(&mut table, id, how.end(), now + MS, &mut effects);
        let mut expected = Vec::new();
        expected.extend(reported_as.map(|word| match (role, how) {
            (Role::Connection, _) => format!("ConnectionFailed({id:?}, {word:?}, 1ms)"),
            (Role::Acceptor, How::StartError | How::StartPanic) => {
                format!("StartError({id:?}, {word:?})")
            }
            (Role::Acceptor, _) => format!("AcceptorFailed({id:?}, {word:?})"),
        }));
        let stops = verdict == Verdict::Exceeded;
        expected.extend(stops.then(|| "PoolStopped(Intensity)".to_owned()));
        let reports = effects.reports.iter().map(reported);
        let reports: Vec<_> = reports.map(|report| format!("{report:?}")).collect();
        assert_eq!(reports, expected, "{role:?} {how:?} {restart:?}");
        assert_eq!(machine.state() != PoolState::Running, stops);
    }
}

#[test]
fn ends_follow_the_contract() {
    use Role::{Acceptor, Connection};
    use Verdict::{Exceeded as Counts, Tolerable as Not};
    check_row(Connection, How::Normal, None, Not, Not);
    check_row(Connection, How::Clean, None, Not, Not);
    check_row(Connection, How::Disconnected, None, Not, Not);
    check_row(Connection, How::HandshakeFailed, None, Not, Not);
    check_row(Connection, How::Error, Some("error"), Counts, Not);
    check_row(Connection, How::Panic, Some("panic"), Counts, Not);
    check_row(Connection, How::Killed, Some("killed"), Counts, Not);
    check_row(Connection, How::Stopped, None, Not, Not);
    check_row(Connection, How::Lost, Some("lost"), Not, Not);
    check_row(Acceptor, How::Ignored, None, Not, Not);
    check_row(Acceptor, How::StartError, Some("error"), Counts, Counts);
    check_row(Acceptor, How::StartPanic, Some("panic"), Counts, Counts);
    check_row(Acceptor, How::TimedOut, None, Not, Not);
    check_row(Acceptor, How::TimedOutShort, None, Not, Not);
    check_row(Acceptor, How::Stopped, None, Not, Not);
    check_row(Acceptor, How::Panic, Some("panic"), Counts, Not);
    check_row(Acceptor, How::Killed, Some("killed"), Counts, Not);
    check_row(Acceptor, How::Lost, Some("lost"), Not, Not);
}

/// Checks the delays of the starts that follow these ends, each of the acceptor started last.
#[track_caller]
fn check_spacing(ends: &[How], delays_ms: &[u128]) {
    let rules = Rules {
        intensity: u32::MAX,
        ..rules()
    };
    let now = Instant::now();
    let (mut machine, mut table, mut id) = one_acceptor(rules, now);
    let mut delays = Vec::new();
    for how in ends {
        let mut effects = Outcome::default();
        machine.ended(&mut table, id, how.end(), now, &mut effects);
        let at_once = effects.start.map(|(_, start)| (start, Duration::ZERO));
        let later = effects.start_later.map(|(_, start, delay)| (start, delay));
        let (start, delay) = at_once.or(later).expect("the acceptor is replaced");
        id = start;
        delays.push(delay.as_millis());
    }
    assert_eq!(delays, delays_ms);
}

const DOUBLING_MS: [u128; 13] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000];

#[test]
fn repeated_starts_back_off_to_1_s() {
    check_spacing(&[How::Ignored; 13], &DOUBLING_MS);
    check_spacing(&[How::TimedOutShort; 13], &DOUBLING_MS);
    check_spacing(&[How::PanicShort; 13], &DOUBLING_MS);
    check_spacing(&[How::Lost; 13], &DOUBLING_MS);
}

#[test]
fn outage_retries_back_off_to_1_s() {
    check_spacing(&[How::StartError; 13], &DOUBLING_MS);
    check_spacing(&[How::StartPanic; 13], &DOUBLING_MS);
    // However a retry ends, no acceptor has accepted yet.
    use How::{Ignored, Killed, Lost, StartError, Stopped};
    check_spacing(
        &[StartError, Stopped, Ignored, Lost, Killed, StartError],
        &[0, 1, 2, 4, 8, 16],
    );
}

#[test]
fn backoff_resets_on_another_end() {
    use How::{Ignored, Stopped, TimedOut};
    check_spacing(
        &[Ignored, Ignored, Ignored, TimedOut, Ignored, Ignored],
        &[0, 1, 2, 0, 0, 1],
    );
    check_spacing(&[TimedOut, TimedOut, Stopped], &[0, 0, 0]);
}

#[test]
fn backoff_resets_on_connection() {
    let acts = [
        Act::Add(1),
        Act::Starts(0, 1),
        Act::AcceptorEnds(0, How::Ignored),
        Act::AcceptorEnds(0, How::Ignored),
        Act::Wait(1),
        Act::Waits(0),
        Act::Became(0),
        Act::AcceptorEnds(0, How::Ignored),
    ];
    let world = check(rules(), &acts);
    let acceptor = world.of_role(Role::Acceptor)[0];
    assert_eq!(world.children[&acceptor].spaced, 1);
    assert_eq!(world.of_role(Role::Connection).len(), 1);
}

#[test]
fn brutal_shutdown_reports_no_kills() {
    let mut brutal = rules();
    brutal.plan.shutdown = Shutdown::Kill;
    let acts = [
        Act::Add(1),
        Act::Starts(0, 1),
        Act::Waits(0),
        Act::Became(0),
        Act::Stop(StopReason::Requested),
        Act::SocketCloses(0),
        Act::AcceptorEnds(0, How::Stopped),
        Act::ConnectionEnds(0, How::Killed),
    ];
    let world = check(brutal, &acts);
    let stop = world.stop.expect("the pool was stopped");
    assert!(stop.finished);
    let killed = stop.count(Role::Connection, Phase::Kill, EndKind::Killed);
    assert_eq!(killed, 1);
    let reports = world.history.iter().flat_map(|moment| &moment.reports);
    assert_eq!(reports.count(), 0);
}

/// Checks the reports of a pool whose two listeners fail one after the other.
#[track_caller]
fn check_failing_listeners(last_listener: LastListener, acts: &[Act], expected: &[Reported]) {
    let rules = Rules {
        last_listener,
        ..rules()
    };
    let mut all = vec![Act::Add(1), Act::Add(1)];
    all.extend_from_slice(acts);
    let world = check(rules, &all);
    let reports = world.history.iter().flat_map(|moment| &moment.reports);
    assert_eq!(reports.copied().collect::<Vec<_>>(), expected);
    let stops = expected.contains(&Reported::PoolStopped(StopReason::ListenersFailed));
    assert_eq!(world.machine.state() == PoolState::Running, !stops);
}

#[test]
fn last_listener_failure_stops_the_pool() {
    use Act::{Close, ListenerFails, SocketCloses};
    let listener = |sequence| ListenerId {
        sequence,
        pool: PoolId::ANY,
    };
    let fails = |sequence, left| Reported::ListenerFailed(listener(sequence), left);
    let both = [ListenerFails(1), ListenerFails(0)];
    let continues = [fails(2, 1), fails(1, 0)];
    check_failing_listeners(LastListener::Continue, &both, &continues);
    let stopped = Reported::PoolStopped(StopReason::ListenersFailed);
    let stops = [fails(2, 1), fails(1, 0), stopped];
    check_failing_listeners(LastListener::Stop, &both, &stops);
    // The last listener was closed, and did not fail; one that fails while it closes counts as closed.
    let closed = [ListenerFails(0), Close(0), SocketCloses(0)];
    check_failing_listeners(LastListener::Stop, &closed, &[fails(1, 1)]);
    let fails_late = [ListenerFails(0), Close(0), ListenerFails(0)];
    check_failing_listeners(LastListener::Stop, &fails_late, &[fails(1, 1)]);
    // A closing listener no longer counts as left.
    let closing = [Close(0), ListenerFails(1)];
    check_failing_listeners(LastListener::Stop, &closing, &[fails(2, 0), stopped]);
}
