//! A graceful close or stop loses no client that connected before it (L7), on each runtime: the tests of each adapter
//! include this file.
//!
//! The including file defines `echo_pool`, `listen` and `soon`.
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{echo_pool, listen, soon};

const ROUNDS: usize = 200;
const ACCEPTORS: usize = 10;
/// Longer than any stop here: if a client is not served, the test fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients that connect one after the other until the address refuses them.
struct Clients {
    connected: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn of(address: SocketAddr) -> Self {
        let (connected, stop) = (Arc::<Mutex<Vec<TcpStream>>>::default(), Arc::default());
        let threads = (0..2).map(|_| {
            let (connected, stop) = (Arc::clone(&connected), Arc::<AtomicBool>::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let Ok(client) = TcpStream::connect(address) else {
                        return;
                    };
                    connected.lock().unwrap().push(client);
                }
            })
        });
        let threads = threads.collect();
        Self {
            connected,
            stop,
            threads,
        }
    }

    /// Waits until some clients have connected, and returns how many.
    fn some(&self) -> usize {
        loop {
            let connected = self.connected.lock().unwrap().len();
            if connected >= 8 {
                return connected;
            }
            thread::yield_now();
        }
    }

    /// Stops new connections.
    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Checks that the first clients are served.
    #[track_caller]
    fn served(self, first: usize) {
        for thread in self.threads {
            thread.join().unwrap();
        }
        let mut clients = self.connected.lock().unwrap();
        for (number, client) in clients.iter_mut().enumerate().take(first) {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut back = [0; 5];
            let served = client
                .write_all(b"hello")
                .and_then(|()| client.read_exact(&mut back));
            served.unwrap_or_else(|error| panic!("client {number} of {first}: {error}"));
        }
        clients.clear();
    }
}

#[test]
fn close_serves_connected_clients() {
    let pool = echo_pool(Duration::from_secs(1));
    for _ in 0..ROUNDS {
        let (id, address) = listen(&pool, ACCEPTORS);
        let clients = Clients::of(address);
        let first = clients.some();
        let closed = pool.close_listener(id);
        // Otherwise each close would accept clients for a whole second.
        clients.stop();
        soon(closed).unwrap();
        clients.served(first);
    }
}

#[test]
fn stop_serves_connected_clients() {
    for _ in 0..ROUNDS {
        let pool = echo_pool(Duration::from_secs(1));
        let (_, address) = listen(&pool, ACCEPTORS);
        let clients = Clients::of(address);
        let first = clients.some();
        let stopped = pool.stop();
        clients.stop();
        clients.served(first);
        soon(stopped);
    }
}
