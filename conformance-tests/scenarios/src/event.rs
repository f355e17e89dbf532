//! The events of a run, in the order in which they happened.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use acceptor_core::{
    ChildId, EventKind, ListenerId, Phase, PoolState, Report, StopReport, Terminate,
};

use super::{Bound, Order, SpecSetting, Step, counted};
use acceptor_simulation::NetworkEvent;

/// An event, and the time since the world began.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TraceEntry {
    /// The time.
    pub at: Duration,
    /// The event.
    pub event: Event,
}

/// An event, seen by the callbacks of the acceptor and the observer, by the network, or by the runner of the scenario.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A pool was started; its number in this world.
    Started(usize, SpecSetting),
    /// A step was taken; its number in the scenario.
    Step(usize, Step),
    /// The teardown began.
    Teardown,
    /// The state of the pool changed.
    State(PoolState),
    /// A listener was added.
    ListenerAdded {
        /// Its id.
        listener: ListenerId,
        /// Its address.
        address: SocketAddr,
        /// The address to which it is bound.
        bound: Bound,
        /// Its acceptors.
        acceptors: usize,
    },
    /// A client connected to a listener.
    Connected {
        /// The client.
        peer: SocketAddr,
        /// The address of the listener.
        listener: SocketAddr,
    },
    /// A client found no listener.
    Refused {
        /// The address of the listener.
        listener: SocketAddr,
    },
    /// `init` began.
    InitBegan {
        /// The acceptor.
        child: ChildId,
        /// Its listener.
        listener: ListenerId,
        /// The generation of its spec.
        generation: u32,
    },
    /// `init` ended.
    InitEnded {
        /// The acceptor.
        child: ChildId,
        /// The outcome.
        how: InitOutcome,
    },
    /// `serve` was polled for the first time.
    ServeBegan {
        /// The connection.
        child: ChildId,
        /// Its listener.
        listener: ListenerId,
        /// Its client.
        peer: SocketAddr,
        /// Its local address.
        local: SocketAddr,
    },
    /// A handshake was polled for the first time.
    HandshakeBegan {
        /// The connection.
        child: ChildId,
    },
    /// A handshake replaces the addresses of its connection.
    AddressesReplaced {
        /// The connection.
        child: ChildId,
        /// The new address of its client.
        peer: SocketAddr,
        /// Its new local address.
        local: SocketAddr,
    },
    /// A handshake ended.
    HandshakeEnded {
        /// The connection.
        child: ChildId,
        /// The outcome.
        how: HandshakeOutcome,
    },
    /// `serve` is about to return, and the stream lives on under a guard.
    StreamHandedOver {
        /// The connection.
        child: ChildId,
        /// The holder of the guard.
        holder: GuardHolder,
    },
    /// The task under the guard of a connection is about to panic.
    SubtaskPanicked {
        /// The connection.
        child: ChildId,
    },
    /// A connection gives its slot back (C7).
    SlotReleased {
        /// The connection.
        child: ChildId,
    },
    /// A connection took the stop signal.
    Trapped {
        /// The connection.
        child: ChildId,
    },
    /// A connection keeps a value whose drop panics.
    WillPanicOnDrop {
        /// The connection.
        child: ChildId,
    },
    /// The value was dropped, and panics.
    PanickedOnDrop {
        /// The child that kept it.
        child: ChildId,
    },
    /// `serve` returned, or is about to panic.
    ServeReturned {
        /// The connection.
        child: ChildId,
        /// The outcome.
        how: ServeOutcome,
    },
    /// `terminate` was polled for the first time.
    TerminateBegan {
        /// The acceptor.
        child: ChildId,
        /// The reason.
        reason: Terminate,
    },
    /// `terminate` ended.
    TerminateEnded {
        /// The acceptor.
        child: ChildId,
        /// The outcome.
        how: TerminateOutcome,
    },
    /// The state of an acceptor was dropped.
    StateDropped {
        /// The acceptor.
        child: ChildId,
        /// Whether the drop panics.
        panics: bool,
    },
    /// A socket of the pool changed.
    Network(NetworkEvent),
    /// A callback called the pool.
    Called {
        /// The child of the callback, or of the report.
        child: ChildId,
        /// Its listener.
        listener: ListenerId,
        /// The call.
        call: Call,
    },
    /// An observer got a report.
    Reported {
        /// The report.
        report: Report<SocketAddr>,
        /// The generation of the observer's spec.
        observer: u32,
    },
    /// A wait for the close of a listener returned.
    CloseReturned(ListenerId),
    /// A wait for the result returned.
    Joined(Box<StopReport>),
}

/// The outcome of `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitOutcome {
    /// The acceptor waits, with this timeout if it has one.
    Waits(Option<Duration>),
    /// *Ignore*.
    Ignored,
    /// An error.
    Failed,
    /// A panic.
    Panicked,
    /// It was dropped before its end.
    Dropped,
}

/// The outcome of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// It succeeded.
    Succeeded,
    /// It failed on command.
    Failed,
    /// Its client is gone, with this error.
    Disconnected(String),
    /// It panicked.
    Panicked,
    /// It was dropped before its end.
    Dropped,
}

/// The holder of the guard of a connection whose `serve` has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardHolder {
    /// The runner, which ignores all signals.
    Kept,
    /// A task that runs under the guard.
    Subtask,
}

/// The outcome of `serve`, if it was not dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeOutcome {
    /// It returned `Ok`.
    Normal,
    /// It returned the clean exit.
    Clean,
    /// It returned an error.
    Error,
    /// It returned an error because its client is gone.
    Disconnected,
    /// It panicked.
    Panic,
}

/// The outcome of `terminate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminateOutcome {
    /// It returned.
    Returned,
    /// It panicked.
    Panicked,
    /// It was dropped before its end.
    Dropped,
}

/// A call of the pool by a callback.
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
    /// `close_listener`, with the id of its own listener.
    CloseListener,
}

impl Call {
    /// The call that a client commands, if any.
    pub(crate) fn of_order(order: Order) -> Option<Self> {
        match order {
            Order::StopPool => Some(Self::Stop),
            Order::KillPool => Some(Self::Kill),
            Order::StopItself => Some(Self::StopItself),
            Order::KillItself => Some(Self::KillItself),
            Order::CloseListener => Some(Self::CloseListener),
            _ => None,
        }
    }
}

impl Event {
    /// Whether only the model needs it: a trace would be full of it.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self, Self::Network(NetworkEvent::Empty { .. }))
    }

    /// The child of the event, if it is an event of a child, and the noun for it.
    pub(super) fn child(&self) -> Option<(&'static str, ChildId)> {
        match self {
            Self::InitBegan { child, .. }
            | Self::InitEnded { child, .. }
            | Self::TerminateBegan { child, .. }
            | Self::TerminateEnded { child, .. } => Some(("acceptor", *child)),
            Self::StateDropped { child, .. } | Self::PanickedOnDrop { child } => {
                Some(("child", *child))
            }
            Self::ServeBegan { child, .. }
            | Self::HandshakeBegan { child }
            | Self::AddressesReplaced { child, .. }
            | Self::HandshakeEnded { child, .. }
            | Self::StreamHandedOver { child, .. }
            | Self::SubtaskPanicked { child }
            | Self::SlotReleased { child }
            | Self::Trapped { child }
            | Self::WillPanicOnDrop { child }
            | Self::ServeReturned { child, .. } => Some(("connection", *child)),
            _ => None,
        }
    }

    /// The label under which the event is counted.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Started(..) => "pools started",
            Self::Step(..) => "steps",
            Self::Teardown => "teardowns",
            Self::State(PoolState::Running) => "pools running",
            Self::State(PoolState::Stopping(phase)) => match phase {
                Phase::LameDuck => "lame ducks",
                Phase::Grace => "graces",
                Phase::Stop => "stop phases",
                Phase::Kill => "kills of pools",
            },
            Self::State(_) => "pools stopped",
            Self::ListenerAdded { .. } => "listeners added",
            Self::Connected { .. } => "clients connected",
            Self::Refused { .. } => "clients refused",
            Self::InitBegan { .. } => "inits",
            Self::InitEnded { how, .. } => match how {
                InitOutcome::Waits(None) => "acceptors that wait without a timeout",
                InitOutcome::Waits(Some(_)) => "acceptors that wait with a timeout",
                InitOutcome::Ignored => "inits that ignore",
                InitOutcome::Failed => "inits that fail",
                InitOutcome::Panicked => "inits that panic",
                InitOutcome::Dropped => "inits dropped",
            },
            Self::ServeBegan { .. } => "connections served",
            Self::HandshakeBegan { .. } => "handshakes",
            Self::AddressesReplaced { .. } => "addresses replaced",
            Self::HandshakeEnded { how, .. } => match how {
                HandshakeOutcome::Succeeded => "handshakes that succeed",
                HandshakeOutcome::Failed => "handshakes that fail",
                HandshakeOutcome::Disconnected(_) => "handshakes whose client is gone",
                HandshakeOutcome::Panicked => "handshakes that panic",
                HandshakeOutcome::Dropped => "handshakes dropped",
            },
            Self::StreamHandedOver { holder, .. } => match holder {
                GuardHolder::Kept => "streams kept under a guard",
                GuardHolder::Subtask => "tasks under a guard",
            },
            Self::SubtaskPanicked { .. } => "panics under a guard",
            Self::SlotReleased { .. } => "slots given back",
            Self::Trapped { .. } => "stop signals taken",
            Self::WillPanicOnDrop { .. } => "panicking drops in connections",
            Self::PanickedOnDrop { .. } => "panics in the drop of a connection",
            Self::ServeReturned { how, .. } => match how {
                ServeOutcome::Normal => "connections that return",
                ServeOutcome::Clean => "connections that exit cleanly",
                ServeOutcome::Error => "connections that fail",
                ServeOutcome::Disconnected => "connections whose client is gone",
                ServeOutcome::Panic => "connections that panic",
            },
            Self::TerminateBegan { reason, .. } => match reason {
                Terminate::Timeout => "terminates after a timeout",
                Terminate::Closed => "terminates after a close",
                Terminate::Io(_) => "terminates after a listener failure",
                _ => "terminates after a stop",
            },
            Self::TerminateEnded { how, .. } => match how {
                TerminateOutcome::Returned => "terminates that return",
                TerminateOutcome::Panicked => "terminates that panic",
                TerminateOutcome::Dropped => "terminates dropped",
            },
            Self::StateDropped { panics: false, .. } => "states dropped",
            Self::StateDropped { panics: true, .. } => "panics in the drop of a state",
            Self::Network(happened) => match happened {
                NetworkEvent::Accepted { .. } => "connections accepted",
                NetworkEvent::Dropped { .. } => "streams dropped",
                NetworkEvent::Failed { .. } => "accepts that fail",
                NetworkEvent::Empty { .. } => "accepts that find nothing",
                NetworkEvent::Closed { .. } => "sockets closed",
            },
            Self::Called { .. } => "calls from callbacks",
            Self::Reported { report, .. } => match report.event.kind() {
                EventKind::ConnectionBegan => "reports of a begin",
                EventKind::ConnectionEnded => "reports of an end",
                EventKind::AcceptPaused => "reports of a pause",
                EventKind::Disconnected => "reports of a lost client",
                EventKind::HandshakeFailed => "reports of a failed handshake",
                EventKind::ListenerFailed => "reports of a failed listener",
                EventKind::ReportsLost => "reports of lost reports",
                EventKind::Stuck => "reports of stuck children",
                EventKind::KilledWhileStopping => "reports of kills",
                EventKind::PoolStopped => "reports of a stop",
                _ => "reports of a failure",
            },
            Self::CloseReturned(_) => "closes awaited",
            Self::Joined(_) => "results awaited",
        }
    }
}

impl fmt::Display for TraceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = match self.event {
            Event::Started(..) | Event::Step(..) | Event::Teardown => "",
            _ => "  ",
        };
        write!(f, "{:>12.3?}  {indent}{}", self.at, self.event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((noun, child)) = self.child() {
            write!(f, "{noun} {child}")?;
        }
        match self {
            Self::Started(number, spec) => write!(f, "pool {number} is started: {spec}"),
            Self::Step(number, step) => write!(f, "step {number}: {step}"),
            Self::Teardown => f.write_str("teardown"),
            Self::State(state) => write!(f, "the pool is {state}"),
            Self::ListenerAdded {
                listener,
                address,
                bound,
                acceptors,
            } => {
                let acceptors = counted(*acceptors, "acceptor", "acceptors");
                write!(
                    f,
                    "listener {listener} at {address} ({bound:?}), {acceptors}"
                )
            }
            Self::Connected { peer, listener } => write!(f, "{peer} connects to {listener}"),
            Self::Refused { listener } => write!(f, "no socket listens at {listener}"),
            Self::InitBegan {
                listener,
                generation,
                ..
            } => write!(f, " of listener {listener}: init, generation {generation}"),
            Self::InitEnded { how, .. } => match how {
                InitOutcome::Waits(None) => f.write_str(" waits"),
                InitOutcome::Waits(Some(time)) => write!(f, " waits {time:?}"),
                how => write!(f, ": init {how:?}"),
            },
            Self::ServeBegan {
                listener,
                peer,
                local,
                ..
            } => write!(f, ": serve, {peer} to {local}, listener {listener}"),
            Self::HandshakeBegan { .. } => f.write_str(": handshake begins"),
            Self::AddressesReplaced { peer, local, .. } => {
                write!(f, ": new addresses, {peer} to {local}")
            }
            Self::HandshakeEnded { how, .. } => write!(f, ": handshake ends, {how:?}"),
            Self::StreamHandedOver { holder, .. } => {
                write!(f, " hands its stream over: {holder:?}")
            }
            Self::SubtaskPanicked { .. } => f.write_str(": the task under its guard panics"),
            Self::SlotReleased { .. } => f.write_str(" gives its slot back"),
            Self::Trapped { .. } => f.write_str(" takes the stop signal"),
            Self::WillPanicOnDrop { .. } => f.write_str(" keeps a value whose drop panics"),
            Self::PanickedOnDrop { .. } => f.write_str(": the drop of its kept value panics"),
            Self::ServeReturned { how, .. } => write!(f, ": {how:?}"),
            Self::TerminateBegan { reason, .. } => write!(f, ": terminate, {reason}"),
            Self::TerminateEnded { how, .. } => write!(f, ": terminate {how:?}"),
            Self::StateDropped { panics, .. } => {
                f.write_str(": its state is dropped")?;
                f.write_str(if *panics { ", and panics" } else { "" })
            }
            Self::Network(happened) => match happened {
                NetworkEvent::Accepted { listener, peer } => write!(f, "{listener} accepts {peer}"),
                NetworkEvent::Dropped { peer } => write!(f, "the stream of {peer} is dropped"),
                NetworkEvent::Failed { listener, fault } => {
                    write!(f, "accept at {listener}: {fault:?}")
                }
                NetworkEvent::Empty { listener } => write!(f, "{listener} has no client"),
                NetworkEvent::Closed { listener, queued } => {
                    write!(f, "the socket {listener} is closed")?;
                    if *queued > 0 {
                        let clients = counted(*queued, "client is reset", "clients are reset");
                        write!(f, ", {clients}")?;
                    }
                    Ok(())
                }
            },
            Self::Called { child, call, .. } => write!(f, "a callback of {child} calls: {call:?}"),
            Self::Reported { report, .. } => write!(f, "reported: {report}"),
            Self::CloseReturned(listener) => write!(f, "the close of listener {listener} returns"),
            Self::Joined(report) => {
                let lines = report.to_string().replace('\n', "; ");
                write!(f, "result: {lines}")
            }
        }
    }
}
