//! What the environment says of a server of `measure.sh`: `LISTENERS` and `WORKERS`, and after how many connections it is `WARM`.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Runtime};

static SERVED: AtomicUsize = AtomicUsize::new(0);

fn number(name: &str) -> usize {
    let number = std::env::var(name).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(0)
}

/// How many threads serve; none, unless the environment says so: all tasks run on the main thread.
pub(crate) fn workers() -> usize {
    number("WORKERS")
}

/// The addresses of the listeners but the first: its port, and the addresses that follow its own.
pub(crate) fn further_listeners(first: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let loopback = u32::from(Ipv4Addr::LOCALHOST);
    let number = u32::try_from(number("LISTENERS")).unwrap_or(u32::MAX);
    (1..number)
        .map(move |index| SocketAddrV4::new(Ipv4Addr::from(loopback + index), first.port()).into())
}

pub(crate) fn runtime() -> std::io::Result<Runtime> {
    match workers() {
        0 => Builder::new_current_thread().enable_all().build(),
        workers => Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build(),
    }
}

/// When to count from, and when to end.
#[derive(Clone, Copy)]
pub(crate) struct Count {
    connections: usize,
    warm: usize,
}

impl Count {
    pub(crate) fn new(connections: usize) -> Self {
        Self {
            connections,
            warm: number("WARM"),
        }
    }

    /// A connection has ended.
    pub(crate) fn served(self) {
        let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
        if served == self.connections {
            std::process::exit(0);
        }
        if served == self.warm {
            measured_from_here();
        }
    }
}

/// Callgrind is asked to forget what came before.
#[inline(never)]
fn measured_from_here() {
    black_box(());
}
