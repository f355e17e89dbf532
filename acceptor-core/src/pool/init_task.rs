//! The task of a child in `init`: ends with the child waiting, or with its end.
//!
//! Invariants: the child waits, or its end is reported, exactly once, even if the runtime drops the
//! task; from then on the task no longer uses its seat.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::acceptor::Init;
use crate::child::control::Control;
use crate::error::BoxError;
use crate::listener::Listener;
use crate::machine::child_end::{ChildEnd, WaitTime};
use crate::pool::lane::{Arrival, Arrived, Factory, Member};
use crate::pool::shared::PoolShared;
use crate::pool::typed_lane::LARGEST_FUTURE;
use crate::report::Failure;
use crate::runtime::Runtime;
use crate::sync::{DropCatching, Shared, catch_panic};

/// The result of an `init`.
enum InitOutcome<S> {
    /// The acceptor waits with its state, up to its accept timeout if it has one.
    Waits(DropCatching<S>, Option<Duration>),
    Ended(ChildEnd),
}

pin_project! {
    pub(crate) struct InitTask<R: Runtime, L: Listener, S, F>
    where
        S: Send,
        S: 'static,
    {
        member: Member<R, L>,
        generation: u64,
        factory: Shared<dyn Factory<R, L>>,
        // `None` once it is over.
        #[pin]
        init: Option<F>,
        state: std::marker::PhantomData<fn() -> S>,
    }

    impl<R: Runtime, L: Listener, S, F> PinnedDrop for InitTask<R, L, S, F>
    where
        S: Send,
        S: 'static,
    {
        fn drop(this: Pin<&mut Self>) {
            if this.init.is_some() {
                this.member.control.count_poll();
                this.finish(InitOutcome::Ended(ChildEnd::Lost));
            }
        }
    }
}

/// The shortest accept timeout that needs no spacing: a shorter one would be a busy loop of
/// restarts (B6).
const MIN_ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);

impl<R: Runtime, L: Listener, S: Send + 'static, F> InitTask<R, L, S, F>
where
    F: Future<Output = Result<Init<S>, BoxError>> + Send + 'static,
{
    /// Runs `init` in a task of its own.
    pub(crate) fn spawn(
        member: Member<R, L>,
        generation: u64,
        factory: Shared<dyn Factory<R, L>>,
        init: F,
    ) {
        let listener = Arc::clone(&member.listener);
        if const { size_of::<F>() > LARGEST_FUTURE } {
            let task = InitTask::new(member, generation, factory, Box::pin(init));
            listener.host.spawn(task);
        } else {
            listener
                .host
                .spawn(Self::new(member, generation, factory, init));
        }
    }
}

impl<R: Runtime, L: Listener, S: Send + 'static, F> InitTask<R, L, S, F> {
    fn new(
        member: Member<R, L>,
        generation: u64,
        factory: Shared<dyn Factory<R, L>>,
        init: F,
    ) -> Self {
        Self {
            member,
            generation,
            factory,
            init: Some(init),
            state: std::marker::PhantomData,
        }
    }

    /// Drops the contents of `init`. Then the child waits or ends, and the counted poll ends.
    fn finish(self: Pin<&mut Self>, outcome: InitOutcome<S>) {
        let mut this = self.project();
        let dropped = catch_panic(|| this.init.set(None));
        let member = &*this.member;
        member.control.unregister();
        let end = match (outcome, dropped) {
            (InitOutcome::Waits(state, timeout), Ok(())) => {
                // First: another thread may poll the child as soon as it waits, and only one may
                // count at a time.
                member.control.count_poll();
                let arrived = Arrived {
                    id: member.id(),
                    generation: *this.generation,
                    deadline: timeout.and_then(|timeout| deadline(&member.shared, timeout)),
                    state: DropCatching::new(Box::new(state.into_inner())),
                };
                let factory = this.factory.clone();
                let arrival = Arrival { arrived, factory };
                let (shared, listener) = (&member.shared, &member.listener);
                return shared.waits(listener, arrival, &member.control);
            }
            (InitOutcome::Waits(state, _), Err(message)) => {
                drop(state);
                ChildEnd::StartError(Failure::Panic(message))
            }
            // The first failure counts.
            (InitOutcome::Ended(end @ ChildEnd::StartError(_)), _)
            | (InitOutcome::Ended(end), Ok(())) => end,
            (InitOutcome::Ended(_), Err(message)) => ChildEnd::Panic(message, WaitTime::Long),
        };
        member.ended(end);
    }
}

fn deadline<R: Runtime, L: Listener>(
    shared: &PoolShared<R, L>,
    timeout: Duration,
) -> Option<(std::time::Instant, WaitTime)> {
    let wait_time = if timeout < MIN_ACCEPT_TIMEOUT {
        WaitTime::Short
    } else {
        WaitTime::Long
    };
    Some((shared.time().checked_add(timeout)?, wait_time))
}

fn commanded(control: &Control, generation: u64) -> Option<ChildEnd> {
    let commands = control.commands_to(generation);
    if commands.kill() {
        Some(ChildEnd::Killed)
    } else if commands.end_waiting().is_some() {
        // It has no state to terminate with (L3, S3).
        Some(ChildEnd::Stopped)
    } else {
        None
    }
}

fn poll_init<S, F: Future<Output = Result<Init<S>, BoxError>>>(
    control: &Control,
    generation: u64,
    init: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<InitOutcome<S>> {
    control.register(cx.waker());
    if let Some(end) = commanded(control, generation) {
        return Poll::Ready(InitOutcome::Ended(end));
    }
    let Some(init) = init.as_pin_mut() else {
        return Poll::Pending;
    };
    let (state, timeout) = match init.poll(cx) {
        Poll::Ready(Ok(Init::Accept(state) | Init::Hibernate(state))) => (state, None),
        Poll::Ready(Ok(Init::AcceptWithin(state, timeout))) => (state, Some(timeout)),
        Poll::Ready(Ok(Init::Ignore)) => {
            return Poll::Ready(InitOutcome::Ended(ChildEnd::Ignored));
        }
        Poll::Ready(Err(error)) => {
            let failure = Failure::Error(error.into());
            return Poll::Ready(InitOutcome::Ended(ChildEnd::StartError(failure)));
        }
        // Commanded while it was polled: this is its suspension point.
        Poll::Pending => {
            return match commanded(control, generation) {
                Some(end) => Poll::Ready(InitOutcome::Ended(end)),
                None => Poll::Pending,
            };
        }
    };
    Poll::Ready(InitOutcome::Waits(DropCatching::new(state), timeout))
}

impl<R, L, S, F> Future for InitTask<R, L, S, F>
where
    R: Runtime,
    L: Listener,
    S: Send + 'static,
    F: Future<Output = Result<Init<S>, BoxError>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.as_mut().project();
        if this.init.is_none() {
            return Poll::Ready(());
        }
        let (control, generation) = (&this.member.control, *this.generation);
        control.count_poll();
        let polled = catch_panic(|| poll_init(control, generation, this.init.as_mut(), cx));
        let outcome = match polled {
            Ok(Poll::Pending) => {
                control.count_poll();
                return Poll::Pending;
            }
            Ok(Poll::Ready(outcome)) => outcome,
            Err(message) => InitOutcome::Ended(ChildEnd::StartError(Failure::Panic(message))),
        };
        self.finish(outcome);
        Poll::Ready(())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::acceptor::{Acceptor, ListenerInfo};
    use crate::connection::Connection;
    use crate::listener::testing::Nowhere;
    use crate::pool::listener_shared::testing::with_factory;
    use crate::pool::spec::ErasedSpec;
    use crate::runtime::testing::Tasks;
    use crate::spec::Spec;
    use crate::sync::lock;

    struct Ready;

    impl Acceptor<Nowhere> for Ready {
        type State = ();
        type Exit = Result<(), BoxError>;

        async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, BoxError> {
            Ok(Init::Accept(()))
        }

        async fn serve(&self, _: Connection<(), SocketAddr>, (): ()) -> Result<(), BoxError> {
            Ok(())
        }
    }

    /// Stands for the accept loop: reads the polls of a child when the child begins to wait.
    struct Reads {
        child: Control,
        polls: Mutex<Vec<u32>>,
    }

    impl Wake for Reads {
        fn wake(self: Arc<Self>) {
            lock(&self.polls).push(self.child.mark());
        }
    }

    /// From then on another thread may poll it, and two threads must not count its polls concurrently (S8).
    #[test]
    fn waiting_child_is_outside_a_poll() {
        let spec = ErasedSpec::checked(Spec::new("test", Ready)).expect("the spec is allowed");
        let shared = PoolShared::new(Tasks::new(), spec);
        let listener = with_factory(1, Arc::new(Ready));
        let (control, generation) = {
            let table = &mut lock(&listener.children).table;
            let start = table.take_starts(1, shared.time()).remove(0);
            table.begin(start).expect("the child has a row")
        };
        let reads = Arc::new(Reads {
            child: control.clone(),
            polls: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&reads));
        listener
            .inbox
            .collect(&mut VecDeque::new(), false, None, &waker);
        let member = Member {
            shared: Arc::clone(&shared),
            listener: Arc::clone(&listener),
            control,
        };
        Factory::spawn_init(Arc::new(Ready), member, generation);
        shared.runtime.run();
        listener.host.runtime.run();
        assert_eq!(*lock(&reads.polls), [2]);
        assert_eq!(lock(&listener.children).table.tally().waiting, 1);
    }
}
