//! One child's place, from `init` to its end: its switchboard, and its state while it waits.
//!
//! The dyn-compatible twin of [`Acceptor`]: a pool may change to another type
//! while it runs (R1). Invariants: the state is in the seat only while the
//! acceptor waits; whoever takes it out runs `serve` or `terminate` with it, or
//! drops it; the future of `serve` is boxed only when a connection is there (B9).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::acceptor::{Acceptor, Init, ListenerInfo, Terminate};
use crate::connection::{CleanExit, Connection};
use crate::control::{Control, Controlled};
use crate::end::{End, Waited};
use crate::listener::Listener;
use crate::report::Failure;
use crate::sync::{Mutex, Shared, guarded, lock};

/// What came of an `init`.
pub(crate) enum Begun {
    /// The state is in the seat: the acceptor may wait, this long if it said so.
    Waits(Option<Duration>),
    Ended(End),
}

/// Makes seats for children.
pub(crate) trait Life<L: Listener>: Send + Sync + 'static {
    fn seat(self: Arc<Self>) -> Arc<dyn Child<L>>;
}

/// A child, whatever its acceptor's type.
#[async_trait]
pub(crate) trait Child<L: Listener>: Controlled + 'static {
    fn controlled(self: Arc<Self>) -> Arc<dyn Controlled>;

    async fn init(self: Arc<Self>, listener: ListenerInfo<L::Addr>) -> Begun;

    /// Puts a state into the seat, if the acceptor needs no `init` for it.
    fn begin_without_init(&self) -> Option<Begun>;

    /// Takes the state out of the seat, at once.
    fn serve(
        self: Arc<Self>,
        connection: Connection<L::Stream, L::Addr>,
    ) -> BoxFuture<'static, End>;

    /// Takes the state out of the seat, at once.
    fn terminate(self: Arc<Self>, reason: Terminate, waited: Waited) -> BoxFuture<'static, End>;

    /// Drops the state, for a child that is killed while it waits.
    fn discard(&self) -> Result<(), String>;
}

struct Seat<L: Listener, A: Acceptor<L>> {
    control: Control,
    /// The last seat may be anywhere when it goes.
    acceptor: Shared<A>,
    state: Mutex<Option<A::State>>,
}

impl<L: Listener, A: Acceptor<L>> Life<L> for A {
    fn seat(self: Arc<Self>) -> Arc<dyn Child<L>> {
        Arc::new(Seat {
            control: Control::default(),
            acceptor: Shared::new(self),
            state: Mutex::new(None),
        })
    }
}

impl<L: Listener, A: Acceptor<L>> Seat<L, A> {
    fn take_state(&self) -> A::State {
        let state = lock(&self.state).take();
        state.expect("the state is taken once, by who took the acceptor out of its line")
    }
}

impl<L: Listener, A: Acceptor<L>> Controlled for Seat<L, A> {
    fn control(&self) -> &Control {
        &self.control
    }
}

#[async_trait]
impl<L: Listener, A: Acceptor<L>> Child<L> for Seat<L, A> {
    fn controlled(self: Arc<Self>) -> Arc<dyn Controlled> {
        self
    }

    async fn init(self: Arc<Self>, listener: ListenerInfo<L::Addr>) -> Begun {
        let (state, timeout) = match self.acceptor.init(&listener).await {
            Ok(Init::Accept(state) | Init::Hibernate(state)) => (state, None),
            Ok(Init::AcceptWithin(state, timeout)) => (state, Some(timeout)),
            Ok(Init::Ignore) => return Begun::Ended(End::Ignored),
            Err(error) => {
                return Begun::Ended(End::StartError(Failure::Error(Arc::from(error))));
            }
        };
        *lock(&self.state) = Some(state);
        Begun::Waits(timeout)
    }

    fn begin_without_init(&self) -> Option<Begun> {
        let state = guarded(|| self.acceptor.state_without_init()).ok()??;
        *lock(&self.state) = Some(state);
        Some(Begun::Waits(None))
    }

    fn serve(
        self: Arc<Self>,
        connection: Connection<L::Stream, L::Addr>,
    ) -> BoxFuture<'static, End> {
        let state = self.take_state();
        Box::pin(async move {
            match self.acceptor.serve(connection, state).await {
                Ok(()) => End::Normal,
                Err(error) if error.is::<CleanExit>() => End::Clean,
                Err(error) => End::Error(Arc::from(error)),
            }
        })
    }

    fn terminate(self: Arc<Self>, reason: Terminate, waited: Waited) -> BoxFuture<'static, End> {
        let state = self.take_state();
        Box::pin(async move {
            self.acceptor.terminate(&reason, state).await;
            match reason {
                Terminate::Timeout => End::TimedOut(waited),
                Terminate::Closed | Terminate::Io(_) | Terminate::Stopped => End::Stopped,
            }
        })
    }

    fn discard(&self) -> Result<(), String> {
        let state = lock(&self.state).take();
        guarded(move || drop(state))
    }
}
