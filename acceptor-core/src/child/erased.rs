//! One child's place, from `init` to its end: its switchboard, and its state while it waits.
//!
//! The dyn-compatible twin of [`Acceptor`]: a pool may change to another type
//! while it runs (R1). Invariants: the state is in the child only while the
//! acceptor waits; the task that takes it out runs `serve` or `terminate` with it, or
//! drops it; the future of `serve` is boxed only when a connection is there (B9).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::acceptor::{Acceptor, Init, ListenerInfo, Terminate};
use crate::child::control::{Control, Level};
use crate::connection::{Connection, ConnectionControl, Lifecycle};
use crate::exit::{Exit, IntoExit};
use crate::handshake::{Handshake, HandshakeError, HandshakeStage};
use crate::id::{ChildId, ListenerId};
use crate::incoming::Incoming;
use crate::latch::Latch;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::machine::stuck::Marked;
use crate::report::Failure;
use crate::sync::{DropCatching, DropResuming, Mutex, Shared, catch_panic, lock};

/// The outcome of the future of a child's task.
pub(crate) enum BodyEnd {
    /// `serve` returned this.
    Served(Exit),
    /// The handshake failed, and `serve` was not called.
    HandshakeFailed(HandshakeError),
    Ended(ChildEnd),
}

/// The outcome of an `init`.
pub(crate) enum InitOutcome {
    /// The state is in the child: the acceptor may wait, this long if it said so.
    Waits(Option<Duration>),
    Ended(ChildEnd),
}

/// The parts of a connection.
pub(crate) struct ServeArgs<L: Listener> {
    pub(crate) incoming: Incoming<L::Io, L::Addr>,
    /// `None` if the listener has no handshake.
    pub(crate) stage: Option<HandshakeStage<L::Handshake, L::Addr>>,
    pub(crate) origin: Origin,
}

/// The parts of a connection that its handshake leaves as they are.
pub(crate) struct Origin {
    pub(crate) id: ChildId,
    pub(crate) listener: ListenerId,
    pub(crate) tag: Option<Arc<str>>,
    pub(crate) lifecycle: Lifecycle,
}

impl Origin {
    fn connection<S, A>(self, incoming: Incoming<S, A>) -> Connection<S, A> {
        Connection::new(incoming, self.id, (self.listener, self.tag), self.lifecycle)
    }
}

/// Makes seats for children.
pub(crate) trait Factory<L: Listener>: Send + Sync + 'static {
    /// `generation` says which of the pool's acceptors this is.
    fn make_child(self: Arc<Self>, level: &Arc<Level>, generation: u64) -> Arc<dyn ErasedChild<L>>;
}

impl<L: Listener> Marked for Arc<dyn ErasedChild<L>> {
    fn mark(&self) -> u32 {
        self.control().mark()
    }
}

/// A child, whatever its acceptor's type.
#[async_trait]
pub(crate) trait ErasedChild<L: Listener>: Send + Sync + 'static {
    fn control(&self) -> &Control;

    fn connection_control(self: Arc<Self>) -> Arc<dyn ConnectionControl>;

    async fn init(self: Arc<Self>, listener: ListenerInfo<L::Addr>) -> InitOutcome;

    /// Puts a state into the child, if the acceptor has one at once; `None` if its `init` is to run.
    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> Option<InitOutcome>;

    /// Takes the state out of the child, at once.
    fn serve(self: Arc<Self>, args: ServeArgs<L>) -> BoxFuture<'static, BodyEnd>;

    /// Takes the state out of the child, at once.
    fn terminate(
        self: Arc<Self>,
        reason: Terminate,
        wait_time: WaitTime,
    ) -> BoxFuture<'static, BodyEnd>;

    /// Drops the state of a child that is killed while it waits.
    fn discard(&self);
}

struct TypedChild<L: Listener, A: Acceptor<L>> {
    control: Control,
    /// The last child may be anywhere when it goes.
    acceptor: Shared<A>,
    state: Mutex<Option<DropCatching<A::State>>>,
}

impl<L: Listener, A: Acceptor<L>> Factory<L> for A {
    fn make_child(self: Arc<Self>, level: &Arc<Level>, generation: u64) -> Arc<dyn ErasedChild<L>> {
        Arc::new(TypedChild {
            control: Control::new(Arc::clone(level), generation),
            acceptor: Shared::new(self),
            state: Mutex::new(None),
        })
    }
}

impl<L: Listener, A: Acceptor<L>> TypedChild<L, A> {
    fn put_state(&self, state: A::State) {
        *lock(&self.state) = Some(DropCatching::new(state));
    }

    fn take_state(&self) -> A::State {
        let state = lock(&self.state).take();
        let state = state.expect(
            "the state is taken once: by the caller that took the acceptor out of its queue",
        );
        state.into_inner()
    }
}

/// The future of a connection. What it is made of is dropped each by itself, polled or not: two panics at once would abort the
/// process.
impl<L: Listener, A: Acceptor<L>> TypedChild<L, A> {
    /// A connection of a listener that has no handshake.
    fn serve_at_once(
        self: Arc<Self>,
        incoming: Incoming<L::Io, L::Addr>,
        origin: Origin,
    ) -> BoxFuture<'static, BodyEnd> {
        let incoming = L::Handshake::unchanged(incoming);
        let incoming = incoming.expect("the accept loop makes a stage for each other handshake");
        let given = (
            DropResuming::new(origin.connection(incoming)),
            DropResuming::new(self.take_state()),
        );
        Box::pin(async move {
            let serve = self
                .acceptor
                .serve(given.0.into_inner(), given.1.into_inner());
            BodyEnd::Served(serve.await.into_exit())
        })
    }

    fn serve_after(
        self: Arc<Self>,
        stage: HandshakeStage<L::Handshake, L::Addr>,
        incoming: Incoming<L::Io, L::Addr>,
        origin: Origin,
    ) -> BoxFuture<'static, BodyEnd> {
        let given = (
            DropResuming::new((stage, incoming, origin)),
            DropResuming::new(self.take_state()),
        );
        Box::pin(async move {
            let (stage, incoming, origin) = given.0.into_inner();
            match stage.run(incoming).await {
                Ok(incoming) => {
                    let connection = origin.connection(incoming);
                    let serve = self.acceptor.serve(connection, given.1.into_inner());
                    BodyEnd::Served(serve.await.into_exit())
                }
                Err(error) => BodyEnd::HandshakeFailed(error),
            }
        })
    }
}

impl<L: Listener, A: Acceptor<L>> ConnectionControl for TypedChild<L, A> {
    fn trap_stop(&self) -> Latch {
        self.control.trap()
    }

    fn take_guard(&self) -> Option<Latch> {
        self.control.take_guard()
    }

    fn give_guard(&self, panicked: Option<String>) {
        self.control.give_guard(panicked);
    }

    fn is_killed(&self) -> bool {
        self.control.commands().kill()
    }
}

#[async_trait]
impl<L: Listener, A: Acceptor<L>> ErasedChild<L> for TypedChild<L, A> {
    fn control(&self) -> &Control {
        &self.control
    }

    fn connection_control(self: Arc<Self>) -> Arc<dyn ConnectionControl> {
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
        self.put_state(state);
        InitOutcome::Waits(timeout)
    }

    fn init_now(&self, listener: &ListenerInfo<L::Addr>) -> Option<InitOutcome> {
        match catch_panic(|| self.acceptor.init_now(listener)) {
            Ok(state) => {
                self.put_state(state?);
                Some(InitOutcome::Waits(None))
            }
            Err(message) => {
                let failure = Failure::Panic(message);
                Some(InitOutcome::Ended(ChildEnd::StartError(failure)))
            }
        }
    }

    fn serve(self: Arc<Self>, args: ServeArgs<L>) -> BoxFuture<'static, BodyEnd> {
        match args.stage {
            None => self.serve_at_once(args.incoming, args.origin),
            Some(stage) => self.serve_after(stage, args.incoming, args.origin),
        }
    }

    fn terminate(
        self: Arc<Self>,
        reason: Terminate,
        wait_time: WaitTime,
    ) -> BoxFuture<'static, BodyEnd> {
        let given = (
            DropResuming::new(reason),
            DropResuming::new(self.take_state()),
        );
        Box::pin(async move {
            let (reason, state) = (given.0.into_inner(), given.1.into_inner());
            self.acceptor.terminate(&reason, state).await;
            BodyEnd::Ended(match reason {
                Terminate::Timeout => ChildEnd::TimedOut(wait_time),
                Terminate::Closed | Terminate::Io(_) | Terminate::Stopped | Terminate::Replaced => {
                    ChildEnd::Stopped
                }
            })
        })
    }

    fn discard(&self) {
        let _state = lock(&self.state).take();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::acceptor::acceptor_fn;
    use crate::error::BoxError;
    use crate::id::PoolId;
    use crate::listener::testing::Nowhere;

    const POOL: PoolId = PoolId::ANY;
    const LISTENER: ListenerId = ListenerId {
        sequence: 1,
        pool: POOL,
    };
    const CHILD: ChildId = ChildId {
        listener: 1,
        number: 1,
        slot: 0,
        pool: POOL,
    };

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn connection(child: &Arc<dyn ErasedChild<Nowhere>>) -> ServeArgs<Nowhere> {
        ServeArgs {
            incoming: Incoming::new((), address(), address()),
            stage: None,
            origin: Origin {
                id: CHILD,
                listener: LISTENER,
                tag: None,
                lifecycle: Lifecycle {
                    draining: Latch::new(),
                    control: Arc::clone(child).connection_control(),
                },
            },
        }
    }

    /// A child of this acceptor, with its state.
    fn child<A: Acceptor<Nowhere>>(acceptor: A) -> Arc<dyn ErasedChild<Nowhere>> {
        let child = Arc::new(acceptor).make_child(&Arc::new(Level::new()), 0);
        let begun = match child.init_now(&info()) {
            Some(begun) => begun,
            None => {
                let init = Arc::clone(&child).init(info());
                init.now_or_never().expect("it does not wait")
            }
        };
        assert!(matches!(begun, InitOutcome::Waits(None)));
        child
    }

    fn info() -> ListenerInfo<SocketAddr> {
        ListenerInfo {
            id: LISTENER,
            child: CHILD,
            tag: None,
            local_addr: address(),
            closed: Latch::new(),
        }
    }

    /// How a connection ends whose `serve` returns this.
    #[track_caller]
    fn check_end(result: fn() -> Result<Exit, BoxError>, expected: &str) {
        let child = child(acceptor_fn(move |_| async move { result() }));
        let serve = Arc::clone(&child).serve(connection(&child));
        let end = serve.now_or_never().expect("it does not wait");
        assert_eq!(shown(end), expected);
    }

    fn shown(end: BodyEnd) -> String {
        match end {
            BodyEnd::Served(exit) => format!("{exit:?}"),
            BodyEnd::HandshakeFailed(error) => format!("{error:?}"),
            BodyEnd::Ended(end) => format!("{end:?}"),
        }
    }

    #[test]
    fn connection_ends_by_the_result_of_serve() {
        check_end(|| Ok(Exit::normal()), "Exit(Normal)");
        check_end(|| Ok(Exit::clean("quit")), r#"Exit(Clean(Some("quit")))"#);
        check_end(|| Err("failed".into()), r#"Exit(Error("failed"))"#);
    }

    /// Panics with its name when it is dropped.
    struct Bomb(&'static str);

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new(self.0));
        }
    }

    /// Its state panics when it is dropped.
    struct Fragile;

    impl Acceptor<Nowhere> for Fragile {
        type State = Bomb;
        type Exit = Result<(), BoxError>;

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<Bomb>, BoxError> {
            Ok(Init::Accept(Bomb("state")))
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, state: Bomb) -> Result<(), BoxError> {
            std::mem::forget(state);
            Ok(())
        }

        async fn terminate(&self, _: &Terminate, state: Bomb) {
            std::mem::forget(state);
        }
    }

    /// A state that counts its drops, and panics.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }

    struct Counts(Arc<AtomicUsize>);

    impl Acceptor<Nowhere> for Counts {
        type State = Counted;
        type Exit = Result<(), BoxError>;

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<Counted>, BoxError> {
            Ok(Init::Accept(Counted(Arc::clone(&self.0))))
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, _: Counted) -> Result<(), BoxError> {
            Ok(())
        }
    }

    #[test]
    fn state_is_dropped_once_and_its_panic_is_contained() {
        let drops = Arc::new(AtomicUsize::new(0));
        let discarded = child(Counts(Arc::clone(&drops)));
        for _ in 0..2 {
            discarded.discard();
            assert_eq!(drops.load(Ordering::SeqCst), 1);
        }
        drop(discarded);
        // One that is dropped with its state, wherever that is.
        drop(child(Counts(Arc::clone(&drops))));
        assert_eq!(drops.load(Ordering::SeqCst), 2);
    }

    /// The message of the panic when a call is dropped that was never polled.
    fn dropped(call: BoxFuture<'static, BodyEnd>) -> Result<(), String> {
        catch_panic(move || drop(call))
    }

    #[test]
    fn call_that_is_never_polled_drops_its_state() {
        let child_of_a_connection = child(Fragile);
        let serve = Arc::clone(&child_of_a_connection).serve(connection(&child_of_a_connection));
        assert_eq!(dropped(serve), Err("state".to_owned()));
        let terminate = child(Fragile).terminate(Terminate::Closed, WaitTime::Long);
        assert_eq!(dropped(terminate), Err("state".to_owned()));
    }

    #[test]
    fn polled_call_takes_its_arguments() {
        let serving = child(Fragile);
        let serve = Arc::clone(&serving).serve(connection(&serving));
        let end = serve.now_or_never().map(shown);
        assert_eq!(end.as_deref(), Some("Exit(Normal)"));
    }

    /// How an acceptor ends that terminates for this reason.
    #[track_caller]
    fn check_terminated(reason: Terminate, expected: &str) {
        let terminate = child(Fragile).terminate(reason, WaitTime::Short);
        let end = terminate.now_or_never().expect("it does not wait");
        assert_eq!(shown(end), expected);
    }

    #[test]
    fn acceptor_ends_by_the_reason_to_terminate() {
        check_terminated(Terminate::Timeout, "TimedOut(Short)");
        check_terminated(Terminate::Closed, "Stopped");
        check_terminated(Terminate::Stopped, "Stopped");
        let error = Arc::new(std::io::Error::other("failed"));
        check_terminated(Terminate::Io(error), "Stopped");
    }

    type Returned = fn() -> Result<Init<()>, BoxError>;

    /// Its `init` returns this.
    struct Returns(Returned);

    impl Acceptor<Nowhere> for Returns {
        type State = ();
        type Exit = Result<(), BoxError>;

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
            (self.0)()
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, (): ()) -> Result<(), BoxError> {
            Ok(())
        }
    }

    #[track_caller]
    fn check_init(returned: Returned, expected: &str) {
        let child = Arc::new(Returns(returned)).make_child(&Arc::new(Level::new()), 0);
        assert!(child.init_now(&info()).is_none());
        let outcome = Arc::clone(&child).init(info()).now_or_never();
        let outcome = match outcome.expect("it does not wait") {
            InitOutcome::Waits(timeout) => format!("waits {timeout:?}"),
            InitOutcome::Ended(end) => format!("{end:?}"),
        };
        assert_eq!(outcome, expected);
    }

    #[test]
    fn acceptor_waits_or_ends_by_the_result_of_init() {
        check_init(|| Ok(Init::Accept(())), "waits None");
        check_init(|| Ok(Init::Hibernate(())), "waits None");
        let within = || Ok(Init::AcceptWithin((), Duration::from_secs(1)));
        check_init(within, "waits Some(1s)");
        check_init(|| Ok(Init::Ignore), "Ignored");
        let failed = r#"StartError(Error("failed"))"#;
        check_init(|| Err("failed".into()), failed);
    }

    /// Has a state at once, or panics.
    struct AtOnce(fn() -> Option<()>);

    impl Acceptor<Nowhere> for AtOnce {
        type State = ();
        type Exit = ();

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
            Ok(Init::Accept(()))
        }

        fn init_now(&self, _: &ListenerInfo<SocketAddr>) -> Option<()> {
            (self.0)()
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, (): ()) {}
    }

    #[track_caller]
    fn check_init_now(state: fn() -> Option<()>, expected: Option<&str>) {
        let child = Arc::new(AtOnce(state)).make_child(&Arc::new(Level::new()), 0);
        let outcome = child.init_now(&info()).map(|outcome| match outcome {
            InitOutcome::Waits(timeout) => format!("waits {timeout:?}"),
            InitOutcome::Ended(end) => format!("{end:?}"),
        });
        assert_eq!(outcome.as_deref(), expected);
    }

    #[test]
    fn state_at_once_needs_no_init_and_a_panic_is_a_start_error() {
        check_init_now(|| Some(()), Some("waits None"));
        check_init_now(|| None, None);
        let failed = r#"StartError(Panic("no state"))"#;
        check_init_now(|| panic!("no state"), Some(failed));
    }

    #[test]
    fn commands_of_a_level_reach_its_children() {
        let level = Arc::new(Level::new());
        let acceptor = Arc::new(acceptor_fn(|_| async { Ok(()) }));
        let child: Arc<dyn ErasedChild<Nowhere>> = acceptor.make_child(&level, 0);
        let stop = Arc::clone(&child).connection_control().trap_stop();
        level.raise(crate::machine::command::Command::Stop);
        assert!(!stop.is_set());
        child.control().notify();
        assert!(stop.is_set());
        assert_eq!(child.mark(), 0);
    }
}
