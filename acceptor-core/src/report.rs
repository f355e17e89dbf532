//! What a pool reports: one value for the observer and one `tracing` event, of the same thing.
//!
//! All events have the target `acceptor_pool` and the fields `pool` (the
//! spec's id) and `event`:
//!
//! | [`Event`] | `event` | level | further fields |
//! |---|---|---|---|
//! | `StartError` | `start_error` | error | `listener`, `child`, `reason`, `error` |
//! | `AcceptorFailed` | `acceptor_failed` | error | `listener`, `child`, `reason`, `error` |
//! | `ConnectionFailed` | `connection_failed` | error | `listener`, `child`, `peer`, `age_seconds`, `reason`, `error` |
//! | `ListenerFailed` | `listener_failed` | error | `listener`, `local`, `error` |
//! | `AcceptPaused` | `accept_paused` | warn | `listener`, `local`, `pause_seconds`, `unreported`, `error` |
//! | `KilledWhileStopping` | `killed_while_stopping` | warn | `count` |
//! | `Stuck` | `stuck` | error | `count` |
//! | `PoolStopped` | `pool_stopped` | error | `reason` |
//!
//! `reason` is one word: `error`, `panic`, `killed`, `lost`; for `pool_stopped` `max_restart_intensity` or `runtime_gone`.
//!
//! Errors, panic messages and addresses may be text that a client chose. Wherever the pool writes them, in these fields
//! and in `Display`, they are escaped and cut to 1 KiB each; an observer gets the values whole (V5).

use std::error::Error;
use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{ChildId, ListenerId};
use crate::stop_report::StopReason;
use crate::text::{Escaped, EscapedDebug};

/// Something that a pool has to report.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report<A> {
    /// The id of the spec that the pool has at the moment.
    pub pool: Arc<str>,
    /// What happened.
    pub event: Event<A>,
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<A> {
    /// `init` returned an error or panicked (B4). Counted.
    #[non_exhaustive]
    StartError {
        /// The listener that the acceptor was to wait on.
        listener: ListenerId,
        /// The acceptor.
        child: ChildId,
        /// The error or the panic.
        failure: Failure,
    },
    /// An acceptor ended otherwise than it should: killed, lost, or a panic in `terminate` or in a `Drop` (B8).
    #[non_exhaustive]
    AcceptorFailed {
        /// The listener that the acceptor waited on.
        listener: ListenerId,
        /// The acceptor.
        child: ChildId,
        /// What befell it.
        failure: Failure,
    },
    /// A connection ended with an error, a panic, a kill, or was lost (section 2).
    #[non_exhaustive]
    ConnectionFailed {
        /// The listener that the connection came from.
        listener: ListenerId,
        /// The connection.
        child: ChildId,
        /// Its peer.
        peer: A,
        /// How old it was.
        age: Duration,
        /// What befell it.
        failure: Failure,
    },
    /// A listener failed and was closed (L4).
    #[non_exhaustive]
    ListenerFailed {
        /// The listener.
        listener: ListenerId,
        /// The address it was bound to.
        local_addr: A,
        /// The error that `accept` returned; or one that tells that `accept` panicked, or that the runtime dropped
        /// the listener's task.
        error: Arc<io::Error>,
    },
    /// A listener pauses for want of resources (A2). At most one a second for each listener.
    #[non_exhaustive]
    AcceptPaused {
        /// The listener.
        listener: ListenerId,
        /// The address it is bound to.
        local_addr: A,
        /// The error that `accept` returned.
        error: Arc<io::Error>,
        /// How long this pause is.
        pause: Duration,
        /// How many pauses since the last report went unreported.
        unreported: u64,
    },
    /// The stop had to kill children (S6).
    #[non_exhaustive]
    KilledWhileStopping {
        /// How many.
        count: usize,
    },
    /// Children did not suspend after the kill and were left (S8).
    #[non_exhaustive]
    Stuck {
        /// How many.
        count: usize,
    },
    /// The pool stops, and was not asked to: too many failures (I3), or the runtime dropped the pool's own task (S9).
    #[non_exhaustive]
    PoolStopped {
        /// Why.
        reason: StopReason,
    },
}

/// What befell a child.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Failure {
    /// A callback returned this error.
    Error(Arc<dyn Error + Send + Sync>),
    /// A callback, or the `Drop` of something that it owned, panicked with this message.
    Panic(String),
    /// Killed through the handle.
    Killed,
    /// Its runtime dropped the task.
    Lost,
}

impl Failure {
    fn word(&self) -> &'static str {
        match self {
            Failure::Error(_) => "error",
            Failure::Panic(_) => "panic",
            Failure::Killed => "killed",
            Failure::Lost => "lost",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => fmt::Display::fmt(&Escaped(error), f),
            Failure::Panic(message) => write!(f, "panicked: {}", Escaped(message)),
            Failure::Killed => f.write_str("killed through the handle"),
            Failure::Lost => f.write_str("its runtime dropped the task"),
        }
    }
}

impl<A: Debug> fmt::Display for Report<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}: ", self.pool)?;
        match &self.event {
            Event::StartError {
                listener, failure, ..
            } => write!(f, "start error on listener {listener}: {failure}"),
            Event::AcceptorFailed {
                listener,
                child,
                failure,
            } => write!(
                f,
                "acceptor {child} of listener {listener} failed: {failure}"
            ),
            Event::ConnectionFailed {
                listener,
                child,
                peer,
                age,
                failure,
            } => write!(
                f,
                "connection {child} from {} on listener {listener} failed after {age:.3?}: {failure}",
                EscapedDebug(peer)
            ),
            Event::ListenerFailed {
                listener,
                local_addr,
                error,
            } => write!(
                f,
                "listener {listener} on {} failed: {}",
                EscapedDebug(local_addr),
                Escaped(error)
            ),
            Event::AcceptPaused {
                listener,
                local_addr,
                error,
                pause,
                unreported,
            } => write!(
                f,
                "listener {listener} on {} pauses {pause:?} ({unreported} pauses before went unreported): {}",
                EscapedDebug(local_addr),
                Escaped(error)
            ),
            Event::KilledWhileStopping { count } => {
                write!(f, "{count} children were killed by the stop")
            }
            Event::Stuck { count } => write!(
                f,
                "{count} children did not suspend after the kill and were left"
            ),
            Event::PoolStopped { reason } => write!(f, "stops: {reason}"),
        }
    }
}

/// Gets every report of a pool.
///
/// Any `Fn(&Report<A>)` is one. Reports come one at a time, in the order in
/// which things happened, from whichever task or call brought the event, which
/// may be the one that accepts: an observer that blocks holds up that task, the
/// reports that follow, which are kept meanwhile, and the pool's end. It may
/// call the pool; a panic in it is caught.
pub trait Observer<A>: Send + Sync + 'static {
    /// Is told of one report.
    fn report(&self, report: &Report<A>);
}

impl<A, F: Fn(&Report<A>) + Send + Sync + 'static> Observer<A> for F {
    fn report(&self, report: &Report<A>) {
        self(report);
    }
}

/// The `tracing` target of all events.
const TARGET: &str = "acceptor_pool";

/// Emits the `tracing` event of a report.
pub(crate) fn trace<A: Debug>(report: &Report<A>) {
    let pool = &*report.pool;
    match &report.event {
        Event::StartError {
            listener,
            child,
            failure,
        } => tracing::error!(
            target: TARGET, event = "start_error", pool, listener = listener.sequence,
            child = child.sequence, reason = failure.word(), error = %failure, "start error"
        ),
        Event::AcceptorFailed {
            listener,
            child,
            failure,
        } => tracing::error!(
            target: TARGET, event = "acceptor_failed", pool, listener = listener.sequence,
            child = child.sequence, reason = failure.word(), error = %failure, "acceptor failed"
        ),
        Event::ConnectionFailed {
            listener,
            child,
            peer,
            age,
            failure,
        } => tracing::error!(
            target: TARGET, event = "connection_failed", pool, listener = listener.sequence,
            child = child.sequence, peer = %EscapedDebug(peer), age_seconds = age.as_secs_f64(),
            reason = failure.word(), error = %failure, "connection failed"
        ),
        Event::ListenerFailed {
            listener,
            local_addr,
            error,
        } => tracing::error!(
            target: TARGET, event = "listener_failed", pool, listener = listener.sequence,
            local = %EscapedDebug(local_addr), error = %Escaped(error), "listener failed"
        ),
        Event::AcceptPaused {
            listener,
            local_addr,
            error,
            pause,
            unreported,
        } => tracing::warn!(
            target: TARGET, event = "accept_paused", pool, listener = listener.sequence,
            local = %EscapedDebug(local_addr), pause_seconds = pause.as_secs_f64(), unreported,
            error = %Escaped(error), "accept paused"
        ),
        Event::KilledWhileStopping { count } => tracing::warn!(
            target: TARGET, event = "killed_while_stopping", pool, count, "killed while stopping"
        ),
        Event::Stuck { count } => tracing::error!(
            target: TARGET, event = "stuck", pool, count, "children stuck after the kill"
        ),
        Event::PoolStopped { reason } => {
            let word = match reason {
                StopReason::Intensity => "max_restart_intensity",
                StopReason::Requested => "requested",
                StopReason::OwnerDropped => "owner_dropped",
                StopReason::RuntimeGone => "runtime_gone",
            };
            tracing::error!(target: TARGET, event = "pool_stopped", pool, reason = word, "pool stopped");
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::BTreeMap;
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
        pool: PoolId::NONE,
    };
    const CHILD: ChildId = ChildId {
        sequence: 7,
        slot: 3,
        pool: PoolId::NONE,
    };

    /// A report in words, and its `tracing` event: both are promised to stay as they are.
    #[track_caller]
    fn check(event: Event<Address>, words: &str, level: Level, fields: &[(&str, &str)]) {
        check_event(event, words, level, fields);
    }

    #[track_caller]
    fn check_event<A: Debug>(event: Event<A>, words: &str, level: Level, fields: &[(&str, &str)]) {
        let report = Report {
            pool: Arc::from("echo"),
            event,
        };
        assert_eq!(report.to_string(), format!("pool echo: {words}"));
        let keeper = Keeper::default();
        tracing::subscriber::with_default(keeper.clone(), || trace(&report));
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
    fn a_start_error() {
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
                ("child", "7"),
                ("reason", "\"error\""),
                ("error", "no luck"),
            ],
        );
    }

    #[test]
    fn an_acceptor_that_failed() {
        check(
            Event::AcceptorFailed {
                listener: LISTENER,
                child: CHILD,
                failure: Failure::Panic("oh".into()),
            },
            "acceptor 7 of listener 2 failed: panicked: oh",
            Level::ERROR,
            &[
                ("message", "acceptor failed"),
                ("event", "\"acceptor_failed\""),
                ("listener", "2"),
                ("child", "7"),
                ("reason", "\"panic\""),
                ("error", "panicked: oh"),
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
                age: Duration::from_millis(2500),
                failure,
            },
            &format!("connection 7 from \"peer\" on listener 2 failed after 2.500s: {words}"),
            Level::ERROR,
            &[
                ("message", "connection failed"),
                ("event", "\"connection_failed\""),
                ("listener", "2"),
                ("child", "7"),
                ("peer", "\"peer\""),
                ("age_seconds", "2.5"),
                ("reason", &format!("{reason:?}")),
                ("error", words),
            ],
        );
    }

    #[test]
    fn a_connection_that_failed_in_every_way() {
        check_connection(failed(), "no luck", "error");
        check_connection(Failure::Panic("oh".into()), "panicked: oh", "panic");
        check_connection(Failure::Killed, "killed through the handle", "killed");
        check_connection(Failure::Lost, "its runtime dropped the task", "lost");
    }

    #[test]
    fn a_listener_that_failed() {
        check(
            Event::ListenerFailed {
                listener: LISTENER,
                local_addr: "here",
                error: Arc::new(io::Error::other("no socket")),
            },
            "listener 2 on \"here\" failed: no socket",
            Level::ERROR,
            &[
                ("message", "listener failed"),
                ("event", "\"listener_failed\""),
                ("listener", "2"),
                ("local", "\"here\""),
                ("error", "no socket"),
            ],
        );
    }

    #[test]
    fn an_accept_pause() {
        check(
            Event::AcceptPaused {
                listener: LISTENER,
                local_addr: "here",
                error: Arc::new(io::Error::other("no descriptors")),
                pause: Duration::from_millis(5),
                unreported: 3,
            },
            "listener 2 on \"here\" pauses 5ms (3 pauses before went unreported): no descriptors",
            Level::WARN,
            &[
                ("message", "accept paused"),
                ("event", "\"accept_paused\""),
                ("listener", "2"),
                ("local", "\"here\""),
                ("pause_seconds", "0.005"),
                ("unreported", "3"),
                ("error", "no descriptors"),
            ],
        );
    }

    #[test]
    fn what_a_stop_leaves() {
        check(
            Event::KilledWhileStopping { count: 4 },
            "4 children were killed by the stop",
            Level::WARN,
            &[
                ("message", "killed while stopping"),
                ("event", "\"killed_while_stopping\""),
                ("count", "4"),
            ],
        );
        check(
            Event::Stuck { count: 2 },
            "2 children did not suspend after the kill and were left",
            Level::ERROR,
            &[
                ("message", "children stuck after the kill"),
                ("event", "\"stuck\""),
                ("count", "2"),
            ],
        );
    }

    #[test]
    fn a_pool_that_stops_by_itself() {
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

    /// Text that a client chose, repeated, as an error and as an address whose `Debug` escapes nothing.
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

    /// The same reports as above, with hostile text wherever a client may choose it.
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
                ("child", "7"),
                ("reason", "\"error\""),
                ("error", safe),
            ],
        );
        check_event(
            Event::ConnectionFailed {
                listener: LISTENER,
                child: CHILD,
                peer: hostile,
                age: Duration::from_millis(2500),
                failure: Failure::Error(Arc::new(hostile)),
            },
            &format!("connection 7 from {safe} on listener 2 failed after 2.500s: {safe}"),
            Level::ERROR,
            &[
                ("message", "connection failed"),
                ("event", "\"connection_failed\""),
                ("listener", "2"),
                ("child", "7"),
                ("peer", safe),
                ("age_seconds", "2.5"),
                ("reason", "\"error\""),
                ("error", safe),
            ],
        );
        check_event(
            Event::ListenerFailed {
                listener: LISTENER,
                local_addr: hostile,
                error: io_error(),
            },
            &format!("listener 2 on {safe} failed: {safe}"),
            Level::ERROR,
            &[
                ("message", "listener failed"),
                ("event", "\"listener_failed\""),
                ("listener", "2"),
                ("local", safe),
                ("error", safe),
            ],
        );
        check_event(
            Event::AcceptPaused {
                listener: LISTENER,
                local_addr: hostile,
                error: io_error(),
                pause: Duration::from_millis(5),
                unreported: 3,
            },
            &format!("listener 2 on {safe} pauses 5ms (3 pauses before went unreported): {safe}"),
            Level::WARN,
            &[
                ("message", "accept paused"),
                ("event", "\"accept_paused\""),
                ("listener", "2"),
                ("local", safe),
                ("pause_seconds", "0.005"),
                ("unreported", "3"),
                ("error", safe),
            ],
        );
    }

    /// A panic has a message that is collected already.
    #[track_caller]
    fn check_hostile_panic(message: &str, safe: &str) {
        let words = format!("panicked: {safe}");
        check_connection(Failure::Panic(message.to_owned()), &words, "panic");
    }

    #[test]
    fn text_of_a_client_is_escaped() {
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
    fn text_of_a_client_is_cut_to_a_kibibyte() {
        let safe = format!("{}…", "x".repeat(1021));
        for times in [1025, 1_000_000, usize::MAX] {
            check_hostile("x", times, &safe);
        }
        check_hostile_panic(&"x".repeat(1_000_000), &safe);
    }
}
