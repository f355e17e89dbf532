//! Further cases. Each fails at a comparison that no case of the table needs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use acceptor_core::{
    AcceptErrorKind, AcceptorRecord, Connection, ConnectionRecord, ConnectionReports,
    ConnectionState, Counts, Event, EventKind, Latch, Lifecycle, ListenerInfo, ListenerRecord,
    Losses, Phase, PoolState, Report, Shutdown, Status, StopReason, StopReport, TestSignals,
};

use super::{Case, Flaw, ListenerFlaw, RuntimeFlaw, StreamFlaw};
use conformance_tests::fixture::Fixture;
use conformance_tests::instruments::TraceEvent;
use conformance_tests::reference::Reference;
use conformance_tests::tamper::{Callbacks, Conduct, Edit, Given, Settings, Since, Tamper, Verb};
use conformance_tests::{Address, Boxed, Real, run_in};

/// Creates a case for each rule that a flaw breaks, with the expected text of the failure.
fn each<F: Into<Flaw>>(
    flaw: fn() -> F,
    rules: &[(&'static str, &'static str)],
) -> impl Iterator<Item = Case> {
    rules.iter().map(move |&(rule, words)| Case {
        rule,
        flaw: flaw().into(),
        words,
        leaves: &[],
    })
}

/// Applies a flaw from this occasion on, counted from 1.
fn since(time: usize, tamper: Tamper) -> Tamper {
    Tamper {
        since: Since::time(time),
        ..tamper
    }
}

/// Applies an edit from this call on, counted from 1.
fn from<T: 'static>(first: usize, edit: fn(&mut T)) -> Option<Edit<T>> {
    let times = AtomicUsize::new(0);
    Some(Box::new(move |value| {
        if times.fetch_add(1, Ordering::SeqCst) + 1 >= first {
            edit(value);
        }
    }))
}

fn callbacks(callbacks: Callbacks) -> Tamper {
    Tamper {
        callbacks,
        ..Tamper::default()
    }
}

fn conduct(verb: Verb, conduct: Conduct) -> Tamper {
    Tamper {
        conduct: Some((verb, conduct)),
        ..Tamper::default()
    }
}

fn settings(settings: Settings) -> Tamper {
    Tamper {
        settings,
        ..Tamper::default()
    }
}

/// Makes this many copies of each report of a kind.
fn reported(times: usize, kind: EventKind) -> Tamper {
    Tamper {
        report: Some(Box::new(move |report| {
            if report.event.kind() == kind {
                times
            } else {
                1
            }
        })),
        ..Tamper::default()
    }
}

fn reporting(edit: fn(&mut Report<Address>)) -> Tamper {
    Tamper {
        report: Some(Box::new(move |report| {
            edit(report);
            1
        })),
        ..Tamper::default()
    }
}

fn acceptors(first: usize, edit: fn(&mut Vec<AcceptorRecord>)) -> Tamper {
    Tamper {
        acceptors_shown: from(first, edit),
        ..Tamper::default()
    }
}

fn connections(first: usize, edit: fn(&mut Vec<ConnectionRecord<Address>>)) -> Tamper {
    Tamper {
        connections: from(first, edit),
        ..Tamper::default()
    }
}

fn counts(first: usize, edit: fn(&mut Counts)) -> Tamper {
    Tamper {
        counts: from(first, edit),
        ..Tamper::default()
    }
}

fn listeners(first: usize, edit: fn(&mut Vec<ListenerRecord<Address>>)) -> Tamper {
    Tamper {
        listeners: from(first, edit),
        ..Tamper::default()
    }
}

fn result(first: usize, edit: fn(&mut StopReport<Address>)) -> Tamper {
    Tamper {
        result: from(first, edit),
        ..Tamper::default()
    }
}

fn status(first: usize, edit: fn(&mut Status<Address>)) -> Tamper {
    Tamper {
        status: from(first, edit),
        ..Tamper::default()
    }
}

/// Changes the connections that `serve` receives, from this one on.
fn given(first: usize, edit: fn(&mut Given)) -> Tamper {
    Tamper {
        given: from(first, edit),
        ..Tamper::default()
    }
}

/// Changes the arguments of `init`, from this call on.
fn info(first: usize, edit: fn(&mut ListenerInfo<Address>)) -> Tamper {
    Tamper {
        info: from(first, edit),
        ..Tamper::default()
    }
}

/// Creates latches that belong to no pool, in the given state.
fn signals(done: fn(&TestSignals)) -> Lifecycle {
    let (connection, signals) = Connection::for_test((), (), ());
    done(&signals);
    connection.lifecycle
}

/// Creates a latch that is set.
fn set() -> Latch {
    signals(TestSignals::drain).draining().clone()
}

/// Creates a latch that is never set.
fn never_set() -> Latch {
    signals(|_| {}).draining().clone()
}

fn traces(first: usize, edit: fn(&mut Vec<TraceEvent>)) -> Tamper {
    Tamper {
        traces: from(first, edit),
        ..Tamper::default()
    }
}

/// Replaces the counts of a result with those of a pool without children.
fn no_ends(report: &mut StopReport<Address>) {
    static EMPTY: OnceLock<StopReport<Address>> = OnceLock::new();
    let empty = EMPTY.get_or_init(|| {
        // On a new thread: the current one may belong to a runtime.
        let stopped = thread::spawn(|| {
            let world = Arc::new(Boxed::new(Real::new(Reference)));
            let fixture = Fixture::new(&world);
            let pool = fixture.start(fixture.spec("empty"));
            run_in(&world, pool.expect("a valid spec starts").stop())
        });
        stopped.join().expect("a pool without children stops")
    });
    let ended = std::mem::replace(report, empty.clone());
    report.reason = ended.reason;
    report.elapsed = ended.elapsed;
    report.stuck = ended.stuck;
    report.undelivered = ended.undelivered;
    report.late = ended.late;
}

/// Returns the further cases.
pub(super) fn further() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(each(
        || ListenerFlaw::LocalForPeer,
        &[
            ("K3", "the accepted client: ["),
            ("K6", "the accepted client: [Some("),
            ("L2", "how often a connection was served: 1"),
        ],
    ));
    cases.extend(each(
        || RuntimeFlaw::ClockTicks,
        &[("A5", "a pause of at least")],
    ));
    cases.extend(each(
        || StreamFlaw::Changes,
        &[("R3", "the acceptor that serves: [116, 104, 105, 114, 100]")],
    ));
    cases.extend(each(
        || Tamper {
            acceptors: Some(|_| 1),
            ..Tamper::default()
        },
        &[(
            "B5",
            "states that `init_now` has made when `serve` is first polled: [3",
        )],
    ));
    cases.extend(each(
        || Tamper {
            acceptors: Some(|count| count + 1),
            ..Tamper::default()
        },
        &[
            ("E3", "children left: 6"),
            ("I3", "acceptors that terminated: [\"stopped\"]"),
            ("L3", "why they terminate: [\"closed\", \"closed\"]"),
        ],
    ));
    cases.extend(each(
        || Tamper {
            report: Some(Box::new(|_| 2)),
            ..Tamper::default()
        },
        &[
            ("A3", "the failed listener: [("),
            ("H2", "kills reported: ["),
            ("O2", "ordinary reports that were delivered: 1025"),
            ("O3", "failures of acceptors that the observer received: 62"),
        ],
    ));
    cases.extend(each(
        || since(2, callbacks(Callbacks::InitElsewhere)),
        &[(
            "B4",
            "start errors reported for Panic(\"no\") in a Temporary pool of int",
        )],
    ));
    cases.extend(each(
        || since(2, conduct(Verb::CloseListener, Conduct::Ignored)),
        &[
            ("L1", "a new client of the closed listener is refused: true"),
            ("L3", "the result of closing it again: Err(UnknownListener("),
            (
                "L8",
                "the result of a close while the socket is open: Pending",
            ),
        ],
    ));
    cases.extend(each(
        || {
            since(
                2,
                settings(Settings {
                    accept_errors: Some(|_| AcceptErrorKind::Connection),
                    ..Settings::default()
                }),
            )
        },
        &[
            ("A1", "errors seen: 99"),
            ("O2", "reports of the pauses: 1"),
        ],
    ));
    cases.extend(each(
        || {
            since(
                2,
                settings(Settings {
                    peer_gone: Some(|_| true),
                    ..Settings::default()
                }),
            )
        },
        &[(
            "O1",
            "reports once it resumes: [\"one\", \"two\", \"three\"]",
        )],
    ));
    cases.extend(each(
        || since(3, callbacks(Callbacks::InitTwice)),
        &[
            (
                "A1",
                "the `init` of the acceptor that skipped a connection: 1",
            ),
            ("B3", "the number of the `init` that accepted: 9"),
            (
                "B4",
                "the `init` after Fail(\"no\") in a Temporary pool of intensity 1:",
            ),
            ("B6", "acceptors that ended before the sixth began: true"),
            (
                "B7",
                "how often each state was served or terminated: {1: 1, 2: 1, 3: 1",
            ),
            ("B8", "the `init` after two panics: 3"),
            ("R1", "the `init` of the acceptor that waited: 3"),
        ],
    ));
    cases.extend(each(
        || since(3, callbacks(Callbacks::ServeKept)),
        &[("N2", "how it ended: Some(Dropped)")],
    ));
    cases.extend(each(
        || since(4, callbacks(Callbacks::InitTwice)),
        &[("R1", "how often the replaced `init` ran: 3")],
    ));
    cases.extend(each(
        || {
            since(
                4,
                settings(Settings {
                    shutdown: Some(Shutdown::Within(Duration::ZERO)),
                    ..Settings::default()
                }),
            )
        },
        &[
            ("L7", "how often a queued client was served, BrutalStop: 0"),
            ("S4", "connections that ended at the stop phase: 1"),
            ("S7", "ends in the phase stop: [0, 0, 0, 0, 0, 1, 1]"),
        ],
    ));
    cases.extend(each(
        || since(6, conduct(Verb::CloseListener, Conduct::Ignored)),
        &[("L7", "an acceptor that starts is waited for a second:")],
    ));
    cases.extend(each(
        || Tamper {
            words: Some(|_| String::new()),
            ..Tamper::default()
        },
        &[
            ("L9", "whether the report says that none is left: : true"),
            ("V5", "reports that show the text, escaped: 4"),
        ],
    ));
    cases.extend(each(
        || {
            acceptors(1, |list| {
                list.iter_mut()
                    .for_each(|one| one.age = Duration::from_secs(90000))
            })
        },
        &[("Q5", "an age of 90000s is within")],
    ));
    cases.extend(each(
        || callbacks(Callbacks::InitTwice),
        &[
            ("A1", "the `init` of the acceptor that kept waiting: 1"),
            ("A3", "the `init` of the acceptor that waited: 1"),
            ("R2", "the `init` of the connection: 1"),
        ],
    ));
    cases.extend(each(
        || callbacks(Callbacks::ServeDetached),
        &[("N2", "how the other connection ended: Some(Dropped)")],
    ));
    cases.extend(each(
        || callbacks(Callbacks::ServeErrorsForgiven),
        &[
            (
                "O3",
                "events of another kind, and of another listener: (1, 1)",
            ),
            ("R1", "remembered failures: 1"),
        ],
    ));
    cases.extend(each(
        || callbacks(Callbacks::StateOfAnother),
        &[
            (
                "H2",
                "the state of a connection that ended in its handshake: [\"dropped",
            ),
            ("R1", "how often the old `init` ran: 3"),
        ],
    ));
    cases.extend(each(
        || callbacks(Callbacks::TerminateClosed),
        &[
            ("A3", "terminations: [\"io\", \"io\"]"),
            ("B6", "why acceptor 1 ended: \"timeout\""),
            ("L4", "why its acceptors terminated: [\"io\", \"io\"]"),
            (
                "R1",
                "how the waiting acceptors ended: [\"replaced\", \"replaced\"]",
            ),
        ],
    ));
    cases.extend(each(
        || conduct(Verb::CloseListener, Conduct::Forgiven),
        &[(
            "L8",
            "the result of a close once the listener is closed: Err(UnknownLi",
        )],
    ));
    cases.extend(each(
        || conduct(Verb::CloseListener, Conduct::Ignored),
        &[("S9", "`close_listener`: Err(Stopped)")],
    ));
    cases.extend(each(
        || conduct(Verb::KillChild, Conduct::Forgiven),
        &[
            ("E4", "killing it again: Err(Unknown"),
            ("Q5", "killing it again: Err(Unknown"),
            ("R4", "killing it again: Err(Unknown"),
            ("S9", "`kill_child`: Err(Stopped)"),
        ],
    ));
    cases.extend(each(
        || conduct(Verb::Reconfigure, Conduct::Ignored),
        &[("S9", "`reconfigure` is refused: true")],
    ));
    cases.extend(each(
        || conduct(Verb::Reload, Conduct::Ignored),
        &[("S9", "`reload` is refused: true")],
    ));
    cases.extend(each(
        || conduct(Verb::Stop, Conduct::Swapped),
        &[
            ("E6", "connections that ended in the grace: 1"),
            ("N1", "*draining* in a lame duck: false"),
            ("O1", "reports once it resumes: 4"),
            ("O2", "undelivered reports after a kill timeout: 3"),
            ("R4", "the children reported as killed: [Some(("),
        ],
    ));
    cases.extend(each(
        || connections(1, |list| list.clear()),
        &[("Q3", "connections in the list, by listener: [1, 0]")],
    ));
    cases.extend(each(
        || {
            connections(1, |list| {
                list.iter_mut()
                    .for_each(|one| one.local_addr = Address::named("another"))
            })
        },
        &[(
            "H5",
            "the addresses of a connection before its handshake replaces them",
        )],
    ));
    cases.extend(each(
        || {
            connections(1, |list| {
                list.iter_mut()
                    .for_each(|one| one.state = ConnectionState::Guarded)
            })
        },
        &[
            (
                "H3",
                "a connection whose handshake has no deadline: Handshaking",
            ),
            (
                "H6",
                "a connection in the second of its handshakes: Handshaking",
            ),
        ],
    ));
    cases.extend(each(
        || {
            connections(3, |list| {
                list.iter_mut()
                    .for_each(|one| one.state = ConnectionState::Serving)
            })
        },
        &[
            (
                "H1",
                "the connection whose client sends nothing: Handshaking",
            ),
            (
                "H6",
                "a connection in its handshake, during grace: Handshaking",
            ),
        ],
    ));
    cases.extend(each(
        || counts(1, |counts| counts.acceptors = 0),
        &[(
            "Q4",
            "the counts: Counts { connections: 1, handshaking: 0, acceptors:",
        )],
    ));
    cases.extend(each(
        || counts(3, |counts| counts.connections = 0),
        &[(
            "H2",
            "connections, and those in a handshake, after one was stopped: (1",
        )],
    ));
    cases.extend(each(
        || counts(4, |counts| counts.acceptors = 0),
        &[("S3", "children while `terminate` runs: Ok(2)")],
    ));
    cases.extend(each(
        || listeners(1, |list| list.clear()),
        &[
            ("A2", "pauses and skipped connections: Some((10, 0))"),
            ("L4", "the listeners in the list: ["),
            ("L7", "the listener while it closes: Some(Closing)"),
            ("Q4", "the listeners: []"),
        ],
    ));
    cases.extend(each(
        || listeners(2, |list| list.iter_mut().for_each(|one| one.skipped += 1)),
        &[("A1", "connections skipped: Some(1)")],
    ));
    cases.extend(each(
        || listeners(4, |list| list.clear()),
        &[("A4", "skipped and pauses of another pool: Some((1, 1))")],
    ));
    cases.extend(each(
        || reported(0, EventKind::AcceptorFailed),
        &[(
            "Q5",
            "the kill of an acceptor that was in init is reported: true",
        )],
    ));
    cases.extend(each(
        || reported(0, EventKind::ConnectionFailed),
        &[
            (
                "E2",
                "the future is dropped before the report, Commanded(Fail(\"no more",
            ),
            ("E5", "failures reported: ["),
            ("H4", "panics reported: [("),
        ],
    ));
    cases.extend(each(
        || reported(2, EventKind::PoolStopped),
        &[("L9", "the report of the stop: [ListenersFailed]")],
    ));
    cases.extend(each(
        || {
            reporting(|report| {
                if let Event::ConnectionFailed { age, .. } = &mut report.event {
                    *age = Duration::from_secs(90000)
                }
            })
        },
        &[("O4", "an age of 90000s is within")],
    ));
    cases.extend(each(
        || {
            reporting(|report| {
                if let Event::ReportsLost { lost, .. } = &mut report.event {
                    *lost = Losses::default()
                }
            })
        },
        &[("O2", "losses: of that kind, in total: [(50, 50)]")],
    ));
    cases.extend(each(
        || result(1, no_ends),
        &[
            (
                "H6",
                "connections that ended during grace: normally, failed: (1, 1)",
            ),
            (
                "N2",
                "ends at the stop phase: normal, stopped, all: (1, 1, 2)",
            ),
            ("S9", "connections killed: 3"),
        ],
    ));
    cases.extend(each(
        || result(1, |report| report.reason = StopReason::Requested),
        &[
            ("H2", "why the pool stopped: Intensity"),
            ("I3", "why the pool stopped: Intensity"),
        ],
    ));
    cases.extend(each(
        || result(1, |report| report.reason = StopReason::RuntimeGone),
        &[
            (
                "B4",
                "the stop after Fail(\"no\") in a Temporary pool of intensity 0: In",
            ),
            ("B8", "why the pool stopped: Intensity"),
            (
                "E5",
                "the pool stops after FailWith(IoFailure { kind: TimedOut, locati",
            ),
            (
                "H4",
                "the pool stops after a panic in a handshake: Intensity",
            ),
            ("I1", "why the pool stopped: Intensity"),
            ("L9", "why the pool stopped: ListenersFailed"),
            ("R1", "why the pool stopped: Intensity"),
            ("S9", "why it stopped: OwnerDropped"),
        ],
    ));
    cases.extend(each(
        || result(1, |report| report.stuck += 1),
        &[("S9", "children abandoned as stuck: 0")],
    ));
    cases.extend(each(
        || result(1, |report| report.undelivered = 0),
        &[("O2", "undelivered reports according to the result: 50")],
    ));
    cases.extend(each(
        || result(2, no_ends),
        &[
            ("H6", "handshakes that were dropped at the stop phase: 1"),
            (
                "I3",
                "the result of another `join`: StopReport { reason: Intensity, el",
            ),
            ("S3", "acceptors dropped at the stop phase: 2"),
            ("S4", "connections that ended in grace: 2"),
            ("S5", "connections that returned by themselves: 1"),
            ("S6", "killed, Kill: 3"),
            ("S8", "connections killed: 10"),
            (
                "S9",
                "the result of `stop`: StopReport { reason: OwnerDropped, elapsed",
            ),
        ],
    ));
    cases.extend(each(
        || result(2, |report| report.stuck += 1),
        &[
            (
                "S1",
                "the result that another caller got: StopReport { reason: Request",
            ),
            (
                "S8",
                "the result does not change: StopReport { reason: Requested, elap",
            ),
        ],
    ));
    cases.extend(each(
        || result(3, no_ends),
        &[("S5", "killed after the default: 1")],
    ));
    cases.extend(each(
        || result(3, |report| report.elapsed = Duration::ZERO),
        &[
            ("L7", "it took at least"),
            ("S3", "grace waits for it: true"),
            ("S4", "the grace was kept: true"),
            ("S5", "the default is 5 s: it took"),
            (
                "S9",
                "the result of `kill`: StopReport { reason: OwnerDropped, elapsed",
            ),
            (
                "V3",
                "the result of `stop`: StopReport { reason: Requested, elapsed:",
            ),
        ],
    ));
    cases.extend(each(
        || result(3, |report| report.stuck = 0),
        &[("S8", "children abandoned as stuck: 1")],
    ));
    cases.extend(each(
        || {
            settings(Settings {
                connection_reports: Some(ConnectionReports::All),
                ..Settings::default()
            })
        },
        &[("A1", "reports: 0")],
    ));
    cases.extend(each(
        || {
            settings(Settings {
                connection_reports: Some(ConnectionReports::Failures),
                ..Settings::default()
            })
        },
        &[(
            "H3",
            "how the first handshake failed: Some((\"timeout\", None))",
        )],
    ));
    cases.extend(each(
        || status(1, |status| status.failures += 1),
        &[("I4", "counted failures: 0")],
    ));
    cases.extend(each(
        || status(1, |status| status.intensity += 1),
        &[("I1", "the pool runs after failure 1 of 1: true")],
    ));
    cases.extend(each(
        || status(1, |status| status.spec = "other".into()),
        &[
            ("Q4", "the spec's id: \"q4\""),
            ("R3", "the spec at start: \"first\""),
        ],
    ));
    cases.extend(each(
        || status(1, |status| status.state = PoolState::Stopped),
        &[
            ("A1", "the pool keeps running: true"),
            ("A2", "the pool keeps running: true"),
            ("A3", "the pool keeps running: true"),
            ("B4", "the pool survives the outage: true"),
            ("B6", "the pool keeps running: true"),
            ("H2", "the pool runs after a stop by id: true"),
            ("H3", "the pool runs after the deadline: true"),
            ("I1", "the pool runs after one failure: true"),
            ("I2", "the pool keeps running: true"),
            ("L4", "the pool keeps running: true"),
            ("L7", "the state while the listener closes: Stopping(Grace)"),
            ("Q4", "the state: Running"),
            ("R4", "the pool keeps running: true"),
            ("S3", "the state while `terminate` runs: Stopping(Grace)"),
            ("S4", "the state in Within("),
            ("S5", "the state, never: Stopping(Stop)"),
            ("S9", "the state, once the owner is dropped: Stopping(Kill)"),
        ],
    ));
    cases.extend(each(
        || status(1, |status| status.state = PoolState::Stopping(Phase::Kill)),
        &[("B3", "the pool keeps running: true")],
    ));
    cases.extend(each(
        || status(2, |status| status.spec = "other".into()),
        &[("R3", "the spec after Ignore: \"first\"")],
    ));
    cases.extend(each(
        || status(2, |status| status.state = PoolState::Stopping(Phase::Kill)),
        &[
            ("I4", "the pool keeps running: true"),
            ("S1", "the state after a second request: Stopping(Grace)"),
        ],
    ));
    cases.extend(each(
        || status(3, |status| status.state = PoolState::Stopped),
        &[
            (
                "L9",
                "the pool keeps running when the last listener is closed: true",
            ),
            (
                "R2",
                "the status afterwards: Status { spec: \"good\", state: Running, co",
            ),
            ("S2", "the state without a lame duck: Stopping(Grace)"),
        ],
    ));
    cases.extend(each(
        || status(4, |status| status.state = PoolState::Stopped),
        &[
            ("I4", "the pool keeps running: true"),
            ("L9", "the pool keeps running with one listener left: true"),
        ],
    ));
    cases.extend(each(
        || traces(1, |list| list.clear()),
        &[
            ("O3", "events exceed the limit of a second: true"),
            ("V5", "events of `tracing`: 4"),
        ],
    ));
    cases.extend(each(
        || traces(1, |list| list.iter_mut().for_each(|one| one.task = None)),
        &[("O1", "events of `tracing` from another task: 0")],
    ));
    cases.extend(each(
        || {
            traces(1, |list| {
                list.pop();
            })
        },
        &[(
            "O1",
            "the order of the events of `tracing`: [\"one\", \"two\", \"three\", \"f",
        )],
    ));
    cases.extend(each(
        || given(1, |given| given.lifecycle = signals(TestSignals::drain)),
        &[
            ("B10", "*draining* before any close: false"),
            ("L4", "*draining* of another listener's: false"),
            ("N1", "*draining* before any close: false"),
        ],
    ));
    cases.extend(each(
        || given(2, |given| given.lifecycle = signals(TestSignals::drain)),
        &[("S2", "*draining* of a late connection: false")],
    ));
    cases.extend(each(
        || given(1, |given| given.lifecycle = signals(|_| {})),
        &[
            ("H6", "*draining*"),
            ("L3", "*draining* of its connections: true"),
            ("L7", "*draining* once the listener begins to close"),
        ],
    ));
    cases.extend(each(
        || given(1, |given| given.lifecycle = signals(TestSignals::stop)),
        &[
            ("B10", "*stop* before any stop: false"),
            ("S4", "*stop* in "),
        ],
    ));
    cases.extend(each(
        || {
            given(1, |given| {
                given.listener = "99".parse().expect("it is a number")
            })
        },
        &[
            ("B10", "the listener: "),
            ("L1", "the listener that a connection came from: "),
        ],
    ));
    cases.extend(each(
        || info(1, |info| info.id = "99".parse().expect("it is a number")),
        &[("B1", "the listener in `init`: ")],
    ));
    cases.extend(each(
        || info(1, |info| info.closed = set()),
        &[
            ("B1", "*closed* while the listener is open: false"),
            ("L7", "*closed* while the socket is open: false"),
        ],
    ));
    cases.extend(each(
        || info(1, |info| info.closed = never_set()),
        &[("L7", "*closed* once the socket is closed: true")],
    ));
    cases.extend(each(
        || Tamper {
            stopping: Some(set),
            ..Tamper::default()
        },
        &[("S2", "whether the pool is stopping: false")],
    ));
    cases.extend(each(
        || Tamper {
            stopping: Some(never_set),
            ..Tamper::default()
        },
        &[("S2", "whether the pool is stopping: true")],
    ));
    cases.extend(each(
        || conduct(Verb::Listeners, Conduct::Forgiven),
        &[("S9", "`listeners`: true")],
    ));
    cases.extend(each(
        || conduct(Verb::Connections, Conduct::Forgiven),
        &[("S9", "`connections`: true")],
    ));
    cases.extend(each(
        || conduct(Verb::Counts, Conduct::Forgiven),
        &[("S9", "`counts`: true")],
    ));
    cases.extend(each(
        || StreamFlaw::Changes,
        &[
            ("K10", "the same bytes are received as were written"),
            ("K8", "the same bytes"),
            ("K9", "the same bytes"),
        ],
    ));
    cases.extend(each(
        || Tamper {
            report: Some(Box::new(|_| 2)),
            ..Tamper::default()
        },
        &[("A2", " reports in ")],
    ));
    cases.extend(each(
        || Tamper {
            words: Some(|report| report.to_string().repeat(400)),
            ..Tamper::default()
        },
        &[("V5", "at most 1280 of 2028 bytes are written: true")],
    ));
    cases.extend(each(
        || conduct(Verb::CloseListener, Conduct::Denied),
        &[
            (
                "L7",
                "the result of the close after all clients are served: Ok(())",
            ),
            ("L8", "the result of each of both closes: Ok(())"),
            ("Q5", "the result of the close: Ok(())"),
        ],
    ));
    cases.extend(each(
        || since(5, conduct(Verb::CloseListener, Conduct::Denied)),
        &[("L7", "the result of the close after a late start: Ok(())")],
    ));
    cases.extend(each(
        || since(7, conduct(Verb::CloseListener, Conduct::Early)),
        &[("L7", "a client that connects just then has a millisecond:")],
    ));
    cases.extend(each(
        || conduct(Verb::AddListener, Conduct::Forgiven),
        &[("S9", "`add_listener` is refused: true")],
    ));
    cases.extend(each(
        || status(16, |status| status.state = PoolState::Stopped),
        &[("E5", "the pool runs after a reset: true")],
    ));
    cases.extend(each(
        || result(12, |report| report.reason = StopReason::RuntimeGone),
        &[(
            "E5",
            "the pool stops after an error that its classifier does not match",
        )],
    ));
    cases.extend(each(
        || result(5, no_ends),
        &[("S5", "connections that returned by themselves: 1")],
    ));
    cases.extend(each(
        || result(5, |report| report.elapsed = Duration::ZERO),
        &[("S8", "longer than a kill timeout: 0ns: true")],
    ));
    cases.extend(each(
        || result(6, |report| report.elapsed = Duration::ZERO),
        &[("S8", "with a blocked thread, after a kill timeout of")],
    ));
    cases.extend(each(
        || result(6, |report| report.stuck = 0),
        &[("S8", "stuck children of a blocked thread: 1")],
    ));
    cases.extend(each(
        || since(2, conduct(Verb::CloseListener, Conduct::Denied)),
        &[("L7", "the result of the close: Ok(())")],
    ));
    cases.extend(each(
        || StreamFlaw::ChangesReads,
        &[("K9", "the same bytes are read as were sent: true")],
    ));
    cases.extend(each(
        || StreamFlaw::EndIsAByte,
        &[
            ("K9", "how many bytes are read at the end: 0"),
            ("K10", "how many bytes are read at the end: 0"),
        ],
    ));
    cases.extend(each(
        || ListenerFlaw::LocalForPeer,
        &[
            ("K4", "the client of the next `accept`:"),
            ("K5", "the accepted client:"),
            ("K14", "the clients of those connections: ["),
        ],
    ));
    cases.extend(each(
        || result(1, no_ends),
        &[
            ("S5", "killed: 1"),
            ("S7", "ends in the phase lame duck"),
            ("S1", "acceptors that ended: 2"),
        ],
    ));
    cases.extend(each(
        || result(1, |report| report.elapsed = Duration::ZERO),
        &[("S8", "a kill timeout of")],
    ));
    cases
}
