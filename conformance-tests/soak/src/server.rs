//! The acceptors of the pool: callbacks that fail at random, and a `serve` that follows the clients' commands.

use std::future::pending;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{
    Acceptor, BoxError, Configure, Connection, Event as PoolEvent, Exit, Failure, Init, Lifecycle,
    ListenerInfo, Restart, Runtime, Spec, StreamOf, Terminate, is_peer_gone, observer_fn,
};
use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Behavior, FAREWELL, Outcome};
use crate::context::{Context, InitAnswer};
use crate::history::{Count, Event, Step, lock};
use crate::process;
use conformance_tests::{Broken, IpWorld};

/// The state that all acceptors of a pool share.
pub(crate) struct Server<W> {
    pub(crate) world: Arc<W>,
    pub(crate) context: Arc<Context>,
}

impl<W: IpWorld> Server<W> {
    /// Returns a spec of the pool, with acceptors like this one.
    pub(crate) fn spec(&self, id: &str) -> Spec<Server<W>> {
        let (world, context) = (Arc::clone(&self.world), Arc::clone(&self.context));
        let mut settings = context.setup.settings.clone();
        settings.id = id.into();
        let observer = Arc::clone(&context);
        let observer = observer_fn(move |report| observer.history.record(seen(&report.event)));
        Spec::from_settings(settings, Server { world, context }).observer(observer)
    }

    /// The init function of the pool.
    pub(crate) fn init_pool(&self) -> Result<Configure<Server<W>>, BoxError> {
        let answer = *lock(&self.context.init);
        match answer {
            InitAnswer::Use => Ok(Configure::Use(self.spec("init"))),
            InitAnswer::Ignore => Ok(Configure::Ignore),
            InitAnswer::Error => Err("an injected error of the init function".into()),
            InitAnswer::Panic => resume_unwind(Box::new("an injected panic")),
        }
    }
}

/// Converts a report to an event of the history.
fn seen(event: &PoolEvent<SocketAddr>) -> Event {
    let one = |count| Event::Counted(count, 1);
    match event {
        PoolEvent::StartError { .. } => one(Count::StartErrorReport),
        PoolEvent::ListenerFailed { .. } => one(Count::ListenerReport),
        PoolEvent::PoolStopped { .. } => one(Count::PoolStoppedReport),
        PoolEvent::AcceptPaused { error, .. } if process::is_exhaustion(error) => {
            one(Count::PauseReport)
        }
        PoolEvent::ReportsLost { lost, .. } => Event::Counted(Count::LostReport, lost.total()),
        PoolEvent::KilledWhileStopping { count, .. } => {
            Event::Counted(Count::KilledInStopReport, *count as u64)
        }
        PoolEvent::AcceptorFailed { failure, .. } => match failure {
            Failure::Panic(_) => one(Count::AcceptorPanicReport),
            Failure::Killed => one(Count::AcceptorKillReport),
            _ => unexplained(event),
        },
        PoolEvent::ConnectionFailed {
            child,
            peer,
            failure,
            ..
        } => match failure {
            Failure::Error(_) => one(Count::ErrorReport),
            Failure::Panic(_) => one(Count::PanicReport),
            Failure::Killed => Event::Connection(*peer, Step::Killed(*child)),
            _ => unexplained(event),
        },
        _ => unexplained(event),
    }
}

/// Converts a report that no injected fault explains, such as a lost or stuck child, to a failure.
fn unexplained(event: &PoolEvent<SocketAddr>) -> Event {
    Event::Wrong(Broken::new("only expected reports", format!("{event:?}")))
}

impl<W: IpWorld> Acceptor<W::Listener> for Server<W> {
    type State = State;
    type Exit = Result<Exit, BoxError>;

    async fn init(&self, _listener: &ListenerInfo<SocketAddr>) -> Result<Init<State>, BoxError> {
        let context = &self.context;
        let mut random = context.random();
        let mut some = |most| Duration::from_millis(random.u64(1..most));
        let (pause, timeout) = (some(5), some(50));
        if random.u32(0..20) == 0 {
            let runtime = self.world.runtime();
            runtime.sleep_until(runtime.now() + pause).await;
        }
        // A temporary pool survives everything except a failure of `init`.
        let may_fail = context.setup.settings.restart == Restart::Transient;
        let draw = random.u32(0..1000);
        if draw < 8 && may_fail {
            context.history.count(Count::InitFailure);
        }
        let state = || State {
            context: Arc::clone(context),
            end: Some(Event::Counted(Count::StateDropped, 1)),
            _alive: Arc::clone(&context.states),
        };
        match draw {
            0..4 if may_fail => Err("an injected error of init".into()),
            4..8 if may_fail => resume_unwind(Box::new("an injected panic of init")),
            8..40 => Ok(Init::Ignore),
            40..60 => Ok(Init::AcceptWithin(state(), Duration::ZERO)),
            60..250 => Ok(Init::AcceptWithin(state(), timeout)),
            250..350 => Ok(Init::Hibernate(state())),
            _ => Ok(Init::Accept(state())),
        }
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<W::Listener>, SocketAddr>,
        mut state: State,
    ) -> Result<Exit, BoxError> {
        let (client, child) = (connection.peer_addr, connection.id);
        let begins = Event::Connection(client, Step::Served(child, connection.local_addr));
        self.context.history.record(begins);
        let mut ends = |outcome| {
            let end = Event::Connection(client, Step::ServeEnds(child, outcome));
            state.end = Some(end);
        };
        ends(Outcome::Dropped);
        let lifecycle = connection.lifecycle;
        // Declared after the state, so dropped before it: the socket is closed when the state records the end.
        let mut stream = self.world.stream(connection.stream);
        let result = serve(&mut stream, &lifecycle, || ends(Outcome::Panic)).await;
        ends(match &result {
            Ok(outcome) => *outcome,
            Err(error) if is_peer_gone(&**error) => Outcome::Disconnected,
            Err(_) => Outcome::Error,
        });
        result.map(|outcome| match outcome {
            Outcome::Clean => Exit::clean("as commanded"),
            _ => Exit::normal(),
        })
    }

    async fn terminate(&self, _reason: &Terminate, mut state: State) {
        state.end = None;
        if self.context.random().u32(0..200) == 0 {
            self.context.history.count(Count::TerminatePanic);
            resume_unwind(Box::new("an injected panic of terminate"));
        }
    }
}

/// Echoes, and ends as the client commands.
async fn serve<S: AsyncReadExt + AsyncWriteExt + Unpin>(
    stream: &mut S,
    lifecycle: &Lifecycle,
    panics: impl FnOnce(),
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
        let command = words.last().copied().and_then(Behavior::from_command);
        if let Some(Behavior::TrapStop | Behavior::AwaitDraining | Behavior::Stay) = command {
            stop = Some(lifecycle.trap_stop().wait());
        }
        stream.write_all(words).await?;
        stream.flush().await?;
        match command {
            Some(Behavior::HalfClose) => farewell = Some(FAREWELL),
            Some(Behavior::Talk | Behavior::TalkAtLength) => return Ok(Outcome::Normal),
            Some(Behavior::ExitCleanly) => return Ok(Outcome::Clean),
            Some(Behavior::Fail) => return Err("a commanded error of serve".into()),
            Some(Behavior::Panic) => {
                panics();
                resume_unwind(Box::new("a commanded panic of serve"));
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

/// The state of an acceptor. Its drop records its end, which is the end of the connection if it is in `serve`.
pub(crate) struct State {
    context: Arc<Context>,
    end: Option<Event>,
    _alive: Arc<()>,
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            self.context.history.record(end);
        }
    }
}
