//! Plays a scenario in a simulated world, and keeps what was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use acceptor_core::{
    Acceptor, BoxError, ChildId, CleanExit, Connection, Init, ListenerId, ListenerInfo, Pool,
    PoolHandle, PoolState, Report, Runtime, Spec, Terminate,
};
use futures::{AsyncReadExt, FutureExt};

use super::{
    Action, Begun, Bound, Event, Farewell, Moment, Order, Return, Scenario, Then, milliseconds,
};
use crate::simulated::{
    Limits, Network, SimulatedClient, SimulatedListener, SimulatedRuntime, SimulatedStream,
    Simulation, Spurious, Statistics,
};

/// What a scenario came to that went as it should.
#[derive(Debug, Clone, Default)]
pub struct Played {
    /// How many steps were taken.
    pub steps: u64,
    /// How many pools were started.
    pub pools: u64,
    /// What was exercised, and how often.
    pub exercised: BTreeMap<&'static str, u64>,
    /// What the simulation did.
    pub statistics: Statistics,
    /// How much time passed in it.
    pub virtual_time: Duration,
}

/// What went otherwise than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// After which step; as many as there are steps: in the finale.
    pub step: usize,
    /// The rule that is broken.
    pub rule: &'static str,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            rule,
            expected,
            seen,
        } = self;
        write!(
            f,
            "{rule} is broken at step {step}: expected {expected}, seen {seen}"
        )
    }
}

/// Plays a scenario; what was exercised, or what went otherwise than it should.
///
/// # Errors
///
/// What went otherwise than it should.
pub fn play(scenario: &Scenario) -> Result<Played, Box<Failure>> {
    tell(scenario).1
}

/// The same, and everything that was seen on the way, also when it fails.
pub fn tell(scenario: &Scenario) -> (Vec<Moment>, Result<Played, Box<Failure>>) {
    let mut player = Player::new(scenario);
    for (number, step) in scenario.steps.iter().enumerate() {
        player.book.note(Event::Step(number, *step));
        player.simulation.reseed(u64::from(step.schedule));
        player.act(step.action);
        player.go_on(step.then);
    }
    player.book.note(Event::Finale);
    player.act(Action::Stop);
    player.go_on(Then::Pass(60_000));
    let mut exercised = BTreeMap::new();
    for moment in lock(&player.book.moments).iter() {
        let kind = match &moment.event {
            Event::Connected { .. } => "connects",
            Event::ServeBegan { .. } => "connections served",
            Event::Step(..) => "steps",
            _ => continue,
        };
        *exercised.entry(kind).or_insert(0) += 1;
    }
    let played = Played {
        steps: scenario.steps.len() as u64,
        pools: 1,
        exercised,
        statistics: player.simulation.statistics(),
        virtual_time: player.simulation.elapsed(),
    };
    let moments = lock(&player.book.moments).clone();
    player.simulation.close();
    (moments, Ok(played))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Book {
    simulation: Simulation,
    moments: Arc<Mutex<Vec<Moment>>>,
}

impl Book {
    fn note(&self, event: Event) {
        let at = self.simulation.elapsed();
        lock(&self.moments).push(Moment { at, event });
    }
}

struct Player {
    simulation: Simulation,
    network: Network,
    book: Book,
    pool: Pool<SimulatedRuntime, SimulatedListener>,
    state: PoolState,
    listeners: Vec<(ListenerId, std::net::SocketAddr)>,
    clients: Vec<SimulatedClient>,
}

impl Player {
    fn new(scenario: &Scenario) -> Self {
        let setting = &scenario.setting;
        let spurious = match setting.spurious {
            0 => Spurious::Never,
            many => Spurious::OneIn(many.into()),
        };
        let simulation = Simulation::new(scenario.seed, spurious);
        let limits = Limits {
            backlog: setting.backlog.into(),
            buffer: setting.buffer.into(),
        };
        let network = Network::new(&simulation, limits);
        network.keep_what_happens();
        let book = Book {
            simulation: simulation.clone(),
            moments: Arc::default(),
        };
        let observer = book.clone();
        let said = &setting.spec;
        let spec = Spec::new("simulated", Cast(book.clone()))
            .restart(said.restart())
            .intensity(said.intensity)
            .period(said.period())
            .child_type(said.child_type())
            .lame_duck(said.lame_duck())
            .grace(said.grace())
            .shutdown(said.shutdown())
            .patience(said.patience())
            .observer(move |report: &Report<_>| observer.note(Event::Reported(report.clone())));
        let pool = Pool::start(simulation.runtime(), spec).expect("the spec is allowed");
        book.note(Event::Started(1, *said));
        book.note(Event::State(PoolState::Running));
        Self {
            simulation,
            network,
            book,
            pool,
            state: PoolState::Running,
            listeners: Vec::new(),
            clients: Vec::new(),
        }
    }

    fn handle(&self) -> PoolHandle<SimulatedRuntime, SimulatedListener> {
        self.pool.handle()
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Listen { acceptors, bound } => {
                let address = match bound {
                    Bound::Loopback => "127.0.0.1:0",
                    Bound::Wildcard => "0.0.0.0:0",
                };
                let address = address.parse().expect("it is an address");
                let listener = self.network.listen(address).expect("a port is free");
                let address = acceptor_core::Listener::local_addr(&listener).expect("it is bound");
                let acceptors = usize::from(acceptors);
                if let Ok(id) = self.handle().add_listener(listener, acceptors) {
                    self.listeners.push((id, address));
                    self.book.note(Event::Listening {
                        listener: id,
                        address,
                        bound,
                        acceptors,
                    });
                }
            }
            Action::Close(number) if !self.listeners.is_empty() => {
                let (id, _) = self.listeners[usize::from(number) % self.listeners.len()];
                drop(self.handle().close_listener(id));
            }
            Action::Connect { listener, clients } if !self.listeners.is_empty() => {
                let (_, mut address) = self.listeners[usize::from(listener) % self.listeners.len()];
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                for _ in 0..clients {
                    match self.network.connect(address) {
                        Ok(client) => {
                            self.book.note(Event::Connected {
                                peer: client.address(),
                                listener: address,
                            });
                            self.clients.push(client);
                        }
                        Err(_) => self.book.note(Event::Refused { listener: address }),
                    }
                }
            }
            Action::Order { client, order } if !self.clients.is_empty() => {
                let client = &self.clients[usize::from(client) % self.clients.len()];
                let _ = client.try_send(&[order as u8]);
            }
            Action::Stop => {
                let _ = self.handle().stop().now_or_never();
            }
            _ => {}
        }
    }

    fn go_on(&mut self, then: Then) {
        match then {
            Then::Polls(polls) => {
                for _ in 0..polls {
                    self.poll();
                }
            }
            Then::Settle => self.settle(),
            Then::Pass(time) => {
                let end = self.simulation.now() + milliseconds(time);
                self.settle();
                while let Some(next) = self.simulation.next_timer().filter(|next| *next <= end) {
                    self.simulation.advance_to(next);
                    self.settle();
                }
                self.simulation.advance_to(end);
            }
            Then::Jump(time) => {
                let end = self.simulation.now() + milliseconds(time);
                self.simulation.advance_to(end);
                self.settle();
            }
        }
    }

    fn settle(&mut self) {
        while self.poll() {}
    }

    fn poll(&mut self) -> bool {
        let polled = self.simulation.poll_next().is_some();
        for happened in self.network.happened() {
            self.book.note(Event::Network(happened));
        }
        let state = match self.handle().status() {
            Ok(status) => status.state,
            Err(_) => PoolState::Stopped,
        };
        if state != self.state {
            self.state = state;
            self.book.note(Event::State(state));
        }
        polled
    }
}

struct Cast(Book);

impl Acceptor<SimulatedListener> for Cast {
    type State = ChildId;

    async fn init(
        &self,
        listener: &ListenerInfo<std::net::SocketAddr>,
    ) -> Result<Init<ChildId>, BoxError> {
        let child = listener.child;
        self.0.note(Event::InitBegan {
            child,
            listener: listener.id,
            generation: 1,
        });
        self.0.note(Event::InitEnded {
            child,
            how: Begun::Waits(None),
        });
        Ok(Init::Accept(child))
    }

    async fn serve(
        &self,
        mut connection: Connection<SimulatedStream, std::net::SocketAddr>,
        _state: ChildId,
    ) -> Result<(), BoxError> {
        let child = connection.id;
        self.0.note(Event::ServeBegan {
            child,
            listener: connection.listener,
            peer: connection.peer_addr,
            local: connection.local_addr,
        });
        let mut byte = [0];
        let how = loop {
            let order = match connection.stream.read(&mut byte).await {
                Ok(1..) => byte[0],
                _ => break Return::Normal,
            };
            let trap = || {
                self.0.note(Event::Trapped { child });
                connection.signals.trap_stop()
            };
            match order {
                order if order == Order::Return as u8 => break Return::Normal,
                order if order == Order::ExitCleanly as u8 => break Return::Clean,
                order if order == Order::Fail as u8 => break Return::Error,
                order if order == Order::Panic as u8 => break Return::Panic,
                order if order == Order::Trap as u8 => {
                    trap().wait().await;
                    break Return::Normal;
                }
                order if order == Order::TrapAndLeaveLate as u8 => {
                    trap().wait().await;
                    let runtime = self.0.simulation.runtime();
                    runtime
                        .sleep_until(runtime.now() + Duration::from_millis(20))
                        .await;
                    break Return::Normal;
                }
                order if order == Order::TrapAndStay as u8 => {
                    let _stop = trap();
                    pending::<()>().await;
                }
                order if order == Order::ReturnWhenDraining as u8 => {
                    connection.signals.draining().wait().await;
                    break Return::Normal;
                }
                _ => {}
            }
        };
        self.0.note(Event::ServeReturned { child, how });
        match how {
            Return::Normal => Ok(()),
            Return::Clean => Err(CleanExit::new().into()),
            Return::Error => Err("as told".into()),
            Return::Panic => std::panic::resume_unwind(Box::new("as told")),
        }
    }

    fn terminate(&self, reason: &Terminate, child: ChildId) -> impl Future<Output = ()> + Send {
        let reason = reason.clone();
        async move {
            self.0.note(Event::TerminateBegan { child, reason });
            let how = Farewell::Returned;
            self.0.note(Event::TerminateEnded { child, how });
        }
    }
}
