//! The acceptors of the pool: callbacks that fail by chance, and `serve` as the clients order it.

use std::future::pending;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{
    Acceptor, BoxError, ChildId, Configure, Connection, Event as PoolEvent, Exit, Failure, Init,
    Lifecycle, ListenerInfo, Restart, Runtime, Spec, StreamOf, Terminate, is_peer_gone,
    observer_fn,
};
use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Behavior, FAREWELL, Outcome};
use crate::context::{Context, InitAnswer};
use crate::history::{Count, Event, lock};
use crate::process;
use conformance_tests::{Broken, World};

/// What all acceptors of a pool share.
pub(crate) struct Server<W> {
    world: Arc<W>,
    context: Arc<Context>,
}

/// The id of the spec that the init function of the pool answers.
pub(crate) const INIT_SPEC: &str = "init";

/// A spec of the pool.
pub(crate) fn spec<W: World>(world: &Arc<W>, context: &Arc<Context>, id: &str) -> Spec<Server<W>> {
    let setup = context.setup;
    let server = Server {
        world: Arc::clone(world),
        context: Arc::clone(context),
    };
    let context = Arc::clone(context);
    Spec::new(id, server)
        .restart(setup.restart)
        .intensity(setup.intensity)
        .period(setup.period)
        .lame_duck(setup.lame_duck)
        .grace(setup.grace)
        .shutdown(setup.shutdown)
        .kill_timeout(context.patience.length())
        .observer(observer_fn(move |report| {
            context.history.record(reported(&report.event));
        }))
}

/// The init function of the pool.
pub(crate) fn init<W: World>(
    world: &Arc<W>,
    context: &Arc<Context>,
) -> Result<Configure<Server<W>>, BoxError> {
    let answer = *lock(&context.answer);
    match answer {
        InitAnswer::Use => Ok(Configure::Use(spec(world, context, INIT_SPEC))),
        InitAnswer::Ignore => Ok(Configure::Ignore),
        InitAnswer::Error => Err("a planned error of the init function".into()),
        InitAnswer::Panic => resume_unwind(Box::new("a planned panic")),
    }
}

/// What a report says to the checker.
fn reported(event: &PoolEvent<SocketAddr>) -> Event {
    let count = match event {
        PoolEvent::ConnectionFailed {
            child,
            peer,
            failure: Failure::Killed,
            ..
        } => {
            return Event::Killed {
                client: *peer,
                child: *child,
            };
        }
        PoolEvent::AcceptPaused {
            error, suppressed, ..
        } => {
            if process::is_exhaustion(error) {
                return Event::Counted(Count::PauseReport, 1 + suppressed);
            }
            let expected = "a listener pauses for want of descriptors";
            return Event::Wrong(Broken::new(expected, error.to_string()));
        }
        PoolEvent::ReportsLost { lost, .. } => {
            return Event::Counted(Count::LostReport, lost.total());
        }
        PoolEvent::KilledWhileStopping { count, .. } => {
            return Event::Counted(Count::KilledInStopReport, *count as u64);
        }
        PoolEvent::Stuck { count, .. } => {
            return Event::Counted(Count::StuckChild, *count as u64);
        }
        PoolEvent::StartError { .. } => Count::StartErrorReport,
        PoolEvent::AcceptorFailed { failure, .. } => match failure {
            Failure::Panic(_) => Count::AcceptorPanicReport,
            Failure::Killed => Count::AcceptorKillReport,
            Failure::Lost => Count::LostChild,
            _ => Count::OtherReport,
        },
        PoolEvent::ConnectionFailed { failure, .. } => match failure {
            Failure::Error(_) => Count::ErrorReport,
            Failure::Panic(_) => Count::PanicReport,
            Failure::Lost => Count::LostChild,
            _ => Count::OtherReport,
        },
        PoolEvent::ListenerFailed { .. } => Count::ListenerReport,
        PoolEvent::PoolStopped { .. } => Count::PoolStoppedReport,
        _ => Count::OtherReport,
    };
    Event::Counted(count, 1)
}

impl<W: World> Acceptor<W::Listener> for Server<W> {
    type State = State;
    type Exit = Result<Exit, BoxError>;

    async fn init(&self, listener: &ListenerInfo<SocketAddr>) -> Result<Init<State>, BoxError> {
        let context = &self.context;
        context.remember(listener.child);
        let mut random = context.random();
        if random.u32(0..20) == 0 {
            let runtime = self.world.runtime();
            let pause = Duration::from_millis(random.u64(1..5));
            runtime.sleep_until(runtime.now() + pause).await;
        }
        // A temporary pool survives everything except a failure of `init`.
        let may_fail = context.setup.restart == Restart::Transient;
        let state = || State::new(context);
        match random.u32(0..1000) {
            0..4 if may_fail => {
                context.history.count(Count::InitFailed);
                Err("a planned error of init".into())
            }
            4..8 if may_fail => {
                context.history.count(Count::InitFailed);
                resume_unwind(Box::new("a planned panic of init"))
            }
            8..40 => Ok(Init::Ignore),
            40..60 => Ok(Init::AcceptWithin(state(), Duration::ZERO)),
            60..250 => {
                let timeout = Duration::from_millis(random.u64(1..50));
                Ok(Init::AcceptWithin(state(), timeout))
            }
            250..350 => Ok(Init::Hibernate(state())),
            _ => Ok(Init::Accept(state())),
        }
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<W::Listener>, SocketAddr>,
        state: State,
    ) -> Result<Exit, BoxError> {
        // The first local of this future, so the last that is dropped: the socket is gone when the end is recorded.
        let mut serving = Serving::new(&self.context, &connection);
        state.end(Count::StateServed);
        let Connection {
            stream, lifecycle, ..
        } = connection;
        let mut stream = self.world.stream(stream);
        let result = serve(&mut stream, &lifecycle, &mut serving.outcome).await;
        serving.outcome = match &result {
            Ok(outcome) => *outcome,
            Err(error) if is_peer_gone(&**error) => Outcome::Disconnected,
            Err(_) => Outcome::Error,
        };
        result.map(|outcome| match outcome {
            Outcome::Clean => Exit::clean("as ordered"),
            _ => Exit::normal(),
        })
    }

    async fn terminate(&self, _reason: &Terminate, state: State) {
        state.end(Count::StateTerminated);
        if self.context.random().u32(0..200) == 0 {
            self.context.history.count(Count::TerminatePanicked);
            resume_unwind(Box::new("a planned panic of terminate"));
        }
    }
}

/// Echoes, and ends as the client orders. Before a panic `outcome` is set.
async fn serve<S: AsyncReadExt + AsyncWriteExt + Unpin>(
    stream: &mut S,
    lifecycle: &Lifecycle,
    outcome: &mut Outcome,
) -> Result<Outcome, BoxError> {
    let mut buffer = [0; 1024];
    let (mut stop, mut farewell) = (None, None);
    loop {
        let count = match &mut stop {
            None => stream.read(&mut buffer).await?,
            Some(stop) => match select(stop, stream.read(&mut buffer)).await {
                Either::Left(((), _)) => return Ok(Outcome::Clean),
                Either::Right((count, _)) => count?,
            },
        };
        if count == 0 {
            stream.write_all(farewell.unwrap_or_default()).await?;
            stream.flush().await?;
            return Ok(Outcome::Normal);
        }
        let words = &buffer[..count];
        let order = words.last().copied().and_then(Behavior::ordered_by);
        if let Some(Behavior::TrapStop | Behavior::AwaitDraining | Behavior::Stay) = order {
            stop = Some(lifecycle.trap_stop().wait());
        }
        stream.write_all(words).await?;
        stream.flush().await?;
        match order {
            Some(Behavior::HalfClose) => farewell = Some(FAREWELL),
            Some(Behavior::Talk | Behavior::TalkAtLength) => return Ok(Outcome::Normal),
            Some(Behavior::ExitCleanly) => return Ok(Outcome::Clean),
            Some(Behavior::Fail) => return Err("an ordered error of serve".into()),
            Some(Behavior::Panic) => {
                *outcome = Outcome::Panic;
                resume_unwind(Box::new("an ordered panic of serve"));
            }
            Some(Behavior::AwaitDraining) => {
                lifecycle.draining().wait().await;
                return Ok(Outcome::Normal);
            }
            Some(Behavior::Stay) => pending().await,
            _ => {}
        }
    }
}

/// A call of `serve`, from its first poll until its future is dropped.
struct Serving {
    context: Arc<Context>,
    client: SocketAddr,
    child: ChildId,
    outcome: Outcome,
}

impl Serving {
    fn new<S>(context: &Arc<Context>, connection: &Connection<S, SocketAddr>) -> Self {
        let (client, child) = (connection.peer_addr, connection.id);
        context.history.record(Event::ServeBegan {
            client,
            local: connection.local_addr,
            child,
        });
        Self {
            context: Arc::clone(context),
            client,
            child,
            outcome: Outcome::Dropped,
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.context.history.record(Event::ServeEnded {
            client: self.client,
            child: self.child,
            outcome: self.outcome,
        });
    }
}

/// The state of an acceptor, from `init` to the end of its wait.
pub(crate) struct State {
    context: Arc<Context>,
    end: Count,
}

impl State {
    fn new(context: &Arc<Context>) -> Self {
        context.history.count(Count::StateMade);
        Self {
            context: Arc::clone(context),
            end: Count::StateDropped,
        }
    }

    fn end(mut self, end: Count) {
        self.end = end;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.context.history.count(self.end);
    }
}
