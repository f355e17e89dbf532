//! What one more connection costs, by the number of children and of listeners that are there; what each of them takes of
//! memory; and what a stop of all of them costs.
//!
//! A connection is two events, its beginning and its end. They come one at a time: a client connects, all tasks run until none is
//! ready, the connection ends, and they run again. So each beginning wakes an accept loop. The figures include the runtime that
//! is run by hand and the stream in memory; those of bare tasks on the same runtime are beside them.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use acceptor_core::{Connection, Pool, Spec, StopReport, acceptor_fn};

use super::{ByHand, HEAP, Port, Runtime, Stream, World, measured};

/// How many connections come and go before it is measured, and while it is, unless the third argument says otherwise.
const CONNECTIONS: usize = 1_000;

/// How many are opened before the tasks run, so that no queue of the bench grows with their number.
const BATCH: usize = 1_000;

/// How many acceptors a listener gets, at most, where very many are to wait.
const ACCEPTORS: usize = 50_000;

/// The grace of the pools that are stopped.
const GRACE: Duration = Duration::from_secs(30);

/// Runs what is named; returns whether there is such a thing.
pub(super) fn run(what: &str, number: usize) -> bool {
    match what {
        "events-children" => events(number, 1),
        "events-acceptors" => events_of_acceptors(number),
        "events-listeners" => events(0, number),
        "events-bare" => events_bare(number),
        "memory-connection" => memory_connection(number),
        "memory-acceptor" => memory_acceptor(number),
        "memory-listener" => memory_listener(number),
        "stop-drained" => stop(number, Leave::Draining),
        "stop-signal" => stop(number, Leave::Signal),
        "stop-dropped" => stop(number, Leave::Never),
        "stop-bare" => stop_bare(number),
        _ => return false,
    }
    true
}

/// CPU time of this thread so far, if the system says it, as exact as its clock ticks; else the time of day.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|first| first.parse().ok());
    nanos.map_or_else(since_start, Duration::from_nanos)
}

fn since_start() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn connections() -> usize {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let number = arguments.nth(2).and_then(|number| number.parse().ok());
    number.unwrap_or(CONNECTIONS)
}

fn print_events(connections: usize, began: Duration) {
    let events = 2 * connections;
    let took = cpu().saturating_sub(began).as_secs_f64();
    println!("events_a_second {:.0}", events as f64 / took);
}

/// Opens that many connections and keeps them.
fn open(world: &World, port: &Port, number: usize) -> Vec<Stream> {
    let mut streams = Vec::with_capacity(number);
    while streams.len() < number {
        let batch = BATCH.min(number - streams.len());
        streams.extend(world.connect(port, batch));
    }
    streams
}

/// Connections come and go beside others that stay, at all listeners in turn.
fn events(children: usize, listeners: usize) {
    let world = World::serving();
    let ports: Vec<_> = (0..listeners).map(|_| world.listen(10).1).collect();
    let streams = open(&world, &ports[0], children);
    come_and_go(&world, &ports);
    assert_eq!(
        world.pool.counts().expect("it runs").connections,
        streams.len()
    );
}

/// The same beside acceptors that wait.
fn events_of_acceptors(acceptors: usize) {
    let world = World::serving();
    let ports = listen_with(&world, acceptors);
    come_and_go(&world, &ports);
    assert_eq!(world.pool.counts().expect("it runs").connections, 0);
}

/// Opens as many listeners as are needed for that many acceptors.
fn listen_with(world: &World, acceptors: usize) -> Vec<Port> {
    let mut ports = Vec::new();
    let mut left = acceptors;
    while left > 0 {
        let here = left.min(ACCEPTORS);
        ports.push(world.listen(here).1);
        left -= here;
    }
    ports
}

fn come_and_go(world: &World, ports: &[Port]) {
    let once = |port: &Port| {
        for stream in world.connect(port, 1) {
            stream.end();
        }
        world.runtime.settle();
    };
    // The first of each listener is not measured: memory is made ready then.
    let far = 1.max(ports.len() / CONNECTIONS);
    let ports: Vec<_> = ports.iter().step_by(far).collect();
    for port in ports.iter().cycle().take(CONNECTIONS) {
        once(port);
    }
    let (number, began) = (connections(), cpu());
    measured(|| {
        for port in ports.iter().cycle().take(number) {
            once(port);
        }
    });
    print_events(number, began);
}

/// Bare tasks come and go beside others that stay, as an accept loop without a pool would have them.
fn events_bare(children: usize) {
    let runtime = ByHand::new();
    let port = Port::default();
    listen_bare(&runtime, &port);
    let streams = open_bare(&runtime, &port, children);
    let once = || {
        for stream in open_bare(&runtime, &port, 1) {
            stream.end();
        }
        runtime.settle();
    };
    for _ in 0..CONNECTIONS {
        once();
    }
    let (number, began) = (connections(), cpu());
    measured(|| {
        for _ in 0..number {
            once();
        }
    });
    print_events(number, began);
    drop(streams);
}

fn listen_bare(runtime: &ByHand, port: &Port) {
    use acceptor_core::Listener;
    let (spawns, port) = (runtime.clone(), port.clone());
    runtime.spawn(async move {
        while let Ok((stream, ())) = port.accept().await {
            spawns.spawn(async move { stream.ended().await });
        }
    });
    runtime.settle();
}

fn open_bare(runtime: &ByHand, port: &Port, number: usize) -> Vec<Stream> {
    let mut streams = Vec::with_capacity(number);
    while streams.len() < number {
        let batch = BATCH.min(number - streams.len());
        streams.extend((0..batch).map(|_| port.connect()));
        runtime.settle();
    }
    streams
}

fn print_bytes(before: usize, number: usize) {
    let more = HEAP.current_usage().saturating_sub(before);
    println!("bytes_each {:.1}", more as f64 / number.max(1) as f64);
}

/// What a connection takes, and how much of it a bare task takes.
fn memory_connection(number: usize) {
    let bare = {
        let runtime = ByHand::new();
        let port = Port::default();
        listen_bare(&runtime, &port);
        drop(open_bare(&runtime, &port, BATCH));
        let before = HEAP.current_usage();
        let streams = open_bare(&runtime, &port, number);
        let more = HEAP.current_usage().saturating_sub(before);
        drop(streams);
        more as f64 / number.max(1) as f64
    };
    let world = World::serving();
    let (_, port) = world.listen(10);
    let before = HEAP.current_usage();
    let streams = open(&world, &port, number);
    print_bytes(before, number);
    println!("bytes_each_bare {bare:.1}");
    drop(streams);
}

/// What an acceptor takes that waits.
fn memory_acceptor(number: usize) {
    let world = World::serving();
    let before = HEAP.current_usage();
    let ports = listen_with(&world, number);
    print_bytes(before, number);
    drop(ports);
}

/// What a listener takes with one acceptor, its own value and the task of its accept loop included.
fn memory_listener(number: usize) {
    let world = World::serving();
    world.listen(1);
    let before = HEAP.current_usage();
    for _ in 0..number {
        world.listen(1);
    }
    print_bytes(before, number);
}

/// When connections leave a pool that stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// By themselves, as soon as the pool drains, within the grace.
    Draining,
    /// When the stop signal comes, after the grace.
    Signal,
    /// They are dropped at the stop signal, which they have not trapped.
    Never,
}

/// A stop with a grace, from the call to the result.
fn stop(connections: usize, leave: Leave) {
    let serve = acceptor_fn(move |connection: Connection<Stream, ()>| async move {
        match leave {
            Leave::Draining => connection.lifecycle.draining().wait().await,
            Leave::Signal => connection.lifecycle.trap_stop().wait().await,
            Leave::Never => connection.stream.ended().await,
        }
        Ok(())
    });
    let runtime = ByHand::new();
    let spec = Spec::new("costs", serve).grace(GRACE);
    let pool = Pool::start(runtime.clone(), spec).expect("the spec is allowed");
    let world = World { runtime, pool };
    let (_, port) = world.listen(10);
    let streams = open(&world, &port, connections);
    let began = cpu();
    let report: StopReport<()> = measured(|| {
        let stopped = world.pool.stop();
        world.runtime.settle();
        // The listeners close, then the grace is over.
        for step in [Duration::from_millis(1); 3].into_iter().chain([GRACE]) {
            world.runtime.advance(step);
        }
        match pin!(stopped).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(report) => report,
            Poll::Pending => panic!("not all have ended"),
        }
    });
    let took = cpu().saturating_sub(began);
    assert_eq!(report.stuck, 0, "{report}");
    assert_eq!(report.all_connections().total(), connections, "{report}");
    println!("cpu_seconds {:.3}", took.as_secs_f64());
    drop(streams);
}

/// As many bare tasks that end at once, which is what the runtime and the streams take.
fn stop_bare(connections: usize) {
    let runtime = ByHand::new();
    let port = Port::default();
    listen_bare(&runtime, &port);
    let streams = open_bare(&runtime, &port, connections);
    let began = cpu();
    measured(|| {
        streams.iter().for_each(Stream::end);
        runtime.settle();
    });
    let took = cpu().saturating_sub(began);
    println!("cpu_seconds {:.3}", took.as_secs_f64());
}
