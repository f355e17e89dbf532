//! One child's place, from `init` to its end: its switchboard, and its state while it waits.
//!
//! The dyn-compatible twin of [`Acceptor`]: a pool may change to another type
//! while it runs (R1). Invariants: the state is in the child only while the
//! acceptor waits; whoever takes it out runs `serve` or `terminate` with it, or
//! drops it; the future of `serve` is boxed only when a connection is there (B9).

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::acceptor::{Acceptor, Init, ListenerInfo, Terminate};
use crate::child::control::Control;
use crate::connection::{CleanExit, Connection, TrapStop};
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::report::Failure;
use crate::signal::Signal;
use crate::sync::{Mutex, Shared, catch_panic, lock};

/// What came of an `init`.
pub(crate) enum InitOutcome {
    /// The state is in the child: the acceptor may wait, this long if it said so.
    Waits(Option<Duration>),
    Ended(ChildEnd),
}

/// Makes seats for children.
pub(crate) trait Factory<L: Listener>: Send + Sync + 'static {
    fn child(self: Arc<Self>) -> Arc<dyn ErasedChild<L>>;
}

/// A child, whatever its acceptor's type.
#[async_trait]
pub(crate) trait ErasedChild<L: Listener>: Send + Sync + 'static {
    fn control(&self) -> &Control;

    fn trap_stop(self: Arc<Self>) -> Arc<dyn TrapStop>;

    async fn init(self: Arc<Self>, listener: ListenerInfo<L::Addr>) -> InitOutcome;

    /// Puts a state into the child, if the acceptor needs no `init` for it.
    fn begin_without_init(&self) -> Option<InitOutcome>;

    /// Takes the state out of the child, at once.
    fn serve(
        self: Arc<Self>,
        connection: Connection<L::Stream, L::Addr>,
    ) -> BoxFuture<'static, ChildEnd>;

    /// Takes the state out of the child, at once.
    fn terminate(
        self: Arc<Self>,
        reason: Terminate,
        wait_time: WaitTime,
    ) -> BoxFuture<'static, ChildEnd>;

    /// Drops the state, for a child that is killed while it waits.
    fn discard(&self) -> Result<(), String>;
}

struct TypedChild<L: Listener, A: Acceptor<L>> {
    control: Control,
    /// The last child may be anywhere when it goes.
    acceptor: Shared<A>,
    state: Mutex<Option<A::State>>,
}

impl<L: Listener, A: Acceptor<L>> Factory<L> for A {
    fn child(self: Arc<Self>) -> Arc<dyn ErasedChild<L>> {
        Arc::new(TypedChild {
            control: Control::default(),
            acceptor: Shared::new(self),
            state: Mutex::new(None),
        })
    }
}

/// What `serve` or `terminate` is given when it is first polled. Dropped before, it goes one by one: two panics at
/// once would abort the process.
struct CallArgs<T, S>(Option<(T, S)>);

impl<T, S> CallArgs<T, S> {
    fn new(first: T, state: S) -> Self {
        Self(Some((first, state)))
    }

    fn take(mut self) -> (T, S) {
        self.0
            .take()
            .expect("it is taken once, for this consumes it")
    }
}

impl<T, S> Drop for CallArgs<T, S> {
    fn drop(&mut self) {
        let Some((first, state)) = self.0.take() else {
            return;
        };
        let first = catch_panic(|| drop(first));
        let dropped = first.and(catch_panic(|| drop(state)));
        if let Err(message) = dropped {
            // As it came, for the child's end to tell; the hook has been called.
            resume_unwind(Box::new(message));
        }
    }
}

impl<L: Listener, A: Acceptor<L>> TypedChild<L, A> {
    fn take_state(&self) -> A::State {
        let state = lock(&self.state).take();
        state.expect("the state is taken once, by who took the acceptor out of its line")
    }
}

impl<L: Listener, A: Acceptor<L>> TrapStop for TypedChild<L, A> {
    fn trap_stop(&self) -> Signal {
        self.control.trap()
    }
}

#[async_trait]
impl<L: Listener, A: Acceptor<L>> ErasedChild<L> for TypedChild<L, A> {
    fn control(&self) -> &Control {
        &self.control
    }

    fn trap_stop(self: Arc<Self>) -> Arc<dyn TrapStop> {
        self
    }

    async fn init(self: Arc<Self>, listener: ListenerInfo<L::Addr>) -> InitOutcome {
        let (state, timeout) = match self.acceptor.init(&listener).await {
            Ok(Init::Accept(state) | Init::Hibernate(state)) => (state, None),
            Ok(Init::AcceptWithin(state, timeout)) => (state, Some(timeout)),
            Ok(Init::Ignore) => return InitOutcome::Ended(ChildEnd::Ignored),
            Err(error) => {
                return InitOutcome::Ended(ChildEnd::StartError(Failure::Error(Arc::from(error))));
            }
        };
        *lock(&self.state) = Some(state);
        InitOutcome::Waits(timeout)
    }

    fn begin_without_init(&self) -> Option<InitOutcome> {
        let state = catch_panic(|| self.acceptor.state_without_init()).ok()??;
        *lock(&self.state) = Some(state);
        Some(InitOutcome::Waits(None))
    }

    fn serve(
        self: Arc<Self>,
        connection: Connection<L::Stream, L::Addr>,
    ) -> BoxFuture<'static, ChildEnd> {
        let given = CallArgs::new(connection, self.take_state());
        Box::pin(async move {
            let (connection, state) = given.take();
            match self.acceptor.serve(connection, state).await {
                Ok(()) => ChildEnd::Normal,
                Err(error) if error.is::<CleanExit>() => ChildEnd::Clean,
                Err(error) => ChildEnd::Error(Arc::from(error)),
            }
        })
    }

    fn terminate(
        self: Arc<Self>,
        reason: Terminate,
        wait_time: WaitTime,
    ) -> BoxFuture<'static, ChildEnd> {
        let given = CallArgs::new(reason, self.take_state());
        Box::pin(async move {
            let (reason, state) = given.take();
            self.acceptor.terminate(&reason, state).await;
            match reason {
                Terminate::Timeout => ChildEnd::TimedOut(wait_time),
                Terminate::Closed | Terminate::Io(_) | Terminate::Stopped => ChildEnd::Stopped,
            }
        })
    }

    fn discard(&self) -> Result<(), String> {
        let state = lock(&self.state).take();
        catch_panic(move || drop(state))
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

    fn connection(child: &Arc<dyn ErasedChild<Nowhere>>) -> Connection<(), SocketAddr> {
        Connection {
            stream: (),
            peer_addr: address(),
            local_addr: address(),
            id: CHILD,
            listener: LISTENER,
            signals: Signals {
                draining: Signal::new(),
                control: Arc::clone(child).trap_stop(),
            },
        }
    }

    /// How a connection ends whose `serve` returns this.
    #[track_caller]
    fn check(result: fn() -> Result<(), BoxError>, expected: &str) {
        let acceptor = Arc::new(acceptor_fn(move |_| async move { result() }));
        let child: Arc<dyn ErasedChild<Nowhere>> = acceptor.child();
        assert!(matches!(
            child.begin_without_init(),
            Some(InitOutcome::Waits(None))
        ));
        let serve = Arc::clone(&child).serve(connection(&child));
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
        let child: Arc<dyn ErasedChild<Nowhere>> = Arc::new(Fragile).child();
        assert!(child.begin_without_init().is_none(), "it needs its `init`");
        let info = ListenerInfo {
            id: LISTENER,
            child: CHILD,
            local_addr: address(),
            closed: Signal::new(),
        };
        let begun = Arc::clone(&child).init(info).now_or_never();
        assert!(matches!(begun, Some(InitOutcome::Waits(None))));
        assert_eq!(child.discard(), Err("dropped".to_owned()));
        assert_eq!(child.discard(), Ok(()));
    }
}
