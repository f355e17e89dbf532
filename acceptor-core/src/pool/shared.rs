//! What the owner, the handles and the children of a pool share: one lock around the machine, and its effects.
//!
//! Whoever brings an event runs the machine under the lock and carries out the
//! effects after releasing it. Invariants: the lock is never held across an
//! await or a call into user code; only this file and `driver` call the
//! runtime; reports go out one at a time, in the order of the events, and the
//! result after them.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::accept_error::AcceptErrorKind;
use crate::acceptor::Terminate;
use crate::child::erased::ErasedChild;
use crate::id::{ChildId, PoolId};
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::machine::children::Peer;
use crate::machine::command::CloseReason;
use crate::machine::effects::{Became, Effects, Start, TimerChange};
use crate::machine::supervisor::Supervisor;
use crate::pool::child_task::ChildTask;
use crate::pool::current_spec::CurrentSpec;
use crate::pool::init_task::InitTask;
use crate::pool::listener_shared::ListenerShared;
use crate::pool::reporter::{Delivery, Mail, Outgoing};
use crate::pool::spec::Spec;
use crate::pool::wait_queue::{DismissReason, Waiter};
use crate::report::Event;
use crate::runtime::Runtime;
use crate::signal::Signal;
use crate::stop_report::{StopReason, StopReport};
use crate::sync::notify::Notify;
use crate::sync::{Mutex, catch_panic, drop_catching, lock};

pub(crate) struct PoolShared<R: Runtime, L: Listener> {
    pub(crate) runtime: R,
    pub(crate) notify: Notify,
    /// Is set when the result is there.
    pub(crate) done: Signal,
    pub(super) state: Mutex<State<L>>,
}

pub(crate) type Machine<L> =
    Supervisor<Arc<dyn ErasedChild<L>>, Arc<ListenerShared<L>>, <L as Listener>::Addr>;
pub(crate) type PoolEffects<L> =
    Effects<Arc<dyn ErasedChild<L>>, Arc<ListenerShared<L>>, <L as Listener>::Addr>;
pub(crate) type PoolStart<L> = Start<Arc<dyn ErasedChild<L>>, Arc<ListenerShared<L>>>;

pub(crate) struct State<L: Listener> {
    pub(crate) machine: Machine<L>,
    pub(crate) spec: CurrentSpec<L>,
    /// Starts that only the pool's own task may carry out.
    pub(crate) later: Vec<PoolStart<L>>,
    pub(super) outbox: VecDeque<Outgoing<L::Addr>>,
    pub(super) delivery: Delivery,
    pub(super) result: Option<Box<StopReport>>,
}

impl<R: Runtime, L: Listener> PoolShared<R, L> {
    pub(crate) fn new(runtime: R, spec: Spec<L>) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            notify: Notify::default(),
            done: Signal::new(),
            state: Mutex::new(State {
                machine: Supervisor::new(spec.rules, PoolId::next()),
                spec: CurrentSpec::from(spec),
                later: Vec::new(),
                outbox: VecDeque::new(),
                delivery: Delivery::Idle,
                result: None,
            }),
        })
    }

    /// Looks at the state, changing nothing.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State<L>) -> T) -> T {
        read(&lock(&self.state))
    }

    /// Brings an event: runs it under the lock, then carries out what it leads to.
    pub(crate) fn handle_event<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut State<L>, &mut PoolEffects<L>) -> T,
    ) -> T {
        let mut effects = Effects::default();
        let (result, mail) = {
            let mut state = lock(&self.state);
            let result = event(&mut state, &mut effects);
            let mail = state.post(&mut effects);
            (result, mail)
        };
        self.apply_effects(effects);
        if mail == Mail::Waiter {
            self.deliver();
        }
        result
    }

    fn apply_effects(self: &Arc<Self>, effects: PoolEffects<L>) {
        for (child, command) in effects.tell {
            child.control().tell(command);
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
            self.notify.notify();
        }
        drop_catching(effects.gone);
        if let Some(end) = effects.unseen {
            drop_catching(end);
        }
    }

    /// Starts a child in a task of its own.
    pub(crate) fn start(self: &Arc<Self>, start: PoolStart<L>) {
        self.spawn(InitTask::new(Arc::clone(self), start));
    }

    /// Starts a child within the present task; if its `init` takes time it goes on in one of its own.
    pub(crate) fn begin(self: &Arc<Self>, start: PoolStart<L>, cx: &mut Context<'_>) -> Poll<()> {
        let mut init_task = InitTask::new(Arc::clone(self), start);
        let begun = init_task.poll_once(cx);
        if begun.is_pending() {
            self.spawn(init_task);
        }
        begun
    }

    /// A runtime that panics here drops the task, which tells its end.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _ = catch_panic(|| self.runtime.spawn(task));
    }

    /// An acceptor waits no more: it was told to end, or its time-out has come (B6, B7).
    pub(crate) fn dismiss(
        self: &Arc<Self>,
        socket: &ListenerShared<L>,
        waiting: Waiter<L>,
        why: DismissReason,
    ) {
        let Waiter {
            id,
            child,
            deadline,
        } = waiting;
        let commands = child.control().commands();
        if commands.kill() {
            let end = match child.discard() {
                Ok(()) => ChildEnd::Killed,
                Err(message) => ChildEnd::Panic(message, WaitTime::Long),
            };
            return self.ended(id, end);
        }
        let (reason, wait_time) = match (commands.ending(), why, deadline) {
            (Some(ending), ..) => (socket.terminate_reason(ending), WaitTime::Long),
            (None, DismissReason::TimedOut, Some((_, wait_time))) => {
                (Terminate::Timeout, wait_time)
            }
            (None, ..) => (Terminate::Closed, WaitTime::Long),
        };
        let terminate = Arc::clone(&child).terminate(reason, wait_time);
        let shared = Arc::clone(self);
        self.spawn(ChildTask::terminate(
            shared, id, child, terminate, wait_time,
        ));
    }

    /// The result, once `done` is set.
    pub(crate) fn result(&self) -> Option<StopReport> {
        lock(&self.state).result.as_deref().cloned()
    }

    /// The runtime's clock; the standard one should the runtime's panic.
    pub(crate) fn time(&self) -> Instant {
        catch_panic(|| self.runtime.now()).unwrap_or_else(|_| Instant::now())
    }

    pub(crate) fn stop(self: &Arc<Self>, reason: StopReason) {
        let now = self.time();
        self.handle_event(|state, effects| state.machine.stop(reason, now, effects));
    }

    pub(crate) fn kill(self: &Arc<Self>, reason: StopReason) {
        let now = self.time();
        self.handle_event(|state, effects| state.machine.kill(reason, now, effects));
    }
}

/// Whether nobody lives to see it. Runtimes reckon with a little more than what they are given: at the end of all
/// time that overflows.
pub(crate) fn is_never(deadline: Instant) -> bool {
    const A_DAY: Duration = Duration::from_secs(86_400);
    deadline.checked_add(A_DAY).is_none()
}

/// What children and listeners handle_event.
impl<R: Runtime, L: Listener> PoolShared<R, L> {
    pub(crate) fn sleep_until(self: &Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        if is_never(deadline) {
            return Box::pin(pending());
        }
        let shared = Arc::clone(self);
        Box::pin(async move { shared.runtime.sleep_until(deadline).await })
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
        drop_catching(table);
        kind
    }

    /// The listener is of no use any more; neither the pool nor another listener goes with it (L4).
    pub(crate) fn listener_failed(
        self: &Arc<Self>,
        socket: &ListenerShared<L>,
        error: Arc<io::Error>,
    ) {
        socket.fail(Arc::clone(&error));
        let unused = self.handle_event(|state, effects| {
            let closing = state.machine.close(socket.id, CloseReason::Failed, effects);
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
        drop_catching(unused);
    }

    pub(crate) fn socket_closed(self: &Arc<Self>) {
        let now = self.time();
        self.handle_event(|state, effects| state.machine.socket_closed(now, effects));
    }

    /// The child has a connection: it is counted, before `serve` is first polled (Q3).
    pub(crate) fn became(
        &self,
        id: ChildId,
        peer_addr: L::Addr,
        local_addr: L::Addr,
    ) -> Became<Arc<dyn ErasedChild<L>>, Arc<ListenerShared<L>>> {
        let peer = Peer {
            peer_addr,
            local_addr,
            since: self.time(),
        };
        let mut state = lock(&self.state);
        let child = Arc::clone(&state.spec.acceptor).child();
        state.machine.became(id, peer, child)
    }

    pub(crate) fn ended(self: &Arc<Self>, id: ChildId, end: ChildEnd) {
        if let ChildEnd::Normal | ChildEnd::Clean = end {
            // Most ends are of this sort, and most of them lead to nothing.
            let left = lock(&self.state).machine.left(id);
            if let Some(child) = left {
                return drop_catching(child);
            }
        }
        let now = self.time();
        self.handle_event(|state, effects| {
            let acceptor = Arc::clone(&state.spec.acceptor);
            let child = || acceptor.child();
            state.machine.ended(id, end, now, child, effects);
        });
    }
}
