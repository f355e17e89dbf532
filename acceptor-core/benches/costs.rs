//! The cost of calls on a pool, by the number of its children, in memory and on one thread.
//!
//! Usage: `costs WHAT [NUMBER]`; see `costs.sh`, which counts the instructions of [`measured`], and `.ci/counts`.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use acceptor_core::{
    Acceptor, BoxError, Connection, Init, Listener, ListenerId, ListenerInfo, NoHandshake, Pool,
    Runtime, Spec, acceptor_fn,
};
use peak_alloc::PeakAlloc;

mod scale;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `costs.sh` counts the instructions of this function.
#[inline(never)]
fn measured<T>(run: impl FnOnce() -> T) -> T {
    black_box(run())
}

/// `.ci/counts` counts the instructions of this function. It is not generic, so that its symbol has the same name with every compiler.
#[inline(never)]
fn counted(run: &dyn Fn()) {
    run();
    black_box(());
}

/// A runtime that the benchmark drives, with a clock that it sets.
#[derive(Clone)]
struct ByHand(Arc<Hand>);

struct Hand {
    ready: Mutex<VecDeque<Arc<Task>>>,
    clock: Mutex<Instant>,
    timers: Mutex<BTreeMap<(Instant, usize), Waker>>,
    wakes: AtomicUsize,
    polls: AtomicUsize,
}

struct Task {
    hand: Arc<Hand>,
    queued: AtomicBool,
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.hand.wakes.fetch_add(1, Ordering::Relaxed);
        if !self.queued.swap(true, Ordering::SeqCst) {
            let hand = Arc::clone(&self.hand);
            lock(&hand.ready).push_back(self);
        }
    }
}

impl ByHand {
    fn new() -> Self {
        Self(Arc::new(Hand {
            ready: Mutex::default(),
            clock: Mutex::new(Instant::now()),
            timers: Mutex::default(),
            wakes: AtomicUsize::new(0),
            polls: AtomicUsize::new(0),
        }))
    }

    /// Runs until no task is ready.
    fn settle(&self) {
        while let Some(task) = { lock(&self.0.ready).pop_front() } {
            task.queued.store(false, Ordering::SeqCst);
            let Some(mut future) = lock(&task.future).take() else {
                continue;
            };
            self.0.polls.fetch_add(1, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&task));
            if future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
            {
                *lock(&task.future) = Some(future);
            }
        }
    }

    fn advance(&self, time: Duration) {
        let now = {
            let mut clock = lock(&self.0.clock);
            *clock += time;
            *clock
        };
        loop {
            let due = {
                let mut timers = lock(&self.0.timers);
                let first = timers.first_key_value().map(|(key, _)| *key);
                let first = first.filter(|(at, _)| *at <= now);
                first.and_then(|key| timers.remove(&key))
            };
            let Some(due) = due else { break };
            due.wake();
        }
        self.settle();
    }
}

impl Runtime for ByHand {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = Arc::new(Task {
            hand: Arc::clone(&self.0),
            queued: AtomicBool::new(false),
            future: Mutex::new(Some(Box::pin(task))),
        });
        task.wake();
    }

    async fn sleep_until(&self, deadline: Instant) {
        let hand = Arc::clone(&self.0);
        let mut key = None;
        poll_fn(move |cx| {
            if *lock(&hand.clock) >= deadline {
                return Poll::Ready(());
            }
            let mut timers = lock(&hand.timers);
            let key = *key.get_or_insert_with(|| {
                let after = timers.range((deadline, 0)..=(deadline, usize::MAX));
                (deadline, after.last().map_or(0, |((_, last), _)| last + 1))
            });
            timers.insert(key, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn now(&self) -> Instant {
        *lock(&self.0.clock)
    }
}

/// A connection that lasts until the benchmark ends it.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<(bool, Option<Waker>)>>);

impl Stream {
    fn end(&self) {
        let waker = {
            let mut state = lock(&self.0);
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn ended(&self) {
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// An in-memory listener and its clients.
#[derive(Clone, Default)]
struct Port(Arc<Mutex<(VecDeque<Stream>, Option<Waker>)>>);

impl Port {
    fn connect(&self) -> Stream {
        let stream = Stream::default();
        let waker = {
            let mut state = lock(&self.0);
            state.0.push_back(stream.clone());
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        stream
    }
}

impl Listener for Port {
    type Io = Stream;
    type Addr = ();
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Stream, ())> {
        let stream = poll_fn(|cx| {
            let mut state = lock(&self.0);
            match state.0.pop_front() {
                Some(stream) => Poll::Ready(stream),
                None => {
                    state.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        Ok((stream.await, ()))
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }

    fn io_local_addr(_stream: &Stream) -> io::Result<()> {
        Ok(())
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// An acceptor whose state is a number, available at once as with a function, or from an `init` that is ready at its first poll.
/// With `EXPIRES` it has an accept timeout: one acceptor expires each second.
struct Numbered<const EXPIRES: bool> {
    states: AtomicUsize,
    at_once: bool,
}

impl<const EXPIRES: bool> Numbered<EXPIRES> {
    fn state(&self) -> usize {
        self.states.fetch_add(1, Ordering::Relaxed)
    }
}

impl<const EXPIRES: bool> Acceptor<Port> for Numbered<EXPIRES> {
    type State = usize;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<()>) -> Result<Init<usize>, BoxError> {
        let state = self.state();
        if EXPIRES {
            let timeout = Duration::from_secs(state as u64 + 1);
            return Ok(Init::AcceptWithin(state, timeout));
        }
        Ok(Init::Accept(state))
    }

    fn init_now(&self, _: &ListenerInfo<()>) -> Option<usize> {
        self.at_once.then(|| self.state())
    }

    async fn serve(&self, connection: Connection<Stream, ()>, _: usize) -> Result<(), BoxError> {
        connection.stream.ended().await;
        Ok(())
    }
}

/// Opens this many connections, and runs until no task is ready. They come in batches, so that no queue grows with their number.
fn connect(runtime: &ByHand, port: &Port, connections: usize) -> Vec<Stream> {
    let mut streams = Vec::with_capacity(connections);
    while streams.len() < connections {
        let batch = BATCH.min(connections - streams.len());
        streams.extend((0..batch).map(|_| port.connect()));
        runtime.settle();
    }
    streams
}

/// How many connections are opened before the tasks run.
const BATCH: usize = 1_000;

/// An accept loop without a pool.
fn bare() -> (ByHand, Port) {
    let (runtime, port) = (ByHand::new(), Port::default());
    let (spawns, accepts) = (runtime.clone(), port.clone());
    runtime.spawn(async move {
        while let Ok((stream, ())) = accepts.accept().await {
            spawns.spawn(async move { stream.ended().await });
        }
    });
    runtime.settle();
    (runtime, port)
}

struct World {
    runtime: ByHand,
    pool: Pool<ByHand, Port>,
}

impl World {
    fn new(acceptor: impl Acceptor<Port>) -> Self {
        Self::of(Spec::new("costs", acceptor))
    }

    fn of(spec: Spec<impl Acceptor<Port>, ()>) -> Self {
        let runtime = ByHand::new();
        let pool = Pool::start(runtime.clone(), spec).expect("the spec is allowed");
        runtime.settle();
        Self { runtime, pool }
    }

    fn serving() -> Self {
        Self::new(acceptor_fn(
            |connection: Connection<Stream, ()>| async move {
                connection.stream.ended().await;
                Ok(())
            },
        ))
    }

    fn numbered<const EXPIRES: bool>(at_once: bool) -> Self {
        let states = AtomicUsize::new(0);
        Self::new(Numbered::<EXPIRES> { states, at_once })
    }

    /// A pool with one listener of ten acceptors, and this many connections.
    fn with_connections(connections: usize) -> (Self, Port, Vec<Stream>) {
        let world = Self::serving();
        let (_, port) = world.listen(10);
        let streams = connect(&world.runtime, &port, connections);
        (world, port, streams)
    }

    fn listen(&self, acceptors: usize) -> (ListenerId, Port) {
        let port = Port::default();
        let id = self.pool.add_listener(port.clone(), acceptors);
        let id = id.expect("the pool runs");
        self.runtime.settle();
        (id, port)
    }

    fn close(&self, id: ListenerId) {
        let closed = self.pool.close_listener(id);
        self.runtime.settle();
        self.runtime.advance(Duration::from_millis(1));
        drop(closed);
    }
}

/// How often the measured call is repeated in one run.
const TIMES: usize = 100;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let what = arguments.next().unwrap_or_default();
    let number = arguments.next().and_then(|number| number.parse().ok());
    match (what.as_str(), number.unwrap_or(200_000)) {
        ("connection", acceptors) => connection(World::serving(), acceptors),
        ("connection-init-now", acceptors) => connection(World::numbered::<false>(true), acceptors),
        ("connection-init", acceptors) => connection(World::numbered::<false>(false), acceptors),
        ("close-beside-connections", connections) => close_beside_connections(connections),
        ("close-of-many", listeners) => close_of_many(listeners),
        ("timeout", acceptors) => timeout(acceptors),
        ("kill", connections) => end(connections, |pool| (pool.kill(), pool)),
        ("stop", connections) => end(connections, |pool| (pool.stop(), pool)),
        ("drop", connections) => end(connections, drop),
        ("add", acceptors) => add(acceptors),
        ("counts", connections) => counts(connections),
        ("heap", connections) => heap(connections),
        (what, number) if scale::run(what, number) => {}
        _ => eprintln!("see costs.sh"),
    }
}

/// How many connections are measured, one after the other.
const CONNECTIONS: usize = 2000;

/// Connections come one after the other; each is served and ends.
fn connection(world: World, acceptors: usize) {
    let (_, port) = world.listen(acceptors);
    let serve = || {
        for _ in 0..CONNECTIONS {
            let stream = port.connect();
            world.runtime.settle();
            stream.end();
            world.runtime.advance(Duration::from_millis(1));
        }
    };
    // Warm up: each queue and table reaches its final size.
    serve();
    let counters = [&world.runtime.0.wakes, &world.runtime.0.polls];
    let before = counters.map(|counter| counter.load(Ordering::Relaxed));
    counted(&serve);
    let after = counters.map(|counter| counter.load(Ordering::Relaxed));
    let counts = world.pool.counts().expect("the pool runs");
    assert_eq!((counts.acceptors, counts.connections), (acceptors, 0));
    println!("connections {CONNECTIONS}");
    println!("wake-ups {}", after[0] - before[0]);
    println!("polls {}", after[1] - before[1]);
}

/// A listener closes while another has connections.
fn close_beside_connections(connections: usize) {
    let (world, _, _streams) = World::with_connections(connections);
    let listeners: Vec<_> = (0..TIMES).map(|_| world.listen(10).0).collect();
    for id in listeners {
        measured(|| world.close(id));
    }
    assert_eq!(
        world.pool.counts().expect("it runs").connections,
        connections
    );
}

/// A few of many listeners close.
fn close_of_many(listeners: usize) {
    let world = World::serving();
    let ids: Vec<_> = (0..listeners).map(|_| world.listen(1).0).collect();
    for id in ids.iter().step_by(listeners / TIMES) {
        measured(|| world.close(*id));
    }
    // Until the last one has closed.
    world.runtime.advance(Duration::from_millis(1));
    assert_eq!(
        world.pool.listeners().expect("it runs").len(),
        listeners - TIMES
    );
}

/// One accept timeout expires, of many waiting acceptors.
fn timeout(acceptors: usize) {
    let world = World::numbered::<true>(false);
    world.listen(acceptors);
    for _ in 0..TIMES {
        measured(|| world.runtime.advance(Duration::from_secs(1)));
    }
    let next = world.pool.acceptors().expect("it runs");
    let youngest = next.iter().map(|acceptor| acceptor.id).max();
    println!("{youngest:?} of {}", next.len());
}

/// A call ends a pool that has connections. Its result is kept.
fn end<T>(connections: usize, call: impl FnOnce(Pool<ByHand, Port>) -> T) {
    let (world, _, _streams) = World::with_connections(connections);
    let World { runtime, pool } = world;
    let _kept = measured(|| call(pool));
    runtime.settle();
}

fn add(acceptors: usize) {
    let world = World::serving();
    measured(|| drop(world.pool.add_listener(Port::default(), acceptors)));
    world.runtime.settle();
    assert_eq!(world.pool.counts().expect("it runs").children(), acceptors);
}

/// How long `counts` takes while another thread lists the connections continuously.
fn counts(connections: usize) {
    let (world, _, _streams) = World::with_connections(connections);
    let (lists, stop) = (world.pool.handle(), Arc::new(AtomicBool::new(false)));
    let (began, stops) = (Instant::now(), Arc::clone(&stop));
    let listing = std::thread::spawn(move || {
        let mut times = 0;
        while !stops.load(Ordering::SeqCst) {
            assert_eq!(lists.connections().expect("it runs").len(), connections);
            times += 1;
        }
        times
    });
    let mut micros = Vec::new();
    while micros.len() < 21 {
        std::thread::sleep(Duration::from_millis(20));
        let began = Instant::now();
        let counts = world.pool.counts().expect("it runs");
        micros.push(began.elapsed().as_micros());
        assert_eq!(counts.connections, connections);
    }
    stop.store(true, Ordering::SeqCst);
    let lists = listing.join().expect("the list has each connection");
    micros.sort_unstable();
    println!(
        "counts() beside connections() of {connections}: median {} us, most {} us; {lists} lists in {:?}",
        micros[micros.len() / 2],
        micros[micros.len() - 1],
        began.elapsed()
    );
}

/// The memory that remains after all connections have ended, and after as many bare tasks.
fn heap(connections: usize) {
    let (runtime, port) = bare();
    let (_, bare) = come_and_go(&runtime, &port, connections);
    let (world, port, _) = World::with_connections(0);
    let (each, left) = come_and_go(&world.runtime, &port, connections);
    assert_eq!(world.pool.counts().expect("it runs").connections, 0);
    println!(
        "live heap with {connections} connections: {each} bytes each; after all have gone: {left} bytes more than before, of which bare tasks leave {bare}"
    );
}

/// The memory of each connection, and what remains after all of them.
fn come_and_go(runtime: &ByHand, port: &Port, connections: usize) -> (usize, usize) {
    let end = |streams: Vec<Stream>| {
        streams.iter().for_each(Stream::end);
        runtime.settle();
    };
    end(connect(runtime, port, 10));
    let before = HEAP.current_usage();
    let streams = connect(runtime, port, connections);
    let each = (HEAP.current_usage() - before) / connections.max(1);
    end(streams);
    (each, HEAP.current_usage().saturating_sub(before))
}
