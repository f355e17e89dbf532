//! The acts that tests apply to a pool, and the reports that they see: plain data.

use super::ends::How;
use super::*;
use crate::policy::WaitingAcceptors;
use crate::report::Failure;

/// The parts of a report that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    StartError(ChildId, &'static str),
    AcceptorFailed(ChildId, &'static str),
    ConnectionFailed(ChildId, &'static str, Duration),
    ConnectionEnded(ChildId, EndKind, Duration),
    Disconnected(ChildId, Duration),
    HandshakeFailed(ChildId, Duration),
    ListenerFailed(ListenerId, usize),
    KilledWhileStopping(usize),
    Stuck(usize),
    PoolStopped(StopReason),
}

pub(super) fn reported(event: &Event<()>) -> Reported {
    let word = |failure: &Failure| match failure {
        Failure::Error(_) => "error",
        Failure::Panic(_) => "panic",
        Failure::Killed => "killed",
        Failure::Lost => "lost",
    };
    let of_listener = |child: &ChildId, listener: &ListenerId| {
        assert_eq!(child.listener(), *listener);
        *child
    };
    match event {
        Event::StartError {
            child,
            listener,
            failure,
        } => Reported::StartError(of_listener(child, listener), word(failure)),
        Event::AcceptorFailed {
            child,
            listener,
            failure,
        } => Reported::AcceptorFailed(of_listener(child, listener), word(failure)),
        Event::ConnectionFailed {
            child,
            listener,
            failure,
            age,
            ..
        } => Reported::ConnectionFailed(of_listener(child, listener), word(failure), *age),
        Event::ConnectionEnded {
            child,
            listener,
            kind,
            age,
            ..
        } => Reported::ConnectionEnded(of_listener(child, listener), *kind, *age),
        Event::Disconnected {
            child,
            listener,
            age,
            ..
        } => Reported::Disconnected(of_listener(child, listener), *age),
        Event::HandshakeFailed {
            child,
            listener,
            age,
            ..
        } => Reported::HandshakeFailed(of_listener(child, listener), *age),
        Event::ListenerFailed {
            listener,
            listeners_left,
            ..
        } => Reported::ListenerFailed(*listener, *listeners_left),
        Event::KilledWhileStopping { count } => Reported::KilledWhileStopping(*count),
        Event::Stuck { count } => Reported::Stuck(*count),
        Event::PoolStopped { reason } => Reported::PoolStopped(*reason),
        Event::AcceptPaused { .. } | Event::ConnectionBegan { .. } | Event::ReportsLost { .. } => {
            panic!("the machine does not report {event:?}")
        }
    }
}

/// One event. Numbers choose among the existing children and listeners.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Add(usize),
    /// The accept loop of a listener starts at most this many.
    Starts(usize, usize),
    /// At most this many owed acceptors get rows.
    Lists(usize, usize),
    /// An acceptor has finished `init`.
    Waits(usize),
    /// A waiting acceptor begins to terminate.
    Dismissed(usize),
    /// A waiting acceptor gets a connection; the next acceptor needs its `init`.
    Became(usize),
    /// The same, and the next acceptor has its state.
    BecameWithNext(usize),
    AcceptorEnds(usize, How),
    ConnectionEnds(usize, How),
    /// A repeated end of a child that has ended.
    EndsAgain(usize, How),
    /// Every other event for a child that has ended.
    ComesLate(usize),
    Close(usize),
    CloseAgain,
    /// A socket closes as requested.
    SocketCloses(usize),
    /// A socket closes because its listener failed.
    ListenerFails(usize),
    Stop(StopReason),
    Kill(StopReason),
    /// This many milliseconds pass, and the driver runs.
    Wait(u64),
    /// A child enters a poll, or leaves it.
    Poll(usize),
    /// Other rules, and another acceptor.
    Reconfigure(Rules, WaitingAcceptors),
}

/// One act, and the visible state after it.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) act: Act,
    pub(super) at: Instant,
    pub(super) rules: Rules,
    pub(super) state: PoolState,
    /// Children and open sockets.
    pub(super) left: usize,
    pub(super) sockets: usize,
    pub(super) reports: Vec<Reported>,
    pub(super) results: usize,
    /// Acceptors that were owed when their socket closed after the kill.
    pub(super) owed_killed: usize,
}
