//! Each report as text and as a `tracing` event: both are promised to stay as they are.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Level, Metadata, Subscriber};

use super::*;
use crate::id::PoolId;
use crate::sync::lock;

/// One `tracing` event, as a subscriber sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Traced {
    target: String,
    level: Level,
    fields: BTreeMap<String, String>,
}

/// Keeps every event.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<Traced>>>);

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        lock(&self.0).push(Traced {
            target: event.metadata().target().to_owned(),
            level: *event.metadata().level(),
            fields,
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

type Address = &'static str;

const LISTENER: ListenerId = ListenerId {
    sequence: 2,
    pool: PoolId::ANY,
};
const CHILD: ChildId = ChildId {
    listener: 2,
    number: 7,
    slot: 3,
    pool: PoolId::ANY,
};

/// The number of failure events suppressed before each.
const SUPPRESSED: u64 = 9;

/// Checks the message of a report, and its `tracing` event: both are stable.
#[track_caller]
fn check(event: Event<Address>, words: &str, level: Level, fields: &[(&str, &str)]) {
    check_event(event, words, level, fields);
}

#[track_caller]
fn check_event<A: Debug>(event: Event<A>, words: &str, level: Level, fields: &[(&str, &str)]) {
    let mut report = Report {
        pool: Arc::from("echo"),
        tag: None,
        event,
    };
    check_report(&report, words, level, fields);
    // Only events of a listener have its tag.
    if report.event.listener() == Some(LISTENER) {
        report.tag = Some(Arc::from("web"));
        let words = words.replacen("listener 2", "listener 2 (web)", 1);
        let fields = [fields, &[("tag", "\"web\"")]].concat();
        check_report(&report, &words, level, &fields);
    } else {
        assert!(!fields.iter().any(|(name, _)| *name == "listener"));
    }
}

#[track_caller]
fn check_report<A: Debug>(report: &Report<A>, words: &str, level: Level, fields: &[(&str, &str)]) {
    assert_eq!(report.to_string(), format!("pool echo: {words}"));
    let keeper = Keeper::default();
    tracing::subscriber::with_default(keeper.clone(), || trace(report, SUPPRESSED));
    let fields = fields.iter().chain(&[("pool", "\"echo\"")]);
    let expected = Traced {
        target: "acceptor_pool".to_owned(),
        level,
        fields: fields
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    assert_eq!(*lock(&keeper.0), [expected]);
}

fn failed() -> Failure {
    Failure::Error(Arc::from(Box::<dyn Error + Send + Sync>::from("no luck")))
}

#[test]
fn start_error() {
    check(
        Event::StartError {
            listener: LISTENER,
            child: CHILD,
            failure: failed(),
        },
        "start error on listener 2: no luck",
        Level::ERROR,
        &[
            ("message", "start error"),
            ("event", "\"start_error\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("reason", "\"error\""),
            ("error", "no luck"),
            ("suppressed", "9"),
        ],
    );
}

#[test]
fn acceptor_failed() {
    check(
        Event::AcceptorFailed {
            listener: LISTENER,
            child: CHILD,
            failure: Failure::Panic("oh".into()),
        },
        "acceptor 2.7 of listener 2 failed: panicked: oh",
        Level::ERROR,
        &[
            ("message", "acceptor failed"),
            ("event", "\"acceptor_failed\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("reason", "\"panic\""),
            ("error", "panicked: oh"),
            ("suppressed", "9"),
        ],
    );
}

#[track_caller]
fn check_connection(failure: Failure, words: &str, reason: &str) {
    check(
        Event::ConnectionFailed {
            listener: LISTENER,
            child: CHILD,
            peer: "peer",
            transport: None,
            age: Duration::from_millis(2500),
            failure,
        },
        &format!("connection 2.7 from \"peer\" on listener 2 failed after 2.500s: {words}"),
        Level::ERROR,
        &[
            ("message", "connection failed"),
            ("event", "\"connection_failed\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("peer", "\"peer\""),
            ("age_seconds", "2.5"),
            ("reason", &format!("{reason:?}")),
            ("error", words),
            ("suppressed", "9"),
        ],
    );
}

#[test]
fn connection_failed() {
    check_connection(failed(), "no luck", "error");
    check_connection(Failure::Panic("oh".into()), "panicked: oh", "panic");
    check_connection(Failure::Killed, "killed through the handle", "killed");
    check_connection(Failure::Lost, "its runtime dropped the task", "lost");
}

type Way = Option<Box<Transport<Address>>>;

/// The report of a connection whose handshake has replaced its addresses names the transport as well (H5).
#[track_caller]
fn check_transport(event: fn(Address, Way) -> Event<Address>) {
    let transport = Transport {
        peer_addr: "proxy",
        local_addr: "here",
    };
    for (transport, words) in [
        (None, r#" from "peer" on"#),
        (Some(transport), r#" from "peer" through "proxy" on"#),
    ] {
        let report = Report {
            pool: Arc::from("echo"),
            tag: None,
            event: event("peer", transport.clone().map(Box::new)),
        };
        assert!(report.to_string().contains(words), "{report}");
        let keeper = Keeper::default();
        tracing::subscriber::with_default(keeper.clone(), || trace(&report, SUPPRESSED));
        let fields = &lock(&keeper.0)[0].fields;
        let field = fields.get("transport").map(String::as_str);
        assert_eq!(field, transport.map(|_| r#""proxy""#));
    }
}

#[test]
fn transport_of_a_connection() {
    const AGE: Duration = Duration::from_millis(2500);
    check_transport(|peer, transport| Event::ConnectionFailed {
        listener: LISTENER,
        child: CHILD,
        peer,
        transport,
        age: AGE,
        failure: failed(),
    });
    check_transport(|peer, transport| Event::ConnectionEnded {
        listener: LISTENER,
        child: CHILD,
        peer,
        transport,
        age: AGE,
        kind: EndKind::Normal,
        reason: None,
    });
    check_transport(|peer, transport| Event::Disconnected {
        listener: LISTENER,
        child: CHILD,
        peer,
        transport,
        age: AGE,
        error: Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)),
    });
    check_transport(|peer, transport| Event::HandshakeFailed {
        listener: LISTENER,
        child: CHILD,
        peer,
        transport,
        age: AGE,
        cause: "tls",
        error: None,
    });
}

#[track_caller]
fn check_listener(listeners_left: usize, words: &str) {
    check(
        Event::ListenerFailed {
            listener: LISTENER,
            local_addr: "here",
            listeners_left,
            error: Arc::new(io::Error::other("no socket")),
        },
        &format!("listener 2 on \"here\" failed{words}: no socket"),
        Level::ERROR,
        &[
            ("message", "listener failed"),
            ("event", "\"listener_failed\""),
            ("listener", "2"),
            ("local", "\"here\""),
            ("listeners_left", &listeners_left.to_string()),
            ("error", "no socket"),
        ],
    );
}

#[test]
fn listener_failed() {
    check_listener(2, "");
    check_listener(0, ", and no listener is left");
}

#[test]
fn accept_paused() {
    check(
        Event::AcceptPaused {
            listener: LISTENER,
            local_addr: "here",
            error: Arc::new(io::Error::other("no descriptors")),
            pause: Duration::from_millis(5),
            suppressed: 3,
        },
        "listener 2 on \"here\" pauses 5ms (pauses not reported before: 3): no descriptors",
        Level::WARN,
        &[
            ("message", "accept paused"),
            ("event", "\"accept_paused\""),
            ("listener", "2"),
            ("local", "\"here\""),
            ("pause_seconds", "0.005"),
            ("suppressed", "3"),
            ("error", "no descriptors"),
        ],
    );
}

#[track_caller]
fn check_killed(count: usize, words: &str) {
    check(
        Event::KilledWhileStopping { count },
        words,
        Level::WARN,
        &[
            ("message", "killed while stopping"),
            ("event", "\"killed_while_stopping\""),
            ("count", &count.to_string()),
        ],
    );
}

#[track_caller]
fn check_stuck(count: usize, words: &str) {
    check(
        Event::Stuck { count },
        words,
        Level::ERROR,
        &[
            ("message", "children stuck after the kill"),
            ("event", "\"stuck\""),
            ("count", &count.to_string()),
        ],
    );
}

#[test]
fn killed_while_stopping_and_stuck() {
    check_killed(1, "the stop killed 1 child");
    check_killed(4, "the stop killed 4 children");
    check_stuck(1, "1 child did not suspend after the kill and was left");
    check_stuck(2, "2 children did not suspend after the kill and were left");
}

#[test]
fn connection_began() {
    check(
        Event::ConnectionBegan {
            listener: LISTENER,
            child: CHILD,
            peer: "peer",
            local_addr: "here",
        },
        "connection 2.7 from \"peer\" to \"here\" on listener 2 began",
        Level::DEBUG,
        &[
            ("message", "connection began"),
            ("event", "\"connection_began\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("peer", "\"peer\""),
            ("local", "\"here\""),
        ],
    );
}

#[test]
fn connection_ended() {
    for (kind, word) in [(EndKind::Normal, "normal"), (EndKind::Stopped, "stopped")] {
        check(
            Event::ConnectionEnded {
                listener: LISTENER,
                child: CHILD,
                peer: "peer",
                transport: None,
                age: Duration::from_millis(2500),
                kind,
                reason: None,
            },
            &format!("connection 2.7 from \"peer\" on listener 2 ended after 2.500s: {word}"),
            Level::DEBUG,
            &[
                ("message", "connection ended"),
                ("event", "\"connection_ended\""),
                ("listener", "2"),
                ("child", "2.7"),
                ("peer", "\"peer\""),
                ("age_seconds", "2.5"),
                ("reason", word),
            ],
        );
    }
}

#[test]
fn clean_end_says_why() {
    check(
        Event::ConnectionEnded {
            listener: LISTENER,
            child: CHILD,
            peer: "peer",
            transport: None,
            age: Duration::from_millis(2500),
            kind: EndKind::Clean,
            reason: Some("said\nquit".into()),
        },
        r#"connection 2.7 from "peer" on listener 2 ended after 2.500s: clean (said\nquit)"#,
        Level::DEBUG,
        &[
            ("message", "connection ended"),
            ("event", "\"connection_ended\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("peer", "\"peer\""),
            ("age_seconds", "2.5"),
            ("reason", "clean"),
            ("why", r"said\nquit"),
        ],
    );
}

fn error() -> Arc<dyn Error + Send + Sync> {
    Arc::from(Box::<dyn Error + Send + Sync>::from("no luck"))
}

#[test]
fn disconnected() {
    check(
        Event::Disconnected {
            listener: LISTENER,
            child: CHILD,
            peer: "peer",
            transport: None,
            age: Duration::from_millis(2500),
            error: error(),
        },
        "connection 2.7 from \"peer\" on listener 2 disconnected after 2.500s: no luck",
        Level::DEBUG,
        &[
            ("message", "disconnected"),
            ("event", "\"disconnected\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("peer", "\"peer\""),
            ("age_seconds", "2.5"),
            ("error", "no luck"),
            ("suppressed", "9"),
        ],
    );
}

#[test]
fn handshake_failed() {
    for error in [None, Some(error())] {
        let words =
            "handshake of connection 2.7 from \"peer\" on listener 2 failed after 2.500s (tls)";
        let mut fields = vec![
            ("message", "handshake failed"),
            ("event", "\"handshake_failed\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("peer", "\"peer\""),
            ("age_seconds", "2.5"),
            ("cause", "tls"),
            ("suppressed", "9"),
        ];
        let words = match &error {
            Some(_) => {
                fields.push(("error", "no luck"));
                format!("{words}: no luck")
            }
            None => words.to_owned(),
        };
        let event = Event::HandshakeFailed {
            listener: LISTENER,
            child: CHILD,
            peer: "peer",
            transport: None,
            age: Duration::from_millis(2500),
            cause: "tls",
            error,
        };
        check(event, &words, Level::DEBUG, &fields);
    }
}

fn losses(kinds: &[EventKind]) -> Losses {
    let mut lost = Losses::default();
    kinds.iter().for_each(|kind| lost.count(*kind));
    lost
}

#[test]
fn reports_lost() {
    let (began, ended) = (EventKind::ConnectionBegan, EventKind::ConnectionEnded);
    check(
        Event::ReportsLost {
            lost: losses(&[ended, began, ended]),
        },
        "reports were dropped, since too many waited for the observer: \
         1 connection_began, 2 connection_ended",
        Level::WARN,
        &[
            ("message", "reports lost"),
            ("event", "\"reports_lost\""),
            ("count", "3"),
            ("kinds", "1 connection_began, 2 connection_ended"),
        ],
    );
}

#[test]
fn losses_are_counted_by_kind() {
    let lost = losses(&[EventKind::Stuck, EventKind::StartError, EventKind::Stuck]);
    assert_eq!(lost.of(EventKind::Stuck), 2);
    assert_eq!(lost.of(EventKind::ReportsLost), 0);
    assert_eq!(lost.total(), 3);
    assert_eq!(lost.to_string(), "1 start_error, 2 stuck");
    assert_eq!(Losses::default().to_string(), "none");
}

#[test]
fn kinds_have_count_and_word() {
    let all = losses(EventKind::ALL);
    for &kind in EventKind::ALL {
        assert_eq!(all.of(kind), 1, "{kind}");
        assert_eq!(kind.to_string(), kind.word());
    }
    let words = EventKind::ALL.iter().map(|kind| kind.word());
    let words: std::collections::BTreeSet<_> = words.collect();
    assert_eq!(words.len(), EventKind::ALL.len());
}

#[test]
fn events_suppressed() {
    let keeper = Keeper::default();
    tracing::subscriber::with_default(keeper.clone(), || {
        trace_suppressed("echo", LISTENER, EventKind::StartError, 12);
    });
    let fields = [
        ("message", "events suppressed"),
        ("event", "\"events_suppressed\""),
        ("pool", "\"echo\""),
        ("listener", "2"),
        ("kind", "start_error"),
        ("count", "12"),
    ];
    assert_eq!(
        *lock(&keeper.0),
        [Traced {
            target: "acceptor_pool".to_owned(),
            level: Level::WARN,
            fields: fields
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }]
    );
}

#[test]
fn pool_stopped() {
    for (reason, words, word) in [
        (
            StopReason::Intensity,
            "stops: restart intensity exceeded",
            "max_restart_intensity",
        ),
        (
            StopReason::RuntimeGone,
            "stops: runtime gone",
            "runtime_gone",
        ),
        (StopReason::Requested, "stops: requested", "requested"),
        (
            StopReason::OwnerDropped,
            "stops: owner dropped",
            "owner_dropped",
        ),
        (
            StopReason::ListenersFailed,
            "stops: last listener failed",
            "listeners_failed",
        ),
    ] {
        check(
            Event::PoolStopped { reason },
            words,
            Level::ERROR,
            &[
                ("message", "pool stopped"),
                ("event", "\"pool_stopped\""),
                ("reason", &format!("{word:?}")),
            ],
        );
    }
}

/// Text chosen by a client, repeated, as an error and as an address whose `Debug` escapes nothing.
#[derive(Clone, Copy)]
struct Hostile {
    text: &'static str,
    times: usize,
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for _ in 0..self.times {
            f.write_str(self.text)?;
        }
        Ok(())
    }
}

impl Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Hostile {}

/// The same reports as above, with hostile text wherever a client can choose it.
#[track_caller]
fn check_hostile(text: &'static str, times: usize, safe: &str) {
    let hostile = Hostile { text, times };
    let io_error = || Arc::new(io::Error::other(hostile));
    check(
        Event::StartError {
            listener: LISTENER,
            child: CHILD,
            failure: Failure::Error(Arc::new(hostile)),
        },
        &format!("start error on listener 2: {safe}"),
        Level::ERROR,
        &[
            ("message", "start error"),
            ("event", "\"start_error\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("reason", "\"error\""),
            ("error", safe),
            ("suppressed", "9"),
        ],
    );
    check_event(
        Event::ConnectionFailed {
            listener: LISTENER,
            child: CHILD,
            peer: hostile,
            transport: None,
            age: Duration::from_millis(2500),
            failure: Failure::Error(Arc::new(hostile)),
        },
        &format!("connection 2.7 from {safe} on listener 2 failed after 2.500s: {safe}"),
        Level::ERROR,
        &[
            ("message", "connection failed"),
            ("event", "\"connection_failed\""),
            ("listener", "2"),
            ("child", "2.7"),
            ("peer", safe),
            ("age_seconds", "2.5"),
            ("reason", "\"error\""),
            ("error", safe),
            ("suppressed", "9"),
        ],
    );
    check_event(
        Event::ListenerFailed {
            listener: LISTENER,
            local_addr: hostile,
            listeners_left: 1,
            error: io_error(),
        },
        &format!("listener 2 on {safe} failed: {safe}"),
        Level::ERROR,
        &[
            ("message", "listener failed"),
            ("event", "\"listener_failed\""),
            ("listener", "2"),
            ("local", safe),
            ("listeners_left", "1"),
            ("error", safe),
        ],
    );
    check_event(
        Event::AcceptPaused {
            listener: LISTENER,
            local_addr: hostile,
            error: io_error(),
            pause: Duration::from_millis(5),
            suppressed: 3,
        },
        &format!("listener 2 on {safe} pauses 5ms (pauses not reported before: 3): {safe}"),
        Level::WARN,
        &[
            ("message", "accept paused"),
            ("event", "\"accept_paused\""),
            ("listener", "2"),
            ("local", safe),
            ("pause_seconds", "0.005"),
            ("suppressed", "3"),
            ("error", safe),
        ],
    );
}

/// The message of a panic is already collected.
#[track_caller]
fn check_hostile_panic(message: &str, safe: &str) {
    let words = format!("panicked: {safe}");
    check_connection(Failure::Panic(message.to_owned()), &words, "panic");
}

#[test]
fn client_text_is_escaped() {
    for (text, safe) in [
        ("a\nERROR forged", r"a\nERROR forged"),
        ("\x1b[2J\x1b[31m", r"\u{1b}[2J\u{1b}[31m"),
        ("a\u{2028}b\u{202e}c", r"a\u{2028}b\u{202e}c"),
    ] {
        check_hostile(text, 1, safe);
        check_hostile_panic(text, safe);
    }
    check_hostile_panic(r"C:\new", r"C:\\new");
}

#[test]
fn client_text_is_cut_to_1_kib() {
    let safe = format!("{}…", "x".repeat(1021));
    for times in [1025, 1_000_000, usize::MAX] {
        check_hostile("x", times, &safe);
    }
    check_hostile_panic(&"x".repeat(1_000_000), &safe);
}
