//! What the owner, the handles and the children of a pool share: one lock around the machine, and its effects.
//!
//! Whoever brings an event runs the machine under the lock and carries out the
//! effects after releasing it. Invariants: the lock is never held across an
//! await or a call into user code; only this file and `driver` call the
//! runtime; reports go out one at a time, in the order of the events, and the
//! result after them.

mod outbox;
mod present;

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use self::outbox::{Delivery, Mail, Outgoing};
pub(crate) use self::present::Present;
use crate::accept_error::AcceptErrorKind;
use crate::acceptor::Terminate;
use crate::begin::Beginning;
use crate::bell::Bell;
use crate::child::ChildTask;
use crate::contained::Contained;
use crate::control::Ending;
use crate::end::{End, Waited};
use crate::id::{ChildId, PoolId};
use crate::line::{Leaving, Waiting};
use crate::listener::Listener;
use crate::report::Event;
use crate::runtime::Runtime;
use crate::seat::Child;
use crate::signal::Signal;
use crate::socket::{Gate, Socket};
use crate::spec::Spec;
use crate::stop::{StopReason, StopReport};
use crate::supervisor::{Became, Effects, Peer, Start, Supervisor, TimerChange};
use crate::sync::{Mutex, drop_guarded, guarded, lock};
use crate::watcher::watch;

pub(crate) struct Inner<R: Runtime, L: Listener> {
    pub(crate) runtime: R,
    pub(crate) bell: Bell,
    /// Is set when the result is there.
    pub(crate) done: Signal,
    state: Mutex<State<L>>,
}

pub(crate) type Machine<L> = Supervisor<Arc<dyn Child<L>>, Arc<Socket<L>>, <L as Listener>::Addr>;
pub(crate) type Outcomes<L> = Effects<Arc<dyn Child<L>>, Arc<Socket<L>>, <L as Listener>::Addr>;
pub(crate) type Starting<L> = Start<Arc<dyn Child<L>>, Arc<Socket<L>>>;

pub(crate) struct State<L: Listener> {
    pub(crate) machine: Machine<L>,
    pub(crate) spec: Present<L>,
    /// Starts that only the pool's own task may carry out.
    pub(crate) later: Vec<Starting<L>>,
    outbox: VecDeque<Outgoing<L::Addr>>,
    delivery: Delivery,
    result: Option<Box<StopReport>>,
}

impl<R: Runtime, L: Listener> Inner<R, L> {
    pub(crate) fn new(runtime: R, spec: Spec<L>) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            bell: Bell::default(),
            done: Signal::new(),
            state: Mutex::new(State {
                machine: Supervisor::new(spec.rules, PoolId::next()),
                spec: Present::from(spec),
                later: Vec::new(),
                outbox: VecDeque::new(),
                delivery: Delivery::Idle,
                result: None,
            }),
        })
    }

    /// Looks at the state, changing nothing.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State<L>) -> T) -> T {
        look(&lock(&self.state))
    }

    /// Brings an event: runs it under the lock, then carries out what it leads to.
    pub(crate) fn bring<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut State<L>, &mut Outcomes<L>) -> T,
    ) -> T {
        let mut effects = Effects::default();
        let (result, mail) = {
            let mut state = lock(&self.state);
            let result = event(&mut state, &mut effects);
            let mail = state.post(&mut effects);
            (result, mail)
        };
        self.carry_out(effects);
        if mail == Mail::Waiting {
            self.deliver();
        }
        result
    }

    fn carry_out(self: &Arc<Self>, effects: Outcomes<L>) {
        for (seat, command) in effects.tell {
            seat.control().tell(command);
        }
        for socket in effects.drain {
            socket.draining.set();
        }
        // After its acceptors were told: whoever finds the line closed knows why.
        for socket in effects.close {
            socket.close();
        }
        for start in effects.start {
            self.start(start);
        }
        if effects.timer_changed == TimerChange::Changed {
            self.bell.ring();
        }
        drop_guarded(effects.gone);
        if let Some(end) = effects.unseen {
            drop_guarded(end);
        }
    }

    /// Starts a child in a task of its own.
    pub(crate) fn start(self: &Arc<Self>, start: Starting<L>) {
        self.spawn(Beginning::new(Arc::clone(self), start));
    }

    /// Starts a child within the present task; if its `init` takes time it goes on in one of its own.
    pub(crate) fn begin(self: &Arc<Self>, start: Starting<L>, cx: &mut Context<'_>) -> Poll<()> {
        let mut beginning = Beginning::new(Arc::clone(self), start);
        let begun = beginning.poll_once(cx);
        if begun.is_pending() {
            self.spawn(beginning);
        }
        begun
    }

    /// Starts the task of a listener.
    pub(crate) fn watch(self: &Arc<Self>, gate: Gate<L>) {
        self.spawn(Contained::new(watch(Arc::clone(self), gate)));
    }

    /// A runtime that panics here drops the task, which tells its end.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _ = guarded(|| self.runtime.spawn(task));
    }

    /// An acceptor waits no more: it was told to end, or its time-out has come (B6, B7).
    pub(crate) fn leave_line(
        self: &Arc<Self>,
        socket: &Socket<L>,
        waiting: Waiting<L>,
        why: Leaving,
    ) {
        let Waiting { id, seat, deadline } = waiting;
        let commands = seat.control().commands();
        if commands.kill() {
            let end = match seat.discard() {
                Ok(()) => End::Killed,
                Err(message) => End::Panic(message, Waited::AWhile),
            };
            return self.ended(id, end);
        }
        let (reason, waited) = match (commands.ending(), why, deadline) {
            (Some(ending), ..) => (socket.terminate_reason(ending), Waited::AWhile),
            (None, Leaving::TimedOut, Some((_, waited))) => (Terminate::Timeout, waited),
            (None, ..) => (Terminate::Closed, Waited::AWhile),
        };
        let terminate = Arc::clone(&seat).terminate(reason, waited);
        let inner = Arc::clone(self);
        self.spawn(ChildTask::terminate(inner, id, seat, terminate, waited));
    }

    /// The result, once `done` is set.
    pub(crate) fn result(&self) -> Option<StopReport> {
        lock(&self.state).result.as_deref().cloned()
    }

    /// The runtime's clock; the standard one should the runtime's panic.
    pub(crate) fn time(&self) -> Instant {
        guarded(|| self.runtime.now()).unwrap_or_else(|_| Instant::now())
    }

    pub(crate) fn stop(self: &Arc<Self>, reason: StopReason) {
        let now = self.time();
        self.bring(|state, effects| state.machine.stop(reason, now, effects));
    }

    pub(crate) fn kill(self: &Arc<Self>, reason: StopReason) {
        let now = self.time();
        self.bring(|state, effects| state.machine.kill(reason, now, effects));
    }
}

/// Whether nobody lives to see it. Runtimes reckon with a little more than what they are given: at the end of all
/// time that overflows.
pub(crate) fn is_never(deadline: Instant) -> bool {
    const A_DAY: Duration = Duration::from_secs(86_400);
    deadline.checked_add(A_DAY).is_none()
}

/// What children and listeners bring.
impl<R: Runtime, L: Listener> Inner<R, L> {
    pub(crate) fn sleep_until(self: &Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        if is_never(deadline) {
            return Box::pin(pending());
        }
        let inner = Arc::clone(self);
        Box::pin(async move { inner.runtime.sleep_until(deadline).await })
    }

    /// For ever, if that is how long it is.
    pub(crate) fn sleep(self: &Arc<Self>, time: Duration) -> BoxFuture<'static, ()> {
        match self.time().checked_add(time) {
            Some(deadline) => self.sleep_until(deadline),
            None => Box::pin(pending()),
        }
    }

    pub(crate) fn accept_error(&self, error: &io::Error) -> AcceptErrorKind {
        let table = lock(&self.state).spec.accept_errors.clone();
        let kind = table.kind(error);
        drop_guarded(table);
        kind
    }

    /// The listener is of no use any more; neither the pool nor another listener goes with it (L4).
    pub(crate) fn listener_failed(self: &Arc<Self>, socket: &Socket<L>, error: Arc<io::Error>) {
        socket.fail(Arc::clone(&error));
        let unused = self.bring(|state, effects| {
            let closing = state.machine.close(socket.id, Ending::Failed, effects);
            if closing.is_none() {
                // Closed in the meantime: what it failed of is nobody's concern any more.
                return Some(error);
            }
            effects.reports.push(Event::ListenerFailed {
                listener: socket.id,
                local_addr: socket.local_addr.clone(),
                error,
            });
            None
        });
        drop_guarded(unused);
    }

    pub(crate) fn socket_closed(self: &Arc<Self>) {
        let now = self.time();
        self.bring(|state, effects| state.machine.socket_closed(now, effects));
    }

    /// The child has a connection: it is counted, before `serve` is first polled (Q3).
    pub(crate) fn became(
        &self,
        id: ChildId,
        peer_addr: L::Addr,
        local_addr: L::Addr,
    ) -> Became<Arc<dyn Child<L>>, Arc<Socket<L>>> {
        let peer = Peer {
            peer_addr,
            local_addr,
            since: self.time(),
        };
        let mut state = lock(&self.state);
        let seat = Arc::clone(&state.spec.acceptor).seat();
        state.machine.became(id, peer, seat)
    }

    pub(crate) fn ended(self: &Arc<Self>, id: ChildId, end: End) {
        if let End::Normal | End::Clean = end {
            // Most ends are of this sort, and most of them lead to nothing.
            let left = lock(&self.state).machine.left(id);
            if let Some(child) = left {
                return drop_guarded(child);
            }
        }
        let now = self.time();
        self.bring(|state, effects| {
            let acceptor = Arc::clone(&state.spec.acceptor);
            let seat = || acceptor.seat();
            state.machine.ended(id, end, now, seat, effects);
        });
    }
}
