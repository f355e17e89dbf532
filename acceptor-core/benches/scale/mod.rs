//! The cost of one more connection, by the number of children and of listeners; the memory of each of
//! them; and the cost of stopping them all.
//!
//! A connection is two events, its beginning and its end. They come one at a time: a client connects, all tasks run until none is
//! ready, the connection ends, and they run again. So each beginning wakes an accept loop. The figures include the runtime that
//! is run by hand and the stream in memory; those of bare tasks on the same runtime are beside them.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use acceptor_core::{Connection, Spec, StopReport, acceptor_fn};

use super::{BATCH, ByHand, HEAP, Port, Stream, World, bare, connect, measured};

/// How many connections come and go before the measurement, and during it, unless the third argument says otherwise.
const CONNECTIONS: usize = 1_000;

/// The most acceptors that a listener gets in benchmarks with very many.
const ACCEPTORS: usize = 50_000;

/// The grace of the pools that are stopped.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the named benchmark; returns whether it exists.
pub(super) fn run(what: &str, number: usize) -> bool {
    match what {
        "events-children" => events(number, 1),
        "events-acceptors" => events_of_acceptors(number),
        "events-listeners" => events(0, number),
        "events-bare" => events_bare(number),
        "memory-connection" => memory_connection(number),
        "memory-acceptor" => {
            let world = World::serving();
            memory("bytes_each", number, || listen_with(&world, number));
        }
        "memory-listener" => memory_listener(number),
        "stop-drained" => stop(number, Leave::Draining),
        "stop-signal" => stop(number, Leave::Signal),
        "stop-dropped" => stop(number, Leave::Never),
        "stop-bare" => stop_bare(number),
        _ => return false,
    }
    true
}

/// The CPU time of this thread, if the system reports it, at the resolution of its clock; otherwise the time of day.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|first| first.parse().ok());
    nanos.map_or_else(since_start, Duration::from_nanos)
}

fn since_start() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// The result, and the seconds of CPU time.
fn timed<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let began = cpu();
    let result = measured(run);
    (result, cpu().saturating_sub(began).as_secs_f64())
}

/// Connections come and go while others stay, at all listeners in turn.
fn events(children: usize, listeners: usize) {
    let world = World::serving();
    let ports: Vec<_> = (0..listeners).map(|_| world.listen(10).1).collect();
    let _streams = connect(&world.runtime, &ports[0], children);
    come_and_go(&world.runtime, &ports);
    assert_eq!(world.pool.counts().expect("it runs").connections, children);
}

/// The same while acceptors wait.
fn events_of_acceptors(acceptors: usize) {
    let world = World::serving();
    let ports = listen_with(&world, acceptors);
    come_and_go(&world.runtime, &ports);
    assert_eq!(world.pool.counts().expect("it runs").connections, 0);
}

/// Bare tasks come and go while others stay, as with an accept loop without a pool.
fn events_bare(children: usize) {
    let (runtime, port) = bare();
    let _streams = connect(&runtime, &port, children);
    come_and_go(&runtime, &[port]);
}

/// Opens as many listeners as are needed for that many acceptors.
fn listen_with(world: &World, acceptors: usize) -> Vec<Port> {
    let listeners = (0..acceptors).step_by(ACCEPTORS);
    listeners
        .map(|before| world.listen(ACCEPTORS.min(acceptors - before)).1)
        .collect()
}

fn come_and_go(runtime: &ByHand, ports: &[Port]) {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let number = arguments.nth(2).and_then(|number| number.parse().ok());
    let number = number.unwrap_or(CONNECTIONS);
    let far = 1.max(ports.len() / CONNECTIONS);
    let ports: Vec<_> = ports.iter().step_by(far).collect();
    let serve = |connections| {
        for port in ports.iter().cycle().take(connections) {
            for stream in connect(runtime, port, 1) {
                stream.end();
            }
            runtime.settle();
        }
    };
    // The first connection of each listener is not measured: it allocates memory.
    serve(CONNECTIONS);
    let ((), took) = timed(|| serve(number));
    println!("events_a_second {:.0}", 2.0 * number as f64 / took);
}

/// Prints the bytes of each item that is made.
fn memory<T>(name: &str, number: usize, make: impl FnOnce() -> T) {
    let before = HEAP.current_usage();
    let _made = make();
    let more = HEAP.current_usage().saturating_sub(before);
    println!("{name} {:.1}", more as f64 / number.max(1) as f64);
}

/// The memory of a connection, and of a bare task.
fn memory_connection(number: usize) {
    let (runtime, port) = bare();
    drop(connect(&runtime, &port, BATCH));
    memory("bytes_each_bare", number, || {
        connect(&runtime, &port, number)
    });
    let (world, port, _) = World::with_connections(0);
    memory("bytes_each", number, || {
        connect(&world.runtime, &port, number)
    });
}

/// The memory of a listener with one acceptor, including its value and the task of its accept loop.
fn memory_listener(number: usize) {
    let world = World::serving();
    world.listen(1);
    memory("bytes_each", number, || {
        (0..number).for_each(|_| drop(world.listen(1)));
    });
}

/// When connections leave a pool that stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// By themselves, as soon as the pool is draining, within the grace.
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
    let world = World::of(Spec::new("costs", serve).grace(GRACE));
    let (_, port) = world.listen(10);
    let _streams = connect(&world.runtime, &port, connections);
    let (report, took): (StopReport<()>, f64) = timed(|| {
        let stopped = world.pool.stop();
        world.runtime.settle();
        // The listeners close, then the grace ends.
        for step in [Duration::from_millis(1); 3].into_iter().chain([GRACE]) {
            world.runtime.advance(step);
        }
        match pin!(stopped).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(report) => report,
            Poll::Pending => panic!("a connection has not ended"),
        }
    });
    assert_eq!(report.stuck, 0, "{report}");
    assert_eq!(report.all_connections().total(), connections, "{report}");
    println!("cpu_seconds {took:.3}");
}

/// As many bare tasks that end together: the cost of the runtime and the streams.
fn stop_bare(connections: usize) {
    let (runtime, port) = bare();
    let streams = connect(&runtime, &port, connections);
    let ((), took) = timed(|| {
        streams.iter().for_each(Stream::end);
        runtime.settle();
    });
    println!("cpu_seconds {took:.3}");
}
