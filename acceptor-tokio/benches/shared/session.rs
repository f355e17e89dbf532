//! A session of a server of `measure.sh`, the same in the bare loop and in the pool; and the arguments and the environment.
//!
//! The including program imports the runtime's `TcpStream`, and the traits to read and write it.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{AsyncReadExt, AsyncWriteExt, TcpStream};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

static SERVED: AtomicUsize = AtomicUsize::new(0);
static WARM: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn arguments() -> Vec<String> {
    std::env::args().skip(1).collect()
}

pub(crate) fn numbers(arguments: &[String]) -> Vec<usize> {
    arguments.iter().flat_map(|word| word.parse()).collect()
}

/// A number in the environment, 0 if it is not set.
pub(crate) fn setting(name: &str) -> usize {
    let number = std::env::var(name).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(0)
}

/// The addresses of the `LISTENERS` after the first: the same port, and the addresses that follow its own.
pub(crate) fn further_listeners(first: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let loopback = u32::from(Ipv4Addr::LOCALHOST);
    let number = u32::try_from(setting("LISTENERS")).unwrap_or(u32::MAX);
    (1..number)
        .map(move |index| SocketAddrV4::new(Ipv4Addr::from(loopback + index), first.port()).into())
}

/// How many connections to serve. Callgrind counts once the server has served `WARM` of them.
#[derive(Clone, Copy)]
pub(crate) struct Count(usize);

impl Count {
    pub(crate) fn new(connections: usize) -> Self {
        WARM.store(setting("WARM"), Ordering::Relaxed);
        Self(connections)
    }

    /// A connection has ended.
    pub(crate) fn served(self) {
        let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
        if served == self.0 {
            std::process::exit(0);
        }
        if served == WARM.load(Ordering::Relaxed) {
            measured_from_here();
        }
    }
}

/// Callgrind resets its counters here.
#[inline(never)]
fn measured_from_here() {
    black_box(());
}

pub(crate) async fn echo<const BUFFER: usize>(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}
