//! Random scenarios of a pool in a simulated world, checked against a model.
//!
//! A scenario is plain data: how pools are started, and the steps that happen to them. It is generated from a seed
//! ([`Scenario::of_seed`]), run in a simulated world and checked against a model there ([`run`]). Because it is plain data, a
//! scenario that fails can be shrunk, printed, saved as a file and run again exactly. A step names a listener, a client or a
//! child by a number; the number is taken modulo their count, so a step stays valid when other steps are removed.

pub mod command_line;
mod event;
mod generate;
mod graceful_stop;
mod handle;
mod handshake;
mod history;
mod json;
mod model;
mod picture;
mod report;
mod run;
mod shrink;
mod test_acceptor;

use std::fmt;
use std::time::Duration;

use acceptor_core::{
    AcceptErrorKind, AtLimit, ChildType, ConnectionReports, Grace, LastListener, Refusal, Restart,
    Shutdown, WaitingAcceptors,
};
use serde::de::IntoDeserializer;
use serde::de::value::U32Deserializer;
use serde::{Deserialize, Serialize};

pub use self::event::{
    Call, Event, GuardHolder, HandshakeOutcome, InitOutcome, ServeOutcome, TerminateOutcome,
    TraceEntry,
};
pub use self::generate::STEPS;
pub use self::graceful_stop::graceful_stop;
pub use self::picture::picture;
pub use self::report::{FailureReport, Origin};
pub use self::run::{Failure, RunSummary, run, run_traced, run_watched};
pub use self::shrink::{MAX_RUNS, Shrunk, shrink};

/// A scenario: pools that run one after the other in one simulated world, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The seed; the random behaviour of acceptors depends on it.
    pub seed: u64,
    /// How pools are started, and how large the world is.
    pub setting: Setting,
    /// The steps, in their order.
    pub steps: Vec<Step>,
    /// How the scenario ends.
    pub teardown: Teardown,
}

/// How pools are started, and how large the world is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The spec of a new pool.
    pub spec: SpecSetting,
    /// How a pool is started.
    pub start: Start,
    /// The stage of the listeners between `accept` and `serve`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stage: StageSetting,
    /// How many connections wait in the backlog of a listener.
    pub backlog: u8,
    /// How many bytes wait in the buffer of a stream.
    pub buffer: u8,
    /// One poll in this many is spurious: of a task that was not woken; 0: none.
    pub spurious: u8,
}

impl Setting {
    /// The simplest setting.
    pub const DEFAULT: Self = Self {
        spec: SpecSetting::DEFAULT,
        start: Start::Spec,
        stage: StageSetting::None,
        backlog: 64,
        buffer: 64,
        spurious: 0,
    };
}

/// The stage of a listener between `accept` and `serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StageSetting {
    /// None.
    #[default]
    None,
    /// A handshake, in which clients send commands.
    Handshake,
}

/// How a pool is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With a spec.
    Spec,
    /// With an init function, which a reload runs again.
    InitFunction,
}

/// A spec, as data; times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecSetting {
    /// Which failures count.
    pub restart: RestartSetting,
    /// How many failures are tolerated within the period.
    pub intensity: u32,
    /// The period.
    #[serde(deserialize_with = "json::positive")]
    pub period: u32,
    /// The type of the children.
    pub child_type: ChildSetting,
    /// How long a pool that stops still accepts.
    pub lame_duck: u32,
    /// How long connections then may continue; `None` is unlimited.
    // Without this attribute a missing field would be unlimited, too.
    #[serde(deserialize_with = "Option::deserialize")]
    pub grace: Option<u32>,
    /// How long the stop phase then is.
    pub shutdown: ShutdownSetting,
    /// How long the kill waits for a child that does not suspend.
    #[serde(deserialize_with = "json::positive")]
    pub kill_timeout: u32,
    /// The kind of an unknown accept error.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unknown: UnknownSetting,
    /// Which connections are reported.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reports: ReportsSetting,
    /// The reaction to the failure of the last listener.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_listener: LastListenerSetting,
    /// The timeout of a handshake; `None` is unlimited.
    #[serde(
        default = "handshake_timeout",
        skip_serializing_if = "is_handshake_timeout",
        deserialize_with = "json::positive"
    )]
    pub handshake_timeout: Option<u32>,
    /// The largest number of connections; `None` is unlimited.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_connections: Option<u32>,
    /// What happens at a limit on connections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at_limit: AtLimitSetting,
}

/// The default of a spec, in milliseconds.
const HANDSHAKE_TIMEOUT: Option<u32> = Some(10_000);

fn handshake_timeout() -> Option<u32> {
    HANDSHAKE_TIMEOUT
}

fn is_handshake_timeout(time: &Option<u32>) -> bool {
    *time == HANDSHAKE_TIMEOUT
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Defines enums of the core as data. The first variant is the default.
macro_rules! core_enums {
    ($($(#[$doc:meta])* $name:ident: $core:ident {
        $(#[$first_doc:meta])* $first:ident, $($(#[$variant_doc:meta])* $variant:ident,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub enum $name {
            $(#[$first_doc])*
            #[default]
            $first,
            $($(#[$variant_doc])* $variant,)*
        }

        impl From<$name> for $core {
            fn from(setting: $name) -> Self {
                match setting {
                    $name::$first => Self::$first,
                    $($name::$variant => Self::$variant,)*
                }
            }
        }
    )*};
}

core_enums! {
    /// [`Restart`], as data.
    RestartSetting: Restart {
        /// Only start errors count.
        Temporary,
        /// Failures of connections count, too.
        Transient,
    }

    /// [`ChildType`], as data.
    ChildSetting: ChildType {
        /// Workers.
        Worker,
        /// Supervisors.
        Supervisor,
    }

    /// [`ConnectionReports`], as data.
    ReportsSetting: ConnectionReports {
        /// Failures.
        Failures,
        /// Also lost clients and failed handshakes.
        Disconnects,
        /// The beginning and the end of every connection.
        All,
    }

    /// [`LastListener`], as data.
    LastListenerSetting: LastListener {
        /// The pool continues without a listener.
        Continue,
        /// The pool stops.
        Stop,
    }

    /// The kind of an unknown accept error in the table of a spec (A4).
    UnknownSetting: AcceptErrorKind {
        /// An error of resources, as without a table.
        Resources,
        /// An error of one connection.
        Connection,
        /// An error of the listener.
        Listener,
    }

    /// [`WaitingAcceptors`], as data: what happens to waiting acceptors when the spec is replaced (R1).
    WaitingSetting: WaitingAcceptors {
        /// They continue to wait.
        Keep,
        /// They terminate.
        Replace,
    }
}

/// [`AtLimit`], as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AtLimitSetting {
    /// Clients wait.
    #[default]
    Wait,
    /// Clients are refused.
    Refuse,
}

impl From<AtLimitSetting> for AtLimit {
    fn from(setting: AtLimitSetting) -> Self {
        match setting {
            AtLimitSetting::Wait => Self::Wait,
            AtLimitSetting::Refuse => Self::Refuse(Refusal::Close),
        }
    }
}

/// [`Shutdown`], as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownSetting {
    /// No stop phase.
    Kill,
    /// A stop phase of this many milliseconds.
    Within(u32),
    /// A stop phase without limit.
    Never,
}

/// One action, and how far the world then runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The seed of the scheduler after this step, so that removing other steps does not change its choices.
    pub schedule: u32,
    /// The action.
    pub action: Action,
    /// How far the world then runs.
    pub then: Then,
}

/// How far the world runs after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// At most this many polls, without a move of the clock.
    Polls(u8),
    /// Until no task is ready, without a move of the clock.
    Settle,
    /// Until no task is ready and this many milliseconds have passed, timer by timer.
    Pass(u32),
    /// The clock jumps by this many milliseconds over all timers that are due; then until no task is ready.
    Jump(u32),
}

/// An action on a pool, its clients or its runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Adds a listener.
    Listen {
        /// With this many acceptors.
        acceptors: u8,
        /// Bound to this address.
        bound: Bound,
    },
    /// Adds a listener on a runtime that is not the pool's.
    ListenOn {
        /// The runtime.
        runtime: u8,
        /// With this many acceptors.
        acceptors: u8,
    },
    /// Shuts down a runtime that is not the pool's, and replaces it by another.
    EndRuntime(u8),
    /// Closes a listener through the handle.
    Close(u8),
    /// Breaks the socket of a listener.
    Break(u8),
    /// Injects faults into the next calls of `accept`.
    Inject {
        /// The listener.
        listener: u8,
        /// The fault.
        fault: Fault,
        /// How many calls fail.
        times: u8,
    },
    /// Injects a fault into every call of `accept` from now on.
    InjectLasting {
        /// The listener.
        listener: u8,
        /// The fault.
        fault: Fault,
    },
    /// Ends the injection of a lasting fault.
    EndInjection(u8),
    /// Wakes the task in `accept` without a cause.
    SpuriousWake(u8),
    /// Clients connect to a listener.
    Connect {
        /// The listener.
        listener: u8,
        /// How many clients.
        clients: u8,
    },
    /// Many clients connect to a listener, and leave at once.
    ConnectAndLeave {
        /// The listener.
        listener: u8,
        /// How many clients.
        clients: u16,
    },
    /// The clock jumps, and clients connect to a listener before any due timer fires.
    ConnectLate {
        /// The listener.
        listener: u8,
        /// How many clients.
        clients: u8,
        /// How many milliseconds the clock jumps.
        after: u16,
    },
    /// Clients connect to a listener, and it is closed at once.
    ConnectAndClose {
        /// The listener.
        listener: u8,
        /// How many clients.
        clients: u16,
    },
    /// This many clients connect to each listener, and the pool is stopped at once.
    ConnectAndStop(u8),
    /// A client sends a command to its connection.
    Order {
        /// The client.
        client: u8,
        /// The command.
        order: Order,
    },
    /// A client reads the bytes that are there.
    Read(u8),
    /// A client closes its sending direction.
    HalfClose(u8),
    /// A client closes its connection.
    Leave(u8),
    /// A client resets its connection.
    Reset(u8),
    /// A connection is stopped by id.
    StopConnection(u8),
    /// A connection is killed by id.
    KillConnection(u8),
    /// A stream that is kept under a guard is dropped.
    DropGuard(u8),
    /// An acceptor is stopped by id.
    StopAcceptor(u8),
    /// An acceptor is killed by id.
    KillAcceptor(u8),
    /// A child that has ended is stopped and killed.
    StopUnknown,
    /// The spec is replaced.
    Reconfigure(SpecSetting, WaitingSetting),
    /// The limit on connections of the pool is changed; `None` is unlimited.
    Limit(Option<u32>),
    /// The limit on connections of a listener is changed.
    LimitListener {
        /// The listener.
        listener: u8,
        /// The limit; `None` is unlimited.
        limit: Option<u32>,
    },
    /// The spec is replaced by an invalid one, which fails.
    ReconfigureInvalid,
    /// The init function is run again.
    Reload(Reload),
    /// A listener is added without acceptors, which fails.
    ListenInvalid,
    /// The pool is stopped.
    Stop,
    /// The pool is killed.
    Kill,
    /// A task waits for the result.
    Join,
    /// The owner is dropped.
    DropOwner,
    /// One of several handles is dropped.
    DropHandle,
    /// Acceptors behave like this from now on.
    Behave(Behaviour),
    /// The runtime drops a task of the pool.
    DropTask(u8),
    /// The runtime no longer polls a task of a child.
    HoldTask(u8),
    /// The runtime no longer polls the task that delivers reports, as if an observer did not return.
    HoldReporter,
    /// The runtime polls all tasks again.
    ReleaseTasks,
}

/// The address to which a listener is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// The loopback address.
    Loopback,
    /// Any address.
    Wildcard,
    /// Any address of version 6.
    Wildcard6,
}

/// A fault of a call of `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// An error of one connection.
    Connection,
    /// Invalid input without an error code of the system: an error of one connection (A6).
    InvalidInput,
    /// Too many open files.
    Resources,
    /// An error that no classifier knows.
    Unknown,
    /// An error that only the listener can classify: an error of the listener (A6).
    RuntimeGone,
    /// An error of the listener.
    Listener,
    /// A panic.
    Panic,
}

/// A command of a client to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Return `Ok`.
    Return,
    /// Return the clean exit.
    ExitCleanly,
    /// Return an error.
    Fail,
    /// Panic.
    Panic,
    /// Keep a value whose drop panics.
    PanicWhenDropped,
    /// Take the stop signal, and return when it is set.
    Trap,
    /// Take the stop signal, and return 20 ms after it is set.
    TrapAndReturnLate,
    /// Take the stop signal, and ignore it.
    TrapAndIgnore,
    /// Return when the connection is draining.
    ReturnWhenDraining,
    /// Sleep for 3 ms.
    Sleep,
    /// Yield several times.
    Yield,
    /// Write more than there is room for.
    Flood,
    /// Stop the pool, from within.
    StopPool,
    /// Kill the pool, from within.
    KillPool,
    /// Stop this connection by its id.
    StopItself,
    /// Kill this connection by its id.
    KillItself,
    /// Close the listener of this connection.
    CloseListener,
    /// Take a guard, and drop it at the end of `serve`.
    TakeGuard,
    /// Return, and keep the stream under a guard.
    HandOver,
    /// Return, and move the stream to a task under a guard.
    HandOverToTask,
    /// Replace the addresses, in a handshake.
    ReplaceAddresses,
    /// Give the slot of the connection back.
    ReleaseSlot,
}

impl Order {
    /// The byte that encodes the command on a connection: the number of its variant.
    pub(crate) fn byte(self) -> u8 {
        self as u8
    }

    pub(crate) fn of_byte(byte: u8) -> Self {
        let variant: U32Deserializer<serde::de::value::Error> = u32::from(byte).into_deserializer();
        Self::deserialize(variant).unwrap_or(Self::Return)
    }
}

/// The result of the init function in a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reload {
    /// A spec.
    Use(SpecSetting, WaitingSetting),
    /// *Ignore*.
    #[default]
    Ignore,
    /// An error.
    Fail,
    /// A panic.
    Panic,
    /// An invalid spec.
    UseInvalid,
}

/// How acceptors behave without a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Behaviour {
    /// They accept, without a timeout.
    #[default]
    Normal,
    /// They accept with a short timeout, or one of zero.
    ShortTimeouts,
    /// Most of them ignore.
    Ignoring,
    /// Their `init` is slow, or never returns.
    SlowInit,
    /// Their `init` and `terminate` yield several times.
    Yielding,
    /// Their `init` sometimes fails or panics.
    FailingInit,
    /// Their `terminate` is slow, never returns, or panics.
    SlowTerminate,
    /// All of it, and states whose drop panics, and an observer that panics.
    All,
}

/// The teardown of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Teardown {
    /// The last pool is stopped; children that do not end by themselves are killed.
    Stop,
    /// The owner of the last pool is dropped.
    DropOwner,
    /// The runtime of the last pool is shut down.
    CloseRuntime,
}

impl SpecSetting {
    /// The defaults of a spec.
    pub const DEFAULT: Self = Self {
        restart: RestartSetting::Temporary,
        intensity: 1,
        period: 5_000,
        child_type: ChildSetting::Worker,
        lame_duck: 0,
        grace: Some(0),
        shutdown: ShutdownSetting::Within(5_000),
        kill_timeout: 1_000,
        unknown: UnknownSetting::Resources,
        reports: ReportsSetting::Failures,
        last_listener: LastListenerSetting::Continue,
        handshake_timeout: HANDSHAKE_TIMEOUT,
        max_connections: None,
        at_limit: AtLimitSetting::Wait,
    };

    pub(crate) fn period(&self) -> Duration {
        milliseconds(self.period)
    }

    pub(crate) fn lame_duck(&self) -> Duration {
        milliseconds(self.lame_duck)
    }

    pub(crate) fn grace(&self) -> Grace {
        match self.grace {
            Some(grace) => Grace::Within(milliseconds(grace)),
            None => Grace::Unlimited,
        }
    }

    pub(crate) fn shutdown(&self) -> Shutdown {
        match self.shutdown {
            ShutdownSetting::Kill => Shutdown::Kill,
            ShutdownSetting::Within(time) => Shutdown::Within(milliseconds(time)),
            ShutdownSetting::Never => Shutdown::Unlimited,
        }
    }

    pub(crate) fn kill_timeout(&self) -> Duration {
        milliseconds(self.kill_timeout)
    }

    pub(crate) fn max_connections(&self) -> Option<usize> {
        self.max_connections.map(|limit| limit as usize)
    }

    pub(crate) fn handshake_timeout(&self) -> Option<Duration> {
        self.handshake_timeout.map(milliseconds)
    }
}

pub(crate) fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(count.into())
}

impl fmt::Display for SpecSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<u32>| match time {
            Some(time) => format!("{time} ms"),
            None => "unlimited".to_owned(),
        };
        let (restart, intensity, period) = (self.restart, self.intensity, self.period);
        write!(f, "{restart:?}, intensity {intensity} within {period} ms")?;
        write!(
            f,
            ", lame duck {} ms, grace {}",
            self.lame_duck,
            time(self.grace)
        )?;
        match self.shutdown {
            ShutdownSetting::Kill => f.write_str(", shutdown kill")?,
            ShutdownSetting::Within(time) => write!(f, ", shutdown {time} ms")?,
            ShutdownSetting::Never => f.write_str(", shutdown unlimited")?,
        }
        write!(f, ", kill timeout {} ms", self.kill_timeout)?;
        if self.unknown != Self::DEFAULT.unknown {
            write!(f, ", unknown errors are of {:?}", self.unknown)?;
        }
        f.write_str(match self.reports {
            ReportsSetting::Failures => "",
            ReportsSetting::Disconnects => ", disconnects are reported",
            ReportsSetting::All => ", all connections are reported",
        })?;
        f.write_str(match self.last_listener {
            LastListenerSetting::Continue => "",
            LastListenerSetting::Stop => ", stops when the last listener fails",
        })?;
        if self.handshake_timeout != HANDSHAKE_TIMEOUT {
            write!(f, ", handshake timeout {}", time(self.handshake_timeout))?;
        }
        if let Some(limit) = self.max_connections {
            write!(f, ", at most {limit} connections")?;
        }
        f.write_str(match self.at_limit {
            AtLimitSetting::Wait => "",
            AtLimitSetting::Refuse => ", clients beyond a limit are refused",
        })?;
        f.write_str(match self.child_type {
            ChildSetting::Worker => "",
            ChildSetting::Supervisor => ", of supervisors",
        })
    }
}

fn limit_text(limit: Option<u32>) -> String {
    limit.map_or_else(|| "any number of".to_owned(), |limit| limit.to_string())
}

/// A number with its noun: `one` for 1, and `many` for any other number.
fn counted(number: impl Into<usize>, one: &str, many: &str) -> String {
    let number = number.into();
    format!("{number} {}", if number == 1 { one } else { many })
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn connecting(count: impl Into<usize>) -> String {
            counted(count, "client connects", "clients connect")
        }
        fn so_many(count: u8) -> String {
            counted(count, "acceptor", "acceptors")
        }
        let at = |index: &u8| format!("the listener at index {index}");
        let replaced = |waiting: &WaitingSetting| match waiting {
            WaitingSetting::Keep => "",
            WaitingSetting::Replace => ", and acceptors are replaced",
        };
        let text = match self {
            Self::Wait => "nothing happens".to_owned(),
            Self::Listen { acceptors, bound } => {
                format!("a listener is added: {bound:?}, {}", so_many(*acceptors))
            }
            Self::ListenOn { runtime, acceptors } => {
                let acceptors = so_many(*acceptors);
                format!("a listener is added on the runtime at index {runtime}: {acceptors}")
            }
            Self::EndRuntime(which) => format!("the runtime at index {which} is shut down"),
            Self::Close(which) => format!("{} is closed", at(which)),
            Self::Break(which) => format!("{} breaks", at(which)),
            Self::Inject {
                listener,
                fault,
                times,
            } => {
                let calls = counted(*times, "call of accept fails", "calls of accept fail");
                format!("on {} {calls}: {fault:?}", at(listener))
            }
            Self::InjectLasting { listener, fault } => format!(
                "calls of accept on {} fail from now on: {fault:?}",
                at(listener)
            ),
            Self::EndInjection(which) => {
                format!("calls of accept on {} no longer fail", at(which))
            }
            Self::SpuriousWake(which) => {
                format!(
                    "the task that accepts on {} is woken without a cause",
                    at(which)
                )
            }
            Self::Connect { listener, clients } => {
                format!("{} to {}", connecting(*clients), at(listener))
            }
            Self::ConnectAndLeave { listener, clients } => {
                format!("{} to {}, and leave", connecting(*clients), at(listener))
            }
            Self::ConnectLate {
                listener,
                clients,
                after,
            } => {
                let clients = connecting(*clients);
                format!(
                    "the clock jumps {after} ms, and {clients} to {}",
                    at(listener)
                )
            }
            Self::ConnectAndClose { listener, clients } => format!(
                "{} to {}, which is closed",
                connecting(*clients),
                at(listener)
            ),
            Self::ConnectAndStop(clients) => {
                format!(
                    "{} to each listener, and the pool is stopped",
                    connecting(*clients)
                )
            }
            Self::Order { client, order } => {
                format!("the client at index {client} commands {order:?}")
            }
            Self::Read(which) => format!("the client at index {which} reads"),
            Self::HalfClose(which) => format!("the client at index {which} half-closes"),
            Self::Leave(which) => format!("the client at index {which} leaves"),
            Self::Reset(which) => format!("the client at index {which} resets"),
            Self::StopConnection(which) => {
                format!("the connection at index {which} is stopped by id")
            }
            Self::KillConnection(which) => {
                format!("the connection at index {which} is killed by id")
            }
            Self::DropGuard(which) => format!("the kept stream at index {which} is dropped"),
            Self::StopAcceptor(which) => format!("the acceptor at index {which} is stopped by id"),
            Self::Limit(limit) => format!("limit of the pool: {} connections", limit_text(*limit)),
            Self::LimitListener { listener, limit } => format!(
                "limit of the listener at index {listener}: {} connections",
                limit_text(*limit)
            ),
            Self::KillAcceptor(which) => format!("the acceptor at index {which} is killed by id"),
            Self::StopUnknown => "a child that has ended is stopped and killed".to_owned(),
            Self::Reconfigure(spec, waiting) => {
                format!("the spec is replaced{}: {spec}", replaced(waiting))
            }
            Self::ReconfigureInvalid => "the spec is replaced by an invalid one".to_owned(),
            Self::Reload(Reload::Use(spec, waiting)) => {
                format!("reload{}: {spec}", replaced(waiting))
            }
            Self::Reload(reload) => format!("reload: {reload:?}"),
            Self::ListenInvalid => "a listener is added without acceptors".to_owned(),
            Self::Stop => "the pool is stopped".to_owned(),
            Self::Kill => "the pool is killed".to_owned(),
            Self::Join => "a task waits for the result".to_owned(),
            Self::DropOwner => "the owner is dropped".to_owned(),
            Self::DropHandle => "a handle is dropped".to_owned(),
            Self::Behave(behaviour) => format!("the behaviour of acceptors is {behaviour:?}"),
            Self::DropTask(which) => format!("the runtime drops the task at index {which}"),
            Self::HoldTask(which) => {
                format!("the runtime no longer polls the task at index {which}")
            }
            Self::HoldReporter => "an observer does not return".to_owned(),
            Self::ReleaseTasks => "the runtime polls all tasks again".to_owned(),
        };
        f.write_str(&text)
    }
}

impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Then::Polls(polls) => f.write_str(&counted(*polls, "poll", "polls")),
            Then::Settle => f.write_str("until no task is ready"),
            Then::Pass(time) => write!(f, "{time} ms pass"),
            Then::Jump(time) => write!(f, "the clock jumps {time} ms"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.action, self.then)
    }
}
