//! What the pool's children do: acceptors of every character, and `serve` as the clients order it.

use std::future::pending;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{
    Acceptor, BoxError, ChildId, Connection, Exit, Init, Lifecycle, ListenerInfo, Restart, Runtime,
    StreamOf, Terminate, is_peer_gone,
};
use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};

use super::scene::Scene;
use super::way::{FAREWELL, Order, Outcome};
use conformance_tests::World;

/// What all acceptors of a pool share.
pub(super) struct Server<W> {
    pub(super) world: Arc<W>,
    pub(super) scene: Arc<Scene>,
}

/// How much is read at once.
const AT_ONCE: usize = 1024;

impl<W: World> Acceptor<W::Listener> for Server<W> {
    type State = State;
    type Exit = Result<Exit, BoxError>;

    async fn init(&self, listener: &ListenerInfo<SocketAddr>) -> Result<Init<State>, BoxError> {
        let scene = &self.scene;
        scene.remembers(listener.child);
        let mut random = scene.random();
        if random.u32(0..20) == 0 {
            let runtime = self.world.runtime();
            let pause = Duration::from_millis(random.u64(1..5));
            runtime.sleep_until(runtime.now() + pause).await;
        }
        let within = |time| Ok(Init::AcceptWithin(State::new(scene), time));
        match random.u32(0..1000) {
            // A temporary pool survives all but these.
            0..4 if scene.restart == Restart::Transient => {
                scene.counters.start_errors.up();
                Err("an error of init, as planned".into())
            }
            4..8 if scene.restart == Restart::Transient => {
                scene.counters.start_errors.up();
                resume_unwind(Box::new("a panic of init, as planned"))
            }
            8..40 => Ok(Init::Ignore),
            40..60 => within(Duration::ZERO),
            60..250 => within(Duration::from_millis(random.u64(1..50))),
            250..350 => Ok(Init::Hibernate(State::new(scene))),
            _ => Ok(Init::Accept(State::new(scene))),
        }
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<W::Listener>, SocketAddr>,
        state: State,
    ) -> Result<Exit, BoxError> {
        // Dropped after all else that is in here: the end is told when the socket is gone.
        let mut serving = Serving::begins(&self.scene, &connection);
        state.count_served();
        let Connection {
            stream, lifecycle, ..
        } = connection;
        let mut stream = self.world.stream(stream);
        let result = serve(&mut stream, &lifecycle, &mut serving).await;
        serving.outcome = match &result {
            Ok(Left::Normally) => Outcome::Normal,
            Ok(Left::Cleanly) => Outcome::Clean,
            Err(error) if is_peer_gone(&**error) => Outcome::Disconnected,
            Err(_) => Outcome::Error,
        };
        result.map(Left::into_exit)
    }

    async fn terminate(&self, _reason: &Terminate, state: State) {
        state.count_terminated();
        let mut random = self.scene.random();
        if random.u32(0..200) == 0 {
            self.scene.counters.terminate_panics.up();
            resume_unwind(Box::new("a panic of terminate, as planned"));
        }
    }
}

/// How a session leaves that has no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Normally,
    Cleanly,
}

impl Left {
    fn into_exit(self) -> Exit {
        match self {
            Left::Normally => Exit::normal(),
            Left::Cleanly => Exit::clean("as ordered"),
        }
    }
}

/// Says all that it hears, and does what it is ordered to.
async fn serve<S: AsyncReadExt + AsyncWriteExt + Unpin>(
    stream: &mut S,
    lifecycle: &Lifecycle,
    serving: &mut Serving,
) -> Result<Left, BoxError> {
    let mut said = [0; AT_ONCE];
    let (mut stop, mut last_words) = (None, None);
    loop {
        let count = match &mut stop {
            None => stream.read(&mut said).await?,
            Some(stop) => match select(stop, stream.read(&mut said)).await {
                Either::Left(((), _)) => return Ok(Left::Cleanly),
                Either::Right((count, _)) => count?,
            },
        };
        if count == 0 {
            if let Some(words) = last_words {
                stream.write_all(words).await?;
                stream.flush().await?;
            }
            return Ok(Left::Normally);
        }
        let said = &said[..count];
        let order = Order::at_the_end_of(said);
        if let Some(Order::TrapStop | Order::AwaitDraining | Order::Stay) = order {
            stop = Some(lifecycle.trap_stop().wait());
        }
        stream.write_all(said).await?;
        stream.flush().await?;
        match order {
            None | Some(Order::TrapStop) => {}
            Some(Order::SayFarewell) => last_words = Some(FAREWELL),
            Some(Order::Leave) => return Ok(Left::Normally),
            Some(Order::LeaveCleanly) => return Ok(Left::Cleanly),
            Some(Order::Fail) => return Err("an error of serve, as ordered".into()),
            Some(Order::Panic) => {
                serving.outcome = Outcome::Panic;
                resume_unwind(Box::new("a panic of serve, as ordered"));
            }
            Some(Order::AwaitDraining) => {
                let draining = pin!(lifecycle.draining().wait());
                draining.await;
                return Ok(Left::Normally);
            }
            Some(Order::Stay) => pending().await,
        }
    }
}

/// A call of `serve`, from its first poll until its future is gone.
struct Serving {
    scene: Arc<Scene>,
    peer: SocketAddr,
    child: ChildId,
    /// What is told when it is dropped.
    outcome: Outcome,
}

impl Serving {
    fn begins<S>(scene: &Arc<Scene>, connection: &Connection<S, SocketAddr>) -> Self {
        let (peer, child) = (connection.peer_addr, connection.id);
        let (local, listener) = (connection.local_addr, connection.listener);
        scene.ledger.begins(peer, local, listener, child);
        Self {
            scene: Arc::clone(scene),
            peer,
            child,
            outcome: Outcome::Dropped,
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let ledger = &self.scene.ledger;
        ledger.ends(self.peer, self.child, self.outcome);
    }
}

/// What an acceptor has from `init` to the end of its wait.
pub(super) struct State {
    scene: Arc<Scene>,
    became: Became,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    Nothing,
    Served,
    Terminated,
}

impl State {
    fn new(scene: &Arc<Scene>) -> Self {
        scene.counters.states_made.up();
        scene.counters.states_alive.up();
        Self {
            scene: Arc::clone(scene),
            became: Became::Nothing,
        }
    }

    fn count_served(mut self) {
        self.became = Became::Served;
    }

    fn count_terminated(mut self) {
        self.became = Became::Terminated;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let counters = &self.scene.counters;
        match self.became {
            Became::Nothing => &counters.states_forsaken,
            Became::Served => &counters.states_served,
            Became::Terminated => &counters.states_terminated,
        }
        .up();
        counters.states_alive.down();
    }
}
