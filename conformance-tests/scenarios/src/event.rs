//! What was seen while a scenario was played, in the order in which it happened.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use acceptor_core::{ChildId, ListenerId, Phase, PoolState, Report, StopReport, Terminate};

use super::{Bound, SpecSetting, Step, counted};
use acceptor_simulation::Happened;

/// One thing that was seen, and when.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Moment {
    /// The time since the world began.
    pub at: Duration,
    /// What was seen.
    pub event: Event,
}

/// What was seen: by the callbacks of the acceptor and the observer, by the network, or by who plays the scenario.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A pool was started, the so-manieth in this world.
    Started(usize, SpecSetting),
    /// This step was taken, the so-manieth of the scenario.
    Step(usize, Step),
    /// The finale began.
    Finale,
    /// The pool's state is another than before.
    State(PoolState),
    /// A listener was added.
    Listening {
        /// Its id.
        listener: ListenerId,
        /// Its address.
        address: SocketAddr,
        /// Bound to what.
        bound: Bound,
        /// Its acceptors.
        acceptors: usize,
    },
    /// A client connected to a listener.
    Connected {
        /// The client.
        peer: SocketAddr,
        /// The listener's address.
        listener: SocketAddr,
    },
    /// A client found nobody who listens.
    Refused {
        /// The listener's address.
        listener: SocketAddr,
    },
    /// `init` was called.
    InitBegan {
        /// Whose.
        child: ChildId,
        /// On which listener.
        listener: ListenerId,
        /// The generation of the spec that the acceptor is of.
        generation: u32,
    },
    /// `init` is over.
    InitEnded {
        /// Whose.
        child: ChildId,
        /// What came of it.
        how: Begun,
    },
    /// `serve` was polled for the first time.
    ServeBegan {
        /// Whose.
        child: ChildId,
        /// Of which listener.
        listener: ListenerId,
        /// With which client.
        peer: SocketAddr,
        /// At which end.
        local: SocketAddr,
    },
    /// A handshake was polled for the first time.
    HandshakeBegan {
        /// Whose.
        child: ChildId,
    },
    /// A handshake replaces the addresses of its connection.
    Readdressed {
        /// Whose.
        child: ChildId,
        /// Its peer's from now on.
        peer: SocketAddr,
        /// Its own.
        local: SocketAddr,
    },
    /// A handshake is over.
    HandshakeEnded {
        /// Whose.
        child: ChildId,
        /// How.
        how: Shaken,
    },
    /// `serve` is about to return, and the stream lives on under a guard.
    HandedOn {
        /// Whose.
        child: ChildId,
        /// Where it lives on.
        holder: Holder,
    },
    /// The task under the guard of a connection is about to panic.
    SubtaskPanicked {
        /// Whose.
        child: ChildId,
    },
    /// A connection took the stop signal.
    Trapped {
        /// Which.
        child: ChildId,
    },
    /// A connection will panic when it is dropped.
    Armed {
        /// Which.
        child: ChildId,
    },
    /// What such a connection kept was dropped, and panics.
    Exploded {
        /// Which.
        child: ChildId,
    },
    /// `serve` returned, or is about to panic.
    ServeReturned {
        /// Whose.
        child: ChildId,
        /// How.
        how: Return,
    },
    /// `terminate` was polled for the first time.
    TerminateBegan {
        /// Whose.
        child: ChildId,
        /// Why.
        reason: Terminate,
    },
    /// `terminate` is over.
    TerminateEnded {
        /// Whose.
        child: ChildId,
        /// How.
        how: Farewell,
    },
    /// The state of an acceptor was dropped.
    StateDropped {
        /// Whose.
        child: ChildId,
        /// Whether the drop panics.
        bomb: Bomb,
    },
    /// Something happened to a socket of the pool's.
    Network(Happened),
    /// A callback called the pool.
    Called {
        /// Whose, or who it was told of.
        child: ChildId,
        /// That one's listener.
        listener: ListenerId,
        /// What it called.
        call: Call,
    },
    /// An observer got a report.
    Reported {
        /// The report.
        report: Report<SocketAddr>,
        /// The generation of the spec that the observer is of.
        observer: u32,
    },
    /// Whoever waited for a listener to close was told.
    CloseReturned(ListenerId),
    /// Whoever waited for the result was told.
    Joined(Box<StopReport>),
}

/// A word for the sort of a report.
fn reported(event: &acceptor_core::Event<SocketAddr>) -> &'static str {
    use acceptor_core::Event as Reported;
    match event {
        Reported::ConnectionBegan { .. } => "reports of a beginning",
        Reported::ConnectionEnded { .. } => "reports of an end",
        Reported::AcceptPaused { .. } => "reports of a pause",
        Reported::Disconnected { .. } => "reports of clients that are gone",
        Reported::HandshakeFailed { .. } => "reports of handshakes",
        Reported::ListenerFailed { .. } => "reports of a listener",
        Reported::ReportsLost { .. } => "reports of losses",
        Reported::Stuck { .. } => "reports of stuck children",
        Reported::KilledWhileStopping { .. } => "reports of kills",
        Reported::PoolStopped { .. } => "reports of a stop",
        _ => "reports of a failure",
    }
}

impl Event {
    /// Whether it is of use to the model alone: a trace would be full of it.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self, Event::Network(Happened::Empty { .. }))
    }
}

/// The outcome of an `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The acceptor waits, this long if it said so.
    Waits(Option<Duration>),
    /// *Ignore*.
    Ignored,
    /// An error.
    Failed,
    /// A panic.
    Panicked,
    /// It was dropped before it was through.
    Dropped,
}

/// How a handshake ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shaken {
    /// It is through.
    Through,
    /// It failed on order.
    Failed,
    /// Its client is gone, with this error.
    Disconnected(String),
    /// It panicked.
    Panicked,
    /// It was dropped before it was through.
    Dropped,
}

/// Where the stream of a connection lives on whose `serve` has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// It is kept, and takes no notice of anything.
    Kept,
    /// A task runs under the guard.
    Subtask,
}

/// How `serve` came to its end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// It returned `Ok`.
    Normal,
    /// It returned the clean exit.
    Clean,
    /// It returned an error.
    Error,
    /// It returned an error that means that its client is gone.
    Disconnected,
    /// It panicked.
    Panic,
}

/// How `terminate` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It returned.
    Returned,
    /// It panicked.
    Panicked,
    /// It was dropped before it was through.
    Dropped,
}

/// Whether a `Drop` panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bomb {
    /// It does not.
    None,
    /// It does.
    Armed,
}

/// What a callback called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `stop`.
    Stop,
    /// `kill`.
    Kill,
    /// `stop_child`, with its own id.
    StopItself,
    /// `kill_child`, with its own id.
    KillItself,
    /// `close_listener`, with its own listener's id.
    CloseListener,
}

impl Event {
    /// A word for its sort, under which it is counted.
    pub fn sort(&self) -> &'static str {
        match self {
            Event::Started(..) => "pools started",
            Event::Step(..) => "steps",
            Event::Finale => "finales",
            Event::State(PoolState::Running) => "pools running",
            Event::State(PoolState::Stopping(phase)) => match phase {
                Phase::LameDuck => "lame ducks",
                Phase::Grace => "graces",
                Phase::Stop => "stop phases",
                Phase::Kill => "kills of pools",
            },
            Event::State(_) => "pools stopped",
            Event::Listening { .. } => "listeners added",
            Event::Connected { .. } => "clients connected",
            Event::Refused { .. } => "clients refused",
            Event::InitBegan { .. } => "inits",
            Event::InitEnded { how, .. } => match how {
                Begun::Waits(None) => "acceptors that wait for ever",
                Begun::Waits(Some(_)) => "acceptors that wait for a while",
                Begun::Ignored => "inits that ignore",
                Begun::Failed => "inits that fail",
                Begun::Panicked => "inits that panic",
                Begun::Dropped => "inits dropped",
            },
            Event::ServeBegan { .. } => "connections served",
            Event::HandshakeBegan { .. } => "handshakes",
            Event::Readdressed { .. } => "addresses replaced",
            Event::HandshakeEnded { how, .. } => match how {
                Shaken::Through => "handshakes that are through",
                Shaken::Failed => "handshakes that fail",
                Shaken::Disconnected(_) => "handshakes whose client is gone",
                Shaken::Panicked => "handshakes that panic",
                Shaken::Dropped => "handshakes dropped",
            },
            Event::HandedOn { holder, .. } => match holder {
                Holder::Kept => "streams kept under a guard",
                Holder::Subtask => "tasks under a guard",
            },
            Event::SubtaskPanicked { .. } => "panics under a guard",
            Event::Trapped { .. } => "stop signals taken",
            Event::Armed { .. } => "bombs in connections",
            Event::Exploded { .. } => "panics in the drop of a connection",
            Event::ServeReturned { how, .. } => match how {
                Return::Normal => "connections that return",
                Return::Clean => "connections that exit cleanly",
                Return::Error => "connections that fail",
                Return::Disconnected => "connections whose client is gone",
                Return::Panic => "connections that panic",
            },
            Event::TerminateBegan { reason, .. } => match reason {
                Terminate::Timeout => "terminates for a timeout",
                Terminate::Closed => "terminates for a closed listener",
                Terminate::Io(_) => "terminates for a failed listener",
                _ => "terminates for a stop",
            },
            Event::TerminateEnded { how, .. } => match how {
                Farewell::Returned => "terminates that return",
                Farewell::Panicked => "terminates that panic",
                Farewell::Dropped => "terminates dropped",
            },
            Event::StateDropped { bomb, .. } => match bomb {
                Bomb::None => "states dropped",
                Bomb::Armed => "panics in the drop of a state",
            },
            Event::Network(happened) => match happened {
                Happened::Accepted { .. } => "connections accepted",
                Happened::Dropped { .. } => "streams dropped",
                Happened::Failed { .. } => "accepts that fail",
                Happened::Empty { .. } => "accepts that find nothing",
                Happened::Closed { .. } => "sockets closed",
            },
            Event::Called { .. } => "calls from within",
            Event::Reported { report, .. } => reported(&report.event),
            Event::CloseReturned(_) => "closes awaited",
            Event::Joined(_) => "results awaited",
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12.3?}  {}", self.at, self.event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Started(number, spec) => write!(f, "pool {number} is started: {spec}"),
            Event::Step(number, step) => write!(f, "step {number}: {step}"),
            Event::Finale => f.write_str("finale"),
            Event::State(state) => write!(f, "  the pool is {state}"),
            Event::Listening {
                listener,
                address,
                bound,
                acceptors,
            } => {
                let acceptors = counted(*acceptors, "acceptor", "acceptors");
                write!(
                    f,
                    "  listener {listener} at {address} ({bound:?}), {acceptors}"
                )
            }
            Event::Connected { peer, listener } => write!(f, "  {peer} connects to {listener}"),
            Event::Refused { listener } => write!(f, "  nobody listens at {listener}"),
            Event::InitBegan {
                child,
                listener,
                generation,
            } => write!(
                f,
                "  acceptor {child} of listener {listener}: init, generation {generation}"
            ),
            Event::InitEnded { child, how } => match how {
                Begun::Waits(None) => write!(f, "  acceptor {child} waits"),
                Begun::Waits(Some(time)) => write!(f, "  acceptor {child} waits {time:?}"),
                how => write!(f, "  acceptor {child}: init {how:?}"),
            },
            Event::ServeBegan {
                child,
                listener,
                peer,
                local,
            } => write!(
                f,
                "  connection {child}: serve, {peer} to {local}, listener {listener}"
            ),
            Event::HandshakeBegan { child } => {
                write!(f, "  connection {child}: its handshake begins")
            }
            Event::Readdressed { child, peer, local } => {
                write!(f, "  connection {child} is now one from {peer} to {local}")
            }
            Event::HandshakeEnded { child, how } => {
                write!(f, "  connection {child}: its handshake is over, {how:?}")
            }
            Event::HandedOn { child, holder } => {
                write!(f, "  connection {child} hands its stream on: {holder:?}")
            }
            Event::SubtaskPanicked { child } => {
                write!(f, "  connection {child}: what runs under its guard panics")
            }
            Event::Trapped { child } => write!(f, "  connection {child} takes the stop signal"),
            Event::Armed { child } => {
                write!(f, "  connection {child} is going to panic when dropped")
            }
            Event::Exploded { child } => write!(f, "  what {child} kept panics while dropped"),
            Event::ServeReturned { child, how } => write!(f, "  connection {child}: {how:?}"),
            Event::TerminateBegan { child, reason } => {
                write!(f, "  acceptor {child}: terminate, {reason}")
            }
            Event::TerminateEnded { child, how } => {
                write!(f, "  acceptor {child}: terminate {how:?}")
            }
            Event::StateDropped { child, bomb } => match bomb {
                Bomb::None => write!(f, "  the state of {child} is dropped"),
                Bomb::Armed => write!(f, "  the state of {child} is dropped, and panics"),
            },
            Event::Network(happened) => match happened {
                Happened::Accepted { listener, peer } => {
                    write!(f, "  {listener} accepts {peer}")
                }
                Happened::Dropped { peer } => write!(f, "  the stream of {peer} is dropped"),
                Happened::Failed { listener, fault } => {
                    write!(f, "  accept at {listener}: {fault:?}")
                }
                Happened::Empty { listener } => write!(f, "  {listener} has no client"),
                Happened::Closed {
                    listener,
                    queued: 0,
                } => {
                    write!(f, "  the socket {listener} is closed")
                }
                Happened::Closed { listener, queued } => {
                    let queued = counted(*queued, "client is reset", "clients are reset");
                    write!(f, "  the socket {listener} is closed, {queued}")
                }
            },
            Event::Called { child, call, .. } => write!(f, "  from within {child}: {call:?}"),
            Event::Reported { report, .. } => write!(f, "  reported: {report}"),
            Event::CloseReturned(listener) => write!(f, "  closing listener {listener} is done"),
            Event::Joined(report) => {
                let lines = report.to_string().replace('\n', "; ");
                write!(f, "  result: {lines}")
            }
        }
    }
}
