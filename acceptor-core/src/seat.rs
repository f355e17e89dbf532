//! One child's place, from `init` to its end: its switchboard, and its state while it waits.
//!
//! The dyn-compatible twin of [`Acceptor`]: a pool may change to another type
//! while it runs (R1). Invariants: the state is in the seat only while the
//! acceptor waits; whoever takes it out runs `serve` or `terminate` with it, or
//! drops it; the future of `serve` is boxed only when a connection is there (B9).

use std::panic::resume_unwind;
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

/// What `serve` or `terminate` is given when it is first polled. Dropped before, it goes one by one: two panics at
/// once would abort the process.
struct Given<T, S>(Option<(T, S)>);

impl<T, S> Given<T, S> {
    fn new(first: T, state: S) -> Self {
        Self(Some((first, state)))
    }

    fn take(mut self) -> (T, S) {
        self.0
            .take()
            .expect("it is taken once, for this consumes it")
    }
}

impl<T, S> Drop for Given<T, S> {
    fn drop(&mut self) {
        let Some((first, state)) = self.0.take() else {
            return;
        };
        let first = guarded(|| drop(first));
        let dropped = first.and(guarded(|| drop(state)));
        if let Err(message) = dropped {
            // As it came, for the child's end to tell; the hook has been called.
            resume_unwind(Box::new(message));
        }
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
        let given = Given::new(connection, self.take_state());
        Box::pin(async move {
            let (connection, state) = given.take();
            match self.acceptor.serve(connection, state).await {
                Ok(()) => End::Normal,
                Err(error) if error.is::<CleanExit>() => End::Clean,
                Err(error) => End::Error(Arc::from(error)),
            }
        })
    }

    fn terminate(self: Arc<Self>, reason: Terminate, waited: Waited) -> BoxFuture<'static, End> {
        let given = Given::new(reason, self.take_state());
        Box::pin(async move {
            let (reason, state) = given.take();
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

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::SocketAddr;

    use futures::FutureExt;

    use super::*;
    use crate::acceptor::acceptor_fn;
    use crate::connection::Signals;
    use crate::error::BoxError;
    use crate::id::{ChildId, ListenerId, PoolId};
    use crate::listener::testing::Nowhere;
    use crate::signal::Signal;

    const POOL: PoolId = PoolId::NONE;
    const LISTENER: ListenerId = ListenerId {
        sequence: 1,
        pool: POOL,
    };
    const CHILD: ChildId = ChildId {
        sequence: 1,
        slot: 0,
        pool: POOL,
    };

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn connection(seat: &Arc<dyn Child<Nowhere>>) -> Connection<(), SocketAddr> {
        Connection {
            stream: (),
            peer_addr: address(),
            local_addr: address(),
            id: CHILD,
            listener: LISTENER,
            signals: Signals {
                draining: Signal::new(),
                control: Arc::clone(seat).controlled(),
            },
        }
    }

    /// How a connection ends whose `serve` returns this.
    #[track_caller]
    fn check(result: fn() -> Result<(), BoxError>, expected: &str) {
        let acceptor = Arc::new(acceptor_fn(move |_| async move { result() }));
        let seat: Arc<dyn Child<Nowhere>> = acceptor.seat();
        assert!(matches!(
            seat.begin_without_init(),
            Some(Begun::Waits(None))
        ));
        let serve = Arc::clone(&seat).serve(connection(&seat));
        let end = serve.now_or_never().expect("it does not wait");
        assert_eq!(format!("{end:?}"), expected);
    }

    #[test]
    fn a_connection_ends_as_its_serve_says() {
        check(|| Ok(()), "Normal");
        check(|| Err(CleanExit::new().into()), "Clean");
        check(|| Err(CleanExit::because("quit").into()), "Clean");
        check(|| Err("failed".into()), r#"Error("failed")"#);
        // At the top only.
        let wrapped = || Err(std::io::Error::other(CleanExit::new()).into());
        check(
            wrapped,
            "Error(Custom { kind: Other, error: CleanExit { reason: None } })",
        );
    }

    /// Its state panics when it is dropped.
    struct Fragile;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }

    impl Acceptor<Nowhere> for Fragile {
        type State = Bomb;

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<Bomb>, BoxError> {
            Ok(Init::Accept(Bomb))
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, _: Bomb) -> Result<(), BoxError> {
            Ok(())
        }
    }

    #[test]
    fn a_state_is_dropped_once_and_its_panic_is_told() {
        let seat: Arc<dyn Child<Nowhere>> = Arc::new(Fragile).seat();
        assert!(seat.begin_without_init().is_none(), "it needs its `init`");
        let info = ListenerInfo {
            id: LISTENER,
            child: CHILD,
            local_addr: address(),
            closed: Signal::new(),
        };
        let begun = Arc::clone(&seat).init(info).now_or_never();
        assert!(matches!(begun, Some(Begun::Waits(None))));
        assert_eq!(seat.discard(), Err("dropped".to_owned()));
        assert_eq!(seat.discard(), Ok(()));
    }
}
