//! Lives of a pool, as data: how it is set up, and what befalls it step by step.
//!
//! A scenario is made of a seed ([`Scenario::of_seed`]), played in a simulated
//! world and held against a model there ([`play`]). It is plain data, so that
//! one that fails can be made smaller, printed, kept in a file and played again
//! to the letter. Whatever a step names by number is counted round, so that a
//! scenario from which steps were taken still means something.

mod book;
mod cast;
pub mod command_line;
mod event;
mod generate;
mod graceful_stop;
mod greeting;
mod handle;
mod json;
mod model;
mod picture;
mod play;
mod shrink;
mod timeline;

use std::fmt;
use std::time::Duration;

use acceptor_core::{
    AcceptErrorKind, ChildType, ConnectionReports, Grace, LastListener, Restart, Shutdown,
    WaitingAcceptors,
};
use serde::{Deserialize, Serialize};

pub use self::event::{Begun, Bomb, Call, Event, Farewell, Holder, Moment, Return, Shaken};
pub use self::generate::STEPS;
pub use self::graceful_stop::graceful_stop;
pub use self::json::ScenarioError;
pub use self::picture::picture;
pub use self::play::{Failure, Played, play, tell, watch};
pub use self::shrink::{PLAYS, Shrunk, shrink};
pub use self::timeline::{Finding, Origin};

/// A life of one pool after the other, in one simulated world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The seed that it was made of; what acceptors do by chance depends on it.
    pub seed: u64,
    /// How pools are started, and how large the world is.
    pub setting: Setting,
    /// What happens, in this order.
    pub steps: Vec<Step>,
    /// How it ends.
    pub finale: Finale,
}

/// How pools are started, and how large the world is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What a pool is started with.
    pub spec: SpecSetting,
    /// How a pool is started.
    pub start: Start,
    /// The stage of the listeners between `accept` and `serve`.
    #[serde(default, skip_serializing_if = "StageSetting::is_none")]
    pub stage: StageSetting,
    /// How many connections a listener keeps for whoever accepts.
    pub backlog: u8,
    /// How many bytes a stream keeps for whoever reads.
    pub buffer: u8,
    /// One poll in so many is of a task that nobody woke; 0: none.
    pub spurious: u8,
}

/// The stage of a listener between `accept` and `serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StageSetting {
    /// Nothing.
    #[default]
    None,
    /// It has a handshake, in which clients give orders.
    Handshake,
}

impl StageSetting {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// How a pool is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With a spec.
    Spec,
    /// With an init function, which can be run again.
    InitFunction,
}

/// What a spec says; times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecSetting {
    /// What counts.
    pub restart: RestartSetting,
    /// How many failures are tolerated.
    pub intensity: u32,
    /// Within this time.
    pub period: u32,
    /// What the children are.
    pub child_type: ChildSetting,
    /// How long a pool that stops still accepts.
    pub lame_duck: u32,
    /// How long connections are then left alone; `None` for ever.
    // Otherwise one that is left out would be for ever, too.
    #[serde(deserialize_with = "Option::deserialize")]
    pub grace: Option<u32>,
    /// How long they then have.
    pub shutdown: ShutdownSetting,
    /// How long the kill waits for who does not suspend.
    pub patience: u32,
    /// What an accept error is that nobody knows.
    #[serde(default, skip_serializing_if = "UnknownSetting::is_as_without_a_table")]
    pub unknown: UnknownSetting,
    /// Which connections are reported.
    #[serde(default, skip_serializing_if = "ReportsSetting::is_default")]
    pub reports: ReportsSetting,
    /// What happens when the last listener has failed.
    #[serde(default, skip_serializing_if = "LastListenerSetting::is_default")]
    pub last_listener: LastListenerSetting,
    /// How long a handshake may take; `None` without limit.
    #[serde(
        default = "handshake_timeout",
        skip_serializing_if = "is_handshake_timeout"
    )]
    pub handshake_timeout: Option<u32>,
}

/// The default of a spec, in milliseconds.
const HANDSHAKE_TIMEOUT: Option<u32> = Some(10_000);

fn handshake_timeout() -> Option<u32> {
    HANDSHAKE_TIMEOUT
}

fn is_handshake_timeout(time: &Option<u32>) -> bool {
    *time == HANDSHAKE_TIMEOUT
}

/// [`ConnectionReports`], as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ReportsSetting {
    /// Those that fail.
    #[default]
    Failures,
    /// Also those whose client is gone, or whose handshake failed.
    Disconnects,
    /// The beginning and the end of each.
    All,
}

impl ReportsSetting {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// [`LastListener`], as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LastListenerSetting {
    /// The pool goes on without one.
    #[default]
    Continue,
    /// The pool stops.
    Stop,
}

impl LastListenerSetting {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What its table makes of an accept error that nobody knows (A4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UnknownSetting {
    /// One of resources, as without a table.
    #[default]
    Resources,
    /// One of a connection.
    Connection,
    /// One of the listener.
    Listener,
}

impl UnknownSetting {
    /// Then it is not written, so that what was kept before there was this setting stays as it is.
    fn is_as_without_a_table(&self) -> bool {
        *self == UnknownSetting::Resources
    }

    pub(crate) fn kind(self) -> AcceptErrorKind {
        match self {
            UnknownSetting::Resources => AcceptErrorKind::Resources,
            UnknownSetting::Connection => AcceptErrorKind::Connection,
            UnknownSetting::Listener => AcceptErrorKind::Listener,
        }
    }
}

/// [`Restart`], as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartSetting {
    /// Only start errors count.
    Temporary,
    /// Failures of connections count, too.
    Transient,
}

/// [`ChildType`], as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChildSetting {
    /// Workers.
    Worker,
    /// Supervisors.
    Supervisor,
}

/// [`Shutdown`], as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownSetting {
    /// At once.
    Kill,
    /// After so many milliseconds.
    Within(u32),
    /// Never.
    Never,
}

/// One thing that happens, and how far the world then goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The seed of the choices of the scheduler after this step: taking other steps away changes none of them.
    pub schedule: u32,
    /// What happens.
    pub action: Action,
    /// How far the world then goes on.
    pub then: Then,
}

/// How far the world goes on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// So many polls at the most; the clock stands.
    Polls(u8),
    /// Until nothing is ready; the clock stands.
    Settle,
    /// Until nothing is ready, and so many milliseconds have passed, timer by timer.
    Pass(u32),
    /// The clock jumps by so many milliseconds, over all timers that are due by then; then until nothing is ready.
    Jump(u32),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Action {
    /// Nothing but time.
    Wait,
    /// A listener is added.
    Listen {
        /// With so many acceptors.
        acceptors: u8,
        /// Bound to what.
        bound: Bound,
    },
    /// A listener is added on a runtime that is not the pool's.
    ListenOn {
        /// On which.
        runtime: u8,
        /// With so many acceptors.
        acceptors: u8,
    },
    /// A runtime that is not the pool's is shut down, and another takes its place.
    EndRuntime(u8),
    /// A listener is closed through the handle.
    Close(u8),
    /// A listener's socket is broken from now on.
    Break(u8),
    /// Calls of `accept` on a listener go wrong.
    Fault {
        /// Which listener's.
        listener: u8,
        /// How.
        fault: Fault,
        /// How many.
        times: u8,
    },
    /// From now on each call of `accept` on a listener goes wrong.
    FaultLasts {
        /// Which listener's.
        listener: u8,
        /// How.
        fault: Fault,
    },
    /// Calls of `accept` on a listener no longer go wrong.
    FaultEnds(u8),
    /// The task in `accept` is woken to no effect.
    Stir(u8),
    /// Clients connect to a listener.
    Connect {
        /// To which.
        listener: u8,
        /// How many.
        clients: u8,
    },
    /// Many clients connect to a listener, and leave at once.
    Crowd {
        /// To which.
        listener: u8,
        /// How many.
        clients: u16,
    },
    /// The clock jumps, and before anything that is due by then can happen, clients connect to a listener.
    ConnectLate {
        /// To which.
        listener: u8,
        /// How many.
        clients: u8,
        /// How many milliseconds the clock jumps.
        after: u16,
    },
    /// Clients connect to a listener, and it is closed at once.
    CloseCrowded {
        /// To which.
        listener: u8,
        /// How many.
        clients: u16,
    },
    /// Clients connect to each listener, and the pool is to stop at once.
    StopCrowded(u8),
    /// A client tells its connection what to do.
    Order {
        /// Which client.
        client: u8,
        /// What.
        order: Order,
    },
    /// A client reads what is there for it.
    Read(u8),
    /// A client ends what it sends.
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
    /// A child is stopped, and one is killed, that is not there any more.
    StopUnknown,
    /// The spec is replaced.
    Reconfigure(SpecSetting, WaitingSetting),
    /// The spec is to be replaced by one that is not allowed.
    ReconfigureBadly,
    /// The init function is run again.
    Reload(Reload),
    /// A listener is to be added with no acceptors.
    ListenBadly,
    /// The pool is to stop.
    Stop,
    /// The pool is to end at once.
    Kill,
    /// Somebody waits for the result.
    Join,
    /// The owner is dropped.
    DropOwner,
    /// A handle is dropped, of more than one.
    DropHandle,
    /// From now on acceptors do this.
    Weather(Weather),
    /// The runtime drops a task of the pool.
    DropTask(u8),
    /// The runtime polls a task of a child no more.
    HoldTask(u8),
    /// The runtime polls the task that delivers reports no more, as if an observer did not return.
    HoldReporter,
    /// The runtime polls all tasks again.
    ReleaseTasks,
}

/// What a listener is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// The loopback.
    Loopback,
    /// Any address.
    Wildcard,
    /// Any address of version 6.
    Wildcard6,
}

/// How a call of `accept` goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// An error of one connection.
    Connection,
    /// Invalid input without a number of the system: of one connection (A6).
    InvalidInput,
    /// Too many open files.
    Resources,
    /// An error that is in no table.
    Unknown,
    /// An error that only the listener can classify: of the listener (A6).
    RuntimeGone,
    /// An error of the listener.
    Listener,
    /// A panic.
    Panic,
}

/// What a connection is told to do.
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
    /// Keep something that panics when it is dropped.
    PanicWhenDropped,
    /// Take the stop signal, and return when it comes.
    Trap,
    /// Take the stop signal, and return 20 ms after it came.
    TrapAndLeaveLate,
    /// Take the stop signal, and take no notice of it.
    TrapAndStay,
    /// Return when the connection is draining.
    ReturnWhenDraining,
    /// Do nothing for 3 ms.
    Sleep,
    /// Be pending some times, and ready at once again.
    Yield,
    /// Write more than there is room for.
    Flood,
    /// Stop the pool, from within.
    StopPool,
    /// Kill the pool, from within.
    KillPool,
    /// Stop itself by its id.
    StopItself,
    /// Kill itself by its id.
    KillItself,
    /// Close its own listener.
    CloseListener,
    /// Take a guard, and drop it at the end of `serve`.
    TakeGuard,
    /// Return, and leave the stream under a guard that is kept.
    HandOn,
    /// Return, and leave the stream to a task under a guard.
    HandOnToTask,
    /// Replace the addresses, in a handshake.
    Readdress,
}

/// What becomes of the acceptors that wait when the spec is replaced (R1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitingSetting {
    /// They wait on.
    Keep,
    /// They terminate.
    Replace,
}

impl WaitingSetting {
    pub(crate) fn waiting(self) -> WaitingAcceptors {
        match self {
            WaitingSetting::Keep => WaitingAcceptors::Keep,
            WaitingSetting::Replace => WaitingAcceptors::Replace,
        }
    }
}

/// What the init function answers when it is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reload {
    /// This spec.
    Use(SpecSetting, WaitingSetting),
    /// *Ignore*.
    Ignore,
    /// An error.
    Fail,
    /// A panic.
    Panic,
    /// A spec that is not allowed.
    UseBadly,
}

/// What acceptors do of themselves: the more the fouler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weather {
    /// They accept, for ever.
    Fair,
    /// They accept for a while, be it none.
    Impatient,
    /// They ignore, more often than not.
    Reluctant,
    /// Their `init` takes its time, or never ends.
    Slow,
    /// Their `init` and `terminate` give way to other tasks, several times.
    Yielding,
    /// Their `init` fails or panics now and then.
    Failing,
    /// Their `terminate` takes its time, or for ever, or panics.
    Clinging,
    /// All of it, states whose `Drop` panics, and an observer that panics.
    Foul,
}

/// How a scenario ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finale {
    /// The last pool is stopped, and whatever does not end by itself is killed.
    Stop,
    /// The last pool's owner is dropped.
    DropOwner,
    /// The runtime is shut down under the last pool.
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
        patience: 1_000,
        unknown: UnknownSetting::Resources,
        reports: ReportsSetting::Failures,
        last_listener: LastListenerSetting::Continue,
        handshake_timeout: HANDSHAKE_TIMEOUT,
    };

    pub(crate) fn restart(&self) -> Restart {
        match self.restart {
            RestartSetting::Temporary => Restart::Temporary,
            RestartSetting::Transient => Restart::Transient,
        }
    }

    pub(crate) fn period(&self) -> Duration {
        milliseconds(self.period)
    }

    pub(crate) fn child_type(&self) -> ChildType {
        match self.child_type {
            ChildSetting::Worker => ChildType::Worker,
            ChildSetting::Supervisor => ChildType::Supervisor,
        }
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

    pub(crate) fn patience(&self) -> Duration {
        milliseconds(self.patience)
    }

    pub(crate) fn reports(&self) -> ConnectionReports {
        match self.reports {
            ReportsSetting::Failures => ConnectionReports::Failures,
            ReportsSetting::Disconnects => ConnectionReports::Disconnects,
            ReportsSetting::All => ConnectionReports::All,
        }
    }

    pub(crate) fn handshake_timeout(&self) -> Option<Duration> {
        self.handshake_timeout.map(milliseconds)
    }

    pub(crate) fn last_listener(&self) -> LastListener {
        match self.last_listener {
            LastListenerSetting::Continue => LastListener::Continue,
            LastListenerSetting::Stop => LastListener::Stop,
        }
    }
}

pub(crate) fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(count.into())
}

impl fmt::Display for SpecSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, intensity {} within {} ms, lame duck {} ms, grace ",
            self.restart, self.intensity, self.period, self.lame_duck
        )?;
        match self.grace {
            Some(grace) => write!(f, "{grace} ms")?,
            None => f.write_str("for ever")?,
        }
        match self.shutdown {
            ShutdownSetting::Kill => f.write_str(", shutdown kill")?,
            ShutdownSetting::Within(time) => write!(f, ", shutdown {time} ms")?,
            ShutdownSetting::Never => f.write_str(", shutdown never")?,
        }
        write!(f, ", patience {} ms", self.patience)?;
        match self.unknown {
            UnknownSetting::Resources => {}
            other => write!(f, ", unknown errors are of {other:?}")?,
        }
        match self.reports {
            ReportsSetting::Failures => {}
            ReportsSetting::Disconnects => f.write_str(", disconnects are reported")?,
            ReportsSetting::All => f.write_str(", all connections are reported")?,
        }
        match self.last_listener {
            LastListenerSetting::Continue => {}
            LastListenerSetting::Stop => f.write_str(", stops when the last listener fails")?,
        }
        match self.handshake_timeout {
            HANDSHAKE_TIMEOUT => {}
            Some(time) => write!(f, ", handshake timeout {time} ms")?,
            None => f.write_str(", handshake timeout never")?,
        }
        match self.child_type {
            ChildSetting::Worker => Ok(()),
            ChildSetting::Supervisor => f.write_str(", of supervisors"),
        }
    }
}

/// A number with the word for what is counted: for one of it, and for any other number.
fn counted(number: impl Into<usize>, one: &str, many: &str) -> String {
    match number.into() {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Wait => f.write_str("nothing happens"),
            Action::Listen { acceptors, bound } => {
                let acceptors = counted(*acceptors, "acceptor", "acceptors");
                write!(f, "a listener is added: {bound:?}, {acceptors}")
            }
            Action::ListenOn { runtime, acceptors } => {
                let acceptors = counted(*acceptors, "acceptor", "acceptors");
                write!(
                    f,
                    "a listener is added on the runtime at place {runtime}: {acceptors}"
                )
            }
            Action::EndRuntime(runtime) => {
                write!(f, "the runtime at place {runtime} is shut down")
            }
            Action::Close(listener) => write!(f, "the listener at place {listener} is closed"),
            Action::Break(listener) => write!(f, "the listener at place {listener} breaks"),
            Action::Fault {
                listener,
                fault,
                times,
            } => {
                let calls = counted(*times, "call of accept goes", "calls of accept go");
                write!(
                    f,
                    "on the listener at place {listener} {calls} wrong: {fault:?}"
                )
            }
            Action::FaultLasts { listener, fault } => write!(
                f,
                "from now on calls of accept on the listener at place {listener} go wrong: {fault:?}"
            ),
            Action::FaultEnds(listener) => write!(
                f,
                "calls of accept on the listener at place {listener} go wrong no longer"
            ),
            Action::Stir(listener) => write!(
                f,
                "the task that accepts on the listener at place {listener} is woken to no effect"
            ),
            Action::Connect { listener, clients } => {
                let clients = counted(*clients, "client connects", "clients connect");
                write!(f, "{clients} to the listener at place {listener}")
            }
            Action::Crowd { listener, clients } => {
                let clients = counted(*clients, "client connects", "clients connect");
                write!(
                    f,
                    "{clients} to the listener at place {listener}, and leave"
                )
            }
            Action::ConnectLate {
                listener,
                clients,
                after,
            } => {
                let clients = counted(*clients, "client connects", "clients connect");
                write!(
                    f,
                    "the clock jumps {after} ms, and {clients} to the listener at place {listener}"
                )
            }
            Action::CloseCrowded { listener, clients } => {
                let clients = counted(*clients, "client connects", "clients connect");
                write!(
                    f,
                    "{clients} to the listener at place {listener}, which is closed"
                )
            }
            Action::StopCrowded(clients) => {
                let clients = counted(*clients, "client connects", "clients connect");
                write!(f, "{clients} to each listener, and the pool is to stop")
            }
            Action::Order { client, order } => {
                write!(f, "the client at place {client} orders {order:?}")
            }
            Action::Read(client) => write!(f, "the client at place {client} reads"),
            Action::HalfClose(client) => {
                write!(f, "the client at place {client} ends what it sends")
            }
            Action::Leave(client) => write!(f, "the client at place {client} leaves"),
            Action::Reset(client) => write!(f, "the client at place {client} resets"),
            Action::StopConnection(which) => {
                write!(f, "the connection at place {which} is stopped by id")
            }
            Action::KillConnection(which) => {
                write!(f, "the connection at place {which} is killed by id")
            }
            Action::DropGuard(which) => {
                write!(f, "the kept stream at place {which} is dropped")
            }
            Action::StopAcceptor(which) => {
                write!(f, "the acceptor at place {which} is stopped by id")
            }
            Action::KillAcceptor(which) => {
                write!(f, "the acceptor at place {which} is killed by id")
            }
            Action::StopUnknown => f.write_str("a child that is gone is stopped, and killed"),
            Action::Reconfigure(spec, WaitingSetting::Keep) => {
                write!(f, "the spec becomes: {spec}")
            }
            Action::Reconfigure(spec, WaitingSetting::Replace) => {
                write!(f, "the spec becomes, and acceptors are replaced: {spec}")
            }
            Action::ReconfigureBadly => f.write_str("the spec is to become a bad one"),
            Action::Reload(Reload::Use(spec, WaitingSetting::Keep)) => write!(f, "reload: {spec}"),
            Action::Reload(Reload::Use(spec, WaitingSetting::Replace)) => {
                write!(f, "reload, and acceptors are replaced: {spec}")
            }
            Action::Reload(reload) => write!(f, "reload: {reload:?}"),
            Action::ListenBadly => f.write_str("a listener is to be added with no acceptors"),
            Action::Stop => f.write_str("the pool is to stop"),
            Action::Kill => f.write_str("the pool is to end at once"),
            Action::Join => f.write_str("somebody waits for the result"),
            Action::DropOwner => f.write_str("the owner is dropped"),
            Action::DropHandle => f.write_str("a handle is dropped"),
            Action::Weather(weather) => write!(f, "the weather is {weather:?}"),
            Action::DropTask(task) => write!(f, "the runtime drops the task at place {task}"),
            Action::HoldTask(task) => write!(
                f,
                "the runtime withholds the polls of the task at place {task}"
            ),
            Action::HoldReporter => f.write_str("an observer does not return"),
            Action::ReleaseTasks => f.write_str("the runtime polls all tasks again"),
        }
    }
}

impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Then::Polls(polls) => f.write_str(&counted(*polls, "poll", "polls")),
            Then::Settle => f.write_str("until nothing is ready"),
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
