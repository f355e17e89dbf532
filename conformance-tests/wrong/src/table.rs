//! The table of flaws and the rules that they break.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use acceptor_core::{
    AcceptErrorKind, AcceptorRecord, AcceptorState, AtLimit, ChildType, Connection,
    ConnectionRecord, ConnectionReports, ConnectionState, Event, Failure, Grace, LastListener,
    ListenerRecord, ListenerSettings, ListenerState, Refusal, Report, Restart, Shutdown,
    StopReason, StopReport, is_peer_gone,
};

use super::{Flaw, ListenerFlaw, RuntimeFlaw, StreamFlaw};
use conformance_tests::Address;
use conformance_tests::instruments::TraceEvent;
use conformance_tests::tamper::{
    Callbacks, Conduct, Handshaking, Observes, Settings, Since, Tamper, Verb,
};

/// One flaw, and the expected result of the suite.
#[derive(Debug, Clone)]
pub struct Case {
    /// The rule that it breaks.
    pub rule: &'static str,
    /// The flaw.
    pub flaw: Flaw,
    /// A part of the failure's text.
    pub words: &'static str,
    /// Rules that still hold.
    pub leaves: &'static [&'static str],
}

/// Creates a case: the flaw breaks a rule with this text in its failure, and the other rules still hold.
fn breaks(
    rule: &'static str,
    flaw: impl Into<Flaw>,
    words: &'static str,
    leaves: &'static [&'static str],
) -> Case {
    Case {
        rule,
        flaw: flaw.into(),
        words,
        leaves,
    }
}

fn callbacks(callbacks: Callbacks) -> Tamper {
    Tamper {
        callbacks,
        ..Tamper::default()
    }
}

fn settings(settings: Settings) -> Tamper {
    Tamper {
        settings,
        ..Tamper::default()
    }
}

fn conduct(verb: Verb, conduct: Conduct) -> Tamper {
    Tamper {
        conduct: Some((verb, conduct)),
        ..Tamper::default()
    }
}

fn shutdown(shutdown: Shutdown) -> Tamper {
    settings(Settings {
        shutdown: Some(shutdown),
        ..Settings::default()
    })
}

fn grace(grace: Grace) -> Tamper {
    settings(Settings {
        grace: Some(grace),
        ..Settings::default()
    })
}

fn peer_gone(is_gone: fn(&(dyn Error + 'static)) -> bool) -> Tamper {
    settings(Settings {
        peer_gone: Some(is_gone),
        ..Settings::default()
    })
}

fn connection_reports(reports: ConnectionReports) -> Tamper {
    settings(Settings {
        connection_reports: Some(reports),
        ..Settings::default()
    })
}

fn restart(restart: Restart) -> Tamper {
    settings(Settings {
        restart: Some(restart),
        ..Settings::default()
    })
}

fn intensity(intensity: u32) -> Tamper {
    settings(Settings {
        intensity: Some(intensity),
        ..Settings::default()
    })
}

fn period(period: Duration) -> Tamper {
    settings(Settings {
        period: Some(period),
        ..Settings::default()
    })
}

fn accept_errors(kind: fn(&io::Error) -> AcceptErrorKind) -> Tamper {
    settings(Settings {
        accept_errors: Some(kind),
        ..Settings::default()
    })
}

/// Makes this many copies of each report of a kind.
fn reported(times: usize, sort: fn(&Event<Address>) -> bool) -> Tamper {
    Tamper {
        report: Some(Box::new(move |report| match sort(&report.event) {
            true => times,
            false => 1,
        })),
        ..Tamper::default()
    }
}

/// Changes each report.
fn reporting(change: fn(&mut Report<Address>)) -> Tamper {
    Tamper {
        report: Some(Box::new(move |report| {
            change(report);
            1
        })),
        ..Tamper::default()
    }
}

fn acceptors_shown(edit: fn(&mut Vec<AcceptorRecord>)) -> Tamper {
    Tamper {
        acceptors_shown: Some(Box::new(edit)),
        ..Tamper::default()
    }
}

fn last_listener(last_listener: LastListener) -> Tamper {
    settings(Settings {
        last_listener: Some(last_listener),
        ..Settings::default()
    })
}

/// Returns all cases, in the order of the contract.
pub fn table() -> Vec<Case> {
    let mut cases = behaviour();
    cases.extend(ends());
    cases.extend(intensities());
    cases.extend(listeners());
    cases.extend(capacity());
    cases.extend(signals());
    cases.extend(stopping());
    cases.extend(introspection());
    cases.extend(waiting());
    cases.extend(reconfiguration());
    cases.extend(errors());
    cases.extend(bad_input());
    cases.extend(reports());
    cases.extend(handshakes());
    cases.extend(runtimes());
    cases.extend(sockets());
    cases.extend(super::further::further());
    cases
}

fn behaviour() -> Vec<Case> {
    vec![
        breaks(
            "B1",
            callbacks(Callbacks::InitTwice),
            "acceptors that ran `init`",
            &["L1", "N2", "Q3"],
        ),
        breaks(
            "B1",
            callbacks(Callbacks::InitOneByOne),
            "`init` runs 5 times",
            &["B7", "L2"],
        ),
        breaks(
            "B1",
            ListenerFlaw::PortZero,
            "the listener's address in `init`",
            &["B3", "E1", "L2"],
        ),
        breaks(
            "B2",
            callbacks(Callbacks::HibernateIgnored),
            "the number of the `init` that returned hibernate",
            &["B3", "B4", "B6", "L2"],
        ),
        breaks(
            "B3",
            Tamper {
                callbacks: Callbacks::IgnoreFails,
                ..intensity(100)
            },
            "reports: []",
            &["B1", "B7"],
        ),
        breaks(
            "B3",
            RuntimeFlaw::RoundsDown,
            "at least",
            &["B1", "B2", "B5", "L1", "Q2"],
        ),
        breaks(
            "B4",
            callbacks(Callbacks::FailureIgnored),
            "the pool stops",
            &["B2", "B3", "B8"],
        ),
        breaks(
            "B4",
            reported(0, |event| matches!(event, Event::StartError { .. })),
            "start errors reported",
            &["B2", "B8", "E1"],
        ),
        breaks(
            "B4",
            RuntimeFlaw::RoundsDown,
            "at least",
            &["B1", "B2", "B5", "L1"],
        ),
        breaks(
            "B4",
            callbacks(Callbacks::RetriesInPairs),
            "how often `init` ran while one acceptor retries",
            &["B1", "B3", "B5"],
        ),
        breaks(
            "B5",
            callbacks(Callbacks::StateOfAnother),
            "the `init` of the child that serves",
            &["E2", "L1"],
        ),
        breaks(
            "B5",
            Tamper {
                counts: Some(Box::new(|counts| counts.acceptors = 0)),
                ..Tamper::default()
            },
            "connections, children, and whether the replacement has started",
            &["B2", "Q1"],
        ),
        breaks(
            "B5",
            acceptors_shown(|list| {
                list.iter_mut()
                    .for_each(|one| one.state = AcceptorState::Spaced);
            }),
            "connections, children, and whether the replacement has started",
            &["B1", "L1", "N2"],
        ),
        breaks(
            "B5",
            callbacks(Callbacks::InitInServe),
            "children whose `init` was polled in a task that is not their own",
            &["E4", "N2"],
        ),
        breaks(
            "B5",
            callbacks(Callbacks::InitAfterInitNow),
            "how often `init` ran although `init_now` returned a state",
            &["B1", "B7", "L1"],
        ),
        breaks(
            "B6",
            callbacks(Callbacks::NoTimeout),
            "`init` runs 6 times",
            &["B1", "B3", "B4", "E1"],
        ),
        breaks(
            "B6",
            callbacks(Callbacks::TimeoutAtOnce),
            "waits 20ms",
            &["B1", "B3", "B4", "E1"],
        ),
        breaks(
            "B6",
            acceptors_shown(|list| {
                let dismissed = |one: &&mut AcceptorRecord| one.state == AcceptorState::Terminating;
                list.iter_mut()
                    .filter(dismissed)
                    .for_each(|one| one.state = AcceptorState::Waiting);
            }),
            "the expired acceptor, after 64 more connections were accepted",
            &["B3", "B5", "L1"],
        ),
        breaks(
            "B7",
            callbacks(Callbacks::TerminateNever),
            "how often `terminate` ran, by reason",
            &["B1", "B2", "B3", "E1"],
        ),
        breaks(
            "B7",
            callbacks(Callbacks::TerminateClosed),
            "how often `terminate` ran, by reason",
            &["B1", "B2", "L3"],
        ),
        breaks(
            "B8",
            callbacks(Callbacks::TerminateCaught),
            "panics reported",
            &["B6", "B7", "E1"],
        ),
        breaks(
            "B8",
            restart(Restart::Temporary),
            "the pool stops",
            &["B3", "B4", "B6", "B7"],
        ),
        breaks(
            "B10",
            callbacks(Callbacks::ServePeerForLocal),
            "the local address on a listener of 127.0.0.1",
            &["B5", "E1", "Q1"],
        ),
        breaks(
            "B10",
            ListenerFlaw::ListenerAddressForStream,
            "the local address on a listener of 0.0.0.0",
            &["B1", "L1", "Q1"],
        ),
        breaks(
            "B10",
            ListenerFlaw::LocalForPeer,
            "the client is served",
            &[],
        ),
        breaks(
            "B11",
            callbacks(Callbacks::ServeElsewhere),
            "`serve` runs on a task of the pool's runtime value",
            &["B1", "B5", "L1"],
        ),
        breaks(
            "B11",
            callbacks(Callbacks::InitElsewhere),
            "callbacks that run outside the pool's tasks",
            &["B1", "B2", "L1"],
        ),
        breaks(
            "B11",
            callbacks(Callbacks::TerminateElsewhere),
            "callbacks that run outside the pool's tasks",
            &["B1", "B6", "L3"],
        ),
        breaks(
            "B11",
            conduct(Verb::AddListenerOn, Conduct::Ignored),
            "the runtime value that `serve` runs on for a listener with its own runtime value",
            &["B1", "B5", "L1"],
        ),
    ]
}

fn ends() -> Vec<Case> {
    vec![
        breaks(
            "E1",
            callbacks(Callbacks::ServeErrorsForgiven),
            "connections reported after Commanded(Fail(\"no more\"))",
            &["B4", "E4", "L1"],
        ),
        breaks(
            "E1",
            restart(Restart::Transient),
            "in a Temporary pool",
            &["B3", "B4", "B7"],
        ),
        breaks(
            "E2",
            callbacks(Callbacks::ServeKept),
            "the future is dropped when the list shows the end",
            &["B1", "B4", "E3"],
        ),
        breaks(
            "E3",
            callbacks(Callbacks::ServePanicSpreads),
            // Either the command or an echo fails first.
            "expected: the connection ",
            &["B4", "B8", "E1", "E2"],
        ),
        breaks(
            "E3",
            reported(2, |event| matches!(event, Event::ConnectionFailed { .. })),
            "how often each end was reported",
            &["B4", "B8", "E2"],
        ),
        breaks(
            "E4",
            conduct(Verb::KillChild, Conduct::Swapped),
            "the killed connection ends",
            &["B1", "B11", "N2"],
        ),
        breaks(
            "E4",
            callbacks(Callbacks::ServeElsewhere),
            "the killed connection ends",
            &["B1", "B5"],
        ),
        breaks(
            "E5",
            peer_gone(|_| false),
            "the pool runs after IoFailure { kind: ConnectionAborted, location: Itself }",
            &["E1", "E2"],
        ),
        breaks(
            "E5",
            peer_gone(|error| {
                let error = error.downcast_ref::<io::Error>();
                error.is_some_and(|error| is_peer_gone(&io::Error::from(error.kind())))
            }),
            "the pool runs after IoFailure { kind: ConnectionAborted, location: Source }",
            &["E1", "E4"],
        ),
        breaks(
            "E5",
            peer_gone(|error| {
                let mut next = Some(error);
                while let Some(error) = next {
                    let io = error.downcast_ref::<io::Error>();
                    if io.is_some_and(|error| is_peer_gone(&io::Error::from(error.kind()))) {
                        return true;
                    }
                    next = error.source();
                }
                false
            }),
            "the pool runs after IoFailure { kind: ConnectionAborted, location: Inside }",
            &["E1", "B4"],
        ),
        breaks(
            "E5",
            peer_gone(|_| true),
            "the pool stops after FailWith(IoFailure { kind: TimedOut, location: Itself })",
            &["B4", "B8", "E4"],
        ),
        breaks(
            "E5",
            peer_gone(is_peer_gone),
            "the pool runs after an error that its classifier matches",
            &["E1", "E3"],
        ),
        breaks(
            "E5",
            reported(0, |event| matches!(event, Event::Disconnected { .. })),
            "disconnections reported",
            &["E1", "E3", "I1"],
        ),
        breaks(
            "E5",
            connection_reports(ConnectionReports::Disconnects),
            "disconnections reported although not requested",
            &["E1", "E3", "I1"],
        ),
        breaks(
            "E5",
            callbacks(Callbacks::ExitsReclassified),
            "the pool stops after ExitFailed",
            &["E1", "E4"],
        ),
        breaks(
            "E6",
            Tamper {
                connections: Some(Box::new(|list| {
                    list.retain(|record| record.state != ConnectionState::Guarded);
                })),
                ..Tamper::default()
            },
            "a connection is listed as guarded",
            &["B1", "E4"],
        ),
        breaks(
            "E6",
            conduct(Verb::KillChild, Conduct::Ignored),
            "the guard's holder is notified",
            &["B1", "B5"],
        ),
    ]
}

fn intensities() -> Vec<Case> {
    vec![
        breaks(
            "I1",
            intensity(4),
            "the default intensity",
            &["B1", "B3", "I4"],
        ),
        breaks(
            "I1",
            period(Duration::from_secs(1)),
            "the default period",
            &["B1", "I4", "E1"],
        ),
        breaks(
            "I2",
            period(Duration::from_secs(3600)),
            "failures within the period",
            &["B1", "I3", "E1"],
        ),
        breaks(
            "I3",
            grace(Grace::Within(Duration::ZERO)),
            "the grace was kept",
            &["I1", "I2", "N2"],
        ),
        breaks(
            "I3",
            reported(0, |event| matches!(event, Event::PoolStopped { .. })),
            "how often `pool_stopped` was reported",
            &["I1", "I2", "B4", "E1"],
        ),
        breaks(
            "I3",
            shutdown(Shutdown::Kill),
            "connections that were signalled to stop",
            &["I1", "I2", "B4"],
        ),
        breaks(
            "I4",
            callbacks(Callbacks::IgnoreFails),
            "`init` runs 5 times",
            &["I1", "I2", "I3"],
        ),
        breaks(
            "I4",
            conduct(Verb::StopChild, Conduct::Swapped),
            "the pool runs after a stop by id",
            &["I1", "I2", "I3"],
        ),
    ]
}

fn listeners() -> Vec<Case> {
    vec![
        breaks(
            "L1",
            Tamper {
                acceptors: Some(|acceptors| acceptors + 1),
                ..Tamper::default()
            },
            "id, address and acceptors of the listeners",
            &["B10", "E1"],
        ),
        breaks(
            "L2",
            ListenerFlaw::LosesEveryThird,
            "the connection echoes \"served\"",
            &["B1", "B4", "N2"],
        ),
        breaks(
            "L2",
            ListenerFlaw::OnlyOne,
            "the connection echoes \"served\"",
            &["B4", "E1", "E4"],
        ),
        breaks(
            "L3",
            ListenerFlaw::StaysOpen,
            "the socket of a closed listener is closed",
            &["B1", "L2", "N1"],
        ),
        breaks(
            "L3",
            conduct(Verb::CloseListener, Conduct::Ignored),
            "the socket of a closed listener is closed",
            &["B6", "L2", "L4"],
        ),
        breaks(
            "L3",
            conduct(Verb::CloseListener, Conduct::Hangs),
            "the listener closes",
            &["B6", "L2", "L4"],
        ),
        breaks(
            "L4",
            accept_errors(|_| AcceptErrorKind::Connection),
            "2 connections, 3 children",
            &["B1", "L1", "L2", "L3"],
        ),
        breaks(
            "L4",
            reported(0, |event| matches!(event, Event::ListenerFailed { .. })),
            "the listeners reported as failed",
            &["B1", "L1", "L2", "L3"],
        ),
        breaks(
            "L7",
            conduct(Verb::Stop, Conduct::Swapped),
            "the connection echoes \"queued\"",
            &["L1", "L3", "E4"],
        ),
        breaks(
            "L7",
            ListenerFlaw::DelaysAccept,
            "does the first poll of `accept` return a connection that is queued?",
            &["B1", "E1", "L1"],
        ),
        breaks(
            "L7",
            conduct(Verb::CloseListener, Conduct::Later),
            "*draining* once the listener begins to close, Close",
            &["L1", "L3", "N2"],
        ),
        breaks(
            "L8",
            ListenerFlaw::StaysOpen,
            "the result of binding its address again on the report",
            &["B1", "L2", "N1"],
        ),
        breaks(
            "L8",
            Tamper {
                listeners: Some(Box::new(|list| {
                    list.retain(|one| one.state != ListenerState::Closing);
                })),
                ..Tamper::default()
            },
            "the listener while it closes",
            &["L1", "L3", "Q1"],
        ),
        breaks(
            "L9",
            last_listener(LastListener::Stop),
            "the pool keeps running without a listener",
            &["L1", "L3", "L4"],
        ),
        breaks(
            "L9",
            last_listener(LastListener::Continue),
            "the state when the last has failed",
            &["L1", "L3", "L4"],
        ),
        breaks(
            "L9",
            reporting(|report| {
                if let Event::ListenerFailed { listeners_left, .. } = &mut report.event {
                    *listeners_left = 1;
                }
            }),
            "listeners left, according to the reports",
            &["L4", "A3"],
        ),
    ]
}

fn max_connections(limit: Option<usize>) -> Settings {
    Settings {
        max_connections: Some(limit),
        ..Settings::default()
    }
}

/// Changes the settings with which listeners are added.
fn listener_settings(change: fn(&mut ListenerSettings)) -> Tamper {
    Tamper {
        listener_settings: Some(change),
        ..Tamper::default()
    }
}

/// Sets what happens at a limit of the pool.
fn at_limit(at_limit: fn() -> AtLimit) -> Tamper {
    settings(Settings {
        at_limit: Some(at_limit),
        ..Settings::default()
    })
}

fn refuse() -> AtLimit {
    AtLimit::Refuse(Refusal::Close)
}

/// Applies a flaw from this occasion on, counted from 1.
fn since(time: usize, tamper: Tamper) -> Tamper {
    Tamper {
        since: Since::time(time),
        ..tamper
    }
}

fn listed_connections(edit: fn(&mut Vec<ConnectionRecord<Address>>)) -> Tamper {
    Tamper {
        connections: Some(Box::new(edit)),
        ..Tamper::default()
    }
}

fn listed(edit: fn(&mut ListenerRecord<Address>)) -> Tamper {
    Tamper {
        listeners: Some(Box::new(move |list| list.iter_mut().for_each(edit))),
        ..Tamper::default()
    }
}

fn capacity() -> Vec<Case> {
    vec![
        breaks(
            "C1",
            settings(max_connections(None)),
            "the most connections at once: 3",
            &["L1", "L2", "Q3"],
        ),
        breaks(
            "C1",
            settings(max_connections(Some(2))),
            "5 connections, 6 children",
            &["B1", "L1"],
        ),
        breaks(
            "C1",
            listener_settings(|settings| settings.max_connections = None),
            "the limit in the list: Some(2)",
            &["C3", "C4", "L1"],
        ),
        breaks(
            "C1",
            listed(|one| one.max_connections = Some(2)),
            "the default limit of a listener: None",
            &["C3", "C4"],
        ),
        breaks(
            "C1",
            Tamper {
                counts: Some(Box::new(|counts| counts.handshaking = 0)),
                ..Tamper::default()
            },
            "connections, those in their handshake, and connections accepted: (2, 2, 2)",
            &["C2", "C3", "C4", "C5"],
        ),
        breaks(
            "C1",
            Tamper {
                counts: Some(Box::new(|counts| counts.handshaking = 2)),
                ..Tamper::default()
            },
            "connections, those in their handshake, and connections accepted: (2, 1, 2)",
            &["C2", "C3", "C4", "C5"],
        ),
        breaks(
            "C1",
            listed(|one| one.connections += 1),
            "connections of the listener, and those that it has accepted: (2, 2)",
            &["C3", "C5", "C6"],
        ),
        breaks(
            "C2",
            ListenerFlaw::OnlyOne,
            "connection 2 is served",
            &["B4", "E1", "E4"],
        ),
        breaks(
            "C2",
            at_limit(refuse),
            "calls of `accept` so far, and their polls, while the pool is full",
            &["B1", "L1", "L2"],
        ),
        breaks(
            "C2",
            at_limit(AtLimit::default),
            "the connection of a refused client is closed",
            &["C3", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C2",
            listener_settings(|settings| settings.at_limit = None),
            "the connection of a refused client is closed",
            &["C1", "C3", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C2",
            listener_settings(|settings| settings.at_limit = Some(refuse())),
            "calls of `accept` so far, and their polls, while the pool is full",
            &["B1", "L1", "L2"],
        ),
        breaks(
            "C2",
            ListenerFlaw::KeepsRefused,
            "the connection of a refused client is closed",
            &["C1", "C3", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C2",
            ListenerFlaw::ChangesFarewell,
            "a refused client receives nothing, or the farewell: \"goodbye\"",
            &["C1", "C3", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C2",
            listed(|one| one.refused += 1),
            "connections accepted and refused while clients wait: (4, 0)",
            &["C1", "C3", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C2",
            listed(|one| one.refused = 0),
            "connections refused, accepted and open: (3, 1, 1)",
            &["C1", "C3", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C2",
            listed(|one| one.accepted += one.refused),
            "connections refused, accepted and open: (3, 1, 1)",
            &["C1", "C3", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C2",
            settings(max_connections(Some(2))),
            "the listener is full",
            &["B1", "L1"],
        ),
        breaks(
            "C3",
            ListenerFlaw::OnlyOne,
            "connection 5 is served",
            &["B4", "E1", "E4"],
        ),
        breaks(
            "C3",
            ListenerFlaw::HoldsWhilePending,
            "the free slot goes to the next listener in turn",
            &["C1", "C2", "C4", "C5"],
        ),
        breaks(
            "C3",
            ListenerFlaw::DelaysAccept,
            "the free slot goes to the next listener in turn",
            &["C2", "C4", "C5", "C6"],
        ),
        breaks(
            "C3",
            callbacks(Callbacks::ServeHangs),
            "connection 2 is served",
            &["A1", "B5"],
        ),
        breaks(
            "C3",
            Tamper {
                given: Some(Box::new(|given| {
                    given.listener = "99".parse().expect("it is a number");
                })),
                ..Tamper::default()
            },
            "the free slot goes to the next listener in turn",
            &["C1", "C2", "C4", "C5", "C6", "C7"],
        ),
        breaks(
            "C4",
            listed(|one| one.connections = 1),
            "connections of the busy listener and of an idle one: (2, 0)",
            &["C3", "C5", "C6"],
        ),
        breaks(
            "C4",
            // As if an idle listener held a slot.
            settings(max_connections(Some(1))),
            "the client is served",
            &["B1", "C2", "C3", "C5"],
        ),
        breaks(
            "C5",
            // As if a slot came back twice.
            Tamper {
                listener_settings: Some(|settings| settings.max_connections = Some(2)),
                ..settings(max_connections(Some(2)))
            },
            "connections open, and accepted so far, after nothing: (1, 1)",
            &["B1", "L1"],
        ),
        breaks(
            "C5",
            callbacks(Callbacks::ServeHangs),
            "the connection leaves the list",
            &["A1", "B5"],
        ),
        breaks(
            "C5",
            conduct(Verb::KillChild, Conduct::Ignored),
            "the connection leaves the list",
            &["C1", "C2", "C3", "C4", "C6"],
        ),
        breaks(
            "C6",
            conduct(Verb::SetMaxConnections, Conduct::Ignored),
            "connection 3 is served",
            &["C1", "C2", "C3", "C4", "C5", "C7"],
        ),
        breaks(
            "C6",
            since(2, conduct(Verb::SetMaxConnections, Conduct::Ignored)),
            "connections accepted while as many as the limit are left: 3",
            &["C1", "C2", "C3", "C4", "C5", "C7"],
        ),
        breaks(
            "C6",
            since(2, conduct(Verb::SetMaxConnections, Conduct::Kills)),
            "connections once the limit is lower: 3",
            &["C1", "C2", "C3", "C4", "C5", "C7"],
        ),
        breaks(
            "C6",
            conduct(Verb::SetListenerMaxConnections, Conduct::Ignored),
            "the limit of the listener in the list: Some(2)",
            &["C1", "C2", "C3", "C4", "C5", "C7"],
        ),
        breaks(
            "C6",
            since(
                2,
                conduct(Verb::SetListenerMaxConnections, Conduct::Ignored),
            ),
            "the limit of the listener once it has none: None",
            &["C1", "C2", "C3", "C4", "C5", "C7"],
        ),
        breaks(
            "C6",
            settings(max_connections(Some(2))),
            "connections accepted: 1",
            &["B1", "L1"],
        ),
        breaks("C6", RuntimeFlaw::IgnoresForeignWakes, "is served", &[]),
        breaks(
            "C7",
            Tamper {
                given: Some(Box::new(|given| {
                    given.lifecycle = Connection::for_test((), (), ()).0.lifecycle;
                })),
                ..Tamper::default()
            },
            "connection 2 is served",
            &["C1", "C3", "C4", "C6"],
        ),
        breaks(
            "C7",
            listed_connections(|list| list.iter_mut().for_each(|one| one.holds_slot = true)),
            "connections in the list that hold a slot, and those that do not",
            &["C1", "C2", "C3", "C4", "C5", "C6"],
        ),
        breaks(
            "C7",
            listed_connections(|list| list.retain(|one| one.holds_slot)),
            "connections in the list that hold a slot, and those that do not",
            &["C1", "C2", "C3", "C4", "C5", "C6"],
        ),
        breaks(
            "C7",
            Tamper {
                counts: Some(Box::new(|counts| counts.connections = 1)),
                ..Tamper::default()
            },
            "connections of the pool and of the listener, and those accepted",
            &["C2", "C3", "C5"],
        ),
    ]
}

fn signals() -> Vec<Case> {
    vec![
        breaks(
            "N1",
            conduct(Verb::CloseListener, Conduct::Ignored),
            "*draining* after Close reaches a task that waited",
            &["B6", "N2"],
        ),
        breaks(
            "N1",
            conduct(Verb::Stop, Conduct::Ignored),
            "*draining* after Stop reaches a task that waited",
            &["E4", "L3"],
        ),
        breaks(
            "N2",
            shutdown(Shutdown::Kill),
            "how the connection that trapped the stop ended",
            &["B1", "E1", "L3", "N1"],
        ),
        breaks(
            "N2",
            shutdown(Shutdown::Within(Duration::from_millis(200))),
            "it had the whole shutdown timeout",
            &["B1", "E1", "L3"],
        ),
    ]
}

fn patience(patience: Duration) -> Tamper {
    settings(Settings {
        patience: Some(patience),
        ..Settings::default()
    })
}

fn result(edit: fn(&mut StopReport<Address>)) -> Tamper {
    Tamper {
        result: Some(Box::new(edit)),
        ..Tamper::default()
    }
}

fn stopping() -> Vec<Case> {
    vec![
        breaks(
            "S1",
            result(|report| report.reason = StopReason::Requested),
            "why the pool stopped: Intensity",
            &["S3", "S7", "N2"],
        ),
        breaks(
            "S1",
            conduct(Verb::Stop, Conduct::Hangs),
            "all callers get the result",
            &["I1", "N1", "E4"],
        ),
        breaks(
            "S2",
            settings(Settings {
                lame_duck: Some(Duration::ZERO),
                ..Settings::default()
            }),
            "the state: Stopping(LameDuck)",
            &["S1", "S3", "S9", "N2"],
        ),
        breaks(
            "S2",
            Tamper {
                listeners: Some(Box::new(|list| {
                    list.iter_mut()
                        .for_each(|one| one.state = ListenerState::Closing);
                })),
                ..Tamper::default()
            },
            "the listeners",
            &["S3", "Q2", "L1"],
        ),
        breaks(
            "S3",
            callbacks(Callbacks::TerminateNotWhenStopped),
            "why acceptors terminated",
            &["S1", "L3", "B6"],
        ),
        breaks(
            "S3",
            ListenerFlaw::StaysOpen,
            "the listener's socket is closed",
            &["S1", "S2", "S6", "S7"],
        ),
        breaks(
            "S3",
            callbacks(Callbacks::TerminateHangs),
            "1 connections, 1 children",
            &["L3", "E4"],
        ),
        breaks(
            "S4",
            grace(Grace::Within(Duration::ZERO)),
            "the connection echoes \"left alone\"",
            &["S5", "S6", "S8"],
        ),
        breaks(
            "S4",
            grace(Grace::Unlimited),
            "without a grace the stop ends at once",
            &["S1", "I1", "E4"],
        ),
        breaks(
            "S5",
            shutdown(Shutdown::Unlimited),
            "how a connection ended with shutdown *kill*",
            &["S1", "S2", "S4"],
        ),
        breaks(
            "S5",
            shutdown(Shutdown::Kill),
            // Either an echo or the signal fails first.
            "expected: the connection ",
            &["S1", "S8"],
        ),
        breaks(
            "S6",
            reported(0, |event| {
                matches!(event, Event::KilledWhileStopping { .. })
            }),
            "the counts of the reports",
            &["S1", "S5", "S7", "S8"],
        ),
        breaks(
            "S6",
            reported(2, |event| {
                matches!(event, Event::KilledWhileStopping { .. })
            }),
            "the counts of the reports",
            &["S1", "S7", "S8"],
        ),
        breaks(
            "S7",
            result(|report| report.elapsed = Duration::ZERO),
            "is within",
            &["S1", "S2", "S6"],
        ),
        breaks(
            "S7",
            callbacks(Callbacks::ServeErrorsForgiven),
            "ends in the phase lame duck: normal, clean",
            &["S2", "S3", "S6"],
        ),
        breaks(
            "S8",
            patience(Duration::from_secs(3600)),
            "the pool stops without the stuck child",
            &["S1", "S2", "S6", "S7"],
        ),
        breaks(
            "S8",
            result(|report| report.stuck = 0),
            "children abandoned as stuck",
            &["S1", "S6", "S7"],
        ),
        breaks(
            "S8",
            result(|report| {
                if report.elapsed >= Duration::from_secs(1) {
                    report.stuck = 1;
                }
            }),
            "children abandoned as stuck, of those that waited to be polled",
            &["S1", "S6", "S9"],
        ),
        breaks(
            "S8",
            reported(0, |event| matches!(event, Event::Stuck { .. })),
            "the counts of the reports",
            &["S1", "S6", "S7", "S9"],
        ),
        breaks(
            "S9",
            conduct(Verb::DropOwner, Conduct::Ignored),
            "a connection is polled after the owner was dropped",
            &["S2", "S3", "S6"],
        ),
        breaks(
            "S9",
            conduct(Verb::DropOwner, Conduct::Later),
            "a connection is polled after the owner was dropped",
            &["S2", "S3", "S6"],
        ),
        breaks(
            "S9",
            conduct(Verb::Look, Conduct::Panics),
            "panic: the pool has stopped",
            &["Q1", "Q2", "Q3"],
        ),
        breaks(
            "S9",
            conduct(Verb::StopChild, Conduct::Forgiven),
            "`stop_child`",
            &["S7", "I4"],
        ),
    ]
}

fn waiting() -> Vec<Case> {
    vec![
        // No wrong pool can create the future of `serve` too early: it needs a connection to call `serve`.
        breaks(
            "B9",
            callbacks(Callbacks::HibernateIgnored),
            "states held by waiting acceptors",
            &["B3", "B4", "L6"],
        ),
        breaks(
            "L5",
            ListenerFlaw::ExtraWakes,
            "no more wake-ups",
            &["L2", "L6", "K1"],
        ),
        breaks(
            "L6",
            callbacks(Callbacks::WaitsLate),
            "the acceptors that serve, in their order",
            &["E1"],
        ),
        breaks(
            "L6",
            Tamper {
                connections: Some(Box::new(|list| list.reverse())),
                ..Tamper::default()
            },
            "the connections in the list, oldest first",
            &["L2", "Q2"],
        ),
    ]
}

fn reconfiguration() -> Vec<Case> {
    vec![
        breaks(
            "R1",
            conduct(Verb::Reconfigure, Conduct::Ignored),
            "the spec's id in the status",
            &["R3", "R4"],
        ),
        breaks(
            "R1",
            conduct(Verb::Reconfigure, Conduct::Swapped),
            "the client is served",
            &["R3", "R4"],
        ),
        breaks(
            "R2",
            conduct(Verb::Reconfigure, Conduct::Forgiven),
            "the field that the error names",
            &["R1", "R3", "R4"],
        ),
        breaks(
            "R3",
            conduct(Verb::Reload, Conduct::Ignored),
            "how often the init function ran",
            &["R1", "R2", "R4"],
        ),
        breaks(
            "R3",
            conduct(Verb::Reload, Conduct::Forgiven),
            "the result of `reload` for Fail",
            &["R1", "R2", "R4"],
        ),
        breaks(
            "R4",
            conduct(Verb::StopChild, Conduct::Swapped),
            "how it ended: Stopped",
            &["R1", "R2", "E4"],
        ),
        breaks(
            "R4",
            conduct(Verb::KillChild, Conduct::Swapped),
            "terminations",
            &["R1", "R2"],
        ),
        breaks(
            "R4",
            conduct(Verb::StopChild, Conduct::Forgiven),
            "stopping it again",
            &["R1", "R2", "I4"],
        ),
    ]
}

fn errors() -> Vec<Case> {
    vec![
        breaks(
            "A1",
            accept_errors(|_| AcceptErrorKind::Listener),
            "the errors are taken from the listener",
            &["L1", "L2", "L4"],
        ),
        breaks(
            "A1",
            Tamper {
                listeners: Some(Box::new(|list| {
                    list.iter_mut().for_each(|one| one.skipped = 0);
                })),
                ..Tamper::default()
            },
            "skipped, pauses, accepted",
            &["A2", "A3", "L4"],
        ),
        breaks(
            "A2",
            reported(0, |event| matches!(event, Event::AcceptPaused { .. })),
            "the first pause and the last",
            &["A1", "A3", "A4"],
        ),
        breaks(
            "A2",
            RuntimeFlaw::RoundsDown,
            "lasts at least",
            &["A1", "A4"],
        ),
        breaks(
            "A2",
            callbacks(Callbacks::ServeHangs),
            "the pause ends with a connection",
            &["A1", "A3", "B5"],
        ),
        breaks(
            "A3",
            accept_errors(|_| AcceptErrorKind::Resources),
            "0 connections, 0 children",
            &["L1", "L2", "K7"],
        ),
        breaks(
            "A3",
            accept_errors(|error| match error.kind() {
                ErrorKind::Other => AcceptErrorKind::Connection,
                _ => AcceptErrorKind::classify(error),
            }),
            "pauses and skipped connections after \"unknown error\"",
            &["L4", "I4"],
        ),
        breaks(
            "A4",
            accept_errors(|_| AcceptErrorKind::Connection),
            "skipped connections and pauses after ConnectionAborted",
            &["L1", "L2"],
        ),
        breaks(
            "A5",
            Tamper {
                listeners: Some(Box::new(|list| {
                    for one in list {
                        one.skipped += std::mem::take(&mut one.pauses);
                    }
                })),
                ..Tamper::default()
            },
            "skipped connections and pauses after 103 errors in a row",
            &["A1", "L4"],
        ),
        breaks(
            "A5",
            reported(0, |event| matches!(event, Event::AcceptPaused { .. })),
            "a pause is reported, with its error",
            &["A1", "A3", "A4"],
        ),
        breaks(
            "A6",
            accept_errors(|error| match error.kind() {
                ErrorKind::InvalidInput => AcceptErrorKind::Listener,
                _ => AcceptErrorKind::classify(error),
            }),
            "*invalid input* without a number is of one connection",
            &["A2", "A3", "L4"],
        ),
        breaks(
            "A6",
            Tamper {
                asks_no_listener: true,
                ..Tamper::default()
            },
            "an error that the listener classifies as Connection is treated so",
            &["A1", "A2", "A3", "A4"],
        ),
    ]
}

fn bad_input() -> Vec<Case> {
    vec![
        breaks(
            "V1",
            period(Duration::from_secs(5)),
            "`start` refuses the spec",
            &["V2", "V3", "E1"],
        ),
        breaks(
            "V2",
            Tamper {
                acceptors: Some(|acceptors| acceptors.max(1)),
                ..Tamper::default()
            },
            "the listener is refused: acceptors",
            &["V1", "V3", "L1"],
        ),
        breaks(
            "V3",
            conduct(Verb::AddListener, Conduct::Panics),
            "`add_listener` does not panic",
            &["V1", "L1", "S1"],
        ),
        breaks(
            "V3",
            conduct(Verb::Look, Conduct::Panics),
            "does not panic",
            &["V1", "V2", "Q1", "Q2"],
        ),
        breaks(
            "V4",
            ListenerFlaw::AcceptsAnySocket,
            "a datagram socket is refused",
            &["K1", "K3", "K7"],
        ),
        breaks(
            "V4",
            ListenerFlaw::RefusesWithoutReason,
            "the error names the reason, a datagram socket",
            &["K1", "K3", "K7"],
        ),
        breaks(
            "V5",
            Tamper {
                words: Some(|report| match &report.event {
                    Event::ConnectionFailed {
                        failure: Failure::Error(error),
                        ..
                    } => error.to_string(),
                    _ => report.to_string(),
                }),
                ..Tamper::default()
            },
            "the pool writes a control character",
            &["E1", "O1"],
        ),
        breaks(
            "V5",
            reporting(|report| {
                if let Event::ConnectionFailed {
                    failure: Failure::Panic(message),
                    ..
                } = &mut report.event
                {
                    message.truncate(1024);
                }
            }),
            "the text of an error or a panic, as a program gets it",
            &["E1", "O1"],
        ),
    ]
}

fn reports() -> Vec<Case> {
    vec![
        breaks(
            "O1",
            Tamper {
                observes: Observes::Elsewhere,
                ..Tamper::default()
            },
            "reports from outside the reporting task",
            &["E1", "I3", "S6"],
        ),
        breaks(
            "O1",
            in_another_order(),
            "the order of the reports",
            &["B1", "A1"],
        ),
        breaks(
            "O2",
            reported(0, |event| matches!(event, Event::ReportsLost { .. })),
            "the reports after them",
            &["O1", "O3", "S6"],
        ),
        breaks(
            "O2",
            patience(Duration::from_secs(3600)),
            "the stop gives up on delivery",
            &["O1", "O3", "S6"],
        ),
        breaks(
            "O2",
            result(|report| report.undelivered = 0),
            "undelivered reports according to the result",
            &["O1", "O3", "S6"],
        ),
        breaks(
            "O3",
            traces(|list| {
                for event in list {
                    event.fields.remove("suppressed");
                }
            }),
            "events emitted plus events reported as suppressed",
            &["O1", "V5"],
        ),
        breaks(
            "O3",
            traces(|list| {
                *list = list
                    .iter()
                    .flat_map(|one| [one.clone(), one.clone()])
                    .collect()
            }),
            "12 events took",
            &["O2", "O4"],
        ),
        breaks(
            "O4",
            settings(Settings {
                connection_reports: Some(ConnectionReports::All),
                ..Settings::default()
            }),
            "beginnings and ends reported by default",
            &["E1", "I3", "E3"],
        ),
        breaks(
            "O4",
            reported(0, |event| matches!(event, Event::ConnectionEnded { .. })),
            "the reports of each connection, in order",
            &["O1", "O2", "E1"],
        ),
        breaks(
            "O4",
            reported(0, |event| matches!(event, Event::ReportsLost { .. })),
            "losses: beginnings, ends, all",
            &["O1", "O3", "E1"],
        ),
    ]
}

/// Delivers the second report before the first.
fn in_another_order() -> Tamper {
    let kept: Mutex<Vec<Report<Address>>> = Mutex::default();
    Tamper {
        report: Some(Box::new(move |report| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.is_empty() {
                kept.push(report.clone());
                return 0;
            }
            if kept.len() == 1 {
                kept.push(report.clone());
                return 1;
            }
            std::mem::swap(report, &mut kept[0]);
            1
        })),
        ..Tamper::default()
    }
}

fn traces(edit: fn(&mut Vec<TraceEvent>)) -> Tamper {
    Tamper {
        traces: Some(Box::new(edit)),
        ..Tamper::default()
    }
}

fn introspection() -> Vec<Case> {
    vec![
        breaks(
            "Q1",
            Tamper {
                connections: Some(Box::new(|list| {
                    list.iter_mut()
                        .for_each(|one| std::mem::swap(&mut one.peer_addr, &mut one.local_addr));
                })),
                ..Tamper::default()
            },
            "id, listener, peer and local address of the connections",
            &["B5", "Q2", "Q3"],
        ),
        breaks(
            "Q1",
            Tamper {
                listeners: Some(Box::new(|list| {
                    list.iter_mut()
                        .for_each(|one| one.acceptors += one.connections);
                })),
                ..Tamper::default()
            },
            "id, address, acceptors, connections and state of the listeners",
            &["L3", "Q2"],
        ),
        breaks("Q1", RuntimeFlaw::ClockStopped, "an age of", &["B1", "E1"]),
        breaks(
            "Q2",
            settings(Settings {
                child_type: Some(ChildType::Worker),
                ..Settings::default()
            }),
            "specs, active, workers, supervisors of Supervisor",
            &["B5", "Q1", "Q3"],
        ),
        breaks(
            "Q2",
            Tamper {
                child_counts: Some(Box::new(|counts| counts.active = counts.workers)),
                ..Tamper::default()
            },
            "specs, active, workers, supervisors of Worker",
            &["B2", "Q1"],
        ),
        breaks(
            "Q3",
            callbacks(Callbacks::ServeDetached),
            "connections and acceptors",
            &["B3", "B4"],
        ),
        breaks(
            "Q3",
            Tamper {
                counts: Some(Box::new(|counts| {
                    counts.connections = counts.connections.saturating_sub(1)
                })),
                ..Tamper::default()
            },
            "connections and acceptors",
            &["B3", "B4", "Q1"],
        ),
        breaks(
            "Q3",
            Tamper {
                listeners: Some(Box::new(|list| {
                    let all = list.iter().map(|one| one.connections).sum();
                    list.iter_mut().for_each(|one| one.connections = all);
                })),
                ..Tamper::default()
            },
            "connections and acceptors of each listener",
            &["L1", "Q2", "B5"],
        ),
        breaks(
            "Q4",
            Tamper {
                status: Some(Box::new(|status| status.connections.clear())),
                ..Tamper::default()
            },
            "the connections",
            &["Q1", "Q2", "Q3"],
        ),
        breaks("Q4", intensity(4), "the intensity", &["Q1", "Q2", "Q3"]),
        breaks(
            "Q5",
            acceptors_shown(|list| list.retain(|one| one.state != AcceptorState::Spaced)),
            "acceptors in the list",
            &["Q1", "Q2", "Q3"],
        ),
        breaks(
            "Q5",
            Tamper {
                listeners: Some(Box::new(|list| {
                    let starting =
                        |one: &&mut ListenerRecord<_>| one.state == ListenerState::Starting;
                    list.iter_mut()
                        .filter(starting)
                        .for_each(|one| one.state = ListenerState::Accepting);
                })),
                ..Tamper::default()
            },
            "the listener while no acceptor is ready",
            &["Q1", "Q2", "Q3", "L1"],
        ),
    ]
}

fn handshaking(handshakes: Handshaking) -> Tamper {
    Tamper {
        handshakes,
        ..Tamper::default()
    }
}

fn handshake_timeout(timeout: Option<Duration>) -> Tamper {
    settings(Settings {
        handshake_timeout: Some(timeout),
        ..Settings::default()
    })
}

fn connections_shown(edit: fn(&mut Vec<ConnectionRecord<Address>>)) -> Tamper {
    Tamper {
        connections: Some(Box::new(edit)),
        ..Tamper::default()
    }
}

fn handshakes() -> Vec<Case> {
    vec![
        breaks(
            "H1",
            handshaking(Handshaking::OneByOne),
            "a client is served once its handshake has passed",
            &["B1", "H2", "H4"],
        ),
        breaks(
            "H1",
            handshaking(Handshaking::Elsewhere),
            "the handshake runs in the connection's own task",
            &["B5", "H5"],
        ),
        breaks(
            "H1",
            ListenerFlaw::OnlyOne,
            "handshake event of a client: First, Began",
            &["B4", "E1"],
        ),
        breaks(
            "H1",
            acceptors_shown(|list| {
                list.iter_mut()
                    .for_each(|one| one.state = AcceptorState::Spaced);
            }),
            "whether the replacement has started",
            &["B1", "H2", "H6"],
        ),
        breaks(
            "H2",
            Tamper {
                counts: Some(Box::new(|counts| counts.handshaking = 0)),
                ..Tamper::default()
            },
            "connections, those in a handshake",
            &["Q3", "H1", "H4"],
        ),
        breaks(
            "H2",
            connections_shown(|list| {
                list.retain(|one| one.state != ConnectionState::Handshaking);
            }),
            "a connection in its handshake is listed",
            &["Q1", "E4"],
        ),
        breaks(
            "H2",
            connections_shown(|list| {
                list.iter_mut()
                    .for_each(|one| one.state = ConnectionState::Serving);
            }),
            "connections, those in a handshake",
            &["E1", "H4"],
        ),
        breaks(
            "H2",
            conduct(Verb::StopChild, Conduct::Ignored),
            "the client's connection is closed",
            &["H1", "H4", "H6"],
        ),
        breaks(
            "H2",
            conduct(Verb::KillChild, Conduct::Swapped),
            "the pool stops",
            &["H1", "H4", "H6"],
        ),
        breaks(
            "H3",
            handshake_timeout(Some(Duration::from_millis(1))),
            "a handshake may take 120ms",
            &["B1", "E1", "N2"],
        ),
        breaks(
            "H3",
            handshake_timeout(None),
            "handshake event of a client: First, Dropped",
            &["H1", "H2", "H4"],
        ),
        breaks(
            "H3",
            RuntimeFlaw::RoundsDown,
            "a handshake may take 120ms",
            &["H1", "H4", "H5"],
        ),
        breaks(
            "H4",
            handshaking(Handshaking::FailuresPanic),
            "the pool runs after a handshake that failed: no certificate",
            &["H1", "H2", "H3"],
        ),
        breaks(
            "H4",
            restart(Restart::Temporary),
            "the pool stops after a panic in a handshake",
            &["H1", "H3", "H5"],
        ),
        breaks(
            "H4",
            reported(0, |event| matches!(event, Event::HandshakeFailed { .. })),
            "failed handshakes reported",
            &["H1", "H2", "E1"],
        ),
        breaks(
            "H4",
            connection_reports(ConnectionReports::Disconnects),
            "failed handshakes reported although not requested",
            &["H1", "H3", "H5"],
        ),
        breaks(
            "H4",
            reporting(|report| {
                if let Event::HandshakeFailed { cause, .. } = &mut report.event {
                    *cause = "handshake";
                }
            }),
            "failed handshakes reported",
            &["H1", "H5", "H6"],
        ),
        breaks(
            "H4",
            reporting(|report| {
                if let Event::HandshakeFailed { error, .. } = &mut report.event {
                    *error = None;
                }
            }),
            "whether the source of \"no certificate\" is reported",
            &["H3", "H5", "H6"],
        ),
        breaks(
            "H5",
            handshaking(Handshaking::KeepsAddresses),
            "once a handshake has replaced them",
            &["H1", "H4", "H6"],
        ),
        breaks(
            "H5",
            connections_shown(|list| {
                list.iter_mut().for_each(|one| {
                    if let Some(transport) = one.transport.take() {
                        (one.peer_addr, one.local_addr) =
                            (transport.peer_addr, transport.local_addr);
                    }
                });
            }),
            "once a handshake has replaced them",
            &["B10", "H1", "H4"],
        ),
        breaks(
            "H5",
            callbacks(Callbacks::ServePeerForLocal),
            "the addresses in `serve`",
            &["H1", "H4", "H6"],
        ),
        breaks(
            "H5",
            reporting(|report| {
                if let Event::ConnectionFailed { peer, .. } = &mut report.event {
                    *peer = Address::named("another");
                }
            }),
            "the peers in the reports",
            &["E1", "H4", "H6"],
        ),
        breaks(
            "H6",
            handshaking(Handshaking::OnlyTheFirst),
            "handshake event of a client: Second, Began",
            &["H1", "H3", "H4"],
        ),
        breaks(
            "H6",
            grace(Grace::Within(Duration::ZERO)),
            "the grace begins",
            &["H1", "H4", "S5"],
        ),
        breaks(
            "H6",
            grace(Grace::Unlimited),
            "the pool stops",
            &["B10", "H1", "H5"],
        ),
    ]
}

fn runtimes() -> Vec<Case> {
    vec![
        breaks(
            "T1",
            RuntimeFlaw::PollsInline,
            "tasks that were polled within `spawn`",
            &["T4", "T6", "B3", "L1"],
        ),
        breaks(
            "T1",
            RuntimeFlaw::SpawnDoesNotWake,
            "does `spawn` wake an idle thread?",
            &["K1", "K7"],
        ),
        breaks(
            "T2",
            RuntimeFlaw::CancelsWithHandle,
            "is the task cancelled when its handle is dropped?",
            &["T1", "T6", "K1"],
        ),
        breaks(
            "T2",
            RuntimeFlaw::EndsWithValue,
            "although the value that spawned it is gone: Dropped",
            &["T6", "T9", "K1", "B3", "L1"],
        ),
        breaks(
            "T2",
            RuntimeFlaw::EndsWithRun,
            "although the run that spawned it is gone: Dropped",
            &["T1", "T6", "K1", "B3", "E1", "S9"],
        ),
        breaks(
            "T3",
            RuntimeFlaw::StopsAfterPanic,
            "the tasks that panic end",
            &["T1", "T2", "T4", "E1"],
        ),
        breaks(
            "T3",
            RuntimeFlaw::PanicsEndAll,
            "a task spawned before the panics completes",
            &["T1", "T2", "T4", "E3"],
        ),
        breaks(
            "T3",
            RuntimeFlaw::PanicsEndThreads,
            "or end its thread? It has to be caught around each poll",
            &["T1", "T2", "T4", "T5", "T6"],
        ),
        breaks(
            "T4",
            RuntimeFlaw::LosesWakes,
            "a task that was woken by Itself is polled again",
            &["T1", "T6", "T8"],
        ),
        breaks(
            "T5",
            RuntimeFlaw::IgnoresForeignWakes,
            "a task that was woken by ThreadAfter",
            &["T1", "T4", "T6"],
        ),
        breaks(
            "T6",
            RuntimeFlaw::RoundsDown,
            "completes when `now` has reached its deadline",
            &["T1", "T2", "T4", "T5"],
        ),
        breaks(
            "T6",
            RuntimeFlaw::SleepsDoNotWake,
            "it occurred, but its waker was not called",
            &["T1", "T9"],
        ),
        breaks(
            "T6",
            RuntimeFlaw::PastIsNeverReached,
            "a sleep until a time in the past completes at once",
            &["T1", "T2", "T9"],
        ),
        breaks(
            "T6",
            RuntimeFlaw::PastSleepsDoNotWake,
            "it occurred, but its waker was not called",
            &["T1", "T2", "T4", "T9"],
        ),
        breaks(
            "T6",
            RuntimeFlaw::ClockSlow,
            "completes when `now` has reached its deadline",
            &["T1", "T2", "T4", "T9"],
        ),
        breaks(
            "T6",
            RuntimeFlaw::ClockTicks,
            "completes when `now` has reached its deadline",
            &["T1", "T2", "T4", "T9"],
        ),
        breaks(
            "T7",
            RuntimeFlaw::DropsTakeOthers,
            "beside dropped ones of",
            &["T1", "T2", "T6", "T8"],
        ),
        breaks(
            "T8",
            RuntimeFlaw::ClockAhead,
            "a sleep of the test completes",
            &["T1", "T4", "T9"],
        ),
        breaks(
            "T8",
            RuntimeFlaw::ClockBehind,
            "when a sleep completes, `now` has reached its deadline",
            &["T1", "T4", "T9"],
        ),
        breaks(
            "T8",
            RuntimeFlaw::ClockAheadInTasks,
            "`now` in a task lies between two readings of the test",
            &["T1", "T4", "T6"],
        ),
        breaks(
            "T8",
            RuntimeFlaw::ClockStopped,
            "when a sleep completes, `now` has reached its deadline",
            &["T1", "T4", "T9"],
        ),
        breaks(
            "T9",
            RuntimeFlaw::ClockGoesBackwards,
            "how far `now` went back",
            &["T1", "T2", "T3"],
        ),
        breaks(
            "T10",
            RuntimeFlaw::Starves,
            "beside some that are always ready",
            &["T1", "T2", "T6"],
        ),
        breaks(
            "T10",
            RuntimeFlaw::LastReadyFirst,
            "each of many tasks completes beside some that are always ready",
            &["T1", "T2", "T4", "T5", "T6"],
        ),
        breaks(
            "T10",
            RuntimeFlaw::StarvesOnFourThreads,
            "each of many tasks completes beside some that are always ready",
            &["T1", "T2", "T4", "T5", "T6"],
        ),
        breaks(
            "T10",
            RuntimeFlaw::SleepsWhenIdle,
            "are the timer and the sockets polled while tasks are ready",
            &["T1", "T2", "T4", "T5", "T6", "T8"],
        ),
        breaks(
            "T11",
            RuntimeFlaw::DropsTasksOfTasks,
            "a task that is spawned from a task runs: Dropped",
            &["T3", "T4", "T6"],
        ),
        breaks(
            "T11",
            RuntimeFlaw::ForeignSpawnDoesNotWake,
            "Does it wake an idle thread?",
            &["K1", "K7"],
        ),
        breaks(
            "T12",
            RuntimeFlaw::KeepsWithWaker,
            "is dropped although its waker is kept",
            &["T1", "T2", "T4"],
        ),
        breaks(
            "T13",
            RuntimeFlaw::TruncatesFarDeadlines,
            "a sleep of 30 years lasts",
            &["T1", "T6", "T8"],
        ),
        breaks(
            "T13",
            RuntimeFlaw::Milliseconds32,
            "and 10 ms lasts",
            &["T1", "T6", "T8", "T15"],
        ),
        breaks(
            "T13",
            RuntimeFlaw::Nanoseconds64,
            "a sleep of 2^64 ns and 10 ms lasts",
            &["T1", "T6", "T8", "T15"],
        ),
        breaks(
            "T14",
            RuntimeFlaw::WakesFirstPoller,
            "a sleep wakes the task that polled it last",
            &["T1", "T2", "T6"],
        ),
        breaks(
            "T15",
            RuntimeFlaw::ClockFast,
            "does `now` run faster than the clock of the timer?",
            &["T1", "T4", "T9"],
        ),
        breaks(
            "T15",
            RuntimeFlaw::RestartsAtEachPoll,
            "does each poll restart the sleep?",
            &["T1", "T6", "T8", "T14"],
        ),
        breaks(
            "T15",
            RuntimeFlaw::CountsFromFirstPoll,
            "is the length counted from the first poll?",
            &["T1", "T6", "T8", "T14"],
        ),
        breaks(
            "T15",
            RuntimeFlaw::OneSecondAtMost,
            "is the capacity of the timer limited",
            &["T1", "T6", "T8", "T14"],
        ),
        breaks(
            "T15",
            RuntimeFlaw::LongSleepsNeverEnd,
            "sleeps of more than a second complete",
            &["T1", "T6", "T8", "T14"],
        ),
        breaks(
            "T16",
            RuntimeFlaw::TimerIsNotInterrupted,
            "without being interrupted by an earlier one?",
            &["T1", "T6", "T8"],
        ),
        breaks(
            "T17",
            RuntimeFlaw::DropsOverflow,
            "is the queue of tasks bounded?",
            &["T1", "T2", "T4", "T5", "T6"],
        ),
    ]
}

fn sockets() -> Vec<Case> {
    vec![
        breaks(
            "K1",
            ListenerFlaw::PortZero,
            "the address of the listener",
            &["K2", "K3", "K4"],
        ),
        breaks(
            "K2",
            ListenerFlaw::ListenerAddressForStream,
            "the connection's address on a listener of 0.0.0.0",
            &["K1", "K3", "K4"],
        ),
        breaks(
            "K2",
            ListenerFlaw::LocalForPeer,
            "the peer's address",
            &["K1", "K9"],
        ),
        breaks(
            "K3",
            ListenerFlaw::LosesEveryThird,
            "`accept` returns the connection of a client",
            &["K1", "K2", "K7"],
        ),
        breaks(
            "K3",
            ListenerFlaw::LastFirst,
            "the accepted client is the one that connected first",
            &["K1", "K2", "K5", "K7"],
        ),
        breaks(
            "K4",
            ListenerFlaw::LosesWhenDropped,
            "`accept` returns the connection of a client",
            &["K1", "K2", "K3", "K9"],
        ),
        breaks(
            "K4",
            ListenerFlaw::HoldsWhilePending,
            "does a call of `accept` hold a connection while it is pending again?",
            &["K1", "K2", "K3", "K7"],
        ),
        breaks(
            "K5",
            ListenerFlaw::WakesFirstPoller,
            "`accept` wakes the task that polled it last",
            &["K1", "K3", "K4"],
        ),
        breaks(
            "K6",
            ListenerFlaw::OneWaker,
            "is accepted by one of 4 waiting tasks",
            &["K1", "K3", "K4", "K5", "L2"],
        ),
        breaks(
            "K7",
            ListenerFlaw::SwallowsErrors,
            "`accept` fails",
            &["K1", "K3", "K4"],
        ),
        breaks(
            "K7",
            ListenerFlaw::ChangesErrors,
            "kind and code of the error",
            &["K1", "K3", "K4"],
        ),
        breaks(
            "K8",
            ListenerFlaw::StaysOpen,
            "a client is refused",
            &["K1", "K3", "K4", "K7"],
        ),
        breaks(
            "K9",
            StreamFlaw::StaysOpen,
            "dropping the stream closes the connection",
            &["K1", "K3", "K10"],
        ),
        breaks(
            "K9",
            StreamFlaw::NoEnd,
            "the end of the stream is read when the client has closed",
            &["K3", "K8"],
        ),
        breaks(
            "K9",
            StreamFlaw::Changes,
            "the same bytes are received as were written",
            &["K1", "K3"],
        ),
        breaks(
            "K10",
            StreamFlaw::EndsBoth,
            "bytes written after that are received",
            &["K8", "K9"],
        ),
        breaks(
            "K11",
            StreamFlaw::ReadsDoNotWake,
            "a waiting read wakes the task that polled it last",
            &["K3", "K7", "K13"],
        ),
        breaks(
            "K11",
            StreamFlaw::ReadsWakeFirstPoller,
            "a waiting read wakes the task that polled it last",
            &["K8", "K9", "K10", "K12", "K13"],
        ),
        breaks(
            "K11",
            StreamFlaw::WritesDoNotWake,
            "a waiting write wakes the task that polled it last",
            &["K8", "K10", "K12", "K13"],
        ),
        breaks(
            "K11",
            StreamFlaw::WritesWakeFirstPoller,
            "a waiting write wakes the task that polled it last",
            &["K8", "K9", "K10", "K12", "K13"],
        ),
        breaks(
            "K11",
            StreamFlaw::OneWaker,
            "do both directions share one waker?",
            &["K8", "K9", "K10", "K12", "K13"],
        ),
        breaks(
            "K11",
            StreamFlaw::BuffersAllWrites,
            "a write waits while the client reads nothing",
            &["K8", "K10", "K12", "K13"],
        ),
        breaks(
            "K12",
            StreamFlaw::ResetIsEnd,
            "as at the end of the stream",
            &["K8", "K9", "K10", "K11", "K13"],
        ),
        breaks(
            "K13",
            StreamFlaw::StaysOpen,
            "what else holds the socket",
            &["K1", "K3", "K10", "K11"],
        ),
        breaks(
            "K13",
            StreamFlaw::ClosesLater,
            "the connection is closed when the drop of its stream returns",
            &["K1", "K3", "K9", "K10", "K11"],
        ),
        breaks(
            "K13",
            StreamFlaw::KeepsDescriptor,
            "the descriptor of a dropped stream is closed",
            &["K8", "K9", "K10", "K11", "K12"],
        ),
        breaks(
            "K14",
            ListenerFlaw::AcceptsAhead,
            "does the listener accept connections ahead of the calls of `accept`?",
            &["K1", "K2", "K3", "K4", "K7", "K9"],
        ),
    ]
}
