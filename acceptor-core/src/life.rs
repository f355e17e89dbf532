//! The life of an acceptor: init → wait → accept → become, or terminate.
//!
//! Invariants: only the holder of the pass calls `accept`; between an accepted
//! connection and `became` there is no suspension point; the future of `serve`
//! is boxed only when a connection is there (B9).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use crate::accept_error::AcceptErrorKind;
use crate::acceptor::{Acceptor, Init, ListenerInfo, Terminate};
use crate::connection::{Connection, Signals};
use crate::control::{Control, Ending, Stage};
use crate::end::{End, Waited};
use crate::error::BoxError;
use crate::id::ChildId;
use crate::listener::Listener;
use crate::report::Failure;
use crate::socket::{Addresses, Gate, Pause, Socket};
use crate::sync::{guarded, lock, panic_message};
use crate::turnstile::{HandedTo, Pass};

/// What the pool does for its children.
pub(crate) trait Host<L: Listener>: Send + Sync + 'static {
    fn now(&self) -> Instant;
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
    fn accept_error(&self, error: &io::Error) -> AcceptErrorKind;
    fn accept_paused(&self, socket: &Socket<L>, error: io::Error, pause: Duration, unreported: u64);
    fn listener_failed(self: Arc<Self>, socket: &Socket<L>, error: Arc<io::Error>);
    /// The child has a connection: it is counted, and its replacement started.
    fn became(self: Arc<Self>, id: ChildId, peer: L::Addr, local: L::Addr) -> Standing;
    fn ended(self: Arc<Self>, id: ChildId, end: End);
}

/// Whether the pool still knows a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Child,
    Gone,
}

/// Where an acceptor lives.
pub(crate) struct Place<L: Listener> {
    pub(crate) host: Arc<dyn Host<L>>,
    pub(crate) socket: Arc<Socket<L>>,
    pub(crate) control: Arc<Control>,
    pub(crate) child: ChildId,
    pub(crate) delay: Duration,
}

/// What came of an acceptor's wait.
pub(crate) enum Outcome {
    Serves(BoxFuture<'static, Result<(), BoxError>>, Succession),
    Ended(End),
}

/// Who accepts now that this one has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Succession {
    /// An acceptor that was waiting already and was woken.
    Waiting,
    /// Only the one that was just spawned.
    Spawned,
}

/// The dyn-compatible twin of [`Acceptor`]: a pool may change to another type while it runs (R1).
#[async_trait]
pub(crate) trait Life<L: Listener>: Send + Sync + 'static {
    async fn live(self: Arc<Self>, place: Place<L>) -> Outcome;
}

/// A time-out below this would make a busy loop of restarts.
const HARDLY: Duration = Duration::from_millis(1);

#[async_trait]
impl<L: Listener, T: Acceptor<L>> Life<L> for T {
    async fn live(self: Arc<Self>, place: Place<L>) -> Outcome {
        if !place.delay.is_zero() {
            place.sleep(place.delay).await;
        }
        let info = ListenerInfo {
            id: place.socket.id,
            child: place.child,
            local_addr: place.socket.local_addr.clone(),
            closed: place.socket.closed.clone(),
        };
        let (state, timeout) = match self.init(&info).await {
            Ok(Init::Accept(state) | Init::Hibernate(state)) => (state, None),
            Ok(Init::AcceptWithin(state, timeout)) => (state, Some(timeout)),
            Ok(Init::Ignore) => return Outcome::Ended(End::Ignored),
            Err(error) => {
                return Outcome::Ended(End::StartError(Failure::Error(Arc::from(error))));
            }
        };
        drop(info);
        place.control.set_stage(Stage::Waiting);
        match place.wait(timeout).await {
            Ok(accepted) => place.serve(self, accepted, state),
            Err(reason) => {
                place.control.set_stage(Stage::Terminating);
                self.terminate(&reason, state).await;
                Outcome::Ended(match (reason, timeout) {
                    (Terminate::Timeout, Some(timeout)) if timeout < HARDLY => {
                        End::TimedOut(Waited::Hardly)
                    }
                    (Terminate::Timeout, _) => End::TimedOut(Waited::AWhile),
                    _ => End::Stopped,
                })
            }
        }
    }
}

/// A connection that no child is yet.
struct Accepted<L: Listener> {
    stream: L::Stream,
    peer_addr: L::Addr,
    local_addr: L::Addr,
    succession: Succession,
}

type Timer = Option<BoxFuture<'static, ()>>;

impl<L: Listener> Place<L> {
    /// From here on the child is the connection.
    fn serve<T: Acceptor<L>>(
        self,
        acceptor: Arc<T>,
        accepted: Accepted<L>,
        state: T::State,
    ) -> Outcome {
        let Accepted {
            stream,
            peer_addr,
            local_addr,
            succession,
        } = accepted;
        let connection = Connection {
            stream,
            peer_addr: peer_addr.clone(),
            local_addr: local_addr.clone(),
            id: self.child,
            listener: self.socket.id,
            signals: Signals {
                draining: self.socket.draining.clone(),
                control: Arc::clone(&self.control),
            },
        };
        match Arc::clone(&self.host).became(self.child, peer_addr, local_addr) {
            Standing::Child => {
                self.control.set_stage(Stage::Serving);
                let serve = async move { acceptor.serve(connection, state).await };
                Outcome::Serves(Box::pin(serve), succession)
            }
            // The pool ended without this child: what it took along goes with it.
            Standing::Gone => Outcome::Ended(End::Killed),
        }
    }

    /// Waits for a connection; or for the reason to terminate.
    async fn wait(&self, timeout: Option<Duration>) -> Result<Accepted<L>, Terminate> {
        let mut timer: Timer = match timeout {
            None => None,
            Some(Duration::ZERO) => Some(Box::pin(ready(()))),
            Some(timeout) => {
                let deadline = self.host.now().checked_add(timeout);
                deadline.map(|deadline| self.host.sleep_until(deadline))
            }
        };
        let entered = self.race(self.socket.turnstile.enter(), &mut timer).await?;
        let mut pass = entered.ok_or_else(|| self.ending())?;
        let mut skipped = 0_u32;
        loop {
            let gate = pass.value();
            if let Some(until) = gate.paused_until {
                if self.host.now() < until {
                    self.race(self.host.sleep_until(until), &mut timer).await?;
                }
                gate.paused_until = None;
                self.socket.resume();
            }
            let accept = async { gate.listener().accept().await };
            let accept = std::panic::AssertUnwindSafe(accept).catch_unwind();
            let error = match self.race(accept, &mut timer).await? {
                Ok(Ok((stream, peer_addr))) => {
                    gate.accepted();
                    if let Some(local_addr) = self.local_addr(&stream) {
                        let succession = match pass.hand_on() {
                            HandedTo::Next => Succession::Waiting,
                            HandedTo::Nobody => Succession::Spawned,
                        };
                        return Ok(Accepted {
                            stream,
                            peer_addr,
                            local_addr,
                            succession,
                        });
                    }
                    self.socket.count_skipped();
                    None
                }
                Ok(Err(error)) => Some(error),
                Err(panic) => {
                    let message = format!("accept panicked: {}", panic_message(panic));
                    return Err(self.fail(pass, io::Error::other(message)));
                }
            };
            if let Some(error) = error {
                match self.host.accept_error(&error) {
                    AcceptErrorKind::Connection => self.socket.count_skipped(),
                    AcceptErrorKind::Resources => self.lacks_resources(gate, error),
                    AcceptErrorKind::Listener => return Err(self.fail(pass, error)),
                }
            }
            skipped += 1;
            // Not every runtime makes its tasks yield: a flood of dead connections must not keep others waiting (A1).
            if skipped % 16 == 0 {
                yield_now().await;
            }
        }
    }

    /// The local address of a connection; `None` if it was gone before it could be asked.
    fn local_addr(&self, stream: &L::Stream) -> Option<L::Addr> {
        match self.socket.addresses {
            Addresses::TheListeners => Some(self.socket.local_addr.clone()),
            Addresses::TheirOwn => guarded(|| L::stream_local_addr(stream)).ok()?.ok(),
        }
    }

    fn lacks_resources(&self, gate: &mut Gate<L>, error: io::Error) {
        let Pause { length, report } = gate.lacks_resources(self.host.now());
        self.socket.pause();
        if let Some(unreported) = report {
            self.host
                .accept_paused(&self.socket, error, length, unreported);
        }
    }

    /// The listener is of no use any more; neither the pool nor another listener goes with it (L4).
    fn fail(&self, pass: Pass<'_, Gate<L>>, error: io::Error) -> Terminate {
        let error = Arc::new(error);
        Arc::clone(&self.host).listener_failed(&self.socket, Arc::clone(&error));
        drop(pass);
        Terminate::Io(error)
    }

    /// Runs a step of the wait against being told to end, and against the accept time-out.
    async fn race<T>(
        &self,
        step: impl Future<Output = T>,
        timer: &mut Timer,
    ) -> Result<T, Terminate> {
        let mut step = pin!(step);
        poll_fn(|cx| {
            if self.control.commands().ending().is_some() {
                return Poll::Ready(Err(self.ending()));
            }
            if let Poll::Ready(value) = step.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            // After the step: a connection that is there is taken, be the time-out zero (B6).
            if let Some(timer) = timer {
                if timer.poll_unpin(cx).is_ready() {
                    return Poll::Ready(Err(Terminate::Timeout));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Why the acceptor ends: it was told to, or found its turnstile closed.
    fn ending(&self) -> Terminate {
        match self.control.commands().ending() {
            Some(Ending::Failed) => {
                let error = lock(&self.socket.failure).clone();
                Terminate::Io(
                    error.unwrap_or_else(|| Arc::new(io::Error::other("listener failed"))),
                )
            }
            Some(Ending::Stopped) => Terminate::Stopped,
            Some(Ending::Closed) | None => Terminate::Closed,
        }
    }

    async fn sleep(&self, time: Duration) {
        if let Some(deadline) = self.host.now().checked_add(time) {
            self.host.sleep_until(deadline).await;
        }
    }
}

/// Lets other tasks run once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
